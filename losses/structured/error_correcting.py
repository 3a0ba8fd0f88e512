"""Page."""

from functools import cache, partial
from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import type_of_array, xp_of
from minigrad.rows import worth_a_kernel

from ..layer import best
from . import kernels
from .binary_code import BinaryCode
from .codes import Codebook, in_binary, log_prob_of_codes

POLYNOMIALS = {2: (0o5, 0o7), 3: (0o15, 0o17), 4: (0o23, 0o35), 5: (0o53, 0o75), 6: (0o171, 0o133)}
DISTANCE = {2: 5, 3: 6, 4: 7, 5: 8, 6: 10}


# ---- the code ------------------------------------------------------------------------------------------------------


def encode(bits: type_of_array, *, memory: int) -> type_of_array:
    """(2): bits (…, K), each 0 or 1, in the order they go in -> their code word (…, 2 (K + memory)) uint8."""
    memory, bits = checked_memory("losses.encode", memory), bits.astype("uint8")
    code = xp_of(bits).zeros((*bits.shape[:-1], bits.shape[-1] + memory, 2), "uint8")
    for i, polynomial in enumerate(POLYNOMIALS[memory]):
        for delay in range(memory + 1):
            if polynomial >> (memory - delay) & 1:
                code[..., delay : delay + bits.shape[-1], i] ^= bits
    return code.reshape((*bits.shape[:-1], -1))


def checked_memory(name: str, memory: Any) -> int:
    if whole(f"{name}: memory", memory) not in POLYNOMIALS:
        raise ValueError(f"{name}: memory must lie in 2 to 6, got {memory}")
    return int(memory)


@cache
def window_outputs(memory: int) -> tuple[tuple[int, int], ...]:
    """The two bits that come out at each window of `memory` + 1 bits, the newest first: 2^(memory + 1) pairs."""
    return tuple(tuple((w & p).bit_count() & 1 for p in POLYNOMIALS[memory]) for w in range(2 << memory))


@cache
def limit_path(num_words: int, num_bits: int, memory: int) -> tuple[tuple[int, int], ...]:
    """(7): for each bit of V the window in which V's path goes on, and that in which a 0 for a 1 leaves it, or −1."""
    path, state = [], 0
    for t in reversed(range(num_bits)):
        bit = num_words >> t & 1
        path.append((bit << memory | state, state if bit else -1))
        state = path[-1][0] >> 1
    return tuple(path)


# ---- the naive way: all words ----------------------------------------------------------------------------------------


def nearest_naive(bit_scores: type_of_array, k: int, *, memory: int, num_words: int, num_bits: int) -> type_of_array:
    """(4) as it stands, for each of V words: bit_scores (B, n) -> the k best numbers (B, k)."""
    numbers = xp_of(bit_scores).arange(num_words)
    return best(log_prob_of_codes(bit_scores, encode(in_binary(numbers, num_bits), memory=memory)), k)


# ---- the derived way: the cheapest path through the trellis ----------------------------------------------------------


def viterbi(bit_scores: type_of_array, *, memory: int, num_words: int | None = None) -> type_of_array:
    """The number of the most probable code word, (5) to (7): bit_scores (B, 2 (K + memory)) -> (B,) int64.

    num_words: V, if only the numbers below V are words; None for all 2^K. Among equals it is the smallest number.
    """
    num_bits = checked_length(bit_scores, checked_memory("losses.viterbi", memory))
    num_words = 1 << num_bits if num_words is None else whole("losses.viterbi: num_words", num_words)
    if num_words > 1 << num_bits:
        raise ValueError(f"losses.viterbi: num_words must be at most 2^{num_bits} for {num_bits} bits, got {num_words}")
    return cheapest(bit_scores, 1, memory=memory, num_words=num_words)[0][:, 0]


def checked_length(bit_scores: type_of_array, memory: int) -> int:
    """K, for scores of 2 (K + memory) bits."""
    length = bit_scores.shape[1] // 2 - memory if bit_scores.ndim == 2 and bit_scores.shape[1] % 2 == 0 else 0
    if bit_scores.dtype.kind != "f" or length < 1:
        raise ValueError(
            f"losses.viterbi: bit_scores must be floating-point numbers (B, 2 (K + {memory})) with K >= 1, "
            f"got {bit_scores.dtype}{list(bit_scores.shape)}"
        )
    return length


