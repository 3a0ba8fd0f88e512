"""Noise: what the sampled losses share. Each looks at the target and at noise, words drawn from q, not at all words.

What differs between the chapters is a pure function of the scores of target and noise. What they have in common:

    drawing     k words for each example, or one set of words that the whole batch shares: then their scores are one
                matrix product, (B, d) by (d, m), and B + m rows of W are gathered instead of B (k + 1)
    log counts  how often each word was to be expected among the noise, log(k q(w)) if the words are drawn
                independently; all that a loss may have to know of its sampler

Legend: B examples in a batch, V words, d dimensions, k noise words an example, m columns of noise scores.
"""

from typing import Any, NamedTuple

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import read, type_of_array, xp_of
from minigrad.ids import note_range, placed_ids

from ..layer import OutputLayer, ScoreCost
from ..samplers import Sampler, Unigram


class Drawn(NamedTuple):
    """The words of one batch that are looked at."""

    targets: type_of_array  # (B,)
    noise: type_of_array  # (B, m), or (m,) if the batch shares it
    seen: Any = None  # what the sampler saw as it drew, see `Sampler.draw`


class SampledLayer(OutputLayer):
    """An output layer whose loss looks at the target and at noise.

    k: noise words an example. shared: None to draw k for each example, True to draw k for the whole batch, or a
    number m, to draw m for the whole batch. power: q(w) ∝ count(w)^power, `default_power` unless given; or `sampler`,
    any of `losses.samplers`. A word with a count of 0 is never drawn: no target may be one, and its score stays as it
    began. counts, key, bias: see `OutputLayer`.
    """

    default_power = 1.0
    with_replacement_only = False  # whether what the loss learns is known for independent draws alone

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        counts: Any = None,
        key: mg.Key,
        k: int = 64,
        shared: bool | int | None = None,
        power: float | None = None,
        sampler: Sampler | None = None,
        bias: bool = True,
    ):
        super().__init__(vocab_size, dim, counts=counts, key=key, bias=bias)
        name = f"losses.{type(self).__name__}"
        self.k = whole(f"{name}: k", k)
        own = shared is None or shared is False
        self.shared = None if own else self.k if shared is True else whole(f"{name}: shared", shared)
        if sampler is not None and power is not None:
            raise ValueError(f"{name}: give power= or a sampler=, which has a distribution of its own")
        self.sampler = (
            Unigram(self.counts, self.default_power if power is None else power) if sampler is None else sampler
        )
        if not isinstance(self.sampler, Sampler):
            raise TypeError(f"{name}: sampler must be one of losses.samplers, got {type(sampler).__name__}")
        if self.sampler.vocab_size != vocab_size:
            raise ValueError(
                f"{name}: the sampler must draw from the layer's {vocab_size} words, "
                f"it draws from {self.sampler.vocab_size}"
            )
        if self.with_replacement_only and not self.sampler.replacement:
            raise ValueError(f"{name}: the sampler must draw with replacement; {type(self.sampler).__name__} does not")
        self._occur = int(read((self.sampler.probs > 0).sum()))
        self._some_are_never_drawn = self._occur < vocab_size

    def draw(self, key: mg.Key, batch_size: int, steps: int | None = None) -> type_of_array:
        """Noise for a batch, ids (B, k), or (m,) if shared; with `steps`, for so many batches at once: (steps, …)."""
        if not self.sampler.replacement:
            raise ValueError(
                f"losses.{type(self).__name__}.draw: how often to expect a word in a draw without replacement is known "
                "to that draw alone: give loss a key="
            )
        return self._draw(
            key, self._noise_shape(batch_size) if steps is None else (steps, *self._noise_shape(batch_size))
        )[0]

    def loss(self, hidden, targets, *, key=None, noise=None, reduction="mean"):
        """The loss for hidden (B, d) and targets (B,): a scalar, or (B,) with reduction="none".

        The noise is drawn with `key`, or handed in as `noise`, drawn before by `draw`: one of the two is needed. The
        same key draws the same noise, and the layer would learn that sample: give each step its own, `key.fold(step)`.
        """
        hidden, targets = self._for_loss(hidden, targets)
        if (key is None) == (noise is None):
            raise ValueError(
                f"losses.{type(self).__name__}.loss: give key= to draw the noise with, or noise= drawn before"
            )
        if noise is None:
            drawn = Drawn(targets, *self._draw(key, self._noise_shape(len(targets))))
        else:
            drawn = Drawn(targets, self._checked_noise(noise, len(targets)))
        return self._reduced(self._losses(*self._scores_of(hidden, drawn), drawn), reduction, hidden)

    def score_cost(self, batch_size=1):
        batch_size = whole(f"losses.{type(self).__name__}.score_cost: batch_size", batch_size)
        noise = self.k if self.shared is None else self.shared / batch_size
        return ScoreCost(1 + noise, self.vocab_size)

    # ---- what a chapter says, and what it may ask ----

    def _losses(self, target_scores: mg.Tensor, noise_scores: mg.Tensor, drawn: Drawn) -> mg.Tensor:
        """The loss of each example, (B,), given the scores of its target, (B,), and of its noise, (B, m)."""
        raise TypeError(f"losses.{type(self).__name__} has no loss")

    def _scores_of(self, hidden: mg.Tensor, drawn: Drawn) -> tuple[mg.Tensor, mg.Tensor]:
        """Scores of targets (B,) and noise (B, m): rows of each example's own, or one product for all."""
        noise = (self._row_scores if drawn.noise.ndim == 2 else self._shared_scores)(hidden, drawn.noise)
        return self._row_scores(hidden, drawn.targets), noise  # the last are first in the gradient: targets, then noise

    def _log_counts(self, drawn: Drawn, k: int | None = None) -> tuple[type_of_array, type_of_array]:
        """How often targets, (B,), and noise, of its shape, were to be expected among k noise words: the logarithms.

        k: None for as many as were drawn. In the type of the weights.
        """
        targets, noise = drawn.targets, drawn.noise
        k, n = noise.shape[-1] if k is None else k, 1 if noise.ndim == 2 else len(targets)
        both = xp_of(noise).concatenate([targets[:, None] if noise.ndim == 2 else targets, noise], axis=-1)
        note_range(both, 0, self.vocab_size - 1)  # as is known of each: nothing waits to hear it again
        log_counts = self.sampler.log_expected_count(both, k, drawn.seen).astype(self.weight.dtype)
        of_targets, of_noise = log_counts[..., :n], log_counts[..., n:]
        return of_targets.reshape(targets.shape), of_noise

    # ---- the noise ----

    def _noise_shape(self, batch_size: int) -> tuple[int, ...]:
        return (batch_size, self.k) if self.shared is None else (self.shared,)

    def _draw(self, key: mg.Key, shape: tuple[int, ...]) -> tuple[type_of_array, Any]:
        if not isinstance(key, mg.Key):
            raise TypeError(f"losses.{type(self).__name__}: key must be a minigrad.Key, got {type(key).__name__}")
        if not self.sampler.replacement and shape[-1] > self._occur:
            raise ValueError(
                f"losses.{type(self).__name__}: without replacement k must be at most {self._occur}, the words with "
                f"q > 0; got {shape[-1]}"
            )
        noise, seen = self.sampler.draw(key, shape)
        note_range(noise if noise.base is None else noise.base, 0, self.vocab_size - 1)
        return noise, seen

    def _checked_targets(self, hidden, targets):
        targets = super()._checked_targets(hidden, targets)
        if self._some_are_never_drawn and not read((self.sampler.probs[targets] > 0).all()):
            raise ValueError(
                f"losses.{type(self).__name__}: a target has q(w) = 0: it is never drawn as noise, and its score would "
                "grow without end; give it a count of at least 1"
            )
        return targets

    def _checked_noise(self, noise: Any, batch_size: int) -> type_of_array:
        name = f"losses.{type(self).__name__}.loss: noise"
        noise = placed_ids(
            name, noise.data if isinstance(noise, mg.Tensor) else noise, self.vocab_size, self.weight.data
        )
        if not self.sampler.replacement:
            raise ValueError(f"{name} drawn without replacement cannot be handed in: give key= instead")
        if noise.shape != (shape := self._noise_shape(batch_size)):
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(noise.shape)}")
        if self._some_are_never_drawn and not read((self.sampler.probs[noise] > 0).all()):
            raise ValueError(f"{name} holds a word with q(w) = 0, which is never drawn: log q(w) = −∞")
        return noise
