"""The slides' three speed tricks: what is "Bad", as classes that watch for it, and what exactly each of them counts.

A walk back divides a program into stretches: what lies in one is computed with one state of the parameters.

(1) Done again: an operation on the same inputs (`identity.py` says what is the same). What a walk has passed is used up
    and must be done again; a view computes nothing (but to look up a row is an operation, and is one on the way back).
    The options of an operation that leaves no node are not known: those that have any are left out.
(2) One by one: vectors of one stretch that are multiplied with the same array, rows that are looked up in the same
    table. In a chain h ← tanh(W h) each product needs the one before; of several chains those at one place count.
(3) Moved again and again: copies of one stretch, if its operations took as many values from outside. So one copy for a
    batch is as it should be, and one for each of its words is not. (An evaluation has no walks, and is one stretch: of
    its copies, one for each batch, is spoken too; whether they could be one depends on the memory there is.) A value is
    read early if the graph behind it is still to be walked: the CPU waits for the value, and the walk for the CPU.

What is done on behalf of a walk, by a checkpoint say, does not count. (4) to (6) are in `wastes.py`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .arguments import signature
from .debug import _owner
from .identity import (
    Identities,
    Known,
    Line,
    Result,
    caller,
    content,
    has_options,
    is_constant,
    is_parameter,
    note_of,
)
from .ledger import in_bytes
from .tape import Node, Op
from .tensor import Tensor, _array

TITLES = {
    1: "Speed Trick 1, Don't Repeat Operations",
    2: "Speed Trick 2, Reduce # of Operations",
    3: "Speed Trick 3, Reduce CPU-GPU Data Movement",
    4: "What About Memory?",
    5: "float64 in a program of float32",
    6: "Computation Across Large Vocabularies",
}
PRODUCTS = ("matmul", "dot", "linear")


@dataclass(frozen=True)
class Finding:
    """What a line could do better.

    trick: a number of `TITLES`; where: the line, as `train.py:12, in step: y = W @ x`; count: how often it was done;
    saved: of (1) to (3) how many operations or copies, of (4) to (6) how many bytes (of results that live on after
    their walk, how many they are).
    """

    trick: int
    where: str
    message: str
    count: int
    saved: int

    def __str__(self) -> str:
        return f"{self.where}\n    {TITLES[self.trick]}: {self.message}"


@dataclass
class Operation:
    """What one operation was given, and gave."""

    line: Line
    op: Op
    args: tuple
    y: Any
    node: Node | None
    known: list[Known | None]  # of each argument
    inputs: list[tuple]
    result: Result

    def __str__(self) -> str:
        return f"{self.op.name}({', '.join(map(signature, self.args))})"


@dataclass
class Tally:
    """What was counted of a line."""

    ran: int = 0
    spared: int = 0  # how many of them need not have been
    size: int = 0  # numbers or bytes
    most: int = 0  # at once, or in one stretch
    what: str = ""


class Part:
    """One of the six. It is told what happens, and answers with findings."""

    def __init__(self):
        self.tallies = defaultdict(Tally)

    def see(self, it: Operation) -> None: ...

    def walk_begins(self) -> None: ...

    def walked(self, node: Node, gradients: Sequence, line: Line) -> None: ...

    def forget(self, known: Known) -> None: ...


# ---- (1) ----------------------------------------------------------------------------------------------------------


class Repeated(Part):
    def __init__(self):
        super().__init__()
        self.done: dict[tuple, Result] = {}

    def see(self, it):
        if (is_view(it) and not is_look_up(it)) or (it.node is None and has_options(it.op)):
            return
        key = (it.op, *it.inputs, content(list(it.node.params.items())) if it.node else ())
        t, earlier = self.tallies[it.line, it.op.name, str(it)], self.done.get(key)
        t.ran += 1
        if earlier is not None and not earlier.walked:
            t.spared, t.size = t.spared + 1, t.size + it.y.size * (it.args[0].shape[-1] if is_product(it) else 1)
            return
        self.done[key] = it.result
        for known in filter(None, it.known):
            known.operations.append(key)

    def forget(self, known):
        for key in known.operations:
            self.done.pop(key, None)

    def findings(self, least):
        for (line, name, what), t in self.tallies.items():
            if t.spared >= least - 1:
                unit = "multiply-adds" if name in PRODUCTS else "numbers"
                said = (
                    f"{what} ran {t.ran:,} times where {t.ran - t.spared:,} would do. Do it once, before the loop, and "
                )
                said += f"use the result: {t.spared:,} operations and {t.size:,} {unit} less."
                yield Finding(1, str(line), said, t.ran, t.spared)


def is_view(it: Operation) -> bool:
    return getattr(it.y, "base", None) is not None and any(_owner(it.y) is _owner(_array(a)) for a in it.args)


def is_look_up(it: Operation) -> bool:
    """Whether it took one row of a parameter."""
    table = it.args[0]
    if it.op.name not in ("take", "getitem") or not is_parameter(table):
        return False
    if it.op.name == "getitem" and not hasattr(it.node and it.node.params["index"], "__index__"):
        return False
    return it.y.size * len(table) == table.size


# ---- (2) ----------------------------------------------------------------------------------------------------------


class OneByOne(Part):
    def __init__(self, identities: Identities):
        super().__init__()
        self.identities = identities
        self.open: dict[int, Known] = {}  # those that have groups

    def see(self, it):
        levels: dict[Line, int] = {}
        for known in filter(None, it.known):
            levels |= {line: max(n, levels.get(line, 0)) for line, n in known.levels.items()}
        level = levels.get(it.line, 0)
        if is_look_up(it):
            self.group(it, 0, content(list(it.node.params.values())) if it.node else object(), 0)
        elif is_product(it) and it.args[0].shape[-1] > 1:
            for shared, other in ((0, 1), (1, 0)):
                if is_vector(it.args[other]):
                    self.group(it, shared, it.inputs[other], level)
            levels[it.line] = level + 1
        if levels:
            for known in (it.node and it.node.where.known, self.identities[it.y]):
                if known:
                    known.levels = levels

    def group(self, it: Operation, shared: int, other: Any, level: int) -> None:
        """Notes a product with the argument `shared`, or a look-up in it. Of one level, none needs another's result."""
        known = it.known[shared]
        what = (it.line, it.op.name, str(it), shared, signature(it.args[shared]), it.inputs[shared])
        known.groups.setdefault(what, defaultdict(set))[level].add(other)
        self.open[known.number] = known

    def walk_begins(self):
        for known in list(self.open.values()):
            self.forget(known)

    def forget(self, known):
        for (*what, _), levels in known.groups.items():
            t = self.tallies[tuple(what)]
            for others in levels.values():
                t.ran, t.spared, t.most = t.ran + len(others), t.spared + len(others) - 1, max(t.most, len(others))
        known.groups.clear()
        self.open.pop(known.number, None)

    def findings(self, least):
        best: dict[tuple, tuple] = {}
        for (line, name, call, _, what), t in self.tallies.items():  # of two vectors either could be stacked
            best[line, name, call] = max((t.spared, t.ran, t.most, what), best.get((line, name, call), (-1,)))
        for (line, name, _), (spared, ran, most, what) in best.items():
            if most >= least:
                if name in PRODUCTS:
                    said = f"{name}: {ran:,} vectors times {what}, one by one. Concatenate them as columns and multiply"
                else:
                    said = f"{name}: {ran:,} rows of {what}, one by one. Look up all their ids"
                said += f" at once: {ran:,} operations become {ran - spared:,}."
                yield Finding(2, str(line), said, ran, spared)


