"""Scenes on which Poisson solvers are measured: flags and box faces by name, at n cells a side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage

from solvers import AIR, FLUID, SOLID, PoissonProblem

CLOSED_BUT_TOP = ["neumann", "neumann", ("neumann", "dirichlet")]
CLOSED_BUT_END = [("neumann", "dirichlet"), "neumann", "neumann"]
SEED = 4


def box(n: int) -> tuple[np.ndarray, Any]:
    """Nothing but fluid between Dirichlet faces."""
    return _full(n), "dirichlet"


def sphere(n: int) -> tuple[np.ndarray, Any]:
    """A solid ball, off the middle, between Dirichlet faces."""
    cells = _full(n)
    cells[_ball(n, (0.45, 0.5, 0.55), 0.25)] = SOLID
    return cells, "dirichlet"


def tank(n: int) -> tuple[np.ndarray, Any]:
    """Three fifths of a basin filled, with a solid block in it and air above."""
    cells = _full(n)
    cells[:, :, round(0.6 * n) :] = AIR
    cells[n // 4 : n // 2, n // 3 : n // 2, : n // 3] = SOLID
    return cells, CLOSED_BUT_TOP


def splash(n: int) -> tuple[np.ndarray, Any]:
    """A half-full tank under a wavy surface, with 40 drops above it and 20 bubbles below."""
    rng = np.random.default_rng(SEED)
    x, y, z = _centres(n)
    cells = np.where(z < 0.5 + 0.06 * np.sin(9 * x) * np.cos(7 * y), FLUID, AIR).astype(np.uint8)
    for kind, number, low, high in ((FLUID, 40, 0.6, 0.95), (AIR, 20, 0.05, 0.4)):
        for _ in range(number):
            middle = (*rng.uniform(0.05, 0.95, 2), rng.uniform(low, high))
            cells[_ball(n, middle, rng.uniform(0.015, 0.06))] = kind
    return cells, CLOSED_BUT_TOP


def thin_gap(n: int) -> tuple[np.ndarray, Any]:
    """A plate of one cell's thickness across a closed duct, with a hole of n / 16 cells a side."""
    cells = _full(n)
    cells[n // 2] = SOLID
    hole = slice(n // 3, n // 3 + n // 16)
    cells[n // 2, hole, hole] = FLUID
    return cells, CLOSED_BUT_END


def blobs(n: int) -> tuple[np.ndarray, Any]:
    """Rounded random solids in a third of the box; fluid that they cut off from the Dirichlet faces is filled."""
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(SEED).standard_normal((n, n, n)), n / 24, mode="wrap")
    cells = np.where(noise > np.quantile(noise, 2 / 3), SOLID, FLUID).astype(np.uint8)
    problem = PoissonProblem(cells, boundary="dirichlet")
    cells[problem.to_grid(problem.pools.label + 1.0) > 0] = SOLID
    return cells, "dirichlet"


def channels(n: int) -> tuple[np.ndarray, Any]:
    """One channel three cells wide that goes to and fro n / 4 times, open at one end."""
    cells = _full(n)
    cells[3::4] = SOLID
    for number, wall in enumerate(range(3, n, 4)):
        cells[wall, -3:] = FLUID if number % 2 == 0 else SOLID
        cells[wall, :3] = SOLID if number % 2 == 0 else FLUID
    return cells, [("dirichlet", "neumann"), "neumann", "neumann"]


SCENES: dict[str, Callable[[int], tuple[np.ndarray, Any]]] = {
    make.__name__: make for make in (box, sphere, tank, splash, thin_gap, blobs, channels)
}


def right_hand_sides(n: int) -> dict[str, np.ndarray]:
    """A smooth one that no symmetry favours, and white noise."""
    x, y, z = _centres(n)
    smooth = np.sin(3 * x + 1) * np.cos(5 * y) * np.exp(z) * np.ones((n, n, n))
    return {"smooth": smooth, "random": np.random.default_rng(SEED).standard_normal((n, n, n))}


def _full(n: int) -> np.ndarray:
    return np.full((n, n, n), FLUID, np.uint8)


def _centres(n: int) -> list[np.ndarray]:
    """Coordinates in (0, 1) along each axis, to be broadcast."""
    line = (np.arange(n) + 0.5) / n
    return list(np.meshgrid(line, line, line, indexing="ij", sparse=True))


def _ball(n: int, middle: tuple[float, ...], radius: float) -> np.ndarray:
    return sum((axis - at) ** 2 for axis, at in zip(_centres(n), middle, strict=True)) < radius**2
