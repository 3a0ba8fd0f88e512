"""The softmax over a large vocabulary, and every way round it: Part II of the lecture.

Begin with `layer.py` (what all chapters share), then `softmax.py`, then `sampled/layer.py` and the chapters in the
order of the slides: `importance.py`, `nce.py`, `negative.py`, `hard.py`; `ranking.py` and `in_batch.py` are what
practice uses. What does each of them learn? `consistency.py` says how to find out, `estimators.py` has the table. Then
`structured/layer.py`, and `class_based.py`, `hierarchical.py`, `adaptive.py`, `codes.py` with its three chapters, and
`bessel.py` with `von_mises_fisher.py`.
"""

from . import consistency, estimators, samplers
from .consistency import check_consistency
from .sampled.hard import HardNegatives
from .sampled.importance import ImportanceSampling, effective_sample_size
from .sampled.in_batch import InBatchSoftmax, StreamingUnigram
from .sampled.nce import NCE
from .sampled.negative import NegativeSampling
from .sampled.ranking import SampledSoftmax
from .softmax import FullSoftmax
from .structured.adaptive import AdaptiveSoftmax
from .structured.bessel import vmf_log_normaliser, vmf_mean_resultant
from .structured.binary_code import BinaryCode
from .structured.class_based import ClassSoftmax
from .structured.error_correcting import ErrorCorrectingCode
from .structured.hierarchical import HierarchicalSoftmax
from .structured.hybrid import HybridCode
from .structured.von_mises_fisher import VonMisesFisher
