"""What about memory? Who holds it in a step of training, and how does a network fit that does not fit?

The tape keeps, from the way there, the arrays that its rules need on the way back. Let n layers follow one another, and
let each keep one array, its result, of the size of all the others. Counted in arrays, and without what goes into the
first layer and what the loss keeps, which are there in any case,

    kept = n.                                                                                                (1)

*Checkpoints* (Chen, Xu, Zhang, Guestrin: "Training Deep Nets with Sublinear Memory Cost", 2016). The layers are put
into k segments. Of a segment only what enters it is kept; when the walk comes to it, it is computed again from there,
and the walk goes on through what was recorded now. The last segment is needed at once and stays as it is. So on the
tape, when the walk begins, are what enters the segments 2, …, k and the inside of the last one:

    kept(k) = k − 1 + n/k,   where k divides n.                                                              (2)

It does not rise from then on: in segment j are the inside of that one, n/k, and what enters the segments 2, …, j. The
derivative 1 − n/k² is zero at

    k = √n,   where   kept = 2√n − 1.                                                                        (3)

The price: all segments but the last run forward twice, in all

    2n − n/k layers forward instead of n,                                                                    (4)

not quite one more forward. Gradients do not change, to the last bit: the same operations are done on the same arrays,
and in the same order. For the nodes of a segment lie next to one another in time, and those made again, being the
youngest, come next in the walk: so what arrives at a leaf is added as it would have been. (For derivatives of
derivatives the graph is another, and its sums are: they are equal but for rounding.)

    h = memory.checkpoint(segment)(x)           one segment
    y = memory.checkpoint_sequential(layers, x) all of them, in √n segments
    with memory.trace() as seen: step()         what was in use, from operation to operation; seen.peak
    memory.account(parameters, optimiser, loss) who holds what
"""

import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce, wraps
from typing import Any, NamedTuple

from . import backend, tape
from .arguments import signature, whole
from .debug import _arrays, _owner, graph
from .ledger import in_bytes
from .optim import Optimizer
from .tape import Node, Op, no_grad
from .tensor import Tensor

# ---- checkpoints -----------------------------------------------------------------------------------------------------


