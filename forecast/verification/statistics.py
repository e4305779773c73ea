"""What scores are made of: for each pair of initial and lead time a mean over space. They combine over time; scores do not.

A is the area-weighted mean over a region (for maps: the value at a point), f and o forecast and truth, ' an anomaly from the
climatology of the valid time, X the members of an ensemble and M their number. A statistic is either a mean of a field, or is
worked out for each pair from such means (the correlation of one pair, say), or has its own rule (a histogram).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from forecast.verification import ensemble
from forecast.verification.fields import Fields, Points, Regions

Space = Regions | Points


class Means:
    """Statistics of some fields, each worked out when it is first asked for.

    Parameters
    ----------
    fields
        What.
    space
        Over what.
    known
        Statistics by name.
    """

    def __init__(self, fields: Fields, space: Space, known: Mapping[str, Statistic]):
        self.fields, self.space, self._known = fields, space, known
        self._found: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        """Give a statistic, (pair, channel, region, [bin]); NaN if the fields lack what it needs."""
        if name not in self._found:
            statistic = self._known[name]
            if statistic.needs <= self.fields.offers:
                self._found[name] = statistic.compute(self)
            else:
                self._found[name] = np.full((*self.fields.o.shape[:2], *self.space.shape), np.nan)
        return self._found[name]

    def share(self, name: str) -> np.ndarray:
        """Share of the region's weight at the points that a statistic sees, (pair, channel, region)."""
        return self.space.share(points_of(self._known[name], self.fields), self.fields.o.shape[:2])


@dataclass(frozen=True)
class Statistic:
    """One statistic.

    Attributes
    ----------
    compute
        From `Means`, to (pair, channel, region, [bin]).
    needs
        Among "climatology", "ensemble", "vector".
    additive
        Whether it is a mean of a field, so that it makes sense at a point.
    bins
        Name of the last axis, if there is one behind the region.
    mask
        Points (pair, channel, lat, lon) that it is restricted to, beside those that are present; None: no more.
    """

    compute: Callable[[Means], np.ndarray]
    needs: frozenset[str] = frozenset()
    additive: bool = True
    bins: str | None = None
    mask: Callable[[Fields], np.ndarray] | None = None


def of_field(field: Callable[[Fields], np.ndarray], *needs: str) -> Statistic:
    """Mean over space of a field."""
    return Statistic(lambda means: means.space.mean(field(means.fields), means.fields.present), frozenset(needs))


def points_of(statistic: Statistic, fields: Fields) -> np.ndarray | None:
    """Points that a statistic sees; None for all."""
    if statistic.mask is None:
        return fields.present
    mask = statistic.mask(fields)
    return mask if fields.present is None else mask & fields.present


def of_masked_field(field: Callable[[Fields], np.ndarray], mask: Callable[[Fields], np.ndarray]) -> Statistic:
    """Mean over the points of a mask."""

    def compute(means: Means) -> np.ndarray:
        return means.space.mean(field(means.fields), points_of(statistic, means.fields))

    statistic = Statistic(compute, mask=mask)
    return statistic


def of_means(function: Callable[..., np.ndarray], *names: str, needs: tuple[str, ...] = ()) -> Statistic:
    """Worked out for each pair of times from other statistics."""
    return Statistic(lambda means: function(*(means[name] for name in names)), frozenset(needs), additive=False)


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Quotient; NaN where the denominator is not above 0: an anomaly that vanishes (climatology's) correlates with nothing."""
    with np.errstate(invalid="ignore"):
        return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.asarray(bottom) > 0)


def _variance(square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """A difference of means that rounding can push below zero."""
    return np.maximum(square - mean**2, 0.0)


def _centred(fo: np.ndarray, f: np.ndarray, o: np.ndarray, ff: np.ndarray, oo: np.ndarray) -> np.ndarray:
    return ratio(fo - f * o, np.sqrt(_variance(ff, f) * _variance(oo, o)))


def _vector(power: int) -> Callable[[Means], np.ndarray]:
    """Mean of the length of the vector error, to a power, given to both components; NaN for all other channels."""

    def compute(means: Means) -> np.ndarray:
        fields, space = means.fields, means.space
        result = np.full((*fields.o.shape[:2], *space.shape), np.nan)
        for place, other in fields.partners.items():
            if place > other:
                continue
            square = fields.error[:, place] ** 2 + fields.error[:, other] ** 2
            present = None if fields.present is None else fields.present[:, place] & fields.present[:, other]
            mean = space.mean(square if power == 2 else np.sqrt(square), present)
            result[:, place] = result[:, other] = mean
        return result

    return compute


_CLIMATE = ("climatology",)
STATISTICS: Mapping[str, Statistic] = MappingProxyType(
    {
        "mse": of_field(lambda x: x.error**2),
        "mae": of_field(lambda x: np.abs(x.error)),
        "bias": of_field(lambda x: x.error),
        "ff": of_field(lambda x: x.f_anomaly**2, *_CLIMATE),
        "oo": of_field(lambda x: x.o_anomaly**2, *_CLIMATE),
        "fo": of_field(lambda x: x.f_anomaly * x.o_anomaly, *_CLIMATE),
        "f": of_field(lambda x: x.f_anomaly, *_CLIMATE),
        "o": of_field(lambda x: x.o_anomaly, *_CLIMATE),
        "rmse": of_means(np.sqrt, "mse"),
        "acc": of_means(lambda fo, ff, oo: ratio(fo, np.sqrt(ff * oo)), "fo", "ff", "oo", needs=_CLIMATE),
        "acc_centred": of_means(_centred, "fo", "f", "o", "ff", "oo", needs=_CLIMATE),
        "f_variance": of_means(_variance, "ff", "f", needs=_CLIMATE),
        "o_variance": of_means(_variance, "oo", "o", needs=_CLIMATE),
        "vector_mse": Statistic(_vector(2), frozenset({"vector"})),
        "vector_mae": Statistic(_vector(1), frozenset({"vector"})),
        "variance": of_field(lambda x: x.variance, "ensemble"),
        "crps_skill": of_field(lambda x: ensemble.mean_distance_to_truth(x.members, x.o), "ensemble"),
        "crps_spread": of_field(lambda x: ensemble.mean_distance_of_members(x.members), "ensemble"),
        "debiased_mse": of_field(lambda x: x.error**2 - x.variance / x.members.shape[0], "ensemble"),
        "energy_skill": Statistic(
            lambda means: ensemble.mean_norm_to_truth(means.fields, means.space), frozenset({"ensemble"}), additive=False
        ),
        "energy_spread": Statistic(
            lambda means: ensemble.mean_norm_of_members(means.fields, means.space), frozenset({"ensemble"}), additive=False
        ),
        "rank_histogram": Statistic(
            lambda means: ensemble.rank_histogram(means.fields, means.space), frozenset({"ensemble"}), bins="rank"
        ),
    }
)
