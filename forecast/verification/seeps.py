"""SEEPS: the stable equitable error in probability space of precipitation (Rodwell et al., Q. J. R. Meteorol. Soc. 2010).

Precipitation is dry (up to the dry threshold, which belongs to it: WeatherBench 2 puts a value equal to it into no category),
light or heavy (from the wet threshold of place and season); an error costs what makes any constant forecast score 1 on average
where light is twice as frequent as heavy.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from jaxtyping import Float64

from forecast.verification.fields import Fields
from forecast.verification.inputs import VerificationError, normalise_grid
from forecast.verification.statistics import Statistic, of_masked_field

DRY_THRESHOLD = {"6hr": 0.1e-3, "24hr": 0.25e-3}  # m
DRY_FRACTIONS = (0.1, 0.85)  # where the score means something; both included


def scoring_matrix(p1: Float64[np.ndarray, "*grid"]) -> Float64[np.ndarray, "3 3 *grid"]:
    """Cost by category of the forecast (dry, light, heavy) and of truth, where the dry fraction is p1."""
    zero = np.zeros_like(p1)
    rows = [
        [zero, 1 / (1 - p1), 4 / (1 - p1)],
        [1 / p1, zero, 3 / (1 - p1)],
        [1 / p1 + 3 / (2 + p1), 3 / (2 + p1), zero],
    ]
    return 0.5 * np.asarray(rows)


def seeps_statistic(
    climatology: xr.Dataset, variable: str = "total_precipitation_24hr", dry_threshold: float | None = None
) -> Statistic:
    """The statistic of SEEPS for one variable; NaN for all others.

    Parameters
    ----------
    climatology
        Holds `{variable}_seeps_threshold` [m] and `{variable}_seeps_dry_fraction` (hour, dayofyear, latitude, longitude), as
        WeatherBench 2's climatologies do.
    variable
        Precipitation [m].
    dry_threshold
        Metres; None: 0.25 mm of 24 hours, 0.1 mm of 6.

    Raises
    ------
    VerificationError
        If the climatology lacks a variable, or the dry threshold is not known.
    """
    names = [f"{variable}_seeps_threshold", f"{variable}_seeps_dry_fraction"]
    lacking = [name for name in names if name not in climatology]
    if lacking:
        raise VerificationError(f"climatology lacks {lacking}, which SEEPS needs. WeatherBench 2's climatologies hold them.")
    period = variable.rsplit("_", 1)[-1]
    if dry_threshold is None and period not in DRY_THRESHOLD:
        raise VerificationError(f"dry_threshold of {variable} is not known; give it in metres, as dry_threshold=0.00025.")
    # Fields are float32, so thresholds are too: a value equal to one is equal to it.
    dry = float(np.float32(DRY_THRESHOLD[period] if dry_threshold is None else dry_threshold))
    grid = normalise_grid(climatology[names], "climatology").load()
    wet = grid[names[0]].astype(np.float32).transpose("hour", "dayofyear", "latitude", "longitude")
    p1 = grid[names[1]].mean(("hour", "dayofyear")).transpose("latitude", "longitude").values.astype(np.float64)
    low, high = DRY_FRACTIONS
    scored = (p1 >= low) & (p1 <= high)
    matrix = scoring_matrix(np.where(scored, p1, 0.5))

    def place_of(fields: Fields) -> int | None:
        return next((place for place, channel in enumerate(fields.channels) if channel.variable == variable), None)

    def cost(fields: Fields) -> np.ndarray:
        result = np.full(fields.o.shape, np.nan)
        place = place_of(fields)
        if place is None:
            return result
        times = xr.DataArray(fields.valid, dims="pair")
        heavy = wet.sel(hour=times.dt.hour, dayofyear=times.dt.dayofyear).values
        f, o = fields.f[:, place], fields.o[:, place]
        forecast, truth = ((values > dry).astype(int) + ((values > dry) & (values >= heavy)) for values in (f, o))
        rows, columns = np.indices(p1.shape)
        result[:, place] = np.where(np.isfinite(f + o + heavy), matrix[forecast, truth, rows, columns], np.nan)
        return result

    def mask(fields: Fields) -> np.ndarray:
        return np.broadcast_to(scored, fields.o.shape)

    return of_masked_field(cost, mask)
