"""What must be true of `in_batch_softmax`."""

from . import Chapter

CHAPTER = Chapter(
    name="in-batch",
    module="losses.sampled.in_batch",
    function="in_batch_softmax",
    signature="in_batch_softmax(scores (B, B), *, log_q, repeats=None) -> loss (B,), G (B, B)",
    lessons=(),
)
