"""Is one forecast better than another, or was it luck? Tests on the difference of their errors, initial time by initial time.

The differences are not independent: forecasts of lead time h that start every s share weather until h / s starts later.
`overlap` is that number. Both tests here respect it, and both say nothing (NaN) where the sample holds fewer than two
stretches as long as the overlap, rather than something wrong.

- `diebold_mariano`: t-test of the mean difference with a variance that allows for autocorrelation. The variance is the mean
  of the B lowest cosine transforms' squares (equal-weighted cosine estimator) with B degrees of freedom (Lazarus, Lewis,
  Stock and Watson, J. Business & Economic Statistics 2018); B falls with the overlap. The usual Bartlett sum with normal
  critical values rejects a true null hypothesis far too often in such short samples (tests measure it).
- `block_bootstrap`: percentile interval of the mean difference from circular blocks of consecutive initial times, as long as
  the overlap or n^(1/3), whichever is longer (Politis and Romano 1992), widened for the small number of blocks as Student's t
  is against the normal distribution.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import stats

from forecast.verification.inputs import VerificationError

MIN_SAMPLE = 6
MIN_STRETCHES = 2.0
RESAMPLES = 2000


class Difference(NamedTuple):
    """A test of a mean difference.

    Attributes
    ----------
    mean
        Mean of the differences; below 0 where the first forecast has the lower error.
    p
        Two-sided probability of a mean at least as far from 0 if there were no difference; NaN where not testable.
    low, high
        95 % interval of the mean; NaN where not testable.
    """

    mean: float
    p: float
    low: float
    high: float


def overlap_of(lead: np.timedelta64, spacing: np.timedelta64) -> int:
    """Number of consecutive initial times whose forecasts of a lead time share weather: lead / spacing, at least 1."""
    return max(1, int(np.ceil(lead / spacing)))


def testable(n: int, overlap: int) -> bool:
    """Whether a sample is long enough to say anything."""
    return n >= MIN_SAMPLE and n >= MIN_STRETCHES * overlap


def diebold_mariano(difference: Float64[np.ndarray, " time"], overlap: int, level: float = 0.95) -> Difference:
    """Test whether the mean of a series of error differences is zero (Diebold and Mariano 1995).

    Parameters
    ----------
    difference
        Error of the first forecast minus error of the second at each initial time, in order of time.
    overlap
        As from `overlap_of`.
    level
        Confidence of the interval.

    Raises
    ------
    VerificationError
        If `overlap` is below 1 or `level` outside (0, 1).
    """
    _check(overlap, level)
    d = np.asarray(difference, dtype=np.float64)
    mean = float(d.mean()) if d.size else float("nan")
    if not testable(d.size, overlap):
        return Difference(mean, float("nan"), float("nan"), float("nan"))
    degrees = degrees_of_freedom(d.size, overlap)
    order = np.arange(1, degrees + 1)[:, None]
    cosines = np.sqrt(2 / d.size) * np.cos(np.pi * order * (np.arange(d.size) + 0.5) / d.size)
    variance = float(((cosines @ (d - mean)) ** 2).mean())  # long-run variance of one difference
    error = np.sqrt(variance / d.size)
    if error == 0:
        return Difference(mean, 1.0 if mean == 0 else 0.0, mean, mean)
    p = 2 * float(stats.t.sf(abs(mean) / error, degrees))
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    return Difference(mean, p, mean - half, mean + half)


def degrees_of_freedom(n: int, overlap: int) -> int:
    """How many cosine transforms see the same long-run variance: 0.4 n^(2/3) by the rule, fewer where forecasts overlap."""
    return int(max(1, min(0.4 * n ** (2 / 3), n / overlap)))


def block_bootstrap(
    difference: Float64[np.ndarray, " time"], overlap: int, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Resample blocks of consecutive initial times; the same seed gives the same interval.

    Parameters
    ----------
    difference, overlap, level
        As for `diebold_mariano`.
    resamples
        Number of resamples.
    seed
        Of the resampling.

    Raises
    ------
    VerificationError
        As for `diebold_mariano`.
    """
    _check(overlap, level)
    d = np.asarray(difference, dtype=np.float64)
    mean = float(d.mean()) if d.size else float("nan")
    if not testable(d.size, overlap):
        return Difference(mean, float("nan"), float("nan"), float("nan"))
    index, widening = block_resamples(d.size, overlap, resamples, seed)
    means = mean + widening * (d[index].mean(axis=1) - mean)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    # Two-sided: how often a resampled mean lies on the other side of zero.
    p = min(1.0, 2 * (min((means <= 0).sum(), (means >= 0).sum()) + 1) / (resamples + 1))
    return Difference(mean, float(p), float(low), float(high))


def block_resamples(n: int, overlap: int, resamples: int = RESAMPLES, seed: int = 0) -> tuple[np.ndarray, float]:
    """Draw circular blocks of consecutive initial times.

    Returns
    -------
    index : ndarray of int, shape (resamples, n)
        Positions of the initial times in each resample.
    widening : float
        Factor on the distance of a resampled score from the score, for the small number of blocks.
    """
    length = min(max(overlap, int(np.ceil(n ** (1 / 3)))), n // 2)
    starts = np.random.default_rng(seed).integers(n, size=(resamples, -(-n // length)))
    index = (starts[:, :, None] + np.arange(length)).reshape(resamples, -1)[:, :n] % n
    blocks = n / length
    widening = stats.t.ppf(0.975, blocks - 1) / stats.norm.ppf(0.975) * np.sqrt(blocks / (blocks - 1))
    return index, float(widening)


def _check(overlap: int, level: float) -> None:
    if overlap < 1:
        raise VerificationError(
            f"overlap must be at least 1 (initial times that share weather); got {overlap}. Use overlap_of."
        )
    if not 0 < level < 1:
        raise VerificationError(f"level must lie in (0, 1), as 0.95; got {level}.")
