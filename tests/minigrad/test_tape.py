"""The walk back: order, memory, repetition, and what is refused."""

import gc
import weakref
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import tape
from minigrad.check import broadcastable, tensors

pytestmark = pytest.mark.engine


def test_a_node_is_left_only_when_everything_has_arrived():
    """b = a + a; c = b + b: why a topological order is needed. Leaving b at the first arrival would give 2 or 3."""
    a = mg.param(1.0)
    b = a + a
    c = b + b
    c.backward()
    assert a.grad == 4.0


def test_a_diamond_adds_both_ways():
    x = mg.param(3.0)
    y = x * x
    (y * x + y).backward()  # x³ + x²
    assert x.grad == 3 * 9 + 2 * 3


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_of_several_nodes_that_wait_the_youngest_is_left_first(order):
    """All three wait at once, come in any order, and each still has something to tell the one before it."""
    x = mg.param([2.0])
    a = x * x
    b = a * a
    c = b * b
    mg.concat([[a, b, c][i] for i in order]).sum().backward()
    assert x.grad == 2 * 2 + 4 * 2**3 + 8 * 2**7


def test_a_third_arrival_does_not_write_into_somebody_elses_array():
    x = mg.param([1.0, 2.0])
    seed = mg.backend.asarray([1.0, 1.0], "float32")
    (x + x + x + x).backward(seed)
    assert x.grad.tolist() == [4.0, 4.0]
    assert seed.tolist() == [1.0, 1.0]


def test_two_leaves_never_share_one_gradient_array_that_is_written_later():
    a, b = mg.param([1.0]), mg.param([1.0])
    for _ in range(2):
        (a + b).backward(np.array([1.0], "float32"))
    (a * 1.0).backward(np.array([5.0], "float32"))
    assert a.grad.tolist() == [7.0] and b.grad.tolist() == [2.0]


@pytest.mark.parametrize(
    "f", [lambda a, b: a + b, lambda a, b: (a + b).reshape(2, 1).T, lambda a, b: a.sum() + b.sum()]
)
def test_a_gradient_is_its_holders_alone_and_may_be_scaled_in_place(f):
    a, b = mg.param([1.0, 2.0]), mg.param([1.0, 2.0])
    y = f(a, b)
    given = mg.backend.xp().ones_like(y.data)
    y.backward(given)
    a.grad *= 10.0
    assert b.grad.tolist() == [1.0, 1.0] and (given == 1.0).all()


def test_rows_are_their_holders_alone_too():
    v, w, b = mg.param(np.ones((3, 2))), mg.param(np.ones((3, 2))), mg.param(np.ones((2, 2)))
    ids = np.array([0, 1])
    ((mg.take(v, ids) + mg.take(w, ids) + b) * 3.0).sum().backward()
    b.grad *= 100.0
    v.grad.values[...] = 0.0
    assert (w.grad.values == 3.0).all()


def test_a_batch_may_be_refilled_before_the_step():
    w, ids = mg.param(np.zeros((3, 1))), np.array([0, 1])
    mg.take(w, ids).sum().backward()
    ids[:] = 2
    mg.optim.SGD([w], lr=1.0).step()
    assert w.data.ravel().tolist() == [-1.0, -1.0, 0.0]


def test_what_grad_gives_may_be_scaled_in_place():
    a, b, seed = mg.param([1.0, 1.0]), mg.param([1.0, 1.0]), mg.backend.asarray(np.ones(2, "float32"))
    da, db = mg.grad((a + b).sum(), (x for x in [a, b]))
    da *= 5.0
    assert db.tolist() == [1.0, 1.0]
    (da,) = mg.grad(a + 0.0, [a], seed)
    da *= 5.0
    assert seed.tolist() == [1.0, 1.0]


def test_backward_can_create_a_graph_that_is_added_to():
    a, table = mg.param([1.0, 2.0]), mg.param(np.ones((3, 1)))
    (a + a * a).sum().backward(create_graph=True)
    a.grad.sum().backward()
    assert isinstance(a.grad, mg.Tensor)
    mg.take(table, [0, 1]).sum().backward()
    (mg.take(table, [0]) ** 2).sum().backward(create_graph=True)
    assert table.grad.data.ravel().tolist() == [3.0, 1.0, 0.0]


