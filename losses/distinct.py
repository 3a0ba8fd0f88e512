"""Noise without repetition: how are k different words drawn, and how often was each of them to be expected?

Of k words drawn independently many are `the` again: the same row of W, the same score. TensorFlow's samplers
(`unique=True`) leave out repetitions, so that k rows are k words. But then a word can't occur more than once, and
k q(w) is no longer how often to expect it, which is the one thing that a loss has to know of its noise.

    q(w)  the probability of w in a draw of one word        S    the sample: w₁ … w_k, all different, of V words
    T_w   the time when w arrives                           E_w  exponential with mean 1, independent of the others
    Z     Σ_w f(w), to be estimated from S: with f(w) = e^{s_w}, the denominator of the softmax

Two ways to one law.
    (1)  Draw from q, throw away what came before. A new word is then drawn from q over what is left:
         P(w₁, …, w_k) = Π_i q(w_i) / (1 − q(w₁) − … − q(w_{i−1})).
    (2)  Or let all words run at once: w arrives at T_w = E_w / q(w), and the k soonest are S. The first is w with
         probability q(w), and as an exponential doesn't know how long it has waited, the rest begin their race anew:
         law (1). In logarithms, −log T_w = log q(w) + G_w, where G_w = −log E_w is Gumbel noise, and the k greatest
         are S: Gumbel top-k. No tries, but all V words have to run.

How often to expect a word.
    (3)  By the time τ, w has arrived with probability 1 − e^{−q(w) τ}.
    (4)  Hold w still and let the others run. If their k-th comes at τ, w is in S if and only if T_w < τ. Of w this τ
         knows nothing, so the probability is that of (3). And if w is in S, then τ is when the (k + 1)-th word of all
         arrives: one number for all of S. So 1[w ∈ S] / (1 − e^{−q(w) τ}) is 1 on average, and
             Ẑ = Σ_{w ∈ S} f(w) / (1 − e^{−q(w) τ}),   τ = e^{−κ}, κ the (k + 1)-th greatest of (2),   E Ẑ = Z
         (Kool, van Hoof, Welling, "Stochastic Beams and Where to Find Them", ICML 2019; before them, with uniform in
         place of exponential numbers, Duffield, Lund, Thorup, "Priority Sampling", JACM 2007). For k = V: τ = ∞.
    (5)  Its variance. Two words v, w are both in S if both come before the (k − 1)-th of the others, of which neither
         knows: the product of their terms is f(v) f(w) on average, they don't correlate. What is left is
         Var Ẑ = Σ_w f(w)² (E[1 / (1 − e^{−q(w) τ_w})] − 1),  τ_w the time of the k-th word other than w.
         It is 0 for k = V, and infinite for k = 1 < V: then τ_w has a density that isn't 0 at 0, 1 / (q τ) no mean.
         With replacement, Ẑ = Σ_j f(w_j) / (k q(w_j)) has (Σ_w f(w)² / q(w) − Z²) / k. So different words estimate Z
         the better only if k takes in a good part of V. Of ten words by Zipf's law, all with f = 1, the standard
         deviation of Ẑ is 0.42 Z for k = 5, with replacement 0.35 Z; for k = 8 it is 0.19 Z against 0.28 Z.

A race of k words instead of V.
    (6)  Let the draws of (1) come at random times, independent, one a unit of time on average. Then w comes q(w) times
         a unit, whatever the others do, and first at a T_w as in (2). So if the times between are drawn too, each as
         −log(1 − u), that of the (k + 1)-th new word is the τ of (4): `Unique(base, exact=True)`, and V is nowhere.
    (7)  TensorFlow's samplers count the tries N until the k-th new word and expect w 1 − (1 − q(w))^N times. For an N
         fixed beforehand that is exact (and the number of new words chance). But here S has decided N; and it is the
         k-th new word, where (4) waits for the (k + 1)-th: too soon, so for most words too little, and they weigh too
         much. Of ten words by Zipf's law and k = 5, on average over all draws, the rarest weighs 16 % too much in (4),
         the most frequent 1 % too little.
    (8)  Both are 1 − e^{−rate}: the rate is q(w) τ in (4), −N log(1 − q(w)) in (7), which for a small q is q(w) N.
         Of a small rate it is nearly the rate; expm1 keeps its digits.

Cost of a draw:  (1), (6), (7) as many tries as it takes, hardly more than k where q is even and k ≪ V;  (2) V
exponentials.  Where q is so uneven that tries outnumber words, (2) is the better.
"""

import math

from minigrad import backend
from minigrad.backend import type_of_array, xp_of

from . import kernels

