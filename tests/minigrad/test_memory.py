"""What holds memory: checkpoints and their √n, what a trace counts, who holds what."""

import gc
import itertools
import math
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import memory, tape
from minigrad.memory import best_segments, checkpoint, checkpoint_sequential

pytestmark = pytest.mark.memory

SIZE = (4, 8)  # of the array that each layer of a chain keeps
ARRAY = 4 * 4 * 8  # its bytes


def chain(n):
    """n layers that keep an array of SIZE each, their result; and what goes in, a constant that is kept as well."""
    weights = [mg.param(mg.Key(i).normal((8, 8)) * 0.3) for i in range(n)]
    return [layer(w) for w in weights], weights, mg.tensor(mg.Key(n).normal(SIZE))


def layer(w):
    return lambda h: mg.tanh(mg.linear(h, w, 0.0))


def gradients(leaves):
    found = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    return [None if g is None else mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in found]


def equal(first, second):
    """To the last bit, and None where the other is None."""
    return all((a is None and b is None) or np.array_equal(a, b) for a, b in zip(first, second, strict=True))


class Operations:
    """Counts the operations that are done, by name."""

    def __init__(self):
        self.done = []

    def __call__(self, op, args, y, node):
        self.done.append(op.name)

    def gradients(self, node, gradients):
        pass


# ---- the formulas -------------------------------------------------------------------------------------------------


def kept(n, k):
    """(2), for k that need not divide n."""
    return k - 1 + n // k


@pytest.mark.parametrize("n, k", [(1, 1), (12, 1), (12, 3), (12, 4), (12, 12), (13, 4), (14, 5)])
def test_equation_2_kept_is_k_minus_one_arrays_between_the_segments_and_n_over_k_inside(n, k):
    layers, _, x = chain(n)
    with memory.trace() as seen:
        loss = checkpoint_sequential(layers, x, k).sum()
        assert mg.graph(loss).bytes_kept == (kept(n, k) + 1) * ARRAY  # one is what goes in
        loss.backward()
    assert seen.peak_kept == (kept(n, k) + 1) * ARRAY  # nor is it more on the way back


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 64, *range(90, 110), 1000, 2560])
def test_equation_3_the_root_of_n_is_the_best_number_of_segments_of_all(n):
    assert kept(n, best_segments(n)) == min(kept(n, k) for k in range(1, n + 1))


def test_equation_3_where_n_is_a_square_two_roots_less_one_are_kept():
    assert [kept(r * r, best_segments(r * r)) for r in range(1, 50)] == [2 * r - 1 for r in range(1, 50)]


@pytest.mark.parametrize("n, k", [(12, 1), (12, 3), (12, 12)])
def test_equation_4_all_segments_but_the_last_run_forward_twice(n, k):
    layers, _, x = chain(n)
    with tape.watching(watch := Operations()):
        checkpoint_sequential(layers, x, k).sum().backward()
    assert watch.done.count("tanh") == 2 * n - n // k


def test_over_64_layers_at_most_three_tenths_are_kept():
    layers, weights, x = chain(64)
    with memory.trace() as plain:
        checkpoint_sequential(layers, x, 1).sum().backward()
    without = gradients(weights)
    with memory.trace() as seen:
        checkpoint_sequential(layers, x).sum().backward()
    assert equal(without, gradients(weights))
    assert (plain.peak_kept, seen.peak_kept) == (65 * ARRAY, 16 * ARRAY)
    assert seen.peak_kept <= 0.3 * plain.peak_kept


# ---- the same numbers, to the last bit ----------------------------------------------------------------------------


def net(kinds, tied):
    """Steps of the given kinds, and the leaves they close over: three weights that come round again and again."""
    weights = [mg.param(mg.Key(i).normal((3, 3))) for i in range(3)]
    table, scale = mg.param(mg.Key(3).normal((5, 3))), mg.param(mg.Key(4).normal(3))
    ids = [0, 4, 4, 1]

    def step(i, kind):
        w = weights[0 if tied else i % 3]
        return {
            "linear": lambda h: mg.tanh(mg.linear(h, w, 0.0)),
            "residual": lambda h: h + mg.sigmoid(h @ w) * h,
            "noise": lambda h: h * mg.tensor(mg.Key(9).fold(i).uniform(h.shape)),
            "look-up": lambda h: h + mg.take(table, ids),
            "scaled twice": lambda h: h * scale + scale,
            "nested": checkpoint(lambda h: mg.exp(-(h @ w) * (h @ w)) + scale),
            "nothing": lambda h: h,
            "view": lambda h: h.T.reshape(h.shape),
        }[kind]

    return [step(i, kind) for i, kind in enumerate(kinds)], [*weights, table, scale]