def test_an_error_inside_a_rule_names_the_operation():
    broken = mg.primitive("broken", lambda a: a * 1.0, d=[lambda g, y, a: None])
    with pytest.raises(AttributeError) as error:
        broken(mg.param([1.0])).sum().backward()
    assert error.value.__notes__ == ["in the rule of minigrad.broken"]


def test_a_joint_rule_without_a_residual_is_refused():
    forgetful = mg.primitive("forgetful", lambda a: a * 1.0, joint=lambda g, y, r, a: [g])
    with pytest.raises(TypeError, match=r"minigrad.forgetful\(float32\[2, 2\]\).*must return \(y, residual\)"):
        forgetful(mg.param(np.ones((2, 2), "float32")))


def test_a_chain_of_fifty_thousand_operations_goes_back_without_recursion():
    x = mg.param(1.0)
    y = x
    for _ in range(50_000):
        y = y + x
    y.backward()
    assert x.grad == 50_001.0


def test_a_graph_of_fifty_thousand_operations_is_dropped_without_recursion():
    y = x = mg.param(1.0)
    for _ in range(50_000):
        y = y + x
    del y


def test_a_graph_dies_with_its_loss_without_the_collector():
    x = mg.param(np.ones(3))
    gc.collect()
    gc.disable()
    try:
        hidden = mg.tanh(x * 2.0)
        watched = weakref.ref(hidden)
        loss = (hidden * hidden).sum()
        del hidden
        assert watched() is None, "nobody needs the tensor: its node kept the array, not the tensor"
        kept = weakref.ref(loss._node.parents[0].saved[3])  # the array tanh gave, kept for the derivative of h²
        assert kept() is not None
        del loss
        assert kept() is None
    finally:
        gc.enable()


def test_the_walk_frees_the_arrays_it_has_used():
    x = mg.param(np.ones(3))
    loss = (mg.exp(x) + 2.0).sum()
    kept = weakref.ref(loss._node.parents[0].parents[0].saved[0])
    loss.backward()
    assert kept() is None


def test_what_no_rule_needs_is_not_kept():
    x = mg.param(np.ones(3))
    middle = x + 1.0  # an array that neither + nor exp needs to go back
    array = weakref.ref(middle.data)
    y = mg.exp(middle + 0.0)
    del middle
    assert array() is None
    y.sum().backward()
    assert np.allclose(mg.to_cpu(x.grad), np.exp(2.0))


def test_a_second_walk_is_refused():
    x = mg.param(2.0)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match=r"minigrad.backward: the graph behind mul was walked already.*retain_graph"):
        y.backward()


def test_a_leaf_dies_with_its_last_reference():
    x = mg.tensor([1.0, 2.0])
    array = weakref.ref(x.data)
    gc.disable()
    try:
        del x
        assert array() is None
    finally:
        gc.enable()


