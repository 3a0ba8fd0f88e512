"""Where do the sentences come from?  A file of yours, or English that every machine already has.

The built-in corpus is the docstrings of Python's standard library and of NumPy, and the language reference behind
`help()`, `pydoc_data.topics`: some half a million words, read from the sources with `ast`, never imported.
"""

import ast
import hashlib
import math
import os
import re
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import cleandoc
from pathlib import Path

import numpy as np
from _shared.errors import DemoError

OnProgress = Callable[[int, int], None] | None  # is told (done, total)
PYTHON = sys.version.split()[0]
ROOTS = (Path(sysconfig.get_path("stdlib")), Path(np.__file__).parent)
LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
RULES = 1  # the version of the rules below, part of the cache's key: count it up when one changes

BULLET = re.compile(r"\s*(?:[-*+•]|\[?\d+[.)\]]|\.\. \[\w+\])\s+")  # "* word", "1. word", ".. [1] word"
ITEM = re.compile(r"\s*[\w.*,() ]+ (?::|--?) |\s*\S*[\w)]\s{2,}\S")  # "axis : int, optional", "f() -- what f does"
NO_PROSE = re.compile(r"^\W*$|^\s*\||\S\s{3,}\S.*\S\s{3,}\S|::=|^\s*\.\. [\w-]+::")  # rule, table, grammar, directive
LITERAL = re.compile(r"^(?!\s*\.\. ).*::\s*$|^\s*\.\. (?:code|code-block|math|plot|ipython|parsed-literal)::")
CODE = re.compile(r"[=\[\]{}<>|\\^~@#%&$+]|\w\(|\s[-*/]\s")
ROLE = re.compile(r":[a-z:]+:(?=`)")  # the ":class:" of ":class:`Tensor`"
SENTENCE_END = re.compile(r"[.?!;]+[\"'`*)\]]*\s+")
WORD = re.compile(r"(\d+(?:[.,]\d+)*)|[a-z]+(?:'[a-z]+)?")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sentences, and what a result must quote to be repeated: how many words, and which."""

    name: str
    sentences: list[list[str]] = field(repr=False)
    num_words: int
    sha256: str  # of the text: tokens joined by spaces, sentences by newlines

    def describe(self) -> str:
        return f"{self.name}: {self.num_words:,} words, {len(self.sentences):,} sentences, sha256 {self.sha256[:12]}"


def load_corpus(path: str | Path | None = None, limit_words: int | None = None, progress: OnProgress = None) -> Corpus:
    """The file at `path`, or the built-in corpus; given `limit_words`, whole sentences until there are so many."""
    if path is None:
        name, sentences = builtin_name(), builtin_sentences(limit_words, progress)
    else:
        name, sentences = Path(path).name, read_sentences(path, limit_words=limit_words)
    return Corpus(name, sentences, sum(map(len, sentences)), _sha256("\n".join(map(" ".join, sentences))))


def builtin_name() -> str:
    return f"docstrings of Python {PYTHON} and NumPy {np.__version__}"


def not_text(path: str | Path) -> str:
    return f"{path}: expected UTF-8 text, one sentence a line"


def no_words(path: str | Path | None) -> str:
    if path is None:
        return f"no docstrings under {ROOTS[0]} or {ROOTS[1]}: name a text of yours with --corpus FILE"
    return f"{not_text(path)}; there are no words in it"


def read_sentences(path: str | Path, lower: bool = True, limit_words: int | None = None) -> list[list[str]]:
    """The sentences of a UTF-8 text: one a line, tokens between white space, in lower case unless `lower=False`."""
    return _until(limit_words, _lines(Path(path), lower), no_words(path))


def builtin_sentences(limit_words: int | None = None, progress: OnProgress = None) -> list[list[str]]:
    """The built-in corpus, the same every time; `progress` counts the files read, unless a cache spares them."""
    nothing = no_words(None)
    version = f"python{PYTHON}-numpy{np.__version__}-rules{RULES}"
    text = _from_cache(version)
    if text is None and limit_words is not None:
        return _until(limit_words, _extracted(progress), nothing)  # a part needs no cache
    if text is None:
        text = "\n".join(map(" ".join, _extracted(progress)))
        _to_cache(version, text)
    return _until(limit_words, map(str.split, text.splitlines()), nothing)


def _extracted(progress: OnProgress) -> Iterator[list[str]]:
    """The sentences of all docstrings, each docstring once, read from the sources as they are asked for."""
    files, seen = [file for root in ROOTS for file in _sources(root)], set()
    for done, file in enumerate(files, start=1):
        for docstring in _docstrings(file):
            if docstring not in seen:
                seen.add(docstring)
                yield from prose(docstring)
        if progress:
            progress(done, len(files))


def prose(docstring: str) -> Iterator[list[str]]:
    """The English in a docstring: sentences of at least two words, numbers as `<num>`; no doctests, code or tables."""
    for block in _blocks(docstring):
        if len(CODE.findall(block)) > 0.05 * len(block):
            continue
        block = ROLE.sub("", block).replace("e.g.", "eg").replace("i.e.", "ie").lower()
        for sentence in SENTENCE_END.split(block):
            words = ["<num>" if word[1] else word[0] for word in WORD.finditer(sentence)]
            if len(words) >= 2:
                yield words


def _blocks(docstring: str) -> Iterator[str]:
    """Runs of lines that belong together; a blank line, a bullet, an item or another indentation starts a new one."""
    block, indent, doctest, literal = [], 0, False, math.inf
    for line in [*docstring.splitlines(), ""]:
        own = len(line) - len(line.lstrip())
        doctest = bool(line.strip()) and (doctest or line.lstrip().startswith(">>>"))  # up to the blank line
        if line.strip() and own <= literal:
            literal = own if LITERAL.search(line) else math.inf
        skip = doctest or own > literal or NO_PROSE.search(line)  # literal: the code below a "::" stands further right
        bullet = BULLET.match(line)
        own = bullet.end() if bullet else own
        if block and (skip or bullet or own != indent or ITEM.match(line)):
            yield " ".join(block)
            block = []
        if not skip:
            block.append(line[own:].rstrip())
        indent = own


def _sources(root: Path) -> Iterator[Path]:
    """The .py files under `root`, without the tests, in alphabetical order, a folder's files before its subfolders."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - LEFT_OUT)
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _docstrings(file: Path) -> Iterator[str]:
    """The documentation in one file of Python; none if it does not parse."""
    try:
        with warnings.catch_warnings(action="ignore"):  # an old "\d" in somebody else's source
            nodes: list[ast.AST] = [ast.parse(file.read_bytes())]
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in nodes:  # which grows on the way, by statements only: most of a tree is expressions
        nodes += (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
        elif isinstance(node, ast.Expr) and getattr(getattr(node.value, "func", None), "id", "") == "add_newdoc":
            texts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))  # how NumPy documents C
            yield from (cleandoc(text) for text in texts if isinstance(text, str) and "\n" in text)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and file.match("pydoc_data/topics.py"):
            yield from ast.literal_eval(node.value).values()


