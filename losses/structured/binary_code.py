"""Binary code prediction: number the words, and predict the bits of the right one's number, all at once.

A tree of yes-or-no decisions (`hierarchical.py`) finds one of V words in some log₂ V steps. But each of its nodes asks
a question of its own, V − 1 in all, and one answer says which question is the next. Why not ask ⌈log₂ V⌉ questions,
the same ones for every word: is the first bit of its number 1, is the second, …? For classes such codes are older
(Sejnowski and Rosenberg's NETtalk); Dietterich and Bakiri ("Solving Multiclass Learning Problems via Error-Correcting
Output Codes", JAIR 1995) make them longer, to correct errors (`error_correcting.py`). Oda, Arthur, Neubig, Yoshino,
Nakamura ("Neural Machine Translation via Binary Code Prediction", ACL 2017, §3.1, 3.2) take them for words.

    h   the context, d numbers                        n       bits, ⌈log₂ V⌉ for V words;  B examples in a batch
    t   the target, the right word                    c(w)    the n bits of w's number, 0 or 1; the most frequent word
    z   (n,) scores, z_b = W_b · h and a bias                 is number 0. Written as on the slide, 14 is 0 1 1 1 0
    q_b σ(z_b), the probability that bit b is 1       y       2 c(t) − 1, the target's bits as 1 and −1

The loss and its gradient.
    (1)  P(c | h) = Π_b (q_b where c_b is 1, 1 − q_b where it is 0): given h, the bits know nothing of each other.
         L = −log P(c(t) | h).
    (2)  As −log σ(z) = softplus(−z) and −log (1 − σ(z)) = softplus(z),   L = Σ_b softplus(−y_b z_b).
    (3)  ∂L/∂z_b = −y_b σ(−y_b z_b) = q_b − c_b:  −1 to 1, and all n rows have a gradient, W_b's is (q_b − c_b) h.
    (4)  Or squared, as in the sample settings of the authors' program:   L = Σ_b (q_b − c_b)²,   ∂L/∂z_b =
         2 (q_b − c_b) q_b (1 − q_b).  Never more than 8/27, and almost nothing for a bit that is quite sure and wrong:
         where z_b = −20 and c_b = 1 it is −4 · 10⁻⁹, and (3) is −1.

What it learns.
    (5)  On average over t ~ P(· | h), both losses are least where q_b = Σ_w P(w | h) c_b(w), the probability that bit b
         is 1. What bits have to do with each other is lost. With V = 8 let 011, 101 and 110 have probability ⅓ each:
         all q_b = ⅔, and the most probable word is 111, with 8/27, which never occurs. The right ones have 4/27.

The words' probabilities. If V is no power of two, some numbers stand for no word: for V = 10,000 39 % of 2¹⁴ do.
By frequency, these lie beyond the rarest word's, and frequent words share zeros in front. Which words are alike isn't
in the numbers, as it isn't in Huffman's tree (`hierarchical.py`, (5)).
    (6)  log P(w | h) = log P(c(w) | h) − log M,  M = Σ_w P(c(w) | h).  The loss (2), as the paper's, has no M: it is
         −log P(t | h) − log M, and pays for what lies on the numbers of no word as well. log M ≤ 0 is `log_z`.
    (7)  M takes no sum over V words. For V = 2ⁿ it is 1. Else, with v for the bits of V, a number below V has a 0 at
         some place j where V has a 1, before it V's bits, and after it any bits, whose probabilities add up to 1:
            M = Σ_{j: v_j = 1} P(bit j is 0) Π_{i before j} P(bit i is v_i),     at most n blocks of numbers.
    (8)  The most probable bits are the signs, and another bit b costs |z_b| of log P. In a block of (7) the free bits
         are the signs'; the best block has the best word. The k best are found bit by bit, from the last: of the
         numbers that the bits so far can write only the k cheapest can lead to one of the k cheapest in the end. One
         more bit doubles them, and k are kept; so for all numbers, and for those below V's last bits.

Why it is less than a softmax.
    (9)  log P(w | h) = A(h) + Σ_b c_b(w) z_b(h), A the same for all w. As a matrix, a row for each h less the row's
         mean, it has rank n at most, 16 for 65,536 words, whatever d is. (And d + 1 at most, as h and a 1 for
         the biases are d + 1 numbers. A softmax's can have that.)
    (10) It is a balanced tree of 2ⁿ leaves, if all nodes of a depth share one row: P(w | h) = Π σ(± u · h), u = −W_b at
         depth b. (Minus, for in `hierarchical.py` σ(s) is a 0's.) What its leaves of no word have, (6) takes away.

Cost per example, in multiply-adds: 3 n d in training, where the softmax has 3 V d; O(d log V), the figure's O(H log V).
And no more at test, which no sampled loss can say: n d for P(w | h) of one word and for the best word, and for (7) n²
(a matrix product; running sums would take n). n rows of W are all there is. Only P(w | h) of all words takes V n.
"""

