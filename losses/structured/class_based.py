"""The class-based softmax: predict the word's class first, then the word among those of its class.

A softmax over V words looks at a row of W for each. Goodman ("Classes for fast maximum entropy training", ICASSP 2001)
assigns each word to one of C classes, and has two small decisions instead of a large one. The slide: P(c | h) =
softmax(…), P(x | c, h) = softmax(…). "Quiz: What is the computational complexity?" Steps (4) to (7) are the answer.

    h     the context, d numbers; t the right word           n_c   how many words class c has; V words, C classes
    c(w)  the class of word w: a partition of the words      q(w)  how often w occurs; Q_c = Σ_{w∈c} q(w)
    s_c   the score of a class, U_c · h + a_c                s_w   the score of a word, W_w · h + b_w

The loss.
    (1)  P(w | h) = P(c(w) | h) P(w | c(w), h),   P(c | h) = e^{s_c} / Σ_k e^{s_k},   P(w | c, h) = e^{s_w} / Σ_{v∈c}
         e^{s_v}.  It sums to one for every partition:  Σ_w P(w | h) = Σ_c P(c | h) Σ_{w∈c} P(w | c, h) = Σ_c P(c | h).
    (2)  L = −log P(c(t) | h) − log P(t | c(t), h): the loss of `softmax.py` twice, over classes and over one class's
         words. Classes differ in size, so in a batch the words' scores are an array (B, L) with filling on the right,
         which must count as e^{−∞} = 0. (As zeros it would be words with a score of 0.)

Its gradient.
    (3)  G_c = P(c | h) − 1[c = c(t)] for every class;  G_w = P(w | c(t), h) − 1[w = t] for the words of c(t), and zero
         for all others. So C + n_{c(t)} rows are looked at, and have a gradient: `log_prob_of` needs no others either.
         With a single class, or with a class for each word, it is the full softmax.

The quiz.
    (4)  C classes of V/C words each: C + V/C rows. As (√C − √(V/C))² ≥ 0 that is 2√V at least, and 2√V for C = √V.
    (5)  But words are not equally frequent. The expected number of rows is  C + Σ_w q(w) n_{c(w)} = C + Σ_c Q_c n_c.
         Bins of equal mass, Q_c = 1/C, of words in order of frequency (Mikolov et al., ICASSP 2011) have frequent words
         in small classes, and yet they gain nothing:  Σ_c (1/C) n_c = V/C,  what equal sizes cost.  (A word heavier
         than a bin leaves bins empty, which can be dropped. Under Zipf's law, V = 10,000, C = 100, that leaves 80 bins
         and 180 rows, instead of 200.)
    (6)  By Cauchy and Schwarz  Q_c n_c = Σ_{w∈c} q(w) Σ_{w∈c} 1 ≥ (Σ_{w∈c} √q(w))² = S_c²,  and  Σ_c S_c² ≥ S² / C with
         S = Σ_w √q(w).  So any partition costs  C + S²/C ≥ 2S  or more, with equality if the words of a class are
         equally frequent, all S_c are equal, and C = S. Bins of equal Σ√count (Mikolov's RNNLM 0.4 has them) come near
         it, if words of nearby ranks are about as frequent. S² takes the place of V in (4): it is V if q is uniform,
         else less. Zipf's law again: 140 rows for C = √V = 100, 127.1 for C = S = 63, and 2S is 126.9.
    (7)  Given the sizes, the sum is least if more frequent words are in smaller classes, so the best partition cuts the
         order of frequency. What is best for the first j words, f(j) = min_i f(i) + 1 + (Q_j − Q_i)(j − i) with Q_j
         their mass, ends in a class of the words i + 1 … j. That is exact, in O(V²), or by the kernel O(V log V) (Zweig
         and Makarychev, "Speed regularization and optimality in word classing", ICASSP 2013, have a dynamic program of
         this kind). It is the layer's default: under Zipf's law it gains next to nothing on (6), under a steeper one,
         where neighbours differ by factors and (6) is far from equality, √count bins cost many times as much.

How fast is one thing, how good another. Any words in classes of these sizes and masses are as fast, but the model has
to tell the classes apart: Zweig and Makarychev find that classes made for speed degrade the perplexity by 5 to 10
percent, against those of words that behave alike. Give such, from a clustering of your own, with `classes=`.

At test.
    (8)  P(w | h) ≤ P(c(w) | h). So for the k best words visit the classes best first, and stop where the class's
         probability is below the k-th best word found: no word of it, or of those after it, can be among the k.
    (9)  A batch of B examples touches the rows of a class once, if any of its targets is there. That is so with
         probability 1 − (1 − Q_c)^B: in expectation Σ_c n_c (1 − (1 − Q_c)^B) of W's rows.

Cost per example, forward and backward: 3 (C + n_{c(t)}) d multiply-adds; under Zipf's law 3 · 2S d on average.
"""

