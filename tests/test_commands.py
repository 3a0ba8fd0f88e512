"""Every command that the README or a docstring prints is one that the program it names would take."""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import io
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import errors, settings

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = set(PYPROJECT["project"]["optional-dependencies"])
MARKS = {line.partition(":")[0] for line in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]}
README = (ROOT / "README.md").read_text("utf-8")
A_COMMAND = re.compile(r"(\.venv/bin/)?(python|pytest|pip install)( |$)")
WITHIN_A_LINE = re.compile(r"`((?:\.venv/bin/)?(?:python|pytest|pip install) [^`\n]+)`")


# ---- where commands are printed ---------------------------------------------------------------------------------


def sh_blocks(markdown):
    """The text of each block that is fenced as sh."""
    return re.findall(r"^```sh\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)


def section(markdown, heading):
    """What stands between a line `heading` and the next heading of the same rank."""
    _, _, rest = f"\n{markdown}".partition(f"\n{heading}\n")
    return rest.partition("\n## ")[0]


def commands_of_line(line):
    """`a && b` is two commands; a comment is none."""
    return [part.strip() for part in re.sub(r"(^|\s)#.*", "", line).split("&&") if part.strip()]


def commands_of_readme(markdown):
    """The commands in the sh blocks, where a line that ends in a backslash goes on in the next, and in `code`."""
    lines = "\n".join(sh_blocks(markdown)).replace("\\\n", " ").splitlines() + WITHIN_A_LINE.findall(markdown)
    return [command for line in lines for command in commands_of_line(line)]


def commands_of_docstrings(source):
    """The indented lines of a Python file's docstrings that look like commands, and what looks like one in `code`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = (ast.get_docstring(node, clean=False) or "").splitlines()
        margin = node.body[0].col_offset if lines else 0
        found += [line.strip() for line in lines if line[: margin + 1].isspace() and A_COMMAND.match(line.strip())]
        found += [command for line in lines for command in WITHIN_A_LINE.findall(line)]
    return [command for line in found for command in commands_of_line(line)]


def printed():
    """(where, command) of all that the project prints."""
    found = [("README.md", command) for command in commands_of_readme(README)]
    for pattern in ("demos/*.py", "demos/versus/*.py", "losses/**/*.py", "minigrad/**/*.py", "tests/conftest.py"):
        for file in sorted(ROOT.glob(pattern)):
            where = file.relative_to(ROOT).as_posix()
            found += [(where, command) for command in commands_of_docstrings(file.read_text("utf-8"))]
    return found


# ---- whether a command would be taken ---------------------------------------------------------------------------


def complaint(command, pytest_parser):
    """What is wrong with a command, for somebody who stands in the project's folder; None if nothing is."""
    program, *words = shlex.split(command)
    match [program.removeprefix(".venv/bin/"), *words]:
        case ["python3" | "python", "-m", "venv", folder] if not folder.startswith("-"):
            return None
        case ["pytest", *words] | ["python", "-m", "pytest", *words]:
            return complaint_of_pytest(words, pytest_parser)
        case ["pip", "install", *words] | ["python", "-m", "pip", "install", *words]:
            return complaint_of_pip(words)
        case ["python", "-m", "minigrad", *words]:
            return complaint_of_parser(importlib.import_module("minigrad.__main__").parser(), words)
        case ["python", "-m", "losses.check", *words]:
            return complaint_of_parser(importlib.import_module("losses.check").parser(), words)
        case ["python", "-m", "minigrad.advisor", *words]:
            advisor = importlib.import_module("minigrad.advisor").parser()
            if said := complaint_of_parser(advisor, words):
                return said
            watched = advisor.parse_args(words)
            return complaint(shlex.join(["python", str(watched.script), *watched.args]), pytest_parser)
        case ["python", script, *words] if script.endswith(".py"):
            if not (ROOT / script).is_file():
                return f"{script}: there is no such file"
            return complaint_of_parser(load_script(ROOT / script).parser(), words)
    return f"{command}: a program that this test doesn't know: teach this test"


def complaint_of_parser(parser, words):
    """What an argparse parser says on `words`, its last line; None if it takes them, or only prints its help."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parser.parse_args(words)
    except SystemExit as exit:
        return said.getvalue().splitlines()[-1] if exit.code else None
    return None


def complaint_of_pytest(words, pytest_parser):
    try:
        options, unknown = pytest_parser.parse_known_and_unknown_args(words)
    except pytest.UsageError as error:
        return str(error)
    if unknown:
        return f"pytest has no option {unknown[0]}"
    for path in options.file_or_dir:
        if not (ROOT / path.partition("::")[0]).exists():
            return f"{path}: there is no such file"
    for mark in set(re.findall(r"\w+", options.markexpr or "")) - {"and", "or", "not"} - MARKS:
        return f"{mark} is no mark of pyproject.toml"
    if profile := options.hypothesis_profile:
        try:
            settings.get_profile(profile)
        except errors.InvalidArgument as error:
            return str(error)
    return None


def complaint_of_pip(words):
    parser = argparse.ArgumentParser(prog="pip install")
    for option in ("-e", "--editable", "--index-url", "--extra-index-url"):
        parser.add_argument(option)
    parser.add_argument("-U", "--upgrade", action="store_true")
    parser.add_argument("packages", nargs="*", default=[])
    if said := complaint_of_parser(parser, words):
        return said
    options = parser.parse_args(words)
    for wanted in filter(None, [options.e, options.editable, *options.packages]):
        ours = re.fullmatch(r"(?:minigrad|\.)(?:\[([\w,-]+)\])?", wanted)
        if not ours:
            return f"pip install {wanted}: neither minigrad nor this folder: teach this test"
        for extra in set((ours[1] or "").split(",")) - {""} - EXTRAS:
            return f"{wanted}: {extra} is no extra of pyproject.toml"
    return None


def load_script(path):
    """The module that a script is; what it does to the environment and to sys.path, as it begins, is undone."""
    spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ), mock.patch.object(sys, "path", [str(ROOT / "demos"), *sys.path]):
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def pytest_parser(pytestconfig):
    return pytestconfig._parser  # private; but what else knows the options of all plugins?


# ---- the commands that are printed ------------------------------------------------------------------------------


@pytest.mark.parametrize("where, command", printed())
def test_every_command_that_is_printed_would_be_taken(where, command, pytest_parser):
    assert complaint(command, pytest_parser) is None


def test_commands_are_found_in_the_readme_and_beside_demos_chapters_and_tests():
    found = {where for where, _ in printed()}
    assert found >= {"README.md", "demos/wordemb-negative-sampling.py", "losses/check.py", "tests/conftest.py"}


@pytest.mark.parametrize("heading, extra, last", [("## Run it", "demos", "demos/"), ("## Test it", "test", "pytest")])
def test_setting_up_is_one_line_alone_in_its_block(heading, extra, last):
    (line,) = sh_blocks(section(README, heading))[0].splitlines()
    make, install, run = commands_of_line(line)
    assert make.startswith("python3 -m venv ")
    assert install.endswith(f"pip install -e '.[{extra}]'")
    assert last in run


def test_every_mark_that_the_readme_names_is_one():
    named = re.findall(r"`-m (\w+)`", README)
    assert named and set(named) <= MARKS


# ---- the collectors ---------------------------------------------------------------------------------------------

MADE_UP_README = """\
# A project

## Run it

```sh
python3 -m venv .venv && .venv/bin/pip install .
```

```sh
python a.py \\
    --flag  # why
# nothing but a comment
```

```python
import this
```

## Test it

```sh
pytest
```

Or `.venv/bin/python -m pytest`; but `python` alone and `pytest` are names.

### In depth

```sh
pytest -q
```

## Else
"""


def test_the_commands_of_a_readme_are_the_lines_of_its_sh_blocks():
    assert commands_of_readme(MADE_UP_README) == [
        "python3 -m venv .venv",
        ".venv/bin/pip install .",
        "python a.py      --flag",
        "pytest",
        "pytest -q",
        ".venv/bin/python -m pytest",
    ]


def test_a_section_ends_at_the_next_of_its_rank():
    assert sh_blocks(section(MADE_UP_README, "## Test it")) == ["pytest\n", "pytest -q\n"]
    assert section(MADE_UP_README, "## Not there") == ""


def test_the_commands_of_a_docstring_are_indented_lines_that_begin_as_one():
    source = '''
"""How to run it.

    python demos/a.py --flag && pytest

python is also a snake, pytest a word, `pip install .` a command.
    pythons, though indented, are no command
"""

class A:
    def f(self):
        """Do it.

            .venv/bin/python -m minigrad
            pip install 'minigrad[demos]'
            pytest
        """
        "    python not-a-docstring.py"
'''
    assert commands_of_docstrings(source) == [
        "python demos/a.py --flag",
        "pytest",
        "pip install .",
        ".venv/bin/python -m minigrad",
        "pip install 'minigrad[demos]'",
        "pytest",
    ]


# ---- sabotage: commands that would fail are caught --------------------------------------------------------------


@pytest.mark.parametrize(
    "command, said",
    [
        ("python demos/wordemb-negative-sampling.py --bogus", "unrecognized arguments: --bogus"),
        ("python demos/wordemb-negative-sampling.py --how by-magic", "invalid choice: 'by-magic'"),
        ("python demos/wordemb-negative-sampling.py --epochs", "expected one argument"),
        ("python demos/not-there.py --quick", "demos/not-there.py: there is no such file"),
        ("python -m losses.check poetry mine.py", "invalid choice: 'poetry'"),
        ("python -m minigrad.advisor", "arguments are required: script"),
        ("python -m minigrad.advisor demos/slow-impl.py --bogus", "unrecognized arguments: --bogus"),
        ("python -m minigrad.advisor demos/not-there.py", "demos/not-there.py: there is no such file"),
        ("python -m losses.check", "arguments are required: chapter"),
        (".venv/bin/python -m minigrad --xml", "unrecognized arguments: --xml"),
        ("pytest -m poetry", "poetry is no mark"),
        ("pytest -m 'engine and not poetry'", "poetry is no mark"),
        ("pytest --bogus", "pytest has no option --bogus"),
        ("pytest --tb=poetry", "invalid choice: 'poetry'"),
        ("python -m pytest tests/not_there.py", "tests/not_there.py: there is no such file"),
        ("python -m pytest --hypothesis-profile poetry", "poetry"),
        ("pip install 'minigrad[poetry]'", "poetry is no extra"),
        (".venv/bin/pip install -e '.[demos,poetry]'", "poetry is no extra"),
        ("pip install --bogus .", "unrecognized arguments: --bogus"),
        ("pip install poetry", "teach this test"),
        ("python3 -m venv", "teach this test"),
        ("python -m poetry", "teach this test"),
        ("$ pytest", "teach this test"),
        ("make", "teach this test"),
    ],
)
def test_a_command_that_would_fail_is_caught(command, said, pytest_parser):
    assert said in complaint(command, pytest_parser)


@pytest.mark.parametrize(
    "command",
    [
        "python3 -m venv .venv",
        ".venv/bin/pip install -e '.[demos,test]'",
        "pip install 'minigrad[demos]' --extra-index-url https://download.pytorch.org/whl/cpu",
        ".venv/bin/python demos/wordemb-negative-sampling.py --help",
        "python -m losses.check negative mine.py",
        "python -m minigrad.advisor --least 9 demos/slow-impl.py --quick",
        "pytest tests/minigrad/test_tape.py::test_a_diamond_adds_both_ways -x -q",
        "python -m pytest -m 'engine and not oracle' --hypothesis-profile thorough tests",
    ],
)
def test_a_command_that_would_work_is_taken(command, pytest_parser):
    assert complaint(command, pytest_parser) is None
