"""What must be true of `importance_sampling(target_scores, noise_scores, *, log_count_noise) -> loss, G, G`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter. Their examples say how
often to expect each noise word, `count`; the function is given its logarithm.
"""

import math

import numpy as np

from . import Chapter, Lesson, close
from .negative import distributions


def scores(limit: float = 8.0, max_noise: int = 4, dtype: str = "float64", one_row: bool = False):
    """Strategy: (target (B,), noise (B, N), count (B, N)), B and N from 1. one_row: count (N,), for all examples."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    # quarters and powers of two: simple numbers to read in a smallest failing example
    elements = st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)
    counts = st.sampled_from([1.0, 2.0, 0.5, 4.0, 0.25])
    return st.tuples(st.integers(1, 3), st.integers(1, max_noise)).flatmap(
        lambda size: st.tuples(
            hnp.arrays(dtype, size[0], elements=elements),
            hnp.arrays(dtype, size, elements=elements),
            hnp.arrays(dtype, size[1] if one_row else size, elements=counts),
        )
    )


def far_scores():
    """The same with scores of ±1000, and counts from 10⁻³⁰ to 10³⁰."""
    return scores().map(lambda e: (1000 * np.sign(e[0] + 0.1), 1000 * np.sign(e[1] + 0.1), e[2] ** 50))


def vocabularies():
    """Strategy: (s (V,), t), the scores of V = 2 to 5 words and which of them is the target."""
    from hypothesis import strategies as st

    words = st.lists(st.integers(-16, 16).map(lambda i: i / 4), min_size=2, max_size=5)
    return words.flatmap(lambda s: st.tuples(st.just(np.array(s)), st.integers(0, len(s) - 1)))


def every_draw(q, n):
    """All draws of n noise words, (V^n, n), and the chance of each, (V^n,)."""
    draws = np.stack(np.meshgrid(*[np.arange(len(q))] * n, indexing="ij"), axis=-1).reshape(-1, n)
    return draws, q[draws].prod(axis=1)


def one_loss_an_example(f, target, noise, count):
    given = target.copy(), noise.copy(), np.log(count)
    loss, g_target, g_noise = f(target, noise, log_count_noise=(log_count := np.log(count)))
    unchanged = (target == given[0]).all() and (noise == given[1]).all() and (log_count == given[2]).all()
    assert unchanged, "the function wrote into what it was given"
    for what, found, shape in (
        ("loss", loss, target.shape),
        ("G_target", g_target, target.shape),
        ("G_noise", g_noise, noise.shape),
    ):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def loss_is_log_of_the_estimate_less_the_targets_score(f, target, noise, count):
    z = [sum(math.exp(s) / c for s, c in zip(ss, cs, strict=True)) for ss, cs in zip(noise, count, strict=True)]
    found = f(target, noise, log_count_noise=np.log(count))[0]
    close(found, [math.log(e) - s for e, s in zip(z, target, strict=True)], "the loss")


def one_row_of_counts_serves_all(f, target, noise, count):
    each = f(target, noise, log_count_noise=np.tile(np.log(count), (len(target), 1)))
    for what, found, expected in zip(
        ("loss", "G_target", "G_noise"), f(target, noise, log_count_noise=np.log(count)), each
    ):
        close(found, expected, what)


def shares(noise, count):
    """log Ẑ, (B,), and each word's part of Ẑ, (B, N), for scores however large."""
    a = [[s - math.log(c) for s, c in zip(ss, cs, strict=True)] for ss, cs in zip(noise, count, strict=True)]
    log_z = [max(row) + math.log(sum(math.exp(x - max(row)) for x in row)) for row in a]
    return log_z, [[math.exp(x - z) for x in row] for row, z in zip(a, log_z, strict=True)]


def loss_is_right_far_from_zero(f, target, noise, count):
    with np.errstate(all="ignore"):
        loss = f(target, noise, log_count_noise=np.log(count))[0]
    close(loss, [z - s for z, s in zip(shares(noise, count)[0], target, strict=True)], "the loss")


