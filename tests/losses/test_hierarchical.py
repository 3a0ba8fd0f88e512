"""Hierarchical softmax: a test for each numbered step of `losses.structured.hierarchical`, and an oracle in torch.

What trees there are, and which is the best, `test_trees.py` asks.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses import FullSoftmax, HierarchicalSoftmax
from losses.check import smallest_failure
from losses.structured.hierarchical import (
    IN_PYTORCH,
    hierarchical_softmax,
    hierarchical_softmax_loss,
    hierarchical_softmax_naive,
    path_scores,
    sums_down,
    sums_up,
)
from losses.structured.layer import StructuredLayer
from losses.structured.trees import Tree, balanced, expected_length, huffman
from losses.suites.hierarchical import CHAPTER, paths, trees, written_out

from .properties import where_tensors_are_made

pytestmark = pytest.mark.hierarchical


def name(lesson):
    return f"step_{lesson.step[1]}_{lesson.holds.__name__}"


@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_the_function_keeps_what_the_chapter_says(lesson):
    assert smallest_failure(lesson, where_tensors_are_made(hierarchical_softmax)) is None


def σ(s):
    return 1 / (1 + np.exp(-s))


def grown(vocab_size, seed):
    """A tree of any form: two of its parts are joined, whichever, until there is one. As an array of children."""
    rng, parts, children = np.random.default_rng(seed), list(range(vocab_size)), []
    while len(parts) > 1:
        children.append([parts.pop(rng.integers(len(parts))) for _ in range(2)])
        parts.append(vocab_size + len(children) - 1)
    return np.array(children)


def chain(vocab_size):
    """(0, (1, (2, …))): the deepest tree there is."""
    tree = vocab_size - 1
    for word in reversed(range(vocab_size - 1)):
        tree = (word, tree)
    return tree


def nested(tree):
    """An array of children as nested pairs."""
    v = len(tree) + 1
    parts = dict(enumerate(range(v)))
    for _ in range(v):  # a node as soon as both its parts are there
        for node, (first, second) in enumerate(tree.tolist()):
            if first in parts and second in parts:
                parts[v + node] = parts[first], parts[second]
    (root,) = set(range(v, 2 * v - 1)) - set(tree.ravel().tolist())
    return parts[root]


def layer_of(tree, vocab_size, dim=2, seed=1, scale=1.0, **options):
    """A layer in float64 with weights, and a bias, of all sizes."""
    layer = HierarchicalSoftmax(vocab_size, dim, tree=tree, key=mg.Key(0), **options)
    for i, table in enumerate(layer.tables):
        if getattr(layer, table) is not None:
            shape = getattr(layer, table).shape
            setattr(layer, table, mg.param(scale * mg.Key(seed).fold(i).normal(shape, "float64")))
    return layer


def layer_with_scores(tree, scores):
    """A layer whose nodes have these scores for the context h = (1, −2), split between W h and b; and that h."""
    layer, h = layer_of(tree, len(scores) + 1), np.array([1.0, -2.0])
    layer.bias = mg.param(scores - layer.weight.numpy() @ h)
    return layer, h


def contexts(batch, dim=2, seed=5):
    return mg.param(mg.Key(seed).normal((batch, dim), "float64"))


def written(gradient):
    return mg.to_cpu(gradient.dense() if isinstance(gradient, mg.Rows) else gradient)


some_trees = st.builds(lambda v, seed: (v, grown(v, seed)), st.integers(2, 40), st.integers(0, 999))


# ---- (1) to (4): the loss and its gradient ------------------------------------------------------------------------


def test_step_1_a_probability_is_the_product_of_the_decisions_on_the_way():
    """((0, 1), 2): the root is node 0, and its first child node 1."""
    layer, h = layer_with_scores(((0, 1), 2), np.array([0.5, -2.0]))
    found = np.exp(layer.log_prob(h[None]).numpy())[0]
    assert np.allclose(found, [σ(0.5) * σ(-2.0), σ(0.5) * σ(2.0), σ(-0.5)], rtol=1e-12)
    losses = layer.loss(np.tile(h, (3, 1)), [0, 1, 2], reduction="none").numpy()
    assert np.allclose(np.exp(-losses), found, rtol=1e-12)


@given(paths())
def test_step_1_the_label_of_word2vec_is_one_less_the_code(example):
    """−log σ(s) for the label 1, −log(1 − σ(s)) for 0; that of fastText is the code, and so the scores change sign."""
    scores, turns = example
    code = (1 - turns) // 2  # 0 for the first child, 1 for the second
    there = turns != 0

    def binary_cross_entropy(s, label):
        return -(np.log(np.where(label == 1, σ(s), 1 - σ(s))) * there).sum(axis=1)

    loss, _ = where_tensors_are_made(hierarchical_softmax)(scores, turns=turns)
    assert np.allclose(binary_cross_entropy(scores, 1 - code), loss, rtol=1e-9)
    assert np.allclose(binary_cross_entropy(-scores, code), loss, rtol=1e-9)


@pytest.fixture
def word2vec():
    """A model of gensim's, skip-gram with a hierarchical softmax, of words "0" to "6"."""
    model = pytest.importorskip("gensim.models").Word2Vec(
        vector_size=4, min_count=1, hs=1, negative=0, sg=1, window=1, sample=0, workers=1
    )
    model.build_vocab_from_freq({str(w): n for w, n in enumerate([9, 7, 4, 4, 2, 1, 1])})
    return model


