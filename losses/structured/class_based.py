"""To be written."""

from .layer import StructuredLayer


class ClassSoftmax(StructuredLayer):
    pass
