"""The hybrid: a test for each numbered step of `losses.structured.hybrid`, and an oracle in torch."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from losses import BinaryCode, FullSoftmax, HybridCode
from losses.check import smallest_failure
from losses.samplers import zipf
from losses.structured.binary_code import PlainCode
from losses.structured.hybrid import IN_PYTORCH, hybrid_code, hybrid_code_loss
from losses.suites.hybrid import CHAPTER, mixed

from .properties import where_tensors_are_made
from .test_binary_code import all_codes, chances, contexts, rank

pytestmark = pytest.mark.binary
fewer = settings(max_examples=max(5, settings().max_examples // 4))  # where an example takes its time


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, where_tensors_are_made(hybrid_code), max_examples=40) is None


def layer_with(vocab_size, num_frequent, dim=4, seed=0, **options):
    """A layer of float64 with weights from −2 to 2."""
    layer = HybridCode(vocab_size, dim, num_frequent=num_frequent, key=mg.Key(seed), **options)
    for i, table in enumerate(layer.tables):
        if (old := getattr(layer, table)) is not None:
            setattr(layer, table, mg.param(4 * mg.Key(seed).fold(9, i).uniform(old.shape, "float64") - 2))
    return layer


def by_hand(layer, hidden):
    """P_S (B, N + 1); of the rare words' bits, unnormalised, (B, V − N); and the ranks of all words."""
    s, z = (of(mg.tensor(hidden)).numpy() for of in (layer.word_scores, layer.bit_scores))
    softmax = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    return softmax, chances(z, all_codes(layer.vocab_size - layer.num_frequent)), mg.to_cpu(layer.ranks)


sizes = st.integers(3, 40).flatmap(lambda v: st.tuples(st.just(v), st.integers(1, v - 2)))
targets_of = lambda layer, batch, seed: mg.Key(seed).integers(0, layer.vocab_size, batch)


# ---- (1): two decisions -------------------------------------------------------------------------------------------


@given(sizes, st.integers(0, 99))
def test_step_1_and_5_probabilities_are_those_of_the_softmax_and_of_the_code_within_other(size, seed):
    vocab_size, N = size
    layer = layer_with(vocab_size, N, seed=seed, counts=mg.Key(seed).uniform(vocab_size) + 0.1)
    softmax, code, ranks = by_hand(layer, contexts(3))
    rare = softmax[:, N:] * code / code.sum(axis=1, keepdims=True)
    expected = np.concatenate([softmax[:, :N], rare], axis=1)[:, ranks]
    found = layer.log_prob(contexts(3)).numpy()
    assert np.allclose(found, np.log(expected), rtol=0, atol=1e-12)
    assert np.allclose(np.exp(found).sum(axis=1), 1, rtol=0, atol=1e-12)


def test_step_1_the_frequent_words_are_the_most_frequent_whatever_their_ids():
    layer = HybridCode(6, 2, num_frequent=2, counts=[1, 9, 2, 3, 9, 4], key=mg.Key(0))
    assert layer.words.tolist() == [1, 4, 5, 3, 2, 0]
    places, bits = layer._places(mg.backend.asarray(np.arange(6)))
    assert places.tolist() == [2, 0, 2, 2, 1, 2]
    assert bits.tolist() == [[1, 1], [0, 0], [1, 0], [0, 1], [0, 0], [0, 0]]


# ---- (2) and (3): the loss and its gradient --------------------------------------------------------------------------


@pytest.mark.parametrize("bit_loss", ["cross_entropy", "squared"])
@fewer
@given(example=mixed(limit=4.0))
def test_step_3_gradients_are_right_to_second_order(bit_loss, example):
    words, z, places, bits = example
    options = {"places": mg.backend.asarray(places), "bits": mg.backend.asarray(bits), "bit_loss": bit_loss}
    mg.check_grads(lambda s, z: hybrid_code_loss(s, z, **options), words, z)


@given(sizes, st.integers(0, 99))
def test_step_2_and_5_the_loss_is_minus_log_prob_and_for_rare_words_minus_log_mass(size, seed):
    layer = layer_with(*size, seed=seed, counts=mg.Key(seed).uniform(size[0]) + 0.1)
    hidden, targets = contexts(6), targets_of(layer, 6, seed)
    _, code, ranks = by_hand(layer, hidden)
    rare = ranks[mg.to_cpu(targets)] >= layer.num_frequent
    expected = -layer.log_prob_of(hidden, targets).numpy() - np.where(rare, np.log(code.sum(axis=1)), 0)
    assert np.allclose(layer.loss(hidden, targets, reduction="none").numpy(), expected, rtol=1e-11, atol=1e-12)


