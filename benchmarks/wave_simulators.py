"""Wave simulators: compressed against classical kernels, and all of them against finite elements.

    python -m benchmarks.wave_simulators data               # four draws of simulations
    python -m benchmarks.wave_simulators train 0/2          # every second training, one thread each; again: what is missing
    python -m benchmarks.wave_simulators train 1/2
    python -m benchmarks.wave_simulators evaluate           # errors, parameters, times; writes the result
    python -m benchmarks.wave_simulators draw               # docs/images/wave_compression.png

Trained on one draw, scored on another, and apart on a third one outside the range of speeds and shapes that was learned; on a
fourth one, "choose", rates and deep forms were chosen. All trainings have the same data, steps and settings but for the form
and its kind's learning rate. `evaluate` writes `benchmarks/results/wave_simulators.json`. Inference is timed on one thread and
on two, forms taking turns in one process; trainings by the processor seconds of their one thread.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, store_result
from forecast.training.states import states_in

RESULT = Path(__file__).parent / "results" / "wave_simulators.json"
FOLDER = Path("outputs/wave_simulators")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "wave_compression.png"
STEPS_AHEAD, SCORED = 12, ("choose", "test", "outside")

WAVES: dict[str, Any] = {
    "columns": 24, "rows": 24, "frames": 13, "frame_seconds": 0.1, "cells": 96, "outer": ["neumann"], "pulses": [0, 0],
    "holes": [0, 1], "inclusions": [0, 1], "inclusion_speed": [0.6, 1.5], "radius": [0.08, 0.15], "bump_width": [0.08, 0.12],
}  # fmt: skip
DRAWS: dict[str, dict[str, Any]] = {
    "train": {"samples": 320, "seed": 0},
    "choose": {"samples": 64, "seed": 3},  # deep forms and rates were chosen on it
    "test": {"samples": 64, "seed": 1},
    # Faster media, faster inclusions, two holes and narrower bumps: none of it was in the training draw.
    "outside": {"samples": 64, "seed": 2, "speed": [1.25, 1.45], "holes": [2, 2], "inclusion_speed": [1.6, 2.0]},
}
TRAINING: dict[str, Any] = {
    "channels": ["displacement", "velocity"], "history": 1, "lead_until_steps": STEPS_AHEAD, "steps": 6000, "batch_size": 8,
    "replay_buffer": 256, "fresh_share": 0.25, "warm_up": 50, "weight_decay": 1e-4, "ema": 0.99,
    "noise": 0.02, "balance_lead_times": False, "precision": "fp32", "device": "cpu", "threads": 1, "save_every": 1000,
    "validate_every": 10_000,
}  # fmt: skip
# By errors on the draw "choose", seed 0: dense 7 at 4e-3 and 8e-3, 2.27 % and 2.28 %; lean 2 chains 7 at 8e-3, 1.6e-2 and
# 3.2e-2, 2.78 %, 2.59 % and 2.56 %; deep 2 chains 3 at 8e-3 and 2e-2, 2.59 % and 1.73 %. Deep dense ones were tried at 8e-3
# alone.
RATES = {"dense": 4e-3, "deep dense": 8e-3, "chains": 2e-2}
KERNELS, SEEDS = (3, 7, 11), (0, 1, 2)
SIZE: dict[str, Any] = {"network": "cnn", "width": 16, "depth": 3}
# Two ways to an eighth of the parameters of dense 7 x 7: two chains, or one chain and more channels.
LEAN: dict[str, Any] = {**SIZE, "kernel_size": 7, "compression": {"terms": 2, "rank": 0.4}}
WIDE: dict[str, Any] = {**SIZE, "width": 27, "medium_width": 8, "kernel_size": 7, "compression": {"terms": 1}}
# Small kernels and more layers: as many parameters as LEAN, and a reach of seven points in place of fifteen.
DEEP: dict[str, Any] = {**SIZE, "depth": 5}
DEEP_CHAINS: dict[str, Any] = {**DEEP, "kernel_size": 3, "medium_width": 13, "compression": {"terms": 2, "rank": 0.4}}
# A compressed network against a classical one: with the same layers and reach, more layers, as many of them, the same kernels.
PAIRS = (
    ("dense 7", "lean 2 chains 7"), ("dense 7", "deep 2 chains 3"), ("deep dense 7", "deep 2 chains 3"),
    ("deep dense 3", "deep 2 chains 3"),
)  # fmt: skip
SEVERAL = (  # trained with three seeds; the others with one
    "dense 7", "lean 2 chains 7", "deep 2 chains 3", "deep dense 7", "deep dense 3", "wide chain 7", "narrow dense 3",
    "shallow dense 3",
)  # fmt: skip


def _chains(terms: int, size: int) -> dict[str, Any]:
    return {**SIZE, "kernel_size": size, "compression": {"terms": terms, "rank": 0.5}}


FORMS: dict[str, dict[str, Any]] = {
    "dense 7": {**SIZE, "kernel_size": 7},
    "lean 2 chains 7": LEAN,
    "deep 2 chains 3": DEEP_CHAINS,
    "deep dense 7": {**DEEP, "kernel_size": 7},
    "deep dense 3": {**DEEP, "kernel_size": 3},
    "wide chain 7": WIDE,
    "1 chain 7": _chains(1, 7),
    "2 chains 7": _chains(2, 7),
    "narrow dense 3": {**SIZE, "width": 8, "kernel_size": 3},
    "dense 3": {**SIZE, "kernel_size": 3},
    "shallow dense 3": {**SIZE, "width": 8, "depth": 2, "kernel_size": 3},  # the fastest
    "2 chains 3": _chains(2, 3),
    "1 chain 3": _chains(1, 3),
    "4 chains 7": _chains(4, 7),
    "lka": {"network": "lka", "width": 16, "depth": 2},
    "dense 11": {**SIZE, "kernel_size": 11},
    "2 chains 11": _chains(2, 11),
    "1 chain 11": _chains(1, 11),
}
BATCH, RUNS, THREADS = 16, 15, (1, 2)


def trainings() -> list[tuple[str, int]]:
    """Forms and seeds, those with several seeds first."""
    return [(form, seed) for seed in SEEDS for form in SEVERAL] + [(form, 0) for form in FORMS if form not in SEVERAL]


def store_of(draw: str) -> Path:
    """The wave store of a draw."""
    return FOLDER / f"{draw}.zarr"


def folder_of(form: str, seed: int) -> Path:
    """Where a training is."""
    return FOLDER / f"{form.replace(' ', '_')}_{seed}"


def make_data() -> None:
    """Simulate the draws that are not there."""
    from data_pipelines.simulation_workers import DaskConfig
    from data_pipelines.sources.finite_element_waves import WaveConfig
    from data_pipelines.wave_ensemble import build_wave_store

    for draw, settings in DRAWS.items():
        if not store_of(draw).exists():
            workers = DaskConfig(workers=len(os.sched_getaffinity(0)))
            build_wave_store(WaveConfig(**{**WAVES, **settings}), store_of(draw), dask=workers, compression="none")


def train(share: int, shares: int) -> None:
    """Train what is missing of one share of all trainings; one that was stopped goes on where it was."""
    from forecast.training import SourceConfig, Trainer, TrainingConfig
    from forecast.wave_simulator import SimulatorConfig

    for form, seed in trainings()[share::shares]:
        out, rate = folder_of(form, seed), rate_of(form)
        if (out / "done").exists():
            continue
        config = TrainingConfig(
            out=str(out), sources={"waves": SourceConfig(store=str(store_of("train")))}, seed=seed, resume=True,
            simulator=SimulatorConfig(**FORMS[form]), learning_rate=rate, **TRAINING,
        )  # fmt: skip
        before = time.process_time()
        Trainer(config).run()
        seconds = time.process_time() - before
        (out / "done").write_text(json.dumps({"processor_seconds": seconds}))
        print(form, seed, f"{seconds:.0f} s", flush=True)


def rate_of(form: str) -> float:
    """The learning rate of a form."""
    return RATES["chains" if "compression" in FORMS[form] else "deep dense" if form.startswith("deep") else "dense"]


def rate_in(folder: Path) -> float:
    """The learning rate that a training had, by its last state."""
    state = json.loads((states_in(folder)[-1] / "state.json").read_text())
    return float(state["shared"]["settings"]["learning_rate"])


def errors_of(model: Any, draw: str) -> dict[str, float]:
    """Relative L2 error of displacement: its mean over lead times, and the last one; medians over samples, and the share of
    samples that are lost: wrong by more than the waves themselves at the end, or no finite numbers. Their error is infinite.
    """
    from data_pipelines.store import open_waves
    from forecast.verification.wave_scores import score_waves

    truth = open_waves(store_of(draw))
    samples = truth["sample"].values.tolist()
    made = truth[["displacement", "velocity"]].load().copy(deep=True)
    finite = _roll_out(model, truth, samples, made)
    scores = score_waves({"simulator": made}, truth, samples, history=1).sel(forecast="simulator")
    error = np.where(finite[:, None], scores["relative_l2"].values, np.inf)
    return {
        "mean": float(np.median(error.mean(axis=1))),
        "last": float(np.median(error[:, -1])),
        "energy_drift_last": float(np.nanmedian(scores["energy_drift"].values[finite, -1])),
        "phase_last_ms": float(1e3 * np.nanmedian(np.abs(scores["phase_error"].values[finite, -1]))),
        "lost": float(np.mean(~(error[:, -1] <= 1))),
    }


def _roll_out(model: Any, truth: Any, samples: list[int], made: Any) -> np.ndarray:
    """Write what a simulator makes of samples into `made`; say which of them stayed finite."""
    from forecast.forecaster import ForecastError
    from forecast.wave_rollout import rollout_waves

    try:
        states = list(rollout_waves(model, truth, samples, STEPS_AHEAD, "cpu", "fp32"))
    except ForecastError:  # a batch ends with the first of its samples that is lost
        if len(samples) == 1:
            return np.array([False])
        middle = len(samples) // 2
        return np.concatenate([_roll_out(model, truth, part, made) for part in (samples[:middle], samples[middle:])])
    places = np.searchsorted(truth["sample"].values, samples)
    for step, state in enumerate(states, 1):
        for channel, name in enumerate(model.requirements.channels):
            made[name].values[places, step] = state.fields[:, channel]
    return np.ones(len(samples), dtype=bool)


def seconds_of(models: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Time of a roll-out of 12 steps in batches, per sample, and alone, by number of threads; the models take turns.

    In the form that a roll-out chooses for so many samples; "alone, as chains" is without that choice.
    """
    import torch

    from data_pipelines.store import open_waves
    from forecast.wave_rollout import for_samples, read_start, steps_of

    truth = open_waves(store_of("test"))
    samples = truth["sample"].values[:BATCH]
    starts = {name: read_start(model, truth, samples) for name, model in models.items()}
    ways = {
        name: {"batch": (BATCH, for_samples(model, BATCH)), "alone": (1, for_samples(model, 1))}
        | ({"alone, as chains": (1, model)} if model.config.compression.is_on else {})
        for name, model in models.items()
    }
    best: dict[str, dict[str, dict[str, float]]] = {name: {key: {} for key in ways[name]} for name in models}
    usual = torch.get_num_threads()
    for run in range(len(THREADS) * RUNS):
        threads = THREADS[run % len(THREADS)]
        torch.set_num_threads(threads)
        for name in models:
            frames, static = starts[name]
            for key, (count, model) in ways[name].items():
                began = time.perf_counter()
                for _ in steps_of(model, frames[:count], static[:count], samples[:count], STEPS_AHEAD, False):
                    pass
                seconds = (time.perf_counter() - began) / count
                best[name][key][str(threads)] = min(seconds, best[name][key].get(str(threads), seconds))
    torch.set_num_threads(usual)
    return best


