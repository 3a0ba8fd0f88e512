"""Which tree? A test for each numbered step of `losses.structured.trees`, and what is no tree."""

import heapq
import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from losses.structured.trees import Tree, balanced, children_of, expected_length, huffman

from .test_hierarchical import chain, grown, nested

pytestmark = pytest.mark.hierarchical

some_trees = st.builds(grown, st.integers(2, 40), st.integers(0, 999))
some_counts = st.lists(st.integers(1, 20), min_size=2, max_size=40)


def lengths(tree):
    """ℓ(w) of all words."""
    tree = Tree(tree)
    return mg.to_cpu(tree.depth)[: tree.num_words]


def lengths_by_walking(tree):
    """The same, by going down from the root."""
    v, found = len(tree) + 1, {}
    (root,) = set(range(v, 2 * v - 1)) - set(tree.ravel().tolist())
    todo = [(root, 0)]
    while todo:
        item, depth = todo.pop()
        if item < v:
            found[item] = depth
        else:
            todo += [(child, depth + 1) for child in tree[item - v].tolist()]
    return np.array([found[w] for w in range(v)])


def entropy(counts):
    p = np.array(counts) / np.sum(counts)
    return -(p[p > 0] * np.log2(p[p > 0])).sum()


# ---- (1) to (4): how long paths must be ---------------------------------------------------------------------------


@given(st.recursive(st.none(), lambda part: st.tuples(part, part), max_leaves=20))
def test_step_1_a_tree_of_v_words_has_v_minus_1_nodes(tree):
    def count(part):
        return (1, 0) if part is None else tuple(np.add(count(part[0]), count(part[1])) + (0, 1))

    words, nodes = count(tree)
    assert nodes == words - 1


@given(some_trees)
def test_step_2_kraft_s_sum_is_one(tree):
    assert sum(Fraction(1, 2 ** int(n)) for n in lengths(tree)) == 1


@given(some_trees)
def test_lengths_are_what_a_walk_from_the_root_finds(tree):
    assert (lengths(tree) == lengths_by_walking(tree)).all()


@given(some_trees, st.integers(0, 99))
def test_step_3_the_mean_length_is_the_entropy_and_the_divergence_from_what_the_tree_is_made_for(tree, seed):
    counts = np.random.default_rng(seed).integers(1, 20, len(tree) + 1)
    p, q = counts / counts.sum(), 0.5 ** lengths(tree)
    found = expected_length(counts, tree)
    assert math.isclose(found, (p * lengths(tree)).sum(), rel_tol=1e-12)
    assert math.isclose(found, entropy(counts) + (p * np.log2(p / q)).sum(), rel_tol=1e-9)
    assert found >= entropy(counts) - 1e-12


@given(some_trees)
def test_step_3_it_is_the_entropy_if_and_only_if_probabilities_are_those_powers_of_one_half(tree):
    p = 0.5 ** lengths(tree)
    assert math.isclose(expected_length(p, tree), entropy(p), rel_tol=1e-12)
    other = p * np.where(np.arange(len(p)) == p.argmax(), 1.5, 1.0)
    assert expected_length(other, tree) > entropy(other) + 1e-3
    assert math.isclose(expected_length(p, huffman(p)), entropy(p), rel_tol=1e-12), "and Huffman finds that tree"


@given(some_counts)
def test_step_4_the_best_tree_is_less_than_one_decision_above_the_entropy(counts):
    assert entropy(counts) - 1e-12 <= expected_length(counts, huffman(counts)) < entropy(counts) + 1


@given(some_counts, st.integers(0, 99))
def test_step_4_lengths_from_the_logarithms_have_a_tree_in_which_no_path_is_longer(counts, seed):
    rng, p = np.random.default_rng(seed), np.array(counts) / np.sum(counts)
    wanted = np.maximum(np.ceil(-np.log2(p) - 1e-12).astype(int), 0)
    assert sum(Fraction(1, 2 ** int(n)) for n in wanted) <= 1
    assert (p * wanted).sum() < entropy(counts) + 1
    free, depth, taken = [0], 0, Fraction(0)  # the places at this depth with no word above them
    for n in sorted(wanted.tolist()):
        for _ in range(n - depth):
            free = [2 * place + side for place in free for side in (0, 1)]
        depth = n
        assert (taken * 2**n).denominator == 1 and len(free) == (1 - taken) * 2**n >= 1, "there is a place"
        free.pop(rng.integers(len(free)))  # whichever
        taken += Fraction(1, 2**n)
    assert expected_length(counts, huffman(counts)) <= (p * wanted).sum() + 1e-12, "Huffman's is no worse"