KINDS = ["linear", "residual", "noise", "look-up", "scaled twice", "nested", "nothing", "view"]
nets = st.lists(st.sampled_from(KINDS), min_size=1, max_size=8)


@given(nets, st.integers(1, 8), st.booleans(), st.booleans())
def test_gradients_with_and_without_checkpoints_are_equal_to_the_last_bit(kinds, k, tied, of_data):
    (steps, leaves), x = net(kinds, tied), mg.tensor(mg.Key(5).normal((4, 3)), requires_grad=not of_data)
    found = []
    for segments in (1, min(k, len(steps))):
        y = checkpoint_sequential(steps, x, segments)
        loss = (y * y + x).sum() + (leaves[0] * leaves[-1]).sum()
        loss.backward()
        found.append([mg.to_cpu(loss.data), *gradients([x, *leaves])])
    assert equal(*found)


@given(nets, st.booleans())
def test_derivatives_of_derivatives_are_equal_but_for_rounding(kinds, tied):
    (steps, leaves), x = net(kinds, tied), mg.param(mg.Key(5).normal((4, 3)))

    def through(h):
        for step in steps:
            h = step(h)
        return h

    found = []
    for f in (through, checkpoint(through)):
        (first,) = mg.grad((f(x) ** 2).sum(), [x], create_graph=True)
        (first * first + x).sum().backward()
        found.append([mg.to_cpu(first.data), *gradients([x, *leaves])])
    assert np.array_equal(found[0][0], found[1][0])
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or np.allclose(one, other, rtol=1e-3, atol=1e-4 * abs(one).max())


def test_a_checkpoint_passes_the_check_of_gradients_to_second_order():
    mg.check_grads(
        checkpoint(lambda x, w: mg.tanh(x @ w) * x), np.ones((2, 2)) * 0.3, np.array([[0.5, -1.0], [2.0, 1.0]])
    )


def test_one_weight_in_every_segment_collects_its_gradients_in_the_order_of_a_walk_without_checkpoints():
    """An RNN. Summing segment by segment, and then the sums, would round otherwise."""
    w, x = mg.param(mg.Key(1).normal((8, 8))), mg.tensor(mg.Key(2).normal(SIZE))
    steps = [layer(w)] * 12
    assert equal(*(once(w, lambda k=k: checkpoint_sequential(steps, x, k)) for k in (1, 4)))


def once(leaf, f):
    f().sum().backward()
    return gradients([leaf])


def test_noise_from_a_key_is_the_same_when_it_is_drawn_again():
    w, x, key = mg.param(np.ones(1000, "float32")), mg.tensor(np.ones(1000, "float32")), mg.Key(7)

    def dropout(x):
        return mg.exp(x * w) * mg.tensor((key.uniform(1000) < 0.5) * 2.0, dtype="float32")

    without, again = once(w, lambda: dropout(x)), once(w, lambda: checkpoint(dropout)(x))
    assert equal(without, again) and 300 < np.count_nonzero(again[0]) < 700


# ---- what f may use -----------------------------------------------------------------------------------------------


def test_parameters_that_f_closes_over_get_their_gradients_though_no_argument_needs_one():
    model = mg.nn.Sequential(mg.nn.Linear(3, 4, key=mg.Key(0)), mg.tanh, mg.nn.Linear(4, 2, key=mg.Key(1)))
    x = mg.tensor(mg.Key(2).normal((5, 3)))
    checkpoint(model)(x).sum().backward()
    again = gradients(model.parameters())
    model(x).sum().backward()
    assert equal(again, gradients(model.parameters())) and len(again) == 4


def test_results_of_operations_may_be_closed_over_and_arguments_come_in_any_form():
    w, x = mg.param([0.5, 2.0]), mg.param([1.0, -1.0])

    def loss(wrapped):
        h = mg.exp(w)
        f = wrapped(lambda pair, *, scale, name: pair[0] * h + scale["by"] * pair[1] * h)
        return (f([x, h], scale={"by": 3.0}, name="any") * h).sum()

    loss(lambda f: f).backward()
    without = gradients([w, x])
    loss(checkpoint).backward()
    assert equal(without, gradients([w, x]))


