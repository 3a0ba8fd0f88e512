"""Embedding prediction: a test for each step of `losses.structured.von_mises_fisher`, and an oracle in torch."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from losses import VonMisesFisher, vmf_log_normaliser, vmf_mean_resultant
from losses.check import smallest_failure
from losses.structured import von_mises_fisher as chapter
from losses.structured.bessel import LEAST_ORDER
from losses.structured.von_mises_fisher import (
    IN_PYTORCH,
    cosine_distance,
    cosine_loss,
    cosine_margin,
    informative_negatives,
    margin_loss,
    squared_distance,
    squared_loss,
    unit_rows,
    vmf_loss,
    von_mises_fisher,
    von_mises_fisher_naive,
)
from losses.suites.von_mises_fisher import CHAPTER, mean_resultant, targets, vectors

from .properties import where_tensors_are_made

pytestmark = pytest.mark.vmf

DISTANCES = ["vmf", "cosine", "l2", "margin"]
fewer = settings(max_examples=max(5, settings().max_examples // 4))  # where an example takes its time
each_distance = pytest.mark.parametrize("distance", DISTANCES)
on_arrays = where_tensors_are_made(von_mises_fisher)


def array(values):
    return mg.backend.asarray(np.array(values, "float64"))


def directions(n, m, seed=1):
    """Unit vectors, (n, m)."""
    v = mg.to_cpu(mg.Key(seed).normal((n, m), "float64"))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def circle(n=100):
    """Points all around it, (n, 2), and the length of arc of each."""
    phi = np.arange(n) * 2 * math.pi / n
    return np.stack([np.cos(phi), np.sin(phi)], axis=1), np.full(n, 2 * math.pi / n)


def sphere(n=30):
    """Points at heights z, each on a ring, (n², 3), and an area of dz dφ for each."""
    z, weights = np.polynomial.legendre.leggauss(n)
    around, arcs = circle(n)
    ring = np.sqrt(1 - z**2)[:, None, None] * around  # (n, n, 2)
    points = np.concatenate([ring, np.repeat(z, n).reshape(n, n, 1)], axis=2).reshape(-1, 3)
    return points, (weights[:, None] * arcs).reshape(-1)


def a_layer(v=12, d=4, m=6, dtype="float64", **options):
    """A layer with weights from −1 to 1."""
    layer = VonMisesFisher(v, d, embeddings=directions(v, m), key=mg.Key(0), **options)
    for i, name in enumerate(["weight", "bias"]):
        if getattr(layer, name) is not None:
            setattr(layer, name, mg.param(2 * mg.Key(3).fold(i).uniform(getattr(layer, name).shape, dtype) - 1))
    return layer


def contexts(batch=5, d=4, dtype="float64"):
    return mg.param(mg.Key(8).normal((batch, d), dtype))


def kappa_where(dim, a):
    """The κ below 30 with A_m(κ) = a, by halving; A by the power series of the suite."""
    low, high = 0.0, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_resultant(dim, middle) < a else (low, middle)
    return low


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, on_arrays, 25) is None


# ---- (1) to (3): the loss and its gradient ------------------------------------------------------------------------


@pytest.mark.parametrize("predicted", [[0.0, 0.0, 0.0], [0.5, -1.0, 0.25], [3.0, 4.0, 12.0]])
def test_steps_1_and_2_the_exponential_of_minus_the_loss_adds_up_to_one_over_the_sphere(predicted):
    points, areas = sphere(80)
    loss, _ = on_arrays(np.tile(np.array(predicted), (len(points), 1)), embeddings=points)
    assert math.isclose((areas * np.exp(-loss)).sum(), 1.0, rel_tol=1e-10)


@fewer
@given(vectors())
def test_step_2_both_ways_have_one_loss_and_one_gradient(example):
    p, e = mg.param(example[0]), mg.backend.asarray(example[1])
    fused, naive = vmf_loss(p, embeddings=e), von_mises_fisher_naive(p, embeddings=e)
    assert np.allclose(fused.numpy(), naive.numpy(), rtol=1e-12, atol=1e-12)
    (f,), (n,) = mg.grad(fused.sum(), [p]), mg.grad(naive.sum(), [p])
    assert np.allclose(mg.to_cpu(f), mg.to_cpu(n), rtol=1e-11, atol=1e-12)


def test_step_3_the_naive_way_has_no_gradient_at_zero():
    p = mg.param(np.zeros((1, 3)))
    with np.errstate(all="ignore"):
        (g,) = mg.grad(von_mises_fisher_naive(p, embeddings=array([[1.0, 0.0, 0.0]])).sum(), [p])
    assert np.isnan(mg.to_cpu(g)).all()


@fewer
@given(vectors(dims=(2, 3)), st.sampled_from([0, 297]), st.sampled_from([(0.0, 1.0), (0.02, 0.1)]))
def test_steps_3_and_5_gradients_are_right_to_second_order(example, zeros, lambdas):
    predicted, e = (np.pad(v, ((0, 0), (0, zeros))) for v in example)
    e, (lambda_1, lambda_2) = mg.backend.asarray(e), lambdas
    mg.check_grads(lambda p: vmf_loss(p, embeddings=e, lambda_1=lambda_1, lambda_2=lambda_2), predicted)


@pytest.mark.parametrize("lambda_1", [0.0, 0.5])
def test_step_3_at_zero_there_is_a_second_derivative_and_it_is_one_over_m(lambda_1):
    """With λ₁ there is a corner, of which the part without λ₁ is taken."""
    e, p = array([[0.6, 0.8, 0.0, 0.0]]), mg.param(np.zeros((1, 4)))
    (g,) = mg.grad(vmf_loss(p, embeddings=e, lambda_1=lambda_1).sum(), [p], create_graph=True)
    assert np.allclose(g.numpy(), -mg.to_cpu(e), atol=1e-15)
    (second,) = mg.grad(g[0, 2], [p])
    assert np.allclose(mg.to_cpu(second), [[0, 0, 1 / 4, 0]], rtol=1e-12, atol=1e-15)


@fewer
@given(vectors(), vectors(), st.floats(0, 1))
def test_step_3_the_loss_is_convex(one, other, share):
    (p, e), (q, _) = one, other
    n, m = min(len(p), len(q)), min(p.shape[1], q.shape[1])
    p, q, e = p[:n, :m], q[:n, :m], e[:n, :m]
    loss = lambda p: on_arrays(p, embeddings=e)[0]
    assert (loss(share * p + (1 - share) * q) <= share * loss(p) + (1 - share) * loss(q) + 1e-10).all()


def test_step_2_a_density_may_be_above_one_and_the_loss_negative():
    loss, _ = on_arrays(np.zeros((1, 300)), embeddings=np.eye(300)[:1])
    assert round(float(loss[0]), 1) == -427.6


@given(vectors(dims=(2, 3)))
def test_step_3_expected_less_observed(example):
    """The mean of the predicted distribution, over the circle or the sphere, is A(κ) ê/κ = G + e."""
    predicted, e = (v[:1] for v in example)
    points, areas = circle() if predicted.shape[1] == 2 else sphere()
    loss, _ = on_arrays(np.tile(predicted, (len(points), 1)), embeddings=points)
    assert np.allclose(on_arrays(predicted, embeddings=e)[1] + e, (np.exp(-loss) * areas) @ points, atol=1e-10)


@fewer
@given(vectors(dims=(2, 3)))
def test_step_3_the_second_derivative_is_the_covariance_of_what_is_predicted(example):
    predicted, e = (v[:1] for v in example)
    points, areas = circle() if predicted.shape[1] == 2 else sphere()
    p = np.exp(-on_arrays(np.tile(predicted, (len(points), 1)), embeddings=points)[0]) * areas
    off = points - p @ points
    x = mg.param(predicted)
    (g,) = mg.grad(vmf_loss(x, embeddings=mg.backend.asarray(e)).sum(), [x], create_graph=True)
    found = [mg.to_cpu(mg.grad(g[0, i], [x], retain_graph=True)[0])[0] for i in range(predicted.shape[1])]
    assert np.allclose(found, (p * off.T) @ off, atol=1e-9)


# ---- (4) and (5): what it learns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [3, 300])
def test_step_4_at_an_angle_kappa_stops_where_a_is_the_cosine(dim):
    e = np.eye(dim)[:1]
    for kappa in (0.5, 5.0, 50.0):
        cosine = float(vmf_mean_resultant(dim, kappa))
        mu = cosine * np.eye(dim)[0] + math.sqrt(1 - cosine**2) * np.eye(dim)[1]
        _, g = on_arrays(np.array([[0.9], [1.0], [1.1]]) * kappa * mu, embeddings=np.tile(e, (3, 1)))
        less, none, more = g @ mu  # ∂L/∂κ
        assert less < 0 < more and abs(none) < 1e-12


@pytest.mark.parametrize("dim", [3, 300])
def test_step_4_with_one_word_kappa_grows_without_end(dim):
    e = np.tile(np.eye(dim)[:1], (5, 1))
    loss, g = on_arrays(np.array([[1.0], [1e2], [1e3], [1e4], [1e6]]) * e, embeddings=e)
    assert (np.diff(loss) < 0).all() and (g[:, 0] < 0).all()


@fewer
@given(targets(), st.sampled_from([(0.0, 1.0), (0.02, 0.1), (0.0, 0.1), (0.02, 1.0)]))
def test_steps_4_and_5_the_optimum_has_the_direction_of_the_mean_and_a_is_what_the_step_says(example, lambdas):
    words, p = example
    r, (lambda_1, lambda_2) = p @ words, lambdas
    length = np.linalg.norm(r)
    kappa = kappa_where(3, max(lambda_2 * length - lambda_1, 0.0))

    def mean(predicted):
        tiled = np.tile(predicted, (len(words), 1))
        return [p @ part for part in on_arrays(tiled, embeddings=words, lambda_1=lambda_1, lambda_2=lambda_2)]

    loss, g = mean(kappa * r / length)
    assert kappa == 0 or np.allclose(g, 0, atol=1e-9)
    assert all(mean(kappa * r / length + step)[0] > loss for step in 1e-2 * directions(6, 3))


@pytest.mark.parametrize("dim", [2, 3, 10, 100, 300, 1000])
def test_step_5_a_tenth_for_lambda_2_holds_kappa_at_a_tenth_of_m(dim):
    assert float(vmf_mean_resultant(dim, 0.1 * dim)) < 0.1 < float(vmf_mean_resultant(dim, 0.102 * dim))
    for share in (0.05, 0.1, 0.2, 0.3):
        less = 1 - float(vmf_mean_resultant(dim, share * dim)) / share
        assert math.isclose(less, (share * dim) ** 2 / (dim**2 + 2 * dim), rel_tol=2 * share**2)


@fewer
@given(targets(), st.floats(0.1, 1.0))
def test_step_5_where_the_mean_is_shorter_than_lambda_1_over_lambda_2_the_best_prediction_is_none(example, share):
    """λ₁ is a little more than λ₂ R, or a little less."""
    words, p = example
    r = p @ words
    length = np.linalg.norm(r)

    def mean_loss(predicted, lambda_1):
        tiled = np.tile(predicted, (len(words), 1))
        return p @ on_arrays(tiled, embeddings=words, lambda_1=lambda_1, lambda_2=share)[0]

    for step in 1e-3 * np.concatenate([directions(6, 3), [r / length]]):
        assert mean_loss(step, 1.01 * share * length) > mean_loss(0 * r, 1.01 * share * length)
    step = 1e-4 * r / length
    assert mean_loss(step, 0.99 * share * length) < mean_loss(0 * r, 0.99 * share * length)


@pytest.mark.parametrize("dim", [3, 300])
def test_step_5_the_other_way_round_kappa_is_zero_even_if_one_word_is_certain(dim):
    """−log C + κ (λ₂ − λ₁ cos θ) of 0.02 and 0.1: at θ = 0 its slope, A + 0.08, is positive everywhere."""
    e = np.tile(np.eye(dim)[:1], (4, 1))
    loss, g = on_arrays(np.array([[1e-9], [1.0], [30.0], [1e3]]) * e, embeddings=e, lambda_1=0.1, lambda_2=0.02)
    assert (g[:, 0] > 0.079).all() and (np.diff(loss) > 0).all()


def test_step_5_lambda_1_has_no_gradient_at_zero():
    e = np.eye(3)[:1]
    loss, g = on_arrays(np.zeros((1, 3)), embeddings=e, lambda_1=0.5)
    assert np.allclose(loss, math.log(4 * math.pi)) and (g == -e).all()


# ---- (6): other distances -----------------------------------------------------------------------------------------


@fewer
@given(vectors())
def test_step_6_the_cosine_and_its_gradient(example):
    predicted, e = example
    loss, g = where_tensors_are_made(cosine_distance)(predicted, embeddings=e)
    kappa = np.linalg.norm(predicted, axis=1)
    cosine = (predicted * e).sum(axis=1) / kappa
    assert np.allclose(loss, 1 - cosine, atol=1e-12)
    assert np.allclose(g, -(e - cosine[:, None] * predicted / kappa[:, None]) / kappa[:, None], atol=1e-12)
    mg.check_grads(lambda p: cosine_loss(p, embeddings=mg.backend.asarray(e)), predicted)


@fewer
@given(vectors())
def test_step_6_the_square_and_its_gradient(example):
    predicted, e = example
    loss, g = where_tensors_are_made(squared_distance)(predicted, embeddings=e)
    assert np.allclose(loss, np.linalg.norm(predicted - e, axis=1) ** 2) and np.allclose(g, 2 * (predicted - e))
    mg.check_grads(lambda p: squared_loss(p, embeddings=mg.backend.asarray(e)), predicted)


@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_step_6_the_margin_and_its_gradient(gamma):
    predicted, e, wrong = 2 * directions(6, 4, 1), directions(6, 4, 2), directions(6, 4, 3)
    pure = where_tensors_are_made(cosine_margin)
    loss, g = pure(predicted, embeddings=e, negatives=wrong, gamma=gamma)
    over = gamma + ((wrong - e) * predicted).sum(axis=1) / 2
    assert np.allclose(loss, np.maximum(over, 0), atol=1e-12)
    assert (loss == 0).any() == (gamma == 0.5) and (loss > 0).any()
    assert ((g == 0).all(axis=1) == (loss == 0)).all()
    e, wrong = mg.backend.asarray(e), mg.backend.asarray(wrong)
    mg.check_grads(lambda p: margin_loss(p, embeddings=e, negatives=wrong, gamma=gamma), predicted)


def test_step_6_at_zero_there_is_no_angle_and_no_gradient():
    e, zero = np.eye(3)[:1], np.zeros((1, 3))
    loss, g = where_tensors_are_made(cosine_distance)(zero, embeddings=e)
    assert loss.tolist() == [1.0] and not g.any()
    loss, g = where_tensors_are_made(cosine_margin)(zero, embeddings=e, negatives=-e)
    assert loss.tolist() == [0.5] and not g.any()


def test_step_6_just_at_the_margin_the_gradient_is_zero():
    p, e, wrong = np.array([[2.0, 0.0]]), np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    loss, g = where_tensors_are_made(cosine_margin)(p, embeddings=e, negatives=wrong, gamma=1.0)
    assert loss.tolist() == [0.0] and not g.any()


def test_step_6_the_negative_is_near_the_prediction_and_far_from_the_target():
    words, predicted, ids = directions(30, 5), 3 * directions(8, 5, 2), np.array([0, 3, 3, 7, 29, 1, 2, 0])
    predicted[0] = words[0]  # there the target itself would be best, with 0
    found = mg.to_cpu(informative_negatives(*map(mg.backend.asarray, (predicted, ids, words))))
    cosine = lambda u, v: u @ v / (np.linalg.norm(u) * np.linalg.norm(v))
    for p, t, j in zip(predicted, ids, found, strict=True):
        value = [cosine(p, w) - cosine(words[t], w) if i != t else -math.inf for i, w in enumerate(words)]
        assert j == int(np.argmax(value)) != t


@fewer
@given(targets())
def test_step_6_on_average_cosine_and_square_are_least_in_the_direction_of_the_mean(example):
    words, p = example
    r = p @ words

    def mean(function, predicted):
        return [
            p @ part for part in where_tensors_are_made(function)(np.tile(predicted, (len(p), 1)), embeddings=words)
        ]

    for function, best in [(squared_distance, r), (cosine_distance, r / np.linalg.norm(r))]:
        loss, g = mean(function, best)
        assert np.allclose(g, 0, atol=1e-12)
        for step in 1e-2 * directions(20, 3):
            assert mean(function, best + step)[0] >= loss


# ---- (7) to (9): whose vector is it ---------------------------------------------------------------------------------


def test_step_7_all_distances_put_words_in_one_order():
    order = [mg.to_cpu(a_layer(distance=distance).topk(contexts(), 12)[0]).tolist() for distance in DISTANCES]
    assert order[0] == order[1] == order[2] == order[3]
    assert order[0][0] != order[0][1]


def test_step_7_scores_are_products_cosines_and_minus_squared_distances():
    layers = {distance: a_layer(distance=distance) for distance in DISTANCES}
    words, predicted = directions(12, 6), layers["vmf"].predicted(contexts()).numpy()
    product = predicted @ words.T
    expected = {
        "vmf": product,
        "margin": product,
        "cosine": product / np.linalg.norm(predicted, axis=1, keepdims=True),
        "l2": -(np.linalg.norm(predicted[:, None] - words, axis=2) ** 2),
    }
    for distance, layer in layers.items():
        assert np.allclose(layer.scores(contexts()).numpy(), expected[distance], rtol=1e-12, atol=1e-12)


@fewer
@given(st.integers(1, 12), st.integers(1, 13), st.sampled_from(DISTANCES))
def test_step_7_the_best_words_are_the_same_however_many_are_looked_at_at_once(k, block, distance):
    layer = a_layer(distance=distance)
    expected = [mg.to_cpu(found) for found in layer.topk(contexts(), k)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chapter, "BLOCK", block)
        ids, scores = map(mg.to_cpu, layer.topk(contexts(), k))
    assert (ids == expected[0]).all() and np.allclose(scores, expected[1], rtol=1e-12)


@pytest.mark.parametrize("block", [2, 100])
def test_step_7_among_equals_the_smaller_id_is_first(block, monkeypatch):
    """Words that share a vector; and ê = 0, which is as far from all of them."""
    monkeypatch.setattr(chapter, "BLOCK", block)
    layer = VonMisesFisher(6, 2, embeddings=np.eye(3)[[0, 1, 0, 1, 0, 1]], key=mg.Key(0))
    layer.weight, layer.bias = mg.param([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), mg.param([0.0, 0.0, 0.0])
    ids, scores = layer.topk(np.array([[2.0, 0.0], [0.0, 0.0]], "float32"), 4)
    assert ids.tolist() == [[1, 3, 5, 0], [0, 1, 2, 3]] and scores.tolist() == [[2, 2, 2, 0], [0, 0, 0, 0]]


def test_step_8_a_words_probability_is_its_share_of_the_density():
    layer = a_layer()
    predicted, words = layer.predicted(contexts()).numpy(), directions(12, 6)
    log_c = vmf_log_normaliser(6, mg.backend.asarray(np.linalg.norm(predicted, axis=1)))
    density = np.exp(mg.to_cpu(log_c)[:, None] + predicted @ words.T)  # (1)
    expected = density / density.sum(axis=1, keepdims=True)
    assert np.allclose(np.exp(layer.log_prob(contexts()).numpy()), expected, rtol=1e-12)
    log_z = layer.raw_scores(contexts()) - layer.log_prob(contexts())
    assert np.allclose(layer.log_z(contexts()).numpy()[:, None], log_z.numpy(), rtol=1e-12)


def test_step_8_with_lambda_2_probabilities_are_much_too_flat_and_without_too_sharp():
    """500 words, of which after one context word 0 comes in 9 of 10 cases and word 1 else; ê is what is best for that.

    A is concave, and so a tenth of R is reached at a tenth of κ or earlier.
    """
    words, m, truth = directions(500, 32), 32, np.array([0.9, 0.1])
    r = truth @ words[:2]
    found, kappas = [], []
    for lambda_1, lambda_2 in [(0.02, 0.1), (0.0, 0.1), (0.0, 1.0)]:
        layer = VonMisesFisher(500, 4, embeddings=words, key=mg.Key(0), lambda_1=lambda_1, lambda_2=lambda_2)
        low, high = 0.0, 1e3
        for _ in range(60):
            kappa = (low + high) / 2
            enough = float(vmf_mean_resultant(m, kappa)) > lambda_2 * np.linalg.norm(r) - lambda_1
            low, high = (low, kappa) if enough else (kappa, high)
        layer.weight, layer.bias = mg.param(np.zeros((m, 4))), mg.param(low * r / np.linalg.norm(r))
        hidden = mg.param(np.zeros((10, 4)))
        layer.loss(hidden, [0] * 9 + [1]).backward()
        assert np.allclose(mg.to_cpu(layer.bias.grad), 0, atol=1e-10), "it is best"
        found.append(np.exp(layer.log_prob(hidden).numpy()[0, :2]))
        kappas.append(low)
    assert kappas[0] < kappas[1] < 0.1 * kappas[2]
    assert (found[0] < 0.03 * np.array([1, 1])).all() and (found[1] < 0.05).all() and found[2][0] > 0.9999


@pytest.mark.parametrize("what", ["log_prob", "log_z"])
@pytest.mark.parametrize("distance", ["cosine", "l2", "margin"])
def test_step_8_other_distances_have_no_distribution(what, distance):
    message = rf'losses.VonMisesFisher.{what}: the distance "{distance}" has no distribution \(8\), only nearest words'
    with pytest.raises(TypeError, match=message):
        getattr(a_layer(distance=distance), what)(contexts())
    with pytest.raises(TypeError, match="has no distribution"):
        a_layer(distance=distance).log_prob_of(contexts(), [0] * 5)


@each_distance
def test_step_9_two_words_that_are_alike_outvote_a_likelier_one(distance):
    """One context, after which word 0 comes in 4 of 10 cases, and in 3 each the words 1 and 2, neighbours."""
    words = unit_rows(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.1], [0.0, 1.0, -0.1]]))
    layer = VonMisesFisher(3, 2, embeddings=words, key=mg.Key(0), distance=distance)
    hidden, said = np.ones((10, 2), "float32"), [0] * 4 + [1] * 3 + [2] * 3
    optimiser = mg.optim.Adagrad(layer.parameters(), lr=0.05)
    for _ in range(200):
        layer.loss(hidden, said).backward()
        optimiser.step()
        optimiser.zero_grad()
    if distance == "margin":
        return  # (6) says nothing of where its mean is least
    assert layer.topk(hidden[:1], 3)[0][0].tolist()[2] == 0
    r = np.array([0.4, 0.3, 0.3]) @ mg.to_cpu(words)
    predicted = layer.predicted(hidden[:1]).numpy()[0]
    assert predicted @ r / (np.linalg.norm(predicted) * np.linalg.norm(r)) > 0.999


# ---- the cost -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [20, 2000])
def test_the_cost_of_training_is_m_rows_whatever_v_is_and_at_test_all_vectors_besides(vocab_size):
    layer = a_layer(vocab_size)
    layer.loss(contexts(), [0, 3, 1, 3, 19]).backward()
    assert layer.weight.grad.shape == (6, 4) and layer.score_cost(5) == (6, 6 + vocab_size)
    assert a_layer(vocab_size, distance="margin").score_cost() == (6 + vocab_size, 6 + vocab_size)


def test_the_steps_of_the_bessel_functions_are_more_than_the_products_for_small_m_and_d_only():
    """A step multiplies and divides, four times or more."""
    steps = lambda m: max(0, math.ceil(LEAST_ORDER - (m / 2 - 1)))
    assert 4 * steps(6) > 3 * 6 * 4 and 4 * steps(10) > 3 * 10 * 10
    assert 10 * steps(128) < 3 * 128 * 128 and steps(258) == 0


@each_distance
def test_only_the_margin_looks_at_the_vectors_of_other_words(distance):
    """The others are lost; a loss that doesn't see them stays what it was."""
    layer, said = a_layer(distance=distance), [0, 3, 1, 3, 11]
    expected = layer.loss(contexts(), said).item()
    others = np.setdiff1d(np.arange(12), said)
    layer.embeddings = layer.embeddings.copy()
    layer.embeddings[mg.backend.asarray(others)] = 1e3
    assert (layer.loss(contexts(), said).item() == expected) == (distance != "margin")


