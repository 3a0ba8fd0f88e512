"""How the operations are computed that one cannot just write down: forward functions of `rules.py`, on arrays.

A formula that is right on paper loses its digits, or overflows, where numbers are large: e^100 is infinite in float32,
log(1 + e^−100) is log 1. Each function here says in which form it is right everywhere.

|a| is written max(a, −a): for the complex numbers of the gradient checks that is a or −a, and so stays analytic.
"""

from numbers import Real

from . import cuda, kernels
from .backend import on_cpu, on_gpu, quiet, xp_of
from .rows import worth_a_kernel


def elementwise(name: str):
    """The function of that name in the library of its argument: `xp_of(a).name(a)`, which it need not look up twice."""
    functions = {}

    def f(a):
        try:
            return functions[type(a)](a)
        except KeyError:
            functions[type(a)] = getattr(xp_of(a), name)
            return functions[type(a)](a)

    f.__doc__ = f"{name} of each number: a of any shape -> the same shape."
    return f


def power(a, *, n):
    if not isinstance(n, Real):
        raise TypeError(f"the exponent must be a plain number, got {type(n).__name__}; use exp(n * log(a))")
    return a**n


def sigmoid(a):
    """1/(1 + e^−a) = e^min(a, 0) / (1 + e^−|a|): no exponential of a positive number, and all digits on both sides."""
    xp = xp_of(a)
    return xp.exp(xp.minimum(a, 0.0)) / (1.0 + xp.exp(-xp.maximum(a, -a)))


def softplus(a):
    """log(1 + e^a) = max(a, 0) + log(1 + e^−|a|): no exponential of a large number, and none that is added to 1."""
    xp = xp_of(a)
    return xp.maximum(a, 0.0) + xp.log1p(xp.exp(-xp.maximum(a, -a)))


def logsigmoid(a):
    """log(1/(1 + e^−a)) = −softplus(−a)."""
    return -softplus(-a)


def logsumexp(a, *, axis=-1, keepdims=False):
    """log Σ e^a along an axis (or several) = m + log Σ e^(a − m), with m the maximum: no exponential exceeds 1."""
    if twin := twin_of_softmax(a, axis):
        return twin[0].reshape((*a.shape[:-1], 1) if keepdims else a.shape[:-1])
    xp = xp_of(a)
    m = a.max(axis=axis, keepdims=True)
    m = xp.where(xp.isfinite(m), m, 0.0).astype(a.dtype)  # a row of −inf is log 0 = −inf, not nan
    with quiet():
        y = m + xp.log(xp.exp(a - m).sum(axis=axis, keepdims=True))
    return y if keepdims else y.reshape(reduced(a.shape, axis))


def softmax(a, *, axis=-1):
    """e^a / Σ e^a along an axis (or several): numbers of 0 or more that sum to one. Of any shape -> the same shape."""
    if twin := twin_of_softmax(a, axis):
        return twin[1].reshape(a.shape)
    return _softmax(a, axis)[0]


def log_softmax(a, *, axis=-1):
    """log softmax(a) = a − logsumexp(a), with digits where softmax has underflowed. Of any shape -> the same shape."""
    _, m, total = _softmax(a, axis)
    return (a - m) - xp_of(a).log(total)  # in this order: a − (m + log Σ) would round to the digits of a large m


def _softmax(a, axis):
    """(softmax, m, Σ e^(a − m)), the latter two with the axis as a one."""
    xp = xp_of(a)
    m = a.max(axis=axis, keepdims=True)
    with quiet():
        p = xp.exp(a - m)
    total = p.sum(axis=axis, keepdims=True)
    p /= total
    return p, m, total


def twin_of_softmax(a, axis):
    """(logsumexp, softmax) of rows by the kernel, if it is right for them: float32, along the last axis, all finite."""
    if axis not in (-1, getattr(a, "ndim", 0) - 1) or a.dtype.char != "f" or not worth_a_kernel(a, a, LEAST):
        return None
    xp, rows = xp_of(a), a.reshape(-1, a.shape[-1])
    logs, p = xp.empty(len(rows), a.dtype), xp.empty_like(rows)
    return (logs, p) if kernels.softmax(rows, logs, p) else None


LEAST = 512  # numbers for which the kernel pays: it does the work of a dozen small operations


def cross_entropy(logits, *, targets, reduction="none"):
    """logsumexp(s) − s_t for each row s of `logits`, and for the rule softmax(s) − 1[· = t], made along with it."""
    xp, rows = xp_of(logits), logits.reshape(-1, logits.shape[-1])  # (n, V)
    t = targets.reshape(-1)
    if not t.size and reduction == "mean":
        raise ValueError("the mean of nothing is not defined")
    twin = _twin_of_cross_entropy(rows)
    if twin:
        losses, gradient = xp.empty(len(rows), rows.dtype), xp.empty_like(rows)
        twin(rows, t, losses, gradient)
    else:
        gradient, m, total = _softmax(rows, 1)
        n = xp.arange(len(rows))
        losses = xp.log(total)[:, 0] + (m[:, 0] - rows[n, t])
        gradient[n, t] -= 1.0
    if reduction == "none":
        losses = losses.reshape(targets.shape)
    else:
        losses = losses.sum() if reduction == "sum" else losses.sum() * losses.dtype.type(1.0 / t.size)
    return losses, gradient.reshape(logits.shape)


