"""Noise contrastive estimation: a test for each numbered step of `losses.sampled.nce`, and an oracle in torch."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import NCE, FullSoftmax, NegativeSampling
from losses.check import smallest_failure
from losses.sampled.nce import IN_PYTORCH, nce, nce_loss, nce_naive
from losses.sampled.negative import negative_sampling
from losses.samplers import GumbelTopK, Uniform, Unigram, Unique
from losses.softmax import softmax_cross_entropy
from losses.suites.nce import CHAPTER, mean_gradient, models, words
from losses.suites.negative import scores
from minigrad.check import vocab_batches

from .properties import expected_loss, gradients, layer_with_scores, where_tensors_are_made

pytestmark = pytest.mark.nce


def name(lesson):
    return f"step_{lesson.step.strip('()')}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, where_tensors_are_made(nce)) is None


P = np.array([0.5, 0.25, 0.15, 0.1])
COUNTS = np.array([1, 2, 3, 4])
Q = COUNTS / 10


def σ(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(x))


def exact_loss(layer, hidden, p):
    """E L over contexts `hidden` (H, d), as often each, and targets ~ p (H, V): a scalar with its history.

    Of a layer whose sampler has counts that are integers and whose `shared` is their sum: each word is among the noise
    as often as its count says, so that the noise's mean is the expectation.
    """
    (contexts, v), noise = p.shape, np.repeat(np.arange(layer.vocab_size), mg.to_cpu(layer.counts).astype(int))
    every_target = np.tile(np.arange(v), contexts)
    losses = layer.loss(np.repeat(hidden, v, axis=0), every_target, noise=noise, reduction="none")
    return (losses * p.ravel()).sum() / contexts


def exact_layer(s, counts, k):
    """A layer for `exact_loss`, in float64, whose scores in the one context h = 1 are s (V,)."""
    layer = NCE(len(s), 1, key=mg.Key(0), k=k, shared=int(sum(counts)), counts=counts)
    layer.weight, layer.bias = mg.param(0.5 * s[:, None]), mg.param(0.5 * s)
    return layer


def exact_gradient(s, p, counts, k):
    layer = exact_layer(s, counts, k)
    exact_loss(layer, np.ones((1, 1)), p[None]).backward()
    return mg.to_cpu(layer.bias.grad.dense())


# ---- (1) to (4): the question, the loss and its gradient ------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_1_among_k_plus_one_words_one_is_from_the_text_with_probability_p_of_p_plus_kq(k):
    """Counted: all that one word of the text and k of noise can be, in each of their places."""
    of_text, in_all = np.zeros(4), np.zeros(4)
    for target, *noise in itertools.product(range(4), repeat=1 + k):
        chance = P[target] * Q[noise].prod() / (k + 1)
        of_text[target] += chance
        np.add.at(in_all, [target, *noise], chance)
    assert np.allclose(of_text / in_all, P / (P + k * Q), rtol=1e-12)


@given(models())
def test_step_2_the_models_odds_are_p_over_kq_and_its_answer_sigma_of_delta(example):
    _, q, k, s = example
    delta = s - np.log(k * q)
    assert np.allclose(np.exp(delta), np.exp(s) / (k * q), rtol=1e-12)
    assert np.allclose(σ(delta), np.exp(s) / (np.exp(s) + k * q), rtol=1e-12)


@given(words())
def test_step_3_it_is_negative_sampling_at_shifted_scores(example):
    target, noise, log_kq_target, log_kq_noise = map(mg.backend.asarray, example)
    found = nce(target, noise, log_kq_target=log_kq_target, log_kq_noise=log_kq_noise)
    expected = negative_sampling(target - log_kq_target, noise - log_kq_noise)
    assert all((f == e).all() for f, e in zip(found, expected))


@given(words())
def test_step_3_the_ratio_and_softplus_are_one_loss_with_one_gradient(example):
    target, noise = map(mg.param, example[:2])
    log_kq = dict(zip(("log_kq_target", "log_kq_noise"), map(mg.backend.asarray, example[2:])))
    fused, naive = nce_loss(target, noise, **log_kq), nce_naive(target, noise, **log_kq)
    assert np.allclose(fused.numpy(), naive.numpy(), rtol=1e-11)
    pairs = zip(mg.grad(fused.sum(), [target, noise]), mg.grad(naive.sum(), [target, noise]))
    assert all(np.allclose(mg.to_cpu(f), mg.to_cpu(n), rtol=1e-9, atol=1e-13) for f, n in pairs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_3_far_from_zero_the_ratio_is_not_a_number_and_softplus_is_right(dtype):
    def loss(function, target, noise):
        zeros = mg.backend.asarray([0.0], dtype), mg.backend.asarray([[0.0]], dtype)
        target, noise = mg.tensor(np.array([target], dtype)), mg.tensor(np.array([[noise]], dtype))
        with np.errstate(all="ignore"):
            return function(target, noise, log_kq_target=zeros[0], log_kq_noise=zeros[1]).item()

    assert math.isnan(loss(nce_naive, 1000.0, -1000.0)) and loss(nce_loss, 1000.0, -1000.0) == 0.0
    assert loss(nce_naive, -1000.0, -1000.0) == math.inf and loss(nce_loss, -1000.0, -1000.0) == 1000.0


@pytest.mark.parametrize("shared", [None, 3])
def test_step_3_scores_of_10000_and_noise_of_1e_30_are_finite_in_float32(shared):
    layer = NCE(3, 1, key=mg.Key(0), k=3, shared=shared, counts=[1.0, 1e-30, 1e-30], bias=False)
    layer.weight = mg.param([[1e4], [-1e4], [1e4]])
    noise = np.array([0, 1, 2])
    loss = layer.loss(np.array([[1.0], [-1.0]], "float32"), [0, 1], noise=noise if shared else np.tile(noise, (2, 1)))
    loss.backward()
    assert loss.dtype == "float32" and math.isfinite(loss.item())
    assert np.isfinite(mg.to_cpu(layer.weight.grad.dense())).all()


@given(models())
def test_step_3_on_average_the_noise_counts_k_times(example):
    p, q, k, s = example
    found = expected_loss(*layer_with_scores(NCE, s, q, k), p).item()
    delta = s - np.log(k * q)
    assert math.isclose(found, -(p * np.log(σ(delta))).sum() - k * (q * np.log(σ(-delta))).sum(), rel_tol=1e-10)


@pytest.mark.parametrize("shared", [None, 2])
def test_step_3_noise_that_happens_to_be_the_target_stays(shared):
    layer = NCE(4, 2, key=mg.Key(0), k=2, shared=shared, sampler=Uniform(4))
    layer.bias.data = mg.tensor([0.0, 2.0, 0.0, 0.0]).data
    noise = np.array([1, 3] if shared else [[1, 3]])
    loss = layer.loss(np.zeros((1, 2), "float32"), [1], noise=noise).item()
    text, hit, other = (math.log(1 + math.exp(x)) for x in (-2 - math.log(2), 2 + math.log(2), math.log(2)))
    assert math.isclose(loss, text + hit + other, rel_tol=1e-6)


def without_hits(target_scores, noise_scores, **options):
    """`nce` that leaves out noise words which are the target: here, those of the same score."""
    loss, g_target, g_noise = nce(target_scores, noise_scores, **options)
    return loss, g_target, g_noise * (noise_scores != target_scores[:, None])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_3_without_hits_scores_become_log_p_less_log_of_one_minus_p(k):
    f = where_tensors_are_made(without_hits)
    assert abs(mean_gradient(f, P, Q, k, np.log(P) - np.log(1 - P))).max() < 1e-14
    assert abs(mean_gradient(f, P, Q, k, np.log(P))).max() > 0.01


@pytest.mark.parametrize("k", [None, 1, 5])
@given(example=words(limit=4.0))
def test_step_4_gradients_are_right_to_second_order(k, example):
    log_kq = dict(zip(("log_kq_target", "log_kq_noise"), map(mg.backend.asarray, example[2:])))
    mg.check_grads(lambda target, noise: nce_loss(target, noise, **log_kq, k=k), *example[:2])


@given(vocab_batches(dtype="float32"), st.booleans())
def test_step_4_only_the_rows_of_target_and_noise_have_a_gradient(batch, shared):
    weight, _, hidden, targets = batch
    v, d = weight.shape
    layer = NCE(v, d, key=mg.Key(0), k=2, shared=3 if shared else None)
    noise = layer.draw(mg.Key(1), len(targets))
    layer.loss(hidden, targets, noise=noise).backward()
    looked_up = {*targets.tolist(), *noise.ravel().tolist()}
    for p in layer.parameters():
        assert isinstance(p.grad, mg.Rows) and set(p.grad.ids.tolist()) == looked_up


@given(vocab_batches(), st.integers(1, 4), st.sampled_from([None, 1, 3]), st.integers(0, 99))
def test_step_4_the_layers_gradient_is_that_of_the_composed_loss(batch, k, m, seed):
    weight, bias, hidden, targets = batch
    layer = NCE(*weight.shape, key=mg.Key(0), k=k, shared=m)
    layer.weight, layer.bias = weight, bias
    noise = layer.draw(mg.Key(seed), len(targets))
    found = layer.loss(hidden, targets, noise=noise)

    every = mg.backend.xp().arange(len(targets))[:, None]
    delta = hidden @ weight.T + bias - layer.sampler.log_prob(mg.backend.xp().arange(layer.vocab_size)) - math.log(k)
    of_noise = (k / noise.shape[-1]) * mg.softplus(delta[every, noise if m is None else noise[None]]).sum(axis=1)
    composed = (mg.softplus(-delta[every[:, 0], mg.backend.asarray(targets)]) + of_noise).mean()

    assert math.isclose(found.item(), composed.item(), rel_tol=1e-12)
    for f, c in zip(mg.grad(found, batch[:3]), mg.grad(composed, batch[:3])):
        f, c = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, c))
        assert np.allclose(f, c, rtol=1e-10, atol=1e-12)


# ---- (5) to (8): what it learns, with every target and every noise, through the layer --------------------------------


@given(models())
def test_step_5_the_mean_gradient_is_the_model_less_the_text_times_the_noises_share(example):
    p, q, k, s = example
    layer, h = layer_with_scores(NCE, s, q, k)
    by_weight, by_bias = gradients(layer, h, p)
    model = np.exp(s)
    expected = k * q / (model + k * q) * (model - p)
    assert np.allclose(by_bias, expected, rtol=0, atol=1e-12)
    assert np.allclose(by_bias, p * (σ(s - np.log(k * q)) - 1) + k * q * σ(s - np.log(k * q)), rtol=0, atol=1e-12)
    assert np.allclose(by_weight, expected[:, None] * h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_5_the_optimum_is_log_p_itself(k):
    layer, h = layer_with_scores(NCE, np.log(P), Q, k)
    by_weight, by_bias = gradients(layer, h, P)
    assert abs(by_weight).max() < 1e-14 and abs(by_bias).max() < 1e-14
    assert np.allclose(layer.raw_scores(h[None]).numpy(), np.log(P), rtol=0, atol=1e-12)
    assert np.allclose(layer.log_prob(h[None]).numpy(), np.log(P), rtol=0, atol=1e-12)


def without_log_k(layer):
    """The layer with log q(w) where log(k q(w)) belongs."""
    layer._log_counts = lambda drawn, k: NCE._log_counts(layer, drawn, 1)
    return layer


@pytest.mark.parametrize("k", [2, 3])
def test_step_6_without_log_k_all_scores_are_lower_by_log_k_and_z_is_one_over_k(k):
    layer, h = layer_with_scores(NCE, np.log(P) - math.log(k), Q, k)
    _, by_bias = gradients(without_log_k(layer), h, P)
    assert abs(by_bias).max() < 1e-14, "it is the optimum"
    assert math.isclose(layer.log_z(h[None]).item(), -math.log(k), rel_tol=1e-12)
    assert np.allclose(layer.log_prob(h[None]).numpy(), np.log(P), rtol=0, atol=1e-12), "normalised, it is harmless"


@pytest.mark.parametrize("k", [2, 3])
def test_step_6_with_the_noises_mean_for_its_sum_all_scores_are_higher_by_log_k(k):
    def averaged(target_scores, noise_scores, **log_kq):
        return nce(target_scores, noise_scores, **log_kq, k=1)

    f = where_tensors_are_made(averaged)
    assert abs(mean_gradient(f, P, Q, k, np.log(P) + math.log(k))).max() < 1e-14
    assert abs(mean_gradient(f, P, Q, k, np.log(P))).max() > 0.01


@given(scores(), st.sampled_from([None, 1, 3]))
def test_step_6_without_log_q_it_is_negative_sampling(example, k):
    target, noise = map(mg.backend.asarray, example)
    found = nce(target, noise, log_kq_target=0.0 * target, log_kq_noise=0.0 * noise, k=k)
    assert all((f == e).all() for f, e in zip(found, negative_sampling(target, noise, k=k)))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_step_6_without_log_q_alone_scores_become_log_p_less_log_q(k):
    without = lambda target, noise, *, log_kq_target, log_kq_noise: nce(
        target, noise, log_kq_target=0.0 * log_kq_target + math.log(k), log_kq_noise=0.0 * log_kq_noise + math.log(k)
    )
    assert abs(mean_gradient(without, P, Q, k, np.log(P) - np.log(Q))).max() < 1e-14


@pytest.mark.parametrize("shared", [None, 3])
def test_step_6_with_uniform_noise_and_k_equal_to_v_the_layers_are_negative_sampling(shared):
    """k q(w) = 1 for every word, so its logarithm is 0."""
    layers = [make(4, 3, key=mg.Key(0), k=4, shared=shared, sampler=Uniform(4)) for make in (NCE, NegativeSampling)]
    hidden, targets = mg.Key(1).normal((5, 3)), [0, 3, 1, 1, 2]
    layers[0].bias = layers[1].bias
    losses = [layer.loss(hidden, targets, key=mg.Key(2)) for layer in layers]
    assert losses[0].item() == losses[1].item()
    for loss in losses:
        loss.backward()
    assert (layers[0].weight.grad.dense() == layers[1].weight.grad.dense()).all()


@pytest.mark.parametrize("c", [1.7, -1.7])
def test_step_7_a_number_added_to_all_scores_changes_nothing_for_the_softmax_and_much_for_nce(c):
    s = mg.backend.asarray(np.tile(np.log(P) + c, (4, 1)))
    _, g = softmax_cross_entropy(s, mg.backend.asarray(np.arange(4)))
    assert abs(P @ mg.to_cpu(g)).max() < 1e-14
    _, by_bias = gradients(*layer_with_scores(NCE, np.log(P) + c, Q, 2), P)
    assert np.allclose(by_bias, 2 * Q * P * (math.exp(c) - 1) / (math.exp(c) * P + 2 * Q), rtol=1e-10)
    assert abs(by_bias).min() > 0.01


def test_step_7_with_c_h_subtracted_the_gradient_is_zero_again_and_that_of_c_h_too():
    every, c = np.arange(4), mg.param(np.array(1.7))
    s, log_kq = mg.param(np.log(P) + 1.7), mg.backend.asarray(np.log(2 * Q))
    noise = mg.backend.asarray(np.tile(np.repeat(every, COUNTS), (4, 1)))
    normalised = s - c
    losses = nce_loss(
        normalised[mg.backend.asarray(every)], normalised[noise], log_kq_target=log_kq, log_kq_noise=log_kq[noise], k=2
    )
    by_s, by_c = mg.grad((losses * P).sum(), [s, c])
    by_s = by_s.dense() if isinstance(by_s, mg.Rows) else by_s
    assert abs(mg.to_cpu(by_s)).max() < 1e-14 and abs(float(mg.to_cpu(by_c))) < 1e-14


def train(layer, loss, steps, lr=1.0):
    optimizer = mg.optim.SGD(layer.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(layer).backward()
        optimizer.step()
    return layer


def divergence(layer, hidden, p):
    """Σ P log(P / its estimate), the mean over the contexts."""
    return (p * (np.log(p) - layer.log_prob(hidden).numpy())).sum(axis=1).mean()


def in_float64(layer):
    layer.weight = mg.param(layer.weight.numpy().astype("float64"))
    layer.bias = None if layer.bias is None else mg.param(layer.bias.numpy().astype("float64"))
    return layer


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_step_7_scores_that_cannot_have_z_equal_to_one_everywhere_come_near(seed):
    """Twelve words in eight contexts of four dimensions, which can't have P. NCE beside the softmax: log Z, and P."""
    key, counts = mg.Key(seed), np.arange(12, 0, -1)
    p = counts * np.exp(mg.to_cpu(key.fold(0).normal((8, 12), "float64")))
    p /= p.sum(axis=1, keepdims=True)
    hidden = mg.to_cpu(key.fold(1).normal((8, 4), "float64"))

    ours = in_float64(NCE(12, 4, key=key, k=10, shared=int(counts.sum()), counts=counts))
    train(ours, lambda layer: exact_loss(layer, hidden, p), 200)
    every = np.repeat(hidden, 12, axis=0), np.tile(np.arange(12), 8)
    full = in_float64(FullSoftmax(12, 4, key=key))
    train(full, lambda layer: (layer.loss(*every, reduction="none") * p.ravel()).sum() / 8, 200)

    log_z = ours.log_z(hidden).numpy()
    assert abs(log_z.mean()) < 0.02 and 0.05 < abs(log_z).max() < 0.3
    assert (full.log_z(hidden).numpy() > 2).all(), "nothing keeps the softmax's Z near 1"
    assert divergence(full, hidden, p) < divergence(ours, hidden, p) < 1.1 * divergence(full, hidden, p)


