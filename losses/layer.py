"""What every chapter shares: a loss is a sparse gradient on the scores of some rows.

An output layer gives each word w of a vocabulary a score for a context h:

    s_w = W_w · h + b_w                                                                                      (1)

All of them would be V dot products an example. Nearly every chapter looks at a few rows r only, and says what the loss
L is as a function of their scores. All it has to know is G_r = ∂L/∂s_r, for by (1) and the chain rule

    ∂L/∂h = Σ_r G_r W_r,        ∂L/∂W_r = G_r h,        ∂L/∂b_r = G_r,        r ranging over the rows looked at.  (2)

(A word that is looked at twice has two such G, and the sum of both gradients.) So the heart of a chapter is one pure
function, scores in, `(loss, G, …)` out, and (1) and (2) are here, once: `row_scores` for rows that each example has for
itself, as its target; `shared_scores` for rows R (m, d) that the whole batch H (B, d) looks at. What B examples say of
such a row adds up, so that (1) is the matrix product H Rᵀ, and (2) are G R and Gᵀ H. `of_scores` makes a pure function
a primitive of the engine.

Legend: B examples in a batch, V words, d dimensions, k rows an example, m shared rows. Cost of (1) and (2): 3 B k d
multiply-adds, and B k rows of W are read; shared 3 B m d, and m rows. V is nowhere.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import on_cpu, quiet, read, type_of_array, xp_of
from minigrad.ids import placed_ids
from minigrad.rows import worth_a_kernel
from minigrad.rules import look_up
from minigrad.rules import rows as rows_of

from . import kernels
from .samplers import checked_counts, zipf

# ---- (1) and (2) ------------------------------------------------------------------------------------------------


def row_scores_naive(hidden: Any, weight: Any, *bias: Any, ids: type_of_array) -> Any:
    """(1) for rows of each example's own, left to the engine: look up, multiply, sum. See `row_scores`."""
    h = mg.reshape(hidden, (hidden.shape[0], *(1,) * (ids.ndim - 1), hidden.shape[1]))  # (B, d) or (B, 1, d)
    scores = (mg.take(weight, ids) * h).sum(axis=-1)
    return scores + mg.take(bias[0], ids) if bias else scores


READ_IN_PLACE = "by a kernel, which leaves the rows where they are"


def _row_scores(hidden, weight, *bias, ids):
    """(1) for rows of each example's own: ids (B,) -> s (B,), or ids (B, k) -> s (B, k). `bias`: one, or none."""
    each = ids.reshape(len(ids), -1)  # (B, k)
    if worth_a_kernel(weight, hidden) and hidden.flags.c_contiguous:  # else it would be compiled once more
        rows, scores = READ_IN_PLACE, xp_of(hidden).empty(each.shape, hidden.dtype)
        kernels.row_scores(hidden, weight, each, scores)
    else:
        rows = weight.take(each, axis=0)  # (B, k, d): weight[each], but faster
        with quiet():  # a score that overflows is the loss's to report
            scores = (rows @ hidden[:, :, None])[:, :, 0]  # for each example a matrix times a vector
    scores = scores.reshape(ids.shape)
    return scores + bias[0].take(ids) if bias else scores, rows


def _row_scores_rule(g, y, rows, hidden, weight, *bias, ids):
    """(2), with g = G, and with h for each row that an example looks at."""
    (batch, dim), k, xp = hidden.shape, ids.size // len(ids), xp_of(ids)
    G = g.reshape((batch, k, 1))
    if rows is READ_IN_PLACE:
        d_hidden, d_rows = xp.empty_like(hidden), xp.empty((batch, k, dim), hidden.dtype)
        kernels.row_gradients(xp.ascontiguousarray(G), hidden, weight, ids.reshape(batch, k), d_hidden, d_rows)
    else:
        rows = look_up(weight, ids=ids.reshape(batch, k)) if rows is None else rows  # None: we are given tensors
        d_hidden = (G.reshape((batch, 1, k)) @ rows).reshape((batch, dim))
        d_rows = G * mg.reshape(hidden, (batch, 1, dim))  # (B, k, d)
    return d_hidden, *_rows(ids, weight, d_rows, bias, g)


