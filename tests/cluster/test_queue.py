"""Slurm's queue, played by scripts: what it refuses, what waits in it, and who may fill a store meanwhile."""

import asyncio
import json
import os
import threading
import time
from dataclasses import asdict
from functools import partial

import pytest

from data_pipelines.store import StoreError
from forecast import lease as leases
from forecast import spread
from forecast.forecast_store import missing_forecasts
from forecast.forecaster import ForecastError
from forecast.job import run_forecasts
from forecast.job_config import WorkersConfig
from forecast.lease import joined_lease, lease
from forecast.slurm_array import Share, refuse_queued
from forecast.work import Work
from tests.cluster.jobs import contents

pytest.importorskip("submitit")
pytest.importorskip("dask_jobqueue")

# Its files: `queue` has a line per job as squeue prints it, `refusal` what sbatch says when it refuses, `down` what squeue says
# when it does not answer.
SBATCH = """#!/bin/sh
if [ -e {folder}/refusal ]; then cat {folder}/refusal >&2; exit 1; fi
for last; do :; done
cp "$last" {folder}/script
echo "4711 PENDING $(sed -n 's/^#SBATCH --comment=//p' "$last")" >> {folder}/queue
echo "Submitted batch job 4711"
"""
SQUEUE = """#!/bin/sh
if [ -e {folder}/down ]; then cat {folder}/down >&2; exit 1; fi
cat {folder}/queue
"""
SAID = "sbatch: error: invalid partition specified: gpuu\nsbatch: error: Batch job submission failed: Invalid partition name\n"
SAID_IN_A_LINE = "invalid partition specified: gpuu; Batch job submission failed: Invalid partition name"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Give the folder of the queue's files."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "queue").touch()
    for name, script in {"sbatch": SBATCH, "squeue": SQUEUE, "srun": "#!/bin/sh\n"}.items():
        (folder / name).write_text(script.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def array(settings):
    """Settings of four forecasts by an array that is left to itself, or by what else is given."""
    return partial(settings, end="2021-02-28T00", lead="12h", cluster="slurm_array", workers=WorkersConfig(wait=False))


def here(array, out, **changes):
    return array(out, cluster="local", workers=WorkersConfig(), **changes)


def test_an_array_that_slurm_refuses_is_told_in_its_words_and_can_be_sent_again(slurm, array, tmp_path, capfd):
    (slurm / "refusal").write_text(SAID)
    with pytest.raises(ForecastError, match=f"Slurm refused the array: {SAID_IN_A_LINE}. Mend workers.queue.*resume=true"):
        run_forecasts(array(tmp_path / "out.zarr"))
    assert capfd.readouterr() == ("", "")
    (slurm / "refusal").unlink()
    done = run_forecasts(array(tmp_path / "out.zarr", resume=True))
    assert (done.made, done.forecasts, done.submitted) == (0, 4, "job 4711 of Slurm (2 workers)")


def test_the_array_asks_for_what_is_set(slurm, array, tmp_path):
    workers = WorkersConfig(number=2, wait=False, cores=3, memory="7GB", walltime="02:00:00", queue="gpu", account="weather",
                            directives=["--gres=gpu:1", "--comment=mine"], setup=["module load cuda"])  # fmt: skip
    run_forecasts(array(tmp_path / "out.zarr", workers=workers))
    script = (slurm / "script").read_text()
    for line in ("--cpus-per-task=3", "--mem=7GB", "--time=120", "--partition=gpu", "--account=weather", "--gres=gpu:1",
                 "--array=0-1%2", "--signal=USR2@120", "--comment=mine,skysolve-"):  # fmt: skip
        assert f"#SBATCH {line}" in script
    assert "\nmodule load cuda\n" in script


@pytest.mark.parametrize("second", ["array", "here", "a branch"])
def test_while_an_array_waits_in_the_queue_its_stores_are_refused(slurm, array, tmp_path, monkeypatch, second):
    out, branch, other = (tmp_path / name for name in ("out.zarr", "branch.zarr", "other.zarr"))
    stages = array(out).cascade
    run_forecasts(array(out, branches={str(branch): stages}))
    monkeypatch.chdir(tmp_path)  # the same store by another name
    again = {
        "array": lambda: array("out.zarr", resume=True, branches={"branch.zarr": stages}),
        "here": lambda: here(array, "out.zarr", resume=True, branches={"branch.zarr": stages}),
        "a branch": lambda: here(array, branch, resume=True),
    }[second]
    name = "branch.zarr" if second == "a branch" else "out.zarr"
    refused = f"{name} is still to be filled by job 4711 in Slurm's queue .pending.. .*scancel 4711"
    with pytest.raises(StoreError, match=refused):
        run_forecasts(again())
    assert run_forecasts(here(array, other)).made == 4  # another store is nobody's
    line = (slurm / "queue").read_text()
    (slurm / "queue").write_text(line.replace("PENDING", "RUNNING"))
    with pytest.raises(StoreError, match="job 4711 in Slurm's queue .running."):
        run_forecasts(again())
    (slurm / "queue").write_text(line.replace("PENDING", "COMPLETING"))
    run_forecasts(again())
    if second != "array":
        assert not missing_forecasts(again().out)


def test_a_queue_that_does_not_answer_stops_arrays_only(slurm, array, tmp_path, caplog):
    (slurm / "down").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    with pytest.raises(ForecastError, match="does not tell which jobs.*Unable to contact slurm controller.; run the same"):
        run_forecasts(array(tmp_path / "out.zarr"))
    assert run_forecasts(here(array, tmp_path / "here.zarr")).made == 4
    assert "does not tell whether an array is still to fill" in caplog.text


def test_a_machine_with_slurms_commands_and_no_cluster_is_as_one_without(slurm, array, tmp_path, caplog):
    (slurm / "down").write_text("squeue: fatal: Could not establish a configuration source\n")
    refuse_queued(here(array, tmp_path / "out.zarr"))
    assert not caplog.text
    with pytest.raises(ForecastError, match="does not tell which jobs.*Could not establish a configuration source"):
        refuse_queued(array(tmp_path / "out.zarr"))


def test_a_job_with_nothing_left_to_make_asks_no_queue(slurm, array, tmp_path):
    run_forecasts(here(array, tmp_path / "out.zarr"))
    (slurm / "down").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    done = run_forecasts(array(tmp_path / "out.zarr", resume=True))
    assert (done.made, done.forecasts) == (0, 4)
    (slurm / "sbatch").unlink()
    assert run_forecasts(array(tmp_path / "out.zarr", resume=True, cluster="slurm", workers=WorkersConfig())).made == 0


def test_jobs_of_others_in_the_queue_are_nothing_to_us(slurm, array, tmp_path):
    (slurm / "queue").write_text("1 RUNNING (null)\n2 PENDING\n\n3 PENDING skysolve-0000000000000000\n")
    refuse_queued(array(tmp_path / "out.zarr"))


def test_a_store_is_shared_by_the_jobs_of_an_array_and_by_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "SHARED_WITHIN", 0.2)
    monkeypatch.setattr(leases, "POLL", 0.05)
    out, runs = tmp_path / "out.zarr", tmp_path / "runs"
    joined, given = (partial(take, out, runs) for take in (joined_lease, partial(lease, lost=print)))
    with given() as share:
        with pytest.raises(StoreError, match="being filled by another job .process"), joined():
            pass
        share("job 4711 of Slurm")
        with joined(), joined():
            pass
    with joined(), pytest.raises(StoreError, match="being filled by another job .job 4711 of Slurm."), given():
        pass
    with given():
        pass


