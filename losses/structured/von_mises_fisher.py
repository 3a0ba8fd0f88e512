"""Embedding prediction: say where the next word is, and look up who lives there.

A softmax learns a row of W for each of V words. But vectors of the words are to be had, from somewhere; so predict that
of the right word, m numbers, and never look at another word. Training no longer knows how large V is. Kumar and
Tsvetkov ("Von Mises-Fisher Loss for Training Sequence to Sequence Models with Continuous Outputs", ICLR 2019) ask which
distance from the right vector should be the loss.

    h    the context: d numbers; t the target               κ    ‖ê‖, how sure the prediction is
    e_w  the vector of word w: m numbers, of length 1,      μ    ê/κ, the direction that it predicts
         frozen; e = e_t that of the target                 θ    the angle between ê and e: ê·e = κ cos θ
    ê    W h + b, the prediction; W is (m, d)               λ₁, λ₂   weights of the two regularisers;  γ   the margin

The loss.
    (1)  Vectors of length 1 are directions. Von Mises and Fisher's distribution has one direction that is likeliest, μ:
            p(e; μ, κ) = C_m(κ) e^{κ μ·e},     C_m as in `bessel.py`,
         the larger κ, the closer; κ = 0 is no direction at all. It adds up to one over the unit sphere, the surface.
         (The slide says "on the unit ball", which is the inside as well.)
    (2)  One vector ê = κ μ says both, and −log p is the loss:   L = −log C_m(κ) − ê·e.  A density may be above 1, and L
         below 0: at ê = 0 and m = 300 it is −427.6.

Its gradient.
    (3)  d log C_m/dκ = −A_m(κ) and ∂κ/∂ê = ê/κ, so  G = ∂L/∂ê = A_m(κ) ê/κ − e.  The first term is the mean of the
         distribution that is predicted, the second what came: expected less observed, as in a softmax p − 1. A_m(κ)/κ
         is 1/m at κ = 0, where G = −e; nothing is divided by zero. Derive log ∫ e^{ê·e} de = −log C_m by ê: once it is
         that mean, twice the covariance, which is never negative: −log C_m is convex, and so L.

What it learns.
    (4)  On average over t ~ P(· | h), e becomes r = Σ_t P(t | h) e_t, R = ‖r‖ ≤ 1, and G is zero where μ = r/R and
         A_m(κ) = R. The more P is on few words, and the nearer these are to each other, the greater R and κ. If there
         is one word only, R = 1, and κ grows without end, for A_m < 1; at an angle θ it would stop at A_m(κ) = cos θ.
    (5)  Hence the regularisers:  L = −log C_m(κ) − λ₂ ê·e + λ₁ κ,   G = A_m(κ) ê/κ − λ₂ e + λ₁ ê/κ.  They leave μ where
         it is, and A_m(κ) = λ₂ R − λ₁; if R < λ₁/λ₂ the best ê is 0: no direction, no word. As A_m(κ) ≈ κ/m (1 −
         κ²/(m² + 2m)) for κ well below m, λ₂ = 0.1 holds κ near a tenth of m, or below. At ê = 0, where λ₁ κ has a
         corner, its gradient is 0 here, one of those that are possible. λ₁ = 0 and λ₂ = 1 are (2). 0.02 and 0.1 stand
         in the authors' code under these names, in a line that is switched off and multiplies κ by λ₂ and ê·e by λ₁;
         that way round κ would always be 0. We take them as they are needed here.
    (6)  Other distances: the cosine 1 − cos θ, whose gradient is −(e − cos θ μ)/κ; the square ‖ê − e‖², 2 (ê − e); the
         margin max(0, γ + cos(ê, e_j) − cos(ê, e_t)), with the wrong word j for which cos(ê, e_j) − cos(e_t, e_j) =
         (μ − e_t)·e_j is greatest: near the prediction, far from the target. (γ = ½ is the authors', who may find the
         target itself to be that word.) The margin alone looks at all words.
         On average the cosine is least at μ = r/R, the square at ê = r: the same direction as (4). But one W cannot
         reach it in every context, and how much each distance weighs an example decides where W ends.

Whose vector is it?
    (7)  All e_w have length 1, so ê·e_w, the cosine ê·e_w/κ and −‖ê − e_w‖² = 2 ê·e_w − κ² − 1 put words in one order.
         To find the first is maximum inner product search.
    (8)  By (1) a word has the density C_m(κ) e^{ê·e_w}, and C_m is the same for all. If one word must be meant,
            P(w | h) = e^{ê·e_w} / Σ_v e^{ê·e_v}:  `log_prob`, a softmax whose output vectors are frozen.
         The loss never saw the sum, so these P are only as good as (1) is true, often too sharp. With λ₂ = 0.1, κ is a
         tenth or less of what (1) wants, and P much too flat. Don't compare perplexities. Other distances have no P.
    (9)  The word found is the one nearest to the mean r, greatest Σ_t P(t | h) e_t·e_w. It isn't always the likeliest:
         two words that are alike outvote a third that is likelier than each.

Cost of an example, forward and backward, in multiply-adds: 3 m d, and V is nowhere; a softmax has 3 V d. Besides it
takes the steps of `bessel.py`, on one number: for small m and d they are more. W and its gradient are m rows, not V.
But the V m numbers e_w must be there, and to find a word costs m d + V m.

Beware of approximations. In one version the authors' code (github.com/Sachin19/seq2seq-con, loss.py at 570841a)
replaces −log C_m by the integral of a bound that lies above A_m, but with m − 2 in place of m: up to m/(m − 2) times
A_m. It weighs cos θ by log(1 + κ), with a constant 0.2: neither (2) nor (5).
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import asarray, asarray_like, device_of, on_gpu, read, type_of_array, xp_of

from ..layer import OutputLayer, ScoreCost, best, of_scores
from .bessel import in_float64, log_normaliser, log_normaliser_and_ratio, ratio, vmf_log_normaliser
from .layer import StructuredLayer

BLOCK = 1 << 14  # words whose scores are in memory at once, while the best are looked for
TOLERANCE = 1e-5  # how far a length may be from 1


# ---- the naive way: the formula, left to the engine -----------------------------------------------------------------


def von_mises_fisher_naive(predicted: Any, *, embeddings: Any) -> Any:
    """(2) as it stands: predicted (B, m), embeddings (B, m) -> (B,). At ê = 0 its gradient is 0/0."""
    kappa = mg.sqrt((predicted * predicted).sum(axis=1))
    return -vmf_log_normaliser(predicted.shape[1], kappa) - (predicted * embeddings).sum(axis=1)


# ---- the derived way: pure functions of predicted vectors ---------------------------------------------------------


def von_mises_fisher(
    predicted: Any, *, embeddings: Any, lambda_1: float = 0.0, lambda_2: float = 1.0
) -> tuple[Any, Any]:
    """Loss and gradient of (5), by default (2) and (3): predicted ê (B, m) and e (B, m) -> loss (B,), G (B, m).

    embeddings: the right words' vectors, of length 1. Of arrays, or of tensors if it is to be differentiated again; in
    float64 inside. κ up to 10¹⁵⁰; beyond, NaN shows.
    """
    p, e = _checked_vectors("von_mises_fisher", predicted, embeddings=embeddings)
    dim, dtype = predicted.shape[1], predicted.dtype
    square = (p * p).sum(axis=1)  # κ², (B,)
    if isinstance(square, mg.Tensor):
        log_c, a_over_kappa = log_normaliser(square, dim=dim), ratio(square, dim=dim)
    else:
        log_c, a_over_kappa = log_normaliser_and_ratio(square, dim)  # both at once
    loss = -log_c - lambda_2 * (p * e).sum(axis=1)  # (2)
    factor = a_over_kappa  # (3)
    if lambda_1:
        kappa, inverse = _length(square)
        loss, factor = loss + lambda_1 * kappa, factor + lambda_1 * inverse  # (5)
    return loss.astype(dtype), (factor.reshape((-1, 1)) * p - lambda_2 * e).astype(dtype)


def cosine_distance(predicted: Any, *, embeddings: Any) -> tuple[Any, Any]:
    """1 − cos θ and its gradient, (6): predicted, embeddings (B, m) -> loss (B,), G (B, m). At ê = 0: 1 and 0."""
    cosine, gradient = _cosine(*_checked_vectors("cosine_distance", predicted, embeddings=embeddings))
    return (1.0 - cosine).astype(predicted.dtype), (-gradient).astype(predicted.dtype)


def squared_distance(predicted: Any, *, embeddings: Any) -> tuple[Any, Any]:
    """‖ê − e‖² and its gradient, (6): predicted (B, m), embeddings (B, m) -> loss (B,), G (B, m)."""
    p, e = _checked_vectors("squared_distance", predicted, embeddings=embeddings)
    return ((p - e) ** 2).sum(axis=1).astype(predicted.dtype), (2.0 * (p - e)).astype(predicted.dtype)


def cosine_margin(predicted: Any, *, embeddings: Any, negatives: Any, gamma: float = 0.5) -> tuple[Any, Any]:
    """The margin loss of (6): predicted, embeddings and negatives, the wrong words' vectors, (B, m) -> loss, G.

    Just at the margin the gradient is 0; at ê = 0 the loss is gamma and the gradient 0.
    """
    p, e, wrong = _checked_vectors("cosine_margin", predicted, embeddings=embeddings, negatives=negatives)
    closer, gradient = _cosine(p, wrong - e)
    over = gamma + closer  # linear in the vector: cos(ê, e_j) − cos(ê, e_t)
    active = ~((over.data if isinstance(over, mg.Tensor) else over) <= 0)  # as in `hard.py`: NaN shows
    loss, gradient = mg.where(active, over, 0.0), gradient * active.reshape(-1, 1)
    return loss.astype(predicted.dtype), gradient.astype(predicted.dtype)


def informative_negatives(predicted: type_of_array, targets: type_of_array, embeddings: type_of_array) -> type_of_array:
    """For each ê the wrong word j of (6), argmax (μ − e_t)·e_j: arrays (B, m), (B,), (V, m) -> ids (B,)."""
    xp, rows = xp_of(predicted), xp_of(targets).arange(len(targets))
    _, inverse = _length((predicted * predicted).sum(axis=1))
    scores = (inverse.reshape(-1, 1) * predicted - embeddings[targets]) @ embeddings.T  # (B, V)
    scores[rows, targets] = -math.inf  # the target is not wrong
    return xp.argmax(scores, axis=1)


def _checked_vectors(function: str, predicted: Any, **vectors: Any) -> list[Any]:
    """ê, and the vectors that it is held against, in float64: all (B, m)."""
    for name, a in {"predicted": predicted, **vectors}.items():
        shape = "(B, m)" if a is predicted else f"of predicted's shape {list(predicted.shape)}"
        if len(a.shape) != 2 or a.shape != predicted.shape or a.dtype.kind not in "fc":
            raise ValueError(
                f"losses.structured.von_mises_fisher.{function}: {name} must be floating-point numbers {shape}, "
                f"got {a.dtype}{list(a.shape)}"
            )
    return [in_float64(a) for a in (predicted, *vectors.values())]


def _length(square: Any) -> tuple[Any, Any]:
    """κ and 1/κ from κ²; both 0 where it is 0, and so are their derivatives."""
    zero = (square.data if isinstance(square, mg.Tensor) else square) == 0
    kappa = mg.sqrt(mg.where(zero, 1.0, square))
    return mg.where(zero, 0.0, kappa), mg.where(zero, 0.0, 1.0 / kappa)


def _cosine(p: Any, v: Any) -> tuple[Any, Any]:
    """μ·v, and its derivative by ê, (v − (μ·v) μ)/κ: (B, m), (B, m) -> (B,), (B, m)."""
    inverse = _length((p * p).sum(axis=1))[1].reshape((-1, 1))
    mu = inverse * p
    cosine = (mu * v).sum(axis=1)
    return cosine, inverse * (v - cosine.reshape((-1, 1)) * mu)


vmf_loss, cosine_loss = of_scores(von_mises_fisher), of_scores(cosine_distance)
squared_loss, margin_loss = of_scores(squared_distance), of_scores(cosine_margin)


def unit_rows(vectors: Any) -> type_of_array:
    """The rows of vectors (V, m), each divided by its length, on the device where they are."""
    name = "losses.structured.von_mises_fisher.unit_rows"
    vectors = _as_vectors(f"{name}: vectors", vectors)
    largest, lengths = _lengths(vectors)
    if read((lengths == 0).any()):
        raise ValueError(f"{name}: row {read((lengths == 0).argmax())} is zero, and has no direction")
    return (vectors / largest[:, None] / lengths[:, None]).astype(vectors.dtype)


# ---- the fast way: a layer with m rows -------------------------------------------------------------------------------


class VonMisesFisher(StructuredLayer):
    """Predicts the vectors of `vocab_size` words from contexts of `dim` numbers: ê = W h + b.

    embeddings: (V, m), frozen, of length 1 (`unit_rows` makes them so). distance: "vmf" for (5), or of (6) "cosine",
    "l2" or "margin". lambda_1, lambda_2: of "vmf"; 0 and 1 for (2), which is free to become surer and surer; lambda_1 0
    where many words may follow, (5). gamma: of "margin". counts: not used. key, bias: see `OutputLayer`.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        embeddings: Any,
        counts: Any = None,
        key: mg.Key,
        distance: str = "vmf",
        lambda_1: float = 0.02,
        lambda_2: float = 0.1,
        gamma: float = 0.5,
        bias: bool = True,
    ):
        super().__init__(vocab_size, dim, counts=counts, key=key, bias=bias)
        self.embeddings = self._checked_embeddings(embeddings)
        if distance not in ("vmf", "cosine", "l2", "margin"):
            raise ValueError(
                f'losses.VonMisesFisher: distance must be "vmf", "cosine", "l2" or "margin", got {distance!r}'
            )
        self.distance = distance
        self.lambda_1 = _number("lambda_1", lambda_1, lambda x: 0 <= x < math.inf, "0 or more")
        self.lambda_2 = _number("lambda_2", lambda_2, lambda x: 0 < x <= 1, "above 0 and at most 1")
        self.gamma = _number("gamma", gamma, lambda x: 0 < x < math.inf, "above 0")
        self.weight, self.bias = self._table(0, self.embeddings.shape[1])

    def predicted(self, hidden: mg.Tensor) -> mg.Tensor:
        """ê, (B, d) -> (B, m)."""
        return self._predicted(self._checked(hidden))

    def _losses(self, hidden, targets):
        predicted, vectors = self._predicted(hidden), self._vectors()
        e = vectors.take(targets, axis=0)  # (B, m)
        if self.distance == "vmf":
            return vmf_loss(predicted, embeddings=e, lambda_1=self.lambda_1, lambda_2=self.lambda_2)
        if self.distance == "margin":
            negatives = vectors.take(informative_negatives(predicted.data, targets, vectors), axis=0)
            return margin_loss(predicted, embeddings=e, negatives=negatives, gamma=self.gamma)
        return (cosine_loss if self.distance == "cosine" else squared_loss)(predicted, embeddings=e)

    def scores(self, hidden):
        """ê·e_w of every word, for the cosine cos(ê, e_w), for "l2" −‖ê − e_w‖²: (B, V). All one order, (7)."""
        return self._scores(self.predicted(hidden), self._vectors())

    raw_scores = scores

    def log_prob(self, hidden):
        """log P(w | h) of (8), (B, V)."""
        self._must_be_vmf("log_prob")
        return OutputLayer.log_prob(self, hidden)

    def log_z(self, hidden):
        """log Σ_w e^{ê·e_w}, (B,)."""
        self._must_be_vmf("log_z")
        return OutputLayer.log_z(self, hidden)

    def topk(self, hidden, k):
        """The k nearest words, best first: ids (B, k) and their scores (B, k). Looks at `BLOCK` words at a time."""
        whole("losses.VonMisesFisher.topk: k", k, most=self.vocab_size)
        vectors, found = self._vectors(), None
        with mg.no_grad():
            predicted = self.predicted(hidden)
            for begin in range(0, self.vocab_size, BLOCK):
                scores = self._scores(predicted, vectors[begin : begin + BLOCK]).data
                xp, ids = xp_of(scores), best(scores, min(k, scores.shape[1]))
                new = begin + ids, xp.take_along_axis(scores, ids, axis=1)
                if found is not None:  # those of earlier blocks first: among equals they have the smaller ids
                    ids, scores = (xp.concatenate(both, axis=1) for both in zip(found, new, strict=True))
                    places = best(scores, min(k, scores.shape[1]))
                    new = tuple(xp.take_along_axis(each, places, axis=1) for each in (ids, scores))
                found = new
        return found

    def score_cost(self, batch_size=1):
        """Rows a token: m of W in training, by the margin all words' vectors besides; at test both."""
        m = self.embeddings.shape[1]
        return ScoreCost(m + (self.vocab_size if self.distance == "margin" else 0), m + self.vocab_size)

    def _predicted(self, hidden: mg.Tensor) -> mg.Tensor:
        return hidden @ self.weight.T if self.bias is None else mg.linear(hidden, self.weight, self.bias)

    def _scores(self, predicted: mg.Tensor, vectors: type_of_array) -> mg.Tensor:
        scores = predicted @ mg.tensor(vectors).T
        if self.distance in ("vmf", "margin"):
            return scores
        square = (predicted * predicted).sum(axis=1, keepdims=True)
        return _length(square)[1] * scores if self.distance == "cosine" else 2.0 * scores - square - 1.0

    def _vectors(self) -> type_of_array:
        """The embeddings, in the type of the weights and where they are."""
        weight = self.weight.data
        if self.embeddings.dtype != weight.dtype or device_of(self.embeddings) != device_of(weight):
            self.embeddings = asarray_like(self.embeddings, weight).astype(weight.dtype)
        return self.embeddings

    def _checked_embeddings(self, embeddings: Any) -> type_of_array:
        embeddings = _as_vectors("losses.VonMisesFisher: embeddings", embeddings)
        if len(embeddings) != self.vocab_size:
            raise ValueError(
                f"losses.VonMisesFisher: embeddings must be a vector for each of {self.vocab_size} words, "
                f"got {len(embeddings)}"
            )
        largest, rest = _lengths(embeddings)
        lengths = largest * rest
        wrong = abs(lengths - 1) > TOLERANCE
        if read(wrong.any()):
            row = read(wrong.argmax())
            raise ValueError(
                f"losses.VonMisesFisher: embeddings must have length 1; row {row} has {read(lengths[row]):.6g}. "
                "losses.structured.von_mises_fisher.unit_rows(embeddings) divides each row by its length"
            )
        return embeddings

    def _must_be_vmf(self, what: str) -> None:
        if self.distance != "vmf":
            raise TypeError(
                f'losses.VonMisesFisher.{what}: the distance "{self.distance}" has no distribution (8), only nearest '
                'words: topk finds them; distance="vmf" has one'
            )


