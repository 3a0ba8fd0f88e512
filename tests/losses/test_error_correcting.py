"""Error-correcting codes: a test for each step of `losses.structured.error_correcting`, and an oracle in torch."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import BinaryCode, ErrorCorrectingCode, HybridCode
from losses.check import smallest_failure
from losses.structured import error_correcting
from losses.structured.codes import in_binary, log_prob_of_bits
from losses.structured.error_correcting import (
    IN_PYTORCH,
    POLYNOMIALS,
    ConvolutionalCode,
    cheapest,
    cheapest_paths,
    encode,
    limit_path,
    log_sum,
    log_sum_of_paths,
    most_probable_naive,
    viterbi,
    window_outputs,
)
from losses.suites.error_correcting import CHAPTER, code_word

pytestmark = pytest.mark.error_correcting

MEMORIES = pytest.mark.parametrize("memory", [2, 3, 4, 5, 6])
CORRECTS = {2: 2, 3: 2, 4: 3, 5: 3, 6: 4}
DISTANCES = {2: 5, 3: 6, 4: 7, 5: 8, 6: 10}
asarray = mg.backend.asarray


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.name.replace(' ', '_')}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    def there(bit_scores, **options):
        return mg.to_cpu(viterbi(asarray(bit_scores), **options))

    assert smallest_failure(lesson, there, max_examples=50) is None


def codes_of(num_words, memory):
    """The code words of all numbers below V, (V, n)."""
    return mg.to_cpu(ConvolutionalCode(num_words, memory=memory).bits(asarray(np.arange(num_words))))


def decoded(bits, memory):
    """The number of the word nearest to bits (B, n), each of which is believed equally."""
    return mg.to_cpu(viterbi(asarray(2.0 * bits - 1.0), memory=memory))


def some_scores(batch, num_bits, memory, seed=0, dtype="float64"):
    return mg.to_cpu(3 * mg.Key(seed).normal((batch, 2 * (num_bits + memory)), dtype))


def costs_of(scores, num_words, memory):
    """(4), written out: what each word costs, (B, V)."""
    unlike = codes_of(num_words, memory)[None] != (scores > 0)[:, None]
    return (abs(scores)[:, None] * unlike).sum(axis=2)


@st.composite
def problems(draw, most_words=200):
    """(scores (B, n), memory, V, k): small integers, of which many are equal, or any numbers."""
    memory, num_words = draw(st.integers(2, 6)), draw(st.integers(1, most_words))
    batch, k = draw(st.integers(1, 3)), draw(st.integers(1, min(num_words, 12)))
    scores = some_scores(batch, max(1, (num_words - 1).bit_length()), memory, draw(st.integers(0, 999)))
    return np.round(scores / 2) if draw(st.booleans()) else scores, memory, num_words, k


@pytest.fixture
def by_kernel(monkeypatch):
    """However small the work."""
    monkeypatch.setattr(error_correcting, "worth_a_kernel", lambda *_: True)


# ---- (1) to (3): the code -----------------------------------------------------------------------------------------


@MEMORIES
def test_step_1_every_pattern_of_t_wrong_bits_or_fewer_is_put_right(memory):
    n, t = 2 * (3 + memory), CORRECTS[memory]
    places = [p for wrong in range(t + 1) for p in itertools.combinations(range(n), wrong)]
    words = np.arange(len(places)) * 5 % 8  # all eight, in turns; by (3) what is wrong does not depend on the word
    bits = codes_of(8, memory)[words]
    for row, wrong in zip(bits, places, strict=True):
        row[list(wrong)] ^= 1
    assert (decoded(bits, memory) == words).all()


@MEMORIES
def test_step_1_any_t_wrong_bits_of_a_word_of_65536_are_put_right(memory):
    rng = np.random.default_rng(memory)
    words = rng.integers(0, 1 << 16, 300)
    bits = mg.to_cpu(ConvolutionalCode(1 << 16, memory=memory).bits(asarray(words)))
    for row in bits:
        row[rng.choice(bits.shape[1], CORRECTS[memory], replace=False)] ^= 1
    assert (decoded(bits, memory) == words).all()


@MEMORIES
def test_step_1_one_more_may_lead_astray(memory):
    """Of the d ones of the word nearest to word 0, t + 1 are wrong: no fewer than half, and word 0 is as near."""
    codes = codes_of(1 << 8, memory)
    word = codes[1:].sum(axis=1).argmin() + 1
    bits = codes[word : word + 1].copy()
    bits[0, bits[0].nonzero()[0][: CORRECTS[memory] + 1]] = 0
    assert decoded(bits, memory) == [0] != word


@MEMORIES
@given(data=st.data())
def test_step_2_bits_are_sums_modulo_2_of_the_newest_and_those_before_it(memory, data):
    num_bits = data.draw(st.integers(1, 10))
    number = data.draw(st.integers(0, (1 << num_bits) - 1))
    found = encode(in_binary(asarray(np.array(number)), num_bits), memory=memory)
    assert found.tolist() == code_word(number, num_bits, memory) and found.dtype == "uint8"


def test_step_2_171_in_octal_adds_up_the_newest_the_three_before_it_and_the_sixth():
    """One 1 and zeros after it: the taps come out one after the other."""
    out = mg.to_cpu(encode(asarray(np.array([1])), memory=6))
    assert out[0::2].tolist() == [1, 1, 1, 1, 0, 0, 1] and POLYNOMIALS[6][0] == 0b1_111_001
    assert out[1::2].tolist() == [1, 0, 1, 1, 0, 1, 1] and POLYNOMIALS[6][1] == 0b1_011_011


def test_step_2_the_number_goes_in_as_it_is_written_and_then_zeros():
    six = [1, 1, 0]
    assert mg.to_cpu(in_binary(asarray(np.array(6)), 3)).tolist() == six
    padded = np.array(six + [0, 0])
    first = padded ^ np.r_[[0, 0], padded[:-2]]  # 5 = 101: u_t ⊕ u_{t−2}
    assert codes_of(8, 2)[6][0::2].tolist() == first.tolist()


@MEMORIES
@given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))
def test_step_3_the_code_is_linear(memory, a, b):
    code_of_a, code_of_b, code_of_both = ConvolutionalCode(1 << 16, memory=memory).bits(
        asarray(np.array([a, b, a ^ b]))
    )
    assert (code_of_a ^ code_of_b == code_of_both).all()


@MEMORIES
def test_step_3_two_words_differ_in_d_bits_or_more_and_some_in_d(memory):
    ones = [codes_of(1 << num_bits, memory)[1:].sum(axis=1).min() for num_bits in range(1, 11)]
    code = ConvolutionalCode(1 << 10, memory=memory)
    assert min(ones) == ones[-1] == code.distance == DISTANCES[memory]
    assert code.corrects == CORRECTS[memory] == (code.distance - 1) // 2


def test_step_3_between_all_pairs_of_words():
    codes = codes_of(1 << 6, 2).astype(int)
    apart = (codes[:, None] != codes).sum(axis=2) + 99 * np.eye(64, dtype=int)
    assert apart.min() == 5 == codes[1:].sum(axis=1).min()


def test_step_3_the_taps_are_those_of_the_table():
    in_octal = {memory: [f"{p:o}" for p in pair] for memory, pair in POLYNOMIALS.items()}
    assert in_octal == {2: ["5", "7"], 3: ["15", "17"], 4: ["23", "35"], 5: ["53", "75"], 6: ["171", "133"]}


# ---- (4) to (6): the cheapest path --------------------------------------------------------------------------------


def test_step_4_the_most_probable_word_is_the_cheapest():
    scores, codes = some_scores(20, 5, 2), codes_of(32, 2)
    assert (costs_of(scores, 32, 2).argmin(axis=1) == (scores @ codes.T).argmax(axis=1)).all()
    log_probs = [mg.to_cpu(log_prob_of_bits(asarray(scores), asarray(codes[[w] * 20]))) for w in range(32)]
    assert (np.argmax(log_probs, axis=0) == costs_of(scores, 32, 2).argmin(axis=1)).all()


def test_step_4_signs_count_wrong_bits():
    scores = np.sign(some_scores(20, 5, 2))
    assert (costs_of(scores, 32, 2) == (codes_of(32, 2)[None] != (scores > 0)[:, None]).sum(axis=2)).all()


@MEMORIES
def test_step_4_even_d_minus_1_wrong_bits_are_put_right_if_unsure_and_not_if_only_signs_count(memory):
    codes = codes_of(1 << 8, memory)
    word = codes[1:].sum(axis=1).argmin() + 1
    z = 2.0 * codes[word : word + 1] - 1.0
    z[0, codes[word].nonzero()[0][1:]] = -0.01  # of the d ones all but the first
    assert mg.to_cpu(viterbi(asarray(z), memory=memory)) == [word]
    assert mg.to_cpu(viterbi(asarray(np.sign(z)), memory=memory)) == [0]


@MEMORIES
def test_step_5_windows_are_numbers_that_come_from_w_mod_2_to_the_r_and_go_to_half_of_w(memory):
    """And what comes out on the way is the code word."""
    state, out, number, outputs = 0, [], 0b1011001, window_outputs(memory)
    for bit in [*map(int, f"{number:b}"), *[0] * memory]:
        window = bit << memory | state
        assert window % (1 << memory) == state
        state, out = window // 2, [*out, *outputs[window]]
    assert state == 0 and out == code_word(number, 7, memory)
    assert len(outputs) == 2 ** (memory + 1)


@given(st.integers(1, 10), st.integers(2, 6), st.integers(0, 999))
def test_step_5_the_path_found_is_that_of_the_most_probable_of_all_words(num_bits, memory, seed):
    scores = some_scores(3, num_bits, memory, seed)
    found = mg.to_cpu(viterbi(asarray(scores), memory=memory))
    assert (found == (scores @ codes_of(1 << num_bits, memory).T).argmax(axis=1)).all()


@MEMORIES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_5_a_code_word_is_decoded_to_its_number(memory, dtype):
    scores = asarray(2.0 * codes_of(1 << 7, memory) - 1.0, dtype=dtype)
    assert mg.to_cpu(viterbi(scores, memory=memory)).tolist() == list(range(1 << 7))


@MEMORIES
def test_step_6_every_word_ends_in_state_0_and_the_zeros_halve_the_states(memory):
    number = np.arange(1 << 7)  # 2^7 > 2^r: before the zeros all states occur
    for zeros in range(memory + 1):
        states = {int(f"{w << zeros:032b}"[-memory:][::-1], 2) for w in number}  # the newest bit is the highest
        assert states == set(range(1 << (memory - zeros)))


def test_step_6_without_an_end_another_word_would_win():
    """The last bit of word 0 is unsure; afterwards, zeros are certain only if it was a 0."""
    z = -np.ones((1, 2 * (2 + 2)))
    z[0, 2:4] = 0.9  # as if the second of two bits were 1
    assert mg.to_cpu(viterbi(asarray(z), memory=2)) == [0]
    assert (z[:, :4] @ codes_of(4, 2)[:, :4].T).argmax(axis=1) == [1], "before the zeros it is word 1"


def test_step_6_among_equals_the_smaller_number():
    z = asarray(np.zeros((3, 2 * (5 + 4))))
    for num_words in (None, 30, 17):
        assert mg.to_cpu(viterbi(z, memory=4, num_words=num_words)).tolist() == [0, 0, 0]
    assert mg.to_cpu(cheapest_paths(z, 6, memory=4, num_words=30)[0]).tolist() == [[0, 1, 2, 3, 4, 5]] * 3


# ---- (7), (8): words only, and the k best -------------------------------------------------------------------------


@pytest.mark.parametrize("num_words", range(1, 18))
def test_step_7_of_any_number_of_words_the_best(num_words):
    num_bits = max(1, (num_words - 1).bit_length())
    scores = some_scores(20, num_bits, 3)
    found = mg.to_cpu(viterbi(asarray(scores), memory=3, num_words=num_words))
    assert (found == costs_of(scores, num_words, 3).argmin(axis=1)).all()


def test_step_7_the_best_of_all_numbers_may_be_no_word_and_what_is_best_then_is_not_near_it():
    num_words, scores = 11, some_scores(200, 4, 2)
    free, words = (mg.to_cpu(viterbi(asarray(scores), memory=2, num_words=v)) for v in (16, num_words))
    none = free >= num_words
    assert none.any() and (free[~none] == words[~none]).all()
    assert len(set(words[none])) > 5, "neither word 0 nor word V − 1 each time"


def test_step_7_of_a_branch_of_vs_path_and_another_word_as_good_the_smaller():
    """Word 16 = 10000 leaves the path of 17 = 10001 at its end, where word 8 = 01000 passes the same window."""
    codes = codes_of(17, 2).astype(float)
    z = asarray(codes[None, 8] + codes[None, 16] - 1)  # 0 where they differ
    assert mg.to_cpu(cheapest_paths(z, 2, memory=2, num_words=17)[0]).tolist() == [[8, 16]]
    assert mg.to_cpu(cheapest_paths(z, 1, memory=2, num_words=17)[0]).tolist() == [[8]]


@given(st.integers(1, 300))
def test_step_7_a_number_is_below_v_if_it_leaves_vs_path_at_a_one(num_words):
    num_bits, memory, below = max(1, (num_words - 1).bit_length()), 3, []
    path = limit_path(num_words, num_bits, memory)
    assert len(path) == num_bits
    for t, (on, off) in enumerate(path):
        rest = num_bits - 1 - t
        bit, prefix = num_words >> rest & 1, num_words >> (rest + 1)
        last = int(f"{prefix:032b}"[-memory:][::-1], 2)  # the last r bits, the newest the highest
        if num_words < 1 << num_bits:
            assert on == bit << memory | last and off == (last if bit else -1)
        if bit:
            below += range(2 * prefix << rest, (2 * prefix + 1) << rest)
    assert below == (list(range(num_words)) if num_words < 1 << num_bits else [])  # of 2^K all are free from the start


@given(problems())
def test_step_8_the_k_best_are_those_of_a_sort_by_cost_and_then_by_number(problem):
    scores, memory, num_words, k = problem
    numbers, costs = map(mg.to_cpu, cheapest_paths(asarray(scores), k, memory=memory, num_words=num_words))
    expected = costs_of(scores, num_words, memory)
    order = np.argsort(expected, axis=1, kind="stable")[:, :k]
    assert (numbers == order).all() and numbers.dtype == "int64"
    assert np.allclose(costs, np.take_along_axis(expected, order, axis=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 7, 100, 700])
def test_step_8_the_codebook_has_the_best_words_and_their_log_probability_however_many(k):
    """By lists, or where these would be longer, by looking at all words."""
    code, scores = ConvolutionalCode(700, memory=2), some_scores(4, 10, 2)
    numbers, log_probs = map(mg.to_cpu, code.best(asarray(scores), k))
    naive = map(mg.to_cpu, most_probable_naive(asarray(scores), code.bits(asarray(np.arange(700))), k))
    for found, expected in zip((numbers, log_probs), naive, strict=True):
        assert np.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert (numbers == np.argsort(costs_of(scores, 700, 2), axis=1, kind="stable")[:, :k]).all()


def test_step_8_not_all_words_are_looked_at_unless_so_many_are_wanted(monkeypatch):
    looked = []
    monkeypatch.setattr(error_correcting, "most_probable_naive", lambda scores, codes, k: looked.append(len(codes)))
    code, scores = ConvolutionalCode(5000, memory=2), asarray(some_scores(2, 13, 2))
    for k in (1, 10, 100):
        code.best(scores, k)
    assert looked == []
    code.best(scores, 4000)
    assert looked == [5000]


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(problem=problems())
def test_the_kernels_find_what_the_array_code_does_to_the_last_bit(problem, dtype):
    scores, memory, num_words, k = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(error_correcting, "worth_a_kernel", lambda *_: True)
        by_kernels = cheapest(scores.astype(dtype), k, memory=memory, num_words=num_words)
    by_arrays = cheapest_paths(scores.astype(dtype), k, memory=memory, num_words=num_words)
    for found, expected in zip(by_kernels, by_arrays, strict=True):
        assert found.dtype == expected.dtype and (found == expected).all()


@pytest.mark.cpu
@pytest.mark.parametrize("num_words", range(1, 41))
def test_the_kernels_do_so_on_every_branch_of_vs_path(by_kernel, num_words):
    """Each word's own code, halfway between it and the last word, and anywhere."""
    codes, num_bits = codes_of(num_words, 2).astype(float), max(1, (num_words - 1).bit_length())
    scores = np.concatenate([2 * codes - 1, codes + codes[-1] - 1, some_scores(30, num_bits, 2)])
    for k in {1, min(2, num_words), min(5, num_words)}:
        found, costs = cheapest(scores, k, memory=2, num_words=num_words)
        expected = cheapest_paths(scores, k, memory=2, num_words=num_words)
        assert (found == expected[0]).all() and (costs == expected[1]).all()
        assert found[:num_words, 0].tolist() == list(range(num_words))


