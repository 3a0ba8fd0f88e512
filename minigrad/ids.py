"""Is this id in the table?  NumPy counts negative ids from the end, CuPy wraps all that are out of range, silently.

So whoever takes ids from outside looks at them first, at the door: the functions inside trust them. That costs a pass
over them, and on a GPU a wait, since an error needs the numbers on the CPU. Mostly the wait is spared: ids come from
main memory, where one can look before they are copied; and what has been looked at once need not be again.
"""

from collections import OrderedDict
from typing import Any

from .backend import asarray_like, np, on_cpu, to_cpu, type_of_array, xp_of

_known: OrderedDict = OrderedDict()  # id(array) -> (array on a GPU, its least number, its greatest)
_REMEMBERED = 32  # arrays; they are held, so that none but they have their id()


def check_ids(name: str, ids: type_of_array, size: int) -> None:
    """Raises unless `ids` are integers in [0, size): TypeError or IndexError, beginning with `name`.

    On a GPU it waits for the device, unless this array, or one of which it is a view, is among the last that were
    looked at.
    """
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {ids.dtype}")
    if not ids.size:
        return
    low, high = (int(ids.min()), int(ids.max())) if on_cpu(ids) else _range_on_gpu(ids, size)
    if low < 0 or high >= size:
        raise IndexError(f"{name} must lie in [0, {size}), got {low if low < 0 else high}")


def placed_ids(name: str, ids: Any, size: int, like: type_of_array) -> type_of_array:
    """`ids`, a number, a list or an array, as an int64 copy that lies where `like` does, checked by `check_ids`.

    Those in main memory are looked at there, before they are copied to a GPU: nothing has to wait.
    """
    if not hasattr(ids, "dtype"):
        ids = np.asarray(ids, dtype="int64" if ids in ([], ()) else None)
    check_ids(name, ids, size)
    copy = ids.astype("int64")  # a buffer that the caller may fill again before the walk back
    if on_cpu(copy) and on_cpu(like):
        return copy
    placed = asarray_like(copy, like)
    if not on_cpu(placed):
        low, high = (0, 0) if not ids.size else (int(ids.min()), int(ids.max())) if on_cpu(ids) else (0, size - 1)
        _remember(placed, low, high)
    return placed


def _range_on_gpu(ids: type_of_array, size: int) -> tuple[int, int]:
    whole = ids if ids.base is None else ids.base
    if id(whole) in _known:
        _, low, high = _known[id(whole)]
        if low >= 0 and high < size:
            return low, high  # and so it is for a part of it
    both = xp_of(ids).stack([ids.min(), ids.max()]).astype("int64")
    low, high = to_cpu(both).tolist()
    _remember(ids, low, high)
    return low, high


def _remember(ids: type_of_array, low: int, high: int) -> None:
    _known[id(ids)] = ids, low, high
    if len(_known) > _REMEMBERED:
        _known.popitem(last=False)
