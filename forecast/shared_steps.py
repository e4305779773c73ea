"""Cascades that begin alike: the steps that they share are made once, and each goes on from there by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forecast.cascade import Cascade, Step

Key = tuple[int, int]  # of a state: the first cascade that has it, its lead time [h]


@dataclass(frozen=True)
class SharedStep:
    """A step in the row that makes all steps of some cascades.

    Attributes
    ----------
    step
        As the first of its cascades has it.
    cascades
        Numbers of the cascades whose step it is, ascending.
    reads
        The states that it reads, oldest first.
    initial
        The state that its forecast began with.
    """

    step: Step
    cascades: tuple[int, ...]
    reads: tuple[Key, ...]
    initial: Key

    @property
    def makes(self) -> Key:
        """The state that it makes."""
        return self.cascades[0], self.step.lead_hours


def share_steps(cascades: Sequence[Cascade], steps: Sequence[int]) -> list[SharedStep]:
    """Put the steps of cascades in a row, those in which several begin alike once.

    Cascades are alike as long as the same model (one object, not a copy of it) reads the same lead times.

    Parameters
    ----------
    cascades
        In any order; of those that are alike the first makes the steps.
    steps
        How many steps each of them takes, at least 1.
    """
    begins = [_identified(cascade, count) for cascade, count in zip(cascades, steps, strict=True)]
    row = []
    for number, (cascade, own) in enumerate(zip(cascades, begins, strict=True)):
        alike = [_common(own, other) for other in begins]  # steps in common with every cascade, itself too
        first = {lead: _first(alike, 1) for lead in cascade.analysis_leads(len(own))}
        for place, step in enumerate(cascade.schedule[: len(own)], 1):
            first[step.lead_hours] = _first(alike, place)
            if first[step.lead_hours] == number:
                sharing = tuple(other for other, common in enumerate(alike) if common >= place)
                reads = tuple((first[lead], lead) for lead in step.inputs)
                row.append(SharedStep(step, sharing, reads, (first[0], 0)))
    return row


def _identified(cascade: Cascade, steps: int) -> list[tuple[int, tuple[int, ...], int]]:
    return [(id(cascade.stages[step.stage].model), step.inputs, step.lead_hours) for step in cascade.schedule[:steps]]


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the longest beginning that two sequences share."""
    shortest = min(len(one), len(other))
    return next((place for place in range(shortest) if one[place] != other[place]), shortest)


def _first(alike: Sequence[int], steps: int) -> int:
    return next(number for number, common in enumerate(alike) if common >= steps)
