"""Sabotage: wrong versions of the hybrid, each with the lesson, by name, that must not let it pass."""

import numpy as np
import pytest

from losses.check import smallest_failure
from losses.softmax import softmax_cross_entropy
from losses.structured.binary_code import binary_code
from losses.structured.hybrid import hybrid_code as sound
from losses.suites.hybrid import CHAPTER

pytestmark = [pytest.mark.binary, pytest.mark.cpu]


def parts(s, z, places, bits, bit_loss):
    """(is it rare (B,)), (loss, G_words) of the softmax, (loss, G_bits) of the bits, whoever is rare."""
    rare = places == s.shape[1] - 1
    return rare, softmax_cross_entropy(s, places), binary_code(z, bits=bits, bit_loss=bit_loss)


def bits_of_every_word(s, z, *, places, bits, bit_loss="cross_entropy"):
    _, (of_word, G_words), (of_bits, G_bits) = parts(s, z, places, bits, bit_loss)
    return of_word + of_bits, G_words, G_bits


def bits_of_every_word_in_the_gradient(s, z, *, places, bits, bit_loss="cross_entropy"):
    _, _, (_, G_bits) = parts(s, z, places, bits, bit_loss)
    return *sound(s, z, places=places, bits=bits, bit_loss=bit_loss)[:2], G_bits


def bits_of_the_frequent(s, z, *, places, bits, bit_loss="cross_entropy"):
    rare, (of_word, G_words), (of_bits, G_bits) = parts(s, z, places, bits, bit_loss)
    return of_word + np.where(rare, 0, of_bits), G_words, np.where(rare[:, None], 0, G_bits)


def first_place_is_other(s, z, *, places, bits, bit_loss="cross_entropy"):
    _, (of_word, G_words), (of_bits, G_bits) = parts(s, z, places, bits, bit_loss)
    rare = places == 0
    return of_word + np.where(rare, of_bits, 0), G_words, np.where(rare[:, None], G_bits, 0)


def no_bits_at_all(s, z, *, places, bits, bit_loss="cross_entropy"):
    return *softmax_cross_entropy(s, places), 0 * z


def bits_alone_for_the_rare(s, z, *, places, bits, bit_loss="cross_entropy"):
    rare, (of_word, G_words), (of_bits, G_bits) = parts(s, z, places, bits, bit_loss)
    return np.where(rare, of_bits, of_word), np.where(rare[:, None], 0, G_words), np.where(rare[:, None], G_bits, 0)


def other_is_no_place(s, z, *, places, bits, bit_loss="cross_entropy"):
    """Frequent words have a softmax among themselves."""
    loss, G_words, G_bits = sound(s, z, places=places, bits=bits, bit_loss=bit_loss)
    rare, inner = places == s.shape[1] - 1, np.minimum(places, s.shape[1] - 2)
    of_word, G = softmax_cross_entropy(s[:, :-1], inner)
    G = np.concatenate([G, 0 * s[:, -1:]], axis=1)
    return np.where(rare, loss, of_word), np.where(rare[:, None], G_words, G), G_bits


def other_weighs_the_bits(s, z, *, places, bits, bit_loss="cross_entropy"):
    loss, G_words, G_bits = sound(s, z, places=places, bits=bits, bit_loss=bit_loss)
    p_other = np.exp(-softmax_cross_entropy(s, np.full(len(s), s.shape[1] - 1))[0])
    return loss, G_words, p_other[:, None] * G_bits


def words_without_minus_one(s, z, *, places, bits, bit_loss="cross_entropy"):
    loss, G_words, G_bits = sound(s, z, places=places, bits=bits, bit_loss=bit_loss)
    return loss, G_words + (np.arange(s.shape[1]) == places[:, None]), G_bits


def signs_of_the_bits_lost(s, z, *, places, bits, bit_loss="cross_entropy"):
    loss, G_words, G_bits = sound(s, z, places=places, bits=bits, bit_loss=bit_loss)
    return loss, G_words, -G_bits


def mean_over_the_rare(s, z, *, places, bits, bit_loss="cross_entropy"):
    loss, G_words, G_bits = sound(s, z, places=places, bits=bits, bit_loss=bit_loss)
    return loss, G_words, G_bits / max(1, (places == s.shape[1] - 1).sum())


def mean_over_the_bits(s, z, *, places, bits, bit_loss="cross_entropy"):
    rare, (of_word, G_words), (of_bits, G_bits) = parts(s, z, places, bits, bit_loss)
    n = z.shape[1]
    return of_word + np.where(rare, of_bits / n, 0), G_words, np.where(rare[:, None], G_bits / n, 0)


def mean_over_the_batch_inside(s, z, *, places, bits, bit_loss="cross_entropy"):
    loss, *gradients = sound(s, z, places=places, bits=bits, bit_loss=bit_loss)
    return loss.mean(), *(G / len(s) for G in gradients)


