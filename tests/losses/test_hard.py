"""Hard negatives: a test for each numbered step of `losses.sampled.hard`, and an oracle in torch."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import HardNegatives
from losses.check import smallest_failure
from losses.sampled.hard import IN_PYTORCH, counted_once, hardest, margin_loss, margin_loss_naive, margin_loss_of
from losses.suites.hard import CHAPTER, off_the_margin, with_valid
from minigrad.check import vocab_batches

pytestmark = pytest.mark.hard


def where_tensors_are_made(function):
    """A pure function as the suite knows it, NumPy's arrays in and out, but computed on the current device."""

    def call(*arrays, valid=None, **options):
        valid = None if valid is None else mg.backend.asarray(valid)
        return [mg.to_cpu(a) for a in function(*map(mg.backend.asarray, arrays), valid=valid, **options)]

    return call


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, where_tensors_are_made(margin_loss)) is None


# ---- a layer whose scores are what we say ---------------------------------------------------------------------------


def layer_with_scores(s, **options):
    """A layer whose scores are s (V,), whatever the context: they are its bias."""
    layer = HardNegatives(len(s), 2, key=mg.Key(0), **options)
    layer.bias = mg.param(np.array(s, "float64"))
    layer.weight = mg.param(np.zeros((len(s), 2)))
    return layer


def loss_of(s, t, also_right=None, **options):
    right = None if also_right is None else [also_right]
    return layer_with_scores(s, **options).loss(np.zeros((1, 2)), [t], also_right=right)


def gradient_of(s, t, **options):
    layer = layer_with_scores(s, **options)
    layer.loss(np.zeros((1, 2)), [t]).backward()
    return mg.to_cpu(layer.bias.grad.dense())


def by_definition(s, t, n, also_right=(), margin=1.0):
    """(2), in plain Python: all wrong words, sorted."""
    wrong = sorted((s[w] for w in range(len(s)) if w != t and w not in also_right), reverse=True)
    return sum(max(0.0, margin + x - s[t]) for x in wrong[:n])


def score_lists(least=2, most=6):
    return st.lists(st.integers(-12, 12).map(lambda i: i / 4), min_size=least, max_size=most)


# ---- (1): what is a negative ----------------------------------------------------------------------------------------


def test_step_1_the_target_as_its_own_negative_costs_the_margin_for_ever_and_teaches_nothing():
    for s in (-5.0, 0.0, 300.0):
        loss, g_target, g_negative = margin_loss(mg.backend.asarray([s]), mg.backend.asarray([[s]]))
        assert loss.tolist() == [1.0] and (g_target + g_negative[:, 0]).tolist() == [0.0]


@given(score_lists(), st.data())
def test_step_1_the_target_is_no_negative_even_where_it_scores_highest(s, data):
    t, n = data.draw(st.integers(0, len(s) - 1)), data.draw(st.integers(1, len(s) - 1))
    s[t] = 9.0
    assert loss_of(s, t, n=n).item() == 0.0


@given(score_lists(), st.data())
def test_step_1_what_is_also_right_is_no_negative_either(s, data):
    ids = st.integers(0, len(s) - 1)
    t, n, also = data.draw(ids), data.draw(st.integers(1, len(s) - 1)), data.draw(st.lists(ids | st.just(-1)))
    assert loss_of(s, t, also, n=n).item() == by_definition(s, t, n, also)


def test_step_1_each_example_has_its_own_right_words():
    layer = layer_with_scores([0.0, 3.0, 2.0, 1.0], n=1)
    loss = layer.loss(np.zeros((3, 2)), [0, 0, 2], also_right=[[1, 2], [1, -1], [-1, -1]], reduction="none")
    assert loss.data.tolist() == [2.0, 3.0, 2.0]


def test_step_1_if_every_word_is_right_there_is_nothing_to_learn():
    assert loss_of([0.0, 5.0, 7.0], 0, [1, 2], n=2).item() == 0.0
    assert not gradient_of([0.0, 5.0], 1, n=1).any()


