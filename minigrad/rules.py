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
from .arguments import signature, whole
from .backend import asarray_like, device_of, np, on_gpu, to_device, xp_of
from .ids import check_index, least_id, placed_ids
from .ledger import tell
from .numerics import axes_of, elementwise, reduced
from .rows import Rows
from .tape import primitive
from .tensor import Tensor

# fmt: off
# ---- arithmetic --------------------------------------------------------------------------------------------------
#                    name    result y           ∂L/∂a                     ∂L/∂b
add = primitive("add", operator.add,     d=[lambda g, y, a, b: g,     lambda g, y, a, b: g],                keep="")
sub = primitive("sub", operator.sub,     d=[lambda g, y, a, b: g,     lambda g, y, a, b: -g],               keep="")
mul = primitive("mul", operator.mul,     d=[lambda g, y, a, b: g * b, lambda g, y, a, b: g * a],        keep="other")
div = primitive("div", operator.truediv, d=[lambda g, y, a, b: g / b, lambda g, y, a, b: -g / b * (a / b)], keep="x")
neg = primitive("neg", operator.neg,     d=[lambda g, y, a: -g],                                            keep="")
power = primitive("power", numerics.power, d=[lambda g, y, a, n: g * (n * a ** (n - 1)) if n else 0.0 * g], keep="x")

# ---- exponentials ------------------------------------------------------------------------------------------------
exp   = primitive("exp",   elementwise("exp"),   d=[lambda g, y, a: g * y],                    keep="y")
log   = primitive("log",   elementwise("log"),   d=[lambda g, y, a: g / a],                    keep="x")
expm1 = primitive("expm1", elementwise("expm1"), d=[lambda g, y, a: g * y + g],                keep="y")
log1p = primitive("log1p", elementwise("log1p"), d=[lambda g, y, a: g / (1.0 + a)],            keep="x")
sqrt  = primitive("sqrt",  elementwise("sqrt"),  d=[lambda g, y, a: 0.5 * g / y],              keep="y")
tanh  = primitive("tanh",  elementwise("tanh"),  d=[lambda g, y, a: g - g * y * y],            keep="y")
sigmoid    = primitive("sigmoid",    numerics.sigmoid,    d=[lambda g, y, a: g * (y - y * y)], keep="y")
softplus   = primitive("softplus",   numerics.softplus,   d=[lambda g, y, a: g * sigmoid(a)],  keep="x")
logsigmoid = primitive("logsigmoid", numerics.logsigmoid, d=[lambda g, y, a: g * sigmoid(-a)], keep="x")

# ---- corners: where there are two slopes, the gradient is one of them, or between ----------------------------------
abs  = primitive("abs",  elementwise("abs"),                 d=[lambda g, y, a: g * sign(a)],  keep="x")
relu = primitive("relu", lambda a: xp_of(a).maximum(a, 0.0), d=[lambda g, y, a: g * (y > 0)],  keep="y")
maximum = primitive("maximum", lambda a, b: xp_of_both(a, b).maximum(a, b),
                    d=[lambda g, y, a, b: g * larger(a, b), lambda g, y, a, b: g * larger(b, a)], keep="x")
minimum = primitive("minimum", lambda a, b: xp_of_both(a, b).minimum(a, b),
                    d=[lambda g, y, a, b: g * larger(b, a), lambda g, y, a, b: g * larger(a, b)], keep="x")
clip = primitive("clip", numerics.clip, d=[lambda g, y, a, low=None, high=None: g * within(a, low, high)], keep="x")
choose = primitive("where", numerics.where, d=[lambda g, y, a, b, condition: where(condition, g, 0.0),
                                               lambda g, y, a, b, condition: where(condition, 0.0, g)], keep="")

# ---- reductions --------------------------------------------------------------------------------------------------
sum = primitive("sum", lambda a, *, axis=None, keepdims=False: a.sum(axis=axis, keepdims=keepdims),
                d=[lambda g, y, a, axis=None, **o: spread(g, a, axis)], keep="shape")
mean = primitive("mean", numerics.mean,
                 d=[lambda g, y, a, axis=None, **o: spread(g * (1.0 / count(a, axis)), a, axis)], keep="shape")
