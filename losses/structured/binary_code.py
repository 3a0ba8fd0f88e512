"""To be written."""

from .layer import StructuredLayer


class BinaryCode(StructuredLayer):
    pass
