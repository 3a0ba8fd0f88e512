"""Different words: a test for each step of `losses.distinct`, by enumeration where the law allows it; and an oracle."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import distinct
from losses.distinct import (
    IN_PYTORCH,
    first_of_each,
    first_of_each_by_sorting,
    gumbel_keys,
    log_count,
    rate_of_threshold,
    top_k,
)
from losses.samplers import GumbelTopK, LogUniform, Sampler, Uniform, Unigram, Unique, zipf

from . import sampler_properties as properties
from .sampler_properties import (
    TIMES,
    arrival_of,
    chance_of_arrival,
    distributions,
    distributions_and_k,
    how_many_arrived,
    law_of_tries,
    on_cpu,
    on_device,
    ordered_draws,
    tries,
)

pytestmark = pytest.mark.samplers

Q = np.array([0.4, 0.3, 0.2, 0.1])
ZIPF = np.array(zipf(10)) / sum(zipf(10))
KINDS = {
    "unique": lambda q: Unique(Unigram(q, 1)),
    "unique, exact": lambda q: Unique(Unigram(q, 1), exact=True),
    "gumbel": GumbelTopK,
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_exact_kind = pytest.mark.parametrize("kind", ["unique, exact", "gumbel"])


def weights_of(sampler, ids, seen):
    """1 / count of each word of the draws, (…, k)."""
    return np.exp(-on_cpu(sampler.log_expected_count(ids, ids.shape[-1], seen)))


def within_6_sigma(found, mean):
    """found: independent numbers of this mean, the variance estimated from them."""
    assert abs(np.mean(found) - mean) <= 6 * np.std(found) / math.sqrt(len(found)), f"{np.mean(found)}, not {mean}"


# ---- (1), (2): the law of the draws ---------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@each_kind
def test_step_1_the_draws_have_the_law_of_drawing_without_replacement(kind, k):
    n = 60_000
    ids = on_cpu(KINDS[kind](Q).sample(mg.Key(k), (n, k)))
    found = np.bincount(np.ravel_multi_index(ids.T, (4,) * k), minlength=4**k).reshape((4,) * k)
    for words, chance in ordered_draws(Q, k).items():
        off = abs(found[words] - n * chance)
        assert off <= 6 * math.sqrt(n * chance * (1 - chance)) + 1e-6, f"{words}: {found[words]} of {n}, not {chance}"
    assert sum(found[words] for words in ordered_draws(Q, k)) == n, "and nothing else is drawn"


def test_step_1_that_law_is_the_one_of_tries_of_which_the_first_of_each_word_counts():
    """All 4⁶ sequences of six tries: the first two different words are (v, w) with q(v) q(w) Σ_j q(v)^j, j = 0 … 4."""
    sequences = np.indices((4,) * 6).reshape(6, -1).T.copy()
    chance = Q[sequences].prod(axis=1)
    times = np.broadcast_to(np.arange(1.0, 7.0), sequences.shape).copy()
    words, at = map(on_cpu, first_of_each(on_device(sequences), on_device(times), 2))
    for v, w in itertools.permutations(range(4), 2):
        found = chance[(words[:, 0] == v) & (words[:, 1] == w) & (at[:, 1] < math.inf)].sum()
        assert math.isclose(found, Q[v] * Q[w] * (1 - Q[v] ** 5) / (1 - Q[v]), rel_tol=1e-12)


@given(tries())
def test_step_1_the_first_of_each_word_counts(example):
    properties.the_first_of_each_word_counts(first_of_each, *example)


@pytest.mark.cpu
@given(tries(), st.integers(0, 2**62))
def test_step_1_the_kernel_finds_what_sorting_finds(example, shift):
    words, times, k = example
    words = words + shift
    (a, a_times), (b, b_times) = first_of_each(words, times, k), first_of_each_by_sorting(words, times, k)
    assert (a == b).all() and (a_times == b_times).all()


@pytest.mark.parametrize("find", [first_of_each, first_of_each_by_sorting])
def test_step_1_what_fills_up_a_row_is_no_word(find):
    words, times = map(
        on_cpu, find(on_device([[7, -1, -1, 7, 5]]), on_device([[1.0, math.inf, math.inf, 3.0, 4.0]]), 3)
    )
    assert words.tolist() == [[7, 5, -1]] and times.tolist() == [[1.0, 4.0, math.inf]]


@given(distributions(least=3))
def test_step_2_the_first_word_is_drawn_from_q(q):
    properties.the_first_word_is_drawn_from_q(gumbel_keys, q)


def test_step_2_the_order_of_arrival_has_the_law_of_step_1():
    """Three words, a grid of u: the share of each order is its probability."""
    q, n = np.array([0.6, 0.3, 0.1]), 120
    u = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    order, _ = top_k(gumbel_keys(on_device(u), on_device(np.log(q))), 3)
    for words, chance in ordered_draws(q, 3).items():
        assert abs((on_cpu(order) == words).all(axis=1).mean() - chance) < 3 / n


@given(properties.keys_and_k())
def test_step_2_the_k_greatest_are_the_sample_and_the_next_is_kappa(example):
    properties.the_k_greatest_come_best_first_and_the_next_is_kappa(top_k, *example)


def test_step_2_keys_are_minus_the_logarithms_of_arrivals():
    u = mg.Key(0).uniform((5, 4), "float64")
    arrivals = on_cpu(distinct.exponential(u)) / Q
    assert np.allclose(on_cpu(gumbel_keys(u, on_device(np.log(Q)))), -np.log(arrivals), rtol=1e-12)


def test_step_2_the_least_and_the_greatest_number_have_finite_keys():
    keys = gumbel_keys(on_device([0.0, 1 - 2**-53]), on_device(np.log([1e-300, 1.0])))
    assert np.isfinite(on_cpu(keys)).all()


# ---- (3), (4): how often to expect a word ---------------------------------------------------------------------------


@given(distributions())
def test_step_3_by_the_time_t_a_word_has_arrived_with_probability_one_minus_e_to_the_minus_q_t(q):
    """A grid of u: the share of arrivals by t."""
    n, t = 10_000, 2.0
    arrivals = on_cpu(distinct.exponential(on_device((np.arange(n) + 0.5) / n)))[:, None] / q
    count = np.exp(on_cpu(log_count(rate_of_threshold(on_device(np.log(q)), on_device([-math.log(t)])))))
    assert abs((arrivals < t).mean(axis=0) - count).max() < 1 / n
    assert np.allclose(count, [1 - math.exp(-x * t) for x in q.tolist()], rtol=1e-12)


def exact_log_count(log_q, kappa):
    return log_count(rate_of_threshold(log_q, kappa))


@given(distributions_and_k())
def test_step_4_a_word_over_its_count_is_one_on_average(example):
    properties.the_term_of_a_word_is_one_on_average(exact_log_count, *example)


def full_law(q, k):
    """(S, the chance that S comes first, the next word at each of TIMES): every set of k words."""
    arrived = chance_of_arrival(q)
    for words in itertools.combinations(range(len(q)), k):
        rest = [v for v in range(len(q)) if v not in words]
        none_of_the_rest = np.exp(-q[rest].sum() * TIMES)
        yield (
            list(words),
            arrived[list(words)].prod(axis=0) * q[rest].sum() * none_of_the_rest * TIMES * properties.STEP,
        )


@each_exact_kind
@pytest.mark.parametrize("k", [2, 3])
def test_step_4_and_5_the_estimate_has_the_mean_z_and_the_variance_of_the_formula(kind, k):
    """The whole law of S and κ, with the sampler's own counts."""
    sampler, f = KINDS[kind](Q), np.array([1.0, -2.0, 3.0, 5.0])
    mean = square = total = 0.0
    for words, chance in full_law(Q, k):
        ids = on_device(np.tile(words, (len(TIMES), 1)))
        Z = (f[words] * weights_of(sampler, ids, on_device(-np.log(TIMES)))).sum(axis=1)
        total, mean, square = total + chance.sum(), mean + chance @ Z, square + chance @ Z**2
    assert math.isclose(total, 1, rel_tol=1e-7) and math.isclose(mean, f.sum(), rel_tol=1e-6)
    assert math.isclose(square - mean**2, variance(Q, f, k), rel_tol=1e-5)


