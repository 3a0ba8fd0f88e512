"""The race of samplers: that each way draws what it names, and what the race leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _shared.errors import DemoError
from test_commands import load_script

pytestmark = [pytest.mark.samplers, pytest.mark.cpu]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "versus" / "samplers.py"
race = load_script(SCRIPT)

INDEPENDENT = {"minigrad": {"alias", "inverse CDF", "uniform", "log-uniform"}}
INDEPENDENT |= {"numpy": {"choice", "searchsorted by hand"}, "torch": {"multinomial"}}
DISTINCT = {"minigrad": {"Unique", "Unique, exact", "Unique of log-uniform", "GumbelTopK"}}
DISTINCT |= {"numpy": {"choice"}, "torch": {"multinomial"}}
each = pytest.mark.parametrize(
    "contestant", [pytest.param(c, marks=pytest.mark.oracle if c.package == "torch" else ()) for c in race.CONTESTANTS]
)


def begun(contestant, vocab=1000, seed=1):
    if contestant.package:
        pytest.importorskip(contestant.package)
    one = contestant(seed=seed)
    one.begin(vocab)
    return one


@each
def test_each_way_draws_from_the_distribution_that_it_names(contestant):
    off = begun(contestant).deviations()
    ways = {f"{way}, step" for way in INDEPENDENT[contestant.name]}
    assert set(off) == ways | {f"{way}, distinct" for way in DISTINCT[contestant.name]}
    assert max(off.values()) < 6


@each
def test_a_way_that_draws_from_another_distribution_would_be_caught(contestant):
    one = begun(contestant)
    one.q, one.declared = one.q[::-1], {}  # as if the rarest word were the most frequent
    assert min(one.deviations().values()) > 6


@each
def test_different_words_are_different_and_as_many_as_were_asked_for(contestant):
    for way, draw in begun(contestant).ways["distinct"].items():
        assert len(set(np.asarray(draw(race.K)).tolist())) == race.K, way


def test_two_draws_in_a_row_are_not_the_same():
    for task in race.TASKS:
        for way, draw in begun(race.Minigrad).ways[task].items():
            assert (draw(race.K) != draw(race.K)).any(), way


def test_the_seconds_of_a_turn_are_those_of_each_way():
    one = begun(race.NumPy)
    for task, ways in {"step": INDEPENDENT, "bulk": INDEPENDENT, "distinct": DISTINCT}.items():
        found = one.seconds(task, many=1000)
        assert set(found) == ways["numpy"] and min(found.values()) > 0


@pytest.mark.parametrize("flags, said", [(["--device", "gpu"], "leave out --device"), (["--rounds", "0"], "--rounds")])
def test_flags_that_make_no_sense_are_refused(flags, said):
    with pytest.raises(DemoError, match=said):
        race.main(flags)


def test_a_quick_race_leaves_the_table_and_the_numbers(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert set(found["results"]) == {"1000", "10000"} and found["largest_deviation"] < 6
    for tasks in found["results"].values():
        for task, names in {"step": INDEPENDENT, "bulk": INDEPENDENT, "distinct": DISTINCT}.items():
            there = {f"{name}, {way}" for name, ways in names.items() for way in ways if name in found["versions"]}
            assert set(tasks[task]) == there
            assert all(way["seconds"] > 0 and len(way["rounds"]) == 3 for way in tasks[task].values())
            assert all(way["times_as_fast_as_choice"]["median"] > 0 for way in tasks[task].values())
    for title in ("64 words for one step", "100,000 words at once", "64 different words"):
        assert f"{title}, one core, median of 3 rounds" in done.stdout
