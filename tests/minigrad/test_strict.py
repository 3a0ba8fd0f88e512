"""The strict double itself: what it refuses, what it counts, and that what CuPy has works on it."""

import copy
import pickle

import numpy as np
import pytest
import strict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg

pytestmark = [pytest.mark.device, pytest.mark.cpu]

xp = strict.namespace


@pytest.fixture(autouse=True)
def counted_anew():
    strict.Device(0).use()
    strict.counts.reset()
    yield
    strict.pool.set_limit(0)
    strict.Device(0).use()


def there(values, dtype="float64"):
    return xp.asarray(np.array(values, dtype))


# ---- what must not be mixed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mix",
    [
        lambda d, h: d + h,
        lambda d, h: h + d,
        lambda d, h: h @ d,
        lambda d, h: d @ h,
        lambda d, h: xp.exp(h),
        lambda d, h: xp.concatenate([d, h]),
        lambda d, h: xp.where(h > 0, d, d),
        lambda d, h: xp.einsum("i,i", d, h),
        lambda d, h: xp.add(d, d, out=h),
        lambda d, h: np.add(h, d, out=h),
        lambda d, h: h.__iadd__(d),
        lambda d, h: d[np.array([0, 1])],
        lambda d, h: d[[0, 1]],
        lambda d, h: h[xp.asarray([0, 1])],
        lambda d, h: d.take(np.array([0])),
        lambda d, h: d.__setitem__(slice(None), h),
        lambda d, h: h.__setitem__(slice(None), d),
        lambda d, h: xp.add.at(d, np.array([0]), d[:1]),
        lambda d, h: xp.add.at(d, xp.asarray([0]), h[:1]),
        lambda d, h: np.asarray(d),
        lambda d, h: np.array([d, d]),
        lambda d, h: np.exp(d),
        lambda d, h: np.sum(d),
        lambda d, h: np.concatenate([h, d]),
        lambda d, h: np.multiply.outer(d, h),
        lambda d, h: memoryview(d),
    ],
)
def test_an_array_in_main_memory_and_one_of_the_gpu_do_not_mix(mix):
    with pytest.raises((TypeError, IndexError)):
        mix(there([1.0, 2.0, 3.0]), np.arange(3.0))


def test_a_number_is_handed_over_by_value():
    d = there([1.0, 2.0], "float32")
    for y in (d * 2, 2 * d, d**2, 1 / d, np.float32(2) * d, d * np.float32(2), np.float64(1) - d, -d, abs(d), d > 1):
        assert type(y) is strict.ndarray
    assert (np.float32(2) * d).dtype == (2.5 * d).dtype == "float32"
    assert strict.counts.copies_in == 1  # that of d itself


@pytest.mark.parametrize(
    "missing",
    [
        lambda d: xp.errstate,
        lambda d: xp.random.default_rng(0),
        lambda d: xp.sum(d, where=d > 0),
        lambda d: d.sum(where=d > 0),
        lambda d: xp.maximum.reduce(d),
        lambda d: xp.multiply.at(d, xp.asarray([0]), d[:1]),
        lambda d: xp.subtract.at(d, xp.asarray([0]), d[:1]),
        lambda d: xp.take(d, xp.asarray([0]), mode="clip"),
        lambda d: xp.exp([1.0]),
        lambda d: range(d.astype("int64")[0]),
        lambda d: hash(d),
        lambda d: xp.asarray(np.array(["a"])),
        lambda d: d.__imatmul__(d),
        lambda d: xp.left_shift(d, d),
    ],
)
def test_what_cupy_lacks_is_lacking(missing):
    with pytest.raises((TypeError, AttributeError)):
        missing(there([1.0, 2.0]))


@pytest.mark.parametrize(
    "undefined, said",
    [
        (lambda d, i: d.__setitem__(i, d), "comes twice"),
        (lambda d, i: d[xp.asarray([9])], "out of bounds"),
        (lambda d, i: xp.asarray(np.array([np.inf])).astype("int64"), "CPU and GPU disagree"),
        (lambda d, i: xp.asarray(np.array([1e10])).astype("int32"), "CPU and GPU disagree"),
    ],
)
def test_what_cupy_leaves_undefined_is_refused(undefined, said):
    with pytest.raises((TypeError, IndexError), match=said):
        undefined(there([1.0, 2.0]), xp.asarray(np.array([1, 1])))


def test_memory_that_nobody_has_written_is_rubbish():
    assert np.isnan(xp.empty(3).get()).all()
    assert (xp.empty_like(xp.asarray([1, 2])).get() == -7).all()


def test_the_two_devices_do_not_mix_and_a_copy_between_them_is_counted():
    a = there([1.0, 2.0])
    with xp.cuda.Device(1):
        with pytest.raises(TypeError, match="is on device 0, the current one is 1"):
            a + 1.0
        b = xp.asarray(a)
        assert b.device.id == 1 and (strict.counts.copies_between, strict.counts.bytes_between) == (1, 16)
    assert a.device.id == xp.cuda.Device().id == 0


