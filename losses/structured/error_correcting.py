"""Error-correcting codes: predict more bits than a word needs, so that some of them may be wrong.

A binary code (`binary_code.py`) makes each bit a guess of its own, and with one wrong guess of log₂ V the word is
another. Oda, Arthur, Neubig, Yoshino, Nakamura ("Neural Machine Translation via Binary Code Prediction", ACL 2017),
and for classifiers before them Dietterich and Bakiri ("Solving Multiclass Learning Problems via Error-Correcting Output
Codes", JAIR 1995), have the model predict a longer code, with redundancy, and look for the word whose code is nearest
to what was predicted. On the slide: encode to train, decode to generate.

    V    words; each has a number w below V, of K = ⌈log₂ V⌉ bits     h    the context, d numbers
    r    memory: how many earlier bits the encoder remembers          z_b  the score of code bit b: P(1 | h) = σ(z_b)
    n    bits of a code word, 2 (K + r);  c_w  those of number w      δ    how many bits two codes differ in at least
    u_t  the bit that goes in at time t                               ⊕    exclusive or: the sum of bits modulo 2

The code.
    (1)  If any two code words differ in δ bits or more, then up to e = ⌊(δ − 1)/2⌋ wrong bits leave the right word the
         nearest: it is at most e away, every other at least δ − e > e. One more may lead astray.
    (2)  Convolution: the number's bits u₀ … u_{K−1}, the greatest power first, go into a register that holds a bit and
         the r before it, and then r zeros, until it is empty again. For each bit that goes in two come out, i = 0, 1,
         sums modulo 2 of some of the r + 1. They lie side by side, as bits b = 2t + i of the code word:
              c_{2t+i} = ⊕_j p_{i,j} u_{t−j},      u_j = 0 for j < 0 and j ≥ K.
         The taps p are written in octal, the newest bit's first, as in MATLAB's poly2trellis(7, [171 133]):
         171 = 1 111 001 adds up u_t, u_{t−1}, u_{t−2}, u_{t−3}, u_{t−6}.
    (3)  It is linear, code(a ⊕ b) = code(a) ⊕ code(b), so two words differ where code(a ⊕ b) has ones, and δ is the
         least number of ones in a code word other than that of number 0. With the usual taps:
              memory r       2       3        4        5         6
              taps         5, 7   15, 17   23, 35   53, 75   171, 133
              δ              5       6        7        8        10
              corrects e     2       2        3        3         4

Finding the word.
    (4)  The most probable word has the greatest Σ_b c_b z_b, or, what is the same (`codes.py` (2)), the least cost: the
         sum of |z_b| over the bits that are not as the sign of z_b says. If all |z_b| are 1 that counts wrong bits, and
         (1) holds. (That is to decide each bit first, "hard".) As they are they say more: wrong bits that together are
         less sure than any one of the others are overruled, whichever δ − 1 they are; not always δ. (Dietterich and
         Bakiri take the least Σ_b |σ(z_b) − c_b| instead.) To try all words costs V n.
    (5)  What comes out next depends on the r + 1 bits in the register, a window x = (u_t, u_{t−1} … u_{t−r}). Of what
         was before, only the last r bits, the state s = (u_{t−1} … u_{t−r}), can still matter. So of all beginnings
         that arrive in s only the cheapest, of cost(s), can be that of the cheapest word (Viterbi, IEEE Transactions on
         Information Theory 13, 1967). As numbers of r + 1 and of r bits, a window x comes from the state x mod 2^r and
         goes to ⌊x/2⌋, where 2s and 2s + 1 meet. One bit later, then,
              cost′(s) = min over x in {2s, 2s + 1} of  cost(x mod 2^r) + (what the two bits cost that x puts out).
    (6)  It begins in state 0. In the end the register is empty, so it ends there: the r zeros let half of the states
         go on each time, until one is left. Viterbi writes down who won each time and traces the way back. But a number
         has few bits: each state can carry its cheapest beginning's, 2 · number + u_t, among equals the smaller.
    (7)  Not every word of the code is one: if V < 2^K only numbers below V count. Let those beginnings be free that are
         below V already, whatever follows. At first there are none, but one path of V's own bits; at each 1 of V a
         branch leaves it with a 0 instead, and is free. (If V = 2^K all are free from the start.)
    (8)  The k best: keep the k cheapest beginnings in each state instead of one.
    (9)  Of all 2^n strings of n bits V are words, so Σ_w P(c_w) is less than 1, and P(c_w) not yet the probability of w
         among words. (5) to (7) find the sum as well: let a bit cost −log P(bit b is c_b), and take Σ e^−cost where
         they took the least cost. Then
              log P(w | h) = log P(c_w) − log Σ_v P(c_v),      which adds up to one over the words.
         It is differentiable: the slope of log Σ_v P(c_v) by z_b is P(bit b is 1 | the bits are a word's) − σ(z_b).

What redundancy mends, and what it does not. The loss is that of `binary_code.py`, of n bits.
    (10) No channel flips bits here. They are wrong as in `binary_code.py` (5): what is learned for each is its average
         over words, q_b = Σ_w P(w | h) c_b(w). If no word has more than ½ the signs may be no word's. Of 011, 101, 110
         at ⅓ each the plain code makes 111; with any r a right word wins. For P = softmax(3 · normal numbers) and
         V = 64 the averages name the best word in 70 % of cases, and with r = 2 and 6 in 89 and 93 %.
    (11) The loss does not see (9). Bits that repeat the same evidence are counted each time, and (9) is too sure of
         itself: with r = 3 the three words have ⅔, ⅙, ⅙. It ranks words. To have probabilities, minimise
         −log P(w | h) of (9) itself (`log_prob_of`): then they are ⅓ each.
    (12) All taps begin and end with 1: c₀ = c₁ = u₀, and the last two bits are u_{K−1} both. Two rows learn twice what
         others do, and err with them; the rank of `binary_code.py` (9) is n − 2 at most, still more than K.

Cost: 3 n d multiply-adds to learn from a token. To find the best word 2^(r+1) (K + 1) − 2 windows are looked at, an
addition each and a comparison for two; for the sum, an exponential more; for the k best, k times as many. V is nowhere
but in K, unless P of all words is asked for, or V is so small, or k so large, that to try all words is less work. For
V = 65,536: n = 16 bits without redundancy, 44 with r = 6.
"""

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

