"""Where should the clusters of an adaptive softmax begin? Wherever a step costs least, and that can be computed.

Words are sorted by frequency. Cut-offs a₀ < a₁ < … < a_{J−1} < V make the first a₀ of them the head, and the others J
clusters, a_i ≤ w < a_{i+1}, with a_J = V (`adaptive.py`). A head that is large is paid for by every example, a cluster
that is large by those examples whose target lies in it.

    B   examples in a batch           p_i   the part of running text that lies in cluster i
    V   words, d numbers a context    d_i   the numbers that cluster i makes of a context: max(1, ⌊d / f^{i+1}⌋), f = 4
    J   clusters                      g     what the softmax of n examples over k rows of m numbers costs in a step

    (1)  Grave, Joulin, Cissé, Grangier, Jégou (ICML 2017, §4.1) measure that a product's cost in k is flat up to some
         k₀, and then linear. Written with a sum in the place of that corner, and for n and m as well:
            g(n, k, m) = c + a n k m + b n k + e k m:
         what any product costs, however small; a multiply-add; a score, whose exponential is taken; and a weight,
         whose gradient is written and which is updated, be the batch as small as it will.
    (2)  If its targets are drawn independently, a batch visits cluster i with probability v_i = 1 − (1 − p_i)^B, and by
         B p_i examples on average. So a step costs
            C = g(B, a₀ + J, d)  +  Σ_i { v_i [2 c + e (d_i d + k_i d_i)] + B p_i [a (d d_i + d_i k_i) + b k_i] },
         the head, which has a row for each cluster, and of each cluster the projection and the words. (It depends on B:
         V = 10,000 and d = 128 have the cut-offs 76 and 588 for B = 16, 76 and 1,350 for 128, 76 and 1,491 for 1,024.)
    (3)  C is a sum with one term for each stretch between two cut-offs. So the cheapest first i clusters that end at a
         rank r are the cheapest first i − 1 that end at some q < r, and the stretch from q to r:
            F_i(r) = min_{q < r} F_{i−1}(q) + (cost of cluster i − 1 if it is q ≤ w < r),
         dynamic programming (Bellman 1957). F_J(V), the least over J, is the cheapest of all, and no other is tried.
         With m places where a cut may be, that is J m² sums, for each J anew, on which the head's own price depends.
    (4)  For V = 1,000,000 that would be too many. Cuts may be at each of the first 64 ranks, and from there on
         at ranks that grow by 2 %: the best cut-offs on that grid are found exactly, and the grid is fine enough, for
         near its minimum the cost is flat.
    (5)  C knows what a step costs, not what it learns: by (2) alone frequent words would be squeezed into a few
         numbers, and clusters of a single word would pay: with d = 2,048 and V = 10,000, 76, 77, 78 and 1,223 cost less
         than half of what 76, 305 and 1,223 do. So the head must hold `head_share` of running text, half of it unless
         told otherwise; a cluster that is narrower by f must reach f times as far (a_{i+1} ≥ f a_i); and but for the
         first none is narrower than 8 numbers, so that d < 128 has one cluster, d < 512 two, d < 2,048 three.
"""

import math
import time
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from numbers import Real
from typing import Any, NamedTuple

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import np, read, to_cpu

from ..samplers import checked_counts
from .tails import tail_softmax


class Cost(NamedTuple):
    """g of (1), in any unit: what a product, a multiply-add, a score and a weight cost."""

    product: float
    multiply_add: float
    score: float
    weight: float

    def __call__(self, n: Any, k: Any, m: Any, visited: Any = 1.0) -> Any:
        """(1) for n examples on average, k rows of m numbers; visited: the probability that there are any."""
        return visited * (self.product + self.weight * k * m) + n * k * (self.multiply_add * m + self.score)


TYPICAL = Cost(product=1e6, multiply_add=1.0, score=20.0, weight=20.0)  # in multiply-adds; `measure_cost` knows better
PROJECTION = {"score": 0.0}  # of what is projected no exponential is taken
EVERY, GROWTH = 64, 1.02  # (4)
NARROWEST = 8  # (5)


