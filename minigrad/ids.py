"""Is this id in the table?  NumPy counts negative ids from the end, CuPy wraps all that are out of range, silently.

So whoever takes ids from outside looks at them first, at the door: the functions inside trust them. (Negative ids are
an error in `take` and in every loss; only W[ids], as in NumPy, counts them from the end.) That costs a pass over them,
and on a GPU a wait, since an error needs the numbers on the CPU. Mostly the wait is spared: ids come from main memory,
where one can look before they are copied; and what has been looked at once is not again. So an array of ids on a GPU
must not be written into: nobody would look.
"""

import weakref
from typing import Any

from . import backend

_known: dict[int, tuple] = {}  # id(array) -> (its weak reference, its least number, its greatest), while it lives


def check_ids(name: str, ids: Any, size: int) -> None:
    """Raises unless `ids` are integers in [0, size): TypeError or IndexError, beginning with `name`.

    On a GPU it waits for the device, unless this array, or one of which it is a view, is known: it came from
    main memory, or was looked at before.
    """
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {ids.dtype}")
    if not ids.size:
        return
    low, high = _range_on_gpu(ids, size) if backend.on_gpu(ids) else (int(ids.min()), int(ids.max()))
    if low < 0 or high >= size:
        raise IndexError(f"{name} must lie in [0, {size}), got {low if low < 0 else high}")


def placed_ids(name: str, ids: Any, size: int, like: Any) -> Any:
    """`ids`, a number, a list or an array, as an int64 copy that lies where `like` does, checked by `check_ids`.

    Those in main memory are looked at there, before they are copied to a GPU: nothing has to wait.
    """
    if not hasattr(ids, "dtype"):
        ids = backend.np.asarray(ids, dtype="int64" if ids in ([], ()) else None)
    check_ids(name, ids, size)
    placed = ids.astype("int64")  # a buffer that the caller may fill again before the walk back
    if backend.on_gpu(like) or backend.on_gpu(ids):
        placed = backend.asarray_like(placed, like)
    if backend.on_gpu(ids):
        note_range(placed, 0, size - 1)
    return placed


def least_id(ids: Any, size: int) -> int:
    """The least of them, 0 if there are none: whether some count from the end. size: that of the table they are for."""
    if not ids.size:
        return 0
    return _range_on_gpu(ids, size)[0] if backend.on_gpu(ids) else int(ids.min())


def check_index(name: str, index: tuple, shape: tuple[int, ...]) -> None:
    """IndexError if an array of integers in an index, on a GPU, names what its axis, of n places, has not: [−n, n)."""
    takes = [0 if part is None else getattr(part, "ndim", 1) if _is_mask(part) else 1 for part in index]
    axis = 0
    for part, axes in zip(index, takes, strict=True):
        if part is Ellipsis:
            axes = len(shape) - sum(takes) + 1  # all that nobody else takes
        elif backend.on_gpu(part) and part.dtype.kind in "iu" and part.size and axis < len(shape):
            low, high = _range_on_gpu(part, shape[axis])
            if low < -shape[axis] or high >= shape[axis]:
                wrong = low if low < -shape[axis] else high
                raise IndexError(f"{name}: index {wrong} is out of bounds for axis {axis} with size {shape[axis]}")
        axis += axes


def _is_mask(part: Any) -> bool:
    return getattr(getattr(part, "dtype", None), "kind", "") == "b"


def remember(array: Any, host: Any) -> None:
    """Notes the range of integers that go to a GPU, of which `host` is the original in main memory."""
    if host.dtype.kind in "iu" and host.size:
        note_range(array, int(host.min()), int(host.max()))


def _range_on_gpu(ids: Any, size: int) -> tuple[int, int]:
    for array in (ids, ids.base):
        if id(array) in _known:
            _, low, high = _known[id(array)]
            if low >= 0 and high < size:
                return low, high  # and so it is for a part of it
    both = backend.xp_of(ids).stack([ids.min(), ids.max()]).astype("int64")
    low, high = backend.to_cpu(both).tolist()
    note_range(ids, low, high)
    return low, high


def note_range(ids: Any, low: int, high: int) -> None:
    """Notes that ids on a GPU lie in [low, high], and what else shows a part of their memory."""
    if backend.on_gpu(ids):
        key = id(ids)
        _known[key] = weakref.ref(ids, lambda _: _known.pop(key, None)), low, high