def masked_by_zero_times_infinity(s, z, *, places, bits, bit_loss="cross_entropy"):
    loss, G_words, G_bits = sound(s, z, places=places, bits=bits, bit_loss=bit_loss)
    rare, (of_word, _), _ = parts(s, z, places, bits, bit_loss)
    if bit_loss == "squared":
        return loss, G_words, G_bits
    right = 1 / (1 + np.exp(-(2.0 * bits - 1) * z))
    return of_word - rare * np.log(right).sum(axis=1), G_words, G_bits


def logarithm_of_s(s, z, *, places, bits, bit_loss="cross_entropy"):
    """The greatest score is taken away, but S is 0 where another one is by hundreds smaller."""
    loss, *gradients = sound(s, z, places=places, bits=bits, bit_loss=bit_loss)
    of_place = softmax_cross_entropy(s, places)[0]
    return loss - of_place - np.log(sound_softmax(s)[np.arange(len(s)), places]), *gradients


def exponentials_of_the_scores_themselves(s, z, *, places, bits, bit_loss="cross_entropy"):
    loss, G_words, G_bits = sound(s, z, places=places, bits=bits, bit_loss=bit_loss)
    return loss, np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) + G_words - sound_softmax(s), G_bits


def sound_softmax(s):
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def a_mask_of_64_bits(s, z, *, places, bits, bit_loss="cross_entropy"):
    loss, G_words, G_bits = sound(s, z, places=places, bits=bits, bit_loss=bit_loss)
    return loss, G_words, G_bits * (places == s.shape[1] - 1).astype("int64")[:, None]


def squared_unmasked(s, z, *, places, bits, bit_loss="cross_entropy"):
    wrong = bits_of_every_word if bit_loss == "squared" else sound
    return wrong(s, z, places=places, bits=bits, bit_loss=bit_loss)


def cross_entropy_whatever_is_asked(s, z, *, places, bits, bit_loss="cross_entropy"):
    return sound(s, z, places=places, bits=bits)


FREQUENT, RARE = "a frequent target is a matter of the softmax alone", "a rare target is “other”, and its bits"
NO_BITS = "a frequent target gives the bits no gradient"
SOME_BITS = "a rare target's bits have the gradient q − c"
WORDS = "the words' gradient is S − 1 at the target's place"
DERIVATIVES = "the gradients are the derivatives of the loss"
SQUARED = "squared bits are masked as well"
OPTIMUM = "the optimum is P of each place, and of each bit among the rare words"
SABOTAGE = [
    (bits_of_every_word, FREQUENT),
    (bits_of_every_word, NO_BITS),
    (bits_of_every_word, OPTIMUM),
    (bits_of_every_word_in_the_gradient, NO_BITS),
    (bits_of_every_word_in_the_gradient, DERIVATIVES),
    (bits_of_the_frequent, FREQUENT),
    (bits_of_the_frequent, RARE),
    (bits_of_the_frequent, SOME_BITS),
    (first_place_is_other, FREQUENT),
    (first_place_is_other, RARE),
    (first_place_is_other, OPTIMUM),
    (no_bits_at_all, RARE),
    (no_bits_at_all, SOME_BITS),
    (bits_alone_for_the_rare, RARE),
    (bits_alone_for_the_rare, WORDS),
    (bits_alone_for_the_rare, OPTIMUM),
    (other_is_no_place, FREQUENT),
    (other_is_no_place, WORDS),
    (other_weighs_the_bits, SOME_BITS),
    (words_without_minus_one, WORDS),
    (words_without_minus_one, OPTIMUM),
    (signs_of_the_bits_lost, SOME_BITS),
    (signs_of_the_bits_lost, DERIVATIVES),
    (mean_over_the_rare, SOME_BITS),
    (mean_over_the_bits, RARE),
    (mean_over_the_bits, SQUARED),
    (mean_over_the_batch_inside, "one loss an example"),
    (masked_by_zero_times_infinity, "the loss is right far from zero"),
    (logarithm_of_s, "the loss is right far from zero"),
    (exponentials_of_the_scores_themselves, "the loss is right far from zero"),
    (a_mask_of_64_bits, "float32 stays float32"),
    (squared_unmasked, SQUARED),
    (cross_entropy_whatever_is_asked, SQUARED),
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


def test_a_mutant_of_the_bits_passes_the_lesson_on_the_words():
    """Lessons blame the right step: not every mutant fails everywhere."""
    for name in (WORDS, RARE, SOME_BITS):
        assert smallest_failure(LESSONS[name], bits_of_every_word, max_examples=25) is None
    assert smallest_failure(LESSONS[OPTIMUM], mean_over_the_bits, max_examples=25) is None