def checked_cutoffs(operation: str, cutoffs: Any, vocab_size: int) -> list[int]:
    """Cut-offs as plain integers, if they rise from 1 or more to V − 1 or less."""
    if not hasattr(cutoffs, "__iter__"):
        raise TypeError(f"{operation}: cutoffs must be a list of ranks, got {cutoffs!r:.60}")
    cutoffs = [whole(f"{operation}: a cut-off", a) for a in cutoffs]
    if cutoffs != sorted({*cutoffs}) or cutoffs[-1:] >= [vocab_size]:
        raise ValueError(
            f"{operation}: cutoffs must rise, from 1 or more to {vocab_size - 1} or less (V itself is not among them), "
            f"got {cutoffs}"
        )
    return cutoffs


def checked_div_value(operation: str, div_value: Any) -> float:
    """f, if it is a number that narrows."""
    is_number = isinstance(div_value, Real) and not isinstance(div_value, bool)
    if not is_number or not 1 <= div_value < math.inf:
        kind = ValueError if is_number else TypeError
        raise kind(f"{operation}: div_value must be a number, 1 or more and finite, got {div_value!r:.60}")
    return float(div_value)


def _checked_options(operation, dim, batch_size, div_value, cost):
    whole(f"{operation}: dim", dim)
    whole(f"{operation}: batch_size", batch_size)
    checked_div_value(operation, div_value)
    if not isinstance(cost, Cost) or not all(0 <= constant < math.inf for constant in cost):
        raise ValueError(f"{operation}: cost must be a Cost of four finite numbers, none negative, got {cost!r:.80}")


