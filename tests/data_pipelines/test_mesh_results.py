"""Results on meshes that meshio wrote, read into wave stores: right values, right times, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import meshio
import netCDF4
import numpy as np
import pytest
from rich.console import Console

from data_pipelines.build_store import BuildStoreConfig, build
from data_pipelines.finite_elements.errors import FiniteElementError, InvertedElementError
from data_pipelines.finite_elements.mesh_results import is_mesh_result, open_mesh_series
from data_pipelines.finite_elements.meshes import structured_mesh
from data_pipelines.finite_elements.shapes import Ellipse
from data_pipelines.sources.mesh_results import MeshResultsConfig, read_mesh_result
from data_pipelines.standardise import SourceError
from data_pipelines.store import open_waves
from data_pipelines.wave_ensemble import build_wave_store_of_results

TIMES = [0.0, 0.25, 0.5, 0.75]
HOLE = Ellipse(0.9, 0.5, 0.25, 0.2, 0.3)


def mesh_2m(hole: bool = False, kind: str = "triangle") -> tuple[np.ndarray, list]:
    """Nodes in space and cells of a rectangle of 2 x 1 m, whose first node nothing uses."""
    mesh = structured_mesh(2.0, 1.0, (16, 8), [HOLE] if hole else [])
    points = np.vstack([[[9.0, 9.0, 0.0]], np.column_stack([mesh.p.T, np.zeros(mesh.p.shape[1])])])
    points[0] = points[1]
    if kind == "triangle":
        return points, [("triangle", mesh.t.T + 1)]
    columns = 17
    corner = np.array([row * columns + column for row in range(8) for column in range(16)])
    order = np.lexsort((points[1:, 0].round(6), points[1:, 1].round(6)))
    squares = order[np.stack([corner, corner + 1, corner + columns + 1, corner + columns], axis=1)] + 1
    return points, [("quad", squares)]


def field(points: np.ndarray, time: float) -> np.ndarray:
    """Linear in space, so that P1 elements hold it exactly, and quadratic in time, so that second-order differences do."""
    return 1 + 2 * points[:, 0] - 3 * points[:, 1] + (0.5 + points[:, 0]) * time**2


def rate(points: np.ndarray, time: float) -> np.ndarray:
    return 2 * (0.5 + points[:, 0]) * time


def speed(points: np.ndarray) -> np.ndarray:
    return 1.5 + points[:, 1]


def point_data(points: np.ndarray, time: float) -> dict:
    return {"u": field(points, time), "v": rate(points, time), "c": speed(points)}


def cell_data(cells: list) -> dict:
    return {"material": [np.where(np.arange(len(block)) % 2 == 0, 2.0, 3.0) for _, block in cells]}


def write_xdmf(folder: Path, points: np.ndarray, cells: list, form: str = "XML") -> Path:
    path = folder / "waves.xdmf"
    with meshio.xdmf.TimeSeriesWriter(path, data_format=form) as writer:
        writer.write_points_cells(points, cells)
        for time in TIMES:
            writer.write_data(time, point_data=point_data(points, time), cell_data=cell_data(cells))
    return path


def write_vtu(folder: Path, points: np.ndarray, cells: list) -> Path:
    target = folder / "frames"
    target.mkdir()
    for step, time in enumerate(TIMES):  # 8, 9, 10, 11: in order of number, not of name
        mesh = meshio.Mesh(points, cells, point_data=point_data(points, time), cell_data=cell_data(cells))
        mesh.write(target / f"frame_{step + 8}.vtu")
    return target


def write_pvd(folder: Path, points: np.ndarray, cells: list) -> Path:
    frames = write_vtu(folder, points, cells)
    entries = [
        f'<DataSet timestep="{time}" part="0" file="{frames.name}/frame_{step + 8}.vtu"/>' for step, time in enumerate(TIMES)
    ]
    path = folder / "waves.pvd"
    path.write_text(f'<VTKFile type="Collection"><Collection>{"".join(reversed(entries))}</Collection></VTKFile>')
    return path


def write_exodus(folder: Path, points: np.ndarray, cells: list) -> Path:
    """meshio writes the first step; further ones go into the same variables."""
    path = folder / "waves.e"
    meshio.Mesh(points, cells, point_data=point_data(points, TIMES[0])).write(path)
    with netCDF4.Dataset(path, "a") as file:
        for step, time in enumerate(TIMES):
            file["time_whole"][step] = time
            for place, values in enumerate(point_data(points, time).values(), 1):
                file[f"vals_nod_var{place}"][step] = values
    return path


WRITERS = {"xdmf": write_xdmf, "vtu": write_vtu, "pvd": write_pvd, "exodus": write_exodus}


def config_for(kind: str, **settings) -> MeshResultsConfig:
    values = {"displacement": "u", "columns": 20, "rows": 9, "wave_speed": "c"} | settings
    return MeshResultsConfig(**values, frame_seconds=0.25 if kind == "vtu" else None)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("given", ["v", ""], ids=["velocity from the file", "velocity from displacement"])
def test_linear_fields_are_read_exactly(kind: str, given: str, tmp_path: Path) -> None:
    """P1 elements and central differences are exact on this field; float32 leaves 1e-6 of its largest value."""
    path = WRITERS[kind](tmp_path, *mesh_2m())
    data = read_mesh_result(path, config_for(kind, velocity=given))
    np.testing.assert_allclose(data["x"], (np.arange(20) + 0.5) * 0.1)
    np.testing.assert_allclose(data["y"], (np.arange(9) + 0.5) / 9)
    np.testing.assert_allclose(data["time"], TIMES)
    grid = np.stack([one.ravel() for one in np.meshgrid(data["x"], data["y"])], axis=1)
    for step, time in enumerate(TIMES):
        np.testing.assert_allclose(data["displacement"][step].values.ravel(), field(grid, time), atol=1e-5)
        np.testing.assert_allclose(data["velocity"][step].values.ravel(), rate(grid, time), atol=1e-5)
    np.testing.assert_allclose(data["wave_speed"].values.ravel(), speed(grid), atol=1e-6)
    assert (data["mask"] == 1).all()


def test_quadrilaterals_are_cut_in_two(tmp_path: Path) -> None:
    data = read_mesh_result(write_xdmf(tmp_path, *mesh_2m(kind="quad")), config_for("xdmf"))
    grid = np.stack([one.ravel() for one in np.meshgrid(data["x"], data["y"])], axis=1)
    np.testing.assert_allclose(data["displacement"][3].values.ravel(), field(grid, TIMES[3]), atol=1e-5)
    assert (data["mask"] == 1).all()


def test_holes_are_masked(tmp_path: Path) -> None:
    data = read_mesh_result(write_xdmf(tmp_path, *mesh_2m(hole=True)), config_for("xdmf"))
    points = np.stack(np.meshgrid(data["x"], data["y"]))
    inside = HOLE.radius(points)
    assert (data["mask"].values[inside < 0.7] == 0).all()
    assert (data["mask"].values[inside > 1.35] == 1).all()
    assert not data["displacement"].values[:, data["mask"].values == 0].any()
    assert not data["wave_speed"].values[data["mask"].values == 0].any()


@pytest.mark.parametrize("kind", ["xdmf", "vtu"])
def test_a_speed_by_cell_is_that_of_the_cell(kind: str, tmp_path: Path) -> None:
    points, cells = mesh_2m()
    data = read_mesh_result(WRITERS[kind](tmp_path, points, cells), config_for(kind, wave_speed="material"))
    triangles = cells[0][1]
    # None of these lies on an edge between two cells.
    for row, column in ((0, 0), (5, 8), (8, 19), (3, 11)):
        here = np.array([data["x"][column].item(), data["y"][row].item()])
        a, b, c = (points[triangles[:, corner], :2] for corner in range(3))
        matrices = np.stack([b - a, c - a], axis=-1)
        local = np.linalg.solve(matrices, (here - a)[..., None])[..., 0]
        owner = int(np.flatnonzero((local.min(axis=1) > -1e-9) & (local.sum(axis=1) < 1 + 1e-9))[0])
        assert float(data["wave_speed"][row, column]) == (2.0 if owner % 2 == 0 else 3.0)


def test_hdf5_in_an_xdmf_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # meshio writes the HDF5 file where it runs
    path = write_xdmf(tmp_path, *mesh_2m(), form="HDF")
    assert read_mesh_result(path, config_for("xdmf"))["displacement"].shape == (4, 9, 20)


def test_results_of_several_runs_become_one_store(tmp_path: Path) -> None:
    paths = []
    for name, hole in (("b", True), ("a", False)):
        (tmp_path / name).mkdir()
        paths.append(write_xdmf(tmp_path / name, *mesh_2m(hole)))
    audit = build_wave_store_of_results(paths, config_for("xdmf"), tmp_path / "waves.zarr")
    assert audit.samples == 2
    waves = open_waves(tmp_path / "waves.zarr")
    for sample, path in enumerate(paths):
        one = read_mesh_result(path, config_for("xdmf"))
        for name in ("displacement", "velocity", "wave_speed", "mask"):
            np.testing.assert_array_equal(waves[name].sel(sample=sample), one[name])


def test_the_command_takes_a_glob_of_results(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_exodus(tmp_path / name, *mesh_2m())
    config = BuildStoreConfig([f"{tmp_path}/*/waves.e"], str(tmp_path / "w.zarr"), results=config_for("exodus"))
    assert build(config, Console(stderr=True, quiet=True)).samples == 2
    (tmp_path / "other.nc").touch()
    with pytest.raises(SourceError, match="results on meshes make a store of their own kind and stand alone; .*other.nc is"):
        build(BuildStoreConfig([*config.source, f"{tmp_path}/other.nc"], "x.zarr"), Console(quiet=True))


def test_a_file_is_known_by_its_name(tmp_path: Path) -> None:
    assert is_mesh_result("a.xdmf")
    assert is_mesh_result("a.EXO")
    assert is_mesh_result("a.pvd")
    assert not is_mesh_result("a.nc")
    assert not is_mesh_result(tmp_path)
    (tmp_path / "frame_0.vtu").touch()
    assert is_mesh_result(tmp_path)


def test_samples_of_a_store_share_grid_and_times(tmp_path: Path) -> None:
    first = write_xdmf(tmp_path, *mesh_2m())
    (tmp_path / "other").mkdir()
    points, cells = mesh_2m()
    second = write_xdmf(tmp_path / "other", points * 1.5, cells)
    with pytest.raises(FiniteElementError, match="sample 1: .*other.waves.xdmf has another y than .*; the samples of a"):
        build_wave_store_of_results([first, second], config_for("xdmf"), tmp_path / "w.zarr")


@pytest.mark.parametrize(("settings", "message"), [
    ({"displacement": "w"}, r"has no field w at its nodes; it has \['c', 'u', 'v'\]. Set results.displacement"),
    ({"wave_speed": "rho"}, r"has no field rho at nodes \(\['c', 'u', 'v'\]\) or cells \(\['material'\]\)"),
])  # fmt: skip
def test_fields_that_are_not_there_are_told(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(FiniteElementError, match=message):
        read_mesh_result(write_xdmf(tmp_path, *mesh_2m()), config_for("xdmf", **settings))


def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    points, cells = mesh_2m()
    with pytest.raises(FiniteElementError, match="none.xdmf does not exist. Give an XDMF, Exodus or PVD file"):
        open_mesh_series(tmp_path / "none.xdmf")
    broken = tmp_path / "broken.xdmf"
    broken.write_text("<Xdmf>")
    with pytest.raises(FiniteElementError, match=r"broken.xdmf cannot be read \("):
        open_mesh_series(broken)
    frames = write_vtu(tmp_path, points, cells)
    with pytest.raises(FiniteElementError, match="does not say its times. Set results.frame_seconds, or give a .pvd"):
        read_mesh_result(frames, MeshResultsConfig(displacement="u"))
    with pytest.raises(FiniteElementError, match="has 1 step; waves need at least 2. Give the whole series"):
        read_mesh_result(frames / "frame_8.vtu", config_for("vtu"))
    meshio.Mesh(points + 1, cells, point_data=point_data(points, 0.0)).write(frames / "frame_9.vtu")
    with pytest.raises(FiniteElementError, match="frame_9.vtu has another mesh than frame_8.vtu. Give each simulation"):
        read_mesh_result(frames, config_for("vtu"))
    meshio.Mesh(points, [("line", cells[0][1][:, :2])]).write(tmp_path / "line.vtu")
    with pytest.raises(FiniteElementError, match=r"has no triangles or quadrilaterals, only \['line'\]"):
        open_mesh_series(tmp_path / "line.vtu")
    space = points.copy()
    space[3, 2] = 0.5
    meshio.Mesh(space, cells).write(tmp_path / "space.vtu")
    with pytest.raises(FiniteElementError, match="is a mesh in space; waves here are plane. Cut it with a plane first"):
        open_mesh_series(tmp_path / "space.vtu")


def test_flat_triangles_and_vectors_are_refused(tmp_path: Path) -> None:
    """A triangle may turn either way (scikit-fem sorts corners by number), but it must have an area."""
    points, cells = mesh_2m()
    flat = cells[0][1].copy()
    flat[3, 2] = flat[3, 1]
    with pytest.raises(InvertedElementError, match="has the area 0 m2"):
        read_mesh_result(write_xdmf(tmp_path, points, [("triangle", flat)]), config_for("xdmf"))
    path = tmp_path / "vector.xdmf"
    with meshio.xdmf.TimeSeriesWriter(path, data_format="XML") as writer:
        writer.write_points_cells(points, cells)
        for time in TIMES:
            writer.write_data(time, point_data={"u": np.stack([points[:, 0]] * 2, axis=1)})
    with pytest.raises(FiniteElementError, match=r"u of .* must be one number per node; it has the shape \(\d+, 2\)"):
        read_mesh_result(path, MeshResultsConfig(displacement="u"))


def test_uneven_times_are_refused(tmp_path: Path) -> None:
    path = write_pvd(tmp_path, *mesh_2m())
    path.write_text(path.read_text().replace('timestep="0.75"', 'timestep="0.9"'))
    with pytest.raises(FiniteElementError, match="has steps of 0.25 to 0.4 s; a store needs equal ones"):
        read_mesh_result(path, config_for("pvd"))


@pytest.mark.parametrize(("text", "message"), [
    ("<VTKFile/>", "names no files with their time steps. Give a folder of VTU files instead"),
    ('<DataSet timestep="0" file="../../secret.vtu"/>', "names ../../secret.vtu, which is not below its own folder"),
])  # fmt: skip
def test_collections_that_lead_nowhere_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.pvd").write_text(text)
    with pytest.raises(FiniteElementError, match=message):
        open_mesh_series(tmp_path / "x.pvd")


@pytest.mark.parametrize(("settings", "message"), [
    ({"columns": 1}, "results.columns and results.rows must be at least 2; got 1, 64"),
    ({"speed": 0.0}, "results.speed must be positive; got 0.0"),
    ({"frame_seconds": -1.0}, "results.frame_seconds must be positive; got -1.0"),
])  # fmt: skip
def test_wrong_settings_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(FiniteElementError, match=message):
        MeshResultsConfig(**settings)


def test_a_missing_meshio_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "meshio", None)
    with pytest.raises(ImportError, match=r"need the package meshio; install it with: pip install 'skysolve\[waves\]'"):
        open_mesh_series(tmp_path / "a.xdmf")
