"""Tensors on a GPU: where they lie, what is refused, what moves. On the strict double, which stands in for CuPy."""

import gc
import threading
from typing import NamedTuple

import numpy as np
import pytest
import strict

import minigrad as mg
from minigrad import backend, cuda, ids, streams, tape
from minigrad.backend import DeviceError

pytestmark = pytest.mark.device


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """The double with its two devices, the first of them current; and afterwards as if no second had been used."""
    device = mg.get_device()
    for module, name, value in [(tape, "several_gpus", False), (tape, "_special", 0), (backend, "_gpus", {0})]:
        monkeypatch.setattr(module, name, value)
    with strict.installed():
        mg.set_device("gpu")
        strict.counts.reset()
        yield
        strict.pool.set_limit(0)
        mg.set_device("gpu:0")
    mg.set_device(device.partition(":")[0])


def two_devices():
    return mg.param([1.0, 2.0], device="gpu:0"), mg.param([3.0, 4.0], device="gpu:1")


# ---- where they lie ---------------------------------------------------------------------------------------------


def test_new_tensors_are_made_on_the_device_that_was_set():
    x = mg.param([1.0, 2.0])
    assert x.device == (x * 2.0).device == "gpu:0"
    assert x.numpy().tolist() == [1.0, 2.0]
    mg.set_device("gpu:1")
    assert mg.param([1.0]).device == mg.tensor(mg.Key(1).uniform(3)).device == "gpu:1"


def test_gradients_lie_where_their_tensors_lie():
    x = mg.param(np.ones((3, 2), "float32"))
    mg.cross_entropy(mg.tanh(x) @ x.T, [0, 1, 2]).backward()
    assert backend.device_of(x.grad) == "gpu:0"


def test_a_tensor_that_is_moved_takes_the_graph_along_and_its_gradient_comes_back():
    w = mg.param([1.0, 2.0], device="cpu")
    (w.to("gpu:1") * 3.0).sum().to("cpu").backward()
    assert backend.device_of(w.grad) == "cpu" and w.grad.tolist() == [3.0, 3.0]


def test_an_operation_is_done_on_the_gpu_that_holds_its_arguments_whichever_is_current():
    _, x = two_devices()
    y = (mg.exp(x) * x + 1.0).sum()  # the fast way of one argument, of two, and the general way
    assert y.device == "gpu:1"
    y.backward()
    assert backend.device_of(x.grad) == "gpu:1"
    assert np.allclose(mg.to_cpu(x.grad), np.exp([3.0, 4.0]) * [4.0, 5.0])
    assert strict.Device.current == 0


def test_a_module_moves_with_its_gradients_and_its_optimiser_follows():
    model = mg.nn.Sequential(mg.nn.Embedding(5, 4, key=mg.Key(1)), mg.nn.Linear(4, 3, key=mg.Key(2)))
    optimiser = mg.optim.Adam(model.parameters())
    for place in ("gpu:0", "gpu:1", "cpu"):
        model.to(place)
        optimiser.zero_grad()
        model([1, 1, 4]).sum().backward()
        optimiser.step()
        assert {p.device for p in model.parameters()} == {place}
    model([0]).sum().backward()
    model.to("gpu:1")
    assert {backend.device_of(getattr(p.grad, "values", p.grad)) for p in model.parameters()} == {"gpu:1"}


def test_training_on_the_double_gives_what_training_on_the_cpu_gives():
    def train():
        model = mg.nn.Sequential(mg.nn.Embedding(7, 4, key=mg.Key(1)), mg.tanh, mg.nn.Linear(4, 3, key=mg.Key(2)))
        optimiser = mg.optim.Adam(model.parameters(), lr=0.1)
        for step in range(5):
            optimiser.zero_grad()
            mg.cross_entropy(model([step, 3, step + 1, 3]), [0, 1, 2, 1]).backward()
            optimiser.step()
        return model.state_dict()

    there = train()
    mg.set_device("cpu")
    here = train()
    for name, array in here.items():
        assert np.allclose(array, there[name], rtol=1e-5, atol=1e-6), name