def evaluate() -> None:
    """Score and time what is trained; writes the result."""
    from forecast.checkpoint import load_checkpoint, read_description

    rows, models = {}, {}
    for form, seed in trainings():
        if not (folder_of(form, seed) / "done").exists():
            continue
        if (rate := rate_in(folder_of(form, seed))) != rate_of(form):
            raise ValueError(
                f"{folder_of(form, seed)} was trained at {rate}, and {form} is at {rate_of(form)}; train it again."
            )
        model = load_checkpoint(folder_of(form, seed) / "checkpoint")
        scored = folder_of(form, seed) / "errors.json"
        errors = json.loads(scored.read_text()) if scored.exists() else {}
        errors |= {draw: errors_of(model, draw) for draw in SCORED if draw not in errors}
        scored.write_text(json.dumps(errors))
        notes = read_description(folder_of(form, seed) / "checkpoint").notes
        rows[f"{form} seed {seed}"] = {
            "form": form, "seed": seed, "learning_rate": rate, "parameters": sum(value.numel() for value in model.parameters()),
            "training_seconds": round(json.loads((folder_of(form, seed) / "done").read_text())["processor_seconds"]),
            "peak_memory_mb": notes["peak_memory_mb"], **errors,
        }  # fmt: skip
        if seed == 0:
            models[form] = model
        print(form, seed, errors, flush=True)
    seconds = seconds_of(models)
    for row in rows.values():
        row["seconds_by_threads"] = seconds[row["form"]]
        row["seconds"] = {key: min(by_threads.values()) for key, by_threads in seconds[row["form"]].items()}
    result = {
        "what": "wave simulators with dense kernels and with chains of one-way filters, 12 steps of 0.1 s on 24 x 24 points",
        "machine": describe_machine(), "waves": WAVES, "draws": DRAWS, "training": TRAINING, "learning_rates": RATES,
        "forms": FORMS,
        "rows": rows, "pairs": [pair for names in PAIRS if (pair := _pair(rows, *names))],
        "finite_elements": finite_elements(),
    }  # fmt: skip
    store_result(RESULT.absolute(), result)


