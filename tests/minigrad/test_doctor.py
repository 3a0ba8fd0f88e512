"""`python -m minigrad` says what there is, says what is missing, and never fails for want of it."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from minigrad.__main__ import NEEDS, facts, main

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]


def run(*command, **environment):
    command = [sys.executable, *command]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def without(monkeypatch):
    """without("rich", …): as if these packages were not installed."""
    true_version, true_find_spec = importlib.metadata.version, importlib.util.find_spec

    def hide(*packages):
        def version(name):
            if name in packages:
                raise importlib.metadata.PackageNotFoundError(name)
            return true_version(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name not in packages and true_find_spec(name))

    return hide


@pytest.fixture
def fake_cupy(monkeypatch):
    """fake_cupy(is_available, "NVIDIA H200", …): a CuPy with these GPUs."""

    def install(is_available, *names):
        module = ModuleType("cupy")
        module.__spec__, module.__version__ = ModuleSpec("cupy", None), "14.0.1"
        module.is_available = is_available
        runtime = SimpleNamespace(
            getDeviceCount=lambda: len(names), getDeviceProperties=lambda i: {"name": names[i].encode()}
        )
        module.cuda = SimpleNamespace(runtime=runtime)
        monkeypatch.setitem(sys.modules, "cupy", module)

    return install


# ---- the command ------------------------------------------------------------------------------------------------


def test_it_runs_and_names_the_versions_of_python_and_numpy():
    done = run("-m", "minigrad")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert ["NumPy", np.__version__] in lines
    assert any(label == "Python" and says.startswith(platform.python_version()) for label, says in lines)


def test_the_text_is_two_aligned_columns_under_three_headings(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == ["This machine", "Extras", "What will run"]
    rows = [line for line in lines if line.startswith("  ")]
    column = max(len(label) for section in facts().values() for label in section) + 4
    assert all(row[column - 2 : column] == "  " and row[column] != " " for row in rows)


def test_the_json_has_the_facts_of_the_text(capsys):
    main(["--json"])
    told = json.loads(capsys.readouterr().out)
    main([])
    rows = [line.split("  ", 2)[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [[label, says.strip()] for label, says in rows] == [
        [label, says.strip()] for section in told.values() for label, says in section.items()
    ]


def test_no_package_is_imported_to_learn_its_version():
    code = "import sys; from minigrad.__main__ import main; main([]); print(*sys.modules, file=sys.stderr)"
    loaded = set(run("-c", code).stderr.split())
    assert "numpy" in loaded
    assert not loaded & {"torch", "gensim", "matplotlib", "rich", "sklearn", "hypothesis", "pytest"}


# ---- what is missing --------------------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_what_it_keeps_from_running(without):
    without("rich", "torch", "gensim", "scipy", "mpmath")
    told = facts()
    assert told["What will run"]["demos"] == "no, for want of rich: pip install -e '.[demos]'"
    assert told["What will run"]["tests"] == "no, for want of rich: pip install -e '.[test]'"
    oracles = "skipped, where they need torch, gensim, scipy, mpmath: pip install -e '.[oracles]'"
    assert told["What will run"]["oracle tests"] == oracles
    assert told["What will run"]["minigrad, losses"] == "yes"


def test_each_extra_tells_the_version_of_what_is_there_and_what_is_not(monkeypatch):
    there = {"minigrad": "0.1.0", "rich": "15.0.0", "pytest": "9.2.0"}
    requires = ["numpy>=2.0", 'rich>=13; extra == "demos"', "matplotlib>=3.8 ; extra == 'demos'"]
    requires += ['minigrad[demos,dev]; extra == "test"', 'pytest>=8; extra == "test"']
    requires += ["cupy-cuda12x[ctk]<16,>=14; sys_platform != \"darwin\" and extra == 'cuda12'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)

    def version(name):
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert facts()["Extras"] == {
        "demos": "rich 15.0.0, matplotlib not installed",
        "test": "all of demos, dev, pytest 9.2.0",
        "cuda12": "cupy-cuda12x not installed",
    }


def test_a_minigrad_that_runs_from_its_folder_says_that_it_is_not_installed(without):
    without("minigrad")
    assert "not installed as a package" in facts()["Extras"]["not known"]
    assert facts()["What will run"]["minigrad, losses"] == "yes"


def test_what_it_says_is_needed_is_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    def names(requirements):
        return {name for line in requirements if not (name := line.split(">")[0].split("=")[0]).startswith("minigrad")}

    extras = {extra: names(lines) for extra, lines in project["optional-dependencies"].items()}
    needs = {what: set(packages.split()) for what, (packages, _) in NEEDS.items()}
    assert needs["minigrad, losses"] == names(project["dependencies"])
    assert needs["demos"] == extras["demos"]
    assert needs["tests"] == extras["demos"] | extras["test"]
    assert needs["losses.check"] < extras["test"]
    assert needs["oracle tests"] == extras["oracles"]
    assert needs["gpucheck tests"] == extras["gpucheck"]


# ---- BLAS and Numba ---------------------------------------------------------------------------------------------


def test_without_threadpoolctl_the_threads_are_what_the_environment_allows(without, monkeypatch):
    without("threadpoolctl")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert facts()["This machine"]["BLAS threads"].startswith("not known")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert facts()["This machine"]["BLAS threads"] == "OMP_NUM_THREADS=3"


def test_threadpoolctl_counts_the_threads_of_blas():
    pytest.importorskip("threadpoolctl")
    done = run("-m", "minigrad", "--json", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    says = json.loads(done.stdout)["This machine"]["BLAS threads"]
    assert says == "1" or says.startswith("not known")


def test_it_says_where_compiled_code_is_kept(tmp_path):
    done = run("-m", "minigrad", "--json", NUMBA_CACHE_DIR=str(tmp_path))
    assert json.loads(done.stdout)["This machine"]["compiled code"].startswith(f"kept in {tmp_path}")


def test_it_compiles_nothing(tmp_path):
    run("-m", "minigrad", NUMBA_CACHE_DIR=str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_it_says_when_kernels_are_not_compiled_at_all():
    done = run("-m", "minigrad", "--json", NUMBA_DISABLE_JIT="1")
    assert json.loads(done.stdout)["This machine"]["compiled code"] == "none: NUMBA_DISABLE_JIT is set"


def test_a_machine_where_compiled_code_cannot_be_kept_says_so(monkeypatch):
    import numba

    def njit(cache):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba, "njit", njit)
    assert facts()["This machine"]["compiled code"].startswith("not kept: RuntimeError('cannot cache function")


def test_a_numba_that_cannot_be_imported_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # what import then raises is an ImportError
    assert facts()["This machine"]["compiled code"].startswith("not kept: ModuleNotFoundError")


def test_without_numba_the_library_is_said_not_to_run(without):
    without("numba")
    told = facts()
    assert told["This machine"]["Numba"] == "not installed"
    assert told["This machine"]["compiled code"] == "none without Numba"
    assert told["What will run"]["minigrad, losses"] == "no, for want of numba: pip install -e '.'"


# ---- CuPy -------------------------------------------------------------------------------------------------------


def test_without_cupy_there_is_no_device_gpu(without):
    without("cupy")
    told = facts()
    assert told["This machine"]["CuPy"] == "not installed"
    assert told["What will run"]["--device gpu"].startswith("no, for want of CuPy and a CUDA GPU: pip install")


def test_a_cupy_without_a_gpu_is_reported(fake_cupy):
    fake_cupy(lambda: False)
    assert facts()["This machine"]["CuPy"] == "14.0.1, finds no GPU"
    assert facts()["What will run"]["--device gpu"].startswith("no")


def test_each_gpu_is_named(fake_cupy):
    fake_cupy(lambda: True, "NVIDIA H200", "NVIDIA L4")
    assert facts()["This machine"]["CuPy"] == "14.0.1, gpu:0 NVIDIA H200, gpu:1 NVIDIA L4"
    assert facts()["What will run"]["--device gpu"] == "yes"


def test_a_driver_that_fails_is_reported_not_raised(fake_cupy):
    def is_available():
        raise OSError("libcuda.so.1:\ncannot open shared object file")

    fake_cupy(is_available)
    says = facts()["This machine"]["CuPy"]
    assert says == r"installed, but it fails: OSError('libcuda.so.1:\ncannot open shared object file')"
    assert facts()["What will run"]["--device gpu"].startswith("no")


def test_a_cupy_that_cannot_be_imported_is_reported_not_raised(tmp_path, monkeypatch):
    (tmp_path / "cupy.py").write_text("raise ImportError('built for another CUDA')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    assert facts()["This machine"]["CuPy"] == "installed, but it fails: ImportError('built for another CUDA')"
