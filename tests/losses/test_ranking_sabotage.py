"""Sabotage: wrong versions of the sampled softmax, each with the lesson, by name, that must not let it pass."""

import numpy as np
import pytest

import minigrad as mg
from losses.check import smallest_failure
from losses.sampled.ranking import sampled_softmax as sound
from losses.suites.ranking import CHAPTER

pytestmark = [pytest.mark.ranking, pytest.mark.cpu]


def changed(change):
    """The sound function with its loss, G_target and G_noise put through `change`."""

    def mutant(target, noise, *, hits=None, **log_counts):
        return change(*sound(target, noise, hits=hits, **log_counts))

    mutant.__name__ = change.__name__
    return mutant


def counted(count):
    """The sound function with other log counts: count(log_count_target, log_count_noise)."""

    def mutant(target, noise, *, log_count_target, log_count_noise, hits=None):
        of_target, of_noise = count(log_count_target, log_count_noise)
        return sound(target, noise, log_count_target=of_target, log_count_noise=of_noise, hits=hits)

    mutant.__name__ = count.__name__
    return mutant


# ---- (2) and (5): which log counts, and of which words ------------------------------------------------------------


@counted
def no_log_q(of_target, of_noise):
    return 0 * of_target, 0 * of_noise


@counted
def log_q_of_the_noise_only(of_target, of_noise):
    return 0 * of_target, of_noise


@counted
def log_q_of_the_target_only(of_target, of_noise):
    return of_target, 0 * of_noise


@counted
def log_q_with_the_wrong_sign(of_target, of_noise):
    return -of_target, -of_noise


@counted
def log_q_of_the_first_example_for_all(of_target, of_noise):
    return of_target[:1] + 0 * of_target, of_noise


def the_targets_log_q_for_all(target, noise, *, log_count_target, log_count_noise, hits=None):
    of_noise = log_count_target[:, None] + 0 * noise
    return sound(target, noise, log_count_target=log_count_target, log_count_noise=of_noise, hits=hits)


def the_target_not_in_the_sum(target, noise, *, log_count_target, log_count_noise, hits=None):
    """Importance sampling: D for softplus(D)."""
    a = noise - log_count_noise
    d = mg.logsumexp(a, axis=1) - (target - log_count_target)
    return d, 0 * target - 1, mg.softmax(a, axis=1)


def noise_averaged(target, noise, *, log_count_target, log_count_noise, hits=None):
    of_noise = log_count_noise + np.log(noise.shape[1]).astype(noise.dtype)
    return sound(target, noise, log_count_target=log_count_target, log_count_noise=of_noise, hits=hits)


def the_first_noise_word_only(target, noise, *, log_count_target, log_count_noise, hits=None):
    rest = np.arange(noise.shape[1]) > 0
    left_out = rest | np.zeros(noise.shape, bool) if hits is None else rest | hits
    return sound(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise, hits=left_out)


def the_hardest_noise_word_only(target, noise, *, log_count_target, log_count_noise, hits=None):
    a = noise - log_count_noise
    left_out = (a != a.max(axis=1, keepdims=True)) | (False if hits is None else hits)
    return sound(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise, hits=left_out)


def hits_masked(target, noise, *, log_count_target, log_count_noise, hits=None):
    """As if of one score and count meant of one word."""
    same = (noise == target[:, None]) & (log_count_noise == log_count_target[:, None])
    left_out = same if hits is None else hits
    return sound(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise, hits=left_out)


# ---- (3): far from zero -------------------------------------------------------------------------------------------


def softmax_as_it_stands(target, noise, *, log_count_target, log_count_noise, hits=None):
    e_target, e_noise = np.exp(target - log_count_target), np.exp(noise - log_count_noise)
    e_noise = e_noise if hits is None else np.where(hits, 0, e_noise)
    z = e_target + e_noise.sum(axis=1)
    return -np.log(e_target / z), e_target / z - 1, e_noise / z[:, None]


def log_of_one_plus_exp(target, noise, *, log_count_target, log_count_noise, hits=None):
    options = {"log_count_target": log_count_target, "log_count_noise": log_count_noise, "hits": hits}
    d = mg.logsumexp(noise - log_count_noise, axis=1) - (target - log_count_target)
    return np.log(1 + np.exp(d)), *sound(target, noise, **options)[1:]


@changed
def a_float64_constant(loss, g_target, g_noise):
    return loss * np.float64(1), g_target, g_noise


@changed
def a_float64_constant_in_the_gradient(loss, g_target, g_noise):
    return loss, g_target, g_noise * np.float64(1)


# ---- (2), (4): loss and gradient ----------------------------------------------------------------------------------


@changed
def mean_over_the_batch_inside(loss, g_target, g_noise):
    return loss.mean(), g_target / len(g_target), g_noise / len(g_target)