def test_step_7_scores_that_are_free_come_to_log_p_from_either_bias():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    for bias in (-math.log(3), 0.0):
        layer = in_float64(NCE(3, 2, key=mg.Key(0), k=2, shared=6, counts=[1, 2, 3]))
        layer.bias.data[:] = bias
        train(layer, lambda layer: exact_loss(layer, np.eye(2), p), 300)
        assert np.allclose(layer.raw_scores(np.eye(2)).numpy(), np.log(p), rtol=0, atol=1e-6)
        assert abs(layer.log_z(np.eye(2)).numpy()).max() < 1e-6


def test_step_8_the_bias_begins_at_minus_log_v_where_z_is_one():
    layer = NCE(1000, 4, key=mg.Key(0))
    assert layer.bias.numpy().tolist() == [np.float32(-math.log(1000))] * 1000
    assert abs(layer.log_z(mg.Key(1).normal((3, 4))).numpy()).max() < 0.1


@pytest.mark.parametrize("k", [1, 25])
def test_step_8_with_uniform_noise_every_answer_is_then_one_of_k_plus_one(k):
    layer = NCE(10, 2, key=mg.Key(0), k=k, sampler=Uniform(10))
    layer.loss(np.zeros((1, 2), "float32"), [3], key=mg.Key(1)).backward()
    answers = mg.to_cpu(layer.bias.grad.values).ravel() + np.array([1] + [0] * k)
    assert np.allclose(answers, 1 / (k + 1), rtol=1e-5)


