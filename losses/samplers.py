"""Drawing noise words: from q(w) ∝ 1, ∝ count(w)^α, or as Zipf's law has it, at a cost that doesn't grow with V.

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

Log-uniform.  With ids in order of frequency, the next best thing to counts is Zipf's law, q(w) ∝ 1 / (w + 1). Nearly
    that is q(w) = log((w + 2) / (w + 1)) / log(V + 1), whose CDF has a formula, F(w) = log(w + 2) / log(V + 1): the
    first w with F(w) > u is                                                                                  (3)
        w = ⌊(V + 1)^u⌋ − 1,
    O(1) a draw and nothing to prepare. Cut, don't round: rounding to the nearest draws word 0 only log₂ 1.5 = 0.585
    times as often as q declares, and the loss believes q.

Why α = 3/4?  Between uniform (α = 0), which draws words nobody says, and unigram (α = 1), which draws `the` again and
again; Mikolov et al. (NIPS 2013, §2.2) found 3/4 best, by trying.

All these draw independently. For k different words, and what a loss must know of them, read `distinct.py`.
"""

import itertools
import math
from numbers import Real
from typing import Any

import minigrad as mg
from minigrad import backend
from minigrad.arguments import shape_of, whole
from minigrad.backend import read, type_of_array, xp_of
from minigrad.ids import placed_ids

from . import distinct, kernels


class Sampler:
    """A distribution over the ids 0 … V − 1 from which noise is drawn. probs: (V,) float64, sums to one.

    A sampler of your own says how it draws in `_draw`, and with log_prob and log_expected_count what a loss may ask.
    """

    replacement = True  # whether the draws are independent

    def __init__(self, probs: type_of_array):
        name, xp = self._name, xp_of(probs)
        if getattr(probs, "ndim", 0) != 1 or not probs.size:
            raise ValueError(f"{name}: probabilities must be an array (V,) with V >= 1, got {probs!r:.60}")
        if not read((probs >= 0).all() & (abs(probs.sum() - 1.0) < 1e-9)):  # false for NaN, too
            raise ValueError(
                f"{name}: probabilities must be 0 or more and sum to one, these sum to {float(read(probs.sum()))}"
            )
        self.probs, self.vocab_size = probs.astype("float64", copy=False), len(probs)
        with backend.quiet():
            self._log_probs = xp.log(self.probs)  # −inf for a word that is never drawn

    def sample(self, key: mg.Key, shape: int | tuple[int, ...]) -> type_of_array:
        """int64 ids of `shape`. The same key, the same ids."""
        return self.draw(key, shape)[0]

    def draw(self, key: mg.Key, shape: int | tuple[int, ...]) -> tuple[type_of_array, Any]:
        """ids of `shape`, and what `log_expected_count` has to know of them: None if the draws are independent."""
        shape = shape_of(f"{self._name}: shape", shape)
        if not isinstance(key, mg.Key):
            raise TypeError(f"{self._name}: key must be a minigrad.Key, as minigrad.Key(1); got {type(key).__name__}")
        return self._draw(key, shape)

    def log_prob(self, ids: Any) -> type_of_array:
        """log q(ids), float64, of the shape of `ids`: the chance of each in a draw of one word."""
        return self._log_probs[self._checked("log_prob", ids)]

    def log_expected_count(self, ids: Any, k: int, seen: Any = None) -> type_of_array:
        """The log of how often each of `ids` is to be expected among k words: log(k q(w)) for independent draws.

        float64, of the shape of `ids`. k: as many as were drawn, the last number of the shape. seen: what `draw` gave
        beside the words. If they were drawn with a shape (…, k), the first axes of `ids` go with those of the draws.
        """
        return self.log_prob(ids) + math.log(whole(f"{self._name}.log_expected_count: k", k))

    # ---- what a sampler of your own says, and may ask ----

    def _draw(self, key: mg.Key, shape: tuple[int, ...]) -> tuple[type_of_array, Any]:
        raise TypeError(f"{self._name} cannot draw")

    @property
    def _name(self) -> str:
        return f"losses.samplers.{type(self).__name__}"

    def _checked(self, operation: str, ids: Any) -> type_of_array:
        name = f"{self._name}.{operation}: ids"
        return placed_ids(name, ids.data if isinstance(ids, mg.Tensor) else ids, self.vocab_size, self._log_probs)


# ---- independent draws -------------------------------------------------------------------------------------------


