"""Optimisers: what to do with a gradient once it has come.

Both take parameters whose gradients are arrays or `Rows`. For rows they touch those rows and no others, so a step on
a vocabulary of a million costs what its batch costs. For these two that is no approximation: a row whose gradient is
zero stays where it is, in the dense update as well.

    SGD       w ← w − η g                                                                                    (1)
    Adagrad   s ← s + g²,   w ← w − η g / (√s + ε)     (Duchi, Hazan, Singer, JMLR 2011, §1)                 (2)

(2) squares the sum of a row's contributions, not each of them: equal ids are put together first (`Rows.coalesce`).
For (1) the order doesn't matter, and they are added one after the other.
"""

from collections.abc import Iterable

from . import kernels
from .backend import type_of_array, xp_of
from .rows import Rows, flat, worth_a_kernel
from .tensor import Tensor


class Optimizer:
    """What optimisers share. params: leaf tensors that require gradients; lr: the learning rate η > 0."""

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
        if not lr > 0:
            raise ValueError(f"minigrad.optim.{name}: lr must be positive, got {lr}")
        self.lr = lr  # may be changed between steps

    def step(self) -> None:
        """Updates every parameter that has a gradient, in place. A parameter with `grad` None stays as it is."""
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            if isinstance(p.grad, Rows):
                self._update_rows(i, p.data, p.grad)
            else:
                self._update(i, p.data, p.grad.data if isinstance(p.grad, Tensor) else p.grad)
            p.data = p.data  # tells the tape that the values changed

    def zero_grad(self) -> None:
        """Forgets the gradients: without it those of the next backward() are added to them."""
        for p in self.params:
            p.grad = None

    def _update(self, i: int, w: type_of_array, g: type_of_array) -> None:
        raise TypeError(f"minigrad.optim.{type(self).__name__} has no dense update")

    def _update_rows(self, i: int, w: type_of_array, g: Rows) -> None:
        raise TypeError(f"minigrad.optim.{type(self).__name__} has no update for Rows")


class SGD(Optimizer):
    """w ← w − lr · g: equation (1)."""

    def _update(self, i, w, g):
        w -= float(self.lr) * g

    def _update_rows(self, i, w, g):
        g.add_to(w, -float(self.lr))


class Adagrad(Optimizer):
    """s ← s + g², w ← w − lr · g / (√s + eps): equation (2). Each coordinate slows down by its own history.

    Frequent words have long histories, so rare words take larger steps: why it suits embeddings.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, eps: float = 1e-10):
        super().__init__(params, lr)
        self.eps = eps
        self.sums = [xp_of(p.data).zeros_like(p.data) for p in self.params]

    def _update(self, i, w, g):
        xp, s = xp_of(w), self.sums[i]
        s += g * g
        w -= float(self.lr) * g / (xp.sqrt(s) + self.eps)

    def _update_rows(self, i, w, g):
        xp, s, once = xp_of(w), self.sums[i], g.coalesce()
        ids, g = once.ids, once.values  # each id once, so that plain indexing may write
        if worth_a_kernel(w, g):
            kernels.adagrad_rows(flat(w), flat(s), ids, flat(g), w.dtype.type(self.lr), w.dtype.type(self.eps))
            return
        s[ids] += g * g
        w[ids] -= float(self.lr) * g / (xp.sqrt(s[ids]) + self.eps)