from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import type_of_array, xp_of

from ..layer import ScoreCost, of_scores
from .codes import (
    Codebook,
    checked_scores,
    codebook_for,
    in_binary,
    log_prob_of_bits,
    log_prob_of_codes,
    log_prob_of_each_bit,
)
from .layer import StructuredLayer, by_frequency

# ---- the naive way: the slide's formula, left to the engine ------------------------------------------------------


def binary_code_naive(bit_scores: Any, bits: type_of_array) -> Any:
    """(1) as it stands: bit_scores (B, n), bits (B, n) -> (B,).

    Infinite where q or 1 − q is rounded to 0: for a bit that is 0 from z = 17 on in float32 (37 in float64), for one
    that is 1 from −104 (−746).
    """
    q, c = mg.sigmoid(bit_scores), bits.astype(bit_scores.dtype)
    return -mg.log(c * q + (1.0 - c) * (1.0 - q)).sum(axis=1)


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def binary_code(bit_scores: Any, *, bits: type_of_array, bit_loss: str = "cross_entropy") -> tuple[Any, Any]:
    """Loss and G = ∂L/∂z: bit_scores (B, n), the target's bits (B, n) -> loss (B,), G (B, n).

    bits: 0 and 1, not −1 and 1; nobody looks. bit_loss: "cross_entropy", or "squared". Of arrays, or of tensors if it
    is to be differentiated again.
    """
    checked_bit_loss("losses.binary_code", bit_loss)
    if bits.shape != bit_scores.shape:
        raise ValueError(
            f"losses.binary_code: bits must have the shape of bit_scores, {list(bit_scores.shape)}, got "
            f"{list(bits.shape)}"
        )
    y = 2.0 * bits.astype(bit_scores.dtype) - 1.0
    wrong = mg.sigmoid(-y * bit_scores)  # |q − c|, the probability of the wrong bit, with all its digits
    if bit_loss == "cross_entropy":
        return mg.softplus(-y * bit_scores).sum(axis=1), -y * wrong  # (2), (3)
    return (wrong * wrong).sum(axis=1), -2.0 * y * wrong * wrong * mg.sigmoid(y * bit_scores)  # (4)


def checked_bit_loss(operation: str, bit_loss: str) -> str:
    if bit_loss not in ("cross_entropy", "squared"):
        raise ValueError(f'{operation}: bit_loss must be "cross_entropy" or "squared", got {bit_loss!r}')
    return bit_loss


binary_code_loss = of_scores(binary_code)


# ---- the fast way: what can be said of all words from the bits alone ----------------------------------------------


