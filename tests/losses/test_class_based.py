"""The class-based softmax: a test for each numbered step of `losses.structured.class_based`, and an oracle in torch."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from losses import ClassSoftmax, FullSoftmax
from losses.check import smallest_failure
from losses.samplers import zipf
from losses.structured import class_based, kernels
from losses.structured.class_based import (
    IN_PYTORCH,
    best_classes,
    best_cuts_naive,
    best_num_classes,
    class_rows,
    class_softmax,
    class_softmax_loss,
    class_softmax_naive,
    equal_mass_classes,
    equal_size_classes,
    expected_rows,
    sqrt_count_classes,
)
from losses.suites.class_based import CHAPTER, batches, far_batches, filled_batches
from minigrad.check import vocab_batches

from .properties import where_tensors_are_made

pytestmark = pytest.mark.class_based

fewer = settings(max_examples=max(5, settings().max_examples // 4))  # where an example takes its time

KEY = mg.Key(1)


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, where_tensors_are_made(class_softmax)) is None


# ---- what the tests are made of -----------------------------------------------------------------------------------


def partitions(most=6):
    """Strategy: (V,) the class of each word, every number from 0 to the greatest used."""
    words = st.lists(st.integers(0, most - 1), min_size=2, max_size=most)
    return words.map(lambda classes: np.unique(classes, return_inverse=True)[1])


def counts(v):
    """Strategy: (V,) counts, from even to very skewed."""
    one = st.integers(1, 5).map(float) | st.integers(-20, 20).map(lambda i: 2.0**i)
    return st.lists(one, min_size=v, max_size=v).map(np.array)


def counted_partitions(most=6):
    """Strategy: (counts (V,), the class of each word (V,))."""
    return partitions(most).flatmap(lambda classes: st.tuples(counts(len(classes)), st.just(classes)))


def all_partitions(v):
    """Every way to put v words into classes: the class of each."""
    found = [[0]]
    for _ in range(v - 1):
        found = [[*classes, c] for classes in found for c in range(max(classes) + 2)]
    return np.array(found)


def rows_by_definition(counts, classes):
    """C + Σ_w q(w) n_{c(w)}, word by word."""
    classes, q = list(classes), np.array(counts) / np.sum(counts)
    return len(set(classes)) + sum(q_w * classes.count(c) for q_w, c in zip(q, classes))


def sizes_of(classes):
    return np.bincount(mg.to_cpu(classes)).tolist()


def layer_of(classes, dim=3, dtype="float64", **options):
    """A layer with these classes and weights from −1 to 1."""
    layer = ClassSoftmax(len(classes), dim, key=KEY, classes=classes, **options)
    for i, table in enumerate(layer.tables):
        if getattr(layer, table) is not None:
            shape = getattr(layer, table).shape
            setattr(layer, table, mg.param(2 * KEY.fold(i).uniform(shape, dtype) - 1))
    return layer


def contexts(batch=5, dim=3, dtype="float64"):
    return mg.param(2 * mg.Key(8).normal((batch, dim), dtype))


def dense(gradient):
    return mg.to_cpu(gradient.dense() if isinstance(gradient, mg.Rows) else gradient)


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum())


def log_prob_by_definition(layer, h):
    """(1), for each word by itself: (V,)."""
    classes, place = mg.to_cpu(layer.classes), mg.to_cpu(layer.place)
    of_class = log_softmax(layer.class_weight.numpy() @ h + layer.class_bias.numpy())
    scores = (layer.weight.numpy() @ h + layer.bias.numpy())[place]  # by words
    return np.array([of_class[c] + s - np.log(np.exp(scores[classes == c]).sum()) for c, s in zip(classes, scores)])


# ---- (1) to (3): the loss and its gradient ------------------------------------------------------------------------


@fewer
@given(partitions())
def test_step_1_the_probabilities_are_products_and_sum_to_one_for_every_partition(classes):
    layer, hidden = layer_of(classes), contexts()
    log_p = layer.log_prob(hidden).numpy()
    assert np.allclose(np.exp(log_p).sum(axis=1), 1, rtol=0, atol=1e-12)
    assert np.allclose(log_p, [log_prob_by_definition(layer, h) for h in hidden.numpy()], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_1_holds_for_scores_of_ten_thousand(dtype):
    layer, hidden = layer_of([0, 1, 0, 1, 1], dtype=dtype), contexts(1, dtype=dtype)
    layer.weight = mg.param(0.0 * layer.weight.data)
    layer.bias = mg.param(np.array([1e4, 1e4, -1e4, 0.0, -1e4], dtype))  # of the words 0 and 2; of 1, 3 and 4
    one, other = np.exp(log_softmax(layer.class_weight.numpy() @ hidden.numpy()[0] + layer.class_bias.numpy()))
    found = np.exp(layer.log_prob(hidden).numpy()[0])
    assert np.allclose(found, [one / 2, 0.0, one / 2, other, 0.0], rtol=1e-6, atol=0)


@fewer
@given(partitions())
def test_step_2_the_loss_of_the_layer_is_minus_the_log_of_the_targets_probability(classes):
    layer, hidden, targets = layer_of(classes), contexts(), np.arange(5) % len(classes)
    expected = -layer.log_prob(hidden).numpy()[np.arange(5), targets]
    assert np.allclose(layer.loss(hidden, targets, reduction="none").numpy(), expected, rtol=1e-12, atol=1e-12)
    assert np.allclose(layer.log_prob_of(hidden, targets).numpy(), -expected, rtol=1e-12, atol=1e-12)


def placed(batch):
    """Two tensors, and the options, of a batch of the suite's."""
    names = ("target_class", "target_word", "sizes")
    return map(mg.param, batch[:2]), {n: mg.backend.asarray(a) for n, a in zip(names, batch[2:], strict=True)}


