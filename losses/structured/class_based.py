"""The class-based softmax: predict the word's class first, then the word among those of its class.

A softmax over V words looks at a row of W for each. Goodman ("Classes for fast maximum entropy training", ICASSP 2001)
assigns each word to one of C classes, and has two small decisions instead of a large one. The slide: P(c | h) =
softmax(…), P(x | c, h) = softmax(…). "Quiz: What is the computational complexity?" In a line: O(√V d) for a word's
probability and its gradient, instead of O(V d). With √V classes of √V words 2√V rows, 200 instead of 10,000: (4). What
frequencies change, (5) to (7) show: under Zipf's law 2S ≈ 4 √(V / H_V), with H_V = 1 + 1/2 + … + 1/V, 127 rows. All V
probabilities still cost O(V d), and the best word may cost as much, (8).

    h     the context, d numbers; t the right word           n_c   how many words class c has; V words, C classes
    c(w)  the class of word w: a partition of the words      q(w)  count(w) / Σ count, its share; Q_c = Σ_{w∈c} q(w)
    s_c   the score of a class, U_c · h + a_c                s_w   the score of a word, W_w · h + b_w

The loss.
    (1)  P(w | h) = P(c(w) | h) P(w | c(w), h),
             P(c | h) = e^{s_c} / Σ_k e^{s_k},   P(w | c, h) = e^{s_w} / Σ_{v∈c} e^{s_v}.
         It sums to one for every partition:  Σ_w P(w | h) = Σ_c P(c | h) Σ_{w∈c} P(w | c, h) = Σ_c P(c | h).  It is
         another model than the softmax, of V + C rows, not an estimate of it.
    (2)  L = −log P(c(t) | h) − log P(t | c(t), h): the loss of `softmax.py` twice, over classes and over one class's
         words. Classes differ in size, so the words' scores of a batch of B are an array (B, width) with filling on the
         right, which must count as e^{−∞} = 0. (As zeros it would be words with a score of 0.)

Its gradient.
    (3)  G_c = P(c | h) − 1[c = c(t)] for every class;  G_w = P(w | c(t), h) − 1[w = t] for the words of c(t), and zero
         for all others. So C + n_{c(t)} rows are looked at, and have a gradient: `log_prob_of` needs no others either.
         With a single class, or each word its own, it is the full softmax, and costs one row more, V + 1.

The quiz.
    (4)  C classes of V/C words each: C + V/C rows. As (√C − √(V/C))² ≥ 0 that is 2√V at least, and 2√V for C = √V.
    (5)  But words are not equally frequent. The expected number of rows is  C + Σ_w q(w) n_{c(w)} = C + Σ_c Q_c n_c.
         Bins of equal mass, in order of frequency (Mikolov et al., ICASSP 2011), have frequent words in small classes,
         and yet cost what equal sizes do,  Σ_c (1/C) n_c = V/C,  if every bin has just 1/C. A word heavier than a bin
         forbids that. RNNLM gives it a class of its own and goes on: under Zipf's law, V = 10,000, C = 100, 200 rows.
         Here the bins that it covers are dropped: 80 bins, 180 rows; 177 for the best C, still far from (6).
    (6)  By Cauchy and Schwarz  Q_c n_c = Σ_{w∈c} q(w) Σ_{w∈c} 1 ≥ (Σ_{w∈c} √q(w))² = R_c²,  and  Σ_c R_c² ≥ S² / C with
         S = Σ_w √q(w).  So any partition costs at least C + S²/C, and that is at least 2S. The first is reached if the
         words of a class are equally frequent and all R_c are equal, the second if C = S. Bins of equal Σ√count (RNNLM
         has them, too) come near it, if words of nearby ranks are about as frequent. S² takes the place of V in (4): it
         is V if q is uniform, else less. Zipf's law again: 140 rows for C = 100, 127.1 for C = 64, and 2S is 126.9.
    (7)  To swap v of class c and w of class k changes the sum by (q(v) − q(w)) (n_k − n_c). So it is least if more
         frequent words are in smaller classes, and a best partition cuts the order of frequency. What is best for the
         first j words,  f(j) = min_i f(i) + 1 + (Q_j − Q_i)(j − i)  with Q_j their mass, ends in a class of the words
         i + 1 … j. That is exact, in O(V²), or, as the best i rises with j, in O(V log V) by the kernel. (Zweig and
         Makarychev, "Speed regularization and optimality in word classing", ICASSP 2013, have a dynamic program of this
         kind.) It is the layer's default. Up to rank^−2 it gains less than a thousandth on (6); where frequencies fall
         faster, and S is near 1, more: for rank^−3 7 rows, bins of equal Σ√count 9 for the best C, 645 for C = S.

How fast is one thing, how good another. Any words in classes of these sizes and masses are as fast, but the model has
to tell the classes apart: Zweig and Makarychev find that classes made for speed degrade the perplexity by 5 to 10
percent, against those of words that behave alike. Give such with `classes=`: from Brown et al. ("Class-based n-gram
models of natural language", Computational Linguistics 1992), say, or from mkcls (Och, EACL 1999).

At test.
    (8)  P(w | h) ≤ P(c(w) | h). So for the k best words look at the most probable classes, until they hold k words, and
         then at those only that are as probable as the k-th best word found: no word of another can be among the k.
         How many these are depends on h: one for a sure model, all for an unsure one.
    (9)  A batch of B examples touches the rows of a class once, if any of its targets is there. If they are drawn
         independently, that is so with probability 1 − (1 − Q_c)^B: in expectation Σ_c n_c (1 − (1 − Q_c)^B) of W's
         rows. (That is memory traffic of the big table. The multiply-adds stay those of (5), whatever B is.)

Cost per example, forward and backward: 3 (C + n_{c(t)}) d multiply-adds, under Zipf's law 3 · 127 d on average. That
is by the kernel, which reads a class as long as it is. Array code, a GPU and the PyTorch lines below fill each row up
to the widest class, and cost 3 (C + max_c n_c) d: 373 rows for the best partition, and 200 for classes of equal size,
which are the best there. Give `classes=equal_size_classes(counts, round(√V))`.
"""

