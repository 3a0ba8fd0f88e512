"""Where arrays live: NumPy on the CPU, CuPy on a GPU.

The two libraries offer the same functions under the same names. So numeric code asks an array which library made it,
calls that library `xp`, and is written once:

    xp = xp_of(a)
    y = xp.exp(a)

This is the only file that names NumPy where an array of either device can come. CuPy is imported when a GPU is first
asked for, never before: without one, `import minigrad` costs and needs nothing of it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

type_of_array = Any  # numpy.ndarray or cupy.ndarray


class DeviceError(RuntimeError):
    """A device that isn't there, or arrays of two devices in one operation."""


# ---- which library made this array ------------------------------------------------------------------------------


class _Libraries(dict):
    """Array type -> the module of its functions. A type is looked up once, so that asking costs one dictionary hit."""

    def __missing__(self, kind: type) -> ModuleType:
        root = kind.__module__.partition(".")[0]
        if issubclass(kind, np.ndarray | np.generic | int | float | complex | list | tuple):
            module = np
        elif root == "cupy":
            module = _cupy()
        else:
            raise TypeError(f"minigrad: expected an array of NumPy or CuPy, got {kind.__module__}.{kind.__qualname__}")
        self[kind] = module
        return module


_libraries = _Libraries()


def xp_of(array: type_of_array) -> ModuleType:
    """The library (numpy or cupy) whose functions work on `array`."""
    return _libraries[type(array)]


def device_of(array: type_of_array) -> str:
    """`"cpu"`, or `"gpu:0"` with the GPU's number."""
    return "cpu" if xp_of(array) is np else f"gpu:{array.device.id}"


def on_cpu(array: type_of_array) -> bool:
    """True for an array in the computer's main memory, where the Numba twins can work on it."""
    return isinstance(array, np.ndarray)


# ---- the current device -----------------------------------------------------------------------------------------


class _State(threading.local):
    device = "cpu"


_state = _State()


def set_device(device: str) -> None:
    """Makes new tensors on `device` from now on, in this thread: `"cpu"`, `"gpu"` or `"gpu:1"`.

    Raises `DeviceError` when there is no such device, and says what to install.
    """
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "gpu") or (number and not (kind == "gpu" and number.isdigit())):
        raise DeviceError(f'minigrad.set_device: expected "cpu", "gpu" or "gpu:N", got {device!r}')
    if kind == "gpu":
        cupy, number = _cupy(), int(number or 0)
        count = cupy.cuda.runtime.getDeviceCount()
        if number >= count:
            raise DeviceError(f"minigrad.set_device: there is no GPU {number}; this machine has {count}, from 0")
        cupy.cuda.Device(number).use()
        device = f"gpu:{number}"
    _state.device = device


def get_device() -> str:
    """The device on which new tensors are made."""
    return _state.device


def xp() -> ModuleType:
    """The library of the current device."""
    return np if _state.device == "cpu" else _cupy()


def _cupy() -> ModuleType:
    try:
        import cupy
    except ImportError:
        raise DeviceError(
            "minigrad: device gpu needs CuPy, which is not installed: pip install 'minigrad[cuda12]' "
            "(or cuda13, as `nvidia-smi` says of your driver)"
        ) from None
    if not cupy.is_available():
        raise DeviceError("minigrad: device gpu: CuPy is installed but finds no CUDA device; see `nvidia-smi`")
    return cupy


class _Numbers(dict):
    """(number, type of array, dtype) -> the number as an array without axes: NumPy takes half as long for it.

    `_Other` where that would not be the same: on a GPU, of integers, for 0.0 (which has two signs), for what is large.
    """

    def __missing__(self, key: tuple) -> Any:
        value, kind, dtype = key
        array = _Other
        if issubclass(kind, np.ndarray | np.generic) and dtype.kind == "f" and 0.0 < abs(value) < 1e4:
            array = np.asarray(value, dtype)
            array.flags.writeable = False
        if len(self) > 1000:
            self.clear()  # a learning rate, perhaps, that changes from step to step
        self[key] = array
        return array


class _Other:
    dtype = None


numbers = _Numbers()


# ---- making and moving arrays -----------------------------------------------------------------------------------


def asarray(data: Any, dtype: Any = None) -> type_of_array:
    """`data` as an array of the current device; no copy if it is one already."""
    return xp().asarray(data, dtype=dtype)


def from_dlpack(array: Any) -> type_of_array:
    """The memory of another library's array as one of NumPy or CuPy, by where it lies: no copy."""
    kind, _ = array.__dlpack_device__()
    if kind not in (1, 2):  # kDLCPU, kDLCUDA
        raise DeviceError(
            f"minigrad.from_dlpack: expected an array on the CPU or on a CUDA GPU, got device type {kind}"
        )
    return (np if kind == 1 else _cupy()).from_dlpack(array)


def to_cpu(array: type_of_array) -> np.ndarray:
    """`array` in main memory, as NumPy's; the same object if it lies there already."""
    return np.asarray(array) if xp_of(array) is np else array.get()


def to_gpu(array: type_of_array, number: int = 0) -> type_of_array:
    """`array` on GPU `number`; the same object if it lies there already."""
    cupy = _cupy()
    with cupy.cuda.Device(number):
        return cupy.asarray(array)


def to_device(array: type_of_array, device: str) -> type_of_array:
    """`array` on `"cpu"`, `"gpu"` or `"gpu:N"`."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return to_cpu(array)
    if kind != "gpu" or not (number or "0").isdigit():
        raise DeviceError(f'minigrad.to: expected "cpu", "gpu" or "gpu:N", got {device!r}')
    return to_gpu(array, int(number or 0))


# ---- guards -----------------------------------------------------------------------------------------------------


def check_ids(name: str, ids: type_of_array, size: int) -> None:
    """Raises unless `ids` are integers in [0, size): NumPy would count negative ones from the end, CuPy wraps all.

    On a GPU the comparison waits for the device: one synchronisation.
    """
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {ids.dtype}")
    if ids.size == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        raise IndexError(f"{name} must lie in [0, {size}), got {low if low < 0 else high}")


@contextmanager
def quiet() -> Iterator[None]:
    """Silences NumPy's floating-point warnings where inf or nan is an answer (CuPy never warns)."""
    with np.errstate(all="ignore"):
        yield
