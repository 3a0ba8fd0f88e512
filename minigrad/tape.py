"""The tape: what was computed, and the walk back over it.

Reverse-mode differentiation in three sentences. Each operation y = f(a, b) on tensors that need a gradient leaves a
`Node`: which operation it was, where its arguments came from, and the arrays its derivative needs. Each operation has
a rule that turns ∂L/∂y into ∂L/∂a and ∂L/∂b (a vector-Jacobian product). The walk starts with ∂L/∂L = 1 and follows
the nodes back, adding up what arrives at each.

Order. A node may be left only when everything that arrives there has arrived; in

    b = a + a;  c = b + b                 ∂c/∂b arrives at b twice, and only then may it go on to a

leaving b after the first arrival would count wrongly. Nodes are numbered as they are made, so an operation's number
is higher than its arguments': *creation order is a topological order*. The walk takes the highest number that waits
(a heap), and no node comes twice. No recursion: a chain of 50,000 operations goes back fine.

Memory. A node holds the nodes of its arguments, never its own result, so there is no cycle, and the graph dies with
its loss by reference counting alone. `keep` says which arrays a rule needs; the walk frees them as it goes.

Derivatives of derivatives. Rules are ordinary functions on arrays, in plain operators and functions of this library.
Those work on tensors as well: fed tensors (`create_graph=True`), the same rules leave nodes of their own.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Any

from . import backend
from .rows import Rows
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
    versions: (leaf, its version) for leaves whose arrays were kept. shape, dtype: those of the result.
    """

    __slots__ = ("dtype", "number", "op", "params", "parents", "saved", "shape", "versions")

    def __init__(self, op, parents, saved, versions, params, shape, dtype):
        self.number = next(_numbers)
        self.op, self.parents, self.saved, self.versions = op, parents, saved, versions
        self.params, self.shape, self.dtype = params, shape, dtype


# ---- forward ----------------------------------------------------------------------------------------------------


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
            for derivatives that share work. `residual` is None when it must be computed afresh (see `once`).
    g is ∂L/∂y. The tape sums the result over broadcast axes and casts it: rules need not. It casts y, too, to the type
    of the arguments, unless there is an option `dtype`.
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
    options = [p.name for p in names if p.kind is p.KEYWORD_ONLY]
    if d and len(d) != arity:
        raise ValueError(f"minigrad.primitive({name!r}): {arity} arguments need {arity} rules, got {len(d)}")

    def apply(*args, **params):
        if len(args) != arity:  # options may be given by position too: sum(x, 0) is sum(x, axis=0)
            if not arity < len(args) <= arity + len(options):
                raise TypeError(f"minigrad.{name}: expected {arity} arguments{_listed(options)}, got {len(args)}")
            params |= dict(zip(options, args[arity:], strict=False))
            args = args[:arity]
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
                if node is None:
                    if keep_x:
                        versions += ((a, a._version),)
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
        if not tensors:
            y = forward(*arrays, **params)
            return y if joint is None else y[0]
        residual = None
        try:
            if not settled:
                arrays, dtype = _settle(args)
            y = forward(*arrays, **params)
        except (ValueError, TypeError, IndexError) as error:
            raise _described(op, args, error) from error
        if joint is not None:
            y, residual = y
        if y.dtype is not dtype and y.dtype.kind == "f" and "dtype" not in params:
            y = y.astype("float32" if dtype.kind in "iub" else dtype)
        if not (needs and _state.recording):
            return Tensor._of(y, None)
        if keep_shape:
            seen = [getattr(a, "shape", ()) for a in arrays]
        else:
            seen = arrays if keep_x else None
        saved = (y if keep_y else None, residual, seen)
        return Tensor._of(y, Node(op, parents, saved, versions, params, y.shape, y.dtype))

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = forward.__doc__
    apply.op = op
    return apply


def _listed(options):
    return f" and the options {', '.join(options)}" if options else ""


