"""A double of CuPy for machines without a GPU: a device array whose memory happens to be NumPy's.

    with strict.installed():
        mg.set_device("gpu")        # `import cupy` gives this double

It is stricter than CuPy: what CuPy lacks, copies silently, lets wrap around or leaves undefined raises here. What CuPy
does without a word, the double counts: copies each way, waits, launches, bytes (`counts`), and it writes down the order
of events (`events`). Names, keywords and types are those of the real CuPy, from the snapshot `cupy_api.json`.

There are two devices. A stream of one's own is as slow as it may be: what is copied on it arrives when somebody waits
for it, and not before. The default stream is as fast as can be. What it cannot show: CuPy's numerics (they are NumPy's
here), the order in which atomics add, and whether the hardware agrees.
"""

import contextlib
import importlib.machinery
import itertools
import json
import sys
import time
import types
import weakref
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import ClassVar

import cuda_on_cpu
import numpy as np

from minigrad import numerics, rng

API = json.loads((Path(__file__).parent / "cupy_api.json").read_text())
DEVICES = 2
SCALARS = (bool, int, float, complex, np.generic)  # what a kernel takes by value


@dataclass
class Counts:
    """What has happened since `reset`; live and peak are bytes of arrays, on all devices."""

    copies_in: int = 0
    bytes_in: int = 0
    copies_out: int = 0
    bytes_out: int = 0
    copies_between: int = 0
    bytes_between: int = 0
    waits: int = 0
    launches: int = 0
    live: int = 0
    peak: int = 0

    def reset(self) -> None:
        live = self.live
        for field in fields(self):
            setattr(self, field.name, 0)
        self.live = self.peak = live
        events.clear()

    def copied(self, kind: str, nbytes: int) -> None:
        setattr(self, f"copies_{kind}", getattr(self, f"copies_{kind}") + 1)
        setattr(self, f"bytes_{kind}", getattr(self, f"bytes_{kind}") + nbytes)
        self.waits += kind == "out"


events: list[tuple[str, str]] = []  # (stream, what happened), in order
counts = Counts()


class Refused(TypeError):
    """CuPy would refuse this, or do it with a copy that nobody sees, or with a result that nobody can tell."""


class OutOfMemoryError(MemoryError):
    pass


# ---- devices, streams, events -----------------------------------------------------------------------------------


class Device:
    current = 0

    def __init__(self, number: int | None = None):
        self.id = Device.current if number is None else number

    def use(self) -> None:
        Device.current = self.id

    def synchronize(self) -> None:
        counts.waits += 1
        for stream in list(streams):
            stream.run(len(stream.queue))

    def __enter__(self):
        self.before, Device.current = (*getattr(self, "before", ()), Device.current), self.id
        return self

    def __exit__(self, *error) -> None:
        *self.before, Device.current = self.before


class Stream:
    """A queue. The default one is empty at all times; any other does nothing until somebody waits for it."""

    def __init__(self, null: bool = False, non_blocking: bool = False):
        self.queue, self.done_of_it, self.name = [], 0, "computing" if null else "copying"
        streams.add(self)

    def put(self, what: str, work) -> None:
        events.append((self.name, what))
        self.queue.append(work)
        if self.name == "computing":
            self.run(len(self.queue))

    def run(self, place: int) -> None:
        """Does what was told before that place."""
        while self.done_of_it < place:
            work, self.queue[self.done_of_it] = self.queue[self.done_of_it], None  # let go of what it holds
            self.done_of_it += 1
            work()

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event) -> None:
        events.append((self.name, f"waits for {event.stream.name}"))
        event.stream.run(event.place)

    def synchronize(self) -> None:
        counts.waits += 1
        self.run(len(self.queue))


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
        self.stream, self.place = None, 0

    def record(self, stream=None) -> None:
        self.stream = stream or null_stream
        self.place = len(self.stream.queue)
        events.append((self.stream.name, "event"))

    @property
    def done(self) -> bool:
        return self.stream.done_of_it >= self.place

    def synchronize(self) -> None:
        counts.waits += not self.done
        self.stream.run(self.place)


streams: weakref.WeakSet = weakref.WeakSet()
null_stream = Stream(null=True)


# ---- memory -----------------------------------------------------------------------------------------------------