# ---- what is counted --------------------------------------------------------------------------------------------


def test_copies_waits_and_launches_are_counted():
    x, w = there(np.ones((8, 4)), "float32"), there(np.ones((4, 2)), "float32")
    c = strict.counts
    assert (c.copies_in, c.bytes_in, c.launches, c.waits) == (2, 8 * 4 * 4 + 4 * 2 * 4, 0, 0)
    y = xp.exp(x @ w).sum()
    assert (c.launches, c.waits) == (3, 0)
    assert y.shape == () and float(y) > 0
    assert (c.copies_out, c.bytes_out, c.waits) == (1, 4, 1)


@pytest.mark.parametrize(
    "use, launches",
    [
        (lambda d: d.reshape(2, 2), 0),
        (lambda d: d.reshape(2, 2).T[1:], 0),
        (lambda d: xp.broadcast_to(d, (3, 4)), 0),
        (lambda d: d[xp.asarray([0, 1])], 1),
        (lambda d: d.copy(), 1),
    ],
)
def test_a_view_shows_the_memory_it_was_taken_from_and_is_no_launch(use, launches):
    d = there([1.0, 2.0, 3.0, 4.0])
    y = use(d)
    assert strict.counts.launches == launches
    assert (y.base is d) == (launches == 0)


@pytest.mark.parametrize("wait", [lambda d: d[d > 0], lambda d: xp.unique(d), lambda d: xp.nonzero(d), bool, int])
def test_whoever_needs_a_number_on_the_cpu_waits(wait):
    d = there([1.0])
    before = strict.counts.waits
    wait(d)
    assert strict.counts.waits == before + 1


def test_looping_over_an_array_reads_it_number_by_number():
    assert list(np.fromiter(there([1.0, 2.0, 3.0]), float)) == [1.0, 2.0, 3.0]
    assert strict.counts.copies_out == 3


def test_pickling_goes_through_main_memory_and_a_deep_copy_does_not():
    d = there([1.0, 2.0])
    assert copy.deepcopy(d).tolist() == [1.0, 2.0]
    before = strict.counts.copies_out
    with strict.installed():
        assert type(pickle.loads(pickle.dumps(d))) is strict.ndarray  # of this process: no file is read
    assert strict.counts.copies_out == before + 1


def test_bytes_in_use_their_peak_and_a_limit():
    d = there(np.zeros(1000))
    assert xp.get_default_memory_pool().used_bytes() >= 8000
    e = d + d
    del e
    assert strict.counts.peak >= strict.counts.live + 8000
    strict.pool.set_limit(strict.pool.used_bytes() + 7999)
    with pytest.raises(xp.cuda.memory.OutOfMemoryError, match="Out of memory allocating 8,000 bytes"):
        d + d


# ---- streams ----------------------------------------------------------------------------------------------------


def sent(values, stream):
    host = strict.cupyx.empty_pinned(len(values), "float64")
    host[...] = values
    array = xp.empty(len(values))
    array.set(host, stream=stream)
    return array, host


def test_what_is_copied_on_a_stream_of_its_own_arrives_when_somebody_waits():
    stream = xp.cuda.Stream(non_blocking=True)
    array, _ = sent([1.0, 2.0], stream)
    with pytest.raises(TypeError, match="still on its way"):
        array + 1.0
    event = stream.record()
    assert not event.done
    xp.cuda.get_current_stream().wait_event(event)
    assert event.done and (array + 1.0).tolist() == [2.0, 3.0]


def test_main_memory_that_changes_under_a_copy_spoils_it():
    stream = xp.cuda.Stream(non_blocking=True)
    array, host = sent([1.0, 2.0], stream)
    host[...] = 5.0
    stream.synchronize()
    assert array.tolist() == [5.0, 5.0]


def test_the_second_copy_of_a_stream_does_not_arrive_before_its_own_event():
    stream = xp.cuda.Stream(non_blocking=True)
    first, _ = sent([1.0], stream)
    event = stream.record()
    second, _ = sent([2.0], stream)
    event.synchronize()
    assert first.tolist() == [1.0]
    with pytest.raises(TypeError, match="still on its way"):
        second.get()


# ---- that what CuPy has works -----------------------------------------------------------------------------------


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(-50, 50, width=32))
)
def test_array_code_gives_what_it_gives_with_numpy(x):
    def logsumexp(lib, a):
        m = a.max(axis=1, keepdims=True)
        return lib.log(lib.exp(a - m).sum(axis=1, keepdims=True)) + m

    assert (logsumexp(np, x) == logsumexp(xp, xp.asarray(x)).get()).all()


def test_installed_it_is_cupy_and_afterwards_no_more():
    with strict.installed():
        mg.set_device("gpu")
        assert mg.tensor([1.0]).device == "gpu:0"
        mg.set_device("cpu")
        import cupy

        assert cupy is xp
