"""Random geometries to train on, no two alike: basins, solids in boxes, rounded noise, plates with holes."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.ndimage

from solvers.boundary import DIRICHLET, NEUMANN
from solvers.cells import AIR, FLUID, SOLID
from solvers.problem import PoissonProblem

LEAST_FLUID = 200  # cells; a scene with less is drawn again


def random_problem(rng: np.random.Generator, sides: tuple[int, int] = (10, 26)) -> PoissonProblem:
    """A problem whose fluid is all held by Dirichlet values.

    Parameters
    ----------
    rng
        Draws everything.
    sides
        Fewest and most cells along each axis.
    """
    while True:
        shape = tuple(int(n) for n in rng.integers(sides[0], sides[1] + 1, 3))
        cells = np.full(shape, FLUID, np.uint8)
        for draw in rng.choice(np.array(DRAWINGS, dtype=object), rng.integers(1, 3), replace=False):
            draw(rng, cells)
        turn = rng.permutation(3)
        cells = np.ascontiguousarray(cells.transpose(turn))
        sides_of_box = [tuple(rng.choice([DIRICHLET, NEUMANN], 2, p=[0.4, 0.6])) for _ in range(3)]
        problem = PoissonProblem(cells, boundary=sides_of_box)
        cells[problem.to_grid(problem.pools.label + 1.0) > 0] = SOLID  # what no Dirichlet value holds
        if (cells == FLUID).sum() >= LEAST_FLUID:
            return PoissonProblem(cells, boundary=sides_of_box)


def random_right_hand_side(rng: np.random.Generator, problem: PoissonProblem) -> np.ndarray:
    """Noise, smoothed over up to a quarter of the grid or not at all; 2-norm 1 over the fluid."""
    noise = rng.standard_normal(problem.shape)
    width = rng.choice([0.0, rng.uniform(0.5, max(problem.shape) / 4)])
    noise = scipy.ndimage.gaussian_filter(noise, width, mode="wrap") if width else noise
    rhs: np.ndarray = np.where(problem.fluid, noise, 0.0)
    return rhs / np.linalg.norm(rhs)


def _basin(rng: np.random.Generator, cells: np.ndarray) -> None:
    """Air above a wavy surface, drops in it, bubbles below."""
    x, y, z = np.indices(cells.shape) / max(cells.shape)
    height = rng.uniform(0.25, 0.8) * cells.shape[2] / max(cells.shape)
    wave = rng.uniform(0, 0.12) * np.sin(rng.uniform(2, 12) * x + rng.uniform(0, 6)) * np.cos(rng.uniform(0, 12) * y)
    cells[z > height + wave] = AIR
    for kind, low, high in ((FLUID, height, 1.0), (AIR, 0.0, height)):
        for _ in range(rng.integers(0, 12)):
            at = (*rng.uniform(0, 1, 2), rng.uniform(low, high))
            cells[_ball(rng, cells.shape, at, 0.02, 0.1)] = kind


def _solids(rng: np.random.Generator, cells: np.ndarray) -> None:
    """Balls and blocks."""
    for _ in range(rng.integers(1, 6)):
        if rng.random() < 0.5:
            cells[_ball(rng, cells.shape, rng.uniform(0, 1, 3), 0.05, 0.3)] = SOLID
        else:
            low = [int(rng.integers(0, n - 1)) for n in cells.shape]
            cells[
                tuple(
                    slice(start, start + int(rng.integers(1, max(2, n // 2))))
                    for start, n in zip(low, cells.shape, strict=True)
                )
            ] = SOLID


def _rounded_noise(rng: np.random.Generator, cells: np.ndarray) -> None:
    """Solid or air where smoothed noise is high."""
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal(cells.shape), rng.uniform(0.6, 3.0), mode="wrap")
    cells[noise > np.quantile(noise, rng.uniform(0.55, 0.95))] = rng.choice([SOLID, AIR], p=[0.7, 0.3])


def _plates(rng: np.random.Generator, cells: np.ndarray) -> None:
    """Walls across the box, one or two cells thick, each with a hole."""
    for _ in range(rng.integers(1, 4)):
        axis, thick = int(rng.integers(0, 3)), int(rng.integers(1, 3))
        at = int(rng.integers(1, cells.shape[axis] - thick))
        plate = np.moveaxis(cells, axis, 0)[at : at + thick]
        kept = plate.copy()
        plate[:] = SOLID
        hole = tuple(
            slice(start := int(rng.integers(0, n - 1)), start + int(rng.integers(1, max(2, n // 3)))) for n in plate.shape[1:]
        )
        plate[(slice(None), *hole)] = kept[(slice(None), *hole)]


def _ball(rng: np.random.Generator, shape: tuple[int, ...], at: Any, least: float, most: float) -> np.ndarray:
    radius = rng.uniform(least, most) * max(shape)
    distance = sum((axis - middle * n) ** 2 for axis, middle, n in zip(np.indices(shape), at, shape, strict=True))
    inside: np.ndarray = distance < radius**2
    return inside


DRAWINGS = (_basin, _solids, _rounded_noise, _plates)