def tree_of(model):
    """gensim's tree as children, words by their places in its vocabulary: `point` and `code` from the root down."""
    v, children = len(model.wv), np.zeros((len(model.wv) - 1, 2), int)
    for w in range(v):
        point, code = (model.wv.get_vecattr(w, name).astype(int) for name in ("point", "code"))
        children[point, code] = [*(v + point[1:]), w]
    return children


@pytest.mark.oracle
@pytest.mark.cpu
def test_step_1_a_0_of_gensim_s_codes_is_our_first_child(word2vec):
    """Its score of a sentence of two words is log P of each given the other. It looks up σ in a table, which is off by
    up to 0.06 in s: it has a place for each 0.012, and takes 83 places a unit where it has 83⅓."""
    v, tree = 7, tree_of(word2vec)
    word2vec.syn1[:], word2vec.wv.vectors[:] = (mg.Key(i).normal((v, 4)) for i in (0, 1))
    assert abs(word2vec.syn1 @ word2vec.wv.vectors.T).max() < 6, "none is skipped"
    layer = HierarchicalSoftmax(v, 4, tree=tree, bias=False, key=mg.Key(0))
    layer.weight = mg.param(word2vec.syn1[:-1])  # its last row is no node's
    log_p = layer.log_prob(word2vec.wv.vectors).numpy()
    layer.weight = mg.param(-word2vec.syn1[:-1])
    other_way_round = layer.log_prob(word2vec.wv.vectors).numpy()
    depth, far = mg.to_cpu(layer.tree.depth), 0
    for a, b in itertools.combinations(range(v), 2):
        found = word2vec.score([[word2vec.wv.index_to_key[w] for w in (a, b)]], total_sentences=1)[0]
        error = 0.06 * (depth[a] + depth[b])
        assert abs(found - log_p[a, b] - log_p[b, a]) < error
        far += abs(found - other_way_round[a, b] - other_way_round[b, a]) > error
    assert far > 15, "of 21: the other way round it would be another model"


@pytest.mark.oracle
@pytest.mark.cpu
@pytest.mark.parametrize("s", [5.0, -5.0, 7.0, -7.0])
def test_step_5_gensim_begins_with_w_0_and_a_node_of_score_6_or_more_learns_nothing_right_or_wrong(word2vec, s):
    assert not word2vec.syn1.any()
    word2vec.syn1[:], word2vec.wv.vectors[:] = 1.0, s / 4
    word2vec.train([["0", "5"]], total_examples=1, epochs=1)
    assert (word2vec.syn1 == 1).all() == (abs(s) >= 6), "of words 0 and 5, with ways to both sides"


@given(some_trees)
def test_step_2_in_any_tree_the_probabilities_add_up_to_one(example):
    v, tree = example
    found = layer_of(tree, v, scale=3.0).log_prob(contexts(3)).numpy()
    assert np.allclose(np.exp(found).sum(axis=1), 1, rtol=0, atol=1e-12)


@given(trees())
def test_step_2_what_arrives_at_a_node_goes_on_to_the_words_below_it(example):
    tree, scores, _ = example
    layer, h = layer_with_scores(tree, scores)
    p = np.exp(layer.log_prob(h[None]).numpy())[0]

    def arrives(part, mass):
        """At each word what is left of the mass, at each node the sum of what its words have."""
        if not isinstance(part, tuple):
            assert math.isclose(p[part], mass, rel_tol=1e-12)
            return p[part]
        s = next(of_nodes)
        below = arrives(part[0], mass * σ(s)) + arrives(part[1], mass * σ(-s))
        assert math.isclose(below, mass, rel_tol=1e-12)
        return below

    of_nodes = iter(scores)
    assert math.isclose(arrives(tree, 1.0), 1.0, rel_tol=1e-12)