import math
from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import on_cpu, quiet, read, to_cpu, type_of_array, xp_of
from minigrad.ids import note_range
from minigrad.rows import worth_a_kernel
from minigrad.rules import look_up, scatter_rows
from minigrad.rules import rows as rows_of

from ..layer import ScoreCost, best, of_scores, row_scores
from ..softmax import softmax_cross_entropy
from . import kernels
from .layer import StructuredLayer
from .partitions import (  # noqa: F401, are found here, too
    best_classes,
    checked_classes,
    equal_mass_classes,
    equal_size_classes,
    expected_rows,
    frequencies,
    sqrt_count_classes,
    sums,
    unsorted,
)

# ---- the naive way: the slide's formula, left to the engine ------------------------------------------------------


def class_softmax_naive(class_scores: Any, word_scores: Any, *, target_class: Any, target_word: Any, sizes: Any) -> Any:
    """(1) and (2) as they stand, arguments as for `class_softmax`: -> loss (B,). Infinite or NaN for large scores."""
    e = mg.where(_filling(word_scores, sizes), 0.0, mg.exp(word_scores))  # (B, n)
    of_class = mg.take_along_axis(mg.softmax(class_scores), target_class[:, None], axis=1)[:, 0]
    in_class = mg.take_along_axis(e, target_word[:, None], axis=1)[:, 0] / e.sum(axis=1)
    return -mg.log(of_class * in_class)


def _filling(word_scores: Any, sizes: type_of_array) -> type_of_array:
    """Which of the columns are no words: (B, n) booleans."""
    return xp_of(sizes).arange(word_scores.shape[1]) >= sizes[:, None]


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def class_softmax(
    class_scores: Any,
    word_scores: Any,
    *,
    target_class: type_of_array,
    target_word: type_of_array,
    sizes: type_of_array,
) -> tuple[Any, Any, Any]:
    """Loss (2) and gradient (3): class_scores (B, C), word_scores (B, n) -> loss (B,), ∂L/∂s_c (B, C), ∂L/∂s_w (B, n).

    Of arrays, or of tensors if it is to be differentiated again. word_scores: of the words of the target's class, in
    the first sizes[b] columns; what the others hold is not looked at, and has G = 0. target_class (B,): the number of
    the class; target_word (B,): that of the word in its class.
    """
    _check_places(class_scores, word_scores, target_class, target_word, sizes)
    class_loss, G_class = softmax_cross_entropy(class_scores, target_class)
    word_loss, G_word = _ragged_softmax(word_scores, target_word, sizes)
    return class_loss + word_loss, G_class, G_word


