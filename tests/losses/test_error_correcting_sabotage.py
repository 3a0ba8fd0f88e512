"""Sabotage: wrong versions of the Viterbi decoder, each with the lesson, by name, that must not let it pass."""

import math

import numpy as np
import pytest

from losses.check import smallest_failure
from losses.structured.error_correcting import POLYNOMIALS, encode
from losses.structured.error_correcting import viterbi as sound
from losses.suites.error_correcting import CHAPTER

pytestmark = [pytest.mark.error_correcting, pytest.mark.cpu]


def size(bit_scores, memory):
    return bit_scores.shape[1] // 2 - memory


# ---- a textbook's decoder, with the winners written down and traced back, and slips ----------------------------------


def by_the_textbook(*, begin="empty", end="empty", keep=min, past=True, tie="number"):
    """Viterbi's algorithm in lists. The keywords say in what it is wrong; as they stand it is right."""

    def decode(z, memory):
        states, steps = 1 << memory, len(z) // 2
        cost = dict.fromkeys(range(states), 0.0) if begin == "any" else {0: 0.0}
        number, winners = dict.fromkeys(cost, 0), []
        for t in range(steps):
            arrivals = {}
            for s, so_far in cost.items():
                for bit in (0, 1) if t < steps - memory or end == "any" else (0,):
                    window = bit << memory | s
                    out = [(window & p).bit_count() & 1 for p in POLYNOMIALS[memory]]
                    step = sum(abs(x) for x, c in zip(z[2 * t : 2 * t + 2], out, strict=True) if c != (x > 0))
                    rank = (so_far if past else 0.0) + step, 2 * number[s] + bit if tie == "number" else s
                    arrivals.setdefault(window >> 1, []).append((rank, so_far + step, s))
            kept = {s: keep(several) for s, several in arrivals.items()}
            winners.append({s: before for s, (_, _, before) in kept.items()})
            number = {s: 2 * number[winners[-1][s]] + (s >> (memory - 1)) for s in kept}
            cost = {s: total for s, (_, total, _) in kept.items()}
        state, bits = min(cost, key=lambda s: (cost[s], s)), []
        for before in reversed(winners):
            bits.append(state >> (memory - 1))
            state = before[state]
        return int("".join(map(str, bits[::-1])), 2) >> memory

    def viterbi(bit_scores, *, memory, num_words=None):
        if num_words is not None:
            return sound(bit_scores, memory=memory, num_words=num_words)
        return np.array([decode(z, memory) for z in bit_scores.tolist()])

    return viterbi


the_textbook = by_the_textbook()
ends_in_the_cheapest_state = by_the_textbook(end="any")
begins_in_any_state = by_the_textbook(begin="any")
forgets_the_past = by_the_textbook(past=False)
keeps_the_dearer = by_the_textbook(keep=max)
keeps_the_first_of_equals = by_the_textbook(tie="state")


# ---- the sound decoder, spoiled --------------------------------------------------------------------------------------


def least_power_first(bit_scores, *, memory, num_words=None):
    k = size(bit_scores, memory)
    return np.array([int(f"{w:0{k}b}"[::-1], 2) for w in sound(bit_scores, memory=memory, num_words=num_words)])


def taps_backwards(bit_scores, *, memory, num_words=None):
    """All words are looked at, which is right, but their codes are those of the reversed polynomials."""
    k = size(bit_scores, memory)
    if k > 8:
        return sound(bit_scores, memory=memory, num_words=num_words)
    bits = (np.arange(1 << k)[:, None] >> np.arange(k - 1, -1, -1)) & 1
    codes = encode(bits[:, ::-1], memory=memory).reshape(1 << k, -1, 2)[:, ::-1].reshape(1 << k, -1)  # time reversed
    return (bit_scores @ codes.T.astype(bit_scores.dtype)).argmax(axis=1)


def outputs_exchanged(bit_scores, *, memory, num_words=None):
    pairs = bit_scores.reshape(len(bit_scores), -1, 2)[:, :, ::-1]
    return sound(pairs.reshape(bit_scores.shape), memory=memory, num_words=num_words)


def all_first_outputs_before_all_second(bit_scores, *, memory, num_words=None):
    halves = bit_scores.reshape(len(bit_scores), 2, -1).transpose(0, 2, 1)
    return sound(halves.reshape(bit_scores.shape), memory=memory, num_words=num_words)


def hard_decisions(bit_scores, *, memory, num_words=None):
    return sound(np.sign(bit_scores), memory=memory, num_words=num_words)


def sign_lost(bit_scores, *, memory, num_words=None):
    return sound(-bit_scores, memory=memory, num_words=num_words)


def squared_costs(bit_scores, *, memory, num_words=None):
    return sound(bit_scores * abs(bit_scores), memory=memory, num_words=num_words)


def clipped_log_of_sigma(bit_scores, *, memory, num_words=None):
    with np.errstate(over="ignore"):
        q = np.clip(1 / (1 + np.exp(-bit_scores)), 1e-7, 1 - 1e-7)
    return sound(np.log(q / (1 - q)), memory=memory, num_words=num_words)


