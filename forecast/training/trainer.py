"""Training of one stage of a cascade: one step ahead first, then on the states that the stage makes itself.

One loop does both. Every batch is drawn from a `ReplayBuffer`; with `lead_until_hours` equal to one step all of it is
analyses (one-step training), with more it holds forecasts under way. A later stage starts from states that the
stages before it produced (`earlier_stages`), so that it is trained on what it will be given.
"""

from __future__ import annotations

import copy
import math
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forecast.calibration import save_moments
from forecast.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from forecast.exits import StopRequest, UnfinishedError, stop_on_signal
from forecast.puyun import PuYunConfig
from forecast.replay import Draw, ReplayBuffer
from forecast.rollout import choose_device, computes_in_bfloat16
from forecast.spatial_sharding import shard_by_latitude
from forecast.training.config import TrainingConfig
from forecast.training.generators import generator_states, set_generator_states
from forecast.training.log import Log
from forecast.training.objective import Ahead, LeadBalance, Unrolled, hardest_of
from forecast.training.parallel import Place, spread, whole, without_exchange
from forecast.training.states import TrainingState, load_state, save_state, states_in
from forecast.training.subject import Subject, Weather
from forecast.training.validation import Stepper, Validation, refuse_learned_times
from forecast.training.waves import Waves, WaveValidation
from forecast.training_curves import draw_training_curves

MASK_CELLS = 4  # edge of a square that is hidden
TINY = 1e-12  # a gradient of zeros has no direction
# Settings that may differ between a training and its continuation.
FREE = ("out", "resume", "save_every", "validate_every", "device", "threads", "parallel")


class TrainingError(ValueError):
    """A training that cannot go on."""


