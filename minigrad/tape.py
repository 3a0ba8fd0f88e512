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
from contextlib import contextmanager
from itertools import count

from .arguments import described, listed, settle
from .tensor import Tensor

_numbers = count(1)


class _State(threading.local):
    recording = True


_state = _State()


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside, operations leave no nodes: their results have no gradient. Holds for the current thread."""
    before, _state.recording = _state.recording, False
    try:
        yield
    finally:
        _state.recording = before


class Op:
    """A primitive operation: a name, a forward function, its rules. Made by `primitive`."""

    __slots__ = ("forward", "joint", "keep", "name", "once", "rules")

    def __init__(self, name, forward, rules, joint, keep, once):
        self.name, self.forward, self.rules, self.joint, self.keep, self.once = name, forward, rules, joint, keep, once


class Node:
    """One entry of the tape: an operation that was done, and what its rules need to go back.

    number: its place in time. parents: for each argument the node it came from, the leaf tensor itself, or None for a
    constant. saved: (y, residual, arguments) as `Op.keep` says; None once the walk has used and freed it.
    versions: (leaf, its version) for leaves whose memory was kept. shape, dtype: those of the result.
    """

    __slots__ = ("dtype", "number", "op", "params", "parents", "saved", "shape", "versions")

    def __init__(self, op, parents, saved, versions, params, shape, dtype):
        self.number = next(_numbers)
        self.op, self.parents, self.saved, self.versions = op, parents, saved, versions
        self.params, self.shape, self.dtype = params, shape, dtype


def primitive(
    name: str,
    forward: Callable,
    *,
    d: Sequence[Callable] = (),
    joint: Callable | None = None,
    keep: str = "x",
    once: bool = False,
) -> Callable:
    """Registers an operation; returns the function that people call.

    forward(*arrays, **params) -> y computes on arrays. The rules are either
      d = [rule for each argument], each  rule(g, y, *arguments, **params) -> ∂L/∂argument, or
      joint(g, y, residual, *arguments, **params) -> (∂L/∂argument for each), where `forward` returns (y, residual):
            for derivatives that share work. With create_graph=True `residual` is None, for it is an array without
            history: the rule computes it again from the arguments, or says `once`.
    g is ∂L/∂y. The walk sums the result over broadcast axes and casts it: rules need not. The tape casts y, too, to the
    type of the arguments, unless there is an option `dtype`.
    keep: what the rules see. "x" the arguments, "y" the result, "xy" both, "" neither; what isn't kept is None, and
          with "shape" each argument is its shape.
    once: the joint rule cannot be differentiated again; asking for that raises.

    The function takes tensors, arrays and numbers. Without a tensor among them it computes on the arrays and leaves no
    node, which is why a rule can be written in the library's own functions.
    """
    if keep not in ("", "x", "y", "xy", "shape"):
        raise ValueError(f'minigrad.primitive({name!r}): keep must be "", "x", "y", "xy" or "shape", got {keep!r}')
    if bool(d) == bool(joint):
        raise ValueError(f"minigrad.primitive({name!r}): give either d=[a rule for each argument] or joint=a rule")
    op = Op(name, forward, tuple(d), joint, keep, once)
    keep_x, keep_y, keep_shape = "x" in keep, "y" in keep, keep == "shape"
    names = inspect.signature(forward).parameters.values()
    arity = len([p for p in names if p.kind is not p.KEYWORD_ONLY])
    nothing = (None,) * arity
    options = [p.name for p in names if p.kind is p.KEYWORD_ONLY]
    if d and len(d) != arity:
        raise ValueError(f"minigrad.primitive({name!r}): {arity} arguments need {arity} rules, got {len(d)}")

    def apply(*args, **params):
        if len(args) != arity:  # options may be given by position too: sum(x, 0) is sum(x, axis=0)
            if not arity < len(args) <= arity + len(options):
                raise TypeError(f"minigrad.{name}: expected {arity} arguments{listed(options)}, got {len(args)}")
            by_position = dict(zip(options, args[arity:], strict=False))
            if twice := by_position.keys() & params.keys():
                raise TypeError(f"minigrad.{name}: {', '.join(twice)} is given twice, by position and by name")
            params, args = params | by_position, args[:arity]
        arrays, parents, versions, dtype = [], [], (), None
        tensors = needs = False
        settled = True
        for a in args:
            if type(a) is Tensor:
                tensors = True
                array = a._data
                arrays.append(array)
                if dtype is None:
                    dtype = array.dtype
                elif array.dtype is not dtype:
                    settled = False
                node = a._node
                if keep_x and a._leaf is not None:
                    versions += ((a._leaf, a._leaf._version),)
                if node is None:
                    if a.requires_grad:
                        needs = True
                        parents.append(a)
                    else:
                        parents.append(None)
                else:
                    needs = True
                    parents.append(node)
            else:
                arrays.append(a)
                parents.append(None)
                if type(a) is not float and type(a) is not int:
                    settled = False
        residual = None
        try:
            if tensors and not settled:
                arrays, dtype = settle(args)
            y = forward(*arrays, **params)
            if joint is not None:
                if type(y) is not tuple:
                    raise TypeError("the forward function of a joint rule must return (y, residual)")
                y, residual = y
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise described(name, args, error) from error
        if not tensors:
            return y
        if y.dtype is not dtype:
            if y.dtype.kind == "f" and "dtype" not in params:
                y = y.astype("float32" if dtype.kind in "iub" else dtype)
            needs = needs and y.dtype.kind in "fc"  # integers have no gradient
        if not (needs and _state.recording):
            return Tensor._of(y, None, args)
        if keep_shape:
            seen = [getattr(a, "shape", ()) for a in arrays]
        else:
            seen = arrays if keep_x else nothing
        saved = (y if keep_y else None, residual, seen)
        return Tensor._of(y, Node(op, parents, saved, versions, params, y.shape, y.dtype), args)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = forward.__doc__ or f"{name}{inspect.signature(forward)}: see minigrad/rules.py"
    apply.op = op
    return apply