@each_exact_kind
@pytest.mark.parametrize("k", [4, 6, 9])
def test_step_4_the_estimate_from_draws_is_unbiased(kind, k):
    sampler, f = KINDS[kind](ZIPF), np.arange(10.0) ** 2
    ids, seen = sampler.draw(mg.Key(1), (20_000, k))
    Z = (f[on_cpu(ids)] * weights_of(sampler, ids, seen)).sum(axis=1)
    within_6_sigma(Z, f.sum())


@each_exact_kind
@pytest.mark.parametrize("k", [1, 3, 9])
def test_step_4_kappa_tells_when_the_next_word_comes(kind, k):
    """Its law, at four points: by the time t, more than k words have come."""
    _, seen = KINDS[kind](ZIPF).draw(mg.Key(2), (20_000, k))
    tau, law = np.exp(-on_cpu(seen)), 1 - how_many_arrived(ZIPF, k).sum(axis=0)
    for chance in (0.1, 0.4, 0.7, 0.95):
        t = np.interp(chance, law, TIMES)
        within_6_sigma(tau < t, chance)


@each_exact_kind
def test_step_4_all_words_that_there_are_weigh_one(kind):
    sampler = KINDS[kind]([5, 0, 1, 2])
    ids, seen = sampler.draw(mg.Key(3), (6, 3))
    assert (seen == -math.inf).all()
    assert sampler.log_expected_count(ids, 3, seen).tolist() == [[0.0] * 3] * 6
    everything = on_device(np.tile(np.arange(4), (6, 1)))
    assert sampler.log_expected_count(everything, 3, seen).tolist() == [[0.0, -math.inf, 0.0, 0.0]] * 6


