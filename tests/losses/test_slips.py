"""Where the slides slip: for each row of the table in README.md a test that shows what holds."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from losses import NCE, HardNegatives, NegativeSampling, vmf_log_normaliser
from losses.sampled.hard import margin_loss
from losses.sampled.importance import importance_sampling
from losses.samplers import Uniform

from .properties import gradients, layer_with_scores, where_tensors_are_made

pytestmark = pytest.mark.slips

ROOT = Path(__file__).parents[2]


# ---- Importance Sampling: "this is a biased estimator" --------------------------------------------------------------

S, Q = np.array([1.0, 0.0, -1.0]), np.array([0.2, 0.3, 0.5])
Z = np.exp(S).sum()


def estimates_of_z(n):
    """(chance, Ẑ) of every draw of n words: by the slide's formula, which is what the page's function computes."""
    draws = np.array(list(itertools.product(range(3), repeat=n)))  # (3ⁿ, n)
    z = (np.exp(S[draws]) / Q[draws]).mean(axis=1)
    log_z = where_tensors_are_made(importance_sampling)(
        np.zeros(len(draws)), S[draws], log_count_noise=np.log(n * Q[draws])
    )[0]
    assert np.allclose(np.exp(log_z), z, rtol=1e-12)
    return Q[draws].prod(axis=1), z


@pytest.mark.parametrize("n", [1, 2, 5])
def test_importance_sampling_estimates_z_without_bias(n):
    chance, z = estimates_of_z(n)
    assert math.isclose(chance @ z, Z, rel_tol=1e-12)


def test_importance_sampling_has_too_small_a_logarithm_and_too_large_an_inverse_the_more_the_smaller_n():
    all_draws = [estimates_of_z(n) for n in (1, 2, 5)]
    logarithm = [chance @ np.log(z) - math.log(Z) for chance, z in all_draws]
    inverse = [chance @ (1 / z) - 1 / Z for chance, z in all_draws]
    assert logarithm[0] < logarithm[1] < logarithm[2] < -0.01
    assert inverse[0] > inverse[1] > inverse[2] > 0.01


# ---- Simple Negative Sampling: "biased when k = |V| or Q is not uniform" --------------------------------------------

P = np.array([0.5, 0.25, 0.15, 0.1])


def gradient_at_log_p(make, k, q):
    return abs(gradients(*layer_with_scores(make, np.log(P), np.array(q), k), P)[1]).max()


def test_negative_sampling_is_unbiased_when_k_is_v_and_q_is_uniform():
    assert gradient_at_log_p(NegativeSampling, 4, [0.25] * 4) < 1e-14
    layers = [make(4, 2, key=mg.Key(0), k=4, sampler=Uniform(4), bias=False) for make in (NCE, NegativeSampling)]
    one, other = (layer.loss(np.ones((3, 2), "float32"), [0, 1, 3], key=mg.Key(1)).item() for layer in layers)
    assert one == other, "for it is noise contrastive estimation"


@pytest.mark.parametrize("k, q", [(2, [0.25] * 4), (3, [0.25] * 4), (4, [0.1, 0.2, 0.3, 0.4])])
def test_negative_sampling_is_biased_when_k_is_not_v_or_q_is_not_uniform(k, q):
    assert gradient_at_log_p(NegativeSampling, k, q) > 0.01
    assert gradient_at_log_p(NCE, k, q) < 1e-14


# ---- Simple Negative Sampling; Mini-batch Based Negative Sampling: the years ----------------------------------------


def years(text, name):
    """The year that comes next after each place where the text names somebody."""
    return [int(year) for year in re.findall(rf"{name}\b(?:(?!{name}).){{0,300}}?\b((?:19|20)\d\d)\b", text, re.DOTALL)]


@pytest.mark.parametrize("name, year, slide", [("Mikolov", 2013, 2012), ("Zoph", 2016, 2015)])
def test_years_are_those_of_the_papers_on_every_page(name, year, slide):
    """And never the slide's; README's table, which tells of it, is no page. (Other papers have other years.)"""
    pages = [*ROOT.glob("losses/**/*.py"), *ROOT.glob("demos/**/*.py")]
    found = [(page.name, y) for page in sorted(pages) for y in years(page.read_text("utf-8"), name)]
    assert sum(y == year for _, y in found) >= 2
    assert [(page, y) for page, y in found if y == slide] == []


def test_years_are_read_where_they_stand():
    assert years("Mikolov et al. (NIPS 2013; the slide says 2012) and Mikolov, 2012", "Mikolov") == [2013, 2012]
    assert years("Mikolov, Zoph 2016", "Zoph") == [2016]


# ---- Hard Negative Mining: "the top n", and one ŷ -------------------------------------------------------------------


def test_hard_ones_are_n_losses_of_the_slide_added_up():
    right, wrong = np.array([1.0]), np.array([[1.5, 0.75, -3.0]])
    slide = [max(0.0, 1 + s - 1.0) for s in wrong[0]]
    assert slide == [1.5, 0.75, 0.0]
    assert where_tensors_are_made(margin_loss)(right, wrong)[0].tolist() == [sum(slide)]


def test_hard_ones_must_be_wrong():
    """With ŷ = y the slide's formula is 1 for all scores, and no training lowers it."""
    for score in (-5.0, 0.0, 5.0):
        loss, g_target, g_negative = where_tensors_are_made(margin_loss)(np.array([score]), np.array([[score]]))
        assert loss.tolist() == [1.0] and (g_target + g_negative.sum(axis=1)).tolist() == [0.0]
    layer = HardNegatives(4, 1, key=mg.Key(0), n=1)
    layer.weight.data[:] = mg.backend.asarray([[9.0], [8.5], [0.0], [0.0]], "float32")
    assert layer.loss(np.ones((1, 1), "float32"), [0]).item() == 0.5, "the best wrong word, though the right is better"


# ---- Embedding Prediction: "close on the unit ball" -----------------------------------------------------------------


def density(kappa, cosine):
    """Von Mises and Fisher's in three dimensions, C₃(κ) e^{κ cos θ}, θ the angle to the mean direction."""
    return np.exp(float(vmf_log_normaliser(3, kappa)) + kappa * cosine)


@pytest.mark.parametrize("kappa", [0.1, 1.0, 10.0])
def test_sphere_not_ball_is_where_the_von_mises_fisher_density_adds_up_to_one(kappa):
    nodes, weights = np.polynomial.legendre.leggauss(60)  # exact, but for rounding, for functions as smooth as these
    radius, d_radius = (nodes + 1) / 2, weights / 2

    over_the_sphere = 2 * math.pi * (weights * density(kappa, nodes)).sum()  # a ring at cos θ has the area 2π d cos θ
    inner = density(kappa, radius[:, None] * nodes)  # e^{κ μ·x} at |x| = r
    over_the_ball = (d_radius * radius**2 * 2 * math.pi * (inner @ weights)).sum()

    assert math.isclose(over_the_sphere, 1.0, rel_tol=1e-12)
    assert over_the_ball < 0.4, "the rest of it would be missing"


# ---- the table ------------------------------------------------------------------------------------------------------


def test_each_row_of_the_table_has_its_tests_and_each_test_its_row():
    _, _, table = (ROOT / "README.md").read_text("utf-8").partition("\n## Where the slides slip\n")
    rows = set(re.findall(r"`-k (\w+)`", table.partition("\n## ")[0]))
    named = {name.split("_")[1] for name in globals() if name.startswith("test_")} - {"each"}
    assert rows == named == {"importance", "negative", "years", "hard", "sphere"}