def _pair(rows: dict[str, Any], classical: str, compressed: str) -> dict[str, Any]:
    """A compressed form over a classical one, on every seed that both have."""
    found = {form: {row["seed"]: row for row in rows.values() if row["form"] == form} for form in (classical, compressed)}
    seeds = sorted(found[classical].keys() & found[compressed].keys())
    if not seeds:
        return {}
    by_seed = {
        draw: [found[compressed][seed][draw]["mean"] / found[classical][seed][draw]["mean"] for seed in seeds]
        for draw in SCORED
    }
    one, other = found[compressed][seeds[0]], found[classical][seeds[0]]
    return {
        "classical": classical, "compressed": compressed, "seeds": seeds, "error_ratios": by_seed,
        "error_ratio": {draw: float(np.mean(values)) for draw, values in by_seed.items()},
        "parameter_ratio": one["parameters"] / other["parameters"],
        "time_ratio": {key: one["seconds"][key] / other["seconds"][key.split(",")[0]] for key in one["seconds"]},
    }  # fmt: skip


MESHES: dict[str, dict[str, Any]] = {
    **{f"P1 {cells}": {"cells": cells} for cells in (16, 24, 32, 48, 64, 96, 128, 192)},
    "P2 24": {"cells": 24, "degree": 2},
    "P2 48": {"cells": 48, "degree": 2},
}
REFERENCE = {"cells": 96, "degree": 2}
SOLVED = 8


