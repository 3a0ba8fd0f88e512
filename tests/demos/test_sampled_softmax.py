"""The demo of the teacher that is known: what is drawn is P*, what is measured the KL, and what is said was found."""

import importlib.util
import json
import math
import signal
import struct
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from _shared.errors import DemoError
from hypothesis import example, given
from hypothesis import strategies as st

import losses
import minigrad as mg

pytestmark = [pytest.mark.consistency, pytest.mark.ranking]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "sampled-softmax.py"

_spec = importlib.util.spec_from_file_location("sampled_softmax_demo", SCRIPT)
demo = sys.modules["sampled_softmax_demo"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo)

SMALL = demo.Size(vocab_size=12, updates=40, few=3, many=6, contexts=20)
BATCH, DIM = 8, 4
GOING_ON = SimpleNamespace(requested=False)


def ignore(n):
    pass


def of_seed(seed=1, size=SMALL):
    """Teacher, lesson and exam."""
    key = mg.Key(seed)
    teacher = demo.Teacher(size.vocab_size, DIM, key.fold(0))
    lesson = demo.Lesson(teacher, size.updates, BATCH, key.fold(1), ignore)
    return teacher, lesson, demo.Exam(teacher, size.contexts, key.fold(2))


def school(seed=1, size=SMALL, stop=GOING_ON):
    _, lesson, exam = of_seed(seed, size)
    return demo.School(lesson, exam, size, mg.Key(seed).fold(3), ignore, stop)


def cpu(array):
    return mg.to_cpu(array.data if isinstance(array, mg.Tensor) else array)


# ---- the teacher --------------------------------------------------------------------------------------------------


def test_the_teacher_is_equation_1():
    """For V = 3 and d = 2, with Python's math."""
    teacher = demo.Teacher(3, 2, mg.Key(1))
    h, weight = [0.5, -2.0], cpu(teacher.weight).tolist()
    odds = [math.exp(w[0] * h[0] + w[1] * h[1]) / (i + 1) for i, w in enumerate(weight)]
    found = cpu(teacher.log_prob(mg.backend.asarray([h], "float32")))[0]
    np.testing.assert_allclose(np.exp(found), [x / sum(odds) for x in odds], rtol=1e-5)


def test_its_weights_have_the_variance_that_is_said():
    weight = cpu(demo.Teacher(2000, 32, mg.Key(1)).weight)
    variance = 1.5**2 / 32
    assert abs((weight**2).mean() / variance - 1) < 6 * math.sqrt(2 / weight.size)
    assert abs(weight.mean()) < 6 * math.sqrt(variance / weight.size)


@pytest.mark.parametrize("vocab_size", [12, 13], ids=["in blocks", "a prime: blocks of one word"])
def test_it_says_each_word_as_often_as_p_has_it(vocab_size):
    teacher, n = demo.Teacher(vocab_size, DIM, mg.Key(3)), 40_000
    h = mg.Key(4).normal((1, DIM))
    p = np.exp(cpu(teacher.log_prob(h))[0].astype(np.float64))
    said = cpu(teacher.says(mg.backend.xp().repeat(h, n, axis=0), mg.Key(5)))
    often = np.bincount(said, minlength=vocab_size) / n
    assert (abs(often - p) < 6 * np.sqrt(p * (1 - p) / n)).all()


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=9).filter(lambda weights: sum(weights) > 1e-3),
    st.one_of(st.floats(0, 1, exclude_max=True), st.just(1 - 2**-53)),
)
@example([0.0, 1.0], 0.0)
@example([0.5, 0.5], 0.5)
def test_what_is_drawn_is_the_first_place_at_which_the_sum_exceeds_its_part(weights, u):
    sums = list(accumulate(weights))
    wanted = next((i for i, s in enumerate(sums) if s > u * sums[-1]), len(weights) - 1)
    found = demo.drawn_from(mg.backend.asarray([weights]), mg.backend.asarray([u]))
    assert cpu(found).tolist() == [wanted]


@given(st.integers(1, 10**5), st.integers(2, 10**7))
def test_chunks_are_all_contexts_once_and_never_too_large(n, vocab_size):
    found = list(demo.chunks(n, vocab_size))
    assert [c.start for c in found[1:]] == [c.stop for c in found[:-1]] and (found[0].start, found[-1].stop) == (0, n)
    assert all(c.stop - c.start == 1 or (c.stop - c.start) * vocab_size <= demo.AT_ONCE for c in found)


