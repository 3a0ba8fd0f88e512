"""Sabotage: wrong versions of noise contrastive estimation, each with the lesson that must not let it pass."""

import math

import numpy as np
import pytest

import minigrad as mg
from losses import check
from losses.check import smallest_failure
from losses.sampled.nce import nce as sound
from losses.sampled.negative import negative_sampling
from losses.suites.nce import CHAPTER

pytestmark = [pytest.mark.nce, pytest.mark.cpu]
softplus, sigmoid = mg.softplus, mg.sigmoid


def log_kq_left_out(target, noise, *, log_kq_target, log_kq_noise, k=None):
    return negative_sampling(target, noise, k=k)


def log_kq_left_out_for_the_target(target, noise, *, log_kq_target, log_kq_noise, k=None):
    return negative_sampling(target, noise - log_kq_noise, k=k)


def log_kq_left_out_for_the_noise(target, noise, *, log_kq_target, log_kq_noise, k=None):
    return negative_sampling(target - log_kq_target, noise, k=k)


def log_kq_added(target, noise, *, log_kq_target, log_kq_noise, k=None):
    return negative_sampling(target + log_kq_target, noise + log_kq_noise, k=k)


def log_k_left_out(target, noise, *, log_kq_target, log_kq_noise, k=None):
    log_k = math.log(noise.shape[1] if k is None else k)
    return negative_sampling(target - (log_kq_target - log_k), noise - (log_kq_noise - log_k), k=k)


def log_k_twice(target, noise, *, log_kq_target, log_kq_noise, k=None):
    log_k = math.log(noise.shape[1] if k is None else k)
    return negative_sampling(target - (log_kq_target + log_k), noise - (log_kq_noise + log_k), k=k)


def noise_averaged(target, noise, *, log_kq_target, log_kq_noise, k=None):
    return sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=1 if k is None else k)


def noise_averaged_in_the_gradient_only(target, noise, *, log_kq_target, log_kq_noise, k=None):
    loss, g_target, g_noise = sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)
    return loss, g_target, g_noise / noise.shape[1]


def hits_left_out(target, noise, *, log_kq_target, log_kq_noise, k=None):
    """A hit has the score of the target and its log(k q)."""
    loss, g_target, g_noise = sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)
    hit = (noise == target[:, None]) & (log_kq_noise == np.reshape(log_kq_target, (-1, 1)))
    weight = 1.0 if k is None else k / noise.shape[1]
    return loss - weight * (hit * softplus(noise - log_kq_noise)).sum(axis=1), g_target, ~hit * g_noise


def sign_of_the_noise_lost(target, noise, *, log_kq_target, log_kq_noise, k=None):
    loss, g_target, g_noise = negative_sampling(target - log_kq_target, log_kq_noise - noise, k=k)
    return loss, g_target, -g_noise


def sign_of_the_noise_gradient_lost(target, noise, *, log_kq_target, log_kq_noise, k=None):
    loss, g_target, g_noise = sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)
    return loss, g_target, -g_noise


def target_gradient_without_minus_one(target, noise, *, log_kq_target, log_kq_noise, k=None):
    loss, g_target, g_noise = sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)
    return loss, g_target + 1, g_noise


def scores_without_their_mean(target, noise, *, log_kq_target, log_kq_noise, k=None):
    """What all scores of an example have in common is taken away, as a softmax would."""
    mean = (target + noise.sum(axis=1)) / (1 + noise.shape[1])
    options = dict(log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)
    return sound(target - mean, noise - mean[:, None], **options)


def ratio(target, noise, *, log_kq_target, log_kq_noise, k=None):
    weight, scored = 1.0 if k is None else k / noise.shape[1], ((target, log_kq_target), (noise, log_kq_noise))
    answer, answers = (np.exp(s) / (np.exp(s) + np.exp(log_kq)) for s, log_kq in scored)
    return -np.log(answer) - weight * np.log(1 - answers).sum(axis=1), answer - 1, weight * answers


def log_of_one_plus_exp(target, noise, *, log_kq_target, log_kq_noise, k=None):
    weight = 1.0 if k is None else k / noise.shape[1]
    loss = np.log(1 + np.exp(log_kq_target - target)) + weight * np.log(1 + np.exp(noise - log_kq_noise)).sum(axis=1)
    return loss, *sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)[1:]


def mean_over_the_batch_inside(target, noise, *, log_kq_target, log_kq_noise, k=None):
    loss, g_target, g_noise = sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)
    return loss.mean(), g_target / len(target), g_noise / len(target)


def a_float64_log_k(target, noise, *, log_kq_target, log_kq_noise, k=None):
    loss, g_target, g_noise = sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)
    return loss + 0 * np.log(np.arange(1.0, 2.0)), g_target, g_noise


def k_ignored(target, noise, *, log_kq_target, log_kq_noise, k=None):
    return sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise)


def k_over_m_upside_down(target, noise, *, log_kq_target, log_kq_noise, k=None):
    k = None if k is None else noise.shape[1] ** 2 / k
    return sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)


