"""To be written."""

from . import Chapter

CHAPTER = Chapter(
    name="error-correcting", module="losses.structured.error_correcting", function="viterbi", signature="", lessons=()
)