# ---- the lesson and the exam --------------------------------------------------------------------------------------


def test_the_words_of_the_lesson_are_said_after_its_contexts(monkeypatch):
    """By a teacher so sharp that each context has one word."""
    monkeypatch.setattr(demo, "SHARPNESS", 1e6)
    monkeypatch.setattr(demo, "AT_ONCE", 12 * 5)  # five contexts at a time
    teacher, lesson, _ = of_seed()
    for first in (0, demo.PIECE):
        hidden = lesson.contexts(first)
        likeliest = cpu(hidden @ teacher.weight.T).argmax(axis=2)
        assert likeliest.shape == (min(demo.PIECE, 40 - first), BATCH)
        assert (cpu(lesson.words)[first : first + demo.PIECE] == likeliest).all()


def test_counts_are_those_of_the_lesson_and_one_more():
    _, lesson, _ = of_seed()
    said = cpu(lesson.words).ravel().tolist()
    assert cpu(lesson.counts).tolist() == [said.count(word) + 1 for word in range(12)]


def test_the_same_seed_gives_the_same_lesson_and_another_seed_another():
    same, again, other = (cpu(of_seed(seed)[1].words).tolist() for seed in (1, 1, 2))
    assert same == again != other


def test_the_exam_has_contexts_that_nobody_learned_from():
    _, lesson, exam = of_seed(size=SMALL._replace(updates=2 * demo.PIECE))
    learned = {tuple(h) for first in (0, demo.PIECE) for h in cpu(lesson.contexts(first)).reshape(-1, DIM).tolist()}
    assert len(learned) == 2 * demo.PIECE * BATCH  # nor does one come twice in the lesson
    assert not learned & {tuple(h) for h in cpu(exam.hidden).tolist()}


def test_the_exam_knows_entropy_and_the_best_that_guessing_does():
    _, _, exam = of_seed()
    p = np.exp(cpu(exam.log_p).astype(np.float64))
    assert math.isclose(exam.entropy(), np.mean([-sum(x * math.log(x) for x in row) for row in p]), rel_tol=1e-5)
    assert math.isclose(exam.best(), np.mean([max(row) for row in p]), rel_tol=1e-5)


def test_the_exam_knows_log_z_of_the_teacher_whose_words_are_as_likely_as_zipf_has_them_where_h_is_zero():
    teacher, _, exam = of_seed()
    zipf = 1.0 / np.arange(1, 13)
    odds = np.exp(cpu(exam.hidden) @ cpu(teacher.weight).T) * (zipf / zipf.sum())
    log_z = np.log(odds.sum(axis=1))
    np.testing.assert_allclose(exam.log_z, [log_z.mean(), log_z.std()], rtol=1e-4)


# ---- what a student has learned -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", demo.KINDS)
def test_all_students_begin_with_how_often_a_word_occurs(name):
    _, lesson, exam = of_seed()
    layer = demo.student(name, SMALL, lesson, mg.Key(1))
    layer.weight = mg.param(layer.weight.data * 0)
    counts = cpu(lesson.counts)
    scores = cpu(layer.scores(mg.tensor(exam.hidden)))
    np.testing.assert_allclose(np.exp(scores), np.tile(counts / counts.sum(), (20, 1)), rtol=1e-5)


def test_a_student_has_the_k_and_the_power_that_its_name_says():
    _, lesson, _ = of_seed()
    few, many, own, masked, negative = (
        demo.student(name, SMALL._replace(power=0.7), lesson, mg.Key(1))
        for name in ("ranking-few", "ranking", "ranking-own", "masked", "negative")
    )
    assert [(s.k, s.shared) for s in (few, many, own, masked, negative)] == [(3, 3), (6, 6), (3, None), (3, 3), (6, 6)]
    assert [few.mask_hits, many.mask_hits, own.mask_hits, masked.mask_hits] == [False, False, False, True]
    weights = cpu(lesson.counts) ** 0.7
    for each in (few, many, own, masked, negative):
        np.testing.assert_allclose(cpu(each.sampler.probs), weights / weights.sum())
    assert "k = 3" in demo.says("masked", SMALL) and "k = 6" in demo.says("nce", SMALL)


