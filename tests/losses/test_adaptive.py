"""The adaptive softmax: a test for each numbered step of `losses.structured.adaptive`, and an oracle in torch."""

import math
from itertools import pairwise

import numpy as np
import pytest
import strict
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import AdaptiveSoftmax, FullSoftmax
from losses.check import smallest_failure
from losses.samplers import zipf
from losses.structured import adaptive
from losses.structured.adaptive import (
    IN_PYTORCH,
    adaptive_softmax,
    adaptive_softmax_loss,
    adaptive_softmax_naive,
)
from losses.structured.cutoffs import Cost, best_cutoffs, expected_cost
from losses.suites.adaptive import CHAPTER, batches
from minigrad.check import check_grads

from .properties import where_tensors_are_made

pytestmark = pytest.mark.adaptive


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, where_tensors_are_made(adaptive_softmax)) is None


def with_weights(vocab_size=20, dim=8, cutoffs=(4, 9), dtype="float64", scale=2.0, **options):
    """A layer with weights from −1 to 1."""
    layer = AdaptiveSoftmax(vocab_size, dim, cutoffs=cutoffs, key=mg.Key(0), **options)
    for i, table in enumerate(t for t in layer.tables if getattr(layer, t) is not None):
        noise = mg.Key(1).fold(i).uniform(getattr(layer, table).shape, dtype)
        setattr(layer, table, mg.param(scale * noise - scale / 2))
    return layer


def contexts(batch, dim=8, dtype="float64"):
    return mg.param(mg.Key(8).normal((batch, dim), dtype))


def scores(layer, hidden):
    """(2): the scores of the head, and for every example those of each cluster, composed."""
    head = hidden @ layer.weight.T
    tails = [getattr(layer, f"projection_{i}") for i in range(layer.num_clusters)]
    tails = [(hidden @ c.T) @ getattr(layer, f"words_{i}").T for i, c in enumerate(tails)]
    return head if layer.bias is None else head + layer.bias, *tails


def test_of_a_million_words_the_thousand_most_frequent_are_half_of_a_text():
    counts = np.array(zipf(1_000_000))
    assert abs(counts[:1000].sum() / counts.sum() - 0.5) < 0.03


# ---- (1) to (4): the loss and its gradient -------------------------------------------------------------------------


@given(st.data())
def test_step_1_both_ways_are_one_function(data):
    """Naively every example has scores in every cluster, of which the other way is given those it needs."""
    head, tails, targets, cutoffs = data.draw(batches())
    key, places = mg.Key(data.draw(st.integers(0, 99))), mg.backend.asarray(targets)
    whole = [mg.to_cpu(key.fold(i).normal((len(targets), s.shape[1]), "float64")) for i, s in enumerate(tails)]
    ends = [*cutoffs, math.inf]
    tails = [s[(a <= targets) & (targets < b)] for s, (a, b) in zip(whole, pairwise(ends))]
    naive = adaptive_softmax_naive(*map(mg.backend.asarray, [head, *whole]), targets=places)
    found = adaptive_softmax(*map(mg.backend.asarray, [head, *tails]), targets=places, cutoffs=cutoffs)[0]
    assert np.allclose(mg.to_cpu(found), mg.to_cpu(naive), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cutoffs", [[], [1], [19], [4, 9], [1, 2, 3, 19]])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_step_1_the_layer_is_the_composed_function_whatever_the_words_ids(cutoffs, bias):
    counts = np.random.default_rng(3).permutation(20) + 1.0
    layer, hidden, targets = with_weights(cutoffs=cutoffs, counts=counts, bias=bias), contexts(30), np.arange(30) % 20
    place = np.argsort(mg.to_cpu(layer.order))[targets]
    expected = adaptive_softmax_naive(*scores(layer, hidden), targets=mg.backend.asarray(place))
    found = layer.loss(hidden, targets, reduction="none")
    assert np.allclose(found.numpy(), expected.numpy(), rtol=1e-12)
    parameters = [hidden, *layer.parameters()]
    for f, e in zip(*(mg.grad(loss.sum(), parameters) for loss in (found, expected)), strict=True):
        f, e = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, e))
        assert np.allclose(f, e, rtol=1e-9, atol=1e-11)


