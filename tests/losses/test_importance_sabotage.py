"""Sabotage: wrong versions of importance sampling, each with the lesson, by name, that must not let it pass."""

import math

import numpy as np
import pytest

import minigrad as mg
from losses.check import smallest_failure
from losses.sampled.importance import effective_sample_size
from losses.sampled.importance import importance_sampling as sound
from losses.suites.importance import CHAPTER

pytestmark = pytest.mark.importance


def log_q_forgotten(target, noise, *, log_count_noise):
    return sound(target, noise, log_count_noise=0.0 * log_count_noise)


def log_q_forgotten_in_the_gradient(target, noise, *, log_count_noise):
    loss, g_target, _ = sound(target, noise, log_count_noise=log_count_noise)
    return loss, g_target, mg.softmax(noise, axis=1)


def sign_of_log_q_flipped(target, noise, *, log_count_noise):
    return sound(target, noise, log_count_noise=-log_count_noise)


def log_n_forgotten(target, noise, *, log_count_noise):
    return sound(target, noise, log_count_noise=log_count_noise - math.log(noise.shape[1]))


def divided_by_n_twice(target, noise, *, log_count_noise):
    return sound(target, noise, log_count_noise=log_count_noise + math.log(noise.shape[1]))


def the_target_in_the_sum(target, noise, *, log_count_noise):
    a = np.concatenate([target[:, None], noise - log_count_noise], axis=1)
    p = mg.softmax(a, axis=1)
    return mg.logsumexp(a, axis=1) - target, p[:, 0] - 1, p[:, 1:]


def the_targets_gradient_as_in_the_softmax(target, noise, *, log_count_noise):
    loss, _, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss, np.exp(-np.maximum(loss, 0)) - 1, g_noise


