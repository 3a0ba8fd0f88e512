"""The walk back over the tape: from ∂L/∂L = 1 to the gradient of every leaf.

Order. A node may be left only when everything that arrives there has arrived; in

    b = a + a;  c = b + b                 ∂c/∂b arrives at b twice, and only then may it go on to a

leaving b after the first arrival would count wrongly. Nodes are numbered as they are made, so an operation's number
is higher than its arguments': *creation order is a topological order*. The walk takes the highest number that waits
(a heap), and no node comes twice. No recursion: a chain of 50,000 operations goes back fine.

Checkpoints (`memory.py`). A node that kept nothing of what it stands for has a rule that computes it again and answers
with a node, that of the same result: the walk goes on from there, as if those nodes had been on the tape all along.

Derivatives of derivatives. Rules are ordinary functions on arrays, in plain operators and functions of this library.
Those work on tensors as well: fed tensors (`create_graph=True`), the same rules leave nodes of their own.
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

from . import backend, tape
from .arguments import signature
from .rows import Rows
from .tape import Node
from .tensor import Tensor


def walk(root: Tensor, seed: Any, wanted: Sequence | None, retain_graph: bool, create_graph: bool) -> list:
    """Carries `seed` = ∂L/∂root back, and returns ∂L/∂w for each w of `wanted`, a list of nodes and leaves.

    With wanted=None the gradients are added to the leaves' `.grad`: all of them when the walk has succeeded, or none.
    A gradient is None where nothing arrived.
    """
    results = dict.fromkeys(wanted or ())  # nodes are visited and forgotten: what is wanted of them is noted here
    watchers, several_gpus = tape.state.watchers, tape.several_gpus
    # What has arrived at each leaf and node; at which of them the sum is an array of this walk's own, to be added to in
    # place; and which nodes wait: the one of the highest number, and a heap of the others, their numbers negative, for
    # a heap gives the least. In a chain no other ever waits.
    start = root if root._node is None else root._node
    arrived, own = {start: seed}, set()
    first, heap = root._node, []
    while first is not None:
        node, g = first, arrived.pop(first)
        first = heappop(heap)[1] if heap else None
        if several_gpus:
            _go_to(g)
        if results and node in results:
            results[node] = g
        if type(g) is Rows:
            g = g.dense()  # rows are for leaves; a rule takes an array
        op, saved = node.op, node.saved
        if saved is None:
            raise RuntimeError(
                f"minigrad.backward: the graph behind {op.name} was walked already, and the walk freed its arrays; "
                "tell the first walk backward(retain_graph=True) if there is to be a second"
            )
        for leaf, version in saved[2]:
            if leaf._version != version:
                raise RuntimeError(
                    f"minigrad.backward: a tensor {signature(leaf)} was updated after {op.name} had used it, so the "
                    "gradient would be that of neither value; call backward() before the update"
                )
        parents = node.parents
        try:
            if not op.plain or create_graph:
                gradients = _gradients(node, g, create_graph)
                if type(gradients) is Node:
                    parents, gradients = (gradients,), (g,)
            elif op.plain == 1:  # what `_gradients` does, without its loops
                rule, params = op.rules[0], node.params
                gradients = (rule(g, saved[0], saved[3], **params) if params else rule(g, saved[0], saved[3]),)
            else:
                y, _, _, a, b = saved
                from_a, from_b = parents
                of_a, of_b = op.rules
                gradients = (
                    None if from_a is None else of_a(g, y, a, b),
                    None if from_b is None else of_b(g, y, a, b),
                )
            for watch in watchers:  # of a checkpoint: that the walk has come to it, and goes on through other nodes
                watch.gradients(node, gradients if parents is node.parents else (None,) * len(node.parents))
            for parent, gradient in zip(parents, gradients):
                if parent is None:
                    continue
                like = parent if type(parent) is Node else parent._data
                if several_gpus:
                    _go_to(gradient)
                if gradient.shape != like.shape or gradient.dtype is not like.dtype or create_graph:
                    gradient = _fit(gradient, like.shape, like.dtype, op, create_graph)
                if parent in arrived:
                    if parent in own and type(gradient) is type(arrived[parent]):
                        arrived[parent] += gradient  # the third and later arrivals (a tensor's += makes a new tensor)
                    else:
                        arrived[parent] = arrived[parent] + gradient
                        own.add(parent)
                    continue
                arrived[parent] = gradient
                if like is not parent:
                    continue  # a leaf: there the walk ends
                if first is None:
                    first = parent
                elif parent.number > first.number:
                    heappush(heap, (-first.number, first))
                    first = parent
                else:
                    heappush(heap, (-parent.number, parent))
        except Exception as error:
            error.add_note(f"in the rule of minigrad.{op.name}")
            raise
        if not retain_graph:
            node.saved = None
    taken = {id(_owner(seed))}
    if wanted is not None:
        results |= arrived  # the leaves
        return [_own(results[w], taken) for w in wanted]
    for leaf, gradient in arrived.items():
        gradient, before = _own(gradient, taken), leaf.grad
        if Tensor in (type(gradient), type(before)):  # rows are arrays; beside a tensor they are written out
            gradient, before = (g.dense() if type(g) is Rows else g for g in (gradient, before))
            before = before if create_graph or type(before) is not Tensor else before.detach()
        leaf.grad = gradient if before is None else before + gradient
    return []


def _gradients(node: Node, g, create_graph: bool) -> Sequence:
    """What the rules of a node say: ∂L/∂argument for each argument that has a parent."""
    op = node.op
    y, residual, _, *args = node.saved
    if create_graph:
        y, residual, args = _as_tensors(node)
    if op.joint is not None:
        return op.joint(g, y, residual, *args, **node.params)
    pairs = zip(node.parents, op.rules, strict=True)
    return [None if parent is None else rule(g, y, *args, **node.params) for parent, rule in pairs]


def _own(gradient, taken: set):
    """What a person gets is his alone, to scale or clip in place: a copy, if somebody else holds the same memory."""
    if tape.several_gpus:
        _go_to(gradient)
    if type(gradient) is Rows:
        owners = {id(_owner(values)) for _, values in gradient.parts()}
        if len(owners) < len(gradient.parts()) or not owners.isdisjoint(taken):
            gradient = Rows(gradient.ids, gradient.values.copy(), gradient.shape, checked=True)
            owners = {id(gradient.values)}
        taken |= owners
    elif gradient is not None and type(gradient) is not Tensor:
        if id(gradient) in taken or gradient.base is not None:
            gradient = gradient.copy()
        taken.add(id(gradient))
    return gradient


def _go_to(gradient) -> None:
    """Makes the GPU that holds the gradient the current one; `_differentiate` goes back."""
    array = gradient.values if type(gradient) is Rows else gradient._data if type(gradient) is Tensor else gradient
    if gpu := backend.away([array]):
        gpu.use()


def _owner(array):
    """The array that holds the memory which `array` shows."""
    return array if getattr(array, "base", None) is None else array.base


def _as_tensors(node: Node) -> tuple:
    """What the rules of a node see if there is to be a graph: y, no residual, and the arguments, with their history."""
    op = node.op
    if op.once:
        raise RuntimeError(
            f"minigrad.backward: {op.name} has a fused rule, which has no derivative of its own; "
            "use its composed form for create_graph=True"
        )
    y, _, _, *args = node.saved
    if op.keep != "shape":
        args = [_rejoin(a, p) for a, p in zip(args, node.parents, strict=True)]
    return None if y is None else Tensor._of(y, node), None, args


def _rejoin(array, parent):
    """A kept array as the tensor it was: its history is the parent's."""
    if array is None or parent is None:
        return array
    return Tensor._of(array, parent) if type(parent) is Node else parent


