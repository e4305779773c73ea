"""Settings of one stage's training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from forecast.puyun import PuYunConfig
from forecast.rollout import PRECISIONS
from forecast.wave_simulator import SimulatorConfig

PARALLEL = ("ddp", "fsdp")


def _check_samples(name: str, samples: list[int]) -> None:
    if samples and (len(samples) != 2 or not 0 <= samples[0] <= samples[1]):
        raise ValueError(f"{name} must be the first and the last sample, or empty; got {samples}.")


@dataclass
class SourceConfig:
    """One analysis store to learn from.

    Parameters
    ----------
    store
        Path or URL.
    start, end
        First and last day of training (inclusive); empty for the whole store.
    held_out_start, held_out_end
        Days between them that count in the statistics and are not learned from, so that a stage can be calibrated on
        them (`TrainingConfig.calibrate`); empty for none.
    share
        How much of every draw comes from it, relative to the other sources; 0 for nothing but its grid and statistics.
    lead_until_hours
        Last lead time that is learned from it [h]; 0: the stage's. A short record is memorised at far lead times; let it
        teach the near ones, beside a long record that teaches all.
    match_statistics
        Shift and scale its fields to the mean field and standard deviation of the first source. For simulated
        data beside observed ones.
    samples
        Of a wave store: first and last sample to learn from; empty for all.
    """

    store: str = ""
    start: str = ""
    end: str = ""
    held_out_start: str = ""
    held_out_end: str = ""
    share: float = 1.0
    lead_until_hours: int = 0
    match_statistics: bool = False
    samples: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.share < 0:
            raise ValueError(
                f"share must not be negative; got {self.share}. 0 takes grid and statistics from a source and no more."
            )
        _check_samples("samples", self.samples)
        if bool(self.held_out_start) != bool(self.held_out_end):
            raise ValueError(
                f"held_out_start and held_out_end go together; got {self.held_out_start!r} and {self.held_out_end!r}. Give "
                "both, or neither."
            )


@dataclass
class TrainingConfig:
    """One stage's training.

    Parameters
    ----------
    out
        Folder for the checkpoint, the log (`log.jsonl`) and the curves (`curves.png`).
    sources
        Stores to learn from, by any name; the first one gives the grid and the statistics, and its span is the training span.
    channels
        Fields of the state.
    network, network_settings
        Another network of the weather to train in place of `PuYun`, by the name under which
        `forecast.checkpoint.register_network` knows it, and its settings; PuYun's are `model`.
    step_hours
        How far the network goes in one step [h], a multiple of the stores' step: at 12 h on stores of every 6 h it makes states
        every 6 h, each from those 12 and 24 h before, so that a day is two steps; 0 for the stores' own. A stage of shorter
        steps makes the first states (`forecast.cascade`).
    simulator
        A wave simulator to train in place of the weather's network (`model`); sources are wave stores then.
    static
        Fields without time that a simulator is given at every step.
    lead_until_steps
        Last lead time that a simulator is trained to reach, in steps of its store.
    validation_samples
        First and last sample of the first source's store on which a simulator is validated; empty for none.
    initial
        Checkpoints to start from, the mean of their weights where there are several; none for random weights.
    earlier_stages
        Checkpoints of the stages before this one, first to last.
    earlier_until_hours
        Lead time at which each of them hands over [h].
    lead_until_hours
        Last lead time that this stage is trained to reach [h].
    validation_start, validation_end
        Valid times of validation (never trained on); empty for none.
    validation_leads
        Lead times scored [h].
    calibrate
        Calibrate on the validation span after training, see `forecast.calibration`.
    calibration_from
        Folders of calibrated trainings (`out`) to calibrate from instead: a network that learned from all days has none left,
        others that held some of them out have.
    steps, batch_size, replay_buffer, fresh_share, unroll
        Optimiser steps (0: only average and calibrate); forecasts per step and in the pool, those of all processes together;
        share of fresh ones; steps with one gradient.
    learning_rate, warm_up, final_learning_rate, weight_decay, clip, ema
        AdamW with a linear warm-up over `warm_up` steps, then a cosine to `final_learning_rate` (a share of
        `learning_rate`); gradient norm; decay of the averaged weights.
    sharpness
        Radius of sharpness-aware minimisation (arXiv 2010.01412), in the Euclidean norm of all weights together: the gradient
        is taken so far up the loss, which costs a second pass; 0 for none.
    hardest
        Share of the batch that the gradient is of, those forecasts with the largest error (after its balance), chosen in each
        process and each of its passes; 1 for all.
    masked
        Share of the globe that is hidden from the network, in squares: the mean field stands there, and the network learns to
        fill it in. For a first training, one step ahead, after masked autoencoders (Tian et al. 2023, arXiv 2301.03580); 0
        for none.
    mirrored
        Share of the steps in which the network sees the globe mirrored at the equator, half a year later, see
        `forecast.tendency_network.TendencyNetwork.mirrored_tendency`: a short record holds twice as many storms so.
    penalty, variable_weights, weight_by_level
        See `forecast.losses`.
    balance_lead_times
        Divide the error at each lead time by its running mean, so that far leads do not drown near ones.
    noise
        Standard deviation of noise added to analyses, in standard deviations of the tendency.
    accumulate
        Passes into which the batch is cut, one after another, before the weights move; their mean is the batch's gradient.
    parallel
        How processes share the weights: "ddp" (each has all) or "fsdp" (each a piece), see `forecast.training.parallel`.
    bands
        Processes that share a sample, each with a latitude band of it; 1 for whole globes.
    save_every
        Steps between two saved states, from which `resume` goes on; 0 for none.
    resume
        Go on exactly from the newest state in `out`; begin where there is none.
    precision
        "bf16", "fp32", or "auto": bfloat16 where the device has instructions for it, see `forecast.rollout`.
    """

    out: str = "outputs/training"
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    channels: list[str] = field(default_factory=lambda: ["mean_sea_level_pressure", "vorticity_850"])
    forcings: list[str] = field(default_factory=lambda: ["cos_zenith"])
    history: int = 2
    step_hours: int = 0
    model: PuYunConfig = field(default_factory=PuYunConfig)
    network: str = "PuYun"
    network_settings: dict[str, Any] = field(default_factory=dict)
    simulator: SimulatorConfig | None = None
    static: list[str] = field(default_factory=lambda: ["wave_speed", "mask"])
    lead_until_steps: int = 0
    validation_samples: list[int] = field(default_factory=list)
    initial: list[str] = field(default_factory=list)
    earlier_stages: list[str] = field(default_factory=list)
    earlier_until_hours: list[int] = field(default_factory=list)
    lead_until_hours: int = 6
    validation_start: str = ""
    validation_end: str = ""
    validation_leads: list[int] = field(default_factory=lambda: [6, 24, 48, 72, 120])
    validate_every: int = 500
    calibrate: bool = False
    calibration_from: list[str] = field(default_factory=list)
    steps: int = 2000
    batch_size: int = 4
    replay_buffer: int = 256
    fresh_share: float = 0.3
    unroll: int = 1
    learning_rate: float = 1e-3
    warm_up: int = 200
    final_learning_rate: float = 0.02
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    sharpness: float = 0.0
    hardest: float = 1.0
    masked: float = 0.0
    mirrored: float = 0.0
    penalty: str = "l2"
    variable_weights: dict[str, float] = field(default_factory=dict)
    weight_by_level: bool = False
    balance_lead_times: bool = True
    noise: float = 0.0
    accumulate: int = 1
    parallel: str = "ddp"
    bands: int = 1
    save_every: int = 500
    resume: bool = False
    precision: str = "auto"
    device: str = "auto"
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or (not self.steps and not self.initial):
            raise ValueError(f"steps must be at least 1, or 0 to calibrate what initial holds; got {self.steps}.")
        for name in ("batch_size", "replay_buffer", "unroll", "validate_every", "lead_until_hours", "accumulate", "bands"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if self.network == "PuYun" and self.network_settings:
            raise ValueError(
                f"network_settings are those of another network; PuYun's are model. Got {sorted(self.network_settings)}."
            )
        if self.network != "PuYun" and self.bands > 1:
            raise ValueError(f"bands are of PuYun; {self.network} needs whole globes. Got bands={self.bands}, use 1.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}; got {self.precision!r}.")
        if bool(self.simulator) != bool(self.lead_until_steps):
            raise ValueError(
                "lead_until_steps is the last lead time of a simulator, and each simulator needs one; got "
                f"{self.lead_until_steps} {'with' if self.simulator else 'without'} simulator."
            )
        _check_samples("validation_samples", self.validation_samples)
        if self.step_hours < 0 or (self.step_hours and self.simulator):
            raise ValueError(
                f"step_hours must be a number of hours, 0 for the stores' own step, and 0 for waves; got {self.step_hours}."
            )
        if self.save_every < 0:
            raise ValueError(f"save_every must be at least 1 step, or 0 to save no state; got {self.save_every}.")
        if self.parallel not in PARALLEL:
            raise ValueError(f"parallel must be one of {PARALLEL}; got {self.parallel!r}.")
        if not 0 <= self.sharpness < math.inf:
            raise ValueError(f"sharpness must be a radius of at least 0, and is 0 for none; got {self.sharpness}.")
        if not 0 < self.hardest <= 1:
            raise ValueError(f"hardest must be a share above 0, and is 1 for the whole batch; got {self.hardest}.")
        if self.hardest < 1 and self.bands > 1:
            raise ValueError(
                f"hardest needs whole globes, whose errors it ranks; got hardest={self.hardest}, bands={self.bands}."
            )
        if not 0 <= self.masked < 1:
            raise ValueError(f"masked must lie in [0, 1), and is 0 for none; got {self.masked}.")
        if self.masked and self.simulator:
            raise ValueError(f"masked hides the weather behind its mean field, and waves have none; got {self.masked}, use 0.")
        if not 0 <= self.mirrored <= 1:
            raise ValueError(f"mirrored must be a share of the steps, 0 to 1; got {self.mirrored}.")
        if self.mirrored and (self.simulator or self.bands > 1):
            raise ValueError(f"mirrored is for whole globes; got {self.mirrored} with a simulator or bands, use 0.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1); got {self.ema}.")
        if self.sources and not any(source.share for source in self.sources.values()):
            raise ValueError("the share of every one of sources is 0; give at least one of them a share to learn from.")
        if self.calibrate and not (self.validation_start and self.validation_end):
            raise ValueError("calibrate needs a validation span; give validation_start and validation_end.")
        if self.calibrate and self.calibration_from:
            raise ValueError("calibrate fits the weights that calibration_from would give; set one of them.")
        if len(self.earlier_stages) != len(self.earlier_until_hours):
            raise ValueError(
                f"earlier_until_hours must name one hand-over for each of earlier_stages; got {len(self.earlier_until_hours)} "
                f"for {len(self.earlier_stages)}."
            )
