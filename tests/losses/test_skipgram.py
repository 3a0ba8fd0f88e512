"""The skip-gram kernel: equal, update by update, to the layer and the optimiser it shortcuts; and its mutants."""

import importlib.util
import inspect
import math
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import NegativeSampling, kernels
from losses.skipgram import held_out_loss, learn, learn_naive

pytestmark = [pytest.mark.skipgram, pytest.mark.cpu]

OPTIMISERS = {
    "SGD": mg.optim.SGD,
    "Adagrad": mg.optim.Adagrad,
    "Adagrad with a large ε": lambda params, lr: mg.optim.Adagrad(params, lr, eps=0.5),
}
each_optimiser = pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)


def model_of(vocab_size, dim, k, optimiser=mg.optim.SGD, dtype="float64", seed=0):
    layer = NegativeSampling(vocab_size, dim, key=mg.Key(seed), k=k, shared=k, bias=False)
    layer.weight = mg.param(mg.Key(seed).fold(1).normal((vocab_size, dim), dtype))
    vectors = mg.param(mg.Key(seed).fold(2).normal((vocab_size, dim), dtype))
    optimiser = optimiser([layer.weight, vectors], lr=1.0)
    for sums in getattr(optimiser, "sums", []):
        sums += 0.25  # a history: a first step, g / |g|, would make a whole number of what is only rounding
    return SimpleNamespace(vectors=vectors, layer=layer, optimiser=optimiser)


def state_of(model):
    """All that an update may change, by name: copies."""
    return {
        "vectors": model.vectors.numpy().copy(),
        "outputs": model.layer.weight.numpy().copy(),
        **model.optimiser.state_dict(),
    }


def text_of(ids, sentence=None, reach=2, noise=None, rates=0.1, vocab_size=4):
    """The arguments of `learn` that tell of the text; noise: one list of words for all places."""
    n = len(ids)
    noise = [0] if noise is None else noise
    return {
        "ids": np.array(ids),
        "sentence": np.array([0] * n if sentence is None else sentence),
        "reach": np.full(n, reach),
        "noise": np.tile(np.array(noise), (n, 1)),
        "rates": np.full(n, rates),
    }


@st.composite
def texts(draw):
    """Strategy: (V, d, k, arguments of `learn`): few words, so that all sorts of repetitions are common."""
    vocab_size, k, n = draw(st.integers(2, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 10))
    dim = draw(st.sampled_from([1, 3, 16, 37, 70]))
    some = lambda low, high, size: np.array(draw(st.lists(st.integers(low, high), min_size=size, max_size=size)))
    noise = some(0, vocab_size - 1, n * k).reshape(n, k)
    rates = some(1, 8, n) / 16
    text = {"ids": some(0, vocab_size - 1, n), "sentence": np.cumsum(some(0, 4, n) == 4), "reach": some(0, 4, n)}
    return vocab_size, dim, k, text | {"noise": noise, "rates": rates}


def agree(found, expected, rtol):
    for name in expected:
        difference = np.abs(np.asarray(found[name]) - expected[name]).max()
        assert difference <= rtol * (1 + np.abs(expected[name]).max()), f"{name} differ by {difference}"


def updates_are_those_of_layer_and_optimiser(example, optimiser, dtype, rtol):
    """Place after place: from the same state, both ways arrive at the same state."""
    vocab_size, dim, k, text = example
    ours, theirs = (model_of(vocab_size, dim, k, optimiser, dtype) for _ in range(2))
    for i in range(len(text["ids"])):
        pairs = learn(*vars(ours).values(), **text, places=range(i, i + 1))
        before = theirs.optimiser.lr
        assert pairs == learn_naive(*vars(theirs).values(), **text, places=range(i, i + 1))
        if not pairs:
            theirs.optimiser.lr, ours.optimiser.lr = before, before
        agree(state_of(ours), state_of(theirs), rtol)
        theirs.vectors.data, theirs.layer.weight.data = ours.vectors.data.copy(), ours.layer.weight.data.copy()
        theirs.optimiser.load_state_dict(ours.optimiser.state_dict())


# ---- the proof ----------------------------------------------------------------------------------------------------


@each_optimiser
@given(example=texts())
def test_every_update_is_that_of_layer_and_optimiser_in_float64(optimiser, example):
    updates_are_those_of_layer_and_optimiser(example, optimiser, "float64", 1e-12)


