"""All that can be drawn, each outcome with its chance: how a mean over noise becomes a sum.

Tests and `consistency.py` use it to say what a sampled loss does on average, exactly. Each law of drawing lists its
draws of noise for a small vocabulary, their probabilities, and how often each word was to be expected among the k: the
one thing that a loss is told of its sampler.

Legend: V words, q(w) the probability of word w as noise, k noise words, M draws of noise that can happen in m columns,
N = M V outcomes, each a target and its noise. Cost: V^k draws with replacement, which is why V is small.
"""

import math
from collections.abc import Callable
from itertools import combinations, combinations_with_replacement, permutations, product
from typing import Any, NamedTuple

from minigrad.backend import asarray, to_cpu, type_of_array, xp_of

MOST = 2_000_000  # outcomes


class Noise(NamedTuple):
    """All draws of noise that can happen, M of them."""

    words: type_of_array  # (M, m) ids
    chance: type_of_array  # (M,)
    log_counts: type_of_array  # (V,) or (M, V): how often each word was to be expected in this draw, the logarithm
    absent: Any = None  # (M, m) booleans: columns that hold no word in this draw


class Draw(NamedTuple):
    """All that can happen in the one context: N outcomes, each a target and its noise."""

    k: int
    chance: type_of_array  # (N,), sums to one
    targets: type_of_array  # (N,)
    noise: type_of_array  # (N, m); m is k but for `inclusion` and `every_word`, where it is V
    log_q_target: type_of_array  # (N,)
    log_q_noise: type_of_array  # (N, m)
    log_count_target: type_of_array  # (N,): how often to expect it among the noise, log(k q) for independent draws
    log_count_noise: type_of_array  # (N, m)
    hits: type_of_array  # (N, m) booleans: noise that happens to be the target
    absent: type_of_array  # (N, m) booleans: columns that hold no word


def _few_enough(law: str, q: type_of_array, k: int, draws: float) -> None:
    if draws * len(q) > MOST:
        raise ValueError(
            f"losses.outcomes.{law}: {len(q)} words and k = {k} have too many outcomes to add up, over {MOST:,}"
        )


def _distinct(law: str, q: type_of_array, k: int) -> list[tuple[int, ...]]:
    """Each way in which k distinct words can come one after the other."""
    if k > len(q):
        raise ValueError(f"losses.outcomes.{law}: {k} distinct words cannot be drawn from {len(q)}")
    _few_enough(law, q, k, math.perm(len(q), k))
    return list(permutations(range(len(q)), k))


def with_replacement(q: type_of_array, k: int) -> Noise:
    """k words, each from q, independently: V^k sequences."""
    xp, v = xp_of(q), len(q)
    _few_enough("with_replacement", q, k, v**k)
    words = xp.arange(v**k)[:, None] // v ** xp.arange(k) % v  # (V^k, k): the digits of a number to the base V
    return Noise(words, q[words].prod(axis=1), xp.log(k * q))


