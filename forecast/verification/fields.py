"""Forecast, truth and climatology of some times, and what statistics are made of, each worked out once; and means over space.

Fields are computed with as float64 whatever they are stored as, because a score is compared to six digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float64

from data_pipelines.variables import Channel

MISSING = {
    "refuse": "points without truth are left out; a NaN of a forecast where truth has a value is refused",
    "skip_fields": "points without truth are left out; fields with another NaN are left out whole, for all forecasts",
    "skip_points": "points that are NaN in truth or in any forecast are left out, for all (WeatherBench 2's skipna=True)",
    "propagate": "a NaN anywhere in a region makes the score NaN (WeatherBench 2's skipna=False)",
}
EASTWARD = ("u_component_of_wind", "10m_u_component_of_wind", "100m_u_component_of_wind")


def wind_partners(channels: Sequence[Channel]) -> dict[int, int]:
    """For each channel that is a component of a wind vector, the position of the other component."""
    places = {channel: place for place, channel in enumerate(channels)}
    found: dict[int, int] = {}
    for channel, place in places.items():
        if channel.variable in EASTWARD:
            other = places.get(Channel(channel.variable.replace("u_component", "v_component"), channel.level))
            if other is not None:
                found |= {place: other, other: place}
    return found


class Fields:
    """Fields at pairs of initial and lead time.

    Parameters
    ----------
    forecast
        Shape (pair, channel, lat, lon), or (member, pair, channel, lat, lon) of an ensemble.
    truth
        Shape (pair, channel, lat, lon).
    climatology
        Of the valid times, same shape as truth; or None.
    present
        Points that count, same shape as truth; None: all.
    valid
        Valid times (pair,), for what depends on the season.
    channels
        What lies along the axis "channel".
    """

    def __init__(
        self,
        forecast: Float[np.ndarray, "*members pair channel lat lon"],
        truth: Float[np.ndarray, "pair channel lat lon"],
        climatology: Float[np.ndarray, "pair channel lat lon"] | None = None,
        present: Bool[np.ndarray, "pair channel lat lon"] | None = None,
        valid: np.ndarray | None = None,
        channels: Sequence[Channel] = (),
    ):
        self._forecast, self._truth, self._climatology = forecast, truth, climatology
        self.present = None if present is None or present.all() else present
        self.valid, self.channels = valid, tuple(channels)

    @property
    def offers(self) -> frozenset[str]:
        """What statistics may ask for: "climatology", "ensemble", "vector"."""
        pairs = {"climatology": self._climatology is not None, "ensemble": self._forecast.ndim == self._truth.ndim + 1}
        return frozenset(name for name, there in {**pairs, "vector": bool(self.partners)}.items() if there)

    @cached_property
    def f(self) -> Float64[np.ndarray, "pair channel lat lon"]:
        """The forecast, or the mean of its members."""
        if "ensemble" in self.offers:
            return self.members.mean(axis=0)
        return np.asarray(self._forecast, dtype=np.float64)

    @cached_property
    def o(self) -> Float64[np.ndarray, "pair channel lat lon"]:
        """Truth."""
        return np.asarray(self._truth, dtype=np.float64)

    @cached_property
    def members(self) -> Float64[np.ndarray, "member pair channel lat lon"]:
        """Members; a forecast without any is one."""
        values = np.asarray(self._forecast, dtype=np.float64)
        return values if values.ndim == self._truth.ndim + 1 else values[None]

    @cached_property
    def error(self) -> Float64[np.ndarray, "pair channel lat lon"]:
        """Forecast minus truth."""
        return self.f - self.o

    @cached_property
    def f_anomaly(self) -> Float64[np.ndarray, "pair channel lat lon"]:
        """Forecast minus climatology of the valid time."""
        return self.f - self._climatology

    @cached_property
    def o_anomaly(self) -> Float64[np.ndarray, "pair channel lat lon"]:
        """Truth minus climatology of the valid time."""
        return self.o - self._climatology

    @cached_property
    def variance(self) -> Float64[np.ndarray, "pair channel lat lon"]:
        """Unbiased variance of the members; NaN of a single one."""
        count = self.members.shape[0]
        if count == 1:
            return np.full_like(self.o, np.nan)
        return np.asarray(((self.members - self.f) ** 2).sum(axis=0) / (count - 1))

    @cached_property
    def partners(self) -> dict[int, int]:
        """For each channel that is a component of a wind vector, the position of the other component."""
        return wind_partners(self.channels)


class Regions:
    """Weighted means over regions.

    Parameters
    ----------
    weights
        As from `regions.region_weights`: (region, lat, lon), each sums to 1.
    """

    dims = ("region",)

    def __init__(self, weights: Float64[np.ndarray, "region lat lon"]):
        self.weights = weights
        self._flat = np.ascontiguousarray(weights.reshape(weights.shape[0], -1).T)
        self.shape = (weights.shape[0],)

    def mean(self, field: Float[np.ndarray, "*shape lat lon"], present: np.ndarray | None) -> np.ndarray:
        """Mean over each region of the points that are present, (*shape, region); NaN where none is."""
        flat = field.reshape(-1, self._flat.shape[0])
        if present is None:
            return (flat @ self._flat).reshape(*field.shape[:-2], -1)
        # A forecast's NaN over land would make 0 x NaN: leave those points out before weighting.
        sums = np.where(present.reshape(flat.shape), flat, 0.0) @ self._flat
        share = present.reshape(flat.shape).astype(np.float64) @ self._flat
        mean = np.divide(sums, share, out=np.full_like(sums, np.nan), where=share > 0)
        return mean.reshape(*field.shape[:-2], -1)

    def share(self, present: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        """Share of each region's weight at points that are present, (*shape, region)."""
        if present is None:
            return np.ones((*shape, *self.shape))
        return (present.reshape(-1, self._flat.shape[0]).astype(np.float64) @ self._flat).reshape(*shape, -1)

    def histogram(
        self, place: np.ndarray, count: int, present: np.ndarray | None, amount: np.ndarray | None = None
    ) -> Float64[np.ndarray, "*shape region bin"]:
        """Share of each region's present weight in each of `count` bins, times `amount` where that is given.

        Parameters
        ----------
        place
            Bin of each point (*shape, lat, lon), 0 to count - 1.
        """
        flat = place.reshape(-1, self._flat.shape[0])
        index = (np.arange(flat.shape[0])[:, None] * count + flat).ravel()
        factor = np.ones(flat.shape) if amount is None else amount.reshape(flat.shape)
        if present is not None:
            factor = np.where(present.reshape(flat.shape), factor, 0.0)
        sums = np.stack(
            [np.bincount(index, (factor * column).ravel(), flat.shape[0] * count) for column in self._flat.T], axis=-1
        )
        sums = np.moveaxis(sums.reshape(*place.shape[:-2], count, -1), -1, -2)
        share = self.share(present, place.shape[:-2])[..., None]
        return np.divide(sums, share, out=np.full_like(sums, np.nan), where=share > 0)


class Points:
    """No mean over space: every point by itself, for maps."""

    dims = ("latitude", "longitude")

    def __init__(self, latitudes: int, longitudes: int):
        self.shape = (latitudes, longitudes)

    def mean(self, field: np.ndarray, present: np.ndarray | None) -> np.ndarray:
        """The field where it is present, else NaN."""
        return field if present is None else np.where(present, field, np.nan)

    def share(self, present: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        """1 where present, else 0."""
        return np.ones((*shape, *self.shape)) if present is None else present.astype(np.float64)

    def histogram(
        self, place: np.ndarray, count: int, present: np.ndarray | None, amount: np.ndarray | None = None
    ) -> np.ndarray:
        """1 (or `amount`) in the bin of each point, (*shape, lat, lon, bin)."""
        filled = (place[..., None] == np.arange(count)) * (1.0 if amount is None else amount[..., None])
        return filled if present is None else np.where(present[..., None], filled, np.nan)
