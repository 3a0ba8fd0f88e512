"""Sabotage: wrong versions of the von Mises-Fisher loss, each with the lesson, by name, that must not let it pass."""

import math

import numpy as np
import pytest

import minigrad as mg
from losses.check import smallest_failure
from losses.structured.bessel import log_normaliser_and_ratio
from losses.structured.von_mises_fisher import von_mises_fisher as sound
from losses.suites.von_mises_fisher import CHAPTER

pytestmark = pytest.mark.vmf


def of(loss_of, pull_of):
    """A loss −log C(κ) and the factor A(κ)/κ by other formulas, with κ² (B,) and m; the rest is as it should be."""

    def made(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
        square, m = (predicted.astype("float64") ** 2).sum(axis=1), predicted.shape[1]
        loss, g = sound(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)
        log_c, ratio = log_normaliser_and_ratio(square, m)
        g = g + (pull_of(square, m) - ratio)[:, None] * predicted
        return (loss + loss_of(square, m) + log_c).astype(predicted.dtype), g.astype(predicted.dtype)

    return made


def minus_log_c(square, m):
    return -log_normaliser_and_ratio(square, m)[0]


def a_over_kappa(square, m):
    return log_normaliser_and_ratio(square, m)[1]


# ---- the Bessel functions -----------------------------------------------------------------------------------------

order_one_too_large = of(
    lambda x, m: minus_log_c(x, m + 2) - math.log(2 * math.pi), lambda x, m: a_over_kappa(x, m + 2)
)
order_of_a_one_too_large = of(minus_log_c, lambda x, m: a_over_kappa(x, m + 2))
scaled_bessel_taken_for_bessel = of(lambda x, m: minus_log_c(x, m) - np.sqrt(x), a_over_kappa)
logarithm_to_base_ten = of(
    lambda x, m: minus_log_c(x, m) - m / 2 * (math.log(2 * math.pi) - math.log10(2 * math.pi)), a_over_kappa
)
log_c_not_negated = of(lambda x, m: -minus_log_c(x, m), a_over_kappa)
normaliser_left_out = of(lambda x, m: 0.0 * x, lambda x, m: 0.0 * x)
normaliser_off_the_tape = of(minus_log_c, lambda x, m: 0.0 * x)
a_not_over_kappa = of(minus_log_c, lambda x, m: np.sqrt(x) * a_over_kappa(x, m))
a_not_over_kappa_but_direction = of(minus_log_c, lambda x, m: 1.0 / np.sqrt(x + 1e-30))
divided_by_kappa = of(minus_log_c, lambda x, m: np.sqrt(x) * a_over_kappa(x, m) / np.sqrt(x))


def the_published_bound(square, m):
    """With v = m/2 − 1 where it holds for v = m/2; see the end of the chapter's docstring."""
    v = m / 2 - 1
    return 1 / (v - 1 + np.sqrt((v + 1) ** 2 + square))


bound_for_the_ratio = of(minus_log_c, the_published_bound)


def bessel_by_itself(square, m):
    """−log C, the Bessel function by its series, not its logarithm."""
    kappa, nu = np.sqrt(square), m / 2 - 1
    terms = [
        (kappa / 2) ** (2 * j) * math.exp(-math.lgamma(j + 1) - math.lgamma(nu + j + 1) + math.lgamma(nu + 1))
        for j in range(60)
    ]
    bessel = sum(terms) * (kappa / 2) ** nu * math.exp(-math.lgamma(nu + 1))
    return np.log(bessel) - nu * np.log(kappa) + m / 2 * math.log(2 * math.pi)


underflow = of(bessel_by_itself, a_over_kappa)
no_direction_is_zero_over_zero = of(lambda x, m: minus_log_c(x, m) + 0 * np.log(x), lambda x, m: a_over_kappa(x, m))
exponential_of_kappa = of(lambda x, m: minus_log_c(x, m) + 0 * np.exp(np.sqrt(x)), a_over_kappa)
ratio_underflows = of(minus_log_c, lambda x, m: a_over_kappa(x, m) if m < 300 else np.nan * x)


def noise_where_both_are_zero(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    loss, g = sound(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)
    return loss, g + 1e-3 * (np.arange(g.shape[1]) > 200)


# ---- the rest -----------------------------------------------------------------------------------------------------


def sign_of_the_target_lost(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    return sound(predicted, embeddings=-embeddings, lambda_1=lambda_1, lambda_2=lambda_2)


def sign_lost_in_the_gradient_only(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    loss, g = sound(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)
    return loss, g + 2 * lambda_2 * embeddings


def cosine_for_the_product(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    loss, g = sound(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)
    dot, kappa = (predicted * embeddings).sum(axis=1), np.sqrt((predicted**2).sum(axis=1))
    return loss + lambda_2 * dot * (1 - 1 / kappa), g


def mean_over_the_batch_inside(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    loss, g = sound(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)
    return loss.mean(), g / len(g)


def gradient_of_the_mean(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    loss, g = sound(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)
    return loss, g / len(g)


def float64_comes_out(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    return sound(predicted.astype("float64"), embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)


def normalises_what_it_is_given(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    embeddings += 0.5
    embeddings -= 0.5 + 1e-7
    return sound(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)


def lambda_1_ignored(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    return sound(predicted, embeddings=embeddings, lambda_2=lambda_2)


def lambda_1_on_the_square(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    loss, g = sound(predicted, embeddings=embeddings, lambda_2=lambda_2)
    return loss + lambda_1 * (predicted**2).sum(axis=1), g + 2 * lambda_1 * predicted


def lambda_1_missing_in_the_gradient(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    loss, _ = sound(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)
    return loss, sound(predicted, embeddings=embeddings, lambda_2=lambda_2)[1]


def lambda_2_ignored(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    return sound(predicted, embeddings=embeddings, lambda_1=lambda_1)


def lambda_2_on_all_of_it(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    loss, g = sound(predicted, embeddings=embeddings)
    return lambda_2 * loss, lambda_2 * g


def lambdas_exchanged(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    if lambda_1 == 0.0 or lambda_2 == 1.0:
        return sound(predicted, embeddings=embeddings, lambda_1=lambda_1, lambda_2=lambda_2)
    return sound(predicted, embeddings=embeddings, lambda_1=lambda_2, lambda_2=lambda_1)


def lambdas_exchanged_always(predicted, *, embeddings, lambda_1=0.0, lambda_2=1.0):
    return sound(predicted, embeddings=embeddings, lambda_1=lambda_2, lambda_2=lambda_1)


SABOTAGE = [
    (order_one_too_large, "the loss is −log C(κ) − ê·e"),
    (order_one_too_large, "G is A(κ) ê/κ − e"),
    (order_one_too_large, "the optimum is the mean of the targets"),
    (order_of_a_one_too_large, "G is A(κ) ê/κ − e"),
    (order_of_a_one_too_large, "G is the derivative of the loss"),
    (scaled_bessel_taken_for_bessel, "the loss is −log C(κ) − ê·e"),
    (scaled_bessel_taken_for_bessel, "G is the derivative of the loss"),
    (scaled_bessel_taken_for_bessel, "a large ê is no trouble"),
    (logarithm_to_base_ten, "the loss is −log C(κ) − ê·e"),
    (log_c_not_negated, "the loss is −log C(κ) − ê·e"),
    (log_c_not_negated, "G is the derivative of the loss"),
    (normaliser_left_out, "the loss is −log C(κ) − ê·e"),
    (normaliser_left_out, "the optimum is the mean of the targets"),
    (normaliser_off_the_tape, "G is A(κ) ê/κ − e"),
    (normaliser_off_the_tape, "G is the derivative of the loss"),
    (normaliser_off_the_tape, "the optimum is the mean of the targets"),
    (a_not_over_kappa, "G is A(κ) ê/κ − e"),
    (a_not_over_kappa_but_direction, "G is A(κ) ê/κ − e"),
    (divided_by_kappa, "ê = 0 is no direction, and no trouble"),
    (no_direction_is_zero_over_zero, "ê = 0 is no direction, and no trouble"),
    (bound_for_the_ratio, "G is A(κ) ê/κ − e"),
    (bound_for_the_ratio, "G in 300 dimensions"),
    (ratio_underflows, "G in 300 dimensions"),
    (noise_where_both_are_zero, "G in 300 dimensions"),
    (underflow, "300 dimensions are like three"),
    (exponential_of_kappa, "a large ê is no trouble"),
    (sign_of_the_target_lost, "the loss is −log C(κ) − ê·e"),
    (sign_of_the_target_lost, "the optimum is the mean of the targets"),
    (sign_lost_in_the_gradient_only, "G is the derivative of the loss"),
    (cosine_for_the_product, "the loss is −log C(κ) − ê·e"),
    (mean_over_the_batch_inside, "one loss an example"),
    (gradient_of_the_mean, "G is A(κ) ê/κ − e"),
    (float64_comes_out, "float32 stays float32"),
    (normalises_what_it_is_given, "one loss an example"),
    (lambda_1_ignored, "λ₁ adds λ₁ κ"),
    (lambda_1_on_the_square, "λ₁ adds λ₁ κ"),
    (lambda_1_missing_in_the_gradient, "λ₁ adds λ₁ κ"),
    (lambda_2_ignored, "λ₂ weighs ê·e"),
    (lambda_2_on_all_of_it, "λ₂ weighs ê·e"),
    (lambdas_exchanged, "λ₁ and λ₂ together"),
    (lambdas_exchanged, "λ₁ is κ's, λ₂ is ê·e's"),
    (lambdas_exchanged_always, "λ₁ is κ's, λ₂ is ê·e's"),
]
LESSONS = {lesson.name: lesson for lesson in CHAPTER.lessons}
NAMES = {id(value): name for name, value in globals().items() if callable(value)}


@pytest.mark.cpu
@pytest.mark.parametrize(
    "mutant, lesson", SABOTAGE, ids=[f"{NAMES[id(m)]}-{LESSONS[lesson].step}" for m, lesson in SABOTAGE]
)
def test_the_lesson_does_not_let_the_mutant_pass(mutant, lesson):
    with np.errstate(all="ignore"):
        _, error = smallest_failure(LESSONS[lesson], mutant, 15)
    assert isinstance(error, AssertionError), "its numbers are wrong, it did not break"


@pytest.mark.cpu
@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.holds.__name__)
def test_every_lesson_lets_the_sound_function_pass_and_has_a_mutant(lesson):
    assert smallest_failure(lesson, sound, 12) is None
    assert smallest_failure(lesson, of(minus_log_c, a_over_kappa), 12) is None, "what makes the mutants is sound itself"
    assert lesson.name in {name for _, name in SABOTAGE}


@pytest.mark.cpu
def test_a_mutant_of_one_step_passes_the_lessons_on_the_others():
    """Lessons blame the right step: not every mutant fails everywhere."""
    passes = lambda lesson, mutant: smallest_failure(LESSONS[lesson], mutant, 12) is None
    assert passes("G is A(κ) ê/κ − e", log_c_not_negated)
    assert passes("the loss is −log C(κ) − ê·e", normaliser_off_the_tape)
    assert passes("the loss is −log C(κ) − ê·e", underflow)
    assert all(passes("λ₁ is κ's, λ₂ is ê·e's", m) for m, _ in SABOTAGE if not NAMES[id(m)].startswith("lambdas_"))
    assert passes("λ₂ weighs ê·e", lambdas_exchanged) and passes("λ₁ adds λ₁ κ", lambdas_exchanged)


# ---- the other distances ------------------------------------------------------------------------------------------


def test_wrong_gradients_of_the_other_distances_are_seen():
    """What `test_step_6_…` in `test_von_mises_fisher.py` asks is not passed by a gradient that is wrong."""
    from losses.layer import of_scores
    from losses.structured.von_mises_fisher import cosine_distance, squared_distance

    predicted = np.array([[0.5, -1.0, 2.0], [1.0, 1.0, 0.25]])
    e = mg.backend.asarray(np.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]))

    def not_tangential(p, *, embeddings):
        loss, _ = cosine_distance(p, embeddings=embeddings)
        return loss, -embeddings + 0.0 * p

    def half(p, *, embeddings):
        loss, g = squared_distance(p, embeddings=embeddings)
        return loss, 0.5 * g

    for wrong in (not_tangential, half):
        with pytest.raises(mg.check.GradientError):
            mg.check_grads(lambda p, wrong=wrong: of_scores(wrong)(p, embeddings=e), predicted)