# ---- approximations that others use ---------------------------------------------------------------------------------


def test_the_authors_approximation_is_the_integral_of_a_bound_of_the_wrong_order():
    """√((v+1)² + κ²) − (v−1) log(v−1 + √((v+1)² + κ²)) with v = m/2 − 1: its slope is too large, by m/(m − 2) at 0."""

    def approximation(kappa, v):
        root = math.hypot(v + 1, kappa)
        return root - (v - 1) * math.log(v - 1 + root)

    for m in (10, 300):
        for kappa in (0.1, 1.0, 30.0):
            slope = lambda v, k=kappa: (approximation(k + 1e-4, v) - approximation(k - 1e-4, v)) / 2e-4
            times = slope(m / 2 - 1) / float(vmf_mean_resultant(m, kappa))
            assert 1 < times < m / (m - 2) + 1e-6
            assert kappa > 0.1 or math.isclose(times, m / (m - 2), rel_tol=1e-3)
            assert slope(m / 2) >= float(vmf_mean_resultant(m, kappa)) - 1e-8


# ---- the layer ----------------------------------------------------------------------------------------------------


@each_distance
@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_is_that_of_the_pure_function_of_w_h_plus_b(distance, bias):
    layer, ids = a_layer(distance=distance, bias=bias), np.array([0, 3, 1, 3, 11])
    predicted = contexts().numpy() @ layer.weight.numpy().T + (layer.bias.numpy() if bias else 0.0)
    words = directions(12, 6)
    options = {"embeddings": words[ids]}
    if distance == "margin":
        wrong = informative_negatives(*map(mg.backend.asarray, (predicted, ids, words)))
        options |= {"negatives": words[mg.to_cpu(wrong)], "gamma": 0.5}
    if distance == "vmf":
        options |= {"lambda_1": 0.02, "lambda_2": 0.1}
    pure = {"vmf": von_mises_fisher, "cosine": cosine_distance, "l2": squared_distance, "margin": cosine_margin}
    expected, _ = where_tensors_are_made(pure[distance])(predicted, **options)
    assert np.allclose(layer.loss(contexts(), ids, reduction="none").numpy(), expected, rtol=1e-12)


