"""Files of named arrays: whole, or an error; never a pickle."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad.storage import NOTES, StorageError, read

pytestmark = pytest.mark.engine

names = st.text(min_size=1, max_size=6).filter(str.isprintable)
dtypes = st.sampled_from(["float32", "float64", "int64", "uint8", "bool", "complex128"])
arrays = dtypes.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_one_folder
@given(st.dictionaries(names, arrays, max_size=4))
def test_what_was_saved_comes_back_to_the_bit(tmp_path, given_arrays):
    mg.save(tmp_path / "a.npz", given_arrays)
    back = mg.load(tmp_path / "a.npz")
    assert list(back) == list(given_arrays)
    for name, array in given_arrays.items():
        assert back[name].dtype == array.dtype and back[name].tobytes() == array.tobytes()
        assert back[name].shape == array.shape


def test_tensors_are_saved_by_their_values_and_notes_come_along(tmp_path):
    mg.save(tmp_path / "a.npz", {"w": mg.param([1.0, 2.0])}, {"epoch": 3, "words": ["a", "é"]})
    found, notes = read(tmp_path / "a.npz")
    assert found["w"].tolist() == [1.0, 2.0] and notes == {"epoch": 3, "words": ["a", "é"]}


def test_numpy_opens_the_file_too(tmp_path):
    mg.save(tmp_path / "a.npz", {"w": np.arange(3)})
    with np.load(tmp_path / "a.npz") as file:
        assert file["w"].tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("storage") / "whole.npz"
    mg.save(path, {"w": np.arange(100.0), "b": np.ones((2, 3), "float32")}, {"epoch": 1})
    return path.read_bytes()


@in_one_folder
@given(data=st.data())
def test_a_file_cut_short_is_an_error(whole, tmp_path, data):
    (tmp_path / "cut.npz").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(StorageError, match=r"cut\.npz"):
        mg.load(tmp_path / "cut.npz")


@in_one_folder
@given(data=st.data())
def test_a_flipped_bit_is_an_error_or_changes_no_number(whole, tmp_path, data):
    """A zip holds sizes and dates twice: a bit of one that nobody reads may flip unseen."""
    damaged, at = bytearray(whole), data.draw(st.integers(0, len(whole) - 1))
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "bit.npz").write_bytes(damaged)
    try:
        found = mg.load(tmp_path / "bit.npz")
    except StorageError:
        return
    values = [a.tolist() for a in found.values()]
    assert values == [np.arange(100.0).tolist(), np.ones((2, 3)).tolist()]


def test_a_file_of_another_layout_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr(NOTES, json.dumps({"version": 99, "notes": {}}))
    with pytest.raises(StorageError, match="has layout 99, and this minigrad reads layout 1"):
        mg.load(tmp_path / "a.npz")


def test_somebody_elses_file_is_an_error_and_a_pickle_is_not_loaded(tmp_path):
    np.savez(tmp_path / "other.npz", w=np.arange(3))
    with pytest.raises(StorageError, match=r"minigrad\.save did not write it"):
        mg.load(tmp_path / "other.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr(NOTES, json.dumps({"version": 1, "names": ["evil"], "notes": {}}))
        with file.open("evil.npy", "w") as member:
            np.lib.format.write_array(member, np.array([{}], object), allow_pickle=True)
    with pytest.raises(StorageError, match="Object arrays cannot be loaded"):
        mg.load(tmp_path / "a.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(StorageError, match=r"text\.npz is cut short, damaged or no file of minigrad"):
        mg.load(tmp_path / "text.npz")


def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    mg.save(tmp_path / "a.npz", {"w": np.zeros(3)})

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("minigrad.storage.np.lib.format.write_array", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mg.save(tmp_path / "a.npz", {"w": np.ones(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    assert mg.load(tmp_path / "a.npz")["w"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("arrays", "notes", "error", "says"),
    [
        ({"": np.ones(1)}, None, ValueError, "a name must be a printable string, got ''"),
        ({3: np.ones(1)}, None, ValueError, "a name must be a printable string, got 3"),
        ({"w": np.array(["a"])}, None, TypeError, "w must hold numbers, got <U1"),
        ({"w": np.array([None])}, None, TypeError, "w must hold numbers, got object"),
        ({}, {"loss": float("nan")}, ValueError, "not JSON compliant"),
    ],
)
def test_what_cannot_be_kept_is_named_and_no_file_is_made(tmp_path, arrays, notes, error, says):
    with pytest.raises(error, match=says):
        mg.save(tmp_path / "a.npz", arrays, notes)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"minigrad.save: No such file or directory: '.*missing.a\.npz'"):
        mg.save(tmp_path / "missing" / "a.npz", {"w": np.ones(1)})
    with pytest.raises(FileNotFoundError):
        mg.load(tmp_path / "a.npz")