def test_step_1_the_order_is_by_frequency_and_within_a_cluster_by_id():
    layer = AdaptiveSoftmax(6, 2, counts=[1, 9, 1, 30, 8, 20], cutoffs=[2, 4], key=mg.Key(0))
    assert layer.order.tolist() == [3, 5, 1, 4, 0, 2]
    layer = AdaptiveSoftmax(4, 2, counts=[1, 1, 1, 1], cutoffs=[2], key=mg.Key(0))
    assert layer.order.tolist() == [0, 1, 2, 3], "equal words by their id"


def test_step_1_without_clusters_it_is_the_softmax():
    layer, full = with_weights(cutoffs=[]), FullSoftmax(20, 8, key=mg.Key(0))
    full.weight, full.bias = layer.weight, layer.bias
    hidden = contexts(5)
    assert layer.parameters() == [layer.weight, layer.bias]
    assert layer.loss(hidden, [0, 19, 3, 3, 7]).item() == full.loss(hidden, [0, 19, 3, 3, 7]).item()
    assert np.allclose(layer.log_prob(hidden).numpy(), full.log_prob(hidden).numpy(), rtol=1e-13)


def test_step_1_if_all_words_have_one_score_a_cluster_shares_what_one_word_of_the_head_has():
    layer = AdaptiveSoftmax(20, 8, cutoffs=[4, 9], key=mg.Key(0))
    p = np.exp(layer.log_prob(np.zeros((1, 8), "float32")).numpy())[0]
    assert np.allclose(p, [1 / 6] * 4 + [1 / 6 / 5] * 5 + [1 / 6 / 11] * 11, rtol=1e-6)


def test_step_2_clusters_have_d_over_powers_of_four_numbers_and_one_at_least():
    layer = AdaptiveSoftmax(20, 24, cutoffs=[4, 9, 12], key=mg.Key(0))
    assert layer.widths == [6, 1, 1]
    shapes = {table: list(getattr(layer, table).shape) for table in layer.tables}
    assert shapes == {"weight": [7, 24], "bias": [7]} | {
        "projection_0": [6, 24],
        "words_0": [5, 6],
        "projection_1": [1, 24],
        "words_1": [3, 1],
        "projection_2": [1, 24],
        "words_2": [8, 1],
    }
    assert AdaptiveSoftmax(20, 24, cutoffs=[4, 9], div_value=1.5, key=mg.Key(0)).widths == [16, 10]


def test_step_2_what_is_projected_begins_about_as_large_as_the_context():
    layer, hidden = AdaptiveSoftmax(50, 400, cutoffs=[4], key=mg.Key(0)), mg.Key(1).normal((200, 400))
    projected = mg.to_cpu(hidden @ layer.projection_0.data.T)
    assert abs(projected.std() - 1) < 0.05


@pytest.mark.parametrize("targets, visits", [([0, 3, 2], []), ([0, 4, 8, 4], [3]), ([19, 0, 5], [1, 1])])
def test_step_3_a_cluster_is_scored_for_those_examples_whose_target_lies_there(targets, visits, monkeypatch):
    scored = []

    def watched(hidden, weight, targets):
        scored.append(len(hidden))
        return tail_softmax(hidden, weight, targets)

    tail_softmax = adaptive.tail_softmax
    monkeypatch.setattr(adaptive, "tail_softmax", watched)
    with_weights().loss(contexts(len(targets)), targets)
    assert scored == visits


