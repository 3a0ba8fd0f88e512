"""The demo on word embeddings: what it leaves behind, that it learns, and how it ends when something is wrong."""

import importlib.util
import json
import math
import os
import random
import re
import signal
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from _shared.errors import DemoError
from _shared.progress import Progress

import minigrad as mg

pytestmark = pytest.mark.skipgram

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "wordemb-negative-sampling.py"
HOW = ["per-word", "minibatch", "shared", "kernel"]

_spec = importlib.util.spec_from_file_location("wordemb_negative_sampling", SCRIPT)
demo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo)


def run(*flags, **options):
    command = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


def learned(out, corpus, *flags):
    """What the demo writes into results.json and vectors.txt, run in this process on a small text."""
    device = "cpu" if "kernel" in flags else mg.get_device()[:3]
    flags = ["--device", device, "--min-count", 1, "--subsample", 0, "--dim", 16, "--batch", 64, *flags]
    demo.main(list(map(str, ["--out", out, "--corpus", corpus, *flags])))
    return read_json(out), read_vectors(out)


def same(one, other):
    """Arrays by name: the same to the last bit; on a GPU, which adds in no fixed order, but for rounding."""
    in_order = mg.get_device() == "cpu" or mg.backend.xp().__version__.endswith("strict")
    equal = np.array_equal if in_order else partial(np.allclose, rtol=1e-3, atol=1e-4)
    return list(one) == list(other) and all(equal(one[name], other[name]) for name in one)


def read_json(out):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads((out / "results.json").read_text("utf-8"), parse_constant=refuse)


def read_vectors(out):
    """vectors.txt, as word -> vector."""
    head, *lines = (out / "vectors.txt").read_text("utf-8").splitlines()
    vectors = {word: np.array(numbers, np.float32) for word, *numbers in map(str.split, lines)}
    assert [len(vectors), *{len(v) for v in vectors.values()}] == [int(n) for n in head.split()]
    return vectors


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
    """The folder that `--quick` leaves behind, in a process of its own."""
    out = tmp_path_factory.mktemp("quick")
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"in {out}: vectors.txt")
    return out


# ---- what it leaves behind --------------------------------------------------------------------------------------


def test_it_leaves_six_files_and_nothing_else(quick):
    names = {"vectors.txt", "vectors.tsv", "metadata.tsv", "map.png", "results.json", "state.npz"}
    assert {path.name for path in quick.iterdir()} == names


def test_the_vectors_are_a_line_of_sizes_and_a_line_for_each_word(quick):
    vectors = read_vectors(quick)
    assert len(vectors) > 500 and {"the", "file"} <= set(vectors)
    assert all(v.shape == (32,) and np.isfinite(v).all() for v in vectors.values())


def test_the_projectors_two_files_tell_the_same_as_the_vectors(quick):
    vectors = read_vectors(quick)
    assert (quick / "metadata.tsv").read_text("utf-8").splitlines() == list(vectors)
    table = np.loadtxt(quick / "vectors.tsv", dtype=np.float32, delimiter="\t")
    assert np.array_equal(table, np.stack(list(vectors.values())))


def test_the_json_has_the_four_rungs_and_finite_numbers(quick):
    results = read_json(quick)
    assert [rung["how"] for rung in results["ladder"]] == HOW
    numbers = [rung[unit] for rung in results["ladder"] for unit in ("words_per_second", "pairs_per_second")]
    numbers += [results["training"][name] for name in ("words", "pairs", "seconds", "words_per_second")]
    assert all(math.isfinite(number) and number > 0 for number in numbers)
    assert results["training"]["stopped_early"] is False


def test_arranging_words_in_mini_batches_pays_as_the_slide_says(quick):
    """It is some hundredfold; ten is what even a busy machine must show."""
    per_word, minibatch, *_ = (rung["words_per_second"] for rung in read_json(quick)["ladder"])
    assert minibatch > 10 * per_word


def test_the_map_is_a_picture_of_1600_by_1200(quick):
    png = (quick / "map.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82")
    assert struct.unpack(">II", png[16:24]) == (1600, 1200)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_gensim_reads_the_vectors_and_finds_the_same_neighbours(quick):
    models = pytest.importorskip("gensim.models")
    theirs = models.KeyedVectors.load_word2vec_format(quick / "vectors.txt")
    ours = read_vectors(quick)
    assert theirs.index_to_key == list(ours)
    assert np.array_equal(theirs.vectors, np.stack(list(ours.values())))
    for word, near in read_json(quick)["neighbours"].items():
        assert [other for other, _ in theirs.most_similar(word, topn=len(near))] == near


