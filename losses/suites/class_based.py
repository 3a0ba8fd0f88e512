"""What must be true of `class_softmax(class_scores, word_scores, *, target_class, target_word, sizes)`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter.
"""

import math

import numpy as np

from . import Chapter, Lesson, close


def batches(limit: float = 6.0, dtype: str = "float64", filling=(0.0,)):
    """Strategy: (class_scores (B, C), word_scores (B, n), target_class (B,), target_word (B,), sizes (B,)).

    filling: what the columns of word_scores from sizes on may hold.
    """
    from hypothesis import strategies as st

    # quarters: simple numbers to read in a smallest failing example
    score = st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)

    @st.composite
    def batch(draw):
        num_classes, width = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        sizes = draw(st.lists(st.integers(1, width), min_size=1, max_size=3))
        many = lambda n, one=score: draw(st.lists(one, min_size=n, max_size=n))
        words = [many(n) + many(width - n, st.sampled_from(filling)) for n in sizes]
        target_class = [draw(st.integers(0, num_classes - 1)) for _ in sizes]
        target_word = [draw(st.integers(0, n - 1)) for n in sizes]
        classes = np.array([many(num_classes) for _ in sizes], dtype)
        return classes, np.array(words, dtype), np.array(target_class), np.array(target_word), np.array(sizes)

    return batch()


def far_batches():
    """The same with scores of ±10,000."""

    def far(classes, words, *rest):
        return (*(np.float32(1e4) * np.sign(s + 0.1) for s in (classes, words)), *rest)

    return batches(dtype="float32").map(lambda batch: far(*batch))


def filled_batches():
    """The same with anything in the columns that are no words."""
    return batches(filling=(0.0, 50.0, 1e300, math.inf, -math.inf, math.nan))


def partitions():
    """Strategy: (class_scores (C,), word_scores, a list of C lists): all scores of one context."""
    from hypothesis import strategies as st

    scores = st.lists(st.integers(-16, 16).map(lambda i: i / 4), min_size=1, max_size=4)
    return st.lists(st.tuples(st.integers(-16, 16).map(lambda i: i / 4), scores), min_size=1, max_size=4).map(
        lambda classes: (np.array([s for s, _ in classes]), [words for _, words in classes])
    )


def softmax(scores):
    top = max(scores)
    total = sum(math.exp(s - top) for s in scores)
    return [math.exp(s - top) / total for s in scores]


def called(f, class_scores, word_scores, target_class, target_word, sizes):
    return f(class_scores, word_scores, target_class=target_class, target_word=target_word, sizes=sizes)


def one_loss_an_example(f, class_scores, word_scores, target_class, target_word, sizes):
    given = class_scores.copy(), word_scores.copy()
    loss, g_class, g_word = called(f, class_scores, word_scores, target_class, target_word, sizes)
    written = (class_scores != given[0]).any() or (word_scores != given[1]).any()
    assert not written, "the function wrote into the scores it was given"
    for what, found, shape in (
        ("loss", loss, sizes.shape),
        ("G_class", g_class, class_scores.shape),
        ("G_word", g_word, word_scores.shape),
    ):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def probabilities_add_up_to_one(f, class_scores, word_scores):
    """Of all words of all classes, P = e^−L, each asked for as the target."""
    c, j = np.array([(c, j) for c, words in enumerate(word_scores) for j in range(len(words))]).T
    sizes = np.array([len(words) for words in word_scores])[c]
    padded = np.array([word_scores[k] + [0.0] * (sizes.max() - len(word_scores[k])) for k in c])
    loss, _, _ = called(f, np.tile(class_scores, (len(c), 1)), padded, c, j, sizes)
    close(sum(math.exp(-value) for value in loss), 1.0, "Σ_w P(w | h)")


def loss_is_minus_log_of_both(f, class_scores, word_scores, target_class, target_word, sizes):
    expected = [
        -math.log(softmax(classes)[c]) - math.log(softmax(words[:n])[j])
        for classes, words, c, j, n in zip(class_scores, word_scores.tolist(), target_class, target_word, sizes)
    ]
    close(called(f, class_scores, word_scores, target_class, target_word, sizes)[0], expected, "the loss")


def loss_is_right_far_from_zero(f, class_scores, word_scores, target_class, target_word, sizes):
    """Of scores so far apart a softmax is that of the highest, which m of them have: L = m's logarithm + what lacks."""

    def one(scores, target):
        top = max(scores)
        return (top - scores[target]) + math.log(scores.count(top))

    expected = [
        one(classes, c) + one(words[:n], j)
        for classes, words, c, j, n in zip(
            class_scores.tolist(), word_scores.tolist(), target_class, target_word, sizes, strict=True
        )
    ]
    with np.errstate(all="ignore"):
        found = called(f, class_scores, word_scores, target_class, target_word, sizes)[0]
    close(found, expected, "the loss", 1e-5)


def gradient_is_right_far_from_zero(f, class_scores, word_scores, target_class, target_word, sizes):
    with np.errstate(all="ignore"):
        _, g_class, g_word = called(f, class_scores, word_scores, target_class, target_word, sizes)
    close(g_class, expected_gradient(class_scores, target_class, [class_scores.shape[1]] * len(sizes)), "G_class", 1e-5)
    close(g_word, expected_gradient(word_scores, target_word, sizes), "G_word", 1e-5)


def float32_stays_float32(f, class_scores, word_scores, target_class, target_word, sizes):
    found = called(f, class_scores, word_scores, target_class, target_word, sizes)
    for what, part in zip(("loss", "G_class", "G_word"), found, strict=True):
        assert part.dtype == "float32", f"{what} is {part.dtype} for float32 scores"


