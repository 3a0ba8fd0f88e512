"""Sabotage: wrong versions of the margin loss, each with the lesson, by name, that must not let it pass."""

import numpy as np
import pytest

from losses.check import smallest_failure
from losses.sampled.hard import margin_loss as sound
from losses.suites.hard import CHAPTER

pytestmark = [pytest.mark.hard, pytest.mark.cpu]


def over(target, negative, margin, valid):
    each = margin + negative - target[:, None]
    return each, (each > 0) & (True if valid is None else valid)


def averaged(target, negative, *, margin=1.0, valid=None):
    loss, g_target, g_negative = sound(target, negative, margin=margin, valid=valid)
    n = negative.shape[1]
    return loss / n, g_target / n, g_negative / n


def averaged_in_the_gradient_only(target, negative, *, margin=1.0, valid=None):
    loss, g_target, g_negative = sound(target, negative, margin=margin, valid=valid)
    return loss, g_target / negative.shape[1], g_negative / negative.shape[1]


def the_greatest_alone(target, negative, *, margin=1.0, valid=None):
    each, active = over(target, negative, margin, valid)
    first = (np.arange(negative.shape[1]) == each.argmax(axis=1)[:, None]) & active
    return np.where(first, each, 0).sum(axis=1), -first.sum(axis=1).astype(each.dtype), first.astype(each.dtype)


def sign_turned(target, negative, *, margin=1.0, valid=None):
    loss, g_target, g_negative = sound(-target, -negative, margin=margin, valid=valid)
    return loss, -g_target, -g_negative


def margin_on_the_wrong_side(target, negative, *, margin=1.0, valid=None):
    return sound(target, negative, margin=-margin, valid=valid)


def no_maximum_with_zero(target, negative, *, margin=1.0, valid=None):
    each, _ = over(target, negative, margin, valid)
    ones = np.ones_like(each)
    return each.sum(axis=1), -ones.sum(axis=1), ones


def maximum_outside_the_sum(target, negative, *, margin=1.0, valid=None):
    each, _ = over(target, negative, margin, valid)
    total = each.sum(axis=1)
    ones = np.ones_like(each) * (total > 0)[:, None]
    return np.maximum(total, 0), -ones.sum(axis=1), ones


def softplus_instead(target, negative, *, margin=1.0, valid=None):
    each, _ = over(target, negative, margin, valid)
    g = 1 / (1 + np.exp(-each))
    return np.logaddexp(0, each).sum(axis=1), -g.sum(axis=1), g


def squared(target, negative, *, margin=1.0, valid=None):
    each, active = over(target, negative, margin, valid)
    g = 2 * np.where(active, each, 0)
    return (g * g).sum(axis=1) / 4, -g.sum(axis=1), g


def active_at_the_margin_too(target, negative, *, margin=1.0, valid=None):
    each = margin + negative - target[:, None]
    active = ((each >= 0) & (True if valid is None else valid)).astype(each.dtype)
    return sound(target, negative, margin=margin, valid=valid)[0], -active.sum(axis=1), active


def half_at_the_margin(target, negative, *, margin=1.0, valid=None):
    loss, _, g_negative = sound(target, negative, margin=margin, valid=valid)
    g_negative = g_negative + 0.5 * (margin + negative == target[:, None])
    return loss, -g_negative.sum(axis=1), g_negative


def target_counted_once(target, negative, *, margin=1.0, valid=None):
    loss, g_target, g_negative = sound(target, negative, margin=margin, valid=valid)
    return loss, np.maximum(g_target, -1), g_negative


def sign_of_the_target_lost(target, negative, *, margin=1.0, valid=None):
    loss, g_target, g_negative = sound(target, negative, margin=margin, valid=valid)
    return loss, -g_target, g_negative


def target_has_no_gradient(target, negative, *, margin=1.0, valid=None):
    loss, g_target, g_negative = sound(target, negative, margin=margin, valid=valid)
    return loss, 0 * g_target, g_negative


def mean_over_the_batch_inside(target, negative, *, margin=1.0, valid=None):
    loss, g_target, g_negative = sound(target, negative, margin=margin, valid=valid)
    return loss.mean(), g_target / len(target), g_negative / len(target)


def a_float64_constant(target, negative, *, margin=1.0, valid=None):
    loss, g_target, g_negative = sound(target, negative, margin=margin, valid=valid)
    return loss * np.float64(1), g_target, g_negative


def counted_in_integers(target, negative, *, margin=1.0, valid=None):
    loss, g_target, g_negative = sound(target, negative, margin=margin, valid=valid)
    return loss, g_target.astype(int), g_negative.astype(int)


def writes_into_the_scores(target, negative, *, margin=1.0, valid=None):
    negative += margin
    negative -= target[:, None]
    return sound(0 * target, negative, margin=0.0, valid=valid)


