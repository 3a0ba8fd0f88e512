"""Sampled softmax as a ranking: which of these k + 1 words is the right one?

The slide: "calculate the denominator over a subset", its negative examples drawn from a distribution q. The exact
softmax asks which of all V words is the right one. Here the right word stands among k that were drawn, and the question
is which of these few it is. Asked in the right way, the short question has the long one's answer.

    h   the context;  t the right word, t ~ P(· | h)     q(w)  probability of drawing w as noise; q > 0 for every word
    n₁ … n_k  the noise, drawn from q with               B     examples in a batch; V words in the vocabulary
        replacement and without looking at t             σ     σ(x) = 1 / (1 + e^−x);  softplus(x) = log(1 + e^x)
    s_w the score of word w, W_w · h + b_w               a_w   s_w − log(k q(w))

The question.
    (1)  Shuffle t, n₁ … n_k. That t is now in place j, and words x₀ … x_k in their places, has the probability
         P(x_j | h) Π_{i≠j} q(x_i) / (k + 1). So, the words being seen and their origin not,
            P(place j | words) = (P(x_j | h) / q(x_j)) / Σ_i (P(x_i | h) / q(x_i)).
    (2)  The model answers with a softmax over the k + 1 words, of a_w = s_w − log(k q(w)):
            L = −log [e^{a_t} / (e^{a_t} + Σ_j e^{a_{n_j}})].
         k q(w) is how often to expect w among the noise. Any constant in log(k q) cancels, log k too; log q does not,
         and must be subtracted from the right word's score as well as from the noise's.
    (3)  L = log(1 + Σ_j e^{a_{n_j}} / e^{a_t}) = softplus(D),   D = log Σ_j e^{a_{n_j}} − a_t:  one yes-or-no decision
         between t and all the noise together. Nothing overflows (see softplus in `negative.py`, (2)).

Its gradient.
    (4)  ∂L/∂s_t = −σ(D),   ∂L/∂s_{n_j} = σ(D) softmax(a_n)_j,  which add up to zero: σ(D) is the probability given to
         the noise, and each noise word has its share. At most k + 1 rows of W have a gradient; the parts of a word that
         occurs twice add up.

What it learns.
    (5)  Places being alike, E L = E[−Σ_j P(place j | words) log softmax(a)_j]: the cross-entropy of the model's answer
         and the true one. It is least where they agree, a_w = log(P / q) + a number for each h, so at
            s*_w = log P(w | h) + c(h),   for every k ≥ 1, and every c.
         (Scores free, as in `negative.py`, (5).) c is free, for (2) doesn't change if all scores rise by c. `log_prob`
         subtracts log Σ_v e^{s_v} and so is log P. (NCE asks of each word alone: there c is no longer free.)
         If log q is left out s* is log(P / q) + c, the pointwise mutual information if q is how often words occur: what
         InfoNCE is after (van den Oord, Li, Vinyals, 2018).
    This is the ranking loss of Ma and Collins (EMNLP 2018), who prove it consistent, and what Jozefowicz et al.
    ("Exploring the Limits of Language Modeling", 2016) call importance sampling, derived as a choice of k + 1 classes.

Hits: noise words that are the target.
    (6)  They stay. With k = 2, the words t, t, v (in any order) come about in several ways, t being right in some and v
         in others. With hits left out, L shows t and v when t is right, and v, t, t when v is: two different questions.
         At log P the mean gradient then isn't zero for k ≥ 2 (but if P and q are both even), nor does it fade: in the
         table of `estimators.py` it grows with k. For t is lost from the sum. As k grows L − log(k q(t)) goes to
         log Σ_{w≠t} e^{s_w} − s_t, and the mean gradient at log P, for each word v, to
            P(v) (Σ_{w≠v} P(w) / (1 − P(w)) − 1),   which is zero for an even P only.
    (7)  But let S be a *set*, each word w in it with probability π_w, independently, and C = S ∪ {t}. Then
            P(t, C) = P(t) Π_{w∈C, w≠t} π_w Π_{w∉C} (1 − π_w),   and so   P(t | C) ∝ P(t) / π_t  for t in C:
         a softmax of s_w − log π_w over C, in which t stands once. Here hits must be left out, and again a_w = s_w −
         log(how often to expect w). With π_w = 1 for every word it is the exact softmax.
         TensorFlow derives its sampled_softmax_loss so, and by default (`remove_accidental_hits`) it leaves hits out;
         from draws with replacement that has the bias of (6). Its default sampler (ours: `samplers.Unique`) draws until
         it has k distinct words, and takes for π_w 1 − (1 − q(w))^tries, with the number of tries it happened to need:
         an approximation. `GumbelTopK` and `Unique(…, exact=True)` know better: with their π, Σ_{w∈S} f(w) / π_w is
         Σ_w f(w) on average, exactly, whatever number f(w) a word has. But of k distinct words each keeps another out:
         they aren't independent, and log P isn't quite the optimum. With the five words of `consistency.py` and k = 1,
         2, 4, 5 the mean gradient has there the length 0, 0.008, 0.034, 0.076 with counts from the tries, and 0.014,
         0.017, 0.013, 0 with the exact ones. (All V words are the softmax only if each has the count 1.)
         This page's layer leaves hits out by default where the sampler draws distinct words, and only there.

Towards the softmax.
    (8)  Σ_j e^{a_{n_j}} = (1/k) Σ_j e^{s_{n_j}} / q(n_j) goes to Z = Σ_w e^{s_w} as k grows, and e^{a_t} to zero. So
         L − log(k q(t)) goes to log Z − s_t, the exact loss, and the gradient, added up for each word, to p_w −
         1[w = t] with p_w = e^{s_w} / Z. With r_w = p_w / q(w) and ρ = Σ_v p_v r_v the mean loss, given t, is off by
         (r_t − (ρ − 1) / 2) / k, and the mean gradient by
            (p_w (ρ − r_w − r_t) + 1[w = t] r_t) / k;   its variance is   Σ_v p_v r_v (1[v = w] − p_w)² / k,
         all but for terms in 1/k². On average over t ~ p the gradient is off by nothing, which is (5) again.

(Jean, Cho, Memisevic, Bengio, ACL 2015, often named for this loss, cut the training text into parts and normalise over
the words that are targets in a part: one q for all of those, which cancels.)

Noise for the whole batch: each example has its own t and the same m words, independent of t, so (5) holds for it with
k = m. Cost per example in multiply-adds: 3 (k + 1) d, shared 3 (m + 1) d at the speed of a matrix product; V is nowhere
in training, and `log_prob` costs V d.
"""

