"""A job looks at everything before its first forecast, survives being killed, and resumes to the same store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from configs.compose import ConfigError, compose
from data_pipelines.locations import redacted
from data_pipelines.store import StoreError, create_analysis_store, write_analysis
from forecast import checkpoint, work
from forecast.checkpoint import CheckpointError, save_checkpoint
from forecast.ensemble import EnsembleConfig
from forecast.exits import UnfinishedError
from forecast.forecast_store import missing_forecasts, open_forecast_store
from forecast.forecaster import ForecastError
from forecast.job import run_forecasts
from forecast.job_config import RunConfig, WorkersConfig
from forecast.lease import lease
from forecast.manifest import read_journals
from forecast.rollout import rollout
from forecast.spread import Secretly
from forecast.stages import load_cascade, parse_hours, shipped_checkpoint
from forecast.work import Work
from tests.cluster.jobs import contents
from tests.helpers.analyses import make_analysis
from tests.helpers.forecasters import extrapolation

ROOT = Path(__file__).parents[2]
ANALYSIS = make_analysis().drop_vars("land_sea_mask")
LICENSE = "CC-BY-4.0; contains modified Copernicus Climate Change Service information"


@pytest.fixture(autouse=True)
def known_network(monkeypatch):
    monkeypatch.setitem(checkpoint.MODELS, "Extrapolation", "tests.helpers.forecasters")


def store_analysis(path, analysis):
    create_analysis_store(path, analysis, attributes={"license": LICENSE, "source": "made for tests"})
    write_analysis(path, analysis)
    return str(path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """An analysis store and two checkpoints."""
    folder = tmp_path_factory.mktemp("inputs")
    store_analysis(folder / "analysis.zarr", ANALYSIS)
    checkpoint.MODELS["Extrapolation"] = "tests.helpers.forecasters"
    spans = {"first": ("2019-01-01", "2020-06-30"), "second": ("2019-06-01", "2020-12-31T18")}
    for name, span in spans.items():
        model = extrapolation(ANALYSIS, gain=0.5 if name == "first" else -0.25)
        save_checkpoint(folder / name, model, training_span=span, data_hash=f"data of {name}")
    del checkpoint.MODELS["Extrapolation"]
    return folder


def config(inputs, out, **changes):
    given = {
        "analysis": str(inputs / "analysis.zarr"),
        "start": "2021-02-27T06",
        "end": "2021-02-28T18",
        "every": "12h",
        "lead": "36h",
        "out": str(out),
        "cascade": [f"12h:{inputs / 'first'}", f"2d:{inputs / 'second'}"],
        "device": "cpu",
        "batch_size": 3,
        "progress": False,
    }
    return RunConfig(**(given | changes))


def test_store_holds_what_the_rollout_makes(inputs, tmp_path):
    settings = config(inputs, tmp_path / "forecast.zarr")
    result = run_forecasts(settings)
    assert (result.forecasts, result.made, result.lead_hours) == (4, 4, 36)
    dataset = open_forecast_store(result.out)
    assert dataset["cascade_stage"].values.tolist() == [0, 0, 1, 1, 1, 1]
    cascade, _ = load_cascade(settings.cascade, 36)
    for state in rollout(cascade, ANALYSIS, settings.initial_times, 6, "cpu"):
        made = dataset.sel(prediction_timedelta=np.timedelta64(state.lead_hours, "h"))
        np.testing.assert_array_equal(made["temperature"].sel(level=850), state.fields[:, 1])
        np.testing.assert_array_equal(made["mean_sea_level_pressure"], state.fields[:, 2])


def test_store_says_where_its_forecasts_come_from(inputs, tmp_path):
    attributes = open_forecast_store(run_forecasts(config(inputs, tmp_path / "forecast.zarr")).out).attrs
    assert attributes["training_span"] == "2019-01-01T00/2020-12-31T18"
    assert attributes["training_data_sha256"] == ["data of first", "data of second"]
    assert attributes["cascade"] == "first to 12 h (Extrapolation, 6 h steps); second to 48 h (Extrapolation, 6 h steps)"
    assert attributes["license"] == LICENSE
    assert attributes["code_version"] == checkpoint.code_version()
    assert len(attributes["checkpoint_sha256"]) == 2
    assert len(attributes["analysis_sha256"]) == 64


def test_batches_do_not_change_the_forecasts(inputs, tmp_path):
    one = run_forecasts(config(inputs, tmp_path / "one.zarr", batch_size=1)).out
    all_at_once = run_forecasts(config(inputs, tmp_path / "four.zarr", batch_size=4)).out
    xr.testing.assert_equal(open_forecast_store(one).load(), open_forecast_store(all_at_once).load())


def test_a_batch_larger_than_the_buffer_waits_on_disk(inputs, tmp_path):
    small = run_forecasts(config(inputs, tmp_path / "small.zarr", buffer_gigabytes=0.0)).out
    large = run_forecasts(config(inputs, tmp_path / "large.zarr")).out
    xr.testing.assert_equal(open_forecast_store(small).load(), open_forecast_store(large).load())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "large.zarr",
        "large.zarr.runs",
        "small.zarr",
        "small.zarr.runs",
    ]


def test_branches_fill_their_stores_as_jobs_of_their_own_would(inputs, tmp_path):
    """To the last bit of every file but those that say when."""
    alone = [f"2d:{inputs / 'first'}"]
    settings = config(inputs, tmp_path / "forecast.zarr", branches={str(tmp_path / "branch.zarr"): alone})
    result = run_forecasts(settings)
    assert (result.forecasts, result.made, result.branches) == (4, 4, (str(tmp_path / "branch.zarr"),))
    run_forecasts(config(inputs, tmp_path / "one.zarr"))
    run_forecasts(config(inputs, tmp_path / "other.zarr", cascade=alone))
    for ours, theirs in (("forecast.zarr", "one.zarr"), ("branch.zarr", "other.zarr")):
        assert contents(tmp_path / ours) == contents(tmp_path / theirs)
    assert contents(tmp_path / "forecast.zarr") != contents(tmp_path / "branch.zarr")


def test_a_branch_that_is_broken_resumes_alone_and_with_its_job(inputs, tmp_path):
    branch = tmp_path / "branch.zarr"
    settings = config(inputs, tmp_path / "forecast.zarr", branches={str(branch): [str(inputs / "first")]})
    run_forecasts(settings)
    whole = contents(branch)
    (branch / "complete" / "c" / "2").unlink()
    with pytest.raises(StoreError, match="branch.zarr exists already"):
        run_forecasts(config(inputs, tmp_path / "new.zarr", branches=settings.branches))
    settings.resume = True
    assert run_forecasts(settings).made == 1
    assert contents(branch) == whole
    (branch / "complete" / "c" / "1").unlink()
    assert run_forecasts(config(inputs, branch, cascade=[str(inputs / "first")], resume=True)).made == 1
    assert contents(branch) == whole


def test_a_disk_too_full_for_the_buffer_is_told(inputs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="no space is left"):
        run_forecasts(config(inputs, tmp_path / "small.zarr", buffer_gigabytes=0.0))


def test_only_the_stages_that_a_lead_time_needs_are_loaded(inputs, tmp_path):
    settings = config(inputs, tmp_path / "short.zarr", lead="12h", cascade=[f"12h:{inputs / 'first'}", "10d:nowhere"])
    assert open_forecast_store(run_forecasts(settings).out).attrs["training_span"] == "2019-01-01T00/2020-06-30T00"


def test_a_single_checkpoint_runs_to_the_lead(inputs, tmp_path):
    settings = config(inputs, tmp_path / "one.zarr", cascade=[str(inputs / "first")])
    assert run_forecasts(settings).lead_hours == 36


@pytest.mark.parametrize("fails_at", range(4))
def test_a_job_that_fails_anywhere_resumes_to_the_same_store(inputs, tmp_path, monkeypatch, fails_at):
    whole = run_forecasts(config(inputs, tmp_path / "whole.zarr")).out
    settings = config(inputs, tmp_path / "broken.zarr")
    written = iter(range(fails_at))
    write = work.write_forecast

    def fails(*arguments):
        if next(written, None) is None:
            raise StoreError("no space is left")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(work, "write_forecast", fails)
        with pytest.raises(StoreError, match="no space is left"):
            run_forecasts(settings)
    assert len(missing_forecasts(settings.out)) == 4 - fails_at
    settings.resume = True
    assert run_forecasts(settings).made == 4 - fails_at
    xr.testing.assert_equal(open_forecast_store(settings.out).load(), open_forecast_store(whole).load())
    assert run_forecasts(settings).made == 0


SLOW_JOB = """
import sys
from forecast import checkpoint
from forecast.job import run_forecasts
from forecast.job_config import RunConfig, WorkersConfig
checkpoint.MODELS["Extrapolation"] = "tests.helpers.forecasters"
inputs, out, threads = sys.argv[1:]
run_forecasts(RunConfig(analysis=inputs + "/analysis.zarr", start="2021-02-27T06", end="2021-02-28T18", every="12h", lead="36h",
    out=out, cascade=[f"12h:{inputs}/first", f"2d:{inputs}/second"], device="cpu", batch_size=1,
    threads=int(threads), progress=False))