class Memory:
    """The bytes that an array owns, and that its views show."""

    __slots__ = ("arriving", "device", "nbytes")

    def __init__(self, nbytes: int, device: int):
        self.device, self.arriving, self.nbytes = device, 0, 0
        if pool.limit and pool.used[device] + nbytes > pool.limit:
            raise OutOfMemoryError(
                f"Out of memory allocating {nbytes:,} bytes (allocated so far: {pool.used[device]:,} bytes, "
                f"limit set to: {pool.limit:,} bytes)."
            )
        self.nbytes = nbytes
        pool.used[device] += nbytes
        counts.live += nbytes
        if counts.live > counts.peak:
            counts.peak = counts.live
        for hook in MemoryHook.active:
            hook.malloc_postprocess(device_id=device, size=nbytes, mem_size=nbytes, mem_ptr=1, pmem_id=0)

    def __del__(self):
        if pool is None:
            return  # Python is ending
        pool.used[self.device] -= self.nbytes
        counts.live -= self.nbytes
        for hook in MemoryHook.active:
            hook.free_postprocess(device_id=self.device, mem_size=self.nbytes, mem_ptr=1, pmem_id=0)


class MemoryHook:
    """Is told of all that the pool gives and takes back."""

    active: ClassVar[list] = []

    def __enter__(self):
        self.active.append(self)
        return self

    def __exit__(self, *error) -> None:
        self.active.remove(self)

    def malloc_postprocess(self, **what) -> None:
        pass

    def free_postprocess(self, **what) -> None:
        pass


class Pool:
    def __init__(self):
        self.limit, self.used = 0, [0] * DEVICES

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self.limit = size or 0

    def get_limit(self) -> int:
        return self.limit

    def used_bytes(self) -> int:
        return self.used[Device.current]

    total_bytes = used_bytes

    def free_all_blocks(self) -> None:
        pass


pool = Pool()


# ---- the array --------------------------------------------------------------------------------------------------