def test_step_4_a_cluster_has_a_gradient_in_every_row_or_none():
    layer = with_weights()
    layer.loss(contexts(3), [0, 4, 8]).backward()
    assert mg.to_cpu(layer.weight.grad).all() and mg.to_cpu(layer.bias.grad).all()
    assert mg.to_cpu(layer.words_0.grad).all() and mg.to_cpu(layer.projection_0.grad).all()
    assert layer.words_1.grad is layer.projection_1.grad is None


def test_step_4_the_gradients_of_a_cluster_and_of_the_context():
    layer, h, targets = with_weights(), contexts(2), [0, 5]
    layer.loss(h, targets, reduction="sum").backward()
    W, C = layer.words_0.numpy(), layer.projection_0.numpy()
    x = h.numpy()[1]
    P = np.exp(scores(layer, h)[1].numpy()[1])
    G_tail = P / P.sum() - (np.arange(5) == 5 - 4)
    assert np.allclose(mg.to_cpu(layer.words_0.grad), np.outer(G_tail, C @ x), rtol=1e-9)
    assert np.allclose(mg.to_cpu(layer.projection_0.grad), np.outer(W.T @ G_tail, x), rtol=1e-9)
    p = np.exp(scores(layer, h)[0].numpy())
    G_head = p / p.sum(axis=1, keepdims=True) - (np.arange(6) == [[0], [4]])
    of_cluster = np.outer([0, 1], C.T @ W.T @ G_tail)
    assert np.allclose(mg.to_cpu(h.grad), G_head @ layer.weight.numpy() + of_cluster, rtol=1e-9)


@pytest.mark.parametrize("make", [mg.optim.SGD, mg.optim.Adagrad, mg.optim.Adam])
def test_step_4_a_cluster_that_is_not_visited_stays_as_it_is_and_moves_when_it_is(make):
    layer = with_weights()
    optimiser = make(layer.parameters(), lr=0.1)

    def moved(targets):
        before = [p.numpy().copy() for p in layer.parameters()]
        layer.loss(contexts(len(targets)), targets).backward()
        optimiser.step()
        optimiser.zero_grad()
        return [bool((p.numpy() != old).any()) for p, old in zip(layer.parameters(), before, strict=True)]

    assert moved([0, 19, 3]) == [True, True, False, False, True, True]
    assert moved([0, 5, 3]) == [True, True, True, True, False, False]
    assert moved([0, 1, 2]) == [True, True, False, False, False, False]


@given(st.data())
def test_step_4_gradients_are_right_to_second_order(data):
    head, tails, targets, cutoffs = data.draw(batches(limit=4.0))
    there = mg.backend.asarray(targets)
    visited = [i for i, s in enumerate(tails) if len(s)]

    def loss(head, *some):
        given = [mg.backend.asarray(s) for s in tails]
        for i, s in zip(visited, some, strict=True):
            given[i] = s
        return adaptive_softmax_loss(head, *given, targets=there, cutoffs=cutoffs)

    check_grads(loss, head, *(tails[i] for i in visited))


def test_step_4_each_example_of_head_and_clusters_can_be_weighed_by_itself():
    key, targets, up = mg.Key(4), np.array([12, 4, 0, 5, 9]), np.array([1.0, -2.0, 0.5, 3.0, 7.0])
    given = [mg.param(key.fold(i).normal(shape, "float64")) for i, shape in enumerate([(5, 6), (2, 5), (2, 11)])]
    options = {"targets": mg.backend.asarray(targets), "cutoffs": [4, 9]}
    G = adaptive_softmax(*(s.data for s in given), **options)[1:]
    found = mg.grad(adaptive_softmax_loss(*given, **options), given, up)
    for f, g, weights in zip(found, G, (up, up[[1, 3]], up[[0, 4]]), strict=True):
        assert np.allclose(mg.to_cpu(f), weights[:, None] * mg.to_cpu(g), rtol=1e-12)