def gradient_is_right_far_from_zero(f, target, noise, count):
    with np.errstate(all="ignore"):
        _, g_target, g_noise = f(target, noise, log_count_noise=np.log(count))
    close(g_target, -np.ones(len(target)), "G_target")
    close(g_noise, shares(noise, count)[1], "G_noise")


def float32_stays_float32(f, target, noise, count):
    found = f(target, noise, log_count_noise=np.log(count))
    for what, array in zip(("loss", "G_target", "G_noise"), found, strict=True):
        assert array.dtype == "float32", f"{what} is {array.dtype} for float32 scores"


def gradient_is_minus_one_for_the_target(f, target, noise, count):
    close(f(target, noise, log_count_noise=np.log(count))[1], -np.ones(len(target)), "G_target")


def gradient_is_its_share_of_the_estimate_for_noise(f, target, noise, count):
    close(f(target, noise, log_count_noise=np.log(count))[2], shares(noise, count)[1], "G_noise")


def gradient_is_the_derivative_of_the_loss(f, target, noise, count):
    h, log_count = 1e-5, np.log(count)

    def slope(d_target, d_noise):
        above, below = (f(target + x * d_target, noise + x * d_noise, log_count_noise=log_count)[0] for x in (h, -h))
        return (np.sum(above) - np.sum(below)) / (2 * h)

    _, g_target, g_noise = f(target, noise, log_count_noise=log_count)
    close(np.sum(g_target), slope(1.0, 0.0), "Σ G_target", 1e-6)
    for j in range(noise.shape[1]):
        close(np.sum(g_noise, axis=0)[j], slope(0.0, np.arange(noise.shape[1]) == j), f"Σ G_noise[:, {j}]", 1e-6)


def a_constant_in_all_scores_changes_nothing(f, target, noise, count):
    before, after = (f(target + c, noise + c, log_count_noise=np.log(count)) for c in (0.0, 3.0))
    for what, found, expected in zip(("loss", "G_target", "G_noise"), after, before, strict=True):
        close(found, expected, f"with 3 added to all scores, {what}")


def the_mean_estimate_is_z(f, p, q, k):
    """Scores log p + 1, so Z = e; every draw of k noise words by its chance; Ẑ = e^(L + s_t)."""
    s, (draws, chance) = np.log(p) + 1.0, every_draw(q, k)
    loss = f(np.full(len(draws), s[0]), s[draws], log_count_noise=np.log(k * q[draws]))[0]
    close(chance @ np.exp(loss + s[0]), math.e, "E Ẑ, with Z = e,")


def no_draw_errs_if_q_is_p(f, p, q, k):
    s, (draws, _) = np.log(p) + 1.0, every_draw(p, k)
    loss = f(np.full(len(draws), s[0]), s[draws], log_count_noise=np.log(k * p[draws]))[0]
    close(loss, np.full(len(draws), -math.log(p[0])), "the loss, where −log p_t was to be expected of every draw,")


def the_whole_vocabulary_is_the_softmax(f, s, t):
    z = sum(math.exp(x) for x in s)
    loss, g_target, g_noise = f(s[t : t + 1], s[None], log_count_noise=np.zeros((1, len(s))))
    close(loss, [math.log(z) - s[t]], "the loss of all words, each expected once,")
    expected = [math.exp(x) / z - (w == t) for w, x in enumerate(s)]
    close(
        [g + g_target[0] * (w == t) for w, g in enumerate(g_noise[0])], expected, "G of all words, each expected once,"
    )


def the_loss_falls_with_the_targets_score_without_end(f, target, noise, count):
    here, there = (f(target + c, noise, log_count_noise=np.log(count))[0] for c in (0.0, 100.0))
    close(there, here - 100.0, "with 100 added to the target's score, the loss")


