"""What must be true of `adaptive_softmax(head_scores, *tail_scores, targets, cutoffs) -> loss, G_head, *G_tails`.

The properties take the function as an argument: the project's own, a reader's, or a mutant that must be caught.
They compute what they expect from the definition, with Python's `math`, not from the chapter.
"""

import math
from itertools import pairwise

import numpy as np

from . import Chapter, Lesson, close


def batches(limit: float = 8.0, dtype: str = "float64", least_clusters: int = 0, targets_below=None):
    """Strategy: (head (B, k_h + J), tails [(n_i, k_i), …], targets (B,), cutoffs), J from 0 to 3.

    targets_below(cutoffs, V): the ranks from which targets are drawn end there; V unless given.
    """
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    # quarters: simple numbers to read in a smallest failing example
    elements = st.integers(round(-4 * limit), round(4 * limit)).map(lambda i: i / 4)

    @st.composite
    def batch(draw):
        sizes = draw(st.lists(st.integers(1, 3), min_size=1 + least_clusters, max_size=4))  # k_h, k_0, k_1, …
        ends = np.cumsum(sizes).tolist()
        below = targets_below(ends[:-1], ends[-1]) if targets_below else ends[-1]
        targets = np.array(draw(st.lists(st.integers(0, below - 1), min_size=1, max_size=4)))
        visits = [int(((a <= targets) & (targets < b)).sum()) for a, b in pairwise(ends)]
        shapes = [(len(targets), sizes[0] + len(sizes) - 1), *zip(visits, sizes[1:], strict=True)]
        places = np.cumsum([n * k for n, k in shapes]).tolist()
        numbers = np.split(draw(hnp.arrays(dtype, places[-1], elements=elements)), places[:-1])
        head, *tails = (some.reshape(shape) for some, shape in zip(numbers, shapes, strict=True))
        return head, tails, targets, ends[:-1]

    return batch()


def with_clusters():
    return batches(least_clusters=1)


def far_batches():
    """The same with scores of ±1000."""
    far = lambda s: np.float32(1000) * np.sign(s + 0.1)
    return batches(dtype="float32").map(lambda b: (far(b[0]), [far(s) for s in b[1]], *b[2:]))


def only_the_head():
    """The same with targets in the head alone."""
    return batches(least_clusters=1, targets_below=lambda cutoffs, vocab_size: cutoffs[0])


def all_words():
    """Strategy: the scores of one context, (k_h + J,) and [(k_i,), …], and the cutoffs."""
    from hypothesis import strategies as st

    one = lambda size: st.lists(st.integers(-16, 16).map(lambda i: i / 4), min_size=size, max_size=size)
    sizes = st.lists(st.integers(1, 3), min_size=1, max_size=4)
    return sizes.flatmap(
        lambda k: st.tuples(
            one(k[0] + len(k) - 1), st.tuples(*(one(n) for n in k[1:])), st.just(np.cumsum(k)[:-1].tolist())
        )
    )


def _softmax(row):
    top = max(row)
    exponentials = [math.exp(s - top) for s in row]
    return [e / sum(exponentials) for e in exponentials]


def _places(targets, cutoffs):
    """Of each target: its column in the head, and (cluster, row of its scores, column), or None."""
    seen, found = [0] * len(cutoffs), []
    for t in targets.tolist():
        cluster = sum(t >= a for a in cutoffs) - 1
        if cluster < 0:
            found.append((t, None))
            continue
        found.append((cutoffs[0] + cluster, (cluster, seen[cluster], t - cutoffs[cluster])))
        seen[cluster] += 1
    return found


def _expected(head, tails, targets, cutoffs):
    """Loss and gradients by the definition."""
    loss = []
    G_head = np.array([_softmax(row) for row in head.tolist()])
    G_tails = [np.array([_softmax(row) for row in s.tolist()]).reshape(s.shape) for s in tails]
    for b, (column, in_cluster) in enumerate(_places(targets, cutoffs)):
        log_p = math.log(max(G_head[b, column], 5e-324))
        G_head[b, column] -= 1
        if in_cluster:
            cluster, row, place = in_cluster
            log_p += math.log(max(G_tails[cluster][row, place], 5e-324))
            G_tails[cluster][row, place] -= 1
        loss.append(-log_p)
    return loss, G_head, G_tails


