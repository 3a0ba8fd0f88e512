"""What must be true of `margin_loss(target_scores, negative_scores, *, margin=1.0, valid=None) -> loss, G, G`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, number by number, not from the chapter.
"""

import numpy as np

from . import Chapter, Lesson, close


def scores(dtype: str = "float64", limit: float = 4.0):
    """Strategy: (target_scores (B,), negative_scores (B, n)), in quarters, so that many lie just at the margin of 1."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    elements = st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)
    return st.tuples(st.integers(1, 3), st.integers(1, 4)).flatmap(
        lambda size: st.tuples(
            hnp.arrays(dtype, size[0], elements=elements), hnp.arrays(dtype, size, elements=elements)
        )
    )


def off_the_margin():
    """The same, but none of them just at the margin, where there is no derivative."""
    return scores().map(lambda pair: (pair[0] + 0.125, pair[1]))


def with_shifts():
    """The same, with a number for each example."""
    from hypothesis import strategies as st

    return scores().flatmap(
        lambda pair: st.lists(st.integers(-9, 9), min_size=len(pair[0]), max_size=len(pair[0])).map(
            lambda c: (*pair, np.array(c, "float64"))
        )
    )


def with_margins():
    from hypothesis import strategies as st

    return st.builds(lambda pair, m: (*pair, m), scores(dtype="float32"), st.sampled_from([0.25, 0.5, 2.0, 3.0]))


def with_valid():
    """The same, with booleans which of the negatives count; those that don't may hold anything."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    def rubbish(pair, valid, junk):
        return pair[0], np.where(valid, pair[1], junk).astype(pair[1].dtype), valid

    return scores(dtype="float32").flatmap(
        lambda pair: st.builds(
            rubbish, st.just(pair), hnp.arrays(bool, pair[1].shape), st.sampled_from([0.0, 100.0, np.inf, np.nan])
        )
    )


def hinges(target, negative, margin=1.0):
    """max(0, margin + s_w − s_t) of each, as lists."""
    return [[max(0.0, margin + s - t) for s in row] for t, row in zip(target.tolist(), negative.tolist(), strict=True)]


def active(target, negative, margin=1.0):
    return [[float(margin + s > t) for s in row] for t, row in zip(target.tolist(), negative.tolist(), strict=True)]


def one_loss_an_example(f, target, negative):
    given = target.copy(), negative.copy()
    found = f(target, negative)
    assert (target == given[0]).all() and (negative == given[1]).all(), (
        "the function wrote into the scores it was given"
    )
    for what, a, shape in zip(
        ("loss", "G_target", "G_negative"), found, (target.shape, target.shape, negative.shape), strict=True
    ):
        assert np.shape(a) == shape, f"{what} has shape {np.shape(a)}, expected {shape}"


def float32_stays_float32(f, target, negative):
    for what, found in zip(("loss", "G_target", "G_negative"), f(target, negative), strict=True):
        assert found.dtype == "float32", f"{what} is {found.dtype} for float32 scores"


def loss_is_the_sum_of_what_the_margin_lacks(f, target, negative):
    close(f(target, negative)[0], [sum(row) for row in hinges(target, negative)], "the loss")


def loss_is_zero_only_if_all_keep_the_margin(f, target, negative):
    loss = f(target, negative)[0]
    for i, (t, row) in enumerate(zip(target.tolist(), negative.tolist(), strict=True)):
        if all(t >= s + 1 for s in row):
            assert loss[i] == 0, f"the loss is {loss[i]} though the target is 1 ahead of all"
        else:
            assert loss[i] > 0, f"the loss is {loss[i]} though the target isn't 1 ahead of all"


def where_all_keep_the_margin_the_gradient_is_zero(f, target, negative):
    _, g_target, g_negative = f(target, negative)
    for i, (t, row) in enumerate(zip(target.tolist(), negative.tolist(), strict=True)):
        if all(t >= s + 1 for s in row):
            assert g_target[i] == 0 and not np.any(g_negative[i]), (
                f"the gradient is {g_target[i]}, {g_negative[i].tolist()} though the target is 1 ahead of all"
            )


def negative_gradient_is_one_if_active(f, target, negative):
    close(f(target, negative)[2], active(target, negative), "G_negative")


def target_gradient_is_minus_the_number_active(f, target, negative):
    close(f(target, negative)[1], [-sum(row) for row in active(target, negative)], "G_target")


def gradient_is_the_derivative_of_the_loss(f, target, negative):
    h = 1e-6
    _, g_target, g_negative = f(target, negative)
    slope = (f(target + h, negative)[0] - f(target - h, negative)[0]) / (2 * h)
    close(g_target, slope, "G_target", 1e-6)
    for j in range(negative.shape[1]):
        step = h * (np.arange(negative.shape[1]) == j)
        slope = (f(target, negative + step)[0] - f(target, negative - step)[0]) / (2 * h)
        close(g_negative[:, j], slope, f"G_negative[:, {j}]", 1e-6)


