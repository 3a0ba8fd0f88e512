"""Sabotage: wrong versions of the hierarchical softmax, each with the lesson that must not let it pass."""

import numpy as np
import pytest

import minigrad as mg
from losses.check import smallest_failure
from losses.structured.hierarchical import hierarchical_softmax as sound
from losses.structured.hierarchical import path_scores, sums_down
from losses.structured.trees import Tree, huffman
from losses.suites.hierarchical import CHAPTER

pytestmark = [pytest.mark.hierarchical, pytest.mark.cpu]
softplus, sigmoid = mg.softplus, mg.sigmoid


def sides_changed(scores, *, turns):
    return sound(scores, turns=-turns)


def sides_changed_in_the_gradient(scores, *, turns):
    return sound(scores, turns=turns)[0], sound(scores, turns=-turns)[1]


def every_turn_to_the_first_child(scores, *, turns):
    return sound(scores, turns=abs(turns))


def turn_forgotten_in_the_gradient(scores, *, turns):
    return sound(scores, turns=turns)[0], sound(scores, turns=abs(turns))[1]


def gradient_without_minus_one(scores, *, turns):
    loss, g = sound(scores, turns=turns)
    return loss, g + (turns == 1)


def gradient_of_the_probability_of_the_other_side(scores, *, turns):
    return sound(scores, turns=turns)[0], -turns * sigmoid(turns * np.where(turns == 0, 0, scores))


def sign_of_the_gradient_lost(scores, *, turns):
    loss, g = sound(scores, turns=turns)
    return loss, -g


def averaged_over_the_path(scores, *, turns):
    (loss, g), length = sound(scores, turns=turns), abs(turns).sum(axis=1)
    return loss / length, g / length[:, None]


def averaged_in_the_gradient_only(scores, *, turns):
    (loss, g), length = sound(scores, turns=turns), abs(turns).sum(axis=1)
    return loss, g / length[:, None]


def last_decision_only(scores, *, turns):
    return sound(scores, turns=np.where(np.arange(turns.shape[1]) == 0, turns, 0))


def log_2_for_the_filling(scores, *, turns):
    margins = np.where(turns == 0, 0, turns * scores)
    return softplus(-margins).sum(axis=1), sound(scores, turns=turns)[1]


def filling_multiplied_away(scores, *, turns):
    loss = (softplus(-turns * scores) * abs(turns)).sum(axis=1)
    return loss, -turns * sigmoid(-turns * scores)


def filling_scored_as_the_second_child(scores, *, turns):
    return sound(scores, turns=np.where(turns == 1, 1, -1))


def filling_with_a_gradient(scores, *, turns):
    loss, g = sound(scores, turns=turns)
    return loss, g + 0.5 * (turns == 0)


def log_of_sigma(scores, *, turns):
    p = 1 / (1 + np.exp(-turns * np.where(turns == 0, 0, scores)))
    return -np.where(turns == 0, 0, np.log(p)).sum(axis=1), sound(scores, turns=turns)[1]


def log_of_one_plus_exp(scores, *, turns):
    margins = turns * np.where(turns == 0, 0, scores)
    return (np.log(1 + np.exp(-margins)) * abs(turns)).sum(axis=1), sound(scores, turns=turns)[1]


def log_of_the_product(scores, *, turns):
    p = np.where(turns == 0, 1, sigmoid(turns * np.where(turns == 0, 0, scores)))
    return -np.log(p.prod(axis=1)), sound(scores, turns=turns)[1]


def sigma_clipped(scores, *, turns):
    p = np.maximum(sigmoid(turns * np.where(turns == 0, 0, scores)), 1e-7)
    return -np.where(turns == 0, 0, np.log(p)).sum(axis=1), sound(scores, turns=turns)[1]


def scores_clipped(scores, *, turns):
    return sound(np.clip(scores, -6, 6), turns=turns)


