"""What holds for every output layer, whatever its chapter: noise of its own or shared, with a bias or without.

A layer is a name and a function `make(vocab_size, dim, *, counts=None, key, bias=True)`: whoever writes another adds
a line to `LAYERS`, and has all of this.
"""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import losses
import minigrad as mg
from losses.layer import of_scores
from losses.sampled.hard import margin_loss
from losses.sampled.importance import importance_sampling
from losses.sampled.in_batch import in_batch_softmax
from losses.sampled.nce import nce
from losses.sampled.negative import negative_sampling
from losses.sampled.ranking import sampled_softmax
from losses.samplers import GumbelTopK, Unigram, Unique, zipf
from losses.softmax import softmax_cross_entropy
from losses.structured.adaptive import adaptive_softmax_loss
from losses.structured.binary_code import binary_code
from losses.structured.class_based import class_softmax
from losses.structured.error_correcting import ConvolutionalCode
from losses.structured.hierarchical import hierarchical_softmax
from losses.structured.hybrid import hybrid_code
from losses.structured.von_mises_fisher import von_mises_fisher
from minigrad.check import tensors

pytestmark = pytest.mark.layers


def sampled(kind, sampler=None, **options):
    """A layer of `kind` with its noise from `sampler(counts)`."""

    def make(vocab_size, dim, *, counts=None, k=3, **more):
        counts = zipf(vocab_size) if counts is None else counts
        chosen = {} if sampler is None else {"sampler": sampler(counts)}
        return kind(vocab_size, dim, counts=counts, k=k, **options, **chosen, **more)

    return make


