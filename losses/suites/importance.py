"""What must be true of `importance_sampling`."""

from . import Chapter

CHAPTER = Chapter(
    name="importance",
    module="losses.sampled.importance",
    function="importance_sampling",
    signature="importance_sampling(target_scores (B,), noise_scores (B, k), *, log_count_noise) "
    "-> loss (B,), G_target (B,), G_noise (B, k)",
    lessons=(),
)