def test_step_4_the_one_can_be_come_near_to():
    counts = [1 - 1e-6, 1e-6]
    assert expected_length(counts, huffman(counts)) == 1.0
    assert entropy(counts) < 3e-5
    assert expected_length([1, 0, 0], huffman([1, 0, 0])) == 1.0 == entropy([1, 0, 0]) + 1, "words that never occur"


# ---- (5) and (6): the best tree -----------------------------------------------------------------------------------


@cache
def all_lengths(v):
    """The lengths in every binary tree of v words, (trees, v): (2v − 3)!! of them, up to a change of sides."""

    def trees(words):
        if len(words) == 1:
            yield {words[0]: 0}
            return
        first, others = words[0], words[1:]
        for chosen in range(2 ** len(others) - 1):
            left = [first] + [w for i, w in enumerate(others) if chosen >> i & 1]
            right = [w for i, w in enumerate(others) if not chosen >> i & 1]
            rights = list(trees(right))
            for a in trees(left):
                for b in rights:
                    yield {w: n + 1 for part in (a, b) for w, n in part.items()}

    return np.array([[tree[w] for w in range(v)] for tree in trees(list(range(v)))])


@given(some_trees, st.integers(0, 99))
def test_step_5_the_rarer_of_two_words_may_lie_deeper_and_so_the_two_rarest_be_deepest(tree, seed):
    """Both children of a deepest node are words, and to swap the two rarest into their places costs nothing."""
    v = len(tree) + 1
    counts, found, there = np.random.default_rng(seed).integers(0, 9, v), lengths(tree), np.arange(v)
    deepest = tree[mg.to_cpu(Tree(tree).depth)[v:].argmax()].tolist()
    assert max(deepest) < v and (found[deepest] == found.max()).all()
    for place, rare in zip(deepest, np.argsort(counts, kind="stable")[:2]):
        before, other = (counts[there] * found).sum(), (there == rare).argmax()
        there[[place, other]] = there[[other, place]]  # which word is at each place
        assert (counts[there] * found).sum() <= before


@pytest.mark.parametrize("v", [2, 3, 4, 5, 6, 7])
def test_step_5_all_trees_are_a_double_factorial(v):
    assert len(all_lengths(v)) == math.prod(range(1, 2 * v - 2, 2))


@given(st.lists(st.integers(0, 30), min_size=2, max_size=7).filter(any))
def test_step_5_of_all_trees_huffman_s_is_the_best(counts):
    least = (all_lengths(len(counts)) @ np.array(counts)).min()
    assert (lengths(huffman(counts)) * counts).sum() == least


@given(some_counts)
def test_step_5_the_mean_length_is_the_sum_of_what_lies_below_the_nodes(counts):
    tree, below = huffman(counts), list(counts)
    for first, second in tree.tolist():  # children come before their parents
        below.append(below[first] + below[second])
    assert math.isclose(expected_length(counts, tree), sum(below[len(counts) :]) / sum(counts), rel_tol=1e-12)


@given(some_counts)
def test_step_5_the_balanced_tree_is_no_better(counts):
    best = expected_length(counts, huffman(counts))
    assert best <= expected_length(counts, balanced(counts)) + 1e-12
    assert best <= expected_length(counts, balanced(len(counts))) + 1e-12


@given(some_counts)
def test_step_6_the_nodes_come_out_in_rising_order(counts):
    below = list(counts)
    for first, second in huffman(counts).tolist():
        assert below[first] <= below[second], "the lighter one is the first child"
        below.append(below[first] + below[second])
    assert below[len(counts) :] == sorted(below[len(counts) :])