def _lines(path: Path, lower: bool) -> Iterator[list[str]]:
    """The lines of `path` that have words; bytes first, so that an error can say where."""
    wanted, offset = not_text(path), 0  # offset: of the line in the file
    try:
        if path.is_dir():
            raise DemoError(f"{wanted}; this is a directory")
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if (nul := line.find(0)) >= 0:
                    raise DemoError(f"{wanted}; byte {offset + nul} (line {number}) is NUL: a binary file, or UTF-16")
                text = line.decode().removeprefix("\ufeff")  # the byte order mark
                if tokens := (text.lower() if lower else text).split():
                    yield tokens
                offset += len(line)
    except UnicodeDecodeError as error:
        where = f"byte {offset + error.start} (line {number}) is 0x{line[error.start]:02x}"
        raise DemoError(f"{wanted}; {where}, not UTF-8: try iconv -f LATIN1 -t UTF-8") from None
    except OSError as error:
        raise DemoError(f"{wanted}; {error.strerror or error}") from None  # no such file, permission denied


def _until(limit_words: int | None, sentences: Iterable[list[str]], nothing: str) -> list[list[str]]:
    """Whole sentences until there are `limit_words` words; all of them without a limit; the error `nothing` if none."""
    if limit_words is not None and limit_words < 1:
        raise DemoError(f"expected a limit of at least 1 word, got {limit_words}")
    taken, words = [], 0
    for sentence in sentences:
        taken.append([sys.intern(word) for word in sentence])  # a word is stored once, however often it occurs
        words += len(sentence)
        if limit_words is not None and words >= limit_words:
            break
    if not taken:
        raise DemoError(nothing)
    return taken


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _cache(version: str) -> Path:
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    home = os.path.expanduser("~/.cache")  # noqa: PTH111, which raises where there is no home
    return Path(os.environ.get(variable) or home, "minigrad", f"corpus-{version}.txt")


def _from_cache(version: str) -> str | None:
    """What was extracted the last time; None if it isn't there, or damaged."""
    with suppress(OSError, ValueError):
        digest, _, text = _cache(version).read_text("utf-8").partition("\n")
        if digest == _sha256(f"{ROOTS}{text}"):
            return text
    return None


def _to_cache(version: str, text: str) -> None:
    """Whole or not at all; a cache that is forbidden is no obstacle."""
    cache = _cache(version)
    with suppress(OSError):
        cache.parent.mkdir(parents=cache.is_absolute(), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:
            whole = Path(scratch, cache.name)
            whole.write_text(f"{_sha256(f'{ROOTS}{text}')}\n{text}", "utf-8")
            whole.replace(cache)