@each_distance
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6])
def test_a_prediction_of_zero_and_one_of_a_million_have_finite_losses_and_gradients(distance, dtype, scale):
    layer = a_layer(distance=distance, dtype=dtype, bias=False)
    hidden = mg.param(scale * contexts(dtype=dtype).data)
    loss = layer.loss(hidden, [0, 3, 1, 3, 11], reduction="sum")
    loss.backward()
    assert math.isfinite(loss.item()) and loss.dtype == dtype
    for p in (hidden, layer.weight):
        assert p.grad.dtype == dtype and np.isfinite(mg.to_cpu(p.grad)).all()
    assert layer.topk(hidden, 3)[1].dtype == dtype


def test_words_that_share_a_vector_have_one_probability():
    words = directions(4, 3)[[0, 1, 1, 3]]
    layer = VonMisesFisher(4, 2, embeddings=words, key=mg.Key(0))
    log_p = layer.log_prob(np.ones((1, 2), "float32")).numpy()[0]
    assert math.isclose(log_p[1], log_p[2], rel_tol=1e-6)
    hidden = np.ones((1, 2), "float32")
    assert layer.loss(hidden, [1]).item() == layer.loss(hidden, [2]).item()


def test_embeddings_of_another_type_take_on_that_of_the_weights_and_are_not_learned():
    layer = VonMisesFisher(12, 4, embeddings=directions(12, 6), key=mg.Key(0))
    assert layer.loss(contexts(dtype="float32"), [0] * 5).dtype == "float32"
    assert layer.embeddings.dtype == layer.weight.dtype == "float32"
    assert [p.shape for p in layer.parameters()] == [(6, 4), (6,)]
    assert [p.shape for p in a_layer(bias=False).parameters()] == [(6, 4)]


