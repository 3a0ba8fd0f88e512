"""Hard negatives."""

from collections.abc import Callable
from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import xp_of

from ..layer import OutputLayer, ScoreCost, of_scores


def margin_loss(
    target_scores: Any, negative_scores: Any, *, margin: float = 1.0, valid: Any = None
) -> tuple[Any, Any, Any]:
    """target_scores (B,), negative_scores (B, n) -> loss (B,), ∂L/∂s_t (B,), ∂L/∂s_n (B, n).

    valid: None, or (B, n) booleans: which of them count.
    """
    over = margin + negative_scores - target_scores.reshape((-1, 1))  # (B, n)
    active = (over if not isinstance(over, mg.Tensor) else over.data) > 0
    active = (active if valid is None else active & valid).astype(over.dtype)
    return (active * over).sum(axis=1), -active.sum(axis=1), active


margin_loss_of = of_scores(margin_loss)


class HardNegatives(OutputLayer):
    """The margin loss over the n hardest words: those that score highest, and are not right.

    search: hidden (B, d), how many -> ids (B, how many), scores; None for the exact `topk`.
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
        self.margin, self.search = margin, self.topk if search is None else search

    def loss(self, hidden, targets, *, key=None, also_right=None, reduction="mean"):
        """also_right: None, or ids (B, r), −1 where there are fewer: other right words, which are no negatives."""
        hidden, targets = self._for_loss(hidden, targets)
        xp = xp_of(targets)
        right = targets[:, None] if also_right is None else xp.concatenate([targets[:, None], also_right], axis=1)
        found = self.search(hidden.data, min(self.n + right.shape[1], self.vocab_size))[0]  # (B, n + r)
        wrong = (found[:, :, None] != right[:, None, :]).all(axis=2) & (found >= 0)
        valid = wrong & (xp.cumsum(wrong, axis=1) <= self.n)  # the first n
        ids = xp.concatenate([targets[:, None], xp.maximum(found, 0)], axis=1)
        scores = self._row_scores(hidden, ids)
        losses = margin_loss_of(scores[:, 0], scores[:, 1:], margin=self.margin, valid=valid)
        return self._reduced(losses, reduction, hidden)

    def log_prob(self, hidden):
        raise TypeError("losses.HardNegatives learns which word scores highest, no distribution; take topk")

    def score_cost(self, batch_size=1):
        return ScoreCost(1 + self.n + self.vocab_size, self.vocab_size)
