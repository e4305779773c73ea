"""Ensembles of waves: what is drawn, what is stored, and that an interrupted run loses and repeats nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from data_pipelines import wave_ensemble
from data_pipelines.audit import AuditError
from data_pipelines.errors import StoreError
from data_pipelines.finite_elements.draws import draw
from data_pipelines.finite_elements.errors import FiniteElementError
from data_pipelines.simulation_workers import DaskConfig
from data_pipelines.sources.finite_element_waves import WaveConfig, prepare, simulate
from data_pipelines.store import data_hash, open_waves
from data_pipelines.wave_ensemble import build_wave_store

pytest.importorskip("skfem", reason="the extra `waves` is not installed")
ROOT = Path(__file__).parents[2]


def small(**changes: Any) -> WaveConfig:
    return WaveConfig(**{"samples": 4, "rows": 12, "columns": 12, "frames": 4, "cells": 24, **changes})


def test_store_holds_what_was_simulated_and_measured(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = build_wave_store(small(), tmp_path / "w.zarr", progress=lambda *done: seen.append(done))
    stored = open_waves(tmp_path / "w.zarr").load()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {path.name for path in tmp_path.iterdir()} == {"w.zarr", "w.zarr.audit.json"}
    assert report.data_hash == stored.attrs["data_hash"] == data_hash(stored)
    one, measured = simulate(small(), 2)
    xr.testing.assert_equal(stored.isel(sample=[2]).drop_vars(list(wave_ensemble.MEASURED)), one[list(stored.data_vars)])
    assert stored["steps"].values[2] == measured["steps"]
    assert (stored["energy_end"] < stored["energy_start"] * 1.0001).all()
    assert stored["energy_end"].attrs["units"] == "m4 s-2"
    assert ((stored["displacement"] == 0) | (stored["mask"] == 1)).all()


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    """Not on how many there are; so a longer ensemble begins like a shorter one."""
    first = simulate(small(), 1)[0]
    xr.testing.assert_equal(first, simulate(small(samples=9), 1)[0])
    for other in (simulate(small(), 2)[0], simulate(small(seed=1), 1)[0]):
        assert not np.array_equal(first["displacement"].values, other["displacement"].values)


def test_draws_keep_to_their_distributions() -> None:
    config = small(
        speed=[2.0, 3.0], holes=[1, 2], inclusions=[0, 2], pulses=[0, 2], bumps=[1, 2], outer=["absorbing", "neumann"]
    )
    draws = [draw(config, sample) for sample in range(60)]
    assert {len(one.holes) for one in draws} == {1, 2}
    assert {len(one.inclusions) for one in draws} == {0, 1, 2}
    assert {len(one.pulses) for one in draws} == {0, 1, 2}
    assert {one.outer for one in draws} == {"absorbing", "neumann"}
    assert 2.0 <= min(one.background for one in draws) < max(one.background for one in draws) <= 3.0
    factors = [factor for one in draws for _, factor in one.inclusions]
    assert 0.5 <= min(factors) < 1 < max(factors) <= 2.0
    for one in draws:
        for bump in one.bumps:
            edge = min(bump.x, 1 - bump.x, bump.y, 1 - bump.y)
            assert edge > 2.5 * bump.width
            assert all(hole.distance(np.array([[bump.x], [bump.y]]))[0] > 2.5 * bump.width for hole in one.holes)


def test_a_pulse_enters_from_the_edge_and_has_ended_when_the_record_starts() -> None:
    config = small(bumps=[0, 0], pulses=[1, 1], holes=[0, 0], cells=48, variation=[0.0, 0.0])
    for sample in range(3):
        ready = prepare(config, sample)
        assert ready.stepper.time >= ready.draw.quiet_from
        displacement, _ = ready.stepper.state()
        assert 0.1 < np.abs(displacement).max() < 2.0
        assert abs(ready.draw.pulses[0].signal(ready.draw.quiet_from)) < 3e-3


def test_schemes_and_elements_tell_of_the_same_wave() -> None:
    """Five independent ways to one record; the coarsest disagrees with the finest by its own error."""
    same = {"holes": [1, 1], "pulses": [1, 1], "samples": 1, "inclusions": [0, 0]}
    ways = [
        {"cells": 96},
        {"cells": 96, "scheme": "newmark"},
        {"cells": 96, "dtype": "float32"},
        {"cells": 48, "degree": 2},
    ]
    records = [simulate(small(**same, **way), 0)[0] for way in ways]
    scale = float(np.abs(records[0]["displacement"]).max())
    common = np.logical_and.reduce([record["mask"].values == 1 for record in records])
    for record in records[1:]:
        difference = (record["displacement"] - records[0]["displacement"]).values * common[:, None]
        assert np.abs(difference).max() < 0.02 * scale


SLOW_RUN = """
import sys, time
from data_pipelines import wave_ensemble
from data_pipelines.sources.finite_element_waves import WaveConfig
original = wave_ensemble.simulate
def slow(config, sample):
    time.sleep(0.3)
    return original(config, sample)
