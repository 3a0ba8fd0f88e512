"""The slides' "Bad" patterns, each as a class that watches for it, and what exactly each of them counts.

A walk back divides a program into stretches: before it lies what was computed with one state of the parameters.

(1) Done again: an operation on the same inputs (`identity.py` says what is the same). What a walk has passed is used up
    and must be done again; a view computes nothing; a row looked up is for (2). The options of an operation that leaves
    no node are not known: those that have any are left out.
(2) One by one: vectors of one stretch that are multiplied with the same array, rows that are looked up in the same
    table. In a chain h ← tanh(W h) each product needs the one before; of several chains those at one place count.
(3) Moved again and again: copies of one stretch, if as many operations were done in it. So one copy for a batch is as
    it should be, and one for each of its words is not. A value is read early if the graph behind it is still to be
    walked: the CPU waits for the value, and the walk for the CPU.
(4) Kept: a graph, when it dies and no walk has passed it; and of results that live on after their walk the most at
    once, for `losses.append(loss)` keeps each graph, `loss.item()` a number.
(5) float64: constants that are cast to float32 at each use, and parameters, in a program that knows float32.
(6) Dense: the gradient of a whole table by a product with one-hot vectors (on a GPU not looked at); by a number or a
    mask as index (it is `Rows` by `take`, and by arrays of integers); by a look-up in what was computed from a table;
    and for an optimiser that moves rows which nobody looked up.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .arguments import signature
from .backend import on_cpu
from .debug import _arrays, _owner
from .identity import (
    Identities,
    Known,
    Line,
    Note,
    Result,
    caller,
    content,
    has_options,
    is_constant,
    is_parameter,
    note_of,
)
from .ledger import in_bytes
from .rows import Rows
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
    saved: of (1) to (3) how many operations or copies, of (4) to (6) how many bytes.
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
    most: int = 0  # at once
    now: int = 0
    walks: int = -1  # how many walks there had been
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
        if is_view(it) or is_look_up(it) or (it.node is None and has_options(it.op)):
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
            if t.spared >= least:
                unit = "multiply-adds" if name in PRODUCTS else "numbers to compute"
                said = f"{what} ran {t.ran:,} times, on {t.ran - t.spared:,} different inputs. Do it once for each, "
                said += f"before the loop, and use the result: {t.spared:,} operations and {t.size:,} {unit} less."
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
        if kind == "in" and called not in ("param", "Parameter", "__init__", "load_state_dict"):  # a model is no data
            self.copies[line, "in"] += 1
        elif kind == "out" and type(asked) is Tensor:  # else a look that the library takes for itself
            self.copies[line, "out"] += 1
            self.used += 1
            if asked._node is not None and asked._node.saved is not None:
                kind = "early"
        else:
            return
        for way in {kind, "out"} if kind == "early" else {kind}:
            t = self.tallies[line, way]
            t.ran, t.size, t.what = t.ran + 1, t.size + nbytes, device

    def walk_begins(self):
        for at, copies in self.copies.items():
            t = self.tallies[at]
            t.spared, t.most = t.spared + copies - 1, max(t.most, min(copies, self.used))
        self.copies.clear()
        self.used = 0

    def findings(self, least):
        for (line, way), t in self.tallies.items():
            each = "on a GPU each is a copy and a wait" if t.what == "cpu" else "each is a copy and a wait"
            if way == "early" and t.ran >= least:
                said = f"{t.ran:,} values ({in_bytes(t.size)}) were read while the graph behind them was still to be "
                yield Finding(3, str(line), f"{said}walked; {each}. Read them after backward().", t.ran, t.ran)
            elif t.most >= least:
                did = "copied in" if way == "in" else "read back"
                mend = (
                    "Input the data for all of them before the loop" if way == "in" else "Read all of them at the end"
                )
                said = f"values were {did} {t.ran:,} times ({in_bytes(t.size)}), up to {t.most:,} times between two "
                yield Finding(
                    3, str(line), f"{said}walks back; {each}. {mend}: {t.spared:,} copies less.", t.ran, t.spared
                )


# ---- (4) ----------------------------------------------------------------------------------------------------------


class Graphs(Part):
    def __init__(self, identities: Identities):
        super().__init__()
        self.identities, self.closed, self.loose = identities, False, 0
        self.alive: dict[tuple, int] = defaultdict(int)  # (line, walked) -> results that no operation has used

    def see(self, it):
        if it.node is None:
            return
        for a in it.args:
            if type(a) is Tensor and is_parameter(a._leaf):
                self.identities[_owner(a._data)].kept = True  # a parameter's memory is no node's
        note = it.node.where
        for array in _arrays(it.node.saved):
            known = self.identities[array] or Known(0)
            note.nbytes, known.kept = note.nbytes + (0 if known.kept else array.nbytes), True
        self.alive[note.line, False] += 1
        for parent in map(note_of, it.node.parents):
            if parent and not parent.result.used:
                parent.result.used = True
                self.alive[parent.line, parent.result.walked] -= 1

    def walked(self, node, gradients, line):
        note = note_of(node)
        if note is None or note.result.walked:
            return
        note.result.walked = True
        if not note.result.used:
            self.alive[note.line, False] -= 1
            self.alive[note.line, True] += 1
            t = self.tallies[note.line, "walked"]
            t.ran, t.most = t.ran + 1, max(t.most, self.alive[note.line, True])

    def died(self, note: Note) -> None:
        if self.closed:
            return
        if not note.result.walked:
            self.loose += note.nbytes  # of what led to a result, which dies after it
        if note.result.used:
            return
        if not note.result.walked:
            t = self.tallies[note.line, "not walked"]
            t.ran, t.size, t.most = t.ran + 1, t.size + self.loose, max(t.most, self.alive[note.line, False])
            self.loose = 0
        self.alive[note.line, note.result.walked] -= 1

    def findings(self, least):
        for (line, kind), t in self.tallies.items():
            if kind == "not walked" and t.ran >= least:
                said = (
                    f"{t.ran:,} graphs, up to {t.most:,} at once, kept {in_bytes(t.size)} in all for a walk back that "
                )
                said += "never came. Compute it under `with mg.no_grad():`, or keep .item(), not the tensor."
                yield Finding(4, str(line), said, t.ran, t.size)
            elif kind == "walked" and t.most >= least:
                said = (
                    f"{t.most:,} results are alive at once after their walk back, each with the graph that led to it. "
                )
                yield Finding(4, str(line), f"{said}Keep .item(), not the tensor.", t.ran, t.most)


# ---- (5) ----------------------------------------------------------------------------------------------------------


class Wide(Part):
    def __init__(self):
        super().__init__()
        self.float32 = False

    def see(self, it):
        for a in it.args:
            dtype = str(getattr(a, "dtype", ""))
            self.float32 |= dtype == "float32" and a.size > 1
            if dtype == "float64" and a.size > 1 and (is_parameter(a) or str(it.y.dtype) == "float32"):
                t = self.tallies[it.line, is_parameter(a), signature(a)]
                t.ran, t.size = t.ran + 1, 4 * a.size + (0 if is_parameter(a) else t.size)

    def findings(self, least):
        for (line, parameter, what), t in self.tallies.items():
            if t.ran >= least and parameter and self.float32:
                said = f"a parameter {what}, used {t.ran:,} times; others here are float32. "
                yield Finding(5, str(line), f'{said}Make it mg.param(…, dtype="float32").', t.ran, t.size)
            elif t.ran >= least and not parameter:
                said = f"a constant {what} was cast to float32 {t.ran:,} times. "
                yield Finding(5, str(line), f'{said}Cast it once: mg.tensor(…, dtype="float32").', t.ran, t.size)


# ---- (6) ----------------------------------------------------------------------------------------------------------


class Dense(Part):
    def see(self, it):
        if it.op.name not in ("matmul", "linear") or not is_constant(it.args[0]) or not is_parameter(it.args[1]):
            return
        table, rows = it.args[1], rows_picked(_array(it.args[0]))
        if table.ndim == 2 and rows:
            of_these = rows / table.shape[0 if it.op.name == "matmul" else 1]
            mend = "The product with one-hot vectors is a look-up: mg.take(table, ids)"
            self.count(it.line, table, round(of_these * in_full(table)), mend)

    def walked(self, node, gradients, line):
        table, g = node.parents[0], gradients[0]
        if node.op.name == "getitem" and is_parameter(table):
            index = node.params["index"]
            if hasattr(index, "__index__"):  # a number; or an array, here a mask
                mend = "Look the rows up: mg.take(table, ids), of a mask ids = mask.nonzero()[0]"
                self.count(line, table, in_full(node), mend)
        elif node.op.name == "take" and type(table) is Node and type(g) is Rows:
            self.count(line, g, g.nbytes, "Look the rows up in the table itself, and compute with them")

    def written_out(self, rows: Rows) -> None:
        line, inner = caller()
        if inner.f_code.co_name == "step":
            name = type(inner.f_locals["self"]).__name__
            self.count(line, rows, rows.nbytes, f"{name} moves all rows: with lazy=True only those that were looked up")

    def count(self, line: Line, table: Any, needed: int, mend: str) -> None:
        if needed < in_full(table):
            t = self.tallies[line, signature(table), mend]
            t.ran, t.size = t.ran + 1, t.size + in_full(table) - needed

    def findings(self, least):
        for (line, what, mend), t in self.tallies.items():
            if t.ran >= least:
                said = f"the gradient of all of {what} was made {t.ran:,} times for a few of its rows, "
                yield Finding(6, str(line), f"{said}{in_bytes(t.size)} too many. {mend}.", t.ran, t.size)


def in_full(table: Any) -> int:
    """The bytes of all of it."""
    return math.prod(table.shape) * table.dtype.itemsize


def rows_picked(a: Any) -> int:
    """How many different rows a product with `a` picks, if its rows are one-hot; else 0."""
    if not on_cpu(a) or a.ndim not in (1, 2) or not a.size:
        return 0
    ones = (a == 1).reshape(-1, a.shape[-1])
    hot = bool((ones.sum(axis=1) == 1).all()) and not bool(((a != 0) & (a != 1)).any())
    return int(ones.any(axis=0).sum()) if hot else 0
