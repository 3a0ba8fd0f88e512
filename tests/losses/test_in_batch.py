"""In-batch negatives: a test for each numbered step of `losses.sampled.in_batch`, and an oracle in torch."""

import itertools
import math

import numpy as np
import pytest
import strict
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from losses import FullSoftmax, InBatchSoftmax
from losses.check import smallest_failure
from losses.sampled.in_batch import (
    IN_PYTORCH,
    StreamingUnigram,
    in_batch_softmax,
    in_batch_softmax_loss,
    in_batch_softmax_naive,
)
from losses.samplers import LogUniform, Uniform, Unigram
from losses.suites.in_batch import CHAPTER, batches, batches_with_repeats
from losses.suites.negative import distributions
from minigrad.check import vocab_batches

from .properties import where_tensors_are_made

pytestmark = pytest.mark.in_batch

fewer = settings(max_examples=max(5, settings().max_examples // 4))  # where an example takes its time
there = where_tensors_are_made(in_batch_softmax)
P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, there, max_examples=40) is None


# ---- (2), (3): the loss and its gradient --------------------------------------------------------------------------


@given(batches())
def test_step_2_both_ways_have_one_loss_and_one_gradient(example):
    scores, log_q = mg.param(example[0]), mg.backend.asarray(example[1])
    fused, naive = in_batch_softmax_loss(scores, log_q=log_q), in_batch_softmax_naive(scores, log_q=log_q)
    assert np.allclose(fused.numpy(), naive.numpy(), rtol=1e-9, atol=1e-12)
    (f,), (n,) = (mg.grad(loss.sum(), [scores]) for loss in (fused, naive))
    assert np.allclose(mg.to_cpu(f), mg.to_cpu(n), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_2_the_loss_at_1000_is_1000_and_naively_no_number(dtype):
    scores = mg.backend.asarray([[0.0, 1000.0], [1000.0, 0.0]], dtype)
    assert in_batch_softmax(scores, log_q=0.0)[0].tolist() == [1000.0, 1000.0]
    with np.errstate(all="ignore"):
        assert not np.isfinite(in_batch_softmax_naive(mg.tensor(scores), log_q=0.0).numpy()).any()


@fewer
@given(batches_with_repeats(), st.booleans())
def test_step_3_gradients_are_right_to_second_order(example, with_repeats):
    scores, log_q, repeats = example
    log_q, repeats = mg.backend.asarray(log_q), mg.backend.asarray(repeats) if with_repeats else None
    mg.check_grads(lambda scores: in_batch_softmax_loss(scores, log_q=log_q, repeats=repeats), scores)


@given(batches(limit=1000.0))
def test_step_3_each_row_adds_up_to_zero(example):
    assert np.allclose(there(example[0], log_q=example[1])[1].sum(axis=1), 0.0, rtol=0, atol=1e-12)


@fewer
@given(vocab_batches(), st.booleans(), st.booleans())
def test_step_3_the_gradient_of_the_layer_is_that_of_the_composed_loss(batch, correct, mask_repeats):
    weight, bias, hidden, targets = batch
    layer = InBatchSoftmax(*weight.shape, key=mg.Key(0), correct=correct, mask_repeats=mask_repeats)
    layer.weight, layer.bias = weight, bias
    found = layer.loss(hidden, targets)

    a = hidden @ mg.take(weight, targets).T + mg.take(bias, targets)  # (B, B)
    a = a - correct * np.log(mg.to_cpu(layer.sampler.probs))[targets]
    again = (targets == targets[:, None]) & ~np.eye(len(targets), dtype=bool)
    composed = mg.cross_entropy(a - 1e30 * (mask_repeats * again), np.arange(len(targets)))

    assert math.isclose(found.item(), composed.item(), rel_tol=1e-11, abs_tol=1e-12)
    for f, c in zip(mg.grad(found, batch[:3]), mg.grad(composed, batch[:3])):
        f, c = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, c))
        assert np.allclose(f, c, rtol=1e-10, atol=1e-12)


# ---- (1), (4): what it learns, every batch of pairs by its probability, through the layer ---------------------------

OF_CONTEXT = np.array([0.7, 0.3])  # P(h)
GIVEN = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])  # P(w | h)
UNIGRAM = OF_CONTEXT @ GIVEN


