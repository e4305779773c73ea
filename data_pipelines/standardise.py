"""The door: whatever a source calls, orders and measures its fields, what comes in follows the contract.

Every alias and quirk is handled here and nowhere else: names, axis order, latitude direction, longitudes from
-180, levels in Pa or by another name, `expver`, ensemble dimensions of size one, ECMWF's spelling of units, time as
`valid_time`, as `date`, as initial time plus step, or padded with NaN (ARCO). What was changed is written into the
attribute `standardised` of the dataset, sentence by sentence, and ends in the audit.

Nothing is computed here: fields stay lazy.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from data_pipelines.contracts import CONTRACT
from data_pipelines.dates import DURATIONS, first_moment, last_moment, seconds_of
from data_pipelines.selection import as_slice
from data_pipelines.store import StoreError
from data_pipelines.units import conversion, spell, to_hectopascals, usual_units
from data_pipelines.variables import STATIC_VARIABLES, VARIABLES, Variable, canonical_order, find_variable

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOTES = "standardised"  # attribute: what the door changed
NOT_ASKED = "was not asked for"  # why a variable is left out that the selection leaves out
NO_VARIABLE = "is no variable of the vocabulary: a line in data_pipelines/variables.py adds it (docs/add_a_variable.md)"
LEFT_OUT = "left_out"  # attribute: what the source has and the store does not
SPAN = "span"  # attribute, gone when a source is open: first and last time, also of what was not asked for

TIME_NAMES = ("valid_time", "time", "date", "forecast_reference_time")
STEP_NAMES = ("step", "forecast_period", "prediction_timedelta", "lead_time")
LEVEL_NAMES = ("level", "pressure_level", "isobaricInhPa", "isobaricInPa", "plev", "lev", "pressure", "air_pressure")
LATITUDE_NAMES = ("latitude", "lat", "nav_lat")
LONGITUDE_NAMES = ("longitude", "lon", "long", "nav_lon")
MEMBER_NAMES = ("number", "realization", "realisation", "member", "ensemble_member", "ensemble", "ens", "sample")
PRESSURE_IN_PA = ("plev", "isobaricInPa")
# Vertical coordinates that are no pressure: fields on them cannot enter the store as they are.
OTHER_VERTICAL = ("hybrid", "model_level", "sigma", "generalVerticalLayer", "potentialVorticity", "theta", "depth")

_RENAMED = "_renamed"  # attribute that carries a note until the field is chosen
_BLOCK_BYTES = 64 * 2**20  # a lazy block of one variable stays below this
_COORDINATE_DIGITS = 5  # float32 degrees are good to about 1e-5


class SourceError(StoreError):
    """A source that cannot be brought to the contract; the message says what was wanted, what came, what to do."""


@dataclass(frozen=True)
class Selection:
    """What is wanted from a source; None means everything that it has.

    Attributes
    ----------
    variables
        WeatherBench 2 names or any alias.
    levels
        hPa.
    start, end
        First and last time, inclusive; a bare date as `end` includes its whole day.
    every
        Keep the times that are multiples of this step, e.g. "6h", counted from 1900-01-01T00: from midnight where the step
        divides a day.
    member
        Which ensemble member, where a source has several.
    time
        The time of a file that does not carry one.
    units
        Units of variables whose file says nothing or something wrong: {"2m_temperature": "degC"}.
    preliminary
        Read ARCO-ERA5 up to the end of ERA5T as well, not just of the final ERA5.
    one_of_several
        Whether other files hold the times before and after, so that the span may reach beyond this one; `open_sources` says.
    """

    variables: Sequence[str] | None = None
    levels: Sequence[int] | None = None
    start: str | None = None
    end: str | None = None
    every: str | None = None
    member: int | None = None
    time: str | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    preliminary: bool = False
    one_of_several: bool = False

    def __post_init__(self) -> None:
        for name in ("start", "end", "time"):
            text = getattr(self, name)
            if text is not None:
                first_moment(text, name, SourceError)
        if self.every is not None:
            as_step(self.every)
        unknown = [name for name in self.units if _resolve(name, {}) is None]
        if unknown:
            raise SourceError(
                f"units names {unknown}, which no variable is called; use WeatherBench 2 names, e.g. 2m_temperature."
            )


def standardise(raw: xr.Dataset, selection: Selection | None = None, *, origin: str = "the source") -> xr.Dataset:
    """Bring one dataset to the contract, lazily.

    Parameters
    ----------
    raw
        As xarray opened it.
    selection
        What of it is wanted.
    origin
        What to call it in messages.

    Returns
    -------
    Dataset with dask-backed float32 fields (time, [level], latitude, longitude), in the vocabulary's names and
    units. It may have a coordinate `expver` on time. Attributes `standardised` and `left_out` are lists of sentences;
    `SPAN`, where it is, holds the first and last time that the source has.

    Raises
    ------
    SourceError
        If something wanted is missing or cannot be converted.
    """
    return _Door(raw, selection or Selection(), origin).open()


class _Door:
    def __init__(self, raw: xr.Dataset, selection: Selection, origin: str) -> None:
        self.raw = raw
        self.selection = selection
        self.origin = origin
        self.span: tuple[np.datetime64, np.datetime64] | None = None
        self.notes: list[str] = []
        self.left_out: list[str] = []
        self.not_asked: set[str] = set()

    def open(self) -> xr.Dataset:
        dataset = self._name_horizontal_axes(self.raw)
        dataset = self._one_member(dataset)
        dataset = self._name_time(dataset)
        dataset = self._only_wanted(dataset)
        dataset = self._select_time(_with_positions(dataset))
        dataset = _chunk(dataset)
        dataset = self._combine_expver(dataset)
        fields = self._fields(dataset)
        out = self._assemble(fields, dataset)
        out = self._turn_latitude(out)
        out = self._wrap_longitude(out)
        out = out.transpose(*(dim for dim in CONTRACT.dims if dim in out.dims))
        out.attrs = {**_kept_attributes(self.raw.attrs), NOTES: self.notes, LEFT_OUT: self.left_out}
        return out if self.span is None else out.assign_attrs({SPAN: self.span})

    # -- horizontal axes -------------------------------------------------------------------------------------------

    def _name_horizontal_axes(self, dataset: xr.Dataset) -> xr.Dataset:
        for wanted, names, standard in (
            ("latitude", LATITUDE_NAMES, "latitude"),
            ("longitude", LONGITUDE_NAMES, "longitude"),
        ):
            found = _find_coordinate(dataset, names, standard)
            if found is None:
                raise SourceError(
                    f"{self.origin} has no coordinate {wanted}; it has {_names(dataset.coords)} and dimensions "
                    f"{_names(dataset.dims)}."
                )
            coordinate = dataset[found]
            if coordinate.dims != (found,):
                kind = "a reduced Gaussian or unstructured grid" if coordinate.ndim == 1 else "a curved or projected grid"
                raise SourceError(
                    f"{self.origin} lies on {kind} ({wanted} has dimensions {coordinate.dims}); an analysis store needs a "
                    "latitude-longitude grid. Interpolate it first (e.g. request grid=... from CDS, or cdo remapcon)."
                )
            if found != wanted:
                self.notes.append(f"coordinate {found} renamed to {wanted}")
                dataset = dataset.drop_vars(wanted, errors="ignore").rename({found: wanted})
        return dataset

    def _turn_latitude(self, dataset: xr.Dataset) -> xr.Dataset:
        latitude = _exact_degrees(dataset["latitude"].values)
        dataset = dataset.assign_coords(latitude=latitude)
        if latitude.size > 1 and not (np.diff(latitude) < 0).all():
            if len(np.unique(latitude)) != latitude.size:
                raise SourceError(f"{self.origin} has a latitude twice; got {latitude.tolist()}.")
            if (np.diff(latitude) > 0).all():
                self.notes.append("latitude ran from south to north; turned")
                return dataset.isel(latitude=slice(None, None, -1))
            self.notes.append("latitude was in no order; sorted")
            return dataset.isel(latitude=np.argsort(-latitude))
        return dataset

    def _wrap_longitude(self, dataset: xr.Dataset) -> xr.Dataset:
        stored = dataset["longitude"].values
        longitude = np.round(_exact_degrees(stored) % 360.0, _COORDINATE_DIGITS) % 360.0
        dataset = dataset.assign_coords(longitude=longitude)
        if longitude.size > 1 and np.isclose(abs(float(stored[-1]) - float(stored[0])), 360.0):
            self.notes.append(f"longitude {stored[-1]:g} repeats {stored[0]:g}; the last column is left out")
            dataset = dataset.isel(longitude=slice(None, -1))
            longitude = longitude[:-1]
        if len(np.unique(longitude)) != longitude.size:
            raise SourceError(f"{self.origin} has a longitude twice; got {np.sort(longitude).tolist()}.")
        start = int(np.argmin(longitude))
        if start:
            self.notes.append(f"longitude ran from {stored[0]:g} to {stored[-1]:g}; now from {longitude[start]:g}")
            dataset = dataset.roll(longitude=-start, roll_coords=True)
        if (np.diff(dataset["longitude"].values) <= 0).any():
            self.notes.append("longitude was in no order; sorted")
            dataset = dataset.isel(longitude=np.argsort(dataset["longitude"].values))
        return dataset

    def _only_wanted(self, dataset: xr.Dataset) -> xr.Dataset:
        """Leave fields out that nobody asked for, before any of them costs anything: ARCO-ERA5 has 273."""
        if self.selection.variables is None:
            return dataset
        wanted = {name for asked in self.selection.variables for name in meanings(asked)}
        kept: list[Hashable] = []
        for name in dataset.data_vars:
            possible = _possible_names(str(name))
            if possible & wanted:
                kept.append(name)
            elif possible:
                self.left_out.append(f"{name} {NOT_ASKED}")
                self.not_asked.add(min(possible) if len(possible) == 1 else str(name))
        return dataset[kept]

    # -- members, time, versions -----------------------------------------------------------------------------------

    def _one_member(self, dataset: xr.Dataset) -> xr.Dataset:
        for name in MEMBER_NAMES:
            if name not in dataset.dims:
                self._right_member(dataset, name)
                continue
            members = dataset[name].values if name in dataset.coords else np.arange(dataset.sizes[name])
            if members.size == 1:
                self.notes.append(f"dimension {name} of size one removed")
                dataset = dataset.isel({name: 0}, drop=True)
                continue
            if self.selection.member is None or self.selection.member not in members:
                raise SourceError(
                    f"member={self.selection.member} is not one of {self.origin}'s {members.size} members "
                    f"{members.tolist()}; an "
                    "analysis has one state per time. Choose one with member=..."
                )
            self.notes.append(f"{name} {self.selection.member} of {members.size} members taken")
            dataset = dataset.isel({name: int(np.flatnonzero(members == self.selection.member)[0])}, drop=True)
        return dataset

    def _right_member(self, dataset: xr.Dataset, name: str) -> None:
        if self.selection.member is None or name not in dataset.coords or dataset[name].ndim:
            return
        if int(dataset[name]) != self.selection.member:
            raise OtherMember(
                f"member={self.selection.member} was asked for; {self.origin} holds member {int(dataset[name])} only."
            )

    def _name_time(self, dataset: xr.Dataset) -> xr.Dataset:
        """Leave exactly one time axis, `time`, the time at which the fields hold."""
        valid = dataset.coords.get("valid_time")
        if valid is not None and valid.ndim == 2:
            first, second = valid.dims
            self.notes.append(f"dimensions {first} and {second} flattened to valid time")
            dataset = self._flatten_steps(dataset, str(first), str(second))
        elif valid is not None and valid.ndim == 1 and valid.dims != ("valid_time",):
            dim = valid.dims[0]
            dataset = dataset.assign_coords({dim: (dim, valid.values)}).drop_vars("valid_time")
            if dim != "time":
                dataset = dataset.drop_vars("time", errors="ignore").rename({dim: "time"})
        elif valid is not None:
            dataset = dataset.drop_vars([name for name in ("time", "forecast_reference_time") if name in dataset.coords])
            dataset = dataset.rename({"valid_time": "time"})
        steps = [name for name in STEP_NAMES if name in dataset.dims]
        if steps:
            raise SourceError(
                f"{self.origin} has the forecast dimension {steps[0]} with {dataset.sizes[steps[0]]} steps; an analysis "
                "has one "
                "field per time. Select one step first, or give an analysis."
            )
        found = next((name for name in TIME_NAMES if name in dataset.coords), None)
        if found is None:
            return self._without_time(dataset)
        if valid is None:
            dataset = self._after_lead(dataset, found)
        if found != "time":
            self.notes.append(f"coordinate {found} renamed to time")
            dataset = dataset.drop_vars("time", errors="ignore").rename({found: "time"})
        if dataset["time"].ndim == 0:
            moment = dataset["time"]
            dataset = dataset.drop_vars("time").map(_with_time, keep_attrs=True)
            return dataset.assign_coords(time=self._dates(moment))
        return dataset.assign_coords(time=self._dates(dataset["time"]))

    def _after_lead(self, dataset: xr.Dataset, found: str) -> xr.Dataset:
        """One step of a forecast holds at its initial time plus its lead time, which stands beside it."""
        name = next((name for name in STEP_NAMES if name in dataset.coords and dataset[name].ndim == 0), None)
        if name is None:
            return dataset
        lead = self._duration(dataset[name])
        initial = found == "forecast_reference_time" or dataset[found].attrs.get("standard_name") == "forecast_reference_time"
        # CF's `time` is the valid time where `forecast_period` or the initial time stands beside it.
        if not initial and (name == "forecast_period" or "forecast_reference_time" in dataset.coords):
            return dataset
        if lead:
            self.notes.append(f"{found} is the initial time; {name}, {lead / np.timedelta64(1, 'h'):g} h, added to it")
        dataset = dataset.assign_coords({found: dataset[found].copy(data=self._dates(dataset[found], flat=False) + lead)})
        return dataset.drop_vars(name)

    def _duration(self, lead: xr.DataArray) -> np.timedelta64:
        value, units = lead.values, spell(str(lead.attrs.get("units", "")))
        if value.dtype.kind == "m":
            return np.timedelta64(int(value.astype("timedelta64[ns]").astype("int64")), "ns")
        seconds = seconds_of(units)
        if value.dtype.kind not in "fiu" or (seconds is None and value != 0):
            raise SourceError(
                f"{self.origin} has {lead.name} {lead.item()!r} with units {units!r}; a lead time in {', '.join(DURATIONS)} "
                "was wanted, to tell when the fields hold. Drop it, or give the file a valid_time."
            )
        return np.timedelta64(round(float(value) * (seconds or 0) * 1e9), "ns")

    def _flatten_steps(self, dataset: xr.Dataset, first: str, second: str) -> xr.Dataset:
        valid = dataset["valid_time"].values.ravel()
        extra = [name for name in dataset.coords if set(dataset[name].dims) & {first, second}]
        lazy = dataset.drop_vars(extra).chunk({first: 1})
        flat = lazy.stack(valid_time=(first, second), create_index=False).rename(valid_time="time")
        return flat.assign_coords(time=("time", valid)).isel(time=np.argsort(valid, kind="stable"))

    def _without_time(self, dataset: xr.Dataset) -> xr.Dataset:
        if self.selection.time is not None:
            self.notes.append(f"no time in the file; {self.selection.time} as told by time=")
            time = [first_moment(self.selection.time, "time", SourceError)]
            return dataset.map(_with_time, keep_attrs=True).assign_coords(time=time)
        changing = [
            str(name)
            for name in dataset.data_vars
            if (found := find_variable(str(name), False)) is None or found.name not in STATIC_VARIABLES
        ]
        if changing and (self.selection.variables is None or set(self.selection.variables) & set(changing)):
            raise SourceError(
                f"{self.origin} has no time: its dimensions are {_names(dataset.dims)} and none is one of {TIME_NAMES}. "
                "Give a file "
                "with a time axis, or for a single moment say which with time=2020-01-01T00."
            )
        return dataset

    def _dates(self, time: xr.DataArray, flat: bool = True) -> NDArray[np.datetime64]:
        values = np.atleast_1d(time.values) if flat else time.values
        if values.dtype.kind == "M":
            return self._whole_seconds(values.astype("datetime64[ns]"))
        if values.dtype.kind in "iu" and values.size and values.min() > 1800_00_00 and values.max() < 2500_00_00:
            self.notes.append("integer dates YYYYMMDD read as dates")
            return np.array([f"{day // 10000:04d}-{day // 100 % 100:02d}-{day % 100:02d}" for day in values], "datetime64[ns]")
        if values.dtype.kind == "O" and values.size and hasattr(values[0], "isoformat"):
            calendar = getattr(values[0], "calendar", "unknown")
            raise SourceError(f"{self.origin} has the calendar {calendar}; an analysis needs real dates (proleptic_gregorian).")
        raise SourceError(
            f"{self.origin} has a time axis that holds no dates: {time.name} is {values.dtype}, {values[:3].tolist()} "
            "...; wanted are "
            "CF units such as 'hours since 1900-01-01'."
        )

    def _whole_seconds(self, times: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
        """Times kept as float32 days miss the hour by a fraction of a second."""
        whole = (times + np.timedelta64(500, "ms")).astype("datetime64[s]").astype("datetime64[ns]")
        if (whole != times).any():
            self.notes.append("times rounded to whole seconds")
        return whole

    def _select_time(self, dataset: xr.Dataset) -> xr.Dataset:
        if "time" not in dataset.dims:
            return dataset
        dataset = self._only_valid_times(dataset)
        times = dataset["time"].values
        if times.size == 0:
            raise SourceError(f"{self.origin} has no time step.")
        if (np.diff(times) < np.timedelta64(0, "ns")).any():
            self.notes.append("times were in no order; sorted")
            dataset = dataset.isel(time=np.argsort(times, kind="stable"))
            times = dataset["time"].values
        chosen = self._span(times) & self._multiples(times)
        if not chosen.any():
            message = (
                f"no time is left: start={self.selection.start}, end={self.selection.end}, every={self.selection.every} "
                f"were wanted; {self.origin} spans {times[0]} to {times[-1]}."
            )
            if not self.selection.one_of_several:
                raise SourceError(message)
            raise OutsideSpan(message, (times[0], times[-1]), _names(dataset.data_vars))
        self.span = (times[0], times[-1])
        return dataset if chosen.all() else dataset.isel(time=as_slice(np.flatnonzero(chosen)))

    def _only_valid_times(self, dataset: xr.Dataset) -> xr.Dataset:
        """ARCO-ERA5 pads its time axis with NaN; its attributes say where the data are."""
        start, stop = self.raw.attrs.get("valid_time_start"), self.raw.attrs.get("valid_time_stop")
        if start is None or stop is None:
            return dataset
        if self.selection.preliminary:
            stop = self.raw.attrs.get("valid_time_stop_era5t", stop)
        times = dataset["time"].values
        first = first_moment(str(start), "valid_time_start", SourceError)
        last = last_moment(str(stop), "valid_time_stop", SourceError)
        inside = (times >= first) & (times <= last)
        if not inside.any():
            raise SourceError(f"{self.origin} says that it is valid from {start} to {stop}, and holds no time between.")
        if not inside.all():
            self.notes.append(f"times outside valid_time_start {start} to valid_time_stop {stop} are padding; left out")
        return dataset.isel(time=as_slice(np.flatnonzero(inside)))

    def _span(self, times: NDArray[np.datetime64]) -> NDArray[np.bool_]:
        inside = np.ones(times.size, dtype=bool)
        if self.selection.start is not None:
            start = first_moment(self.selection.start, "start", SourceError)
            if start < times[0] and not self.selection.one_of_several:
                raise SourceError(
                    f"start={self.selection.start} is before {self.origin} begins: it spans {times[0]} to {times[-1]}."
                )
            inside &= times >= start
        if self.selection.end is not None:
            end = last_moment(self.selection.end, "end", SourceError)
            if first_moment(self.selection.end, "end", SourceError) > times[-1] and not self.selection.one_of_several:
                raise SourceError(f"end={self.selection.end} is after {self.origin} ends: it spans {times[0]} to {times[-1]}.")
            inside &= times <= end
        return inside

    def _multiples(self, times: NDArray[np.datetime64]) -> NDArray[np.bool_]:
        if self.selection.every is None:
            return np.ones(times.size, dtype=bool)
        step = as_step(self.selection.every)
        return (times - np.datetime64(CONTRACT.epoch, "ns")) % step == np.timedelta64(0, "ns")

    def _combine_expver(self, dataset: xr.Dataset) -> xr.Dataset:
        """The legacy CDS layout keeps final ERA5 (1) and preliminary ERA5T (5) side by side."""
        if "expver" not in dataset.dims:
            return dataset
        versions = dataset["expver"].values
        if versions.size == 1:
            self.notes.append("dimension expver of size one removed")
            return dataset.isel(expver=0, drop=True)
        order = np.argsort([int(version) for version in versions])
        parts = [dataset.isel(expver=int(position), drop=True) for position in order]
        combined = parts[0]
        for part in parts[1:]:
            combined = combined.combine_first(part)
        labels = [f"{int(versions[position]):04d}" for position in order]
        self.notes.append(f"dimension expver combined: {labels[0]} where it has values, else {labels[1:]}")
        probe = next((array for array in parts[0].data_vars.values() if "time" in array.dims), None)
        if probe is not None:
            corner = {dim: 0 for dim in probe.dims if dim != "time"}
            final = probe.isel(corner).notnull().values
            combined = combined.assign_coords(expver=("time", np.where(final, labels[0], labels[-1])))
        return combined.assign_attrs(dataset.attrs)

    # -- fields ----------------------------------------------------------------------------------------------------

    def _fields(self, dataset: xr.Dataset) -> dict[str, xr.DataArray]:
        """The wanted fields by their standard names, converted, each with its own levels."""
        offered: dict[str, list[xr.DataArray]] = {}
        for name, array in dataset.data_vars.items():
            found, prepared = self._recognise(str(name), array)
            if found is not None and prepared is not None:
                offered.setdefault(found.name, []).append(prepared)
        chosen = self._choose(offered)
        return {name: self._convert(VARIABLES[name], self._one_field(name, offered[name])) for name in chosen}

    def _recognise(self, name: str, array: xr.DataArray) -> tuple[Variable | None, xr.DataArray | None]:
        """Which variable a file's field is, and the field with its level as a dimension."""
        if not {"latitude", "longitude"} <= set(array.dims):
            return self._leave(name, f"is no map: its dimensions are {array.dims}")
        other = next((dim for dim in array.dims if dim in OTHER_VERTICAL), None)
        if other is not None and array.sizes[other] > 1:
            return self._leave(name, f"lies on {other}, not on pressure levels")
        level_name = _find_level(array)
        on_levels = level_name is not None
        found = find_variable(name, on_levels)
        if on_levels and find_variable(name, False) is not None and found is None:
            found, on_levels = find_variable(name, False), False
        suffixed = split_level(name) if found is None and not on_levels else None
        origin_note = ""
        if suffixed is not None:
            found, level = suffixed
            array = array.drop_vars("level", errors="ignore").expand_dims(level=np.array([level], dtype="int32"))
            origin_note = f"{name} taken as {found.name} at {level} hPa"
        elif on_levels and found is not None:
            array = self._pressure_levels(name, array, str(level_name))
        if found is None:
            return self._leave(name, NO_VARIABLE)
        extra = [dim for dim in array.dims if dim not in CONTRACT.dims]
        if any(array.sizes[dim] > 1 for dim in extra):
            return self._leave(name, f"has dimensions {array.dims}; {extra} are too many")
        array = array.isel(dict.fromkeys(extra, 0), drop=True)
        if found.name in STATIC_VARIABLES and "time" in array.dims:
            self.notes.append(f"{found.name} does not change; its first time is taken")
            array = array.isel(time=0, drop=True)
        if found.name != name and suffixed is None:
            origin_note = f"{name} renamed to {found.name}"
        return found, array.assign_attrs({"source_name": name, _RENAMED: origin_note})

    def _leave(self, name: str, why: str) -> tuple[None, None]:
        self.left_out.append(f"{name} {why}")
        return None, None

    def _pressure_levels(self, name: str, array: xr.DataArray, level_name: str) -> xr.DataArray:
        coordinate = array[level_name]
        stated = np.atleast_1d(coordinate.values).astype("float64")
        units = spell(str(coordinate.attrs.get("units") or ("Pa" if level_name in PRESSURE_IN_PA else "hPa")))
        values = to_hectopascals(stated, units)
        if values is None:
            raise SourceError(
                f"{name} in {self.origin} has levels in {units!r} ({stated.tolist()}); pressure in hPa or Pa was wanted."
            )
        if (values != stated).any():
            self._note_once(f"levels of {level_name} converted from Pa to hPa")
        whole = np.rint(values)
        if np.abs(whole - values).max() > 1e-3 or whole.min() < 1:
            raise SourceError(
                f"{name} in {self.origin} has levels {values.tolist()} hPa; an analysis store labels levels with whole "
                "hPa of at least 1. "
                "Choose others with levels=..."
                if self.selection.levels is None
                else f"{name} in {self.origin} has levels {values.tolist()} hPa, which are not whole hPa."
            )
        if coordinate.ndim == 0:
            array = array.expand_dims(level_name)
        if level_name != "level":
            self._note_once(f"coordinate {level_name} renamed to level")
            array = array.drop_vars("level", errors="ignore").rename({level_name: "level"})
        array = array.assign_coords(level=whole.astype("int32"))
        order = np.argsort(whole)
        return array if (np.diff(order) == 1).all() else array.isel(level=as_slice(order))

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _choose(self, offered: Mapping[str, Sequence[xr.DataArray]]) -> list[str]:
        if self.selection.variables is None:
            if not offered:
                raise SourceError(
                    f"{self.origin} has no variable that an analysis can hold: {'; '.join(self.left_out) or 'it is empty'}."
                )
            return canonical_order(offered)
        wanted: list[str] = []
        for asked in self.selection.variables:
            name = _resolve(asked, offered)
            if name is None or name not in offered:
                why = next((f" ({text})" for text in self.left_out if text.split(" ", 1)[0] == asked), "")
                if not meanings(asked) and asked in self.raw.data_vars:
                    why = f" ({asked} {NO_VARIABLE})"
                raise MissingVariable(
                    f"variable {asked} is missing{why}: wanted were {list(self.selection.variables)}; {self.origin} has "
                    f"{canonical_order({*offered, *self.not_asked})}. Choose from these with variables=..., or add a source "
                    "that has it.",
                    asked,
                )
            wanted.append(name)
        for name in canonical_order(set(offered) - set(wanted)):
            self.left_out.append(f"{name} {NOT_ASKED}")
        return canonical_order(set(wanted))

    def _one_field(self, name: str, candidates: Sequence[xr.DataArray]) -> xr.DataArray:
        """One field out of one or several files' variables: z500 and z850 are two levels of geopotential."""
        if len(candidates) == 1:
            return self._take_levels(name, candidates[0])
        levels = np.concatenate([np.atleast_1d(part["level"].values) if "level" in part.dims else [] for part in candidates])
        if levels.size == 0 or len(np.unique(levels)) != levels.size:
            names = [part.attrs["source_name"] for part in candidates]
            self.left_out += [f"{other} is {name} as well, like {names[0]}" for other in names[1:]]
            return self._take_levels(name, candidates[0])
        joined = xr.concat(candidates, dim="level", combine_attrs="override").sortby("level")
        joined.attrs[_RENAMED] = ", ".join(part.attrs[_RENAMED] for part in candidates)
        return self._take_levels(name, joined)

    def _take_levels(self, name: str, array: xr.DataArray) -> xr.DataArray:
        if "level" not in array.dims or self.selection.levels is None:
            return array
        has = array["level"].values.tolist()
        wanted = sorted({int(level) for level in self.selection.levels})
        missing = [level for level in wanted if level not in has]
        if missing:
            raise SourceError(
                f"level {', '.join(str(level) for level in missing)} hPa of {name} is missing: wanted are {wanted}; "
                f"{self.origin} has "
                f"{has}. Choose from these with levels=..."
            )
        return array.isel(level=as_slice(np.array([has.index(level) for level in wanted])))

    def _convert(self, variable: Variable, array: xr.DataArray) -> xr.DataArray:
        """Units and dtype; attributes become the vocabulary's."""
        if array.attrs[_RENAMED]:
            self.notes.append(array.attrs[_RENAMED])
        given = self.selection.units.get(variable.name)
        stated = str(array.attrs.get("units") or "").strip()
        if given is not None:
            self.notes.append(
                f"{variable.name} taken to be in {given} as told by units= (the source says {stated or 'nothing'!r})"
            )
        units = given or stated
        source_name = array.attrs["source_name"]
        if not units:
            units = usual_units(variable, source_name)
            self.notes.append(f"{variable.name} says no units; taken to be in {units}")
        change = conversion(variable, units)
        if change is None:
            raise SourceError(
                f"{source_name} in {self.origin} has units {units!r}, which cannot become {variable.units!r} for "
                f"{variable.name}. If the "
                f"file is wrong, say what it means with units.{variable.name}=..."
            )
        original = array.dtype
        if change.changes_values:
            self.notes.append(
                f"{variable.name} converted from {units} to {variable.units}: times {change.scale:g} plus {change.offset:g}"
            )
            array = array.astype("float64") * change.scale + change.offset
        elif units != variable.units:
            self.notes.append(f"{variable.name}: units {units!r} spelled {variable.units!r}")
        if array.dtype != np.dtype(CONTRACT.dtype):
            if original != np.dtype(CONTRACT.dtype):
                self.notes.append(f"{variable.name} was {original}; stored as {CONTRACT.dtype}")
            array = array.astype(CONTRACT.dtype)
        attributes = {"long_name": variable.name.replace("_", " "), "units": variable.units, "source_name": source_name}
        if stated:
            attributes["source_units"] = stated
        if variable.standard_name is not None:
            attributes["standard_name"] = variable.standard_name
        return array.assign_attrs(attributes).pipe(_only_attributes, attributes)

    def _assemble(self, fields: Mapping[str, xr.DataArray], dataset: xr.Dataset) -> xr.Dataset:
        same_levels(fields, self.origin)
        kept = {name: array.reset_coords(drop=True) for name, array in fields.items()}
        out = xr.Dataset(kept)
        expver = dataset.coords.get("expver")
        if expver is not None and expver.dims == ("time",) and "time" in out.dims:
            versions = np.array([f"{int(version):04d}" for version in expver.values])
            out = out.assign_coords(expver=("time", versions))
        return out


