"""log I_v(x) and log K_v(x) to 35 digits or more by routes that share no formula; needs python-flint.

| route | of | where |
|---|---|---|
| `by_arb` | Arb's certified hypergeometric functions | r = sqrt(v^2 + x^2) up to a few thousand |
| `by_expansion` | 50 terms of the uniform expansion with exact coefficients (DLMF 10.41.3-4) | r >= 64 |
| `by_definition` | power series of I about its largest term, trapezoidal sums for K (DLMF 10.25.2, 10.32.9) | all |

mpmath is no route: its `besselk` fails at some corners (small x with large order).
"""

from __future__ import annotations

import functools
import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from flint import acb, arb, ctx

BITS = 220
TERMS = 50
ROOT = Path(__file__).parents[2]


class Pair(NamedTuple):
    """log I and log K as balls."""

    log_i: arb
    log_k: arb


@functools.cache
def tables_module() -> ModuleType:
    """The generator of the tables; it is a script, not part of a package."""
    spec = importlib.util.spec_from_file_location("make_log_bessel_tables", ROOT / "gpu/cuda/make_log_bessel_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def expansion_coefficients() -> list[list[arb]]:
    ctx.prec = BITS
    return [[arb(c.numerator) / c.denominator for c in d] for d in tables_module().expansion_polynomials(TERMS)]


def by_arb(v: float, x: float) -> Pair:
    """Both functions, with more bits until 110 of each log are certain."""
    for bits in (BITS, 2 * BITS, 6 * BITS, 30 * BITS):
        ctx.prec = bits
        pair = Pair(acb(x).bessel_i(acb(v)).real.log(), acb(x).bessel_k(acb(v)).real.log())
        ctx.prec = BITS
        if all(one.is_finite() and float(one.rad()) < 1e-35 * max(1, abs(float(one.mid()))) for one in pair):
            return pair
    raise ArithmeticError(f"Arb is not certain of the logs at v={v!r}, x={x!r}.")


def by_expansion(v: float, x: float) -> Pair:
    """Both functions from the same polynomials; r >= 64 leaves less than 1e-40."""
    if math.hypot(v, x) < 64:
        raise ValueError(f"r must be at least 64; got v={v!r}, x={x!r}.")
    ctx.prec = BITS
    order, argument = arb(v), arb(x)
    r = (order**2 + argument**2).sqrt()
    w, s, phase = 1 / r, (order / r) ** 2, r - order * (order / argument).asinh()
    even, odd, power = arb(0), arb(0), arb(1)
    for k, coefficients in enumerate(expansion_coefficients(), start=1):
        power *= w
        total = arb(0)
        for c in reversed(coefficients):
            total = total * s + c
        if k % 2:
            odd += total * power
        else:
            even += total * power
    pi = arb.pi()
    return Pair(phase - (2 * pi * r).log() / 2 + even + odd, -phase + (pi / (2 * r)).log() / 2 + even - odd)


def by_definition(v: float, x: float) -> Pair:
    """The power series summed outwards from its largest term, and the integral of exp(v t - x cosh t) / 2."""
    ctx.prec = BITS
    return Pair(_series(v, x), _integral(v, x))


def _series(v: float, x: float) -> arb:
    order, q = arb(v), arb(x) ** 2 / 4
    peak = max(0, int((math.hypot(v, x) - v) / 2))
    tiny, total = arb(2) ** -200, arb(1)
    term, k = arb(1), peak
    while not term < tiny * total:
        k += 1
        term = (term * q / (k * (order + k))).mid()
        total += term
    term = arb(1)
    for k in range(peak, 0, -1):
        term = (term * (k * (order + k)) / q).mid()
        total += term
        if term < tiny * total:
            break
    return (order + 2 * peak) * (arb(x) / 2).log() - arb(peak + 1).lgamma() - (order + peak + 1).lgamma() + total.log()


def _integral(v: float, x: float) -> arb:
    order, argument = arb(v), arb(x)
    peak = (order / argument).asinh().mid()
    top = order * peak - argument * peak.cosh()
    step = arb(0.5 / math.sqrt(max(math.hypot(v, x), 4)))

    def half_line(first: arb, stride: arb) -> arb:
        """Values on the points peak + first + k stride, k >= 0, until they no longer count."""
        total, t = arb(0), peak + first
        while True:
            value = (order * t - argument * t.cosh() - top).exp()
            total += value.mid()
            if value < arb(2) ** -190:
                return total
            t += stride

    total = half_line(arb(0), step) + half_line(-step, -step)
    for _ in range(8):
        middle = half_line(step / 2, step) + half_line(-step / 2, -step)
        old, total, step = total * step, total + middle, step / 2
        if abs(total * step - old) < arb(10) ** -40 * old:
            return top + (total * step / 2).log()
    raise ArithmeticError(f"the trapezoidal sums do not settle at v={v!r}, x={x!r}.")


def reference(v: float, x: float) -> Pair:
    """The quickest certain route: for the fresh sample of each test run."""
    return by_expansion(v, x) if math.hypot(v, x) >= 64 else by_arb(v, x)


def two_routes(v: float, x: float) -> Pair:
    """The reference, refused unless a second route agrees to 1e-33 of max(1, |log|)."""
    first = reference(v, x)
    second = by_arb(v, x) if 64 <= math.hypot(v, x) < 1000 else by_definition(v, x)
    for a, b in zip(first, second, strict=True):
        if not abs((a - b).mid()) < 1e-33 * max(1, abs(float(a.mid()))):
            raise ArithmeticError(f"two routes disagree at v={v!r}, x={x!r}: {a} and {b}.")
    return first


def split(value: arb) -> tuple[float, float]:
    """The nearest double, and what it leaves."""
    high = float(value.mid())
    return high, float((value - arb(high)).mid())


def error(got: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """|got - want| / max(1, |want|) with want = high + low."""
    return np.abs((got - high) - low) / np.maximum(1, np.abs(high))