def test_a_second_walk_after_retain_graph_adds_the_same_again():
    x = mg.param(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad == 8.0


def test_a_walk_that_fails_changes_no_gradient():
    x, w = mg.param(2.0), mg.param(1.0)
    trunk = x * x
    (trunk * 1.0).backward()
    before = x.grad
    with pytest.raises(RuntimeError, match=r"walked already"):
        (trunk + w).backward()
    assert x.grad == before and w.grad is None


def test_several_losses_add_up_in_the_leaves():
    x = mg.param(2.0)
    (x * 3.0).backward()
    (x * 4.0).backward()
    assert x.grad == 7.0


def test_interior_gradients_are_not_kept_but_given_when_asked_for():
    x = mg.param(2.0)
    h = x * 3.0
    y = h * h
    (dh,) = mg.grad(y, [h], retain_graph=True)
    assert dh == 12.0
    y.backward()
    assert h.grad is None and x.grad == 36.0


def test_grad_touches_no_grad_and_answers_none_for_the_unrelated():
    x, z = mg.param(2.0), mg.param(1.0)
    dx, dz = mg.grad(x * x, [x, z])
    assert dx == 4.0 and dz is None and x.grad is None


def test_a_derivative_of_a_derivative():
    x = mg.param(2.0)
    (first,) = mg.grad(x**3, [x], create_graph=True)
    (second,) = mg.grad(first, [x], create_graph=True)
    (third,) = mg.grad(second, [x])
    assert (first.item(), second.item(), third) == (12.0, 12.0, 6.0)


def test_a_parameter_updated_between_forward_and_backward_is_caught():
    w = mg.param([1.0, 2.0])
    loss = (w * w).sum()
    w.data -= 0.1
    with pytest.raises(RuntimeError, match=r"float32\[2\] was updated after mul had used it"):
        loss.backward()


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w.T,
        lambda w: w.reshape(3, 2),
        lambda w: w[0:1],
        lambda w: w.T.T,
        lambda w: mg.broadcast_to(w, (4, 2, 3)),
    ],
    ids=["transpose", "reshape", "slice", "twice", "broadcast"],
)
def test_an_update_is_caught_behind_a_view_as_well(view):
    w, x = mg.param(np.ones((2, 3))), mg.param(2.0, dtype="float64")
    loss = (view(w) * x).sum()
    w.data *= 100.0
    with pytest.raises(RuntimeError, match="was updated after mul had used it"):
        loss.backward()


def test_an_update_is_caught_behind_detach_as_well():
    w, x = mg.param([1.0, 2.0]), mg.param([1.0, 1.0])
    loss = (w.detach() * x).sum()
    w.data *= 100.0
    with pytest.raises(RuntimeError, match="was updated"):
        loss.backward()


def test_an_optimiser_step_between_forward_and_backward_is_caught():
    w = mg.param([1.0, 2.0])
    optimiser = mg.optim.SGD([w], lr=0.1)
    first, second = (w * w).sum(), (w * w).sum()
    first.backward()
    optimiser.step()
    with pytest.raises(RuntimeError, match=r"was updated"):
        second.backward()


def test_an_update_of_what_was_copied_out_is_fine():
    """Columns picked by an array are a copy, though NumPy shows them as a view (of an array nobody holds)."""
    w = mg.param(np.ones((2, 3)))
    picked = w[:, [0, 2]]
    loss = (picked * picked).sum()
    w.data *= 100.0
    loss.backward()
    assert w.grad.tolist() == [[2.0, 0.0, 2.0]] * 2


def test_an_update_of_a_value_that_no_rule_needs_is_fine():
    w = mg.param([1.0, 2.0])
    loss = (w + 1.0).sum()
    w.data -= 0.1
    loss.backward()
    assert w.grad.tolist() == [1.0, 1.0]


def test_under_no_grad_no_nodes_are_made():
    x = mg.param(2.0)
    with mg.no_grad():
        y = x * x
    assert not y.requires_grad
    with pytest.raises(RuntimeError, match=r"nothing to differentiate"):
        y.backward()


def test_no_grad_ends_with_its_block_even_when_it_raises():
    with pytest.raises(KeyError), mg.no_grad():
        raise KeyError
    assert (mg.param(2.0) * 1.0).requires_grad


def test_the_walk_starts_from_a_scalar_or_from_a_given_gradient():
    x = mg.param([1.0, 2.0])
    with pytest.raises(ValueError, match=r"expected a scalar to start from, got float32\[2\]"):
        (x * 2.0).backward()
    with pytest.raises(ValueError, match=r"gradient must have shape \[2\], got \[3\]"):
        (x * 2.0).backward([1.0, 1.0, 1.0])
    (x * 2.0).backward([1.0, 10.0])
    assert x.grad.tolist() == [2.0, 20.0]


def test_a_leaf_is_its_own_derivative():
    x = mg.param(3.0)
    x.backward()
    assert x.grad == 1.0


def test_only_arguments_that_need_a_gradient_have_their_rule_called():
    called = []

    def rule(name):
        return lambda g, y, a, b: called.append(name) or g

    f = mg.primitive("f", lambda a, b: a + b, d=[rule("a"), rule("b")])
    f(mg.param(1.0), mg.tensor(2.0)).backward()
    assert called == ["a"]


