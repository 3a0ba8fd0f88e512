"""What must be true of `viterbi(bit_scores, *, memory, num_words=None) -> numbers`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught. They
encode by the definition, in lists, and look at all words. Most scores are quarters: they add up without rounding.
"""

from functools import cache

import numpy as np

from . import Chapter, Lesson

TAPS = {  # of both outputs, the newest bit's first: 5, 7; 15, 17; 23, 35; 53, 75; 171, 133 in octal
    2: ("101", "111"),
    3: ("1101", "1111"),
    4: ("10011", "11101"),
    5: ("101011", "111101"),
    6: ("1111001", "1011011"),
}
DISTANCE = {2: 5, 3: 6, 4: 7, 5: 8, 6: 10}


def code_word(number: int, num_bits: int, memory: int) -> list[int]:
    """Step (2): the greatest power first, then zeros; for each bit two sums modulo 2 of it and those before it."""
    bits = [number >> (num_bits - 1 - t) & 1 for t in range(num_bits)] + [0] * memory
    return [
        sum(bits[t - j] for j, tap in enumerate(taps) if tap == "1" and t >= j) % 2
        for t in range(len(bits))
        for taps in TAPS[memory]
    ]


def signs(number: int, num_bits: int, memory: int) -> np.ndarray:
    """The code word as scores of 1 and −1."""
    return 2.0 * np.array(code_word(number, num_bits, memory)) - 1.0