def _number(name: str, value: Any, fits: Callable, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(value):
        raise ValueError(f"losses.VonMisesFisher: {name} must be a number {expected}, got {value!r}")
    return float(value)


def _as_vectors(name: str, vectors: Any) -> type_of_array:
    """Finite vectors (V, m), m ≥ 2, as an array."""
    vectors = vectors.data if isinstance(vectors, mg.Tensor) else vectors
    vectors = vectors if on_gpu(vectors) else asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] < 2 or vectors.dtype.kind != "f":
        raise ValueError(
            f"{name} must be floating-point numbers (V, m) with m of 2 or more, got {vectors.dtype}"
            f"{list(vectors.shape)}"
        )
    finite = xp_of(vectors).isfinite(vectors).all(axis=1)
    if not read(finite.all()):
        raise ValueError(f"{name}: row {read((~finite).argmax())} holds NaN or infinities")
    return vectors


def _lengths(vectors: type_of_array) -> tuple[type_of_array, type_of_array]:
    """Two factors of each row's length, in float64: its largest number, and the length of the row divided by it."""
    xp = xp_of(vectors)
    largest = abs(vectors).max(axis=1).astype("float64")
    scaled = vectors / xp.where(largest == 0, 1.0, largest)[:, None]
    return largest, xp.sqrt((scaled**2).sum(axis=1))


