"""Negative sampling: a test for each numbered step of `losses.sampled.negative`, and an oracle in torch."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import NegativeSampling
from losses.check import smallest_failure
from losses.sampled.negative import (
    IN_PYTORCH,
    negative_sampling,
    negative_sampling_loss,
    negative_sampling_naive,
)
from losses.samplers import Uniform
from losses.suites.negative import CHAPTER, distributions, scores
from minigrad.check import vocab_batches

from .properties import expected_loss, gradients, layer_with_scores, where_tensors_are_made

pytestmark = pytest.mark.negative


P = np.array([0.5, 0.25, 0.15, 0.1])
Q = np.array([0.1, 0.2, 0.3, 0.4])


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, where_tensors_are_made(negative_sampling)) is None


# ---- (1) to (3): the loss and its gradient ------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [None, 2])
def test_step_1_noise_that_happens_to_be_the_target_stays(shared):
    layer = NegativeSampling(4, 2, key=mg.Key(0), k=2, shared=shared)
    layer.bias.data = mg.tensor([0.0, 2.0, 0.0, 0.0]).data
    noise = np.array([1, 3] if shared else [[1, 3]])
    loss = layer.loss(np.zeros((1, 2), "float32"), [1], noise=noise).item()
    assert math.isclose(loss, math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2)) + math.log(2), rel_tol=1e-6)


@given(distributions())
def test_step_1_where_hits_are_skipped_a_word_is_noise_less_often_by_its_own_probability(example):
    """As in word2vec and gensim. Every target and every draw, counted by their probability."""
    p, q, k = example
    counted = np.zeros(len(p))
    for target, *noise in itertools.product(range(len(p)), repeat=1 + k):
        left = [w for w in noise if w != target]
        np.add.at(counted, left, p[target] * q[noise].prod())
    assert np.allclose(counted, k * q * (1 - p), rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_1_and_scores_become_the_log_odds_of_p_less_log_kq(k):
    outcomes = np.array(list(itertools.product(range(4), repeat=1 + k)))
    target, noise = outcomes[:, 0], outcomes[:, 1:]
    chance = P[target] * Q[noise].prod(axis=1)
    kept = noise != target[:, None]

    def mean_gradient(s):
        _, g_target, g_noise = where_tensors_are_made(negative_sampling)(s[target], s[noise])
        mean = np.bincount(target, chance * g_target)
        np.add.at(mean, noise, chance[:, None] * kept * g_noise)
        return mean

    assert abs(mean_gradient(np.log(P / (1 - P)) - np.log(k * Q))).max() < 1e-14
    assert abs(mean_gradient(np.log(P) - np.log(k * Q))).max() > 0.01


@given(scores())
def test_step_2_softplus_is_minus_log_sigma_and_both_ways_have_one_gradient(example):
    target, noise = map(mg.param, example)
    fused, naive = negative_sampling_loss(target, noise), negative_sampling_naive(target, noise)
    assert np.allclose(fused.numpy(), naive.numpy(), rtol=1e-12)
    pairs = zip(mg.grad(fused.sum(), [target, noise]), mg.grad(naive.sum(), [target, noise]))
    assert all(np.allclose(mg.to_cpu(f), mg.to_cpu(n), rtol=1e-11, atol=1e-14) for f, n in pairs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_2_the_loss_at_minus_1000_is_1000(dtype):
    target, noise = mg.backend.asarray([-1000.0], dtype), mg.backend.asarray([[-1000.0]], dtype)
    assert negative_sampling(target, noise)[0].tolist() == [1000.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_2_the_naive_loss_at_minus_1000_is_infinite(dtype):
    target, noise = mg.tensor(np.array([-1000.0], dtype)), mg.tensor(np.array([[-1000.0]], dtype))
    with np.errstate(divide="ignore"):
        assert negative_sampling_naive(target, noise).data.tolist() == [math.inf]


@pytest.mark.parametrize("k", [None, 1, 5])
@given(example=scores(limit=4.0))
def test_step_3_gradients_are_right_to_second_order(k, example):
    mg.check_grads(lambda target, noise: negative_sampling_loss(target, noise, k=k), *example)


@given(scores(limit=1000.0))
def test_step_3_no_gradient_is_larger_than_one(example):
    _, g_target, g_noise = negative_sampling(*map(mg.backend.asarray, example))
    assert (-1 <= g_target).all() and (g_target <= 0).all()
    assert (0 <= g_noise).all() and (g_noise <= 1).all()


@given(vocab_batches(dtype="float32"), st.booleans())
def test_step_3_only_the_rows_of_target_and_noise_have_a_gradient(batch, shared):
    weight, _, hidden, targets = batch
    v, d = weight.shape
    layer = NegativeSampling(v, d, key=mg.Key(0), k=2, shared=3 if shared else None, sampler=Uniform(v))
    noise = layer.draw(mg.Key(1), len(targets))
    layer.loss(hidden, targets, noise=noise).backward()
    looked_up = {*targets.tolist(), *noise.ravel().tolist()}
    for p in layer.parameters():
        assert isinstance(p.grad, mg.Rows) and set(p.grad.ids.tolist()) == looked_up


@pytest.mark.parametrize("optimizer", [mg.optim.SGD, mg.optim.Adagrad])
@pytest.mark.parametrize("shared", [None, 4])
def test_a_step_changes_the_rows_of_target_and_noise_and_no_bit_of_the_others(optimizer, shared):
    layer = NegativeSampling(50, 3, key=mg.Key(0), k=2, shared=shared)
    before = [p.numpy().copy() for p in layer.parameters()]
    targets, hidden = np.array([3, 40, 3]), mg.Key(1).normal((3, 3))
    noise = layer.draw(mg.Key(2), 3)
    layer.loss(hidden, targets, noise=noise).backward()
    optimizer(layer.parameters(), lr=0.1).step()
    looked_up = np.union1d(targets, mg.to_cpu(noise))
    others = np.setdiff1d(np.arange(50), looked_up)
    for new, old in zip([p.numpy() for p in layer.parameters()], before):
        assert new[others].tobytes() == old[others].tobytes()
        assert (new[looked_up] != old[looked_up]).reshape(len(looked_up), -1).any(axis=1).all()


# ---- (4) to (6): what it learns, with every target and every noise enumerated, through the layer --------------------


def σ(s):
    return 1 / (1 + np.exp(-s))


def softplus(s):
    return np.log1p(np.exp(s))


@given(distributions())
def test_step_4_the_expected_loss_is_a_sum_over_words(example):
    p, q, k = example
    s = np.linspace(-2.0, 3.0, len(p))
    found = expected_loss(*layer_with_scores(NegativeSampling, s, q, k), p).item()
    assert math.isclose(found, (p * softplus(-s) + k * q * softplus(s)).sum(), rel_tol=1e-12)


@given(distributions())
def test_step_5_the_derivative_of_the_expected_loss(example):
    p, q, k = example
    s = np.linspace(-2.0, 3.0, len(p))
    layer, h = layer_with_scores(NegativeSampling, s, q, k)
    by_weight, by_bias = gradients(layer, h, p)
    expected = p * (σ(s) - 1) + k * q * σ(s)
    assert np.allclose(by_bias, expected, rtol=0, atol=1e-12)
    assert np.allclose(by_weight, expected[:, None] * h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_5_the_optimum_is_log_p_minus_log_kq(k):
    by_weight, by_bias = gradients(*layer_with_scores(NegativeSampling, np.log(P) - np.log(k * Q), Q, k), P)
    assert abs(by_weight).max() < 1e-12 and abs(by_bias).max() < 1e-12


@given(distributions(), st.integers(0, 999))
def test_step_5_it_is_a_minimum(example, seed):
    p, q, k = example
    s = np.log(p) - np.log(k * q)
    elsewhere = s + mg.to_cpu(mg.Key(seed).normal(len(p), "float64"))
    assert (
        expected_loss(*layer_with_scores(NegativeSampling, s, q, k), p).item()
        < expected_loss(*layer_with_scores(NegativeSampling, elsewhere, q, k), p).item()
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_5_log_p_itself_is_not_the_optimum(k):
    _, by_bias = gradients(*layer_with_scores(NegativeSampling, np.log(P), Q, k), P)
    assert (abs(by_bias) > 0.01).any()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_6_log_prob_at_the_optimum_is_log_p(k):
    layer, h = layer_with_scores(NegativeSampling, np.log(P) - np.log(k * Q), Q, k)
    assert np.allclose(layer.log_prob(h[None]).numpy(), np.log(P), rtol=0, atol=1e-12)
    assert np.allclose(layer.scores(h[None]).numpy(), np.log(P), rtol=0, atol=1e-12), "normalised already"


@pytest.mark.parametrize("k", [1, 2])
def test_step_6_the_softmax_of_the_raw_scores_is_not_p(k):
    layer, h = layer_with_scores(NegativeSampling, np.log(P) - np.log(k * Q), Q, k)
    raw = layer.raw_scores(h[None])
    assert (abs((raw - mg.logsumexp(raw, axis=1, keepdims=True)).numpy() - np.log(P)) > 0.1).any()


def test_step_6_with_k_equal_to_v_and_uniform_noise_scores_are_log_p():
    layer, h = layer_with_scores(NegativeSampling, np.log(P), np.full(4, 0.25), 4)
    raw = layer.raw_scores(h[None]).numpy()
    assert np.allclose(raw, np.log(P), rtol=0, atol=1e-12)
    assert np.allclose(layer.scores(h[None]).numpy(), raw, rtol=0, atol=1e-12), "log(k q) is 0"
    by_weight, by_bias = gradients(layer, h, P)
    assert abs(by_weight).max() < 1e-12 and abs(by_bias).max() < 1e-12


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_6_with_uniform_noise_and_any_k_normalising_the_raw_scores_is_enough(k):
    layer, h = layer_with_scores(NegativeSampling, np.log(P) - np.log(k / 4), np.full(4, 0.25), k)
    _, by_bias = gradients(layer, h, P)
    raw = layer.raw_scores(h[None])
    assert abs(by_bias).max() < 1e-12, "it is the optimum"
    assert np.allclose((raw - mg.logsumexp(raw, axis=1, keepdims=True)).numpy(), np.log(P), rtol=0, atol=1e-12)


@pytest.mark.parametrize("power", [1, 0.75, 0.5])
def test_step_6_scores_are_pointwise_mutual_information_and_what_the_power_leaves_less_log_k(power):
    """Four words in three contexts, each context a direction of its own, so that every score is free."""
    joint = np.array([[4, 1, 2, 1], [1, 3, 1, 1], [2, 2, 1, 5]]) / 24  # P(h, w)
    p_h, p_w, k = joint.sum(axis=1), joint.sum(axis=0), 2
    pmi = np.log(joint / (p_h[:, None] * p_w))
    # nothing for power 1; for ¾, and for fastText's ½, ¼ log P(w) or ½ log P(w), and a constant
    left = (1 - power) * np.log(p_w) + np.log((p_w**power).sum())
    layer = NegativeSampling(4, 3, key=mg.Key(0), k=k, counts=24 * p_w, power=power, bias=False)
    layer.weight = mg.param((pmi + left - math.log(k)).T)
    for h, chance, row in zip(np.eye(3), p_h, joint):
        (chance * expected_loss(layer, h, row / chance)).backward()
    assert abs(layer.weight.grad.dense()).max() < 1e-12


def test_a_word_that_is_never_noise_has_a_finite_log_prob():
    layer = NegativeSampling(3, 2, key=mg.Key(0), counts=[5, 0, 1])
    assert np.isfinite(layer.log_prob(np.ones((1, 2), "float32")).numpy()).all()


# ---- (7): noise for the whole batch -------------------------------------------------------------------------------


def test_step_7_shared_noise_has_the_expectation_of_unshared_noise():
    steps, targets, hidden = 2000, np.array([0, 3, 1]), mg.Key(1).normal((3, 2))
    layer = NegativeSampling(4, 2, key=mg.Key(0), k=3, shared=8, counts=[8, 4, 2, 1])
    layer.weight.data = mg.Key(2).normal((4, 2))
    s, q = mg.to_cpu(hidden @ layer.weight.data.T), mg.to_cpu(layer.sampler.probs)  # (B, V)
    exact = (softplus(-s[np.arange(3), targets]) + layer.k * (q * softplus(s)).sum(axis=1)).mean()  # (4)
    found = [layer.loss(hidden, targets, noise=ids).item() for ids in layer.draw(mg.Key(3), 3, steps)]
    assert abs(np.mean(found) - exact) <= 6 * np.std(found) / math.sqrt(steps)


@pytest.mark.parametrize("shared", [None, 1, 4])
def test_step_7_the_variance_that_noise_brings_with_it_and_without_sharing(shared):
    """V = 3, B = 2, k = 2: all 81 draws of unshared noise, all 3 or 81 of shared, by their probability."""
    layer = NegativeSampling(3, 2, key=mg.Key(0), k=2, shared=shared, counts=[5, 2, 1])
    layer.weight, layer.bias = mg.param(mg.Key(1).normal((3, 2), "float64")), None
    hidden, q = mg.Key(2).normal((2, 2), "float64"), mg.to_cpu(layer.sampler.probs)
    draws = np.array(list(itertools.product(range(3), repeat=shared or 4)))
    chance = q[draws].prod(axis=1)
    losses = np.array([layer.loss(hidden, [0, 1], noise=d if shared else d.reshape(2, 2)).item() for d in draws])
    found = chance @ losses**2 - (chance @ losses) ** 2

    x = softplus(mg.to_cpu(hidden @ layer.weight.data.T))  # (B, V)
    variance = lambda x: x**2 @ q - (x @ q) ** 2
    expected = 2 / 2 * variance(x).mean() if shared is None else 2**2 / shared * variance(x.mean(axis=0))
    assert math.isclose(found, expected, rel_tol=1e-9)


@given(st.integers(0, 1000), st.integers(1, 4))
def test_step_7_for_one_example_and_n_equal_to_k_shared_noise_is_noise(seed, k):
    key = mg.Key(seed)
    alone, shared = (NegativeSampling(6, 3, key=key, k=k, shared=n) for n in (None, k))
    quarters = [key.fold(i).integers(-8, 8, shape) / np.float32(4) for i, shape in enumerate([(6, 3), (6,), (1, 3)])]
    for layer in (alone, shared):  # quarters: products and sums are exact, so nothing is lost to rounding
        layer.weight.data, layer.bias.data = quarters[0].astype("float32"), quarters[1].astype("float32")
    noise = shared.draw(key.fold(9), 1)
    hidden = quarters[2].astype("float32")
    one, other = alone.loss(hidden, [2], noise=noise[None]), shared.loss(hidden, [2], noise=noise)
    assert one.item() == other.item()
    one.backward()
    other.backward()
    for p, q in zip(alone.parameters(), shared.parameters()):
        assert np.allclose(mg.to_cpu(p.grad.dense()), mg.to_cpu(q.grad.dense()), rtol=1e-6, atol=1e-7)


@given(vocab_batches(), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_step_7_the_gradient_of_shared_noise_is_that_of_the_composed_loss(batch, n, k, seed):
    weight, bias, hidden, targets = batch
    layer = NegativeSampling(*weight.shape, key=mg.Key(0), k=k, shared=n)
    layer.weight, layer.bias = weight, bias
    noise = layer.draw(mg.Key(seed), len(targets))
    found = layer.loss(hidden, targets, noise=noise)

    s_target = (mg.take(weight, targets) * hidden).sum(axis=1) + mg.take(bias, targets)
    s_noise = hidden @ mg.take(weight, noise).T + mg.take(bias, noise)
    composed = (mg.softplus(-s_target) + (k / n) * mg.softplus(s_noise).sum(axis=1)).mean()

    assert math.isclose(found.item(), composed.item(), rel_tol=1e-12)
    for f, c in zip(mg.grad(found, batch[:3]), mg.grad(composed, batch[:3])):
        f, c = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, c))
        assert np.allclose(f, c, rtol=1e-11, atol=1e-13)


@given(vocab_batches(), st.integers(1, 4), st.integers(0, 99))
def test_the_gradient_of_unshared_noise_is_that_of_the_composed_loss(batch, k, seed):
    weight, bias, hidden, targets = batch
    layer = NegativeSampling(*weight.shape, key=mg.Key(0), k=k)
    layer.weight, layer.bias = weight, bias
    noise = layer.draw(mg.Key(seed), len(targets))
    found = layer.loss(hidden, targets, noise=noise, reduction="sum")

    s = hidden @ weight.T + bias  # (B, V): all of them
    examples = np.arange(len(targets))
    composed = negative_sampling_naive(s[examples, targets], s[examples[:, None], noise]).sum()

    assert math.isclose(found.item(), composed.item(), rel_tol=1e-12)
    for f, c in zip(mg.grad(found, batch[:3]), mg.grad(composed, batch[:3])):
        f, c = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, c))
        assert np.allclose(f, c, rtol=1e-10, atol=1e-12)


# ---- cost, and the same key ---------------------------------------------------------------------------------------


def test_cost_without_sharing_is_k_plus_one_rows_a_token_and_all_of_them_at_test():
    assert NegativeSampling(1000, 4, key=mg.Key(0), k=5).score_cost() == (6, 1000)
    assert NegativeSampling(1000, 4, key=mg.Key(0), k=5).score_cost(batch_size=64) == (6, 1000)


def test_cost_with_sharing_is_one_row_a_token_and_its_share_of_the_noise():
    layer = NegativeSampling(1000, 4, key=mg.Key(0), k=5, shared=64)
    assert layer.score_cost(batch_size=32) == (3, 1000)
    assert layer.score_cost() == (65, 1000)


@pytest.mark.parametrize("shared", [None, 64])
def test_the_cost_is_the_number_of_rows_that_have_a_gradient(shared):
    layer = NegativeSampling(1000, 4, key=mg.Key(0), k=5, shared=shared)
    layer.loss(np.ones((32, 4), "float32"), np.arange(32), key=mg.Key(1)).backward()
    assert len(layer.weight.grad.ids) == 32 * layer.score_cost(batch_size=32).train


@pytest.mark.parametrize("shared", [None, 7])
def test_the_same_key_has_the_same_loss_which_is_that_of_the_noise_drawn_with_it(shared):
    layer = NegativeSampling(100, 4, key=mg.Key(0), shared=shared)
    hidden, targets = mg.Key(1).normal((3, 4)), [5, 50, 99]
    with_key = layer.loss(hidden, targets, key=mg.Key(2)).item()
    assert with_key == layer.loss(hidden, targets, key=mg.Key(2)).item()
    assert with_key == layer.loss(hidden, targets, noise=layer.draw(mg.Key(2), 3)).item()
    assert with_key != layer.loss(hidden, targets, key=mg.Key(3)).item()


@pytest.mark.parametrize(
    "shared, steps, shape",
    [(None, None, (32, 5)), (None, 10, (10, 32, 5)), (64, None, (64,)), (64, 10, (10, 64))],
)
def test_noise_can_be_drawn_for_many_steps_at_once(shared, steps, shape):
    layer = NegativeSampling(1000, 4, key=mg.Key(0), k=5, shared=shared)
    noise = layer.draw(mg.Key(0), 32, steps)
    assert noise.shape == shape and noise.dtype == "int64"
    step = noise if steps is None else noise[3]
    assert layer.loss(np.ones((32, 4), "float32"), np.zeros(32, "int64"), noise=step).shape == ()


def test_noise_follows_the_counts_to_the_power_three_quarters_or_the_sampler_given():
    def layer(**options):
        return NegativeSampling(3, 2, key=mg.Key(0), counts=[16, 1, 0], **options).sampler.probs.tolist()

    assert layer() == [8 / 9, 1 / 9, 0.0]
    assert layer(power=0.5) == [4 / 5, 1 / 5, 0.0]
    assert layer(sampler=Uniform(3)) == [1 / 3] * 3


# ---- In PyTorch ---------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@given(batch=vocab_batches(dtype="float32"), k=st.integers(1, 4), seed=st.integers(0, 99))
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(batch, k, seed):
    torch = pytest.importorskip("torch")
    weight, _, hidden, targets = batch
    layer = NegativeSampling(*weight.shape, key=mg.Key(0), k=k, bias=False)
    layer.weight = weight
    noise = layer.draw(mg.Key(seed), len(targets))
    ours = layer.loss(hidden, targets, noise=noise, reduction="none")
    ours.mean().backward()

    imports, make, train = IN_PYTORCH.strip().split("\n\n")
    theirs = {
        "V": weight.shape[0],
        "d": weight.shape[1],
        "targets": torch.tensor(targets),
        "noise": torch.tensor(mg.to_cpu(noise)),
    }
    theirs["hidden"] = torch.tensor(hidden.numpy(), requires_grad=True)
    exec(imports + "\n" + make, theirs)
    theirs["out"].weight.data = torch.tensor(weight.numpy())
    exec(train, theirs)

    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-5, atol=1e-6)
    assert np.allclose(mg.to_cpu(hidden.grad), theirs["hidden"].grad.numpy(), rtol=1e-5, atol=1e-5)
    rows, grad = weight.grad.coalesce(), theirs["out"].weight.grad.coalesce()
    assert rows.ids.tolist() == grad.indices()[0].tolist()
    assert np.allclose(mg.to_cpu(rows.values), grad.values().numpy(), rtol=1e-5, atol=1e-5)