def mean_gradient_of_pairs(table, batch_size, **options):
    """Of scores table[h, w], (2, 3), over all batches of pairs (h, t), drawn independently."""
    layer = InBatchSoftmax(3, 2, counts=UNIGRAM, key=mg.Key(0), bias=False, **options)
    layer.weight = mg.param(table.T)  # contexts are (1, 0) and (0, 1)
    pairs = list(itertools.product(range(2), range(3)))
    for batch in itertools.product(pairs, repeat=batch_size):
        contexts, targets = np.array(batch).T
        chance = (OF_CONTEXT[contexts] * GIVEN[contexts, targets]).prod()
        (chance * layer.loss(np.eye(2)[contexts], targets)).backward()
    return mg.to_cpu(layer.weight.grad.dense()).T


@pytest.mark.parametrize("batch_size", [2, 3])
def test_step_4_with_the_batch_as_noise_the_optimum_is_log_p_and_a_constant_for_each_context(batch_size):
    table = np.log(GIVEN) + np.array([[1.5], [-2.0]])
    assert abs(mean_gradient_of_pairs(table, batch_size)).max() < 1e-12


def test_step_5_without_correction_it_is_the_pointwise_mutual_information():
    pmi = np.log(OF_CONTEXT[:, None] * GIVEN / (OF_CONTEXT[:, None] * UNIGRAM))
    assert abs(mean_gradient_of_pairs(pmi, 2, correct=False)).max() < 1e-12
    assert abs(mean_gradient_of_pairs(np.log(GIVEN), 2, correct=False)).max() > 0.01


def test_step_4_alone_an_example_has_no_loss_and_no_gradient():
    layer = InBatchSoftmax(5, 2, key=mg.Key(0))
    hidden = mg.param(np.array([[300.0, -200.0]], "float32"))
    loss = layer.loss(hidden, [3])
    loss.backward()
    assert loss.item() == 0.0 and not mg.to_cpu(hidden.grad).any()
    assert not layer.weight.grad.dense().any() and not layer.bias.grad.dense().any()


# ---- (5), (6): the correction and the repeats, as functions of scores -----------------------------------------------


def mean_gradient(s, p, q, batch_size, β=1.0, mask_repeats=False):
    """For each word: of the examples i of a batch, t_i ~ p and the others ~ q, every batch by its chance."""
    mean = np.zeros(len(p))
    for targets in map(np.array, itertools.product(range(len(p)), repeat=batch_size)):
        again = (targets == targets[:, None]) & ~np.eye(batch_size, dtype=bool) & mask_repeats
        _, g = there(np.tile(s[targets], (batch_size, 1)), log_q=β * np.log(q)[targets], repeats=again)
        np.add.at(mean, targets, q[targets].prod() * (p / q)[targets] @ g)
    return mean


@pytest.mark.parametrize("β", [1.0, 0.0, -1.0, 0.5, 2.0])
@pytest.mark.parametrize("batch_size", [2, 3])
def test_step_5_with_β_log_q_subtracted_the_optimum_is_log_p_and_what_is_missing_of_log_q(β, batch_size):
    s = np.log(P) - (1 - β) * np.log(Q) + 0.7
    assert abs(mean_gradient(s, P, Q, batch_size, β)).max() < 1e-12
    assert β == 1.0 or abs(mean_gradient(np.log(P), P, Q, batch_size, β)).max() > 0.01


def kl(p, s):
    """KL(p ‖ softmax(s)), word by word."""
    return (p * (np.log(p) - s + np.log(np.exp(s).sum()))).sum()


@given(distributions(), st.floats(-3, 3))
def test_step_5_how_far_the_optimum_is_from_p(example, β):
    p, q, _ = example
    formula = math.log((p * q ** (β - 1)).sum()) - (β - 1) * (p * np.log(q)).sum()
    assert math.isclose(kl(p, np.log(p) - (1 - β) * np.log(q)), formula, rel_tol=1e-9, abs_tol=1e-12)


