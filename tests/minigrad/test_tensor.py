"""Tensors: their types, what they refuse, how they show themselves."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import minigrad as mg

pytestmark = pytest.mark.engine


def test_python_numbers_become_float32_and_arrays_keep_their_type():
    assert mg.tensor([1, 2.5]).dtype == "float32"
    assert mg.param(1).dtype == "float32"
    assert mg.tensor(np.zeros(2)).dtype == "float64"
    assert mg.tensor(np.arange(2)).dtype == "int64"
    assert mg.tensor([1.0], dtype="float64").dtype == "float64"


@pytest.mark.parametrize(
    "other",
    [
        2.0,
        2,
        np.float64(2),
        np.sqrt(2),
        np.arange(1, 4),
        np.ones(3),
        [1.0, 2.0, 3.0],
        True,
        np.array(2.0),
        np.ones(3, bool),
    ],
    ids=lambda o: f"{type(o).__name__} {getattr(o, 'dtype', '')}",
)
@pytest.mark.parametrize("f", ["__add__", "__rsub__", "__mul__", "__truediv__", "__rtruediv__"])
def test_a_float32_graph_never_turns_float64(f, other):
    x = mg.param([1.0, 2.0, 4.0])
    y = mg.logsumexp(getattr(x, f)(other) * x)
    y.backward()
    assert y.dtype == "float32" and x.grad.dtype == "float32"


def test_a_float64_graph_stays_float64():
    x = mg.param(np.array([1.0, 2.0]))
    y = (x * np.float32(2)).mean()
    y.backward()
    assert y.dtype == "float64" and x.grad.dtype == "float64"


def test_division_of_integer_tensors_gives_float32():
    assert (mg.tensor(np.arange(3)) / 2).dtype == "float32"


def test_an_integer_tensor_has_no_gradient():
    with pytest.raises(TypeError, match=r"only floating-point tensors have gradients, got int64"):
        mg.tensor(np.arange(3), requires_grad=True)


def test_an_array_on_the_left_leaves_the_operation_to_the_tensor():
    for ones in (np.ones(2), mg.backend.xp().ones(2)):
        y = ones * mg.param([1.0, 2.0])
        assert isinstance(y, mg.Tensor) and y.data.tolist() == [1.0, 2.0]
    assert (np.float64(3) - mg.param([1.0])).data.tolist() == [2.0]
    assert (np.ones((1, 2)) @ mg.param([1.0, 2.0])).data.tolist() == [3.0]


def test_writing_in_place_is_refused_with_advice():
    x = mg.param([1.0, 2.0])
    with pytest.raises(TypeError, match=r"not written in place.*build a new one"):
        x[0] = 3.0


def test_plus_equals_makes_a_new_tensor():
    x = y = mg.param([1.0])
    y += 1.0
    assert x.data.tolist() == [1.0] and y.data.tolist() == [2.0] and y.requires_grad


def test_only_leaves_are_updated():
    y = mg.param([1.0]) * 2.0
    with pytest.raises(RuntimeError, match=r"only leaves change"):
        y.data = np.zeros(1)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (mg.tensor([1.0, 2.0]), "expected an array, got Tensor"),
        ([1.0, 2.0], "expected an array, got list"),
        (np.zeros(3), r"the shape is \[2\] and stays so, got \[3\]"),
    ],
)
def test_what_is_no_update_of_the_data_is_refused(array, says):
    x = mg.param([1.0, 2.0])
    with pytest.raises((TypeError, ValueError), match=says):
        x.data = array
    assert x.data.tolist() == [1.0, 2.0]


def test_an_update_keeps_the_type():
    x = mg.param([1.0, 2.0])
    x.data = x.data - np.float64(0.5) * mg.backend.asarray(np.ones(2))
    assert x.dtype == "float32" and x.data.tolist() == [0.5, 1.5]


@pytest.mark.parametrize("optimiser", [mg.optim.SGD, mg.optim.Adagrad])
def test_a_scalar_that_went_through_arithmetic_is_still_updated(optimiser):
    p = mg.param(1.0)
    p.data = p.data * 2
    (p * p).backward()
    optimiser([p], lr=0.1).step()
    assert p.item() < 2.0


def test_integers_made_of_a_tensor_have_no_gradient():
    assert not mg.param([1.5]).astype("int64").requires_grad


def test_a_tensor_is_made_of_an_array_by_hand_only():
    with pytest.raises(TypeError, match=r"expected an array, got list; use minigrad.tensor"):
        mg.Tensor([1.0, 2.0])


def test_a_number_to_the_power_of_a_tensor_says_what_to_write():
    with pytest.raises(TypeError, match=r"minigrad.power.*use exp\(n \* log\(a\)\)"):
        2.0 ** mg.param([1.0])


def test_a_parameter_has_an_array_of_its_own():
    array = np.ones(2)
    mg.param(array).data[0] = 5.0
    assert array.tolist() == [1.0, 1.0]


def test_detach_cuts_the_history():
    x = mg.param(3.0)
    y = x * x
    (y.detach() * x).backward()
    assert x.grad == 9.0


def test_comparisons_are_arrays_of_booleans():
    assert (mg.param([1.0, 3.0]) > 2.0).tolist() == [False, True]
    assert (mg.param([1.0, 3.0]) <= mg.param([1.0, 2.0])).tolist() == [True, False]


def test_item_and_float_want_one_element():
    assert float(mg.param(2.0)) == 2.0 and mg.param([[3.0]]).item() == 3.0
    with pytest.raises(ValueError, match=r"expected one element, got float32\[2\]"):
        mg.param([1.0, 2.0]).item()


@pytest.mark.parametrize("data", [["a"], [[1.0], [1.0, 2.0]], None, object()])
def test_what_is_no_rectangle_of_numbers_is_refused(data):
    with pytest.raises((TypeError, ValueError), match=r"minigrad.tensor: expected numbers"):
        mg.tensor(data)


def test_a_tensor_shows_its_values_type_device_and_origin():
    x = mg.param([1.0, 2.0])
    assert repr(x) == f"tensor([1., 2.], dtype=float32, device={mg.get_device()}, requires_grad=True)"
    assert repr(x * 2.0) == f"tensor([2., 4.], dtype=float32, device={mg.get_device()}, from=mul)"


def test_iterating_and_unpacking_go_along_the_first_axis():
    a, b = mg.param([[1.0, 2.0], [3.0, 4.0]])
    assert a.data.tolist() == [1.0, 2.0] and len(b) == 2


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("cupy", "says"),
    [(None, "needs CuPy.*pip install"), (SimpleNamespace(is_available=lambda: False), "finds no CUDA device")],
    ids=["no CuPy", "no GPU"],
)
def test_a_gpu_that_is_not_there_is_a_clear_error(cupy, says, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(mg.backend.DeviceError, match=says):
        mg.set_device("gpu")
    with pytest.raises(mg.backend.DeviceError, match=says):
        mg.tensor([1.0]).to("gpu")
    assert mg.get_device() == "cpu"


@pytest.mark.parametrize("device", ["cuda", "gpu:x", "cpu:1", ""])
def test_an_unknown_device_is_a_clear_error(device):
    with pytest.raises(mg.backend.DeviceError, match=r'expected "cpu", "gpu" or "gpu:N"'):
        mg.set_device(device)


# ---- other libraries ------------------------------------------------------------------------------------------------


@pytest.mark.cpu
def test_numpy_sees_the_tensors_own_memory():
    t = mg.param(np.arange(3.0))
    seen = np.asarray(t)
    seen[0] = 5.0
    assert t.data[0] == 5.0
    assert np.asarray(t, dtype="float32").dtype == "float32"
    assert not np.shares_memory(np.array(t, copy=True), t.data)
    assert np.allclose(t, [5.0, 1.0, 2.0])


@pytest.mark.cpu
def test_dlpack_shares_memory_both_ways():
    t = mg.param(np.arange(3.0))
    out = np.from_dlpack(t)
    t.data += 1.0
    assert out.tolist() == [1.0, 2.0, 3.0]
    array = np.zeros(2, "float32")
    back = mg.from_dlpack(array)
    array[0] = 7.0
    assert back.data.tolist() == [7.0, 0.0] and back.dtype == "float32" and not back.requires_grad


def test_from_dlpack_says_what_it_takes():
    with pytest.raises(TypeError, match=r"minigrad\.from_dlpack: expected an array that speaks DLPack, got list"):
        mg.from_dlpack([1.0])
