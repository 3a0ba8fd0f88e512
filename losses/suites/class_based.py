"""To be written."""

from . import Chapter

CHAPTER = Chapter(
    name="class", module="losses.structured.class_based", function="class_softmax", signature="", lessons=()
)
