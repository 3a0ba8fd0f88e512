"""How does a text become numbers if it is larger than memory?  In one pass, a piece of the file at a time.

The definition is three lines, and holds every word of the text in memory, twice over:

    corpus = load_corpus(path)
    vocabulary = Vocabulary.from_sentences(corpus.sentences, min_count)
    tokens = vocabulary.encode(corpus.sentences)

`read_text` gives the same, and holds the different words only.  A word's rank is known when all have been counted, so
that there seem to be two passes; but a word can be numbered when it first comes, and the numbers be exchanged for
ranks at the end:

    number[w] = how many different words came before the first w                     while reading        (1)
    count     = how often each number was given: a bincount, piece by piece                               (2)
    id        = rank[number], an array look-up                                       at the end, in place (3)

The numbers, 4 bytes a word, and those of the sentences, 4 more, go to a temporary file that has no name and
vanishes with the arrays that show it, whatever happens. Cost: a split, a look-up in a dictionary and a share of a hash
for each word; the file is read once.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from _shared.corpus import OnProgress, builtin_name, builtin_sentences, no_words, not_text
from _shared.errors import DemoError
from _shared.vocabulary import Tokens, Vocabulary

PIECE = 1 << 20  # bytes read at once


@dataclass(frozen=True, eq=False)
class Text:
    """A text in numbers, and what a result must quote to be repeated: how many words, and which."""

    name: str
    vocabulary: Vocabulary = field(repr=False)
    tokens: Tokens = field(repr=False)
    sha256: str  # of the text: tokens joined by spaces, sentences by newlines

    def describe(self) -> str:
        sentences = self.tokens.sentence[-1] + 1
        return f"{self.name}: {len(self.tokens):,} words, {sentences:,} sentences, sha256 {self.sha256[:12]}"


class Numbers(dict):
    """word -> how many different words came before it: whoever asks for a new word gives it the next number.  (1)"""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


# %% All of it
def read_text(
    path: str | Path | None = None,
    min_count: int = 5,
    max_size: int | None = None,
    limit_words: int | None = None,
    progress: OnProgress = None,
    piece: int = PIECE,
) -> Text:
    """The file at `path`, or the built-in corpus; given `limit_words`, whole sentences until there are so many.

    `progress(done, total)` is told bytes of the file, or files of the built-in corpus. Raises DemoError for what is no
    text, and if there is no room for the numbers.
    """
    if limit_words is not None and limit_words < 1:
        raise DemoError(f"expected a limit of at least 1 word, got {limit_words}")
    if path is None:
        name, pieces = builtin_name(), iter([[*builtin_sentences(limit_words, progress), []]])
    else:
        name, pieces = Path(path).name, _lines_in_pieces(Path(path), piece, progress)
    numbers, counts, digest = Numbers(), np.zeros(0, np.int64), hashlib.sha256()
    words = sentences = in_line = 0  # so far; in_line: those of the line that is not at its end
    with _room() as ids_file, _room() as sentence_file:
        for lines in pieces:
            lengths = np.fromiter(map(len, lines), np.int64, len(lines))
            through = words + np.cumsum(lengths)  # words to the end of each line
            enough = limit_words is not None and (last := np.searchsorted(through, limit_words)) < len(lines) - 1
            if enough:  # by the end of a line that is whole
                lines, lengths = lines[: last + 1] + [[]], np.append(lengths[: last + 1], 0)
            digest.update(_joined(lines, in_line, words).encode())
            ids = np.fromiter(map(numbers.__getitem__, chain.from_iterable(lines)), np.int32, lengths.sum())
            lengths[0] += in_line
            ended = sentences + np.cumsum(lengths[:-1] > 0)  # sentences to the end of each line but the last
            sentence = np.repeat(np.r_[sentences, ended].astype(np.int32), np.r_[lengths[0] - in_line, lengths[1:]])
            counts = np.bincount(ids, minlength=len(numbers)) + np.pad(counts, (0, len(numbers) - len(counts)))  # (2)
            _keep(ids_file, ids)
            _keep(sentence_file, sentence)
            words, in_line = words + len(ids), int(lengths[-1])
            sentences = int(ended[-1]) if len(ended) else sentences
            if enough:
                break
        if not words:
            raise DemoError(no_words(path))
        vocabulary = Vocabulary.from_counts(dict(zip(numbers, counts.tolist(), strict=True)), min_count, max_size)
        rank = np.fromiter(map(vocabulary.id, numbers), np.int32, len(numbers))
        tokens = Tokens(_shown(ids_file), _shown(sentence_file))
    for begin in range(0, words, PIECE):
        here = slice(begin, begin + PIECE)
        tokens.ids[here] = rank[tokens.ids[here]]  # (3)
    return Text(name, vocabulary, tokens, digest.hexdigest())


def _joined(lines: list[list[str]], in_line: int, words: int) -> str:
    """The next part of the text whose hash is taken, with what separates it from the part before."""
    said = "\n".join(" ".join(line) for line in lines if line)
    separator = "" if not words else " " if in_line and lines[0] else "\n"
    return separator + said if said else ""


# %% The file
def _lines_in_pieces(path: Path, piece: int, progress: OnProgress) -> Iterator[list[list[str]]]:
    """The words of the lines in one piece of the file after the other. Each begins in the line where the last ended."""
    offset, line, inside = 0, 1, False  # of the piece in the file; inside a line?
    try:
        if path.is_dir():
            raise DemoError(f"{not_text(path)}; this is a directory")
        total = path.stat().st_size
        for part in _parts(path, piece):
            fault = None
            try:
                if (nul := part.find(0)) >= 0:
                    fault = nul, "is NUL: a binary file, or UTF-16"
                text = part[:nul].decode() if fault else part.decode()
            except UnicodeDecodeError as error:
                fault = error.start, f"is 0x{part[error.start]:02x}, not UTF-8: try iconv -f LATIN1 -t UTF-8"
            if fault:  # the lines before may be all that is wanted
                text = part[: part.rfind(b"\n", 0, fault[0]) + 1].decode()
            lines = text.lower().split("\n")
            if "\ufeff" in text:  # the byte order mark
                lines = [each if i == 0 and inside else each.removeprefix("\ufeff") for i, each in enumerate(lines)]
            yield [each.split() for each in lines]
            if fault:
                place, number = offset + fault[0], line + part.count(b"\n", 0, fault[0])
                raise DemoError(f"{not_text(path)}; byte {place} (line {number}) {fault[1]}")
            offset, line, inside = offset + len(part), line + part.count(b"\n"), not part.endswith(b"\n")
            if progress:
                progress(offset, max(total, offset))
    except OSError as error:
        raise DemoError(f"{not_text(path)}; {error.strerror or error}") from None  # no such file, permission denied


def _parts(path: Path, piece: int) -> Iterator[bytes]:
    """The bytes of a file, cut behind a newline or a space, so never within a word."""
    begun: list[bytes] = []
    with path.open("rb") as file:
        while part := file.read(piece):
            cut = max(part.rfind(b"\n"), part.rfind(b" ")) + 1
            if cut:
                yield b"".join([*begun, part[:cut]])
                begun = []
            begun.append(part[cut:])
    if any(begun):
        yield b"".join(begun)


# %% Room for the numbers
def _room():
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise _no_room(error) from None


def _keep(file, array: np.ndarray) -> None:
    try:
        left = memoryview(array).cast("B") if len(array) else b""
        while len(left):
            left = left[file.write(left) :]
    except OSError as error:
        raise _no_room(error) from None


def _shown(file) -> np.ndarray:
    """The numbers in a file as an array, which is read and written where it lies."""
    return np.memmap(file, np.int32, "r+").view(np.ndarray)


def _no_room(error: OSError) -> DemoError:
    wanted = "8 bytes for each word of the text; the variable TMPDIR names another folder"
    return DemoError(f"{tempfile.gettempdir()}: {error.strerror or error}: expected room for {wanted}")