# ---- (9): the sum over words --------------------------------------------------------------------------------------


@given(problems())
def test_step_9_the_sum_is_that_over_the_words(problem):
    scores, memory, num_words, _ = problem
    expected = np.log(np.exp(-costs_of(scores, num_words, memory)).sum(axis=1))
    found = log_sum_of_paths(asarray(scores), memory=memory, num_words=num_words)
    assert np.allclose(mg.to_cpu(found), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_words", [11, 16])
def test_step_9_words_have_less_than_all_of_the_probability_of_n_bits(num_words):
    """Even if all 2^K numbers are words: not all 2^n strings of bits are."""
    code, scores = ConvolutionalCode(num_words, memory=2), some_scores(6, 4, 2)
    codes = code.bits(asarray(np.arange(num_words)))
    sums = sum(np.exp(mg.to_cpu(log_prob_of_bits(asarray(scores), codes[w : w + 1]))) for w in range(num_words))
    assert np.allclose(code.log_mass(mg.tensor(scores)).numpy(), np.log(sums), rtol=1e-12)
    assert (sums < 0.5).all()


def test_step_9_all_strings_of_bits_together_have_all_of_it():
    """Without the zeros' bits, of which only some can follow, nothing is lost: a check of the check."""
    scores = some_scores(1, 1, 2)[0]
    total = sum(math.exp(-sum(np.log1p(np.exp(-(2 * np.array(c) - 1) * scores)))) for c in np.ndindex(*[2] * 6))
    assert math.isclose(total, 1, rel_tol=1e-12)


@pytest.mark.parametrize("num_words", [5, 8])
def test_step_9_its_slope_is_what_the_bit_is_among_words_less_what_it_is(num_words):
    code, z = ConvolutionalCode(num_words, memory=2), mg.param(some_scores(4, 3, 2))
    code.log_mass(z).sum().backward()
    codes, scores = codes_of(num_words, 2), z.numpy()
    posterior = np.exp(-costs_of(scores, num_words, 2))
    posterior /= posterior.sum(axis=1, keepdims=True)
    assert np.allclose(mg.to_cpu(z.grad), posterior @ codes - 1 / (1 + np.exp(-scores)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_words", [1, 5, 8])
def test_step_9_it_has_derivatives_of_second_order(num_words):
    code = ConvolutionalCode(num_words, memory=2)
    mg.check_grads(code.log_mass, some_scores(2, max(1, (num_words - 1).bit_length()), 2))


@pytest.mark.cpu
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-12)])
@given(problem=problems(), scale=st.sampled_from([1.0, 100.0]))
def test_the_kernel_has_the_sum_that_the_array_code_has(problem, dtype, tolerance, scale):
    """Also where it is below what its numbers can hold."""
    scores, memory, num_words, _ = problem
    scores = (scale * scores).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(error_correcting, "worth_a_kernel", lambda *_: True)
        found = log_sum(mg.tensor(scores), memory=memory, num_words=num_words).numpy()
    expected = log_sum_of_paths(scores.astype("float64"), memory=memory, num_words=num_words)
    assert found.dtype == dtype and np.allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.cpu
