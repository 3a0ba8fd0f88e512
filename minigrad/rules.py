"""The calculus of the library on one page: a line per primitive, a rule per argument.

In each rule g is ∂L/∂y, y the result, a and b the arguments, o the options; it answers ∂L/∂a or ∂L/∂b. Arguments that
`keep` doesn't list are None, and with keep="shape" they are their shapes. That broadcasting is undone (the gradient
summed over the axes along which an argument was repeated) the walk sees to: no rule mentions it.

The rules are written in operators and in functions of this page, so they work on arrays (first derivatives) and on
tensors (derivatives of any order) alike. `tests/minigrad/test_rules.py` checks every line to second order.
"""

import math
import operator
from typing import Any

from . import numerics
from .backend import to_device, xp_of
from .numerics import axes_of, elementwise, reduced
from .rows import Rows
from .tape import primitive
from .tensor import Tensor

# fmt: off
# ---- arithmetic --------------------------------------------------------------------------------------------------
#                    name    result y           ∂L/∂a                   ∂L/∂b
add = primitive("add", operator.add,     d=[lambda g, y, a, b: g,    lambda g, y, a, b: g],             keep="")
sub = primitive("sub", operator.sub,     d=[lambda g, y, a, b: g,    lambda g, y, a, b: -g],            keep="")
mul = primitive("mul", operator.mul,     d=[lambda g, y, a, b: g * b, lambda g, y, a, b: g * a],        keep="other")
div = primitive("div", operator.truediv, d=[lambda g, y, a, b: g / b, lambda g, y, a, b: -g / b * (a / b)], keep="x")
neg = primitive("neg", operator.neg,     d=[lambda g, y, a: -g],                                        keep="")
power = primitive("power", numerics.power, d=[lambda g, y, a, n: g * (n * a ** (n - 1)) if n else 0.0 * g],    keep="x")

# ---- exponentials ------------------------------------------------------------------------------------------------
exp  = primitive("exp",  elementwise("exp"),  d=[lambda g, y, a: g * y],               keep="y")
log  = primitive("log",  elementwise("log"),  d=[lambda g, y, a: g / a],               keep="x")
tanh = primitive("tanh", elementwise("tanh"), d=[lambda g, y, a: g - g * y * y],       keep="y")
sigmoid    = primitive("sigmoid",    numerics.sigmoid,    d=[lambda g, y, a: g * (y - y * y)],     keep="y")
softplus   = primitive("softplus",   numerics.softplus,   d=[lambda g, y, a: g * sigmoid(a)],      keep="x")
logsigmoid = primitive("logsigmoid", numerics.logsigmoid, d=[lambda g, y, a: g * sigmoid(-a)],     keep="x")

# ---- reductions --------------------------------------------------------------------------------------------------
sum = primitive("sum", lambda a, *, axis=None, keepdims=False: a.sum(axis=axis, keepdims=keepdims),
                d=[lambda g, y, a, axis=None, **o: spread(g, a, axis)], keep="shape")
mean = primitive("mean", numerics.mean,
                 d=[lambda g, y, a, axis=None, **o: spread(g * (1.0 / count(a, axis)), a, axis)], keep="shape")
max = primitive("max", lambda a, *, axis=None, keepdims=False: a.max(axis=axis, keepdims=keepdims),
                d=[lambda g, y, a, axis=None, **o: unreduced(g, a, axis) * share(y, a, axis)], keep="xy")
logsumexp = primitive("logsumexp", numerics.logsumexp,
                      d=[lambda g, y, a, axis=-1, **o: unreduced(g, a, axis) * exp(a - unreduced(y, a, axis))],
                      keep="xy")

# ---- products ----------------------------------------------------------------------------------------------------
matmul = primitive("matmul", numerics.matmul,
                   d=[lambda g, y, a, b: times_b(g, a, b), lambda g, y, a, b: a_times(g, a, b)], keep="x")

# ---- shapes ------------------------------------------------------------------------------------------------------
broadcast_to = primitive("broadcast_to", lambda a, *, shape: xp_of(a).broadcast_to(a, shape),
                         d=[lambda g, y, a, shape: g], keep="")  # the walk sums over the repeated axes
reshape = primitive("reshape", lambda a, *, shape: a.reshape(shape),
                    d=[lambda g, y, a, shape: g.reshape(a)], keep="shape")
transpose = primitive("transpose", lambda a, *, axes=None: a.transpose(axes),
                      d=[lambda g, y, a, axes=None: transpose(g, axes=inverse(axes))], keep="")
astype = primitive("astype", lambda a, *, dtype: a.astype(dtype), d=[lambda g, y, a, dtype: g], keep="")  # cast back
to = primitive("to", lambda a, *, device, home: to_device(a, device),
               d=[lambda g, y, a, device, home: to(g, device=home, home=device)], keep="")

# ---- look-ups: two and two, each the other's derivative (scatter_rows is what Rows stands for, as an operation) ----
look_up = primitive("take", numerics.look_up, d=[lambda g, y, a, ids: rows(g, a, ids)], keep="shape")
scatter_rows = primitive("scatter_rows", lambda a, *, ids, shape: Rows(ids, a, shape).dense(),
                         d=[lambda g, y, a, ids, shape: look_up(g, ids=ids)], keep="")
pick = primitive("getitem", lambda a, *, index: a[index],
                 d=[lambda g, y, a, index: put(g, index=index, shape=a)], keep="shape")