def by_definition(layer, exam):
    """KL of the layer's log_prob, log Z and the right words, and KL and log Z of its raw scores, summed by Python."""
    hidden = mg.tensor(exam.hidden)
    kl, raw_kl, raw_log_z, right = [], [], [], []
    said = cpu(layer.log_prob(hidden)).tolist()
    for log_p, log_q, raw in zip(cpu(exam.log_p).tolist(), said, cpu(layer.raw_scores(hidden)).tolist(), strict=True):
        raw_log_z.append(math.log(sum(math.exp(s) for s in raw)))
        kl.append(sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True)))
        raw_kl.append(sum(math.exp(a) * (a - (s - raw_log_z[-1])) for a, s in zip(log_p, raw, strict=True)))
        right.append(math.exp(log_p[log_q.index(max(log_q))]))
    log_z = [math.log(sum(math.exp(s) for s in scores)) for scores in cpu(layer.scores(hidden)).tolist()]
    raw = [np.mean(raw_kl), np.mean(raw_log_z), np.std(raw_log_z)]
    return [np.mean(kl), np.mean(log_z), np.std(log_z), np.mean(right), *raw]


def learned(name, seed=1):
    """A student after a few updates, and the exam."""
    _, lesson, exam = of_seed(seed)
    layer = demo.student(name, SMALL, lesson, mg.Key(7))
    layer.weight = mg.param(mg.Key(8).normal((12, DIM)))
    return layer, exam


@pytest.mark.parametrize("name", ["full", "negative", "nce"])
def test_step_2_the_marks_are_sums_over_all_words(name, monkeypatch):
    monkeypatch.setattr(demo, "AT_ONCE", 12 * 7)  # seven contexts at a time
    layer, exam = learned(name)
    np.testing.assert_allclose(demo.examined(layer, exam), by_definition(layer, exam), rtol=1e-4, atol=1e-6)


def test_who_says_what_the_teacher_says_has_a_kl_of_zero_and_is_right_as_often_as_can_be():
    teacher, lesson, exam = of_seed()
    layer = demo.student("full", SMALL, lesson, mg.Key(1))
    layer.weight, layer.bias = mg.param(teacher.weight), mg.param(teacher.bias + 3.0)  # a constant changes nothing
    marks = demo.examined(layer, exam)
    assert abs(marks.kl) < 1e-6 and math.isclose(marks.right, exam.best(), rel_tol=1e-6)


def test_only_of_negative_sampling_the_raw_scores_say_something_else():
    for name in ("full", "nce", "negative"):
        marks = demo.examined(*learned(name))
        assert math.isclose(marks.kl, marks.raw_kl, rel_tol=1e-5) == (name != "negative")
        assert math.isclose(marks.log_z, marks.raw_log_z, rel_tol=1e-5) == (name != "negative")


def test_hard_negatives_have_no_kl_but_right_words():
    marks = demo.examined(*learned("hard"))
    assert marks.kl is None and marks.raw_kl is None and 0 < marks.right < 1


def test_scores_that_are_not_finite_are_no_marks():
    layer, exam = learned("full")
    layer.weight = mg.param(layer.weight.data * math.inf)
    with pytest.raises(FloatingPointError):
        demo.examined(layer, exam)


# ---- learning -----------------------------------------------------------------------------------------------------