@each_optimiser
@given(example=texts())
def test_every_update_is_that_of_layer_and_optimiser_in_float32(optimiser, example):
    updates_are_those_of_layer_and_optimiser(example, optimiser, "float32", 1e-5)


@each_optimiser
@given(example=texts())
def test_a_whole_text_is_its_places_one_after_the_other(optimiser, example):
    vocab_size, dim, k, text = example
    ours, theirs = (model_of(vocab_size, dim, k, optimiser) for _ in range(2))
    assert learn(*vars(ours).values(), **text) == learn_naive(*vars(theirs).values(), **text)
    found, expected = state_of(ours), state_of(theirs)
    agree({**found, "lr": 0}, {**expected, "lr": 0}, 1e-9)


@each_optimiser
@given(example=texts(), cut=st.integers(0, 10))
def test_a_text_may_be_learned_in_parts_to_the_last_bit(optimiser, example, cut):
    vocab_size, dim, k, text = example
    n = len(text["ids"])
    whole, parts = (model_of(vocab_size, dim, k, optimiser, "float32") for _ in range(2))
    learn(*vars(whole).values(), **text)
    for places in (range(min(cut, n)), range(min(cut, n), n)):
        learn(*vars(parts).values(), **text, places=places)
    assert all(np.array_equal(a, b) for a, b in zip(state_of(whole).values(), state_of(parts).values()))


# ---- what an update touches -----------------------------------------------------------------------------------------


def test_step_2_the_centre_is_the_target_and_contexts_give_the_vectors():
    """gensim's way round: of a text "0 1" whose reach is 0 at place 1, only the vector of word 1 and outputs move."""
    model = model_of(3, 2, 1)
    before = state_of(model)
    learn(*vars(model).values(), **text_of([0, 1], noise=[2]) | {"reach": np.array([1, 0])})
    moved = {
        name: np.flatnonzero((state_of(model)[name] != before[name]).any(axis=1)) for name in ("vectors", "outputs")
    }
    assert moved["vectors"].tolist() == [1] and moved["outputs"].tolist() == [0, 2]


def test_the_optimiser_counts_the_updates_and_keeps_the_last_rate():
    model = model_of(4, 2, 1)
    text = text_of([0, 1, 2, 3], sentence=[0, 0, 1, 2]) | {"rates": np.array([0.4, 0.3, 0.2, 0.1])}
    assert learn(*vars(model).values(), **text) == 2
    assert model.optimiser.steps == [2, 2] and model.optimiser.lr == 0.1


def test_the_tape_notices_that_the_values_changed():
    model = model_of(4, 2, 1)
    y = (model.vectors * model.vectors).sum()
    learn(*vars(model).values(), **text_of([0, 1, 2]))
    with pytest.raises(RuntimeError, match=r"updated|changed"):
        y.backward()


def test_a_key_draws_the_noise_that_the_layer_draws_with_its_first_fold():
    ours, theirs = model_of(50, 8, 3), model_of(50, 8, 3)
    text, key = text_of(list(range(50)) * 10), mg.Key(7)
    learn(*vars(ours).values(), **text | {"noise": key})
    learn(*vars(theirs).values(), **text | {"noise": theirs.layer.draw(key.fold(0), 1, 500)})
    assert all(np.array_equal(a, b) for a, b in zip(state_of(ours).values(), state_of(theirs).values()))


# ---- σ in float32 ---------------------------------------------------------------------------------------------------


def gradients_at(scores, dtype):
    """σ(s) of each score, as the kernel has it: the gradient that a noise row receives for a context of length 2³⁰.

    Words 0 and 1 make pairs; noise rows 2, 3, … lie so that their scores are the given ones.
    """
    size = 2.0**30
    model = model_of(2 + len(scores), 1, len(scores), dtype=dtype)
    model.vectors.data = np.full((2 + len(scores), 1), size, dtype)
    model.layer.weight.data = np.concatenate([[0.0, 0.0], scores / size]).astype(dtype)[:, None]
    before = model.layer.weight.numpy().astype("float64").copy()
    text = text_of([0, 1], noise=list(range(2, 2 + len(scores))), rates=1 / size)
    learn(*vars(model).values(), **text, places=range(1))
    return (before - model.layer.weight.numpy())[2:, 0]


