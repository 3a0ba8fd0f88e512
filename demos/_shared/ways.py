"""The ways to compute on this machine: one thread of the CPU, all its threads, a GPU; and which is the faster one.

    ways, no_gpu = ways_here(args.device)              # no_gpu: why there is none; None if there is one
    seconds = in_turn({way: call for way in ways}, seconds=0.3)
    crossover(sizes, slow=[…], fast=[…])               # from which size on the one beats the other

A clock is read with three things in mind. A call may be shorter than the reading: then several share one. The first
call does what later ones need not (memory is touched, kernels are compiled or read): it does not count. A GPU answers
before it has computed: so it is waited for before either reading (`backend.synchronize`). All ways are measured in
turn, so that a machine that is busy for a while is so for each, and of their rounds the median counts.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from _shared.errors import DemoError
from _shared.flags import choose_device
from threadpoolctl import ThreadpoolController

import minigrad as mg

READING = 1e-3  # seconds between two looks at the clock, at least: a thousand times what the look costs
BUSY = 0.5  # programs at work, on average over a minute


@dataclass(frozen=True)
class Way:
    """A device, and for the CPU how many threads the matrix products may have; None: as many as the library takes."""

    key: str  # in the JSON
    name: str  # for people
    device: str
    threads: int | None = None

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """Inside, new tensors are made on its device, and products have its threads."""
        before = mg.backend.get_device()
        mg.set_device(self.device)
        try:
            with _pools().limit(limits=self.threads, user_api="blas"):
                yield
        finally:
            mg.set_device(before)


@cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries: once


def ways_here(device: str) -> tuple[list[Way], str | None]:
    """The ways of this machine, and why there is no GPU among them. A GPU is used if there is one, whatever `device`.

    Raises DemoError if `device` is "gpu" and there is none. A BLAS whose threads cannot be told apart (Apple's) is one
    way, and so is one that has a single thread.
    """
    pools = _pools().select(user_api="blas").info()
    most = max((pool["num_threads"] for pool in pools), default=None)
    one = Way("cpu_one_thread", "CPU, 1 thread", "cpu", 1) if most else Way("cpu", "CPU", "cpu")
    every = [Way("cpu_all_threads", f"CPU, {most} threads", "cpu", most)] if (most or 1) > 1 else []
    no_gpu = _why_no_gpu(device)
    return [one, *every, *([] if no_gpu else [Way("gpu", "GPU", "gpu")])], no_gpu


def _why_no_gpu(device: str) -> str | None:
    try:
        choose_device("gpu")
    except DemoError as error:
        if device == "gpu":
            raise
        return str(error).removeprefix("--device gpu: ")
    mg.set_device("cpu")
    return None


def machine_in_words() -> list[str]:
    """Which library computes the products; and warnings: a variable that slows it down, others at work beside us."""
    pools = _pools().select(user_api="blas").info()
    said = [
        f"matrix products: {pool['internal_api']} {pool['version']}, {pool.get('architecture') or 'any machine'}, "
        f"{pool['num_threads']} thread{'s' * (pool['num_threads'] > 1)}"
        for pool in pools
    ] or ["matrix products: a library that threadpoolctl does not know, with as many threads as it likes"]
    if kind := os.environ.get("OPENBLAS_CORETYPE"):
        said.append(
            f"warning: OPENBLAS_CORETYPE={kind} is set: NumPy's products may be slow; unset it to see them fast"
        )
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > BUSY:
        said.append(f"warning: others were at work on this machine in the last minute (load {load:.1f}): times vary")
    return said


def in_turn(calls: Mapping[Way, Callable[[], object]], seconds: float, least: int = 3) -> dict[Way, float]:
    """Seconds of a call each way: the median of rounds. `seconds` for each way, or `least` rounds if they take longer.

    The order is turned round by round, for who comes second may find the machine as the first has left it.
    """
    together, times = {}, {way: [] for way in calls}
    for way, call in calls.items():
        with way.chosen():
            first = _reading(call, 1)
            together[way] = 1 if first > READING else math.ceil(READING / max(_reading(call, 1), 1e-9))
    begin, order = time.perf_counter(), list(calls)
    while len(times[order[0]]) < least or time.perf_counter() - begin < seconds * len(calls):
        for way in order:
            with way.chosen():
                times[way].append(_reading(calls[way], together[way]))
        order.reverse()
    return {way: statistics.median(times[way]) for way in calls}


def _reading(call: Callable[[], object], times: int) -> float:
    """Seconds of one of so many calls, the GPU having done what was asked before, and all that was asked now."""
    mg.backend.synchronize()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    mg.backend.synchronize()
    return (time.perf_counter() - begin) / times


def crossover(sizes: Sequence[int], slow: Sequence[float], fast: Sequence[float], margin: float = 1.1) -> int | None:
    """The least of the rising sizes from which on, there and at every greater one, `fast` beats `slow`; None if none.

    slow, fast: seconds for each size. To beat: to take less than 1/margin of the time, or noise would win as well.
    """
    found = None
    for size, theirs, ours in reversed(list(zip(sizes, slow, fast, strict=True))):
        if not theirs > margin * ours:
            break
        found = size
    return found


def in_time(seconds: float) -> str:
    """Seconds for people: 1.66 µs."""
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 1000 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
