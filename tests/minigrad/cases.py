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
    return mg.param(tensor.data + mg.where(tensor.data < 0, -0.5, 0.5))


two = broadcastable(2)
off_zero = one().map(lambda a: (away_from_zero(a[0]),))
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
lasts = st.sampled_from([((3,), (3,)), ((2, 3), (2, 3)), ((2, 1, 3), (2, 3)), ((3,), (2, 3))])
apart = broadcastable(2).filter(lambda ab: abs(ab[0].data - ab[1].data).min() > 1e-3)
affine = st.sampled_from([(2,), (3, 2), (2, 3, 2)]).flatmap(
    lambda shape: st.tuples(tensors(shape), tensors((4, 2)), tensors((4,)))
)
axes = st.sampled_from([None, 0, 1, -1, (0, 1), (1,), (0, -1)])
grids = tensors(min_dims=2, max_dims=3)
places = hnp.arrays("int64", 4, elements=st.integers(0, 2)).map(mg.backend.asarray)


def look_ups():
    """A table (V, d) and ids of up to two axes into it, with repetitions."""

    def ids(v):
        shapes = hnp.array_shapes(min_dims=1, max_dims=2, max_side=4)
        return hnp.arrays("int64", shapes, elements=st.integers(0, v - 1))

    return st.integers(1, 4).flatmap(lambda v: st.tuples(tensors((v, 2)), ids(v)))


def permuted(shape):
    return st.permutations(range(len(shape))).map(tuple)


def picks():
    """A grid, an axis and ids along it."""

    def ids(shape, axis):
        n = 2 if axis in (0, -2) else 1
        of = (n, shape[1]) if axis in (0, -2) else (shape[0], n)
        return hnp.arrays("int64", of, elements=st.integers(0, shape[axis] - 1))

    shapes = st.tuples(st.integers(1, 3), st.integers(1, 3))
    return st.tuples(shapes, st.sampled_from([0, 1, -1])).flatmap(
        lambda sa: st.tuples(tensors(sa[0]), ids(*sa), st.just(sa[1]))
    )


def classifications():
    """Logits (B, V) and targets (B,)."""
    sizes = st.tuples(st.integers(1, 3), st.integers(1, 4))
    return sizes.flatmap(lambda n: st.tuples(tensors(n), hnp.arrays("int64", n[0], elements=st.integers(0, n[1] - 1))))


CONDITION = np.array([[True, False, True], [False, False, True]])

CASES = [
    Case("add", rules.add, lambda a, b: a + b, two),
    Case("sub", rules.sub, lambda a, b: a - b, two),
    Case("mul", rules.mul, lambda a, b: a * b, two),
    Case("div", rules.div, lambda a, b: a / b, two.map(lambda ab: (ab[0], away_from_zero(ab[1])))),
    Case("neg", rules.neg, lambda a: -a, one()),
    Case("square", rules.power, lambda a: a**2, one()),
    Case("cube", rules.power, lambda a: a**3, one()),
    Case("square root", rules.power, lambda a: a**0.5, one(min_value=0.25)),
    Case("reciprocal", rules.power, lambda a: a**-1, off_zero),
    Case("exp", rules.exp, mg.exp, one()),
    Case("log", rules.log, mg.log, one(min_value=0.25)),
    Case("tanh", rules.tanh, mg.tanh, one()),
    Case("log1p", rules.log1p, mg.log1p, one(min_value=-0.5)),
    Case("expm1", rules.expm1, mg.expm1, one()),
    Case("sqrt", rules.sqrt, mg.sqrt, one(min_value=0.25)),
    Case("abs", rules.abs, lambda a: abs(a) * a, off_zero),
    Case("relu", rules.relu, lambda a: mg.relu(a) * a, off_zero),
    Case("maximum", rules.maximum, lambda a, b: mg.maximum(a, b) ** 2, apart),
    Case("minimum", rules.minimum, lambda a, b: mg.minimum(a, b) ** 2, apart),
    Case("clip", rules.clip, lambda a: mg.clip(a, -1.0, 2.0) * a, one()),
    Case("clip from below", rules.clip, lambda a: mg.clip(a, low=-1.0) * a, one()),
    Case(
        "where", rules.choose, lambda a, b: mg.where(CONDITION, a * a, b**3), st.tuples(tensors((2, 3)), tensors((3,)))
    ),
    Case("softmax", rules.softmax, lambda a, axis: mg.softmax(a, axis=axis), st.tuples(grids, axes)),
    Case("log_softmax", rules.log_softmax, lambda a, axis: mg.log_softmax(a, axis=axis), st.tuples(grids, axes)),
    Case(
        "cross_entropy",
        rules.cross_entropies,
        lambda a, t: mg.cross_entropy(a, t, reduction="none") ** 2,
        classifications(),
    ),
    Case("sigmoid", rules.sigmoid, mg.sigmoid, one()),
    Case("softplus", rules.softplus, mg.softplus, one()),
    Case("logsigmoid", rules.logsigmoid, mg.logsigmoid, one()),
    Case("logsumexp", rules.logsumexp, lambda a, axis: mg.logsumexp(a, axis=axis), st.tuples(grids, axes)),
    Case("sum", rules.sum, lambda a, axis: (a * a).sum(axis), st.tuples(grids, axes)),
    Case("sum, keepdims", rules.sum, lambda a, axis: a.sum(axis, keepdims=True) * a, st.tuples(grids, axes)),
    Case("mean", rules.mean, lambda a, axis: (a * a).mean(axis), st.tuples(grids, axes)),
    Case("max", rules.max, lambda a, axis: a.max(axis) ** 2, st.tuples(tensors((2, 3), unique=True), axes)),
    Case("min", rules.min, lambda a, axis: a.min(axis) ** 2, st.tuples(tensors((2, 3), unique=True), axes)),
    Case("dot", rules.dot, mg.dot, lasts.flatmap(lambda s: st.tuples(tensors(s[0]), tensors(s[1])))),
    Case(
        "concat",
        rules.joined,
        lambda a, b, axis: mg.concat([a * a, b, a], axis),
        st.tuples(tensors((2, 3)), tensors((2, 3)), st.sampled_from([0, 1, -1])),
    ),
    Case(
        "stack",
        rules.joined,
        lambda a, b, axis: mg.stack([a * a, b], axis),
        st.tuples(tensors((2, 3)), tensors((2, 3)), st.sampled_from([0, 1, 2, -1])),
    ),
    Case("take_along_axis", rules.pick, lambda a, ids, axis: mg.take_along_axis(a, ids, axis) ** 2, picks()),
    Case("matmul", rules.matmul, lambda a, b: a @ b, products),
    Case("linear", rules.linear, lambda x, w, b: rules.linear(x, w, b) ** 2, affine),
    Case("linear without a bias", rules.linear, lambda x, w, b: rules.linear(x, w, 0.0), affine),
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
        st.tuples(tensors((4, 2)), places),
    ),
    Case(
        "put",
        rules.put,
        lambda g, index: rules.put(g * g, index=index, shape=(3, 2)),
        st.tuples(tensors((4,)), places.map(lambda i: (i, i % 2))),
    ),
]
