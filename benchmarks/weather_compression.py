"""The weather network with compressed convolutions: parameters, time of a step, RMSE on held-out days.

    python -m data_pipelines.build_store source=sample out=outputs/weather_compression/sample.zarr
    python -m benchmarks.weather_compression          # what is missing; again: goes on
    python -m benchmarks.weather_compression store    # times, and the result

Starts from the shipped short stage: its dense convolutions are approximated (`PuYun.compressed`), then all forms, the dense one
too, learn on for the same number of steps on the days that the stage learned from. RMSE is of forecasts without calibration
that are valid on January 21 to 26, which no weights have seen. Writes `benchmarks/results/weather_compression.json`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, store_result

RESULT = Path(__file__).parent / "results" / "weather_compression.json"
FOLDER = Path("outputs/weather_compression")
SAMPLE = FOLDER / "sample.zarr"
FORMS: dict[str, dict[str, Any]] = {
    "dense": {},
    "rank 1/2": {"rank": 0.5, "terms": 2},
    "rank 1/4": {"rank": 0.25, "terms": 2},
    "rank 1/8": {"rank": 0.125, "terms": 1},
}
STEPS, LEADS, RUNS = 120, (12, 24), 7


def trainer_of(form: str) -> Any:
    """A training that begins with the shipped stage in a form."""
    from forecast.layers.compression import CompressionConfig
    from forecast.puyun import PuYunConfig
    from forecast.stages import shipped_checkpoint
    from forecast.training import SourceConfig, Trainer, TrainingConfig

    shape = PuYunConfig(
        width=96, depth=(3, 3), patch=2, expansion=2, mirrored=True, compression=CompressionConfig(**FORMS[form])
    )
    config = TrainingConfig(
        out=str(FOLDER / form.replace(" ", "_").replace("/", "_of_")), model=shape, initial=[str(shipped_checkpoint("short"))],
        sources={"era5": SourceConfig(store=str(SAMPLE), start="2025-12-01", end="2026-01-20")},
        step_hours=12, mirrored=0.5, lead_until_hours=24,
        validation_start="2026-01-21", validation_end="2026-01-26", validation_leads=list(LEADS),
        steps=STEPS, warm_up=20, batch_size=4, replay_buffer=32, fresh_share=0.3, learning_rate=5e-4, ema=0.97, threads=2,
        precision="fp32", device="cpu", save_every=30, validate_every=10_000, resume=True,
    )  # fmt: skip
    return Trainer(config)


def learn() -> None:
    """Score, learn on, score again; what is done is left."""
    for form in FORMS:
        done = FOLDER / f"{form.replace(' ', '_').replace('/', '_of_')}.json"
        if done.exists():
            continue
        trainer = trainer_of(form)
        before = FOLDER / f"before_{done.name}"
        if not before.exists():
            before.write_text(json.dumps(trainer.validate()))
        trainer.run()
        row = {
            "parameters": trainer.model.parameter_count(), "seconds": trainer.seconds,
            "before": json.loads(before.read_text()), "after": trainer.validate(),
        }  # fmt: skip
        done.write_text(json.dumps(row))
        print(form, row, flush=True)


def seconds_of(models: dict[str, Any]) -> dict[str, float]:
    """Best time of one step of four forecasts, two threads; the forms take turns."""
    import torch

    torch.set_num_threads(2)
    times = np.array(["2026-01-01T00"] * 4, dtype="datetime64[ns]")
    best: dict[str, float] = {}
    for _ in range(RUNS):
        for name, model in models.items():
            need = model.requirements
            frames = model.mean_field.expand(4, need.history, *model.mean_field.shape)
            inputs = model.inputs_at(times, np.zeros(4))
            began = time.perf_counter()
            with torch.inference_mode():
                model(frames, *inputs)
            best[name] = min(time.perf_counter() - began, best.get(name, np.inf))
    return best


def store() -> None:
    """Time the forms and write the result."""
    from forecast.layers.compression import CompressionConfig
    from forecast.puyun import PuYun
    from forecast.stages import shipped_checkpoint
    from forecast.training.subject import load_network

    short = load_network(str(shipped_checkpoint("short")), PuYun)
    models, left = {"dense": short}, {"dense": 0.0}
    for form, settings in FORMS.items():
        if settings:
            models[form], errors = short.compressed(CompressionConfig(**settings))
            left[form] = float(np.sqrt(np.mean(np.square(list(errors.values())))))
    seconds = seconds_of({name: model.eval() for name, model in models.items()})
    rows = {}
    for form in FORMS:
        row = json.loads((FOLDER / f"{form.replace(' ', '_').replace('/', '_of_')}.json").read_text())
        rows[form] = row | {"step_seconds": seconds[form], "left_of_weights": left[form], "compression": FORMS[form]}
    what = (
        f"the shipped short stage with compressed convolutions, before and after {STEPS} more steps; RMSE on January 21 to 26"
    )
    store_result(RESULT.absolute(), {"what": what, "machine": describe_machine(), "steps": STEPS, "rows": rows})


if __name__ == "__main__":
    store() if sys.argv[1:] == ["store"] else learn()
