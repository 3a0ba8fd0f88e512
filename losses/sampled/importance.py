"""Importance sampling: estimate the softmax's sum over all words from a few of them.

The softmax loss of a context h with right word t is −s_t + log Z, Z = Σ_w e^{s_w}: V scores for one number. The slide:
draw words from an arbitrary distribution q (uniform, unigram) and re-weight with e^s / q to approximate Z. (Bengio and
Senécal, "Quick Training of Probabilistic Neural Nets by Importance Sampling", AISTATS 2003; "Adaptive Importance
Sampling to Accelerate Training of a Neural Probabilistic Language Model", IEEE Transactions on Neural Networks 2008,
where q is an n-gram model: it depends on h, and is adapted to follow the network as it learns.)

    h   the context: d numbers;  t the right word            B, V    examples in a batch, words in the vocabulary
    s_w the score of word w, W_w · h + b_w                   q(w)    probability of drawing w as noise, given h or not
    p_w the model's softmax, e^{s_w} / Z                     P(w|h)  how often w really follows h
    1[·]  1 if it holds, else 0                              ESS     effective sample size (8)
    n₁ … n_N   the noise, drawn from q                       ρ       Σ_w p_w² / q(w)

The estimate.
    (1)  Z = Σ_w q(w) e^{s_w} / q(w) = E_{w~q}[e^{s_w} / q(w)]:  the sum is an expectation, if q(w) > 0 for every word.
    (2)  So the mean over N independent draws estimates it:  Ẑ = (1/N) Σ_j e^{s_{n_j}} / q(n_j) = Σ_j e^{a_j}  with
         a_j = s_{n_j} − log(N q(n_j)): the score less the logarithm of how often its word is to be expected. The loss:
            L = −s_t + log Ẑ = log Σ_j e^{a_j − s_t},
         in this order, for then a constant in all scores costs no digits; as a `logsumexp`, for e^1000 is infinite.

Its gradient.
    (3)  ∂L/∂s_t = −1   and   ∂L/∂s_{n_j} = w̄_j = e^{a_j} / Σ_i e^{a_i}:  importance weights, made to sum to one. q is
         no parameter: log q has no gradient. All parts add up to zero, and a constant added to all scores of h changes
         nothing: scores are learnt up to a number for each h, and `log_prob` normalises them.

Is it biased? The slide says so of Ẑ, "esp. when N is small". Ẑ itself is not; log Ẑ and 1/Ẑ, the loss and the gradient,
are, and yes, the more the smaller N.
    (4)  E Ẑ = Z for every N, by (1).  Var Ẑ = Z² (ρ − 1) / N; ρ ≥ 1, and 1 only for q = p, when no draw errs. (ρ − 1 is
         the χ² distance of p from q.) All that Ẑ has to know is an expected count: words drawn without replacement
         have another than N q, and with it Ẑ is unbiased again (`samplers.GumbelTopK`; not quite with the counts that
         TensorFlow expects, `samplers.Unique`, see `distinct.py`, (7)). All V words, with a count of 1 each, are the
         softmax.
    (5)  The logarithm bends. Write Ẑ = Z (1 + ε): E ε = 0, E ε² = (ρ − 1) / N. As log(1 + ε) ≈ ε − ε²/2 and
         1 / (1 + ε) ≈ 1 − ε + ε²,
            E log Ẑ − log Z ≈ −(ρ − 1) / 2N,      E[Z / Ẑ] − 1 ≈ +(ρ − 1) / N.
         The loss is too small on average, for every N, unless q = p (Jensen's inequality). With q after Zipf's law, V =
         200, and a p for which ρ = 3.07, it is so by 0.0499, 0.0129 and 0.0032 for N = 20, 80 and 320.
    (6)  Σ_j w̄_j f(n_j) estimates the mean of f under p, and is off by ≈ −(1/N) Σ_w (p_w² / q(w)) (f(w) − E_p f).  For
         f = 1[w = v], word v's part in the gradient, by −(p_v / N) (p_v / q(v) − ρ). So the mean gradient isn't zero
         where p = P; a word that the noise draws too seldom, p / q > ρ, comes out more probable than in P. Where the
         mean gradient is zero, p is off P by O(1/N); the ranking loss (`ranking.py`) learns P with any N.

Why it may diverge.
    (7)  The target isn't in the sum. Of the softmax's own Z e^{s_t} is a part, so its loss is never negative. Here
         raising s_t by 1 lowers L by 1, unless t is among the noise. Raise the scores of a set T of words by c: for a
         large c the mean loss, over t ~ P(· | h) and the noise, changes by c times
            1 − (1 − q(T))^N − P(T | h),
         the chance that some noise lies in T less the chance that the target does. Where this is negative there is no
         minimum, only a way down without end. For one word with P(w | h) = 0.9, q(w) = 0.001 it is, up to N = 2301; for
         a context that occurs once, so that P(t | h) = 1, with every N; and with N = 1 it is q(T) − P(T | h), which is
         negative for some T unless q = P. (Mnih and Teh, "A Fast and Simple Algorithm for Training Neural Probabilistic
         Language Models", ICML 2012, find noise contrastive estimation more stable.)

How much noise?
    (8)  The effective sample size ESS = (Σ_j ω_j)² / Σ_j ω_j², ω_j = e^{a_j}, lies between 1, when one draw outweighs
         all others, and N, when all weigh the same. As Σ ω estimates Z and N Σ ω² estimates Z² ρ, ESS ≈ N / ρ: the
         draws themselves tell what (4) and (5) ask for, (ρ − 1) / N ≈ 1/ESS − 1/N. (Kong, Liu, Wong, JASA 1994.)
    (9)  So draw until it suffices, as Bengio and Senécal do: an example whose ESS is below `min_ess` gets as much noise
         again, and again, up to `max_k` words; where these don't suffice either, the exact softmax. Two things to know.
         To stop on what was seen adds a bias of its own: as a rule a draw that holds a heavy word looks uneven and goes
         on, one that misses it looks even and stops, and Ẑ is too small on average. And ESS knows nothing of a word
         that wasn't drawn: it is N for equal weights, though another word may hold nearly all of Z. So (7) remains.

Cost per example, forward and backward, in multiply-adds:  softmax 3 V d;  this 3 (N + 1) d;  (9) as much for the N it
comes to and N d more, to look at the weights; where it ends in the softmax, 3 V d and the N d. Noise may be shared by a
batch, at the price told in `negative.py`, (7). On a GPU each round of (9) is a wait.
"""

