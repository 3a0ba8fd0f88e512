"""A text comes in whole or with an error that says where it breaks; the built-in corpus is prose and never changes."""

import hashlib
import os
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from _shared import corpus
from _shared.corpus import builtin_sentences, load_corpus, prose, read_sentences
from _shared.errors import DemoError

pytestmark = pytest.mark.skipgram


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def english(docstring):
    return [" ".join(sentence) for sentence in prose(textwrap.dedent(docstring).strip())]


def error_of(call, *args, **kwargs):
    with pytest.raises(DemoError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# a file


def test_a_line_is_a_sentence_and_white_space_parts_its_tokens(tmp_path):
    path = written(tmp_path / "a.txt", "The cat , sat .\n\n \t\nA  dog\tran\u00a0off\n")
    assert read_sentences(path) == [["the", "cat", ",", "sat", "."], ["a", "dog", "ran", "off"]]


def test_case_is_kept_on_demand(tmp_path):
    path = written(tmp_path / "a.txt", "Ärger in Bonn\n")
    assert read_sentences(path, lower=False) == [["Ärger", "in", "Bonn"]]
    assert read_sentences(path) == [["ärger", "in", "bonn"]]


def test_the_last_line_needs_no_end_and_windows_ends_are_ends(tmp_path):
    path = written(tmp_path / "a.txt", b"one two\r\nthree")
    assert read_sentences(path) == [["one", "two"], ["three"]]


def test_a_byte_order_mark_is_no_word(tmp_path):
    path = written(tmp_path / "a.txt", b"\xef\xbb\xbfone two\n")
    assert read_sentences(str(path)) == [["one", "two"]]


def test_a_limit_takes_whole_sentences_until_it_is_reached(tmp_path):
    path = written(tmp_path / "a.txt", "a b\nc d\ne f\n")
    assert read_sentences(path, limit_words=1) == [["a", "b"]]
    assert read_sentences(path, limit_words=2) == [["a", "b"]]
    assert read_sentences(path, limit_words=3) == [["a", "b"], ["c", "d"]]
    assert read_sentences(path, limit_words=99) == [["a", "b"], ["c", "d"], ["e", "f"]]


def test_what_lies_behind_the_limit_is_not_read(tmp_path):
    path = written(tmp_path / "a.txt", b"a b\n\xff\n")
    assert read_sentences(path, limit_words=2) == [["a", "b"]]


def test_a_limit_below_one_is_an_error(tmp_path):
    path = written(tmp_path / "a.txt", "a b\n")
    assert error_of(read_sentences, path, limit_words=0) == "expected a limit of at least 1 word, got 0"


def test_a_missing_file_is_an_error(tmp_path):
    path = tmp_path / "none.txt"
    expected = f"{path}: expected UTF-8 text, one sentence a line; No such file or directory"
    assert error_of(read_sentences, path) == expected


def test_a_directory_is_an_error(tmp_path):
    expected = f"{tmp_path}: expected UTF-8 text, one sentence a line; this is a directory"
    assert error_of(read_sentences, tmp_path) == expected


@pytest.mark.parametrize("content", [b"", b" \n\n\t\n", b"\xef\xbb\xbf"])
def test_a_file_without_words_is_an_error(tmp_path, content):
    path = written(tmp_path / "a.txt", content)
    expected = f"{path}: expected UTF-8 text, one sentence a line; there are no words in it"
    assert error_of(read_sentences, path) == expected


def test_text_that_is_not_utf8_is_an_error_that_says_where_and_what_to_do(tmp_path):
    path = written(tmp_path / "a.txt", "naïve\ncafé\n".encode("latin-1"))
    written(tmp_path / "b.txt", b"\xc3\xa9ne\ntwo\ncaf\xe9\n")
    assert "; byte 2 (line 1) is 0xef, not UTF-8: try iconv -f LATIN1 -t UTF-8" in error_of(read_sentences, path)
    assert error_of(read_sentences, tmp_path / "b.txt") == (
        f"{tmp_path / 'b.txt'}: expected UTF-8 text, one sentence a line;"
        " byte 12 (line 3) is 0xe9, not UTF-8: try iconv -f LATIN1 -t UTF-8"
    )


def test_a_binary_file_is_an_error_that_says_where(tmp_path):
    path = written(tmp_path / "a.txt", b"one\ntw\0o\n")
    assert error_of(read_sentences, path) == (
        f"{path}: expected UTF-8 text, one sentence a line; byte 6 (line 2) is NUL: a binary file, or UTF-16"
    )


def test_utf16_is_taken_for_what_it_is(tmp_path):
    path = written(tmp_path / "a.txt", "one two\n".encode("utf-16"))
    assert "is NUL: a binary file, or UTF-16" in error_of(read_sentences, path)


def test_a_file_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    path = written(tmp_path / "a.txt", "a b\n")
    monkeypatch.setattr(Path, "open", forbidden)
    assert error_of(read_sentences, path).endswith("one sentence a line; Permission denied")


# what is prose


def test_sentences_end_at_a_stop_and_at_a_blank_line():
    assert english(
        """
        One stop. Two stops! "Three stops?" Four
        stops; five stops

        and a blank line.
        """
    ) == ["one stop", "two stops", "three stops", "four stops", "five stops", "and a blank line"]


def test_a_stop_inside_a_word_ends_nothing():
    assert english("Call os.path, e.g. here, i.e. now.") == ["call os path eg here ie now"]


def test_words_keep_their_apostrophe_and_numbers_become_one_token():
    assert english("It's 'quoted': 1,000 or 3.14 or 7.") == ["it's quoted <num> or <num> or <num>"]


def test_one_word_is_no_sentence():
    assert english("Parameters. Two words. None.") == ["two words"]


def test_doctests_are_left_out_with_their_output():
    assert english(
        """
            Before the example.

            >>> for word in text:
            ...     print(word)
            some output
            and more

            After the example.
            >>> close()
            """
    ) == ["before the example", "after the example"]


def test_code_below_a_double_colon_is_left_out():
    assert english(
        """
            Write it thus::

                then do this
              and that

                or that

            and go on.
                With this.
            """
    ) == ["write it thus", "and go on", "with this"]


def test_code_that_looks_like_code_is_left_out():
    assert english("Some prose here.\n\n   x[i] = f(a, b) + {c: d}\n   return x") == ["some prose here"]


def test_code_named_in_a_sentence_stays():
    assert english("The call ``f(x)`` gives a `list` of numbers.") == ["the call f x gives a list of numbers"]


def test_rules_tables_grammars_and_directives_are_left_out():
    assert english(
        """
            A heading
            =========
            +-----+-----+
            | one cell of a table that takes up very much room |
            +-----+-----+
            one word     two words     three words
            stmt ::= this or that
            .. versionadded:: 1.2
            The end.
            """
    ) == ["a heading", "the end"]


def test_bullets_and_items_part_sentences_and_their_lines_hang_together():
    assert english(
        """
            * first point
              goes on
            * second point
            3) third point
            axis : int, optional
                Which axis
                to take
            copy -- make a copy
            move -- make a move
            """
    ) == [
        "first point goes on",
        "second point",
        "third point",
        "axis int optional",
        "which axis to take",
        "copy make a copy",
        "move make a move",
    ]


def test_the_role_of_a_reference_is_no_word():
    assert english("See :class:`Tensor` and :py:func:`take`.") == ["see tensor and take"]


# which docstrings


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """A small "standard library" and "NumPy", and a cache of their own."""
    roots = (tmp_path / "lib", tmp_path / "numpy")
    written(roots[0] / "b.py", '"""Module b."""')
    written(roots[0] / "a.py", '"""Module a."""\ndef f():\n    """Function f."""')
    written(roots[0] / "c" / "a.py", '"""Module a."""\n"""No docstring."""')
    written(roots[1] / "__init__.py", '"""Numpy itself."""')
    monkeypatch.setattr(corpus, "ROOTS", roots)
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    return roots


def builtin():
    return [" ".join(sentence) for sentence in builtin_sentences()]


ALL = ["module a", "function f", "module b", "numpy itself"]


def test_docstrings_come_in_the_order_of_the_files_and_once_each(roots):
    assert builtin() == ALL


def test_the_order_is_not_that_of_the_file_system(roots, monkeypatch):
    for name in "def":
        written(roots[0] / name / "a.py", f'"""Module {name}."""')
    walk = os.walk

    def backwards(root):
        for folder, subfolders, names in walk(root):
            subfolders.sort(reverse=True)
            yield folder, subfolders, sorted(names, reverse=True)

    expected = ["module a", "function f", "module b", "module d", "module e", "module f", "numpy itself"]
    monkeypatch.setattr(os, "walk", backwards)
    assert builtin() == expected


@pytest.mark.parametrize("folder", ["test", "tests", "idlelib/idle_test", "site-packages/mine", "__pycache__"])
def test_tests_and_other_peoples_packages_are_left_out(roots, folder):
    written(roots[0] / folder / "x.py", '"""Left out."""')
    assert builtin() == ALL


def test_a_file_that_is_not_python_is_left_out(roots):
    written(roots[0] / "bad.py", '"""Bad syntax."""\nprint "hello"')
    written(roots[0] / "nul.py", b'"""A nul."""\0')
    written(roots[0] / "notes.txt", '"""Not Python."""')
    written(roots[0] / "latin.py", b'"""Caf\xe9 au lait."""')
    assert builtin() == ALL


def test_an_old_escape_in_a_source_is_no_warning(roots):
    written(roots[0] / "z.py", '"""Old escape."""\nx = "\\d"')
    assert "old escape" in builtin()


def test_docstrings_are_found_wherever_statements_are(tmp_path):
    path = written(
        tmp_path / "a.py",
        """
try:
    class C:
        "Class C."
        async def f(self):
            "Method f."
            def g():
                "Inner g."
except ImportError:
    def f():
        "Handler f."
else:
    x = "no docstring"
""",
    )
    assert set(corpus._docstrings(path)) == {"", "Class C.", "Method f.", "Inner g.", "Handler f."}


def test_what_numpy_hands_to_add_newdoc_is_a_docstring(tmp_path):
    path = written(tmp_path / "a.py", 'add_newdoc("numpy", "array", ("sort", """\n    Sort it.\n    """))\nf("a\\nb")')
    assert list(corpus._docstrings(path)) == ["", "Sort it."]


def test_the_topics_of_pydoc_are_the_values_of_their_dict(tmp_path):
    path = written(tmp_path / "pydoc_data" / "topics.py", "topics = {'if': 'The if '\n 'statement', 'for': 'Loops.'}")
    other = written(tmp_path / "mine" / "topics.py", "topics = {'if': 'The if statement'}")
    assert list(corpus._docstrings(path)) == ["", "The if statement", "Loops."]
    assert list(corpus._docstrings(other)) == [""]


def test_no_sources_is_an_error_that_says_what_to_do(roots, monkeypatch, tmp_path):
    monkeypatch.setattr(corpus, "ROOTS", (tmp_path / "x", tmp_path / "y"))
    expected = f"no docstrings under {tmp_path / 'x'} or {tmp_path / 'y'}: name a text of yours with --corpus FILE"
    assert error_of(builtin_sentences) == expected


def test_progress_counts_the_files_and_a_cache_spares_them(roots):
    told = []
    builtin_sentences(progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    builtin_sentences(progress=lambda done, total: told.append((done, total)))
    assert len(told) == 4


# the cache


def cache_file(tmp_path):
    (file,) = (tmp_path / "cache" / "minigrad").iterdir()
    return file


def test_the_cache_begins_with_a_hash_and_goes_on_with_the_sentences(roots, tmp_path):
    builtin()
    first, *rest = cache_file(tmp_path).read_text("utf-8").split("\n")
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    assert rest == ALL


def test_the_cache_is_used(roots):
    builtin()
    written(roots[0] / "a.py", '"""Something else."""')
    assert builtin() == ALL


@pytest.mark.parametrize(
    "damage",
    [
        lambda old: old[:-3],
        lambda old: old.replace(b"numpy", b"numpf"),
        lambda old: b"",
        lambda old: b"\xff" + old,
        lambda old: old.replace(b"\n", b"", 1),
    ],
)
def test_a_damaged_cache_is_rebuilt(roots, tmp_path, damage):
    builtin()
    sound = cache_file(tmp_path).read_bytes()
    cache_file(tmp_path).write_bytes(damage(sound))
    assert builtin() == ALL
    assert cache_file(tmp_path).read_bytes() == sound


def test_a_cache_that_cannot_be_written_is_no_obstacle(roots, tmp_path, monkeypatch):
    written(tmp_path / "file", "not a folder")
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "file"))
    assert builtin() == builtin() == ALL