max = primitive("max", lambda a, *, axis=None, keepdims=False: a.max(axis=axis, keepdims=keepdims),
                d=[lambda g, y, a, axis=None, **o: unreduced(g, a, axis) * share(y, a, axis)], keep="xy")
min = primitive("min", lambda a, *, axis=None, keepdims=False: a.min(axis=axis, keepdims=keepdims),
                d=[lambda g, y, a, axis=None, **o: unreduced(g, a, axis) * share(y, a, axis)], keep="xy")
logsumexp = primitive("logsumexp", numerics.logsumexp,
                      d=[lambda g, y, a, axis=-1, **o: unreduced(g, a, axis) * exp(a - unreduced(y, a, axis))],
                      keep="xy")

softmax = primitive("softmax", numerics.softmax, keep="y",
                    d=[lambda g, y, a, axis=-1: y * (g - (g * y).sum(axis=axis, keepdims=True))])
log_softmax = primitive("log_softmax", numerics.log_softmax, keep="y",
                        d=[lambda g, y, a, axis=-1: g - exp(y) * g.sum(axis=axis, keepdims=True)])
cross_entropies = primitive("cross_entropy", numerics.cross_entropy, keep="x", joint=lambda g, y, G, a, targets, **o:
                            (each(g, targets, **o) * (p_minus_one(a, targets) if G is None else G),))

# ---- products ----------------------------------------------------------------------------------------------------
dot = primitive("dot", numerics.dot, d=[lambda g, y, a, b: column(g) * b, lambda g, y, a, b: column(g) * a], keep="x")
linear = primitive("linear", numerics.linear, keep="x",
                   d=[lambda g, y, x, W, b: g @ W,
                      lambda g, y, x, W, b: table(g).T @ table(x),
                      lambda g, y, x, W, b: g])
matmul = primitive("matmul", numerics.matmul,
                   d=[lambda g, y, a, b: times_b(g, a, b), lambda g, y, a, b: a_times(g, a, b)], keep="x")

# ---- shapes ------------------------------------------------------------------------------------------------------
broadcast_to = primitive("broadcast_to", lambda a, *, shape: xp_of(a).broadcast_to(a, shape),
                         d=[lambda g, y, a, shape: g], keep="")  # the walk sums over the repeated axes
reshape = primitive("reshape", lambda a, *, shape: a.reshape(shape),
                    d=[lambda g, y, a, shape: g.reshape(a)], keep="shape")
transpose = primitive("transpose", lambda a, *, axes=None: a.transpose(axes),
                      d=[lambda g, y, a, axes=None: g.transpose(inverse(axes))], keep="")
joined = primitive("concat", numerics.concat, keep="shape",
                   joint=lambda g, y, residual, *shapes, axis: parts(g, shapes, axis))
astype = primitive("astype", lambda a, *, dtype: a.astype(dtype), d=[lambda g, y, a, dtype: g], keep="")  # cast back
to = primitive("to", lambda a, *, device, home: to_device(a, device),
               d=[lambda g, y, a, device, home: to(g, device=home, home=device)], keep="")

# ---- look-ups: two and two, each the other's derivative (scatter_rows is what Rows stands for, as an operation) ----
look_up = primitive("take", numerics.look_up, d=[lambda g, y, a, ids: rows(g, a, ids)], keep="shape")
scatter_rows = primitive("scatter_rows", lambda a, *, ids, shape: Rows(ids, a, shape, checked=True).dense(),
                         d=[lambda g, y, a, ids, shape: look_up(g, ids=ids)], keep="")
pick = primitive("getitem", lambda a, *, index: a[index],
                 d=[lambda g, y, a, index: put(g, index=index, shape=a)], keep="shape")
put = primitive("put", numerics.put, d=[lambda g, y, a, index, shape: pick(g, index=index)], keep="")
# fmt: on


def logsumexp_and_softmax(a):
    """Both of the rows of a (n, m): (n,) and (n, m). Of an array of float32 one pass of the kernel does both."""
    if type(a) is not Tensor and (twin := numerics.twin_of_softmax(a, -1)):
        return twin
    return logsumexp(a, axis=-1), softmax(a, axis=-1)