@changed
def gradient_of_the_mean(loss, g_target, g_noise):
    return loss, g_target / len(g_target), g_noise / len(g_target)


@changed
def the_targets_own_share_for_the_noises(loss, g_target, g_noise):
    return loss, -1 - g_target, g_noise


@changed
def the_target_lifted_by_one(loss, g_target, g_noise):
    return loss, 0 * g_target - 1, g_noise


@changed
def the_targets_sign_lost(loss, g_target, g_noise):
    return loss, -g_target, g_noise


@changed
def the_noises_sign_lost(loss, g_target, g_noise):
    return loss, g_target, -g_noise


@changed
def the_noises_gradient_averaged(loss, g_target, g_noise):
    return loss, g_target, g_noise / g_noise.shape[1]


def a_softmax_of_the_noise_alone(target, noise, *, log_count_target, log_count_noise, hits=None):
    options = {"log_count_target": log_count_target, "log_count_noise": log_count_noise, "hits": hits}
    return *sound(target, noise, **options)[:2], mg.softmax(noise - log_count_noise, axis=1)


def writes_into_its_scores(target, noise, *, log_count_target, log_count_noise, hits=None):
    target -= log_count_target
    return sound(target, noise, log_count_target=0.0, log_count_noise=log_count_noise, hits=hits)


# ---- (7): what is left out ----------------------------------------------------------------------------------------


def hits_ignored(target, noise, *, log_count_target, log_count_noise, hits=None):
    return sound(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise)


def hits_the_wrong_way_round(target, noise, *, log_count_target, log_count_noise, hits=None):
    left_out = None if hits is None else ~hits
    return sound(target, noise, log_count_target=log_count_target, log_count_noise=log_count_noise, hits=left_out)


def what_is_left_out_has_the_score_zero(target, noise, *, log_count_target, log_count_noise, hits=None):
    options = {"log_count_target": log_count_target, "log_count_noise": log_count_noise}
    if hits is None:
        return sound(target, noise, **options)
    loss, g_target, g_noise = sound(target, np.where(hits, log_count_noise, noise), **options)
    return loss, g_target, np.where(hits, 0, g_noise)


def what_is_left_out_has_a_score_of_minus_ten(target, noise, *, log_count_target, log_count_noise, hits=None):
    options = {"log_count_target": log_count_target, "log_count_noise": log_count_noise}
    return sound(target, noise if hits is None else np.where(hits, -10, noise), **options)


def what_is_left_out_has_a_gradient(target, noise, *, log_count_target, log_count_noise, hits=None):
    options = {"log_count_target": log_count_target, "log_count_noise": log_count_noise}
    return *sound(target, noise, **options, hits=hits)[:2], sound(target, noise, **options)[2]


def what_is_left_out_is_minus_infinity(target, noise, *, log_count_target, log_count_noise, hits=None):
    a = noise - log_count_noise
    a = a if hits is None else np.where(hits, -np.inf, a).astype(a.dtype)
    top = a.max(axis=1, keepdims=True)
    d = np.log(np.exp(a - top).sum(axis=1)) + top[:, 0] - (target - log_count_target)
    share = np.exp(a - top) / np.exp(a - top).sum(axis=1, keepdims=True)
    return mg.softplus(d), -mg.sigmoid(d), mg.sigmoid(d)[:, None] * share


def the_textbooks_way(target, noise, *, log_count_target, log_count_noise, hits=None):
    """Right, if (m + log Σ) − a_t rounds to the digits of m."""
    a_target, a_noise = target - log_count_target, noise - log_count_noise
    a_noise = a_noise if hits is None else np.where(hits, -np.inf, a_noise).astype(noise.dtype)
    a = np.concatenate([a_target[:, None], a_noise], axis=1)
    m = a.max(axis=1)
    log_z = m + np.log(np.exp(a - m[:, None]).sum(axis=1))
    p = np.exp(a - log_z[:, None])
    return log_z - a_target, p[:, 0] - 1, p[:, 1:]


