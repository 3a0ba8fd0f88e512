"""The calculus: every rule to second order, and what an operation says when it is used wrongly."""

import math

import numpy as np
import pytest
from cases import CASES
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import kernels, numerics, rules
from minigrad.backend import asarray
from minigrad.check import NotDifferentiable, check_grads, tensors

pytestmark = pytest.mark.engine
CORNERS = ("max", "min", "maximum", "minimum", "abs", "relu", "clip", "clip from below")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@given(data=st.data())
def test_a_rule_is_the_derivative_to_second_order(case, data):
    args = data.draw(case.args)
    try:
        case.check(args)
    except NotDifferentiable:
        assert case.name in CORNERS


def test_every_primitive_is_checked():
    checked = {case.primitive for case in CASES}
    primitives = {f for f in vars(rules).values() if hasattr(f, "op")}
    unchecked = {f.op.name for f in primitives - checked}
    assert unchecked == {"to", "astype"}  # a copy to another place or type, tested below


def test_the_gradient_of_astype_comes_back_in_the_old_type():
    x = mg.param([1.0, 2.0])
    y = x.astype("float64") * 3.0
    assert y.dtype == "float64"
    y.sum().backward()
    assert x.grad.dtype == "float32" and x.grad.tolist() == [3.0, 3.0]


def test_the_gradient_of_a_copy_to_the_cpu_comes_back():
    x = mg.param([1.0, 2.0])
    (x.to("cpu") * 3.0).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("f", [lambda x: x.max(), lambda x: -(-x).min()], ids=["max", "min"])
def test_a_maximum_among_equals_shares_its_gradient(f):
    x = mg.param([2.0, 5.0, 5.0])
    f(x).backward()
    assert x.grad.tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("f", [mg.maximum, mg.minimum], ids=lambda f: f.__name__)
def test_of_two_equal_numbers_each_has_half_of_the_gradient(f):
    x = mg.param([1.0, 2.0])
    f(x, 2.0).sum().backward()
    assert x.grad.tolist() == [0.0 if f is mg.maximum else 1.0, 0.5]


def test_at_its_corner_relu_has_the_slope_0_and_clip_lets_the_gradient_through():
    x = mg.param([-1.0, 0.0, 1.0])
    mg.relu(x).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 1.0]
    x.grad = None
    mg.clip(x, 0.0, 0.5).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_where_stops_what_is_not_finite_on_the_side_not_taken():
    x = mg.param([0.0, 4.0])
    with mg.backend.quiet():
        y = mg.where(x.data > 0, mg.log(x), 0.0)
        y.sum().backward()
    assert y.data.tolist() == [0.0, np.float32(np.log(4.0))]
    assert x.grad[1] == 0.25 and x.grad[0] != x.grad[0], (
        "0 · ∞: choose the argument of log, not its result, to avoid it"
    )


