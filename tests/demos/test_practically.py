"""The demo on the slide "Practically": what is measured, and what is said of it, with a GPU and without."""

import importlib.util
import itertools
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _shared.ways import Way
from hypothesis import given
from hypothesis import strategies as st

import losses
import minigrad as mg

pytestmark = pytest.mark.device

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "practically.py"

_spec = importlib.util.spec_from_file_location("practically", SCRIPT)
demo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo)


def run(*flags):
    command = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def read_json(out):
    return json.loads((out / "results.json").read_text("utf-8"))


# ---- what is measured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [losses.FullSoftmax, losses.NegativeSampling])
def test_a_step_learns(layer):
    model = demo.LanguageModel(20, 8, mg.Key(1), layer)
    model.optimiser.lr = 0.3
    words, targets = np.array([[1, 2], [3, 4]]), np.array([5, 6])
    options = {"noise": model.layer.draw(mg.Key(2), 2)} if layer is losses.NegativeSampling else {}
    before = model.embedding.weight.numpy().copy()
    for _ in range(300):
        model.step(words, targets, **options)
    changed = (model.embedding.weight.numpy() != before).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [1, 2, 3, 4]
    h = mg.reshape(model.embedding(words), (2, -1))
    for linear in model.hidden:
        h = mg.tanh(linear(h))
    assert model.layer.raw_scores(h).numpy().argmax(axis=1).tolist() == [5, 6]


@pytest.mark.parametrize("layer", [losses.FullSoftmax, losses.NegativeSampling])
def test_a_step_with_gradients_written_out_learns_the_same(layer):
    """Only then is its time comparable."""
    models = [demo.LanguageModel(20, 8, mg.Key(1), layer) for _ in range(2)]
    for model, written_out in zip(models, (False, True), strict=True):
        step = demo.batches(model, 4, mg.Key(3), written_out=written_out)
        for _ in range(10):
            step()
    for one, other in zip(*(model.optimiser.params for model in models), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-7)


def test_batches_take_turns_and_are_of_the_size_that_is_said(monkeypatch):
    seen = []
    monkeypatch.setattr(demo.LanguageModel, "step", lambda self, words, targets: seen.append((words, targets)))
    step = demo.batches(demo.LanguageModel(50, 4, mg.Key(1)), 7, mg.Key(2))
    for _ in range(2 * demo.ROTATE):
        step()
    assert {(w.shape, t.shape) for w, t in seen} == {((7, demo.CONTEXT), (7,))}
    assert all((a[0] == b[0]).all() for a, b in zip(seen, seen[demo.ROTATE :], strict=False))
    assert not all((a[0] == seen[0][0]).all() for a in seen)


def test_ways_of_one_device_share_what_is_made_there():
    one, every = Way("one", "one", "cpu", 1), Way("all", "all", "cpu", 2)
    made = demo.on_each([one, every], lambda way: [way])
    assert made[one] is made[every] and made[one] == [one]


# ---- what the numbers say ---------------------------------------------------------------------------------------


def cells_of(speed, vocabularies=(100, 10_000), widths=(32, 512), sizes=(1, 64), ways=("cpu_one_thread", "gpu")):
    """Cells in which a way has the examples/s `speed(way, V, d, B)`."""
    return [
        {"V": V, "d": d, "B": B, "examples_per_second": {way: speed(way, V, d, B) for way in ways}}
        for V, d, B in itertools.product(vocabularies, widths, sizes)
    ]


def tricks_of(seconds, ways=("cpu_one_thread", "gpu")):
    return {what: {way: seconds(what, way) for way in ways} for what in ("exact", "sampled", "written out")}


def verdicts_of(cells, tricks=None, first=None):
    ways = list(cells[0]["examples_per_second"])
    tricks = tricks or tricks_of(lambda what, way: 1.0, ways)
    first = first or {"cpu": 1.0} | ({"gpu": 2.0} if "gpu" in ways else {})
    return {row["sentence"].partition(":")[2] or row["sentence"]: row for row in demo.advice(cells, tricks, first)}


