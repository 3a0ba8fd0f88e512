"""Sabotage: wrong versions of binary codes, each with the lesson, by name, that must not let it pass."""

import numpy as np
import pytest

from losses.check import smallest_failure
from losses.structured.binary_code import binary_code as sound
from losses.suites.binary_code import CHAPTER

pytestmark = [pytest.mark.binary, pytest.mark.cpu]


def σ(z):
    return np.exp(-np.logaddexp(0, -z))


def bits_averaged(z, *, bits, bit_loss="cross_entropy"):
    loss, G = sound(z, bits=bits, bit_loss=bit_loss)
    return loss / z.shape[1], G / z.shape[1]


def bits_averaged_in_the_gradient_only(z, *, bits, bit_loss="cross_entropy"):
    loss, G = sound(z, bits=bits, bit_loss=bit_loss)
    return loss, G / z.shape[1]


def mean_over_the_batch_inside(z, *, bits, bit_loss="cross_entropy"):
    loss, G = sound(z, bits=bits, bit_loss=bit_loss)
    return loss.mean(), G / len(z)


def bits_turned_over(z, *, bits, bit_loss="cross_entropy"):
    return sound(z, bits=1 - bits, bit_loss=bit_loss)


def last_bit_first(z, *, bits, bit_loss="cross_entropy"):
    return sound(z, bits=bits[:, ::-1], bit_loss=bit_loss)


def zeros_forgotten(z, *, bits, bit_loss="cross_entropy"):
    return (bits * np.logaddexp(0, -z)).sum(axis=1), bits * sound(z, bits=bits)[1]


def zeros_forgotten_in_the_gradient(z, *, bits, bit_loss="cross_entropy"):
    loss, G = sound(z, bits=bits, bit_loss=bit_loss)
    return loss, bits * G


def ones_and_minus_ones_of_unsigned_bits(z, *, bits, bit_loss="cross_entropy"):
    y = 2 * bits - np.uint8(1)  # 255 where a bit is 0; and −y is 255 where it is 1
    return np.logaddexp(0, -y * z).sum(axis=1), -y * σ(-y * z)


def sign_of_the_gradient_lost(z, *, bits, bit_loss="cross_entropy"):
    loss, G = sound(z, bits=bits, bit_loss=bit_loss)
    return loss, -G


def gradient_without_minus_c(z, *, bits, bit_loss="cross_entropy"):
    return sound(z, bits=bits, bit_loss=bit_loss)[0], σ(z)


def log_of_sigma(z, *, bits, bit_loss="cross_entropy"):
    q = 1 / (1 + np.exp(-z))
    loss = -np.where(bits == 1, np.log(q), np.log(1 - q)).sum(axis=1)
    return loss, sound(z, bits=bits, bit_loss=bit_loss)[1]


def log_of_one_plus_exp(z, *, bits, bit_loss="cross_entropy"):
    return np.log(1 + np.exp(-(2.0 * bits - 1) * z)).sum(axis=1), sound(z, bits=bits, bit_loss=bit_loss)[1]


def sigma_clipped(z, *, bits, bit_loss="cross_entropy"):
    right = σ((2.0 * bits - 1) * z)
    return -np.log(np.maximum(right, 1e-7)).sum(axis=1), sound(z, bits=bits, bit_loss=bit_loss)[1]


def exp_over_one_plus_exp(z, *, bits, bit_loss="cross_entropy"):
    return sound(z, bits=bits, bit_loss=bit_loss)[0], np.exp(z) / (1 + np.exp(z)) - bits


def bits_of_64_bits(z, *, bits, bit_loss="cross_entropy"):
    loss, G = sound(z, bits=bits, bit_loss=bit_loss)
    return loss, G + 0 * bits.astype("int64")


def a_float64_constant(z, *, bits, bit_loss="cross_entropy"):
    loss, G = sound(z, bits=bits, bit_loss=bit_loss)
    return loss * np.float64(1), G


def squared_whatever_is_asked(z, *, bits, bit_loss="cross_entropy"):
    return sound(z, bits=bits, bit_loss="squared")


def cross_entropy_whatever_is_asked(z, *, bits, bit_loss="cross_entropy"):
    return sound(z, bits=bits)


def squared(change):
    """`sound`, but the squared loss and its gradient are put through change(loss, G, z, bits)."""

    def mutant(z, *, bits, bit_loss="cross_entropy"):
        found = sound(z, bits=bits, bit_loss=bit_loss)
        return change(*found, z, bits) if bit_loss == "squared" else found

    mutant.__name__ = change.__name__
    return mutant


@squared
def half_of_the_squares(loss, G, z, bits):
    return loss / 2, G / 2


@squared
def two_left_out_of_the_slope(loss, G, z, bits):
    return loss, G / 2


