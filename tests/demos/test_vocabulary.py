"""Ids are frequency ranks, 0 is everything unknown, and no token is lost on the way."""

import numpy as np
import pytest
from _shared.errors import DemoError
from _shared.vocabulary import UNKNOWN, Tokens, Vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipgram

SENTENCES = [["the", "cat", "sat"], ["the", "dog", "sat"], ["the", "end"]]
texts = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=12), max_size=8)


def build(sentences, **limits):
    """The vocabulary of `sentences`, or None where fewer than two words remain."""
    try:
        return Vocabulary.from_sentences(sentences, **limits)
    except DemoError:
        return None


def test_ids_are_ranks_and_ties_are_alphabetical():
    vocabulary = Vocabulary.from_sentences(SENTENCES, min_count=1)
    assert vocabulary.words == [UNKNOWN, "the", "sat", "cat", "dog", "end"]
    assert vocabulary.counts.tolist() == [0, 3, 2, 1, 1, 1]
    assert vocabulary.counts.dtype == np.int64


def test_rare_words_are_counted_as_unknown():
    vocabulary = Vocabulary.from_sentences(SENTENCES, min_count=2)
    assert vocabulary.words == [UNKNOWN, "the", "sat"]
    assert vocabulary.counts.tolist() == [3, 3, 2]


def test_a_word_needs_five_occurrences_unless_told_otherwise():
    vocabulary = Vocabulary.from_sentences([["a"] * 6, ["b"] * 5, ["c"] * 4])
    assert vocabulary.words == [UNKNOWN, "a", "b"]


def test_max_size_counts_the_unknown_word():
    vocabulary = Vocabulary.from_sentences(SENTENCES, min_count=1, max_size=4)
    assert len(vocabulary) == 4
    assert vocabulary.words == [UNKNOWN, "the", "sat", "cat"]
    assert vocabulary.counts.tolist() == [2, 3, 2, 1]


def test_a_word_written_unk_is_unknown():
    vocabulary = Vocabulary.from_sentences([["a", UNKNOWN, "b"], ["a", UNKNOWN]], min_count=1)
    assert vocabulary.words == [UNKNOWN, "a", "b"]
    assert vocabulary.counts.tolist() == [2, 2, 1]
    assert vocabulary.id(UNKNOWN) == 0


def test_sentences_may_come_one_at_a_time():
    vocabulary = Vocabulary.from_sentences(iter(SENTENCES), min_count=2)
    tokens = vocabulary.encode(iter(SENTENCES))
    assert tokens.ids.tolist() == [1, 0, 2, 1, 0, 2, 1, 0]


def test_encoding_numbers_the_sentences():
    vocabulary = Vocabulary.from_sentences(SENTENCES, min_count=1)
    tokens = vocabulary.encode([["the", "dog"], [], ["bird"]])
    assert tokens.ids.tolist() == [1, 4, 0]
    assert tokens.sentence.tolist() == [0, 0, 2]
    assert tokens.ids.dtype == tokens.sentence.dtype == np.int32
    assert len(tokens) == 3


def test_encoding_nothing_gives_empty_arrays():
    tokens = Vocabulary.from_sentences(SENTENCES, min_count=1).encode([])
    assert len(tokens) == 0
    assert tokens.ids.dtype == tokens.sentence.dtype == np.int32


def test_ids_lead_to_words_and_back():
    vocabulary = Vocabulary.from_sentences(SENTENCES, min_count=1)
    assert [vocabulary.id(word) for word in vocabulary.words] == list(range(len(vocabulary)))
    assert vocabulary.id("bird") == 0


@settings(deadline=None)
@given(texts, st.integers(1, 4), st.none() | st.integers(3, 6))
def test_decoding_undoes_encoding_save_for_unknown_words(sentences, min_count, max_size):
    if vocabulary := build(sentences, min_count=min_count, max_size=max_size):
        decoded = [vocabulary.words[i] for i in vocabulary.encode(sentences).ids]
        flat = [word for sentence in sentences for word in sentence]
        assert decoded == [word if word in vocabulary.words else UNKNOWN for word in flat]


@settings(deadline=None)
@given(texts, st.integers(1, 4), st.none() | st.integers(3, 6))
def test_counts_are_those_of_the_encoded_text(sentences, min_count, max_size):
    if vocabulary := build(sentences, min_count=min_count, max_size=max_size):
        ids = vocabulary.encode(sentences).ids
        assert np.bincount(ids, minlength=len(vocabulary)).tolist() == vocabulary.counts.tolist()
        assert (np.diff(vocabulary.counts[1:]) <= 0).all()
        assert vocabulary.counts[-1] >= min_count


def test_min_count_below_one_is_an_error():
    with pytest.raises(DemoError, match=r"^expected min_count of at least 1, got 0$"):
        Vocabulary.from_sentences(SENTENCES, min_count=0)


@pytest.mark.parametrize("min_count, max_size, often", [(3, None, "only one"), (4, None, "none"), (1, 2, "only one")])
def test_a_vocabulary_of_one_word_is_an_error(min_count, max_size, often):
    with pytest.raises(DemoError) as error:
        Vocabulary.from_sentences(SENTENCES, min_count=min_count, max_size=max_size)
    remedy = "try a longer text" + ", or a smaller --min-count" * (min_count > 1)
    assert str(error.value) == (
        "a vocabulary needs two words to tell apart: of the 5 different words of the text (8 in all) "
        f"{often} is left with a count of {min_count} or more; {remedy}"
    )


def test_two_known_words_are_enough():
    assert len(Vocabulary.from_sentences(SENTENCES, min_count=2)) == 3


def test_tokens_cannot_be_replaced():
    tokens = Tokens(np.zeros(1, np.int32), np.zeros(1, np.int32))
    with pytest.raises(AttributeError):
        tokens.ids = None