# ---- what the rules are made of ----------------------------------------------------------------------------------


def unreduced(g, a, axis):
    """A reduction of `a`, or its gradient, with the reduced axes there again as ones: ready to broadcast."""
    return g.reshape(reduced(getattr(a, "shape", a), axis, keepdims=True))


def spread(g, shape, axis):
    """The gradient of a sum: g repeated along the axes that were summed."""
    g = g if axis is None else unreduced(g, shape, axis)
    if type(g) is Tensor:
        return broadcast_to(g, shape=shape)
    y = xp_of(g).empty(shape, g.dtype)  # written out: NumPy computes slowly with a view that repeats numbers
    y[...] = g
    return y


def count(shape, axis) -> int:
    """How many numbers go into one mean."""
    return math.prod(shape[i] for i in axes_of(shape, axis))


def share(y, a, axis):
    """Which part of a maximum's gradient goes where: all to where it was attained, among equals in equal parts."""
    y, a = array_of(y), array_of(a)
    top = (a == unreduced(y, a, axis)).astype(a.dtype)
    return top / top.sum(axis=axis, keepdims=True)


def sign(a):
    a = array_of(a)
    return xp_of(a).sign(a)


def larger(a, b):
    """How much of the gradient of max(a, b) is a's: all, none, or half of it where they are equal."""
    a, b = array_of(a), array_of(b)
    dtype = (a if hasattr(a, "dtype") else b).dtype
    return ((a > b) + 0.5 * (a == b)).astype(dtype)


def within(a, low, high):
    """1 where a clipped number is what it was, at the bounds too."""
    a = array_of(a)
    inside = a == a if low is None else a >= low
    return inside if high is None else inside & (a <= high)


def xp_of_both(a, b):
    return xp_of(a if hasattr(a, "dtype") else b)


def p_minus_one(logits, targets):
    """softmax(s) − 1[· = t], each row's gradient of its cross-entropy, of tensors."""
    t = targets.reshape(-1)
    xp, n = xp_of(t), t.size
    ones = put(xp.ones(n, logits.dtype), index=(xp.arange(n), t), shape=(n, logits.shape[-1]))
    return softmax(logits) - ones.reshape(logits.shape)


def each(g, targets, reduction="none"):
    """The gradient of every row's loss, of the gradient of their mean, of their sum, or of them all."""
    return column(g) if reduction == "none" else g if reduction == "sum" else g * (1.0 / targets.size)


def parts(g, shapes, axis):
    """The gradient of arrays put one behind the other, cut into theirs."""
    found, at = [], 0
    for shape in shapes:
        axis %= len(shape)
        found.append(g[(*(slice(None),) * axis, slice(at, at + shape[axis]))])
        at += shape[axis]
    return found


def inverse(axes):
    """The permutation that undoes `axes`; None, which reverses all axes, undoes itself."""
    return axes and tuple(sorted(range(len(axes)), key=[i % len(axes) for i in axes].__getitem__))


def times_b(g, a, b):
    """∂L/∂a of y = a b is g bᵀ; a vector counts as a matrix of one row (a) or of one column (b)."""
    if b.ndim == 1:
        return b * g if a.ndim == 1 else outer(g, b)
    if a.ndim == 1:
        return (b @ column(g)).reshape(b.shape[:-1])
    return product(g, flipped(b))


def a_times(g, a, b):
    """∂L/∂b of y = a b is aᵀ g."""
    if b.ndim == 1:
        return a * g if a.ndim == 1 else product(g.reshape(-1), table(a))
    if a.ndim == 1:
        return outer(a, g) if b.ndim == 2 else column(a) * g.reshape((*g.shape[:-1], 1, g.shape[-1]))
    return product(flipped(a), g)


def product(a, b):
    """a @ b of arrays or tensors."""
    return a @ b if Tensor in (type(a), type(b)) else numerics.matmul(a, b)


def outer(a, b):
    """(..., n), (m,) -> (..., n, m): all products of a number of the one and a number of the other."""
    return column(a) * b if a.ndim > 1 else product(column(a), b.reshape((1, -1)))


