"""`Key`: random numbers by counting, the same on the CPU, on a GPU and in every worker.

An ordinary generator is a state that each draw moves on, so its numbers depend on all the draws before. A
counter-based one has no state: word i is a function of the key and of i alone,

    word(key, i) = f_key(i),   f_key a bijection of 64-bit blocks that looks random.                      (1)

Hence any part of a stream can be computed anywhere, in any order: by another worker, on another device, again after
an interruption. f is threefry2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as
1, 2, 3", SC 2011, §4.3): a block of two 32-bit words goes through

    x0 ← x0 + x1,   x1 ← (x1 rotated left by r) ⊕ x0,                                                     (2)

and after every four rounds another pair of the three key words k0, k1, k2 = k0 ⊕ k1 ⊕ 0x1BD11BDA is added, with the
number of the group.                                                                                      (3)

There is no global state and no hidden seed: whoever draws holds a key, and makes a new one for each purpose with
`fold`. The same key draws the same numbers, always.
"""

import math
from collections.abc import Callable
from typing import Any

from . import backend, cuda, kernels
from .arguments import shape_of, whole
from .backend import type_of_array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_MASK = 0xFFFFFFFF
_FOLD = 1 << 63  # counters of `fold` have this bit set, those of draws have not: the two never meet


def threefry2x32(key: tuple[int, int], x0: Any, x1: Any, wrap: Callable = lambda x: x) -> tuple[Any, Any]:
    """One block (x0, x1) through equations (2) and (3); x0, x1: uint32 arrays, or integers with a `wrap` to 32 bits."""
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    x0, x1 = wrap(x0 + k0), wrap(x1 + k1)
    for group in range(5):
        for r in _ROTATIONS[group % 2]:
            x0 = wrap(x0 + x1)  # (2)
            x1 = wrap((x1 << r) | (x1 >> (32 - r))) ^ x0
        x0 = wrap(x0 + schedule[(group + 1) % 3])  # (3)
        x1 = wrap(x1 + (schedule[(group + 2) % 3] + group + 1 & _MASK))
    return x0, x1


def words(key: tuple[int, int], n: int, start: int = 0) -> type_of_array:
    """Words start, …, start + n − 1 of the stream of `key`: (n,) uint32 on the current device."""
    xp = backend.xp()
    first = start // 2
    blocks = first + xp.arange((start + n + 1) // 2 - first, dtype=xp.uint64)
    low, high = (blocks & _MASK).astype(xp.uint32), (blocks >> 32).astype(xp.uint32)
    return xp.stack(threefry2x32(key, low, high), axis=1).ravel()[start % 2 :][:n]


class Key:
    """A source of random numbers without a state: the same key draws the same numbers.

    seed: an integer in [0, 2⁶⁴).
    """

    __slots__ = ("pair",)

    def __init__(self, seed: int):
        seed = _below("Key: seed", seed, 1 << 64)
        self.pair = (seed >> 32, seed & _MASK)

    def __repr__(self) -> str:
        return f"Key({self.pair[0]:#010x}, {self.pair[1]:#010x})"

    def __eq__(self, other) -> bool:
        return isinstance(other, Key) and self.pair == other.pair

    def __hash__(self) -> int:
        return hash(self.pair)

    def fold(self, *numbers: int) -> "Key":
        """A new key for these numbers, `key.fold(step, rank)`; each in [0, 2⁶³). Plain integers, no array call."""
        pair = self.pair
        for number in numbers:
            counter = _below("Key.fold: number", number, _FOLD) | _FOLD
            pair = threefry2x32(pair, counter & _MASK, counter >> 32, lambda x: x & _MASK)
        key = object.__new__(Key)
        key.pair = pair
        return key

    def bits(self, shape: int | tuple[int, ...]) -> type_of_array:
        """Uniform 32-bit words of this shape. A longer draw begins with the shorter one."""
        shape = shape_of("minigrad.Key: shape", shape)
        n, on_cpu = math.prod(shape), backend.get_device() == "cpu"
        if on_cpu and n < 8:  # too few to load Numba for; array code takes as long for 2 words as for 1,000
            return words(self.pair, n).reshape(shape)
        out = backend.xp().empty(n, "uint32")
        (kernels if on_cpu else cuda).threefry_words(*self.pair, out)
        return out.reshape(shape)

    def uniform(self, shape: int | tuple[int, ...] = (), dtype: str = "float32") -> type_of_array:
        """Uniform on [0, 1): multiples of 2⁻²⁴ in float32 (one word each), of 2⁻⁵³ in float64 (two words each)."""
        shape = shape_of("minigrad.Key: shape", shape)
        if dtype == "float32":
            return (self.bits(shape) >> 8).astype(dtype) * 2.0**-24
        if dtype != "float64":
            raise TypeError(f'minigrad.Key.uniform: dtype must be "float32" or "float64", got {dtype!r}')
        pairs = self.bits((*shape, 2))
        return ((pairs[..., 0] >> 5) * 67108864.0 + (pairs[..., 1] >> 6)) * 2.0**-53  # 2²⁶ = 67108864

    def integers(self, low: int, high: int, shape: int | tuple[int, ...] = ()) -> type_of_array:
        """Uniform int64 in [low, high): ⌊u · (high − low)⌋ of a 53-bit u, even to (high − low) · 2⁻⁵³."""
        low = whole("minigrad.Key.integers: low", low, -math.inf)
        high = whole("minigrad.Key.integers: high", high, -math.inf)
        if not -(2**63) <= low < high <= min(low + 2**52, 2**63 - 1):
            raise ValueError(f"minigrad.Key.integers: expected low < high <= low + 2**52, got {low} and {high}")
        return low + (self.uniform(shape, "float64") * (high - low)).astype("int64")

    def normal(self, shape: int | tuple[int, ...] = (), dtype: str = "float32") -> type_of_array:
        """Standard normal, by Box and Muller (1958): √(−2 log u₁) cos 2πu₂. Equal on all devices but for rounding."""
        shape = shape_of("minigrad.Key: shape", shape)
        xp = backend.xp()
        u = self.uniform((2, *shape), dtype)
        return xp.sqrt(-2.0 * xp.log1p(-u[0])) * xp.cos(2.0 * math.pi * u[1])

    def permutation(self, n: int) -> type_of_array:
        """The numbers 0, …, n − 1 in random order: (n,) int64."""
        return backend.xp().argsort(self.uniform(whole("minigrad.Key.permutation: n", n, 0), "float64"), kind="stable")


def _below(what: str, number: int, bound: int) -> int:
    number = whole(f"minigrad.{what}", number, -math.inf)
    if not 0 <= number < bound:
        raise ValueError(f"minigrad.{what} must lie in [0, 2**{bound.bit_length() - 1}), got {number}")
    return number
