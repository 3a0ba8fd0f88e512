"""Every primitive of the engine, with inputs: the list that gradient tests and sabotage go through."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import rules
from minigrad.check import broadcastable, check_grads, indices, tensors


@dataclass(frozen=True)
class Case:
    """A use of one primitive: `f(*args)` for args drawn from the strategy `args`."""

    name: str
    primitive: Any
    f: Any
    args: Any

    def check(self, args):
        check_grads(self.f, *args, order=2)


def one(**options):
    return st.tuples(tensors(**options))


def away_from_zero(tensor):
    return mg.param(tensor.data + np.where(tensor.data < 0, -0.5, 0.5))


two = broadcastable(2)
matrices = st.tuples(*[st.integers(1, 3)] * 3).flatmap(lambda n: st.tuples(tensors(n[:2]), tensors(n[1:])))
products = st.one_of(
    matrices,
    st.integers(1, 3).flatmap(lambda n: st.tuples(tensors((n,)), tensors((n,)))),
    st.tuples(tensors((2, 3)), tensors((3,))),
    st.tuples(tensors((3,)), tensors((3, 2))),
    st.tuples(tensors((2, 1, 2, 3)), tensors((2, 3, 1))),
    st.tuples(tensors((3,)), tensors((2, 3, 2))),
    st.tuples(tensors((2, 2, 3)), tensors((3,))),
)
axes = st.sampled_from([None, 0, 1, -1, (0, 1), (1,), (0, -1)])
grids = tensors(min_dims=2, max_dims=3)


def look_ups():
    """A table (V, d) and ids of up to two axes into it, with repetitions."""

    def ids(v):
        shapes = hnp.array_shapes(min_dims=1, max_dims=2, max_side=4)
        return hnp.arrays("int64", shapes, elements=st.integers(0, v - 1))

    return st.integers(1, 4).flatmap(lambda v: st.tuples(tensors((v, 2)), ids(v)))


def permuted(shape):
    return st.permutations(range(len(shape))).map(tuple)


CASES = [
    Case("add", rules.add, lambda a, b: a + b, two),
    Case("sub", rules.sub, lambda a, b: a - b, two),
    Case("mul", rules.mul, lambda a, b: a * b, two),
    Case("div", rules.div, lambda a, b: a / b, two.map(lambda ab: (ab[0], away_from_zero(ab[1])))),
    Case("neg", rules.neg, lambda a: -a, one()),
    Case("square", rules.power, lambda a: a**2, one()),
    Case("cube", rules.power, lambda a: a**3, one()),
    Case("square root", rules.power, lambda a: a**0.5, one(min_value=0.25)),
    Case("reciprocal", rules.power, lambda a: a**-1, one().map(lambda a: (away_from_zero(a[0]),))),
    Case("exp", rules.exp, mg.exp, one()),
    Case("log", rules.log, mg.log, one(min_value=0.25)),
    Case("tanh", rules.tanh, mg.tanh, one()),
    Case("sigmoid", rules.sigmoid, mg.sigmoid, one()),
    Case("softplus", rules.softplus, mg.softplus, one()),
    Case("logsigmoid", rules.logsigmoid, mg.logsigmoid, one()),
    Case("logsumexp", rules.logsumexp, lambda a, axis: mg.logsumexp(a, axis=axis), st.tuples(grids, axes)),
    Case("sum", rules.sum, lambda a, axis: (a * a).sum(axis), st.tuples(grids, axes)),
    Case("sum, keepdims", rules.sum, lambda a, axis: a.sum(axis, keepdims=True) * a, st.tuples(grids, axes)),
    Case("mean", rules.mean, lambda a, axis: (a * a).mean(axis), st.tuples(grids, axes)),
    Case("max", rules.max, lambda a, axis: a.max(axis) ** 2, st.tuples(tensors((2, 3), unique=True), axes)),
    Case("matmul", rules.matmul, lambda a, b: a @ b, products),
    Case("broadcast_to", rules.broadcast_to, lambda a: mg.broadcast_to(a * a, (2, 2, 3)), one(shape=(2, 1))),
    Case("reshape", rules.reshape, lambda a: (a * a).reshape(-1), one()),
    Case(
        "transpose",
        rules.transpose,
        lambda a, order: a.transpose(order) ** 2,
        grids.flatmap(lambda a: st.tuples(st.just(a), permuted(a.shape))),
    ),
    Case("reversed axes", rules.transpose, lambda a: a.T**2, one()),
    Case(
        "indexing",
        rules.pick,
        lambda a, index: (a * a)[index],
        tensors((3, 2)).flatmap(lambda a: st.tuples(st.just(a), indices((3, 2)))),
    ),
    Case("take", rules.look_up, lambda a, ids: mg.take(a, ids) ** 2, look_ups()),
    Case(
        "scatter_rows",
        rules.scatter_rows,
        lambda g, ids: rules.scatter_rows(g * g, ids=ids, shape=(3, 2)),
        st.tuples(tensors((4, 2)), hnp.arrays("int64", 4, elements=st.integers(0, 2))),
    ),
    Case(
        "put",
        rules.put,
        lambda g, index: rules.put(g * g, index=index, shape=(3, 2)),
        st.tuples(tensors((4,)), hnp.arrays("int64", 4, elements=st.integers(0, 2)).map(lambda i: (i, i % 2))),
    ),
]
