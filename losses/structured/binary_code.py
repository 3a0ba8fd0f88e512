"""Binary code prediction: give each word a number, and predict the number's bits, all at once.

(Page to come.)
"""

from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import type_of_array, xp_of

from ..layer import ScoreCost, of_scores
from .codes import Codebook, in_binary, log_prob_of_bits, log_prob_of_codes
from .layer import StructuredLayer, by_frequency

# ---- the naive way: the slide's formula, left to the engine ------------------------------------------------------


def binary_code_naive(bit_scores: Any, bits: type_of_array) -> Any:
    """(1) as it stands: bit_scores (B, n), bits (B, n) -> (B,). Infinite where a bit is 1 and its score −1000."""
    q, c = mg.sigmoid(bit_scores), bits.astype(bit_scores.dtype)
    return -mg.log(c * q + (1.0 - c) * (1.0 - q)).sum(axis=1)


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def binary_code(bit_scores: Any, *, bits: type_of_array, bit_loss: str = "cross_entropy") -> tuple[Any, Any]:
    """Loss and G = ∂L/∂z: bit_scores (B, n), the target's bits (B, n), 0 or 1 -> loss (B,), G (B, n).

    bit_loss: "cross_entropy", or "squared". Of arrays, or of tensors if it is to be differentiated again.
    """
    y = 2.0 * bits.astype(bit_scores.dtype) - 1.0  # 1 or −1
    wrong = mg.sigmoid(-y * bit_scores)  # |q − c|, the probability of the wrong bit
    if bit_loss == "cross_entropy":
        return mg.softplus(-y * bit_scores).sum(axis=1), -y * wrong
    if bit_loss == "squared":
        return (wrong * wrong).sum(axis=1), -2.0 * y * wrong * wrong * mg.sigmoid(y * bit_scores)
    raise ValueError(f'losses.binary_code: bit_loss must be "cross_entropy" or "squared", got {bit_loss!r}')


binary_code_loss = of_scores(binary_code)


# ---- the fast way: numbers below V, and a layer that has a row for each bit -----------------------------------------


