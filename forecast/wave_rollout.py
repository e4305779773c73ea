"""Roll-out of wave simulators: a batch of samples step by step, in memory that does not grow with lead time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float32
from torch import Tensor

from data_pipelines.store import load_checked
from forecast.forecaster import ForecastError
from forecast.layers.merged_convolution import ON_ANY_FIELD, ON_SMALL_FIELDS, merged
from forecast.rollout import choose_device, computes_in_bfloat16
from forecast.wave_simulator import Simulator

# On fewer points of a batch the calls of 7 x 7 one-way filters cost more than their arithmetic; for 16 samples of 24 x 24
# points both forms take as long on two cores.
SMALL_FIELD = 4096


@dataclass(frozen=True)
class WaveState:
    """Fields of some samples at one lead time.

    Parameters
    ----------
    fields
        Physical units, (batch, channel, y, x), one entry of the batch per sample.
    channels
        Names along the second axis.
    samples
        Numbers of the simulations, (batch,).
    lead_seconds
        Time since the last state that was given [s].

    Raises
    ------
    ForecastError
        If a value is not finite.
    """

    fields: Float32[Tensor, "batch channel y x"]
    channels: tuple[str, ...]
    samples: np.ndarray
    lead_seconds: float

    def __post_init__(self) -> None:
        bad = ~torch.isfinite(self.fields).flatten(2).all(2)
        if bad.any():
            sample, channel = (int(place) for place in bad.nonzero()[0])
            raise ForecastError(
                f"{self.channels[channel]} of sample {self.samples[sample]} is not finite {self.lead_seconds:g} s after its "
                "start: the simulator is unstable there. Train it for longer leads (lead_until_steps), or use another."
            )


def rollout_waves(
    model: Simulator,
    waves: xr.Dataset,
    samples: Sequence[int] | np.ndarray,
    steps: int,
    device: torch.device | str = "auto",
    precision: str = "auto",
) -> Iterator[WaveState]:
    """Carry samples on from the start of their records, one step at a time.

    Parameters
    ----------
    model
        The simulator.
    waves
        As `data_pipelines.store.open_waves` gives it; read are the first `history` frames and the static fields.
    samples
        Numbers of the samples; they run as one batch.
    steps
        Number of states to make, at least 1.
    device, precision
        As for `forecast.rollout.rollout`.

    Yields
    ------
    WaveState
        On `device`, in order of lead time.

    Raises
    ------
    ForecastError
        If a sample is missing, the start holds NaN, or the waves leave the finite numbers.
    ValueError
        If the store has another grid, step or other fields than the simulator needs.
    """
    if steps < 1:
        raise ForecastError(f"steps must be at least 1; got {steps}.")
    model.requirements.check(waves)
    target = choose_device(str(device))
    in_bfloat16 = computes_in_bfloat16(precision, target)
    model = for_samples(model.to(target).eval(), len(samples))
    frames, static = (values.to(target) for values in read_start(model, waves, np.asarray(samples)))
    return steps_of(model, frames, static, np.asarray(samples), steps, in_bfloat16)


def for_samples(model: Simulator, samples: int) -> Simulator:
    """A simulator in the form that takes the least time for so many samples at once: the same function, to rounding.

    One-way filters are merged (`forecast.layers.merged_convolution`), the more the fewer points are computed in one call.
    """
    if not model.config.compression.is_on:
        return model
    rows, columns = model.requirements.grid_shape
    return merged(model, ON_SMALL_FIELDS if samples * rows * columns < SMALL_FIELD else ON_ANY_FIELD)


def steps_of(
    model: Simulator, frames: Tensor, static: Tensor, samples: np.ndarray, steps: int, in_bfloat16: bool
) -> Iterator[WaveState]:
    """As `rollout_waves`, from a start that `read_start` gave and in the form that the simulator has."""
    kind, prepared = frames.device.type, None
    mask = static[:, model.mask_at, None]
    for step in range(1, steps + 1):
        # Not across the yield: a generator that is left half-way would leave inference mode switched on.
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=in_bfloat16):
            prepared = model.prepare(static) if prepared is None else prepared
            following = model.step(frames, prepared, mask).float()
        frames = torch.cat([frames[:, 1:], following[:, None]], dim=1)
        yield WaveState(following, model.requirements.channels, samples, step * model.requirements.step_seconds)


def read_start(
    model: Simulator, waves: xr.Dataset, samples: np.ndarray
) -> tuple[Float32[Tensor, "batch history channel y x"], Float32[Tensor, "batch static y x"]]:
    """Read the first frames and the static fields of samples. Errors: see `rollout_waves`."""
    need = model.requirements
    missing = np.setdiff1d(samples, waves["sample"].values)
    if missing.size:
        numbers = waves["sample"].values
        raise ForecastError(
            f"sample {missing[0]} is missing: the store holds {numbers[0]} to {numbers[-1]}. Choose start= and end= inside it."
        )
    chosen = load_checked(waves[[*need.channels, *need.static]].sel(sample=samples).isel(time=slice(need.history)))
    frames = np.stack([chosen[name].values for name in need.channels], axis=2)
    static = np.stack([chosen[name].values for name in need.static], axis=1)
    if not np.isfinite(frames).all() or not np.isfinite(static).all():
        raise ForecastError("the start of a sample holds values that are not finite. Build the store again, or leave it out.")
    return torch.from_numpy(frames), torch.from_numpy(static)
