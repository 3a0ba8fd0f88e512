"""Is this the array that was here before? Which line of the program asked for it?

What the advisor (`advisor.py`) has to know of arrays, nodes and lines, so that it can count.

Python's `id` is no answer to the first: of an array that has died another may inherit it. So each array, and each node,
has a number while it lives, and no other ever has that one. A weak reference tells when an array dies; a node has a
note in its `where`, which dies with it and says so. Nothing is kept alive by being known.

Two arguments are the same input if they are the same array, and it has not changed: a parameter if its version is the
same, which every update raises (a write into its array, W.data[0] = …, nobody sees); a constant, which anybody may fill
anew, if what is in it is (on a GPU nobody looks, for that would be a copy); the result of an operation never changes.
"""

import inspect
import linecache
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from .backend import on_gpu
from .debug import HERE
from .tape import Op
from .tensor import Tensor, _array
from .walk import walk


class Line(NamedTuple):
    """A line of somebody's program."""

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        source = linecache.getline(self.file, self.number).strip()
        return f"{Path(self.file).name}:{self.number}, in {self.function}: {source}"


def in_a_walk() -> bool:
    """Whether this is done on a walk's behalf: by rules of which a graph is made, or by a checkpoint, once more."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not walk.__code__:
        frame = frame.f_back
    return frame is not None


def caller() -> tuple[Line, FrameType]:
    """The line that called into this library, and the frame of the function that it called."""
    inner = sys._getframe(1)
    while inner.f_back is not None and inner.f_back.f_code.co_filename.startswith(HERE):
        inner = inner.f_back
    at = scope = inner.f_back or inner
    while scope.f_code.co_name in ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>") and scope.f_back:
        scope = scope.f_back
    return Line(at.f_code.co_filename, at.f_lineno, scope.f_code.co_name), inner


class Known:
    """An array or a node, as long as it lives, and what the advisor writes down about it."""

    def __init__(self, number: int):
        self.number = number
        self.operations: list = []  # that were done on it
        self.levels: dict = {}  # line -> how many products of that line led here, one after the other
        self.groups: dict = {}  # what it was multiplied with, or looked up in it
        self.kept = False  # whether it is among the bytes that nodes keep


@dataclass
class Result:
    """Of an operation: has a walk passed it, was another operation done on it, and on which line was it read before?"""

    walked: bool = False
    used: bool = False
    read: Line | None = None


class Note(str):
    """The line that made a node, in the node's `where`: it lives as long as the node, and calls `died` at the end."""

    def __new__(cls, line: Line, known: Known, result: Result, died: Callable):
        note = super().__new__(cls, line)
        note.line, note.known, note.result, note.died, note.nbytes = line, known, result, died, 0
        return note

    def __del__(self):
        self.died(self)


def note_of(node: Any) -> Note | None:
    note = getattr(node, "where", None)
    return note if isinstance(note, Note) else None


class Identities:
    """`identities[a]` is what is known of a tensor or an array; None for a number. forget: called when one dies."""

    def __init__(self, forget: Callable):
        self.number, self.forget = count(1).__next__, forget
        self._found: dict[int, tuple] = {}  # id -> (weak reference, Known)

    def __getitem__(self, a: Any) -> Known | None:
        if type(a) is Tensor and (note := note_of(a._node)):
            return note.known
        for thing in (a._data, a) if type(a) is Tensor else (a,):
            reference, known = self._found.get(id(thing), (None, None))
            if reference is not None and reference() is thing:
                return known
            try:
                reference = weakref.ref(thing, partial(self._died, id(thing)))
            except TypeError:
                continue  # a number; but the tensor around it is none
            self._found[id(thing)] = reference, Known(self.number())
            return self._found[id(thing)][1]
        return None

    def _died(self, name: int, reference: Any) -> None:
        if self._found[name][0] is reference:  # else another has inherited the id already
            self.forget(self._found.pop(name)[1])

    def input(self, a: Any, known: Known | None) -> tuple:
        """What tells an argument from all others, and from itself after a change."""
        if known is None:
            return type(a), content(a)
        leaf, array = a._leaf if type(a) is Tensor else None, _array(a)
        filled = content(array) if is_constant(a) and not on_gpu(array) else None
        return known.number, 0 if leaf is None else leaf._version, filled


def is_constant(a: Any) -> bool:
    """Whether it is data: an array, or a tensor that is neither a parameter nor the result of an operation."""
    return a._leaf is not None and not a.requires_grad if type(a) is Tensor else hasattr(a, "shape")


def is_parameter(a: Any) -> bool:
    return type(a) is Tensor and a.requires_grad and a._node is None


def content(value: Any) -> Any:
    """A constant, or options of an operation, as something to compare: arrays by what is in them, but on a GPU nothing
    is equal."""
    if hasattr(value, "tobytes"):
        return object() if on_gpu(value) else (value.shape, hash(value.tobytes()))
    return tuple(map(content, value)) if isinstance(value, tuple | list) else repr(value)


@lru_cache
def has_options(op: Op) -> bool:
    """Whether there are options, or it cannot be told: of a checkpoint."""
    return op.forward is None or any(
        p.kind is p.KEYWORD_ONLY for p in inspect.signature(op.forward).parameters.values()
    )
