"""Negative sampling: learn word vectors without a softmax, by telling right words from noise.

The softmax loss of a context h with right word t, −log P(t | h) = −s_t + log Σ_w exp s_w, needs the score of every
word. Mikolov, Sutskever, Chen, Corrado, Dean ("Distributed Representations of Words and Phrases and their
Compositionality", NIPS 2013, §2.2, eq. 4; the slide says 2012) ask an easier question: is this word the right one, or
noise? One right word, k words drawn from q, k + 1 yes-or-no decisions.

    h   the context: d numbers. In skip-gram the vector of       B       examples in a batch; V words in the vocabulary
        a word, and t is one of the words around it              q(w)    probability of drawing w as noise: its count
    t   the target, the right word; n₁ … n_k the noise                   to the power ¾, made to sum to one
    s_w the score of word w, W_w · h + b_w                       σ(s)    1 / (1 + e^−s);  1 − σ(s) = σ(−s)

The loss.
    (1)  L = −log σ(s_t) − Σ_j log σ(−s_{n_j}):  the word t should be called right, each n_j noise. The noise is drawn
         with replacement and without looking at t. A draw that happens to be t stays, or (4) would be false. (The code
         of word2vec and gensim skips it: w is then noise k q(w) (1 − P(w | h)) times, and has log [P / (1 − P)] for
         log P in (5).)
    (2)  −log σ(s) = log(1 + e^−s) = softplus(−s), so  L = softplus(−s_t) + Σ_j softplus(s_{n_j}).  Where s = −1000,
         σ(s) is 0 in floating point and its logarithm infinite; softplus(x), computed as max(x, 0) + log(1 + e^−|x|),
         is 1000. (To clip σ instead makes the loss flat, its gradient zero, just where the model is most wrong.)

Its gradient.
    (3)  softplus′ = σ, so  ∂L/∂s_t = −σ(−s_t) = σ(s_t) − 1   and   ∂L/∂s_{n_j} = σ(s_{n_j}),  all between −1 and 1.
         At most k + 1 rows of W have a gradient; a word drawn twice has two parts, which add up.

What it learns.
    (4)  On average over t ~ P(· | h) and the noise, word w occurs in L with weight P(w | h) as right word and k q(w)
         as noise:   E L = Σ_w [P(w | h) softplus(−s_w) + k q(w) softplus(s_w)].
    (5)  Its derivative by s_w, P(w | h) (σ(s_w) − 1) + k q(w) σ(s_w), is zero where σ(s_w) = P / (P + k q). Then the
         odds σ / (1 − σ) = exp s_w are P / (k q):   s*_w = log P(w | h) − log(k q(w)).
         It is a minimum, softplus being convex. (It takes scores that are free for every w and h, which d numbers a
         word can only come near to, and q(w) > 0 for every word that occurs: else s_w would grow without end.)
    (6)  So scores aren't log-probabilities, but they are off by log(k q(w)), which we know. Adding it and normalising
         gives the distribution back:   log P(w | h) = s_w + log(k q(w)) − log Σ_v exp(s_v + log(k q(v))):  `log_prob`.

The slide: "similar to NCE, but biased when k ≠ |V| or q is not uniform". Noise contrastive estimation (`nce.py`)
puts s_w − log(k q(w)) where (1) has s_w, and so arrives at s_w = log P itself. Negative sampling leaves that term out.
The two are the same if k q(w) = 1 for every w, that is, if q is uniform and k = |V|. If q is uniform and k any number,
all scores are off by the same and normalising removes it; a q that isn't uniform distorts the distribution, unless (6)
is used.

With q(w) = P(w), the plain unigram distribution (power 1), s*_w = log [P(w | h) / P(w)] − log k: the pointwise mutual
information of word and context, less log k (Levy and Goldberg, NIPS 2014). With the power ¾ there remains ¼ log P(w),
and a constant; with fastText's power ½, ½ log P(w).

Noise for the whole batch (Zoph, Vaswani, May, Knight, NAACL 2016, who do it for NCE; the slide says 2015).
    (7)  The noise enters (4) only as k times an average, k E_{w~q}[softplus(s_w)]. The mean of any m draws, times k,
         has this expectation: (k/m) Σ_j softplus(s_{n_j}). So one set of m words can serve all B examples. Their scores
         are one matrix product, (B, d) by (d, m), and B + m rows of W are gathered instead of B (k + 1).
         The price: with noise of its own for each example, the noise of the mean loss has the variance (k/B) times the
         average variance of softplus(s_w); shared, (k²/m) times the variance, over w ~ q, of the batch's average of it.
         What all examples have in common, a larger batch doesn't average away: take m larger than k.

Cost per example, forward and backward, in multiply-adds:  softmax 3 V d;  negative sampling 3 (k + 1) d;  shared
3 (m + 1) d, at the speed of a matrix product. In training V is nowhere; `log_prob` costs V d, as any softmax does.
"""