# the taps of both outputs by memory, the newest bit's the highest; and in how many bits two words differ at least
POLYNOMIALS = {2: (0o5, 0o7), 3: (0o15, 0o17), 4: (0o23, 0o35), 5: (0o53, 0o75), 6: (0o171, 0o133)}
DISTANCE = {2: 5, 3: 6, 4: 7, 5: 8, 6: 10}


# ---- the code ------------------------------------------------------------------------------------------------------


def encode(bits: type_of_array, *, memory: int) -> type_of_array:
    """(2): bits (…, K) in the order they go in -> their code word (…, 2 (K + memory)) uint8.

    bits: integers or booleans, 0 and 1; whether they are others nobody looks.
    """
    memory, dtype = checked_memory("losses.encode", memory), getattr(bits, "dtype", type(bits).__name__)
    if getattr(dtype, "kind", "") not in tuple("iub"):
        raise TypeError(f"losses.encode: bits must be an array of integers or booleans, got {dtype}")
    bits = bits.astype("uint8")
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


def limit_path(num_words: int, num_bits: int, memory: int) -> tuple[tuple[int, int], ...]:
    """(7): for each bit of V the window in which V's path goes on, and that in which a 0 for a 1 leaves it, or −1."""
    path, state = [], 0
    for t in reversed(range(num_bits)):
        bit = num_words >> t & 1
        path.append((bit << memory | state, state if bit else -1))
        state = path[-1][0] >> 1
    return tuple(path)


# ---- the naive way: all words ----------------------------------------------------------------------------------------


def most_probable_naive(bit_scores: type_of_array, codes: type_of_array, k: int) -> tuple[Any, Any]:
    """(4) as it stands: bit_scores (B, n), the codes of all words (V, n) -> the k best (B, k), and their log P(c)."""
    log_probs = log_prob_of_codes(bit_scores, codes)  # (B, V)
    numbers = best(log_probs, k)
    return numbers, xp_of(log_probs).take_along_axis(log_probs, numbers, axis=1)


# ---- the derived way: the cheapest path through the trellis ----------------------------------------------------------


def viterbi(bit_scores: type_of_array, *, memory: int, num_words: int | None = None) -> type_of_array:
    """The number of the most probable code word, (5) to (7): bit_scores (B, 2 (K + memory)) -> (B,) int64.

    num_words: V, if only the numbers below V are words; None for all 2^K. Among equals it is the smallest number.
    """
    num_bits = checked_length("losses.viterbi: bit_scores", bit_scores, checked_memory("losses.viterbi", memory))
    num_words = 1 << num_bits if num_words is None else whole("losses.viterbi: num_words", num_words)
    if num_words > 1 << num_bits:
        raise ValueError(f"losses.viterbi: num_words must be at most 2^{num_bits} for {num_bits} bits, got {num_words}")
    return cheapest(bit_scores, 1, memory=memory, num_words=num_words)[0][:, 0]


