"""Bessel functions for the sphere: how are two numbers divided that no float can hold?

For a direction that is drawn near another one, in m dimensions, the simplest law is that of von Mises and Fisher
(`von_mises_fisher.py`). Its logarithm and its derivative need

    C_m(κ) = κ^ν / ((2π)^{m/2} I_ν(κ)),   A_m(κ) = I_{ν+1}(κ) / I_ν(κ),   ν = m/2 − 1                         (1)

I_ν, the modified Bessel function, is about 10⁻³⁵⁰ for m = 300, κ = ½, less than any float; `scipy.special.ive`, which
is I_ν e^−κ, gives up even earlier, at 10⁻³⁰⁴: it says 0, and log C_m is infinite. But log I_ν is a number like any
other, and so is the ratio. This page computes them.

    m   dimensions, 2 or more                    F_n   I_n(κ) / κⁿ
    κ   concentration, 0 or more                 ρ_n   F_{n+1} / F_n, so that A_m(κ) = κ ρ_ν
    n   an order: ν, ν + 1, … N                  g_n   log F_n(κ) − log F_n(0)

Without κⁿ there is no division by zero.
    (2)  The power series I_n(κ) = Σ_j (κ/2)^{2j+n} / (j! Γ(n + j + 1)) makes F_n a series in κ² with positive terms:
         smooth, and at κ = 0 it is 1 / (2ⁿ Γ(n + 1)). So  log C_m(κ) = log C_m(0) − g_ν(κ), and C_m(0) =
         Γ(m/2) / (2 π^{m/2}) is one over the area of the sphere. That C_m makes the density e^{κ μ·e} add up to one:
         over the sphere ∫ (μ·e)^{2j} de is its area times Γ(j + ½) Γ(m/2) / (√π Γ(j + m/2)), and odd powers give 0; put
         into Σ_i (κ μ·e)^i / i! this is (2π)^{m/2} F_ν = 1/C_m.
    (3)  Term by term  F_n′ = κ F_{n+1},  so  d log C_m / dκ = −κ ρ_ν = −A_m(κ),  and A_m(κ)/κ = ρ_ν is 1/m at κ = 0.
    (4)  Again by (3)  ρ_n′ = κ ρ_n (ρ_{n+1} − ρ_n),  where ρ_{ν+1} is that of m + 2 dimensions: by (3) and (4) the
         engine has derivatives of every order. And with (5), A′ = 1 − A² − (m − 1) A/κ. Both cancel as κ grows: A′
         falls like (m − 1)/(2κ²), but is off by some 10⁻¹⁵ at any κ; for κ = 10⁶ and small m two digits are right.

From a large order, where there is a formula, down to ν.
    (5)  In the series (2)  1/(j! Γ(n+j+1)) − 1/((j−1)! Γ(n+j+2)) = (n + 1)/(j! Γ(n+j+2)),  so F_n − κ² F_{n+2} =
         2 (n + 1) F_{n+1}. Divided by F_{n+1}:  1/ρ_n = 2 (n + 1) + κ² ρ_{n+1}.  So all ρ come from ρ_N, downwards; and
         1/ρ_n over its value at κ = 0, in logarithms, is
            g_n = g_{n+1} + log(1 + κ² ρ_{n+1} / (2 (n + 1))):  positive terms, nothing cancels.
    (6)  Downwards, for then a relative error ε of ρ_{n+1} becomes −ε κ² ρ_n ρ_{n+1} of ρ_n: it is multiplied by two
         ratios below 1. (I_{n+1}/I_n is A of 2n + 2 dimensions, a mean of cosines.) Upwards it is divided by them: at
         κ = 1 each step makes it over 4 n² times as large.
    (7)  The formula for a large N and any κ (NIST Digital Library of Mathematical Functions, 10.41.3), divided by its
         value at κ = 0, gives, with s = √(N² + κ²), δ = s − N = κ²/(s + N), q = N²/s²,
            g_N ≈ δ − N log(1 + δ/2N) − ½ log(1 + δ/N) + log S(κ)/S(0),   S = 1 + Σ_k s^−k Σ_j c_kj q^j,
         c_kj from 10.41.9. The derivative is κ ρ_N, by (3). As s′ = κ/s and q′ = −2 κ q/s², it follows that
            ρ_N ≈ 1/(N + s) − (½ + S̃/S) / s²,   S̃ = Σ_k s^−k Σ_j (k + 2j) c_kj q^j.
         N is ν plus whole steps, and 128 at least. With k from 1 to 4 what is left out is less than 10⁻¹² of ρ_N.

No case depends on κ, so there is no seam, where a derivative would jump. Cost: 128 − ν steps of array operations, none
for m ≥ 258. All in float64; what is given in float32 comes back in float32.
"""

import math
from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import asarray, read, type_of_array, xp_of

LEAST_ORDER = 128
LARGEST = 1e150  # of κ: its square is a number
C = (  # c_kj of (7): for k = 1 to 4 those of j = 0 to k, and what all of them are divided by
    ((3, -5), 24),
    ((81, -462, 385), 1152),
    ((30375, -369603, 765765, -425425), 414720),
    ((4465125, -94121676, 349922430, -446185740, 185910725), 39813120),
)