def test_step_5_that_is_not_minus_log_prob_and_minus_log_z():
    """As it is for the code alone; here log_z is between the 0 of a frequent word and the log M of a rare one."""
    layer, targets = layer_with(9, 2, counts=np.arange(9, 0, -1)), [0, 1, 2, 5, 8]
    loss = layer.loss(contexts(), targets, reduction="none").numpy()
    less = -layer.log_prob_of(contexts(), targets).numpy() - loss
    frequent, rare, log_z = less[:2], less[2:], layer.log_z(contexts()).numpy()
    assert np.allclose(frequent, 0, atol=1e-12) and (log_z < -1e-6).all() and (rare < log_z[2:]).all()


def test_step_2_where_the_softmax_is_sure_of_other_it_is_the_binary_code():
    hybrid, code = layer_with(9, 1, counts=np.arange(9, 0, -1)), BinaryCode(8, 4, key=mg.Key(0))
    hybrid.bias = mg.param(np.array([-1000.0, 1000.0]))
    code.weight, code.bias = hybrid.bit_weight, hybrid.bit_bias
    targets = np.array([0, 7, 3, 3, 5])
    assert np.allclose(hybrid.loss(contexts(), targets + 1).item(), code.loss(contexts(), targets).item(), rtol=1e-12)
    assert np.allclose(hybrid.log_prob(contexts()).numpy()[:, 1:], code.log_prob(contexts()).numpy(), rtol=1e-12)


def test_step_2_of_frequent_words_it_is_a_softmax_with_a_word_more():
    hybrid, softmax = layer_with(9, 4, counts=np.arange(9, 0, -1)), FullSoftmax(5, 4, key=mg.Key(0))
    softmax.weight, softmax.bias = hybrid.weight, hybrid.bias
    targets = [0, 3, 1, 1, 2]
    assert np.allclose(hybrid.loss(contexts(), targets).item(), softmax.loss(contexts(), targets).item(), rtol=1e-12)


def test_step_3_a_batch_of_frequent_words_leaves_the_bits_as_they_are():
    layer = layer_with(9, 4, counts=np.arange(9, 0, -1))
    layer.loss(contexts(2), [0, 3]).backward()
    assert not mg.to_cpu(layer.bit_weight.grad).any() and not mg.to_cpu(layer.bit_bias.grad).any()
    layer.loss(contexts(2), [0, 4]).backward()
    assert mg.to_cpu(layer.bit_weight.grad).all() and mg.to_cpu(layer.weight.grad).all()


def test_step_3_bits_learn_their_probability_among_the_rare_words():
    """Of four words 0 is frequent; 1, 2, 3 have the numbers 00, 01, 10 and come 3, 1, 0 times."""
    layer = HybridCode(4, 1, num_frequent=1, counts=[9, 3, 2, 1], key=mg.Key(0))
    hidden, targets = np.ones((8, 1), "float32"), [0, 0, 0, 0, 1, 1, 1, 2]
    optimiser = mg.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(300):
        layer.loss(hidden, targets).backward()
        optimiser.step()
        optimiser.zero_grad()
    q = mg.sigmoid(layer.bit_scores(mg.tensor(hidden[:1]))).numpy()[0]
    assert q[0] < 0.02 and math.isclose(q[1], 1 / 4, abs_tol=0.01)
    assert math.isclose(math.exp(layer.log_prob(hidden[:1]).numpy()[0, 0]), 1 / 2, abs_tol=0.01)


# ---- (4) and (5): the mass ----------------------------------------------------------------------------------------


@given(sizes, st.integers(0, 99))
def test_step_4_the_probability_that_a_word_comes_out_is_less_what_lies_on_no_words_bits(size, seed):
    layer = layer_with(*size, seed=seed)
    softmax, code, _ = by_hand(layer, contexts(3))
    expected = 1 - softmax[:, -1] * (1 - code.sum(axis=1))
    assert np.allclose(np.exp(layer.log_z(contexts(3)).numpy()), expected, rtol=1e-12)


@pytest.mark.parametrize("vocab_size, num_frequent, full", [(20, 4, True), (20, 5, False)])
def test_step_4_the_code_has_numbers_for_the_rare_words_only(vocab_size, num_frequent, full):
    """16 rare words fill the numbers of 4 bits, and nothing is lost; 15 do not."""
    layer = layer_with(vocab_size, num_frequent)
    assert layer.codebook.num_words == vocab_size - num_frequent and layer.codebook.num_bits == 4
    assert np.allclose(layer.log_z(contexts()).numpy(), 0, atol=1e-12) == full


def test_step_5_that_a_word_is_rare_has_the_probability_of_other():
    layer = layer_with(20, 7, counts=np.arange(20, 0, -1))
    rare = np.exp(layer.log_prob(contexts()).numpy())[:, 7:].sum(axis=1)
    assert np.allclose(rare, by_hand(layer, contexts())[0][:, -1], rtol=1e-12)


