"""Networks that learn from ERA5 alone: what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.skill.era5_alone import LEADS, PRESSURE, REPORT, SHIPPED, TRAIN, draw, shipped_row, shown, skilful_until, tables
from benchmarks.skill.peers.__main__ import NETWORKS
from benchmarks.skill.study import Study
from configs.compose import compose
from forecast.checkpoint import read_description
from forecast.stages import shipped_checkpoint
from forecast.training import TrainingConfig


def scores(skilful: int) -> dict[str, Any]:
    numbers = {"rmse": 300.0, "rmse_by_seed": [300.0], "activity": 0.9, "short_waves": 0.8, "against": [-0.1, -0.2, 0.1]}
    return {str(lead): numbers | {"acc": 0.7 if lead <= skilful else 0.5} for lead in LEADS}


def result(**hours: int) -> dict[str, Any]:
    costs = {"seeds": [0], "parameters": 1234, "steps": 300, "seconds": [60.0]}
    rows = [{"name": name, **costs, "scores": {PRESSURE: scores(until)}} for name, until in hours.items()]
    return {
        "rows": rows, "reference": next(iter(hours)), "failed": [], "left_out": [], "experiment": ["era5_alone"],
        "machine": {"cpu": "a processor", "load_average": 1.0},
    }  # fmt: skip


@pytest.mark.parametrize("until", [0, 48, LEADS[-1]])
def test_a_network_is_skilful_until_its_correlation_falls(until: int) -> None:
    found = scores(until)
    assert skilful_until(found) == until
    found["6"]["acc"] = None  # climatology has none
    assert skilful_until(found) == 0


def test_the_longest_skilful_stands_first(tmp_path: Path) -> None:
    found = result(ours=48, UNet=0, PuYun=66)
    assert tables(found).splitlines()[2:5] == ["| PuYun | to 66 h |", "| ours | to 48 h |", "| UNet | never |"]
    assert list(shown(found)["rows"][0]["scores"][PRESSURE]) == ["6", "24", "48", "72", "120"]
    draw(shown(found), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_from_the_days_of_the_shipped_stages(name: str) -> None:
    config = compose(TrainingConfig, "forecast/train", ["experiment=era5_alone", *NETWORKS[name]])
    assert list(config.sources) == ["era5"]
    assert (config.sources["era5"].start, config.sources["era5"].end) == (TRAIN[0][:10], TRAIN[1][:10])
    assert read_description(shipped_checkpoint("short")).training_span == "/".join(TRAIN)
    assert TRAIN[1] < config.validation_start < config.validation_end < REPORT[0]


def test_the_shipped_stage_is_a_row_as_it_is(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []
    monkeypatch.setattr("benchmarks.skill.era5_alone.run_forecasts", jobs.append)
    row = shipped_row(study, SHIPPED, 0)
    assert row == {"name": SHIPPED, "seed": 0, "parameters": 627_272, "steps": 0, "seconds": 0.0}
    assert (jobs[0].cascade, jobs[0].start, jobs[0].end) == (["6h:first", "12h:short"], study.start, study.end)
    assert jobs[0].out == str(study.folder(SHIPPED, 0) / "forecast.zarr")