# ---- (5): the variance ----------------------------------------------------------------------------------------------


def variance(q, f, k):
    """(5), by adding up."""
    inverse = [(arrival_of(np.delete(q, w), k) / chance_of_arrival(q[w : w + 1])[0]).sum() for w in range(len(q))]
    return (f**2 * (np.array(inverse) - 1)).sum()


def variance_with_replacement(q, f, k):
    return ((f**2 / q).sum() - f.sum() ** 2) / k


def test_step_5_with_replacement_the_variance_is_that_of_the_formula():
    """All 4³ draws."""
    f, draws = np.array([1.0, -2.0, 3.0, 5.0]), np.indices((4,) * 3).reshape(3, -1)
    chance, Z = Q[draws].prod(axis=0), (f[draws] / (3 * Q[draws])).sum(axis=0)
    assert math.isclose(chance @ Z, f.sum(), rel_tol=1e-12)
    assert math.isclose(chance @ Z**2 - f.sum() ** 2, variance_with_replacement(Q, f, 3), rel_tol=1e-12)


@pytest.mark.parametrize("k, different, independent", [(5, "0.42", "0.35"), (8, "0.19", "0.28")])
def test_step_5_the_figures_of_the_page(k, different, independent):
    f = np.ones(10)
    assert f"{math.sqrt(variance(ZIPF, f, k)) / 10:.2f}" == different
    assert f"{math.sqrt(variance_with_replacement(ZIPF, f, k)) / 10:.2f}" == independent


def test_step_5_for_k_equal_to_1_the_variance_is_infinite():
    """What the times from t / 10 to t add to E[1 / (1 − e^{−q τ})] stays the same, however small t is."""
    terms = arrival_of(Q[1:], 1) / chance_of_arrival(Q[:1])[0]
    decades = [terms[(TIMES > t / 10) & (TIMES <= t)].sum() for t in (1e-2, 1e-4, 1e-6)]
    assert np.allclose(decades, (1 - Q[0]) / Q[0] * math.log(10), rtol=0.02)


