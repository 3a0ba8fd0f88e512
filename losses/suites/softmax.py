"""What must be true of `softmax_cross_entropy(scores, targets) -> loss, G`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter.
"""

import math

import numpy as np

from . import Chapter, Lesson, close


def batches(limit: float = 8.0, dtype: str = "float64"):
    """Strategy: (scores (B, V), targets (B,)), B and V from 1."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    # quarters: simple numbers to read in a smallest failing example
    elements = st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)
    return st.tuples(st.integers(1, 3), st.integers(1, 4)).flatmap(
        lambda size: st.tuples(
            hnp.arrays(dtype, size, elements=elements),
            hnp.arrays("int64", size[0], elements=st.integers(0, size[1] - 1)),
        )
    )


def far_batches():
    """The same with scores of ±1000."""
    return batches(dtype="float32").map(lambda pair: (np.float32(1000) * np.sign(pair[0] + 0.1), pair[1]))


def _softmax(row):
    top = max(row)
    exponentials = [math.exp(s - top) for s in row]
    return [e / sum(exponentials) for e in exponentials]


def one_loss_an_example(f, scores, targets):
    given = scores.copy(), targets.copy()
    loss, g = f(scores, targets)
    assert (scores == given[0]).all() and (targets == given[1]).all(), "the function wrote into what it was given"
    for what, found, shape in (("loss", loss, targets.shape), ("G", g, scores.shape)):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def loss_is_minus_log_p(f, scores, targets):
    expected = [-math.log(_softmax(row)[t]) for row, t in zip(scores.tolist(), targets, strict=True)]
    close(f(scores, targets)[0], expected, "the loss")


def a_constant_added_to_all_scores_cancels(f, scores, targets):
    (loss, g), (loss_there, g_there) = f(scores, targets), f(scores + 64.0, targets)
    close(loss_there, loss, "the loss with 64 added to every score")
    close(g_there, g, "G with 64 added to every score")


def all_is_right_far_from_zero(f, scores, targets):
    with np.errstate(all="ignore"):
        loss, g = f(scores, targets)
    p = np.array([_softmax(row) for row in scores.tolist()])
    top, equals = scores.max(axis=1), (scores == scores.max(axis=1, keepdims=True)).sum(axis=1)
    rows = np.arange(len(targets))
    close(loss, top - scores[rows, targets] + np.log(equals), "the loss", 1e-6)
    p[rows, targets] -= 1.0
    close(g, p, "G", 1e-6)


def float32_stays_float32(f, scores, targets):
    for what, found in zip(("loss", "G"), f(scores, targets), strict=True):
        assert found.dtype == "float32", f"{what} is {found.dtype} for float32 scores"


def gradient_is_p_minus_one_at_the_target(f, scores, targets):
    expected = np.array([_softmax(row) for row in scores.tolist()])
    expected[np.arange(len(targets)), targets] -= 1.0
    close(f(scores, targets)[1], expected, "G")


def gradient_sums_to_zero(f, scores, targets):
    close(np.sum(f(scores, targets)[1], axis=1), np.zeros(len(targets)), "Σ G of each example")


def gradient_is_the_derivative_of_the_loss(f, scores, targets):
    h, g = 1e-6, f(scores, targets)[1]
    for w in range(scores.shape[1]):
        step = h * (np.arange(scores.shape[1]) == w)
        slope = (f(scores + step, targets)[0] - f(scores - step, targets)[0]) / (2 * h)
        close(g[:, w], slope, f"G[:, {w}]", 1e-6)


CHAPTER = Chapter(
    name="softmax",
    module="losses.softmax",
    function="softmax_cross_entropy",
    signature="softmax_cross_entropy(scores (B, V), targets (B,)) -> loss (B,), G (B, V)",
    lessons=(
        Lesson(
            "one loss an example",
            "(1)",
            """The function is pure: it gives one loss an example and one gradient a score, and leaves the scores as
            they are. Means over the batch are the layer's.""",
            batches,
            one_loss_an_example,
        ),
        Lesson(
            "the loss is −log p of the target",
            "(1)",
            """L = log Σ_v e^{s_v} − s_t: the logarithm of the sum of all exponentials, the target's own among them.""",
            batches,
            loss_is_minus_log_p,
        ),
        Lesson(
            "a constant added to all scores cancels",
            "(2)",
            """e^{s + c} has the factor e^c above and below the line. What is subtracted before the exponential must
            come back after the logarithm.""",
            batches,
            a_constant_added_to_all_scores_cancels,
        ),
        Lesson(
            "all is right far from zero",
            "(2)",
            """e^1000 is infinite, and e^−1000 is 0, whose logarithm is infinite. With the greatest score subtracted no
            exponential exceeds 1, and their sum is at least 1. Subtract it from s_t as well: log Σ + (m − s_t) has
            digits that (m + log Σ) − s_t rounds away.""",
            far_batches,
            all_is_right_far_from_zero,
        ),
        Lesson(
            "float32 stays float32",
            "(2)",
            """A float64 scalar or array among the operands turns all that follows into float64: twice the memory, half
            the speed.""",
            lambda: batches(dtype="float32"),
            float32_stays_float32,
        ),
        Lesson(
            "G is p − 1 at the target, and p elsewhere",
            "(3)",
            """Every word has a gradient: p_w pushes each down, −1 lifts the target.""",
            batches,
            gradient_is_p_minus_one_at_the_target,
        ),
        Lesson(
            "G sums to zero",
            "(3)",
            """Σ_w p_w = 1: what the right word gains the others lose.""",
            batches,
            gradient_sums_to_zero,
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