def test_what_f_returns_may_be_what_it_was_given():
    w, x = mg.param([1.0, 2.0]), mg.param([3.0, 4.0])
    assert checkpoint(lambda x: x)(x) is x
    assert checkpoint(lambda x: w)(x) is w
    (checkpoint(lambda x: w.T)(x) * x).sum().backward()
    assert w.grad.tolist() == [3.0, 4.0] and x.grad.tolist() == [1.0, 2.0]


def test_grad_of_a_checkpoint_touches_no_grad_and_knows_interior_tensors():
    w, x = mg.param([1.0, 2.0]), mg.param([3.0, 4.0])
    h = x * x
    y = checkpoint(lambda h: h * w)(h)
    dx, dh, dw, dy = mg.grad((y * y).sum(), [x, h, w, y])
    assert dy.tolist() == [18.0, 64.0] and dh.tolist() == [18.0, 128.0]
    assert dw.tolist() == [162.0, 1024.0] and dx.tolist() == [108.0, 1024.0]
    assert x.grad is None and w.grad is None and y.grad is None


def test_under_no_grad_and_of_constants_a_checkpoint_is_the_function():
    x = mg.tensor([1.0, 2.0])
    assert not checkpoint(mg.exp)(x).requires_grad
    with mg.no_grad():
        y = checkpoint(mg.exp)(mg.param([1.0]))
    assert not y.requires_grad and y.item() == pytest.approx(math.e)
    assert not checkpoint(lambda w: w.astype("int64"))(mg.param([1.0])).requires_grad


def test_a_checkpoint_within_a_checkpoint_keeps_less_still():
    layers, weights, x = chain(27)
    whole = layers[:9], layers[9:18], layers[18:]

    def three(nine):
        return lambda h: checkpoint_sequential(nine, h, 3)

    with memory.trace() as seen:
        checkpoint_sequential(list(map(three, whole)), x, 3).sum().backward()
    nested = gradients(weights)
    checkpoint_sequential(layers, x, 1).sum().backward()
    assert equal(nested, gradients(weights))
    assert seen.peak_kept == (2 + 2 + 3 + 1) * ARRAY < (kept(27, best_segments(27)) + 1) * ARRAY


# ---- the walk's own promises hold ---------------------------------------------------------------------------------


def test_a_second_walk_raises_as_usual_and_with_retain_graph_it_adds_the_same_again():
    w = mg.param(0.5)
    loss = checkpoint(lambda: mg.exp(w) * w)()
    loss.backward(retain_graph=True)
    loss.backward()
    twice = gradients([w])
    with pytest.raises(RuntimeError, match=r"the graph behind checkpoint was walked already"):
        loss.backward()
    (mg.exp(w) * w).backward()
    assert equal(twice, [2 * g for g in gradients([w])])


@pytest.mark.parametrize("f", [lambda x, w: x * w, lambda x, w: x + w], ids=["needed by a rule", "by none"])
def test_a_parameter_updated_before_f_is_done_again_is_caught(f):
    w, x = mg.param([1.0, 2.0]), mg.tensor([1.0, 1.0])
    loss = checkpoint(lambda x: f(x, w))(x).sum()
    w.data -= 0.1
    with pytest.raises(RuntimeError, match=r"float32\[2\] was updated after checkpoint had used it"):
        loss.backward()
    assert w.grad is None


def test_a_constant_that_was_changed_is_caught_too():
    w, x = mg.param([1.0, 2.0]), mg.tensor([1.0, 1.0])
    loss = checkpoint(lambda: x * w)().sum()
    x.data = x.data * 2.0
    with pytest.raises(RuntimeError, match=r"was updated after checkpoint had used it"):
        loss.backward()


def test_if_f_fails_the_second_time_no_gradient_has_changed():
    w, v, calls = mg.param([1.0]), mg.param([1.0]), []

    def f(x):
        calls.append(x)
        if len(calls) == 2:
            raise OSError("the disk is gone")
        return x * w

    with pytest.raises(OSError, match="the disk is gone") as raised:
        (checkpoint(f)(v * 1.0) * v).sum().backward()
    assert w.grad is None and v.grad is None
    assert raised.value.__notes__ == ["in the rule of minigrad.checkpoint"]


def test_a_graph_with_checkpoints_dies_with_its_loss():
    w, x = mg.param(np.ones(10, "float32")), mg.tensor(np.ones(10, "float32"))
    h = mg.exp(x * w)
    array = weakref.ref(h.data)
    loss = checkpoint(lambda h: mg.exp(h * w))(h).sum()
    gc.disable()
    try:
        del h
        assert array() is not None
        loss.backward()
        assert array() is None
        del loss
    finally:
        gc.enable()


