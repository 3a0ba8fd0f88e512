"""Binary codes: a test for each numbered step of `losses.structured.binary_code`, and an oracle in torch."""

import functools
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from losses import BinaryCode, FullSoftmax, HierarchicalSoftmax, HybridCode
from losses.check import smallest_failure
from losses.structured import trees
from losses.structured.binary_code import (
    IN_PYTORCH,
    PlainCode,
    binary_code,
    binary_code_loss,
    binary_code_naive,
)
from losses.structured.codes import Codebook, in_binary, log_prob_of_bits, log_prob_of_codes
from losses.suites.binary_code import CHAPTER, coded, words_and_chances

from .properties import where_tensors_are_made

pytestmark = pytest.mark.binary
fewer = settings(max_examples=max(5, settings().max_examples // 4))  # where an example takes its time


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, where_tensors_are_made(binary_code), max_examples=50) is None


def written(number, n):
    """A number in binary, by Python."""
    return [int(bit) for bit in format(number, f"0{n}b")]


def all_codes(num_words):
    """Every word's bits, (V, n), by Python."""
    n = max(1, (num_words - 1).bit_length())
    return np.array([written(w, n) for w in range(num_words)])


def σ(z):
    return 1 / (1 + np.exp(-z))


def chances(z, codes):
    """(1): P(c | h) of each code, (B, V), a product bit by bit."""
    q = σ(z)[:, None, :]
    return np.where(codes == 1, q, 1 - q).prod(axis=2)


def layer_with(vocab_size, dim=4, seed=0, **options):
    """A layer of float64 with weights from −2 to 2."""
    layer = BinaryCode(vocab_size, dim, key=mg.Key(seed), **options)
    for i, table in enumerate(layer.tables):
        if (old := getattr(layer, table)) is not None:
            setattr(layer, table, mg.param(4 * mg.Key(seed).fold(9, i).uniform(old.shape, "float64") - 2))
    return layer


def contexts(batch=5, dim=4, seed=1):
    return mg.Key(seed).normal((batch, dim), "float64")


sizes = st.integers(1, 70)  # of vocabularies: powers of two, one less, one more, and others


@st.composite
def bits_to_decode(draw):
    """(V, scores (B, n) in quarters, so that sums are exact and many are equal)."""
    num_words = draw(sizes)
    n = max(1, (num_words - 1).bit_length())
    rows = draw(st.lists(st.lists(st.integers(-9, 9), min_size=n, max_size=n), min_size=1, max_size=3))
    return num_words, np.array(rows) / 4


# ---- numbers and their bits ---------------------------------------------------------------------------------------


def test_a_number_is_written_as_on_the_slide():
    assert mg.to_cpu(in_binary(mg.backend.asarray([14]), 5)).tolist() == [[0, 1, 1, 1, 0]]


@given(sizes)
def test_each_word_has_bits_of_its_own_as_few_as_tell_so_many_apart(num_words):
    book = PlainCode(num_words)
    bits = mg.to_cpu(book.bits(mg.backend.asarray(np.arange(num_words))))
    assert bits.tolist() == all_codes(num_words).tolist() and bits.dtype == "uint8"
    assert 2 ** (book.num_bits - 1) < num_words <= 2**book.num_bits or num_words == book.num_bits == 1


def test_bits_have_the_shape_of_the_numbers_and_one_axis_more():
    assert PlainCode(9).bits(mg.backend.asarray(np.zeros((2, 3), "int64"))).shape == (2, 3, 4)


def test_words_are_numbered_by_frequency():
    layer = BinaryCode(4, 2, counts=[3, 9, 1, 9], key=mg.Key(0))
    assert layer.words.tolist() == [1, 3, 0, 2] and layer.numbers.tolist() == [2, 0, 3, 1]


@given(sizes, st.integers(1, 9))
def test_frequent_words_share_zeros_in_front(num_words, few):
    """The first 2^m words have all but the last m bits 0."""
    book = PlainCode(num_words)
    bits = mg.to_cpu(book.bits(mg.backend.asarray(np.arange(min(2**few, num_words)))))
    assert not bits[:, : max(0, book.num_bits - few)].any()


@pytest.mark.parametrize("num_words", [0, -1])
def test_a_code_for_no_word_is_refused(num_words):
    with pytest.raises(ValueError, match=r"losses.PlainCode: num_words must be at least 1"):
        PlainCode(num_words)


def test_a_codebook_says_three_things():
    book = Codebook()
    for method, arguments in ((book.bits, ([0],)), (book.best, ([[0.0]], 1)), (book.log_mass, ([[0.0]],))):
        with pytest.raises(NotImplementedError):
            method(*arguments)


# ---- (1) to (4): the loss and its gradient --------------------------------------------------------------------------


@given(coded())
def test_step_1_the_probability_of_bits_is_a_product_in_all_forms(example):
    scores, bits = example
    expected = np.log([chances(z[None], c[None])[0, 0] for z, c in zip(scores, bits, strict=True)])
    z, c = map(mg.backend.asarray, example)
    assert np.allclose(mg.to_cpu(log_prob_of_bits(z, c)), expected, rtol=1e-9)
    assert np.allclose(np.diag(mg.to_cpu(log_prob_of_codes(z, c))), expected, rtol=1e-9)
    assert np.allclose(-mg.to_cpu(binary_code(z, bits=c)[0]), expected, rtol=1e-9)


def test_step_1_given_h_the_bits_know_nothing_of_each_other():
    """So P(01) P(10) = P(00) P(11), whatever the scores."""
    for z in itertools.product((-3.0, 0.5, 2.0), repeat=2):
        layer = BinaryCode(4, 2, key=mg.Key(0), counts=[4, 3, 2, 1], bias=False)
        layer.weight = mg.param(np.diag(z))
        p = np.exp(layer.log_prob(np.ones((1, 2))).numpy()[0])
        assert math.isclose(p[0b01] * p[0b10], p[0b00] * p[0b11], rel_tol=1e-12)


@given(coded())
def test_step_2_softplus_is_minus_log_and_both_ways_have_one_gradient(example):
    z, bits = mg.param(example[0]), mg.backend.asarray(example[1])
    fused, naive = binary_code_loss(z, bits=bits), binary_code_naive(z, bits)
    assert np.allclose(fused.numpy(), naive.numpy(), rtol=1e-9)
    found, expected = (mg.to_cpu(mg.grad(loss.sum(), [z])[0]) for loss in (fused, naive))
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_2_the_loss_of_a_wrong_bit_at_1000_is_1000_and_the_naive_one_infinite(dtype):
    z, bits = mg.backend.asarray([[-1000.0, 1000.0]], dtype), mg.backend.asarray(np.array([[1, 1]], "uint8"))
    with np.errstate(divide="ignore"):
        assert binary_code_naive(mg.tensor(z), bits).data.tolist() == [math.inf]
    assert binary_code(z, bits=bits)[0].tolist() == [1000.0]


@pytest.mark.parametrize("dtype, of_0, of_1", [("float32", 17, -104), ("float64", 37, -746)])
def test_step_2_the_naive_loss_is_infinite_far_earlier_for_a_bit_that_is_0(dtype, of_0, of_1):
    for bit, last, first in ((0, of_0 - 1, of_0), (1, of_1 + 1, of_1)):
        z, bits = mg.backend.asarray([[last], [first]], dtype), mg.backend.asarray(np.full((2, 1), bit, "uint8"))
        with np.errstate(divide="ignore"):
            assert np.isfinite(binary_code_naive(mg.tensor(z), bits).numpy()).tolist() == [True, False]
        assert np.allclose(mg.to_cpu(binary_code(z, bits=bits)[0]), [abs(last), abs(first)], rtol=1e-6)


@pytest.mark.parametrize("bit_loss", ["cross_entropy", "squared"])
@fewer
@given(example=coded(limit=4.0))
def test_step_3_gradients_are_right_to_second_order(bit_loss, example):
    bits = mg.backend.asarray(example[1])
    mg.check_grads(lambda z: binary_code_loss(z, bits=bits, bit_loss=bit_loss), example[0])


@pytest.mark.parametrize("kind", ["uint8", "bool", "int64", "float32", "float64"])
def test_bits_may_be_of_any_type(kind):
    z, bits = mg.backend.asarray([[0.5, -1.0]], "float32"), np.array([[0, 1]], kind)
    for found, expected in zip(
        binary_code(z, bits=mg.backend.asarray(bits)), ([2.287339], [[0.622459, -0.731059]]), strict=True
    ):
        assert found.dtype == "float32" and np.allclose(mg.to_cpu(found), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 1), (2, 3)])
