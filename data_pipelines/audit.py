"""The audit: what was read, what is wrong with it, and whether it may train a network.

Every field is looked at once, in blocks, in any order. What would poison a training run is refused unless it is
allowed by name; the rest is noted. The result is one JSON beside the store and a short table.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from data_pipelines.combine import grid_text
from data_pipelines.contracts import WAVES, contract_of
from data_pipelines.standardise import LEFT_OUT, NOTES
from data_pipelines.store import StoreError
from data_pipelines.variables import ACCUMULATED, OCEAN_VARIABLES, VARIABLES, Channel

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What can be allowed, and what it means.
FINDINGS = {
    "gaps": "times are missing between the first and the last",
    "duplicate_times": "a time is there more than once; allowed, the first is kept",
    "nan_fields": "a whole field is missing at some time",
    "nan_points": "a field of the atmosphere is missing in places",
    "constant_fields": "a field has one value everywhere",
    "repeated_fields": "a field equals that of the time before, bit by bit",
    "out_of_range": "values that the variable cannot have",
    "upside_down": "north and south look swapped",
    "regional": "the grid does not reach around the globe",
}
# These are uniform in nature now and then, or change more slowly than the time step.
_MAY_BE_UNIFORM = (
    OCEAN_VARIABLES
    | ACCUMULATED
    | {
        "mask",
        "wave_speed",
        "snow_depth",
        "total_cloud_cover",
        "fraction_of_cloud_cover",
        "specific_cloud_ice_water_content",
        "specific_cloud_liquid_water_content",
        "specific_rain_water_content",
        "specific_snow_water_content",
    }
)
# What is kept of every field of a channel, and of all fields of a channel in a block: one column each.
_FIELD = np.dtype([("low", "f4"), ("high", "f4"), ("missing", "i4"), ("checksum", "u4")])
_BLOCK = np.dtype([("sum", "f8"), ("weight", "f8"), ("north_minus_south", "f8")])
FORMAT = 2  # of reports in files beside unfinished stores
_LISTED_TIMES = 10  # so many times are named per finding; the rest is counted
_TROPOSPHERE = 400  # hPa: below, cyclones are cyclonic in every season


@dataclass(frozen=True)
class Finding:
    """One defect: `name` as in `FINDINGS`, or a note."""

    name: str
    message: str
    variable: str | None = None
    count: int = 0
    times: tuple[str, ...] = ()
    accepted: bool = True


@dataclass
class FieldSummary:
    """What was seen of one channel."""

    variable: str
    level: int | None
    units: str
    minimum: float = float("inf")
    maximum: float = float("-inf")
    mean: float = float("nan")  # area-weighted over the globe, over all times
    fields: int = 0
    nan_fields: int = 0


@dataclass(frozen=True)
class BlockReport:
    """What was seen in one block.

    40 years of 69 channels every 6 hours are 4 million fields, of 16 bytes each; as Python's numbers they would be gigabytes.

    Parameters
    ----------
    start
        Orders the blocks.
    channels
        Their names.
    counts
        Fields of each channel.
    fields
        Of `_FIELD`: those of the first channel, then those of the next.
    totals
        Of `_BLOCK`, one for each channel.
    """

    start: int
    channels: tuple[str, ...]
    counts: NDArray[np.int32]
    fields: NDArray[Any]
    totals: NDArray[Any]

    def of(self, channel: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """The fields of one channel, and their totals in an array of one."""
        place = self.channels.index(channel)
        begin = int(self.counts[:place].sum())
        return self.fields[begin : begin + int(self.counts[place])], self.totals[place : place + 1]

    def as_json(self) -> dict[str, Any]:
        """The report as plain lists, a column each."""
        columns = {name: self.fields[name].tolist() for name in _FIELD.names or ()}
        counts, totals = self.counts.tolist(), self.totals.tolist()
        return {"start": self.start, "channels": list(self.channels), "counts": counts, **columns, "totals": totals}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> BlockReport:
        """Read what `as_json` gave, also through a file."""
        fields = np.empty(len(content["low"]), _FIELD)
        for name in _FIELD.names or ():
            fields[name] = content[name]
        totals = np.array([tuple(row) for row in content["totals"]], _BLOCK)
        channels = tuple(map(sys.intern, content["channels"]))
        return cls(content["start"], channels, np.array(content["counts"], "int32"), fields, totals)


@dataclass
class Audit:
    """The report on one source or store."""

    sources: tuple[str, ...]
    span: tuple[str, str] | None
    steps: int
    step_hours: float | None
    grid: str
    expver: dict[str, int]
    channels: list[FieldSummary]
    findings: list[Finding]
    changes: list[str]
    left_out: list[str]
    data_hash: str | None = None
    store: str | None = None
    samples: int | None = None  # of waves
    step_seconds: float | None = None  # of waves
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def refused(self) -> list[Finding]:
        """The defects that nobody allowed."""
        return [finding for finding in self.findings if not finding.accepted]

    @property
    def accepted(self) -> bool:
        """Whether every defect was allowed."""
        return not self.refused

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        content = {"accepted": self.accepted, **asdict(self)}
        for channel in content["channels"]:
            for key in ("minimum", "maximum", "mean"):
                channel[key] = channel[key] if np.isfinite(channel[key]) else None
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)

    def raise_if_refused(self, advice: str = "") -> None:
        """Raise AuditError that names every defect not allowed.

        Raises
        ------
        AuditError
            With the names to allow and what they are about.
        """
        if self.accepted:
            return
        listed = "; ".join(f"{finding.name}: {finding.message}" for finding in self.refused)
        names = ",".join(dict.fromkeys(finding.name for finding in self.refused))
        raise AuditError(
            f"the audit refuses {' + '.join(self.sources)}: {listed}. Mend the source, or accept with allow=[{names}].{advice}"
        )


class AuditError(StoreError):
    """Data that would poison a training run."""


def check_allowed(allow: Iterable[str]) -> frozenset[str]:
    """Check names given to `allow`.

    Raises
    ------
    AuditError
        For a name that is no finding.
    """
    unknown = sorted(set(allow) - set(FINDINGS))
    if unknown:
        raise AuditError(f"allow has {unknown}, which the audit does not know; it can allow {sorted(FINDINGS)}.")
    return frozenset(allow)


def audit_times(times: NDArray[np.datetime64], allow: Iterable[str] = ()) -> list[Finding]:
    """Find duplicates and gaps in sorted times, without reading a field.

    Raises
    ------
    AuditError
        If the step is not uniform in a way that no gap explains: that cannot be allowed.
    """
    allow = check_allowed(allow)
    findings: list[Finding] = []
    steps = np.diff(times)
    duplicate = steps == np.timedelta64(0, "ns")
    if duplicate.any():
        findings.append(_finding("duplicate_times", times[1:][duplicate], allow, None, "times are there more than once"))
    steps = steps[~duplicate]
    if not steps.size:
        return findings
    lengths, counts = np.unique(steps, return_counts=True)
    step = lengths[np.argmax(counts)]
    distinct = times[np.concatenate([[True], ~duplicate])]
    odd = (steps % step) != np.timedelta64(0, "ns")
    if odd.any():
        where = int(np.argmax(odd))
        raise AuditError(
            f"time step is not uniform: it is {_hours(step):g} h mostly, but {_hours(steps[where]):g} h from "
            f"{_text(distinct[where])} to {_text(distinct[where + 1])}. Choose a uniform subset with every=..., or "
            "start=... and end=..."
        )
    gap = steps > step
    if gap.any():
        missing = int((steps[gap] // step).sum() - gap.sum())
        message = f"{missing} times are missing in {int(gap.sum())} gaps of the {_hours(step):g} h step, after"
        findings.append(_finding("gaps", distinct[:-1][gap], allow, None, message, count=missing))
    return findings


class Auditor:
    """Looks at every field once, block by block.

    `look` reports on a block, and `keep` takes such a report, so that an interrupted build can go on from the reports that it
    has; `result` puts together what was kept.
    """

    def __init__(
        self,
        dataset: xr.Dataset,
        sources: Sequence[str],
        allow: Iterable[str] = (),
        times: NDArray[np.datetime64] | None = None,
    ) -> None:
        self.allow = check_allowed(allow)
        self.sources = tuple(sources)
        self.dataset = dataset
        self.times = dataset["time"].values if times is None and "time" in dataset.dims else times  # before duplicates went
        self.reports: list[BlockReport] = []
        self.waves = contract_of(dataset) is WAVES
        rows = dataset[contract_of(dataset).plane[0]].values
        # Area on the globe, not 0 for a grid that is all pole; cells of waves are of one size.
        self.weights = (np.ones_like(rows) if self.waves else np.cos(np.deg2rad(rows)) + 1e-6)[:, None]

    def metadata_findings(self) -> list[Finding]:
        """What can be said before any field is read."""
        findings: list[Finding] = []
        if self.waves:
            return findings  # the contract allows no gap, and the plane is no globe
        if self.times is not None:
            findings += audit_times(self.times, self.allow)
        if not _is_global(self.dataset["latitude"].values, self.dataset["longitude"].values):
            message = f"the grid leaves a part of the globe out ({grid_text(self.dataset)}); networks here wrap around it"
            findings.append(Finding("regional", message, accepted="regional" in self.allow))
        return findings

    def look(self, block: xr.Dataset) -> BlockReport:
        """Report on loaded fields: a block of times, the static ones, or one sample of waves."""
        channels, fields, totals = [], [], []
        for name, array in block.data_vars.items():
            values = array.values if "level" in array.dims else np.expand_dims(array.values, axis=-3)
            if self.waves:
                values = values.reshape(-1, *values.shape[-3:])
            elif "time" not in array.dims:
                values = values[None]
            for position, channel in enumerate(_channels_of(block, str(name))):
                seen, total = self._look_at(channel, values[:, position])
                channels.append(sys.intern(str(channel)))
                fields.append(seen)
                totals.append(total)
        counts = np.array([len(seen) for seen in fields], "int32")
        return BlockReport(_start(block), tuple(channels), counts, np.concatenate(fields), np.array(totals, _BLOCK))

    def keep(self, report: BlockReport) -> None:
        """Count a block's report in."""
        self.reports.append(report)

    def _look_at(self, channel: Channel, fields: NDArray[np.floating]) -> tuple[NDArray[Any], tuple[float, float, float]]:
        flat = fields.reshape(fields.shape[0], -1)
        missing = np.isnan(flat)
        seen = np.zeros(len(flat), _FIELD)
        seen["missing"] = missing.sum(axis=1)
        there = seen["missing"] < flat.shape[1]
        seen["low"], seen["high"] = np.inf, -np.inf
        seen["low"][there], seen["high"][there] = np.nanmin(flat[there], axis=1), np.nanmax(flat[there], axis=1)
        seen["checksum"] = [zlib.crc32(np.ascontiguousarray(step).data) for step in flat]
        weights = np.broadcast_to(self.weights, fields.shape[1:]).ravel()
        present = np.where(missing, 0.0, flat).astype("float64")
        total_weight = (~missing).astype("float64") @ weights
        north_minus_south = float("nan")
        if not self.waves:
            north_minus_south = _hemispheres(channel.variable, channel.level, fields, self.dataset["latitude"].values)
        return seen, (float((present @ weights).sum()), float(total_weight.sum()), north_minus_south)

    def result(self, data_hash: str | None = None, store: str | None = None) -> Audit:
        """Put the reports of all blocks together."""
        times = np.array([], "datetime64[ns]")
        if "time" in self.dataset.dims and not self.waves:
            times = self.dataset["time"].values
        channels: list[FieldSummary] = []
        findings = self.metadata_findings()
        blocks = sorted(self.reports, key=lambda report: report.start)
        for channel in _all_channels(self.dataset):
            held = [block for block in blocks if str(channel) in block.channels]
            if not held:
                continue
            fields, totals = (np.concatenate(parts) for parts in zip(*(block.of(str(channel)) for block in held), strict=True))
            summary, found = self._judge(channel, fields, totals, times)
            channels.append(summary)
            findings += found
        expver = self._versions()
        if len(expver) > 1:
            counted = ", ".join(f"{count} steps of {version}" for version, count in expver.items())
            findings.append(Finding("expver", f"final ERA5 (0001) and preliminary ERA5T (0005) are mixed: {counted}"))
        seconds = self.dataset["time"].values if self.waves else None
        return Audit(
            sources=self.sources,
            span=_span(times if seconds is None else seconds),
            steps=int(times.size if seconds is None else seconds.size),
            step_hours=_hours(np.unique(np.diff(np.unique(times)))[0]) if times.size > 1 else None,
            step_seconds=float(seconds[1] - seconds[0]) if seconds is not None else None,
            samples=self.dataset.sizes.get("sample"),
            grid=_plane_text(self.dataset) if self.waves else grid_text(self.dataset),
            expver=expver,
            channels=channels,
            findings=findings,
            changes=list(self.dataset.attrs.get(NOTES, [])),
            left_out=list(self.dataset.attrs.get(LEFT_OUT, [])),
            data_hash=data_hash,
            store=store,
        )

    def _judge(
        self, channel: Channel, fields: NDArray[Any], totals: NDArray[Any], times: NDArray[np.datetime64]
    ) -> tuple[FieldSummary, list[Finding]]:
        name, subject = channel.variable, str(channel)
        points = int(np.prod([self.dataset.sizes[dim] for dim in contract_of(self.dataset).plane]))
        known = VARIABLES.get(name)
        low, high, missing, checksum = (fields[key] for key in ("low", "high", "missing", "checksum"))
        static = "time" not in self.dataset[name].dims
        when = np.full(1, np.datetime64("NaT")) if static else times
        if self.waves:
            when = self._moments(static)
        whole = missing == points
        seen = ~whole
        summary = FieldSummary(
            name,
            channel.level,
            str(self.dataset[name].attrs.get("units", "")),
            fields=len(missing),
            nan_fields=int(whole.sum()),
        )
        if seen.any():
            summary.minimum, summary.maximum = float(low[seen].min()), float(high[seen].max())
            summary.mean = float(totals["sum"].sum() / totals["weight"].sum())
        found: list[Finding] = []

        def report(kind: str, where: NDArray[np.bool_], message: str, note: bool = False) -> None:
            if where.any():
                found.append(_finding(kind, when[where], self.allow, subject, message, note=note))

        report("nan_fields", whole, "is missing (NaN) everywhere")
        partly = (missing > 0) & seen
        report(
            "nan_points",
            partly,
            f"is missing at up to {int(missing[partly].max()) if partly.any() else 0} of {points} points",
            name in OCEAN_VARIABLES,
        )
        if points > 1:
            report("constant_fields", seen & (low == high), "has one value everywhere", name in _MAY_BE_UNIFORM)
        if not static:
            repeated = np.concatenate([[False], (checksum[1:] == checksum[:-1]) & seen[1:] & (low != high)[1:]])
            report("repeated_fields", repeated, "equals the field before, bit by bit", name in _MAY_BE_UNIFORM)
        if known is not None:
            lowest, highest = known.valid_range
            outside = seen & ((low < lowest) | (high > highest))
            reach = f"{low[outside].min():g} to {high[outside].max():g}" if outside.any() else ""
            report(
                "out_of_range",
                outside,
                f"reaches {reach}, but {name} lies in {lowest:g} to {highest:g} {known.units}: wrong units?",
            )
        swapped = totals["north_minus_south"][~np.isnan(totals["north_minus_south"])]
        if swapped.size and swapped.mean() < 0.0:
            message = "looks upside down: what is known of its northern and southern hemisphere is found the other way round"
            found.append(Finding("upside_down", f"{subject} {message}", subject, accepted="upside_down" in self.allow))
        return summary, found

    def _moments(self, static: bool) -> NDArray[Any]:
        """What to call every field of a wave variable: its sample, and its time."""
        moments = [""] if static else [f" at {time:g} s" for time in self.dataset["time"].values]
        return np.array([f"sample {sample}{moment}" for sample in self.dataset["sample"].values for moment in moments])

    def _versions(self) -> dict[str, int]:
        if "expver" not in self.dataset.coords:
            return {}
        versions, counts = np.unique(self.dataset["expver"].values, return_counts=True)
        return {str(version): int(count) for version, count in zip(versions, counts, strict=True)}


