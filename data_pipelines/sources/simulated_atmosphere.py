"""A simulated atmosphere: SPEEDY physics at T31 on eight levels, as much of it as anyone wants.

The pip package `jcm` (Apache-2.0; JAX, dinosaur dynamical core) integrates the model with its own
orography, land-sea mask and climatological sea-surface temperatures. This module drives it month by
month, brings the fields to pressure levels and onto a regular grid, and names them as WeatherBench 2
does. Everything written here says that it is simulated, never observed.

A month is one NetCDF file and one model checkpoint beside it, so an interrupted simulation goes on
from the last finished month. A month must wait for the one before it; so what is spread over workers are `runs`, simulations
that have nothing to do with each other and follow each other in time, with a gap between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from data_pipelines.constants import GRAVITY
from data_pipelines.errors import StoreError
from data_pipelines.simulation_workers import DaskConfig, spread
from data_pipelines.variables import physical_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

# SPEEDY's reference surface pressure: jcm stores surface pressure as a fraction of it.
REFERENCE_PRESSURE = 1.0e5  # Pa
DRY_AIR_GAS_CONSTANT = 287.05  # J kg-1 K-1
LAPSE_RATE = 6.5e-3  # K m-1, ICAO standard atmosphere; used below ground only

DAYS_PER_FILE = 30
PARTIAL = ".partial"  # suffix of a month that is being written
LABEL = "SIMULATED atmosphere (jcm SPEEDY T31L8); not an observation, not a reanalysis"

# WeatherBench 2 name -> (name in jcm's output, units). Vorticity is derived from the winds.
LEVEL_VARIABLES = {
    "geopotential": ("geopotential", "m2 s-2"),
    "temperature": ("temperature", "K"),
    "u_component_of_wind": ("u_wind", "m s-1"),
    "v_component_of_wind": ("v_wind", "m s-1"),
    "specific_humidity": ("specific_humidity", "kg kg-1"),
    "vorticity": ("vorticity", "s-1"),
}
SURFACE_VARIABLES = {
    "mean_sea_level_pressure": "Pa",
    "surface_pressure": "Pa",
    "2m_temperature": "K",
}


@dataclass
class SimulationConfig:
    """What to simulate.

    `months` are of 30 days. `spin_up_days` are integrated and thrown away: from isothermal rest the
    model needs about two months until storms look like storms. `seed` shifts the length of the spin-up by
    whole days: the atmosphere is chaotic, so another seed is another weather. `runs` share the months equally; each spins up by
    itself with a seed of its own, and its record begins when that of the run before has ended and a spin-up has passed.
    """

    months: int = 12
    runs: int = 1
    spin_up_days: int = 90
    start: str = "2000-10-01"
    seed: int = 0
    variables: list[str] = field(default_factory=lambda: ["mean_sea_level_pressure", "vorticity"])
    levels: list[int] = field(default_factory=lambda: [850])  # hPa
    latitudes: int = 73  # with poles: 73 rows are 2.5 degrees apart
    longitudes: int = 144
    step_hours: int = 6

    def __post_init__(self) -> None:
        known = set(LEVEL_VARIABLES) | set(SURFACE_VARIABLES)
        unknown = sorted(set(self.variables) - known)
        if unknown:
            raise ValueError(f"variables {unknown} cannot be simulated; choose from {sorted(known)}.")
        if self.months < 1:
            raise ValueError(f"months must be at least 1; got {self.months}.")
        if self.runs < 1 or self.months % self.runs:
            raise ValueError(
                f"runs must be at least 1 and share months equally; got {self.runs} for {self.months} months. Make months a "
                "multiple of runs."
            )
        if self.longitudes % 2 or self.latitudes < 8:
            raise ValueError(
                f"the grid needs an even number of longitudes and at least 8 latitudes; got {self.latitudes} x "
                f"{self.longitudes}."
            )
        if not self.levels and set(self.variables) & set(LEVEL_VARIABLES):
            raise ValueError("levels is empty, but a variable on pressure levels was asked for; name levels in hPa.")

    @property
    def apart(self) -> list[SimulationConfig]:
        """Every run by itself."""
        months = self.months // self.runs
        # Runs of the next seed spin up for a day longer: what follows cannot touch what came before.
        days = self.spin_up_days + months * DAYS_PER_FILE + 1
        return [
            replace(
                self, months=months, runs=1, seed=self.seed + run,
                start=str(np.datetime64(self.start, "D") + np.timedelta64(run * days, "D")),
            )
            for run in range(self.runs)
        ]  # fmt: skip


def simulate_all(
    folder: Path, config: SimulationConfig, dask: DaskConfig | None = None, progress: Callable[[int], None] | None = None
) -> list[Path]:
    """Simulate all months of all runs into `folder`, several runs at once where `dask` says so.

    Parameters
    ----------
    folder
        Where months and checkpoints are kept; what is there is not computed again.
    config
        What to simulate.
    dask
        Where to run; one run after the other in this process by default.
    progress
        Called with the number of months that are there.

    Returns
    -------
    The months' NetCDF files in the order of their times.

    Raises
    ------
    FileNotFoundError
        If a checkpoint is missing that the simulation must go on from.
    StoreError
        If months of other settings are in the way.
    ImportError
        If the package jcm is missing.
    """
    runs = config.apart
    months = [month for run in runs for month in months_of(folder, run)]

    def look() -> None:
        if progress is not None:
            progress(sum(month.exists() for month in months))

    if dask is None or dask.is_here:
        for run in runs:
            for _ in simulate(folder, run):
                look()
    else:
        for _ in spread(partial(_simulate_one, folder), runs, dask, look):
            look()
    return months


def _simulate_one(folder: Path, run: SimulationConfig) -> list[Path]:
    return list(simulate(folder, run))


def months_of(folder: Path, config: SimulationConfig) -> list[Path]:
    """The files of one run, whether they are there or not."""
    return [folder / f"simulated_{config.seed:02d}_{month:04d}.nc" for month in range(config.months)]


def simulate(folder: Path, config: SimulationConfig) -> Iterator[Path]:
    """Simulate one run month by month into `folder`, yielding each month's NetCDF file when it is complete.

    Files that exist are yielded without being computed again; the model goes on from the checkpoint
    beside the last of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = months_of(folder, config)
    checkpoint = folder / f"simulated_{config.seed:02d}.checkpoint"
    done = 0
    while done < len(files) and (files[done].exists() or _rescue(files[done], checkpoint)):
        yield files[done]
        done += 1
    if done == len(files):
        return
    if done and not checkpoint.exists():
        raise FileNotFoundError(
            f"{done} months are in {folder}, but {checkpoint.name} is missing, so the simulation cannot go on from them. Use "
            "another folder, or delete these months."
        )
    model = _Model(config, checkpoint, months_done=done)
    for path in files[done:]:
        month = model.next_month()
        encoding: dict[str, Any] = {str(name): {"zlib": True, "complevel": 1, "shuffle": True} for name in month.data_vars}
        partial = path.with_suffix(PARTIAL)
        month.to_netcdf(partial, encoding=encoding)
        model.save()
        os.replace(partial, path)
        yield path