def test_bits_of_another_shape_than_their_scores_are_refused(shape):
    """They would be broadcast."""
    message = re.escape(f"losses.binary_code: bits must have the shape of bit_scores, [3, 2], got {list(shape)}")
    for f in (binary_code, binary_code_loss):
        with pytest.raises(ValueError, match=message):
            f(mg.tensor(np.zeros((3, 2))), bits=mg.backend.asarray(np.zeros(shape, "uint8")))


@given(coded(limit=1000.0))
def test_step_3_no_gradient_is_larger_than_one(example):
    G = mg.to_cpu(binary_code(mg.backend.asarray(example[0]), bits=mg.backend.asarray(example[1]))[1])
    assert (abs(G) <= 1).all() and ((G <= 0) == (example[1] == 1))[G != 0].all()


def test_step_3_all_rows_have_a_gradient():
    layer = BinaryCode(100, 3, key=mg.Key(0))
    layer.loss(mg.Key(1).normal((2, 3)), [5, 99]).backward()
    assert layer.weight.grad.shape == (7, 3) and (mg.to_cpu(layer.weight.grad) != 0).all()
    assert layer.score_cost(2) == (7, 7)


def gradient_at(z, bit, bit_loss):
    bits = mg.backend.asarray(np.array([[bit]], "uint8"))
    return binary_code(mg.backend.asarray([[z]], "float64"), bits=bits, bit_loss=bit_loss)[1].item()


