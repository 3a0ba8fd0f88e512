"""The few layers that the lecture's models are made of, under the names and with the shapes of PyTorch.

A `Module` is an object whose attributes are parameters, other modules, or lists of them; that is how it finds them:

    class Classifier(nn.Module):
        def __init__(self, key):
            self.hidden = nn.Linear(784, 256, key=key.fold(0))
            self.out = nn.Linear(256, 10, key=key.fold(1))

        def forward(self, x):
            return self.out(mg.relu(self.hidden(x)))

Its weights go to PyTorch and come back in a line each, for they have the same names and shapes:

    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in ours.state_dict().items()})
    ours.load_state_dict(theirs.state_dict())
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import backend, rules
from .arguments import whole
from .backend import type_of_array
from .optim import misfits
from .rng import Key
from .rows import Rows
from .tensor import Tensor, param, tensor


def Parameter(data: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor that is to be learned: PyTorch's name for `minigrad.param`."""
    return param(data, dtype=dtype, device=device)


class Module:
    """Something with parameters, and with modules inside. Give it a `forward`; call it as a function."""

    def forward(self, *args: Any) -> Any:
        raise TypeError(f"minigrad.nn.{type(self).__name__} has no forward()")

    def __call__(self, *args: Any) -> Any:
        return self.forward(*args)

    def named_parameters(self) -> dict[str, Tensor]:
        """Every parameter by name, `hidden.weight`; one that has two names comes once, under the first."""
        found, seen = {}, set()
        for name, p in _parameters("", self):
            if id(p) not in seen:
                seen.add(id(p))
                found[name] = p
        return found

    def parameters(self) -> list[Tensor]:
        """Every parameter once: what an optimiser takes."""
        return list(self.named_parameters().values())

    def zero_grad(self) -> None:
        for p in self.parameters():
            p.grad = None

    def to(self, device: str) -> "Module":
        """Moves parameters and their gradients to "cpu", "gpu" or "gpu:N". The tensors stay the same objects."""
        for p in self.parameters():
            p.data = backend.to_device(p.data, device)
            if isinstance(p.grad, Rows):
                ids, values = (backend.to_device(a, device) for a in (p.grad.ids, p.grad.values))
                p.grad = Rows(ids, values, p.grad.shape, checked=True)
            elif p.grad is not None:
                p.grad = p.grad.to(device) if isinstance(p.grad, Tensor) else backend.to_device(p.grad, device)
        return self

    def state_dict(self) -> dict[str, type_of_array]:
        """The values of all parameters by name: copies on the CPU. A parameter with two names is there under both."""
        return {name: backend.to_cpu(p.data).copy() for name, p in _parameters("", self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over values by name: arrays, tensors, those of PyTorch. All of them, or, with a ValueError, none.

        The error lists every name and shape that doesn't fit. Types and devices are those of the parameters.
        """
        own = dict(_parameters("", self))
        if faults := misfits(own, state):
            raise ValueError(f"minigrad.nn.{type(self).__name__}.load_state_dict: {'; '.join(faults)}")
        values = {name: tensor(state[name], dtype=p.dtype, device=p.device).data.copy() for name, p in own.items()}
        for name, p in own.items():
            p.data = values[name]

    def __repr__(self) -> str:
        inside = [f"{name}={value!r}" for name, value in vars(self).items() if isinstance(value, Module)]
        shapes = [f"{name}{list(p.shape)}" for name, p in vars(self).items() if isinstance(p, Tensor)]
        return f"{type(self).__name__}({', '.join(inside + shapes)})"


def _parameters(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, parameter) of all that is in a module, a list or a dictionary, in the order in which it was put there."""
    if isinstance(value, Tensor):
        if value.requires_grad and value._node is None:
            yield name, value
        return
    inside = ()
    if isinstance(value, Module):
        inside = vars(value).items()
    elif isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    for key, part in inside:
        yield from _parameters(f"{name}.{key}" if name else str(key), part)


class Linear(Module):
    """y = x Wᵀ + b: (..., in_features) -> (..., out_features). weight (out, in), bias (out,), as PyTorch has them.

    Both begin uniform in ±1/√in, drawn with `key`.
    """

    def __init__(self, in_features: int, out_features: int, *, key: Key, bias: bool = True):
        inputs = whole("minigrad.nn.Linear: in_features", in_features)
        outputs = whole("minigrad.nn.Linear: out_features", out_features)
        bound = 1.0 / math.sqrt(inputs)
        self.weight = param((2.0 * _key("Linear", key).fold(0).uniform((outputs, inputs)) - 1.0) * bound)
        self.bias = param((2.0 * key.fold(1).uniform(outputs) - 1.0) * bound) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return rules.linear(x, self.weight, 0.0 if self.bias is None else self.bias)


class Embedding(Module):
    """Row i of a table for each id i: (...) integers -> (..., dim). weight (num, dim), at first standard normal.

    Its gradient is `Rows`: a step costs what the batch looks up, whatever `num` is.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *, key: Key):
        size = (
            whole("minigrad.nn.Embedding: num_embeddings", num_embeddings),
            whole("minigrad.nn.Embedding: embedding_dim", embedding_dim),
        )
        self.weight = param(_key("Embedding", key).normal(size))

    def forward(self, ids: Any) -> Tensor:
        return rules.take(self.weight, ids)


class Sequential(Module):
    """One after the other: modules, or functions such as `minigrad.relu`. Named 0, 1, … as in PyTorch."""

    def __init__(self, *steps: Callable):
        for i, step in enumerate(steps):
            setattr(self, str(i), step)

    def forward(self, x: Any) -> Any:
        for step in vars(self).values():
            x = step(x)
        return x

    def __iter__(self) -> Iterator[Callable]:
        return iter(vars(self).values())

    def __repr__(self) -> str:
        return f"Sequential({', '.join(getattr(s, '__name__', None) or repr(s) for s in vars(self).values())})"


class MSELoss(Module):
    """(x − y)² of two tensors of one shape: their "mean", "sum", or with "none" all of them."""

    def __init__(self, reduction: str = "mean"):
        self.reduction = _reduction("MSELoss", reduction)

    def forward(self, x: Tensor, y: Any) -> Tensor:
        shape = getattr(y, "shape", ())
        if x.shape != shape:  # (B, 1) less (B,) would be (B, B), and learn nonsense
            raise ValueError(f"minigrad.nn.MSELoss: expected two of one shape, got {list(x.shape)} and {list(shape)}")
        squares = (x - y) ** 2
        return squares if self.reduction == "none" else getattr(squares, self.reduction)()


class CrossEntropyLoss(Module):
    """−log softmax(logits)[target]: `minigrad.cross_entropy`. It takes scores, not probabilities."""

    def __init__(self, reduction: str = "mean"):
        self.reduction = _reduction("CrossEntropyLoss", reduction)

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        return rules.cross_entropy(logits, targets, self.reduction)


def _key(name: str, key: Any) -> Key:
    if not isinstance(key, Key):
        raise TypeError(f"minigrad.nn.{name}: key must be a minigrad.Key, as minigrad.Key(1); got {type(key).__name__}")
    return key


def _reduction(name: str, reduction: str) -> str:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'minigrad.nn.{name}: reduction must be "mean", "sum" or "none", got {reduction!r}')
    return reduction