def _rescue(path: Path, checkpoint: Path) -> bool:
    """Name a month whose simulation was killed after its checkpoint: the checkpoint is written when the month is whole."""
    partial = path.with_suffix(PARTIAL)
    if not (partial.exists() and checkpoint.exists()) or checkpoint.stat().st_mtime_ns < partial.stat().st_mtime_ns:
        return False
    os.replace(partial, path)
    return True


class _Model:
    """jcm with its configuration, clock and checkpoint."""

    def __init__(self, config: SimulationConfig, checkpoint: Path, months_done: int) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            import jcm
            from jcm import runners
        except ImportError as error:
            raise ImportError(
                "simulating an atmosphere needs the package jcm; install it with: pip install 'skysolve[simulation]'"
            ) from error
        data = Path(jcm.__file__).parent / "data" / "bc"
        overrides = [
            "physics=speedy",
            "grid=speedy_t31_l8",
            "terrain=from_file",
            f"terrain.file={data}/t63/terrain.nc",
            "terrain.interpolate=true",
            "forcing=from_file",
            "forcing.align=wrap_year",
            f"forcing.file={data}/t30/clim/forcing.nc",
            "run.time_step=30",
            f"run.start_time={config.start}",
            "run.total_time=30",
            "run.save_interval=0.25",
        ]
        settings = compose_foreign("jcm.config", "config", overrides)
        self.config = config
        self.checkpoint = checkpoint
        self.model = runners.build_model(settings)
        self.forcing = runners.build_forcing(settings, self.model.coords)
        self.regrid = _SpectralRegrid(self.model.coords.horizontal, config.latitudes, config.longitudes)
        if months_done:
            _go_on(self.model, checkpoint)
        else:
            spin_up = config.spin_up_days + config.seed
            self.model.run(forcing=self.forcing, save_interval=spin_up, total_time=spin_up)

    def next_month(self) -> xr.Dataset:
        predictions = self.model.resume(
            forcing=self.forcing, save_interval=self.config.step_hours / 24, total_time=DAYS_PER_FILE
        )
        return self._standard(predictions.to_xarray())

    def save(self) -> None:
        from jcm.checkpoint import save_checkpoint

        save_checkpoint(self.model, self.checkpoint)

    def _orography(self) -> NDArray[np.floating]:
        """Height [m] of the ground that the dynamics feel: without the two highest wavenumbers, as jcm's dycore has it.

        With the unfiltered height the pressure over the oceans would show the filter's ripples.
        """
        from dinosaur import primitive_equations

        coordinates = self.model.coords
        modal = primitive_equations.truncated_modal_orography(self.model.terrain.orog, coordinates, wavenumbers_to_clip=2)
        return np.asarray(coordinates.horizontal.to_nodal(modal)).T

    def _standard(self, native: xr.Dataset) -> xr.Dataset:
        """Fields on sigma levels and a Gaussian grid -> pressure levels, regular grid, standard names."""
        native = native.sortby("level").transpose("time", "level", "lat", "lon", ..., missing_dims="ignore")
        surface_pressure = native["normalized_surface_pressure"].values * REFERENCE_PRESSURE
        sigma = native["level"].values
        out = xr.Dataset(
            coords={
                "time": native["time"].values,
                "level": ("level", np.asarray(self.config.levels, dtype="int32"), {"units": "hPa"}),
                "latitude": ("latitude", self.regrid.latitude, {"units": "degrees_north"}),
                "longitude": ("longitude", self.regrid.longitude, {"units": "degrees_east"}),
            },
            attrs={"title": LABEL, "source": "pip package jcm, climatological boundary data", "license": "CC0-1.0"},
        )

        def on_levels(name: str) -> NDArray[np.floating]:
            columns = native[LEVEL_VARIABLES[name][0]].values
            return np.stack(
                [interpolate_in_log_pressure(columns, sigma, surface_pressure, 100.0 * p) for p in self.config.levels], axis=1
            )

        for name in self.config.variables:
            if name == "vorticity":
                values = self.regrid.vorticity(on_levels("u_component_of_wind"), on_levels("v_component_of_wind"))
            elif name in LEVEL_VARIABLES:
                values = self.regrid(on_levels(name))
            elif name == "mean_sea_level_pressure":
                surface_geopotential = self._orography() * GRAVITY
                values = self.regrid(
                    reduce_to_sea_level(
                        surface_pressure, native["temperature"].values[:, np.argmax(sigma)], surface_geopotential
                    )
                )
            elif name == "surface_pressure":
                values = self.regrid(surface_pressure)
            else:
                values = self.regrid(native["temperature"].values[:, np.argmax(sigma)])
            dims = ("time", "level", "latitude", "longitude") if name in LEVEL_VARIABLES else ("time", "latitude", "longitude")
            units = LEVEL_VARIABLES[name][1] if name in LEVEL_VARIABLES else SURFACE_VARIABLES[name]
            values = np.clip(values, *physical_bounds(name))  # sums of waves undershoot where the air is dry
            out[name] = (dims, values.astype("float32"), {"units": units})
        return out


