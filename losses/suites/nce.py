"""What must be true of `nce`."""

from . import Chapter

CHAPTER = Chapter(
    name="nce",
    module="losses.sampled.nce",
    function="nce",
    signature="nce(target_scores (B,), noise_scores (B, m), *, log_kq_target, log_kq_noise, k=None) "
    "-> loss (B,), G_target (B,), G_noise (B, m)",
    lessons=(),
)
