"""Waves by finite elements: draw a simulation, solve it, sample it on a regular grid.

One sample is one call of `simulate`; `data_pipelines.wave_ensemble` spreads many of them over processes into a wave
store. What is drawn, and how, is in `data_pipelines.finite_elements.draws`; the mathematics in
`data_pipelines.finite_elements.wave_equation` and `time_stepping`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from data_pipelines.contracts import WAVE_VARIABLES
from data_pipelines.finite_elements import meshes
from data_pipelines.finite_elements.draws import Draw, draw
from data_pipelines.finite_elements.errors import FiniteElementError
from data_pipelines.finite_elements.sampling import GridSampling, sample_on_grid
from data_pipelines.finite_elements.time_stepping import (
    SAFETY,
    SCHEMES,
    CentralDifferences,
    Drive,
    Newmark,
    Stepper,
    frames,
    stable_step,
    steps_per_frame,
)
from data_pipelines.finite_elements.wave_equation import EDGES, WaveProblem, assemble, outer_edges

MESHERS = ("structured", "gmsh")
DTYPES = ("float64", "float32")


@dataclass
class WaveConfig:
    """What to simulate; distributions are in `data_pipelines.finite_elements.draws`. Lengths in m, times in s.

    The rectangle `width` x `height` is recorded at `columns` x `rows` cell centres, `frames` times, `frame_seconds` apart.
    `cells` of the mesh go along the width (with gmsh: edges of width / cells). `time_step` null: the longest that the
    explicit scheme takes and that divides `frame_seconds`; of Newmark it is that same step unless given.
    """

    samples: int = 64
    seed: int = 0
    width: float = 1.0
    height: float = 1.0
    columns: int = 64
    rows: int = 64
    frames: int = 61
    frame_seconds: float = 0.02
    # solver
    mesher: str = "structured"
    cells: int = 128
    degree: int = 1
    scheme: str = "central_differences"
    time_step: float | None = None
    safety: float = SAFETY
    dtype: str = "float64"
    # medium
    speed: list[float] = field(default_factory=lambda: [0.8, 1.2])
    variation: list[float] = field(default_factory=lambda: [0.0, 0.2])
    variation_length: float = 0.5
    inclusions: list[int] = field(default_factory=lambda: [0, 2])
    inclusion_speed: list[float] = field(default_factory=lambda: [0.5, 2.0])
    holes: list[int] = field(default_factory=lambda: [0, 2])
    radius: list[float] = field(default_factory=lambda: [0.05, 0.12])
    outer: list[str] = field(default_factory=lambda: ["absorbing"])
    hole_edges: list[str] = field(default_factory=lambda: ["neumann"])
    # excitation
    bumps: list[int] = field(default_factory=lambda: [1, 3])
    bump_width: list[float] = field(default_factory=lambda: [0.04, 0.08])
    pulses: list[int] = field(default_factory=lambda: [0, 1])
    pulse_width: list[float] = field(default_factory=lambda: [0.06, 0.12])

    def __post_init__(self) -> None:
        self._check_counts()
        for name, choices in (("mesher", MESHERS), ("scheme", SCHEMES), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise FiniteElementError(f"waves.{name} must be one of {choices}; got {getattr(self, name)!r}.")
        if self.degree not in (1, 2):
            raise FiniteElementError(f"waves.degree must be 1 or 2; got {self.degree}.")
        if not 0 < self.safety < 1:
            raise FiniteElementError(f"waves.safety must lie in (0, 1); got {self.safety}.")
        for name in ("outer", "hole_edges"):
            if not getattr(self, name) or set(getattr(self, name)) - set(EDGES):
                raise FiniteElementError(f"waves.{name} must be some of {EDGES}; got {getattr(self, name)}.")
        self._check_ranges()
        if self.pulses[1] and "dirichlet" in self.outer:
            raise FiniteElementError(
                "waves.pulses drive an edge by a traction, which a dirichlet edge does not feel. Set waves.pulses=[0,0], or "
                "leave dirichlet out of waves.outer."
            )
        if self.bumps[0] + self.pulses[0] < 1:
            raise FiniteElementError("waves.bumps and waves.pulses may both be 0: such a sample would stay at rest. Raise one.")

    def _check_counts(self) -> None:
        least = {"samples": 1, "seed": 0, "columns": 2, "rows": 2, "frames": 2, "cells": 2}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise FiniteElementError(f"waves.{name} must be at least {lowest}; got {getattr(self, name)}.")
        for name in ("width", "height", "frame_seconds", "variation_length", "time_step"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise FiniteElementError(f"waves.{name} must be positive; got {value}.")

    def _check_ranges(self) -> None:
        positive = ("speed", "inclusion_speed", "radius", "bump_width", "pulse_width")
        for name in (*positive, "variation", "inclusions", "holes", "bumps", "pulses"):
            values = getattr(self, name)
            lowest = 1e-12 if name in positive else 0
            if len(values) != 2 or not lowest <= values[0] <= values[1]:
                what = "positive" if name in positive else "not negative"
                raise FiniteElementError(f"waves.{name} must be two numbers [least, most], {what}; got {values}.")

    @property
    def y(self) -> np.ndarray:
        """Rows of the record [m]: centres of cells."""
        return (np.arange(self.rows) + 0.5) * (self.height / self.rows)

    @property
    def x(self) -> np.ndarray:
        """Columns of the record [m]: centres of cells."""
        return (np.arange(self.columns) + 0.5) * (self.width / self.columns)

    @property
    def time(self) -> np.ndarray:
        """Times of the record [s]."""
        return np.arange(self.frames) * self.frame_seconds


@dataclass
class Prepared:
    """A simulation that is ready to march: what was drawn, assembled and measured of it."""

    draw: Draw
    problem: WaveProblem
    sampling: GridSampling
    stepper: Stepper
    steps_per_frame: int


def simulate(config: WaveConfig, sample: int) -> tuple[xr.Dataset, dict[str, float]]:
    """Simulate one sample.

    Returns
    -------
    Dataset in the wave store's contract with this one sample, and what was measured of it: `time_step` [s], `steps` (in
    the record), `unknowns`, `energy_start` and `energy_end` [m4 s-2], `prepare_seconds` (mesh, assembly, step, sampling
    matrix) and `solve_seconds` (marching and sampling).

    Raises
    ------
    FiniteElementError
        If the sample cannot be drawn, meshed or solved with these settings.
    """
    began = time.perf_counter()
    ready = prepare(config, sample)
    prepared = time.perf_counter()
    energy = ready.stepper.energy()
    fields = record(ready, config.frames)
    solved = time.perf_counter()
    measured = {
        "time_step": ready.stepper.step,
        "steps": float(ready.steps_per_frame * (config.frames - 1)),
        "unknowns": float(ready.problem.mass.size),
        "energy_start": energy,
        "energy_end": ready.stepper.energy(),
        "prepare_seconds": prepared - began,
        "solve_seconds": solved - prepared,
    }
    return as_sample(config, sample, ready, fields), measured


def prepare(config: WaveConfig, sample: int) -> Prepared:
    """Draw, mesh and assemble a sample, and march to the start of its record. Errors: see `simulate`."""
    drawn = draw(config, sample)
    mesh = make_mesh(config, drawn)
    problem = assemble(mesh, config.degree, drawn.speed, drawn.outer, drawn.hole_edge)
    sampling = sample_on_grid(problem.basis, config.y, config.x, outside=_in_holes(config, drawn))
    limit = stable_step(problem, config.safety)
    steps = steps_per_frame(config.frame_seconds, config.time_step or limit)
    dt = config.frame_seconds / steps
    start = problem.interpolate(drawn.displacement), problem.interpolate(drawn.velocity)
    drive = _drive(problem, drawn)
    stepper: Stepper
    if config.scheme == "newmark":
        stepper = Newmark(problem, *start, dt, drive=drive)
    else:
        stepper = CentralDifferences(problem, *start, dt, drive=drive, dtype=np.dtype(config.dtype), limit=limit)
    stepper.advance(int(np.ceil(drawn.quiet_from / dt)))
    return Prepared(drawn, problem, sampling, stepper, steps)


def make_mesh(config: WaveConfig, drawn: Draw) -> Any:
    """The mesh of a sample."""
    if config.mesher == "gmsh":
        inclusions = [ellipse for ellipse, _ in drawn.inclusions]
        return meshes.gmsh_mesh(config.width, config.height, config.width / config.cells, drawn.holes, inclusions)
    cells = (config.cells, max(1, round(config.cells * config.height / config.width)))
    return meshes.structured_mesh(config.width, config.height, cells, drawn.holes)


def record(ready: Prepared, count: int) -> np.ndarray:
    """Displacement and velocity on the grid, (2, frame, y, x), float32."""
    out = np.empty((2, count, *ready.sampling.mask.shape), dtype=np.float32)
    for frame, state in enumerate(frames(ready.stepper, count, ready.steps_per_frame)):
        for slot, values in enumerate(state):
            out[slot, frame] = ready.sampling(values)
    return out


def as_sample(config: WaveConfig, sample: int, ready: Prepared, fields: np.ndarray) -> xr.Dataset:
    """Put one sample in the wave store's contract."""
    points = np.stack(np.broadcast_arrays(config.x[None, :], config.y[:, None]))
    speed = np.where(ready.sampling.mask, ready.draw.speed(points), 0.0)
    static = {"wave_speed": speed, "mask": ready.sampling.mask}
    moving = {"displacement": fields[0], "velocity": fields[1]}
    template = wave_template(config)
    values = {name: (template[name].dims, array[None].astype(np.float32)) for name, array in {**moving, **static}.items()}
    out = xr.Dataset(values, template.isel(sample=[0]).coords).assign_coords(sample=[sample])
    for name, known in WAVE_VARIABLES.items():
        out[name].attrs["units"] = known.units
    return out


