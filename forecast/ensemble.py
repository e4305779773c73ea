"""Members of an ensemble: states that differ from the analysis by what its errors may look like."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float32

from data_pipelines.area import cell_area_weights
from forecast.forecaster import ForecastError
from forecast.random_fields import SphericalFields


@dataclass
class EnsembleConfig:
    """Members that start from perturbed states.

    Member 0 starts from the analysis. Members 2k-1 and 2k start from it plus and minus one draw, so that their mean is the
    analysis. Each channel's perturbation is a Gaussian random field on the sphere with Matern's covariance.

    Parameters
    ----------
    members
        How many; 0 makes single forecasts, in a store without the dimension `number`.
    amplitude
        Standard deviation of a perturbation, as a share of the root-mean-square change of the analysis over the first stage's
        step before the initial time.
    length_km, smoothness
        Correlation length [km] and Matern's nu.
    seed
        Draws depend on it, on the initial time and on the member; on nothing else.
    """

    members: int = 0
    amplitude: float = 0.3
    length_km: float = 800.0
    smoothness: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.members < 0:
            raise ForecastError(f"ensemble.members must not be negative; got {self.members}.")
        for name in ("amplitude", "length_km", "smoothness"):
            if not getattr(self, name) > 0:
                raise ForecastError(f"ensemble.{name} must be above 0; got {getattr(self, name)}.")
        if self.seed < 0:
            raise ForecastError(f"ensemble.seed must not be negative; got {self.seed}.")

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the members."""
        return tuple(range(self.members))

    def describe(self) -> dict[str, str]:
        """Attributes of a store that holds the members."""
        if not self.members:
            return {}
        return {"ensemble": ", ".join(f"{name} {value}" for name, value in asdict(self).items())}


def perturbations(
    config: EnsembleConfig,
    initial_time: np.datetime64,
    member: int | None,
    change: Float32[np.ndarray, "channel lat lon"],
    latitude: tuple[float, ...],
    longitude: tuple[float, ...],
) -> Float32[np.ndarray, "channel lat lon"]:
    """What a member's first states are perturbed by.

    Parameters
    ----------
    change
        Change of the analysis over a step before the initial time, physical units.
    """
    if not member:
        return np.zeros_like(change)
    weights = cell_area_weights(np.asarray(latitude))[:, None]
    size = np.sqrt((change.astype(np.float64) ** 2 * weights).sum(axis=(1, 2)) / (weights.sum() * change.shape[2]))
    hours = int((initial_time - np.datetime64("1900-01-01")) / np.timedelta64(1, "h"))
    rng = np.random.default_rng([config.seed, hours, (member + 1) // 2])
    fields = _fields(latitude, longitude, config.length_km, config.smoothness).draw(rng, len(change))
    sign = 1 if member % 2 else -1
    return (sign * config.amplitude * size[:, None, None] * fields).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _fields(latitude: tuple[float, ...], longitude: tuple[float, ...], length_km: float, smoothness: float) -> SphericalFields:
    return SphericalFields(latitude, longitude, length_km, smoothness)
