"""What stands before which word: by the definition, sentence by sentence, and by slices of all of them."""

import numpy as np
import pytest
from _shared.ngrams import ngrams
from _shared.vocabulary import Tokens
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.nn1m

BOUNDARY = 9
sentences = st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=6), max_size=5)


def tokens_of(sentences, numbers=None):
    """The sentences as `Tokens`; their numbers are 0, 1, …, or those given, with gaps."""
    numbers = range(len(sentences)) if numbers is None else numbers
    ids = [word for sentence in sentences for word in sentence]
    of_each = [number for number, sentence in zip(numbers, sentences, strict=True) for _ in sentence]
    return Tokens(np.array(ids, np.int32), np.array(of_each, np.int32))


def by_definition(sentences, order, boundary):
    """The words of each sentence, and its end, with the `order` words before."""
    contexts, targets = [], []
    for sentence in sentences:
        laid = [boundary] * order + sentence + [boundary]
        for i in range(order, len(laid)):
            contexts.append(laid[i - order : i])
            targets.append(laid[i])
    return np.array(contexts, np.int64).reshape(-1, order), np.array(targets, np.int64)


def test_the_example_of_the_docstring():
    contexts, targets = ngrams(tokens_of([[0, 1, 2], [3, 4]]), 2, boundary=9)
    assert contexts.tolist() == [[9, 9], [9, 0], [0, 1], [1, 2], [9, 9], [9, 3], [3, 4]]
    assert targets.tolist() == [0, 1, 2, 9, 3, 4, 9]


@given(sentences, st.integers(1, 4))
def test_each_word_and_each_end_has_the_words_of_its_own_sentence_before_it(sentences, order):
    for found, wanted in zip(
        ngrams(tokens_of(sentences), order, BOUNDARY), by_definition(sentences, order, BOUNDARY), strict=True
    ):
        assert found.dtype == np.int64 and np.array_equal(found, wanted)


@given(sentences, st.integers(1, 3))
def test_sentences_may_be_missing_between_others(sentences, order):
    """As they are where every so many have been held out."""
    gaps = ngrams(tokens_of(sentences, numbers=range(3, 3 + 7 * len(sentences), 7)), order, BOUNDARY)
    whole = ngrams(tokens_of(sentences), order, BOUNDARY)
    assert all(np.array_equal(a, b) for a, b in zip(gaps, whole, strict=True))


@given(sentences, st.integers(1, 4))
def test_there_are_as_many_as_words_and_sentences(sentences, order):
    contexts, targets = ngrams(tokens_of(sentences), order, BOUNDARY)
    assert contexts.shape == (len(targets), order)
    assert len(targets) == sum(map(len, sentences)) + len(sentences)
