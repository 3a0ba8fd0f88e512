"""Sabotage: wrong versions of the class-based softmax, each with the lesson, by name, that must not let it pass."""

import numpy as np
import pytest

import minigrad as mg
from losses.check import smallest_failure
from losses.structured.class_based import class_softmax as sound
from losses.suites.class_based import CHAPTER

pytestmark = pytest.mark.class_based


def changed(loss=None, g_class=None, g_word=None):
    """The sound function with a part put through a function of (part, class_scores, word_scores, options)."""

    def mutant(class_scores, word_scores, **o):
        found = sound(class_scores, word_scores, **o)
        changes = loss, g_class, g_word
        return tuple(f if c is None else c(f, class_scores, word_scores, o) for f, c in zip(found, changes))

    return mutant


def filling(word_scores, sizes):
    return np.arange(word_scores.shape[1]) >= sizes[:, None]


def one_hot(shape, targets):
    return (np.arange(shape[1]) == targets[:, None]).astype("float32")


def filling_counted(class_scores, word_scores, *, target_class, target_word, sizes):
    everything = np.full_like(sizes, word_scores.shape[1])
    return sound(class_scores, word_scores, target_class=target_class, target_word=target_word, sizes=everything)


def filling_multiplied_by_zero(class_scores, word_scores, *, sizes, **o):
    words = word_scores * ~filling(word_scores, sizes)
    return filling_counted(class_scores, words.astype(word_scores.dtype), sizes=sizes, **o)


def filling_masked_after_the_exponential(class_scores, word_scores, *, target_class, target_word, sizes):
    loss, g_class, _ = sound(class_scores, word_scores[:, :1], target_class=target_class, target_word=0 * sizes,
                             sizes=0 * sizes + 1)  # fmt: skip
    e = np.exp(word_scores) * ~filling(word_scores, sizes)
    p = e / e.sum(axis=1, keepdims=True)
    return loss - np.log(p[np.arange(len(p)), target_word]), g_class, p - one_hot(p.shape, target_word)


def last_word_of_a_class_forgotten(class_scores, word_scores, *, target_word, sizes, **o):
    sizes = np.maximum(sizes - 1, target_word + 1)
    return sound(class_scores, word_scores, target_word=target_word, sizes=sizes, **o)


def classes_left_out(class_scores, word_scores, **o):
    loss, g_class, g_word = sound(np.zeros_like(class_scores), word_scores, **o)
    return loss - np.float32(np.log(class_scores.shape[1])).astype(loss.dtype), 0 * g_class, g_word


def target_class_is_the_first(class_scores, word_scores, *, target_class, **o):
    return sound(class_scores, word_scores, target_class=0 * target_class, **o)


def target_word_is_the_first(class_scores, word_scores, *, target_word, **o):
    return sound(class_scores, word_scores, target_word=0 * target_word, **o)


def one_softmax_for_both(class_scores, word_scores, *, target_class, target_word, sizes):
    """As if the classes were words beside those of the class."""
    both = np.concatenate([class_scores, word_scores], axis=1)
    c = class_scores.shape[1]
    top = both.max(axis=1, keepdims=True)
    e = np.exp(both - top) * ~filling(both, c + sizes)
    p = (e / e.sum(axis=1, keepdims=True)).astype(both.dtype)
    rows = np.arange(len(p))
    loss = -np.log(p[rows, target_class]) - np.log(p[rows, c + target_word])
    g = 2 * p - one_hot(p.shape, target_class) - one_hot(p.shape, c + target_word)
    return loss, g[:, :c], g[:, c:]


def softmax_without_the_maximum(class_scores, word_scores, *, target_class, target_word, sizes):
    rows = np.arange(len(sizes))
    of_class = np.exp(class_scores) / np.exp(class_scores).sum(axis=1, keepdims=True)
    e = np.where(filling(word_scores, sizes), 0, np.exp(word_scores)).astype(word_scores.dtype)
    of_word = e / e.sum(axis=1, keepdims=True)
    loss = -np.log(of_class[rows, target_class] * of_word[rows, target_word])
    return loss, of_class - one_hot(of_class.shape, target_class), of_word - one_hot(of_word.shape, target_word)


def log_of_a_stable_softmax(class_scores, word_scores, **o):
    loss, g_class, g_word = sound(class_scores, word_scores, **o)
    return -np.log(np.exp(-loss)), g_class, g_word


def weighed_by_the_class(g, class_scores, word_scores, o):
    """P(w | h) instead of P(w | c, h)."""
    p = mg.softmax(class_scores)[np.arange(len(g)), o["target_class"]][:, None]
    return p * (g + one_hot(g.shape, o["target_word"])) - one_hot(g.shape, o["target_word"])


def g_in_the_filling(g, class_scores, word_scores, o):
    return np.where(filling(word_scores, o["sizes"]), 1e-3, g).astype(g.dtype)


def wrote_into_its_scores(class_scores, word_scores, **o):
    found = sound(class_scores, word_scores, **o)
    class_scores -= class_scores.max(axis=1, keepdims=True) + 1
    return found