@given(tensors((3, 4)), st.sampled_from(["mean", "sum", "none"]))
def test_cross_entropy_is_what_its_parts_say(logits, reduction):
    targets = np.array([3, 0, 3])
    parts = mg.logsumexp(logits, axis=1) - mg.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    composed = {"mean": parts.mean(), "sum": parts.sum(), "none": parts}[reduction]
    fused = mg.cross_entropy(logits, targets, reduction=reduction)
    assert np.allclose(fused.numpy(), composed.numpy(), rtol=1e-13, atol=1e-13)
    seed = np.ones(composed.shape) * 1.7
    (one,), (other,) = (mg.grad(loss, [logits], seed) for loss in (fused, composed))
    assert np.allclose(mg.to_cpu(one), mg.to_cpu(other), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@given(logits=tensors((3, 4)))
def test_each_reduction_of_cross_entropy_is_right_to_second_order(logits, reduction):
    check_grads(lambda s: mg.cross_entropy(s, [3, 0, 3], reduction) ** 2, logits)


def test_softmax_and_cross_entropy_are_right_far_from_zero():
    logits = mg.param([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    loss = mg.cross_entropy(logits, [1, 0], reduction="none")
    assert np.allclose(loss.numpy(), [2e4, np.log(3.0)], rtol=1e-6)
    assert np.allclose(mg.softmax(logits).numpy(), [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    assert np.allclose(mg.log_softmax(logits).numpy(), [[0, -2e4, -1e4], [-np.log(3.0)] * 3], rtol=1e-6)


def test_cross_entropy_takes_any_axes_before_the_last():
    logits = mg.param(np.arange(24.0).reshape(2, 3, 4) ** 0.5)
    targets = np.array([[0, 1, 2], [3, 3, 0]])
    flat = mg.cross_entropy(logits.reshape(6, 4), targets.reshape(-1), reduction="none")
    assert (mg.cross_entropy(logits, targets, reduction="none").data.reshape(-1) == flat.data).all()


@given(tensors((2, 3)), tensors((2, 3)))
def test_look_up_and_scatter_are_adjoint(table, values):
    """⟨A x, g⟩ = ⟨x, Aᵀ g⟩, with A the look-up of rows 1, 0, 1."""
    ids = asarray([1, 0, 1])
    g = values.data[ids]
    looked_up = mg.take(table, ids).data
    scattered = rules.scatter_rows(g, ids=ids, shape=(2, 3))
    assert math.isclose((looked_up * g).sum(), (table.data * scattered).sum(), rel_tol=1e-9, abs_tol=1e-9)


@given(tensors((3, 1)), tensors((2, 3, 4)))
def test_broadcasting_and_summing_are_adjoint(x, g):
    x.grad = None
    mg.broadcast_to(x, (2, 3, 4)).backward(g.data)
    repeated = mg.broadcast_to(x.data, (2, 3, 4))
    assert math.isclose((repeated * g.data).sum(), (x.data * x.grad).sum(), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("f", [mg.sigmoid, mg.softplus, mg.logsigmoid, mg.tanh], ids=lambda f: f.__name__)
def test_squashing_functions_are_finite_everywhere_and_never_warn(f, dtype):
    x = asarray([-np.inf, -1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4], dtype)
    assert not np.isnan(mg.to_cpu(f(x))).any()


def test_sigmoid_keeps_its_digits_far_out():
    x = np.array([-80.0, -20.0, -1.0, 0.0, 5.0])
    for dtype, rtol in (("float64", 1e-14), ("float32", 1e-6)):
        y = mg.to_cpu(mg.sigmoid(asarray(x, dtype)))
        assert y.dtype == dtype and np.allclose(y, np.exp(x) / (1 + np.exp(x)), rtol=rtol, atol=0)


def test_softplus_keeps_its_digits_far_out():
    small, large = mg.softplus(asarray([-40.0, 1000.0])).tolist()
    assert small == pytest.approx(np.exp(-40.0), rel=1e-12) and large == 1000.0


def test_logsumexp_of_large_numbers_and_of_nothing():
    assert mg.logsumexp(asarray([1e4, 1e4])).item() == pytest.approx(1e4 + np.log(2))
    assert mg.logsumexp(asarray([-np.inf, -np.inf])).item() == -np.inf


@pytest.mark.parametrize(
    ("f", "error", "says"),
    [
        (lambda a, b: a @ b, ValueError, r"minigrad.matmul\(float32\[2, 3\], float32\[4, 5\]\): 3 columns .* 4 rows"),
        (lambda a, b: a + b, ValueError, r"minigrad.add\(float32\[2, 3\], float32\[4, 5\]\)"),
        (lambda a, b: a @ 2.0, ValueError, r"minigrad.matmul\(float32\[2, 3\], float\)"),
        (lambda a, b: a.reshape(4), ValueError, r"minigrad.reshape\(float32\[2, 3\]\)"),
        (lambda a, b: a[2], IndexError, r"minigrad.getitem\(float32\[2, 3\]\).*2"),
        (lambda a, b: mg.take(a, [0, 2]), IndexError, r"minigrad.take\(float32\[2, 3\]\): ids .* \[0, 2\), got 2"),
        (lambda a, b: mg.take(a, [-1]), IndexError, r"minigrad.take\(float32\[2, 3\]\): ids .* \[0, 2\), got -1"),
        (lambda a, b: mg.take(a, [0.5]), TypeError, r"minigrad.take\(float32\[2, 3\]\): ids must be integers"),
        (lambda a, b: a[np.array([5])], IndexError, r"minigrad.take.*ids .* \[0, 2\), got 5"),
        (lambda a, b: a[np.array([-3])], IndexError, r"minigrad.take.*ids .* \[0, 2\), got -3"),
        (lambda a, b: a.sum(2), ValueError, r"minigrad.sum\(float32\[2, 3\]\).*axis 2"),
        (lambda a, b: a**b, TypeError, r"minigrad.power.*plain number"),
        (lambda a, b: a + "1", TypeError, r"minigrad.add\(float32\[2, 3\], str\)"),
        (lambda a, b: a * a.astype("float64"), TypeError, r"minigrad.mul\(float32.*float64.*different precisions"),
        (lambda a, b: mg.exp(a, 1), TypeError, "minigrad.exp: expected 1 argument, got 2"),
        (
            lambda a, b: mg.cross_entropy(a, [0, 3]),
            IndexError,
            r"minigrad.cross_entropy: targets must lie in \[0, 3\), got 3",
        ),
        (lambda a, b: mg.cross_entropy(a, [0, -1]), IndexError, r"minigrad.cross_entropy: targets .* got -1"),
        (lambda a, b: mg.cross_entropy(a, [0.0, 1.0]), TypeError, r"minigrad.cross_entropy: targets must be integers"),
        (lambda a, b: mg.cross_entropy(a, [0]), ValueError, r"minigrad.cross_entropy: logits \(..., V\) need targets"),
        (lambda a, b: mg.cross_entropy(a, [0, 1], "avg"), ValueError, 'reduction must be "mean", "sum" or "none"'),
        (lambda a, b: mg.concat([]), TypeError, "minigrad.concat: expected a list of one or more tensors"),
        (lambda a, b: mg.concat([a, b], 2), ValueError, "minigrad.concat: axis must lie in -2 to 1, got 2"),
        (lambda a, b: mg.concat([a, b]), ValueError, r"minigrad.concat\(float32\[2, 3\], float32\[4, 5\]\)"),
        (lambda a, b: mg.stack([a, b]), ValueError, r"minigrad.stack: all must have one shape, got \[2, 3\], \[4, 5\]"),
        (lambda a, b: mg.dot(a, b), ValueError, "the last axes of both must be equally long"),
        (lambda a, b: mg.where([1, 0, 1], a, a), TypeError, "the condition must be an array of booleans, got int64"),
        (lambda a, b: mg.clip(a, 2.0, 1.0), ValueError, "low must not exceed high"),
        (lambda a, b: mg.take_along_axis(a, [0, 1]), ValueError, "ids must have 2 axes"),
        (lambda a, b: mg.take_along_axis(a, [[3], [0]]), IndexError, r"ids must lie in \[0, 3\), got 3"),
        (lambda a, b: a[:0].mean(), ValueError, r"minigrad.mean\(float32\[0, 3\]\): the mean of nothing"),
    ],
)
def test_an_error_names_the_operation_and_what_it_was_given(f, error, says):
    with pytest.raises(error, match=says):
        f(mg.param(np.ones((2, 3), "float32")), mg.param(np.ones((4, 5), "float32")))


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 2)), ((4, 2, 3), (3,))])
def test_a_products_gradients_are_those_of_its_sums_of_products(shapes):
    """Each pair of axes has a form of its own that is the fastest; all are Σ_j a_ij b_jk, differentiated."""
    a, b = (np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape) for shape in shapes)
    g = np.cos(np.arange(np.asarray(a @ b).size)).reshape((a @ b).shape)
    of_a, of_b = rules.times_b(g, a, b), rules.a_times(g, a, b)
    for x, dx in ((a, of_a), (b, of_b)):
        for place in np.ndindex(x.shape):
            unit = np.zeros_like(x)
            unit[place] = 1.0
            y = unit @ b if x is a else a @ unit
            assert np.allclose(dx[place], (g * y).sum())


def test_the_gradient_of_a_sum_is_written_out():
    x = mg.param(np.ones((2, 3)))
    (dx,) = mg.grad((x.sum(axis=0) * np.array([1.0, 2.0, 3.0])).sum(), [x])
    assert dx.tolist() == [[1.0, 2.0, 3.0]] * 2 and dx.strides == (24, 8)


def test_options_may_be_given_by_position():
    x = mg.param([[1.0, 2.0], [3.0, 4.0]])
    assert mg.sum(x, 0).data.tolist() == [4.0, 6.0]
    assert mg.sum(x, 0, True).shape == (1, 2)
    assert mg.power(x, 2).data.tolist() == [[1.0, 4.0], [9.0, 16.0]]
    with pytest.raises(TypeError, match=r"minigrad.sum: axis is given twice, by position and by name"):
        mg.sum(x, 0, axis=1)


@pytest.mark.parametrize("index", [((0, 0, 1),), ([0, 0, 1],), (np.array([0, 0, 1]),)], ids=["tuple", "list", "array"])
def test_an_index_that_names_a_place_twice_adds_up(index):
    x = mg.param(np.ones(3))
    x[index].sum().backward()
    assert x.grad.tolist() == [2.0, 1.0, 0.0]


def test_a_mask_in_main_memory_picks_from_a_tensor_wherever_it_is():
    x, mask = mg.param([[1.0, 2.0], [3.0, 4.0]]), np.array([True, False])
    assert x[mask].data.tolist() == [[1.0, 2.0]] and x[:, mask].data.tolist() == [[1.0], [3.0]]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint64"])
def test_ids_of_any_integer_type_look_up(dtype):
    x = mg.param(np.arange(300.0).reshape(300, 1))
    assert x[np.array([1, 2], dtype)].data.ravel().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_the_gradient_of_a_quotient_neither_over_nor_underflows(size):
    a, b = mg.param([size]), mg.param([size])
    (a / b).sum().backward()
    assert b.grad.item() == pytest.approx(-1 / size, rel=1e-6)


@pytest.mark.parametrize("f", [mg.sum, mg.mean, mg.max, mg.logsumexp], ids=lambda f: f.__name__)
def test_axes_may_be_numpys_integers_and_scalars_have_none(f):
    x = mg.param([[1.0, 2.0]])
    f(x, axis=np.int64(1)).sum().backward()
    assert x.grad.shape == (1, 2)
    y = mg.param(3.0)
    f(y, axis=None).backward()
    assert y.grad == 1.0


def test_the_mean_over_an_axis_that_is_there_of_nothing_is_empty():
    assert mg.mean(mg.param(np.ones((0, 3))), axis=1).shape == (0,)


def test_negative_indices_count_from_the_end():
    x = mg.param([1.0, 2.0, 3.0])
    (x[np.array([-1, 0])] * np.array([10.0, 1.0])).sum().backward()
    assert x.grad.dense().tolist() == [1.0, 0.0, 10.0]


def test_a_readers_own_primitive_is_checked_like_ours():
    cube = mg.primitive("cube", lambda a: a**3, d=[lambda g, y, a: 3.0 * g * a * a])
    check_grads(cube, np.array([0.5, -2.0]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: mg.primitive("f", lambda a: a, d=[lambda g, y, a: g], keep="z"), "keep must be"),
        (lambda: mg.primitive("f", lambda a: a), "either d="),
        (lambda: mg.primitive("f", lambda a, b: a, d=[lambda g, y, a, b: g]), "2 arguments need 2 rules, got 1"),
    ],
)
def test_a_primitive_without_sensible_rules_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_rule_of_the_wrong_shape_is_caught():
    wrong = mg.primitive("wrong", lambda a: a.sum(), d=[lambda g, y, a: mg.broadcast_to(g, (5, 2))])
    with pytest.raises(ValueError, match=r"a rule of wrong gave a gradient of shape \[5, 2\] for an .* shape \[3\]"):
        wrong(mg.param([1.0, 2.0, 3.0])).backward()


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 3.0, 50.0, 1000.0]), columns=st.sampled_from([1, 7, 500]))
def test_the_kernel_of_cross_entropy_is_its_array_code(dtype, seed, scale, columns):
    rows = 4800 // columns + 1
    logits = mg.Key(seed).normal((rows, columns), dtype) * np.dtype(dtype).type(scale)
    targets = mg.Key(seed).fold(1).integers(0, columns, rows)
    assert columns < numerics.LEAST <= logits.size
    losses, gradient = numerics.cross_entropy(logits, targets=targets)
    few = [numerics.cross_entropy(logits[i : i + 1], targets=targets[i : i + 1]) for i in range(rows)]
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    assert np.allclose(losses, np.concatenate([loss for loss, _ in few]), rtol=tolerance, atol=tolerance)
    assert np.allclose(gradient, np.concatenate([g for _, g in few]), rtol=tolerance, atol=tolerance)


