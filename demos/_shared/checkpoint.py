"""Where a long run stands, kept in a file, so that it can go on there: whole or not at all, and only as the same run.

    write_checkpoint(path, arrays, position, run)
    arrays, position = read_checkpoint(path, run)

`arrays` are what was learned, `position` is where it stands (numbers, kept to the last bit). `run` says what
the run is: name -> value of all that decides what will be learned. Who goes on with other values would get neither the
one run nor the other, so that is an error which names them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from _shared.errors import DemoError

import minigrad as mg


def write_checkpoint(path: str | Path, arrays: Mapping[str, np.ndarray], position: Mapping, run: Mapping) -> None:
    """Write it beside its place and rename it into it. Raises DemoError where the file cannot be written."""
    try:
        mg.save(path, arrays, {"position": dict(position), "run": _written(run)})
    except OSError as error:
        raise DemoError(f"cannot write {path}: {error.strerror}") from error


def read_checkpoint(path: str | Path, run: Mapping) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the position. Raises DemoError if there is none, it is damaged, or of another run than `run`."""
    try:
        arrays, notes = mg.storage.read(path)
        position, kept = notes["position"], notes["run"]
    except FileNotFoundError:
        raise DemoError(
            f"{path}: there is nothing to resume: leave out --resume, and a run will leave it there"
        ) from None
    except OSError as error:
        raise DemoError(f"cannot read {path}: {error.strerror}") from error
    except mg.storage.StorageError as error:
        raise DemoError(f"--resume: {error}") from error
    except (KeyError, TypeError):
        raise DemoError(f"--resume: {path} holds arrays, but no run of a demo") from None
    now = _written(run)
    others = [
        f"{name} was {kept.get(name)}, is {now.get(name)}"
        for name in {**kept, **now}
        if kept.get(name) != now.get(name)
    ]
    if others:
        raise DemoError(f"{path} is of another run: {'; '.join(others)}; leave out --resume to begin anew")
    return arrays, position


def _written(run: Mapping) -> dict[str, str]:
    return {name: str(value) for name, value in run.items()}
