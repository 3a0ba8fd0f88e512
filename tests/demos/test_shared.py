"""What the demos share: flags, progress, reports, exports, pictures."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from _shared import progress
from _shared.errors import DemoError
from _shared.export import nearest_neighbours, write_projector, write_word2vec
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.plots import bars, lines, spread_labels, word_map
from _shared.progress import Progress, counted, interruptible
from _shared.report import atomic_write, environment, table, write_json

import minigrad
from minigrad.backend import DeviceError

DEMOS = Path(progress.__file__).parents[1]

# ---- flags ------------------------------------------------------------------------------------------------------


def test_the_flags_have_the_defaults_of_the_lecture_hall():
    flags = common_flags("A demo.", name="slow-impl").parse_args([])
    assert vars(flags) == {
        "quick": False,
        "device": "cpu",
        "seed": 1,
        "corpus": None,
        "out": Path("out/slow-impl"),
        "show": False,
    }


def test_a_demo_without_a_corpus_has_no_flag_for_one(capsys):
    with pytest.raises(SystemExit):
        common_flags("A demo.", name="memory", corpus=False).parse_args(["--corpus", "file.txt"])
    assert "unrecognized arguments: --corpus" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "4294967296", "1.5", "one"])
def test_a_seed_that_no_generator_takes_is_refused_at_the_door(seed, capsys):
    with pytest.raises(SystemExit):
        common_flags("A demo.", name="memory").parse_args(["--seed", seed])
    assert f"{seed}" in capsys.readouterr().err.splitlines()[-1]


def test_help_shows_the_description_line_for_line_even_with_a_percent_sign():
    assert (
        "50% faster:\n    python demos/x.py"
        in common_flags("50% faster:\n    python demos/x.py", name="x").format_help()
    )


def test_an_error_the_user_can_mend_is_one_line_and_status_2(monkeypatch, capsys):
    def main():
        raise DemoError("no such corpus:\nwiki.txt")

    monkeypatch.setattr(sys, "argv", ["demos/slow-impl.py"])
    with pytest.raises(SystemExit) as stopped:
        run_demo(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "slow-impl: no such corpus: wiki.txt\n"


def test_ctrl_c_that_nobody_caught_is_status_130(monkeypatch, capsys):
    def main():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    monkeypatch.setattr(sys, "argv", ["demos/slow-impl.py"])
    with pytest.raises(SystemExit) as stopped:
        run_demo(main)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "slow-impl: abandoned\n"


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_demo(lambda: 1 / 0)


def test_what_a_demo_returns_does_not_become_its_exit_status():
    run_demo(lambda: {"loss": 2.0})


def test_the_output_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    folder = output_folder(tmp_path / "out" / "demo")
    assert folder.is_dir() and list(folder.iterdir()) == []


def test_an_output_folder_that_is_a_file_is_named_in_the_error(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DemoError, match=r"cannot write into .*out: it is not a directory"):
        output_folder(tmp_path / "out")


def test_an_output_folder_inside_a_file_is_named_in_the_error(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DemoError, match=r"cannot write into .*out/demo: Not a directory"):
        output_folder(tmp_path / "out" / "demo")


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs /proc: a folder that nobody can write, not even root"
)
def test_an_output_folder_that_exists_but_cannot_be_written_is_an_error():
    with pytest.raises(DemoError, match="cannot write into /proc: "):
        output_folder("/proc")


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_choose_device_passes_the_name_on(device, monkeypatch):
    chosen = []
    monkeypatch.setattr(minigrad, "set_device", chosen.append)
    choose_device(device)
    assert chosen == [device]


def test_a_missing_gpu_is_an_error_the_user_can_mend(monkeypatch):
    def set_device(name):
        raise DeviceError("CuPy is not installed")

    monkeypatch.setattr(minigrad, "set_device", set_device)
    with pytest.raises(DemoError, match="--device gpu: CuPy is not installed"):
        choose_device("gpu")


# ---- progress ---------------------------------------------------------------------------------------------------


class Clock:
    """A clock that goes only when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "perf_counter", clock)
    return clock


