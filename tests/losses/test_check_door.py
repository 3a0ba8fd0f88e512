"""The reader's door, `python -m losses.check`: what it says of a right file, of a wrong one, and of none at all."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from losses import check
from losses.structured.error_correcting import viterbi as sound
from losses.suites.negative import CHAPTER

pytestmark = [pytest.mark.negative, pytest.mark.cpu]

RIGHT = """
import numpy as np


def softplus(s):
    return np.maximum(s, 0) + np.log1p(np.exp(-np.abs(s)))


def σ(s):
    return np.exp(-softplus(-s))


def negative_sampling(target_scores, noise_scores, *, k=None):
    weight = 1.0 if k is None else k / noise_scores.shape[1]
    loss = softplus(-target_scores) + weight * softplus(noise_scores).sum(axis=1)
    return loss, -σ(-target_scores), weight * σ(noise_scores)
"""


@pytest.fixture
def door(tmp_path, capsys):
    """door(text, *options) -> exit status, lines of stdout, lines of stderr, for a file with this text."""

    def run(text, *options, name="mine.py"):
        mine = tmp_path / name
        if text is not None:
            mine.write_text(text, encoding="utf-8")
        status = check.main(["negative", str(mine), "--examples", "30", *options])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


# ---- all holds ----------------------------------------------------------------------------------------------------


def test_a_right_file_gets_a_tick_for_each_lesson(door):
    status, out, err = door(RIGHT)
    assert status == 0 and err == []
    assert out[0] == CHAPTER.signature and out[1].endswith("mine.py:")
    assert out[2:] == [f"  ✓  {lesson.step} {lesson.name}" for lesson in CHAPTER.lessons]


def test_of_numbers_that_overflow_there_is_an_answer_and_no_warning(recwarn):
    def viterbi(bit_scores, *, memory, num_words=None):
        return sound(np.log(np.exp(bit_scores)), memory=memory, num_words=num_words)

    told = []
    far = [lesson for lesson in check.CHAPTERS["error-correcting"].lessons if "far" in lesson.name]
    chapter = dataclasses.replace(check.CHAPTERS["error-correcting"], lessons=tuple(far))
    assert not check.check(chapter, viterbi, 30, told.append)
    assert any("(4)" in line for line in told) and not recwarn.list


def test_without_a_file_the_projects_own_function_is_checked(capsys):
    assert check.main(["negative", "--examples", "30"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == [CHAPTER.signature, "losses.sampled.negative:"]
    assert len(out) == 2 + len(CHAPTER.lessons) and all("✓" in line for line in out[2:])


def test_a_function_without_k_is_let_off_with_a_line(door):
    status, out, _ = door(
        RIGHT.replace(", *, k=None", "").replace("1.0 if k is None else k / noise_scores.shape[1]", "1.0")
    )
    assert status == 0
    assert out[-1] == "  –  (7) shared noise counts as k words: not run, your function takes no k="
    assert len(out) == 2 + len(CHAPTER.lessons)


def test_a_function_that_takes_any_option_is_asked_for_k(door):
    ignoring = RIGHT.replace("*, k=None", "**options").replace("weight = 1.0 if k is None else k /", "weight = 1.0 #")
    status, out, _ = door(ignoring)
    assert status == 1 and any("✗  (7)" in line for line in out)


# ---- something does not hold ----------------------------------------------------------------------------------------


def test_a_wrong_file_gets_the_smallest_example_the_step_and_the_lesson(door):
    status, out, err = door(RIGHT.replace("softplus(noise_scores).sum(axis=1)", "softplus(noise_scores).mean(axis=1)"))
    assert status == 1 and err == []
    assert out[2:] == [
        "  ✓  (1) one loss an example",
        "  ✗  (1) the loss is the sum of −log σ",
        "",
        "The smallest example that shows it:",
        "    target = [0.0]",
        "    noise = [[0.0, 0.0]]",
        "    the loss is [1.3862943611198906], expected [2.0794415416798357]",
        "",
        "The step it breaks: (1) of losses.sampled.negative",
        " ".join(CHAPTER.lessons[1].lesson.split()),
        "",
        f"With it breaks: {'; '.join(f'{CHAPTER.lessons[i].step} {CHAPTER.lessons[i].name}' for i in (2, 7, 9))}",
    ]


def test_k_ignored_is_found_with_two_columns_that_stand_for_one_word(door):
    status, out, _ = door(RIGHT.replace("weight = 1.0 if k is None else k /", "weight = 1.0  #"))
    assert status == 1
    at = out.index("  ✗  (7) shared noise counts as k words")
    assert out[at + 3 : at + 6] == ["    target = [0.0]", "    noise = [[0.0, 0.0]]", "    k = 1"]


def test_the_first_thing_that_does_not_hold_is_told_in_full_and_the_others_by_name(door):
    _, out, _ = door(RIGHT.replace("return loss, -σ(-target_scores), ", "return loss, σ(target_scores), "))
    assert [line[2] for line in out if line[2:3] in ("✓", "✗")] == ["✓"] * 4 + ["✗"]
    assert "  ✗  (3) the target's gradient is σ(s_t) − 1" in out
    assert "The step it breaks: (3) of losses.sampled.negative" in out


# ---- a function that breaks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, said",
    [
        ("return target_scores", "not enough values to unpack"),
        ("return target_scores, target_scores, noise_scores, 1", "too many values to unpack"),
        ("pass", "cannot unpack non-iterable NoneType object"),
        ("return 1.0, 2.0, 3.0", "loss has shape (), expected (1,)"),
        ("raise ValueError('two\\nlines')", "line 3 raised ValueError('two\\nlines')"),
        ("return no_such_name", "line 3 raised NameError"),
        ("assert target_scores.ndim == 2, 'two axes wanted'", "two axes wanted"),
        ("assert target_scores.ndim == 2", "line 3 raised AssertionError()"),
    ],
)
def test_a_function_that_breaks_is_a_failure_and_no_traceback(door, body, said):
    status, out, err = door(f"\ndef negative_sampling(target_scores, noise_scores, *, k=None):\n    {body}\n")
    assert status == 1 and err == []
    assert "  ✗  (1) one loss an example" in out and "    target = [0.0]" in out
    assert any(said in line for line in out)


def test_a_function_with_too_few_arguments_is_a_failure_and_no_traceback(door):
    status, out, _ = door("def negative_sampling(target_scores):\n    return target_scores\n")
    assert status == 1
    assert any("TypeError" in line and "takes 1 positional argument but 2 were given" in line for line in out)


@pytest.mark.parametrize(
    "kind",
    ["functools.partial(f)", "type('Version', (), {'__call__': lambda self, *scores, k=None: f(*scores)})()"],
    ids=["a partial", "an object"],
)
def test_a_callable_that_is_no_function_and_breaks_is_a_failure_too(door, kind):
    status, out, _ = door(f"import functools\ndef f(*scores, k=None):\n    return 1 / 0\nnegative_sampling = {kind}\n")
    assert status == 1
    assert any("ZeroDivisionError" in line for line in out)


def test_a_function_that_writes_into_its_scores_is_shown_the_scores_it_was_given(door):
    clears = RIGHT.replace("    weight =", "    noise_scores += 1.0\n    weight =")
    status, out, _ = door(clears)
    assert status == 1
    assert out[out.index("The smallest example that shows it:") + 2] == "    noise = [[0.0]]"


# ---- it is about PyTorch's tensors --------------------------------------------------------------------------------

TORCH = """
import torch