def a_shift_of_all_scores_changes_nothing(f, target, negative, c):
    for what, before, after in zip(
        ("the loss", "G_target", "G_negative"), f(target, negative), f(target + c, negative + c[:, None]), strict=True
    ):
        close(after, before, f"{what} with c added to all scores", 0.0)


def margin_is_what_is_asked_for(f, target, negative, margin):
    loss, g_target, g_negative = f(target, negative, margin=margin)
    close(loss, [sum(row) for row in hinges(target, negative, margin)], f"the loss with margin={margin}")
    close(g_target, [-sum(row) for row in active(target, negative, margin)], f"G_target with margin={margin}")
    close(g_negative, active(target, negative, margin), f"G_negative with margin={margin}")


def what_is_not_valid_does_not_count(f, target, negative, valid):
    def kept(rows):
        return [[x if ok else 0.0 for x, ok in zip(row, oks)] for row, oks in zip(rows, valid.tolist(), strict=True)]

    with np.errstate(all="ignore"):
        loss, g_target, g_negative = f(target, negative, valid=valid)
    close(loss, [sum(row) for row in kept(hinges(target, negative))], "the loss of those valid")
    close(g_target, [-sum(row) for row in kept(active(target, negative))], "G_target of those valid")
    close(g_negative, kept(active(target, negative)), "G_negative of those valid")


CHAPTER = Chapter(
    name="hard",
    module="losses.sampled.hard",
    function="margin_loss",
    signature="margin_loss(target_scores (B,), negative_scores (B, n), *, margin=1.0, valid=None) "
    "-> loss (B,), G_target (B,), G_negative (B, n)",
    lessons=(
        Lesson(
            "one loss an example",
            "(2)",
            """The function is pure: it gives one loss and one gradient an example, and leaves the scores as they are.
            Means over the batch are the layer's.""",
            scores,
            one_loss_an_example,
        ),
        Lesson(
            "float32 stays float32",
            "(2)",
            """A float64 scalar or array among the operands turns all that follows into float64: twice the memory, half
            the speed.""",
            lambda: scores(dtype="float32"),
            float32_stays_float32,
        ),
        Lesson(
            "the loss is the sum of what the margin lacks",
            "(2)",
            """max(0, 1 + s_w − s_t) for each of the n negatives, added up: not averaged, and not the greatest of them
            alone. The negative's score comes with a plus.""",
            scores,
            loss_is_the_sum_of_what_the_margin_lacks,
        ),
        Lesson(
            "the loss is zero only if all keep the margin",
            "(2)",
            """Where the target is 1 ahead of every negative there is nothing left to learn: the loss is zero exactly.
            That is what tells a margin from a logarithm, which is never content.""",
            scores,
            loss_is_zero_only_if_all_keep_the_margin,
        ),
        Lesson(
            "the gradient is zero where all keep the margin",
            "(3)",
            """No loss, no gradient. Just at the margin, too, where the slope is 0 on one side and 1 on the other: take
            > there, not >=.""",
            scores,
            where_all_keep_the_margin_the_gradient_is_zero,
        ),
        Lesson(
            "an active negative's gradient is one",
            "(3)",
            """1 where the margin is not kept, however much is lacking; 0 where it is, and 0 just at the margin.""",
            scores,
            negative_gradient_is_one_if_active,
        ),
        Lesson(
            "the target's gradient is minus the number active",
            "(3)",
            """s_t occurs with a minus in each of the n terms, and counts in those that are active.""",
            scores,
            target_gradient_is_minus_the_number_active,
        ),
        Lesson(
            "G is the derivative of the loss",
            "(3)",
            """The loss and G must be of the same function: what is scaled or left out in one is so in the other.""",
            off_the_margin,
            gradient_is_the_derivative_of_the_loss,
        ),
        Lesson(
            "a shift of all scores changes nothing",
            "(5)",
            """The loss knows differences only. If adding a number to all scores of a context changes it, some score
            occurs alone.""",
            with_shifts,
            a_shift_of_all_scores_changes_nothing,
        ),
        Lesson(
            "the margin is what is asked for",
            "(2)",
            """margin= is the m of max(0, m + s_w − s_t), in the loss and in where the gradient begins.""",
            with_margins,
            margin_is_what_is_asked_for,
            option="margin",
        ),
        Lesson(
            "what isn't valid doesn't count",
            "(1)",
            """A column that valid= rules out is no negative: it has no part in the loss, nor in the target's gradient,
            and its own is zero, whatever its score is. (0 times an infinite score is not 0; `where` is.)""",
            with_valid,
            what_is_not_valid_does_not_count,
            option="valid",
        ),
    ),
)