class Uniform(Sampler):
    """q(w) = 1/V."""

    def __init__(self, vocab_size: int):
        vocab_size = whole("losses.samplers.Uniform: vocab_size", vocab_size)
        super().__init__(backend.xp().full(vocab_size, 1.0 / vocab_size))

    def _draw(self, key, shape):
        return key.integers(0, self.vocab_size, shape), None


class Unigram(Sampler):
    """q(w) ∝ count(w)^power. method: "alias", O(1) a draw (2), or "cdf", O(log V) (1). A count of 0 is never drawn."""

    def __init__(self, counts: Any, power: float = 0.75, method: str = "alias"):
        if method not in ("alias", "cdf"):
            raise ValueError(f'losses.samplers.Unigram: method must be "alias" or "cdf", got {method!r}')
        super().__init__(unigram_probs(self._name, counts, power))
        self.method, xp = method, xp_of(self.probs)
        if method == "cdf":
            cdf = xp.cumsum(self.probs)
            self.cdf = cdf / cdf[-1]
        else:
            self.keep, self.alias = (backend.asarray(a) for a in alias_table(backend.to_cpu(self.probs).tolist()))
            self._table = xp.stack([self.keep, self.alias.astype("float64")], axis=1)  # (V, 2), for the kernel

    def _draw(self, key, shape):
        if self.method == "cdf":
            u = key.uniform(shape, "float64")
            return xp_of(u).searchsorted(self.cdf, u.ravel(), side="right").reshape(shape), None  # (1)
        if (n := math.prod(shape)) >= 4 and backend.on_cpu(self.keep):  # too few to load Numba for: array code
            drawn = xp_of(self.keep).empty(n, "int64")
            kernels.draw_alias(key.fold(0).bits(2 * n), key.fold(1).bits(2 * n), self._table, drawn)
            return drawn.reshape(shape), None
        return self._sample_alias(key, shape), None

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

    def _draw(self, key, shape):
        return log_uniform(key.uniform(shape, "float64"), self.vocab_size), None


# ---- k different words (the steps are those of `distinct.py`) --------------------------------------------------------