def _shared_scores(hidden, weight, *bias, ids):
    """(1) for rows that the batch shares: ids (m,) -> s (B, m), one matrix product."""
    rows = weight.take(ids, axis=0)  # (m, d)
    with quiet():
        scores = hidden @ rows.T
    return scores + bias[0].take(ids) if bias else scores, rows


def _shared_scores_rule(g, y, rows, hidden, weight, *bias, ids):
    """(2), with g = G: what the examples say of a shared row adds up, and two matrix products say it all."""
    rows = look_up(weight, ids=ids) if rows is None else rows
    return g @ rows, *_rows(ids, weight, g.T @ hidden, bias, g.sum(axis=0) if bias else None)


def _rows(ids, weight, d_rows, bias, d_scores):
    """The gradients of W, and of b if there is one: `Rows` of those looked at."""
    return [rows_of(d_rows, weight.shape, ids), *(rows_of(d_scores, b.shape, ids) for b in bias)]


row_scores = mg.primitive("row_scores", _row_scores, joint=_row_scores_rule)
shared_scores = mg.primitive("shared_scores", _shared_scores, joint=_shared_scores_rule)


def of_scores(function: Callable) -> Callable:
    """A pure function of scores, `function(*scores, **options) -> (loss, *G)`, as a primitive that gives the loss.

    scores: arrays whose first axis is the batch; loss: (B,); G: for each of the scores an array of its shape, the
    derivative of the sum of the losses. Written in minigrad's functions it can be differentiated again.
    """

    @wraps(function)
    def forward(*scores, **options):
        loss, *gradients = function(*scores, **options)
        shapes = [scores[0].shape[:1], *(s.shape for s in scores)]
        if [found.shape for found in (loss, *gradients)] != shapes:  # an option of a wrong shape is broadcast, silently
            came = ", ".join(f"{name} {list(o.shape)}" for name, o in options.items() if hasattr(o, "shape"))
            raise ValueError(f"scores {', '.join(str(list(s.shape)) for s in scores)} do not go with {came}")
        return loss, gradients

    def rule(g, y, gradients, *scores, **options):
        gradients = function(*scores, **options)[1:] if gradients is None else gradients
        return [g.reshape(g.shape + (1,) * (G.ndim - 1)) * G for G in gradients]  # chain rule, one g an example

    return mg.primitive(function.__name__, forward, joint=rule)


def best(scores: type_of_array, k: int) -> type_of_array:
    """The k highest scores of each row, (B, V), best first, and among equals the first: their places, (B, k)."""
    xp = xp_of(scores)
    if on_cpu(scores) and k == 1:
        ids = scores.argmax(axis=1)[:, None]  # the first of equals, but of NaN, too
        if not xp.isnan(xp.take_along_axis(scores, ids, axis=1)).any():
            return ids
    down = -scores
    if on_cpu(scores) and k < scores.shape[1]:  # on a GPU there is no gain: CuPy's argpartition sorts all of a row
        ids = xp.sort(xp.argpartition(down, k - 1, axis=1)[:, :k], axis=1)
        found = xp.take_along_axis(down, ids, axis=1)  # (B, k)
        as_good = down <= found.max(axis=1, keepdims=True)  # as the k-th; none if that is NaN
        if (as_good.sum(axis=1) == k).all():  # in no row another: there is no tie to break
            return xp.take_along_axis(ids, xp.argsort(found, axis=1, kind="stable"), axis=1)
    return xp.argsort(down, axis=1, kind="stable")[:, :k]


# ---- the layer --------------------------------------------------------------------------------------------------


class ScoreCost(NamedTuple):
    """Rows of W touched for one token: in training, and to find its probability or the best word at test."""

    train: float
    test: float


