"""The class's example: four programs that find the same, what each of them does, counted, and what the advisor says."""

import importlib.util
import json
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from _shared.errors import DemoError
from hypothesis import given
from hypothesis import strategies as st
from test_commands import load_script

import minigrad as mg

pytestmark = pytest.mark.advisor

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "slow-impl.py"

_spec = importlib.util.spec_from_file_location("slow_impl", SCRIPT)
demo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo)

NAMES = ["bad", "trick_1", "trick_2", "trick_3"]
sizes = st.integers(1, 7)


def example(n, d, dtype="float64"):
    rng = np.random.default_rng(n * 100 + d)
    return mg.param(rng.uniform(-1.0, 1.0, (d, d)).astype(dtype)), *rng.uniform(-1.0, 1.0, (2, n, d)).astype(dtype)


def iterations(n, d, dtype="float64"):
    """name -> an iteration of it."""
    W, xs, ys = example(n, d, dtype)
    return W, {version.__name__: iterate for version, iterate in demo.programs(W, xs, ys).items()}


# ---- what they find, and what they do -----------------------------------------------------------------------------


@given(sizes, sizes)
def test_all_four_find_the_loss_and_the_gradient_of_equation_1(n, d):
    W, xs, ys = example(n, d)
    loss = sum((mg.to_cpu(W.data) @ x) @ y for x in xs for y in ys)
    gradient = sum(np.outer(y, x) for x in xs for y in ys)
    found = demo.programs(W, xs, ys)
    assert [version.__name__ for version in found] == NAMES
    for iterate in found.values():
        assert iterate().item() == pytest.approx(loss, rel=1e-9, abs=1e-9)
        np.testing.assert_allclose(mg.to_cpu(W.grad), gradient, rtol=1e-9, atol=1e-9)


@given(sizes, sizes)
def test_operations_and_copies_are_those_that_the_programs_say(n, d):
    """There and back: of each product and each sum of bad, n² pairs, the walk comes back through all three."""
    _, programs = iterations(n, d)
    counts = {name: demo.counted(iterate) for name, iterate in programs.items()}
    operations = {"bad": 2 * 3 * n * n, "trick_1": 2 * (n + 2 * n * n), "trick_2": 2 * (n + 1) + 7, "trick_3": 7}
    copies = {"bad": 2 * n * n, "trick_1": n + n * n, "trick_2": 2 * n, "trick_3": 0}
    assert {name: c.operations for name, c in counts.items()} == operations
    assert {name: c.copies for name, c in counts.items()} == copies
    assert {name: c.bytes for name, c in counts.items()} == {name: 8 * d * c for name, c in copies.items()}


def test_the_advisor_asks_for_the_tricks_that_are_still_to_come():
    _, programs = iterations(10, 100, "float32")
    advice = {name: demo.advised(iterate) for name, iterate in programs.items()}
    asked = {name: {finding.trick for finding in a.findings} for name, a in advice.items()}
    first = {1, 2, 3} if mg.get_device() == "cpu" else {2, 3}  # on a GPU each copy is another array
    assert asked == {"bad": first, "trick_1": {2, 3}, "trick_2": {3}, "trick_3": set()}
    source = SCRIPT.read_text("utf-8").splitlines()
    for name, a in advice.items():
        for finding in a.findings:
            where, _, said = finding.where.partition(f", in {name}: ")
            file, _, number = where.partition(":")
            assert file == "slow-impl.py" and source[int(number) - 1].strip() == said


@pytest.mark.cpu
def test_the_bad_program_is_read_aloud_with_exact_counts():
    _, programs = iterations(10, 100, "float32")
    found = {(finding.trick, finding.count, finding.saved) for finding in demo.advised(programs["bad"]).findings}
    assert found == {(1, 100, 90), (2, 100, 90), (2, 10, 9), (3, 200, 199)}


def test_a_turn_of_the_clock_gives_iterations_a_second_for_each():
    rates = demo.measured({"a": lambda: None, "b": lambda: None}, seconds=0.01)
    assert set(rates) == {"a", "b"} and all(len(r) == demo.TURNS and min(r) > 0 for r in rates.values())


# ---- the script -----------------------------------------------------------------------------------------------------


def run(*flags, module=()):
    command = [sys.executable, *module, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What `--quick` prints, and the folder that it leaves behind, in a process of its own."""
    out = tmp_path_factory.mktemp("quick")
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    return done.stdout, out


def test_it_leaves_a_picture_and_the_numbers(quick):
    out = quick[1]
    assert {path.name for path in out.iterdir()} == {"speeds.png", "results.json"}
    png = (out / "speeds.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and struct.unpack(">I", png[16:20]) == (1600,)
    versions = json.loads((out / "results.json").read_text("utf-8"))["versions"]
    assert [version["name"] for version in versions] == NAMES
    assert [version["operations"] for version in versions] == [600, 420, 29, 7]
    assert [version["copies"] for version in versions] == [200, 110, 20, 0]
    assert [version["bytes"] for version in versions] == [80_000, 44_000, 8_000, 0]
    assert [version["the_advisor_asks_for"] for version in versions] == [[1, 2, 3], [2, 3], [3], []]
    assert all(version["iterations_per_second"] > 0 for version in versions)


def test_each_program_is_printed_beside_the_one_before(quick):
    lines = quick[0].splitlines()
    for before, name in pairwise(NAMES):
        assert any(f"def {before}(" in line and f"def {name}(" in line for line in lines)
    assert sum("def bad(" in line for line in lines) == 2


def test_at_the_end_the_advisor_reads_the_bad_program_aloud(quick):
    said = quick[0].partition("The advisor reads the bad program:\n")[2]
    assert said.startswith("4 things to say of 300 operations\n")
    for trick in (1, 2, 3):
        assert f"Speed Trick {trick}, " in said


def test_under_the_advisor_as_a_whole_nothing_is_said_of_the_last_program(tmp_path):
    done = run("--quick", "--out", tmp_path, module=("-m", "minigrad.advisor"))
    assert done.returncode == 0, done.stderr
    said = done.stdout.rpartition("\nslow-impl.py: ")[2]
    assert " things to say of " in said
    assert {name for name in NAMES if f"in {name}: " in said} == {"bad", "trick_1", "trick_2"}


@pytest.mark.parametrize("flag, value", [("vectors", 0), ("size", -3), ("seconds", "nan")])
def test_a_number_that_makes_no_sense_is_refused_with_its_flag(flag, value, tmp_path):
    with pytest.raises(DemoError, match=rf"--{flag} must be above 0 and at most 100,000, got {value}"):
        demo.main([f"--{flag}={value}", "--out", str(tmp_path)])


# ---- the race -------------------------------------------------------------------------------------------------------

race = load_script(ROOT / "demos" / "versus" / "slow_impl.py")


def found_by(contestant):
    return {version: contestant.iterate(version, 2) for version in race.VERSIONS}


@pytest.mark.cpu
def test_the_four_that_race_find_the_same():
    one, *others = found_by(race.Minigrad(seed=1)).values()
    for other in others:
        np.testing.assert_allclose(other[0], one[0], rtol=1e-5)
        np.testing.assert_allclose(other[1], one[1], rtol=1e-4)


@pytest.mark.cpu
@pytest.mark.oracle
def test_torch_finds_the_same():
    pytest.importorskip("torch")
    ours, theirs = found_by(race.Minigrad(seed=1)), found_by(race.Torch(seed=1))
    for version in race.VERSIONS:
        np.testing.assert_allclose(ours[version][0], theirs[version][0], rtol=1e-5)
        np.testing.assert_allclose(ours[version][1], theirs[version][1], rtol=1e-4)