def widths(dim: int, div_value: float, num_clusters: int) -> list[int]:
    """d_i for i = 0, 1, …: how many numbers each cluster makes of a context of `dim`. One at least: ⌊d / f^i⌋ is 0."""
    div_value = min(div_value, dim)  # that is narrow enough, and its powers do not overflow
    return [max(1, int(dim // div_value ** (i + 1))) for i in range(num_clusters)]


def _costs(before, begin, end, dim, width, batch_size, cost):
    """(2), the term of a cluster begin ≤ w < end; before[r]: which part of text lies before rank r."""
    p = np.clip(before[end] - before[begin], 0.0, 1.0)
    visited, n = 1.0 - (1.0 - p) ** batch_size, batch_size * p
    projection, words = cost._replace(**PROJECTION), cost
    return projection(n, width, dim, visited) + words(n, end - begin, width, visited)


def _before(operation: str, counts: Any) -> Any:
    """Which part of running text the r most frequent words are, for r = 0, …, V, in main memory."""
    shares = np.sort(to_cpu(checked_counts(operation, counts)))[::-1]
    return np.concatenate([[0.0], np.cumsum(shares / shares.sum())])


def expected_cost(
    counts: Any,
    dim: int,
    cutoffs: Sequence[int],
    *,
    batch_size: int = 128,
    div_value: float = 4.0,
    cost: Cost = TYPICAL,
) -> float:
    """(2): what a step costs on average with these cut-offs. counts (V,), in any order."""
    _checked_options("losses.expected_cost", dim, batch_size, div_value, cost)
    before = _before("losses.expected_cost", counts)
    ends = [*checked_cutoffs("losses.expected_cost", cutoffs, len(counts)), len(counts)]
    total = cost(batch_size, ends[0] + len(cutoffs), dim)
    clusters = zip(pairwise(ends), widths(dim, div_value, len(cutoffs)), strict=True)
    return float(total + sum(_costs(before, q, r, dim, width, batch_size, cost) for (q, r), width in clusters))


def grid(vocab_size: int) -> Any:
    """(4): the ranks where a cluster may begin, and at last V."""
    places, rank = [*range(1, min(EVERY, vocab_size) + 1)], float(EVERY)
    while (rank := max(rank + 1, GROWTH * rank)) < vocab_size:
        places.append(int(rank))
    return np.array(sorted({*places, vocab_size}))


def best_cutoffs(
    counts: Any,
    dim: int,
    *,
    batch_size: int = 128,
    div_value: float = 4.0,
    max_clusters: int = 4,
    head_share: float = 0.5,
    cost: Cost = TYPICAL,
) -> list[int]:
    """The cut-offs for which a step costs least by (2), of those on the grid (4) that (5) allows; [] for no clusters.

    counts: how often each word occurs, (V,), in any order. cost: of this machine by `measure_cost`; the default, in
    round numbers, gives the same cut-offs everywhere.
    """
    _checked_options("losses.best_cutoffs", dim, batch_size, div_value, cost)
    max_clusters = whole("losses.best_cutoffs: max_clusters", max_clusters, 0)
    if max_clusters > 4:
        raise ValueError(f"losses.best_cutoffs: max_clusters must be at most 4, got {max_clusters}")
    if not 0 <= head_share <= 1:
        raise ValueError(f"losses.best_cutoffs: head_share must lie in 0 to 1, got {head_share!r}")
    before, places = _before("losses.best_cutoffs", counts), grid(len(counts))
    q, r = places[:, None], places[None, :]
    allowed, large_enough = (q < r) & (div_value * q <= r), (before[places] >= head_share) | (places == len(counts))
    stretches = [
        np.where(allowed, _costs(before, q, r, dim, width, batch_size, cost), np.inf)
        for i, width in enumerate(widths(dim, div_value, max_clusters))
        if not i or width >= NARROWEST
    ]
    best = (math.inf, [])
    for num_clusters in range(len(stretches) + 1):
        heads = cost(batch_size, places + num_clusters, dim)  # F₀: the head ends at each place
        F, came_from = np.where(large_enough, heads, np.inf), []
        for i in range(num_clusters):  # (3)
            candidates = F[:, None] + stretches[i]
            came_from.append(candidates.argmin(axis=0))
            F = candidates.min(axis=0)
        if F[-1] < best[0]:
            at, cutoffs = len(places) - 1, []
            for origins in reversed(came_from):
                at = origins[at]
                cutoffs.append(int(places[at]))
            best = (F[-1], cutoffs[::-1])
    return best[1]


# ---- the cost model, measured -------------------------------------------------------------------------------------


def seconds_of_a_step(n: int, k: int, m: int, repeats: int = 5) -> float:
    """How long it takes here: a softmax of n examples over k rows of m numbers, forward, backward and update."""
    key = mg.Key(0)
    hidden, weight = mg.param(key.fold(0).normal((n, m))), mg.param(key.fold(1).normal((k, m)) / math.sqrt(m))
    optimiser, targets = mg.optim.SGD([weight], lr=1e-6), key.fold(2).integers(0, k, n)
    times = []
    for _ in range(repeats + 1):  # the first is to warm up
        optimiser.zero_grad()
        hidden.grad = None
        begin = time.perf_counter()
        tail_softmax(hidden, weight, targets).sum().backward()
        optimiser.step()
        read(weight.data[0, 0])  # on a GPU: wait
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def measure_cost(
    dim: int, batch_size: int = 128, *, seconds: Callable[[int, int, int], float] = seconds_of_a_step
) -> Cost:
    """The constants of (1) on this machine, in seconds: those, none negative, that fit measured steps best.

    Best: the sum of the squared relative errors is least. It takes some seconds, and comes out a little different each
    time, which is why no layer does it. seconds(n, k, m): what to measure.
    """
    sizes = [
        (n, k, max(1, dim // f))
        for n in sorted({1, max(1, batch_size // 8), batch_size})
        for k in (16, 1024, 16_384, 65_536)
        for f in (1, 4, 16, 64)
        if n * k * (dim // f) <= 1 << 28
    ]
    n, k, m = np.array(sizes, "float64").T
    terms = np.stack([np.ones(len(n)), n * k * m, n * k, k * m], axis=1) / [[seconds(*size)] for size in sizes]
    best = (math.inf, [0.0] * 4)
    for some in (list(s) for size in range(1, 5) for s in combinations(range(4), size)):  # which are not zero
        found = np.linalg.lstsq(terms[:, some], np.ones(len(n)), rcond=None)[0]
        error = float(((terms[:, some] @ found - 1.0) ** 2).sum())
        if (found >= 0).all() and error < best[0]:
            constants = [0.0] * 4
            for i, value in zip(some, found.tolist(), strict=True):
                constants[i] = value
            best = (error, constants)
    return Cost(*best[1])