def wave_template(config: WaveConfig) -> xr.Dataset:
    """All samples, lazily: coordinates, dimensions and units, and no values."""
    from dask import array as lazy

    coordinates = {"sample": np.arange(config.samples), "time": config.time, "y": config.y, "x": config.x}
    fields = {}
    for name, known in WAVE_VARIABLES.items():
        dims = tuple(dim for dim in coordinates if known.in_time or dim != "time")
        shape = tuple(coordinates[dim].size for dim in dims)
        fields[name] = (dims, lazy.zeros(shape, dtype=np.float32, chunks=(1, *shape[1:])), {"units": known.units})
    return xr.Dataset(fields, coordinates)


def _in_holes(config: WaveConfig, drawn: Draw) -> np.ndarray:
    """Grid points that the mesh need not cover: in a hole, or so near that its polygon may cut them off."""
    points = np.stack(np.broadcast_arrays(config.x[None, :], config.y[:, None]))
    cell = config.width / config.cells
    inside = [hole.distance(points) < cell for hole in drawn.holes]
    return np.any(inside, axis=0) if inside else np.zeros(points.shape[1:], dtype=bool)


def _drive(problem: WaveProblem, drawn: Draw) -> Drive | None:
    """The pulses at the edge as one force. Pulses of different timing are summed by their own signals."""
    if not drawn.pulses:
        return None
    mesh = problem.basis.mesh
    edges = outer_edges(mesh)
    middle = mesh.p[:, mesh.facets[:, edges]].mean(axis=1)
    low, high = mesh.p.min(axis=1), mesh.p.max(axis=1)
    on = {
        "left": np.isclose(middle[0], low[0]),
        "right": np.isclose(middle[0], high[0]),
        "bottom": np.isclose(middle[1], low[1]),
        "top": np.isclose(middle[1], high[1]),
    }
    loads = np.stack([problem.edge_load(edges[on[pulse.side]], pulse.profile) for pulse in drawn.pulses])
    return Drive(loads, lambda t: np.array([pulse.signal(t) for pulse in drawn.pulses]), drawn.quiet_from)
