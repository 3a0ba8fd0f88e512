"""Sabotage: wrong versions of the adaptive softmax, each with the lesson, by name, that must not let it pass."""

from itertools import pairwise

import numpy as np
import pytest

from losses.check import smallest_failure
from losses.structured.adaptive import adaptive_softmax as sound
from losses.suites.adaptive import CHAPTER

pytestmark = [pytest.mark.adaptive, pytest.mark.cpu]


def softmax(s):
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def members(targets, cutoffs):
    """The examples of each cluster."""
    ends = [*cutoffs, np.inf]
    return [np.flatnonzero((a <= targets) & (targets < b)) for a, b in pairwise(ends)]


def spread(loss_of_clusters, targets, cutoffs):
    """What the examples of each cluster have, in the places of these examples."""
    loss = np.zeros(len(targets))
    for examples, some in zip(members(targets, cutoffs), loss_of_clusters):
        loss[examples] = some
    return loss


def of_clusters(head, tails, targets, cutoffs):
    """The clusters' part of the loss, (B,), and the head's."""
    total = sound(head, *tails, targets=targets, cutoffs=cutoffs)[0]
    k_h = head.shape[1] - len(cutoffs)
    in_head = np.where(targets < k_h, targets, k_h + np.searchsorted(cutoffs, targets, side="right") - 1)
    of_head = sound(head, targets=in_head, cutoffs=[])[0]
    return total - of_head, of_head


def clusters_from_the_end(head, *tails, targets, cutoffs):
    k_h = head.shape[1] - len(tails)
    order = [*range(k_h), *reversed(range(k_h, head.shape[1]))]
    loss, g_head, *g_tails = sound(head[:, order], *tails, targets=targets, cutoffs=cutoffs)
    return loss, g_head[:, order], *g_tails


def clusters_before_the_words(head, *tails, targets, cutoffs):
    loss, g_head, *g_tails = sound(np.roll(head, -len(tails), axis=1), *tails, targets=targets, cutoffs=cutoffs)
    return loss, np.roll(g_head, len(tails), axis=1), *g_tails


def head_alone(head, *tails, targets, cutoffs):
    gradients = sound(head, *tails, targets=targets, cutoffs=cutoffs)[1:]
    return of_clusters(head, tails, targets, cutoffs)[1], *gradients


def cluster_alone(head, *tails, targets, cutoffs):
    """As if a target in a cluster were no target of the head."""
    gradients = sound(head, *tails, targets=targets, cutoffs=cutoffs)[1:]
    tail, of_head = of_clusters(head, tails, targets, cutoffs)
    outside = targets >= (cutoffs[0] if cutoffs else np.inf)
    return np.where(outside, tail, of_head), *gradients


def a_cut_off_belongs_to_the_cluster_before(head, *tails, targets, cutoffs):
    loss, *gradients = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    return np.where(np.isin(targets, cutoffs), sound(head, targets=0 * targets, cutoffs=[])[0], loss), *gradients


def examples_in_the_opposite_order(head, *tails, targets, cutoffs):
    loss, g_head, *g_tails = sound(head, *(s[::-1] for s in tails), targets=targets, cutoffs=cutoffs)
    return loss, g_head, *(g[::-1] for g in g_tails)


def first_word_of_the_cluster_for_all(head, *tails, targets, cutoffs):
    begin = [0, *cutoffs]
    first = np.array([t if not cutoffs or t < cutoffs[0] else max(a for a in begin if a <= t) for t in targets])
    return sound(head, *tails, targets=first, cutoffs=cutoffs)


def head_normalised_over_its_words(head, *tails, targets, cutoffs):
    loss, *gradients = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    k_h = head.shape[1] - len(tails)
    in_head = targets < k_h
    words_alone = sound(head[:, :k_h], targets=np.where(in_head, targets, 0), cutoffs=[])[0]
    return np.where(in_head, words_alone, loss), *gradients


def mean_over_the_examples_of_a_cluster(head, *tails, targets, cutoffs):
    gradients = sound(head, *tails, targets=targets, cutoffs=cutoffs)[1:]
    tail, of_head = of_clusters(head, tails, targets, cutoffs)
    means = [tail[examples].mean() if len(examples) else 0.0 for examples in members(targets, cutoffs)]
    return of_head + spread(means, targets, cutoffs), *gradients


def mean_of_nothing(head, *tails, targets, cutoffs):
    loss, *gradients = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    with np.errstate(all="ignore"):
        nothing = [0.0 * np.divide(s.sum(), s.size) for s in tails]
    return loss + sum(nothing), *gradients


def every_cluster_for_everybody(head, *tails, targets, cutoffs):
    """A gradient for all B examples, as if each visited each cluster."""
    loss, g_head, *_ = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    return loss, g_head, *(np.zeros((len(head), s.shape[1])) for s in tails)


def log_of_the_product(head, *tails, targets, cutoffs):
    loss, *gradients = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    return -np.log(np.exp(-loss)), *gradients


