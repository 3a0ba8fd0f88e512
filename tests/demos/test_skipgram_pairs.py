"""Pairs against a double loop, subsampling against both published formulas."""

import numpy as np
import pytest
from _shared.errors import DemoError
from _shared.skipgram_pairs import keep_probability, skipgram_pairs, subsample
from _shared.vocabulary import Tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import Key

pytestmark = pytest.mark.skipgram

texts = st.lists(st.lists(st.integers(0, 4), max_size=9), max_size=6)
windows = st.integers(1, 12)


def tokens_of(sentences):
    ids = [word for sentence in sentences for word in sentence]
    places = [number for number, sentence in enumerate(sentences) for _ in sentence]
    return Tokens(np.array(ids, np.int32), np.array(places, np.int32))


def pairs_by_double_loop(sentences, reach):
    """(centre, context) of all i ≠ j in one sentence with |i − j| ≤ reach of i; reach: an iterator over the tokens."""
    pairs = []
    for sentence in sentences:
        for i, centre in enumerate(sentence):
            r = next(reach)
            for j, context in enumerate(sentence):
                if i != j and abs(i - j) <= r:
                    pairs.append((centre, context))
    return pairs


def as_pairs(arrays):
    return list(zip(*(array.tolist() for array in arrays), strict=True))


def six_sigma(n, p):
    return 6 * np.sqrt(n * p * (1 - p))


# pairs


@settings(deadline=None)
@given(texts, windows)
def test_pairs_are_those_of_the_double_loop(sentences, window):
    pairs = as_pairs(skipgram_pairs(tokens_of(sentences), window))
    reach = iter([window] * 100)
    assert sorted(pairs) == sorted(pairs_by_double_loop(sentences, reach))


@settings(deadline=None)
@given(texts, windows, st.integers(0, 1000))
def test_with_a_key_each_centre_has_a_window_of_its_own(sentences, window, seed):
    tokens = tokens_of(sentences)
    pairs = as_pairs(skipgram_pairs(tokens, window, Key(seed)))
    reach = iter(Key(seed).integers(1, window + 1, len(tokens)).tolist())
    assert sorted(pairs) == sorted(pairs_by_double_loop(sentences, reach))


def test_a_window_of_one_pairs_neighbours_only():
    pairs = as_pairs(skipgram_pairs(tokens_of([[7, 8, 9]]), window=1))
    assert sorted(pairs) == [(7, 8), (8, 7), (8, 9), (9, 8)]


def test_no_pair_reaches_into_another_sentence():
    pairs = as_pairs(skipgram_pairs(tokens_of([[1, 2], [3, 4]]), window=5))
    assert sorted(pairs) == [(1, 2), (2, 1), (3, 4), (4, 3)]


def test_a_repeated_word_is_its_own_context_but_a_token_is_not():
    assert as_pairs(skipgram_pairs(tokens_of([[5, 5]]), window=2)) == [(5, 5), (5, 5)]
    assert as_pairs(skipgram_pairs(tokens_of([[5], [5]]), window=2)) == []


def test_pairs_are_ordered_by_distance_then_direction_then_place():
    pairs = as_pairs(skipgram_pairs(tokens_of([[1, 2, 3]]), window=2))
    right, left = [(1, 2), (2, 3)], [(2, 1), (3, 2)]
    assert pairs == right + left + [(1, 3), (3, 1)]


def test_a_window_may_be_wider_than_every_sentence():
    wide = as_pairs(skipgram_pairs(tokens_of([[1, 2, 3], [4, 5]]), window=10**9))
    assert wide == as_pairs(skipgram_pairs(tokens_of([[1, 2, 3], [4, 5]]), window=2))


@pytest.mark.parametrize("sentences", [[], [[1]], [[1], [2]]])
@pytest.mark.parametrize("key", [None, Key(0)])
def test_words_alone_make_no_pairs(sentences, key):
    centres, contexts = skipgram_pairs(tokens_of(sentences), 3, key)
    assert centres.shape == contexts.shape == (0,)
    assert centres.dtype == contexts.dtype == np.int32


def test_pairs_are_int32():
    centres, contexts = skipgram_pairs(tokens_of([[1, 2, 3]]), 2)
    assert centres.dtype == contexts.dtype == np.int32


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_pair_at_distance_o_is_kept_with_probability_w_minus_o_plus_1_over_w(window, direction):
    n = 20_000
    tokens = Tokens(np.arange(n, dtype=np.int32), np.zeros(n, np.int32))  # a word says where it stands
    centres, contexts = skipgram_pairs(tokens, window, Key(3))
    for o in range(1, window + 1):
        p = (window - o + 1) / window
        kept = np.sum(contexts - centres == direction * o)
        assert abs(kept - (n - o) * p) <= six_sigma(n - o, p)
    assert np.abs(contexts - centres).max() == window


def test_the_same_key_draws_the_same_windows():
    tokens = tokens_of([list(range(100))])
    again = as_pairs(skipgram_pairs(tokens, 5, Key(1)))
    assert as_pairs(skipgram_pairs(tokens, 5, Key(1))) == again
    assert as_pairs(skipgram_pairs(tokens, 5, Key(2))) != again


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_below_one_is_an_error(window):
    with pytest.raises(DemoError, match=rf"^expected a window of at least 1, got {window}$"):
        skipgram_pairs(tokens_of([[1, 2]]), window)