def negative_sampling(target_scores, noise_scores):
    target, noise = TAKEN
    loss = torch.nn.functional.softplus(-target) + torch.nn.functional.softplus(noise).sum(dim=1)
    return loss, torch.sigmoid(target) - 1, torch.sigmoid(noise)
"""
WANTED = "the function is given NumPy's arrays, and must return arrays, or tensors of minigrad"


@pytest.mark.oracle
@pytest.mark.parametrize(
    "taken, said",
    [
        ("target_scores, noise_scores", "must be Tensor, not numpy.ndarray"),
        ("torch.as_tensor(target_scores), torch.as_tensor(noise_scores)", "it returned tensors of PyTorch"),
    ],
    ids=["does not read arrays", "returns tensors"],
)
def test_a_function_of_pytorch_is_told_that_arrays_are_wanted(door, taken, said):
    pytest.importorskip("torch")
    status, out, err = door(TORCH.replace("TAKEN", taken))
    assert status == 2 and len(err) == 1 and WANTED in err[0] and said in err[0]
    assert not any("✗" in line for line in out)


@pytest.mark.oracle
def test_a_function_of_pytorch_that_takes_and_returns_arrays_passes(door):
    pytest.importorskip("torch")
    takes = TORCH.replace("TAKEN", "torch.as_tensor(target_scores), torch.as_tensor(noise_scores)")
    takes = takes.replace("return loss, torch", "return loss.numpy(), torch").replace("- 1,", "- 1).numpy(),")
    takes = takes.replace("torch.sigmoid(target)", "(torch.sigmoid(target)").replace("(noise)\n", "(noise).numpy()\n")
    assert door(takes)[0] == 0


# ---- it cannot be run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, name, said",
    [
        (None, "mine.py", "mine.py: there is no such file"),
        (RIGHT, "mine.txt", "mine.txt: expected a Python file, with the ending .py"),
        ("def my_version():\n    pass\n", "mine.py", f"expected a function {CHAPTER.signature}; there is none of that"),
        ("negative_sampling = 3\n", "mine.py", f"expected a function {CHAPTER.signature}; there is none of that name"),
        (
            "import no_such_module\n",
            "mine.py",
            "running it raised ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("1 / 0\n", "mine.py", "running it raised ZeroDivisionError: division by zero"),
        ("def negative_sampling(:\n", "mine.py", "running it raised SyntaxError"),
        ("negative_sampling = dict\n", "mine.py", "what it takes cannot be seen"),
        ("import sys\nsys.exit(0)\n", "mine.py", "running it raised SystemExit: 0"),
    ],
    ids=["missing", "not .py", "no function", "no callable", "import", "error", "syntax", "no signature", "exits"],
)
def test_what_cannot_be_checked_is_one_line_on_stderr_and_status_2(door, text, name, said):
    status, _, err = door(text, name=name)
    assert status == 2
    assert len(err) == 1 and err[0].startswith("losses.check: ") and said in err[0]


def test_a_function_that_exits_has_not_passed(door):
    exits = "import sys\ndef negative_sampling(target_scores, noise_scores, *, k=None):\n    sys.exit(0)\n"
    assert door(exits)[0] == 1


def test_a_folder_is_no_file(tmp_path, capsys):
    assert check.main(["negative", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("there is no such file\n")


def test_a_file_may_hold_a_dataclass(door):
    """While it runs it is in sys.modules, where dataclasses look for it."""
    text = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
    assert door(text + RIGHT)[0] == 0


@pytest.mark.parametrize(
    "argv, said",
    [
        (["negative", "--examples", "0"], "--examples must be 1 or more, got 0"),
        (["negative", "--examples", "many"], "invalid int value: 'many'"),
        (["positive"], "invalid choice: 'positive'"),
        ([], "the following arguments are required: chapter"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(argv, said, capsys):
    with pytest.raises(SystemExit) as exited:
        check.main(argv)
    assert exited.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: python -m losses.check") and said in err


def test_as_a_program_it_is_the_same(tmp_path):
    wrong = tmp_path / "mine.py"
    wrong.write_text(
        "def negative_sampling(target_scores, noise_scores):\n    return 1.0, 2.0, 3.0\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "losses.check", "negative", str(wrong), "--examples", "5"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 1 and done.stderr == ""
    assert "  ✗  (1) one loss an example" in done.stdout.splitlines()