@pytest.mark.parametrize("how", HOW)
def test_each_way_of_learning_trains_on_a_text_of_ones_own(tmp_path, corpus, how, capsys):
    results, vectors = learned(tmp_path / "out", corpus, "--how", how, "--epochs", 1)
    assert set(vectors) == {f"{letter}{i}" for letter in "ab" for i in range(5)}
    assert all(np.isfinite(v).all() for v in vectors.values())
    assert results["training"]["how"] == how and results["training"]["words"] == 240
    assert "ladder" not in results
    assert "groups.txt: 240 words, 40 sentences" in capsys.readouterr().out


# ---- the same again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_the_same_seed_gives_the_same_vectors_and_another_seed_others(tmp_path, corpus, how):
    seeds = {"one": 1, "again": 1, "other": 2}
    for name, seed in seeds.items():
        learned(tmp_path / name, corpus, "--how", how, "--epochs", 1, "--seed", seed)
    one, again, other = (read_vectors(tmp_path / name) for name in seeds)
    assert same(one, again)
    assert not same(one, other)


def test_another_process_and_a_ladder_before_it_change_no_bit(quick, tmp_path):
    demo.main(["--quick", "--how", "shared", "--out", str(tmp_path)])
    assert (tmp_path / "vectors.txt").read_bytes() == (quick / "vectors.txt").read_bytes()


# ---- that it learns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["shared", "minibatch", "kernel"])
def test_words_that_stand_together_become_neighbours(tmp_path, how):
    text = two_groups(tmp_path / "groups.txt", sentences=400)
    results, vectors = learned(tmp_path / "out", text, "--how", how, "--epochs", 10, "--neighbours", "a0,b3")
    assert set(results["neighbours"]["a0"][:4]) == {"a1", "a2", "a3", "a4"}
    assert set(results["neighbours"]["b3"][:4]) == {"b0", "b1", "b2", "b4"}

    def cosine(u, v):
        return u @ v / (np.linalg.norm(u) * np.linalg.norm(v))

    # a seed more or less lucky changes the second decimal of the first, and the first of the second
    assert min(cosine(vectors["a0"], vectors[f"a{i}"]) for i in range(1, 5)) > 0.9
    assert max(cosine(vectors["a0"], vectors[f"b{i}"]) for i in range(5)) < 0.7


@pytest.mark.parametrize("how", ["shared", "kernel"])
def test_the_loss_falls(tmp_path, how):
    text = two_groups(tmp_path / "groups.txt", sentences=400)
    results, _ = learned(tmp_path / "out", text, "--how", how, "--epochs", 10, "--negatives", 5)
    losses = [loss for _, loss in results["training"]["loss_curve"]]
    nothing_learned = 6 * math.log(2)  # one context and five negatives, each a coin
    assert np.mean(losses[-3:]) < losses[0] < 1.001 * nothing_learned


# ---- when something is wrong ------------------------------------------------------------------------------------


@pytest.fixture
def refusal(tmp_path):
    """refusal(*flags): the one line that the demo ends with; it has written nothing."""

    def message(*flags):
        out = tmp_path / "nothing"
        with pytest.raises(DemoError) as error:
            demo.main(list(map(str, ["--how", "shared", "--out", out, *flags])))
        assert not out.is_dir() or list(out.iterdir()) == []
        assert "\n" not in str(error.value)
        return str(error.value)

    return message


@pytest.mark.parametrize(
    "content, fault, remedy",
    [
        (b"", "no words in it", "expected UTF-8 text, one sentence a line"),
        (b" \n\t\n", "no words in it", "expected UTF-8 text, one sentence a line"),
        ("Käse\n".encode("latin-1"), "byte 1 (line 1) is 0xe4, not UTF-8", "iconv -f LATIN1 -t UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "byte 7 (line 1) is NUL: a binary file", "expected UTF-8 text"),
    ],
    ids=["empty", "blank", "latin-1", "binary"],
)
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path, refusal, content, fault, remedy):
    (tmp_path / "mine.txt").write_bytes(content)
    said = refusal("--corpus", tmp_path / "mine.txt")
    assert said.startswith(f"{tmp_path / 'mine.txt'}: ") and fault in said and remedy in said


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path, refusal):
    said = refusal("--corpus", tmp_path / "mine.txt")
    assert said.startswith(f"{tmp_path / 'mine.txt'}: expected UTF-8 text") and "No such file" in said