def test_what_f_has_made_is_not_held():
    made = []

    def f(x):
        noise = mg.tensor(mg.Key(1).uniform(1000))
        made.append(weakref.ref(noise.data))
        y = x * noise
        mg.exp(y)
        return y

    y = checkpoint(f)(mg.param(np.ones(1000, "float32")))
    assert made[0]() is None and mg.graph(y).bytes_kept == 0


def test_anomaly_sees_through_a_checkpoint():
    x = mg.param([0.0])
    with mg.anomaly():
        y = checkpoint(lambda x: mg.sqrt(x * 0.0))(x)
        with (
            pytest.raises(mg.debug.AnomalyError, match=r"the gradient of mul.*argument 1 holds NaN"),
            mg.backend.quiet(),
        ):
            y.sum().backward()


# ---- bad input ----------------------------------------------------------------------------------------------------


def test_what_is_no_function_of_one_tensor_is_refused():
    x = mg.param([1.0])
    with pytest.raises(TypeError, match=r"minigrad\.memory\.checkpoint: expected a function, got Tensor"):
        checkpoint(x)
    with pytest.raises(TypeError, match=r"the function must return one Tensor, got tuple"):
        checkpoint(lambda x: (x * 1.0, x))(x)


def test_a_function_that_gives_another_shape_the_second_time_is_caught():
    x, lengths = mg.param([1.0, 2.0, 3.0]), iter([2, 3])
    with pytest.raises(RuntimeError, match=r"gave float32\[2\] at first, and now float32\[3\]"):
        checkpoint(lambda x: mg.exp(x)[: next(lengths)])(x).sum().backward()


def test_a_result_that_depends_on_nothing_that_needs_a_gradient_says_so():
    with pytest.raises(RuntimeError, match=r"and now float32\[1\] without a gradient"):
        checkpoint(lambda x: mg.exp(x).detach() * 1.0)(mg.param([1.0])).sum().backward()


def test_there_are_no_more_segments_than_steps_and_at_least_one():
    with pytest.raises(ValueError, match=r"4 segments need as many steps, got 3"):
        checkpoint_sequential([mg.exp] * 3, mg.param([1.0]), 4)
    with pytest.raises(ValueError, match=r"segments must be at least 1, got 0"):
        checkpoint_sequential([mg.exp] * 3, mg.param([1.0]), 0)
    with pytest.raises(ValueError, match=r"1 segments need as many steps, got 0"):
        checkpoint_sequential([], mg.param([1.0]))


# ---- a trace ------------------------------------------------------------------------------------------------------

MIB = 1 << 20
SLACK = 20_000  # bytes that Python's own objects may take


@pytest.fixture
def on_cpu():
    before = mg.get_device()
    mg.set_device("cpu")
    yield
    mg.set_device(before)