# ---- (6): random ticks, and no V ------------------------------------------------------------------------------------


def test_step_6_words_and_times_of_unique_have_the_law_of_gumbel():
    """Of both together, the mean of a product: whether a word came, and a function of κ."""
    n, k = 20_000, 3
    laws = list(full_law(Q, k))
    for kind in ("unique, exact", "gumbel"):
        ids, seen = map(on_cpu, KINDS[kind](Q).draw(mg.Key(4), (n, k)))
        for word in range(4):
            exact = sum((chance * np.exp(-TIMES)).sum() for words, chance in laws if word in words)
            within_6_sigma((ids == word).any(axis=1) * np.exp(-np.exp(-seen)), exact)


@pytest.mark.parametrize("exact", [False, True])
def test_step_6_the_number_of_tries_does_not_grow_with_v(exact):
    for v in (10_000, 1_000_000):
        base = Asked(LogUniform(v))
        Unique(base, exact=exact).sample(mg.Key(0), 64)
        assert base.shapes == [(1, 2 * (64 + exact))]


def test_where_q_is_even_and_k_small_beside_v_hardly_more_tries_than_k_are_made():
    _, seen = Unique(Uniform(100_000)).draw(mg.Key(0), (100, 64))
    assert on_cpu(seen).min() >= 64 and on_cpu(seen).mean() < 64.2


# ---- (7): TensorFlow's count ----------------------------------------------------------------------------------------


@given(distributions(4), st.integers(1, 5))
def test_step_7_for_a_number_of_tries_fixed_beforehand_the_count_is_exact(q, n):
    def log_expected(q, n):
        sampler = Unique(Unigram(q, 1))
        return sampler.log_expected_count(np.arange(len(q)), n, on_device(n))

    properties.a_number_of_tries_fixed_beforehand_gives_the_chance_to_be_among_them(log_expected, q, n)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_7_what_is_seen_is_the_number_of_tries(k):
    n, law = 40_000, law_of_tries(Q, k).sum(axis=0) / k
    _, seen = Unique(Unigram(Q, 1)).draw(mg.Key(5), (n, k))
    assert seen.dtype == "int64"
    found = np.bincount(on_cpu(seen), minlength=len(law))
    for count, chance in zip(found, law):
        assert abs(count - n * chance) <= 6 * math.sqrt(n * chance * (1 - chance)) + 1e-6


def mean_terms(q, k):
    """E 1[w ∈ S] / count(w) for each w with TensorFlow's counts, over all draws and numbers of tries."""
    law = law_of_tries(q, k)
    assert math.isclose(law.sum(), k, rel_tol=1e-9)
    sampler, n = Unique(Unigram(q, 1)), np.arange(1, law.shape[1])
    counts = [on_cpu(sampler.log_expected_count(np.full(len(n), w), k, on_device(n))) for w in range(len(q))]
    return (law[:, 1:] / np.exp(counts)).sum(axis=1)


def test_step_7_the_figures_of_the_page():
    terms = mean_terms(ZIPF, 5)
    assert f"{100 * (terms[9] - 1):.0f} %" == "16 %", "the rarest word weighs too much"
    assert f"{100 * (1 - terms[0]):.0f} %" == "1 %", "the most frequent too little"
    assert (terms[1:] > 1).all() and (np.diff(terms) > 0).all(), "most too much, the rarer the more"


def test_step_7_its_counts_are_too_small_for_most_words_against_the_chance_to_be_in_the_sample():
    law, sampler, n = law_of_tries(ZIPF, 5), Unique(Unigram(ZIPF, 1)), np.arange(1, 401)
    of_tries = law.sum(axis=0)[1:] / 5
    off = []
    for w in range(10):
        mean = of_tries @ np.exp(on_cpu(sampler.log_expected_count(np.full(400, w), 5, on_device(n))))
        off.append(mean / law[w].sum() - 1)
    assert off[0] > 0 > max(off[1:]) and min(off) < -0.05


