"""Where the clusters of an adaptive softmax begin: the cost, and that no other cut-offs cost less."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import AdaptiveSoftmax
from losses.samplers import zipf
from losses.structured.cutoffs import (
    NARROWEST,
    TYPICAL,
    Cost,
    best_cutoffs,
    expected_cost,
    grid,
    measure_cost,
    seconds_of_a_step,
    widths,
)

pytestmark = [pytest.mark.adaptive, pytest.mark.cpu]

costs = st.builds(Cost, *map(st.sampled_from, [(0.0, 50.0), (0.0, 1.0, 5.0), (0.0, 100.0, 1000.0), (0.0, 1.0, 5.0)]))
some_counts = st.lists(st.integers(0, 12).map(lambda i: 2**i), min_size=2, max_size=10)


def test_step_1_what_a_product_costs_written_out():
    cost = Cost(product=1000.0, multiply_add=3.0, score=5.0, weight=7.0)
    assert cost(n=2, k=10, m=4) == 1000 + 3 * (2 * 10 * 4) + 5 * (2 * 10) + 7 * (10 * 4)


@given(some_counts, costs, st.integers(1, 3), st.data())
def test_step_2_the_cost_is_the_average_over_all_batches(counts, cost, batch_size, data):
    """Every batch of targets, by its probability; each visits some clusters, with some examples."""
    counts, dim = np.array(sorted(counts[:4], reverse=True)), 16
    cutoffs = sorted(data.draw(st.sets(st.integers(1, len(counts) - 1), max_size=3)))
    ends, total = [*cutoffs, len(counts)], 0.0
    for batch in itertools.product(range(len(counts)), repeat=batch_size):
        chance = (counts / counts.sum())[list(batch)].prod()
        step = cost(batch_size, ends[0] + len(cutoffs), dim)
        for (a, b), m in zip(itertools.pairwise(ends), widths(dim, 4.0, len(cutoffs)), strict=True):
            if n := sum(a <= t < b for t in batch):
                step += 2 * cost.product + cost.weight * (m * dim + (b - a) * m)
                step += n * (cost.multiply_add * (dim * m + m * (b - a)) + cost.score * (b - a))
        total += chance * step
    found = expected_cost(counts, dim, cutoffs, batch_size=batch_size, cost=cost)
    assert math.isclose(found, total, rel_tol=1e-9)


@pytest.mark.parametrize("batch_size, cutoffs", [(16, [76, 588]), (128, [76, 1350]), (1024, [76, 1491])])
def test_step_2_for_larger_batches_the_cutoffs_are_others(batch_size, cutoffs):
    assert best_cutoffs(zipf(10_000), 128, batch_size=batch_size) == cutoffs
    assert batch_size != 128 or best_cutoffs(zipf(10_000), 128) == cutoffs


def by_trying(counts, dim, div_value, max_clusters, head_share, **options):
    """The least cost of all cut-offs that (5) allows."""
    shares, v = np.sort(counts)[::-1] / np.sum(counts), len(counts)
    found = []
    for num_clusters in range(max_clusters + 1):
        for cutoffs in itertools.combinations(range(1, v), num_clusters):
            ends = [*cutoffs, v]
            if num_clusters and (
                shares[: ends[0]].sum() < head_share - 1e-12
                or any(div_value * a > b for a, b in itertools.pairwise(ends))
                or any(width < NARROWEST for width in widths(dim, div_value, num_clusters)[1:])
            ):
                continue
            found.append(expected_cost(counts, dim, cutoffs, div_value=div_value, **options))
    return min(found)


@given(
    some_counts,
    costs,
    st.sampled_from([4, 8, 40]),
    st.sampled_from([1.0, 1.5, 2.0, 4.0]),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.integers(1, 20),
)
def test_step_3_no_other_cutoffs_cost_less(counts, cost, dim, div_value, max_clusters, head_share, batch_size):
    options = {"div_value": div_value, "batch_size": batch_size, "cost": cost}
    cutoffs = best_cutoffs(counts, dim, max_clusters=max_clusters, head_share=head_share, **options)
    least = by_trying(counts, dim, max_clusters=max_clusters, head_share=head_share, **options)
    assert math.isclose(expected_cost(counts, dim, cutoffs, **options), least, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("dim, div_value, cutoffs", [(8, 4.0, [2]), (8, 1.0, [1, 4]), (40, 1.5, [2, 4]), (4, 4.0, [2])])
def test_step_3_among_so_few_words_too_clusters_may_pay(dim, div_value, cutoffs):
    """Or that test would be one about heads."""
    counts = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1] if dim == 40 else zipf(10)
    cheap = Cost(product=0.0, multiply_add=1.0, score=1000.0, weight=0.0)
    assert best_cutoffs(counts, dim, div_value=div_value, head_share=0.3, cost=cheap) == cutoffs


def test_step_4_up_to_64_a_cut_may_be_anywhere_and_then_the_steps_grow():
    assert grid(10).tolist() == list(range(1, 11))
    places = grid(1_000_000)
    assert places[:64].tolist() == list(range(1, 65)) and places[-1] == 1_000_000 and len(places) < 600
    assert (np.diff(places) > 0).all() and (np.diff(places) <= np.maximum(1, 0.021 * places[:-1]) + 1).all()


def test_step_4_a_cut_between_two_places_of_the_grid_would_save_next_to_nothing():
    counts = zipf(3000)
    cutoffs = best_cutoffs(counts, 128)
    least = expected_cost(counts, 128, cutoffs)
    assert len(cutoffs) == 2
    for i, step in itertools.product(range(2), range(-40, 41)):
        moved = [a + step * (i == j) for j, a in enumerate(cutoffs)]
        if 0.5 * sum(counts) <= sum(counts[: moved[0]]) and 4 * moved[0] <= moved[1]:
            assert expected_cost(counts, 128, moved) >= 0.998 * least


@given(some_counts, st.integers(1, 4))
def test_step_5_every_cluster_reaches_f_times_as_far_and_the_head_holds_its_share(counts, max_clusters):
    cost, shares = Cost(0.0, 1.0, 1.0, 0.0), np.sort(counts)[::-1] / np.sum(counts)
    cutoffs = best_cutoffs(counts, 512, div_value=1.5, max_clusters=max_clusters, cost=cost)
    ends = [*cutoffs, len(counts)]
    assert len(cutoffs) <= max_clusters and shares[: ends[0]].sum() >= 0.5 - 1e-12
    assert all(b >= 1.5 * a for a, b in itertools.pairwise(ends))


def test_step_5_by_the_cost_alone_clusters_of_a_single_word_would_pay():
    allowed = best_cutoffs(zipf(10_000), 2048)
    assert allowed == [76, 305, 1223]
    cost = lambda cutoffs: expected_cost(zipf(10_000), 2048, cutoffs)
    assert cost([76, 77, 78, 1223]) < 0.5 * cost(allowed)


def test_step_5_without_its_share_the_head_would_lose_frequent_words():
    assert best_cutoffs(zipf(10_000), 2048, head_share=0) == [1, 4, 16, 909]


def test_step_5_four_times_as_far_is_far_enough():
    cheap = Cost(product=0.0, multiply_add=1.0, score=1000.0, weight=0.0)
    assert best_cutoffs([512, 1, 1, 1], 4, cost=cheap) == [1]
    assert best_cutoffs([512, 1, 1], 4, cost=cheap) == []


@pytest.mark.parametrize("dim, clusters", [(16, 1), (127, 1), (128, 2), (511, 2), (512, 3), (2047, 3), (2048, 4)])
def test_step_5_but_for_the_first_no_cluster_has_less_than_eight_numbers(dim, clusters):
    assert len(best_cutoffs(zipf(100_000), dim)) == clusters


def test_the_words_may_be_in_any_order():
    counts = np.array(zipf(500))
    assert best_cutoffs(np.random.default_rng(0).permutation(counts), 128) == best_cutoffs(counts, 128) != []


def test_a_layer_takes_these_cutoffs():
    layer = AdaptiveSoftmax(5000, 128, key=mg.Key(0))
    assert layer.cutoffs == best_cutoffs(zipf(5000), 128) != []


def test_a_million_words_have_four_clusters_at_most_and_cost_a_hundredth_of_the_softmax():
    counts = 1 / np.arange(1, 1_000_001)
    cutoffs = best_cutoffs(counts, 512)
    assert 1 <= len(cutoffs) <= 4
    assert expected_cost(counts, 512, cutoffs) < 0.02 * expected_cost(counts, 512, [])


def test_few_words_have_no_clusters_for_products_have_their_price():
    assert best_cutoffs(zipf(100), 16) == []


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"max_clusters": 5}, ValueError, "max_clusters must be at most 4, got 5"),
        ({"max_clusters": -1}, ValueError, "max_clusters must be at least 0, got -1"),
        ({"head_share": 1.5}, ValueError, "head_share must lie in 0 to 1, got 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, message):
    with pytest.raises(error, match=f"losses.best_cutoffs: {message}"):
        best_cutoffs(zipf(10), 8, **options)


@pytest.mark.parametrize("name", ["best_cutoffs", "expected_cost"])
@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"counts": [1, -1]}, ValueError, "counts must be a list of finite numbers"),
        ({"dim": 0}, ValueError, "dim must be at least 1, got 0"),
        ({"dim": 8.0}, TypeError, "dim must be an integer, got float"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"div_value": 0.5}, ValueError, "div_value must be a number, 1 or more and finite, got 0.5"),
        ({"div_value": "4"}, TypeError, "div_value must be a number, 1 or more and finite, got '4'"),
        ({"cost": (1, 1, 1, 1)}, ValueError, "cost must be a Cost of four finite numbers, none negative, got "),
        ({"cost": Cost(1, 1, -1, 1)}, ValueError, "cost must be a Cost of four finite numbers, none negative, got "),
        ({"cost": Cost(1, math.inf, 1, 1)}, ValueError, "cost must be a Cost of four finite numbers, none negative"),
    ],
)
def test_both_refuse_what_makes_no_sense(name, options, error, message):
    given = {"counts": zipf(10), "dim": 8} | options | ({"cutoffs": [2]} if name == "expected_cost" else {})
    with pytest.raises(error, match=f"losses.{name}: {message}"):
        {"best_cutoffs": best_cutoffs, "expected_cost": expected_cost}[name](**given)


@pytest.mark.parametrize("cutoffs", [[50, 20], [0, 50], [100], [20, 20]])
def test_there_is_no_cost_of_cutoffs_that_do_not_rise_between_one_and_v(cutoffs):
    with pytest.raises(ValueError, match=r"losses.expected_cost: (cutoffs must rise|a cut-off must be at least 1)"):
        expected_cost(zipf(100), 8, cutoffs)


def test_however_much_narrower_a_cluster_should_be_it_has_one_number():
    assert widths(8, 1e300, 4) == widths(8, 8.0, 4) == [1, 1, 1, 1]


# ---- the cost, measured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [TYPICAL, Cost(3.0, 0.25, 0.0, 2.0), Cost(0.0, 1.0, 0.0, 0.0)])
def test_measured_costs_that_follow_the_model_give_its_constants_back(cost):
    found = measure_cost(128, 64, seconds=cost)
    assert np.allclose(found, cost, rtol=1e-6, atol=1e-6 * max(cost))


def test_no_constant_is_ever_negative():
    """Of times that fall with n no line with a positive slope is the best one."""
    assert min(measure_cost(128, 64, seconds=lambda n, k, m: 1.0 + 1.0 / n)) >= 0


def test_a_step_can_be_measured():
    assert 0 < seconds_of_a_step(3, 20, 4, repeats=1) < math.inf
