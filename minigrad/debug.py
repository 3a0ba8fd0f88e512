"""Where did the NaN come from? What does the graph look like, and what does it keep?

One NaN turns all that follows into NaN, and shows at the end, as a loss. `anomaly` looks at every operation, there and
back, and stops at the first that makes one, with the line of code that called it:

    with mg.anomaly():
        loss = model(x)                     # AnomalyError: log(float32[64]) made a NaN; train.py:12, in model: …
        loss.backward()                     # or: the gradient of sqrt(float32[64]) …

It reads each result once more, and notes a line for each operation: for debugging, not for training.

`graph` shows the tape: each operation with its arguments, its shape, and the bytes its rules have kept until the walk
goes back. Those bytes, not the parameters, are what a deep network fills its memory with.
"""

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .arguments import signature
from .backend import read, xp_of
from .ledger import in_bytes
from .rows import Rows
from .tape import Node, watching
from .tensor import Tensor

HERE = str(Path(__file__).parent)


class AnomalyError(FloatingPointError):
    """An operation, or its gradient, has made a NaN."""


@contextmanager
def anomaly(*, infinite: bool = False) -> Iterator[None]:
    """Inside, the first operation of this thread that makes a NaN, there or back, raises `AnomalyError`.

    infinite: let infinities count as well; of themselves they may be right, as in log 0.
    The error names the operation and the line that called it; of a gradient, the line of the operation on the way
    there, if that was inside too.
    """
    with watching(_Watch(infinite)):
        yield


class _Watch:
    """What `anomaly` has the tape call after each operation, and the walk after each rule."""

    def __init__(self, infinite: bool):
        self.infinite = infinite

    def __call__(self, op: Any, args: tuple, y: Any, node: Node | None) -> None:
        where = code_outside()
        if node is not None and not hasattr(node, "where"):  # else the advisor has put a note there
            node.where = where
        if what := self.wrong(y):
            given = [i for i, a in enumerate(args, start=1) if self.wrong(a._data if type(a) is Tensor else a)]
            did = f"was given {what} as argument {given[0]}" if given else f"made {what}"
            raise AnomalyError(f"minigrad.anomaly: {op.name}({', '.join(map(signature, args))}) {did}; {where}")

    def gradients(self, node: Node, gradients: Any) -> None:
        for i, (parent, gradient) in enumerate(zip(node.parents, gradients, strict=True), start=1):
            if parent is not None and (what := self.wrong(gradient)):
                where = getattr(node, "where", "it was called outside of anomaly(), so its line is not known")
                raise AnomalyError(
                    f"minigrad.anomaly: the gradient of {node.op.name}, which gave {signature(node)}, "
                    f"by argument {i} holds {what}; {where}"
                )

    def wrong(self, a: Any) -> str:
        """What is wrong with these numbers; nothing, if "" comes back."""
        a = a.values if type(a) is Rows else a._data if type(a) is Tensor else a
        if getattr(getattr(a, "dtype", None), "kind", "") not in ("f", "c"):
            return ""
        xp = xp_of(a)
        if read(xp.isnan(a).any()):
            return "NaN"
        return "an infinity" if self.infinite and read(xp.isinf(a).any()) else ""


def code_outside() -> str:
    """The line that called into this library, and those that called it: `train.py:12, in loss: y = mg.log(x)`."""
    frames = [f for f in traceback.extract_stack(sys._getframe(1)) if not f.filename.startswith(HERE)]
    said = [f"{Path(f.filename).name}:{f.lineno}, in {f.name}: {f.line}" for f in reversed(frames[-4:])]
    return "\n    called at ".join(said)


# ---- the graph ----------------------------------------------------------------------------------------------------