def test_step_7_for_k_equal_to_1_it_is_exact():
    assert np.allclose(mean_terms(ZIPF, 1), 1.0, rtol=1e-12)


def test_step_7_that_bias_is_the_one_of_the_draws():
    sampler, f = Unique(Unigram(ZIPF, 1)), np.arange(10.0) ** 2
    ids, seen = sampler.draw(mg.Key(6), (20_000, 5))
    Z = (f[on_cpu(ids)] * weights_of(sampler, ids, seen)).sum(axis=1)
    expected = f @ mean_terms(ZIPF, 5)
    within_6_sigma(Z, expected)
    assert abs(Z.mean() - f.sum()) > 0.1 * f.sum()


def test_step_7_waiting_for_the_next_word_as_step_4_does_takes_the_bias_away():
    """The same tries, of the same key: only the threshold differs."""
    f = np.arange(10.0) ** 2
    for exact in (False, True):
        sampler = Unique(Unigram(ZIPF, 1), exact=exact)
        ids, seen = sampler.draw(mg.Key(7), (20_000, 5))
        Z = (f[on_cpu(ids)] * weights_of(sampler, ids, seen)).sum(axis=1)
        off, sigma = abs(Z.mean() - f.sum()), Z.std() / math.sqrt(len(Z))
        assert (off < 6 * sigma) == exact


# ---- (8): 1 − e^{−rate} ---------------------------------------------------------------------------------------------


@given(st.integers(-300, 3))
def test_step_8_expm1_keeps_the_digits_of_a_small_rate(exponent):
    properties.digits_are_kept(log_count, exponent)


def test_step_8_of_a_small_rate_the_count_is_nearly_the_rate_and_both_are_one():
    q, n = 1e-9, 50
    by_tries, by_time = (
        np.exp(on_cpu(log_count(rate)))
        for rate in (
            distinct.rate_of_tries(on_device([q]), n),
            rate_of_threshold(on_device([math.log(q)]), on_device([-math.log(n)])),
        )
    )
    assert np.allclose([by_tries, by_time], q * n, rtol=1e-7)


@pytest.mark.parametrize("kind", ["unique, exact", "gumbel"])
def test_words_of_a_tiny_probability_have_a_count_as_tiny(kind):
    sampler = KINDS[kind]([1.0, 1.0, 1e-30, 0.0])
    found = sampler.log_expected_count(np.arange(4), 1, on_device(0.0))  # κ = 0: τ = 1
    assert np.allclose(on_cpu(found)[2], math.log(0.5e-30), rtol=1e-14) and found[3] == -math.inf


def test_words_of_a_tiny_probability_have_a_count_as_tiny_after_some_tries():
    sampler = KINDS["unique"]([1.0, 1.0, 1e-30, 0.0])
    found = on_cpu(sampler.log_expected_count(np.arange(4), 2, on_device(5)))
    assert np.allclose(found[:3], [math.log(1 - 0.5**5)] * 2 + [math.log(2.5e-30)], rtol=1e-14)
    assert found[3] == -math.inf


@each_kind
def test_a_word_alone_is_drawn_and_counts_once(kind):
    sampler = KINDS[kind]([0, 3, 0])
    ids, seen = sampler.draw(mg.Key(0), (4, 1))
    assert ids.tolist() == [[1]] * 4
    assert sampler.log_expected_count(ids, 1, seen).tolist() == [[0.0]] * 4


@each_kind
def test_what_never_occurs_is_never_drawn(kind):
    counts = [0.0, 1e-30, 5.0, 0.0, 1e-3, 2.0]
    ids = KINDS[kind](counts).sample(mg.Key(0), (50, 2))
    assert set(ids.ravel().tolist()) <= {1, 2, 4, 5}
    assert set(GumbelTopK(counts).sample(mg.Key(0), 4).tolist()) == {1, 2, 4, 5}, "however rare it is"