def test_piped_progress_has_no_escape_codes_and_a_final_line(clock, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("training", total=3000) as bar:
        for loss in (3.0, 2.5, 2.31):
            clock.now += 0.5
            bar.advance(1000, loss=loss)
    assert capsys.readouterr() == ("", "training: 3,000 words in 1.5 s, 2,000 words/s, loss 2.310\n")


def test_piped_progress_prints_at_most_a_line_every_ten_seconds(clock, capsys):
    with Progress("training", total=100_000) as bar:
        for _ in range(250):  # 25 s
            clock.now += 0.1
            bar.advance(400)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("training: 40%, 4,000 words/s, 0:15 left")
    assert lines[-1] == "training: 100,000 words in 25.0 s, 4,000 words/s"


def test_progress_stopped_early_says_how_far_it_came(clock, capsys):
    with pytest.raises(KeyboardInterrupt), Progress("walking", total=10, unit="steps") as bar:
        clock.now += 2
        bar.advance(4)
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "walking: 4 of 10 steps in 2.0 s, 2 steps/s\n"


def test_seconds_and_rate_stand_still_after_the_end(clock):
    with Progress("training", total=100) as bar:
        clock.now += 4
        bar.advance(100)
    clock.now += 1000
    assert (bar.seconds, bar.rate) == (4.0, 25.0)


def test_progress_over_nothing_is_no_error(capsys):
    with Progress("training", total=0):
        pass
    assert capsys.readouterr().err.startswith("training: 0 words in 0.0 s, 0 words/s")


def test_counted_work_shows_a_bar_only_if_there_is_some(clock, capsys):
    with counted("reading", "files") as progress:
        pass
    assert capsys.readouterr().err == ""
    with counted("reading", "files") as progress:
        for done in (1, 2, 3):
            clock.now += 1
            progress(done, 3)
    assert capsys.readouterr().err.splitlines()[-1].startswith("reading: 3 files in 2.0 s")


def test_on_a_terminal_progress_shows_percent_rate_loss_and_time_left():
    script = """
import time
from _shared.progress import Progress
with Progress("training", total=2000) as bar:
    for _ in range(2):
        time.sleep(0.15)
        bar.advance(1000, loss=2.31)
"""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    environ = {**os.environ, "PYTHONPATH": str(DEMOS), "COLUMNS": "120", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", script], stderr=theirs, env=environ, check=True)
    screen = os.read(ours, 1_000_000).decode()
    os.close(ours), os.close(theirs)
    for part in ("training", "50%", r"words/s, loss 2\.310, \d+:\d\d left", r"2,000 words in \d"):
        assert re.search(part, screen)


def test_the_first_ctrl_c_asks_to_stop_and_the_second_abandons(capsys):
    with pytest.raises(KeyboardInterrupt), interruptible() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert stop.requested
        assert "Ctrl-C again to abandon" in capsys.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_the_old_ctrl_c_is_back_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with interruptible():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_interruptible_does_nothing():
    seen = []

    def work():
        with interruptible() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


# ---- report -----------------------------------------------------------------------------------------------------


def test_a_piped_table_is_plain_and_keeps_every_letter(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    wide = "[bold]" + "x" * 300
    table("A race", ["method", "words/s", "loss"], [[wide, 12_345, 2.5], ["[MASK] :smile:", 7, None]])
    out = capsys.readouterr().out
    assert wide in out and "[MASK] :smile:" in out and "\x1b" not in out


def test_numbers_stand_on_the_right(capsys):
    table("A race", ["method", "words/s", "time"], [["slow", 7, "120 ms"], ["fast", 12_345, "9.5 ms"]])
    slow, fast = (
        line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()[:4] in ("slow", "fast")
    )
    assert len(slow) == len(fast) and slow.split() == ["slow", "7", "120", "ms"]
    assert slow.index("7") == fast.index("12,345") + len("12,34")


def test_a_number_that_is_not_one_stands_on_the_right_too(capsys):
    table("A race", ["method", "loss"], [["slow", 5.123], ["fast", float("nan")], ["none", None]])
    rows = [line.rstrip() for line in capsys.readouterr().out.splitlines()[-4:-1]]
    assert len({len(row) for row in rows}) == 1 and [row.split()[1] for row in rows] == ["5.123", "nan", "–"]


def test_a_row_with_a_missing_cell_is_refused():
    with pytest.raises(ValueError, match="every row of 'A race' must have 2 cells"):
        table("A race", ["method", "words/s"], [["slow"]])


def test_atomic_write_leaves_the_old_file_when_the_writer_raises(tmp_path):
    (tmp_path / "table.txt").write_text("old")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "table.txt") as file:
        file.write("new, but only half of")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table.txt", "old")]


def test_atomic_write_replaces_the_old_file_at_the_end(tmp_path):
    (tmp_path / "table.txt").write_text("old")
    with atomic_write(tmp_path / "table.txt") as file:
        file.write("new, ü")
        assert (tmp_path / "table.txt").read_text() == "old"
    assert [(path.name, path.read_text("utf-8")) for path in tmp_path.iterdir()] == [("table.txt", "new, ü")]


def test_a_file_written_atomically_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_holds_numpy_scalars_and_arrays_in_the_order_given(tmp_path):
    values = {"z": np.float32(0.5), "a": np.arange(3), "t": (np.int64(2), np.bool_(True)), "p": Path("x"), "ü": None}
    write_json(tmp_path / "r.json", values)
    text = (tmp_path / "r.json").read_text("utf-8")
    assert json.loads(text) == {"z": 0.5, "a": [0, 1, 2], "t": [2, True], "p": "x", "ü": None}
    assert list(json.loads(text)) == ["z", "a", "t", "p", "ü"] and text.startswith('{\n  "z": 0.5')


@pytest.mark.parametrize("bad", [float("nan"), np.float32("inf"), -np.inf])
def test_json_refuses_nan_and_says_where_it_is(bad, tmp_path):
    (tmp_path / "r.json").write_text("old")
    with pytest.raises(ValueError, match=r"values\['loss'\]\[1\] is (nan|inf|-inf)"):
        write_json(tmp_path / "r.json", {"loss": np.array([1.0, bad])})
    assert (tmp_path / "r.json").read_text() == "old"


def test_json_refuses_what_is_no_data_and_says_where_it_is(tmp_path):
    with pytest.raises(TypeError, match=r"values\['fn'\] is a function"):
        write_json(tmp_path / "r.json", {"fn": lambda: 0})


def test_the_environment_can_be_written_and_names_the_versions(tmp_path):
    write_json(tmp_path / "r.json", environment())
    assert json.loads((tmp_path / "r.json").read_text())["numpy"] == np.__version__


# ---- export -----------------------------------------------------------------------------------------------------

WORDS = ["</s>", "ü", "the", "日本", "don't"]
VECTORS = (
    np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32) * np.float32([1e-30, 1e-3, 1, 1e3, 1e30])[:, None]
)


@pytest.mark.oracle
def test_gensim_reads_the_same_words_and_the_same_vectors(tmp_path):
    models = pytest.importorskip("gensim.models")
    write_word2vec(tmp_path / "v.txt", WORDS, VECTORS)
    loaded = models.KeyedVectors.load_word2vec_format(tmp_path / "v.txt", binary=False)
    assert loaded.index_to_key == WORDS
    np.testing.assert_array_equal(loaded.vectors, VECTORS)


def test_word2vec_text_gives_back_every_bit_of_a_float32(tmp_path):
    write_word2vec(tmp_path / "v.txt", WORDS, VECTORS)
    header, *lines = (tmp_path / "v.txt").read_text("utf-8").splitlines()
    assert header == "5 7" and [line.split(" ")[0] for line in lines] == WORDS
    np.testing.assert_array_equal(np.array([line.split(" ")[1:] for line in lines], np.float32), VECTORS)


@pytest.mark.parametrize("word", ["", "New York", "tab\t", "line\n", "no\u00a0break"])
def test_a_word_that_the_format_cannot_hold_is_named_and_nothing_written(word, tmp_path):
    with pytest.raises(ValueError) as refused:
        write_word2vec(tmp_path / "v.txt", ["good", word], VECTORS[:2])
    assert repr(word) in str(refused.value) and list(tmp_path.iterdir()) == []


def test_a_vector_that_is_not_finite_is_refused_by_its_word(tmp_path):
    with pytest.raises(ValueError, match="the vector of 'b' is not finite"):
        write_word2vec(tmp_path / "v.txt", ["a", "b"], np.array([[1.0], [np.nan]]))


def test_the_projector_files_have_a_line_a_word_and_no_header(tmp_path):
    write_projector(tmp_path / "vectors.tsv", tmp_path / "metadata.tsv", WORDS, VECTORS)
    assert (tmp_path / "metadata.tsv").read_text("utf-8").split("\n") == [*WORDS, ""]
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "vectors.tsv", np.float32, delimiter="\t"), VECTORS)