def _fit(gradient, shape, dtype, op, create_graph: bool):
    """A rule's result, summed over the axes along which its argument was broadcast, in the argument's type."""
    if gradient.shape != shape:
        extra = len(gradient.shape) - len(shape)
        if extra < 0 or any(n not in (1, m) for n, m in zip(shape, gradient.shape[extra:], strict=True)):
            raise ValueError(
                f"minigrad: a rule of {op.name} gave a gradient of shape {list(gradient.shape)} "
                f"for an argument of shape {list(shape)}"
            )
        ones = tuple(i + extra for i, n in enumerate(shape) if n == 1 and gradient.shape[i + extra] != 1)
        gradient = gradient.sum(axis=(*range(extra), *ones), keepdims=True).reshape(shape)
    if gradient.dtype != dtype:
        gradient = gradient.astype(dtype)
    if create_graph and type(gradient) is Rows:
        raise TypeError(f"minigrad: the rule of {op.name} gave Rows for a tensor, which ends the graph there")
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
    xs = list(xs)
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
    with backend.at(y._data):
        return _walked(name, y, gradient, wanted, retain_graph, create_graph)


def _walked(name: str, y: Tensor, gradient: Any, wanted: list | None, retain_graph: bool, create_graph: bool) -> list:
    if gradient is None:
        if y.shape != ():
            raise ValueError(
                f"minigrad.{name}: expected a scalar to start from, got {signature(y)}; "
                "reduce it with .sum() or .mean(), or give its gradient"
            )
        gradient = backend.xp_of(y._data).ones((), y.dtype)
    elif not isinstance(gradient, Tensor):
        gradient = backend.asarray_like(gradient, y._data, dtype=y.dtype)
    if gradient.shape != y.shape:
        raise ValueError(f"minigrad.{name}: gradient must have shape {list(y.shape)}, got {list(gradient.shape)}")
    if create_graph:
        gradient = gradient if isinstance(gradient, Tensor) else Tensor._of(gradient, None)
        return walk(y, gradient, wanted, True, True)
    if isinstance(gradient, Tensor):
        gradient = gradient._data
    return walk(y, gradient, wanted, retain_graph, False)