def test_embeddings_lie_where_the_weights_do():
    layer = VonMisesFisher(12, 4, embeddings=directions(12, 6), key=mg.Key(0))
    assert mg.backend.device_of(layer._vectors()) == layer.weight.device


def spoilt(row, value):
    words = directions(12, 6)
    words[row] = value
    return words


@pytest.mark.parametrize(
    "embeddings, error, message",
    [
        (spoilt(7, 0.0), ValueError, r"embeddings must have length 1; row 7 has 0\. .*unit_rows\(embeddings\) divides"),
        (2 * directions(12, 6), ValueError, "embeddings must have length 1; row 0 has 2"),
        (spoilt(3, 1 / math.sqrt(6) + 1e-4), ValueError, "embeddings must have length 1; row 3 has 1.0002"),
        (spoilt(3, math.nan), ValueError, "embeddings: row 3 holds NaN or infinities"),
        (directions(11, 6), ValueError, "embeddings must be a vector for each of 12 words, got 11"),
        (directions(12, 6)[0], ValueError, r"embeddings must be floating-point numbers \(V, m\).*float64\[6\]"),
        (np.ones((12, 1)), ValueError, r"embeddings must be floating-point numbers \(V, m\) with m of 2 or more"),
        (np.ones((12, 2), "int64"), ValueError, r"embeddings must be floating-point numbers .*got int64\[12, 2\]"),
    ],
)
def test_embeddings_that_are_none_are_refused(embeddings, error, message):
    with pytest.raises(error, match=f"losses.VonMisesFisher: {message}"):
        VonMisesFisher(12, 4, embeddings=embeddings, key=mg.Key(0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_unit_rows_have_length_one_and_are_taken(dtype):
    vectors = mg.Key(4).normal((12, 300), dtype) * 5
    unit = unit_rows(vectors)
    assert unit.dtype == dtype and np.allclose(np.linalg.norm(mg.to_cpu(unit), axis=1), 1, rtol=1e-6)
    VonMisesFisher(12, 4, embeddings=unit, key=mg.Key(0)).loss(np.ones((1, 4), "float32"), [11])


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e307])
def test_rows_have_a_direction_even_if_squares_of_their_numbers_are_none(scale):
    unit = mg.to_cpu(unit_rows(np.array([[3.0, 4.0], [0.0, -1.0]]) * scale))
    assert np.allclose(unit, [[0.6, 0.8], [0.0, -1.0]], rtol=1e-3 if scale == 1e-320 else 1e-14)


