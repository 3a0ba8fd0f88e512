"""Drawing noise words: from q(w) ∝ 1, or q(w) ∝ count(w)^α, at a cost that doesn't grow with the vocabulary.

A sampled loss draws k noise words an example, so a draw must cost next to nothing beside k dot products. Legend: V
words, q(w) the probability of word w, u uniform on [0, 1).

Inverse CDF.  With F(w) = q(0) + … + q(w), the first w with F(w) > u has probability q(w).                    (1)
    A binary search finds it: O(log V) a draw, O(V) to prepare.

Alias method (Walker, Electronics Letters 1974; Vose, IEEE Transactions on Software Engineering 1991).
    Cut q into V buckets of mass 1/V, each holding at most two words: bucket i is word i with probability keep(i), and
    word alias(i) otherwise. Then                                                                             (2)
        q(w) = (keep(w) + Σ_{i : alias(i) = w} (1 − keep(i))) / V.
    It can always be done: a word with less than 1/V leaves room in its bucket, which one with more fills up. A draw
    takes a bucket and a coin: O(1), whatever V is. It takes *two* variates: one that serves for both has, at V = 10⁶,
    only a few bits left for the coin in float32.

Why α = 3/4?  Between uniform (α = 0), which draws words nobody says, and unigram (α = 1), which draws `the` again and
again; Mikolov et al. (NIPS 2013, §2.2) found 3/4 best, by trying.
"""

import math
from typing import Any

import minigrad as mg
from minigrad import backend
from minigrad.arguments import shape_of, whole
from minigrad.backend import read, type_of_array, xp_of
from minigrad.ids import placed_ids

from . import kernels


class Sampler:
    """A distribution over the ids 0 … V − 1 from which noise is drawn. probs: (V,) float64, sums to one."""

    def __init__(self, probs: type_of_array):
        self.probs, self.vocab_size = probs, len(probs)
        with backend.quiet():
            self._log_probs = xp_of(probs).log(probs)  # −inf for a word that is never drawn

    def sample(self, key: mg.Key, shape: int | tuple[int, ...]) -> type_of_array:
        """Independent draws, with replacement: int64 ids of `shape`. The same key, the same ids."""
        raise TypeError(f"losses.samplers.{type(self).__name__} cannot draw")

    def log_prob(self, ids: Any) -> type_of_array:
        """log q(ids), float64, of the shape of `ids`."""
        name = f"losses.samplers.{type(self).__name__}.log_prob: ids"
        ids = placed_ids(name, ids.data if isinstance(ids, mg.Tensor) else ids, self.vocab_size, self._log_probs)
        return self._log_probs[ids]


class Uniform(Sampler):
    """q(w) = 1/V."""

    def __init__(self, vocab_size: int):
        vocab_size = whole("losses.samplers.Uniform: vocab_size", vocab_size)
        super().__init__(backend.xp().full(vocab_size, 1.0 / vocab_size))

    def sample(self, key, shape):
        return key.integers(0, self.vocab_size, shape)


class Unigram(Sampler):
    """q(w) ∝ count(w)^power. method: "alias", O(1) a draw (2), or "cdf", O(log V) (1). A count of 0 is never drawn."""

    def __init__(self, counts: Any, power: float = 0.75, method: str = "alias"):
        weights = checked_counts("losses.samplers.Unigram", counts)
        if not isinstance(power, int | float) or not 0 <= power < float("inf"):
            raise ValueError(f"losses.samplers.Unigram: power must be a finite number of 0 or more, got {power!r}")
        if method not in ("alias", "cdf"):
            raise ValueError(f'losses.samplers.Unigram: method must be "alias" or "cdf", got {method!r}')
        xp = xp_of(weights)
        weights = (weights / weights.max()) ** power * (weights > 0)  # 0⁰ is 0 here: what never occurs is never drawn
        super().__init__(weights / weights.sum())
        self.method = method
        if method == "cdf":
            cdf = xp.cumsum(self.probs)
            self.cdf = cdf / cdf[-1]
        else:
            self.keep, self.alias = (backend.asarray(a) for a in alias_table(backend.to_cpu(self.probs).tolist()))
            self._words_of = xp.stack([xp.arange(len(self.probs)), self.alias], axis=1)  # (V, 2), for the kernel

    def sample(self, key, shape):
        shape = shape_of("losses.samplers.Unigram: shape", shape)
        if self.method == "cdf":
            u = key.uniform(shape, "float64")
            return xp_of(u).searchsorted(self.cdf, u.ravel(), side="right").reshape(shape)  # (1)
        if (n := math.prod(shape)) >= 1024 and backend.on_cpu(self.keep):
            drawn = xp_of(self.keep).empty(n, "int64")
            kernels.draw_alias(key.fold(0).bits(2 * n), key.fold(1).bits(2 * n), self.keep, self._words_of, drawn)
            return drawn.reshape(shape)
        return self._sample_alias(key, shape)

    def _sample_alias(self, key: mg.Key, shape: tuple[int, ...]) -> type_of_array:
        """Equation (2) in array code."""
        bucket = key.fold(0).integers(0, self.vocab_size, shape)
        coin = key.fold(1).uniform(shape, "float64")  # a rare word's keep is tiny
        return xp_of(coin).where(coin < self.keep[bucket], bucket, self.alias[bucket])  # (2)


def checked_counts(operation: str, counts: Any) -> type_of_array:
    """Counts of words, (V,) float64: finite, none negative, at least one positive."""
    try:
        array = backend.asarray(counts.data if isinstance(counts, mg.Tensor) else counts, dtype="float64")
    except (TypeError, ValueError):
        array = None
    if array is None or array.ndim != 1 or not array.size or not read(((array >= 0) & (array < float("inf"))).all()):
        raise ValueError(f"{operation}: counts must be a list of finite numbers, none negative; got {counts!r:.60}")
    if not read(array.max()) > 0:
        raise ValueError(f"{operation}: counts must be positive for one word at least; got {counts!r:.60}")
    return array


def zipf(vocab_size: int) -> list[float]:
    """Counts after Zipf's law, for ids in order of frequency: count ∝ 1 / (id + 1)."""
    return [1.0 / (i + 1) for i in range(vocab_size)]


def alias_table(probs: list[float]) -> tuple[list[float], list[int]]:
    """The table of equation (2) for probabilities that sum to one: keep (V,), alias (V,). O(V), by Vose (1991)."""
    keep, alias = [p * len(probs) for p in probs], list(range(len(probs)))
    poor, rich = [], []  # buckets with room to spare; words with more than a bucket
    for word, p in enumerate(keep):
        (poor if p < 1.0 else rich).append(word)
    while poor and rich:
        bucket, word = poor.pop(), rich[-1]
        alias[bucket] = word
        keep[word] -= 1.0 - keep[bucket]  # what the rich word put into the bucket
        if keep[word] < 1.0:
            poor.append(rich.pop())
    for word in poor + rich:  # full, but for rounding
        keep[word] = 1.0
    return keep, alias