def _go_on(model: Any, checkpoint: Path) -> None:
    """Take up a simulation where its checkpoint left it.

    Raises
    ------
    StoreError
        If the checkpoint is of a simulation with another start.
    """
    from jcm.checkpoint import load_checkpoint

    model.bootstrap_state()
    try:
        load_checkpoint(model, checkpoint)
    except ValueError as error:  # jcm compares start and step
        raise StoreError(
            f"{checkpoint} is of a simulation with another start ({error}). The start of later runs follows from months, runs "
            "and spin_up_days: give those that made it, or another simulated_folder."
        ) from error


def compose_foreign(module: str, name: str, overrides: list[str]) -> Any:
    """Compose another package's Hydra configuration, also where an entry point of ours has composed its own already."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_module(module, version_base=None):
        return compose(name, overrides=overrides)


class _SpectralRegrid:
    """Evaluate a spectral model's fields on a regular grid with poles: exact for band-limited fields."""

    def __init__(self, native: Any, latitudes: int, longitudes: int) -> None:
        from dinosaur import spherical_harmonic

        self.native = native
        self.target = spherical_harmonic.Grid(
            longitude_wavenumbers=native.longitude_wavenumbers,
            total_wavenumbers=native.total_wavenumbers,
            longitude_nodes=longitudes,
            latitude_nodes=latitudes,
            latitude_spacing="equiangular_with_poles",
            radius=native.radius,
        )
        self.latitude = np.linspace(90.0, -90.0, latitudes)
        self.longitude = np.arange(longitudes) * (360.0 / longitudes)

    def __call__(self, field: NDArray[np.floating]) -> NDArray[np.floating]:
        """(..., latitude, longitude) on the native grid -> on the regular grid, north first."""
        return self._to_regular(self.native.to_modal(_lon_first(field)))

    def vorticity(self, u: NDArray[np.floating], v: NDArray[np.floating]) -> NDArray[np.floating]:
        from dinosaur import spherical_harmonic

        earth_radius = 6.371e6  # m; jcm's grid is non-dimensional
        vorticity, _ = spherical_harmonic.uv_nodal_to_vor_div_modal(self.native, _lon_first(u), _lon_first(v))
        return self._to_regular(vorticity) * (self.native.radius / earth_radius)

    def _to_regular(self, modal: Any) -> NDArray[np.floating]:
        return np.asarray(np.swapaxes(np.asarray(self.target.to_nodal(modal)), -1, -2)[..., ::-1, :])