@given(paths())
def test_step_3_softplus_is_minus_log_sigma_and_both_ways_have_one_gradient(example):
    scores, turns = mg.param(example[0]), mg.backend.asarray(example[1])
    fused, naive = hierarchical_softmax_loss(scores, turns=turns), hierarchical_softmax_naive(scores, turns=turns)
    assert np.allclose(fused.numpy(), naive.numpy(), rtol=1e-12)
    fused, naive = (written(mg.grad(loss.sum(), [scores])[0]) for loss in (fused, naive))
    assert np.allclose(fused, naive, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_3_the_loss_at_minus_1000_is_1000_and_the_naive_one_infinite(dtype):
    scores, turns = mg.backend.asarray([[-1000.0, 1000.0]], dtype), mg.backend.asarray([[1, -1]], "int8")
    assert hierarchical_softmax(scores, turns=turns)[0].tolist() == [2000.0]
    with np.errstate(divide="ignore"):
        assert hierarchical_softmax_naive(mg.tensor(scores), turns=turns).data.tolist() == [math.inf]


def test_step_3_turns_of_another_shape_are_refused_and_not_broadcast():
    with pytest.raises(ValueError, match=r"hierarchical_softmax: turns must have .* \(B, L\) = \[2, 3\], got \[3\]"):
        hierarchical_softmax(np.zeros((2, 3)), turns=np.ones(3, "int8"))


@given(paths(limit=4.0))
def test_step_4_gradients_are_right_to_second_order(example):
    scores, turns = example[0], mg.backend.asarray(example[1])
    mg.check_grads(lambda s: hierarchical_softmax_loss(s, turns=turns), scores)


@given(trees(), st.lists(st.integers(0, 1), min_size=1, max_size=4))
def test_step_4_only_the_rows_on_the_way_have_a_gradient_and_one_for_each_node_on_it(example, targets):
    """However often a word is a target."""
    layer, h = layer_with_scores(*example[:2])
    layer.loss(np.tile(h, (len(targets), 1)), targets).backward()
    nodes, turns = written_out(example[0])
    on_the_way = sorted(n for t in targets for n, y in zip(nodes[t].tolist(), turns[t].tolist()) if y)
    for p in layer.parameters():
        assert isinstance(p.grad, mg.Rows) and sorted(p.grad.ids.tolist()) == on_the_way


@pytest.mark.parametrize("optimiser", [mg.optim.SGD, mg.optim.Adagrad, mg.optim.Adam])
def test_step_4_a_step_changes_the_rows_on_the_way_and_no_bit_of_the_others(optimiser):
    layer, targets = layer_of("huffman", 50), np.array([3, 40, 3])
    before = [p.numpy().copy() for p in layer.parameters()]
    layer.loss(contexts(3), targets).backward()
    optimiser(layer.parameters(), lr=0.1).step()
    on_the_way = mg.to_cpu(layer.tree.paths(mg.backend.asarray(targets)).nodes)
    others = np.setdiff1d(np.arange(49), on_the_way)
    assert len(others) > 30
    for new, old in zip([p.numpy() for p in layer.parameters()], before):
        assert new[others].tobytes() == old[others].tobytes()
        assert (new[on_the_way] != old[on_the_way]).reshape(len(on_the_way), -1).any(axis=1).all()


@pytest.mark.parametrize("dim", [3, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_s_gradient_is_that_of_all_nodes_scores_left_to_the_engine(dim, bias):
    """Few numbers, by array code, and many, by the kernels; words and rows are repeated."""
    v, batch = 30, 80
    layer, hidden = layer_of(grown(v, 7), v, dim, bias=bias, scale=0.3), contexts(batch, dim)
    targets = np.arange(batch) ** 2 % v
    found = layer.loss(hidden, targets, reduction="none")

    scores = hidden @ layer.weight.T + (layer.bias if bias else 0.0)  # (B, V − 1): all of them
    turns = np.zeros((batch, v - 1), "int8")
    for i, target in enumerate(targets):
        path = layer.tree.paths(mg.backend.asarray([target]))
        turns[i, mg.to_cpu(path.nodes)] = mg.to_cpu(path.turns)[0]
    composed = hierarchical_softmax_naive(scores, turns=mg.backend.asarray(turns))

    assert np.allclose(found.numpy(), composed.numpy(), rtol=1e-12)
    learned = [hidden, *layer.parameters()]
    for f, c in zip(mg.grad(found.sum(), learned), mg.grad(composed.sum(), learned)):
        assert np.allclose(written(f), written(c), rtol=1e-10, atol=1e-12)


def test_the_layer_s_gradients_are_right_to_second_order():
    layer, targets = layer_of(((0, 1), (2, (3, 4))), 5), [3, 0, 3]
    nodes, places, turns = layer.tree.paths(mg.backend.asarray(targets))

    def loss(hidden, weight, bias):
        scores = path_scores(hidden, weight, bias, nodes=nodes, places=places, length=turns.shape[1])
        return hierarchical_softmax_loss(scores, turns=turns)

    mg.check_grads(loss, contexts(3), layer.weight, layer.bias)


# ---- (5): what it learns ------------------------------------------------------------------------------------------


def mean_loss(layer, h, p):
    """E L over t ~ p, a scalar with its history."""
    return (layer.loss(np.tile(h, (len(p), 1)), np.arange(len(p)), reduction="none") * p).sum()


def log_odds(tree, p):
    """log (F / S) for each node, the nodes numbered from the left: by adding up the words below."""
    found = []

    def mass(part):
        if not isinstance(part, tuple):
            return p[part]
        found.append(None)
        place = len(found) - 1
        first, second = mass(part[0]), mass(part[1])
        found[place] = math.log(first / second)
        return first + second

    mass(tree)
    return np.array(found)


@given(trees())
def test_step_5_the_mean_gradient_at_a_node_is_f_times_sigma_less_one_and_s_times_sigma(example):
    tree, scores, p = example
    layer, h = layer_with_scores(tree, scores)
    mean_loss(layer, h, p).backward()
    nodes, turns = written_out(tree)
    for n, s in enumerate(scores):
        first, second = (p[((nodes == n) & (turns == y)).any(axis=1)].sum() for y in (1, -1))
        expected = first * (σ(s) - 1) + second * σ(s)
        assert math.isclose(written(layer.bias.grad)[n], expected, rel_tol=1e-9, abs_tol=1e-12)


@given(trees())
def test_step_5_with_free_scores_the_optimum_is_the_log_odds_and_p_itself(example):
    tree, scores, p = example
    layer, h = layer_with_scores(tree, log_odds(tree, p))
    least = mean_loss(layer, h, p)
    least.backward()
    assert all(abs(written(table.grad)).max() < 1e-12 for table in layer.parameters())
    assert np.allclose(layer.log_prob(h[None]).numpy(), np.log(p), rtol=0, atol=1e-12)
    assert math.isclose(least.item(), -(p * np.log(p)).sum(), rel_tol=1e-12), "the entropy of p"
    assert mean_loss(*layer_with_scores(tree, scores), p).item() >= least.item() - 1e-12


def test_step_5_a_tree_that_parts_what_goes_together_asks_what_no_linear_score_can_say():
    """Words 0, 1, 2, 3 = a, b, c, d, each in its own context h = −3, −1, 1, 3, so that d = 1.

    Where a, c are to lie on one side of the root and b on the other, its scores at −3, −1, 1 are x, y, z with
    x + z = 2 y, and the three losses together 2 softplus(−y) + softplus(y) or more, by convexity: at least log(27/4).
    """
    contexts = np.array([[-3.0], [-1.0], [1.0], [3.0]])

    def losses_after_training(tree):
        layer = layer_of(tree, 4, dim=1, scale=0.1)
        optimiser = mg.optim.Adagrad(layer.parameters(), lr=1.0)
        for _ in range(300):
            layer.loss(contexts, [0, 1, 2, 3], reduction="sum").backward()
            optimiser.step()
            optimiser.zero_grad()
        return layer.loss(contexts, [0, 1, 2, 3], reduction="none").numpy()

    assert losses_after_training(((0, 1), (2, 3))).sum() < 0.2
    assert losses_after_training(((0, 2), (1, 3)))[:3].sum() > math.log(27 / 4) == pytest.approx(1.91, abs=0.005)


def test_step_5_the_bound_of_that_tree_holds_for_every_line():
    y = np.linspace(-20, 20, 4001)
    softplus = lambda s: np.logaddexp(0, s)
    least = 2 * softplus(-y) + softplus(y)
    assert least.min() == pytest.approx(math.log(27 / 4), abs=1e-4) and (least >= math.log(27 / 4)).all()
    for slope in np.linspace(-5, 5, 11):
        assert (softplus(-(y - slope)) + softplus(y) + softplus(-(y + slope)) >= least - 1e-12).all()


# ---- (6): cost ----------------------------------------------------------------------------------------------------


@given(some_trees, st.integers(0, 99))
def test_step_6_a_token_costs_the_mean_length_and_that_many_rows_have_a_gradient(example, seed):
    v, tree = example
    counts = np.random.default_rng(seed).integers(0, 9, v) + (np.arange(v) == 1)
    layer = layer_of(tree, v, counts=counts)
    touched = []
    for word in range(v):
        layer.loss(contexts(1), [word]).backward()
        touched.append(len(layer.weight.grad.ids))
        layer.weight.grad = layer.bias.grad = None
    assert layer.score_cost().train == pytest.approx((counts * touched).sum() / counts.sum(), rel=1e-12)
    assert layer.score_cost(64) == layer.score_cost() and layer.score_cost().test == v - 1


@pytest.mark.parametrize("tree, build", [("huffman", huffman), ("balanced", balanced)])
def test_step_6_the_layer_builds_the_tree_of_its_counts(tree, build):
    counts = [1, 30, 4, 4, 0, 17]
    layer = HierarchicalSoftmax(6, 2, counts=counts, tree=tree, key=mg.Key(0))
    assert (mg.to_cpu(layer.tree.children) == build(counts)).all()
    assert layer.score_cost().train == expected_length(counts, build(counts))


def test_step_6_without_counts_it_is_zipf_s_law():
    layer = HierarchicalSoftmax(100, 2, key=mg.Key(0))
    assert layer.score_cost().train == expected_length(1 / np.arange(1, 101), huffman(1 / np.arange(1, 101)))


@given(some_trees)
def test_step_6_with_all_scores_zero_a_word_of_length_l_has_the_probability_one_half_to_the_l(example):
    v, tree = example
    layer = layer_of(tree, v, scale=0.0)
    lengths = mg.to_cpu(layer.tree.depth)[:v]
    assert np.allclose(np.exp(layer.log_prob(contexts(2)).numpy()), 0.5**lengths, rtol=1e-12)


@given(st.lists(st.integers(0, 20), min_size=2, max_size=40).filter(any))
def test_step_6_with_all_scores_zero_huffman_s_tree_is_less_than_a_bit_from_the_frequencies(counts):
    p = np.array(counts)[np.array(counts) > 0] / sum(counts)
    layer = layer_of("huffman", len(counts), counts=counts, scale=0.0)
    log_p = layer.log_prob(contexts(1)).numpy()[0][np.array(counts) > 0]
    bits = (p * (np.log(p) - log_p)).sum() / math.log(2)
    assert -1e-9 < bits < 1 or (0 in counts and math.isclose(bits, 1))
    assert math.isclose(layer.score_cost().train + (p * np.log2(p)).sum(), bits, rel_tol=1e-9, abs_tol=1e-9)


def test_step_6_the_bit_is_reached_if_words_never_occur():
    assert layer_of("huffman", 3, counts=[1, 0, 0], scale=0.0).log_prob_of(contexts(1), [0]).item() == -math.log(2)


# ---- (7): the probabilities of all words ----------------------------------------------------------------------------


@given(some_trees)
def test_step_7_all_words_at_once_have_the_probabilities_that_each_has_by_itself(example):
    v, tree = example
    layer, h = layer_of(tree, v), contexts(1)
    together = layer.log_prob(h).numpy()[0]
    hidden = mg.param(np.tile(h.numpy(), (v, 1)))
    assert np.allclose(layer.log_prob_of(hidden, np.arange(v)).numpy(), together, rtol=1e-12)
    assert np.allclose(-layer.loss(hidden, np.arange(v), reduction="none").numpy(), together, rtol=1e-12)


@given(trees())
def test_step_7_they_are_right_far_from_zero(example):
    tree, scores, _ = example
    layer, h = layer_with_scores(tree, 1000 * np.sign(scores + 0.1))
    nodes, turns = written_out(tree)
    expected = -np.maximum(-turns * 1000.0 * np.sign(scores + 0.1)[nodes], 0).sum(axis=1)
    assert np.allclose(layer.log_prob(h[None]).numpy()[0], expected, rtol=1e-12)


def test_step_7_the_probabilities_of_all_words_can_be_differentiated_twice():
    layer = layer_of(((0, 1), (2, (3, 4))), 5)

    def probabilities(hidden, weight, bias):
        layer.weight, layer.bias = weight, bias
        return mg.exp(layer.log_prob(hidden))

    mg.check_grads(probabilities, contexts(2), layer.weight, layer.bias)


@given(some_trees)
def test_step_7_what_adds_up_on_the_way_down_is_the_transpose_of_what_does_on_the_way_up(example):
    """⟨A x, g⟩ = ⟨x, Aᵀ g⟩."""
    v, children = example
    tree = Tree(children)
    x, g = mg.Key(1).normal((v - 1, 2, 3), "float64"), mg.Key(2).normal((v, 3), "float64")
    one, other = (sums_down(x, tree=tree) * g).sum(), (x * sums_up(g, tree=tree)).sum()
    assert math.isclose(float(one), float(other), rel_tol=1e-10, abs_tol=1e-10)


# ---- (8): the best words ------------------------------------------------------------------------------------------


def by_brute_force(layer, hidden, k):
    scores = layer.log_prob(hidden).numpy()
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


@pytest.mark.cpu
@pytest.mark.parametrize("bias", [True, False])
@given(example=some_trees, k=st.integers(1, 40), scale=st.sampled_from([0.1, 1.0, 5.0]), seed=st.integers(0, 99))
def test_step_8_the_search_finds_the_k_best_words_of_all(bias, example, k, scale, seed):
    v, tree = example
    layer, k = layer_of(tree, v, seed=seed, scale=scale, bias=bias), min(k, v)
    ids, scores, _ = layer.search(contexts(3), k)
    expected = by_brute_force(layer, contexts(3), k)
    assert (ids == expected[0]).all() and np.allclose(scores, expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.cpu
@given(some_trees, st.integers(0, 99))
def test_step_8_among_equals_the_smaller_id_comes_first(example, seed):
    """At some nodes σ(s) is exactly 1, so that a word may be as probable as a node; at others it is ½."""
    v, tree = example
    layer = layer_of(tree, v)
    layer.weight = mg.param(np.zeros((v - 1, 2)))
    layer.bias = mg.param(np.random.default_rng(seed).choice([0.0, 1000.0, -1000.0], v - 1))
    scores = layer.log_prob(contexts(1)).numpy()[0]
    ids = layer.search(contexts(1), v)[0][0]
    assert (scores[ids[1:]] <= scores[ids[:-1]]).all()
    for word, after in itertools.pairwise(ids):
        assert word < after or scores[after] < scores[word]


@pytest.mark.cpu
@given(some_trees, st.integers(1, 10), st.sampled_from([0.1, 1.0, 5.0]))
def test_step_8_at_each_depth_at_most_one_over_p_k_nodes_are_looked_at(example, k, scale):
    v, tree = example
    layer, k = layer_of(tree, v, scale=scale), min(k, v)
    _, scores, looked_at = layer.search(contexts(4), k)
    depths = len(layer.tree.levels)  # 1 + the greatest depth of a node
    assert (looked_at <= depths * np.exp(-scores[:, -1]) * (1 + 1e-9)).all()
    assert (looked_at >= 1).all() and (looked_at <= v - 1).all()


@pytest.mark.cpu
@given(some_trees)
def test_step_8_where_words_are_equally_probable_all_nodes_of_any_tree_are_looked_at(example):
    v, children = example
    tree = nested(children)
    layer, h = layer_with_scores(tree, log_odds(tree, np.full(v, 1 / v)))
    assert layer.search(h[None], 1)[2].tolist() == [v - 1]


@pytest.mark.cpu
def test_step_8_the_log_probability_of_a_word_that_is_nearly_certain_is_not_rounded_to_0():
    layer = layer_of("balanced", 64)
    layer.weight, layer.bias = mg.param(np.zeros((63, 2))), mg.param(np.full(63, 40.0))
    assert math.isclose(layer.search(contexts(1), 1)[1].item(), -6 * math.exp(-40), rel_tol=1e-12)


@pytest.mark.cpu
def test_step_8_a_sure_model_looks_at_one_path_and_one_to_which_words_are_equal_at_all_nodes():
    layer = layer_of("balanced", 64, counts=np.ones(64))
    layer.weight = mg.param(np.zeros((63, 2)))
    layer.bias = mg.param(np.full(63, 20.0))
    assert layer.search(contexts(1), 1)[2].tolist() == [6]
    layer.bias = mg.param(np.zeros(63))
    assert layer.search(contexts(1), 1)[2].tolist() == [63]


@pytest.mark.cpu
def test_the_best_words_of_many_are_found_by_the_search_and_on_any_device_they_are_the_same():
    layer, hidden = layer_of("huffman", 600, dim=8), contexts(5, 8)
    ids, scores = layer.topk(hidden, 7)
    others = super(HierarchicalSoftmax, layer).topk(hidden, 7)
    assert (ids == others[0]).all() and np.allclose(scores, others[1], rtol=1e-12)
    layer.log_prob = None  # it is not asked
    assert (layer.topk(hidden, 7)[0] == ids).all()
    small = layer_of("huffman", 10)
    small.search = None  # nor is the search, of a small table
    assert (small.topk(contexts(5), 7)[0] == by_brute_force(small, contexts(5), 7)[0]).all()


@pytest.mark.cpu
def test_the_search_goes_on_where_scores_are_not_numbers_or_infinite():
    for value in (math.nan, math.inf, -math.inf):
        layer = layer_of("balanced", 20)
        layer.bias = mg.param(np.full(19, value))
        assert sorted(layer.search(contexts(1), 20)[0][0].tolist()) == list(range(20))


@pytest.mark.parametrize("operation", ["topk", pytest.param("search", marks=pytest.mark.cpu)])
def test_more_words_than_there_are_cannot_be_found(operation):
    ask = getattr(HierarchicalSoftmax(600, 8, key=mg.Key(0)), operation)
    with pytest.raises(ValueError, match=f"HierarchicalSoftmax.{operation}: k must lie in 1 to 600, got 601"):
        ask(np.ones((1, 8), "float32"), 601)
    with pytest.raises(TypeError, match=f"HierarchicalSoftmax.{operation}: k must be an integer, got float"):
        ask(np.ones((1, 8), "float32"), 1.5)


def test_the_search_is_for_main_memory(on_device):
    layer = layer_of("huffman", 10)
    if on_device == "cpu":
        assert layer.search(contexts(1), 1)[0].shape == (1, 1)
    else:
        with pytest.raises(mg.backend.DeviceError, match=r"HierarchicalSoftmax.search: .* on a GPU use topk"):
            layer.search(contexts(1), 1)


# ---- odd trees ----------------------------------------------------------------------------------------------------


def test_two_words_are_one_decision():
    """A logistic regression: P(0) = σ(s), as a softmax over two words whose scores differ by s."""
    layer, full = layer_of((0, 1), 2), FullSoftmax(2, 2, key=mg.Key(0))
    full.weight = mg.param(np.concatenate([layer.weight.numpy(), np.zeros((1, 2))]))
    full.bias = mg.param(np.concatenate([layer.bias.numpy(), [0.0]]))
    assert np.allclose(layer.log_prob(contexts(3)).numpy(), full.log_prob(contexts(3)).numpy(), rtol=1e-12)
    assert layer.score_cost() == (1, 1)


@pytest.mark.cpu
def test_a_chain_of_100_000_words_has_losses_probabilities_and_a_best_word():
    """Σ ℓ = V² / 2: no table of all its paths would fit. With scores of 0, P(w) = 2^−(w + 1)."""
    v = 100_000
    layer = HierarchicalSoftmax(v, 1, tree=chain(v), key=mg.Key(0))
    layer.weight = mg.param(np.zeros((v - 1, 1)))
    layer.bias = mg.param(np.zeros(v - 1))
    hidden = mg.param(np.ones((2, 1)))
    loss = layer.loss(hidden, [v - 1, 2], reduction="none")
    loss.sum().backward()
    assert np.allclose(loss.numpy(), [(v - 1) * math.log(2), 3 * math.log(2)], rtol=1e-9)
    assert len(layer.weight.grad.ids) == v - 1 + 3
    assert np.allclose(layer.log_prob_of(hidden, [v - 1, 2]).numpy(), -loss.numpy())
    assert layer.search(hidden, 3)[0].tolist() == [[0, 1, 2]] * 2
    assert layer.search(hidden, 3)[2].tolist() == [4, 4], "the fourth node is as probable as the third word"


@pytest.mark.cpu
def test_of_a_chain_the_probabilities_of_all_words_take_a_step_a_word():
    v = 5000
    layer = layer_of(chain(v), v, dim=1, scale=0.0)
    found = layer.log_prob(mg.param(np.ones((1, 1)))).numpy()[0]
    assert np.allclose(found, -math.log(2) * np.minimum(np.arange(v) + 1, v - 1), rtol=1e-9)


@pytest.mark.parametrize(
    "tree, message",
    [
        ("binary", 'tree must be "huffman", "balanced", nested pairs or an array of children, got \'binary\''),
        (((0, 1), 3), "tree: a word must be one of 0 to 2, got 3"),
        ((0, 1), "tree: word 2 is missing"),
        (np.array([[4, 4], [0, 1]]), "tree: node 1 must be the child of one node, it is 2 times a child"),
    ],
)
def test_a_tree_that_is_none_is_refused(tree, message):
    with pytest.raises(ValueError, match=f"losses.HierarchicalSoftmax: {message}"):
        HierarchicalSoftmax(3, 2, tree=tree, key=mg.Key(0))


def test_the_tree_of_another_layer_is_a_tree():
    layer = HierarchicalSoftmax(9, 2, key=mg.Key(0))
    other = HierarchicalSoftmax(9, 2, tree=layer.tree, key=mg.Key(0))
    assert (mg.to_cpu(other.tree.children) == mg.to_cpu(layer.tree.children)).all()


@pytest.mark.parametrize("ask", ["log_prob", "scores"])
def test_a_structured_layer_that_does_not_say_its_probabilities_has_none(ask):
    layer = StructuredLayer(5, 2, key=mg.Key(0))
    with pytest.raises(TypeError, match=r"losses.StructuredLayer has no log_prob"):
        getattr(layer, ask)(np.ones((1, 2), "float32"))


# ---- In PyTorch ---------------------------------------------------------------------------------------------------


def in_pytorch(layer, hidden, targets, lines=IN_PYTORCH):
    """What the lines of the chapter make of the layer's weights and paths: their variables after they have run."""
    torch = pytest.importorskip("torch")
    path = layer.tree.paths(mg.backend.asarray(targets))
    turns = mg.to_cpu(path.turns)
    nodes = np.zeros(turns.size, "int64")
    nodes[mg.to_cpu(path.places)] = mg.to_cpu(path.nodes)
    theirs = {
        "V": layer.vocab_size,
        "d": layer.dim,
        "nodes": torch.tensor(nodes.reshape(turns.shape)),
        "turns": torch.tensor(turns),
        "hidden": torch.tensor(hidden.numpy(), requires_grad=True),
    }
    imports, make, train = lines.strip().split("\n\n")
    exec(imports + "\n" + make, theirs)
    weight = theirs["out"].weight.detach().double()
    weight[: layer.vocab_size - 1] = torch.tensor(layer.weight.numpy())
    theirs["out"].weight.data = weight
    exec(train, theirs)
    return theirs


@pytest.mark.oracle
@given(example=some_trees, batch=st.integers(1, 5), seed=st.integers(0, 99))
def test_in_pytorch_those_very_lines_have_the_same_loss_and_gradients(example, batch, seed):
    v, tree = example
    layer, hidden = layer_of(tree, v, bias=False), contexts(batch)
    targets = np.random.default_rng(seed).integers(0, v, batch)
    ours = layer.loss(hidden, targets, reduction="none")
    ours.mean().backward()
    theirs = in_pytorch(layer, hidden, targets)
    assert np.allclose(ours.numpy(), theirs["loss"].detach().numpy(), rtol=1e-12)
    assert np.allclose(written(hidden.grad), theirs["hidden"].grad.numpy(), rtol=1e-10, atol=1e-12)
    grad = theirs["out"].weight.grad.to_dense().numpy()
    assert np.allclose(written(layer.weight.grad), grad, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle
def test_in_pytorch_without_the_mask_the_loss_is_off_by_log_2_a_place_and_the_gradient_is_right():
    layer, hidden = layer_of(((0, 1), (2, (3, 4))), 5, bias=False), contexts(2)
    layer.loss(hidden, [0, 4]).backward()
    masked = "torch.where(there, turns * scores, torch.inf)"
    assert masked in IN_PYTORCH
    theirs = in_pytorch(layer, hidden, [0, 4], IN_PYTORCH.replace(masked, "turns * scores"))
    off = theirs["loss"].detach().numpy() + layer.log_prob_of(hidden, [0, 4]).numpy()
    assert np.allclose(off, [math.log(2), 0.0], rtol=1e-12), "word 0 has two nodes, word 4 three"
    assert np.allclose(written(layer.weight.grad), theirs["out"].weight.grad.to_dense().numpy(), rtol=1e-12)


@pytest.mark.oracle
@pytest.mark.cpu
@pytest.mark.parametrize("lesson", CHAPTER.lessons, ids=name)
def test_in_pytorch_those_very_lines_keep_what_the_chapter_says(lesson):
    torch = pytest.importorskip("torch")
    lines = [line for line in IN_PYTORCH.split("\n") if line.startswith(("import", "there", "margins", "loss ="))]

    def theirs(scores, *, turns):
        found = {"scores": torch.tensor(scores, requires_grad=True), "turns": torch.tensor(turns)}
        exec("\n".join(lines), found)
        found["loss"].sum().backward()
        return found["loss"].detach().numpy(), found["scores"].grad.numpy()

    assert len(lines) == 5 and smallest_failure(lesson, theirs) is None


@pytest.mark.oracle
@pytest.mark.parametrize(
    "optimiser, rows, filling, moves", [("SGD", 4, 3, False), ("SparseAdam", 4, 3, True), ("SparseAdam", 5, 4, False)]
)
def test_in_pytorch_a_row_that_only_fills_is_moved_by_momentum_unless_it_is_no_node_s(optimiser, rows, filling, moves):
    layer, hidden = layer_of(((0, 1), (2, (3, 4))), 5, bias=False), contexts(1)
    lines = IN_PYTORCH.replace("optim.SGD", f"optim.{optimiser}").replace("Embedding(V - 1", f"Embedding({rows}")
    theirs = in_pytorch(layer, hidden, [4], lines)  # on whose path are nodes 3, 2 and 0
    theirs["optimizer"].step()
    theirs["optimizer"].zero_grad()
    before = theirs["out"].weight.detach().clone()
    theirs["nodes"][0], theirs["turns"][0] = (theirs["nodes"].new_tensor(a) for a in ([1, 0, filling], [1, 1, 0]))
    exec(lines.strip().split("\n\n")[2], theirs)  # word 0
    theirs["optimizer"].step()
    assert (theirs["out"].weight != before)[3].any().item() == moves


@pytest.mark.oracle
def test_in_pytorch_binary_cross_entropy_of_the_codes_has_the_sides_changed():
    torch = pytest.importorskip("torch")
    scores, turns = np.array([[0.5, -2.0]]), np.array([[1, -1]])
    theirs = torch.nn.functional.binary_cross_entropy_with_logits
    codes = torch.tensor((1.0 - turns) / 2)
    ours = lambda s: hierarchical_softmax(s, turns=turns)[0].item()
    assert theirs(torch.tensor(scores), 1 - codes, reduction="sum").item() == pytest.approx(ours(scores), rel=1e-12)
    assert theirs(torch.tensor(scores), codes, reduction="sum").item() == pytest.approx(ours(-scores), rel=1e-12)
