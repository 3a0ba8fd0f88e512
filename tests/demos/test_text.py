"""Texts of any size become numbers piece by piece, and these are the numbers that the definition gives."""

import tempfile
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from _shared.corpus import load_corpus
from _shared.errors import DemoError
from _shared.text import read_text
from _shared.vocabulary import Vocabulary
from hypothesis import given
from hypothesis import strategies as st

BLANKS = ["\n", "\n\n", " ", "  ", "\r\n", "\t", "\u00a0", "\u3000", "\x0b", "\x1c", "\u2028"]
WORDS = ["the", "The", "cat", "cats", "ΟΔΟΣ", "İ", "naïve", "<unk>", "\ufeff", "\ufeffthe", "a\ufeff", "語", "x" * 40]
TEXTS = st.lists(st.sampled_from(WORDS) | st.sampled_from(BLANKS), max_size=40).map("".join)


@pytest.fixture(scope="module")
def file():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "text.txt")


def by_definition(path, min_count, max_size, limit_words):
    corpus = load_corpus(path, limit_words=limit_words)
    vocabulary = Vocabulary.from_sentences(corpus.sentences, min_count, max_size)
    return corpus, vocabulary, vocabulary.encode(corpus.sentences)


def outcome(function, *arguments, **options):
    """What it returns, or what it says against it."""
    try:
        return function(*arguments, **options), None
    except DemoError as error:
        return None, str(error)


@given(
    TEXTS,
    st.integers(1, 60),
    st.none() | st.integers(1, 12),
    st.integers(1, 3),
    st.none() | st.integers(0, 6),
)
def test_it_gives_what_the_definition_gives(file, text, piece, limit, min_count, max_size):
    file.write_bytes(text.encode())
    expected, said = outcome(by_definition, file, min_count, max_size, limit)
    found, also_said = outcome(read_text, file, min_count, max_size, limit, piece=piece)
    assert said == also_said
    if expected:
        corpus, vocabulary, tokens = expected
        assert found.vocabulary.words == vocabulary.words
        assert np.array_equal(found.vocabulary.counts, vocabulary.counts)
        assert np.array_equal(found.tokens.ids, tokens.ids) and found.tokens.ids.dtype == tokens.ids.dtype
        assert np.array_equal(found.tokens.sentence, tokens.sentence)
        assert found.tokens.sentence.dtype == tokens.sentence.dtype
        assert found.sha256 == corpus.sha256 and found.describe() == corpus.describe()


@given(
    TEXTS, st.sampled_from([b"\0", b"\xff", b"\xc3("]), st.integers(1, 60), st.none() | st.integers(1, 12), st.data()
)
def test_it_says_what_the_definition_says_of_a_byte_that_is_wrong(file, text, wrong, piece, limit, data):
    place = data.draw(st.integers(0, len(text)))
    file.write_bytes(text[:place].encode() + wrong + text[place:].encode())
    _, said = outcome(by_definition, file, 1, None, limit)
    _, also_said = outcome(read_text, file, 1, None, limit, piece=piece)
    assert said == also_said


def test_the_built_in_corpus_goes_the_same_way():
    corpus, vocabulary, tokens = by_definition(None, 5, None, 30_000)
    found = read_text(limit_words=30_000)
    assert found.vocabulary.words == vocabulary.words and np.array_equal(found.tokens.ids, tokens.ids)
    assert np.array_equal(found.tokens.sentence, tokens.sentence)
    assert found.sha256 == corpus.sha256 and found.describe() == corpus.describe()


@pytest.mark.parametrize("separator", [b"\n", b" "], ids=["a word a line", "one line"])
def test_memory_does_not_grow_with_the_file(tmp_path, separator):
    """4 MB, 800,000 words of which 1,000 differ, in pieces of 16 kB; a list of the words alone takes 6.4 MB."""
    words = separator.join(b"%04d" % (i * i % 1000) for i in range(1000)) + separator
    path = tmp_path / "large.txt"
    path.write_bytes(words * 800)
    tracemalloc.start()
    try:
        text = read_text(path, 1, piece=1 << 14)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(text.tokens) == 800_000 and peak < 8e6 * 0.25 + 4e6


def test_a_word_longer_than_many_pieces_is_one_word(tmp_path):
    (tmp_path / "long.txt").write_bytes(b"a " + b"b" * 100_000 + b" a")
    text = read_text(tmp_path / "long.txt", 1, piece=10)
    assert text.vocabulary.words == ["<unk>", "a", "b" * 100_000] and text.tokens.ids.tolist() == [1, 2, 1]


def test_progress_is_told_in_bytes_up_to_the_last(tmp_path):
    (tmp_path / "text.txt").write_text("a b c d\n" * 100)
    told = []
    read_text(tmp_path / "text.txt", 1, progress=lambda *numbers: told.append(numbers), piece=100)
    assert told[-1] == (800, 800) and len(told) > 5 and all(a < b for (a, _), (b, _) in pairwise(told))


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_of_no_words_is_refused(tmp_path, limit):
    with pytest.raises(DemoError, match=f"expected a limit of at least 1 word, got {limit}"):
        read_text(tmp_path, limit_words=limit)


def test_a_directory_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(DemoError, match="this is a directory"):
        read_text(tmp_path)
    with pytest.raises(DemoError, match="No such file"):
        read_text(tmp_path / "missing.txt")


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("a b\nb a\n")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    text = read_text(tmp_path / "text.txt", 1)
    assert text.tokens.ids.tolist() == [1, 2, 2, 1]
    del text
    assert not list((tmp_path / "scratch").iterdir())


def test_without_room_for_the_numbers_it_says_where_and_how_much(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("a b\nb a\n")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(DemoError, match=r"missing: .*expected room for 8 bytes for each word of the text.*TMPDIR"):
        read_text(tmp_path / "text.txt", 1)