def is_product(it: Operation) -> bool:
    return it.op.name in ("matmul", "linear") or (it.op.name == "dot" and not it.y.ndim)


def is_vector(a: Any) -> bool:
    return hasattr(a, "shape") and (a.ndim == 1 or (a.ndim == 2 and 1 in a.shape))


# ---- (3) ----------------------------------------------------------------------------------------------------------


class Moved(Part):
    def __init__(self):
        super().__init__()
        self.copies: dict[tuple, int] = defaultdict(int)  # of this stretch: (line, way) -> how many
        self.used = 0  # how many values its operations took from outside

    def see(self, it):
        self.used += sum(map(is_constant, it.args)) + has_options(it.op)

    def hear(self, kind: str, nbytes: int, device: str) -> None:
        line, inner = caller()
        asked, called = inner.f_locals.get("self"), inner.f_code.co_name
        if kind == "out" and type(asked) is Tensor:  # else a look that the library takes for itself
            self.used += 1
            if (note := note_of(asked._node)) and not note.result.walked:
                note.result.read = line
        elif kind != "in" or called in ("param", "Parameter", "__init__", "load_state_dict"):  # a model is no data
            return
        t = self.tallies[line, kind]
        t.ran, t.size, t.what = t.ran + 1, t.size + nbytes, device
        self.copies[line, kind] += 1

    def walk_begins(self):
        for at, copies in self.copies.items():
            t = self.tallies[at]
            t.spared, t.most = t.spared + copies - 1, max(t.most, copies if self.used >= copies else 0)
        self.copies.clear()
        self.used = 0

    def walked(self, node, gradients, line):
        note = note_of(node)
        if note and note.result.read and not note.result.walked:
            self.tallies[note.result.read, "early"].ran += 1

    def findings(self, least):
        for (line, way), t in self.tallies.items():
            if way == "early" and t.ran >= least:
                said = (
                    f"{t.ran:,} values were read before the graph behind them was walked back: on a GPU the CPU waits "
                )
                said += "for each, and the walk for the CPU. Read them after backward()."
                yield Finding(3, str(line), said, t.ran, t.ran)
            elif t.most >= least:
                did = "copied in" if way == "in" else "read back"
                each = "each is" if t.what != "cpu" else "on a GPU each is"
                mend = "Input the data for all before the loop" if way == "in" else "Read all of them at the end"
                said = f"values were {did} {t.ran:,} times, {in_bytes(t.size)}, up to {t.most:,} times between two "
                said += f"walks back; {each} a copy and a wait. {mend}: {t.spared:,} copies less."
                yield Finding(3, str(line), said, t.ran, t.spared)