# In PyTorch. The trap: scipy's numbers have no history. torch refuses to hand a kappa over to it until one writes
# .detach(), as its message advises; from then on nothing warns, and without a Function of one's own κ's part of the
# gradient is missing: G is −e alone. Derived once more even this one lacks A′: backward() says so, for it is marked
# once_differentiable, but torch.autograd.grad goes past that. And ive is 0 where κ is below 1 (m = 300) or 113
# (m = 1000), as it may be when learning begins: the loss is −∞, and G is NaN. At ê = 0 the loss is NaN for every m.
# (`vmf_log_normaliser` and `vmf_mean_resultant` are right there.)
IN_PYTORCH = """
import math
import scipy.special
import torch
import torch.nn.functional as F


class MinusLogC(torch.autograd.Function):                            # of kappa (B,), in m dimensions
    @staticmethod
    def forward(ctx, kappa, m):
        v, k = m / 2 - 1, kappa.detach().double()
        bessel, after = torch.from_numpy(scipy.special.ive([[v], [v + 1]], k.cpu().numpy())).to(k)
        ctx.save_for_backward((after / bessel).to(kappa))            # A_m(kappa): e^-kappa cancels
        return (bessel.log() + k - v * k.log() + m / 2 * math.log(2 * math.pi)).to(kappa)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None


out = torch.nn.Linear(d, m)                                          # W (m, d) and b: no rows of words
e = F.normalize(embeddings, dim=1)                                   # (V, m), frozen

predicted = out(hidden)                                              # (B, m)
kappa = predicted.norm(dim=1)
dot = (predicted * e[targets]).sum(dim=1)
loss = MinusLogC.apply(kappa, m) - lambda_2 * dot + lambda_1 * kappa
loss.mean().backward()
"""
