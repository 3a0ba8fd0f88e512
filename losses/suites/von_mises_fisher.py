"""What must be true of `von_mises_fisher(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0) -> loss, G`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught. They
compute what they expect from the definition, Bessel functions by their power series, with Python's `math`.
"""

import math

import numpy as np

from . import Chapter, Lesson, close


def log_bessel(order: float, kappa: float) -> float:
    """log I_n(κ) of κ > 0 by its power series, Σ_j (κ/2)^{2j+n} / (j! Γ(n + j + 1)), each term in logarithms."""
    terms = [
        (2 * j + order) * math.log(kappa / 2) - math.lgamma(j + 1) - math.lgamma(order + j + 1)
        for j in range(40 + round(2 * kappa))
    ]
    return max(terms) + math.log(sum(math.exp(term - max(terms)) for term in terms))


def log_normaliser(dim: int, kappa: float) -> float:
    """log C_m(κ), (1)."""
    if kappa == 0:
        return math.lgamma(dim / 2) - math.log(2) - dim / 2 * math.log(math.pi)
    nu = dim / 2 - 1
    return nu * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - log_bessel(nu, kappa)


def mean_resultant(dim: int, kappa: float) -> float:
    """A_m(κ), (3)."""
    return math.exp(log_bessel(dim / 2, kappa) - log_bessel(dim / 2 - 1, kappa)) if kappa else 0.0


def parts(predicted, embeddings) -> list[tuple[float, float]]:
    """(κ, ê·e) of each example."""
    return [
        (math.sqrt(math.fsum(p * p for p in ps)), math.fsum(p * e for p, e in zip(ps, es, strict=True)))
        for ps, es in zip(predicted.tolist(), embeddings.tolist(), strict=True)
    ]


# ---- examples -----------------------------------------------------------------------------------------------------


def directions(shape):
    """Strategy: rows of length 1."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    # the first number is never zero, so that there is a direction; small whole numbers are simple to read
    rest = hnp.arrays("float64", (shape[0], shape[1] - 1), elements=st.integers(-3, 3).map(float))
    first = hnp.arrays("float64", (shape[0], 1), elements=st.sampled_from([1.0, -1.0]))
    return st.builds(
        lambda a, b: (v := np.concatenate([a, b], axis=1)) / np.linalg.norm(v, axis=1, keepdims=True), first, rest
    )


def vectors(limit: float = 4.0, dtype: str = "float64", dims=(2, 3, 5), zero: bool = False):
    """Strategy: (predicted (B, m), embeddings (B, m)), no ê zero, or all of them."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    def of(shape):
        sizes = st.just(0.0) if zero else st.integers(1, round(4 * limit)).map(lambda i: i / 4)
        lengths = hnp.arrays("float64", (shape[0], 1), elements=sizes)
        return st.builds(
            lambda u, k, e: ((u * k).astype(dtype), e.astype(dtype)), directions(shape), lengths, directions(shape)
        )

    return st.tuples(st.integers(1, 3), st.sampled_from(dims)).flatmap(of)


def with_lambda_1():
    from hypothesis import strategies as st

    return st.builds(lambda pair, x: (*pair, x), vectors(), st.sampled_from([0.5, 0.02]))


def with_lambda_2():
    from hypothesis import strategies as st

    return st.builds(lambda pair, x: (*pair, x), vectors(), st.sampled_from([0.5, 0.1]))


def with_both():
    from hypothesis import strategies as st

    return st.builds(lambda pair, x, y: (*pair, x, y), vectors(), st.sampled_from([0.5, 0.02]), st.just(0.25))


def one_example_with_both():
    from hypothesis import strategies as st

    predicted, embeddings = np.array([[0.5, -1.0, 0.25], [2.0, 1.0, 0.5]]), np.array([[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]])
    return st.just((predicted, embeddings, 0.5, 0.25))


