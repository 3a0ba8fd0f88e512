"""Optimisers: dense and row-sparse updates are the same update."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import kernels

pytestmark = pytest.mark.engine

OPTIMISERS = [mg.optim.SGD, mg.optim.Adagrad]


def steps_of_rows(v=5, d=2):
    """Strategy: for each of some steps, ids with repetitions and their values, whole numbers so that sums are exact."""
    whole = st.integers(-3, 3).map(float)
    one = st.integers(0, 5).flatmap(
        lambda n: st.tuples(
            hnp.arrays("int64", n, elements=st.integers(0, v - 1)), hnp.arrays("float64", (n, d), elements=whole)
        )
    )
    return st.lists(one, min_size=1, max_size=4)


def test_sgd_by_hand():
    w = mg.param([1.0, 2.0])
    w.grad = np.array([10.0, -10.0], "float32")
    mg.optim.SGD([w], lr=0.1).step()
    assert w.data.tolist() == [0.0, 3.0]


def test_adagrad_by_hand_slows_down_by_the_history_of_each_coordinate():
    w = mg.param(np.array([0.0, 0.0]))
    adagrad = mg.optim.Adagrad([w], lr=1.0, eps=0.0)
    for gradient in ([3.0, 1.0], [4.0, 1.0]):
        w.grad = np.array(gradient)
        adagrad.step()
    assert np.allclose(w.data, [-1.0 - 4 / 5, -1.0 - 1 / np.sqrt(2)])


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@given(steps=steps_of_rows())
def test_an_update_by_rows_equals_the_dense_update(optimiser, steps):
    by_rows, dense = mg.param(np.ones((5, 2))), mg.param(np.ones((5, 2)))
    first, second = optimiser([by_rows], lr=0.5), optimiser([dense], lr=0.5)
    for ids, values in steps:
        by_rows.grad = mg.Rows(ids, values, (5, 2))
        dense.grad = by_rows.grad.dense()
        first.step()
        second.step()
    assert np.allclose(by_rows.data, dense.data, rtol=1e-14)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_rows_that_are_not_touched_keep_every_bit(optimiser):
    w = mg.param(mg.Key(0).normal((100, 64)))
    before = w.data.copy()
    w.grad = mg.Rows(np.array([3, 7, 3] * 30), mg.Key(1).normal((90, 64)), (100, 64))
    optimiser([w], lr=0.1).step()
    touched = (w.data != before).any(axis=1)
    assert np.flatnonzero(touched).tolist() == [3, 7]


@given(st.sampled_from(["float32", "float64"]), st.integers(0, 1000))
def test_the_adagrad_kernel_updates_as_the_array_code_does_to_the_last_bit(dtype, seed):
    key = mg.Key(seed)
    w, s, g = key.fold(0).normal((7, 3), dtype), key.fold(1).uniform((7, 3), dtype), key.fold(2).normal((4, 3), dtype)
    ids, lr, eps = np.array([6, 0, 3, 2]), w.dtype.type(0.1), w.dtype.type(1e-10)
    w_kernel, s_kernel = w.copy(), s.copy()
    kernels.adagrad_rows(w_kernel, s_kernel, ids, g, lr, eps)
    s[ids] += g * g
    w[ids] -= lr * g / (np.sqrt(s[ids]) + eps)
    assert (w_kernel == w).all() and (s_kernel == s).all()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_many_rows_at_once_are_updated_as_few_are(optimiser):
    """The kernel takes over above some size; the same rows in either way end in the same place."""
    values = mg.Key(0).normal((64, 128))
    whole, halves = mg.param(np.zeros((64, 128), "float32")), mg.param(np.zeros((64, 128), "float32"))
    first, second = optimiser([whole], lr=0.1), optimiser([halves], lr=0.1)
    whole.grad = mg.Rows(np.arange(64), values, (64, 128))
    first.step()
    for i in range(0, 64, 16):
        halves.grad = mg.Rows(np.arange(i, i + 16), values[i : i + 16], (64, 128))
        second.step()
    assert (whole.data == halves.data).all()


def test_a_parameter_without_a_gradient_stays():
    w = mg.param([1.0])
    mg.optim.SGD([w], lr=0.1).step()
    assert w.data.tolist() == [1.0]


def test_zero_grad_forgets():
    w = mg.param([1.0])
    (w * 2.0).sum().backward()
    mg.optim.SGD([w], lr=0.1).zero_grad()
    assert w.grad is None


def test_gradients_that_are_tensors_are_used_too():
    w = mg.param([3.0])
    (w * w).sum().backward(create_graph=True)
    mg.optim.SGD([w], lr=0.5).step()
    assert w.data.tolist() == [0.0]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_parabola_is_descended(optimiser):
    w = mg.param([3.0, -2.0])
    descent = optimiser([w], lr=0.3 if optimiser is mg.optim.SGD else 3.0)
    for _ in range(200):
        (w * w).sum().backward()
        descent.step()
        descent.zero_grad()
    assert abs(w.data).max() < 1e-3


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: mg.optim.SGD(mg.param([1.0]), 0.1), TypeError, r"must be a list of tensors, got one Tensor"),
        (lambda: mg.optim.SGD([mg.tensor([1.0])], 0.1), ValueError, "leaf tensors with requires_grad"),
        (lambda: mg.optim.SGD([mg.param([1.0]) * 2.0], 0.1), ValueError, "leaf tensors"),
        (lambda: mg.optim.Adagrad([], 0.1), ValueError, "nothing to optimise"),
        (lambda: mg.optim.SGD([mg.param([1.0])] * 2, 0.1), ValueError, "listed twice"),
        (lambda: mg.optim.Adagrad([mg.param([1.0])], 0.0), ValueError, "lr must be positive, got 0.0"),
        (lambda: mg.optim.SGD([mg.param([1.0])], float("nan")), ValueError, "lr must be positive"),
    ],
)
def test_an_optimiser_that_could_not_work_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()