from numbers import Real
from typing import Any, NamedTuple

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import asarray_like, quiet, to_cpu, type_of_array, xp_of
from minigrad.ids import note_range
from minigrad.rules import logsumexp_and_softmax

from ..layer import of_scores
from ..softmax import full_softmax
from .layer import Drawn, SampledLayer

# ---- the naive way: the slide's formula, left to the engine ------------------------------------------------------


def importance_sampling_naive(target_scores: Any, noise_scores: Any, *, q_noise: Any) -> Any:
    """(2) as it stands: target_scores (B,), noise_scores and q_noise (B, N) -> (B,). Infinite for a score of 1000."""
    return mg.log(mg.mean(mg.exp(noise_scores) / q_noise, axis=1)) - target_scores


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def importance_sampling(target_scores: Any, noise_scores: Any, *, log_count_noise: Any) -> tuple[Any, Any, Any]:
    """Loss (2), gradient (3): target_scores (B,), noise_scores (B, N) -> loss (B,), ∂L/∂s_t (B,), ∂L/∂s_n (B, N).

    Of arrays, or of tensors if it is to be differentiated again. log_count_noise: (B, N), or (N,) for noise that the
    batch shares, the logarithm of how often each is to be expected among the noise: log(N q) for independent draws.
    """
    d = noise_scores - target_scores.reshape((-1, 1)) - log_count_noise  # (B, N): a_j − s_t
    loss, weights = logsumexp_and_softmax(d)  # (2), (3)
    return loss, 0.0 * target_scores - 1.0, weights


