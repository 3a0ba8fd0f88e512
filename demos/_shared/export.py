"""Word vectors as files that other programs read, and the words nearest to a word.

`V` words, `d` dimensions; `vectors[i]` belongs to `words[i]`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from _shared.report import atomic_write


def write_word2vec(path: str | Path, words: Sequence[str], vectors: np.ndarray) -> None:
    """Write word2vec's text format: a line `V d`, then a line `word v₁ … v_d` for each word.

    gensim reads it with `KeyedVectors.load_word2vec_format(path)`, float32 for float32. Raises ValueError naming the
    word that is empty, has white space in it, comes twice or has a vector that is not finite.
    """
    vectors = _checked(words, vectors)
    with atomic_write(path) as file:
        file.write("{} {}\n".format(*vectors.shape))
        for word, numbers in zip(words, _lines(vectors, " "), strict=True):
            file.write(f"{word} {numbers}\n")


def write_projector(
    vectors_path: str | Path, metadata_path: str | Path, words: Sequence[str], vectors: np.ndarray
) -> None:
    """Write the two files that projector.tensorflow.org loads: a vector a line, tabs between; and a word a line.

    Neither has a header. Raises ValueError as `write_word2vec` does.
    """
    vectors = _checked(words, vectors)
    with atomic_write(vectors_path) as vectors_file, atomic_write(metadata_path) as metadata_file:
        vectors_file.writelines(line + "\n" for line in _lines(vectors, "\t"))
        metadata_file.writelines(word + "\n" for word in words)


def _lines(vectors: np.ndarray, separator: str) -> Iterator[str]:
    pattern = separator.join(["%.9g"] * vectors.shape[1])  # nine digits tell any two float32 numbers apart
    return (pattern % tuple(row) for row in vectors.tolist())


def _checked(words: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)  # (V, d)
    if vectors.ndim != 2 or len(vectors) != len(words):
        raise ValueError(f"{len(words)} words need vectors of shape ({len(words)}, d), not {vectors.shape}")
    seen = set()
    for word, finite in zip(words, np.isfinite(vectors).all(axis=1), strict=True):
        if word.split() != [word]:
            raise ValueError(f"the word {word!r} is empty or has white space in it: the format cannot hold it")
        if word in seen:
            raise ValueError(f"the word {word!r} comes twice")
        if not finite:
            raise ValueError(f"the vector of {word!r} is not finite")
        seen.add(word)
    return vectors


def nearest_neighbours(vectors: np.ndarray, ids: Sequence[int], k: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return the k words nearest to each of `ids` by cosine, nearest first, and the cosines: both (len(ids), k).

        cos(u, v) = u·v / |u||v|,  and 0 where u or v is the zero vector

    The word itself is left out. There are V − 1 others, so k is at most that. Of equal cosines the lower id comes
    first. O(len(ids) · V (d + log V)).
    """
    vectors, ids = np.asarray(vectors), np.asarray(ids, dtype=np.int64).reshape(-1)
    vocab_size = len(vectors)
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise IndexError(f"ids must lie in 0 … {vocab_size - 1}")
    norms = np.sqrt(np.einsum("vd,vd->v", vectors, vectors, dtype=np.float64))  # (V,)
    units = vectors / np.where(norms > 0, norms, 1)[:, None]  # (V, d)
    cosines = np.clip(units[ids] @ units.T, -1, 1)  # (n, V)
    cosines[np.arange(len(ids)), ids] = -np.inf
    neighbours = np.argsort(-cosines, axis=1, kind="stable")[:, : min(k, vocab_size - 1)]  # (n, k)
    return neighbours, np.take_along_axis(cosines, neighbours, axis=1)
