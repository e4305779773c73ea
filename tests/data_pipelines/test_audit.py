"""The audit finds what is wrong, says when and where, and lets pass what was allowed by name."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from data_pipelines.audit import FINDINGS, Audit, AuditError, Auditor, BlockReport, audit, audit_times
from data_pipelines.audit_table import MOST_LEFT_OUT, audit_table
from data_pipelines.sample import sample_sources
from data_pipelines.sources import open_sources
from data_pipelines.standardise import NOT_ASKED
from tests.helpers.analyses import make_analysis


@pytest.fixture(scope="module")
def sample() -> xr.Dataset:
    return open_sources(sample_sources()).isel(time=slice(100, 140)).load()


def found(report: Audit) -> dict[str, str]:
    return {finding.name: finding.message for finding in report.findings}


def plain(steps: int = 6) -> xr.Dataset:
    """An analysis without anything to find."""
    data = make_analysis(steps=steps)
    return data.assign(land_sea_mask=data["land_sea_mask"].copy(data=np.linspace(1, 0, 84).reshape(7, 12).astype("float32")))


def test_real_data_pass_and_are_described(sample: xr.Dataset) -> None:
    report = audit(sample, ["sample"])
    assert report.accepted
    assert report.steps == 40
    assert report.step_hours == 6
    assert report.span == ("2025-12-26T00:00", "2026-01-04T18:00")
    assert report.expver == {"0001": 24, "0005": 16}
    assert found(report).keys() == {"expver"}, "a mix of final and preliminary data is noted, not refused"
    pressure = report.channels[1]
    assert (pressure.variable, pressure.units) == ("mean_sea_level_pressure", "Pa")
    assert pressure.minimum == float(sample["mean_sea_level_pressure"].min())
    weights = sample["latitude"].copy(data=np.cos(np.deg2rad(sample["latitude"].values)))
    assert pressure.mean == pytest.approx(float(sample["mean_sea_level_pressure"].weighted(weights).mean()), rel=1e-6)
    assert "vo renamed to vorticity" in report.changes


@pytest.mark.parametrize("variable", ["mean_sea_level_pressure", "vorticity"])
def test_mislabelled_hemispheres_are_found_in_real_data(sample: xr.Dataset, variable: str) -> None:
    """Latitude labels are right, rows are not: no check of coordinates can see it."""
    swapped = sample[[variable]].isel(latitude=slice(None, None, -1)).assign_coords(latitude=sample["latitude"])
    assert "looks upside down" in found(audit(swapped))["upside_down"]
    assert audit(swapped, allow=["upside_down"]).accepted
    assert audit(sample[[variable]]).accepted


def test_hemispheres_are_not_judged_where_they_cannot_be(sample: xr.Dataset) -> None:
    north = sample.sel(latitude=slice(90, 0)).isel(latitude=slice(None, None, -1))
    assert "upside_down" not in found(audit(north.assign_coords(latitude=sample["latitude"][:37])))
    high = sample[["vorticity"]].assign_coords(level=np.array([100], dtype="int32"))
    assert "upside_down" not in found(
        audit(high.isel(latitude=slice(None, None, -1)).assign_coords(latitude=sample["latitude"]))
    )
    nothing = sample[["mean_sea_level_pressure"]] * np.nan
    assert "upside_down" not in found(audit(nothing))


def defect(data: xr.Dataset, name: str) -> xr.Dataset:
    data = data.copy(deep=True)
    pressure = data["mean_sea_level_pressure"].values
    if name == "nan_fields":
        pressure[2] = np.nan
    elif name == "nan_points":
        pressure[2, 1, 3] = np.nan
    elif name == "constant_fields":
        pressure[2] = 1e5
    elif name == "repeated_fields":
        pressure[2] = pressure[1]
    elif name == "out_of_range":
        pressure[2, 0, 0] = 1013.25
    elif name == "regional":
        return data.isel(longitude=slice(0, 6))
    elif name == "gaps":
        return data.isel(time=[0, 1, 3, 4, 5])
    elif name == "duplicate_times":
        return data.isel(time=[0, 1, 2, 2, 3, 4, 5])
    elif name == "upside_down":
        return data.assign(land_sea_mask=data["land_sea_mask"][::-1].drop_vars("latitude"))
    return data


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan_fields", r"mean_sea_level_pressure is missing \(NaN\) everywhere at 2021-02-27T12:00"),
        ("nan_points", "missing at up to 1 of 84 points at 2021-02-27T12:00"),
        ("constant_fields", "has one value everywhere at 2021-02-27T12:00"),
        ("repeated_fields", "equals the field before, bit by bit at 2021-02-27T12:00"),
        ("out_of_range", r"reaches 1013.25 to .* lies in 85000 to 110000 Pa: wrong units\? at 2021-02-27T12:00"),
        ("regional", "the grid leaves a part of the globe out"),
        ("gaps", "1 times are missing in 1 gaps of the 6 h step, after at 2021-02-27T06:00"),
        ("duplicate_times", "times are there more than once at 2021-02-27T12:00"),
        ("upside_down", "land_sea_mask looks upside down"),
    ],
)
def test_defect_is_found_named_and_can_be_allowed(name: str, message: str) -> None:
    assert audit(plain()).findings == []
    broken = defect(plain(), name)
    allow = ["repeated_fields"] if name == "duplicate_times" else []  # the second of two equal times repeats a field
    report = audit(broken, ["file.nc"], allow=allow)
    with pytest.raises(AuditError, match=rf"the audit refuses file.nc: {name}: .*{message}.*allow=\[{name}\]"):
        report.raise_if_refused()
    audit(broken, allow=[name, *allow]).raise_if_refused()
    assert name in FINDINGS


def test_every_defect_can_be_found() -> None:
    assert {"nan_fields", "nan_points", "constant_fields", "repeated_fields", "out_of_range"} | {
        "regional",
        "gaps",
        "duplicate_times",
        "upside_down",
    } == set(FINDINGS)


def test_unknown_name_to_allow_is_refused() -> None:
    with pytest.raises(AuditError, match=r"allow has \['everything'\], which the audit does not know; it can allow \["):
        audit(plain(), allow=["everything"])


def test_uneven_step_cannot_be_allowed() -> None:
    times = np.array(["2020-01-01T00", "2020-01-01T06", "2020-01-01T12", "2020-01-01T19"], dtype="datetime64[ns]")
    with pytest.raises(AuditError, match=r"6 h mostly, but 7 h from 2020-01-01T12:00 to 2020-01-01T19:00.*every="):
        audit_times(times, allow=["gaps"])
    assert audit_times(times[:1]) == []


def test_missing_sea_over_land_is_a_note() -> None:
    data = plain()
    sea = data[["mean_sea_level_pressure"]].rename(mean_sea_level_pressure="sea_surface_temperature") / 350
    sea = sea.where(data["land_sea_mask"] < 0.5).assign_coords(latitude=data["latitude"])
    report = audit(sea.astype("float32"))
    assert report.accepted
    assert "nan_points" in found(report)


def test_blocks_in_any_order_give_the_same_report() -> None:
    """What an interrupted build relies on; the report of a block goes through JSON."""
    data = defect(defect(plain(12), "nan_fields"), "out_of_range")
    wanted = audit(data, ["x"])
    timed = data.drop_vars("land_sea_mask")
    auditor = Auditor(data, ["x"])
    for block in (slice(8, 12), slice(0, 3), slice(3, 8)):
        report = Auditor(data, ["x"]).look(timed.isel(time=block))
        auditor.keep(BlockReport.from_json(json.loads(json.dumps(report.as_json()))))
    auditor.keep(auditor.look(data[["land_sea_mask"]]))
    result = auditor.result()
    assert result.findings == wanted.findings
    for one, other in zip(result.channels, wanted.channels, strict=True):
        assert one.mean == pytest.approx(other.mean, rel=1e-12)
        one.mean = other.mean
        assert one == other


def test_reports_of_a_long_record_take_tens_of_bytes_a_field() -> None:
    """40 years of 69 channels are 4 million fields, in blocks of one step where the grid is fine."""
    channels, blocks = [f"channel_{number}" for number in range(69)], 100
    column = [1.0] * len(channels)
    fields = {"low": column, "high": column, "missing": [0] * 69, "checksum": [7] * 69}
    totals = [[1.0, 2.0, float("nan")]] * 69
    text = json.dumps({"start": 0, "channels": channels, "counts": [1] * 69, **fields, "totals": totals})
    tracemalloc.start()
    reports = [BlockReport.from_json(json.loads(text)) for _ in range(blocks)]
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 80 * blocks * len(channels)
    assert len(reports) == blocks


def test_repeat_across_two_blocks_is_found() -> None:
    data = defect(plain(), "repeated_fields").drop_vars("land_sea_mask")
    report = audit(data, steps=2)
    assert "repeated_fields" in found(report)


def test_report_is_whole_json(tmp_path: Path) -> None:
    data = plain()
    data["mean_sea_level_pressure"][:] = np.nan
    audit(data, ["x"], allow=["nan_fields"]).write(tmp_path / "a.zarr.audit.json")
    content = json.loads((tmp_path / "a.zarr.audit.json").read_text())
    assert content["accepted"] is True
    assert content["findings"][0]["count"] == 6
    assert content["channels"][-2]["minimum"] is None
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr.audit.json"]


def test_table_shows_fields_and_findings() -> None:
    report = audit(defect(plain(), "gaps"), ["x"], allow=["gaps"])
    report.findings += audit(defect(plain(), "nan_fields")).findings
    report.changes = ["latitude turned"]
    report.left_out = [f"vorticity {NOT_ASKED}", *(f"mystery_{number} is unknown" for number in range(MOST_LEFT_OUT + 2))]
    console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(audit_table(report))
    text = console.export_text()
    console.file.close()
    assert "temperature 500 hPa" in text
    assert "accepted gaps: 1 times are missing" in text
    assert "refused nan_fields" in text
    assert "1 changes at the door" in text
    assert "left out: mystery_0 is unknown" in text
    assert f"mystery_{MOST_LEFT_OUT} " not in text
    assert "2 more left out" in text
    assert NOT_ASKED not in text


def test_progress_counts_steps() -> None:
    seen: list[tuple[int, int]] = []
    audit(plain(), steps=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 6), (6, 6)]