def k_weighs_the_target_too(target, noise, *, log_kq_target, log_kq_noise, k=None):
    loss, g_target, g_noise = sound(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise, k=k)
    weight = 1.0 if k is None else k / noise.shape[1]
    return loss + (weight - 1) * softplus(log_kq_target - target), weight * g_target, g_noise


def writes_into_the_scores(target, noise, *, log_kq_target, log_kq_noise, k=None):
    target -= log_kq_target
    noise -= log_kq_noise
    return negative_sampling(target, noise, k=k)


SUM, OPTIMUM = "the loss is that of telling text from noise", "the optimum is log P"
MEAN = "the mean gradient is k q / (P̃ + k q) · (P̃ − P)"
SABOTAGE = [
    (log_kq_left_out, SUM),
    (log_kq_left_out, OPTIMUM),
    (log_kq_left_out, "text and noise change places"),
    (log_kq_left_out_for_the_target, SUM),
    (log_kq_left_out_for_the_target, "the target's gradient is σ(Δ_t) − 1"),
    (log_kq_left_out_for_the_target, "text and noise change places"),
    (log_kq_left_out_for_the_noise, SUM),
    (log_kq_left_out_for_the_noise, "a noise word's gradient is σ(Δ_n)"),
    (log_kq_added, SUM),
    (log_kq_added, OPTIMUM),
    (log_kq_added, "text and noise change places"),
    (log_k_left_out, SUM),
    (log_k_left_out, OPTIMUM),
    (log_k_left_out, MEAN),
    (log_k_twice, SUM),
    (log_k_twice, OPTIMUM),
    (noise_averaged, SUM),
    (noise_averaged, OPTIMUM),
    (noise_averaged_in_the_gradient_only, "G is the derivative of the loss"),
    (noise_averaged_in_the_gradient_only, MEAN),
    (hits_left_out, MEAN),
    (hits_left_out, OPTIMUM),
    (sign_of_the_noise_lost, SUM),
    (sign_of_the_noise_lost, "text and noise change places"),
    (sign_of_the_noise_gradient_lost, "a noise word's gradient is σ(Δ_n)"),
    (sign_of_the_noise_gradient_lost, "G is the derivative of the loss"),
    (target_gradient_without_minus_one, "the target's gradient is σ(Δ_t) − 1"),
    (target_gradient_without_minus_one, "G is the derivative of the loss"),
    (scores_without_their_mean, "a number added to all scores is seen"),
    (scores_without_their_mean, SUM),
    (ratio, "the loss is right far from zero"),
    (ratio, "G is right far from zero"),
    (log_of_one_plus_exp, "the loss is right far from zero"),
    (mean_over_the_batch_inside, "one loss an example"),
    (writes_into_the_scores, "one loss an example"),
    (a_float64_log_k, "float32 stays float32"),
    (k_ignored, "shared noise counts as k words"),
    (k_ignored, "the gradient becomes that of the softmax"),
    (k_over_m_upside_down, "shared noise counts as k words"),
    (k_weighs_the_target_too, "shared noise counts as k words"),
    (k_weighs_the_target_too, "the gradient becomes that of the softmax"),
]
LESSONS = {lesson.name: lesson for lesson in CHAPTER.lessons}


@pytest.mark.parametrize("mutant, lesson", SABOTAGE, ids=[f"{m.__name__}-{LESSONS[n].step}" for m, n in SABOTAGE])
def test_the_lesson_does_not_let_the_mutant_pass(mutant, lesson):
    _, error = smallest_failure(LESSONS[lesson], mutant)
    assert isinstance(error, AssertionError), "its numbers are wrong, it did not break"


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.holds.__name__)
def test_every_lesson_lets_the_sound_function_pass_and_has_a_mutant(lesson):
    assert smallest_failure(lesson, sound, max_examples=50) is None
    assert lesson.name in {name for _, name in SABOTAGE}


@pytest.mark.parametrize(
    "mutant, lesson",
    [
        (log_k_left_out, "text and noise change places"),  # which is about one noise word, where log k is 0
        (log_kq_left_out_for_the_noise, "the target's gradient is σ(Δ_t) − 1"),
        (noise_averaged, "one loss an example"),
        (k_ignored, OPTIMUM),
        (hits_left_out, "the target's gradient is σ(Δ_t) − 1"),
    ],
)
def test_a_mutant_passes_the_lessons_on_what_it_leaves_alone(mutant, lesson):
    """Lessons blame the right step: not every mutant fails everywhere."""
    assert smallest_failure(LESSONS[lesson], mutant) is None


def test_the_door_tells_who_forgot_log_k_what_becomes_of_the_scores(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import math\n"
        "from losses.sampled.negative import negative_sampling\n\n\n"
        "def nce(target_scores, noise_scores, *, log_kq_target, log_kq_noise):\n"
        "    log_k = math.log(noise_scores.shape[1])\n"
        "    return negative_sampling(target_scores - log_kq_target + log_k, noise_scores - log_kq_noise + log_k)\n"
    )
    assert check.main(["nce", str(mine), "--examples", "30"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "  ✗  (3) the loss is that of telling text from noise" in out
    assert "The step it breaks: (3) of losses.sampled.nce" in out
    assert any("log(k q) is subtracted, from the target's score and" in line for line in out)