def _settle(args):
    """The arrays of an operation in one type, that of its floating-point tensors.

    A constant (whatever is no tensor) takes on the tensors' type and device, so float32 stays float32 beside a float64
    array, a NumPy scalar or integer counts. Two tensors of different floating-point types are somebody's mistake.
    """
    tensors = [a for a in args if type(a) is Tensor]
    floats = {a.dtype for a in tensors if a.dtype.kind in "fc"}
    if len(floats) > 1:
        raise TypeError("these tensors have different precisions; convert one of them with .astype(...)")
    dtype = floats.pop() if floats else tensors[0].dtype
    devices = {backend.device_of(a._data) for a in tensors}
    if len(devices) > 1:
        raise backend.DeviceError(f"these tensors are on {' and '.join(sorted(devices))}; move one with .to(...)")
    xp = backend.xp_of(tensors[0]._data)
    arrays = []
    for a in args:
        a = a._data if type(a) is Tensor else a
        if type(a) not in (float, int) and getattr(a, "dtype", None) != dtype:
            a = xp.asarray(a)
            if a.dtype.kind not in "fciub":
                raise TypeError(f"a constant of type {a.dtype} is no number")
            if a.dtype.kind == "c" and dtype.kind != "c":
                raise TypeError("a complex constant would be cut to its real part")
            a = a.astype(dtype) if floats or dtype.kind in "fc" else a
        arrays.append(a)
    return arrays, dtype


def _described(op: Op, args, error: Exception) -> Exception:
    """The error, with the operation and what it was given: `minigrad.matmul(float32[2, 3], float32[4, 5]): …`."""
    kind = next(k for k in (TypeError, ValueError, IndexError) if isinstance(error, k))
    return kind(f"minigrad.{op.name}({', '.join(map(_signature, args))}): {error}")


def _signature(a: Any) -> str:
    return f"{a.dtype}{list(a.shape)}" if hasattr(a, "shape") and hasattr(a, "dtype") else type(a).__name__


# ---- backward ---------------------------------------------------------------------------------------------------


def walk(root: Tensor, seed: Any, wanted: Sequence | None, retain_graph: bool, create_graph: bool) -> list:
    """Carries `seed` = ∂L/∂root back, and returns ∂L/∂w for each w of `wanted`, a list of nodes and leaves.

    With wanted=None the gradients are added to the leaves' `.grad`: all of them when the walk has succeeded, or none.
    A gradient is None where nothing arrived.
    """
    arrived = {}  # node or leaf -> (what has arrived there, do we own its memory?)
    heap = []

    def arrive(at, gradient):
        if at not in arrived:
            arrived[at] = (gradient, False)  # borrowed: the array may be in use elsewhere
            if type(at) is Node:
                heappush(heap, (-at.number, at))
            return
        total, owned = arrived[at]
        if owned and type(total) is type(gradient):
            total += gradient  # the third and later arrivals add in place (a tensor's += makes a new tensor)
        else:
            total = total + gradient
        arrived[at] = (total, True)

    results = dict.fromkeys(wanted or ())
    arrive(root if root._node is None else root._node, seed)
    while heap:
        node = heappop(heap)[1]
        g = arrived.pop(node)[0]
        if node in results:
            results[node] = g
        if type(g) is Rows:
            g = g.dense()  # rows are for leaves; a rule takes an array
        for parent, contribution in zip(node.parents, _contributions(node, g, create_graph), strict=True):
            if parent is not None:
                arrive(parent, _fit(contribution, parent, node, create_graph))
        if not retain_graph:
            node.saved = None
    if wanted is not None:
        return [arrived[w][0] if w in arrived else results[w] for w in wanted]
    for leaf, (gradient, _) in arrived.items():
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
    return []


def _contributions(node: Node, g, create_graph: bool):
    """∂L/∂argument for each argument that needs it, by the rules of the node's operation."""
    op = node.op
    if node.saved is None:
        raise RuntimeError(
            f"minigrad.backward: the graph behind {op.name} was walked already, and the walk freed its arrays; "
            "tell the first walk backward(retain_graph=True) if there is to be a second"
        )
    for leaf, version in node.versions:
        if leaf._version != version:
            raise RuntimeError(
                f"minigrad.backward: a tensor {_signature(leaf)} was updated after {op.name} had used it, so the "
                "gradient would be that of neither value; call backward() before the update"
            )
    y, residual, args = node.saved
    if args is None:
        args = (None,) * len(node.parents)
    if create_graph:
        if op.once:
            raise RuntimeError(
                f"minigrad.backward: {op.name} has a fused rule, which has no derivative of its own; "
                "use its composed form for create_graph=True"
            )
        if y is not None:
            y = Tensor._of(y, node)
        if op.keep != "shape":
            args = [_rejoin(a, p) for a, p in zip(args, node.parents, strict=True)]
        residual = None
    if op.joint is not None:
        return op.joint(g, y, residual, *args, **node.params)
    return [
        None if parent is None else rule(g, y, *args, **node.params)
        for parent, rule in zip(node.parents, op.rules, strict=True)
    ]


