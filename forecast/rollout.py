"""Roll-out: forecasts step by step, for a batch of initial times at once, in memory that does not grow with lead time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float32
from torch import Tensor

from data_pipelines.errors import first_line
from data_pipelines.variables import Channel, physical_bounds
from forecast.cascade import Cascade, Step
from forecast.forecaster import Forecaster, ForecastError
from forecast.shared_steps import Key, SharedStep, share_steps
from forecast.state import State, check_times, read_states

PRECISIONS = ("auto", "bf16", "fp32")


def choose_device(name: str = "auto") -> torch.device:
    """Turn "auto" into the GPU where there is one, else the CPU; take any other name as torch does.

    Raises
    ------
    ForecastError
        If the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ForecastError(
            f"device must be auto, cpu or cuda[:NUMBER] of this machine; got {name!r} ({first_line(error)})."
        ) from error
    return device


def computes_in_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether networks run in bfloat16 (states and sums stay float32).

    Parameters
    ----------
    precision
        "bf16", "fp32", or "auto": bfloat16 where the device has instructions for it.

    Raises
    ------
    ForecastError
        If precision is none of them.
    """
    if precision not in PRECISIONS:
        raise ForecastError(f"precision must be one of {PRECISIONS}; got {precision!r}.")
    if precision == "auto" and device.type == "cpu":
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.13 or newer
        return bool(capabilities.get("avx512_bf16"))
    return precision != "fp32"


def rollout(
    model: Forecaster | Cascade,
    analysis: xr.Dataset,
    initial_times: Sequence[np.datetime64] | np.ndarray,
    steps: int,
    device: torch.device | str = "auto",
    precision: str = "auto",
    perturbations: Float32[np.ndarray, "batch channel lat lon"] | None = None,
    *,
    calibrated: bool = True,
) -> Iterator[State]:
    """Forecast from some initial times, one step at a time.

    Only the states that a later step reads are kept. States are float32, whatever the networks compute in.

    Parameters
    ----------
    model
        A forecaster, or a cascade of them.
    analysis
        As `data_pipelines.store.open_analysis` gives it: holds the initial times and the history before them.
    initial_times
        datetime64; they run as one batch.
    steps
        Number of states to make, at least 1.
    device
        "auto", "cpu", "cuda", "cuda:1" ...
    precision
        "auto", "bf16" or "fp32", see `computes_in_bfloat16`.
    perturbations
        Added to every state that is read of the analysis, physical units.
    calibrated
        Whether to give states as readers shall see them (see `Forecaster.calibrated`; cut to
        `data_pipelines.variables.physical_bounds`), or as they are carried on.

    Yields
    ------
    State
        On `device`, in order of lead time.

    Raises
    ------
    ForecastError
        If the analysis lacks a time, or the forecast leaves the finite numbers.
    ValueError
        If the analysis has another grid or other fields than the model needs.
    """
    if steps < 1:
        raise ForecastError(f"steps must be at least 1; got {steps}.")
    cascade = model if isinstance(model, Cascade) else Cascade.of(model, steps)
    states = rollout_branches(
        [cascade], analysis, initial_times, [steps], device, precision, [perturbations], calibrated=calibrated
    )
    return (state for _, state in states)


def rollout_branches(
    cascades: Sequence[Cascade],
    analysis: xr.Dataset,
    initial_times: Sequence[np.datetime64] | np.ndarray,
    steps: Sequence[int],
    device: torch.device | str = "auto",
    precision: str = "auto",
    perturbations: Sequence[Float32[np.ndarray, "batch channel lat lon"] | None] | None = None,
    *,
    calibrated: bool = True,
) -> Iterator[tuple[tuple[int, ...], State]]:
    """Forecast by several cascades; steps in which they begin alike are made once (`forecast.shared_steps`).

    Parameters
    ----------
    cascades
        At least one. What they share are model objects, so load a checkpoint once (`loaded` of `forecast.stages.load_cascade`).
    steps, perturbations
        One for each cascade.
    analysis, initial_times, device, precision, calibrated
        As for `rollout`.

    Yields
    ------
    tuple
        Numbers of the cascades that the state belongs to, and the state, whose `stage` is the first one's. The bits are those
        of separate roll-outs; the order is the first cascade's steps, then what the second adds, and so on.

    Raises
    ------
    ForecastError, ValueError
        As for `rollout`.
    """
    times = np.asarray(initial_times).astype("datetime64[ns]")
    if times.ndim != 1 or not times.size:
        raise ForecastError(f"initial_times must be a list of at least one date; got {initial_times!r}.")
    target = choose_device(str(device))
    in_bfloat16 = computes_in_bfloat16(precision, target)
    for cascade, count in zip(cascades, steps, strict=True):
        _make_ready(cascade, analysis, times, count, target)
    row = share_steps(cascades, steps)
    read = sorted({key for one in row for key in one.reads if key[1] <= 0})
    states = _initial_states(cascades, read, analysis, times, target)
    for number, lead in read:
        if perturbations is not None and (added := perturbations[number]) is not None:
            states[number, lead] = states[number, lead] + _checked(added, states[number, lead])
    return _steps(cascades, row, states, times, target, in_bfloat16, calibrated)


def _checked(perturbations: np.ndarray, initial: Tensor) -> Tensor:
    if perturbations.shape != tuple(initial.shape):
        raise ForecastError(
            f"perturbations must have the shape of the initial states, {tuple(initial.shape)}; got {perturbations.shape}."
        )
    return torch.from_numpy(perturbations).to(initial.device)


def _make_ready(cascade: Cascade, analysis: xr.Dataset, times: np.ndarray, steps: int, device: torch.device) -> None:
    if steps > len(cascade.schedule):
        raise ForecastError(f"steps must be at most {len(cascade.schedule)}, where the cascade ends; got {steps}.")
    for stage in cascade.stages:
        # One time: which times are there is asked below, by name. A stage may step further than the analysis does.
        stage.model.requirements.check(analysis.isel(time=slice(1)))
    check_initial_times(cascade, analysis, times, steps)
    for stage in cascade.stages:
        stage.model.to(device).eval()


def check_initial_times(cascade: Cascade, analysis: xr.Dataset, initial_times: np.ndarray, steps: int | None = None) -> None:
    """Raise ForecastError if the analysis lacks an initial time, or a state before one that the first steps read."""
    for lead in cascade.analysis_leads(steps)[::-1]:
        needed_by = "" if lead == 0 else f", which forecasts from {-lead} h later read as their history"
        check_times(analysis, initial_times + np.timedelta64(lead, "h"), needed_by)


def _steps(
    cascades: Sequence[Cascade],
    row: Sequence[SharedStep],
    states: dict[Key, Tensor],
    times: np.ndarray,
    device: torch.device,
    in_bfloat16: bool,
    calibrated: bool,
) -> Iterator[tuple[tuple[int, ...], State]]:
    last_reader = {key: place for place, one in enumerate(row) for key in one.reads}
    initial = {one.initial: states[one.initial] for one in row}
    for place, one in enumerate(row):
        cascade, step = cascades[one.cascades[0]], one.step
        fields = states[one.makes] = _one_step(cascade, step, [states[key] for key in one.reads], times, device, in_bfloat16)
        for key in [key for key in states if last_reader.get(key, -1) <= place]:
            del states[key]
        state = State(
            _as_shown(cascade, step, fields, initial[one.initial], times) if calibrated else fields,
            cascade.channels,
            times,
            step.lead_hours,
            cascade.latitude,
            cascade.longitude,
            step.stage,
        )
        yield one.cascades, state


def _initial_states(
    cascades: Sequence[Cascade], read: Sequence[Key], analysis: xr.Dataset, times: np.ndarray, device: torch.device
) -> dict[Key, Tensor]:
    """What steps read of the analysis, each cascade's in its own order of channels."""
    states: dict[Key, Tensor] = {}
    for number in sorted({number for number, _ in read}):
        leads = [lead for first, lead in read if first == number]
        needed = np.concatenate([times + np.timedelta64(lead, "h") for lead in leads])
        fields = torch.from_numpy(read_states(analysis, cascades[number].channels, needed)).to(device)
        states |= {(number, lead): part for lead, part in zip(leads, torch.split(fields, len(times)), strict=True)}
    return states