@given(st.lists(st.floats(0.0, 1e6), min_size=2, max_size=300).filter(any))
def test_step_6_two_queues_do_what_a_heap_does(counts):
    heap, total = list(map(float, counts)), 0.0
    heapq.heapify(heap)
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    assert math.isclose(expected_length(counts, huffman(counts)), total / sum(counts), rel_tol=1e-9)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=7))
def test_step_6_words_first_among_equals_keep_the_deepest_path_of_a_best_tree_short(counts):
    every = all_lengths(len(counts))
    costs = every @ np.array(counts)
    assert lengths(huffman(counts)).max() == every[costs == costs.min()].max(axis=1).min()


def test_step_6_word2vec_takes_nodes_first_among_equals_and_has_a_deeper_tree_of_the_same_mean_length():
    counts, nodes_first = [1, 1, 2, 2], [[0, 1], [4, 2], [3, 5]]  # node 0 and word 2; then word 3 and node 1
    assert lengths(np.array(nodes_first)).tolist() == [3, 3, 2, 1] and lengths(huffman(counts)).tolist() == [2] * 4
    assert expected_length(counts, np.array(nodes_first)) == expected_length(counts, huffman(counts))


def test_step_6_equal_words_are_taken_in_the_order_of_their_ids():
    assert huffman([2, 1] * 50)[:50].ravel().tolist() == [*range(1, 100, 2), *range(0, 100, 2)]
    assert huffman([5, 5, 5, 5]).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert huffman([0, 7, 0]).tolist() == [[0, 2], [3, 1]], "words that never occur are leaves, too"


@given(some_counts, st.integers(0, 99))
def test_step_6_the_same_counts_in_another_order_cost_the_same(counts, seed):
    other = np.random.default_rng(seed).permutation(counts)
    assert math.isclose(expected_length(other, huffman(other)), expected_length(counts, huffman(counts)), rel_tol=1e-12)


# ---- (7): the balanced tree -----------------------------------------------------------------------------------------


@given(st.integers(2, 300))
def test_step_7_no_two_words_of_the_balanced_tree_differ_by_more_than_one_in_depth(v):
    tree = balanced(v)
    assert all(c == [2 * n + 1, 2 * n + 2] for n, c in enumerate((np.where(tree < v, tree + v - 1, tree - v)).tolist()))
    assert set(lengths(tree).tolist()) <= {int(math.log2(v)), int(math.log2(v)) + 1}
    assert (len(set(lengths(tree).tolist())) == 1) == (v & (v - 1) == 0), "all are of one length if V is a power of 2"
    assert (np.diff(lengths(tree)) >= 0).all(), "the first ids have the shorter paths"
    assert expected_length(np.ones(v), tree) == pytest.approx(expected_length(np.ones(v), huffman(np.ones(v))))


@given(some_counts)
def test_step_7_the_frequent_words_have_the_shorter_paths(counts):
    found = lengths(balanced(counts))
    assert (np.diff(found[np.argsort(-np.array(counts), kind="stable")]) >= 0).all()


def test_with_zipf_s_law_over_10_000_words():
    counts = 1 / np.arange(1, 10_001)
    found = [entropy(counts), expected_length(counts, huffman(counts)), expected_length(counts, balanced(counts))]
    assert [round(x, 2) for x in found] == [9.53, 9.56, 13.05]


# ---- paths --------------------------------------------------------------------------------------------------------


@given(some_trees, st.data())
def test_a_path_climbs_from_the_word_to_the_root_by_turns_that_lead_back_down(tree, data):
    v = len(tree) + 1
    words = data.draw(st.lists(st.integers(0, v - 1), min_size=1, max_size=5))
    nodes, places, turns = (mg.to_cpu(a) for a in Tree(tree).paths(mg.backend.asarray(words)))
    length = lengths(tree)[words]
    assert turns.shape == (len(words), length.max()) and len(nodes) == length.sum() and turns.dtype == "int8"
    assert (abs(turns) == (np.arange(length.max()) < length[:, None])).all(), "behind the end of a path it is filled"
    assert (places == np.flatnonzero(turns)).all()
    filled = np.full(turns.size, -1)
    filled[places] = nodes
    for word, path, ways in zip(words, filled.reshape(turns.shape), turns):
        item = v + path[path >= 0][-1]  # the root
        for way in ways[ways != 0][::-1]:
            item = tree[item - v, 0 if way == 1 else 1]
        assert item == word