def test_where_there_is_no_compiler_the_double_computes_the_same_without_the_cuda_source(monkeypatch):
    def drawn_and_scored():
        cuda._kernel.cache_clear()
        x = mg.param(mg.Key(3).normal((3, 5)))
        losses = mg.cross_entropy(x, [0, 4, 4], "none")
        losses.sum().backward()
        return x.numpy(), losses.numpy(), mg.to_cpu(x.grad)

    found = drawn_and_scored()
    monkeypatch.setattr(strict.cuda_on_cpu, "MISSING", "there is no compiler")
    for one, other in zip(found, drawn_and_scored(), strict=True):
        assert np.allclose(one, other, rtol=1e-6, atol=1e-6)
    cuda._kernel.cache_clear()


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu:2", "gpu:17"])
def test_a_gpu_that_is_not_there_is_named(device):
    number = device.partition(":")[2]
    for use in (mg.set_device, lambda device: mg.tensor([1.0]).to(device), lambda device: mg.param(1.0, device=device)):
        with pytest.raises(DeviceError, match=f"there is no GPU {number}; this machine has 2, from 0"):
            use(device)


@pytest.mark.parametrize(
    "use",
    [
        lambda a, b: a + b,
        lambda a, b: a @ b,
        lambda a, b: mg.concat([a, b]),
        lambda a, b: mg.where([True, False], a, b),
        lambda a, b: a * b.detach(),
    ],
)
def test_tensors_of_two_devices_are_refused_and_both_are_named(use):
    a, b = two_devices()
    with pytest.raises(DeviceError, match=r"minigrad\.\w+\(float32.*are on gpu:0 and gpu:1; move one"):
        use(a, b)
    with pytest.raises(DeviceError, match=r"minigrad\.\w+\(float32.*are on cpu and gpu:0; move one"):
        use(a, mg.param([1.0, 2.0], device="cpu"))


def test_an_array_of_the_gpu_is_refused_beside_a_tensor_of_the_cpu():
    with pytest.raises(DeviceError, match="are on cpu and gpu:0"):
        mg.param([1.0, 2.0], device="cpu") * backend.asarray([1.0, 2.0])


def test_a_constant_from_main_memory_goes_to_the_gpu_of_the_tensor_beside_it():
    _, x = two_devices()
    y = x * np.array([10.0, 20.0])
    assert (y.device, y.dtype, y.numpy().tolist()) == ("gpu:1", "float32", [30.0, 80.0])
    assert (x * np.float64(2.0)).numpy().tolist() == [6.0, 8.0]


def test_when_memory_runs_out_the_error_says_what_was_asked_for_and_what_is_kept():
    x = mg.param(np.ones((64, 64), "float32"))
    y = mg.exp(mg.tanh(x))
    strict.pool.set_limit(3 * x.data.nbytes + 100)
    with pytest.raises(MemoryError) as error:
        y @ y
    said = str(error.value)
    assert "minigrad.matmul(float32[64, 64], float32[64, 64])" in said
    assert "16,384 bytes" in said
    assert "the tape keeps 32 KiB, the most 16 KiB by tanh for float32[64, 64]" in said


def test_in_main_memory_too():
    mg.set_device("cpu")
    column = mg.exp(mg.param(np.ones((10**7, 1), "float32")))
    with pytest.raises(MemoryError) as error:
        column * column.T
    said = str(error.value)
    assert said.startswith("minigrad.mul(float32[10000000, 1], float32[1, 10000000]): Unable to allocate ")
    assert said.endswith("the tape keeps 38.15 MiB, the most 38.15 MiB by exp for float32[10000000, 1]")


def looked_up(bad):
    return mg.take(mg.param(np.ones((5, 2))), bad)


def picked(bad):
    return mg.take_along_axis(mg.param(np.ones((2, 5))), backend.asarray(bad).reshape(2, 1), axis=1)


def scored(bad):
    return mg.cross_entropy(mg.param(np.ones((2, 5))), bad)


def added(bad):
    return mg.rows.add_rows(backend.asarray(np.ones((5, 2))), backend.asarray(bad), backend.asarray(np.ones((2, 2))))


def listed(bad):
    return mg.Rows(backend.asarray(bad), backend.asarray(np.ones((2, 2))), (5, 2))


@pytest.mark.parametrize("use", [looked_up, picked, scored, added, listed])
@pytest.mark.parametrize("wrong", [[0, 5], [-1, 2]])
def test_an_id_that_is_out_of_range_is_an_error_on_a_gpu_too(use, wrong):
    for bad in (wrong, np.array(wrong), backend.asarray(wrong), mg.tensor(np.array(wrong)).data):
        with pytest.raises(IndexError, match=r"must lie in \[0, 5\), got (5|-1)"):
            use(bad)