speeds = st.floats(1e-2, 1e6)


@given(st.dictionaries(st.sampled_from("abc"), speeds, min_size=1))
def test_the_fastest_is_the_fastest_and_who_is_less_than_a_tenth_slower(found):
    fastest = demo.fastest(found)
    best = max(found.values())
    assert found[fastest[0]] == best
    assert set(fastest) == {way for way, speed in found.items() if speed * 1.1 > best}


@given(st.lists(st.tuples(speeds, speeds, speeds), min_size=4, max_size=4))
def test_a_gain_is_the_speed_over_the_best_of_the_ways_before(numbers):
    ways = ("cpu_one_thread", "cpu_all_threads", "gpu")
    turn = iter(itertools.chain(*numbers))
    cells = cells_of(lambda *_: next(turn), vocabularies=(100,), ways=ways)
    assert demo.gains(cells, "gpu") == [gpu / max(one, every) for one, every, gpu in numbers]
    assert demo.gains(cells, "cpu_all_threads", d=32, B=64) == [numbers[1][1] / numbers[1][0]]
    assert demo.gains(cells, "tpu") == []


@given(st.lists(speeds, min_size=8, max_size=8))
def test_the_gain_of_a_batch_is_over_one_example_of_the_same_model_and_way(numbers):
    turn = iter(numbers)
    cells = cells_of(lambda *_: next(turn), ways=("cpu",))
    singles, batches = numbers[::2], numbers[1::2]
    assert demo.gains_of_batches(cells, 64) == [many / one for one, many in zip(singles, batches, strict=True)]


def test_the_crossovers_are_over_the_batch_for_each_model_and_way():
    """The GPU's step takes a second whatever the batch; the CPU's a second for each 10 examples."""
    cells = cells_of(lambda way, V, d, B: B if way == "gpu" else 10.0, sizes=(1, 8, 64), widths=(32,))
    found = [{"V": V, "d": 32, "way": "gpu", "from_B": 64} for V in (100, 10_000)]
    assert demo.crossings(cells) == found


@pytest.mark.parametrize(
    "hits, said",
    [
        ([True, True], "holds"),
        ([True, False, False], "holds in 1 of 3"),
        ([False], "does not hold"),
        ([], "not shown here: no CUDA device"),
    ],
)
def test_a_verdict_counts_the_cells_in_which_a_sentence_is_true(hits, said):
    assert demo.verdict(hits) == said


@given(st.lists(speeds, min_size=36, max_size=36))
def test_without_a_gpu_nothing_is_said_of_one(numbers):
    turn = itertools.cycle(numbers)
    ways = ("cpu_one_thread", "cpu_all_threads")
    cells = cells_of(lambda *_: next(turn), ways=ways)
    for row in demo.advice(cells, tricks_of(lambda *_: next(turn), ways), {"cpu": 1.0}):
        of_a_gpu = "GPU" in row["sentence"] or "CPU" in row["sentence"]
        assert (row["verdict"] == "not shown here: no CUDA device") == of_a_gpu
        assert "GPU" not in row["measured"]
        assert row["numbers"] and all(map(math.isfinite, row["numbers"]))


def test_a_cpu_with_one_thread_is_said_to_show_nothing_of_more():
    rows = verdicts_of(cells_of(lambda *_: 1.0, ways=("cpu_one_thread",)))
    assert rows["you can run many more experiments"]["verdict"] == "not shown here: the CPU has one thread"


def test_a_gpu_that_is_as_the_slide_says_makes_every_sentence_hold():
    """Slow to start, and fast when there is much to do at once."""

    def speed(way, V, d, B):
        operations = B * (V * d + d * d)
        return B / (1e-3 + operations / 1e12 if way == "gpu" else 1e-4 + operations / 1e10)

    def seconds(what, way):
        return {"exact": 0.05 if way == "gpu" else 1.0, "sampled": 0.1, "written out": 0.5}[what]

    ways = ("cpu_one_thread", "cpu_all_threads", "gpu")
    cells = cells_of(speed, vocabularies=(100,), sizes=(1, 64, 512), ways=ways)
    rows = verdicts_of(cells, tricks_of(seconds, ways), {"cpu": 0.5, "gpu": 5.0})
    assert {row["verdict"] for row in rows.values()} == {"holds"}