"""


def test_a_killed_job_leaves_a_correct_store_and_resumes_to_the_same(inputs, tmp_path):
    """SIGKILL, which no handler sees, between the first and the last forecast."""
    whole = open_forecast_store(run_forecasts(config(inputs, tmp_path / "whole.zarr")).out).load()
    out = tmp_path / "killed.zarr"
    environment = os.environ | {"EXTRAPOLATION_SECONDS": "0.1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SLOW_JOB, str(inputs), str(out), str(torch.get_num_threads())]
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None and not list(out.glob("complete/c/*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    missing = missing_forecasts(out)
    assert 0 < len(missing) < 4
    there = open_forecast_store(out)
    xr.testing.assert_equal(there.load(), whole.sel(time=there["time"]))
    assert run_forecasts(config(inputs, out, batch_size=1, resume=True)).made == len(missing)
    xr.testing.assert_equal(open_forecast_store(out).load(), whole)
    assert not list(out.rglob("*.partial"))


def test_an_existing_output_is_refused_before_anything_is_read(inputs, tmp_path):
    out = tmp_path / "there.zarr"
    out.mkdir()
    with pytest.raises(StoreError, match=r"there.zarr exists already.*resume=true"):
        run_forecasts(config(inputs, out, analysis="nowhere"))


def test_resume_with_other_settings_is_refused(inputs, tmp_path):
    out = tmp_path / "forecast.zarr"
    run_forecasts(config(inputs, out))
    with pytest.raises(StoreError, match="its prediction_timedelta is 6 to 36"):
        run_forecasts(config(inputs, out, lead="24h", resume=True))
    with pytest.raises(StoreError, match="holds another job: its checkpoint_sha256 is"):
        run_forecasts(config(inputs, out, cascade=[f"12h:{inputs / 'second'}", f"2d:{inputs / 'second'}"], resume=True))


def test_resume_in_other_batches_is_refused_because_the_last_bits_would_differ(inputs, tmp_path):
    out = tmp_path / "forecast.zarr"
    run_forecasts(config(inputs, out))
    with pytest.raises(StoreError, match="its batch_size is 3; this job's is 2"):
        run_forecasts(config(inputs, out, batch_size=2, resume=True))


def test_a_second_job_on_the_same_store_is_refused(inputs, tmp_path):
    settings = config(inputs, tmp_path / "forecast.zarr")
    with (
        lease(settings.out, tmp_path / "forecast.zarr.runs", print),
        pytest.raises(StoreError, match="forecast.zarr is being filled by another job .process [0-9]+ on"),
    ):
        run_forecasts(settings)
    assert run_forecasts(settings).made == 4


def test_sigterm_lets_the_batch_end_and_says_how_to_go_on(inputs, tmp_path, monkeypatch):
    settings = config(inputs, tmp_path / "forecast.zarr", batch_size=1)
    write = work.write_forecast

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        write(*arguments)

    monkeypatch.setattr(work, "write_forecast", signalled)
    with pytest.raises(UnfinishedError, match=r"stopped \(SIGTERM\) with 3 of 4 forecasts still to make") as stopped:
        run_forecasts(settings)
    assert stopped.value.exit_code == 75
    monkeypatch.undo()
    monkeypatch.setitem(checkpoint.MODELS, "Extrapolation", "tests.helpers.forecasters")
    settings.resume = True
    assert run_forecasts(settings).made == 3
    outcomes = [json.loads(path.read_text())["outcome"] for path in (tmp_path / "forecast.zarr.runs").glob("*.json")]
    assert sorted(outcomes) == ["complete", "unfinished"]
    made = [event for event in read_journals(tmp_path / "forecast.zarr.runs") if event["event"] == "complete"]
    assert len(made) == len({event["initial_time"] for event in made}) == 4


def test_a_broken_batch_runs_again_at_its_places(inputs, tmp_path):
    """Copies stand at the places of what is there: the last bits of a forecast depend on its place and on the batch's size."""
    settings = config(inputs, tmp_path / "forecast.zarr", batch_size=4)
    run_forecasts(settings)
    (tmp_path / "forecast.zarr" / "complete" / "c" / "2").unlink()
    (batch,) = Work(settings).batches()
    assert batch.wanted == (2,)
    assert batch.initial_times.tolist() == [settings.initial_times[2].item()] * 4