import math
from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import asarray_like, on_cpu, quiet, read, to_cpu, type_of_array, xp_of
from minigrad.ids import note_range, placed_ids
from minigrad.rows import worth_a_kernel
from minigrad.rules import array_of, look_up, scatter_rows
from minigrad.rules import rows as rows_of

from ..layer import ScoreCost, of_scores, row_scores
from ..samplers import checked_counts
from ..softmax import softmax_cross_entropy
from . import kernels
from .layer import StructuredLayer, by_frequency

# ---- the naive way: the slide's formula, left to the engine ------------------------------------------------------


def class_softmax_naive(class_scores: Any, word_scores: Any, *, target_class: Any, target_word: Any, sizes: Any) -> Any:
    """(1) and (2) as they stand, arguments as for `class_softmax`: -> loss (B,). Infinite or NaN for large scores."""
    e = mg.where(_filling(word_scores, sizes), 0.0, mg.exp(word_scores))  # (B, L)
    of_class = mg.take_along_axis(mg.softmax(class_scores), target_class[:, None], axis=1)[:, 0]
    in_class = mg.take_along_axis(e, target_word[:, None], axis=1)[:, 0] / e.sum(axis=1)
    return -mg.log(of_class * in_class)


def _filling(word_scores: Any, sizes: type_of_array) -> type_of_array:
    """Which of the columns are no words: (B, L) booleans."""
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
    """Loss (2) and gradient (3): class_scores (B, C), word_scores (B, L) -> loss (B,), ∂L/∂s_c (B, C), ∂L/∂s_w (B, L).

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
            of = f"losses.class_softmax: {name} must be integers (B,) for scores (B, C) and (B, L)"
            shapes = ", ".join(str(list(part.shape)) for part in (ids, class_scores, word_scores))
            raise ValueError(f"{of}, got {ids.dtype} {shapes}")
        if on_cpu(ids) and (wrong := (ids < low) | (ids >= high)).any():
            of = f" of {sizes[wrong][0]}" if ids is target_word else ""
            raise IndexError(f"losses.class_softmax: {name} must lie in {limits}, got {ids[wrong][0]}{of}")


def _ragged_softmax(scores: Any, targets: type_of_array, sizes: type_of_array) -> tuple[Any, Any]:
    """`softmax_cross_entropy` of the first sizes[b] columns of each row: loss (B,), G (B, L), zero in the filling."""
    if type(scores) is not mg.Tensor and worth_a_kernel(scores, scores, 512):
        losses, G = xp_of(scores).empty(len(scores), scores.dtype), xp_of(scores).empty_like(scores)
        kernels.ragged_softmax(scores, targets, sizes, losses, G)
        return losses, G
    return softmax_cross_entropy(mg.where(_filling(scores, sizes), -math.inf, scores), targets)


class_softmax_loss = of_scores(class_softmax)


# ---- which word is in which class -----------------------------------------------------------------------------------


def equal_size_classes(counts: Any, num_classes: int) -> type_of_array:
    """The class of each word, (V,): `num_classes` equally large ones, but for one word, in order of frequency (4)."""
    return _in_bins("equal_size_classes", counts, 0.0, num_classes)


def equal_mass_classes(counts: Any, num_classes: int) -> type_of_array:
    """The class of each word, (V,), in order of frequency: bins of equal probability (5); empty ones are dropped."""
    return _in_bins("equal_mass_classes", counts, 1.0, num_classes)


def sqrt_count_classes(counts: Any, num_classes: int | None = None) -> type_of_array:
    """The class of each word, (V,), in order of frequency: bins of equal Σ√count (6); empty ones are dropped.

    num_classes: `best_num_classes(counts)` unless given.
    """
    return _in_bins("sqrt_count_classes", counts, 0.5, best_num_classes(counts) if num_classes is None else num_classes)


def best_num_classes(counts: Any) -> int:
    """S = Σ√q to the nearest whole number: the best for bins of equal Σ√count, where (6) is near equality."""
    q = _frequencies(checked_counts("losses.best_num_classes", counts))
    return round(read((q**0.5).sum()))


def best_classes(counts: Any) -> type_of_array:
    """The class of each word, (V,), in the order of frequency: the partition of the least `expected_rows` (7)."""
    counts = checked_counts("losses.best_classes", counts)
    order, xp = by_frequency(counts), xp_of(counts)
    mass = to_cpu(xp.concatenate([xp.zeros(1), _frequencies(counts)[order].cumsum()]))  # Q_0 … Q_V
    if worth_a_kernel(mass, mass):
        last = xp_of(mass).empty(len(mass), "int64")
        kernels.best_cuts(mass, last)
    else:
        last = best_cuts_naive(mass)
    begins, j = xp_of(mass).zeros(len(mass) - 1, "int64"), len(mass) - 1
    while j > 0:
        j = int(last[j])
        begins[j] = 1
    return _unsorted(asarray_like(begins.cumsum() - 1, counts), order)


def best_cuts_naive(mass: type_of_array) -> type_of_array:
    """(7): mass (V + 1,), Q_j -> (V + 1,), for the first j words where their last class begins. O(V²)."""
    xp = xp_of(mass)
    f, last, i = xp.zeros(len(mass)), xp.zeros(len(mass), "int64"), xp.arange(len(mass))
    for j in range(1, len(mass)):
        up_to_j = f[:j] + 1.0 + (mass[j] - mass[:j]) * (j - i[:j])
        last[j] = up_to_j.argmin()
        f[j] = up_to_j[last[j]]
    return last


def expected_rows(counts: Any, classes: Any) -> float:
    """C + Σ_w q(w) n_{c(w)}, (5): the rows that one token looks at, for classes (V,), the class of each word."""
    counts = checked_counts("losses.expected_rows", counts)
    classes, sizes = _checked_classes("losses.expected_rows", classes, counts)
    return len(sizes) + float(read((_frequencies(counts) * sizes[classes]).sum()))


def _frequencies(counts: type_of_array) -> type_of_array:
    """q(w), (V,): of counts whose sum may overflow."""
    counts = counts / counts.max()
    return counts / counts.sum()


def _in_bins(name: str, counts: Any, power: float, num_classes: int) -> type_of_array:
    """Bins of equal Σ count^power: each word, in order of frequency, is in the bin where the middle of its part is."""
    counts = checked_counts(f"losses.{name}", counts)
    if whole(f"losses.{name}: num_classes", num_classes) > len(counts):
        raise ValueError(f"losses.{name}: num_classes must lie in 1 to {len(counts)}, got {num_classes}")
    order, xp = by_frequency(counts), xp_of(counts)
    weight = _frequencies(counts)[order] ** power  # 0⁰ = 1
    middle = weight.cumsum() - 0.5 * weight
    bins = xp.minimum(middle * (num_classes / weight.sum()), num_classes - 1).astype("int64")
    return _unsorted(xp.concatenate([xp.zeros(1, "int64"), bins[1:] > bins[:-1]]).cumsum(), order)  # no empty ones


def _unsorted(values: type_of_array, order: type_of_array) -> type_of_array:
    """values[i] for the word order[i], as an array by words."""
    found = xp_of(order).empty_like(values)
    found[order] = values
    return found


def _sums(classes: type_of_array, values: Any, num_classes: int) -> type_of_array:
    """What the words of each class have together, (C,), of values (V,) or of one number for each."""
    sums = xp_of(classes).zeros(num_classes, getattr(values, "dtype", "int64"))
    xp_of(classes).add.at(sums, classes, values)
    return sums


def _checked_classes(name: str, classes: Any, counts: type_of_array) -> tuple[type_of_array, type_of_array]:
    """The class of each word (V,), and how many words each class has (C,), where `counts` is."""
    expected = f"{name}: classes must be {len(counts)} integers, the class of each word (so that none is in two)"
    try:
        classes = placed_ids(f"{name}: classes", array_of(classes), len(counts), counts)
    except ValueError:  # lists of different lengths
        raise ValueError(f"{expected}, got {classes!r:.60}") from None
    if classes.shape != counts.shape:
        raise ValueError(f"{expected}, got shape {list(classes.shape)}")
    sizes = _sums(classes, 1, int(read(classes.max())) + 1)
    if not read((sizes > 0).all()):
        empty = int(read(sizes.argmin()))
        raise ValueError(
            f"{name}: classes must be numbered 0, 1, …, C − 1, but no word is in class {empty} of 0 to {len(sizes) - 1}"
        )
    return classes, sizes


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
        self.classes, self._sizes = _checked_classes("losses.ClassSoftmax", classes, self.counts)
        self.words = self.classes.argsort(kind="stable")  # of each row of W; in a class by their ids
        self.place = _unsorted(xp.arange(vocab_size), self.words)
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
        sums = scatter_rows(mg.exp(scores), ids=own, shape=top.shape)  # (C, B): Σ_{w∈c} e^{s_w}
        logs = mg.log_softmax(self._class_scores(hidden)).T - mg.log(sums)
        return look_up(scores + look_up(logs, ids=own), ids=self.place).T

    def topk(self, hidden, k):
        """The k most probable words, best first: ids (B, k), their log P(w | h) (B, k). By (8), of the best classes.

        On a GPU from all words: to hear of each class whether to go on would take longer.
        """
        hidden = hidden if isinstance(hidden, mg.Tensor) else mg.tensor(hidden)
        if not on_cpu(hidden.data) or whole("losses.ClassSoftmax.topk: k", k) > self.vocab_size:
            return super().topk(hidden, k)
        hidden = self._checked(hidden)
        with mg.no_grad():
            classes = mg.log_softmax(self._class_scores(hidden)).data  # (B, C)
        found = [self._best_words(*pair, k) for pair in zip(hidden.data, classes)]
        return tuple(xp_of(classes).stack(parts) for parts in zip(*found))

    def _best_words(self, h: type_of_array, log_p: type_of_array, k: int) -> tuple[type_of_array, type_of_array]:
        """(8) for one context (d,), with log P(c | h) (C,): the k best words and their log P(w | h), (k,) both."""
        xp = xp_of(h)
        ids, scores = xp.empty(0, "int64"), xp.empty(0, h.dtype)
        for c in (-log_p).argsort(kind="stable").tolist():
            if len(ids) == k and log_p[c] < scores[-1]:
                break
            rows = slice(self._bounds[c], self._bounds[c + 1])
            words = self.weight.data[rows] @ h + (0.0 if self.bias is None else self.bias.data[rows])
            ids = xp.concatenate([ids, self.words[rows]])
            scores = xp.concatenate([scores, log_p[c] + mg.log_softmax(words)])
            order = xp.lexsort((ids, -scores))[:k]  # among equals the smaller id
            ids, scores = ids[order], scores[order]
        return ids, scores

    def score_cost(self, batch_size=1):
        """C for the classes, whose table is small and looked at whole, and of W's rows the expected number by (9), for
        targets that follow the counts, divided by B. At test, for the probability of one word, `expected_rows`; `topk`
        visits as many classes as it must.
        """
        batch_size = whole("losses.ClassSoftmax.score_cost: batch_size", batch_size)
        xp = xp_of(self.counts)
        mass = xp.minimum(_sums(self.classes, _frequencies(self.counts), self.num_classes), 1.0)  # Q_c
        with quiet():  # log 0, if a class has all the mass
            visited = -xp.expm1(batch_size * xp.log1p(-mass))  # 1 − (1 − Q_c)^B, with digits where Q_c is small
        rows = float(read((self._sizes * visited).sum())) / batch_size
        return ScoreCost(self.num_classes + rows, expected_rows(self.counts, self.classes))


# In PyTorch. `members` (C, L) has the words of each class, and −1 where there are none; `class_of`, `place` (V,). The
# trap: filling that is not masked is a word with a score: probability leaks to it, the loss is too high, and nothing
# warns. Mask the scores, with −∞, not the loss. (And sparse=True: else each step writes all V rows.)
IN_PYTORCH = """
import torch
import torch.nn.functional as F

words = torch.nn.Embedding(V, d, sparse=True)             # W; sparse: or each step costs V, not the class
classes = torch.nn.Linear(d, C, bias=False)               # U

c = class_of[targets]                                     # (B,)
rows = words(members[c].clamp(min=0))                     # (B, L, d)
scores = torch.einsum("bld,bd->bl", rows, hidden)         # (B, L)
scores = scores.masked_fill(members[c] < 0, -torch.inf)
loss = F.cross_entropy(classes(hidden), c, reduction="none")
loss = loss + F.cross_entropy(scores, place[targets], reduction="none")
loss.mean().backward()
"""
