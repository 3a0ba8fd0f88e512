"""What a demo leaves behind: a table on the screen, and a JSON with the numbers.

No file is ever half written: each is finished beside its place and then renamed into it.
"""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import IO

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_NUMBER = re.compile(r"([-+−~≈]?\d[\d,.]*(e[-+]?\d+)? ?\S{0,8}|nan|-?inf)")  # "1,234", "2.5 ms", "3.1×", "12 words/s"


def table(title: str, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output. Columns of numbers (a unit may follow) stand on the right.

    A row is a sequence of strings, numbers, booleans and None (nothing was measured). Into a pipe goes plain text as
    wide as it must be, whatever COLUMNS or FORCE_COLOR say.
    """
    rows = [[cell_text(cell) for cell in row] for row in rows]
    if any(len(row) != len(headers) for row in rows):
        raise ValueError(f"every row of {title!r} must have {len(headers)} cells, as its header has")
    grid = Table(title=Text(title, style="bold"), box=box.SIMPLE_HEAD, title_justify="left")
    for column, header in enumerate(headers):
        cells = [row[column] for row in rows if row[column] not in ("–", "")]
        on_right = bool(cells) and all(_NUMBER.fullmatch(cell) for cell in cells)
        grid.add_column(Text(header), justify="right" if on_right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    on_terminal = sys.stdout.isatty()
    Console(
        file=sys.stdout,
        force_terminal=on_terminal,
        color_system="auto" if on_terminal else None,
        width=None if on_terminal else 10_000,
    ).print(grid)


def cell_text(value: object) -> str:
    """Write one value for people: whole numbers in full, others with four digits."""
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        return f"{float(value):,.0f}" if 1000 <= abs(value) < 1e15 else f"{float(value):.4g}"
    return str(value)


@contextmanager
def atomic_write(path: str | Path, *, binary: bool = False) -> Iterator[IO]:
    """Give a file to write in. It takes its place at `path` when the block ends well; otherwise nothing has changed."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with beside.open("xb") if binary else beside.open("x", encoding="utf-8", newline="\n") as file:
            yield file
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, values: dict) -> None:
    """Write a dictionary as JSON; NumPy's scalars and arrays become numbers and lists.

    Raises ValueError where a number is NaN or infinite, which JSON cannot say, and TypeError for what is no data;
    both name the place.
    """
    text = json.dumps(_plain(values, "values"), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text + "\n")


def _plain(value: object, where: str) -> object:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: JSON has no such number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def environment() -> dict:
    """Say where the numbers were measured."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": _version("numba"),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)  # importing Numba to ask would take a second
    except importlib.metadata.PackageNotFoundError:
        return None