def test_learning_is_adagrad_with_a_rate_that_falls_to_zero_along_a_line(monkeypatch):
    """The updates of the full softmax, written down in NumPy in float64."""
    here = school()
    layers = []
    monkeypatch.setattr(demo, "student", lambda *a, student=demo.student: layers.append(student(*a)) or layers[-1])
    here.learn("full", 0.3, 40)
    start = demo.student("full", SMALL, here.lesson, here.key.fold(0))
    W, b = (cpu(p).astype(np.float64) for p in (start.weight, start.bias))
    sums = [np.zeros_like(W), np.zeros_like(b)]
    hidden = np.concatenate([cpu(here.lesson.contexts(first)) for first in (0, demo.PIECE)]).astype(np.float64)
    for i, (h, words) in enumerate(zip(hidden, cpu(here.lesson.words), strict=True)):
        scores = h @ W.T + b
        G = np.exp(scores - scores.max(axis=1, keepdims=True))
        G /= G.sum(axis=1, keepdims=True)
        G[np.arange(BATCH), words] -= 1
        for p, s, g in zip((W, b), sums, (G.T @ h / BATCH, G.mean(axis=0)), strict=True):
            s += g * g
            p -= 0.3 * (1 - i / 40) * g / (np.sqrt(s) + 1 / BATCH)
    np.testing.assert_allclose(cpu(layers[0].weight), W, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(cpu(layers[0].bias), b, rtol=1e-3, atol=1e-4)


def test_points_are_taken_where_they_are_asked_for_and_at_the_end():
    points = school().learn("full", 0.3, 40, [32])
    assert [point.updates for point in points] == [0, 32, 40]
    assert points[0].marks.kl > points[1].marks.kl > points[2].marks.kl
    assert [point.updates for point in school().learn("full", 0.3, 10)] == [10]
    assert 0 == points[0].seconds < points[1].seconds < points[2].seconds


@pytest.mark.parametrize("name", demo.KINDS)
def test_the_same_key_learns_the_same_and_every_student_learns(name):
    before, after = school().learn(name, 0.3, 40, [0])[-2:]
    assert school().learn(name, 0.3, 40)[-1].marks == after.marks
    if name != "in-batch-uncorrected":  # which learns something else
        assert after.marks.right > before.marks.right
        assert name == "hard" or after.marks.kl < before.marks.kl


def test_nce_and_negative_sampling_with_log_kq_are_one_thing():
    nce, negative = (school().learn(name, 0.3, 40)[-1].marks for name in ("nce", "negative"))
    assert math.isclose(nce.kl, negative.kl, rel_tol=1e-4)
    assert math.isclose(nce.log_z, negative.log_z, rel_tol=1e-3, abs_tol=1e-4)
    assert math.isclose(nce.log_z_spread, negative.log_z_spread, rel_tol=1e-3)


def test_all_students_are_told_the_same_key_at_the_same_update(monkeypatch):
    """So that two that draw the same number of words see the same noise."""
    drawn = {}
    for name in ("ranking", "importance", "nce", "negative"):
        kind = demo.KINDS[name].layer
        seen = drawn.setdefault(name, [])
        draw = losses.samplers.Unigram.draw
        monkeypatch.setattr(
            losses.samplers.Unigram,
            "draw",
            lambda self, key, shape, draw=draw, seen=seen: seen.append(key) or draw(self, key, shape),
        )
        assert issubclass(kind, losses.layer.OutputLayer)
        school().learn(name, 0.3, 5)
        monkeypatch.undo()
    assert drawn["ranking"] == drawn["importance"] == drawn["nce"] == drawn["negative"]
    assert len(set(drawn["ranking"])) == 5


def test_the_rate_that_ends_best_counts():
    of = lambda kl, right: demo.Marks(kl, 0.0, 0.0, right, kl, 0.0, 0.0)
    marks = {rate: of(kl, 0.5) for rate, kl in ((0.1, 0.3), (0.2, 0.1), (0.4, 0.2))}
    assert demo.best_rate(marks) == 0.2
    marks = {rate: of(None, right) for rate, right in ((0.1, 0.3), (0.2, 0.1), (0.4, 0.4))}
    assert demo.best_rate(marks) == 0.4
    with pytest.raises(DemoError, match="with every learning rate of"):
        demo.best_rate({})


def test_a_rate_at_which_a_student_loses_its_way_is_told_and_not_taken(monkeypatch):
    monkeypatch.setattr(demo, "RATES", (0.3, 1e38))
    found = school().teach("full")
    assert found["learning_rate"] == 0.3 and found["tried"][1e38] is None
    assert found["kl"] == found["tried"][0.3]["kl"] == found["curve"][-1]["kl"]


def test_a_student_of_the_ladder_also_learns_for_a_quarter_and_a_half_of_the_updates():
    found = school().teach("full")
    assert [run["updates"] for run in found["runs"]] == [10, 20, 40]
    assert found["runs"][0] | {"seconds": 0} == demo.told(
        school().learn("full", found["learning_rate"], 10)[-1]._replace(seconds=0)
    )
    assert [run["updates"] for run in school().teach("in-batch")["runs"]] == [40]


@pytest.mark.parametrize("name", ["full", "hard"])
def test_the_updates_of_a_student_are_as_many_as_the_bar_is_told(name):
    here, done = school(), []
    here.advance = done.append
    here.teach(name)
    assert sum(done) == demo.updates_of(name, SMALL.updates)


# ---- what the numbers say -----------------------------------------------------------------------------------------


BEGIN = 0.9  # KL


def numbers_of(**kls):
    """Students with these KLs, and else the same numbers."""
    rest = {"seconds": 2.0, "log_z": 1.0, "log_z_spread": 0.4, "right": 0.2, "curve": [{"kl": BEGIN}]}
    return {name.replace("_", "-"): {"kl": kl, "raw_kl": kl, **rest} for name, kl in kls.items()}


def said(taught, gradients=((1, 0.4), (4, 0.3), (6, 0.1))):
    """The first words of the sentence, as far as a colon or comma, or all of one that goes on -> holds, numbers."""
    return {row["sentence"].split(":")[0].split(",")[0]: row for row in demo.verdicts(taught, SMALL, dict(gradients))}


BIASED, FEW, KQ = "IS", "… “esp. when N is small”", "… “biased when k ≠ |V| or Q is not uniform”"
SAME, FASTER = "“select the same negative samples”", "(no slide) k = 3"
WITHIN, LOG_Q = "(no slide) sampled", "(no slide) in-batch negatives need log q"


@pytest.mark.parametrize(
    "few, many, holds", [(0.2, 0.1, True), (0.103, 0.1, False), (0.2, 0.2, False), (0.2, 0.3, False)]
)
def test_a_small_n_hurts_importance_sampling_if_few_words_do_and_more_than_many(few, many, holds):
    taught = numbers_of(importance_few=few, importance=many, ranking_few=0.1, ranking=0.1)
    assert said(taught)[FEW]["holds"] is holds
    assert said(taught)[FEW]["numbers"] == [few / 0.1, many / 0.1]


def test_importance_sampling_is_compared_with_the_same_number_of_words():
    taught = numbers_of(importance_few=0.2, importance=0.1, ranking_few=0.2, ranking=0.1)
    assert said(taught)[FEW]["numbers"] == [1.0, 1.0] and said(taught)[FEW]["holds"] is False


@pytest.mark.parametrize("last, holds", [(0.1, True), (0.0, False)])
def test_importance_sampling_is_biased_if_the_enumeration_says_so_and_the_first_k_and_the_last_are_told(last, holds):
    row = said(numbers_of(importance=0.1), {1: 0.4, 4: 0.3, 6: last})[BIASED]
    assert row["numbers"] == [0.4, last] and row["holds"] is holds
    assert row["measured"].endswith("k = 1, k = 6")


@pytest.mark.parametrize(
    "log_z, spread, holds",
    [(0.0, 0.2, True), (-0.3, 0.3, True), (0.0, 0.7, False), (0.7, 0.0, False), (-0.7, 0.0, False)],
)
def test_nce_has_set_z_to_one_on_average_if_its_log_z_is_much_nearer_to_zero_than_that_of_the_full_softmax(
    log_z, spread, holds
):
    taught = numbers_of(nce=0.1, full=0.1)  # whose is √1.16 from 0
    taught["nce"] |= {"log_z": log_z, "log_z_spread": spread}
    row = said(taught)["NCE"]
    assert row["holds"] is holds and row["numbers"] == [math.hypot(log_z, spread), math.hypot(1.0, 0.4)]


def test_before_anything_is_learned_nce_has_set_nothing():
    """Since the full softmax's log Z is then as near to zero."""
    assert said(numbers_of(nce=0.1, full=0.1))["NCE"]["holds"] is False


@pytest.mark.parametrize("kl, raw_kl, similar, biased", [(0.1, 0.3, True, True), (0.2, 0.2, False, False)])
def test_negative_sampling_is_similar_to_nce_and_biased_as_its_numbers_say(kl, raw_kl, similar, biased):
    taught = numbers_of(nce=0.1, negative=kl)
    taught["negative"]["raw_kl"] = raw_kl
    assert said(taught)["negative sampling"]["holds"] is similar
    assert said(taught)[KQ]["holds"] is biased


@pytest.mark.parametrize("own, same, holds", [(4.0, 2.0, True), (2.0, 2.0, False), (4.0, 0.5, True), (0.9, 0.2, None)])
def test_the_same_noise_is_faster_if_runs_of_which_one_takes_a_second_say_so(own, same, holds):
    taught = numbers_of(ranking_own=0.1, ranking_few=0.2)
    taught["ranking-own"]["seconds"], taught["ranking-few"]["seconds"] = own, same
    assert said(taught)[SAME]["holds"] is holds and said(taught)[SAME]["numbers"] == [own, same, 2.0]


@pytest.mark.parametrize(
    "full, few, in_batch, holds",
    [(2.0, 0.9, 1.4, True), (2.0, 1.2, 1.99, False), (2.0, 3.0, 1.2, False), (0.9, 0.1, 0.2, None)],
)
def test_sampling_is_faster_than_the_full_softmax_if_both_are(full, few, in_batch, holds):
    taught = numbers_of(full=1.0, ranking_few=1.0, in_batch=1.0)
    for name, seconds in (("full", full), ("ranking-few", few), ("in-batch", in_batch)):
        taught[name]["seconds"] = seconds
    assert said(taught)[FASTER]["holds"] is holds and said(taught)[FASTER]["numbers"] == [full, few, in_batch]


@pytest.mark.parametrize("without, holds", [(0.5, True), (0.1, False)])
def test_log_q_is_needed_if_it_is_worse_without_and_the_beginning_is_told(without, holds):
    row = said(numbers_of(in_batch=0.1, in_batch_uncorrected=without))[LOG_Q]
    assert row["holds"] is holds and row["numbers"] == [without, 0.1, BEGIN]


@pytest.mark.parametrize("ratio, holds", [(1.05, True), (1.051, False), (0.9, True)])
def test_within_5_percent_is_5_percent_of_the_full_softmax(ratio, holds):
    taught = numbers_of(full=1.0, ranking=ratio, ranking_few=2.0)
    assert said(taught)[WITHIN]["holds"] is holds and said(taught)[WITHIN]["numbers"] == [ratio, 2.0]


def test_of_students_that_were_not_asked_for_nothing_is_said():
    assert said(numbers_of(full=1.0)) == {}
    assert list(said(numbers_of(nce=1.0, full=1.0))) == ["NCE"]
    assert demo.ratio(numbers_of(full=1.0, nce=2.0), "nce", "full") == 2.0
    assert demo.ratio(numbers_of(full=1.0), "nce", "full") is None
    assert demo.times_its_first(numbers_of(nce=1.8), "nce") == 2.0
    assert demo.times_its_first({}, "nce") is None


def test_who_ends_worse_than_it_began_is_found():
    taught = numbers_of(full=0.1, nce=1.0, hard=None)
    assert demo.worse_than_at_first(taught) == [taught["nce"]]


def test_how_far_the_full_softmax_is_above_the_floor_or_below():
    floor = demo.floor(SMALL, SMALL.updates)
    assert demo.above(1.15 * floor, SMALL) == "15 % above" and demo.above(0.9 * floor, SMALL) == "10 % below"


def test_people_are_told_three_digits():
    assert [demo.three(x) for x in (None, 0.0, 0.0736, 1.1, 13.71, 140.2, 1234.5)] == [
        None, "0.00", "0.0736", "1.10", "13.7", "140", "1,234",
    ]  # fmt: skip


def test_seconds_are_told_below_a_minute_and_one_student_is_one():
    assert [demo.duration(s) for s in (1.6, 59, 90)] == ["2 s", "59 s", "1.5 min"]
    assert [demo.students(n) for n in (1, 2)] == ["1 student", "2 students"]


def test_the_floor_is_half_the_free_parameters_over_the_examples():
    """V − 1 rows of W and of b: what is added to all of them changes nothing."""
    assert demo.floor(demo.SIZES["default"], 100) == 999 * 33 / (2 * 100 * 128)


# ---- sabotage -----------------------------------------------------------------------------------------------------


def swapped(layer, exam):
    """KL(P̂ ‖ P*)."""
    q = cpu(layer.log_prob(mg.tensor(exam.hidden)))
    kl = float((np.exp(q) * (q - cpu(exam.log_p))).sum(axis=1).mean())
    return right_marks(layer, exam)._replace(kl=kl)


def uncorrected(layer, exam):
    marks = right_marks(layer, exam)
    return marks._replace(kl=marks.raw_kl)


right_marks, right_draw = demo.examined, demo.drawn_from
sums = test_step_2_the_marks_are_sums_over_all_words
MUTANTS = {
    "KL the other way round": ("examined", swapped, lambda m: sums("full", m)),
    "log kq not added": (
        "examined",
        uncorrected,
        lambda m: test_step_2_the_marks_are_sums_over_all_words("negative", m),
    ),
    "the word after": (
        "drawn_from",
        lambda weights, u: (right_draw(weights, u) + 1) % weights.shape[1],
        lambda m: test_it_says_each_word_as_often_as_p_has_it(12),
    ),
    "a bias of zero": (
        "student",
        lambda name, size, lesson, key: demo.KINDS[name].layer(size.vocab_size, lesson.dim, key=key),
        lambda m: test_all_students_begin_with_how_often_a_word_occurs("full"),
    ),
    "the worst rate": (
        "best_rate",
        lambda found: max(found, key=lambda rate: found[rate].kl or 0.0),
        lambda m: test_the_rate_that_ends_best_counts(),
    ),
    "log Z of the raw scores": (
        "examined",
        lambda layer, exam: (m := right_marks(layer, exam))._replace(log_z=m.raw_log_z),
        lambda m: test_step_2_the_marks_are_sums_over_all_words("negative", m),
    ),
    "the mean of log Z alone": (
        "away",
        lambda one: abs(one["log_z"]),
        lambda m: (
            test_nce_has_set_z_to_one_on_average_if_its_log_z_is_much_nearer_to_zero_than_that_of_the_full_softmax(
                0.0, 0.7, False
            )
        ),
    ),
    "all parameters": (
        "floor",
        lambda size, updates: size.vocab_size * 33 / (2 * updates * 128),
        lambda m: test_the_floor_is_half_the_free_parameters_over_the_examples(),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_version_dies_of_the_test_of_what_it_breaks(mutant, monkeypatch):
    name, wrong, check = MUTANTS[mutant]
    check(monkeypatch)
    monkeypatch.setattr(demo, name, wrong)
    with pytest.raises(AssertionError):
        check(monkeypatch)


# ---- what it prints and leaves behind -----------------------------------------------------------------------------


def run(*flags, **options):
    command = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, **options)


def read_json(out):
    return json.loads((out / "results.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.mark.cpu
class TestQuick:
    def test_it_leaves_two_pictures_and_the_numbers(self, quick):
        out, printed = quick
        assert {path.name for path in out.iterdir()} == {"kl.png", "log-z.png", "results.json"}
        assert struct.unpack(">II", (out / "kl.png").read_bytes()[16:24]) == (1600, 900)
        assert printed.splitlines()[-1] == f"in {out}: kl.png, log-z.png, results.json"

    def test_every_student_has_a_row_and_its_numbers(self, quick):
        out, printed = quick
        students = read_json(out)["students"]
        assert [one["name"] for one in students] == list(demo.KINDS)
        for one in students:
            assert f"  {one['says']}  " in printed
            assert one["learning_rate"] in demo.RATES and set(one["tried"]) == set(map(str, demo.RATES))
            best = min((end["kl"] for end in one["tried"].values() if end), key=lambda kl: kl or 0.0)
            assert one["kl"] == best == one["curve"][-1]["kl"]
        assert "… taken for log P" in printed and "(where all begin)" in printed and "(the teacher)" in printed

    def test_no_line_is_wider_than_a_projector(self, quick):
        assert max(len(line.rstrip()) for line in quick[1].splitlines()[:-1]) <= 120

    def test_a_rate_at_the_edge_of_those_tried_is_marked(self, quick):
        out, printed = quick
        rows = {line[2:].split("  ")[0]: line.split() for line in printed.splitlines() if line.startswith("  ")}
        for one in read_json(out)["students"]:
            rate = f"{one['learning_rate']}{'' if one['learning_rate'] == 0.2 else '*'}"
            assert rate in rows[one["says"]]
        assert "\n*: at the edge of the rates that were tried (0.1, 0.2, 0.4)" in printed

    def test_the_table_of_consistency_says_zero_where_the_slides_are_right(self, quick):
        gradients = {row["estimator"]: row["gradient"] for row in read_json(quick[0])["consistency"]}
        for name in ("sampled softmax", "NCE", "negative sampling", "full softmax"):
            assert max(gradients[name].values()) < 1e-12
        assert min(gradients["importance sampling"].values()) > 0.1
        assert "P = 0.40" in quick[1] and "q = 0.10" in quick[1]

    def test_the_slides_are_judged_by_the_numbers_of_the_students(self, quick):
        results = read_json(quick[0])
        taught = {one["name"]: one for one in results["students"]}
        gradients = {row["estimator"]: row["gradient"] for row in results["consistency"]}["importance sampling"]
        gradients = {int(k): size for k, size in gradients.items()}
        assert results["verdicts"] == json.loads(json.dumps(demo.verdicts(taught, demo.SIZES["quick"], gradients)))
        assert len(results["verdicts"]) == len(demo.CLAIMS)

    def test_the_questions_to_predict_are_answered(self, quick):
        results = read_json(quick[0])
        kl = {one["name"]: one["kl"] for one in results["students"]}
        assert results["predict"] == {
            "kl_of_few_shared_noise_words_over_that_of_the_full_softmax": kl["ranking-few"] / kl["full"],
            "kl_of_in_batch_negatives_without_log_q_over_that_with_it": kl["in-batch-uncorrected"] / kl["in-batch"],
            "kl_of_in_batch_negatives_without_log_q_over_that_at_the_beginning": (
                kl["in-batch-uncorrected"] / results["students"][0]["curve"][0]["kl"]
            ),
        }

    def test_forgetting_log_q_costs_more_than_any_other_thing(self, quick):
        kl = {one["name"]: one["kl"] for one in read_json(quick[0])["students"]}
        assert kl["in-batch-uncorrected"] > 2 * kl["in-batch"]


@pytest.mark.cpu
def test_methods_names_some_and_nothing_is_said_of_others(tmp_path, capsys):
    demo.main(["--quick", "--methods", "hard", "nce", "--out", str(tmp_path)])
    results = read_json(tmp_path)
    assert [one["name"] for one in results["students"]] == ["nce", "hard"]
    assert set(results["predict"].values()) == {None}
    assert "\n  sampled softmax, k" not in capsys.readouterr().out


@pytest.mark.cpu
def test_a_student_without_a_kl_alone_has_no_picture_nor_keeps_those_of_another_run(tmp_path, capsys):
    for name in ("kl.png", "log-z.png"):
        (tmp_path / name).write_bytes(b"of another run")
    demo.main(["--quick", "--methods", "hard", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"results.json"}
    printed = capsys.readouterr().out
    assert "1 student, " in printed and "KL" not in printed, "nor a column of dashes"


@pytest.mark.parametrize("power", ["-1", "nan", "inf"])
def test_a_power_that_makes_no_sense_is_refused(power, tmp_path):
    with pytest.raises(DemoError, match="--power must be a finite number of 0 or more"):
        demo.main(["--power", power, "--out", str(tmp_path / "out")])


@pytest.mark.cpu
def test_as_a_script_an_error_is_one_line_and_status_2(tmp_path):
    done = run("--quick", "--full", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, "sampled-softmax: --quick and --full: one of the two\n")
    assert not (tmp_path / "out").exists()


def stopped_after(students, monkeypatch, tmp_path):
    """main, with Ctrl-C in the first update after so many students were done."""
    teach, taught = demo.School.teach, []

    def until(self, name):
        if len(taught) == students:
            signal.raise_signal(signal.SIGINT)
        taught.append(name)
        return teach(self, name)

    monkeypatch.setattr(demo.School, "teach", until)
    demo.main(["--quick", "--methods", "full", "ranking", "nce", "--out", str(tmp_path)])


@pytest.mark.cpu
def test_ctrl_c_leaves_the_students_that_are_done(monkeypatch, tmp_path, capsys):
    stopped_after(2, monkeypatch, tmp_path)
    results = read_json(tmp_path)
    assert [one["name"] for one in results["students"]] == ["full", "ranking"] and results["stopped_early"]
    printed = capsys.readouterr()
    assert "stopped early: of 3 students 2 done, and shown" in printed.out
    assert "the student under way is dropped, those done are shown" in printed.err


@pytest.mark.cpu
def test_ctrl_c_before_the_first_is_done_says_so(monkeypatch, tmp_path):
    with pytest.raises(DemoError, match="stopped before the first student was done"):
        stopped_after(0, monkeypatch, tmp_path)
