"""Importance sampling."""

from typing import Any

import minigrad as mg

from ..layer import of_scores
from .layer import SampledLayer


def importance_sampling(target_scores: Any, noise_scores: Any, *, log_count_noise: Any) -> tuple[Any, Any, Any]:
    """target_scores (B,), noise_scores (B, k) -> loss (B,), ∂L/∂s_t (B,), ∂L/∂s_n (B, k).

    log_count_noise (B, k) or (k,): how often to expect each among the noise, the logarithm.
    """
    a = noise_scores - log_count_noise  # (B, k)
    return mg.logsumexp(a, axis=1) - target_scores, 0.0 * target_scores - 1.0, mg.softmax(a, axis=1)


importance_sampling_loss = of_scores(importance_sampling)


class ImportanceSampling(SampledLayer):
    """Importance sampling over `vocab_size` words for contexts of `dim` numbers."""

    def _losses(self, target_scores, noise_scores, drawn):
        return importance_sampling_loss(target_scores, noise_scores, log_count_noise=self._log_counts(drawn)[1])
