"""minigrad: a small autodiff engine on NumPy and CuPy, written to be read.

Begin with `tensor.py`, then `tape.py` and `walk.py` (there and back), then `rules.py` (the calculus).
"""

from . import backend, check, optim, rules
from .backend import get_device, set_device, to_cpu, to_gpu
from .check import check_grads
from .rng import Key
from .rows import Rows
from .rules import (
    add,
    broadcast_to,
    div,
    exp,
    log,
    logsigmoid,
    logsumexp,
    matmul,
    max,
    mean,
    mul,
    neg,
    power,
    reshape,
    sigmoid,
    softplus,
    sub,
    sum,
    take,
    tanh,
    transpose,
)
from .tape import no_grad, primitive
from .tensor import Tensor, param, tensor
from .walk import grad

__version__ = "0.1.0"