@pytest.mark.parametrize("word, code", [(14, "01110"), (12, "01100")])
def test_a_path_is_the_slide_s_code_read_from_its_end(word, code):
    """14 is its own mirror image."""
    _, _, turns = Tree(balanced(32)).paths(mg.backend.asarray([word]))
    assert mg.to_cpu(turns)[0].tolist() == [1 - 2 * int(bit) for bit in reversed(code)]


@pytest.mark.cpu
@given(some_trees, st.data())
def test_the_kernel_climbs_as_the_array_code_does(tree, data):
    words = np.array(data.draw(st.lists(st.integers(0, len(tree)), min_size=1, max_size=9)))
    for fast, slow in zip(Tree(tree).paths(words, fast=True), Tree(tree).paths(words)):
        assert fast.dtype == slow.dtype and (fast == slow).all()


@given(some_trees)
def test_both_forms_of_a_tree_are_the_same_tree(tree):
    v = len(tree) + 1
    assert (lengths(children_of("tree", nested(tree), v)) == lengths(tree)).all()
    counts = np.arange(1, v + 1)
    assert expected_length(counts, nested(tree)) == expected_length(counts, tree)


def test_nested_pairs_are_numbered_from_the_root():
    assert children_of("tree", ((0, 1), (2, (3, 4))), 5).tolist() == [[6, 7], [0, 1], [2, 8], [3, 4]]
    assert children_of("tree", [[0, 1], [2, [3, 4]]], 5).tolist() == [[6, 7], [0, 1], [2, 8], [3, 4]]


def test_the_root_may_be_any_row():
    by_hand = mg.backend.asarray([[0, 1], [3, 2]])  # node 1 has node 0 and the word 2
    assert lengths(children_of("tree", by_hand, 3)).tolist() == [2, 2, 1]


def test_levels_hold_each_node_once_the_root_first():
    tree = Tree(balanced(6))
    assert [mg.to_cpu(nodes).tolist() for nodes in tree.levels] == [[0], [1, 2], [3, 4]]
    assert len(Tree(children_of("tree", chain(50), 50)).levels) == 49


def test_a_chain_of_100_000_words_is_a_tree():
    counts = np.zeros(100_000)
    counts[[0, -1]] = 1
    assert expected_length(counts, chain(100_000)) == (1 + 99_999) / 2


# ---- what is no tree ----------------------------------------------------------------------------------------------


def holds_itself():
    part = [0, 1]
    part[1] = [part, part]
    return part


NO_TREES = {  # of five words
    "a word is missing": (((0, 1), (2, 3)), "word 4 is missing"),
    "a word is there twice": (((0, 1), (2, (3, 3))), "word 3 must be the child of one node, it is 2 times a child"),
    "a word too many": (((0, 1), (2, (3, (4, 0)))), "5 words have 4 nodes, here are more: a word is there twice"),
    "no word of these": (((0, 1), (2, (3, 5))), "a word must be one of 0 to 4, got 5"),
    "less than no word": (((0, 1), (2, (3, -1))), "a word must be at least 0, got -1"),
    "a word that is no number": (((0, 1), (2, (3, "4"))), "a word must be an integer, got str '4'"),
    "one child": (((0, 1), (2, ((3, 4),))), "a node must have two children, got one with 1"),
    "no child": (((0, 1), (2, (3, ()))), "a node must have two children, got one with 0"),
    "three children": ((0, 1, (2, (3, 4))), "a node must have two children, got one with 3"),
    "no node": ((), "a node must have two children, got one with 0"),
    "a list that holds itself": (holds_itself(), "here are more: .* or a list holds itself"),
    "another shape": (
        np.zeros((5, 2), int),
        r"array of children \(4, 2\) for 5 words; got int64\[5, 2\]",
    ),
    "no integers": (np.zeros((4, 2)), r"or an integer array of children \(4, 2\) for 5 words; got float64\[4, 2\]"),
    "nothing": (None, r"must be nested pairs of ids, or an integer array of children .*; got NoneType None"),
    "a function": (huffman, r"must be nested pairs of ids, or an integer array of children .*; got function <function"),
    "an array as a list": (
        [[6, 7], [0, 1], [2, 8], [3, 4]],
        r"a node must have two children, got one with 4 \(an array of children must be an array, not a list\)",
    ),
    "an array with one child": (
        np.array([[6, 7], [0, 1], [2, 8], [3, -1]]),
        r"a child must be a word, 0 to 4, or V \+ n for node n, 5 to 8; got -1",
    ),
    "an array with no such node": (np.array([[6, 7], [0, 1], [2, 8], [3, 9]]), "for node n, 5 to 8; got 9"),
    "an array without a word": (np.array([[6, 7], [0, 1], [2, 8], [3, 3]]), "word 3 must be the child of one node"),
    "an array of two parents": (np.array([[6, 6], [0, 1], [2, 8], [3, 4]]), "node 1 must be the child of one node"),
    "an array with a cycle": (
        np.array([[0, 1], [2, 7], [3, 8], [4, 6]]),
        "node 1 is not below the root, node 0: it is on or below a cycle",
    ),
    "an array with a node that is its own child": (
        np.array([[0, 6], [1, 2], [3, 7], [4, 8]]),
        "node 2 is not below the root, node 0: it is on or below a cycle",
    ),
}