# ---- (6): the best words ------------------------------------------------------------------------------------------


@given(sizes, st.integers(0, 99), st.data())
def test_step_6_the_best_words_are_those_of_the_highest_log_prob(size, seed, data):
    vocab_size, _ = size
    layer = layer_with(*size, seed=seed, counts=mg.Key(seed).uniform(vocab_size))
    k = data.draw(st.integers(1, vocab_size))
    ids, scores = map(mg.to_cpu, layer.topk(contexts(3), k))
    expected = layer.log_prob(contexts(3)).numpy()
    assert (ids == np.argsort(-expected, axis=1, kind="stable")[:, :k]).all()
    assert np.allclose(scores, np.take_along_axis(expected, ids, axis=1), rtol=0, atol=1e-12)


def test_step_6_where_nothing_is_known_the_most_frequent_words_come_first():
    layer = HybridCode(6, 2, num_frequent=2, key=mg.Key(0), counts=[1, 5, 2, 6, 3, 4])
    ids, scores = layer.topk(np.zeros((1, 2), "float32"), 6)
    assert ids.tolist() == [[3, 1, 5, 4, 2, 0]]
    assert np.allclose(np.exp(mg.to_cpu(scores)), [1 / 3, 1 / 3, 1 / 12, 1 / 12, 1 / 12, 1 / 12])


def test_step_6_other_may_be_the_best_place_and_a_frequent_word_the_best_word():
    """To decode in order would take one of eight rare words, each with an eighth of what "other" has."""
    layer = HybridCode(9, 1, num_frequent=1, key=mg.Key(0))
    layer.weight, layer.bit_weight = mg.param(np.zeros((2, 1))), mg.param(np.zeros((3, 1)))
    layer.bias, layer.bit_bias = mg.param(np.array([0.0, 0.1])), mg.param(np.zeros(3))
    s = layer.word_scores(mg.tensor(np.ones((1, 1)))).numpy()
    ids, scores = layer.topk(np.ones((1, 1)), 2)
    assert s.argmax() == layer.num_frequent and ids.tolist() == [[0, 1]]
    other = math.exp(0.1) / (1 + math.exp(0.1))
    assert np.allclose(np.exp(mg.to_cpu(scores)), [[1 - other, other / 8]], rtol=1e-12)


def test_step_6_no_more_rare_words_are_decoded_than_are_asked_for(monkeypatch):
    layer, asked = HybridCode(100_000, 3, num_frequent=50, key=mg.Key(0)), []
    best = layer.codebook.best
    monkeypatch.setattr(layer.codebook, "best", lambda z, k: asked.append(k) or best(z, k))
    monkeypatch.setattr(layer.codebook, "bits", None)
    assert layer.topk(mg.Key(1).normal((2, 3)), 4)[0].shape == (2, 4) and asked == [4]


# ---- (7): the rank ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frequent", [1, 5, 20])
def test_step_7_log_probabilities_have_the_rank_of_the_bits_and_of_the_frequent_words(num_frequent):
    layer = layer_with(40 + num_frequent, num_frequent, 40)
    assert layer.codebook.num_bits == 6
    assert rank(layer.log_prob(contexts(120, 40) / 4).numpy()) == num_frequent + 6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dim, num_frequent", [(4, 30), (10, 100), (3, 3)])
def test_step_7_and_d_plus_2_at_most_one_more_than_a_softmax(dim, num_frequent, bias):
    layer = layer_with(40 + num_frequent, num_frequent, dim, bias=bias)
    log_prob = layer.log_prob(contexts(160, dim)).numpy()
    assert rank(log_prob) == dim + bias + 1
    rare = mg.to_cpu(layer.words)[num_frequent:]
    assert rank(log_prob[:, rare]) == min(6, dim + bias), "among the rare words: the rank of the bits"


@pytest.mark.parametrize("num_frequent", [1, 4])
def test_step_7_n_more_is_meant_of_the_same_number_of_bits(num_frequent):
    """Of 33 words one needs 6 bits for all, and 5 for all but one: N + n is 6 both times."""
    assert BinaryCode(33, 2, key=mg.Key(0)).codebook.num_bits == 6
    layer = layer_with(33, num_frequent, 40)
    assert layer.codebook.num_bits == 5 and rank(layer.log_prob(contexts(120, 40) / 4).numpy()) == num_frequent + 5


def test_by_zipfs_law_the_512_most_frequent_of_65536_words_are_58_percent_of_a_text():
    counts = zipf(65_536)
    assert round(100 * sum(counts[:512]) / sum(counts)) == 58


