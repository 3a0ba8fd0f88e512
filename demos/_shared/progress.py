"""How far, how fast, how long yet; and how to stop early without losing what was learned.

    with interruptible() as stop, Progress("training", total=len(corpus)) as bar:
        for batch in batches:
            loss = step(batch)
            bar.advance(len(batch), loss=loss)
            if stop.requested:
                break

On a terminal this is a bar. Into a file or a pipe it is a plain line every ten seconds and one at the end. There is no
thread behind it, and between two drawings `advance` only adds: what it times is not disturbed.
"""

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from time import perf_counter
from types import SimpleNamespace

from rich import progress as rich_progress
from rich.console import Console

TERMINAL_PERIOD, PLAIN_PERIOD = 0.1, 10.0  # seconds between two drawings
SMOOTHING = 3.0  # seconds: the speed shown forgets what is older


class Progress:
    """A bar over `total` units of work on standard error.

    `.done` is the work so far, `.seconds` the time since the `with` line (it stops at its end), and `.rate` the mean
    rate over all of it, in units per second: the number to report. The rate on screen follows the last few seconds.
    Work that goes on where it once stopped begins with `done` units, which count for no rate.
    """

    def __init__(self, description: str, total: int, unit: str = "words", done: int = 0) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done, self.loss = done, None
        self._begun_with = done
        self._end = None

    @property
    def seconds(self) -> float:
        return (perf_counter() if self._end is None else self._end) - self._start

    @property
    def rate(self) -> float:
        return (self.done - self._begun_with) / max(self.seconds, 1e-9)

    def advance(self, n: int = 1, loss: float | None = None) -> None:
        """Say that `n` more units are done; `loss` is shown beside them when given."""
        self.done += n
        self.loss = self.loss if loss is None else loss
        if perf_counter() - self._drawn_at >= self._period:
            self._draw()

    def __enter__(self) -> "Progress":
        self._start = self._drawn_at = perf_counter()
        self._drawn_done, self._speed, self._bar = self.done, 0.0, None
        # Not Console.is_terminal: FORCE_COLOR, which many CI machines set, makes it true of a pipe.
        on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._period = TERMINAL_PERIOD if on_terminal else PLAIN_PERIOD
        if on_terminal:
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(),
                rich_progress.TextColumn("{task.percentage:>3.0f}%"),
                rich_progress.TextColumn("{task.fields[numbers]}", markup=False),
                console=Console(stderr=True),
                auto_refresh=False,
                redirect_stdout=sys.stdout.isatty(),  # a piped stdout must not be drawn into the terminal
            )
            self._task = self._bar.add_task(self.description, total=max(self.total, 1), numbers="")
            self._bar.start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._end = perf_counter()
        of_total = "" if self.done == self.total else f" of {self.total:,}"
        ending = f"{self.done:,}{of_total} {self.unit} in {self.seconds:.1f} s, {self._numbers(self.rate)}"
        if self._bar:
            self._bar.update(self._task, completed=self._filled(), numbers=ending, refresh=True)
            self._bar.stop()
        else:
            self._print(ending)

    def _draw(self) -> None:
        now = perf_counter()
        elapsed, self._drawn_at = now - self._drawn_at, now
        latest = (self.done - self._drawn_done) / max(elapsed, 1e-9)
        first, self._drawn_done = self._drawn_done == self._begun_with, self.done
        self._speed += (1.0 if first else -math.expm1(-elapsed / SMOOTHING)) * (latest - self._speed)
        left = max(self.total - self.done, 0) / max(self._speed, 1e-9)
        numbers = f"{self._numbers(self._speed)}, {_clock(left)} left"
        if self._bar:
            self._bar.update(self._task, completed=self._filled(), numbers=numbers, refresh=True)
        else:
            self._print(f"{100 * self._filled() / max(self.total, 1):.0f}%, {numbers}")

    def _filled(self) -> int:
        return min(self.done, self.total) if self.total else 1

    def _numbers(self, speed: float) -> str:
        speed_text = f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
        return f"{speed_text} {self.unit}/s" + ("" if self.loss is None else f", loss {self.loss:.3f}")

    def _print(self, text: str) -> None:
        print(f"{self.description}: {text}", file=sys.stderr, flush=True)


@contextmanager
def counted(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a callback(done, total) that shows a bar from its first call on: for work that may be spared altogether."""
    with ExitStack() as stack:
        bars = []

        def on_progress(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(Progress(description, total, unit)))
            bars[0].advance(done - bars[0].done)

        yield on_progress


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(min(seconds, 359_999)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


@contextmanager
def interruptible(then: str = "what was learned is kept") -> Iterator[SimpleNamespace]:
    """Give an object whose `.requested` turns True at the first Ctrl-C; the second raises KeyboardInterrupt.

    then: what is told of the work so far.

    Only the main thread hears signals: in any other this does nothing.
    """
    stop = SimpleNamespace(requested=False)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_interrupt(signal_number, frame):
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        with suppress(RuntimeError):  # the signal came in the middle of another write, which Python cannot nest
            print(f"stopping after this step: {then}; Ctrl-C again to abandon", file=sys.stderr)

    old_handler = signal.signal(signal.SIGINT, on_interrupt) or signal.SIG_DFL  # None: it was not Python's
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, old_handler)
