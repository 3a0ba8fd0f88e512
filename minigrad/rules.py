"""The calculus of the library on one page: a line per primitive, a rule per argument.

In each rule g is ∂L/∂y, y the result, a and b the arguments; it answers ∂L/∂a or ∂L/∂b. Arguments that `keep` doesn't
list are None, and with keep="shape" they are their shapes. That broadcasting is undone (the gradient summed over the
axes along which an argument was repeated) the tape sees to: no rule below mentions it.

The rules are written in operators and in functions of this page, so they work on arrays (first derivatives) and on
tensors (derivatives of any order) alike. `tests/minigrad/test_rules.py` checks every line to second order.
"""

import math
from typing import Any

from .backend import check_ids, quiet, to_device, xp_of
from .rows import Rows
from .tape import primitive
from .tensor import Tensor

# ---- arithmetic -------------------------------------------------------------------------------------------------
add = primitive("add", lambda a, b: a + b, d=[lambda g, y, a, b: g, lambda g, y, a, b: g], keep="")
sub = primitive("sub", lambda a, b: a - b, d=[lambda g, y, a, b: g, lambda g, y, a, b: -g], keep="")
mul = primitive("mul", lambda a, b: a * b, d=[lambda g, y, a, b: g * b, lambda g, y, a, b: g * a])
div = primitive("div", lambda a, b: a / b, d=[lambda g, y, a, b: g / b, lambda g, y, a, b: -g * a / (b * b)])
neg = primitive("neg", lambda a: -a, d=[lambda g, y, a: -g], keep="")


def _power(a, *, n):
    if isinstance(n, Tensor) or not isinstance(n, int | float):
        raise TypeError(f"the exponent must be a plain number, got {type(n).__name__}; use exp(n * log(a))")
    return a**n


power = primitive("power", _power, d=[lambda g, y, a, *, n: g * (n * a ** (n - 1)) if n else g * 0.0])

# ---- exponentials -----------------------------------------------------------------------------------------------
# |a| is written max(a, −a): for complex numbers, which the gradient checks use, that is a or −a, and analytic.


def _sigmoid(a):
    """1/(1 + e^−a); where e^−a would overflow, the answer is the smallest that doesn't."""
    xp = xp_of(a)
    return 1.0 / (1.0 + xp.exp(-xp.maximum(a, -88.0 if getattr(a, "itemsize", 8) == 4 else -709.0)))


def _softplus(a):
    """log(1 + e^a) = max(a, 0) + log(1 + e^−|a|): exact far from zero on either side, where log(1 + exp(a)) is not."""
    xp = xp_of(a)
    return xp.maximum(a, 0.0) + xp.log1p(xp.exp(-xp.maximum(a, -a)))


def _logsumexp(a, *, axis=-1, keepdims=False):
    """log Σ e^a along an axis (or several): the maximum is taken out first, so that no exponential overflows."""
    xp = xp_of(a)
    m = a.max(axis=axis, keepdims=True)
    m = xp.where(xp.isfinite(m), m, 0.0).astype(a.dtype)  # a row of −inf is log 0 = −inf, not nan
    with quiet():
        y = m + xp.log(xp.exp(a - m).sum(axis=axis, keepdims=True))
    return y if keepdims else y.reshape(_reduced(a.shape, axis))


exp = primitive("exp", lambda a: xp_of(a).exp(a), d=[lambda g, y, a: g * y], keep="y")
log = primitive("log", lambda a: xp_of(a).log(a), d=[lambda g, y, a: g / a])
tanh = primitive("tanh", lambda a: xp_of(a).tanh(a), d=[lambda g, y, a: g * (1.0 - y * y)], keep="y")
sigmoid = primitive("sigmoid", _sigmoid, d=[lambda g, y, a: g * (y * (1.0 - y))], keep="y")
softplus = primitive("softplus", _softplus, d=[lambda g, y, a: g * sigmoid(a)])
logsigmoid = primitive("logsigmoid", lambda a: -_softplus(-a), d=[lambda g, y, a: g * sigmoid(-a)])
logsumexp = primitive(
    "logsumexp",
    _logsumexp,
    d=[lambda g, y, a, *, axis=-1, keepdims=False: _kept(g, a, axis) * exp(a - _kept(y, a, axis))],
    keep="xy",
)

# ---- reductions -------------------------------------------------------------------------------------------------


def _axes(shape, axis) -> tuple[int, ...]:
    """axis=None, 1, −1 or (0, 1) as a tuple of numbers from 0."""
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    return tuple(i % len(shape) for i in axes)