def one_loss_an_example(f, head, tails, targets, cutoffs):
    given = head.copy(), [s.copy() for s in tails], targets.copy()
    loss, g_head, *g_tails = f(head, *tails, targets=targets, cutoffs=cutoffs)
    unchanged = [(head == given[0]).all(), (targets == given[2]).all()]
    unchanged += [(s == before).all() for s, before in zip(tails, given[1], strict=True)]
    assert all(unchanged), "the function wrote into what it was given"
    assert len(g_tails) == len(tails), f"{len(g_tails)} gradients for {len(tails)} clusters"
    names = ["loss", "G_head", *(f"G of cluster {i}" for i in range(len(tails)))]
    for what, found, shape in zip(
        names, (loss, g_head, *g_tails), (targets.shape, head.shape, *(s.shape for s in tails)), strict=True
    ):
        assert np.shape(found) == shape, f"{what} has shape {np.shape(found)}, expected {shape}"


def loss_is_minus_log_p(f, head, tails, targets, cutoffs):
    expected = _expected(head, tails, targets, cutoffs)[0]
    close(f(head, *tails, targets=targets, cutoffs=cutoffs)[0], expected, "the loss")


def probabilities_add_up_to_one(f, head, tails, cutoffs):
    vocab_size = (cutoffs[0] if cutoffs else len(head)) + sum(map(len, tails))
    rows = [np.tile(np.array(s), (len(s), 1)) for s in tails]
    scores = np.tile(np.array(head), (vocab_size, 1))
    loss = f(scores, *rows, targets=np.arange(vocab_size), cutoffs=cutoffs)[0]
    close(np.exp(-np.asarray(loss)).sum(), 1.0, "the sum of the probabilities of all words")


def who_stays_in_the_head_has_a_softmax(f, head, tails, targets, cutoffs):
    loss, g_head, *g_tails = f(head, *tails, targets=targets, cutoffs=cutoffs)
    expected, of_head, _ = _expected(head, tails, targets, cutoffs)
    close(loss, expected, "the loss where no cluster is visited")
    close(g_head, of_head, "G_head where no cluster is visited")
    assert all(np.size(g) == 0 for g in g_tails), "a cluster that is not visited has a gradient"


def all_is_right_far_from_zero(f, head, tails, targets, cutoffs):
    with np.errstate(all="ignore"):
        loss, g_head, *g_tails = f(head, *tails, targets=targets, cutoffs=cutoffs)
    far = lambda row, place: max(row) - row[place] + math.log(sum(s == max(row) for s in row))
    expected = []
    for row, (column, in_cluster) in zip(head.tolist(), _places(targets, cutoffs), strict=True):
        of_cluster = far(tails[in_cluster[0]][in_cluster[1]].tolist(), in_cluster[2]) if in_cluster else 0.0
        expected.append(far(row, column) + of_cluster)
    close(loss, expected, "the loss", 1e-6)
    _, of_head, of_tails = _expected(head, tails, targets, cutoffs)
    for found, wanted in zip((g_head, *g_tails), (of_head, *of_tails), strict=True):
        close(found, wanted, "G", 1e-6)


def float32_stays_float32(f, head, tails, targets, cutoffs):
    for found in f(head, *tails, targets=targets, cutoffs=cutoffs):
        assert found.dtype == "float32", f"a {found.dtype} comes of float32 scores"


def gradient_of_the_head(f, head, tails, targets, cutoffs):
    expected = _expected(head, tails, targets, cutoffs)[1]
    close(f(head, *tails, targets=targets, cutoffs=cutoffs)[1], expected, "G_head")


