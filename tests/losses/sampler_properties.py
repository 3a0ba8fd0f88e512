"""What must be true of the parts of samplers, of ours and of the mutants of `test_samplers_sabotage.py`; and the laws.

The properties take the function as an argument. The laws are computed from the definition: by adding up every outcome,
or, where times are continuous, by adding up a smooth function on a grid so fine that the sum is the integral to 10⁻⁹.
"""

import itertools
import math

import numpy as np
from hypothesis import strategies as st

import minigrad as mg

on_device, on_cpu = mg.backend.asarray, mg.to_cpu


# ---- examples ----------------------------------------------------------------------------------------------------


def distributions(most=5, least=2):
    """Strategy: q (V,), V = `least` to `most`, all positive."""
    weights = st.integers(least, most).flatmap(lambda v: st.lists(st.integers(1, 9), min_size=v, max_size=v))
    return weights.map(lambda w: np.array(w) / sum(w))


def distributions_and_k():
    """Strategy: (q (V,), k), 1 ≤ k < V."""
    return distributions().flatmap(lambda q: st.tuples(st.just(q), st.integers(1, len(q) - 1)))


def vocabularies():
    return st.tuples(st.integers(1, 300))


def tries():
    """Strategy: (words (n, m), times (n, m), k): few words, so that many come again; times rise in each row."""

    def example(rows, seed, k):
        rng = np.random.default_rng(seed)
        return np.array(rows), np.cumsum(rng.exponential(size=np.shape(rows)), axis=1), k

    sizes = st.tuples(st.integers(1, 3), st.integers(1, 12))
    rows = sizes.flatmap(
        lambda size: st.lists(
            st.lists(st.integers(0, 5), min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
        )
    )
    return rows.flatmap(lambda r: st.builds(example, st.just(r), st.integers(0, 99), st.integers(1, len(r[0]))))


def keys_and_k():
    """Strategy: (keys (n, V), k): all keys of a row different, but for those that are −inf."""

    def example(v, n, never, k, seed):
        rng = np.random.default_rng(seed)
        keys = rng.permuted(np.tile(np.arange(v) * 0.5 - 1.0, (n, 1)), axis=1)
        keys[:, :never] = -math.inf
        return keys, min(k, v - never)

    return st.integers(1, 9).flatmap(
        lambda v: st.builds(
            example, st.just(v), st.integers(1, 3), st.integers(0, v - 1), st.integers(1, v), st.integers(0, 999)
        )
    )


# ---- laws --------------------------------------------------------------------------------------------------------


def ordered_draws(q, k):
    """Equation (1) of `losses.distinct`: {(w₁, …, w_k): its probability}."""
    law = {}
    for words in itertools.permutations(range(len(q)), k):
        law[words], left = 1.0, 1.0
        for w in words:
            law[words] *= q[w] / left
            left -= q[w]
    return law


def law_of_tries(q, k, most=400):
    """P(w ∈ S, N = n): (V, most + 1), N being the number of tries until there are k different words, S."""
    v, sets = len(q), np.arange(1 << len(q))  # a set of words is a number: bit w is set if it has w
    has = (sets[:, None] >> np.arange(v)) & 1 == 1  # (2^V, V)
    law, came = np.zeros((v, most + 1)), (sets == 0).astype(float)  # the words that came until now: its probability
    for n in range(1, most + 1):
        after = np.zeros(1 << v)
        for w in range(v):
            np.add.at(after, sets | 1 << w, q[w] * came)
        ready = has.sum(axis=1) == k
        law[:, n] = after[ready] @ has[ready]
        came = np.where(ready, 0.0, after)
    return law


LOG_TIMES = np.linspace(-18, 9, 2001)  # e^9 times 1/45, the least q of our examples, is 180: all have come by then
TIMES, STEP = np.exp(LOG_TIMES), LOG_TIMES[1] - LOG_TIMES[0]


def chance_of_arrival(q, times=TIMES):
    """P(T_w ≤ t) for each w and t: (V, times)."""
    return 1 - np.exp(-np.outer(q, times))


def how_many_arrived(q, most):
    """P(exactly n of these words have come by t), n = 0 … most: (most + 1, times)."""
    law = np.zeros((most + 1, len(TIMES)))
    law[0] = 1.0
    for arrived in chance_of_arrival(q):
        law[1:] = law[1:] * (1 - arrived) + law[:-1] * arrived
        law[0] *= 1 - arrived
    return law


def arrival_of(q, k):
    """The chance that the k-th of these words comes at each of TIMES: a density times the width of the grid."""
    return sum(
        q[v] * np.exp(-q[v] * TIMES) * how_many_arrived(np.delete(q, v), k - 1)[k - 1] for v in range(len(q))
    ) * (TIMES * STEP)


# ---- (3) of `losses.samplers` --------------------------------------------------------------------------------------


def equally_spaced_numbers_draw_what_is_declared(log_uniform, vocab_size):
    """Of n equally spaced numbers an interval of length q(w) holds n q(w), but for one."""
    n = 20_000
    ids = on_cpu(log_uniform(on_device((np.arange(n) + 0.5) / n, "float64"), vocab_size))
    assert ids.dtype == "int64" and ids.min() >= 0 and ids.max() < vocab_size
    declared = [math.log((w + 2) / (w + 1)) / math.log(vocab_size + 1) for w in range(vocab_size)]
    off = np.bincount(ids, minlength=vocab_size) - n * np.array(declared)
    assert abs(off).max() <= 1 + 1e-6, f"word {abs(off).argmax()} is drawn {off[abs(off).argmax()]:+.0f} times of {n}"


# ---- of `losses.distinct` ------------------------------------------------------------------------------------------


def the_first_of_each_word_counts(first_of_each, words, times, k):
    found, found_times = map(on_cpu, first_of_each(on_device(words), on_device(times), k))
    assert found.shape == found_times.shape == (len(words), k)
    for row, row_times, f, f_times in zip(words.tolist(), times.tolist(), found.tolist(), found_times.tolist()):
        came = {}
        for word, time in zip(row, row_times):
            came.setdefault(word, time)
        expected = list(came.items())[:k]
        assert list(zip(f, f_times))[: len(expected)] == expected, f"{f} at {f_times}, not {expected}"
        assert f_times[len(expected) :] == [math.inf] * (k - len(expected)), f"{f_times} beside {expected}"
        assert f[len(expected) :] == [-1] * (k - len(expected)), f"{f} beside {expected}"


def the_k_greatest_come_best_first_and_the_next_is_kappa(top_k, keys, k):
    places, kappa = map(on_cpu, top_k(on_device(keys), k))
    assert places.shape == (len(keys), k) and kappa.shape == (len(keys),)
    for row, found, threshold in zip(keys.tolist(), places.tolist(), kappa.tolist()):
        in_order = sorted(row, reverse=True) + [-math.inf]
        assert [row[place] for place in found] == in_order[:k], f"{found} of {row}"
        assert len(set(found)) == k and threshold == in_order[k], f"κ = {threshold}, of {in_order}"


def the_first_word_is_drawn_from_q(gumbel_keys, q):
    """Three words, a grid of u: the share of the cubes in which a word has the greatest key is its part of q.

    Two words would not do: the difference of two noises is the same with the opposite sign.
    """
    n, q = 32, q[:3] / q[:3].sum()
    u = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n] * 3, indexing="ij"), axis=-1)  # (n, n, n, 3)
    first = on_cpu(gumbel_keys(on_device(u), on_device(np.log(q)))).argmax(axis=-1)
    share = np.bincount(first.ravel(), minlength=3) / n**3
    assert abs(share - q).max() < 1.5 / n, f"of q = {q.round(3)} the shares {share.round(3)} come first"