@pytest.mark.parametrize("bias, begins", [(0.0, 150), (-math.log(10_000), 4.2)])
def test_step_8_the_loss_begins_at_150_with_the_bias_at_zero_and_at_4_2_with_minus_log_v(bias, begins):
    layer = NCE(10_000, 1, key=mg.Key(0), k=25, shared=10_000, sampler=Uniform(10_000))
    layer.bias.data[:] = bias
    loss = layer.loss(np.zeros((1, 1), "float32"), [0], noise=np.arange(10_000)).item()  # all words: no chance in it
    assert f"{loss:.2g}" == f"{begins:.2g}"


@given(st.integers(0, 99), st.sampled_from([0.1, 1.0]))
def test_step_8_each_draw_lowers_a_bias_by_at_most_the_learning_rate(seed, lr):
    layer = NCE(6, 2, key=mg.Key(seed), k=4)
    layer.bias.data[:] = 3.0
    noise = np.array([[5, 1, 5, 2]])
    layer.loss(mg.Key(seed).normal((1, 2)), [0], noise=noise).backward()
    mg.optim.SGD([layer.bias], lr=lr).step()
    fell = 3.0 - layer.bias.numpy()
    assert (fell[1:] <= np.bincount(noise[0], minlength=6)[1:] * lr * (1 + 1e-5)).all() and (fell[[1, 2, 5]] > 0).all()


