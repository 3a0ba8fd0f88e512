"""A race: contestants do the same work in turn, each in a process of its own, and the ratio within a round counts.

    class Torch:
        name, package = "torch", "torch"               # as it is called; what must be installed, None: nothing
        def __init__(self, vocab): import torch ...    # all that is not timed
        def answer(self): ...                          # what all contestants must agree on before a time is believed
        def work(self): ...                            # one round

    with Race([Minigrad, Torch], {"vocab": 1000}, threads=1) as race:
        race.agree("answer", tolerance=1e-5)
        times = race.run("work", rounds=9)
    times.ratio("torch", "minigrad")                   # seconds of the one over seconds of the other

A machine is busy for minutes and then is not, but it is so for all who run in the same seconds: hence turns, in an
order that is reversed round by round, and ratios within a round. Thread pools and settings of one library disturb
another: hence processes of their own, with the number of threads said before any library is loaded, all of them pinned
to the same `threads` cores (where the system can), since only one works at a time. A contestant that is not installed,
or dies, is listed in `race.absent` with the reason, and the others go on.
"""

import gc
import importlib.metadata
import importlib.util
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
from _shared.errors import DemoError

THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB", "BLIS")  # each with _NUM_THREADS
SLOWS_ONE_DOWN = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


# %% What comes out of a race
@dataclass(frozen=True)
class Ratio:
    """The median of a ratio over the rounds, and an interval that holds the true median with that confidence.

    The interval reaches from the j-th smallest to the j-th largest of n ratios: the true median lies outside only if
    fewer than j of n fall on one side of it, which, as each falls there like a fair coin, has the probability
    2 Σ C(n, i) / 2ⁿ over i < j (the interval of the sign test; Thompson 1936). j is the largest for which the
    confidence is 95 % or more; with less than six rounds there is none: the interval is then the whole range.
    """

    median: float
    low: float
    high: float
    confidence: float

    @staticmethod
    def of(ratios: Sequence[float]) -> "Ratio":
        n, ordered = len(ratios), sorted(ratios)
        outside = [2 * sum(comb(n, i) for i in range(j)) / 2**n for j in range(1, n // 2 + 1)] or [1.0]
        j = max(sum(p <= 0.05 for p in outside), 1)
        return Ratio(statistics.median(ratios), ordered[j - 1], ordered[n - j], 1.0 - outside[j - 1])

    def __str__(self) -> str:
        return f"{self.median:.2f} × ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Times:
    """seconds[name][i]: how long a contestant took in round i. Who died on the way is not among them."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> Ratio:
        """How many times as long the one took as the other, in the same round."""
        return Ratio.of([a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True)])


# %% The race, as its script sees it
class Race:
    """Starts the contestants, lets them work in turn, and ends them, whatever happens.

    contestants: classes that the script defines at its top level, called as `contestant(**setup)`, each in its process.
    setup: plain values; they are sent to each. The first contestant must be there; of the others one must be.
    """

    def __init__(self, contestants: Sequence[type], setup: Mapping[str, object] | None = None, *, threads: int = 1):
        self.absent: dict[str, str] = {}  # name -> why
        self.versions: dict[str, str] = {}  # name -> the library's version and its thread pools
        self._contestants, self._setup, self.threads = list(contestants), dict(setup or {}), threads
        self._running: dict[str, tuple[multiprocessing.process.BaseProcess, object]] = {}

    @property
    def names(self) -> list[str]:
        """Those who are still in the race, in the order of the contestants."""
        return list(self._running)

    def __enter__(self) -> "Race":
        try:
            for contestant in self._contestants:
                self._start(contestant)
            self._enough()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for process, connection in self._running.values():
            connection.close()  # at its next word it finds nobody there
            process.terminate()
        for process, _ in self._running.values():
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def ask(self, method: str, **arguments: object) -> dict[str, object]:
        """What each of them returns, in turn."""
        answers = {name: self._call(name, method, arguments) for name in self.names}
        self._enough()
        return {name: answer[0] for name, answer in answers.items() if name in self._running}

    def agree(self, method: str, *, tolerance: float, **arguments: object) -> float:
        """The largest difference between the first one's arrays and another's; AssertionError beyond the tolerance."""
        answers = self.ask(method, **arguments)
        first, *others = answers
        ours = [np.asarray(array, np.float64) for array in answers[first]]
        largest = 0.0
        for other in others:
            theirs = [np.asarray(array, np.float64) for array in answers[other]]
            shapes = [a.shape for a in ours], [b.shape for b in theirs]
            if shapes[0] != shapes[1]:
                raise AssertionError(f"{first} and {other} answer with arrays of shapes {shapes[0]} and {shapes[1]}")
            difference = max(
                (float(np.abs(a - b).max(initial=0.0)) for a, b in zip(ours, theirs, strict=True)), default=0.0
            )
            if not difference <= tolerance:
                raise AssertionError(f"{first} and {other} disagree in {method}: by {difference:.3g} > {tolerance:g}")
            largest = max(largest, difference)
        return largest

    def run(
        self,
        method: str,
        *,
        rounds: int,
        warm_up: int = 1,
        advance: Callable[[], object] | None = None,
        **arguments: object,
    ) -> Times:
        """Let each do `method` once a round, after rounds that don't count. `advance` is called after each turn."""
        seconds: dict[str, list[float]] = {name: [] for name in self.names}
        for number in range(-warm_up, rounds):
            for name in self.names if number % 2 == 0 else self.names[::-1]:
                if number == 0:
                    self._call(name, None, {})  # what the warm-up left behind is collected, or frozen
                answer = self._call(name, method, arguments)
                if answer and number >= 0:
                    seconds[name].append(answer[1])
                if advance:
                    advance()
            self._enough()
        return Times({name: seconds[name] for name in self.names})

    # ---- processes ----

    def _start(self, contestant: type) -> None:
        name, package = contestant.name, contestant.package
        if package and importlib.util.find_spec(package) is None:
            self.absent[name] = f"not installed: pip install {package}"
            return
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, contestant, self._setup, self.threads), daemon=True)
        with _environment(self.threads):
            process.start()
        there.close()
        self._running[name] = process, here
        if answer := self._receive(name):
            self.versions[name] = answer[0]

    def _call(self, name: str, method: str | None, arguments: Mapping[str, object]) -> tuple | None:
        """(what it returns, seconds); None if it died of it."""
        if name not in self._running:
            return None
        try:
            self._running[name][1].send((method, arguments))
        except OSError:
            return self._lost(name)
        return self._receive(name)

    def _receive(self, name: str) -> tuple | None:
        try:
            kind, *answer = self._running[name][1].recv()
        except (EOFError, OSError):
            return self._lost(name)
        if kind == "error":
            return self._lost(name, answer[0])
        return tuple(answer)

    def _lost(self, name: str, reason: str | None = None) -> None:
        process, connection = self._running.pop(name)
        connection.close()
        process.join(5)
        self.absent[name] = reason or f"its process ended with status {process.exitcode}"

    def _enough(self) -> None:
        ours = self._contestants[0].name
        said = "; ".join(f"{name}: {reason}" for name, reason in self.absent.items())
        if ours not in self._running or len(self._running) < 2:
            raise DemoError(f"there is no race: {said or 'it has one contestant'}")


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """What a process must find when it begins; and it shall not hear of Ctrl-C, which its parent hears."""
    before, main = dict(os.environ), threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        os.environ.update({f"{library}_NUM_THREADS": str(threads) for library in THREADS})
        for variable in SLOWS_ONE_DOWN:
            os.environ.pop(variable, None)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        if main:
            signal.signal(signal.SIGINT, handler)


