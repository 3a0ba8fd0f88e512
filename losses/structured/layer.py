"""Structure: what classes, trees and codes have in common. A word is not a row of W, but several decisions.

A softmax looks at a row of W for each of V words. Here P(w | h) is a product of a few decisions, each with some rows of
its own: which class, and which word of it; left or right, at each node on a path; this bit, and the next. So a loss
needs the rows of the decisions that lead to the target and no others, and probabilities need not be divided by a sum
over V words: if every decision's add up to one and every outcome is a word, theirs do. (A code has numbers that are no
word's: `binary_code.py` (6).) Embedding prediction has no decisions at all, and shares only this class.

What a chapter says is `_losses` for training and `log_prob` for all words; what it can do faster than by looking at
all words, `log_prob_of` and `topk`, it overrides. A word's score is its log-probability.
"""

import minigrad as mg
from minigrad.backend import quiet, type_of_array, xp_of

from ..layer import OutputLayer, new_table


def by_frequency(counts: type_of_array) -> type_of_array:
    """The ids of all words, (V,) int64, the most frequent first, and among equals the first id."""
    return xp_of(counts).argsort(-counts, kind="stable")


class StructuredLayer(OutputLayer):
    """What the layers of structure share. counts, key, bias: see `OutputLayer`.

    A chapter makes its tables when it knows its structure: `self.weight, self.bias = self._table(0, num_rows)`, and
    names them in `tables`.
    """

    def _make_tables(self, key, bias):
        self._key, self._has_bias = key, bias

    def _table(self, number: int, num_rows: int, dim: int | None = None) -> tuple[mg.Tensor, mg.Tensor | None]:
        """A weight (num_rows, dim), and a bias if the layer has them. number: of the table, each has random numbers
        of its own."""
        return new_table(self._key.fold(number), num_rows, self.dim if dim is None else dim, self._has_bias)

    def loss(self, hidden, targets, *, key=None, reduction="mean"):
        """The loss for hidden (B, d) and targets (B,): a scalar, or (B,) with reduction="none". Needs no key."""
        hidden, targets = self._for_loss(hidden, targets)
        with quiet():  # scores that overflow are an error in `_reduced`
            losses = self._losses(hidden, targets)
        return self._reduced(losses, reduction, hidden)

    def raw_scores(self, hidden):
        raise TypeError(
            f"losses.{type(self).__name__}.raw_scores: a word has no row of its own here, and no score but its "
            "log-probability: see log_prob"
        )

    def scores(self, hidden):
        """log P(w | h), (B, V)."""
        return self.log_prob(hidden)

    def log_z(self, hidden):
        """0 for each context, (B,): the words' probabilities add up to one. (Those of codes do not.)"""
        hidden = self._checked(hidden)
        return mg.tensor(xp_of(hidden.data).zeros(len(hidden), hidden.dtype))

    # ---- what a chapter says: of what was checked ----

    def _losses(self, hidden: mg.Tensor, targets: type_of_array) -> mg.Tensor:
        """The loss of each example, (B,)."""
        raise TypeError(f"losses.{type(self).__name__} has no loss")

    def log_prob(self, hidden):
        """log P(w | h) of every word, (B, V), normalised."""
        raise TypeError(f"losses.{type(self).__name__} has no log_prob")
