"""Importance sampling: a test for each numbered step of `losses.sampled.importance`, and an oracle in torch."""

import itertools
import math

import numpy as np
import pytest
import strict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from losses import FullSoftmax, ImportanceSampling, check, effective_sample_size
from losses.check import smallest_failure
from losses.sampled.importance import (
    IN_PYTORCH,
    importance_sampling,
    importance_sampling_loss,
    importance_sampling_naive,
)
from losses.samplers import GumbelTopK, Sampler, Uniform, Unigram
from losses.suites.importance import CHAPTER, every_draw, scores
from losses.suites.negative import distributions
from minigrad.check import vocab_batches

pytestmark = pytest.mark.importance


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


def where_tensors_are_made(target, noise, *, log_count_noise):
    """The function as the suite knows it, NumPy's arrays in and out, but computed on the current device."""
    target, noise, log_count_noise = map(mg.backend.asarray, (target, noise, log_count_noise))
    return [mg.to_cpu(a) for a in importance_sampling(target, noise, log_count_noise=log_count_noise)]


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, where_tensors_are_made, max_examples=100) is None


def layer_with_scores(s, q, k, **options):
    """A layer whose scores for the context h = (1, −2) are s (V,), split between W h and b; and that h."""
    options = {"sampler": Unigram(q, 1)} | options
    layer = ImportanceSampling(len(s), 2, key=mg.Key(0), k=k, **options)
    h = np.array([1.0, -2.0])
    layer.weight = mg.param(mg.Key(1).normal((len(s), 2), "float64"))
    layer.bias = mg.param(s - layer.weight.numpy() @ h)
    return layer, h


def estimates(s, q, k):
    """Ẑ = e^(L + s_t) of every draw of k noise words, through the layer; and the chance of each."""
    layer, h = layer_with_scores(s, q, k)
    draws, chance = every_draw(mg.to_cpu(layer.sampler.probs), k)
    draws, chance = draws[chance > 0], chance[chance > 0]
    targets = np.zeros(len(draws), "int64")
    losses = layer.loss(np.tile(h, (len(draws), 1)), targets, noise=draws, reduction="none").numpy()
    return np.exp(losses + s[0]), chance


def expected_loss(s, q, k, truth):
    """E L over the target ~ truth and k noise words ~ q, each outcome by its chance."""
    z, chance = estimates(s, q, k)
    return chance @ np.log(z) - truth @ s


def model(s):
    """Z and p, the softmax of scores s."""
    return np.exp(s).sum(), np.exp(s) / np.exp(s).sum()


# ---- (1) to (3): the estimate, the loss, its gradient -------------------------------------------------------------


def test_step_1_z_is_the_mean_of_e_to_the_s_over_q_if_q_is_positive_for_every_word():
    """All draws of one word: the mean of Ẑ, which is then e^s / q. Without the last word its part of Z is missing."""
    s = np.array([1.0, -0.5, 2.0])
    for q, z in (([0.2, 0.7, 0.1], np.exp(s).sum()), ([0.2, 0.8, 0.0], np.exp(s[:2]).sum())):
        found, chance = estimates(s, q, 1)
        assert math.isclose(chance @ found, z, rel_tol=1e-12)


