"""`pytest --device`: each device that is named, every test on each of them, and a GPU that isn't there is an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.device, pytest.mark.cpu]

ROOT = Path(__file__).parents[1]
A_TEST = "tests/minigrad/test_tape.py::test_a_diamond_adds_both_ways"
ABOUT_MAIN_MEMORY = "tests/minigrad/test_strict.py::test_installed_it_is_cupy_and_afterwards_no_more"


def pytest_says(*words, path=""):
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr


def test_a_gpu_that_is_not_there_is_an_error_and_no_skip(tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError")
    status, said = pytest_says("--device", "gpu", A_TEST, path=str(tmp_path))
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "--device gpu: minigrad: device gpu needs CuPy, which is not installed: pip install" in said


def test_a_device_that_is_none_is_an_error():
    status, said = pytest_says("--device", "abacus", A_TEST)
    assert status == pytest.ExitCode.USAGE_ERROR and "invalid choice: 'abacus'" in said


@pytest.mark.parametrize("devices", [[], ["cpu"], ["strict"], ["cpu", "strict"], ["strict", "cpu", "strict"]])
def test_each_test_runs_once_on_each_device_that_is_named(devices):
    status, said = pytest_says(*(word for device in devices for word in ("--device", device)), A_TEST)
    wanted = list(dict.fromkeys(devices)) or ["cpu"]
    assert status == 0 and f"devices: {', '.join(wanted)}" in said
    assert all(f"test_a_diamond_adds_both_ways[{device}] PASSED" in said for device in wanted)
    assert f"{len(wanted)} passed" in said


def test_a_test_that_is_about_main_memory_runs_there():
    status, said = pytest_says("--device", "strict", ABOUT_MAIN_MEMORY)
    assert status == 0 and "1 passed" in said
