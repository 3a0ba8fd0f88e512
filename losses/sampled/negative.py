"""Negative sampling: learn word vectors without a softmax, by telling right words from noise.

The softmax loss of a context h with right word t, −log P(t | h) = −s_t + log Σ_w exp s_w, needs the score of every
word. Mikolov, Sutskever, Chen, Corrado, Dean ("Distributed Representations of Words and Phrases and their
Compositionality", NIPS 2013, §2.2, eq. 4; the slide says 2012) ask an easier question: is this word the right one, or
noise? One right word, k words drawn from q, k + 1 yes-or-no decisions.

    B   examples (pairs of a word and one of its contexts) in a batch      q(w)  probability of drawing w as noise
    V   words in the vocabulary                                            s_w   score of word w: W_w · h + b_w
    d   numbers in a word vector                                           σ(s)  1 / (1 + e^−s)
    k   noise words an example                                             t     the target; n₁ … n_k the noise

The loss.
    (1)  L = −log σ(s_t) − Σ_j log σ(−s_{n_j}):  the word t should be called right, each n_j noise.
    (2)  −log σ(s) = log(1 + e^−s) = softplus(−s), which for s = −1000 is 1000, where log σ(s) is log 0.
         So  L = softplus(−s_t) + Σ_j softplus(s_{n_j}).

Its gradient.
    (3)  softplus′ = σ, so  ∂L/∂s_t = −σ(−s_t) = σ(s_t) − 1   and   ∂L/∂s_{n_j} = σ(s_{n_j}).
         Both lie between −1 and 1: no example can throw the weights far. Only k + 1 rows of W have a gradient.

What it learns.
    (4)  On average over t ~ P(· | h) and the noise, word w occurs in L with weight P(w | h) as right word and k q(w)
         as noise:   E L = Σ_w [P(w | h) softplus(−s_w) + k q(w) softplus(s_w)].
    (5)  Its derivative by s_w, P(w | h) (σ(s_w) − 1) + k q(w) σ(s_w), is zero where σ(s_w) = P / (P + k q), that is at
         s*_w = log P(w | h) − log(k q(w)).
    (6)  So scores aren't log-probabilities: they are off by log(k q(w)), which we know. (The slide: biased if
         k ≠ |V| or q isn't uniform. If k = |V| and q is, k q(w) = 1 and its logarithm is 0.) Adding it gives the
         distribution back:  log P(w | h) = s_w + log(k q(w)) − log Σ_v exp(s_v + log(k q(v))),  which is `log_prob`.
         With q(w) = P(w), how often w occurs at all, s*_w = log [P(w | h) / P(w)] − log k: the pointwise mutual
         information of word and context, less log k (Levy and Goldberg, NIPS 2014).

Noise for the whole batch (Zoph, Vaswani, May, Knight, NAACL 2016; the slide says 2015).
    (7)  Of q, (4) needs only an average, k E_q[softplus(s_n)]; any n draws estimate it: (k/n) Σ_j softplus(s_{n_j}).
         One set of n words can serve all B examples. Their scores are then one matrix product H W_Sᵀ, and B + n rows
         are gathered instead of B (k + 1). The expectation is the same; but the noise of different examples is no
         longer independent, so a larger batch doesn't average it away: take n larger than k.

Cost an example, in multiply-adds, there and back:  softmax 3 V d;  negative sampling 3 (k + 1) d, V nowhere;  shared
3 (n + 1) d, but at the speed of a matrix product.
"""

from typing import Any

import minigrad as mg
from minigrad.backend import check_ids, type_of_array, xp_of

from ..layer import OutputLayer, ScoreCost, of_scores
from ..samplers import Sampler, Unigram

# ---- the naive way: the slide's formula, left to the engine ------------------------------------------------------


def negative_sampling_naive(target_scores: Any, noise_scores: Any) -> Any:
    """(1) as it stands. Right for small scores; infinite for s_t = −1000."""
    return -mg.log(mg.sigmoid(target_scores)) - mg.log(mg.sigmoid(-noise_scores)).sum(axis=-1)


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def negative_sampling(target_scores: Any, noise_scores: Any, *, k: float | None = None) -> tuple[Any, Any, Any]:
    """Loss (2) and gradient (3): target_scores (B,), noise_scores (B, n) -> loss (B,), ∂L/∂s_t (B,), ∂L/∂s_n (B, n).

    k: how many noise words the n columns stand for (7); None for n itself, which is the plain sum of (1).
    """
    weight = 1.0 if k is None else k / noise_scores.shape[1]  # (7)
    loss = mg.softplus(-target_scores) + weight * mg.softplus(noise_scores).sum(axis=1)  # (2)
    return loss, -mg.sigmoid(-target_scores), weight * mg.sigmoid(noise_scores)  # (3)