def sigma_of(score, dtype):
    """σ(s) of one score: what a context at (1, 0) loses at η = 1 along the second axis, its noise word being (s, 1)."""
    model = model_of(3, 2, 1, dtype=dtype)
    model.vectors.data = np.array([[0, 0], [1, 0], [0, 0]], dtype)
    model.layer.weight.data = np.array([[0, 0], [0, 0], [score, 1]], dtype)
    learn(*vars(model).values(), **text_of([0, 1], noise=[2], rates=1.0), places=range(1))
    return -float(model.vectors.numpy()[1, 1])


@pytest.mark.parametrize("dtype, unit", [("float32", 2.0**-24), ("float64", 2.0**-50)])
def test_sigma_is_off_by_no_more_than_said_where_it_is_very_small(dtype, unit):
    for score in np.linspace(-87, -1, 400).astype(dtype):
        exact = 1 / (1 + np.exp(-np.float64(score)))
        assert abs(sigma_of(score, dtype) - exact) <= (4 + 1.25 * abs(score)) * unit * exact


@pytest.mark.parametrize("dtype, unit", [("float32", 2.0**-24), ("float64", 2.0**-50)])
def test_sigma_is_off_by_no_more_than_said(dtype, unit):
    scores = np.concatenate([np.linspace(-14, 14, 2001), [0.0, 1e-8, 30.0, 80.0, 1e4]]).astype(dtype)
    found, exact = gradients_at(scores, dtype), 1 / (1 + np.exp(-scores.astype("float64")))
    rounding_of_the_row = np.abs(scores) * 2.0**-30 * unit
    assert (np.abs(found - exact) <= (4 + 1.25 * np.abs(scores)) * unit * exact + rounding_of_the_row).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigma_far_out_is_neither_nan_nor_negative(dtype):
    scores = np.array([-1e30, -1e4, -127.0, -88.0, -80.0], dtype)
    found = gradients_at(scores, dtype)
    assert ((0 <= found) & (found < 1e-30 + 1e-7 * abs(scores) / 2**30)).all()


# ---- threads ------------------------------------------------------------------------------------------------------


def pairs_of_groups(n, key):
    """A text in which words 0 … 9 stand only beside each other, and 10 … 19, 20 … 29 likewise; six a sentence."""
    sentence = np.arange(n) // 6
    return 10 * (sentence % 3) + key.integers(0, 10, n), sentence


@each_optimiser
def test_two_threads_without_locks_learn_nearly_as_well_as_one(optimiser):
    (ids, sentence), n = pairs_of_groups(30_000, mg.Key(1)), 30_000
    losses = {}
    for threads in (1, 2, 5):
        model = model_of(30, 16, 3, optimiser, "float32")
        model.vectors.data = model.vectors.data / 16
        model.layer.weight.data = model.layer.weight.data * 0
        text = {"ids": ids, "sentence": sentence, "reach": np.full(n, 2), "rates": np.full(n, 0.05)}
        pairs = learn(*vars(model).values(), **text, noise=mg.Key(2), threads=threads)
        assert pairs == learn(*vars(model).values(), **text, noise=mg.Key(3))
        same = sentence[1:] == sentence[:-1]
        noise = model.layer.sampler.sample(mg.Key(4), (same.sum(), 3))
        losses[threads] = held_out_loss(
            model.vectors.data, model.layer.weight.data, ids[1:][same], ids[:-1][same], noise
        )
    assert losses[1] < 0.85 * 4 * math.log(2), "it has learned something"
    assert abs(losses[2] - losses[1]) < 0.05 * losses[1] and abs(losses[5] - losses[1]) < 0.05 * losses[1]


