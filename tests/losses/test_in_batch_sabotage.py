"""Sabotage: wrong versions of in-batch negatives, each with the lesson, by name, that must not let it pass."""

import numpy as np
import pytest

from losses.check import smallest_failure
from losses.sampled.in_batch import in_batch_softmax as sound
from losses.suites.in_batch import CHAPTER

pytestmark = [pytest.mark.in_batch, pytest.mark.cpu]


def no_correction(scores, *, log_q, repeats=None):
    return sound(scores, log_q=0 * log_q, repeats=repeats)


def the_wrong_sign(scores, *, log_q, repeats=None):
    return sound(scores, log_q=-log_q, repeats=repeats)


def log_q_of_the_row(scores, *, log_q, repeats=None):
    return sound(scores - log_q[:, None], log_q=0.0, repeats=repeats)


def log_q_of_the_noise_only(scores, *, log_q, repeats=None):
    return sound(scores - log_q * (1 - np.eye(len(log_q), dtype=log_q.dtype)), log_q=0.0, repeats=repeats)


def log_q_of_the_target_only(scores, *, log_q, repeats=None):
    return sound(scores - log_q * np.eye(len(log_q), dtype=log_q.dtype), log_q=0.0, repeats=repeats)


def twice_the_correction(scores, *, log_q, repeats=None):
    return sound(scores, log_q=2 * log_q, repeats=repeats)


def q_for_log_q(scores, *, log_q, repeats=None):
    return sound(scores, log_q=np.exp(log_q), repeats=repeats)


def softmax_over_the_contexts(scores, *, log_q, repeats=None):
    loss, g = sound(scores.T - log_q[:, None], log_q=0.0, repeats=None if repeats is None else repeats.T)
    return loss, g.T


def the_next_example_is_right(scores, *, log_q, repeats=None):
    loss, g = sound(np.roll(scores, -1, axis=1), log_q=np.roll(log_q, -1), repeats=repeats)
    return loss, np.roll(g, 1, axis=1)


def the_first_example_is_right(scores, *, log_q, repeats=None):
    """Zeros for labels, as where the right one stands in column 0."""
    _, g = sound(scores, log_q=log_q, repeats=repeats)
    p = g + np.eye(len(log_q), dtype=g.dtype)
    first = np.arange(len(log_q)) == 0
    return -np.log(np.maximum(p[:, 0], 1e-300)), p - first


def words_that_score_alike_left_out(scores, *, log_q, repeats=None):
    """As if of one score and log q meant of one word."""
    diagonal = np.diagonal(scores)[:, None]
    same = (scores == diagonal) & (log_q == log_q[:, None]) & ~np.eye(len(log_q), dtype=bool)
    return sound(scores, log_q=log_q, repeats=same if repeats is None else repeats)


def the_right_one_not_in_the_sum(scores, *, log_q, repeats=None):
    """Importance sampling among the batch."""
    if len(log_q) == 1:
        return sound(scores, log_q=log_q)
    a = scores - log_q
    a_noise = np.where(np.eye(len(a), dtype=bool) | (False if repeats is None else repeats), -np.inf, a)
    top = a_noise.max(axis=1)
    e = np.exp(a_noise - top[:, None])
    return np.log(e.sum(axis=1)) + top - np.diagonal(a), e / e.sum(axis=1, keepdims=True) - np.eye(len(a))


def softmax_as_it_stands(scores, *, log_q, repeats=None):
    e = np.exp(scores - log_q)
    e = e if repeats is None else np.where(repeats, 0, e)
    p = e / e.sum(axis=1, keepdims=True)
    return -np.log(np.diagonal(p)), p - np.eye(len(p), dtype=p.dtype)


def mean_over_the_batch_inside(scores, *, log_q, repeats=None):
    loss, g = sound(scores, log_q=log_q, repeats=repeats)
    return loss.mean(), g / len(g)


def gradient_of_the_mean(scores, *, log_q, repeats=None):
    loss, g = sound(scores, log_q=log_q, repeats=repeats)
    return loss, g / len(g)


def both_ways(scores, *, log_q, repeats=None):
    """The mean of contexts over words and words over contexts: what CLIP wants, not log P."""
    loss, g = sound(scores, log_q=log_q, repeats=repeats)
    back, g_back = sound(scores.T, log_q=log_q)
    return (loss + back) / 2, (g + g_back.T) / 2


def gradient_without_minus_one(scores, *, log_q, repeats=None):
    loss, g = sound(scores, log_q=log_q, repeats=repeats)
    return loss, g + np.eye(len(g), dtype=g.dtype)


def gradient_of_the_noise_only(scores, *, log_q, repeats=None):
    loss, g = sound(scores, log_q=log_q, repeats=repeats)
    return loss, g * (1 - np.eye(len(g), dtype=g.dtype))


def a_float64_eye(scores, *, log_q, repeats=None):
    loss, g = sound(scores, log_q=log_q, repeats=repeats)
    return loss, g + 0 * np.eye(len(g))


def a_float64_loss(scores, *, log_q, repeats=None):
    loss, g = sound(scores, log_q=log_q, repeats=repeats)
    return loss * np.float64(1), g


def writes_into_its_scores(scores, *, log_q, repeats=None):
    scores -= log_q
    return sound(scores, log_q=0.0, repeats=repeats)


def a_log_of_b_for_the_mean_of_the_batch(scores, *, log_q, repeats=None):
    """log of the mean, not of the sum: a batch of one is right, and so is G."""
    loss, g = sound(scores, log_q=log_q, repeats=repeats)
    return loss - np.log(len(g)).astype(loss.dtype), g