@given(
    st.lists(st.lists(st.integers(-1, 6), min_size=5, max_size=5), min_size=1, max_size=3),
    st.integers(1, 5),
    st.data(),
)
def test_step_1_the_first_n_found_that_are_not_right(found, n, data):
    row = st.lists(st.integers(-1, 6), min_size=1, max_size=1) | st.lists(st.integers(-1, 6), min_size=3, max_size=3)
    r = len(data.draw(row))
    right = [
        [data.draw(st.integers(0, 6))] + data.draw(st.lists(st.integers(-1, 6), min_size=r, max_size=r)) for _ in found
    ]
    ids, valid = map(mg.to_cpu, hardest(mg.backend.asarray(found), mg.backend.asarray(right), n))
    for row, counts, seen, not_these in zip(ids.tolist(), valid.tolist(), found, right):
        expected = [w for w in seen if w >= 0 and w not in not_these][:n]
        assert row == expected + [not_these[0]] * (n - len(expected)), "and the target where there is none"
        assert counts == [True] * len(expected) + [False] * (n - len(expected))


# ---- (2): the loss --------------------------------------------------------------------------------------------------


@given(vocab_batches(), st.data())
def test_step_2_the_loss_of_the_layer_is_that_of_all_wrong_words_sorted(batch, data):
    weight, bias, hidden, targets = batch
    n, margin = data.draw(st.integers(1, len(weight) - 1)), data.draw(st.sampled_from([0.5, 1.0, 3.0]))
    layer = HardNegatives(*weight.shape, key=mg.Key(0), n=n, margin=margin)
    layer.weight, layer.bias = weight, bias
    s = layer.raw_scores(hidden).numpy().tolist()
    expected = [by_definition(row, t, n, margin=margin) for row, t in zip(s, targets.tolist())]
    assert np.allclose(layer.loss(hidden, targets, reduction="none").numpy(), expected, rtol=1e-10, atol=1e-10)


@given(score_lists(), st.data())
def test_step_2_n_equal_to_one_is_the_greatest_and_v_minus_one_the_sum_of_all(s, data):
    t = data.draw(st.integers(0, len(s) - 1))
    each = [max(0.0, 1.0 + s[w] - s[t]) for w in range(len(s)) if w != t]
    assert loss_of(s, t, n=1).item() == max(each)
    assert loss_of(s, t, n=len(s) - 1).item() == sum(each)


@given(score_lists(), st.data())
def test_step_2_it_is_zero_for_every_n_or_for_none_and_grows_with_n(s, data):
    t = data.draw(st.integers(0, len(s) - 1))
    losses = [loss_of(s, t, n=n).item() for n in range(1, len(s))]
    ahead = all(s[t] >= s[w] + 1 for w in range(len(s)) if w != t)
    assert losses == sorted(losses) and {loss == 0 for loss in losses} == {ahead}


def test_step_2_a_mean_over_the_n_would_fade_as_they_come_to_keep_the_margin():
    target, negatives = mg.backend.asarray([2.0]), mg.backend.asarray([[1.5] + [-9.0] * 9])
    assert margin_loss(target, negatives)[1].tolist() == [-1.0], "one of ten fails, and counts in full"


# ---- (3) and (4): the gradient --------------------------------------------------------------------------------------


@given(off_the_margin())
def test_step_3_the_gradient_is_that_of_the_naive_way(example):
    target, negative = map(mg.param, example)
    ours, naive = margin_loss_of(target, negative), margin_loss_naive(target, negative)
    assert ours.data.tolist() == naive.data.tolist()
    for f, e in zip(mg.grad(ours.sum(), [target, negative]), mg.grad(naive.sum(), [target, negative])):
        assert f.tolist() == e.tolist()


@given(off_the_margin())
def test_step_3_gradients_are_right_to_second_order(example):
    mg.check_grads(margin_loss_of, *example)


@given(with_valid())
def test_step_3_of_what_does_not_count_neither_loss_nor_gradient_is_touched(example):
    target, negative = map(mg.param, example[:2])
    loss = margin_loss_of(target, negative, valid=mg.backend.asarray(example[2]))
    loss.sum().backward()
    assert np.isfinite(loss.numpy()).all() and not mg.to_cpu(negative.grad)[~example[2]].any()


def test_step_3_just_at_the_margin_the_gradient_is_zero():
    assert not gradient_of([1.0, 0.0], 0, n=1).any()
    assert gradient_of([1.0, 1e-9], 0, n=1).tolist() == [-1.0, 1.0]


@given(vocab_batches(dtype="float32"), st.data())
def test_step_3_only_the_rows_of_the_target_and_its_negatives_have_a_gradient(batch, data):
    weight, bias, hidden, targets = batch
    n = data.draw(st.integers(1, len(weight) - 1))
    layer = HardNegatives(*weight.shape, key=mg.Key(0), n=n)
    layer.weight, layer.bias = weight, bias
    layer.loss(hidden, targets).backward()
    s = layer.raw_scores(hidden).numpy()
    looked_up = set(targets.tolist())
    for row, t in zip(s.tolist(), targets.tolist()):
        looked_up |= set(sorted((w for w in range(len(row)) if w != t), key=lambda w: -row[w])[:n])
    for p in layer.parameters():
        assert isinstance(p.grad, mg.Rows) and set(p.grad.ids.tolist()) == looked_up