# ---- what moves -------------------------------------------------------------------------------------------------


def counted(step):
    strict.counts.reset()
    with mg.transfers() as moved:
        step()
    return moved


def same_as_the_double(moved):
    c = strict.counts
    theirs = c.copies_in, c.bytes_in, c.copies_out, c.bytes_out, c.copies_between, c.bytes_between, c.waits
    return theirs == tuple(vars(moved).values())


def test_one_training_step_is_two_copies_in_and_one_out():
    model = mg.nn.Sequential(mg.nn.Embedding(9, 4, key=mg.Key(1)), mg.tanh, mg.nn.Linear(4, 6, key=mg.Key(2)))
    optimiser, losses = mg.optim.SGD(model.parameters(), lr=0.1), []
    inputs, targets = np.array([1, 8, 1]), np.array([0, 5, 2])

    def step():
        loss = mg.cross_entropy(model(inputs), targets)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())

    moved = counted(step)
    assert str(moved) == "2 copies in (48 B), 1 copy out (4 B), 1 wait"
    assert same_as_the_double(moved)


def test_to_and_fro_and_between_is_counted_with_its_bytes():
    def move():
        x = mg.tensor(np.ones(10, "float32"))
        x.to("gpu:1").to("cpu")
        x.to("gpu:0")  # it lies there
        float(x.sum())

    moved = counted(move)
    assert (moved.copies_in, moved.bytes_in, moved.copies_between, moved.bytes_between) == (1, 40, 1, 40)
    assert (moved.copies_out, moved.bytes_out, moved.waits) == (2, 44, 2)
    assert str(moved) == "1 copy in (40 B), 2 copies out (44 B), 1 copy between GPUs (40 B), 2 waits"
    assert same_as_the_double(moved)


def test_on_the_cpu_nothing_moves():
    mg.set_device("cpu")
    moved = counted(lambda: mg.tensor([1.0, 2.0]).sum().item())
    assert str(moved) == "0 copies in (0 B), 0 copies out (0 B), 0 waits"


def test_a_ledger_hears_of_its_own_thread_only_and_ledgers_nest():
    with mg.transfers() as outer:
        with mg.transfers() as inner:
            mg.tensor([1.0])
            other = threading.Thread(target=lambda: mg.tensor([1.0], device="gpu"))
            other.start()
            other.join()
        mg.tensor([1.0])
    assert (inner.copies_in, outer.copies_in) == (1, 2)


def test_ids_from_main_memory_are_looked_at_there_and_cost_no_wait():
    table = mg.param(np.ones((5, 2), "float32"))
    moved = counted(lambda: mg.take(table, np.array([0, 4, 4])))
    assert (moved.copies_in, moved.waits) == (1, 0)


def test_ids_that_were_looked_at_once_are_not_again_nor_are_parts_of_them():
    table = mg.param(np.ones((5, 2), "float32"))
    came_in = backend.asarray(np.array([0, 4, 1, 2]))
    assert counted(lambda: [mg.take(table, came_in[i:]) for i in range(4)]).waits == 0
    made_there = mg.Key(1).integers(0, 5, 4)
    assert counted(lambda: mg.take(table, made_there)).waits == 1
    assert counted(lambda: [mg.take(table, made_there), mg.take(table, made_there[1:])]).waits == 0
    assert strict.counts.waits == 0


@pytest.mark.parametrize(
    "index, axis",
    [
        (lambda bad: (bad, 0), 0),
        (lambda bad: (0, bad), 1),
        (lambda bad: (..., bad), 2),
        (lambda bad: (None, slice(None), bad), 1),
        (lambda bad: (np.array([True, False, True]), bad), 1),
        (lambda bad: (np.array([1, 0]), bad), 1),
    ],
)
def test_an_index_among_others_that_is_out_of_range_is_named_with_its_axis(index, axis):
    x = mg.param(np.ones((3, 4, 5), "float32"))
    n = x.shape[axis]
    for wrong in (n, -n - 1):
        with pytest.raises(IndexError, match=rf"^minigrad.getitem: index {wrong} is out of bounds for axis {axis} "):
            x[index(np.array([0, wrong]))]
    assert x[index(np.array([0, -n]))].numpy().shape == x.numpy()[index(np.array([0, -n]))].shape


