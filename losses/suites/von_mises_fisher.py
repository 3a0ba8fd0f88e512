"""To be written."""

from . import Chapter

CHAPTER = Chapter(
    name="vmf", module="losses.structured.von_mises_fisher", function="von_mises_fisher", signature="", lessons=()
)
