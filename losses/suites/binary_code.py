"""What must be true of `binary_code(bit_scores, *, bits, bit_loss="cross_entropy") -> loss, G`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter.
"""

import math

import numpy as np

from . import Chapter, Lesson, close


def coded(limit: float = 8.0, dtype: str = "float64"):
    """Strategy: (bit_scores (B, n), bits (B, n) uint8), B and n from 1."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    # quarters: simple numbers to read in a smallest failing example
    elements = st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)
    return st.tuples(st.integers(1, 3), st.integers(1, 4)).flatmap(
        lambda size: st.tuples(
            hnp.arrays(dtype, size, elements=elements), hnp.arrays("uint8", size, elements=st.integers(0, 1))
        )
    )


def coded_float32():
    """The same in float32."""
    return coded(dtype="float32")


def coded_far():
    """The same with scores of ±1000."""
    return coded(dtype="float32").map(lambda pair: (np.float32(1000) * np.sign(pair[0] + np.float32(0.1)), pair[1]))


def words_and_chances():
    """Strategy: (P (V,), bits (V, n)): a distribution over V = 2 to 6 words, and their numbers in binary."""
    from hypothesis import strategies as st

    def words(weights):
        n = (len(weights) - 1).bit_length()
        bits = [[w >> b & 1 for b in reversed(range(n))] for w in range(len(weights))]
        return np.array(weights) / sum(weights), np.array(bits, "uint8")

    return st.integers(2, 6).flatmap(lambda v: st.lists(st.integers(1, 5), min_size=v, max_size=v)).map(words)


def sigma(z):
    return 1 / (1 + math.exp(-z))


def each_bit(of, scores, bits):
    """of(z, c) for every score and its bit, (B, n)."""
    return np.array([[of(z, c) for z, c in zip(*row, strict=True)] for row in zip(scores, bits.tolist(), strict=True)])


def one_loss_an_example(f, scores, bits):
    given = scores.copy(), bits.copy()
    loss, G = f(scores, bits=bits)
    assert (scores == given[0]).all() and (bits == given[1]).all(), "the function wrote into what it was given"
    for what, found, shape in (("loss", loss, scores.shape[:1]), ("G", G, scores.shape)):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def loss_is_the_sum_over_the_bits(f, scores, bits):
    expected = each_bit(lambda z, c: -math.log(sigma(z) if c else sigma(-z)), scores, bits).sum(axis=1)
    close(f(scores, bits=bits)[0], expected, "the loss")


def loss_is_right_far_from_zero(f, scores, bits):
    with np.errstate(all="ignore"):
        loss = f(scores, bits=bits)[0]
    close(loss, each_bit(lambda z, c: abs(z) if c != (z > 0) else 0.0, scores, bits).sum(axis=1), "the loss", 1e-6)


def float32_stays_float32(f, scores, bits):
    for what, found in zip(("loss", "G"), f(scores, bits=bits), strict=True):
        assert found.dtype == "float32", f"{what} is {found.dtype} for float32 scores"


def gradient_is_q_minus_c(f, scores, bits):
    close(f(scores, bits=bits)[1], each_bit(lambda z, c: sigma(z) - c, scores, bits), "G")


def gradient_is_right_far_from_zero(f, scores, bits):
    with np.errstate(all="ignore"):
        G = f(scores, bits=bits)[1]
    close(G, each_bit(lambda z, c: float(z > 0) - c, scores, bits), "G", 1e-6)


def gradient_is_the_derivative_of_the_loss(f, scores, bits):
    slopes_are_the_gradient(lambda z: f(z, bits=bits), scores)


def slopes_are_the_gradient(f, scores):
    h, (_, G) = 1e-6, f(scores)
    for b in range(scores.shape[1]):
        step = h * (np.arange(scores.shape[1]) == b)
        slope = (np.asarray(f(scores + step)[0]) - np.asarray(f(scores - step)[0])) / (2 * h)
        close(np.asarray(G)[:, b], slope, f"G[:, {b}]", 1e-6)


def squared_is_the_sum_of_squares(f, scores, bits):
    expected = each_bit(lambda z, c: (sigma(z) - c) ** 2, scores, bits).sum(axis=1)
    close(f(scores, bits=bits, bit_loss="squared")[0], expected, "the squared loss")
    slopes_are_the_gradient(lambda z: f(z, bits=bits, bit_loss="squared"), scores)


def squared_gradient_vanishes_far_from_zero(f, scores, bits):
    with np.errstate(all="ignore"):
        loss, G = f(scores, bits=bits, bit_loss="squared")
    close(loss, each_bit(lambda z, c: float(c != (z > 0)), scores, bits).sum(axis=1), "the squared loss", 1e-6)
    close(G, np.zeros(scores.shape), "G of the squared loss", 1e-6)
    assert loss.dtype == G.dtype == "float32", f"loss and G are {loss.dtype} and {G.dtype} for float32 scores"


def mean_gradient(f, p, bits, **options):
    """At q = Σ P(w) c(w), over every target by its probability."""
    q = p @ bits
    z = np.log(q / (1 - q)) + np.zeros(bits.shape)
    return p @ np.asarray(f(z, bits=bits, **options)[1])


def optimum_is_the_probability_of_each_bit(f, p, bits):
    close(mean_gradient(f, p, bits), np.zeros(bits.shape[1]), "the mean gradient at q = Σ P c")


def optimum_of_the_squared_loss_is_the_same(f, p, bits):
    found = mean_gradient(f, p, bits, bit_loss="squared")
    close(found, np.zeros(bits.shape[1]), "the mean gradient of the squared loss at q = Σ P c")


CHAPTER = Chapter(
    name="binary",
    module="losses.structured.binary_code",
    function="binary_code",
    signature='binary_code(bit_scores (B, n), *, bits (B, n) uint8, bit_loss="cross_entropy") -> loss (B,), G (B, n)',
    lessons=(
        Lesson(
            "one loss an example",
            "(1)",
            """The function is pure: it gives one loss an example and one gradient a bit, and leaves what it is given as
            it is. The bits of a word are added up; means over the batch are the layer's.""",
            coded,
            one_loss_an_example,
        ),
        Lesson(
            "the loss is the sum of −log of the right bits' probabilities",
            "(2)",
            """−log σ(z) for a bit that is 1, −log (1 − σ(z)) = −log σ(−z) for one that is 0; added, not averaged: the
            word's probability is the product. Bits are unsigned integers, which have no −1: in them 2 c − 1 is 255 for
            a 0, and −y is 255 for a 1. Make them floats first.""",
            coded,
            loss_is_the_sum_over_the_bits,
        ),
        Lesson(
            "the loss is right far from zero",
            "(2)",
            """−log σ(−1000) is 1000, but σ(−1000) is 0 in floating point and its logarithm infinite. softplus(z) =
            max(z, 0) + log(1 + e^−|z|) takes no exponential of a large number.""",
            coded_far,
            loss_is_right_far_from_zero,
        ),
        Lesson(
            "float32 stays float32",
            "(2)",
            """A float64 scalar or array among the operands turns all that follows into float64, and so do bits that
            are integers of 32 or 64 bits. Give the bits the type of the scores.""",
            coded_float32,
            float32_stays_float32,
        ),
        Lesson(
            "G is q − c",
            "(3)",
            """σ(z) − 1 for a bit that is 1, so that a step raises its score; σ(z) for one that is 0.""",
            coded,
            gradient_is_q_minus_c,
        ),
        Lesson(
            "G is right far from zero",
            "(3)",
            """σ(1000) is 1 and σ(−1000) is 0; e^1000 / (1 + e^1000) is inf / inf, not a number.""",
            coded_far,
            gradient_is_right_far_from_zero,
        ),
        Lesson(
            "G is the derivative of the loss",
            "(3)",
            """The loss and G must be of the same function: what is scaled or left out in one is so in the other.""",
            coded,
            gradient_is_the_derivative_of_the_loss,
        ),
        Lesson(
            "the squared loss is the sum of (q − c)²",
            "(4)",
            """No half before it, and no mean. Its derivative is 2 (q − c) q (1 − q), for dq/dz = q (1 − q).""",
            coded,
            squared_is_the_sum_of_squares,
            option="bit_loss",
        ),
        Lesson(
            "the squared loss has no gradient far from zero",
            "(4)",
            """q (1 − q) is zero where σ is flat, even of a wrong bit: such a loss can't correct what it is sure of.""",
            coded_far,
            squared_gradient_vanishes_far_from_zero,
            option="bit_loss",
        ),
        Lesson(
            "the optimum is the probability of each bit",
            "(5)",
            """Where q_b is the probability that bit b is 1, the words that have it and those that haven't pull equally
            at its score, and the mean gradient is zero. If it isn't, one side has the wrong weight.""",
            words_and_chances,
            optimum_is_the_probability_of_each_bit,
        ),
        Lesson(
            "the optimum of the squared loss is the same",
            "(5)",
            """The mean of (q − c)² is least where q is the mean of c. One of |q − c| would be least at 0 or 1.""",
            words_and_chances,
            optimum_of_the_squared_loss_is_the_same,
            option="bit_loss",
        ),
    ),
)
