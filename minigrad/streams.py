"""How does the next batch get to the GPU while this one is computed?  The slides: move memory "as early as possible
(GPU operations are asynchronous)".

What is told to a GPU joins a queue, a *stream*. Two streams run side by side, so a copy need not stand in line behind
the computation:

    copying     | 1 | 2         | 3         | 4 …           each batch before it is needed
    computing       | batch 1   | batch 2   | batch 3 …

Three things must not happen, and each of them would give wrong numbers without an error.

    (1) The batch is used before it has arrived.  The computing stream waits for an *event*, a mark that the copying
        stream passes when the copy is done. Streams wait for each other; the CPU goes on.
    (2) The copy writes where an older array is still being read.  Memory that Python has freed is given out again at
        once, while the GPU may be behind. So the room is taken on the computing stream, and the copying stream waits
        for what was told to that one before: the batch before last, not the one that is just about to be computed.
    (3) Main memory changes under the copy.  Only from *pinned* memory, which the system promises not to move, does a
        copy run by itself; it is filled for each batch anew and held until its copy is done.

On the CPU there is nothing to copy: the batches pass through.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import backend
from .ids import remember
from .ledger import tell


def prefetch(batches: Iterable) -> Iterator:
    """The batches, on the current device; each is on its way there while the one before it is computed.

    A batch is an array (or a number, or a list of them), or a tuple or dictionary of such, and comes out as the same,
    of arrays.
    """
    if backend.get_device() == "cpu":
        yield from (_each(batch, backend.asarray) for batch in batches)
        return
    computing, copying = backend.xp().cuda.get_current_stream(), backend.xp().cuda.Stream(non_blocking=True)
    in_flight, ahead = deque(), None
    for batch in batches:
        pinned = _each(batch, _pinned)
        arrays = _each(pinned, lambda host: _sent(host, computing, copying))
        arrival = copying.record()
        while in_flight and (in_flight[0][0].done or len(in_flight) > 8):
            in_flight.popleft()[0].synchronize()
        in_flight.append((arrival, pinned))  # (3)
        if ahead is not None:
            yield _arrived(*ahead, computing)
        ahead = arrays, arrival
    if ahead is not None:
        yield _arrived(*ahead, computing)
    for arrival, _ in in_flight:
        arrival.synchronize()


def _sent(host: Any, computing: Any, copying: Any) -> Any:
    """The array that `host` will be when the copy is done, which is told to the copying stream, not waited for."""
    array = backend.xp().empty(host.shape, host.dtype)
    copying.wait_event(computing.record())  # (2)
    array.set(host, stream=copying)
    tell("in", host.nbytes, backend.device_of(array))
    remember(array, host)
    return array


def _arrived(arrays: Any, arrival: Any, computing: Any) -> Any:
    computing.wait_event(arrival)  # (1)
    return arrays


def _pinned(values: Any) -> Any:
    """(3): a copy in main memory that stays where it is."""
    import cupyx

    host = backend.np.asarray(values)
    pinned = cupyx.empty_pinned(host.shape, host.dtype)
    pinned[...] = host
    return pinned


def _each(batch: Any, f: Callable) -> Any:
    if isinstance(batch, tuple):
        return tuple(_each(part, f) for part in batch)
    return {name: _each(part, f) for name, part in batch.items()} if isinstance(batch, dict) else f(batch)
