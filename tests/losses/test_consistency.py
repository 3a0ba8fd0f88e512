"""What each estimator learns: the table of `losses.consistency`, against plain Python and against theory."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from losses import check_consistency, outcomes
from losses import estimators as all_estimators
from losses.consistency import K, P, Q
from losses.estimators import C, estimators, log_p_minus_log_kq, log_p_plus_c
from losses.sampled.nce import nce
from losses.sampled.ranking import sampled_softmax, sampled_softmax_loss
from losses.samplers import GumbelTopK, Unigram, Unique

pytestmark = pytest.mark.consistency

ESTIMATORS = list(estimators())
NAMES = [e.name for e in ESTIMATORS]
SOFTMAX = [e for e in ESTIMATORS if e.claim == "log P + c"]
V = len(P)


def checked(estimator, k, **options):
    given = {"optimum": estimator.optimum, "draws": estimator.draws, **options}
    return check_consistency(estimator.loss_of_scores, k=k, **given)


def called(name):
    return next(e for e in ESTIMATORS if e.name == name)


def possible(estimator, ks=K):
    return [k for k in ks if k <= V or estimator.draws not in outcomes.DISTINCT]


# ---- the whole thing in plain Python ------------------------------------------------------------------------------


def σ(s):
    return 1 / (1 + math.exp(-s))


def cross_entropy(words, a):
    """[(word, ∂L/∂s)] of −log softmax(a)_0."""
    total = sum(map(math.exp, a))
    return [(w, math.exp(x) / total - (i == 0)) for i, (w, x) in enumerate(zip(words, a))]


def softmax(s, t, noise, count, of_target=1, of_noise=1, masked=False):
    noise = [n for n in noise if not (masked and n == t)]
    return cross_entropy(
        [t, *noise], [s[t] - of_target * math.log(count(t))] + [s[n] - of_noise * math.log(count(n)) for n in noise]
    )


def importance(s, t, noise, count):
    weights = [math.exp(s[n]) / count(n) for n in noise]
    return [(t, -1.0)] + [(n, weight / sum(weights)) for n, weight in zip(noise, weights)]


def binary(s, t, noise, count, masked=False):
    """Right, or noise? count(w) is 1 for negative sampling."""
    noise = [n for n in noise if not (masked and n == t)]
    return [(t, σ(s[t] - math.log(count(t))) - 1)] + [(n, σ(s[n] - math.log(count(n)))) for n in noise]


def kq(k):
    return lambda w: k * Q[w]


def independent(k):
    """(chance, noise, count) of k words from q: in sequence, or for k = 6 in each order at once."""
    if k < 6:
        for noise in itertools.product(range(V), repeat=k):
            yield math.prod(Q[n] for n in noise), noise, kq(k)
    else:
        for times in itertools.product(range(k + 1), repeat=V):
            if sum(times) == k:
                orders = math.factorial(k) / math.prod(map(math.factorial, times))
                noise = [w for w in range(V) for _ in range(times[w])]
                yield orders * math.prod(q**n for q, n in zip(Q, times)), noise, kq(k)


def subsets(k):
    pi = [1 - (1 - q) ** k for q in Q]
    for size in range(V + 1):
        for inside in itertools.combinations(range(V), size):
            yield math.prod(pi[w] if w in inside else 1 - pi[w] for w in range(V)), inside, lambda w: pi[w]


def one_by_one(k):
    kinds = []
    for noise in itertools.permutations(range(V), k):
        chance, left = 1.0, 1.0
        for n in noise:
            chance *= Q[n] / left
            left -= Q[n]
        kinds.append((chance, noise))
    counts = [sum(chance for chance, noise in kinds if w in noise) for w in range(V)]
    return [(chance, noise, lambda w: counts[w]) for chance, noise in kinds]


def until_distinct(k):
    """By inclusion and exclusion: n tries hit each word of a set, and no other, with Σ_{A ⊆ set} ± q(A)ⁿ."""

    def hit_all_of(words, n):
        parts = [a for size in range(len(words) + 1) for a in itertools.combinations(words, size)]
        return sum((-1) ** (len(words) - len(a)) * sum(Q[w] for w in a) ** n for a in parts)

    for noise in itertools.combinations(range(V), k):
        for tries in range(k, 250):
            chance = sum(Q[last] * hit_all_of([w for w in noise if w != last], tries - 1) for last in noise)
            yield chance, noise, lambda w, n=tries: 1 - (1 - Q[w]) ** n


def first_to_come(k, step=0.1):
    """w comes at a time of the rate q(w): by the time τ of the (k + 1)-th, a sum over log τ."""
    if k == V:
        yield 1.0, range(V), one
        return
    for i in range(round(30 / step)):
        τ = math.exp(-23 + i * step)
        π = [1 - math.exp(-q * τ) if q * τ > 1e-5 else q * τ * (1 - q * τ / 2) for q in Q]
        for noise in itertools.combinations(range(V), k):
            rest = [w for w in range(V) if w not in noise]
            in_time = math.prod(π[w] for w in noise) * math.prod(math.exp(-Q[w] * τ) for w in rest)
            yield in_time * sum(Q[w] for w in rest) * τ * step, noise, lambda w, π=π: π[w]


def one(w):
    return 1.0


PLAIN = {  # (name, claim): the draws, and [(word, G)] of scores, target, noise, expected count, k
    "full softmax": (lambda k: [(1.0, range(V), one)], lambda s, t, n, c, k: softmax(s, t, n, one, masked=True)),
    "importance sampling": (independent, lambda s, t, n, c, k: importance(s, t, n, c)),
    "sampled softmax": (independent, lambda s, t, n, c, k: softmax(s, t, n, c)),
    "sampled: hits left out": (independent, lambda s, t, n, c, k: softmax(s, t, n, c, masked=True)),
    "sampled: log q of the noise alone, hits left out": (
        independent,
        lambda s, t, n, c, k: softmax(s, t, n, c, of_target=0, masked=True),
    ),
    "sampled: no log q": (independent, lambda s, t, n, c, k: softmax(s, t, n, one)),
    "sampled: log q with the wrong sign": (independent, lambda s, t, n, c, k: softmax(s, t, n, lambda w: 1 / c(w))),
    "sampled: a set, each word in it independently": (subsets, lambda s, t, n, c, k: softmax(s, t, n, c, masked=True)),
    "sampled: distinct words, their overall chances": (
        one_by_one,
        lambda s, t, n, c, k: softmax(s, t, n, c, masked=True),
    ),
    "sampled: distinct words, counts from the tries": (
        until_distinct,
        lambda s, t, n, c, k: softmax(s, t, n, c, masked=True),
    ),
    "sampled: distinct words, counts from the times": (
        first_to_come,
        lambda s, t, n, c, k: softmax(s, t, n, c, masked=True),
    ),
    "in-batch softmax": (independent, lambda s, t, n, c, k: softmax(s, t, n, lambda w: Q[w])),
    "in-batch: no log q": (independent, lambda s, t, n, c, k: softmax(s, t, n, one)),
    "in-batch: log q with the wrong sign": (independent, lambda s, t, n, c, k: softmax(s, t, n, lambda w: 1 / Q[w])),
    "in-batch: repeats left out": (independent, lambda s, t, n, c, k: softmax(s, t, n, lambda w: Q[w], masked=True)),
    "NCE": (independent, lambda s, t, n, c, k: binary(s, t, n, c)),
    "NCE: where Z isn't one": (independent, lambda s, t, n, c, k: binary(s, t, n, c)),
    "NCE: log k forgotten": (independent, lambda s, t, n, c, k: binary(s, t, n, lambda w: Q[w])),
    "NCE: hits left out": (independent, lambda s, t, n, c, k: binary(s, t, n, c, masked=True)),
    "negative sampling": (independent, lambda s, t, n, c, k: binary(s, t, n, one)),
    "negative sampling: taken for log P": (independent, lambda s, t, n, c, k: binary(s, t, n, one)),
}
CLAIMS = {
    "log P + c": lambda k: [math.log(p) + C for p in P],
    "log P": lambda k: [math.log(p) for p in P],
    "log P − log kq": lambda k: [math.log(p) - math.log(k * q) for p, q in zip(P, Q)],
}


def plain(estimator, k):
    draws, gradient_of = PLAIN[estimator.name]
    s, total = CLAIMS[estimator.claim](k), [0.0] * V
    for chance, noise, count in draws(k):
        for t in range(V):
            for word, g in gradient_of(s, t, noise, count, k):
                total[word] += P[t] * chance * g
    return total


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=NAMES)
def test_each_row_of_the_table_is_what_plain_python_adds_up(estimator):
    for k, gradient in checked(estimator, possible(estimator)).gradients.items():
        assert np.allclose(gradient, plain(estimator, k), rtol=0, atol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=NAMES)
def test_it_is_zero_to_1e_12_where_theory_says_so_and_nowhere_else(estimator):
    found = checked(estimator, possible(estimator))
    sizes = found.sizes
    assert found.shapes == {k: "minimum" for k in sizes if estimator.zero(k, V)}
    assert all(size <= 1e-12 for k, size in sizes.items() if estimator.zero(k, V))
    assert all(size > 0.005 for k, size in sizes.items() if not estimator.zero(k, V))


# ---- (1) to (3) -----------------------------------------------------------------------------------------------------


def test_step_1_there_are_78125_outcomes_for_five_words_and_k_6():
    draw = outcomes.all_outcomes(*map(mg.backend.asarray, (P, Q)), 6)
    assert len(draw.chance) == 78_125 and math.isclose(float(draw.chance.sum()), 1.0, rel_tol=1e-12)


@pytest.mark.parametrize("estimator", [called("sampled: hits left out"), called("NCE")], ids=["softmax", "NCE"])
def test_step_2_it_is_the_slope_of_the_population_loss(estimator):
    s, h = np.linspace(-1.0, 2.0, V), 1e-5

    def population_loss(s):
        draw = outcomes.all_outcomes(*map(mg.backend.asarray, (P, Q)), 2)
        scores = mg.tensor(s)
        losses = estimator.loss_of_scores(mg.take(scores, draw.targets), mg.take(scores, draw.noise), draw)
        return (losses.numpy() * mg.to_cpu(draw.chance)).sum()

    slopes = [(population_loss(s + h * e) - population_loss(s - h * e)) / (2 * h) for e in np.eye(V)]
    assert np.allclose(checked(estimator, 2, optimum=s).gradients[2], slopes, rtol=0, atol=1e-8)


def curvature(estimator, s, k=2, h=1e-4):
    """The matrix of second derivatives of the population loss, by differences of its gradient."""
    gradient = lambda s: checked(estimator, k, optimum=s).gradients[k]
    return np.array([(gradient(s + h * e) - gradient(s - h * e)) / (2 * h) for e in np.eye(V)])


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=NAMES)
def test_step_3_the_population_loss_is_convex(estimator):
    for s in (np.zeros(V), np.linspace(-3.0, 2.0, V)):
        assert np.linalg.eigvalsh(curvature(estimator, s)).min() > -1e-7


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e.zero(2, V)], ids=lambda e: e.name)
def test_step_3_the_zero_is_the_only_one_but_for_c(estimator):
    s = mg.to_cpu(estimator.optimum(*map(mg.backend.asarray, (P, Q)), 2))
    flat, *curved = np.linalg.eigvalsh(curvature(estimator, s))
    assert min(curved) > 1e-3
    assert (abs(flat) < 1e-7) if estimator in SOFTMAX else (flat > 1e-3), "a softmax doesn't see c, NCE does"


@pytest.mark.parametrize("c", [-3.0, 0.0, 1.7])
@pytest.mark.parametrize("estimator", SOFTMAX[:-1], ids=lambda e: e.name)
def test_step_3_what_normalises_does_not_see_c(estimator, c):
    found = checked(estimator, 2, optimum=np.log(P) + c).gradients[2]
    assert np.allclose(found, checked(estimator, 2).gradients[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "estimator, off",
    [(called("sampled softmax"), 0.0), (called("importance sampling"), 0.1), (called("sampled: no log q"), 0.1)],
    ids=["consistent", "importance", "no-log-q"],
)
def test_step_3_descending_from_the_truth_stays_there_or_leads_away(estimator, off):
    s = np.log(P)
    for _ in range(300):
        s = s - 2.0 * checked(estimator, 1, optimum=s).gradients[1]
    learnt = np.exp(s) / np.exp(s).sum()
    assert (abs(learnt - P).max() < 1e-9) if off == 0 else (abs(learnt - P).max() > off)


# ---- (4) ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(0, 1), (3, 3, 1), (4, 0, 2, 0)])
def test_step_4_the_softmax_of_the_corrected_scores_is_the_chance_of_each_place_to_hold_the_target(words):
    chance = [P[w] * math.prod(Q[v] for j, v in enumerate(words) if j != i) for i, w in enumerate(words)]
    corrected = [math.exp(math.log(P[w]) + C - math.log(Q[w])) for w in words]
    assert np.allclose(np.array(chance) / sum(chance), np.array(corrected) / sum(corrected), rtol=1e-12)


@pytest.mark.parametrize("words", [(0, 1), (0, 2, 4)])
def test_step_4_of_a_set_of_independent_words_too(words):
    pi = [1 - (1 - q) ** 3 for q in Q]
    chance = dict.fromkeys(words, 0.0)
    for target in words:
        for in_set, inside, _ in subsets(3):
            if {target, *inside} == set(words):
                chance[target] += P[target] * in_set
    corrected = [P[w] / pi[w] for w in words]
    assert np.allclose(np.array(list(chance.values())) / sum(chance.values()), np.array(corrected) / sum(corrected))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_step_4_a_batch_of_targets_is_noise_from_their_distribution(k):
    for what in ("softmax", "hits left out", "no log q", "log q with the wrong sign"):
        sampled, in_batch = (
            called(f"sampled {what}" if what == "softmax" else f"sampled: {what}"),
            called(f"in-batch {what}" if what == "softmax" else f"in-batch: {what.replace('hits', 'repeats')}"),
        )
        assert np.allclose(checked(in_batch, k).gradients[k], checked(sampled, k).gradients[k], rtol=0, atol=1e-12)


def test_step_4_with_an_even_q_there_is_nothing_to_take_off():
    even = [1 / V] * V
    for name in ("sampled: no log q", "sampled: log q with the wrong sign"):
        assert checked(called(name), (1, 2, 4), q=even).consistent


def test_step_4_all_words_once_with_count_one_are_the_full_softmax():
    for name in ("their overall chances", "counts from the times"):
        assert checked(called(f"sampled: distinct words, {name}"), V).consistent
    assert checked(called("sampled: distinct words, counts from the tries"), V).sizes[V] > 0.07, "its counts are not 1"


# ---- (5) ------------------------------------------------------------------------------------------------------------


def test_step_5_the_bias_of_importance_sampling_is_first_order_in_one_over_k():
    p, q = np.array(P), np.array(Q)
    theory = -(p**2 / q - p * (p**2 / q).sum())
    found = checked(called("importance sampling"), (6, 12, 24), draws=outcomes.unordered).gradients
    off = [abs(k * gradient - theory).max() for k, gradient in found.items()]
    assert off[2] < 0.02 * abs(theory).max()
    assert all(after < 0.6 * before for before, after in itertools.pairwise(off)), "what is left falls like 1/k"


def test_step_5_with_q_equal_to_p_it_is_exact():
    row = called("importance sampling")
    assert checked(row, (2, 4), q=P).consistent
    assert checked(row, 1, q=P).shapes == {1: "flat"}, "with k = 1 it is a difference of two scores, a straight line"


def test_step_5_the_others_that_have_log_q_in_part_go_to_zero_and_those_without_do_not():
    def falls(name):
        sizes = list(checked(called(name), K).sizes.values())
        return sizes == sorted(sizes, reverse=True)

    assert falls("importance sampling") and falls("sampled: log q of the noise alone, hits left out")
    assert (
        not falls("sampled: hits left out")
        and not falls("sampled: no log q")
        and not falls("sampled: log q with the wrong sign")
    )


# ---- what can be drawn ----------------------------------------------------------------------------------------------

LAWS = [
    outcomes.with_replacement,
    outcomes.unordered,
    outcomes.without_replacement,
    outcomes.tries,
    outcomes.times,
    outcomes.inclusion,
    outcomes.every_word,
]


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_chances_of_all_that_can_be_drawn_sum_to_one(law, k):
    draw = outcomes.all_outcomes(*map(mg.backend.asarray, (P, Q)), k, law)
    assert (draw.chance > 0).all() and math.isclose(float(draw.chance.sum()), 1.0, rel_tol=1e-12)
    assert np.allclose(np.bincount(mg.to_cpu(draw.targets), mg.to_cpu(draw.chance), V), P, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize(
    "law", [law for law in LAWS if law not in (outcomes.tries, outcomes.times)], ids=lambda law: law.__name__
)
def test_a_word_is_drawn_as_often_as_its_expected_count_says(law, k):
    draw = law(mg.backend.asarray(Q), k)
    there = 1.0 if draw.absent is None else 1.0 - mg.to_cpu(draw.absent)
    times = mg.to_cpu(draw.chance)[:, None] * there * np.ones(draw.words.shape)
    found = np.bincount(mg.to_cpu(draw.words).ravel(), times.ravel(), V)
    assert np.allclose(found, np.exp(mg.to_cpu(draw.log_counts)), rtol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_the_expected_counts_in_plain_numbers(k):
    plain_count = {
        outcomes.with_replacement: lambda q: k * q,
        outcomes.unordered: lambda q: k * q,
        outcomes.inclusion: lambda q: 1 - (1 - q) ** k,
        outcomes.every_word: lambda q: 1,
    }
    for law, count in plain_count.items():
        told = np.exp(mg.to_cpu(law(mg.backend.asarray(Q), k).log_counts))
        assert np.allclose(told, [count(q) for q in Q], rtol=1e-12)


def within_6_sigma(found, chance, n):
    """Whether outcomes with these chances can have come so often, of n."""
    assert sum(found.values()) == n and set(found) <= set(chance)
    for outcome, p in chance.items():
        assert abs(found.get(outcome, 0) - n * p) <= 6 * math.sqrt(n * p * (1 - p)) + 1


def counted(rows):
    kinds, times = np.unique(rows, axis=0, return_counts=True)
    return dict(zip(map(tuple, kinds.tolist()), times.tolist()))


def test_the_laws_are_those_of_the_samplers():
    n, q = 20_000, mg.backend.asarray(Q)
    drawn, how_many = Unique(Unigram(Q, 1)).draw(mg.Key(0), (n, 2))
    law = outcomes.tries(q, 2)
    found = counted(np.c_[mg.to_cpu(drawn), mg.to_cpu(how_many)])
    chance, seen = {}, 2
    for words, p in zip(law.words.tolist(), law.chance.tolist()):
        seen = seen + 1 if chance and (*words, seen) in chance else 2
        chance[(*words, seen)] = p
    within_6_sigma(found, chance, n)

    law = outcomes.without_replacement(q, 2)
    chance = dict(zip(map(tuple, law.words.tolist()), law.chance.tolist()))
    within_6_sigma(counted(mg.to_cpu(drawn)), chance, n)
    within_6_sigma(counted(mg.to_cpu(GumbelTopK(Q).sample(mg.Key(1), (n, 2)))), chance, n)


@pytest.mark.parametrize("k", [1, 3])
def test_the_counts_from_the_times_are_those_of_gumbel_top_k(k):
    """And so are the chances of the sets; what its counts say on average of 1[w in S] / count is 1, exactly."""
    q = mg.backend.asarray(Q)
    law, one_by_one = outcomes.times(q, k), outcomes.without_replacement(q, k)

    def by_set(noise):
        chance = {}
        for words, p in zip(np.sort(mg.to_cpu(noise.words)).tolist(), mg.to_cpu(noise.chance).tolist()):
            chance[tuple(words)] = chance.get(tuple(words), 0.0) + p
        return chance

    found, expected = by_set(law), by_set(one_by_one)
    assert found.keys() == expected.keys() and all(math.isclose(found[s], expected[s], rel_tol=1e-11) for s in found)
    words, log_π = mg.to_cpu(law.words), mg.to_cpu(law.log_counts)
    weight = mg.to_cpu(law.chance)[:, None] * np.exp(-np.take_along_axis(log_π, words, axis=1))
    assert np.allclose(np.bincount(words.ravel(), weight.ravel(), V), 1.0, rtol=0, atol=1e-8)

    _, κ = GumbelTopK(Q).draw(mg.Key(0), (1, k))
    told = mg.to_cpu(GumbelTopK(Q).log_expected_count(np.arange(V)[None], k, κ))[0]
    rate = -np.log1p(-np.exp(told))  # q τ, in both
    assert np.allclose(rate / rate.sum(), Q, rtol=1e-9)
    rates = -np.log1p(-np.exp(log_π[log_π.max(axis=1) < -1e-3]))
    assert np.allclose(rates / rates.sum(axis=1, keepdims=True), Q, rtol=1e-6)


def test_the_counts_from_the_tries_are_those_that_the_sampler_tells():
    law = outcomes.tries(mg.backend.asarray(Q), 3)
    first = law.log_counts[0]  # three tries for three words
    told = Unique(Unigram(Q, 1)).log_expected_count(np.arange(V), 3, mg.backend.asarray(3))
    assert np.allclose(mg.to_cpu(first), mg.to_cpu(told), rtol=1e-12)


# ---- a function of one's own ----------------------------------------------------------------------------------------


def losses_alone(target, noise, draw):
    return sampled_softmax_loss(
        target, noise, log_count_target=draw.log_count_target, log_count_noise=draw.log_count_noise
    )


def composed(target, noise, draw):
    a, b = target - draw.log_q_target, noise - draw.log_q_noise
    return mg.logsumexp(mg.concat([a.reshape((-1, 1)), b], axis=1), axis=1) - a


def with_gradients(target, noise, draw):
    return sampled_softmax(target, noise, log_count_target=draw.log_count_target, log_count_noise=draw.log_count_noise)


def of_arrays(target, noise, draw):
    return with_gradients(target.data, noise.data, draw)


@pytest.mark.parametrize("way", [losses_alone, composed, with_gradients, of_arrays])
def test_losses_as_the_engine_finds_them_or_with_their_gradients_of_tensors_or_arrays(way):
    found = check_consistency(way, k=(1, 3), optimum=log_p_plus_c)
    assert found.consistent and set(found.gradients) == {1, 3}
    elsewhere = check_consistency(way, k=2, optimum=np.zeros(V)).gradients[2]
    expected = check_consistency(composed, k=2, optimum=np.zeros(V)).gradients[2]
    assert np.allclose(elsewhere, expected, rtol=0, atol=1e-13) and abs(expected).max() > 0.05


def test_the_optimum_is_log_p_unless_another_is_claimed():
    loss = lambda t, n, draw: nce(t, n, log_kq_target=draw.log_count_target, log_kq_noise=draw.log_count_noise)
    assert check_consistency(loss).consistent
    assert not check_consistency(loss, optimum=log_p_plus_c).consistent
    assert not check_consistency(loss, optimum=log_p_minus_log_kq).consistent


SIGNS = np.array([-1.0, 1.0, 1.0, 1.0, 1.0])


def a_saddle(target, noise, draw):
    """Its mean is Σ_w ± P(w) (s_w − log P(w))²."""
    off = target - mg.backend.asarray(np.log(P))[draw.targets]
    return mg.backend.asarray(SIGNS)[draw.targets] * off * off + 0.0 * noise.sum(axis=1)


@pytest.mark.parametrize(
    "loss, what",
    [
        (composed, "minimum"),
        (lambda t, n, draw: -composed(t, n, draw), "maximum"),
        (lambda t, n, draw: 0.0 * composed(t, n, draw), "flat"),
        (a_saddle, "saddle"),
    ],
    ids=["minimum", "maximum", "flat", "saddle"],
)
def test_a_zero_that_is_no_minimum_is_not_called_consistent(loss, what):
    found = check_consistency(loss, k=(1, 3))
    assert max(found.sizes.values()) < 1e-12 and found.shapes == {1: what, 3: what}
    assert found.consistent == (what == "minimum")
    wrong = f"\nnot consistent: zero to 1e-12, but it is no minimum: {what} for k = 1, {what} for k = 3"
    assert str(found).endswith(wrong if what != "minimum" else "\nconsistent: zero to 1e-12")


def test_where_a_gradient_is_not_zero_this_is_told_before_the_zeros_that_are_no_minima():
    """Flat for k = 1 and 4, a minimum for k = 2, and else as without log q."""
    factor = {1: 0.0, 4: 0.0}
    loss = lambda t, n, draw: (
        composed(t, n, draw) if draw.k == 2 else factor.get(draw.k, 1.0) * (mg.logsumexp(n, axis=1) - t)
    )
    said = str(check_consistency(loss, k=(1, 2, 3, 4, 5))).splitlines()[-1]
    wanted = "not consistent: not zero to 1e-12 for k = 3, 5; zero, but no minimum: flat for k = 1, flat for k = 4"
    assert said == wanted
    assert str(check_consistency(loss, k=(2, 3))).endswith("\nnot consistent: zero to 1e-12 for k = 2 only")
    assert str(check_consistency(loss, k=(3, 5))).endswith("\nnot consistent: not zero to 1e-12")


def test_the_verdict_that_the_readme_shows_is_the_last_line_of_what_it_prints():
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (code,) = (part for part in readme.split("```python\n")[1:] if "check_consistency" in part.split("```")[0])
    body, shown = code.split("```")[0].split("print(check_consistency(mine))  # its last line: ")
    names = {}
    exec(body, names)
    assert str(check_consistency(names["mine"])).splitlines()[-1] == shown.strip()


def test_a_constant_added_to_all_scores_is_no_direction_that_counts():
    """Least in all differences of scores, greatest in their sum: what is learnt, but for a constant, is P."""

    def loss(target, noise, draw):
        log_p = mg.backend.asarray(np.log(P))
        t, n = target - log_p[draw.targets], noise[:, 0] - log_p[draw.noise[:, 0]]
        return (t - n) * (t - n) - 0.2 * (t + n) * (t + n)

    assert check_consistency(loss, k=1).shapes == {1: "minimum"}


def test_what_is_not_zero_has_no_shape():
    assert check_consistency(composed, k=2, optimum=np.zeros(V)).shapes == {}


# ---- what a number that isn't zero does not say ---------------------------------------------------------------------


def off(p, s):
    """KL(p ‖ softmax(s))."""
    return (p * (np.log(p) - s + np.log(np.exp(s).sum()))).sum()


def test_without_log_q_the_minimum_is_one_for_every_k_though_the_number_grows():
    row, p, q = called("sampled: no log q"), np.array(P), np.array(Q)
    assert checked(row, K, optimum=np.log(p / q)).consistent
    assert off(p, np.log(p / q)) > 0.09
    sizes = list(checked(row, K).sizes.values())
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0]


def test_nce_that_forgets_log_k_has_the_greatest_number_and_is_off_by_log_k_alone():
    sizes = {e.name: checked(e, 6).sizes[6] for e in ESTIMATORS if 6 in possible(e)}
    assert max(sizes, key=sizes.get) == "NCE: log k forgotten"
    for k in (2, 6):
        s = np.log(P) - math.log(k)
        assert checked(called("NCE: log k forgotten"), k, optimum=s).consistent
        assert off(np.array(P), s) < 1e-12


@pytest.mark.parametrize("k", [1, 2, 4])
def test_importance_sampling_has_no_minimum_here_up_to_k_4(k):
    """Where 1 − (1 − q(T))^k < P(T) raising the scores of the words T lowers the loss without end."""
    sets = [T for size in range(1, V) for T in itertools.combinations(range(V), size)]
    slope = {T: 1 - (1 - sum(Q[w] for w in T)) ** k - sum(P[w] for w in T) for T in sets}
    T = min(slope, key=slope.get)
    far = np.log(P) + 30.0 * np.isin(np.arange(V), T)
    assert slope[T] < -0.05
    found = checked(called("importance sampling"), k, optimum=far).gradients[k]
    assert math.isclose(sum(found[list(T)]), slope[T], rel_tol=1e-6)


def test_a_loss_that_looks_at_the_first_noise_word_only_is_seen():
    cut = lambda t, n, draw: with_gradients(t, n[:, :1], draw._replace(log_count_noise=draw.log_count_noise[:, :1]))

    def first_only(target, noise, draw):
        loss, g_target, g_first = cut(target, noise, draw)
        return loss, g_target, mg.concat([g_first] + [0.0 * noise[:, 1:]], axis=1)

    assert check_consistency(first_only, optimum=log_p_plus_c).consistent, "as with k = 1: right, if wasteful"
    nce_first = lambda t, n, draw: nce(
        t, n[:, :1], log_kq_target=draw.log_count_target, log_kq_noise=draw.log_count_noise[:, :1]
    )[0]
    assert check_consistency(nce_first, k=1).consistent and not check_consistency(nce_first, k=2).consistent


def test_it_prints_the_distributions_the_gradient_and_the_verdict():
    said = str(check_consistency(called("sampled: hits left out").loss_of_scores, optimum=log_p_plus_c, k=(1, 2)))
    lines = said.splitlines()
    assert lines[0].split() == ["P", *(f"{p:.4f}" for p in P)]
    assert lines[1].split() == ["q", *(f"{q:.4f}" for q in Q)]
    assert lines[3].split()[:2] == ["1", "0"] and len(lines[3].split()) == 2 + V
    assert lines[-1] == "not consistent: zero to 1e-12 for k = 1 only"
    assert str(check_consistency(composed, k=2)).endswith("\nconsistent: zero to 1e-12")


def test_what_is_nearly_zero_is_not_zero():
    """Of the full softmax, a millionth of a nat beside its optimum."""
    full = called("full softmax")
    beside = np.log(P) + 1e-6 * np.eye(V)[0]
    found = check_consistency(full.loss_of_scores, k=1, optimum=beside, draws=full.draws)
    assert 1e-8 < found.sizes[1] < 1e-6
    assert not found.consistent and found.shapes == {}
    assert "not zero to 1e-12" in str(found) and f"{found.sizes[1]:.0e}" in str(found)


def test_the_table_prints_a_row_an_estimator_and_a_dash_where_distinct_words_run_out():
    table = all_estimators.table(k=(1, 6))
    lines = str(table).splitlines()
    assert lines[1] == "P = 0.40, 0.25, 0.20, 0.10, 0.05" and lines[2] == "q = 0.10, 0.30, 0.15, 0.25, 0.20"
    assert len(lines) == 4 + len(ESTIMATORS)
    row = next(line for line in lines if "their overall chances" in line)
    assert row.split()[-3:] == ["0", "–", "zero"]
    assert [e.name for e, _ in table.rows] == [e.name for e in ESTIMATORS]
    assert next(line for line in lines if line.startswith("NCE")).split() == ["NCE", "log", "P", "0", "0", "zero"]


def test_the_table_for_other_words():
    table = all_estimators.table(P=mg.backend.asarray([0.5, 0.3, 0.2]), q=[0.2, 0.2, 0.6], k=3)
    assert [found.consistent for _, found in table.rows] == [e.zero(3, 3) for e in ESTIMATORS]
    assert "P = 0.50, 0.30, 0.20\n" in str(table)


def test_the_table_leaves_out_what_no_k_has():
    lines = str(all_estimators.table(k=6)).splitlines()
    assert next(line for line in lines if "from the tries" in line).split()[-1] == "–"


def test_the_table_has_each_name_once():
    assert len(set(NAMES)) == len(NAMES) == len(PLAIN)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"loss_of_scores": 3}, TypeError, "loss_of_scores must be a function of"),
        ({"P": [0.5, 0.6]}, ValueError, r"P must be a distribution: .* got \[0.5, 0.6\]"),
        ({"P": [1.0, 0.0]}, ValueError, "P must be a distribution"),
        ({"P": [1.0]}, ValueError, "P must be a distribution"),
        ({"q": [0.5, math.nan]}, ValueError, "q must be a distribution"),
        ({"q": "half"}, ValueError, "q must be a distribution"),
        ({"q": [0.5, 0.5]}, ValueError, "P and q must be of the same words, got 5 and 2"),
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"k": (1, 2.0)}, TypeError, "k must be an integer, got float 2.0"),
        ({"k": ()}, ValueError, "k must be a number of noise words, or several, got none"),
        ({"optimum": [0.0, 1.0]}, ValueError, r"optimum must be scores of shape \(5,\), got \[2\]"),
        ({"loss_of_scores": lambda t, n, draw: t.sum()}, ValueError, r"must return the losses \[25\], .* got \[\]"),
        ({"loss_of_scores": lambda t, n, draw: n}, ValueError, r"must return the losses \[25\], .* got \[25, 1\]"),
        ({"loss_of_scores": lambda t, n, draw: None}, ValueError, "must return the losses .* got NoneType"),
        ({"loss_of_scores": lambda t, n, draw: (t, t)}, ValueError, r"got \[25\], \[25\]$"),
        ({"loss_of_scores": lambda t, n, draw: (t, n, t)}, ValueError, r"got \[25\], \[25, 1\], \[25\]$"),
        ({"loss_of_scores": lambda t, n, draw: t.data}, TypeError, "losses without their history"),
        ({"loss_of_scores": lambda t, n, draw: t.detach()}, TypeError, "losses without their history"),
        ({"loss_of_scores": lambda t, n, draw: -t}, TypeError, "doesn't depend on noise_scores: was it taken out by"),
        ({"loss_of_scores": lambda t, n, draw: n.sum(axis=1)}, TypeError, "the loss doesn't depend on target_scores"),
        ({"draws": "tries"}, TypeError, r"draws must be a function \(q, k\) -> Noise, .* got 'tries'"),
        ({"optimum": np.log}, TypeError, r"optimum must be scores \(V,\) or a function \(P, q, k\) -> \(V,\): "),
        ({"loss_of_scores": lambda t, n, draw: (t, math.nan * t, n)}, FloatingPointError, "k = 1 holds NaN"),
    ],
)
def test_what_cannot_be_checked_is_refused(options, error, message):
    given = {"loss_of_scores": composed, "k": 1, **options}
    with pytest.raises(error, match=f"losses.check_consistency: .*{message}"):
        check_consistency(given.pop("loss_of_scores"), **given)


def test_a_table_of_no_k_is_refused():
    with pytest.raises(ValueError, match=r"losses.estimators.table: k must be a number of noise words, or several"):
        all_estimators.table(k=[])


UNEVEN = [0.5 - 1e-6, 0.5 - 1e-6, 1e-6, 1e-6]


@pytest.mark.parametrize(
    "law, q, k, message",
    [
        ("with_replacement", Q, 9, "5 words and k = 9 have too many outcomes to add up, over 2,000,000"),
        ("unordered", Q, 60, "5 words and k = 60 have too many outcomes"),
        ("without_replacement", [0.1] * 10, 7, "10 words and k = 7 have too many outcomes"),
        ("without_replacement", Q, 6, "6 distinct words cannot be drawn from 5"),
        ("tries", Q, 6, "6 distinct words cannot be drawn from 5"),
        ("times", Q, 6, "6 distinct words cannot be drawn from 5"),
        ("times", [0.05] * 20, 9, "20 words and k = 9 have too many outcomes"),
        ("tries", UNEVEN, 3, "4 words and k = 3 have too many outcomes"),
        ("inclusion", [0.05] * 20, 1, "20 words and k = 1 have too many outcomes"),
    ],
)
def test_what_cannot_be_enumerated_is_refused(law, q, k, message):
    with pytest.raises(ValueError, match=f"losses.outcomes.{law}: {message}"):
        check_consistency(composed, P=[1 / len(q)] * len(q), q=q, k=k, draws=getattr(outcomes, law))