@pytest.mark.parametrize("shape", [(3, 7), (3, 5), (2, 6)])
def test_scores_that_do_not_go_with_the_targets_are_refused(shape):
    tails = np.zeros((1, 5)), np.zeros((1, 11))
    good = adaptive_softmax(np.zeros((3, 6)), *tails, targets=np.array([0, 4, 19]), cutoffs=[4, 9])
    assert good[0].shape == (3,)
    with pytest.raises(ValueError, match=r"3 targets, \[1, 1\] of them in the clusters that begin at \[4, 9\], do not"):
        adaptive_softmax(np.zeros(shape), *tails, targets=np.array([0, 4, 19]), cutoffs=[4, 9])


@pytest.mark.parametrize("tails", [[(1, 5)], [(2, 5), (1, 11)], [(1, 4), (1, 11)], [(1, 5), (0, 11)]])
def test_tails_that_do_not_go_with_the_targets_are_refused(tails):
    with pytest.raises(ValueError, match=r"do not go with scores \[3, 6\], \["):
        adaptive_softmax(np.zeros((3, 6)), *map(np.zeros, tails), targets=np.array([0, 4, 19]), cutoffs=[4, 9])


@pytest.mark.parametrize(
    "targets, error, message",
    [
        ([0, 4, 19], TypeError, r"must be an array \(B,\) of ranks, got \[0, 4, 19\]"),
        (np.array([0.0, 4.0, 19.0]), TypeError, "must be integers, got float64"),
        (np.array([0, 4, 20]), IndexError, r"must lie in \[0, 20\), got 20"),
        (np.array([-1, 4, 19]), IndexError, r"must lie in \[0, 20\), got -1"),
        (np.array([[0, 4, 19]]), TypeError, r"must be an array \(B,\) of ranks, got array"),
    ],
)
def test_targets_that_are_no_ranks_are_refused_as_they_came(targets, error, message):
    scores = np.zeros((3, 6)), np.zeros((1, 5)), np.zeros((1, 11))
    with pytest.raises(error, match="^losses.adaptive_softmax: targets " + message):
        adaptive_softmax(*scores, targets=targets, cutoffs=[4, 9])


def test_without_clusters_too_targets_must_be_words():
    with pytest.raises(IndexError, match=r"^losses.adaptive_softmax: targets must lie in \[0, 6\), got 6"):
        adaptive_softmax(np.zeros((1, 6)), targets=np.array([6]), cutoffs=[])


@pytest.mark.device
def test_a_step_on_a_gpu_waits_for_who_visits_which_cluster_and_for_whether_the_loss_is_finite(new_tensors_there):
    """On the double of CuPy, which counts copies and waits, whatever --device says."""
    with strict.installed():
        mg.set_device("gpu")
        layer, hidden, targets = with_weights(), contexts(4), mg.backend.asarray([0, 4, 19, 5])
        strict.counts.reset()
        layer.loss(hidden, targets).backward()
        assert (strict.counts.copies_in, strict.counts.copies_out, strict.counts.waits) == (0, 2, 2)
        mg.set_device("cpu")


# ---- (5) to (8): what it costs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster, width", [(0, 2), (1, 1)])
def test_step_5_the_log_odds_between_the_words_of_a_cluster_vary_in_as_many_directions_as_it_has_numbers(
    cluster, width
):
    layer = with_weights(60, cutoffs=[10, 30])
    assert layer.widths[cluster] == width
    part = slice(10, 30) if cluster == 0 else slice(30, 60)
    log_p = layer.log_prob(contexts(50)).numpy()[:, part]
    assert np.linalg.matrix_rank(log_p - log_p[:, :1], tol=1e-9) == width


def test_step_5_with_one_number_only_two_words_can_ever_be_the_best_of_their_cluster():
    layer = with_weights(30, cutoffs=[10])
    layer.projection_0, layer.words_0 = mg.param(layer.projection_0.data[:1]), mg.param(layer.words_0.data[:, :1])
    best = layer.log_prob(contexts(500)).numpy()[:, 10:].argmax(axis=1)
    assert len(np.unique(best)) == 2