@given(batches())
def test_step_2_the_naive_way_has_the_same_loss_and_gradients(batch):
    (class_scores, word_scores), options = placed(batch)
    fused = class_softmax_loss(class_scores, word_scores, **options)
    naive = class_softmax_naive(class_scores, word_scores, **options)
    assert np.allclose(fused.numpy(), naive.numpy(), rtol=1e-11, atol=1e-12)
    pairs = zip(*(mg.grad(y.sum(), [class_scores, word_scores]) for y in (fused, naive)))
    assert all(np.allclose(mg.to_cpu(f), mg.to_cpu(n), rtol=1e-10, atol=1e-12) for f, n in pairs)


def test_step_2_the_naive_loss_of_a_score_of_10000_is_no_number():
    options = {n: mg.backend.asarray(np.array([v])) for n, v in (("target_class", 0), ("target_word", 0), ("sizes", 2))}
    scores = mg.backend.asarray([[1.0]]), mg.backend.asarray([[0.0, 1e4]])
    with np.errstate(all="ignore"):
        assert not math.isfinite(class_softmax_naive(*scores, **options)[0])
    assert class_softmax(*scores, **options)[0].tolist() == [1e4]


@fewer
@given(batches(limit=3.0, filling=(0.0, 1.0, -2.0)))
def test_step_3_gradients_are_right_to_second_order(batch):
    _, options = placed(batch)
    mg.check_grads(lambda c, w: class_softmax_loss(c, w, **options), *batch[:2])


def all_kernels(monkeypatch, on):
    """Kernels on the CPU for whatever is float32 or float64, however small; or none."""
    monkeypatch.setattr(class_based, "worth_a_kernel", lambda out, *_: on and isinstance(out, np.ndarray))


@pytest.fixture(params=[True, False], ids=["kernels", "array code"])
def both_ways(request, monkeypatch):
    all_kernels(monkeypatch, request.param)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_step_3_only_the_rows_of_the_targets_classes_have_a_gradient_and_classes_all(both_ways, bias):
    classes = np.array([0, 1, 2, 1, 3, 0, 2, 1, 0])
    layer, targets = layer_of(classes, bias=bias), [3, 0, 3, 8, 1]  # of the classes 1 and 0
    layer.loss(contexts(), targets).backward()
    touched = np.isin(classes, [0, 1])
    for p in (layer.weight, layer.bias) if bias else (layer.weight,):
        rows = mg.to_cpu(layer.words)[np.unique(mg.to_cpu(p.grad.ids))]
        assert isinstance(p.grad, mg.Rows) and set(rows) == set(np.flatnonzero(touched))
    assert dense(layer.weight.grad)[mg.to_cpu(layer.place)].all(axis=1).tolist() == touched.tolist()
    assert dense(layer.class_weight.grad).all() and (not bias or dense(layer.class_bias.grad).all())


def test_step_3_the_loss_needs_no_row_of_another_class(both_ways):
    """Whatever they hold: not a number, for instance."""
    classes, targets = np.array([0, 1, 2, 1, 3, 0, 2, 1, 0]), [3, 0, 3, 8, 1]
    layer = layer_of(classes)
    expected = layer.log_prob_of(contexts(), targets).numpy()
    ruined = layer.weight.numpy().copy()
    ruined[np.isin(np.sort(classes), [2, 3])] = math.nan
    layer.weight = mg.param(ruined)
    assert layer.log_prob_of(contexts(), targets).numpy().tolist() == expected.tolist()
    assert math.isfinite(layer.loss(contexts(), targets).item())


