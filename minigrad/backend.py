"""Where arrays live: NumPy on the CPU, CuPy on a GPU.

The two libraries offer the same functions under the same names. So numeric code asks an array which library made it,
calls that library `xp`, and is written once:

    xp = xp_of(a)
    y = xp.exp(a)

This is the only file that names NumPy where an array of either device can come. CuPy is imported when a GPU is first
asked for, never before: without one, `import minigrad` costs and needs nothing of it.

What this library moves to a GPU and back goes through the functions of this file, and through `prefetch`
(`streams.py`); they tell the ledger (`ledger.py`).
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from .ids import remember
from .ledger import tell
from .streams import prefetch  # noqa: F401, is found here; like ids.py it looks into this file when it is called

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


def on_gpu(array: Any) -> bool:
    """True for an array of CuPy's; of anything else, also of what is no array, false."""
    return type(array).__module__.partition(".")[0] == "cupy"


# ---- the current device -----------------------------------------------------------------------------------------


class _State(threading.local):
    device = "cpu"


_state = _State()
_gpus: set[int] = set()  # the GPUs that have been used


def set_device(device: str) -> None:
    """Makes new tensors on `device` from now on, in this thread: `"cpu"`, `"gpu"` or `"gpu:1"`.

    Raises `DeviceError` when there is no such device, and says what to install.
    """
    number = _number("set_device", device)
    if number is not None:
        _gpu("set_device", number).use()
    _state.device = "cpu" if number is None else f"gpu:{number}"


def get_device() -> str:
    """The device on which new tensors are made."""
    return _state.device


def xp() -> ModuleType:
    """The library of the current device."""
    return np if _state.device == "cpu" else _cupy()


def synchronize() -> None:
    """Waits until the current GPU has done all it was told: before a clock is read. On a CPU there is nothing to do."""
    if _state.device != "cpu":
        tell("wait", 0, _state.device)
        _cupy().cuda.Device().synchronize()


def _number(operation: str, device: str) -> int | None:
    """The number of a GPU, 0 if none is said; None for the CPU."""
    kind, colon, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind not in ("cpu", "gpu") or (colon and not (kind == "gpu" and number.isdecimal())):
        raise DeviceError(f'minigrad.{operation}: expected "cpu", "gpu" or "gpu:N", got {device!r}')
    return None if kind == "cpu" else int(number or 0)


def _gpu(operation: str, number: int) -> Any:
    """CuPy's object for a GPU, which is a context manager: inside, that GPU is the current one."""
    cupy = _cupy()
    count = cupy.cuda.runtime.getDeviceCount()
    if number >= count:
        raise DeviceError(f"minigrad.{operation}: there is no GPU {number}; this machine has {count}, from 0")
    _gpus.add(number)
    if len(_gpus) == 2:
        from . import tape  # which imports this file

        tape.look_where_tensors_lie()
    return cupy.cuda.Device(number)


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


# ---- making and moving arrays -----------------------------------------------------------------------------------


def asarray(data: Any, dtype: Any = None) -> type_of_array:
    """`data` as an array of the current device; no copy if it is one already."""
    return _placed(data, dtype, _state.device)


def asarray_like(data: Any, like: type_of_array, dtype: Any = None) -> type_of_array:
    """`data` as an array that lies where `like` does; no copy if it lies there already."""
    return _placed(data, dtype, device_of(like))


def _placed(data: Any, dtype: Any, device: str) -> type_of_array:
    if on_gpu(data):
        array = to_device(data, device)
        with at(array):
            return xp_of(array).asarray(array, dtype=dtype)
    host = np.asarray(data, dtype=dtype)  # a list becomes an array before it is copied, in one piece
    if device == "cpu":
        tell("in", host.nbytes, "cpu")
        return host
    return _copied_in(host, int(device.partition(":")[2]))


def _copied_in(host: np.ndarray, number: int) -> type_of_array:
    with _gpu("to", number):
        array = _cupy().asarray(host)
    remember(array, host)
    tell("in", host.nbytes, f"gpu:{number}")
    return array


def from_dlpack(array: Any) -> type_of_array:
    """The memory of another library's array as one of NumPy or CuPy, by where it lies: no copy."""
    kind, _ = array.__dlpack_device__()
    if kind not in (1, 2):  # kDLCPU, kDLCUDA
        raise DeviceError(
            f"minigrad.from_dlpack: expected an array on the CPU or on a CUDA GPU, got device type {kind}"
        )
    return (np if kind == 1 else _cupy()).from_dlpack(array)


def to_cpu(array: type_of_array) -> np.ndarray:
    """`array` in main memory, as NumPy's; the same object if it lies there already. Waits for the GPU it comes from."""
    if xp_of(array) is np:
        array = np.asarray(array)
        tell("out", array.nbytes, "cpu")
        return array
    tell("out", array.nbytes, device_of(array))
    return array.get()


def to_gpu(array: type_of_array, number: int = 0) -> type_of_array:
    """`array` on GPU `number`; the same object if it lies there already."""
    if xp_of(array) is np:
        return _copied_in(np.asarray(array), number)
    if array.device.id == number:
        return array
    with _gpu("to", number):
        copy = _cupy().asarray(array)
    tell("between", array.nbytes, f"gpu:{number}")
    return copy


def to_device(array: type_of_array, device: str) -> type_of_array:
    """`array` on `"cpu"`, `"gpu"` or `"gpu:N"`."""
    number = _number("to", device)
    return to_cpu(array) if number is None else to_gpu(array, number)


def read(array: type_of_array) -> Any:
    """The value of an array with one element, as Python's. Waits for the GPU it comes from."""
    tell("out", array.nbytes, device_of(array))
    return array.item()


def away(arrays: Any) -> Any:
    """The GPU that holds the first of the arrays that lie on one, if it isn't the current one; else None."""
    for array in arrays:
        if on_gpu(array):
            return array.device if array.device.id != _cupy().cuda.Device().id else None
    return None


def at(array: type_of_array) -> AbstractContextManager:
    """Inside, the GPU that holds `array` is the current one, on which CuPy computes. On the CPU: nothing."""
    return array.device if on_gpu(array) else _here


_here = nullcontext()


# ---- guards -----------------------------------------------------------------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """Silences NumPy's floating-point warnings where inf or nan is an answer (CuPy never warns)."""
    with np.errstate(all="ignore"):
        yield


# ---- numbers, for `tape.binary` -----------------------------------------------------------------------------------


class _Numbers(dict):
    """(number, type of array, dtype) -> the number as an array without axes: with it NumPy is twice as fast.

    `_Other`, which has no dtype that an array could have, where that would not be the same: on a GPU, of integers, for
    0.0 (which has two signs), for what is large.
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