def finite_elements() -> dict[str, Any]:
    """Error against a fine solution, and time, of explicit finite elements on meshes of many sizes; one thread a sample."""
    from data_pipelines.sources.finite_element_waves import WaveConfig, prepare, record

    settings = {**WAVES, **DRAWS["test"]}
    exact = [_solve(WaveConfig(**{**settings, **REFERENCE}), sample)[0] for sample in range(SOLVED)]
    rows = {}
    for name, mesh in MESHES.items():
        config = WaveConfig(**{**settings, **mesh})
        errors, seconds, whole = [], [], []
        for sample in range(SOLVED):
            best = np.inf
            for _ in range(3):
                began = time.perf_counter()
                ready = prepare(config, sample)
                prepared = time.perf_counter()
                fields = record(ready, config.frames)
                best = min(best, time.perf_counter() - prepared)
            whole.append(best + prepared - began)
            seconds.append(best)
            inside = ready.sampling.mask
            off = (fields[0] - exact[sample][0])[:, inside]
            errors.append(np.linalg.norm(off, axis=1)[1:] / np.linalg.norm(exact[sample][0][:, inside], axis=1)[1:])
        by_lead = np.median(errors, axis=0)
        rows[name] = {
            "mean": float(np.median(np.mean(errors, axis=1))), "last": float(by_lead[-1]),
            "solve_seconds": float(np.median(seconds)), "with_mesh_and_assembly_seconds": float(np.median(whole)),
        }  # fmt: skip
        print(name, rows[name], flush=True)
    return {"reference": REFERENCE, "samples": SOLVED, "meshes": rows}


def _solve(config: Any, sample: int) -> tuple[np.ndarray, np.ndarray]:
    from data_pipelines.sources.finite_element_waves import prepare, record

    ready = prepare(config, sample)
    return record(ready, config.frames), ready.sampling.mask