def test_step_5_log_odds_in_a_cluster_are_linear_in_the_context():
    layer, h = with_weights(60, cutoffs=[10, 30]), contexts(5)
    odds = lambda h: np.diff(layer.log_prob(mg.tensor(h)).numpy()[:, 10:30], axis=1)
    x = h.numpy()
    assert np.allclose(odds(0 * x), 0, atol=1e-12)
    assert np.allclose(odds(-x), -odds(x), rtol=1e-9, atol=1e-12)
    assert np.allclose(odds(x[:1] + 3 * x[1:2]), odds(x[:1]) + 3 * odds(x[1:2]), rtol=1e-9, atol=1e-12)


def trained(layer, hidden, targets, steps):
    """The loss after so many steps of Adagrad."""
    optimiser = mg.optim.Adagrad(layer.parameters(), lr=0.3)
    for _ in range(steps):
        optimiser.zero_grad()
        layer.loss(hidden, targets).backward()
        optimiser.step()
    return layer.loss(hidden, targets).item()


def test_step_5_the_fewer_numbers_a_cluster_has_the_less_it_fits():
    """Each context has its word by a table of 64 words and 32 numbers; clusters have all of these, half, a quarter."""
    table, hidden = (mg.Key(i).normal((n, 32)) for i, n in ((9, 64), (10, 1000)))
    targets = (hidden @ table.T).argmax(axis=1) + 2
    make = lambda f: AdaptiveSoftmax(66, 32, counts=np.arange(66, 0, -1), cutoffs=[2], div_value=f, key=mg.Key(0))
    whole, half, quarter = (trained(make(f), hidden, targets, 20) for f in (1, 2, 4))
    assert whole + 0.5 < half and half + 0.5 < quarter


@pytest.mark.parametrize("cutoffs, rows", [([20, 595], 254), ([76, 1350], 293)])
def test_step_6_ten_thousand_words_cost_254_rows_or_293(cutoffs, rows):
    cost = AdaptiveSoftmax(10_000, 128, counts=zipf(10_000), cutoffs=cutoffs, key=mg.Key(0)).score_cost(64)
    assert round(cost.train) == rows


def test_step_6_254_rows_are_about_the_least_for_two_clusters_and_the_layer_chooses_others():
    rows = Cost(product=0.0, multiply_add=1.0, score=0.0, weight=0.0)
    least = best_cutoffs(zipf(10_000), 128, head_share=0.0, cost=rows)
    assert len(least) == 2
    assert 254 < expected_cost(zipf(10_000), 128, least, cost=rows) / (128 * 128) < 254.3
    assert AdaptiveSoftmax(10_000, 128, key=mg.Key(0)).cutoffs == [76, 1350]


def test_step_7_all_probabilities_of_ten_thousand_words_cost_977_rows():
    assert round(AdaptiveSoftmax(10_000, 128, cutoffs=[76, 1350], key=mg.Key(0)).score_cost().test) == 977


@pytest.mark.parametrize("cutoffs", [[], [3], [4, 9], [1, 2, 3, 19]])
def test_step_6_the_cost_is_what_has_a_gradient_over_d_on_average_over_the_words(cutoffs):
    counts = np.random.default_rng(3).permutation(20) + 1.0
    layer = AdaptiveSoftmax(20, 8, cutoffs=cutoffs, counts=counts, key=mg.Key(0))
    rows = []
    for word in range(20):
        for p in layer.parameters():
            p.grad = None
        layer.loss(np.ones((1, 8), "float32"), [word]).backward()
        rows.append(sum(p.grad.size for p in layer.parameters() if p.ndim == 2 and p.grad is not None) / 8)
    assert math.isclose(layer.score_cost(64).train, counts @ rows / counts.sum(), rel_tol=1e-12)