@given(distributions())
def test_step_5_the_wrong_sign_is_at_least_twice_as_far_off_as_no_correction_whatever_p_and_q_are(example):
    p, q, _ = example
    right, none, wrong = (kl(p, np.log(p) - (1 - β) * np.log(q)) for β in (1.0, 0.0, -1.0))
    assert abs(right) < 1e-12
    if np.ptp(q) > 0:
        assert wrong >= 2 * none > 1e-6
    else:
        assert abs(none) < 1e-12 and abs(wrong) < 1e-12


@pytest.mark.parametrize("β", [0.25, 0.5])
def test_step_5_a_layer_may_subtract_a_part_of_log_q(β):
    table = np.log(GIVEN) - (1 - β) * np.log(UNIGRAM)
    assert abs(mean_gradient_of_pairs(table, 2, correct=β)).max() < 1e-12
    assert abs(mean_gradient_of_pairs(table, 2)).max() > 0.01


@pytest.mark.parametrize("one, other", [(True, 1), (False, 0.0), (True, np.float32(1))])
def test_step_5_all_of_it_is_true_and_nothing_is_false(one, other):
    losses = [InBatchSoftmax(4, 2, key=mg.Key(0), correct=β).loss(HIDDEN, TARGETS).item() for β in (one, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("wrong", ["no", -1, 1.5, math.nan, None])
def test_what_is_subtracted_is_a_part_of_log_q_from_0_to_1(wrong):
    with pytest.raises(ValueError, match=r"losses\.InBatchSoftmax: correct must be a number from 0 to 1, got"):
        InBatchSoftmax(4, 2, key=mg.Key(0), correct=wrong)


@pytest.mark.parametrize("wrong", ["no", 1, None])
def test_whether_repeats_are_left_out_is_a_bool(wrong):
    with pytest.raises(TypeError, match=r"losses\.InBatchSoftmax: mask_repeats must be True or False, got"):
        InBatchSoftmax(4, 2, key=mg.Key(0), mask_repeats=wrong)


class WrongSign(Unigram):
    def log_prob(self, ids):
        return -super().log_prob(ids)


@pytest.mark.cpu
def test_step_5_a_layer_that_is_trained_is_nearest_to_p_with_the_correction_and_farthest_with_the_wrong_sign():
    batches, size = 600, 16
    flat = (OF_CONTEXT[:, None] * GIVEN).ravel()
    pairs = mg.to_cpu(Unigram(flat, 1.0).sample(mg.Key(5), (batches, size)))
    found = {}
    for which, options in (
        ("right", {"counts": UNIGRAM}),
        ("none", {"correct": False}),
        ("wrong", {"sampler": WrongSign(UNIGRAM, 1.0)}),
    ):
        layer = InBatchSoftmax(3, 2, key=mg.Key(0), bias=False, **options)
        optimizer = mg.optim.SGD(layer.parameters(), lr=0.5)
        for i, batch in enumerate(pairs):
            optimizer.lr = 1.0 / (1.0 + i / 60)
            layer.loss(np.eye(2, dtype="float32")[batch // 3], batch % 3).backward()
            optimizer.step()
            optimizer.zero_grad()
        log_prob = layer.log_prob(np.eye(2, dtype="float32")).numpy()
        found[which] = sum(h * kl(row, log_p) for h, row, log_p in zip(OF_CONTEXT, GIVEN, log_prob))
    assert found["right"] < 0.002 and 0.02 < found["none"] < found["wrong"] / 2


@pytest.mark.parametrize("q", [Q, P], ids=["few", "many"])
def test_step_6_with_repeats_left_out_log_p_is_the_optimum_of_batches_of_two_only(q):
    of = {b: abs(mean_gradient(np.log(P), P, q, b, mask_repeats=True)).max() for b in (2, 3, 4)}
    assert of[2] < 1e-12 < 0.002 < of[3] < of[4]


@pytest.mark.parametrize("mask_repeats", [False, True])
def test_step_6_a_repeat_stays_unless_the_layer_is_told_to_leave_it_out(mask_repeats):
    layer = InBatchSoftmax(4, 1, key=mg.Key(0), sampler=Uniform(4), mask_repeats=mask_repeats)
    layer.bias = mg.param(np.array([0.0, 2.0, 0.0, 1.0], "float32"))
    found = layer.loss(np.zeros((3, 1), "float32"), [1, 3, 1], reduction="none").numpy()
    one, two = math.exp(2), math.exp(1)
    times = 1 if mask_repeats else 2
    expected = [math.log((times * one + two) / one), math.log((2 * one + two) / two)]
    assert np.allclose(found, [expected[0], expected[1], expected[0]], rtol=1e-6)


def test_step_6_the_right_word_stays_whatever_the_diagonal_says():
    scores, repeats = np.arange(9.0).reshape(3, 3), np.eye(3, dtype=bool)
    found, expected = there(scores, log_q=np.zeros(3), repeats=repeats), there(scores, log_q=np.zeros(3))
    assert all((a == b).all() for a, b in zip(found, expected))


@pytest.mark.parametrize("shape, of_q", [((2, 3), 2), ((2, 3), 3), ((3, 3), (3, 1)), ((3, 3), 2), (3, 3)])
def test_scores_are_of_each_context_with_each_target_and_log_q_of_each_target(shape, of_q):
    with pytest.raises(ValueError, match=r"in_batch_softmax: scores must have shape \(B, B\), log_q \(B,\), got"):
        there(np.zeros(shape), log_q=np.zeros(of_q))


# ---- (7), and the layer -------------------------------------------------------------------------------------------


@fewer
@given(vocab_batches(), st.integers(0, 99))
def test_step_7_with_each_word_once_and_uniform_q_it_is_the_exact_softmax(batch, seed):
    weight, bias = batch[:2]
    v, d = weight.shape
    targets = np.argsort(mg.to_cpu(mg.Key(seed).uniform(v)))
    hidden = mg.param(mg.Key(seed).normal((v, d), "float64"))
    in_batch, exact = InBatchSoftmax(v, d, key=mg.Key(0), sampler=Uniform(v)), FullSoftmax(v, d, key=mg.Key(0))
    losses = []
    for layer in (in_batch, exact):
        layer.weight, layer.bias = weight, bias
        losses.append(layer.loss(hidden, targets, reduction="none"))
    assert np.allclose(*(loss.numpy() for loss in losses), rtol=1e-11, atol=1e-12)
    for one, other in zip(*(mg.grad(loss.sum(), [weight, bias, hidden]) for loss in losses)):
        one, other = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (one, other))
        assert np.allclose(one, other, rtol=1e-10, atol=1e-12)


HIDDEN, TARGETS = np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 1.0]], "float32"), np.array([2, 0, 2])