def the_targets_gradient_forgotten(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss, 0 * g_target, g_noise


def the_targets_score_forgotten(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(0 * target, noise, log_count_noise=log_count_noise)
    return loss, g_target, g_noise


def sign_of_the_noise_gradient_lost(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss, g_target, -g_noise


def weights_that_do_not_sum_to_one(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss, g_target, noise.shape[1] * g_noise


def weights_without_their_sum(target, noise, *, log_count_noise):
    loss, g_target, _ = sound(target, noise, log_count_noise=log_count_noise)
    return loss, g_target, np.exp(noise - log_count_noise)


def every_noise_word_with_the_same_weight(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss, g_target, 0 * g_noise + 1 / noise.shape[1]


def softmax_over_the_batch(target, noise, *, log_count_noise):
    loss, g_target, _ = sound(target, noise, log_count_noise=log_count_noise)
    return loss, g_target, mg.softmax(noise - log_count_noise, axis=0)


def mean_of_logs_for_log_of_mean(target, noise, *, log_count_noise):
    a = noise - log_count_noise
    return a.mean(axis=1) + math.log(noise.shape[1]) - target, *sound(target, noise, log_count_noise=log_count_noise)[
        1:
    ]


def greatest_for_the_sum(target, noise, *, log_count_noise):
    a = noise - log_count_noise
    return a.max(axis=1) - target, *sound(target, noise, log_count_noise=log_count_noise)[1:]


def log_of_sum_of_exp(target, noise, *, log_count_noise):
    loss = np.log(np.exp(noise - log_count_noise).sum(axis=1)) - target
    return loss, *sound(target, noise, log_count_noise=log_count_noise)[1:]


def counts_not_in_logarithms(target, noise, *, log_count_noise):
    loss = mg.logsumexp(noise, axis=1) - target + np.log((1 / np.exp(log_count_noise)).sum(axis=-1))
    return loss, *sound(target, noise, log_count_noise=log_count_noise)[1:]


def exp_over_the_sum_of_exp(target, noise, *, log_count_noise):
    loss, g_target, _ = sound(target, noise, log_count_noise=log_count_noise)
    e = np.exp(noise - log_count_noise)
    return loss, g_target, e / e.sum(axis=1, keepdims=True)


def never_negative(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return np.maximum(loss, 0), g_target, g_noise


def noise_clipped(target, noise, *, log_count_noise):
    return sound(target, np.clip(noise, -50, 50), log_count_noise=log_count_noise)


def noise_that_scores_as_the_target_masked(target, noise, *, log_count_noise):
    return sound(target, np.where(noise == target[:, None], -1e30, noise), log_count_noise=log_count_noise)


def equal_noise_counted_once(target, noise, *, log_count_noise):
    again = np.array([[s in row[:j] for j, s in enumerate(row)] for row in noise.tolist()])
    return sound(target, np.where(again, -1e30, noise), log_count_noise=log_count_noise)


def counts_of_the_first_example_for_all(target, noise, *, log_count_noise):
    return sound(target, noise, log_count_noise=log_count_noise[:1] if log_count_noise.ndim == 2 else log_count_noise)


def counts_go_with_the_examples(target, noise, *, log_count_noise):
    if log_count_noise.ndim == 1 and len(log_count_noise) == len(target):
        log_count_noise = log_count_noise[:, None]
    return sound(target, noise, log_count_noise=log_count_noise)


def counts_in_one_row_ignored_in_the_gradient(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss, g_target, g_noise if log_count_noise.ndim == 2 else mg.softmax(noise, axis=1)


def mean_over_the_batch_inside(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss.mean(), g_target / len(target), g_noise / len(target)


def gradient_of_the_mean(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss, g_target / len(target), g_noise / len(target)


def written_into_what_it_was_given(target, noise, *, log_count_noise):
    noise -= log_count_noise
    return sound(target, noise, log_count_noise=0 * log_count_noise)


def an_absolute_scale(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss + 0.01 * target**2, g_target + 0.02 * target, g_noise


def a_float64_constant(target, noise, *, log_count_noise):
    loss, g_target, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss * np.float64(1), g_target, g_noise


def a_float64_constant_in_the_gradient(target, noise, *, log_count_noise):
    loss, _, g_noise = sound(target, noise, log_count_noise=log_count_noise)
    return loss, -np.ones(len(target)), g_noise


SABOTAGE = [
    (mean_over_the_batch_inside, "one loss an example"),
    (written_into_what_it_was_given, "one loss an example"),
    (log_q_forgotten, "the loss is log Ẑ − s_t"),
    (log_q_forgotten, "E Ẑ is Z"),
    (log_q_forgotten_in_the_gradient, "a noise word's gradient is its share of Ẑ"),
    (sign_of_log_q_flipped, "the loss is log Ẑ − s_t"),
    (sign_of_log_q_flipped, "E Ẑ is Z"),
    (log_n_forgotten, "the loss is log Ẑ − s_t"),
    (log_n_forgotten, "the whole vocabulary is the softmax"),
    (divided_by_n_twice, "the loss is log Ẑ − s_t"),
    (the_target_in_the_sum, "the loss is log Ẑ − s_t"),
    (the_target_in_the_sum, "the target's gradient is −1"),
    (the_target_in_the_sum, "the loss falls without end"),
    (the_targets_gradient_as_in_the_softmax, "the target's gradient is −1"),
    (the_targets_gradient_forgotten, "the whole vocabulary is the softmax"),
    (the_targets_gradient_forgotten, "G is right far from zero"),
    (the_targets_score_forgotten, "a constant in all scores changes nothing"),
    (sign_of_the_noise_gradient_lost, "a noise word's gradient is its share of Ẑ"),
    (weights_that_do_not_sum_to_one, "a noise word's gradient is its share of Ẑ"),
    (weights_without_their_sum, "a constant in all scores changes nothing"),
    (every_noise_word_with_the_same_weight, "G is the derivative of the loss"),
    (softmax_over_the_batch, "a noise word's gradient is its share of Ẑ"),
    (mean_of_logs_for_log_of_mean, "the loss is log Ẑ − s_t"),
    (greatest_for_the_sum, "no draw errs if q = p"),
    (log_of_sum_of_exp, "the loss is right far from zero"),
    (noise_clipped, "the loss is right far from zero"),
    (counts_not_in_logarithms, "the loss is log Ẑ − s_t"),
    (exp_over_the_sum_of_exp, "G is right far from zero"),
    (never_negative, "the loss falls without end"),
    (noise_that_scores_as_the_target_masked, "the whole vocabulary is the softmax"),
    (equal_noise_counted_once, "E Ẑ is Z"),
    (counts_of_the_first_example_for_all, "the loss is log Ẑ − s_t"),
    (counts_go_with_the_examples, "one row of counts serves all"),
    (counts_in_one_row_ignored_in_the_gradient, "one row of counts serves all"),
    (gradient_of_the_mean, "G is the derivative of the loss"),
    (an_absolute_scale, "a constant in all scores changes nothing"),
    (a_float64_constant, "float32 stays float32"),
    (a_float64_constant_in_the_gradient, "float32 stays float32"),
]
LESSONS = {lesson.name: lesson for lesson in CHAPTER.lessons}


@pytest.mark.cpu
@pytest.mark.parametrize("mutant, lesson", SABOTAGE, ids=[f"{m.__name__}-{LESSONS[n].step}" for m, n in SABOTAGE])
def test_the_lesson_does_not_let_the_mutant_pass(mutant, lesson):
    assert smallest_failure(LESSONS[lesson], mutant) is not None


@pytest.mark.cpu
@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.holds.__name__)
def test_every_lesson_lets_the_sound_function_pass_and_has_a_mutant(lesson):
    assert smallest_failure(lesson, sound, max_examples=50) is None
    assert lesson.name in {name for _, name in SABOTAGE}


@pytest.mark.cpu
def test_a_mutant_of_log_q_passes_the_lessons_that_are_not_about_it():
    """Lessons blame the right step: not every mutant fails everywhere."""
    for lesson in ("one loss an example", "the target's gradient is −1", "a constant in all scores changes nothing"):
        assert smallest_failure(LESSONS[lesson], log_q_forgotten, max_examples=50) is None
    assert smallest_failure(LESSONS["the whole vocabulary is the softmax"], log_q_forgotten, max_examples=50) is None
    assert smallest_failure(LESSONS["G is the derivative of the loss"], the_target_in_the_sum, max_examples=50) is None


# ---- the effective sample size --------------------------------------------------------------------------------------


def is_the_effective_sample_size(function):
    """(8) from its definition, for a few weights, some too large or too small for an exponential."""
    for log_weights in ([0.0], [0.0, 0.0], [0.0, 1.0, -2.0], [1000.0, 1001.0], [-1000.0, -1000.0, -999.0]):
        w = [math.exp(a - max(log_weights)) for a in log_weights]
        with np.errstate(all="ignore"):
            found = function(np.array([log_weights]))[0]
        if not math.isclose(found, sum(w) ** 2 / sum(x * x for x in w), rel_tol=1e-12):
            return False
    return True


MUTANTS_OF_ESS = {
    "the square of the sum forgotten": lambda a: effective_sample_size(a) / mg.exp(a - a.max()).sum(axis=-1),
    "one over": lambda a: 1 / effective_sample_size(a),
    "the number of draws": lambda a: np.full(a.shape[:-1], float(a.shape[-1])),
    "the weights not squared": lambda a: mg.softmax(a).sum(axis=-1),
    "one over the greatest share": lambda a: 1 / mg.softmax(a).max(axis=-1),
    "the entropy's": lambda a: np.exp(-(mg.softmax(a) * mg.log_softmax(a)).sum(axis=-1)),
    "the greatest not taken off": lambda a: np.exp(a).sum(axis=-1) ** 2 / (np.exp(a) ** 2).sum(axis=-1),
}


@pytest.mark.cpu
@pytest.mark.parametrize("mutant", MUTANTS_OF_ESS.values(), ids=MUTANTS_OF_ESS)
def test_no_wrong_effective_sample_size_passes(mutant):
    assert not is_the_effective_sample_size(mutant)


@pytest.mark.cpu
def test_the_right_effective_sample_size_does():
    assert is_the_effective_sample_size(effective_sample_size)