importance_sampling_loss = of_scores(importance_sampling)


def effective_sample_size(log_weights: Any) -> Any:
    """(8): logarithms of weights, (…, N), less any number for each row -> (…,), from 1 to N."""
    if not hasattr(log_weights, "shape"):
        log_weights = mg.backend.asarray(log_weights)
    if not log_weights.ndim or not log_weights.shape[-1]:
        raise ValueError(
            "losses.effective_sample_size: log_weights must have shape (…, N) with N >= 1, "
            f"got {list(log_weights.shape)}"
        )
    w = mg.exp(log_weights - mg.max(log_weights, axis=-1, keepdims=True))  # the greatest is 1: neither sum is 0 or ∞
    return w.sum(axis=-1) ** 2 / (w * w).sum(axis=-1)


# ---- the fast way: a layer that gathers N + 1 rows an example, or shares them --------------------------------------


class Drawing(NamedTuple):
    """Examples on their way through (9), and the noise they have so far."""

    hidden: mg.Tensor  # (b, d)
    targets: type_of_array  # (b,)
    noise: type_of_array  # (b, n), or (n,) if the batch shares it
    a: type_of_array  # (b, n): the log weights, but for log N


class ImportanceSampling(SampledLayer):
    """Importance sampling over `vocab_size` words for contexts of `dim` numbers. k (or shared): the N above.

    min_ess: None, for k noise words an example, however their weights are; or draw k, 2k, 4k, … until the effective
    sample size of an example is so large (9). max_k: the most it draws before it takes the softmax; V unless given,
    for as much noise costs as much as the softmax. (`score_cost` counts the first k.) The noise can't be drawn ahead
    then, and the sampler must draw with replacement. All other options: see `SampledLayer`; q is the unigram
    distribution unless given.
    """

    def __init__(self, vocab_size: int, dim: int, *, min_ess: float | None = None, max_k: int | None = None, **options):
        super().__init__(vocab_size, dim, **options)
        self.min_ess, self.max_k = min_ess, max_k
        name, first = f"losses.{type(self).__name__}", self.shared or self.k
        if min_ess is None:
            if max_k is not None:
                raise ValueError(f"{name}: max_k is where drawing for min_ess= ends; give min_ess, too")
            return
        self.max_k = max(first, vocab_size) if max_k is None else whole(f"{name}: max_k", max_k)
        if self.max_k < first:
            raise ValueError(f"{name}: max_k must be at least {first}, the noise drawn first; got {max_k}")
        if isinstance(min_ess, bool) or not isinstance(min_ess, Real) or not 1 <= min_ess <= self.max_k:
            raise ValueError(f"{name}: min_ess must be a number from 1 to max_k = {self.max_k}, got {min_ess!r:.60}")
        if not self.sampler.replacement:
            raise ValueError(
                f"{name}: min_ess is about independent draws; {type(self.sampler).__name__} draws without replacement"
            )

    def draw(self, key, batch_size, steps=None):
        if self.min_ess is not None:
            raise ValueError(
                f"losses.{type(self).__name__}.draw: with min_ess= the scores say how much noise it takes; "
                "give loss a key="
            )
        return super().draw(key, batch_size, steps)

    def loss(self, hidden, targets, *, key=None, noise=None, reduction="mean"):
        if self.min_ess is None:
            return super().loss(hidden, targets, key=key, noise=noise, reduction=reduction)
        hidden, targets = self._for_loss(hidden, targets)
        if key is None or noise is not None:
            raise ValueError(f"losses.{type(self).__name__}.loss: with min_ess= give key=, to draw the noise with")
        xp, rows = xp_of(targets), (len(targets),) if self.shared is None else ()
        nothing = xp.empty((*rows, 0), "int64"), xp.empty((len(targets), 0), self.weight.dtype)
        with quiet():  # scores that overflow are an error in `_reduced`
            losses = self._until_it_suffices(Drawing(hidden, targets, *nothing), key)
        return self._reduced(losses, reduction, hidden)

    loss.__doc__ = SampledLayer.loss.__doc__

    def _losses(self, target_scores, noise_scores, drawn):
        with quiet():  # ∞ − ∞ is an error in `_reduced`
            return importance_sampling_loss(target_scores, noise_scores, log_count_noise=self._log_counts(drawn)[1])

    def _until_it_suffices(self, some: Drawing, key: mg.Key, step: int = 0) -> mg.Tensor:
        """(9): draws more for some examples, (b,), and gives their losses, (b,)."""
        xp, n = xp_of(some.noise), some.noise.shape[-1]
        count = min(n or self._noise_shape(1)[-1], self.max_k - n)
        more = self._draw(key.fold(step) if step else key, (*some.noise.shape[:-1], count))[0]
        with mg.no_grad():
            drawn = Drawn(some.targets, more)
            more_a = self._scores_of(some.hidden, drawn)[1].data - self._log_counts(drawn, 1)[1]  # log(e^s / q)
        noise, a = (xp.concatenate(pair, axis=-1) for pair in ((some.noise, more), (some.a, more_a)))
        some = Drawing(some.hidden, some.targets, noise, a)
        enough = to_cpu(effective_sample_size(a) >= self.min_ess).tolist()  # on a GPU the wait of this round

        done, left = ([i for i, suffices in enumerate(enough) if suffices == wanted] for wanted in (True, False))
        losses = []
        if done:
            losses.append(self._sampled(self._only(done, some)))
        if left and n + count < self.max_k:
            losses.append(self._until_it_suffices(self._only(left, some), key, step + 1))
        elif left:
            losses.append(self._exact(self._only(left, some)))
        places = sorted(range(len(enough)), key=(done + left).__getitem__)  # where each one's loss stands
        return losses[0] if len(losses) == 1 else mg.take(mg.concat(losses), asarray_like(places, noise, "int64"))

    def _only(self, examples: list[int], some: Drawing) -> Drawing:
        """Those of some examples, by their places."""
        hidden, targets, noise, a = some
        if len(examples) < len(targets):
            places = asarray_like(examples, targets, "int64")
            hidden, targets, a = mg.take(hidden, places), targets[places], a[places]
            noise = noise[places] if noise.ndim == 2 else noise
        for ids in (targets, noise):
            note_range(ids, 0, self.vocab_size - 1)  # they were looked at, or drawn: a GPU need not be asked again
        return Drawing(hidden, targets, noise, a)

    def _sampled(self, some: Drawing) -> mg.Tensor:
        drawn = Drawn(some.targets, some.noise)
        return self._losses(*self._scores_of(some.hidden, drawn), drawn)

    def _exact(self, some: Drawing) -> mg.Tensor:
        bias = 0.0 if self.bias is None else self.bias
        return full_softmax(some.hidden, self.weight, bias, targets=some.targets, chunk=None)


# In PyTorch. The trap: torch.multinomial draws without replacement unless told otherwise. Then log(N q) isn't the log
# of the expected count, and Ẑ is biased. (Nor is this cross_entropy of the N + 1 scores: the target is not in the sum.)
IN_PYTORCH = """
import torch

out = torch.nn.Embedding(V, d, sparse=True)               # rows of W
optimizer = torch.optim.SGD(out.parameters(), lr=0.1)

noise = torch.multinomial(q, B * N, replacement=True).view(B, N)
rows = out(torch.cat([targets[:, None], noise], dim=1))   # (B, 1 + N, d)
scores = torch.einsum("bkd,bd->bk", rows, hidden)         # (B, 1 + N)
a = scores[:, 1:] - torch.log(N * q[noise])               # if q is a model's own: q.detach()
loss = torch.logsumexp(a, dim=1) - scores[:, 0]
loss.mean().backward()
"""
