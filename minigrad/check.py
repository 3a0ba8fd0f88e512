"""Is this gradient right? `check_grads` asks the function itself; the strategies below find it the inputs.

Let φ(x) = Σ u · f(x) with a fixed random u, and v a random direction. A gradient that is right satisfies

    ⟨∇φ(x), v⟩ = d/dε φ(x + ε v)  at ε = 0,                                                                (1)

one number on each side, whatever the sizes are; a mistake in any component shows, since v has no small ones. The
right-hand side is found without any of our rules:

    complex step          Im φ(x + i h v) / h,  h = 1e−20       exact to rounding, but f must be analytic       (2)
    central difference    (φ(x + h v) − φ(x − h v)) / 2h        good to eight digits or so, for any smooth f    (3)

(2) subtracts nothing, so nothing cancels and h may be as small as one likes (Squire and Trapp, SIAM Review 1998). It
is believed where it agrees with (3) to the digits that (3) has; else (3) alone is used, with a wider tolerance.

Second order is the same once more: ⟨∇φ, w⟩ is a function of x like any other, and `create_graph=True` claims to know
its gradient. Its complex step runs the first-order rules on complex numbers, so the two orders check each other; and
the rules fed tensors must give what they give fed arrays.

At a corner, as of max(x, 0) at 0, the slopes of both sides differ and (1) has no meaning: `NotDifferentiable`.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .backend import read, type_of_array, xp_of
from .rng import Key
from .rows import Rows
from .tensor import Tensor, param, tensor
from .walk import grad


class GradientError(AssertionError):
    """A gradient disagrees with the function."""


class NotDifferentiable(AssertionError):
    """The function has a corner or a jump at the point, or so near that no difference can tell."""


def check_grads(
    f: Callable,
    *args: Any,
    order: int = 2,
    rtol: float = 1e-8,
    rtol_difference: float = 1e-5,
    key: Key | None = None,
) -> None:
    """Checks the gradients of f at `args` by every floating-point argument, to `order`, in float64.

    f: takes tensors, gives a tensor of any shape. args: tensors, arrays or numbers; integers are handed on as arrays.
    rtol: allowed error against the complex step, relative to 1 + the sum of the terms' sizes (gradients far below 1
    count as zero: scale f up); rtol_difference: the same against the central difference.
    Raises GradientError naming the argument and the order, or NotDifferentiable.
    """
    if order < 1:
        raise ValueError(f"minigrad.check_grads: order must be 1 or more, got {order}")
    arrays = [a.data if isinstance(a, Tensor) else a for a in args]
    arrays = [tensor(a, dtype="float64").data if _is_float(a) else a for a in arrays]
    places = [i for i, a in enumerate(arrays) if _is_float(a)]
    if not places:
        raise ValueError("minigrad.check_grads: none of the arguments is a floating-point tensor, array or number")
    _check(f, arrays, places, 1, order, (rtol, rtol_difference), key or Key(0))


def _check(f, arrays, places, level, order, tolerances, key):
    xs = [param(a) if i in places else a for i, a in enumerate(arrays)]
    y = f(*xs)
    if not isinstance(y, Tensor):
        raise TypeError(f"minigrad.check_grads: f must give a Tensor, got {type(y).__name__}")
    u = _direction(key.fold(0), y.data)

    def gradients(*xs, create_graph=False):
        y = f(*xs)
        found = grad((y * u).sum(), [xs[i] for i in places], create_graph=create_graph) if y.requires_grad else ()
        found = found or [None] * len(places)
        return [0.0 * xs[i] if g is None else g for i, g in zip(places, found, strict=True)]

    ws = [_direction(key.fold(1, i), arrays[i]) for i in places]
    plain = [_written_out(g) for g in gradients(*xs)]
    again = [_written_out(g) for g in gradients(*xs, create_graph=True)] if level < order else plain
    for i, g, same, v in zip(places, plain, again, ws, strict=True):
        found, oracle = _slope(f, arrays, i, u, v)
        claimed, otherwise, terms = read((g * v).sum()), read((same * v).sum()), read(abs(g * v).sum())
        allowed = tolerances[oracle == "central difference"] * (1.0 + abs(found) + terms)
        if not abs(claimed - found) <= allowed:
            a = arrays[i]
            raise GradientError(
                f"minigrad.check_grads: derivative {level} by argument {i} ({a.dtype}{list(a.shape)}) is wrong: along "
                f"a random direction the rules say {claimed:.10g}, the {oracle} says {found:.10g} "
                f"(difference {abs(claimed - found):.2g}, allowed {allowed:.2g})"
            )
        if not abs(claimed - otherwise) <= 1e-10 * (1.0 + terms):
            raise GradientError(
                f"minigrad.check_grads: derivative {level} by argument {i} is {claimed:.10g} along a random direction, "
                f"but {otherwise:.10g} with create_graph=True: the rule does not compute the same on tensors"
            )
    if level < order:

        def next_f(*xs):  # ⟨∇φ, w⟩
            xs = [param(x.data) if isinstance(x, Tensor) and not x.requires_grad else x for x in xs]
            terms = [(g * w).sum() for g, w in zip(gradients(*xs, create_graph=True), ws, strict=True)]
            return sum(terms[1:], terms[0])

        _check(next_f, arrays, places, level + 1, order, tolerances, key.fold(2))


def _slope(f, arrays, i, u, v) -> tuple[float, str]:
    """d/dε φ(x + ε v), and which oracle said so."""

    def φ(step):
        moved = [tensor(a + step * v if j == i else a) if _is_float(a) else a for j, a in enumerate(arrays)]
        return (f(*moved).data * u).sum()

    middle = read(φ(0.0))
    if not abs(middle) < float("inf"):
        raise NotDifferentiable(f"minigrad.check_grads: the function is not finite here: Σ u · f(x) is {middle}")
    for h in (2.0**-17, 2.0**-22):  # a curve that is steep for the first step may be smooth to the second
        h *= max(1.0, read(abs(arrays[i]).max()) if arrays[i].size else 1.0)
        right, left = (
            [(read(φ(s)) - middle) / s for s in (h, h / 4)],
            [(middle - read(φ(-s))) / s for s in (h, h / 4)],
        )
        central, finer = (right[0] + left[0]) / 2, (right[1] + left[1]) / 2
        size = 1.0 + abs(central) + 1e-3 * abs(middle)
        gap, finer_gap = abs(right[0] - left[0]), abs(right[1] - left[1])
        # the gap between the one-sided slopes is h φ″ where φ is smooth: a quarter of the step, a quarter of the gap
        corner = (gap > 1e-3 * size and finer_gap > 0.5 * gap) or not abs(central - finer) <= 1e-5 * size
        if not corner:
            break
    if corner:
        raise NotDifferentiable(
            f"minigrad.check_grads: not differentiable by argument {i} here: "
            f"the slope is {left[1]:.6g} on one side and {right[1]:.6g} on the other"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a complex number cut to its real part is only a warning in NumPy
            exact = read(φ(1e-20j)).imag / 1e-20
    except (TypeError, ValueError, RuntimeError, Warning):
        return central, "central difference"
    if abs(exact - central) <= 1e-5 * size:
        return exact, "complex step"
    return central, "central difference"


def _written_out(g: Any) -> type_of_array:
    return g.dense() if isinstance(g, Rows) else g.data if isinstance(g, Tensor) else g


def _is_float(a: Any) -> bool:
    return isinstance(a, float) or getattr(getattr(a, "dtype", None), "kind", "") == "f"


def _direction(key: Key, like: type_of_array) -> type_of_array:
    """Random numbers of size 0.5 to 1 and either sign, where `like` is and of its shape."""
    r = key.uniform(like.shape, "float64") - 0.5
    xp = xp_of(r)
    return r + xp.where(r < 0, -0.5, 0.5)


# ---- strategies for Hypothesis: use them on functions of your own -----------------------------------------------


class VocabBatch(NamedTuple):
    """What an output layer sees: weight (V, d), bias (V,), hidden (B, d), targets (B,) ids in [0, V)."""

    weight: Tensor
    bias: Tensor
    hidden: Tensor
    targets: type_of_array


def _numbers(shape, dtype, low, high, unique=False):
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    width = 32 if dtype == "float32" else 64
    elements = st.floats(low, high, width=width, allow_subnormal=False)
    if low <= 0.0 <= high:
        elements = elements.map(lambda x: 0.0 if abs(x) < 1e-6 else x)  # whose squares would underflow
    if unique:
        steps = hnp.arrays("int64", shape, elements=st.integers(0, 1000), unique=True)
        return steps.map(lambda steps: (low + (high - low) * steps / 1000).astype(dtype))
    return hnp.arrays(dtype, shape, elements=elements)


def tensors(
    shape: Any = None,
    *,
    dtype: str = "float64",
    min_value: float = -3.0,
    max_value: float = 3.0,
    min_dims: int = 0,
    max_dims: int = 3,
    max_side: int = 4,
    unique: bool = False,
):
    """Strategy: a parameter tensor with values in [min_value, max_value].

    shape: a tuple, a strategy of tuples, or None for any shape of min_dims to max_dims axes of 1 to max_side.
    unique: no two values are nearer than a thousandth of the range, so that a maximum is attained once, and by the same
    number a small step away.
    """
    from hypothesis.extra import numpy as hnp

    if shape is None:
        shape = hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=1, max_side=max_side)
    return _numbers(shape, dtype, min_value, max_value, unique).map(param)


def broadcastable(n: int = 2, *, dtype: str = "float64", min_value: float = -3.0, max_value: float = 3.0):
    """Strategy: a tuple of n tensors whose shapes broadcast together."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    shapes = hnp.mutually_broadcastable_shapes(num_shapes=n, max_dims=3, max_side=3)
    return shapes.flatmap(
        lambda s: st.tuples(*(_numbers(shape, dtype, min_value, max_value).map(param) for shape in s.input_shapes))
    )


def indices(shape: Sequence[int]):
    """Strategy: an index for an array of `shape`: numbers, slices, None, `...`, or arrays of integers."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    basic = hnp.basic_indices(tuple(shape), allow_newaxis=True)
    return st.one_of(basic, hnp.integer_array_indices(tuple(shape))) if 0 not in shape and shape else basic


def vocab_batches(*, max_vocab: int = 7, max_dim: int = 4, max_batch: int = 5, dtype: str = "float64"):
    """Strategy: a `VocabBatch`, with repeated targets and batches of one among them."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    def of_size(size):
        v, d, b = size
        weight, bias, hidden = ((v, d), (v,), (b, d))
        parts = [_numbers(shape, dtype, -2.0, 2.0).map(param) for shape in (weight, bias, hidden)]
        targets = hnp.arrays("int64", (b,), elements=st.integers(0, v - 1))
        return st.builds(VocabBatch, *parts, targets)

    return st.tuples(st.integers(2, max_vocab), st.integers(1, max_dim), st.integers(1, max_batch)).flatmap(of_size)
