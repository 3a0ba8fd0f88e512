"""To be written."""

from .codes import Codebook
from .layer import StructuredLayer


class ConvolutionalCode(Codebook):
    pass


class ErrorCorrectingCode(StructuredLayer):
    pass