LEAST = 2.0**-54  # in place of a uniform number that is 0, the chance of which is 2⁻⁵³: E_w would be 0, G_w infinite


def exponential(u: type_of_array) -> type_of_array:
    """u uniform on [0, 1) -> exponential numbers with mean 1, positive."""
    xp = xp_of(u)
    return -xp.log1p(-xp.maximum(u, LEAST))


# ---- (1): draws, of which the first of each word counts ----------------------------------------------------------


def first_of_each(words: type_of_array, times: type_of_array, k: int) -> tuple[type_of_array, type_of_array]:
    """words (n, m), drawn at times (n, m), which rise: the first k different ones of each row, (n, k), and their times.

    Where a row has fewer, it is filled up with −1 at the time inf, which is overlooked if it comes again in `words`.
    """
    if not backend.on_cpu(words):
        return first_of_each_by_sorting(words, times, k)
    xp, shape = xp_of(words), (len(words), k)
    first = xp.empty(shape, "int64"), xp.empty(shape)
    kernels.first_of_each(words, times, k, *first)
    return first


def first_of_each_by_sorting(words, times, k):
    """The same in array code. Equal words come to stand side by side, the earliest first."""
    xp = xp_of(words)
    order = xp.argsort(words, axis=1, kind="stable")
    words, times = xp.take_along_axis(words, order, axis=1), xp.take_along_axis(times, order, axis=1)
    new = xp.concatenate([xp.ones((len(words), 1), bool), words[:, 1:] != words[:, :-1]], axis=1)
    times = xp.where(new, times, math.inf)
    order = xp.argsort(times, axis=1, kind="stable")[:, :k]
    words, times = xp.take_along_axis(words, order, axis=1), xp.take_along_axis(times, order, axis=1)
    return xp.where(times < math.inf, words, -1), times


# ---- (2): all words at once --------------------------------------------------------------------------------------


def gumbel_keys(u: type_of_array, log_q: type_of_array) -> type_of_array:
    """log q(w) + G_w, the G from uniform numbers u (…, V); −inf for what is never drawn."""
    return log_q - xp_of(u).log(exponential(u))  # (2)


def top_k(keys: type_of_array, k: int) -> tuple[type_of_array, type_of_array]:
    """The places of the k greatest keys (…, V), best first: (…, k). And κ, the (k + 1)-th greatest: (…)."""
    xp, v = xp_of(keys), keys.shape[-1]
    if k < v:
        places = xp.argpartition(keys, v - k - 1, axis=-1)[..., v - k - 1 :]  # (…, k + 1), κ's the first
        kappa, places = xp.take_along_axis(keys, places[..., :1], axis=-1)[..., 0], places[..., 1:]
    else:
        kappa, places = xp.full(keys.shape[:-1], -math.inf), xp.broadcast_to(xp.arange(v), keys.shape)
    order = xp.argsort(-xp.take_along_axis(keys, places, axis=-1), axis=-1, kind="stable")
    return xp.take_along_axis(places, order, axis=-1), kappa


# ---- (4), (7): how often to expect a word --------------------------------------------------------------------------


def log_count(rate: type_of_array) -> type_of_array:
    """log(1 − e^{−rate}) (8)."""
    xp = xp_of(rate)
    with backend.quiet():  # log 0 = −inf is right for what is never drawn
        return xp.log(-xp.expm1(-rate))


def rate_of_threshold(log_q: type_of_array, kappa: type_of_array) -> type_of_array:
    """(4): q τ = e^{log q − κ}. Nothing for a word that is never drawn, not even when all the others are (κ = −inf)."""
    xp = xp_of(log_q)
    with backend.quiet():
        return xp.where(log_q == -math.inf, 0.0, xp.exp(log_q - kappa))


def rate_of_tries(q: type_of_array, tries: type_of_array) -> type_of_array:
    """(7): −N log(1 − q). Infinite for q = 1."""
    with backend.quiet():
        return -tries * xp_of(q).log1p(-q)


# In PyTorch. The trap: torch.multinomial(q, k) draws by (1) as well, but doesn't tell κ, and without it nobody knows
# how often each word was to be expected: with k q(w), as if they were independent, frequent words weigh too little.
IN_PYTORCH = """
import torch

gumbel = -torch.empty_like(q).exponential_().log()        # q (V,), float64
keys, ids = (q.log() + gumbel).topk(k + 1)
ids, kappa = ids[:k], keys[k]                             # of k + 1 keys the last is only the threshold
counts = -torch.expm1(-torch.exp(q[ids].log() - kappa))   # not 1 - exp(-rate): 0 for a rare word
Z = (torch.exp(scores[ids]) / counts).sum()               # unbiased, for k >= 2 with a finite variance
"""
