"""Hard negatives: put the right word ahead of the best wrong ones, by a margin.

Most of the V − 1 wrong words of a context score far below the right one before long. Noise drawn at random nearly
always hits one of those, and there is nothing to learn from it. The slide: "Select the top n hardest examples. Not a
probabilistic objective, but well-suited to margin-based loss functions".

    h   the context: d numbers                              B         examples in a batch; V words in the vocabulary
    t   the target, the right word                          w_1 … w_n the n hardest negatives: of all wrong words those
    s_w the score of word w, W_w · h + b_w                            with the highest scores
    m   the margin, 1 on the slide                          1[·]      1 if it holds, else 0

The loss.
    (1)  One wrong word ŷ:  marginloss(x, y, ŷ) = max(0, 1 + s(ŷ|x) − s(y|x))  is zero once y is 1 ahead of ŷ. The ŷ has
         to be wrong. For ŷ = y it is 1 whatever the scores are. And a word that could stand there as well, or another
         document that answers the query, is pushed down though it is right; and scoring high, it is among the hardest
         again and again. `also_right` names them.
    (2)  The n hardest:  L = Σ_j max(0, m + s_{w_j} − s_t).  With n = 1 this is the greatest over all wrong words
         (Crammer and Singer, JMLR 2001), with n = V − 1 the sum over all (Weston and Watkins, ESANN 1999). It is a sum.
         The mean is 1/n of it: after a while few of the n fail the margin, and their gradient would be divided by all.
         Whatever n is, L = 0 if and only if t is m ahead of w_1, and so of every wrong word.

Its gradient.
    (3)  ∂L/∂s_{w_j} = a_j = 1[m + s_{w_j} > s_t]   and   ∂L/∂s_t = −Σ_j a_j.  Just at the margin, where the slope
         is 0 on one side and 1 on the other, it is 0. At most n + 1 rows of W have a gradient. If L = 0, it is zero.
    (4)  Which words are the hardest depends on s too, but has no part in the gradient. Of all sets of n wrong words the
         hardest have the greatest sum (2), so L is a maximum of convex functions: convex itself, and the gradient of
         the one that is greatest is a (sub)gradient of the maximum. It follows, too, that any other n words have at
         most this loss: an approximate search for the hardest gives L or less, never more.

What it learns.
    (5)  Nothing but differences: L is the same if all scores of a context grow by one number.
    (6)  No distribution, and not always the most probable word. Let n = m = 1, t ~ P, let s be highest at word v, by δ
         over the second. Then L ≥ 1 + δ if t isn't v, and L ≥ 1 − δ if it is: so E L ≥ 1 + δ (1 − 2 P(v)). As long as
         no word has more than half the probability, no scores are better than to have all of them equal, δ = 0, where
         E L = 1. So it fits where there is one right answer, and not where many words may follow, each with a small P.

Cost per example in multiply-adds: 3 (n + 1) d, forward and backward, and the search. The exact one is V d, with all V
scores in memory; the softmax is 3 V d, so two thirds are saved at most. Hence the next slide, maximum inner product
search: `search` takes any index that finds the rows of W with a high W_w · h. It doesn't know the b_w; take bias=False.

(Collobert and Weston, ICML 2008, learn word vectors by (1), with negatives drawn at random.)
"""

import math
from collections.abc import Callable
from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import asarray_like, read, type_of_array, xp_of

from ..layer import OutputLayer, ScoreCost, best, of_scores

# ---- the naive way: the slide's formula for each of the n, left to the engine --------------------------------------