def only_unlike_bits_of_words_near_enough(bit_scores, *, memory, num_words=None):
    """A decoder that gives up, and says 0, if more than one bit is wrong."""
    found = sound(bit_scores, memory=memory, num_words=num_words)
    if num_words is not None or (abs(bit_scores) != 1).any():
        return found
    bits = (found[:, None] >> np.arange(size(bit_scores, memory) - 1, -1, -1)) & 1
    wrong = (encode(bits, memory=memory) != (bit_scores > 0)).sum(axis=1)
    return np.where(wrong > 1, 0, found)


def the_first_example_for_all(bit_scores, *, memory, num_words=None):
    return sound(0 * bit_scores + bit_scores[:1], memory=memory, num_words=num_words)


def numbers_that_are_no_integers(bit_scores, *, memory, num_words=None):
    return sound(bit_scores, memory=memory, num_words=num_words).astype("float64")


def a_column_of_numbers(bit_scores, *, memory, num_words=None):
    return sound(bit_scores, memory=memory, num_words=num_words)[:, None]


def scores_overwritten(bit_scores, *, memory, num_words=None):
    found = sound(bit_scores, memory=memory, num_words=num_words)
    np.abs(bit_scores, out=bit_scores)
    return found


def v_ignored(bit_scores, *, memory, num_words=None):
    return sound(bit_scores, memory=memory)


def cut_to_size(bit_scores, *, memory, num_words=None):
    return np.minimum(sound(bit_scores, memory=memory), math.inf if num_words is None else num_words - 1).astype(int)


def word_0_if_it_is_none(bit_scores, *, memory, num_words=None):
    found = sound(bit_scores, memory=memory)
    return found if num_words is None else np.where(found < num_words, found, 0)


def one_word_too_many(bit_scores, *, memory, num_words=None):
    if num_words is not None:
        num_words = min(num_words + 1, 1 << size(bit_scores, memory))
    return sound(bit_scores, memory=memory, num_words=num_words)


def one_word_too_few(bit_scores, *, memory, num_words=None):
    return sound(bit_scores, memory=memory, num_words=None if num_words is None else max(1, num_words - 1))


SABOTAGE = [
    (the_first_example_for_all, "one number an example"),
    (numbers_that_are_no_integers, "one number an example"),
    (a_column_of_numbers, "one number an example"),
    (scores_overwritten, "one number an example"),
    (least_power_first, "a code word is decoded to its number"),
    (taps_backwards, "a code word is decoded to its number"),
    (outputs_exchanged, "a code word is decoded to its number"),
    (all_first_outputs_before_all_second, "a code word is decoded to its number"),
    (sign_lost, "a code word is decoded to its number"),
    (forgets_the_past, "no word is more probable"),
    (keeps_the_dearer, "no word is more probable"),
    (begins_in_any_state, "no word is more probable"),
    (squared_costs, "no word is more probable"),
    (hard_decisions, "no word is more probable"),
    (ends_in_the_cheapest_state, "the register is empty in the end"),
    (begins_in_any_state, "the register is empty in the end"),
    (only_unlike_bits_of_words_near_enough, "t wrong bits are put right"),
    (forgets_the_past, "t wrong bits are put right"),
    (hard_decisions, "unsure bits are overruled"),
    (clipped_log_of_sigma, "no word is more probable far from zero"),
    (keeps_the_first_of_equals, "among equals the smallest number"),
    (v_ignored, "only numbers below V are words"),
    (cut_to_size, "only numbers below V are words"),
    (word_0_if_it_is_none, "only numbers below V are words"),
    (one_word_too_many, "only numbers below V are words"),
    (one_word_too_few, "only numbers below V are words"),
]
NAMES = {value: name for name, value in globals().items() if callable(value)}
LESSONS = {lesson.name: lesson for lesson in CHAPTER.lessons}


@pytest.mark.parametrize("mutant, lesson", SABOTAGE, ids=[f"{NAMES[m]}-{LESSONS[n].step}" for m, n in SABOTAGE])
def test_the_lesson_does_not_let_the_mutant_pass(mutant, lesson):
    assert smallest_failure(LESSONS[lesson], mutant) is not None


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.name.replace(" ", "_"))
def test_every_lesson_lets_the_sound_function_pass_and_has_a_mutant(lesson):
    assert smallest_failure(lesson, sound) is None
    assert lesson.name in {name for _, name in SABOTAGE}


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.name.replace(" ", "_"))
def test_and_a_decoder_written_otherwise(lesson):
    """In lists, with the winners written down and traced back: without its slips it passes."""
    assert smallest_failure(lesson, the_textbook, max_examples=30) is None


def test_lessons_blame_the_right_step():
    """Not every mutant fails everywhere."""
    passes = [
        (hard_decisions, "t wrong bits are put right"),
        (hard_decisions, "a code word is decoded to its number"),
        (keeps_the_first_of_equals, "no word is more probable"),
        (clipped_log_of_sigma, "t wrong bits are put right"),
        (v_ignored, "among equals the smallest number"),
        (ends_in_the_cheapest_state, "a code word is decoded to its number"),
    ]
    for mutant, lesson in passes:
        assert smallest_failure(LESSONS[lesson], mutant, max_examples=50) is None, (NAMES[mutant], lesson)
