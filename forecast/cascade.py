"""A cascade: one model per range of lead times, each taking over from the states of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecast.forecaster import Forecaster, ForecastError
from forecast.requirements import GRID_TOLERANCE


@dataclass(frozen=True)
class Stage:
    """A model and the last lead time [h] that it makes."""

    until_hours: int
    model: Forecaster
    name: str = ""


@dataclass(frozen=True)
class Step:
    """One model step: the lead time [h] it makes, the stage that makes it, the lead times it reads, oldest first."""

    lead_hours: int
    stage: int
    inputs: tuple[int, ...]


class Cascade:
    """Stages in order of lead time, any number of them, of any step length.

    A stage starts where the one before ends. Its first inputs are states that earlier stages made or, at lead
    times up to 0, the analysis. A stage whose states lie closer than its steps (`Requirements.interval_hours`) makes those
    whose inputs are there: after a stage of 6 h steps all, from the analysis alone every second one of steps twice as long.

    Parameters
    ----------
    stages
        Models with the lead time [h] at which each ends, ascending. All make the same channels (in any order) on one grid.

    Raises
    ------
    ForecastError
        If there is no stage, the ends do not ascend, a stage's range is no multiple of its interval, channels or grids
        differ, a stage needs a state that no earlier stage makes, or it does not make the state that it ends at.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        if not stages:
            raise ForecastError("cascade has no stage; it needs at least one, as in cascade=5d:CHECKPOINT.")
        self.stages = tuple(stages)
        begin = 0
        for number, stage in enumerate(self.stages):
            _check_range(number, stage, begin)
            _check_same_fields(number, stage, self.stages[0])
            begin = stage.until_hours
        self.channels = self.stages[0].model.requirements.channels
        self.latitude = self.stages[0].model.requirements.latitude
        self.longitude = self.stages[0].model.requirements.longitude
        self.schedule = self._schedule()

    @classmethod
    def of(cls, model: Forecaster, steps: int) -> Cascade:
        """Make a cascade of one stage that takes `steps` steps."""
        return cls([Stage(steps * model.requirements.step_hours, model)])

    @property
    def until_hours(self) -> int:
        """Last lead time [h]."""
        return self.stages[-1].until_hours

    def steps_until(self, lead_hours: int) -> int:
        """Count the steps that a forecast of `lead_hours` takes.

        Raises
        ------
        ForecastError
            If the cascade ends earlier, or makes no such lead time.
        """
        if lead_hours > self.until_hours:
            raise ForecastError(
                f"lead must be at most {self.until_hours} h, where the cascade ends; got {lead_hours} h. Give a cascade with a "
                "later stage, as in cascade=6h:first,5d:short,15d:medium."
            )
        leads = [step.lead_hours for step in self.schedule]
        if lead_hours not in leads:
            near = min(leads, key=lambda lead: abs(lead - lead_hours))
            raise ForecastError(f"lead must be one that the cascade makes; got {lead_hours} h, the nearest is {near} h.")
        return leads.index(lead_hours) + 1

    def analysis_leads(self, steps: int | None = None) -> tuple[int, ...]:
        """List the lead times [h], all at most 0, at which a forecast of some steps reads the analysis, ascending."""
        return tuple(sorted({lead for step in self.schedule[:steps] for lead in step.inputs if lead <= 0}))

    def _schedule(self) -> tuple[Step, ...]:
        steps: list[Step] = []
        made: set[int] = set()
        begin = 0
        for number, stage in enumerate(self.stages):
            need = stage.model.requirements
            for lead in range(begin + need.interval_hours, stage.until_hours + 1, need.interval_hours):
                inputs = tuple(lead - back * need.step_hours for back in range(need.history, 0, -1))
                missing = [needed for needed in inputs if needed > 0 and needed not in made]
                if need.interval_hours < need.step_hours and (missing or inputs[-1] < 0):
                    continue
                if missing:
                    raise ForecastError(
                        f"stage {number} ({_name(stage)}) starts at {begin} h and needs the state at {missing[0]} h, which no "
                        f"earlier stage makes: it has a history of {need.history} states {need.step_hours} h apart. Let it "
                        "start where its history exists, or put a stage with shorter steps before it."
                    )
                steps.append(Step(lead, number, inputs))
                made.add(lead)
            if stage.until_hours not in made:
                raise ForecastError(
                    f"stage {number} ({_name(stage)}) must end at a lead time that it makes; in steps of {need.step_hours} h "
                    f"from what is there it makes no state at {stage.until_hours} h. End it elsewhere, or put a stage with "
                    "shorter steps before it."
                )
            begin = stage.until_hours
        return tuple(steps)


def _check_range(number: int, stage: Stage, begin: int) -> None:
    interval = stage.model.requirements.interval_hours
    if stage.until_hours <= begin:
        raise ForecastError(
            f"stage {number} ({_name(stage)}) must end after {begin} h, where it starts; got {stage.until_hours} h. "
            "Give the stages in order of lead time."
        )
    if (stage.until_hours - begin) % interval:
        raise ForecastError(
            f"stage {number} ({_name(stage)}) makes a state every {interval} h and must cover a multiple of that; got {begin} "
            f"to {stage.until_hours} h."
        )


def _check_same_fields(number: int, stage: Stage, first: Stage) -> None:
    ours, theirs = stage.model.requirements, first.model.requirements
    if set(ours.channels) != set(theirs.channels):
        raise ForecastError(
            f"stage {number} ({_name(stage)}) must make the channels of stage 0, {list(theirs.channels)}; it makes "
            f"{list(ours.channels)}."
        )
    for axis in ("latitude", "longitude"):
        here, there = np.asarray(getattr(ours, axis)), np.asarray(getattr(theirs, axis))
        if here.shape != there.shape or not np.allclose(here, there, atol=GRID_TOLERANCE, rtol=0):
            raise ForecastError(
                f"stage {number} ({_name(stage)}) must have the {axis} of stage 0, {len(there)} points from {there[0]:g} to "
                f"{there[-1]:g}; it has {len(here)} from {here[0]:g} to {here[-1]:g}."
            )


def _name(stage: Stage) -> str:
    return stage.name or type(stage.model).__name__
