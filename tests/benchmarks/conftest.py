"""A study that is small enough for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.skill.study import Study
from data_pipelines.store import create_analysis_store, write_analysis
from forecast import checkpoint
from forecast.checkpoint import save_checkpoint
from tests.helpers.analyses import make_analysis
from tests.helpers.forecasters import extrapolation

SPAN = ("2019-01-01", "2020-06-30")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study with one network that is trained."""
    monkeypatch.setitem(checkpoint.MODELS, "Extrapolation", "tests.helpers.forecasters")
    analysis = make_analysis().drop_vars("land_sea_mask")
    create_analysis_store(tmp_path / "analysis.zarr", analysis, attributes={"license": "CC-BY-4.0", "source": "made for tests"})
    write_analysis(tmp_path / "analysis.zarr", analysis)
    store = tmp_path / "analysis.zarr"
    made = Study(
        tmp_path, ("era5", store), store, SPAN, "2021-02-27T06", "2021-02-27T12", "net", every="6h", leads=(6, 12),
        behind={"net cascade": "net"},
    )  # fmt: skip
    for name, gain in (("net", 0.5), ("net cascade", -0.25)):
        save_checkpoint(made.checkpoint(name, 0), extrapolation(analysis, gain=gain), training_span=SPAN, data_hash=name)
    return made