def _lon_first(field: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.ascontiguousarray(np.swapaxes(field, -1, -2), dtype="float32")


def interpolate_in_log_pressure(
    columns: NDArray[np.floating], sigma: NDArray[np.floating], surface_pressure: NDArray[np.floating], pressure: float
) -> NDArray[np.floating]:
    """Interpolate (time, sigma, lat, lon) columns to one pressure [Pa], linear in log pressure.

    Outside the model's levels the nearest level's value is taken.
    """
    log_p = np.log(sigma[None, :, None, None] * surface_pressure[:, None])
    above = np.clip((log_p < np.log(pressure)).sum(axis=1), 1, columns.shape[1] - 1)[:, None]
    if sigma[0] > sigma[-1]:
        raise ValueError("sigma must increase (from the top down); got it decreasing.")
    low, high = np.take_along_axis(log_p, above - 1, 1), np.take_along_axis(log_p, above, 1)
    weight = np.clip((np.log(pressure) - low) / (high - low), 0.0, 1.0)
    value = (1.0 - weight) * np.take_along_axis(columns, above - 1, 1) + weight * np.take_along_axis(columns, above, 1)
    return value[:, 0]


def reduce_to_sea_level(
    surface_pressure: NDArray[np.floating], air_temperature: NDArray[np.floating], surface_geopotential: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Mean sea level pressure [Pa] by the hypsometric equation with the standard lapse rate below ground.

    `air_temperature` [K] is the lowest model level's.
    """
    height = surface_geopotential / GRAVITY
    mean_temperature = air_temperature + 0.5 * LAPSE_RATE * height
    return surface_pressure * np.exp(GRAVITY * height / (DRY_AIR_GAS_CONSTANT * mean_temperature))