def test_step_8_with_the_bias_at_zero_the_rare_words_are_long_in_coming_down():
    """Fifty words after Zipf's law in one context, forty steps along the exact mean gradient."""
    counts = np.rint(200 / np.arange(1, 51))
    p, left = counts / counts.sum(), {}
    h = np.ones((1, 1))
    for bias in (0.0, -math.log(50)):
        layer = train(exact_layer(np.full(50, bias), counts, 5), lambda layer: exact_loss(layer, h, p[None]), 40)
        left[bias] = divergence(layer, h, p[None]), layer.log_z(h).item()
    (from_zero, z_from_zero), (from_log_v, z_from_log_v) = left.values()
    assert z_from_zero > 1 > 0.3 > abs(z_from_log_v)
    assert from_zero > 5 * from_log_v


@given(vocab_batches())
def test_step_8_without_a_bias_z_of_h_times_z_of_minus_h_is_at_least_v_squared(batch):
    weight, _, hidden, _ = batch
    layer = NCE(*weight.shape, key=mg.Key(0), bias=False)
    layer.weight = weight
    both = layer.log_z(hidden) + layer.log_z(-hidden)
    assert (both.numpy() >= 2 * math.log(layer.vocab_size) - 1e-12).all()


# ---- (9): as k grows ------------------------------------------------------------------------------------------------


