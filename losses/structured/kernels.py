"""Numba twins of the hot array code of the structured layers; what a kernel is, `minigrad/kernels.py` says."""

import numpy as np

from minigrad.kernels import kernel

# ---- the class-based softmax --------------------------------------------------------------------------------------


@kernel(fastmath={"reassoc", "contract"})  # sums may change their order, so that dot products become vectors
def class_rows(hidden, weight, bias, first, sizes, scores):
    """Twin of `class_based._class_rows`: sizes[i] rows of weight from first[i] on -> scores (B, L), the rest untouched.

    bias: (V,), or None. Each row is read where it lies.
    """
    for i in range(first.shape[0]):
        h = hidden[i]
        for j in range(sizes[i]):
            row, s = weight[first[i] + j], weight.dtype.type(0)
            for x in range(h.shape[0]):
                s += row[x] * h[x]
            scores[i, j] = s if bias is None else s + bias[first[i] + j]


@kernel(fastmath={"reassoc", "contract"})
def class_rows_gradients(g, hidden, weight, order, first, sizes, d_hidden, ids, d_rows, d_bias):
    """Twin of `class_based._class_rows_rule`: g (B, L) -> d_hidden (B, d), and for the n rows of all classes of the
    batch, each once, ids (n,), d_rows (n, d), d_bias (n,).

    order: the examples, those with the same class side by side. What they say of a row is summed while it is there.
    """
    batch, n = order.shape[0], 0
    d_hidden[:] = 0
    begin = 0
    while begin < batch:
        row_id, end = first[order[begin]], begin + 1
        while end < batch and first[order[end]] == row_id:
            end += 1
        for j in range(sizes[order[begin]]):
            row, d_row, total = weight[row_id + j], d_rows[n], g.dtype.type(0)
            for place in range(begin, end):
                i = order[place]
                h, d_h, G = hidden[i], d_hidden[i], g[i, j]
                total += G
                if place == begin:
                    for x in range(h.shape[0]):
                        d_row[x] = G * h[x]
                        d_h[x] += G * row[x]
                else:
                    for x in range(h.shape[0]):
                        d_row[x] += G * h[x]
                        d_h[x] += G * row[x]
            ids[n], d_bias[n] = row_id + j, total
            n += 1
        begin = end


@kernel
def ragged_softmax(scores, targets, sizes, losses, gradients):
    """Twin of `class_based._ragged_softmax`: the first sizes[i] scores of each row and no others are looked at.

    losses (B,), gradients (B, L), zero in the filling.
    """
    one = scores.dtype.type(1)
    for i in range(targets.shape[0]):
        n, row, g = sizes[i], scores[i], gradients[i]
        m = row[0]
        for j in range(1, n):
            m = max(m, row[j])
        total = scores.dtype.type(0)
        for j in range(n):
            g[j] = np.exp(row[j] - m)
            total += g[j]
        losses[i] = np.log(total) + (m - row[targets[i]])
        for j in range(n):
            g[j] /= total
        g[targets[i]] -= one
        for j in range(n, g.shape[0]):
            g[j] = 0


@kernel
def best_cuts(mass, last):
    """Twin of `class_based.best_cuts_naive`: mass (V + 1,), Q_j -> last (V + 1,), in O(V log V) instead of O(V²).

    A last class that begins later, and is as cheap for the first j words, is cheaper for more words: mass times size
    grows faster with the longer one. So the places i where the best last class begins rise with j, and a queue will do,
    of candidates i, each with the j from which on it is the best.
    """
    num_words = mass.shape[0] - 1
    cost = np.zeros(num_words + 1)  # f
    begins, best_from = np.empty(num_words + 1, np.int64), np.empty(num_words + 1, np.int64)
    head, tail = 0, 1  # the queue
    begins[0], best_from[0] = 0, 1

    def up_to(i, j):
        return cost[i] + 1.0 + (mass[j] - mass[i]) * (j - i)

    for j in range(1, num_words + 1):
        while head + 1 < tail and best_from[head + 1] <= j:
            head += 1
        last[j] = begins[head]
        cost[j] = up_to(last[j], j)
        while (
            head < tail
            and best_from[tail - 1] > j
            and up_to(j, best_from[tail - 1]) <= up_to(begins[tail - 1], best_from[tail - 1])
        ):
            tail -= 1
        low, high = j + 1, num_words + 1  # from where on j is better than the last candidate; V + 1: never
        if head < tail:
            low = max(low, best_from[tail - 1])
            while low < high:
                middle = (low + high) // 2
                if up_to(j, middle) < up_to(begins[tail - 1], middle):
                    high = middle
                else:
                    low = middle + 1
        if low <= num_words:
            begins[tail], best_from[tail] = j, low
            tail += 1
