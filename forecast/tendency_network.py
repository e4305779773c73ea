"""What the networks of the weather have in common: states in, the state one step later out, whatever lies between.

A network normalises what it is given, and what it makes is the tendency in units of its own standard deviation. So losses,
replay, roll-outs, calibration and checkpoints are the same for all; a network of another form (`benchmarks/skill/peers`) says
no more than how it comes from normalised fields to a normalised tendency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Self

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from data_pipelines.forcings import forcing_fields
from data_pipelines.variables import VARIABLES, Channel
from forecast.layers.time_embedding import half_a_year_later, time_features
from forecast.requirements import GRID_TOLERANCE, Requirements


class TendencyNetwork(nn.Module):
    """Forecaster from `requirements.history` states to the next one, in physical units on both sides.

    A subclass has `config_class`, builds its layers in `__init__`, and gives `normalised_tendency`.

    Parameters
    ----------
    config
        Its settings, a dataclass; `calibrated_steps` among them, see `calibrated`.
    requirements
        Channels, grid, history, forcings.
    statistics
        `data_pipelines.statistics.compute_statistics` of the training span. Without it the normalisation is
        the identity until a state dict is loaded.

    Raises
    ------
    ValueError
        If the statistics lack a channel, are of another grid, or cannot normalise: a field that never changes has a standard
        deviation of 0.

    Notes
    -----
    A variable that `data_pipelines.variables` does not know is taken for a scalar: across a pole it keeps its sign.
    """

    config_class: type[Any]
    mean: Tensor
    deviation: Tensor
    tendency: Tensor
    mean_field: Tensor
    deviation_field: Tensor
    calibration: Tensor
    daily_cycle: Tensor
    position: Tensor
    odd_input: Tensor
    equator_signs: Tensor

    def __init__(self, config: Any, requirements: Requirements, statistics: xr.Dataset | None = None) -> None:
        super().__init__()
        self.config = config
        self.requirements = requirements
        rows, columns = requirements.grid_shape
        self._is_mirrored = False  # while `mirrored_tendency` runs
        self.rows = slice(0, rows)  # those of the globe that are here, see `forecast.spatial_sharding`
        self._register_normalisation(statistics)
        latitude = torch.deg2rad(torch.tensor(requirements.latitude, dtype=torch.float32)).view(1, -1, 1)
        self.register_buffer(
            "position", torch.cat([latitude.sin(), latitude.cos()]).expand(2, rows, columns).clone(), persistent=False
        )
        known = [VARIABLES.get(Channel.parse(name).variable) for name in requirements.channels]
        odd = [-1.0 if one is not None and one.odd_across_pole else 1.0 for one in known]
        self.register_buffer("odd_input", self._input_signs(torch.tensor(odd)), persistent=False)
        turned = torch.tensor([-1.0 if one is not None and one.odd_across_equator else 1.0 for one in known])
        self.register_buffer("equator_signs", turned.view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], requirements: Requirements, statistics: xr.Dataset | None = None) -> Self:
        """The network of plain settings, as a checkpoint's JSON has them, without its weights.

        Raises
        ------
        ValueError
            If a setting is not one of `config_class`, or its network refuses it.
        """
        known = [one.name for one in fields(cls.config_class)]
        if unknown := sorted(set(config) - set(known)):
            raise ValueError(f"settings of the network {cls.__name__} are {known}; got {unknown}.")
        return cls(cls.config_class(**config), requirements, statistics)

    def to_config(self) -> dict[str, Any]:
        """What `from_config` needs."""
        return asdict(self.config)

    def load_weights_of(self, others: Sequence[Self]) -> None:
        """Take over the mean of the trained parameters of networks of the same form, and keep this one's own statistics.

        Raises
        ------
        ValueError
            If one of them has another form.
        """
        own = {name: tuple(value.shape) for name, value in self.named_parameters()}
        for other in others:
            theirs = {name: tuple(value.shape) for name, value in other.named_parameters()}
            if own != theirs:
                differing = sorted(name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name))
                raise ValueError(
                    f"the initial checkpoint has another form than the model: {len(differing)} parameters differ, "
                    f"{differing[0]} first ({theirs.get(differing[0])} there, {own.get(differing[0])} here). "
                    f"Give the model the checkpoint's settings: {other.to_config()}."
                )
        weights = [dict(other.named_parameters()) for other in others]
        with torch.no_grad():
            for name, value in self.named_parameters():
                value.copy_(torch.stack([one[name] for one in weights]).mean(dim=0))

    def _register_normalisation(self, statistics: xr.Dataset | None) -> None:
        shape = (len(self.requirements.channels), *self.requirements.grid_shape)
        if statistics is None:
            values = {
                "mean": np.zeros(shape[0]), "deviation": np.ones(shape[0]), "tendency": np.ones(shape[0]),
                "mean_field": np.zeros(shape), "deviation_field": np.ones(shape),
            }  # fmt: skip
        else:
            _check_statistics(statistics, self.requirements)
            chosen = statistics.sel(channel=list(self.requirements.channels))
            values = {
                "mean": chosen["mean"].values,
                "deviation": chosen["standard_deviation"].values,
                "tendency": chosen["tendency_standard_deviation"].values,
                "mean_field": chosen["mean_field"].values,
                "deviation_field": chosen["standard_deviation_field"].values,
            }
        for name in ("mean", "deviation", "tendency"):
            self.register_buffer(name, torch.tensor(values[name], dtype=torch.float32).view(-1, 1, 1))
        for name in ("mean_field", "deviation_field"):
            self.register_buffer(name, torch.tensor(values[name], dtype=torch.float32))
        if self.config.calibrated_steps:
            weights = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
            self.register_buffer("calibration", weights.repeat(self.config.calibrated_steps, 1, *shape[:2]))
            self.register_buffer("daily_cycle", self.mean_field.repeat(self.requirements.phases_per_day, 1, 1, 1))

    def _input_signs(self, odd: Float[Tensor, " channel"]) -> Float[Tensor, " input"]:
        """Which of the network's inputs change sign across the pole: frames and mean fields of vector components."""
        even = torch.ones_like(odd)
        fields = [odd] * self.requirements.history + [odd, even]
        return torch.cat([*fields, torch.ones(len(self.requirements.forcings) + 2)])

    def inputs_at(
        self, time: np.ndarray, lead_hours: np.ndarray, device: torch.device | str = "cpu"
    ) -> tuple[Float[Tensor, "batch forcing lat lon"], Float[Tensor, "batch feature"]]:
        """Forcings at the target time, and features of the times.

        Parameters
        ----------
        time
            Valid time of the last input frame, datetime64, shape (batch,).
        lead_hours
            Its lead time [h], shape (batch,).
        """
        need = self.requirements
        target = time + need.step
        forcings = forcing_fields(need.forcings, target, np.asarray(need.latitude[self.rows]), np.asarray(need.longitude))
        frames = [time - back * need.step for back in range(need.history - 1, -1, -1)]
        features = time_features([*frames, target], lead_hours)
        return torch.from_numpy(forcings).to(device), torch.from_numpy(features).to(device)

    def forward(
        self,
        frames: Float[Tensor, "batch history channel lat lon"],
        forcings: Float[Tensor, "batch forcing lat lon"],
        features: Float[Tensor, "batch feature"],
    ) -> Float[Tensor, "batch channel lat lon"]:
        """The state one step after the last of `frames`, in the same physical units.

        Raises
        ------
        ValueError
            If `normalised_tendency` gives another shape: it would be spread over channels or places without a word.
        """
        now = frames[:, -1]
        made = self.normalised_tendency(frames, forcings, features)
        if self.averages_mirrored:
            made = (made + self.mirrored_tendency(frames, forcings, features)) / 2
        if made.shape != now.shape:
            raise ValueError(
                f"normalised_tendency of {type(self).__name__} must give (batch, channel, latitude, longitude), here "
                f"{tuple(now.shape)}; got {tuple(made.shape)}. Correct its last layer."
            )
        return now + self.tendency * made.float()

    @property
    def averages_mirrored(self) -> bool:
        """Whether a step is the mean of the network's own and of `mirrored_tendency`; it takes twice as long then."""
        return bool(getattr(self.config, "mirrored", False))

    def mirrored_tendency(
        self,
        frames: Float[Tensor, "batch history channel lat lon"],
        forcings: Float[Tensor, "batch forcing lat lon"],
        features: Float[Tensor, "batch feature"],
    ) -> Float[Tensor, "batch channel lat lon"]:
        """What the network makes of the globe mirrored at the equator, half a year later, mirrored back.

        The laws of the air stay as they are under that: what turns about the vertical and what blows along a meridian changes
        its sign with the Earth's rotation, and summer is in the other half of the year. A network is not built so, but shown
        both it learns from every storm twice, once in each hemisphere; and the mean of both steps keeps the symmetry exactly.

        Raises
        ------
        ValueError
            If the rows do not lie alike on both sides of the equator, or only a band of them is here.
        """
        self._check_mirror()
        signs = self.equator_signs
        self._is_mirrored = True
        try:
            made = self.normalised_tendency(signs * frames.flip(-2), forcings.flip(-2), half_a_year_later(features))
        finally:
            self._is_mirrored = False
        return signs * made.flip(-2)

    def climate(
        self,
    ) -> tuple[Float[Tensor, "channel one one"], Float[Tensor, "channel lat lon"], Float[Tensor, "channel lat lon"]]:
        """Mean, mean field and deviation field of the globe that the network sees: this one, or this one in the mirror."""
        if not self._is_mirrored:
            return self.mean, self.mean_field, self.deviation_field
        signs = self.equator_signs
        return signs * self.mean, signs * self.mean_field.flip(-2), self.deviation_field.flip(-2)

    def _check_mirror(self) -> None:
        latitude = np.asarray(self.requirements.latitude)
        if self.rows != slice(0, latitude.size) or not np.allclose(latitude, -latitude[::-1], atol=GRID_TOLERANCE, rtol=0):
            raise ValueError(
                f"mirroring needs a whole grid that is alike on both sides of the equator; got rows {self.rows.start} to "
                f"{self.rows.stop} of latitudes {latitude[0]:g} to {latitude[-1]:g}. Set mirrored off."
            )
        if turned := [name for name in self.requirements.channels if "direction" in name]:
            raise ValueError(f"mirroring turns {turned} by another angle each; leave them out, or set mirrored off.")

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibrated` changes anything."""
        return self.config.calibrated_steps > 0

    def calibrated(
        self,
        fields: Float[Tensor, "batch channel lat lon"],
        initial: Float[Tensor, "batch channel lat lon"],
        initial_time: np.ndarray,
        lead_hours: int,
    ) -> Float[Tensor, "batch channel lat lon"]:
        """Weigh the anomalies of the forecast and of its initial state, see `forecast.calibration`.

        Anomalies are from the mean of the hour of day. What is carried on to the next step is `fields`, not this. At lead
        time 0 there is nothing to weigh, and between two steps the weights lie between theirs.
        """
        if not self.is_calibrated or lead_hours <= 0:
            return fields
        step = min(max(lead_hours / self.requirements.step_hours, 1), self.config.calibrated_steps)
        before, after = self.calibration[math.floor(step) - 1], self.calibration[math.ceil(step) - 1]
        of_forecast, of_initial = torch.lerp(before, after, step % 1)[..., None]
        usual = self.usual_state(initial_time + np.timedelta64(lead_hours, "h"))
        return usual + of_forecast * (fields - usual) + of_initial * (initial - self.usual_state(initial_time))

    def usual_state(self, time: np.ndarray) -> Float[Tensor, "batch channel lat lon"]:
        """Mean state of the training span at the hour of day of each time (datetime64)."""
        return self.daily_cycle[torch.from_numpy(self.requirements.phase_of_day(time)).to(self.daily_cycle.device)]

    def normalised_tendency(
        self,
        frames: Float[Tensor, "batch history channel lat lon"],
        forcings: Float[Tensor, "batch forcing lat lon"],
        features: Float[Tensor, "batch feature"],
    ) -> Float[Tensor, "batch channel lat lon"]:
        """Change over one step in units of its standard deviation."""
        raise NotImplementedError

    @property
    def input_count(self) -> int:
        """Fields that `normalised_input` gives."""
        need = self.requirements
        return len(need.channels) * (need.history + 2) + len(need.forcings) + 2

    def normalised_input(
        self, frames: Float[Tensor, "batch history channel lat lon"], forcings: Float[Tensor, "batch forcing lat lon"]
    ) -> Float[Tensor, "batch input lat lon"]:
        """Anomalies of the frames, mean and deviation fields, forcings, sine and cosine of latitude, in that order."""
        batch = frames.shape[0]
        mean, mean_field, deviation_field = self.climate()
        anomalies = (frames - mean_field) / self.deviation
        climate = torch.cat([(mean_field - mean) / self.deviation, deviation_field / self.deviation, self.position])
        climate = climate.expand(batch, *climate.shape)
        split = 2 * len(self.requirements.channels)
        return torch.cat([anomalies.flatten(1, 2), climate[:, :split], forcings, climate[:, split:]], dim=1)

    def parameter_count(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())


def _check_statistics(statistics: xr.Dataset, requirements: Requirements) -> None:
    there = [str(name) for name in statistics["channel"].values]
    missing = [name for name in requirements.channels if name not in there]
    if missing:
        raise ValueError(f"statistics lack the channels {missing}; they have {there}. Compute them of the same analysis.")
    for axis in ("latitude", "longitude"):
        have, wanted = np.asarray(statistics[axis].values, dtype=float), np.asarray(getattr(requirements, axis))
        if have.shape != wanted.shape or not np.allclose(have, wanted, atol=GRID_TOLERANCE, rtol=0):
            raise ValueError(
                f"statistics are of another grid: {axis} has {have.size} points from {have[0]:g} to {have[-1]:g}; the model's "
                f"has {wanted.size} from {wanted[0]:g} to {wanted[-1]:g}. Compute them of the same analysis."
            )
    chosen = statistics.sel(channel=list(requirements.channels))
    for name in ("mean", "standard_deviation", "tendency_standard_deviation", "mean_field", "standard_deviation_field"):
        values = chosen[name].values
        lowest = 0.0 if name.endswith("deviation") else -np.inf
        good = np.isfinite(values) & (values > lowest)
        if not good.all():
            bad = [channel for channel, one in zip(requirements.channels, good, strict=True) if not one.all()]
            raise ValueError(
                f"{name} of {bad} must be finite{' and above 0' if lowest == 0.0 else ''} to normalise by; a field that never "
                "changes, or lacks points (NaN) such as sea temperature on land, cannot be a channel. Leave it out."
            )
