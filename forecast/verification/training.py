"""What the fitted baselines may see: a training span, its climatology, and a hold-out inside it for their choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float32, Float64

from data_pipelines.area import cell_area_weights
from data_pipelines.daily_cycle import hour_of_day, mean_by_group
from data_pipelines.dates import time_slice
from data_pipelines.selection import select
from data_pipelines.variables import VARIABLES, Channel
from forecast.verification.inputs import (
    VerificationError,
    check_same_grid,
    normalise_grid,
    require_channels,
    stack,
    time_step,
    unstack,
)

DAY = np.timedelta64(24, "h")
HOLD_OUT_FRACTION = 1 / 3  # the last third of the training span chooses; then everything is fitted on the whole span
SEASONAL_SPAN = np.timedelta64(730, "D")  # shorter than two years: no day-of-year cycle can be told from weather
SEGMENT = np.timedelta64(45, "D")  # length of the runs that stand for a span too long for memory


@dataclass(frozen=True)
class Climatology:
    """Mean state by hour of day, and by day of year where the span is long enough.

    Attributes
    ----------
    dataset
        Dimensions (hour, [dayofyear], [level], latitude, longitude), WeatherBench 2's layout; may be lazy.
    channels
        What `at` gives, in this order.
    description
        How it was made, for the report.
    """

    dataset: xr.Dataset
    channels: tuple[Channel, ...]
    description: str

    def at(self, time: np.ndarray) -> Float32[np.ndarray, "time channel lat lon"]:
        """Give the climatological state at each time (datetime64).

        Raises
        ------
        VerificationError
            If an hour of day was not in the training span.
        """
        times = xr.DataArray(time, dims="time")
        missing = sorted(set(times.dt.hour.values.tolist()) - set(self.dataset["hour"].values.tolist()))
        if missing:
            raise VerificationError(
                f"climatology has the hours {self.dataset['hour'].values.tolist()}; valid times need also {missing}. "
                f"Train on a span with the time step of the forecast, or give climatology=STORE."
            )
        selection = {"hour": times.dt.hour}
        if "dayofyear" in self.dataset.dims:
            selection["dayofyear"] = times.dt.dayofyear
        chosen = self.dataset[list(dict.fromkeys(channel.variable for channel in self.channels))].sel(selection)
        return stack(chosen.transpose("time", ...), self.channels)


def given_climatology(
    dataset: xr.Dataset, truth: xr.Dataset, channels: tuple[Channel, ...], memory_limit: int = 2**27
) -> Climatology:
    """Take a climatology that the user gives: (hour, [dayofyear], ...) as WeatherBench 2's, or without hour.

    Parameters
    ----------
    dataset
        In any names, units and directions.
    truth
        Analyses on whose grid it must lie, in the layout of `inputs`.
    channels
        What is scored.
    memory_limit
        It is read at once if it is not larger than four times that [bytes].

    Raises
    ------
    VerificationError
        If it lacks what is scored, or lies on another grid.
    """
    dataset = normalise_grid(dataset, "climatology")
    check_same_grid(dataset, truth, "climatology")
    require_channels(dataset, channels, "climatology")
    dataset = dataset[list(dict.fromkeys(channel.variable for channel in channels))]
    if "hour" not in dataset.dims:
        dataset = dataset.expand_dims(hour=np.arange(24))
    if dataset.nbytes <= 4 * memory_limit:
        dataset = dataset.load()
    return Climatology(dataset, channels, str(dataset.attrs.get("comment", "given by the user")))


@dataclass(frozen=True)
class Segment:
    """A run of consecutive analyses: time (n,), fields (n, channel, lat, lon) float32 in the store's units."""

    time: np.ndarray
    fields: Float32[np.ndarray, "time channel lat lon"]


@dataclass(frozen=True)
class TrainingData:
    """The states on which baselines are fitted, and nothing else.

    Attributes
    ----------
    channels, latitude, longitude, step
        What the states hold; degrees; time between neighbours.
    segments
        Runs of consecutive states: one where the span fits into memory, several spread over it where not.
    climatology
        Mean of the whole span.
    """

    channels: tuple[Channel, ...]
    latitude: np.ndarray
    longitude: np.ndarray
    step: np.timedelta64
    segments: tuple[Segment, ...]
    climatology: Climatology

    @property
    def weights(self) -> Float64[np.ndarray, " lat"]:
        """Cell areas by latitude, mean 1."""
        return cell_area_weights(self.latitude)

    @property
    def signs(self) -> Float32[np.ndarray, " channel"]:
        """-1 for channels that change sign across a pole (components of a vector), else 1."""
        odd = [channel.variable in VARIABLES and VARIABLES[channel.variable].odd_across_pole for channel in self.channels]
        return np.where(odd, -1.0, 1.0).astype(np.float32)

    def anomalies(self) -> Iterator[Float32[np.ndarray, "time channel lat lon"]]:
        """Give each segment minus the climatology."""
        for segment in self.segments:
            yield segment.fields - self.climatology.at(segment.time)

    def scale(self) -> Float64[np.ndarray, " channel"]:
        """Area-weighted standard deviation of the anomalies of each channel, in its units; 1 where nothing varies."""
        total = np.zeros(len(self.channels))
        count = 0
        for anomaly in self.anomalies():
            total += np.einsum("tcyx,y->c", anomaly.astype(np.float64) ** 2, self.weights)
            count += anomaly.shape[0] * anomaly.shape[2] * anomaly.shape[3]
        scale = np.sqrt(total / count)
        return np.where(scale > 0, scale, 1.0)

    def split(self) -> tuple[TrainingData, TrainingData]:
        """Cut into a part to fit on and the last third to choose on; both know the climatology of the first part only."""
        if len(self.segments) > 1:
            cut = max(1, round(len(self.segments) * (1 - HOLD_OUT_FRACTION)))
            first, last = self.segments[:cut], self.segments[cut:]
        else:
            segment = self.segments[0]
            n = round(segment.time.size * (1 - HOLD_OUT_FRACTION))
            first = (Segment(segment.time[:n], segment.fields[:n]),)
            last = (Segment(segment.time[n:], segment.fields[n:]),)
        if "dayofyear" in self.climatology.dataset.dims:
            climatology = self.climatology  # a mean over years hardly depends on the third that is held out
        else:
            climatology = _mean_by_hour(self.channels, self.latitude, self.longitude, first)
        common = (self.channels, self.latitude, self.longitude, self.step)
        return TrainingData(*common, first, climatology), TrainingData(*common, last, climatology)


