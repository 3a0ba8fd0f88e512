"""The race of the adaptive softmax: that both do the same work, with the same cut-offs, and which these are."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _shared.errors import DemoError

from losses.samplers import zipf
from losses.structured.cutoffs import best_cutoffs

pytestmark = [pytest.mark.adaptive, pytest.mark.cpu]

SCRIPT = Path(__file__).resolve().parents[2] / "demos" / "versus" / "adaptive.py"
_spec = importlib.util.spec_from_file_location("versus_adaptive", SCRIPT)
race = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(race)

SIZES = {"vocab": 300, "dim": 16, "batch": 20}


@pytest.mark.parametrize("cutoffs", [[], [10, 60]])
def test_a_turn_trains_all_that_is_visited_and_a_new_model_begins_anew(cutoffs):
    ours = race.Minigrad(seed=1)
    ours.prepare(**SIZES, cutoffs=cutoffs)
    before = [p.numpy().copy() for p in ours.layer.parameters()]
    assert len(before) == 1 + 2 * len(cutoffs)
    ours.work(steps=3)
    assert all((p.numpy() != old).any() for p, old in zip(ours.layer.parameters(), before, strict=True))
    ours.prepare(**SIZES, cutoffs=cutoffs)
    assert all((p.numpy() == old).all() for p, old in zip(ours.layer.parameters(), before, strict=True))


@pytest.mark.oracle
@pytest.mark.parametrize("cutoffs", [[], [10, 60]])
def test_torch_finds_the_same_loss_and_gradients_before_and_after_some_steps(cutoffs):
    pytest.importorskip("torch")
    both = [contestant(seed=1) for contestant in (race.Minigrad, race.Torch)]
    for one in both:
        one.prepare(**SIZES, cutoffs=cutoffs, dtype="float64")
    for _ in range(2):
        ours, theirs = (one.found() for one in both)
        assert len(ours) == 1 + 2 * (2 + 2 * len(cutoffs))
        for f, t in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(f, t, rtol=1e-9, atol=1e-10)
        for one in both:
            one.work(steps=5)


def test_cutoffs_are_given_computed_and_measured():
    assert race.ways(10_000, 64, 32, None) == {
        "given": [500, 2000],
        "computed": best_cutoffs(zipf(10_000), 64, batch_size=32),
    }
    found = race.ways(100_000, 128, 128, [0.0, 1.0, 0.0, 0.0])
    assert list(found) == ["given", "computed", "measured", "the full softmax"]
    assert found["measured"] != found["computed"] and found["the full softmax"] == []


@pytest.mark.oracle
def test_the_race_leaves_a_table_and_the_numbers(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "The adaptive softmax, a step with SGD, 1 core(s), medians of 3 rounds" in done.stdout
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [result["way"] for result in found["results"]] == ["given", "computed"]
    assert all(len(result["seconds"]["minigrad"]) == 3 for result in found["results"])


@pytest.mark.parametrize("flag", ["rounds", "steps", "batch"])
def test_a_number_that_makes_no_sense_is_refused_with_its_flag(flag, tmp_path):
    with pytest.raises(DemoError, match=f"--{flag} must be positive, got 0"):
        race.main([f"--{flag}=0", "--out", str(tmp_path)])
