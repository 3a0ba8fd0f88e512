"""The reader's door: does *your* version of a chapter hold?

    python -m losses.check negative mine.py

runs the chapter's own suite on the function in your file. It answers, for the first thing that doesn't hold, with the
smallest example that shows it, the step of the derivation it breaks, and the lesson; and names what else breaks. Exit
status: 0 if all holds, 1 if something doesn't, 2 if the suite could not be run.

Your file defines a function with the name and the arguments of the chapter's: `python -m losses.check negative` without
a file prints them, and runs the suite on the project's own.
"""

import argparse
import copy
import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minigrad.backend import quiet

from .suites import (
    Chapter,
    Lesson,
    adaptive,
    binary_code,
    class_based,
    error_correcting,
    hard,
    hierarchical,
    hybrid,
    importance,
    in_batch,
    nce,
    negative,
    ranking,
    softmax,
    von_mises_fisher,
)

SAMPLED = softmax, importance, ranking, nce, negative, in_batch, hard
STRUCTURED = class_based, hierarchical, adaptive, binary_code, hybrid, error_correcting, von_mises_fisher
CHAPTERS = {page.CHAPTER.name: page.CHAPTER for page in SAMPLED + STRUCTURED}

WANTED = "the function is given NumPy's arrays, and must return arrays, or tensors of minigrad"


class CannotCheck(Exception):
    """The suite could not be run: no file, no function of that name, or one that is not about arrays."""


def smallest_failure(lesson: Lesson, function: Callable, max_examples: int = 200) -> tuple[tuple, Exception] | None:
    """The smallest example for which the lesson doesn't hold, and what went wrong there; None if it holds."""
    from hypothesis import Phase, given, settings

    failures = []

    @settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
    )
    @given(lesson.examples())
    def holds(example):
        try:
            lesson.holds(function, *copy.deepcopy(example))  # a copy: the function may write into what it is given
        except CannotCheck:
            raise
        except (Exception, SystemExit) as error:
            failures.append((example, error))
            raise

    try:
        holds()
    except (Exception, SystemExit):
        if not failures:
            raise  # not the function's fault
    return failures[-1] if failures else None  # Hypothesis ends with the smallest one it found


def load(path: str, chapter: Chapter) -> Callable:
    """The chapter's function as the file at `path` defines it."""
    if not Path(path).is_file():
        raise CannotCheck(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location("mine", path)
    if spec is None or spec.loader is None:
        raise CannotCheck(f"{path}: expected a Python file, with the ending .py")
    module = sys.modules["mine"] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).resolve().parent))  # it may import its neighbours, as a script may
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CannotCheck(f"{path}: running it raised {type(error).__name__}: {error}") from error
    function = getattr(module, chapter.function, None)
    if not callable(function):
        raise CannotCheck(f"{path}: expected a function {chapter.signature}; there is none of that name")
    try:
        inspect.signature(function)
    except ValueError:
        raise CannotCheck(f"{path}: expected a function {chapter.signature}; what it takes cannot be seen") from None
    return function


def _answers_in_arrays(function: Callable) -> Callable:
    """The function, but what only PyTorch can read is refused: its float32 isn't that of arrays."""

    @functools.wraps(function)
    def asked(*args, **options):
        try:
            found = function(*args, **options)
        except TypeError as error:
            if "must be Tensor, not numpy" in str(error):
                raise CannotCheck(f"{WANTED}: {str(error).splitlines()[0]}") from error
            raise
        parts = found if isinstance(found, tuple | list) else [found]
        if any(type(part).__module__.split(".")[0] == "torch" for part in parts):
            raise CannotCheck(f"{WANTED}; it returned tensors of PyTorch")
        return found

    return asked


@quiet()  # of overflows a wrong function would warn dozens of times
def check(chapter: Chapter, function: Callable, max_examples: int = 200, out: Callable = print) -> bool:
    """Runs the suite of `chapter` on `function` and tells of it; True if all holds.

    The first lesson that doesn't hold is told in full, the others after it by name.
    """
    function = _answers_in_arrays(function)
    takes = inspect.signature(function).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes)
    options = [None] + [parameter.name for parameter in takes]
    lessons, first_broken = iter(chapter.lessons), None
    for lesson in lessons:
        if not takes_any and lesson.option not in options:
            out(f"  –  {lesson.step} {lesson.name}: not run, your function takes no {lesson.option}=")
            continue
        if failure := smallest_failure(lesson, function, max_examples):
            first_broken = lesson
            break
        out(f"  ✓  {lesson.step} {lesson.name}")
    if first_broken is None:
        return True
    _tell(chapter, first_broken, function, *failure, out)
    others = [
        f"{lesson.step} {lesson.name}"
        for lesson in lessons
        if (takes_any or lesson.option in options) and smallest_failure(lesson, function, min(max_examples, 50))
    ]
    if others:
        out("\nWith it breaks: " + "; ".join(others))
    return False


def _tell(
    chapter: Chapter, lesson: Lesson, function: Callable, example: tuple, error: Exception, out: Callable
) -> None:
    """The smallest example for which a lesson doesn't hold, the step it breaks, and what there is to learn."""
    out(f"  ✗  {lesson.step} {lesson.name}\n\nThe smallest example that shows it:")
    names = list(inspect.signature(lesson.holds).parameters)[1:]
    for name, value in zip(names, example, strict=True):
        out(f"    {name} = {_plain(value)}")
    said = str(error).strip().split("\n")[0] if isinstance(error, AssertionError) else ""
    said = said or _raised(error, function)
    out(f"    {said}\n\nThe step it breaks: {lesson.step} of {chapter.module}\n{' '.join(lesson.lesson.split())}")


def _raised(error: Exception, function: Callable) -> str:
    """An exception and the line of the reader's file that raised it."""
    module = sys.modules.get(getattr(function, "__module__", ""))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == getattr(module, "__file__", None)]
    return f"line {lines[-1]} raised {error!r}" if lines else f"calling it, or using what it returned, raised {error!r}"


def _plain(value: Any) -> str:
    return repr(value.tolist() if hasattr(value, "tolist") else value)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m losses.check", description="Runs a chapter's suite on your version of it."
    )
    p.add_argument("chapter", choices=sorted(CHAPTERS), help="which chapter")
    p.add_argument("file", nargs="?", help="a Python file that defines the chapter's function; none: the project's own")
    p.add_argument("--examples", type=int, default=200, metavar="N", help="examples for each property (default 200)")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    chapter = CHAPTERS[args.chapter]
    if args.examples < 1:
        parser().error(f"--examples must be 1 or more, got {args.examples}")
    try:
        if importlib.util.find_spec("hypothesis") is None:
            raise CannotCheck("this needs Hypothesis: pip install hypothesis")
        if args.file:
            function = load(args.file, chapter)
        else:
            function = getattr(importlib.import_module(chapter.module), chapter.function)
        print(f"{chapter.signature}\n{args.file or chapter.module}:")
        return 0 if check(chapter, function, args.examples) else 1
    except CannotCheck as error:
        print(f"losses.check: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