class Distinct(Sampler):
    """What the two below have in common. The last axis of a shape is one draw of k different words: (…, k)."""

    replacement = False

    def __init__(self, probs: type_of_array):
        super().__init__(probs)
        self.most = int(read((probs > 0).sum()))  # so many different words can be drawn

    def _rows_and_k(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        if not shape or not 1 <= shape[-1] <= self.most:
            raise ValueError(
                f"{self._name}: the last axis of a shape is k, how many different words to draw: it must lie in 1 to "
                f"{self.most}, the words with q > 0; got the shape {list(shape)}"
            )
        return shape[:-1], shape[-1]

    def _with_seen(self, ids: Any, k: int, seen: Any) -> tuple[type_of_array, type_of_array]:
        """ids, checked, and what was seen of each draw, (…), so that it goes with ids (…, k)."""
        ids = self._checked("log_expected_count", ids)
        whole(f"{self._name}.log_expected_count: k", k)
        if seen is None or ids.shape[: seen.ndim] != seen.shape:
            came = "None" if seen is None else f"one for draws {list(seen.shape)} beside ids {list(ids.shape)}"
            raise ValueError(f"{self._name}.log_expected_count: seen must be what draw gave with the ids, got {came}")
        return ids, seen.reshape(seen.shape + (1,) * (ids.ndim - seen.ndim))


class Unique(Distinct):
    """Draws from `base`, of which the first of each word counts, until there are k (1). O(k), if q is not too uneven.

    exact: False to expect words as TensorFlow does (7), by the number of tries, which is what is seen; True to draw
    the time of each try as well (6): then κ is seen, and the expected counts have no bias.
    """

    MAX_TRIES = 1 << 20  # for one draw
    MAX_AT_ONCE = 1 << 22  # for all draws of a shape; so many tries are some 200 MB

    def __init__(self, base: Sampler, *, exact: bool = False):
        if not isinstance(base, Sampler) or not base.replacement:
            raise TypeError(f"{self._name}: base must be a sampler that draws with replacement, got {base!r:.60}")
        super().__init__(base.probs)
        self.base, self.exact = base, exact

    def _draw(self, key, shape):
        rows, k = self._rows_and_k(shape)
        n, need = math.prod(rows), min(k + self.exact, self.most)  # (4): κ is about the (k + 1)-th
        xp, tries, more = xp_of(self.probs), 0, 2 * need
        words, times, now = xp.zeros((n, 0), "int64"), xp.zeros((n, 0)), xp.zeros((n, 1))
        for attempt in itertools.count():
            drawn = self.base.sample(key.fold(2 * attempt), (n, more))
            if self.exact:
                waits = distinct.exponential(key.fold(2 * attempt + 1).uniform((n, more), "float64"))  # (6)
            else:
                waits = xp.ones((n, more))  # (7)
            ticks = now + xp.cumsum(waits, axis=1)
            words, times = distinct.first_of_each(
                xp.concatenate([words, drawn], axis=1), xp.concatenate([times, ticks], axis=1), need
            )
            if read((times[:, need - 1] < math.inf).all()):
                break
            now, tries = ticks[:, -1:], tries + more
            if tries >= self.MAX_TRIES:
                raise ValueError(
                    f"{self._name}: {tries:,} tries found no {need} different words: q is too uneven; "
                    "take GumbelTopK, which needs no tries"
                )
            more = max(min(2 * more, self.MAX_AT_ONCE // n), need)
        if not self.exact:
            seen = times[:, k - 1].astype("int64")
        elif need > k:
            seen = -xp.log(times[:, k])
        else:
            seen = xp.full(n, -math.inf)  # all the words that there are
        return words[:, :k].reshape(shape), seen.reshape(rows)

    def log_expected_count(self, ids, k, seen=None):
        """(7) log(1 − (1 − q(w))^tries), or if exact, (4) log(1 − exp(−q(w) e^{−κ}))."""
        ids, seen = self._with_seen(ids, k, seen)
        if self.exact:
            return distinct.log_count(distinct.rate_of_threshold(self._log_probs[ids], seen))
        return distinct.log_count(distinct.rate_of_tries(self.probs[ids], seen))


class GumbelTopK(Distinct):
    """The k greatest of log q(w) + Gumbel noise (2), q(w) ∝ count(w)^power. O(V) a draw, whatever q is.

    What is seen is κ, the (k + 1)-th greatest: the expected counts (4) have no bias.
    """

    def __init__(self, counts: Any, power: float = 1.0):
        super().__init__(unigram_probs(self._name, counts, power))

    def _draw(self, key, shape):
        rows, k = self._rows_and_k(shape)
        u = key.uniform((*rows, self.vocab_size), "float64")
        return distinct.top_k(distinct.gumbel_keys(u, self._log_probs), k)

    def log_expected_count(self, ids, k, seen=None):
        """(4) log(1 − exp(−q(w) e^{−κ}))."""
        ids, seen = self._with_seen(ids, k, seen)
        return distinct.log_count(distinct.rate_of_threshold(self._log_probs[ids], seen))


# ---- distributions -------------------------------------------------------------------------------------------------


def log_uniform(u: type_of_array, vocab_size: int) -> type_of_array:
    """(3): uniform numbers on [0, 1) -> ids."""
    xp = xp_of(u)
    ids = xp.exp(u * math.log(vocab_size + 1)).astype("int64") - 1
    return xp.minimum(ids, vocab_size - 1)  # should rounding reach V


def unigram_probs(operation: str, counts: Any, power: float) -> type_of_array:
    """q(w) ∝ count(w)^power, (V,) float64."""
    weights = checked_counts(operation, counts)
    if isinstance(power, bool) or not isinstance(power, Real) or not 0 <= power < float("inf"):
        raise ValueError(f"{operation}: power must be a finite number of 0 or more, got {power!r}")
    weights = (weights / weights.max()) ** power * (weights > 0)  # 0⁰ is 0 here: what never occurs is never drawn
    return weights / weights.sum()


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


# In PyTorch. The trap: torch.multinomial prepares afresh at every call, which costs O(V) for one draw as for many, and
# refuses more than 2²⁴ words. So prepare F once, as here; and in float64: in float32, of a million words by Zipf's law,
# the rarest would have steps of F that are off by up to 16 %.
IN_PYTORCH = """
import torch

cdf = torch.cumsum(counts.double() ** 0.75, dim=0)        # once; counts (V,)
cdf = cdf / cdf[-1]

u = torch.rand(B, k, dtype=torch.float64)
noise = torch.searchsorted(cdf, u, right=True)            # right: the first w with F(w) > u, not F(w) >= u
"""
