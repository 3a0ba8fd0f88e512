"""In-batch negatives."""

from typing import Any

import minigrad as mg
from minigrad.backend import type_of_array, xp_of

from ..layer import OutputLayer, ScoreCost, of_scores
from ..samplers import Sampler, Unigram

MASKED = -1e30


def in_batch_softmax(scores: Any, *, log_q: Any, repeats: Any = None) -> tuple[Any, Any]:
    """scores (B, B), of the targets j for the contexts i; log_q (B,) of the targets -> loss (B,), G (B, B).

    repeats: None, or (B, B) booleans: columns that a row leaves out, because they hold its target again.
    """
    xp = xp_of(scores)
    a = scores - log_q  # (B, B): column j, target j
    if repeats is not None:
        a = mg.where(repeats, MASKED, a)
    p = mg.softmax(a, axis=1)
    examples = xp.arange(a.shape[0])
    return mg.logsumexp(a, axis=1) - a[examples, examples], p - xp.eye(a.shape[0], dtype=a.dtype)


in_batch_softmax_loss = of_scores(in_batch_softmax)


class InBatchSoftmax(OutputLayer):
    """The targets of the other examples are the noise.

    sampler: its log_prob is how often a word is a target; None for the unigram distribution of the counts.

    correct: subtract log q. mask_repeats: leave out the other examples that have the same target.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        counts: Any = None,
        key: mg.Key,
        sampler: Sampler | None = None,
        correct: bool = True,
        mask_repeats: bool = False,
        bias: bool = True,
    ):
        super().__init__(vocab_size, dim, counts=counts, key=key, bias=bias)
        self.sampler = Unigram(self.counts, 1.0, "cdf") if sampler is None else sampler
        self.correct, self.mask_repeats = correct, mask_repeats

    def loss(self, hidden, targets, *, key=None, reduction="mean"):
        hidden, targets = self._for_loss(hidden, targets)
        scores = self._shared_scores(hidden, targets)  # (B, B)
        log_q = self._log_q(targets)
        repeats = None
        if self.mask_repeats:
            xp = xp_of(targets)
            repeats = (targets == targets[:, None]) & ~xp.eye(len(targets), dtype=bool)
        return self._reduced(in_batch_softmax_loss(scores, log_q=log_q, repeats=repeats), reduction, hidden)

    def _log_q(self, targets: type_of_array) -> Any:
        return self.sampler.log_prob(targets).astype(self.weight.dtype) if self.correct else 0.0

    def score_cost(self, batch_size=1):
        return ScoreCost(1, self.vocab_size)