@pytest.mark.parametrize("cutoffs", [[], [3], [4, 9], [1, 2, 3, 19]])
def test_step_7_the_probabilities_of_all_words_cost_every_number_of_every_table(cutoffs):
    layer = AdaptiveSoftmax(20, 8, cutoffs=cutoffs, key=mg.Key(0))
    assert layer.score_cost().test == sum(p.data.size for p in layer.parameters() if p.ndim == 2) / 8


def visits_of_topk(layer, hidden, k, monkeypatch):
    """How many contexts each cluster was scored for."""
    visits, tail = [0] * layer.num_clusters, layer._tail

    def watched(i, hidden):
        visits[i] += len(hidden)
        return tail(i, hidden)

    monkeypatch.setattr(layer, "_tail", watched)
    layer.topk(hidden, k)
    return visits


def test_step_8_a_cluster_is_scored_if_it_is_as_probable_as_the_kth_word_that_is_known(monkeypatch):
    layer = with_weights(20, cutoffs=[4, 9])
    p = np.array([0.3, 0.2, 0.1, 0.05, 0.25, 0.1])  # four words, two clusters
    layer.weight, layer.bias = mg.param(0.0 * layer.weight.data), mg.param(np.log(p))
    hidden = contexts(7)
    assert visits_of_topk(layer, hidden, 1, monkeypatch) == [0, 0]
    assert visits_of_topk(layer, hidden, 2, monkeypatch) == [7, 0]
    assert visits_of_topk(layer, hidden, 5, monkeypatch) == [7, 7]


@given(st.integers(0, 999), st.integers(1, 20))
def test_step_8_the_best_words_are_those_of_all_probabilities_and_among_equals_the_first_id(seed, k):
    counts = mg.to_cpu(mg.Key(seed).fold(9).uniform(20)) + 0.1
    layer = AdaptiveSoftmax(20, 8, cutoffs=[4, 9], counts=counts, key=mg.Key(0))
    for i, table in enumerate(layer.tables):  # of −1, 0, 1: many words are equal
        few = mg.Key(seed).fold(i).integers(-1, 2, getattr(layer, table).shape)
        setattr(layer, table, mg.param(few.astype("float64")))
    hidden = mg.param(mg.Key(seed).fold(20).integers(-1, 2, (6, 8)).astype("float64"))
    log_p = layer.log_prob(hidden).numpy()  # scores are whole numbers: nothing is rounded differently in two places
    ids, found = map(mg.to_cpu, layer.topk(hidden, k))
    expected = np.argsort(-log_p, axis=1, kind="stable")[:, :k]
    assert (ids == expected).all()
    assert (found == np.take_along_axis(log_p, expected, axis=1)).all()


def test_step_8_equal_words_of_head_and_clusters_come_by_id():
    """All scores zero, and a cluster as probable as its words are many: every word has the same probability."""
    layer = AdaptiveSoftmax(8, 4, counts=[1, 1, 5, 5, 9, 9, 9, 9], cutoffs=[4, 6], key=mg.Key(0))
    for table in layer.tables:
        setattr(layer, table, mg.param(np.zeros(getattr(layer, table).shape)))
    layer.bias = mg.param(np.log([1.0, 1.0, 1.0, 1.0, 2.0, 2.0]))
    log_p = layer.log_prob(np.zeros((1, 4))).numpy()
    assert len(np.unique(log_p)) == 1
    for k in range(1, 9):
        assert layer.topk(np.zeros((1, 4)), k)[0].tolist() == [list(range(k))]


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cutoffs", [[0], [20], [5, 5], [9, 4], [4, 20], [-1, 4]])
def test_cutoffs_that_do_not_rise_between_one_and_v_are_refused(cutoffs):
    with pytest.raises(
        ValueError, match=r"AdaptiveSoftmax: (a cut-off must be at least 1|cutoffs must rise, from 1 .*19)"
    ):
        AdaptiveSoftmax(20, 8, cutoffs=cutoffs, key=mg.Key(0))


