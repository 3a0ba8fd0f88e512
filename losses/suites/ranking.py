"""What must be true of `sampled_softmax(target_scores, noise_scores, *, log_count_target, log_count_noise, hits=None)`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter.
"""

import math

import numpy as np

from . import Chapter, Lesson, close
from .negative import distributions

WHAT = "loss", "G_target", "G_noise"
FAR = 1e-4  # far from zero: float32's numbers near 1000 are 6·10⁻⁵ apart


def examples(limit: float = 6.0, dtype: str = "float64", max_noise: int = 4):
    """Strategy: (target_scores (B,), noise_scores (B, k), log_count_target (B,), log_count_noise (B, k) or (k,))."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    def quarters(limit):  # simple numbers to read in a smallest failing example
        return st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)

    def arrays(sizes):
        b, k, shared = sizes
        scores = [hnp.arrays(dtype, shape, elements=quarters(limit)) for shape in ((b,), (b, k))]
        counts = [hnp.arrays(dtype, shape, elements=quarters(3.0)) for shape in ((b,), (k,) if shared else (b, k))]
        return st.tuples(*scores, *counts)

    return st.tuples(st.integers(1, 3), st.integers(1, max_noise), st.booleans()).flatmap(arrays)


def far_examples():
    """The same with scores of ±1000."""
    far = lambda s: np.float32(1000) * np.sign(s + 0.1)
    return examples(dtype="float32").map(lambda e: (far(e[0]), far(e[1]), *e[2:]))


def examples_with_hits():
    """The same, and booleans (B, k): which of the noise is to be left out."""
    from hypothesis.extra import numpy as hnp

    return examples().flatmap(lambda e: hnp.arrays(bool, e[1].shape).map(lambda hits: (*e, hits)))


def sets_of_candidates():
    """Strategy: (P (V,), π (V,)): a distribution over V = 2 or 3 words, and each one's chance to be a candidate."""
    from hypothesis import strategies as st

    def both(v):
        weights = st.lists(st.integers(1, 5), min_size=v, max_size=v).map(lambda w: np.array(w) / sum(w))
        return st.tuples(weights, st.lists(st.integers(1, 4), min_size=v, max_size=v).map(lambda w: np.array(w) / 4))

    return st.integers(2, 3).flatmap(both)


def by_definition(target, noise, log_count_target, log_count_noise, hits=None):
    """(2), for each example alone: −log of a softmax over the words that are left, and its derivatives."""
    log_count_noise = np.broadcast_to(log_count_noise, noise.shape)
    losses, of_target, of_noise = [], [], []
    for i in range(len(target)):
        kept = [hits is None or not hits[i][j] for j in range(noise.shape[1])]
        a = [float(target[i]) - float(log_count_target[i])]
        a += [float(s) - float(c) for s, c in zip(noise[i], log_count_noise[i], strict=True)]
        top = max(x for x, keep in zip(a, [True, *kept], strict=True) if keep)
        e = [math.exp(x - top) if keep else 0.0 for x, keep in zip(a, [True, *kept], strict=True)]
        losses.append(math.log(sum(e)) - (a[0] - top))
        of_target.append(-sum(e[1:]) / sum(e))
        of_noise.append([x / sum(e) for x in e[1:]])
    return losses, of_target, of_noise


def one_loss_an_example(f, target, noise, log_count_target, log_count_noise):
    arrays = target, noise, log_count_target, log_count_noise
    given = [a.copy() for a in arrays]
    found = f(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise)
    assert all((a == b).all() for a, b in zip(arrays, given, strict=True)), "the function wrote into what it was given"
    for what, array, shape in zip(WHAT, found, (target.shape, target.shape, noise.shape), strict=True):
        assert np.shape(array) == shape, f"{what} has shape {np.shape(array)}, expected {shape}"


def loss_is_that_of_a_choice_of_k_plus_one(f, target, noise, log_count_target, log_count_noise):
    found = f(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise)[0]
    close(found, by_definition(target, noise, log_count_target, log_count_noise)[0], "the loss")


def a_constant_in_every_log_count_cancels(f, target, noise, log_count_target, log_count_noise):
    here = f(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise)
    there = f(target, noise, log_count_target=log_count_target + 4.0, log_count_noise=log_count_noise + 4.0)
    for what, h, t in zip(WHAT, here, there, strict=True):
        close(t, h, f"{what} with 4 added to every log count")


def loss_is_right_far_from_zero(f, target, noise, log_count_target, log_count_noise):
    with np.errstate(all="ignore"):
        found = f(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise)[0]
    close(found, by_definition(target, noise, log_count_target, log_count_noise)[0], "the loss", FAR)


