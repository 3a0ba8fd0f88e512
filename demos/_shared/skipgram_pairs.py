"""Which pairs does skip-gram learn from?  Every word with each neighbour: the centre predicts the context.

    n        tokens in the text
    f        relative frequency of a word: its count over all tokens
    t        subsampling threshold, 10⁻³ to 10⁻⁵
    w        window: how far from the centre a context may stand
    R        the window of one centre, drawn from 1, …, w

Frequent words are thinned out first.  Two formulas for it are published, and they differ:

    paper    a token is discarded with probability 1 − √(t/f), so kept with min(1, √(t/f))              (1)
             Mikolov et al., "Distributed Representations of Words and Phrases", NIPS 2013, equation 5
    code     kept with min(1, √(t/f) + t/f)                                                             (2)
             word2vec.c, by the same authors: it keeps more

Tokens are removed before windows are made, so that words on either side of a gap become neighbours.  Then tokens i and
j of one sentence make the pair (centre i, context j) if

    0 < |i − j| ≤ R_i,   hence with probability (w − |i − j| + 1)/w where R is drawn, surely where R = w     (3)

which gives near words the greater weight.  Cost: O(n·w) array operations in a loop of w steps, none over tokens.
"""

import numpy as np
from _shared.errors import DemoError
from _shared.vocabulary import Tokens

from minigrad import Key, to_cpu


def keep_probability(counts: np.ndarray, threshold: float | None, formula: str = "paper") -> np.ndarray:
    """Probability that a token of each word survives, (V,) float64; all ones if `threshold` is None or 0."""
    if formula not in ("paper", "code"):
        raise ValueError(f'expected formula "paper" or "code", got {formula!r}')
    if not threshold:
        return np.ones(len(counts))
    if not threshold > 0:
        raise DemoError(f"expected a subsampling threshold of 0 or more, got {threshold}")
    t_over_f = threshold * np.sum(counts) / np.maximum(counts, 1)  # (V,), a word that never occurs counts as one
    kept = np.sqrt(t_over_f)  # (1)
    if formula == "code":
        kept += t_over_f  # (2)
    return np.minimum(kept, 1.0)


def subsample(tokens: Tokens, keep_prob: np.ndarray, key: Key) -> Tokens:
    """The tokens that survive, each with the probability of its word.

    keep_prob: (V,) of `keep_probability`; with `keep_prob[0] = 0` no `<unk>` is left, as in word2vec.
    """
    survives = to_cpu(key.uniform(len(tokens))) < keep_prob[tokens.ids]  # (n,)
    return Tokens(tokens.ids[survives], tokens.sentence[survives])


def skipgram_pairs(tokens: Tokens, window: int, key: Key | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of one sentence no further apart than `window`, or than a random R of 1, …, `window` if given a key.

    Returns the ids of the centres and of the contexts, (pairs,) int32 each.  Order: distance 1, 2, …, `window`; at each
    distance the contexts to the right of their centre, in order of the text, then those to the left.  So neighbours in
    this order mostly have different centres, but near and far pairs are not mixed: shuffle to train.
    """
    if window < 1:
        raise DemoError(f"expected a window of at least 1, got {window}")
    ids, sentence = tokens.ids, tokens.sentence
    reach = np.full(len(ids), window) if key is None else to_cpu(key.integers(1, window + 1, len(ids)))  # R, (n,)
    centres, contexts = [], []
    for distance in range(1, window + 1):
        left = np.flatnonzero(sentence[:-distance] == sentence[distance:])
        right = left + distance
        if not left.size:
            break  # no sentence is so long
        for centre, context in ((left, right), (right, left)):
            near = reach[centre] >= distance  # (3)
            centres.append(ids[centre[near]])
            contexts.append(ids[context[near]])
    none = np.empty(0, np.int32)
    return np.concatenate([none, *centres]), np.concatenate([none, *contexts])
