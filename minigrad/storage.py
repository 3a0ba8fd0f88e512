"""Named arrays in a file: whole or not at all, and never a pickle, which could run a stranger's code.

The file is NumPy's own .npz, a zip with an array in .npy format for each name, so `numpy.load` opens it too. Beside
them it holds `minigrad.json`: the version of this layout, the names, and what else was to be noted. A zip has a
checksum for each of its members: a file cut short or a flipped bit is noticed, not computed with.

It is written beside its place, forced to the disk, and then renamed: whoever is interrupted keeps the old file.
"""

import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import backend
from .tensor import Tensor

VERSION = 1
NOTES = "minigrad.json"
DAMAGE = (  # what a zip that isn't whole may end in
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    OSError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)


class StorageError(ValueError):
    """A file that is not what `save` writes: cut short, damaged, of another version, not ours."""


def save(path: str | Path, arrays: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
    """Writes named arrays (of NumPy or CuPy, or tensors: their values) and, as JSON, `notes`.

    Raises TypeError or ValueError, naming what cannot be kept, and OSError where the file cannot be written: then what
    was there before is there still.
    """
    path, kept = Path(path), {}
    for name, array in arrays.items():
        if not isinstance(name, str) or not name or not name.isprintable() or name + ".npy" == NOTES:
            raise ValueError(f"minigrad.save: a name must be a printable string, got {name!r}")
        array = backend.to_cpu(array.data if isinstance(array, Tensor) else array)
        if array.dtype.kind not in "biufc":
            raise TypeError(f"minigrad.save: {name} must hold numbers, got {array.dtype}")
        kept[name] = array
    text = json.dumps({"version": VERSION, "names": list(kept), "notes": dict(notes or {})}, allow_nan=False)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with beside.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as members:
                members.writestr(NOTES, text)
                for name, array in kept.items():
                    with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            raise type(error)(error.errno, f"minigrad.save: {error.strerror}", str(path)) from error
        raise


def load(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays that `save` wrote, by name, in main memory. StorageError for a file that isn't whole, or not ours."""
    return read(path)[0]


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays, and the notes that were saved with them."""
    with Path(path).open("rb") as file:
        try:
            with zipfile.ZipFile(file) as members:
                if NOTES not in members.namelist():
                    raise StorageError(f"minigrad.load: {path} holds no {NOTES}: minigrad.save did not write it")
                said = json.loads(members.read(NOTES))
                if said["version"] != VERSION:
                    raise StorageError(
                        f"minigrad.load: {path} has layout {said['version']}, and this minigrad reads layout {VERSION}"
                    )
                return {name: _array(members, f"{name}.npy") for name in said["names"]}, said["notes"]
        except StorageError:
            raise
        except DAMAGE as error:
            raise StorageError(
                f"minigrad.load: {path} is cut short, damaged or no file of minigrad.save: {error}"
            ) from error


def _array(members: zipfile.ZipFile, name: str) -> np.ndarray:
    with members.open(name) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):  # the checksum is compared when the end is reached
            raise StorageError(f"minigrad.load: {name} is longer than its array")
    return array
