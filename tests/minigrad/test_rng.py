"""Threefry against its published answers, what the stream promises, and the statistics of what is drawn from it."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import backend, kernels
from minigrad.rng import threefry2x32, words

pytestmark = pytest.mark.engine

MASK = 0xFFFFFFFF

# Random123, tests/kat_vectors, threefry2x32, 20 rounds: counter, key, answer
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def block(key, number):
    """Words 2·number and 2·number + 1 of the stream, in Python's integers."""
    return threefry2x32(key, number & MASK, number >> 32, lambda x: x & MASK)


def keys():
    """Strategy: keys of any seed."""
    return st.integers(0, 2**64 - 1).map(mg.Key)


def within_six_sigma(mean, expected, variance, n):
    """Whether the mean of n independent numbers of this variance lies where a fair one would."""
    return abs(mean - expected) <= 6 * math.sqrt(variance / n)


# ---- equations (2) and (3) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("counter, key, answer", KNOWN_ANSWERS)
def test_python_integers_give_the_known_answers_of_random123(counter, key, answer):
    assert threefry2x32(key, *counter, lambda x: x & MASK) == answer


@pytest.mark.parametrize("counter, key, answer", KNOWN_ANSWERS)
def test_arrays_give_the_known_answers_of_random123(counter, key, answer):
    x0, x1 = (backend.xp().full(3, word, "uint32") for word in counter)
    y0, y1 = threefry2x32(key, x0, x1)
    assert y0.dtype == y1.dtype == "uint32"
    assert y0.tolist() == [answer[0]] * 3 and y1.tolist() == [answer[1]] * 3


@pytest.mark.parametrize("n", [0, 1, 2, 3, 31, 33, 1023, 1024, 1025, 2048, 5001])
@pytest.mark.parametrize("key", [(0, 0), (MASK, MASK), (0x13198A2E, 0x03707344)])
def test_the_kernel_fills_in_what_the_array_code_computes_to_the_last_bit(n, key):
    out = np.zeros(n, "uint32")
    kernels.threefry_words(*key, out)
    assert (out == mg.to_cpu(words(key, n))).all()


# ---- equation (1): word i is a function of the key and of i alone ------------------------------------------------