def test_noise_comes_with_the_batch_so_a_key_is_not_needed_and_not_used():
    layer = InBatchSoftmax(4, 2, key=mg.Key(0))
    assert layer.loss(HIDDEN, TARGETS).item() == layer.loss(HIDDEN, TARGETS, key=mg.Key(3)).item()


def test_q_is_that_of_the_counts_or_zipfs_law_or_that_of_the_sampler():
    layer = lambda **options: InBatchSoftmax(3, 2, key=mg.Key(0), **options).sampler.probs.tolist()
    assert np.allclose(layer(counts=[6, 3, 1]), [0.6, 0.3, 0.1], rtol=1e-15), "to the power of one"
    assert np.allclose(layer(), np.array([6, 3, 2]) / 11)
    assert layer(sampler=LogUniform(3)) == LogUniform(3).probs.tolist()


def test_step_2_counts_serve_as_well_as_probabilities():
    class Counts(Unigram):
        def log_prob(self, ids):
            return super().log_prob(ids) + math.log(1000)

    losses = [
        InBatchSoftmax(3, 2, key=mg.Key(0), sampler=kind([6, 3, 1])).loss(HIDDEN, TARGETS) for kind in (Unigram, Counts)
    ]
    assert math.isclose(losses[0].item(), losses[1].item(), rel_tol=1e-6)


def test_a_target_that_never_occurs_is_an_error_unless_nothing_is_corrected():
    layer = InBatchSoftmax(4, 2, key=mg.Key(0), counts=[5, 0, 1, 1])
    assert math.isfinite(layer.loss(HIDDEN, TARGETS).item())
    with pytest.raises(ValueError, match=r"losses\.InBatchSoftmax: a target has q\(w\) = 0, .* give it a count"):
        layer.loss(HIDDEN, [2, 0, 1])
    assert math.isfinite(
        InBatchSoftmax(4, 2, key=mg.Key(0), counts=[5, 0, 1, 1], correct=False).loss(HIDDEN, [2, 0, 1]).item()
    )