@pytest.mark.parametrize("div_value, error", [(f, ValueError) for f in (0, 0.5, math.inf, math.nan)])
def test_a_div_value_that_would_widen_is_refused(div_value, error):
    with pytest.raises(error, match="AdaptiveSoftmax: div_value must be a number, 1 or more and finite, got"):
        AdaptiveSoftmax(20, 8, cutoffs=[5], div_value=div_value, key=mg.Key(0))


@pytest.mark.parametrize("div_value", ["4", None, True, 4j])
def test_a_div_value_that_is_no_number_is_refused(div_value):
    with pytest.raises(TypeError, match="AdaptiveSoftmax: div_value must be a number, 1 or more and finite, got"):
        AdaptiveSoftmax(20, 8, cutoffs=[5], div_value=div_value, key=mg.Key(0))


@pytest.mark.parametrize("cutoffs", [5, 5.0, ["5"], [5.0], "5"])
def test_cutoffs_that_are_no_integers_are_refused(cutoffs):
    with pytest.raises(TypeError, match=r"AdaptiveSoftmax: (cutoffs must be a list of ranks|a cut-off must be an int)"):
        AdaptiveSoftmax(20, 8, cutoffs=cutoffs, key=mg.Key(0))


# ---- torch ---------------------------------------------------------------------------------------------------------


