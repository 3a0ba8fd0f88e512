"""In-batch negatives: the right words of the other examples are the noise.

A mini-batch has B contexts h_i with their right words t_i. To score each context with each word of the batch is one
product of matrices, (B, d) by (d, B): B − 1 noise words for every example, and none has to be drawn or gathered. It is
the slide's mini-batch based negative sampling, "select the same negative samples for each minibatch", taken to its end,
and how most retrieval models are trained: there a word is an item, and W_w what a second network makes of it. The price
is that nobody chooses q: a word is noise as often as it is right.

    h_i, t_i  context and right word of example i        q(w)  how often w is right: Σ_h P(h) P(w | h)
    s_ij      the score of t_j for h_i, W_{t_j} · h_i    a_ij  s_ij − log q(t_j)
              + b_{t_j}; d numbers in h_i                B     examples in a batch; V words in the vocabulary

The loss.
    (1)  If the pairs (h, t) of a batch are drawn independently, the other t_j are to example i independent draws from q
         that don't look at t_i. That is the game of `ranking.py`, with k = B − 1. (Neighbours in a text are not
         independent: shuffle.)
    (2)  So L_i = log Σ_j e^{a_ij} − a_ii,   a_ij = s_ij − log q(t_j):  the exact softmax of `softmax.py` over the B
         words of the batch, of which the i-th is right (Yi et al., "Sampling-bias-corrected neural modeling for large
         corpus item recommendations", RecSys 2019). What is added to every log q cancels: counts serve as well as q.
    (3)  G_ij = e^{a_ij} / Σ_l e^{a_il} − 1[i = j].  Each row adds up to zero. The row of W for t_j has a gradient from
         all B examples.

What it learns.
    (4)  By (5) of `ranking.py` the mean gradient is zero at  s*_w = log P(w | h) + c(h),  for every B ≥ 2 and every c.
         A batch of one has nothing to compare: L = 0, G = 0, whatever the scores are.
    (5)  Subtract β log q, where β = 1 is right, and it is at  s* = log P(w | h) − (1 − β) log q(w) + c(h).  Without the
         correction, β = 0, that is log(P / q), the pointwise mutual information: popularity is divided out (which may
         be what one wants). With the wrong sign, β = −1, it is divided out twice (TensorFlow Recommenders 0.4.0 had
         that sign; its issue 219). How far that is from P,
            KL(P ‖ softmax(s*)) = log Σ_w P q^{β−1} − (β − 1) Σ_w P log q,
         is a convex function of β, and 0 at β = 1. So the wrong sign is at least twice as far off as no correction,
         whatever P and q are (and if q is uniform, all three are right).
    (6)  If another example has the same right word, t_j = t_i, libraries like to leave column j out of row i, lest the
         right word be called wrong. By (6) of `ranking.py` it must stay: it is a draw like any other, and its gradient
         is part of (4). Without it log P is not quite the optimum (from B = 3 on).
    (7)  With B = V, each word once, and q uniform, it is the exact softmax.

Where nobody has counted: q from the stream of targets itself, after Yi et al.'s Algorithm 2.
    (8)  Between an occurrence of w and the next, 1/q(w) targets go by on average. So let two numbers for each word,
         from 0, follow at every occurrence the gap and 1:   m ← m + α (gap − m),   u ← u + α (1 − u).  Then u / m is an
         estimate of q(w): at the n-th occurrence, for every n, E[m / u] = 1/q(w), for u is what the weights of the gaps
         add up to (as in Adam, `optim.py` (4)). And as a gap has the variance (1 − q) / q²,
            Var[m / u] · q² = (1 − q) α / (2 − α) · (1 + (1 − α)ⁿ) / (1 − (1 − α)ⁿ).
         With small α it begins as (1 − q) / n, and it ends at (1 − q) α / (2 − α): for α = 0.01 a rare word's estimate
         wavers by 7 percent, and what was seen 100 occurrences ago has faded to 37 percent of its weight.
         What is subtracted is log q = −log(m / u), and logarithms bend: it is too large on average, by about half that
         variance. So of a rare word, with a small α, by about 1/2n at the n-th occurrence; by 0.58 (Euler's constant)
         at the first.
    (9)  In a batch a word may occur several times. An occurrence that r others follow has the weight α (1 − α)^r, so
         the batch at once is   m ← m + Σ α (1 − α)^r (gap − m),   the m on the right being the old one.
         (The paper's clock counts batches, ours counts targets. By batches one would estimate the chance of a word to
         be in a batch at all: the same for one that is in each once and for one that is in each five times.)

Cost per example: one row of W, 3 B d multiply-adds at the speed of a matrix product; V nowhere; `log_prob` V d.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import minigrad as mg
from minigrad import backend
from minigrad.arguments import whole
from minigrad.backend import read, type_of_array, xp_of
from minigrad.ids import note_range, placed_ids
from minigrad.optim import misfits
from minigrad.rules import array_of

from ..layer import OutputLayer, ScoreCost, of_scores
from ..samplers import Sampler, Unigram
from ..softmax import softmax_cross_entropy
from .ranking import MASKED

# ---- the naive way: a softmax over the batch, left to the engine --------------------------------------------------


def in_batch_softmax_naive(scores: Any, *, log_q: Any) -> Any:
    """(2) as it stands: scores (B, B), log_q (B,) -> (B,). NaN or infinite where a score is 1000."""
    exponentials = mg.exp(scores - log_q)  # (B, B)
    p = exponentials / exponentials.sum(axis=1, keepdims=True)
    return -mg.log(mg.take_along_axis(p, _diagonal(scores)[:, None], axis=1)[:, 0])  # (B,)


def _diagonal(scores: Any) -> type_of_array:
    """Row i's right one is in column i: (B,)."""
    array = array_of(scores)
    columns = xp_of(array).arange(len(array))
    note_range(columns, 0, len(array) - 1)  # or a GPU would be asked
    return columns


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def in_batch_softmax(scores: Any, *, log_q: Any, repeats: Any = None) -> tuple[Any, Any]:
    """Loss (2) and gradient (3): scores (B, B), of the target j for the context i -> loss (B,), G (B, B).

    log_q (B,): of the targets; but for a constant, so 0.0 is no correction. repeats: None, to keep all (6), or booleans
    (B, B): what is left out of each row, but for the right word, which stays whatever the diagonal says.
    """
    b = len(array_of(scores))
    if scores.shape != (b, b) or getattr(log_q, "shape", ()) not in ((), (b,)):  # log q (B, 1) would cancel
        came = f"scores {list(scores.shape)}, log_q {list(getattr(log_q, 'shape', ()))}"
        raise ValueError(f"losses.in_batch_softmax: scores must have shape (B, B), log_q (B,), got {came}")
    a = scores - log_q  # (B, B): log q of the word in column j
    if repeats is not None:
        a = mg.where(repeats & ~xp_of(array_of(a)).eye(b, dtype=bool), MASKED, a)  # (6)
    return softmax_cross_entropy(a, _diagonal(a))  # (2), (3)