def audit(
    dataset: xr.Dataset,
    sources: Sequence[str] = ("the dataset",),
    allow: Iterable[str] = (),
    steps: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Audit a standardised dataset or an analysis store, reading every field once.

    Parameters
    ----------
    dataset
        As `open_source` or `open_analysis` gives it.
    sources
        What to call it in the report.
    allow
        Defects to accept, by their names in `FINDINGS`.
    steps
        Time steps read at once.
    progress
        Called with (steps done, all steps).
    """
    auditor = Auditor(dataset, sources, allow)
    timed = [name for name, array in dataset.data_vars.items() if "time" in array.dims]
    static = dataset.drop_vars(timed)
    if static.data_vars:
        auditor.keep(auditor.look(static.load()))
    total = dataset.sizes.get("time", 0)
    for start in range(0, total, steps):
        auditor.keep(auditor.look(dataset[timed].isel(time=slice(start, start + steps)).load()))
        if progress is not None:
            progress(min(start + steps, total), total)
    return auditor.result()


def _hemispheres(name: str, level: int | None, fields: NDArray[np.floating], latitude: NDArray[np.floating]) -> float:
    """Positive if the hemispheres are as on Earth, negative if they look swapped, NaN if this cannot tell.

    What is the same in every season: the Southern Ocean's pressure trough, Antarctica's height, less land in the
    middle latitudes of the south, and cyclones, whose relative vorticity is strong and positive in the north and
    strong and negative in the south (third moment; in the troposphere).

    On ERA5 (December to February, 280 times) and on the simulated atmosphere (240 times over a year) not one single
    time of `mean_sea_level_pressure` or of `vorticity` at 850 hPa has the wrong sign; the audit judges their mean.
    """
    test = _HEMISPHERE_TESTS.get(name)
    if test is None or (level is not None and level < _TROPOSPHERE):
        return float("nan")
    if latitude.max() < test.poleward - 5.0 or latitude.min() > -(test.poleward - 5.0):
        return float("nan")
    rows = (np.abs(latitude) >= test.equatorward) & (np.abs(latitude) <= test.poleward)
    north, south = fields[:, rows & (latitude > 0)], fields[:, rows & (latitude < 0)]
    if not north.size or not south.size or np.isnan(north).all() or np.isnan(south).all():
        return float("nan")
    difference = float(np.nanmean(north.astype("float64") ** test.moment) - np.nanmean(south.astype("float64") ** test.moment))
    return test.sign * difference + test.tolerance


@dataclass(frozen=True)
class _HemisphereTest:
    """north - south of the mean of field**moment between two latitudes has this sign; tolerance in the field's units."""

    equatorward: float
    poleward: float
    sign: float
    tolerance: float
    moment: int = 1


_HEMISPHERE_TESTS = {
    "mean_sea_level_pressure": _HemisphereTest(50.0, 65.0, 1.0, 500.0),
    "surface_pressure": _HemisphereTest(75.0, 90.0, 1.0, 0.0),
    "geopotential_at_surface": _HemisphereTest(75.0, 90.0, -1.0, 0.0),
    "land_sea_mask": _HemisphereTest(40.0, 60.0, 1.0, 0.0),
    "vorticity": _HemisphereTest(20.0, 70.0, 1.0, 0.0, moment=3),
}


def _finding(
    name: str,
    times: NDArray[np.datetime64],
    allow: frozenset[str],
    variable: str | None,
    message: str,
    *,
    note: bool = False,
    count: int | None = None,
) -> Finding:
    listed = tuple(_text(time) for time in times[:_LISTED_TIMES] if times.dtype.kind == "U" or not np.isnat(time))
    more = f" and {len(times) - len(listed)} more" if listed and len(times) > len(listed) else ""
    when = f" at {', '.join(listed[:3])}{more if len(listed) <= 3 else f' and {len(times) - 3} more'}" if listed else ""
    subject = f"{variable} " if variable else ""
    return Finding(name, f"{subject}{message}{when}", variable, count or len(times), listed, accepted=note or name in allow)


def _all_channels(dataset: xr.Dataset) -> list[Channel]:
    return [channel for name in dataset.data_vars for channel in _channels_of(dataset, str(name))]


def _channels_of(dataset: xr.Dataset, name: str) -> list[Channel]:
    levels = dataset["level"].values.tolist() if "level" in dataset[name].dims else [None]
    return [Channel(name, level) for level in levels]


def _is_global(latitude: NDArray[np.floating], longitude: NDArray[np.floating]) -> bool:
    """Whether no gap is wider than one and a half grid steps, around the globe and to either pole."""
    columns = np.diff(np.append(longitude, longitude[0] + 360.0))
    if columns.size < 3 or latitude.size < 2:
        return False
    rows = -np.diff(latitude)
    margin = 1.5 * rows.max()
    return bool(columns.max() <= 1.5 * columns.min() and 90.0 - latitude[0] <= margin and latitude[-1] + 90.0 <= margin)


def _start(block: xr.Dataset) -> int:
    """First time of a block in ns; static fields come before every time, though the time axis may lie beside them."""
    if "sample" in block.dims:
        return int(block["sample"].values[0])
    if not any("time" in array.dims for array in block.data_vars.values()):
        return -(2**63)
    return int(block["time"].values[0].astype("datetime64[ns]").astype("int64"))


def _hours(step: np.timedelta64) -> float:
    return float(step / np.timedelta64(1, "h"))


def _text(time: Any) -> str:
    return str(np.datetime_as_string(time, "m")) if isinstance(time, np.datetime64) else f"{time}"


def _span(times: NDArray[Any]) -> tuple[str, str] | None:
    """First and last date to the minute, or second."""
    if not times.size:
        return None
    first, last = (_text(end) if times.dtype.kind == "M" else f"{end:g} s" for end in times[[0, -1]])
    return first, last


def _plane_text(dataset: xr.Dataset) -> str:
    y, x = dataset["y"].values, dataset["x"].values
    return f"{y.size} x {x.size}, y {y[0]:g} to {y[-1]:g} m, x {x[0]:g} to {x[-1]:g} m"
