"""What the demos on CPU and GPU share: the ways to compute, the clock, and from where on one way beats another."""

import numpy as np
import pytest
from _shared import ways
from _shared.errors import DemoError
from _shared.ways import Way, crossover, in_time, in_turn, machine_in_words, ways_here
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

import minigrad as mg

pytestmark = pytest.mark.device

ONE, ALL = Way("cpu_one_thread", "CPU, 1 thread", "cpu", 1), Way("cpu_all_threads", "CPU, all threads", "cpu", 2)


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


class Pools:
    """A threadpoolctl that finds these libraries."""

    def __init__(self, *pools):
        self.pools = list(pools)

    def select(self, user_api):
        return self

    def info(self):
        return self.pools


def openblas(threads):
    return {"internal_api": "openblas", "version": "0.3", "architecture": "Haswell", "num_threads": threads}


# ---- the ways ---------------------------------------------------------------------------------------------------


def test_inside_a_way_products_have_its_threads_and_afterwards_what_they_had():
    ways._pools.cache_clear()  # what other tests have loaded since then counts too
    before = blas_threads()
    with ONE.chosen():
        assert blas_threads() <= {1}
    assert blas_threads() == before


def test_inside_a_way_tensors_are_made_on_its_device_and_afterwards_where_they_were(monkeypatch):
    before, chosen = mg.get_device(), []
    monkeypatch.setattr(mg, "set_device", chosen.append)
    with pytest.raises(ZeroDivisionError), Way("gpu", "GPU", "gpu").chosen():
        assert chosen == ["gpu"]
        raise ZeroDivisionError
    assert chosen == ["gpu", before]


@pytest.mark.parametrize(
    "pools, names",
    [
        ([openblas(8)], ["CPU, 1 thread", "CPU, 8 threads"]),
        ([openblas(1)], ["CPU, 1 thread"]),
        ([], ["CPU"]),  # Apple's, of which nothing is known
    ],
)
def test_the_cpu_is_as_many_ways_as_can_be_told_apart(monkeypatch, pools, names):
    monkeypatch.setattr(ways, "_pools", lambda: Pools(*pools))
    monkeypatch.setattr(ways, "_why_no_gpu", lambda device: "there is none")
    found, no_gpu = ways_here("cpu")
    assert [way.name for way in found] == names and no_gpu == "there is none"


def test_a_gpu_is_used_where_there_is_one_whatever_the_device(monkeypatch):
    chosen = []
    monkeypatch.setattr(mg, "set_device", chosen.append)
    found, no_gpu = ways_here("cpu")
    assert found[-1] == Way("gpu", "GPU", "gpu") and no_gpu is None
    assert chosen == ["gpu", "cpu"]  # it was asked for, and put back


def test_a_missing_gpu_is_a_reason_or_if_one_was_demanded_an_error(monkeypatch):
    def set_device(name):
        raise mg.backend.DeviceError("CuPy is not installed")

    monkeypatch.setattr(mg, "set_device", set_device)
    assert ways_here("cpu")[1] == "CuPy is not installed"
    with pytest.raises(DemoError, match="--device gpu: CuPy is not installed"):
        ways_here("gpu")


def test_what_slows_a_machine_down_is_said(monkeypatch):
    monkeypatch.setattr(ways, "_pools", lambda: Pools(openblas(2)))
    monkeypatch.setattr(ways.os, "getloadavg", lambda: (3.0, 0.0, 0.0), raising=False)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    library, coretype, load = machine_in_words()
    assert library == "matrix products: openblas 0.3, Haswell, 2 threads"
    assert "OPENBLAS_CORETYPE=Prescott" in coretype and "load 3.0" in load


def test_of_a_quiet_machine_only_the_library_is_said(monkeypatch):
    monkeypatch.setattr(ways.os, "getloadavg", lambda: (0.1, 9.0, 9.0), raising=False)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert all(line.startswith("matrix products: ") for line in machine_in_words())


# ---- the clock --------------------------------------------------------------------------------------------------


class Clock:
    """A clock that goes only when work is done."""

    now = 0.0

    def work(self, *seconds):
        """A call that takes these seconds, and from then on the last of them."""
        left = list(seconds)

        def call():
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(ways.time, "perf_counter", lambda: clock.now)
    return clock


def test_the_first_call_which_warms_up_does_not_count(clock):
    assert in_turn({ONE: clock.work(100.0, 2.0)}, seconds=1.0) == {ONE: 2.0}


def test_the_median_of_the_rounds_counts(clock):
    assert in_turn({ONE: clock.work(1.0, 9.0, 2.0, 3.0)}, seconds=0.0) == {ONE: 3.0}