in_batch_softmax_loss = of_scores(in_batch_softmax)


# ---- the fast way: a layer that scores the batch with itself -------------------------------------------------------


class InBatchSoftmax(OutputLayer):
    """In-batch negatives over `vocab_size` words for contexts of `dim` numbers.

    counts: how often each word is a target, for q; Zipf's law if none are given. Or `sampler`, then q is what it says:
    anything with a `vocab_size` and a `log_prob(ids)` that is log q but for a constant, one of `losses.samplers` or a
    `StreamingUnigram`. correct: whether log q is subtracted, or the β of (5), from 0 to 1. mask_repeats: leave out the
    other examples that have the same target (6). key, bias: see `OutputLayer`.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        counts: Any = None,
        key: mg.Key,
        sampler: Sampler | Any = None,
        correct: bool | float = True,
        mask_repeats: bool = False,
        bias: bool = True,
    ):
        super().__init__(vocab_size, dim, counts=counts, key=key, bias=bias)
        self.sampler = Unigram(self.counts, 1.0, "cdf") if sampler is None else sampler
        if isinstance(sampler, type) or not all(hasattr(self.sampler, name) for name in ("vocab_size", "log_prob")):
            came = f"the class {sampler.__name__}" if isinstance(sampler, type) else type(sampler).__name__
            raise TypeError(f"losses.InBatchSoftmax: sampler must have a vocab_size and a log_prob(ids), got {came}")
        if self.sampler.vocab_size != vocab_size:
            raise ValueError(
                f"losses.InBatchSoftmax: the sampler must be over the layer's {vocab_size} words, "
                f"it is over {self.sampler.vocab_size}"
            )
        if not isinstance(correct, Real) or not 0.0 <= correct <= 1.0:
            raise ValueError(f"losses.InBatchSoftmax: correct must be a number from 0 to 1, got {correct!r:.60}")
        if not isinstance(mask_repeats, bool):
            raise TypeError(f"losses.InBatchSoftmax: mask_repeats must be True or False, got {mask_repeats!r:.60}")
        self.correct, self.mask_repeats = float(correct), mask_repeats
        probs = getattr(self.sampler, "probs", None)
        self._some_are_never_right = self.correct > 0 and probs is not None and not read((probs > 0).all())

    def loss(self, hidden, targets, *, key=None, reduction="mean"):
        """The loss for hidden (B, d) and targets (B,): a scalar, or (B,) with reduction="none". Needs no key.

        A batch of one has the loss 0 and no gradient (4).
        """
        hidden, targets = self._for_loss(hidden, targets)
        scores = self._shared_scores(hidden, targets)  # (B, B)
        log_q = 0.0
        if self.correct:
            log_q = (self.correct * self.sampler.log_prob(targets)).astype(self.weight.dtype)  # (B,), (5)
        repeats = targets == targets[:, None] if self.mask_repeats else None  # (B, B)
        return self._reduced(in_batch_softmax_loss(scores, log_q=log_q, repeats=repeats), reduction, hidden)

    def score_cost(self, batch_size=1):
        return ScoreCost(1, self.vocab_size)

    def _checked_targets(self, hidden, targets):
        targets = super()._checked_targets(hidden, targets)
        if self._some_are_never_right and not read((self.sampler.probs[targets] > 0).all()):
            raise ValueError(
                "losses.InBatchSoftmax: a target has q(w) = 0, and log q = −∞ cannot be subtracted: what is a target "
                "occurs; give it a count of at least 1"
            )
        return targets


# ---- q, from the targets as they come -----------------------------------------------------------------------------


class StreamingUnigram:
    """How often each of `vocab_size` words is a target, estimated from the targets as they come: (8) and (9).

    Call `update(targets)` for each batch before its loss; `InBatchSoftmax(…, sampler=…)` asks `log_prob`. alpha: the
    weight of the newest gap. Memory 24 bytes a word; an update costs what its batch costs, whatever V is.
    """

    def __init__(self, vocab_size: int, alpha: float = 0.01):
        self.vocab_size = whole("losses.StreamingUnigram: vocab_size", vocab_size)
        if not isinstance(alpha, Real) or not 0.0 < alpha < 1.0:
            raise ValueError(f"losses.StreamingUnigram: alpha must lie between 0 and 1, got {alpha!r}")
        xp = backend.xp()
        self.alpha, self.seen = float(alpha), 0  # how many targets so far: the clock
        self.last = xp.zeros(self.vocab_size)  # when each word was seen last; whole numbers, exact up to 2⁵³
        self.gap, self.total = xp.zeros(self.vocab_size), xp.zeros(self.vocab_size)  # m and u of (8)

    def update(self, ids: Any) -> None:
        """Notes the targets of a batch, ids (B,), in their order."""
        ids = self._checked("update", ids).reshape(-1)
        xp = xp_of(ids)
        place = xp.argsort(ids, kind="stable")  # equal ids side by side, in the order of time
        ids, now = ids[place], place + (self.seen + 1.0)  # (B,)
        index = xp.arange(len(ids))
        again = index > xp.searchsorted(ids, ids, side="left")  # seen before in this batch
        gap = now - xp.where(again, xp.concatenate([now[:1], now[:-1]]), self.last[ids])
        followers = xp.searchsorted(ids, ids, side="right") - 1 - index  # r of (9)
        weight = self.alpha * (1.0 - self.alpha) ** followers
        by_gap, by_one = weight * (gap - self.gap[ids]), weight * (1.0 - self.total[ids])
        xp.add.at(self.gap, ids, by_gap)  # (9)
        xp.add.at(self.total, ids, by_one)
        xp.add.at(self.last, ids, gap)  # the gaps of a batch lead from one occurrence to the next
        self.seen += len(ids)

    def log_prob(self, ids: Any) -> type_of_array:
        """log q(ids), float64, of the shape of `ids`. A word never seen counts as if it were to be the next target."""
        if not self.seen:
            raise ValueError("losses.StreamingUnigram.log_prob: no target was seen so far: call update(targets) first")
        ids = self._checked("log_prob", ids)
        gap, total = self.gap[ids], self.total[ids]
        xp = xp_of(gap)
        return -xp.log(xp.where(total > 0, gap / xp.where(total > 0, total, 1.0), self.seen + 1.0))

    def state_dict(self) -> dict[str, type_of_array]:
        """All that is known, by name, for `minigrad.save`: copies on the CPU."""
        arrays = {name: backend.to_cpu(getattr(self, name)).copy() for name in ("last", "gap", "total")}
        return arrays | {"seen": xp_of(arrays["last"]).asarray(self.seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave; all of it, or, with a ValueError that lists what doesn't fit, nothing."""
        if faults := misfits(self.state_dict(), state):
            raise ValueError(f"losses.StreamingUnigram.load_state_dict: {'; '.join(faults)}")
        self.seen = int(state["seen"])
        for name in ("last", "gap", "total"):
            setattr(self, name, backend.asarray_like(state[name], getattr(self, name), "float64").copy())

    def _checked(self, operation: str, ids: Any) -> type_of_array:
        name = f"losses.StreamingUnigram.{operation}: ids"
        return placed_ids(name, ids.data if isinstance(ids, mg.Tensor) else ids, self.vocab_size, self.gap)


# In PyTorch. Traps: log q belongs to the column. `[:, None]` takes one number off a whole row, which cancels: no error,
# no correction. And a sign: it is subtracted. sparse=True is for SGD, Adagrad and SparseAdam; Adam refuses it.
IN_PYTORCH = """
import torch
import torch.nn.functional as F

out = torch.nn.Embedding(V, d, sparse=True)               # rows of W; sparse: or each step costs V, not B

scores = hidden @ out(targets).T                          # (B, B): context i, target j
a = scores - log_q[targets][None, :]                      # of column j
loss = F.cross_entropy(a, torch.arange(len(targets), device=targets.device), reduction="none")
loss.mean().backward()
"""