@pytest.mark.parametrize("optimizer", [mg.optim.SGD, mg.optim.Adagrad])
def test_step_3_an_update_changes_no_bit_of_the_other_rows(optimizer):
    layer = HardNegatives(50, 3, key=mg.Key(0), n=2)
    before = [p.numpy().copy() for p in layer.parameters()]
    targets, hidden = np.array([3, 40, 3]), mg.Key(1).normal((3, 3))
    found = np.concatenate([mg.to_cpu(layer.topk(hidden, 3)[0]).ravel(), targets])
    layer.loss(hidden, targets).backward()
    optimizer(layer.parameters(), lr=0.1).step()
    others = np.setdiff1d(np.arange(50), found)
    for new, old in zip([p.numpy() for p in layer.parameters()], before):
        assert new[others].tobytes() == old[others].tobytes() and (new[targets] != old[targets]).any()


@given(vocab_batches(), st.data())
def test_step_4_the_gradient_is_that_of_the_loss_composed_with_the_choice_held_fixed(batch, data):
    weight, bias, hidden, targets = batch
    n = data.draw(st.integers(1, len(weight) - 1))
    layer = HardNegatives(*weight.shape, key=mg.Key(0), n=n, margin=0.7)
    layer.weight, layer.bias = weight, bias
    found = layer.loss(hidden, targets)

    s = hidden @ weight.T + bias  # (B, V): all of them
    examples, masked = np.arange(len(targets)), s.numpy().copy()
    masked[examples, targets] = -np.inf
    chosen = np.argsort(-masked, axis=1, kind="stable")[:, :n]
    over = 0.7 + s[examples[:, None], chosen] - s[examples, targets].reshape((-1, 1))
    composed = mg.relu(over).sum(axis=1).mean()

    assert math.isclose(found.item(), composed.item(), rel_tol=1e-12, abs_tol=1e-12)
    if abs(over.numpy()).min() > 1e-9:  # else it may be at the margin, where there is no derivative
        for f, c in zip(mg.grad(found, batch[:3]), mg.grad(composed, batch[:3])):
            f, c = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, c))
            assert np.allclose(f, c, rtol=1e-10, atol=1e-12)


@given(score_lists(), st.data())
def test_step_4_the_loss_lies_above_the_plane_of_its_gradient_everywhere(s, data):
    """That is what a subgradient is, and that there is one at every s means that the loss is convex."""
    t, n = data.draw(st.integers(0, len(s) - 1)), data.draw(st.integers(1, len(s) - 1))
    elsewhere = np.array(data.draw(st.lists(st.integers(-12, 12), min_size=len(s), max_size=len(s)))) / 4
    plane = loss_of(s, t, n=n).item() + gradient_of(s, t, n=n) @ (elsewhere - s)
    assert loss_of(elsewhere, t, n=n).item() >= plane


@given(score_lists(), st.data())
def test_step_4_no_other_n_words_have_a_greater_loss(s, data):
    t, n = data.draw(st.integers(0, len(s) - 1)), data.draw(st.integers(1, len(s) - 1))
    exact = loss_of(s, t, n=n).item()
    for words in itertools.combinations(range(len(s)), n + 1):
        approximate = lambda hidden, how_many, words=words: ([list(words)], None)
        assert loss_of(s, t, n=n, search=approximate).item() <= exact


# ---- (5) and (6): what it learns ------------------------------------------------------------------------------------


@given(score_lists(), st.integers(-9, 9), st.data())
def test_step_5_a_number_added_to_all_scores_changes_neither_loss_nor_gradient(s, c, data):
    t, n = data.draw(st.integers(0, len(s) - 1)), data.draw(st.integers(1, len(s) - 1))
    shifted = [x + c for x in s]
    assert loss_of(s, t, n=n).item() == loss_of(shifted, t, n=n).item()
    assert (gradient_of(s, t, n=n) == gradient_of(shifted, t, n=n)).all()


def expected_loss(s, p):
    """E L over t ~ p, with n = m = 1: each target by its probability, through the layer."""
    losses = layer_with_scores(s, n=1).loss(np.zeros((len(s), 2)), np.arange(len(s)), reduction="none")
    return float((losses.numpy() * p).sum())


