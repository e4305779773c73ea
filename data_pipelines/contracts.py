"""What stores promise: names, dimensions and their order, units, dtype and chunks, checked on creating and on opening.

Two kinds of data take the same road. An analysis is one series of global fields; waves are many simulations, and
`sample` stands where an analysis has its dates. A `Contract` says what they share, its two subclasses what they do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from data_pipelines.errors import StoreError
from data_pipelines.variables import VARIABLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUILD = "python -m data_pipelines.build_store source=... out=..."

# Group attribute that says what irregularity of the data was accepted by name when the store was built.
ACCEPTED = "accepted"


@dataclass(frozen=True)
class Contract:
    """What the stores of one kind promise.

    Attributes
    ----------
    kind
        Word for messages: "there is no analysis store at ...".
    dims
        All dimensions, in the order that every field has them.
    lead
        The dimension along which a store is filled, chunk by chunk, from any process.
    plane
        The two dimensions of a map, which every field has.
    title
        Global attribute of a store whose source has none.
    coordinates
        CF attributes of every dimension's coordinate, `stored_direction` included.
    dtype, chunk_bytes
        Of every field, and of a chunk before compression.
    """

    kind: str
    dims: tuple[str, ...]
    lead: str
    plane: tuple[str, str]
    title: str
    coordinates: Mapping[str, Mapping[str, str]]
    dtype: str = "float32"
    chunk_bytes: int = 4 * 2**20

    @property
    def label(self) -> str:
        """Value of the global attribute `contract`, by which a store says what it keeps."""
        return f"skysolve {self.kind}"

    @property
    def store_name(self) -> str:
        """What messages call such a store."""
        return f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind} store"

    def dims_of(self, name: str, dims: tuple[str, ...]) -> tuple[str, ...]:
        """The order that a variable's dimensions must have."""
        unknown = [dim for dim in dims if dim not in self.dims]
        if unknown:
            raise StoreError(f"variable {name} has dimensions {dims}; {self.store_name} knows only {self.dims}, not {unknown}.")
        missing = [dim for dim in self.plane if dim not in dims]
        if missing:
            raise StoreError(f"variable {name} has dimensions {dims}; {missing} are missing, and every field is a map.")
        return tuple(dim for dim in self.dims if dim in dims)

    def check(self, dataset: xr.Dataset) -> None:
        """Raise StoreError at the first promise that the dataset breaks; read no field."""
        if not dataset.data_vars:
            raise StoreError(f"no variable is in it; {self.store_name} holds at least one.")
        for name, array in dataset.data_vars.items():
            self._check_field(str(name), array)
        self._check_coordinates(dataset)

    def _check_field(self, name: str, array: xr.DataArray) -> None:
        dims = tuple(str(dim) for dim in array.dims)
        wanted = self.dims_of(name, dims)
        if dims != wanted:
            raise StoreError(f"variable {name} has dimensions {dims}; the order must be {wanted}. Use .transpose{wanted}.")
        if array.dtype != np.dtype(self.dtype):
            raise StoreError(f"variable {name} is {array.dtype}; it must be {self.dtype}. Use .astype('{self.dtype}').")
        self._check_meaning(name, array)

    def _check_meaning(self, name: str, array: xr.DataArray) -> None:
        """Check what a variable's name implies; here only that units are spelled well."""
        units = array.attrs.get("units")
        if not units or "**" in str(units):
            raise StoreError(f"variable {name} has units {units!r}; spell them as UDUNITS does, e.g. 'm s-1'.")

    def _check_coordinates(self, dataset: xr.Dataset) -> None:
        raise NotImplementedError

    def chunks_of(self, dims: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        """Chunk of a field: whole maps."""
        raise NotImplementedError

    def steps_per_chunk(self, bytes_per_step: int, steps: int) -> int:
        """How many time steps of one variable share a chunk: a power of two, so that variables' chunks end together."""
        fitting = max(1, self.chunk_bytes // max(1, bytes_per_step))
        return min(steps, 1 << (fitting.bit_length() - 1))


@dataclass(frozen=True)
class AnalysisContract(Contract):
    """What every analysis store promises: global fields in order of date, north first, longitudes from 0 up to 360."""

    kind: str = "analysis"
    dims: tuple[str, ...] = ("time", "level", "latitude", "longitude")
    lead: str = "time"
    plane: tuple[str, str] = ("latitude", "longitude")
    title: str = "Analysis store: global fields on one grid, ready to train and to start forecasts from"
    coordinates: Mapping[str, Mapping[str, str]] = field(
        default_factory=lambda: MappingProxyType(
            {
                "time": {"standard_name": "time", "long_name": "time", "axis": "T"},
                "level": {
                    "standard_name": "air_pressure",
                    "long_name": "pressure level",
                    "units": "hPa",
                    "positive": "down",
                    "axis": "Z",
                    "stored_direction": "increasing",
                },
                "latitude": {
                    "standard_name": "latitude",
                    "long_name": "latitude",
                    "units": "degrees_north",
                    "axis": "Y",
                    "stored_direction": "decreasing",
                },
                "longitude": {
                    "standard_name": "longitude",
                    "long_name": "longitude",
                    "units": "degrees_east",
                    "axis": "X",
                    "stored_direction": "increasing",
                },
            }
        )
    )
    epoch: str = "1900-01-01"

    def _check_coordinates(self, dataset: xr.Dataset) -> None:
        _check_latitude(_coordinate(dataset, "latitude"))
        _check_longitude(_coordinate(dataset, "longitude"))
        if "level" in dataset.dims:
            _check_level(_coordinate(dataset, "level"))
        if "time" in dataset.dims:
            _check_dates(_coordinate(dataset, "time"), gaps_allowed="gaps" in dataset.attrs.get(ACCEPTED, ()))

    def _check_meaning(self, name: str, array: xr.DataArray) -> None:
        if name not in VARIABLES:
            super()._check_meaning(name, array)
            return
        known, units = VARIABLES[name], array.attrs.get("units")
        if units != known.units:
            raise StoreError(
                f"variable {name} has units {units!r}; the store holds it in {known.units!r}. Convert it, or build "
                f"the store with {BUILD}, which converts at the door."
            )
        if known.on_levels != ("level" in array.dims):
            has, wants = ("no level", "a level") if known.on_levels else ("a level", "no level")
            raise StoreError(f"variable {name} has {has} dimension; it must have {wants}: its dimensions are {array.dims}.")

    def chunks_of(self, dims: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        """Chunk of a field: whole globes at all levels, and as many time steps as make about `chunk_bytes`."""
        if "time" not in dims:
            return shape
        return (self.steps_per_chunk(4 * int(np.prod(shape[1:])), shape[0]), *shape[1:])


@dataclass(frozen=True)
class WaveContract(Contract):
    """What every wave store promises: simulations (`sample`), each a series of maps on one regular grid.

    `time` [s] counts from the start of the record, in equal steps, the same in all samples; y and x [m] rise in equal
    steps. `displacement` [m] and `velocity` [m s-1] vary in time; `wave_speed` [m s-1] and `mask` (1 where the medium
    is, 0 in holes) are static and differ from sample to sample. All four are 0 where the mask is; NaN means not
    written. Further fields may stand beside them. What is one number for a sample (seed, energy, seconds that the
    solver took) is a coordinate along `sample`.
    """

    kind: str = "waves"
    dims: tuple[str, ...] = ("sample", "time", "y", "x")
    lead: str = "sample"
    plane: tuple[str, str] = ("y", "x")
    title: str = "Wave store: simulations of the wave equation on one grid, ready to train simulators"
    coordinates: Mapping[str, Mapping[str, str]] = field(
        default_factory=lambda: MappingProxyType(
            {
                "sample": {"long_name": "number of the simulation in its draw"},
                "time": {"long_name": "time since the start of the record", "units": "s", "axis": "T"},
                "y": {"long_name": "y", "units": "m", "axis": "Y", "stored_direction": "increasing"},
                "x": {"long_name": "x", "units": "m", "axis": "X", "stored_direction": "increasing"},
            }
        )
    )

    @property
    def store_name(self) -> str:
        """What messages call such a store."""
        return "a wave store"

    def _check_coordinates(self, dataset: xr.Dataset) -> None:
        missing = [name for name in WAVE_VARIABLES if name not in dataset.data_vars]
        if missing:
            raise StoreError(
                f"variables {missing} are missing; a wave store holds {list(WAVE_VARIABLES)}, has {list(dataset)}."
            )
        sample = _coordinate(dataset, "sample")
        if sample.dtype.kind not in "iu" or (np.diff(sample.astype("int64")) <= 0).any() or (sample < 0).any():
            raise StoreError(f"sample must be whole numbers from 0 that rise; got {_ends(sample)} ({sample.dtype}).")
        for name in ("time", "y", "x"):
            _check_even(name, _coordinate(dataset, name), dict(self.coordinates[name])["units"])

    def _check_meaning(self, name: str, array: xr.DataArray) -> None:
        super()._check_meaning(name, array)
        if name not in WAVE_VARIABLES:
            return
        known = WAVE_VARIABLES[name]
        if array.attrs["units"] != known.units:
            raise StoreError(f"variable {name} has units {array.attrs['units']!r}; the store holds it in {known.units!r}.")
        wanted = self.dims if known.in_time else tuple(dim for dim in self.dims if dim != "time")
        if array.dims != wanted:
            raise StoreError(f"variable {name} has dimensions {array.dims}; in a wave store it has {wanted}.")

    def chunks_of(self, dims: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        """Chunk of a field: one sample, so that every process writes files of its own."""
        if "time" not in dims:
            return (1, *shape[1:])
        return (1, self.steps_per_chunk(4 * int(np.prod(shape[2:])), shape[1]), *shape[2:])


@dataclass(frozen=True)
class WaveVariable:
    """A field that every wave store has."""

    units: str
    long_name: str
    in_time: bool


WAVE_VARIABLES: Mapping[str, WaveVariable] = MappingProxyType(
    {
        "displacement": WaveVariable("m", "displacement", True),
        "velocity": WaveVariable("m s-1", "velocity of the displacement", True),
        "wave_speed": WaveVariable("m s-1", "speed of waves in the medium", False),
        "mask": WaveVariable("1", "1 where the medium is, 0 in holes", False),
    }
)


CONTRACT = AnalysisContract()
WAVES = WaveContract()


def contract_of(dataset: xr.Dataset) -> Contract:
    """The contract that a dataset means to keep, by its dimensions."""
    return WAVES if "sample" in dataset.dims else CONTRACT


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


def _check_dates(time: NDArray[Any], *, gaps_allowed: bool) -> None:
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
            f"{time[where + 1]}. Rebuild the store with {BUILD} every=..., or accept gaps there with allow=[gaps]."
        )


def _check_even(name: str, values: NDArray[Any], units: str) -> None:
    if values.dtype.kind not in "fiu" or values.size < 2 or not np.isfinite(values).all():
        raise StoreError(f"{name} must be at least 2 finite numbers [{units}]; got {_ends(values)} ({values.dtype}).")
    steps = np.diff(values.astype("float64"))
    # np.linspace and cumulative sums of a step differ by rounding, which grows with the value.
    rounding = 1e-9 * max(abs(float(values[0])), abs(float(values[-1])))
    if steps.min() <= 0 or np.ptp(steps) > rounding:
        raise StoreError(
            f"{name} must rise in equal steps [{units}]; got {_ends(values)}, steps {steps.min()} to {steps.max()}."
        )


def _hours(step: np.timedelta64) -> str:
    return f"{step / np.timedelta64(1, 'h'):g} h"


def _ends(values: NDArray[Any]) -> str:
    flat = np.asarray(values).ravel()
    return f"{flat[0]} ... {flat[-1]} ({flat.size} values)" if flat.size else "no value"