def targets():
    """Strategy: (words (n, m) of length 1, their probabilities (n,)), whose mean isn't zero."""
    from hypothesis import strategies as st

    def of(n):
        weights = st.lists(st.integers(1, 4), min_size=n, max_size=n).map(lambda w: np.array(w) / sum(w))
        return st.tuples(directions((n, 3)), weights)

    return st.integers(2, 4).flatmap(of).filter(lambda pair: 0.05 < np.linalg.norm(pair[1] @ pair[0]) < 0.95)


# ---- properties ---------------------------------------------------------------------------------------------------


def one_loss_an_example(f, predicted, embeddings):
    given = predicted.copy(), embeddings.copy()
    loss, g = f(predicted, embeddings=embeddings)
    assert (predicted == given[0]).all() and (embeddings == given[1]).all(), "the function wrote into what it was given"
    for what, found, shape in (("loss", loss, predicted.shape[:1]), ("G", g, predicted.shape)):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def in_300_dimensions(f):
    """f of vectors of three numbers, and 297 zeros: lengths and angles are those of three dimensions, C isn't."""

    def longer(predicted, *, embeddings):
        predicted, embeddings = (np.pad(v, ((0, 0), (0, 297))) for v in (predicted, embeddings))
        loss, g = f(predicted, embeddings=embeddings)
        assert not np.asarray(g)[:, 3:].any(), "G is not zero where both ê and e are"
        return loss, np.asarray(g)[:, :3]

    return longer


def loss_in_300_dimensions(f, predicted, embeddings):
    loss_is_minus_log_density(in_300_dimensions(f), predicted, embeddings, 300)


def gradient_in_300_dimensions(f, predicted, embeddings):
    gradient_is_mean_minus_target(in_300_dimensions(f), predicted, embeddings, 300)


def loss_is_minus_log_density(f, predicted, embeddings, dim=None):
    m = dim or predicted.shape[1]
    expected = [-log_normaliser(m, kappa) - dot for kappa, dot in parts(predicted, embeddings)]
    with np.errstate(all="ignore"):
        loss, _ = f(predicted, embeddings=embeddings)
    close(loss, expected, "the loss")


def gradient_is_mean_minus_target(f, predicted, embeddings, dim=None):
    m, found = dim or predicted.shape[1], parts(predicted, embeddings)
    pull = [mean_resultant(m, kappa) / kappa for kappa, _ in found]
    expected = [[r * p - e for p, e in zip(ps, es)] for r, ps, es in zip(pull, predicted.tolist(), embeddings.tolist())]
    with np.errstate(all="ignore"):
        _, g = f(predicted, embeddings=embeddings)
    close(g, expected, "G")


def gradient_is_the_derivative_of_the_loss(f, predicted, embeddings, **options):
    h = 1e-5
    _, g = f(predicted, embeddings=embeddings, **options)
    for column in range(predicted.shape[1]):
        step = h * (np.arange(predicted.shape[1]) == column)
        right, left = (f(predicted + s, embeddings=embeddings, **options)[0] for s in (step, -step))
        close(np.asarray(g)[:, column], (right - left) / (2 * h), f"G[:, {column}]", 1e-6)


def nothing_predicted_is_no_direction(f, predicted, embeddings):
    with np.errstate(all="ignore"):
        loss, g = f(predicted, embeddings=embeddings)
    close(loss, [-log_normaliser(predicted.shape[1], 0.0)] * len(predicted), "the loss at ê = 0")
    close(g, -embeddings, "G at ê = 0")


def large_kappa_is_right(f, predicted, embeddings):
    """Of 3 dimensions, where C₃ = κ / (4π sinh κ) and A₃ = coth κ − 1/κ."""
    predicted = predicted * 1e3
    found = parts(predicted, embeddings)
    with np.errstate(all="ignore"):
        loss, g = f(predicted, embeddings=embeddings)
    expected = [math.log(2 * math.pi / kappa) + kappa + math.log1p(-math.exp(-2 * kappa)) - dot for kappa, dot in found]
    close(loss, expected, "the loss of a large ê")
    pull = [(1 / math.tanh(kappa) - 1 / kappa) / kappa for kappa, _ in found]
    close(g, np.array(pull)[:, None] * predicted - embeddings, "G of a large ê")


