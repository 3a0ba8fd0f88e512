"""Numba twins of the hot array code.

Each hot loop of the library exists twice: as array code, which is the text and runs on either device, and as a kernel
here, the footnote, used on the CPU because it was measured to be faster. A property test holds the two equal, to
the last bit where both add in the same order.

Numba is imported, and a kernel compiled, when the kernel is first called; the compiled code is kept on disk.
"""

from collections.abc import Callable
from functools import partial, wraps

import numpy as np


def kernel(function: Callable | None = None, **options) -> Callable:
    """Compiles `function` with Numba when it is first called. `@kernel`, or `@kernel(option=…)` with njit's options."""
    if function is None:
        return partial(kernel, **options)
    options = {"nogil": True, "error_model": "numpy"} | options  # x / 0 is inf, as in array code, and loops vectorise
    compiled = None

    @wraps(function)
    def call(*args):
        nonlocal compiled
        if compiled is None:
            import numba

            try:
                compiled = numba.njit(cache=True, **options)(function)
            except RuntimeError:  # no folder in which compiled code could be kept
                compiled = numba.njit(**options)(function)
        return compiled(*args)

    return call


@kernel
def add_rows(out, ids, values, scale):
    """Twin of `rows.add_rows`, for two-dimensional arrays.

    `np.add.at` pays its general machinery for every element; here the inner loop runs over one row.
    """
    for i in range(ids.shape[0]):
        out_row, row = out[ids[i]], values[i]
        for j in range(out.shape[1]):
            out_row[j] += scale * row[j]


@kernel
def adagrad_rows(w, s, ids, g, lr, eps):
    """Twin of `Adagrad._update_rows`, for rows of which each id occurs once: one pass instead of eight."""
    for i in range(ids.shape[0]):
        w_row, s_row, g_row = w[ids[i]], s[ids[i]], g[i]
        for j in range(w.shape[1]):
            s_row[j] += g_row[j] * g_row[j]
            w_row[j] -= lr * g_row[j] / (np.sqrt(s_row[j]) + eps)


@kernel
def sgd(w, g, lr):
    """Twin of `SGD._update`: w − lr · g in one pass, without an array for lr · g. Of flat arrays, as the next three."""
    for i in range(w.shape[0]):
        w[i] -= lr * g[i]


@kernel
def momentum(w, v, g, lr, mu):
    """Twin of `SGD._update` with momentum: one pass instead of four."""
    for i in range(w.shape[0]):
        v[i] = v[i] * mu + g[i]
        w[i] -= lr * v[i]


@kernel
def adagrad(w, s, g, lr, eps):
    """Twin of `Adagrad._update`: one pass instead of seven."""
    for i in range(w.shape[0]):
        s[i] += g[i] * g[i]
        w[i] -= lr * g[i] / (np.sqrt(s[i]) + eps)


@kernel
def adam(w, m, v, g, first, rest_of_first, second, rest_of_second, lr, unbias, eps):
    """Twin of `Adam._moved`: one pass instead of thirteen."""
    for i in range(w.shape[0]):
        m[i] = first * m[i] + rest_of_first * g[i]
        v[i] = second * v[i] + rest_of_second * (g[i] * g[i])
        w[i] -= lr * m[i] / (np.sqrt(unbias * v[i]) + eps)


@kernel
def adam_rows(w, m, v, ids, g, first, rest_of_first, second, rest_of_second, lr, unbias, eps):
    """The same for rows (n, d), of which each id occurs once."""
    for i in range(ids.shape[0]):
        w_row, m_row, v_row, g_row = w[ids[i]], m[ids[i]], v[ids[i]], g[i]
        for j in range(w.shape[1]):
            m_row[j] = first * m_row[j] + rest_of_first * g_row[j]
            v_row[j] = second * v_row[j] + rest_of_second * (g_row[j] * g_row[j])
            w_row[j] -= lr * m_row[j] / (np.sqrt(unbias * v_row[j]) + eps)


@kernel(fastmath={"reassoc", "contract"})  # sums may change their order, so that they become vectors
def cross_entropy(s, t, losses, gradients):
    """Twin of `numerics.cross_entropy`: scores (n, V), targets (n,) -> losses (n,), softmax − 1[· = t] (n, V).

    A row stays in the cache from its maximum to its gradient. Compilers know no exponential of a vector, so in float32
    it is made of what they know: e^x = 2^⌊u + ½⌋ · 2^f with u = x / ln 2 and |f| ≤ ½, an exponent's bits and the series
    of 2^f up to f⁷: off by (3 + 1.25 |x|) 2⁻²⁴ of its value at most, as u is rounded; and 2⁻¹²⁶ from e^−87 on, where
    float32 ends.
    """
    one, single = s.dtype.type(1), s.itemsize == 4
    bits = np.empty(s.shape[1], np.int32)
    powers = bits.view(np.float32)
    for i in range(s.shape[0]):
        row, g = s[i], gradients[i]
        m = row[0]
        for j in range(1, s.shape[1]):
            m = max(m, row[j])
        total = s.dtype.type(0)
        if single:
            for j in range(s.shape[1]):
                u = max((row[j] - m) * np.float32(1.4426950408889634), np.float32(-126.0))
                whole = np.floor(u + np.float32(0.5))
                f = u - whole
                p = np.float32(1.5252733804059841e-05)  # (ln 2)⁷ / 7!, and so on down to (ln 2) / 1!
                p = p * f + np.float32(1.5403530393381608e-04)
                p = p * f + np.float32(1.3333558146428443e-03)
                p = p * f + np.float32(9.6181291076284772e-03)
                p = p * f + np.float32(5.5504108664821576e-02)
                p = p * f + np.float32(2.4022650695910072e-01)
                p = p * f + np.float32(6.9314718055994529e-01)
                g[j] = p * f + np.float32(1.0)
                bits[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)  # 2^whole, read as a float
            for j in range(s.shape[1]):
                g[j] *= powers[j]
                total += g[j]
        else:
            for j in range(s.shape[1]):
                g[j] = np.exp(row[j] - m)
                total += g[j]
        losses[i] = np.log(total) + (m - row[t[i]])
        scale = one / total
        for j in range(s.shape[1]):
            g[j] *= scale
        g[t[i]] -= one


