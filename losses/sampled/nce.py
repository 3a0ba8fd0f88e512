"""Noise contrastive estimation."""

import math
from typing import Any

import minigrad as mg

from ..layer import of_scores
from .layer import SampledLayer
from .negative import negative_sampling


def nce(
    target_scores: Any, noise_scores: Any, *, log_kq_target: Any, log_kq_noise: Any, k: float | None = None
) -> tuple[Any, Any, Any]:
    """target_scores (B,), noise_scores (B, m) -> loss (B,), ∂L/∂s_t (B,), ∂L/∂s_n (B, m).

    log_kq_target (B,), log_kq_noise (B, m) or (m,): log(k q) of each. k: how many noise words the m columns stand for.
    """
    return negative_sampling(target_scores - log_kq_target, noise_scores - log_kq_noise, k=k)


nce_loss = of_scores(nce)


class NCE(SampledLayer):
    """Noise contrastive estimation over `vocab_size` words for contexts of `dim` numbers. The bias begins at −log V."""

    with_replacement_only = True

    def __init__(self, vocab_size: int, dim: int, *, k: int = 25, **options):
        super().__init__(vocab_size, dim, k=k, **options)
        if self.bias is not None:
            self.bias = mg.param([-math.log(vocab_size)] * vocab_size)

    def _losses(self, target_scores, noise_scores, drawn):
        target, noise = self._log_counts(drawn, self.k)
        return nce_loss(target_scores, noise_scores, log_kq_target=target, log_kq_noise=noise, k=self.k)