def load_training(
    analysis: xr.Dataset,
    channels: Sequence[Channel],
    span: tuple[str, str],
    *,
    climatology: Climatology | None = None,
    memory_limit: int = 2**30,
    allow_nan: bool = False,
) -> TrainingData:
    """Read the training span.

    Parameters
    ----------
    analysis
        Truth in the layout of `inputs`.
    channels
        What is scored.
    span
        First and last time, both included; ISO 8601. A date alone as the end means its last analysis.
    climatology
        To use instead of the span's own.
    memory_limit
        Bytes of fields to keep. A longer span is represented by runs of 45 days spread evenly over it.
    allow_nan
        Whether fields may hold NaN (sea surface temperature on land): enough for a climatology, not for a regression.

    Raises
    ------
    VerificationError
        If the span holds too few analyses, a gap, or a NaN.
    """
    times = analysis["time"].sel(time=time_slice(*span, ("train_span", "train_span"), VerificationError)).values
    step = time_step(analysis)
    if times.size < 8:
        raise VerificationError(
            f"train span {span[0]} to {span[1]} holds {times.size} of the analyses of the training store, which runs from "
            f"{analysis.time.values[0]} to {analysis.time.values[-1]}; baselines need at least 8. "
            f"Give train_span=[FIRST,LAST] inside it, or train=STORE."
        )
    state_bytes = 4 * len(channels) * analysis.sizes["latitude"] * analysis.sizes["longitude"]
    segments = []
    for run in _runs(times, step, max(int(memory_limit // state_bytes), 8)):
        fields = stack(select(analysis, time=run), channels)
        if not allow_nan and not np.isfinite(fields).all():
            bad = [str(channel) for channel, field in zip(channels, np.moveaxis(fields, 1, 0), strict=True)
                   if not np.isfinite(field).all()]  # fmt: skip
            raise VerificationError(
                f"training data hold NaN in {bad} between {run[0]} and {run[-1]}: fitted baselines need complete fields. "
                f"Choose another train_span, or score without them: baselines=[persistence,climatology]."
            )
        segments.append(Segment(run, fields))
    latitude, longitude = analysis["latitude"].values, analysis["longitude"].values
    if climatology is not None:
        mean = climatology
    elif times[-1] - times[0] >= SEASONAL_SPAN:
        from data_pipelines.climatology import compute_climatology

        dataset = compute_climatology(analysis[list({channel.variable for channel in channels})], span)
        mean = Climatology(
            dataset, tuple(channels), f"{span[0]} to {span[1]}, hour of day x day of year, 61-day triangular window"
        )
    else:
        mean = _mean_by_hour(tuple(channels), latitude, longitude, tuple(segments))
    return TrainingData(tuple(channels), latitude, longitude, step, tuple(segments), mean)


def _runs(times: np.ndarray, step: np.timedelta64, most: int) -> list[np.ndarray]:
    """Cut times at gaps; keep `most` states at most, as runs spread evenly over the span."""
    breaks = np.flatnonzero(np.diff(times) != step) + 1
    runs = [run for run in np.split(times, breaks) if run.size >= 2]
    if sum(run.size for run in runs) <= most:
        return runs
    length = min(most, max(int(SEGMENT / step), 2))
    pieces = [run[start : start + length] for run in runs for start in range(0, run.size, length)]
    pieces = [piece for piece in pieces if piece.size >= min(length, 2)]
    keep = np.unique(np.linspace(0, len(pieces) - 1, max(most // length, 1)).round().astype(int))
    return [pieces[position] for position in keep]


def _mean_by_hour(
    channels: tuple[Channel, ...], latitude: np.ndarray, longitude: np.ndarray, segments: Sequence[Segment]
) -> Climatology:
    time = np.concatenate([segment.time for segment in segments])
    hours = np.unique(hour_of_day(time))
    parts = ((np.searchsorted(hours, hour_of_day(segment.time)), segment.fields) for segment in segments)
    mean = mean_by_group(parts, hours.size)
    dataset = unstack(
        mean,
        channels,
        ("hour", "channel", "latitude", "longitude"),
        {"hour": hours, "latitude": latitude, "longitude": longitude},
    )
    first, last = np.datetime_as_string(time[[0, -1]], unit="h")
    return Climatology(dataset, channels, f"mean by hour of day of {first} to {last}")
