"""Optimisers: what to do with a gradient once it has come.

All take parameters whose gradients are arrays or `Rows`. For rows they touch those rows and no others, so a step on a
vocabulary of a million costs what its batch costs. With η the learning rate, g the gradient, t the number of the step:

    SGD        w ← w − η g                                                                                   (1)
    momentum   v ← μ v + g,   w ← w − η v     (Polyak 1964)                                                  (2)
    Adagrad    s ← s + g²,    w ← w − η g / (√s + ε)     (Duchi, Hazan, Singer, JMLR 2011, §1)               (3)
    Adam       m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²,
               w ← w − η m̂ / (√v̂ + ε)  with  m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)                           (4)
               (Kingma and Ba, ICLR 2015, Algorithm 1. m and v start at zero, so after t steps they are averages with
               weights that add up to 1 − βᵗ only: the division puts that right.)

(3) and (4) square the sum of a row's contributions, not each of them: equal ids are put together first
(`Rows.coalesce`). For (1) the order doesn't matter, and they are added one after the other.

Rows that are not looked up have g = 0. For (1) and (3) nothing happens to them then, so leaving them alone is exact.
For (2) and (4) it is not: a row that was moving goes on by its momentum, and its averages decay, at every step, looked
up or not. To do that is to touch all V rows; so for `Rows` both are *lazy*: a row's averages stand still until it is
looked up again. After n steps without a gradient, Adam's row has moved on by

    η Σ_{j=1..n}  β₁ʲ m / (1 − β₁^{t+j})  /  (√(β₂ʲ v / (1 − β₂^{t+j})) + ε),                                 (5)

and its m, v are β₁ⁿ m, β₂ⁿ v; lazily it has not moved, and m, v are as they were. (t goes on for both.) With rare words
that is a difference in what is learned, for good or ill; `lazy=False` writes the rows out and is exact, at O(V d).
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from . import backend, kernels
from .backend import np, type_of_array, xp_of
from .rows import MANY, Rows, flat, worth_a_kernel
from .tensor import Tensor


class Optimizer:
    """What optimisers share. params: leaf tensors that require gradients; lr: the learning rate η > 0.

    steps: for each parameter how many updates it has had. A gradient that holds NaN goes into the parameter:
    `minigrad.anomaly` finds where it came from.
    """

    averages: tuple[str, ...] = ()  # names of the lists that hold an array, of the parameter's shape, for each

    def __init__(self, params: Iterable[Tensor], lr: float):
        name = type(self).__name__
        if isinstance(params, Tensor):
            raise TypeError(f"minigrad.optim.{name}: params must be a list of tensors, got one Tensor; write [w]")
        self.params = list(params)
        for p in self.params:
            if not isinstance(p, Tensor) or not p.requires_grad or p._node is not None:
                raise ValueError(f"minigrad.optim.{name}: params must be leaf tensors with requires_grad, got {p!r}")
        if not self.params:
            raise ValueError(f"minigrad.optim.{name}: there is nothing to optimise: params is empty")
        if len({id(p) for p in self.params}) < len(self.params):
            raise ValueError(f"minigrad.optim.{name}: a parameter is listed twice, and would be updated twice")
        self.lr = self._number("lr", lr, above=0.0)  # may be changed between steps
        self.steps = [0] * len(self.params)
        for average in self.averages:
            setattr(self, average, [_zeros_like(p.data) for p in self.params])

    def step(self) -> None:
        """Updates every parameter that has a gradient, in place. A parameter with `grad` None stays as it is."""
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            self.steps[i] += 1
            for name in self.averages:  # a parameter that has moved to another device takes them along
                averages = getattr(self, name)
                averages[i] = backend.to_device(averages[i], p.device)
            with backend.at(p.data):
                if isinstance(p.grad, Rows):
                    self._update_rows(i, p.data, p.grad)
                else:
                    self._update(i, p.data, p.grad.data if isinstance(p.grad, Tensor) else p.grad)
            p._leaf._version += 1  # the tape must know that the values changed

    def zero_grad(self) -> None:
        """Forgets the gradients: without it those of the next backward() are added to them."""
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, type_of_array]:
        """All that the next step depends on but the parameters: copies on the CPU, by name, for `minigrad.save`."""
        state = {"lr": np.asarray(float(self.lr)), "steps": np.asarray(self.steps)}
        for name in self.averages:
            state |= {f"{name}.{i}": backend.to_cpu(a).copy() for i, a in enumerate(getattr(self, name))}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave; all of it, or, with a ValueError that lists what doesn't fit, nothing."""
        own = self.state_dict()
        faults = misfits(own, state)
        if faults:
            raise ValueError(f"minigrad.optim.{type(self).__name__}.load_state_dict: {'; '.join(faults)}")
        self.lr, self.steps = float(state["lr"]), [int(n) for n in state["steps"]]
        for name in self.averages:
            for i, p in enumerate(self.params):
                array = backend.to_device(np.array(state[f"{name}.{i}"], dtype=p.dtype), p.device)
                getattr(self, name)[i] = array

    def _number(self, name: str, value: float, above: float = -math.inf, below: float = math.inf, least=-math.inf):
        if not isinstance(value, bool) and above < value < below and value >= least:
            return value
        expected = "positive and finite" if above == 0.0 else f"at least {least}"
        expected += f" and below {below}" if below < math.inf else ""
        raise ValueError(f"minigrad.optim.{type(self).__name__}: {name} must be {expected}, got {value!r}")

    def _update(self, i: int, w: type_of_array, g: type_of_array) -> None:
        raise TypeError(f"minigrad.optim.{type(self).__name__} has no dense update")

    def _update_rows(self, i: int, w: type_of_array, g: Rows) -> None:
        raise TypeError(f"minigrad.optim.{type(self).__name__} has no update for Rows")


