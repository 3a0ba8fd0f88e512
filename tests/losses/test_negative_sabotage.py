"""Sabotage: wrong versions of negative sampling, each with the lesson, by name, that must not let it pass."""

import numpy as np
import pytest

import minigrad as mg
from losses.check import smallest_failure
from losses.layer import row_scores
from losses.sampled.negative import negative_sampling as sound
from losses.suites import Lesson
from losses.suites.negative import CHAPTER
from minigrad.backend import xp_of
from minigrad.check import vocab_batches

from .properties import scores_as_the_engine_finds_them

pytestmark = pytest.mark.negative
softplus, sigmoid = mg.softplus, mg.sigmoid


def noise_averaged(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, noise, k=k)
    return softplus(-target) + (loss - softplus(-target)) / noise.shape[1], g_target, g_noise / noise.shape[1]


def noise_averaged_in_the_gradient_only(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, noise, k=k)
    return loss, g_target, g_noise / noise.shape[1]


def noise_counted_once_for_k(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, noise[:, :1])
    return loss, g_target, np.concatenate([g_noise, 0 * noise[:, 1:]], axis=1)


def sign_of_the_noise_lost(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, -noise, k=k)
    return loss, g_target, -g_noise


def sign_of_the_noise_gradient_lost(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, noise, k=k)
    return loss, g_target, -g_noise


def target_gradient_without_minus_one(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, noise, k=k)
    return loss, g_target + 1, g_noise


def log_of_sigma(target, noise, *, k=None):
    weight = 1.0 if k is None else k / noise.shape[1]
    loss = -np.log(1 / (1 + np.exp(-target))) - weight * np.log(1 / (1 + np.exp(noise))).sum(axis=1)
    return loss, *sound(target, noise, k=k)[1:]


def log_of_one_plus_exp(target, noise, *, k=None):
    weight = 1.0 if k is None else k / noise.shape[1]
    loss = np.log(1 + np.exp(-target)) + weight * np.log(1 + np.exp(noise)).sum(axis=1)
    return loss, *sound(target, noise, k=k)[1:]


def sigma_clipped(target, noise, *, k=None):
    weight = 1.0 if k is None else k / noise.shape[1]
    loss = -np.log(np.maximum(sigmoid(target), 1e-7)) - weight * np.log(np.maximum(sigmoid(-noise), 1e-7)).sum(axis=1)
    return loss, *sound(target, noise, k=k)[1:]


def exp_over_one_plus_exp(target, noise, *, k=None):
    weight = 1.0 if k is None else k / noise.shape[1]
    g_target, g_noise = (np.exp(s) / (1 + np.exp(s)) for s in (target, noise))
    return sound(target, noise, k=k)[0], g_target - 1, weight * g_noise


def mean_over_the_batch_inside(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, noise, k=k)
    return loss.mean(), g_target / len(target), g_noise / len(target)


def gradient_of_the_mean(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, noise, k=k)
    return loss, g_target / len(target), g_noise / len(target)


def a_float64_constant(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, noise, k=k)
    return loss * np.float64(1), g_target, g_noise


def a_float64_constant_in_the_gradient(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, noise, k=k)
    return loss, g_target, g_noise * np.float64(1)


def k_ignored(target, noise, *, k=None):
    return sound(target, noise)


def k_ignored_in_the_gradient(target, noise, *, k=None):
    return sound(target, noise, k=k)[0], *sound(target, noise)[1:]


def k_over_n_upside_down(target, noise, *, k=None):
    return sound(target, noise, k=None if k is None else noise.shape[1] ** 2 / k)


def k_weighs_the_target_too(target, noise, *, k=None):
    loss, g_target, g_noise = sound(target, noise, k=k)
    weight = 1.0 if k is None else k / noise.shape[1]
    return loss + (weight - 1) * softplus(-target), weight * g_target, g_noise


def only_the_first_noise_word_for_k(target, noise, *, k=None):
    if k is None:
        return sound(target, noise)
    loss, g_target, g_noise = sound(target, noise[:, :1], k=k)
    return loss, g_target, np.concatenate([g_noise, 0 * noise[:, 1:]], axis=1)


def every_k_is_three(target, noise, *, k=None):
    return sound(target, noise, k=None if k is None else 3)


def a_float64_k(target, noise, *, k=None):
    return sound(target, noise, k=None if k is None else np.float64(k))


