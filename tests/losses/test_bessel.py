"""The normaliser of von Mises and Fisher: a test for each numbered step of `losses.structured.bessel`; mpmath."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from losses import vmf_log_normaliser, vmf_mean_resultant
from losses.structured.bessel import (
    LARGEST,
    LEAST_ORDER,
    C,
    growth_and_ratio_at,
    log_normaliser_and_ratio,
    log_normaliser_naive,
)

pytestmark = pytest.mark.vmf

DIMS = [2, 3, 4, 5, 10, 31, 100, 255, 256, 257, 258, 259, 300, 511, 768, 1024, 1999, 2000]
fewer = settings(max_examples=max(5, settings().max_examples // 4))  # where an example takes its time
KAPPAS = 10.0 ** np.arange(-3, 4.01, 0.5)


def dims(most=2000):
    return st.integers(2, most)


def kappas(low=-3.0, high=4.0):
    """From 10^low to 10^high, evenly in their logarithm."""
    return st.floats(low, high).map(lambda x: 10.0**x)


def log_c(dim, kappa):
    return mg.to_cpu(vmf_log_normaliser(dim, mg.backend.asarray(kappa, "float64")))


def mean_resultant(dim, kappa):
    return mg.to_cpu(vmf_mean_resultant(dim, mg.backend.asarray(kappa, "float64")))


# ---- the numbers --------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("dim", DIMS)
def test_step_1_log_c_and_a_are_right_to_eleven_digits_in_2_to_2000_dimensions(dim):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(30):
        for kappa, found, ratio in zip(KAPPAS, log_c(dim, KAPPAS), mean_resultant(dim, KAPPAS), strict=True):
            nu, k = mpmath.mpf(dim) / 2 - 1, mpmath.mpf(float(kappa))
            bessel, next_one = (mpmath.besseli(n, k, maxterms=10**6) for n in (nu, nu + 1))
            expected = nu * mpmath.log(k) - mpmath.mpf(dim) / 2 * mpmath.log(2 * mpmath.pi) - mpmath.log(bessel)
            assert abs(found - expected) <= 1e-11 * max(1, abs(expected))
            assert abs(ratio - next_one / bessel) <= 1e-12 * (next_one / bessel)


@pytest.mark.oracle
@pytest.mark.parametrize("dim", [2, 3, 300, 2000])
def test_step_1_kappa_of_a_million_is_no_exception(dim):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(30):
        nu, k = mpmath.mpf(dim) / 2 - 1, mpmath.mpf(10**6)
        bessel, next_one = (mpmath.besseli(n, k, maxterms=10**6) for n in (nu, nu + 1))
        expected = nu * mpmath.log(k) - mpmath.mpf(dim) / 2 * mpmath.log(2 * mpmath.pi) - mpmath.log(bessel)
    assert math.isclose(log_c(dim, 1e6), expected, rel_tol=1e-13)
    assert math.isclose(mean_resultant(dim, 1e6), next_one / bessel, rel_tol=1e-13)


@pytest.mark.cpu
@pytest.mark.oracle
def test_scipy_has_no_logarithm_of_it_where_its_bessel_function_is_zero():
    special, stats = pytest.importorskip("scipy.special"), pytest.importorskip("scipy.stats")
    for dim, below, above in [(300, 1.0, 1.1), (512, 12.8, 13.0), (768, 51.0, 53.0), (1000, 112.0, 114.0)]:
        assert special.ive(dim / 2 - 1, below) == 0.0 < special.ive(dim / 2 - 1, above)
        assert np.isfinite(log_c(dim, below))
        expected = (dim / 2 - 1) * math.log(above) - dim / 2 * math.log(2 * math.pi)
        expected -= math.log(special.ive(dim / 2 - 1, above)) + above
        assert math.isclose(log_c(dim, above), expected, rel_tol=1e-12)
    assert special.ive(149, 1.02) == 0.0 < 1e-305 < special.iv(149, 1.02) * math.exp(-1.02) < 1e-304
    assert 1e-303 < special.ive(149, 1.05)
    log_i = 149 * math.log(0.5) - 150 * math.log(2 * math.pi) - float(log_c(300, 0.5))
    assert round(log_i / math.log(10)) == -350 and math.exp(log_i) == special.iv(149, 0.5) == 0.0
    pole = np.eye(300)[0]
    with np.errstate(divide="ignore"):
        assert stats.vonmises_fisher(pole, 1.0).logpdf(pole) == math.inf


@given(kappas(-2, 1))
def test_the_naive_way_is_the_same_where_it_works(kappa):
    for dim in (2, 3, 7, 40):
        assert math.isclose(log_c(dim, kappa), log_normaliser_naive(dim, kappa), rel_tol=1e-12, abs_tol=1e-12)


def test_the_naive_way_is_silently_wrong_for_large_kappa_and_an_error_in_many_dimensions_and_at_zero():
    assert abs(log_normaliser_naive(3, 60.0) - log_c(3, 60.0)) < 1e-11
    assert abs(log_normaliser_naive(3, 100.0) - log_c(3, 100.0)) > 0.02
    assert math.isclose(log_normaliser_naive(225, 1.0), log_c(225, 1.0), rel_tol=1e-12)
    for dim in (226, 300):
        with pytest.raises(OverflowError):
            log_normaliser_naive(dim, 1.0)
    assert math.isclose(log_normaliser_naive(2, 0.0), log_c(2, 0.0))
    with pytest.raises(ZeroDivisionError):
        log_normaliser_naive(3, 0.0)


@given(kappas(-2, 2.8))
def test_step_1_in_three_dimensions_all_is_elementary(kappa):
    """C₃ = κ / (4π sinh κ) and A₃ = coth κ − 1/κ."""
    assert math.isclose(log_c(3, kappa), math.log(kappa / (4 * math.pi * math.sinh(kappa))), rel_tol=1e-12)
    assert math.isclose(mean_resultant(3, kappa), 1 / math.tanh(kappa) - 1 / kappa, rel_tol=1e-11, abs_tol=1e-13)


@pytest.mark.parametrize("dim", [2, 3, 4, 10, 100])
@pytest.mark.parametrize("kappa", [0.0, 0.5, 20.0])
def test_step_1_the_density_adds_up_to_one_over_the_sphere(dim, kappa):
    """∫ C_m e^{κ cos θ} over the sphere: the points at θ are a sphere of m − 1 dimensions and radius sin θ."""
    theta, weights = np.polynomial.legendre.leggauss(200)
    theta, weights = (theta + 1) * math.pi / 2, weights * math.pi / 2
    log_area = math.log(2) + (dim - 1) / 2 * math.log(math.pi) - math.lgamma((dim - 1) / 2)
    log_ring = log_area + (dim - 2) * np.log(np.sin(theta))
    density = np.exp(log_c(dim, kappa) + kappa * np.cos(theta) + log_ring)
    assert math.isclose((weights * density).sum(), 1.0, rel_tol=1e-12)
    assert math.isclose((weights * density * np.cos(theta)).sum(), mean_resultant(dim, kappa), abs_tol=1e-12)


# ---- (2) to (4): zero, and derivatives ------------------------------------------------------------------------------


@given(dims())
def test_step_2_at_zero_it_is_one_over_the_area_of_the_sphere(dim):
    expected = math.lgamma(dim / 2) - math.log(2) - dim / 2 * math.log(math.pi)
    assert math.isclose(log_c(dim, 0.0), expected, rel_tol=1e-12, abs_tol=1e-12)
    assert mean_resultant(dim, 0.0) == 0.0


@pytest.mark.parametrize("dim", [2, 3, 7, 40])
def test_step_2_powers_of_the_cosine_over_the_sphere_add_up_to_the_series(dim):
    """The points at an angle of θ are a sphere of m − 1 dimensions and radius sin θ."""
    theta, weights = np.polynomial.legendre.leggauss(200)
    theta, weights = (theta + 1) * math.pi / 2, weights * math.pi / 2
    ring = 2 * math.pi ** ((dim - 1) / 2) / math.gamma((dim - 1) / 2) * np.sin(theta) ** (dim - 2)
    area = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    even = lambda j: math.gamma(j + 0.5) * math.gamma(dim / 2) / (math.sqrt(math.pi) * math.gamma(j + dim / 2)) * area
    for j in range(6):
        assert math.isclose((weights * ring * np.cos(theta) ** (2 * j)).sum(), even(j), rel_tol=1e-12)
        assert abs((weights * ring * np.cos(theta) ** (2 * j + 1)).sum()) < 1e-12 * area
    for kappa in (0.0, 0.5, 3.0):
        f = sum(
            kappa ** (2 * j) / (2 ** (2 * j + dim / 2 - 1) * math.factorial(j) * math.gamma(dim / 2 + j))
            for j in range(40)
        )
        total = sum(kappa ** (2 * j) / math.factorial(2 * j) * even(j) for j in range(40))
        assert math.isclose(total, (2 * math.pi) ** (dim / 2) * f, rel_tol=1e-12)
        assert math.isclose(-math.log(total), log_c(dim, kappa), rel_tol=1e-12)


@pytest.mark.parametrize("kappa", [0.0, 1e-300, 1e-9])
@pytest.mark.parametrize("dim", [2, 3, 300, 2000])
def test_step_3_a_over_kappa_is_one_over_m_at_zero(dim, kappa):
    ratio = mg.to_cpu(log_normaliser_and_ratio(mg.backend.asarray([kappa**2]), dim)[1])
    assert np.allclose(ratio, 1 / dim, rtol=1e-12)


@fewer
@given(dims(), st.lists(kappas(-2, 3), min_size=1, max_size=3))
def test_steps_3_and_4_derivatives_of_both_are_right_to_second_order(dim, kappa):
    mg.check_grads(lambda k: vmf_log_normaliser(dim, k), np.array(kappa))
    mg.check_grads(lambda k: vmf_mean_resultant(dim, k), np.array(kappa))


@given(dims(), kappas())
def test_step_3_the_slope_of_log_c_is_minus_a(dim, kappa):
    k = mg.param([kappa], dtype="float64")
    assert np.allclose(mg.to_cpu(mg.grad(vmf_log_normaliser(dim, k).sum(), [k])[0]), -mean_resultant(dim, [kappa]))


@given(dims(), kappas())
def test_step_4_the_slope_of_a_is_that_of_the_formula(dim, kappa):
    k = mg.param([kappa], dtype="float64")
    a = float(mean_resultant(dim, kappa))
    found = mg.to_cpu(mg.grad(vmf_mean_resultant(dim, k).sum(), [k])[0]).item()
    assert math.isclose(found, 1 - a * a - (dim - 1) * a / kappa, rel_tol=1e-9, abs_tol=1e-11)


@pytest.mark.oracle
@pytest.mark.parametrize("dim", [2, 3, 10, 300, 1000])
def test_step_4_the_slope_of_a_is_right_to_fifteen_places_but_not_to_fifteen_digits_of_its_own(dim):
    mpmath = pytest.importorskip("mpmath")
    for kappa in (0.1, 1.0, 10.0, 1e3, 1e6):
        with mpmath.workdps(50):
            k = mpmath.mpf(kappa)
            bessel, next_one = (mpmath.besseli(mpmath.mpf(dim) / 2 - i, k, maxterms=10**7) for i in (1, 0))
            a = next_one / bessel
            expected = float(1 - a * a - (dim - 1) * a / k)
        x = mg.param([kappa], dtype="float64")
        found = mg.to_cpu(mg.grad(vmf_mean_resultant(dim, x).sum(), [x])[0]).item()
        assert abs(found - expected) < 1e-14
        assert math.isclose(found, expected, rel_tol={1e3: 1e-8, 1e6: 1e-2}.get(kappa, 1e-12))
    assert math.isclose(expected, (dim - 1) / (2 * kappa**2), rel_tol=1e-2)
    assert dim > 10 or not math.isclose(found, expected, rel_tol=1e-4)


@pytest.mark.parametrize("dim", [2, 7, 300])
def test_step_4_at_zero_there_are_derivatives_too(dim):
    """log C″ = −A′ = −1/m."""
    k = mg.param([0.0], dtype="float64")
    (first,) = mg.grad(vmf_log_normaliser(dim, k).sum(), [k], create_graph=True)
    (second,) = mg.grad(first.sum(), [k])
    assert first.numpy().tolist() == [0.0]
    assert np.allclose(mg.to_cpu(second), -1 / dim, rtol=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 64, 257, 258, 300, 1024])
def test_there_is_no_seam(dim):
    """Second differences of log C, in steps of a thousandth of log κ: they are as smooth as −κ² A′ − κ A is."""
    t = np.arange(math.log(1e-2), math.log(1e4), 1e-3)
    kappa = np.exp(t)
    a = mean_resultant(dim, kappa)
    found = np.diff(log_c(dim, kappa), 2) / 1e-6
    slope = np.gradient(a, kappa, edge_order=2)
    expected = (-(kappa**2) * slope - kappa * a)[1:-1]
    assert (abs(found - expected) <= 1e-4 * abs(expected) + 1e-9 * (1 + 10 * abs(log_c(dim, kappa)[1:-1]))).all()


# ---- (5) to (7): down from a large order ----------------------------------------------------------------------------


def test_step_5_the_coefficients_of_the_series_are_those_of_the_recurrence():
    """F_n − κ² F_{n+2} = 2 (n + 1) F_{n+1}, power by power of κ² and exactly; for whole n, where Γ(n + 1) is n!."""
    f = lambda n, j: Fraction(1, 2 ** (2 * j + n) * math.factorial(j) * math.factorial(n + j)) if j >= 0 else 0
    for n in range(8):
        for j in range(8):
            assert f(n, j) - f(n + 2, j - 1) == 2 * (n + 1) * f(n + 1, j)


@given(st.integers(0, 40), kappas(-1, 2))
def test_step_5_each_ratio_follows_from_the_next(n, kappa):
    """ρ_n is the ratio of 2n + 2 dimensions; with (7) at one order and at the next."""
    square = mg.backend.asarray([kappa**2])
    ratio = lambda n: mg.to_cpu(log_normaliser_and_ratio(square, 2 * n + 2)[1])
    assert np.allclose(ratio(n), 1 / (2 * (n + 1) + kappa**2 * ratio(n + 1)), rtol=1e-13)
    (growth, _), (less, next_ratio) = (growth_and_ratio_at(LEAST_ORDER + i, square) for i in (0, 1))
    expected = np.log1p(mg.to_cpu(square * next_ratio) / (2 * (LEAST_ORDER + 1)))
    assert np.allclose(mg.to_cpu(growth - less), expected, rtol=1e-11, atol=1e-13)


@given(st.integers(2, 60), kappas(-1, 1))
def test_step_6_an_error_gets_smaller_downwards_and_larger_upwards(dim, kappa):
    nu, square = dim / 2 - 1, kappa * kappa
    ratio = lambda dim: log_normaliser_and_ratio(mg.backend.asarray([square]), dim)[1].item()
    here, above = ratio(dim), ratio(dim + 2)
    down = 1 / (2 * (nu + 1) + square * above * (1 + 1e-6))
    up = (1 / (here * (1 + 1e-6)) - 2 * (nu + 1)) / square
    shrinks = square * here * above
    assert 0 < shrinks < 1
    assert math.isclose(down / here - 1, -1e-6 * shrinks, rel_tol=1e-3, abs_tol=1e-14)
    assert abs(up / above - 1) > 0.99e-6 / shrinks * 0.9
    assert kappa > 1 or 1 / shrinks > 4 * (nu + 1) ** 2


def test_step_6_upwards_nothing_is_left_of_it_after_ten_steps():
    """From two dimensions up to twenty-two, at κ = 1."""
    ratio = float(log_normaliser_and_ratio(mg.backend.asarray([1.0]), 2)[1][0])
    for n in range(10):
        ratio = 1 / ratio - 2 * (n + 1)
    assert not 0.5 < ratio / float(log_normaliser_and_ratio(mg.backend.asarray([1.0]), 22)[1][0]) < 2


def test_step_7_the_coefficients_are_those_of_the_recurrence():
    """10.41.9: U_{k+1}(p) = ½ p² (1 − p²) U_k′(p) + ⅛ ∫₀^p (1 − 5t²) U_k(t) dt, U_0 = 1; power -> coefficient."""
    u = {0: Fraction(1)}
    for k, (coefficients, divisor) in enumerate(C, start=1):
        after = {}
        for power, c in u.items():
            for shift, part in [
                (1, Fraction(power, 2) + Fraction(1, 8 * (power + 1))),
                (3, -Fraction(power, 2) - Fraction(5, 8 * (power + 3))),
            ]:
                after[power + shift] = after.get(power + shift, 0) + c * part
        u = after
        assert u == {k + 2 * j: Fraction(c, divisor) for j, c in enumerate(coefficients)}


@given(kappas(-1, 3))
def test_step_7_its_ratio_is_the_slope_of_its_growth(kappa):
    h = 1e-4 * kappa
    growth = lambda k: growth_and_ratio_at(150.0, mg.backend.asarray([k * k]))[0].item()
    slope = (growth(kappa + h) - growth(kappa - h)) / (2 * h)
    ratio = growth_and_ratio_at(150.0, mg.backend.asarray([kappa * kappa]))[1].item()
    assert math.isclose(slope, kappa * ratio, rel_tol=1e-6, abs_tol=1e-7)


@pytest.mark.parametrize("dim, steps", [(2, 128), (3, 128), (255, 2), (256, 1), (257, 1), (258, 0), (2000, 0)])
def test_step_7_there_are_so_many_steps_and_from_258_dimensions_on_none(dim, steps, monkeypatch):
    seen = []
    watched = lambda order, x: seen.append(order) or growth_and_ratio_at(order, x)
    monkeypatch.setattr("losses.structured.bessel.growth_and_ratio_at", watched)
    log_c(dim, 1.0)
    assert seen == [dim / 2 - 1 + steps] and seen[0] >= LEAST_ORDER


# ---- what is known of the ratio -----------------------------------------------------------------------------------


@given(dims(), kappas())
def test_the_ratio_lies_between_the_bounds_of_amos(dim, kappa):
    """Amos, "Computation of modified Bessel functions and their ratios", Mathematics of Computation 1974."""
    nu, a = dim / 2, float(mean_resultant(dim, kappa))
    below, above = (kappa / (nu - 0.5 + math.hypot(nu + side, kappa)) for side in (0.5, -0.5))
    assert 0 < below * (1 - 1e-12) <= a <= above * (1 + 1e-12) and a < 1  # what (7) leaves out


@given(dims(), kappas(), kappas())
def test_the_ratio_grows_with_kappa_and_falls_with_the_dimensions(dim, kappa, other):
    less, more = sorted((kappa, other))
    found = mean_resultant(dim, [less, more])
    assert found[0] <= found[1] and (found[0] < found[1] or more < less * (1 + 1e-9))
    assert mean_resultant(dim + 1, less) < found[0]


@pytest.mark.parametrize("m", [10, 300])
def test_a_bound_that_others_take_for_the_ratio_is_off_if_its_order_is(m):
    """κ / (v − 1 + √((v + 1)² + κ²)) is above A_m with v = m/2; with v = m/2 − 1 it is up to m/(m − 2) times A_m."""
    kappa = np.geomspace(1e-2, 1e4, 200)
    times = lambda v: kappa / (v - 1 + np.sqrt((v + 1) ** 2 + kappa**2)) / mean_resultant(m, kappa)
    assert (times(m / 2) > 1 - 1e-12).all() and (m < 300 or times(m / 2).max() < 1 + 4e-4)
    assert math.isclose(times(m / 2 - 1).max(), m / (m - 2), rel_tol=1e-5)


# ---- what is given ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [vmf_log_normaliser, vmf_mean_resultant])
def test_float32_stays_float32_but_is_computed_in_float64(function):
    for dtype in ("float32", "float64"):
        kappa = np.array([[0.0, 3.0], [1e3, 1e6]], dtype)
        found = function(300, mg.backend.asarray(kappa))
        assert found.shape == (2, 2) and found.dtype == dtype
        assert function(300, mg.tensor(kappa)).dtype == dtype
        expected = mg.to_cpu(function(300, mg.backend.asarray(kappa.astype("float64")))).astype(dtype)
        assert (mg.to_cpu(found) == expected).all()


@pytest.mark.parametrize("function", [vmf_log_normaliser, vmf_mean_resultant])
def test_kappa_may_be_a_number_a_list_or_integers(function):
    expected = mg.to_cpu(function(7, mg.backend.asarray([2.0, 3.0]))).tolist()
    assert mg.to_cpu(function(7, [2.0, 3.0])).tolist() == mg.to_cpu(function(7, [2, 3])).tolist() == expected
    assert [float(function(7, 2)), float(function(7, 3.0))] == expected


@pytest.mark.parametrize("function", [vmf_log_normaliser, vmf_mean_resultant])
@pytest.mark.parametrize(
    "dim, kappa, error, message",
    [
        (1, 1.0, ValueError, "dim must be at least 2, got 1"),
        (2.0, 1.0, TypeError, "dim must be an integer, got float 2.0"),
        (3, -1.0, ValueError, "kappa must lie in 0 to 1e.150, got -1.0"),
        (3, [1.0, math.nan], ValueError, "kappa must lie in 0 to 1e.150, got nan"),
        (3, [[1.0, math.inf]], ValueError, "kappa must lie in 0 to 1e.150, got inf"),
        (3, 2 * LARGEST, ValueError, "kappa must lie in 0 to 1e.150, got 2e.150"),
        (3, True, TypeError, "kappa must be numbers, got bool"),
    ],
)
def test_what_is_no_dimension_and_no_kappa_is_refused(function, dim, kappa, error, message):
    with pytest.raises(error, match=f"losses.{function.__name__}: {message}"):
        function(dim, kappa)


def test_no_kappa_at_all_is_nothing():
    assert vmf_mean_resultant(3, mg.backend.asarray([], "float64")).shape == (0,)


def test_the_largest_kappa_is_a_number():
    assert log_c(300, LARGEST) == -LARGEST and mean_resultant(300, LARGEST) == 1.0