@pytest.mark.parametrize("num_words", range(1, 41))
def test_the_kernel_itself_has_the_sum_of_each_number_of_words(by_kernel, monkeypatch, num_words):
    scores = some_scores(5, max(1, (num_words - 1).bit_length()), 2) / 3
    expected = log_sum_of_paths(scores, memory=2, num_words=num_words)
    monkeypatch.setattr(error_correcting, "log_sum_of_paths", None)
    assert np.allclose(log_sum(mg.tensor(scores), memory=2, num_words=num_words).numpy(), expected, rtol=1e-12)


@pytest.mark.cpu
def test_where_a_derivative_is_wanted_the_array_code_does_it(by_kernel):
    test_step_9_its_slope_is_what_the_bit_is_among_words_less_what_it_is(5)


@pytest.mark.cpu
def test_where_the_sum_is_too_small_for_the_kernel_the_array_code_does_it(by_kernel):
    z = np.full((2, 18), -100.0)
    z[0] = -1.0
    z[0, 3:], z[1, 5:] = 400.0, 100.0  # as no word is
    found = log_sum(mg.tensor(z), memory=2, num_words=128).numpy()
    assert (found < -460).any() and np.isfinite(found).all()
    assert np.allclose(found, log_sum_of_paths(z, memory=2, num_words=128), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_of_ten_thousand_have_a_finite_sum_and_gradient(dtype):
    z = mg.param(1e4 * mg.Key(1).normal((3, 16), dtype))
    mass = ConvolutionalCode(50, memory=2).log_mass(z)
    mass.sum().backward()
    assert np.isfinite(mass.numpy()).all() and np.isfinite(mg.to_cpu(z.grad)).all() and mass.dtype == dtype


# ---- the layer ----------------------------------------------------------------------------------------------------


def layer_with_weights(vocab_size=37, dim=3, **options):
    layer = ErrorCorrectingCode(vocab_size, dim, key=mg.Key(0), **options)
    layer.weight = mg.param(2 * mg.Key(1).normal(layer.weight.shape, "float64"))
    layer.bias = mg.param(mg.Key(2).normal(layer.bias.shape, "float64"))
    return layer, mg.Key(3).normal((5, dim), "float64")


@MEMORIES
def test_65536_words_have_16_bits_and_twice_as_many_with_the_zeros_of_the_end(memory):
    layer = ErrorCorrectingCode(65_536, 4, key=mg.Key(0), memory=memory)
    assert layer.weight.shape == (2 * (16 + memory), 4) and layer.score_cost() == (2 * (16 + memory),) * 2


def test_oda_and_others_have_44_outputs_for_65536_words_and_16_without_redundancy():
    assert ErrorCorrectingCode(65_536, 4, key=mg.Key(0)).score_cost(64) == (44, 44)
    assert BinaryCode(65_536, 4, key=mg.Key(0)).score_cost(64) == (16, 16)


@pytest.mark.parametrize("bit_loss", ["cross_entropy", "squared"])
def test_the_loss_is_that_of_binary_codes_of_the_bits_of_the_code_word(bit_loss):
    layer, hidden = layer_with_weights(bit_loss=bit_loss, memory=3)
    targets = [3, 36, 3, 0, 20]
    q = 1 / (1 + np.exp(-layer.bit_scores(mg.tensor(hidden)).numpy()))
    c = np.array([code_word(w, 6, 3) for w in targets])  # counts are Zipf's: numbers are ids
    each = -np.log(np.where(c, q, 1 - q)) if bit_loss == "cross_entropy" else (q - c) ** 2
    assert np.allclose(layer.loss(hidden, targets, reduction="none").numpy(), each.sum(axis=1), rtol=1e-12)


def test_probabilities_are_those_of_codes_divided_by_their_sum_and_in_the_order_of_ids():
    counts = np.arange(37) + 1.0  # the last id is the most frequent: number 0
    layer, hidden = layer_with_weights(counts=counts, memory=3)
    z = layer.bit_scores(mg.tensor(hidden)).numpy()
    codes = codes_of(37, 3)[::-1]
    joint = np.exp(z @ codes.T)
    expected = np.log(joint / joint.sum(axis=1, keepdims=True))
    assert np.allclose(layer.log_prob(hidden).numpy(), expected, rtol=1e-10, atol=1e-12)
    assert np.allclose(layer.log_prob_of(hidden, [0, 36, 5, 5, 1]).numpy(), expected[range(5), [0, 36, 5, 5, 1]])
    ids, scores = map(mg.to_cpu, layer.topk(hidden, 4))
    assert (ids == np.argsort(-expected, axis=1)[:, :4]).all()
    assert np.allclose(scores, np.take_along_axis(expected, ids, axis=1), rtol=1e-10)


def test_a_model_that_is_wrong_about_four_bits_still_finds_the_word():
    plain, layer = (kind(65_536, 1, key=mg.Key(0)) for kind in (BinaryCode, ErrorCorrectingCode))
    found = []
    for kind in (plain, layer):
        z = 2.0 * mg.to_cpu(kind.codebook.bits(asarray(np.array(31_337)))) - 1.0
        z[[1, 4, 9, 14]] *= -1
        kind.bias = mg.param(z.astype("float32"))
        found.append(mg.to_cpu(kind.topk(np.zeros((1, 1), "float32"), 1)[0]).item())
    assert found[0] != 31_337 == found[1]


def test_no_table_grows_with_v():
    sizes = {sum(p.data.size for p in ErrorCorrectingCode(v, 3, key=mg.Key(0)).parameters()) for v in (1025, 2048)}
    assert sizes == {2 * (11 + 6) * (3 + 1)}


def test_the_rare_words_of_a_hybrid_may_have_the_code():
    for vocab_size in (4, 5, 9):
        layer = HybridCode(vocab_size, 2, num_frequent=2, key=mg.Key(0), codebook=partial(ConvolutionalCode, memory=2))
        p = np.exp(layer.log_prob(np.ones((1, 2), "float32")).numpy())
        assert math.isclose(p.sum(), 1, rel_tol=1e-5)


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [1, 7, 0, -2])
@pytest.mark.parametrize(
    "operation, call",
    [
        ("ConvolutionalCode", lambda memory: ConvolutionalCode(8, memory=memory)),
        ("ConvolutionalCode", lambda memory: ErrorCorrectingCode(8, 2, key=mg.Key(0), memory=memory)),
        ("viterbi", lambda memory: viterbi(asarray(np.zeros((1, 20))), memory=memory)),
        ("encode", lambda memory: encode(asarray(np.array([0, 1])), memory=memory)),
    ],
)
def test_a_memory_for_which_there_are_no_taps_is_refused(operation, call, memory):
    with pytest.raises(ValueError, match=f"losses.{operation}: memory must .*, got {memory}"):
        call(memory)


