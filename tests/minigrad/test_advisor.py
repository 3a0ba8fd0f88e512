"""The advisor: each bad habit in a few lines, and its good twin, of which there is nothing to say.

The line that is to be named is marked `# here`.
"""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
import minigrad.advisor as advisor_module
from minigrad import identity, ledger, patterns, tape, wastes
from minigrad.rows import Rows

pytestmark = pytest.mark.advisor

ROOT = Path(__file__).parents[2]
SIZE = 6
numbers = st.integers(2, 7)


def array(*shape, seed=1):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype("float32")


def advice_on(program, *args, least=2):
    with mg.advisor(least=least) as advice:
        program(*args)
    return advice


def only(advice, trick):
    """The one finding, of the trick that was expected."""
    assert [finding.trick for finding in advice.findings] == [trick], str(advice)
    return advice.findings[0]


def of(trick, advice):
    return [finding for finding in advice.findings if finding.trick == trick]


def nothing(advice):
    return advice.findings == [] and str(advice) == f"nothing to say of {advice.operations:,} operations"


def here(program):
    """How the line that is marked must be named."""
    lines, first = inspect.getsourcelines(program)
    (number,) = (n for n, line in enumerate(lines) if "# here" in line)
    return f"{Path(__file__).name}:{first + number}, in {program.__name__}: {lines[number].strip()}"


# ---- 1: an operation on the same inputs -----------------------------------------------------------------------------


def again(W, xs):
    total = 0.0
    for x in xs:
        total = total + (mg.exp(W) * x).sum()  # here
    total.backward()


def once(W, xs):
    total, expW = 0.0, mg.exp(W)
    for x in xs:
        total = total + (expW * x).sum()
    total.backward()


@given(numbers, numbers)
def test_an_operation_on_the_same_inputs_is_counted_with_all_that_it_would_save(n, size):
    W, xs = mg.param(array(size)), [mg.tensor(array(size, seed=i)) for i in range(n)]
    finding = only(advice_on(again, W, xs, least=2), 1)
    assert (finding.count, finding.saved, finding.where) == (n, n - 1, here(again))
    assert f"exp(float32[{size}]) ran {n} times where 1 would do" in finding.message
    assert f"{n - 1} operations and {(n - 1) * size} numbers less" in finding.message
    assert nothing(advice_on(once, W, xs, least=2))


def test_of_a_product_it_counts_the_multiply_adds():
    def program():
        for x in [x1, x2, x1, x2, x1]:
            total = (W @ x).sum()
        total.backward()

    W, x1, x2 = mg.param(array(3, 4)), mg.tensor(array(4, seed=1)), mg.tensor(array(4, seed=2))
    (finding,) = of(1, advice_on(program))
    assert (finding.count, finding.saved) == (5, 3) and "36 multiply-adds less" in finding.message


def test_different_inputs_are_no_repetition():
    def program():
        for x in xs:
            mg.exp(x)

    xs = [mg.tensor(array(SIZE, seed=i)) for i in range(9)]
    assert nothing(advice_on(program))


def test_an_operation_on_arrays_that_come_and_go_at_one_address_is_no_repetition():
    def program():
        with mg.no_grad():
            for _ in range(20):
                h = mg.exp(W)  # a new array, at an address that is free again
                W.data = W.data + 1.0
                mg.tanh(h)
                del h

    W = mg.param(array(SIZE))
    assert nothing(advice_on(program))


def test_a_parameter_that_was_updated_is_another_input():
    def program():
        for _ in range(5):
            with mg.no_grad():
                mg.exp(W)
            optimiser.step()

    W = mg.param(array(SIZE))
    W.grad, optimiser = W.data * 0.1, mg.optim.SGD([W], lr=0.1)
    assert nothing(advice_on(program))


@pytest.mark.cpu
def test_a_constant_that_was_filled_anew_is_another_input():
    def program(changing):
        for i in range(5):
            buffer[...] = i if changing else 0.0
            mg.exp(x)

    buffer = array(SIZE)
    x = mg.tensor(buffer)
    assert nothing(advice_on(program, True))
    assert only(advice_on(program, False), 1).saved == 4


