"""Sampled softmax."""

from typing import Any

import minigrad as mg

from ..layer import of_scores
from .layer import SampledLayer

MASKED = -1e30


def sampled_softmax(
    target_scores: Any, noise_scores: Any, *, log_count_target: Any, log_count_noise: Any, hits: Any = None
) -> tuple[Any, Any, Any]:
    """target_scores (B,), noise_scores (B, k) -> loss (B,), ∂L/∂s_t (B,), ∂L/∂s_n (B, k).

    log_count_target (B,), log_count_noise (B, k) or (k,): how often to expect each among the noise, the logarithm.
    hits: None, or (B, k) booleans: noise words that are left out, because they are the target.
    """
    a_target, a_noise = target_scores - log_count_target, noise_scores - log_count_noise
    if hits is not None:
        a_noise = mg.where(hits, MASKED, a_noise)
    d = mg.logsumexp(a_noise, axis=1) - a_target  # (B,)
    p_noise = mg.sigmoid(d)  # the probability that it gives to all noise words together
    return mg.softplus(d), -p_noise, p_noise.reshape((-1, 1)) * mg.softmax(a_noise, axis=1)


sampled_softmax_loss = of_scores(sampled_softmax)


class SampledSoftmax(SampledLayer):
    """Sampled softmax over `vocab_size` words for contexts of `dim` numbers.

    mask_hits: leave out noise words that are the target; None: keep them if they are drawn with replacement.
    """

    def __init__(self, vocab_size: int, dim: int, *, mask_hits: bool | None = None, **options):
        super().__init__(vocab_size, dim, **options)
        self.mask_hits = not self.sampler.replacement if mask_hits is None else bool(mask_hits)

    def _losses(self, target_scores, noise_scores, drawn):
        target, noise = self._log_counts(drawn)
        hits = drawn.noise == drawn.targets[:, None] if self.mask_hits else None
        return sampled_softmax_loss(
            target_scores, noise_scores, log_count_target=target, log_count_noise=noise, hits=hits
        )