def test_a_list_of_ids_as_an_index_costs_no_wait_and_a_mask_one_there_and_back():
    w = mg.param(np.ones((5, 2), "float32"))
    assert counted(lambda: w[[0, 4]]).waits == counted(lambda: w[np.array([0, -1])]).waits == 0
    mask = np.array([True, False, True, True, False])
    moved = counted(lambda: w[mask].sum().backward())
    assert (moved.copies_in, moved.waits) == (1, 1) and same_as_the_double(moved)
    assert mg.to_cpu(w.grad).sum(axis=1).tolist() == [2.0, 0.0, 2.0, 2.0, 0.0]


def test_a_part_of_ids_may_be_right_where_the_whole_is_not():
    table = mg.param(np.ones((3, 2), "float32"))
    for wrong in (3, 7, -1):
        whole = backend.asarray(np.array([0, 2, wrong]))
        assert mg.take(table, whole[:2]).shape == (2, 2)
        with pytest.raises(IndexError, match=f"got {wrong}"):
            mg.take(table, whole)


def test_what_is_known_of_ids_is_forgotten_with_them():
    before = len(ids._known)
    came_in = backend.asarray(np.array([1, 2]))
    assert len(ids._known) == before + 1
    del came_in
    assert len(ids._known) == before


# ---- as early as possible ---------------------------------------------------------------------------------------


class Pair(NamedTuple):
    x: np.ndarray
    y: int


def batches(n=4):
    return [(np.arange(3) + 10 * i, np.full((3, 2), i, "float32")) for i in range(n)]


def happened():
    """The order of events, as far as copies and the loop's own marks go."""
    return [f"{stream}: {what}" for stream, what in strict.events if what in ("copy in", "compute")]


def test_the_next_batch_is_on_its_way_before_this_one_is_computed():
    for _ in backend.prefetch([np.ones(2, "float32") * i for i in range(3)]):
        strict.events.append(("computing", "compute"))
    here, there = "computing: compute", "copying: copy in"
    assert happened() == [there, there, here, there, here, here]


def test_batches_arrive_as_they_were_and_where_they_should():
    for (ids_there, values_there), (ids_here, values_here) in zip(backend.prefetch(batches()), batches(), strict=True):
        assert backend.device_of(ids_there) == "gpu:0"
        assert mg.to_cpu(ids_there).tolist() == ids_here.tolist()
        assert mg.to_cpu(values_there).tolist() == values_here.tolist()


def test_the_computing_stream_waits_for_the_arrival_and_the_cpu_does_not():
    moved = counted(lambda: [values + 1.0 for _, values in backend.prefetch(batches())])
    assert (moved.copies_in, moved.waits) == (8, 0)
    assert same_as_the_double(moved)


def test_the_copy_waits_until_its_room_is_no_longer_read():
    strict.counts.reset()
    list(backend.prefetch([np.ones(2, "float32")] * 2))
    copying = [what for stream, what in strict.events if stream == "copying"]
    assert copying[:2] == ["waits for computing", "copy in"]


def test_what_the_caller_does_to_his_batch_afterwards_changes_nothing():
    buffer, found = np.zeros(2, "float32"), []

    def refilled():
        for i in range(3):
            buffer[:] = i
            yield buffer

    for batch in backend.prefetch(refilled()):
        found.append(float(batch.sum()))
    assert found == [0.0, 2.0, 4.0]


def test_prefetched_ids_need_not_be_looked_at_on_the_gpu():
    table = mg.param(np.ones((50, 2), "float32"))
    assert counted(lambda: [mg.take(table, batch) for batch, _ in backend.prefetch(batches())]).waits == 0


def test_a_batch_may_be_an_array_a_number_a_list_or_tuples_and_dictionaries_of_them():
    (found,) = backend.prefetch([{"x": ([1.0, 2.0], 3), "y": np.ones((2, 2))}])
    assert {"x", "y"} == found.keys() and isinstance(found["x"], tuple)
    assert mg.to_cpu(found["x"][0]).tolist() == [1.0, 2.0] and int(found["x"][1]) == 3


def test_a_named_tuple_stays_one_and_what_is_no_batch_is_refused():
    (found,) = backend.prefetch([Pair(np.ones(2), 3)])
    assert type(found) is Pair and found.x.shape == (2,)
    with pytest.raises(TypeError, match="must come from main memory, got an array on a GPU"):
        list(backend.prefetch([found]))
    with pytest.raises(TypeError, match="must hold numbers, got str"):
        list(backend.prefetch(["text"]))


