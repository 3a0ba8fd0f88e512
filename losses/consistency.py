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
         with enough data, and scores that are free, it finds P. If not, its steps lead away from the claimed scores, on
         average, and no amount of data brings them back.
    (4)  Which one of the k + 1 words is the target? If each n_j is drawn from q, independently, and the words w_0 … w_k
         are shuffled, it is w_i with a probability ∝ P(w_i) Π_{j ≠ i} q(w_j) ∝ P(w_i) / q(w_i), the softmax of
         s*_i − log q(w_i). So a loss that is the cross-entropy of this question, all k + 1 words in the softmax, log q
         taken from all, has its minimum at s*, for every k. (So has the one over a set that holds the target and each
         word w with the chance π_w, independently: P(w_i) / π(w_i).) The other rows of the sampled and the in-batch
         softmax ask this question, but of words drawn otherwise, or leave out noise that is the target, or log q.
    (5)  Importance sampling leaves the target out of the denominator. There the mean of a ratio isn't the ratio of the
         means: to first order in 1/k,  ∂E L/∂s_w = −(1/k) (P(w)² / q(w) − P(w) Σ_v P(v)² / q(v)),  which goes to zero.

What a zero does not say. For a loss of your own not even that it is a minimum: it is zero for −L, where (3) has a
maximum, and for 0 · L, which is flat. So `check_consistency` takes small steps from there, along e_v − 1/V, and looks
at how the gradient changes: a minimum near by is what it calls consistent; whether the loss is convex you have to know.
Nothing of variance: k = 1 is as consistent as k = 1,000, and learns far slower. Nothing of a finite number of examples.
And nothing of whether a model can have these scores: d numbers a word may be too few, and NCE wants Σ_w exp s_w = 1 in
every context h, which its row at log P + 1.7 fails.
What a number that isn't zero does not say: how far away the minimum is, or whether there is one (importance sampling
has none here up to k = 4, see `importance.py`, (7)). Without log q it is at log(P / q) for every k, though the number
grows. And `NCE: log k forgotten`, for k = 6 with the greatest of all, is off by log k alone, which normalising removes.

    print(losses.estimators.table())                                # all of them, for several k
    print(losses.check_consistency(lambda target, noise, draw: …))  # one of yours

Cost: V^(k+1) outcomes, which is why V is 5.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import asarray, read, to_cpu, type_of_array, xp_of

from .outcomes import Noise, all_outcomes, with_replacement

P = (0.40, 0.25, 0.20, 0.10, 0.05)
Q = (0.10, 0.30, 0.15, 0.25, 0.20)
K = (1, 2, 4, 6)
ZERO = 1e-12
STEP = 1e-3  # of a score, to see how the gradient changes
FLAT = 1e-10  # curvatures up to here may be nothing but rounding

# ---- the population gradient ----------------------------------------------------------------------------------------


def log_p(p: type_of_array, q: type_of_array, k: int) -> type_of_array:
    return xp_of(p).log(p)