def test_a_folder_in_the_place_of_the_cache_is_no_obstacle(roots, tmp_path):
    builtin()
    file = cache_file(tmp_path)
    file.unlink()
    file.mkdir()
    assert builtin() == ALL
    assert cache_file(tmp_path) == file  # and nothing else is left behind


def test_a_user_without_a_home_has_no_cache(roots, tmp_path, monkeypatch):
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does then
    monkeypatch.chdir(tmp_path)
    assert builtin() == ALL
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("name, value", [("RULES", 99), ("PYTHON", "3.99.0")])
def test_other_rules_or_another_python_have_another_cache(roots, monkeypatch, name, value):
    builtin()
    written(roots[0] / "b.py", '"""Module b2 now."""')
    monkeypatch.setattr(corpus, name, value)
    assert builtin() == ["module a", "function f", "module b <num> now", "numpy itself"]


def test_another_numpy_has_another_cache(roots, monkeypatch):
    builtin()
    written(roots[0] / "b.py", '"""Another module."""')
    monkeypatch.setattr(np, "__version__", "99.0")
    assert "another module" in builtin()


def test_another_place_does_not_share_the_cache(roots, monkeypatch, tmp_path):
    builtin()
    written(tmp_path / "lib2" / "a.py", '"""Another place."""')
    monkeypatch.setattr(corpus, "ROOTS", (tmp_path / "lib2", roots[1]))
    assert builtin() == ["another place", "numpy itself"]


