"""Numba twins of the hot array code.

Each hot loop of the library exists twice: as array code, which is the text and runs on either device, and as a kernel
here, the footnote, used on the CPU because it was measured to be faster. A property test holds the two equal, to
the last bit where both add in the same order.

Numba is imported, and a kernel compiled, when the kernel is first called; the compiled code is kept on disk.
"""

from collections.abc import Callable
from functools import wraps

import numpy as np


def kernel(function: Callable) -> Callable:
    """Compiles `function` with Numba when it is first called."""
    compiled = None

    @wraps(function)
    def call(*args):
        nonlocal compiled
        if compiled is None:
            import numba

            options = {"nogil": True, "error_model": "numpy"}  # x / 0 is inf, as in array code, and loops vectorise
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
