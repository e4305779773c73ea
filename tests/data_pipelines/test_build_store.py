"""The command line: one line on success, one line and exit code 2 on refusal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from configs.compose import compose
from data_pipelines import build_store
from data_pipelines.build_store import BuildStoreConfig
from data_pipelines.sources import simulated_atmosphere
from data_pipelines.sources.simulated_atmosphere import SimulationConfig
from data_pipelines.store import open_analysis, open_waves
from tests.helpers.raw_layouts import cds_new

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run the entry point in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["build_store", *arguments])
        code = 0
        try:
            build_store.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_sample_from_the_command_line(command: Command, tmp_path: Path) -> None:
    code, out, err = command("source=sample", "out=a.zarr", "end=2025-12-02", "variables=msl,vo", "every=12h")
    assert code == 0, err
    assert out == "Built a.zarr: 4 time steps of 2 fields; audit in a.zarr.audit.json\n"
    assert "Audit" in err
    assert open_analysis(tmp_path / "a.zarr").sizes["time"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"a.zarr", "a.zarr.audit.json"}, "no folder or log of Hydra's"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("source=sample", "out=a.zarr", "varables=msl"), "no setting is called varables: did you mean variables"),
        (("source=sample",), "out must be given"),
        (("source=nowhere.zarr", "out=a.zarr"), "source nowhere.zarr does not exist"),
        (("source=[]", "out=a.zarr"), "source is empty"),
        (("source=sample", "out=s.zarr"), "s.zarr exists already; nothing is overwritten"),
        (("source=sample", "out=a.zarr", "variables=t2m"), "variable t2m is missing"),
        (("source=sample", "out=a.zarr", "levels=500"), "level 500 hPa of vorticity is missing"),
        (("source=sample", "out=a.zarr", "join=outer"), "join must be exact or inner; got 'outer'"),
        (("source=sample", "out=a.zarr", "allow=all"), "allow has ['all']"),
        (("source=sample", "out=a.zarr", "compression=zip"), "compression must be one of"),
        (("source=sample", "out=a.zarr", "grid=7deg"), "grid must be LONGITUDESxLATITUDES"),
        (
            ("source=s.zarr", "out=a.zarr", "start=2020-02-27", "end=2020-02-27T18", "units.temperature=m"),
            "which cannot become 'K'",
        ),
        (("source=simulated", "out=a.zarr", "simulated.months=0"), "months must be at least 1"),
        (("source=finite_element_waves", "out=a.zarr", "waves.degree=3"), "waves.degree must be 1 or 2; got 3"),
        (("source=finite_element_waves", "out=a.zarr", "dask.workers=0"), "dask.workers must be at least 1; got 0"),
        (("source=finite_element_waves,sample", "out=a.zarr"), "source finite_element_waves makes a store of its own kind"),
    ],
)
def test_refusal_is_one_line(command: Command, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    cds_new().to_zarr(tmp_path / "s.zarr", zarr_format=2)
    before = {path.name for path in tmp_path.iterdir()}
    code, out, err = command(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err
    assert {path.name for path in tmp_path.iterdir()} == before, "nothing is left behind"


def test_simulated_atmosphere_is_a_source(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation itself needs the package jcm; here months of a day come from a stand-in that writes what it would."""

    def months(folder: Path, config: SimulationConfig) -> Iterator[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"simulated_{config.seed:02d}.checkpoint").write_text("")
        for month in range(config.months):
            file = folder / f"simulated_{config.seed:02d}_{month:04d}.nc"
            simulated(np.datetime64(config.start) + month).to_netcdf(file)
            yield file

    monkeypatch.setattr(simulated_atmosphere, "simulate", months)
    code, out, err = command("source=simulated", "out=sim.zarr", "simulated.months=2", "simulated.seed=3")
    assert code == 0, err
    assert out.startswith("Built sim.zarr: 8 time steps of 2 fields")
    assert open_analysis("sim.zarr").attrs["title"] == "SIMULATED"
    code, out, err = command("source=sim.zarr.months", "out=again.zarr")
    assert code == 0, err
    np.testing.assert_array_equal(open_analysis("again.zarr")["temperature"], open_analysis("sim.zarr")["temperature"])
    code, out, err = command("source=simulated", "out=runs.zarr", "simulated.months=4", "simulated.runs=2")
    assert code == 0, err
    stored = open_analysis("runs.zarr")
    assert [str(day)[:10] for day in stored["time"].values[::4]] == ["2000-10-01", "2000-10-02", "2001-03-01", "2001-03-02"]
    assert stored.attrs["accepted"] == ["gaps"]


def simulated(day: np.datetime64) -> xr.Dataset:
    data = cds_new(start=str(day)).drop_vars(["expver", "number"])
    names = {"valid_time": "time", "pressure_level": "level", "t": "temperature"}
    return (data + float(day.astype(int) % 2)).rename(names).assign_attrs(title="SIMULATED", license="CC0-1.0")


def test_settings_in_yaml_are_the_defaults_in_code() -> None:
    config = compose(BuildStoreConfig, "data_pipelines/build_store", ["source=[a]", "out=b"])
    plain = BuildStoreConfig(source=["a"], out="b")
    assert config.selection() == plain.selection()
    assert config.recipe() == plain.recipe()
    assert config.simulated == plain.simulated
    assert config.waves == plain.waves
    assert config.dask == plain.dask


def test_finite_element_waves_are_a_source(command: Command) -> None:
    settings = ("waves.samples=2", "waves.rows=8", "waves.columns=8", "waves.frames=3", "waves.cells=16")
    code, out, err = command("source=finite_element_waves", "out=w.zarr", *settings)
    assert code == 0, err
    assert out == "Built w.zarr: 2 samples of 3 time steps; audit in w.zarr.audit.json\n"
    assert "2 samples of 3 times, 0 s to 0.04 s, every 0.02 s; grid 8 x 8" in " ".join(err.split())
    assert open_waves("w.zarr")["displacement"].shape == (2, 3, 8, 8)
