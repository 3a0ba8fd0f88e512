"""What must be true of `hybrid_code(word_scores, bit_scores, *, places, bits, bit_loss=…) -> loss, G_words, G_bits`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter.
"""

import math

import numpy as np

from . import Chapter, Lesson, close
from .binary_code import sigma


def mixed(limit: float = 8.0, dtype: str = "float64"):
    """Strategy: (word_scores (B, N + 1), bit_scores (B, n), places (B,) in 0 … N, bits (B, n) uint8)."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    # quarters: simple numbers to read in a smallest failing example
    elements = st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)
    return st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)).flatmap(
        lambda size: st.tuples(
            hnp.arrays(dtype, (size[0], size[1] + 1), elements=elements),
            hnp.arrays(dtype, (size[0], size[2]), elements=elements),
            hnp.arrays("int64", size[0], elements=st.integers(0, size[1])),
            hnp.arrays("uint8", (size[0], size[2]), elements=st.integers(0, 1)),
        )
    )


def mixed_float32():
    """The same in float32."""
    return mixed(dtype="float32")


def mixed_far():
    """The same with scores of bits of ±1000, and of words by hundreds apart."""
    return mixed(dtype="float32").map(
        lambda e: (np.float32(400) * e[0], np.float32(1000) * np.sign(e[1] + np.float32(0.1)), e[2], e[3])
    )


def all_frequent():
    """`mixed`, but no target is rare."""
    return mixed().map(lambda e: (e[0], e[1], np.minimum(e[2], e[0].shape[1] - 2), e[3]))


def all_rare():
    """`mixed`, but every target is rare."""
    return mixed().map(lambda e: (e[0], e[1], np.full_like(e[2], e[0].shape[1] - 1), e[3]))


def words_and_chances():
    """Strategy: (P (V,), N): a distribution over V = 3 to 6 words, by rank, and how many of them are frequent."""
    from hypothesis import strategies as st

    def weights(v):
        return st.lists(st.integers(1, 5), min_size=v, max_size=v).map(lambda w: np.array(w) / sum(w))

    return st.integers(3, 6).flatmap(lambda v: st.tuples(weights(v), st.integers(1, v - 2)))


def softmax_of(row):
    top = max(row)
    e = [math.exp(s - top) for s in row]
    return [x / sum(e) for x in e]


def minus_log_softmax(row, place):
    top = max(row)
    return math.log(sum(math.exp(s - top) for s in row)) - (row[place] - top)


def minus_log_bits(row, bits):
    return -sum(math.log(sigma(z) if c else sigma(-z)) for z, c in zip(row, bits, strict=True))


def one_loss_an_example(f, words, z, places, bits):
    given = words.copy(), z.copy(), places.copy(), bits.copy()
    loss, G_words, G_bits = f(words, z, places=places, bits=bits)
    for before, after in zip(given, (words, z, places, bits), strict=True):
        assert (before == after).all(), "the function wrote into what it was given"
    for what, found, shape in (
        ("loss", loss, words.shape[:1]),
        ("G_words", G_words, words.shape),
        ("G_bits", G_bits, z.shape),
    ):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def frequent_target_is_a_matter_of_the_softmax(f, words, z, places, bits):
    expected = [minus_log_softmax(row, place) for row, place in zip(words.tolist(), places, strict=True)]
    close(f(words, z, places=places, bits=bits)[0], expected, "the loss of frequent targets")


def rare_target_is_other_and_its_bits(f, words, z, places, bits):
    expected = [
        minus_log_softmax(row, place) + minus_log_bits(scores, c)
        for row, place, scores, c in zip(words.tolist(), places, z.tolist(), bits.tolist(), strict=True)
    ]
    close(f(words, z, places=places, bits=bits)[0], expected, "the loss of rare targets")


def loss_is_right_far_from_zero(f, words, z, places, bits):
    with np.errstate(all="ignore"):
        loss, G_words, G_bits = f(words, z, places=places, bits=bits)
    wrong = np.where(bits != (z > 0), np.abs(z), 0).sum(axis=1)
    expected = [
        minus_log_softmax(row, place) + (w if place == len(row) - 1 else 0.0)
        for row, place, w in zip(words.tolist(), places, wrong.tolist(), strict=True)
    ]
    close(loss, expected, "the loss", 1e-5)
    assert np.isfinite(G_words).all() and np.isfinite(G_bits).all(), "a gradient isn't finite"


def float32_stays_float32(f, words, z, places, bits):
    for what, found in zip(("loss", "G_words", "G_bits"), f(words, z, places=places, bits=bits), strict=True):
        assert found.dtype == "float32", f"{what} is {found.dtype} for float32 scores"


def gradient_of_the_words_is_s_minus_one(f, words, z, places, bits):
    expected = np.array([softmax_of(row) for row in words.tolist()])
    expected[np.arange(len(places)), places] -= 1
    close(f(words, z, places=places, bits=bits)[1], expected, "G_words")


def frequent_word_says_nothing_of_the_bits(f, words, z, places, bits):
    G_bits = f(words, z, places=places, bits=bits)[2]
    close(G_bits, np.zeros(z.shape), "G_bits of frequent targets", 0.0)


def rare_word_says_its_bits(f, words, z, places, bits):
    expected = [
        [sigma(score) - c for score, c in zip(*row, strict=True)] for row in zip(z.tolist(), bits.tolist(), strict=True)
    ]
    close(f(words, z, places=places, bits=bits)[2], expected, "G_bits of rare targets")


def gradients_are_the_derivatives_of_the_loss(f, words, z, places, bits):
    derivatives_hold(lambda s, z: f(s, z, places=places, bits=bits), words, z)


def derivatives_hold(f, words, z, h=1e-6):
    _, G_words, G_bits = (np.asarray(found) for found in f(words, z))
    for what, G, which in (("G_words", G_words, 0), ("G_bits", G_bits, 1)):
        for j in range(G.shape[1]):
            step = h * (np.arange(G.shape[1]) == j)
            sides = [f(words + sign * step, z) if which == 0 else f(words, z + sign * step) for sign in (1, -1)]
            slope = (np.asarray(sides[0][0]) - np.asarray(sides[1][0])) / (2 * h)
            close(G[:, j], slope, f"{what}[:, {j}]", 1e-6)


def squared_bits_are_of_rare_targets_too(f, words, z, places, bits):
    expected = [
        minus_log_softmax(row, place)
        + (place == len(row) - 1) * sum((sigma(s) - c) ** 2 for s, c in zip(scores, cs, strict=True))
        for row, place, scores, cs in zip(words.tolist(), places, z.tolist(), bits.tolist(), strict=True)
    ]
    close(f(words, z, places=places, bits=bits, bit_loss="squared")[0], expected, "the loss with squared bits")
    derivatives_hold(lambda s, z: f(s, z, places=places, bits=bits, bit_loss="squared"), words, z)


def optimum_is_the_probability_of_each_place_and_of_each_bit_among_the_rare(f, p, N):
    """The mean gradient where S is P of each place, and q that of each bit, given that the word is rare."""
    V = len(p)
    n = (V - N - 1).bit_length()
    places, numbers = np.minimum(np.arange(V), N), np.maximum(np.arange(V) - N, 0)
    bits = np.array([[w >> b & 1 for b in reversed(range(n))] for w in numbers.tolist()], "uint8")
    s = np.log([*p[:N], p[N:].sum()]) + np.zeros((V, N + 1))
    q = p[N:] @ bits[N:] / p[N:].sum()
    z = np.log(q / (1 - q)) + np.zeros((V, n))
    _, G_words, G_bits = f(s, z, places=places, bits=bits)
    close(p @ np.asarray(G_words), np.zeros(N + 1), "the mean G_words at S = P")
    close(p @ np.asarray(G_bits), np.zeros(n), "the mean G_bits at q = P(bit | rare)")


CHAPTER = Chapter(
    name="hybrid",
    module="losses.structured.hybrid",
    function="hybrid_code",
    signature="hybrid_code(word_scores (B, N + 1), bit_scores (B, n), *, places (B,), bits (B, n) uint8, "
    'bit_loss="cross_entropy") -> loss (B,), G_words (B, N + 1), G_bits (B, n)',
    lessons=(
        Lesson(
            "one loss an example",
            "(2)",
            """The function is pure: it gives one loss an example and a gradient for each score, and leaves what it is
            given as it is. Means over the batch are the layer's.""",
            mixed,
            one_loss_an_example,
        ),
        Lesson(
            "a frequent target is a matter of the softmax alone",
            "(2)",
            """−log S of its place, among N + 1 places, for "other" is one too. What the bits are doesn't matter.""",
            all_frequent,
            frequent_target_is_a_matter_of_the_softmax,
        ),
        Lesson(
            "a rare target is “other”, and its bits",
            "(2)",
            """P(w | h) is a product, P_S(other | h) times that of the bits, so that both logarithms are in the loss.
            "Other" is the last place, N.""",
            all_rare,
            rare_target_is_other_and_its_bits,
        ),
        Lesson(
            "the loss is right far from zero",
            "(2)",
            """No exponential of a large number: the greatest score is taken from all others first, and −log σ(z) is
            softplus(−z). Nor the logarithm of an S that has become 0: log S is the score less the greatest, less log Σ
            of the exponentials. And what a mask multiplies by 0 must be finite: 0 times infinity is no number.""",
            mixed_far,
            loss_is_right_far_from_zero,
        ),
        Lesson(
            "float32 stays float32",
            "(2)",
            """A float64 scalar or array among the operands turns all that follows into float64, a mask of integers of
            64 bits as well. Use `where`, or give the mask the type of the scores.""",
            mixed_float32,
            float32_stays_float32,
        ),
        Lesson(
            "the words' gradient is S − 1 at the target's place",
            "(3)",
            """As of any softmax, over N + 1 places; a rare target's place is N.""",
            mixed,
            gradient_of_the_words_is_s_minus_one,
        ),
        Lesson(
            "a frequent target gives the bits no gradient",
            "(3)",
            """It has no number in the code. What stands in for its bits, zeros say, would pull the bits toward the
            first rare word.""",
            all_frequent,
            frequent_word_says_nothing_of_the_bits,
        ),
        Lesson(
            "a rare target's bits have the gradient q − c",
            "(3)",
            """The whole of it, not P_S(other) times it: the logarithm of a product has a term for each factor.""",
            all_rare,
            rare_word_says_its_bits,
        ),
        Lesson(
            "the gradients are the derivatives of the loss",
            "(3)",
            """The loss and the G must be of the same function: what is masked in one is masked in the other.""",
            mixed,
            gradients_are_the_derivatives_of_the_loss,
        ),
        Lesson(
            "squared bits are masked as well",
            "(2)",
            """With bit_loss="squared" a rare target adds Σ (q − c)²; the softmax keeps its cross-entropy.""",
            mixed,
            squared_bits_are_of_rare_targets_too,
            option="bit_loss",
        ),
        Lesson(
            "the optimum is P of each place, and of each bit among the rare words",
            "(3)",
            """Averaged over the words by their probability, the gradient is zero where S is the probability of each
            place, and q that of each bit, given that the word is rare: frequent words have no part in it.""",
            words_and_chances,
            optimum_is_the_probability_of_each_place_and_of_each_bit_among_the_rare,
        ),
    ),
)