def exp_over_one_plus_exp(scores, *, turns):
    margins = -turns * np.where(turns == 0, 0, scores)
    return sound(scores, turns=turns)[0], -turns * (np.exp(margins) / (1 + np.exp(margins)))


def mean_over_the_batch_inside(scores, *, turns):
    loss, g = sound(scores, turns=turns)
    return loss.mean(), g / len(scores)


def gradient_of_the_mean(scores, *, turns):
    loss, g = sound(scores, turns=turns)
    return loss, g / len(scores)


def filled_in_place(scores, *, turns):
    scores[turns == 0] = 7.0
    return sound(scores, turns=turns)


def turns_of_64_bits(scores, *, turns):
    loss, g = sound(scores, turns=turns)
    return loss, g * turns.astype("int64") ** 2


def a_float64_constant(scores, *, turns):
    loss, g = sound(scores, turns=turns)
    return loss * np.float64(1), g


SUM, FILLING, FAR = (
    "the loss is the sum of −log σ(y s)",
    "the filling counts nothing",
    "the loss is right far from zero",
)
ONE = "the probabilities of all words add up to one"
G, G_FAR = "G is σ(s) − 1 on the way to the first child, σ(s) to the second", "G is right far from zero"
SLOPE, BEST = "G is the derivative of the loss", "each node learns the log-odds of its two sides"
PURE, TYPE = "one loss an example", "float32 stays float32"

SABOTAGE = [
    (sides_changed, SUM),
    (sides_changed, G),
    (sides_changed, BEST),
    (sides_changed_in_the_gradient, G),
    (sides_changed_in_the_gradient, SLOPE),
    (sides_changed_in_the_gradient, BEST),
    (every_turn_to_the_first_child, SUM),
    (every_turn_to_the_first_child, ONE),
    (turn_forgotten_in_the_gradient, G),
    (turn_forgotten_in_the_gradient, BEST),
    (gradient_without_minus_one, G),
    (gradient_without_minus_one, SLOPE),
    (gradient_without_minus_one, BEST),
    (gradient_of_the_probability_of_the_other_side, G),
    (sign_of_the_gradient_lost, G),
    (sign_of_the_gradient_lost, SLOPE),
    (averaged_over_the_path, SUM),
    (averaged_over_the_path, ONE),
    (averaged_over_the_path, G),
    (averaged_in_the_gradient_only, SLOPE),
    (averaged_in_the_gradient_only, BEST),
    (last_decision_only, SUM),
    (last_decision_only, ONE),
    (log_2_for_the_filling, FILLING),
    (log_2_for_the_filling, ONE),
    (filling_multiplied_away, FILLING),
    (filling_scored_as_the_second_child, FILLING),
    (filling_with_a_gradient, FILLING),
    (log_of_sigma, FAR),
    (log_of_one_plus_exp, FAR),
    (log_of_the_product, FAR),
    (sigma_clipped, FAR),
    (scores_clipped, FAR),
    (exp_over_one_plus_exp, G_FAR),
    (mean_over_the_batch_inside, PURE),
    (gradient_of_the_mean, G),
    (gradient_of_the_mean, SLOPE),
    (filled_in_place, PURE),
    (turns_of_64_bits, TYPE),
    (a_float64_constant, TYPE),
]
LESSONS = {lesson.name: lesson for lesson in CHAPTER.lessons}


@pytest.mark.parametrize("mutant, lesson", SABOTAGE, ids=[f"{m.__name__}-{LESSONS[n].step}" for m, n in SABOTAGE])
def test_the_lesson_does_not_let_the_mutant_pass(mutant, lesson):
    assert smallest_failure(LESSONS[lesson], mutant) is not None


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.holds.__name__)
def test_every_lesson_lets_the_sound_function_pass_and_has_a_mutant(lesson):
    assert smallest_failure(lesson, sound, max_examples=50) is None
    assert lesson.name in {name for _, name in SABOTAGE}


