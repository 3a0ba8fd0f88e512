"""The race of language models: that all contestants learn the same, and what the race leaves behind."""

import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _shared.errors import DemoError

import minigrad as mg

pytestmark = pytest.mark.nn1m

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "versus" / "language_model.py"


@pytest.fixture(scope="module")
def race():
    """The script as a module; what it does to sys.path, as it begins, is undone."""
    spec, path = importlib.util.spec_from_file_location("language_model", SCRIPT), list(sys.path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def setup_of(race, updates=6, vocab=50, seed=1):
    rng = np.random.default_rng(seed)
    contexts, targets = rng.integers(vocab, size=(updates, 64, 2)), rng.integers(vocab, size=(updates, 64))
    held_out = rng.integers(vocab, size=(600, 2)), rng.integers(vocab, size=600)
    return {"contexts": contexts, "targets": targets, "held_out": held_out, "weights": race.beginning(vocab, rng)}


# ---- ours ---------------------------------------------------------------------------------------------------------


def test_the_model_is_that_of_nn_1m(race):
    """tanh over the two vectors one behind the other, then scores of all words: written down in NumPy."""
    setup = setup_of(race)
    ours, w, contexts = race.Minigrad(**setup), setup["weights"], setup["contexts"][0]
    x = w["embedding.weight"][contexts].reshape(64, -1)
    h = np.tanh(x @ w["hidden.weight"].T + w["hidden.bias"])
    scores = h @ w["output.weight"].T + w["output.bias"]
    with mg.no_grad():
        assert np.allclose(ours.model(contexts).numpy(), scores, rtol=1e-4, atol=1e-5)


def test_the_perplexity_is_exp_of_the_mean_loss_of_what_was_held_out(race):
    setup = setup_of(race)
    ours = race.Minigrad(**setup)
    with mg.no_grad():
        mean = mg.cross_entropy(ours.model(setup["held_out"][0]), setup["held_out"][1]).item()
    assert math.isclose(ours.perplexity(), math.exp(mean), rel_tol=1e-5)


def test_to_begin_anew_is_to_begin_with_the_same_weights(race):
    ours = race.Minigrad(**setup_of(race))
    first = ours.losses(updates=9)  # six batches: the first three again
    ours.begin()
    assert ours.losses(updates=9) == first
    assert len(set(first[0])) == 9


@pytest.mark.parametrize("lazy", ["Minigrad", "MinigradDense"])
def test_rows_that_are_not_looked_up_stand_still_only_if_updates_are_lazy(race, lazy):
    setup = setup_of(race, updates=2)
    setup["contexts"][0, :, 0], setup["contexts"][1] = 7, 3  # row 7 is looked up by the first batch only
    ours = getattr(race, lazy)(**setup)
    ours.learn(1)
    before = ours.model.embedding.weight.numpy()[7].copy()
    ours.learn(1)
    assert np.array_equal(before, ours.model.embedding.weight.numpy()[7]) == (lazy == "Minigrad")


# ---- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "ours, theirs", [("Minigrad", "Torch"), ("Minigrad", "TorchFused"), ("MinigradDense", "TorchDense")]
)
def test_losses_and_perplexity_are_those_of_torch(race, ours, theirs):
    pytest.importorskip("torch")
    one, other = (getattr(race, name)(**setup_of(race)) for name in (ours, theirs))
    assert np.allclose(one.losses(updates=20), other.losses(updates=20), rtol=1e-5)
    assert math.isclose(one.perplexity(), other.perplexity(), rel_tol=1e-4)


@pytest.mark.oracle
def test_quick_prints_a_table_and_leaves_a_json(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert re.search(r"torch, SparseAdam \+ Adam +[\d,]+ +[\d.]+ × \([\d.]+ to [\d.]+\)", done.stdout)
    assert done.stdout.splitlines()[-1] == f"in {tmp_path}: results.json"
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    ((_, found),) = results["races"].items()
    assert found["losses_differ_by"] < 1e-3
    one, other = found["contestants"].values()
    assert math.isclose(one["perplexity"], other["perplexity"], rel_tol=1e-3)
    for name, contestant in found["contestants"].items():
        seconds = sorted(found["seconds"][name])
        assert math.isclose(contestant["words_per_second"], results["words_per_round"] / seconds[len(seconds) // 2])


# ---- the text -----------------------------------------------------------------------------------------------------


def test_batches_are_words_of_the_sentences_that_are_not_held_out(race, tmp_path):
    (tmp_path / "numbered.txt").write_text("\n".join(f"s{i} and s{i}" for i in range(100)))
    rng = np.random.default_rng(1)
    text, contexts, targets, held_out = race.prepared(tmp_path / "numbered.txt", 1000, 3, None, rng)
    assert contexts.shape == (3, 64, 2) and targets.shape == (3, 64)
    words = np.array([*text.vocabulary.words, "|"])
    sentences = {f"s{i}" for i in range(19, 100, 20)}
    assert set(words[held_out[1]]) == sentences | {"and", "|"} and len(held_out[1]) == 5 * 4
    assert not set(words[targets.ravel()]) & sentences
    for context, target in zip(words[contexts.reshape(-1, 2)].tolist(), words[targets.ravel()].tolist(), strict=True):
        if target == "and":
            assert context[0] == "|" and context[1].startswith("s")
        if target == "|":
            assert context[0] == "and" and context[1].startswith("s")


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--rounds", 0], "--rounds must be at least 1, got 0"),
        (["--updates", 0], "--updates must be at least 1, got 0"),
        (["--vocab", 3], "--vocab must be at least 4, got 3"),
        (["--device", "gpu"], "this race is between CPUs: leave out --device"),
    ],
)
def test_flags_that_make_no_sense_are_refused(race, tmp_path, flags, said):
    with pytest.raises(DemoError) as error:
        race.main(list(map(str, ["--out", tmp_path / "out", *flags])))
    assert str(error.value) == said


@pytest.mark.parametrize(
    "text", ["one two\n" * 20, "one two three four\n" * 19], ids=["few words", "nothing to hold out"]
)
def test_a_text_that_is_too_short_is_refused(race, tmp_path, text):
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(DemoError, match=r"mine\.txt: there is too little to learn: expected 20 sentences or more"):
        race.main(["--out", str(tmp_path / "out"), "--corpus", str(tmp_path / "mine.txt")])
