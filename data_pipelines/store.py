"""Stores: the one layout in which every stage finds its data, created, filled, opened, checked and hashed here.

Zarr format 3 groups of float32 fields that keep a contract of `data_pipelines.contracts`: the analysis store (global
fields in order of date) and the wave store (simulations, `sample` in place of dates). The contract is checked when a
store is created and when it is opened.

A store is created from a lazy template (metadata only, refusing to overwrite) and then filled region by region. A chunk
holds whole maps: of an analysis as many time steps as make about 4 MB, of waves one sample. It is the unit of
writing, so tasks that write at the same time must write whole chunks each (`steps_per_chunk`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr

from data_pipelines.contracts import ACCEPTED as ACCEPTED
from data_pipelines.contracts import BUILD, CONTRACT, WAVE_VARIABLES, WAVES, AnalysisContract, Contract, contract_of
from data_pipelines.errors import StoreError as StoreError
from data_pipelines.errors import first_line
from data_pipelines.locations import is_url, is_zarr, zarr_store
from data_pipelines.variables import VARIABLES, canonical_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMPRESSIONS = ("none", "lz4", "zstd")

# Group attribute of a store that is still being filled.
INCOMPLETE = "incomplete"


def create_analysis_store(
    path: str | Path,
    template: xr.Dataset,
    *,
    compression: str = "lz4",
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Create an empty analysis store: all metadata, no field but the static ones. Arguments and errors: `create_store`."""
    create_store(path, template, CONTRACT, compression=compression, attributes=attributes)


def create_wave_store(
    path: str | Path,
    template: xr.Dataset,
    *,
    compression: str = "lz4",
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Create an empty wave store: all metadata, no sample yet. Arguments and errors: `create_store`."""
    create_store(path, template, WAVES, compression=compression, attributes=attributes)


def create_store(
    path: str | Path,
    template: xr.Dataset,
    contract: Contract,
    *,
    compression: str = "lz4",
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Create an empty store: all metadata, no field but those without the dimension along which it is filled.

    Fields that are not written yet read as NaN.

    Parameters
    ----------
    path
        New local folder, or a URL.
    template
        Dataset that keeps the contract; may be lazy. Variables with the dimension `contract.lead` are only declared;
        those without it (land-sea mask, orography) are written.
    contract
        Of the analysis store or of the wave store.
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
    contract.check(template)
    with writing(path):
        about = _global_attributes(merged, contract)
        group = zarr.create_group(zarr_store(path, read_only=False), zarr_format=3, attributes=about)
        for name in contract.dims:
            if name in template.dims:
                _write_coordinate(group, name, template[name], contract)
        for name in canonical_order(str(name) for name in template.data_vars):
            _declare(group, name, template[name], compression, contract)
        consolidate(path)


def write_analysis(path: str | Path, dataset: xr.Dataset) -> None:
    """Write some time steps of some variables into their place in an analysis store. See `write_region`."""
    write_region(path, dataset)


def write_samples(path: str | Path, dataset: xr.Dataset) -> None:
    """Write some samples into their place in a wave store. See `write_region`."""
    write_region(path, dataset)


def write_region(path: str | Path, dataset: xr.Dataset) -> None:
    """Write part of some variables into its place in an existing store.

    Any order and any process will do, as long as tasks that run at the same time write whole chunks each.

    Parameters
    ----------
    path
        The store.
    dataset
        Fields on the store's grid, with the dimension along which the store is filled (`time` of an analysis, `sample`
        of waves) first; its values there must be in the store, the other coordinates must be the store's. Fields without
        that dimension are written whole.

    Raises
    ------
    StoreError
        If a variable, a time, a sample or the grid is not the store's, or the disk is full.
    """
    group = _open_group(path, mode="r+")
    contract = _contract_of(group)
    leading = [name for name, field in dataset.data_vars.items() if contract.lead in field.dims]
    position = _positions(path, group, contract, dataset) if leading else np.array([], np.intp)
    for axis in contract.dims:
        if axis == contract.lead or axis not in dataset.dims:
            continue
        if axis not in group or not np.array_equal(dataset[axis].values, _values(group, axis)):
            raise StoreError(
                f"{axis} of the data differs from that of {path}: {_ends(dataset[axis].values)}. Bring it to the store's grid."
            )
    for name, field in dataset.data_vars.items():
        if str(name) not in group:
            raise StoreError(f"variable {name} is not in {path}; it holds {_field_names(group)}.")
        array = _array(group, str(name))
        if tuple(field.dims) != _dims(array):
            raise StoreError(f"variable {name} has dimensions {field.dims}; the store's are {_dims(array)}.")
        values = np.asarray(field.values, dtype=contract.dtype)
        places = _runs(position) if name in leading else [(slice(None), slice(None))]
        for source, target in places:
            with writing(path):
                array[target] = values[source]


def write_sample_coordinates(path: str | Path, values: Mapping[str, xr.DataArray]) -> None:
    """Write what is one number per sample (seed, energy drift ...) into a wave store, all samples at once.

    Raises
    ------
    StoreError
        If one has not the dimension `sample` alone, or not one value for each sample.
    """
    group = _open_group(path, mode="r+")
    samples = _array(group, "sample").shape
    for name, array in values.items():
        if array.dims != ("sample",) or array.shape != samples:
            raise StoreError(
                f"{name} has dimensions {dict(array.sizes)}; it must have one value for each of {samples[0]} samples."
            )
        with writing(path):
            stored = group.create_array(
                name,
                shape=array.shape,
                chunks=array.shape,
                dtype=array.dtype,
                dimension_names=("sample",),
                attributes={str(key): _plain(value) for key, value in array.attrs.items()},
                compressors=None,
                overwrite=True,  # by a run that was killed while it finished
            )
            stored[:] = array.values
    with writing(path):
        consolidate(path)


def _positions(path: str | Path, group: zarr.Group, contract: Contract, dataset: xr.Dataset) -> NDArray[np.intp]:
    """Where the data go along the store's leading dimension."""
    lead = contract.lead
    if lead not in dataset.coords:
        raise StoreError(
            f"the data must have the coordinate {lead}, which says where they go in {path}; they have {list(dataset.coords)}."
        )
    stored = _decode_time(group) if lead == "time" else _values(group, lead)
    wanted = np.atleast_1d(dataset[lead].values)
    wanted = wanted.astype("datetime64[ns]") if lead == "time" else wanted
    position = np.searchsorted(stored, wanted)
    outside = (position >= stored.size) | (stored[np.minimum(position, stored.size - 1)] != wanted)
    if outside.any():
        raise StoreError(
            f"{lead} {wanted[outside][0]} is not in {path}, which holds {stored[0]} to {stored[-1]}. "
            f"Create the store with every {lead} that will be written."
        )
    return position


