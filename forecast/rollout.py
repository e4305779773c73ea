"""Roll-out: forecasts step by step, for a batch of initial times at once, in memory that does not grow with lead time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float32
from torch import Tensor

from data_pipelines.errors import first_line
from forecast.cascade import Cascade, Step
from forecast.forecaster import Forecaster, ForecastError
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
    if steps > len(cascade.schedule):
        raise ForecastError(f"steps must be at most {len(cascade.schedule)}, where the cascade ends; got {steps}.")
    times = np.asarray(initial_times).astype("datetime64[ns]")
    if times.ndim != 1 or not times.size:
        raise ForecastError(f"initial_times must be a list of at least one date; got {initial_times!r}.")
    for stage in cascade.stages:
        # One time: which times are there is asked below, by name. A stage may step further than the analysis does.
        stage.model.requirements.check(analysis.isel(time=slice(1)))
    check_initial_times(cascade, analysis, times, steps)
    target = choose_device(str(device))
    in_bfloat16 = computes_in_bfloat16(precision, target)
    for stage in cascade.stages:
        stage.model.to(target).eval()
    schedule = cascade.schedule[:steps]
    states = _initial_states(cascade, analysis, times, steps, target)
    if perturbations is not None:
        if perturbations.shape != tuple(states[0].shape):
            raise ForecastError(
                f"perturbations must have the shape of the initial states, {tuple(states[0].shape)}; got {perturbations.shape}."
            )
        added = torch.from_numpy(perturbations).to(target)
        states = {lead: fields + added for lead, fields in states.items()}
    return _steps(cascade, states, times, schedule, target, in_bfloat16)


def check_initial_times(cascade: Cascade, analysis: xr.Dataset, initial_times: np.ndarray, steps: int | None = None) -> None:
    """Raise ForecastError if the analysis lacks an initial time, or a state before one that the first steps read."""
    for lead in cascade.analysis_leads(steps)[::-1]:
        needed_by = "" if lead == 0 else f", which forecasts from {-lead} h later read as their history"
        check_times(analysis, initial_times + np.timedelta64(lead, "h"), needed_by)


def _steps(
    cascade: Cascade,
    states: dict[int, Tensor],
    times: np.ndarray,
    schedule: Sequence[Step],
    device: torch.device,
    in_bfloat16: bool,
) -> Iterator[State]:
    last_reader = {lead: place for place, step in enumerate(schedule) for lead in step.inputs}
    initial = states[0]
    for place, step in enumerate(schedule):
        fields = states[step.lead_hours] = _one_step(cascade, step, states, times, device, in_bfloat16)
        for lead in [lead for lead in states if last_reader.get(lead, -1) <= place]:
            del states[lead]
        yield State(
            _calibrated(cascade, step, fields, initial, times),
            cascade.channels,
            times,
            step.lead_hours,
            cascade.latitude,
            cascade.longitude,
            step.stage,
        )


def _initial_states(
    cascade: Cascade, analysis: xr.Dataset, times: np.ndarray, steps: int, device: torch.device
) -> dict[int, Tensor]:
    leads = cascade.analysis_leads(steps)
    needed = np.concatenate([times + np.timedelta64(lead, "h") for lead in leads])
    fields = torch.from_numpy(read_states(analysis, cascade.channels, needed)).to(device)
    return dict(zip(leads, torch.split(fields, len(times)), strict=True))


def _one_step(
    cascade: Cascade, step: Step, states: dict[int, Tensor], times: np.ndarray, device: torch.device, in_bfloat16: bool
) -> Tensor:
    model = cascade.stages[step.stage].model
    order, back = _channel_orders(cascade, model)
    last = step.inputs[-1]
    # Not across the yield: a generator that is left half-way would leave inference mode switched on.
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
        frames = torch.stack([states[lead][:, order] for lead in step.inputs], dim=1)
        inputs = model.inputs_at(times + np.timedelta64(last, "h"), np.full(len(times), last), device)
        try:
            return model(frames, *inputs)[:, back].float()
        except torch.OutOfMemoryError as error:
            raise ForecastError(
                f"{device} has too little memory for {len(times)} forecasts at once. Lower batch_size. ({first_line(error)})"
            ) from error


def _calibrated(cascade: Cascade, step: Step, fields: Tensor, initial: Tensor, times: np.ndarray) -> Tensor:
    model = cascade.stages[step.stage].model
    order, back = _channel_orders(cascade, model)
    with torch.inference_mode():
        return model.calibrated(fields[:, order], initial[:, order], times, step.lead_hours)[:, back]


def _channel_orders(cascade: Cascade, model: Forecaster) -> tuple[list[int], list[int]]:
    """Where the model's channels are among the cascade's, and the other way round."""
    ours, theirs = cascade.channels, model.requirements.channels
    return [ours.index(name) for name in theirs], [theirs.index(name) for name in ours]
