"""Numba twins of the hot array code of the structured layers; what a kernel is, `minigrad/kernels.py` says."""

import heapq

import numpy as np

from minigrad.kernels import kernel

# ---- the class-based softmax --------------------------------------------------------------------------------------


@kernel(fastmath={"reassoc", "contract"})  # sums may change their order, so that dot products become vectors
def class_rows(hidden, weight, bias, first, sizes, scores):
    """Twin of `class_based._class_rows`: sizes[i] rows of weight from first[i] on -> scores (B, n), the rest untouched.

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
    """Twin of `partitions.best_cuts_naive`: mass (V + 1,), Q_j -> last (V + 1,), in O(V log V) instead of O(V²).

    A last class that begins later, and is as cheap for the first j words, is no dearer for more words: mass times size
    grows as fast with the longer one, or faster. So the places i where the best last class begins rise with j, and a
    queue will do, of candidates i, each with the j from which on it is the best.
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


@kernel
def cheapest_path(scores, outputs, path, full, numbers, costs):
    """Twin of `error_correcting.cheapest_paths` for k = 1, to the last bit: numbers (B, 1), costs (B, 1).

    outputs (2^(r+1), 2) the bits of each window, path (K, 2) as `limit_path` has it, full: V is 2^K. The polynomials
    all begin and end with 1. So a window with another first or another last bit has both outputs the other way round:
    of the four windows between states 2j, 2j + 1 and j, j + 2^(r−1), two cost a and two cost b. Numbers are as wide as
    costs, and which of two is kept is no jump: then the loop over j becomes vectors.
    """
    half, zero, num_bits = outputs.shape[0] // 4, scores.dtype.type(0), path.shape[0]
    first, second = np.empty(half, scores.dtype), np.empty(half, scores.dtype)
    for j in range(half):  # 1 for an output 0, −1 for 1: times z it is what the output costs, or less than 0
        first[j], second[j] = 1 - 2 * outputs[2 * j, 0], 1 - 2 * outputs[2 * j, 1]
    cost, new_cost = np.empty(2 * half, scores.dtype), np.empty(2 * half, scores.dtype)
    number, new_number = np.empty(2 * half, numbers.dtype), np.empty(2 * half, numbers.dtype)

    def window_cost(w, z0, z1):
        return max(z0 if outputs[w, 0] == 0 else -z0, zero) + max(z1 if outputs[w, 1] == 0 else -z1, zero)

    for i in range(scores.shape[0]):
        cost[:], number[:] = np.inf, 0
        cost[0] = zero if full else np.inf
        limit, prefix, states = zero, 0, half
        for t in range(num_bits):
            z0, z1 = scores[i, 2 * t], scores[i, 2 * t + 1]
            for j in range(half):
                a = max(first[j] * z0, zero) + max(second[j] * z1, zero)
                b = max(-first[j] * z0, zero) + max(-second[j] * z1, zero)
                m, n = number[2 * j], number[2 * j + 1]
                x, y = cost[2 * j] + a, cost[2 * j + 1] + b  # a 0 goes in
                other = (y < x) | ((y == x) & (n < m))
                new_cost[j], new_number[j] = y if other else x, 2 * (n if other else m)
                x, y = cost[2 * j] + b, cost[2 * j + 1] + a  # a 1
                other = (y < x) | ((y == x) & (n < m))
                new_cost[half + j], new_number[half + j] = y if other else x, 2 * (n if other else m) + 1
            on, off = path[t]
            if off >= 0:
                branch, s = limit + window_cost(off, z0, z1), off >> 1
                if branch < new_cost[s]:  # among equals the other one: its number is below V's so far
                    new_cost[s], new_number[s] = branch, 2 * prefix
            limit += window_cost(on, z0, z1)
            prefix = 2 * prefix + (on >= 2 * half)
            cost, new_cost, number, new_number = new_cost, cost, new_number, number
        for t in range(num_bits, scores.shape[1] // 2):
            z0, z1 = scores[i, 2 * t], scores[i, 2 * t + 1]
            for j in range(states):
                a = max(first[j] * z0, zero) + max(second[j] * z1, zero)
                b = max(-first[j] * z0, zero) + max(-second[j] * z1, zero)
                m, n = number[2 * j], number[2 * j + 1]
                x, y = cost[2 * j] + a, cost[2 * j + 1] + b
                other = (y < x) | ((y == x) & (n < m))
                new_cost[j], new_number[j] = y if other else x, n if other else m
            states //= 2
            cost, new_cost, number, new_number = new_cost, cost, new_number, number
        numbers[i, 0], costs[i, 0] = number[0], cost[0]


@kernel
def cheapest_paths(scores, outputs, path, full, numbers, costs):
    """Twin of `error_correcting.cheapest_paths`: numbers (B, k), costs (B, k). Where two states meet two lists do."""
    num_states, k, zero = outputs.shape[0] // 2, numbers.shape[1], scores.dtype.type(0)
    cost, new_cost = np.empty((num_states, k), scores.dtype), np.empty((num_states, k), scores.dtype)
    number, new_number = np.empty((num_states, k), numbers.dtype), np.empty((num_states, k), numbers.dtype)

    def window_cost(w, z0, z1):
        return max(z0 if outputs[w, 0] == 0 else -z0, zero) + max(z1 if outputs[w, 1] == 0 else -z1, zero)

    for i in range(scores.shape[0]):
        cost[:], number[:] = np.inf, 0
        cost[0, 0] = zero if full else np.inf
        limit, prefix, states = zero, 0, num_states
        for t in range(scores.shape[1] // 2):
            z0, z1, information = scores[i, 2 * t], scores[i, 2 * t + 1], t < path.shape[0]
            states = num_states if information else states // 2
            for s in range(states):
                a, b = window_cost(2 * s, z0, z1), window_cost(2 * s + 1, z0, z1)
                one, other = 2 * s % num_states, (2 * s + 1) % num_states
                p = q = 0
                for place in range(k):
                    x, y = cost[one, p] + a, cost[other, q] + b
                    if y < x or (y == x and number[other, q] < number[one, p]):
                        new_cost[s, place], new_number[s, place], q = y, number[other, q], q + 1
                    else:
                        new_cost[s, place], new_number[s, place], p = x, number[one, p], p + 1
                if information:
                    for place in range(k):
                        new_number[s, place] = 2 * new_number[s, place] + (2 * s >= num_states)
            if information:
                on, off = path[t]
                if off >= 0:  # as in a sort by insertion
                    branch, s, place = limit + window_cost(off, z0, z1), off >> 1, k
                    while place > 0 and branch < new_cost[s, place - 1]:
                        place -= 1
                        if place < k - 1:
                            new_cost[s, place + 1], new_number[s, place + 1] = new_cost[s, place], new_number[s, place]
                    if place < k:
                        new_cost[s, place], new_number[s, place] = branch, 2 * prefix
                limit += window_cost(on, z0, z1)
                prefix = 2 * prefix + (on >= num_states)
            cost, new_cost, number, new_number = new_cost, cost, new_number, number
        for place in range(k):
            numbers[i, place], costs[i, place] = number[0, place], cost[0, place]


@kernel
def sum_of_paths(scores, outputs, path, full, sums):
    """What `error_correcting.log_sum_of_paths` finds, but Σ e^−cost: sums (B,) float64, right if above 1e-200.

    A cost is |z_b| for each bit that is not as the sign says, so that the sum is e^0 for the best string of bits.

    What falls below 1e-290 is taken for 0: numbers near the end of float64 are slow.
    """
    half, num_bits = outputs.shape[0] // 4, path.shape[0]
    first, second = np.empty(half), np.empty(half)
    for j in range(half):  # 1 for an output 0, −1 for 1
        first[j], second[j] = 1 - 2 * outputs[2 * j, 0], 1 - 2 * outputs[2 * j, 1]
    p, new_p = np.empty(2 * half), np.empty(2 * half)

    def window_factor(w, if_00, if_01, if_10, if_11):
        return (if_00 if outputs[w, 0] == 0 else if_01) * (if_10 if outputs[w, 1] == 0 else if_11)

    for i in range(scores.shape[0]):
        p[:] = 0.0
        p[0] = 1.0 if full else 0.0
        limit, states = 1.0, half
        for t in range(scores.shape[1] // 2):
            z0, z1 = np.float64(scores[i, 2 * t]), np.float64(scores[i, 2 * t + 1])
            if_00, if_01 = np.exp(min(-z0, 0.0)), np.exp(min(z0, 0.0))  # e^−cost of the first output, 0 or 1
            if_10, if_11 = np.exp(min(-z1, 0.0)), np.exp(min(z1, 0.0))
            if t < num_bits:
                for j in range(half):
                    a = (if_00 if first[j] > 0.0 else if_01) * (if_10 if second[j] > 0.0 else if_11)
                    b = (if_01 if first[j] > 0.0 else if_00) * (if_11 if second[j] > 0.0 else if_10)
                    x, y = p[2 * j], p[2 * j + 1]
                    with_0, with_1 = x * a + y * b, x * b + y * a
                    new_p[j] = with_0 if with_0 > 1e-290 else 0.0
                    new_p[half + j] = with_1 if with_1 > 1e-290 else 0.0
                on, off = path[t]
                if off >= 0:
                    new_p[off >> 1] += limit * window_factor(off, if_00, if_01, if_10, if_11)
                limit *= window_factor(on, if_00, if_01, if_10, if_11)
            else:
                for j in range(states):
                    a = (if_00 if first[j] > 0.0 else if_01) * (if_10 if second[j] > 0.0 else if_11)
                    b = (if_01 if first[j] > 0.0 else if_00) * (if_11 if second[j] > 0.0 else if_10)
                    with_0 = p[2 * j] * a + p[2 * j + 1] * b
                    new_p[j] = with_0 if with_0 > 1e-290 else 0.0
                states //= 2
            p, new_p = new_p, p
        sums[i] = p[0]