class ndarray:
    __slots__ = ("__weakref__", "_host", "_memory", "base")
    __module__ = "cupy"
    __hash__ = None
    __array_priority__ = 100

    # ---- what NumPy asks of it

    def __array__(self, dtype=None, copy=None):
        raise Refused("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        """np.float32(2) * d must work; np.exp(d), which CuPy would take, must say xp.exp; a host array is refused."""
        numbers_only = all(isinstance(a, (ndarray, *SCALARS)) for a in inputs)
        if method == "__call__" and numbers_only and any(isinstance(a, np.generic) for a in inputs):
            return getattr(namespace, ufunc.__name__)(*inputs, **options)
        for a in (*inputs, *options.get("out", ())):
            _host(a, f"numpy.{ufunc.__name__}")
        raise Refused(f"numpy.{ufunc.__name__} was called on an array of a GPU: call xp.{ufunc.__name__}")

    def __array_function__(self, function, types, args, options):
        raise Refused(f"numpy.{function.__name__} was called on an array of a GPU: call xp.{function.__name__}")

    # ---- from the GPU to the CPU, and back

    def get(self, stream=None, order="C", out=None, blocking=True):
        self._there("get")
        counts.copied("out", self.nbytes)
        events.append(("computing", "copy out"))
        return np.array(self._host, order=order)

    def set(self, array, stream=None) -> None:
        if not isinstance(array, np.ndarray) or array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError("set: expected a host array of the same shape and type")
        counts.copied("in", array.nbytes)
        if stream not in (None, null_stream) and not isinstance(array, Pinned):
            raise Refused("set: the copy of an array that isn't pinned waits for the CPU, and the CPU for it")
        self._memory.arriving += 1
        self._host[...] = _rubbish(self.dtype)

        def arrive():
            self._host[...] = array
            self._memory.arriving -= 1

        (stream or null_stream).put("copy in", arrive)

    def item(self, *args):
        return self.get().item(*args)

    def tolist(self):
        return self.get().tolist()

    def __float__(self):
        return float(self.get().reshape(()))

    def __int__(self):
        return int(self.get().reshape(()))

    def __complex__(self):
        return complex(self.get().reshape(()))

    def __bool__(self):
        return bool(self.get())

    def __reduce__(self):
        return namespace.asarray, (self.get(),)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __repr__(self):
        return f"<on device {self._memory.device}: {self._host!r}>"

    # ---- what it is

    shape = property(attrgetter("_host.shape"))
    dtype = property(attrgetter("_host.dtype"))
    ndim = property(attrgetter("_host.ndim"))
    size = property(attrgetter("_host.size"))
    nbytes = property(attrgetter("_host.nbytes"))
    itemsize = property(attrgetter("_host.itemsize"))
    strides = property(attrgetter("_host.strides"))
    flags = property(lambda self: types.SimpleNamespace(**{n: self._host.flags[n.upper()] for n in _FLAGS}))
    device = property(lambda self: Device(self._memory.device))
    T = property(lambda self: self.transpose())
    real = property(lambda self: namespace.real(self))
    imag = property(lambda self: namespace.imag(self))

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def _there(self, what: str) -> None:
        if self._memory.arriving:
            raise Refused(f"{what}: the array is still on its way: its stream was not waited for")

    # ---- indices

    def _index(self, index, what: str):
        parts = index if isinstance(index, tuple) else (index,)
        for part in parts:
            if isinstance(part, np.ndarray | list):
                raise Refused(f"{what}: an index in main memory: CuPy would copy it at each use")
            if isinstance(part, ndarray) and part.dtype.kind == "b":
                counts.waits += 1  # for how many they are
        return tuple(_host(part, what) if isinstance(part, ndarray) else part for part in parts)

    def __getitem__(self, index):
        index = self._index(index, "getitem")
        index = index if any(part is ... for part in index) else (*index, ...)  # so that a single number is a view, too
        return _wrapped(_host(self, "getitem")[index], [self], "getitem")  # NumPy's IndexError, where CuPy wraps around

    def __setitem__(self, index, value):
        host, index = _host(self, "setitem"), self._index(index, "setitem")
        if isinstance(value, np.ndarray | list):
            raise Refused("setitem: values in main memory")
        if any(isinstance(part, np.ndarray) and part.dtype.kind != "b" for part in index):
            times = np.zeros(host.shape, int)
            np.add.at(times, index, 1)
            if times.max(initial=0) > 1:
                raise Refused("setitem: an index comes twice: which value stays is undefined on a GPU")
        _launched("setitem")
        host[index] = _host(value, "setitem")

    # ---- the rest of its methods are NumPy's, if CuPy has them too: `_fill_namespace` hangs them on

    def __getattr__(self, name):
        whose = "the strict double of " if name in API["cupy.ndarray"] else ""
        raise AttributeError(f"{whose}cupy.ndarray {API['version']} has no attribute {name!r}")

    def astype(self, dtype, order="K", casting="unsafe", subok=None, copy=True):
        host = _host(self, "astype")
        if not copy and host.dtype == dtype:
            return self
        if host.dtype.kind in "fc" and np.dtype(dtype).kind in "iu":
            span = np.iinfo(dtype)
            if not (np.isfinite(host).all() and (host >= span.min).all() and (host <= span.max).all()):
                raise Refused("astype: a number that the integers don't have: CPU and GPU disagree on it")
        return _wrapped(host.astype(dtype), [], "astype")


_FLAGS = ("c_contiguous", "f_contiguous", "owndata")


class Pinned(np.ndarray):
    """Main memory from which a GPU may copy by itself."""


def _rubbish(dtype):
    """What stands in memory that nobody has written."""
    return np.nan if dtype.kind in "fc" else -7 if dtype.kind == "i" else 1


def _host(a, what: str):
    """What the double computes with: NumPy's array behind a device array; numbers as they are; nothing else."""
    if isinstance(a, ndarray):
        if a._memory.device != Device.current:
            raise Refused(f"{what}: the array is on device {a._memory.device}, the current one is {Device.current}")
        if a._memory.arriving:
            a._there(what)
        return a._host
    if isinstance(a, np.ndarray):
        raise Refused(f"{what}: Unsupported type <class 'numpy.ndarray'>: an array in main memory")
    return a


def _launched(what: str) -> None:
    counts.launches += 1
    events.append(("computing", what))


def _wrapped(result, inputs, what: str):
    """A result of NumPy's as a device array: a view of an input, or one of its own, for which there was a launch."""
    if isinstance(result, tuple | list):
        return type(result)(_wrapped(r, inputs, what) for r in result)
    if not isinstance(result, np.ndarray | np.generic):
        return result
    host = np.asarray(result)
    if host.base is None:
        return _owned(host, what)
    for other in inputs:
        if isinstance(other, ndarray) and host.size and np.may_share_memory(host, other._host):
            a = object.__new__(ndarray)
            a._host, a._memory, a.base = host, other._memory, other if other.base is None else other.base
            return a
    return _owned(host.copy(order="K"), what)  # what it shows of NumPy's memory becomes the GPU's


def _owned(host: np.ndarray, what: str):
    """An array of its own, for which there was a launch."""
    if host.dtype.kind not in "biufc":
        raise Refused(f"{what}: Unsupported dtype {host.dtype}")
    a = object.__new__(ndarray)
    a._host, a._memory, a.base = host, Memory(host.nbytes, Device.current), None
    _launched(what)
    return a


# ---- functions --------------------------------------------------------------------------------------------------

WAITS = {"nonzero", "flatnonzero", "argwhere", "unique", "unique_values", "bincount", "extract", "compress", "isin"}
AS_NUMPY = {"result_type", "promote_types", "can_cast", "iscomplexobj", "isscalar", "issubdtype", "broadcast_shapes"}
AT = {"add": "ilqefdIL", "subtract": "iI", "maximum": "fd", "minimum": "fd"}  # which types ufunc.at has


def _keywords(what: str, takes: list | None, options: dict) -> None:
    unknown = [name for name in options if takes is not None and name not in takes and "kwargs" not in takes]
    if unknown:
        raise Refused(f"cupy.{what} {API['version']} has no argument {unknown[0]!r}; it takes {', '.join(takes)}")


def _call(what: str, function, args, options):
    hosts, named = [_deep(a, what) for a in args], {name: _deep(a, what) for name, a in options.items()}
    host = function(*hosts, **named)
    if what.rpartition(".")[2] in WAITS:
        counts.waits += 1
    if named.get("out") is not None:
        _launched(what)
        return options["out"]
    given = [*args, *options.values()]
    given += itertools.chain.from_iterable(a for a in given if isinstance(a, list | tuple))
    for a in given:
        if isinstance(a, ndarray) and host is a._host:
            return a  # asarray, ascontiguousarray
    return _wrapped(host, given, what)


def _deep(a, what: str):
    if isinstance(a, tuple | list):
        return type(a)(_deep(part, what) for part in a)
    return _host(a, what)


class Ufunc:
    def __init__(self, name: str):
        self.name, self.numpy, self.types = name, getattr(np, name), API["cupy"][name]["types"].split()
        self.known = set()  # of what types the arguments may be

    def __call__(self, *args, out=None, dtype=None, casting="same_kind"):
        hosts = [_host(a, self.name) for a in args]
        if out is dtype is None:
            result = self.numpy(*hosts, casting=casting)
        else:
            out = out[0] if isinstance(out, tuple) else out
            options = {"out": out, "dtype": dtype, "casting": casting}
            result = self.numpy(*hosts, **{name: _host(a, self.name) for name, a in options.items() if a is not None})
        types = tuple([getattr(host, "dtype", type(host)) for host in hosts])
        if types not in self.known:
            self._check(args)
            self.known.add(types)
        if out is None:
            return _owned(result, self.name) if type(result) is np.ndarray else _wrapped(result, (), self.name)
        _launched(self.name)
        return out

    def _check(self, args) -> None:
        if any(isinstance(a, list | tuple) for a in args):
            raise Refused(f"cupy.{self.name}: Unsupported type <class 'list'>")
        strong = [a.dtype for a in args if hasattr(a, "dtype")]
        if not strong:
            return
        common = np.result_type(*strong, *(a for a in args if not hasattr(a, "dtype")))
        if not any(np.can_cast(common, char) for char in (loop[0] for loop in self.types)):
            raise Refused(f"cupy.{self.name} {API['version']} has no loop for {common}: only {', '.join(self.types)}")

    def at(self, a, index, values=None) -> None:
        if self.name not in AT or a.dtype.char not in AT[self.name]:
            raise Refused(f"cupy.{self.name}.at is not there for {a.dtype}")
        host, index = _host(a, self.name), a._index(index, f"{self.name}.at")
        _launched(f"{self.name}.at")
        self.numpy.at(host, index, _host(values, f"{self.name}.at"))

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        return self._folded("reduce", array, axis=axis, dtype=dtype, keepdims=keepdims)

    def accumulate(self, array, axis=0, dtype=None, out=None):
        return self._folded("accumulate", array, axis=axis, dtype=dtype)

    def outer(self, a, b):
        return _call(f"{self.name}.outer", self.numpy.outer, (a, b), {})

    def _folded(self, how: str, array, **options):
        if self.name not in ("add", "multiply"):
            raise Refused(f"cupy.{self.name}.{how} is not there: only those of add and multiply")
        return _call(f"{self.name}.{how}", getattr(self.numpy, how), (array,), options)


class Namespace(types.ModuleType):
    """The module `cupy`: what the snapshot lists, computed by NumPy's function of that name."""

    def __getattr__(self, name: str):
        known = API["cupy"].get(name)
        if name.startswith("__") or known is None:
            raise AttributeError(f"module 'cupy' {API['version']} has no attribute {name!r}")
        if known["kind"] == "module":
            raise AttributeError(f"the strict double has no cupy.{name}")
        if known["kind"] == "ufunc":
            found = Ufunc(name)
        elif known["kind"] != "function" or name in AS_NUMPY:
            found = getattr(np, name)
        else:
            numpys = getattr(np, name)

            def found(*args, **options):
                _keywords(name, known.get("parameters"), options)
                return _call(name, numpys, args, options)

        setattr(self, name, found)
        return found


namespace = Namespace("cupy")


def _asarray(a, dtype=None, order=None, *, blocking=False):
    """An array of the current device: from main memory a copy in, from the other device one between."""
    if isinstance(a, ndarray):
        if a._memory.device != Device.current:
            counts.copied("between", a.nbytes)
            events.append(("computing", "copy between"))
            a._there("asarray")
            a = _wrapped(a._host.copy(), [], "copy")
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    host = np.array(a, dtype=dtype)
    counts.copied("in", host.nbytes)
    counts.launches -= 1  # a copy is none
    events.append(("computing", "copy in"))
    return _wrapped(host, [], "copy")


def _array(a, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(a, ndarray):
        a = _asarray(a, dtype)
        return a.copy() if copy else a
    return _asarray(a, dtype)


def _empty(shape, dtype=float, order="C"):
    dtype = np.dtype(dtype)
    return _wrapped(np.full(shape, _rubbish(dtype), dtype), [], "empty")


def _empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return _empty(prototype.shape if shape is None else shape, dtype or prototype.dtype)


class RawKernel:
    """CUDA source that runs on the CPU (`cuda_on_cpu.py`), or where there is no compiler for it, its twin."""

    def __init__(self, code: str, name: str, options: tuple = (), backend: str = "nvrtc", **others):
        self.name = name
        self.kernel = TWINS[name] if cuda_on_cpu.MISSING else cuda_on_cpu.RawKernel(code, name, options)

    def __call__(self, grid, block, args, **options) -> None:
        _launched(self.name)
        self.kernel(grid, block, tuple(_host(a, self.name) for a in args))


def _threefry_words(grid, block, args) -> None:
    key0, key1, out, n = args
    blocks = np.arange((n + 1) // 2, dtype=np.uint64)
    counters = (blocks & 0xFFFFFFFF).astype(np.uint32), (blocks >> 32).astype(np.uint32)
    out[:] = np.stack(rng.threefry2x32((key0, key1), *counters), axis=1).ravel()[:n]


def _cross_entropy(grid, block, args) -> None:
    scores, targets, _, losses, gradients = args
    p, m, total = numerics._softmax(scores, 1)
    rows = np.arange(len(scores))
    losses[:] = np.log(total)[:, 0] + (m[:, 0] - scores[rows, targets])
    gradients[:] = p
    gradients[rows, targets] -= 1


TWINS = {"threefry_words": _threefry_words, "cross_entropy": _cross_entropy}


def _benchmark(func, args=(), kwargs=None, n_repeat=10_000, *, name=None, n_warmup=10, max_duration=float("inf"), **o):
    """Times of the double, which are a CPU's: for the shape of the answer, not for its numbers."""
    seconds, begin = [], time.perf_counter()
    while len(seconds) < n_repeat and (not seconds or time.perf_counter() - begin < max_duration):
        start = time.perf_counter()
        func(*args, **(kwargs or {}))
        seconds.append(time.perf_counter() - start)
    return types.SimpleNamespace(name=name, cpu_times=np.array(seconds), gpu_times=np.array([seconds]))


def _operator(name: str, swapped: bool = False):
    """a + b, or b + a, unless b knows better, as a `Tensor` does."""

    def operator(a, b):
        if type(b) not in (ndarray, float, int):
            if getattr(b, "__array_ufunc__", operator) is None:  # NEP 13
                return NotImplemented
            if not hasattr(b, "__array_ufunc__") and getattr(b, "__array_priority__", 0) > a.__array_priority__:
                return NotImplemented
        return getattr(namespace, name)(b, a) if swapped else getattr(namespace, name)(a, b)

    return operator


def _method(name: str, takes: list | None):
    what, numpys = f"ndarray.{name}", getattr(np.ndarray, name)

    def method(self, *args, **options):
        _keywords(what, takes, options)
        return _call(what, numpys, (self, *args), options)

    return method


def _fill_namespace() -> None:
    operators = {
        "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
        "mod": "remainder", "pow": "power", "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or",
        "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift",
    }  # fmt: skip
    compare = {
        "lt": "less",
        "le": "less_equal",
        "gt": "greater",
        "ge": "greater_equal",
        "eq": "equal",
        "ne": "not_equal",
    }
    for short, name in operators.items():
        setattr(ndarray, f"__{short}__", _operator(name))
        setattr(ndarray, f"__r{short}__", _operator(name, swapped=True))
        if short != "matmul":  # cupy.ndarray has no __imatmul__
            setattr(ndarray, f"__i{short}__", lambda a, b, name=name: getattr(namespace, name)(a, b, out=a))
    for short, name in compare.items():
        setattr(ndarray, f"__{short}__", _operator(name))
    for short, name in {"neg": "negative", "abs": "absolute", "invert": "invert", "pos": "positive"}.items():
        setattr(ndarray, f"__{short}__", lambda a, name=name: getattr(namespace, name)(a))
    for name, known in API["cupy.ndarray"].items():
        if known["kind"] == "method" and not hasattr(ndarray, name) and name in dir(np.ndarray) and name[0] != "_":
            setattr(ndarray, name, _method(name, known["parameters"]))
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: DEVICES,
        memGetInfo=lambda: (8 << 30, 16 << 30),
        getDeviceProperties=lambda i: {"name": b"strict double"},
        CUDARuntimeError=RuntimeError,
    )
    memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
    cuda = types.SimpleNamespace(
        Device=Device, Stream=Stream, Event=Event, MemoryHook=MemoryHook, runtime=runtime, memory=memory,
        is_available=lambda: True, get_current_stream=lambda: null_stream,
    )  # fmt: skip
    vars(namespace).update(
        ndarray=ndarray, cuda=cuda, asarray=_asarray, array=_array, asanyarray=_asarray, empty=_empty,
        empty_like=_empty_like, RawKernel=RawKernel, is_available=lambda: True, __version__=f"{API['version']}+strict",
        asnumpy=lambda a, **o: a.get() if isinstance(a, ndarray) else np.asarray(a),
        get_default_memory_pool=lambda: pool,
        get_array_module=lambda *args: namespace if any(isinstance(a, ndarray) for a in args) else np,
        __spec__=importlib.machinery.ModuleSpec("cupy", None),
    )  # fmt: skip


_fill_namespace()

cupyx = types.ModuleType("cupyx")
cupyx.empty_pinned = lambda shape, dtype=float, order="C": np.empty(shape, dtype, order).view(Pinned)
cupyx.__spec__ = importlib.machinery.ModuleSpec("cupyx", None)
profiler = types.ModuleType("cupyx.profiler")
profiler.benchmark = _benchmark
cupyx.profiler = profiler


@contextlib.contextmanager
def installed():
    """Inside, `import cupy` gives the double."""
    ours = {"cupy": namespace, "cupyx": cupyx, "cupyx.profiler": profiler}
    before = {name: sys.modules.get(name) for name in ours}
    sys.modules.update(ours)
    try:
        yield namespace
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