SABOTAGE = [
    (no_log_q, "the loss is that of a choice of k + 1 words"),
    (no_log_q, "the optimum is log P + c"),
    (no_log_q, "of a set of candidates the optimum is log P + c too"),
    (log_q_of_the_noise_only, "the loss is that of a choice of k + 1 words"),
    (log_q_of_the_noise_only, "a constant in every log count cancels"),
    (log_q_of_the_noise_only, "the optimum is log P + c"),
    (log_q_of_the_noise_only, "of a set of candidates the optimum is log P + c too"),
    (log_q_of_the_target_only, "a constant in every log count cancels"),
    (log_q_of_the_target_only, "the optimum is log P + c"),
    (log_q_with_the_wrong_sign, "the loss is that of a choice of k + 1 words"),
    (log_q_with_the_wrong_sign, "the optimum is log P + c"),
    (log_q_of_the_first_example_for_all, "the loss is that of a choice of k + 1 words"),
    (the_targets_log_q_for_all, "the optimum is log P + c"),
    (the_target_not_in_the_sum, "the loss is that of a choice of k + 1 words"),
    (the_target_not_in_the_sum, "the target's gradient is −σ(D)"),
    (the_target_not_in_the_sum, "the optimum is log P + c"),
    (noise_averaged, "the loss is that of a choice of k + 1 words"),
    (noise_averaged, "a noise word's gradient is its share of σ(D)"),
    (the_first_noise_word_only, "a noise word's gradient is its share of σ(D)"),
    (the_hardest_noise_word_only, "the optimum is log P + c"),
    (hits_masked, "the loss is that of a choice of k + 1 words"),
    (hits_masked, "the optimum is log P + c"),
    (softmax_as_it_stands, "the loss is right far from zero"),
    (softmax_as_it_stands, "G is right far from zero"),
    (log_of_one_plus_exp, "the loss is right far from zero"),
    (a_float64_constant, "float32 stays float32"),
    (a_float64_constant_in_the_gradient, "float32 stays float32"),
    (mean_over_the_batch_inside, "one loss an example"),
    (gradient_of_the_mean, "the target's gradient is −σ(D)"),
    (gradient_of_the_mean, "G is the derivative of the loss"),
    (the_targets_own_share_for_the_noises, "the target's gradient is −σ(D)"),
    (the_target_lifted_by_one, "the target's gradient is −σ(D)"),
    (the_target_lifted_by_one, "G is the derivative of the loss"),
    (the_targets_sign_lost, "the target's gradient is −σ(D)"),
    (the_noises_sign_lost, "a noise word's gradient is its share of σ(D)"),
    (the_noises_sign_lost, "G is right far from zero"),
    (the_noises_gradient_averaged, "a noise word's gradient is its share of σ(D)"),
    (the_noises_gradient_averaged, "G is the derivative of the loss"),
    (the_noises_gradient_averaged, "the optimum is log P + c"),
    (a_softmax_of_the_noise_alone, "a noise word's gradient is its share of σ(D)"),
    (a_softmax_of_the_noise_alone, "the optimum is log P + c"),
    (writes_into_its_scores, "one loss an example"),
    (hits_ignored, "what is left out is not there"),
    (hits_ignored, "where all is left out, nothing is lost"),
    (hits_ignored, "of a set of candidates the optimum is log P + c too"),
    (hits_the_wrong_way_round, "what is left out is not there"),
    (what_is_left_out_has_the_score_zero, "what is left out is not there"),
    (what_is_left_out_has_the_score_zero, "of a set of candidates the optimum is log P + c too"),
    (what_is_left_out_has_a_score_of_minus_ten, "where all is left out, nothing is lost"),
    (what_is_left_out_has_a_score_of_minus_ten, "what is left out is not there"),
    (what_is_left_out_has_a_gradient, "what is left out is not there"),
    (what_is_left_out_is_minus_infinity, "where all is left out, nothing is lost"),
]
LESSONS = {lesson.name: lesson for lesson in CHAPTER.lessons}


@pytest.mark.parametrize("mutant, lesson", SABOTAGE, ids=[f"{m.__name__}-{LESSONS[n].step}" for m, n in SABOTAGE])
def test_the_lesson_does_not_let_the_mutant_pass(mutant, lesson):
    assert smallest_failure(LESSONS[lesson], mutant) is not None


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.holds.__name__)
def test_every_lesson_lets_the_sound_function_pass_and_has_a_mutant(lesson):
    assert smallest_failure(lesson, sound, max_examples=30) is None
    assert lesson.name in {name for _, name in SABOTAGE}


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.holds.__name__)
def test_every_lesson_lets_the_textbooks_way_pass(lesson):
    assert smallest_failure(lesson, the_textbooks_way, 300 if "far from" in lesson.name else 30) is None


def test_lessons_blame_the_right_step():
    """Not every mutant fails everywhere: which one lets it pass tells what is wrong."""
    passes = lambda lesson, mutant: smallest_failure(LESSONS[lesson], mutant, max_examples=30) is None
    assert passes("a constant in every log count cancels", log_q_with_the_wrong_sign)
    assert passes("G is the derivative of the loss", no_log_q)
    assert passes("the loss is that of a choice of k + 1 words", a_softmax_of_the_noise_alone)
    assert passes("the optimum is log P + c", hits_ignored)


def test_noise_that_is_averaged_is_found_from_two_words_on():
    """With k = 1 the mean is the sum."""
    (_p, _q, k), _ = smallest_failure(LESSONS["the optimum is log P + c"], noise_averaged)
    assert k == 2
