"""Modules: how they find their parameters, what they compute, how states come and go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn

pytestmark = pytest.mark.engine


class Classifier(nn.Module):
    def __init__(self, key, bias=True):
        self.hidden = nn.Linear(4, 3, key=key.fold(0), bias=bias)
        self.more = [nn.Linear(3, 3, key=key.fold(1)), {"last": nn.Linear(3, 2, key=key.fold(2))}]
        self.scale = nn.Parameter([1.0, 1.0])
        self.size, self.constant = 3, mg.tensor([1.0])

    def forward(self, x):
        x = mg.tanh(self.more[0](mg.relu(self.hidden(x))))
        return self.more[1]["last"](x) * self.scale


NAMES = [
    "hidden.weight",
    "hidden.bias",
    "more.0.weight",
    "more.0.bias",
    "more.1.last.weight",
    "more.1.last.bias",
    "scale",
]


def test_parameters_are_found_in_attributes_lists_and_dictionaries_in_their_order():
    model = Classifier(mg.Key(0))
    assert list(model.named_parameters()) == NAMES
    assert [id(p) for p in model.parameters()] == [id(p) for p in model.named_parameters().values()]


def test_a_parameter_with_two_names_is_updated_once():
    model = Classifier(mg.Key(0))
    model.tied = model.hidden.weight
    assert list(model.named_parameters()) == NAMES
    assert "tied" in model.state_dict()
    mg.optim.SGD(model.parameters(), lr=0.1)


def test_a_linear_layer_is_x_times_w_transposed_plus_b():
    layer = nn.Linear(3, 2, key=mg.Key(0))
    x = mg.tensor(mg.Key(1).normal((5, 3)))
    assert layer.weight.shape == (2, 3) and layer.bias.shape == (2,)
    assert np.allclose(layer(x).numpy(), x.numpy() @ layer.weight.numpy().T + layer.bias.numpy(), rtol=1e-6)
    assert nn.Linear(3, 2, key=mg.Key(0), bias=False).parameters()[0].shape == (2, 3)


@pytest.mark.parametrize("batch", [0, 1, 2, 4, 5, 20])
def test_a_linear_layer_gives_each_row_what_it_gives_in_any_batch(batch):
    """A small batch of long rows, up to a quarter as many as they are long, takes another way to its product."""
    x, weight, bias = mg.Key(1).normal((batch, 16)), mg.Key(2).normal((3, 16)), mg.Key(3).normal(3)
    y = mg.rules.linear(mg.tensor(x), weight, bias).data
    assert y.shape == (batch, 3) and y.flags.c_contiguous
    x, weight, bias, y = map(mg.to_cpu, (x, weight, bias, y))
    assert all(np.allclose(y[i], weight @ x[i] + bias, rtol=1e-5, atol=1e-5) for i in range(batch))


def test_initial_weights_are_uniform_within_one_over_the_root_of_the_inputs():
    weight = nn.Linear(100, 400, key=mg.Key(0)).weight.data * 10.0
    assert abs(weight).max() <= 1.0
    assert abs(weight.mean()) < 6 * np.sqrt(1 / 3 / weight.size)
    assert abs((weight**2).mean() - 1 / 3) < 6 * np.sqrt(4 / 45 / weight.size)


def test_an_embeddings_gradient_is_rows():
    table = nn.Embedding(1000, 4, key=mg.Key(0))
    table([[1, 2], [2, 999]]).sum().backward()
    assert isinstance(table.weight.grad, mg.Rows) and table.weight.grad.coalesce().ids.tolist() == [1, 2, 999]


def test_a_model_learns():
    model = nn.Sequential(nn.Linear(2, 16, key=mg.Key(0)), mg.tanh, nn.Linear(16, 2, key=mg.Key(1)))
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
    adam, loss = mg.optim.Adam(model.parameters(), lr=0.05), nn.CrossEntropyLoss()
    for _ in range(200):
        adam.zero_grad()
        loss(model(mg.tensor(x)), [0, 1, 1, 0]).backward()
        adam.step()
    assert model(mg.tensor(x)).data.argmax(axis=1).tolist() == [0, 1, 1, 0]


@given(st.sampled_from(["mean", "sum", "none"]))
def test_the_losses_reduce_as_they_are_told(reduction):
    x, y = mg.tensor([[1.0, 2.0], [3.0, 5.0]]), np.array([[0.0, 2.0], [1.0, 1.0]], "float32")
    expected = {"mean": 21 / 4, "sum": 21.0, "none": [[1.0, 0.0], [4.0, 16.0]]}[reduction]
    assert np.allclose(nn.MSELoss(reduction)(x, y).numpy(), expected)
    same = mg.cross_entropy(x, [0, 1], reduction).numpy()
    assert np.allclose(nn.CrossEntropyLoss(reduction)(x, [0, 1]).numpy(), same)


def test_a_state_is_a_copy_and_comes_back():
    model, other = Classifier(mg.Key(0)), Classifier(mg.Key(1))
    state = model.state_dict()
    other.load_state_dict(state)
    x = mg.tensor(mg.Key(2).normal((3, 4)))
    assert (model(x).data == other(x).data).all()
    state["scale"][:] = 7.0
    assert model.scale.data.tolist() == other.scale.data.tolist() == [1.0, 1.0]


def test_a_state_that_does_not_fit_lists_every_fault_and_changes_nothing():
    model = Classifier(mg.Key(0))
    before, state = model.state_dict(), Classifier(mg.Key(1)).state_dict()
    del state["more.0.bias"]
    state |= {"scale": np.ones(3), "other": np.ones(1)}
    with pytest.raises(
        ValueError, match=r"more.0.bias is missing; other is unexpected; scale must have shape"
    ) as raised:
        model.load_state_dict(state)
    assert "scale must have shape [2], got [3]" in str(raised.value)
    assert all((before[name] == a).all() for name, a in model.state_dict().items())


def test_a_loaded_state_is_an_update_that_the_tape_notices():
    layer = nn.Linear(2, 1, key=mg.Key(0))
    loss = (layer(mg.param([[1.0, 2.0]])) ** 2).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="was updated after"):
        loss.backward()


def test_to_moves_gradients_too_and_keeps_the_tensors():
    model = nn.Sequential(nn.Embedding(5, 2, key=mg.Key(0)), nn.Linear(2, 1, key=mg.Key(1)))
    model([1, 1]).sum().backward()
    before = model.parameters()
    assert model.to("cpu") is model
    assert [id(p) for p in model.parameters()] == [id(p) for p in before]
    assert isinstance(before[0].grad, mg.Rows) and before[1].grad.shape == (1, 2)
    model.zero_grad()
    assert all(p.grad is None for p in before)


def test_a_model_says_what_is_in_it():
    model = nn.Sequential(nn.Linear(2, 3, key=mg.Key(0)), mg.relu)
    assert repr(model) == "Sequential(Linear(weight[3, 2], bias[3]), relu)"


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: nn.Linear(0, 2, key=mg.Key(0)), ValueError, "minigrad.nn.Linear: in_features must be at least 1"),
        (lambda: nn.Linear(2, 2, key=3), TypeError, "minigrad.nn.Linear: key must be a minigrad.Key"),
        (lambda: nn.Embedding(2.5, 2, key=mg.Key(0)), TypeError, "num_embeddings must be an integer"),
        (lambda: nn.MSELoss("avg"), ValueError, 'reduction must be "mean", "sum" or "none"'),
        (lambda: nn.MSELoss()(mg.tensor([[1.0]]), mg.tensor([1.0])), ValueError, r"one shape, got \[1, 1\] and \[1\]"),
        (lambda: nn.Linear(2, 2, key=mg.Key(0))(mg.tensor([1.0])), ValueError, r"minigrad.linear\(float32\[1\]"),
        (lambda: nn.Embedding(2, 2, key=mg.Key(0))([2]), IndexError, r"ids must lie in \[0, 2\), got 2"),
        (lambda: nn.Module()(1), TypeError, r"minigrad.nn.Module has no forward\(\)"),
    ],
)
def test_bad_input_is_a_clear_error(wrong, error, says):
    with pytest.raises(error, match=says):
        wrong()


@pytest.mark.oracle
def test_weights_go_to_torch_and_back_in_a_line_each():
    torch = pytest.importorskip("torch")
    ours = nn.Sequential(nn.Linear(4, 3, key=mg.Key(0)), mg.relu, nn.Linear(3, 2, key=mg.Key(1)))
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    x = mg.tensor(mg.Key(2).normal((5, 4)))
    for step in ("to torch", "from torch"):
        if step == "to torch":
            theirs.load_state_dict({name: torch.from_numpy(a) for name, a in ours.state_dict().items()})
        else:
            theirs[0].weight.data += 1.0
            ours.load_state_dict(theirs.state_dict())
        expected = theirs(torch.tensor(x.numpy())).detach().numpy()
        assert np.allclose(ours(x).numpy(), expected, rtol=1e-5, atol=1e-6)