@pytest.mark.parametrize("platform, variable", [("linux", "XDG_CACHE_HOME"), ("win32", "LOCALAPPDATA")])
def test_each_platform_has_its_cache_folder(roots, monkeypatch, tmp_path, platform, variable):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    builtin()
    assert [file.name[:7] for file in (tmp_path / "own" / "minigrad").iterdir()] == ["corpus-"]


# the corpus as a whole


def test_a_corpus_of_a_file_says_what_it_is(tmp_path):
    loaded = load_corpus(written(tmp_path / "mine.txt", "A b\n\nC d e\n"))
    digest = hashlib.sha256(b"a b\nc d e").hexdigest()
    assert (loaded.name, loaded.num_words, loaded.sha256) == ("mine.txt", 5, digest)
    assert loaded.sentences == [["a", "b"], ["c", "d", "e"]]
    assert loaded.describe() == f"mine.txt: 5 words, 2 sentences, sha256 {digest[:12]}"
    assert "'a'" not in repr(loaded)


def test_the_limit_reaches_both_kinds_of_corpus(roots, tmp_path):
    assert load_corpus(written(tmp_path / "mine.txt", "a b\nc d\n"), limit_words=2).sentences == [["a", "b"]]
    assert load_corpus(limit_words=3).sentences == [["module", "a"], ["function", "f"]]