def test_ten_thousand_vectors_are_written_in_three_seconds(tmp_path):
    words = [f"w{i}" for i in range(10_000)]
    vectors = np.random.default_rng(1).normal(size=(10_000, 128))
    start = time.process_time()
    write_projector(tmp_path / "vectors.tsv", tmp_path / "metadata.tsv", words, vectors)
    assert time.process_time() - start < 3


def test_the_neighbours_are_those_of_brute_force():
    vectors = np.random.default_rng(1).normal(size=(40, 6))
    neighbours, cosines = nearest_neighbours(vectors, [3, 17], k=5)
    for row, word in enumerate([3, 17]):
        u = vectors[word]
        cosine = {v: u @ vectors[v] / (np.linalg.norm(u) * np.linalg.norm(vectors[v])) for v in range(40) if v != word}
        nearest = sorted(cosine, key=cosine.get, reverse=True)[:5]
        assert neighbours[row].tolist() == nearest
        np.testing.assert_allclose(cosines[row], [cosine[v] for v in nearest])


def test_a_word_is_not_its_own_neighbour_but_its_twin_is():
    neighbours, cosines = nearest_neighbours(np.array([[1, 1], [2, 2], [1, 0]]), [0], k=8)
    assert neighbours.tolist() == [[1, 2]]
    np.testing.assert_allclose(cosines, [[1, np.sqrt(0.5)]])


