"""What does an n-gram model predict?  Each word from the words before it, and where a sentence ends.

    tokens = [the cat sat] [so what]        ids; `|`, the boundary, is an id that no word has
    order  = 2, the number of words before

    contexts   | |   | the   the cat   cat sat   | |   | so   so what
    targets    the   cat     sat       |         so    what   |

The sentences are laid one behind the other with `order` boundaries before each: then what stands before a word is a
slice, whatever sentence it is in, and the first boundary behind a sentence is what is to be predicted at its end.
"""

import numpy as np
from _shared.vocabulary import Tokens


def ngrams(tokens: Tokens, order: int, boundary: int) -> tuple[np.ndarray, np.ndarray]:
    """Contexts (N, order), the oldest word first, and targets (N,), int64: N is all words, and one end a sentence."""
    rank = np.cumsum(np.diff(tokens.sentence, prepend=tokens.sentence[:1]) != 0)  # 0, 0, 1, 1, 1, …
    sentences = int(rank[-1]) + 1 if len(rank) else 0
    at = np.arange(len(tokens)) + order * (rank + 1)  # where each word is laid
    laid = np.full(len(tokens) + order * (sentences + 1), boundary, np.int64)
    laid[at] = tokens.ids
    ends = at[np.flatnonzero(np.diff(rank, append=sentences))] + 1
    predicted = np.sort(np.concatenate([at, ends]))
    return laid[predicted[:, None] + np.arange(-order, 0)], laid[predicted]
