"""To be written."""

from . import Chapter

CHAPTER = Chapter(name="hybrid", module="losses.structured.hybrid", function="hybrid_code", signature="", lessons=())