def test_more_threads_than_places_are_no_harm():
    one, many = model_of(4, 2, 1), model_of(4, 2, 1)
    text = text_of([0, 1])
    assert learn(*vars(one).values(), **text) == learn(*vars(many).values(), **text, threads=7) == 2


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"ids": np.array([0, 4])}, IndexError, r"ids must lie in \[0, 4\), got 4"),
        ({"ids": np.array([0.0, 1.0])}, TypeError, r"ids must be integers, got float64"),
        ({"noise": np.array([[0], [-1]])}, IndexError, r"noise must lie in \[0, 4\), got -1"),
        ({"noise": np.array([0, 1])}, ValueError, r"noise must have shape \[2, 1\], got \[2\]"),
        ({"reach": np.array([1, -1])}, ValueError, r"reach must be 0 or more, got -1"),
        ({"reach": np.array([1])}, ValueError, r"reach must have shape \[2\], got \[1\]"),
        ({"rates": np.array([0.1])}, ValueError, r"rates must have shape \[2\], got \[1\]"),
        ({"sentence": np.array([0, 0, 0])}, ValueError, r"sentence must have shape \[2\], got \[3\]"),
        ({"places": range(1, 3)}, IndexError, r"places must be a range within 0 … 2, got range\(1, 3\)"),
        ({"places": range(0, 2, 2)}, IndexError, r"places must be a range within 0 … 2"),
        ({"threads": 0}, ValueError, r"threads must be at least 1, got 0"),
        ({"threads": 1.5}, TypeError, r"threads must be an integer, got float 1.5"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_and_nothing_is_learned(change, error, message):
    model = model_of(4, 2, 1)
    before = state_of(model)
    with pytest.raises(error, match=rf"losses.skipgram.learn: {message}"):
        learn(*vars(model).values(), **text_of([0, 1]) | change)
    assert all(np.array_equal(a, b) for a, b in zip(state_of(model).values(), before.values()))


def with_bias(model):
    model.layer.bias = mg.param(np.zeros(4, "float32"))


def with_noise_of_each_pair(model):
    model.layer.shared = None


def with_other_vectors(model):
    model.vectors = mg.param(np.zeros((4, 3)))


def with_columns(model):
    model.vectors._data = np.asfortranarray(model.vectors.data)


def with_momentum(model):
    model.optimiser = mg.optim.SGD([model.vectors, model.layer.weight], lr=0.1, momentum=0.9)


def with_adam(model):
    model.optimiser = mg.optim.Adam([model.vectors, model.layer.weight])


def with_one_parameter(model):
    model.optimiser = mg.optim.SGD([model.vectors], lr=0.1)


@pytest.mark.parametrize(
    "change, message",
    [
        (with_bias, "bias=False and shared=k"),
        (with_noise_of_each_pair, "bias=False and shared=k.*shared=None"),
        (with_other_vectors, "vectors must be a tensor like the layer's weights"),
        (with_columns, "vectors must be float32 or float64 on the CPU, row by row"),
        (with_momentum, "SGD without momentum, or Adagrad"),
        (with_adam, "SGD without momentum, or Adagrad"),
        (with_one_parameter, r"the optimiser must be one of \[vectors, layer.weight\]"),
    ],
)
def test_a_model_that_the_kernel_cannot_learn_is_refused(change, message):
    model = model_of(4, 2, 1)
    change(model)
    with pytest.raises((TypeError, ValueError), match=f"losses.skipgram.learn: .*{message}"):
        learn(*vars(model).values(), **text_of([0, 1]))


def test_an_empty_text_is_nothing_to_learn():
    model = model_of(4, 2, 1)
    text = text_of([0, 1])
    assert learn(*vars(model).values(), **text, places=range(0)) == 0
    assert learn(*vars(model).values(), **{name: array[:0] for name, array in text.items()}) == 0


# ---- sabotage: a wrong line in the kernel, and the example that must not let it pass --------------------------------

EXAMPLES = {
    "the centre is right, the noise is wrong": text_of([0, 1], noise=[2, 3]),
    "both products take the old values": text_of([0, 1, 2], noise=[3]),
    "a context that occurs twice counts twice": text_of([1, 0, 1], noise=[3]),
    "noise that hits the target counts": text_of([0, 1], noise=[0, 1]),
    "noise that is drawn twice counts twice": text_of([0, 1], noise=[2, 2]),
    "sentences end": text_of([0, 1, 2, 3], sentence=[0, 0, 1, 1]),
    "a window reaches as far as said": text_of([0, 1, 2, 3], reach=1),
    "each place has its rate": text_of([0, 1, 2]) | {"rates": np.array([0.1, 0.2, 0.4])},
    "each place has its noise": text_of([0, 1, 2]) | {"noise": np.array([[0], [3], [1]])},
    "a place with fewer contexts has nothing left of the last": text_of([0, 1, 2, 3], sentence=[0, 0, 0, 1])
    | {"ids": np.array([0, 1, 2, 3, 1, 2]), "sentence": np.array([0, 0, 0, 0, 1, 1]), "reach": np.full(6, 3)}
    | {"noise": np.zeros((6, 1), int), "rates": np.full(6, 0.1)},
}
each_example = pytest.mark.parametrize("name", EXAMPLES)


def holds(name, optimiser):
    """Whether the kernel learns from this example what layer and optimiser do."""
    text = EXAMPLES[name]
    ours, theirs = (model_of(4, 3, text["noise"].shape[1], optimiser) for _ in range(2))
    learn(*vars(ours).values(), **text)
    learn_naive(*vars(theirs).values(), **text)
    try:
        agree(state_of(ours), state_of(theirs), 1e-10)
    except AssertionError:
        return False
    return True


@each_example
@each_optimiser
def test_by_example(name, optimiser):
    assert holds(name, optimiser)


SOURCE = inspect.getsource(kernels)
MUTANTS = {
    "label flipped": (
        "G[a, 0] = -G[a, 0]  # σ(s) − 1",
        "pass  # σ(s) − 1",
        "the centre is right, the noise is wrong",
    ),
    "new values in ∂L/∂O": (
        "            sgd(outputs,",
        "            gather(vectors, inputs, m, H)\n            sgd(outputs,",
        "both products take the old values",
    ),
    "new values in ∂L/∂O, Adagrad": (
        "            adagrad(outputs,",
        "            gather(vectors, inputs, m, H)\n            adagrad(outputs,",
        "both products take the old values",
    ),
    "an equal context counted once": (
        "            add_weighted(table[ids[i]], -lr",
        "            if ids[i] in ids[:i]:\n                continue\n            add_weighted(table[ids[i]], -lr",
        "a context that occurs twice counts twice",
    ),
    "an equal context overwritten": (
        "weights[first, j] += weights[i, j]",
        "weights[first, j] = weights[i, j]",
        "a context that occurs twice counts twice",
    ),
    "equal words squared apart": ("if first < i:", "if False:", "noise that is drawn twice counts twice"),
    "a hit dropped": (
        "                GT[b, a] = G[a, b]\n",
        "                G[a, b] *= b == 0 or targets[b] != targets[0]\n                GT[b, a] = G[a, b]\n",
        "noise that hits the target counts",
    ),
    "sentence boundary crossed": (" and sentence[j] == sentence[i]", "", "sentences end"),
    "window one short on the right": ("i + reach[i] + 1", "i + reach[i]", "a window reaches as far as said"),
    "window one short on the left": ("i - reach[i])", "i - reach[i] + 1)", "a window reaches as far as said"),
    "window one too far": ("i - reach[i])", "i - reach[i] - 1)", "a window reaches as far as said"),
    "the centre its own context": ("if j != i and", "if", "a window reaches as far as said"),
    "one rate for all": ("rates[i]", "rates[begin]", "each place has its rate"),
    "one noise for all": ("noise[i - begin, j]", "noise[0, j]", "each place has its noise"),
    "rows of an older place": (
        "GT[b, a] = zero",
        "pass",
        "a place with fewer contexts has nothing left of the last",
    ),
}


@pytest.mark.parametrize("right, wrong, name", MUTANTS.values(), ids=MUTANTS)
def test_no_wrong_kernel_passes_the_example_named_for_it(tmp_path, right, wrong, name):
    assert SOURCE.count(right) == 1, "the line that this mutant breaks is no longer there"
    file = Path(tmp_path / "mutant.py")
    file.write_text(SOURCE.replace(right, wrong), "utf-8")
    spec = importlib.util.spec_from_file_location("mutant", file)
    mutant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutant)
    with mock.patch.object(kernels, "skipgram", mutant.skipgram.__wrapped__), np.errstate(all="ignore"):
        assert not all(holds(name, optimiser) for optimiser in OPTIMISERS.values())


@each_example
def test_the_kernel_uncompiled_passes_every_example(name):
    """So what kills a mutant is the mutation, not that it runs as plain Python."""
    with mock.patch.object(kernels, "skipgram", kernels.skipgram.__wrapped__):
        assert all(holds(name, optimiser) for optimiser in OPTIMISERS.values())