@fewer
@given(vocab_batches())
def test_step_3_with_a_single_class_it_is_the_full_softmax(batch):
    weight, bias, hidden, targets = batch
    layer = ClassSoftmax(*weight.shape, key=KEY, classes=np.zeros(len(bias.data), "int64"))
    layer.weight, layer.bias = weight, bias
    layer.class_weight, layer.class_bias = layer_of([0, 0], weight.shape[1]).parameters()[2:]
    the_same_as_the_full_softmax(layer, hidden, targets, weight, bias)
    assert not dense(layer.class_weight.grad).any(), "one class is no decision"


@fewer
@given(vocab_batches())
def test_step_3_with_a_class_for_each_word_it_is_the_full_softmax(batch):
    weight, bias, hidden, targets = batch
    layer = ClassSoftmax(*weight.shape, key=KEY, classes=np.arange(len(bias.data)))
    layer.class_weight, layer.class_bias = weight, bias
    layer.weight = mg.param(layer.weight.data, dtype=weight.dtype)
    layer.bias = mg.param(layer.bias.data, dtype=weight.dtype)
    the_same_as_the_full_softmax(layer, hidden, targets, weight, bias)
    assert not dense(layer.weight.grad).any(), "a single word is no decision"


def the_same_as_the_full_softmax(layer, hidden, targets, weight, bias):
    found, full = [], FullSoftmax(*weight.shape, key=KEY)
    full.weight, full.bias = weight, bias
    for one in (layer, full):
        for p in (weight, bias, hidden):
            p.grad = None
        loss = one.loss(hidden, targets, reduction="none")
        loss.sum().backward()
        log_p = one.log_prob(hidden).numpy()
        found.append([loss.numpy(), log_p, *(dense(p.grad) for p in (weight, bias, hidden))])
    assert all(np.allclose(ours, theirs, rtol=1e-11, atol=1e-12) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("num_classes", [1, 20])
def test_step_3_one_class_or_one_a_word_costs_one_row_more_than_the_full_softmax(num_classes):
    assert expected_rows(zipf(20), equal_size_classes(zipf(20), num_classes)) == 21


# ---- (4) to (7): the quiz -----------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 12), st.randoms())
def test_step_4_classes_of_one_size_cost_c_plus_v_over_c_whatever_the_counts_are(num_classes, size, random):
    v = num_classes * size
    counts = [random.random() + 0.01 for _ in range(v)]
    classes = equal_size_classes(counts, num_classes)
    assert sizes_of(classes) == [size] * num_classes
    assert math.isclose(expected_rows(counts, classes), num_classes + size, rel_tol=1e-12)
    assert num_classes + size >= 2 * math.sqrt(v) - 1e-12


@pytest.mark.parametrize("v", [4, 25, 100, 144])
def test_step_4_the_least_is_two_roots_of_v_for_root_v_classes(v):
    costs = [expected_rows(np.ones(v), equal_size_classes(np.ones(v), c)) for c in range(1, v + 1)]
    assert min(costs) == costs[math.isqrt(v) - 1] == 2 * math.sqrt(v)


@given(counted_partitions())
def test_step_5_the_expected_number_of_rows_is_a_sum_over_words_or_classes(example):
    counts, classes = example
    expected = rows_by_definition(counts, classes)
    q = counts / counts.sum()
    by_class = sum(1 + q[classes == c].sum() * (classes == c).sum() for c in set(classes))
    assert math.isclose(expected, by_class, rel_tol=1e-12)
    assert math.isclose(expected_rows(counts, classes), expected, rel_tol=1e-12)


def test_step_5_it_is_the_mean_of_the_rows_that_have_a_gradient():
    counts, classes = np.array([5.0, 1.0, 2.0, 4.0, 3.0, 1.0]), np.array([0, 1, 2, 1, 0, 1])
    layer = layer_of(classes, counts=counts)
    rows = []
    for target in range(6):
        for p in layer.parameters():
            p.grad = None
        layer.loss(contexts(1), [target]).backward()
        rows.append(len(layer.class_weight.grad) + len(set(layer.weight.grad.ids.tolist())))
    assert math.isclose(expected_rows(counts, classes), (rows * counts).sum() / counts.sum(), rel_tol=1e-12)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_step_5_bins_of_equal_mass_cost_what_equal_sizes_cost(sizes):
    """Classes of any sizes n and of one mass: words that occur 1/n as often each."""
    counts = np.concatenate([[1.0 / n] * n for n in sorted(sizes)])
    classes = equal_mass_classes(counts, len(sizes))
    assert sizes_of(classes) == sorted(sizes)
    assert math.isclose(expected_rows(counts, classes), len(sizes) + sum(sizes) / len(sizes), rel_tol=1e-12)


def test_step_5_under_zipfs_law_equal_mass_gains_nothing_but_the_bins_that_stay_empty():
    counts = zipf(10_000)
    assert math.isclose(expected_rows(counts, equal_size_classes(counts, 100)), 200.0, rel_tol=1e-12)
    classes = equal_mass_classes(counts, 100)
    rows, used = expected_rows(counts, classes), len(sizes_of(classes))
    assert used == 80 and round(rows) == 180
    assert round(100 + (rows - used)) == 200  # with the empty ones


@given(counted_partitions())
def test_step_6_no_partition_costs_less_than_cauchy_and_schwarz_say(example):
    counts, classes = example
    roots = np.sqrt(counts / counts.sum())
    S, num_classes = roots.sum(), classes.max() + 1
    of_classes = sum(roots[classes == c].sum() ** 2 for c in range(num_classes))
    cost = expected_rows(counts, classes) * (1 + 1e-12)
    assert cost >= num_classes + of_classes >= (num_classes + S**2 / num_classes) * (1 - 1e-12) >= 2 * S * (1 - 2e-12)


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_step_6_with_words_equally_frequent_in_a_class_and_equal_sums_of_roots_it_is_equality(num_classes):
    sizes = np.arange(1, num_classes + 1) * 3
    counts = np.concatenate([[1.0 / n**2] * n for n in sizes])  # Σ √count is 1 in each class
    classes = sqrt_count_classes(counts, num_classes)
    S = np.sqrt(counts / counts.sum()).sum()
    assert sizes_of(classes) == sizes.tolist()
    assert math.isclose(expected_rows(counts, classes), num_classes + S**2 / num_classes, rel_tol=1e-12)


@fewer
@given(st.integers(1, 40).flatmap(counts))
def test_step_6_s_squared_is_v_for_equal_counts_and_less_for_others(counts):
    S, v = np.sqrt(counts / counts.sum()).sum(), len(counts)
    assert S**2 <= v * (1 + 1e-12) and best_num_classes(counts) == max(1, round(S))
    assert math.isclose(S**2, v, rel_tol=1e-9) == (len(set(counts)) == 1)


def test_step_6_under_zipfs_law_bins_of_equal_roots_cost_least():
    counts = zipf(10_000)
    S = np.sqrt(np.array(counts) / np.sum(counts)).sum()
    assert best_num_classes(counts) == round(S) == 63
    assert round(expected_rows(counts, sqrt_count_classes(counts, 100))) == 140
    assert round(expected_rows(counts, sqrt_count_classes(counts)), 1) == 127.1
    assert round(2 * S, 1) == 126.9


def test_step_6_no_other_number_of_bins_is_better_by_a_thousandth():
    counts = zipf(1000)
    costs = [expected_rows(counts, sqrt_count_classes(counts, c)) for c in range(1, 1001)]
    assert expected_rows(counts, sqrt_count_classes(counts)) <= 1.001 * min(costs)


@pytest.mark.parametrize("make", [equal_size_classes, equal_mass_classes, sqrt_count_classes])
@given(st.integers(1, 12).flatmap(counts), st.data())
def test_step_6_bins_cut_the_order_of_frequency(make, counts, data):
    num_classes = data.draw(st.integers(1, len(counts)))
    classes = mg.to_cpu(make(counts, num_classes))
    in_order = classes[np.argsort(-counts, kind="stable")]
    assert in_order[0] == 0 and set(np.diff(in_order)) <= {0, 1} and in_order[-1] < num_classes


@pytest.mark.parametrize("v", range(1, 8))
def test_step_7_no_partition_at_all_is_cheaper_than_the_best_cuts(v):
    everything = all_partitions(v)
    for seed in range(6):
        counts = np.exp(seed * mg.to_cpu(mg.Key(seed).normal(v, "float64")) / 2)
        cheapest = min(rows_by_definition(counts, classes) for classes in everything)
        assert math.isclose(expected_rows(counts, best_classes(counts)), cheapest, rel_tol=1e-12)


@pytest.mark.cpu
@given(st.integers(1, 300), st.floats(0.0, 3.0), st.floats(0.0, 2.0), st.integers(0, 99))
def test_step_7_the_kernel_finds_as_good_cuts(v, power, spread, seed):
    def cost(last, mass):
        j, total = len(mass) - 1, 0.0
        while j > 0:
            total += 1.0 + (mass[j] - mass[last[j]]) * (j - last[j])
            j = last[j]
        return total

    counts = np.arange(1.0, v + 1) ** -power * np.exp(spread * np.random.default_rng(seed).normal(size=v))
    mass = np.concatenate([[0.0], np.cumsum(-np.sort(-counts) / counts.sum())])
    last = np.empty(len(mass), "int64")
    kernels.best_cuts(mass, last)
    assert math.isclose(cost(last, mass), cost(best_cuts_naive(mass), mass), rel_tol=1e-12)


def test_step_7_under_zipfs_law_equal_roots_are_nearly_the_best():
    counts = zipf(5000)
    best = expected_rows(counts, best_classes(counts))
    assert best <= expected_rows(counts, sqrt_count_classes(counts)) <= 1.001 * best


def test_step_7_under_a_steep_law_they_cost_many_times_as_much():
    counts = np.exp(-np.arange(100.0))
    assert expected_rows(counts, sqrt_count_classes(counts)) > 5 * expected_rows(counts, best_classes(counts))


def test_step_7_are_the_layers_classes_and_a_word_that_never_occurred_counts_as_a_rarest_one():
    counts = [3.0, 9.0, 1.0, 0.0, 0.0, 5.0]
    layer = ClassSoftmax(6, 2, counts=counts, key=KEY)
    assert layer.classes.tolist() == best_classes([3.0, 9.0, 1.0, 1.0, 1.0, 5.0]).tolist()
    assert max(sizes_of(ClassSoftmax(900, 2, counts=[*zipf(300), *[0.0] * 600], key=KEY).classes)) < 100


# ---- the layer's order of rows, and the two ways to look at them ----------------------------------------------------


@given(partitions(9))
def test_the_words_of_a_class_have_rows_side_by_side(classes):
    layer = ClassSoftmax(len(classes), 2, key=KEY, classes=classes)
    words, place = mg.to_cpu(layer.words), mg.to_cpu(layer.place)
    assert (classes[words] == np.sort(classes)).all()
    assert (place[words] == np.arange(len(classes))).all()


@pytest.mark.cpu
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@fewer
@given(classes=partitions(9), seed=st.integers(0, 99))
def test_the_kernels_are_equal_to_the_array_code(bias, dtype, classes, seed):
    layer, hidden = layer_of(classes, dtype=dtype, bias=bias), contexts(dtype=dtype)
    targets = np.random.default_rng(seed).integers(0, len(classes), 5)
    found = []
    for on in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            all_kernels(patch, on)
            loss = layer.loss(hidden, targets, reduction="none")
            gradients = mg.grad(loss, [hidden, *layer.parameters()], np.arange(1.0, 6.0))
            found.append([loss.numpy(), *map(dense, gradients)])
    rounding = 1e-5 if dtype == "float32" else 1e-12
    assert all(f.dtype == dtype for f in found[0])
    assert all(np.allclose(k, a, rtol=rounding, atol=rounding) for k, a in zip(*found, strict=True))


@pytest.mark.cpu
@pytest.mark.parametrize("some", [filled_batches, far_batches])
@given(data=st.data())
def test_the_kernel_of_the_words_softmax_is_equal_to_the_array_code(some, data):
    _, scores, _, targets, sizes = data.draw(some())
    found = []
    for on in (True, False):
        with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
            all_kernels(patch, on)
            found.append(class_based._ragged_softmax(scores, targets, sizes))
    assert all(np.allclose(k, a, rtol=1e-6, atol=0) and k.dtype == a.dtype for k, a in zip(*found, strict=True))


@pytest.mark.cpu
@pytest.mark.parametrize("on", [True, False], ids=["kernels", "array code"])
@pytest.mark.parametrize("score", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_score_that_is_no_number_or_infinite_makes_the_loss_no_number(monkeypatch, on, score, place):
    all_kernels(monkeypatch, on)
    scores = np.array([[score, 1.0, 0.0] if place == 0 else [1.0, score, 0.0]])
    with np.errstate(all="ignore"):
        assert not math.isfinite(class_based._ragged_softmax(scores, np.array([0]), np.array([2]))[0][0])


@pytest.mark.cpu
def test_the_kernel_lists_each_row_of_the_batchs_classes_once(monkeypatch):
    all_kernels(monkeypatch, True)
    layer = layer_of(np.array([0, 1, 2, 1, 3, 0, 2, 1, 0]))
    layer.loss(contexts(), [3, 0, 7, 8, 1]).backward()  # of the classes 1, 0, 1, 0, 1: rows 0 to 5
    assert layer.weight.grad.ids.tolist() == layer.bias.grad.ids.tolist() == [0, 1, 2, 3, 4, 5]


@fewer
@given(vocab_batches())
def test_the_rows_of_a_class_have_derivatives_to_second_order(batch):
    """By two classes, of the even and the odd places of a table."""
    weight, bias, hidden, targets = batch
    half = len(bias.data) // 2
    first = mg.backend.asarray(np.where(targets % 2, half, 0) if half else 0 * targets)
    sizes = mg.backend.asarray(np.where(targets % 2, len(bias.data) - half, max(half, 1)))
    scores = lambda h, w, b: class_rows(h, w, b, first=first, sizes=sizes, width=len(bias.data)) * weights(sizes)
    weights = lambda sizes: np.where(np.arange(len(bias.data)) < mg.to_cpu(sizes)[:, None], 0.7, 0.0)
    mg.check_grads(scores, hidden, weight, bias)


@pytest.mark.parametrize("optimizer", [mg.optim.SGD, mg.optim.Adagrad, mg.optim.Adam])
def test_a_step_changes_the_rows_of_the_targets_classes_and_no_bit_of_the_others(both_ways, optimizer):
    classes = np.arange(40) % 8
    layer, targets = layer_of(classes), [3, 11, 0, 3, 24]  # of the classes 3 and 0
    before = [layer.weight.numpy().copy(), layer.bias.numpy().copy()]
    layer.loss(contexts(), targets).backward()
    optimizer(layer.parameters(), lr=0.1).step()
    touched = np.isin(np.sort(classes), [0, 3])
    for new, old in zip([layer.weight.numpy(), layer.bias.numpy()], before, strict=True):
        assert new[~touched].tobytes() == old[~touched].tobytes()
        assert (new[touched] != old[touched]).all()


# ---- (8) and (9): at test, and in batches -------------------------------------------------------------------------


@fewer
@given(partitions(9), st.integers(1, 9), st.integers(0, 99))
def test_step_8_the_best_words_by_bounding_are_those_of_all_words(classes, k, seed):
    layer, hidden, k = layer_of(classes), mg.Key(seed).normal((4, 3), "float64") * 3, min(k, len(classes))
    log_p = layer.log_prob(hidden).numpy()
    ids, scores = map(mg.to_cpu, layer.topk(hidden, k))
    assert (ids == np.argsort(-log_p, axis=1, kind="stable")[:, :k]).all()
    assert np.allclose(scores, np.take_along_axis(log_p, ids, axis=1), rtol=1e-12, atol=1e-12)


@given(st.permutations(range(8)), st.integers(1, 8))
def test_step_8_among_equals_the_smaller_id_comes_first(order, k):
    """Four classes of two words, all scores 0 but for those of words 5 and 6."""
    classes = np.array(order) // 2
    layer = ClassSoftmax(8, 2, key=KEY, classes=classes, bias=True)
    for table in layer.tables:
        setattr(layer, table, mg.param(0.0 * getattr(layer, table).data))
    bias = np.zeros(8, "float32")
    bias[mg.to_cpu(layer.place)[[5, 6]]] = 2.0
    layer.bias = mg.param(bias)
    ids = mg.to_cpu(layer.topk(np.ones((1, 2), "float32"), k)[0])[0]
    score = layer.log_prob(np.ones((1, 2), "float32")).numpy()[0].round(4)
    assert ids.tolist() == sorted(range(8), key=lambda w: (-score[w], w))[:k]


def test_step_8_a_class_just_as_probable_as_the_last_word_found_may_hold_a_smaller_id():
    layer = ClassSoftmax(4, 2, key=KEY, classes=[3, 2, 1, 0])
    layer.class_weight = mg.param(0.0 * layer.class_weight.data)
    assert layer.topk(np.ones((1, 2), "float32"), 2)[0].tolist() == [[0, 1]]


class Noting:
    """An array that notes where its slices begin."""

    def __init__(self, array):
        self.array, self.begins = array, []

    def __getitem__(self, index):
        self.begins.append(index.start)
        return self.array[index]


@pytest.mark.cpu
@fewer
@given(partitions(9), st.integers(1, 3), st.integers(0, 99))
def test_step_8_it_visits_the_classes_that_are_not_less_probable_than_the_last_word_and_no_others(classes, k, seed):
    layer, hidden, k = layer_of(classes), mg.Key(seed).normal((1, 3), "float64") * 3, min(k, len(classes))
    log_p = layer.log_prob(hidden).numpy()[0]
    of_class = [np.logaddexp.reduce(log_p[classes == c]) for c in range(classes.max() + 1)]
    needed = {int((classes < c).sum()) for c, p in enumerate(of_class) if p >= np.sort(log_p)[-k] - 1e-12}
    layer.words = Noting(layer.words)
    layer.topk(hidden, k)
    assert set(layer.words.begins) == needed and len(layer.words.begins) == len(needed)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_step_9_the_cost_is_the_mean_number_of_rows_over_all_batches(batch_size):
    counts, classes = np.array([4.0, 2.0, 1.0, 1.0]), np.array([0, 1, 1, 2])
    layer, mean = layer_of(classes, counts=counts), 0.0
    for batch in np.ndindex(*[4] * batch_size):
        layer.weight.grad = None
        layer.loss(contexts(batch_size), list(batch)).backward()
        mean += np.prod(counts[list(batch)] / 8) * len(set(layer.weight.grad.ids.tolist()))
    assert math.isclose(layer.score_cost(batch_size).train, 3 + mean / batch_size, rel_tol=1e-12)


def test_step_9_for_one_example_and_for_the_probability_of_one_word_it_is_the_answer_to_the_quiz():
    layer = ClassSoftmax(1000, 2, key=KEY)
    expected = expected_rows(zipf(1000), layer.classes)
    assert np.allclose(layer.score_cost(), expected, rtol=1e-12)
    assert layer.score_cost(64).test == layer.score_cost().test > layer.score_cost(64).train


def test_step_9_a_class_that_is_always_visited_costs_its_share_of_the_batch():
    layer = ClassSoftmax(5, 2, key=KEY, classes=[0, 0, 0, 0, 1], counts=[1.0, 1.0, 1.0, 1.0, 0.0])
    assert layer.score_cost(8).train == 2 + 4 / 8


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes, error, message",
    [
        ([0, 0, 1], ValueError, r"classes must be 4 integers, the class of each word .*, got shape \[3\]"),
        ([0, 0, 1, 1, 1], ValueError, r"classes must be 4 integers, the class of each word .*, got shape \[5\]"),
        ([[0, 1], [2, 3]], ValueError, r"classes must be 4 integers, the class of each word .*, got shape \[2, 2\]"),
        ([[0, 1], [1, 2, 3]], ValueError, r"classes must be 4 .* \(so that none is in two\), got \[\[0, 1\], \[1, 2"),
        ([0, 0, 2, 2], ValueError, "classes must be numbered 0, 1, …, C − 1, but no word is in class 1 of 0 to 2"),
        ([1, 1, 2, 2], ValueError, "classes must be numbered .*, but no word is in class 0 of 0 to 2"),
        ([0, 0, 1, -1], IndexError, r"classes must lie in \[0, 4\), got -1"),
        ([0, 0, 1, 10**9], IndexError, r"classes must lie in \[0, 4\), got 1000000000"),
        ([0.0, 0.0, 1.0, 1.0], TypeError, "classes must be integers, got float64"),
        ([False, False, True, True], TypeError, "classes must be integers, got bool"),
    ],
)
@pytest.mark.parametrize("who", ["ClassSoftmax", "expected_rows"])
def test_classes_that_are_no_partition_are_refused(who, classes, error, message):
    with pytest.raises(error, match=f"losses.{who}: {message}"):
        if who == "ClassSoftmax":
            ClassSoftmax(4, 2, key=KEY, classes=classes)
        else:
            expected_rows(np.ones(4), classes)


@pytest.mark.parametrize("make", [equal_size_classes, equal_mass_classes, sqrt_count_classes])
@pytest.mark.parametrize(
    "counts, num_classes, error, message",
    [
        ([1, 2, 3], 4, ValueError, "num_classes must lie in 1 to 3, got 4"),
        ([1, 2, 3], 0, ValueError, "num_classes must be at least 1, got 0"),
        ([1, 2, 3], 1.5, TypeError, "num_classes must be an integer, got float 1.5"),
        ([1, -2, 3], 2, ValueError, "counts must be a list of finite numbers, none negative"),
    ],
)
def test_bins_that_make_no_sense_are_refused(make, counts, num_classes, error, message):
    with pytest.raises(error, match=f"losses.{make.__name__}: {message}"):
        make(counts, num_classes)


@pytest.mark.parametrize("make", [best_classes, sqrt_count_classes, best_num_classes, lambda c: expected_rows(c, [0])])
def test_one_word_is_one_class(make):
    found = make([3.0])
    assert (found.tolist() if hasattr(found, "tolist") else found) in ([0], 1, 2.0)


@pytest.mark.parametrize("scale", [1e-300, 1.9e307])
def test_counts_may_be_very_large_or_small_and_have_no_sum(scale):
    counts, classes = np.array([9.0, 4.0, 1.0, 1.0, 1.0]), [0, 1, 1, 1, 1]
    for make in (best_classes, sqrt_count_classes, lambda c: equal_mass_classes(c, 3)):
        assert make(counts * scale).tolist() == make(counts).tolist()
    assert math.isclose(expected_rows(counts * scale, classes), expected_rows(counts, classes))
    cost = lambda c: ClassSoftmax(5, 2, key=KEY, counts=c, classes=classes).score_cost(3)
    assert np.allclose(cost(counts * scale), cost(counts))


@pytest.mark.cpu
@pytest.mark.parametrize("width", [3, 300], ids=["array code", "kernel"])
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"target_word": [0, -1]}, IndexError, r"target_word must lie in \[0, sizes\), got -1 of 2"),
        ({"target_word": [0, 2]}, IndexError, r"target_word must lie in \[0, sizes\), got 2 of 2"),
        ({"target_word": [10**12, 0]}, IndexError, r"target_word must lie in \[0, sizes\), got 1000000000000 of 3"),
        ({"sizes": [3, 301]}, IndexError, r"sizes must lie in \[1, \d+\], got 301"),
        ({"sizes": [0, 2]}, IndexError, r"sizes must lie in \[1, \d+\], got 0"),
        ({"target_class": [4, 0]}, IndexError, r"target_class must lie in \[0, 4\), got 4"),
        ({"target_class": [0, -1]}, IndexError, r"target_class must lie in \[0, 4\), got -1"),
        ({"target_word": [0, 1, 1]}, ValueError, r"target_word must be integers \(B,\) .*, got int64 \[3\], \[2, 4\]"),
        ({"sizes": [3]}, ValueError, r"sizes must be integers \(B,\) .*, got int64 \[1\], \[2, 4\]"),
        ({"target_class": [[0], [1]]}, ValueError, r"target_class must be integers \(B,\) .*, got int64 \[2, 1\]"),
        ({"sizes": [3.0, 2.0]}, ValueError, r"sizes must be integers \(B,\) .*, got float64 \[2\]"),
    ],
)
@pytest.mark.parametrize("loss", [class_softmax, class_softmax_loss])
def test_places_that_are_none_are_refused_and_not_written_to(loss, change, error, message, width):
    """Both by the array code and by the kernel, which would do what it is told."""
    options = {"target_class": [0, 3], "target_word": [2, 1], "sizes": [3, 2]} | change
    with pytest.raises(error, match=f"losses.class_softmax: {message}"):
        loss(np.zeros((2, 4)), np.zeros((2, width)), **{name: np.array(value) for name, value in options.items()})


