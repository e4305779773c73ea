"""Workers that die, schedulers and packages that are not there: the same bits, or a line that says what to do."""

import ctypes
import errno
import fcntl
import json
import resource
import socket
import sys
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest

from data_pipelines.store import StoreError
from forecast import spread
from forecast.exits import UnfinishedError
from forecast.forecast_store import missing_forecasts
from forecast.forecaster import ForecastError
from forecast.job import run_forecasts
from forecast.job_config import WorkersConfig
from forecast.lease import lease
from forecast.manifest import read_journals
from forecast.slurm_array import _directive
from tests.cluster.jobs import contents

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


@pytest.fixture
def spread_out(settings, monkeypatch):
    """Settings of a job of 7 forecasts on two workers of this machine, each forecast of a few tenths of a second."""
    monkeypatch.setenv("EXTRAPOLATION_SECONDS", "0.1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with dask.config.set({"distributed.worker.preload": ["tests.cluster.preload"]}):
        yield partial(settings, end="2021-02-28T18", lead="18h", batch_size=1, threads=1, cluster="dask",
                      workers=WorkersConfig(number=2, dashboard=""))  # fmt: skip


def test_a_worker_that_is_killed_in_a_batch_changes_no_bit(settings, spread_out, tmp_path, monkeypatch):
    whole = run_forecasts(settings(tmp_path / "whole.zarr", end="2021-02-28T18", lead="18h", batch_size=1, threads=1)).out
    out = tmp_path / "killed.zarr"
    monkeypatch.setenv("EXTRAPOLATION_DIES", str(tmp_path / "dead"))
    assert run_forecasts(spread_out(out)).made == 7
    assert contents(out) == contents(whole)
    events = [event["event"] for event in read_journals(tmp_path / "killed.zarr.runs")]
    assert events.count("started") > events.count("complete") == 7  # the broken one began twice


def test_a_batch_that_ends_every_worker_is_given_up_and_the_rest_is_kept(spread_out, tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "MAY_DIE", 0)
    config = spread_out(tmp_path / "out.zarr")
    monkeypatch.setenv("EXTRAPOLATION_DIES", str(tmp_path / "dead"))
    with pytest.raises(ForecastError, match="a batch ended more than 0 workers.*workers.memory.*What is complete is kept"):
        run_forecasts(config)
    monkeypatch.undo()
    assert missing_forecasts(config.out)
    (manifest,) = (tmp_path / "out.zarr.runs").glob("*.json")
    assert json.loads(manifest.read_text())["outcome"] == "failed"


def test_a_worker_that_dies_while_it_starts_leaves_a_job_that_can_go_on(spread_out, tmp_path, monkeypatch):
    with (
        dask.config.set({"distributed.worker.preload": ["tests.cluster.no_such_module"]}),
        pytest.raises(UnfinishedError, match="a worker died while it started .*resume=true"),
    ):
        run_forecasts(spread_out(tmp_path / "out.zarr"))


@pytest.mark.parametrize(("address", "listens_at"), [(":0", "0.0.0.0"), ("", "127.0.0.1")])
def test_without_a_dashboard_nothing_is_served_to_other_machines(spread_out, tmp_path, address, listens_at):
    config = spread_out(tmp_path / "out.zarr", workers=WorkersConfig(number=1, minimum=0, dashboard=address))
    with spread._cluster(config, tmp_path, spread.Queue()) as cluster:
        assert cluster.scheduler.services["dashboard"].address == listens_at
    assert spread._dashboard(address)["dashboard"] is bool(address)


def test_a_scheduler_that_does_not_answer_is_named_without_its_password(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "ANSWERS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = settings(tmp_path / "out.zarr", cluster="dask", workers=WorkersConfig(scheduler=f"tcp://127.0.0.1:{port}"))
    with pytest.raises(ForecastError, match=f"no dask scheduler answers at workers.scheduler=tcp://127.0.0.1:{port}: "):
        run_forecasts(config)


@pytest.mark.parametrize(
    ("cluster", "module", "package"),
    [
        ("dask", "distributed", "distributed"),
        ("slurm", "dask_jobqueue", "dask-jobqueue"),
        ("pbs", "dask_jobqueue", "dask-jobqueue"),
        ("slurm_array", "submitit", "submitit"),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(settings, tmp_path, monkeypatch, cluster, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ForecastError, match=rf"cluster={cluster} needs .*{package}.*pip install 'skysolve\[cluster\]'"):
        run_forecasts(settings(tmp_path / "out.zarr", cluster=cluster))


def test_an_array_without_slurm_is_refused(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ForecastError, match="cluster=slurm_array needs the command sbatch, which was not found"):
        run_forecasts(settings(tmp_path / "out.zarr", cluster="slurm_array"))


def test_an_interface_that_is_not_there_is_refused_before_a_store_is_made(settings, tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    workers = WorkersConfig(interface="ib77")
    with pytest.raises(ForecastError, match=r"workers.interface must be one of this machine's, \[.*'lo'.*\]; got 'ib77'"):
        run_forecasts(settings(tmp_path / "out.zarr", cluster="slurm", workers=workers))
    with pytest.raises(ForecastError, match="cluster=pbs needs the command qsub, which was not found"):
        run_forecasts(settings(tmp_path / "out.zarr", cluster="pbs"))
    assert not (tmp_path / "out.zarr").exists()


def test_directives_are_read_as_sbatch_has_them():
    assert _directive("--gres=gpu:1") == ("gres", "gpu:1")
    assert _directive("--exclusive") == ("exclusive", True)
    for wrong in ("gres=gpu:1", "--", "--=1"):
        with pytest.raises(ForecastError, match=f"workers.directives must be like --gres=gpu:1; got '{wrong}'"):
            _directive(wrong)


def test_a_lock_that_the_file_system_does_not_have_is_told(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(StoreError, match=r"lock cannot be locked \(No locks available\).*Choose a runs= folder"),
        lease(tmp_path / "out.zarr", tmp_path / "runs", print),
    ):
        pass


def faults_of_a_worker(settings: str) -> int:
    """Page faults of taking 8 MiB ten times, in a worker that has loaded its job."""
    spread._work(settings)
    np.ones(2**23, "int8").sum()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(10):
        np.ones(2**23, "int8").sum()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_workers_keep_the_memory_that_their_networks_free(spread_out, tmp_path):
    """Else every step waits for page faults: the work of a job took twice as long. 8 MiB are 2048 pages."""
    config = spread_out(tmp_path / "out.zarr")
    with spread._cluster(config, tmp_path, spread.Queue()) as cluster, distributed.Client(cluster) as client:
        assert client.submit(faults_of_a_worker, json.dumps(asdict(config))).result() < 1000