wave_ensemble.simulate = slow
wave_ensemble.build_wave_store(WaveConfig(samples=6, rows=12, columns=12, frames=4, cells=24), sys.argv[1])
"""


def test_a_killed_run_resumes_and_repeats_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL, which no handler sees, while a later sample is being made."""
    out, marks = tmp_path / "w.zarr", tmp_path / "w.zarr.samples"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(out)], env=environment) as process:
        while process.poll() is None and len(list(marks.glob("0*.json"))) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = {path.name for path in marks.glob("0*.json")}
    assert 2 <= len(done) < 6
    assert not out.exists()
    with pytest.raises(StoreError, match="is unfinished: being simulated since"):
        open_waves(tmp_path / "w.zarr.partial")
    made: list[int] = []

    def counted(config: WaveConfig, sample: int) -> Any:
        made.append(sample)
        return simulate(config, sample)

    monkeypatch.setattr(wave_ensemble, "simulate", counted)
    build_wave_store(small(samples=6), out)
    assert sorted(made) == [sample for sample in range(6) if f"{sample:06d}.json" not in done]
    monkeypatch.undo()
    build_wave_store(small(samples=6), tmp_path / "whole.zarr")
    assert data_hash(open_waves(out)) == data_hash(open_waves(tmp_path / "whole.zarr"))
    assert not marks.exists()


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fails(config: WaveConfig, sample: int) -> Any:
        if sample == number:
            raise FiniteElementError("no place for a bump.")
        return simulate(config, sample)

    monkeypatch.setattr(wave_ensemble, "simulate", fails)


def test_a_sample_that_fails_is_named_and_the_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, 2)
    with pytest.raises(FiniteElementError, match="sample 2: no place for a bump"):
        build_wave_store(small(), tmp_path / "w.zarr")
    monkeypatch.undo()
    assert {path.name for path in (tmp_path / "w.zarr.samples").glob("0*")} == {"000000.json", "000001.json"}
    with pytest.raises(StoreError, match="unfinished copy made with other settings, or by another version, is at"):
        build_wave_store(small(seed=5), tmp_path / "w.zarr")
    build_wave_store(small(seed=5), tmp_path / "w.zarr", restart=True)
    assert data_hash(open_waves(tmp_path / "w.zarr")) != data_hash(
        xr.concat([simulate(small(), n)[0] for n in range(4)], "sample")
    )


def test_what_is_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "b.zarr.partial").mkdir()
    with pytest.raises(StoreError, match="exists already; nothing is overwritten"):
        build_wave_store(small(), tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="is in the way, and no interrupted run made it"):
        build_wave_store(small(), tmp_path / "b.zarr")
    with pytest.raises(StoreError, match="waves are written to a local folder"):
        build_wave_store(small(), "s3://bucket/w.zarr")


def test_an_ensemble_with_missing_values_is_refused_by_the_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def holed(config: WaveConfig, sample: int) -> Any:
        fields, measured = simulate(config, sample)
        if sample == 3:
            fields["velocity"][0, 2] = np.nan
        return fields, measured

    monkeypatch.setattr(wave_ensemble, "simulate", holed)
    with pytest.raises(AuditError, match=r"nan_fields: velocity is missing \(NaN\) everywhere at sample 3 at 0.04 s"):
        build_wave_store(small(), tmp_path / "w.zarr")
    build_wave_store(small(), tmp_path / "w.zarr", allow=["nan_fields"])


def test_processes_and_a_running_scheduler_make_the_same_store(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    build_wave_store(small(), tmp_path / "here.zarr")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        build_wave_store(small(), tmp_path / "there.zarr", dask=DaskConfig(scheduler=cluster.scheduler_address))
    assert data_hash(open_waves(tmp_path / "there.zarr")) == data_hash(open_waves(tmp_path / "here.zarr"))


@pytest.mark.parametrize(("package", "settings"), [("distributed", {"workers": 2}), ("dask_jobqueue", {"scheduler": "slurm"})])
def test_package_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"install it with: pip install 'skysolve\[cluster\]'"):
        build_wave_store(small(), tmp_path / "w.zarr", dask=DaskConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "waves.samples must be at least 1; got 0"),
        ({"frames": 1}, "waves.frames must be at least 2"),
        ({"frame_seconds": 0.0}, "waves.frame_seconds must be positive"),
        ({"time_step": -1.0}, "waves.time_step must be positive"),
        ({"mesher": "netgen"}, "waves.mesher must be one of"),
        ({"scheme": "euler"}, "waves.scheme must be one of"),
        ({"degree": 0}, "waves.degree must be 1 or 2"),
        ({"safety": 1.5}, r"waves.safety must lie in \(0, 1\)"),
        ({"outer": ["open"]}, "waves.outer must be some of"),
        ({"hole_edges": []}, "waves.hole_edges must be some of"),
        ({"speed": [2.0, 1.0]}, r"waves.speed must be two numbers \[least, most\], positive; got \[2.0, 1.0\]"),
        ({"holes": [-1, 1]}, "waves.holes must be two numbers .* not negative"),
        ({"outer": ["dirichlet"]}, "waves.pulses drive an edge by a traction"),
        ({"bumps": [0, 1]}, "such a sample would stay at rest"),
    ],
)
def test_setting_out_of_range_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FiniteElementError, match=message):
        small(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"holes": [40, 40]}, "no place for .* holes of radius"),
        ({"bump_width": [0.3, 0.4]}, "no place for a bump of width"),
        ({"time_step": 0.02, "frames": 4}, "time_step must be positive and at most"),
    ],
)
def test_sample_that_cannot_be_made_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FiniteElementError, match=message):
        simulate(small(**settings), 0)


@pytest.mark.parametrize(
    ("settings", "message"), [({"workers": 0}, "dask.workers"), ({"scheduler": "pbs"}, "dask.scheduler must")]
)
def test_dask_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        DaskConfig(**settings)
