"""To be written."""

from .layer import StructuredLayer


class HierarchicalSoftmax(StructuredLayer):
    pass