def test_step_9_the_gradient_becomes_the_softmaxs_and_what_is_missing_falls_as_one_over_k():
    model, ks = np.array([0.2, 0.4, 0.1, 0.3]), [10**3, 10**4, 10**5, 10**6]
    s = mg.backend.asarray(np.tile(np.log(model), (4, 1)))
    of_softmax = P @ mg.to_cpu(softmax_cross_entropy(s, mg.backend.asarray(np.arange(4)))[1])
    assert np.allclose(of_softmax, model - P, rtol=0, atol=1e-12)
    missing = [abs(exact_gradient(np.log(model), P, COUNTS, k) - of_softmax).max() for k in ks]
    slopes = np.diff(np.log10(missing))
    assert (abs(slopes + 1) < 0.01).all()
    assert abs(exact_gradient(np.log(model), P, COUNTS, 1) - of_softmax).max() > 0.3 * abs(of_softmax).max()


def test_step_9_if_z_is_not_one_it_becomes_the_model_less_the_text_all_the_same():
    unnormalised = np.array([0.4, 0.8, 0.2, 0.6])
    assert np.allclose(exact_gradient(np.log(unnormalised), P, COUNTS, 10**7), unnormalised - P, rtol=0, atol=1e-5)


# ---- (10), (11): the noise ------------------------------------------------------------------------------------------


