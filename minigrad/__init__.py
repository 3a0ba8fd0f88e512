"""minigrad: a small autodiff engine on NumPy and CuPy, written to be read.

Begin with `tensor.py`, then `tape.py` and `walk.py` (there and back), then `rules.py` (the calculus).
"""

from importlib import import_module

from . import backend, check, debug, memory, nn, optim, rules, storage
from .backend import get_device, set_device, to_cpu, to_gpu
from .check import check_grads
from .debug import anomaly, graph
from .ledger import transfers
from .rng import Key
from .rows import Rows
from .rules import (
    abs,
    add,
    broadcast_to,
    clip,
    concat,
    cross_entropy,
    div,
    dot,
    exp,
    expm1,
    linear,
    log,
    log1p,
    log_softmax,
    logsigmoid,
    logsumexp,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    mul,
    neg,
    power,
    relu,
    reshape,
    sigmoid,
    softmax,
    softplus,
    sqrt,
    stack,
    sub,
    sum,
    take,
    take_along_axis,
    tanh,
    transpose,
    where,
)
from .storage import load, save
from .tape import no_grad, primitive
from .tensor import Tensor, from_dlpack, param, tensor
from .walk import grad

__version__ = "0.1.0"


def __getattr__(name: str):
    """`mg.advisor`, a module that can be called, is loaded when it is first asked for."""
    if name == "advisor":
        return import_module(".advisor", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
