"""Hypothesis profiles: `quick` for the impatient, `ci` by default, `thorough` before a release.

    pytest --hypothesis-profile thorough

None has a deadline: a compiling kernel or a busy machine is no failure.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

_slow_is_fine = [HealthCheck.too_slow, HealthCheck.data_too_large]
for name, examples in {"quick": 10, "ci": 100, "thorough": 2000}.items():
    settings.register_profile(name, max_examples=examples, deadline=None, suppress_health_check=_slow_is_fine)
settings.load_profile("ci")


def pytest_runtest_setup(item):
    """Oracles may be absent on a reader's machine, never where MINIGRAD_ORACLES=required."""
    item.config.stash[_oracles_required] = os.environ.get("MINIGRAD_ORACLES") == "required"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and item.get_closest_marker("oracle") and item.config.stash[_oracles_required]:
        report.outcome, report.longrepr = "failed", f"skipped, but MINIGRAD_ORACLES=required: {report.longrepr}"
    return report


_oracles_required = pytest.StashKey[bool]()
