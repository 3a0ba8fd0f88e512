"""The race of sampled losses: that all who race do the same work, and that this work does not depend on V."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _shared.errors import DemoError

pytestmark = [pytest.mark.layers, pytest.mark.cpu]

SCRIPT = Path(__file__).resolve().parents[2] / "demos" / "versus" / "sampled_softmax.py"
_spec = importlib.util.spec_from_file_location("versus_sampled_softmax", SCRIPT)
race = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(race)


@pytest.fixture(scope="module", autouse=True)
def few_batches():
    race.BATCHES, before = 4, race.BATCHES
    yield
    race.BATCHES = before


@pytest.fixture(scope="module")
def ours(few_batches):
    return race.Minigrad([300, 3000], seed=1)


@pytest.mark.parametrize("layer", race.LAYERS)
def test_how_many_rows_have_a_gradient_does_not_depend_on_v(ours, layer):
    rows = race.BATCH if layer == "in-batch softmax" else race.BATCH + race.NOISE
    assert ours.rows(layer) == {300: rows, 3000: rows}


@pytest.mark.parametrize("targets", race.TARGETS)
@pytest.mark.parametrize("optimiser", race.RATES)
def test_a_turn_trains_each_vocabulary_and_says_how_long_a_step_took(ours, optimiser, targets):
    ours.take(optimiser)
    before = {vocab: ours.models[vocab][race.LAYERS[0]].weight.numpy().copy() for vocab in ours.sizes}
    seconds = ours.seconds("sampled softmax", targets, steps=2)
    assert list(seconds) == [300, 3000] and all(value > 0 for value in seconds.values())
    for vocab, old in before.items():
        changed = (ours.models[vocab][race.LAYERS[0]].weight.numpy() != old).any(axis=1)
        assert 0 < changed.sum() <= 2 * (race.BATCH + race.NOISE)


def test_targets_as_in_text_repeat_themselves_and_uniform_ones_hardly_do(ours):
    of = lambda how: len(np.unique([targets for targets, _ in ours.batches[3000][how]]))
    assert of("as in text") < 0.7 * of("uniform")


@pytest.mark.oracle
@pytest.mark.parametrize("contestant", [race.Idiomatic, race.Tuned, race.UniqueIds, race.Dense])
def test_torch_finds_the_same_loss_and_gradients(contestant):
    pytest.importorskip("torch")
    fresh, theirs = race.Minigrad([300], seed=1), contestant([300], seed=1)
    for layer in race.LAYERS:
        for f, t in zip(fresh.found(300, layer), theirs.found(300, layer), strict=True):
            np.testing.assert_allclose(f, t, rtol=1e-4, atol=1e-6)
    rows = {"torch, dense": 300, "torch, unique ids": None}.get(contestant.name, 192)
    assert theirs.rows("sampled softmax")[300] == rows or rows is None
    for optimiser in race.RATES:
        theirs.take(optimiser)
        assert theirs.seconds("sampled softmax", "uniform", steps=1)[300] > 0


@pytest.mark.oracle
def test_the_race_leaves_a_table_and_the_numbers(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "A step with Adagrad, 1 core(s), medians of 3 rounds" in done.stdout
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [result["vocab"] for result in found["results"]] == [1000, 10_000] * 2
    assert {result["rows"] for result in found["results"]} == {192}
    assert all(len(result["seconds"]["minigrad"]) == 3 for result in found["results"])


@pytest.mark.parametrize("flag", ["rounds", "steps"])
def test_a_number_that_makes_no_sense_is_refused_with_its_flag(flag, tmp_path):
    with pytest.raises(DemoError, match=f"--{flag} must be positive, got 0"):
        race.main([f"--{flag}=0", "--out", str(tmp_path)])