# %% The other end: one contestant in its process
def _serve(connection, contestant: type, setup: Mapping[str, object], threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        one = contestant(**setup)
        connection.send(("there", _libraries(contestant.package)))
        while True:
            method, arguments = connection.recv()
            if method is None:
                gc.collect()
                gc.freeze()  # what lives now is no longer looked through
                connection.send(("done",))
                continue
            begin = time.perf_counter()
            value = getattr(one, method)(**arguments)
            connection.send(("done", value, time.perf_counter() - begin))
    except EOFError:
        pass  # the race is over
    except Exception as error:
        connection.send(("error", " ".join(f"{type(error).__name__}: {error}".split())[:300]))


def _libraries(package: str | None) -> str:
    from threadpoolctl import threadpool_info

    library = f"{package} {importlib.metadata.version(package)}" if package else f"numpy {np.__version__}"
    pools = {
        " ".join(str(pool[name]) for name in ("internal_api", "version", "architecture") if pool.get(name))
        + f", threads: {pool['num_threads']}"
        for pool in threadpool_info()
    }
    return "; ".join([library, *sorted(pools)])


def peak_bytes(work: Callable[[], object]) -> int | None:
    """By how much the memory of this process rose, at its highest, above what it was when `work` began.

    Counted in pages that are in memory, by the system's high-water mark, which only Linux lets one reset; else None.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except OSError:
        return None
    work()
    return max(_status("VmHWM") - before, 0)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
