"""Of ensembles: distances between members and truth, and the rank of truth among the members.

The spread is fair: over pairs of different members, so that an ensemble of any size estimates the score of the distribution
from which its members are drawn (Ferro, Q. J. R. Meteorol. Soc. 2014; Zamo and Naveau, Math. Geosci. 2018). A single member has
no pair: its spread is NaN. WeatherBench 2 calls it 0, and so scores a single member as if the forecast were certain.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from forecast.verification.fields import Fields, Points, Regions


def mean_distance_to_truth(
    members: Float64[np.ndarray, " member *shape"], truth: Float64[np.ndarray, "*shape"]
) -> Float64[np.ndarray, "*shape"]:
    """Mean of |X - o| over members."""
    total = np.zeros_like(truth)
    for member in members:
        total += np.abs(member - truth)
    return total / members.shape[0]


def mean_distance_of_members(members: Float64[np.ndarray, " member *shape"]) -> Float64[np.ndarray, "*shape"]:
    """Mean of |X - X'| over pairs of different members, from the sorted members: 2 sum_r (2 r - M - 1) X_(r) / (M (M - 1))."""
    count = members.shape[0]
    if count == 1:
        return np.full(members.shape[1:], np.nan)
    ordered = np.sort(members, axis=0)
    factor = 2.0 * (2 * np.arange(1, count + 1) - count - 1) / (count * (count - 1))
    return np.tensordot(factor, ordered, axes=1)


def mean_norm_to_truth(fields: Fields, space: Regions | Points) -> np.ndarray:
    """Mean over members of sqrt(A (X - o)^2): the distance between whole fields, for the energy score."""
    return np.mean([_norm(member - fields.o, fields, space) for member in fields.members], axis=0)


def mean_norm_of_members(fields: Fields, space: Regions | Points) -> np.ndarray:
    """Mean over pairs of different members of sqrt(A (X - X')^2)."""
    members = fields.members
    pairs = [(first, second) for first in range(len(members)) for second in range(first)]
    if not pairs:
        return np.full((*fields.o.shape[:2], *space.shape), np.nan)
    return np.mean([_norm(members[first] - members[second], fields, space) for first, second in pairs], axis=0)


def _norm(difference: np.ndarray, fields: Fields, space: Regions | Points) -> np.ndarray:
    return np.sqrt(space.mean(difference**2, fields.present))


def rank_histogram(fields: Fields, space: Regions | Points) -> Float64[np.ndarray, "pair channel region rank"]:
    """Share of the area where truth has each rank among the members, 0 (below all) to M (above all).

    Where truth equals members, the share is spread evenly over the ranks that it could have: the expectation of
    WeatherBench 2's random choice.
    """
    below = (fields.members < fields.o).sum(axis=0)
    ties = (fields.members == fields.o).sum(axis=0)
    count = fields.members.shape[0] + 1
    missing = ~np.isfinite(fields.f + fields.o)
    each = np.where(missing, np.nan, 1.0 / (ties + 1))  # a NaN has no rank
    if not ties.any():
        result = space.histogram(below, count, fields.present, each)
        return result + 0 * result.sum(axis=-1, keepdims=True)  # one NaN, and no share is known
    # A run of equal shares is the running sum of +share where it starts and -share behind its end.
    start = space.histogram(below, count + 1, fields.present, each)
    end = space.histogram(below + ties + 1, count + 1, fields.present, each)
    result = np.cumsum(start - end, axis=-1)[..., :count]
    return result + 0 * result.sum(axis=-1, keepdims=True)