@given(scores(limit=4.0))
def test_step_2_both_ways_have_one_loss_and_one_gradient(example):
    target, noise, count = (mg.param(a) for a in example)
    n = noise.shape[1]
    fused = importance_sampling_loss(target, noise, log_count_noise=mg.log(count).data)
    naive = importance_sampling_naive(target, noise, q_noise=count.data / n)
    assert np.allclose(fused.numpy(), naive.numpy(), rtol=1e-11, atol=1e-12)
    pairs = zip(mg.grad(fused.sum(), [target, noise]), mg.grad(naive.sum(), [target, noise]))
    assert all(np.allclose(mg.to_cpu(f), mg.to_cpu(n), rtol=1e-11, atol=1e-14) for f, n in pairs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_2_the_loss_at_1000_is_finite_and_the_naive_one_is_not(dtype):
    target, noise = mg.tensor(np.array([0.0], dtype)), mg.tensor(np.array([[1000.0]], dtype))
    assert (
        importance_sampling_loss(target, noise, log_count_noise=mg.tensor(np.zeros((1, 1), dtype)).data).item() == 1e3
    )
    with np.errstate(over="ignore"):
        assert importance_sampling_naive(target, noise, q_noise=1.0).item() == math.inf


@given(scores(dtype="float32"))
def test_step_2_a_constant_in_all_scores_costs_no_digits(example):
    target, noise, count = map(mg.backend.asarray, example)
    log_count = mg.log(count)
    here, there = (importance_sampling(target + c, noise + c, log_count_noise=log_count)[0] for c in (0.0, 8192.0))
    assert here.dtype == "float32" and here.tolist() == there.tolist()


@pytest.mark.parametrize("shared", [None, 2])
def test_step_2_noise_that_happens_to_be_the_target_stays_and_the_target_is_not_in_the_sum(shared):
    layer = ImportanceSampling(4, 2, key=mg.Key(0), k=2, shared=shared, sampler=Uniform(4))
    layer.bias.data = mg.tensor([0.0, 2.0, 0.0, 0.0]).data

    def loss(*noise):
        return layer.loss(np.zeros((1, 2), "float32"), [1], noise=np.array(noise if shared else [noise])).item()

    assert math.isclose(loss(1, 3), math.log((math.exp(2) + 1) * 4 / 2) - 2, rel_tol=1e-6)
    assert math.isclose(loss(0, 3), math.log(2 * 4 / 2) - 2, rel_tol=1e-6)


@given(example=scores(limit=4.0))
def test_step_3_gradients_are_right_to_second_order(example):
    target, noise, count = example
    log_count = mg.backend.asarray(np.log(count))
    mg.check_grads(lambda t, n: importance_sampling_loss(t, n, log_count_noise=log_count), target, noise)


@given(scores(limit=1000.0))
def test_step_3_all_parts_of_the_gradient_add_up_to_zero(example):
    target, noise, count = map(mg.backend.asarray, example)
    _, g_target, g_noise = importance_sampling(target, noise, log_count_noise=mg.log(count))
    assert (abs(g_target + g_noise.sum(axis=1)) < 1e-12).all()
    assert (g_target == -1).all() and (g_noise >= 0).all()


@given(vocab_batches(), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_step_3_the_layers_gradients_are_those_of_the_definition(batch, k, shared, seed):
    weight, bias, hidden, targets = batch
    layer = ImportanceSampling(*weight.shape, key=mg.Key(0), k=k, shared=shared)
    layer.weight, layer.bias = weight, bias
    noise = layer.draw(mg.Key(seed), len(targets))
    s = hidden @ weight.T + bias  # (B, V), of which the engine finds the gradients by its own rules
    per_example = mg.to_cpu(noise) + np.zeros((len(targets), 1), "int64")
    count = k * mg.to_cpu(layer.sampler.probs)[per_example]
    z = (mg.exp(mg.take_along_axis(s, per_example)) / mg.backend.asarray(count)).sum(axis=1)
    composed = (mg.log(z) - mg.take_along_axis(s, targets[:, None])[:, 0]).mean()
    found = layer.loss(hidden, targets, noise=noise)
    assert math.isclose(found.item(), composed.item(), rel_tol=1e-10, abs_tol=1e-12)
    for f, c in zip(mg.grad(found, batch[:3]), mg.grad(composed, batch[:3])):
        f, c = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, c))
        assert np.allclose(f, c, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shared", [None, True])
def test_step_3_only_the_rows_of_target_and_noise_have_a_gradient(shared):
    layer = ImportanceSampling(50, 3, key=mg.Key(0), k=2, shared=shared)
    noise = layer.draw(mg.Key(2), 3)
    layer.loss(mg.Key(1).normal((3, 3)), [3, 40, 3], noise=noise).backward()
    looked_up = {3, 40, *noise.ravel().tolist()}
    for p in layer.parameters():
        assert isinstance(p.grad, mg.Rows) and set(p.grad.ids.tolist()) == looked_up


@given(distributions())
def test_step_3_log_prob_normalises_scores_that_are_off_by_a_number(example):
    p, q, k = example
    layer, h = layer_with_scores(np.log(p) + 3.0, q, k)
    assert np.allclose(layer.log_prob(h[None]).numpy(), np.log(p), rtol=0, atol=1e-12)


# ---- (4): what is unbiased ----------------------------------------------------------------------------------------


@given(distributions())
def test_step_4_the_mean_of_the_estimate_is_z_and_its_variance_z_squared_rho_minus_one_over_n(example):
    p, q, n = example
    s = np.log(p) + 1.0
    (z, p), (found, chance) = model(s), estimates(s, q, n)
    rho = (p**2 / q).sum()
    assert math.isclose(chance @ found, z, rel_tol=1e-10)
    assert math.isclose(chance @ (found - z) ** 2, z**2 * (rho - 1) / n, rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(rho - 1, ((p - q) ** 2 / q).sum(), rel_tol=1e-9, abs_tol=1e-12), "χ²"


@given(distributions())
def test_step_4_no_draw_errs_if_q_is_p(example):
    p, _, n = example
    found, _ = estimates(np.log(p) + 1.0, p, n)
    assert np.allclose(found, math.e, rtol=1e-12)


@given(distributions(), st.integers(0, 99))
def test_step_4_each_context_may_have_a_q_of_its_own(example, seed):
    """The pure function takes the log counts of each example; here as many distributions as there are contexts."""
    p, q, n = example
    s = np.log(p) + mg.to_cpu(mg.Key(seed).normal((2, len(p)), "float64"))
    for context, its_q in zip(s, (q, q[::-1])):
        draws, chance = every_draw(its_q, n)
        log_count = np.log(n * its_q[draws])
        loss = where_tensors_are_made(np.full(len(draws), context[0]), context[draws], log_count_noise=log_count)[0]
        assert math.isclose(chance @ np.exp(loss + context[0]), np.exp(context).sum(), rel_tol=1e-10)


def test_step_4_words_drawn_without_replacement_have_an_unbiased_estimate_too():
    b, q = 10_000, [8, 4, 2, 2, 1, 1, 1, 1]
    hidden, targets = np.zeros((b, 2), "float32"), np.zeros(b, "int64")
    layer = ImportanceSampling(8, 2, key=mg.Key(0), k=4, sampler=GumbelTopK(q))
    layer.bias.data = mg.tensor(np.linspace(2.0, 0.0, 8, dtype="float32")).data
    losses = layer.loss(hidden, targets, key=mg.Key(1), reduction="none").numpy()
    z, estimate = np.exp(layer.bias.numpy().astype("float64")).sum(), np.exp(losses.astype("float64") + 2.0)
    assert abs(estimate.mean() - z) <= 6 * estimate.std() / math.sqrt(b) < 0.03 * z


@given(vocab_batches(), st.integers(0, 99))
def test_step_4_all_words_with_a_count_of_one_are_the_softmax(batch, seed):
    weight, bias, hidden, targets = batch
    v, d = weight.shape
    layers = (
        ImportanceSampling(v, d, key=mg.Key(0), k=v, sampler=GumbelTopK(range(1, v + 1))),
        FullSoftmax(v, d, key=mg.Key(0)),
    )
    for layer in layers:
        layer.weight, layer.bias = weight, bias
    sampled, exact = (layer.loss(hidden, targets, key=mg.Key(seed)) for layer in layers)
    assert math.isclose(sampled.item(), exact.item(), rel_tol=1e-10, abs_tol=1e-12)
    for f, e in zip(mg.grad(sampled, batch[:3]), mg.grad(exact, batch[:3])):
        f, e = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, e))
        assert np.allclose(f, e, rtol=1e-9, atol=1e-11)