class MissingVariable(SourceError):
    """A variable that was asked for and is not there."""

    def __init__(self, message: str, variable: str) -> None:
        super().__init__(message)
        self.variable = variable


class OtherMember(SourceError):
    """A part of a file that holds another ensemble member than the one asked for."""


class OutsideSpan(SourceError):
    """One of several files that holds no time of those asked for, though others may."""

    def __init__(self, message: str, span: tuple[np.datetime64, np.datetime64], fields: Iterable[str]) -> None:
        super().__init__(message)
        self.span = span
        self._fields = [possible for name in fields if (possible := _possible_names(name))]

    def fields_are_in(self, held: set[str]) -> bool:
        """Whether others hold all that this one does, so that nothing is lost without it."""
        return bool(held) and all(possible & held for possible in self._fields)


def same_levels(fields: Mapping[str, xr.DataArray], origin: str) -> None:
    """Raise SourceError if two variables lie on different levels: a store has one level axis."""
    levels = {name: tuple(array["level"].values.tolist()) for name, array in fields.items() if "level" in array.dims}
    if len(set(levels.values())) > 1:
        listed = "; ".join(f"{name} has {list(values)}" for name, values in levels.items())
        common = sorted(set.intersection(*(set(values) for values in levels.values())))
        advice = f"levels={common}" if common else "levels=... and variables=... that go together"
        raise SourceError(
            f"variables of {origin} lie on different levels: {listed}. A store has one level axis: choose with {advice}."
        )