@pytest.mark.parametrize("tree, message", NO_TREES.values(), ids=NO_TREES)
def test_what_is_no_tree_is_refused(tree, message):
    with pytest.raises((ValueError, TypeError), match=f"^losses.expected_length: tree.*{message}"):
        expected_length(np.ones(5), tree)


@pytest.mark.parametrize(
    "tree, message",
    [
        ([[0, 1]], r"give vocab_size=, or an array of children \(V − 1, 2\); got list"),
        (np.zeros((0, 2), int), "vocab_size must be at least 2, got 1"),
        (np.array([[0, 9], [0, 1]]), r"a child must be a word, 0 to 2, or V \+ n for node n, 3 to 4; got 9"),
    ],
)
def test_a_tree_by_itself_says_what_is_wrong_with_it(tree, message):
    with pytest.raises((ValueError, TypeError), match=f"^losses.Tree: {message}"):
        Tree(tree)


def test_a_tree_may_be_given_as_one():
    tree = Tree([[0, 1], [2, [3, 4]]], vocab_size=5)
    assert expected_length([1, 1, 1, 1, 1], tree) == expected_length([1, 1, 1, 1, 1], ((0, 1), (2, (3, 4)))) == 12 / 5
    with pytest.raises(ValueError, match=r"losses.expected_length: tree .* for 3 words; got int64\[4, 2\]"):
        expected_length([1, 1, 1], tree)


def test_counts_whose_sum_overflows_have_a_tree_and_a_mean_length():
    """Of nodes that are as heavy as infinity the queue still knows the order."""
    counts = [15.0, 9.0, 14.0, 13.0, 15.0, 2.0, 11.0]
    huge = [n * 2.0**1020 for n in counts]
    assert math.isinf(sum(huge)) and huffman(huge).tolist() == huffman(counts).tolist()
    assert expected_length(huge, huffman(huge)) == expected_length(counts, huffman(counts))


@pytest.mark.parametrize("build", [huffman, balanced])
def test_one_word_has_no_tree_and_counts_must_be_counts(build):
    with pytest.raises(ValueError, match=rf"losses.{build.__name__}: a tree must have at least 2 words, got 1"):
        build([3.0])
    with pytest.raises(ValueError, match=rf"losses.{build.__name__}: counts must be a list of finite numbers"):
        build([3.0, -1.0])
    with pytest.raises(ValueError, match=r"losses.balanced: words must be at least 2, got 1"):
        balanced(1)


# ---- gensim's tree ------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.cpu
@given(st.lists(st.integers(1, 9), min_size=2, max_size=12))
def test_gensim_s_codes_are_as_long_on_average(counts):
    """It breaks ties in another way."""
    word2vec = pytest.importorskip("gensim.models").Word2Vec
    model = word2vec(vector_size=2, min_count=1, hs=1, negative=0)
    model.build_vocab_from_freq({str(w): n for w, n in enumerate(counts)})
    found = [len(model.wv.get_vecattr(str(w), "code")) for w in range(len(counts))]
    assert (counts * lengths(huffman(counts))).sum() == (np.array(counts) * found).sum()
