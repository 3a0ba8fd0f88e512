"""What must be true of `hierarchical_softmax(node_scores, *, turns) -> loss, G`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter.
"""

import math

import numpy as np

from . import Chapter, Lesson, close


def paths(limit: float = 8.0, dtype: str = "float64"):
    """Strategy: (node_scores (B, L), turns (B, L) int8), B and L from 1; each path has a node, and then filling: 0."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    # quarters: simple numbers to read in a smallest failing example
    elements = st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)

    def of_size(size):
        batch, length = size
        lengths = hnp.arrays("int64", (batch, 1), elements=st.integers(1, length))
        ways = hnp.arrays("int8", size, elements=st.sampled_from([1, -1]))
        turns = st.builds(lambda y, n: np.where(np.arange(length) < n, y, 0).astype("int8"), ways, lengths)
        return st.tuples(hnp.arrays(dtype, size, elements=elements), turns)

    return st.tuples(st.integers(1, 3), st.integers(1, 4)).flatmap(of_size)


def whole_paths():
    """The same without filling: all as long as the longest."""
    return paths().map(lambda pair: (pair[0], np.where(pair[1] == 0, 1, pair[1]).astype("int8")))


def far_paths():
    """The same with scores of ±1000."""
    return paths(dtype="float32").map(lambda pair: (np.float32(1000) * np.sign(pair[0] + 0.1), pair[1]))


def paths_with_rubbish():
    """The same, with a column more of filling, and in all of it a number that is no node's."""
    from hypothesis import strategies as st

    def filled(pair, rubbish):
        scores, turns = (np.concatenate([a, 0 * a[:, :1]], axis=1) for a in pair)
        return np.where(turns == 0, rubbish, scores), turns

    return st.builds(filled, paths(), st.sampled_from([5.0, math.inf, math.nan]))


def trees():
    """Strategy: (tree, scores (V − 1,), p (V,)): nested pairs of V = 2 to 5 words, and a distribution over them."""
    from hypothesis import strategies as st

    def grown(words, sizes):
        """The words, of which at each node a part goes left."""
        if len(words) == 1:
            return words[0]
        left = 1 + sizes.pop() % (len(words) - 1)
        return grown(words[:left], sizes), grown(words[left:], sizes)

    def of_size(v):
        shape = st.lists(st.integers(0, 3), min_size=v - 1, max_size=v - 1)
        scores = st.lists(st.integers(-8, 8).map(lambda i: i / 4), min_size=v - 1, max_size=v - 1).map(np.array)
        weights = st.lists(st.integers(1, 5), min_size=v, max_size=v).map(lambda w: np.array(w) / sum(w))
        words = st.permutations(range(v))
        return st.tuples(st.builds(lambda w, s: grown(list(w), list(s)), words, shape), scores, weights)

    return st.integers(2, 5).flatmap(of_size)


def written_out(tree):
    """nodes (V, L) and turns (V, L) of the words of nested pairs, nodes by their number from the left, 0 as filling."""
    ways, number = {}, iter(range(100))

    def walk(part, way):
        if isinstance(part, tuple):
            node = next(number)
            walk(part[0], [*way, (node, 1)])
            walk(part[1], [*way, (node, -1)])
        else:
            ways[part] = way

    walk(tree, [])
    length = max(map(len, ways.values()))
    filled = np.array([ways[w] + [(0, 0)] * (length - len(ways[w])) for w in range(len(ways))])
    return filled[:, :, 0], filled[:, :, 1].astype("int8")


def minus_log_sigma(x):
    return math.log1p(math.exp(-x))


def one_loss_an_example(f, node_scores, turns):
    given = node_scores.copy(), turns.copy()
    loss, g = f(node_scores, turns=turns)
    same = (node_scores == given[0]).all() and (turns == given[1]).all()
    assert same, "the function wrote into what it was given"
    for what, found, shape in (("loss", loss, node_scores.shape[:1]), ("G", g, node_scores.shape)):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def loss_is_the_sum_of_minus_log_sigma(f, node_scores, turns):
    expected = [
        sum(minus_log_sigma(y * s) for s, y in zip(row, ys, strict=True))
        for row, ys in zip(node_scores.tolist(), turns.tolist(), strict=True)
    ]
    close(f(node_scores, turns=turns)[0], expected, "the loss")


def filling_counts_nothing(f, node_scores, turns):
    with np.errstate(all="ignore"):
        loss, g = f(node_scores, turns=turns)
    expected = [
        sum(minus_log_sigma(y * s) for s, y in zip(row, ys, strict=True) if y)
        for row, ys in zip(node_scores.tolist(), turns.tolist(), strict=True)
    ]
    close(loss, expected, "the loss")
    close(np.where(turns == 0, np.asarray(g), 0.0), np.zeros(turns.shape), "G of the filling")


def loss_is_right_far_from_zero(f, node_scores, turns):
    with np.errstate(all="ignore"):
        loss = f(node_scores, turns=turns)[0]
    close(loss, np.maximum(-turns * node_scores, 0).sum(axis=1), "the loss", 1e-6)


def gradient_is_right_far_from_zero(f, node_scores, turns):
    with np.errstate(all="ignore"):
        g = f(node_scores, turns=turns)[1]
    close(g, np.where(turns * node_scores < 0, -turns, 0.0), "G", 1e-6)