@pytest.mark.cpu
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 3.0, 50.0, 1000.0]), columns=st.sampled_from([1, 7, 64]))
def test_the_kernel_of_softmax_and_logsumexp_is_their_array_code(seed, scale, columns):
    rows = 600 // columns + 1
    a = mg.Key(seed).normal((rows, columns)) * np.float32(scale)
    assert columns < numerics.LEAST <= a.size
    few = range(rows)
    for f in (mg.softmax, mg.logsumexp):
        by_rows = np.stack([f(a[i]) for i in few])
        assert f(a).dtype == "float32" and np.allclose(f(a), by_rows, rtol=2e-6, atol=1e-6)
        assert np.array_equal(f(a.reshape(1, rows, columns), axis=2), f(a)[None])
    assert mg.logsumexp(a, axis=1, keepdims=True).shape == (rows, 1)


@pytest.mark.cpu
@pytest.mark.parametrize("dtype, columns", [("float32", 3), ("float32", 300), ("float64", 300)])
def test_logsumexp_and_softmax_at_once_are_those_of_their_own(dtype, columns):
    a = mg.Key(0).normal((4, columns), dtype)
    for argument in (a, mg.param(a)):
        log_sum, p = rules.logsumexp_and_softmax(argument)
        assert (mg.to_cpu(rules.array_of(log_sum)) == mg.to_cpu(mg.logsumexp(a, axis=1))).all()
        assert (mg.to_cpu(rules.array_of(p)) == mg.to_cpu(mg.softmax(a, axis=1))).all()


