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
def threefry_words(key0, key1, out):
    """Twin of `rng.words`: fills `out` with the first words of a key's stream.

    Twenty rounds of array code write twenty times two whole arrays; here a block of two words stays in registers.
    """
    k0, k1 = np.uint32(key0), np.uint32(key1)
    k2 = np.uint32(k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    schedule = (k0, k1, k2)
    for block in range((out.shape[0] + 1) // 2):
        counter = np.uint64(block)
        x0 = np.uint32(np.uint32(counter & np.uint64(0xFFFFFFFF)) + k0)
        x1 = np.uint32(np.uint32(counter >> np.uint64(32)) + k1)
        for group in range(5):
            for turn in range(4):
                if group % 2 == 0:
                    r = np.uint32((13, 15, 26, 6)[turn])
                else:
                    r = np.uint32((17, 29, 16, 24)[turn])
                x0 = np.uint32(x0 + x1)
                x1 = np.uint32((x1 << r) | (x1 >> (np.uint32(32) - r))) ^ x0
            x0 = np.uint32(x0 + schedule[(group + 1) % 3])
            x1 = np.uint32(x1 + schedule[(group + 2) % 3] + np.uint32(group + 1))
        out[2 * block] = x0
        if 2 * block + 1 < out.shape[0]:
            out[2 * block + 1] = x1
