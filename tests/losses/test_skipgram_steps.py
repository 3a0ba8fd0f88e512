"""Skip-gram's steps in array code, on every device: what the kernel of `test_skipgram.py` is measured against."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import NegativeSampling
from losses.sampled.negative import negative_sampling
from losses.skipgram import contexts_of, held_out_loss, learn_naive, place_gradients

pytestmark = pytest.mark.skipgram


def test_step_1_contexts_stand_within_reach_and_in_the_same_sentence():
    ids, sentence = np.array([5, 6, 7, 8, 9, 4]), np.array([0, 0, 0, 0, 1, 1])
    reach = np.array([2, 0, 1, 9, 1, 1])
    found = [contexts_of(i, ids, sentence, reach) for i in range(6)]
    assert found == [[6, 7], [], [6, 8], [5, 6, 7], [4], [9]]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_steps_2_to_4_are_the_gradients_of_the_sum_of_the_losses(m, dim, k):
    contexts, rows = mg.Key(m).normal((m, dim), "float64"), mg.Key(k).normal((1 + k, dim), "float64")

    def loss(contexts, rows):
        scores = contexts @ rows.T
        return mg.softplus(-scores[:, 0]).sum() + mg.softplus(scores[:, 1:]).sum()

    inputs = [mg.param(contexts), mg.param(rows)]
    for found, expected in zip(place_gradients(contexts, rows), mg.grad(loss(*inputs), inputs)):
        assert np.allclose(mg.to_cpu(found), mg.to_cpu(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("optimiser", [mg.optim.SGD, mg.optim.Adagrad])
def test_steps_4_and_5_the_naive_way_learns_on_each_device_from_a_text_in_main_memory(optimiser):
    """One place with one context. W begins at zero, where σ is ½: so ∂L/∂O is ∓½ H, and ∂L/∂H is zero."""
    layer = NegativeSampling(3, 2, key=mg.Key(0), k=1, shared=1, bias=False)
    layer.weight, vectors = mg.param(np.zeros((3, 2))), mg.param(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    text = np.array([0, 1]), np.array([0, 0]), np.array([1, 0]), np.array([[2], [2]]), np.array([0.5, 0.5])
    assert learn_naive(vectors, layer, optimiser([layer.weight, vectors], lr=1.0), *text) == 1
    g = np.array([3.0, 4.0]) / 2 if optimiser is mg.optim.SGD else np.ones(2)  # ½ H; Adagrad's first step: g / |g|
    assert np.allclose(layer.weight.numpy(), [0.5 * g, np.zeros(2), -0.5 * g], atol=1e-9)
    assert vectors.data.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "both products take the old values"


@pytest.mark.parametrize("signs, times", [([1, 1, 1], 3), ([1], 1), ([1, -1, 1], None)])
def test_shared_noise_has_the_same_expectation_and_up_to_m_times_the_variance(signs, times):
    """Every draw of one noise word counted: equal contexts have m times the variance, opposite ones less."""
    q, W = np.array([0.5, 0.3, 0.2]), mg.to_cpu(mg.Key(0).normal((3, 2), "float64")) / 100
    H = np.array(signs)[:, None] * np.array([[1.0, 2.0]])

    def mean_and_variance(contexts):
        noise_parts = np.zeros((3, 3, 2))  # of ∂L/∂W, for each word that may be drawn
        for word in range(3):
            _, by_rows = place_gradients(*map(mg.backend.asarray, (contexts, W[[0, word]])))
            noise_parts[word, word] = mg.to_cpu(by_rows)[1]
        mean = np.tensordot(q, noise_parts, 1)
        return mean, q @ ((noise_parts - mean) ** 2).sum(axis=(1, 2))

    shared_mean, shared_variance = mean_and_variance(H)
    means, variances = zip(*[mean_and_variance(context[None]) for context in H], strict=True)  # independent
    assert np.allclose(shared_mean, sum(means), rtol=1e-12)
    if times:
        assert np.isclose(shared_variance, times * sum(variances), rtol=1e-12)
    else:
        assert shared_variance < sum(variances)


def test_the_held_out_loss_is_the_mean_of_equation_1_of_negative_sampling():
    key, n = mg.Key(0), 9000  # more than two blocks
    vectors, outputs = key.fold(0).normal((7, 3)), key.fold(1).normal((7, 3))
    inputs, targets, noise = (key.fold(i).integers(0, 7, shape) for i, shape in enumerate((n, n, (n, 2)), start=2))
    target_scores = (vectors[inputs] * outputs[targets]).sum(axis=1)
    noise_scores = (vectors[inputs][:, None] * outputs[noise]).sum(axis=2)
    expected = negative_sampling(target_scores, noise_scores)[0].mean()
    with mg.transfers() as moved:
        found = held_out_loss(vectors, outputs, inputs, targets, noise)
    assert math.isclose(found, expected, rel_tol=1e-5)
    assert moved.waits <= 1, "one look at the sum, not one at each block's"