def test_a_joint_rule_gets_what_the_forward_function_left_for_it():
    def forward(a, b):
        return a * b, (a, b)

    product = mg.primitive("product", forward, joint=lambda g, y, ab, a, b: (g * ab[1], g * ab[0]), keep="", once=True)
    a, b = mg.param(2.0), mg.param(5.0)
    product(a, b).backward()
    assert (a.grad, b.grad) == (5.0, 2.0)
    assert product(2.0, 5.0) == 10.0
    with pytest.raises(RuntimeError, match=r"product has a fused rule.*composed form"):
        mg.grad(product(a, b), [a], create_graph=True)


def test_grad_wants_a_list_of_tensors_that_need_gradients():
    x = mg.param(1.0)
    with pytest.raises(TypeError, match=r"write \[x\]"):
        mg.grad(x * x, x)
    with pytest.raises(ValueError, match=r"every x must be a tensor that requires a gradient"):
        mg.grad(x * x, [mg.tensor(1.0)])


# ---- the fast way is the general way ------------------------------------------------------------------------------


def laid_down(function, args):
    """What an operation leaves behind: its value and all that its node holds."""
    y = function(*args)
    node = y._node
    y_kept, residual, versions, *kept = node.saved
    arrays = [None if a is None else mg.backend.asarray(a).tolist() for a in (y.data, y_kept, *kept)]
    leaves = [(id(leaf), version) for leaf, version in versions]
    return arrays, residual, leaves, [id(p) for p in node.parents], node.params, node.shape, node.dtype, y._leaf


@given(broadcastable(2), st.sampled_from(["add", "sub", "mul", "div"]), st.sampled_from(["tensors", "left", "right"]))
def test_the_fast_way_of_two_arguments_lays_down_what_the_general_way_does(two, name, which):
    function = getattr(mg, name)
    a, b = two
    args = {"tensors": (a, b + 4.0), "left": (a, 3.5), "right": (2, b + 4.0)}[which]
    general = tape.general(function.op, 2, [])
    assert laid_down(function, args) == laid_down(general, args)


@given(tensors(min_value=0.5), st.sampled_from(["neg", "exp", "log", "tanh", "softplus"]), st.booleans())
def test_the_fast_way_of_one_argument_lays_down_what_the_general_way_does(x, name, of_a_leaf):
    function, x = getattr(mg, name), x if of_a_leaf else x * 1.5
    assert laid_down(function, (x,)) == laid_down(tape.general(function.op, 1, []), (x,))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sum", {"axis": 0}),
        ("max", {}),
        ("softmax", {"axis": 0}),
        ("reshape", {"shape": (6,)}),
        ("transpose", {"axes": None}),
        ("clip", {"low": 0.0}),
    ],
)
@pytest.mark.parametrize("of_a_leaf", [True, False])
def test_the_fast_way_with_options_lays_down_what_the_general_way_does(name, options, of_a_leaf):
    function, x = getattr(mg, name), mg.param(np.linspace(-1.0, 1.0, 6).reshape(2, 3))
    x = x if of_a_leaf else x * 1.5
    general = tape.general(function.op, 1, list(options))
    assert laid_down(lambda x: function(x, **options), (x,)) == laid_down(lambda x: general(x, **options), (x,))


def test_the_partner_of_a_constant_is_not_kept_and_may_be_updated():
    x = mg.param([1.0, 2.0])
    y = (x * 3.0).sum()
    x.data = x.data + 1.0
    y.backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_numbers_are_taken_as_they_are_where_an_array_would_differ():
    x = mg.param(np.array([1.0, -2.0], "float32"))
    assert np.signbit((x * -0.0).numpy()).tolist() == [True, False]
    assert (x + 1e10).data.dtype == "float32" and (x + 1e10).data[0] == np.float32(1e10)
    assert mg.add(2.0, 3.0) == 5.0 and mg.mul(np.ones(2), 3.0).tolist() == [3.0, 3.0]
