"""Which of the slides' "Bad" patterns are in your program, on which lines, and what does mending them save?

    with mg.advisor() as advice:
        train(model)
    print(advice)                     # or look at advice.findings

    python -m minigrad.advisor demos/slow-impl.py --quick

It sees every operation, every walk back and every copy of this thread, and counts; it reads no clock. It speaks of

    1  an operation done again on the same inputs                        "Don't Repeat Operations"
    2  vectors multiplied, or rows looked up, one by one                 "Reduce # of Operations"
    3  values copied in, or read back, again and again                   "Reduce CPU-GPU Data Movement"
    4  graphs that are kept and that nobody walks back                   "What About Memory?"
    5  float64 in a program of float32
    6  the gradient of a whole table where a few rows would do           "Computation Across Large Vocabularies"

once a line has done it `least` times. What exactly is counted stands in `patterns.py` (1 to 3) and `wastes.py` (4 to
6). Watched, small operations take many times as long. When no advisor is there, nothing of it is.
"""

import argparse
import runpy
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .arguments import whole
from .identity import Identities, Known, Note, Result, caller, in_a_walk, note_of
from .ledger import hearing
from .patterns import Finding, Moved, OneByOne, Operation, Repeated
from .rows import Rows
from .tape import Node, Op, state, watching
from .wastes import Dense, Graphs, Wide


class Advice:
    """What there is to say: `findings`, what saves most first; in words by `print(advice)`.

    operations: how many were seen.
    """

    def __init__(self, least: int):
        self.least, self.operations, self._last, self._asleep = least, 0, 0, False
        self._identities = Identities(self._forget)
        self._moved, self._graphs, self._dense = Moved(), Graphs(self._identities), Dense()
        self._parts = [Repeated(), OneByOne(self._identities), self._moved, self._graphs, Wide(), self._dense]

    @property
    def findings(self) -> list[Finding]:
        """Those of the three speed tricks first, by the operations and copies that they save; the others by bytes."""
        found = [finding for part in self._parts for finding in part.findings(self.least)]
        return sorted(found, key=lambda f: (f.trick > 3, -f.saved, f.where))

    def __str__(self) -> str:
        found = self.findings
        if not found:
            return f"nothing to say of {self.operations:,} operations"
        head = f"{len(found)} thing{'s' * (len(found) > 1)} to say of {self.operations:,} operations"
        return "\n".join([head, *(f"{i}. {finding}" for i, finding in enumerate(found, start=1))])

    # ---- what the tape and the walk tell ----

    def __call__(self, op: Op, args: tuple, y: Any, node: Node | None) -> None:
        if self._asleep or in_a_walk():
            return
        self.operations += 1
        line, result = caller()[0], Result()
        known = [self._identities[a] for a in args]
        inputs = [self._identities.input(a, k) for a, k in zip(args, known, strict=True)]
        if node is not None:
            node.where = Note(line, Known(self._identities.number()), result, self._died)
        it = Operation(line, op, args, y, node, known, inputs, result)
        for part in self._parts:
            part.see(it)

    def gradients(self, node: Node, gradients: Any) -> None:
        if self._asleep:
            return
        note = note_of(node)
        if node.number > self._last or (note and not note.result.used):
            for part in self._parts:
                part.walk_begins()
        self._last = node.number
        for part in self._parts:
            part.walked(node, gradients, note.line if note else caller()[0])
        if note:
            note.result.walked = True

    def _hear(self, kind: str, nbytes: int, device: str) -> None:
        if not self._asleep:
            self._moved.hear(kind, nbytes, device)

    def _written_out(self, rows: Rows) -> None:
        if not self._asleep:
            self._dense.written_out(rows)

    def _died(self, note: Note) -> None:
        self._graphs.died(note)
        self._forget(note.known)

    def _forget(self, known: Known) -> None:
        for part in self._parts:
            part.forget(known)

    def _close(self) -> None:
        for part in self._parts:
            part.walk_begins()
        self._graphs.close()


@contextmanager
def advisor(*, least: int = 5) -> Iterator[Advice]:
    """Inside, what this thread does is watched: `with mg.advisor() as advice`. After it, `advice` is complete.

    least: how often a line must have done it, twice or more: an operation on the same inputs, vectors or rows one by
        one, copies between two walks, graphs, casts, gradients.
    An advisor inside another watches alone: the outer one sleeps.
    """
    advice = Advice(whole("minigrad.advisor: least", least, 2))
    awake = [watch for watch in state.watchers if isinstance(watch, Advice) and not watch._asleep]
    with watching(advice), hearing(advice._hear), told_of_dense(advice._written_out):
        try:
            for other in awake:
                other._asleep = True
            yield advice
        finally:
            advice._close()
            for other in awake:
                other._asleep = False


@contextmanager
def told_of_dense(tell: Callable) -> Iterator[None]:
    """Inside, `tell(rows)` hears when this thread writes `Rows` out."""
    dense, thread = Rows.dense, threading.get_ident()

    def told(rows):
        if threading.get_ident() == thread:
            tell(rows)
        return dense(rows)

    Rows.dense = told
    try:
        yield
    finally:
        Rows.dense = dense


# ---- a whole script -----------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m minigrad.advisor",
        description='Runs a script, and says which of the slides\' "Bad" patterns it has, on which lines.',
    )
    p.add_argument("--least", type=int, default=5, help="how often a line must have done it (2 or more, default 5)")
    p.add_argument("script", type=Path)
    p.add_argument("args", nargs=argparse.REMAINDER, help="the script's own")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script as Python would, then prints the advice. Returns, or ends with, the script's own status."""
    p = parser()
    args = p.parse_args(argv)
    if not args.script.is_file():
        p.error(f"{args.script}: there is no such file")
    if args.least < 2:
        p.error(f"--least must be at least 2, got {args.least}")
    sys.argv, sys.path[0] = [str(args.script), *args.args], str(args.script.resolve().parent)
    with advisor(least=args.least) as advice:
        try:
            runpy.run_path(str(args.script), run_name="__main__")
        finally:
            print(f"\n{args.script.name}: {advice}", flush=True)
    return 0


class _Callable(ModuleType):
    """`mg.advisor` is this module, and to call it is to call its `advisor`."""

    __call__ = staticmethod(advisor)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    from minigrad.advisor import main  # the module itself, not the copy of it that Python runs

    raise SystemExit(main())