def _reduced(shape, axis, keepdims=False) -> tuple[int, ...]:
    axes = _axes(shape, axis)
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)


def _kept(g, a, axis):
    """The result of a reduction of `a`, or its gradient, with the reduced axes there as ones: ready to broadcast."""
    return g.reshape(_reduced(getattr(a, "shape", a), axis, keepdims=True))


def _spread(g, shape, axis):
    """The gradient of a sum: g repeated along the axes that were summed."""
    return broadcast_to(_kept(g, shape, axis), shape=shape)


def _share(g, y, a, axis):
    """The gradient of a maximum goes to where it was attained; among equals it is shared."""
    top = (_data(a) == _kept(_data(y), a, axis)).astype(_data(a).dtype)
    return _kept(g, a, axis) * (top / top.sum(axis=axis, keepdims=True))


def _data(a):
    return a.data if type(a) is Tensor else a


def _mean(a, *, axis=None, keepdims=False):
    if a.size == 0:
        raise ValueError("the mean of nothing is not defined")
    return a.mean(axis=axis, keepdims=keepdims)


def _count(shape, axis) -> int:
    return math.prod(shape[i] for i in _axes(shape, axis))


sum = primitive(
    "sum",
    lambda a, *, axis=None, keepdims=False: a.sum(axis=axis, keepdims=keepdims),
    d=[lambda g, y, a, *, axis=None, keepdims=False: _spread(g, a, axis)],
    keep="shape",
)
mean = primitive(
    "mean",
    _mean,
    d=[lambda g, y, a, *, axis=None, keepdims=False: _spread(g * (1.0 / _count(a, axis)), a, axis)],
    keep="shape",
)
max = primitive(
    "max",
    lambda a, *, axis=None, keepdims=False: a.max(axis=axis, keepdims=keepdims),
    d=[lambda g, y, a, *, axis=None, keepdims=False: _share(g, y, a, axis)],
    keep="xy",
)

# ---- shapes -----------------------------------------------------------------------------------------------------


def _inverse(axes):
    """The permutation that undoes `axes`; None, which reverses all axes, undoes itself."""
    return axes and tuple(sorted(range(len(axes)), key=[i % len(axes) for i in axes].__getitem__))


broadcast_to = primitive(
    "broadcast_to",
    lambda a, *, shape: xp_of(a).broadcast_to(a, shape),
    d=[lambda g, y, a, *, shape: g],  # the tape sums over the repeated axes
    keep="",
)
reshape = primitive(
    "reshape", lambda a, *, shape: a.reshape(shape), d=[lambda g, y, a, *, shape: g.reshape(a)], keep="shape"
)
transpose = primitive(
    "transpose",
    lambda a, *, axes=None: a.transpose(axes),
    d=[lambda g, y, a, *, axes=None: transpose(g, axes=_inverse(axes))],
    keep="",
)
astype = primitive(
    "astype",
    lambda a, *, dtype: a.astype(dtype),
    d=[lambda g, y, a, *, dtype: g],  # the tape casts it back
    keep="",
)
to = primitive(
    "to",
    lambda a, *, device, home: to_device(a, device),
    d=[lambda g, y, a, *, device, home: to(g, device=home, home=device)],
    keep="",
)

# ---- products ---------------------------------------------------------------------------------------------------


def _matmul(a, b):
    """a @ b: of matrices, of a matrix and a vector, of two vectors, of batches of matrices."""
    if not getattr(a, "ndim", 0) or not getattr(b, "ndim", 0):
        raise ValueError("a scalar has no rows or columns; use *")
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ValueError(f"{a.shape[-1]} columns on the left, {b.shape[-2 if b.ndim > 1 else 0]} rows on the right")
    return a @ b


def _swap(a):
    """Each matrix of a batch transposed."""
    return transpose(a, axes=(*range(a.ndim - 2), a.ndim - 1, a.ndim - 2))


def _column(g):
    return g.reshape((*g.shape, 1))


def _row(g):
    return g.reshape((*g.shape[:-1], 1, *g.shape[-1:]))


def _matmul_left(g, y, a, b):
    """∂L/∂a of y = a b is g bᵀ; a vector counts as a matrix of one row (a) or one column (b)."""
    if b.ndim == 1:
        return _column(g) * b
    if a.ndim == 1:
        return (b @ _column(g)).reshape(b.shape[:-1])
    return g @ _swap(b)


