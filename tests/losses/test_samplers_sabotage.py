"""Sabotage: wrong samplers, each with the property, by the step of its page, that must not let it pass."""

import math

import numpy as np
import pytest
from hypothesis import strategies as st

import minigrad as mg
from losses import distinct, samplers
from losses.check import smallest_failure
from losses.samplers import alias_table
from losses.suites import Lesson
from minigrad.backend import xp_of

from . import sampler_properties as properties
from .properties import table_draws_the_distribution, weights
from .sampler_properties import distributions, distributions_and_k, on_cpu, on_device, ordered_draws

pytestmark = pytest.mark.samplers


# ---- the alias table ------------------------------------------------------------------------------------------------


def forgets_what_the_rich_word_gave(probs):
    keep, alias = [p * len(probs) for p in probs], list(range(len(probs)))
    poor = [word for word, p in enumerate(keep) if p < 1.0]
    rich = [word for word, p in enumerate(keep) if p >= 1.0]
    for bucket in poor:
        alias[bucket] = rich[0] if rich else bucket
    for word in rich:
        keep[word] = 1.0
    return keep, alias


def keep_and_alias_swapped(probs):
    keep, alias = alias_table(probs)
    return [1.0 - k if a != i else k for i, (k, a) in enumerate(zip(keep, alias))], alias


def the_room_left_is_not_filled(probs):
    keep, _ = alias_table(probs)
    return keep, list(range(len(probs)))


def each_alias_one_further(probs):
    keep, alias = alias_table(probs)
    return keep, [(a + 1) % len(probs) for a in alias]


# ---- log-uniform ----------------------------------------------------------------------------------------------------


def rounded_to_the_nearest(u, vocab_size):
    """`lround(exp(u log(V + 1))) − 1`, from a port of TensorFlow's sampler that kept its pmf."""
    xp = xp_of(u)
    return xp.minimum(xp.rint(xp.exp(u * math.log(vocab_size + 1))).astype("int64") - 1, vocab_size - 1)


def log_v_for_log_v_plus_1(u, vocab_size):
    xp = xp_of(u)
    return xp.minimum(xp.exp(u * math.log(vocab_size)).astype("int64") - 1, vocab_size - 1)


def one_is_not_taken_off(u, vocab_size):
    xp = xp_of(u)
    return xp.minimum(xp.exp(u * math.log(vocab_size + 1)).astype("int64"), vocab_size - 1)


def uniform(u, vocab_size):
    return (u * vocab_size).astype("int64")


# ---- the first of each word -----------------------------------------------------------------------------------------


def the_last_of_each(words, times, k):
    return distinct.first_of_each(words[:, ::-1].copy(), times[:, ::-1].copy(), k)


def in_order_of_ids(words, times, k):
    found, found_times = distinct.first_of_each(words, times, k)
    order = xp_of(found).argsort(found, axis=1, kind="stable")
    return xp_of(found).take_along_axis(found, order, axis=1), found_times


def repetitions_stay(words, times, k):
    return words[:, :k], times[:, :k]


def repetitions_are_no_tries(words, times, k):
    """As the words come, so the numbers of their tries: 1 … k, however many were thrown away."""
    found, found_times = distinct.first_of_each(words, times, k)
    return found, xp_of(found).where(found_times < math.inf, times[:, :k], math.inf)


def too_few_go_unnoticed(words, times, k):
    found, found_times = distinct.first_of_each(words, times, k)
    return found, xp_of(found).minimum(found_times, times[:, -1:])


# ---- keys, and the greatest of them ---------------------------------------------------------------------------------


def sign_of_the_noise_lost(u, log_q):
    return log_q + xp_of(u).log(distinct.exponential(u))


def noise_is_exponential(u, log_q):
    return log_q + distinct.exponential(u)


def noise_is_uniform(u, log_q):
    return log_q + u


def q_for_log_q(u, log_q):
    return xp_of(u).exp(log_q) - xp_of(u).log(distinct.exponential(u))


def noise_of_half_the_size(u, log_q):
    return log_q - 0.5 * xp_of(u).log(distinct.exponential(u))


def kappa_is_the_last_of_the_sample(keys, k):
    places, _ = distinct.top_k(keys, k)
    return places, xp_of(keys).take_along_axis(keys, places[:, -1:], axis=-1)[:, 0]


def kappa_is_infinite(keys, k):
    places, kappa = distinct.top_k(keys, k)
    return places, 0.0 * kappa - math.inf if k < keys.shape[-1] else kappa


def in_any_order(keys, k):
    places, kappa = distinct.top_k(keys, k)
    return xp_of(keys).sort(places, axis=-1), kappa


def the_least(keys, k):
    return distinct.top_k(-keys, k)


# ---- counts ---------------------------------------------------------------------------------------------------------


def exact(log_q, kappa):
    return distinct.log_count(distinct.rate_of_threshold(log_q, kappa))