def test_no_manifest_or_message_holds_a_secret_of_a_url(inputs, tmp_path):
    from forecast.manifest import Manifest

    hidden = ["s3cret", "t0ken"]
    url = "https://user:s3cret@host/a.zarr?sig=t0ken&x=t0ken"
    assert redacted(f"no '{url}' here") == "no 'https://***@host/a.zarr?sig=***&x=***' here"
    manifest = Manifest(tmp_path, config(inputs, tmp_path / "x", analysis=url), {"a": [url]})
    manifest.end("failed", reason=url)
    with pytest.raises(StoreError) as told:
        run_forecasts(config(inputs, tmp_path / "y", analysis="http://user:s3cret@127.0.0.1:9/a.zarr?sig=t0ken"))
    for text in (manifest.path.read_text(), redacted(told.value), repr(Secretly(url))):
        assert not [secret for secret in hidden if secret in text]


def test_members_go_into_the_dimension_number_whatever_the_batches(inputs, tmp_path):
    members = EnsembleConfig(members=3)
    whole = run_forecasts(config(inputs, tmp_path / "whole.zarr", ensemble=members))
    assert whole.forecasts == whole.made == 12
    dataset = open_forecast_store(whole.out).load()
    assert dataset["temperature"].dims[:2] == ("time", "number")
    other = run_forecasts(config(inputs, tmp_path / "other.zarr", ensemble=members, batch_size=5))
    xr.testing.assert_equal(open_forecast_store(other.out).load(), dataset)
    single = open_forecast_store(run_forecasts(config(inputs, tmp_path / "single.zarr")).out).load()
    control = dataset.sel(number=0, drop=True)
    xr.testing.assert_equal(control["temperature"], single["temperature"])
    plus, minus = (dataset["temperature"].sel(number=number, drop=True) for number in (1, 2))
    assert np.abs(plus - control["temperature"]).max() > 0.1
    # The model of these tests is linear: the mean of a pair is the control but for float32's rounding, 3e-5 K.
    np.testing.assert_allclose((plus + minus) / 2, control["temperature"], atol=1e-4)
    with pytest.raises(StoreError, match="its ensemble is members 3, start matern, amplitude 0.3"):
        run_forecasts(config(inputs, tmp_path / "whole.zarr", ensemble=EnsembleConfig(3, seed=1), resume=True))