def exponentials_of_large_numbers(head, *tails, targets, cutoffs):
    loss, g_head, *g_tails = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    ones = np.rint(softmax(head) - g_head)
    e = np.exp(head)
    return loss, e / e.sum(axis=1, keepdims=True) - ones, *g_tails


def clusters_target_not_lifted(head, *tails, targets, cutoffs):
    loss, g_head, *g_tails = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    k_h = head.shape[1] - len(tails)
    g_head = np.concatenate([g_head[:, :k_h], softmax(head)[:, k_h:]], axis=1)
    return loss, g_head, *g_tails


def cluster_gradient_without_minus_one(head, *tails, targets, cutoffs):
    loss, g_head, *_ = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    return loss, g_head, *(softmax(s) if len(s) else s for s in tails)


def cluster_gradient_times_its_probability(head, *tails, targets, cutoffs):
    loss, g_head, *g_tails = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    k_h, p = head.shape[1] - len(tails), softmax(head)
    chances = [p[examples, k_h + i][:, None] for i, examples in enumerate(members(targets, cutoffs))]
    return loss, g_head, *(g * chance for g, chance in zip(g_tails, chances))


def cluster_gradient_with_the_sign_lost(head, *tails, targets, cutoffs):
    loss, g_head, *g_tails = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    return loss, g_head, *(-g for g in g_tails)


def mean_over_the_batch_inside(head, *tails, targets, cutoffs):
    loss, *gradients = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    return loss.mean(), *(g / len(targets) for g in gradients)


def gradient_of_the_mean(head, *tails, targets, cutoffs):
    loss, *gradients = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    return loss, *(g / len(targets) for g in gradients)


def a_float64_loss(head, *tails, targets, cutoffs):
    loss, *gradients = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    return loss + np.zeros(len(loss)), *gradients


def a_float64_gradient_of_a_cluster(head, *tails, targets, cutoffs):
    loss, g_head, *g_tails = sound(head, *tails, targets=targets, cutoffs=cutoffs)
    return loss, g_head, *(g * np.float64(1) for g in g_tails)


def head_overwritten(head, *tails, targets, cutoffs):
    found = sound(head.copy(), *tails, targets=targets, cutoffs=cutoffs)
    head -= head.max(axis=1, keepdims=True) - 1
    return found


SABOTAGE = [
    (clusters_from_the_end, "the loss is −log P of the target"),
    (clusters_before_the_words, "the loss is −log P of the target"),
    (clusters_before_the_words, "G of the head is p − 1 at the word or its cluster"),
    (head_alone, "the loss is −log P of the target"),
    (head_alone, "the probabilities of all words add up to one"),
    (cluster_alone, "the loss is −log P of the target"),
    (cluster_alone, "the probabilities of all words add up to one"),
    (a_cut_off_belongs_to_the_cluster_before, "the loss is −log P of the target"),
    (examples_in_the_opposite_order, "the loss is −log P of the target"),
    (examples_in_the_opposite_order, "G of a cluster is P_i − 1 at the word"),
    (first_word_of_the_cluster_for_all, "the loss is −log P of the target"),
    (first_word_of_the_cluster_for_all, "G of a cluster is P_i − 1 at the word"),
    (head_normalised_over_its_words, "the loss is −log P of the target"),
    (head_normalised_over_its_words, "the probabilities of all words add up to one"),
    (head_normalised_over_its_words, "who stays in the head has a softmax"),
    (mean_over_the_examples_of_a_cluster, "the loss is −log P of the target"),
    (mean_of_nothing, "who stays in the head has a softmax"),
    (every_cluster_for_everybody, "who stays in the head has a softmax"),
    (every_cluster_for_everybody, "one loss an example, one gradient a score"),
    (log_of_the_product, "all is right far from zero"),
    (exponentials_of_large_numbers, "all is right far from zero"),
    (clusters_target_not_lifted, "G of the head is p − 1 at the word or its cluster"),
    (clusters_target_not_lifted, "G is the derivative of the loss"),
    (cluster_gradient_without_minus_one, "G of a cluster is P_i − 1 at the word"),
    (cluster_gradient_times_its_probability, "G of a cluster is P_i − 1 at the word"),
    (cluster_gradient_times_its_probability, "G is the derivative of the loss"),
    (cluster_gradient_with_the_sign_lost, "G is the derivative of the loss"),
    (mean_over_the_batch_inside, "one loss an example, one gradient a score"),
    (gradient_of_the_mean, "G is the derivative of the loss"),
    (a_float64_loss, "float32 stays float32"),
    (a_float64_gradient_of_a_cluster, "float32 stays float32"),
    (head_overwritten, "one loss an example, one gradient a score"),
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


def test_a_mutant_of_a_cluster_passes_the_lesson_on_the_head():
    """Lessons blame the right step: not every mutant fails everywhere."""
    stays = LESSONS["who stays in the head has a softmax"]
    assert smallest_failure(stays, cluster_gradient_without_minus_one, max_examples=50) is None