def test_a_folder_is_no_corpus(tmp_path, refusal):
    said = refusal("--corpus", tmp_path)
    assert said.startswith(f"{tmp_path}: expected UTF-8 text") and "this is a directory" in said


@pytest.mark.parametrize("text", ["hello\n", "a line of different words\n"])
def test_a_text_whose_words_are_all_rarer_than_asked_says_which_flag_asked(tmp_path, refusal, text):
    (tmp_path / "mine.txt").write_text(text)
    said = refusal("--corpus", tmp_path / "mine.txt")
    assert f"({len(text.split())} in all)" in said and "smaller --min-count" in said


def test_a_text_of_one_word_cannot_be_learned(tmp_path, refusal):
    (tmp_path / "mine.txt").write_text("hello hello\n")
    assert "a vocabulary needs two words to tell apart: of the 1 different" in refusal(
        "--corpus", tmp_path / "mine.txt", "--min-count", 1
    )


def test_words_that_are_never_beside_another_cannot_be_learned(tmp_path, refusal):
    (tmp_path / "mine.txt").write_text("one\ntwo\n" * 20)
    said = refusal("--corpus", tmp_path / "mine.txt", "--subsample", 0)
    assert "expected sentences of two words or more" in said


def test_a_text_of_which_subsampling_leaves_nothing_names_the_flag(tmp_path, refusal):
    """Each of five words is a fifth of the text: hundreds of times as frequent as --subsample allows."""
    (tmp_path / "mine.txt").write_text("a line of different words\n")
    assert "--subsample" in refusal("--corpus", tmp_path / "mine.txt", "--min-count", 1)


@pytest.mark.parametrize(
    "flag, value",
    [("--epochs", "0"), ("--negatives", "0"), ("--lr", "0"), ("--lr", "nan"), ("--lr", "inf"), ("--lr", "-1")],
)
def test_a_number_that_makes_no_sense_is_refused_with_its_flag(corpus, refusal, flag, value):
    assert refusal("--corpus", corpus, f"{flag}={value}").startswith(f"{flag} must be positive, got {value}")


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--how", "kernel", "--threads", 0], "--threads must be positive, got 0"),
        (["--how", "kernel", "--device", "gpu"], "--how kernel runs on the CPU: leave out --device gpu"),
    ],
)
def test_threads_and_devices_that_a_rung_does_not_have_are_refused(corpus, refusal, flags, said):
    assert refusal("--corpus", corpus, *flags).startswith(said)


@pytest.mark.parametrize("flag, name", [("--min-count=0", "min.count"), ("--subsample=-1", "subsampl")])
def test_so_is_one_that_is_only_used_later(corpus, refusal, flag, name):
    assert re.search(name, refusal("--corpus", corpus, flag))


def test_a_folder_that_cannot_be_made_is_refused_by_name(tmp_path, corpus):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DemoError) as error:
        demo.main(["--corpus", str(corpus), "--out", str(tmp_path / "file" / "out")])
    assert str(error.value).startswith(f"cannot write into {tmp_path / 'file' / 'out'}: ")
    assert (tmp_path / "file").read_text() == "in the way"


def test_device_gpu_without_cupy_says_what_to_install(corpus, refusal, no_cupy):
    said = refusal("--corpus", corpus, "--device", "gpu")
    assert said.startswith("--device gpu: ") and "pip install 'minigrad[cuda12]'" in said