def peaked(v, most):
    """A distribution over v words with the probability `most` for word 1."""
    return np.where(np.arange(v) == 1, most, (1 - most) / (v - 1))


@given(score_lists(least=3), st.sampled_from([0.34, 0.4, 0.5]))
def test_step_6_where_no_word_has_more_than_half_equal_scores_are_as_good_as_any(s, most):
    p = peaked(len(s), most)
    second, first = sorted(s)[-2:]
    v = s.index(first)
    assert expected_loss(s, p) >= 1 + (first - second) * (1 - 2 * p[v]) - 1e-12
    if p.max() <= 0.5:
        assert expected_loss(s, p) >= expected_loss([0.0] * len(s), p) - 1e-12
        assert math.isclose(expected_loss([0.0] * len(s), p), 1.0)


def test_step_6_a_word_with_more_than_half_is_put_ahead_by_the_margin():
    p = peaked(4, 0.6)
    ahead = [expected_loss([0.0, δ, 0.0, 0.0], p) for δ in (0.0, 0.5, 1.0, 1.5)]
    assert np.allclose(ahead, [1.0, 0.9, 0.8, 1.0]), "1 + δ (1 − 2 · 0.6) up to the margin"


def test_step_6_a_word_with_less_is_not_though_it_is_the_most_probable():
    p = peaked(4, 0.4)
    ahead = [expected_loss([0.0, δ, 0.0, 0.0], p) for δ in (0.0, 0.5, 1.0)]
    assert np.allclose(ahead, [1.0, 1.1, 1.2])


def test_step_6_there_is_no_distribution_to_ask_for():
    with pytest.raises(TypeError, match=r"losses.HardNegatives has no log_prob: .* topk gives them"):
        layer_with_scores([1.0, 2.0], n=1).log_prob(np.zeros((1, 2)))
    assert layer_with_scores([1.0, 2.0], n=1).topk(np.zeros((1, 2)), 1)[0].tolist() == [[1]]


def trained(how, updates):
    """The loss over the hardest, after so many updates with the hardest or a random wrong word: V = 100, d = 16."""
    key, words = mg.Key(0), np.arange(100)
    layer, exact = (HardNegatives(100, 16, key=key, n=1, bias=False) for _ in range(2))
    layer.weight = exact.weight
    hidden, optimizer = mg.tensor(key.fold(1).normal((100, 16))), mg.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(updates):
        if how == "random":
            other = mg.to_cpu(key.fold(2, step).integers(1, 100, 100))
            layer.search = lambda *_, other=other: (((words + other) % 100)[:, None] + [[0, 0]], None)
        layer.loss(hidden, words, reduction="sum").backward()
        optimizer.step()
        optimizer.zero_grad()
    return exact.loss(hidden, words).item()


def test_random_negatives_have_not_learnt_in_ten_times_the_updates_what_hard_ones_have():
    assert trained("hard", 0) > 0.9
    assert trained("hard", 20) == 0.0
    assert trained("random", 200) > 0.01


# ---- the search -----------------------------------------------------------------------------------------------------


def test_the_search_is_asked_for_n_words_and_as_many_as_may_be_right():
    asked = []

    def search(hidden, how_many):
        asked.append((type(hidden).__name__, hidden.shape, how_many))
        return np.tile(np.arange(how_many), (len(hidden), 1)), None

    layer = layer_with_scores([0.0] * 9, n=3, search=search)
    hidden = mg.param(np.zeros((2, 2)))
    layer.loss(hidden, [0, 1])
    layer.loss(hidden, [0, 1], also_right=[[5, 6], [-1, -1]])
    layer_with_scores([0.0] * 4, n=3, search=search).loss(hidden, [0, 1], also_right=[[2], [2]])
    assert asked == [("ndarray", (2, 2), 4), ("ndarray", (2, 2), 6), ("ndarray", (2, 2), 4)]


def found_by(ids, n=2, t=0):
    return loss_of([0.0, 3.0, 2.0, 1.0], t, n=n, search=lambda hidden, how_many: (np.array([ids]), None)).item()


def test_a_search_may_find_fewer_and_the_same_word_twice():
    assert found_by([1, 2, 3]) == 4 + 3
    assert found_by([1, -1, -1]) == found_by([-1, 1, -1]) == 4
    assert found_by([1, 1, 3]) == found_by([1, 0, 3]) == 4 + 2
    assert found_by([-1, -1, -1]) == 0


