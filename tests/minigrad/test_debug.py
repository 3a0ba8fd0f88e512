"""Where a NaN came from, and what a graph looks like."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.debug import AnomalyError

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def _without_warnings():
    with mg.backend.quiet():
        yield


def test_the_operation_that_made_the_nan_is_named_with_its_line():
    x = mg.param([-1.0, 1.0])
    with mg.anomaly(), pytest.raises(AnomalyError) as raised:
        y = mg.exp(x) - 2.0
        z = mg.log(y)  # this line
        z.sum()
    said = str(raised.value)
    assert "log(float32[2]) made NaN" in said and "test_debug.py" in said
    assert "z = mg.log(y)  # this line" in said.split("\n")[0]


def test_a_nan_that_came_in_with_the_data_is_told_from_one_that_was_made():
    x = mg.param([np.nan, 1.0])
    with (
        mg.anomaly(),
        pytest.raises(AnomalyError, match=r"mul\(float32\[2\], float32\[2\]\) was given NaN as argument 2"),
    ):
        mg.tensor([1.0, 2.0]) * x


def test_a_gradient_that_becomes_nan_names_the_line_on_the_way_there():
    x = mg.param([0.0, 1.0])
    with mg.anomaly():
        y = mg.sqrt(x * 0.0)  # √0 is 0, its slope infinite, and ∞ · 0 is NaN
        with pytest.raises(
            AnomalyError, match=r"the gradient of mul, .* by argument 1 holds NaN; .*y = mg.sqrt\(x \* 0.0\)"
        ):
            y.sum().backward()


def test_infinities_count_if_asked_for():
    x = mg.param([0.0])
    with mg.anomaly():
        mg.log(x)
    with mg.anomaly(infinite=True), pytest.raises(AnomalyError, match=r"log.* made an infinity"):
        mg.log(x)


def test_what_was_built_outside_of_anomaly_says_so():
    x = mg.param([0.0])
    y = mg.sqrt(x * 0.0)
    with mg.anomaly(), pytest.raises(AnomalyError, match=r"the gradient of mul.*its line is not known"):
        y.sum().backward()


def test_after_anomaly_nothing_is_watched_and_within_it_no_grad_still_holds():
    x = mg.param([-1.0])
    with mg.anomaly(), mg.no_grad():
        assert mg.exp(x)._node is None
    assert np.isnan(mg.log(x).item())


def test_the_values_are_the_same_when_watched():
    x = mg.param([0.5, 2.0])
    (mg.log(x) * x).sum().backward()
    plain, x.grad = x.grad, None
    with mg.anomaly():
        (mg.log(x) * x).sum().backward()
    assert (x.grad == plain).all()


def test_rows_are_watched_too():
    w = mg.param(np.ones((3, 2)))
    with mg.anomaly(), pytest.raises(AnomalyError, match="the gradient of mul"):
        (mg.take(w, [0, 1]) * 2.0).backward(np.full((2, 2), np.nan))


# ---- the graph ----------------------------------------------------------------------------------------------------


def test_a_graph_lists_operations_in_order_with_shapes_and_the_bytes_they_keep():
    w, x = mg.param(np.ones((3, 2), "float32")), mg.param(np.ones(2, "float32"))
    text = str(mg.graph(mg.tanh(w @ x).sum(), {"w": w, "x": x}))
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["x", "leaf", "float32[2]"],
        ["w", "leaf", "float32[3,", "2]"],
        ["%1", "matmul", "w,", "x", "float32[3]", "0", "B"],
        ["%2", "tanh", "%1", "float32[3]", "12", "B"],
        ["%3", "sum", "%2", "float32[]", "0", "B"],
        ["3", "operations", "keep", "12", "B"],
    ]


def test_an_array_that_two_operations_keep_is_counted_once():
    x = mg.param(np.ones(4, "float32"))
    e = mg.exp(x)
    assert mg.graph(e * e).bytes_kept == 16


def test_the_bytes_kept_are_those_the_walk_frees():
    x = mg.param(np.ones(1000, "float32"))
    y = (mg.exp(x) * mg.tanh(x)).sum()
    assert mg.graph(y).bytes_kept == 8000
    y.backward()
    assert mg.graph(y).bytes_kept == 0 and "freed" in str(mg.graph(y))


def test_the_partner_of_a_constant_costs_nothing():
    x = mg.param(np.ones(1000, "float32"))
    y = x
    for _ in range(10):
        y = y * 2.0 + 1.0
    assert mg.graph(y.sum()).bytes_kept < 100


def test_what_a_fused_operation_keeps_is_counted():
    s = mg.param(np.ones((8, 100), "float32"))
    kept = mg.graph(mg.cross_entropy(s, [0] * 8)).bytes_kept
    assert 8 * 100 * 4 <= kept < 8 * 100 * 4 + 200


def test_dot_names_every_operation_and_every_arrow():
    x = mg.param(np.ones(2, "float32"))
    dot = mg.graph((x * x).sum(), {"x": x}).dot()
    assert dot.startswith("digraph {") and dot.endswith("}")
    assert dot.count("->") == 3 and 'label="x\\nfloat32[2]"' in dot and "mul\\nfloat32[2]\\nkeeps 0 B" in dot


def test_under_anomaly_a_graph_knows_its_lines():
    x = mg.param([1.0])
    with mg.anomaly():
        y = mg.exp(x)  # noted
    assert "y = mg.exp(x)  # noted" in str(mg.graph(y))


def test_a_leaf_has_no_graph():
    with pytest.raises(ValueError, match=r"minigrad\.graph: this tensor is no result"):
        mg.graph(mg.param([1.0]))
