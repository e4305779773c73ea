"""The analysis store: the one layout in which every stage finds its data.

A Zarr format 3 group. Dimensions (time, level, latitude, longitude), north first, longitudes from 0 up to 360,
levels in whole hPa from the top down, float32 fields by their WeatherBench 2 names in UDUNITS units. One
dataclass, `AnalysisContract`, says so; it is checked when a store is created and when it is opened.

A store is created from a lazy template (metadata only, refusing to overwrite) and then filled region by region.
A chunk holds whole globes at all levels, and as many time steps as make about 4 MB: it is the unit of writing, so
tasks that write at the same time must write whole chunks each (`steps_per_chunk`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr

from data_pipelines.errors import first_line
from data_pipelines.locations import is_url, zarr_store
from data_pipelines.variables import VARIABLES, canonical_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMPRESSIONS = ("none", "lz4", "zstd")
BUILD = "python -m data_pipelines.build_store source=... out=..."

# Group attribute that says what irregularity of the data was accepted by name when the store was built.
ACCEPTED = "accepted"
# Group attribute of a store that is still being filled.
INCOMPLETE = "incomplete"


class StoreError(ValueError):
    """A store, or data meant for one, that does not keep the contract, cannot be read or cannot be written."""


@dataclass(frozen=True)
class AnalysisContract:
    """What every analysis store promises."""

    dims: tuple[str, ...] = ("time", "level", "latitude", "longitude")
    dtype: str = "float32"
    chunk_bytes: int = 4 * 2**20
    epoch: str = "1900-01-01"

    def dims_of(self, name: str, dims: tuple[str, ...]) -> tuple[str, ...]:
        """The order that a variable's dimensions must have."""
        unknown = [dim for dim in dims if dim not in self.dims]
        if unknown:
            raise StoreError(f"variable {name} has dimensions {dims}; an analysis store knows only {self.dims}, not {unknown}.")
        missing = [dim for dim in ("latitude", "longitude") if dim not in dims]
        if missing:
            raise StoreError(f"variable {name} has dimensions {dims}; {missing} are missing, and every field is a map.")
        return tuple(dim for dim in self.dims if dim in dims)

    def check(self, dataset: xr.Dataset) -> None:
        """Raise StoreError at the first promise that the dataset breaks; read no field."""
        if not dataset.data_vars:
            raise StoreError("no variable is in it; an analysis store holds at least one.")
        for name, field in dataset.data_vars.items():
            self._check_field(str(name), field)
        _check_latitude(_coordinate(dataset, "latitude"))
        _check_longitude(_coordinate(dataset, "longitude"))
        if "level" in dataset.dims:
            _check_level(_coordinate(dataset, "level"))
        if "time" in dataset.dims:
            _check_time(_coordinate(dataset, "time"), gaps_allowed="gaps" in dataset.attrs.get(ACCEPTED, ()))

    def _check_field(self, name: str, field: xr.DataArray) -> None:
        dims = tuple(str(dim) for dim in field.dims)
        wanted = self.dims_of(name, dims)
        if dims != wanted:
            raise StoreError(f"variable {name} has dimensions {dims}; the order must be {wanted}. Use .transpose{wanted}.")
        if field.dtype != np.dtype(self.dtype):
            raise StoreError(f"variable {name} is {field.dtype}; it must be {self.dtype}. Use .astype('{self.dtype}').")
        units = field.attrs.get("units")
        if name in VARIABLES:
            known = VARIABLES[name]
            if units != known.units:
                raise StoreError(
                    f"variable {name} has units {units!r}; the store holds it in {known.units!r}. Convert it, or build "
                    "the store "
                    f"with {BUILD}, which converts at the door."
                )
            if known.on_levels != ("level" in dims):
                has, wants = ("no level", "a level") if known.on_levels else ("a level", "no level")
                raise StoreError(f"variable {name} has {has} dimension; it must have {wants}: its dimensions are {dims}.")
        elif not units or "**" in str(units):
            raise StoreError(f"variable {name} has units {units!r}; spell them as UDUNITS does, e.g. 'm s-1'.")

    def steps_per_chunk(self, bytes_per_step: int, steps: int) -> int:
        """How many time steps of one variable share a chunk: a power of two, so that variables' chunks end together."""
        fitting = max(1, self.chunk_bytes // max(1, bytes_per_step))
        return min(steps, 1 << (fitting.bit_length() - 1))


CONTRACT = AnalysisContract()


def create_analysis_store(
    path: str | Path,
    template: xr.Dataset,
    *,
    compression: str = "lz4",
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Create an empty analysis store: all metadata, no field but the static ones.

    Fields that are not written yet read as NaN.

    Parameters
    ----------
    path
        New local folder, or a URL.
    template
        Dataset that keeps the contract; may be lazy. Variables with the dimension `time` are only declared; those
        without it (land-sea mask, orography) are written.
    compression
        "none", "lz4" (byte shuffle; fastest of the small ones) or "zstd" (bit shuffle; smallest). The compressed ones
        carry a CRC32C checksum per chunk, so that a damaged chunk is found when it is read.
    attributes
        Global attributes on top of the template's: source, license, history ...

    Raises
    ------
    StoreError
        If something exists at `path`, the template breaks the contract, or `compression` is unknown.
    """
    if compression not in COMPRESSIONS:
        raise StoreError(f"compression must be one of {COMPRESSIONS}; got {compression!r}.")
    refuse_existing(path)
    merged = {**template.attrs, **(attributes or {})}
    template = template.assign_attrs(merged)
    CONTRACT.check(template)
    with writing(path):
        group = zarr.create_group(zarr_store(path, read_only=False), zarr_format=3, attributes=_global_attributes(merged))
        for name in CONTRACT.dims:
            if name in template.dims:
                _write_coordinate(group, name, template[name])
        for name in canonical_order(str(name) for name in template.data_vars):
            _declare(group, name, template[name], compression)
        consolidate(path)


def write_analysis(path: str | Path, dataset: xr.Dataset) -> None:
    """Write some time steps of some variables into their place in an existing store.

    Any order and any process will do, as long as tasks that run at the same time write whole chunks each.

    Parameters
    ----------
    path
        The store.
    dataset
        Fields (time, [level], latitude, longitude) on the store's grid and levels; its times must be in the store.

    Raises
    ------
    StoreError
        If a variable, a time or the grid is not the store's, or the disk is full.
    """
    group = _open_group(path, mode="r+")
    stored_time = _decode_time(group)
    times = np.atleast_1d(dataset["time"].values).astype("datetime64[ns]")
    position = np.searchsorted(stored_time, times)
    outside = (position >= stored_time.size) | (stored_time[np.minimum(position, stored_time.size - 1)] != times)
    if outside.any():
        raise StoreError(
            f"time {times[outside][0]} is not in {path}, which holds {stored_time[0]} to {stored_time[-1]}. "
            "Create the store with every time that will be written."
        )
    for axis in ("level", "latitude", "longitude"):
        if axis in dataset.dims and (axis not in group or not np.array_equal(dataset[axis].values, _values(group, axis))):
            raise StoreError(
                f"{axis} of the data differs from that of {path}: {_ends(dataset[axis].values)}. Bring it to the store's grid."
            )
    for name, field in dataset.data_vars.items():
        if str(name) not in group:
            raise StoreError(f"variable {name} is not in {path}; it holds {_field_names(group)}.")
        array = _array(group, str(name))
        if tuple(field.dims) != _dims(array):
            raise StoreError(f"variable {name} has dimensions {field.dims}; the store's are {_dims(array)}.")
        values = np.asarray(field.values, dtype=CONTRACT.dtype)
        for source, target in _runs(position):
            with writing(path):
                array[target] = values[source]


def open_analysis(path: str | Path, chunks: Any = None) -> xr.Dataset:
    """Open an analysis store lazily and check that it keeps the contract.

    Parameters
    ----------
    path
        Local folder or URL of a store.
    chunks
        As in `xarray.open_zarr`: None for lazily indexed arrays without dask, {} for dask arrays of the stored chunks.

    Raises
    ------
    StoreError
        If nothing is there, it is no Zarr group, it is unfinished, or it breaks the contract (the message says where).
    """
    if not is_url(path) and not Path(path).exists():
        raise StoreError(f"there is no analysis store at {path}. Build one with: {BUILD}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = xr.open_zarr(zarr_store(path), chunks=chunks, decode_timedelta=False)
    except Exception as error:  # object stores raise classes of their own
        raise StoreError(f"{path} is not a readable Zarr group ({first_line(error)}). Build a store with: {BUILD}") from error
    if INCOMPLETE in dataset.attrs:
        raise StoreError(f"{path} is unfinished: {dataset.attrs[INCOMPLETE]}. Run the command that was building it again.")
    try:
        CONTRACT.check(dataset)
    except StoreError as error:
        raise StoreError(f"{path} is not an analysis store: {error}") from error
    dataset = dataset[canonical_order(str(name) for name in dataset.data_vars)]
    return dataset


def load_checked(dataset: xr.Dataset) -> xr.Dataset:
    """Read a lazy dataset into memory; a chunk that cannot be read is named by variable and time.

    Raises
    ------
    StoreError
        Naming the variable, the first unreadable time and what the decoder said.
    """
    loaded = dataset.copy()
    for name, field in dataset.data_vars.items():
        try:
            loaded[name] = field.load() if field.chunks is None else field.compute()
        except MemoryError:
            raise
        except Exception as error:  # decoders and stores raise every kind of exception
            raise StoreError(_unreadable(str(name), field, error)) from error
    return loaded


def time_step(dataset: xr.Dataset) -> np.timedelta64:
    """The time step [ns] of an analysis: the smallest distance between two of its times.

    Raises
    ------
    StoreError
        If there are fewer than two times.
    """
    times = dataset["time"].values.astype("datetime64[ns]")
    if times.size < 2:
        raise StoreError(f"time has {times.size} value; a step needs two.")
    return np.diff(times).min()


def steps_per_chunk(path: str | Path) -> int:
    """How many time steps a task must write together, so that no other task writes the same chunk."""
    group = _open_group(path, mode="r")
    arrays = [_array(group, name) for name in _field_names(group)]
    chunks = [array.chunks[0] for array in arrays if "time" in _dims(array)]
    return math.lcm(*chunks) if chunks else 1


def data_hash(dataset: xr.Dataset) -> str:
    """SHA-256 of coordinates and values, whatever the chunks, the compression or the place they lie in.

    The hash of the hashes of all fields (one per variable and time), so it can be made in pieces.
    """
    names = sorted(str(name) for name in dataset.data_vars)
    times = dataset.sizes.get("time", 1)
    digests: dict[str, list[bytes]] = {}
    for name in names:
        field = dataset[name]
        digests[name] = []
        if "time" not in field.dims:
            digests[name].append(field_digest(field.values))
            continue
        bytes_per_step = 4 * field.size // max(1, times)
        block = max(1, CONTRACT.chunk_bytes * 8 // max(1, bytes_per_step))
        for start in range(0, times, block):
            values = field.isel(time=slice(start, start + block)).values
            digests[name] += [field_digest(step) for step in values]
    return combine_digests(dataset, digests)


def field_digest(values: NDArray[np.floating]) -> bytes:
    """SHA-256 of one field's values as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").data).digest()


def combine_digests(dataset: xr.Dataset, digests: Mapping[str, list[bytes]]) -> str:
    """The data hash from the digests of every variable's fields in order of time."""
    total = hashlib.sha256()
    for name in ("time", "level", "latitude", "longitude"):
        if name in dataset.coords:
            values = dataset[name].values
            exact = values.astype("datetime64[ns]").astype("<i8") if name == "time" else values.astype("<f8")
            total.update(f"{name}:{exact.size};".encode())
            total.update(np.ascontiguousarray(exact).data)
    for name in sorted(digests):
        total.update(f"{name}:{','.join(str(dim) for dim in dataset[name].dims)};".encode())
        for digest in digests[name]:
            total.update(digest)
    return total.hexdigest()


def exists(path: str | Path) -> bool:
    """Whether something is at a path, or a store at a URL."""
    if not is_url(path):
        return Path(path).exists()
    try:
        _open_group(path, mode="r")
    except StoreError:
        return False
    return True


def is_unfinished(path: str | Path) -> bool:
    """Whether a store is there that is still being filled."""
    return exists(path) and INCOMPLETE in _open_group(path, mode="r").attrs


def refuse_existing(path: str | Path) -> None:
    """Raise StoreError if something is at the path already."""
    if exists(path):
        raise StoreError(f"{path} exists already; nothing is overwritten. Choose another out=, or delete it first.")


def set_attributes(path: str | Path, changes: Mapping[str, Any]) -> None:
    """Set global attributes of a store; None removes one."""
    group = _open_group(path, mode="r+")
    attributes = {**group.attrs.asdict(), **changes}
    with writing(path):
        group.attrs.put({key: value for key, value in attributes.items() if value is not None})
        consolidate(path)


def consolidate(path: str | Path) -> None:
    """Collect all metadata in one object, so that a store on a web server opens in one request."""
    with warnings.catch_warnings():
        # Zarr 3's specification does not name consolidated metadata yet; readers that do not know it ignore it.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(zarr_store(path, read_only=False))


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that caused it, says that no space is left."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class writing:
    """Context manager: turns a full disk, or an object store that refuses, into a StoreError that says where."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, StoreError):
            return
        if is_url(self.path) and isinstance(error, Exception):
            raise StoreError(
                f"{self.path} cannot be written ({type(error).__name__}: {first_line(error)}). Check the URL, and the "
                "credentials in the environment."
            ) from error
        if is_disk_full(error):
            raise StoreError(
                f"no space is left on the disk that holds {self.path}: what was written so far is kept. Free some space, "
                "then run the same command again."
            ) from error


def _coordinate(dataset: xr.Dataset, name: str) -> NDArray[Any]:
    if name not in dataset.coords:
        raise StoreError(f"coordinate {name} is missing; it has {sorted(str(coord) for coord in dataset.coords)}.")
    return np.asarray(dataset[name].values)


def _check_latitude(latitude: NDArray[Any]) -> None:
    if not np.isfinite(latitude).all() or np.abs(latitude).max() > 90.0:
        raise StoreError(f"latitude must lie in [-90, 90] degrees; got {_ends(latitude)}.")
    steps = np.diff(latitude)
    if (steps > 0).all() and steps.size:
        raise StoreError(
            f"latitude is upside down: it runs from {latitude[0]} to {latitude[-1]}; north must come first. "
            "Use .sortby('latitude', ascending=False)."
        )
    if (steps >= 0).any():
        raise StoreError(f"latitude must fall from row to row; got {_ends(latitude)} with a step back or a repeated row.")


def _check_longitude(longitude: NDArray[Any]) -> None:
    if not np.isfinite(longitude).all() or longitude.min() < 0.0 or longitude.max() >= 360.0:
        raise StoreError(f"longitude must lie in [0, 360) degrees; got {_ends(longitude)}. Use longitude % 360 and sort.")
    if (np.diff(longitude) <= 0).any():
        raise StoreError(f"longitude must rise from column to column; got {_ends(longitude)}. Use .sortby('longitude').")


def _check_level(level: NDArray[Any]) -> None:
    if level.dtype.kind not in "iu" or level.min() <= 0:
        raise StoreError(f"level must be whole hPa above 0; got {level.tolist()} ({level.dtype}).")
    if (np.diff(level) <= 0).any():
        raise StoreError(f"level must rise (from the top down); got {level.tolist()}. Use .sortby('level').")


def _check_time(time: NDArray[Any], *, gaps_allowed: bool) -> None:
    if time.dtype.kind != "M":
        raise StoreError(f"time must be dates (datetime64); got {time.dtype}.")
    if np.isnat(time).any():
        raise StoreError(f"time has {int(np.isnat(time).sum())} missing values (NaT).")
    steps = np.diff(time.astype("datetime64[ns]"))
    if not steps.size:
        return
    zero = np.timedelta64(0, "ns")
    if (steps == zero).any():
        raise StoreError(f"time {time[1:][steps == zero][0]} is there twice; every time must be there once.")
    if (steps < zero).any():
        raise StoreError(f"time falls at {time[1:][steps < zero][0]}; it must rise. Use .sortby('time').")
    shortest = steps.min()
    odd = steps % shortest != zero if gaps_allowed else steps != steps[0]
    if odd.any():
        where = int(np.argmax(odd))
        raise StoreError(
            f"time step is not uniform: {_hours(steps[0])} at first, {_hours(steps[where])} from {time[where]} to "
            f"{time[where + 1]}. "
            f"Rebuild the store with {BUILD} every=..., or accept gaps there with allow=[gaps]."
        )


def _hours(step: np.timedelta64) -> str:
    return f"{step / np.timedelta64(1, 'h'):g} h"


def _ends(values: NDArray[Any]) -> str:
    flat = np.asarray(values).ravel()
    return f"{flat[0]} ... {flat[-1]} ({flat.size} values)" if flat.size else "no value"


def _global_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    base: dict[str, Any] = {
        "Conventions": "CF-1.11, ACDD-1.3",
        "title": "Analysis store: global fields on one grid, ready to train and to start forecasts from",
        "source": "not stated by the source",
        "license": "not stated by the source",
    }
    given = {str(key): _plain(value) for key, value in attributes.items() if value is not None}
    return {**base, **given, "Conventions": base["Conventions"], "contract": "skysolve analysis"}


def _plain(value: Any) -> Any:
    """An attribute as JSON can hold it."""
    plain = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    try:
        json.dumps(plain)
    except TypeError:
        return str(value)
    return plain


_COORDINATE_ATTRIBUTES: dict[str, dict[str, str]] = {
    "time": {"standard_name": "time", "long_name": "time", "axis": "T"},
    "level": {"standard_name": "air_pressure", "long_name": "pressure level", "units": "hPa", "positive": "down", "axis": "Z"},
    "latitude": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
}
_STORED_DIRECTION = {"level": "increasing", "latitude": "decreasing", "longitude": "increasing"}


def _write_coordinate(group: zarr.Group, name: str, coordinate: xr.DataArray) -> None:
    attributes: dict[str, Any] = dict(_COORDINATE_ATTRIBUTES[name])
    if name in _STORED_DIRECTION:
        attributes["stored_direction"] = _STORED_DIRECTION[name]
    if name == "time":
        values, units = encode_time(coordinate.values)
        attributes |= {"units": units, "calendar": "proleptic_gregorian"}
    else:
        values = coordinate.values.astype("int32" if name == "level" else "float64")
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        dimension_names=(name,),
        attributes=attributes,
        compressors=None,
    )
    array[:] = values


_ONE = {"h": np.timedelta64(1, "h"), "s": np.timedelta64(1, "s")}


def encode_time(times: NDArray[np.datetime64]) -> tuple[NDArray[np.int64], str]:
    """Times as int64 with pinned units: hours since 1900-01-01, seconds where hours are not whole."""
    elapsed = times.astype("datetime64[ns]") - np.datetime64(CONTRACT.epoch, "ns")
    for unit, name in (("h", "hours"), ("s", "seconds")):
        size = _ONE[unit]
        if not (elapsed % size).astype("int64").any():
            return (elapsed // size).astype("int64"), f"{name} since {CONTRACT.epoch}"
    raise StoreError(f"time must be whole seconds; got {times[0]}.")


def _decode_time(group: zarr.Group) -> NDArray[np.datetime64]:
    unit = "h" if str(group["time"].attrs["units"]).startswith("hours") else "s"
    return np.datetime64(CONTRACT.epoch, "ns") + (_values(group, "time") * _ONE[unit]).astype("timedelta64[ns]")


def _declare(group: zarr.Group, name: str, field: xr.DataArray, compression: str) -> None:
    known = VARIABLES.get(name)
    attributes = {str(key): _plain(value) for key, value in field.attrs.items() if not str(key).startswith("GRIB_")}
    if known is not None:
        attributes |= {"long_name": name.replace("_", " "), "short_name": known.short_name, "units": known.units}
        attributes.pop("standard_name", None)
        if known.standard_name is not None:
            attributes["standard_name"] = known.standard_name
    chunks = list(field.shape)
    if "time" in field.dims:
        chunks[0] = CONTRACT.steps_per_chunk(4 * field.size // field.shape[0], field.shape[0])
    array = group.create_array(
        name,
        shape=field.shape,
        chunks=tuple(chunks),
        dtype=CONTRACT.dtype,
        dimension_names=tuple(str(dim) for dim in field.dims),
        attributes=attributes,
        fill_value=float("nan"),
        compressors=_compressors(compression),
    )
    if "time" not in field.dims:
        array[...] = np.asarray(field.values, dtype=CONTRACT.dtype)


def _compressors(compression: str) -> Any:
    from zarr.codecs import BloscCodec, Crc32cCodec

    if compression == "none":
        return None
    # The checksum comes first when reading: Blosc's decoder can crash the process on a damaged chunk.
    if compression == "lz4":
        return [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=4), Crc32cCodec()]
    return [BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=4), Crc32cCodec()]


def _open_group(path: str | Path, mode: Any) -> zarr.Group:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return zarr.open_group(zarr_store(path, read_only=mode == "r"), mode=mode)
    except Exception as error:  # object stores raise classes of their own
        raise StoreError(f"there is no store at {path} ({first_line(error)}). Make one with create_analysis_store.") from error


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise StoreError(f"{name} is a group inside the store; an analysis store is flat.")
    return found


def _dims(array: zarr.Array[Any]) -> tuple[str | None, ...]:
    return tuple(getattr(array.metadata, "dimension_names", None) or ())


def _values(group: zarr.Group, name: str) -> NDArray[Any]:
    return np.asarray(_array(group, name)[:])


def _field_names(group: zarr.Group) -> list[str]:
    return [name for name in group.array_keys() if name not in CONTRACT.dims]


def _runs(position: NDArray[np.intp]) -> Iterator[tuple[slice, slice]]:
    """Positions cut into runs of neighbours: (where in the data, where in the store)."""
    breaks = np.flatnonzero(np.diff(position) != 1) + 1
    for part in np.split(np.arange(position.size), breaks):
        yield slice(part[0], part[-1] + 1), slice(int(position[part[0]]), int(position[part[-1]]) + 1)


def _unreadable(name: str, field: xr.DataArray, error: Exception) -> str:
    """Find the first time whose field cannot be read."""
    reason = first_line(error)
    if "time" not in field.dims:
        return f"{name} cannot be read ({reason}): its chunk is truncated or corrupt. Fetch or build it again."
    for step in range(field.sizes["time"]):
        one = field.isel(time=step)
        try:
            np.asarray(one.values)
        except Exception as found:  # noqa: BLE001 - decoders and stores raise every kind of exception
            return (
                f"{name} at {one['time'].values} cannot be read ({first_line(found)}): the chunk that holds it is "
                "truncated or corrupt. Fetch or build it again."
            )
    return f"{name} could not be read at first ({reason}), then could: the storage is not reliable. Try again."
