"""Results on a mesh, computed by any finite-element code, into the wave store: one series of files is one sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from data_pipelines.contracts import WAVE_VARIABLES
from data_pipelines.finite_elements.errors import FiniteElementError
from data_pipelines.finite_elements.mesh_results import Fields, MeshSeries, open_mesh_series
from data_pipelines.finite_elements.meshes import triangle_mesh
from data_pipelines.finite_elements.sampling import GridSampling, sample_on_grid
from data_pipelines.finite_elements.wave_equation import element_of


@dataclass
class MeshResultsConfig:
    """How to read results on a mesh. Lengths in m, times in s; a file in other units must be converted first.

    Parameters
    ----------
    displacement, velocity, wave_speed
        Names of fields in the files. Displacement is given at nodes. Without velocity it is the change of displacement in time
        (central differences, second order; one-sided and second order at the ends). The wave speed is given at nodes or
        cells, of the first step; empty: the number `speed` everywhere.
    speed
        [m s-1], where `wave_speed` names no field.
    columns, rows
        Of the regular grid: centres of equal cells over the mesh's bounding box.
    frame_seconds
        Time between two steps, for files that do not say it; null: theirs.
    """

    displacement: str = "displacement"
    velocity: str = ""
    wave_speed: str = ""
    speed: float = 1.0
    columns: int = 64
    rows: int = 64
    frame_seconds: float | None = None

    def __post_init__(self) -> None:
        if min(self.columns, self.rows) < 2:
            raise FiniteElementError(f"results.columns and results.rows must be at least 2; got {self.columns}, {self.rows}.")
        if not self.speed > 0:
            raise FiniteElementError(f"results.speed must be positive; got {self.speed}.")
        if self.frame_seconds is not None and not self.frame_seconds > 0:
            raise FiniteElementError(f"results.frame_seconds must be positive; got {self.frame_seconds}.")


@dataclass(frozen=True)
class ResultsEnsemble:
    """Series of files as samples of one wave store, in the order given."""

    paths: tuple[str, ...]
    config: MeshResultsConfig

    def template(self) -> xr.Dataset:
        """All samples, lazily: grid and times of the first."""
        from dask import array as lazy

        first = open_mesh_series(self.paths[0])
        y, x = _grid(first, self.config)
        coordinates = {"sample": np.arange(len(self.paths)), "time": _times(first, self.config), "y": y, "x": x}
        fields = {}
        for name, known in WAVE_VARIABLES.items():
            dims = tuple(dim for dim in coordinates if known.in_time or dim != "time")
            shape = tuple(coordinates[dim].size for dim in dims)
            fields[name] = (dims, lazy.zeros(shape, dtype=np.float32, chunks=(1, *shape[1:])), {"units": known.units})
        return xr.Dataset(fields, coordinates)

    def __call__(self, sample: int) -> tuple[xr.Dataset, dict[str, float]]:
        """Read one sample, in the wave store's contract; measured is how long it took. Errors: see `read_mesh_result`."""
        began = time.perf_counter()
        data = read_mesh_result(self.paths[sample], self.config).expand_dims(sample=[sample])
        first = self.template()
        for name in ("time", "y", "x"):
            if data[name].shape != first[name].shape or not np.allclose(data[name], first[name], rtol=1e-9, atol=1e-12):
                raise FiniteElementError(
                    f"{self.paths[sample]} has another {name} than {self.paths[0]}; the samples of a store share grid and "
                    "times. Give each kind a store of its own."
                )
        return data.assign_coords({name: first[name] for name in ("time", "y", "x")}), {
            "prepare_seconds": time.perf_counter() - began
        }