def test_resume_with_another_analysis_is_refused(inputs, tmp_path):
    out = tmp_path / "forecast.zarr"
    run_forecasts(config(inputs, out))
    other = store_analysis(tmp_path / "other.zarr", make_analysis(seed=1).drop_vars("land_sea_mask"))
    with pytest.raises(StoreError, match="its analysis_sha256 is"):
        run_forecasts(config(inputs, out, analysis=other, resume=True))


def test_resume_before_the_first_run_starts_it(inputs, tmp_path):
    assert run_forecasts(config(inputs, tmp_path / "new.zarr", resume=True)).made == 4


@pytest.mark.parametrize(
    ("changes", "error", "what"),
    [
        ({"analysis": "nowhere.zarr"}, StoreError, "no analysis store at nowhere.zarr"),
        ({"start": "2021-02-27T00"}, ForecastError, "analysis of 2021-02-26T18 is missing, which forecasts from 6 h later"),
        (
            {"end": "2021-03-09"},
            ForecastError,
            "analysis of 2021-03-04T06 is missing: the store covers 2021-02-27T00 to 2021-03-03T18",
        ),
        ({"every": "9h"}, ForecastError, "analysis of 2021-02-27T15 is missing.*holds one every 6 h.*every= a multiple of its"),
        ({"lead": "3d"}, ForecastError, "lead must be at most 48 h"),
        ({"device": "cuda:99"}, ForecastError, "device must be auto, cpu or cuda"),
        ({"cascade": ["nowhere"]}, CheckpointError, "there is no checkpoint in nowhere"),
        ({"cascade": ["a", "b"]}, ForecastError, "cascade must hold UNTIL:CHECKPOINT for each stage.*got 'a'"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_store_is_made(inputs, tmp_path, changes, error, what):
    out = tmp_path / "forecast.zarr"
    with pytest.raises(error, match=what):
        run_forecasts(config(inputs, out, **changes))
    assert not out.exists()


def test_analysis_of_another_grid_is_refused(inputs, tmp_path):
    other = store_analysis(tmp_path / "other.zarr", make_analysis(columns=24).drop_vars("land_sea_mask"))
    with pytest.raises(ValueError, match="longitude differs: the model was trained on 12 points.*the store has 24 points"):
        run_forecasts(config(inputs, tmp_path / "forecast.zarr", analysis=other))
    assert not (tmp_path / "forecast.zarr").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"start": "2021-03-01", "end": "2021-02-01"}, "end must not be before start; got start=2021-03-01 end=2021-02-01"),
        ({"start": "yesterday"}, "start must be a date in UTC such as 2020-01-31 or 2020-01-31T06; got 'yesterday'"),
        ({"end": "NaT"}, "end must be a date"),
        ({"every": "6"}, "every must be a number of hours or days, as in 6h or 10d; got '6'"),
        ({"lead": "0h"}, "lead must be a number of hours or days, as in 6h or 10d; got '0h'"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"threads": -1}, "threads must be at least 1, or 0 for the default; got -1"),
        ({"cluster": "moon"}, "cluster must be one of local, dask, slurm, pbs, slurm_array; got 'moon'"),
        ({"buffer_gigabytes": -1.0}, "buffer_gigabytes must not be negative; got -1.0"),
        ({"cascade": []}, "the cascade of .*x is empty"),
        ({"branches": {"y": []}}, "the cascade of y is empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(inputs, tmp_path, changes, what):
    with pytest.raises(ForecastError, match=what):
        config(inputs, tmp_path / "x", **changes)


def test_a_branch_into_the_store_of_the_cascade_is_refused(inputs):
    with pytest.raises(ForecastError, match="branches must name other stores than out; got x in both"):
        config(inputs, "x", branches={"x": ["short"]})


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"number": 0}, "workers.number must be at least 1; got 0"),
        ({"minimum": 3}, "workers.minimum must be -1, or 0 to workers.number=2; got 3"),
        ({"cores": 0}, "workers.cores must be at least 1; got 0"),
        ({"memory": "much"}, "workers.memory must be a size, as in 8GB; got 'much'"),
        ({"walltime": "1h"}, "workers.walltime must be HH:MM:SS, at least 00:04:00; got '1h'"),
        ({"walltime": "00:03:00"}, "workers.walltime must be HH:MM:SS, at least 00:04:00"),
    ],
)
def test_workers_that_make_no_sense_are_refused_by_name(changes, what):
    with pytest.raises(ForecastError, match=what):
        WorkersConfig(**changes)