def test_a_sampler_over_other_words_is_an_error():
    with pytest.raises(
        ValueError, match=r"losses\.InBatchSoftmax: the sampler must be over the layer's 4 words, it is"
    ):
        InBatchSoftmax(4, 2, key=mg.Key(0), sampler=Uniform(5))


@pytest.mark.parametrize(
    "wrong, came", [(Uniform, "the class Uniform"), (np.ones(4) / 4, "ndarray"), (len, "builtin_function_or_method")]
)
def test_a_sampler_has_a_vocab_size_and_a_log_prob(wrong, came):
    with pytest.raises(TypeError, match=rf"sampler must have a vocab_size and a log_prob\(ids\), got {came}"):
        InBatchSoftmax(4, 2, key=mg.Key(0), sampler=wrong)


def test_beside_a_sampler_counts_say_nothing_of_q():
    layer = lambda **options: InBatchSoftmax(4, 2, key=mg.Key(0), sampler=Uniform(4), **options)
    assert layer(counts=[9, 1, 1, 1]).loss(HIDDEN, TARGETS).item() == layer().loss(HIDDEN, TARGETS).item()


def test_cost_is_one_row_a_token_and_all_of_them_at_test():
    layer = InBatchSoftmax(1000, 2, key=mg.Key(0))
    assert layer.score_cost() == layer.score_cost(batch_size=32) == (1, 1000)
    layer.loss(HIDDEN, TARGETS).backward()
    assert len(layer.weight.grad.ids) == len(layer.bias.grad.ids) == len(TARGETS) * layer.score_cost(3).train


def test_log_prob_is_that_of_the_scores_with_nothing_to_add():
    layer = InBatchSoftmax(4, 2, key=mg.Key(0))
    s = layer.raw_scores(HIDDEN).numpy()
    assert np.allclose(layer.log_prob(HIDDEN).numpy(), s - np.log(np.exp(s).sum(axis=1, keepdims=True)), atol=1e-6)


# ---- (8), (9): q from the stream ----------------------------------------------------------------------------------


def streamed(ids, vocab_size=4, batch_size=None, **options):
    """What a `StreamingUnigram` knows after `ids`, in batches."""
    stream = StreamingUnigram(vocab_size, **options)
    for i in range(0, len(ids), batch_size or len(ids)):
        stream.update(ids[i : i + (batch_size or len(ids))])
    return stream


def one_by_one(ids, vocab_size, α):
    """(8) as it stands: m, u and the time of the last occurrence of each word."""
    m, u, last = ([0.0] * vocab_size for _ in range(3))
    for now, w in enumerate(ids, start=1):
        m[w] += α * (now - last[w] - m[w])
        u[w] += α * (1 - u[w])
        last[w] = now
    return m, u, last


texts = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@given(texts, st.integers(1, 40), st.sampled_from([0.01, 0.3, 0.9]))
def test_step_9_a_batch_at_once_is_as_good_as_its_targets_one_by_one(ids, batch_size, α):
    found = streamed(np.array(ids), batch_size=batch_size, alpha=α)
    for array, expected in zip((found.gap, found.total, found.last), one_by_one(ids, 4, α)):
        assert np.allclose(mg.to_cpu(array), expected, rtol=1e-12, atol=1e-13)
    assert found.seen == len(ids)


@given(texts, st.sampled_from([0.01, 0.3]))
def test_step_8_the_estimate_is_a_mean_of_gaps_whose_weights_add_up_to_one(ids, α):
    """So E[m / u] = 1/q, whatever the weights are: each gap has that mean, the first one, from the start, as well."""
    found = streamed(np.array(ids), alpha=α)
    for w in set(ids):
        times = [0] + [i for i, other in enumerate(ids, start=1) if other == w]
        weights = [(1 - α) ** (len(times) - 2 - j) for j in range(len(times) - 1)]
        mean = sum(x * (b - a) for x, (a, b) in zip(weights, itertools.pairwise(times))) / sum(weights)
        assert math.isclose(math.exp(-mg.to_cpu(found.log_prob([w]))[0]), mean, rel_tol=1e-10)