class PlainCode(Codebook):
    """The numbers 0, 1, …, num_words − 1 in binary, of as many bits as the greatest of them has; at least one."""

    def __init__(self, num_words: int):
        self.num_words = whole("losses.PlainCode: num_words", num_words)
        self.num_bits = max(1, (self.num_words - 1).bit_length())  # ⌈log₂ V⌉
        self.full = self.num_words == 1 << self.num_bits  # every number of so many bits is a word's

    def bits(self, numbers):
        return in_binary(numbers, self.num_bits)

    def best(self, scores, k):
        checked_scores("losses.PlainCode.best", scores, self.num_bits)
        whole("losses.PlainCode.best: k", k, most=self.num_words)
        numbers, cost = self._cheapest(scores) if k == 1 else self._k_cheapest(scores, k)
        return numbers, -mg.softplus(-abs(scores)).sum(axis=1, keepdims=True) - cost  # (8)

    def log_mass(self, scores):
        xp = xp_of(checked_scores("losses.PlainCode.log_mass", scores, self.num_bits).data)
        if self.full:
            return mg.tensor(xp.zeros(len(scores), scores.dtype))
        v, before = self._blocks(scores.data)
        blocks = log_prob_of_each_bit(scores, v) @ before - mg.softplus(scores)  # (B, n), the j-th is place j's
        return mg.logsumexp(mg.where(v, blocks, -xp.inf), axis=1)  # (7)

    def _blocks(self, scores):
        """V in binary, v (n,) booleans; and (n, n): 1 where the place i of a row is before the place j of a column."""
        xp = xp_of(scores)
        i = xp.arange(self.num_bits)
        return (self.num_words >> i[::-1]) & 1 == 1, (i[:, None] < i).astype(scores.dtype)

    def _cheapest(self, scores):
        """(8) for k = 1: the number of the best word (B, 1), and what it costs."""
        xp = xp_of(scores)
        signs, powers = scores > 0, 1 << xp.arange(self.num_bits)[::-1]
        number = (signs * powers).sum(axis=1, keepdims=True)
        if self.full:
            return number, xp.zeros(number.shape, scores.dtype)
        v, before = self._blocks(scores)
        cost = (abs(scores) * (signs != v)) @ before + xp.maximum(scores, 0.0)  # of v before place j, and of 0 there
        cost = xp.where(v, cost, xp.inf)  # (B, n)
        place = cost.argmin(axis=1)[:, None]  # among equals the first: its numbers are smaller
        power = powers[place]
        number = (self.num_words // power - 1) * power + number % power  # as V before, 0 here, then the signs
        return number, xp.take_along_axis(cost, place, axis=1)

    def _k_cheapest(self, scores, k):
        """(8): the numbers of the k best words, best first, (B, k), and what they cost."""
        xp = xp_of(scores)
        free = xp.zeros((len(scores), 1), "int64"), xp.zeros((len(scores), 1), scores.dtype)
        below = free[0][:, :0], free[1][:, :0]  # of the numbers below 0 there is none
        for place in range(self.num_bits):
            power, z = 1 << place, scores[:, -1 - place, None]  # z (B, 1)
            if_0, if_1 = xp.maximum(z, 0.0), xp.maximum(-z, 0.0)  # the cost of either
            with_0, with_1 = (free[0], free[1] + if_0), (free[0] + power, free[1] + if_1)
            if self.num_words & power:
                below = _merged(with_0, (below[0] + power, below[1] + if_1), k)
            else:
                below = below[0], below[1] + if_0
            free = _merged(with_0, with_1, k)
        return free if self.full else below


def _merged(one: tuple, other: tuple, k: int) -> tuple:
    """The k cheapest of two lists (numbers (B, ·), costs (B, ·)), cheapest first; among equals those of `one` first."""
    xp = xp_of(one[0])
    numbers, costs = (xp.concatenate(both, axis=1) for both in zip(one, other, strict=True))
    order = xp.argsort(costs, axis=1, kind="stable")[:, :k]
    return xp.take_along_axis(numbers, order, axis=1), xp.take_along_axis(costs, order, axis=1)


# ---- a layer with a row for each bit ------------------------------------------------------------------------------


class BinaryCode(StructuredLayer):
    """Binary codes for `vocab_size` words and contexts of `dim` numbers: weight (n, d), a row for each bit.

    The numbers are given by frequency, the most frequent word's is 0. codebook: which bits stand for a number, called
    as `codebook(num_words)`. bit_loss: see `binary_code`. counts, key, bias: see `OutputLayer`. Among equals `topk` has
    the more frequent word first.
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
        self.bit_loss = checked_bit_loss(f"losses.{type(self).__name__}", bit_loss)
        self.codebook = codebook_for(f"losses.{type(self).__name__}", codebook, self.vocab_size)
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
        """log P(w | h), (B, V). In float32, with scores in the hundreds, the best words have more digits in `topk`."""
        z = self.bit_scores(self._checked(hidden))
        codes = self.codebook.bits(self.numbers)  # (V, n)
        return log_prob_of_codes(z, codes) - self.codebook.log_mass(z)[:, None]

    def log_prob_of(self, hidden, targets):
        hidden, targets = self._for_loss(hidden, targets)
        z = self.bit_scores(hidden)
        return log_prob_of_bits(z, self.codebook.bits(self.numbers[targets])) - self.codebook.log_mass(z)

    def topk(self, hidden, k):
        whole(f"losses.{type(self).__name__}.topk: k", k, most=self.vocab_size)
        with mg.no_grad():
            z = self.bit_scores(self._checked(hidden))
            numbers, scores = self.codebook.best(z.data, k)
            return self.words[numbers], scores - self.codebook.log_mass(z).data[:, None]

    def score_cost(self, batch_size=1):
        return ScoreCost(self.codebook.num_bits, self.codebook.num_bits)


# In PyTorch. The trap: F.binary_cross_entropy_with_logits takes the mean over all B n bits unless told otherwise, which
# makes the gradients n times too small: add up the bits, then take the mean over the batch. And bits must be floats.
# `numbers` (B,): the targets' ranks by frequency. With ids in order of appearance it trains as well, and nothing warns.
IN_PYTORCH = """
import torch
import torch.nn.functional as F

out = torch.nn.Linear(d, n)                               # n = (V - 1).bit_length() rows, for all V words

bits = numbers[:, None] >> torch.arange(n - 1, -1, -1) & 1    # (B, n), the first bit the greatest
losses = F.binary_cross_entropy_with_logits(out(hidden), bits.float(), reduction="none")
loss = losses.sum(dim=1)                                  # not .mean()
loss.mean().backward()
"""
