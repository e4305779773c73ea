"""The generated tables are what the generator writes, and its coefficients are those of the literature."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from flint import arb, ctx, fmpq

from tests.helpers.bessel_reference import TERMS, expansion_coefficients, tables_module


def test_committed_tables_are_what_the_generator_writes():
    module, before = tables_module(), ctx.prec
    text = module.header()
    ctx.prec = before
    assert module.HEADER.read_text() == text


def test_expansion_is_stirlings_series_at_x_zero():
    """D_k(1) = -B_{k+1} / (k (k+1)) (DLMF 5.11.1): one wrong coefficient of any D_k shows."""
    for k, d in enumerate(tables_module().expansion_polynomials(20), start=1):
        bernoulli = fmpq.bernoulli(k + 1)
        assert sum(d) == -Fraction(int(bernoulli.p), int(bernoulli.q)) / (k * (k + 1))


def test_first_polynomials_are_those_of_the_handbook():
    """From U_1, U_2 of DLMF 10.41.10 by hand: D_1 = 1/8 - 5s/24, D_2 = 1/16 - 3s/8 + 5s^2/16."""
    first, second = tables_module().expansion_polynomials(2)
    assert first == [Fraction(1, 8), Fraction(-5, 24)]
    assert second == [Fraction(1, 16), Fraction(-3, 8), Fraction(5, 16)]


@pytest.mark.parametrize(("terms", "r", "bound"), [(16, 24, 2.8e-16), (9, 64, 1.1e-16), (6, 220, 7e-17), (4, 1500, 3e-17)])
def test_truncation_at_the_border_of_each_regime(terms, r, bound):
    """What the terms left out add up to, over 200 angles, for I and K: the comment in log_bessel.cuh."""
    ctx.prec = 220
    worst = 0.0
    for s in np.linspace(0, 1, 200):
        for sign in (1, -1):
            left = arb(0)
            for k in range(terms + 1, TERMS + 1):
                value = arb(0)
                for c in reversed(expansion_coefficients()[k - 1]):
                    value = value * arb(float(s)) + c
                left += value * arb(sign) ** k / arb(r) ** k
            worst = max(worst, abs(float(left.mid())))
    assert 0.5 * bound < worst < bound


def test_too_few_points_for_a_fit_are_refused():
    module = tables_module()
    with pytest.raises(ArithmeticError, match=r"5 Chebyshev points are too few on \[0, 1\]"):
        module.fit(lambda t: (5 * t).exp(), 0, 1, 5)
    with pytest.raises(ArithmeticError, match="Chebyshev points are too few"):
        module.fit2(lambda a, b: (5 * a * b).exp(), (0, 1), (0, 1), (5, 5))
