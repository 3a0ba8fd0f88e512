"""The checker itself: it accepts what is right, and catches what is wrong, at either order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.check import (
    GradientError,
    NotDifferentiable,
    VocabBatch,
    broadcastable,
    check_grads,
    indices,
    tensors,
    vocab_batches,
)

pytestmark = pytest.mark.engine


def square(d):
    """a², with a rule of your choice."""
    return mg.primitive("square", lambda a: a * a, d=[d])


def test_a_right_rule_passes():
    check_grads(square(lambda g, y, a: 2.0 * g * a), np.array([0.3, -2.0]))


def test_a_factor_left_out_is_caught():
    with pytest.raises(GradientError, match=r"derivative 1 by argument 0 \(float64\[2\]\) is wrong.*the complex step"):
        check_grads(square(lambda g, y, a: g * a), np.array([0.3, -2.0]))


def test_one_wrong_component_of_many_is_caught():
    nearly_one = mg.backend.asarray(np.r_[np.ones(99), 1.0001])
    wrong = square(lambda g, y, a: 2.0 * g * a * nearly_one)
    with pytest.raises(GradientError):
        check_grads(wrong, np.linspace(1, 2, 100), order=1)


def test_a_rule_that_is_right_but_cannot_be_differentiated_is_caught_at_the_second_order():
    cut = square(lambda g, y, a: 2.0 * g * (a.data if isinstance(a, mg.Tensor) else a))
    check_grads(cut, np.array([0.3, -2.0]), order=1)
    with pytest.raises(GradientError, match=r"derivative 2"):
        check_grads(cut, np.array([0.3, -2.0]), order=2)


def test_a_rule_that_computes_something_else_on_tensors_is_caught():
    """Where a joint rule has two branches, for arrays and for tensors, each must be the derivative."""

    def rule(g, y, residual, x):
        return [(0.5 if residual is None else 1.0) * g * 3.0 * x * x]

    cube = mg.primitive("cube", lambda x: (x * x * x, ()), joint=rule)
    check_grads(cube, np.array([1.0, 2.0]), order=1)
    with pytest.raises(GradientError, match=r"with create_graph=True: the rule does not compute the same on tensors"):
        check_grads(cube, np.array([1.0, 2.0]))


def test_the_error_names_the_argument():
    wrong = mg.primitive("product", lambda a, b: a * b, d=[lambda g, y, a, b: g * b, lambda g, y, a, b: g * b])
    with pytest.raises(GradientError, match=r"by argument 1 \(float64\[1\]\)"):
        check_grads(wrong, np.array([2.0]), np.array([3.0]))


def test_what_is_not_analytic_is_checked_by_differences():
    modulus = mg.primitive("abs", lambda a: abs(a), d=[lambda g, y, a: g * mg.rules.sign(a)])
    check_grads(modulus, np.array([0.5, -2.0]), order=1)
    wrong = mg.primitive("abs", lambda a: abs(a), d=[lambda g, y, a: g])
    with pytest.raises(GradientError, match=r"the central difference"):
        check_grads(wrong, np.array([0.5, -2.0]), order=1)


@pytest.mark.parametrize("x", [0.0, 1e-8, -1e-8])
def test_a_corner_is_not_called_a_wrong_gradient(x):
    relu = mg.primitive("relu", lambda a: a * (a.real > 0), d=[lambda g, y, a: g * (a.real > 0)])
    with pytest.raises(NotDifferentiable, match=r"the slope is .* on one side and .* on the other"):
        check_grads(relu, np.array([x]), order=1)


def test_a_jump_is_not_called_a_wrong_gradient():
    step = mg.primitive("step", lambda a: (a.real > 0) * 1.0, d=[lambda g, y, a: g * 0.0])
    with pytest.raises(NotDifferentiable):
        check_grads(step, np.array([0.0]), order=1)


def test_a_steep_curve_is_no_corner():
    check_grads(lambda x: mg.tanh(x * 30.0), np.array([0.01]))


def test_a_very_steep_curve_is_no_corner_either():
    check_grads(lambda x: mg.sigmoid(x * 1e4), np.full(3, 1e-5), order=1)


def test_a_function_that_is_not_finite_says_so():
    with pytest.raises(NotDifferentiable, match="not finite here"), np.errstate(all="ignore"):
        check_grads(lambda x: mg.log(x), np.array([0.0, 1.0]))


def test_linear_and_constant_functions_have_a_second_derivative_of_zero():
    check_grads(lambda x: x * 3.0, np.array([1.0, 2.0]))
    check_grads(lambda x: mg.tensor(np.ones(2)), np.array([1.0, 2.0]))


def test_integer_arguments_are_handed_on():
    check_grads(lambda table, ids: mg.take(table, ids) ** 2, np.ones((3, 2)), np.array([0, 2, 2]))


def test_float32_arguments_are_checked_in_float64():
    check_grads(mg.exp, np.array([0.5], "float32"))


def test_a_third_order_is_checked_too():
    check_grads(lambda x: mg.exp(x) * x**3, np.array([0.5, -1.0]), order=3)


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ValueError, match=r"none of the arguments is a floating-point"):
        check_grads(lambda i: i, np.array([1, 2]))
    with pytest.raises(ValueError, match=r"order must be 1 or more"):
        check_grads(mg.exp, 1.0, order=0)
    with pytest.raises(TypeError, match=r"f must give a Tensor, got ndarray"):
        check_grads(lambda x: x.data, 1.0)


@given(tensors(min_dims=1, max_dims=2, min_value=-1, max_value=1))
def test_tensors_are_leaves_in_range(x):
    assert x.requires_grad and x.dtype == "float64" and 1 <= x.ndim <= 2 and abs(x.data).max() <= 1


@given(tensors((3,), unique=True))
def test_unique_tensors_have_no_two_values_close_together(x):
    assert np.diff(np.sort(x.numpy())).min() > 0.0059  # of [−3, 3]


@given(broadcastable(3))
def test_broadcastable_tensors_broadcast(xs):
    assert (xs[0] + xs[1] + xs[2]).shape == np.broadcast_shapes(*(x.shape for x in xs))


@given(st.data())
def test_indices_index(data):
    shape = data.draw(st.sampled_from([(3,), (2, 3), (1, 2, 3), ()]))
    np.zeros(shape)[data.draw(indices(shape))]


@given(vocab_batches())
def test_vocab_batches_fit_together(batch):
    assert isinstance(batch, VocabBatch)
    v, d = batch.weight.shape
    assert batch.bias.shape == (v,) and batch.hidden.shape == (len(batch.targets), d)
    assert 0 <= batch.targets.min() and batch.targets.max() < v
