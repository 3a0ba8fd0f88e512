"""How does the next batch get to the GPU while this one is computed?  The slides: move memory "as early as possible
(GPU operations are asynchronous)".

    for x, targets in mg.backend.prefetch(batches):
        loss = criterion(model(x), targets)

What is told to a GPU joins a queue, a *stream*. Two streams run side by side, so a copy need not stand in line behind
the computation:

    copying     | 1 | 2         | 3         | 4 …           each batch before it is needed
    computing       | batch 1   | batch 2   | batch 3 …

Four things must not happen, and each of them would give wrong numbers without an error.

    (1) A batch is used before it has arrived.  So the computing stream waits for an *event*, a mark that the copying
        stream passes when the copy is done. One stream waits for the other there; the CPU goes on.
    (2) A copy writes where an older array is still being read.  CuPy gives freed memory out again at once, though the
        GPU may be behind; within one stream that is right, for all is done in order there. So the room for batch i is
        taken on the computing stream, and the copying stream waits for what was told to that one until now: up to
        batch i − 2. The computation of batch i − 1, which is told next, goes on beside the copy.
    (3) Main memory changes under the copy.  So the caller's batch is copied once more, into memory of its own.
    (4) Memory is freed, there or here, while a copy still runs.  So both are held until it has arrived, also when the
        loop is left early.

That memory of its own is *pinned*: the system promises not to move it. Only then does a copy run by itself.

The CPU never waits unless it has run AHEAD batches ahead of the copies, or the loop ends while one is under way; then
the ledger is told. On the CPU there is nothing to copy: batches pass through.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import backend
from .ids import remember
from .ledger import tell

AHEAD = 8  # batches on their way at once, at most


def prefetch(batches: Iterable) -> Iterator:
    """The batches, on the current device; each is on its way there while the one before it is computed.

    A batch is an array, a number or a list of numbers; or a tuple or dictionary of batches, which comes out as such.
    On a GPU it must come from main memory.
    """
    if backend.get_device() == "cpu":
        yield from (_each(batch, backend.asarray) for batch in batches)
        return
    computing, copying = backend.xp().cuda.get_current_stream(), backend.xp().cuda.Stream(non_blocking=True)
    in_flight, before = [], None
    try:
        for batch in batches:
            pinned = _each(batch, _pinned)
            arrays = _each(pinned, lambda host: _sent(host, computing, copying))
            arrival = copying.record()
            in_flight = [one for one in in_flight if not one[0].done] + [(arrival, pinned, arrays)]  # (4)
            if len(in_flight) > AHEAD:
                _wait_for(in_flight[0][0])
            if before is not None:
                yield _arrived(*before, computing)
            before = arrays, arrival
        if before is not None:
            yield _arrived(*before, computing)
    finally:
        for arrival, *_ in in_flight:
            _wait_for(arrival)


def _sent(host: Any, computing: Any, copying: Any) -> Any:
    """The array that `host` will be when the copy is done, which is told to the copying stream, not waited for."""
    array = backend.xp().empty(host.shape, host.dtype)  # of the computing stream's memory, for that is the current one
    copying.wait_event(computing.record())  # (2)
    array.set(host, stream=copying)
    tell("in", host.nbytes, backend.device_of(array))
    remember(array, host)
    return array


def _arrived(arrays: Any, arrival: Any, computing: Any) -> Any:
    computing.wait_event(arrival)  # (1)
    return arrays


def _wait_for(arrival: Any) -> None:
    if not arrival.done:
        tell("wait", 0, backend.get_device())
        arrival.synchronize()


def _pinned(values: Any) -> Any:
    """(3): a copy in main memory that stays where it is, and that nobody else has."""
    import cupyx

    if backend.on_gpu(values):
        raise TypeError("minigrad.backend.prefetch: a batch must come from main memory, got an array on a GPU")
    host = backend.np.asarray(values)
    if host.dtype.kind not in "biufc":
        raise TypeError(f"minigrad.backend.prefetch: a batch must hold numbers, got {type(values).__name__}")
    pinned = cupyx.empty_pinned(host.shape, host.dtype)
    pinned[...] = host
    return pinned


def _each(batch: Any, f: Callable) -> Any:
    if isinstance(batch, tuple):
        parts = [_each(part, f) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)  # a named tuple stays one
    return {name: _each(part, f) for name, part in batch.items()} if isinstance(batch, dict) else f(batch)