def margin_loss_naive(target_scores: Any, negative_scores: Any) -> Any:
    """(2) as it stands, m = 1: target_scores (B,), negative_scores (B, n) -> (B,)."""
    return mg.maximum(0.0, 1.0 + negative_scores - target_scores.reshape((-1, 1))).sum(axis=1)


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def margin_loss(
    target_scores: Any, negative_scores: Any, *, margin: float = 1.0, valid: Any = None
) -> tuple[Any, Any, Any]:
    """Loss (2) and gradient (3): target_scores (B,), negative_scores (B, n) -> loss (B,), ∂L/∂s_t (B,), ∂L/∂s_w (B, n).

    Of arrays, or of tensors if it is to be differentiated again. valid: None, or (B, n) booleans, which of them count.
    """
    over = margin + negative_scores - target_scores.reshape((-1, 1))  # (B, n)
    active = ~((over.data if isinstance(over, mg.Tensor) else over) <= 0)  # (3): not at the margin; but NaN shows
    active = active if valid is None else active & valid
    ones = active.astype(over.dtype)
    return mg.where(active, over, 0.0).sum(axis=1), -ones.sum(axis=1), ones


margin_loss_of = of_scores(margin_loss)


def hardest(found: type_of_array, right: type_of_array, n: int) -> tuple[type_of_array, type_of_array]:
    """The first n of `found` (B, m) that are no `right` word (B, r): ids (B, n), and which of them count, (B, n).

    found: best first, −1 where there is none. Where fewer than n are left, the rest is right[:, 0] and doesn't count.
    """
    xp = xp_of(found)
    wrong = (found[:, :, None] != right[:, None, :]).all(axis=2) & (found >= 0)  # (1)
    first = xp.argsort(~wrong, axis=1, kind="stable")[:, :n]  # what counts, in its order, before what does not
    valid = xp.take_along_axis(wrong, first, axis=1)
    return xp.where(valid, xp.take_along_axis(found, first, axis=1), right[:, :1]), valid


def counted_once(ids: type_of_array) -> type_of_array:
    """`ids` (B, m) with −1 in place of each that came before in its row."""
    xp = xp_of(ids)
    order = xp.argsort(ids, axis=1, kind="stable")
    ordered = xp.take_along_axis(ids, order, axis=1)
    again = xp.concatenate([xp.zeros((len(ids), 1), bool), ordered[:, 1:] == ordered[:, :-1]], axis=1)
    return xp.where(xp.take_along_axis(again, xp.argsort(order, axis=1, kind="stable"), axis=1), -1, ids)


# ---- the fast way: a layer that searches without a tape, and gathers n + 1 rows -------------------------------------


