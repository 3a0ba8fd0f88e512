"""To be written."""

from .layer import StructuredLayer


class VonMisesFisher(StructuredLayer):
    pass
