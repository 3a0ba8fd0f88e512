"""What must be true of `negative_sampling(target_scores, noise_scores, *, k=None) -> loss, G_target, G_noise`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter.
"""

import math

import numpy as np

from . import Chapter, Lesson, close


def scores(limit: float = 8.0, max_noise: int = 4, dtype: str = "float64"):
    """Strategy: (target_scores (B,), noise_scores (B, n)), B and n from 1."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    # quarters: simple numbers to read in a smallest failing example
    elements = st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)
    return st.tuples(st.integers(1, 3), st.integers(1, max_noise)).flatmap(
        lambda size: st.tuples(
            hnp.arrays(dtype, size[0], elements=elements), hnp.arrays(dtype, size, elements=elements)
        )
    )


def far_scores():
    """The same with scores of ±1000."""
    return scores(dtype="float32").map(lambda pair: tuple(np.float32(1000) * np.sign(s + 0.1) for s in pair))


def shared_scores():
    """The same, with a number k of noise words that the columns stand for."""
    from hypothesis import strategies as st

    return st.builds(lambda pair, k: (*pair, k), scores(dtype="float32"), st.integers(1, 3))


def distributions():
    """Strategy: (P (V,), q (V,), k), two distributions over V = 2 to 4 words and a number of noise words."""
    from hypothesis import strategies as st

    def weights(v):
        return st.lists(st.integers(1, 5), min_size=v, max_size=v).map(lambda w: np.array(w) / sum(w))

    return st.integers(2, 4).flatmap(lambda v: st.tuples(weights(v), weights(v), st.integers(1, 2)))


def one_loss_an_example(f, target, noise):
    given = target.copy(), noise.copy()
    loss, g_target, g_noise = f(target, noise)
    assert (target == given[0]).all() and (noise == given[1]).all(), "the function wrote into the scores it was given"
    for what, found, shape in (
        ("loss", loss, target.shape),
        ("G_target", g_target, target.shape),
        ("G_noise", g_noise, noise.shape),
    ):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def loss_is_the_sum_of_minus_log_sigma(f, target, noise):
    def minus_log_sigma(s):
        return math.log1p(math.exp(-s))

    expected = [minus_log_sigma(s) + sum(minus_log_sigma(-n) for n in ns) for s, ns in zip(target, noise, strict=True)]
    close(f(target, noise)[0], expected, "the loss")


def loss_is_right_far_from_zero(f, target, noise):
    with np.errstate(all="ignore"):
        loss = f(target, noise)[0]
    close(loss, np.maximum(-target, 0) + np.maximum(noise, 0).sum(axis=1), "the loss", 1e-6)


def gradient_is_right_far_from_zero(f, target, noise):
    with np.errstate(all="ignore"):
        _, g_target, g_noise = f(target, noise)
    close(g_target, np.where(target > 0, 0.0, -1.0), "G_target", 1e-6)
    close(g_noise, np.where(noise > 0, 1.0, 0.0), "G_noise", 1e-6)


def float32_stays_float32(f, target, noise):
    for what, found in zip(("loss", "G_target", "G_noise"), f(target, noise), strict=True):
        assert found.dtype == "float32", f"{what} is {found.dtype} for float32 scores"


def gradient_is_sigma_minus_one_for_the_target(f, target, noise):
    close(f(target, noise)[1], [1 / (1 + math.exp(-s)) - 1 for s in target], "G_target")


def gradient_is_sigma_for_noise(f, target, noise):
    close(f(target, noise)[2], [[1 / (1 + math.exp(-n)) for n in ns] for ns in noise], "G_noise")


def gradient_is_the_derivative_of_the_loss(f, target, noise):
    h = 1e-6
    _, g_target, g_noise = f(target, noise)
    slope = (np.sum(f(target + h, noise)[0]) - np.sum(f(target - h, noise)[0])) / (2 * h)
    close(np.sum(g_target), slope, "Σ G_target", 1e-6)
    for j in range(noise.shape[1]):
        step = h * (np.arange(noise.shape[1]) == j)
        slope = (np.sum(f(target, noise + step)[0]) - np.sum(f(target, noise - step)[0])) / (2 * h)
        close(np.sum(g_noise, axis=0)[j], slope, f"Σ G_noise[:, {j}]", 1e-6)


def optimum_is_log_p_minus_log_kq(f, p, q, k):
    """The mean gradient at s* = log P − log(k q), over every target and draw of noise, by their probability."""
    v = len(p)
    s = np.log(p) - np.log(k * q)
    draws = np.stack(np.meshgrid(*[np.arange(v)] * (1 + k), indexing="ij"), axis=-1).reshape(-1, 1 + k)
    target, noise = draws[:, 0], draws[:, 1:]
    chance = p[target] * q[noise].prod(axis=1)
    _, g_target, g_noise = f(s[target], s[noise])
    mean = np.zeros(v)
    np.add.at(mean, target, chance * g_target)
    np.add.at(mean, noise, chance[:, None] * g_noise)
    close(mean, np.zeros(v), "the mean gradient at log P − log kq")


def shared_noise_counts_as_k(f, target, noise, k):
    """The target's part is that of (1), the noise's k/m times as much, for each of the m columns."""
    share = k / noise.shape[1]
    of_target = [math.log1p(math.exp(-s)) for s in target]
    of_noise = [sum(math.log1p(math.exp(n)) for n in ns) for ns in noise]
    loss, g_target, g_noise = f(target, noise, k=k)
    close(loss, [t + share * n for t, n in zip(of_target, of_noise, strict=True)], f"the loss with k={k}", 1e-5)
    close(g_target, [1 / (1 + math.exp(-s)) - 1 for s in target], f"G_target with k={k}", 1e-5)
    close(g_noise, [[share / (1 + math.exp(-n)) for n in ns] for ns in noise], f"G_noise with k={k}", 1e-5)
    for what, found in (("the loss", loss), ("G_target", g_target), ("G_noise", g_noise)):
        assert found.dtype == "float32", f"{what} with k={k} is {found.dtype} for float32 scores"


CHAPTER = Chapter(
    name="negative",
    module="losses.sampled.negative",
    function="negative_sampling",
    signature="negative_sampling(target_scores (B,), noise_scores (B, m), *, k=None) "
    "-> loss (B,), G_target (B,), G_noise (B, m)",
    lessons=(
        Lesson(
            "one loss an example",
            "(1)",
            """The function is pure: it gives one loss and one gradient an example, and leaves the scores as they are.
            Means over the batch are the layer's.""",
            scores,
            one_loss_an_example,
        ),
        Lesson(
            "the loss is the sum of −log σ",
            "(1)",
            """−log σ(s_t) for the target and −log σ(−s_n) for each noise word. The noise is summed, not averaged, and
            its score comes with a minus sign, for noise is to be called noise.""",
            scores,
            loss_is_the_sum_of_minus_log_sigma,
        ),
        Lesson(
            "the loss is right far from zero",
            "(2)",
            """−log σ(−1000) is 1000, but σ(−1000) is 0 in floating point and its logarithm infinite. softplus(s) =
            max(s, 0) + log(1 + e^−|s|) takes no exponential of a large number.""",
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
            "the target's gradient is σ(s_t) − 1",
            "(3)",
            """softplus(−s) has the derivative −σ(−s) = σ(s) − 1: negative, so a step raises the target's score.""",
            scores,
            gradient_is_sigma_minus_one_for_the_target,
        ),
        Lesson(
            "a noise word's gradient is σ(s_n)",
            "(3)",
            """softplus(s) has the derivative σ(s): positive, so that the step lowers the score of noise.""",
            scores,
            gradient_is_sigma_for_noise,
        ),
        Lesson(
            "G is right far from zero",
            "(3)",
            """σ(1000) is 1 and σ(−1000) is 0; e^1000 / (1 + e^1000) is inf / inf, not a number.""",
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
            "the optimum is log P − log(k q)",
            "(5)",
            """Where s_w = log P(w) − log(k q(w)), right words and noise pull equally at every word, and the mean
            gradient is zero. If it isn't, one side has the wrong weight: is the noise averaged, or counted once for
            k words?""",
            distributions,
            optimum_is_log_p_minus_log_kq,
        ),
        Lesson(
            "shared noise counts as k words",
            "(7)",
            """m columns estimate k E_q[softplus(s)], so each has the weight k/m, in the loss and in G.""",
            shared_scores,
            shared_noise_counts_as_k,
            option="k",
        ),
    ),
)
