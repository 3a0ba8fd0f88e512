"""Codebooks: which bits stand for a word, and which word for the bits that are found.

A layer of codes (`binary_code.py`, `hybrid.py`, `error_correcting.py`) learns to predict n bits, each by itself, from
scores z_b:  P(bit b is 1) = σ(z_b). Whether these bits are a number in binary or a longer word with redundancy is the
codebook's, and the layer need not know. Of a word with the bits c the probability is, up to what other bits have,

    log P(c) = Σ_b log P(bit b is c_b) = Σ_b c_b z_b − Σ_b softplus(z_b)                                          (1)

for log σ(z) = z − softplus(z) and log (1 − σ(z)) = −softplus(z).
"""

from typing import Any

import minigrad as mg
from minigrad.backend import type_of_array


class Codebook:
    """`num_words` different words of `num_bits` bits, by their number: 0, 1, …, num_words − 1."""

    num_words: int
    num_bits: int

    def bits(self, numbers: type_of_array) -> type_of_array:
        """The bits of words, by their numbers, (…,) integers -> (…, num_bits) uint8, where the numbers are."""
        raise NotImplementedError

    def best(self, scores: type_of_array, k: int) -> tuple[type_of_array, type_of_array]:
        """The k words most probable by (1), given the scores of the bits, (B, n): numbers (B, k) and log P(c) (B, k).

        Best first, among equals the smaller number; found from the bits, not by looking at all words.
        """
        raise NotImplementedError

    def log_mass(self, scores: mg.Tensor) -> mg.Tensor:
        """log Σ_w P(bits of w), (B,), differentiable: what part of the probability of all bits is that of words.

        The rest, if this is below 0, lies on bits that stand for no word.
        """
        raise NotImplementedError


def log_prob_of_bits(scores: Any, bits: type_of_array) -> Any:
    """(1): scores (B, n), bits (B, n) -> (B,)."""
    return (scores * bits.astype(scores.dtype)).sum(axis=1) - mg.softplus(scores).sum(axis=1)
