"""The demo on embedding prediction: what it leaves behind, what its numbers say, how it ends when asked nonsense."""

import json
import math
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from _shared.errors import DemoError
from _shared.text import read_text
from test_commands import load_script

import minigrad as mg

pytestmark = pytest.mark.predictors

demo = load_script(Path(__file__).parents[2] / "demos" / "embedding-prediction.py")
GO_ON = SimpleNamespace(requested=False)
SIZE = demo.QUICK._replace(dim=8, hidden=8, min_count=1)
ANIMALS = ["cat", "dog", "cow", "pig", "hen", "fox"]


def a_text(path, sentences=400):
    """The same animals in the same order, again and again: each word is known from the one before."""
    path.write_text("\n".join(" ".join(ANIMALS[i % 3 :]) for i in range(sentences)), "utf-8")
    return read_text(path, 1)


def results(out):
    return json.loads((out / "results.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What --quick leaves behind."""
    mg.set_device("cpu")
    out = tmp_path_factory.mktemp("quick")
    demo.main(["--quick", "--out", str(out)])
    return out


# ---- what it leaves behind ----------------------------------------------------------------------------------------


@pytest.mark.cpu
def test_it_leaves_two_pictures_and_the_numbers_of_every_output(quick):
    found = results(quick)
    assert sorted(file.name for file in quick.iterdir()) == ["accuracy.png", "kappa.png", "results.json"]
    assert [one["name"] for one in found["outputs"]] == list(demo.KINDS)
    for one in found["outputs"]:
        assert 0 <= one["right"] <= one["among_five"] <= 1
        assert one["words_per_second_learning"] > 0 < one["words_per_second_predicting"]
    assert not found["stopped_early"] and found["held_out_words"] <= demo.QUICK.held_out


@pytest.mark.cpu
def test_rows_and_bytes_are_those_of_v_for_the_softmax_and_of_m_for_the_others(quick):
    found = results(quick)
    v, m, d = found["vocab_size"], found["size"]["dim"], found["size"]["hidden"]
    assert found["bytes_frozen"] == 4 * v * m
    for one in found["outputs"]:
        rows = v if one["name"] == "softmax" else m
        assert one["bytes_learned"] == 4 * rows * (d + 1)
        assert one["rows_in_training"] == rows + (v if one["name"] == "margin" else 0)


@pytest.mark.cpu
def test_kappa_is_told_of_the_von_mises_fisher_losses_and_where_it_ends_is_the_end_of_its_curve(quick):
    found = {one["name"]: one for one in results(quick)["outputs"]}
    for name, one in found.items():
        if name in demo.VMF:
            words, kappas = zip(*one["kappa_curve"], strict=True)
            assert one["kappa"] == kappas[-1] and words[0] == 0 and words[-1] == results(quick)["learned_words"]
            assert sorted(set(words)) == list(words) and min(kappas) > 0
        else:
            assert one["kappa"] is None and one["kappa_curve"] == []
    assert found["vmf-2"]["kappa"] < demo.HELD * found["vmf"]["kappa"]


@pytest.mark.cpu
def test_the_answers_to_what_was_to_be_predicted_are_those_of_the_table(quick):
    found = {one["name"]: one for one in results(quick)["outputs"]}
    times, kappa = results(quick)["predict"].values()
    speed = {name: one["words_per_second_learning"] for name, one in found.items()}
    assert times == speed["vmf-both"] / speed["softmax"] and kappa == found["vmf"]["kappa"]


def test_fewer_outputs_are_told_alone_and_an_older_picture_goes(tmp_path, capsys):
    text = tmp_path / "text.txt"
    a_text(text)
    (tmp_path / "kappa.png").write_text("of another run")
    flags = ["--quick", "--corpus", str(text), "--min-count", "1", "--out", str(tmp_path)]
    demo.main([*flags, "--device", mg.get_device()[:3], "--outputs", "l2", "softmax"])
    found = results(tmp_path)
    assert [one["name"] for one in found["outputs"]] == ["softmax", "l2"]
    assert not (tmp_path / "kappa.png").exists() and (tmp_path / "accuracy.png").stat().st_size > 10_000
    assert found["verdicts"] == [] and set(found["predict"].values()) == {None}
    assert "in " in capsys.readouterr().out.splitlines()[-1]


# ---- the parts ------------------------------------------------------------------------------------------------------


def test_the_vectors_have_length_one_and_no_common_part_and_the_device_stays(tmp_path):
    device = mg.get_device()
    vectors = demo.frozen_vectors(a_text(tmp_path / "text.txt"), SIZE, mg.Key(1), device[:3])
    assert vectors.shape == (7, 8) and mg.get_device() == device
    vectors = mg.to_cpu(vectors)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert np.linalg.norm(vectors.mean(axis=0)) < 0.5


def test_every_twentieth_sentence_is_held_out_and_neither_ends_nor_rare_words_are_predicted(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*["a b a b"] * 19, "a rare a b"] * 3), "utf-8")
    text = read_text(path, 4)
    learned, held = demo.split(text, mg.Key(1))
    a, b = map(text.vocabulary.id, "ab")
    assert sorted(learned.targets.tolist()) == sorted([a, b] * 2 * 19 * 3)
    assert held.targets.tolist() == [a, a, b] * 3
    boundary = len(text.vocabulary)
    assert held.contexts[:3].tolist() == [[boundary] * 3, [boundary, a, 0], [a, 0, a]]


