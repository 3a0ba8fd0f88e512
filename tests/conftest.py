"""Hypothesis profiles: `quick` for the impatient, `ci` by default, `thorough` before a release. And the device:

    pytest --hypothesis-profile thorough
    pytest --device strict
    pytest --device cpu --device strict

None of the profiles has a deadline: a compiling kernel or a busy machine is no failure.

--device says where new tensors are made while the tests run: on the `cpu` (the default), on the `strict` double of
CuPy (`tests/minigrad/strict.py`), or on the `gpu`, whose absence is then an error, never a skip. Given twice, every
test runs on both. A test marked `cpu` is about main memory (Numba's kernels, files, other libraries) and runs there.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent / "minigrad"))  # the double, before pytest has read its own settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so does a script start what it runs in the background with &
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and the tests of Ctrl-C would wait for ever

_slow_is_fine = [HealthCheck.too_slow, HealthCheck.data_too_large]
for name, examples in {"quick": 10, "ci": 100, "thorough": 2000}.items():
    settings.register_profile(name, max_examples=examples, deadline=None, suppress_health_check=_slow_is_fine)
settings.load_profile("ci")


# ---- where tensors are made -------------------------------------------------------------------------------------


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        action="append",
        choices=["cpu", "strict", "gpu"],
        help="where tensors are made: cpu (default), the strict double of CuPy, or a gpu; may be given several times",
    )


def pytest_configure(config):
    import minigrad

    if "gpu" in devices_of(config):
        try:
            minigrad.set_device("gpu")
        except minigrad.backend.DeviceError as error:
            raise pytest.UsageError(f"--device gpu: {error}") from None
        minigrad.set_device("cpu")


def devices_of(config):
    return list(dict.fromkeys(config.getoption("--device") or ["cpu"]))


def pytest_report_header(config):
    return f"devices: {', '.join(devices_of(config))}"


def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("on_device")
    metafunc.parametrize("on_device", devices_of(metafunc.config), indirect=True, scope="session")


@pytest.fixture(scope="session")
def on_device(request):
    """Which of the devices the tests run on: "cpu", "strict" or "gpu"."""
    return request.param


@pytest.fixture(autouse=True)
def new_tensors_there(request, on_device):
    import strict

    import minigrad

    strict.counts.reset()
    where = "cpu" if request.node.get_closest_marker("cpu") else on_device
    with strict.installed() if where == "strict" else contextlib.nullcontext():
        minigrad.set_device("cpu" if where == "cpu" else "gpu")
        yield
        minigrad.set_device("cpu")


@pytest.fixture
def no_cupy(monkeypatch):
    """As if CuPy were not installed."""
    monkeypatch.setitem(sys.modules, "cupy", None)


# ---- what may be skipped ----------------------------------------------------------------------------------------

MAY_BE_SKIPPED = {"oracle": "MINIGRAD_ORACLES", "gpucheck": "MINIGRAD_GPUCHECK"}
_required = [mark for mark, name in MAY_BE_SKIPPED.items() if os.environ.get(name) == "required"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What these marks need may be absent on a reader's machine, never where MINIGRAD_ORACLES=required and so on."""
    report = yield
    for mark in _required:
        if report.skipped and item.get_closest_marker(mark):
            report.outcome = "failed"
            report.longrepr = f"skipped, but {MAY_BE_SKIPPED[mark]}=required: {report.longrepr}"
    return report
