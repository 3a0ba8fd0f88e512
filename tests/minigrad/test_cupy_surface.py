"""Everything that this project asks of CuPy is there: each name, keyword and number of arguments, by the snapshot.

NumPy has more than CuPy, so that code which runs on NumPy says little of a GPU. `cupy_api.json` is what CuPy has, made
by `snapshot_cupy.py`; `cupy_names.py` reads the sources. Where CuPy is installed, the snapshot is compared with it.
"""

import json
from pathlib import Path

import pytest
import snapshot_cupy
from cupy_names import API, asked, faults

pytestmark = [pytest.mark.device, pytest.mark.cpu]

ROOT = Path(__file__).parents[2]
SOURCES = [
    file for folder in ("minigrad", "losses", "parallel", "demos") for file in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_cupy_has_what_a_file_asks_of_it(file):
    assert faults(file.read_text("utf-8")) == []


def test_the_sources_ask_cupy_for_what_they_are_known_to_use():
    names = set().union(*(asked(file.read_text("utf-8")) for file in SOURCES))
    expected = (
        "cupy.exp cupy.add.at cupy.matmul cupy.zeros cupy.RawKernel cupy.cuda.Device cupy.cuda.Device.synchronize"
    )
    assert names >= {*expected.split(), "cupy.cuda.runtime.getDeviceCount", "cupy.tanh", "cupy.ndarray.sum"}


@pytest.mark.parametrize(
    "code, says",
    [
        ("with xp.errstate(all='ignore'): pass", "cupy has no errstate"),
        ("y = xp_of(a).vecdot(a, b)", "cupy has no vecdot"),
        ("y = backend.xp().spacing(a)", "cupy has no spacing"),
        ("def f():\n    import cupy\n    cupy.insert(a, 0, 1)", "cupy has no insert"),
        ("from cupy import matvec", "cupy has no matvec"),
        ("import cupy as cp\ncp.vecmat(a, b)", "cupy has no vecmat"),
        ("f = getattr(xp_of(a), 'spacing')", "cupy has no spacing"),
        ("f = elementwise('spacing')", "cupy has no spacing"),
        ("y = self.xp.errstate", "cupy has no errstate"),
        ("xp.sum(a, where=a > 0)", "cupy.sum takes no where="),
        ("xp.max(a, initial=0.0)", "cupy.max takes no initial="),
        ("xp.take(a, i, mode='clip')", "cupy.take takes no mode="),
        ("xp.zeros(3, device='cpu')", "cupy.zeros takes no device="),
        ("xp.exp(a, where=a > 0)", "cupy.exp takes no where="),
        ("xp.add(a, b, order='C')", "cupy.add takes no order="),
        ("xp.exp(a, b, c)", "cupy.exp takes 1 to 2 arguments by place, not 3"),
        ("xp.cumsum(a, 0, None, None, True)", "cupy.cumsum takes 0 to 4 arguments by place, not 5"),
        ("xp.asarray(a).sum(where=m)", "cupy.ndarray.sum takes no where="),
        ("y = xp.zeros(3)\ny.setflags(write=False)", "cupy.ndarray has no setflags"),
        ("a.sum(axis=1, where=m)", "cupy.ndarray.sum takes no where="),
        ("a.max(initial=0)", "cupy.ndarray.max takes no initial="),
        ("a.take(i, axis=0, mode='clip')", "cupy.ndarray.take takes no mode="),
        ("xp.maximum.reduce(a, axis=1)", "cupy.maximum has no reduce"),
        ("xp.maximum.accumulate(a)", "cupy.maximum has no accumulate"),
        ("xp.multiply.at(a, i, b)", "cupy.multiply has no at"),
        ("xp.subtract.at(a, i, b)", "cupy.subtract has at only for integers"),
        ("xp.add.inner(a, i, b)", "cupy.add has no inner"),
        ("xp.maximum(a)", "cupy.maximum takes 2 to 3 arguments by place, not 1"),
        ("xp.add.reduce(a, where=m)", "cupy.add.reduce takes no where="),
        ("xp.random.default_rng(0).choice(5)", "cupy.random.Generator has no choice"),
        ("rng = xp.random.default_rng(0)\nrng.normal(size=3)", "cupy.random.Generator has no normal"),
        ("xp.random.default_rng(0).random(3, order='C')", "cupy.random.Generator.random takes no order="),
        ("xp.linalg.vecdot(a, b)", "cupy.linalg has no vecdot"),
        ("xp.linalg.norm(a, where=m)", "cupy.linalg.norm takes no where="),
        ("xp.fft.fft(a)", "what cupy.fft has is not written down"),
        ("with cupy.cuda.Stream(non_block=True) as s: pass", "cupy.cuda.Stream takes no non_block="),
        ("with cupy.cuda.Stream() as s:\n    s.wait(e)", "cupy.cuda.Stream has no wait"),
        ("xp, y = xp_of(a), xp_of(a).zeros(3)\ny.itemset(1)", "cupy.ndarray has no itemset"),
        ("import cupyx.profiler\ncupyx.profiler.benchmark(f, warm_up=3)", "cupyx.profiler.benchmark takes no warm_up="),
    ],
)
def test_what_cupy_lacks_is_seen(code, says):
    assert [says in found for found in faults(code)] == [True]


@pytest.mark.parametrize(
    "code",
    [
        "y = xp.exp(a, out=a).sum(axis=1, keepdims=True)",
        "xp.einsum('bd,bkd->bk', a, b, optimize=True)",
        "xp.add.at(y, i, g); xp.add.reduce(a, axis=0); xp.multiply.accumulate(a)",
        "xp.random.default_rng(0).random(3)",
        "words.sort(key=len, reverse=True); found.get(name, default=1)",
        "import numpy as np\nnp.sum(a, where=m); np.abs(a).max(initial=0.0); np.errstate(all='ignore')",
        "def f(y):\n    return y.itemset\ny = xp.zeros(3)",
        "y = xp.zeros(3)\ny = other()\ny.itemset(1)",
        "xp.matmul(a, b, out=c); xp.reshape(a, (2, 3)); a.reshape(2, 3); xp.transpose(a, (1, 0))",
        "with cupy.cuda.Device(1):\n    cupy.asarray(host)",
        "xp.float32, xp.newaxis, xp.inf, xp.add.nin",
    ],
)
def test_what_cupy_has_is_no_fault(code):
    assert faults(code) == []


def test_the_snapshot_is_sorted_with_a_line_for_each_name():
    text = snapshot_cupy.FILE.read_text("utf-8")
    assert text == snapshot_cupy.as_text(API) == snapshot_cupy.as_text(json.loads(text))


@pytest.mark.gpucheck
def test_the_snapshot_is_what_cupy_offers():
    pytest.importorskip("cupy", exc_type=ImportError)
    now = snapshot_cupy.surface()
    assert now["version"] == API["version"], "another CuPy than the snapshot's: run tests/minigrad/snapshot_cupy.py"
    assert {owner: names for owner, names in now.items() if names != API[owner]} == {}
