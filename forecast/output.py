"""One store of a job: the cascade whose forecasts it holds, its layout, and what it says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from data_pipelines.locations import redacted
from data_pipelines.selection import select
from data_pipelines.store import data_hash
from forecast.cascade import Cascade
from forecast.checkpoint import Description, code_version
from forecast.forecast_store import (
    ForecastLayout,
    check_same_job,
    create_forecast_store,
    forecast_store_exists,
    missing_forecasts,
    remove_leftovers,
)

Forecast = tuple[np.datetime64, int | None]  # initial time and member


@dataclass(frozen=True)
class Output:
    """A store that a job fills.

    Parameters
    ----------
    path
        Local folder or URL.
    cascade, descriptions
        Who makes its forecasts, and what the checkpoints say; behind these, what checkpoints of more cascades for members say.
    steps
        How many steps of the cascade it holds.
    initial_times, members
        Of the forecasts in it; no members for single ones.
    """

    path: str
    cascade: Cascade
    descriptions: Sequence[Description]
    steps: int
    initial_times: np.ndarray
    members: tuple[int, ...] = ()

    @cached_property
    def layout(self) -> ForecastLayout:
        """Layout of the store."""
        schedule = self.cascade.schedule[: self.steps]
        return ForecastLayout(
            initial_times=self.initial_times,
            lead_hours=tuple(step.lead_hours for step in schedule),
            stages=tuple(step.stage for step in schedule),
            channels=self.cascade.channels,
            latitude=self.cascade.latitude,
            longitude=self.cascade.longitude,
            members=self.members,
        )

    def prepare(self, attributes: dict[str, Any]) -> None:
        """Create the store, or see that what is there is the same job's.

        Raises
        ------
        StoreError
            If it is not, or the store cannot be written.
        """
        if forecast_store_exists(self.path):
            check_same_job(self.path, self.layout, attributes)
            remove_leftovers(self.path)
        else:
            names = [stage.name for stage in self.cascade.stages]
            create_forecast_store(self.path, self.layout, attributes, names)

    def attributes(self, analysis: xr.Dataset, read: np.ndarray) -> dict[str, Any]:
        """Global attributes of the store; what they say identifies the job, and hashing takes a while.

        Parameters
        ----------
        read
            Times of the analysis that forecasts read; the rest is not hashed: the store may grow, and may be very large.
        """
        names = sorted({channel.variable for channel in self.layout.parsed})
        spans = [description.training_span.split("/") for description in self.descriptions]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        stages = "; ".join(
            f"{stage.name} to {stage.until_hours} h ({description.model}, {stage.model.requirements.step_hours} h steps)"
            for stage, description in zip(self.cascade.stages, self.descriptions, strict=False)
        )
        return {
            "checkpoint_sha256": [description.weights_sha256 for description in self.descriptions],
            "summary": f"Forecasts from {len(self.initial_times)} initial times by the cascade: {stages}.",
            "source": f"skysolve {code_version()}, cascade: {stages}",
            "cascade": stages,
            "training_span": f"{min(start for start, _ in spans)}/{max(end for _, end in spans)}",
            "training_data_sha256": [description.data_hash for description in self.descriptions],
            "analysis_source": redacted(analysis.attrs.get("source", "not stated")),
            "analysis_sha256": data_hash(select(analysis[names], time=read)),
            "license": str(analysis.attrs.get("license", "not stated")),
            "code_version": code_version(),
            "date_created": now,
            "history": f"{now} created by skysolve {code_version()} (forecast.run)",
        }


def missing_from(paths: Iterable[str | Path]) -> set[Forecast]:
    """The forecasts that one of some stores lacks, or more than one."""
    return {forecast for path in paths for forecast in missing_forecasts(path)}