# subsampling: f = 0.01, 0.09, 0.9 and t = 0.0009

COUNTS = np.array([10, 90, 900])


def test_the_papers_keep_probability_by_hand():
    kept = keep_probability(COUNTS, 0.0009, "paper")
    np.testing.assert_allclose(kept, [0.3, 0.1, 0.001**0.5], rtol=1e-12)


def test_the_codes_keep_probability_by_hand():
    kept = keep_probability(COUNTS, 0.0009, "code")
    np.testing.assert_allclose(kept, [0.3 + 0.09, 0.1 + 0.01, 0.001**0.5 + 0.001], rtol=1e-12)


def test_the_paper_is_the_default():
    assert (keep_probability(COUNTS, 0.0009) == keep_probability(COUNTS, 0.0009, "paper")).all()


@pytest.mark.parametrize("formula, always_kept", [("paper", 1.0), ("code", 0.3819660112501051)])
def test_where_thinning_begins(formula, always_kept):
    """√x = 1 at x = t/f = 1; √x + x = 1 at x = (3 − √5)/2."""
    counts = np.array([500, 500])
    below, above = (keep_probability(counts, 0.5 * always_kept * e, formula)[0] for e in (1 - 1e-6, 1 + 1e-6))
    assert below < 1
    assert above == 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=20), st.floats(1e-6, 1), st.sampled_from(["paper", "code"]))
def test_a_more_frequent_word_is_never_kept_more_often(counts, threshold, formula):
    counts = np.sort(counts)
    kept = keep_probability(counts, threshold, formula)
    assert kept.shape == counts.shape
    assert kept.dtype == np.float64
    assert ((kept >= 0) & (kept <= 1)).all()
    assert (np.diff(kept) <= 0).all() or counts.sum() == 0


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=20), st.floats(1e-6, 1))
def test_the_code_keeps_more_than_the_paper(counts, threshold):
    paper, code = (keep_probability(np.array(counts), threshold, formula) for formula in ("paper", "code"))
    assert ((code > paper) | (paper == 1)).all()


@pytest.mark.parametrize("formula, once", [("paper", 0.1**0.5), ("code", 0.1**0.5 + 0.1)])
def test_a_word_that_never_occurs_is_thinned_like_a_word_that_occurs_once(formula, once):
    kept = keep_probability(np.array([0, 1, 99]), 1e-3, formula)
    np.testing.assert_allclose(kept[:2], [once, once], rtol=1e-12)


@pytest.mark.parametrize("threshold", [None, 0, 0.0])
def test_without_a_threshold_everything_is_kept(threshold):
    assert keep_probability(COUNTS, threshold).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("threshold", [-1e-5, float("nan")])
def test_a_negative_threshold_is_an_error(threshold):
    with pytest.raises(DemoError, match=rf"^expected a subsampling threshold of 0 or more, got {threshold}$"):
        keep_probability(COUNTS, threshold)


def test_an_unknown_formula_is_an_error():
    with pytest.raises(ValueError, match=r'^expected formula "paper" or "code", got \'papre\'$'):
        keep_probability(COUNTS, 1e-3, "papre")


@pytest.mark.parametrize("formula", ["paper", "code"])
def test_each_word_survives_as_often_as_its_probability_says(formula):
    counts = np.array([1_000, 9_000, 40_000])
    tokens = Tokens(np.repeat(np.arange(3, dtype=np.int32), counts), np.zeros(counts.sum(), np.int32))
    keep = keep_probability(counts, 0.01, formula)
    survived = np.bincount(subsample(tokens, keep, Key(5)).ids, minlength=3)
    assert (np.abs(survived - counts * keep) <= six_sigma(counts, keep)).all()


@settings(deadline=None)
@given(texts, st.lists(st.sampled_from([0.0, 1.0]), min_size=5, max_size=5), st.integers(0, 1000))
def test_survivors_keep_their_order_and_their_sentence(sentences, keep, seed):
    tokens = tokens_of(sentences)
    survivors = subsample(tokens, np.array(keep), Key(seed))
    both = zip(tokens.ids.tolist(), tokens.sentence.tolist(), strict=True)
    expected = [(word, sentence) for word, sentence in both if keep[word]]
    assert list(zip(survivors.ids.tolist(), survivors.sentence.tolist(), strict=True)) == expected
    assert survivors.ids.dtype == survivors.sentence.dtype == np.int32


def test_words_on_either_side_of_a_gap_become_neighbours():
    tokens = subsample(tokens_of([[1, 0, 2], [0, 1]]), np.array([0.0, 1.0, 1.0]), Key(0))
    assert sorted(as_pairs(skipgram_pairs(tokens, window=1))) == [(1, 2), (2, 1)]


def test_the_same_key_keeps_the_same_tokens():
    tokens = tokens_of([[0] * 200])
    sizes = [len(subsample(tokens, np.array([0.5]), Key(seed))) for seed in (1, 1, 2, 3, 4)]
    assert sizes[0] == sizes[1]
    assert len(set(sizes)) > 1
