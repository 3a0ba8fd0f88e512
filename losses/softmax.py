"""The softmax, exactly: what every other chapter avoids computing, and how to do without its biggest array.

The slide: P(x | h) = e^{s(x | h)} / Σ_x̃ e^{s(x̃ | h)}, and of the sum: "this is expensive, would like to approximate".
This page approximates nothing. With V = 100,000 words that sum is where a language model spends its time, and the
scores of a batch are the biggest array it ever holds.

    h   (d,) the context;  t the right word              V       words in the vocabulary, B examples in a batch
    s   (V,) the scores, s_w = W_w · h + b_w             p       (V,) the softmax of s
    m   the greatest of some scores s_v                  l       Σ e^{s_v − m} over the same
    L   the loss of one example                          G       (V,) its gradient ∂L/∂s

The loss.
    (1)  p_w = e^{s_w} / Σ_v e^{s_v},   L = −log p_t = log Σ_v e^{s_v} − s_t.
    (2)  A constant added to every score cancels:  log Σ_v e^{s_v} = m + log Σ_v e^{s_v − m}.  With m the greatest score
         no exponential exceeds 1, so none overflows, and the sum l is at least 1, so its logarithm is finite:
            L = log l − (s_t − m),
         in this order, for m + log l would be rounded to the digits of m, which may be large.

Its gradient.
    (3)  G_w = e^{s_w} / Σ_v e^{s_v} − 1[w = t] = p_w − 1[w = t].  The numbers add up to zero: a step against G raises
         s_t by as much as it lowers all others together. As 0 < p_w < 1 no G_w is zero, and each of the V rows of W has
         a gradient, G_w h, to be computed and written. That is the cost.

In chunks. The scores of a batch are B V numbers: with B = 128 and V = 1,000,000 in float32 512 MB (and as much again
for p, unless it overwrites them, as it does here). But beside s_t, one dot product, (2) needs them only as a maximum
and a sum, and these can be had a chunk of the vocabulary at a time.
    (4)  A chunk C becomes the pair m = max_C s, l = Σ_C e^{s_v − m}. Two chunks without a common word become one by
            (m, l) ⊕ (m', l') = (M, l e^{m − M} + l' e^{m' − M}),   M = max(m, m').
         l e^m is Σ_C e^{s_v}, whatever m is: ⊕ takes the maximum of the one and adds the other. So, like these, it is
         associative and commutative, and (−∞, 0), no words at all, changes nothing. The chunks may come in any order,
         be merged in any grouping, or lie on different machines.
    (5)  On the way back each chunk's scores are computed again, one matrix product more, and p_w = e^{s_w − m} / l at
         once, for m and l of the whole vocabulary are known by now. So B V numbers are never in memory, only B · chunk.
         (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, have (4); Wijmans et al., "Cut
         Your Losses in Large-Vocabulary Language Models", ICLR 2025, do all of it in one GPU kernel.)

Cost of a step: 3 B V d multiply-adds and B V exponentials, in chunks 4 B V d and 2 B V. Memory beyond W and its
gradient: B V numbers, in chunks B · chunk and a few times B d. All V rows of W are read, and all have a gradient.
"""

import math
from collections.abc import Iterator
from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import on_cpu, quiet, type_of_array, xp_of
from minigrad.rows import add_rows
from minigrad.rules import p_minus_one

from .layer import OutputLayer

# ---- the naive way: the slide's formula, left to the engine ------------------------------------------------------


def softmax_naive(scores: Any, targets: type_of_array) -> Any:
    """(1) as it stands: scores (B, V), targets (B,) -> loss (B,). NaN or infinite where a score is 1000."""
    exponentials = mg.exp(scores)  # (B, V)
    p = exponentials / exponentials.sum(axis=1, keepdims=True)  # (B, V)
    return -mg.log(mg.take_along_axis(p, targets[:, None], axis=1)[:, 0])  # (B,)


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def softmax_cross_entropy(scores: Any, targets: type_of_array) -> tuple[Any, Any]:
    """Loss (2) and gradient (3): scores (B, V), targets (B,) integers -> loss (B,), G (B, V)."""
    shifted = scores - mg.max(scores, axis=1, keepdims=True)  # (2): s − m, of s_t too
    loss = mg.logsumexp(shifted, axis=1) - mg.take_along_axis(shifted, targets[:, None], axis=1)[:, 0]
    return loss, p_minus_one(scores, targets)  # (3)