from typing import Any

import minigrad as mg
from minigrad.backend import xp_of

from ..layer import of_scores
from .layer import SampledLayer

# ---- the naive way: the slide's formula, left to the engine ------------------------------------------------------


def negative_sampling_naive(target_scores: Any, noise_scores: Any) -> Any:
    """(1) as it stands: target_scores (B,), noise_scores (B, k) -> (B,). Infinite for s_t = −1000."""
    return -mg.log(mg.sigmoid(target_scores)) - mg.log(mg.sigmoid(-noise_scores)).sum(axis=-1)


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def negative_sampling(target_scores: Any, noise_scores: Any, *, k: float | None = None) -> tuple[Any, Any, Any]:
    """Loss (2) and gradient (3): target_scores (B,), noise_scores (B, m) -> loss (B,), ∂L/∂s_t (B,), ∂L/∂s_n (B, m).

    Of arrays, or of tensors if it is to be differentiated again. k: how many noise words the m columns stand for (7);
    None for m itself, the plain sum of (1).
    """
    weight = 1.0 if k is None else k / noise_scores.shape[1]  # (7)
    loss = mg.softplus(-target_scores) + weight * mg.softplus(noise_scores).sum(axis=1)  # (2)
    return loss, -mg.sigmoid(-target_scores), weight * mg.sigmoid(noise_scores)  # (3)


negative_sampling_loss = of_scores(negative_sampling)


# ---- the fast way: a layer that gathers k + 1 rows an example, or shares them --------------------------------------


class NegativeSampling(SampledLayer):
    """Negative sampling over `vocab_size` words for contexts of `dim` numbers.

    k: noise words an example. shared: None to draw them for each example, or how many noise words a whole batch
    shares (7), True for k. power: q(w) ∝ count(w)^power, ¾ unless given; or `sampler`, one of `losses.samplers` that
    draws with replacement. counts, key, bias: see `OutputLayer`; word2vec has no bias.
    """

    default_power = 0.75
    with_replacement_only = True

    def __init__(self, vocab_size: int, dim: int, *, k: int = 5, **options):
        super().__init__(vocab_size, dim, k=k, **options)

    def _losses(self, target_scores, noise_scores, drawn):
        return negative_sampling_loss(target_scores, noise_scores, k=self.k)  # (7)

    def scores(self, hidden):
        """s_w + log(k q(w)), (B, V): by (6) an estimate of log P(w | h). The s_w alone are `raw_scores`."""
        raw = self.raw_scores(hidden)
        xp = xp_of(raw.data)
        return raw + xp.log(self.k * xp.maximum(self.sampler.probs, 1e-300)).astype(raw.dtype)


# In PyTorch. The trap: by default nn.Embedding's gradient is dense, and every step writes all V rows, whatever k is.
# sparse=True avoids it. The noise: torch.multinomial(q, B * k, replacement=True).view(B, k).
IN_PYTORCH = """
import torch
import torch.nn.functional as F

out = torch.nn.Embedding(V, d, sparse=True)               # rows of W; sparse: or each step costs V, not k
optimizer = torch.optim.SGD(out.parameters(), lr=0.1)     # not Adam: torch has SparseAdam for sparse gradients

rows = out(torch.cat([targets[:, None], noise], dim=1))   # (B, 1 + k, d)
scores = torch.einsum("bkd,bd->bk", rows, hidden)         # (B, 1 + k)
loss = -F.logsigmoid(scores[:, 0]) - F.logsigmoid(-scores[:, 1:]).sum(dim=1)
loss.mean().backward()
"""
