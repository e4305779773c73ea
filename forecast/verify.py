"""Scores a forecast: `python -m forecast.verify forecast=STORE truth=STORE out=DIR`."""

from __future__ import annotations

from configs.compose import entry
from data_pipelines.store import holds_waves
from forecast.verification.config import VerifyConfig
from forecast.verification.verification import verify
from forecast.verification.waves import verify_waves

LISTS = ("train_span", "variables", "baselines", "regions", "leads", "key_leads", "map_leads")


@entry(VerifyConfig, "forecast/verify", lists=LISTS)
def main(config: VerifyConfig) -> str:
    """Verify, and say where the report is."""
    if holds_waves(config.truth):
        scores = verify_waves(config).scores
        error = float(scores["relative_l2"][0, :, -1].median())
        return (
            f"Scored {scores.sizes['sample']} samples of waves; median relative L2 error {100 * error:.1f} % at "
            f"{float(scores['lead'][-1]):g} s. Report: {config.out}/report.html"
        )
    found = verify(config)
    missed = sum(not target.met for target in found.targets)
    scored, met, judged = found.contest.sample.initial_times.size, len(found.targets) - missed, len(found.targets)
    return "".join(f"Note: {doubt}\n" for doubt in found.doubts) + (
        f"Scored {scored} forecasts; {met} of {judged} targets met. "
        f"Report: {config.out}/report.html  Scorecard: {config.out}/scorecard.png  Maps: {config.out}/map_*.png"
    )


if __name__ == "__main__":
    main()
