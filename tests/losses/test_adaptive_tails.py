"""The softmax of a tail: the same function as the softmax, whatever the pieces, and what is done if it overflows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses.softmax import full_softmax
from losses.structured import tails
from losses.structured.tails import tail_softmax
from minigrad.check import check_grads, vocab_batches

pytestmark = pytest.mark.adaptive


def loss_and_gradients(function, batch, up=None):
    up = mg.Key(0).normal(batch.targets.shape, "float64") if up is None else up
    loss = function(batch.hidden, batch.weight, mg.backend.asarray(batch.targets))
    return [mg.to_cpu(a) for a in (loss.data, *mg.grad(loss, [batch.hidden, batch.weight], up))]


def softmax(hidden, weight, targets):
    return full_softmax(hidden, weight, 0.0, targets=targets, chunk=None)


@given(vocab_batches(), st.sampled_from([1, 3, 7, 1 << 16]))
def test_step_3_loss_and_gradients_are_those_of_the_softmax_whatever_the_pieces(batch, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "PIECE", piece)
        found = loss_and_gradients(tail_softmax, batch)
    for f, e in zip(found, loss_and_gradients(softmax, batch), strict=True):
        assert np.allclose(f, e, rtol=1e-12, atol=1e-12)


@given(vocab_batches())
def test_step_3_gradients_are_right_to_second_order(batch):
    targets = mg.backend.asarray(batch.targets)
    check_grads(lambda h, w: tail_softmax(h, w, targets), batch.hidden.numpy(), batch.weight.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_3_many_words_in_several_pieces(dtype):
    key = mg.Key(3)
    hidden, weight = mg.param(key.fold(0).normal((20, 2), dtype)), mg.param(key.fold(1).normal((9000, 2), dtype))
    targets = key.fold(2).integers(0, 9000, 20)
    assert len(list(tails.pieces(9000, 20, 2))) > 1
    found, expected = tail_softmax(hidden, weight, targets), softmax(hidden, weight, targets)
    assert found.dtype == dtype and np.allclose(found.numpy(), expected.numpy(), rtol=1e-6)
    pairs = zip(*(mg.grad(loss.sum(), [hidden, weight]) for loss in (found, expected)), strict=True)
    assert all(np.allclose(mg.to_cpu(f), mg.to_cpu(e), rtol=1e-4, atol=1e-6) for f, e in pairs)


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 500))
def test_pieces_are_all_words_once_and_none_is_larger_than_it_may_be(num_words, n, m):
    found = [range(num_words)[words] for words in tails.pieces(num_words, n, m)]
    assert [w for words in found for w in words] == list(range(num_words))
    scores = [len(words) * n for words in found if len(words) > 1]
    assert all(some <= tails.PIECE and some * m <= tails.UNPACKED for some in scores)


@pytest.mark.cpu
def test_step_1_the_loss_is_the_same_with_any_number_taken_off_and_put_back():
    s, t = np.array([0.5, -1.0, 2.0]), 1
    loss = math.log(np.exp(s).sum()) - s[t]
    for c in (0.0, s[t], 7.0):
        assert math.isclose(loss, math.log(np.exp(s - c).sum()) - math.log(np.exp(s[t] - c)), rel_tol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_1_where_the_target_is_certain_the_loss_is_zero_however_large_its_score(dtype):
    """s_t comes of another product than c, in which it is rounded differently: what is put back is e^(s_t − c)."""
    hidden = mg.Key(2).normal((7, 50), dtype)
    weight = mg.backend.xp().concatenate([1e3 * hidden, -1e3 * hidden])
    loss = tail_softmax(mg.param(hidden), mg.param(weight), mg.backend.asarray(range(7)))
    assert loss.numpy().tolist() == [0.0] * 7


@pytest.mark.cpu
@pytest.mark.parametrize("dtype, last", [("float32", 88.0), ("float64", 709.0)])
def test_step_2_up_to_88_or_709_the_exponentials_are_finite_and_beyond_the_loss_is_right_too(dtype, last):
    weight = mg.param(np.array([[0.0], [1.0]], dtype))
    for score, kept in ((last, 2), (last + 1, 3)):  # e and l; or what `full_softmax` keeps
        loss = tail_softmax(mg.param(np.array([[score]], dtype)), weight, np.array([0]))
        assert math.isclose(loss.item(), score, rel_tol=1e-6)
        assert len(loss._node.saved[1]) == kept


@pytest.mark.parametrize("sign", [1, -1])
def test_step_2_scores_of_ten_thousand_have_the_softmaxs_loss_and_gradient(sign):
    hidden, weight = mg.param([[sign * 1e4, 0.0], [0.0, 1e4]]), mg.param([[1.0, 0.5], [-1.0, 0.25], [0.0, -2.0]])
    targets = mg.backend.asarray([0, 2])
    found, expected = tail_softmax(hidden, weight, targets), softmax(hidden, weight, targets)
    assert np.isfinite(found.numpy()).all() and (found.numpy() == expected.numpy()).all()
    pairs = zip(*(mg.grad(loss.sum(), [hidden, weight]) for loss in (found, expected)), strict=True)
    assert all((mg.to_cpu(f) == mg.to_cpu(e)).all() for f, e in pairs)


def test_a_nan_is_not_hidden():
    hidden, weight = mg.param([[1.0], [math.nan]]), mg.param([[1.0], [2.0]])
    assert np.isnan(tail_softmax(hidden, weight, mg.backend.asarray([0, 1])).numpy()).tolist() == [False, True]