@pytest.fixture(scope="module")
def cold_and_warm(tmp_path_factory):
    """The real built-in corpus, from the sources and then from the cache, and the modules known before."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            monkeypatch.setenv(variable, str(tmp_path_factory.mktemp("cache")))
        before = set(sys.modules)
        yield load_corpus(), load_corpus(), set(sys.modules) - before


def test_the_builtin_corpus_is_half_a_million_words(cold_and_warm):
    cold, _, _ = cold_and_warm
    assert 300_000 < cold.num_words < 1_000_000
    assert cold.num_words == sum(map(len, cold.sentences))
    assert re.fullmatch(r"docstrings of Python 3\.\S+ and NumPy 2\.\S+: [\d,]+ words, .*", cold.describe())


def test_the_builtin_corpus_is_the_same_from_the_cache(cold_and_warm):
    cold, warm, _ = cold_and_warm
    assert cold.sentences == warm.sentences
    assert cold.sha256 == warm.sha256


def test_the_builtin_corpus_is_read_not_imported(cold_and_warm):
    _, _, imported = cold_and_warm
    assert not imported & {"this", "antigravity", "turtledemo", "pydoc_data", "pydoc_data.topics", "numpy.f2py"}


def test_the_builtin_corpus_is_words_of_english(cold_and_warm):
    cold, _, _ = cold_and_warm
    token = re.compile(r"[a-z]+('[a-z]+)?|<num>")
    assert all(token.fullmatch(word) for word in {word for sentence in cold.sentences for word in sentence})
    assert min(map(len, cold.sentences)) == 2
    assert {"the", "array", "file", "polynomial", "statement"} <= {w for sentence in cold.sentences for w in sentence}