@pytest.mark.cpu
def test_scores_of_more_examples_than_there_are_classes_for_are_refused():
    ids = {name: np.array([0, 0]) for name in ("target_class", "target_word")} | {"sizes": np.array([1, 1])}
    with pytest.raises(ValueError, match=r"for scores \(B, C\) and \(B, L\), got int64 \[2\], \[1, 4\], \[2, 300\]"):
        class_softmax(np.zeros((1, 4)), np.zeros((2, 300)), **ids)


def test_a_batch_size_of_none_is_refused():
    with pytest.raises(ValueError, match=r"losses.ClassSoftmax.score_cost: batch_size must be at least 1, got 0"):
        ClassSoftmax(4, 2, key=KEY).score_cost(0)


# ---- In PyTorch ---------------------------------------------------------------------------------------------------


def in_pytorch(layer, hidden, targets, lines):
    """Those lines run with the layer's weights: what they leave."""
    torch = pytest.importorskip("torch")
    classes = mg.to_cpu(layer.classes)
    members = [np.flatnonzero(classes == c).tolist() for c in range(layer.num_classes)]
    widest = max(map(len, members))
    theirs = {
        "V": layer.vocab_size,
        "C": layer.num_classes,
        "d": layer.dim,
        "targets": torch.tensor(targets),
        "class_of": torch.tensor(classes),
        "place": torch.tensor([members[c].index(w) for w, c in enumerate(classes)]),
        "members": torch.tensor([words + [-1] * (widest - len(words)) for words in members]),
        "hidden": torch.tensor(hidden.numpy(), requires_grad=True),
    }
    imports, make, train = lines.strip().split("\n\n")
    exec(imports + "\n" + make, theirs)
    theirs["words"].weight.data = torch.tensor(layer.weight.numpy()[mg.to_cpu(layer.place)])
    theirs["classes"].weight.data = torch.tensor(layer.class_weight.numpy())
    exec(train, theirs)
    return theirs