@pytest.mark.parametrize("q", [0.5, 0.1])
def test_step_8_a_gap_has_the_mean_one_over_q_and_the_variance_one_less_q_over_q_squared(q):
    n = np.arange(1, 1000)
    chance = q * (1 - q) ** (n - 1)
    assert math.isclose(chance @ n, 1 / q, rel_tol=1e-12)
    assert math.isclose(chance @ n**2 - (chance @ n) ** 2, (1 - q) / q**2, rel_tol=1e-11)


def relative_variance(q, α, n):
    return (1 - q) * α / (2 - α) * (1 + (1 - α) ** n) / (1 - (1 - α) ** n)


@pytest.mark.parametrize("α", [0.01, 0.3])
@pytest.mark.parametrize("n", [1, 2, 10, 1000])
def test_step_8_the_variance_of_the_estimate_after_n_occurrences(n, α):
    weights = (1 - α) ** np.arange(n)
    assert math.isclose(relative_variance(0.2, α, n), 0.8 * (weights**2).sum() / weights.sum() ** 2, rel_tol=1e-9)


def test_step_8_it_begins_as_one_over_n_and_ends_at_seven_percent():
    assert math.isclose(relative_variance(0.2, 1e-6, 10), 0.8 / 10, rel_tol=1e-4)
    assert round(math.sqrt(relative_variance(0.0, 0.01, 100_000)), 2) == 0.07
    assert round(0.99**100, 2) == 0.37


def too_large(q, n, most=60_000):
    """E[−log(m / u)] − log q at the n-th occurrence, α small: the time of the n-th, over n, is m / u."""
    time = np.arange(n, most)  # time − n failures before the n-th success
    log_ways = np.array([math.lgamma(t) - math.lgamma(n) - math.lgamma(t - n + 1) for t in time.tolist()])
    chance = np.exp(log_ways + n * math.log(q) + (time - n) * math.log1p(-q))
    assert math.isclose(chance.sum(), 1.0, rel_tol=1e-6)
    return -(chance @ np.log(time / n)) - math.log(q)


def test_step_8_the_logarithm_is_too_large_by_one_over_2n_and_at_the_first_occurrence_by_eulers_constant():
    found = {1: too_large(1e-4, 1, most=300_000), 2: too_large(1e-3, 2), 10: too_large(1e-3, 10)}
    assert round(found[1], 2) == round(np.euler_gamma, 2) == 0.58
    assert math.isclose(found[2], 1 / 4, rel_tol=0.1) and math.isclose(found[10], 1 / 20, rel_tol=0.02)


def test_step_8_that_is_half_the_variance_of_the_estimate():
    for n in (10, 40):
        assert math.isclose(too_large(1e-2, n), relative_variance(1e-2, 1e-6, n) / 2, rel_tol=0.02)


@pytest.mark.parametrize("batch_size", [1, 16, 256])
def test_step_8_it_finds_q_to_within_six_standard_deviations(batch_size):
    q, n, α = np.array([0.5, 0.3, 0.15, 0.05]), 4096, 0.01
    ids = mg.to_cpu(Unigram(q, 1.0).sample(mg.Key(1), n))
    if batch_size == 1:
        ids = ids[:1024]
    stream = streamed(ids, batch_size=batch_size, alpha=α)
    times = np.bincount(ids)
    off = np.exp(-mg.to_cpu(stream.log_prob(np.arange(4)))) * q - 1  # of m / u, relative
    assert (abs(off) < 6 * np.sqrt(relative_variance(q, α, times))).all()


def test_step_8_it_follows_a_q_that_changes():
    sooner, later = (Unigram(q, 1.0).sample(mg.Key(2), 2048) for q in ([0.8, 0.2], [0.2, 0.8]))
    stream = StreamingUnigram(2, alpha=0.02)
    for ids in (sooner, later):
        stream.update(ids)
    log_q = mg.to_cpu(stream.log_prob([0, 1]))
    assert abs(np.exp(log_q) - [0.2, 0.8]).max() < 0.15