def test_without_a_gpu_what_was_seen_is_said_of_the_cpu_only():
    ways = ("cpu_one_thread", "cpu_all_threads")
    cells = cells_of(lambda way, V, d, B: float(B), ways=ways)
    rows = verdicts_of(cells, tricks_of(lambda what, way: 2.0 if what == "exact" else 1.0, ways), {"cpu": 0.5})
    said = {sentence: row["verdict"] for sentence, row in rows.items()}
    assert said["do mini-batching"] == said["you can run many more experiments"] == "holds on the CPU"
    assert all(word.endswith(" on the CPU") or word.startswith("not shown here") for word in said.values())


def test_a_gpu_that_is_always_faster_makes_what_is_said_for_the_cpu_false():
    rows = verdicts_of(cells_of(lambda way, *_: 10.0 if way == "gpu" else 1.0), first={"cpu": 2.0, "gpu": 1.0})
    said = {sentence: row["verdict"] for sentence, row in rows.items()}
    assert said["use CPU for prototyping"] == "does not hold"
    assert said[" small networks, d = 32, V = 100"] == "does not hold"
    assert said[" complicated networks, B = 1"] == "does not hold"
    assert said[" very big networks, d = 512, B = 64"] == "holds"
    assert said["do mini-batching"] == "does not hold"  # the same examples/s in any batch


def test_a_softmax_gains_on_a_gpu_only_if_it_gains_more_than_its_approximation():
    cells = cells_of(lambda *_: 1.0)

    def verdict(exact, sampled):
        gain = {"exact": exact, "sampled": sampled, "written out": 1.0}
        tricks = tricks_of(lambda what, way: 1.0 / gain[what] if way == "gpu" else 1.0)
        return verdicts_of(cells, tricks)[" softmaxes with no approximation"]["verdict"]

    assert verdict(exact=10.0, sampled=2.0) == "holds"
    assert verdict(exact=10.0, sampled=20.0) == "does not hold"
    assert verdict(exact=1.5, sampled=0.5) == "does not hold"


def test_the_softmaxs_part_of_a_step_is_what_its_approximation_saves():
    tricks = tricks_of(lambda what, way: {"exact": 4.0, "sampled": 1.0, "written out": 2.0}[what], ("cpu",))
    rows = verdicts_of(cells_of(lambda *_: 1.0, ways=("cpu",)), tricks)
    assert rows[" softmaxes with no approximation"]["numbers"] == [75.0]
    assert rows["optimise things properly"]["numbers"] == [2.0]


MUTANTS = {
    "one is the fastest": (
        "fastest",
        lambda found: [max(found, key=found.get)],
        "the_fastest_is_the",
        ({"a": 1.0, "b": 1.05},),
    ),
    "over the worst": (
        "gains",
        lambda cells, way, **wanted: [s[way] / min(s.values()) for s in (c["examples_per_second"] for c in cells)],
        "a_gain_is_the",
        ([(1.0, 2.0, 8.0)] * 4,),
    ),
    "upside down": (
        "gains_of_batches",
        lambda cells, batch: [1.0 / gain for gain in right(cells, batch)],
        "the_gain_of_a_batch_is",
        ([1.0, 2.0] * 4,),
    ),
    "good news of no GPU": (
        "verdict",
        lambda hits, wanting="", on="": "holds" if all(hits) else "does not hold",
        "without_a_gpu_nothing",
        ([1.0] * 36,),
    ),
}
right = demo.gains_of_batches


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_statement_is_killed_by_the_test_of_its_definition(monkeypatch, mutant):
    name, wrong, test, example = MUTANTS[mutant]
    (check,) = (f.hypothesis.inner_test for n, f in globals().items() if n.startswith(f"test_{test}"))
    check(*example)
    monkeypatch.setattr(demo, name, wrong)
    with pytest.raises(AssertionError):
        check(*example)