@pytest.mark.parametrize(
    ("cluster", "changes", "what"),
    [
        (
            "local",
            {"number": 4},
            "workers.number=4 has no effect with cluster=local; it is read with cluster=dask, slurm, ",
        ),
        ("dask", {"queue": "gpu"}, "workers.queue=gpu has no effect with cluster=dask; it is read with cluster=slurm, pbs, "),
        ("slurm", {"wait": False}, "workers.wait=False has no effect with cluster=slurm; it is read with cluster=slurm_array"),
        ("slurm_array", {"minimum": 0}, "workers.minimum=0 has no effect with cluster=slurm_array; .*Leave it out, or choose"),
    ],
)
def test_settings_of_workers_that_nothing_reads_are_refused(inputs, cluster, changes, what):
    with pytest.raises(ForecastError, match=what):
        config(inputs, "x", cluster=cluster, workers=WorkersConfig(**changes))


def test_durations_and_shipped_names():
    assert (parse_hours("6h", "every"), parse_hours("10d", "lead")) == (6, 240)
    assert shipped_checkpoint("short") == ROOT / "forecast" / "shipped" / "short"


def test_yaml_composes_into_the_config():
    settings = compose(RunConfig, "forecast/run", ["analysis=a.zarr", "start=2021-01-01", "end=2021-01-02T06:00", "out=o.zarr"])
    assert settings == RunConfig("a.zarr", "2021-01-01", "2021-01-02T06:00", "o.zarr")
    compact = compose(RunConfig, "forecast/run", ["analysis=a.zarr", "start=20210101", "end=2021010206", "out=o.zarr"])
    np.testing.assert_array_equal(compact.initial_times, settings.initial_times)
    branches = compose(
        RunConfig,
        "forecast/run",
        ["analysis=a", "start=2021-01-01", "end=2021-01-02", "out=o", "branches={outputs/short.zarr:[5d:short,10d:medium]}"],
    ).branches
    assert branches == {"outputs/short.zarr": ["5d:short", "10d:medium"]}
    with pytest.raises(ConfigError, match="out must be given"):
        compose(RunConfig, "forecast/run", ["analysis=a", "start=2021-01-01", "end=2021-01-02"])


def test_entry_point_says_in_one_line_where_the_forecasts_are(inputs, tmp_path, monkeypatch, capsys):
    from forecast.run import main

    out = tmp_path / "forecast.zarr"
    cascade = f"cascade=12h:{inputs / 'first'},2d:{inputs / 'second'}"
    arguments = [
        f"analysis={inputs / 'analysis.zarr'}",
        "start=2021-02-27T06",
        "end=2021-02-27T18",
        f"out={out}",
        "lead=36h",
        cascade,
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["forecast.run", *arguments])
    main()
    assert capsys.readouterr().out == f"3 forecasts to 36 h are in {out} (3 made now).\n"
    monkeypatch.setattr(sys, "argv", ["forecast.run", *arguments, "resume=true"])
    main()
    assert capsys.readouterr().out == f"3 forecasts to 36 h are in {out} (0 made now, 3 were there already).\n"
    monkeypatch.setattr(sys, "argv", ["forecast.run", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err
        == f"error: {out} exists already; nothing is overwritten. Choose another out=, or go on with it: resume=true.\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forecast.zarr", "forecast.zarr.runs"]
