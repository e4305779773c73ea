"""Settings of small jobs of a network whose forecasts can be computed by hand."""

import pytest

from forecast import checkpoint
from forecast.checkpoint import save_checkpoint
from forecast.job_config import RunConfig
from tests.forecast.test_job import ANALYSIS, store_analysis
from tests.helpers.forecasters import extrapolation


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Make the settings of a job that writes to `out`: 11 initial times to 10 days, but for what is given by name."""
    monkeypatch.setitem(checkpoint.MODELS, "Extrapolation", "tests.helpers.forecasters")
    store_analysis(tmp_path / "analysis.zarr", ANALYSIS)
    save_checkpoint(tmp_path / "first", extrapolation(ANALYSIS), training_span=("2019-01-01", "2020-06-30"), data_hash="data")

    def settings(out, **changes):
        given = {
            "analysis": str(tmp_path / "analysis.zarr"), "start": "2021-02-27T06", "end": "2021-03-01T18", "every": "6h",
            "lead": "10d", "out": str(out), "cascade": [str(tmp_path / "first")], "device": "cpu", "batch_size": 2,
            "progress": False,
        }  # fmt: skip
        return RunConfig(**(given | changes))

    return settings
