"""The gradient of a look-up, and why a big vocabulary needs it.

A batch of n words looks up n rows of an embedding table W (V, d):   y_i = W[ids_i].   Then

    ∂L/∂W[v] = Σ_{i : ids_i = v} ∂L/∂y_i                                                                  (1)

is zero but for the (at most n) rows that were looked up. Written out it is a (V, d) array: with V = 1,000,000 and
d = 128 in float32, 512 MB to fill with zeros, and again to subtract, at each step, for a few kilobytes of news.
`Rows` writes down the news only: `ids` (n,), `values` (n, d), and the `shape` (V, d) that it stands for. Cost: O(n d)
in time and memory, V nowhere.

An id may occur twice in a batch. (1) is a sum, so the contributions accumulate; `W[ids] += values` would keep only
the last of them, without a word, which is the classic mistake.
"""

import math

from . import kernels
from .backend import device_of, on_cpu, type_of_array, xp_of
from .ids import check_ids
from .ledger import tell

MANY = 128  # rows, be they of one number, as a bias has: where they are updated, Numba is there for their table


def worth_a_kernel(out: type_of_array, values: type_of_array, least: int = 4096) -> bool:
    """Whether a Numba twin may write `values` into `out`, and they are `least` or more, so that loading it pays."""
    same = out.dtype == values.dtype and out.dtype.char in "fd"  # float32 or float64
    return on_cpu(out) and same and values.size >= least and out.flags.c_contiguous


def flat(array: type_of_array) -> type_of_array:
    """(n, …) as (n, m): the same memory, for kernels that take rows."""
    return array.reshape(len(array), math.prod(array.shape[1:]))


class Rows:
    """Some rows of an array of `shape` (V, ...): row `ids[i]` holds `values[i]`, other rows are zero.

    ids: (n,) integers in [0, V), in any order, repeated at will: values of equal ids add up.
    values: (n, *shape[1:]). checked: the ids were looked at, and are not again.
    """

    __slots__ = ("_parts", "shape")

    def __init__(self, ids: type_of_array, values: type_of_array, shape: tuple[int, ...], checked: bool = False):
        if ids.ndim != 1 or values.shape != ids.shape + tuple(shape[1:]):
            raise ValueError(
                f"minigrad.Rows: ids (n,) and shape {list(shape)} need values [n, {', '.join(map(str, shape[1:]))}]; "
                f"got ids {list(ids.shape)}, values {list(values.shape)}"
            )
        if not checked:
            check_ids("minigrad.Rows: ids", ids, shape[0])
        self._parts = [(ids, values)]  # rows added to these are listed behind them
        self.shape = tuple(shape)

    @property
    def ids(self) -> type_of_array:
        return self._merged()[0]

    @property
    def values(self) -> type_of_array:
        return self._merged()[1]

    def parts(self) -> list[tuple[type_of_array, type_of_array]]:
        """(ids, values) of the look-ups that these rows come from, if they are few: then nothing has to be moved."""
        return self._parts if len(self._parts) <= 8 else [self._merged()]

    def _merged(self):
        if len(self._parts) > 1:  # put off until somebody looks: n look-ups of one table cost O(n), not O(n²)
            ids, values = zip(*self._parts, strict=True)
            concatenate = xp_of(values[0]).concatenate
            self._parts = [(concatenate(ids), concatenate(values))]
        return self._parts[0]

    @property
    def dtype(self):
        return self._parts[0][1].dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes held: those of the ids and values, whatever V is."""
        return sum(ids.nbytes + values.nbytes for ids, values in self._parts)

    def __repr__(self) -> str:
        return f"Rows({len(self.ids)} of {self.dtype}{list(self.shape)})"

    def __add__(self, other):
        """Rows + Rows lists both; Rows + array is a new array."""
        if not isinstance(other, Rows):
            if other.shape != self.shape:
                raise ValueError(f"minigrad.Rows: cannot add shapes {list(self.shape)} and {list(other.shape)}")
            return self.add_to(other.copy())
        both = Rows(*self._parts[0], self.shape, checked=True)
        both._parts += self._parts[1:]
        both += other
        return both

    def __iadd__(self, other):
        if not isinstance(other, Rows):
            return self + other
        if other.shape != self.shape:
            raise ValueError(f"minigrad.Rows: cannot add shapes {list(self.shape)} and {list(other.shape)}")
        self._parts += other._parts
        return self

    __radd__ = __add__
    __array_ufunc__ = None  # array + Rows comes here too, instead of NumPy's looping over the rows

    def __mul__(self, scale: float) -> "Rows":
        """Every value times one number."""
        if getattr(scale, "ndim", 0):
            raise TypeError("minigrad.Rows: rows are scaled by a number, not by an array; write them out with .dense()")
        return Rows(self.ids, self.values * float(scale), self.shape, checked=True)

    __rmul__ = __mul__

    def astype(self, dtype) -> "Rows":
        return Rows(self.ids, self.values.astype(dtype), self.shape, checked=True)

    def add_to(self, out: type_of_array, scale: float = 1.0) -> type_of_array:
        """out += scale · self, in place: equation (1). `out` has the full shape. Returns `out`."""
        for ids, values in self.parts():
            _add_rows(out, ids, values, scale)
        return out

    def dense(self) -> type_of_array:
        """The array written out: O(V d)."""
        return self.add_to(xp_of(self.values).zeros(self.shape, self.dtype))

    def coalesce(self) -> "Rows":
        """The same rows, each id once and in rising order, its values summed in the order they came in."""
        (ids, values), xp = self._merged(), xp_of(self.values)
        if worth_a_kernel(values, values, MANY):
            unique, sums = xp.empty_like(ids), xp.empty_like(values)
            n = kernels.coalesce(ids, ids.argsort(kind="stable"), flat(values), unique, flat(sums))
            return Rows(unique[:n], sums[:n], self.shape, checked=True)
        tell("wait", 0, device_of(values))  # for how many they are
        unique, position = xp.unique(ids, return_inverse=True)
        sums = xp.zeros((len(unique), *self.shape[1:]), self.dtype)
        return Rows(unique, _add_rows(sums, position, values), self.shape, checked=True)


def add_rows(out: type_of_array, ids: type_of_array, values: type_of_array, scale: float = 1.0) -> type_of_array:
    """out[ids[i]] += scale · values[i] for every i, one after the other, in place; equal ids accumulate.

    out (V, ...), ids (n,) in [0, V), values (n, ...). Returns `out`.
    """
    check_ids("minigrad.add_rows: ids", ids, len(out))
    return _add_rows(out, ids, values, scale)


def _add_rows(out: type_of_array, ids: type_of_array, values: type_of_array, scale: float = 1.0) -> type_of_array:
    if worth_a_kernel(out, values):
        kernels.add_rows(flat(out), ids, flat(values), out.dtype.type(scale))
    else:
        xp_of(out).add.at(out, ids, values if scale == 1.0 else values * out.dtype.type(scale))
    return out
