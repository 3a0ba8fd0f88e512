"""Numba twins of the hot array code of the structured layers; what a kernel is, `minigrad/kernels.py` says."""

import heapq

import numpy as np

from minigrad.kernels import kernel

# ---- trees ------------------------------------------------------------------------------------------------------


@kernel
def climb(up, words, lengths, nodes, places, turns):
    """Twin of `trees.Tree.paths`: fills nodes (n,), places (n,), and turns (B, L) where a path goes."""
    num_words, at = (up.shape[0] + 1) // 2, 0
    for i in range(words.shape[0]):
        item = words[i]
        for j in range(lengths[i]):
            way = up[item]
            item = num_words + (way >> 1)
            nodes[at], places[at] = way >> 1, i * turns.shape[1] + j
            turns[i, j] = 1 - 2 * (way & 1)
            at += 1


@kernel(fastmath={"reassoc", "contract"})  # sums may change their order, so that dot products become vectors
def path_scores(hidden, weight, nodes, places, scores):
    """Twin of `hierarchical._path_scores` but for the bias: scores (B, L), each row read where it lies."""
    for j in range(nodes.shape[0]):
        i = places[j] // scores.shape[1]
        row, h, s = weight[nodes[j]], hidden[i], weight.dtype.type(0)
        for x in range(h.shape[0]):
            s += row[x] * h[x]
        scores[i, places[j] - i * scores.shape[1]] = s


@kernel(fastmath={"reassoc", "contract"})
def path_gradients(g, hidden, weight, nodes, places, d_hidden, d_rows):
    """Twin of `hierarchical._path_scores_rule`: g (B, L) -> d_hidden (B, d), zeros before, and d_rows (n, d)."""
    for j in range(nodes.shape[0]):
        i = places[j] // g.shape[1]
        G, row, h = g[i, places[j] - i * g.shape[1]], weight[nodes[j]], hidden[i]
        d_row, d_h = d_rows[j], d_hidden[i]
        for x in range(h.shape[0]):
            d_h[x] += G * row[x]
            d_row[x] = G * h[x]


@kernel(fastmath={"reassoc", "contract"})
def best_first(hidden, weight, bias, children, root, ids, scores, looked_at):
    """The search of `hierarchical.py`: fills ids (B, k), scores (B, k) and, how many nodes it took, looked_at (B,).

    bias: (V − 1,), or none, (0,). On the heap lie −log P of what has been come to, and which it is: the word w as w,
    the node n as −1 − n. So among equals nodes come before words, and words by their ids.
    """
    num_words = children.shape[0] + 1
    for i in range(hidden.shape[0]):
        h, found, looked_at[i] = hidden[i], 0, 0
        heap = [(weight.dtype.type(0), np.int64(-1 - root))]
        while found < ids.shape[1]:
            cost, item = heapq.heappop(heap)
            if item >= 0:
                ids[i, found], scores[i, found] = item, -cost
                found += 1
                continue
            node = -1 - item
            row, s = weight[node], weight.dtype.type(0)
            for x in range(h.shape[0]):
                s += row[x] * h[x]
            if bias.shape[0]:
                s += bias[node]
            small = np.log1p(np.exp(-abs(s)))
            for side in range(2):
                child = children[node, side]
                step = max(-s if side == 0 else s, weight.dtype.type(0)) + small  # −log σ(±s)
                heapq.heappush(heap, (cost + step, child if child < num_words else num_words - 1 - child))
            looked_at[i] += 1
