"""The forecast store: WeatherBench 2's schema in Zarr format 3, filled one forecast at a time.

Dimensions (time, [number], prediction_timedelta, [level], latitude, longitude): `time` is the initial time, `number` the
ensemble member, `prediction_timedelta` the lead time. Each forecast (initial time, member) is one shard, which is one
file, per variable. A shard is the unit of writing, so tasks that write different forecasts never touch the same file.

When all shards of a forecast are there, `complete` is set for it, a coordinate of the store in a chunk of its own. A job
that is killed leaves forecasts that are complete and say so, and others that do not. Nothing here imports a model.

A local file appears under its name by a rename, an object by the one request that holds it: both whole or not at all. So the
same holds for folders and for object stores, and a forecast that two jobs make is written twice with the same bits.
"""

from __future__ import annotations

import errno
import math
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from jaxtyping import Float32
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from data_pipelines.disk import reach_the_disk
from data_pipelines.errors import first_line
from data_pipelines.locations import is_url, redacted, zarr_store
from data_pipelines.retries import passes, repeated
from data_pipelines.store import StoreError, encode_time, is_disk_full
from data_pipelines.variables import VARIABLES, Channel

CONVENTIONS = "CF-1.11, ACDD-1.3"
CONTRACT = "skysolve forecast"
RUN = "python -m forecast.run analysis=... out=..."

# Bytes of a chunk inside a shard: small enough to draw one map quickly, large enough that reading all is no slower.
CHUNK_BYTES = 2**20

ROOT = "zarr.json"  # the key that makes a store one; it is written last

# Attributes in which a store may differ from the job that fills it further.
OF_THE_RUN = frozenset({"date_created", "history", "code_version"})


@dataclass(frozen=True)
class ForecastLayout:
    """What a forecast store holds, all of it known before the first forecast.

    Parameters
    ----------
    initial_times
        datetime64, ascending, whole hours.
    lead_hours
        Lead times [h], ascending, above 0.
    stages
        For each lead time, the number of the cascade's stage that makes it.
    channels
        Names as in ``"vorticity_850"``. Where level variables have different levels, the store has all of them and
        holds NaN where a variable was not forecast.
    latitude, longitude
        Degrees, north to south and west to east.
    members
        Numbers of the ensemble's members; empty for a single forecast, which then has no dimension `number`.

    Raises
    ------
    StoreError
        If a list is empty, not ascending, or of the wrong length.
    """

    initial_times: np.ndarray
    lead_hours: tuple[int, ...]
    stages: tuple[int, ...]
    channels: tuple[str, ...]
    latitude: tuple[float, ...]
    longitude: tuple[float, ...]
    members: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("initial_times", "lead_hours", "channels", "latitude", "longitude"):
            if not len(getattr(self, name)):
                raise StoreError(f"{name} is empty; a forecast store holds at least one.")
        for name, sign in (("initial_times", 1), ("lead_hours", 1), ("latitude", -1), ("longitude", 1), ("members", 1)):
            steps = np.diff(np.asarray(getattr(self, name)))
            if (sign * steps.astype(float) <= 0).any():
                raise StoreError(f"{name} must {'rise' if sign > 0 else 'fall'} without duplicates; got {getattr(self, name)}.")
        if not encode_time(self.initial_times)[1].startswith("hours"):
            raise StoreError(f"initial_times must be whole hours; got {self.initial_times[0]}.")
        if self.lead_hours[0] <= 0:
            raise StoreError(f"lead_hours must be above 0, the analysis is not stored; got {self.lead_hours[0]}.")
        if len(self.stages) != len(self.lead_hours):
            raise StoreError(f"stages must have one number per lead time, {len(self.lead_hours)}; got {len(self.stages)}.")
        if len(set(self.channels)) != len(self.channels):
            raise StoreError(f"channels must differ; got {list(self.channels)}.")

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels [hPa] of all level variables, from the top down."""
        return tuple(sorted({channel.level for channel in self.parsed if channel.level is not None}))

    @property
    def parsed(self) -> tuple[Channel, ...]:
        """The channels, read."""
        return tuple(Channel.parse(name) for name in self.channels)

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables."""
        return tuple(dict.fromkeys(channel.variable for channel in self.parsed))

    def coordinates(self) -> dict[str, np.ndarray]:
        """Give the coordinates as they are stored, by dimension, in the order of the dimensions."""
        return {
            "time": encode_time(self.initial_times)[0],
            **({"number": np.asarray(self.members, "int32")} if self.members else {}),
            "prediction_timedelta": np.asarray(self.lead_hours, "int64"),
            **({"level": np.asarray(self.levels, "int32")} if self.levels else {}),
            "latitude": np.asarray(self.latitude, "float64"),
            "longitude": np.asarray(self.longitude, "float64"),
        }

    def dims(self, variable: str) -> tuple[str, ...]:
        """Dimensions of a variable."""
        on_levels = any(channel.variable == variable and channel.level is not None for channel in self.parsed)
        return tuple(dim for dim in self.coordinates() if dim != "level" or on_levels)