def test_the_zero_vector_has_cosine_zero_with_all():
    neighbours, cosines = nearest_neighbours(np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), [0, 1], k=2)
    assert neighbours.tolist() == [[1, 2], [0, 2]] and cosines.tolist() == [[0, 0], [0, -1]]


@pytest.mark.parametrize("word", [-1, 3])
def test_neighbours_of_an_id_out_of_range_are_an_error(word):
    with pytest.raises(IndexError, match="ids must lie in 0 … 2"):
        nearest_neighbours(np.eye(3), [word])


# ---- plots ------------------------------------------------------------------------------------------------------


def size_of_png(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


@pytest.mark.parametrize("num_words", [1, 2, 60])
def test_a_word_map_is_a_png_of_1600_by_1200(num_words, tmp_path):
    vectors = np.random.default_rng(1).normal(size=(num_words, 16)).astype(np.float32)
    word_map(tmp_path / "map.png", ["$x_1$"] * num_words, vectors, "A map of $words$")
    assert size_of_png(tmp_path / "map.png") == (1600, 1200)
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_a_map_of_equal_vectors_is_no_error(tmp_path):
    word_map(tmp_path / "map.png", ["a", "b", "c", "d"] * 4, np.zeros((16, 4)), "All the same")
    assert size_of_png(tmp_path / "map.png") == (1600, 1200)


def test_the_same_words_give_the_same_map(tmp_path):
    vectors = np.random.default_rng(1).normal(size=(30, 16))
    for name in ("one.png", "two.png"):
        word_map(tmp_path / name, [f"w{i}" for i in range(30)], vectors, "A map")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def three_groups() -> tuple[np.ndarray, np.ndarray]:
    """Sixty points of three groups far apart, in no order."""
    rng = np.random.default_rng(1)
    group = rng.permutation(60) % 3
    return group, 10 * np.eye(3, 20)[group] + rng.normal(size=(60, 20))


def test_a_heap_of_labels_is_spread_until_none_overlap_and_stays_inside():
    places = [50, 400] + np.random.default_rng(1).normal(size=(20, 2))
    halves = np.tile([40.0, 12.0], (20, 1))
    centres = spread_labels(places, halves, low=[0, 0], high=[800, 800])
    clear = (abs(centres[:, None] - centres) > halves[:, None] + halves - 1).any(axis=-1)  # to a pixel
    assert (clear | np.eye(20, dtype=bool)).all()
    assert (centres >= halves).all() and (centres <= 800 - halves).all()


def test_lines_are_a_png_with_a_panel_for_each_dictionary(tmp_path):
    panel = {"series": {"$a_b$": ([1, 10], [2.0, 3.0]), "dashed": ([1], [1.0], {"linestyle": "--"})}}
    panel |= {"xlabel": "n", "ylabel": "seconds", "log": "xy", "marks": {"here": 3}}
    lines(tmp_path / "lines.png", "A race", [panel, panel | {"log": ""}])
    assert size_of_png(tmp_path / "lines.png") == (1600, 900)


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)


