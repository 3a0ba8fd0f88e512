"""What every chapter shares: scores of some rows, their sparse gradients, and what a layer refuses."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import NegativeSampling
from losses.layer import OutputLayer, best, of_scores, row_scores, row_scores_naive, shared_scores
from losses.samplers import Uniform
from minigrad.check import tensors, vocab_batches

from .properties import scores_as_the_engine_finds_them

pytestmark = pytest.mark.negative


def layer(vocab_size=4, dim=3, **options):
    return NegativeSampling(vocab_size, dim, key=mg.Key(0), **{"k": 2, **options})


HIDDEN = np.ones((2, 3), "float32")

# ---- (1) and (2) ------------------------------------------------------------------------------------------------


@given(vocab_batches())
def test_the_rows_are_scored_as_the_engine_would_score_them_and_so_are_their_gradients(batch):
    scores_as_the_engine_finds_them(row_scores, *batch)


@given(vocab_batches())
def test_the_naive_way_scores_them_alike(batch):
    scores_as_the_engine_finds_them(row_scores_naive, *batch)


@given(vocab_batches(max_vocab=3, max_dim=2, max_batch=3))
def test_step_2_gradients_are_right_to_second_order(batch):
    ids = mg.backend.asarray(np.stack([batch.targets, batch.targets], axis=1))
    mg.check_grads(lambda *arguments: row_scores(*arguments, ids=ids), batch.hidden, batch.weight, batch.bias)


@given(vocab_batches())
def test_step_2_gradients_that_can_be_differentiated_again_are_the_same(batch):
    ids = mg.backend.asarray(np.stack([batch.targets, batch.targets[::-1]], axis=1))
    up = mg.Key(1).normal(ids.shape, "float64")
    arguments = [batch.hidden, batch.weight]
    by_hidden, by_weight = mg.grad(row_scores(*arguments, ids=ids), arguments, up)
    again = mg.grad(row_scores(*arguments, ids=ids), arguments, up, create_graph=True)
    assert np.allclose(again[0].numpy(), mg.to_cpu(by_hidden), rtol=1e-12, atol=1e-12)
    assert np.allclose(again[1].numpy(), mg.to_cpu(by_weight.dense()), rtol=1e-12, atol=1e-12)


def composed_shared_scores(hidden, weight, *bias, ids):
    """H Rᵀ by operations of the engine."""
    scores = hidden @ mg.take(weight, ids).T
    return scores + mg.take(bias[0], ids) if bias else scores


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    "ours, composed, shape",
    [
        (row_scores, row_scores_naive, (5,)),
        (row_scores, row_scores_naive, (5, 3)),
        (shared_scores, composed_shared_scores, (4,)),
    ],
    ids=["a row of its own", "rows of its own", "shared rows"],
)
@pytest.mark.parametrize("dtype, size", [("float64", 3), ("float32", 1000), ("float64", 1000)])
def test_step_2_with_a_bias_and_without_for_few_numbers_and_for_many(ours, composed, shape, with_bias, dtype, size):
    """Many are left to a kernel on a CPU. Each id is there again and again."""
    key = mg.Key(1)
    hidden, weight, bias = (mg.param(key.fold(i).normal(s, dtype)) for i, s in enumerate([(5, size), (7, size), (7,)]))
    arguments, ids = [hidden, weight, *[bias] * with_bias], key.fold(3).integers(0, 3, shape)
    found, expected = ours(*arguments, ids=ids), composed(*arguments, ids=ids)
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    assert found.dtype == dtype and np.allclose(found.numpy(), expected.numpy(), rtol=tolerance, atol=tolerance)
    up = key.fold(4).normal(found.shape, dtype)
    for p, f, e in zip(arguments, mg.grad(found, arguments, up), mg.grad(expected, arguments, up), strict=True):
        assert isinstance(f, mg.Rows) == (p is not hidden)
        f, e = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, e))
        assert f.dtype == dtype and np.allclose(f, e, rtol=tolerance, atol=tolerance)


def test_step_1_a_hidden_that_does_not_lie_in_one_piece_is_scored_too():
    hidden, weight = mg.Key(0).normal((5, 2000))[:, ::2], mg.Key(1).normal((7, 1000))
    ids = mg.backend.asarray([0, 3, 3, 1, 6])
    expected = (mg.to_cpu(hidden) * mg.to_cpu(weight)[mg.to_cpu(ids)]).sum(axis=1)
    assert np.allclose(mg.to_cpu(row_scores(hidden, weight, ids=ids)), expected, rtol=1e-4, atol=1e-4)


@given(vocab_batches(max_vocab=3, max_dim=2, max_batch=3))
def test_step_2_of_shared_rows_too_is_right_to_second_order(batch):
    ids = mg.backend.asarray(np.concatenate([batch.targets, batch.targets]))
    mg.check_grads(lambda *arguments: shared_scores(*arguments, ids=ids), batch.hidden, batch.weight, batch.bias)


@given(vocab_batches())
def test_step_1_a_score_is_the_product_of_row_and_hidden(batch):
    weight, _, hidden, targets = batch
    found = row_scores(hidden, weight, ids=mg.backend.asarray(targets[:, None])).numpy()[:, 0]
    for i, t in enumerate(targets):
        assert math.isclose(found[i], weight.numpy()[t] @ hidden.numpy()[i], rel_tol=1e-12, abs_tol=1e-12)


@given(vocab_batches())
def test_on_arrays_it_computes_without_a_tape(batch):
    ids = mg.backend.asarray(batch.targets[:, None])
    found = row_scores(batch.hidden.data, batch.weight.data, ids=ids)
    assert type(found) is type(batch.hidden.data)
    assert (found == row_scores(batch.hidden, batch.weight, ids=ids).data).all()


@pytest.mark.parametrize("vocab_size", [10, 1_000_000])
def test_the_gradient_of_a_look_up_has_the_size_of_the_look_up_whatever_v_is(vocab_size):
    weight = mg.param(np.zeros((vocab_size, 4), "float32"))
    ids = mg.backend.asarray([[0, vocab_size - 1, 3]])
    row_scores(mg.tensor([[1.0, 2.0, 3.0, 4.0]]), weight, ids=ids).sum().backward()
    assert weight.grad.nbytes == 3 * 8 + 3 * 4 * 4  # three ids and three rows of four


def test_rows_of_a_computed_table_are_scored_too():
    table = mg.param(np.arange(6.0).reshape(3, 2))
    row_scores(mg.tensor(np.ones((1, 2))), table * 2.0, ids=mg.backend.asarray([[0, 2, 0]])).sum().backward()
    assert table.grad.tolist() == [[4.0, 4.0], [0.0, 0.0], [2.0, 2.0]]


# ---- of_scores --------------------------------------------------------------------------------------------------


def cubes(scores, *, weight=1.0):
    """L = w Σ_j s_j³,  G = 3 w s²."""
    return weight * (scores * scores * scores).sum(axis=1), 3.0 * weight * scores * scores


def product(a, b):
    """L = a Σ_j b_j,  G_a = Σ_j b_j,  G_b = a: of two kinds of scores, (B,) and (B, n)."""
    return a * b.sum(axis=1), b.sum(axis=1), a.reshape((-1, 1)) + 0.0 * b


@given(tensors(min_dims=2, max_dims=2), st.sampled_from([1.0, 0.5]))
def test_a_pure_function_of_scores_becomes_a_primitive_right_to_second_order(scores, weight):
    mg.check_grads(lambda s: of_scores(cubes)(s, weight=weight), scores)


@given(vocab_batches())
def test_with_several_kinds_of_scores_too(batch):
    mg.check_grads(of_scores(product), batch.targets.astype("float64"), batch.hidden)


def test_a_derivative_of_the_derivative_of_the_derivative():
    s = mg.param(np.array([[2.0]]))
    (first,) = mg.grad(of_scores(cubes)(s).sum(), [s], create_graph=True)
    (second,) = mg.grad(first.sum(), [s], create_graph=True)
    (third,) = mg.grad(second.sum(), [s])
    assert (first.item(), second.item(), third.item()) == (12.0, 12.0, 6.0)


def test_each_example_has_a_gradient_of_its_own():
    s = mg.param(np.array([[1.0], [2.0]]))
    of_scores(cubes)(s).backward([1.0, 10.0])
    assert s.grad.tolist() == [[3.0], [120.0]]


def test_the_function_is_called_once_there_and_not_again_on_the_way_back():
    calls = []

    def counted(scores):
        calls.append(scores)
        return cubes(scores)

    of_scores(counted)(mg.param(np.ones((1, 2)))).sum().backward()
    assert len(calls) == 1


def test_on_arrays_it_gives_the_loss_alone_under_its_own_name():
    assert of_scores(cubes)(np.array([[1.0, 2.0]])).tolist() == [9.0]
    assert of_scores(cubes).__name__ == "cubes"


# ---- the layer --------------------------------------------------------------------------------------------------


def plain(vocab_size=5, dim=3, **options):
    return OutputLayer(vocab_size, dim, key=mg.Key(0), **options)


def test_a_layer_begins_small_and_with_no_bias():
    new = plain(200, 10)
    assert new.weight.shape == (200, 10) and new.weight.dtype == "float32"
    assert 0.04 < abs(new.weight.data).max() <= 1 / (2 * 10)
    assert new.bias.data.tolist() == [0.0] * 200


def test_the_same_key_begins_with_the_same_weights():
    assert (plain().weight.data == plain().weight.data).all()
    assert (plain().weight.data != OutputLayer(5, 3, key=mg.Key(1)).weight.data).any()


def test_without_counts_a_layer_takes_zipfs_law():
    assert plain(3).counts.tolist() == [1.0, 1 / 2, 1 / 3]
    assert plain(3, counts=[5, 0, 1]).counts.tolist() == [5, 0, 1]


def test_sizes_may_be_numpys_integers():
    assert layer(vocab_size=np.int64(4), k=np.int32(2)).draw(mg.Key(0), np.int64(3)).shape == (3, 2)


def test_parameters_are_what_is_learned():
    with_bias, without = plain(), plain(bias=False)
    assert with_bias.parameters() == [with_bias.weight, with_bias.bias]
    assert without.parameters() == [without.weight] and without.bias is None


@pytest.mark.parametrize("bias", [True, False])
def test_step_1_scores_are_w_h_plus_b(bias):
    some = plain(bias=bias)
    if bias:
        some.bias.data = mg.backend.xp().arange(5.0, dtype="float32")
    expected = HIDDEN @ some.weight.numpy().T + (np.arange(5.0) if bias else 0.0)
    assert np.allclose(some.raw_scores(mg.tensor(HIDDEN)).numpy(), expected, atol=1e-6)
    assert (some.scores(HIDDEN).data == some.raw_scores(HIDDEN).data).all(), "with nothing to add, as in a softmax"


@pytest.mark.parametrize("make", [plain, layer])
def test_log_prob_sums_to_one_even_for_large_scores(make):
    some = make()
    some.weight.data = np.float32(1e4) * some.weight.data
    log_prob = some.log_prob(mg.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]]))
    assert log_prob.shape == (2, some.vocab_size)
    assert np.allclose(np.exp(log_prob.numpy()).sum(axis=1), 1.0, atol=1e-5)


def test_log_prob_has_a_gradient():
    hidden = mg.param(HIDDEN)
    plain().log_prob(hidden)[0, 1].backward()
    assert hidden.grad.shape == (2, 3) and not hidden.grad[1].any()


@pytest.mark.parametrize("make", [plain, layer])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_topk_agrees_with_sorting_log_prob(make, k):
    some, hidden = make(), mg.Key(3).normal((6, 3))
    ids, scores = map(mg.to_cpu, some.topk(hidden, k))
    log_prob = some.log_prob(hidden).numpy()
    assert ids.tolist() == np.argsort(-log_prob, axis=1)[:, :k].tolist()
    normaliser = scores - np.take_along_axis(log_prob, ids, axis=1)
    assert np.allclose(normaliser, normaliser[:, :1], atol=1e-6), "scores are log P up to a number for each context"


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0, -3.0, math.nan, -math.inf]), min_size=5, max_size=5), min_size=1
    ),
    st.integers(1, 5),
)
def test_the_best_are_those_that_a_stable_sort_puts_first_with_ties_and_nan(rows, k):
    found = best(mg.backend.asarray(rows), k)
    assert found.shape == (len(rows), k)
    assert found.tolist() == np.argsort(-np.array(rows), axis=1, kind="stable")[:, :k].tolist()


@pytest.mark.parametrize("k", [1, 7, 499, 500])
def test_the_best_of_many(k):
    scores = mg.Key(0).normal((20, 500))
    assert best(scores, k).tolist() == np.argsort(-mg.to_cpu(scores), axis=1)[:, :k].tolist()


def test_an_exact_layer_touches_every_row():
    assert plain().score_cost() == (5, 5)


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(vocab_size=1), r"losses.OutputLayer: vocab_size must be at least 2, got 1"),
        (dict(vocab_size=5.0), r"vocab_size must be an integer, got float 5.0"),
        (dict(dim=0), r"losses.OutputLayer: dim must be at least 1, got 0"),
        (dict(dim=-2), r"dim must be at least 1, got -2"),
        (dict(counts=[1, 2]), r"losses.OutputLayer: counts must be 5 numbers, got 2"),
        (dict(counts=[]), r"losses.OutputLayer: counts must be a list of finite numbers, none negative; got \[\]"),
        (dict(counts=[1, 2, 3, 4, -5]), r"none negative; got \[1, 2, 3, 4, -5\]"),
        (dict(counts=np.array([1, 2, 3, 4, -5])), r"none negative; got array"),
        (dict(counts=[1, 2, 3, 4, math.nan]), r"counts must be a list of finite numbers"),
        (dict(counts=np.ones((5, 2))), r"counts must be a list of finite numbers"),
        (dict(counts="words"), r"counts must be a list of finite numbers"),
        (dict(dim=True), r"dim must be an integer, got bool True"),
    ],
)
def test_a_layer_that_makes_no_sense_is_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        plain(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(k=0), r"losses.NegativeSampling: k must be at least 1, got 0"),
        (dict(k=2.5), r"k must be an integer, got float 2.5"),
        (dict(shared=0), r"losses.NegativeSampling: shared must be at least 1, got 0"),
        (dict(sampler=Uniform(3)), r"the sampler must draw from the layer's 4 words, it draws from 3"),
        (dict(sampler=[0.25] * 4), r"losses.NegativeSampling: sampler must be one of losses.samplers, got list"),
        (dict(vocab_size=1), r"losses.NegativeSampling: vocab_size must be at least 2, got 1"),
        (dict(counts=[0, 0, 0, 0]), r"counts must be positive for one word at least; got \[0, 0, 0, 0\]"),
        (dict(power=1, sampler=Uniform(4)), r"give power= or a sampler=, which has a distribution of its own"),
    ],
)
def test_negative_sampling_that_makes_no_sense_is_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        layer(**options)


@pytest.mark.parametrize("key", [0, None])
def test_a_layer_wants_a_key(key):
    with pytest.raises(TypeError, match=rf"losses.OutputLayer: key must be a minigrad.Key.*got {type(key).__name__}"):
        OutputLayer(5, 3, key=key)


@pytest.mark.parametrize("what", ["log_prob", "topk"])
@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_hidden_of_another_type_than_the_weights_is_refused(what, dtype):
    args = (1,) if what == "topk" else ()
    with pytest.raises(
        TypeError, match=rf"hidden is {dtype}, the layer's weights are float32; convert one: hidden.ast"
    ):
        getattr(layer(), what)(HIDDEN.astype(dtype), *args)


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 2), (2, 3, 1)])
@pytest.mark.parametrize("what", ["log_prob", "topk"])
def test_hidden_of_a_wrong_shape_is_refused(what, shape):
    hidden, args = np.zeros(shape, "float32"), (1,) if what == "topk" else ()
    with pytest.raises(ValueError, match=r"losses.NegativeSampling: hidden must have shape \(B, 3\) with B >= 1, got"):
        getattr(layer(), what)(hidden, *args)


@pytest.mark.parametrize(
    "shared, noise, error, message",
    [
        (None, [[0, 1]], ValueError, r"losses.NegativeSampling.loss: noise must have shape \[2, 2\], got \[1, 2\]"),
        (3, [0, 1], ValueError, r"noise must have shape \[3\], got \[2\]"),
        (3, [0, 1, 4], IndexError, r"losses.NegativeSampling.loss: noise must lie in \[0, 4\), got 4"),
        (3, [0, 1, -1], IndexError, r"noise must lie in \[0, 4\), got -1"),
        (3, [0.0, 1.0, 2.0], TypeError, r"noise must be integers, got float64"),
    ],
)
def test_noise_that_is_no_ids_is_refused(shared, noise, error, message):
    with pytest.raises(error, match=message):
        layer(shared=shared).loss(HIDDEN, [0, 1], noise=np.array(noise))


@pytest.mark.parametrize("kind", [list, np.array, lambda ids: mg.tensor(np.array(ids))])
def test_noise_may_be_a_list_an_array_or_a_tensor(kind):
    expected = layer().loss(HIDDEN, [3, 1], noise=np.array([[0, 1], [2, 2]])).item()
    assert layer().loss(HIDDEN, [3, 1], noise=kind([[0, 1], [2, 2]])).item() == expected


@pytest.mark.parametrize("options", [{}, {"key": mg.Key(0), "noise": np.zeros((2, 2), "int64")}])
def test_either_a_key_or_the_noise_is_needed(options):
    with pytest.raises(ValueError, match=r"give key= to draw the noise with, or noise= drawn before"):
        layer().loss(HIDDEN, [0, 1], **options)


@pytest.mark.parametrize(
    "k, message",
    [(0, "k must be at least 1, got 0"), (5, "k must lie in 1 to 4, got 5"), (1.5, "k must be an integer")],
)
def test_more_words_than_there_are_or_none_are_refused(k, message):
    with pytest.raises((TypeError, ValueError), match=rf"losses.NegativeSampling.topk: {message}"):
        layer().topk(HIDDEN, k)


def test_among_equals_the_most_frequent_words_come_first():
    even = plain(5)
    even.weight.data = mg.backend.xp().zeros((5, 3), "float32")
    assert even.topk(np.zeros((1, 3), "float32"), 3)[0].tolist() == [[0, 1, 2]]


def test_a_layer_without_a_chapter_has_no_loss():
    with pytest.raises(TypeError, match=r"losses.OutputLayer has no loss"):
        plain().loss(HIDDEN, [0, 1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["log_prob", "topk", "scores", "raw_scores"])
@pytest.mark.parametrize("kind", [np.asarray, mg.tensor], ids=["an array", "a tensor"])
def test_a_hidden_that_is_not_finite_is_refused(what, value, kind):
    hidden = kind(np.array([[1.0, 1.0, 1.0], [1.0, value, 1.0]], "float32"))
    args = (2,) if what == "topk" else ()
    with pytest.raises(FloatingPointError, match=r"losses.NegativeSampling: hidden holds NaN or infinities"):
        getattr(layer(), what)(hidden, *args)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_infinite_hidden_is_refused_even_where_the_loss_is_finite(sign):
    """s_t = ∞ and s_n = −∞ have the loss 0, but the gradient of their rows is 0 · ∞."""
    some = layer(dim=1, k=1, bias=False)
    some.weight.data = mg.tensor([[sign * 1.0], [sign * -1.0], [0.0], [0.0]]).data
    with pytest.raises(FloatingPointError):
        some.loss(mg.tensor([[sign * math.inf]]), [0], noise=np.array([[1]]))


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("shared", [None, 3])
def test_weights_that_have_blown_up_are_noticed_at_the_loss(shared, value):
    some = layer(shared=shared)
    some.bias.data = mg.tensor([0.0, value, 0.0, 0.0]).data
    with pytest.raises(
        FloatingPointError, match=r"the loss of some example is not finite: the weights hold NaN or inf"
    ):
        some.loss(HIDDEN, [0, 1], key=mg.Key(0))
