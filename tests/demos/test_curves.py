"""Curves with their names beside them, and intervals."""

import numpy as np
import pytest
from _shared.curves import apart, curves, intervals, named_at_the_end
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.cpu

PANELS = [{"title": "the same updates", "xlabel": "updates", "ylabel": "KL"}, {"title": "the same time", "xlabel": "s"}]


def size_of_png(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def pixels(path):
    from matplotlib.image import imread

    return imread(path)[:, :, :3]


places = st.lists(st.floats(0, 100), min_size=1, max_size=8)


@given(places, st.floats(0, 30))
def test_places_are_a_gap_apart_in_the_order_that_is_wanted_and_inside(wanted, gap):
    wanted = np.array(wanted)
    found = apart(wanted, gap, -10, 110)
    order = np.argsort(wanted, kind="stable")
    room = 120 / max(len(wanted) - 1, 1)
    assert (np.diff(found[order]) >= min(gap, room) - 1e-6).all()
    assert found.min() >= -10 - 1e-6 and found.max() <= 110 + 1e-6


@given(places)
def test_places_that_are_far_enough_apart_are_the_ones_that_are_wanted(wanted):
    wanted = 1000.0 * np.arange(len(wanted)) + np.array(wanted)
    np.testing.assert_allclose(apart(wanted, 5, -10, 1e5), wanted)


@given(places, st.floats(1, 30), st.lists(st.floats(-3, 3), min_size=8, max_size=8))
def test_no_other_places_are_nearer(wanted, gap, moves):
    """In the sum of squares; others are made by moving them, and pushing them up to the gap again."""
    wanted = np.sort(wanted)
    found = apart(wanted, gap, -1e4, 1e4)
    other = np.sort(found + moves[: len(found)])
    steps = gap * np.arange(len(other))
    other = np.maximum.accumulate(other - steps) + steps
    assert ((found - wanted) ** 2).sum() <= ((other - wanted) ** 2).sum() + 1e-6


def test_two_that_want_one_place_share_the_way():
    assert apart(np.array([50.0, 50.0, 90.0]), 10, 0, 100).tolist() == [45, 55, 90]


def test_curves_have_two_panels_and_their_names_between_them(tmp_path):
    one = {"x": [[1, 10], [0.1, 2.0]], "y": [1.0, 0.1], "color": "#ff0000"}
    curves(tmp_path / "a.png", "$a_b$", {"$one$": one}, PANELS)
    curves(tmp_path / "b.png", "$a_b$", {"another": one}, PANELS)
    assert size_of_png(tmp_path / "a.png") == (1600, 900)
    differ = (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any(axis=2)
    assert set(np.flatnonzero(differ.any(axis=0))) <= set(range(670, 1000))
    red = (pixels(tmp_path / "a.png") == [1, 0, 0]).all(axis=2)
    assert red[:, 110:600].any() and red[:, 600:1000].any() and red[:, 1080:1580].any()


@pytest.mark.parametrize("x, y", [([1, 2], [1.0]), ([], []), ([1.0], [float("nan")]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_a_curve_needs_as_many_positive_numbers_on_each_axis(x, y, tmp_path):
    with pytest.raises(ValueError, match="curve: "):
        curves(tmp_path / "a.png", "", {"curve": {"x": [x, x], "y": y}}, PANELS)
    assert not list(tmp_path.iterdir())


def test_what_is_above_the_highest_is_cut_off_and_has_a_name(tmp_path):
    low = {"x": [[1, 10], [0.1, 2.0]], "y": [1.0, 0.5], "color": "#ff0000"}
    high = {"x": [[1, 10], [0.1, 2.0]], "y": [1e3, 1e6], "color": "#0000ff"}
    curves(tmp_path / "a.png", "", {"low": low}, PANELS)
    curves(tmp_path / "b.png", "", {"low": low, "high": high}, PANELS, highest=1.0)
    one, other = pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")
    np.testing.assert_array_equal(one[:, :620], other[:, :620])
    assert (other[:, 670:1000] == [0, 0, 1]).all(axis=2).any() and (other[:, 1080:] == one[:, 1080:]).all()
    with pytest.raises(ValueError, match=r"highest: 0\.5; expected a height above that of the lowest point"):
        curves(tmp_path / "c.png", "", {"low": low}, PANELS, highest=0.5)


def test_a_level_is_a_dotted_line_with_its_name_and_within_the_picture(tmp_path):
    one = {"x": [[1, 10], [0.1, 2.0]], "y": [1.0, 0.1], "color": "#ff0000"}
    curves(tmp_path / "a.png", "", {"one": one}, PANELS)
    curves(tmp_path / "b.png", "", {"one": one}, PANELS, level=(5.0, "$begin$"))
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any()
    gray = (abs(pixels(tmp_path / "b.png") - 128 / 255) < 0.01).all(axis=2)
    above = gray[130:200]  # rows: under the titles
    assert above[:, 110:590].any() and above[:, 1120:1570].any()


@pytest.mark.parametrize("height", [0.0, -1.0, float("nan"), float("inf")])
def test_a_level_is_a_positive_height(height, tmp_path):
    with pytest.raises(ValueError, match="level: "):
        curves(tmp_path / "a.png", "", {"one": {"x": [[1], [1]], "y": [1]}}, PANELS, level=(height, "begin"))


def test_the_numbers_beside_intervals_have_room(tmp_path):
    intervals(tmp_path / "a.png", "", [("a", 100.0, 50.0), ("b", -10.0, 1.0)], "log Z")
    assert (pixels(tmp_path / "a.png")[20:-80, -20:] == 1).all(), "nothing is written up to the edge"


def test_intervals_are_a_png_as_high_as_they_are_many(tmp_path):
    intervals(tmp_path / "a.png", "$log Z$", [("$a_b$", 1.0, 0.5), ("b", -1.0, 0.0)], "log Z")
    assert size_of_png(tmp_path / "a.png") == (1600, 300)


@pytest.mark.parametrize("rows", [[], [("a", float("nan"), 1.0)], [("a", 1.0, float("inf"))]])
def test_intervals_refuse_what_was_not_measured(rows, tmp_path):
    with pytest.raises(ValueError, match="finite numbers"):
        intervals(tmp_path / "a.png", "", rows, "")


CURVES = {"series": {"$one$": ([1, 1000], [2.0, 900.0], {"color": "#ff0000"})}, "title": "", "xlabel": "", "ylabel": ""}


def test_names_at_the_end_stand_on_the_right_of_their_panel(tmp_path):
    other = CURVES | {"series": {"another": CURVES["series"]["$one$"]}}
    named_at_the_end(tmp_path / "a.png", "$a_b$", [CURVES, other])
    named_at_the_end(tmp_path / "b.png", "$a_b$", [other, other])
    assert size_of_png(tmp_path / "a.png") == (1600, 900)
    differ = (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any(axis=2)
    places = np.flatnonzero(differ.any(axis=0))
    red = np.flatnonzero((pixels(tmp_path / "a.png") == [1, 0, 0]).all(axis=2)[:, :450].any(axis=0))
    assert red.max() < places.max() < 800 and places.min() > 480


def test_a_mark_is_a_line_with_its_name(tmp_path):
    named_at_the_end(tmp_path / "a.png", "", [CURVES])
    named_at_the_end(tmp_path / "b.png", "", [CURVES | {"mark": (30.0, "$V$")}])
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any()


@pytest.mark.parametrize("x, y", [([1, 2], [1.0]), ([], []), ([1.0], [float("nan")]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_a_curve_with_its_name_needs_as_many_positive_numbers_on_each_axis(x, y, tmp_path):
    with pytest.raises(ValueError, match="curve: "):
        named_at_the_end(tmp_path / "a.png", "", [CURVES | {"series": {"curve": (x, y, {})}}])
    assert not list(tmp_path.iterdir())
