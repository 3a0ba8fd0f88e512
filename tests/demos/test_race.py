"""Races: who works when, with which settings, and what a ratio is. The contestants are made up and take no time."""

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _shared.errors import DemoError
from _shared.race import Race, Ratio, Times, peak_bytes
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]

CONTESTANTS = """
import os, sys, time

class Ours:
    name, package = "ours", None

    def __init__(self, diary=None):
        self.diary, self.turns = diary, 0

    def work(self, pause=0.0):
        self.turns += 1
        if self.diary:
            with open(self.diary, "a") as diary:
                diary.write(self.name + " ")
        time.sleep(pause)

    def answer(self):
        return [[1.0, 2.0], [3.0]]

    def settings(self):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        return {**os.environ, "pid": os.getpid(), "cores": cores}

class Theirs(Ours):
    name = "theirs"

class Third(Ours):
    name = "third"

class Otherwise(Ours):
    name = "otherwise"

    def answer(self):
        return [[1.0, 2.5], [3.0]]

class Misshapen(Ours):
    name = "misshapen"

    def answer(self):
        return [[1.0, 2.0]]

class Unknowing(Ours):
    name = "unknowing"

    def answer(self):
        return [[1.0, float("nan")], [3.0]]

class NotInstalled(Ours):
    name, package = "elsewhere", "no_such_package"

class FailsToStart(Ours):
    name = "failing"

    def __init__(self, diary=None):
        raise ValueError("two lines\\nof reason")

class DiesInTheThird(Ours):
    name = "dying"

    def work(self, pause=0.0):
        super().work()
        if self.turns == 3:
            os._exit(7)
"""


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A module, since processes that are spawned import their classes."""
    (tmp_path / "made_up_contestants.py").write_text(CONTESTANTS)
    monkeypatch.syspath_prepend(tmp_path)
    import made_up_contestants

    yield made_up_contestants
    del sys.modules["made_up_contestants"]


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except OSError:
            return True
        time.sleep(0.05)
    return False


# ---- what a ratio is ----------------------------------------------------------------------------------------------


def test_a_ratio_is_taken_within_a_round_and_not_between_medians():
    times = Times({"a": [1.0, 20.0, 3.0], "b": [2.0, 10.0, 1.0]})
    assert times.ratio("a", "b").median == 2.0  # of 0.5, 2, 3
    assert times.median("a") / times.median("b") == 1.5


@pytest.mark.parametrize(
    ("n", "low", "high", "confidence"),
    [
        (1, 1, 1, 0.0),
        (3, 1, 3, 0.75),
        (5, 1, 5, 0.9375),
        (6, 1, 6, 0.96875),
        (8, 1, 8, 0.9921875),
        (9, 2, 8, 0.9609375),
    ],
)
def test_the_interval_is_that_of_the_sign_test(n, low, high, confidence):
    ratio = Ratio.of([float(i) for i in range(n, 0, -1)])
    assert (ratio.low, ratio.high, ratio.confidence) == (low, high, confidence)


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=40))
def test_the_median_lies_within_its_interval(ratios):
    ratio = Ratio.of(ratios)
    assert ratio.low <= ratio.median <= ratio.high and ratio.median == statistics.median(ratios)


def test_the_interval_holds_the_median_as_often_as_it_says():
    """Exactly: of the 2ⁿ ways in which n ratios fall below or above the true median, count those it covers."""
    n = 9
    covered = 0
    for ways in range(2**n):
        below = bin(ways).count("1")
        ratio = Ratio.of([float(i) - below + 0.5 for i in range(n)])  # so many lie below zero
        covered += ratio.low < 0 < ratio.high
    assert covered / 2**n == Ratio.of([float(i) for i in range(n)]).confidence


# ---- turns ----------------------------------------------------------------------------------------------------------


def test_turns_alternate_and_the_order_is_reversed_round_by_round(made_up, tmp_path):
    diary = tmp_path / "diary"
    contestants = [made_up.Ours, made_up.Theirs, made_up.Third]
    with Race(contestants, {"diary": str(diary)}) as race:
        times = race.run("work", rounds=3, warm_up=1)
    turns = ["third", "theirs", "ours", "ours", "theirs", "third", "third", "theirs", "ours", "ours", "theirs", "third"]
    assert diary.read_text().split() == turns
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"ours": 3, "theirs": 3, "third": 3}


def test_the_time_of_a_turn_is_the_contestants_own(made_up):
    with Race([made_up.Ours, made_up.Theirs]) as race:
        times = race.run("work", rounds=2, pause=0.02)
    assert all(second >= 0.02 for seconds in times.seconds.values() for second in seconds)


def test_each_turn_is_told_so_that_a_bar_can_move(made_up):
    turns = []
    with Race([made_up.Ours, made_up.Theirs]) as race:
        race.run("work", rounds=2, warm_up=1, advance=lambda: turns.append(1))
    assert len(turns) == 6


def test_each_has_a_process_of_its_own_with_the_threads_that_were_said(made_up, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with Race([made_up.Ours, made_up.Theirs], threads=1) as race:
        settings = race.ask("settings")
    assert os.environ["OPENBLAS_CORETYPE"] == "Haswell" and os.environ["OMP_NUM_THREADS"] == "5"
    assert len({os.getpid(), settings["ours"]["pid"], settings["theirs"]["pid"]}) == 3
    for found in settings.values():
        assert "OPENBLAS_CORETYPE" not in found and found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "1"
        assert found["cores"] in (1, None)


# ---- agreement ------------------------------------------------------------------------------------------------------


def test_those_who_agree_may_race(made_up):
    with Race([made_up.Ours, made_up.Theirs]) as race:
        assert race.agree("answer", tolerance=0.0) == 0.0


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("Otherwise", "ours and otherwise disagree in answer: by 0.5 > 0.01"),
        ("Misshapen", r"shapes \[\(2,\), \(1,\)\] and \[\(2,\)\]"),
        ("Unknowing", "disagree in answer: by nan"),
    ],
)
def test_those_who_disagree_may_not(made_up, other, said):
    with pytest.raises(AssertionError, match=said), Race([made_up.Ours, getattr(made_up, other)]) as race:
        race.agree("answer", tolerance=0.01)


# ---- those who are not there --------------------------------------------------------------------------------------


def test_who_is_not_installed_is_listed_and_the_others_race(made_up):
    with Race([made_up.Ours, made_up.NotInstalled, made_up.Theirs]) as race:
        assert race.names == ["ours", "theirs"]
        assert race.absent == {"elsewhere": "not installed: pip install no_such_package"}


def test_who_fails_to_start_is_listed_with_the_reason_in_one_line(made_up):
    with Race([made_up.Ours, made_up.FailsToStart, made_up.Theirs]) as race:
        assert race.absent == {"failing": "ValueError: two lines of reason"}


def test_who_dies_is_listed_and_the_others_race_on(made_up):
    with Race([made_up.Ours, made_up.DiesInTheThird, made_up.Theirs]) as race:
        times = race.run("work", rounds=4, warm_up=1)
        assert race.absent == {"dying": "its process ended with status 7"}
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"ours": 4, "theirs": 4}


@pytest.mark.parametrize("contestants", [["Ours", "NotInstalled"], ["FailsToStart", "Ours", "Theirs"], ["Ours"]])
def test_without_us_or_without_a_rival_there_is_no_race(made_up, contestants):
    with pytest.raises(DemoError, match="there is no race: "), Race([getattr(made_up, name) for name in contestants]):
        pass


# ---- nothing is left behind ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_at_the_end_no_process_is_left(made_up, error):
    try:
        with Race([made_up.Ours, made_up.Theirs]) as race:
            pids = [found["pid"] for found in race.ask("settings").values()]
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert all(gone(pid) for pid in pids)


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a group of processes")
def test_ctrl_c_ends_all_without_a_word_from_the_contestants(made_up, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(ROOT / 'demos')!r}, {str(tmp_path)!r}]\n"
        "from _shared.flags import run_demo\nfrom _shared.race import Race\n"
        "from made_up_contestants import Ours, Theirs\n"
        "def main():\n"
        "    with Race([Ours, Theirs]) as race:\n"
        "        print(*(found['pid'] for found in race.ask('settings').values()), flush=True)\n"
        "        race.run('work', rounds=1_000_000, pause=0.01)\n"
        "if __name__ == '__main__':\n"
        "    run_demo(main)\n"
    )
    command = [sys.executable, str(script)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "script: abandoned\n"
    assert len(pids) == 2 and all(gone(pid) for pid in pids)


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells, and forgets, a peak")
def test_the_peak_of_memory_is_that_of_the_work_even_if_it_is_given_back():
    peaks = [
        peak_bytes(lambda size=size: bytes(bytearray(size))) for size in (1, 48 * 2**20)
    ]  # so large that no memory is used again
    assert peaks[1] - peaks[0] == pytest.approx(96 * 2**20, rel=0.1)