def checked_length(name: str, bit_scores: Any, memory: int, num_bits: int | None = None) -> int:
    """K, for scores of 2 (K + memory) bits. num_bits: how many it must be; None for any."""
    shape, dtype = getattr(bit_scores, "shape", ()), getattr(bit_scores, "dtype", type(bit_scores).__name__)
    length = shape[1] // 2 - memory if len(shape) == 2 and shape[1] % 2 == 0 else 0
    if getattr(dtype, "kind", "") != "f" or not 1 <= length <= 63 or num_bits not in (None, shape[1]):
        wanted = f"(B, {num_bits})" if num_bits else f"(B, 2 (K + {memory})) with K from 1 to 63"
        raise ValueError(f"{name} must be an array of floating-point numbers {wanted}, got {dtype}{list(shape)}")
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
    return xp.minimum(number[:, 0], num_words - 1), cost[:, 0]  # where scores are NaN, any, but of a word


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
    """(9), log Σ P(c) of all words: (B, n) -> (B,). Of an array, or of a tensor, and then differentiable."""
    z = bit_scores.data if isinstance(bit_scores, mg.Tensor) else bit_scores
    xp, (batch, n), states = xp_of(z), bit_scores.shape, 1 << memory
    num_bits, outputs = n // 2 - memory, outputs_like(z, memory)
    total, limit = xp.full((batch, states), NOTHING, z.dtype), xp.zeros(batch, z.dtype)
    total[:, 0] = 0.0 if num_words == 1 << num_bits else NOTHING
    path = limit_path(num_words, num_bits, memory)
    for t in range(n // 2):
        pair = bit_scores[:, 2 * t : 2 * t + 2]
        step = -(mg.softplus(pair) @ (1.0 - outputs).T + mg.softplus(-pair) @ outputs.T)  # log P of the two bits
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
    if not (arguments := for_kernel(bit_scores, memory, num_words, k)):
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
    kernels.sum_of_paths(*arguments, sums)  # of e^−cost, the cost that of (4)
    small, logs = sums < 1e-200, xp.log(xp.maximum(sums, 1e-200)).astype(z.dtype)
    logs -= mg.softplus(-abs(z)).sum(axis=1)  # the best string of bits: codes.py (2)
    if small.any():  # where the kernel may have lost something
        logs[small] = log_sum_of_paths(z[small], memory=memory, num_words=num_words)
    return mg.tensor(logs)


def for_kernel(bit_scores: type_of_array, memory: int, num_words: int, k: int = 1) -> tuple[Any, ...] | None:
    """What the kernels take; None if the array code is to do it. Measured in what is done: 2^r k for each score."""
    if not worth_a_kernel(bit_scores, bit_scores, max(1, (1 << 14 >> memory) // k)):
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
        if self.num_words > 1 << 63:
            raise ValueError(f"losses.ConvolutionalCode: num_words must be at most 2^63, got {num_words}")
        self.memory = checked_memory("losses.ConvolutionalCode", memory)
        self.num_information_bits = max(1, (self.num_words - 1).bit_length())  # K
        self.num_bits = 2 * (self.num_information_bits + self.memory)
        self.distance = DISTANCE[self.memory]
        self.corrects = (self.distance - 1) // 2

    def bits(self, numbers):
        return encode(in_binary(numbers, self.num_information_bits), memory=self.memory)

    def best(self, scores, k):
        checked_length("losses.ConvolutionalCode.best: scores", scores, self.memory, self.num_bits)
        whole("losses.ConvolutionalCode.best: k", k, most=self.num_words)
        if k * self.num_bits << self.memory > 16 * self.num_words:  # measured: from here on lists are more work
            return most_probable_naive(scores, self.bits(xp_of(scores).arange(self.num_words)), k)
        numbers, costs = cheapest(scores, k, memory=self.memory, num_words=self.num_words)
        return numbers, -mg.softplus(-abs(scores)).sum(axis=1, keepdims=True) - costs  # (4)

    def log_mass(self, scores):
        checked_length("losses.ConvolutionalCode.log_mass: scores", scores, self.memory, self.num_bits)
        return log_sum(scores, memory=self.memory, num_words=self.num_words)


class ErrorCorrectingCode(BinaryCode):
    """Error-correcting codes for `vocab_size` words and contexts of `dim` numbers: weight (n, d), a row for each bit.

    memory: 2 to 6, see `ConvolutionalCode`. bit_loss, counts, key, bias, and the order of equals: see `BinaryCode`.
    """

    def __init__(self, vocab_size: int, dim: int, *, memory: int = 6, **options: Any):
        if "codebook" in options:
            raise TypeError("losses.ErrorCorrectingCode: the codebook is a ConvolutionalCode; BinaryCode takes any")
        super().__init__(vocab_size, dim, codebook=partial(ConvolutionalCode, memory=memory), **options)


# In PyTorch. The trap: scores > 0 first, then the code that differs in the fewest bits. That forgets how sure the model
# is of each bit (4). And the loss is not −log P(w | h): that takes the sum over the words (9), as log_softmax does.
IN_PYTORCH = """
import torch
import torch.nn.functional as F

out = torch.nn.Linear(d, codes.shape[1])                  # codes (V, n): each word's, as floats 0 and 1

scores = out(hidden)                                      # (B, n)
losses = F.binary_cross_entropy_with_logits(scores, codes[targets], reduction="none").sum(dim=1)
losses.mean().backward()

log_prob = F.log_softmax(scores @ codes.T, dim=1)         # (B, V): V n a context, what the trellis does without
best = log_prob.argmax(dim=1)
"""
