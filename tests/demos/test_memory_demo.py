"""The demo on memory: sizes, the cap and what it decides, bytes between GPUs, what it leaves behind."""

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _shared.errors import DemoError

import minigrad as mg

pytestmark = pytest.mark.memory

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "memory.py"
MIB, GIB = 1 << 20, 1 << 30

_spec = importlib.util.spec_from_file_location("memory_demo", SCRIPT)
demo = importlib.util.module_from_spec(_spec)
sys.modules["memory_demo"] = demo  # dataclasses look for it there
_spec.loader.exec_module(demo)


def results_of(out):
    return json.loads((out / "results.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder that `--quick` leaves behind."""
    out = tmp_path_factory.mktemp("quick")
    demo.main(["--quick", "--out", str(out)])
    return out


# ---- what it leaves behind --------------------------------------------------------------------------------------


def test_it_leaves_a_picture_and_the_numbers(quick):
    assert {path.name for path in quick.iterdir()} == {"memory.png", "results.json"}
    png = (quick / "memory.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and struct.unpack(">II", png[16:24]) == (1600, 900)


def test_the_plain_way_needs_some_two_and_a_half_caps_and_runs_into_the_error(quick):
    plain, *_ = ways = results_of(quick)["under_the_cap"]["ways"]
    assert len(ways) == 6
    assert 2.3 < plain["peak"] / (20 * MIB) < 2.8 and not plain["fits"]
    assert plain["error"].startswith("minigrad.") and "the limit is 20 MiB; the tape keeps" in plain["error"]


def test_each_trick_needs_less_than_what_was_before_it_until_it_fits(quick):
    ways = results_of(quick)["under_the_cap"]["ways"]
    peaks = [way["peak"] for way in ways]
    assert peaks == sorted(peaks, reverse=True)
    assert [way["fits"] for way in ways] == [peak <= 20 * MIB for peak in peaks]
    assert ways[-1]["fits"] and not ways[1]["fits"]


def test_only_micro_batches_change_a_bit_of_the_gradients(quick):
    plain, free, micro, in_place, checkpoints, sgd = (
        way["gradients"] for way in results_of(quick)["under_the_cap"]["ways"]
    )
    assert plain == free != micro == in_place == checkpoints == sgd


def test_the_losses_of_all_ways_agree(quick):
    losses = [way["loss"] for way in results_of(quick)["under_the_cap"]["ways"]]
    assert np.allclose(losses, losses[0], rtol=1e-5)


def test_what_is_counted_with_k_segments_is_what_the_formula_says(quick):
    rows = results_of(quick)["segments"]
    assert [row["k"] for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    assert all(row["counted"] == row["formula"] and row["equal"] for row in rows)
    assert [row["forward"] for row in rows] == [128 - 64 // row["k"] for row in rows]


def test_an_optimiser_in_place_needs_nothing_beside_its_averages(quick):
    rows = {row["optimiser"]: row for row in results_of(quick)["optimisers"]}
    assert [round(row["held"]) for row in rows.values()] == [0, 0, 1, 2, 2]
    for name, row in rows.items():
        assert (row["for_a_moment"] < 0.1) == ("in place" in name)


def test_the_account_adds_up_to_about_what_is_in_use(quick):
    found = results_of(quick)["who_holds_what"]
    whole = sum(found["held"].values())
    assert 0.7 * whole < found["peak"] < 1.2 * whole
    assert found["held"]["gradients"] == found["held"]["parameters"] == found["held"]["optimiser"] // 2


# ---- the cap ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, size", [("12GB", 12 * GIB), ("300MB", 300 * MIB), ("1.5 GiB", 1536 * MIB), ("8388608B", 8 * MIB)]
)
def test_sizes_are_read(text, size):
    assert demo.size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["12", "GB", "-1GB", "12 parsecs", "", "1e3MB"])
def test_what_is_no_size_is_refused(text, capsys):
    with pytest.raises(SystemExit) as exit:
        demo.parser().parse_args([f"--cap={text}"])
    assert exit.value.code == 2 and "expected a size as 12GB or 300MB" in capsys.readouterr().err


def test_a_cap_below_8mb_is_refused(capsys):
    with pytest.raises(SystemExit):
        demo.parser().parse_args(["--cap", "7MB"])
    assert "expected 8MB or more, got '7MB'" in capsys.readouterr().err


@pytest.mark.parametrize("cap", [8 * MIB, 200 * MIB, 12 * GIB])
def test_the_network_is_as_large_as_the_cap_asks(cap):
    size = demo.Size.for_cap(cap)
    parameters = 4 * size.layers * size.width * (size.width + 1)
    assert 7 * parameters + size.layers * size.array == pytest.approx(2.5 * cap, rel=0.05)
    assert size.batch % demo.PARTS == 0


def test_with_memory_for_it_the_plain_way_is_measured_with_less_only_what_fits_and_with_too_little_nothing(capsys):
    assert demo.plan(12 * GIB, 40 * GIB, lambda: 60.0) is True
    assert demo.plan(12 * GIB, 20 * GIB, lambda: 60.0) is False
    assert "takes up to 14.4 GiB of memory (20 GiB are free) and about 300 s" in capsys.readouterr().out
    assert demo.plan(12 * GIB, None, lambda: 60.0) is False
    with pytest.raises(DemoError, match=r"--cap 12 GiB needs 14\.4 GiB of free memory, and there are 8 GiB"):
        demo.plan(12 * GIB, 8 * GIB, lambda: 60.0)


def test_where_memory_is_short_ways_that_do_not_fit_are_stopped_at_the_cap(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "available", lambda device: 25 * MIB)
    demo.main(["--quick", "--out", str(tmp_path)])
    ways = results_of(tmp_path)["under_the_cap"]["ways"]
    for way in ways:
        assert (way["peak"] is None) == (way["seconds"] is None) == (way["error"] is not None)
    assert ways[0]["peak"] is None and ways[-1]["fits"]


def test_available_memory_is_a_number_of_bytes_or_not_known():
    free = demo.available("cpu")
    assert free is None or free > MIB


# ---- bytes between GPUs -----------------------------------------------------------------------------------------

SIZE = demo.Size(layers=12, width=8, batch=4)


@pytest.mark.parametrize("gpus", [2, 3, 4])
def test_a_chain_moves_an_array_wherever_two_layers_that_follow_are_on_different_gpus(gpus):
    rows = demo.over_several_gpus(SIZE, 1, gpus)
    blocks, twice, each, data = (row["there"] // SIZE.array for row in rows)
    assert (blocks, twice, each, data) == (gpus - 1, 2 * gpus - 1, SIZE.layers - 1, 0)
    parameters = 12 * (8 * 8 + 8) * 4
    assert [row["sums"] for row in rows] == [0, 0, 0, 2 * (gpus - 1) * parameters]
    assert all(row["there"] == row["back"] for row in rows)


def test_what_two_operations_need_on_another_gpu_goes_there_once():
    a, b, c = (mg.param(np.ones((2, 2), "float32")) for _ in range(3))
    h = mg.exp(a)  # on GPU 0
    loss = (h * b + h * c).sum()  # both on GPU 1
    bytes_moved, kept = demo.moved(loss, {id(a): 0, id(b): 1, id(c): 1})
    assert bytes_moved == 16 and set(kept) == {0, 1}
    assert sum(kept.values()) == mg.graph(loss).bytes_kept
    assert demo.moved(loss, {id(a): 0, id(b): 1, id(c): 2})[0] == 16 + 16 + 16  # to both, and a sum's argument


# ---- how it ends when something is wrong ------------------------------------------------------------------------


def run(*flags):
    command = [sys.executable, str(SCRIPT), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("gpus", ["1", "0", "65"])
def test_a_number_of_gpus_that_makes_no_sense_is_one_line(gpus, tmp_path):
    with pytest.raises(DemoError, match=rf"--gpus must be 2 to 64, got {gpus}"):
        demo.main(["--gpus", gpus, "--out", str(tmp_path)])


def test_a_gpu_that_is_not_there_and_a_cap_beyond_the_machine_are_one_line_each(tmp_path):
    for flags, said in [(["--device", "gpu"], "--device gpu: "), (["--cap", "999999GB"], "of free memory, and there")]:
        done = run(*flags, "--out", str(tmp_path))
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
