"""What a study makes of its rows' forecasts."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from benchmarks.skill.study import FORECAST, Study, average, forecast, make_all, train
from data_pipelines.store import StoreError
from forecast.exits import UnfinishedError, stop_on_signal
from forecast.forecast_store import missing_forecasts
from forecast.training import TrainingConfig


def test_mean_of_seeds_is_the_mean_of_their_forecasts_in_the_same_units(tmp_path: Path) -> None:
    paths = []
    for seed, value in enumerate((1.0, 2.0, 6.0)):
        paths.append(tmp_path / f"net-{seed}.zarr")
        fields = {"mean_sea_level_pressure": (("time", "longitude"), np.full((2, 3), value, "f4"), {"units": "Pa"})}
        xr.Dataset(fields, {"time": [0, 1]}).to_zarr(paths[-1], zarr_format=2, consolidated=True)
    mean = xr.open_zarr(average(paths, tmp_path / "mean.zarr"), consolidated=False).load()
    np.testing.assert_array_equal(mean["mean_sea_level_pressure"], np.full((2, 3), 3.0))
    assert mean["mean_sea_level_pressure"].attrs["units"] == "Pa"
    assert mean.attrs["title"] == "mean of 3 forecasts"


def test_forecasts_that_are_there_are_kept_and_those_of_another_checkpoint_refused(study: Study) -> None:
    forecast(study, "net", 0)
    store = study.out / "net-0" / FORECAST
    assert not missing_forecasts(store)
    written = {path: path.stat().st_mtime_ns for path in store.rglob("c/**/*") if path.is_file()}
    assert written
    forecast(study, "net", 0)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("c/**/*") if path.is_file()} == written
    for name in ("net", "net cascade"):
        study.checkpoint(name, 0).rename(study.out / name)
    (study.out / "net cascade").rename(study.checkpoint("net", 0))
    with pytest.raises(StoreError, match="holds another job: its checkpoint_sha256"):
        forecast(study, "net", 0)


def test_a_second_stage_takes_over_at_the_hand_over(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.skill.study.HAND_OVER", 6)
    for name in ("net", "net cascade"):
        forecast(study, name, 0)
    one, two = (xr.open_zarr(study.folder(name, 0) / FORECAST, consolidated=False) for name in ("net", "net cascade"))
    pressure = "mean_sea_level_pressure"
    xr.testing.assert_equal(one[pressure].isel(prediction_timedelta=0), two[pressure].isel(prediction_timedelta=0))
    assert (one[pressure] != two[pressure]).isel(prediction_timedelta=-1).mean() > 0.9


def test_a_second_stage_learns_behind_the_first_one_of_its_seed(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    class Learned(Exception):
        pass

    def refuse(config: TrainingConfig) -> None:
        first = str(study.checkpoint("net", 3))
        assert (config.initial, config.earlier_stages, config.earlier_until_hours) == ([first], [first], [120])
        assert (config.lead_until_hours, config.seed, config.out) == (12, 3, str(study.folder("net cascade", 3)))
        raise Learned

    monkeypatch.setattr("benchmarks.skill.study.Trainer", refuse)
    with pytest.raises(Learned):
        train(study, "net cascade", 3, ["experiment=sample_short"])


def test_rows_that_fail_are_told_and_none_at_all_is_refused(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(_: Study, name: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
        if name == "broken":
            raise ValueError("no such thing")
        return {"name": name, "seed": seed}

    monkeypatch.setattr("benchmarks.skill.study.train", trained)
    rows, failed = make_all(study, {"broken": [], "net": []}, [0])
    assert [row["name"] for row in rows] == ["net"]
    assert failed == [{"name": "broken", "seed": 0, "error": "ValueError: no such thing"}]
    with pytest.raises(RuntimeError, match="none of 2 rows was made; the first one, broken, told: ValueError: no such thing"):
        make_all(study, {"broken": []}, [0, 1])


def test_a_study_that_is_told_to_stop_makes_no_other_row(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the training that runs is stopped by it or has just ended."""
    begun = []

    def stop(_: Study, name: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
        begun.append(name)
        with stop_on_signal():
            signal.raise_signal(signal.SIGTERM)
        if name == "stopped":
            raise UnfinishedError("stopped (SIGTERM) after step 3 of 9.")
        return {"name": name, "seed": seed}

    monkeypatch.setattr("benchmarks.skill.study.train", stop)
    for name in ("stopped", "net"):
        with pytest.raises(UnfinishedError, match=rf"stopped \(SIGTERM\) at {name}, seed 0; what is made is kept"):
            make_all(study, {name: [], "two": []}, [0])
    assert begun == ["stopped", "net"]