# ---- the naive way: the formula, with I_ν written out ------------------------------------------------------------


def log_normaliser_naive(dim: int, kappa: float, terms: int = 60) -> float:
    """(1), I_ν by the first terms of (2): 60 are too few for κ = 100, and nothing says so. From m = 226 on Γ overflows,
    and κ = 0 is a division by zero unless m = 2."""
    nu = dim / 2 - 1
    bessel = sum((kappa / 2) ** (2 * j + nu) / (math.gamma(j + 1) * math.gamma(nu + j + 1)) for j in range(terms))
    return math.log(kappa**nu / ((2 * math.pi) ** (dim / 2) * bessel))


# ---- the derived way: the expansion, and down from there ---------------------------------------------------------


def growth_and_ratio_at(order: float, square: type_of_array) -> tuple[type_of_array, type_of_array]:
    """(7): g_N and ρ_N of a large order N, for κ² of any shape."""
    xp = xp_of(square)
    s = xp.sqrt(order * order + square)
    delta = square / (s + order)
    sums, weighted = _sums(s, order)
    growth = delta - order * xp.log1p(delta / (2 * order)) - 0.5 * xp.log1p(delta / order)
    return growth + xp.log(sums / _sums(order, order)[0]), 1 / (order + s) - (0.5 + weighted / sums) / (s * s)


def _sums(s: Any, order: float) -> tuple[Any, Any]:
    """S and S̃ of (7)."""
    q, sums, weighted = (order / s) ** 2, 1.0, 0.0
    for k, (coefficients, divisor) in enumerate(C, start=1):
        for j, c in enumerate(coefficients):
            term = (c / divisor) * s**-k * q**j
            sums, weighted = sums + term, weighted + (k + 2 * j) * term
    return sums, weighted


def log_normaliser_and_ratio(square: type_of_array, dim: int) -> tuple[type_of_array, type_of_array]:
    """log C_m and A_m/κ, for κ² of any shape, float64."""
    xp, nu = xp_of(square), dim / 2 - 1
    steps = max(0, math.ceil(LEAST_ORDER - nu))
    growth, ratio = growth_and_ratio_at(nu + steps, square)
    for n in range(steps, 0, -1):  # from ν + n to ν + n − 1
        more = square * ratio / (2 * (nu + n))
        growth, ratio = growth + xp.log1p(more), 1 / (2 * (nu + n) * (1 + more))  # (5)
    return math.lgamma(dim / 2) - math.log(2) - (dim / 2) * math.log(math.pi) - growth, ratio  # (2)


log_normaliser = mg.primitive(  # of κ², as all on this page is
    "vmf_log_normaliser",
    lambda square, *, dim: log_normaliser_and_ratio(square, dim)[0],
    d=[lambda g, y, square, dim: -0.5 * g * ratio(square, dim=dim)],  # (3): d(κ²) = 2κ dκ
)
ratio = mg.primitive(
    "vmf_ratio",
    lambda square, *, dim: log_normaliser_and_ratio(square, dim)[1],
    d=[lambda g, y, square, dim: 0.5 * g * y * (ratio(square, dim=dim + 2) - y)],  # (4)
    keep="xy",
)


# ---- for everybody: functions of κ --------------------------------------------------------------------------------


def vmf_log_normaliser(dim: int, kappa: Any) -> Any:
    """log C_m(κ) of (1), for m = `dim` and κ, numbers of any shape from 0 to 1e150.

    Of a tensor a tensor, with derivatives of every order; else an array.
    """
    dim, kappa, dtype = _checked("vmf_log_normaliser", dim, kappa)
    return log_normaliser(kappa * kappa, dim=dim).astype(dtype)


def vmf_mean_resultant(dim: int, kappa: Any) -> Any:
    """A_m(κ) of (1), from 0 to 1: how long the mean of directions with that κ is. As `vmf_log_normaliser`."""
    dim, kappa, dtype = _checked("vmf_mean_resultant", dim, kappa)
    return (kappa * ratio(kappa * kappa, dim=dim)).astype(dtype)


def in_float64(a: Any) -> Any:
    """An array or tensor in float64; a complex one, by which `check_grads` differentiates, as it is."""
    return a if a.dtype.kind == "c" else a.astype("float64")


def _checked(name: str, dim: int, kappa: Any) -> tuple[int, Any, Any]:
    """m, κ in float64, and the type that the result is to have. On a GPU it waits."""
    dim = whole(f"losses.{name}: dim", dim, 2)
    if not isinstance(kappa, mg.Tensor):
        kappa = kappa if hasattr(kappa, "dtype") else asarray(kappa)
    if kappa.dtype.kind not in "fciu":
        raise TypeError(f"losses.{name}: kappa must be numbers, got {kappa.dtype}")
    dtype, kappa = kappa.dtype if kappa.dtype.kind in "fc" else "float64", in_float64(kappa)
    values = (kappa.data if isinstance(kappa, mg.Tensor) else kappa).real
    fine = (values >= 0) & (values <= LARGEST)
    if not read(fine.all()):
        worst = read(values[~fine][0] if values.ndim else values)
        raise ValueError(f"losses.{name}: kappa must lie in 0 to {LARGEST:g}, got {worst}")
    return dim, kappa, dtype