def the_term_of_a_word_is_one_on_average(log_count, q, k):
    """(4): E 1[w ∈ S] / count(w), over the time when the k-th of the other words comes, and that of w.

    log_count(log_q, κ): the logarithm of how often w was to be expected.
    """
    for w in range(len(q)):
        others = arrival_of(np.delete(q, w), k)
        assert abs(others.sum() - 1) < 1e-7, "a density"
        in_time = chance_of_arrival(q[w : w + 1])[0]
        log_q = on_device(np.full(len(TIMES), math.log(q[w])))
        count = np.exp(on_cpu(log_count(log_q, on_device(-LOG_TIMES))))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (others * in_time / count).sum()
        assert abs(mean - 1) < 1e-6, f"word {w} of q = {q.round(3)}, k = {k}: {mean}"


def digits_are_kept(log_of_count, exponent):
    rate = 10.0**exponent
    (found,) = on_cpu(log_of_count(on_device([rate], "float64")))
    expected = math.log(-math.expm1(-rate)) if rate < 700 else 0.0
    assert math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-15), f"{found} of the rate {rate}, not {expected}"


def a_number_of_tries_fixed_beforehand_gives_the_chance_to_be_among_them(log_count, q, n):
    """(7), by enumeration: log_count(q, n) against all Vⁿ sequences, each by its probability."""
    sequences = np.indices((len(q),) * n).reshape(n, -1)
    chance = q[sequences].prod(axis=0)
    expected = [chance[(sequences == w).any(axis=0)].sum() for w in range(len(q))]
    found = np.exp(on_cpu(log_count(on_device(q), n)))
    assert np.allclose(found, expected, rtol=1e-12), f"{found} after {n} tries of q = {q.round(3)}, not {expected}"
