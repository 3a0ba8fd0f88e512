"""What must be true of each chapter's pure function: one file a chapter, used by its tests and by `losses.check`."""

from dataclasses import dataclass
from typing import Any, Protocol


class Property(Protocol):
    def __call__(self, function: Any, *example: Any) -> None: ...


@dataclass(frozen=True)
class Lesson:
    """One thing that must hold, the step of the derivation it is, and what to learn if it doesn't.

    examples() gives a Hypothesis strategy of tuples; holds(function, *example) raises AssertionError if it does not.
    option: a keyword of the function that this is about; functions without it are let off.
    """

    name: str
    step: str
    lesson: str
    examples: Any
    holds: Property
    option: str | None = None


@dataclass(frozen=True)
class Chapter:
    """A chapter's pure function, `module.function`, and its suite."""

    name: str
    module: str
    function: str
    signature: str
    lessons: tuple[Lesson, ...]
