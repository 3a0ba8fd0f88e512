"""The demo on the softmax and its denominator: what its pictures show is true, found by enumeration where it can be."""

import itertools
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _shared import plots
from _shared.errors import DemoError
from _shared.text import read_text
from hypothesis import given
from hypothesis import strategies as st
from test_commands import load_script

import minigrad as mg
from losses.samplers import GumbelTopK, LogUniform, Uniform, Unigram, Unique

pytestmark = [pytest.mark.softmax, pytest.mark.importance]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "softmax-visual.py"
PICTURES = ["softmax.png", "denominators.png", "convergence.png", "losses.png"]
demo = load_script(SCRIPT)


def run(*flags):
    command = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def log_p_of(weights):
    return np.log(np.array(weights) / np.sum(weights))


# ---- Z from N words: all draws that there are ---------------------------------------------------------------------


class AllDraws(Unigram):
    """q(w) ∝ count(w), and a draw is all that are equally likely: rows of N tickets, of which count(w) say w."""

    def __init__(self, counts):
        super().__init__(counts, power=1.0)
        self.tickets = np.repeat(np.arange(len(counts)), counts)

    def draw(self, key, shape):
        return mg.backend.asarray(list(itertools.product(self.tickets.tolist(), repeat=shape[1]))), None


class EachWordOnce(Uniform):
    """All words, once, in each run: nothing is left to chance."""

    def draw(self, key, shape):
        return mg.backend.asarray(np.tile(np.arange(self.vocab_size), (shape[0], 1))), None

    def log_expected_count(self, ids, k, seen=None):
        return 0.0 * self.log_prob(ids)


def told_of(log_p, sampler, *sizes):
    log_p = mg.backend.asarray(log_p)[None]
    return demo.denominators(log_p, {"it": sampler}, sizes, 1 << 14, mg.Key(1), lambda: None)


weights = st.lists(st.floats(0.1, 10.0), min_size=3, max_size=3)
tickets = st.lists(st.integers(1, 2), min_size=3, max_size=3)


@given(weights, tickets, st.integers(1, 3))
def test_the_mean_of_the_estimate_is_z_and_its_variance_rho_less_one_over_n(P, counts, N):
    (told,) = told_of(log_p_of(P), AllDraws(counts), N)
    draws = sum(counts) ** N
    rho = sum(p**2 / q for p, q in zip(np.array(P) / sum(P), np.array(counts) / sum(counts), strict=True))
    assert told["ratio"]["mean"] == pytest.approx(1.0)
    assert told["ratio"]["sd"] ** 2 * (draws - 1) / draws == pytest.approx((rho - 1) / N, abs=1e-12)
    assert told["rho"] == pytest.approx(rho)


@given(weights, tickets, st.integers(1, 3))
def test_the_mean_of_the_logarithm_is_what_enumeration_finds_with_chance_taken_off_or_not(P, counts, N):
    """Over all draws there is no chance: to take it off must change nothing."""
    (told,) = told_of(log_p_of(P), AllDraws(counts), N)
    total, tickets = sum(counts), np.repeat(np.arange(3), counts).tolist()
    ratio = [P[w] / sum(P) / (counts[w] / total) for w in range(3)]
    logs = [math.log(sum(ratio[w] for w in draw) / N) for draw in itertools.product(tickets, repeat=N)]
    assert told["log"]["mean"] == pytest.approx(sum(logs) / len(logs), abs=1e-9)
    assert told["bias"]["mean"] == pytest.approx(sum(logs) / len(logs), abs=1e-9)


def test_the_bias_of_the_logarithm_nears_what_the_dashed_line_says():
    told = told_of(log_p_of([3.0, 2.0, 4.0]), AllDraws([1, 1, 2]), 1, 2, 4, 6)
    off = [abs(row["bias"]["mean"] / ((1 - row["rho"]) / (2 * row["N"])) - 1) for row in told]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 0.05