def directions(n, dim):
    """Unit vectors, (n, dim)."""
    vectors = np.random.default_rng(5).normal(size=(n, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


CONVOLUTIONAL = partial(ConvolutionalCode, memory=2)


def unique(counts):
    return Unique(Unigram(counts, 1.0))


KINDS = {
    "importance sampling": partial(sampled, losses.ImportanceSampling),
    "sampled softmax": partial(sampled, losses.SampledSoftmax),
    "sampled softmax, hits masked": partial(sampled, losses.SampledSoftmax, mask_hits=True),
    "sampled softmax, unique": partial(sampled, losses.SampledSoftmax, unique),
    "sampled softmax, Gumbel": partial(sampled, losses.SampledSoftmax, GumbelTopK),
    "NCE": partial(sampled, losses.NCE),
    "negative sampling": partial(sampled, losses.NegativeSampling),
}
SAMPLED = {name: kind() for name, kind in KINDS.items()} | {
    f"{name}, shared": kind(shared=True) for name, kind in KINDS.items()
}
OTHERS = {  # which draw nothing
    "softmax": losses.FullSoftmax,
    "softmax in chunks": partial(losses.FullSoftmax, chunk=2),
    "in-batch": losses.InBatchSoftmax,
    "in-batch, repeats masked": partial(losses.InBatchSoftmax, mask_repeats=True),
    "hard negatives": partial(losses.HardNegatives, n=3),
}
STRUCTURED = {  # whose words have no row of their own
    "class-based": losses.ClassSoftmax,
    "class-based, two classes": lambda v, d, **o: losses.ClassSoftmax(v, d, classes=np.arange(v) % 2, **o),
    "hierarchical": losses.HierarchicalSoftmax,
    "hierarchical, balanced": partial(losses.HierarchicalSoftmax, tree="balanced"),
    "adaptive": losses.AdaptiveSoftmax,
    "adaptive, two clusters": lambda v, d, **o: losses.AdaptiveSoftmax(
        v, d, cutoffs=[v // 3, 2 * v // 3], div_value=2, **o
    ),
    "binary code": losses.BinaryCode,
    "binary code, squared": partial(losses.BinaryCode, bit_loss="squared"),
    "hybrid": partial(losses.HybridCode, num_frequent=2),
    "hybrid, error-correcting": partial(losses.HybridCode, num_frequent=2, codebook=CONVOLUTIONAL),
    "error-correcting": partial(losses.ErrorCorrectingCode, memory=2),
    "von Mises-Fisher": lambda v, d, **o: losses.VonMisesFisher(v, d, embeddings=directions(v, 5), **o),
    "von Mises-Fisher, plain": lambda v, d, **o: losses.VonMisesFisher(
        v, d, embeddings=directions(v, 5), lambda_1=0.0, lambda_2=1.0, **o
    ),
}
ROWS = SAMPLED | OTHERS  # who have a row a word
LAYERS = ROWS | STRUCTURED
SPARSE = {name: make for name, make in ROWS.items() if not name.startswith("softmax")}  # which look at some rows only


def each(layers):
    return pytest.mark.parametrize("make", layers.values(), ids=layers)


each_layer, each_sampled, each_sparse = each(LAYERS), each(SAMPLED), each(SPARSE)
V, D, KEY = 6, 3, mg.Key(1)
B, TARGETS = 5, [2, 0, 2, 5, 2]  # ids are repeated, and with k = 3 of V = 6 some are among the noise


def uneven(vocab_size):
    """Zipf's law, but not in the order of the ids: a rank that is taken for an id is another word."""
    return np.array(zipf(vocab_size))[mg.to_cpu(mg.Key(4).uniform(vocab_size)).argsort()]


def with_weights(make, vocab_size=V, dim=D, dtype="float64", *, counts=None, **options):
    """A layer with weights and biases from −1 to 1, so that scores differ. counts: `uneven` if none are given."""
    layer = make(vocab_size, dim, counts=uneven(vocab_size) if counts is None else counts, key=KEY, **options)
    for i, name in enumerate(learned(layer)):
        setattr(layer, name, mg.param(2 * KEY.fold(i).uniform(getattr(layer, name).shape, dtype) - 1))
    return layer


def learned(layer):
    """The names of its parameters."""
    return [name for name in layer.tables if getattr(layer, name) is not None]


def contexts(batch=B, dim=D, dtype="float64"):
    return mg.param(mg.Key(8).normal((batch, dim), dtype))


def written_out(gradient):
    return mg.to_cpu(gradient.dense() if isinstance(gradient, mg.Rows) else gradient)


def called(layer):
    """How errors name it."""
    return f"losses.{type(layer).__name__}"


# ---- gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@each_layer
def test_the_gradient_is_the_slope_of_the_loss_in_every_direction(make, bias):
    """Central differences, a number at a time; ids occur twice, and targets are among the noise."""
    layer, hidden, h = with_weights(make, bias=bias), contexts(), 1e-6
    layer.loss(hidden, TARGETS, key=KEY).backward()
    for p in [hidden, *layer.parameters()]:
        found, before = written_out(p.grad), mg.to_cpu(p.data)
        for place in np.ndindex(*p.shape):
            sides = []
            for step in (h, -h):
                moved = before.copy()
                moved[place] += step
                p.data = mg.backend.asarray(moved)
                sides.append(layer.loss(hidden, TARGETS, key=KEY).item())
            p.data = mg.backend.asarray(before)
            slope = (sides[0] - sides[1]) / (2 * h)
            assert math.isclose(found[place], slope, rel_tol=1e-6, abs_tol=1e-8), (p.shape, place)


@each_sampled
def test_among_the_noise_of_that_test_is_a_target(make):
    layer = with_weights(make)
    noise = mg.to_cpu(layer._draw(KEY, layer._noise_shape(len(TARGETS)))[0])
    assert np.isin(noise if noise.ndim == 1 else noise[np.array(TARGETS) == 0], TARGETS).any()


def logs(n):
    return mg.backend.asarray(np.log(np.arange(1.0, n + 1) / (n + 1)))


def hits(scores):
    """One column of each row that has several."""
    n, m = scores.shape
    return mg.backend.asarray((np.arange(m) == np.arange(n)[:, None] % m) & (m > 1))


def one_word_more_each(n):
    """For n examples: their classes have 1, 2, …, n words, of which the last is the target."""
    i = np.arange(n)
    options = {"target_class": 0 * i, "target_word": i, "sizes": i + 1}
    return {name: mg.backend.asarray(value) for name, value in options.items()}


def turns(shape):
    """To the first child, to the second, and no node, in turn."""
    return mg.backend.asarray(np.resize(np.array([1, -1, 0], "int8"), shape))


def odd(batch, n):
    """Bits (B, n), by turns 0 and 1, both ways."""
    return mg.backend.asarray((np.arange(batch)[:, None] + np.arange(n)) % 2)


PURE = {  # a function of (B,) and (B, n) scores, or of one kind of scores, with what the sampler says
    "softmax": lambda t, n: of_scores(lambda s: softmax_cross_entropy(s, mg.backend.asarray([0] * len(s))))(n),
    "importance sampling": lambda t, n: of_scores(importance_sampling)(t, n, log_count_noise=logs(n.shape[1])),
    "sampled softmax": lambda t, n: of_scores(sampled_softmax)(
        t, n, log_count_target=logs(len(t)), log_count_noise=logs(n.shape[1])
    ),
    "sampled softmax, hits masked": lambda t, n: of_scores(sampled_softmax)(
        t, n, log_count_target=logs(len(t)), log_count_noise=logs(n.shape[1]), hits=hits(n)
    ),
    "NCE": lambda t, n: of_scores(nce)(t, n, log_kq_target=logs(len(t)), log_kq_noise=logs(n.shape[1]), k=7),
    "negative sampling": lambda t, n: of_scores(negative_sampling)(t, n, k=7),
    "in-batch": lambda t, n: of_scores(in_batch_softmax)(n @ n.T, log_q=logs(len(t))),
    "in-batch, repeats masked": lambda t, n: of_scores(in_batch_softmax)(
        n @ n.T, log_q=logs(len(t)), repeats=mg.backend.asarray(np.eye(len(t), k=1) > 0)
    ),
    "hard negatives": lambda t, n: of_scores(margin_loss)(t, n, margin=0.25),
    "adaptive": lambda t, n: adaptive_softmax_loss(  # the words of n, and one cluster, in which the first target lies
        mg.concat([n, t[:, None]], axis=1),
        n[:1],
        targets=mg.backend.asarray([n.shape[1]] + [0] * (len(t) - 1)),
        cutoffs=[n.shape[1]],
    ),
    "class-based": lambda t, n: of_scores(class_softmax)(n, n @ n.T, **one_word_more_each(len(t))),
    "hierarchical": lambda t, n: of_scores(hierarchical_softmax)(n, turns=turns(n.shape)),
    "binary code": lambda t, n: of_scores(binary_code)(n, bits=odd(*n.shape)),
    "binary code, squared": lambda t, n: of_scores(binary_code)(n, bits=odd(*n.shape), bit_loss="squared"),
    "hybrid": lambda t, n: of_scores(hybrid_code)(  # every other target is rare
        n, mg.reshape(t, (len(t), 1)), places=(n.shape[1] - 1) * odd(len(t), 1)[:, 0], bits=odd(len(t), 1)
    ),
    "von Mises-Fisher": lambda t, n: of_scores(von_mises_fisher)(
        n, embeddings=mg.backend.asarray(directions(*n.shape)), lambda_2=0.5
    ),
}


@pytest.mark.parametrize("pure", PURE.values(), ids=PURE)
@given(noise=tensors(min_dims=2, max_dims=2, unique=True), equal=st.booleans())
def test_the_pure_function_has_the_derivatives_it_says_to_second_order(pure, noise, equal):
    """By complex step, where the function is analytic. equal: the columns hold one word again and again."""
    noise = noise.data[:, :1] + 0.0 * noise.data if equal else noise.data
    mg.check_grads(pure, 1.1 * noise[:, 0] + 0.125, noise)


# ---- rows -------------------------------------------------------------------------------------------------------


def looked_at(layer, hidden, targets):
    """The ids of the rows that a loss with `KEY` has to look at, at most."""
    if isinstance(layer, losses.HardNegatives):
        found = mg.to_cpu(layer.topk(hidden, layer.n + 1)[0]).tolist()  # of which the target may be one
        return {*targets, *(w for t, ws in zip(targets, found) for w in [w for w in ws if w != t][: layer.n])}
    if isinstance(layer, losses.InBatchSoftmax):
        return set(targets)
    return {*targets, *layer._draw(KEY, layer._noise_shape(len(targets)))[0].ravel().tolist()}


@pytest.mark.parametrize("optimiser", [mg.optim.SGD, mg.optim.Adagrad, mg.optim.Adam])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@each_sparse
def test_a_step_touches_the_rows_looked_at_and_leaves_the_others_as_they_are_to_the_last_bit(make, bias, optimiser):
    layer, hidden, targets = with_weights(make, 50, bias=bias), contexts(), [9, 40, 9, 3, 11]
    rows = looked_at(layer, hidden, targets)
    others = np.setdiff1d(np.arange(50), list(rows))
    before = [p.numpy().copy() for p in layer.parameters()]
    layer.loss(hidden, targets, key=KEY).backward()
    for p in layer.parameters():
        found = set(p.grad.ids.tolist())
        assert isinstance(p.grad, mg.Rows) and {*targets} <= found <= rows
        assert found == rows or isinstance(layer, losses.HardNegatives), "of whom one may be found, but not be needed"
    optimiser(layer.parameters(), lr=0.1).step()
    assert len(others) > 20
    for p, old in zip(layer.parameters(), before, strict=True):
        assert p.numpy()[others].tobytes() == old[others].tobytes()
        assert (p.numpy() != old).any()


@each_sparse
def test_how_many_rows_have_a_gradient_does_not_depend_on_v(make):
    """And it is what `score_cost` says. (The search for hard negatives looks at V rows besides: that is its cost.)"""
    found = set()
    for vocab_size in (20, 1000, 30_000):
        layer = make(vocab_size, 2, key=KEY)
        layer.loss(contexts(8, 2, "float32"), [3, 1, 4, 1, 5, 9, 2, 6], key=KEY).backward()
        found.add(len(layer.weight.grad.ids))
        if not isinstance(layer, losses.HardNegatives):
            assert len(layer.weight.grad.ids) == len(layer.bias.grad.ids) == 8 * layer.score_cost(8).train
        assert layer.score_cost(8).test == vocab_size
    assert len(found) == 1


@each({name: make for name, make in ROWS.items() if name not in SPARSE})
def test_the_exact_softmax_has_a_gradient_for_each_row(make):
    layer = with_weights(make)
    layer.loss(contexts(), TARGETS).backward()
    assert layer.weight.grad.shape == (V, D) and layer.weight.grad.all()
    assert layer.score_cost(5) == (V, V)


@each_layer
def test_a_hidden_that_needs_no_gradient_is_as_good(make):
    layer, hidden = with_weights(make), contexts()
    layer.loss(hidden, TARGETS, key=KEY).backward()
    expected = [written_out(p.grad) for p in layer.parameters()]
    for p in layer.parameters():
        p.grad = None
    layer.loss(hidden.data, TARGETS, key=KEY).backward()
    for p, e in zip(layer.parameters(), expected, strict=True):
        assert (written_out(p.grad) == e).all()


# ---- one in the place of another ----------------------------------------------------------------------------------


@each_layer
def test_the_same_lines_train_a_model_with_any_of_them(make):
    """Twelve words, each followed by another one always: which, the best word of the layer says afterwards."""
    words, follows = np.arange(12), np.roll(np.arange(12), 5)
    embedding, layer = mg.param(KEY.fold(1).normal((12, 8))), make(12, 8, counts=10 + uneven(12), key=KEY.fold(2))
    optimiser = mg.optim.Adagrad([embedding, *layer.parameters()], lr=0.5)
    accuracy = lambda: (mg.to_cpu(layer.topk(mg.take(embedding, words), 1)[0])[:, 0] == follows).mean()
    before = accuracy()
    for step in range(40):
        layer.loss(mg.take(embedding, words), follows, key=KEY.fold(3, step)).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert before <= 0.3 and accuracy() >= 0.9


@each_sampled
def test_the_same_key_has_the_same_noise_and_another_key_another(make):
    layer = with_weights(make, 100)
    of = lambda key: layer.loss(contexts(), [9, 40, 9, 3, 11], key=key).item()
    assert of(mg.Key(1)) == of(mg.Key(1)) != of(mg.Key(2))


@each(OTHERS | STRUCTURED)
def test_without_noise_the_key_changes_nothing(make):
    layer = with_weights(make)
    of = lambda key: layer.loss(contexts(), TARGETS, key=key).item()
    assert of(mg.Key(1)) == of(mg.Key(2)) == of(None)


@each_layer
def test_the_mean_and_the_sum_are_of_the_losses_of_the_examples(make):
    layer = with_weights(make)
    of = lambda reduction: layer.loss(contexts(), TARGETS, key=KEY, reduction=reduction).numpy()
    none = of("none")
    assert none.shape == (5,)
    assert math.isclose(of("sum"), none.sum(), rel_tol=1e-12)
    assert math.isclose(of("mean"), none.mean(), rel_tol=1e-12)
    assert of("mean") == layer.loss(contexts(), TARGETS, key=KEY).item()


@each_layer
def test_each_example_can_be_weighed_by_itself(make):
    """∂/∂h of Σ w_i L_i has the rows w_i ∂L_i/∂h_i: for examples share noise, not gradients of hidden."""
    layer, hidden, w = with_weights(make), contexts(), np.array([1.0, -2.0, 0.0, 0.5, 3.0])
    layer.loss(hidden, TARGETS, key=KEY, reduction="sum").backward()
    expected, hidden.grad = w[:, None] * mg.to_cpu(hidden.grad), None
    layer.loss(hidden, TARGETS, key=KEY, reduction="none").backward(w)
    assert np.allclose(mg.to_cpu(hidden.grad), expected, rtol=1e-12, atol=1e-14)


# ---- what is predicted --------------------------------------------------------------------------------------------


def has_log_prob(layer):
    return not isinstance(layer, losses.HardNegatives)


@each_layer
def test_the_probabilities_of_all_words_add_up_to_one(make):
    layer = with_weights(make, 37)
    if has_log_prob(layer):
        sums = np.exp(layer.log_prob(mg.param(3 * contexts().data)).numpy()).sum(axis=1)
        assert np.allclose(sums, 1, rtol=0, atol=1e-12)


@each_layer
def test_the_probability_of_one_word_is_that_among_all(make):
    layer = with_weights(make, 37)
    if has_log_prob(layer):
        targets = [9, 36, 9, 3, 11]
        expected = layer.log_prob(contexts()).numpy()[np.arange(5), targets]
        assert np.allclose(layer.log_prob_of(contexts(), targets).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 37])
@each_layer
def test_the_best_words_are_those_of_the_highest_scores_best_first(make, k):
    layer = with_weights(make, 37)
    ids, scores = map(mg.to_cpu, layer.topk(contexts(), k))
    expected = layer.scores(contexts()).numpy()
    order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
    assert (ids == order).all()
    assert np.allclose(scores, np.take_along_axis(expected, order, axis=1), rtol=1e-12, atol=1e-12)


@each_layer
def test_more_words_than_there_are_cannot_be_the_best(make):
    layer = with_weights(make)
    with pytest.raises(ValueError, match=rf"{called(layer)}.topk: k must lie in 1 to {V}, got {V + 1}"):
        layer.topk(contexts(), V + 1)


# ---- large and small numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@each_layer
def test_scores_of_ten_thousand_have_finite_losses_and_gradients(make, sign, dtype):
    layer = with_weights(make, dtype=dtype)
    hidden = mg.param(sign * 1e4 * contexts(dtype=dtype).data)
    loss = layer.loss(hidden, TARGETS, key=KEY, reduction="sum")
    loss.backward()
    assert abs(layer.scores(hidden).numpy()).max() > 1e3 and loss.dtype == dtype
    assert math.isfinite(loss.item())
    for p in [hidden, *layer.parameters()]:
        assert p.grad.dtype == dtype and np.isfinite(written_out(p.grad)).all()


@each_layer
def test_float32_is_float64_but_for_rounding(make):
    found = []
    for dtype in ("float32", "float64"):
        layer, hidden = with_weights(make), mg.param(contexts().data, dtype=dtype)
        for name in learned(layer):
            setattr(layer, name, mg.param(getattr(layer, name).data, dtype=dtype))
        layer.loss(hidden, TARGETS, key=KEY).backward()
        found.append([mg.to_cpu(hidden.grad), *(written_out(p.grad) for p in layer.parameters())])
    for single, double in zip(*found, strict=True):
        assert np.allclose(single, double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_layer
def test_a_word_that_occurs_once_in_1e30_is_no_trouble(make, dtype):
    counts = [1.0, 1.0, 1.0, 1.0, 1.0, 1e-30]
    layer, hidden = with_weights(make, dtype=dtype, counts=counts), contexts(dtype=dtype)
    loss = layer.loss(hidden, [5, 5, 0, 5, 1], key=KEY)
    loss.backward()
    assert math.isfinite(loss.item()) and loss.dtype == dtype
    found = [p.grad for p in [hidden, *layer.parameters()] if p.grad is not None]  # None: a cluster not visited
    assert all(np.isfinite(written_out(grad)).all() for grad in found)


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [losses.ImportanceSampling, losses.SampledSoftmax, losses.NCE, losses.NegativeSampling]
)
@pytest.mark.parametrize(
    "k, message", [(0, "k must be at least 1, got 0"), (2.5, "k must be an integer, got float 2.5")]
)
def test_a_number_of_noise_words_that_makes_no_sense_is_refused(kind, k, message):
    with pytest.raises((TypeError, ValueError), match=f"losses.{kind.__name__}: {message}"):
        kind(V, D, key=KEY, k=k)


@pytest.mark.parametrize("options", [{"k": 6}, {"k": 2, "shared": 6}])
@pytest.mark.parametrize("sampler", [unique, GumbelTopK])
def test_more_different_noise_words_than_occur_are_refused(sampler, options):
    message = "losses.SampledSoftmax: without replacement k must be at most 5, the words with q > 0; got 6"
    layer = losses.SampledSoftmax(V, D, key=KEY, sampler=sampler([1, 1, 1, 1, 1, 0]), **options)
    with pytest.raises(ValueError, match=message):
        layer.loss(contexts(dtype="float32"), [0, 1, 2, 3, 4], key=KEY)


@pytest.mark.parametrize("kind", [losses.NCE, losses.NegativeSampling])
def test_noise_without_replacement_is_refused_where_the_derivation_needs_independent_draws(kind):
    with pytest.raises(ValueError, match=f"losses.{kind.__name__}: the sampler must draw with replacement"):
        kind(V, D, key=KEY, sampler=unique(np.ones(V)))


@pytest.mark.parametrize(
    "counts, message",
    [
        ([1, 2, 3, 4, 5, -6], "none negative"),
        ([0] * V, "counts must be positive for one word at least"),
        ([1, 2, 3], f"counts must be {V} numbers, got 3"),
        ([1, 2, 3, 4, 5, math.nan], "counts must be a list of finite numbers"),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [
        losses.FullSoftmax,
        losses.InBatchSoftmax,
        losses.HardNegatives,
        losses.NCE,
        losses.NegativeSampling,
        losses.SampledSoftmax,
        losses.ImportanceSampling,
        losses.ClassSoftmax,
        losses.HierarchicalSoftmax,
        losses.AdaptiveSoftmax,
        losses.BinaryCode,
        losses.ErrorCorrectingCode,
    ],
)
def test_counts_that_are_none_are_refused(kind, counts, message):
    with pytest.raises(ValueError, match=f"losses.{kind.__name__}: .*{message}"):
        kind(V, D, counts=counts, key=KEY)


@each_layer
@pytest.mark.parametrize(
    "size, message", [((1, D), "vocab_size must be at least 2"), ((V, 0), "dim must be at least 1")]
)
def test_sizes_that_make_no_sense_are_refused(make, size, message):
    with pytest.raises(ValueError, match=message):
        make(*size, counts=np.ones(size[0]), key=KEY)


@each_layer
def test_a_layer_wants_a_key_for_its_weights(make):
    with pytest.raises(TypeError, match=r"key must be a minigrad.Key.*got int"):
        make(V, D, key=1)


@each_sampled
def test_noise_wants_a_key(make):
    layer = with_weights(make)
    with pytest.raises(ValueError, match=f"{called(layer)}.loss: give key="):
        layer.loss(contexts(), TARGETS)
    with pytest.raises(TypeError, match=f"{called(layer)}: key must be a minigrad.Key, got int"):
        layer.loss(contexts(), TARGETS, key=1)


@each_sampled
def test_a_target_that_is_never_noise_is_refused(make):
    """Not that of in-batch negatives: there q is how often a word is a target, and it is one."""
    layer = with_weights(make, counts=[1, 1, 1, 1, 1, 0])
    layer.loss(contexts(), [0, 1, 2, 3, 4], key=KEY)
    with pytest.raises(ValueError, match=rf"{called(layer)}: a target has q\(w\) = 0: it is never drawn as noise"):
        layer.loss(contexts(), [0, 1, 2, 3, 5], key=KEY)


@pytest.mark.parametrize(
    "targets, error, message",
    [
        ([0, V, 1, 2, 3], IndexError, rf"targets must lie in \[0, {V}\), got {V}"),
        ([-1, 0, 1, 2, 3], IndexError, rf"targets must lie in \[0, {V}\), got -1"),
        ([0.0, 1.0, 2.0, 3.0, 4.0], TypeError, r"targets must be integers, got float64"),
        ([True, False, True, True, True], TypeError, r"targets must be integers, got bool"),
        ([0], ValueError, r"targets must have shape \(5,\), got \[1\]"),
        ([[0, 1, 2, 3, 4]], ValueError, r"targets must have shape \(5,\), got \[1, 5\]"),
        ([], ValueError, r"targets must have shape \(5,\), got \[0\]"),
        (1, ValueError, r"targets must have shape \(5,\), got \[\]"),
    ],
)
@each_layer
def test_targets_that_are_no_ids_are_refused(make, targets, error, message):
    layer = with_weights(make)
    with pytest.raises(error, match=f"{called(layer)}: {message}"):
        layer.loss(contexts(), targets, key=KEY)


@pytest.mark.parametrize(
    "kind", [tuple, np.array, lambda ids: mg.tensor(np.array(ids))], ids=["tuple", "array", "tensor"]
)
@each_layer
def test_targets_may_be_a_list_a_tuple_an_array_or_a_tensor(make, kind):
    layer = with_weights(make)
    expected = layer.loss(contexts(), TARGETS, key=KEY).item()
    assert layer.loss(contexts(), kind(TARGETS), key=KEY).item() == expected


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
@each_layer
def test_targets_may_be_integers_of_any_type(make, dtype):
    """uint64 beside the int64 of the noise would become float64."""
    layer = with_weights(make)
    expected = layer.loss(contexts(), TARGETS, key=KEY).item()
    assert layer.loss(contexts(), np.array(TARGETS, dtype), key=KEY).item() == expected


@pytest.mark.parametrize("shape", [(0, D), (D,), (2, D - 1), (2, D, 1)])
@each_layer
def test_hidden_of_a_wrong_shape_and_an_empty_batch_are_refused(make, shape):
    layer = with_weights(make)
    with pytest.raises(ValueError, match=rf"{called(layer)}: hidden must have shape \(B, {D}\) with B >= 1, got"):
        layer.loss(np.zeros(shape), [0] * shape[0], key=KEY)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@each_layer
def test_hidden_of_another_type_than_the_weights_is_refused(make, dtype):
    layer = with_weights(make)
    with pytest.raises(
        TypeError, match=f"{called(layer)}: hidden is {dtype}, the layer's weights are float64; convert"
    ):
        layer.loss(np.ones((5, D), dtype), TARGETS, key=KEY)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@each_layer
def test_hidden_that_is_not_finite_is_refused(make, value):
    layer, hidden = with_weights(make), np.ones((5, D))
    hidden[3, 1] = value
    quiet = np.errstate(invalid="ignore")  # CuPy does not warn of ∞ − ∞; its double computes with NumPy, which does
    with quiet, pytest.raises(FloatingPointError, match=f"{called(layer)}: hidden holds NaN or infinities"):
        layer.loss(hidden, TARGETS, key=KEY)


@each_layer
def test_weights_that_have_blown_up_are_noticed_at_the_loss(make):
    layer = with_weights(make)
    layer.weight = mg.param(np.full(layer.weight.shape, math.nan))
    with pytest.raises(
        FloatingPointError, match=f"{called(layer)}: the loss of some example is not finite: the weights"
    ):
        layer.loss(contexts(), TARGETS, key=KEY)


@each_layer
def test_an_unknown_reduction_is_refused(make):
    layer = with_weights(make)
    with pytest.raises(ValueError, match=rf"{called(layer)}: reduction must be .*, got 'average'"):
        layer.loss(contexts(), TARGETS, key=KEY, reduction="average")