from typing import Any

import minigrad as mg
from minigrad.rules import logsumexp_and_softmax

from ..layer import of_scores
from .layer import SampledLayer

MASKED = -1e30  # the score of what is left out: its exponential is 0, and if all is left out nothing becomes inf − inf

# ---- the naive way: the softmax of the k + 1 words, left to the engine --------------------------------------------


def sampled_softmax_naive(target_scores: Any, noise_scores: Any, *, log_count_target: Any, log_count_noise: Any) -> Any:
    """(2) as it stands: target_scores (B,), noise_scores (B, k) -> (B,). NaN or infinite where a score is 1000."""
    e_target = mg.exp(target_scores - log_count_target)  # (B,)
    e_noise = mg.exp(noise_scores - log_count_noise)  # (B, k)
    return -mg.log(e_target / (e_target + e_noise.sum(axis=1)))


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def sampled_softmax(
    target_scores: Any, noise_scores: Any, *, log_count_target: Any, log_count_noise: Any, hits: Any = None
) -> tuple[Any, Any, Any]:
    """Loss (3) and gradient (4): target_scores (B,), noise_scores (B, k) -> loss (B,), ∂L/∂s_t (B,), ∂L/∂s_n (B, k).

    log_count_target (B,), log_count_noise (B, k) or (k,): how often to expect each among the noise, the logarithm, log
    k q or (7) log π. hits: None, to keep them (6), or booleans (B, k): which of the noise is left out (7). What is
    left out has the gradient 0; where all is, so is the loss.
    """
    a_noise = noise_scores - target_scores.reshape((-1, 1)) - log_count_noise  # (B, k): a_n − s_t, see softmax.py, (2)
    if hits is not None:
        a_noise = mg.where(hits, MASKED, a_noise)  # (7)
    log_sum, shares = logsumexp_and_softmax(a_noise)  # (B,), (B, k)
    d = log_sum + log_count_target  # (B,), D of (3)
    p_noise = mg.sigmoid(d)  # (B,)
    return mg.softplus(d), -p_noise, p_noise.reshape((-1, 1)) * shares  # (3), (4)


sampled_softmax_loss = of_scores(sampled_softmax)


# ---- the fast way: a layer that gathers k + 1 rows an example, or shares them --------------------------------------


class SampledSoftmax(SampledLayer):
    """The sampled softmax over `vocab_size` words for contexts of `dim` numbers.

    mask_hits: leave out noise words that are the target: right for a set of distinct words (7), not for independent
    draws (6); None to do what is right for the sampler. k: noise words an example. shared: None, or how many noise
    words a whole batch shares, True for k. power: q(w) ∝ count(w)^power, 1 unless given; or `sampler`, any of
    `losses.samplers`. counts, key, bias: see `OutputLayer`.
    """

    def __init__(self, vocab_size: int, dim: int, *, mask_hits: bool | None = None, **options):
        super().__init__(vocab_size, dim, **options)
        if not isinstance(mask_hits, bool | None):
            name = f"losses.{type(self).__name__}"
            raise TypeError(f"{name}: mask_hits must be True, False or None, got {mask_hits!r:.60}")
        self.mask_hits = not self.sampler.replacement if mask_hits is None else mask_hits

    def _losses(self, target_scores, noise_scores, drawn):
        target, noise = self._log_counts(drawn)
        hits = drawn.noise == drawn.targets[:, None] if self.mask_hits else None  # (B, m)
        return sampled_softmax_loss(
            target_scores, noise_scores, log_count_target=target, log_count_noise=noise, hits=hits
        )


# In PyTorch. Traps: log q belongs to the target's score too, or (5) is lost. And who masks hits by `words ==
# targets[:, None]` masks column 0, the target itself: every loss is infinite. Independent draws need no mask (6). And
# sparse=True is for SGD, Adagrad and SparseAdam; Adam refuses it.
IN_PYTORCH = """
import torch
import torch.nn.functional as F

out = torch.nn.Embedding(V, d, sparse=True)               # rows of W; sparse: or each step costs V, not k

words = torch.cat([targets[:, None], noise], dim=1)       # (B, 1 + k): the right one in column 0
scores = torch.einsum("bkd,bd->bk", out(words), hidden)   # (B, 1 + k)
a = scores - log_q[words]                                 # of all of them
loss = F.cross_entropy(a, torch.zeros_like(targets), reduction="none")
loss.mean().backward()
"""
