"""Write `log_bessel_tables.cuh`: every constant and polynomial of `log_bessel.cuh`, from exact or ball arithmetic.

    python gpu/cuda/make_log_bessel_tables.py

Needs python-flint (dependency group `test`). The coefficients of the uniform expansion are exact rationals. All other
polynomials interpolate at Chebyshev points, where Arb gives the function to 160 bits; coefficients below a stated size are
dropped, the rest is turned into powers and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

from flint import acb, arb, arb_mat, arb_poly, ctx, fmpq

BITS = 160
HEADER = Path(__file__).with_name("log_bessel_tables.cuh")
ctx.prec = BITS
PI = arb.pi()
# Chebyshev coefficients below this are left out. Functions have size 2 at most; remainders, 0.01, so that their own rounding
# is nothing.
DROPPED, DROPPED_OF_REMAINDER = 1e-17, 3e-17
TERMS = 16  # of the uniform expansion, enough from r = 24

Function1 = Callable[[arb], arb]
Function2 = Callable[[arb, arb], arb]


def expansion_polynomials(terms: int) -> list[list[Fraction]]:
    """D_1 .. D_terms of docs/log_bessel.md, each lowest power of s first.

    Q_k(s) = U_k(p) / p^k with s = p^2 turns the recurrence of DLMF 10.41.9 into one between coefficients; D is the logarithm of
    the power series 1 + sum Q_k w^k.
    """
    q = [[Fraction(1)]]
    for k in range(terms):
        new = [Fraction(0)] * (k + 2)
        for j, c in enumerate(q[-1]):
            power = k + 2 * j
            new[j] += c * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            new[j + 1] -= c * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        q.append(new)
    d: list[list[Fraction]] = []
    for k in range(1, terms + 1):
        left = [k * c for c in q[k]]
        for j in range(1, k):
            for a, c in enumerate(d[j - 1]):
                for b, e in enumerate(q[k - j]):
                    left[a + b] -= j * c * e
        d.append([c / k for c in left])
    return d


def chebyshev_points(count: int) -> list[arb]:
    """Zeros of T_count."""
    return [((2 * i + 1) * PI / (2 * count)).cos() for i in range(count)]


def chebyshev_matrix(count: int) -> arb_mat:
    """Values at the Chebyshev points to coefficients."""
    return arb_mat(
        [
            [((2 * i + 1) * k * PI / (2 * count)).cos() * (1 if k == 0 else 2) / count for i in range(count)]
            for k in range(count)
        ]
    )


def powers_from_chebyshev(coefficients: Sequence[arb]) -> list[arb]:
    """Sum of c_k T_k as powers of its variable, lowest first."""
    before, now = [arb(1)], [arb(0), arb(1)]
    total = [arb(0)] * max(len(coefficients), 1)
    for k, c in enumerate(coefficients):
        basis = before if k == 0 else now
        for power, b in enumerate(basis):
            total[power] += c * b
        if k > 0:
            after = [arb(0), *(2 * b for b in now)]
            for power, b in enumerate(before):
                after[power] -= b
            before, now = now, after
    return total


def affine(low: float, high: float) -> Function1:
    """[-1, 1] onto [low, high]."""
    return lambda t: (arb(low) + arb(high)) / 2 + (arb(high) - arb(low)) / 2 * t


def fit(f: Function1, low: float, high: float, count: int, *, own_variable: bool = False) -> list[float]:
    """Polynomial in the affine variable of [low, high], or in its own if that is well conditioned; lowest power first."""
    onto = affine(low, high)
    values = arb_mat([[f(onto(t))] for t in chebyshev_points(count)])
    coefficients = [(chebyshev_matrix(count) * values)[k, 0] for k in range(count)]
    while abs(float(coefficients[-1].mid())) < DROPPED:
        coefficients.pop()
    if len(coefficients) > count - 2:
        raise ArithmeticError(f"{count} Chebyshev points are too few on [{low}, {high}].")
    powers = powers_from_chebyshev(coefficients)
    if own_variable:
        inner = arb_poly([-(arb(low) + high) / (arb(high) - low), 2 / (arb(high) - low)])
        powers = list(arb_poly(powers)(inner))
    return [float(c.mid()) for c in powers]


def fit2(
    f: Function2, a: tuple[float, float], b: tuple[float, float], counts: tuple[int, int], *, dropped: float = DROPPED
) -> list[list[float]]:
    """Polynomial in the affine variables of two intervals: a row for each power of the first, lowest first."""
    m, n = counts
    onto_a, onto_b = affine(*a), affine(*b)
    values = arb_mat([[f(onto_a(s), onto_b(t)) for t in chebyshev_points(n)] for s in chebyshev_points(m)])
    table = chebyshev_matrix(m) * values * chebyshev_matrix(n).transpose()
    size = [[abs(float(table[i, j].mid())) for j in range(n)] for i in range(m)]
    lengths = [max((j + 1 for j in range(n) if size[i][j] > dropped), default=0) for i in range(m)]
    rows = max(i + 1 for i in range(m) if lengths[i])
    if rows > m - 2 or max(lengths) > n - 1:
        raise ArithmeticError(f"{counts} Chebyshev points are too few on {a} x {b}.")
    in_b = [powers_from_chebyshev([table[i, j] for j in range(max(lengths[i], 1))]) for i in range(rows)]
    lengths = [max(len(in_b[k]) for k in range(i, rows)) for i in range(rows)]  # powers of the first variable mix rows above
    columns = [
        powers_from_chebyshev([in_b[i][j] if j < len(in_b[i]) else arb(0) for i in range(rows)]) for j in range(lengths[0])
    ]
    return [[float(columns[j][i].mid()) for j in range(lengths[i])] for i in range(rows)]


def log_i(v: arb, x: arb) -> arb:
    """Log I_v(x)."""
    return acb(x).bessel_i(acb(v)).real.log()


def bessel_k(v: arb, x: arb) -> arb:
    """K_v(x)."""
    return acb(x).bessel_k(acb(v)).real


def phase(v: arb, x: arb) -> tuple[arb, arb]:
    """R - v asinh(v/x), and r."""
    r = (v * v + x * x).sqrt()
    return r - v * (v / x).asinh(), r


def remainder_i(w: arb, p: arb) -> arb:
    """What the leading terms of log I leave, at w = 1/r and p = v/r."""
    v, x = p / w, (1 - p * p).sqrt() / w
    leading, r = phase(v, x)
    return log_i(v, x) - leading + (2 * PI * r).log() / 2


def remainder_k(w: arb, s: arb) -> arb:
    """What the leading terms of log K leave, at w = 1/r and s = (v/r)^2."""
    v, x = s.sqrt() / w, (1 - s).sqrt() / w
    leading, r = phase(v, x)
    return bessel_k(v, x).log() + leading - (PI / (2 * r)).log() / 2


def shifted_stirling(t: arb) -> arb:
    """(log Gamma(1+v) - (v + 1/2) log(v+1) + v) / (1-t), t = 1/(v+1)."""
    v = 1 / t - 1
    return ((1 + v).lgamma() - (v + arb(0.5)) * (v + 1).log() + v) / (1 - t)


def temme_parts(y: arb, q: arb) -> tuple[arb, arb, arb, arb]:
    """D/u, E and their derivatives in q: see docs/log_bessel.md, K at x <= 1; y = u^2, q = x^2/4."""
    u = y.sqrt()

    def regularised(order: arb) -> arb:
        return acb(q).hypgeom_0f1(acb(order), regularized=True).real

    plus, minus, plus_q, minus_q = (regularised(order) for order in (1 + u, 1 - u, 2 + u, 2 - u))
    return (minus - plus) / (2 * u), (plus + minus) / 2, (minus_q - plus_q) / (2 * u), (plus_q + minus_q) / 2


def temme_part(k: int, q: arb, y: arb) -> arb:
    """One of them."""
    return temme_parts(y, q)[k]


def log_reflection(y: arb) -> arb:
    """log(pi u / sin(pi u)) in u^2."""
    z = PI * y.sqrt()
    return (z / z.sin()).log()


def scaled_k(ix: arb, y: arb) -> arb:
    """e^x sqrt(2x/pi) K_u(x), y = u^2, ix = 1/x."""
    x = 1 / ix
    return bessel_k(y.sqrt(), x) * x.exp() * (2 * x / PI).sqrt()


def scaled_k_slope(ix: arb, y: arb) -> arb:
    """-e^x sqrt(2x/pi) K_u'(x): even in u, unlike K_{u+1} = -K_u' + (u/x) K_u (DLMF 10.29.2)."""
    u, x = y.sqrt(), 1 / ix
    return (bessel_k(u + 1, x) - u * ix * bessel_k(u, x)) * x.exp() * (2 * x / PI).sqrt()


def log_gamma_over_order(s: arb) -> arb:
    """Log Gamma(1+v) / v in v/(v+3)."""
    v = 3 * s / (1 - s)
    return (1 + v).lgamma() / v


def log1p_over(z: arb) -> arb:
    """log(1+z) / z."""
    return (1 + z).log() / z


def i_zero_tail(q: arb) -> arb:
    """(I_0(x) - 1) / q in q = x^2/4."""
    return (acb(q).hypgeom_0f1(acb(1)).real - 1) / q


def i_zero_far(w: arb) -> arb:
    """For x log(e^-x sqrt(2 pi x) I_0(x)), in 1/x."""
    return (log_i(arb(0), 1 / w) - 1 / w + (2 * PI / w).log() / 2) / w


def k_zero_rest(q: arb) -> arb:
    """(K_0(x) + (log(x/2) + gamma) I_0(x)) / q in q = x^2/4 (DLMF 10.31.2)."""
    x = 2 * q.sqrt()
    return (bessel_k(arb(0), x) + ((x / 2).log() + arb.const_euler()) * acb(x).bessel_i(acb(0)).real) / q


def k_zero_far(z: arb) -> arb:
    """(x + 1) log(e^x sqrt(2x/pi) K_0(x)) in z = 1/(x+1), by DLMF 10.39.6."""
    x = 1 / z - 1
    return (acb(2 * x).hypgeom_u(acb(0.5), acb(1)).real * (2 * x).sqrt()).log() / z


def atanh_tail(y: arb) -> arb:
    """(atanh(f)/f - 1 - y/3 - y^2/5 - y^3/7) / y^4, y = f^2."""
    f = y.sqrt()
    return (f.atanh() / f - 1 - y / 3 - y * y / 5 - y**3 / 7) / y**4


def arb_of(c: Fraction) -> arb:
    """The nearest ball."""
    return arb(fmpq(c.numerator, c.denominator))


def two_doubles(value: arb, bits: int = 53) -> tuple[float, float]:
    """The first cut to so many bits, so that small integers times it are exact."""
    high = float(value.mid())
    if bits < 53:
        mantissa, exponent = math.frexp(high)
        high = math.ldexp(round(mantissa * 2**bits), exponent - bits)
    return high, float((value - arb(high)).mid())


def declare(name: str, values: Sequence[float | int], what: str, kind: str = "double") -> str:
    """An array in C++."""
    texts = [value.hex() if isinstance(value, float) else str(value) for value in values]
    lines, line = [], "   "
    for text in texts:
        if len(line) + len(text) > 118:
            lines.append(line)
            line = "   "
        line += f" {text},"
    comment = f"// {what}\n" if what else ""
    return f"{comment}TABLE {kind} {name}[{len(texts)}] = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def declare_polynomial(name: str, coefficients: Sequence[float], what: str) -> str:
    """Highest power first, as Horner's rule reads them."""
    return declare(name, list(reversed(coefficients)), what)