def _rejoin(array, parent):
    """A kept array as the tensor it was: its history is the parent's."""
    if array is None or parent is None:
        return array
    return Tensor._of(array, parent) if type(parent) is Node else parent


def _fit(gradient, parent, node: Node, create_graph: bool):
    """A rule's result, summed over the axes along which its argument was broadcast, in the argument's type."""
    leaf = type(parent) is not Node
    shape, dtype = (parent._data.shape, parent._data.dtype) if leaf else (parent.shape, parent.dtype)
    if gradient.shape != shape:
        extra = len(gradient.shape) - len(shape)
        ones = tuple(i + extra for i, n in enumerate(shape) if n == 1 and gradient.shape[i + extra] != 1)
        if extra < 0 or any(n not in (1, m) for n, m in zip(shape, gradient.shape[extra:], strict=True)):
            raise ValueError(
                f"minigrad: a rule of {node.op.name} gave a gradient of shape {list(gradient.shape)} "
                f"for an argument of shape {list(shape)}"
            )
        gradient = gradient.sum(axis=(*range(extra), *ones), keepdims=True).reshape(shape)
    if gradient.dtype is not dtype and gradient.dtype != dtype:
        gradient = gradient.astype(dtype)
    if create_graph and type(gradient) is Rows:
        raise TypeError(f"minigrad: the rule of {node.op.name} gave Rows for a tensor, which ends the graph there")
    return gradient


def backward(tensor: Tensor, gradient: Any, retain_graph: bool, create_graph: bool) -> None:
    """See `Tensor.backward`."""
    _differentiate("backward", tensor, gradient, None, retain_graph, create_graph)


def grad(
    y: Tensor,
    xs: Sequence[Tensor],
    gradient: Any = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> list:
    """[∂y/∂x for x in xs], touching no `.grad`; for interior tensors too. None where y doesn't depend on x.

    gradient: ∂L/∂y of y's shape, if y is no scalar. Returns arrays (`Rows` for looked-up tables), or with
    create_graph=True tensors that can be differentiated again.
    """
    if isinstance(xs, Tensor):
        raise TypeError("minigrad.grad: xs must be a list of tensors, got one Tensor; write [x]")
    for x in xs:
        if not isinstance(x, Tensor) or not x.requires_grad:
            raise ValueError(f"minigrad.grad: every x must be a tensor that requires a gradient, got {x!r}")
    wanted = [x if x._node is None else x._node for x in xs]
    return _differentiate("grad", y, gradient, wanted, retain_graph, create_graph)


def _differentiate(name: str, y: Tensor, gradient: Any, wanted: list | None, retain_graph: bool, create_graph: bool):
    if not y.requires_grad:
        raise RuntimeError(
            f"minigrad.{name}: nothing to differentiate: no tensor that led to this one asked for a gradient "
            "(requires_grad=True, or it was computed under no_grad)"
        )
    xp = backend.xp_of(y._data)
    if gradient is None:
        if y.shape != ():
            raise ValueError(
                f"minigrad.{name}: expected a scalar to start from, got {_signature(y)}; "
                "reduce it with .sum() or .mean(), or give its gradient"
            )
        gradient = xp.ones((), y.dtype)
    elif not isinstance(gradient, Tensor):
        gradient = xp.asarray(gradient, dtype=y.dtype)
    if gradient.shape != y.shape:
        raise ValueError(f"minigrad.{name}: gradient must have shape {list(y.shape)}, got {list(gradient.shape)}")
    if create_graph:
        gradient = gradient if isinstance(gradient, Tensor) else Tensor._of(gradient, None)
        return walk(y, gradient, wanted, True, True)
    if isinstance(gradient, Tensor):
        gradient = gradient._data
    with no_grad():
        return walk(y, gradient, wanted, retain_graph, False)