def test_what_a_walk_has_passed_must_be_done_again():
    def program():
        for _ in range(5):
            mg.exp(W).sum().backward()

    W = mg.param(array(SIZE))
    assert nothing(advice_on(program))


def test_other_options_are_another_operation():
    def program(axes):
        total = 0.0
        for axis in axes:
            total = total + mg.softmax(W, axis=axis)
        total.sum().backward()

    W = mg.param(array(3, 3))
    assert nothing(advice_on(program, (0, 1, (0, 1))))
    assert only(advice_on(program, (0, 1, 0, 1, 1)), 1).saved == 3


def test_other_ids_are_another_look_up():
    def program():
        total = 0.0
        for ids in ([0, 1], [1, 2], [2, 3], [3, 0]):
            total = total + mg.take(W, np.array(ids)).sum()
        total.backward()

    W = mg.param(np.zeros((4, SIZE), "float32"))
    assert not of(1, advice_on(program))


def test_ids_that_come_and_go_at_one_address_are_other_ids():
    def program():
        for i in range(20):
            mg.take(W, np.array([i, i + 1]))

    W = mg.param(array(21, SIZE))
    assert not of(1, advice_on(program))


@pytest.mark.cpu
@pytest.mark.parametrize("look_up", [mg.take, lambda W, i: W[i]], ids=["take", "by a number"])
def test_a_row_looked_up_again_is_a_repetition(look_up):
    def program():
        sum(look_up(W, i).sum() for i in [0, 1, 0, 2, 1, 0]).backward()

    W = mg.param(array(4, SIZE))
    (finding,) = of(1, advice_on(program))
    assert (finding.count, finding.saved) == (6, 3)
    assert f"3 operations and {3 * SIZE} numbers less" in finding.message


def test_a_view_computes_nothing():
    def program():
        (W.T[0] + W.T[1] + W.T[2] + W.T[0]).sum().backward()

    W = mg.param(array(SIZE, 3))
    assert nothing(advice_on(program))


def test_a_checkpoint_from_which_the_walk_begins_was_walked():
    W, X = mg.param(np.ones((3, 3), "float32")), mg.tensor(np.ones((3, 3), "float32"))
    with mg.advisor() as advice:
        for _ in range(8):
            mg.memory.checkpoint(lambda w: mg.tanh(w @ X).sum())(W).backward()
            W.data, W.grad = W.data * 0.9, None
    assert advice.findings == []


def test_a_checkpoint_does_its_operations_again_on_purpose():
    def program():
        h = W
        for _ in range(4):
            h = mg.memory.checkpoint(lambda h: mg.exp(mg.tanh(h)))(h)
        h.sum().backward()

    W = mg.param(array(SIZE))
    assert nothing(advice_on(program))


# ---- 2: one by one --------------------------------------------------------------------------------------------------


def vectors_one_by_one(W, xs):
    total = 0.0
    for x in xs:
        total = total + mg.tanh(W @ x).sum()  # here
    total.backward()


def stacked(W, xs):
    mg.tanh(W @ mg.stack(xs, axis=1)).sum().backward()


