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
def test_step_2_loss_and_gradients_are_those_of_the_softmax_whatever_the_pieces(batch, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "PIECE", piece)
        found = loss_and_gradients(tail_softmax, batch)
    for f, e in zip(found, loss_and_gradients(softmax, batch), strict=True):
        assert np.allclose(f, e, rtol=1e-12, atol=1e-12)


@given(vocab_batches())
def test_step_2_gradients_are_right_to_second_order(batch):
    targets = mg.backend.asarray(batch.targets)
    check_grads(lambda h, w: tail_softmax(h, w, targets), batch.hidden.numpy(), batch.weight.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_2_many_words_in_several_pieces(dtype):
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


def of_a_loss_of(loss, dtype, word=1.0):
    """A context and two words; the score of the wrong one is greater by `loss`."""
    return (
        mg.param(np.array([[loss / word]], dtype)),
        mg.param(np.array([[0.0], [word]], dtype)),
        mg.backend.asarray([0]),
    )


@pytest.mark.cpu
@pytest.mark.parametrize("dtype, last, overflows", [("float32", 44, 89), ("float64", 354, 710)])
def test_step_3_beyond_a_loss_of_44_or_354_the_way_of_the_softmax_is_taken(dtype, last, overflows):
    with np.errstate(over="ignore"):
        assert np.isfinite(np.exp(np.array([overflows - 1, overflows], dtype))).tolist() == [True, False]
    for score, kept in ((last, 2), (last + 1, 3), (overflows, 3)):  # e and l; or what `full_softmax` keeps
        loss = tail_softmax(*of_a_loss_of(score, dtype))
        assert math.isclose(loss.item(), score, rel_tol=1e-6)
        assert len(loss._node.saved[1]) == kept


@pytest.mark.parametrize("word", [1.0, 85.0, 1e4])
@pytest.mark.parametrize("loss", [1.0, 20.0, 43.0, 60.0, 84.5, 88.0, 1000.0])
@pytest.mark.parametrize("g", [1.0, 1e-6, 1e-12])
def test_step_3_gradients_are_right_where_e_is_finite_but_large(loss, word, g):
    """p of the wrong word is 1 / (1 + e^−loss): ∂L/∂h is that times W, ∂L/∂W that times h."""
    hidden, weight, targets = of_a_loss_of(loss, "float32", word)
    (g * tail_softmax(hidden, weight, targets)).sum().backward()
    p, h = 1 / (1 + math.exp(-loss)), hidden.item()
    assert np.allclose(mg.to_cpu(hidden.grad) / g, p * word, rtol=1e-5, atol=0)
    assert np.allclose(mg.to_cpu(weight.grad) / g, [[-p * h], [p * h]], rtol=1e-5, atol=0)


@given(st.integers(0, 999), st.sampled_from([3.0, 10.0, 30.0]))
def test_step_3_gradients_are_the_softmaxs_with_weights_well_above_one(seed, scale):
    key = mg.Key(seed)
    hidden, weight = (mg.param(scale * key.fold(i).normal((n, 2))) for i, n in enumerate((4, 9)))
    targets = key.fold(2).integers(0, 9, 4)
    pairs = zip(*(mg.grad(f(hidden, weight, targets).sum(), [hidden, weight]) for f in (tail_softmax, softmax)))
    assert all(np.allclose(mg.to_cpu(f), mg.to_cpu(e), rtol=1e-3, atol=1e-3) for f, e in pairs)


@pytest.mark.cpu
def test_step_3_where_e_of_the_target_is_next_to_nothing_the_way_of_the_softmax_is_taken(monkeypatch):
    """s_t, of another product than c and rounded differently, may be far below it where scores are huge."""
    e = np.array([[1e-40], [1e-40]], "float32")  # few digits are left of it
    monkeypatch.setattr(tails, "_exponentials", lambda *_: (e, e.sum(axis=0)))
    assert tail_softmax(*of_a_loss_of(0.0, "float32")).item() == np.float32(math.log(2))


@pytest.mark.parametrize("sign", [1, -1])
def test_step_3_scores_of_ten_thousand_have_the_softmaxs_loss_and_gradient(sign):
    hidden, weight = mg.param([[sign * 1e4, 0.0], [0.0, 1e4]]), mg.param([[1.0, 0.5], [-1.0, 0.25], [0.0, -2.0]])
    targets = mg.backend.asarray([0, 2])
    found, expected = tail_softmax(hidden, weight, targets), softmax(hidden, weight, targets)
    assert np.isfinite(found.numpy()).all() and (found.numpy() == expected.numpy()).all()
    pairs = zip(*(mg.grad(loss.sum(), [hidden, weight]) for loss in (found, expected)), strict=True)
    assert all((mg.to_cpu(f) == mg.to_cpu(e)).all() for f, e in pairs)


def test_a_nan_is_not_hidden():
    hidden, weight = mg.param([[1.0], [math.nan]]), mg.param([[1.0], [2.0]])
    assert np.isnan(tail_softmax(hidden, weight, mg.backend.asarray([0, 1])).numpy()).tolist() == [False, True]


@pytest.mark.parametrize(
    "targets, error, message",
    [
        ([-1, 0], IndexError, r"lie in \[0, 3\), got -1"),
        ([0, 3], IndexError, r"lie in \[0, 3\), got 3"),
        ([0], ValueError, r"have shape \(2,\), got \[1\]"),
        ([[0, 1]], ValueError, r"have shape \(2,\), got \[1, 2\]"),
        ([0.0, 1.0], TypeError, "be integers, got float"),
    ],
)
def test_targets_that_are_no_rows_are_refused(targets, error, message):
    with pytest.raises(
        error, match=r"minigrad.tail_softmax\(float32\[2, 4\], float32\[3, 4\]\): targets must " + message
    ):
        tail_softmax(mg.param(np.ones((2, 4), "f")), mg.param(np.ones((3, 4), "f")), mg.backend.asarray(targets))


@pytest.mark.parametrize("n, m", [(0, 2), (2, 0), (0, 0)])
def test_no_examples_have_no_loss_and_with_no_numbers_all_words_are_alike(n, m):
    hidden, weight = mg.param(np.zeros((n, m), "f")), mg.param(np.ones((3, m), "f"))
    loss = tail_softmax(hidden, weight, mg.backend.asarray(np.zeros(n, "int64")))
    assert np.allclose(loss.numpy(), [math.log(3)] * n)
    assert [g.tolist() for g in mg.grad(loss.sum(), [hidden, weight])] == [[[0.0] * m] * n, [[0.0] * m] * 3]