def restricted(selection: Selection, **changes: Any) -> Selection:
    """The same selection with some settings changed."""
    return replace(selection, **changes)


def meanings(asked: str) -> list[str]:
    """The WeatherBench 2 names that a name can stand for: `z` is geopotential, or that of the surface."""
    if asked in VARIABLES:
        return [asked]
    return [found.name for on_levels in (True, False) if (found := find_variable(asked, on_levels)) is not None]


def _resolve(asked: str, offered: Mapping[str, Any]) -> str | None:
    """The WeatherBench 2 name of what was asked for; among several meanings the one that is offered."""
    candidates = meanings(asked)
    return next((name for name in candidates if name in offered), candidates[0] if candidates else None)


# z500, t_850, temperature_50hPa; but r2 is at 2 metres.
_LEVEL_SUFFIX = re.compile(r"(?P<name>.*?[A-Za-z])(?:_(?=\d)|(?=\d{2}))(?P<level>\d{1,4})(?:hPa)?")


def split_level(name: str) -> tuple[Variable, int] | None:
    """Read a variable on levels and its level [hPa] out of a name such as z500 or temperature_850; None if it is none."""
    match = _LEVEL_SUFFIX.fullmatch(name)
    if match is None:
        return None
    found = find_variable(match["name"], True)
    return None if found is None else (found, int(match["level"]))