def both(dtype, vocab_size=50, dim=16, cutoffs=(5, 20), bias=True):
    """torch's module, and our layer with its weights; ids are ranks."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(
        dim, vocab_size, list(cutoffs), head_bias=bias, dtype=getattr(torch, dtype)
    )
    ours = AdaptiveSoftmax(vocab_size, dim, cutoffs=list(cutoffs), key=mg.Key(0), bias=bias)
    for table, p in zip([p for p in ours.tables if bias or p != "bias"], theirs.parameters(), strict=True):
        setattr(ours, table, mg.param(p.detach().numpy()))
    return torch, theirs, ours


@pytest.mark.oracle
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_has_the_same_outputs_log_probabilities_and_gradients(dtype, bias):
    torch, theirs, ours = both(dtype, bias=bias)
    hidden, targets = mg.to_cpu(mg.Key(5).normal((40, 16), dtype)), np.arange(40) * 7 % 50
    h, H = mg.param(hidden), torch.tensor(hidden, requires_grad=True)
    output, loss = theirs(H, torch.tensor(targets))
    found = ours.loss(h, targets)
    close = lambda one, other: np.testing.assert_allclose(mg.to_cpu(one), other.detach().numpy(), rtol=1e-5, atol=1e-6)
    close(ours.log_prob_of(h, targets).data, output)
    close(found.data, loss)
    close(ours.log_prob(h).data, theirs.log_prob(H))
    loss.backward()
    found.backward()
    close(h.grad, H.grad)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(one.grad, other.grad)


@pytest.mark.oracle
def test_torch_learns_the_same_from_the_same_weights():
    torch, theirs, ours = both("float64")
    hidden, targets = mg.to_cpu(mg.Key(5).normal((40, 16), "float64")), np.arange(40) * 7 % 50
    optimiser = torch.optim.Adagrad(theirs.parameters(), lr=0.3, eps=1e-10)
    for _ in range(30):
        optimiser.zero_grad()
        theirs(torch.tensor(hidden), torch.tensor(targets)).loss.backward()
        optimiser.step()
    after = theirs(torch.tensor(hidden), torch.tensor(targets)).loss.item()
    assert math.isclose(trained(ours, mg.param(hidden), targets, 30), after, rel_tol=1e-6) and after < 2


@pytest.mark.oracle
def test_torch_begins_with_larger_words_and_smaller_projections_and_without_a_bias():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(64, 2000, [500])
    ours = AdaptiveSoftmax(2000, 64, cutoffs=[500], key=mg.Key(0))
    assert theirs.head.bias is None and ours.bias is not None
    largest = [float(p.detach().abs().max()) for p in theirs.parameters()]
    assert np.allclose(largest, [1 / 8, 1 / 8, 1 / 4], rtol=0.01)
    largest = [np.abs(getattr(ours, name).numpy()).max() for name in ("weight", "projection_0", "words_0")]
    assert np.allclose(largest, [1 / 128, (3 / 64) ** 0.5, 1 / 32], rtol=0.01)


@pytest.mark.oracle
def test_torch_too_has_no_gradient_of_a_cluster_that_is_not_visited():
    torch, theirs, _ = both("float32")
    theirs(torch.ones(2, 16), torch.tensor([0, 30])).loss.backward()
    assert [p.grad is None for p in theirs.tail[0].parameters()] == [True, True]
    assert [p.grad is None for p in theirs.tail[1].parameters()] == [False, False]


@pytest.mark.oracle
def test_torch_predicts_the_same_words():
    torch, theirs, ours = both("float64")
    hidden = mg.to_cpu(3 * mg.Key(5).normal((200, 16), "float64"))
    predicted = theirs.predict(torch.tensor(hidden)).numpy()
    assert (mg.to_cpu(ours.topk(hidden, 1)[0])[:, 0] == predicted).all()
    assert (predicted >= 5).any() and (predicted < 5).any()


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_torch_has_clusters_of_no_numbers_in_which_all_words_are_alike():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 50, [5, 20])
    assert theirs.tail[1][0].out_features == 0
    log_p = theirs.log_prob(torch.ones(1, 8)).detach().numpy()[0, 20:]
    assert len(np.unique(log_p)) == 1
    assert len(np.unique(AdaptiveSoftmax(50, 8, cutoffs=[5, 20], key=mg.Key(0)).log_prob(np.ones((1, 8), "f")).numpy()))


@pytest.mark.oracle
@pytest.mark.parametrize("seed, batch", [(0, 1), (1, 5), (2, 6)])
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(seed, batch):
    torch = pytest.importorskip("torch")
    key = mg.Key(seed)
    counts = mg.to_cpu(key.fold(0).uniform(30)) + 0.1
    ids = mg.to_cpu(key.fold(1).integers(0, 30, batch))
    layer = with_weights(30, 16, cutoffs=[6, 15], dtype="float32", counts=counts)
    hidden = contexts(batch, 16, dtype="float32")
    ours = layer.loss(hidden, ids, reduction="none")
    ours.mean().backward()

    imports, rank, make, train = IN_PYTORCH.strip().split("\n\n")
    theirs = {"V": 30, "d": 16, "cutoffs": [6, 15], "targets": torch.tensor(ids), "counts": torch.tensor(counts)}
    theirs["hidden"] = torch.tensor(hidden.numpy(), requires_grad=True)
    exec("\n".join([imports, rank, make]), theirs)
    place = np.argsort(mg.to_cpu(layer.order))
    ends = [0, 6, 15, 30]
    for i, p in enumerate(theirs["out"].parameters()):
        table = getattr(layer, layer.tables[i]).numpy()
        if (part := {0: 0, 1: 0, 3: 1, 5: 2}.get(i)) is not None:  # words: ours are by id in a part, theirs by rank
            words = np.argsort(theirs["rank"].numpy())[ends[part] : ends[part + 1]]
            table = np.concatenate([table[place[words] - ends[part]], table[len(words) :]])
        p.data = torch.tensor(table)
    exec(train, theirs)

    assert np.allclose(ours.numpy(), -theirs["log_prob"].detach().numpy(), rtol=1e-5, atol=1e-5)
    assert np.allclose(mg.to_cpu(hidden.grad), theirs["hidden"].grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
def test_in_pytorch_ids_that_are_no_ranks_are_taken_without_a_word():
    torch, theirs, _ = both("float32")
    frequent = np.full(100, 49)  # an id of a frequent word, though not a rank
    assert torch.isfinite(theirs(torch.ones(100, 16), torch.tensor(frequent)).loss)
