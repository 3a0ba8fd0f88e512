"""The demo on products of matrices: the roofline's formulas, what is timed on a GPU, what it leaves behind."""

import importlib.util
import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from _shared.errors import DemoError
from _shared.ways import Way
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.device

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "matmul-cpu-gpu.py"

_spec = importlib.util.spec_from_file_location("matmul_cpu_gpu", SCRIPT)
demo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo)

sizes = st.integers(1, 1 << 15)
itemsizes = st.sampled_from([4, 8])
rates = st.floats(1e6, 1e16)  # FLOP/s, or bytes/s


def run(*flags):
    command = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def read_json(out):
    return json.loads((out / "results.json").read_text("utf-8"))


# ---- the roofline's formulas ------------------------------------------------------------------------------------


class Counted(float):
    """A number that counts what is done with it."""

    operations = 0

    def __mul__(self, other):
        Counted.operations += 1
        return Counted(float(self) * float(other))

    def __add__(self, other):
        Counted.operations += 1
        return Counted(float(self) + float(other))


@given(st.integers(1, 6))
def test_a_product_is_2n3_operations_counted_one_by_one(n):  # (1)
    a = b = [[Counted(1.0)] * n for _ in range(n)]
    Counted.operations = 0
    for i in range(n):
        for j in range(n):
            total = Counted(0.0)
            for k in range(n):
                total = total + a[i][k] * b[k][j]
    assert demo.flop(n) == Counted.operations


@given(st.integers(1, 50), st.sampled_from(["float32", "float64"]))
def test_a_product_moves_three_matrices(n, dtype):  # (2)
    a, b = demo.matrices(n, dtype)
    assert demo.moved(n, a.itemsize) == a.nbytes + b.nbytes + (a @ b).nbytes


@given(sizes, itemsizes)
def test_the_intensity_is_operations_a_byte_and_in_float32_n_over_6(n, itemsize):  # (3)
    assert demo.intensity(n, itemsize) == pytest.approx(demo.flop(n) / demo.moved(n, itemsize))
    assert demo.intensity(n, 4) == pytest.approx(n / 6)


@given(sizes, itemsizes, rates, rates)
def test_attainable_is_what_neither_arithmetic_nor_memory_forbids(n, itemsize, peak, bandwidth):  # (4)
    seconds = demo.flop(n) / demo.attainable(n, itemsize, peak, bandwidth)
    arithmetic, memory = demo.flop(n) / peak, demo.moved(n, itemsize) / bandwidth
    assert seconds == pytest.approx(max(arithmetic, memory))


@given(itemsizes, rates, rates)
def test_at_the_ridge_memory_feeds_the_peak_and_no_more(itemsize, peak, bandwidth):  # (5)
    n = demo.ridge(itemsize, peak, bandwidth)
    assert bandwidth * demo.intensity(n, itemsize) == pytest.approx(peak)
    assert demo.attainable(n / 2, itemsize, peak, bandwidth) == pytest.approx(peak / 2)
    assert demo.attainable(n * 2, itemsize, peak, bandwidth) == peak


@given(sizes, itemsizes, rates, rates, st.floats(0.0, 1.0))
def test_what_limits_a_product_is_what_would_take_longest_alone(n, itemsize, peak, bandwidth, call):  # (6)
    said = demo.limit(n, itemsize, peak, bandwidth, call)
    fast = {"peak": peak, "bandwidth": bandwidth, "call": call}
    without = {"call": {"call": 0.0}, "memory": {"bandwidth": 1e40}, "arithmetic": {"peak": 1e40}}

    def at_least(peak, bandwidth, call):
        return max(call, demo.flop(n) / demo.attainable(n, itemsize, peak, bandwidth))

    for what, freed in without.items():  # to be freed of what limits helps most
        assert at_least(**{**fast, **without[said]}) <= at_least(**{**fast, **freed}) * (1 + 1e-9), what


