"""Samplers: what is drawn has the distribution that is declared, exactly where that can be enumerated."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import minigrad as mg
from losses import kernels
from losses.samplers import Sampler, Uniform, Unigram, alias_table

from .properties import rounding, table_draws_the_distribution, weights, written_out

pytestmark = pytest.mark.samplers

COUNTS = [50, 0, 3, 1, 20, 0, 7]
SAMPLERS = {"uniform": partial(Uniform, 7)} | {
    f"{method}, power {power}": partial(Unigram, COUNTS, power, method)
    for method in ("alias", "cdf")
    for power in (0, 0.75, 1)
}
each_method = pytest.mark.parametrize("method", ["alias", "cdf"])


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS)
def sampler(request):
    """Each of them, made for the test: what a sampler holds lies where tensors were made then."""
    return request.param()


class Scripted:
    """A key that draws what it was told: by name of the method, and by the number folded in."""

    def __init__(self, *folded, uniform=None, integers=None):
        self.folded, self.u, self.i = folded, uniform, integers

    def fold(self, number):
        return self.folded[number]

    def uniform(self, shape, dtype="float32"):
        return mg.backend.asarray(self.u, dtype).reshape(shape)

    def integers(self, low, high, shape):
        return mg.backend.asarray(self.i).reshape(shape)


# ---- the declared distribution ----------------------------------------------------------------------------------


def test_the_declared_probabilities_sum_to_one(sampler):
    assert abs(np.exp(mg.to_cpu(sampler.log_prob(np.arange(7)))).sum() - 1.0) < 1e-14


def test_uniform_is_one_over_v():
    assert np.allclose(mg.to_cpu(Uniform(7).log_prob([0, 6, 6])), -math.log(7), rtol=1e-15)


@each_method
@pytest.mark.parametrize("power", [0, 0.75, 1])
def test_unigram_is_count_to_the_power(method, power):
    scaled = [count**power if count else 0 for count in COUNTS]
    expected = [c / sum(scaled) for c in scaled]
    assert np.allclose(mg.to_cpu(Unigram(COUNTS, power, method).probs), expected, rtol=1e-14)


def test_the_power_is_three_quarters_by_default():
    assert (Unigram(COUNTS).probs == Unigram(COUNTS, 0.75).probs).all()


@each_method
def test_a_word_that_never_occurs_has_log_prob_minus_infinity_without_a_warning(method):
    assert Unigram(COUNTS, method=method).log_prob([1, 5]).tolist() == [-math.inf, -math.inf]


def test_log_prob_has_the_shape_of_its_ids(sampler):
    log_prob = sampler.log_prob(np.array([[0, 2], [3, 0]]))
    assert log_prob.shape == (2, 2) and log_prob.dtype == "float64"
    assert log_prob[0, 0] == log_prob[1, 1] == sampler.log_prob(0)


@each_method
@given(st.sampled_from([1e-300, 1e-3, 1e3, 1e300]))
def test_only_the_ratio_of_counts_matters(method, scale):
    found, expected = Unigram([5.0 * scale, 0.0, 2.0 * scale], method=method), Unigram([5, 0, 2])
    assert np.allclose(mg.to_cpu(found.probs), mg.to_cpu(expected.probs), rtol=1e-12, atol=0)


# ---- the draws --------------------------------------------------------------------------------------------------


def test_words_are_drawn_as_often_as_declared(sampler):
    n, q = 200_000, np.exp(mg.to_cpu(sampler.log_prob(np.arange(7))))
    drawn = np.bincount(mg.to_cpu(sampler.sample(mg.Key(0), n)), minlength=7)
    assert len(drawn) == 7
    for word in range(7):  # a word with q = 0 is allowed no draw at all
        assert abs(drawn[word] - n * q[word]) <= 6 * math.sqrt(n * q[word] * (1 - q[word])), f"word {word}"


@pytest.mark.parametrize("shape", [0, 5, (), (3,), (2, 3), (4, 1, 2), [2, 2], (0, 3)])
def test_draws_are_int64_ids_of_the_shape_asked_for(sampler, shape):
    ids = sampler.sample(mg.Key(0), shape)
    assert ids.dtype == "int64"
    assert ids.shape == ((shape,) if isinstance(shape, int) else tuple(shape))


def test_the_same_key_draws_the_same_ids(sampler):
    assert (sampler.sample(mg.Key(1), (50, 4)) == sampler.sample(mg.Key(1), (50, 4))).all()
    assert (sampler.sample(mg.Key(1), (50, 4)) != sampler.sample(mg.Key(2), (50, 4))).any()


def test_a_draw_says_nothing_of_the_next(sampler):
    n = 50_000
    ids = mg.to_cpu(sampler.sample(mg.Key(3), n + 1))
    assert abs(np.corrcoef(ids[1:], ids[:-1])[0, 1]) <= 6 / math.sqrt(n)


@each_method
def test_one_word_alone_is_always_drawn(method):
    assert Unigram([3], method=method).sample(mg.Key(0), 5).tolist() == [0] * 5
    assert Unigram([0, 0, 3, 0], method=method).sample(mg.Key(0), 1000).tolist() == [2] * 1000


# ---- (1) inverse CDF --------------------------------------------------------------------------------------------


@given(weights())
def test_step_1_the_steps_of_the_cdf_are_the_probabilities(example):
    sampler = Unigram(*example, 1, "cdf")
    cdf, probs = mg.to_cpu(sampler.cdf), mg.to_cpu(sampler.probs)
    assert (abs(np.diff(cdf, prepend=0.0) - probs) <= rounding(len(probs))).all()


def test_step_1_the_first_word_whose_cdf_exceeds_u_is_drawn():
    sampler = Unigram([0, 2, 1, 0, 1, 0], 1, "cdf")  # F = 0, ½, ¾, ¾, 1, 1
    u = [0.0, 0.25, 0.5 - 2**-53, 0.5, 0.75 - 2**-53, 0.75, 1 - 2**-53]
    assert sampler.sample(Scripted(uniform=u), 7).tolist() == [1, 1, 1, 2, 2, 4, 4]


@given(weights())
def test_step_1_the_last_u_below_1_draws_a_word_that_occurs(example):
    sampler = Unigram(*example, 1, "cdf")
    (word,) = sampler.sample(Scripted(uniform=1 - 2**-53), 1).tolist()
    assert sampler.probs[word] > 0.0


# ---- (2) the alias method ---------------------------------------------------------------------------------------


@example(([1.0],))
@example(([1e-9] * 1999 + [1.0],))
@example(([1.0] + [0.0] * 1999,))
@given(weights())
def test_step_2_the_table_draws_the_distribution(example):
    table_draws_the_distribution(alias_table, *example)


@given(weights())
def test_alias_and_cdf_draw_from_one_distribution(example):
    alias, cdf = Unigram(*example, method="alias"), Unigram(*example, method="cdf")
    by_table = written_out(alias.keep.tolist(), alias.alias.tolist())
    by_steps = np.diff(mg.to_cpu(cdf.cdf), prepend=0.0)
    assert (abs(by_table - by_steps) <= 2 * rounding(len(by_steps))).all()
    assert ((by_table > 0) == (mg.to_cpu(alias.probs) > 0)).all()


def test_step_2_every_bucket_and_every_coin_together_give_the_distribution_exactly():
    """q in sixteenths: 4 buckets of ¼ and 4 coins, 16 draws in all, are the whole distribution."""
    sampler = Unigram([1, 2, 5, 8], 1)
    bucket, coin = (a.ravel() for a in np.meshgrid(np.arange(4), np.arange(4) / 4, indexing="ij"))
    ids = sampler.sample(Scripted(Scripted(integers=bucket), Scripted(uniform=coin)), 16)
    assert np.bincount(mg.to_cpu(ids)).tolist() == [1, 2, 5, 8]


@pytest.mark.cpu
@pytest.mark.parametrize("shape", [1023, 1024, 1025, (7, 300), (512, 2, 3)])
@pytest.mark.parametrize("counts", [COUNTS, [3], [1.0] * 5000, [1 / (i + 1) for i in range(12_000)]], ids=len)
def test_step_2_the_kernel_draws_what_the_array_code_draws(counts, shape):
    sampler, key = Unigram(counts), mg.Key(4)
    by_arrays = sampler._sample_alias(key, shape if isinstance(shape, tuple) else (shape,))
    drawn = sampler.sample(key, shape)
    assert drawn.dtype == by_arrays.dtype and (drawn == by_arrays).all()


def test_a_longer_draw_begins_with_the_shorter_one_whichever_the_kernel_made():
    sampler, key = Unigram(COUNTS), mg.Key(4)
    assert (sampler.sample(key, 5000)[:1000] == sampler.sample(key, 1000)).all()


@pytest.mark.cpu
def test_the_kernel_draws_as_often_as_declared_at_the_edges_of_a_bucket():
    """Bits all zero are bucket 0 and coin 0; bits all one the last bucket, and a coin just below 1."""
    keep, words_of, drawn = np.array([0.5, 0.0, 1.0]), np.array([[0, 2], [1, 0], [2, 1]]), np.zeros(4, "int64")
    low, high = [0, 0], [2**32 - 1] * 2
    buckets, coins = np.array([low, low, high, high], "uint32"), np.array([low, high, low, high], "uint32")
    kernels.draw_alias(buckets.ravel(), coins.ravel(), keep, words_of, drawn)
    assert drawn.tolist() == [0, 2, 2, 2]


class Recording:
    """A key that remembers what was drawn from it and from its folds."""

    def __init__(self, key, log):
        self.key, self.log = key, log

    def fold(self, *numbers):
        return Recording(self.key.fold(*numbers), self.log)

    def integers(self, *args):
        self.log["bucket"] = self.key.integers(*args)
        return self.log["bucket"]

    def uniform(self, *args):
        self.log["coin"] = self.key.uniform(*args)
        return self.log["coin"]


def test_the_bucket_says_nothing_of_the_coin():
    n, log = 100_000, {}
    Unigram(COUNTS)._sample_alias(Recording(mg.Key(0), log), (n,))
    assert log["bucket"].shape == log["coin"].shape == (n,)
    assert abs(np.corrcoef(*map(mg.to_cpu, log.values()))[0, 1]) <= 6 / math.sqrt(n)


def test_one_variate_for_bucket_and_coin_would_leave_the_coin_four_bits_in_float32_at_a_million_words():
    u = (8_388_608 + np.arange(64)).astype("float32") * np.float32(2**-24)  # the next 64 numbers from ½ on
    scaled = u.astype("float64") * 1_000_000
    coins_of_one_bucket = scaled[scaled.astype("int64") == 500_001] % 1.0
    assert len(set(coins_of_one_bucket.tolist())) in (16, 17)


def test_the_coin_has_twenty_bits_at_a_million_words_as_everywhere():
    log = {}
    sampler = Unigram([1] * 999_999 + [2], 1)
    sampler._sample_alias(Recording(mg.Key(0), log), (2**21,))
    assert log["bucket"].max() > 999_000
    assert len(np.unique(mg.to_cpu(log["coin"]))) > 2**20


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counts",
    [[], [3, -1], [1, math.nan], [1, math.inf], [0, 0], [[1, 2], [3, 4]], 5, None],
    ids=["empty", "negative", "nan", "infinite", "all zero", "a matrix", "a number", "None"],
)
def test_counts_that_are_no_distribution_are_refused(counts):
    with pytest.raises(
        ValueError, match=r"losses.samplers.Unigram: counts must be (a list of finite numbers|positive)"
    ):
        Unigram(counts)


@pytest.mark.parametrize("power", [-1, math.nan, math.inf, "a", None])
def test_a_power_that_is_no_finite_number_is_refused(power):
    with pytest.raises(ValueError, match=r"losses.samplers.Unigram: power must be a finite number of 0 or more, got"):
        Unigram(COUNTS, power)


def test_counts_near_the_largest_number_are_no_overflow():
    assert Unigram([1e308, 1e308], 1).probs.tolist() == [0.5, 0.5]


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r'Unigram: method must be "alias" or "cdf", got \'walker\''):
        Unigram(COUNTS, method="walker")


@pytest.mark.parametrize("vocab_size", [0, -3, 2.0])
def test_a_vocabulary_of_no_words_is_refused(vocab_size):
    with pytest.raises((TypeError, ValueError), match=r"losses.samplers.Uniform: vocab_size must be"):
        Uniform(vocab_size)


def test_ids_out_of_range_are_refused(sampler):
    name = type(sampler).__name__
    with pytest.raises(IndexError, match=rf"losses.samplers.{name}.log_prob: ids must lie in \[0, 7\), got 7"):
        sampler.log_prob([0, 7])
    with pytest.raises(IndexError, match=r"ids must lie in \[0, 7\), got -1"):
        sampler.log_prob([-1])
    with pytest.raises(TypeError, match=r"ids must be integers, got float64"):
        sampler.log_prob([1.0])


def test_a_distribution_alone_cannot_draw():
    with pytest.raises(TypeError, match=r"losses.samplers.Sampler cannot draw"):
        Sampler(np.array([0.5, 0.5])).sample(mg.Key(0), 3)


# ---- an independent library -------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_word2vec_of_gensim_draws_noise_from_the_same_distribution():
    word2vec = pytest.importorskip("gensim.models.word2vec")
    counts = {"a": 50, "b": 20, "c": 7, "d": 3, "e": 1}  # gensim sorts by count
    model = word2vec.Word2Vec(vector_size=2, min_count=1, negative=5)  # ns_exponent=0.75
    model.build_vocab_from_freq(counts)
    steps = np.diff(model.cum_table.astype("float64"), prepend=0.0)
    probs = mg.to_cpu(Unigram(list(counts.values())).probs)
    assert np.allclose(steps / model.cum_table[-1], probs, rtol=0, atol=1e-9)
