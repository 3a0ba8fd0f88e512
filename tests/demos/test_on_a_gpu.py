"""Every demo with --device gpu, on the strict double: nothing of it reaches past the device it was told."""

from pathlib import Path

import pytest
import strict
from test_commands import load_script

import minigrad as mg

pytestmark = pytest.mark.device

DEMOS = sorted((Path(__file__).parents[2] / "demos").glob("*.py"))


@pytest.mark.parametrize("demo", DEMOS, ids=lambda path: path.stem)
def test_a_demo_runs_on_a_gpu(demo, tmp_path):
    device = mg.get_device().partition(":")[0]
    with strict.installed():
        strict.counts.reset()
        load_script(demo).main(["--quick", "--device", "gpu", "--out", str(tmp_path)])
        assert strict.counts.launches > 0
    mg.set_device(device)
    assert (tmp_path / "results.json").is_file()