# ---- the interface --------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("shape", [1, 4, (4,), (2, 3), (5, 2, 3), [2, 3], (0, 3)])
def test_the_last_axis_is_one_draw_of_different_words(kind, shape):
    sampler = KINDS[kind](Q)
    ids, seen = sampler.draw(mg.Key(0), shape)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    assert ids.shape == shape and ids.dtype == "int64" and seen.shape == shape[:-1]
    assert all(len(set(row)) == shape[-1] for row in ids.reshape(-1, shape[-1]).tolist())
    counts = sampler.log_expected_count(ids, shape[-1], seen)
    assert counts.shape == shape and counts.dtype == "float64" and (counts <= 0).all()
    assert not sampler.replacement


@each_kind
def test_what_is_seen_of_a_draw_goes_with_its_row_and_with_its_target(kind):
    sampler = KINDS[kind](ZIPF)
    ids, seen = sampler.draw(mg.Key(1), (3, 4))
    by_rows = sampler.log_expected_count(ids, 4, seen)
    for row in range(3):
        assert np.allclose(on_cpu(by_rows[row]), on_cpu(sampler.log_expected_count(ids[row], 4, seen[row])), rtol=1e-14)
    assert np.allclose(on_cpu(sampler.log_expected_count(ids[:, 0], 4, seen)), on_cpu(by_rows[:, 0]), rtol=1e-14)


@each_kind
def test_the_same_key_draws_the_same_words_and_sees_the_same(kind):
    sampler = KINDS[kind](ZIPF)
    (a, seen_a), (b, seen_b), (c, _) = (sampler.draw(mg.Key(key), (20, 4)) for key in (1, 1, 2))
    assert (a == b).all() and (seen_a == seen_b).all() and (a != c).any()
    assert (sampler.sample(mg.Key(1), (20, 4)) == a).all()


class Asked(Sampler):
    """Draws as another does, and remembers the shapes that it was asked for."""

    def __init__(self, of):
        super().__init__(of.probs)
        self.of, self.shapes = of, []

    def _draw(self, key, shape):
        self.shapes.append(shape)
        return self.of._draw(key, shape)


@pytest.mark.parametrize("exact", [False, True])
def test_where_the_tries_are_too_few_more_are_made_and_the_law_stays(exact, monkeypatch):
    """All seven words of a skewed q take many tries; with few at once, what was found before is kept."""
    monkeypatch.setattr(Unique, "MAX_AT_ONCE", 21)
    base = Asked(Unigram(np.arange(1.0, 8.0) ** 3, 1))
    ids, seen = Unique(base, exact=exact).draw(mg.Key(0), (3, 7))
    assert len(base.shapes) > 3 and set(base.shapes[1:]) == {(3, 7)}
    assert all(len(set(row)) == 7 for row in ids.tolist())
    if not exact:
        assert (seen >= 7).all() and (seen <= sum(shape[1] for shape in base.shapes)).all()


@pytest.mark.parametrize("exact", [False, True])
def test_attempts_one_after_the_other_are_one_sequence_of_tries(exact):
    """Words, number of tries and κ are those of all the tries, and of all the times between them, side by side."""
    base, key = Asked(Unigram([0.9, 0.08, 0.01, 0.01], 1)), mg.Key(1)
    ids, seen = Unique(base, exact=exact).draw(key, 3 if exact else 4)
    attempts = list(enumerate(base.shapes))
    assert len(attempts) > 1
    drawn = np.concatenate([on_cpu(base.of.sample(key.fold(2 * i), shape))[0] for i, shape in attempts])
    firsts = np.sort(np.unique(drawn, return_index=True)[1])
    assert ids.tolist() == drawn[firsts[: len(ids)]].tolist()
    if exact:
        u = np.concatenate([on_cpu(key.fold(2 * i + 1).uniform(shape, "float64"))[0] for i, shape in attempts])
        assert math.isclose(seen, -math.log(-np.log1p(-u)[: firsts[3] + 1].sum()), rel_tol=1e-12)
    else:
        assert seen == firsts[3] + 1