def expected_gradient(scores, targets, sizes):
    """softmax − 1[target] of the first columns, and zero in the others, a list of rows."""
    return [
        [p - (i == t) for i, p in enumerate(softmax(row[:n]))] + [0.0] * (len(row) - n)
        for row, t, n in zip(scores.tolist(), targets, sizes)
    ]


def class_gradient_is_p_minus_one(f, class_scores, word_scores, target_class, target_word, sizes):
    _, g_class, _ = called(f, class_scores, word_scores, target_class, target_word, sizes)
    close(g_class, expected_gradient(class_scores, target_class, [class_scores.shape[1]] * len(sizes)), "G_class")


def word_gradient_is_p_minus_one(f, class_scores, word_scores, target_class, target_word, sizes):
    _, _, g_word = called(f, class_scores, word_scores, target_class, target_word, sizes)
    close(g_word, expected_gradient(word_scores, target_word, sizes), "G_word")


def filling_is_not_looked_at(f, class_scores, word_scores, target_class, target_word, sizes):
    filling = np.arange(word_scores.shape[1]) >= sizes[:, None]
    with np.errstate(all="ignore"):
        found = called(f, class_scores, word_scores, target_class, target_word, sizes)
    expected = called(f, class_scores, np.where(filling, -300.0, word_scores), target_class, target_word, sizes)
    for what, part, other in zip(("the loss", "G_class", "G_word"), found, expected):
        close(part, other, what)
    assert (np.asarray(found[2])[filling] == 0).all(), (
        f"G_word is {np.asarray(found[2]).tolist()}, not 0 in the filling"
    )


def gradient_is_the_derivative_of_the_loss(f, class_scores, word_scores, target_class, target_word, sizes):
    h, rest = 1e-6, (target_class, target_word, sizes)
    _, g_class, g_word = called(f, class_scores, word_scores, *rest)
    for what, g, at in (("G_class", g_class, 0), ("G_word", g_word, 1)):
        for j in range(np.shape(g)[1]):
            sides = []
            for step in (h, -h):
                scores = [class_scores.copy(), word_scores.copy()]
                scores[at][:, j] += step
                sides.append(np.sum(called(f, *scores, *rest)[0]))
            close(np.sum(g, axis=0)[j], (sides[0] - sides[1]) / (2 * h), f"Σ {what}[:, {j}]", 1e-6)


CHAPTER = Chapter(
    name="class",
    module="losses.structured.class_based",
    function="class_softmax",
    signature="class_softmax(class_scores (B, C), word_scores (B, n), *, target_class (B,), target_word (B,), "
    "sizes (B,)) -> loss (B,), G_class (B, C), G_word (B, n)",
    lessons=(
        Lesson(
            "one loss an example",
            "(2)",
            """The function is pure: it gives one loss and one gradient an example, and leaves the scores as they are.
            Means over the batch are the layer's.""",
            batches,
            one_loss_an_example,
        ),
        Lesson(
            "all words' probabilities add up to one",
            "(1)",
            """Each class shares out its own P(c | h) among its words: the words' softmax is over the class and nothing
            else, and P(w | h) is the product of both. (If the sum is below 1, the filling counts as words, or a word is
            left out.)""",
            partitions,
            probabilities_add_up_to_one,
        ),
        Lesson(
            "the loss is −log P(c | h) − log P(w | c, h)",
            "(2)",
            """Two decisions, two cross-entropies, each with a softmax of its own, added up: the class among the
            classes, and the word among the first sizes[b] columns.""",
            batches,
            loss_is_minus_log_of_both,
        ),
        Lesson(
            "filling is not looked at",
            "(2)",
            """The columns from sizes[b] on are no words. Put −∞ there before the softmax, whatever they hold: as zeros
            they would be words with a score of 0, and to multiply by a mask afterwards leaves NaN where NaN was.""",
            filled_batches,
            filling_is_not_looked_at,
        ),
        Lesson(
            "the loss is right far from zero",
            "(2)",
            """e^10000 is infinite and e^−10000 zero in floating point. Subtract the highest score first: of the classes
            from the classes', of the class's words from theirs; and from s_t, too, before log Z is added to it.""",
            far_batches,
            loss_is_right_far_from_zero,
        ),
        Lesson(
            "float32 stays float32",
            "(2)",
            """A float64 scalar or array among the operands turns all that follows into float64: twice the memory, half
            the speed. Use Python numbers (math.log), or cast.""",
            lambda: batches(dtype="float32"),
            float32_stays_float32,
        ),
        Lesson(
            "a class's gradient is P(c | h) − 1[c = c(t)]",
            "(3)",
            """All C classes have one, whatever the word: it raises the score of the target's class and lowers the
            others'.""",
            batches,
            class_gradient_is_p_minus_one,
        ),
        Lesson(
            "a word's gradient is P(w | c, h) − 1[w = t]",
            "(3)",
            """It is that of a softmax over the class alone: P(w | c, h), not P(w | h), and nothing in the filling.""",
            batches,
            word_gradient_is_p_minus_one,
        ),
        Lesson(
            "G is right far from zero",
            "(3)",
            """inf / inf is not a number: the softmax, too, is of scores less the highest.""",
            far_batches,
            gradient_is_right_far_from_zero,
        ),
        Lesson(
            "G is the derivative of the loss",
            "(3)",
            """The loss and G must be of the same function: what is scaled or left out in one is so in the other.""",
            batches,
            gradient_is_the_derivative_of_the_loss,
        ),
    ),
)