@pytest.mark.parametrize("N", [2, 3, 5])
def test_the_estimate_from_distinct_words_with_gumbels_weights_is_not_biased(N):
    """From two words on: of one, the variance is infinite. (1/Q is e^κ/q for great κ, whose density falls as e^−κ.)"""
    log_p = log_p_of([5.0, 1.0, 2.0, 0.5, 1.0, 3.0, 0.2])
    (told,) = told_of(log_p, GumbelTopK([3, 9, 2, 4, 1, 6, 1]), N)
    assert abs(told["ratio"]["mean"] - 1) < 6 * told["ratio"]["standard_error"]
    assert 0 < told["ratio"]["standard_error"] < 0.05


def test_all_words_drawn_without_replacement_give_z_itself():
    (told,) = told_of(log_p_of([5.0, 1.0, 2.0]), GumbelTopK([3, 9, 2]), 3)
    assert told["ratio"]["mean"] == pytest.approx(1.0)
    assert told["ratio"]["sd"] == pytest.approx(0.0, abs=1e-12)


def test_chance_is_taken_off_only_where_the_mean_of_the_estimate_is_known_and_from_rho_on():
    log_p = log_p_of([5.0, 1.0, 2.0, 0.5])
    for sampler, known in ((Uniform(4), True), (GumbelTopK([5, 2, 2, 1]), True), (Unique(LogUniform(4)), False)):
        few, enough = told_of(log_p, sampler, 1, 2)
        assert few["bias"] == few["log"] and demo.rho(mg.backend.asarray(log_p), sampler) < 2
        assert (enough["bias"]["sd"] < 0.8 * enough["log"]["sd"]) == known
        assert (enough["bias"] == enough["log"]) == (not known)


@given(st.lists(st.floats(-3.0, 3.0), min_size=2, max_size=20))
def test_without_chance_the_variance_is_never_larger(logs):
    logs = mg.backend.asarray(logs)
    assert mg.to_cpu(demo.without_chance(logs)).std() <= mg.to_cpu(logs).std() + 1e-9


@given(st.integers(1, 9), st.floats(-50.0, 50.0))
def test_the_effective_sample_size_of_equal_weights_is_their_number(n, log_weight):
    size = demo.effective_sample_size(mg.backend.asarray([log_weight] * n, dtype="float64"))
    assert float(mg.to_cpu(size)) == pytest.approx(n)


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=9))
def test_the_effective_sample_size_is_the_square_of_the_sum_over_the_sum_of_squares(w):
    size = demo.effective_sample_size(mg.backend.asarray(np.log(w)))
    assert float(mg.to_cpu(size)) == pytest.approx(sum(w) ** 2 / sum(x * x for x in w))


def test_of_distinct_words_no_rho_and_no_effective_sample_size_are_told():
    (told,) = told_of(log_p_of([5.0, 1.0, 2.0]), GumbelTopK([3, 9, 2]), 2)
    assert told["rho"] is told["effective_sample_size"] is None


