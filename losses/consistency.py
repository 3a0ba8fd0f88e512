"""What would an estimator learn from all the data there is?  Added up exactly, over everything that can be drawn.

A sampled loss is random: its noise is drawn. What it learns in the long run is decided by its mean. With a small
vocabulary there are few enough outcomes to add them all up, each by its probability; nothing is left to chance.

    h     one context, the same throughout       P(w)  the true probability of word w after h, V words
    t     the target, drawn from P               q(w)  the probability of w as noise
    n_j   the k noise words                      s     (V,): the scores that the model gives to the words after h
    L     the loss of one outcome (t, n_1 … n_k), a function of the scores of those words;  G = ∂L/∂score

    (1)  The population loss  E L = Σ_{t, n} P(t) Pr(n_1 … n_k) L(s_t; s_{n_1} … s_{n_k}),  a function of s, is what
         stochastic gradient descent makes small, for ∂E L/∂s is the mean of its gradients. For V = 5 words and k = 6
         there are 5⁷ = 78,125 outcomes.
    (2)  Each outcome has a gradient for its own words only, so  ∂E L/∂s_w = Σ_{t, n} P(t) Pr(n) Σ G_r,  the inner sum
         over those rows r of the outcome that hold w.
    (3)  Each method claims where its minimum lies: at s* = log P + c with any number c (those that normalise), at log P
         (NCE), at log P − log(k q) (negative sampling). All these losses are convex in s, being sums of softplus and
         logsumexp of scores, and of scores. So if ∂E L/∂s is zero there, it is a minimum, and the method is consistent:
         with enough data, and scores that are free, it finds P. If not, its steps lead away from P, on average, and no
         amount of data brings them back.
    (4)  Which one of the k + 1 words is the target? If each n_j is drawn from q, independently, and the words w_0 … w_k
         are shuffled, it is w_i with a probability ∝ P(w_i) Π_{j ≠ i} q(w_j) ∝ P(w_i) / q(w_i), the softmax of
         s*_i − log q(w_i). So a loss that is the cross-entropy of this question, all k + 1 words in the softmax, log q
         taken from all, has its minimum at s*, for every k. (So has the one over a set that holds the target and each
         word w with the chance π_w, independently: P(w_i) / π(w_i).) The other rows of the sampled and the in-batch
         softmax ask this question, but of words drawn otherwise, or leave out noise that is the target, or log q.
    (5)  Importance sampling leaves the target out of the denominator. There the mean of a ratio isn't the ratio of the
         means: to first order in 1/k,  ∂E L/∂s_w = −(1/k) (P(w)² / q(w) − P(w) Σ_v P(v)² / q(v)),  which goes to zero.

What a zero does not say. Nothing of variance: k = 1 is as consistent as k = 1,000, and learns far slower. Nothing of a
finite number of examples. And nothing of whether a model can have these scores: d numbers a word may be too few, and
NCE wants Σ_w exp s_w = 1 in every context h, which its row at log P + 1.7 fails. What a number that isn't zero does not
say: how far away the minimum is. Compare it along its row, or down its column.

    print(consistency.table())                                      # all of them, for several k
    print(check_consistency(lambda target, noise, draw: …))         # one of yours

Cost: V^(k+1) outcomes, which is why V is 5.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import asarray, read, to_cpu, type_of_array, xp_of

from .outcomes import (
    DISTINCT,
    Noise,
    all_outcomes,
    every_word,
    inclusion,
    tries,
    unordered,
    with_replacement,
    without_replacement,
)
from .sampled.importance import importance_sampling_loss
from .sampled.in_batch import in_batch_softmax
from .sampled.nce import nce_loss
from .sampled.negative import negative_sampling_loss
from .sampled.ranking import sampled_softmax_loss

P = (0.40, 0.25, 0.20, 0.10, 0.05)
Q = (0.10, 0.30, 0.15, 0.25, 0.20)
K = (1, 2, 4, 6)
C = 1.7  # the c of (3): any number
ZERO = 1e-12

# ---- the population gradient ----------------------------------------------------------------------------------------


def log_p(p: type_of_array, q: type_of_array, k: int) -> type_of_array:
    return xp_of(p).log(p)


def log_p_plus_c(p: type_of_array, q: type_of_array, k: int) -> type_of_array:
    return xp_of(p).log(p) + C


def log_p_minus_log_kq(p: type_of_array, q: type_of_array, k: int) -> type_of_array:
    return xp_of(p).log(p) - xp_of(q).log(k * q)


class Consistency(NamedTuple):
    """The population gradient of one loss at one claimed optimum."""

    P: type_of_array  # (V,), as are all arrays here in main memory
    q: type_of_array  # (V,)
    gradients: dict[int, type_of_array]  # k -> ∂E L/∂s, (V,)

    @property
    def sizes(self) -> dict[int, float]:
        """k -> the Euclidean length of the gradient."""
        return {k: math.hypot(*gradient.tolist()) for k, gradient in self.gradients.items()}

    @property
    def consistent(self) -> bool:
        """Whether all of them are zero, to 10⁻¹²."""
        return bool(self.gradients) and all(size <= ZERO for size in self.sizes.values())

    def __str__(self):
        of = [("P", self.P), ("q", self.q)]
        lines = [f"{name:>8}{'':11}" + "".join(f"{x:9.4f}" for x in values.tolist()) for name, values in of]
        lines.append(f"{'k':>8}{'‖∂E L/∂s‖':>11}  ∂E L/∂s, word by word")
        for (k, gradient), size in zip(self.gradients.items(), self.sizes.values(), strict=True):
            lines.append(f"{k:>8}{_size(size):>11}" + "".join(f"{round(x, 4) + 0.0:9.4f}" for x in gradient.tolist()))
        zero = [str(k) for k, size in self.sizes.items() if size <= ZERO]
        verdict = "consistent: zero to 1e-12" if self.consistent else "not consistent: not zero to 1e-12"
        return "\n".join(
            [*lines, verdict + (f", but for k = {', '.join(zero)}" if zero and not self.consistent else "")]
        )


def check_consistency(
    loss_of_scores: Callable[..., Any],
    *,
    P: Any = P,
    q: Any = Q,
    k: int | Sequence[int] = K,
    optimum: Any = None,
    draws: Callable[[type_of_array, int], Noise] = with_replacement,
) -> Consistency:
    """The population gradient (2) of a loss at the optimum it claims, for each k, exactly.

    loss_of_scores(target_scores (N,), noise_scores (N, m), draw: Draw): tensors in; out either the losses (N,), a
    tensor computed by minigrad's functions, or (loss, G_target (N,), G_noise (N, m)), as our pure functions have it,
    of tensors or arrays. (A function of arrays takes `target_scores.data`.) It may use all that `draw` says.
    P, q: (V,), positive, each sums to one. optimum: scores (V,), or a function (P, q, k) -> (V,); None for log P.
    draws: what can be drawn, one of the functions above or one like them.
    """
    name = "losses.check_consistency"
    if not callable(loss_of_scores):
        raise TypeError(
            f"{name}: loss_of_scores must be a function of (target_scores, noise_scores, draw), got {loss_of_scores!r}"
        )
    p, q = _distribution(f"{name}: P", P), _distribution(f"{name}: q", q)
    if len(p) != len(q):
        raise ValueError(f"{name}: P and q must be of the same words, got {len(p)} and {len(q)}")
    ks = [whole(f"{name}: k", each) for each in (k if isinstance(k, Sequence) else (k,))]
    if not ks:
        raise ValueError(f"{name}: k must be a number of noise words, or several, got none")
    gradients = {each: _population_gradient(name, loss_of_scores, p, q, each, optimum, draws) for each in ks}
    return Consistency(to_cpu(p), to_cpu(q), gradients)


def _population_gradient(name, loss_of_scores, p, q, k, optimum, draws):
    draw = all_outcomes(p, q, k, draws)
    s = asarray((optimum or log_p)(p, q, k) if optimum is None or callable(optimum) else optimum, "float64")
    if s.shape != p.shape:
        raise ValueError(f"{name}: optimum must be scores of shape ({len(p)},), got {list(s.shape)}")
    target_scores, noise_scores = mg.param(s[draw.targets]), mg.param(s[draw.noise])
    found = loss_of_scores(target_scores, noise_scores, draw)
    loss, *G = found if isinstance(found, tuple | list) else (found,)
    shapes = [target_scores.shape, target_scores.shape, noise_scores.shape]
    if len(G) not in (0, 2) or [getattr(a, "shape", None) for a in (loss, *G)] != shapes[: 1 + len(G)]:
        came = ", ".join(str(list(a.shape)) if hasattr(a, "shape") else type(a).__name__ for a in (loss, *G))
        raise ValueError(
            f"{name}: loss_of_scores must return the losses {list(shapes[0])}, or loss, G_target and G_noise of shapes "
            f"{', '.join(str(list(shape)) for shape in shapes)}; got {came}"
        )
    if not G:
        if not isinstance(loss, mg.Tensor) or not loss.requires_grad:
            raise TypeError(
                f"{name}: loss_of_scores returned losses without their history: compute them from the tensors given, "
                "by minigrad's functions, or return (loss, G_target, G_noise)"
            )
        G = mg.grad(loss.sum(), [target_scores, noise_scores])
    g_target, g_noise = (asarray(a.data if isinstance(a, mg.Tensor) else a) for a in G)
    xp, v = xp_of(draw.chance), len(p)
    gradient = xp.bincount(draw.targets, draw.chance * g_target, v)  # (2)
    gradient = gradient + xp.bincount(draw.noise.ravel(), (draw.chance[:, None] * g_noise).ravel(), v)
    if not read(xp.isfinite(gradient).all()):
        raise FloatingPointError(f"{name}: the gradient for k = {k} holds NaN or infinities")
    return to_cpu(gradient)


def _distribution(what: str, probs: Any) -> type_of_array:
    try:
        array = asarray(probs.data if isinstance(probs, mg.Tensor) else probs, "float64")
    except (TypeError, ValueError):
        array = None
    if (
        array is None
        or array.ndim != 1
        or len(array) < 2
        or not read((array > 0).all() & (abs(array.sum() - 1) < 1e-9))
    ):
        raise ValueError(
            f"{what} must be a distribution: two positive numbers or more that sum to one; got {probs!r:.60}"
        )
    return array


def _size(size: float) -> str:
    return "0" if size <= ZERO else f"{size:.3f}" if size >= 0.001 else f"{size:.0e}"


# ---- all estimators -------------------------------------------------------------------------------------------------


class Estimator(NamedTuple):
    """One way to estimate, the optimum it claims, how its noise is drawn, and whether theory says zero there."""

    name: str
    loss_of_scores: Callable
    claim: str
    optimum: Callable
    draws: Callable
    zero: Callable[[int, int], bool]  # k, V -> whether the population gradient is zero there, for P ≠ q, neither even


def _softmax(correct: str | None = "both", left_out: Callable = lambda draw: None) -> Callable:
    """Sampled softmax with log q taken from both, from the noise alone, from nobody (None), or added ("wrong sign")."""

    def loss(target, noise, draw):
        of_target, of_noise = {
            "both": (draw.log_count_target, draw.log_count_noise),
            "noise": (0.0, draw.log_count_noise),
            None: (0.0, 0.0),
            "wrong sign": (-draw.log_count_target, -draw.log_count_noise),
        }[correct]
        return sampled_softmax_loss(
            target, noise, log_count_target=of_target, log_count_noise=of_noise, hits=left_out(draw)
        )

    return loss


def _nce(log_k: bool = True, left_out: bool = False) -> Callable:
    def loss(target, noise, draw):
        of_target, of_noise = (
            (draw.log_count_target, draw.log_count_noise) if log_k else (draw.log_q_target, draw.log_q_noise)
        )
        if left_out:
            of_noise = of_noise + 1e30 * draw.hits  # σ(s − 10³⁰) is zero
        return nce_loss(target, noise, log_kq_target=of_target, log_kq_noise=of_noise, k=draw.k)

    return loss


def _in_batch(sign: float = 1.0, masked: bool = False) -> Callable:
    """The first row of a batch whose first context is h: the k other targets are its noise, q their distribution."""

    def loss(target, noise, draw):
        xp = xp_of(draw.noise)
        b = draw.k + 1
        first = xp.concatenate([target.data[:, None], noise.data], axis=1)  # (N, B)
        log_q = sign * xp.concatenate([draw.log_q_target[:, None], draw.log_q_noise], axis=1)
        repeats = xp.concatenate([xp.zeros((len(first), 1), bool), draw.hits & masked], axis=1)
        scores, again = xp.zeros((b, b)), xp.zeros((b, b), bool)  # the other rows are other contexts
        rows = []
        for i in range(len(first)):
            scores[0], again[0] = first[i], repeats[i]
            each, G = in_batch_softmax(scores, log_q=log_q[i], repeats=again)
            rows.append(xp.concatenate([each[:1], G[0]]))
        rows = xp.stack(rows)
        return rows[:, 0], rows[:, 1], rows[:, 2:]

    return loss


def _importance(target, noise, draw):
    return importance_sampling_loss(target, noise, log_count_noise=draw.log_count_noise)


def estimators() -> Iterator[Estimator]:
    """The methods of this part, with what practice makes of them, right and wrong."""
    always, never, alone = lambda k, v: True, lambda k, v: False, lambda k, v: k == 1
    alone_or_all = lambda k, v: k in (1, v)  # all V words, each with the count 1: the full softmax
    hits, out = lambda draw: draw.hits, lambda draw: draw.hits | draw.absent
    plus_c, at_p, shifted = ("log P + c", log_p_plus_c), ("log P", log_p), ("log P − log kq", log_p_minus_log_kq)
    iid = with_replacement
    full = lambda target, noise, draw: mg.logsumexp(noise, axis=1) - target
    binary = lambda target, noise, draw: negative_sampling_loss(target, noise)
    for row in [
        ("full softmax", full, *plus_c, every_word, always),
        ("importance sampling", _importance, *plus_c, iid, never),
        ("sampled softmax", _softmax(), *plus_c, iid, always),
        ("sampled: hits left out", _softmax(left_out=hits), *plus_c, iid, alone),
        ("sampled: log q of the noise alone, hits left out", _softmax("noise", hits), *plus_c, iid, never),
        ("sampled: no log q", _softmax(None), *plus_c, iid, never),
        ("sampled: log q with the wrong sign", _softmax("wrong sign"), *plus_c, iid, never),
        ("sampled: a set, each word in it independently", _softmax(left_out=out), *plus_c, inclusion, always),
        ("sampled: distinct words, exact counts", _softmax(left_out=hits), *plus_c, without_replacement, alone_or_all),
        ("sampled: distinct words, counts from the tries", _softmax(left_out=hits), *plus_c, tries, alone),
        ("in-batch softmax", _in_batch(), *plus_c, unordered, always),
        ("in-batch: repeats left out", _in_batch(masked=True), *plus_c, unordered, alone),
        ("in-batch: no log q", _in_batch(0.0), *plus_c, unordered, never),
        ("in-batch: log q with the wrong sign", _in_batch(-1.0), *plus_c, unordered, never),
        ("NCE", _nce(), *at_p, iid, always),
        ("NCE: where Z isn't one", _nce(), *plus_c, iid, never),
        ("NCE: log k forgotten", _nce(log_k=False), *at_p, iid, alone),
        ("NCE: hits left out", _nce(left_out=True), *at_p, iid, never),
        ("negative sampling", binary, *shifted, iid, always),
        ("negative sampling: taken for log P", binary, *at_p, iid, never),
    ]:
        yield Estimator(*row)


class Table(NamedTuple):
    """All estimators, each checked for several k; where there are fewer than k words to draw it is left out."""

    P: Any
    q: Any
    k: tuple[int, ...]
    rows: list[tuple[Estimator, Consistency]]

    def __str__(self):
        lines = [f"‖∂E L/∂s‖ at the claimed optimum; c = {C}, 0 is below 1e-12"]
        lines += [f"{name} = {', '.join(f'{x:.2f}' for x in probs)}" for name, probs in (("P", self.P), ("q", self.q))]
        lines += [f"{'estimator':<50}{'claims':<16}" + "".join(f"{f'k = {k}':>7}" for k in self.k) + "   theory"]
        for estimator, found in self.rows:
            cells = [_size(found.sizes[k]) if k in found.sizes else "–" for k in self.k]
            zero = [str(k) for k in found.sizes if estimator.zero(k, len(self.P))]
            only = f"zero for k = {', '.join(zero)} only" if zero else "not zero"
            theory = "" if not found.sizes else "zero" if len(zero) == len(found.sizes) else only
            lines.append(
                f"{estimator.name:<50}{estimator.claim:<16}" + "".join(f"{c:>7}" for c in cells) + f"   {theory}"
            )
        return "\n".join(lines)


def table(*, P: Any = P, q: Any = Q, k: int | Sequence[int] = K) -> Table:
    """`check_consistency` of all `estimators`."""
    name = "losses.consistency.table"
    probs = [to_cpu(_distribution(f"{name}: {which}", given)) for which, given in (("P", P), ("q", q))]
    ks, rows = tuple(k) if isinstance(k, Sequence) else (k,), []
    for estimator in estimators():
        possible = [each for each in ks if estimator.draws not in DISTINCT or each <= len(probs[0])]
        found = Consistency(*probs, {})
        if possible:
            found = check_consistency(
                estimator.loss_of_scores, P=P, q=q, k=possible, optimum=estimator.optimum, draws=estimator.draws
            )
        rows.append((estimator, found))
    return Table(*(each.tolist() for each in probs), ks, rows)