def unordered(q: type_of_array, k: int) -> Noise:
    """The same, where order can't matter: one of each kind, in the order of their ids. k! / Π_w n_w! of that kind."""
    _few_enough("unordered", q, k, math.comb(len(q) + k - 1, k))
    kinds = list(combinations_with_replacement(range(len(q)), k))
    orders = [math.factorial(k) // math.prod(math.factorial(n.count(w)) for w in set(n)) for n in kinds]
    words = asarray(kinds)
    return Noise(words, asarray(orders, "float64") * q[words].prod(axis=1), xp_of(q).log(k * q))


def without_replacement(q: type_of_array, k: int) -> Noise:
    """k distinct words, one by one from what q leaves of the others. The counts are exact: the chance to be drawn."""
    xp, words = xp_of(q), asarray(_distinct("without_replacement", q, k))
    of_each = q[words]  # (M, k)
    chance = (of_each / (1.0 - xp.cumsum(of_each, axis=1) + of_each)).prod(axis=1)
    drawn = (words[:, :, None] == xp.arange(len(q))).any(axis=1)  # (M, V)
    return Noise(words, chance, xp.log((chance[:, None] * drawn).sum(axis=0)))


def tries(q: type_of_array, k: int) -> Noise:
    """As `samplers.Unique`: draws with replacement until there are k distinct words. Each number of tries is a draw.

    The counts are log(1 − (1 − q)^tries). More tries than have a chance of 10⁻¹⁵ together are not followed.
    """
    words, chance, how_many, probs = [], [], [], to_cpu(q).tolist()
    kinds, rarest = _distinct("tries", q, k), sum(sorted(probs)[: len(probs) - k + 1])  # the chance of one that is new
    _few_enough("tries", q, k, len(kinds) * (k + 42 / rarest))  # e^−42 < 10⁻¹⁸
    for kind in kinds:
        done = [1.0]  # done[n]: the chance that the words so far took n tries, and are these
        for i, word in enumerate(kind):
            stay, waiting, longer = sum(probs[w] for w in kind[:i]), 0.0, []
            while len(longer) < len(done) or waiting > 1e-18:
                longer.append(probs[word] * waiting)
                waiting = waiting * stay + (done[len(longer) - 1] if len(longer) <= len(done) else 0.0)
            done = longer
        words += [kind] * len(done[k:])
        chance += done[k:]
        how_many += range(k, len(done))
    xp = xp_of(q)
    log_counts = xp.log(-xp.expm1(asarray(how_many, "float64")[:, None] * xp.log1p(-q)))  # (M, V)
    return Noise(asarray(words), asarray(chance), log_counts)


def times(q: type_of_array, k: int) -> Noise:
    """As `samplers.GumbelTopK` and `Unique(exact=True)`: the k words that arrive first, w at a time of the rate q(w).

    The counts are log(1 − e^{−q τ}), τ the time of the next arrival, for k = V never. Each step of an eighth in log τ
    is a draw: the trapezoidal rule, right to 10⁻¹² and better for what is as smooth as this.
    """
    xp, v = xp_of(q), len(q)
    sets = list(combinations(range(v), k)) if k <= v else _distinct("times", q, k)
    if k == v:
        return Noise(asarray(sets), xp.ones(1), xp.zeros(v))
    log_τ = xp.arange(-22.0, math.log(40.0 / float(to_cpu(q).min())), 0.125)  # e^−40 and e^{−22 (k + 1)} are as nothing
    _few_enough("times", q, k, len(sets) * len(log_τ))
    log_π = xp.log(-xp.expm1(-q * xp.exp(log_τ)[:, None]))  # (T, V): to have come by τ
    inside = asarray([[w in kind for w in range(v)] for kind in sets])[:, None]  # (n, 1, V)
    rate = xp.where(inside, 0.0, q).sum(axis=2)  # (n, 1): of the next one
    log_chance = xp.where(inside, log_π, -q * xp.exp(log_τ)[:, None]).sum(axis=2) + xp.log(rate) + log_τ  # (n, T)
    kept = log_chance > -60.0
    words = xp.broadcast_to(asarray(sets)[:, None], (*kept.shape, k))[kept]
    return Noise(words, 0.125 * xp.exp(log_chance[kept]), xp.broadcast_to(log_π, (*kept.shape, v))[kept])


def inclusion(q: type_of_array, k: int) -> Noise:
    """A set: each word is in it or not, independently, with the chance π = 1 − (1 − q)^k. Column w is word w."""
    xp, v = xp_of(q), len(q)
    _few_enough("inclusion", q, k, 2**v)
    pi = 1.0 - (1.0 - q) ** k
    inside = asarray(list(product([False, True], repeat=v)))  # (2^V, V)
    words = xp.broadcast_to(xp.arange(v), inside.shape)
    return Noise(words, xp.where(inside, pi, 1.0 - pi).prod(axis=1), xp.log(pi), ~inside)


def every_word(q: type_of_array, k: int) -> Noise:
    """No chance in it: all V words, once."""
    xp = xp_of(q)
    return Noise(xp.arange(len(q))[None], xp.ones(1), xp.zeros(len(q)))


DISTINCT = (without_replacement, tries, times)  # for k up to V


def all_outcomes(p: type_of_array, q: type_of_array, k: int, draws: Callable = with_replacement) -> Draw:
    """Each target of p with each draw of noise, and what a sampler would say of them."""
    noise, xp, v = draws(q, k), xp_of(p), len(p)
    m = len(noise.chance)
    which, targets = xp.arange(v * m) // v, xp.arange(v * m) % v  # the target's probability doesn't depend on the noise
    words, log_q = noise.words[which], xp.log(q)
    log_counts = xp.broadcast_to(noise.log_counts, (m, v))
    absent = xp.zeros(noise.words.shape, bool) if noise.absent is None else noise.absent
    return Draw(
        k=k,
        chance=p[targets] * noise.chance[which],
        targets=targets,
        noise=words,
        log_q_target=log_q[targets],
        log_q_noise=log_q[words],
        log_count_target=log_counts[which, targets],
        log_count_noise=log_counts[which[:, None], words],
        hits=words == targets[:, None],
        absent=absent[which],
    )