def test_a_call_shorter_than_a_reading_is_repeated_within_it(clock, monkeypatch):
    calls = 0

    def call():
        nonlocal calls
        calls += 1
        clock.now += 1e-5

    rounds = 3
    assert in_turn({ONE: call}, seconds=0.0, least=rounds)[ONE] == pytest.approx(1e-5)
    assert calls == pytest.approx(2 + rounds * ways.READING / 1e-5, abs=rounds)


@given(st.floats(1e-4, 10.0), st.floats(0.0, 5.0), st.integers(1, 5))
def test_as_many_rounds_as_there_is_time_for_but_never_fewer_than_the_least(seconds_of_a_call, seconds, least):
    clock, calls = Clock(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ways.time, "perf_counter", lambda: clock.now)
        patch.setattr(ways, "READING", 0.0)
        work = clock.work(seconds_of_a_call)
        in_turn({ONE: lambda: calls.append(work())}, seconds, least)
    wanted = max(least, np.ceil(seconds / seconds_of_a_call))
    assert abs(len(calls) - 1 - wanted) <= 1  # the first is the warm-up; a sum of floats may miss a bound by a bit


def test_all_ways_are_measured_in_turn_and_the_order_is_turned(clock):
    order = []
    calls = {way: lambda way=way: (order.append(way), clock.work(1.0)()) for way in (ONE, ALL)}
    in_turn(calls, seconds=0.0, least=3)
    assert order[2:] == [ONE, ALL, ALL, ONE, ONE, ALL]


def test_a_gpu_is_waited_for_before_either_reading_of_the_clock(clock, monkeypatch):
    """It has one second of work to do; the call itself only asks for it."""
    waiting = []

    def synchronize():
        clock.now += sum(waiting)
        waiting.clear()

    monkeypatch.setattr(mg.backend, "synchronize", synchronize)
    assert in_turn({ONE: lambda: waiting.append(1.0)}, seconds=0.0) == {ONE: 1.0}


@pytest.mark.parametrize(
    "seconds, text", [(1.6649e-6, "1.66 µs"), (0.00052, "520 µs"), (0.0105, "10.5 ms"), (2.25, "2.25 s"), (75, "75 s")]
)
def test_seconds_for_people_have_three_digits_and_a_unit(seconds, text):
    assert in_time(seconds) == text


# ---- crossovers -------------------------------------------------------------------------------------------------

times = st.floats(1e-6, 1e3)


@given(st.lists(st.tuples(times, times), min_size=1, max_size=12))
def test_a_crossover_is_the_least_size_from_which_on_the_one_always_beats_the_other(pairs):
    sizes = [2**i for i in range(len(pairs))]
    slow, fast = zip(*pairs, strict=True)
    beats = [a > 1.1 * b for a, b in pairs]
    found = crossover(sizes, slow, fast)
    if found is None:
        assert not beats[-1]
    else:
        i = sizes.index(found)
        assert all(beats[i:]) and (i == 0 or not beats[i - 1])


def test_two_that_are_as_fast_do_not_cross_for_noise_is_no_victory():
    assert crossover([1, 2, 4], slow=[1.0, 1.05, 1.09], fast=[1.0, 1.0, 1.0]) is None
    assert crossover([1, 2, 4], slow=[1.0, 1.05, 1.09], fast=[1.0, 1.0, 1.0], margin=1.0) == 2


def test_a_victory_that_does_not_last_is_no_crossover():
    assert crossover([1, 2, 4, 8], slow=[9.0, 1.0, 9.0, 9.0], fast=[1.0] * 4) == 4


MUTANTS = {
    "the first victory": lambda sizes, slow, fast: next(
        (n for n, a, b in zip(sizes, slow, fast, strict=True) if a > 1.1 * b), None
    ),
    "the wrong one wins": lambda sizes, slow, fast: ways.crossover(sizes, fast, slow),
    "one size too late": lambda sizes, slow, fast: ways.crossover(sizes[1:], slow[1:], fast[1:]),
    "noise wins as well": lambda sizes, slow, fast: ways.crossover(sizes, slow, fast, margin=1.0),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_crossover_is_killed_by_the_test_of_its_definition(monkeypatch, mutant):
    check = test_a_crossover_is_the_least_size_from_which_on_the_one_always_beats_the_other.hypothesis.inner_test
    examples = [(9.0, 1.0), (1.0, 1.0), (9.0, 1.0)], [(9.0, 1.0), (9.0, 1.0)], [(1.0, 9.0)], [(1.05, 1.0)]
    for pairs in examples:
        check(pairs)
    monkeypatch.setitem(globals(), "crossover", MUTANTS[mutant])
    with pytest.raises(AssertionError):
        for pairs in examples:
            check(pairs)
