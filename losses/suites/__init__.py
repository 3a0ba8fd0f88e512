"""What must be true of each chapter's pure function: one file a chapter, used by its tests and by `losses.check`."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Property(Protocol):
    def __call__(self, function: Any, *example: Any) -> None: ...


def close(found: Any, expected: Any, what: str, tolerance: float = 1e-9) -> None:
    """AssertionError, which names `what`, unless both have one shape and are equal to `tolerance`, relative or not."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{what} has shape {found.shape}, expected {expected.shape}"
    assert np.allclose(found, expected, rtol=tolerance, atol=tolerance), (
        f"{what} is {found.tolist()}, expected {expected.tolist()}"
    )


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