def gradient_at_log_p(draws):
    """The mean gradient at s = log P over P's targets and `draws`: (their probability, words, log π (V,)) of each."""
    s, mean, f = np.log(P), np.zeros(4), where_tensors_are_made(nce)
    for chance, drawn, log_pi in draws:
        noise, log_pi_noise = np.tile(s[drawn], (4, 1)), np.tile(log_pi[drawn], (4, 1))
        _, g_target, g_noise = f(s, noise, log_kq_target=log_pi, log_kq_noise=log_pi_noise)
        mean += chance * (P * g_target + np.bincount(drawn, P @ g_noise, minlength=4))
    return mean


PAIRS = list(itertools.permutations(range(4), 2))
PAIR_CHANCE = {(a, b): Q[a] * Q[b] / (1 - Q[a]) for a, b in PAIRS}  # drawn one by one, the second among those left
INCLUDED = np.array([sum(chance for pair, chance in PAIR_CHANCE.items() if w in pair) for w in range(4)])


def test_step_10_without_replacement_log_p_is_the_optimum_if_the_expected_counts_are_exact():
    """Two distinct words of four, all twelve draws by their probability."""
    draws = [(chance, list(pair), np.log(INCLUDED)) for pair, chance in PAIR_CHANCE.items()]
    assert abs(gradient_at_log_p(draws)).max() < 1e-14