def draw() -> None:
    """Draw errors against parameters, and against time beside finite elements."""
    from matplotlib.figure import Figure

    result = json.loads(RESULT.read_text())
    figure = Figure(figsize=(12.5, 5.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = [row for row in result["rows"].values() if row["form"] != "lka"]
    colours = {size: f"C{place}" for place, size in enumerate(KERNELS)}
    marks = {
        "dense": "s", "narrow dense": "P", "shallow dense": "p", "deep dense": "X", "1 chain": "v", "2 chains": "o",
        "4 chains": "^", "lean 2 chains": "h", "deep 2 chains": "*", "wide chain": "D",
    }  # fmt: skip
    for axis, key in ((left, "test"), (middle, "outside")):
        for row in rows:
            kind, size = _kind_and_size(row["form"])
            axis.plot(row["parameters"], 100 * row[key]["mean"], marks[kind], color=colours[size], ms=8, alpha=0.85)
        axis.set(xscale="log", yscale="log", xlabel="parameters", ylabel="relative L2 error, mean over lead times [%]")
        axis.grid(alpha=0.3, which="both")
        _plain_ticks(
            axis, (2500, 5000, 10000, 20000, 40000, 100_000), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 30, 40, 50)
        )
    left.set_title("unseen simulations of another draw", fontsize=10)
    middle.set_title("speeds and shapes outside the training range", fontsize=10)
    shown = {_kind_and_size(row["form"]) for row in rows}
    for name, mark in marks.items():
        if name in {kind for kind, _ in shown}:
            left.plot([], [], mark, color="0.4", label=name)
    for size in sorted({size for _, size in shown}):
        left.plot([], [], "-", lw=5, color=colours[size], label=f"{size} × {size}")
    meshes = result["finite_elements"]["meshes"]
    for degree, colour in (("P1", "0.15"), ("P2", "0.5")):
        points = [(row["solve_seconds"], row["last"]) for name, row in meshes.items() if name.startswith(degree)]
        right.plot(*zip(*[(1e3 * one, 100 * two) for one, two in points], strict=True), "o-", color=colour,
                   label=f"finite elements {degree}")  # fmt: skip
    for name, row in meshes.items():
        right.annotate(name.split()[1], (1e3 * row["solve_seconds"], 100 * row["last"]), fontsize=7, xytext=(3, 3),
                       textcoords="offset points")  # fmt: skip
    for place, form in enumerate((*SEVERAL, "lka")):
        for row in (row for row in result["rows"].values() if row["form"] == form and row["seed"] == 0):
            at = 1e3 * row["seconds"]["batch"], 100 * row["test"]["last"]
            right.plot(*at, "*", ms=14, color=f"C{place}", label=form)
    right.axhline(5, color="0.6", lw=0.8, ls=":")
    right.set(
        xscale="log",
        yscale="log",
        xlim=(0.7, 300),
        xlabel="time of one simulation of 1.2 s [ms]",
        ylabel="relative L2 error at 1.2 s [%]",
    )
    right.set_title("in batches, against finite elements (numbers: cells)", fontsize=10)
    right.grid(alpha=0.3, which="both")
    _plain_ticks(right, (1, 2, 5, 10, 20, 50, 100, 200), (0.2, 0.5, 1, 2, 5, 10))
    for axis, side in ((left, "left"), (right, "right")):
        figure.legend(*axis.get_legend_handles_labels(), fontsize="small", loc=f"outside lower {side}", ncols=4)
    figure.savefig(PICTURE, dpi=110)


def _kind_and_size(form: str) -> tuple[str, int]:
    kind, size = form.rsplit(" ", 1)
    return kind, int(size)


def _plain_ticks(axis: Any, along_x: tuple[float, ...], along_y: tuple[float, ...]) -> None:
    """Numbers as they are read, in place of powers of ten."""
    from matplotlib.ticker import FixedLocator, NullFormatter

    for one, ticks in ((axis.xaxis, along_x), (axis.yaxis, along_y)):
        low, high = one.get_view_interval()
        one.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        one.set_major_formatter(lambda value, _: f"{value:,g}")
        one.set_minor_formatter(NullFormatter())


def main() -> None:
    """Do what the command line says."""
    what = sys.argv[1] if len(sys.argv) > 1 else "evaluate"
    if what == "data":
        make_data()
    elif what == "train":
        share, shares = (int(part) for part in (sys.argv[2] if len(sys.argv) > 2 else "0/1").split("/"))
        train(share, shares)
    elif what == "evaluate":
        evaluate()
    elif what == "draw":
        draw()
    else:
        sys.exit(f"unknown: {what}; data, train SHARE/SHARES, evaluate or draw.")


if __name__ == "__main__":
    main()