def test_a_loop_that_is_left_early_lets_go_of_nothing_that_is_still_copied():
    def left_early():
        for _ in backend.prefetch(batches()):
            break

    moved = counted(left_early)
    assert all(stream.done_of_it == len(stream.queue) for stream in strict.streams)
    assert moved.copies_in == 4 and moved.waits == 1 and same_as_the_double(moved)


def test_the_cpu_is_no_more_than_some_batches_ahead_of_the_copies(monkeypatch):
    monkeypatch.setattr(streams, "_arrived", lambda arrays, arrival, computing: arrays)  # nobody waits but the loop
    assert counted(lambda: list(backend.prefetch(batches(streams.AHEAD)))).waits == streams.AHEAD
    strict.counts.reset()
    seen = []
    for _ in backend.prefetch(batches(streams.AHEAD + 3)):
        seen.append(strict.counts.waits)
    assert seen == [0] * (streams.AHEAD - 1) + [1, 2, 3, 3]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_no_batches_and_one_batch_and_a_loop_that_is_left_early(device):
    mg.set_device(device)
    assert list(backend.prefetch([])) == []
    assert len(list(backend.prefetch(batches(1)))) == 1
    for _ in backend.prefetch(batches()):
        break


def test_on_the_cpu_batches_pass_through_uncopied():
    mg.set_device("cpu")
    x = np.ones(3)
    assert next(backend.prefetch([x])) is x


# ---- sabotage ---------------------------------------------------------------------------------------------------


def without_waiting_for_the_arrival(arrays, arrival, computing):
    return arrays


def without_waiting_for_the_room(host, computing, copying):
    array = backend.xp().empty(host.shape, host.dtype)
    array.set(host, stream=copying)
    backend.tell("in", host.nbytes, backend.device_of(array))
    return array


def from_memory_that_is_not_pinned(values):
    return np.asarray(values)


@pytest.mark.parametrize(
    "name, mutant, killer",
    [
        ("_arrived", without_waiting_for_the_arrival, test_batches_arrive_as_they_were_and_where_they_should),
        ("_sent", without_waiting_for_the_room, test_the_copy_waits_until_its_room_is_no_longer_read),
        ("_pinned", from_memory_that_is_not_pinned, test_what_the_caller_does_to_his_batch_afterwards_changes_nothing),
        ("_wait_for", lambda arrival: None, test_a_loop_that_is_left_early_lets_go_of_nothing_that_is_still_copied),
        ("remember", lambda *_: None, test_prefetched_ids_need_not_be_looked_at_on_the_gpu),
    ],
)
def test_a_wrong_prefetch_is_caught(name, mutant, killer, monkeypatch):
    killer()
    monkeypatch.setattr(streams, name, mutant)
    with pytest.raises((AssertionError, TypeError)):
        killer()


def an_id_out_of_range():
    test_an_id_that_is_out_of_range_is_an_error_on_a_gpu_too(scored, [0, 5])


@pytest.mark.parametrize(
    "name, mutant, killer",
    [
        ("check_ids", lambda *_: None, an_id_out_of_range),
        ("note_range", lambda *_: None, test_ids_that_were_looked_at_once_are_not_again_nor_are_parts_of_them),
        ("_range_on_gpu", lambda ids, size: (0, size - 1), test_a_part_of_ids_may_be_right_where_the_whole_is_not),
    ],
)
def test_a_door_that_is_left_open_is_caught(name, mutant, killer, monkeypatch):
    killer()
    monkeypatch.setattr(ids, name, mutant)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        killer()


def test_an_operation_that_ignores_where_its_arguments_lie_is_caught(monkeypatch):
    monkeypatch.setattr(tape, "look_where_tensors_lie", lambda: None)
    with pytest.raises(TypeError, match="is on device 1, the current one is 0"):
        test_an_operation_is_done_on_the_gpu_that_holds_its_arguments_whichever_is_current()


def test_the_double_frees_what_nobody_holds():
    gc.collect()
    before = strict.counts.live
    x = mg.tensor(np.ones(1000, "float32"))
    assert strict.counts.live == before + 4000
    y = x.data[10:]
    del x
    gc.collect()
    assert strict.counts.live == before + 4000 and y.shape == (990,)
