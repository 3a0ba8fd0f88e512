"""The tape: what was computed, in the order in which it was.

Reverse-mode differentiation in three sentences. Each operation y = f(a, b) on tensors that need a gradient leaves a
`Node`: which operation it was, where its arguments came from, and the arrays its derivative needs. Each operation has
a rule that turns ∂L/∂y into ∂L/∂a and ∂L/∂b (a vector-Jacobian product). The walk (`walk.py`) starts with ∂L/∂L = 1
and follows the nodes back, adding up what arrives at each.

Memory. A node holds the nodes of its arguments, never the tensor that is its result (at most that one's array). So
there is no cycle, and the graph dies with its loss by reference counting alone. `keep` says which arrays a rule needs:
the others are free at once, and these as soon as the walk has used them.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any

from . import backend
from .arguments import ERRORS, described, listed, settle
from .tensor import Tensor

# ---- what holds for the current thread ---------------------------------------------------------------------------


class _State(threading.local):
    recording = True  # whether operations leave nodes
    watchers: tuple = ()  # objects that see every operation: of `anomaly`, `advisor`, `memory.trace`


state = _State()
_special = 0  # in how many places, of all threads, something else holds: while in none, no operation need look
_lock = threading.Lock()


@contextmanager
def holding(**changes: Any) -> Iterator[None]:
    """Inside, `state` of the current thread is changed."""
    global _special
    before = {name: getattr(state, name) for name in changes}
    with _lock:
        _special += 1
    try:
        vars(state).update(changes)
        yield
    finally:
        vars(state).update(before)
        with _lock:
            _special -= 1


def watching(watcher: Any) -> AbstractContextManager[None]:
    """Inside, in this thread, the tape calls `watcher(op, args, y, node)` after each operation (node: None if it left
    none), and the walk `watcher.gradients(node, gradients)` after each rule."""
    return holding(watchers=(*state.watchers, watcher))


def look_where_tensors_lie() -> None:
    """Several GPUs are in use: from now on each operation is done on the one that holds its arguments."""
    global several_gpus, _special
    if not several_gpus:
        several_gpus, _special = True, _special + 1


several_gpus = False


def no_grad() -> AbstractContextManager[None]:
    """Inside, operations leave no nodes: their results have no gradient. Holds for the current thread."""
    return holding(recording=False)


# ---- the tape ------------------------------------------------------------------------------------------------------


class Op:
    """A primitive operation: a name, a forward function, its rules. Made by `primitive`."""

    __slots__ = ("forward", "joint", "keep", "name", "once", "plain", "rules")

    def __init__(self, name, forward, rules, joint, keep, once):
        self.name, self.forward, self.rules, self.joint, self.keep, self.once = name, forward, rules, joint, keep, once
        self.plain = 0


_next = count(1).__next__


class Node:
    """One entry of the tape: an operation that was done, and what its rules need to go back.

    number: its place in time. parents: for each argument the node it came from, the leaf tensor itself, or None for a
    constant. saved: (y, residual, arguments, versions), None once the walk has used and freed it; the first three as
    `primitive` says, versions a list of (leaf, its version) for leaves whose memory was kept. params: the options.
    shape, dtype: those of the result. where: the line of code it came from, if `debug.anomaly` watched.
    """

    __slots__ = ("dtype", "number", "op", "params", "parents", "saved", "shape", "where")


def primitive(
    name: str,
    forward: Callable,
    *,
    d: Sequence[Callable] = (),
    joint: Callable | None = None,
    keep: str = "x",
    once: bool = False,
) -> Callable[..., Any]:
    """Registers an operation; returns the function that people call.

    forward(*arrays, **params) -> y computes on arrays. The rules are either
      d = [rule for each argument], each  rule(g, y, *arguments, **params) -> ∂L/∂argument, or
      joint(g, y, residual, *arguments, **params) -> (∂L/∂argument for each), where `forward` returns (y, residual):
            for derivatives that share work. With create_graph=True `residual` is None, for it is an array without
            history: the rule computes it again from the arguments, or says `once`.
    g is ∂L/∂y. The walk sums the result over broadcast axes and casts it: rules need not. The tape casts y, too, to the
    type of the arguments, unless there is an option `dtype`.
    keep: what the rules see. "x" the arguments, "y" the result, "xy" both, "" neither; what isn't kept is None. With
          "shape" each argument is its shape; "other" is for two arguments of which each rule needs the other one only.
    once: the joint rule cannot be differentiated again; asking for that raises.

    The function takes tensors, arrays and numbers. Without a tensor among them it computes on the arrays and leaves no
    node, which is why a rule can be written in the library's own functions.
    """
    if keep not in ("", "x", "y", "xy", "other", "shape"):
        raise ValueError(
            f'minigrad.primitive({name!r}): keep must be "", "x", "y", "xy", "other" or "shape", got {keep!r}'
        )
    if bool(d) == bool(joint):
        raise ValueError(f"minigrad.primitive({name!r}): give either d=[a rule for each argument] or joint=a rule")
    op = Op(name, forward, tuple(d), joint, keep, once)
    takes = inspect.signature(forward).parameters.values()
    options = [p.name for p in takes if p.kind is p.KEYWORD_ONLY]
    arity = None if any(p.kind is p.VAR_POSITIONAL for p in takes) else len(takes) - len(options)  # None: any number
    if d and len(d) != arity:
        raise ValueError(f"minigrad.primitive({name!r}): {arity} arguments need {arity} rules, got {len(d)}")
    if keep == "other" and not (d and arity == 2):
        raise ValueError(f'minigrad.primitive({name!r}): keep="other" is for two arguments with a rule for each')
    apply = general(op, arity, options)
    if d and (arity == 1 or (arity == 2 and not options and keep != "shape")):
        apply = (unary if arity == 1 else binary)(op, apply)
        op.plain = arity
    apply.__name__, apply.__qualname__ = name, f"minigrad.{name}"
    apply.__doc__ = forward.__doc__ if forward.__module__ != "_operator" else None
    apply.__doc__ = apply.__doc__ or f"{name}{inspect.signature(forward)}: see minigrad/rules.py"
    apply.op = op
    return apply


def general(op: Op, arity: int | None, options: list[str]) -> Callable:
    """An operation with any number of arguments and options."""
    name, forward, keep = op.name, op.forward, op.keep
    keep_x, keep_y = keep in ("x", "xy", "other"), "y" in keep

    def apply(*args, **params):
        if (
            arity is not None and len(args) != arity
        ):  # options may be given by position too: sum(x, 0) is sum(x, axis=0)
            if not arity < len(args) <= arity + len(options):
                some = "1 argument" if arity == 1 else f"{arity} arguments"
                raise TypeError(f"minigrad.{name}: expected {some}{listed(options)}, got {len(args)}")
            by_position = dict(zip(options, args[arity:], strict=False))
            if twice := by_position.keys() & params.keys():
                raise TypeError(f"minigrad.{name}: {', '.join(twice)} is given twice, by position and by name")
            params, args = params | by_position, args[:arity]
        if several_gpus and (gpu := backend.away(a._data for a in args if type(a) is Tensor)):
            with gpu:
                return apply(*args, **params)
        residual = None
        try:
            arrays, dtype = settle(args)
            y = forward(*arrays, **params)
            if op.joint is not None:
                if type(y) is not tuple:
                    raise TypeError("the forward function of a joint rule must return (y, residual)")
                y, residual = y
        except ERRORS as error:
            raise described(name, args, error) from error
        if dtype is None:
            return y  # no tensor among the arguments
        if y.dtype is not dtype and y.dtype.kind == "f" and "dtype" not in params:
            y = y.astype("float32" if dtype.kind in "iub" else dtype)
        parents = tuple([a._node or (a if a.requires_grad else None) if type(a) is Tensor else None for a in args])
        nothing = (None,) * len(args)
        needed = parents != nothing and y.dtype.kind in "fc"  # integers have no gradient
        if needed and (not _special or state.recording):
            if keep == "shape":
                kept = [getattr(a, "shape", ()) for a in arrays]
            elif keep == "other":  # the partner of a constant is not needed
                kept = [None if p is None else a for a, p in zip(arrays, reversed(parents), strict=True)]
            else:
                kept = arrays if keep_x else nothing
            versions = ()
            if keep_x:
                pairs = zip(args, kept, strict=True)
                leaves = [a._leaf for a, k in pairs if k is not None and type(a) is Tensor and a._leaf is not None]
                versions = tuple([(leaf, leaf._version) for leaf in leaves])
            saved = (y if keep_y else None, residual, versions, *kept)
            node = Node()
            node.number, node.op, node.parents, node.saved, node.params = _next(), op, parents, saved, params
            node.shape, node.dtype = y.shape, y.dtype
        else:
            node = None
        if _special:
            for watch in state.watchers:
                watch(op, args, y, node)
        return Tensor._of(y, node, args)

    return apply


# ---- the fast way --------------------------------------------------------------------------------------------------
#
# Most operations of a network have one argument, or two and no options. NumPy adds ten numbers in 0.3 µs, beside which
# every line of `general` is slow. These two are `general` written out for tensors of one type that need a gradient;
# whatever else comes, they hand on to it. `tests/minigrad/test_tape.py` holds the three equal.


def unary(op: Op, general: Callable) -> Callable:
    forward, keep_x, keep_y, keep_shape = op.forward, "x" in op.keep, "y" in op.keep, op.keep == "shape"

    def apply(a, *by_position, **params):
        if type(a) is not Tensor or _special or by_position:
            return general(a, *by_position, **params)
        x = a._data
        try:
            y = forward(x, **params)
        except ERRORS as error:
            raise described(op.name, (a,), error) from error
        dtype = x.dtype
        if y.dtype is not dtype:
            return general(a, **params)
        if not a.requires_grad:
            return Tensor._of(y, None, (a,))
        versions = ((a._leaf, a._leaf._version),) if keep_x and a._leaf is not None else ()
        node = Node()
        node.number = _next()
        node.op = op
        node.parents = (a._node or a,)
        node.saved = y if keep_y else None, None, versions, x if keep_x else x.shape if keep_shape else None
        node.params = params
        node.shape = y.shape
        node.dtype = dtype
        if y.base is not None:  # perhaps a view of a leaf's memory
            return Tensor._of(y, node, (a,))
        tensor = _new(Tensor)
        tensor._data = y
        tensor._node = node
        tensor._leaf = tensor.grad = None
        tensor.requires_grad = True
        return tensor

    return apply


def binary(op: Op, general: Callable) -> Callable:
    forward, keep_y, keep_x, other = op.forward, "y" in op.keep, op.keep in ("x", "xy", "other"), op.keep == "other"
    numbers = backend.numbers

    def apply(a, b):
        if _special:
            return general(a, b)
        leaf_a = leaf_b = parent_a = parent_b = None
        if type(b) is Tensor:
            z, leaf_b, parent_b = b._data, b._leaf, b._node or (b if b.requires_grad else None)
            if type(a) is Tensor:
                x, leaf_a, parent_a = a._data, a._leaf, a._node or (a if a.requires_grad else None)
            elif type(a) is float or type(a) is int:
                x = numbers[a, type(z), z.dtype]
            else:
                return general(a, b)
        elif type(a) is Tensor and (type(b) is float or type(b) is int):
            x, leaf_a, parent_a = a._data, a._leaf, a._node or (a if a.requires_grad else None)
            z = numbers[b, type(x), x.dtype]
        else:
            return general(a, b)
        dtype = x.dtype
        if z.dtype is not dtype or (parent_a is None and parent_b is None):
            return general(a, b)
        try:
            y = forward(x, z)
        except ERRORS as error:
            raise described(op.name, (a, b), error) from error
        if y.dtype is not dtype or y.base is not None:
            return general(a, b)
        versions = ()
        if keep_x:
            if other and parent_b is None:  # the partner of a constant is not needed
                x = None
            elif leaf_a is not None:
                versions = ((leaf_a, leaf_a._version),)
            if other and parent_a is None:
                z = None
            elif leaf_b is not None:
                versions += ((leaf_b, leaf_b._version),)
        else:
            x = z = None
        node = Node()
        node.number = _next()
        node.op = op
        node.parents = parent_a, parent_b
        node.saved = y if keep_y else None, None, versions, x, z
        node.params = _NO_OPTIONS
        node.shape = y.shape
        node.dtype = dtype
        tensor = _new(Tensor)
        tensor._data = y
        tensor._node = node
        tensor._leaf = tensor.grad = None
        tensor.requires_grad = True
        return tensor

    return apply


_new, _NO_OPTIONS = object.__new__, {}