negative_sampling_loss = of_scores(negative_sampling)


# ---- the fast way: a layer that gathers k + 1 rows an example, or shares them --------------------------------------


class NegativeSampling(OutputLayer):
    """Negative sampling over `vocab_size` words for contexts of `dim` numbers.

    k: noise words an example. shared: None to draw them for each example, or the number n of noise words that a whole
    batch shares (7). power: q(w) ∝ count(w)^power; or `sampler`, any of `losses.samplers`. bias=False is word2vec.
    counts, key: see `OutputLayer`.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        counts: Any = None,
        key: mg.Key,
        k: int = 5,
        shared: int | None = None,
        power: float = 0.75,
        sampler: Sampler | None = None,
        bias: bool = True,
    ):
        super().__init__(vocab_size, dim, counts=counts, key=key, bias=bias)
        for what, n in (("k", k), ("shared", 1 if shared is None else shared)):
            if not isinstance(n, int) or n < 1:
                raise ValueError(f"losses.NegativeSampling: {what} must be an integer of at least 1, got {n!r}")
        self.k, self.shared = k, shared
        self.sampler = Unigram(self.counts, power) if sampler is None else sampler
        if self.sampler.vocab_size != vocab_size:
            raise ValueError(
                f"losses.NegativeSampling: the sampler must draw from the layer's {vocab_size} words, "
                f"it draws from {self.sampler.vocab_size}"
            )

    def draw(self, key: mg.Key, batch_size: int, steps: int | None = None) -> type_of_array:
        """Noise for a batch, ids (B, k), or (n,) if shared; with `steps`, for so many batches at once: (steps, …)."""
        shape = (batch_size, self.k) if self.shared is None else (self.shared,)
        return self.sampler.sample(key, shape if steps is None else (steps, *shape))

    def loss(self, hidden, targets, *, key=None, noise=None, reduction="mean"):
        """(7) for hidden (B, d) and targets (B,): a scalar, or (B,) with reduction="none".

        The noise is drawn with `key`, or handed in as `noise`, drawn before by `draw`: one of the two is needed.
        """
        hidden = self._checked(hidden)
        targets = self._checked_targets(hidden, targets)
        if (key is None) == (noise is None):
            raise ValueError("losses.NegativeSampling.loss: give key= to draw the noise with, or noise= drawn before")
        noise = self.draw(key, len(targets)) if noise is None else self._checked_noise(noise, len(targets))
        if self.shared is None:
            xp = xp_of(noise)
            scores = self._row_scores(hidden, xp.concatenate([targets[:, None], noise], axis=1))  # (B, 1 + k)
            target_scores, noise_scores = scores[:, 0], scores[:, 1:]
        else:
            target_scores = self._row_scores(hidden, targets[:, None])[:, 0]  # (B,)
            noise_scores = self._shared_scores(hidden, noise)  # (B, n)
        return self._reduced(negative_sampling_loss(target_scores, noise_scores, k=self.k), reduction)

    def scores(self, hidden):
        """s_w + log(k q(w)): by (6) an estimate of log P(w | h) up to a number for each h. (B, V)"""
        raw = super().scores(hidden)
        xp = xp_of(raw.data)
        return raw + xp.log(self.k * xp.maximum(self.sampler.probs, 1e-300)).astype(raw.dtype)

    def score_cost(self, batch_size=1):
        noise = self.k if self.shared is None else self.shared / batch_size
        return ScoreCost(1 + noise, self.vocab_size)

    def _checked_noise(self, noise: type_of_array, batch_size: int) -> type_of_array:
        shape = (batch_size, self.k) if self.shared is None else (self.shared,)
        if noise.shape != shape:
            raise ValueError(
                f"losses.NegativeSampling.loss: noise must have shape {list(shape)}, got {list(noise.shape)}"
            )
        check_ids("losses.NegativeSampling.loss: noise", noise, self.vocab_size)
        return noise


# The trap: nn.Embedding's gradient is dense unless sparse=True, and then every step writes all V rows, whatever k is.
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
