"""To be written."""

from . import Chapter

CHAPTER = Chapter(
    name="hierarchical",
    module="losses.structured.hierarchical",
    function="hierarchical_softmax",
    signature="",
    lessons=(),
)