def _matmul_right(g, y, a, b):
    """∂L/∂b is aᵀ g."""
    if b.ndim == 1:
        return (a * _column(g)).sum(axis=tuple(range(a.ndim - 1)))
    if a.ndim == 1:
        return _column(a) * _row(g)
    return _swap(a) @ g


matmul = primitive("matmul", _matmul, d=[_matmul_left, _matmul_right])

# ---- look-ups: each of these is the other's derivative ----------------------------------------------------------


def _look_up(a, *, ids):
    check_ids("ids", ids, len(a))
    return a[ids]


def _rows(g, shape, ids):
    """The gradient of a look-up: `Rows` of an array; of a tensor, a dense tensor, for it must be differentiable."""
    ids, values = ids.reshape(-1), g.reshape((ids.size, *shape[1:]))
    return scatter_rows(values, ids=ids, shape=shape) if type(g) is Tensor else Rows(ids, values, shape)


def _put(g, *, index, shape):
    """Zeros of `shape` but for g at `index`, equal indices accumulating: the adjoint of indexing."""
    xp = xp_of(g)
    y = xp.zeros(shape, g.dtype)
    if any(hasattr(i, "dtype") for i in (index if isinstance(index, tuple) else (index,))):
        xp.add.at(y, index, g)
    else:
        y[index] = g
    return y


_take = primitive("take", _look_up, d=[lambda g, y, a, *, ids: _rows(g, a, ids)], keep="shape")
scatter_rows = primitive(
    "scatter_rows",
    lambda g, *, ids, shape: Rows(ids, g, shape).dense(),
    d=[lambda g, y, a, *, ids, shape: take(g, ids)],
    keep="",
)
_getitem = primitive(
    "getitem",
    lambda a, *, index: a[index],
    d=[lambda g, y, a, *, index: put(g, index=index, shape=a)],
    keep="shape",
)
put = primitive("put", _put, d=[lambda g, y, a, *, index, shape: g[index]], keep="")


def take(a: Any, ids: Any) -> Any:
    """The rows a[ids] of a table: a (V, ...), integer ids of any shape in [0, V) -> (*ids.shape, ...).

    The gradient of the table is `Rows`: it holds the rows looked up and no others. IndexError for an id out of range,
    negative ones included.
    """
    return _take(a, ids=_index(a, ids))


def _index(a, ids):
    """Integers given as a number, a list, an array or a tensor, as an array that lies where `a` does."""
    ids = _data(ids)
    return ids if hasattr(ids, "dtype") else xp_of(_data(a)).asarray(ids, dtype="int64" if ids == [] else None)


def getitem(a: Any, index: Any) -> Any:
    """a[index]: numbers, slices, None, `...`, integer or boolean arrays, and tuples of those, as in NumPy.

    Rows picked by an array of integers, W[ids], are a look-up (`take`), and the gradient of W is `Rows`.
    """
    if isinstance(index, tuple):
        return _getitem(a, index=tuple(_index(a, i) if isinstance(i, list | Tensor) else i for i in index))
    index = _index(a, index) if isinstance(index, list | Tensor) else index
    if getattr(index, "dtype", None) is None or index.dtype.kind not in "iu":
        return _getitem(a, index=index)
    return take(a, xp_of(index).where(index < 0, index + len(a), index))


# ---- the operators of a tensor ----------------------------------------------------------------------------------


def _hang_on(tensor: type) -> None:
    """Gives `Tensor` its operators and methods, spelled as on NumPy's arrays so that a rule can use either."""
    for name, f in dict(add=add, sub=sub, mul=mul, truediv=div, matmul=matmul).items():
        setattr(tensor, f"__{name}__", f)
        setattr(tensor, f"__r{name}__", lambda a, b, f=f: f(b, a))
    tensor.__neg__ = neg
    tensor.__pow__ = power
    tensor.__getitem__ = getitem
    tensor.sum, tensor.mean, tensor.max = sum, mean, max
    tensor.reshape = lambda a, *shape: reshape(a, shape=_shape(shape))
    tensor.transpose = lambda a, *axes: transpose(a, axes=_shape(axes) or None)
    tensor.astype = astype
    tensor.to = lambda a, device: to(a, device=device, home=a.device)


def _shape(numbers):
    """f(2, 3) and f((2, 3)) alike."""
    return tuple(numbers[0]) if len(numbers) == 1 and not isinstance(numbers[0], int) else tuple(numbers)


_hang_on(Tensor)