def cheapest_paths(bit_scores: type_of_array, k: int, *, memory: int, num_words: int) -> tuple[Any, Any]:
    """(5) to (8): bit_scores (B, n) -> the numbers of the k cheapest words (B, k) int64, their costs (B, k)."""
    xp, (batch, n), states = xp_of(bit_scores), bit_scores.shape, 1 << memory
    num_bits, outputs = n // 2 - memory, outputs_like(bit_scores, memory)
    cost, number = xp.full((batch, states, k), xp.inf, bit_scores.dtype), xp.zeros((batch, states, k), "int64")
    cost[:, 0, 0] = 0.0 if num_words == 1 << num_bits else xp.inf  # (6), or (7): none is free yet
    limit, path = xp.zeros(batch, bit_scores.dtype), limit_path(num_words, num_bits, memory)
    for t in range(n // 2):
        step = window_costs(bit_scores[:, 2 * t : 2 * t + 2], outputs)  # (B, 2^(r+1))
        if t < num_bits:  # a 0 or a 1 goes in
            cost, number = xp.concatenate([cost, cost], axis=1), xp.concatenate([2 * number, 2 * number + 1], axis=1)
        cost = cost + step[:, : cost.shape[1], None]  # (B, windows, k); at the end of those that begin with 0
        if t < num_bits:  # (7)
            on, off = path[t]
            if off >= 0:  # the branch takes the last place of its window's k, if it is better
                branch, last = limit + step[:, off], cost[:, off, -1]
                number[:, off, -1] = xp.where(branch < last, num_words >> (num_bits - 1 - t) ^ 1, number[:, off, -1])
                cost[:, off, -1] = xp.minimum(branch, last)
            limit = limit + step[:, on]
        meeting = batch, cost.shape[1] // 2, 2 * k  # windows 2s and 2s + 1 are neighbours
        cost, number = least(cost.reshape(meeting), number.reshape(meeting), k)
    return number[:, 0], cost[:, 0]


def window_costs(bit_scores: Any, outputs: type_of_array) -> Any:
    """(4) of two bits, if they are those of each window: (B, 2), (windows, 2) -> (B, windows)."""
    return mg.relu(bit_scores) @ (1.0 - outputs).T + mg.relu(-bit_scores) @ outputs.T


def outputs_like(bit_scores: type_of_array, memory: int) -> type_of_array:
    return xp_of(bit_scores).asarray(window_outputs(memory), dtype=bit_scores.dtype)


def least(cost: type_of_array, number: type_of_array, k: int) -> tuple[type_of_array, type_of_array]:
    """The k least costs along the last axis, least first, and among equals the smaller number first."""
    xp = xp_of(cost)
    if k == 1:  # of two
        (x, y), (m, n) = (cost[..., :1], cost[..., 1:]), (number[..., :1], number[..., 1:])
        second = (y < x) | ((y == x) & (n < m))
        return xp.where(second, y, x), xp.where(second, n, m)
    for decides in (1, 0):  # first by the number, then by the cost: what counts more comes last
        order = xp.argsort((cost, number)[decides], axis=-1, kind="stable")
        cost, number = (xp.take_along_axis(a, order, axis=-1) for a in (cost, number))
    return cost[..., :k], number[..., :k]


def log_sum_of_paths(bit_scores: Any, *, memory: int, num_words: int) -> Any:
    """(9), log Σ e^−cost of all words: (B, n) -> (B,). Of an array, or of a tensor, and then differentiable."""
    z = bit_scores.data if isinstance(bit_scores, mg.Tensor) else bit_scores
    xp, (batch, n), states = xp_of(z), bit_scores.shape, 1 << memory
    num_bits, outputs = n // 2 - memory, outputs_like(z, memory)
    total, limit = xp.full((batch, states), NOTHING, z.dtype), xp.zeros(batch, z.dtype)
    total[:, 0] = 0.0 if num_words == 1 << num_bits else NOTHING
    path = limit_path(num_words, num_bits, memory)
    for t in range(n // 2):
        step = -window_costs(bit_scores[:, 2 * t : 2 * t + 2], outputs)
        if t < num_bits:
            total = mg.concat([total, total], axis=1)
        total = total + step[:, : total.shape[1]]
        meeting = mg.reshape(total, (batch, -1, 2))
        if t < num_bits:
            on, off = path[t]
            if off >= 0:
                branch = mg.where(xp.arange(states) == off >> 1, mg.reshape(limit + step[:, off], (batch, 1)), NOTHING)
                meeting = mg.concat([meeting, mg.reshape(branch, (batch, states, 1))], axis=2)
            limit = limit + step[:, on]
        total = mg.logsumexp(meeting, axis=2)
    return total[:, 0]


NOTHING = -1e30  # the logarithm of a probability of nothing; not −∞, for ∞ − ∞ is not a number


# ---- the fast way: kernels, and a codebook ---------------------------------------------------------------------------


def cheapest(bit_scores: type_of_array, k: int, *, memory: int, num_words: int) -> tuple[Any, Any]:
    """`cheapest_paths`, on the CPU by a kernel where there is enough to do."""
    if not (arguments := for_kernel(bit_scores, memory, num_words)):
        return cheapest_paths(bit_scores, k, memory=memory, num_words=num_words)
    xp, width = xp_of(bit_scores), "int32" if bit_scores.itemsize == 4 and num_words < 1 << 31 else "int64"
    numbers, costs = xp.empty((len(bit_scores), k), width), xp.empty((len(bit_scores), k), bit_scores.dtype)
    (kernels.cheapest_path if k == 1 else kernels.cheapest_paths)(*arguments, numbers, costs)
    return numbers.astype("int64"), costs


def log_sum(bit_scores: Any, *, memory: int, num_words: int) -> Any:
    """`log_sum_of_paths`, on the CPU by a kernel where there is enough to do and no derivative is wanted."""
    z = bit_scores.data
    if bit_scores.requires_grad or not (arguments := for_kernel(z, memory, num_words)):
        return log_sum_of_paths(bit_scores, memory=memory, num_words=num_words)
    xp = xp_of(z)
    sums = xp.empty(len(z), "float64")
    kernels.sum_of_paths(*arguments, sums)
    small, logs = sums < 1e-200, xp.log(xp.maximum(sums, 1e-200)).astype(z.dtype)
    if small.any():  # where the kernel may have lost something
        logs[small] = log_sum_of_paths(z[small], memory=memory, num_words=num_words)
    return mg.tensor(logs)


def for_kernel(bit_scores: type_of_array, memory: int, num_words: int) -> tuple[Any, ...] | None:
    """What the kernels take; None if the array code is to do it."""
    if not worth_a_kernel(bit_scores, bit_scores, 1 << 16 >> memory):
        return None
    xp, num_bits = xp_of(bit_scores), bit_scores.shape[1] // 2 - memory
    path = xp.asarray(limit_path(num_words, num_bits, memory), dtype="int64")
    return bit_scores, xp.asarray(window_outputs(memory), dtype="int64"), path, num_words == 1 << num_bits


class ConvolutionalCode(Codebook):
    """Code words for the numbers 0, 1, …, num_words − 1, of K bits, at least one: 2 (K + memory) bits. memory: 2 to 6.

    Two of them differ in `distance` bits or more; `corrects` wrong bits, whichever, are put right (1), (3).
    """

    def __init__(self, num_words: int, *, memory: int = 6):
        self.num_words = whole("losses.ConvolutionalCode: num_words", num_words)
        self.memory = checked_memory("losses.ConvolutionalCode", memory)
        self.num_information_bits = max(1, (self.num_words - 1).bit_length())  # K
        self.num_bits = 2 * (self.num_information_bits + self.memory)
        self.distance = DISTANCE[self.memory]
        self.corrects = (self.distance - 1) // 2

    def bits(self, numbers):
        return encode(in_binary(numbers, self.num_information_bits), memory=self.memory)

    def best(self, scores, k):
        if whole("losses.ConvolutionalCode.best: k", k) > self.num_words:
            raise ValueError(f"losses.ConvolutionalCode.best: k must lie in 1 to {self.num_words}, got {k}")
        numbers, costs = cheapest(scores, k, memory=self.memory, num_words=self.num_words)
        return numbers, -mg.softplus(-abs(scores)).sum(axis=1, keepdims=True) - costs  # (4)

    def log_mass(self, scores):
        sums = log_sum(scores, memory=self.memory, num_words=self.num_words)
        return sums - mg.softplus(-abs(scores)).sum(axis=1)  # (9)


class ErrorCorrectingCode(BinaryCode):
    """Error-correcting codes for `vocab_size` words and contexts of `dim` numbers: weight (n, d), a row for each bit.

    memory: 2 to 6, see `ConvolutionalCode`. bit_loss, counts, key, bias, and the order of equals: see `BinaryCode`.
    """

    def __init__(self, vocab_size: int, dim: int, *, memory: int = 6, **options: Any):
        super().__init__(vocab_size, dim, codebook=partial(ConvolutionalCode, memory=memory), **options)