def float32_stays_float32(f, target, noise, log_count_target, log_count_noise):
    found = f(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise)
    for what, array in zip(WHAT, found, strict=True):
        assert array.dtype == "float32", f"{what} is {array.dtype} for float32 scores"


def gradient_of_the_target_is_what_the_noise_has(f, target, noise, log_count_target, log_count_noise):
    found = f(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise)[1]
    close(found, by_definition(target, noise, log_count_target, log_count_noise)[1], "G_target")


def gradient_of_noise_is_its_share(f, target, noise, log_count_target, log_count_noise):
    found = f(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise)[2]
    close(found, by_definition(target, noise, log_count_target, log_count_noise)[2], "G_noise")


def gradient_is_right_far_from_zero(f, target, noise, log_count_target, log_count_noise):
    with np.errstate(all="ignore"):
        found = f(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise)
    expected = by_definition(target, noise, log_count_target, log_count_noise)
    close(found[1], expected[1], "G_target", FAR)
    close(found[2], expected[2], "G_noise", FAR)


def gradient_is_the_derivative_of_the_loss(f, target, noise, log_count_target, log_count_noise):
    h, options = 1e-6, {"log_count_target": log_count_target, "log_count_noise": log_count_noise}
    _, g_target, g_noise = f(target, noise, **options)
    slope = (np.sum(f(target + h, noise, **options)[0]) - np.sum(f(target - h, noise, **options)[0])) / (2 * h)
    close(np.sum(g_target), slope, "Σ G_target", 1e-6)
    for j in range(noise.shape[1]):
        step = h * (np.arange(noise.shape[1]) == j)
        slope = np.sum(f(target, noise + step, **options)[0]) - np.sum(f(target, noise - step, **options)[0])
        close(np.sum(g_noise, axis=0)[j], slope / (2 * h), f"Σ G_noise[:, {j}]", 1e-6)


def mean_gradient(f, s, targets, noise, chance, log_count, hits=None):
    """The mean of G for each word: every outcome (targets (N,), noise (N, k)) by its chance (N,), each word's added."""
    _, g_target, g_noise = f(
        s[targets],
        s[noise],
        log_count_target=log_count[targets],
        log_count_noise=log_count[noise],
        **({} if hits is None else {"hits": hits}),
    )
    mean = np.zeros(len(s))
    np.add.at(mean, targets, chance * g_target)
    np.add.at(mean, noise, chance[:, None] * g_noise)
    return mean


def optimum_is_log_p_and_any_constant(f, p, q, k):
    """Over every target and every draw of noise, hits and all, by their probability."""
    v = len(p)
    draws = np.stack(np.meshgrid(*[np.arange(v)] * (1 + k), indexing="ij"), axis=-1).reshape(-1, 1 + k)
    targets, noise = draws[:, 0], draws[:, 1:]
    chance = p[targets] * q[noise].prod(axis=1)
    for c in (0.0, 1.5):
        mean = mean_gradient(f, np.log(p) + c, targets, noise, chance, np.log(k * q))
        close(mean, np.zeros(v), f"the mean gradient at log P + {c}")


def what_is_left_out_is_not_there(f, target, noise, log_count_target, log_count_noise, hits):
    found = f(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise, hits=hits)
    expected = by_definition(target, noise, log_count_target, log_count_noise, hits)
    for what, array, right in zip(WHAT, found, expected, strict=True):
        close(array, right, f"{what} with hits")
    assert (np.asarray(found[2])[hits] == 0).all(), "G_noise of what is left out must be 0, exactly"


def nothing_left_is_nothing_lost(f, target, noise, log_count_target, log_count_noise):
    hits = np.ones(noise.shape, bool)
    with np.errstate(all="ignore"):
        found = f(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise, hits=hits)
    for what, array in zip(WHAT, found, strict=True):
        assert (np.asarray(array) == 0).all(), f"{what} is {np.asarray(array).tolist()}, expected 0, if all is left out"


def of_a_set_the_optimum_is_log_p_too(f, p, π):
    """Over every target and every set of candidates; a column for each word, left out unless it is in the set."""
    v = len(p)
    sets = np.stack(np.meshgrid(*[[False, True]] * v, indexing="ij"), axis=-1).reshape(-1, v)  # (2^V, V)
    of_set = np.where(sets, π, 1 - π).prod(axis=1)
    targets, sets, of_set = np.tile(np.arange(v), len(sets)), np.repeat(sets, v, axis=0), np.repeat(of_set, v)
    words = np.tile(np.arange(v), (len(targets), 1))
    hits = ~sets | (words == targets[:, None])
    for c in (0.0, 1.5):
        mean = mean_gradient(f, np.log(p) + c, targets, words, p[targets] * of_set, np.log(π), hits)
        close(mean, np.zeros(v), f"the mean gradient at log P + {c}")