def float32_stays_float32(f, node_scores, turns):
    for what, found in zip(("loss", "G"), f(node_scores, turns=turns), strict=True):
        assert found.dtype == "float32", f"{what} is {found.dtype} for float32 scores"


def probabilities_add_up_to_one(f, tree, scores, p):
    nodes, turns = written_out(tree)
    close(np.exp(-np.asarray(f(scores[nodes], turns=turns)[0])).sum(), 1.0, "Σ_w exp(−L(w))")


def gradient_is_sigma_minus_one_on_the_first_side(f, node_scores, turns):
    expected = [
        [(1 / (1 + math.exp(-s)) - (y == 1)) * abs(y) for s, y in zip(row, ys, strict=True)]
        for row, ys in zip(node_scores.tolist(), turns.tolist(), strict=True)
    ]
    close(f(node_scores, turns=turns)[1], expected, "G")


def gradient_is_the_derivative_of_the_loss(f, node_scores, turns):
    h = 1e-6
    g = np.asarray(f(node_scores, turns=turns)[1])
    for j in range(turns.shape[1]):
        step = h * (np.arange(turns.shape[1]) == j)
        sides = [np.asarray(f(node_scores + sign * step, turns=turns)[0]) for sign in (1, -1)]
        close(g[:, j], (sides[0] - sides[1]) / (2 * h), f"G[:, {j}]", 1e-6)


def optimum_is_the_log_odds_of_both_sides(f, tree, scores, p):
    """The mean gradient over the words, by their probability p, at s_n = log(p below the first / below the second)."""
    nodes, turns = written_out(tree)
    below = [[p[(turns * (nodes == n)).sum(axis=1) == y].sum() for y in (1, -1)] for n in range(len(p) - 1)]
    best = np.array([math.log(first / second) for first, second in below])
    mean = np.zeros(len(p) - 1)
    np.add.at(mean, nodes, p[:, None] * np.asarray(f(best[nodes], turns=turns)[1]))
    close(mean, np.zeros(len(p) - 1), "the mean gradient at the log-odds")


CHAPTER = Chapter(
    name="hierarchical",
    module="losses.structured.hierarchical",
    function="hierarchical_softmax",
    signature="hierarchical_softmax(node_scores (B, L), *, turns (B, L) of 1, −1 and 0) -> loss (B,), G (B, L)",
    lessons=(
        Lesson(
            "one loss an example",
            "(1)",
            """The function is pure: it gives one loss an example and one gradient a node, and leaves the scores as they
            are. Means over the batch are the layer's.""",
            paths,
            one_loss_an_example,
        ),
        Lesson(
            "the loss is the sum of −log σ(y s)",
            "(3)",
            """P is a product of decisions, so −log P is a sum, one −log σ(y s) for each node: not an average over the
            path, and with y = +1, the first child, where a high score says so.""",
            whole_paths,
            loss_is_the_sum_of_minus_log_sigma,
        ),
        Lesson(
            "the filling counts nothing",
            "(3)",
            """Where turns is 0 there is no node, and the score is of nothing, be it NaN. 0 · NaN is NaN: choose (where)
            instead of multiplying. And softplus(0) is log 2, not 0.""",
            paths_with_rubbish,
            filling_counts_nothing,
        ),
        Lesson(
            "the loss is right far from zero",
            "(3)",
            """−log σ(−1000) is 1000, but σ(−1000) is 0 in floating point and its logarithm infinite. softplus(x) =
            max(x, 0) + log(1 + e^−|x|) takes no exponential of a large number.""",
            far_paths,
            loss_is_right_far_from_zero,
        ),
        Lesson(
            "float32 stays float32",
            "(3)",
            """A float64 number or an array of int64 (int8 would not) among the operands turns all that follows into
            float64: twice the memory, half the speed. Cast the turns to the type of the scores.""",
            lambda: paths(dtype="float32"),
            float32_stays_float32,
        ),
        Lesson(
            "the probabilities of all words add up to one",
            "(2)",
            """σ(s) goes to one side and σ(−s) = 1 − σ(s) to the other, so nothing is lost on the way down, whatever the
            tree and the scores.""",
            trees,
            probabilities_add_up_to_one,
        ),
        Lesson(
            "G is σ(s) − 1 on the way to the first child, σ(s) to the second",
            "(4)",
            """softplus(−y s) has the derivative −y σ(−y s): a step raises the score where the way goes to the first
            child, and lowers it where it goes to the second.""",
            paths,
            gradient_is_sigma_minus_one_on_the_first_side,
        ),
        Lesson(
            "G is right far from zero",
            "(4)",
            """σ(1000) is 1 and σ(−1000) is 0; e^1000 / (1 + e^1000) is inf / inf, not a number.""",
            far_paths,
            gradient_is_right_far_from_zero,
        ),
        Lesson(
            "G is the derivative of the loss",
            "(4)",
            """The loss and G must be of the same function: what is scaled or left out in one is so in the other.""",
            paths,
            gradient_is_the_derivative_of_the_loss,
        ),
        Lesson(
            "each node learns the log-odds of its two sides",
            "(5)",
            """Where s_n is the logarithm of the probability below the first child over that below the second, words of
            both sides pull equally. If they don't, one side has the wrong sign or weight.""",
            trees,
            optimum_is_the_log_odds_of_both_sides,
        ),
    ),
)