MUTANTS = {
    "multiplications alone": ("flop", lambda n: n**3, "a_product_is_2n3_operations_counted_one_by_one", (3,)),
    "two matrices": ("moved", lambda n, w: 2 * n * n * w, "a_product_moves_three_matrices", (5, "float32")),
    "numbers for bytes": (
        "intensity",
        lambda n, w: 2 * n / 3,
        "the_intensity_is_operations_a_byte_and_in_float32_n_over_6",
        (6, 4),
    ),
    "the better of the two": (
        "attainable",
        lambda n, w, peak, bandwidth: max(peak, bandwidth * demo.intensity(n, w)),
        "attainable_is_what_neither_arithmetic_nor_memory_forbids",
        (64, 4, 1e11, 1e10),
    ),
    "the peak of another size of number": (
        "ridge",
        lambda w, peak, bandwidth: 6 * peak / bandwidth,
        "at_the_ridge_memory_feeds_the_peak_and_no_more",
        (8, 1e11, 1e10),
    ),
    "the least of the three": (
        "limit",
        lambda n, w, peak, bandwidth, call: "call",
        "what_limits_a_product_is_what_would_take_longest_alone",
        (4096, 4, 1e11, 1e10, 1e-6),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_formula_is_killed_by_the_test_that_is_named_for_it(monkeypatch, mutant):
    name, wrong, test, example = MUTANTS[mutant]
    check = globals()[f"test_{test}"].hypothesis.inner_test
    check(*example)
    monkeypatch.setattr(demo, name, wrong)
    with pytest.raises(AssertionError):
        check(*example)


# ---- what the seconds say ---------------------------------------------------------------------------------------


@given(itemsizes, st.floats(1e9, 1e14), st.floats(1e9, 1e13), st.floats(1e-7, 1e-4))
def test_a_machine_that_follows_its_roofline_is_recognised(itemsize, peak, bandwidth, call):
    ns = [2**i for i in range(1, 15)]
    alone = [(call, demo.moved(n, itemsize) / bandwidth, demo.flop(n) / peak) for n in ns]
    (roof,) = demo.rooflines(ns, itemsize, {"cpu": [max(t) for t in alone]}, {"cpu": bandwidth}).values()
    if alone[-1][2] == max(alone[-1]):  # the greatest product is long enough to reach the peak
        assert roof["peak_gflops"] == pytest.approx(peak / 1e9)
        assert roof["limited_by"][-1] == "arithmetic"
    assert roof["bandwidth_gb_per_second"] == bandwidth / 1e9
    assert roof["call_seconds"] == max(alone[0])


def test_the_crossovers_are_those_of_what_was_measured():
    cpu = {"cpu_one_thread": [1.0, 8.0, 64.0], "cpu_all_threads": [2.0, 8.0, 32.0]}
    gpu = {"gpu": [4.0, 4.0, 5.0], "gpu_with_copies": [9.0, 9.0, 33.0], "gpu_dispatch": [0.1, 0.1, 0.1]}
    assert demo.crossovers([2, 4, 8], cpu) == {"all threads beat one": 8}
    assert demo.crossovers([2, 4, 8], cpu | gpu) == {
        "all threads beat one": 8,
        "GPU beats CPU, computing": 4,
        "GPU beats CPU, with copies": None,
    }


# ---- the GPU, without one: arrays stay where they are, and the clock is made up -----------------------------------


class Profiler:
    """cupyx.profiler.benchmark: does the call, and answers with seconds made up, as CuPy's has them."""

    def __init__(self):
        self.options = []

    def __call__(self, call, *, n_warmup, n_repeat, max_duration):
        self.options.append((n_warmup, n_repeat, max_duration))
        call()
        # (devices, calls): the middle of three is the median
        return SimpleNamespace(
            cpu_times=np.array([1e-6, 2e-6, 9.0]), gpu_times=len(self.options) * np.array([[1e-3, 2e-3, 9.0]])
        )


@pytest.fixture
def copies(monkeypatch):
    """Counts what would be copied."""
    counted = {"in": 0, "out": 0}

    def counting(way):
        def copy(array):
            counted[way] += array.nbytes
            return array.copy()

        return copy

    monkeypatch.setattr(demo, "to_gpu", counting("in"))
    monkeypatch.setattr(demo, "to_cpu", counting("out"))
    return counted


def test_computing_and_copies_are_timed_on_the_gpu_and_dispatch_by_the_cpu(copies):
    assert demo.measure_gpu(8, "float32", 0.5, Profiler()) == {
        "gpu": 2e-3,  # the first benchmark, gpu_times
        "gpu_with_copies": 4e-3,  # the second
        "gpu_dispatch": 2e-6,  # the first, cpu_times
    }


def test_the_gpu_is_warmed_up_and_gets_the_seconds_of_a_size(copies):
    profiler = Profiler()
    demo.measure_gpu(8, "float32", 0.5, profiler)
    demo.gpu_bandwidth("float32", 0.25, profiler)
    assert all(warm_up >= 1 and repeats > 100 for warm_up, repeats, _ in profiler.options)
    assert [duration for *_, duration in profiler.options] == [0.5, 0.5, 0.25]


def test_with_copies_means_both_matrices_in_and_the_product_out(copies):
    matrix = 8 * 8 * 4

    def benchmark(call, **options):
        before = dict(copies)
        call()
        seen.append((copies["in"] - before["in"], copies["out"] - before["out"]))
        return Profiler()(call, **options)

    seen = []
    demo.measure_gpu(8, "float32", 0.5, benchmark)
    assert seen == [(0, 0), (2 * matrix, matrix)]


def test_the_bandwidth_of_a_gpu_is_three_arrays_in_the_seconds_of_the_gpu(copies):
    assert demo.gpu_bandwidth("float64", 0.5, Profiler()) == pytest.approx(3 * 8 * demo.ADDED / 2e-3)


def test_where_there_is_a_gpu_its_three_curves_are_measured_too(copies, monkeypatch, tmp_path, capsys):
    profiler = ModuleType("cupyx.profiler")
    profiler.benchmark = Profiler()
    monkeypatch.setitem(sys.modules, "cupyx", ModuleType("cupyx"))
    monkeypatch.setitem(sys.modules, "cupyx.profiler", profiler)
    found = [Way("cpu_one_thread", "CPU, 1 thread", "cpu", 1), Way("gpu", "GPU", "gpu")]
    monkeypatch.setattr(demo, "ways_here", lambda device: (found, None))
    monkeypatch.setattr(demo, "ADDED", 1000)
    demo.main(["--quick", "--max-n", "8", "--out", str(tmp_path)])
    results = read_json(tmp_path)
    assert set(results["seconds"]) == {"cpu_one_thread", "gpu", "gpu_with_copies", "gpu_dispatch"}
    assert set(results["roofline"]) == {"cpu_one_thread", "gpu"}
    assert set(results["crossovers"]) == {"GPU beats CPU, computing", "GPU beats CPU, with copies"}
    said = capsys.readouterr().out
    assert "no CUDA device" not in said and "GPU, dispatch" in said


# ---- without a GPU, as here -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture
def no_gpu(quick):
    reason = read_json(quick[0])["environment"]["no_gpu"]
    return reason or pytest.skip("there is a GPU here")


def test_it_leaves_a_picture_and_the_numbers(quick):
    out, said = quick
    assert {path.name for path in out.iterdir()} == {"curves.png", "results.json"}
    assert struct.unpack(">II", (out / "curves.png").read_bytes()[16:24]) == (1600, 900)
    assert said.splitlines()[-1] == f"in {out}: curves.png, results.json"


def test_every_size_has_its_seconds_in_each_curve(quick):
    results = read_json(quick[0])
    assert results["sizes"] == [2**i for i in range(1, 10)]
    for times in results["seconds"].values():
        assert len(times) == 9 and all(math.isfinite(t) and t > 0 for t in times)


def test_without_a_gpu_a_line_says_so_and_there_is_no_number_of_one(quick, no_gpu):
    out, said = quick
    assert f"no CUDA device: GPU curves not drawn ({no_gpu})" in said.splitlines()
    assert "gpu" not in json.dumps({k: read_json(out)[k] for k in ("seconds", "roofline", "crossovers")}).lower()


def test_the_questions_to_predict_are_answered(quick):
    results = read_json(quick[0])
    one = results["seconds"]["cpu_one_thread"]
    assert results["predict"] == {
        "times_as_long_for_512_times_the_arithmetic": one[3] / one[0],
        "from_which_n_on_all_threads_beat_one": results["crossovers"].get("all threads beat one"),
    }
    assert demo.flop(16) / demo.flop(2) == 512


def test_a_gpu_that_is_demanded_and_missing_is_one_line_and_status_2(no_gpu, tmp_path):
    done = run("--device", "gpu", "--quick", "--out", tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("matmul-cpu-gpu: --device gpu: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", ["1", "-4", "32768"])
def test_a_greatest_n_out_of_range_is_an_error_that_says_the_range(n, tmp_path):
    with pytest.raises(DemoError, match=f"--max-n must lie in 2 to 16384, got {n}"):
        demo.main(["--max-n", n, "--out", str(tmp_path)])


@pytest.mark.parametrize("n, sizes", [("2", [2]), ("9", [2, 4, 8])])
def test_the_sizes_are_the_powers_of_two_up_to_the_greatest_n(n, sizes, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "ADDED", 1000)
    demo.main(["--max-n", n, "--quick", "--dtype", "float64", "--out", str(tmp_path)])
    results = read_json(tmp_path)
    assert results["sizes"] == sizes
    assert results["predict"]["times_as_long_for_512_times_the_arithmetic"] is None