# ---- what is refused ------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("shape", [0, 5, (2, 5), (3, 0), ()])
def test_a_number_of_words_that_cannot_be_drawn_is_refused(kind, shape):
    with pytest.raises(
        ValueError, match=r"how many different words to draw: it must lie in 1 to 4, .* got the shape \["
    ):
        KINDS[kind]([0, *Q]).draw(mg.Key(0), shape)


@pytest.mark.parametrize("exact", [False, True])
def test_a_q_that_is_too_uneven_is_an_error_and_no_endless_loop(exact, monkeypatch):
    monkeypatch.setattr(Unique, "MAX_TRIES", 5000)
    base = Asked(Unigram([1.0, 1e-12, 1e-12], 1))
    with pytest.raises(ValueError, match=r"tries found no \d different words: q is too uneven; take GumbelTopK"):
        Unique(base, exact=exact).draw(mg.Key(0), (2, 2))
    assert sum(shape[1] for shape in base.shapes) < 3 * 5000


@pytest.mark.parametrize("base", [None, [0.5, 0.5], lambda: Unique(Uniform(3)), lambda: GumbelTopK([1, 2])])
def test_a_base_that_is_no_independent_sampler_is_refused(base):
    with pytest.raises(TypeError, match=r"losses.samplers.Unique: base must be a sampler that draws with replacement"):
        Unique(base() if callable(base) else base)


@each_kind
def test_a_count_without_what_was_seen_is_refused(kind):
    sampler = KINDS[kind](Q)
    with pytest.raises(ValueError, match=r"log_expected_count: seen must be what draw gave with the ids, got None"):
        sampler.log_expected_count([0, 1], 2)
    ids, seen = sampler.draw(mg.Key(0), (3, 2))
    with pytest.raises(ValueError, match=r"got one for draws \[3\] beside ids \[2\]"):
        sampler.log_expected_count(ids[0], 2, seen)
    with pytest.raises(ValueError, match=r"log_expected_count: k must be at least 1, got 0"):
        sampler.log_expected_count(ids, 0, seen)
    with pytest.raises(IndexError, match=r"log_expected_count: ids must lie in \[0, 4\), got 4"):
        sampler.log_expected_count([[4, 0]] * 3, 2, seen)


# ---- In PyTorch -----------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@given(seed=st.integers(0, 99), k=st.integers(2, 9))
def test_in_pytorch_those_very_lines_have_the_same_counts_and_the_same_estimate(seed, k):
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    theirs = {"q": torch.tensor(ZIPF), "k": k, "scores": torch.linspace(-2, 2, 10, dtype=torch.float64)}
    exec(IN_PYTORCH, theirs)

    gumbel = on_device(theirs["gumbel"].numpy())
    ids, kappa = top_k(on_device(np.log(ZIPF)) + gumbel, k)
    assert ids.tolist() == theirs["ids"].tolist()
    sampler = GumbelTopK(ZIPF)
    weights = weights_of(sampler, ids, kappa)
    assert np.allclose(weights, 1 / theirs["counts"].numpy(), rtol=1e-12)
    Z = (np.exp(theirs["scores"].numpy()[on_cpu(ids)]) * weights).sum()
    assert math.isclose(Z, theirs["Z"].item(), rel_tol=1e-12)


@pytest.mark.oracle
def test_in_pytorch_multinomial_draws_by_the_same_law():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    n = 60_000
    ids = torch.multinomial(torch.tensor(Q).expand(n, 4), 2)
    for words, chance in ordered_draws(Q, 2).items():
        found = (ids == torch.tensor(words)).all(dim=1).double().numpy()
        within_6_sigma(found, chance)


def test_in_pytorch_with_k_q_for_a_count_frequent_words_would_weigh_too_little():
    """E 1[w ∈ S] / (k q(w)), exactly: below 1 for the most frequent, above for the rarest."""
    chance = np.zeros(10)
    for words, p in ordered_draws(ZIPF, 3).items():
        chance[list(words)] += p
    terms = chance / (3 * ZIPF)
    assert terms[0] < 0.8 and terms[-1] > 1.2 and (np.diff(terms) > 0).all()
