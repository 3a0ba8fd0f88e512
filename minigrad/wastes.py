"""What a program keeps or computes that nobody needs: classes that watch for it, beside those of `patterns.py`.

(4) Kept: a graph, when it dies and no walk has passed it; and of results that live on after their walk the most at
    once, for `losses.append(loss)` keeps each graph, `loss.item()` a number.
(5) float64: constants that are cast to float32 at each use, and parameters, in a program that knows float32.
(6) Dense: the gradient of a whole table by a product with one-hot vectors (on a GPU nobody looks); by a number or a
    mask as index (it is `Rows` by `take`, and by arrays of integers); by a look-up in what was computed from a table;
    and for an optimiser that moves rows which nobody looked up.
"""

import math
from collections import defaultdict
from typing import Any

from .arguments import signature
from .backend import on_cpu
from .debug import _arrays, _owner
from .identity import Identities, Known, Line, Note, caller, is_constant, is_parameter, note_of
from .ledger import in_bytes
from .patterns import Finding, Part
from .rows import Rows
from .tape import Node
from .tensor import _array

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
            if is_parameter(a):
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
        if note and not (note.result.walked or note.result.used):
            self.alive[note.line, False] -= 1
            self.alive[note.line, True] += 1
            t = self.tallies[note.line, "walked"]
            t.ran, t.most = t.ran + 1, max(t.most, self.alive[note.line, True])

    def died(self, note: Note) -> None:
        if self.closed:
            return
        walked, used = note.result.walked, note.result.used
        if not walked:
            self.loose += note.nbytes  # what led to a result dies before it does
        if not used and not walked:
            self.in_vain(note.line, 1, self.loose)
            self.loose = 0
        if not used:
            self.alive[note.line, walked] -= 1

    def in_vain(self, line: Line, graphs: int, nbytes: int) -> None:
        t = self.tallies[line, "in vain"]
        t.ran, t.size, t.most = t.ran + graphs, t.size + nbytes, max(t.most, self.alive[line, False])

    def close(self) -> None:
        for (line, walked), n in list(self.alive.items()):
            if n and not walked:
                self.in_vain(line, n, 0)
        self.closed = True

    def findings(self, least):
        for (line, kind), t in self.tallies.items():
            if kind == "in vain" and t.ran >= least:
                said = (
                    f"{t.ran:,} graphs, up to {t.most:,} at once, were never walked back; those that are gone had kept "
                )
                said += f"{in_bytes(t.size)}. Compute it under `with mg.no_grad():`, or keep .item(), not the tensor."
                yield Finding(4, str(line), said, t.ran, t.size)
            elif kind == "walked" and t.most >= least:
                said = f"{t.most:,} results were there at once after their walk back, each with its graph. "
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
