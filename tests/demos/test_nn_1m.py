"""The demo of the first slide: its rungs learn the same, its estimates are arithmetic, and --full counts every word."""

import importlib.util
import json
import math
import random
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from _shared.errors import DemoError
from _shared.text import read_text
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.tape import watching

pytestmark = pytest.mark.nn1m

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "nn-1m.py"

_spec = importlib.util.spec_from_file_location("nn_1m", SCRIPT)
demo = sys.modules["nn_1m"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo)

HOW = ["word", "once", "sentence", "batch", "negative", "rows"]
EXACT = HOW[:4]
SMALL = ["--seconds", 0.01, "--dim", 8, "--hidden", 8, "--batch", 32, "--negatives", 5, "--shared", 16]


def run(*flags):
    command = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def told(out, corpus, *flags):
    """What the demo writes into results.json, run in this process on a small text."""
    demo.main(list(map(str, ["--out", out, "--corpus", corpus, *SMALL, *flags])))
    return json.loads((out / "results.json").read_text("utf-8"))


def two_groups(path, sentences):
    """A text in which a0 … a4 only stand beside each other, and b0 … b4 likewise."""
    draw = random.Random(1)
    groups = [[f"{letter}{i}" for i in range(5)] for letter in "ab"]
    path.write_text("\n".join(" ".join(draw.choices(groups[n % 2], k=6)) for n in range(sentences)))
    return path


