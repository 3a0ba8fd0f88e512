"""To be written."""

from .layer import StructuredLayer


class AdaptiveSoftmax(StructuredLayer):
    pass