@squared
def slope_of_sigma_left_out(loss, G, z, bits):
    return loss, 2 * (σ(z) - bits)


@squared
def absolute_for_squared(loss, G, z, bits):
    q = σ(z)
    return abs(q - bits).sum(axis=1), np.sign(q - bits) * q * (1 - q)


@squared
def ones_weigh_twice(loss, G, z, bits):
    return ((1 + bits) * (σ(z) - bits) ** 2).sum(axis=1), (1 + bits) * G


def ones_weigh_double(z, *, bits, bit_loss="cross_entropy"):
    loss, G = sound(z, bits=bits, bit_loss=bit_loss)
    return loss + (bits * np.logaddexp(0, -z)).sum(axis=1), (1 + bits) * G


SABOTAGE = [
    (bits_averaged, "the loss is the sum of −log of the right bits' probabilities"),
    (bits_averaged, "G is q − c"),
    (bits_averaged, "the squared loss is the sum of (q − c)²"),
    (bits_averaged_in_the_gradient_only, "G is q − c"),
    (bits_averaged_in_the_gradient_only, "G is the derivative of the loss"),
    (mean_over_the_batch_inside, "one loss an example"),
    (bits_turned_over, "the loss is the sum of −log of the right bits' probabilities"),
    (bits_turned_over, "the loss is right far from zero"),
    (bits_turned_over, "the optimum is the probability of each bit"),
    (last_bit_first, "the loss is the sum of −log of the right bits' probabilities"),
    (last_bit_first, "the optimum is the probability of each bit"),
    (zeros_forgotten, "the loss is the sum of −log of the right bits' probabilities"),
    (zeros_forgotten, "the optimum is the probability of each bit"),
    (zeros_forgotten_in_the_gradient, "G is the derivative of the loss"),
    (ones_and_minus_ones_of_unsigned_bits, "the loss is the sum of −log of the right bits' probabilities"),
    (ones_and_minus_ones_of_unsigned_bits, "G is q − c"),
    (sign_of_the_gradient_lost, "G is q − c"),
    (sign_of_the_gradient_lost, "G is right far from zero"),
    (sign_of_the_gradient_lost, "the squared loss is the sum of (q − c)²"),
    (gradient_without_minus_c, "G is q − c"),
    (log_of_sigma, "the loss is right far from zero"),
    (log_of_one_plus_exp, "the loss is right far from zero"),
    (sigma_clipped, "the loss is right far from zero"),
    (exp_over_one_plus_exp, "G is right far from zero"),
    (bits_of_64_bits, "float32 stays float32"),
    (a_float64_constant, "float32 stays float32"),
    (squared_whatever_is_asked, "the loss is the sum of −log of the right bits' probabilities"),
    (squared_whatever_is_asked, "G is right far from zero"),
    (cross_entropy_whatever_is_asked, "the squared loss is the sum of (q − c)²"),
    (cross_entropy_whatever_is_asked, "the squared loss has no gradient far from zero"),
    (half_of_the_squares, "the squared loss is the sum of (q − c)²"),
    (two_left_out_of_the_slope, "the squared loss is the sum of (q − c)²"),
    (slope_of_sigma_left_out, "the squared loss has no gradient far from zero"),
    (absolute_for_squared, "the optimum of the squared loss is the same"),
    (ones_weigh_twice, "the optimum of the squared loss is the same"),
    (ones_weigh_double, "the optimum is the probability of each bit"),
]
LESSONS = {lesson.name: lesson for lesson in CHAPTER.lessons}


@pytest.mark.parametrize("mutant, lesson", SABOTAGE, ids=[f"{m.__name__}-{LESSONS[n].step}" for m, n in SABOTAGE])
def test_the_lesson_does_not_let_the_mutant_pass(mutant, lesson):
    _, error = smallest_failure(LESSONS[lesson], mutant)
    assert isinstance(error, AssertionError), "its numbers are wrong, it did not break"


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.holds.__name__)
def test_every_lesson_lets_the_sound_function_pass_and_has_a_mutant(lesson):
    assert smallest_failure(lesson, sound, max_examples=25) is None
    assert lesson.name in {name for _, name in SABOTAGE}


def test_a_mutant_of_the_squared_loss_passes_the_lessons_on_the_other():
    """Lessons blame the right step: not every mutant fails everywhere."""
    for lesson in LESSONS.values():
        assert lesson.option or smallest_failure(lesson, half_of_the_squares, max_examples=25) is None


def test_a_mean_over_the_bits_learns_the_same_and_passes_the_lessons_on_what_is_learned():
    assert (
        smallest_failure(LESSONS["the optimum is the probability of each bit"], bits_averaged, max_examples=25) is None
    )
    assert smallest_failure(LESSONS["G is the derivative of the loss"], bits_averaged, max_examples=25) is None