SABOTAGE = [
    (noise_averaged, "the loss is the sum of −log σ"),
    (noise_averaged, "a noise word's gradient is σ(s_n)"),
    (noise_averaged, "the optimum is log P − log(k q)"),
    (noise_averaged_in_the_gradient_only, "G is the derivative of the loss"),
    (noise_averaged_in_the_gradient_only, "the optimum is log P − log(k q)"),
    (noise_counted_once_for_k, "the loss is the sum of −log σ"),
    (noise_counted_once_for_k, "a noise word's gradient is σ(s_n)"),
    (noise_counted_once_for_k, "the optimum is log P − log(k q)"),
    (sign_of_the_noise_lost, "the loss is the sum of −log σ"),
    (sign_of_the_noise_lost, "the optimum is log P − log(k q)"),
    (sign_of_the_noise_gradient_lost, "a noise word's gradient is σ(s_n)"),
    (sign_of_the_noise_gradient_lost, "G is the derivative of the loss"),
    (target_gradient_without_minus_one, "the target's gradient is σ(s_t) − 1"),
    (target_gradient_without_minus_one, "G is the derivative of the loss"),
    (log_of_sigma, "the loss is right far from zero"),
    (log_of_one_plus_exp, "the loss is right far from zero"),
    (sigma_clipped, "the loss is right far from zero"),
    (exp_over_one_plus_exp, "G is right far from zero"),
    (mean_over_the_batch_inside, "one loss an example"),
    (gradient_of_the_mean, "the target's gradient is σ(s_t) − 1"),
    (gradient_of_the_mean, "G is the derivative of the loss"),
    (a_float64_constant, "float32 stays float32"),
    (a_float64_constant_in_the_gradient, "float32 stays float32"),
    (k_ignored, "shared noise counts as k words"),
    (k_ignored_in_the_gradient, "shared noise counts as k words"),
    (k_over_n_upside_down, "shared noise counts as k words"),
    (k_weighs_the_target_too, "shared noise counts as k words"),
    (only_the_first_noise_word_for_k, "shared noise counts as k words"),
    (every_k_is_three, "shared noise counts as k words"),
    (a_float64_k, "shared noise counts as k words"),
]
LESSONS = {lesson.name: lesson for lesson in CHAPTER.lessons}


@pytest.mark.cpu
@pytest.mark.parametrize("mutant, lesson", SABOTAGE, ids=[f"{m.__name__}-{LESSONS[n].step}" for m, n in SABOTAGE])
def test_the_lesson_does_not_let_the_mutant_pass(mutant, lesson):
    assert smallest_failure(LESSONS[lesson], mutant) is not None


@pytest.mark.cpu
@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.holds.__name__)
def test_every_lesson_lets_the_sound_function_pass_and_has_a_mutant(lesson):
    assert smallest_failure(lesson, sound) is None
    assert lesson.name in {name for _, name in SABOTAGE}


@pytest.mark.cpu
def test_a_mutant_of_the_noise_passes_the_lesson_on_the_target():
    """Lessons blame the right step: not every mutant fails everywhere."""
    assert smallest_failure(LESSONS["the target's gradient is σ(s_t) − 1"], noise_averaged) is None
    assert smallest_failure(LESSONS["one loss an example"], noise_averaged) is None
    assert smallest_failure(LESSONS["the optimum is log P − log(k q)"], k_ignored) is None


# ---- the rows -----------------------------------------------------------------------------------------------------

ROWS = Lesson("rows are scored as the engine would", "(2)", "", vocab_batches, scores_as_the_engine_finds_them)


def with_rule(change):
    """`row_scores`, its gradients put through `change(d_hidden, rows of d_weight)`."""

    def forward(hidden, weight, *, ids):
        return xp_of(hidden).einsum("bkd,bd->bk", weight[ids], hidden), None

    def rule(g, y, residual, hidden, weight, *, ids):
        d_hidden, rows = xp_of(g).einsum("bk,bkd->bd", g, weight[ids]), g[:, :, None] * hidden[:, None, :]
        rows = mg.Rows(ids.reshape(-1), rows.reshape(ids.size, -1), weight.shape)
        return change(d_hidden, rows)

    return mg.primitive("row_scores", forward, joint=rule)


def overwritten(d_hidden, rows):
    d_weight = xp_of(d_hidden).zeros(rows.shape)
    for word, row in zip(rows.ids.tolist(), rows.values):
        d_weight[word] = row  # an id that occurs twice keeps its last row only
    return d_hidden, d_weight


def counted_once(d_hidden, rows):
    once, first = xp_of(rows.ids).unique(rows.ids, return_index=True)
    return d_hidden, mg.Rows(once, rows.values[first], rows.shape)


def hidden_forgotten(d_hidden, rows):
    return 0.0 * d_hidden, rows


def sign_lost(d_hidden, rows):
    return d_hidden, rows * -1.0


@pytest.mark.parametrize("change", [overwritten, counted_once, hidden_forgotten, sign_lost])
def test_no_wrong_gradient_of_the_rows_passes(change):
    _, error = smallest_failure(ROWS, with_rule(change))
    assert isinstance(error, AssertionError), "its numbers are wrong, it did not break"


@pytest.mark.parametrize("sound", [row_scores, with_rule(lambda *gradients: gradients)], ids=["ours", "unchanged"])
def test_a_right_gradient_of_the_rows_does(sound):
    assert smallest_failure(ROWS, sound) is None
