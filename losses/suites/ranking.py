"""What must be true of `sampled_softmax`."""

from . import Chapter

CHAPTER = Chapter(
    name="ranking",
    module="losses.sampled.ranking",
    function="sampled_softmax",
    signature="sampled_softmax(target_scores (B,), noise_scores (B, k), *, log_count_target, log_count_noise, "
    "hits=None) -> loss (B,), G_target (B,), G_noise (B, k)",
    lessons=(),
)