class HardNegatives(OutputLayer):
    """The margin loss over the n hardest words of `vocab_size`, for contexts of `dim` numbers.

    n: negatives an example, 1 to vocab_size − 1. margin: m. search: None for the exact one; or a function
    (hidden (B, d) array, how_many) -> ids (B, how_many), best first, and their scores, such as the `search` of an index
    of maximum inner products. It may find fewer, −1 for the rest, and the same word twice, which counts once. Its
    scores aren't used: an index may be older than the weights. counts, key, bias: see `OutputLayer`.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        counts: Any = None,
        key: mg.Key,
        n: int = 10,
        margin: float = 1.0,
        search: Callable | None = None,
        bias: bool = True,
    ):
        super().__init__(vocab_size, dim, counts=counts, key=key, bias=bias)
        self.n = whole("losses.HardNegatives: n", n)
        if self.n >= self.vocab_size:
            raise ValueError(
                f"losses.HardNegatives: n must lie in 1 to {self.vocab_size - 1}, as many as there are wrong words; "
                f"got {n}"
            )
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < math.inf:
            raise ValueError(f"losses.HardNegatives: margin must be a finite number above 0, got {margin!r}")
        if search is not None and not callable(search):
            raise TypeError(
                "losses.HardNegatives: search must be a function (hidden, how_many) -> ids, scores; "
                f"got {type(search).__name__}"
            )
        self.margin, self.search = float(margin), search

    def loss(self, hidden, targets, *, key=None, also_right=None, reduction="mean"):
        """The loss for hidden (B, d) and targets (B,): a scalar, or (B,) with reduction="none". No key is needed.

        also_right: None, or ids (B, r), −1 where there are fewer: other right words, which are no negatives (1).
        """
        hidden, targets = self._for_loss(hidden, targets)
        right = targets[:, None]  # (B, 1 + r)
        if also_right is not None:
            also_right = self._ids_or_none("also_right", also_right, len(targets))
            right = xp_of(targets).concatenate([right, also_right], axis=1)
        found = self._found(hidden, min(self.n + right.shape[1], self.vocab_size))
        negatives, valid = hardest(found, right, self.n)  # (B, n)
        scores = self._row_scores(hidden, xp_of(targets).concatenate([targets[:, None], negatives], axis=1))
        losses = margin_loss_of(scores[:, 0], scores[:, 1:], margin=self.margin, valid=valid)
        return self._reduced(losses, reduction, hidden)

    def log_prob(self, hidden):
        raise TypeError(
            "losses.HardNegatives has no log_prob: it learns which words score highest, not a distribution (6); "
            "topk gives them"
        )

    def score_cost(self, batch_size=1):
        """Rows of W touched a token; in training without those of a search of one's own, which it alone knows."""
        return ScoreCost(1 + self.n + (self.vocab_size if self.search is None else 0), self.vocab_size)

    def _found(self, hidden: mg.Tensor, how_many: int) -> type_of_array:
        """The words that may be hardest, best first: ids (B, how_many), −1 for none."""
        if self.search is None:
            with mg.no_grad():  # (4)
                scores = hidden @ self.weight.T  # (B, V)
                return best((scores if self.bias is None else scores + self.bias).data, how_many)
        found = self.search(hidden.data, how_many)
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise TypeError(f"losses.HardNegatives: search must return ids and scores, got {type(found).__name__}")
        return counted_once(self._ids_or_none("what search found", found[0], len(hidden.data), how_many))

    def _ids_or_none(self, what: str, ids: Any, batch: int, columns: int | None = None) -> type_of_array:
        """ids (B, columns), −1 for none, where the weights lie. To look at them on a GPU is a wait."""
        name, expected = f"losses.HardNegatives: {what}", f"({batch}, {'r' if columns is None else columns})"
        ids = asarray_like(ids.data if isinstance(ids, mg.Tensor) else ids, self.weight.data)
        if ids.ndim != 2 or len(ids) != batch or columns not in (None, ids.shape[1]):
            raise ValueError(f"{name} must have shape {expected}, got {list(ids.shape)}")
        if ids.dtype.kind not in "iu" and ids.size:
            raise TypeError(f"{name} must be integers, got {ids.dtype}")
        ids = ids.astype("int64")
        outside = (ids < -1) | (ids >= self.vocab_size)
        if read(outside.any()):
            raise IndexError(
                f"{name} must lie in [0, {self.vocab_size}), or be −1 for none; got {read(ids[outside][0])}"
            )
        return ids


# In PyTorch. The trap: nothing takes the target out. It scores high, so it is one of its own hardest negatives, in the
# place of a wrong word, and adds 1 to the loss that no training removes. (F.multi_margin_loss leaves it out, but is
# n = V − 1, divided by V.) And do not let the search on the tape: its gradient would be dense, all V rows of it.
IN_PYTORCH = """
import torch
import torch.nn.functional as F

out = torch.nn.Embedding(V, d, sparse=True)                  # rows of W

with torch.no_grad():                                        # (4): to choose needs no gradient
    scores = hidden @ out.weight.T                           # (B, V)
    scores.scatter_(1, targets[:, None], -torch.inf)         # the target is no negative
    hard = scores.topk(n, dim=1).indices                     # (B, n)

rows = out(torch.cat([targets[:, None], hard], dim=1))       # (B, 1 + n, d)
scores = torch.einsum("bkd,bd->bk", rows, hidden)            # (B, 1 + n)
loss = F.relu(1 + scores[:, 1:] - scores[:, :1]).sum(dim=1)
loss.mean().backward()
"""