def merge(one: tuple, other: tuple) -> tuple:
    """(4): two pairs (m, l) of arrays of one shape become one; (−∞, 0) stands for no words at all."""
    (m, l), (m_other, l_other) = one, other  # noqa: E741
    xp = xp_of(m)
    top = xp.maximum(m, m_other)
    shift = xp.where(xp.isfinite(top), top, 0.0).astype(top.dtype)  # −∞ − (−∞) is no number
    return top, l * xp.exp(m - shift) + l_other * xp.exp(m_other - shift)


# ---- the fast way: scores, loss and all gradients in one operation --------------------------------------------------

CACHED = 1 << 17  # numbers of which maximum, exponentials and sum are taken, before the next: so many stay in the cache


def _exponentials(scores: type_of_array, bias: Any) -> tuple[type_of_array, type_of_array]:
    """(m, l) of each row of scores + bias, (B,) both; `scores` (B, V) become e^(scores + bias − m), in place."""
    xp = xp_of(scores)
    m, l = xp.empty(len(scores), scores.dtype), xp.empty(len(scores), scores.dtype)  # noqa: E741
    step = max(1, CACHED // scores.shape[1]) if on_cpu(scores) else len(scores)
    for i in range(0, len(scores), step):
        some = scores[i : i + step]
        if bias is not None:
            some += bias
        m[i : i + step] = some.max(axis=1)
        some -= m[i : i + step, None]
        xp.exp(some, out=some)
        l[i : i + step] = some.sum(axis=1)
    return m, l


def _forward(hidden, weight, bias, *, targets, chunk):
    """Loss (B,); and for the way back (e^(s − m) (B, V), or None if it is to be computed again, m (B,), l (B,))."""
    xp, bias = xp_of(hidden), None if isinstance(bias, float) else bias  # 0.0: no bias, for a primitive takes no None
    if chunk is None:
        scores = hidden @ weight.T  # (B, V)
        right = scores[xp.arange(len(hidden)), targets] + (0.0 if bias is None else bias[targets])  # (B,)
        m, l = _exponentials(scores, bias)  # noqa: E741
        return xp.log(l) - (right - m), (scores, m, l)  # (2)
    right = (hidden * weight[targets]).sum(axis=1) + (0.0 if bias is None else bias[targets])  # (B,)
    m, l = xp.full(len(hidden), -math.inf, hidden.dtype), xp.zeros(len(hidden), hidden.dtype)  # noqa: E741
    for here, scores in _chunks(hidden, weight, chunk):
        pair = _exponentials(scores, None if bias is None else bias[here])
        m, l = merge((m, l), pair)  # (4)  # noqa: E741
    return xp.log(l) - (right - m), (None, m, l)


def _rule(g, y, residual, hidden, weight, bias, *, targets, chunk):
    """(3), with g = ∂/∂L for each example: g G W is for h, (g G)ᵀ h for W, Σ g G over the batch for b.

    G is never made: p is e^(s − m) / l, and g / l, one number for each example, multiplies the (B, d) arrays, not the
    (B, V) one. Only if there is no residual, for derivatives of derivatives, B V numbers are made, chunks or not.
    """
    if residual is None:
        G = g.reshape((-1, 1)) * p_minus_one(hidden @ weight.T + bias, targets)
        return G @ weight, G.T @ hidden, G.sum(axis=0)
    xp, (exponentials, m, l) = xp_of(hidden), residual  # noqa: E741
    bias = None if isinstance(bias, float) else bias
    d_hidden, d_weight = xp.zeros_like(hidden), xp.empty_like(weight)
    d_bias = None if bias is None else xp.empty_like(bias)
    share = g / l  # (B,)
    hidden_share = hidden * share[:, None]  # (B, d)
    pieces = [(slice(None), exponentials)] if chunk is None else _again(hidden, weight, bias, m, chunk)
    for here, e in pieces:  # (B, chunk)
        d_hidden += e @ weight[here]
        xp.matmul(e.T, hidden_share, out=d_weight[here])
        if bias is not None:
            d_bias[here] = share @ e
    d_hidden *= share[:, None]
    d_hidden -= weight[targets] * g[:, None]  # −1[w = t]
    add_rows(d_weight, targets, hidden * g[:, None], -1.0)
    if bias is not None:
        add_rows(d_bias, targets, g, -1.0)
    return d_hidden, d_weight, d_bias


def _again(hidden, weight, bias, m, chunk: int) -> Iterator[tuple[slice, type_of_array]]:
    """(5): the vocabulary in slices, each with its e^(s − m), (B, chunk)."""
    for here, scores in _chunks(hidden, weight, chunk):
        if bias is not None:
            scores += bias[here]
        scores -= m[:, None]
        yield here, xp_of(scores).exp(scores, out=scores)


def _chunks(hidden, weight, chunk: int) -> Iterator[tuple[slice, type_of_array]]:
    """The vocabulary in slices of `chunk` words, each with its scores but for the bias. A slice overwrites the last.

    Seen as (B, chunk), in memory they are (chunk, B), a word's in a row. So W in `W hᵀ` and the exponentials in `eᵀ h`
    stand on the left as they lie in memory, where BLAS is faster than with a long factor transposed on the right.
    """
    xp = xp_of(hidden)
    hidden = xp.ascontiguousarray(hidden.T)  # (d, B)
    memory = xp.empty((min(chunk, len(weight)), hidden.shape[1]), hidden.dtype)
    for i in range(0, len(weight), chunk):
        words = weight[i : i + chunk]
        yield slice(i, i + chunk), xp.matmul(words, hidden, out=memory[: len(words)]).T  # (B, chunk), a view


full_softmax = mg.primitive("full_softmax", _forward, joint=_rule)


class FullSoftmax(OutputLayer):
    """The exact softmax over `vocab_size` words for contexts of `dim` numbers.

    chunk: None to hold all B · V scores at once, or how many words of the vocabulary to take at a time, (4) and (5):
    the same loss and gradients but for rounding, in B · chunk memory, for one more matrix product. counts: not used.
    key, bias: see `OutputLayer`.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        counts: Any = None,
        key: mg.Key,
        chunk: int | None = None,
        bias: bool = True,
    ):
        super().__init__(vocab_size, dim, counts=counts, key=key, bias=bias)
        self.chunk = None if chunk is None else whole("losses.FullSoftmax: chunk", chunk)

    def loss(self, hidden, targets, *, key=None, reduction="mean"):
        """−log p_t for hidden (B, d) and targets (B,): a scalar, or (B,) with reduction="none". Needs no key."""
        hidden, targets = self._for_loss(hidden, targets)
        bias = 0.0 if self.bias is None else self.bias
        with quiet():  # scores that overflow are an error in `_reduced`
            losses = full_softmax(hidden, self.weight, bias, targets=targets, chunk=self.chunk)
        return self._reduced(losses, reduction, hidden)


# In PyTorch. The trap: F.cross_entropy takes scores, not probabilities; given softmax(s) it learns, slowly and wrongly,
# and nothing warns. (And nn.NLLLoss takes log-probabilities, whatever its name says.)
IN_PYTORCH = """
import torch
import torch.nn.functional as F

out = torch.nn.Linear(d, V)                               # W (V, d) and b (V,)

scores = out(hidden)                                      # (B, V)
loss = F.cross_entropy(scores, targets, reduction="none") # scores, not softmax(scores)
loss.mean().backward()
"""
