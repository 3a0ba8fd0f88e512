"""What must be true of `nce(target_scores, noise_scores, *, log_kq_target, log_kq_noise, k=None)`: its loss and its G.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter.
"""

import math

import numpy as np

from . import Chapter, Lesson, close
from .negative import distributions


def words(limit: float = 8.0, dtype: str = "float64"):
    """Strategy: (target_scores (B,), noise_scores (B, m), log_kq_target (B,), log_kq_noise (B, m)), B and m from 1."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    def of_size(size):
        b, m = size
        elements = st.integers(round(-4 * limit), round(4 * limit))
        return hnp.arrays("int64", (2, b, 1 + m), elements=elements).map(parted)

    def parted(quarters):  # simple numbers to read in a smallest failing example
        s, log_kq = (quarters / 4).astype(dtype)
        return s[:, 0], s[:, 1:], log_kq[:, 0], log_kq[:, 1:]

    return st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(of_size)


def far_words():
    """The same with scores of ±10,000 and k q of 1e-30 in float32."""

    def far(target, noise, log_kq_target, log_kq_noise):
        tiny = np.float32(math.log(1e-30))
        return *(np.float32(1e4) * np.sign(s + 0.1) for s in (target, noise)), log_kq_target + tiny, log_kq_noise + tiny

    return words(dtype="float32").map(lambda example: far(*example))


def shared_words():
    """The same for noise that the batch shares, log_kq_noise (m,), with a number k of noise words they stand for."""
    from hypothesis import strategies as st

    return st.builds(lambda w, k: (*w[:3], w[3][0], k), words(dtype="float32"), st.integers(1, 3))


def models():
    """Strategy: (P (V,), q (V,), k, s (V,)): two distributions, a number of noise words, and scores of a model."""
    from hypothesis import strategies as st

    def with_scores(example):
        quarters = st.lists(st.integers(-8, 8), min_size=len(example[0]), max_size=len(example[0]))
        return quarters.map(lambda s: (*example, np.array(s) / 4))

    return distributions().flatmap(with_scores)


def mean_gradient(f, p, q, k, s):
    """The gradient by s (V,), on average over every target and draw of k noise words, by their probability."""
    v, log_kq = len(p), np.log(k * q)
    draws = np.stack(np.meshgrid(*[np.arange(v)] * (1 + k), indexing="ij"), axis=-1).reshape(-1, 1 + k)
    target, noise = draws[:, 0], draws[:, 1:]
    chance = p[target] * q[noise].prod(axis=1)
    _, g_target, g_noise = f(s[target], s[noise], log_kq_target=log_kq[target], log_kq_noise=log_kq[noise])
    mean = np.zeros(v)
    np.add.at(mean, target, chance * g_target)
    np.add.at(mean, noise, chance[:, None] * g_noise)
    return mean


def is_data(s, log_kq):
    """P̃ / (P̃ + k q), as (2) has it."""
    return math.exp(s) / (math.exp(s) + math.exp(log_kq))


def one_loss_an_example(f, target, noise, log_kq_target, log_kq_noise):
    arrays = (target, noise, log_kq_target, log_kq_noise)
    given = [a.copy() for a in arrays]
    loss, g_target, g_noise = f(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise)
    unchanged = all((a == b).all() for a, b in zip(arrays, given, strict=True))
    assert unchanged, "the function wrote into what it was given"
    for what, found, shape in (
        ("loss", loss, target.shape),
        ("G_target", g_target, target.shape),
        ("G_noise", g_noise, noise.shape),
    ):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def loss_is_that_of_telling_text_from_noise(f, target, noise, log_kq_target, log_kq_noise):
    expected = [
        -math.log(is_data(s, of_s)) - sum(math.log(1 - is_data(n, of_n)) for n, of_n in zip(ns, of_ns, strict=True))
        for s, of_s, ns, of_ns in zip(target, log_kq_target, noise, log_kq_noise, strict=True)
    ]
    close(f(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise)[0], expected, "the loss", 1e-8)


def text_and_noise_change_places(f, target, noise, log_kq_target, log_kq_noise):
    """With k = 1: the noise word as target, with q for its score and the model for its noise, has the same loss."""
    s, n, of_s, of_n = target, noise[:, :1], log_kq_target, log_kq_noise[:, :1]
    loss, g_target, g_noise = f(s, n, log_kq_target=of_s, log_kq_noise=of_n)
    swapped, of_noise, of_target = f(of_n[:, 0], of_s[:, None], log_kq_target=n[:, 0], log_kq_noise=s[:, None])
    close(swapped, loss, "with both in the other's place, the loss")
    close(-of_target[:, 0], g_target, "with both in the other's place, minus G_noise")
    close(-of_noise, g_noise[:, 0], "with both in the other's place, minus G_target")


def loss_is_right_far_from_zero(f, target, noise, log_kq_target, log_kq_noise):
    with np.errstate(all="ignore"):
        loss = f(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise)[0]
    of_target, of_noise = np.maximum(log_kq_target - target, 0), np.maximum(noise - log_kq_noise, 0)
    close(loss, of_target + of_noise.sum(axis=1), "the loss", 1e-6)


def gradient_is_right_far_from_zero(f, target, noise, log_kq_target, log_kq_noise):
    with np.errstate(all="ignore"):
        _, g_target, g_noise = f(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise)
    close(g_target, np.where(target > 0, 0.0, -1.0), "G_target", 1e-6)
    close(g_noise, np.where(noise > 0, 1.0, 0.0), "G_noise", 1e-6)


def float32_stays_float32(f, target, noise, log_kq_target, log_kq_noise):
    found = f(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise)
    for what, array in zip(("loss", "G_target", "G_noise"), found, strict=True):
        assert array.dtype == "float32", f"{what} is {array.dtype} for float32 scores"


def gradient_is_the_answer_minus_one_for_the_target(f, target, noise, log_kq_target, log_kq_noise):
    expected = [is_data(s, of_s) - 1 for s, of_s in zip(target, log_kq_target, strict=True)]
    close(f(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise)[1], expected, "G_target")


def gradient_is_the_answer_for_noise(f, target, noise, log_kq_target, log_kq_noise):
    expected = [
        [is_data(n, of_n) for n, of_n in zip(ns, of_ns, strict=True)]
        for ns, of_ns in zip(noise, log_kq_noise, strict=True)
    ]
    close(f(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise)[2], expected, "G_noise")


def gradient_is_the_derivative_of_the_loss(f, target, noise, log_kq_target, log_kq_noise):
    h, log_kq = 1e-6, dict(log_kq_target=log_kq_target, log_kq_noise=log_kq_noise)
    _, g_target, g_noise = f(target, noise, **log_kq)
    slope = (np.sum(f(target + h, noise, **log_kq)[0]) - np.sum(f(target - h, noise, **log_kq)[0])) / (2 * h)
    close(np.sum(g_target), slope, "Σ G_target", 1e-6)
    for j in range(noise.shape[1]):
        step = h * (np.arange(noise.shape[1]) == j)
        above, below = (np.sum(f(target, noise + d, **log_kq)[0]) for d in (step, -step))
        close(np.sum(g_noise, axis=0)[j], (above - below) / (2 * h), f"Σ G_noise[:, {j}]", 1e-6)


def mean_gradient_is_the_model_minus_the_text(f, p, q, k, s):
    expected = [k * b / (math.exp(c) + k * b) * (math.exp(c) - a) for a, b, c in zip(p, q, s, strict=True)]
    close(mean_gradient(f, p, q, k, s), expected, "the mean gradient")


def optimum_is_log_p(f, p, q, k):
    close(mean_gradient(f, p, q, k, np.log(p)), np.zeros(len(p)), "the mean gradient at log P")


def number_added_to_all_scores_is_seen(f, p, q, k):
    """At log P + 1, where the softmax would be content."""
    expected = [k * b * a * (math.e - 1) / (math.e * a + k * b) for a, b in zip(p, q, strict=True)]
    close(mean_gradient(f, p, q, k, np.log(p) + 1), expected, "the mean gradient at log P + 1")


def gradient_becomes_that_of_the_softmax(f, p, q, k):
    """With k thousand noise words, and a column for each 1/60 or less of q: P̃ − P, but for a share of P̃ / (k q)."""
    v, many = len(p), 1000 * k
    model = np.arange(1, v + 1) / sum(range(1, v + 1))
    columns = np.repeat(np.arange(v), np.rint(q / q.min() * 60).astype(int))  # each word as often as q has it
    s, log_kq = np.log(model), np.log(many * q)
    noise, log_kq_noise = np.tile(s[columns], (v, 1)), np.tile(log_kq[columns], (v, 1))
    _, g_target, g_noise = f(s, noise, log_kq_target=log_kq, log_kq_noise=log_kq_noise, k=many)
    found = p * g_target + np.bincount(columns, p @ g_noise)
    missing = np.abs(found - (model - p))
    assert (missing <= model / (many * q) * np.abs(model - p) + 1e-9).all(), (
        f"for k = {many} the mean gradient is {found.tolist()}, not {(model - p).tolist()}"
    )


def shared_noise_counts_as_k(f, target, noise, log_kq_target, log_kq_noise, k):
    """The target's part is that of (3), the noise's k/m times as much, for each of the m columns."""
    share = k / noise.shape[1]
    of_target = [-math.log(is_data(s, of_s)) for s, of_s in zip(target, log_kq_target, strict=True)]
    answers = [[is_data(n, of_n) for n, of_n in zip(ns, log_kq_noise, strict=True)] for ns in noise]
    of_noise = [-sum(math.log(1 - a) for a in row) for row in answers]
    loss, g_target, g_noise = f(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)
    close(loss, [t + share * n for t, n in zip(of_target, of_noise, strict=True)], f"the loss with k={k}", 1e-5)
    expected = [is_data(s, of_s) - 1 for s, of_s in zip(target, log_kq_target, strict=True)]
    close(g_target, expected, f"G_target with k={k}", 1e-5)
    close(g_noise, [[share * a for a in row] for row in answers], f"G_noise with k={k}", 1e-5)
    for what, found in (("the loss", loss), ("G_target", g_target), ("G_noise", g_noise)):
        assert found.dtype == "float32", f"{what} with k={k} is {found.dtype} for float32 scores"


CHAPTER = Chapter(
    name="nce",
    module="losses.sampled.nce",
    function="nce",
    signature="nce(target_scores (B,), noise_scores (B, m), *, log_kq_target, log_kq_noise, k=None) "
    "-> loss (B,), G_target (B,), G_noise (B, m)",
    lessons=(
        Lesson(
            "one loss an example",
            "(3)",
            """The function is pure: it gives one loss and one gradient an example, and leaves the scores and the
            log(k q) as they are. Means over the batch are the layer's.""",
            words,
            one_loss_an_example,
        ),
        Lesson(
            "the loss is that of telling text from noise",
            "(3)",
            """The model answers P̃ / (P̃ + k q) = σ(s − log(k q)): log(k q) is subtracted, from the target's score and
            from the noise's, and once (the k is in it already). The k logarithms of the noise are summed, that of a
            noise word that happens to be the target, too.""",
            words,
            loss_is_that_of_telling_text_from_noise,
        ),
        Lesson(
            "the loss is right far from zero",
            "(3)",
            """P̃ = e^10000 is infinite and P̃ / (P̃ + k q) is inf / inf; e^−10000 is 0 and its logarithm infinite. Take
            no exponential of a score: softplus(s − log(k q)) needs none.""",
            far_words,
            loss_is_right_far_from_zero,
        ),
        Lesson(
            "float32 stays float32",
            "(3)",
            """A float64 scalar or array among the operands turns all that follows into float64: twice the memory, half
            the speed. Use Python numbers (math.log), or cast.""",
            lambda: words(dtype="float32"),
            float32_stays_float32,
        ),
        Lesson(
            "the target's gradient is σ(Δ_t) − 1",
            "(4)",
            """softplus(−Δ) has the derivative σ(Δ) − 1: how sure the model is that its word is of the text, less 1.
            log(k q) is a constant.""",
            words,
            gradient_is_the_answer_minus_one_for_the_target,
        ),
        Lesson(
            "a noise word's gradient is σ(Δ_n)",
            "(4)",
            """softplus(Δ) has the derivative σ(Δ): how sure the model is that noise is text. A noise word that
            happens to be the target has it too.""",
            words,
            gradient_is_the_answer_for_noise,
        ),
        Lesson(
            "G is right far from zero",
            "(4)",
            """σ(10000) is 1 and σ(−10000) is 0; e^10000 / (e^10000 + k q) is inf / inf, not a number.""",
            far_words,
            gradient_is_right_far_from_zero,
        ),
        Lesson(
            "G is the derivative of the loss",
            "(4)",
            """The loss and G must be of the same function: what is scaled or left out in one is so in the other.""",
            words,
            gradient_is_the_derivative_of_the_loss,
        ),
        Lesson(
            "text and noise change places",
            "(2)",
            """All that counts is Δ = s − log(k q), the log-odds of text against noise. With one noise word to one
            of the text the question is the same from both sides: who takes the scores for the noise's logarithms, and
            the other way round, calls noise text. If that changes the loss, Δ is not a difference.""",
            words,
            text_and_noise_change_places,
        ),
        Lesson(
            "the mean gradient is k q / (P̃ + k q) · (P̃ − P)",
            "(5)",
            """On average over the text's words and the noise, every word that occurs as noise counts, the target
            among them: leave hits out and w is noise k q (1 − P) times instead of k q.""",
            models,
            mean_gradient_is_the_model_minus_the_text,
        ),
        Lesson(
            "the optimum is log P",
            "(5)",
            """Where s_w = log P(w) text and noise pull equally at every word. Without log k the scores become log P −
            log k, without log q log P − log q; with the noise averaged log P + log k.""",
            distributions,
            optimum_is_log_p,
        ),
        Lesson(
            "a number added to all scores is seen",
            "(7)",
            """The scores must be log-probabilities as they are, Z = 1: nothing may be subtracted from them that they
            have in common, as a softmax would.""",
            distributions,
            number_added_to_all_scores_is_seen,
        ),
        Lesson(
            "the gradient becomes that of the softmax",
            "(9)",
            """With k large the factor k q / (P̃ + k q) is 1 but for P̃ / (k q), and the mean gradient is P̃ − P.""",
            distributions,
            gradient_becomes_that_of_the_softmax,
            option="k",
        ),
        Lesson(
            "shared noise counts as k words",
            "(11)",
            """m columns estimate k E_q[softplus(Δ)], so each has the weight k/m, in the loss and in G. log_kq_noise is
            one row for the whole batch, (m,).""",
            shared_words,
            shared_noise_counts_as_k,
            option="k",
        ),
    ),
)