def test_the_scores_are_those_of_the_weights_of_now_not_of_the_search():
    stale = lambda hidden, how_many: (np.array([[3, 2]]), np.array([[100.0, 50.0]]))
    assert loss_of([0.0, 3.0, 2.0, 1.0], 0, n=1, search=stale).item() == 2.0


@given(st.lists(st.lists(st.integers(-1, 3), min_size=4, max_size=4), min_size=1, max_size=3))
def test_an_id_that_comes_again_in_its_row_is_none(rows):
    found = mg.to_cpu(counted_once(mg.backend.asarray(rows))).tolist()
    assert found == [[-1 if w in row[:i] else w for i, w in enumerate(row)] for row in rows]


def test_an_index_of_the_weights_is_a_search():
    """The exact one by hand: what `topk` does without a bias."""
    layer, hidden, targets = (
        HardNegatives(30, 4, key=mg.Key(0), n=5, bias=False),
        mg.Key(1).normal((6, 4)),
        np.arange(6),
    )

    def search(queries, how_many):
        ids = (-(queries @ layer.weight.data.T)).argsort(axis=1)[:, :how_many]
        return ids, None

    exact = layer.loss(hidden, targets).item()
    layer.search = search
    assert layer.loss(hidden, targets).item() == exact > 0


# ---- cost -----------------------------------------------------------------------------------------------------------


def test_cost_of_the_exact_search_is_every_row_and_of_another_what_is_learnt():
    assert HardNegatives(1000, 4, key=mg.Key(0), n=5).score_cost() == (1006, 1000)
    assert HardNegatives(1000, 4, key=mg.Key(0), n=5, search=lambda h, k: None).score_cost() == (6, 1000)


@pytest.mark.parametrize("also_right", [None, np.full((32, 3), 7)])
def test_the_cost_is_the_number_of_rows_that_have_a_gradient_and_the_search(also_right):
    layer = HardNegatives(1000, 4, key=mg.Key(0), n=5)
    layer.loss(np.ones((32, 4), "float32"), np.arange(32), also_right=also_right).backward()
    assert len(layer.weight.grad.ids) == 32 * (layer.score_cost().train - 1000)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"n": 4}, ValueError, "n must lie in 1 to 3, as many as there are wrong words; got 4"),
        ({"n": 2.0}, TypeError, "n must be an integer, got float 2.0"),
        ({"margin": 0}, ValueError, "margin must be a finite number above 0, got 0"),
        ({"margin": -1.0}, ValueError, "margin must be a finite number above 0, got -1.0"),
        ({"margin": math.nan}, ValueError, "margin must be a finite number above 0, got nan"),
        ({"margin": math.inf}, ValueError, "margin must be a finite number above 0, got inf"),
        ({"margin": "1"}, ValueError, "margin must be a finite number above 0, got '1'"),
        ({"search": 3}, TypeError, "search must be a function .* got int"),
    ],
)
def test_a_layer_that_makes_no_sense_is_refused(options, error, message):
    with pytest.raises(error, match=f"losses.HardNegatives: {message}"):
        HardNegatives(4, 2, key=mg.Key(0), **{"n": 2, **options})


@pytest.mark.parametrize(
    "also_right, error, message",
    [
        ([1, 2], ValueError, r"must have shape \(2, r\), got \[2\]"),
        ([[1], [2], [3]], ValueError, r"must have shape \(2, r\), got \[3, 1\]"),
        ([[1.0], [2.0]], TypeError, "must be integers, got float64"),
        ([[1], [4]], IndexError, r"must lie in \[0, 4\), or be −1 for none; got 4"),
        ([[-2], [1]], IndexError, r"must lie in \[0, 4\), or be −1 for none; got -2"),
    ],
)
def test_also_right_that_makes_no_sense_is_refused(also_right, error, message):
    with pytest.raises(error, match=f"losses.HardNegatives: also_right {message}"):
        layer_with_scores([0.0] * 4, n=1).loss(np.zeros((2, 2)), [0, 1], also_right=also_right)


def test_no_words_that_are_also_right_are_fine():
    assert loss_of([0.0, 1.0], 0, [], n=1).item() == 2.0


