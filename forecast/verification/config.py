"""Settings of a verification; `configs/forecast/verify.yaml` holds their values."""

from __future__ import annotations

from dataclasses import dataclass, field

from forecast.verification.baselines import BASELINES
from forecast.verification.inputs import VerificationError
from forecast.verification.regions import REGIONS


@dataclass
class TargetsConfig:
    """What the forecast under test is held to; lead times in hours, those that are not scored are left out.

    Attributes
    ----------
    below_all_baselines
        RMSE below every baseline at these lead times.
    not_above_climatology
        RMSE at or below climatology's.
    not_above_short
        RMSE at or below that of the short stage alone (`short=STORE`).
    """

    below_all_baselines: list[int] = field(default_factory=lambda: [6, 24, 48, 72])
    not_above_climatology: list[int] = field(default_factory=lambda: [120, 144, 168, 192, 216, 240])
    not_above_short: list[int] = field(default_factory=lambda: [240])

    def __post_init__(self) -> None:
        for name in ("below_all_baselines", "not_above_climatology", "not_above_short"):
            if any(lead <= 0 for lead in getattr(self, name)):
                raise VerificationError(f"targets.{name} holds lead times in hours above 0; got {getattr(self, name)}.")


@dataclass
class VerifyConfig:
    """Settings of `python -m forecast.verify`.

    Attributes
    ----------
    forecast, truth, out
        Forecast store, analysis store, and the folder that is made.
    name
        What the forecast is called in tables and figures.
    train
        Analysis store on which baselines are fitted; None: truth.
    train_span
        First and last time of the fit, both included; None: the forecast's attribute `training_span`, or all of `train`.
    short
        Forecast store of the short stage alone, to compare with.
    compare
        More forecast stores, by name.
    climatology
        Climatology store in WeatherBench 2's layout; None: that of the training span.
    variables
        Variables to score; None: all of the forecast.
    baselines, regions
        Names; the first region is the one that tables, tests and figures are about.
    start, end
        First and last initial time to score; None: all.
    leads
        Lead times [h] of weather to score; None: all of the forecast. The baseline stencil_ridge chooses its form at these.
    score_training_span
        Score times that the model or the baselines were trained on, instead of refusing.
    allow_missing
        Leave out forecasts with NaN instead of refusing.
    key_leads
        Lead times [h] of tables and of the scorecard; those that the forecast lacks are left out.
    map_leads
        Lead times [h] of the maps.
    map_time
        Initial time of the maps; None: the last one for which all map lead times verify.
    spectrum_leads
        Lead times [h] of the spectra.
    targets
        What the forecast is held to.
    data_licence
        Line about the data's licence in the report; None: the attribute `license` of truth.
    memory_limit_mb
        Fields kept in memory at a time, of one forecast, and of the training span four times that.
    progress
        Whether to show progress bars.
    """

    forecast: str
    truth: str
    out: str
    name: str = "forecast"
    train: str | None = None
    train_span: list[str] | None = None
    short: str | None = None
    compare: dict[str, str] = field(default_factory=dict)
    climatology: str | None = None
    variables: list[str] | None = None
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    regions: list[str] = field(default_factory=lambda: list(REGIONS))
    start: str | None = None
    end: str | None = None
    leads: list[int] | None = None
    score_training_span: bool = False
    allow_missing: bool = False
    key_leads: list[int] = field(default_factory=lambda: [6, 12, 24, 48, 72, 120, 168, 240])
    map_leads: list[int] = field(default_factory=lambda: [24, 72, 120, 240])
    map_time: str | None = None
    spectrum_leads: list[int] = field(default_factory=lambda: [24, 72, 240])
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    data_licence: str | None = None
    memory_limit_mb: int = 256
    progress: bool = True

    def __post_init__(self) -> None:
        if self.train_span is not None and len(self.train_span) != 2:
            raise VerificationError(
                f"train_span must hold two times, first and last, as [2025-12-01,2026-01-20]; got {self.train_span}."
            )
        if self.memory_limit_mb < 1:
            raise VerificationError(f"memory_limit_mb must be at least 1; got {self.memory_limit_mb}.")
        names = [self.name, *(["short"] if self.short else []), *self.compare, *self.baselines]
        if len(set(names)) != len(names):
            raise VerificationError(f"forecasts and baselines need different names; got {names}. Change name or compare.")
        if not self.regions:
            raise VerificationError("regions is empty; score at least [global].")
