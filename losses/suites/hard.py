"""What must be true of `margin_loss`."""

from . import Chapter

CHAPTER = Chapter(
    name="hard",
    module="losses.sampled.hard",
    function="margin_loss",
    signature="margin_loss(target_scores (B,), negative_scores (B, n), *, margin=1.0, valid=None) "
    "-> loss (B,), G_target (B,), G_negative (B, n)",
    lessons=(),
)
