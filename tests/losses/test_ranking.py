"""The sampled softmax: a test for each numbered step of `losses.sampled.ranking`, and an oracle in torch."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import strict
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from losses import FullSoftmax, SampledSoftmax, check_consistency, estimators
from losses.check import smallest_failure
from losses.sampled.ranking import IN_PYTORCH, sampled_softmax, sampled_softmax_loss, sampled_softmax_naive
from losses.samplers import GumbelTopK, Uniform, Unigram, Unique
from losses.suites.negative import distributions
from losses.suites.ranking import CHAPTER, examples, examples_with_hits, mean_gradient
from minigrad.check import vocab_batches

from .properties import expected_loss, gradients, layer_with_scores, where_tensors_are_made

pytestmark = pytest.mark.ranking

fewer = settings(max_examples=max(5, settings().max_examples // 4))  # where an example takes its time
there = where_tensors_are_made(sampled_softmax)
P, Q = np.array([0.5, 0.25, 0.15, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])


@pytest.fixture
def on_the_double(new_tensors_there):
    """On the double of CuPy, which counts copies and waits, whatever --device says."""
    with strict.installed():
        mg.set_device("gpu")
        yield
        mg.set_device("cpu")


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, there, max_examples=40) is None


# ---- (1): the question --------------------------------------------------------------------------------------------


def shuffled(p, q, k):
    """Every (place of the target, words in their places) and its probability, counted out: the game of (1)."""
    chances = {}
    for t, *noise in itertools.product(range(len(p)), repeat=1 + k):
        for place in range(k + 1):
            words = (*noise[:place], t, *noise[place:])
            chance = p[t] * math.prod(q[n] for n in noise) / (k + 1)
            chances[place, words] = chances.get((place, words), 0) + chance
    return chances


THIRDS = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_1_where_the_target_is_once_the_words_are_seen(k):
    p, q = THIRDS, THIRDS[::-1]
    chances = shuffled(p, q, k)
    assert sum(chances.values()) == 1
    for place, words in chances:
        seen = sum(chances[other, words] for other in range(k + 1))
        assert chances[place, words] / seen == p[words[place]] / q[words[place]] / sum(p[w] / q[w] for w in words)


@pytest.mark.parametrize("k", [1, 2])
def test_step_5_at_log_p_plus_any_constant_the_models_answer_is_the_true_one(k):
    p, q = THIRDS, THIRDS[::-1]
    s, log_q = np.log([float(x) for x in p]) + 7.0, np.log([float(x) for x in q])
    chances = shuffled(p, q, k)
    for words in {words for _, words in chances}:
        seen = sum(chances[place, words] for place in range(k + 1))
        for place in range(k + 1):
            target, noise = words[place], list(words[:place] + words[place + 1 :])
            options = {"log_count_target": log_q[[target]], "log_count_noise": log_q[[noise]]}
            loss = there(s[[target]], s[[noise]], **options)[0]
            assert math.isclose(math.exp(-loss[0]), chances[place, words] / seen, rel_tol=1e-12)


# ---- (2) to (4): the loss and its gradient ------------------------------------------------------------------------


@given(examples())
def test_step_3_softplus_is_the_softmax_of_k_plus_one_words_and_both_ways_have_one_gradient(example):
    target, noise = map(mg.param, example[:2])
    counts = dict(zip(("log_count_target", "log_count_noise"), map(mg.backend.asarray, example[2:])))
    fused, naive = sampled_softmax_loss(target, noise, **counts), sampled_softmax_naive(target, noise, **counts)
    assert np.allclose(fused.numpy(), naive.numpy(), rtol=1e-9, atol=1e-14)
    pairs = zip(mg.grad(fused.sum(), [target, noise]), mg.grad(naive.sum(), [target, noise]))
    assert all(np.allclose(mg.to_cpu(f), mg.to_cpu(n), rtol=1e-9, atol=1e-13) for f, n in pairs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_3_the_loss_at_minus_1000_is_1000_and_naively_no_number(dtype):
    target, noise = mg.backend.asarray([-1000.0], dtype), mg.backend.asarray([[0.0]], dtype)
    zeros = {"log_count_target": 0.0 * target, "log_count_noise": 0.0 * noise}
    assert sampled_softmax(target, noise, **zeros)[0].tolist() == [1000.0]
    with np.errstate(all="ignore"):
        assert not np.isfinite(sampled_softmax_naive(mg.tensor(target), mg.tensor(noise), **zeros).numpy()).any()


def test_step_3_nothing_of_float32_is_lost_in_scores_that_are_far_from_zero():
    """log Σ e^a is rounded to its own digits, 6·10⁻⁵ near 1000, unless s_t is subtracted before."""
    s, log_count = np.array([1000.0, 1000.5, 999.25], "float32"), np.log([0.3, 0.1, 0.2]).astype("float32")
    loss = there(s[:1], s[None, 1:], log_count_target=log_count[:1], log_count_noise=log_count[1:])[0]
    a = (s - 1000.0).astype("float64") - log_count
    assert math.isclose(loss[0], math.log(np.exp(a).sum()) - a[0], rel_tol=3e-7)


@fewer
@given(examples_with_hits(), st.booleans())
def test_step_4_gradients_are_right_to_second_order(example, with_hits):
    target, noise, *counts, hits = example
    counts = dict(zip(("log_count_target", "log_count_noise"), map(mg.backend.asarray, counts)))
    hits = mg.backend.asarray(hits) if with_hits else None
    mg.check_grads(lambda target, noise: sampled_softmax_loss(target, noise, **counts, hits=hits), target, noise)


@given(examples(limit=1000.0))
def test_step_4_the_gradients_of_an_example_add_up_to_zero_and_none_is_larger_than_one(example):
    target, noise, *counts = example
    _, g_target, g_noise = there(target, noise, log_count_target=counts[0], log_count_noise=counts[1])
    assert np.allclose(g_target + g_noise.sum(axis=1), 0.0, rtol=0, atol=1e-12)
    assert (-1 <= g_target).all() and (g_target <= 0).all() and (0 <= g_noise).all() and (g_noise <= 1).all()


@pytest.mark.parametrize("shared", [None, 3])
def test_step_4_the_parts_of_a_word_that_occurs_twice_add_up(shared):
    """The target 1 is a hit as well, and 2 comes twice: by hand, a softmax over {1, 1, 2, 2} with a = s − log(3 q)."""
    layer = SampledSoftmax(4, 1, key=mg.Key(0), k=3, shared=shared, counts=[1, 2, 3, 4], bias=False)
    s = [0.5, -1.0, 2.0, 0.0]
    layer.weight = mg.param(np.array(s)[:, None])
    noise = np.array([1, 2, 2] if shared else [[1, 2, 2]])
    loss = layer.loss(np.ones((1, 1)), [1], noise=noise)
    loss.backward()
    one, two = math.exp(s[1]) / (3 * 0.2), math.exp(s[2]) / (3 * 0.3)
    share = one / (2 * one + 2 * two)
    assert math.isclose(loss.item(), -math.log(share), rel_tol=1e-12)
    found = mg.to_cpu(layer.weight.grad.dense())[:, 0]
    assert np.allclose(found, [0.0, 2 * share - 1, 1 - 2 * share, 0.0], rtol=0, atol=1e-12)


@fewer
@given(vocab_batches(), st.integers(1, 4), st.sampled_from([None, 3]), st.booleans(), st.integers(0, 99))
def test_step_4_the_gradient_of_the_layer_is_that_of_the_composed_loss(batch, k, shared, mask_hits, seed):
    weight, bias, hidden, targets = batch
    layer = SampledSoftmax(*weight.shape, key=mg.Key(0), k=k, shared=shared, mask_hits=mask_hits)
    layer.weight, layer.bias = weight, bias
    noise = mg.to_cpu(layer.draw(mg.Key(seed), len(targets)))
    found = layer.loss(hidden, targets, noise=noise)

    words = np.concatenate([targets[:, None], np.broadcast_to(noise, (len(targets), noise.shape[-1]))], axis=1)
    log_count = np.log(noise.shape[-1] * mg.to_cpu(layer.sampler.probs))
    a = (hidden @ weight.T + bias)[np.arange(len(targets))[:, None], words] - log_count[words]
    if mask_hits:
        hit = (words == targets[:, None]) & (np.arange(words.shape[1]) > 0)
        a = a - 1e30 * hit
    composed = mg.cross_entropy(a, np.zeros(len(targets), "int64"))

    assert math.isclose(found.item(), composed.item(), rel_tol=1e-11, abs_tol=1e-12)
    for f, c in zip(mg.grad(found, batch[:3]), mg.grad(composed, batch[:3])):
        f, c = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, c))
        assert np.allclose(f, c, rtol=1e-10, atol=1e-12)


# ---- (5): what it learns, with every target and every noise enumerated, through the layer ---------------------------


@pytest.mark.parametrize("c", [0.0, -3.0, 1.7])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_5_the_optimum_is_log_p_plus_any_constant_for_every_k(k, c):
    by_weight, by_bias = gradients(*layer_with_scores(SampledSoftmax, np.log(P) + c, Q, k), P)
    assert abs(by_weight).max() < 1e-12 and abs(by_bias).max() < 1e-12


@fewer
@given(distributions(), st.integers(0, 999))
def test_step_5_it_is_a_minimum(example, seed):
    p, q, k = example
    elsewhere = np.log(p) + mg.to_cpu(mg.Key(seed).normal(len(p), "float64"))
    here, away = (layer_with_scores(SampledSoftmax, s, q, k) for s in (np.log(p), elsewhere))
    assert expected_loss(*here, p).item() < expected_loss(*away, p).item()


@pytest.mark.parametrize("k", [1, 3])
def test_step_5_scores_are_off_by_a_constant_and_log_prob_is_not(k):
    layer, h = layer_with_scores(SampledSoftmax, np.log(P) + 1.7, Q, k)
    assert np.allclose(layer.log_z(h[None]).numpy(), 1.7, rtol=0, atol=1e-12)
    assert np.allclose(layer.log_prob(h[None]).numpy(), np.log(P), rtol=0, atol=1e-12)


@fewer
@given(vocab_batches(), st.floats(-9, 9), st.integers(0, 99))
def test_step_2_nothing_changes_if_all_scores_rise_by_one_number(batch, c, seed):
    weight, bias, hidden, targets = batch
    layer = SampledSoftmax(*weight.shape, key=mg.Key(0), k=3)
    layer.weight, layer.bias = weight, bias
    here = layer.loss(hidden, targets, key=mg.Key(seed), reduction="none").numpy()
    layer.bias = bias + c
    there = layer.loss(hidden, targets, key=mg.Key(seed), reduction="none").numpy()
    assert np.allclose(here, there, rtol=1e-10, atol=1e-12)


def every_draw(p, q, k):
    """targets (N,), noise (N, k) and the chance of each, the noise drawn independently."""
    words = np.array(list(itertools.product(range(len(p)), repeat=1 + k)))
    return words[:, 0], words[:, 1:], p[words[:, 0]] * q[words[:, 1:]].prod(axis=1)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_5_without_log_q_it_learns_log_p_over_q(k):
    nothing = np.zeros(4)
    assert abs(mean_gradient(there, np.log(P / Q) + 2.0, *every_draw(P, Q, k), nothing)).max() < 1e-12
    assert abs(mean_gradient(there, np.log(P), *every_draw(P, Q, k), nothing)).max() > 0.05


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_5_log_q_of_the_noise_only_or_with_the_wrong_sign_is_not_consistent(k):
    targets, noise, chance = every_draw(P, Q, k)
    s, log_count = np.log(P), np.log(k * Q)
    wrong = mean_gradient(there, s, targets, noise, chance, -log_count)

    def of_the_noise_only(target, noise, *, log_count_target, log_count_noise):
        return there(target, noise, log_count_target=0 * log_count_target, log_count_noise=log_count_noise)

    half = mean_gradient(of_the_noise_only, s, targets, noise, chance, log_count)
    assert abs(wrong).max() > 0.1 and abs(half).max() > 0.05


# ---- (6): hits ----------------------------------------------------------------------------------------------------


def without_hits(p, q, k):
    """The mean gradient at log P with hits left out, noise drawn independently."""
    targets, noise, chance = every_draw(p, q, k)
    hits = noise == targets[:, None]
    return mean_gradient(there, np.log(p), targets, noise, chance, np.log(k * q), hits), chance[hits.any(axis=1)].sum()


@pytest.mark.parametrize("q", [Q, P], ids=["few", "many"])
def test_step_6_with_hits_left_out_and_k_1_nothing_changes(q):
    assert abs(without_hits(P, q, 1)[0]).max() < 1e-12


@pytest.mark.parametrize("q", [Q, P, np.full(4, 0.25)], ids=["another", "that of the targets", "even"])
def test_step_6_from_k_2_on_the_mean_gradient_at_log_p_is_not_zero_and_here_it_grows_with_k(q):
    of = [abs(without_hits(P, q, k)[0]).max() for k in (2, 3, 4)]
    assert 0.002 < of[0] < of[1] < of[2]


def test_step_6_it_is_zero_where_p_and_q_both_are_even():
    even = np.full(4, 0.25)
    assert all(abs(without_hits(even, even, k)[0]).max() < 1e-15 for k in (2, 3, 4))


def test_step_6_the_number_of_hits_does_not_tell_how_far_off_it_is():
    mostly_one = np.array([0.97, 0.01, 0.01, 0.01])
    (few, some), (less, many) = (without_hits(P, q, 2) for q in (np.full(4, 0.25), mostly_one))
    assert many > some and abs(less).max() < abs(few).max()


def all_counts(k, q):
    """Noise (N, k), in one order, and its chance: every way to draw each of three words so often."""
    counts = np.array([(i, j, k - i - j) for i in range(k + 1) for j in range(k + 1 - i)])
    log_ways = [math.lgamma(k + 1) - sum(math.lgamma(c + 1) for c in row) for row in counts.tolist()]
    return np.array([np.repeat([0, 1, 2], row) for row in counts]), np.exp(log_ways + counts @ np.log(q))


def without_hits_of_many(p, q, k):
    """The mean loss less log(k q(t)) and the mean gradient at log P, three words, hits left out."""
    noise, chance = all_counts(k, q)
    n = len(noise)
    targets, noise, chance = np.repeat([0, 1, 2], n), np.tile(noise, (3, 1)), np.repeat(p, n) * np.tile(chance, 3)
    log_count, hits = np.log(k * q), noise == targets[:, None]
    of_counts = {"log_count_target": log_count[targets], "log_count_noise": log_count[noise]}
    loss = there(np.log(p)[targets], np.log(p)[noise], **of_counts, hits=hits)[0]
    mean = mean_gradient(there, np.log(p), targets, noise, chance, log_count, hits)
    return chance @ (loss - log_count[targets]), mean


def test_step_6_as_k_grows_the_loss_loses_the_target_from_its_sum():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.3, 0.4])
    (loss, mean), (loss_far, mean_far) = (without_hits_of_many(p, q, k) for k in (30, 60))
    assert math.isclose(2 * loss_far - loss, p @ (np.log(1 - p) - np.log(p)), abs_tol=0.02)
    rest = (p / (1 - p)).sum() - p / (1 - p)
    assert np.allclose(2 * mean_far - mean, p * (rest - 1), rtol=0, atol=0.005) and abs(p * (rest - 1)).max() > 0.1
    even = np.full(3, 1 / 3)
    assert abs(even * (2 * even / (1 - even) - 1)).max() < 1e-15
    (_, mean), (_, mean_far) = (without_hits_of_many(even, q, k) for k in (30, 60))
    assert 0.001 < abs(mean_far).max() < 0.6 * abs(mean).max(), "there it fades"


def test_step_6_with_k_2_the_words_t_t_v_come_about_in_three_ways():
    """One with v as the target, and two with t: what (1) says of them is what counting says."""
    p, q = THIRDS[:2], THIRDS[:2][::-1]
    t, v = 0, 1
    chances = shuffled([x / sum(p) for x in p], [x / sum(q) for x in q], 2)
    of_v, of_t = chances[2, (t, t, v)], chances[0, (t, t, v)] + chances[1, (t, t, v)]
    assert of_v / (of_v + of_t) == (p[v] / q[v]) / (2 * p[t] / q[t] + p[v] / q[v])
    assert of_v / (of_v + of_t) != (p[v] / q[v]) / (p[t] / q[t] + p[v] / q[v]), "as if t stood there once"


@pytest.mark.parametrize("wrong", ["no", 1, 0.0])
def test_whether_hits_are_left_out_is_a_bool(wrong):
    with pytest.raises(TypeError, match=r"losses\.SampledSoftmax: mask_hits must be True, False or None, got"):
        SampledSoftmax(9, 2, key=mg.Key(0), k=5, mask_hits=wrong)


def test_step_6_and_7_hits_are_kept_of_independent_draws_and_left_out_of_distinct_words():
    assert not SampledSoftmax(9, 2, key=mg.Key(0), k=5).mask_hits
    assert not SampledSoftmax(9, 2, key=mg.Key(0), k=5, sampler=Uniform(9)).mask_hits
    assert SampledSoftmax(9, 2, key=mg.Key(0), k=5, sampler=Unique(Uniform(9))).mask_hits
    assert SampledSoftmax(9, 2, key=mg.Key(0), k=5, sampler=GumbelTopK([1.0] * 9)).mask_hits
    assert SampledSoftmax(9, 2, key=mg.Key(0), k=5, mask_hits=True).mask_hits
    assert not SampledSoftmax(9, 2, key=mg.Key(0), k=5, sampler=Unique(Uniform(9)), mask_hits=False).mask_hits


@pytest.mark.parametrize("shared", [None, 3])
def test_step_6_a_layer_that_is_told_to_leaves_hits_out(shared):
    layer = SampledSoftmax(4, 1, key=mg.Key(0), k=3, shared=shared, sampler=Uniform(4), mask_hits=True)
    layer.bias = mg.param(np.array([0.0, 2.0, 1.0, 0.0], "float32"))
    noise = np.array([1, 2, 1] if shared else [[1, 2, 1]])
    loss = layer.loss(np.zeros((1, 1), "float32"), [1], noise=noise)
    assert math.isclose(loss.item(), math.log(1 + math.exp(1 - 2)), rel_tol=1e-6), "of three noise words 2 is left"


def test_step_7_where_all_noise_is_the_target_nothing_is_lost_and_nothing_learned():
    layer = SampledSoftmax(4, 1, key=mg.Key(0), k=2, mask_hits=True)
    loss = layer.loss(np.ones((1, 1), "float32"), [1], noise=np.array([[1, 1]]))
    loss.backward()
    assert loss.item() == 0.0 and not layer.weight.grad.dense().any() and not layer.bias.grad.dense().any()


# ---- (7): sets ----------------------------------------------------------------------------------------------------


def test_step_7_in_a_set_of_candidates_hits_must_be_left_out():
    """The suite shows that without them log P is the optimum; with them it is not."""
    π, words = np.array([0.9, 0.6, 0.3, 0.5]), np.arange(4)
    sets = np.array(list(itertools.product([False, True], repeat=4)))
    of_set, outcomes = np.where(sets, π, 1 - π).prod(axis=1), list(itertools.product(range(16), range(4)))
    which, targets = np.array(outcomes).T
    columns, chance = np.tile(words, (64, 1)), P[targets] * of_set[which]
    kept, left_out = (
        mean_gradient(there, np.log(P), targets, columns, chance, np.log(π), ~sets[which] | hits)
        for hits in (False, columns == targets[:, None])
    )
    assert abs(left_out).max() < 1e-12 < 0.01 < abs(kept).max()


@fewer
@given(vocab_batches(), st.booleans())
def test_step_7_with_every_word_a_candidate_it_is_the_exact_softmax(batch, shared):
    weight, bias, hidden, targets = batch
    v, d = weight.shape
    every = SampledSoftmax(v, d, key=mg.Key(0), k=v, shared=shared, sampler=GumbelTopK(range(1, v + 1)))
    exact = FullSoftmax(v, d, key=mg.Key(0))
    losses = []
    for layer in (every, exact):
        layer.weight, layer.bias = weight, bias
        losses.append(layer.loss(hidden, targets, key=mg.Key(1)))
    assert math.isclose(losses[0].item(), losses[1].item(), rel_tol=1e-10, abs_tol=1e-12)
    for one, other in zip(*(mg.grad(loss, batch[:3]) for loss in losses)):
        one, other = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (one, other))
        assert np.allclose(one, other, rtol=1e-9, atol=1e-12)


def draws_of_unique(q, k, most=150):
    """(set of k words, chance, log counts (V,)): words drawn until k are distinct; of each number of tries."""
    states = {frozenset(): 1.0}
    for tries in range(1, most):
        after = {}
        for (some, chance), w in itertools.product(states.items(), range(len(q))):
            now = some | {w}
            if len(now) == k > len(some):
                yield sorted(now), chance * q[w], np.log(1 - (1 - q) ** tries)
            else:
                after[now] = after.get(now, 0.0) + chance * q[w]
        states = after


def draws_of_gumbel_top_k(q, k, points=300):
    """The same for the k earliest of arrivals at the rates q, by (k + 1)-th arrival: e^−κ, a sum over its logarithm."""
    times = np.linspace(-25.0, 6.0, points)
    for y in times:
        π = 1 - np.exp(-q * math.exp(y))  # each word's chance to have arrived
        for some in itertools.combinations(range(len(q)), k):
            rest = [w for w in range(len(q)) if w not in some]
            density = π[list(some)].prod() * (1 - π)[rest].prod() * q[rest].sum() * math.exp(y)
            yield some, density * (times[1] - times[0]), np.log(π)


def mean_over_sets(p, draws, log_counts=True):
    """The mean gradient at log P over all targets and `draws`, hits left out; and the sum of the chances."""
    sets, chances, counts = (np.array(x) for x in zip(*draws))
    t, noise = np.tile(np.arange(len(p)), len(sets)), np.repeat(sets, len(p), axis=0)
    counts, chances = log_counts * np.repeat(counts, len(p), axis=0), np.repeat(chances, len(p)) * p[t]
    rows = np.arange(len(t))
    _, g_target, g_noise = there(
        np.log(p)[t],
        np.log(p)[noise],
        log_count_target=counts[rows, t],
        log_count_noise=counts[rows[:, None], noise],
        hits=noise == t[:, None],
    )
    mean = np.zeros(len(p))
    np.add.at(mean, t, chances * g_target)
    np.add.at(mean, noise, chances[:, None] * g_noise)
    return mean, chances.sum()


@pytest.mark.parametrize("draws", [draws_of_unique, draws_of_gumbel_top_k])
@pytest.mark.parametrize("k", [2, 3])
def test_step_7_of_distinct_words_log_p_is_not_quite_the_optimum(draws, k):
    mean, total = mean_over_sets(P, draws(Q, k))
    uncorrected, _ = mean_over_sets(P, draws(Q, k), log_counts=False)
    assert math.isclose(total, 1.0, rel_tol=1e-6), "these are all draws"
    assert 0.005 < abs(mean).max() < abs(uncorrected).max() / 3


def test_step_7_how_long_the_mean_gradient_is_there_with_the_words_of_consistency():
    rows = {estimator.name: estimator for estimator in estimators.estimators()}
    for counts, sizes in (("tries", [0, 0.008, 0.034, 0.076]), ("times", [0.014, 0.017, 0.013, 0])):
        row = rows[f"sampled: distinct words, counts from the {counts}"]
        found = check_consistency(row.loss_of_scores, k=(1, 2, 4, 5), optimum=row.optimum, draws=row.draws).sizes
        assert [round(size, 3) for size in found.values()] == sizes


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_7_of_gumbel_top_k_a_sum_over_all_words_is_estimated_without_bias(k):
    f = np.array([3.0, -1.0, 0.5, 2.0])
    found = sum(chance * (f / np.exp(log_π))[list(some)].sum() for some, chance, log_π in draws_of_gumbel_top_k(Q, k))
    assert math.isclose(found, f.sum(), rel_tol=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_step_7_of_unique_it_is_not(k):
    """Tries that were fixed beforehand would make 1 − (1 − q)^tries exact; these end with a success."""
    f = np.array([3.0, 1.0, 0.5, 2.0])
    found = sum(chance * (f / np.exp(log_π))[list(some)].sum() for some, chance, log_π in draws_of_unique(Q, k))
    assert abs(found / f.sum() - 1) > 0.01


@pytest.mark.parametrize("shared", [None, 4])
@pytest.mark.parametrize("make", [lambda counts: Unique(Unigram(counts, 1)), GumbelTopK], ids=["Unique", "GumbelTopK"])
def test_step_7_a_layer_takes_the_log_counts_of_the_draw_and_leaves_hits_out(make, shared):
    sampler, targets = make([5, 4, 3, 2, 1, 1]), np.array([0, 3, 5])
    layer = SampledSoftmax(6, 2, key=mg.Key(0), k=4, shared=shared, sampler=sampler)
    hidden = mg.tensor(mg.Key(1).normal((3, 2)))
    found = layer.loss(hidden, targets, key=mg.Key(2), reduction="none").numpy()

    drawn, seen = sampler.draw(mg.Key(2), (4,) if shared else (3, 4))
    noise, s = np.broadcast_to(mg.to_cpu(drawn), (3, 4)), layer.raw_scores(hidden).numpy()
    for i, t in enumerate(targets.tolist()):
        log_count = mg.to_cpu(sampler.log_expected_count(np.arange(6), 4, seen if shared else seen[i]))
        a = {w: float(s[i, w] - log_count[w]) for w in {t, *noise[i].tolist()}}
        assert math.isclose(found[i], math.log(sum(map(math.exp, a.values()))) - a[t], rel_tol=1e-4, abs_tol=1e-5)


# ---- (8): towards the softmax -------------------------------------------------------------------------------------

S = np.array([1.0, -0.5, 0.3])
p, q = np.exp(S) / np.exp(S).sum(), np.array([0.2, 0.3, 0.5])
r, ρ = p / q, (p * p / q).sum()


def moments(k, t):
    """Given t: the mean loss; mean and variance of the gradient added up for each word. Over all counts of k draws."""
    noise, chance = all_counts(k, q)  # (N, k), (N,)
    of_target = np.full(len(noise), S[t]), np.full(len(noise), math.log(k * q[t]))
    options = {"log_count_target": of_target[1], "log_count_noise": np.log(k * q)[noise]}
    loss, g_target, g_noise = there(of_target[0], S[noise], **options)
    g = np.stack([(g_noise * (noise == w)).sum(axis=1) + g_target * (w == t) for w in range(3)], axis=1)  # (N, 3)
    mean = chance @ g
    return chance @ loss, mean, chance @ (g - mean) ** 2


def limit_of_k_times(f):
    """lim k f(k), if f(k) = x/k + y/k² + …: from k = 20 and 40, so that y is gone."""
    return 2 * (40 * f(40)) - 20 * f(20)


@pytest.mark.parametrize("t", [0, 1, 2])
def test_step_8_the_loss_less_log_kq_goes_to_the_exact_loss(t):
    exact = math.log(np.exp(S).sum()) - S[t]
    found = limit_of_k_times(lambda k: moments(k, t)[0] - math.log(k * q[t]) - exact)
    assert math.isclose(found, r[t] - (ρ - 1) / 2, rel_tol=0, abs_tol=0.02)


@pytest.mark.parametrize("t", [0, 1, 2])
def test_step_8_the_mean_gradient_is_off_by_as_much_over_k(t):
    is_t = np.arange(3) == t
    found = limit_of_k_times(lambda k: moments(k, t)[1] - (p - is_t))
    assert np.allclose(found, p * (ρ - r - r[t]) + is_t * r[t], rtol=0, atol=0.02)


@pytest.mark.parametrize("t", [0, 1, 2])
def test_step_8_the_variance_of_the_gradient_is_as_much_over_k(t):
    found = limit_of_k_times(lambda k: moments(k, t)[2])
    assert np.allclose(found, [(p * r * ((np.arange(3) == w) - p[w]) ** 2).sum() for w in range(3)], rtol=0.02)


@pytest.mark.parametrize("k", [1, 2, 20])
def test_step_8_on_average_over_the_target_the_gradient_is_off_by_nothing(k):
    mean = sum(p[t] * moments(k, t)[1] for t in range(3))
    assert abs(mean).max() < 1e-12
    assert np.allclose(sum(p[t] * (p * (ρ - r - r[t]) + (np.arange(3) == t) * r[t]) for t in range(3)), 0, atol=1e-12)


# ---- shared noise, cost, the same key -----------------------------------------------------------------------------


def test_step_5_holds_for_noise_that_the_batch_shares():
    """V = 3, B = 2, m = 2: all 81 batches of two targets and two noise words, by their probability."""
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    layer = SampledSoftmax(3, 2, key=mg.Key(0), shared=2, sampler=Unigram(q, 1), bias=False)
    layer.weight = mg.param(np.stack([np.log(p) + 1.0, np.log(p) - 2.0], axis=1))  # a context, a constant
    for t0, t1, *noise in itertools.product(range(3), repeat=4):
        chance = p[t0] * p[t1] * q[noise].prod()
        (chance * layer.loss(np.eye(2), [t0, t1], noise=np.array(noise))).backward()
    assert abs(layer.weight.grad.dense()).max() < 1e-12


def test_cost_is_k_plus_one_rows_a_token_or_one_and_a_share_of_the_noise():
    assert SampledSoftmax(1000, 4, key=mg.Key(0), k=5).score_cost(batch_size=64) == (6, 1000)
    assert SampledSoftmax(1000, 4, key=mg.Key(0), shared=64).score_cost(batch_size=32) == (3, 1000)


@pytest.mark.parametrize("shared", [None, 64])
def test_the_cost_is_the_number_of_rows_that_have_a_gradient(shared):
    layer = SampledSoftmax(1000, 4, key=mg.Key(0), k=5, shared=shared)
    layer.loss(np.ones((32, 4), "float32"), np.arange(32), key=mg.Key(1)).backward()
    assert len(layer.weight.grad.ids) == 32 * layer.score_cost(batch_size=32).train


@pytest.mark.parametrize("options", [{}, {"shared": 7}, {"mask_hits": True}])
def test_the_same_key_has_the_same_loss_which_is_that_of_the_noise_drawn_with_it(options):
    layer = SampledSoftmax(100, 4, key=mg.Key(0), k=5, **options)
    hidden, targets = mg.Key(1).normal((3, 4)), [5, 50, 99]
    with_key = layer.loss(hidden, targets, key=mg.Key(2)).item()
    assert with_key == layer.loss(hidden, targets, key=mg.Key(2)).item()
    assert with_key == layer.loss(hidden, targets, noise=layer.draw(mg.Key(2), 3)).item()
    assert with_key != layer.loss(hidden, targets, key=mg.Key(3)).item()


@pytest.mark.device
@pytest.mark.parametrize("options", [{}, {"shared": 7}, {"mask_hits": True}])
def test_a_step_on_a_gpu_waits_once_for_whether_the_loss_is_finite(options, on_the_double):
    layer = SampledSoftmax(100, 4, key=mg.Key(0), k=5, **options)
    hidden, targets = mg.param(np.ones((3, 4), "float32")), mg.backend.asarray([5, 50, 99])
    strict.counts.reset()
    layer.loss(hidden, targets, key=mg.Key(2)).backward()
    assert (strict.counts.copies_in, strict.counts.copies_out, strict.counts.waits) == (0, 1, 1)


def test_noise_follows_the_counts_themselves_unless_told_otherwise():
    def layer(**options):
        return SampledSoftmax(3, 2, key=mg.Key(0), counts=[16, 4, 0], **options).sampler.probs.tolist()

    assert layer() == [4 / 5, 1 / 5, 0.0]
    assert layer(power=0.5) == [2 / 3, 1 / 3, 0.0]


# ---- In PyTorch ---------------------------------------------------------------------------------------------------


def torchs_lines(weight, hidden, targets, noise, log_q, change=lambda lines: lines):
    """IN_PYTORCH, run: its names, afterwards."""
    torch = pytest.importorskip("torch")
    imports, make, train = IN_PYTORCH.strip().split("\n\n")
    names = {"V": weight.shape[0], "d": weight.shape[1], "targets": torch.tensor(targets)}
    names |= {"noise": torch.tensor(mg.to_cpu(noise)), "log_q": torch.tensor(mg.to_cpu(log_q), dtype=torch.float32)}
    names["hidden"] = torch.tensor(hidden.numpy(), requires_grad=True)
    exec(imports + "\n" + make, names)
    names["out"].weight.data = torch.tensor(weight.numpy())
    exec(change(train), names)
    return names


@pytest.mark.oracle
@fewer
@given(batch=vocab_batches(dtype="float32"), k=st.integers(1, 4), seed=st.integers(0, 99))
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(batch, k, seed):
    weight, _, hidden, targets = batch
    layer = SampledSoftmax(*weight.shape, key=mg.Key(0), k=k, bias=False)
    layer.weight = weight
    noise = layer.draw(mg.Key(seed), len(targets))
    ours = layer.loss(hidden, targets, noise=noise, reduction="none")
    ours.mean().backward()
    theirs = torchs_lines(weight, hidden, targets, noise, layer.sampler.log_prob(np.arange(len(weight.numpy()))))

    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-5, atol=1e-5)
    assert np.allclose(mg.to_cpu(hidden.grad), theirs["hidden"].grad.numpy(), rtol=1e-4, atol=1e-5)
    found, expected = weight.grad.dense(), theirs["out"].weight.grad.to_dense()
    assert np.allclose(mg.to_cpu(found), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
def test_in_pytorch_a_mask_of_words_that_equal_the_target_masks_the_target_itself():
    masked = lambda lines: lines.replace("loss =", "a = a.masked_fill(words == targets[:, None], -torch.inf)\nloss =")
    weight, hidden = mg.param(np.ones((4, 2), "float32")), mg.tensor(np.ones((2, 2), "float32"))
    noise, log_q = np.array([[0], [3]]), np.log(Q)
    theirs = torchs_lines(weight, hidden, np.array([1, 2]), noise, log_q, masked)
    assert theirs["loss"].tolist() == [math.inf, math.inf]


@pytest.mark.oracle
def test_in_pytorch_sparse_rows_are_for_sgd_adagrad_and_sparseadam():
    weight, hidden = mg.param(np.ones((4, 2), "float32")), mg.tensor(np.ones((2, 2), "float32"))
    out = torchs_lines(weight, hidden, np.array([1, 2]), np.array([[0], [3]]), np.log(Q))["out"]
    torch = pytest.importorskip("torch")
    for name in ("SGD", "Adagrad", "SparseAdam"):
        with torch.sparse.check_sparse_tensor_invariants():
            getattr(torch.optim, name)(out.parameters(), lr=0.1).step()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        torch.optim.Adam(out.parameters(), lr=0.1).step()
