"""Codebooks: which bits stand for a word, and which word for the bits that are found.

A layer of codes (`binary_code.py`, `hybrid.py`, `error_correcting.py`) learns to predict n bits, each by itself, from
scores z_b:  P(bit b is 1) = σ(z_b). Whether these bits are a number in binary or a longer word with redundancy is the
codebook's, and the layer need not know. All n bits are c with probability

    log P(c) = Σ_b log P(bit b is c_b) = −Σ_b softplus(−(2 c_b − 1) z_b) = Σ_b c_b z_b − Σ_b softplus(z_b)         (1)

for log σ(z) = −softplus(−z), log (1 − σ(z)) = −softplus(z), and softplus(−z) = softplus(z) − z. The last form is a
matrix product, when it is wanted of many words; the one before is exact to the last digits even of large scores.

The most probable bits of all are the signs: 1 where z_b > 0. To have bit b otherwise costs |z_b|, for that is what
log σ(z) and log σ(−z) differ by:

    log P(c) = −Σ_b softplus(−|z_b|) − Σ_b |z_b| 1[c_b is not the sign's]                                        (2)
"""

from typing import Any

import minigrad as mg
from minigrad.backend import type_of_array, xp_of


class Codebook:
    """`num_words` different words of `num_bits` bits, by their number: 0, 1, …, num_words − 1."""

    num_words: int
    num_bits: int

    def bits(self, numbers: type_of_array) -> type_of_array:
        """The bits of words, by their numbers, (…,) integers -> (…, num_bits) uint8, where the numbers are.

        Whether a number is that of a word, 0 to num_words − 1, is not looked at: of others there are bits of some kind.
        """
        raise NotImplementedError

    def best(self, scores: type_of_array, k: int) -> tuple[type_of_array, type_of_array]:
        """The k words most probable by (1), given the scores of the bits, (B, n): numbers (B, k) and log P(c) (B, k).

        Best first, among equals the smaller number; found from the bits, not by looking at all words.
        """
        raise NotImplementedError

    def log_mass(self, scores: mg.Tensor) -> mg.Tensor:
        """log Σ_w P(bits of w), (B,), differentiable: what part of the probability of all bits is that of words.

        The rest, if this is below 0, lies on bits that stand for no word. If there are none it may be a constant 0.
        """
        raise NotImplementedError


def codebook_for(layer: str, codebook: Any, num_words: int) -> Codebook:
    """`codebook(num_words)`; an error that names `layer` if it cannot be called, or makes none of so many words."""
    if not callable(codebook):
        raise TypeError(
            f"{layer}: codebook must make one for a number of words, as PlainCode does; got {type(codebook).__name__}, "
            "which cannot be called"
        )
    book = codebook(num_words)
    if getattr(book, "num_words", None) != num_words:
        raise ValueError(
            f"{layer}: codebook({num_words}) must be a Codebook of {num_words} words, got {type(book).__name__} of "
            f"{getattr(book, 'num_words', 'no')} words"
        )
    return book


def checked_scores(operation: str, scores: Any, num_bits: int) -> Any:
    if scores.ndim != 2 or scores.shape[1] != num_bits:
        raise ValueError(f"{operation}: scores must have shape (B, {num_bits}), got {list(scores.shape)}")
    return scores


def log_prob_of_each_bit(scores: Any, bits: type_of_array) -> Any:
    """log P(bit b is c_b): scores (B, n), bits (B, n) or (n,) -> (B, n)."""
    return -mg.softplus((1.0 - 2.0 * bits.astype(scores.dtype)) * scores)


def log_prob_of_bits(scores: Any, bits: type_of_array) -> Any:
    """(1): scores (B, n), bits (B, n) -> (B,)."""
    return log_prob_of_each_bit(scores, bits).sum(axis=1)


def log_prob_of_codes(scores: Any, codes: type_of_array) -> Any:
    """(1) of many words, by a matrix product: scores (B, n), codes (m, n) -> (B, m)."""
    return scores @ codes.astype(scores.dtype).T - mg.softplus(scores).sum(axis=1, keepdims=True)


def in_binary(numbers: type_of_array, num_bits: int) -> type_of_array:
    """Integers (…,) in binary, (…, num_bits) uint8, as they are written, the greatest power first: 14 is 0 1 1 1 0."""
    places = xp_of(numbers).arange(num_bits - 1, -1, -1)
    return ((numbers[..., None] >> places) & 1).astype("uint8")