@pytest.mark.oracle
@fewer
@given(classes=partitions(9), seed=st.integers(0, 99))
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(classes, seed):
    layer, hidden = layer_of(classes, dtype="float32", bias=False), contexts(dtype="float32")
    targets = np.random.default_rng(seed).integers(0, len(classes), 5)
    ours = layer.loss(hidden, targets, reduction="none")
    ours.mean().backward()
    theirs = in_pytorch(layer, hidden, targets, IN_PYTORCH)
    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-5, atol=1e-6)
    assert np.allclose(mg.to_cpu(hidden.grad), theirs["hidden"].grad.numpy(), rtol=1e-4, atol=1e-6)
    rows = theirs["words"].weight.grad
    assert rows.is_sparse
    words = dense(layer.weight.grad)[mg.to_cpu(layer.place)]
    assert np.allclose(words, rows.to_dense().numpy(), rtol=1e-4, atol=1e-6)
    assert np.allclose(dense(layer.class_weight.grad), theirs["classes"].weight.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.oracle
def test_in_pytorch_without_the_mask_the_loss_is_too_high_and_nothing_warns():
    layer, hidden = layer_of(np.array([0, 0, 0, 1]), dtype="float32", bias=False), contexts(dtype="float32")
    trap = "\n".join(line for line in IN_PYTORCH.splitlines() if "masked_fill" not in line)
    targets = [0, 1, 2, 3, 3]
    found = in_pytorch(layer, hidden, targets, trap)["loss"].detach().numpy()
    right = layer.loss(hidden, targets, reduction="none").numpy()
    assert np.allclose(found[:3], right[:3], rtol=1e-5) and (found[3:] > right[3:] + 0.1).all()