def _check_places(class_scores: Any, word_scores: Any, target_class, target_word, sizes) -> None:
    """A kernel would read and write past the ends of arrays. (On a GPU there is none, and one would have to wait.)"""
    (batch, num_classes), width = class_scores.shape, word_scores.shape[1]
    for name, ids, low, high, limits in (
        ("target_class", target_class, 0, num_classes, f"[0, {num_classes})"),
        ("sizes", sizes, 1, width + 1, f"[1, {width}]"),
        ("target_word", target_word, 0, sizes, "[0, sizes)"),
    ):
        if not len(ids) == len(word_scores) == batch or ids.ndim != 1 or ids.dtype.kind not in "iu":
            of = f"losses.class_softmax: {name} must be integers (B,) for scores (B, C) and (B, n)"
            shapes = ", ".join(str(list(part.shape)) for part in (ids, class_scores, word_scores))
            raise ValueError(f"{of}, got {ids.dtype} {shapes}")
        if on_cpu(ids) and (wrong := (ids < low) | (ids >= high)).any():
            of = f" of {sizes[wrong][0]}" if ids is target_word else ""
            raise IndexError(f"losses.class_softmax: {name} must lie in {limits}, got {ids[wrong][0]}{of}")


def _ragged_softmax(scores: Any, targets: type_of_array, sizes: type_of_array) -> tuple[Any, Any]:
    """`softmax_cross_entropy` of the first sizes[b] columns of each row: loss (B,), G (B, n), zero in the filling."""
    if type(scores) is not mg.Tensor and worth_a_kernel(scores, scores, 512):
        losses, G = xp_of(scores).empty(len(scores), scores.dtype), xp_of(scores).empty_like(scores)
        kernels.ragged_softmax(scores, targets, sizes, losses, G)
        return losses, G
    return softmax_cross_entropy(mg.where(_filling(scores, sizes), -math.inf, scores), targets)


class_softmax_loss = of_scores(class_softmax)


# ---- the fast way: a class's rows lie side by side, and are read once a batch ----------------------------------------

READ_IN_PLACE = "by a kernel, which leaves the rows where they are"


def _class_rows(hidden, weight, *bias, first, sizes, width):
    """The scores of rows first[b], …, first[b] + sizes[b] − 1 of W for each example: (B, width), the rest filling.

    The array code looks the rows up for each example, B · width · d numbers, and repeats the class's last one as
    filling, whose G is 0: on a GPU nobody waits to hear how many there are in all, and no other class has a gradient.
    """
    if worth_a_kernel(weight, hidden) and hidden.flags.c_contiguous:
        scores = xp_of(hidden).zeros((len(hidden), width), hidden.dtype)
        kernels.class_rows(hidden, weight, bias[0] if bias else None, first, sizes, scores)
        return scores, READ_IN_PLACE
    return row_scores.op.forward(hidden, weight, *bias, ids=_padded(first, sizes, width))


def _class_rows_rule(g, y, residual, hidden, weight, *bias, first, sizes, width):
    """∂L/∂h, and `Rows` of W and b; by the kernel each row of the batch's classes once."""
    if residual is not READ_IN_PLACE:
        return row_scores.op.joint(g, y, residual, hidden, weight, *bias, ids=_padded(first, sizes, width))
    xp, order = xp_of(hidden), first.argsort(kind="stable")
    n = int(sizes[xp.unique(first, return_index=True)[1]].sum())
    d_hidden, ids = xp.empty_like(hidden), xp.empty(n, "int64")
    d_rows, d_bias = xp.empty((n, weight.shape[1]), weight.dtype), xp.empty(n, weight.dtype)
    kernels.class_rows_gradients(
        xp.ascontiguousarray(g), hidden, weight, order, first, sizes, d_hidden, ids, d_rows, d_bias
    )
    return d_hidden, rows_of(d_rows, weight.shape, ids), *(rows_of(d_bias, b.shape, ids) for b in bias)


def _padded(first: type_of_array, sizes: type_of_array, width: int) -> type_of_array:
    """first[b] + 0, 1, …, sizes[b] − 1, and the last again and again: (B, width)."""
    columns = xp_of(first).arange(width)
    return first[:, None] + xp_of(first).minimum(columns, sizes[:, None] - 1)