def test_step_10_with_k_q_for_the_expected_counts_it_is_not():
    draws = [(chance, list(pair), np.log(2 * Q)) for pair, chance in PAIR_CHANCE.items()]
    assert abs(gradient_at_log_p(draws)).max() > 0.01


def test_step_10_nor_is_it_quite_with_the_counts_that_follow_from_the_number_of_tries():
    """`Unique`, and TensorFlow: the first word, r repetitions of it that are thrown away, the second."""
    sampler = Unique(Unigram(Q, 1))

    def log_pi(tries):
        return mg.to_cpu(sampler.log_expected_count(np.arange(4), 2, mg.backend.asarray(tries)))

    draws = [(Q[a] ** (1 + r) * Q[b], [a, b], log_pi(2 + r)) for a, b in PAIRS for r in range(30)]
    assert math.isclose(sum(chance for chance, _, _ in draws), 1, rel_tol=1e-10)
    assert 0.005 < abs(gradient_at_log_p(draws)).max() < 0.02


def test_step_10_nor_with_those_that_follow_from_the_threshold_of_gumbel_top_k():
    """Each word rings at a time with rate q: `a` is first, `b` second, at T, and κ = −log T. Integrated over T."""
    sampler, draws = GumbelTopK(Q), []
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for v, dv in zip((nodes + 1) / 2, weights / 2):
        u, du = (
            v**10,
            10 * v**9 * dv,
        )  # u = e^−T: uniform, for the first of all words; with a tenth of T it is all polynomials
        log_pi = mg.to_cpu(sampler.log_expected_count(np.arange(4), 1, mg.backend.asarray(-math.log(-math.log(u)))))
        for a, b in PAIRS:
            density = (1 - u ** Q[a]) * Q[b] * u ** (1 - Q[a]) / u  # a before T, b at T, the others after it
            draws.append((density * du, [a], log_pi))
    assert math.isclose(sum(chance for chance, _, _ in draws), 1, rel_tol=1e-12)
    assert 0.005 < abs(gradient_at_log_p(draws)).max() < 0.1


@pytest.mark.parametrize("sampler", [Unique(Uniform(4)), GumbelTopK([1, 1, 1, 1])])
def test_step_10_the_layer_takes_no_sampler_that_draws_without_replacement(sampler):
    with pytest.raises(
        ValueError, match=rf"losses.NCE: the sampler must draw with replacement; {type(sampler).__name__}"
    ):
        NCE(4, 2, key=mg.Key(0), sampler=sampler)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_step_11_shared_noise_has_the_same_optimum_for_every_m_and_log_k_in_it(m):
    """k = 2, with all that m shared words can be, by their probability."""
    layer, h = layer_with_scores(NCE, np.log(P), Q, 2, shared=m)
    every = np.arange(4)
    for draw in itertools.product(range(4), repeat=m):
        losses = layer.loss(np.tile(h, (4, 1)), every, noise=np.array(draw), reduction="none")
        (losses * (P * Q[list(draw)].prod())).sum().backward()
    assert abs(mg.to_cpu(layer.bias.grad.dense())).max() < 1e-14


# ---- cost, and the same key -----------------------------------------------------------------------------------------


def test_cost_is_k_plus_one_rows_a_token_and_all_of_them_to_normalise():
    assert NCE(1000, 4, key=mg.Key(0), k=25).score_cost() == (26, 1000)
    assert NCE(1000, 4, key=mg.Key(0), k=25, shared=64).score_cost(batch_size=32) == (3, 1000)