def gradient_of_a_cluster(f, head, tails, targets, cutoffs):
    expected = _expected(head, tails, targets, cutoffs)[2]
    found = f(head, *tails, targets=targets, cutoffs=cutoffs)[2:]
    for i, (g, wanted) in enumerate(zip(found, expected, strict=True)):
        close(g, wanted, f"G of cluster {i}")


def gradient_is_the_derivative_of_the_loss(f, head, tails, targets, cutoffs):
    h, scores = 1e-6, [head, *tails]
    gradients = f(*scores, targets=targets, cutoffs=cutoffs)[1:]
    for which, g in enumerate(gradients):
        for column in range(scores[which].shape[1]):
            sides = []
            for step in (h, -h):
                moved = [s.copy() for s in scores]
                moved[which][:, column] += step
                sides.append(np.sum(f(*moved, targets=targets, cutoffs=cutoffs)[0]))
            slope = (sides[0] - sides[1]) / (2 * h)
            where = "the head" if which == 0 else f"cluster {which - 1}"
            close(np.sum(g, axis=0)[column], slope, f"Σ G[:, {column}] of {where}", 1e-6)


CHAPTER = Chapter(
    name="adaptive",
    module="losses.structured.adaptive",
    function="adaptive_softmax",
    signature="adaptive_softmax(head_scores (B, k_h + J), *tail_scores (n_i, k_i), targets (B,), cutoffs) "
    "-> loss (B,), G_head (B, k_h + J), *G_tails (n_i, k_i)",
    lessons=(
        Lesson(
            "one loss an example, one gradient a score",
            "(3)",
            """The function is pure: it gives one loss an example and one gradient a score, also for a cluster that
            nobody visits, (0, k_i), and leaves the scores as they are. Means over the batch are the layer's.""",
            batches,
            one_loss_an_example,
        ),
        Lesson(
            "the loss is −log P of the target",
            "(1)",
            """P(w | h) of a word of cluster i is p_{k_h + i}, what the head has for the cluster, times P_i(w | h). The
            clusters stand behind the head's words, the first one first; a rank that is a cut-off is the first word of
            its cluster; and a cluster's rows are those of its examples, in their order.""",
            batches,
            loss_is_minus_log_p,
        ),
        Lesson(
            "the probabilities of all words add up to one",
            "(1)",
            """The head is normalised over its words and its clusters, each cluster over its own words. Then the
            product of both needs no sum over V.""",
            all_words,
            probabilities_add_up_to_one,
        ),
        Lesson(
            "who stays in the head has a softmax",
            "(3)",
            """A target in the head costs the head alone. A cluster without examples has no loss, no gradient, and no
            mean of nothing.""",
            only_the_head,
            who_stays_in_the_head_has_a_softmax,
        ),
        Lesson(
            "all is right far from zero",
            "(3)",
            """The loss is a sum of two cross-entropies, and each of them is finite. The logarithm of a product of two
            probabilities is that of 0 where one of them underflows.""",
            far_batches,
            all_is_right_far_from_zero,
        ),
        Lesson(
            "float32 stays float32",
            "(3)",
            """A float64 scalar or array among the operands turns all that follows into float64: twice the memory, half
            the speed.""",
            lambda: batches(dtype="float32"),
            float32_stays_float32,
        ),
        Lesson(
            "G of the head is p − 1 at the word or its cluster",
            "(4)",
            """For the head a cluster is a word: a target that lies in it lifts the cluster's score.""",
            with_clusters,
            gradient_of_the_head,
        ),
        Lesson(
            "G of a cluster is P_i − 1 at the word",
            "(4)",
            """Of those examples whose target lies there, and as it is: the head's probability of the cluster is no
            factor of it, for log P is a sum.""",
            with_clusters,
            gradient_of_a_cluster,
        ),
        Lesson(
            "G is the derivative of the loss",
            "(4)",
            """The loss and G must be of the same function: what is scaled or left out in one is so in the other.""",
            with_clusters,
            gradient_is_the_derivative_of_the_loss,
        ),
    ),
)