def test_nine_of_ten_runs_lie_in_the_band():
    values = np.random.default_rng(1).permutation(1001) / 1000
    told = demo.summary(mg.backend.asarray(values))
    assert (told["low"], told["high"]) == (0.05, 0.95)
    assert told["mean"] == pytest.approx(0.5)
    assert told["sd"] == pytest.approx(np.std(values, ddof=1))
    assert told["standard_error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(1001))


# ---- the loss from N words ------------------------------------------------------------------------------------------


class Counts:
    counts = np.array([3, 9, 2, 4])


def seen_with(sampler, scores, target, *sizes, way=None):
    """What `losses_seen` tells of each estimator, or of one, if all draw from `sampler`."""
    ways = {
        name: each._replace(sampler=sampler) for name, each in demo.estimators(Counts).items() if way in (None, name)
    }
    scores = mg.backend.asarray([scores])
    log_z = mg.logsumexp(scores, axis=1)
    return demo.losses_seen(scores, log_z, [target], ways, sizes, 1 << 12, mg.Key(2), lambda: None)


def names():
    return list(demo.estimators(Counts))


def test_when_no_word_is_left_out_all_see_the_loss_but_the_sampled_softmax_in_which_the_target_comes_twice():
    scores, target = [1.0, 0.5, -2.0, 3.0], 1
    true = math.log(sum(map(math.exp, scores))) - scores[target]
    importance, with_target, independent, distinct = seen_with(EachWordOnce(4), scores, target, 4)
    for told in (importance, with_target, distinct):
        assert told["mean"] == pytest.approx(true)
        assert told["tends_to"] == told["true"] == pytest.approx(true)
    assert independent["mean"] == independent["tends_to"] == pytest.approx(math.log1p(math.exp(true)))


def test_only_importance_sampling_without_the_target_finds_losses_below_zero():
    below = {told["estimator"]: told["below_zero"] for told in seen_with(Uniform(4), [5.0, 0.0, 0.0, 0.0], 0, 2)}
    assert below.pop("importance sampling") == pytest.approx(9 / 16, abs=6 * math.sqrt(63 / 256 / (1 << 11)))
    assert set(below.values()) == {0.0}


def test_with_the_target_in_the_sum_the_mean_of_the_denominator_is_z():
    """So the mean of e^loss is 1/P(t | h), by enumeration."""
    _, loss, _ = demo.estimators(Counts)["importance sampling, target in the sum"]
    sampler, scores, target = AllDraws([3, 9, 2, 4]), [1.0, 0.5, -2.0, 1.5], 3
    ids, _ = sampler.draw(None, (1, 2))
    each, s = ids[:, 0] * 0 + target, mg.backend.asarray(scores)
    counts = [sampler.log_expected_count(words, 2) for words in (each, ids)]
    seen = mg.to_cpu(loss(s[each], s[ids], *counts, ids == target))
    assert np.exp(seen).mean() == pytest.approx(sum(map(math.exp, scores)) / math.exp(scores[target]))


@pytest.mark.parametrize("N", [1, 2, 3])
def test_the_sampled_softmax_of_distinct_words_is_too_low_on_average(N):
    way = "sampled softmax, distinct words"
    (told,) = seen_with(GumbelTopK([3, 9, 2, 4]), [1.0, 0.5, -2.0, 1.5], 1, N, way=way)
    assert told["mean"] < told["true"] - 6 * told["standard_error"]


def test_the_sampled_softmax_of_distinct_words_is_right_once_the_target_is_nearly_certain_to_be_drawn():
    """Ten of forty words; the target has half the probability, and is nearly always drawn, or as others are."""
    way, scores = "sampled softmax, distinct words", [math.log(39)] + [0.0] * 39
    (certain,), (even,) = (seen_with(GumbelTopK([n] + [1] * 39), scores, 0, 10, way=way) for n in (1000, 1))
    assert abs(certain["mean"] - math.log(2)) < 0.1 * (math.log(2) - even["mean"])


def test_the_sampled_softmax_of_independent_words_grows_as_is_said():
    way = "sampled softmax, independent words"
    told = seen_with(Unigram([3, 9, 2, 4], power=1.0), [1.0, 0.5, -2.0, 1.5], 1, 4, 64, 1024, way=way)
    off = [abs(row["mean"] - row["tends_to"]) for row in told]
    assert off == sorted(off, reverse=True) and off[-1] < 0.01
    assert told[-1]["mean"] > told[-1]["true"] + 3


# ---- sabotage: a wrong weight or formula is seen --------------------------------------------------------------------


class WithoutN(AllDraws):
    def log_expected_count(self, ids, k, seen=None):
        return self.log_prob(ids)


class WithoutQ(AllDraws):
    def log_expected_count(self, ids, k, seen=None):
        return 0.0 * self.log_prob(ids) + math.log(k / self.vocab_size)


class UpsideDown(AllDraws):
    def log_expected_count(self, ids, k, seen=None):
        return math.log(k) - self.log_prob(ids)


EXAMPLE = ([1.0, 2.0, 4.0], [1, 2, 2], 2)
RIGHT = {name: getattr(demo, name) for name in ("without_chance", "effective_sample_size", "summary")}
MUTANTS = {
    "N left out": ("AllDraws", WithoutN, "the_mean_of_the_estimate_is_z", EXAMPLE),
    "q left out": ("AllDraws", WithoutQ, "the_mean_of_the_estimate_is_z", EXAMPLE),
    "q for 1/q": ("AllDraws", UpsideDown, "the_mean_of_the_estimate_is_z", EXAMPLE),
    "ρ without the square": ("rho", lambda log_p, sampler: 1.0, "the_mean_of_the_estimate_is_z", EXAMPLE),
    "chance taken off the mean": (
        "without_chance",
        lambda x: x - (mg.exp(x) - 1).mean() - 0.1,
        "the_mean_of_the_logarithm_is",
        EXAMPLE,
    ),
    "chance added": (
        "without_chance",
        lambda x: 2 * x - RIGHT["without_chance"](x),
        "without_chance_the_variance",
        ([-1.0, 0.0, 2.0],),
    ),
    "ESS not squared": (
        "effective_sample_size",
        lambda x: mg.exp(mg.logsumexp(x, axis=-1) - mg.logsumexp(2 * x, axis=-1)),
        "the_effective_sample_size_is",
        ([1.0, 2.0, 4.0],),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_weight_is_killed_by_the_test_of_its_formula(monkeypatch, mutant):
    name, wrong, test, example = MUTANTS[mutant]
    (check,) = (f.hypothesis.inner_test for n, f in globals().items() if n.startswith(f"test_{test}"))
    check(*example)
    monkeypatch.setattr(sys.modules[__name__] if name == "AllDraws" else demo, name, wrong)
    with pytest.raises(AssertionError):
        check(*example)


# ---- the text and the model -----------------------------------------------------------------------------------------

TEXT = "the cat sat\n" * 9 + "the cat ran home\n" * 5 + "a dog sat\n" * 2 + "the dog ran\nhello\n"


@pytest.fixture
def data(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    return demo.Data(read_text(tmp_path / "text.txt", 1))


def test_ids_are_in_order_of_frequency_and_every_word_can_be_drawn(data):
    counts = dict(zip(data.words, data.counts.tolist(), strict=True))
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert counts == {
        "<end>": 18, "the": 15, "cat": 14, "sat": 11, "ran": 6, "home": 5, "dog": 3, "a": 2, "<unk>": 1, "hello": 1
    }  # fmt: skip


def test_each_word_follows_its_context(data):
    seen = [(data.in_words(context), data.words[word]) for context, word in zip(data.contexts, data.targets)]
    assert seen[:4] == [("<end> <end>", "the"), ("<end> the", "cat"), ("the cat", "sat"), ("cat sat", "<end>")]
    assert seen.count(("the cat", "sat")) == 9


def test_contexts_are_of_words_only_the_most_frequent_first(data):
    assert [data.in_words(context) for context in data.frequent_contexts(3)] == ["the cat", "cat sat", "cat ran"]
    assert not np.isin(data.frequent_contexts(99), data.no_words).any()


def test_the_three_contexts_are_the_most_certain_the_median_and_the_least_certain(data, monkeypatch):
    """The word after each of them is one of two, and falls as a coin does."""
    contexts, coins = data.frequent_contexts(3), [0.3, 0.5, 0.1]
    scores = np.full((3, len(data.words)), -100.0)
    scores[:, :2] = [[math.log(coin), math.log(1 - coin)] for coin in coins]
    scores = mg.backend.asarray(scores)
    monkeypatch.setattr(demo, "FREQUENT", 3)
    monkeypatch.setattr(demo, "exact", lambda model, ids: (scores, mg.logsumexp(scores, axis=1)))
    assert demo.chosen(data, None).tolist() == contexts[[2, 0, 1]].tolist()


def test_the_model_learns_what_comes_next(data):
    model, perplexity = demo.train(data, 8, len(data.targets), mg.Key(1), batch=4)
    for _ in range(20):
        model.learn(data.contexts, data.targets)
    scores, log_z = demo.exact(model, data.context("the cat")[None])
    p = mg.to_cpu(mg.exp(scores - log_z[:, None]))[0]
    assert p.sum() == pytest.approx(1.0)
    assert dict(zip(data.words, p, strict=True))["sat"] == pytest.approx(9 / 14, abs=0.1)
    assert 1 < perplexity < len(data.words)


@pytest.mark.parametrize("said", ["the", "the cat sat", "the unicorn", ""])
def test_a_context_that_is_not_two_words_of_the_vocabulary_is_refused(data, said):
    with pytest.raises(DemoError, match=f"--context must be 2 words of the vocabulary, got '{said}'"):
        data.context(said)


def test_a_larger_vocabulary_is_offered_only_where_a_word_is_missing(data):
    with pytest.raises(DemoError, match="got 'the unicorn', without unicorn; try a larger --vocab"):
        data.context("the unicorn")
    with pytest.raises(DemoError, match=r"got 'the'$"):
        data.context("the")


def test_a_text_without_two_words_in_a_row_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("one\ntwo\nthree\n", "utf-8")
    with pytest.raises(DemoError, match="there are no two words in a row"):
        demo.main(["--quick", "--corpus", str(tmp_path / "text.txt"), "--out", str(tmp_path)])


@pytest.mark.parametrize("flag, value", [("vocab", 63), ("dim", 0), ("words", 0), ("dim", 21)])
def test_a_number_that_makes_no_sense_is_refused_with_its_flag(flag, value, tmp_path):
    with pytest.raises(DemoError, match=rf"--{flag} must lie in .*, got {value}"):
        demo.main([f"--{flag}={value}", "--out", str(tmp_path)])


# ---- the pictures ---------------------------------------------------------------------------------------------------


def test_the_slides_picture_has_the_numbers_of_the_model(data, monkeypatch):
    drawn = {}
    monkeypatch.setattr(demo, "blocks", lambda path, title, parts, foot, show: drawn.update(parts=parts, title=title))
    model, _ = demo.train(data, 8, len(data.targets), mg.Key(1))
    context = data.context("the cat")
    told = demo.show_softmax("nowhere", data, model, context, False)
    W, h, b, s, e, p = (np.asarray(part["values"], dtype=float) for part in drawn["parts"])
    np.testing.assert_allclose(W @ h + b, s, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(s), e)
    log_z = demo.exact(model, context[None])[1]
    np.testing.assert_allclose(e / math.exp(float(mg.to_cpu(log_z)[0])), p)
    words = drawn["parts"][0]["left"]
    assert words == drawn["parts"][-1]["right"] == told["words"]
    assert sorted(words) == sorted(data.words) and p.sum() == pytest.approx(1.0)  # ten words: all are shown
    assert drawn["title"] == "What comes after “the cat”?   p = softmax(W h + b)"
    assert drawn["parts"][4]["below"][-1] == f"Z = {math.exp(float(mg.to_cpu(log_z)[0])):,.0f}"


def test_of_many_words_the_likeliest_and_the_most_frequent_are_shown(data, monkeypatch):
    drawn = {}
    monkeypatch.setattr(demo, "SHOWN", 4)
    monkeypatch.setattr(demo, "blocks", lambda path, title, parts, foot, show: drawn.update(parts=parts, foot=foot))
    model, _ = demo.train(data, 8, len(data.targets), mg.Key(1))
    context = data.context("the cat")
    words = demo.show_softmax("nowhere", data, model, context, False)["words"]
    scores = mg.to_cpu(demo.exact(model, context[None])[0])[0]
    likeliest = [data.words[i] for i in np.argsort(-scores)[:2]]
    others = [word for word in data.words if word not in likeliest]
    assert sorted(words) == sorted(likeliest + others[:2])
    W, h, b, s, *_ = (np.asarray(part["values"], dtype=float) for part in drawn["parts"])
    np.testing.assert_allclose(W @ h + b, s, rtol=1e-4, atol=1e-5)
    assert drawn["foot"][0].startswith("4 of 10 words: the 2 likeliest here and the most frequent others; they have ")


def panels_of(function, *args):
    """The panels that a function hands on to be drawn."""
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("bands", "lines"):
            patch.setattr(demo, name, lambda path, title, panels, show: drawn.extend(panels))
        function("nowhere", *args, "A title", False)
    return drawn


@pytest.fixture(scope="module")
def found():
    mg.set_device("cpu")
    samplers = {"uniform": Uniform(8), "Gumbel top-k, unigram": GumbelTopK([9, 5, 3, 2, 1, 1, 1, 1])}
    log_p = log_p_of([[9.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    return demo.denominators(log_p, samplers, [1, 2, 4], 1 << 12, mg.Key(1), lambda: None)


def test_the_dashed_line_of_the_bias_is_the_formula_where_it_holds(found):
    above, below = panels_of(demo.show_denominators, found)
    rho = found[0]["rho"]
    assert 2 < rho < 4
    sizes, theory, _ = below[0]["series"]["−(ρ − 1) / 2N, from N = ρ on"]
    assert (sizes, theory) == ([4], [pytest.approx(-(rho - 1) / 8)])
    assert len(below[1]["series"]) == len(above[0]["series"]) == 2  # nothing is claimed of distinct words, nor of Ẑ
    assert above[0]["title"] == f"uniform\nρ = {rho:.3g}"


def test_the_shade_and_the_line_are_those_that_were_measured(found):
    above, below = panels_of(demo.show_denominators, found)
    for panels, what, exact in ((above, "ratio", 1.0), (below, "log", 0.0)):
        for panel, rows in zip(panels, (found[:3], found[3:]), strict=True):
            assert panel["band"] == ([1, 2, 4], [r[what]["low"] for r in rows], [r[what]["high"] for r in rows])
            assert panel["series"]["mean of the runs"] == ([1, 2, 4], [row[what]["mean"] for row in rows])
            assert panel["series"]["exact"][1] == [exact] * 3


def test_errors_are_shown_where_they_are_beyond_chance(found):
    hidden = [row | {"bias": row["bias"] | {"standard_error": 9.0}} if row["N"] == 2 else row for row in found]
    bias, spread = panels_of(demo.show_convergence, hidden)
    assert bias["series"]["uniform"][0] == [1] and bias["series"]["_uniform, from 4 on"][0] == [4], "and no line over 2"
    assert spread["series"]["uniform"][0] == [1, 2, 4]
    rho = found[0]["rho"]
    assert bias["series"]["_uniform"][:2] == ([4], [pytest.approx((rho - 1) / 8)])
    assert spread["series"]["_uniform"][:2] == ([4], [pytest.approx(math.sqrt((rho - 1) / 4))])
    assert "_Gumbel top-k, unigram" not in bias["series"]
    assert spread["series"]["Gumbel top-k, unigram"][0] == [2, 4]  # of one word, the variance is infinite


def test_of_one_word_only_the_spread_of_gumbels_estimate_is_infinite():
    log_p, infinite = log_p_of([5.0, 1.0, 2.0, 0.5]), []
    for sampler in (Uniform(4), GumbelTopK([5, 2, 2, 1]), Unique(LogUniform(4))):
        one, two = told_of(log_p, sampler, 1, 2)
        infinite.append(one["spread"] is None)
        assert two["spread"] == two["ratio"]["sd"] and one["spread"] in (None, one["ratio"]["sd"])
    assert infinite == [False, True, False]


def tables_of(function, *args):
    """The rows that a function prints, each with the names of its columns."""
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "table", lambda title, headers, rows: printed.append([dict(zip(headers, r)) for r in rows]))
        function(*args)
    return printed


def test_what_holds_from_n_equal_to_rho_on_is_not_printed_before(found):
    rho = found[0]["rho"]
    for N in (2, 4):
        uniform, gumbel = tables_of(demo.print_denominators, found, N, [{"words": "the cat"}])[0]
        assert uniform["√((ρ − 1)/N)"] == pytest.approx(math.sqrt((rho - 1) / N))
        assert (uniform["−(ρ − 1)/2N"], uniform["N/ρ"]) == ((None, None) if N < rho else ((1 - rho) / (2 * N), N / rho))
        assert gumbel["√((ρ − 1)/N)"] is gumbel["−(ρ − 1)/2N"] is gumbel["N/ρ"] is None


def test_beside_each_estimate_of_a_loss_stands_the_number_that_it_tends_to():
    seen = seen_with(EachWordOnce(4), [1.0, 0.5, -2.0, 3.0], 1, 4)
    (rows,) = tables_of(demo.print_losses, seen, 4, [{"words": "the cat", "likeliest": {"sat": 0.1}}])
    assert [row["tends to"] == row["−log P(t | h)"] for row in rows] == [True, True, False, True]
    assert [row["estimated"].split()[0] for row in rows] == [f"{row['tends to']:+.4f}" for row in rows]


def test_only_what_estimates_another_number_has_a_dashed_line_in_the_picture_of_losses():
    scores = [1.0, 0.5, -2.0, 3.0]
    seen = seen_with(EachWordOnce(4), scores, 1, 4)
    (row,) = panels_of(demo.show_losses, seen, {0: "“the cat” → sat"})
    dashed = ["log(1 + N q(t) / P(t | h))" in panel["series"] for panel in row]
    assert dashed == [False, False, True, False]
    assert all(panel["series"]["exact"][1] == [seen[0]["true"]] for panel in row)
    assert [panel["title"].replace(",\n", ", ") for panel in row] == names()


def size_of_png(path):
    return struct.unpack(">II", path.read_bytes()[16:24])


def test_bands_are_a_png_with_rows_of_panels(tmp_path):
    panel = {"series": {"$mean$": ([1, 10], [2.0, 3.0]), "dashed": ([1, 10], [1.0, 1.0], {"linestyle": "--"})}}
    panel |= {"band": ([1, 10], [1.0, 2.0], [3.0, 4.0]), "log": "xy", "ylabel": "y"}
    first = panel | {"band_name": "9 of 10", "xlabel": "N", "title": "a"}
    plots.bands(tmp_path / "bands.png", "Bands", [[first, panel], [panel, panel]])
    assert size_of_png(tmp_path / "bands.png") == (1600, 900)


def test_a_band_that_is_not_finite_is_refused(tmp_path):
    panel = {
        "series": {},
        "band": ([1, 10], [1.0, math.nan], [3.0, 4.0]),
        "ylabel": "y",
        "band_name": "b",
        "xlabel": "N",
    }
    with pytest.raises(ValueError, match="a band needs finite numbers"):
        plots.bands(tmp_path / "bands.png", "Bands", [[panel]])
    panel |= {"band": ([1], [1.0], [2.0]), "series": {"mean": ([1, 2], [1.0])}}
    with pytest.raises(ValueError, match="mean: 2 and 1 numbers; expected as many, all finite"):
        plots.bands(tmp_path / "bands.png", "Bands", [[panel]])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dim, word", [(4, "a"), (16, "documentation"), (20, "the")])
def test_an_equation_in_blocks_stays_inside_its_picture(dim, word, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path, show: figures.append(figure))
    words, column = [word] * 12, np.linspace(-1.0, 1.0, 12)[:, None]
    parts = [
        {"name": "W", "values": np.ones((12, dim)), "left": words, "below": ["⋮", "4,096 × 16 numbers"]},
        {"name": "h", "values": np.ones((dim, 1)), "sign": "·"},
        {"name": "s", "values": 1000 * column, "sign": "=", "numbers": True, "right": words, "below": ["", "sum"]},
    ]
    plots.blocks(tmp_path / "blocks.png", "An equation in $colours$", parts, ["One line.", "And another."])
    (figure,) = figures
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert min(box.x0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= 1600
    assert min(box.y0 for box in boxes) >= 0 and max(box.y1 for box in boxes) <= 900
    assert [text.get_text() for text in axes.texts].count(word) == 24
    assert [image.get_array().shape for image in axes.images] == [(12, dim), (dim, 1), (12, 1)]


@pytest.mark.parametrize("values", [[[math.nan]], [1.0, 2.0], [[]]])
def test_a_block_that_is_no_finite_matrix_is_refused(values, tmp_path):
    with pytest.raises(ValueError, match="W: expected finite numbers in rows and columns"):
        plots.blocks(tmp_path / "blocks.png", "An equation", [{"name": "W", "values": values}])


@pytest.mark.parametrize(
    "value, said",
    [(0.0, "0.00"), (0.0733, "0.0733"), (-0.1234, "−0.123"), (3.927, "3.93"), (56.13, "56.1"), (693.2, "693"),
     (12_345.6, "12,346"), (0.00049, "0.0005"), (0.000012, "1e−5"), (3.2e7, "3e7"), (-2e-6, "−2e−6")],
)  # fmt: skip
def test_a_number_in_a_cell_is_short(value, said):
    assert plots.short(value) == said


# ---- what it leaves behind ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "results.json").read_text("utf-8")), out, done.stdout


def test_it_leaves_four_pictures_and_the_numbers(quick):
    _, out, said = quick
    assert {path.name for path in out.iterdir()} == {*PICTURES, "results.json"}
    assert {size_of_png(out / name) for name in PICTURES} == {(1600, 900)}
    assert said.splitlines()[-1] == f"in {out}: {', '.join([*PICTURES, 'results.json'])}"


def test_all_methods_and_sizes_are_there_for_each_context(quick):
    results = quick[0]
    sizes = [2**i for i in range(10)]
    cells = {(row["context"], row["method"], row["N"]) for row in results["denominators"]}
    assert len(cells) == len(results["denominators"]) == 3 * 6 * len(sizes)
    cells = {(row["context"], row["estimator"], row["N"]) for row in results["losses"]}
    assert cells == set(itertools.product(range(3), names(), sizes))


def test_the_entropies_of_the_contexts_rise(quick):
    entropies = [context["entropy"] for context in quick[0]["contexts"]]
    assert entropies == sorted(entropies) and entropies[0] < entropies[-1]


def test_the_estimates_of_z_are_right_on_average_and_as_far_off_as_theory_says(quick):
    for row in quick[0]["denominators"]:
        if row["rho"] is not None:
            standard_error = math.sqrt((row["rho"] - 1) / row["N"] / row["runs"])
            assert abs(row["ratio"]["mean"] - 1) < 6 * standard_error


def test_the_logarithm_is_too_small_on_average(quick):
    for row in quick[0]["denominators"]:
        assert row["bias"]["mean"] < 6 * row["bias"]["standard_error"]
        if row["N"] == 1:
            assert row["bias"]["mean"] < -6 * row["bias"]["standard_error"]


def test_the_loss_of_importance_sampling_is_log_z_less_the_score(quick):
    results = quick[0]
    for row in results["losses"]:
        likeliest = max(results["contexts"][row["context"]]["likeliest"].values())
        assert row["true"] == pytest.approx(-math.log(likeliest))


def test_the_questions_to_predict_are_answered(quick):
    results = quick[0]
    rho = {row["method"]: row["rho"] for row in results["denominators"] if row["context"] == 1}
    (below,) = (
        row["below_zero"]
        for row in results["losses"]
        if (row["context"], row["estimator"], row["N"]) == (0, "importance sampling", 16)
    )
    assert results["predict"] == {
        "uniform_words_that_do_what_100_by_frequency_do": 100 * (rho["uniform"] - 1) / (rho["unigram"] - 1),
        "part_of_the_losses_below_zero": below,
    }


def test_the_same_seed_gives_the_same_numbers_and_a_context_may_be_named(quick, tmp_path):
    named = quick[0]["contexts"][2]["words"]
    done = run("--quick", "--context", named, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert results["contexts"] == [quick[0]["contexts"][i] for i in (0, 2, 2)]
    assert results["softmax"]["context"] == named

    def first(results):
        return [row for row in results["denominators"] if row["context"] == 0]

    assert first(results) == first(quick[0])


def test_a_context_that_is_not_there_is_one_line_and_status_2(tmp_path):
    done = run("--quick", "--context", "purple unicorns", "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("softmax-visual: --context must be 2 words of the vocabulary")