def _one_step(
    cascade: Cascade, step: Step, frames: Sequence[Tensor], times: np.ndarray, device: torch.device, in_bfloat16: bool
) -> Tensor:
    model = cascade.stages[step.stage].model
    order, back = _channel_orders(cascade, model)
    last = step.inputs[-1]
    # Not across the yield: a generator that is left half-way would leave inference mode switched on.
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
        stacked = torch.stack([fields[:, order] for fields in frames], dim=1)
        inputs = model.inputs_at(times + np.timedelta64(last, "h"), np.full(len(times), last), device)
        try:
            return model(stacked, *inputs)[:, back].float()
        except torch.OutOfMemoryError as error:
            raise ForecastError(
                f"{device} has too little memory for {len(times)} forecasts at once. Lower batch_size. ({first_line(error)})"
            ) from error


def _as_shown(cascade: Cascade, step: Step, fields: Tensor, initial: Tensor, times: np.ndarray) -> Tensor:
    """The state for its readers: calibrated, and without rain below zero. What is carried on stays as the network made it."""
    model = cascade.stages[step.stage].model
    with torch.inference_mode():
        if model.is_calibrated:
            order, back = _channel_orders(cascade, model)
            fields = model.calibrated(fields[:, order], initial[:, order], times, step.lead_hours)[:, back]
        bounds = _bounds(tuple(cascade.channels))
        if bounds:
            fields = fields.clone()
        for place, low, high in bounds:
            fields[:, place].clamp_(low, high)
    return fields


@cache
def _bounds(channels: tuple[str, ...]) -> tuple[tuple[int, float, float], ...]:
    """Place, lowest and highest value of the channels that have bounds."""
    bounds = [(place, *physical_bounds(Channel.parse(name).variable)) for place, name in enumerate(channels)]
    return tuple(one for one in bounds if np.isfinite(one[1:]).any())


def _channel_orders(cascade: Cascade, model: Forecaster) -> tuple[list[int], list[int]]:
    """Where the model's channels are among the cascade's, and the other way round."""
    ours, theirs = cascade.channels, model.requirements.channels
    return [ours.index(name) for name in theirs], [theirs.index(name) for name in ours]
