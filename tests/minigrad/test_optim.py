"""Optimisers: dense and row-sparse updates are the same update."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import kernels
from minigrad.backend import asarray

pytestmark = pytest.mark.engine

OPTIMISERS = [mg.optim.SGD, mg.optim.Adagrad]  # for which leaving rows alone is exact


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
    w.grad = asarray([10.0, -10.0], "float32")
    mg.optim.SGD([w], lr=0.1).step()
    assert w.data.tolist() == [0.0, 3.0]


def test_adagrad_by_hand_slows_down_by_the_history_of_each_coordinate():
    w = mg.param(np.array([0.0, 0.0]))
    adagrad = mg.optim.Adagrad([w], lr=1.0, eps=0.0)
    for gradient in ([3.0, 1.0], [4.0, 1.0]):
        w.grad = asarray(gradient)
        adagrad.step()
    assert np.allclose(w.numpy(), [-1.0 - 4 / 5, -1.0 - 1 / np.sqrt(2)])


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@given(steps=steps_of_rows())
def test_an_update_by_rows_equals_the_dense_update(optimiser, steps):
    by_rows, dense = mg.param(np.ones((5, 2))), mg.param(np.ones((5, 2)))
    first, second = optimiser([by_rows], lr=0.5), optimiser([dense], lr=0.5)
    for ids, values in steps:
        by_rows.grad = mg.Rows(asarray(ids), asarray(values), (5, 2))
        dense.grad = by_rows.grad.dense()
        first.step()
        second.step()
    assert np.allclose(by_rows.numpy(), dense.numpy(), rtol=1e-14)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_rows_that_are_not_touched_keep_every_bit(optimiser):
    w = mg.param(mg.Key(0).normal((100, 64)))
    before = w.data.copy()
    w.grad = mg.Rows(asarray([3, 7, 3] * 30), mg.Key(1).normal((90, 64)), (100, 64))
    optimiser([w], lr=0.1).step()
    touched = (w.data != before).any(axis=1)
    assert touched.nonzero()[0].tolist() == [3, 7]


@pytest.mark.cpu
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
    whole.grad = mg.Rows(asarray(np.arange(64)), values, (64, 128))
    first.step()
    for i in range(0, 64, 16):
        halves.grad = mg.Rows(asarray(np.arange(i, i + 16)), values[i : i + 16], (64, 128))
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
        (lambda: mg.optim.Adagrad([mg.param([1.0])], 0.0), ValueError, "lr must be positive and finite, got 0.0"),
        (lambda: mg.optim.SGD([mg.param([1.0])], float("nan")), ValueError, "lr must be positive"),
    ],
)
def test_an_optimiser_that_could_not_work_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


# ---- momentum and Adam ---------------------------------------------------------------------------------------------


def test_momentum_by_hand():
    w = mg.param(np.array([0.0]))
    sgd = mg.optim.SGD([w], lr=1.0, momentum=0.5)
    for gradient, then in ((4.0, -4.0), (0.0, -6.0), (1.0, -8.0)):  # v = 4, 2, 2
        w.grad = asarray([gradient])
        sgd.step()
        assert w.data[0] == then


def test_adams_first_step_is_lr_whatever_the_size_of_the_gradient():
    """m̂ = g and v̂ = g² after one step: the division by 1 − βᵗ makes up for averages that began at zero."""
    w = mg.param(np.zeros(3))
    w.grad = asarray([1e-3, -1.0, 1e3])
    mg.optim.Adam([w], lr=0.1, eps=0.0).step()
    assert np.allclose(w.numpy(), [-0.1, 0.1, -0.1], rtol=1e-14)


MOVING = [lambda w, **o: mg.optim.SGD(w, lr=0.1, momentum=0.9), lambda w, **o: mg.optim.Adam(w, lr=0.1, **o)]


@pytest.mark.parametrize("make", MOVING, ids=["momentum", "adam"])
def test_lazy_rows_are_exact_when_every_row_is_looked_up(make):
    by_rows, dense = mg.param(np.ones((3, 2))), mg.param(np.ones((3, 2)))
    first, second = make([by_rows]), make([dense])
    for step in range(4):
        dense.grad = mg.Key(step).normal((3, 2), "float64")
        order = asarray([2, 0, 1])
        by_rows.grad = mg.Rows(order, dense.grad[order], (3, 2))
        first.step()
        second.step()
    assert np.allclose(by_rows.numpy(), dense.numpy(), rtol=1e-14)


@pytest.mark.parametrize("make", MOVING, ids=["momentum", "adam"])
def test_lazy_rows_stand_still_while_they_are_not_looked_up(make):
    w = mg.param(np.ones((3, 2)))
    optimiser = make([w])
    for ids in ([0, 1], [1, 2], [1, 1]):
        before = w.data.copy()
        w.grad = mg.Rows(asarray(ids), asarray(np.ones((2, 2))), (3, 2))
        optimiser.step()
        moved, stood_still = (w.data != before).all(axis=1), (w.data == before).all(axis=1)
        assert moved.tolist() == (~stood_still).tolist() == [i in ids for i in range(3)]


def test_step_5_what_lazy_adam_leaves_out():
    """A row with one gradient and then n steps without: exact Adam goes on by the sum (5), lazy Adam stays."""
    n, lr, first, second, eps = 5, 0.1, 0.9, 0.999, 1e-8
    rows = {lazy: mg.param(np.zeros((2, 1))) for lazy in (True, False)}
    adams = {lazy: mg.optim.Adam([w], lr=lr, lazy=lazy) for lazy, w in rows.items()}
    for lazy, w in rows.items():
        for step in range(1 + n):
            w.grad = mg.Rows(asarray([1 if step else 0]), asarray([[2.0]]), (2, 1))
            adams[lazy].step()
    m, v = (1 - first) * 2.0, (1 - second) * 4.0  # after the one step that looked it up
    went_on = sum(
        lr * first**j * m / (1 - first ** (1 + j)) / (np.sqrt(second**j * v / (1 - second ** (1 + j))) + eps)
        for j in range(1, n + 1)
    )
    assert np.isclose(rows[True].numpy()[0, 0], -lr)
    assert np.isclose(rows[False].numpy()[0, 0], -lr - went_on) and went_on > 2 * lr
    averages = {lazy: adam.mean[0][0, 0].item() for lazy, adam in adams.items()}
    assert np.isclose(averages[False], first**n * m) and np.isclose(averages[True], m)


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("make", [*OPTIMISERS, mg.optim.Adam, lambda w, lr: mg.optim.SGD(w, lr, momentum=0.9)])
def test_the_kernels_give_the_bits_of_the_array_code(make, rows, dtype, monkeypatch):
    def trained():
        w = mg.param(mg.Key(0).normal((100, 64), dtype))
        optimiser = make([w], lr=0.1)
        for step in range(3):
            g = mg.Key(1).fold(step).normal((100, 64), dtype)
            w.grad = mg.Rows(np.arange(100)[::-1].copy(), g, (100, 64)) if rows else g
            optimiser.step()
        return w.data

    by_kernel = trained()
    monkeypatch.setattr("minigrad.optim.worth_a_kernel", lambda out, values, least=0: False)
    monkeypatch.setattr("minigrad.rows.worth_a_kernel", lambda out, values, least=0: False)
    assert (by_kernel == trained()).all()


# ---- states --------------------------------------------------------------------------------------------------------

EVERY = [
    lambda w: mg.optim.SGD(w, lr=0.1),
    lambda w: mg.optim.SGD(w, lr=0.1, momentum=0.9),
    lambda w: mg.optim.Adagrad(w, lr=0.1),
    lambda w: mg.optim.Adam(w, lr=0.1),
]


@pytest.mark.parametrize("make", EVERY)
def test_a_state_put_back_goes_on_to_the_bit(make):
    def gradient(step):
        return mg.Key(step).normal((3, 2))

    unbroken, first, second = (mg.param(np.ones((3, 2), "float32")) for _ in range(3))
    optimiser, before = make([unbroken]), make([first])
    for step in range(6):
        unbroken.grad = gradient(step)
        optimiser.step()
        if step < 3:
            first.grad = gradient(step)
            before.step()
    after = make([second])
    second.data, after_state = first.data, before.state_dict()
    after.load_state_dict(after_state)
    for step in range(3, 6):
        second.grad = gradient(step)
        after.step()
    assert (second.data == unbroken.data).all() and after.steps == optimiser.steps


def test_a_state_that_does_not_fit_changes_nothing_and_every_fault_is_listed():
    adam, other = mg.optim.Adam([mg.param([1.0, 2.0])]), mg.optim.Adagrad([mg.param([1.0])], lr=0.5)
    with pytest.raises(
        ValueError, match=r"mean.0 is missing; square.0 is missing; sums.0 is unexpected; steps must"
    ) as e:
        adam.load_state_dict(other.state_dict() | {"steps": np.array([1, 2])})
    assert "steps must have shape [1], got [2]" in str(e.value)
    assert adam.lr == 1e-3 and adam.steps == [0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda w: mg.optim.SGD(w, 0.1, momentum=1.0), "SGD: momentum must be at least 0.0 and below 1.0, got 1.0"),
        (lambda w: mg.optim.Adam(w, betas=(0.9, -0.1)), "Adam: betas must be at least 0.0 and below 1.0, got -0.1"),
        (lambda w: mg.optim.Adam(w, betas=(0.9,)), "Adam: betas must be two numbers"),
        (lambda w: mg.optim.Adam(w, eps=-1.0), "Adam: eps must be at least 0.0, got -1.0"),
        (lambda w: mg.optim.Adam(w, lr=float("inf")), "Adam: lr must be positive and finite, got inf"),
    ],
)
def test_options_out_of_range_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make([mg.param([1.0])])


# ---- sabotage ------------------------------------------------------------------------------------------------------


def wrong_adam(monkeypatch, change):
    right = mg.optim.Adam._numbers

    def numbers(self, i):
        return change(*right(self, i))

    monkeypatch.setattr(mg.optim.Adam, "_numbers", numbers)


def test_adam_without_its_corrections_is_killed(monkeypatch):
    wrong_adam(monkeypatch, lambda f, rf, s, rs, lr, unbias, eps: (f, rf, s, rs, 0.1, 1.0, eps))
    with pytest.raises(AssertionError):
        test_adams_first_step_is_lr_whatever_the_size_of_the_gradient()


def test_adam_with_rows_that_decay_is_killed(monkeypatch):
    monkeypatch.setattr(mg.optim.Adam, "_update_rows", lambda self, i, w, g: self._update(i, w, g.dense()))
    with pytest.raises(AssertionError):
        test_step_5_what_lazy_adam_leaves_out()


def test_momentum_that_weighs_the_gradient_is_killed(monkeypatch):
    def damped(self, i, w, g):
        v = self.velocity[i]
        v[:] = self.momentum * v + (1 - self.momentum) * g
        w -= self.lr * v

    monkeypatch.setattr(mg.optim.SGD, "_update", damped)
    with pytest.raises(AssertionError):
        test_momentum_by_hand()


# ---- an independent oracle -----------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["momentum", "adagrad", "adam", "lazy adam"])
def test_the_optimisers_are_torchs(name):
    torch = pytest.importorskip("torch")
    start = mg.to_cpu(mg.Key(0).normal((6, 3), "float64"))
    w, theirs = mg.param(start), torch.tensor(start, requires_grad=True)
    ours, other = {
        "momentum": lambda: (mg.optim.SGD([w], 0.1, momentum=0.9), torch.optim.SGD([theirs], 0.1, momentum=0.9)),
        "adagrad": lambda: (mg.optim.Adagrad([w], 0.1), torch.optim.Adagrad([theirs], 0.1)),
        "adam": lambda: (mg.optim.Adam([w], 0.1), torch.optim.Adam([theirs], 0.1)),
        "lazy adam": lambda: (mg.optim.Adam([w], 0.1, eps=1e-15), torch.optim.SparseAdam([theirs], 0.1, eps=1e-15)),
    }[name]()  # a tiny ε, for SparseAdam adds it to √v, where Adam, here as there, adds it to √v̂
    for step in range(5):
        ids, values = mg.Key(step).integers(0, 6, 4), mg.Key(step).fold(1).normal((4, 3), "float64")
        rows = mg.Rows(ids, values, (6, 3))
        if name == "lazy adam":
            w.grad = rows
            at, values = torch.tensor(mg.to_cpu(ids))[None], torch.tensor(mg.to_cpu(values))
            theirs.grad = torch.sparse_coo_tensor(at, values, (6, 3), check_invariants=True)
        else:
            w.grad, theirs.grad = rows.dense(), torch.tensor(mg.to_cpu(rows.dense()))
        ours.step()
        other.step()
    assert np.allclose(w.numpy(), theirs.detach().numpy(), rtol=1e-9, atol=1e-12)