def test_as_a_script_an_error_is_one_line_and_status_2(tmp_path):
    done = run("--corpus", tmp_path / "none.txt", "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"wordemb-negative-sampling: {tmp_path / 'none.txt'}: ")


@pytest.mark.parametrize(
    "flags",
    [
        "--how per-word --optimiser sgd --lr 1e30 --epochs 2",
        "--how minibatch --optimiser sgd --lr 1e30 --epochs 2",
        "--how shared --optimiser sgd --lr 1e30 --epochs 2",
        "--how kernel --optimiser sgd --lr 1e30 --epochs 2",
        "--how shared --optimiser adagrad --lr 3e38 --epochs 1 --batch 1000000",  # by the last step, which is the first
    ],
)
def test_vectors_that_grow_beyond_all_bounds_name_the_learning_rate_and_are_not_written(tmp_path, corpus, flags):
    done = run(
        "--corpus", corpus, "--out", tmp_path / "out", "--min-count", 1, "--subsample", 0, "--dim", 8, *flags.split()
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 2 and "try --lr smaller than" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []


# ---- Ctrl-C -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["shared", "kernel"])
def test_ctrl_c_stops_early_and_keeps_what_was_learned(tmp_path, corpus, how):
    """Standard error is a terminal, on which the first progress is drawn at once: then training has begun."""
    pty = pytest.importorskip("pty")
    ours, terminal = pty.openpty()
    flags = ["--how", how, "--epochs", 1_000_000, "--min-count", 1, "--subsample", 0, "--dim", 8]
    command = [sys.executable, str(SCRIPT), "--corpus", str(corpus), "--out", str(tmp_path / "out"), *map(str, flags)]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        seen = b""
        while b"training" not in seen:
            seen += os.read(ours, 4096)  # an OSError if it ends before
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    training = read_json(tmp_path / "out")["training"]
    assert training["stopped_early"] is True and 0 < training["words"] < 240 * 1_000_000
    assert len(read_vectors(tmp_path / "out")) == 10


# ---- going on ------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def small_pieces(monkeypatch):
    """So that the 240 words of the text are several chunks, and a chunk several blocks."""
    monkeypatch.setattr(demo, "CHUNK", 100)
    monkeypatch.setattr(demo, "BLOCK", 30)


@pytest.mark.parametrize("optimiser", ["sgd", "adagrad"])
@pytest.mark.parametrize("updates", [0, 3, 8])
@pytest.mark.parametrize("how", HOW)
def test_an_interrupted_run_and_its_continuation_learn_what_an_unbroken_run_learns(
    tmp_path, corpus, how, updates, optimiser, small_pieces, monkeypatch
):
    flags = ["--how", how, "--epochs", 2, "--optimiser", optimiser, "--lr", 0.02, "--batch", 50]
    learned(tmp_path / "whole", corpus, *flags)
    with monkeypatch.context() as patch:
        patch.setattr(demo, "interruptible", lambda: StopAfter(updates))
        stopped, _ = learned(tmp_path / "parts", corpus, *flags)
    assert stopped["training"]["stopped_early"] and stopped["training"]["words"] < 480
    went_on, _ = learned(tmp_path / "parts", corpus, *flags, "--resume")
    assert went_on["training"]["words"] == 480 and went_on["training"]["resumed"] is True
    whole, parts = (mg.load(tmp_path / name / "state.npz") for name in ("whole", "parts"))
    assert same(whole, parts)
    assert same(*(read_vectors(tmp_path / name) for name in ("whole", "parts")))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--epochs", 3], "epochs was 1, is 3"),
        (["--lr", 0.1], "lr was 0.3, is 0.1"),
        (["--seed", 5], "seed was 1, is 5"),
        (["--how", "minibatch"], "how was shared, is minibatch"),
    ],
)
def test_a_state_of_another_run_names_what_differs(tmp_path, corpus, change, says):
    flags = ["--how", "shared", "--epochs", 1]
    learned(tmp_path / "out", corpus, *flags)
    before = (tmp_path / "out" / "state.npz").read_bytes()
    with pytest.raises(DemoError, match=says):
        learned(tmp_path / "out", corpus, *flags, *change, "--resume")
    assert (tmp_path / "out" / "state.npz").read_bytes() == before


def test_a_state_of_another_text_is_refused(tmp_path, corpus):
    learned(tmp_path / "out", corpus, "--how", "shared", "--epochs", 1)
    other = two_groups(tmp_path / "other.txt", sentences=41)
    with pytest.raises(DemoError, match="is of another run"):
        learned(tmp_path / "out", other, "--how", "shared", "--epochs", 1, "--resume")