@pytest.mark.parametrize("memory", [2.0, "6", None, True])
def test_a_memory_that_is_no_integer_is_refused(memory):
    with pytest.raises(TypeError, match=r"losses.ConvolutionalCode: memory must be an integer"):
        ConvolutionalCode(8, memory=memory)


@pytest.mark.parametrize(
    "shape, dtype", [((1, 7), "float64"), ((1, 4), "float64"), ((8,), "float64"), ((1, 8), "int64")]
)
def test_scores_of_no_code_are_refused(shape, dtype):
    with pytest.raises(
        ValueError, match=r"losses.viterbi: bit_scores must be floating-point numbers \(B, 2 \(K \+ 2\)\)"
    ):
        viterbi(asarray(np.zeros(shape, dtype)), memory=2)


@pytest.mark.parametrize("num_words, message", [(9, r"at most 2\^3 for 3 bits, got 9"), (0, "at least 1, got 0")])
def test_more_words_than_bits_can_tell_apart_are_refused(num_words, message):
    with pytest.raises(ValueError, match=f"losses.viterbi: num_words must be {message}"):
        viterbi(asarray(np.zeros((1, 10))), memory=2, num_words=num_words)


def test_one_word_is_always_found():
    code, z = ConvolutionalCode(1, memory=2), asarray(some_scores(3, 1, 2))
    assert mg.to_cpu(code.best(z, 1)[0]).tolist() == [[0], [0], [0]] and code.num_bits == 6
    log_prob = mg.to_cpu(log_prob_of_bits(z, code.bits(asarray(np.zeros(3, "int64")))))
    assert np.allclose(code.log_mass(mg.tensor(z)).numpy(), log_prob, rtol=1e-12)