mean_of_the_batch = changed(loss=lambda loss, *_: loss.mean())
gradient_of_the_mean = changed(g_class=lambda g, *_: g / len(g), g_word=lambda g, *_: g / len(g))
loss_halved = changed(loss=lambda loss, *_: loss / 2)
sign_of_the_class_gradient_lost = changed(g_class=lambda g, *_: -g)
sign_of_the_word_gradient_lost = changed(g_word=lambda g, *_: -g)
class_gradient_without_minus_one = changed(g_class=lambda g, c, w, o: g + one_hot(g.shape, o["target_class"]))
word_gradient_without_minus_one = changed(g_word=lambda g, c, w, o: g + one_hot(g.shape, o["target_word"]))
word_gradient_of_all_words = changed(g_word=weighed_by_the_class)
gradient_in_the_filling = changed(g_word=g_in_the_filling)
a_float64_loss = changed(loss=lambda loss, *_: loss * np.float64(1))
a_float64_gradient = changed(g_word=lambda g, *_: g * np.float64(1))

SUM = "all words' probabilities add up to one"
LOSS = "the loss is −log P(c | h) − log P(w | c, h)"
OF_CLASS = "a class's gradient is P(c | h) − 1[c = c(t)]"
OF_WORD = "a word's gradient is P(w | c, h) − 1[w = t]"
FILLING, DERIVATIVE = "filling is not looked at", "G is the derivative of the loss"

SABOTAGE = [
    (mean_of_the_batch, "one loss an example"),
    (wrote_into_its_scores, "one loss an example"),
    (gradient_of_the_mean, OF_CLASS),
    (gradient_of_the_mean, OF_WORD),
    (filling_counted, SUM),
    (filling_counted, LOSS),
    (filling_counted, OF_WORD),
    (filling_counted, FILLING),
    (filling_multiplied_by_zero, SUM),
    (filling_multiplied_by_zero, LOSS),
    (filling_multiplied_by_zero, FILLING),
    (filling_masked_after_the_exponential, FILLING),
    (last_word_of_a_class_forgotten, SUM),
    (last_word_of_a_class_forgotten, LOSS),
    (last_word_of_a_class_forgotten, OF_WORD),
    (classes_left_out, SUM),
    (classes_left_out, LOSS),
    (classes_left_out, OF_CLASS),
    (target_class_is_the_first, LOSS),
    (target_class_is_the_first, OF_CLASS),
    (target_class_is_the_first, SUM),
    (target_word_is_the_first, LOSS),
    (target_word_is_the_first, OF_WORD),
    (target_word_is_the_first, SUM),
    (one_softmax_for_both, SUM),
    (one_softmax_for_both, LOSS),
    (one_softmax_for_both, OF_CLASS),
    (one_softmax_for_both, OF_WORD),
    (loss_halved, SUM),
    (loss_halved, LOSS),
    (loss_halved, DERIVATIVE),
    (softmax_without_the_maximum, "the loss is right far from zero"),
    (softmax_without_the_maximum, "G is right far from zero"),
    (log_of_a_stable_softmax, "the loss is right far from zero"),
    (sign_of_the_class_gradient_lost, OF_CLASS),
    (sign_of_the_class_gradient_lost, DERIVATIVE),
    (sign_of_the_word_gradient_lost, OF_WORD),
    (sign_of_the_word_gradient_lost, DERIVATIVE),
    (class_gradient_without_minus_one, OF_CLASS),
    (word_gradient_without_minus_one, OF_WORD),
    (word_gradient_of_all_words, OF_WORD),
    (word_gradient_of_all_words, DERIVATIVE),
    (gradient_in_the_filling, FILLING),
    (gradient_in_the_filling, OF_WORD),
    (a_float64_loss, "float32 stays float32"),
    (a_float64_gradient, "float32 stays float32"),
]
LESSONS = {lesson.name: lesson for lesson in CHAPTER.lessons}


def name(mutant):
    return next(n for n, m in globals().items() if m is mutant)


@pytest.mark.cpu
@pytest.mark.parametrize("mutant, lesson", SABOTAGE, ids=[f"{name(m)}-{LESSONS[n].step}" for m, n in SABOTAGE])
def test_the_lesson_does_not_let_the_mutant_pass(mutant, lesson):
    _, error = smallest_failure(LESSONS[lesson], mutant)
    assert isinstance(error, AssertionError), "its numbers are wrong, it did not break"


@pytest.mark.cpu
@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.holds.__name__)
def test_every_lesson_lets_the_sound_function_pass_and_has_a_mutant(lesson):
    assert smallest_failure(lesson, sound, 50) is None
    assert lesson.name in {name for _, name in SABOTAGE}


@pytest.mark.cpu
def test_a_mutant_of_the_words_passes_the_lesson_on_the_classes():
    """Lessons blame the right step: not every mutant fails everywhere."""
    assert smallest_failure(LESSONS[OF_CLASS], filling_counted, 50) is None
    assert smallest_failure(LESSONS[OF_WORD], classes_left_out, 50) is None
    assert smallest_failure(LESSONS[DERIVATIVE], filling_counted, 50) is None
    assert smallest_failure(LESSONS[LOSS], filling_masked_after_the_exponential, 50) is None
