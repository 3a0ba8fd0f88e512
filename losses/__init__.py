"""The softmax over a large vocabulary, and every way round it: Part II of the lecture.

Begin with `layer.py` (what all chapters share), then `softmax.py`, then a chapter: `sampled/negative.py`.
"""

from . import samplers
from .sampled.negative import NegativeSampling
from .softmax import FullSoftmax