def float32_stays_float32(f, predicted, embeddings):
    for what, found in zip(("loss", "G"), f(predicted, embeddings=embeddings), strict=True):
        assert found.dtype == "float32", f"{what} is {found.dtype} for float32"


def at_the_optimum_the_mean_gradient_is_zero(f, words, p):
    """ê of direction r and length κ, A(κ) = ‖r‖, found by halving; the mean of G over the words, by their p."""
    r = p @ words
    low, high = 0.0, 25.0  # A(25) = 0.96
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_resultant(words.shape[1], middle) < np.linalg.norm(r) else (low, middle)
    predicted = np.tile(low * r / np.linalg.norm(r), (len(words), 1))
    close(p @ np.asarray(f(predicted, embeddings=words)[1]), np.zeros(words.shape[1]), "the mean of G at its optimum")


def lambda_1_adds_the_length(f, predicted, embeddings, lambda_1):
    loss, g = f(predicted, embeddings=embeddings, lambda_1=lambda_1)
    lengths = np.array([kappa for kappa, _ in parts(predicted, embeddings)])
    plain = [-log_normaliser(predicted.shape[1], k) - dot for k, dot in parts(predicted, embeddings)]
    close(loss, plain + lambda_1 * lengths, f"the loss with lambda_1={lambda_1}")
    pull = np.array([mean_resultant(predicted.shape[1], k) + lambda_1 for k in lengths]) / lengths
    close(g, pull[:, None] * predicted - embeddings, f"G with lambda_1={lambda_1}")


def lambda_2_weighs_the_target(f, predicted, embeddings, lambda_2):
    loss, g = f(predicted, embeddings=embeddings, lambda_2=lambda_2)
    found = parts(predicted, embeddings)
    expected = [-log_normaliser(predicted.shape[1], k) - lambda_2 * dot for k, dot in found]
    close(loss, expected, f"the loss with lambda_2={lambda_2}")
    pull = np.array([mean_resultant(predicted.shape[1], k) / k for k, _ in found])
    close(g, pull[:, None] * predicted - lambda_2 * embeddings, f"G with lambda_2={lambda_2}")


def not_exchanged(f, predicted, embeddings, lambda_1, lambda_2):
    """Says nothing of a loss that is wrong in another way."""
    with np.errstate(all="ignore"):
        loss, _ = f(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)
    m, found = predicted.shape[1], parts(predicted, embeddings)
    exchanged = [-log_normaliser(m, k) - lambda_1 * dot + lambda_2 * k for k, dot in found]
    assert np.shape(loss) != np.shape(exchanged) or not np.allclose(loss, exchanged, rtol=1e-6), (
        f"with lambda_1={lambda_1}, lambda_2={lambda_2} the loss is −log C − {lambda_1} ê·e + {lambda_2} κ"
    )


def both_together(f, predicted, embeddings, lambda_1, lambda_2):
    loss, _ = f(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)
    m, found = predicted.shape[1], parts(predicted, embeddings)
    expected = [-log_normaliser(m, k) - lambda_2 * dot + lambda_1 * k for k, dot in found]
    close(loss, expected, f"the loss with lambda_1={lambda_1}, lambda_2={lambda_2}")
    gradient_is_the_derivative_of_the_loss(f, predicted, embeddings, lambda_1=lambda_1, lambda_2=lambda_2)


