"""Waves that others computed: one series of fields on a mesh, from VTU, XDMF or Exodus files, through meshio.

What a file says of a time step is read when it is asked for. Triangles are taken as they are; quadrilaterals are cut in two;
of elements of higher order the corners are used, between which values are linear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.errors import first_line
from data_pipelines.finite_elements.errors import FiniteElementError, need
from data_pipelines.finite_elements.meshes import signed_areas

if TYPE_CHECKING:
    import meshio

SUFFIXES = {".xdmf": "xdmf", ".xmf": "xdmf", ".e": "exodus", ".ex2": "exodus", ".exo": "exodus", ".exii": "exodus"}
SERIES = (".pvd", ".vtu")  # a collection, or a folder of numbered files
Fields = dict[str, np.ndarray]


@dataclass(frozen=True)
class MeshSeries:
    """Fields on one mesh at rising times.

    Attributes
    ----------
    path
        Where it was read, for messages.
    points
        Nodes (x, y) [m].
    triangles
        Corners of the triangles, counter-clockwise, and for each the cell of the file that it was.
    times
        [s]; None where the files do not say.
    point_data, cell_data
        Read the fields of a step by name: one value per node, or per cell of the file.
    steps
        How many there are.
    """

    path: Path
    points: Float[np.ndarray, "2 node"]
    triangles: Int[np.ndarray, "3 triangle"]
    cell: Int[np.ndarray, " triangle"]
    times: np.ndarray | None
    point_data: Callable[[int], Fields]
    cell_data: Callable[[int], Fields]
    steps: int


def is_mesh_result(path: str | Path) -> bool:
    """Whether a path names results on a mesh, by its suffix; a folder by what is in it."""
    path = Path(path)
    if path.is_dir():
        return any(path.glob("*.vtu"))
    return path.suffix.lower() in SUFFIXES or path.suffix.lower() in SERIES


def open_mesh_series(path: str | Path) -> MeshSeries:
    """Open a series: an XDMF time series, an Exodus file, a ParaView collection (.pvd) or a folder of VTU files.

    Raises
    ------
    FiniteElementError
        If it cannot be read, the mesh is not plane or has no triangles, or meshes of a series differ.
    ImportError
        If meshio, or what it needs to read the file, is missing.
    """
    path = Path(path)
    try:
        import meshio  # noqa: F401
    except ImportError as error:
        raise ImportError(need("meshio", "waves")) from error
    kind = SUFFIXES.get(path.suffix.lower(), "vtu")
    if not path.exists():
        raise FiniteElementError(f"{path} does not exist. Give an XDMF, Exodus or PVD file, or a folder of VTU files.")
    try:
        return {"xdmf": _open_xdmf, "exodus": _open_exodus, "vtu": _open_vtu}[kind](path)
    except (FiniteElementError, ImportError):
        raise
    except (Exception, SystemExit) as error:  # meshio raises classes of its own, and ends the process on some files
        raise FiniteElementError(
            f"{path} cannot be read ({first_line(error)}). Write it again with meshio or ParaView."
        ) from error


def _open_xdmf(path: Path) -> MeshSeries:
    import meshio

    with meshio.xdmf.TimeSeriesReader(path) as reader:
        points, cells = reader.read_points_cells()
        times = np.array([reader.read_data(step)[0] for step in range(reader.num_steps)], dtype=np.float64)

    def read(step: int) -> tuple[Fields, Fields]:
        with meshio.xdmf.TimeSeriesReader(path) as reader:
            reader.read_points_cells()
            _, of_points, of_cells = reader.read_data(step)
        return of_points, {name: np.concatenate([np.asarray(block) for block in data]) for name, data in of_cells.items()}

    return _series(path, points, cells, times, lambda step: read(step)[0], lambda step: read(step)[1], len(times))


def _open_exodus(path: Path) -> MeshSeries:
    """Mesh and names through meshio; the steps from the file itself, since meshio reads the first one alone."""
    import warnings

    import meshio
    import netCDF4

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mesh = meshio.read(path, file_format="exodus")
    with netCDF4.Dataset(path) as file:
        times = np.asarray(file["time_whole"][:], dtype=np.float64)
        named = {f"name_{kind}_var": _names(file, f"name_{kind}_var") for kind in ("nod", "elem")}
        blocks = len([key for key in file.variables if re.fullmatch(r"connect\d+", key)])

    def of_points(step: int) -> Fields:
        with netCDF4.Dataset(path) as file:
            keys = {name: _numbered(file, "vals_nod_var", place) for place, name in enumerate(named["name_nod_var"], 1)}
            return {name: np.asarray(file[key][step]) for name, key in keys.items()}

    def of_cells(step: int) -> Fields:
        with netCDF4.Dataset(path) as file:
            found = {}
            for place, name in enumerate(named["name_elem_var"], 1):
                keys = [f"vals_elem_var{place}eb{block}" for block in range(1, blocks + 1)]
                found[name] = np.concatenate([np.asarray(file[key][step]) for key in keys])
            return found

    return _series(path, mesh.points, mesh.cells, times, of_points, of_cells, len(times))


def _names(file: Any, key: str) -> list[str]:
    if key not in file.variables:
        return []
    file[key].set_auto_mask(False)
    return [b"".join(row).decode().strip("\x00 ") for row in file[key][:]]


def _numbered(file: Any, key: str, place: int) -> str:
    return f"{key}{place}" if f"{key}{place}" in file.variables else key  # some writers leave the number of a single one out


def _open_vtu(path: Path) -> MeshSeries:
    import meshio

    files, times = _vtu_files(path)
    first = meshio.read(files[0])

    def mesh_of(step: int) -> meshio.Mesh:
        mesh = meshio.read(files[step])
        if mesh.points.shape != first.points.shape or not np.array_equal(mesh.points, first.points):
            raise FiniteElementError(f"{files[step]} has another mesh than {files[0].name}. Give each simulation a folder.")
        return mesh

    def of_cells(step: int) -> Fields:
        return {name: np.concatenate(blocks) for name, blocks in mesh_of(step).cell_data.items()}

    return _series(path, first.points, first.cells, times, lambda step: mesh_of(step).point_data, of_cells, len(files))


def _vtu_files(path: Path) -> tuple[list[Path], np.ndarray | None]:
    """Files of a series in order of time, and the times where a collection says them."""
    if path.is_dir():
        numbered = sorted(path.glob("*.vtu"), key=lambda file: [int(part) for part in re.findall(r"\d+", file.stem)])
        return numbered, None
    if path.suffix.lower() == ".vtu":
        return [path], None
    entries = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<DataSet\b[^>]*>", path.read_text())]
    if not entries or any("file" not in entry or "timestep" not in entry for entry in entries):
        raise FiniteElementError(f"{path} names no files with their time steps. Give a folder of VTU files instead.")
    entries.sort(key=lambda entry: float(entry["timestep"]))
    folder = path.parent.resolve()
    outside = [entry["file"] for entry in entries if not (folder / entry["file"]).resolve().is_relative_to(folder)]
    if outside:
        raise FiniteElementError(f"{path} names {outside[0]}, which is not below its own folder. Move the files together.")
    return [path.parent / entry["file"] for entry in entries], np.array([float(entry["timestep"]) for entry in entries])


def _series(
    path: Path,
    points: np.ndarray,
    cells: Sequence[Any],
    times: np.ndarray | None,
    of_points: Callable[[int], Fields],
    of_cells: Callable[[int], Fields],
    steps: int,
) -> MeshSeries:
    points = np.asarray(points, dtype=np.float64)
    if points.shape[1] > 2 and np.ptp(points[:, 2:]) > 1e-9 * max(1e-300, np.ptp(points[:, :2])):
        raise FiniteElementError(f"{path} is a mesh in space; waves here are plane. Cut it with a plane first.")
    triangles: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    count = 0
    for block in cells:
        corners = np.asarray(block.data)
        own = np.arange(count, count + len(corners))
        count += len(corners)
        if block.type.startswith("triangle"):
            triangles, owners = [*triangles, corners[:, :3]], [*owners, own]
        elif block.type.startswith("quad"):
            triangles, owners = [*triangles, corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]], [*owners, own, own]
    if not triangles:
        kinds = sorted({block.type for block in cells})
        raise FiniteElementError(f"{path} has no triangles or quadrilaterals, only {kinds}. Give results on a plane mesh.")
    plane, corners = points[:, :2].T.copy(), np.concatenate(triangles).T.copy()
    turned = signed_areas(plane, corners) < 0  # some codes sort the corners of a triangle by number
    corners[1:, turned] = corners[2:0:-1, turned]
    return MeshSeries(path, plane, corners, np.concatenate(owners), times, of_points, of_cells, steps)