def relative_to_the_target(target, negative, *, margin=1.0, valid=None):
    """The margin as a share of the target's score."""
    each = negative - target[:, None] + margin * abs(target)[:, None]
    active = each > 0
    return np.where(active, each, 0).sum(axis=1), -active.sum(axis=1) * 1.0, active * 1.0


def margin_ignored(target, negative, *, margin=1.0, valid=None):
    return sound(target, negative, valid=valid)


def margin_ignored_in_the_gradient(target, negative, *, margin=1.0, valid=None):
    return sound(target, negative, margin=margin, valid=valid)[0], *sound(target, negative, valid=valid)[1:]


def valid_ignored(target, negative, *, margin=1.0, valid=None):
    return sound(target, negative, margin=margin)


def valid_ignored_by_the_target(target, negative, *, margin=1.0, valid=None):
    loss, _, g_negative = sound(target, negative, margin=margin, valid=valid)
    return loss, sound(target, negative, margin=margin)[1], g_negative


def valid_turned_round(target, negative, *, margin=1.0, valid=None):
    return sound(target, negative, margin=margin, valid=None if valid is None else ~valid)


def valid_multiplied(target, negative, *, margin=1.0, valid=None):
    each, active = over(target, negative, margin, valid)
    active = active.astype(each.dtype)
    return (active * each).sum(axis=1), -active.sum(axis=1), active


SABOTAGE = [
    (averaged, "the loss is the sum of what the margin lacks"),
    (averaged, "an active negative's gradient is one"),
    (averaged_in_the_gradient_only, "G is the derivative of the loss"),
    (the_greatest_alone, "the loss is the sum of what the margin lacks"),
    (the_greatest_alone, "the target's gradient is minus the number active"),
    (sign_turned, "the loss is the sum of what the margin lacks"),
    (sign_turned, "the loss is zero only if all keep the margin"),
    (margin_on_the_wrong_side, "the loss is zero only if all keep the margin"),
    (no_maximum_with_zero, "the loss is zero only if all keep the margin"),
    (maximum_outside_the_sum, "the loss is zero only if all keep the margin"),
    (maximum_outside_the_sum, "the loss is the sum of what the margin lacks"),
    (softplus_instead, "the loss is zero only if all keep the margin"),
    (squared, "an active negative's gradient is one"),
    (active_at_the_margin_too, "an active negative's gradient is one"),
    (active_at_the_margin_too, "the gradient is zero where all keep the margin"),
    (half_at_the_margin, "the gradient is zero where all keep the margin"),
    (half_at_the_margin, "an active negative's gradient is one"),
    (target_counted_once, "the target's gradient is minus the number active"),
    (target_counted_once, "G is the derivative of the loss"),
    (sign_of_the_target_lost, "the target's gradient is minus the number active"),
    (target_has_no_gradient, "G is the derivative of the loss"),
    (mean_over_the_batch_inside, "one loss an example"),
    (writes_into_the_scores, "one loss an example"),
    (a_float64_constant, "float32 stays float32"),
    (counted_in_integers, "float32 stays float32"),
    (relative_to_the_target, "a shift of all scores changes nothing"),
    (margin_ignored, "the margin is what is asked for"),
    (margin_ignored_in_the_gradient, "the margin is what is asked for"),
    (valid_ignored, "what isn't valid doesn't count"),
    (valid_ignored_by_the_target, "what isn't valid doesn't count"),
    (valid_turned_round, "what isn't valid doesn't count"),
    (valid_multiplied, "what isn't valid doesn't count"),
]
LESSONS = {lesson.name: lesson for lesson in CHAPTER.lessons}


@pytest.mark.parametrize("mutant, lesson", SABOTAGE, ids=[f"{m.__name__}-{LESSONS[n].step}" for m, n in SABOTAGE])
def test_the_lesson_does_not_let_the_mutant_pass(mutant, lesson):
    assert smallest_failure(LESSONS[lesson], mutant) is not None


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.holds.__name__)
def test_every_lesson_lets_the_sound_function_pass_and_has_a_mutant(lesson):
    assert smallest_failure(lesson, sound) is None
    assert lesson.name in {name for _, name in SABOTAGE}


def test_a_gradient_at_the_margin_is_blamed_on_step_3_as_the_loss_is_right():
    broken = (lesson for lesson in CHAPTER.lessons if smallest_failure(lesson, active_at_the_margin_too))
    assert next(broken).step == "(3)", "the first that is told"


def test_a_mutant_of_the_valid_ones_passes_the_lessons_on_the_loss():
    """Lessons blame the right step: not every mutant fails everywhere."""
    assert smallest_failure(LESSONS["the loss is the sum of what the margin lacks"], valid_ignored) is None
    assert smallest_failure(LESSONS["a shift of all scores changes nothing"], margin_on_the_wrong_side) is None
    assert smallest_failure(LESSONS["an active negative's gradient is one"], sign_of_the_target_lost) is None