def _possible_names(name: str) -> set[str]:
    """What a field could be, before it is known whether it lies on levels."""
    split = split_level(name)
    return {*meanings(name), *([] if split is None else [split[0].name])}


def _find_coordinate(dataset: xr.Dataset, names: Iterable[str], standard_name: str) -> str | None:
    for name in names:
        if name in dataset.coords:
            return name
    for other, coordinate in dataset.coords.items():
        if coordinate.attrs.get("standard_name") == standard_name:
            return str(other)
    return None


def _find_level(array: xr.DataArray) -> str | None:
    """The pressure coordinate of a field: a dimension, or a single value beside it."""
    for name in LEVEL_NAMES:
        if name in array.dims and name in array.coords and _is_pressure(name, array[name]):
            return name
    for name in LEVEL_NAMES:
        if name in array.coords and array[name].ndim == 0 and _is_pressure(name, array[name]):
            return name
    return None


def _is_pressure(name: str, coordinate: xr.DataArray) -> bool:
    units = coordinate.attrs.get("units")
    return name != "lev" or units is None or spell(str(units)) in ("hPa", "Pa")


def _with_time(array: xr.DataArray) -> xr.DataArray:
    found = find_variable(str(array.name), _find_level(array) is not None)
    return array if found is not None and found.name in STATIC_VARIABLES else array.expand_dims("time")