def sign_of_kappa_flipped(log_q, kappa):
    return exact(log_q, -kappa)


def log_q_left_out(log_q, kappa):
    return exact(0.0 * log_q, kappa)


def kappa_left_out(log_q, kappa):
    return exact(log_q, 0.0 * kappa)


def the_rate_for_the_count(log_q, kappa):
    return log_q - kappa


def the_chance_to_stay_below(log_q, kappa):
    """That w is not in the sample, e^{−q τ}."""
    return -distinct.rate_of_threshold(log_q, kappa)


def arrivals_of_tensorflow(log_q, kappa):
    """1 − (1 − q)^τ, as if tries came at regular times."""
    return distinct.log_count(distinct.rate_of_tries(xp_of(log_q).exp(log_q), xp_of(kappa).exp(-kappa)))


def one_minus_exp(rate):
    with mg.backend.quiet():
        return xp_of(rate).log(1.0 - xp_of(rate).exp(-rate))


def log1p_of_minus_exp(rate):
    with mg.backend.quiet():
        return xp_of(rate).log1p(-xp_of(rate).exp(-rate))


def log_of_the_rate(rate):
    return xp_of(rate).log(rate)


def of_tries(q, n):
    return distinct.log_count(distinct.rate_of_tries(q, n))


def k_q(q, n):
    return xp_of(q).log(n * q)


def as_many_as_the_q_of_tries(q, n):
    return distinct.log_count(n * q)


def one_try_forgotten(q, n):
    return of_tries(q, n - 1)


def log_of_one_plus_q(q, n):
    return distinct.log_count(n * xp_of(q).log1p(q))


# ---- which property kills which -------------------------------------------------------------------------------------


def lesson(step, examples, holds):
    return Lesson(holds.__name__, step, "", examples, holds)


LESSONS = {
    "samplers (2)": lesson("(2)", weights, table_draws_the_distribution),
    "samplers (3)": lesson("(3)", properties.vocabularies, properties.equally_spaced_numbers_draw_what_is_declared),
    "distinct (1)": lesson("(1)", properties.tries, properties.the_first_of_each_word_counts),
    "distinct (2), keys": lesson(
        "(2)", lambda: st.tuples(distributions(least=3)), properties.the_first_word_is_drawn_from_q
    ),
    "distinct (2), top": lesson(
        "(2)", properties.keys_and_k, properties.the_k_greatest_come_best_first_and_the_next_is_kappa
    ),
    "distinct (4)": lesson("(4)", distributions_and_k, properties.the_term_of_a_word_is_one_on_average),
    "distinct (7)": lesson(
        "(7)",
        lambda: st.tuples(distributions(3), st.integers(1, 4)),
        properties.a_number_of_tries_fixed_beforehand_gives_the_chance_to_be_among_them,
    ),
    "distinct (8)": lesson("(8)", lambda: st.tuples(st.integers(-300, 3)), properties.digits_are_kept),
}
SOUND = [
    ("samplers (2)", alias_table),
    ("samplers (3)", samplers.log_uniform),
    ("distinct (1)", distinct.first_of_each),
    ("distinct (1)", distinct.first_of_each_by_sorting),
    ("distinct (2), keys", distinct.gumbel_keys),
    ("distinct (2), top", distinct.top_k),
    ("distinct (4)", exact),
    ("distinct (7)", of_tries),
    ("distinct (8)", distinct.log_count),
]
SABOTAGE = [
    ("samplers (2)", forgets_what_the_rich_word_gave),
    ("samplers (2)", keep_and_alias_swapped),
    ("samplers (2)", the_room_left_is_not_filled),
    ("samplers (2)", each_alias_one_further),
    ("samplers (3)", rounded_to_the_nearest),
    ("samplers (3)", log_v_for_log_v_plus_1),
    ("samplers (3)", one_is_not_taken_off),
    ("samplers (3)", uniform),
    ("distinct (1)", the_last_of_each),
    ("distinct (1)", in_order_of_ids),
    ("distinct (1)", repetitions_stay),
    ("distinct (1)", repetitions_are_no_tries),
    ("distinct (1)", too_few_go_unnoticed),
    ("distinct (2), keys", sign_of_the_noise_lost),
    ("distinct (2), keys", noise_is_exponential),
    ("distinct (2), keys", noise_is_uniform),
    ("distinct (2), keys", q_for_log_q),
    ("distinct (2), keys", noise_of_half_the_size),
    ("distinct (2), top", kappa_is_the_last_of_the_sample),
    ("distinct (2), top", kappa_is_infinite),
    ("distinct (2), top", in_any_order),
    ("distinct (2), top", the_least),
    ("distinct (4)", sign_of_kappa_flipped),
    ("distinct (4)", log_q_left_out),
    ("distinct (4)", kappa_left_out),
    ("distinct (4)", the_rate_for_the_count),
    ("distinct (4)", the_chance_to_stay_below),
    ("distinct (4)", arrivals_of_tensorflow),
    ("distinct (7)", k_q),
    ("distinct (7)", as_many_as_the_q_of_tries),
    ("distinct (7)", one_try_forgotten),
    ("distinct (7)", log_of_one_plus_q),
    ("distinct (8)", one_minus_exp),
    ("distinct (8)", log1p_of_minus_exp),
    ("distinct (8)", log_of_the_rate),
]