def test_step_4_a_bit_that_is_sure_and_wrong_has_no_gradient_squared():
    assert round(gradient_at(-20.0, 1, "squared") * 1e9) == -4
    assert math.isclose(gradient_at(-20.0, 1, "cross_entropy"), -1, rel_tol=1e-8)


def test_step_4_the_squared_loss_has_its_greatest_gradient_8_27ths_where_the_wrong_bit_has_two_thirds():
    wrong = -math.log(2)  # σ = ⅓ for a bit that is 1
    assert math.isclose(gradient_at(wrong, 1, "squared"), -8 / 27, rel_tol=1e-12)
    assert all(abs(gradient_at(z, bit, "squared")) <= 8 / 27 for z in np.linspace(-9, 9, 99) for bit in (0, 1))


@pytest.mark.parametrize("bit_loss", ["Squared", "mse", None])
def test_an_unknown_loss_of_bits_is_refused(bit_loss):
    message = f'bit_loss must be "cross_entropy" or "squared", got {bit_loss!r}'
    with pytest.raises(ValueError, match=f"losses.binary_code: {message}"):
        binary_code(mg.backend.asarray([[0.0]]), bits=mg.backend.asarray([[1]]), bit_loss=bit_loss)
    with pytest.raises(ValueError, match=f"losses.BinaryCode: {message}"):
        BinaryCode(9, 2, key=mg.Key(0), bit_loss=bit_loss)


# ---- (5): what it learns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit_loss", ["cross_entropy", "squared"])
@given(example=words_and_chances(), seed=st.integers(0, 99))
def test_step_5_the_mean_loss_is_least_where_each_bit_has_its_probability(bit_loss, example, seed):
    p, bits = example
    q = p @ bits
    there = np.log(q / (1 - q))
    elsewhere = there + mg.to_cpu(mg.Key(seed).normal(len(q), "float64"))

    def mean_loss(z):
        z = mg.backend.asarray(z + np.zeros(bits.shape))
        return p @ mg.to_cpu(binary_code(z, bits=mg.backend.asarray(bits), bit_loss=bit_loss)[0])

    assert mean_loss(there) < mean_loss(elsewhere)


def test_step_5_three_words_of_a_third_each_make_a_fourth_the_most_probable():
    words, codes = [0b011, 0b101, 0b110], all_codes(8)
    q = codes[words].mean(axis=0)
    assert np.allclose(q, 2 / 3)
    layer = BinaryCode(8, 1, key=mg.Key(0), counts=np.arange(8, 0, -1))
    layer.weight, layer.bias = mg.param(np.log(q / (1 - q))[:, None]), None
    one = np.ones((1, 1))
    assert layer.topk(one, 1)[0].tolist() == [[0b111]]
    p = np.exp(layer.log_prob(one).numpy()[0])
    assert math.isclose(p[0b111], 8 / 27, rel_tol=1e-12) and np.allclose(p[words], 4 / 27, rtol=1e-12)


