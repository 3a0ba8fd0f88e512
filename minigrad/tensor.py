"""`Tensor`: an array, whether it needs a gradient, and the gradient when it has come.

Nothing clever happens here. The operators are the functions of `rules.py` (hung on at the end of that file); how
gradients are found is told in `tape.py` and `walk.py`; whether the array is NumPy's or CuPy's only `backend.py` knows.
"""

from typing import Any

from . import backend


class Leaf:
    """What the tape notes of a leaf whose values it has kept: how often they were changed. Views share it.

    Not the tensor itself: one that held itself would be a cycle, and its array be there until Python's collector came.
    """

    __slots__ = ("_version", "dtype", "shape")

    def __init__(self, data: Any):
        self._version, self.dtype, self.shape = 0, data.dtype, data.shape


class Tensor:
    """An array that remembers how it was computed. Make one with `minigrad.tensor` or `minigrad.param`.

    data: the array, of NumPy or CuPy. Assigning to a leaf's `.data`, also by `t.data -= …`, is how optimisers update;
        the tape notices, and refuses a walk for which it came too early. A write into the array, `t.data[0] = …`, it
        cannot see: do that only between steps.
    grad: ∂L/∂self after `L.backward()`, for leaves that require it: an array, `Rows` for a table of which rows were
        looked up, or a tensor after create_graph=True. Several backward() calls add up; `grad = None` starts anew.
        Interior gradients are not kept: `minigrad.grad(L, [t])` gives one.
    requires_grad: whether gradients come here.
    """

    __slots__ = ("__weakref__", "_data", "_leaf", "_node", "grad", "requires_grad")
    __array_ufunc__ = None  # array * tensor is the tensor's business, not NumPy's
    __array_priority__ = 1000  # the same for CuPy

    def __init__(self, data: Any, requires_grad: bool = False):
        if isinstance(data, Tensor):
            raise TypeError("minigrad.Tensor: the data is a Tensor already; use .detach() for one without history")
        if not hasattr(data, "dtype"):
            raise TypeError(f"minigrad.Tensor: expected an array, got {type(data).__name__}; use minigrad.tensor(...)")
        if requires_grad and data.dtype.kind not in "fc":
            raise TypeError(f"minigrad.Tensor: only floating-point tensors have gradients, got {data.dtype}")
        self._data, self._node, self._leaf = data, None, Leaf(data)
        self.grad, self.requires_grad = None, bool(requires_grad)

    @classmethod
    def _of(cls, data: Any, node: Any, args: tuple = ()) -> "Tensor":
        """The result of an operation on `args`. A view (reshape, a slice, .T) shows the memory of a leaf: `_leaf`."""
        self = object.__new__(cls)
        self._data, self._node, self._leaf = data, node, None
        self.grad, self.requires_grad = None, node is not None
        if data.base is not None:  # perhaps a view of an argument, perhaps of some intermediate array
            for a in args:
                if type(a) is cls and (data.base is a._data or data.base is a._data.base):
                    self._leaf = a._leaf
        return self

    # ---- the array ----

    @property
    def data(self):
        return self._data

    @data.setter
    def data(self, array):
        if self._node is not None:
            raise RuntimeError("minigrad.Tensor.data: this tensor is the result of an operation; only leaves change")
        if isinstance(array, Tensor) or not hasattr(array, "dtype"):
            raise TypeError(f"minigrad.Tensor.data: expected an array, got {type(array).__name__}; give its .data")
        if array.shape != self._data.shape:
            raise ValueError(
                f"minigrad.Tensor.data: the shape is {list(self.shape)} and stays so, got {list(array.shape)}"
            )
        with backend.at(array):
            self._data = backend.xp_of(array).asarray(array, dtype=self._data.dtype)  # of a scalar too; the type stays
        self._leaf._version += 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def dtype(self):
        return self._data.dtype

    @property
    def device(self) -> str:
        return backend.device_of(self._data)

    @property
    def T(self) -> "Tensor":
        return self.transpose()

    def numpy(self):
        """The values as a NumPy array in main memory; the tensor's own memory if it lies there."""
        return backend.to_cpu(self._data)

    def __array__(self, dtype: Any = None, copy: bool | None = None):
        """np.asarray(tensor): the tensor's own memory, without history; of a tensor on a GPU write `.numpy()`."""
        if self.device != "cpu":
            raise TypeError(f"minigrad.Tensor: this tensor is on {self.device}; .numpy() copies it to the CPU")
        return backend.xp_of(self._data).array(self._data, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any):
        """DLPack: torch.from_dlpack(tensor), jax.numpy.from_dlpack(tensor) and so on share the tensor's memory."""
        return backend.xp_of(self._data).asarray(self._data).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return backend.xp_of(self._data).asarray(self._data).__dlpack_device__()

    def item(self) -> float:
        """The value of a tensor with one element."""
        if self.size != 1:
            raise ValueError(f"minigrad.item: expected one element, got {self.dtype}{list(self.shape)}")
        return backend.read(self._data)

    def __float__(self) -> float:
        return float(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("minigrad.Tensor: len() of a scalar")
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        values = repr(backend.to_cpu(self._data)).removeprefix("array(")
        values = values.rpartition(", dtype")[0] or values.removesuffix(")")
        how = f", from={self._node.op.name}" if self._node else ", requires_grad=True" * self.requires_grad
        return f"tensor({values}, dtype={self.dtype}, device={self.device}{how})"

    def __bool__(self) -> bool:
        return bool(self.item())

    # These answer with arrays of booleans, and have no gradient. `==` asks, as of any object, if it is the same tensor:
    # compare the values by `.data`.
    def __lt__(self, other):
        return self._data < _array(other)

    def __le__(self, other):
        return self._data <= _array(other)

    def __gt__(self, other):
        return self._data > _array(other)

    def __ge__(self, other):
        return self._data >= _array(other)

    def __setitem__(self, index, value):
        raise TypeError(
            "minigrad.Tensor: tensors are not written in place, the tape would not see it; build a new one with "
            "arithmetic and indexing, or change a parameter's .data between steps"
        )

    # ---- gradients ----

    def backward(self, gradient: Any = None, *, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Adds ∂self/∂leaf to the `.grad` of every leaf that led to this tensor and requires one.

        gradient: ∂L/∂self, of self's shape; not needed for a scalar. The walk frees what it used: a second one over
        the same graph raises, unless the first had retain_graph=True. create_graph=True, which retains it as well,
        makes the gradients tensors that can be differentiated again; `.grad` holds that graph until it is set to None.
        """
        from .walk import backward

        backward(self, gradient, retain_graph, create_graph)

    def detach(self) -> "Tensor":
        """The same array (not a copy), without history."""
        alone = Tensor(self._data)
        alone._leaf = self._leaf or alone._leaf  # an update of that leaf changes this one
        return alone


def tensor(data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of `data` (numbers, nested lists, an array) on `device`, by default the current one.

    Python numbers become float32; arrays keep their type (float64 stays float64, integers stay integers).
    """
    if isinstance(data, Tensor):
        data = data._data
    try:
        array = backend.asarray(data)
    except (ValueError, TypeError) as error:
        raise type(error)(f"minigrad.tensor: expected numbers in a rectangular array: {error}") from error
    if array.dtype.kind not in "fciub":
        raise TypeError(f"minigrad.tensor: expected numbers, got an array of {array.dtype}")
    if dtype is not None or not hasattr(data, "dtype"):
        array = array.astype(dtype or "float32", copy=False)
    return Tensor(array if device is None else backend.to_device(array, device), requires_grad)


def from_dlpack(array: Any) -> Tensor:
    """A tensor that shares the memory of another library's array (torch, JAX, CuPy …), on the device where it is.

    A torch tensor that requires a gradient must be detached first.
    """
    if not hasattr(array, "__dlpack__"):
        raise TypeError(f"minigrad.from_dlpack: expected an array that speaks DLPack, got {type(array).__name__}")
    return Tensor(backend.from_dlpack(array))


def param(data: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor that is to be learned: a leaf with requires_grad=True, and an array of its own."""
    leaf = tensor(data, dtype=dtype, device=device, requires_grad=True)
    with backend.at(leaf._data):
        leaf._data = leaf._data.copy()
    return leaf


def _array(value: Any) -> Any:
    return value._data if type(value) is Tensor else value