CHAPTER = Chapter(
    name="vmf",
    module="losses.structured.von_mises_fisher",
    function="von_mises_fisher",
    signature="von_mises_fisher(predicted (B, m), *, embeddings (B, m), lambda_1=0.0, lambda_2=1.0) "
    "-> loss (B,), G (B, m)",
    lessons=(
        Lesson(
            "one loss an example",
            "(2)",
            """The function is pure: it gives one loss and one gradient an example, and leaves the vectors as they are.
            Means over the batch are the layer's.""",
            vectors,
            one_loss_an_example,
        ),
        Lesson(
            "λ₁ is κ's, λ₂ is ê·e's",
            "(5)",
            """λ₁ and λ₂ together: −log C(κ) − λ₂ ê·e + λ₁ κ. You have exchanged them. (So does
            the authors' code, in a line that is switched off.)""",
            one_example_with_both,
            not_exchanged,
            option="lambda_1",
        ),
        Lesson(
            "the loss is −log C(κ) − ê·e",
            "(2)",
            """κ is the length of ê, and ê·e = κ cos θ, not cos θ. In m dimensions the order of the Bessel function in
            C is m/2 − 1. `scipy.special.ive` is e^−κ times the Bessel function: κ must be added to its logarithm.""",
            vectors,
            loss_is_minus_log_density,
        ),
        Lesson(
            "300 dimensions are like three",
            "(2)",
            """The Bessel function of order 149 is some 10⁻³⁵⁰ at κ = ½, which no float can hold, and
            `scipy.special.ive` gives up even earlier, at 10⁻³⁰⁴: take its logarithm without computing it, as
            `losses.vmf_log_normaliser` does. (The example has 297 zeros besides.)""",
            lambda: vectors(dims=(3,)),
            loss_in_300_dimensions,
        ),
        Lesson(
            "G is A(κ) ê/κ − e",
            "(3)",
            """The derivative of −log C is A = I_{m/2} / I_{m/2−1}, in the direction ê/κ, which is not ê: A ê is κ times
            too much. Approximations of A are off by a factor of up to m/(m − 2) if their order is.""",
            vectors,
            gradient_is_mean_minus_target,
        ),
        Lesson(
            "G in 300 dimensions",
            "(3)",
            """Both Bessel functions of the ratio A may be zero in floating point, the ratio isn't. It comes from the
            recurrence, downwards: `losses.vmf_mean_resultant`. (The example has 297 zeros besides.)""",
            lambda: vectors(dims=(3,)),
            gradient_in_300_dimensions,
        ),
        Lesson(
            "G is the derivative of the loss",
            "(3)",
            """Loss and gradient belong together. If log C comes from a library that knows nothing of your gradients,
            its part is missing without a word, and G is −e alone.""",
            vectors,
            gradient_is_the_derivative_of_the_loss,
        ),
        Lesson(
            "ê = 0 is no direction, and no trouble",
            "(3)",
            """At κ = 0 the density is one over the area of the sphere, Γ(m/2) / (2 π^{m/2}), and G is −e: A(κ)/κ goes
            to 1/m. Don't divide by κ.""",
            lambda: vectors(zero=True),
            nothing_predicted_is_no_direction,
        ),
        Lesson(
            "a large ê is no trouble",
            "(2)",
            """e^κ overflows at κ = 710, and sinh κ, and the Bessel functions. Their logarithms don't.""",
            lambda: vectors(dims=(3,)),
            large_kappa_is_right,
        ),
        Lesson(
            "float32 stays float32",
            "(2)",
            """Compute the Bessel functions in float64, but give back what you were given: else all that follows becomes
            float64.""",
            lambda: vectors(dtype="float32"),
            float32_stays_float32,
        ),
        Lesson(
            "the optimum is the mean of the targets",
            "(4)",
            """Where several words may follow, ê turns to the mean r of their vectors, and is as long as A(κ) = ‖r‖.""",
            targets,
            at_the_optimum_the_mean_gradient_is_zero,
        ),
        Lesson(
            "λ₁ adds λ₁ κ",
            "(5)",
            """The first regulariser is λ₁ ‖ê‖, not its square, and so λ₁ ê/κ in the gradient.""",
            with_lambda_1,
            lambda_1_adds_the_length,
            option="lambda_1",
        ),
        Lesson(
            "λ₂ weighs ê·e",
            "(5)",
            """The second regulariser weighs the target's part, ê·e, in loss and gradient, and not the normaliser.""",
            with_lambda_2,
            lambda_2_weighs_the_target,
            option="lambda_2",
        ),
        Lesson(
            "λ₁ and λ₂ together",
            "(5)",
            """−log C(κ) − λ₂ ê·e + λ₁ κ: which of them is which is easily exchanged.""",
            with_both,
            both_together,
            option="lambda_1",
        ),
    ),
)