class PlainCode(Codebook):
    """The numbers 0, 1, …, num_words − 1 in binary, of as many bits as the greatest of them has; at least one."""

    def __init__(self, num_words: int):
        self.num_words = whole("losses.PlainCode: num_words", num_words)
        self.num_bits = max(1, (self.num_words - 1).bit_length())  # ⌈log₂ V⌉
        self.full = self.num_words == 1 << self.num_bits  # every number of that many bits is a word's

    def bits(self, numbers):
        return in_binary(numbers, self.num_bits)

    def best(self, scores, k):
        if not 1 <= k <= self.num_words:
            raise ValueError(f"losses.PlainCode.best: k must lie in 1 to {self.num_words}, got {k}")
        numbers, cost = self._best_one(scores) if k == 1 else self._best_of_several(scores, k)
        return numbers, -mg.softplus(-abs(scores)).sum(axis=1, keepdims=True) - cost  # codes (2)

    def _best_one(self, scores):
        xp, n = xp_of(scores), self.num_bits
        powers = 1 << xp.arange(n - 1, -1, -1)
        signs = scores > 0
        number = (signs * powers).sum(axis=1, keepdims=True)  # (B, 1)
        if self.full:
            return number, xp.zeros(number.shape, scores.dtype)
        v, before = self._below(scores)
        unlike = xp.where(signs == v, 0.0, abs(scores)).astype(scores.dtype)
        cost = xp.where(v, unlike @ before + xp.maximum(scores, 0.0), xp.inf)  # (B, n)
        place = cost.argmin(axis=1)[:, None]  # among equals the first, which has the smaller numbers
        power = powers[place]
        number = (self.num_words // power - 1) * power + number % power
        return number, xp.take_along_axis(cost, place, axis=1)

    def _best_of_several(self, scores, k):
        xp = xp_of(scores)
        start = xp.zeros((len(scores), 1), "int64"), xp.zeros((len(scores), 1), scores.dtype)
        free, below = start, tuple(a[:, :0] for a in start)
        for i in range(self.num_bits):
            z = scores[:, -1 - i, None]
            with_0 = free[0], free[1] + xp.maximum(z, 0.0)
            with_1 = free[0] + (1 << i), free[1] + xp.maximum(-z, 0.0)
            if self.num_words >> i & 1:
                below = merge_best(with_0, (below[0] + (1 << i), below[1] + xp.maximum(-z, 0.0)), k)
            else:
                below = below[0], below[1] + xp.maximum(z, 0.0)
            free = merge_best(with_0, with_1, k)
        return free if self.full else below

    def log_mass(self, scores):
        xp = xp_of(scores.data)
        if self.full:
            return mg.tensor(xp.zeros(len(scores), scores.dtype))
        v, before = self._below(scores.data)
        alike = log_of_each_bit(scores, v)
        blocks = alike @ before - mg.softplus(scores)  # (B, n)
        return mg.logsumexp(mg.where(v, blocks, -xp.inf), axis=1)

    def _below(self, scores):
        """V in binary, (n,) booleans; and (n, n): 1 where the first place comes before the second."""
        xp, n = xp_of(scores), self.num_bits
        places = xp.arange(n)
        return (self.num_words >> places[::-1]) & 1 == 1, (places[:, None] < places).astype(scores.dtype)


def log_of_each_bit(scores, bits):
    return -mg.softplus((1.0 - 2.0 * bits.astype(scores.dtype)) * scores)


def merge_best(one, other, k):
    """The k cheapest of two lists (numbers (B, ·), costs (B, ·)), cheapest first; among equals those of `one` first."""
    xp = xp_of(one[0])
    numbers, costs = (xp.concatenate(both, axis=1) for both in zip(one, other, strict=True))
    order = xp.argsort(costs, axis=1, kind="stable")[:, :k]
    return xp.take_along_axis(numbers, order, axis=1), xp.take_along_axis(costs, order, axis=1)


class BinaryCode(StructuredLayer):
    """Binary codes for `vocab_size` words and contexts of `dim` numbers: weight (n, d), a row for each bit.

    The numbers are given by frequency, the most frequent word's is 0. codebook: which bits stand for a number, called
    as `codebook(num_words)`. bit_loss: see `binary_code`. counts, key, bias: see `OutputLayer`.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        codebook: Any = PlainCode,
        bit_loss: str = "cross_entropy",
        **options: Any,
    ):
        super().__init__(vocab_size, dim, **options)
        self.bit_loss, self.codebook = bit_loss, codebook(self.vocab_size)
        self.words = by_frequency(self.counts)  # (V,) number -> id
        self.numbers = self.words.argsort()  # (V,) id -> number
        self.weight, self.bias = self._table(0, self.codebook.num_bits)

    def bit_scores(self, hidden: mg.Tensor) -> mg.Tensor:
        """z of every bit: (B, d) -> (B, n)."""
        scores = hidden @ self.weight.T
        return scores if self.bias is None else scores + self.bias

    def _losses(self, hidden, targets):
        bits = self.codebook.bits(self.numbers[targets])
        return binary_code_loss(self.bit_scores(hidden), bits=bits, bit_loss=self.bit_loss)

    def log_z(self, hidden):
        """log of the probability that the bits are those of some word, (B,): 0 if all are, below 0 if some are not."""
        return self.codebook.log_mass(self.bit_scores(self._checked(hidden)))

    def log_prob(self, hidden):
        z = self.bit_scores(self._checked(hidden))
        codes = self.codebook.bits(self.numbers)  # (V, n)
        return log_prob_of_codes(z, codes) - self.codebook.log_mass(z)[:, None]

    def log_prob_of(self, hidden, targets):
        hidden, targets = self._for_loss(hidden, targets)
        z = self.bit_scores(hidden)
        return log_prob_of_bits(z, self.codebook.bits(self.numbers[targets])) - self.codebook.log_mass(z)

    def topk(self, hidden, k):
        if whole(f"losses.{type(self).__name__}.topk: k", k) > self.vocab_size:
            raise ValueError(f"losses.{type(self).__name__}.topk: k must lie in 1 to {self.vocab_size}, got {k}")
        with mg.no_grad():
            z = self.bit_scores(self._checked(hidden))
            numbers, scores = self.codebook.best(z.data, k)
            return self.words[numbers], scores - self.codebook.log_mass(z).data[:, None]

    def score_cost(self, batch_size=1):
        return ScoreCost(self.codebook.num_bits, self.codebook.num_bits)