def declare_rows(name: str, rows: Sequence[Sequence[float]], what: str) -> str:
    """Rows from the highest power of the first variable down, each highest power of the second first."""
    flat = [c for row in reversed(rows) for c in reversed(row)]
    return declare(name, flat, what) + declare(f"{name}_LENGTHS", [len(row) for row in reversed(rows)], "", "int")


def header() -> str:
    """The text of the header; the same whatever precision the caller works in."""
    ctx.prec = BITS
    expansion = expansion_polynomials(TERMS)
    parts = [
        "// Written by gpu/cuda/make_log_bessel_tables.py; edit that instead. Polynomials: highest power first.\n"
        '#pragma once\n#include "double_double.cuh"\n\nnamespace SKYSOLVE_NAMESPACE {\n'
    ]
    for name, value in (
        ("LOG_2PI", (2 * PI).log()),
        ("LOG_PI_2", (PI / 2).log()),
        ("HALF_LOG_PI_4", (PI / 4).log() / 2),
        ("LOG_2_LESS_GAMMA", arb(2).log() - arb.const_euler()),
    ):
        high, low = two_doubles(value)
        parts.append(f"constexpr double {name} = {high.hex()}, {name}_LOW = {low.hex()};\n")
    parts += [
        declare_rows(
            "EXPANSION",
            [[float(arb_of(c).mid()) for c in d] for d in expansion],
            f"D_1 .. D_{TERMS} of log(1 + sum U_k(p)/v^k) = sum w^k D_k(p^2), w = 1/r, p = v/r (DLMF 10.41.8-9)",
        ),
        declare_rows(
            "RATIO",
            [[float(arb_of((k + 2 * j) * c).mid()) for j, c in enumerate(d)] for k, d in enumerate(expansion, start=1)],
            "k D_k + 2 s D_k', the same of I_{v+1}/I_v",
        ),
        declare_polynomial("ATANH_TAIL", fit(atanh_tail, 0, 0.0402, 14, own_variable=True), atanh_tail.__doc__ or ""),
        declare_polynomial(
            "EXP", fit(lambda t: t.exp(), -0.3466, 0.3466, 18, own_variable=True), "exp on [-log(2)/2, log(2)/2], widened"
        ),
        declare_polynomial("SINH", [1 / math.factorial(2 * k + 1) for k in range(7)], "sinh(z)/z in z^2 <= 1/4"),
        declare_polynomial("STIRLING", fit(shifted_stirling, 1 / 9, 1, 34), shifted_stirling.__doc__ or ""),
        declare_polynomial("LOG_GAMMA", fit(log_gamma_over_order, 0, 8 / 11, 48), log_gamma_over_order.__doc__ or ""),
        declare_polynomial("LOG1P", fit(log1p_over, 0, 0.2662, 24, own_variable=True), log1p_over.__doc__ or ""),
        declare_polynomial("I_ZERO_TAIL", fit(i_zero_tail, 0, 16, 30), i_zero_tail.__doc__ or ""),
        declare_polynomial("I_ZERO_FAR", fit(i_zero_far, 0, 1 / 8, 50), i_zero_far.__doc__ or ""),
        declare_polynomial("I_ZERO_SMALL", fit(i_zero_tail, 0, 0.25, 14, own_variable=True), "the same for x <= 1"),
        declare_polynomial("K_ZERO_REST", fit(k_zero_rest, 0, 0.25, 14, own_variable=True), k_zero_rest.__doc__ or ""),
        declare_polynomial("K_ZERO_FAR", fit(k_zero_far, 0, 0.5, 44), k_zero_far.__doc__ or ""),
        declare_rows(
            "I_8_12",
            fit2(remainder_i, (1 / 12, 1 / 8), (0, 1), (18, 30), dropped=DROPPED_OF_REMAINDER),
            "log I remainder in 1/r, v/r",
        ),
        declare_rows(
            "I_12_24",
            fit2(remainder_i, (1 / 24, 1 / 12), (0, 1), (18, 30), dropped=DROPPED_OF_REMAINDER),
            "log I remainder in 1/r, v/r",
        ),
        declare_rows(
            "K_8_12",
            fit2(remainder_k, (1 / 12, 1 / 8), (0, 1), (16, 44), dropped=DROPPED_OF_REMAINDER),
            "log K remainder in 1/r, (v/r)^2",
        ),
        declare_rows(
            "K_12_24",
            fit2(remainder_k, (1 / 24, 1 / 12), (0, 1), (16, 34), dropped=DROPPED_OF_REMAINDER),
            "log K remainder in 1/r, (v/r)^2",
        ),
        declare_polynomial("LOG_REFLECTION", fit(log_reflection, 0, 0.25, 28), log_reflection.__doc__ or ""),
    ]
    for k, name in enumerate(("TEMME_D", "TEMME_E", "TEMME_D_Q", "TEMME_E_Q")):
        rows = fit2(partial(temme_part, k), (0, 0.25), (0, 0.25), (13, 13))
        parts.append(declare_rows(name, rows, "see temme_parts; in q = x^2/4 and u^2, both at most 1/4"))
    for name, low, high in (("1_5_2", 0.4, 1.0), ("5_2_8", 0.125, 0.4)):
        for letter, function in (("K", scaled_k), ("K_SLOPE", scaled_k_slope)):
            rows = fit2(function, (low, high), (0, 0.25), (24, 13))
            parts.append(declare_rows(f"{letter}_{name}", rows, f"{function.__doc__}".split("\n")[0]))
    return "\n".join(parts) + "}  // namespace SKYSOLVE_NAMESPACE\n"


if __name__ == "__main__":
    HEADER.write_text(header())