def a_mebibyte():
    return np.ones(MIB // 4, "float32")


def test_what_is_kept_at_the_end_of_the_way_there_is_what_the_graph_says():
    layers, _, x = chain(5)
    with memory.trace() as seen:
        loss = mg.cross_entropy(checkpoint_sequential(layers, x, 2), [0, 1, 2, 3])
    assert seen.timeline[-1].label == "end"
    assert seen.timeline[-1].kept == seen.peak_kept == mg.graph(loss).bytes_kept


def test_what_is_kept_falls_as_the_walk_goes_back(on_cpu):
    w = mg.param(a_mebibyte())
    with memory.trace() as seen:
        (mg.exp(mg.exp(mg.exp(w * 0.1)))).sum().backward()
    assert [(m.label, m.kept // MIB) for m in seen.timeline] == [
        *(("mul", 0), ("exp", 1), ("exp", 2), ("exp", 3), ("sum", 3)),
        *(("∂sum", 3), ("∂exp", 3), ("∂exp", 2), ("∂exp", 1), ("∂mul", 0), ("end", 0)),
    ]


def test_with_retain_graph_nothing_is_freed(on_cpu):
    w = mg.param(a_mebibyte())
    with memory.trace() as seen:
        loss = mg.exp(mg.exp(w * 0.1)).sum()
        loss.backward(retain_graph=True)
    assert seen.timeline[-1].kept == seen.peak_kept == 2 * MIB


def test_in_use_is_what_was_allocated_inside_at_its_highest_temporaries_included(on_cpu):
    before = a_mebibyte()
    with memory.trace() as seen:
        x = mg.tensor(a_mebibyte())
        x + 1.0
        y = mg.softplus(x)  # with more than its result on the way
        del x, y
        mg.tensor(1.0) + 1.0
    add, softplus, last, end = (m.used / MIB for m in seen.timeline)
    assert 2.0 <= add < 2.1 and 3.0 < softplus and 2.0 <= last < 2.1 and end < 0.1
    assert seen.peak == max(m.used for m in seen.timeline) and before.nbytes == MIB


def test_an_update_between_operations_counts_as_well(on_cpu):
    with memory.trace() as seen:
        w = a_mebibyte()
        w = w - 0.1 * w
    assert seen.timeline[-1].label == "end" and 2 * MIB <= seen.peak <= 3 * MIB + SLACK


def test_over_the_limit_the_error_names_the_operation_what_was_asked_and_what_is_kept(on_cpu):
    with pytest.raises(MemoryError) as raised, memory.trace(limit=3 * MIB + SLACK):
        w = mg.param(a_mebibyte())
        y = mg.exp(w)
        y = mg.tanh(y)
        mg.sigmoid(y)
    assert str(raised.value).startswith("minigrad.sigmoid(float32[262144]): out of memory: for 1 MiB more, ")
    assert "the limit is 3.019 MiB; the tape keeps 3 MiB, the most 1 MiB for exp" in str(raised.value)


def test_a_rule_that_needs_too_much_is_named(on_cpu):
    with (
        pytest.raises(MemoryError, match=r"the rule of minigrad\.exp, which gave float32\[262144\]: out of memory"),
        memory.trace(limit=int(3.5 * MIB)),
    ):
        mg.exp(mg.param(a_mebibyte())).sum().backward()


def test_below_the_limit_nothing_happens_and_after_the_last_operation_one_is_heard_too(on_cpu):
    with memory.trace(limit=4 * MIB) as seen:
        mg.exp(mg.tensor(a_mebibyte()))
    assert 2 * MIB <= seen.peak <= 4 * MIB
    with (
        pytest.raises(MemoryError, match=r"minigrad\.memory\.trace, after the last operation: out of memory"),
        memory.trace(limit=MIB),
    ):
        a_mebibyte() * 2.0


def test_a_limit_is_a_whole_number_and_a_trace_has_no_other_inside(on_cpu):
    with (
        pytest.raises(TypeError, match=r"minigrad\.memory\.trace: limit must be an integer, got str"),
        memory.trace(limit="12GB"),
    ):
        pass
    with memory.trace(), pytest.raises(RuntimeError, match=r"inside another trace\(\)"), memory.trace():
        pass


def test_the_numbers_are_the_same_when_traced():
    layers, weights, x = chain(3)
    checkpoint_sequential(layers, x, 2).sum().backward()
    plain = gradients(weights)
    with memory.trace():
        checkpoint_sequential(layers, x, 2).sum().backward()
    assert equal(plain, gradients(weights))


class FakeCuPy:
    """The part of CuPy that a trace looks at: a pool that counts, and tells its hooks."""

    class cuda:
        class MemoryHook:
            hooks = []  # noqa: RUF012

            def __enter__(self):
                self.hooks.append(self)
                return self

            def __exit__(self, *error):
                self.hooks.remove(self)

        Device = staticmethod(lambda: SimpleNamespace(id=1))

    def __init__(self):
        self.used, self.limit = 1000, 0

    def get_default_memory_pool(self):
        return SimpleNamespace(
            get_limit=lambda: self.limit,
            set_limit=lambda size: setattr(self, "limit", size),
            used_bytes=lambda: self.used,
            free_all_blocks=lambda: None,
        )

    def malloc(self, size, device_id=1):
        fits = device_id != 1 or not self.limit or self.used + size <= self.limit
        self.used += size * fits * (device_id == 1)
        for hook in self.cuda.MemoryHook.hooks:
            hook.malloc_postprocess(device_id=device_id, size=size, mem_size=size, mem_ptr=size * fits, pmem_id=0)
        if not fits:
            raise MemoryError("Out of memory")

    def free(self, size):
        self.used -= size
        for hook in self.cuda.MemoryHook.hooks:
            hook.free_postprocess(device_id=1, mem_size=size, mem_ptr=1, pmem_id=0)


def test_on_a_gpu_it_is_the_pool_that_counts_and_refuses(monkeypatch):
    cupy = FakeCuPy()
    monkeypatch.setattr(memory.backend, "get_device", lambda: "gpu:1")
    monkeypatch.setattr(memory.backend, "xp", lambda: cupy)
    with pytest.raises(MemoryError, match="Out of memory"), memory.trace(limit=500) as seen:
        cupy.malloc(300)
        cupy.malloc(100)
        cupy.free(100)
        cupy.malloc(9999, device_id=0)  # another GPU's
        mg.tensor(1.0) + 1.0
        cupy.free(300)
        mg.tensor(1.0) + 1.0
        mg.tensor(1.0) + 1.0
        cupy.malloc(501)
    assert [m.used for m in seen.timeline] == [400, 300, 0] and seen.peak == 400
    assert cupy.limit == 0 and not cupy.cuda.MemoryHook.hooks


# ---- who holds what -----------------------------------------------------------------------------------------------


def test_an_account_says_who_holds_how_many_bytes():
    w, table = mg.param(np.ones((8, 8), "float32")), mg.param(np.ones((100, 8), "float32"))
    adam = mg.optim.Adam([w, table])
    loss = mg.tanh(mg.take(table, [1, 2]) @ w).sum()
    before = memory.account([w, table], adam, loss)
    parameters = (8 + 100) * 8 * 4
    names = ["parameters", "gradients", "optimiser", "kept for the way back"]
    assert list(before) == names
    assert list(before.values()) == [parameters, 0, 2 * parameters, 2 * 2 * 8 * 4]
    loss.backward()
    after = memory.account([w, table], adam, loss)
    assert list(after.values()) == [parameters, 8 * 8 * 4 + 2 * 8 * 4 + 2 * 8, 2 * parameters, 0]


def test_shared_memory_counts_once_in_an_account():
    w = mg.param(np.ones(10, "float32"))
    w.grad = w.data
    assert memory.account([w, w]) == {"parameters": 40, "gradients": 0, "optimiser": 0, "kept for the way back": 0}


# ---- sabotage -----------------------------------------------------------------------------------------------------


def in_place_of_checkpoint(wrong):
    def sabotage(monkeypatch):
        monkeypatch.setitem(globals(), "checkpoint", wrong)
        monkeypatch.setattr(memory, "checkpoint", wrong)

    return sabotage


def versions_forgotten(f, right=checkpoint):
    def g(*args):
        y = right(f)(*args)
        node = y._node
        node.saved = (*node.saved[:2], (), *node.saved[3:])
        return y

    return g


def segment_summed_apart(f):
    """The rule as one would write it first: a walk of its own over the segment, whose sums go on to the leaves."""

    def g(x):
        leaves = mg.graph(f(x.detach())).leaves

        def forward(x, *weights):
            with mg.no_grad():
                return f(mg.Tensor(x)).data, None

        def rule(g, y, residual, x, *weights):
            inner = mg.Tensor(x, requires_grad=True)
            with tape.holding(recording=True):
                y = f(inner)
            return mg.grad(y, [inner, *leaves], g)

        return mg.primitive("segment", forward, joint=rule, once=True)(x, *leaves)

    return g


def leaves_cut_off(monkeypatch, right=memory._again):
    def wrong(*f):
        node = right(*f)
        node.parents = tuple(p if type(p) is tape.Node else None for p in node.parents)
        return node

    monkeypatch.setattr(memory, "_again", wrong)


def noise_drawn_anew(monkeypatch, right=mg.Key.uniform):
    draws = itertools.count()
    monkeypatch.setattr(mg.Key, "uniform", lambda key, *shape: right(key.fold(next(draws)), *shape))


MUTANTS = {
    "nothing is done again": (in_place_of_checkpoint(lambda f: f), test_over_64_layers_at_most_three_tenths_are_kept),
    "done again with updated parameters": (
        in_place_of_checkpoint(versions_forgotten),
        lambda: test_a_parameter_updated_before_f_is_done_again_is_caught(lambda x, w: x * w),
    ),
    "the gradients of what f closes over are lost": (
        leaves_cut_off,
        test_parameters_that_f_closes_over_get_their_gradients_though_no_argument_needs_one,
    ),
    "noise is drawn anew": (noise_drawn_anew, test_noise_from_a_key_is_the_same_when_it_is_drawn_again),
    "each segment is summed apart": (
        in_place_of_checkpoint(segment_summed_apart),
        test_one_weight_in_every_segment_collects_its_gradients_in_the_order_of_a_walk_without_checkpoints,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_checkpoint_is_killed_by_the_test_that_is_named_for_it(name, monkeypatch):
    sabotage, test = MUTANTS[name]
    test()
    sabotage(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test()