def _twin_of_cross_entropy(rows):
    """The kernel for these rows, if there is one: Numba's is right only for finite scores, that in CUDA for all."""
    if on_gpu(rows):
        return cuda.cross_entropy if rows.dtype.char in "fd" and rows.flags.c_contiguous else None
    return kernels.cross_entropy if worth_a_kernel(rows, rows, LEAST) and xp_of(rows).isfinite(rows).all() else None


def mean(a, *, axis=None, keepdims=False):
    if 0 in [a.shape[i] for i in axes_of(a.shape, axis)]:
        raise ValueError("the mean of nothing is not defined")
    if axis is None and not keepdims and a.dtype.char in "fd" and on_cpu(a):
        return a.sum() / a.dtype.type(a.size)  # what a.mean() computes, begun sooner
    return a.mean(axis=axis, keepdims=keepdims)


def dot(a, b):
    """Σ_i a_i b_i along the last axis: (..., n), (..., n) -> (...); other axes broadcast."""
    if not getattr(a, "ndim", 0) or not getattr(b, "ndim", 0) or a.shape[-1] != b.shape[-1]:
        raise ValueError("the last axes of both must be equally long")
    return xp_of(a).einsum("...i,...i->...", a, b)


def concat(*arrays, axis):
    return xp_of(arrays[0]).concatenate(arrays, axis=axis), None


def where(a, b, *, condition):
    xp = xp_of(condition)
    if condition.dtype.kind != "b":
        raise TypeError(f"the condition must be an array of booleans, got {condition.dtype}")
    return xp.where(condition, a, b)


def clip(a, *, low=None, high=None):
    """min(max(a, low), high), with numbers or None for no bound. The gradient is zero beyond the bounds."""
    if low is not None and high is not None and low > high:
        raise ValueError(f"low must not exceed high, got {low} and {high}")
    return a if low is None and high is None else xp_of(a).clip(a, low, high)


def linear(x, weight, bias):
    """x Wᵀ + b: x (..., n), weight (m, n), bias (m,) or a number -> (..., m)."""
    if getattr(weight, "ndim", 0) != 2 or not getattr(x, "ndim", 0) or x.shape[-1] != weight.shape[1]:
        raise ValueError("expected x (..., n) and weight (m, n)")
    if on_cpu(x) and x.ndim == 2 and 1 < len(x) <= x.shape[1] / 4:  # BLAS transposes a factor on the right: not the
        y = xp_of(x).ascontiguousarray((weight @ x.T).T)  # weights, if the batch is much smaller
    else:
        y = x @ weight.T
    if not isinstance(bias, float):
        y += bias
    return y


def matmul(a, b):
    """a @ b: of matrices, of a matrix and a vector, of two vectors, of batches of matrices."""
    try:
        if 0 < a.ndim <= 2 and 0 < b.ndim <= 2:
            return a.dot(b)  # the same, begun sooner
        return a @ b
    except (ValueError, TypeError, AttributeError):  # now, not before, for asking takes as long as a small product
        if not getattr(a, "ndim", 0) or not getattr(b, "ndim", 0):
            raise ValueError("a scalar has no rows or columns; use *") from None
        columns, rows = a.shape[-1], b.shape[-2 if b.ndim > 1 else 0]
        if columns != rows:
            raise ValueError(f"{columns} columns on the left, {rows} rows on the right") from None
        raise


def look_up(a, *, ids):
    """The rows a[ids] of a table, for ids that were checked."""
    return a.take(ids, axis=0)  # a[ids], but faster


def put(g, *, index, shape):
    """Zeros of `shape` but for g at `index`, equal indices accumulating: the adjoint of indexing."""
    xp = xp_of(g)
    y = xp.zeros(shape, g.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if all(i is None or i is Ellipsis or isinstance(i, slice | int) for i in parts):
        y[index] = g  # no place is named twice
    else:
        xp.add.at(y, index, g)
    return y


# ---- axes ---------------------------------------------------------------------------------------------------------


def axes_of(shape, axis) -> tuple[int, ...]:
    """axis=None, 1, −1 or (0, 1) as a tuple of numbers from 0."""
    axes = range(len(shape)) if axis is None else (axis,) if hasattr(axis, "__index__") else axis
    return tuple(int(i) % max(len(shape), 1) for i in axes)


def reduced(shape, axis, keepdims=False) -> tuple[int, ...]:
    """The shape of a sum along `axis`."""
    axes = axes_of(shape, axis)
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)