@pytest.mark.parametrize("shared", [None, 7])
def test_the_same_key_has_the_same_loss_which_is_that_of_the_noise_drawn_with_it(shared):
    layer = NCE(100, 4, key=mg.Key(0), k=5, shared=shared)
    hidden, targets = mg.Key(1).normal((3, 4)), [5, 50, 99]
    with_key = layer.loss(hidden, targets, key=mg.Key(2)).item()
    assert with_key == layer.loss(hidden, targets, key=mg.Key(2)).item()
    assert with_key == layer.loss(hidden, targets, noise=layer.draw(mg.Key(2), 3)).item()
    assert with_key != layer.loss(hidden, targets, key=mg.Key(3)).item()


def test_noise_follows_the_counts_unless_another_power_is_given():
    assert NCE(3, 2, key=mg.Key(0), counts=[16, 1, 1]).sampler.probs.tolist() == [8 / 9, 1 / 18, 1 / 18]
    assert NCE(3, 2, key=mg.Key(0), counts=[16, 1, 1], power=0.5).sampler.probs.tolist() == [4 / 6, 1 / 6, 1 / 6]


# ---- In PyTorch -----------------------------------------------------------------------------------------------------


def in_pytorch(torch, layer, hidden, targets, noise, lines):
    """What is defined after these lines ran beside `layer`: its weights and all that the lines take for given."""
    theirs = {"V": layer.vocab_size, "d": layer.dim, "k": layer.k, "targets": torch.tensor(targets)}
    theirs["noise"] = torch.tensor(mg.to_cpu(noise))
    theirs["log_q"] = torch.tensor(np.log(mg.to_cpu(layer.sampler.probs)).astype("float32"))
    theirs["hidden"] = torch.tensor(hidden.numpy(), requires_grad=True)
    make, run = lines.strip().rsplit("\n\n", 1)
    exec(make, theirs)
    theirs["begins"] = theirs["bias"].weight.detach().numpy().copy()
    theirs["out"].weight.data = torch.tensor(layer.weight.numpy())
    theirs["bias"].weight.data = torch.tensor(layer.bias.numpy()[:, None])
    exec(run, theirs)
    return theirs


@pytest.mark.oracle
@given(batch=vocab_batches(dtype="float32"), k=st.integers(1, 4), seed=st.integers(0, 99))
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(batch, k, seed):
    torch = pytest.importorskip("torch")
    weight, bias, hidden, targets = batch
    layer = NCE(*weight.shape, key=mg.Key(0), k=k)
    begins = layer.bias.numpy()
    layer.weight, layer.bias = weight, bias
    noise = layer.draw(mg.Key(seed), len(targets))
    ours = layer.loss(hidden, targets, noise=noise, reduction="none")
    ours.mean().backward()

    theirs = in_pytorch(torch, layer, hidden, targets, noise, IN_PYTORCH)
    assert np.allclose(theirs["begins"][:, 0], begins, rtol=1e-6)
    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-5, atol=1e-5)
    assert np.allclose(mg.to_cpu(hidden.grad), theirs["hidden"].grad.numpy(), rtol=1e-5, atol=1e-5)
    for p, name in ((weight, "out"), (bias, "bias")):
        rows, grad = p.grad.coalesce(), theirs[name].weight.grad.coalesce()
        assert rows.ids.tolist() == grad.indices()[0].tolist()
        assert np.allclose(mg.to_cpu(rows.values).ravel(), grad.values().numpy().ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.oracle
def test_in_pytorch_the_traps_are_traps():
    torch = pytest.importorskip("torch")
    layer = NCE(4, 2, key=mg.Key(0), k=3)
    hidden, targets = mg.tensor(np.ones((1, 2), "float32")), np.array([1])
    noise = layer.draw(mg.Key(1), 1)
    ours = layer.loss(hidden, targets, noise=noise).item()

    def loss(sound, trap):
        assert sound in IN_PYTORCH
        theirs = in_pytorch(torch, layer, hidden, targets, noise, IN_PYTORCH.replace(sound, trap))
        return theirs["loss"].mean().item()

    assert math.isclose(loss("", ""), ours, rel_tol=1e-5)
    assert math.isclose(loss(', reduction="none").sum(dim=1)', ")"), ours / 4, rel_tol=1e-5), "a (k + 1)-th"
    assert not math.isclose(loss(" - math.log(k)", ""), ours, rel_tol=0.1)