CHAPTER = Chapter(
    name="ranking",
    module="losses.sampled.ranking",
    function="sampled_softmax",
    signature="sampled_softmax(target_scores (B,), noise_scores (B, k), *, log_count_target (B,), "
    "log_count_noise (B, k) or (k,), hits=None) -> loss (B,), G_target (B,), G_noise (B, k)",
    lessons=(
        Lesson(
            "one loss an example",
            "(2)",
            """The function is pure: it gives one loss an example and one gradient a score, and leaves what it is given
            as it is. Means over the batch are the layer's.""",
            examples,
            one_loss_an_example,
        ),
        Lesson(
            "the loss is that of a choice of k + 1 words",
            "(2)",
            """−log of the target's share in Σ e^a over the target and the noise, a = s − log(how often to expect the
            word). The target is one of those summed over, and its log count is subtracted like the noise's.""",
            examples,
            loss_is_that_of_a_choice_of_k_plus_one,
        ),
        Lesson(
            "a constant in every log count cancels",
            "(2)",
            """Σ e^{a − c} has the factor e^−c, above and below the line: log(k q) does what log q does, if target and
            noise have the same.""",
            examples,
            a_constant_in_every_log_count_cancels,
        ),
        Lesson(
            "the loss is right far from zero",
            "(3)",
            """e^1000 is infinite, e^−1000 is 0. log Σ e^a with the greatest a subtracted, and softplus(D), take no
            exponential of a large number. (To 10⁻⁴: the sum m + log Σ e^{a − m} is rounded to the digits of m, 6·10⁻⁵
            near 1000. Who subtracts a_t before, as `softmax.py`, (2), doesn't even lose these.)""",
            far_examples,
            loss_is_right_far_from_zero,
        ),
        Lesson(
            "float32 stays float32",
            "(3)",
            """A float64 scalar or array among the operands turns all that follows into float64: twice the memory, half
            the speed.""",
            lambda: examples(dtype="float32"),
            float32_stays_float32,
        ),
        Lesson(
            "the target's gradient is −σ(D)",
            "(4)",
            """The target's score is lifted by what the noise has of the probability, 1 minus its own.""",
            examples,
            gradient_of_the_target_is_what_the_noise_has,
        ),
        Lesson(
            "a noise word's gradient is its share of σ(D)",
            "(4)",
            """Each noise word is pushed down by the probability it has itself: σ(D), which is that of all noise
            together, times its share among the noise.""",
            examples,
            gradient_of_noise_is_its_share,
        ),
        Lesson(
            "G is right far from zero",
            "(4)",
            """Probabilities are 0 or 1 there, not inf / inf.""",
            far_examples,
            gradient_is_right_far_from_zero,
        ),
        Lesson(
            "G is the derivative of the loss",
            "(4)",
            """The loss and G must be of the same function: what is scaled or left out in one is so in the other.""",
            examples,
            gradient_is_the_derivative_of_the_loss,
        ),
        Lesson(
            "the optimum is log P + c",
            "(5)",
            """With noise drawn independently, and hits kept, the mean gradient is zero at log P and any constant. If it
            isn't: is log q subtracted from both, target and noise? Is a noise word that is the target left out?""",
            distributions,
            optimum_is_log_p_and_any_constant,
        ),
        Lesson(
            "what is left out is not there",
            "(7)",
            """A column that `hits` marks has no part in the sum, and its gradient is 0, exactly: −10³⁰ in place of its
            a does that. (A score of 0 does not: e⁰ is 1.)""",
            examples_with_hits,
            what_is_left_out_is_not_there,
            option="hits",
        ),
        Lesson(
            "where all is left out, nothing is lost",
            "(7)",
            """If no noise is left the target is the only candidate: its probability is 1, the loss 0, and G 0. With −∞
            for what is left out it would be −∞ − (−∞), which is no number.""",
            far_examples,
            nothing_left_is_nothing_lost,
            option="hits",
        ),
        Lesson(
            "of a set of candidates the optimum is log P + c too",
            "(7)",
            """Where each word is a candidate with a probability π of its own, independently, the target stands among
            them once, and log π is subtracted from its score as well.""",
            sets_of_candidates,
            of_a_set_the_optimum_is_log_p_too,
            option="hits",
        ),
    ),
)