def test_a_word_that_was_never_seen_counts_as_if_it_were_the_next():
    stream = streamed([0, 1, 0, 0])
    assert np.allclose(np.exp(mg.to_cpu(stream.log_prob([3, 2]))), 1 / 5, rtol=1e-14)
    stream.update([3])
    assert np.allclose(np.exp(mg.to_cpu(stream.log_prob([3]))), 1 / 5, rtol=1e-14), "and so it does when it is"


def test_before_the_first_target_log_prob_is_an_error():
    with pytest.raises(ValueError, match=r"losses\.StreamingUnigram\.log_prob: no target was seen .* call update"):
        StreamingUnigram(4).log_prob([1])


@pytest.mark.parametrize("ids, error", [([4], IndexError), ([-1], IndexError), ([0.5], TypeError)])
@pytest.mark.parametrize("ask", ["update", "log_prob"])
def test_ids_that_are_none_are_an_error_and_change_nothing(ask, ids, error):
    stream = streamed([0, 1])
    with pytest.raises(error, match=rf"losses\.StreamingUnigram\.{ask}: ids must"):
        getattr(stream, ask)(ids)
    assert stream.seen == 2


@pytest.mark.parametrize("alpha", [0, 1.0, -0.1, math.nan, "0.1"])
def test_alpha_lies_between_zero_and_one(alpha):
    with pytest.raises(ValueError, match=r"losses\.StreamingUnigram: alpha must lie between 0 and 1, got"):
        StreamingUnigram(4, alpha=alpha)


@pytest.mark.parametrize("alpha", [np.float32(0.01), np.float64(0.5)])
def test_alpha_may_be_a_number_of_numpys(alpha):
    assert StreamingUnigram(4, alpha).alpha == float(alpha)


def test_it_holds_24_bytes_a_word():
    stream = streamed([0, 1], vocab_size=1000)
    assert sum(a.nbytes for a in vars(stream).values() if hasattr(a, "nbytes")) == 24 * 1000


def test_words_that_are_not_in_a_batch_are_left_as_they_are():
    stream = streamed([0, 1, 1, 3, 2, 0])
    before = [mg.to_cpu(a).copy() for a in (stream.gap, stream.total, stream.last)]
    stream.update([2, 2])
    for new, old in zip((stream.gap, stream.total, stream.last), before):
        new = mg.to_cpu(new)
        assert (new[[0, 1, 3]] == old[[0, 1, 3]]).all() and new[2] != old[2]


def test_a_stream_is_saved_and_goes_on_where_it_was(tmp_path):
    stream = streamed([0, 1, 1, 3, 2, 0])
    mg.save(tmp_path / "q.npz", stream.state_dict())
    again = StreamingUnigram(4)
    again.load_state_dict(mg.load(tmp_path / "q.npz"))
    for one in (stream, again):
        one.update([3, 3, 1])
    assert again.seen == 9
    assert mg.to_cpu(again.log_prob(range(4))).tolist() == mg.to_cpu(stream.log_prob(range(4))).tolist()


def test_what_was_saved_is_a_copy_and_so_is_what_is_loaded():
    stream, again = streamed([0, 1, 1, 3, 2, 0]), StreamingUnigram(4)
    state = stream.state_dict()
    before = {name: array.tolist() for name, array in state.items()}
    again.load_state_dict(state)
    for one in (stream, again):
        one.update([3, 3, 1])
    assert {name: array.tolist() for name, array in state.items()} == before


def test_what_does_not_fit_is_not_loaded():
    stream, other = streamed([0, 1]), streamed([0, 1, 4], vocab_size=5)
    with pytest.raises(ValueError, match=r"StreamingUnigram\.load_state_dict: last must have shape \[4\], got \[5\]"):
        stream.load_state_dict(other.state_dict())
    assert stream.seen == 2


def test_a_layer_takes_its_log_q_from_the_stream():
    stream = StreamingUnigram(4)
    layer = InBatchSoftmax(4, 2, key=mg.Key(0), sampler=stream)
    with pytest.raises(ValueError, match="call update"):
        layer.loss(HIDDEN, TARGETS)
    stream.update([2, 0, 2, 1, 3])
    q = np.exp(mg.to_cpu(stream.log_prob(range(4))))
    expected = InBatchSoftmax(4, 2, key=mg.Key(0), counts=q).loss(HIDDEN, TARGETS)
    assert math.isclose(layer.loss(HIDDEN, TARGETS).item(), expected.item(), rel_tol=1e-6)


