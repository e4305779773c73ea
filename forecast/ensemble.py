"""Members of an ensemble: what sets each of them apart, so that together they show how unsure a forecast is.

Members differ in their first states (random fields or bred vectors added to the analysis, or an earlier analysis), in the
networks that make them (several checkpoints), and in what these leave out (dropout). All ways combine, and what a member is
depends on the settings, its number and its initial time alone: not on the batch or the worker that makes it.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from data_pipelines.area import cell_area_weights
from forecast.forecaster import ForecastError
from forecast.random_fields import SphericalFields
from forecast.stages import parse_hours

STARTS = ("matern", "bred", "none")


class Variant(NamedTuple):
    """What members have in common that can run in one batch: which cascade makes them, how much earlier they start [h]."""

    cascade: int
    earlier_hours: int


@dataclass
class EnsembleConfig:
    """Members of each forecast.

    Member 0 starts from the analysis of the initial time. Members 2k-1 and 2k are a pair: they start from an analysis plus
    and minus one perturbation, and share their cascade and how much earlier they start.

    Parameters
    ----------
    members
        How many; 0 makes single forecasts, in a store without the dimension `number`.
    start
        What is added to the analysis. matern: for each channel a Gaussian random field on the sphere with Matern's covariance.
        bred: bred vectors (Toth and Kalnay 1997), which such fields grow into in the days before, see `forecast.breeding`.
        none: nothing.
    amplitude
        Standard deviation of a perturbation, as a share of the root-mean-square change of the analysis over the first stage's
        step before the initial time; of bred vectors the mean over channels.
    length_km, smoothness
        Correlation length [km] and Matern's nu; for bred vectors of the fields that they grow from.
    breeding_steps
        bred: steps of the first stage before the initial time; after each the difference is scaled back to `amplitude`.
    earlier
        Lagged starts, as in ["6h", "12h"]: pairs take turns starting at the initial time and this much earlier. Their longer
        forecasts are stored where they are valid; the analysis must reach back so far.
    cascades
        More cascades, each as `cascade` on the command line, as in ["6h:first,5d:seed1/short,10d:seed1/medium"]: pairs
        take turns. They make the channels and lead times of the first.
    dropout
        Share of latent channels that members above 0 leave out, others in each step: 0 for none, else best the one that the
        networks were trained with.
    seed
        Draws depend on it, on the initial time and on the member; on nothing else.
    """

    members: int = 0
    start: str = "matern"
    amplitude: float = 0.3
    length_km: float = 800.0
    smoothness: float = 1.5
    breeding_steps: int = 8
    earlier: list[str] = field(default_factory=list)
    cascades: list[str] = field(default_factory=list)
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.members < 0:
            raise ForecastError(f"ensemble.members must not be negative; got {self.members}.")
        if self.start not in STARTS:
            raise ForecastError(f"ensemble.start must be one of {', '.join(STARTS)}; got {self.start!r}.")
        for name in ("amplitude", "length_km", "smoothness"):
            if not getattr(self, name) > 0:
                raise ForecastError(f"ensemble.{name} must be above 0; got {getattr(self, name)}.")
        if self.breeding_steps < 1:
            raise ForecastError(f"ensemble.breeding_steps must be at least 1; got {self.breeding_steps}.")
        if not 0 <= self.dropout < 1:
            raise ForecastError(f"ensemble.dropout must lie in [0, 1); got {self.dropout}.")
        if self.seed < 0:
            raise ForecastError(f"ensemble.seed must not be negative; got {self.seed}.")
        hours = self.earlier_hours
        if len(set(hours)) < len(hours):
            raise ForecastError(f"ensemble.earlier must hold each time once; got {self.earlier}.")
        alike = len(hours) * (1 + len(self.cascades))
        if self.start == "none" and not self.dropout and self.members > alike:
            raise ForecastError(
                f"ensemble.members must be at most {alike} with ensemble.start=none and no dropout, or members would be equal; "
                f"got {self.members}. Perturb the starts, or add to ensemble.earlier or ensemble.cascades."
            )

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the members."""
        return tuple(range(self.members))

    @property
    def perturbs(self) -> bool:
        """Whether something is added to the analysis."""
        return self.members > 0 and self.start != "none"

    @property
    def earlier_hours(self) -> tuple[int, ...]:
        """How much earlier members start [h]; the first 0."""
        return (0, *(parse_hours(text, "ensemble.earlier") for text in self.earlier))

    @property
    def longest_lag(self) -> int:
        """How much earlier a member starts at most [h]."""
        return max(self.variant(number).earlier_hours for number in self.numbers or (0,))

    def variant(self, member: int | None) -> Variant:
        """How a member is made; None is a single forecast."""
        turn = pair_of(member or 0) if self.start != "none" else member or 0
        hours = self.earlier_hours
        return Variant(turn // len(hours) % (1 + len(self.cascades)), hours[turn % len(hours)])

    def describe(self) -> dict[str, str]:
        """Attributes of a store that holds the members."""
        if not self.members:
            return {}
        return {"ensemble": ", ".join(f"{name} {value}" for name, value in asdict(self).items())}


def pair_of(member: int) -> int:
    """Number of the pair that a member belongs to; 0 is the control."""
    return (member + 1) // 2


def generator_of(config: EnsembleConfig, initial_time: np.datetime64, *of: int) -> np.random.Generator:
    """Random numbers that depend on the seed, the initial time and what is given, nothing else."""
    hours = int((initial_time - np.datetime64("1900-01-01")) / np.timedelta64(1, "h"))
    return np.random.default_rng([config.seed, hours, *of])


def sizes_of(change: Float32[np.ndarray, "channel lat lon"], latitude: tuple[float, ...]) -> Float64[np.ndarray, " channel"]:
    """Root-mean-square over the globe of each channel."""
    weights = cell_area_weights(np.asarray(latitude))[:, None]
    return np.sqrt((change.astype(np.float64) ** 2 * weights).sum(axis=(1, 2)) / (weights.sum() * change.shape[2]))


def perturbations(
    config: EnsembleConfig,
    initial_time: np.datetime64,
    member: int | None,
    change: Float32[np.ndarray, "channel lat lon"],
    latitude: tuple[float, ...],
    longitude: tuple[float, ...],
) -> Float32[np.ndarray, "channel lat lon"]:
    """The random fields that are added to a member's first states.

    Parameters
    ----------
    change
        Change of the analysis over a step before the initial time, physical units.
    """
    if not member:
        return np.zeros_like(change)
    fields = _fields(latitude, longitude, config.length_km, config.smoothness)
    drawn = fields.draw(generator_of(config, initial_time, pair_of(member)), len(change))
    sign = 1 if member % 2 else -1
    return (sign * config.amplitude * sizes_of(change, latitude)[:, None, None] * drawn).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _fields(latitude: tuple[float, ...], longitude: tuple[float, ...], length_km: float, smoothness: float) -> SphericalFields:
    return SphericalFields(latitude, longitude, length_km, smoothness)