@pytest.mark.parametrize("name", demo.KINDS)
def test_what_can_be_known_is_learned(name, tmp_path, monkeypatch):
    monkeypatch.setitem(demo.KINDS, name, demo.KINDS[name]._replace(rate=0.1))
    text = a_text(tmp_path / "text.txt")
    vectors = mg.backend.asarray(np.eye(8, dtype="float32")[: len(text.vocabulary)])
    learned, held = demo.split(text, mg.Key(1))
    inside = lambda part: demo.Examples(*(array[part.contexts[:, -1] != len(text.vocabulary)] for array in part))
    model = demo.Model(name, text, vectors, SIZE, mg.Key(2))
    for _ in range(8):
        found = demo.taught(name, model, inside(learned), inside(held), lambda n: None, GO_ON)
    assert found["right"] == found["among_five"] == 1.0


def test_all_models_begin_alike_but_for_the_output(tmp_path):
    text = a_text(tmp_path / "text.txt")
    vectors = demo.frozen_vectors(text, SIZE, mg.Key(1), mg.get_device()[:3])
    models = [demo.Model(name, text, vectors, SIZE, mg.Key(2)) for name in demo.KINDS]
    h = [model.h(mg.backend.asarray([[1, 2, 3]])).numpy().tolist() for model in models]
    assert h == h[:1] * len(h)
    outputs = [model.output.weight.numpy().tolist() for model in models[1:]]
    assert outputs == outputs[:1] * len(outputs)


# ---- what the numbers say -----------------------------------------------------------------------------------------


def made_up(**changes):
    """Numbers as in a results.json, for which every claim holds, with changes: name=(right, words/s, κ)."""
    numbers = {
        "softmax": (0.2, 1e3, None),
        "cosine": (0.1, 9e3, None),
        "l2": (0.1, 9e3, None),
        "margin": (0.1, 2e3, None),
        "vmf": (0.15, 8e3, 40.0),
        "vmf-1": (0.16, 8e3, 39.0),
        "vmf-2": (0.17, 8e3, 5.0),
        "vmf-both": (0.2, 8e3, 4.0),
    } | changes
    return {
        name: {"right": right, "words_per_second_learning": speed, "kappa": kappa}
        for name, (right, speed, kappa) in numbers.items()
    }


def test_every_claim_can_hold():
    assert [row["holds"] for row in demo.verdicts(made_up())] == [True] * len(demo.CLAIMS)


@pytest.mark.parametrize(
    "changes, broken",
    [
        ({"vmf-both": (0.2, 900.0, 4.0)}, 0),
        ({"softmax": (0.3, 1e3, None)}, 1),
        ({"softmax": (0.211, 1e3, None)}, 1),
        ({"l2": (0.25, 9e3, None)}, 2),
        ({"l2": (0.191, 9e3, None)}, 2),
        ({"vmf": (0.25, 8e3, 40.0)}, 3),
        ({"vmf": (0.191, 8e3, 40.0)}, 3),
        ({"vmf-2": (0.17, 8e3, 30.0)}, 4),
        ({"vmf-1": (0.16, 8e3, 3.0)}, 4),
        ({"margin": (0.1, 1e4, None)}, 5),
    ],
)
def test_a_claim_that_does_not_hold_is_told_from_those_that_do(changes, broken):
    assert [i for i, row in enumerate(demo.verdicts(made_up(**changes))) if not row["holds"]] == [broken]


def test_a_softmax_that_is_better_by_less_than_a_percentage_point_is_on_par():
    assert all(row["holds"] for row in demo.verdicts(made_up(softmax=(0.209, 1e3, None))))


def test_a_claim_is_not_told_if_one_of_its_models_is_missing():
    found = made_up()
    del found["softmax"]
    told = [row["sentence"] for row in demo.verdicts(found)]
    assert told == [claim.sentence for claim in demo.CLAIMS if "softmax" not in claim.kinds]
    assert demo.times(found, "vmf", "softmax", "right") is None


# ---- what is given --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, message", [(["--words", "0"], "--words must be 1"), (["--min-count", "-1"], "--min-count")]
)
def test_numbers_that_make_no_sense_are_refused(flags, message, tmp_path):
    with pytest.raises(DemoError, match=message):
        demo.main([*flags, "--out", str(tmp_path)])


def test_a_text_of_too_few_sentences_is_refused(tmp_path):
    text = a_text(tmp_path / "text.txt", 10)
    with pytest.raises(DemoError, match="expected 20 sentences or more, one a line"):
        demo.split(text, mg.Key(1))


@pytest.mark.cpu
@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="no signals")
def test_after_ctrl_c_the_models_that_are_done_are_shown(tmp_path, monkeypatch, capsys):
    assert threading.current_thread() is threading.main_thread()
    text, taught = tmp_path / "text.txt", demo.taught
    a_text(text)

    def then_stop(name, *rest):
        if name == "l2":
            signal.raise_signal(signal.SIGINT)
        return taught(name, *rest)

    monkeypatch.setattr(demo, "taught", then_stop)
    flags = ["--quick", "--corpus", str(text), "--min-count", "1", "--out", str(tmp_path)]
    demo.main([*flags, "--outputs", "cosine", "l2", "vmf"])
    assert "stopped early: 1 of 3 models done, and shown" in capsys.readouterr().out
    found = results(tmp_path)
    assert found["stopped_early"] and [one["name"] for one in found["outputs"]] == ["cosine"]
    with pytest.raises(DemoError, match="stopped before the first model was done"):
        demo.main([*flags, "--outputs", "l2"])


def test_three_digits_for_people():
    assert [demo.three(x) for x in (None, 0.0, 0.0123, 4.5678, 99.94, 12345.6)] == [
        None,
        "0.00",
        "0.0123",
        "4.57",
        "99.9",
        "12,346",
    ]
    assert math.isclose(demo.rights({"right": 0.125})[0], 12.5)
