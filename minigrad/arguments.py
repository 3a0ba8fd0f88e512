"""What an operation is given: arrays of one type on one device, or an error that says what came.

float32 stays float32. A constant, whatever is no tensor, takes on the type of the tensors beside it: NumPy's scalars
and its arrays of float64 or integers would else turn all that follows into float64, twice the memory and half the
speed, without a word. Two tensors of different precisions are somebody's mistake, and so are two devices.
"""

import math
from collections.abc import Sequence
from typing import Any

from . import backend
from .tensor import Tensor

# what bad arguments make NumPy and CuPy raise
ERRORS = (ValueError, TypeError, IndexError, OverflowError, MemoryError, backend.DeviceError)


def settle(args: tuple) -> tuple[Sequence, Any]:
    """The arrays behind `args` in one floating-point type, that of the tensors among them; and that type.

    Without a tensor among them: `args` themselves, and None.
    """
    tensors = [a for a in args if type(a) is Tensor]
    if not tensors:
        return args, None
    if len(tensors) == len(args) == 1:
        return [tensors[0]._data], tensors[0]._data.dtype
    found = [a._data for a in tensors]
    like = found[0]
    if len(found) == len(args) and all(type(a) is backend.np.ndarray and a.dtype is like.dtype for a in found):
        return found, like.dtype  # what comes most often needs no more looking at
    floats = {a.dtype for a in tensors if a.dtype.kind in "fc"}
    if len(floats) > 1:
        raise TypeError("these tensors have different precisions; convert one of them with .astype(...)")
    dtype = floats.pop() if floats else like.dtype
    found = [a if type(a) in (float, int) else _constant(a, dtype, like) for a in args]
    devices = {backend.device_of(a) for a in found if hasattr(a, "dtype")}
    if len(devices) > 1:
        raise backend.DeviceError(f"these are on {' and '.join(sorted(devices))}; move one with .to(...)")
    return found, dtype


def _constant(a: Any, dtype: Any, like: Any) -> Any:
    """An argument beside tensors as an array of their type; what is no tensor goes to their GPU, a number by value."""
    is_tensor = type(a) is Tensor
    a = a._data if is_tensor else a if hasattr(a, "dtype") else backend.np.asarray(a)
    if a.dtype.kind not in "fciub":
        raise TypeError(f"a constant of type {a.dtype} is no number")
    if a.dtype.kind == "c" and dtype.kind != "c":
        raise TypeError("a complex constant would be cut to its real part")
    a = a.astype(dtype, copy=False) if dtype.kind in "fc" else a
    if is_tensor or backend.on_gpu(a) or not backend.on_gpu(like):
        return a
    return a.item() if a.ndim == 0 and dtype.kind in "fc" else backend.asarray_like(a, like)


def whole(what: str, n: Any, least: float = 1, most: float = math.inf) -> int:
    """`n` as a plain int, be it Python's or NumPy's; an error that begins with `what` if it is none or out of range."""
    if isinstance(n, bool) or not hasattr(n, "__index__") or getattr(n, "ndim", 0):
        raise TypeError(f"{what} must be an integer, got {type(n).__name__} {n!r:.60}")
    if (n := n.__index__()) < least:
        raise ValueError(f"{what} must be at least {least}, got {n}")
    if n > most:
        raise ValueError(f"{what} must lie in {least} to {most}, got {n}")
    return n


def shape_of(what: str, shape: Any) -> tuple[int, ...]:
    """A shape given as a tuple or as one integer."""
    return tuple(whole(what, n, 0) for n in (shape if isinstance(shape, tuple | list) else (shape,)))


def described(name: str, args: tuple, error: Exception) -> Exception:
    """The error, with the operation and what it was given: `minigrad.matmul(float32[2, 3], float32[4, 5]): …`."""
    kind, said = next(k for k in ERRORS if isinstance(error, k)), str(error)
    devices = sorted({backend.device_of(a._data) for a in args if type(a) is Tensor})
    if len(devices) > 1:
        kind, said = backend.DeviceError, f"these are on {' and '.join(devices)}; move one with .to(...)"
    if kind is MemoryError:
        from .debug import kept_by  # only here: it imports the tape

        said += f"; {kept_by(args)}"
    return kind(f"minigrad.{name}({', '.join(map(signature, args))}): {said}")


def signature(a: Any) -> str:
    """`float32[2, 3]`, or the type of what is no array."""
    return f"{a.dtype}{list(a.shape)}" if hasattr(a, "shape") and hasattr(a, "dtype") else type(a).__name__


def listed(options: list[str]) -> str:
    return f" and the options {', '.join(options)}" if options else ""