@pytest.mark.parametrize("step, mutant", SABOTAGE, ids=[f"{mutant.__name__}-{step}" for step, mutant in SABOTAGE])
def test_the_property_does_not_let_the_mutant_pass(step, mutant):
    _, error = smallest_failure(LESSONS[step], mutant)
    assert isinstance(error, AssertionError), "its numbers are wrong, it did not break"


@pytest.mark.parametrize("step, sound", SOUND, ids=[f"{sound.__name__}-{step}" for step, sound in SOUND])
def test_the_property_lets_the_sound_function_pass_and_has_a_mutant(step, sound):
    assert smallest_failure(LESSONS[step], sound) is None
    assert step in dict(SABOTAGE)


@pytest.mark.parametrize("mutant", [mutant for step, mutant in SABOTAGE if step == "samplers (2)"])
def test_a_small_example_shows_that_an_alias_table_is_wrong(mutant):
    (example, _) = smallest_failure(LESSONS["samplers (2)"], mutant)
    assert len(example[0]) <= 4


def test_three_words_show_that_rounding_is_no_cutting():
    ((vocab_size,), _) = smallest_failure(LESSONS["samplers (3)"], rounded_to_the_nearest)
    assert vocab_size <= 3


# ---- whole samplers -------------------------------------------------------------------------------------------------


Q, F = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]), np.array([1.0, 4.0, 9.0, 16.0, 25.0, 36.0])


class KthForTheNext(samplers.GumbelTopK):
    """Takes the last word of the sample for the threshold, as TensorFlow's count of tries does."""

    def _draw(self, key, shape):
        u = key.uniform((*shape[:-1], self.vocab_size), "float64")
        return kappa_is_the_last_of_the_sample(distinct.gumbel_keys(u, self._log_probs), shape[-1])


class WithoutClock(samplers.Unique):
    """Takes the try of the (k + 1)-th word for its time."""

    def _draw(self, key, shape):
        ids, seen = samplers.Unique(self.base).draw(key, (*shape[:-1], shape[-1] + 1))
        return ids[..., :-1], -xp_of(ids).log(seen)


class CountsAsIfIndependent(samplers.GumbelTopK):
    def log_expected_count(self, ids, k, seen=None):
        return samplers.Sampler.log_expected_count(self, ids, k)


class NotInOrder(samplers.GumbelTopK):
    """Sorted by id: the words of the sample are right, but the first is none of q's."""

    def _draw(self, key, shape):
        ids, seen = super()._draw(key, shape)
        return xp_of(ids).sort(ids, axis=-1), seen


def is_unbiased(sampler, k=4, n=20_000):
    ids, seen = sampler.draw(mg.Key(0), (n, k))
    Z = (F[on_cpu(ids)] / np.exp(on_cpu(sampler.log_expected_count(ids, k, seen)))).sum(axis=1)
    return abs(Z.mean() - F.sum()) < 6 * Z.std() / math.sqrt(n)


def has_the_law_of_step_1(sampler, k=2, n=20_000):
    ids = on_cpu(sampler.sample(mg.Key(0), (n, k)))
    return all(
        abs((ids == words).all(axis=1).sum() - n * chance) < 6 * math.sqrt(n * chance * (1 - chance))
        for words, chance in ordered_draws(Q, k).items()
    )


def unigram():
    return samplers.Unigram(Q, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: KthForTheNext(Q),
        lambda: WithoutClock(unigram(), exact=True),
        lambda: CountsAsIfIndependent(Q),
        lambda: samplers.Unique(unigram()),
    ],
    ids=["KthForTheNext", "WithoutClock", "CountsAsIfIndependent", "TensorFlow's"],
)
def test_a_wrong_threshold_or_count_has_a_bias_that_draws_show(make):
    sampler = make()
    assert has_the_law_of_step_1(sampler), "the words are right"
    assert not is_unbiased(sampler)


def test_a_wrong_order_breaks_the_law_of_step_1_and_no_estimate():
    sampler = NotInOrder(Q)
    assert is_unbiased(sampler) and not has_the_law_of_step_1(sampler)


@pytest.mark.parametrize("make", [lambda: samplers.GumbelTopK(Q), lambda: samplers.Unique(unigram(), exact=True)])
def test_the_right_ones_pass_both(make):
    assert is_unbiased(make()) and has_the_law_of_step_1(make())


def test_what_is_tested_is_on_the_device():
    assert type(samplers.GumbelTopK(Q).sample(mg.Key(0), 2)) is type(on_device([1.0]))
