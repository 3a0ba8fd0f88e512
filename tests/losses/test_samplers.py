"""Samplers: what is drawn has the distribution that is declared, exactly where that can be enumerated."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import minigrad as mg
from losses import kernels
from losses.samplers import (
    IN_PYTORCH,
    GumbelTopK,
    LogUniform,
    Sampler,
    Uniform,
    Unigram,
    Unique,
    alias_table,
    log_uniform,
)

from .properties import rounding, table_draws_the_distribution, weights, written_out
from .sampler_properties import equally_spaced_numbers_draw_what_is_declared

pytestmark = pytest.mark.samplers

COUNTS = [50, 0, 3, 1, 20, 0, 7]
SAMPLERS = {"uniform": partial(Uniform, 7), "log-uniform": partial(LogUniform, 7)} | {
    f"{method}, power {power}": partial(Unigram, COUNTS, power, method)
    for method in ("alias", "cdf")
    for power in (0, 0.75, 1)
}
WITHOUT_REPLACEMENT = {
    "unique": lambda: Unique(Unigram(COUNTS, 1)),
    "unique, exact": lambda: Unique(Unigram(COUNTS, 1), exact=True),
    "gumbel": lambda: GumbelTopK(COUNTS),
}
each_method = pytest.mark.parametrize("method", ["alias", "cdf"])


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS)
def sampler(request):
    """Each of them, made for the test: what a sampler holds lies where tensors were made then."""
    return request.param()


@pytest.fixture(params=WITHOUT_REPLACEMENT.values(), ids=WITHOUT_REPLACEMENT)
def distinct_sampler(request):
    """Each of those that draw different words; what else is asked of them stands in `test_samplers_distinct.py`."""
    return request.param()


class Scripted(mg.Key):
    """A key that draws what it was told: by name of the method, and by the number folded in."""

    __slots__ = ("folded", "i", "u")

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


@pytest.mark.parametrize("name", WITHOUT_REPLACEMENT)
def test_without_replacement_log_prob_is_that_of_a_draw_of_one_word(name):
    found = WITHOUT_REPLACEMENT[name]().log_prob(np.arange(7))
    assert np.allclose(np.exp(mg.to_cpu(found)), np.array(COUNTS) / sum(COUNTS), rtol=1e-14)


def test_gumbel_takes_counts_to_a_power():
    assert (GumbelTopK(COUNTS, 0.75).probs == Unigram(COUNTS, 0.75).probs).all()


def test_log_prob_has_the_shape_of_its_ids(sampler):
    log_prob = sampler.log_prob(np.array([[0, 2], [3, 0]]))
    assert log_prob.shape == (2, 2) and log_prob.dtype == "float64"
    assert log_prob[0, 0] == log_prob[1, 1] == sampler.log_prob(0)


@each_method
@given(st.sampled_from([1e-300, 1e-3, 1e3, 1e300]))
def test_only_the_ratio_of_counts_matters(method, scale):
    found, expected = Unigram([5.0 * scale, 0.0, 2.0 * scale], method=method), Unigram([5, 0, 2])
    assert np.allclose(mg.to_cpu(found.probs), mg.to_cpu(expected.probs), rtol=1e-12, atol=0)


def test_how_often_to_expect_a_word_in_independent_draws_is_k_q(sampler):
    """By enumeration: all 7³ draws of three words, each by its probability."""
    q, draws = np.exp(mg.to_cpu(sampler.log_prob(np.arange(7)))), np.indices((7, 7, 7)).reshape(3, -1)
    expected = [q[draws].prod(axis=0) @ (draws == word).sum(axis=0) for word in range(7)]
    found = np.exp(mg.to_cpu(sampler.log_expected_count(np.arange(7), 3)))
    assert np.allclose(found, expected, rtol=1e-12) and sampler.replacement


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


def test_what_is_seen_of_independent_draws_is_nothing(sampler):
    ids, seen = sampler.draw(mg.Key(5), (4, 3))
    assert seen is None and (ids == sampler.sample(mg.Key(5), (4, 3))).all()


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
    ids = sampler._sample_alias(Scripted(Scripted(integers=bucket), Scripted(uniform=coin)), (16,))
    assert np.bincount(mg.to_cpu(ids)).tolist() == [1, 2, 5, 8]


@pytest.mark.cpu
@pytest.mark.parametrize("shape", [3, 4, 5, 64, 1023, 1025, (7, 300), (512, 2, 3)])
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
@pytest.mark.parametrize("keep, expected", [([0.5, 0.0, 1.0], [0, 2, 2, 2]), ([0.0, 1.0, 0.0], [2, 2, 1, 1])])
def test_the_kernel_draws_as_often_as_declared_at_the_edges_of_a_bucket(keep, expected):
    """Bits all zero are bucket 0 and coin 0; bits all one the last bucket, and a coin just below 1."""
    table, drawn = np.stack([keep, [2, 0, 1]], axis=1), np.zeros(4, "int64")
    low, high = [0, 0], [2**32 - 1] * 2
    buckets, coins = np.array([low, low, high, high], "uint32"), np.array([low, high, low, high], "uint32")
    kernels.draw_alias(buckets.ravel(), coins.ravel(), table, drawn)
    assert drawn.tolist() == expected


class Recording(mg.Key):
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


# ---- (3) log-uniform --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 10, 1000, 12_345])
def test_step_3_equally_spaced_numbers_draw_each_word_as_often_as_declared(vocab_size):
    equally_spaced_numbers_draw_what_is_declared(log_uniform, vocab_size)


@pytest.mark.parametrize("vocab_size", [1, 2, 10, 1000, 10**6])
def test_step_3_the_declared_distribution_is_that_of_the_formula(vocab_size):
    log_prob = mg.to_cpu(LogUniform(vocab_size).log_prob(np.arange(vocab_size)))
    few = [*range(min(vocab_size, 5)), vocab_size - 1]
    expected = [math.log(math.log((w + 2) / (w + 1)) / math.log(vocab_size + 1)) for w in few]
    assert np.allclose(log_prob[few], expected, rtol=1e-9, atol=1e-9)
    assert abs(np.exp(log_prob).sum() - 1) < 1e-12


def test_step_3_is_nearly_zipfs_law():
    """1 / (w + 1) ≈ log((w + 2) / (w + 1)): off by a third at the first word, less and less from there on."""
    q, w = mg.to_cpu(LogUniform(1000).probs) * math.log(1001), np.arange(1000)
    off = q * (w + 1) - 1
    assert -0.31 < off[0] < -0.3 and (np.diff(abs(off)) < 0).all() and abs(off[10:]).max() < 0.05


@pytest.mark.parametrize("vocab_size", [10, 1000, 10**6])
def test_step_3_rounding_would_draw_word_0_only_0_585_times_as_often(vocab_size):
    u = (np.arange(10**6) + 0.5) / 10**6
    rounded = np.rint(np.exp(u * math.log(vocab_size + 1))) - 1
    declared = mg.to_cpu(LogUniform(vocab_size).probs)[0].item()
    assert f"{(rounded == 0).mean() / declared:.3f}" == "0.585" == f"{math.log2(1.5):.3f}"


@pytest.mark.parametrize("vocab_size", [1, 3, 1000, 2**31, 2**40])
def test_step_3_the_least_and_the_greatest_number_draw_the_first_and_the_last_word(vocab_size):
    u = mg.backend.asarray([0.0, 1 - 2**-53, 1.0], "float64")  # 1 itself stands for what rounding might do on a GPU
    assert log_uniform(u, vocab_size).tolist() == [0, vocab_size - 1, vocab_size - 1]


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


@pytest.mark.parametrize("kind", [Uniform, LogUniform])
@pytest.mark.parametrize("vocab_size", [0, -3, 2.0])
def test_a_vocabulary_of_no_words_is_refused(kind, vocab_size):
    with pytest.raises((TypeError, ValueError), match=rf"losses.samplers.{kind.__name__}: vocab_size must be"):
        kind(vocab_size)


def test_counts_that_are_no_distribution_are_refused_by_name():
    with pytest.raises(ValueError, match=r"losses.samplers.GumbelTopK: counts must be a list of finite numbers"):
        GumbelTopK([3, -1])


@pytest.mark.parametrize("probs", [[0.5, 0.6], [1.5, -0.5], [math.nan, 0.5], [math.inf, 0.0]])
def test_probabilities_that_are_none_are_refused(probs):
    with pytest.raises(ValueError, match=r"losses.samplers.Sampler: probabilities must be 0 or more and sum to one"):
        Sampler(mg.backend.asarray(probs))


@pytest.mark.parametrize("probs", [[0.5, 0.5], 1.0, np.array([[0.5, 0.5]]), np.array([])], ids=repr)
def test_probabilities_that_are_no_array_of_words_are_refused(probs):
    with pytest.raises(ValueError, match=r"losses.samplers.Sampler: probabilities must be an array \(V,\)"):
        Sampler(probs)


@pytest.mark.parametrize("key", [0, None, np.random.default_rng(0)], ids=["a seed", "None", "a generator of NumPy's"])
@pytest.mark.parametrize("name", [*SAMPLERS, *WITHOUT_REPLACEMENT])
def test_what_is_no_key_is_refused(name, key):
    with pytest.raises(TypeError, match=rf"key must be a minigrad.Key, .* got {type(key).__name__}"):
        (SAMPLERS | WITHOUT_REPLACEMENT)[name]().draw(key, (2, 3))


@pytest.mark.parametrize("shape", [-1, (2, -1), 2.0, "3"])
def test_what_is_no_shape_is_refused(sampler, distinct_sampler, shape):
    for one in (sampler, distinct_sampler):
        with pytest.raises((TypeError, ValueError), match=rf"losses.samplers.{type(one).__name__}: shape must be"):
            one.draw(mg.Key(0), shape)


@pytest.mark.parametrize("k", [0, -1, 2.5, None])
def test_to_expect_among_no_words_is_refused(sampler, k):
    with pytest.raises((TypeError, ValueError), match=r"log_expected_count: k must be"):
        sampler.log_expected_count([0], k)


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


# ---- independent libraries ---------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_word2vec_of_gensim_draws_noise_from_the_same_distribution():
    word2vec = pytest.importorskip("gensim.models.word2vec")
    counts = {"a": 50, "b": 20, "c": 7, "d": 3, "e": 1}  # gensim sorts by count
    model = word2vec.Word2Vec(vector_size=2, min_count=1, negative=5)  # ns_exponent=0.75
    model.build_vocab_from_freq(counts)
    steps = np.diff(model.cum_table.astype("float64"), prepend=0.0)
    probs = mg.to_cpu(Unigram(list(counts.values())).probs)
    assert np.allclose(steps / model.cum_table[-1], probs, rtol=0, atol=1e-9)


def in_pytorch(**given):
    """Those lines, in two parts: what is done once, and each draw."""
    imports, once, draw = IN_PYTORCH.strip().split("\n\n")
    exec(imports + "\n" + once, given)
    return given, draw


@pytest.mark.oracle
@given(st.integers(0, 99))
def test_in_pytorch_those_very_lines_draw_by_the_same_distribution_function(seed):
    torch = pytest.importorskip("torch")
    theirs, draw = in_pytorch(counts=torch.tensor(COUNTS), B=3, k=4)
    sampler = Unigram(COUNTS, method="cdf")
    assert np.allclose(theirs["cdf"].numpy(), mg.to_cpu(sampler.cdf), rtol=1e-14)
    torch.manual_seed(seed)
    exec(draw, theirs)
    ours = sampler.sample(Scripted(uniform=theirs["u"].numpy()), (3, 4))
    assert theirs["noise"].tolist() == ours.tolist()


@pytest.mark.oracle
def test_in_pytorch_a_number_equal_to_a_step_draws_the_word_above_it():
    torch = pytest.importorskip("torch")
    theirs, draw = in_pytorch(counts=torch.tensor([0, 1]), B=1, k=1)
    with_zero = draw.replace("torch.rand(B, k, dtype=torch.float64)", "torch.zeros(B, k, dtype=torch.float64)")
    exec(with_zero, theirs)
    assert with_zero != draw and theirs["noise"].tolist() == [[1]], "the word with count 0 is never drawn"


@pytest.mark.oracle
def test_in_pytorch_multinomial_refuses_more_than_two_to_the_24_words():
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match="number of categories cannot exceed"):
        torch.multinomial(torch.ones(1).expand(2**24 + 1), 1)


@pytest.mark.oracle
def test_in_pytorch_in_float32_the_steps_of_the_rarest_words_are_off_by_up_to_16_percent():
    torch = pytest.importorskip("torch")
    theirs, _ = in_pytorch(counts=1 / torch.arange(1.0, 1_000_001.0, dtype=torch.float64))
    off = theirs["cdf"].float().double().diff() / theirs["cdf"].diff() - 1
    assert f"{off[-1000:].abs().max():.0%}" == "16%"
