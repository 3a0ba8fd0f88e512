"""To be written."""

from .layer import StructuredLayer


class HybridCode(StructuredLayer):
    pass