# ---- (6) and (7): the words' probabilities --------------------------------------------------------------------------


def test_step_6_of_the_numbers_for_ten_thousand_words_39_percent_stand_for_none():
    book = PlainCode(10_000)
    assert book.num_bits == 14 and round(100 * (1 - book.num_words / 2**book.num_bits)) == 39
    even = mg.tensor(np.zeros((1, 14)))
    assert math.isclose(math.exp(book.log_mass(even).item()), 10_000 / 2**14, rel_tol=1e-12)


@given(bits_to_decode())
def test_step_7_the_mass_of_the_words_is_the_sum_over_all_of_them(example):
    num_words, scores = example
    expected = np.log(chances(scores, all_codes(num_words)).sum(axis=1))
    assert np.allclose(PlainCode(num_words).log_mass(mg.tensor(scores)).numpy(), expected, rtol=0, atol=1e-12)


@fewer
@given(example=bits_to_decode())
def test_step_7_and_can_be_differentiated_twice(example):
    num_words, scores = example
    mg.check_grads(lambda z: PlainCode(num_words).log_mass(z) + 0.0 * z.sum(axis=1), scores)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_step_7_where_every_number_is_a_words_nothing_is_lost(n):
    z = mg.tensor(np.linspace(-900, 900, n)[None])
    assert PlainCode(2**n).log_mass(z).numpy().tolist() == [0.0]


def test_step_7_the_mass_is_a_constant_where_every_number_is_a_words():
    for vocab_size, constant in ((16, True), (11, False)):
        assert layer_with(vocab_size).log_z(contexts()).requires_grad != constant


@pytest.mark.parametrize("num_words", [9, 16])
@pytest.mark.parametrize("shape", [(2, 3), (2, 5), (4,)])
def test_scores_that_are_not_one_for_each_bit_are_refused(num_words, shape):
    book, z = PlainCode(num_words), mg.backend.asarray(np.zeros(shape))
    message = re.escape(f"scores must have shape (B, 4), got {list(shape)}")
    with pytest.raises(ValueError, match="losses.PlainCode.best: " + message):
        book.best(z, 3)
    with pytest.raises(ValueError, match="losses.PlainCode.log_mass: " + message):
        book.log_mass(mg.tensor(z))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_7_a_mass_that_is_nearly_nothing_has_a_logarithm(dtype):
    """Both bits are surely 1; there are three words, and the best of them, 01 and 10, have e^−1000."""
    z = mg.tensor(np.array([[1000.0, 1000.0]], dtype))
    found = PlainCode(3).log_mass(z)
    assert found.dtype == dtype and math.isclose(found.item(), math.log(2) - 1000, rel_tol=1e-6)


@given(sizes.filter(lambda v: v > 1), st.integers(0, 99))
def test_step_6_log_prob_is_that_of_the_bits_less_the_mass_of_all_words(vocab_size, seed):
    layer = layer_with(vocab_size, seed=seed, counts=mg.Key(seed).uniform(vocab_size) + 0.1)
    hidden = contexts(3)
    codes = all_codes(vocab_size)[mg.to_cpu(layer.numbers)]
    p = chances(mg.to_cpu(layer.bit_scores(mg.tensor(hidden)).data), codes)
    assert np.allclose(layer.log_prob(hidden).numpy(), np.log(p / p.sum(axis=1, keepdims=True)), rtol=0, atol=1e-12)
    assert np.allclose(np.exp(layer.log_prob(hidden).numpy()).sum(axis=1), 1, rtol=0, atol=1e-12)
    assert np.allclose(layer.log_z(hidden).numpy(), np.log(p.sum(axis=1)), rtol=0, atol=1e-12)


def test_step_6_the_loss_is_minus_log_prob_and_minus_log_mass():
    layer, hidden, targets = layer_with(11, counts=mg.Key(5).uniform(11)), contexts(), [0, 10, 3, 3, 7]
    assert (mg.to_cpu(layer.numbers)[targets] != targets).all()
    log_prob = layer.log_prob_of(hidden, targets).numpy()
    expected = -log_prob - layer.log_z(hidden).numpy()
    assert np.allclose(layer.loss(hidden, targets, reduction="none").numpy(), expected, rtol=1e-12)
    assert (layer.log_z(hidden).numpy() < -0.01).any()


