"""Which number is a word?  Its rank: id 1 is the most frequent word, id 0 is `<unk>`, whatever is too rare to learn.

Rank order costs nothing and pays three times: "the frequent words" are a slice, a sampler after Zipf's law needs no
table, and the head of an adaptive softmax is a prefix.

    V       words in the vocabulary, `<unk>` among them
    n       tokens in the text
    counts  (V,) how often each id occurs; they add up to n
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from _shared.errors import DemoError

UNKNOWN = "<unk>"


@dataclass(frozen=True, eq=False)
class Tokens:
    """A text as two flat arrays: what stands at each place, and in which sentence that is."""

    ids: np.ndarray  # (n,) int32
    sentence: np.ndarray  # (n,) int32, never falling

    def __len__(self) -> int:
        return len(self.ids)


class Vocabulary:
    """Words by falling count, ties alphabetically, `<unk>` before them all; `counts` is (V,) int64."""

    def __init__(self, words: list[str], counts: np.ndarray) -> None:
        self.words, self.counts = words, counts
        self._ids = {word: rank for rank, word in enumerate(words)}

    @classmethod
    def from_sentences(
        cls, sentences: Iterable[Sequence[str]], min_count: int = 5, max_size: int | None = None
    ) -> "Vocabulary":
        """The words that occur `min_count` times or more, at most `max_size` of them with `<unk>` among these."""
        return cls.from_counts(Counter(chain.from_iterable(sentences)), min_count, max_size)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 5, max_size: int | None = None) -> "Vocabulary":
        """The same from word -> how often it occurs."""
        if min_count < 1:
            raise DemoError(f"expected min_count of at least 1, got {min_count}")
        total = sum(counts.values())
        known = ((word, count) for word, count in counts.items() if word != UNKNOWN)  # a text may have it
        ranked = sorted((-count, word) for word, count in known if count >= min_count)
        ranked = ranked if max_size is None else ranked[: max(max_size - 1, 0)]
        if len(ranked) < 2:
            different, often = len(counts) - (UNKNOWN in counts), ["none", "only one"][len(ranked)]
            raise DemoError(
                f"a vocabulary needs two words to tell apart: of the {different:,} different words of the text "
                f"({total:,} in all) {often} is left with a count of {min_count} or more; "
                f"try a longer text{', or a smaller --min-count' if min_count > 1 else ''}"
            )
        known = [-count for count, _ in ranked]
        return cls([UNKNOWN, *(word for _, word in ranked)], np.array([total - sum(known), *known], np.int64))

    def __len__(self) -> int:
        return len(self.words)

    def id(self, word: str) -> int:
        """The rank of `word`; 0 if it is unknown."""
        return self._ids.get(word, 0)

    def encode(self, sentences: Iterable[Sequence[str]]) -> Tokens:
        """The ids of all tokens, 0 for unknown words; sentences are numbered from 0."""
        sentences = list(sentences)
        lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
        ids = np.fromiter(map(self.id, chain.from_iterable(sentences)), np.int32, lengths.sum())
        return Tokens(ids, np.repeat(np.arange(len(sentences), dtype=np.int32), lengths))
