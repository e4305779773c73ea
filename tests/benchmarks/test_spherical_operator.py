"""Harmonics of the spherical operator: they are those of the sphere, and a filter keeps to degrees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y

from benchmarks.skill.peers.spherical_operator import Harmonics, SpectralFilter, SphericalOperatorConfig, legendre_functions
from tests.helpers.puyun import make_requirements

DEGREE = 31


def make_harmonics(rows: int = 37, degree: int = DEGREE) -> Harmonics:
    return Harmonics(degree, make_requirements(rows, 72).latitude, 72)


def test_legendre_functions_are_those_of_scipy() -> None:
    """Of a mean square of 1, where scipy's harmonics have an integral of the square of 1: a factor of the root of 4 pi."""
    latitude = np.linspace(90, -90, 37)
    found = legendre_functions(DEGREE, np.sin(np.deg2rad(latitude)))
    for order, degree in [(0, 0), (0, 7), (1, 1), (3, 20), (17, 30), (31, 31)]:
        wanted = np.sqrt(4 * np.pi) * sph_harm_y(degree, order, np.deg2rad(90 - latitude), 0.0).real
        np.testing.assert_allclose(found[order, :, degree], (-1) ** order * wanted, atol=1e-12)


@pytest.mark.parametrize("rows", [37, 36])
def test_fields_of_the_degrees_come_back(rows: int) -> None:
    """With poles and without; analysis after synthesis is the identity to the rounding of float32."""
    harmonics = make_harmonics(rows)
    torch.manual_seed(0)
    wanted = torch.randn(DEGREE + 1, DEGREE + 1, 2, 2, 3)
    wanted = wanted * torch.ones(DEGREE + 1, DEGREE + 1).tril()[:, :, None, None, None]
    wanted[:, 0, :, 1] = 0  # zonal means are real
    field = harmonics.inverse(wanted)
    assert field.shape == (2, 3, rows, 72)
    torch.testing.assert_close(harmonics(field), wanted, rtol=1e-4, atol=1e-4)


def test_filter_does_not_mix_degrees_or_orders() -> None:
    torch.manual_seed(0)
    harmonics = make_harmonics()
    layer = SpectralFilter(4, harmonics)
    alone = torch.zeros(DEGREE + 1, DEGREE + 1, 1, 2, 4)
    alone[9, 5] = torch.randn(1, 2, 4)
    with torch.no_grad():
        out = harmonics(layer(harmonics.inverse(alone)))
    real, imaginary = layer.weight[9].detach()
    given = torch.complex(alone[9, 5, 0, 0], alone[9, 5, 0, 1])
    wanted = given @ torch.complex(real, imaginary)
    torch.testing.assert_close(torch.complex(out[9, 5, 0, 0], out[9, 5, 0, 1]), wanted, rtol=1e-4, atol=1e-4)
    out[9, 5] = 0
    assert out.abs().max() < 1e-4


def test_real_filter_turns_over_a_pole_too() -> None:
    """A real matrix per degree is a convolution on the sphere (Driscoll and Healy 1994), for which poles are no special places.
    The turn takes the axes x, y, z to y, z, x; on each of them and their opposites lies a grid point.
    """
    latitude = torch.deg2rad(torch.tensor(make_requirements(37, 72).latitude))[:, None].expand(37, 72)
    longitude = (torch.arange(72) * 2 * torch.pi / 72).expand(37, 72)
    x, y, z = latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()

    def field(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return (1 + x - 2 * y * z + x * x * z - y**3 * x + z**4)[None, None]

    torch.manual_seed(0)
    layer = SpectralFilter(1, make_harmonics())
    with torch.no_grad():
        layer.weight[:, 1] = 0
        plain, turned = layer(field(x, y, z))[0, 0], layer(field(y, z, x))[0, 0]
    on_x, on_y, on_z = ((18, 0), (18, 36)), ((18, 18), (18, 54)), ((0, 0), (36, 0))
    wanted = torch.stack([plain[place] for axis in (on_z, on_x, on_y) for place in axis])
    found = torch.stack([turned[place] for axis in (on_x, on_y, on_z) for place in axis])
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "largest"), [(37, 34), (73, 35)])
def test_a_degree_that_the_grid_cannot_tell_is_refused(rows: int, largest: int) -> None:
    with pytest.raises(ValueError, match=f"degree must be at most {largest} on {rows} x 72 points; got 36. Lower it"):
        make_harmonics(rows, 36)
    make_harmonics(rows, largest)


@pytest.mark.parametrize("name", ["width", "blocks", "degree", "expansion"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        SphericalOperatorConfig(**{name: 0})