def create_forecast_store(
    path: str | Path, layout: ForecastLayout, attributes: Mapping[str, Any], stage_names: Sequence[str] = ()
) -> None:
    """Create a forecast store without any forecast in it; refuse to overwrite.

    It appears at `path` whole or not at all.

    Parameters
    ----------
    path
        New local folder, or the URL of a place in an object store.
    layout
        What it will hold.
    attributes
        Global attributes: source, license, training_span ...
    stage_names
        Names of the cascade's stages, for the coordinate `cascade_stage`.

    Raises
    ------
    StoreError
        If something is at `path`, or it cannot be written there.
    """
    refuse_existing(path)
    with writing_to(path):
        if is_url(path):
            memory = MemoryStore()
            _build(memory, layout, attributes, stage_names)
            _upload(str(path), memory)
            return
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _build(LocalStore(unfinished), layout, attributes, stage_names)
            unfinished.rename(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another job was faster
                refuse_existing(path)
            raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def refuse_existing(path: str | Path) -> None:
    """Raise StoreError if something is at `path`."""
    if forecast_store_exists(path):
        raise StoreError(
            f"{redacted(path)} exists already; nothing is overwritten. Choose another out=, or go on with it: resume=true."
        )


def forecast_store_exists(path: str | Path) -> bool:
    """Whether something is at a local path, or a Zarr group at a URL.

    Raises
    ------
    StoreError
        If an object store cannot be asked.
    """
    if not is_url(path):
        return Path(path).exists()
    with writing_to(path):
        store = zarr_store(path)
        return repeated(lambda: bool(sync(store.exists(ROOT))), what=f"looking for {redacted(path)}")


def write_forecast(
    path: str | Path,
    layout: ForecastLayout,
    initial_time: np.datetime64,
    fields: Float32[np.ndarray, "lead channel lat lon"],
    member: int | None = None,
) -> None:
    """Write one forecast, then mark it complete.

    Parameters
    ----------
    path
        Store with this layout.
    layout
        The store's.
    initial_time
        One of the layout's.
    fields
        All lead times and channels, physical units.
    member
        One of the layout's members; None where there are none.

    Raises
    ------
    StoreError
        If time, member or shape are not the layout's, or the disk is full. Then the forecast is not marked.
    """
    place = _place(layout, initial_time, member)
    wanted = (len(layout.lead_hours), len(layout.channels), len(layout.latitude), len(layout.longitude))
    if fields.shape != wanted:
        raise StoreError(f"fields must have shape {wanted} (lead times, channels, latitudes, longitudes); got {fields.shape}.")
    group = _open_group(path, "r+")

    def write() -> None:
        for variable in layout.variables:
            _array(group, variable)[place] = _values_of(layout, variable, fields)
        if not is_url(path):
            files = [_file_of(Path(path), _array(group, variable), place) for variable in layout.variables]
            reach_the_disk(*files, *(file.parent for file in files))  # a mark that survives a power cut is true
        _array(group, "complete")[place] = 1  # last: what says that it is complete, is

    with writing_to(path):
        repeated(write, when=_may_be_written_again, what=f"writing to {redacted(path)}")


def is_complete(path: str | Path, layout: ForecastLayout, initial_time: np.datetime64, member: int | None = None) -> bool:
    """Whether a forecast is marked complete at this moment: it may be another process that made it."""
    marks = _array(_open_group(path, "r"), "complete")
    place = _place(layout, initial_time, member)
    return bool(repeated(lambda: np.asarray(marks[place]).item(), what=f"reading {redacted(path)}"))


def _open_forecasts(path: str | Path) -> zarr.Group:
    """Open a store for reading, and refuse one that holds no forecasts."""
    group = _open_group(path, "r")
    if group.attrs.get("contract") != CONTRACT:
        raise StoreError(f"{redacted(path)} is no forecast store, so no job can go on with it. Choose another out=.")
    return group


def missing_forecasts(path: str | Path) -> list[tuple[np.datetime64, int | None]]:
    """List the forecasts (initial time, member) that are not complete, in order.

    Raises
    ------
    StoreError
        If there is no forecast store at `path`.
    """
    group = _open_forecasts(path)
    times = np.datetime64("1900-01-01", "h") + _read(group, "time").astype("timedelta64[h]")
    members: list[int | None] = [int(number) for number in _read(group, "number")] if "number" in group else [None]
    complete = _read(group, "complete").reshape(len(times), len(members))
    return [
        (time.astype("datetime64[ns]"), member)
        for time, row in zip(times, complete, strict=True)
        for member, mark in zip(members, row, strict=True)
        if not mark
    ]


def check_same_job(path: str | Path, layout: ForecastLayout, attributes: Mapping[str, Any]) -> None:
    """Raise StoreError that tells the first difference between a store and the job that would fill it further, if any."""
    group = _open_forecasts(path)
    for name, values in layout.coordinates().items():
        if name not in group or not np.array_equal(_read(group, name), values):
            raise StoreError(_differs(path, name, _span(_read(group, name)) if name in group else "none", _span(values)))
    stored = {str(name) for name in group.array_keys()} - set(layout.coordinates()) - {"complete", "cascade_stage"}
    if stored != set(layout.variables):
        raise StoreError(_differs(path, "variables", sorted(stored), sorted(layout.variables)))
    for key, value in _global_attributes(layout, attributes).items():
        if key not in OF_THE_RUN and group.attrs.get(key) != value:
            raise StoreError(_differs(path, key, group.attrs.get(key), value))


def open_forecast_store(path: str | Path, *, chunks: Any = None, complete_only: bool = True) -> xr.Dataset:
    """Open a forecast store lazily.

    Parameters
    ----------
    path
        Local folder or URL.
    chunks
        As in `xarray.open_zarr`.
    complete_only
        Leave out the initial times of which a forecast is missing. They read as NaN.

    Raises
    ------
    StoreError
        If nothing is there, it is no forecast store, or no forecast is complete.
    """
    group = _open_group(path, "r")
    if group.attrs.get("contract") != CONTRACT:
        raise StoreError(
            f"{redacted(path)} is no forecast store: its attribute contract is {group.attrs.get('contract')!r}. Make one with: "
            f"{RUN}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = xr.open_zarr(zarr_store(path), chunks=chunks, decode_timedelta=True)
    return drop_incomplete(dataset, redacted(path)) if complete_only else dataset


def drop_incomplete(dataset: xr.Dataset, name: str = "forecast") -> xr.Dataset:
    """Leave out the initial times of which a forecast is missing, where the dataset says so.

    Raises
    ------
    StoreError
        If none is complete.
    """
    if "complete" not in dataset.coords:
        return dataset
    marks = dataset["complete"].values.astype(bool)
    whole = marks.reshape(len(marks), -1).all(axis=1)
    if not whole.any():
        raise StoreError(f"no forecast in {name} is complete. Go on with the job that makes it: {RUN} resume=true")
    return dataset if whole.all() else dataset.isel(time=np.flatnonzero(whole))


def remove_leftovers(path: str | Path) -> None:
    """Delete the halves of files that a killed job left behind (each was written under another name first).

    A process that is writing one of them at this moment writes it once more. Object stores have no halves.
    """
    if not is_url(path):
        for leftover in Path(path).rglob("*.partial"):
            leftover.unlink(missing_ok=True)


@contextmanager
def writing_to(path: str | Path) -> Iterator[None]:
    """Turn what keeps a store from being written into a StoreError that says what is kept and how to go on."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        reason = _why_not_written(path, error)
        if reason is None:
            raise
        raise StoreError(
            f"{reason}: every forecast marked complete is kept. {_REMEDIES[error_kind(error)]}, then run the same command with "
            "resume=true."
        ) from error


_REMEDIES = {
    "full": "Free some space",
    "refused": "Give this user the right to write there",
    "read-only": "Make it writable, or choose another out=",
    "other": "See to it",
}


def error_kind(error: BaseException) -> str:
    """Sort errors of writing: "full", "refused", "read-only" or "other"."""
    if is_disk_full(error):
        return "full"
    if isinstance(error, PermissionError) or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        return "refused"
    return "read-only" if isinstance(error, OSError) and error.errno == errno.EROFS else "other"


def _why_not_written(path: str | Path, error: Exception) -> str | None:
    kind, shown = error_kind(error), redacted(path)
    if kind == "full":
        return f"no space is left on the disk that holds {shown}"
    if kind == "refused":
        return f"permission to write {shown} is denied"
    if kind == "read-only":
        return f"{shown} lies on a read-only file system"
    if isinstance(error, OSError) or (is_url(path) and type(error).__module__.startswith("obstore")):
        return f"{shown} cannot be written ({redacted(first_line(error))})"
    return None


def _may_be_written_again(error: BaseException) -> bool:
    """Whether writing the same once more may help; a half that another job swept away as a leftover is one such case."""
    return passes(error) or (isinstance(error, FileNotFoundError) and str(error.filename).endswith(".partial"))


def _file_of(path: Path, array: zarr.Array, place: tuple[int, ...]) -> Path:
    """The file that holds the shard at `place`, its first indices."""
    indices = place + (0,) * (array.ndim - len(place))
    return path / array.path / array.metadata.encode_chunk_key(indices)


def _build(
    store: LocalStore | MemoryStore, layout: ForecastLayout, attributes: Mapping[str, Any], stage_names: Sequence[str]
) -> None:
    group = zarr.create_group(store, zarr_format=3, attributes=_global_attributes(layout, attributes))
    _write_coordinates(group, layout, stage_names)
    for variable in layout.variables:
        _declare(group, layout, variable)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(store)


def _upload(url: str, memory: MemoryStore) -> None:
    """Put what was built in memory into an object store; the root comes last, and only where none is."""
    target = zarr_store(url, read_only=False)
    contents = {key: value.to_bytes() for key, value in memory._store_dict.items()}
    root = contents.pop(ROOT)
    for key, content in contents.items():
        buffer = default_buffer_prototype().buffer.from_bytes(content)
        repeated(lambda key=key, buffer=buffer: sync(target.set(key, buffer)), what=f"creating {redacted(url)}")  # type: ignore[misc]
    repeated(
        lambda: sync(target.set_if_not_exists(ROOT, default_buffer_prototype().buffer.from_bytes(root))),
        what=f"creating {redacted(url)}",
    )
    there = repeated(lambda: sync(target.get(ROOT, default_buffer_prototype())), what=f"creating {redacted(url)}")
    if there is None or there.to_bytes() != root:  # a lost answer to our own request leaves ours there
        refuse_existing(url)


def _open_group(path: str | Path, mode: Any) -> zarr.Group:
    shown = redacted(path)
    if not forecast_store_exists(path):
        raise StoreError(f"there is no forecast store at {shown}. Make one with: {RUN}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = zarr_store(path, read_only=mode == "r")
            return repeated(lambda: zarr.open_group(store, mode=mode, zarr_format=3), what=f"opening {shown}")
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{shown} is no readable Zarr group ({redacted(first_line(error))}). Choose another out=.") from error


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{name} must be an array; it is a {type(array).__name__}, so this is no forecast store.")
    return array


def _read(group: zarr.Group, name: str) -> np.ndarray:
    array = _array(group, name)
    return repeated(lambda: np.asarray(array[...]), what=f"reading {name}")


def _place(layout: ForecastLayout, initial_time: np.datetime64, member: int | None) -> tuple[int, ...]:
    row = np.flatnonzero(layout.initial_times == initial_time)
    if not row.size:
        raise StoreError(
            f"initial time {initial_time} is not in the store, which holds {layout.initial_times[0]} to "
            f"{layout.initial_times[-1]}."
        )
    if not layout.members and member is None:
        return (int(row[0]),)
    if member not in layout.members:
        raise StoreError(f"member must be one of {list(layout.members) or None}; got {member}.")
    return (int(row[0]), layout.members.index(member))


def _values_of(layout: ForecastLayout, variable: str, fields: np.ndarray) -> np.ndarray:
    places = {channel.level: place for place, channel in enumerate(layout.parsed) if channel.variable == variable}
    if None in places:
        return fields[:, places[None]]
    values = np.full((len(fields), len(layout.levels), *fields.shape[2:]), np.nan, np.float32)
    for position, level in enumerate(layout.levels):
        if level in places:
            values[:, position] = fields[:, places[level]]
    return values


_COORDINATE_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "time": {
        "standard_name": "forecast_reference_time", "long_name": "initial time of the forecast", "axis": "T",
        "units": "hours since 1900-01-01", "calendar": "proleptic_gregorian",
    },
    "number": {"standard_name": "realization", "long_name": "ensemble member", "units": "1", "axis": "E"},
    # The attribute dtype is how xarray knows a lead time from a plain number of hours.
    "prediction_timedelta": {
        "standard_name": "forecast_period", "long_name": "lead time", "units": "hours", "dtype": "timedelta64[ns]",
    },
    "level": {"standard_name": "air_pressure", "long_name": "pressure level", "units": "hPa", "positive": "down", "axis": "Z"},
    "latitude": {
        "standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y",
        "stored_direction": "decreasing",
    },
    "longitude": {
        "standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X",
        "stored_direction": "increasing",
    },
}  # fmt: skip


def _write_coordinates(group: zarr.Group, layout: ForecastLayout, stage_names: Sequence[str]) -> None:
    for name, values in layout.coordinates().items():
        _small_array(group, name, values, (name,), _COORDINATE_ATTRIBUTES[name])
    count = max(layout.stages) + 1
    names = list(stage_names) or [f"stage_{number}" for number in range(count)]
    attributes: dict[str, Any] = {
        "long_name": "stage of the cascade that made this lead time",
        "flag_values": list(range(len(names))),
        "flag_meanings": " ".join(name.replace(" ", "_") for name in names),
    }
    _small_array(group, "cascade_stage", np.asarray(layout.stages, "int8"), ("prediction_timedelta",), attributes)
    marks: dict[str, Any] = {
        "standard_name": "status_flag",
        "long_name": "whether every field of this forecast is written",
        "flag_values": [0, 1],
        "flag_meanings": "missing complete",
    }
    dims = ("time", "number") if layout.members else ("time",)
    shape = tuple(len(layout.coordinates()[dim]) for dim in dims)
    group.create_array(
        "complete", shape=shape, chunks=(1,) * len(shape), dtype="int8", dimension_names=dims, attributes=marks,
        fill_value=0, compressors=None,
    )  # fmt: skip


def _small_array(
    group: zarr.Group, name: str, values: np.ndarray, dims: tuple[str, ...], attributes: Mapping[str, Any]
) -> None:
    array = group.create_array(
        name, shape=values.shape, chunks=values.shape, dtype=values.dtype, dimension_names=dims, attributes=dict(attributes),
        compressors=None,
    )  # fmt: skip
    array[...] = values


def _declare(group: zarr.Group, layout: ForecastLayout, variable: str) -> None:
    dims = layout.dims(variable)
    sizes = {name: len(values) for name, values in layout.coordinates().items()}
    shape = tuple(sizes[dim] for dim in dims)
    shard = tuple(1 if dim in ("time", "number") else sizes[dim] for dim in dims)
    attributes: dict[str, Any] = {"long_name": variable.replace("_", " "), "coordinates": "cascade_stage"}
    if variable in VARIABLES:
        known = VARIABLES[variable]
        attributes |= {"units": known.units, "short_name": known.short_name}
        attributes |= {"standard_name": known.standard_name} if known.standard_name else {}
    group.create_array(
        variable,
        shape=shape,
        shards=shard,
        chunks=_chunk(dims, shard),
        dtype="float32",
        dimension_names=dims,
        attributes=attributes,
        fill_value=float("nan"),
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=4), Crc32cCodec()],
    )


def _chunk(dims: tuple[str, ...], shard: tuple[int, ...]) -> tuple[int, ...]:
    """Whole maps; as many levels, then lead times, as fit into CHUNK_BYTES and divide the shard."""
    size = 4 * shard[-1] * shard[-2]
    chunk = dict(zip(dims, shard, strict=True))
    for dim in ("level", "prediction_timedelta"):
        if dim in chunk:
            chunk[dim] = max(
                count
                for count in range(1, chunk[dim] + 1)
                if chunk[dim] % count == 0 and (count == 1 or count * size <= CHUNK_BYTES)
            )
            size *= chunk[dim]
    return tuple(chunk.values())


def _global_attributes(layout: ForecastLayout, attributes: Mapping[str, Any]) -> dict[str, Any]:
    first, last = layout.initial_times[0], layout.initial_times[-1] + np.timedelta64(layout.lead_hours[-1], "h")
    spacing = [abs(float(np.diff(axis)[0])) if len(axis) > 1 else math.nan for axis in (layout.latitude, layout.longitude)]
    return {
        "Conventions": CONVENTIONS,
        "contract": CONTRACT,
        "title": "Global forecasts by a cascade of large-kernel convolutional networks",
        "standard_name_vocabulary": "CF Standard Name Table",
        "coordinates": "complete",
        "channels": list(layout.channels),
        "time_coverage_start": f"{np.datetime64(first, 's')}Z",
        "time_coverage_end": f"{np.datetime64(last, 's')}Z",
        "geospatial_lat_min": min(layout.latitude),
        "geospatial_lat_max": max(layout.latitude),
        "geospatial_lat_units": "degrees_north",
        "geospatial_lon_min": min(layout.longitude),
        "geospatial_lon_max": max(layout.longitude),
        "geospatial_lon_units": "degrees_east",
        **({"geospatial_lat_resolution": f"{spacing[0]:g} degrees"} if spacing[0] == spacing[0] else {}),
        **({"geospatial_lon_resolution": f"{spacing[1]:g} degrees"} if spacing[1] == spacing[1] else {}),
        **attributes,
    }


def _differs(path: str | Path, what: str, stored: Any, ours: Any) -> str:
    return (
        f"{redacted(path)} holds another job: its {what} is {stored}; this job's is {ours}. Resume with the settings that "
        "started it, or choose another out=."
    )


def _span(values: np.ndarray) -> str:
    return f"{values[0]} to {values[-1]} ({len(values)} values)" if len(values) else "none"