class Consistency(NamedTuple):
    """The population gradient of one loss at one claimed optimum."""

    P: type_of_array  # (V,), as are all arrays here in main memory
    q: type_of_array  # (V,)
    gradients: dict[int, type_of_array]  # k -> ∂E L/∂s, (V,)
    shapes: dict[int, str]  # k -> what is there, if it is zero: "minimum", "maximum", "saddle" or "flat"

    @property
    def sizes(self) -> dict[int, float]:
        """k -> the Euclidean length of the gradient."""
        return {k: math.hypot(*gradient.tolist()) for k, gradient in self.gradients.items()}

    @property
    def consistent(self) -> bool:
        """Whether all of them are zero, to 10⁻¹², and there is a minimum there."""
        return bool(self.gradients) and all(self.shapes.get(k) == "minimum" for k in self.gradients)

    def __str__(self):
        of = [("P", self.P), ("q", self.q)]
        lines = [f"{name:>8}{'':11}" + "".join(f"{x:9.4f}" for x in values.tolist()) for name, values in of]
        lines.append(f"{'k':>8}{'‖∂E L/∂s‖':>11}  ∂E L/∂s, word by word")
        for (k, gradient), size in zip(self.gradients.items(), self.sizes.values(), strict=True):
            lines.append(f"{k:>8}{as_text(size):>11}" + "".join(f"{round(x, 4) + 0.0:9.4f}" for x in gradient.tolist()))
        return "\n".join([*lines, self._verdict()])

    def _verdict(self):
        wrong = ", ".join(f"{what} for k = {k}" for k, what in self.shapes.items() if what != "minimum")
        away = ", ".join(str(k) for k in self.gradients if k not in self.shapes)
        if self.consistent:
            return "consistent: zero to 1e-12"
        if not self.shapes:
            return "not consistent: not zero to 1e-12"
        if away and wrong:
            return f"not consistent: not zero to 1e-12 for k = {away}; zero, but no minimum: {wrong}"
        if wrong:
            return f"not consistent: zero to 1e-12, but it is no minimum: {wrong}"
        return f"not consistent: zero to 1e-12 for k = {', '.join(map(str, self.shapes))} only"


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
    draws: what can be drawn, one of `losses.outcomes`: with_replacement (unless given), without_replacement, tries,
    times, inclusion, … or a function like them, (q, k) -> Noise.
    """
    name = "losses.check_consistency"
    if not callable(loss_of_scores):
        raise TypeError(
            f"{name}: loss_of_scores must be a function of (target_scores, noise_scores, draw), got {loss_of_scores!r}"
        )
    p, q = distribution(f"{name}: P", P), distribution(f"{name}: q", q)
    if len(p) != len(q):
        raise ValueError(f"{name}: P and q must be of the same words, got {len(p)} and {len(q)}")
    if not callable(draws):
        raise TypeError(f"{name}: draws must be a function (q, k) -> Noise, as those of losses.outcomes, got {draws!r}")
    gradients, shapes = {}, {}
    for each in several(f"{name}: k", k):
        s, draw = _claimed(name, optimum, p, q, each), all_outcomes(p, q, each, draws)
        gradient = _population_gradient(name, loss_of_scores, s, draw)
        gradients[each] = to_cpu(gradient)
        if math.hypot(*gradients[each].tolist()) <= ZERO:
            shapes[each] = _shape(lambda s, draw=draw: _population_gradient(name, loss_of_scores, s, draw), s, gradient)
    return Consistency(to_cpu(p), to_cpu(q), gradients, shapes)


def several(what: str, k: Any) -> tuple[int, ...]:
    ks = tuple(whole(what, each) for each in (k if isinstance(k, Sequence) else (k,)))
    if not ks:
        raise ValueError(f"{what} must be a number of noise words, or several, got none")
    return ks


def _claimed(name: str, optimum: Any, p: type_of_array, q: type_of_array, k: int) -> type_of_array:
    """The scores at which a loss claims to be least, (V,)."""
    try:
        s = log_p(p, q, k) if optimum is None else optimum(p, q, k) if callable(optimum) else optimum
        s = asarray(s.data if isinstance(s, mg.Tensor) else s, "float64")
    except TypeError as error:
        raise TypeError(f"{name}: optimum must be scores (V,) or a function (P, q, k) -> (V,): {error}") from error
    if s.shape != p.shape:
        raise ValueError(f"{name}: optimum must be scores of shape ({len(p)},), got {list(s.shape)}")
    return s


def _shape(gradient_at: Callable, s: type_of_array, gradient: type_of_array) -> str:
    """What a zero is, by the second derivatives along e_v − 1/V, v < V: all directions but that of a constant."""
    xp, v = xp_of(s), len(s)
    directions = xp.eye(v)[:-1] - 1.0 / v  # (V − 1, V)
    change = xp.stack([gradient_at(s + STEP * direction) - gradient for direction in directions]) / STEP
    both = to_cpu(directions @ change.T)  # (V − 1, V − 1), as many of each sign as the second derivatives have
    curvatures = xp_of(both).linalg.eigvalsh((both + both.T) / 2.0)
    lowest, highest = float(curvatures.min()), float(curvatures.max())
    if lowest < -FLAT and highest > FLAT:
        return "saddle"
    return "minimum" if lowest > FLAT else "maximum" if highest < -FLAT else "flat"


def _population_gradient(name, loss_of_scores, s, draw):
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
        if any(g is None for g in G):
            lost = "noise_scores" if G[1] is None else "target_scores"
            raise TypeError(f"{name}: the loss doesn't depend on {lost}: was it taken out by .data?")
    g_target, g_noise = (asarray(a.data if isinstance(a, mg.Tensor) else a) for a in G)
    xp, v = xp_of(draw.chance), len(s)
    gradient = xp.bincount(draw.targets, draw.chance * g_target, v)  # (2)
    gradient = gradient + xp.bincount(draw.noise.ravel(), (draw.chance[:, None] * g_noise).ravel(), v)
    if not read(xp.isfinite(gradient).all()):
        raise FloatingPointError(f"{name}: the gradient for k = {draw.k} holds NaN or infinities")
    return gradient


def distribution(what: str, probs: Any) -> type_of_array:
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


def as_text(size: float) -> str:
    return "0" if size <= ZERO else f"{size:.3f}" if size >= 0.001 else f"{size:.0e}"
