"""What the tests of `losses` share that is no property: see `properties.py` for those."""

import pytest
from hypothesis import Phase, settings


@pytest.fixture(scope="module")
def no_explanations():
    """fault: `losses.check.smallest_failure` lets Hypothesis explain each failure, for seconds, and nobody reads it.

    With phases=[Phase.generate, Phase.shrink] there, this file can go.
    """
    settings.register_profile("before", settings.default)
    settings.register_profile("no explanations", settings.default, phases=[Phase.generate, Phase.shrink])
    settings.load_profile("no explanations")
    yield
    settings.load_profile("before")
