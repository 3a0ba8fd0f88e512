"""Noise contrastive estimation: learn probabilities without a softmax, by telling words of the text from noise.

A softmax is a distribution because its sum over all V words is divided by. Gutmann and Hyvärinen ("Noise-contrastive
estimation: a new estimation principle for unnormalized statistical models", AISTATS 2010) learn one without the sum:
hide a word of the text among k words of noise (one in 2010, k in their paper of JMLR 2012) and let the model tell which
is which. It can do that best only if its scores are log-probabilities. Mnih and Teh ("A Fast and Simple Algorithm for
Training Neural Probabilistic Language Models", ICML 2012) do so for words.

    h   the context: d numbers                           B       examples in a batch; V words in the vocabulary
    t   the target, the right word; n₁ … n_k the noise   q(w)    probability of drawing w as noise
    P   P(w | h), how often w follows h in the text      σ(x)    1 / (1 + e^−x);  softplus(x) = log(1 + e^x)
    s_w the score of word w, W_w · h + b_w               P̃_w     e^{s_w}, which the model has for P;  Z(h) = Σ_w P̃_w

The question.
    (1)  One of k + 1 words is from the text, the others are noise. A word w among them is from the text with the
         probability  P(data | w) = P / (P + k q(w)):  each word of the text comes with k of noise.
    (2)  The model puts P̃ for P. Its odds are P̃ / (k q), whose logarithm is  Δ_w = s_w − log(k q(w)):  it answers
         P̃ / (P̃ + k q) = σ(Δ_w). For k = 1 text and noise may change places, P̃ and q: Δ only changes its sign.

The loss.
    (3)  L = −log σ(Δ_t) − Σ_j log σ(−Δ_{n_j}) = softplus(−Δ_t) + Σ_j softplus(Δ_{n_j}):  that of negative sampling, at
         scores lowered by log(k q). (As a ratio (2) is ∞/∞ for large s; Δ needs no exponential.) On average over t ~ P
         and the noise:  E L = −E_P[log σ(Δ_w)] − k E_q[log σ(−Δ_w)],  whose k is the slide's N. A draw that happens to
         be t stays: without these, w would be noise k q(w) (1 − P) times, and s_w = log P − log(1 − P).
    (4)  ∂L/∂s_t = σ(Δ_t) − 1   and   ∂L/∂s_{n_j} = σ(Δ_{n_j}),  for log(k q) doesn't depend on the model.

What it learns.
    (5)  On average ∂L/∂s_w is  P (σ(Δ_w) − 1) + k q σ(Δ_w) = k q / (P̃ + k q) · (P̃ − P),  for σ(Δ) = P̃ / (P̃ + k q).
         With q > 0 it is zero only where P̃ = P:  s_w = log P(w | h), for any noise and any k, if scores are free. (A
         word that never comes after h has log 0: its score falls for ever. One with q = 0 is never noise, and never
         falls.)
    (6)  Without log k in Δ all scores become log P − log k: Z = 1/k, and harmless once they are normalised. With log k,
         but with the noise's mean for its sum, they become log P + log k. Without log q they become log P − log q, and
         without either negative sampling's, log P − log(k q).
    (7)  The softmax doesn't see a number c added to all scores of a context. NCE does: at s_w = log P + c (5) is k q P
         (e^c − 1) / (e^c P + k q), not zero. So the model must be able to have Z(h) = 1 in every context. Gutmann and
         Hyvärinen learn the number that is missing; one for each context, with Δ = s − c_h − log(k q), makes (5) zero
         again at c_h = c, but language has too many contexts. The slide: "P = P̃ / e^{c_h} (set c_h = 0)". (Mnih and
         Teh write P̃ e^{c_h}, the other sign and the same 0.) Trained so, scores that can't have it everywhere come
         near: `log_z(hidden)` says how near.
    (8)  Bias. Scores near 0 claim Z = V; a bias of −log V makes it 1. With q = 1/V every answer is then 1 / (k + 1), as
         it should be for want of knowledge. With V = 10,000 and k = 25 the loss then begins at 4.2, with the bias at 0
         at 150; and a word that is seldom drawn is long in coming down, for by (4) a draw's gradient is at most 1.
         Without a bias contexts h and −h can't both have Z = 1, for then Z(h) Z(−h) ≥ V².

As k grows.
    (9)  The factor k q / (P̃ + k q) in (5) goes to 1, so the gradient to P̃ − P: the softmax's, if Z(h) = 1. What is
         missing falls as 1/k.

The noise.
    (10) To E L the noise is only how often each word is to be expected in it: π_w = k q(w), if drawn independently.
         With the exact π_w for k q(w), (5) holds for any way to draw, without replacement too. But what to expect of
         such a draw our samplers, and TensorFlow's `nce_loss`, tell from what they saw of it, and then log P is
         not quite the optimum. So the layer takes samplers that draw with replacement.
    (11) One set of m noise words may serve the whole batch, with the weight k/m each: step (7) of `negative.py`. k, not
         m, stands in log(k q).

Cost per example, in multiply-adds: 3 (k + 1) d in training, as negative sampling. At test `log_prob` normalises, for
V d; but one word's s_w alone costs d, and is its log-probability as far as log Z is 0.
"""

