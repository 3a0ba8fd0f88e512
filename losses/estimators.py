"""All estimators of this part side by side, with what practice makes of them, right and wrong: what does each learn?

`consistency.py` says what is added up here, and what a zero means. Each line of the table is a loss, the optimum that
it claims, and the law by which its words are drawn (`outcomes.py`); the number is the length of its mean gradient at
that optimum, so those that are consistent show 0 for every k. Steps in brackets are those of `consistency.py`.

    print(losses.estimators.table())
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import minigrad as mg
from minigrad.backend import to_cpu, type_of_array, xp_of

from .consistency import Consistency, K, P, Q, as_text, check_consistency, distribution, log_p, several
from .outcomes import (
    DISTINCT,
    every_word,
    inclusion,
    times,
    tries,
    unordered,
    with_replacement,
    without_replacement,
)
from .sampled.importance import importance_sampling_loss
from .sampled.in_batch import in_batch_softmax
from .sampled.nce import nce_loss
from .sampled.negative import negative_sampling_loss
from .sampled.ranking import sampled_softmax_loss

C = 1.7  # the c of (3): any number


def log_p_plus_c(p: type_of_array, q: type_of_array, k: int) -> type_of_array:
    return xp_of(p).log(p) + C


def log_p_minus_log_kq(p: type_of_array, q: type_of_array, k: int) -> type_of_array:
    return xp_of(p).log(p) - xp_of(q).log(k * q)


class Estimator(NamedTuple):
    """One way to estimate, the optimum it claims, how its noise is drawn, and whether theory says zero there."""

    name: str
    loss_of_scores: Callable
    claim: str
    optimum: Callable
    draws: Callable
    zero: Callable[[int, int], bool]  # k, V -> whether the population gradient is zero there, for P ≠ q, neither even


def _softmax(correct: str | None = "both", left_out: Callable = lambda draw: None) -> Callable:
    """Sampled softmax with log q taken from both, from the noise alone, from nobody (None), or added ("wrong sign")."""

    def loss(target, noise, draw):
        of_target, of_noise = {
            "both": (draw.log_count_target, draw.log_count_noise),
            "noise": (0.0, draw.log_count_noise),
            None: (0.0, 0.0),
            "wrong sign": (-draw.log_count_target, -draw.log_count_noise),
        }[correct]
        return sampled_softmax_loss(
            target, noise, log_count_target=of_target, log_count_noise=of_noise, hits=left_out(draw)
        )

    return loss


def _nce(log_k: bool = True, left_out: bool = False) -> Callable:
    def loss(target, noise, draw):
        of_target, of_noise = (
            (draw.log_count_target, draw.log_count_noise) if log_k else (draw.log_q_target, draw.log_q_noise)
        )
        if left_out:
            of_noise = of_noise + 1e30 * draw.hits  # σ(s − 10³⁰) is zero
        return nce_loss(target, noise, log_kq_target=of_target, log_kq_noise=of_noise, k=draw.k)

    return loss


def _in_batch(sign: float = 1.0, masked: bool = False) -> Callable:
    """The first row of a batch whose first context is h: the k other targets are its noise, q their distribution."""

    def loss(target, noise, draw):
        xp = xp_of(draw.noise)
        b = draw.k + 1
        first = xp.concatenate([target.data[:, None], noise.data], axis=1)  # (N, B)
        log_q = sign * xp.concatenate([draw.log_q_target[:, None], draw.log_q_noise], axis=1)
        repeats = xp.concatenate([xp.zeros((len(first), 1), bool), draw.hits & masked], axis=1)
        scores, again = xp.zeros((b, b)), xp.zeros((b, b), bool)  # the other rows are other contexts
        rows = []
        for i in range(len(first)):
            scores[0], again[0] = first[i], repeats[i]
            each, G = in_batch_softmax(scores, log_q=log_q[i], repeats=again)
            rows.append(xp.concatenate([each[:1], G[0]]))
        rows = xp.stack(rows)
        return rows[:, 0], rows[:, 1], rows[:, 2:]

    return loss


def _importance(target, noise, draw):
    return importance_sampling_loss(target, noise, log_count_noise=draw.log_count_noise)


def estimators() -> Iterator[Estimator]:
    """The methods of this part, with what practice makes of them, right and wrong."""
    always, never, alone = lambda k, v: True, lambda k, v: False, lambda k, v: k == 1
    alone_or_all, all_words = lambda k, v: k in (1, v), lambda k, v: k == v  # count 1 for each: the full softmax
    hits, out = lambda draw: draw.hits, lambda draw: draw.hits | draw.absent
    plus_c, at_p, shifted = ("log P + c", log_p_plus_c), ("log P", log_p), ("log P − log kq", log_p_minus_log_kq)
    iid, distinct = with_replacement, _softmax(left_out=hits)
    full = lambda target, noise, draw: mg.logsumexp(noise, axis=1) - target
    binary = lambda target, noise, draw: negative_sampling_loss(target, noise)
    for row in [
        ("full softmax", full, *plus_c, every_word, always),
        ("importance sampling", _importance, *plus_c, iid, never),
        ("sampled softmax", _softmax(), *plus_c, iid, always),
        ("sampled: hits left out", _softmax(left_out=hits), *plus_c, iid, alone),
        ("sampled: log q of the noise alone, hits left out", _softmax("noise", hits), *plus_c, iid, never),
        ("sampled: no log q", _softmax(None), *plus_c, iid, never),
        ("sampled: log q with the wrong sign", _softmax("wrong sign"), *plus_c, iid, never),
        ("sampled: a set, each word in it independently", _softmax(left_out=out), *plus_c, inclusion, always),
        ("sampled: distinct words, their overall chances", distinct, *plus_c, without_replacement, alone_or_all),
        ("sampled: distinct words, counts from the tries", distinct, *plus_c, tries, alone),
        ("sampled: distinct words, counts from the times", distinct, *plus_c, times, all_words),
        ("in-batch softmax", _in_batch(), *plus_c, unordered, always),
        ("in-batch: repeats left out", _in_batch(masked=True), *plus_c, unordered, alone),
        ("in-batch: no log q", _in_batch(0.0), *plus_c, unordered, never),
        ("in-batch: log q with the wrong sign", _in_batch(-1.0), *plus_c, unordered, never),
        ("NCE", _nce(), *at_p, iid, always),
        ("NCE: where Z isn't one", _nce(), *plus_c, iid, never),
        ("NCE: log k forgotten", _nce(log_k=False), *at_p, iid, alone),
        ("NCE: hits left out", _nce(left_out=True), *at_p, iid, never),
        ("negative sampling", binary, *shifted, iid, always),
        ("negative sampling: taken for log P", binary, *at_p, iid, never),
    ]:
        yield Estimator(*row)


class Table(NamedTuple):
    """All estimators, each checked for several k; where there are fewer than k words to draw it is left out."""

    P: Any
    q: Any
    k: tuple[int, ...]
    rows: list[tuple[Estimator, Consistency]]

    def __str__(self):
        lines = [f"‖∂E L/∂s‖ at the claimed optimum; c = {C}, 0 is below 1e-12"]
        lines += [f"{name} = {', '.join(f'{x:.2f}' for x in probs)}" for name, probs in (("P", self.P), ("q", self.q))]
        lines += [f"{'estimator':<50}{'claims':<16}" + "".join(f"{f'k = {k}':>7}" for k in self.k) + "   theory"]
        for estimator, found in self.rows:
            cells = [as_text(found.sizes[k]) if k in found.sizes else "–" for k in self.k]
            zero = [str(k) for k in found.sizes if estimator.zero(k, len(self.P))]
            only = f"zero for k = {', '.join(zero)} only" if zero else "not zero"
            theory = "" if not found.sizes else "zero" if len(zero) == len(found.sizes) else only
            lines.append(
                f"{estimator.name:<50}{estimator.claim:<16}" + "".join(f"{c:>7}" for c in cells) + f"   {theory}"
            )
        return "\n".join(lines)


def table(*, P: Any = P, q: Any = Q, k: int | Sequence[int] = K) -> Table:
    """`check_consistency` of all `estimators`."""
    name = "losses.estimators.table"
    probs = [to_cpu(distribution(f"{name}: {which}", given)) for which, given in (("P", P), ("q", q))]
    ks, rows = several(f"{name}: k", k), []
    for estimator in estimators():
        possible = [each for each in ks if estimator.draws not in DISTINCT or each <= len(probs[0])]
        found = Consistency(*probs, {}, {})
        if possible:
            found = check_consistency(
                estimator.loss_of_scores, P=P, q=q, k=possible, optimum=estimator.optimum, draws=estimator.draws
            )
        rows.append((estimator, found))
    return Table(*(each.tolist() for each in probs), ks, rows)
