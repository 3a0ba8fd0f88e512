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

    replacement = True  # whether the draws are independent

    def __init__(self, probs: type_of_array):
        xp = xp_of(probs)
        if not read((probs >= 0).all() & (abs(probs.sum() - 1.0) < 1e-9)):  # false for NaN, too
            raise ValueError(
                f"losses.samplers.{type(self).__name__}: probabilities must be 0 or more and sum to one, "
                f"these sum to {float(read(probs.sum()))}"
            )
        self.probs, self.vocab_size = probs, len(probs)
        with backend.quiet():
            self._log_probs = xp.log(probs)  # −inf for a word that is never drawn

    def sample(self, key: mg.Key, shape: int | tuple[int, ...]) -> type_of_array:
        """int64 ids of `shape`. The same key, the same ids."""
        return self.draw(key, shape)[0]

    def draw(self, key: mg.Key, shape: int | tuple[int, ...]) -> tuple[type_of_array, Any]:
        """ids of `shape`, and what `log_expected_count` has to know of them: None if the draws are independent."""
        raise TypeError(f"losses.samplers.{type(self).__name__} cannot draw")

    def log_prob(self, ids: Any) -> type_of_array:
        """log q(ids), float64, of the shape of `ids`: the chance of each in a draw of one word."""
        return self._log_probs[self._checked("log_prob", ids)]

    def log_expected_count(self, ids: Any, k: int, seen: Any = None) -> type_of_array:
        """The log of how often each of `ids` is to be expected among k words: log(k q(w)) for independent draws."""
        return self.log_prob(ids) + math.log(k)

    def _checked(self, operation: str, ids: Any) -> type_of_array:
        name = f"losses.samplers.{type(self).__name__}.{operation}: ids"
        return placed_ids(name, ids.data if isinstance(ids, mg.Tensor) else ids, self.vocab_size, self._log_probs)


class Uniform(Sampler):
    """q(w) = 1/V."""

    def __init__(self, vocab_size: int):
        vocab_size = whole("losses.samplers.Uniform: vocab_size", vocab_size)
        super().__init__(backend.xp().full(vocab_size, 1.0 / vocab_size))

    def draw(self, key, shape):
        return key.integers(0, self.vocab_size, shape), None


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

    def draw(self, key, shape):
        return self._draw(key, shape_of("losses.samplers.Unigram: shape", shape)), None

    def _draw(self, key: mg.Key, shape: tuple[int, ...]) -> type_of_array:
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


class LogUniform(Sampler):
    """q(w) = log((w + 2) / (w + 1)) / log(V + 1): near Zipf's law, without counts, for ids in order of frequency."""

    def __init__(self, vocab_size: int):
        vocab_size = whole("losses.samplers.LogUniform: vocab_size", vocab_size)
        xp = backend.xp()
        super().__init__(xp.log1p(1.0 / (xp.arange(vocab_size, dtype="float64") + 1.0)) / math.log(vocab_size + 1))

    def draw(self, key, shape):
        u = key.uniform(shape, "float64")
        xp = xp_of(u)
        ids = xp.exp(u * math.log(self.vocab_size + 1)).astype("int64") - 1
        return xp.minimum(ids, self.vocab_size - 1), None  # rounding may reach V


class Unique(Sampler):
    """Distinct words: drawn from `base` one by one, those that came before thrown away, until there are k.

    The last axis of a shape is one draw of k distinct words. What is seen is the number of tries, one a draw.
    """

    replacement = False

    def __init__(self, base: Sampler):
        super().__init__(base.probs)
        self.base = base
        self._occur = int(read((base.probs > 0).sum()))

    def draw(self, key, shape):
        shape = shape_of("losses.samplers.Unique: shape", shape)
        *rows, k = shape
        if k > self._occur:
            raise ValueError(f"losses.samplers.Unique: k must be at most {self._occur}, the words with q > 0; got {k}")
        n, tries = math.prod(rows), 2 * k
        drawn = self.base.sample(key.fold(0), (n, tries))
        xp, attempt = xp_of(drawn), 0
        while True:
            order = xp.argsort(drawn, axis=1, kind="stable")
            ordered = xp.take_along_axis(drawn, order, axis=1)
            new = xp.concatenate([xp.ones((n, 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
            new = xp.take_along_axis(new, xp.argsort(order, axis=1, kind="stable"), axis=1)  # (n, tries): came first
            if read((new.sum(axis=1) >= k).all()):
                break
            attempt += 1
            if tries >= 1 << 20:
                raise ValueError(
                    f"losses.samplers.Unique: {tries:,} tries found no {k} distinct words: q is too uneven; "
                    "take GumbelTopK, which needs no tries"
                )
            drawn = xp.concatenate([drawn, self.base.sample(key.fold(attempt), (n, tries))], axis=1)
            tries *= 2
        where = xp.argsort(~new, axis=1, kind="stable")[:, :k]  # (n, k): the tries that counted, in their order
        return xp.take_along_axis(drawn, where, axis=1).reshape(shape), (where[:, -1] + 1).reshape(rows)

    def log_expected_count(self, ids, k, seen=None):
        """log(1 − (1 − q(w))^tries): the chance to be among that many tries."""
        ids = self._checked("log_expected_count", ids)
        return log_of_one_minus_exp_minus(-_beside(seen, ids) * xp_of(ids).log1p(-self.probs[ids]))


class GumbelTopK(Sampler):
    """Distinct words, the k greatest of log q(w) + Gumbel noise: the law of drawing without replacement, in one go.

    The last axis of a shape is one draw of k distinct words. What is seen is κ, the (k + 1)-th greatest. O(V) a draw.
    """

    replacement = False

    def __init__(self, counts: Any, power: float = 1.0):
        super().__init__(Unigram(counts, power, "cdf").probs)
        self._occur = int(read((self.probs > 0).sum()))

    def draw(self, key, shape):
        shape = shape_of("losses.samplers.GumbelTopK: shape", shape)
        *rows, k = shape
        if k > self._occur:
            raise ValueError(
                f"losses.samplers.GumbelTopK: k must be at most {self._occur}, the words with q > 0; got {k}"
            )
        u = key.uniform((*rows, self.vocab_size), "float64")
        xp = xp_of(u)
        with backend.quiet():
            perturbed = self._log_probs - xp.log(-xp.log1p(-u))  # (…, V)
        order = xp.argsort(-perturbed, axis=-1, kind="stable")
        if k == self.vocab_size:
            return order, xp.full(tuple(rows), -math.inf)
        return order[..., :k], xp.take_along_axis(perturbed, order[..., k : k + 1], axis=-1)[..., 0]

    def log_expected_count(self, ids, k, seen=None):
        """log(1 − exp(−exp(log q(w) − κ))): the chance to exceed κ."""
        ids = self._checked("log_expected_count", ids)
        return log_of_one_minus_exp_minus(xp_of(ids).exp(self._log_probs[ids] - _beside(seen, ids)))


def log_of_one_minus_exp_minus(rate: type_of_array) -> type_of_array:
    xp = xp_of(rate)
    with backend.quiet():
        return xp.log(-xp.expm1(-rate))


def _beside(seen: type_of_array, ids: type_of_array) -> type_of_array:
    """What was seen of each draw, (…), so that it goes with ids of the draws, (…, k)."""
    return seen.reshape(seen.shape + (1,) * max(0, ids.ndim - seen.ndim)) if seen.ndim else seen


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