def test_the_exponential_of_the_kernel_of_softmax_is_off_by_no_more_than_said_and_then_zero():
    x = np.append(0.0, -np.linspace(0, 80, 20_001)).astype("float32")[None]
    p = mg.softmax(x)[0] / np.float64(mg.softmax(x)[0, 0])
    assert (abs(p / np.exp(x[0].astype("float64")) - 1) <= (3 + 1.25 * abs(x[0])) * 2.0**-24).all()
    masked = mg.softmax(np.array([[0.0] * 600 + [-89.0, -1e4, -1e30]], "float32"))[0]
    assert not masked[600:].any() and np.allclose(masked[:600], 1 / 600)


@pytest.mark.cpu
@pytest.mark.parametrize("value", [-np.inf, np.nan, np.inf])
def test_what_is_not_finite_is_left_to_the_array_code_of_softmax_and_logsumexp(value):
    a = np.zeros((9, 100), "float32")
    a[4, 7] = value
    for f in (mg.softmax, mg.logsumexp):
        with np.errstate(invalid="ignore"):
            expected = f(a[4])
            assert np.array_equal(f(a)[4], expected, equal_nan=True) and np.allclose(f(a)[5], f(a[5]))


def test_infinite_scores_are_left_to_the_array_code():
    logits = asarray([[0.0] + [-np.inf] * 4999], "float32")
    losses, gradient = numerics.cross_entropy(logits, targets=asarray([0]))
    assert losses.tolist() == [0.0] and not gradient.any()


def test_the_exponential_of_the_kernel_of_cross_entropy_is_off_by_no_more_than_said():
    """In float32: gradients of a row beside the gradient of its maximum, where x = 0 and e^x = 1."""
    x = np.append(-np.linspace(0, 86, 20_001), -60.0).astype("float32")[None]
    losses, gradients = np.empty(1, "float32"), np.empty_like(x)
    kernels.cross_entropy(x, np.array([20_001]), losses, gradients)
    x, found = x[0, :-1].astype("float64"), gradients[0, :-1] / np.float64(gradients[0, 0])
    assert (abs(found / np.exp(x) - 1) <= (3 + 1.25 * abs(x)) * 2.0**-24).all()