class_rows = mg.primitive("class_rows", _class_rows, joint=_class_rows_rule)


class ClassSoftmax(StructuredLayer):
    """The class-based softmax over `vocab_size` words for contexts of `dim` numbers.

    classes: the class of each word, (V,) integers 0, …, C − 1, none of them left out; if not given, the cheapest for
    the counts, `best_classes` (in which a word that never occurred counts as one of the rarest that did). counts, key,
    bias: see `OutputLayer`. The rows of weight (V, d) and bias (V,) are sorted by class: word w is row `place[w]`.
    class_weight (C, d), class_bias (C,): the scores of the classes.
    """

    tables = ("weight", "bias", "class_weight", "class_bias")

    def __init__(
        self, vocab_size: int, dim: int, *, counts: Any = None, key: mg.Key, classes: Any = None, bias: bool = True
    ):
        super().__init__(vocab_size, dim, counts=counts, key=key, bias=bias)
        xp = xp_of(self.counts)
        if classes is None:
            least = xp.where(self.counts > 0, self.counts, math.inf).min()
            classes = best_classes(xp.maximum(self.counts, least))
        self.classes, self._sizes = checked_classes("losses.ClassSoftmax", classes, self.counts)
        self.words = self.classes.argsort(kind="stable")  # of each row of W; in a class by their ids
        self.place = unsorted(xp.arange(vocab_size), self.words)
        self._first = self._sizes.cumsum() - self._sizes
        sizes = to_cpu(self._sizes).tolist()
        self.num_classes, self._widest = len(sizes), max(sizes)
        self._bounds = [0, *to_cpu(self._sizes.cumsum()).tolist()]
        self.class_weight, self.class_bias = self._table(0, self.num_classes)
        self.weight, self.bias = self._table(1, vocab_size)

    def _losses(self, hidden, targets):
        classes = self.classes[targets]
        first, sizes = self._first[classes], self._sizes[classes]
        in_class = self.place[targets] - first
        width = int(sizes.max()) if on_cpu(sizes) else self._widest  # a GPU would have to be waited for
        note_range(classes, 0, self.num_classes - 1)
        note_range(in_class, 0, width - 1)
        scores = class_rows(hidden, self.weight, *self._bias(), first=first, sizes=sizes, width=width)
        return class_softmax_loss(
            self._class_scores(hidden), scores, target_class=classes, target_word=in_class, sizes=sizes
        )

    def _class_scores(self, hidden):
        return mg.linear(hidden, self.class_weight, 0.0 if self.class_bias is None else self.class_bias)

    def log_prob_of(self, hidden, targets):
        """log P(w | h) of one word for each context, targets (B,): (B,). From C + n_{c(w)} rows (3)."""
        hidden, targets = self._for_loss(hidden, targets)
        with quiet():
            return -self._losses(hidden, targets)

    def log_prob(self, hidden):
        """log P(w | h) of every word, (B, V), by (1): O(B V d)."""
        hidden = self._checked(hidden)
        scores = self.weight @ hidden.T  # (V, B), the words of a class side by side
        scores = scores if self.bias is None else scores + mg.reshape(self.bias, (-1, 1))
        xp, own = xp_of(scores.data), self.classes[self.words]  # (V,): the class of each row
        top = xp.stack([scores.data[i:j].max(axis=0) for i, j in zip(self._bounds, self._bounds[1:])])  # (C, B)
        scores = scores - top[own]
        totals = scatter_rows(mg.exp(scores), ids=own, shape=top.shape)  # (C, B): Σ_{w∈c} e^{s_w}
        logs = mg.log_softmax(self._class_scores(hidden)).T - mg.log(totals)
        return look_up(scores + look_up(logs, ids=own), ids=self.place).T

    def topk(self, hidden, k):
        """The k most probable words, best first: ids (B, k), their log P(w | h) (B, k). By (8), and of each class for
        all contexts that need it at once.

        On a GPU from all words: to hear of each class who needs it would take longer.
        """
        hidden = hidden if isinstance(hidden, mg.Tensor) else mg.tensor(hidden)
        if not on_cpu(hidden.data) or whole("losses.ClassSoftmax.topk: k", k) > self.vocab_size:
            return super().topk(hidden, k)
        with mg.no_grad():
            log_p = mg.log_softmax(self._class_scores(self._checked(hidden))).data  # (B, C)
        xp, (batch, num_classes) = xp_of(log_p), log_p.shape
        order = (-log_p).argsort(axis=1, kind="stable")
        sizes, first = self._sizes[order], xp.empty(log_p.shape, bool)
        first[xp.arange(batch)[:, None], order] = sizes.cumsum(axis=1) - sizes < k  # better classes hold fewer words
        found = xp.full((batch, k), self.vocab_size), xp.full((batch, k), -math.inf, log_p.dtype)
        with quiet():
            for c in range(num_classes):
                self._look_into(c, first[:, c].nonzero()[0], hidden.data, log_p[:, c], *found)
            for c in (-log_p.mean(axis=0)).argsort(kind="stable").tolist():  # so that bounds are soon tight
                needed = (log_p[:, c] >= found[1][:, -1]) & ~first[:, c]  # (8)
                self._look_into(c, needed.nonzero()[0], hidden.data, log_p[:, c], *found)
        return found

    def _look_into(self, c: int, who: type_of_array, hidden: type_of_array, log_p: type_of_array, ids, scores) -> None:
        """The contexts `who` look for words in class c, whose log P(c | h) is log_p (B,): into ids, scores (B, k)."""
        if not len(who):
            return
        rows = slice(self._bounds[c], self._bounds[c + 1])
        words, s = self.words[rows], hidden[who] @ self.weight.data[rows].T  # (m, n_c)
        s = s if self.bias is None else s + self.bias.data[rows]
        s -= s.max(axis=1, keepdims=True)
        xp, k = xp_of(s), ids.shape[1]
        of_best = log_p[who] - xp.log(xp.exp(s).sum(axis=1))  # log P(w | h) of the class's best word, whose s is 0
        useful = ~(of_best < scores[who, -1])
        who, s = who[useful], s[useful] + of_best[useful, None]
        places = best(s, min(k, len(words)))
        all_ids = xp.concatenate([ids[who], words[places]], axis=1)
        all_scores = xp.concatenate([scores[who], xp.take_along_axis(s, places, axis=1)], axis=1)
        order = xp.lexsort((all_ids, -all_scores))[:, :k]  # among equals the smaller id
        ids[who], scores[who] = (xp.take_along_axis(both, order, axis=1) for both in (all_ids, all_scores))

    def score_cost(self, batch_size=1):
        """C for the classes, each of which every token needs, as `FullSoftmax` counts V; and of W's rows the expected
        number by (9), for targets that follow the counts, divided by B. At test, for the probability of one word,
        `expected_rows`; `topk` looks into as many classes as it must.
        """
        batch_size = whole("losses.ClassSoftmax.score_cost: batch_size", batch_size)
        xp = xp_of(self.counts)
        mass = xp.minimum(sums(self.classes, frequencies(self.counts), self.num_classes), 1.0)  # Q_c
        with quiet():  # log 0, if a class has all the mass
            visited = -xp.expm1(batch_size * xp.log1p(-mass))  # 1 − (1 − Q_c)^B, with digits where Q_c is small
        rows = float(read((self._sizes * visited).sum())) / batch_size
        return ScoreCost(self.num_classes + rows, expected_rows(self.counts, self.classes))


# In PyTorch. `members` (C, n) has the words of each class, and −1 where there are none; `class_of`, `place` (V,). The
# trap: filling that is not masked is a word with a score: probability leaks to it, the loss is too high, and nothing
# warns. Mask the scores, with −∞, not the loss. And filling costs as much as words: `members` is as wide as the widest
# class, so let classes be equally large. (sparse=True, or each step writes all V rows; then the optimiser has to be
# SGD, Adagrad or SparseAdam.)
IN_PYTORCH = """
import torch
import torch.nn.functional as F

words = torch.nn.Embedding(V, d, sparse=True)             # W
classes = torch.nn.Linear(d, C, bias=False)               # U

c = class_of[targets]                                     # (B,)
rows = words(members[c].clamp(min=0))                     # (B, L, d)
scores = torch.einsum("bld,bd->bl", rows, hidden)         # (B, n)
scores = scores.masked_fill(members[c] < 0, -torch.inf)
loss = F.cross_entropy(classes(hidden), c, reduction="none")
loss = loss + F.cross_entropy(scores, place[targets], reduction="none")
loss.mean().backward()
"""