@pytest.fixture
def corpus(tmp_path):
    return two_groups(tmp_path / "groups.txt", sentences=40)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What `--quick` prints, and the folder that it leaves behind, in a process of its own."""
    out = tmp_path_factory.mktemp("quick")
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    return done.stdout, out


# ---- a model of a few words, in float64 ---------------------------------------------------------------------------

BOUNDARY = 12


def data_of(*sentences, before=2):
    """Sentences of the words 0 … 11, in this order."""
    contexts, targets = [], []
    for sentence in sentences:
        laid = [BOUNDARY] * before + list(sentence) + [BOUNDARY]
        contexts += [laid[i - before : i] for i in range(before, len(laid))]
        targets += laid[before:]
    contexts, targets = np.array(contexts), np.array(targets)
    ends = np.flatnonzero(targets == BOUNDARY) + 1
    return demo.Data(contexts, targets, ends, (contexts, targets), BOUNDARY + 1)


def model_of(data, how, before=2):
    args = SimpleNamespace(seed=1, before=before, dim=3, hidden=4, negatives=2, shared=3, lr=0.1)
    model = demo.LanguageModel.new(data, how, args)
    for name, parameter in model.parameters().items():
        owner = model if name == "embedding" else getattr(model, name.split(".")[0])
        setattr(owner, name.split(".")[-1], mg.param(parameter.numpy().astype(np.float64) * 3))
    model.optimiser = mg.optim.Adagrad(list(model.parameters().values()), lr=0.1)
    return model


def gradients(data, how, before=2, loss=None):
    """The loss of all of `data` by one rung, and its gradients."""
    model = model_of(data, how, before)
    value = (loss or demo.RUNGS[how].loss)(model, data.contexts, data.targets)
    value.backward()
    found = [p.grad.dense() if isinstance(p.grad, mg.Rows) else p.grad for p in model.parameters().values()]
    return [np.asarray(value.item()), *map(mg.to_cpu, found)]


def same(one, other):
    return all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(one, other, strict=True))


sentence_of_words = st.lists(st.integers(0, BOUNDARY - 1), min_size=1, max_size=7)


def gradient_by_definition(data, before):
    """Central differences of (1) to (3), written down in NumPy."""
    model = model_of(data, "word", before)
    E, H, b, W, c = (p.numpy().copy() for p in model.parameters().values())

    def loss():
        x = E[data.contexts].reshape(len(data.targets), -1)  # (1)
        scores = np.tanh(x @ H.T + b) @ W.T + c  # (2)
        return (np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(scores)), data.targets]).sum()  # (3)

    found = [np.asarray(loss())]
    for array in (E, H, b, W, c):
        slope, flat = np.empty_like(array), array.reshape(-1)
        for i, value in enumerate(flat.tolist()):
            flat[i] = value + 1e-5
            above = loss()
            flat[i] = value - 1e-5
            slope.flat[i] = (above - loss()) / 2e-5
            flat[i] = value
        found.append(slope)
    return found


# ---- the rungs learn the same -------------------------------------------------------------------------------------


@given(sentence_of_words, st.integers(1, 4))
def test_word_once_sentence_and_batch_give_the_same_loss_and_gradients_for_a_sentence(sentence, before):
    data = data_of(sentence, before=before)
    first, *others = (gradients(data, how, before) for how in EXACT)
    assert all(same(first, other) for other in others)


@pytest.mark.parametrize("how", EXACT)
def test_they_are_the_gradients_of_equations_1_to_3(how):
    data = data_of([3, 1, 3, 7, 0])
    for found, wanted in zip(gradients(data, how), gradient_by_definition(data, 2), strict=True):
        assert np.allclose(found, wanted, rtol=1e-6, atol=1e-8)


@given(st.lists(sentence_of_words, min_size=1, max_size=4))
def test_a_batch_of_sentences_has_the_sum_of_their_gradients(sentences):
    batch = gradients(data_of(*sentences), "batch")
    each = [gradients(data_of(sentence), "word") for sentence in sentences]
    assert same(batch, [sum(parts) for parts in zip(*each, strict=True)])


@settings(max_examples=25)
@given(st.lists(sentence_of_words, min_size=1, max_size=4))
def test_word_once_and_sentence_make_the_same_updates(sentences):
    data, learned = data_of(*sentences), []
    for how in ("word", "once", "sentence"):
        model = model_of(data, how)
        for contexts, targets in demo.pieces(data, None, len(data.targets)):
            demo.RUNGS[how].learn(model, contexts, targets)
        learned.append([p.numpy() for p in model.parameters().values()])
    assert same(learned[0], learned[1]) and same(learned[0], learned[2])


@settings(max_examples=25)
@given(st.lists(sentence_of_words, min_size=1, max_size=4), st.integers(1, 9))
def test_rows_makes_the_updates_of_negative(sentences, batch):
    data, learned = data_of(*sentences), []
    for how in ("negative", "rows"):
        model = model_of(data, how)
        for contexts, targets in demo.pieces(data, batch, 2 * len(data.targets)):
            demo.RUNGS[how].learn(model, contexts, targets)
        learned.append([p.numpy() for p in model.parameters().values()])
    assert same(*learned)


def test_only_the_last_rung_leaves_a_gradient_of_rows(monkeypatch):
    """What an optimiser is given: the whole table, or the rows that were looked up."""
    data, kinds = data_of([1, 2, 3]), {}
    for how in HOW:
        model = model_of(data, how)
        model.optimiser.step = lambda how=how, model=model: kinds.update({how: type(model.embedding.grad)})
        demo.RUNGS[how].learn(model, data.contexts, data.targets)
    assert kinds == {**dict.fromkeys(HOW[:5], type(model.embedding.data)), "rows": mg.Rows}


MUTANTS = {
    "the last word forgotten": lambda model, c, t: demo.word_by_word(model, c[:-1], t[:-1]),
    "the words before in the wrong order": lambda model, c, t: demo.all_at_once(model, c[:, ::-1], t),
    "the mean for the sum": lambda model, c, t: demo.all_at_once(model, c, t) * (1.0 / len(t)),
    "before the first word, the last one": lambda model, c, t: demo.looked_up_once(model, np.flip(c), t),
    "(2) without tanh": lambda model, c, t: model.output.loss(
        model.hidden(mg.take(model.embedding, c).reshape(len(c), -1)), t, reduction="sum"
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rung_that_learns_something_else_is_seen(mutant):
    data = data_of([3, 1, 3, 7, 0])
    assert same(gradients(data, "word"), gradients(data, "batch"))
    assert not same(gradients(data, "word"), gradients(data, "batch", loss=MUTANTS[mutant]))


# ---- operations ---------------------------------------------------------------------------------------------------


def operations(how, sentence, before):
    data, counter = data_of(sentence, before=before), demo.Operations()
    model = model_of(data, how, before)
    with watching(counter):
        demo.RUNGS[how].learn(model, data.contexts, data.targets)
    return counter.number


@given(sentence_of_words, st.integers(1, 4))
def test_operations_of_each_rung(sentence, before):
    """There and back, of a sentence of L words with its end, n words before each:

    word: L (n look-ups, and concat, linear, tanh, matmul, +, cross-entropy, + to the others' loss)
    once: L look-ups for L n of them
    sentence, batch: take, reshape, linear, tanh, the softmax with its loss, sum, however many words
    negative, rows: two more, for scores of the targets, scores of the noise and their loss stand for the softmax
    """
    words = len(sentence) + 1
    assert operations("word", sentence, before) == 2 * words * (before + 7)
    assert operations("once", sentence, before) == 2 * words * (1 + 7)
    assert operations("sentence", sentence, before) == operations("batch", sentence, before) == 2 * 6
    assert operations("negative", sentence, before) == operations("rows", sentence, before) == 2 * 8


# ---- arithmetic ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**6), st.floats(1e-3, 1e3), st.integers(1, 10**9))
def test_an_estimate_is_the_words_asked_for_at_the_speed_measured(words, seconds, asked):
    learned = demo.Slice(words=words, seconds=seconds)
    assert math.isclose(learned.extrapolated(asked), asked / (words / seconds))
    assert math.isclose(learned.extrapolated(words), seconds)


@pytest.mark.parametrize(
    "seconds, said",
    [
        (0.25, "0.25 s"),
        (59, "59 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (18_420, "5 h 7 min"),
        (273_600, "3 days 4 h"),
    ],
)
def test_a_duration_is_said_in_two_units(seconds, said):
    assert demo.duration(seconds) == said


def test_a_line_tells_what_is_finished_and_until_when_the_rest_would_take():
    said = demo.finished(demo.Slice(words=6000, sentences=500, seconds=60.0), 1_000_000)
    assert said.startswith("--finished 500 sentences: 6,000 words in 60.0 s; 1,000,000 would take 2 h 46 min, until ")
    assert re.search(r"until \w+ \d\d \w+ \d{4}, \d\d:\d\d$", said)


@given(
    st.lists(sentence_of_words, min_size=1, max_size=4), st.one_of(st.none(), st.integers(1, 20)), st.integers(1, 99)
)
def test_pieces_are_exactly_the_words_asked_for_and_the_text_is_read_again(sentences, batch, words):
    data = data_of(*sentences)
    found = list(demo.pieces(data, batch, words))
    targets = np.concatenate([targets for _, targets in found])
    assert np.array_equal(targets, np.resize(data.targets, words))
    assert np.array_equal(np.concatenate([contexts for contexts, _ in found]), np.resize(data.contexts, (words, 2)))
    assert all(0 < len(targets) <= (batch or 8) for _, targets in found)


@given(st.lists(sentence_of_words, min_size=1, max_size=4))
def test_a_piece_without_a_batch_is_a_sentence(sentences):
    data = data_of(*sentences)
    found = [targets.tolist() for _, targets in demo.pieces(data, None, len(data.targets))]
    assert found == [[*sentence, BOUNDARY] for sentence in sentences]


def test_a_rung_is_compared_with_the_one_before_it_in_turns_and_the_median_counts(monkeypatch):
    """Every rung is three times as fast as the one before; but while the third turns are taken, the machine halts."""
    turns = []

    class Learner:
        def __init__(self, data, how, args):
            self.how, self.rung, self.learned = how, demo.RUNGS[how], demo.Slice(words_counted=1)

        def learn(self, seconds):
            turns.append(self.how)
            self.learned.words, self.learned.seconds = self.learned.words + 1, self.learned.seconds + 1
            return 3.0 ** HOW.index(self.how) * (1e-3 if turns.count(self.how) == 3 else 1.0)

    monkeypatch.setattr(demo, "Learner", Learner)
    rungs = demo.ladder(None, SimpleNamespace(words=10, seconds=1.0, quick=False))
    assert [rung["times_the_rung_before"] for rung in rungs] == [None, *[pytest.approx(3.0)] * 5]
    assert turns == ["word"] * 5 + [how for pair in zip(HOW[1:], HOW[:-1], strict=True) for how in pair * 5]


# ---- perplexity ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["batch", "negative"])
def test_the_perplexity_is_exp_of_the_mean_of_minus_log_p(how):
    data = data_of([3, 1, 3, 7, 0], [5])
    model = model_of(data, how)
    log_prob = model.output.log_prob(demo.hidden_of(model, data.contexts)).numpy()
    right = [log_prob[i, target] for i, target in enumerate(data.targets)]
    assert np.allclose(np.exp(log_prob).sum(axis=1), 1.0)
    assert math.isclose(model.perplexity(data.contexts, data.targets), math.exp(-np.mean(right)))


def test_who_knows_nothing_has_the_perplexity_v():
    data = data_of([3, 1, 3, 7, 0])
    model = model_of(data, "batch")
    model.output.weight.data, model.output.bias.data = model.output.weight.data * 0, model.output.bias.data * 0
    assert math.isclose(model.perplexity(data.contexts, data.targets), BOUNDARY + 1)


# ---- the text -----------------------------------------------------------------------------------------------------


def test_every_twentieth_sentence_is_held_out_and_the_others_are_learned_in_another_order(tmp_path):
    (tmp_path / "numbered.txt").write_text("\n".join(f"s{i} and s{i}" for i in range(100)))
    text = read_text(tmp_path / "numbered.txt", 1)
    data = demo.Data.of(text, 2, mg.Key(1))

    def sentences(targets):
        words = [*text.vocabulary.words, "|"]
        return " ".join(words[target] for target in targets).split(" |")[:-1]

    learned, held_out = sentences(data.targets), sentences(data.held_out[1])
    assert held_out == [f"{' ' * (i > 19)}s{i} and s{i}" for i in range(19, 100, 20)]
    wanted = [f"s{i} and s{i}" for i in range(100) if i % 20 != 19]
    learned = [sentence.strip() for sentence in learned]
    assert sorted(learned) == sorted(wanted) and learned != wanted
    assert data.contexts[1:4, 1].tolist() == data.targets[:3].tolist()
    assert data.sentences_in(data.targets) == 95 and data.ends.tolist() == list(range(4, 381, 4))


# ---- what it prints and leaves behind -----------------------------------------------------------------------------


def test_quick_leaves_a_picture_and_a_json(quick):
    stdout, out = quick
    assert {path.name for path in out.iterdir()} == {"estimates.png", "results.json"}
    assert stdout.splitlines()[-1] == f"in {out}: estimates.png, results.json"


def test_it_says_what_the_slide_says(quick):
    assert re.search(r"^--finished \d+ sentences: ", quick[0], re.MULTILINE)


def test_each_rung_is_a_row_that_names_what_its_estimate_is_extrapolated_from(quick):
    table = quick[0].split("one trick after the other")[1]
    for how, rung in demo.RUNGS.items():
        assert re.search(rf"{how} +{rung.trick} .* [\d,]+ words in [\d.]+ s ", table)
    assert "extrapolated from" in table


def test_the_json_has_the_six_rungs_with_their_arithmetic(quick):
    results = json.loads((quick[1] / "results.json").read_text("utf-8"))
    rungs = results["rungs"]
    assert [rung["how"] for rung in rungs] == HOW == list(demo.RUNGS)
    for rung in rungs:
        assert math.isclose(rung["words_per_second"], rung["words"] / rung["seconds"])
        assert math.isclose(rung["extrapolated_seconds"], 1_000_000 / rung["words_per_second"])
        assert math.isclose(rung["operations_per_word"], rung["operations"] / rung["words_counted"])
    assert rungs[0]["times_the_rung_before"] is None and "training" not in results
    assert all(rung["times_the_rung_before"] > 0 for rung in rungs[1:])
    assert [rungs[0]["operations_per_word"], rungs[1]["operations_per_word"]] == [18, 16]


def test_the_tricks_pay(quick):
    """Some hundredfold; ten is what even a busy machine must show."""
    first, *_, last = json.loads((quick[1] / "results.json").read_text("utf-8"))["rungs"]
    assert last["words_per_second"] > 10 * first["words_per_second"]


def test_the_picture_has_a_bar_a_rung(quick):
    png = (quick[1] / "estimates.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82")
    assert struct.unpack(">II", png[16:24]) == (1600, 190 + 70 * len(HOW))


# ---- --full -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_full_learns_exactly_the_words_asked_for_and_reads_a_short_text_again(tmp_path, corpus, how, capsys):
    results = told(tmp_path / "out", corpus, "--full", "--how", how, "--words", 700)
    training = results["training"]
    per_pass = 38 * 7  # 40 sentences of 6 words and an end, two of them held out
    assert training["how"] == how and training["words"] == 700 > 2 * per_pass
    assert training["sentences"] == 700 // 7 and training["stopped_early"] is False
    (rung,) = (rung for rung in results["rungs"] if rung["how"] == how)
    assert training["extrapolated_seconds"] == pytest.approx(rung["extrapolated_seconds"])
    assert math.isclose(training["words_per_second"], 700 / training["seconds"])
    assert f"700 words learned by {how}" in capsys.readouterr().out


def test_without_how_full_learns_by_the_last_rung(tmp_path, corpus):
    assert told(tmp_path / "out", corpus, "--full", "--words", 50)["training"]["how"] == HOW[-1]


@pytest.mark.parametrize("how, words", [("sentence", 2000), ("batch", 20_000), ("rows", 20_000)])
def test_what_was_learned_shows_in_sentences_that_were_held_out(tmp_path, how, words):
    """The first word is one of ten, the second of five; then comes the end, one time in five, or one of five words."""
    text = two_groups(tmp_path / "groups.txt", sentences=400)
    training = told(tmp_path / "out", text, "--full", "--how", how, "--words", words)["training"]
    nats = math.log(10) + math.log(5) + math.log(5) + 4 * math.log(5 / 4 * 5)
    best = math.exp(nats / 7)
    assert 0.9 * best < training["perplexity_after"] < 1.15 * best < 1.6 * best < training["perplexity_before"]


def test_the_model_is_kept_under_the_names_of_its_parts(tmp_path, corpus):
    told(tmp_path / "out", corpus, "--full", "--words", 50)
    arrays, notes = mg.storage.read(tmp_path / "out" / "model.npz")
    assert {name: array.shape for name, array in arrays.items()} == {
        "embedding": (12, 8),
        "hidden.weight": (8, 16),
        "hidden.bias": (8,),
        "output.weight": (12, 8),
        "output.bias": (12,),
    }
    assert sorted(notes["words"][1:-1]) == [f"{letter}{i}" for letter in "ab" for i in range(5)]
    assert [notes["words"][0], notes["words"][-1]] == ["<unk>", "<s>"]


def test_the_same_seed_learns_the_same_and_another_seed_something_else(tmp_path, corpus):
    for name, seed in {"one": 1, "again": 1, "other": 2}.items():
        told(tmp_path / name, corpus, "--full", "--words", 300, "--seed", seed)
    one, again, other = (mg.load(tmp_path / name / "model.npz") for name in ("one", "again", "other"))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)


class StopAfter:
    """Ctrl-C after so many updates: stands where `interruptible` has its object."""

    def __init__(self, updates):
        self.left = updates

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    @property
    def requested(self):
        self.left -= 1
        return self.left < 0


def test_ctrl_c_stops_early_and_keeps_what_was_learned(tmp_path, corpus, monkeypatch, capsys):
    told(tmp_path / "whole", corpus, "--full", "--words", 4 * 32)
    monkeypatch.setattr(demo, "interruptible", lambda: StopAfter(3))
    stopped = told(tmp_path / "stopped", corpus, "--full", "--words", 1_000_000)
    training, last = stopped["training"], stopped["rungs"][-1]
    assert training["words"] == 4 * 32 and training["stopped_early"] is True
    assert math.isclose(training["extrapolated_seconds"], last["extrapolated_seconds"] * 4 * 32 / 1_000_000)
    assert "128 words learned by rows, stopped early" in capsys.readouterr().out
    whole, parts = (mg.load(tmp_path / name / "model.npz") for name in ("whole", "stopped"))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


# ---- when something is wrong --------------------------------------------------------------------------------------


@pytest.fixture
def refusal(tmp_path):
    """refusal(*flags): the one line that the demo ends with; it has written nothing."""

    def message(*flags):
        out = tmp_path / "nothing"
        with pytest.raises(DemoError) as error:
            demo.main(list(map(str, ["--out", out, *SMALL, *flags])))
        assert not out.is_dir() or list(out.iterdir()) == []
        assert "\n" not in str(error.value)
        return str(error.value)

    return message


@pytest.mark.parametrize(
    "content, fault",
    [
        (b"", "there are no words in it"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "is NUL: a binary file"),
        (b"one line alone\n", "expected two sentences or more, one a line, and words beside others"),
        (b"one\ntwo\n" * 20, "expected two sentences or more, one a line, and words beside others"),
        (b"hello hello\n" * 20, "a vocabulary needs two words to tell apart"),
    ],
    ids=["empty", "binary", "one sentence", "sentences of one word", "one word"],
)
def test_a_text_of_which_nothing_can_be_learned_is_refused(tmp_path, refusal, content, fault):
    (tmp_path / "mine.txt").write_bytes(content)
    said = refusal("--corpus", tmp_path / "mine.txt")
    assert fault in said and "--min-count" not in said


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--words", 0], "--words must lie in 1 to 1,000,000,000, got 0"),
        (["--words", 10**10], "--words must lie in 1 to 1,000,000,000, got 10000000000"),
        (["--vocab", 3], "--vocab must lie in 4 to 1,000,000,000, got 3"),
        (["--batch", -1], "--batch must lie in 1 to"),
        (["--before", 0], "--before must lie in 1 to"),
        (["--lr", "nan"], "--lr must be positive, got nan"),
        (["--seconds", "inf"], "--seconds must be positive, got inf"),
        (["--how", "word"], "--how word is for --full: add it"),
    ],
)
def test_numbers_and_flags_that_make_no_sense_are_refused(corpus, refusal, flags, said):
    assert refusal("--corpus", corpus, *flags).startswith(said)


@pytest.mark.parametrize("how", ["word", "batch", "rows"])
def test_weights_that_grow_beyond_all_bounds_name_the_learning_rate(tmp_path, corpus, refusal, how):
    said = refusal("--corpus", corpus, "--full", "--how", how, "--words", 500, "--lr", 1e30)
    assert said.startswith("the weights have grown beyond all bounds: try --lr smaller than 1e+30")


def test_device_gpu_without_cupy_says_what_to_install(corpus, refusal, no_cupy):
    said = refusal("--corpus", corpus, "--device", "gpu")
    assert said.startswith("--device gpu: ") and "pip install 'minigrad[cuda12]'" in said


def test_as_a_script_an_error_is_one_line_and_status_2(tmp_path):
    done = run("--corpus", tmp_path / "none.txt", "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(f"nn-1m: {tmp_path / 'none.txt'}: ")