def log_probs(scores: np.ndarray, memory: int) -> list[float]:
    """Σ_b c_b z_b for every number, of the scores (n,) of one example."""
    scores = scores.tolist()
    return [sum(scores[b] for b in ones) for ones in places_of_ones(len(scores) // 2 - memory, memory)]


@cache
def places_of_ones(num_bits: int, memory: int) -> list[list[int]]:
    """For every number which bits of its code word are 1."""
    words = [code_word(w, num_bits, memory) for w in range(1 << num_bits)]
    return [[b for b, c in enumerate(word) if c] for word in words]


# ---- examples ------------------------------------------------------------------------------------------------------


def scores(limit: float = 2.0, tail: float = 1.0, dtype: str = "float64", most: int = 1):
    """Strategy: (bit_scores (B, 2 (K + memory)), memory), K 1 to 4, B 1 to `most`. tail: makes the last ones larger."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    elements = st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)

    def of(batch, num_bits, memory):
        weigh = np.repeat(np.array([1.0] * num_bits + [tail] * memory, dtype), 2)
        arrays = hnp.arrays(dtype, (batch, 2 * (num_bits + memory)), elements=elements)
        return st.tuples(arrays.map(lambda z: z * weigh), st.just(memory))

    return st.tuples(st.integers(1, most), st.integers(1, 4), st.integers(2, 3)).flatmap(lambda sizes: of(*sizes))


def batches():
    return scores(most=3)


def loud_ends():
    return scores(tail=8.0)


def equal_scores():
    """Of −1, 0 and 1: most of the time several words are the best."""
    return scores(limit=1.0).map(lambda example: (np.trunc(example[0]), example[1]))


def far_scores():
    """Thousands, in float32, so that σ is 0 or 1 in floating point, but for the differences that decide."""
    return scores(dtype="float32").map(lambda example: (np.float32(1000) * example[0], example[1]))


def words():
    """Strategy: (number, num_bits, memory), all memories, up to 16 bits."""
    from hypothesis import strategies as st

    return st.tuples(st.integers(1, 16), st.integers(2, 6)).flatmap(
        lambda size: st.tuples(st.integers(0, (1 << size[0]) - 1), st.just(size[0]), st.just(size[1]))
    )


def words_with_errors(most):
    """The same, and which bits are wrong: at most most(distance)."""
    from hypothesis import strategies as st

    def with_errors(word):
        number, num_bits, memory = word
        places = st.lists(
            st.integers(0, 2 * (num_bits + memory) - 1), max_size=most(DISTANCE[memory]), unique=True, min_size=1
        )
        return st.tuples(st.just(number), st.just(num_bits), st.just(memory), places)

    return words().flatmap(with_errors)


def correctable():
    return words_with_errors(lambda distance: (distance - 1) // 2)


def unsure():
    return words_with_errors(lambda distance: distance - 1)


def vocabularies():
    """Strategy: (bit_scores, memory, num_words): V from 1 to 2^K."""
    from hypothesis import strategies as st

    def with_v(example):
        z, memory = example
        return st.tuples(st.just(z), st.just(memory), st.integers(1, 1 << (z.shape[1] // 2 - memory)))

    return equal_scores().flatmap(with_v)


# ---- what must hold --------------------------------------------------------------------------------------------------


def one_number_an_example(f, bit_scores, memory):
    given = bit_scores.copy()
    found = np.asarray(f(bit_scores, memory=memory))
    assert (bit_scores == given).all(), "the function wrote into the scores it was given"
    assert found.shape == bit_scores.shape[:1], f"numbers have shape {found.shape}, expected {bit_scores.shape[:1]}"
    assert found.dtype.kind in "iu", f"numbers are {found.dtype}, expected integers"
    alone = [int(np.asarray(f(row[None], memory=memory))[0]) for row in bit_scores]
    assert found.tolist() == alone, f"numbers are {found.tolist()}, one example at a time {alone}"


def a_code_word_is_decoded_to_its_number(f, number, num_bits, memory):
    found = int(np.asarray(f(signs(number, num_bits, memory)[None], memory=memory))[0])
    assert found == number, f"the code word of {number} is decoded to {found}"


def no_word_is_more_probable(f, bit_scores, memory):
    for i, (row, found) in enumerate(zip(bit_scores, np.asarray(f(bit_scores, memory=memory)).tolist(), strict=True)):
        sums = log_probs(row, memory)
        assert 0 <= found < len(sums), f"example {i}: {found} is no number of {len(sums).bit_length() - 1} bits"
        best = sums.index(max(sums))
        assert sums[found] == sums[best], f"example {i}: word {found} has {sums[found]}, but word {best} {sums[best]}"


def wrong_bits_are_put_right(f, number, num_bits, memory, wrong):
    z = signs(number, num_bits, memory)
    z[wrong] *= -1
    found = int(np.asarray(f(z[None], memory=memory))[0])
    assert found == number, f"with {len(wrong)} of {z.size} bits wrong {number} is decoded to {found}"


def unsure_bits_are_overruled(f, number, num_bits, memory, wrong):
    z = signs(number, num_bits, memory)
    z[wrong] *= -1 / 16
    found = int(np.asarray(f(z[None], memory=memory))[0])
    assert found == number, f"with {len(wrong)} bits wrong, of which all are unsure, {number} is decoded to {found}"


def among_equals_the_smallest_number(f, bit_scores, memory):
    expected = [sums.index(max(sums)) for sums in (log_probs(row, memory) for row in bit_scores)]
    found = np.asarray(f(bit_scores, memory=memory)).tolist()
    assert found == expected, f"numbers are {found}, expected {expected}, the smallest of those that are best"


def only_numbers_below_v_are_words(f, bit_scores, memory, num_words):
    expected = [sums.index(max(sums)) for sums in (log_probs(row, memory)[:num_words] for row in bit_scores)]
    found = np.asarray(f(bit_scores, memory=memory, num_words=num_words)).tolist()
    assert found == expected, f"of {num_words} words the best are {expected}, not {found}"


CHAPTER = Chapter(
    name="error-correcting",
    module="losses.structured.error_correcting",
    function="viterbi",
    signature="viterbi(bit_scores (B, 2 (K + memory)), *, memory, num_words=None) -> numbers (B,)",
    lessons=(
        Lesson(
            "one number an example",
            "(4)",
            """Each example has a number of its own, an integer, whatever else is in the batch; the scores stay as they
            are.""",
            batches,
            one_number_an_example,
        ),
        Lesson(
            "a code word is decoded to its number",
            "(2)",
            """The greatest power of the number goes in first, then as many zeros as there is memory. Of the taps, in
            octal, the highest bit belongs to the newest bit. The outputs are side by side: first, second, first, ….""",
            words,
            a_code_word_is_decoded_to_its_number,
        ),
        Lesson(
            "t wrong bits are put right",
            "(1)",
            """Code words differ in d bits or more, so (d − 1)/2 wrong ones, rounded down, leave the right word the
            nearest, wherever they are.""",
            correctable,
            wrong_bits_are_put_right,
        ),
        Lesson(
            "unsure bits are overruled",
            "(4)",
            """Another bit than the sign's costs |z|. If only signs are counted, a bit that the model is unsure of
            counts as much as one that it is sure of.""",
            unsure,
            unsure_bits_are_overruled,
        ),
        Lesson(
            "no word is more probable far from zero",
            "(4)",
            """log σ(−1000) is −1000, but σ(−1000) is 0 in floating point: its logarithm is infinite, or clipped to a
            constant, and many words cost the same. Costs are differences of scores and need no exponential.""",
            far_scores,
            no_word_is_more_probable,
        ),
        Lesson(
            "no word is more probable",
            "(5)",
            """Where two ways meet in a state, the one that has cost less goes on, with what the step itself costs. All
            that must be remembered of a way is its cost and its number.""",
            scores,
            no_word_is_more_probable,
        ),
        Lesson(
            "the register is empty in the end",
            "(6)",
            """The zeros at the end bring every word back to state 0. The cheapest way to any other state is the
            beginning of a longer word, and its last bits are no word's.""",
            loud_ends,
            no_word_is_more_probable,
        ),
        Lesson(
            "among equals the smallest number",
            "(6)",
            """Where two ways that meet have cost the same, the one with the smaller number goes on. Which state it came
            from does not say which that is: its last bits do not count as much as those before them.""",
            equal_scores,
            among_equals_the_smallest_number,
        ),
        Lesson(
            "only numbers below V are words",
            "(7)",
            """The best of all 2^K may be none of the V words, and the best word is not the one that is left when it is
            cut to size, or replaced by word 0. The way of V's own bits has a branch at each of its ones.""",
            vocabularies,
            only_numbers_below_v_are_words,
            option="num_words",
        ),
    ),
)