def test_lessons_blame_the_right_step():
    """With sides changed throughout it is a model all the same, but of another word."""

    def passes(lesson, mutant):
        return smallest_failure(LESSONS[lesson], mutant, max_examples=50) is None

    assert passes(ONE, sides_changed) and passes(SLOPE, sides_changed)
    assert passes(SUM, sides_changed_in_the_gradient)
    assert passes(SUM, log_2_for_the_filling) and passes(G, log_2_for_the_filling), (
        "the trap of the chapter's last lines"
    )


# ---- trees --------------------------------------------------------------------------------------------------------


def cost(children, counts):
    return (mg.to_cpu(Tree(children).depth)[: len(counts)] * counts).sum()


def joined(counts, choose):
    """A tree by joining two parts, which `choose(weights)` names, until there is one."""
    parts, children = [(float(c), w) for w, c in enumerate(counts)], []
    while len(parts) > 1:
        i, j = choose([weight for weight, _ in parts])
        children.append([parts[i][1], parts[j][1]])
        parts.append((parts[i][0] + parts[j][0], len(counts) + len(children) - 1))
        parts = [part for n, part in enumerate(parts) if n not in (i, j)]
    return np.array(children)


COUNTS = [9, 7, 4, 4, 2, 1, 1]
RULES = {
    "the two rarest": lambda w: np.argsort(w, kind="stable")[:2],
    "the two most frequent": lambda w: np.argsort(w, kind="stable")[-2:],
    "the rarest and the most frequent": lambda w: np.argsort(w, kind="stable")[[0, -1]],
    "the first two": lambda w: (0, 1),
    "the rarest word, and what was joined last": lambda w: (np.argsort(w[:-1], kind="stable")[0], len(w) - 1),
}


@pytest.mark.parametrize("rule", RULES)
def test_only_to_join_the_two_rarest_is_as_good_as_huffman(rule):
    """The other rules are seen by the comparison with all trees, `test_step_5_of_all_trees_huffman_s_is_the_best`."""
    worse = cost(joined(COUNTS, RULES[rule]), COUNTS) > cost(huffman(COUNTS), COUNTS)
    assert worse == (rule != "the two rarest")


@pytest.mark.parametrize("wrong", ["the root is left out", "the last level is left out", "the sides are changed"])
def test_sums_that_miss_a_level_do_not_add_up_to_one(wrong):
    """Nor does what is summed from the wrong sides, if sides differ."""
    tree = Tree(huffman(COUNTS))
    scores = np.linspace(-1.0, 2.0, 6)[:, None]
    ways = np.stack([-np.logaddexp(0, -scores), -np.logaddexp(0, scores)], axis=1)
    right = np.exp(sums_down(ways, tree=tree))
    assert np.isclose(right.sum(), 1, rtol=1e-12)
    if wrong == "the sides are changed":
        assert not np.allclose(np.exp(sums_down(ways[:, ::-1], tree=tree)), right)
        return
    levels = tree.levels
    vars(tree)["levels"] = levels[1:] if wrong == "the root is left out" else levels[:-1]
    assert not np.isclose(np.exp(sums_down(ways, tree=tree)).sum(), 1, rtol=1e-3)


# ---- the rows -----------------------------------------------------------------------------------------------------


def test_a_row_that_is_overwritten_instead_of_added_to_is_seen():
    """The root is on every path, so that its gradient is a sum over the batch."""
    tree, hidden, weight = Tree(huffman(COUNTS)), mg.param(np.eye(3)), mg.param(np.ones((6, 3)))
    nodes, places, turns = tree.paths(np.array([0, 0, 6]))
    path_scores(hidden, weight, nodes=nodes, places=places, length=turns.shape[1]).sum().backward()
    overwritten = np.zeros((6, 3))
    overwritten[weight.grad.ids] = weight.grad.values
    assert (weight.grad.dense()[tree.root] == 1).all()
    assert (overwritten[tree.root] == [0, 0, 1]).all()