# ---- cost, and what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_the_paper, outputs", [(512, 528), (2048, 2064)])
def test_cost_is_the_papers_count_of_outputs(of_the_paper, outputs):
    """Whose N has "other" in it; with N = 512 frequent words it is one row more."""
    layer = HybridCode(65_536, 2, num_frequent=of_the_paper - 1, key=mg.Key(0))
    assert layer.score_cost() == layer.score_cost(batch_size=64) == (outputs, outputs)
    assert sum(len(p.data) for p in (layer.weight, layer.bit_weight)) == outputs
    assert HybridCode(65_536, 2, num_frequent=of_the_paper, key=mg.Key(0)).score_cost() == (outputs + 1, outputs + 1)


@pytest.mark.parametrize("num_frequent", [0, -1, 5, 6, 7])
def test_frequent_words_that_leave_no_two_rare_ones_are_refused(num_frequent):
    message = r"losses.HybridCode: num_frequent must (be at least 1|lie in 1 to vocab_size − 2 = 4), got"
    with pytest.raises(ValueError, match=message):
        HybridCode(6, 2, num_frequent=num_frequent, key=mg.Key(0))


def test_two_words_are_too_few():
    with pytest.raises(ValueError, match=r"losses.HybridCode: vocab_size must be at least 3, .* got 2"):
        HybridCode(2, 3, num_frequent=1, key=mg.Key(0))


@pytest.mark.parametrize("num_frequent", [2.5, "two", None])
def test_a_number_of_frequent_words_that_is_none_is_refused(num_frequent):
    with pytest.raises(TypeError, match=r"losses.HybridCode: num_frequent must be an integer"):
        HybridCode(6, 2, num_frequent=num_frequent, key=mg.Key(0))


def test_an_unknown_loss_of_bits_is_refused():
    with pytest.raises(ValueError, match=r"losses.HybridCode: bit_loss must be .* got 'mse'"):
        HybridCode(9, 2, num_frequent=3, bit_loss="mse", key=mg.Key(0))


def test_any_codebook_will_do_and_is_made_for_the_rare_words():
    made = []
    HybridCode(9, 2, num_frequent=3, codebook=lambda n: made.append(n) or PlainCode(n), key=mg.Key(0))
    assert made == [6]


# ---- In PyTorch ---------------------------------------------------------------------------------------------------


def run_in_torch(torch, layer, hidden, ranks):
    imports, make, train = IN_PYTORCH.strip().split("\n\n")
    theirs = {"d": layer.dim, "N": layer.num_frequent, "n": layer.codebook.num_bits}
    theirs |= {"ranks": torch.tensor(ranks), "hidden": torch.tensor(hidden, requires_grad=True)}
    exec(imports + "\n" + make, theirs)
    for module, (weight, bias) in {"words": ("weight", "bias"), "code": ("bit_weight", "bit_bias")}.items():
        theirs[module].weight.data = torch.tensor(getattr(layer, weight).numpy())
        theirs[module].bias.data = torch.tensor(getattr(layer, bias).numpy())
    exec(train, theirs)
    return theirs


@pytest.mark.oracle
@pytest.mark.parametrize("size, batch, seed", [((3, 1), 1, 0), ((9, 4), 4, 1), ((20, 15), 3, 2), ((40, 2), 4, 3)])
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(size, batch, seed):
    torch = pytest.importorskip("torch")
    key = mg.Key(seed)
    layer = HybridCode(size[0], 3, num_frequent=size[1], key=key, counts=key.uniform(size[0]) + 0.1)
    for i, table in enumerate(layer.tables):
        setattr(layer, table, mg.param(key.fold(i).normal(getattr(layer, table).shape)))
    hidden, targets = mg.param(key.fold(7).normal((batch, 3))), targets_of(layer, batch, seed)
    ours = layer.loss(hidden, targets)
    ours.backward()
    theirs = run_in_torch(torch, layer, hidden.numpy(), mg.to_cpu(layer.ranks[targets]))

    assert math.isclose(ours.item(), theirs["loss"].item(), rel_tol=1e-5)
    words, code = theirs["words"], theirs["code"]
    pairs = zip(
        [hidden, layer.weight, layer.bias, layer.bit_weight, layer.bit_bias],
        [theirs["hidden"], words.weight, words.bias, code.weight, code.bias],
        strict=True,
    )
    for mine, other in pairs:
        assert np.allclose(mg.to_cpu(mine.grad), other.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.oracle
def test_in_pytorch_the_trap_a_batch_without_rare_words_has_a_mean_that_is_no_number():
    torch = pytest.importorskip("torch")
    of = functools.partial(torch.nn.functional.binary_cross_entropy_with_logits, torch.zeros(0, 3), torch.zeros(0, 3))
    assert math.isnan(of(reduction="mean").item()) and of(reduction="sum").item() == 0.0
    layer = HybridCode(9, 3, num_frequent=4, key=mg.Key(0))
    assert math.isfinite(run_in_torch(torch, layer, np.ones((2, 3), "float32"), np.array([0, 3]))["loss"].item())