def test_marks_at_one_place_have_one_label(tmp_path):
    panel = {"series": {"a": ([1, 10], [2.0, 3.0])}, "xlabel": "n", "ylabel": "s"}
    lines(tmp_path / "two.png", "A race", [panel | {"marks": {"here": 3, "there": 3.0}}])
    lines(tmp_path / "one.png", "A race", [panel | {"marks": {"here; there": 3}}])
    assert np.array_equal(pixels(tmp_path / "two.png"), pixels(tmp_path / "one.png"))


def test_panels_with_the_same_names_and_axis_share_one_legend_below_them(tmp_path):
    """The strip at the bottom, between the words below the two axes, is empty unless there is a legend."""
    few, many = ({"series": {"a": ([1], [y])}, "xlabel": "n", "ylabel": "s"} for y in (1.0, 1e6))
    lines(tmp_path / "same.png", "A race", [few, many])
    lines(tmp_path / "other.png", "A race", [few, many | {"ylabel": "bytes"}])
    between = np.s_[-60:, 720:880]
    assert (pixels(tmp_path / "same.png")[between] < 1).any()
    assert (pixels(tmp_path / "other.png")[between] == 1).all()


@pytest.mark.parametrize("x, y", [([1, 2], [1.0]), ([], []), ([1.0], [float("nan")])])
def test_a_line_needs_as_many_numbers_on_either_axis_all_finite(x, y, tmp_path):
    with pytest.raises(ValueError, match="curve"):
        lines(tmp_path / "lines.png", "A race", [{"series": {"curve": (x, y)}, "xlabel": "", "ylabel": ""}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [1e-3, 5.0, 1e6], [0.0, -1.0, 100.0]])
def test_bars_are_a_png_as_high_as_they_are_many(values, tmp_path):
    bars(tmp_path / "bars.png", "A race", ["slow", "$fast$", "a_b"], values, "words/s")
    assert size_of_png(tmp_path / "bars.png") == (1600, 400)


def test_bars_refuse_what_was_not_measured(tmp_path):
    with pytest.raises(ValueError, match="2 labels need as many finite values"):
        bars(tmp_path / "bars.png", "A race", ["slow", "fast"], [1.0, np.nan], "words/s")


@pytest.mark.parametrize("backend", ["agg", "tkagg"])
def test_show_without_a_display_is_a_line_and_no_traceback(backend, tmp_path):
    script = "from _shared.plots import bars; bars('bars.png', 'A race', ['slow'], [1.0], 'words/s', show=True)"
    environ = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environ |= {"PYTHONPATH": str(DEMOS), "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "--show: no window can be opened here; the picture is bars.png\n"
