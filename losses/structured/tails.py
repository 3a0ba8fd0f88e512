"""The softmax of a tail: over very many words, for few examples, with few numbers each. Exactly, and in the cache.

In the adaptive softmax (`adaptive.py`) a cluster of rare words is visited by those examples only whose target lies
there: n of them, some dozens, and each has become a short vector h of m numbers, perhaps two. The matrix product that
gives k scores an example is then hardly work at all: m multiply-adds a score. What costs is to write n k scores to main
memory and read them back: for their maximum, to subtract it, for the exponentials, for their sum, and for the gradient.
So here a piece of the scores, small enough for the cache, goes through all of that before the next is begun.

    h   (m,) an example's vector, H (n, m)       W   (k, m) the words' rows          t   the target, a row of W
    s_w the score W_w · h                        L   the loss, −log p_t              g   ∂/∂L, one number an example

    (1)  L = log Σ_v e^{s_v} − s_t = log Σ_v e^{s_v − s_t}.  Any number c in the place of s_t gives the same if it is
         taken off again:  L = log Σ_v e^{s_v − c} − log e^{s_t − c}.  `softmax.py` takes the greatest score, which is
         known when all scores are; here c = h · W_t, computed beforehand, and one pass over the scores is enough.
    (2)  With e_v = e^{s_v − c} and l = Σ_v e_v, p_v = e_v / l. So ∂L/∂h = Σ_v e_v W_v / l − W_t, and word v's row has
         the gradient Σ (g / l) e_v h, summed over the examples, less g h where it is the target.
    (3)  The price: e^{s_v − c} overflows if s_v is greater than s_t by 88 (float64: 709), which is a loss of 88. And
         before it does, an e_v that is finite may overflow times W_v, and a small g vanish when it is divided by l. So
         where l exceeds the root of the greatest number, which is a loss of 44 (354), or e_t, 1 but for rounding, falls
         below its inverse, and on a GPU, which has no such cache, the way of `softmax.py` is taken.

A piece is kept as (words, n): a word's scores stand in a row, as its numbers do in W, and so W H^T and e (H g / l) are
products of matrices as they lie in memory. It is small enough, too, for BLAS to multiply it as it is, without copying
it first into an order of its own.

Cost: 3 n k m multiply-adds and n k exponentials, as everywhere; n k numbers are written once and read once.
"""

import math
from collections.abc import Iterator
from typing import Any

import minigrad as mg
from minigrad.backend import on_cpu, quiet, type_of_array, xp_of
from minigrad.ids import check_ids
from minigrad.rows import add_rows

from ..softmax import full_softmax

PIECE = 1 << 16  # scores in a piece, so that it stays in the cache
UNPACKED = 1_000_000  # multiply-adds of a product that OpenBLAS does without copying its factors


def pieces(num_words: int, n: int, m: int) -> Iterator[slice]:
    """Slices of the words, for n examples of m numbers each."""
    step = max(1, min(PIECE, UNPACKED // max(1, m)) // max(1, n))
    return (slice(i, i + step) for i in range(0, num_words, step))


def _exponentials(hidden, weight, targets) -> tuple[type_of_array, type_of_array]:
    """e (k, n) and l (n,) of (2)."""
    xp, (n, m), k = xp_of(hidden), hidden.shape, len(weight)
    c = (hidden * weight[targets]).sum(axis=1)  # (1)
    columns = xp.ascontiguousarray(hidden.T)  # (m, n)
    e, total, spread = xp.empty((k, n), hidden.dtype), xp.zeros(n, hidden.dtype), None
    for words in pieces(k, n, m):
        some = xp.matmul(weight[words], columns, out=e[words])  # (words, n)
        if spread is None:
            spread = xp.empty_like(some)
            spread[:] = c  # written out: NumPy is slow with rows so short
            ones = xp.ones(len(some), some.dtype)
        some -= spread[: len(some)]
        xp.exp(some, out=some)
        total += ones[: len(some)] @ some
    return e, total


def _forward(hidden, weight, *, targets):
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets must have shape ({len(hidden)},), got {list(targets.shape)}")
    check_ids("targets", targets, len(weight))
    xp = xp_of(hidden)
    if on_cpu(hidden) or not len(hidden):
        with quiet():
            e, total = _exponentials(hidden, weight, targets)
            log_l, log_e_t = xp.log(total), xp.log(e[targets, xp.arange(len(hidden))])
        limit = math.log(xp.finfo(hidden.dtype).max) / 2
        if (log_l <= limit).all() and (log_e_t >= -limit).all():  # (3); no NaN is
            return log_l - log_e_t, (e, total)  # (1)
    return full_softmax.op.forward(hidden, weight, 0.0, targets=targets, chunk=None)


def _rule(g, y, residual, hidden, weight, *, targets):
    if residual is None or len(residual) != 2:
        return full_softmax.op.joint(g, y, residual, hidden, weight, 0.0, targets=targets, chunk=None)[:2]
    xp, (e, total) = xp_of(hidden), residual
    share = (g / total)[:, None]  # (n, 1)
    d_hidden, d_weight, hidden_share = xp.zeros_like(hidden), xp.empty_like(weight), hidden * share
    for words in pieces(len(weight), *hidden.shape):  # (2)
        xp.matmul(e[words], hidden_share, out=d_weight[words])
        d_hidden += e[words].T @ weight[words]
    d_hidden *= share
    d_hidden -= weight[targets] * g[:, None]
    return d_hidden, add_rows(d_weight, targets, hidden * g[:, None], -1.0)


_tail_softmax = mg.primitive("tail_softmax", _forward, joint=_rule)


def tail_softmax(hidden: Any, weight: Any, targets: type_of_array) -> Any:
    """−log p_t of the softmax over the scores W h, without a bias: hidden (n, m), weight (k, m), targets (n,) -> (n,).

    The same as `full_softmax`, and as exact, but for rounding.
    """
    return _tail_softmax(hidden, weight, targets=targets)
