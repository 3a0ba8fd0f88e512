"""What has been moved between main memory and a GPU, and how often has the CPU waited?

A GPU computes while the CPU is already at the next line; only when the CPU wants a number from it must it wait. So the
slides' third speed trick is to move little between the two, and early. The ledger makes it a number:

    with mg.transfers() as moved:
        step()
    print(moved)                    # 2 copies in (1.5 KiB), 1 copy out (4 B), 1 wait

There two arrays of ids went in, and the value of the loss came out. Whatever in this library copies or waits, in
`backend.py` and `streams.py` for the most part, tells it here.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class _State(threading.local):
    listeners: tuple = ()  # functions (kind, bytes, device) that hear of every copy: ledgers, the advisor


state = _State()


@dataclass
class Transfers:
    """What has moved, and how often the CPU has waited. In: from main memory to a GPU; out: back; between two GPUs."""

    copies_in: int = 0
    bytes_in: int = 0
    copies_out: int = 0
    bytes_out: int = 0
    copies_between: int = 0
    bytes_between: int = 0
    waits: int = 0  # synchronisations: each copy out is one

    def __call__(self, kind: str, nbytes: int, device: str) -> None:
        if device == "cpu":
            return  # it lay there already
        self.waits += kind in ("out", "wait")
        if kind == "in":
            self.copies_in, self.bytes_in = self.copies_in + 1, self.bytes_in + nbytes
        elif kind == "out":
            self.copies_out, self.bytes_out = self.copies_out + 1, self.bytes_out + nbytes
        elif kind == "between":
            self.copies_between, self.bytes_between = self.copies_between + 1, self.bytes_between + nbytes

    def __str__(self) -> str:
        moved = {"in": (self.copies_in, self.bytes_in), "out": (self.copies_out, self.bytes_out)}
        moved |= {"between GPUs": (self.copies_between, self.bytes_between)} if self.copies_between else {}
        said = [f"{n} {'copy' if n == 1 else 'copies'} {way} ({in_bytes(size)})" for way, (n, size) in moved.items()]
        return ", ".join([*said, f"{self.waits} wait{'s' * (self.waits != 1)}"])


@contextmanager
def transfers() -> Iterator[Transfers]:
    """Counts what this library moves, in this thread, to and from GPUs: `with mg.transfers() as moved`.

    What a program does with CuPy itself, past this library, it cannot see. On the CPU nothing moves.
    """
    ledger = Transfers()
    with hearing(ledger):
        yield ledger


@contextmanager
def hearing(listener: Callable[[str, int, str], object]) -> Iterator[None]:
    """Inside, `listener(kind, bytes, device)` hears of everything that is moved to or from a GPU.

    kind: "in", "out", "between" or "wait"; device: the GPU; or "cpu", where nothing is moved: there it hears of each
    array that is handed in and each value that is read.
    """
    before = state.listeners
    state.listeners = (*before, listener)
    try:
        yield
    finally:
        state.listeners = before


def tell(kind: str, nbytes: int, device: str) -> None:
    for listener in state.listeners:
        listener(kind, nbytes, device)


def in_bytes(n: float) -> str:
    """A number of bytes for people: 1.5 KiB."""
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} GiB"
