"""The demo on binary codes: what is learned and what is held out, what is counted as right, and what errors do."""

import importlib.util
import json
import math
import random
import re
import signal
import struct
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from _shared.errors import DemoError
from _shared.progress import Progress
from hypothesis import given
from hypothesis import strategies as st

import losses
import minigrad as mg
from losses.structured.binary_code import PlainCode
from losses.structured.error_correcting import ConvolutionalCode

pytestmark = pytest.mark.predictors

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "wordemb-binary-code.py"

_spec = importlib.util.spec_from_file_location("wordemb_binary_code", SCRIPT)
demo = sys.modules["wordemb_binary_code"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo)

GOING_ON = SimpleNamespace(requested=False)
KEY = mg.Key(1)


def data_of(vocab_size=40, n=300, seed=1):
    """Words and contexts at random, the small ids more often."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (vocab_size * rng.random(shape) ** 2).astype(np.int64)
    return demo.Data(draw(n, 1), draw(n), (draw(50, 1), draw(50)), [f"w{i}" for i in range(vocab_size)])


def models_of(data, names=None, dim=4):
    make = demo.layers(len(data.words))
    return {n: demo.Model.new(make[n], "skipgram", data, dim, KEY) for n in names or make}


def text_of(path, sentences):
    path.write_text("\n".join(map(" ".join, sentences)))
    return demo.read_text(path, min_count=1)


def cpu(array):
    return mg.to_cpu(array.data if isinstance(array, mg.Tensor) else array)


# ---- the text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", demo.TASKS)
def test_no_word_of_a_sentence_that_is_held_out_is_learned(task, tmp_path):
    text = text_of(tmp_path / "text.txt", [[f"s{i}", "and", f"s{i}"] for i in range(30)])
    data = demo.Data.of(text, task)
    words = np.array(data.words)
    numbered = lambda contexts, targets: {w for w in words[np.r_[contexts.ravel(), targets]] if w[0] == "s"}
    assert numbered(*data.held_out) == {"s9", "s19", "s29"}
    assert numbered(data.contexts, data.targets) == {f"s{i}" for i in range(30)} - {"s9", "s19", "s29"}


def test_the_ngram_model_guesses_a_word_from_three_and_the_end_of_a_sentence(tmp_path):
    data = demo.Data.of(text_of(tmp_path / "text.txt", [["a", "b"], ["c", "d"]]), "ngram")
    words = np.array(data.words)
    assert words[data.contexts].tolist() == [["|", "|", "|"], ["|", "|", "a"], ["|", "a", "b"]]
    assert words[data.targets].tolist() == ["a", "b", "|"]


def test_the_skipgram_model_guesses_each_word_at_most_two_places_away(tmp_path):
    data = demo.Data.of(text_of(tmp_path / "text.txt", [["a", "b", "c", "d"], ["a", "b"]]), "skipgram")
    words = np.array(data.words)
    pairs = sorted("".join(pair) for pair in zip(words[data.contexts[:, 0]], words[data.targets], strict=True))
    assert pairs == ["ab", "ac", "ba", "bc", "bd", "ca", "cb", "cd", "db", "dc"]


def test_of_many_held_out_words_some_are_taken_from_all_over(tmp_path, monkeypatch):
    text = text_of(tmp_path / "text.txt", [[f"s{i}", f"s{i}"] for i in range(200)])
    everything = demo.Data.of(text, "skipgram").held_out
    monkeypatch.setattr(demo, "AT_MOST", 10)
    contexts, targets = demo.Data.of(text, "skipgram").held_out
    assert len(everything[1]) == 40
    assert (contexts == everything[0][::4]).all() and (targets == everything[1][::4]).all()


def test_numbers_by_frequency_are_those_of_the_layers():
    """Ties, too: the same order, whoever counts."""
    data = data_of()
    for name, model in models_of(data, ["binary", "binary-EC", "hybrid-1", "hybrid-1-EC"]).items():
        assert cpu(model.layer.words).tolist() == data.by_frequency.tolist(), name
    assert data.rank[data.by_frequency].tolist() == list(range(40))
    assert (np.diff(np.bincount(data.targets, minlength=40)[data.by_frequency]) <= 0).all()


def test_batches_are_all_words_once_before_one_comes_again():
    data = data_of(n=3 * demo.BATCH // 2)
    data.targets = np.arange(len(data.targets))
    data.contexts = data.targets[:, None] + 1000
    batches = data.batches(KEY)
    seen = [tuple(map(cpu, next(batches))) for _ in range(3)]
    targets = np.concatenate([t for _, t in seen])
    assert (np.concatenate([c[:, 0] for c, _ in seen]) == targets + 1000).all()
    once, again = np.split(targets, 2)
    assert sorted(once) == list(range(len(data.targets))) and (once == again).all() and (np.diff(once) != 1).any()


# ---- the layers and how they learn ----------------------------------------------------------------------------------


def test_there_are_seven_layers_with_the_rows_that_are_said():
    """V = 4,096: 12 bits; 2 (12 + 6) with redundancy; of the hybrid what bits the rare words need."""
    rows = {}
    for name, make in demo.layers(4096).items():
        layer = make(2, key=KEY)
        rows[name] = sum(len(p) for p in layer.parameters() if p.ndim == 2)
    bits = 12
    assert rows == {
        "softmax": 4096,
        "binary": bits,
        "binary-EC": 2 * (bits + 6),
        "hybrid-32": 32 + 1 + bits,
        "hybrid-32-EC": 32 + 1 + 2 * (bits + 6),
        "hybrid-128": 128 + 1 + bits,
        "hybrid-128-EC": 128 + 1 + 2 * (bits + 6),
    }


@given(st.integers(3, 10**6))
def test_the_hybrids_have_words_enough_for_both_of_their_parts(vocab_size):
    assert all(1 <= n <= vocab_size - 2 for n in demo.frequent(vocab_size))


def test_all_layers_learn_the_same_batches_with_the_same_rates_in_turns(monkeypatch):
    data, heard = data_of(), []
    models = models_of(data)
    monkeypatch.setattr(
        demo.Model, "learn", lambda self, turn, rates: heard.append((self, [cpu(t).tolist() for _, t in turn], rates))
    )
    updates = 2 * demo.TURN + 3
    with Progress("learning", 1) as bar:
        assert demo.school(models, data, updates, KEY, bar, GOING_ON) == updates
    assert [m for m, *_ in heard] == 3 * list(models.values())
    of_each = [[x for m, *x in heard if m is model] for model in models.values()]
    assert all(each == of_each[0] for each in of_each)
    rates = [rate for _, some in of_each[0] for rate in some]
    assert np.allclose(rates, demo.RATE * (1 - np.arange(updates) / updates))
    assert bar.done == updates * demo.BATCH * len(models)


def test_a_turn_of_learning_is_updates_by_the_loss_of_the_layer():
    data = data_of()
    model, same = (models_of(data, ["hybrid-1"])["hybrid-1"] for _ in range(2))
    batches = data.batches(KEY)
    turn = [next(batches), next(batches)]
    model.learn(turn, [0.3, 0.1])
    for (contexts, targets), same.optimiser.lr in zip(turn, [0.3, 0.1], strict=True):
        same.layer.loss(mg.take(same.vectors, contexts[:, 0]), targets).backward()
        same.optimiser.step()
        same.optimiser.zero_grad()
    for ours, theirs in zip(model.optimiser.params, same.optimiser.params, strict=True):
        assert np.array_equal(ours.numpy(), theirs.numpy())
    assert len(model.learning) == 1 and model.learning[0] > 0


def test_the_ngram_model_reads_three_words_through_a_hidden_layer():
    data, contexts = data_of(), np.array([[5, 6, 7], [7, 6, 5]])
    model = demo.Model.new(demo.layers(40)["binary"], "ngram", data, 4, KEY)
    x = model.vectors.numpy()[contexts].reshape(2, 12)
    expected = np.tanh(x @ model.hidden.weight.numpy().T + model.hidden.bias.numpy())
    assert np.allclose(cpu(model.read(mg.backend.asarray(contexts))), expected, atol=1e-6)


def test_all_layers_begin_with_the_same_vectors():
    first, *others = (model.vectors.numpy() for model in models_of(data_of()).values())
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("task", demo.TASKS)
def test_every_layer_learns_a_text_of_which_all_can_be_known(task):
    """Thirty words in a ring: the word before says which is the next."""
    ring, n = np.arange(30), demo.BEFORE if task == "ngram" else 1
    contexts = (ring[:, None] + np.arange(n)) % 30
    data = demo.Data(contexts, (ring + n) % 30, (contexts, (ring + n) % 30), [f"w{i}" for i in ring])
    make = demo.layers(30)
    models = {name: demo.Model.new(each, task, data, 24, KEY) for name, each in make.items()}
    with Progress("learning", 1) as bar:
        demo.school(models, data, 200, KEY, bar, GOING_ON)
    right = {name: (marks.words == data.held_out[1]).mean() for name, marks in demo.examined(models, data).items()}
    assert min(right.values()) > 0.9, right


# ---- what is counted ------------------------------------------------------------------------------------------------


def trained_a_little(data, names):
    models = models_of(data, names, dim=8)
    with Progress("learning", 1) as bar:
        demo.school(models, data, 60, KEY, bar, GOING_ON)
    return models


@pytest.mark.parametrize("name", ["binary", "binary-EC"])
def test_bits_are_wrong_where_the_sign_is_not_that_of_the_words_number(name):
    data = data_of()
    (model,) = trained_a_little(data, [name]).values()
    (marks,) = demo.examined({name: model}, data).values()
    z = cpu(model.layer.bit_scores(model.read(mg.backend.asarray(data.held_out[0]))))
    bits = cpu(model.layer.codebook.bits(mg.backend.asarray(data.rank[data.held_out[1]])))
    assert marks.has_bits.all()
    assert (marks.wrong_bits == ((z > 0) != bits.astype(bool))).all() and 0 < marks.wrong_bits.mean() < 0.5


@pytest.mark.parametrize("name", ["hybrid-1", "hybrid-1-EC"])
def test_a_hybrids_bits_are_those_of_rare_words_only(name):
    data = data_of()
    (model,) = trained_a_little(data, [name]).values()
    (marks,) = demo.examined({name: model}, data).values()
    rank = data.rank[data.held_out[1]]
    z = cpu(model.layer.bit_scores(model.read(mg.backend.asarray(data.held_out[0]))))[rank >= 1]
    bits = cpu(model.layer.codebook.bits(mg.backend.asarray(rank[rank >= 1] - 1)))
    assert (marks.has_bits == (rank >= 1)).all() and 0 < (rank < 1).sum()
    assert (marks.wrong_bits == ((z > 0) != bits.astype(bool))).all()


@pytest.mark.parametrize("name", ["softmax", "binary", "hybrid-1", "hybrid-1-EC"])
def test_the_best_words_are_those_of_the_greatest_probability(name):
    data = data_of()
    (model,) = trained_a_little(data, [name]).values()
    (marks,) = demo.examined({name: model}, data).values()
    with mg.no_grad():
        log_p = model.layer.log_prob(model.read(mg.backend.asarray(data.held_out[0]))).numpy()
    assert (marks.words == log_p.argmax(axis=1)).mean() > 0.98  # but for ties that rounding decides


def test_softmax_first_is_a_frequent_word_unless_the_best_is_other():
    """Scores that are set by hand: V = 40 and N = 1, so that number 5 of the code is rank 6."""
    data = data_of()
    layer = demo.layers(40)["hybrid-1"](2, counts=data.counts(), key=KEY)
    layer.weight = mg.param([[1.0, 0.0], [0.0, 1.0]])
    layer.bit_weight = mg.param([[0.0, -1.0], [0.0, -1.0], [0.0, -1.0], [0.0, 1.0], [0.0, -1.0], [0.0, 1.0]])
    hidden = mg.tensor([[2.0, 1.0], [1.0, 2.0]])
    said = demo.said_of_bits(layer, hidden, mg.backend.asarray([0, 1]))["softmax_first"]
    assert cpu(said).tolist() == data.by_frequency[[0, 6]].tolist()


def test_by_signs_no_bit_is_surer_than_another():
    """Memory 2, V = 4: with the code of word 1 and one sure error the scores say another word, their signs say 1."""
    layer = losses.ErrorCorrectingCode(4, 1, counts=[4, 3, 2, 1], memory=2, key=KEY)
    z = 2.0 * cpu(layer.codebook.bits(mg.backend.asarray([1])))[0] - 1.0
    place = int((cpu(layer.codebook.bits(mg.backend.asarray([0])))[0] != (z > 0)).argmax())
    z[place] *= -100
    layer.weight, hidden = mg.param(z[:, None], dtype="float32"), mg.tensor([[1.0]])
    said = demo.said_of_bits(layer, hidden, mg.backend.asarray([1]))
    assert cpu(said["by_signs"]).tolist() == [1] and cpu(said["wrong_bits"]).sum() == 1
    assert cpu(layer.topk(hidden, 1)[0]).tolist() != [[1]]


def pupil_of(data, layer, words, **marks):
    """One that says these words, a row a seed."""
    bits = np.zeros((len(data.held_out[1]), 3), bool)
    bits[::2, 1] = True
    marks = {"has_bits": np.ones(len(bits), bool), "wrong_bits": bits, **marks}
    model = SimpleNamespace(layer=layer, learning=[1e-3, 5e-3, 2e-3], predicting=[1e-4])
    return demo.Pupil("name", [model] * len(words), [demo.Marks(words=np.array(each), **marks) for each in words])


def test_the_report_is_counted_from_what_was_said():
    data = data_of(vocab_size=320)
    targets = data.held_out[1]
    wrong = (targets + 1) % 320
    seeds = [np.where(np.arange(50) < 10, targets, wrong), np.where(np.arange(50) < 20, targets, wrong)]
    layer = losses.BinaryCode(320, 4, counts=data.counts(), key=KEY)
    report = pupil_of(data, layer, seeds, softmax_first=wrong).report(data)
    rare = [int(data.rank[t]) >= 10 for t in targets]
    assert 0 < sum(rare) < 50
    assert report["words_right_of_each_seed"].tolist() == [0.2, 0.4] and math.isclose(report["words_right"], 0.3)
    assert math.isclose(report["rare_words_right"], (sum(rare[:10]) + sum(rare[:20])) / 2 / sum(rare))
    assert math.isclose(report["bits_right"], 1 - 25 / 150) and report["bits"] == 3
    assert report["words_right_softmax_first"] == 0.0
    assert (report["rows"], report["bytes"]) == (9, 4 * (9 * 4 + 9))
    assert math.isclose(report["words_per_second_learning"], 500)
    assert math.isclose(report["words_per_second_predicting"], 10_000)


# ---- which is better ------------------------------------------------------------------------------------------------


def test_a_difference_has_the_standard_error_of_the_mean_of_differences():
    one, other = np.array([[1, 0, 0, 0]], bool), np.array([[1, 1, 1, 0]], bool)
    apart, error = demo.difference(one, other)
    assert apart == 0.5 and math.isclose(error, math.sqrt(0.25 / 4))  # the differences are 0, 1, 1, 0


def test_over_seeds_it_has_that_of_their_means_as_well():
    one, other = np.zeros((2, 4), bool), np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    apart, error = demo.difference(one, other)
    of_words = np.var([1, 1, 0.5, 0.5]) / 4
    assert apart == 0.75 and math.isclose(error, math.sqrt(of_words + 0.125 / 2))


def test_what_is_hard_for_both_is_no_difference():
    right = np.random.default_rng(1).random((1, 100)) < 0.5
    assert demo.difference(right, right) == (0.0, 0.0)


@pytest.mark.parametrize("apart, verdict", [(0.21, True), (0.2, None), (0.0, None), (-0.2, None), (-0.21, False)])
def test_nearer_than_two_standard_errors_is_too_near_to_tell(apart, verdict):
    assert demo.verdict(apart, 0.1) is verdict


def test_what_is_recovered_is_a_part_of_the_softmaxs_lead():
    right = {"softmax": 0.3, "binary": 0.1, "binary-EC": 0.2, "hybrid-2-EC": 0.35}
    shares = demo.recovered(right)
    assert list(shares) == ["binary-EC", "hybrid-2-EC"]
    assert math.isclose(shares["binary-EC"], 0.5) and math.isclose(shares["hybrid-2-EC"], 1.25)
    assert demo.recovered({**right, "softmax": 0.1}) == {"binary-EC": None, "hybrid-2-EC": None}


def test_each_improvement_is_judged_and_both_together_for_each_n():
    names = set(demo.layers(4096))
    claims = demo.claims(4096)
    assert {name for claim in claims for name in claim} == names
    assert {("binary", "binary-EC"), ("binary", "hybrid-32"), ("hybrid-128", "hybrid-128-EC")} < set(claims)
    assert {("hybrid-32-EC", "softmax"), ("hybrid-128-EC", "softmax")} < set(claims)


# ---- what errors do -------------------------------------------------------------------------------------------------

THRESHOLDS = {"plain bits": 0, "memory 2": 2, "memory 3": 2, "memory 4": 3, "memory 5": 3, "memory 6": 4}


@pytest.mark.parametrize("name, t", THRESHOLDS.items())
def test_up_to_t_errors_no_word_is_lost_and_after_more_some_are(name, t):
    code = demo.codebooks(1000)[name]
    found = [demo.after_errors(code, k, 1500, KEY.fold(k)) for k in range(t + 3)]
    assert demo.corrects(code) == t and found[: t + 1] == [1.0] * (t + 1)
    assert 1.0 > found[t + 1] > found[t + 2] or found[t + 1] == found[t + 2] == 0.0


def test_as_many_bits_are_turned_as_is_said_wherever_they_are(monkeypatch):
    turned = []
    monkeypatch.setattr(demo, "found_again", lambda code, numbers, wrong: (turned.append(cpu(wrong)), wrong[:, 0])[1])
    demo.after_errors(ConvolutionalCode(100), 5, 3000, KEY)
    (wrong,) = turned
    assert (wrong.sum(axis=1) == 5).all()
    p = 5 / 26
    assert (abs(wrong.mean(axis=0) - p) < 6 * math.sqrt(p * (1 - p) / 3000)).all()


@pytest.mark.parametrize("curve", [demo.at_rate, demo.in_noise])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3])
def test_plain_bits_find_a_word_if_all_are_right(curve, rate):
    """V = 2⁶: (1 − p)⁶, whether it is known how sure they are or not."""
    expected, n = (1 - rate) ** 6, 4000
    found = curve(PlainCode(64), rate, n, KEY)
    assert abs(found - expected) <= 6 * math.sqrt(expected * (1 - expected) / n)


def test_who_knows_how_sure_the_bits_are_finds_more_words():
    code = ConvolutionalCode(1000)
    assert demo.in_noise(code, 0.2, 1000, KEY) > 1.2 * demo.at_rate(code, 0.2, 1000, KEY)


def test_independent_errors_come_as_often_at_each_bit_as_they_did():
    """Of plain bits: Π (1 − p_b), where the first bit is never wrong and the last always."""
    code, numbers = PlainCode(8), mg.backend.asarray(np.arange(8).repeat(500))
    rates = np.array([[0, 0, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1]], bool)
    assert demo.if_independent(code, numbers, rates, KEY) == 0.0
    found = demo.if_independent(code, numbers, rates[:, [0, 1, 0]], KEY)
    assert abs(found - 0.75) < 6 * math.sqrt(0.75 * 0.25 / 4000)


def test_a_plain_number_of_no_word_may_be_mended_by_taking_the_nearest():
    """V = 5: 1, 2 and 3 with the first bit turned are 5, 6 and 7, of which they are the nearest words."""
    numbers, turned = mg.backend.asarray(np.arange(5)), np.zeros((5, 3), bool)
    found = {}
    for place in range(3):
        turned[:] = np.arange(3) == place
        found[place] = cpu(demo.found_again(PlainCode(5), numbers, mg.backend.asarray(turned))).nonzero()[0].tolist()
    assert found == {0: [1, 2, 3], 1: [], 2: []}


# ---- what must not pass ---------------------------------------------------------------------------------------------

MUTANTS = {
    "an error is measured without the seeds": (
        "difference",
        lambda one, other: ((other.mean() - one.mean()), (other.astype(float) - one).std() / math.sqrt(one.shape[1])),
        test_over_seeds_it_has_that_of_their_means_as_well,
    ),
    "as if the words were not the same": (
        "difference",
        lambda one, other: (other.mean() - one.mean(), math.sqrt((one.var() + other.var()) / one.shape[1])),
        test_what_is_hard_for_both_is_no_difference,
    ),
    "a tie is a loss": (
        "verdict",
        lambda apart, error: apart > 2 * error,
        lambda: test_nearer_than_two_standard_errors_is_too_near_to_tell(0.0, None),
    ),
    "the softmax's lead over nothing": (
        "recovered",
        lambda right: {name: right[name] / right["softmax"] for name in right if name not in ("softmax", "binary")},
        test_what_is_recovered_is_a_part_of_the_softmaxs_lead,
    ),
    "no bit is turned": (
        "found_again",
        lambda code, numbers, wrong: (wrong | True)[:, 0],
        lambda: test_up_to_t_errors_no_word_is_lost_and_after_more_some_are("memory 2", 2),
    ),
    "the mean of all bits for each": (
        "if_independent",
        lambda code, numbers, wrong, key: demo.at_rate(code, float(wrong.mean()), len(numbers), key),
        test_independent_errors_come_as_often_at_each_bit_as_they_did,
    ),
    "noise whose strength is the rate": (
        "NormalDist",
        lambda: SimpleNamespace(inv_cdf=lambda p: 1 / (1 - p)),
        lambda: test_plain_bits_find_a_word_if_all_are_right(demo.in_noise, 0.3),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_version_dies_of_the_test_of_what_it_breaks(mutant, monkeypatch):
    name, wrong, check = MUTANTS[mutant]
    check()
    monkeypatch.setattr(demo, name, wrong)
    with pytest.raises(AssertionError):
        check()


# ---- what it prints and leaves behind -------------------------------------------------------------------------------


def run(*flags, **options):
    command = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, **options)


def read_json(out):
    return json.loads((out / "results.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.mark.cpu
class TestQuick:
    def test_it_leaves_two_pictures_and_the_numbers(self, quick):
        out, printed = quick
        assert {path.name for path in out.iterdir()} == {"words.png", "errors.png", "results.json"}
        assert struct.unpack(">II", (out / "words.png").read_bytes()[16:24]) == (1600, 900)
        assert struct.unpack(">II", (out / "errors.png").read_bytes()[16:24]) == (1600, 900)
        assert printed.splitlines()[-1] == f"in {out}: words.png, errors.png, results.json"

    def test_every_layer_of_both_models_has_its_row(self, quick):
        out, printed = quick
        tasks = read_json(out)["tasks"]
        assert list(tasks) == list(demo.TASKS)
        for found in tasks.values():
            assert [one["name"] for one in found["layers"]] == list(demo.layers(found["vocab_size"]))
            for one in found["layers"]:
                assert re.search(rf"  {one['name']} +{one['rows']:,} ", printed)
                assert min(one["words_per_second_learning"], one["words_per_second_predicting"]) > 0

    def test_no_line_is_wider_than_a_projector(self, quick):
        assert max(len(line.rstrip()) for line in quick[1].splitlines()[:-1]) <= 120

    def test_words_are_shown_with_the_bits_of_their_numbers(self, quick):
        for one in read_json(quick[0])["codes"]:
            assert int(one["bits"], 2) == one["number"]
            assert one["memory 2"].startswith("00") or one["number"] >= 1 << (len(one["bits"]) - 1)
            assert re.search(rf"  {re.escape(one['word'])} +{one['number']:,} +{one['bits']} ", quick[1])

    def test_the_slides_word_14_is_explained(self, quick):
        bits = len(read_json(quick[0])["codes"][0]["bits"])
        assert f"14 = 8 + 4 + 2: with five bits 01110, as on the slide; here {bits} are needed\n" in quick[1]
        assert f"{14:05b}" == "01110" and "\n| is the boundary between sentences\n" in quick[1]

    def test_what_is_said_to_be_better_follows_from_what_was_counted(self, quick):
        for found in read_json(quick[0])["tasks"].values():
            right = {one["name"]: one["words_right"] for one in found["layers"]}
            for said in found["comparisons"]:
                assert math.isclose(said["difference"], right[said["other"]] - right[said["one"]], abs_tol=1e-12)
                assert said["other_is_better"] is demo.verdict(said["difference"], said["standard_error"])

    def test_errors_do_no_harm_up_to_the_threshold(self, quick):
        found = read_json(quick[0])["injected"]
        assert {name: code["corrects"] for name, code in found["codes"].items()} == THRESHOLDS
        for name, t in THRESHOLDS.items():
            assert found["of_errors"][name][: t + 1] == [1.0] * (t + 1)

    def test_memory_is_that_of_the_parameters(self, quick):
        for found in read_json(quick[0])["tasks"].values():
            for one in found["layers"]:
                assert one["bytes"] == 4 * one["rows"] * (16 + 1)


def learned(out, corpus, *flags):
    device = mg.get_device()[:3]
    flags = ["--quick", "--device", device, "--min-count", 1, "--dim", 4, "--words", 256, *flags]
    demo.main(list(map(str, ["--out", out, "--corpus", corpus, *flags])))
    return read_json(out)


@pytest.fixture
def corpus(tmp_path):
    draw = random.Random(1)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(draw.choices("abcdefgh", k=5)) for _ in range(40)))
    return path


@pytest.mark.parametrize("task", demo.TASKS)
def test_a_task_can_be_chosen_and_a_text_of_ones_own(task, tmp_path, corpus, capsys):
    results = learned(tmp_path / "out", corpus, "--task", task)
    assert list(results["tasks"]) == [task] and results["tasks"][task]["words"] == 256
    assert results["tasks"][task]["vocab_size"] == 9 + (task == "ngram")
    assert [one["name"] for one in results["tasks"][task]["layers"]][3:] == ["hybrid-1", "hybrid-1-EC"]


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "default"])
def test_what_is_asked_for_is_not_made_smaller_by_quick(quick, tmp_path, corpus, capsys):
    flags = ["--quick"] * quick + ["--out", tmp_path / "out", "--corpus", corpus, "--task", "ngram", "--words", 1]
    for asked, dim, min_count in (([], *((16, 3) if quick else (64, 5))), (["--dim", 20, "--min-count", 7], 20, 7)):
        demo.main(list(map(str, [*flags, *asked])))
        said = read_json(tmp_path / "out")
        assert (said["arguments"]["dim"], said["arguments"]["min_count"]) == (dim, min_count)
        (softmax, *_), found = said["tasks"]["ngram"]["layers"], said["tasks"]["ngram"]
        assert softmax["bytes"] == 4 * found["vocab_size"] * (dim + 1)
        assert found["words"] == demo.BATCH  # a batch is whole


def test_the_same_seed_is_the_same_run_and_another_is_another(tmp_path, corpus, capsys):
    runs = []
    for i, seed in enumerate((1, 1, 2)):
        found = learned(tmp_path / f"out{i}", corpus, "--task", "ngram", "--seed", seed)["tasks"]["ngram"]
        runs.append([(one["words_right"], one["bits_right"]) for one in found["layers"]])
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.cpu
def test_full_has_three_seeds_and_says_beforehand_how_long_they_take(tmp_path, corpus, monkeypatch, capsys):
    begun, school = [], demo.school

    def watched(models, data, updates, key, *rest):
        begun.append((models["binary"].vectors.numpy().tolist(), next(data.batches(key))[1].tolist()))
        return school(models, data, updates, key, *rest)

    monkeypatch.setattr(demo, "school", watched)
    flags = ["--full", "--min-count", 1, "--dim", 4, "--words", 128, "--task", "ngram"]
    demo.main(list(map(str, ["--out", tmp_path / "out", "--corpus", corpus, *flags])))
    found = read_json(tmp_path / "out")["tasks"]["ngram"]
    assert all(one != other for i in (0, 1) for one, other in combinations([each[i] for each in begun], 2))
    assert found["seeds"] == 3 and all(len(one["words_right_of_each_seed"]) == 3 for one in found["layers"])
    assert re.search(r"ngram: 5 layers, 128 words each, 3 times: about [\d.]+ (s|min)\n", capsys.readouterr().out)


@pytest.mark.cpu
@pytest.mark.parametrize("turns, seeds", [(1, 1), (7, 1), (8, 2)], ids=["the first turn", "the first run", "the last"])
def test_ctrl_c_shows_what_was_learned_until_then(turns, seeds, tmp_path, corpus, monkeypatch, capsys):
    """Three runs of four turns: one that is not ended is shown only if it is the first."""
    calls, school = [], demo.Model.learn

    def learn(self, turn, rates):
        if isinstance(self.layer, losses.FullSoftmax) and len(turn) == demo.TURN:
            calls.append(turn)
            if len(calls) == turns:
                signal.raise_signal(signal.SIGINT)
        school(self, turn, rates)

    monkeypatch.setattr(demo.Model, "learn", learn)
    flags = ["--full", "--min-count", 1, "--dim", 4, "--words", 4 * demo.TURN * demo.BATCH]
    demo.main(list(map(str, ["--out", tmp_path / "out", "--corpus", corpus, *flags])))
    results = read_json(tmp_path / "out")
    assert results["stopped_early"] and list(results["tasks"]) == ["skipgram"]
    found = results["tasks"]["skipgram"]
    assert found["words"] == min(turns, 4) * demo.TURN * demo.BATCH and found["seeds"] == seeds
    assert "what was learned until now is shown" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--quick", "--full"], "--quick and --full: one of the two"),
        (["--words", 0], "--words must be at least 1, got 0"),
        (["--dim", 0], "--dim must be at least 1, got 0"),
        (["--min-count", -1], "--min-count must be at least 1, got -1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, said, tmp_path):
    with pytest.raises(DemoError, match=f"^{said}$"):
        demo.main(list(map(str, ["--out", tmp_path / "out", *flags])))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["one two three one two", "one\ntwo\nthree\n"], ids=["one sentence", "single words"])
def test_a_text_of_which_nothing_can_be_held_out_is_refused(text, tmp_path):
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(DemoError, match=r"mine\.txt: there is nothing to learn: expected two sentences or more"):
        demo.main(["--out", str(tmp_path / "out"), "--corpus", str(tmp_path / "mine.txt"), "--min-count", "1"])


@pytest.mark.cpu
def test_as_a_script_an_error_is_one_line_and_status_2(tmp_path):
    done = run("--quick", "--full", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, "wordemb-binary-code: --quick and --full: one of the two\n")