def test_step_6_in_float32_the_best_words_have_more_digits_than_in_log_prob():
    """For scores in the hundreds: a sum of these, less another one, is nearly 0."""
    weight, found = mg.to_cpu(mg.Key(2).normal((4, 50), "float32")) * 600, {}
    for dtype in ("float32", "float64"):
        layer = BinaryCode(11, 50, key=mg.Key(0), counts=mg.Key(5).uniform(11), bias=False)
        layer.weight, each = mg.param(weight.astype(dtype)), np.eye(50, dtype=dtype)  # so that z is the weight
        ids, scores = layer.topk(each, 1)
        of_all = np.take_along_axis(layer.log_prob(each).numpy(), mg.to_cpu(ids), axis=1)
        found[dtype] = [of_all[:, 0], layer.log_prob_of(each, ids[:, 0]).numpy(), mg.to_cpu(scores)[:, 0]]
    of_all, of_one, of_best = (abs(x - y).max() for x, y in zip(*found.values(), strict=True))
    assert of_all > 1e-4 and max(of_one, of_best) < 1e-5


def test_step_6_training_with_the_loss_takes_mass_from_the_numbers_of_no_word():
    layer, hidden = BinaryCode(5, 1, key=mg.Key(0), counts=np.ones(5)), np.ones((5, 1), "float32")
    before = layer.log_z(hidden[:1]).item()
    optimiser = mg.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(200):
        layer.loss(hidden, np.arange(5)).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert before < math.log(0.7) and layer.log_z(hidden[:1]).item() > math.log(0.8)


# ---- (8): the best words ------------------------------------------------------------------------------------------


def best_of_all(scores, num_words, k):
    """By looking at all words: what it costs to be unlike the signs, bit by bit; among equals the smaller number."""
    unlike = (scores > 0)[:, None, :] != (all_codes(num_words) == 1)
    cost = (abs(scores)[:, None, :] * unlike).sum(axis=2)  # exact: these scores are quarters
    return np.argsort(cost, axis=1, kind="stable")[:, :k]


@given(bits_to_decode(), st.data())
def test_step_8_the_k_best_words_are_those_of_a_search_through_all(example, data):
    num_words, scores = example
    k = data.draw(st.integers(1, num_words))
    numbers, found = map(mg.to_cpu, PlainCode(num_words).best(mg.backend.asarray(scores), k))
    assert (numbers == best_of_all(scores, num_words, k)).all()
    expected = np.log(chances(scores, all_codes(num_words)))
    assert np.allclose(found, np.take_along_axis(expected, numbers, axis=1), rtol=1e-12, atol=1e-12)


@given(bits_to_decode())
def test_step_8_the_best_block_has_the_best_word(example):
    """The fast way for one word finds what the way for several finds first."""
    num_words, scores = example
    book, scores = PlainCode(num_words), mg.backend.asarray(scores)
    for one, several in zip(book._cheapest(scores), book._k_cheapest(scores, 1), strict=True):
        assert mg.to_cpu(one).tolist() == mg.to_cpu(several).tolist()


def test_step_8_bits_that_are_no_word_lead_to_the_best_word_there_is():
    """The signs say 7; of 0 to 4, 3 costs 4, 4 costs 2 + 1."""
    numbers, _ = PlainCode(5).best(mg.backend.asarray([[4.0, 2.0, 1.0]]), 2)
    assert mg.to_cpu(numbers).tolist() == [[4, 3]]


def test_step_8_where_nothing_is_known_the_most_frequent_words_come_first():
    layer = BinaryCode(6, 2, key=mg.Key(0), counts=[1, 5, 2, 6, 3, 4])
    ids, scores = layer.topk(np.zeros((1, 2), "float32"), 6)
    assert ids.tolist() == [[3, 1, 5, 4, 2, 0]] and np.allclose(mg.to_cpu(scores), -math.log(6))