def test_without_a_state_or_with_half_of_one_there_is_nothing_to_resume(tmp_path, corpus):
    flags = ["--how", "shared", "--epochs", 1]
    with pytest.raises(DemoError, match="there is nothing to resume"):
        learned(tmp_path / "out", corpus, *flags, "--resume")
    learned(tmp_path / "out", corpus, *flags)
    state = tmp_path / "out" / "state.npz"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(DemoError, match=r"--resume: .*cut short"):
        learned(tmp_path / "out", corpus, *flags, "--resume")


def test_threads_are_the_kernels(tmp_path, corpus):
    results, vectors = learned(tmp_path / "out", corpus, "--how", "kernel", "--epochs", 2, "--threads", 2)
    assert results["training"]["threads"] == 2 and results["training"]["words"] == 480
    assert all(np.isfinite(v).all() for v in vectors.values())
    with pytest.raises(DemoError, match="--threads 2 is for --how kernel; --how shared has one thread"):
        learned(tmp_path / "out", corpus, "--how", "shared", "--threads", 2)


def test_a_run_that_dies_goes_on_from_the_state_that_was_saved_last(tmp_path, corpus, small_pieces, monkeypatch):
    flags = ["--how", "shared", "--epochs", 2, "--batch", 50]
    learned(tmp_path / "whole", corpus, *flags)
    monkeypatch.setattr(demo, "SAVE_EVERY", -1.0)
    update, updates = demo.SkipGram.update, []

    def dies_at_the_thirtieth(model, loss):
        updates.append(update(model, loss))
        if len(updates) == 30:
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(demo.SkipGram, "update", dies_at_the_thirtieth)
        with pytest.raises(MemoryError):
            learned(tmp_path / "parts", corpus, *flags)
    assert mg.storage.read(tmp_path / "parts" / "state.npz")[1]["position"]["words"] > 0
    learned(tmp_path / "parts", corpus, *flags, "--resume")
    whole, parts = (mg.load(tmp_path / name / "state.npz") for name in ("whole", "parts"))
    assert same(whole, parts)


def test_a_run_that_was_finished_has_nothing_more_to_learn(tmp_path, corpus):
    flags = ["--how", "kernel", "--epochs", 2]
    _, first = learned(tmp_path / "out", corpus, *flags)
    results, again = learned(tmp_path / "out", corpus, *flags, "--resume")
    assert results["training"]["words"] == 480
    assert same(first, again)


def test_there_is_no_ladder_before_a_run_that_goes_on(tmp_path, corpus):
    learned(tmp_path / "out", corpus, "--how", "shared", "--epochs", 1)
    results, _ = learned(tmp_path / "out", corpus, "--epochs", 1, "--resume")  # shared is what is trained by default
    assert "ladder" not in results and results["training"]["resumed"] is True


def test_the_rate_of_a_run_that_goes_on_counts_its_own_words_only():
    with Progress("training", 1000, done=900) as bar:
        bar.advance(50)
    assert bar.done == 950 and math.isclose(bar.rate, 50 / bar.seconds)


def test_a_flipped_bit_in_the_state_is_refused(tmp_path, corpus):
    flags = ["--how", "kernel", "--epochs", 1]
    learned(tmp_path / "out", corpus, *flags)
    state = tmp_path / "out" / "state.npz"
    whole = state.read_bytes()
    state.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    with pytest.raises(DemoError, match=r"--resume: .*damaged"):
        learned(tmp_path / "out", corpus, *flags, "--resume")


def test_a_state_of_another_version_and_one_that_is_none_are_refused(tmp_path, corpus):
    flags = ["--how", "kernel", "--epochs", 1]
    learned(tmp_path / "out", corpus, *flags)
    state = tmp_path / "out" / "state.npz"
    arrays, notes = mg.storage.read(state)
    mg.save(state, arrays, {**notes, "run": {**notes["run"], "the state's version": "0"}})
    with pytest.raises(DemoError, match="the state's version was 0, is 1"):
        learned(tmp_path / "out", corpus, *flags, "--resume")
    mg.save(state, arrays)
    with pytest.raises(DemoError, match="holds arrays, but no run of a demo"):
        learned(tmp_path / "out", corpus, *flags, "--resume")


def test_a_state_that_cannot_be_written_is_one_line(tmp_path, corpus):
    (tmp_path / "out" / "state.npz").mkdir(parents=True)
    with pytest.raises(DemoError, match=r"cannot write .*state.npz: "):
        learned(tmp_path / "out", corpus, "--how", "kernel", "--epochs", 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["state.npz"]
