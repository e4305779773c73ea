"""Zonal energy spectra: how much variance a forecast keeps at each wavelength.

WeatherBench 2's definition (derived_variables.py, ZonalEnergySpectrum): F = rfft / L along a circle of latitude of
circumference C, S_0 = C |F_0|^2, S_k = 2 C |F_k|^2. For an even number of longitudes its code doubles the last coefficient
too, which has no negative partner; here it counts once, so that the spectrum sums to C times the mean square of the field
(Parseval) for even and odd numbers alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft
from jaxtyping import Float, Float64

from data_pipelines.area import cell_area_weights
from forecast.verification.blocks import Block, Contest, blocks

EARTH_RADIUS = 1000 * (6357 + 6378) / 2  # m; WeatherBench 2's mean of polar and equatorial radius
BAND = (30.0, 60.0)  # degrees of latitude, both hemispheres: where mid-latitude weather is


def zonal_energy_spectrum(
    field: Float[np.ndarray, "*shape lat lon"], latitude: Float[np.ndarray, " lat"]
) -> Float64[np.ndarray, "*shape lat wavenumber"]:
    """Energy along circles of latitude, in (units of the field)^2 m; wavenumbers 0 to L // 2.

    Parameters
    ----------
    field
        Values on evenly spaced longitudes around the globe.
    latitude
        Degrees north.
    """
    length = field.shape[-1]
    coefficient = scipy.fft.rfft(np.asarray(field, dtype=np.float64), axis=-1, norm="forward")
    twice = np.full(coefficient.shape[-1], 2.0)
    twice[0] = 1.0
    if length % 2 == 0:
        twice[-1] = 1.0
    circumference = 2 * np.pi * EARTH_RADIUS * np.cos(np.deg2rad(np.asarray(latitude, dtype=np.float64)))
    return np.abs(coefficient) ** 2 * twice * np.clip(circumference, 0, None)[:, None]


def band_spectrum(
    field: Float[np.ndarray, "*shape lat lon"], latitude: Float[np.ndarray, " lat"], band: tuple[float, float] = BAND
) -> Float64[np.ndarray, "*shape wavenumber"]:
    """Area-weighted mean of `zonal_energy_spectrum` over a band of latitude in both hemispheres (NaN if it holds no row)."""
    inside = (np.abs(latitude) >= band[0]) & (np.abs(latitude) <= band[1])
    weights = cell_area_weights(latitude) * inside
    if not inside.any():
        return np.full((*field.shape[:-2], field.shape[-1] // 2 + 1), np.nan)
    return np.einsum("...yk,y->...k", zonal_energy_spectrum(field, latitude), weights / weights.sum())


class MeanSpectra:
    """Mean zonal spectra of every forecast and of truth, at some lead times."""

    def __init__(self, contest: Contest, leads: Sequence[int], band: tuple[float, float] = BAND):
        self._band = band
        self._latitude = contest.truth["latitude"].values
        self._leads = leads
        shape = (len(contest.names) + 1, len(leads), len(contest.channels), contest.truth.sizes["longitude"] // 2 + 1)
        self._sums, self._counts = np.zeros(shape), np.zeros(shape[1:3])

    def add(self, block: Block) -> None:
        """Add a block's; of an ensemble the mean over members of their spectra, since their mean has lost what varies."""
        for place, lead in enumerate(self._leads):
            if not block.leads.start <= lead < block.leads.stop:
                continue
            at = lead - block.leads.start
            keep = block.usable[:, at]
            for entry, fields in enumerate([*(entrant[..., at, :, :, :] for entrant in block.entrants), block.truth_of(at)]):
                energy = band_spectrum(fields, self._latitude, self._band)
                energy = energy.mean(axis=0) if energy.ndim == 4 else energy
                self._sums[entry, place] += np.where(keep[..., None], energy, 0.0).sum(axis=0)
            self._counts[place] += keep.sum(axis=0)

    def means(self) -> Float64[np.ndarray, "entry lead channel wavenumber"]:
        """Means over initial times."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._sums / self._counts[..., None]


def mean_spectra(
    contest: Contest, leads: Sequence[int], band: tuple[float, float] = BAND, missing: str = "refuse", memory_limit: int = 2**27
) -> Float64[np.ndarray, "entry lead channel wavenumber"]:
    """Mean zonal spectra of every forecast of a contest, and of truth in the last place."""
    spectra = MeanSpectra(contest, leads, band)
    for block in blocks(contest, {}, (), missing=missing, memory_limit=memory_limit):
        spectra.add(block)
    return spectra.means()