put = primitive("put", numerics.put, d=[lambda g, y, a, index, shape: pick(g, index=index)], keep="")
# fmt: on


# ---- what the rules are made of ----------------------------------------------------------------------------------


def unreduced(g, a, axis):
    """A reduction of `a`, or its gradient, with the reduced axes there again as ones: ready to broadcast."""
    return g.reshape(reduced(getattr(a, "shape", a), axis, keepdims=True))


def spread(g, shape, axis):
    """The gradient of a sum: g repeated along the axes that were summed."""
    return broadcast_to(unreduced(g, shape, axis), shape=shape)


def count(shape, axis) -> int:
    """How many numbers go into one mean."""
    return math.prod(shape[i] for i in axes_of(shape, axis))


def share(y, a, axis):
    """Which part of a maximum's gradient goes where: all to where it was attained, among equals in equal parts."""
    y, a = array_of(y), array_of(a)
    top = (a == unreduced(y, a, axis)).astype(a.dtype)
    return top / top.sum(axis=axis, keepdims=True)


def inverse(axes):
    """The permutation that undoes `axes`; None, which reverses all axes, undoes itself."""
    return axes and tuple(sorted(range(len(axes)), key=[i % len(axes) for i in axes].__getitem__))


def times_b(g, a, b):
    """∂L/∂a of y = a b is g bᵀ; a vector counts as a matrix of one row (a) or of one column (b)."""
    if b.ndim == 1:
        return column(g) * b
    if a.ndim == 1:
        return (b @ column(g)).reshape(b.shape[:-1])
    return g @ flipped(b)


def a_times(g, a, b):
    """∂L/∂b of y = a b is aᵀ g."""
    if b.ndim == 1:
        return (a * column(g)).sum(axis=tuple(range(a.ndim - 1)))
    if a.ndim == 1:
        return column(a) * g.reshape((*g.shape[:-1], 1, g.shape[-1]))
    return flipped(a) @ g


def column(g):
    return g.reshape((*g.shape, 1))


def flipped(a):
    """Each matrix of a batch transposed."""
    return transpose(a, axes=(*range(a.ndim - 2), a.ndim - 1, a.ndim - 2))


def rows(g, shape, ids):
    """The gradient of a look-up: `Rows` of an array; of a tensor, a dense tensor, for it must be differentiable."""
    ids, values = ids.reshape(-1), g.reshape((ids.size, *shape[1:]))
    return scatter_rows(values, ids=ids, shape=shape) if type(g) is Tensor else Rows(ids, values, shape)


def array_of(a):
    return a.data if type(a) is Tensor else a


# ---- indices -----------------------------------------------------------------------------------------------------


def take(a: Any, ids: Any) -> Any:
    """The rows a[ids] of a table: a (V, ...), integer ids of any shape in [0, V) -> (*ids.shape, ...).

    The gradient of the table is `Rows`: it holds the rows looked up and no others. IndexError for an id out of range,
    negative ones included.
    """
    ids = as_index(a, ids)
    return look_up(a, ids=ids.astype("int64") if ids.dtype.kind in "iu" else ids)  # a copy, if it is a buffer


def getitem(a: Any, index: Any) -> Any:
    """a[index]: numbers, slices, None, `...`, integer or boolean arrays, and tuples of those, as in NumPy.

    Rows picked by an array of integers, W[ids], are a look-up (`take`), and the gradient of W is `Rows`. NumPy's own
    integers count as arrays; a plain W[3] does not.
    """
    if isinstance(index, tuple):
        return pick(a, index=tuple(as_index(a, i) if isinstance(i, list | tuple | Tensor) else i for i in index))
    index = as_index(a, index) if isinstance(index, list | Tensor) else index
    if getattr(index, "dtype", None) is None or index.dtype.kind not in "iu":
        return pick(a, index=index)
    index = index.astype("int64")
    return take(a, xp_of(index).where((index < 0) & (index >= -len(a)), index + len(a), index))


def as_index(a, ids):
    """Integers given as a number, a list, an array or a tensor, as an array that lies where `a` does."""
    ids = array_of(ids)
    return ids if hasattr(ids, "dtype") else xp_of(array_of(a)).asarray(ids, dtype="int64" if ids in ([], ()) else None)


# ---- the operators of a tensor -----------------------------------------------------------------------------------


def _hang_on(tensor: type) -> None:
    """Gives `Tensor` its operators and methods, spelled as on NumPy's arrays so that a rule can use either."""
    for name, f in {"add": add, "sub": sub, "mul": mul, "truediv": div, "matmul": matmul}.items():
        setattr(tensor, f"__{name}__", f)
        setattr(tensor, f"__r{name}__", lambda a, b, f=f: f(b, a))
    tensor.__neg__, tensor.__pow__, tensor.__getitem__ = neg, power, getitem
    tensor.__rpow__ = lambda a, base: power(base, a)  # an error that says what to write instead
    tensor.sum, tensor.mean, tensor.max, tensor.astype = sum, mean, max, astype
    tensor.reshape = lambda a, *shape: reshape(a, shape=_shape(shape))
    tensor.transpose = lambda a, *axes: transpose(a, axes=_shape(axes) or None)
    tensor.to = lambda a, device: to(a, device=device, home=a.device)


def _shape(numbers):
    """f(2, 3) and f((2, 3)) alike."""
    return tuple(numbers[0] or ()) if len(numbers) == 1 and not hasattr(numbers[0], "__index__") else numbers


_hang_on(Tensor)