@pytest.fixture
def on_the_double(new_tensors_there):
    """On the double of CuPy, which counts copies and waits, whatever --device says."""
    with strict.installed():
        mg.set_device("gpu")
        yield
        mg.set_device("cpu")


@pytest.mark.device
def test_a_step_on_a_gpu_waits_once_for_whether_the_loss_is_finite(on_the_double):
    stream = StreamingUnigram(4)
    layer = InBatchSoftmax(4, 2, key=mg.Key(0), sampler=stream)
    hidden, targets = mg.param(HIDDEN), mg.backend.asarray(TARGETS)
    strict.counts.reset()
    stream.update(targets)
    layer.loss(hidden, targets).backward()
    assert (strict.counts.copies_in, strict.counts.copies_out, strict.counts.waits) == (0, 1, 1)


# ---- In PyTorch ---------------------------------------------------------------------------------------------------


def torchs_lines(weight, hidden, targets, log_q, change=lambda lines: lines):
    """IN_PYTORCH, run: its names, afterwards."""
    torch = pytest.importorskip("torch")
    imports, make, train = IN_PYTORCH.strip().split("\n\n")
    names = {"V": weight.shape[0], "d": weight.shape[1], "targets": torch.tensor(targets)}
    names["log_q"] = torch.tensor(mg.to_cpu(log_q), dtype=torch.float32)
    names["hidden"] = torch.tensor(hidden.numpy(), requires_grad=True)
    exec(imports + "\n" + make, names)
    names["out"].weight.data = torch.tensor(weight.numpy())
    exec(change(train), names)
    return names


@pytest.mark.oracle
@fewer
@given(vocab_batches(dtype="float32"))
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(batch):
    weight, _, hidden, targets = batch
    layer = InBatchSoftmax(*weight.shape, key=mg.Key(0), bias=False)
    layer.weight = weight
    ours = layer.loss(hidden, targets, reduction="none")
    ours.mean().backward()
    theirs = torchs_lines(weight, hidden, targets, layer.sampler.log_prob(range(weight.shape[0])))

    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-5, atol=1e-5)
    assert np.allclose(mg.to_cpu(hidden.grad), theirs["hidden"].grad.numpy(), rtol=1e-4, atol=1e-5)
    found, expected = weight.grad.dense(), theirs["out"].weight.grad.to_dense()
    assert np.allclose(mg.to_cpu(found), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.cpu
def test_in_pytorch_log_q_that_is_taken_off_rows_corrects_nothing():
    weight, hidden = mg.param(np.arange(8.0, dtype="float32").reshape(4, 2) / 8), mg.tensor(HIDDEN)
    log_q = np.log([0.4, 0.1, 0.2, 0.3])
    of_rows = lambda lines: lines.replace("[None, :]", "[:, None]")
    right, wrong, none = (
        torchs_lines(weight, hidden, TARGETS, q, change)["loss"].detach().numpy()
        for q, change in ((log_q, lambda lines: lines), (log_q, of_rows), (0 * log_q, lambda lines: lines))
    )
    assert np.allclose(wrong, none, atol=1e-6) and not np.allclose(right, none, atol=1e-2)


@pytest.mark.oracle
def test_in_pytorch_sparse_rows_are_for_sgd_adagrad_and_sparseadam():
    weight, hidden = mg.param(np.ones((4, 2), "float32")), mg.tensor(np.ones((2, 2), "float32"))
    out = torchs_lines(weight, hidden, np.array([1, 2]), np.log([0.4, 0.1, 0.2, 0.3]))["out"]
    torch = pytest.importorskip("torch")
    for name in ("SGD", "Adagrad", "SparseAdam"):
        with torch.sparse.check_sparse_tensor_invariants():
            getattr(torch.optim, name)(out.parameters(), lr=0.1).step()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        torch.optim.Adam(out.parameters(), lr=0.1).step()