CHAPTER = Chapter(
    name="importance",
    module="losses.sampled.importance",
    function="importance_sampling",
    signature="importance_sampling(target_scores (B,), noise_scores (B, N), *, log_count_noise (B, N) or (N,)) "
    "-> loss (B,), G_target (B,), G_noise (B, N)",
    lessons=(
        Lesson(
            "one loss an example",
            "(2)",
            """The function is pure: it gives one loss and one gradient an example, and leaves what it is given as it
            is. Means over the batch are the layer's.""",
            scores,
            one_loss_an_example,
        ),
        Lesson(
            "the loss is log Ẑ − s_t",
            "(2)",
            """Ẑ is the sum of e^s / count over the noise, and over nothing else: the target is in it only if it was
            drawn, and then it stays. Log count is subtracted, for a word that is drawn often must count less; it has
            log N in it, so the sum is not divided by N once more.""",
            scores,
            loss_is_log_of_the_estimate_less_the_targets_score,
        ),
        Lesson(
            "one row of counts serves all",
            "(2)",
            """Noise that the batch shares has its log counts in one row, (N,): they go with the columns of the scores,
            in the loss and in G.""",
            lambda: scores(one_row=True),
            one_row_of_counts_serves_all,
        ),
        Lesson(
            "the loss is right far from zero",
            "(2)",
            """e^1000 is infinite and e^−1000 zero in floating point. logsumexp takes the greatest out first: m + log Σ
            e^(a − m), where no exponential exceeds 1 and the sum is at least 1.""",
            far_scores,
            loss_is_right_far_from_zero,
        ),
        Lesson(
            "float32 stays float32",
            "(2)",
            """A float64 scalar or array among the operands turns all that follows into float64: twice the memory, half
            the speed. Use Python numbers (math.log), or cast.""",
            lambda: scores(dtype="float32"),
            float32_stays_float32,
        ),
        Lesson(
            "the target's gradient is −1",
            "(3)",
            """Only the term −s_t has the target in it, so its derivative is −1, whatever the scores are: not p_t − 1,
            as in the softmax, where the target is in the sum, too.""",
            scores,
            gradient_is_minus_one_for_the_target,
        ),
        Lesson(
            "a noise word's gradient is its share of Ẑ",
            "(3)",
            """The derivative of log Σ e^a is the softmax of a, the scores less the log counts: weights that sum to one
            over the noise of each example.""",
            scores,
            gradient_is_its_share_of_the_estimate_for_noise,
        ),
        Lesson(
            "G is right far from zero",
            "(3)",
            """e^1000 / Σ e^1000 is inf / inf, not a number: take the greatest off before the exponential.""",
            far_scores,
            gradient_is_right_far_from_zero,
        ),
        Lesson(
            "G is the derivative of the loss",
            "(3)",
            """The loss and G must be of the same function: what is scaled or left out in one is so in the other.""",
            scores,
            gradient_is_the_derivative_of_the_loss,
        ),
        Lesson(
            "a constant in all scores changes nothing",
            "(3)",
            """Ẑ grows by the factor e^c and s_t by c: they cancel. If they don't, something of the loss, or of G, is
            not made of differences of scores.""",
            scores,
            a_constant_in_all_scores_changes_nothing,
        ),
        Lesson(
            "E Ẑ is Z",
            "(4)",
            """A word w is drawn N q(w) times on average, and adds e^s / (N q) each time: so the mean of Ẑ over all
            draws is Z, for every N. If it isn't, e^s is weighted with something else than one over the expected
            count.""",
            distributions,
            the_mean_estimate_is_z,
        ),
        Lesson(
            "no draw errs if q = p",
            "(4)",
            """Then e^s / q is Z, whatever word is drawn, and the loss that of the softmax: −log p_t.""",
            distributions,
            no_draw_errs_if_q_is_p,
        ),
        Lesson(
            "the whole vocabulary is the softmax",
            "(4)",
            """With each word among the noise once, as was to be expected, Ẑ is Z, not an estimate. A noise word that is
            the target stays.""",
            vocabularies,
            the_whole_vocabulary_is_the_softmax,
        ),
        Lesson(
            "the loss falls without end",
            "(7)",
            """The target is not in the sum, so raising its score by 100 takes 100 off the loss, which may well be
            negative. This is a weakness of importance sampling, not a mistake: a loss that is never negative is
            another one.""",
            scores,
            the_loss_falls_with_the_targets_score_without_end,
        ),
    ),
)