def checkpoint(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function with the values and gradients of `f`, which keeps no array of what f does: it is done again.

    f may take and use whatever it likes (tensors, parameters of a module, results of other operations) and returns one
    Tensor. Done again it must do the same: so it draws random numbers from a `Key`, which has no state, and not from a
    generator that goes on, which nobody would notice. RuntimeError if it does not use the tensors that it used at
    first, as in a loop `for layer in layers: h = checkpoint(lambda h: layer(h))(h)`, where `layer` is the last one by
    then: write checkpoint(layer)(h). A parameter that is updated before the walk has come raises, as anywhere.
    Of a module `checkpoint` makes a plain function; keep the module itself, for that knows its parameters.
    """
    if not callable(f):
        raise TypeError(f"minigrad.memory.checkpoint: expected a function, got {type(f).__name__}")

    @wraps(f, updated=())
    def g(*args, **options):
        if not tape.state.recording:
            return f(*args, **options)
        used = _Used()
        with no_grad(), tape.watching(used):
            y = f(*args, **options)
        if type(y) is not Tensor:
            raise TypeError(f"minigrad.memory.checkpoint: the function must return one Tensor, got {type(y).__name__}")
        outside = [t for t in used.versions if t is not y]  # weak references: what else f made is gone by now
        parents = [t._node or t for t in outside if t.requires_grad]
        if y.requires_grad or not parents or y.dtype.kind not in "fc":
            return y  # it is one of those outside, or depends on none
        kept = [t._data for t in outside if t._node is not None or not t.requires_grad]  # for `graph` to count
        versions = tuple((t._leaf, used.versions[t]) for t in outside if t._leaf is not None)
        node = Node()
        node.number, node.op, node.parents, node.params = tape._next(), CHECKPOINT, tuple(parents), {}
        node.saved = (None, None, versions, partial(_again, f, args, options, signature(y), node.parents), *kept)
        node.shape, node.dtype = y.shape, y.dtype
        for watch in tape.state.watchers:
            watch(CHECKPOINT, tuple(outside), y._data, node)
        result = Tensor._of(y._data, node)
        result._leaf = y._leaf  # of a view of a parameter
        return result

    return g


class _Used:
    """Notes which tensors operations are done on, and in which version, and holds none of them."""

    def __init__(self):
        self.versions = weakref.WeakKeyDictionary()

    def __call__(self, op: Op, args: tuple, y: Any, node: None) -> None:
        for a in args:
            if type(a) is Tensor:
                self.versions.setdefault(a, 0 if a._leaf is None else a._leaf._version)


def _again(f: Callable, args: tuple, options: dict, before: str, parents: tuple) -> Node:
    """Runs f once more, on the tape: the node of its result, the same tensors before it."""
    used = _Used()
    with tape.holding(recording=True), tape.watching(used):
        y = f(*args, **options)
    now = {t._node or t for t in used.versions}
    if missing := [p for p in parents if p not in now]:
        raise RuntimeError(
            f"minigrad.memory.checkpoint: done again, the function does not use a tensor {signature(missing[0])} that "
            "it used at first; does it take a variable of a loop, which has another value by now?"
        )
    if type(y) is not Tensor or y._node is None or signature(y) != before:
        given = signature(y) + " without a gradient" * (type(y) is Tensor and y._node is None)
        raise RuntimeError(f"minigrad.memory.checkpoint: the function gave {before} at first, and now {given}")
    return y._node


# "shape": what is kept here is no argument, and the walk need not make it one; its rule answers with a node, through
# which the walk goes on.
CHECKPOINT = Op("checkpoint", None, (), lambda g, y, residual, again, *kept: again(), "shape", False)


def checkpoint_sequential(steps: Iterable[Callable], x: Any, segments: int | None = None) -> Tensor:
    """The steps (modules, functions of one tensor) one after the other, in segments: equation (3) says how many.

    segments: k in 1, …, n. Those before the last are checkpoints. Where k does not divide n, the first are the longer.
    """
    steps = list(steps)
    k = best_segments(len(steps)) if segments is None else segments
    k = whole("minigrad.memory.checkpoint_sequential: segments", k)
    if not steps:
        raise ValueError("minigrad.memory.checkpoint_sequential: expected one step or more, got none")
    if not k <= len(steps):
        raise ValueError(f"minigrad.memory.checkpoint_sequential: {k} segments need as many steps, got {len(steps)}")
    short, longer = divmod(len(steps), k)
    for i in range(k):
        begin = i * short + min(i, longer)
        segment = partial(_through, steps[begin : begin + short + (i < longer)])
        x = segment(x) if i == k - 1 else checkpoint(segment)(x)
    return x


def best_segments(n: int) -> int:
    """(3): √n, as a whole number."""
    return max(round(n**0.5), 1)


def _through(steps: Sequence[Callable], x: Any) -> Any:
    return reduce(lambda h, step: step(h), steps, x)


# ---- who holds what --------------------------------------------------------------------------------------------------


def account(params: Iterable[Tensor], optimiser: Optimizer | None = None, loss: Tensor | None = None) -> dict[str, int]:
    """Bytes held, by whom: parameters, their gradients, the optimiser's averages, what the tape behind `loss` keeps.

    Memory that two of them share counts once, for the first. Ask before backward() for what is kept, after it for
    gradients.
    """
    params = list(params)
    averages = [a for name in getattr(optimiser, "averages", ()) for a in getattr(optimiser, name)]
    seen: set[int] = set()
    return {
        "parameters": _bytes_of([p.data for p in params], seen),
        "gradients": _bytes_of([p.grad for p in params], seen),
        "optimiser": _bytes_of(averages, seen),
        "kept for the way back": 0 if loss is None or loss._node is None else graph(loss).bytes_kept,
    }


def _bytes_of(arrays: Iterable[Any], seen: set[int]) -> int:
    owners = {id(a): a for a in (_owner(a.data if type(a) is Tensor else a) for a in arrays if a is not None)}
    new = owners.keys() - seen
    seen |= new
    return sum(owners[i].nbytes for i in new)


# ---- over time -------------------------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """After an operation (`relu`) or a rule (`∂relu`)."""

    label: str
    used: int  # bytes: the most that were in use since the moment before, what came and went in between included
    kept: int  # bytes of arrays that nodes have kept and that are still there; of each memory once, leaves' own not


class Trace:
    """What `trace` has seen. timeline: its moments; peak: the most bytes ever in use; peak_kept: the most kept."""

    def __init__(self, meter: Any, limit: int | None):
        self.timeline: list[Moment] = []
        self.peak = self.peak_kept = 0
        self.limit = limit
        self._meter, self._kept, self._held = meter, 0, {}

    def __call__(self, op: Op, args: tuple, y: Any, node: Node | None) -> None:
        if node is not None:
            for a in args:
                if type(a) is Tensor and a._node is None and a.requires_grad:
                    self._hold(_owner(a._data), "a leaf", 0)
            for array in _arrays(node.saved):
                self._hold(array, op.name, array.nbytes)
        self._note(op.name, y.nbytes, lambda: f"minigrad.{op.name}({', '.join(map(signature, args))})")

    def gradients(self, node: Node, gradients: Sequence) -> None:
        asked = sum(a.nbytes for a in _arrays(list(gradients)))
        name = node.op.name
        self._note(f"∂{name}", asked, lambda: f"the rule of minigrad.{name}, which gave {signature(node)}")

    def _hold(self, array: Any, name: str, nbytes: int) -> None:
        """Counts an array until it dies, for whom it was first; not NumPy's scalars, which are a few bytes."""
        key = id(array)
        if key in self._held or not array.ndim:
            return

        def forget(_):
            self._kept -= nbytes
            del self._held[key]

        self._held[key] = weakref.ref(array, forget), nbytes, name
        self._kept += nbytes

    def _note(self, label: str, asked: int, doing: Callable[[], str]) -> None:
        used = self._meter.highest()
        self.timeline.append(Moment(label, used, self._kept))
        self.peak, self.peak_kept = max(self.peak, used), max(self.peak_kept, self._kept)
        if self.limit is not None and used > self.limit:
            raise MemoryError(
                f"{doing()}: out of memory: for {in_bytes(asked)} more, {in_bytes(used)} would be in use, and the "
                f"limit is {in_bytes(self.limit)}; the tape keeps {in_bytes(self._kept)}{self._the_most()}"
            )

    def _the_most(self) -> str:
        by_name: dict[str, int] = {}
        for _, nbytes, name in self._held.values():
            by_name[name] = by_name.get(name, 0) + nbytes
        most = [item for item in sorted(by_name.items(), key=lambda item: -item[1])[:3] if item[1]]
        return ", the most " + ", ".join(f"{in_bytes(n)} for {name}" for name, n in most) if most else ""


@contextmanager
def trace(limit: int | None = None) -> Iterator[Trace]:
    """Watches memory while this thread works: `with memory.trace() as seen`.

    *In use* is what the allocator of the current device has handed out since this line and has not got back. On a GPU
    it is CuPy's memory pool; on the CPU Python's `tracemalloc` counts: NumPy's arrays, and Python's own objects, of all
    threads. Those are small, but for the first time: do a step before, lest what is loaded and compiled then count too.
    What was there before does not count, so make the model inside.

    limit: bytes. MemoryError when more are in use, as on a GPU of that size, naming the operation, what it asked for
    and what is kept. A GPU's pool does not give more; on the CPU the error comes after the operation that went beyond.
    """
    if any(isinstance(watch, Trace) for watch in tape.state.watchers):
        raise RuntimeError("minigrad.memory.trace: inside another trace(), which counts already")
    limit = None if limit is None else whole("minigrad.memory.trace: limit", limit)
    with _OnCPU() if backend.get_device() == "cpu" else _on_gpu(backend.xp(), limit) as meter:
        seen = Trace(meter, limit)
        try:
            with tape.watching(seen):
                yield seen
            seen._note("end", 0, lambda: "minigrad.memory.trace, after the last operation")
        finally:
            seen._held.clear()


class _OnCPU:
    """tracemalloc, begun if nobody has."""

    def __enter__(self):
        self.begun = not tracemalloc.is_tracing()
        if self.begun:
            tracemalloc.start()
        tracemalloc.reset_peak()
        self.before, _ = tracemalloc.get_traced_memory()
        return self

    def __exit__(self, *error):
        if self.begun:
            tracemalloc.stop()

    def highest(self) -> int:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        return peak - self.before


@contextmanager
def _on_gpu(cupy: Any, limit: int | None) -> Iterator[Any]:
    """A hook that CuPy calls for all that its pool gives and takes back; and the pool's own limit."""

    class Hook(cupy.cuda.MemoryHook):
        name = "minigrad.memory.trace"
        now = most = 0

        def malloc_postprocess(self, device_id, mem_size, mem_ptr, **_):
            if mem_ptr and device_id == gpu:  # 0 where it failed
                self.now += mem_size
                self.most = max(self.most, self.now)

        def free_postprocess(self, device_id, mem_size, **_):
            if device_id == gpu:
                self.now -= mem_size

        def highest(self):
            most, self.most = self.most, self.now
            return most

    pool, gpu = cupy.get_default_memory_pool(), cupy.cuda.Device().id
    before = pool.get_limit()
    if limit is not None:
        pool.free_all_blocks()
        pool.set_limit(size=pool.used_bytes() + limit)
    try:
        with Hook() as hook:
            yield hook
    finally:
        if limit is not None:
            pool.set_limit(size=before)
