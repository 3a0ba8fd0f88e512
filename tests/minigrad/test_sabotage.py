"""The engine's sabotage table: each mutant below is killed by the test that is named for what it breaks.

A suite that passes on wrong code proves nothing. So each wrong rule is put in place of the right one, and the property
that `test_rules.py` (or `test_rows.py`) checks must fail; with the right one back, the same examples pass.
"""

from contextlib import contextmanager

import numpy as np
import pytest
from cases import CASES
from hypothesis import Phase, given, settings
from strict import Refused

import minigrad as mg
from minigrad import rules, walk
from minigrad.check import GradientError
from minigrad.rows import Rows

pytestmark = pytest.mark.engine

BY_NAME = {case.name: case for case in CASES}


@contextmanager
def sabotaged(primitive, argument, wrong_rule):
    op = primitive.op
    right = op.rules
    op.rules = tuple(wrong_rule if i == argument else rule for i, rule in enumerate(right))
    try:
        yield
    finally:
        op.rules = right


def check_all_examples(case):
    """What test_a_rule_is_the_derivative_to_second_order does, without shrinking."""

    @settings(max_examples=100, phases=[Phase.generate], database=None, derandomize=True, report_multiple_bugs=False)
    @given(case.args)
    def check(args):
        case.check(args)

    check()


MUTANTS = {
    "mul: the other argument left out": ("mul", rules.mul, 0, lambda g, y, a, b: g + 0.0 * b),
    "sub: the minus sign lost": ("sub", rules.sub, 1, lambda g, y, a, b: g),
    "div: the square lost": ("div", rules.div, 1, lambda g, y, a, b: -g * a / b),
    "power: the factor n lost": ("cube", rules.power, 0, lambda g, y, a, *, n: g * a ** (n - 1)),
    "exp: of the argument's gradient": ("exp", rules.exp, 0, lambda g, y, a: g),
    "tanh: the square lost": ("tanh", rules.tanh, 0, lambda g, y, a: g * (1.0 - y)),
    "sigmoid: the second factor lost": ("sigmoid", rules.sigmoid, 0, lambda g, y, a: g * y),
    "softplus: of −a": ("softplus", rules.softplus, 0, lambda g, y, a: g * rules.sigmoid(-a)),
    "logsigmoid: of a": ("logsigmoid", rules.logsigmoid, 0, lambda g, y, a: g * rules.sigmoid(a)),
    "logsumexp: not normalised": (
        "logsumexp",
        rules.logsumexp,
        0,
        lambda g, y, a, *, axis=-1, keepdims=False: rules.unreduced(g, a, axis) * rules.exp(a),
    ),
    "mean: a sum": (
        "mean",
        rules.mean,
        0,
        lambda g, y, a, *, axis=None, keepdims=False: rules.spread(g, a, axis),
    ),
    "max: to everyone": (
        "max",
        rules.max,
        0,
        lambda g, y, a, *, axis=None, keepdims=False: rules.spread(g, a.shape, axis),
    ),
    "matmul: not transposed": ("matmul", rules.matmul, 0, lambda g, y, a, b: rules.times_b(g, a, b) * 1.001),
    "transpose: the same axes again": (
        "transpose",
        rules.transpose,
        0,
        lambda g, y, a, *, axes=None: rules.transpose(g, axes=axes),
    ),
    "indexing: equal indices overwritten": (
        "indexing",
        rules.pick,
        0,
        lambda g, y, a, *, index: overwritten(g, index, a),
    ),
    "take: equal ids overwritten": ("take", rules.look_up, 0, lambda g, y, a, *, ids: overwritten(g, ids, a)),
}


def overwritten(g, index, shape):
    """y[index] += g, in main memory, where the last of equal indices wins: on a GPU any may, and the double says no."""
    if isinstance(g, mg.Tensor):
        return rules.put(g, index=index, shape=shape)
    y, index = np.zeros(shape, g.dtype), index if isinstance(index, tuple) else (index,)
    y[tuple(mg.to_cpu(i) if mg.backend.on_gpu(i) else i for i in index)] += mg.to_cpu(g)
    return mg.backend.asarray_like(y, g)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_rule_is_killed_by_the_gradient_test_of_its_primitive(name):
    case, primitive, argument, wrong_rule = MUTANTS[name]
    with sabotaged(primitive, argument, wrong_rule), pytest.raises((GradientError, ValueError)):
        check_all_examples(BY_NAME[case])


@pytest.mark.parametrize("case", sorted({mutant[0] for mutant in MUTANTS.values()}))
def test_the_same_examples_pass_with_the_right_rule(case):
    check_all_examples(BY_NAME[case])


def test_a_broadcast_gradient_cut_instead_of_summed_is_killed(monkeypatch):
    right = walk._fit

    def cut(gradient, shape, dtype, op, create_graph):
        if gradient.shape != shape:
            gradient = gradient[(0,) * (len(gradient.shape) - len(shape))]
            gradient = gradient[tuple(slice(0, 1) if n == 1 else slice(None) for n in shape)]
        return right(gradient, shape, dtype, op, create_graph)

    monkeypatch.setattr(walk, "_fit", cut)
    with pytest.raises(GradientError):
        check_all_examples(BY_NAME["mul"])


def test_leaving_a_node_before_everything_has_arrived_is_killed(monkeypatch):
    """Without the order of creation: the walk takes the oldest of the nodes that wait in the heap, not the youngest."""
    monkeypatch.setattr(walk, "heappush", lambda heap, number: heap.append(number) or heap.sort(reverse=True))
    monkeypatch.setattr(walk, "heappop", lambda heap: heap.pop(0))
    x = mg.param(2.0)
    b = x * x
    c = ((b * x) * (b * x) / x + b) - 0.0
    with pytest.raises((AssertionError, RuntimeError)):
        c.backward()
        assert x.grad == 5 * 16 + 2 * 2


def test_equal_ids_of_rows_overwritten_is_killed(monkeypatch):
    def overwrite(self, out, scale=1.0):
        return out + scale * overwritten(self.values, self.ids, self.shape)

    monkeypatch.setattr(Rows, "add_to", overwrite)
    rows = Rows(mg.backend.asarray([1, 1]), mg.backend.asarray([[1.0], [2.0]]), (3, 1))
    assert rows.dense().tolist() != [[0.0], [3.0], [0.0]]


def test_adagrad_without_putting_equal_ids_together_is_killed(monkeypatch):
    monkeypatch.setattr(Rows, "coalesce", lambda self: self)
    w = mg.param(np.zeros((2, 1)))
    w.grad = Rows(mg.backend.asarray([1, 1]), mg.backend.asarray([[1.0], [2.0]]), (2, 1))
    adagrad = mg.optim.Adagrad([w], lr=0.1)
    with pytest.raises((AssertionError, Refused)):  # the strict double refuses to write a row twice
        adagrad.step()
        assert adagrad.sums[0].ravel().tolist() == [0.0, 9.0]