@kernel(fastmath={"reassoc", "contract"})
def softmax(s, logs, p):
    """Twin of `numerics.logsumexp` and `numerics.softmax` of the rows of s (n, m), float32: log Σ e^s, softmax s.

    logs (n,), p (n, m). The exponential is that of `cross_entropy`, but 0 where float32 ends, below e^−87: what has no
    probability has none to the last bit. Returns False, and leaves the work to the array code, if s is not finite.
    """
    zero, one = np.float32(0), np.float32(1)
    bits = np.empty(s.shape[1], np.int32)
    powers = bits.view(np.float32)
    for i in range(s.shape[0]):
        row, e = s[i], p[i]
        m, nothing = row[0], zero
        for j in range(s.shape[1]):
            m = max(m, row[j])
            nothing += row[j] * zero  # NaN, if one of them is not finite
        if nothing != zero:
            return False
        total = zero
        for j in range(s.shape[1]):
            u = max((row[j] - m) * np.float32(1.4426950408889634), np.float32(-127.0))
            whole = np.floor(u + np.float32(0.5))
            f = u - whole
            q = np.float32(1.5252733804059841e-05)
            q = q * f + np.float32(1.5403530393381608e-04)
            q = q * f + np.float32(1.3333558146428443e-03)
            q = q * f + np.float32(9.6181291076284772e-03)
            q = q * f + np.float32(5.5504108664821576e-02)
            q = q * f + np.float32(2.4022650695910072e-01)
            q = q * f + np.float32(6.9314718055994529e-01)
            e[j] = q * f + np.float32(1.0)
            bits[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)  # 2^whole; of −127 it is 0
        for j in range(s.shape[1]):
            e[j] *= powers[j]
            total += e[j]
        logs[i] = m + np.log(total)
        scale = one / total
        for j in range(s.shape[1]):
            e[j] *= scale
    return True


@kernel
def coalesce(ids, order, values, unique, sums):
    """Twin of `Rows.coalesce`; order: the places of `ids` so that these rise, equal ones as they came.

    Fills the first rows of unique (n,) and sums (n, d), and returns how many.
    """
    n = 0
    for i in order:
        row = values[i]
        if n > 0 and unique[n - 1] == ids[i]:
            total = sums[n - 1]
            for j in range(values.shape[1]):
                total[j] += row[j]
        else:
            unique[n], total = ids[i], sums[n]
            n += 1
            for j in range(values.shape[1]):
                total[j] = row[j]
    return n


@kernel
def threefry_words(key0, key1, out):
    """Twin of `rng.words`: fills `out` with the first words of a key's stream.

    Twenty rounds of array code write twenty times two whole arrays. Here 512 blocks go through a group of four rounds
    at a time: they fit into the first-level cache, and the inner loop is one that compilers turn into vectors.
    """
    k0, k1, full = np.uint32(key0), np.uint32(key1), np.uint32(32)
    schedule = (k0, k1, np.uint32(k0 ^ k1 ^ np.uint32(0x1BD11BDA)))
    x = np.empty((2, 512), np.uint32)
    num_blocks = (out.shape[0] + 1) // 2
    for begin in range(0, num_blocks, 512):
        n = min(512, num_blocks - begin)
        for i in range(n):
            x[0, i] = np.uint32(begin + i) + k0
            x[1, i] = np.uint32((begin + i) >> 32) + k1
        for group in range(5):
            if group % 2 == 0:
                r1, r2, r3, r4 = np.uint32(13), np.uint32(15), np.uint32(26), np.uint32(6)
            else:
                r1, r2, r3, r4 = np.uint32(17), np.uint32(29), np.uint32(16), np.uint32(24)
            add0 = schedule[(group + 1) % 3]
            add1 = np.uint32(schedule[(group + 2) % 3] + np.uint32(group + 1))
            for i in range(n):
                x0, x1 = x[0, i], x[1, i]
                x0 = np.uint32(x0 + x1)
                x1 = np.uint32((x1 << r1) | (x1 >> (full - r1))) ^ x0
                x0 = np.uint32(x0 + x1)
                x1 = np.uint32((x1 << r2) | (x1 >> (full - r2))) ^ x0
                x0 = np.uint32(x0 + x1)
                x1 = np.uint32((x1 << r3) | (x1 >> (full - r3))) ^ x0
                x0 = np.uint32(x0 + x1)
                x1 = np.uint32((x1 << r4) | (x1 >> (full - r4))) ^ x0
                x[0, i], x[1, i] = x0 + add0, x1 + add1
        here = out[2 * begin : 2 * (begin + n)]
        for i in range(here.shape[0]):
            here[i] = x[i & 1, i >> 1]