class SGD(Optimizer):
    """w ← w − lr · g, (1); with momentum μ in (0, 1), (2), lazily for rows."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.0):
        self.momentum = self._number("momentum", momentum, least=0.0, below=1.0)
        self.averages = ("velocity",) if momentum else ()
        super().__init__(params, lr)

    def _update(self, i, w, g):
        lr, μ = float(self.lr), float(self.momentum)
        if μ and worth_a_kernel(w, g):
            kernels.momentum(w.reshape(-1), self.velocity[i].reshape(-1), g.reshape(-1), *_of(w, lr, μ))
        elif μ:
            v = self.velocity[i]
            v *= μ
            v += g
            w -= lr * v
        elif worth_a_kernel(w, g):
            kernels.sgd(w.reshape(-1), g.reshape(-1), *_of(w, lr))
        else:
            w -= lr * g

    def _update_rows(self, i, w, g):
        if not self.momentum:
            g.add_to(w, -float(self.lr))
            return
        once, v = g.coalesce(), self.velocity[i]
        v[once.ids] = float(self.momentum) * v[once.ids] + once.values
        w[once.ids] -= float(self.lr) * v[once.ids]


class Adagrad(Optimizer):
    """s ← s + g², w ← w − lr · g / (√s + eps): equation (3). Each coordinate slows down by its own history.

    Frequent words have long histories, so rare words take larger steps: why it suits embeddings.
    """

    averages = ("sums",)

    def __init__(self, params: Iterable[Tensor], lr: float, eps: float = 1e-10):
        self.eps = self._number("eps", eps, least=0.0)
        super().__init__(params, lr)

    def _update(self, i, w, g):
        xp, s = xp_of(w), self.sums[i]
        if worth_a_kernel(w, g):
            kernels.adagrad(w.reshape(-1), s.reshape(-1), g.reshape(-1), *_of(w, self.lr, self.eps))
            return
        s += g * g
        w -= float(self.lr) * g / (xp.sqrt(s) + self.eps)

    def _update_rows(self, i, w, g):
        xp, s, once = xp_of(w), self.sums[i], g.coalesce()
        ids, g = once.ids, once.values  # each id once, so that plain indexing may write
        if worth_a_kernel(w, g, MANY):
            kernels.adagrad_rows(flat(w), flat(s), ids, flat(g), *_of(w, self.lr, self.eps))
            return
        s[ids] += g * g
        w[ids] -= float(self.lr) * g / (xp.sqrt(s[ids]) + self.eps)


class Adam(Optimizer):
    """Equation (4). lazy: whether rows that are not looked up stand still, or move as (5) has it, all V of them."""

    averages = ("mean", "square")

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        lazy: bool = True,
    ):
        self.betas = tuple(self._number("betas", beta, least=0.0, below=1.0) for beta in betas)
        if len(self.betas) != 2:
            raise ValueError(f"minigrad.optim.Adam: betas must be two numbers, got {betas!r}")
        self.eps, self.lazy = self._number("eps", eps, least=0.0), lazy
        super().__init__(params, lr)

    def _update(self, i, w, g):
        m, v, numbers = self.mean[i], self.square[i], self._numbers(i)
        if worth_a_kernel(w, g):
            arrays = w.reshape(-1), m.reshape(-1), v.reshape(-1), g.reshape(-1)
            kernels.adam(*arrays, *_of(w, *numbers))
            return
        w[...], m[...], v[...] = self._moved(w, m, v, g, *numbers)

    def _update_rows(self, i, w, g):
        if not self.lazy:
            self._update(i, w, g.dense())
            return
        once = g.coalesce()
        ids, g, m, v, numbers = once.ids, once.values, self.mean[i], self.square[i], self._numbers(i)
        if worth_a_kernel(w, g, MANY):
            kernels.adam_rows(flat(w), flat(m), flat(v), ids, flat(g), *_of(w, *numbers))
            return
        w[ids], m[ids], v[ids] = self._moved(w[ids], m[ids], v[ids], g, *numbers)

    def _numbers(self, i: int) -> tuple[float, ...]:
        (first, second), t = self.betas, self.steps[i]
        return first, 1 - first, second, 1 - second, self.lr / (1 - first**t), 1 / (1 - second**t), self.eps

    @staticmethod
    def _moved(w, m, v, g, first, rest_of_first, second, rest_of_second, lr, unbias, eps):
        """(4): w, m, v after a step. lr has m's 1 / (1 − β₁ᵗ) in it, unbias is v's 1 / (1 − β₂ᵗ)."""
        m = first * m + rest_of_first * g
        v = second * v + rest_of_second * (g * g)
        return w - lr * m / (xp_of(v).sqrt(unbias * v) + eps), m, v


def _zeros_like(a: type_of_array) -> type_of_array:
    with backend.at(a):
        return xp_of(a).zeros_like(a)


def misfits(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What is wrong with named arrays that are to take the place of others: names, then shapes."""
    faults = [f"{name} is missing" for name in own if name not in given]
    faults += [f"{name} is unexpected" for name in given if name not in own]
    for name in own:
        if name in given and (found := tuple(getattr(given[name], "shape", ()))) != own[name].shape:
            faults.append(f"{name} must have shape {list(own[name].shape)}, got {list(found)}")
    return faults


def _of(w: type_of_array, *numbers: float) -> list:
    """Numbers in the type of `w`, as a kernel needs them: a Python float would make it compute in float64."""
    return [w.dtype.type(number) for number in numbers]
