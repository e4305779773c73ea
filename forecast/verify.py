"""Scores a forecast: `python -m forecast.verify forecast=STORE truth=STORE out=DIR`."""

from __future__ import annotations

from configs.compose import entry
from forecast.verification.config import VerifyConfig
from forecast.verification.verification import verify


@entry(VerifyConfig, "forecast/verify", lists=("train_span", "variables", "baselines", "regions", "key_leads", "map_leads"))
def main(config: VerifyConfig) -> str:
    """Verify, and say where the report is."""
    found = verify(config)
    missed = sum(not target.met for target in found.targets)
    scored, met, judged = found.contest.sample.initial_times.size, len(found.targets) - missed, len(found.targets)
    return (
        f"Scored {scored} forecasts; {met} of {judged} targets met. "
        f"Report: {config.out}/report.html  Scorecard: {config.out}/scorecard.png  Maps: {config.out}/map_*.png"
    )


if __name__ == "__main__":
    main()
