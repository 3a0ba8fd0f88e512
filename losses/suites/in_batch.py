"""What must be true of `in_batch_softmax(scores, *, log_q, repeats=None) -> loss, G`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter.
"""

import itertools
import math

import numpy as np

from . import Chapter, Lesson, close
from .negative import distributions
from .ranking import FAR


def batches(limit: float = 6.0, dtype: str = "float64", max_batch: int = 4):
    """Strategy: (scores (B, B), log_q (B,)), B from 1."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    def quarters(low, high):  # simple numbers to read in a smallest failing example
        return st.integers(round(4 * low), round(4 * high)).map(lambda i: i / 4)

    return st.integers(1, max_batch).flatmap(
        lambda b: st.tuples(
            hnp.arrays(dtype, (b, b), elements=quarters(-limit, limit)),
            hnp.arrays(dtype, b, elements=quarters(-4.0, 0.0)),
        )
    )


def far_batches():
    """The same with scores of ±1000."""
    return batches(dtype="float32").map(lambda pair: (np.float32(1000) * np.sign(pair[0] + 0.1), pair[1]))


def batches_of_one():
    return batches(limit=1000.0, max_batch=1)


def batches_with_repeats():
    """The same, and booleans (B, B), false on the diagonal: which columns a row leaves out."""
    from hypothesis.extra import numpy as hnp

    def with_repeats(pair):
        b = len(pair[1])
        return hnp.arrays(bool, (b, b)).map(lambda some: (*pair, some & ~np.eye(b, dtype=bool)))

    return batches().flatmap(with_repeats)


def by_definition(scores, log_q, repeats=None):
    """(2) and (3), each row alone: −log of a softmax over the columns that are left, and its derivatives."""
    losses, gradients = [], []
    for i, row in enumerate(scores.tolist()):
        kept = [repeats is None or not repeats[i][j] for j in range(len(row))]
        a = [s - float(c) for s, c in zip(row, log_q, strict=True)]
        top = max(x for x, keep in zip(a, kept, strict=True) if keep)
        e = [math.exp(x - top) if keep else 0.0 for x, keep in zip(a, kept, strict=True)]
        losses.append(math.log(sum(e)) - (a[i] - top))
        gradients.append([x / sum(e) - (j == i) for j, x in enumerate(e)])
    return losses, gradients


def one_loss_an_example(f, scores, log_q):
    given = scores.copy(), log_q.copy()
    loss, g = f(scores, log_q=log_q)
    assert (scores == given[0]).all() and (log_q == given[1]).all(), "the function wrote into what it was given"
    for what, found, shape in (("loss", loss, log_q.shape), ("G", g, scores.shape)):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def loss_is_minus_log_of_the_share_of_the_diagonal(f, scores, log_q):
    close(f(scores, log_q=log_q)[0], by_definition(scores, log_q)[0], "the loss")


def a_constant_in_log_q_cancels(f, scores, log_q):
    (loss, g), (loss_there, g_there) = f(scores, log_q=log_q), f(scores, log_q=log_q + 4.0)
    close(loss_there, loss, "the loss with 4 added to every log q")
    close(g_there, g, "G with 4 added to every log q")


def all_is_right_far_from_zero(f, scores, log_q):
    with np.errstate(all="ignore"):
        loss, g = f(scores, log_q=log_q)
    expected = by_definition(scores, log_q)
    close(loss, expected[0], "the loss", FAR)
    close(g, expected[1], "G", FAR)


def float32_stays_float32(f, scores, log_q):
    for what, found in zip(("loss", "G"), f(scores, log_q=log_q), strict=True):
        assert found.dtype == "float32", f"{what} is {found.dtype} for float32 scores"


def gradient_is_the_share_minus_one_on_the_diagonal(f, scores, log_q):
    close(f(scores, log_q=log_q)[1], by_definition(scores, log_q)[1], "G")


def gradient_is_the_derivative_of_the_loss(f, scores, log_q):
    h, g = 1e-6, f(scores, log_q=log_q)[1]
    for j in range(len(log_q)):
        step = h * (np.arange(len(log_q)) == j)
        slope = (np.array(f(scores + step, log_q=log_q)[0]) - f(scores - step, log_q=log_q)[0]) / (2 * h)
        close(g[:, j], slope, f"G[:, {j}]", 1e-6)


def optimum_is_log_p_and_any_constant(f, p, q, k):
    """In a batch of 1 + k: the mean of row i's gradient, t_i ~ P, the other targets ~ q, every batch by its chance."""
    v = len(p)
    for c in (0.0, 1.5):
        s, mean = np.log(p) + c, np.zeros(v)
        for targets in itertools.product(range(v), repeat=1 + k):
            targets = np.array(targets)
            _, g = f(np.tile(s[targets], (1 + k, 1)), log_q=np.log(q)[targets])
            chance = q[targets].prod() * p[targets] / q[targets]  # (B,): of row i
            np.add.at(mean, targets, chance @ g)
        close(mean, np.zeros(v), f"the mean gradient at log P + {c}")


