"""Weather regimes: recurrent patterns of the flow, as components of a von Mises-Fisher mixture.

Divided by its length, an area-weighted anomaly is a direction, and the cosine between two of them is their anomaly
correlation. A mixture of von Mises-Fisher distributions (Banerjee et al., JMLR 2005) therefore groups states by anomaly
correlation. How many regimes there are is chosen by the Bayesian information criterion among the numbers whose regimes are
found again in halves of the sample. The same density of a network's features tells initial states that are unlike all that it
was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from jaxtyping import Float64, Int
from scipy.optimize import linear_sum_assignment

from data_pipelines.area import cell_area_weights

if TYPE_CHECKING:
    from gpu.von_mises_fisher_mixture import VonMisesFisherMixture

STARTS = 5  # of a mixture; the likeliest is kept
STEPS = 1000
TOLERANCE = 1e-5  # of the mean log likelihood
MODES = 10


class RegimeError(ValueError):
    """Data or settings from which no regimes can be made."""


@dataclass(frozen=True)
class Directions:
    """Anomalies as directions: leading patterns of their area-weighted variability.

    Attributes
    ----------
    mean
        What anomalies are from, (latitude, longitude).
    patterns
        Orthonormal patterns of the weighted anomalies, (mode, point).
    weights
        Root of the cell areas at each point.
    explained
        Share of the variance that the patterns hold.
    """

    mean: xr.DataArray
    patterns: Float64[np.ndarray, "mode point"]
    weights: Float64[np.ndarray, " point"]
    explained: float

    def of(self, field: xr.DataArray) -> Float64[np.ndarray, "time mode"]:
        """Give the unit vectors of fields (time, latitude, longitude) on the same grid."""
        projected = _points(field - self.mean) * self.weights @ self.patterns.T
        length = np.linalg.norm(projected, axis=1, keepdims=True)
        return projected / np.where(length > 0, length, 1)

    def to_map(self, direction: Float64[np.ndarray, "regime mode"]) -> xr.DataArray:
        """Give unit vectors as maps (regime, latitude, longitude) whose area-weighted mean square is 1."""
        shape = (direction.shape[0], self.mean.sizes["latitude"], self.mean.sizes["longitude"])
        values = direction @ self.patterns / np.where(self.weights > 0, self.weights, 1) * np.sqrt((self.weights**2).sum())
        return xr.DataArray(values.reshape(shape), {"latitude": self.mean.latitude, "longitude": self.mean.longitude},
                            ("regime", "latitude", "longitude"))  # fmt: skip


def directions_of(field: xr.DataArray, modes: int = MODES) -> Directions:
    """Fit the leading patterns of a field (time, latitude, longitude) over a training span.

    Raises
    ------
    RegimeError
        If the field holds NaN, or there are not more times than modes.
    """
    if field.sizes["time"] <= modes:
        raise RegimeError(f"modes must be below the number of times; got {modes} modes of {field.sizes['time']} times.")
    if not np.isfinite(field.values).all():
        raise RegimeError("the field holds NaN; regimes need complete fields. Choose a variable or region without gaps.")
    mean = field.mean("time").transpose("latitude", "longitude").astype(np.float64)
    area = np.broadcast_to(cell_area_weights(field["latitude"].values)[:, None], mean.shape)
    weights = np.sqrt(area).ravel()
    _, singular, patterns = np.linalg.svd(_points(field - mean) * weights, full_matrices=False)
    return Directions(mean, patterns[:modes], weights, float((singular[:modes] ** 2).sum() / (singular**2).sum()))


def fit_mixture(directions: Float64[np.ndarray, "time mode"], count: int, seed: int = 0) -> VonMisesFisherMixture:
    """Fit a mixture of `count` regimes, the best of several starts."""
    from gpu.von_mises_fisher_mixture import VonMisesFisherMixture

    return VonMisesFisherMixture(count, n_init=STARTS, max_iter=STEPS, tol=TOLERANCE, random_state=seed).fit(directions)


def stability(
    directions: Float64[np.ndarray, "time mode"], count: int, halvings: int = 5, seed: int = 0, block: int = 20
) -> float:
    """Share of times to which mixtures fitted on two random halves give the same regime; 1 / count would be chance or better.

    Halves are made of blocks of consecutive times, because neighbours are alike.
    """
    rng = np.random.default_rng(seed)
    blocks = np.arange(directions.shape[0]) // block
    agreement = []
    for _ in range(halvings):
        first = np.isin(blocks, rng.permutation(blocks.max() + 1)[: (blocks.max() + 1) // 2])
        labels = [fit_mixture(directions[half], count, seed).predict(directions) for half in (first, ~first)]
        agreement.append(matched_share(labels[0], labels[1], count))
    return float(np.mean(agreement))


def matched_share(first: Int[np.ndarray, " time"], second: Int[np.ndarray, " time"], count: int) -> float:
    """Largest share of equal labels under any renaming of the second."""
    table = np.zeros((count, count))
    np.add.at(table, (first, second), 1)
    return float(table[linear_sum_assignment(-table)].sum() / first.size)


@dataclass(frozen=True)
class Choice:
    """How many regimes.

    Attributes
    ----------
    counts, bic, stability
        What was tried; lower is better, higher is better.
    chosen
        The count of lowest BIC among those that are stable, or of all if none is.
    stable
        Whether the chosen count is.
    """

    counts: tuple[int, ...]
    bic: tuple[float, ...]
    stability: tuple[float, ...]
    chosen: int
    stable: bool


def choose_count(
    directions: Float64[np.ndarray, "time mode"], counts: Sequence[int] = range(2, 8), least: float = 0.9, seed: int = 0
) -> Choice:
    """Choose the number of regimes by BIC among those that are found again in halves of the sample (agreement >= `least`).

    BIC alone may favour a component on a few near-equal directions, which halves of the sample do not share.
    """
    bic = [fit_mixture(directions, count, seed).bic(directions) for count in counts]
    again = [stability(directions, count, seed=seed) for count in counts]
    stable = [place for place, value in enumerate(again) if value >= least]
    best = min(stable or range(len(bic)), key=lambda place: bic[place])
    return Choice(tuple(counts), tuple(bic), tuple(again), tuple(counts)[best], bool(stable))


def transition_matrix(labels: Int[np.ndarray, " time"], count: int) -> Float64[np.ndarray, "start end"]:
    """Probability of each regime one step after each; NaN in the row of a regime that never occurs before the last step."""
    table = np.zeros((count, count))
    np.add.at(table, (labels[:-1], labels[1:]), 1)
    total = table.sum(axis=1, keepdims=True)
    return np.divide(table, total, out=np.full_like(table, np.nan), where=total > 0)


def persistence(labels: Int[np.ndarray, " time"], count: int) -> Float64[np.ndarray, " regime"]:
    """Mean length of stay in each regime, in steps; NaN of one that never occurs."""
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    lengths, which = np.diff(np.r_[starts, labels.size]), labels[starts]
    return np.asarray([lengths[which == regime].mean() if (which == regime).any() else np.nan for regime in range(count)])


@dataclass(frozen=True)
class Familiarity:
    """Flags states whose features are less likely than nearly all that a network was trained on.

    Attributes
    ----------
    mixture
        Of the training features' directions.
    threshold
        Log density below which a state is flagged.
    """

    mixture: VonMisesFisherMixture
    threshold: float

    @classmethod
    def fit(
        cls, features: Float64[np.ndarray, "time feature"], held_out: Float64[np.ndarray, "other feature"], count: int = 4,
        rate: float = 0.01, seed: int = 0,
    ) -> Familiarity:  # fmt: skip
        """Fit on training features; the threshold is the quantile `rate` of others that were held out.

        Raises
        ------
        RegimeError
            If `rate` lies outside (0, 1).
        """
        if not 0 < rate < 1:
            raise RegimeError(f"rate must lie in (0, 1), as 0.01; got {rate}.")
        mixture = fit_mixture(features, count, seed)
        return cls(mixture, float(np.quantile(mixture.score_samples(held_out), rate)))

    def unfamiliar(self, features: Float64[np.ndarray, "time feature"]) -> np.ndarray:
        """Whether each state is out of the training distribution."""
        return np.asarray(self.mixture.score_samples(features)) < self.threshold


def _points(field: xr.DataArray) -> Float64[np.ndarray, "time point"]:
    values = field.transpose("time", "latitude", "longitude").values.astype(np.float64)
    return values.reshape(values.shape[0], -1)