def a_bias_of_one_in_the_sum(scores, *, log_q, repeats=None):
    """log(1 + Σ e^a), as with a word for none of them."""
    a = scores - log_q
    a = a if repeats is None else np.where(repeats, -1e30, a)
    z = 1 + np.exp(a).sum(axis=1)
    return np.log(z) - np.diagonal(a), np.exp(a) / z[:, None] - np.eye(len(a), dtype=a.dtype)


def repeats_ignored(scores, *, log_q, repeats=None):
    return sound(scores, log_q=log_q)


def repeats_the_wrong_way_round(scores, *, log_q, repeats=None):
    left_out = None if repeats is None else ~repeats & ~np.eye(len(log_q), dtype=bool)
    return sound(scores, log_q=log_q, repeats=left_out)


def repeats_have_the_score_zero(scores, *, log_q, repeats=None):
    return sound(scores if repeats is None else np.where(repeats, log_q, scores), log_q=log_q)


def repeats_have_a_gradient(scores, *, log_q, repeats=None):
    return sound(scores, log_q=log_q, repeats=repeats)[0], sound(scores, log_q=log_q)[1]


def repeats_of_the_column(scores, *, log_q, repeats=None):
    return sound(scores, log_q=log_q, repeats=None if repeats is None else repeats.T)


def the_textbooks_way(scores, *, log_q, repeats=None):
    """Right, if (m + log Σ) − a_ii rounds to the digits of m."""
    a = scores - log_q
    right, a = np.diagonal(a), a if repeats is None else np.where(repeats, -np.inf, a)
    m = a.max(axis=1)
    log_z = m + np.log(np.exp(a - m[:, None]).sum(axis=1))
    return log_z - right, np.exp(a - log_z[:, None]) - np.eye(len(a), dtype=a.dtype)


SHARE, OPTIMUM = "the loss is −log of the diagonal's share in its row", "the optimum is log P + c"
SABOTAGE = [
    (no_correction, SHARE),
    (no_correction, OPTIMUM),
    (the_wrong_sign, SHARE),
    (the_wrong_sign, OPTIMUM),
    (log_q_of_the_row, SHARE),
    (log_q_of_the_row, OPTIMUM),
    (log_q_of_the_noise_only, "a constant in log q cancels"),
    (log_q_of_the_noise_only, OPTIMUM),
    (log_q_of_the_target_only, "a constant in log q cancels"),
    (log_q_of_the_target_only, OPTIMUM),
    (twice_the_correction, SHARE),
    (twice_the_correction, OPTIMUM),
    (q_for_log_q, "a constant in log q cancels"),
    (q_for_log_q, OPTIMUM),
    (softmax_over_the_contexts, SHARE),
    (softmax_over_the_contexts, OPTIMUM),
    (the_next_example_is_right, SHARE),
    (the_first_example_is_right, SHARE),
    (the_first_example_is_right, "G is the share, minus one on the diagonal"),
    (words_that_score_alike_left_out, SHARE),
    (words_that_score_alike_left_out, OPTIMUM),
    (the_right_one_not_in_the_sum, SHARE),
    (the_right_one_not_in_the_sum, OPTIMUM),
    (softmax_as_it_stands, "all is right far from zero"),
    (mean_over_the_batch_inside, "one loss an example"),
    (gradient_of_the_mean, "G is the share, minus one on the diagonal"),
    (gradient_of_the_mean, "G is the derivative of the loss"),
    (both_ways, SHARE),
    (both_ways, "G is the share, minus one on the diagonal"),
    (gradient_without_minus_one, "G is the share, minus one on the diagonal"),
    (gradient_without_minus_one, "G is the derivative of the loss"),
    (gradient_without_minus_one, "alone there is nothing to learn"),
    (gradient_of_the_noise_only, "G is the derivative of the loss"),
    (gradient_of_the_noise_only, OPTIMUM),
    (a_float64_eye, "float32 stays float32"),
    (a_float64_loss, "float32 stays float32"),
    (writes_into_its_scores, "one loss an example"),
    (a_log_of_b_for_the_mean_of_the_batch, SHARE),
    (a_bias_of_one_in_the_sum, SHARE),
    (a_bias_of_one_in_the_sum, "alone there is nothing to learn"),
    (a_bias_of_one_in_the_sum, "a constant in log q cancels"),
    (repeats_ignored, "what is left out is not there"),
    (repeats_the_wrong_way_round, "what is left out is not there"),
    (repeats_have_the_score_zero, "what is left out is not there"),
    (repeats_have_a_gradient, "what is left out is not there"),
    (repeats_of_the_column, "what is left out is not there"),
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
    assert passes("a constant in log q cancels", the_wrong_sign)
    assert passes("G is the derivative of the loss", no_correction)
    assert passes("alone there is nothing to learn", log_q_of_the_row)
    assert passes("the optimum is log P + c", a_log_of_b_for_the_mean_of_the_batch)


def test_a_row_that_takes_its_own_log_q_off_is_not_corrected_at_all():
    """The trap of the broadcast: `log_q[:, None]` cancels, in the loss and in G."""
    scores, log_q = np.arange(9.0).reshape(3, 3), np.array([-1.0, -2.0, -3.0])
    for mutant, plain in zip(log_q_of_the_row(scores, log_q=log_q), no_correction(scores, log_q=log_q)):
        assert np.allclose(mutant, plain, rtol=1e-14)