def table(a):
    """(..., n) as (m, n)."""
    return a if a.ndim == 2 else a.reshape((-1, a.shape[-1]))


def column(g):
    return g.reshape((*g.shape, 1))


def flipped(a):
    """Each matrix of a batch transposed."""
    if type(a) is not Tensor:
        return a.swapaxes(-2, -1)
    return transpose(a, axes=(*range(a.ndim - 2), a.ndim - 1, a.ndim - 2))


def rows(g, shape, ids):
    """The gradient of a look-up: `Rows` of an array; of a tensor, a dense tensor, for it must be differentiable."""
    ids, values = ids.reshape(-1), g.reshape((ids.size, *shape[1:]))
    return scatter_rows(values, ids=ids, shape=shape) if type(g) is Tensor else Rows(ids, values, shape, checked=True)


def array_of(a):
    return a.data if type(a) is Tensor else a


# ---- indices -----------------------------------------------------------------------------------------------------


def take(a: Any, ids: Any) -> Any:
    """The rows a[ids] of a table: a (V, ...), integer ids of any shape in [0, V) -> (*ids.shape, ...).

    The gradient of the table is `Rows`: it holds the rows looked up and no others. IndexError for an id out of range,
    negative ones included.
    """
    table = array_of(a)
    if not hasattr(table, "dtype") or not table.ndim:
        raise TypeError(f"minigrad.take: expected a table (V, ...), got {signature(a)}")
    return look_up(a, ids=placed_ids(f"minigrad.take({signature(a)}): ids", array_of(ids), len(table), table))


def getitem(a: Any, index: Any) -> Any:
    """a[index]: numbers, slices, None, `...`, integer or boolean arrays, and tuples of those, as in NumPy.

    Rows picked by an array of integers, W[ids], are a look-up (`take`), and the gradient of W is `Rows`. NumPy's own
    integers count as arrays; a plain W[3] does not.
    """
    if isinstance(index, tuple):
        index = tuple(as_index(a, i) if is_array(i) else i for i in index)
        if on_gpu(array_of(a)):
            check_index("minigrad.getitem", index, a.shape)
        return pick(a, index=index)
    index = np.asarray(index) if isinstance(index, list) and index else array_of(index)
    if getattr(index, "dtype", None) is None or index.dtype.kind not in "iu":
        index = as_index(a, index) if is_array(index) else index
        if on_gpu(index):
            tell("wait", 0, device_of(index))  # for how many the mask picks: once, and not again on the way back
            index = index.nonzero()
        return pick(a, index=index)
    if least_id(index, len(a)) < 0:
        index = index.astype("int64")
        index = xp_of(index).where((index < 0) & (index >= -len(a)), index + len(a), index)
    return take(a, index)


def is_array(index: Any) -> bool:
    """Whether an index lies somewhere, being a list, an array or a tensor: no number, slice, None or `...`."""
    return isinstance(index, list | tuple | Tensor) or getattr(index, "ndim", 0) > 0


def as_index(a, ids):
    """Integers given as a number, a list, an array or a tensor, as an array that lies where `a` does."""
    ids = array_of(ids)
    return asarray_like(ids, array_of(a), dtype="int64" if not hasattr(ids, "dtype") and ids in ([], ()) else None)


def take_along_axis(a: Any, ids: Any, axis: int = -1) -> Any:
    """y[i, j] = a[i, ids[i, j]] for the last axis, as in NumPy: a number of each row picked by the ids of that row.

    ids: integers in [0, a.shape[axis]), with as many axes as a; the others are as long as a's, or 1.
    """
    ids, shape = as_index(a, ids), a.shape
    if ids.ndim != len(shape):
        raise ValueError(f"minigrad.take_along_axis: ids must have {len(shape)} axes, as a has, got {list(ids.shape)}")
    axis = axis_in("take_along_axis", axis, len(shape))
    ids = placed_ids("minigrad.take_along_axis: ids", ids, shape[axis], ids)
    xp, index = xp_of(ids), []
    for i, n in enumerate(shape):
        index.append(ids if i == axis else xp.arange(n).reshape([-1 if j == i else 1 for j in range(len(shape))]))
    return pick(a, index=tuple(index))


