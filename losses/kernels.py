"""Numba twins of the hot array code of Part II; what a kernel is, `minigrad/kernels.py` says."""

import numpy as np

from minigrad.kernels import kernel


@kernel
def draw_alias(bucket_words, coin_words, table, out):
    """Twin of `samplers.Unigram._sample_alias`: one pass, to the last bit.

    bucket_words, coin_words: two uint32 words a draw. table (V, 2): keep and alias of each bucket side by side, so that
    a draw waits for memory once. Which of its two words it is becomes a product: a jump would be mispredicted every
    other time, and cost four times the rest.
    """
    vocab_size = np.float64(table.shape[0])
    for i in range(out.shape[0]):
        a, b = np.float64(bucket_words[2 * i] >> np.uint32(5)), np.float64(bucket_words[2 * i + 1] >> np.uint32(6))
        bucket = np.int64((a * 67108864.0 + b) * 2.0**-53 * vocab_size)  # as `Key.integers` has it
        a, b = np.float64(coin_words[2 * i] >> np.uint32(5)), np.float64(coin_words[2 * i + 1] >> np.uint32(6))
        coin = (a * 67108864.0 + b) * 2.0**-53  # as `Key.uniform`
        out[i] = bucket + np.int64(coin >= table[bucket, 0]) * (np.int64(table[bucket, 1]) - bucket)


@kernel
def first_of_each(words, times, k, first_words, first_times):
    """Twin of `distinct.first_of_each_by_sorting`, into (n, k) arrays: a table of what was seen instead of two sorts.

    A word's place in the table is the highest bits of its product with 2⁶⁴ / 1.618…, or the next that is free.
    """
    bits = 2
    while (1 << bits) < 2 * k:  # never more than half full
        bits += 1
    shift, last = np.uint64(64 - bits), (1 << bits) - 1
    seen = np.empty(1 << bits, np.int64)
    for i in range(words.shape[0]):
        seen[:] = -1
        found = 0
        for j in range(words.shape[1]):
            if times[i, j] == np.inf:  # only there to fill up an earlier row
                continue
            word = words[i, j]
            place = np.int64((np.uint64(word) * np.uint64(0x9E3779B97F4A7C15)) >> shift)
            while seen[place] != word and seen[place] != -1:
                place = (place + 1) & last
            if seen[place] == -1:
                seen[place] = first_words[i, found] = word
                first_times[i, found] = times[i, j]
                found += 1
                if found == k:
                    break
        first_words[i, found:], first_times[i, found:] = -1, np.inf


@kernel(fastmath={"reassoc", "contract"})  # sums may change their order, so that dot products become vectors
def row_scores(hidden, weight, ids, scores):
    """Twin of `layer._row_scores`, ids (B, k): each row of W is read where it lies, and nowhere written down again."""
    for i in range(ids.shape[0]):
        h = hidden[i]
        for j in range(ids.shape[1]):
            row, s = weight[ids[i, j]], weight.dtype.type(0)
            for x in range(h.shape[0]):
                s += row[x] * h[x]
            scores[i, j] = s


@kernel(fastmath={"reassoc", "contract"})
def row_gradients(g, hidden, weight, ids, d_hidden, d_rows):
    """Twin of `layer._row_scores_rule`: g (B, k, 1) -> d_hidden (B, d), d_rows (B, k, d). Each row is read once."""
    for i in range(ids.shape[0]):
        h, d_h = hidden[i], d_hidden[i]
        for x in range(h.shape[0]):
            d_h[x] = 0
        for j in range(ids.shape[1]):
            row, d_row, G = weight[ids[i, j]], d_rows[i, j], g[i, j, 0]
            for x in range(h.shape[0]):
                d_h[x] += G * row[x]
                d_row[x] = G * h[x]


