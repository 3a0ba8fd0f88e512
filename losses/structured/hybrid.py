"""The hybrid model: a softmax for the few words that are most of a text, a binary code for the many that are not.

A code of n bits cannot give each word a probability of its own (`binary_code.py`, (9)), a frequent one no more than a
rare one. But by Zipf's law the 512 most frequent of 65,536 words are 58 % of a text. Oda, Arthur, Neubig, Yoshino,
Nakamura ("Neural Machine Translation via Binary Code Prediction", ACL 2017, §3.4; on the slide "Hybrid Model") give N
such words a row each in a small softmax, with one place more that says "another word"; which, the bits tell.

    N    frequent words, the places 0 … N−1 of the softmax;      s    (N + 1,) the scores of the softmax
         place N is "other"                                      z    (n,) the scores of the bits
    t    the target: its place is min(its rank, N)               c    (n,) the bits of a rare target's number, which is
    S    softmax(s), P_S(w) one of its numbers                        its rank less N;  P(c | h) is their probability

    (1)  P(w | h) = P_S(w | h) for a frequent word,  P_S(other | h) P(c(w) | h) for a rare one. It is a class-based
         softmax (`class_based.py`) with N classes of one word each, and one class that a code tells apart.
    (2)  L = −log P_S(place of t | h) + 1[t is rare] L_bits,  where L_bits = −log P(c | h), or squared, is
         `binary_code.py`'s loss. (The authors' program can weigh the two; in its sample settings both weigh 1.)
    (3)  ∂L/∂s = S − 1[place of t]  and  ∂L/∂z = 1[t is rare] ∂L_bits/∂z:  a frequent word says nothing of the bits.
         So the bits learn P(bit | h, the word is rare): frequent words do not pull at them.
    (4)  The code has numbers for the V − N rare words only. (The paper's has them for all V: what the bits give to
         the numbers of frequent words is lost, for nobody will look there.) Given that the word is rare, a mass
         M(h) ≤ 1 lies on words; that some word comes out has probability 1 − P_S(other) (1 − M), and its logarithm
         is `log_z`.
    (5)  To normalise, divide P(c | h) by M, within the rare words:  `log_prob`.  P_S is a distribution already, and
         that a word is rare keeps the probability P_S(other) that it was trained to have. So −L is log P + log M for
         a rare word and log P for a frequent one; it isn't log P + `log_z`, as it is in `binary_code.py`, (6).
    (6)  The best k words are among the N frequent ones and the k best of the code:  `topk`. (The authors' program
         takes the code's best wherever "other" is the softmax's best: a frequent word may be more probable.)
    (7)  All log P(w | h) less their mean over w are, as a matrix with a row for each h, of rank N + n at most, N more
         than with the same n bits alone; and d + 2 at most, being linear in h and 1 but for one function of h that all
         rare words share. With N ≥ d that is no less than a softmax's d + 1: what is lost is among rare words only.

Cost per example: N + 1 + n rows, so 3 (N + 1 + n) d multiply-adds in training, and the same rows for P(w | h) of one
word and for the best words. The paper counts "other" among the N: for V = 65,536 its hybrid-512 has 512 + 16 outputs,
its hybrid-2048 has 2,064. (Its id 0 is "other" and the unknown word in one. Here an unknown word is a word like any
other, if the vocabulary has one.)
"""

from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import type_of_array, xp_of

from ..layer import ScoreCost, best, of_scores
from ..softmax import softmax_cross_entropy
from .binary_code import PlainCode, binary_code, checked_bit_loss
from .codes import codebook_for, log_prob_of_bits, log_prob_of_codes
from .layer import StructuredLayer, by_frequency

# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def hybrid_code(
    word_scores: Any,
    bit_scores: Any,
    *,
    places: type_of_array,
    bits: type_of_array,
    bit_loss: str = "cross_entropy",
) -> tuple[Any, Any, Any]:
    """Loss (2) and gradients (3): word_scores (B, N + 1), bit_scores (B, n) -> loss (B,), ∂L/∂s, ∂L/∂z.

    places (B,): the target's in the softmax, N if it is rare. bits (B, n): of a rare target's number, 0 or 1; what they
    are for a frequent one doesn't matter. bit_loss: see `binary_code`. Of arrays, or of tensors.
    """
    rare = places == word_scores.shape[1] - 1  # (B,)
    loss_of_word, G_words = softmax_cross_entropy(word_scores, places)
    loss_of_bits, G_bits = binary_code(bit_scores, bits=bits, bit_loss=bit_loss)
    loss = loss_of_word + mg.where(rare, loss_of_bits, 0.0)  # (2)
    return loss, G_words, mg.where(rare[:, None], G_bits, 0.0)  # (3)


hybrid_code_loss = of_scores(hybrid_code)


# ---- the fast way: a layer with N + 1 + n rows -----------------------------------------------------------------------