@pytest.mark.parametrize("k", [0, 12])
def test_more_words_than_there_are_are_not_the_best(k):
    with pytest.raises(ValueError, match=r"losses.ConvolutionalCode.best: k must .*, got"):
        ConvolutionalCode(11, memory=2).best(asarray(some_scores(1, 4, 2)), k)


@pytest.mark.parametrize("num_words", [5, 11, 16])
@pytest.mark.parametrize("k", [1, 3])
def test_of_scores_that_are_no_numbers_come_some_words(num_words, k):
    rng, num_bits = np.random.default_rng(k), max(1, (num_words - 1).bit_length())
    for value in [math.nan, math.inf, -math.inf] * 20:
        z = 9 * rng.normal(size=(4, 2 * (num_bits + 2)))
        z[rng.random(z.shape) < 0.3] = value
        with np.errstate(invalid="ignore"):
            found = mg.to_cpu(cheapest_paths(asarray(z), k, memory=2, num_words=num_words)[0])
        assert (found >= 0).all() and (found < num_words).all()


# ---- In PyTorch ---------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@given(num_words=st.integers(2, 40), memory=st.integers(2, 6), seed=st.integers(0, 99))
def test_in_pytorch_those_very_lines_have_the_same_loss_gradients_probabilities_and_best_words(num_words, memory, seed):
    torch = pytest.importorskip("torch")
    layer = ErrorCorrectingCode(num_words, 3, key=mg.Key(seed), memory=memory)
    layer.bias = mg.param(mg.Key(seed).fold(1).normal(layer.bias.shape))
    hidden, targets = mg.param(mg.Key(seed).fold(2).normal((4, 3))), np.arange(4) % num_words
    layer.loss(hidden, targets).backward()

    imports, make, train, decode = IN_PYTORCH.strip().split("\n\n")
    codes = codes_of(num_words, memory)[mg.to_cpu(layer.numbers)]
    theirs = {"d": 3, "codes": torch.tensor(codes, dtype=torch.float32), "targets": torch.tensor(targets)}
    theirs["hidden"] = torch.tensor(hidden.numpy(), requires_grad=True)
    exec(imports + "\n" + make, theirs)
    out = theirs["out"]
    out.weight.data, out.bias.data = torch.tensor(layer.weight.numpy()), torch.tensor(layer.bias.numpy())
    exec(train + "\n" + decode, theirs)

    losses = layer.loss(hidden, targets, reduction="none").numpy()
    assert np.allclose(losses, theirs["losses"].detach().numpy(), rtol=1e-5, atol=1e-5)
    for ours, other in ((hidden, theirs["hidden"]), (layer.weight, out.weight), (layer.bias, out.bias)):
        assert np.allclose(mg.to_cpu(ours.grad), other.grad.numpy(), rtol=1e-4, atol=1e-5)
    assert np.allclose(layer.log_prob(hidden).numpy(), theirs["log_prob"].detach().numpy(), rtol=1e-4, atol=1e-4)
    ids, scores = map(mg.to_cpu, layer.topk(hidden, 1))
    best = theirs["log_prob"].detach().numpy()[range(4), theirs["best"].numpy()]
    assert np.allclose(scores[:, 0], best, rtol=1e-4, atol=1e-4)
    assert (ids[:, 0] == theirs["best"].numpy()).all()


@pytest.mark.oracle
def test_in_pytorch_the_trap_is_to_decide_bits_first_and_words_afterwards():
    torch = pytest.importorskip("torch")
    codes = torch.tensor(codes_of(16, 2), dtype=torch.float32)
    scores = 2 * codes[9:10] - 1
    scores[:, codes[9].nonzero()[:3, 0]] = -0.01  # three bits, of which the model is unsure, are wrong; t is 2
    near = ((scores > 0).float() != codes).sum(dim=1)
    assert near.argmin() != 9 == (scores @ codes.T).argmax()