@pytest.mark.parametrize(
    "found, error, message",
    [
        (np.zeros((2, 2)), TypeError, "search must return ids and scores, got ndarray"),
        (None, TypeError, "search must return ids and scores, got NoneType"),
        ((np.zeros((2, 3), int), None), ValueError, r"what search found must have shape \(2, 2\), got \[2, 3\]"),
        ((np.zeros(2, int), None), ValueError, r"what search found must have shape \(2, 2\), got \[2\]"),
        ((np.zeros((2, 2)), None), TypeError, "what search found must be integers, got float64"),
        ((np.full((2, 2), 4), None), IndexError, r"what search found must lie in \[0, 4\), or be −1 for none; got 4"),
        ((np.full((2, 2), -2), None), IndexError, r"what search found must lie in \[0, 4\), .* got -2"),
    ],
)
def test_a_search_that_finds_no_ids_is_refused(found, error, message):
    layer = layer_with_scores([0.0] * 4, n=1, search=lambda hidden, how_many: found)
    with pytest.raises(error, match=f"losses.HardNegatives: {message}"):
        layer.loss(np.zeros((2, 2)), [0, 1])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_do_not_pass_for_a_margin_that_is_kept(value):
    layer = layer_with_scores([value, 0.0, 1.0], n=1)
    with pytest.raises(FloatingPointError, match=r"losses.HardNegatives: the loss of some example is not finite"):
        layer.loss(np.zeros((1, 2)), [0 if math.isnan(value) else 1])


# ---- In PyTorch -----------------------------------------------------------------------------------------------------


def in_torch(torch, lines, weight, hidden, targets, n):
    theirs = {"V": weight.shape[0], "d": weight.shape[1], "n": n, "targets": torch.tensor(targets)}
    theirs["hidden"] = torch.tensor(hidden.numpy(), requires_grad=True)
    imports, make, *train = lines.strip().split("\n\n")
    exec(imports + "\n" + make, theirs)
    theirs["out"].weight.data = torch.tensor(weight.numpy())
    exec("\n\n".join(train), theirs)
    return theirs


@pytest.mark.oracle
@given(batch=vocab_batches(dtype="float32"), data=st.data())
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(batch, data):
    torch = pytest.importorskip("torch")
    weight, _, hidden, targets = batch
    n = data.draw(st.integers(1, len(weight) - 1))
    layer = HardNegatives(*weight.shape, key=mg.Key(0), n=n, bias=False)
    layer.weight = weight
    ours = layer.loss(hidden, targets, reduction="none")
    ours.mean().backward()
    theirs = in_torch(torch, IN_PYTORCH, weight, hidden, targets, n)

    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-5, atol=1e-5)
    s = np.sort(layer.raw_scores(hidden).numpy(), axis=1)
    t = layer.raw_scores(hidden).numpy()[np.arange(len(targets)), targets]
    if np.diff(s).min() > 1e-4 and abs(1 + s - t[:, None]).min() > 1e-4:  # no ties to break, nothing at the margin
        assert np.allclose(mg.to_cpu(hidden.grad), theirs["hidden"].grad.numpy(), rtol=1e-5, atol=1e-5)
        rows, grad = weight.grad.coalesce(), theirs["out"].weight.grad.coalesce()
        assert rows.ids.tolist() == grad.indices()[0].tolist()
        assert np.allclose(mg.to_cpu(rows.values), grad.values().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.oracle
def test_in_pytorch_the_trap_is_a_loss_that_never_falls_below_the_margin():
    torch = pytest.importorskip("torch")
    trapped = "\n".join(line for line in IN_PYTORCH.splitlines() if "scatter_" not in line)
    weight, hidden = mg.tensor(np.float32(100) * np.eye(4, 3, dtype="float32")), mg.tensor(np.eye(3, dtype="float32"))
    right, wrong = (in_torch(torch, lines, weight, hidden, np.arange(3), 2) for lines in (IN_PYTORCH, trapped))
    assert right["loss"].tolist() == [0.0] * 3 and wrong["loss"].tolist() == [1.0] * 3
    assert not wrong["hidden"].grad.any(), "and no gradient comes of it"


@pytest.mark.oracle
@given(batch=vocab_batches())
def test_in_pytorch_multi_margin_loss_is_that_of_all_wrong_words_over_v(batch):
    torch = pytest.importorskip("torch")
    weight, bias, hidden, targets = batch
    layer = HardNegatives(*weight.shape, key=mg.Key(0), n=len(weight) - 1)
    layer.weight, layer.bias = weight, bias
    s = torch.tensor(layer.raw_scores(hidden).numpy())
    theirs = torch.nn.functional.multi_margin_loss(s, torch.tensor(targets), reduction="none")
    assert np.allclose(layer.loss(hidden, targets, reduction="none").numpy(), len(weight) * theirs.numpy())
