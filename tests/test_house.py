"""The rules of the house that a machine can check: who imports whom, what is loaded when, what no file may hold."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {  # of our own; everything else that is ours lies the other way
    "minigrad": {"minigrad"},
    "losses": {"minigrad", "losses"},
    "parallel": {"minigrad", "parallel"},
    "demos": {"minigrad", "losses", "parallel", "_shared"},
}
OURS = {"minigrad", "losses", "parallel", "demos", "_shared", "tests"}
NUMPY_MAY_BE_NAMED_IN = {
    "minigrad/backend.py",
    "minigrad/kernels.py",
    "minigrad/__main__.py",
    "minigrad/storage.py",
    "losses/kernels.py",
    "losses/structured/kernels.py",
}
HEAVY = {"numba", "cupy", "hypothesis", "matplotlib"}  # only imported where they are used
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal"}
ONE_MACHINE = re.compile(r"(?<![\w.~])/(?:home|root|work|tmp)/[a-z]", re.IGNORECASE)


def sources(*folders):
    """(path from the root, text) of each Python file in these folders."""
    files = (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))
    return [(file.relative_to(ROOT).as_posix(), file.read_text("utf-8")) for file in files]


def imported(tree, into=lambda node: True):
    """The first names of all modules that a piece of code imports; `from . import x` is its own package's business.

    into(node): whether to look at what is inside a node.
    """
    names, nodes = set(), [tree]
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
        elif into(node):
            nodes += ast.iter_child_nodes(node)
    return names


def imported_at_once(tree):
    """As `imported`, of what runs when the file itself is imported: all but the insides of functions."""
    return imported(tree, into=lambda node: not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def faults(path, text):
    """What breaks a rule of the house in a Python file at `path`, in words."""
    tree, part = ast.parse(text), path.partition("/")[0]
    names = imported(tree)
    for name in names & OURS - MAY_IMPORT[part]:
        yield f"{part} must not import {name}"
    for name in names & PICKLES:
        yield f"{name} is imported: data from strangers could run code"
    if part != "demos":
        if "numpy" in names and path not in NUMPY_MAY_BE_NAMED_IN and not path.startswith("losses/suites/"):
            yield "numpy is named where an array of a GPU can come: ask `xp_of` instead"
        for name in imported_at_once(tree) & HEAVY:
            yield f"{name} is imported at the top, not in the function that needs it"
        if (lines := len(text.splitlines())) > 400:
            yield f"{lines} lines are more than 400: that is two ideas"
    if not ast.get_docstring(tree):
        yield "there is no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield f"line {node.lineno}: a star import"
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("exec", "eval"):
            yield f"line {node.lineno}: {node.func.id} is called"


@pytest.mark.parametrize(
    "path, text", [pytest.param(*source, id=source[0]) for source in sources("minigrad", "losses", "parallel", "demos")]
)
def test_every_file_keeps_the_rules(path, text):
    assert list(faults(path, text)) == []


@pytest.mark.parametrize(
    "path, text, fault",
    [
        ("minigrad/a.py", "import losses.layer", "minigrad must not import losses"),
        ("minigrad/a.py", "def f():\n    from parallel import spawn", "minigrad must not import parallel"),
        ("losses/a.py", "from demos import x", "losses must not import demos"),
        ("losses/a.py", "import _shared", "losses must not import _shared"),
        ("losses/a.py", "import parallel", "losses must not import parallel"),
        ("parallel/a.py", "import losses", "parallel must not import losses"),
        ("demos/a.py", "import tests", "demos must not import tests"),
        ("losses/sampled/a.py", "import numpy as np", "numpy is named where"),
        ("minigrad/rules.py", "def f():\n    from numpy import linalg", "numpy is named where"),
        ("minigrad/a.py", "import numba", "numba is imported at the top"),
        ("losses/a.py", "try:\n    import cupy\nexcept ImportError:\n    pass", "cupy is imported at the top"),
        ("losses/suites/a.py", "class A:\n    from hypothesis import given", "hypothesis is imported at the top"),
        ("minigrad/a.py", "import matplotlib.pyplot", "matplotlib is imported at the top"),
        ("minigrad/a.py", "x = 1\n" * 400, "lines are more than 400"),
        ("demos/a.py", "", "there is no docstring"),
        ("demos/a.py", "from math import *", "a star import"),
        ("demos/a.py", "eval('1')", "eval is called"),
        ("losses/a.py", "def f():\n    exec('1')", "exec is called"),
        ("minigrad/a.py", "def f():\n    import pickle", "pickle is imported"),
    ],
)
def test_a_broken_rule_is_seen(path, text, fault):
    docstring = "" if "docstring" in fault else '"""Why?"""\n'
    assert [fault in found for found in faults(path, docstring + text)] == [True]


@pytest.mark.parametrize(
    "path, text",
    [
        ("minigrad/check.py", "def f():\n    from hypothesis.extra import numpy as hnp"),
        ("minigrad/kernels.py", "import numpy as np\ndef f():\n    import numba"),
        ("losses/suites/a.py", "import numpy as np"),
        ("losses/sampled/a.py", "from ..layer import OutputLayer\nfrom . import numpy"),
        ("demos/a.py", "import numpy, matplotlib, losses, minigrad, _shared.flags"),
        ("losses/a.py", "x = 1\n" * 399),
        ("losses/a.py", "spec.loader.exec_module(module)\nre.compile('x')"),
    ],
)
def test_what_the_rules_allow_is_allowed(path, text):
    assert list(faults(path, '"""Why?"""\n' + text)) == []


@pytest.mark.parametrize("package", ["minigrad", "losses"])
def test_importing_a_part_loads_nothing_heavy(package):
    code = f"import sys, {package}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {package, "numpy"} <= loaded
    assert not loaded & HEAVY


def test_no_file_knows_a_path_of_one_machine():
    git = shutil.which("git") or pytest.skip("no git to say which files are ours")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a checkout of git: which files are ours?")
    found = []
    for name in listed.stdout.decode().split("\0"):
        if not (ROOT / name).is_file() or b"\0" in (ROOT / name).read_bytes():
            continue  # deleted just now, or no text
        lines = enumerate((ROOT / name).read_text("utf-8").splitlines(), start=1)
        found += [f"{name}:{number}: {line.strip()}" for number, line in lines if ONE_MACHINE.search(line)]
    assert found == []


def test_a_path_of_one_machine_is_told_from_an_address():
    for folder in ("home", "root", "work", "tmp"):
        assert ONE_MACHINE.search(f'open("/{folder}/anna/text.txt")')
    assert ONE_MACHINE.search("file:///" + "home/anna")
    assert not ONE_MACHINE.search("https://example.org/work/anna, ~/work/anna, demos/tmp/anna")
