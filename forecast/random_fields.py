"""Gaussian random fields on the sphere whose covariance is Matern's, for perturbing states.

    C(r) = 2^(1-nu) / Gamma(nu) (s r)^nu K_nu(s r),    s = sqrt(2 nu) / length,    r = chord between two points

(Guinness and Fuentes 2016: with the chord Matern's covariance is one on the sphere for every nu.) A covariance that depends on
distance alone is diagonal in spherical harmonics; its spectrum comes from Legendre's projection, and a field is the sum of
harmonics with independent normal coefficients of that spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64
from scipy.special import eval_legendre

from gpu import log_kv

EARTH_RADIUS_KM = 6371.0
NODES = 2000  # of the projection: the spectrum's sum is then the variance to 1e-6 for lengths from 200 km


def matern(distance_km: np.ndarray, length_km: float, smoothness: float) -> np.ndarray:
    """Matern's correlation at distances [km] along the chord; 1 at distance 0."""
    x = np.sqrt(2 * smoothness) * np.asarray(distance_km, dtype=np.float64) / length_km
    near = x < 1e-10
    safe = np.where(near, 1.0, x)
    log = (1 - smoothness) * math.log(2) - math.lgamma(smoothness) + smoothness * np.log(safe) + log_kv(smoothness, safe)
    return np.where(near, 1.0, np.exp(log))


class SphericalFields:
    """Draws fields of mean 0 and standard deviation 1 on a grid.

    Parameters
    ----------
    latitude, longitude
        Degrees.
    length_km
        Correlation length [km].
    smoothness
        Matern's nu: fields have as many derivatives as the next smaller integer.

    Raises
    ------
    ValueError
        If length or smoothness are not above 0.
    """

    def __init__(self, latitude: Sequence[float], longitude: Sequence[float], length_km: float, smoothness: float) -> None:
        if not length_km > 0 or not smoothness > 0:
            raise ValueError(f"length_km and smoothness must be above 0; got {length_km} and {smoothness}.")
        self._sine = np.sin(np.deg2rad(np.asarray(latitude, dtype=np.float64)))
        self._longitude = np.deg2rad(np.asarray(longitude, dtype=np.float64))
        self.degree = max(1, min(len(latitude) - 1, len(longitude) // 2))
        self.spectrum = _spectrum(self.degree, length_km, smoothness)

    def draw(self, rng: np.random.Generator, fields: int) -> Float64[np.ndarray, "field lat lon"]:
        """Draw independent fields."""
        orders = self.degree + 1
        normal = rng.standard_normal((fields, orders, orders, 2)) / math.sqrt(2)
        coefficients = normal[..., 0] + 1j * normal[..., 1]  # (field, degree, order)
        coefficients[:, :, 0] = coefficients[:, :, 0].real * math.sqrt(2)
        sums = np.zeros((fields, orders, len(self._sine)), dtype=np.complex128)
        for degree, values in enumerate(_legendre(self.degree, self._sine)):
            sums += math.sqrt(self.spectrum[degree]) * coefficients[:, degree, :, None] * values
        waves = np.exp(1j * np.arange(orders)[:, None] * self._longitude) / math.sqrt(math.pi)
        waves[0] /= math.sqrt(2)
        waves[1:] *= math.sqrt(2)
        return np.einsum("fml,mx->flx", sums, waves).real


def _spectrum(degree: int, length_km: float, smoothness: float) -> np.ndarray:
    """Variance of each coefficient of degree 0, 1 ...; scaled so that fields have variance 1 without the degrees left out."""
    cosine, weight = np.polynomial.legendre.leggauss(NODES)
    correlation = matern(EARTH_RADIUS_KM * np.sqrt(2 - 2 * cosine), length_km, smoothness)
    degrees = np.arange(degree + 1)
    spectrum = 2 * math.pi * (eval_legendre(degrees[:, None], cosine) * correlation * weight).sum(axis=1)
    spectrum = np.maximum(spectrum, 0.0)
    return spectrum / ((2 * degrees + 1) * spectrum / (4 * math.pi)).sum()


def _legendre(degree: int, x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield for l = 0, 1 ... the associated Legendre functions of all orders at x, (order, x), of square integral 1."""
    orders = np.arange(degree + 1, dtype=np.float64)[:, None]
    cosine = np.sqrt(1 - x**2)
    before = np.zeros((degree + 1, len(x)))
    now = np.zeros_like(before)
    diagonal = np.full(len(x), math.sqrt(0.5))
    now[0] = diagonal
    yield now
    for ell in range(1, degree + 1):
        below = orders < ell
        a = np.sqrt((4 * ell**2 - 1) / np.where(below, ell**2 - orders**2, 1.0))
        b = np.sqrt(np.maximum((ell - 1) ** 2 - orders**2, 0.0) / (4 * (ell - 1) ** 2 - 1 if ell > 1 else 3))
        before, now = now, np.where(below, a * (x * now - b * before), 0.0)
        diagonal = math.sqrt((2 * ell + 1) / (2 * ell)) * cosine * diagonal
        now[ell] = diagonal
        yield now
