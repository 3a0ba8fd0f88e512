"""Rows against the dense array they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import kernels
from minigrad.backend import asarray
from minigrad.rows import add_rows

pytestmark = pytest.mark.engine


def some_rows(v=5, d=2, dtype="float64"):
    """Strategy: Rows of an array (v, d), with repeated ids, in small whole numbers so that sums are exact."""
    whole = st.integers(-4, 4).map(float)
    return st.integers(0, 6).flatmap(
        lambda n: st.builds(
            mg.Rows,
            hnp.arrays("int64", n, elements=st.integers(0, v - 1)).map(asarray),
            hnp.arrays(dtype, (n, d), elements=whole).map(asarray),
            st.just((v, d)),
        )
    )


def written_out(rows):
    """Equation (1), word for word."""
    dense = np.zeros(rows.shape)
    for i, v in zip(mg.to_cpu(rows.ids), mg.to_cpu(rows.values), strict=True):
        dense[i] += v
    return asarray(dense)


@given(some_rows())
def test_equal_ids_accumulate(rows):
    assert (rows.dense() == written_out(rows)).all()


@given(some_rows(), some_rows())
def test_rows_plus_rows(a, b):
    expected = written_out(a) + written_out(b)
    assert ((a + b).dense() == expected).all()
    a += b
    assert (a.dense() == expected).all()


@given(some_rows(), some_rows())
def test_adding_rows_leaves_the_operands_alone(a, b):
    before = written_out(a), written_out(b)
    total = a + b
    total += a
    assert (written_out(a) == before[0]).all() and (written_out(b) == before[1]).all()


@given(some_rows())
def test_rows_plus_array_and_array_plus_rows(rows):
    array = asarray(np.arange(10.0).reshape(5, 2))
    expected = written_out(rows) + array
    assert ((rows + array) == expected).all() and ((array + rows) == expected).all()
    assert array[0, 1] == 1.0, "neither is written into"


@given(some_rows())
def test_coalesced_rows_have_each_id_once_and_the_same_sum(rows):
    once = rows.coalesce()
    assert sorted(set(rows.ids.tolist())) == once.ids.tolist()
    assert (once.dense() == written_out(rows)).all()


@given(some_rows(), st.sampled_from([0.5, -2.0]))
def test_scaling_rows_and_adding_them_scaled(rows, scale):
    assert ((rows * scale).dense() == scale * written_out(rows)).all()
    assert (rows.add_to(asarray(np.ones((5, 2))), scale) == 1.0 + scale * written_out(rows)).all()


@pytest.mark.cpu
@given(st.data())
def test_the_kernel_adds_as_the_array_code_does_to_the_last_bit(data):
    n, dtype = data.draw(st.integers(0, 50)), data.draw(st.sampled_from(["float32", "float64"]))
    seed = mg.Key(data.draw(st.integers(0, 1000)))
    ids, values = seed.fold(0).integers(0, 7, n), seed.fold(1).normal((n, 3), dtype)
    a, b = np.zeros((7, 3), dtype), np.zeros((7, 3), dtype)
    scale = a.dtype.type(-0.1)
    kernels.add_rows(a, ids, values, scale)
    np.add.at(b, ids, values * scale)
    assert (a == b).all()


@pytest.mark.cpu
@given(st.integers(128, 300), st.sampled_from([(), (3,), (2, 2)]), st.sampled_from([5, 1000]), st.integers(0, 99))
def test_the_kernel_puts_rows_together_as_the_array_code_does_to_the_last_bit(n, row, v, seed):
    ids, values = mg.Key(seed).fold(0).integers(0, v, n), mg.Key(seed).fold(1).normal((n, *row))
    once = mg.Rows(ids, values, (v, *row)).coalesce()
    unique, position = np.unique(ids, return_inverse=True)
    sums = np.zeros((len(unique), *row), "float32")
    np.add.at(sums, position, values)
    assert (once.ids == unique).all() and (once.values == sums).all()


@pytest.mark.cpu
def test_large_and_small_batches_add_alike():
    key = mg.Key(0)
    ids, values = key.integers(0, 50, 3000), key.normal((3000, 8))
    at_once = add_rows(np.zeros((50, 8), "float32"), ids, values)
    in_pieces = np.zeros((50, 8), "float32")
    for i in range(0, 3000, 100):
        add_rows(in_pieces, ids[i : i + 100], values[i : i + 100])
    assert (at_once == in_pieces).all()


def test_the_gradient_of_a_look_up_holds_the_rows_looked_up_and_no_others():
    table = mg.param(np.zeros((1_000_000, 2), "float32"))
    (mg.take(table, [5, 999_999, 5]) * 2.0).sum().backward()
    assert isinstance(table.grad, mg.Rows)
    assert table.grad.nbytes == 3 * 8 + 3 * 2 * 4
    assert table.grad.coalesce().ids.tolist() == [5, 999_999]
    assert table.grad.coalesce().values.tolist() == [[4.0, 4.0], [2.0, 2.0]]


def test_a_look_up_in_a_computed_table_gives_the_table_a_dense_gradient():
    x = mg.param(np.ones((3, 2)))
    mg.take(x * 2.0, [0, 0, 2]).sum().backward()
    assert x.grad.tolist() == [[4.0, 4.0], [0.0, 0.0], [2.0, 2.0]]


def test_look_ups_and_dense_uses_of_one_table_add_up():
    x = mg.param(np.ones((3, 1)))
    (mg.take(x, [1, 1]).sum() + (x * 3.0).sum() + mg.take(x, [2]).sum()).backward()
    assert x.grad.ravel().tolist() == [3.0, 5.0, 4.0]


def test_a_few_look_ups_of_one_table_are_never_moved(monkeypatch):
    monkeypatch.setattr(mg.backend.xp(), "concatenate", lambda arrays: pytest.fail("put together"))
    table = mg.param(np.ones((4, 1)))
    (mg.take(table, [1, 3]).sum() + mg.take(table, [3]).sum() * 2.0).backward()
    mg.optim.SGD([table], lr=0.5).step()
    assert table.data.ravel().tolist() == [1.0, 0.5, 1.0, -0.5]


def test_gradients_of_two_look_ups_share_no_memory_with_one_another_nor_with_anybody_else():
    table, other, up = mg.param(np.ones((4, 2))), mg.param(np.ones((2, 2))), asarray(np.ones((2, 2)))
    (mg.take(table, [0, 1]) + mg.take(table, [2, 3]) + other).backward(up)
    table.grad.values[...] = 7.0
    for _, values in table.grad.parts():
        values[...] = 7.0
    assert (up == 1.0).all() and (other.grad == 1.0).all()
    twice = mg.param(np.ones((4, 2)))
    ((mg.take(twice, [0, 1]) + mg.take(twice, [2, 3])) * 1.0).backward(asarray(np.ones((2, 2))))
    first = twice.grad.parts()[0][1]
    first[0] = 9.0
    assert sorted(twice.grad.dense().ravel().tolist()) == [1.0] * 6 + [9.0] * 2


def test_ten_thousand_look_ups_of_one_table_are_listed_and_put_together_once(monkeypatch):
    moved, xp = [], mg.backend.xp()
    concatenate = xp.concatenate
    monkeypatch.setattr(xp, "concatenate", lambda arrays: moved.append(len(arrays)) or concatenate(arrays))
    table, total = mg.param(np.ones((4, 1))), 0.0
    for i in range(10_000):
        total = total + mg.take(table, [i % 4]).sum()
    total.backward()
    assert moved == [10_000, 10_000], "the ids, once, and the values, once"
    assert table.grad.dense().ravel().tolist() == [2500.0] * 4


def test_rows_are_scaled_by_numbers_and_stay_float32():
    rows = mg.Rows(asarray([1]), asarray(np.ones((1, 2), "float32")), (3, 2))
    assert (rows * np.float64(2)).dtype == "float32"
    with pytest.raises(TypeError, match="scaled by a number"):
        rows * asarray(np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"cannot add shapes \[3, 2\] and \[5, 2\]"):
        rows + asarray(np.zeros((5, 2)))


def test_rows_of_other_precisions_do_without_the_kernel():
    table = mg.param(np.ones((100, 64), "float16"))
    mg.take(table, np.arange(64)).sum().backward()
    assert table.grad.dense().dtype == "float16"


def test_ids_out_of_range_and_shapes_that_do_not_fit_are_refused():
    one_row = asarray(np.ones((1, 2)))
    with pytest.raises(IndexError, match=r"ids must lie in \[0, 3\), got 3"):
        mg.Rows(asarray([3]), one_row, (3, 2)).dense()
    with pytest.raises(ValueError, match=r"need values \[n, 2\]; got ids \[2\], values \[1, 2\]"):
        mg.Rows(asarray([0, 1]), one_row, (3, 2))
    with pytest.raises(ValueError, match=r"cannot add shapes \[3, 2\] and \[4, 2\]"):
        mg.Rows(asarray([0]), one_row, (3, 2)) + mg.Rows(asarray([0]), one_row, (4, 2))
