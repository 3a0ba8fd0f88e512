"""Numba twins of the hot array code of the structured layers; what a kernel is, `minigrad/kernels.py` says."""

import numpy as np

from minigrad.kernels import kernel