# ---- (5) and (6): what is biased, and by how much -----------------------------------------------------------------


def expectations(p, q, n):
    """E log Ẑ − log Z, E[Z/Ẑ] and E w̄ (V,), the mean share of each word, without a draw: for any V and N.

    With x_w = p_w / q(w) and z = Ẑ/Z, the mean of n such x:  log z = ∫ (e^−t − e^−tz) dt/t,  1/z = ∫ e^−tz dt  over
    t > 0;  E e^−tz = φ(t/n)^n  with  φ(u) = Σ_w q(w) e^(−u x_w).  For t = e^y the trapezoidal rule is right to many
    digits.
    """
    y = np.linspace(-40.0, 12.0, 2001)
    t, dy = np.exp(y), y[1] - y[0]
    e = np.exp(-np.outer(t / n, p / q))  # (2001, V)
    phi = e @ q
    return (np.exp(-t) - phi**n).sum() * dy, (t * phi**n).sum() * dy, (t * phi ** (n - 1)) @ (e * p) * dy


def zipf_and_a_context(v=200):
    """q after Zipf's law, p ∝ q times what a context has to say of each word, and ρ."""
    q = 1.0 / np.arange(1, v + 1)
    s = np.log(q / q.sum()) + mg.to_cpu(mg.Key(1).normal(v, "float64"))
    p = model(s)[1]
    return p, q / q.sum(), (p**2 * q.sum() / q).sum()


@given(distributions())
def test_step_5_the_expectations_without_a_draw_are_those_of_every_draw(example):
    p, q, n = example
    s = np.log(p)
    found, chance = estimates(s, q, n)
    draws, _ = every_draw(q, n)
    weights = (p / q)[draws] / (p / q)[draws].sum(axis=1, keepdims=True)
    share = [(chance[:, None] * weights * (draws == w)).sum() for w in range(len(p))]
    log_bias, reciprocal, mean_share = expectations(p, q, n)
    assert math.isclose(log_bias, chance @ np.log(found), rel_tol=1e-9, abs_tol=1e-11)
    assert math.isclose(reciprocal, chance @ (1 / found), rel_tol=1e-9)
    assert np.allclose(mean_share, share, rtol=1e-9)


@given(distributions())
def test_step_5_the_loss_is_never_too_large_on_average(example):
    p, q, n = example
    found, chance = estimates(np.log(p), q, n)
    assert chance @ np.log(found) <= 1e-12 and chance @ (1 / found) >= 1 - 1e-12
    if abs(p - q).max() > 1e-9:
        assert chance @ np.log(found) < 0 < chance @ (1 / found) - 1


@pytest.mark.parametrize("n, printed", [(20, 0.0499), (80, 0.0129), (320, 0.0032)])
def test_step_5_the_loss_is_too_small_by_rho_minus_one_over_2n(n, printed):
    p, q, rho = zipf_and_a_context()
    log_bias, reciprocal, _ = expectations(p, q, n)
    assert round(rho, 2) == 3.07 and round(-log_bias, 4) == printed
    assert math.isclose(log_bias, -(rho - 1) / (2 * n), rel_tol=0.1)
    assert math.isclose(reciprocal - 1, (rho - 1) / n, rel_tol=0.1)


def test_step_5_the_bias_falls_as_one_over_n():
    p, q, _ = zipf_and_a_context()
    ns = 20 * 2 ** np.arange(6)
    both = np.array([expectations(p, q, n)[:2] for n in ns])
    for bias in (-both[:, 0], both[:, 1] - 1):
        assert abs(np.polyfit(np.log(ns), np.log(bias), 1)[0] + 1) < 0.03