class Graph:
    """What led to a tensor: print it for a table, `.dot()` for Graphviz.

    nodes: the operations, in the order in which they were done. leaves: the parameters they began with. kept: for each
    node the bytes it has been the first to keep, leaves' own memory not counted. bytes_kept: their sum, which is what
    the walk back will free.
    """

    def __init__(self, y: Tensor, names: Mapping[str, Tensor]):
        if not isinstance(y, Tensor):
            raise TypeError(f"minigrad.graph: expected a Tensor, got {type(y).__name__}")
        if y._node is None:
            raise ValueError(
                "minigrad.graph: this tensor is no result of an operation on a tensor that needs a gradient"
            )
        found, ahead = {}, [y._node]
        while ahead:
            at = ahead.pop()
            if id(at) not in found:
                found[id(at)] = at
                ahead += [p for p in getattr(at, "parents", ()) if p is not None]
        self.y = y
        self.nodes = sorted((n for n in found.values() if type(n) is Node), key=lambda n: n.number)
        self.leaves = [leaf for leaf in found.values() if type(leaf) is Tensor]
        called = {id(t): name for name, t in names.items()}
        self.name = {id(leaf): called.get(id(leaf), f"leaf{i}") for i, leaf in enumerate(self.leaves, start=1)}
        self.name |= {id(node): f"%{i}" for i, node in enumerate(self.nodes, start=1)}
        seen = {id(_owner(leaf._data)) for leaf in self.leaves}
        self.kept = [sum(a.nbytes for a in _arrays(node.saved) if _new(a, seen)) for node in self.nodes]
        self.bytes_kept = sum(self.kept)

    def __str__(self) -> str:
        rows = [(self.name[id(leaf)], "leaf", "", signature(leaf), "", "") for leaf in self.leaves]
        for node, kept in zip(self.nodes, self.kept, strict=True):
            of = ", ".join("constant" if p is None else self.name[id(p)] for p in node.parents)
            held = "freed" if node.saved is None else in_bytes(kept)
            line = getattr(node, "where", "").split("\n")[0]
            rows.append((self.name[id(node)], node.op.name, of, signature(node), held, line))
        rows.insert(0, ("", "operation", "of", "gives", "keeps", ""))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join([*map(str.ljust, row, widths), row[5]]).rstrip() for row in rows]
        return "\n".join([*lines, f"{len(self.nodes)} operations keep {in_bytes(self.bytes_kept)}"])

    def dot(self) -> str:
        """The graph in Graphviz's language: `dot -Tsvg`, or any of the viewers in the browser."""
        lines = ["digraph {", "  rankdir=BT; node [fontname=monospace, fontsize=10];"]
        ids = {id(at): f"n{i}" for i, at in enumerate([*self.leaves, *self.nodes])}
        for leaf in self.leaves:
            lines.append(f'  {ids[id(leaf)]} [shape=box, label="{self.name[id(leaf)]}\\n{signature(leaf)}"];')
        for node, kept in zip(self.nodes, self.kept, strict=True):
            held = "freed" if node.saved is None else f"keeps {in_bytes(kept)}"
            lines.append(f'  {ids[id(node)]} [shape=ellipse, label="{node.op.name}\\n{signature(node)}\\n{held}"];')
            lines += [f"  {ids[id(p)]} -> {ids[id(node)]};" for p in node.parents if p is not None]
        return "\n".join([*lines, "}"])

    __repr__ = __str__


def graph(y: Tensor, names: Mapping[str, Tensor] | None = None) -> Graph:
    """The tape that led to `y`: `print(mg.graph(loss))`, or `mg.graph(loss).dot()`.

    names: what to call the leaves, as {"W": W}. Ask before backward(): the walk frees what was kept.
    """
    return Graph(y, names or {})


def kept_by(args: tuple) -> str:
    """What the tapes behind the arguments of an operation keep: for the error when memory has run out."""
    nodes = {}
    for a in args:
        if type(a) is Tensor and a._node is not None:
            graph = Graph(a, {})
            nodes |= {id(node): (node, kept) for node, kept in zip(graph.nodes, graph.kept, strict=True)}
    biggest = sorted(nodes.values(), key=lambda pair: -pair[1])[:3]
    said = ", ".join(f"{in_bytes(kept)} by {node.op.name} for {signature(node)}" for node, kept in biggest if kept)
    return f"the tape keeps {in_bytes(sum(kept for _, kept in nodes.values()))}" + (
        f", the most {said}" if said else ""
    )


def _owner(array: Any) -> Any:
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array


def _arrays(saved: Any) -> Iterator[Any]:
    """All the arrays in what a node has saved, each as the one that owns its memory."""
    if isinstance(saved, tuple | list):
        for part in saved:
            yield from _arrays(part)
    elif hasattr(saved, "nbytes") and hasattr(saved, "shape"):
        yield _owner(saved)


def _new(array: Any, seen: set) -> bool:
    if id(array) in seen:
        return False
    seen.add(id(array))
    return True
