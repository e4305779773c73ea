"""The halo of a global field: exact answers on fields written by hand, and smooth functions of the sphere."""

import math

import pytest
import torch

from forecast.layers.spherical_padding import pad_sphere


def sphere_function(rows: int, columns: int, has_poles: bool, halo: int) -> torch.Tensor:
    """x + 2 y z of the unit vector, continued over the poles along the meridian: exact beyond the edges too."""
    step = math.pi / (rows - 1 if has_poles else rows)
    first = math.pi / 2 - (0 if has_poles else step / 2)
    latitude = first - step * torch.arange(-halo, rows + halo, dtype=torch.float64)[:, None]
    longitude = 2 * math.pi / columns * torch.arange(-halo, columns + halo, dtype=torch.float64)[None]
    x, y, z = (
        latitude.cos() * longitude.cos(),
        latitude.cos() * longitude.sin(),
        latitude.sin().expand(rows + 2 * halo, columns + 2 * halo),
    )
    return x + 2 * y * z


@pytest.mark.parametrize(("rows", "has_poles"), [(9, True), (8, False)])
def test_halo_continues_a_function_of_the_sphere(rows: int, has_poles: bool) -> None:
    """cos(latitude) turns negative beyond the pole: that is the point half-way around, on the other side."""
    wide = sphere_function(rows, 12, has_poles, halo=3)
    field = wide[3:-3, 3:-3].clone()
    padded = pad_sphere(field[None, None], 3, 3, has_poles=has_poles)[0, 0]
    torch.testing.assert_close(padded, wide, rtol=0, atol=1e-12)


def test_pole_row_is_not_repeated() -> None:
    field = torch.arange(5.0)[:, None].expand(5, 4)[None, None]
    padded = pad_sphere(field, 2, 0, has_poles=True)[0, 0, :, 0]
    assert padded.tolist() == [2, 1, 0, 1, 2, 3, 4, 3, 2]


def test_first_row_is_repeated_where_the_pole_lies_between_rows() -> None:
    field = torch.arange(4.0)[:, None].expand(4, 4)[None, None]
    padded = pad_sphere(field, 2, 0, has_poles=False)[0, 0, :, 0]
    assert padded.tolist() == [1, 0, 0, 1, 2, 3, 3, 2]


def test_wind_components_turn_over_at_the_pole() -> None:
    """A uniform flow across the pole has u = -sin(lon), v = -cos(lon) there: its components change sign half-way around."""
    longitude = 2 * math.pi / 8 * torch.arange(8.0)
    u = -torch.sin(longitude).expand(5, 8)
    scalar = torch.ones(5, 8)
    padded = pad_sphere(torch.stack([u, scalar])[None], 1, 0, has_poles=True, odd_channels=torch.tensor([-1.0, 1.0]))[0]
    torch.testing.assert_close(padded[0, 0], u[0])
    torch.testing.assert_close(padded[1, 0], scalar[0])


def test_sides_may_differ() -> None:
    assert pad_sphere(torch.zeros(1, 1, 5, 6), 1, 2, south=3, east=0, has_poles=True).shape == (1, 1, 9, 8)


def test_odd_number_of_longitudes_is_refused() -> None:
    with pytest.raises(ValueError, match="longitude must have an even number of points.*got 7"):
        pad_sphere(torch.zeros(1, 1, 5, 7), 1, 1, has_poles=True)


def test_halo_larger_than_the_field_is_refused() -> None:
    with pytest.raises(ValueError, match="halo of 9 rows.*smaller kernel"):
        pad_sphere(torch.zeros(1, 1, 5, 8), 9, 1, has_poles=True)