def read_mesh_result(path: str | Path, config: MeshResultsConfig) -> xr.Dataset:
    """Read one series of files onto a regular grid.

    Returns
    -------
    `displacement` and `velocity` (time, y, x), `wave_speed` and `mask` (y, x), float32, 0 outside the mesh.

    Raises
    ------
    FiniteElementError
        If a field is missing or not one number per node, steps are not even, or the mesh cannot be used.
    ImportError
        If meshio or scikit-fem is missing.
    """
    series = open_mesh_series(path)
    seconds = _times(series, config)
    y, x = _grid(series, config)
    used, sampling = _sampling(series, y, x)

    def sampled(name: str) -> np.ndarray:
        return np.stack([sampling(_field(series, series.point_data(step), name)[used]) for step in range(series.steps)])

    displacement = sampled(config.displacement)
    if config.velocity:
        velocity = sampled(config.velocity)
    else:
        velocity = np.gradient(displacement, seconds, axis=0, edge_order=2 if series.steps > 2 else 1)
    speed = np.where(sampling.mask, _speed(series, config, used, sampling, y, x), 0.0)
    moving = {"displacement": displacement, "velocity": velocity}
    static = {"wave_speed": speed, "mask": sampling.mask}
    dims = ("time", "y", "x")
    fields = {name: (dims[-values.ndim :], values.astype(np.float32)) for name, values in (moving | static).items()}
    out = xr.Dataset(fields, {"time": seconds, "y": y, "x": x})
    for name, known in WAVE_VARIABLES.items():
        out[name].attrs["units"] = known.units
    return out


def _times(series: MeshSeries, config: MeshResultsConfig) -> np.ndarray:
    if series.steps < 2:
        raise FiniteElementError(f"{series.path} has {series.steps} step; waves need at least 2. Give the whole series.")
    if config.frame_seconds is not None:
        return np.arange(series.steps) * config.frame_seconds
    if series.times is None:
        raise FiniteElementError(f"{series.path} does not say its times. Set results.frame_seconds, or give a .pvd collection.")
    steps = np.diff(series.times)
    if not np.allclose(steps, steps.mean(), rtol=1e-6, atol=0) or steps.mean() <= 0:
        raise FiniteElementError(f"{series.path} has steps of {steps.min():g} to {steps.max():g} s; a store needs equal ones.")
    return np.arange(series.steps) * float(steps.mean())


def _grid(series: MeshSeries, config: MeshResultsConfig) -> tuple[np.ndarray, np.ndarray]:
    """Centres of equal cells over the bounding box of the mesh."""
    axes = []
    for values, count in ((series.points[1], config.rows), (series.points[0], config.columns)):
        low, high = values.min(), values.max()
        axes.append(low + (np.arange(count) + 0.5) * ((high - low) / count))
    return axes[0], axes[1]


def _sampling(series: MeshSeries, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, GridSampling]:
    import skfem

    basis = skfem.Basis(triangle_mesh(series.points, series.triangles), element_of(1))
    return np.unique(series.triangles), sample_on_grid(basis, y, x)


def _field(series: MeshSeries, fields: Fields, name: str) -> np.ndarray:
    if name not in fields:
        raise FiniteElementError(
            f"{series.path} has no field {name} at its nodes; it has {sorted(fields)}. Set results.displacement or velocity."
        )
    values = np.squeeze(np.asarray(fields[name], dtype=np.float64))
    if values.shape != (series.points.shape[1],):
        raise FiniteElementError(f"{name} of {series.path} must be one number per node; it has the shape {values.shape}.")
    return values


def _speed(
    series: MeshSeries, config: MeshResultsConfig, used: np.ndarray, sampling: GridSampling, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
    if not config.wave_speed:
        return np.full(sampling.mask.shape, config.speed)
    at_nodes = series.point_data(0)
    if config.wave_speed in at_nodes:
        return sampling(_field(series, at_nodes, config.wave_speed)[used])
    of_cells = series.cell_data(0)
    if config.wave_speed not in of_cells:
        raise FiniteElementError(
            f"{series.path} has no field {config.wave_speed} at nodes ({sorted(at_nodes)}) or cells ({sorted(of_cells)}). Set "
            "results.wave_speed=..., or results.speed=NUMBER."
        )
    from data_pipelines.finite_elements.sampling import locate

    triangle, _ = locate(triangle_mesh(series.points, series.triangles), y, x)
    values = np.asarray(of_cells[config.wave_speed], dtype=np.float64).squeeze()
    return np.where(triangle >= 0, values[series.cell[triangle]], 0.0)


def ensemble_of(paths: Sequence[str | Path], config: MeshResultsConfig) -> ResultsEnsemble:
    """Samples in the order of their paths."""
    return ResultsEnsemble(tuple(str(path) for path in paths), config)
