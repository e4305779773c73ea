"""Ellipses: holes in the medium, and inclusions of another wave speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data_pipelines.finite_elements.errors import FiniteElementError

Points = Float[np.ndarray, "2 *point"]


@dataclass(frozen=True)
class Ellipse:
    """An ellipse: centre (x, y) [m], semi-axes [m], and the angle [rad] of the first axis against x."""

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0

    def __post_init__(self) -> None:
        if self.a <= 0 or self.b <= 0:
            raise FiniteElementError(f"semi-axes of an ellipse must be positive [m]; got a={self.a}, b={self.b}.")

    def radius(self, points: Points) -> Float[np.ndarray, "*point"]:
        """Distance from the centre in units of the ellipse: below 1 inside, 1 on it."""
        along, across = self._own_axes(points)
        return np.hypot(along / self.a, across / self.b)

    def distance(self, points: Points) -> Float[np.ndarray, "*point"]:
        """Distance [m] to the ellipse along the ray from the centre, negative inside: no less than the true distance."""
        along, across = self._own_axes(points)
        radius = np.hypot(along / self.a, across / self.b)
        length = np.hypot(along, across)
        scale = np.divide(length, radius, out=np.full_like(length, min(self.a, self.b)), where=radius > 0)
        return (radius - 1.0) * scale

    def project(self, points: Points) -> Points:
        """Move points along the ray from the centre onto the ellipse."""
        centre = np.array([self.x, self.y]).reshape(2, *[1] * (points.ndim - 1))
        return centre + (points - centre) / self.radius(points)

    def _own_axes(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = points[0] - self.x, points[1] - self.y
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return cos * dx + sin * dy, -sin * dx + cos * dy
