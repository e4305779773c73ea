"""Batch forecasts from an analysis store: `python -m forecast.run analysis=STORE start=DATE end=DATE lead=10d out=STORE`."""

from __future__ import annotations

from configs.compose import entry
from data_pipelines.locations import redacted
from data_pipelines.store import holds_waves
from forecast.job import run_forecasts
from forecast.job_config import RunConfig
from forecast.wave_job import run_wave_forecasts


@entry(RunConfig, "forecast/run", lists=("cascade",))
def main(config: RunConfig) -> str:
    """Run the job and say where its forecasts are."""
    if holds_waves(config.analysis):
        waves = run_wave_forecasts(config)
        return f"{waves.samples} samples to {waves.lead_seconds:g} s are in {waves.out} ({waves.made} made now)."
    result = run_forecasts(config)
    stores = " and ".join(redacted(store) for store in (result.out, *result.branches))
    if result.submitted:
        return f"submitted {result.submitted}; {result.forecasts} forecasts to {result.lead_hours} h will be in {stores}."
    kept = f", {result.forecasts - result.made} were there already" if result.made < result.forecasts else ""
    return f"{result.forecasts} forecasts to {result.lead_hours} h are in {stores} ({result.made} made now{kept})."


if __name__ == "__main__":
    main()