class Trainer:
    """Everything that training one stage needs, built once from its configuration.

    Parameters
    ----------
    config
        What to train.
    place
        Where this process stands among those that train together, see `forecast.training.parallel.joined`; alone by default.
    """

    def __init__(self, config: TrainingConfig, place: Place | None = None) -> None:
        if not config.sources:
            raise ValueError(
                "sources is empty: name at least one analysis store to learn from, as in sources.era5.store=STORE."
            )
        self.config = config
        self.out = Path(config.out)
        self.place = place or Place(device=choose_device(config.device))
        self._check_out()
        self._check_shares()
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)  # the same weights on all ranks
        self.device = self.place.device
        self.subject = _subject(config)
        self.sources = self.subject.sources
        self.requirements = self.subject.requirements
        in_bfloat16 = computes_in_bfloat16(config.precision, self.device)
        self.stepper = Stepper(self.subject, self.device, in_bfloat16)
        self.earlier = [load_checkpoint(Path(path), self.device) for path in config.earlier_stages]
        for path, stage in zip(config.earlier_stages, self.earlier, strict=True):
            if stage.requirements.step_hours != self.requirements.step_hours:
                raise ValueError(
                    f"earlier_stages must step as far as this stage, {self.requirements.step_hours} h; {path} steps "
                    f"{stage.requirements.step_hours} h. Set step_hours to that, or name other stages."
                )
        self.first_lead, self.last_lead = self.subject.first_lead, self.subject.last_lead
        if config.masked and self.last_lead > self.first_lead + config.unroll:
            raise ValueError(
                f"masked is for the first step: forecasts that go on would carry what was hidden. Got lead_until_hours="
                f"{config.lead_until_hours}; use {self.subject.lead(self.first_lead + config.unroll):g}, or masked=0."
            )
        self.model = self.subject.build_model().to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)  # filled by `_fill_average`
        self.validation = self._build_validation()
        self.rows = shard_by_latitude(self.model, self.place.group) if self.place.bands > 1 else self.model.rows
        self.objective = self._build_objective(in_bfloat16)
        self.averaged = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.balance = LeadBalance(self.last_lead + 1)
        self.optimiser = torch.optim.AdamW(
            _parameter_groups(self.model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._learning_rate)
        self._seed_own()
        for number, source in enumerate(self.sources):
            source.open_stream(config.history, self.first_lead + config.unroll, config.seed + number, self.place)
        pool = config.replay_buffer // self.place.copies
        self.buffer = ReplayBuffer(pool, self._start, self._can_advance, self.rng, config.fresh_share)
        self.step = 0
        self.waited = 0.0
        self.seconds = 0.0
        if config.resume and states_in(self.out):
            self._load(states_in(self.out)[-1])

    def _check_out(self) -> None:
        if self.config.resume and (states_in(self.out) or not (self.out / "checkpoint").exists()):
            return
        if states_in(self.out):
            raise FileExistsError(
                f"out {self.out} already holds a training under way; resume=true goes on, or choose another folder."
            )
        if (self.out / "checkpoint").exists():
            raise FileExistsError(f"out {self.out} already holds a checkpoint; choose another folder, or delete it.")

    def _check_shares(self) -> None:
        passes = self.place.copies * self.config.accumulate
        if self.config.batch_size % passes or self.config.replay_buffer % self.place.copies:
            raise ValueError(
                f"batch_size must be divisible by processes x accumulate, and replay_buffer by processes; got "
                f"{self.config.batch_size} and {self.config.replay_buffer} for {self.place.copies} x {self.config.accumulate}."
            )
        of_a_pass = self.config.batch_size // passes
        if self.config.hardest < 1 and hardest_of(of_a_pass, self.config.hardest) == of_a_pass:
            raise ValueError(
                f"hardest={self.config.hardest} of the {of_a_pass} forecasts of a pass are all of them; lower it, or give a "
                "larger batch_size."
            )

    def _build_validation(self) -> Any:
        if isinstance(self.subject, Waves):
            return WaveValidation(self.config, self.subject, self.average, self.place)
        first = self.subject.sources[0]
        if self.config.validation_start:
            refuse_learned_times(self.config, first.times)
        whole = first.spanning()
        return Validation(self.config, self.stepper, whole, self.earlier, self.average, self.place)

    def _build_objective(self, in_bfloat16: bool) -> torch.nn.Module:
        rows = self.requirements.grid_shape[0]
        share = (self.rows.stop - self.rows.start) * self.place.bands / rows
        error = self.subject.error(self.rows).to(self.device)
        objective = Unrolled(self.model, error, share, in_bfloat16, self.config.hardest)
        return spread(objective, self.model, self.place, self.config.parallel)

    def _learning_rate(self, step: int) -> float:
        if step < self.config.warm_up:
            return (step + 1) / self.config.warm_up
        progress = (step - self.config.warm_up) / max(1, self.config.steps - self.config.warm_up)
        floor = self.config.final_learning_rate
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def _seed_own(self) -> None:
        """Draw otherwise on every copy of the network; the bands of one copy draw alike."""
        share = self.place.copy
        self.rng = np.random.default_rng([self.config.seed, share] if share else self.config.seed)
        if share:
            torch.manual_seed(self.config.seed + share)

    # Forecasts under way

    def _start(self, rng: np.random.Generator) -> tuple[Tensor, int, int, int]:
        """A fresh forecast: an analysis, or what the earlier stages made of one."""
        shares = np.array([source.share for source in self.sources])
        number = int(rng.choice(len(self.sources), p=shares / shares.sum()))
        source = self.sources[number]
        frames, index = source.fresh()
        if self.config.noise:
            noise = torch.from_numpy(rng.standard_normal(frames.shape, dtype=np.float32))
            frames = frames + self.config.noise * self.model.tendency.cpu() * noise
        lead = 0
        for stage, until in zip(self.earlier, self.config.earlier_until_hours, strict=True):
            while lead < until // self.requirements.step_hours:
                frames = self.stepper.advance(stage, frames[None], [source], np.array([index]), np.array([lead]))[0]
                index, lead = index + 1, lead + 1
        return frames[..., self.rows, :], number, index, lead

    def _can_advance(self, source: int, index: int, lead: int) -> bool:
        last = min(self.last_lead, self.sources[source].last_lead or self.last_lead)
        return lead + self.config.unroll <= last and self.sources[source].connected(index, self.config.unroll)

    # Learning

    def train_step(self) -> dict[str, float]:
        """Draw, predict, learn, put back; returns what the log holds."""
        started = time.perf_counter()
        draw = self.buffer.draw(self.config.batch_size // self.place.copies)
        if self.config.masked:
            draw = replace(draw, frames=self._masked(draw.frames))
        steps = [self._ahead(draw, ahead) for ahead in range(self.config.unroll)]
        mirrored = bool(self.config.mirrored) and self.rng.random() < self.config.mirrored
        self.waited += time.perf_counter() - started
        self.model.train()
        own_loss, own_errors, frames = self._passes(draw, steps, mirrored)
        loss, errors = self._take_account(draw, own_loss, own_errors)
        if self.config.sharpness:
            self._climb(draw, steps, mirrored)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.schedule.step()
        self._update_average()
        self.buffer.put_back(draw, frames, self.config.unroll)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return {
            "step": self.step,
            "loss": loss,
            "error": float(errors[-1].mean()),
            f"lead_{self.subject.lead_unit}": self.subject.lead(float((draw.lead + self.config.unroll - 1).mean())),
            "gradient_norm": float(norm),
            "learning_rate": float(self.schedule.get_last_lr()[0]),
        }

    def _masked(self, frames: Tensor) -> Tensor:
        """Hide squares of the globe, other ones of each forecast, in all its frames and channels."""
        rows, columns = self.requirements.grid_shape
        squares = self.rng.random((len(frames), 1, 1, -(-rows // MASK_CELLS), -(-columns // MASK_CELLS))) < self.config.masked
        hidden = torch.from_numpy(squares.repeat(MASK_CELLS, -2).repeat(MASK_CELLS, -1))[..., :rows, :columns]
        return torch.where(hidden[..., self.rows, :], self.model.mean_field.cpu(), frames)

    def _ahead(self, draw: Draw, ahead: int) -> Ahead:
        """What the step `ahead` of a draw needs, and the truth after it."""
        lead = draw.lead + ahead
        owners = [self.sources[number] for number in draw.source]
        truth = torch.cat([source.states([index + ahead + 1]) for source, index in zip(owners, draw.index, strict=True)])
        forcings, features = self.subject.inputs(self.model, owners, draw.index + ahead, lead, self.device)
        weight = self.balance.weights(lead) if self.config.balance_lead_times else torch.ones(len(draw))
        return Ahead(forcings, features, truth[..., self.rows, :].to(self.device), weight.to(self.device))

    def _passes(self, draw: Draw, steps: Sequence[Ahead], mirrored: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Leave the batch's gradient in the weights, one part of the batch after the other."""
        losses, errors, frames = [], [], []
        size = len(draw) // self.config.accumulate
        for begin in range(0, len(draw), size):
            part = slice(begin, begin + size)
            of_part = [Ahead(one.forcings[part], one.features[part], one.truth[part], one.weight[part]) for one in steps]
            is_last = begin + size == len(draw)
            with nullcontext() if is_last else without_exchange(self.objective):
                loss, error, following = self.objective(draw.frames[part].to(self.device), of_part, mirrored)
                (loss / self.config.accumulate).backward()
            losses.append(loss.detach())
            errors.append(error)
            frames.append(following)
        return torch.stack(losses).mean(), torch.cat(errors, dim=1), torch.cat(frames)

    def _climb(self, draw: Draw, steps: Sequence[Ahead], mirrored: bool = False) -> None:
        """Exchange the gradient for that a step of length `sharpness` up it: what falls is the loss of a neighbourhood.

        Sharpness-aware minimisation of Foret et al. (2021, arXiv 2010.01412).
        """
        learned = [value for value in self.model.parameters() if value.grad is not None]
        here = [value.detach().clone() for value in learned]
        norm = torch.nn.utils.get_total_norm([value.grad for value in learned if value.grad is not None])
        length = self.config.sharpness / max(float(whole(norm)), TINY)
        with torch.no_grad():
            for value in learned:
                value.add_(value.grad, alpha=length)
        self.optimiser.zero_grad(set_to_none=True)
        loss, _, _ = self._passes(draw, steps, mirrored)
        with torch.no_grad():
            for value, before in zip(learned, here, strict=True):
                value.copy_(before)
        self._check_finite(float(self.place.gather(loss[None].cpu()).mean()))

    def _take_account(self, draw: Draw, loss: Tensor, errors: Tensor) -> tuple[float, Tensor]:
        """Loss and errors of all ranks; the errors go into the balance of lead times."""
        leads = draw.lead + np.arange(len(errors))[:, None]
        own = torch.cat([loss[None].cpu(), errors.flatten().cpu(), torch.from_numpy(leads.flatten()).float()])
        everyone = self.place.gather(own)
        mean_loss = float(everyone[:, 0].mean())
        self._check_finite(mean_loss)
        # The error of a sample is the mean of those of its bands.
        of_copies = everyone[:, 1:].reshape(self.place.copies, self.place.bands, 2, len(errors), len(draw)).mean(dim=1)
        for ahead in range(len(errors)):
            for of_copy in of_copies:
                self.balance.update(of_copy[1, ahead].round().long().numpy(), of_copy[0, ahead])
        return mean_loss, of_copies[:, 0].transpose(0, 1).flatten(1)

    def _check_finite(self, loss: float) -> None:
        if not np.isfinite(loss):
            rates = "learning_rate or sharpness" if self.config.sharpness else "learning_rate"
            raise TrainingError(
                f"the loss is {loss} at step {self.step + 1}; lower {rates}, or look for bad data with the store's audit."
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, current in self.model.named_parameters():
            self.averaged[name].lerp_(current, 1 - decay)

    @torch.no_grad()
    def _fill_average(self) -> None:
        for name, value in self.average.named_parameters():
            value.copy_(whole(self.averaged[name]))

    # Validation

    def validate(self) -> dict[str, float]:
        """RMSE of the averaged weights by channel and lead time, for valid times in the validation span."""
        self._fill_average()
        return self.validation.scores()

    # From beginning to end

    def run(self) -> Path:
        """Train, validate, log, draw the curves, save; returns the checkpoint's folder.

        The averaged weights are also saved after every validation, and a state to go on from every `save_every` steps.

        Raises
        ------
        UnfinishedError
            After SIGTERM or SIGUSR1, when the step is done and a state saved.
        """
        log = Log(self.out / "log.jsonl", self.config.steps, self.step, self.config.batch_size, not self.place.is_first)
        with stop_on_signal() as stop, log.shown():
            for entry in self._entries(stop):
                log.write(entry)
        if self.config.calibrate:
            log.write(self._calibrate())
        if self.place.is_first:
            draw_training_curves(self.out / "log.jsonl", self.out / "curves.png", self.subject.score)
        return self.save()

    def _entries(self, stop: StopRequest) -> Iterator[dict[str, Any]]:
        while self.step < self.config.steps:
            yield self.train_step()
            validated = self.config.validation_start or self.config.validation_samples
            if validated and (self.step % self.config.validate_every == 0 or self.step == self.config.steps):
                yield {"step": self.step, "validation": self.validate()}
                self.save()
            done, stopped = self.step == self.config.steps, self.place.any(bool(stop))
            due = self.config.save_every and (done or self.step % self.config.save_every == 0)
            if due or stopped:
                self.save_state()
            if stopped and not done:
                raise UnfinishedError(
                    f"stopped ({stop.reason or 'another process'}) after step {self.step} of {self.config.steps}. Go on with "
                    "the same command and resume=true."
                )

    def _calibrate(self) -> dict[str, Any]:
        self._fill_average()
        moments = self.validation.calibrate()
        if self.place.is_first:
            save_moments(self.out, moments)
        weights = self.average.calibration[self.first_lead :].mean(dim=-1)  # (step, two, channel)
        calibration = {
            name: dict(zip(self.config.channels, weights[:, place].T.tolist(), strict=True))
            for place, name in enumerate(("forecast", "initial"))
        }
        return {"step": self.step, "calibration": calibration, "validation": self.validate()}

    def save(self) -> Path:
        """Write the averaged weights as a checkpoint."""
        folder = self.out / "checkpoint"
        self._fill_average()
        if self.place.is_first:
            save_checkpoint(
                folder,
                self.average,
                **self.subject.about(),
                extra={
                    "training": asdict(self.config),
                    "steps": self.step,
                    "processes": self.place.ranks,
                    "seconds": round(self.seconds),
                    "seconds_waited_for_data": round(self.waited, 1),
                    "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),  # of this process
                    **self.subject.notes(),
                },
            )
        return folder

    # To go on exactly

    def save_state(self) -> Path:
        """Save everything that `resume` needs; every process takes part."""
        shared = {
            "settings": self._settings(),
            "schedule": {key: value for key, value in self.schedule.state_dict().items() if key != "lr_lambdas"},
            "balance": [self.balance.mean.tolist(), self.balance.seen.tolist()],
            "batches": [source.batches * self.place.copies for source in self.sources],
            "seconds": self.seconds,
        }
        own = {
            "pool": self.buffer.state_dict(),
            "streams": [source.state_dict() for source in self.sources],
            "generators": generator_states(self.rng),
            "waited": self.waited,
        }
        return save_state(self.out, TrainingState(self.step, self._learned(), shared, own), self.place)

    def _load(self, folder: Path) -> None:
        state = load_state(folder, self._learned(), self.place)
        before = asdict(TrainingConfig()) | state.shared["settings"]  # a setting that was not known yet was as by default
        before["model"] = asdict(PuYunConfig()) | before["model"]
        differing = sorted(key for key, value in self._settings().items() if before.get(key) != value)
        if differing:
            raise CheckpointError(
                f"resume goes on with the settings of before, and {differing} differ from those of {folder}. Give the same "
                "ones, or begin anew in another folder with initial=."
            )
        self.step = state.step
        groups = self.optimiser.param_groups
        self.schedule.load_state_dict(state.shared["schedule"] | {"lr_lambdas": [None] * len(groups)})  # functions stay
        for group, rate in zip(groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        mean, seen = state.shared["balance"]
        self.balance.mean, self.balance.seen = torch.tensor(mean), torch.tensor(seen)
        self.seconds = state.shared["seconds"]
        if state.own is None:  # other processes than before: the pool begins anew, at the place in the data
            for source, batches in zip(self.sources, state.shared["batches"], strict=True):
                source.skip(batches // self.place.copies)
            return
        for source, stream in zip(self.sources, state.own["streams"], strict=True):
            source.load_state_dict(stream)
        self.buffer.load_state_dict(state.own["pool"])
        set_generator_states(self.rng, state.own["generators"])
        self.waited = state.own["waited"]

    def _learned(self) -> dict[str, Tensor]:
        """Weights, their average and the optimiser's moments by name; made if there have been none yet."""
        tensors = {f"average.{name}": value for name, value in self.averaged.items()}
        for name, value in self.model.named_parameters():
            moments = self.optimiser.state[value]
            if not moments:
                moments.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(value), exp_avg_sq=torch.zeros_like(value))
            tensors |= {f"model.{name}": value} | {f"optimiser.{name}.{key}": moment for key, moment in moments.items()}
        return tensors

    def _settings(self) -> dict[str, Any]:
        """What must be the same when a training goes on: settings, and the data as their statistics show them."""
        settings = {key: value for key, value in asdict(self.config).items() if key not in FREE}
        settings["model"]["depth"] = list(settings["model"]["depth"])
        return settings | self.subject.data(self.average)


def _subject(config: TrainingConfig) -> Subject:
    return Waves(config, config.simulator) if config.simulator else Weather(config)


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and filters, not biases, norms and layer scales."""
    decayed = [parameter for name, parameter in model.named_parameters() if parameter.ndim > 1 and "scale" not in name]
    others = [parameter for name, parameter in model.named_parameters() if parameter.ndim <= 1 or "scale" in name]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