def new_table(key: mg.Key, num_rows: int, dim: int, bias: bool) -> tuple[mg.Tensor, mg.Tensor | None]:
    """A weight (num_rows, dim), uniform in ±1/(2 dim), and a bias of zeros, or None."""
    weight = mg.param((key.uniform((num_rows, dim)) - 0.5) / dim)
    return weight, mg.param([0.0] * num_rows) if bias else None


class OutputLayer:
    """An output layer over `vocab_size` words for contexts of `dim` numbers: equation (1) and a way to train it.

    weight (V, d), bias (V,) or None. The weights begin uniform in ±1/(2d), the bias at zero.
    counts: how often each id occurs, (V,); where a method needs them and none are given it takes Zipf's law,
    count ∝ 1 / (id + 1). key: the `minigrad.Key` of the initial weights.
    """

    tables: tuple[str, ...] = ("weight", "bias")  # the names of what is learned, None among them or not

    def __init__(self, vocab_size: int, dim: int, *, counts: Any = None, key: mg.Key, bias: bool = True):
        name = type(self).__name__
        self.vocab_size = whole(f"losses.{name}: vocab_size", vocab_size, 2)
        self.dim = whole(f"losses.{name}: dim", dim)
        self.counts = checked_counts(f"losses.{name}", zipf(self.vocab_size) if counts is None else counts)
        if len(self.counts) != vocab_size:
            raise ValueError(f"losses.{name}: counts must be {vocab_size} numbers, got {len(self.counts)}")
        if not isinstance(key, mg.Key):
            raise TypeError(f"losses.{name}: key must be a minigrad.Key, as minigrad.Key(1); got {type(key).__name__}")
        self._make_tables(key, bias)

    def _make_tables(self, key: mg.Key, bias: bool) -> None:
        self.weight, self.bias = new_table(key, self.vocab_size, self.dim, bias)

    def parameters(self) -> list[mg.Tensor]:
        return [table for name in self.tables if (table := getattr(self, name)) is not None]

    def loss(self, hidden: mg.Tensor, targets: Any, *, key: mg.Key | None = None, reduction: str = "mean") -> mg.Tensor:
        """The loss of contexts `hidden` (B, d) with right words `targets` (B,): a scalar, or (B,) with "none".

        key: the source of the noise, for layers that sample: the same key, the same noise.
        """
        raise TypeError(f"losses.{type(self).__name__} has no loss")

    def raw_scores(self, hidden: mg.Tensor) -> mg.Tensor:
        """s_w of every word, equation (1): (B, d) -> (B, V)."""
        scores = self._checked(hidden) @ self.weight.T
        return scores if self.bias is None else scores + self.bias

    def scores(self, hidden: mg.Tensor) -> mg.Tensor:
        """What the words are ordered by, (B, d) -> (B, V): if there is a `log_prob`, that up to a number for each h."""
        return self.raw_scores(hidden)

    def log_prob(self, hidden: mg.Tensor) -> mg.Tensor:
        """log P(w | h) of every word, (B, V), normalised: O(B V d)."""
        scores = self.scores(hidden)
        return scores - mg.logsumexp(scores, axis=1, keepdims=True)

    def log_prob_of(self, hidden: mg.Tensor, targets: Any) -> mg.Tensor:
        """log P(w | h) of one word for each context, `targets` (B,), normalised: (B,). Here O(B V d)."""
        hidden, targets = self._for_loss(hidden, targets)
        return mg.take_along_axis(self.log_prob(hidden), targets[:, None], axis=1)[:, 0]

    def log_z(self, hidden: mg.Tensor) -> mg.Tensor:
        """log Σ_w e^{s_w} of the raw scores, (B,): 0 where they are log-probabilities already."""
        return mg.logsumexp(self.raw_scores(hidden), axis=1)

    def topk(self, hidden: mg.Tensor, k: int) -> tuple[type_of_array, type_of_array]:
        """The k best words of each context by `scores`, best first: ids (B, k) and their scores (B, k)."""
        whole(f"losses.{type(self).__name__}.topk: k", k, most=self.vocab_size)
        with mg.no_grad():
            scores = self.scores(hidden).data
        ids = best(scores, k)
        return ids, xp_of(scores).take_along_axis(scores, ids, axis=1)

    def score_cost(self, batch_size: int = 1) -> ScoreCost:
        """Rows of W touched a token, in batches of `batch_size`."""
        return ScoreCost(self.vocab_size, self.vocab_size)

    # ---- shared by the chapters' losses: of ids that were checked, or drawn ----

    def _row_scores(self, hidden: mg.Tensor, ids: type_of_array) -> mg.Tensor:
        """Equation (1) for rows of each example's own: ids (B,) -> (B,), or (B, k) -> (B, k)."""
        return row_scores(hidden, self.weight, *self._bias(), ids=ids)

    def _shared_scores(self, hidden: mg.Tensor, ids: type_of_array) -> mg.Tensor:
        """Equation (1) for rows that the batch shares: ids (m,) -> (B, m), one matrix product."""
        return shared_scores(hidden, self.weight, *self._bias(), ids=ids)

    def _bias(self) -> tuple[mg.Tensor, ...]:
        return () if self.bias is None else (self.bias,)

    def _checked(self, hidden: Any, finite: bool = True) -> mg.Tensor:
        """`hidden` as a tensor (B, d). finite: look for NaN and infinities now, which on a GPU is a wait."""
        hidden = hidden if isinstance(hidden, mg.Tensor) else mg.tensor(hidden)
        if hidden.ndim != 2 or hidden.shape[1] != self.dim or not hidden.shape[0]:
            raise ValueError(
                f"losses.{type(self).__name__}: hidden must have shape (B, {self.dim}) with B >= 1, "
                f"got {list(hidden.shape)}"
            )
        if finite and not read(xp_of(hidden.data).isfinite(hidden.data).all()):
            raise FloatingPointError(f"losses.{type(self).__name__}: hidden holds NaN or infinities")
        if hidden.dtype != self.weight.dtype:
            raise TypeError(
                f"losses.{type(self).__name__}: hidden is {hidden.dtype}, the layer's weights are {self.weight.dtype}; "
                f"convert one: hidden.astype({str(self.weight.dtype)!r})"
            )
        return hidden

    def _checked_targets(self, hidden: mg.Tensor, targets: Any) -> type_of_array:
        name = f"losses.{type(self).__name__}: targets"
        targets = placed_ids(
            name, targets.data if isinstance(targets, mg.Tensor) else targets, self.vocab_size, hidden.data
        )
        if targets.shape != hidden.shape[:1]:
            raise ValueError(f"{name} must have shape ({hidden.shape[0]},), got {list(targets.shape)}")
        return targets

    def _for_loss(self, hidden: Any, targets: Any) -> tuple[mg.Tensor, type_of_array]:
        """Both checked; but on a GPU whether all is finite is asked once, when the loss is there (`_reduced`)."""
        hidden = hidden if isinstance(hidden, mg.Tensor) else mg.tensor(hidden)
        hidden = self._checked(hidden, finite=on_cpu(hidden.data))
        return hidden, self._checked_targets(hidden, targets)

    def _reduced(self, losses: mg.Tensor, reduction: str, hidden: mg.Tensor) -> mg.Tensor:
        isfinite = xp_of(losses.data).isfinite
        finite = isfinite(losses.data).all()
        if not read(finite if on_cpu(losses.data) else finite & isfinite(hidden.data).all()):
            self._checked(hidden)
            raise FloatingPointError(
                f"losses.{type(self).__name__}: the loss of some example is not finite: the weights hold NaN or "
                "infinities, or have grown so large that a score overflows (is the learning rate too high?)"
            )
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(
                f'losses.{type(self).__name__}: reduction must be "mean", "sum" or "none", got {reduction!r}'
            )
        return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()