import math
from typing import Any

import minigrad as mg

from ..layer import of_scores
from .layer import SampledLayer
from .negative import negative_sampling

# ---- the naive way: probabilities, left to the engine ------------------------------------------------------------


def nce_naive(target_scores: Any, noise_scores: Any, *, log_kq_target: Any, log_kq_noise: Any) -> Any:
    """The logarithms of (2) as they stand -> (B,). NaN for s = 1000, infinite for s_t = −1000."""
    p_target, p_noise = mg.exp(target_scores), mg.exp(noise_scores)
    kq_target, kq_noise = mg.exp(log_kq_target), mg.exp(log_kq_noise)
    return -mg.log(p_target / (p_target + kq_target)) - mg.log(kq_noise / (p_noise + kq_noise)).sum(axis=-1)


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def nce(
    target_scores: Any, noise_scores: Any, *, log_kq_target: Any, log_kq_noise: Any, k: float | None = None
) -> tuple[Any, Any, Any]:
    """Loss (3) and gradient (4): target_scores (B,), noise_scores (B, m) -> loss (B,), ∂L/∂s_t (B,), ∂L/∂s_n (B, m).

    Of arrays, or of tensors if it is to be differentiated again. log_kq_target (B,), log_kq_noise (B, m), or (m,) if
    the batch shares it: log(k q(w)) of each word. k: how many noise words the m columns stand for (11); None for m.
    """
    return negative_sampling(target_scores - log_kq_target, noise_scores - log_kq_noise, k=k)  # (2)


nce_loss = of_scores(nce)


# ---- the fast way: a layer that gathers k + 1 rows an example, or shares them --------------------------------------


class NCE(SampledLayer):
    """Noise contrastive estimation over `vocab_size` words for contexts of `dim` numbers.

    k: noise words an example. shared: None to draw them for each example, or how many noise words a whole batch
    shares (11), True for k. power: q(w) ∝ count(w)^power, 1 unless given; or `sampler`, one of `losses.samplers` that
    draws with replacement. bias: begins at −log V (8); without one Z(h) = 1 may be out of reach. counts, key: see
    `OutputLayer`.
    """

    with_replacement_only = True  # (10)

    def __init__(self, vocab_size: int, dim: int, *, k: int = 25, **options):
        super().__init__(vocab_size, dim, k=k, **options)
        if self.bias is not None:
            self.bias = mg.param([-math.log(vocab_size)] * vocab_size)  # (8)

    def _losses(self, target_scores, noise_scores, drawn):
        target, noise = self._log_counts(drawn, self.k)  # (11): k, however many were drawn
        return nce_loss(target_scores, noise_scores, log_kq_target=target, log_kq_noise=noise, k=self.k)


# In PyTorch, with `log_q` (V,), the logarithm of q. The traps: log k, without which log Z becomes −log k (6); and the
# default of binary_cross_entropy, the mean over all B (k + 1) answers, which is a (k + 1)-th of (3).
IN_PYTORCH = """
import math
import torch
import torch.nn.functional as F

out = torch.nn.Embedding(V, d, sparse=True)               # rows of W; sparse: or each step costs V, not k
bias = torch.nn.Embedding(V, 1, sparse=True)
torch.nn.init.constant_(bias.weight, -math.log(V))        # Z = 1 to begin with

words = torch.cat([targets[:, None], noise], dim=1)       # (B, 1 + k)
scores = torch.einsum("bkd,bd->bk", out(words), hidden) + bias(words)[:, :, 0]
delta = scores - log_q[words] - math.log(k)               # log k: or scores become log P − log k
is_data = torch.zeros_like(delta)
is_data[:, 0] = 1.0
loss = F.binary_cross_entropy_with_logits(delta, is_data, reduction="none").sum(dim=1)  # the sum
loss.mean().backward()
"""