# ---- functions that take their arguments in another form ---------------------------------------------------------


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, b elsewhere: an array of booleans, and tensors or numbers; all three broadcast."""
    on_gpus = filter(on_gpu, map(array_of, (a, b)))
    return choose(a, b, condition=as_index(next(on_gpus, condition), condition))


def concat(tensors: Any, axis: int = 0) -> Any:
    """The tensors one behind the other along an axis: of one shape but for that axis."""
    tensors = several("concat", tensors)
    return joined(*tensors, axis=axis_in("concat", axis, len(tensors[0].shape)))


def stack(tensors: Any, axis: int = 0) -> Any:
    """The tensors, all of one shape, side by side along a new axis."""
    tensors = several("stack", tensors)
    shape = tensors[0].shape
    if any(t.shape != shape for t in tensors):
        raise ValueError(
            f"minigrad.stack: all must have one shape, got {', '.join(str(list(t.shape)) for t in tensors)}"
        )
    axis = axis_in("stack", axis, len(shape) + 1)
    return joined(*(reshape(t, shape=(*shape[:axis], 1, *shape[axis:])) for t in tensors), axis=axis)


def several(name: str, tensors: Any) -> list:
    tensors = list(tensors) if isinstance(tensors, list | tuple) else []
    if not tensors or not all(hasattr(t, "shape") for t in tensors):
        raise TypeError(f"minigrad.{name}: expected a list of one or more tensors")
    return tensors


def axis_in(name: str, axis: int, ndim: int) -> int:
    axis = whole(f"minigrad.{name}: axis", axis, -math.inf)
    if not -ndim <= axis < ndim:
        raise ValueError(f"minigrad.{name}: axis must lie in {-ndim} to {ndim - 1}, got {axis}")
    return axis % ndim


def cross_entropy(logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """−log softmax(s)_t for each row s of `logits` (..., V) and its target t of `targets` (...), integers in [0, V).

    A scalar, their "mean" or "sum", or with reduction="none" one number for each row. One operation: the gradient
    softmax(s) − 1[· = t] is made along with the loss, and nothing else of the size of the logits is kept.
    """
    targets = array_of(targets)
    targets = targets if hasattr(targets, "dtype") else as_index(targets, targets)
    if not logits.ndim or targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"minigrad.cross_entropy: logits (..., V) need targets (...), "
            f"got {signature(logits)} and {signature(targets)}"
        )
    targets = placed_ids("minigrad.cross_entropy: targets", targets, logits.shape[-1], array_of(logits))
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'minigrad.cross_entropy: reduction must be "mean", "sum" or "none", got {reduction!r}')
    return cross_entropies(logits, targets=targets, reduction=reduction)


# ---- the operators of a tensor -----------------------------------------------------------------------------------


def _hang_on(tensor: type) -> None:
    """Gives `Tensor` its operators and methods, spelled as on NumPy's arrays so that a rule can use either."""
    for name, f in {"add": add, "sub": sub, "mul": mul, "truediv": div, "matmul": matmul}.items():
        setattr(tensor, f"__{name}__", f)
        setattr(tensor, f"__r{name}__", lambda a, b, f=f: f(b, a))
    tensor.__neg__, tensor.__pow__, tensor.__getitem__ = neg, power, getitem
    tensor.__rpow__ = lambda a, base: power(base, a)  # an error that says what to write instead
    tensor.sum, tensor.mean, tensor.max, tensor.min, tensor.astype, tensor.__abs__ = sum, mean, max, min, astype, abs
    tensor.reshape = lambda a, *shape: reshape(a, shape=_shape(shape))
    tensor.transpose = lambda a, *axes: transpose(a, axes=_shape(axes) or None)
    tensor.to = lambda a, device: to(a, device=device, home=a.device)


def _shape(numbers):
    """f(2, 3) and f((2, 3)) alike."""
    return tuple(numbers[0] or ()) if len(numbers) == 1 and not hasattr(numbers[0], "__index__") else numbers


_hang_on(Tensor)
