"""To be written."""

from . import Chapter

CHAPTER = Chapter(
    name="adaptive", module="losses.structured.adaptive", function="adaptive_softmax", signature="", lessons=()
)
