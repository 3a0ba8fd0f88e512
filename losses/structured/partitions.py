"""Which word is in which class? The partitions of `class_based.py`, steps (4) to (7), and what each of them costs."""

import math
from typing import Any

from minigrad.arguments import whole
from minigrad.backend import asarray_like, np, read, to_cpu, type_of_array, xp_of
from minigrad.ids import placed_ids
from minigrad.rows import worth_a_kernel
from minigrad.rules import array_of

from ..samplers import checked_counts
from . import kernels
from .layer import by_frequency


def equal_size_classes(counts: Any, num_classes: int) -> type_of_array:
    """The class of each word, (V,): `num_classes` equally large ones, but for one word, in order of frequency (4)."""
    return _in_bins("equal_size_classes", counts, 0.0, num_classes)


def equal_mass_classes(counts: Any, num_classes: int) -> type_of_array:
    """The class of each word, (V,), in order of frequency: bins of equal probability (5); empty ones are dropped."""
    return _in_bins("equal_mass_classes", counts, 1.0, num_classes)


def sqrt_count_classes(counts: Any, num_classes: int | None = None) -> type_of_array:
    """The class of each word, (V,), in order of frequency: bins of equal Σ√count (6); empty ones are dropped.

    num_classes: `best_num_classes(counts)` unless given.
    """
    return _in_bins("sqrt_count_classes", counts, 0.5, best_num_classes(counts) if num_classes is None else num_classes)


def best_num_classes(counts: Any) -> int:
    """The number of bins of equal Σ√count that costs least, looked for from S = Σ√q on, up to 4 S + 16 and down.

    Where C classes are used, they cost C + S²/C at least (6): when that is no less than the least found, it is enough.
    """
    counts = to_cpu(checked_counts("losses.best_num_classes", counts))
    counts = counts[by_frequency(counts)]
    S = float((frequencies(counts) ** 0.5).sum())
    cost, best, start = math.inf, 1, min(max(round(S), 1), len(counts))
    for numbers in (range(start, min(4 * start + 16, len(counts)) + 1), range(start - 1, 0, -1)):
        for number in numbers:
            classes = sqrt_count_classes(counts, number)
            cost, best = min((cost, best), (expected_rows(counts, classes), number))
            used = int(classes.max()) + 1  # some bins may be empty
            if used + S**2 / used >= cost:
                break
    return best


def best_classes(counts: Any) -> type_of_array:
    """The class of each word, (V,), in the order of frequency: the partition of the least `expected_rows` (7)."""
    counts = checked_counts("losses.best_classes", counts)
    order, xp = by_frequency(counts), xp_of(counts)
    mass = to_cpu(xp.concatenate([xp.zeros(1), frequencies(counts)[order].cumsum()]))  # Q_0 … Q_V
    if worth_a_kernel(mass, mass):
        last = xp_of(mass).empty(len(mass), "int64")
        kernels.best_cuts(mass, last)
    else:
        last = best_cuts_naive(mass)
    begins, j = xp_of(mass).zeros(len(mass) - 1, "int64"), len(mass) - 1
    while j > 0:
        j = int(last[j])
        begins[j] = 1
    return unsorted(asarray_like(begins.cumsum() - 1, counts), order)


def best_cuts_naive(mass: type_of_array) -> type_of_array:
    """(7): mass (V + 1,), Q_j -> (V + 1,), for the first j words where their last class begins. O(V²)."""
    xp = xp_of(mass)
    f, last, i = xp.zeros(len(mass)), xp.zeros(len(mass), "int64"), xp.arange(len(mass))
    for j in range(1, len(mass)):
        up_to_j = f[:j] + 1.0 + (mass[j] - mass[:j]) * (j - i[:j])
        last[j] = up_to_j.argmin()
        f[j] = up_to_j[last[j]]
    return last


def expected_rows(counts: Any, classes: Any) -> float:
    """C + Σ_w q(w) n_{c(w)}, (5): the rows that one token looks at, for classes (V,), the class of each word."""
    counts = checked_counts("losses.expected_rows", counts)
    classes, sizes = checked_classes("losses.expected_rows", classes, counts)
    return len(sizes) + float(read((frequencies(counts) * sizes[classes]).sum()))


def frequencies(counts: type_of_array) -> type_of_array:
    """q(w), (V,): of counts whose sum may overflow."""
    counts = counts / counts.max()
    return counts / counts.sum()


def _in_bins(name: str, counts: Any, power: float, num_classes: int) -> type_of_array:
    """Bins of equal Σ count^power: each word, in order of frequency, is in the bin where the middle of its part is."""
    counts = checked_counts(f"losses.{name}", counts)
    whole(f"losses.{name}: num_classes", num_classes, most=len(counts))
    order, xp = by_frequency(counts), xp_of(counts)
    weight = frequencies(counts)[order] ** power  # 0⁰ = 1
    middle = weight.cumsum() - 0.5 * weight
    bins = xp.minimum(middle * (num_classes / weight.sum()), num_classes - 1).astype("int64")
    return unsorted(xp.concatenate([xp.zeros(1, "int64"), bins[1:] > bins[:-1]]).cumsum(), order)  # no empty ones


def unsorted(values: type_of_array, order: type_of_array) -> type_of_array:
    """values[i] for the word order[i], as an array by words."""
    found = xp_of(order).empty_like(values)
    found[order] = values
    return found


def sums(classes: type_of_array, values: Any, num_classes: int) -> type_of_array:
    """What the words of each class have together, (C,), of values (V,) or of one number for each."""
    found = xp_of(classes).zeros(num_classes, getattr(values, "dtype", "int64"))
    xp_of(classes).add.at(found, classes, values)
    return found


def checked_classes(name: str, classes: Any, counts: type_of_array) -> tuple[type_of_array, type_of_array]:
    """The class of each word (V,), and how many words each class has (C,), where `counts` is."""
    expected = f"{name}: classes must be {len(counts)} integers, the class of each word (so that none is in two)"
    try:
        given = array_of(classes) if hasattr(classes, "dtype") else np.asarray(classes)
    except ValueError:  # lists of different lengths
        raise ValueError(f"{expected}, got {classes!r:.60}") from None
    if given.shape != counts.shape:
        came = f"shape {list(given.shape)}" if given.ndim else f"{classes!r:.60}"
        raise ValueError(f"{expected}, got {came}")
    classes = placed_ids(f"{name}: classes", given, len(counts), counts)
    sizes = sums(classes, 1, int(read(classes.max())) + 1)
    if not read((sizes > 0).all()):
        empty = int(read(sizes.argmin()))
        raise ValueError(
            f"{name}: classes must be numbered 0, 1, …, C − 1, but no word is in class {empty} of 0 to {len(sizes) - 1}"
        )
    return classes, sizes