@kernel(fastmath={"reassoc", "contract", "nsz"})  # sums may change their order, so that dot products become vectors
def skipgram(vectors, outputs, vector_sums, output_sums, ids, sentence, reach, noise, rates, eps, window, begin, end):
    """Twin of `skipgram.learn_naive` for the places begin, …, end − 1: returns how many pairs and how many updates.

    Steps (1) to (6) of `skipgram.py`: vectors is U, outputs W, inputs c₁ … c_m, targets t, n₁ … n_k. noise: of these
    places, (end − begin, k). Without sums (None) it is SGD, with them Adagrad. window: the largest reach. Rows go four
    at a time, so that a number that is loaded is used four times; what fills up to four is a row of zeros (in O), or
    has the weight zero (for H). σ in float32 is from a polynomial, off by (4 + 1.25 |s|) 2⁻²⁴ of itself at most down
    to s = −87, and 2⁻¹²⁶ from there on.
    """
    d, k, num_tokens, dtype = vectors.shape[1], noise.shape[1], ids.shape[0], vectors.dtype
    zero, one, eps = dtype.type(0), dtype.type(1), dtype.type(eps)
    max_inputs, num_targets = (2 * window + 3) // 4 * 4, (1 + k + 3) // 4 * 4
    inputs, targets = np.empty(max_inputs, np.int64), np.empty(num_targets, np.int64)
    H, O, g = np.zeros((max_inputs, d), dtype), np.zeros((num_targets, d), dtype), np.empty(d, dtype)  # noqa: E741
    G, GT = np.zeros((max_inputs, num_targets), dtype), np.zeros((num_targets, max_inputs), dtype)

    def gather(table, ids, n, rows):
        for i in range(n):
            row, copy = table[ids[i]], rows[i]
            for x in range(d):
                copy[x] = row[x]

    def sigmoid(flat, n):
        if vectors.itemsize != 4:
            for i in range(n):
                flat[i] = one / (one + np.exp(-flat[i]))
            return
        for i in range(n):  # e^−s = 2^y = 2^⌊y + ½⌋ · e^(f ln 2), |f| ≤ ½: an exponent, and the series of exp
            y = flat[i] * np.float32(-1.4426950408889634)  # −s / ln 2
            y = min(max(y, np.float32(-126.0)), np.float32(126.0))  # the exponents that float32 has
            whole = np.floor(y + np.float32(0.5))
            f = np.float32(y - whole)
            p = np.float32(1.5252733804059841e-05)  # (ln 2)⁷ / 7!
            p = p * f + np.float32(1.5403530393381608e-04)
            p = p * f + np.float32(1.3333558146428443e-03)
            p = p * f + np.float32(9.6181291076284772e-03)
            p = p * f + np.float32(5.5504108664821576e-02)
            p = p * f + np.float32(2.4022650695910072e-01)
            p = p * f + np.float32(6.9314718055994529e-01)
            p = p * f + np.float32(1.0)
            # 2^whole, by its bits: whole + 127, and 23 zeros of a fraction behind it
            power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
            flat[i] = one / (one + p * power)

    def add_weighted(out, scale, weights, rows, n):
        for j in range(0, n, 4):
            w0, w1, w2, w3 = scale * weights[j], scale * weights[j + 1], scale * weights[j + 2], scale * weights[j + 3]
            r0, r1, r2, r3 = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
            for x in range(d):
                out[x] += w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x]

    def sgd(table, ids, n, weights, rows, num_rows, lr):
        for i in range(n):
            add_weighted(table[ids[i]], -lr, weights[i], rows, num_rows)

    def adagrad(table, sums, ids, n, weights, rows, num_rows, lr):
        for i in range(n - 1, -1, -1):  # from the end: when the first of equal words is reached, it holds their sum
            first = 0
            while ids[first] != ids[i]:
                first += 1
            if first < i:  # (6) equal words are put together before anything is squared
                for j in range(num_rows):
                    weights[first, j] += weights[i, j]
                continue
            for x in range(d):
                g[x] = zero
            add_weighted(g, one, weights[i], rows, num_rows)
            row, s = table[ids[i]], sums[ids[i]]
            for x in range(d):
                s[x] += g[x] * g[x]
                row[x] -= lr * g[x] / (np.sqrt(s[x]) + eps)

    pairs = updates = 0
    for i in range(begin, end):
        m = 0
        for j in range(max(0, i - reach[i]), min(num_tokens, i + reach[i] + 1)):  # (1)
            if j != i and sentence[j] == sentence[i]:
                inputs[m] = ids[j]
                m += 1
        if m == 0:
            continue
        targets[0] = ids[i]
        for j in range(k):
            targets[1 + j] = noise[i - begin, j]
        gather(vectors, inputs, m, H)  # copies: the old values, whatever is written below
        gather(outputs, targets, 1 + k, O)
        for a in range(m):  # (2) S, in the place of G
            h = H[a]
            for b in range(0, num_targets, 4):
                o0, o1, o2, o3 = O[b], O[b + 1], O[b + 2], O[b + 3]
                s0 = s1 = s2 = s3 = zero
                for x in range(d):
                    s0 += h[x] * o0[x]
                    s1 += h[x] * o1[x]
                    s2 += h[x] * o2[x]
                    s3 += h[x] * o3[x]
                G[a, b], G[a, b + 1], G[a, b + 2], G[a, b + 3] = s0, s1, s2, s3
            G[a, 0] = -G[a, 0]  # −s_t, so that σ below gives σ(−s_t)
        sigmoid(G.reshape(G.size), m * num_targets)
        for a in range(m):  # (3)
            G[a, 0] = -G[a, 0]  # σ(s) − 1 = −σ(−s), without a loss of digits where σ is nearly 1
            for b in range(1 + k):
                GT[b, a] = G[a, b]
        for b in range(1 + k):
            for a in range(m, (m + 3) // 4 * 4):
                GT[b, a] = zero  # for H holds older rows there; O has zeros where there are no words
        lr = dtype.type(rates[i])
        if vector_sums is None:  # (4), (5), (6)
            sgd(vectors, inputs, m, G, O, num_targets, lr)
            sgd(outputs, targets, 1 + k, GT, H, m, lr)
        else:
            adagrad(vectors, vector_sums, inputs, m, G, O, num_targets, lr)
            adagrad(outputs, output_sums, targets, 1 + k, GT, H, m, lr)
        pairs += m
        updates += 1
    return pairs, updates