def test_a_zero_vector_has_no_direction():
    with pytest.raises(ValueError, match="unit_rows: row 2 is zero, and has no direction"):
        unit_rows(np.array([[1.0, 1.0], [0.0, 3.0], [0.0, 0.0]]))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"distance": "angle"}, 'distance must be "vmf", "cosine", "l2" or "margin", got \'angle\''),
        ({"lambda_1": -0.1}, "lambda_1 must be a number 0 or more, got -0.1"),
        ({"lambda_1": math.nan}, "lambda_1 must be a number 0 or more, got nan"),
        ({"lambda_2": 0.0}, "lambda_2 must be a number above 0 and at most 1, got 0.0"),
        ({"lambda_2": 1.5}, "lambda_2 must be a number above 0 and at most 1, got 1.5"),
        ({"gamma": 0}, "gamma must be a number above 0, got 0"),
        ({"gamma": True}, "gamma must be a number above 0, got True"),
        ({"lambda_1": "0.1"}, "lambda_1 must be a number 0 or more, got '0.1'"),
        ({"lambda_2": None}, "lambda_2 must be a number above 0 and at most 1, got None"),
        ({"counts": [1, 2]}, "counts must be 12 numbers, got 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=f"losses.VonMisesFisher: {message}"):
        VonMisesFisher(12, 4, embeddings=directions(12, 6), key=mg.Key(0), **options)


@pytest.mark.parametrize(
    "predicted, embeddings, message",
    [
        (np.ones((2, 3), "int64"), np.ones((2, 3)), r"predicted must be floating.* \(B, m\), got int64\[2, 3\]"),
        (np.ones(3), np.ones(3), r"predicted must be floating.* \(B, m\), got float64\[3\]"),
        (np.ones((2, 3)), np.ones((1, 3)), r"embeddings must be .* predicted's shape \[2, 3\], got float64\[1, 3\]"),
        (np.ones((2, 3)), np.ones((2, 3), "int64"), r"embeddings must be floating-point numbers .*got int64\[2, 3\]"),
    ],
)
@pytest.mark.parametrize("function", [von_mises_fisher, cosine_distance, squared_distance, cosine_margin])
def test_the_pure_functions_refuse_what_is_no_batch_of_vectors(function, predicted, embeddings, message):
    options = {"negatives": np.ones((2, 3))} if function is cosine_margin else {}
    with pytest.raises(ValueError, match=f"losses.structured.von_mises_fisher.{function.__name__}: {message}"):
        where_tensors_are_made(function)(predicted, embeddings=embeddings, **options)


def test_the_margin_wants_a_negative_for_each_example():
    with pytest.raises(ValueError, match=r"cosine_margin: negatives must be .* predicted's shape \[2, 3\]"):
        where_tensors_are_made(cosine_margin)(np.ones((2, 3)), embeddings=np.ones((2, 3)), negatives=np.ones((1, 3)))


def test_a_prediction_of_1e150_has_a_loss_and_beyond_nan_shows():
    with np.errstate(all="ignore"):
        loss, g = on_arrays(np.array([[1e150, 0.0], [1e160, 0.0]]), embeddings=np.array([[0.0, 1.0]] * 2))
    assert np.isclose(loss[0], 1e150) and np.allclose(g[0], [1, -1])
    assert np.isnan(loss[1]) and np.isnan(g[1]).any()


def test_a_vocabulary_of_one_word_is_refused():
    with pytest.raises(ValueError, match="VonMisesFisher: vocab_size must be at least 2, got 1"):
        VonMisesFisher(1, 4, embeddings=np.eye(2)[:1], key=mg.Key(0))


# ---- In PyTorch ---------------------------------------------------------------------------------------------------


def in_torch(torch, weight, bias, hidden, targets, embeddings, change=lambda lines: lines):
    """What those very lines know when they are done."""
    beginning, rest = IN_PYTORCH.strip().rsplit("\n\n\n", 1)
    make, train = rest.split("\n\n")
    names = {
        "m": weight.shape[0],
        "d": weight.shape[1],
        "hidden": torch.tensor(hidden, requires_grad=True),
        "targets": torch.tensor(targets),
        "embeddings": torch.tensor(embeddings),
        "lambda_1": 0.02,
        "lambda_2": 0.1,
    }
    exec(change(beginning), names)
    exec(make, names)
    names["out"].weight.data, names["out"].bias.data = torch.tensor(weight), torch.tensor(bias)
    exec(train, names)
    return names


@pytest.mark.oracle
@pytest.mark.parametrize("m", [2, 3, 20, 100])
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(m):
    torch = pytest.importorskip("torch")
    pytest.importorskip("scipy")
    layer, targets = a_layer(m=m), [0, 3, 1, 3, 11]
    hidden = mg.param(4 * contexts().data)
    ours = layer.loss(hidden, targets, reduction="none")
    ours.mean().backward()
    theirs = in_torch(torch, layer.weight.numpy(), layer.bias.numpy(), hidden.numpy(), targets, 7 * directions(12, m))
    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-10)
    for found, expected in [
        (hidden.grad, theirs["hidden"].grad),
        (layer.weight.grad, theirs["out"].weight.grad),
        (layer.bias.grad, theirs["out"].bias.grad),
    ]:
        assert np.allclose(mg.to_cpu(found), expected.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.oracle
def test_in_pytorch_the_trap_of_numbers_without_history():
    """MinusLogC as a plain function: torch wants .detach(); the loss is the same, and of G its part is missing."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("scipy")
    layer, targets = a_layer(), [0, 3, 1, 3, 11]
    plain = """
class MinusLogC:
    @staticmethod
    def apply(kappa, m):
        v, k = m / 2 - 1, kappa.detach()
        bessel = torch.from_numpy(scipy.special.ive(v, k.numpy()))
        return bessel.log() + k - v * k.log() + m / 2 * math.log(2 * math.pi)
"""
    arguments = layer.weight.numpy(), layer.bias.numpy(), contexts().numpy(), targets, directions(12, 6)
    with pytest.raises(RuntimeError, match=r"requires grad.*detach\(\)"):
        in_torch(torch, *arguments, change=lambda lines: lines + plain.replace(".detach()", ""))
    sound, cut = in_torch(torch, *arguments), in_torch(torch, *arguments, change=lambda lines: lines + plain)
    assert torch.allclose(sound["loss"], cut["loss"])
    predicted = layer.predicted(contexts()).numpy()
    kappa = np.linalg.norm(predicted, axis=1, keepdims=True)
    g = -0.1 * directions(12, 6)[targets] + 0.02 * predicted / kappa
    assert np.allclose(cut["hidden"].grad.numpy(), g @ layer.weight.numpy() / 5, rtol=1e-10)
    assert not torch.allclose(sound["hidden"].grad, cut["hidden"].grad, rtol=0.1)


@pytest.mark.oracle
def test_in_pytorch_a_second_derivative_is_refused_by_backward_but_not_by_grad():
    torch = pytest.importorskip("torch")
    pytest.importorskip("scipy")
    layer = a_layer()
    arguments = layer.weight.numpy(), layer.bias.numpy(), contexts().numpy(), [0, 3, 1, 3, 11], directions(12, 6)

    def first(change):
        """κ = 1, and the derivative of −κ log C there: −log C + A. Its own is 2 A + A′."""
        kappa = torch.ones(1, dtype=torch.float64, requires_grad=True)
        loss = in_torch(torch, *arguments, change=change)["MinusLogC"].apply(kappa, 6) * kappa
        return kappa, torch.autograd.grad(loss.sum(), kappa, create_graph=True)[0]

    a = mean_resultant(6, 1.0)
    assert 1 - a * a - 5 * a > 0.1, "A′"
    kappa, g = first(lambda lines: lines)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.backward(retain_graph=True)
    assert torch.autograd.grad(g, kappa)[0].item() < 1.01 * a
    kappa, g = first(lambda lines: lines.replace("    @torch.autograd.function.once_differentiable\n", ""))
    g.backward()
    assert math.isclose(kappa.grad.item(), 2 * a, rel_tol=1e-9), "without that line nothing warns"


@pytest.mark.oracle
@pytest.mark.parametrize("m", [2, 3, 300])
def test_in_pytorch_a_prediction_of_zero_has_no_loss(m):
    torch = pytest.importorskip("torch")
    pytest.importorskip("scipy")
    theirs = in_torch(torch, np.ones((m, 4)), np.zeros(m), np.zeros((5, 4)), [0, 3, 1, 3, 11], directions(12, m))
    assert torch.isnan(theirs["loss"]).all()


@pytest.mark.oracle
def test_in_pytorch_the_trap_of_a_bessel_function_that_is_zero():
    torch = pytest.importorskip("torch")
    pytest.importorskip("scipy")
    hidden = contexts(dtype="float32")
    layer = VonMisesFisher(12, 4, embeddings=directions(12, 1000), key=mg.Key(0))
    assert (np.linalg.norm(layer.predicted(hidden).numpy(), axis=1) < 113).all()
    arguments = layer.weight.numpy(), layer.bias.numpy(), hidden.numpy(), [0, 3, 1, 3, 11]
    theirs = in_torch(torch, *arguments, directions(12, 1000).astype("float32"))
    assert (theirs["loss"] == -math.inf).all() and torch.isnan(theirs["hidden"].grad).all()
    loss = layer.loss(hidden, [0, 3, 1, 3, 11])
    loss.backward()
    assert math.isfinite(loss.item()) and np.isfinite(mg.to_cpu(hidden.grad)).all()