# ---- what it leaves behind --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture
def no_gpu(quick):
    return read_json(quick[0])["environment"]["no_gpu"] or pytest.skip("there is a GPU here")


def test_it_leaves_a_picture_and_the_numbers(quick):
    out, said = quick
    assert {path.name for path in out.iterdir()} == {"speeds.png", "results.json"}
    assert struct.unpack(">II", (out / "speeds.png").read_bytes()[16:24]) == (1600, 900)
    assert said.splitlines()[-1] == f"in {out}: speeds.png, results.json"


def test_every_combination_is_measured_each_way(quick):
    cells = read_json(quick[0])["cells"]
    sizes, widths, vocabularies = demo.QUICK
    assert [(c["V"], c["d"], c["B"]) for c in cells] == list(itertools.product(vocabularies, widths, sizes))
    assert len({tuple(c["examples_per_second"]) for c in cells}) == 1
    assert all(speed > 0 for c in cells for speed in c["examples_per_second"].values())
    assert all(c["fastest"] == demo.fastest(c["examples_per_second"]) for c in cells)


def test_arranging_examples_in_mini_batches_pays_as_the_slide_says(quick):
    """With one thread, in the smallest network, where it is some fiftyfold; five is what a busy machine must show."""
    one, many = (cell["examples_per_second"]["cpu_one_thread"] for cell in read_json(quick[0])["cells"][:2])
    assert many > 5 * one


def test_without_a_gpu_a_line_says_so_and_there_is_no_number_of_one(quick, no_gpu):
    out, said = quick
    assert f"no CUDA device: the GPU is not measured ({no_gpu})" in said.splitlines()
    results = read_json(out)
    assert "gpu" not in json.dumps([results[k] for k in ("cells", "crossovers", "seconds_of_a_step")])


def test_the_questions_to_predict_are_answered(quick):
    results = read_json(quick[0])
    speeds = {
        c["B"]: c["examples_per_second"]["cpu_one_thread"]
        for c in results["cells"]
        if (c["V"], c["d"]) == (10_000, 128)
    }
    step = {what: times["cpu_one_thread"] for what, times in results["seconds_of_a_step"].items()}
    assert results["predict"] == {
        "times_the_examples_per_second_in_batches_of_64": speeds[64] / speeds[1],
        "part_of_a_step_spent_on_the_exact_softmax": 1 - step["sampled"] / step["exact"],
    }


def test_a_gpu_that_is_demanded_and_missing_is_one_line_and_status_2(no_gpu, tmp_path):
    done = run("--device", "gpu", "--quick", "--out", tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("practically: --device gpu: ")
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_a_gpu_it_is_a_column_and_a_curve(monkeypatch, tmp_path, capsys):
    """The CPU stands in for it: what is asked of the GPU is done there."""
    monkeypatch.setattr(mg, "set_device", lambda device: None)
    found = [Way("cpu_one_thread", "CPU, 1 thread", "cpu", 1), Way("gpu", "GPU", "gpu")]
    monkeypatch.setattr(demo, "ways_here", lambda device: (found, None))
    monkeypatch.setattr(demo, "QUICK", ((1, 64), (8, 128), (100, 10_000)))
    demo.main(["--quick", "--out", str(tmp_path)])
    results = read_json(tmp_path)
    assert {tuple(c["examples_per_second"]) for c in results["cells"]} == {("cpu_one_thread", "gpu")}
    assert {c["way"] for c in results["crossovers"]} == {"gpu"}
    assert set(results["seconds_until_the_first_step_is_done"]) == {"cpu", "gpu"}
    assert not any("no CUDA device" in row["verdict"] for row in results["advice"])
    assert "no CUDA device" not in capsys.readouterr().out