@pytest.mark.parametrize("n, contexts", [(20, 20_000), (80, 20_000), (320, 5_000)])
def test_step_5_so_it_is_with_noise_that_is_drawn(n, contexts):
    """Ẑ/Z − 1, whose mean is known to be 0, is taken off log(Ẑ/Z): what is left has little variance."""
    p, q, _ = zipf_and_a_context()
    layer = ImportanceSampling(200, 1, key=mg.Key(0), k=n, sampler=Unigram(q, 1))
    layer.bias.data = mg.tensor(np.log(p).astype("float32")).data
    hidden, targets = np.zeros((contexts, 1), "float32"), np.zeros(contexts, "int64")
    log_z = layer.loss(hidden, targets, key=mg.Key(2), reduction="none").numpy().astype("float64") + np.log(p[0])
    assert abs(np.exp(log_z).mean() - 1) <= 6 * np.exp(log_z).std() / math.sqrt(contexts), "Ẑ itself is unbiased"
    left = log_z - (np.exp(log_z) - 1)
    bound = 6 * left.std() / math.sqrt(contexts)
    bias = expectations(p, q, n)[0]
    assert abs(left.mean() - bias) <= bound < abs(bias) / 5


@pytest.mark.parametrize("n", [20, 80, 320])
def test_step_6_the_mean_of_any_f_is_off_by_a_sum_over_words(n):
    p, q, rho = zipf_and_a_context()
    off = expectations(p, q, n)[2] - p  # for f = 1[w = v], each v
    assert np.allclose(off, -(p / n) * (p / q - rho), rtol=0, atol=0.1 * abs(off).max())
    f = np.sqrt(np.arange(200))
    assert math.isclose(off @ f, -(p**2 / q * (f - p @ f)).sum() / n, rel_tol=0.1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_step_6_the_mean_gradient_is_not_zero_at_log_p_and_raises_a_word_seldom_drawn(n):
    truth, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])
    s, h = np.log(truth), 1e-6
    rho = (truth**2 / q).sum()
    slope = [
        (expected_loss(s + h * d, q, n, truth) - expected_loss(s - h * d, q, n, truth)) / (2 * h) for d in np.eye(3)
    ]
    assert np.allclose(slope, expectations(truth, q, n)[2] - truth, atol=1e-8)
    assert truth[0] / q[0] > rho and slope[0] < -0.05 and abs(sum(slope)) < 1e-8


def test_step_6_where_the_mean_gradient_is_zero_p_is_off_by_one_over_n():
    truth, q = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    rho, off = (truth**2 / q).sum(), []
    for n in (40, 80, 160):
        s = np.log(truth)
        for _ in range(100):
            s -= np.log(expectations(model(s)[1], q, n)[2]) - np.log(truth)  # until E w̄ is the truth
        off.append(model(s)[1] - truth)
    assert np.allclose(off[2], truth * (truth / q - rho) / 160, rtol=0, atol=0.1 * abs(off[2]).max())
    assert np.allclose(off[1] / off[2], 2, rtol=0.1) and off[2][0] > 0.004


# ---- (7): why it may diverge --------------------------------------------------------------------------------------


@given(distributions(), st.data())
def test_step_7_the_mean_loss_changes_by_the_chance_of_noise_less_the_chance_of_the_target(example, data):
    truth, q, n = example
    words = np.array(data.draw(st.lists(st.booleans(), min_size=len(q), max_size=len(q)), label="T"), "float64")
    near, far = (expected_loss(np.log(truth) + c * words, q, n, truth) for c in (50.0, 60.0))
    assert math.isclose((far - near) / 10, 1 - (1 - q @ words) ** n - truth @ words, abs_tol=1e-9)


def test_step_7_a_word_with_p_of_nine_tenths_and_q_of_a_thousandth_takes_2302_noise_words():
    slope = lambda n: 1 - (1 - 0.001) ** n - 0.9
    assert slope(2301) < 0 < slope(2302)


@given(distributions())
def test_step_7_the_loss_of_a_context_seen_once_falls_without_end_for_every_n(example):
    _, q, n = example
    once, s = np.eye(len(q))[0], np.zeros(len(q))
    losses = [expected_loss(s + c * once, q, n, once) for c in (0.0, 50.0, 100.0, 200.0)]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] - losses[2] < -99 * (1 - q[0]) ** n


def train(layer, steps):
    """The mean of the last fifty losses, after so many steps on one context with one right word."""
    optimiser, losses = mg.optim.SGD(layer.parameters(), lr=0.1), []
    for step in range(steps):
        loss = layer.loss(np.ones((8, 4), "float32"), [5] * 8, key=mg.Key(0).fold(step))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return np.mean(losses[-50:])


@pytest.mark.parametrize("options", [{}, {"min_ess": 3}], ids=["k noise words", "as many as suffice"])
def test_step_7_training_goes_down_without_end_where_the_softmax_stops_at_zero(options):
    layer = lambda: ImportanceSampling(100, 4, key=mg.Key(1), k=4, sampler=Uniform(100), **options)
    assert train(layer(), 200) < -10 and train(layer(), 400) < 2 * train(layer(), 200)
    assert 0 < train(FullSoftmax(100, 4, key=mg.Key(1)), 200) < 0.1


# ---- (8): how much noise? -----------------------------------------------------------------------------------------

LOG_WEIGHTS = hnp.arrays("float64", hnp.array_shapes(max_dims=2, max_side=6), elements=st.floats(-20, 20))


