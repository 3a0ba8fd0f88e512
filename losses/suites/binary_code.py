"""To be written."""

from . import Chapter

CHAPTER = Chapter(
    name="binary", module="losses.structured.binary_code", function="binary_code", signature="", lessons=()
)