@given(numbers)
def test_products_of_many_vectors_with_one_matrix_could_be_one(n):
    W, xs = mg.param(array(3, SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(n)]
    finding = only(advice_on(vectors_one_by_one, W, xs), 2)
    assert (finding.count, finding.saved, finding.where) == (n, n - 1, here(vectors_one_by_one))
    assert f"matmul: {n} vectors times float32[3, {SIZE}], one by one" in finding.message
    assert f"{n} operations become 1." in finding.message
    assert nothing(advice_on(stacked, W, xs))


@pytest.mark.parametrize(
    "product",
    [
        lambda W, x: x @ W,
        lambda W, x: mg.linear(x, W, 0.0),
        lambda W, x: mg.linear(x.reshape(1, -1), W, 0.0),
        lambda W, x: W @ x.reshape(-1, 1),
    ],
    ids=["from the left", "linear", "a batch of one", "a matrix of one column"],
)
def test_it_knows_products_in_every_form(product):
    def program():
        sum(product(W, x).sum() for x in xs).backward()

    W, xs = mg.param(array(SIZE, SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(4)]
    assert only(advice_on(program), 2).saved == 3


@pytest.mark.parametrize("dot", [mg.dot, lambda a, b: a @ b], ids=["dot", "matmul"])
def test_of_two_vectors_either_could_be_stacked_and_it_names_what_saves_more(dot):
    def program():
        sum(dot(w, x) for w in ws for x in xs).backward()

    ws = [mg.param(array(SIZE, seed=i)) for i in range(2)]
    xs = [mg.tensor(array(SIZE, seed=i)) for i in range(7)]
    finding = only(advice_on(program), 2)
    assert (finding.count, finding.saved) == (14, 12) and "14 operations become 2." in finding.message


def recurrence(W, h, steps):
    for _ in range(steps):
        h = mg.tanh(W @ h)
    return h.sum()


def test_in_a_chain_each_product_needs_the_one_before():
    W, h = mg.param(array(SIZE, SIZE)), mg.tensor(array(SIZE))
    assert nothing(advice_on(lambda: recurrence(W, h, 9).backward()))


@given(numbers, numbers)
def test_of_several_chains_the_products_at_one_place_could_be_one(chains, steps):
    def program():
        total = 0.0
        for h in starts:
            total = total + recurrence(W, h, steps)
        total.backward()

    W, starts = mg.param(array(SIZE, SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(chains)]
    finding = only(advice_on(program), 2)
    assert (finding.count, finding.saved) == (chains * steps, (chains - 1) * steps)


def test_a_chain_is_one_under_no_grad_as_well_and_through_detach():
    def program():
        state = h
        for _ in range(9):
            state = mg.tanh(W @ state.detach())

    W, h = mg.param(array(SIZE, SIZE)), mg.tensor(array(SIZE))
    with mg.no_grad():
        assert nothing(advice_on(program))
    assert not of(2, advice_on(program))


def test_products_between_which_the_matrix_was_updated_are_steps_of_learning():
    def program():
        for x in xs:
            (W @ x).sum().backward()
            W.data, W.grad = W.data - 0.1 * W.grad, None

    W, xs = mg.param(array(3, SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(5)]
    assert nothing(advice_on(program))


def test_products_with_a_constant_between_two_walks_are_those_of_one_stretch():
    def program():
        for _ in range(9):
            ((W * 2.0) @ c).backward()

    W, c = mg.param(array(SIZE)), mg.tensor(array(SIZE))
    assert nothing(advice_on(program))


def rows_one_by_one(W, ids):
    total = 0.0
    for i in ids:
        total = total + mg.take(W, i).sum()  # here
    total.backward()


def rows_at_once(W, ids):
    mg.take(W, ids).sum().backward()


@given(st.lists(st.integers(0, 4), min_size=2, unique=True))
def test_look_ups_one_by_one_could_be_one(ids):
    W = mg.param(array(5, SIZE))
    (finding,) = of(2, advice_on(rows_one_by_one, W, ids))  # and on a GPU each id is a copy
    assert (finding.count, finding.saved, finding.where) == (len(ids), len(ids) - 1, here(rows_one_by_one))
    assert f"take: {len(ids)} rows of float32[5, {SIZE}], one by one. Look up all their ids at once" in finding.message
    assert nothing(advice_on(rows_at_once, W, ids))


# ---- 3: moved again and again ---------------------------------------------------------------------------------------


def copied_in_the_loop(W, data):
    total = 0.0
    for x in data:
        x = mg.tensor(x)  # here
        total = total + (W * x).sum()
    total.backward()


def copied_before(W, data):
    total = 0.0
    for x in mg.tensor(np.stack(data)):
        total = total + (W * x).sum()
    total.backward()


@given(numbers, numbers)
def test_values_copied_in_inside_the_loop_are_counted_with_their_bytes(n, size):
    W, data = mg.param(array(size)), [array(size, seed=i) for i in range(n)]
    finding = only(advice_on(copied_in_the_loop, W, data), 3)
    assert (finding.count, finding.saved, finding.where) == (n, n - 1, here(copied_in_the_loop))
    assert f"values were copied in {n} times, {4 * n * size} B, up to {n} times between two walks" in finding.message
    assert f"{'on a GPU each is' if W.device == 'cpu' else 'each is'} a copy and a wait" in finding.message
    assert nothing(advice_on(copied_before, W, data))


def test_a_copy_for_each_batch_is_as_it_should_be():
    def program():
        for i in range(9):
            (W * mg.tensor(array(SIZE, seed=i))).sum().backward()

    W = mg.param(array(SIZE))
    assert nothing(advice_on(program))


def test_a_model_that_is_made_in_a_loop_is_no_data():
    layers = []
    advice = advice_on(lambda: layers.extend(mg.nn.Linear(3, 3, key=mg.Key(i)) for i in range(9)))
    assert nothing(advice) and len(layers) == 9


def read_one_by_one(W, xs):
    with mg.no_grad():
        return sum((W * x).sum().item() for x in xs)  # here


def read_at_the_end(W, xs):
    total = 0.0
    with mg.no_grad():
        for x in xs:
            total = total + (W * x).sum()
    return total.item()


@given(numbers)
def test_values_read_back_one_by_one_are_counted(n):
    W, xs = mg.param(array(SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(n)]
    finding = only(advice_on(read_one_by_one, W, xs), 3)
    assert (finding.count, finding.saved, finding.where) == (n, n - 1, here(read_one_by_one))
    assert f"values were read back {n} times, {4 * n} B" in finding.message
    assert nothing(advice_on(read_at_the_end, W, xs))


def read_before_the_walk(W, xs):
    for x in xs:
        loss = (W * x).sum()
        float(loss)  # here
        loss.backward()


def read_after_the_walk(W, xs):
    for x in xs:
        loss = (W * x).sum()
        loss.backward()
        float(loss)


@given(numbers)
def test_a_value_read_while_its_graph_is_needed_is_read_early(n):
    W, xs = mg.param(array(SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(n)]
    finding = only(advice_on(read_before_the_walk, W, xs), 3)
    assert (finding.count, finding.saved, finding.where) == (n, n, here(read_before_the_walk))
    assert f"{n} values were read before the graph behind them was walked back" in finding.message
    assert nothing(advice_on(read_after_the_walk, W, xs))


def test_the_looks_that_the_library_takes_for_itself_are_not_the_programs():
    def program():
        for i in range(9):
            mg.take(W, [i % 3])
            mg.backend.read(W.data.max())

    W = mg.param(array(3, SIZE))
    assert not of(3, advice_on(program, least=20))


# ---- 4: kept for nothing --------------------------------------------------------------------------------------------


def evaluated_with_a_graph(W, xs):
    for x in xs:
        loss = (mg.tanh(W) * x).sum()  # here
    return loss.data


def evaluated_without(W, xs):
    with mg.no_grad():
        tanhW = mg.tanh(W)
        for x in xs:
            loss = (tanhW * x).sum()
    return loss.data


@given(numbers)
def test_graphs_that_nobody_walks_back_are_counted_with_the_bytes_they_kept(n):
    W, xs = mg.param(array(SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(n)]
    kept = mg.graph((mg.tanh(W) * xs[0]).sum()).bytes_kept
    (finding,) = of(4, advice_on(evaluated_with_a_graph, W, xs))
    assert (finding.count, finding.where) == (n, here(evaluated_with_a_graph))
    assert finding.saved == n * kept and f"{n} graphs, up to 2 at once, were never walked back" in finding.message
    assert nothing(advice_on(evaluated_without, W, xs))


def losses_kept(W, xs, losses):
    for x in xs:
        loss = (W * x).sum()  # here
        loss.backward()
        losses.append(loss)


def numbers_kept(W, xs, losses):
    for x in xs:
        loss = (W * x).sum()
        loss.backward()
        losses.append(loss.item())


@given(numbers)
def test_losses_kept_with_their_graph_are_counted(n):
    W, xs = mg.param(array(SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(n)]
    finding = only(advice_on(losses_kept, W, xs, []), 4)
    assert (finding.count, finding.saved, finding.where) == (n, n, here(losses_kept))
    assert f"{n} results were there at once after their walk back" in finding.message
    assert nothing(advice_on(numbers_kept, W, xs, []))


def test_results_that_are_put_together_before_the_walk_are_no_graphs_in_vain():
    def program():
        mg.concat([mg.tanh(W * mg.tensor(x)) for x in data]).sum().backward()

    W, data = mg.param(array(SIZE)), [array(SIZE, seed=i) for i in range(9)]
    assert not of(4, advice_on(program))


def test_graphs_that_are_there_when_the_advisor_leaves_count_as_well():
    W, losses = mg.param(array(SIZE)), []
    advice = advice_on(lambda: losses.extend((W * float(i)).sum() for i in range(5)))
    finding = only(advice, 4)
    assert finding.count == 5 and "5 graphs, up to 5 at once" in finding.message
    losses.clear()
    assert only(advice, 4) == finding


# ---- 5: float64 -----------------------------------------------------------------------------------------------------


def a_wide_constant(W, c, n):
    total = 0.0
    for _ in range(n):
        total = total + (W * c).sum()  # here
        total.backward()
        total = 0.0


@given(numbers)
def test_a_constant_of_float64_is_cast_at_each_use(n):
    W, c = mg.param(array(SIZE)), np.linspace(0.0, 1.0, SIZE)
    finding = only(advice_on(a_wide_constant, W, c, n), 5)
    assert (finding.count, finding.saved, finding.where) == (n, 4 * n * SIZE, here(a_wide_constant))
    assert f"a constant float64[{SIZE}] was cast to float32 {n} times" in finding.message
    assert nothing(advice_on(a_wide_constant, W, mg.tensor(c, dtype="float32"), n))
    assert nothing(advice_on(a_wide_constant, W, np.float64(0.5), n))


def test_a_parameter_of_float64_among_those_of_float32_is_named_and_alone_it_is_on_purpose():
    def program(types):
        for _ in range(3):
            for W in (mg.param(np.ones(SIZE, dtype)) for dtype in types):
                W.sum().backward()  # twice the memory

    finding = only(advice_on(program, ["float32", "float64"]), 5)
    assert f"a parameter float64[{SIZE}], used 3 times" in finding.message and finding.saved == 4 * SIZE
    assert nothing(advice_on(program, ["float64", "float64"]))
    assert nothing(advice_on(program, ["float32", "float32"]))


# ---- 6: dense gradients ---------------------------------------------------------------------------------------------

IDS = [1, 3, 3]


def one_hot_product(W):
    for _ in range(3):
        (mg.tensor(np.eye(9, dtype="float32")[IDS]) @ W).sum().backward()  # here


def index_by_number(W):
    for _ in range(3):
        (W[4] * 2.0).sum().backward()  # here


def index_by_mask(W):
    for _ in range(3):
        (W[MASK] * 2.0).sum().backward()  # here


def table_computed(W):
    for _ in range(3):
        mg.take(W * 2.0, IDS).sum().backward()  # here


def rows_looked_up(W):
    for _ in range(3):
        (mg.take(W, IDS) * 2.0).sum().backward()


MASK = np.arange(9) % 4 == 0  # three of nine


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("program", "rows_needed"), [(one_hot_product, 2), (index_by_number, 1), (index_by_mask, 3), (table_computed, None)]
)
def test_a_gradient_of_the_whole_table_for_a_few_rows_is_counted_in_bytes(program, rows_needed):
    W = mg.param(array(9, SIZE))
    finding = only(advice_on(program, W), 6)
    needed = 3 * 8 + 3 * SIZE * 4 if rows_needed is None else rows_needed * SIZE * 4  # with ids, or without
    assert (finding.count, finding.saved, finding.where) == (3, 3 * (W.data.nbytes - needed), here(program))
    assert f"the gradient of all of float32[9, {SIZE}] was made 3 times for a few of its rows" in finding.message
    assert "take" in finding.message or "Look the rows up" in finding.message
    assert nothing(advice_on(rows_looked_up, W))


def test_all_rows_need_a_gradient_of_all():
    def program(index):
        for _ in range(3):
            W[index].sum().backward()

    W = mg.param(array(3, SIZE))
    assert nothing(advice_on(program, mg.backend.asarray(np.ones(3, bool))))
    assert nothing(advice_on(program, slice(None)))


@pytest.mark.cpu
def test_a_product_with_what_is_not_one_hot_is_a_product():
    def program(x):
        for _ in range(3):
            (mg.tensor(x) @ W).sum().backward()

    W = mg.param(array(9, SIZE))
    for x in (np.eye(9, dtype="float32"), np.ones((2, 9), "float32"), 2.0 * np.eye(9, dtype="float32")[:2]):
        assert nothing(advice_on(program, x))


def steps(optimiser, W):
    for _ in range(3):
        mg.take(W, IDS).sum().backward()
        optimiser.step()  # here
        optimiser.zero_grad()


def test_an_optimiser_that_moves_rows_nobody_looked_up_is_named():
    W = mg.param(array(9, SIZE))
    finding = only(advice_on(steps, mg.optim.Adam([W], lazy=False), W), 6)
    needed = 3 * 8 + 3 * SIZE * 4
    assert (finding.count, finding.saved, finding.where) == (3, 3 * (W.data.nbytes - needed), here(steps))
    assert "Adam moves all rows" in finding.message
    assert nothing(advice_on(steps, mg.optim.Adam([W]), W))


# ---- what it says ---------------------------------------------------------------------------------------------------


def several_habits(W, data):
    copied_in_the_loop(W, data)
    evaluated_with_a_graph(W, [mg.tensor(x) for x in data])


def test_it_begins_with_the_speed_tricks_and_with_what_saves_most():
    advice = advice_on(several_habits, mg.param(array(SIZE)), [array(SIZE, seed=i) for i in range(6)])
    keys = [(finding.trick > 3, -finding.saved) for finding in advice.findings]
    assert keys == sorted(keys) and len(keys) >= 3
    said = str(advice)
    assert said.startswith(f"{len(keys)} things to say of {advice.operations} operations\n1. test_advisor.py:")
    for finding in advice.findings:
        assert f"{finding.where}\n    {patterns.TITLES[finding.trick]}: {finding.message}" in said


def test_it_speaks_from_least_on():
    W, xs = mg.param(array(3, SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(4)]
    assert nothing(advice_on(vectors_one_by_one, W, xs, least=5))
    assert only(advice_on(vectors_one_by_one, W, xs, least=4), 2).count == 4
    with pytest.raises(ValueError, match=r"minigrad\.advisor: least must be at least 2, got 1"), mg.advisor(least=1):
        pass


def test_a_line_within_a_comprehension_is_the_functions():
    def program():
        mg.stack([W @ x for x in xs]).sum().backward()  # here

    W, xs = mg.param(array(3, SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(4)]
    assert only(advice_on(program), 2).where == here(program)


def test_values_and_gradients_are_the_same_when_watched():
    W, xs = mg.param(array(3, SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(4)]
    vectors_one_by_one(W, xs)
    plain, W.grad = mg.to_cpu(W.grad), None
    advice_on(vectors_one_by_one, W, xs)
    assert (mg.to_cpu(W.grad) == plain).all()


def test_under_the_advisor_a_graph_knows_its_lines():
    with mg.advisor():
        y = mg.exp(mg.param([1.0]))  # noted
    assert "y = mg.exp(mg.param([1.0]))  # noted" in str(mg.graph(y))


def test_an_advisor_inside_another_watches_alone():
    W, xs = mg.param(array(3, SIZE)), [mg.tensor(array(SIZE, seed=i)) for i in range(4)]
    with mg.advisor() as outer:
        mg.exp(W).sum().backward()
        with mg.advisor(least=4) as inner:
            vectors_one_by_one(W, xs)
        mg.exp(W).sum().backward()
    assert (outer.operations, inner.operations) == (4, 16)
    assert only(inner, 2) and nothing(outer)


def test_anomaly_finds_its_nan_under_an_advisor_and_the_advisor_its_graphs():
    def program():
        for _ in range(5):
            with mg.anomaly():
                y = mg.exp(W)
            y.sum().backward()
        with mg.backend.quiet(), mg.anomaly(), pytest.raises(mg.debug.AnomalyError, match=r"mg.log\(W\)  # here"):
            mg.log(W)  # here

    W = mg.param(-np.ones(SIZE, "float32"))
    assert nothing(advice_on(program))


# ---- off, it is not there -------------------------------------------------------------------------------------------


def test_when_it_is_off_nothing_is_registered():
    before = tape._special, Rows.dense
    with pytest.raises(KeyError), mg.advisor():
        assert tape.state.watchers and ledger.state.listeners and tape._special > before[0]
        raise KeyError
    assert tape.state.watchers == () and ledger.state.listeners == ()
    assert (tape._special, Rows.dense) == before


def test_it_keeps_no_array_alive():
    import gc
    import weakref

    gc.disable()
    try:
        with mg.advisor():
            W, x = mg.param(array(SIZE)), mg.tensor(array(SIZE))
            y = mg.exp(W * x)
            arrays = [weakref.ref(thing) for thing in (W.data, x.data, y.data)]
            del W, x, y
            assert [array() for array in arrays] == [None] * 3
    finally:
        gc.enable()


def test_it_is_loaded_when_first_asked_for_and_is_a_module_that_can_be_called():
    code = "import sys, minigrad as mg; print('minigrad.advisor' in sys.modules); first = mg.advisor; "
    code += "import minigrad.advisor as a; print(first is a is mg.advisor, a.Advice is type(a().__enter__()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]
    with pytest.raises(AttributeError, match="module 'minigrad' has no attribute 'poetry'"):
        mg.poetry  # noqa: B018


# ---- sabotage -------------------------------------------------------------------------------------------------------


def by_address(found):
    """Knows an array by its address alone: of one that has died another may inherit it."""

    def known(self, a):
        array = a._data if isinstance(a, mg.Tensor) else a
        return found.setdefault(id(array), identity.Known(id(array))) if hasattr(array, "shape") else None

    return known


def one_more(finding):
    return lambda trick, where, message, count, saved: finding(trick, where, message, count + 1, saved)


def without(place, right=identity.Identities.input):
    """What tells an argument from others, one of the three left out: which array it is, its version, its content."""
    return lambda self, a, known: tuple(part for i, part in enumerate(right(self, a, known)) if i != place)


def all_in_a_row(group):
    return lambda self, it, shared, other, level: group(self, it, shared, other, 0)


MUTANTS = {  # what is put in the place of what, and the test that must not pass with it
    "which array it is does not matter": (
        (identity.Identities, "input", lambda self, a, known: ()),
        lambda: test_different_inputs_are_no_repetition(),
    ),
    "an array is its address": (
        (identity.Identities, "__getitem__", by_address({})),
        lambda: test_an_operation_on_arrays_that_come_and_go_at_one_address_is_no_repetition(),
    ),
    "the version does not matter": (
        (identity.Identities, "input", without(1)),
        lambda: test_a_parameter_that_was_updated_is_another_input(),
    ),
    "the content does not matter": (
        (identity.Identities, "input", without(2)),
        lambda: test_a_constant_that_was_filled_anew_is_another_input(),
    ),
    "the options do not matter": (
        (patterns, "content", lambda value: ()),
        lambda: test_other_options_are_another_operation(),
    ),
    "what a walk has passed could be used again": (
        (patterns.Result, "__setattr__", lambda self, name, value: None),
        lambda: test_what_a_walk_has_passed_must_be_done_again(),
    ),
    "a view is an operation": ((patterns, "is_view", lambda it: False), lambda: test_a_view_computes_nothing()),
    "a checkpoint's operations count twice": (
        (advisor_module, "in_a_walk", lambda: False),
        lambda: test_a_checkpoint_does_its_operations_again_on_purpose(),
    ),
    "one too many is counted": (
        (patterns, "Finding", one_more(patterns.Finding)),
        lambda: test_an_operation_on_the_same_inputs_is_counted_with_all_that_it_would_save.hypothesis.inner_test(3, 2),
    ),
    "no product needs another": (
        (patterns.OneByOne, "group", all_in_a_row(patterns.OneByOne.group)),
        lambda: test_in_a_chain_each_product_needs_the_one_before(),
    ),
    "walks are not seen, products": (
        (advisor_module.Advice, "gradients", lambda self, node, gradients: None),
        lambda: test_products_with_a_constant_between_two_walks_are_those_of_one_stretch(),
    ),
    "walks are not seen, copies": (
        (advisor_module.Advice, "gradients", lambda self, node, gradients: None),
        lambda: test_a_copy_for_each_batch_is_as_it_should_be(),
    ),
    "copies are not heard": (
        (patterns.Moved, "hear", lambda self, kind, nbytes, device: None),
        lambda: test_values_copied_in_inside_the_loop_are_counted_with_their_bytes.hypothesis.inner_test(3, 2),
    ),
    "graphs that were walked are in vain as well": (
        (wastes.Graphs, "walked", lambda self, node, gradients, line: None),
        lambda: test_losses_kept_with_their_graph_are_counted.hypothesis.inner_test(3),
    ),
    "any number is float64": (
        (wastes, "is_parameter", lambda a: False),
        lambda: test_a_parameter_of_float64_among_those_of_float32_is_named_and_alone_it_is_on_purpose(),
    ),
    "any matrix is one-hot": (
        (wastes, "rows_picked", lambda a: 1),
        lambda: test_a_product_with_what_is_not_one_hot_is_a_product(),
    ),
}


@pytest.mark.cpu
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_advisor_is_killed_by_the_test_that_is_named_for_what_it_breaks(name, monkeypatch):
    (owner, attribute, wrong), test = MUTANTS[name]
    test()
    monkeypatch.setattr(owner, attribute, wrong)
    with pytest.raises((AssertionError, ValueError)):
        test()


# ---- a whole script -------------------------------------------------------------------------------------------------

SCRIPT = """\
import sys
import helper
import minigrad as mg

def main():
    W = mg.param(helper.ones)
    for _ in range(int(sys.argv[1])):
        y = mg.exp(W)  # again
    y.sum().backward()
    print("done", sys.argv[1:], __name__)

if __name__ == "__main__":
    main()
    sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("ones = [1.0, 1.0]")

    def run(*flags):
        command = [sys.executable, "-W", "error", "-m", "minigrad.advisor", *map(str, flags)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    return run


def test_a_script_runs_as_python_would_run_it_and_the_advice_comes_at_the_end(run):
    done = run("script.py", 7, 0)
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert first == "done ['7', '0'] __main__"
    assert "script.py: 2 things to say of 8 operations" in rest
    assert "1. script.py:8, in main: y = mg.exp(W)  # again" in rest


def test_its_status_is_kept(run):
    done = run("--least", 9, "script.py", 7, 3)
    assert done.returncode == 3 and done.stdout.endswith("script.py: nothing to say of 8 operations\n")


def test_its_error_is_shown_and_the_advice_as_well(run):
    done = run("script.py", 7, "seven")
    assert done.returncode == 1 and "ValueError: invalid literal" in done.stderr
    assert "script.py: 2 things to say" in done.stdout


def test_a_script_that_is_not_there_is_one_line(run):
    done = run("poetry.py")
    assert done.returncode == 2 and done.stderr.endswith("error: poetry.py: there is no such file\n")
    done = run("--least", 1, "script.py")
    assert done.returncode == 2 and done.stderr.endswith("error: --least must be at least 2, got 1\n")