def test_a_job_of_an_array_waits_until_the_store_is_shared(tmp_path):
    out, runs = tmp_path / "out.zarr", tmp_path / "runs"
    order = []

    def join():
        with joined_lease(out, runs):
            order.append("joined")

    with lease(out, runs, print) as share:
        worker = threading.Thread(target=join)
        worker.start()
        time.sleep(0.2)
        order.append("shared")
        share("job 4711 of Slurm")
        worker.join()
    assert order == ["shared", "joined"]


def test_a_share_makes_its_forecasts_unless_another_job_fills_the_store(slurm, array, tmp_path, monkeypatch):
    config, whole = array(tmp_path / "out.zarr"), run_forecasts(here(array, tmp_path / "whole.zarr")).out
    run_forecasts(config)  # prepares the store, and submits
    monkeypatch.setenv("SETTINGS", json.dumps(asdict(config)))
    monkeypatch.setattr(leases, "SHARED_WITHIN", 0.2)
    runs = tmp_path / "out.zarr.runs"
    share = Share("SETTINGS", [spread.plain(batch) for batch in Work(config).batches()], str(runs))
    with lease(config.out, runs, print), pytest.raises(StoreError, match="being filled by another job"):
        share()
    assert share() == 4
    assert contents(tmp_path / "out.zarr") == contents(whole)


@pytest.mark.parametrize(("cluster", "command"), [("slurm", "sbatch"), ("pbs", "qsub")])
def test_a_queue_that_is_not_there_is_named(array, tmp_path, monkeypatch, cluster, command):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ForecastError, match=f"cluster={cluster} needs the command {command}, which was not found. Run it"):
        run_forecasts(array(tmp_path / "out.zarr", cluster=cluster, workers=WorkersConfig()))


def test_dask_workers_that_slurm_refuses_end_the_job_in_its_words(slurm, array, tmp_path, capfd, caplog):
    (slurm / "refusal").write_text(SAID)
    config = array(tmp_path / "out.zarr", cluster="slurm", workers=WorkersConfig(interface="lo", dashboard=""))
    with pytest.raises(ForecastError, match=f"the queue refused the workers: {SAID_IN_A_LINE}. Mend workers.queue.*is kept"):
        run_forecasts(config)
    assert "Traceback" not in "".join([*capfd.readouterr(), caplog.text])


def test_workers_that_were_not_refused_do_the_work(tmp_path):
    class Job:
        def __init__(self, refusal=""):
            self.refusal = refusal

        async def start(self):
            if self.refusal:
                raise RuntimeError(f"Command exited with non-zero exit code.\nstdout:\n\nstderr:\n{self.refusal}\n")

        async def close(self):
            pass

    queue = spread.Queue()
    noted = queue.noting(Job)
    taken, refused = noted(), noted("qsub: would exceed limit")
    asyncio.run(taken.start())
    with pytest.raises(RuntimeError):
        asyncio.run(refused.start())
    queue.check()
    asyncio.run(taken.close())
    with pytest.raises(ForecastError, match="the queue refused the workers: would exceed limit. Mend"):
        queue.check()


def test_a_refusal_without_words_is_told_as_that():
    assert spread.what_queue_said("") == "it gave no reason"
