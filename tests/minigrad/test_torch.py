"""An independent oracle for the engine as a whole: random expressions, differentiated here and by PyTorch."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.check import broadcastable

pytestmark = [pytest.mark.engine, pytest.mark.oracle]

UNARY = {
    "neg": lambda lib, a: -a,
    "square": lambda lib, a: a**2,
    "tanh": lambda lib, a: lib.tanh(a),
    "sigmoid": lambda lib, a: lib.sigmoid(a),
    "softplus": lambda lib, a: -logsigmoid(lib, -a),
    "logsigmoid": lambda lib, a: logsigmoid(lib, a),
    "log of 1 + a²": lambda lib, a: lib.log(1.0 + a * a),
    "exp of tanh": lambda lib, a: lib.exp(lib.tanh(a)),
    "sum and back": lambda lib, a: a + a.sum(),
    "mean": lambda lib, a: a - a.mean(),
    "flat and back": lambda lib, a: a.reshape(-1).reshape(a.shape),
    "relu": lambda lib, a: lib.relu(a - 0.1),
    "abs": lambda lib, a: abs(a + 0.2) * a,
    "log1p of a²": lambda lib, a: lib.log1p(a * a),
    "expm1 of tanh": lambda lib, a: lib.expm1(lib.tanh(a)),
    "sqrt of 1 + a²": lambda lib, a: lib.sqrt(1.0 + a * a),
    "softmax": lambda lib, a: softmax(lib, a.reshape(-1)).reshape(a.shape),
    "two halves": lambda lib, a: (mg.concat if lib is mg else lib.cat)([a.reshape(-1), 2.0 * a.reshape(-1)]).sum() * a,
    "first of all": lambda lib, a: a + a.reshape(-1)[0],
    "every other": lambda lib, a: a * a.reshape(-1)[:1] if a.ndim else a,
    "itself transposed": lambda lib, a: (a.reshape(-1, 1) @ a.reshape(1, -1)).sum() * a,
    "logsumexp": lambda lib, a: a - logsumexp(lib, a.reshape(-1)),
}
BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (2.0 + b * b),
}


def logsigmoid(lib, a):
    return mg.logsigmoid(a) if lib is mg else lib.nn.functional.logsigmoid(a)


def logsumexp(lib, a):
    return mg.logsumexp(a, axis=0) if lib is mg else lib.logsumexp(a, dim=0)


def softmax(lib, a):
    return mg.softmax(a, axis=0) if lib is mg else lib.softmax(a, dim=0)


def evaluate(lib, program, values):
    """Each step makes a new value of one or two earlier ones, given by number; the result sums over the last value."""
    values = list(values)
    for step, i, j in program:
        a, b = values[i % len(values)], values[j % len(values)]
        values.append(UNARY[step](lib, a) if step in UNARY else BINARY[step](a, b))
    return (lib.tanh(values[-1]) * values[-1]).sum()


programs = st.lists(
    st.tuples(st.sampled_from([*UNARY, *BINARY]), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8
)


@given(broadcastable(3, min_value=-1.5, max_value=1.5), programs)
def test_random_expressions_have_torchs_gradients_to_second_order(xs, program):
    torch = pytest.importorskip("torch")
    theirs = [torch.tensor(x.numpy(), requires_grad=True) for x in xs]
    y, y_torch = evaluate(mg, program, xs), evaluate(torch, program, theirs)
    assert np.isclose(y.item(), y_torch.item(), rtol=1e-9)
    first = mg.grad(y, xs, create_graph=True)
    first_torch = torch.autograd.grad(y_torch, theirs, create_graph=True, allow_unused=True)
    for g, g_torch in zip(first, first_torch, strict=True):
        assert (g is None) == (g_torch is None)
        assert g is None or np.allclose(g.numpy(), g_torch.detach().numpy(), rtol=1e-7, atol=1e-9)
    again = sum([(g * g).sum() for g in first if g is not None], mg.tensor(0.0, dtype="float64"))
    again_torch = sum((g * g).sum() for g in first_torch if g is not None)
    if again.requires_grad and getattr(again_torch, "requires_grad", False):
        second = mg.grad(again, xs)
        second_torch = torch.autograd.grad(again_torch, theirs, allow_unused=True)
        for g, g_torch in zip(second, second_torch, strict=True):
            g = np.zeros(()) if g is None else mg.to_cpu(g)
            g_torch = np.zeros(()) if g_torch is None else g_torch.numpy()
            assert np.allclose(g, g_torch, rtol=1e-6, atol=1e-8)


def test_cross_entropy_is_torchs():
    torch = pytest.importorskip("torch")
    logits = mg.param(mg.Key(0).normal((5, 7)) * 30.0)
    targets = np.array([0, 6, 3, 3, 1])
    theirs = torch.tensor(logits.numpy(), requires_grad=True)
    for reduction in ("mean", "sum"):
        ours = mg.cross_entropy(logits, targets, reduction)
        other = torch.nn.functional.cross_entropy(theirs, torch.tensor(targets), reduction=reduction)
        logits.grad = theirs.grad = None
        ours.backward()
        other.backward()
        assert np.isclose(ours.item(), other.item(), rtol=1e-6)
        assert np.allclose(mg.to_cpu(logits.grad), theirs.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.cpu
def test_torch_and_a_tensor_share_memory_by_dlpack():
    torch = pytest.importorskip("torch")
    t = mg.tensor([1.0, 2.0])
    there = torch.from_dlpack(t)
    there[0] = 5.0
    assert t.data.tolist() == [5.0, 2.0]
    back = mg.from_dlpack(torch.arange(3.0))
    assert back.data.tolist() == [0.0, 1.0, 2.0]
    assert mg.tensor(torch.arange(3.0)).dtype == "float32"


@pytest.mark.cpu
def test_the_readmes_lines_for_other_libraries_run(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    code = readme.partition("## Together with other libraries")[2].partition("```python")[2].partition("```")[0]
    exec(code, names := {})
    x = mg.Key(3).normal((2, 4))
    theirs = names["theirs"](names["torch"].tensor(x)).detach().numpy()
    assert np.allclose(names["ours"](mg.tensor(x)).data, theirs, rtol=1e-5, atol=1e-6)
