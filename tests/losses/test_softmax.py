"""The exact softmax: the derivation's steps, chunks of any size, and the errors."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from losses import FullSoftmax
from losses.check import smallest_failure
from losses.layer import of_scores
from losses.softmax import (
    IN_PYTORCH,
    full_softmax,
    merge,
    softmax_cross_entropy,
    softmax_naive,
)
from losses.suites import Lesson
from losses.suites.softmax import CHAPTER, batches
from minigrad.backend import xp_of
from minigrad.check import check_grads, vocab_batches

from .properties import where_tensors_are_made

pytestmark = pytest.mark.softmax


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, where_tensors_are_made(softmax_cross_entropy)) is None


@given(batches())
def test_step_1_the_naive_form_is_the_same_where_it_does_not_overflow(batch):
    scores, targets = map(mg.backend.asarray, batch)
    naive, stable = softmax_naive(scores, targets), softmax_cross_entropy(scores, targets)[0]
    assert np.allclose(mg.to_cpu(naive), mg.to_cpu(stable), rtol=1e-9, atol=1e-9)


def test_step_2_the_naive_form_overflows():
    with mg.backend.quiet():
        (loss,) = softmax_naive(mg.backend.asarray([[1000.0, 0.0]]), mg.backend.asarray([0])).tolist()
    assert math.isnan(loss)


# ---- (4): chunks merge in any grouping ----------------------------------------------------------------------------

numbers = st.floats(-1e4, 1e4) | st.just(-np.inf)
some_scores = hnp.arrays("float64", st.integers(0, 5), elements=numbers)


def pair(scores):
    """(m, l) of some scores by the definition, in NumPy; then where tensors are made."""
    m, l = -np.inf, 0.0  # noqa: E741
    if len(scores) and scores.max() > -np.inf:
        m, l = scores.max(), np.exp(scores - scores.max()).sum()  # noqa: E741
    return mg.backend.asarray(m), mg.backend.asarray(l)


def log_sum(m_and_l):
    m, l = map(mg.to_cpu, m_and_l)  # noqa: E741
    with np.errstate(divide="ignore"):
        return float(m + np.log(l))


def same(one, other):
    one, other = log_sum(one), log_sum(other)
    return one == other or abs(one - other) <= 1e-12 * max(1.0, abs(one))


@given(some_scores, some_scores, some_scores)
def test_step_4_the_merge_is_associative(a, b, c):
    a, b, c = map(pair, (a, b, c))
    assert same(merge(merge(a, b), c), merge(a, merge(b, c)))


@given(some_scores, some_scores)
def test_step_4_the_merge_is_commutative(a, b):
    assert same(merge(pair(a), pair(b)), merge(pair(b), pair(a)))


@given(some_scores)
def test_step_4_no_words_at_all_change_nothing(a):
    nothing = pair(np.array([]))
    assert same(merge(pair(a), nothing), pair(a)) and same(merge(nothing, pair(a)), pair(a))


@given(some_scores, some_scores)
def test_step_4_two_chunks_merged_are_the_chunk_of_both(a, b):
    assert same(merge(pair(a), pair(b)), pair(np.concatenate([a, b])))


def all_gradients(batch, chunk, bias=True):
    bias = batch.bias if bias else 0.0
    up = mg.Key(0).normal(batch.targets.shape, "float64")
    loss = full_softmax(batch.hidden, batch.weight, bias, targets=mg.backend.asarray(batch.targets), chunk=chunk)
    leaves = [batch.hidden, batch.weight] + ([batch.bias] if bias is batch.bias else [])
    return [mg.to_cpu(a) for a in (loss.data, *mg.grad(loss, leaves, up))]


@pytest.mark.parametrize("chunk", [None, 100])
def test_step_3_the_gradients_add_up_to_zero_however_far_from_zero_the_scores_are(chunk):
    """In float32, scores near 10,000: a normaliser rounded to their digits would make the sum miss by 0.0001."""
    layer = FullSoftmax(1000, 3, key=mg.Key(0), chunk=chunk)
    layer.bias.data = mg.backend.xp().full(1000, 1e4, "float32")
    layer.loss(mg.Key(1).normal((20, 3)), np.arange(20)).backward()
    assert abs(layer.bias.grad.sum(dtype="float64")) < 1e-6


@given(vocab_batches(), st.integers(1, 9), st.booleans())
def test_step_5_the_size_of_the_chunks_changes_nothing(batch, chunk, bias):
    for whole, chunked in zip(all_gradients(batch, None, bias), all_gradients(batch, chunk, bias), strict=True):
        assert whole.shape == chunked.shape and np.allclose(whole, chunked, rtol=1e-12, atol=1e-12)


@given(vocab_batches(), st.sampled_from([None, 2]))
def test_the_operation_is_the_pure_function_of_scores_found_by_the_engine(batch, chunk):
    scores, targets = batch.hidden @ batch.weight.T + batch.bias, mg.backend.asarray(batch.targets)
    up = mg.Key(0).normal(targets.shape, "float64")
    loss = of_scores(lambda scores: softmax_cross_entropy(scores, targets))(scores)
    expected = [loss.data, *mg.grad(loss, [batch.hidden, batch.weight, batch.bias], up)]
    for found, wanted in zip(all_gradients(batch, chunk), expected, strict=True):
        assert np.allclose(found, mg.to_cpu(wanted), rtol=1e-12, atol=1e-12)


@given(vocab_batches(max_vocab=4, max_dim=2, max_batch=3), st.sampled_from([None, 2]))
def test_all_gradients_are_right_to_second_order(batch, chunk):
    targets = mg.backend.asarray(batch.targets)

    def loss(hidden, weight, bias):
        return full_softmax(hidden, weight, bias, targets=targets, chunk=chunk)

    check_grads(loss, batch.hidden, batch.weight, batch.bias)


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_second_walk_over_a_kept_graph_gives_the_same(chunk):
    layer = FullSoftmax(7, 4, key=mg.Key(0), chunk=chunk)
    hidden = mg.param(mg.Key(1).normal((5, 4)))
    loss = layer.loss(hidden, [0, 6, 3, 3, 1])
    loss.backward(retain_graph=True)
    first, layer.weight.grad = layer.weight.grad, None
    loss.backward()
    assert (layer.weight.grad == first).all()


# ---- memory ---------------------------------------------------------------------------------------------------------


def peak_of_a_step(chunk):
    """Bytes above weights and gradients at the worst moment of a step; B V numbers are 6.4 MB."""
    layer = FullSoftmax(50_000, 8, key=mg.Key(0), chunk=chunk)
    hidden = mg.param(mg.Key(1).normal((32, 8)))
    layer.loss(hidden, [0] * 32).backward()  # whatever is loaded on first use
    layer.weight.grad = layer.bias.grad = None
    tracemalloc.start()
    layer.loss(hidden, [0] * 32).backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - layer.weight.grad.nbytes - layer.bias.grad.nbytes


@pytest.mark.cpu  # tracemalloc sees main memory; of a GPU's tells `test_transfers.py`
def test_in_chunks_the_scores_are_never_all_in_memory():
    everything = 32 * 50_000 * 4
    assert peak_of_a_step(None) >= everything
    assert peak_of_a_step(500) < everything / 20


def test_every_row_has_a_gradient_and_the_cost_says_so():
    layer = FullSoftmax(6, 3, key=mg.Key(0))
    layer.loss(mg.Key(1).normal((2, 3)), [0, 5]).backward()
    assert (layer.weight.grad != 0).all()
    assert layer.score_cost() == (6, 6)


# ---- the layer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_of_the_layer_is_minus_its_log_prob(chunk, bias):
    layer = FullSoftmax(5, 3, key=mg.Key(0), chunk=chunk, bias=bias)
    layer.weight.data = mg.Key(2).normal((5, 3))
    hidden, targets = mg.Key(1).normal((4, 3)), np.array([4, 0, 2, 2])
    losses, log_prob = layer.loss(hidden, targets, reduction="none").numpy(), layer.log_prob(hidden).numpy()
    assert np.allclose(-log_prob[np.arange(4), targets], losses, rtol=1e-5, atol=1e-6)
    assert np.isclose(layer.loss(hidden, targets).item(), losses.mean(), rtol=1e-6)
    assert np.allclose(np.exp(log_prob).sum(axis=1), 1.0, rtol=1e-5)


def test_training_finds_the_distribution():
    layer = FullSoftmax(4, 1, key=mg.Key(0))
    optimiser = mg.optim.SGD(layer.parameters(), lr=1.0)
    targets = np.repeat(np.arange(4), [1, 2, 3, 10])
    for _ in range(500):
        optimiser.zero_grad()
        layer.loss(np.ones((16, 1), "float32"), targets).backward()
        optimiser.step()
    learned = np.exp(layer.log_prob(np.ones((1, 1), "float32")).numpy())[0]
    assert np.allclose(learned, np.array([1, 2, 3, 10]) / 16, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "use", "error", "says"),
    [
        ({"chunk": 0}, None, ValueError, "losses.FullSoftmax: chunk must be at least 1, got 0"),
        ({"chunk": 2.5}, None, TypeError, "losses.FullSoftmax: chunk must be an integer"),
        ({"vocab_size": 1}, None, ValueError, "losses.FullSoftmax: vocab_size must be at least 2, got 1"),
        ({}, lambda layer: layer.loss(np.ones((2, 3), "float32"), [0, 5]), IndexError, r"targets must lie in \[0, 5\)"),
        ({}, lambda layer: layer.loss(np.ones((2, 3), "float32"), [0, -1]), IndexError, r"targets .* got -1"),
        ({}, lambda layer: layer.loss(np.ones((2, 3), "float32"), [0.0, 1.0]), TypeError, "targets must be integers"),
        ({}, lambda layer: layer.loss(np.full((1, 3), np.nan, "float32"), [0]), FloatingPointError, "hidden holds NaN"),
        ({}, lambda layer: layer.loss(np.ones((0, 3), "float32"), []), ValueError, r"hidden must have shape \(B, 3\)"),
        (
            {},
            lambda layer: layer.loss(np.ones((1, 3), "float32"), [0], reduction="max"),
            ValueError,
            "reduction must be",
        ),
        ({}, lambda layer: layer.topk(np.ones((1, 3), "float32"), 6), ValueError, "topk: k must lie in 1 to 5, got 6"),
        ({}, lambda layer: layer.topk(np.ones((1, 3), "float32"), 0), ValueError, "topk: k must be at least 1, got 0"),
    ],
)
def test_bad_input_is_a_clear_error(make, use, error, says):
    with pytest.raises(error, match=says):
        layer = FullSoftmax(**{"vocab_size": 5, "dim": 3, "key": mg.Key(0)} | make)
        use(layer)


@pytest.mark.oracle
@given(vocab_batches(dtype="float32"), st.sampled_from([None, 3]))
def test_the_lines_for_pytorch_give_what_the_chapter_gives(batch, chunk):
    torch = pytest.importorskip("torch")
    weight, bias, hidden, targets = batch
    layer = FullSoftmax(*weight.shape, key=mg.Key(0), chunk=chunk)
    layer.weight, layer.bias, hidden.grad, weight.grad, bias.grad = weight, bias, None, None, None
    ours = layer.loss(hidden, targets, reduction="none")
    ours.mean().backward()

    imports, make, train = IN_PYTORCH.strip().split("\n\n")
    theirs = {"V": weight.shape[0], "d": weight.shape[1], "targets": torch.tensor(targets)}
    theirs["hidden"] = torch.tensor(hidden.numpy(), requires_grad=True)
    exec(imports + "\n" + make, theirs)
    theirs["out"].weight.data, theirs["out"].bias.data = torch.tensor(weight.numpy()), torch.tensor(bias.numpy())
    exec(train, theirs)

    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-5, atol=1e-5)
    for mine, its in ((hidden, theirs["hidden"]), (weight, theirs["out"].weight), (bias, theirs["out"].bias)):
        assert np.allclose(mg.to_cpu(mine.grad), its.grad.numpy(), rtol=1e-4, atol=1e-5)


def the_target_left_out_of_the_sum(scores, targets):
    rows = np.arange(len(targets))
    others = np.exp(scores).sum(axis=1) - np.exp(scores[rows, targets])
    return np.log(others + 1e-300) - scores[rows, targets], softmax_cross_entropy(scores, targets)[1]


def minus_one_left_out(scores, targets):
    loss, g = softmax_cross_entropy(scores, targets)
    return loss, g + (np.arange(scores.shape[1]) == targets[:, None])


def mean_for_one(scores, targets):
    loss, g = softmax_cross_entropy(scores, targets)
    return loss, g / len(targets)


def maximum_not_added_again(scores, targets):
    loss, g = softmax_cross_entropy(scores, targets)
    return loss - scores.max(axis=1), g


def no_maximum(scores, targets):
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    rows = np.arange(len(targets))
    loss = -np.log(p[rows, targets])
    p[rows, targets] -= 1
    return loss, p


def in_place(scores, targets):
    scores -= scores.max(axis=1, keepdims=True)
    return softmax_cross_entropy(scores, targets)


def in_float64(scores, targets):
    return softmax_cross_entropy(scores.astype("float64"), targets)


MUTANTS = {
    the_target_left_out_of_the_sum: "the loss is −log p of the target",
    minus_one_left_out: "G sums to zero",
    mean_for_one: "G is the derivative of the loss",
    maximum_not_added_again: "a constant added to all scores cancels",
    no_maximum: "all is right far from zero",
    in_place: "one loss an example",
    in_float64: "float32 stays float32",
}


@pytest.mark.cpu
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_wrong_version_is_killed_by_the_lesson_of_its_step(mutant):
    lesson: Lesson = next(lesson for lesson in CHAPTER.lessons if lesson.name == MUTANTS[mutant])
    with np.errstate(all="ignore"):
        assert smallest_failure(lesson, mutant) is not None


@pytest.mark.cpu
def test_every_lesson_of_the_chapter_kills_some_mutant():
    alive = set()
    for lesson in CHAPTER.lessons:
        with np.errstate(all="ignore"):
            if all(smallest_failure(lesson, mutant, 50) is None for mutant in MUTANTS):
                alive.add(lesson.name)
    assert alive == set()


def wrong_merge_without_rescaling(one, other):
    return xp_of(one[0]).maximum(one[0], other[0]), one[1] + other[1]


def wrong_merge_by_the_first_maximum(one, other):
    xp = xp_of(one[0])
    return one[0], one[1] + other[1] * xp.exp(xp.minimum(other[0] - one[0], 700.0))


@pytest.mark.parametrize("wrong", [wrong_merge_without_rescaling, wrong_merge_by_the_first_maximum])
def test_a_wrong_merge_is_killed_by_the_chunks(wrong, monkeypatch):
    property_of_a_batch = test_step_5_the_size_of_the_chunks_changes_nothing.hypothesis.inner_test
    search = given(vocab_batches(), st.integers(1, 9), st.booleans())(property_of_a_batch)
    monkeypatch.setattr("losses.softmax.merge", wrong)
    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        settings(max_examples=100, phases=[Phase.generate])(search)()  # any example will do, not only the smallest