class HybridCode(StructuredLayer):
    """A softmax over the `num_frequent` most frequent words and "other", and a code for the rest.

    weight (N + 1, d) has a row for each frequent word, by rank, and the last for "other"; bit_weight (n, d) one for
    each bit. codebook: which bits stand for the number of a rare word, called as `codebook(V − N)`. bit_loss: see
    `binary_code`. counts, key, bias: see `OutputLayer`. Among equals `topk` has the more frequent word first.
    """

    tables = ("weight", "bias", "bit_weight", "bit_bias")

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        num_frequent: int,
        codebook: Any = PlainCode,
        bit_loss: str = "cross_entropy",
        **options: Any,
    ):
        super().__init__(vocab_size, dim, **options)
        name, V = f"losses.{type(self).__name__}", self.vocab_size
        if V < 3:
            raise ValueError(f"{name}: vocab_size must be at least 3, for a frequent word and two rare ones, got {V}")
        if not 1 <= whole(f"{name}: num_frequent", num_frequent) <= V - 2:
            raise ValueError(
                f"{name}: num_frequent must lie in 1 to vocab_size − 2 = {V - 2}, got {num_frequent}: a code needs two "
                "rare words to tell apart. Where all words are frequent this is FullSoftmax, where none is BinaryCode"
            )
        self.num_frequent = int(num_frequent)
        self.bit_loss = checked_bit_loss(name, bit_loss)
        self.codebook = codebook_for(name, codebook, V - self.num_frequent)
        self.words = by_frequency(self.counts)  # (V,) rank -> id
        self.ranks = self.words.argsort()  # (V,) id -> rank
        self.weight, self.bias = self._table(0, self.num_frequent + 1)
        self.bit_weight, self.bit_bias = self._table(1, self.codebook.num_bits)

    def word_scores(self, hidden: mg.Tensor) -> mg.Tensor:
        """s of the frequent words and "other": (B, d) -> (B, N + 1)."""
        scores = hidden @ self.weight.T
        return scores if self.bias is None else scores + self.bias

    def bit_scores(self, hidden: mg.Tensor) -> mg.Tensor:
        """z of every bit: (B, d) -> (B, n)."""
        scores = hidden @ self.bit_weight.T
        return scores if self.bit_bias is None else scores + self.bit_bias

    def _places(self, ids):
        """Of words, by their ids (B,): the places in the softmax (B,), and the bits of the rare ones (B, n)."""
        ranks = self.ranks[ids]
        xp, N = xp_of(ranks), self.num_frequent
        return xp.minimum(ranks, N), self.codebook.bits(xp.maximum(ranks - N, 0))

    def _losses(self, hidden, targets):
        places, bits = self._places(targets)
        scores = self.word_scores(hidden), self.bit_scores(hidden)
        return hybrid_code_loss(*scores, places=places, bits=bits, bit_loss=self.bit_loss)

    def log_z(self, hidden):
        """The log of the probability that some word comes out, (B,): below 0 if there are bits of no word (4)."""
        hidden = self._checked(hidden)
        log_s, N = mg.log_softmax(self.word_scores(hidden)), self.num_frequent
        log_rare = log_s[:, N:] + self.codebook.log_mass(self.bit_scores(hidden))[:, None]
        return mg.logsumexp(mg.concat([log_s[:, :N], log_rare], axis=1), axis=1)

    def log_prob(self, hidden):
        """log P(w | h) of every word, (B, V); for its digits in float32 see `BinaryCode.log_prob`."""
        hidden = self._checked(hidden)
        log_s, z, N = mg.log_softmax(self.word_scores(hidden)), self.bit_scores(hidden), self.num_frequent
        codes = self.codebook.bits(xp_of(self.ranks).arange(self.vocab_size - N))  # (V − N, n)
        within = log_prob_of_codes(z, codes) - self.codebook.log_mass(z)[:, None]  # (5)
        return mg.concat([log_s[:, :N], log_s[:, N:] + within], axis=1)[:, self.ranks]

    def log_prob_of(self, hidden, targets):
        hidden, targets = self._for_loss(hidden, targets)
        (places, bits), z = self._places(targets), self.bit_scores(hidden)
        log_s = mg.take_along_axis(mg.log_softmax(self.word_scores(hidden)), places[:, None], axis=1)[:, 0]
        within = log_prob_of_bits(z, bits) - self.codebook.log_mass(z)  # (5)
        return log_s + mg.where(places == self.num_frequent, within, 0.0)

    def topk(self, hidden, k):
        V, N = self.vocab_size, self.num_frequent
        whole(f"losses.{type(self).__name__}.topk: k", k, most=V)
        with mg.no_grad():
            hidden = self._checked(hidden)
            z, log_s = self.bit_scores(hidden), mg.log_softmax(self.word_scores(hidden)).data
            numbers, log_p = self.codebook.best(z.data, min(k, V - N))  # (6)
            log_p = log_s[:, N:] + (log_p - self.codebook.log_mass(z).data[:, None])  # (5)
        xp = xp_of(log_s)
        ranks = xp.concatenate([xp.broadcast_to(xp.arange(N), (len(log_s), N)), N + numbers], axis=1)
        scores = xp.concatenate([log_s[:, :N], log_p], axis=1)
        found = best(scores, k)
        return self.words[xp.take_along_axis(ranks, found, axis=1)], xp.take_along_axis(scores, found, axis=1)

    def score_cost(self, batch_size=1):
        rows = self.num_frequent + 1 + self.codebook.num_bits
        return ScoreCost(rows, rows)


# In PyTorch. The trap: bits of all examples, frequent words' too. Their numbers are none of the code's, and would pull
# the bits to whatever stands in for them. Pick the rare ones; where a batch has none, a mean over no bits is NaN, and a
# sum is 0.
IN_PYTORCH = """
import torch
import torch.nn.functional as F

words, code = torch.nn.Linear(d, N + 1), torch.nn.Linear(d, n)

places = ranks.clamp(max=N)                               # by frequency; N is "other"
rare = ranks >= N
bits = (ranks[rare] - N)[:, None] >> torch.arange(n - 1, -1, -1) & 1
loss_of_bits = F.binary_cross_entropy_with_logits(code(hidden[rare]), bits.float(), reduction="sum")
loss = (F.cross_entropy(words(hidden), places, reduction="sum") + loss_of_bits) / len(ranks)
loss.backward()
"""