_STEP = re.compile(r"(?P<count>\d+)\s*(?P<unit>h|hour|hours|d|day|days|min|m|minutes)")


def as_step(text: str) -> np.timedelta64:
    """Read a step such as 6h or 1d.

    Raises
    ------
    SourceError
        If the text says none.
    """
    match = _STEP.fullmatch(text.strip().lower())
    if match is None or int(match["count"]) == 0:
        raise SourceError(f"every must be a step such as 6h or 1d; got {text!r}.")
    minutes = {"h": 60, "d": 1440, "m": 1}[match["unit"][0]]
    return np.timedelta64(int(match["count"]) * minutes, "m").astype("timedelta64[ns]")


def _exact_degrees(values: NDArray[Any]) -> NDArray[np.float64]:
    """Degrees as float64: float32 ones are rounded, so that 0.1 is 0.1 and grids can be compared."""
    exact = values.astype("float64")
    return np.round(exact, _COORDINATE_DIGITS) if values.dtype.itemsize <= 4 else exact


_POSITION = "_position"  # where a time stands in the stored array


def _with_positions(dataset: xr.Dataset) -> xr.Dataset:
    if "time" not in dataset.dims:
        return dataset
    return dataset.assign_coords({_POSITION: ("time", np.arange(dataset.sizes["time"]))})