@given(LOG_WEIGHTS)
def test_step_8_the_effective_sample_size_is_that_of_the_definition_and_lies_between_1_and_n(log_weights):
    found = mg.to_cpu(effective_sample_size(mg.backend.asarray(log_weights)))
    w = np.exp(log_weights)
    assert np.allclose(found, w.sum(axis=-1) ** 2 / (w**2).sum(axis=-1), rtol=1e-10)
    assert (found >= 1 - 1e-12).all() and (found <= log_weights.shape[-1] * (1 + 1e-12)).all()


def test_step_8_equal_weights_count_all_and_one_that_outweighs_all_others_counts_alone():
    found = effective_sample_size(mg.backend.asarray([[7.0, 7.0, 7.0, 7.0], [0.0, 100.0, 0.0, 0.0]]))
    assert found.tolist() == [4.0, 1.0]


@given(LOG_WEIGHTS)
def test_step_8_a_number_added_to_the_log_weights_of_a_row_changes_nothing(log_weights):
    here, there = (mg.to_cpu(effective_sample_size(mg.backend.asarray(log_weights + c))) for c in (0.0, 1000.0))
    assert np.allclose(here, there, rtol=1e-9)


def test_step_8_noise_that_holds_each_word_as_often_as_expected_has_n_over_rho():
    q, noise = np.array([1, 2, 3, 4]) / 10, np.repeat(np.arange(4), [1, 2, 3, 4])  # N = 10 words, N q(w) times each
    s = np.array([1.0, -1.0, 0.5, 0.0])
    _, p = model(s)
    rho, found = (p**2 / q).sum(), effective_sample_size((s - np.log(q))[noise])
    assert math.isclose(found, 10 / rho, rel_tol=1e-12)
    assert math.isclose(1 / found - 1 / 10, (rho - 1) / 10, rel_tol=1e-12)


def test_step_8_so_it_is_on_average_for_noise_that_is_drawn():
    p, q, rho = zipf_and_a_context()
    n, x = 100_000, p / q
    noise = mg.to_cpu(Unigram(q, 1).sample(mg.Key(3), n))
    off = x**2 - rho - 2 * rho * (x - 1)  # what one draw changes of Σ x² N / (Σ x)², times N
    bound = 6 * math.sqrt(q @ off**2 / n)
    assert abs(n / effective_sample_size(np.log(x)[noise]) - rho) <= bound < 0.1 * rho


@pytest.mark.parametrize("kind", [list, mg.tensor, mg.backend.asarray], ids=["a list", "a tensor", "an array"])
def test_the_effective_sample_size_takes_lists_arrays_and_tensors(kind):
    assert float(effective_sample_size(kind([0.0, 0.0, 0.0]))) == 3.0


@pytest.mark.parametrize("wrong", [3.0, [], [[], []]], ids=repr)
def test_the_effective_sample_size_of_nothing_is_an_error(wrong):
    with pytest.raises(ValueError, match=r"losses.effective_sample_size: log_weights must have shape \(…, N\) with N"):
        effective_sample_size(wrong)


def test_float32_with_scores_of_10000_and_q_from_one_to_ten_to_the_minus_30_is_finite():
    q = 10.0 ** -np.arange(0, 31, 2)
    layer = ImportanceSampling(len(q), 1, key=mg.Key(0), k=64, sampler=Unigram(q, 1), bias=False)
    layer.weight = mg.param(np.where(np.arange(len(q)) % 3 == 0, 1e4, -1e4)[:, None].astype("float32"))
    hidden = mg.param(np.array([[1.0], [-1.0], [0.0]], "float32"))
    rare = np.arange(len(q))[::-1][:64]  # nobody would draw all of them
    noise = np.tile(np.resize(rare, 64), (3, 1))
    losses = layer.loss(hidden, [0, 1, 15], noise=noise, reduction="none")
    losses.sum().backward()
    assert losses.dtype == "float32" and np.isfinite(losses.numpy()).all()
    assert np.isfinite(mg.to_cpu(layer.weight.grad.dense())).all() and np.isfinite(mg.to_cpu(hidden.grad)).all()
    a = layer.raw_scores(hidden).data[:, mg.backend.asarray(noise[0])] - mg.backend.asarray(
        np.log(q)[noise[0]].astype("float32")
    )
    found = effective_sample_size(a)
    assert found.dtype == "float32" and (found >= 1).all() and (found <= 64).all()


# ---- (9): draw until it suffices ----------------------------------------------------------------------------------


def an_adaptive_layer(**options):
    """Some of its examples suffice at once, some later, some never; with inputs for it."""
    layer = ImportanceSampling(40, 3, key=mg.Key(0), k=4, min_ess=3, max_k=28, **options)
    layer.weight = mg.param(mg.Key(1).normal((40, 3), "float64"))
    layer.bias = mg.param(np.log(mg.to_cpu(layer.sampler.probs)))
    scale = mg.backend.asarray(
        np.repeat([[0.0], [0.4], [1.0], [2.0], [5.0]], 4, axis=0)
    )  # the farther, the more uneven
    return layer, mg.param(mg.Key(3).normal((20, 3), "float64") * scale), np.arange(20)