def _ends(values: NDArray[Any]) -> str:
    return f"{values[0]} ... {values[-1]} ({values.size} values)" if values.size else "no value"


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
    return _open_checked(path, CONTRACT, chunks)


def open_waves(path: str | Path, chunks: Any = None) -> xr.Dataset:
    """Open a wave store lazily and check that it keeps the contract. Arguments and errors: `open_analysis`.

    Returns
    -------
    Fields (sample, [time,] y, x); what is one number per sample is a coordinate.
    """
    return _open_checked(path, WAVES, chunks)


def open_store(path: str | Path, chunks: Any = None) -> xr.Dataset:
    """Open a store of either kind, by what it says it is. Arguments and errors: `open_analysis`."""
    return _open_checked(path, WAVES if holds_waves(path) else CONTRACT, chunks)


def holds_waves(path: str | Path) -> bool:
    """Whether a store is there that says that it keeps waves."""
    if not is_url(path) and not is_zarr(Path(path)):
        return False  # nothing, or files of another format
    return exists(path) and _open_group(path, mode="r").attrs.get("contract") == WAVES.label


def _open_checked(path: str | Path, contract: Contract, chunks: Any) -> xr.Dataset:
    if not is_url(path) and not Path(path).exists():
        raise StoreError(f"there is no {contract.store_name.partition(' ')[2]} at {path}. Build one with: {BUILD}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = xr.open_zarr(zarr_store(path), chunks=chunks, decode_timedelta=False, decode_times=contract is CONTRACT)
    except Exception as error:  # object stores raise classes of their own
        raise StoreError(f"{path} is not a readable Zarr group ({first_line(error)}). Build a store with: {BUILD}") from error
    if INCOMPLETE in dataset.attrs:
        raise StoreError(f"{path} is unfinished: {dataset.attrs[INCOMPLETE]}. Run the command that was building it again.")
    dataset = dataset.set_coords([name for name, array in dataset.data_vars.items() if array.dims == ("sample",)])
    try:
        contract.check(dataset)
    except StoreError as error:
        raise StoreError(f"{path} is not {contract.store_name}: {error}") from error
    return dataset[canonical_order(str(name) for name in dataset.data_vars)]


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
    """How many time steps, or samples, a task must write together, so that no other task writes the same chunk."""
    group = _open_group(path, mode="r")
    arrays = [_array(group, name) for name in _field_names(group)]
    lead = _contract_of(group).lead
    chunks = [array.chunks[0] for array in arrays if lead in _dims(array)]
    return math.lcm(*chunks) if chunks else 1


def data_hash(dataset: xr.Dataset) -> str:
    """SHA-256 of coordinates and values, whatever the chunks, the compression or the place they lie in.

    The hash of the hashes of all fields (one per variable and time, or sample), so it can be made in pieces.
    """
    lead = contract_of(dataset).lead
    count = dataset.sizes.get(lead, 1)
    digests: dict[str, list[bytes]] = {}
    for name in sorted(str(name) for name in dataset.data_vars):
        field = dataset[name]
        digests[name] = []
        if lead not in field.dims:
            digests[name].append(field_digest(field.values))
            continue
        bytes_per_step = 4 * field.size // max(1, count)
        block = max(1, CONTRACT.chunk_bytes * 8 // max(1, bytes_per_step))
        for start in range(0, count, block):
            values = field.isel({lead: slice(start, start + block)}).values
            digests[name] += [field_digest(step) for step in values]
    return combine_digests(dataset, digests)


def field_digest(values: NDArray[np.floating]) -> bytes:
    """SHA-256 of one field's values as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").data).digest()


def combine_digests(dataset: xr.Dataset, digests: Mapping[str, list[bytes]]) -> str:
    """The data hash from the digests of every variable's fields in order of time, or sample."""
    total = hashlib.sha256()
    for name in contract_of(dataset).dims:
        if name in dataset.coords:
            values = dataset[name].values
            dates = values.dtype.kind == "M"
            exact = values.astype("datetime64[ns]").astype("<i8") if dates else values.astype("<f8")
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


def _global_attributes(attributes: Mapping[str, Any], contract: Contract) -> dict[str, Any]:
    base: dict[str, Any] = {
        "Conventions": "CF-1.11, ACDD-1.3",
        "title": contract.title,
        "source": "not stated by the source",
        "license": "not stated by the source",
    }
    given = {str(key): _plain(value) for key, value in attributes.items() if value is not None}
    return {**base, **given, "Conventions": base["Conventions"], "contract": contract.label}


def _plain(value: Any) -> Any:
    """An attribute as JSON can hold it."""
    plain = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    try:
        json.dumps(plain)
    except TypeError:
        return str(value)
    return plain


_COORDINATE_DTYPES = {"level": "int32", "sample": "int64"}


def _write_coordinate(group: zarr.Group, name: str, coordinate: xr.DataArray, contract: Contract) -> None:
    attributes: dict[str, Any] = dict(contract.coordinates[name])
    if coordinate.dtype.kind == "M":
        values, units = encode_time(coordinate.values)
        attributes |= {"units": units, "calendar": "proleptic_gregorian"}
    else:
        values = coordinate.values.astype(_COORDINATE_DTYPES.get(name, "float64"))
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


def _declare(group: zarr.Group, name: str, field: xr.DataArray, compression: str, contract: Contract) -> None:
    known = VARIABLES.get(name) if isinstance(contract, AnalysisContract) else None
    attributes = {str(key): _plain(value) for key, value in field.attrs.items() if not str(key).startswith("GRIB_")}
    if known is not None:
        attributes |= {"long_name": name.replace("_", " "), "short_name": known.short_name, "units": known.units}
        attributes.pop("standard_name", None)
        if known.standard_name is not None:
            attributes["standard_name"] = known.standard_name
    elif name in WAVE_VARIABLES:
        attributes = {"long_name": WAVE_VARIABLES[name].long_name, **attributes}
    dims = tuple(str(dim) for dim in field.dims)
    array = group.create_array(
        name,
        shape=field.shape,
        chunks=contract.chunks_of(dims, field.shape),
        dtype=contract.dtype,
        dimension_names=dims,
        attributes=attributes,
        fill_value=float("nan"),
        compressors=_compressors(compression),
    )
    if contract.lead not in dims:
        array[...] = np.asarray(field.values, dtype=contract.dtype)


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
    plane = set(_contract_of(group).plane)
    return [name for name in group.array_keys() if plane <= set(_dims(_array(group, name)))]


def _contract_of(group: zarr.Group) -> Contract:
    return WAVES if group.attrs.get("contract") == WAVES.label else CONTRACT


def _runs(position: NDArray[np.intp]) -> Iterator[tuple[slice, slice]]:
    """Positions cut into runs of neighbours: (where in the data, where in the store)."""
    breaks = np.flatnonzero(np.diff(position) != 1) + 1
    for part in np.split(np.arange(position.size), breaks):
        yield slice(part[0], part[-1] + 1), slice(int(position[part[0]]), int(position[part[-1]]) + 1)


def _unreadable(name: str, field: xr.DataArray, error: Exception) -> str:
    """Find the first time, or sample, whose field cannot be read."""
    reason = first_line(error)
    lead = "sample" if "sample" in field.dims else "time"
    if lead not in field.dims:
        return f"{name} cannot be read ({reason}): its chunk is truncated or corrupt. Fetch or build it again."
    for step in range(field.sizes[lead]):
        one = field.isel({lead: step})
        try:
            np.asarray(one.values)
        except Exception as found:  # noqa: BLE001 - decoders and stores raise every kind of exception
            where = one[lead].values if lead == "time" else f"sample {one[lead].values}"
            return (
                f"{name} at {where} cannot be read ({first_line(found)}): the chunk that holds it is "
                "truncated or corrupt. Fetch or build it again."
            )
    return f"{name} could not be read at first ({reason}), then could: the storage is not reliable. Try again."