def _chunk(dataset: xr.Dataset) -> xr.Dataset:
    """Make fields lazy by dask, in blocks along time that begin and end where stored chunks do."""
    if "time" not in dataset.dims:
        return dataset.chunk()
    positions = dataset[_POSITION].values
    dataset = dataset.drop_vars(_POSITION)
    chunked: dict[Hashable, xr.DataArray] = {}
    for name, array in dataset.data_vars.items():
        if "time" not in array.dims:
            chunked[name] = array.chunk()
            continue
        per_step = max(1, array.dtype.itemsize * array.size // array.sizes["time"])
        fitting = max(1, _BLOCK_BYTES // per_step)
        chunked[name] = array.chunk({"time": _blocks(positions, _stored_steps(array) or max(1, fitting // 4), fitting)})
    return dataset.assign(chunked)


def _stored_steps(array: xr.DataArray) -> int | None:
    """How many times share a stored chunk; None if the file is not chunked."""
    stored = array.encoding.get("preferred_chunks", {})
    return next((int(stored[name]) for name in TIME_NAMES if name in stored), None)


def _blocks(positions: NDArray[np.intp], stored: int, largest: int) -> tuple[int, ...]:
    """Lengths of runs of positions that lie in the same stored chunk, cut where they are longer than `largest`."""
    starts = np.flatnonzero(np.diff(positions // stored)) + 1
    lengths = np.diff(np.concatenate([[0], starts, [positions.size]]))
    return tuple(int(part) for length in lengths for part in (*[largest] * (length // largest), length % largest) if part)


def _only_attributes(array: xr.DataArray, attributes: Mapping[str, Any]) -> xr.DataArray:
    array.attrs = dict(attributes)
    array.encoding = {}
    return array


def _kept_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("source", "license", "institution", "title", "references", "comment")
    return {key: str(attributes[key]) for key in kept if key in attributes}


def _names(names: Iterable[Hashable]) -> list[str]:
    return [str(name) for name in names]