def by_hand(layer, s, key):
    """(9) an example at a time: the noise words of each, or None for one that gets the softmax."""
    q, first = mg.to_cpu(layer.sampler.probs), layer.shared or layer.k
    noise, left, found, step = {e: [] for e in range(len(s))}, list(range(len(s))), {}, 0
    while left:
        n = len(noise[left[0]])
        count = min(n or first, layer.max_k - n)
        shape = (count,) if layer.shared else (len(left), count)
        drawn = mg.to_cpu(layer.sampler.sample(key.fold(step) if step else key, shape))
        for row, e in enumerate(left):
            noise[e] += (drawn if layer.shared else drawn[row]).tolist()
            w = np.exp(s[e, noise[e]]) / q[noise[e]]
            if w.sum() ** 2 / (w**2).sum() >= layer.min_ess:
                found[e] = noise[e]
            elif len(noise[e]) == layer.max_k:
                found[e] = None
        left, step = [e for e in left if e not in found], step + 1
    return found


@pytest.mark.parametrize("shared", [None, True])
@pytest.mark.parametrize("seed", range(3))
def test_step_9_each_example_has_the_loss_and_the_gradient_of_the_noise_it_came_to(shared, seed):
    layer, hidden, targets = an_adaptive_layer(shared=shared)
    s, q = layer.raw_scores(hidden).numpy(), mg.to_cpu(layer.sampler.probs)
    noise = by_hand(layer, s, mg.Key(seed))
    assert {None, 4, 8, 16, 28} >= {n and len(n) for n in noise.values()} >= {None, 4}, "some of each kind"
    expected, G = np.zeros(20), np.zeros((20, 40))
    for e, ids in noise.items():
        ids, count = (np.arange(40), np.ones(40)) if ids is None else (ids, len(ids) * q[ids])
        w = np.exp(s[e, ids]) / count
        expected[e] = math.log(w.sum()) - s[e, targets[e]]
        np.add.at(G[e], ids, w / w.sum())
        G[e, targets[e]] -= 1

    losses = layer.loss(hidden, targets, key=mg.Key(seed), reduction="none")
    assert np.allclose(losses.numpy(), expected, rtol=1e-10)
    up = np.arange(1.0, 21.0)  # not all the same, so that no example may have another's
    found = mg.grad((losses * up).sum(), [layer.weight, layer.bias, hidden])
    G *= up[:, None]
    for f, g in zip(found, (G.T @ hidden.numpy(), G.sum(axis=0), G @ layer.weight.numpy())):
        assert np.allclose(mg.to_cpu(f.dense() if isinstance(f, mg.Rows) else f), g, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shared", [None, True])
def test_step_9_the_same_key_has_the_same_loss_and_the_mean_is_that_of_the_examples(shared):
    layer, hidden, targets = an_adaptive_layer(shared=shared)
    losses, again, other = (layer.loss(hidden, targets, key=mg.Key(k), reduction="none").numpy() for k in (5, 5, 6))
    assert losses.tolist() == again.tolist() != other.tolist()
    assert math.isclose(layer.loss(hidden, targets, key=mg.Key(5)).item(), losses.mean(), rel_tol=1e-12)


@pytest.mark.parametrize("shared", [None, 8])
def test_step_9_an_ess_of_one_is_always_there_and_the_loss_that_of_a_layer_without(shared):
    options = {"key": mg.Key(0), "k": 1, "shared": shared}
    hidden, targets = mg.Key(1).normal((6, 4)), range(6)
    plain, adaptive = (ImportanceSampling(50, 4, **options, **more) for more in ({}, {"min_ess": 1}))
    losses = [layer.loss(hidden, list(targets), key=mg.Key(2), reduction="none") for layer in (plain, adaptive)]
    assert losses[0].numpy().tolist() == losses[1].numpy().tolist()


def test_step_9_an_example_whose_noise_suffices_is_given_no_more():
    layer, hidden, targets = an_adaptive_layer()
    layer.max_k = 1 << 20
    lengths = [len(n) for n in by_hand(layer, layer.raw_scores(hidden).numpy(), mg.Key(0)).values()]
    layer.loss(hidden, targets, key=mg.Key(0)).backward()
    assert len(layer.weight.grad.ids) == sum(1 + n for n in lengths)
    assert min(lengths) == 4 and max(lengths) > 28


def test_step_9_where_max_k_does_not_suffice_it_is_the_softmax():
    layer, hidden, targets = an_adaptive_layer()
    layer.min_ess = 28  # nearly equal weights would be needed
    exact = FullSoftmax(40, 3, key=mg.Key(0))
    exact.weight, exact.bias = layer.weight, layer.bias
    found, expected = (x.loss(hidden, targets, key=mg.Key(0), reduction="none").numpy() for x in (layer, exact))
    assert np.allclose(found, expected, rtol=1e-12)


def test_step_9_max_k_is_the_vocabulary_unless_given_but_no_less_than_the_first_draw():
    made = lambda **options: ImportanceSampling(40, 3, key=mg.Key(0), min_ess=2, **options).max_k
    assert (made(k=4), made(k=64), made(k=4, shared=50), made(k=4, max_k=9)) == (40, 64, 50, 9)


class EveryDraw(Sampler):
    """Instead of chance: every pair of words, and with it every second pair, an outcome each."""

    def __init__(self, q):
        super().__init__(mg.backend.asarray(q))
        self.pairs, _ = every_draw(q, 2)
        self.rounds = 0

    def draw(self, key, shape):
        self.rounds += 1
        v2 = len(self.pairs)
        ids = np.repeat(self.pairs, v2, axis=0) if self.rounds == 1 else np.tile(self.pairs, (shape[0] // v2, 1))
        assert ids.shape == shape
        return mg.backend.asarray(ids), None


def test_step_9_to_stop_on_what_was_seen_adds_a_bias_which_drawing_always_four_has_not():
    p, q = np.array([0.8, 0.1, 0.1]), np.array([0.2, 0.4, 0.4])
    _, chance = every_draw(q, 4)
    mean = {}
    for min_ess in (1.5, 4 - 1e-9):
        layer, h = layer_with_scores(np.log(p), q, 2, sampler=EveryDraw(q), min_ess=min_ess, max_k=4)
        losses = layer.loss(np.tile(h, (81, 1)), [0] * 81, key=mg.Key(0), reduction="none").numpy()
        mean[min_ess] = chance @ np.exp(losses + np.log(p[0]))
    assert mean[1.5] < 0.9, "Z is 1"
    found, chance = estimates(np.log(p), q, 4)
    assert math.isclose(chance @ found, 1.0, rel_tol=1e-12)


def test_step_9_ess_knows_nothing_of_a_word_that_was_not_drawn():
    s = np.array([20.0, *[0.0] * 9])  # one word holds nearly all of Z
    layer, h = layer_with_scores(s, np.full(10, 0.1), 4)
    noise = np.array([[3, 4, 8, 1]])
    assert effective_sample_size(s[noise] - math.log(0.1)).tolist() == [4.0]
    estimate = math.exp(layer.loss(h[None], [1], noise=noise).item())
    assert estimate < 1e-6 * np.exp(s).sum()


@pytest.mark.device
@pytest.mark.parametrize("shared", [None, True])
def test_step_9_on_a_gpu_each_round_is_a_wait_and_nothing_moves_past_the_ledger(shared):
    with strict.installed():
        mg.set_device("gpu")
        layer, hidden, targets = an_adaptive_layer(shared=shared)
        noise = by_hand(layer, layer.raw_scores(hidden).numpy(), mg.Key(0))
        rounds = max({None: 4, 4: 1, 8: 2, 16: 3, 28: 4}[n and len(n)] for n in noise.values())
        strict.counts.reset()
        with mg.transfers() as moved:
            layer.loss(hidden, targets, key=mg.Key(0))
        assert vars(moved) == {what: getattr(strict.counts, what) for what in vars(moved)}
        assert moved.waits == rounds + 1, "one to know whether the loss is finite"
        mg.set_device("cpu")


# ---- cost, and bad arguments --------------------------------------------------------------------------------------


def test_the_cost_is_one_row_for_the_target_and_one_for_each_noise_word():
    layer = ImportanceSampling(1000, 4, key=mg.Key(0), k=5)
    assert layer.score_cost() == (6, 1000)
    layer.loss(np.ones((32, 4), "float32"), np.arange(32), key=mg.Key(1)).backward()
    assert len(layer.weight.grad.ids) == 32 * layer.score_cost().train


@pytest.mark.parametrize(
    "options, error, said",
    [
        ({"min_ess": 0.5}, ValueError, "min_ess must be a number from 1 to max_k = 40, got 0.5"),
        ({"min_ess": 41}, ValueError, "min_ess must be a number from 1 to max_k = 40, got 41"),
        ({"min_ess": math.nan}, ValueError, "min_ess must be a number from 1 to max_k = 40, got nan"),
        ({"min_ess": "many"}, ValueError, "min_ess must be a number from 1 to max_k = 40, got 'many'"),
        ({"min_ess": True}, ValueError, "min_ess must be a number from 1 to max_k = 40, got True"),
        ({"min_ess": 2, "max_k": 3}, ValueError, "max_k must be at least 4, the noise drawn first; got 3"),
        (
            {"min_ess": 2, "max_k": 9, "shared": 16},
            ValueError,
            "max_k must be at least 16, the noise drawn first; got 9",
        ),
        ({"min_ess": 2, "max_k": 8.5}, TypeError, "max_k must be an integer, got float 8.5"),
        ({"max_k": 8}, ValueError, "max_k is where drawing for min_ess= ends; give min_ess, too"),
        (
            {"min_ess": 2, "sampler": lambda: GumbelTopK([1] * 40)},
            ValueError,
            "min_ess is about independent draws; GumbelTopK draws without replacement",
        ),
    ],
)
def test_a_wrong_option_is_an_error_that_says_what_was_expected(options, error, said):
    options = {name: value() if callable(value) else value for name, value in options.items()}
    with pytest.raises(error) as raised:
        ImportanceSampling(40, 3, key=mg.Key(0), k=4, **options)
    assert str(raised.value) == f"losses.ImportanceSampling: {said}"


def test_with_min_ess_noise_cannot_be_drawn_ahead():
    layer, hidden, targets = an_adaptive_layer()
    with pytest.raises(ValueError, match="the scores say how much noise it takes; give loss a key="):
        layer.draw(mg.Key(0), 20)
    for options in ({}, {"noise": np.zeros((20, 4), "int64")}, {"noise": np.zeros((20, 4), "int64"), "key": mg.Key(0)}):
        with pytest.raises(ValueError, match="with min_ess= give key=, to draw the noise with"):
            layer.loss(hidden, targets, **options)
    with pytest.raises(TypeError, match=r"key must be a minigrad.Key, got int"):
        layer.loss(hidden, targets, key=3)


@pytest.mark.parametrize("shared, min_ess", [(None, None), (None, 3), (True, 3)])
@pytest.mark.parametrize("wrong", [np.nan, 1e308], ids=["not a number", "an overflow"])
def test_weights_that_are_too_large_or_no_numbers_are_an_error(wrong, shared, min_ess):
    layer, hidden, targets = an_adaptive_layer(shared=shared)
    layer.min_ess = min_ess
    layer.weight.data = mg.tensor(np.full((40, 3), wrong)).data
    with pytest.raises(FloatingPointError, match="the loss of some example is not finite"):
        layer.loss(100.0 * hidden, targets, key=mg.Key(0))


def test_a_target_that_is_never_drawn_is_refused():
    layer = ImportanceSampling(3, 2, key=mg.Key(0), counts=[5, 0, 1])
    with pytest.raises(ValueError, match=r"a target has q\(w\) = 0"):
        layer.loss(np.ones((1, 2), "float32"), [1], key=mg.Key(0))


# ---- the reader's door --------------------------------------------------------------------------------------------

NO_LOG_Q = """
import numpy as np

def importance_sampling(target_scores, noise_scores, *, log_count_noise):
    e = np.exp(noise_scores)
    z = e.mean(axis=1)
    return np.log(z) - target_scores, -np.ones_like(target_scores), e / e.sum(axis=1, keepdims=True)
"""


@pytest.mark.cpu
def test_a_reader_who_forgets_log_q_is_told_by_the_smallest_example(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(NO_LOG_Q, encoding="utf-8")
    assert check.main(["importance", str(tmp_path / "mine.py"), "--examples", "50"]) == 1
    out = capsys.readouterr().out.splitlines()
    at = out.index("  ✗  (2) the loss is log Ẑ − s_t")
    small = (["[0.0]", "[[0.0, 0.0]]", "[[1.0, 1.0]]"], ["[0.0]", "[[0.0]]", "[[2.0]]"])  # neither is the smaller one
    assert [line.partition(" = ")[2] for line in out[at + 3 : at + 6]] in small
    assert any("Log count is subtracted" in line for line in out)


# ---- In PyTorch ---------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@given(batch=vocab_batches(dtype="float32"), n=st.integers(1, 4), seed=st.integers(0, 99))
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(batch, n, seed):
    torch = pytest.importorskip("torch")
    weight, _, hidden, targets = batch
    (v, d), b = weight.shape, len(targets)
    layer = ImportanceSampling(v, d, key=mg.Key(0), k=n, bias=False)
    layer.weight = weight

    imports, make, train = IN_PYTORCH.strip().split("\n\n")
    torch.manual_seed(seed)
    q = torch.tensor(mg.to_cpu(layer.sampler.probs).astype("float32"))
    theirs = {"V": v, "d": d, "B": b, "N": n, "q": q, "targets": torch.tensor(targets)}
    theirs["hidden"] = torch.tensor(hidden.numpy(), requires_grad=True)
    exec(imports + "\n" + make, theirs)
    theirs["out"].weight.data = torch.tensor(weight.numpy())
    exec(train, theirs)

    ours = layer.loss(hidden, targets, noise=theirs["noise"].numpy(), reduction="none")
    ours.mean().backward()
    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-5, atol=1e-5)
    assert np.allclose(mg.to_cpu(hidden.grad), theirs["hidden"].grad.numpy(), rtol=1e-4, atol=1e-5)
    rows, grad = weight.grad.coalesce(), theirs["out"].weight.grad.coalesce()
    assert rows.ids.tolist() == grad.indices()[0].tolist()
    assert np.allclose(mg.to_cpu(rows.values), grad.values().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
def test_in_pytorch_multinomial_draws_without_replacement_unless_told():
    torch = pytest.importorskip("torch")
    q = torch.tensor([0.7, 0.1, 0.1, 0.1])
    assert sorted(torch.multinomial(q, 4).tolist()) == [0, 1, 2, 3]


def test_in_pytorch_without_replacement_log_nq_is_not_the_log_of_the_expected_count():
    """Every ordered draw of two words by its chance: the mean of Σ e^s / (N q) is Z if they may be equal, else not."""
    q, s = np.array([0.7, 0.2, 0.1]), np.log([0.7, 0.2, 0.1]) + 0.5 * np.arange(3)
    ratio, pairs = np.exp(s) / (2 * q), list(itertools.product(range(3), repeat=2))
    with_replacement = sum(q[i] * q[j] * (ratio[i] + ratio[j]) for i, j in pairs)
    without = sum(q[i] * q[j] / (1 - q[i]) * (ratio[i] + ratio[j]) for i, j in pairs if i != j)
    assert math.isclose(with_replacement, np.exp(s).sum())
    assert without > 1.1 * np.exp(s).sum()
