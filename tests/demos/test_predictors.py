"""The demo on structure: that rows are counted, ranks found, all taught alike, and that what is said was found."""

import json
import math
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from _shared.errors import DemoError
from _shared.text import read_text
from hypothesis import given
from hypothesis import strategies as st
from test_commands import load_script

import losses
import minigrad as mg
from minigrad import backend

pytestmark = pytest.mark.predictors

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "demos" / "predictors.py"
demo = load_script(SCRIPT)

KEY = mg.Key(3)
SMALL = demo.Size(vocab_size=60, updates=6, batch=8, held_out=40, seconds=0.0)
GOING_ON = SimpleNamespace(requested=False)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences of which each second word follows from the first."""
    rng, path = np.random.default_rng(1), tmp_path_factory.mktemp("text") / "text.txt"
    words = [f"{'abcdefgh'[i]}{j}" for i in range(8) for j in range(6)]
    pairs = [(w, words[(7 * k + 3) % len(words)]) for k, w in enumerate(words)]
    lines = [" ".join(w for i in rng.integers(0, len(pairs), 3) for w in pairs[i]) for _ in range(400)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_text(path, 1, max_size=SMALL.vocab_size - 1)


@pytest.fixture
def data(text):
    return demo.read_data(text, SMALL, np.random.default_rng(1))


def cpu(array):
    return mg.to_cpu(array.data if isinstance(array, mg.Tensor) else array)


def school(data, size=SMALL, stop=GOING_ON):
    return demo.School(data, size, KEY, stop)


# ---- the quizzes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, rows", [("full", 1000), ("binary", 10), ("correcting", 32), ("hybrid", 250 + 1 + 10)])
def test_rows_are_those_of_equation_4(name, rows):
    assert demo.rows_of(name, 1000, KEY) == rows


def test_embedding_prediction_has_as_many_rows_as_a_vector_has_numbers():
    assert demo.rows_of("embedding", 100, KEY) == demo.rows_of("embedding", 1000, KEY) == demo.NUMBERS


@pytest.mark.parametrize("num_classes", [5, 10, 20])
def test_step_1_equally_large_classes_cost_c_and_v_over_c(num_classes):
    rows, empty = demo.class_rows(demo.zipf(100), demo.EQUAL_SIZE, num_classes)
    assert (rows, empty) == (pytest.approx(num_classes + 100 / num_classes), 0)


@pytest.mark.parametrize("vocab_size, num_classes", [(1_000, 10), (10_000, 100), (10_000, 300)])
def test_step_1_equally_probable_classes_cost_the_same_with_those_that_are_empty(vocab_size, num_classes):
    rows, empty = demo.class_rows(demo.zipf(vocab_size), demo.EQUAL_MASS, num_classes)
    assert rows + empty == pytest.approx(num_classes + vocab_size / num_classes, rel=0.02)
    assert (empty > 0) == (num_classes > 10)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=40))
def test_step_2_no_classes_cost_less_than_twice_the_sum_of_roots_and_that_no_more_than_twice_root_v(counts):
    counts = backend.asarray(counts, "float64")
    least = 2 * demo.sum_of_roots(counts)
    assert least <= 2 * math.sqrt(len(counts)) * (1 + 1e-12)
    for binning in demo.BINNINGS:
        for number in {1, 2, round(least / 2), len(counts)}:
            assert demo.class_rows(counts, binning, number)[0] >= least * (1 - 1e-12)


def test_the_entropy_is_in_bits():
    assert demo.entropy(backend.asarray([1.0, 1.0, 2.0])) == pytest.approx(1.5)


@given(st.floats(2, 1e3), st.floats(1.5, 10), st.integers(2, 30), st.integers(10, 2000))
def test_numbers_of_classes_rise_from_a_part_of_the_middle_to_a_multiple_of_it(middle, reach, points, most):
    found = demo.numbers_about(middle, reach, points, most)
    assert found == sorted(set(found)) and 2 <= found[0] and found[-1] <= max(most, 2)
    low, high = (min(max(round(x), 2), most) for x in (middle / reach, middle * reach))
    assert abs(found[0] - low) <= 1 and abs(found[-1] - high) <= 1


def test_the_quiz_has_the_numbers_that_the_chapters_have():
    """Of losses/structured/class_based.py, (6): 200, 127.1 and 126.9 rows; of trees.py: H = 9.53."""
    asked = demo.quiz([1_000, 10_000], KEY, lambda: None)
    rows = {says: found[1] for says, found in asked["rows"].items()}
    assert rows[f"class-based, {demo.EQUAL_SIZE}"] == pytest.approx(200)
    assert rows[f"class-based, {demo.EQUAL_ROOTS}"] == pytest.approx(127.1, abs=0.3)
    assert rows["(2 Σ √p)"] == pytest.approx(126.9, abs=0.05)
    assert rows["(H, bits)"] == pytest.approx(9.53, abs=0.005)
    assert rows["(H, bits)"] <= rows[demo.KINDS["hierarchical"].says] < rows["(H, bits)"] + 1
    assert asked["classes"]["vocab_size"] == 1_000
    of = asked["classes"]["rows"]
    assert len(of[demo.EQUAL_MASS]) == len(asked["classes"]["numbers"])
    assert all(a <= b for a, b in zip(of[demo.EQUAL_MASS], of[f"{demo.EQUAL_MASS}, and the empty"], strict=True))


def test_what_grows_as_a_power_has_its_exponent():
    assert demo.growth([10, 100, 1000], [7.0, 2 * 100**0.37, 2 * 1000**0.37]) == pytest.approx(0.37)


# ---- ranks --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_rank_is_that_of_what_differs_between_words(r, seed):
    rng = np.random.default_rng(seed)
    low = rng.standard_normal((30, r)) @ rng.standard_normal((r, 12))
    assert demo.rank(low + 100 * rng.standard_normal((30, 1))) == r


@pytest.mark.parametrize("name", demo.KINDS)
def test_no_rank_is_above_its_bound(name):
    found = demo.ranks(24, 6, 4, KEY)[name]
    assert 0 < found["rank"] <= found["at_most"] <= 23


@pytest.mark.parametrize("name", set(demo.KINDS) - {"hierarchical", "balanced"})
def test_bounds_are_reached(name):
    """Of 22 bits that an error-correcting code has for 24 words, two are others again; d + 1 = 17 is less than 20."""
    found = demo.ranks(24, 16, 4, KEY)[name]
    assert found["rank"] == found["at_most"]
    known = {"full": 17, "binary": 5, "correcting": 17, "hybrid": 6 + 5, "hybrid-correcting": 18, "embedding": 4}
    assert found["rank"] == known.get(name, found["rank"])


@pytest.mark.parametrize("name", ["hierarchical", "balanced"])
@pytest.mark.parametrize("dim", [6, 40])
def test_pairs_of_words_below_one_node_are_no_more_independent_than_contexts_are(name, dim):
    found = demo.ranks(32, dim, 4, KEY)[name]
    assert found["rank"] == found["at_most"] and (
        name == "hierarchical" or found["rank"] == (24 - 2 if dim == 6 else 31)
    )


def test_the_bits_of_an_error_correcting_code_are_all_different_but_two():
    layer = losses.ErrorCorrectingCode(64, 4, memory=demo.MEMORY, key=KEY)
    assert (layer.codebook.num_bits, demo.different_bits(layer)) == (24, 22)


# ---- the text, and vectors ----------------------------------------------------------------------------------------


def test_what_is_held_out_is_not_learned(text, data):
    sentence = text.tokens.sentence
    words = np.count_nonzero(sentence % demo.HELD_OUT != demo.HELD_OUT - 1)
    ends = len(np.unique(sentence[sentence % demo.HELD_OUT != demo.HELD_OUT - 1]))
    assert len(data.targets) == words + ends and len(data.held_targets) == SMALL.held_out
    assert (cpu(data.counts) == np.bincount(cpu(data.targets), minlength=data.vocab_size) + 1).all()


def test_a_text_with_nothing_to_hold_out_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("a b c\nb c d", encoding="utf-8")
    text = read_text(tmp_path / "short.txt", 1, max_size=9)
    said = "too little to learn: expected 20 sentences or more, one a line, and 8 words to learn; got 2 and 8, the ends"
    with pytest.raises(DemoError, match=said):
        demo.read_data(text, SMALL, np.random.default_rng(1))


@pytest.mark.parametrize("words", [2, demo.LEAST - 1, demo.LEAST])
def test_a_text_of_a_few_different_words_is_refused_or_learned(words, tmp_path):
    line = " ".join(f"w{i}" for i in range(words))
    (tmp_path / "few.txt").write_text("\n".join([line] * 40), encoding="utf-8")
    text = read_text(tmp_path / "few.txt", 1, max_size=59)
    if words < demo.LEAST:
        with pytest.raises(DemoError, match=f"expected 6 different words or more, got {words}"):
            demo.read_data(text, SMALL, np.random.default_rng(1))
        return
    data = demo.read_data(text, SMALL, np.random.default_rng(1))
    for name in demo.KINDS:
        assert len(school(data).learn(name, 0.1, seed=0, updates=2)[1]) == 1


def test_vectors_are_those_of_the_pointwise_mutual_information():
    """Written out for five words: the m greatest in size of the singular values of M, rows of U √S of length one."""
    contexts, targets = np.array([[0, 1, 2], [1, 2, 3], [4, 4, 0], [2, 0, 1]]), np.array([3, 0, 1, 4])
    V = 8  # words 5, 6, 7 never occur
    C = np.zeros((V, V))
    for row, target in zip(contexts, targets, strict=True):
        for word in row:
            C[target, word] += 1
            C[word, target] += 1
    each = C.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        M = np.where(C > 0, np.log(C * C.sum() / np.outer(each, each)), 0.0).clip(0)
    U, S, _ = np.linalg.svd(M)
    wanted = U[:5, :2] * np.sqrt(S[:2])
    found = demo.vectors_of(contexts, targets, V, np.random.default_rng(1))  # m = 8 // 4
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    length = np.linalg.norm(wanted, axis=1)
    there = length > 1e-6
    wanted = wanted[there] / length[there, None]
    np.testing.assert_allclose(found[:5][there] @ found[:5][there].T, wanted @ wanted.T, atol=1e-5)


# ---- learning -----------------------------------------------------------------------------------------------------


def test_all_begin_alike_but_for_the_output_layer(data):
    one, other = (demo.LanguageModel(name, data, KEY) for name in ("full", "binary"))
    contexts = data.contexts[:5]
    np.testing.assert_array_equal(one(contexts).numpy(), other(contexts).numpy())
    assert cpu(one(contexts)).shape == (5, demo.DIM)


@pytest.mark.parametrize("name", [name for name, kind in demo.KINDS.items() if kind.probable])
def test_the_perplexity_is_exp_of_the_mean_of_minus_log_p(name, data):
    model = demo.LanguageModel(name, data, KEY)
    log_p = model.output.log_prob(model(data.held_contexts)).numpy()
    targets = cpu(data.held_targets)
    rows = np.arange(len(targets))
    found = demo.examined(model, data, batch=7)
    assert found.perplexity == pytest.approx(math.exp(-log_p[rows, targets].mean(dtype="float64")), rel=1e-4)
    best = log_p.max(axis=1)
    assert (log_p[rows, targets] == best).mean() >= found.right >= 0


def test_right_words_are_those_found_likeliest(data):
    model = demo.LanguageModel("full", data, KEY)
    likeliest = cpu(model.output.log_prob(model(data.held_contexts))).argmax(axis=1)
    found = demo.examined(model, data, batch=7)
    np.testing.assert_array_equal(found.hits, likeliest == cpu(data.held_targets))
    assert found.right == pytest.approx(found.hits.mean())


def test_embedding_prediction_has_no_perplexity(data):
    assert demo.examined(demo.LanguageModel("embedding", data, KEY), data).perplexity is None


def test_the_halved_perplexity_is_that_of_the_root_of_p_divided_by_its_sum(data):
    model = demo.LanguageModel("correcting", data, KEY)
    p = np.exp(model.output.log_prob(model(data.held_contexts)).numpy().astype("float64") / 2)
    p /= p.sum(axis=1, keepdims=True)
    wanted = math.exp(-np.log(p[np.arange(len(p)), cpu(data.held_targets)]).mean())
    assert demo.perplexity_halved(model, data, batch=11) == pytest.approx(wanted, rel=1e-4)


def test_each_layer_hears_the_same_words_in_the_same_order(data, monkeypatch):
    heard = {}
    for name, kind in (("full", losses.FullSoftmax), ("binary", losses.BinaryCode)):
        loss = kind.loss

        def listening(self, hidden, targets, name=name, loss=loss, **options):
            heard.setdefault(name, []).append(cpu(targets).tolist())
            return loss(self, hidden, targets, **options)

        monkeypatch.setattr(kind, "loss", listening)
        school(data).learn(name, 0.1, seed=0, updates=6)
    assert len(heard["full"]) == 6 and heard["full"] == heard["binary"]
    assert len({tuple(batch) for batch in heard["full"]}) == 6


def test_the_rate_falls_along_a_line_to_zero(data, monkeypatch):
    rates, step = [], mg.optim.Adagrad.step
    monkeypatch.setattr(mg.optim.Adagrad, "step", lambda self: (rates.append(self.lr), step(self))[1])
    school(data).learn("binary", 0.4, seed=0, updates=4)
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_learning_makes_the_text_less_surprising(data):
    size = SMALL._replace(updates=150)
    for name in ("full", "class", "hierarchical", "hybrid"):
        _, (first, last) = school(data, size).learn(name, 0.1, seed=0, updates=150, at=[1])
        assert last.marks.perplexity < 0.8 * first.marks.perplexity
        assert (first.updates, last.updates) == (1, 150) and last.seconds == pytest.approx(150 * first.seconds)


def test_the_best_rate_counts_and_one_that_is_too_high_does_not(data, monkeypatch):
    learn = demo.School.learn

    def breaking(self, name, rate, *args):
        if rate > 1:
            raise FloatingPointError("too fast")
        return learn(self, name, rate, *args)

    monkeypatch.setattr(demo.School, "learn", breaking)
    pupils = school(data, SMALL._replace(updates=40, seeds=2))
    found = pupils.teach("full", [1e-6, 0.05, 9.0])
    assert pupils.hits["full"].mean() == pytest.approx(found["right"])
    assert found["learning_rate"] == 0.05 and list(found["tried"]) == [1e-6, 0.05]
    assert found["perplexity"] == pytest.approx(math.sqrt(math.prod(one["perplexity"] for one in found["seeds"])))
    assert found["seeds"][0] == found["curve"][-1] and found["seeds"][1] != found["curve"][-1]
    with pytest.raises(DemoError, match=r"full softmax: with every rate of 9\.0 the scores grow beyond all bounds"):
        school(data).teach("full", [9.0])


def test_without_perplexities_the_best_rate_is_right_most_often():
    ends = {0.1: demo.Marks(None, 0.2), 0.2: demo.Marks(None, 0.3)}
    assert demo.best_rate("", ends, ends) == 0.2
    ends = {0.1: demo.Marks(50.0, 0.2), 0.2: demo.Marks(60.0, 0.3)}
    assert demo.best_rate("", ends, ends) == 0.1


def test_who_is_told_to_stop_stops(data):
    with pytest.raises(demo.Stopped):
        school(data, stop=SimpleNamespace(requested=True)).learn("binary", 0.1, 0, 5)


def test_bytes_are_those_of_what_a_layer_must_have(data):
    full, binary, embedding = (demo.LanguageModel(name, data, KEY).output for name in ("full", "binary", "embedding"))
    V, m = data.vocab_size, data.vectors.shape[1]
    assert demo.bytes_of("full", full, data) == 4 * V * (demo.DIM + 1)
    assert demo.bytes_of("binary", binary, data) == 4 * math.ceil(math.log2(V)) * (demo.DIM + 1)
    assert demo.bytes_of("embedding", embedding, data) == 4 * m * (demo.DIM + 1) + 4 * V * m


# ---- what is said -------------------------------------------------------------------------------------------------


def made_up(**right):
    """What each layer may have learned, and an answer to the quizzes."""
    speed = {"binary": 900.0, "full": 10.0}
    taught = {
        name: {
            "right": value,
            "perplexity": 1 / value,
            "words_per_second": {"prediction, layer": speed.get(name, 50.0)},
        }
        for name, value in right.items()
    }
    rows = {f"class-based, {binning}": [20.0, 200.0] for binning in demo.BINNINGS}
    rows |= {demo.KINDS["hierarchical"].says: [7.5, 9.5], "(H, bits)": [7.4, 9.0], demo.KINDS["class"].says: [15, 45]}
    roots = [{"equal_size": 200.0, "equal_mass": 180.0, "empty": 20}] * 2
    asked = {"vocab_sizes": [100, 10_000], "rows": rows, "with_root_v_classes": roots}
    hits = {name: np.arange(10_000) < 10_000 * value for name, value in right.items()}
    return asked, {"binary": {"rank": 6, "at_most": 6}}, taught, {n: h.astype(float) for n, h in hits.items()}


RIGHT = {"binary": 0.1, "correcting": 0.2, "hybrid": 0.3, "hybrid-correcting": 0.35, "full": 0.4}


def held(*parts, vocab_size=8_000):
    return {row["sentence"].partition(":")[0]: row["holds"] for row in demo.verdicts(*parts, vocab_size)}


def share(number):
    return (np.arange(10_000) < 10_000 * number).astype(float)


def test_every_sentence_can_hold():
    found = held(*made_up(**RIGHT))
    assert len(found) == 7 and all(found.values())


@pytest.mark.parametrize(
    "sentence, spoil",
    [
        ("class-based", lambda asked, *rest: asked["rows"][f"class-based, {demo.EQUAL_MASS}"].reverse()),
        ("(1)", lambda asked, *rest: asked["with_root_v_classes"][0].update(equal_mass=150.0)),
        ("hierarchical", lambda asked, *rest: asked["rows"]["(H, bits)"].__setitem__(0, 6.0)),
        ("hierarchical", lambda asked, *rest: asked["rows"]["(H, bits)"].__setitem__(0, 7.6)),
        ("a plain code says as many things as it has bits", lambda a, ranks, *rest: ranks["binary"].update(rank=5)),
        (
            "binary code",
            lambda a, r, taught, hits: taught["full"]["words_per_second"].update({"prediction, layer": 1e6}),
        ),
        ("the order looked for", lambda a, r, t, hits: hits.update(hybrid=share(0.36))),
        (
            "“two improvements to binary code prediction”",
            lambda a, r, t, hits: hits.update({"hybrid-correcting": share(0.05)}),
        ),
    ],
)
def test_every_sentence_can_fail(sentence, spoil):
    parts = made_up(**RIGHT)
    spoil(*parts)
    assert held(*parts)[sentence] is False


@pytest.mark.parametrize(
    "sentence, changes",
    [
        ("the order looked for", {"hybrid-correcting": 0.3}),  # as the hybrid
        ("the order looked for", {"hybrid-correcting": 0.30002}),
        ("“two improvements to binary code prediction”", {"full": 0.1}),
        ("“two improvements to binary code prediction”", {"full": 0.05}),  # both are closer to it, for they are worse
        ("“two improvements to binary code prediction”", {"full": 0.05, "hybrid-correcting": 0.06}),
        ("“two improvements to binary code prediction”", {"hybrid-correcting": 0.1}),
    ],
)
def test_of_what_does_not_differ_or_has_no_gap_nothing_is_said(sentence, changes):
    assert held(*made_up(**RIGHT | changes))[sentence] is None


def test_of_a_small_vocabulary_nobody_says_what_is_fast():
    assert held(*made_up(**RIGHT), vocab_size=400)["binary code"] is None


def test_more_is_two_standard_errors_of_the_differences():
    """Of 100 words n more are right: n / 100 with the error √(n/100 (1 − n/100) / 100): 2 errors for n = 4 / 1.04."""
    none = np.zeros(100)
    found = [demo.more(np.arange(100) < n, than=none) for n in (0, 3, 4)]
    assert found == [None, None, True] and demo.more(none, than=np.arange(100) < 4) is False


def test_of_layers_that_were_not_asked_for_nothing_is_said():
    assert len(held(*made_up(full=0.4))) == 4
    asked, _, taught, _ = made_up(full=0.4)
    assert demo.predicted(asked, taught)["perplexity_of_the_binary_code_over_the_full_softmaxs"] is None
    asked, _, taught, _ = made_up(**RIGHT)
    found = demo.predicted(asked, taught)
    assert found["perplexity_of_the_binary_code_over_the_full_softmaxs"] == pytest.approx(4.0)
    assert found["times_the_rows_of_class_based_softmax"] == pytest.approx(3.0) and found["words"] == [10_000, 100]


# ---- the demo as it is run ----------------------------------------------------------------------------------------


def size_of_png(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the script prints and leaves behind with --quick."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / "results.json").read_text("utf-8")), out


@pytest.mark.cpu
def test_it_leaves_tables_pictures_and_numbers(run):
    printed, results, out = run
    for title in ("Rows touched a word", "Rank of log P", "After 32 updates", "What is said, and what is found here"):
        assert title in printed
    assert size_of_png(out / "rows.png") == size_of_png(out / "perplexity.png") == (1600, 900)
    assert [one["name"] for one in results["layers"]] == list(demo.KINDS)
    assert all((one["perplexity"] is None) == (one["name"] == "embedding") for one in results["layers"])
    assert not results["stopped_early"]
    assert all(value is not None for value in results["predict"].values())


@pytest.mark.cpu
def test_the_numbers_of_rows_and_ranks_need_no_clock_and_hold(run):
    _, results, _ = run
    kept = {row["sentence"]: row["holds"] for row in results["verdicts"]}
    for sentence in list(kept)[:4]:
        assert kept[sentence], sentence


def test_only_the_layers_that_are_named_learn_and_without_probabilities_no_picture_stays(tmp_path, capsys):
    (tmp_path / "perplexity.png").write_bytes(b"of another run")
    device = mg.get_device().partition(":")[0].replace("cuda", "gpu")
    arguments = ["--quick", "--layers", "embedding", "--rates", "0.1", "--updates", "2"]
    demo.main([*arguments, "--device", device, "--out", str(tmp_path)])
    assert "in" in capsys.readouterr().out and not (tmp_path / "perplexity.png").exists()
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [one["name"] for one in results["layers"]] == ["embedding"] and results["size"]["updates"] == 2


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--quick", "--full"], "one of the two"),
        (["--rates", "0"], "--rates must be positive, got 0.0"),
        (["--updates", "0"], "--updates must be at least 1, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_flag(arguments, said, tmp_path):
    with pytest.raises(DemoError, match=said):
        demo.main([*arguments, "--out", str(tmp_path)])


@pytest.mark.cpu
def test_ctrl_c_shows_the_layers_that_are_done(tmp_path, monkeypatch, capsys):
    teach = demo.School.teach

    def interrupted(self, name, rates):
        found = teach(self, name, rates)
        signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(demo.School, "teach", interrupted)
    demo.main(["--quick", "--layers", "full", "binary", "--updates", "2", "--out", str(tmp_path)])
    assert "stopped early: of 2 layers 1 done, and shown" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [one["name"] for one in results["layers"]] == ["full"] and results["stopped_early"]


@pytest.mark.cpu
def test_ctrl_c_in_the_first_layer_leaves_the_answers_to_the_quizzes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        demo.School, "about", lambda self, name: (name == "full" and signal.raise_signal(signal.SIGINT)) or 0.1
    )
    (tmp_path / "perplexity.png").write_bytes(b"of another run")
    demo.main(["--quick", "--layers", "full", "binary", "--updates", "2", "--out", str(tmp_path)])
    assert "stopped early: of 2 layers 0 done" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert results["layers"] == [] and results["stopped_early"] and len(results["verdicts"]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "rows.png"]


def test_a_text_that_is_none_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "quiz", None)
    with pytest.raises(DemoError, match="nowhere"):
        demo.main(["--quick", "--corpus", str(tmp_path / "nowhere.txt"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