@given(keys(), st.integers(0, 30))
def test_word_i_is_half_of_block_i_over_2(key, i):
    assert words(key.pair, 31)[i] == block(key.pair, i // 2)[i % 2]


@given(keys(), st.integers(0, 40), st.integers(0, 40))
def test_any_part_of_a_stream_can_be_computed_on_its_own(key, start, n):
    assert words(key.pair, n, start=start).tolist() == words(key.pair, start + n)[start:].tolist()


def test_a_part_beyond_the_first_2_to_the_32_blocks_can_be_too():
    key, start = mg.Key(5).pair, 2 * (3 << 32) + 1
    expected = [*block(key, 3 << 32), *block(key, (3 << 32) + 1)][1:]
    assert words(key, 3, start=start).tolist() == expected


@given(keys(), st.integers(0, 2100), st.integers(0, 2100))
def test_a_longer_draw_begins_with_the_shorter_one(key, n, m):
    short, long = sorted((n, m))
    assert (key.bits(long)[:short] == key.bits(short)).all(), "whichever of them the kernel made"


@given(keys())
def test_a_shape_only_folds_the_stream_up(key):
    assert key.bits((2, 3, 2)).ravel().tolist() == key.bits(12).tolist()
    assert key.bits(()) == key.bits(1)[0]
    assert key.bits((0, 3)).shape == (0, 3)


def test_the_same_key_draws_the_same_numbers_however_often_it_is_asked():
    key = mg.Key(7)
    first = key.uniform(5).tolist()
    key.normal(100)
    assert key.uniform(5).tolist() == first == mg.Key(7).uniform(5).tolist()


def test_the_stream_never_changes():
    """Pinned: results that somebody has published must come out again."""
    key = mg.Key(42)
    assert mg.Key(0).bits(4).tolist() == [0x6B200159, 0x99BA4EFE, 0x508EFB2C, 0xC0DE3F32]
    assert mg.Key(2**63 + 5).fold(1, 2).pair == (3321532685, 3776028568)
    assert key.uniform(2).tolist() == [0.4267275333404541, 0.06302016973495483]
    assert key.uniform(2, "float64").tolist() == [0.42672756361231334, 0.10015824296670306]
    assert key.integers(-3, 1000, 4).tolist() == [425, 97, 194, 389]
    assert key.permutation(6).tolist() == [1, 2, 3, 0, 5, 4]
    expected = [0.3483481576167961, -0.3565752008926509]
    assert np.allclose(mg.to_cpu(key.normal(2, "float64")), expected, rtol=1e-14), "but for rounding of log and cos"


def test_neighbouring_seeds_have_nothing_in_common():
    n = 100_000
    a, b = mg.Key(1).uniform(n, "float64") - 0.5, mg.Key(2).uniform(n, "float64") - 0.5
    assert within_six_sigma((a * b).mean(), 0.0, 1 / 144, n)


def test_high_and_low_half_of_a_seed_both_count():
    assert len({mg.Key(seed) for seed in (0, 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1)}) == 6


# ---- fold: a key for each purpose -------------------------------------------------------------------------------


def test_different_numbers_give_different_keys():
    key = mg.Key(0)
    folded = [key.fold(i) for i in range(1000)] + [key.fold(i, j) for i in range(30) for j in range(30)]
    assert len({key, *folded}) == 1 + len(folded)


def test_numbers_that_agree_in_32_bits_give_different_keys():
    key = mg.Key(0)
    assert len({key.fold(n) for n in (1, 1 + 2**32, 1 + 2**33, 1 + 2**62)}) == 4


def test_the_order_of_the_numbers_matters():
    assert mg.Key(0).fold(1, 2) != mg.Key(0).fold(2, 1)


@given(keys(), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_folding_two_numbers_is_folding_one_after_the_other(key, a, b):
    assert key.fold(a, b) == key.fold(a).fold(b)
    assert hash(key.fold(a, b)) == hash(key.fold(a).fold(b))


def test_folding_nothing_gives_an_equal_key():
    assert mg.Key(3).fold() == mg.Key(3)


def test_a_key_equals_keys_only():
    assert mg.Key(3) == mg.Key(3) != mg.Key(4)
    assert mg.Key(3) != (0, 3)


def test_numpy_integers_fold_and_seed_like_plain_ones():
    assert mg.Key(np.int64(3)).fold(np.int64(4), np.uint8(5)) == mg.Key(3).fold(4, 5)


def test_fold_calls_no_array_function(monkeypatch):
    monkeypatch.setattr(backend, "xp", lambda: pytest.fail("fold asked for the library of arrays"))
    assert all(type(word) is int for word in mg.Key(0).fold(1, np.int64(2)).pair)


def test_folding_never_meets_draws():
    """Keys of fold(j) are blocks 2⁶³ + j; no draw comes so far, and none of the first keys is among the first draws."""
    key = mg.Key(0)
    drawn = {tuple(pair) for pair in key.bits((2000, 2)).tolist()}
    assert drawn.isdisjoint(key.fold(j).pair for j in range(2000))
    assert [key.fold(j).pair for j in (0, 9, 2**40)] == [block(key.pair, 2**63 + j) for j in (0, 9, 2**40)]


def test_draws_of_folded_keys_are_independent():
    n = 100_000
    a, b = (mg.Key(0).fold(i).uniform(n, "float64") - 0.5 for i in (0, 1))
    assert within_six_sigma((a * b).mean(), 0.0, 1 / 144, n)


def test_a_key_travels_to_another_process():
    assert pickle.loads(pickle.dumps(mg.Key(9).fold(1))) == mg.Key(9).fold(1)


def test_a_key_shows_its_two_words():
    assert repr(mg.Key(2**32 + 255)) == "Key(0x00000001, 0x000000ff)"


# ---- uniform ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, digits", [("float32", 24), ("float64", 53)])
@given(key=keys(), n=st.integers(1, 50))
def test_uniform_numbers_are_multiples_of_two_to_the_minus_24_or_53_in_0_to_1(dtype, digits, key, n):
    u = mg.to_cpu(key.uniform(n, dtype))
    assert u.dtype == dtype and u.shape == (n,)
    assert (0 <= u).all() and (u < 1).all()
    steps = u.astype("float64") * 2.0**digits
    assert (steps == np.floor(steps)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_word_gives_the_largest_number_below_1(dtype, monkeypatch):
    monkeypatch.setattr(mg.Key, "bits", lambda self, shape: backend.xp().full(shape, MASK, "uint32"))
    assert mg.Key(0).uniform((2,), dtype).tolist() == [float(np.nextafter(np.ones((), dtype), 0))] * 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_single_uniform_number_keeps_its_type(dtype):
    u = mg.Key(0).uniform((), dtype)
    assert u.shape == () and u.dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mean_and_variance_of_uniform_numbers(dtype):
    n = 100_000
    centred = mg.Key(1).uniform(n, dtype).astype("float64") - 0.5
    assert within_six_sigma(centred.mean(), 0.0, 1 / 12, n)
    assert within_six_sigma((centred**2).mean(), 1 / 12, 1 / 180, n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lag", [1, 2, 1000])
def test_a_uniform_number_says_nothing_of_those_after_it(dtype, lag):
    n = 100_000
    centred = mg.Key(2).uniform(n + lag, dtype).astype("float64") - 0.5
    assert within_six_sigma((centred[lag:] * centred[:-lag]).mean(), 0.0, 1 / 144, n)


@pytest.mark.parametrize("dtype, digits", [("float32", 24), ("float64", 53)])
def test_every_binary_digit_is_one_half_the_time(dtype, digits):
    n = 20_000
    u = mg.to_cpu(mg.Key(3).uniform(n, dtype)).astype("float64")
    for digit in range(1, digits + 1):
        assert within_six_sigma((np.floor(u * 2.0**digit) % 2).mean(), 0.5, 0.25, n), f"digit {digit}"


# ---- integers, normal, permutation ------------------------------------------------------------------------------


@given(keys(), st.integers(-(2**62), 2**62), st.integers(1, 2**52), st.integers(0, 20))
def test_integers_lie_in_their_range(key, low, count, n):
    drawn = key.integers(low, low + count, n)
    assert drawn.dtype == "int64" and drawn.shape == (n,)
    assert (low <= drawn).all() and (drawn < low + count).all()


@pytest.mark.parametrize("low, high", [(0, 2), (-3, 4), (10, 27)])
def test_every_integer_is_drawn_as_often(low, high):
    n, p = 70_000, 1 / (high - low)
    counts = np.bincount(mg.to_cpu(mg.Key(4).integers(low, high, n)) - low, minlength=high - low)
    assert len(counts) == high - low
    for count in counts:
        assert within_six_sigma(count / n, p, p * (1 - p), n)


def test_of_a_wide_range_even_and_odd_integers_are_drawn_as_often():
    n = 20_000
    assert within_six_sigma((mg.Key(8).integers(0, 2**52, n) % 2).mean(), 0.5, 0.25, n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_moments_of_normal_numbers_are_0_1_0_3(dtype):
    n = 100_000
    z = mg.Key(5).normal(n, dtype)
    assert z.dtype == dtype
    z = z.astype("float64")
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):  # E z²ᵖ − (E zᵖ)²
        assert within_six_sigma((z**power).mean(), expected, variance, n), f"E z^{power}"


def test_one_normal_number_in_22_lies_beyond_2():
    n, p = 100_000, math.erfc(2 / math.sqrt(2))  # 0.0455
    z = mg.Key(6).normal(n)
    assert within_six_sigma((abs(z) > 2).mean(), p, p * (1 - p), n)
    assert within_six_sigma((z > 2).mean(), p / 2, p / 2 * (1 - p / 2), n)


def test_a_normal_number_says_nothing_of_the_next():
    n = 100_000
    z = mg.Key(7).normal(n + 1, "float64")
    assert within_six_sigma((z[1:] * z[:-1]).mean(), 0.0, 1.0, n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("word", [0, MASK])
def test_normal_numbers_are_finite_at_both_ends_of_the_uniform_ones(dtype, word, monkeypatch):
    monkeypatch.setattr(mg.Key, "bits", lambda self, shape: backend.xp().full(shape, word, "uint32"))
    assert np.isfinite(mg.to_cpu(mg.Key(0).normal(2, dtype))).all()


@given(keys(), st.integers(0, 50))
def test_a_permutation_has_every_number_once(key, n):
    assert sorted(key.permutation(n).tolist()) == list(range(n))


def test_every_order_of_three_is_as_likely():
    n, p = 3000, 1 / 6
    orders = [tuple(mg.Key(i).permutation(3).tolist()) for i in range(n)]
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        assert within_six_sigma(orders.count(order) / n, p, p * (1 - p), n)


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: mg.Key(-1), ValueError, r"minigrad.Key: seed must lie in \[0, 2\*\*64\), got -1"),
        (lambda: mg.Key(2**64), ValueError, r"seed must lie in \[0, 2\*\*64\), got 18446744073709551616"),
        (lambda: mg.Key(1.0), TypeError, r"minigrad.Key: seed must be an integer, got float"),
        (lambda: mg.Key(True), TypeError, r"seed must be an integer, got bool"),
        (lambda: mg.Key(np.bool_(True)), TypeError, r"seed must be an integer, got bool"),
        (lambda: mg.Key("7"), TypeError, r"seed must be an integer, got str"),
        (lambda: mg.Key(None), TypeError, r"seed must be an integer, got NoneType"),
        (lambda: mg.Key(0).fold(-1), ValueError, r"minigrad.Key.fold: number must lie in \[0, 2\*\*63\), got -1"),
        (lambda: mg.Key(0).fold(0, 2**63), ValueError, r"number must lie in \[0, 2\*\*63\), got 9223372036854775808"),
        (lambda: mg.Key(0).fold(1.5), TypeError, r"minigrad.Key.fold: number must be an integer, got float"),
        (lambda: mg.Key(0).fold(False), TypeError, r"number must be an integer, got bool"),
        (lambda: mg.Key(0).uniform(2, "float16"), TypeError, r'dtype must be "float32" or "float64", got \'float16\''),
        (lambda: mg.Key(0).normal(2, "int64"), TypeError, r'dtype must be "float32" or "float64", got \'int64\''),
        (lambda: mg.Key(0).integers(3, 3), ValueError, r"low < high <= low \+ 2\*\*52, got 3 and 3"),
        (lambda: mg.Key(0).integers(4, 3), ValueError, r"low < high <= low \+ 2\*\*52, got 4 and 3"),
        (lambda: mg.Key(0).integers(0, 2**52 + 1), ValueError, r"got 0 and 4503599627370497"),
        (
            lambda: mg.Key(0).integers(2**63, 2**63 + 2),
            ValueError,
            r"low < high <= low \+ 2\*\*52, got 9223372036854775808",
        ),
        (
            lambda: mg.Key(0).integers(0, 5.5, 3),
            TypeError,
            r"minigrad.Key.integers: high must be an integer, got float 5.5",
        ),
        (lambda: mg.Key(0).bits(-1), ValueError, r"minigrad.Key: shape must be at least 0, got -1"),
        (lambda: mg.Key(0).permutation(-1), ValueError, r"minigrad.Key.permutation: n must be at least 0, got -1"),
    ],
)
def test_what_is_no_seed_number_or_range_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