@pytest.mark.parametrize("vocab_size", [64, 50, 33])
@pytest.mark.parametrize("k", [1, 7])
def test_step_8_the_best_words_have_their_log_prob(vocab_size, k):
    layer = layer_with(vocab_size, counts=mg.Key(3).uniform(vocab_size))
    ids, scores = layer.topk(contexts(), k)
    for j in range(k):
        assert np.allclose(mg.to_cpu(scores)[:, j], layer.log_prob_of(contexts(), ids[:, j]).numpy(), atol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("vocab_size", [1 << 20, 10**6])
def test_step_8_a_million_words_are_never_looked_at(vocab_size, k, monkeypatch):
    """Nothing as large as the vocabulary is made: not even the bits of all words are asked for."""
    layer = BinaryCode(vocab_size, 3, key=mg.Key(0))
    monkeypatch.setattr(PlainCode, "bits", None)
    ids, scores = layer.topk(mg.Key(1).normal((2, 3)), k)
    assert ids.shape == scores.shape == (2, k)


@pytest.mark.parametrize("k", [0, 6])
def test_more_words_than_a_codebook_has_are_refused(k):
    with pytest.raises(ValueError, match=r"losses.PlainCode.best: k must"):
        PlainCode(5).best(mg.backend.asarray([[0.0, 0.0, 0.0]]), k)


# ---- (9) and (10): why it is less than a softmax ------------------------------------------------------------------


def rank(log_prob):
    """Of the matrix less each row's mean: how many singular values are more than rounding."""
    singular = np.linalg.svd(log_prob - log_prob.mean(axis=1, keepdims=True), compute_uv=False)
    return int((singular > 1e-10 * singular[0]).sum())


@pytest.mark.parametrize("vocab_size, n", [(16, 4), (13, 4), (60, 6)])
def test_step_9_log_probabilities_have_the_rank_of_the_bits_whatever_d_is(vocab_size, n):
    hidden = contexts(80, 20)
    assert rank(layer_with(vocab_size, 20).log_prob(hidden).numpy()) == n
    softmax = FullSoftmax(vocab_size, 20, key=mg.Key(0), bias=False)
    softmax.weight = mg.param(mg.Key(2).normal((vocab_size, 20), "float64"))
    assert rank(softmax.log_prob(hidden).numpy()) == min(20, vocab_size - 1)


@pytest.mark.parametrize("bias", [True, False])
def test_step_9_and_d_plus_1_at_most_as_a_softmax_has(bias):
    layer = layer_with(60, 3, bias=bias)
    assert layer.codebook.num_bits == 6 and rank(layer.log_prob(contexts(80, 3)).numpy()) == 3 + bias
    softmax = FullSoftmax(60, 3, key=mg.Key(0), bias=bias)
    softmax.weight = mg.param(mg.Key(2).normal((60, 3), "float64"))
    softmax.bias = mg.param(mg.Key(3).normal(60, "float64")) if bias else None
    assert rank(softmax.log_prob(contexts(80, 3)).numpy()) == 3 + bias


def test_step_9_for_65536_words_that_is_16():
    assert PlainCode(65_536).num_bits == 16


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_step_10_it_is_a_balanced_tree_whose_nodes_of_a_depth_share_a_row(depth):
    """Walk from the root, left for 0: each word's probability is a product of one decision a depth."""
    layer = layer_with(2**depth)
    hidden = contexts(1)
    u, b = layer.weight.numpy(), layer.bias.numpy()
    h = mg.to_cpu(hidden)[0]
    for word in range(2**depth):
        p, left, right = 1.0, 0, 2**depth
        for level in range(depth):
            middle, go_right = (left + right) // 2, σ(u[level] @ h + b[level])
            p *= go_right if word >= middle else 1 - go_right
            left, right = (middle, right) if word >= middle else (left, middle)
        assert math.isclose(layer.log_prob(hidden).numpy()[0, word], math.log(p), rel_tol=1e-12)


@pytest.mark.parametrize("vocab_size, depth", [(16, 4), (11, 4), (5, 3)])
def test_step_10_it_is_hierarchical_softmax_with_minus_w_and_divided_by_the_mass(vocab_size, depth):
    """Its balanced tree of 2ⁿ leaves has a heap's nodes: 2^b of depth b, from 2^b − 1 on."""
    layer, tree = layer_with(vocab_size), HierarchicalSoftmax(2**depth, 4, tree=trees.balanced(2**depth), key=mg.Key(0))
    depths = [b for b in range(depth) for _ in range(2**b)]
    tree.weight, tree.bias = (mg.param(-p.numpy()[depths]) for p in (layer.weight, layer.bias))
    leaves = tree.log_prob(contexts()).numpy()[:, mg.to_cpu(layer.numbers)]
    expected = leaves - layer.log_z(contexts()).numpy()[:, None]
    assert np.allclose(layer.log_prob(contexts()).numpy(), expected, rtol=0, atol=1e-12)


# ---- codebooks that do not fit -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [BinaryCode, functools.partial(HybridCode, num_frequent=2)], ids=["binary code", "hybrid"]
)
def test_a_codebook_that_does_not_fit_is_refused(make):
    name = f"losses.{type(make(9, 3, key=mg.Key(0))).__name__}"
    for wrong in (lambda n: PlainCode(5), lambda n: PlainCode(16)):
        with pytest.raises(
            ValueError, match=rf"{name}: codebook\([79]\) must be a Codebook of [79] words, got PlainCode of"
        ):
            make(9, 3, key=mg.Key(0), codebook=wrong)
    with pytest.raises(ValueError, match=f"{name}: .* got int of no words"):
        make(9, 3, key=mg.Key(0), codebook=lambda n: n)
    with pytest.raises(TypeError, match=f"{name}: codebook must make one .* got PlainCode, which cannot be called"):
        make(9, 3, key=mg.Key(0), codebook=PlainCode(9))


