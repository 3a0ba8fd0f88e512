"""The race of structured layers: both full softmaxes do the same work, a step trains, and what is made of times."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _shared.errors import DemoError
from test_commands import load_script

pytestmark = [pytest.mark.predictors, pytest.mark.cpu]

SCRIPT = Path(__file__).resolve().parents[2] / "demos" / "versus" / "structured.py"
race = load_script(SCRIPT)


@pytest.fixture(scope="module")
def small():
    """Hybrids of a few frequent words, for a small vocabulary."""
    race.FREQUENT, before = 20, race.FREQUENT
    yield
    race.FREQUENT = before


@pytest.fixture
def ours(small):
    one = race.Minigrad(seed=1)
    one.begin(300)
    return one


LAYERS = tuple(race.Minigrad(seed=1).kinds)


def test_a_turn_trains_each_layer_and_says_how_long_a_step_took(ours):
    before = {
        name: {t: getattr(layer, t).numpy().copy() for t in layer.tables if getattr(layer, t) is not None}
        for name, layer in ours.layers.items()
    }
    found = ours.steps(times=2)
    assert tuple(found) == LAYERS and all(seconds > 0 for seconds in found.values())
    for name, layer in ours.layers.items():
        moved = [
            (getattr(layer, t).numpy() != old).reshape(len(old), -1).any(axis=1).sum()
            for t, old in before[name].items()
        ]
        assert sum(moved) > 0, name


def test_the_steps_of_a_turn_have_targets_of_their_own(ours, monkeypatch):
    heard = []
    monkeypatch.setattr(race.Minigrad, "step", lambda self, name, i: heard.append((name, i)))
    ours.steps(times=2)
    ours.steps(times=2)
    assert [i for name, i in heard if name == "class-based"] == [0, 1, 2, 3]
    assert len({tuple(targets) for targets in ours.targets}) == race.BATCHES


def test_targets_are_as_frequent_as_zipf_has_them(ours):
    often = np.bincount(np.concatenate(ours.targets), minlength=300)
    p = 1 / np.arange(1, 301)
    p /= p.sum()
    n = often.sum()
    assert (abs(often - n * p) < 6 * np.sqrt(n * p * (1 - p)) + 1).all()


def test_the_rows_are_those_of_the_layers(ours):
    rows = {name: train for name, (train, test) in ours.rows().items()}
    assert rows[race.FULL] == 300 and rows["binary code"] == 9 and rows["embedding (vMF)"] == race.NUMBERS
    assert rows["hybrid"] == race.FREQUENT + 1 + 9 and rows["error-correcting code"] == 2 * (9 + race.MEMORY)


def test_no_full_softmax_is_made_for_too_many_words(small, monkeypatch):
    monkeypatch.setattr(race, "LARGEST_FULL", 200)
    one = race.Minigrad(seed=1)
    one.begin(300)
    assert tuple(one.layers) == LAYERS[1:]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_best_words_are_those_of_the_highest_scores(small, layer):
    one = race.Minigrad(seed=1)
    one.begin(300, sharpness=race.SHARPNESS)
    scores = one.layers[layer].scores(one.hidden).numpy()
    found = one.best(layer)[0][:, 0]
    np.testing.assert_allclose(scores[np.arange(len(scores)), found], scores.max(axis=1), rtol=1e-5, atol=1e-5)
    if layer == race.FULL:
        assert scores.std() == pytest.approx(race.SHARPNESS, rel=0.1)


def test_bytes_are_counted_with_the_vectors_of_embedding_prediction(ours):
    found = ours.bytes()
    assert found[race.FULL] == 4 * 300 * (race.DIM + 1) and found["binary code"] == 4 * 9 * (race.DIM + 1)
    assert found["embedding (vMF)"] == 4 * race.NUMBERS * (race.DIM + 1) + 4 * 300 * race.NUMBERS


def test_the_decoder_is_measured_by_itself(ours):
    assert ours.decoded(times=1, words=16) > 0


@pytest.mark.oracle
def test_torch_finds_the_same_loss_gradients_and_words(ours):
    pytest.importorskip("torch")
    theirs = race.Torch(seed=1)
    theirs.begin(300)
    for o, t in zip(ours.full_softmax(), theirs.full_softmax(), strict=True):
        np.testing.assert_allclose(o, t, rtol=1e-4, atol=1e-6)
    assert theirs.steps(times=1)[race.FULL] > 0 and theirs.bests(times=1)[race.FULL] > 0


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0])
def test_the_slope_is_the_exponent(a):
    sizes = [100, 1000, 10_000]
    assert race.slope(sizes, [3 * v**a for v in sizes]) == pytest.approx(a, abs=1e-9)
    assert race.slope(sizes[:1], [1.0]) is None


def measured(**changes):
    """What would be all that is hoped for, but for the changes."""
    numbers = {"class": 0.5, "tree": 0.1, "bits": 0.05, "correcting": 21.0, "binary": 101.0, "bytes": 90} | changes
    training = {
        "class-based": {"slope": numbers["class"], "last_slope": 0.5},
        "hierarchical, Huffman": {"slope": numbers["tree"]},
        "binary code": {"slope": numbers["bits"]},
    }
    best = {
        race.FULL: {"median": 1.0},
        "error-correcting code": {"median": 1 / numbers["correcting"]},
        "binary code": {"median": 1 / numbers["binary"]},
    }
    codes = ("binary code", "error-correcting code", "hybrid", "hybrid, error-correcting")
    bytes_of = {race.FULL: 1000} | dict.fromkeys(codes, numbers["bytes"])
    return [row["holds"] for row in race.wanted(training, best, bytes_of, numbers.get("words", 2e5))]


@pytest.mark.parametrize(
    "place, changes",
    [
        (None, {}),
        (0, {"class": 0.61}),
        (0, {"class": 0.39}),
        (1, {"tree": 0.21}),
        (1, {"bits": 0.21}),
        (2, {"correcting": 19.0}),
        (3, {"binary": 99.0}),
        (4, {"bytes": 101}),
        (5, {"words": 149_999.0}),
    ],
)
def test_what_is_hoped_for_holds_or_does_not(place, changes):
    assert measured(**changes) == [i != place for i in range(6)]


@pytest.mark.oracle
def test_the_race_leaves_tables_a_picture_and_the_numbers(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for title in ("A training step of 128 words", "The likeliest of 4,096 words", "Viterbi, memory 6"):
        assert title in done.stdout
    assert "Hoped for" not in done.stdout  # of more words
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert set(found["training"]) == {*LAYERS, "full softmax, torch"}
    assert found["training"]["binary code"]["rows"] == [11, 14]
    assert all(one["vocab_sizes"] == [2_000, 10_000] and len(one["ms"]) == 2 for one in found["training"].values())
    assert found["hoped_for"] == [] and (tmp_path / "steps.png").is_file()


@pytest.mark.parametrize("flag", ["rounds", "steps"])
def test_a_number_that_makes_no_sense_is_refused_with_its_flag(flag, tmp_path):
    with pytest.raises(DemoError, match=f"--{flag} must be positive, got 0"):
        race.main([f"--{flag}=0", "--out", str(tmp_path)])