def alone_there_is_nothing_to_learn(f, scores, log_q):
    loss, g = f(scores, log_q=log_q)
    close(loss, [0.0], "the loss of a batch of one")
    close(g, [[0.0]], "G of a batch of one")


def what_is_left_out_is_not_there(f, scores, log_q, repeats):
    loss, g = f(scores, log_q=log_q, repeats=repeats)
    expected = by_definition(scores, log_q, repeats)
    close(loss, expected[0], "the loss with repeats")
    close(g, expected[1], "G with repeats")
    assert (np.asarray(g)[repeats] == 0).all(), "G of what is left out must be 0, exactly"


CHAPTER = Chapter(
    name="in-batch",
    module="losses.sampled.in_batch",
    function="in_batch_softmax",
    signature="in_batch_softmax(scores (B, B), *, log_q (B,), repeats=None) -> loss (B,), G (B, B)",
    lessons=(
        Lesson(
            "one loss an example",
            "(2)",
            """The function is pure: it gives one loss an example and one gradient a score, and leaves what it is given
            as it is. Means over the batch are the layer's.""",
            batches,
            one_loss_an_example,
        ),
        Lesson(
            "the loss is −log of the diagonal's share in its row",
            "(2)",
            """Row i is context i, column j is target j: the right one is on the diagonal, and log q of the word in
            column j is subtracted from all of column j. Subtracted from row i it would cancel, and correct nothing.""",
            batches,
            loss_is_minus_log_of_the_share_of_the_diagonal,
        ),
        Lesson(
            "a constant in log q cancels",
            "(2)",
            """Σ e^{a − c} has the factor e^−c, above and below the line: counts serve as well as probabilities.""",
            batches,
            a_constant_in_log_q_cancels,
        ),
        Lesson(
            "all is right far from zero",
            "(2)",
            """e^1000 is infinite, and e^−1000 is 0, whose logarithm is infinite. Subtract the greatest of a row
            first. (To 10⁻⁴: the sum m + log Σ e^{a − m} is rounded to the digits of m, 6·10⁻⁵ near 1000. Who subtracts
            a_ii before, as `softmax.py`, (2), doesn't lose these.)""",
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
            "G is the share, minus one on the diagonal",
            "(3)",
            """Each word of the batch is pushed down by its share in the row, and the right one lifted by 1.""",
            batches,
            gradient_is_the_share_minus_one_on_the_diagonal,
        ),
        Lesson(
            "G is the derivative of the loss",
            "(3)",
            """The loss and G must be of the same function: what is scaled or left out in one is so in the other.""",
            batches,
            gradient_is_the_derivative_of_the_loss,
        ),
        Lesson(
            "alone there is nothing to learn",
            "(4)",
            """In a batch of one the right word is the only candidate: its share is 1, whatever its score.""",
            batches_of_one,
            alone_there_is_nothing_to_learn,
        ),
        Lesson(
            "the optimum is log P + c",
            "(4)",
            """If the other targets are drawn from q, the mean gradient is zero at log P and any constant. If it isn't:
            is log q subtracted, not added? Is a word that is there twice left out?""",
            distributions,
            optimum_is_log_p_and_any_constant,
        ),
        Lesson(
            "what is left out is not there",
            "(6)",
            """A place that `repeats` marks has no part in its row's sum, and its gradient is 0, exactly: −10³⁰ in place
            of its a does that. (A score of 0 does not: e⁰ is 1.)""",
            batches_with_repeats,
            what_is_left_out_is_not_there,
            option="repeats",
        ),
    ),
)