# ---- cost ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size, n", [(2, 1), (1000, 10), (1024, 10), (1025, 11), (65_536, 16), (10**6, 20)])
def test_cost_is_a_row_for_each_bit_in_training_and_at_test(vocab_size, n):
    layer = BinaryCode(vocab_size, 2, key=mg.Key(0))
    assert layer.score_cost() == layer.score_cost(batch_size=64) == (n, n)
    assert [p.shape for p in layer.parameters()] == [(n, 2), (n,)]


def test_the_loss_and_the_probability_of_one_word_do_not_look_at_all_words(monkeypatch):
    """How many words' bits are asked for: as many as there are targets."""
    layer, asked = BinaryCode(1000, 3, key=mg.Key(0)), []
    bits = layer.codebook.bits
    monkeypatch.setattr(layer.codebook, "bits", lambda numbers: asked.append(len(numbers)) or bits(numbers))
    hidden = mg.Key(1).normal((4, 3))
    layer.loss(hidden, [1, 2, 999, 0])
    layer.log_prob_of(hidden, [1, 2, 999, 0])
    assert asked == [4, 4]


# ---- In PyTorch ---------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("vocab_size, batch, seed", [(2, 1, 0), (9, 4, 1), (16, 3, 2), (40, 4, 3)])
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(vocab_size, batch, seed):
    torch = pytest.importorskip("torch")
    key = mg.Key(seed)
    layer = BinaryCode(vocab_size, 3, key=key, counts=key.uniform(vocab_size) + 0.1)
    for i, table in enumerate(layer.tables):
        setattr(layer, table, mg.param(key.fold(i).normal(getattr(layer, table).shape)))
    hidden, targets = mg.param(key.fold(7).normal((batch, 3))), key.fold(8).integers(0, vocab_size, batch)
    ours = layer.loss(hidden, targets, reduction="none")
    ours.mean().backward()

    imports, make, train = IN_PYTORCH.strip().split("\n\n")
    theirs = {
        "V": vocab_size,
        "d": 3,
        "n": layer.codebook.num_bits,
        "numbers": torch.tensor(mg.to_cpu(layer.numbers[targets])),
        "hidden": torch.tensor(hidden.numpy(), requires_grad=True),
    }
    assert theirs["n"] == (vocab_size - 1).bit_length()
    exec(imports + "\n" + make, theirs)
    theirs["out"].weight.data = torch.tensor(layer.weight.numpy())
    theirs["out"].bias.data = torch.tensor(layer.bias.numpy())
    exec(train, theirs)

    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-5, atol=1e-6)
    for mine, other in (
        (hidden, theirs["hidden"]),
        (layer.weight, theirs["out"].weight),
        (layer.bias, theirs["out"].bias),
    ):
        assert np.allclose(mg.to_cpu(mine.grad), other.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.oracle
def test_in_pytorch_the_trap_the_mean_over_bits_makes_gradients_n_times_too_small():
    torch = pytest.importorskip("torch")
    z, bits = torch.tensor([[0.5, -1.0, 2.0]], requires_grad=True), torch.tensor([[0.0, 1.0, 1.0]])
    torch.nn.functional.binary_cross_entropy_with_logits(z, bits).backward()
    G = binary_code(mg.backend.asarray([[0.5, -1.0, 2.0]], "float32"), bits=mg.backend.asarray([[0, 1, 1]]))[1]
    assert np.allclose(3 * z.grad.numpy(), mg.to_cpu(G), rtol=1e-5)
