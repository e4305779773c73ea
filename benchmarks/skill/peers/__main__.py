"""Peers at an equal budget: networks of one size, trained for as long on the same data, scored on the same test years.

    python -m benchmarks.skill.peers --simulated STORE [--seconds 180] [--networks PuYun UNet] [--seeds 0 1] [--only-make]
    python -m benchmarks.skill.peers --table
    python -m benchmarks.skill.peers --figure

STORE is 20 simulated years on 37 x 72 points in two independent runs (docs/peers.md tells the command). Each network is trained
by the experiment `peer_study` on the first four years of one run; test years are the first two of the other, which the store of
the training does not hold. First every network is tried at each of `RATES` for `TRIAL_STEPS` steps: the rate with the lowest
error of training is its own, and the processor seconds of its steps say how many fit into `--seconds`. So nothing is chosen on
test years, and all get the same time on one thread. Forecasts from the test years are scored beside the baselines, which are
fitted on the same four years. What is there already is kept (a training that was killed goes on), so that several processes can
make disjoint rows with `--only-make`; rows that failed are listed. Writes `benchmarks/results/peers.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.skill.command import run_study, simulated_parser
from benchmarks.skill.peers import icosahedral_graph, spherical_operator, u_net, window_attention
from benchmarks.skill.peers.report import draw, table
from benchmarks.skill.study import Study, make_all, part_of, scored, training_config, write_whole
from data_pipelines.sources import Selection
from forecast.training import Trainer

RESULT = Path(__file__).parents[2] / "results" / "peers.json"
FIGURE = Path(__file__).parents[3] / "docs" / "images" / "peers.png"
OUT = Path("outputs/peer_study")
TRAIN = ("2002-06-01T00", "2006-05-31T18")  # of the first run
TEST = ("2012-09-10T00", "2014-09-01T00")  # of the second, which another spin-up began
LEADS = (24, 72, 120, 240)  # hours
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
TRIAL_STEPS, WARM = 100, 5
PEERS = (
    (u_net.UNet, "{width: 16, widths: [1, 2, 2], blocks: 1, dropout: 0.0}"),
    (window_attention.WindowAttention, "{width: 64, blocks: 4, expansion: 3}"),
    (spherical_operator.SphericalOperator, "{width: 32, blocks: 3}"),
    (icosahedral_graph.IcosahedralGraph, "{width: 56, rounds: 6}"),
)
# The form of the shipped stages, and one that stood well in the study of mixers; the second had the lower error of training in
# the trial and on the last two months of the training years, before any test year was looked at, and is the reference.
REFERENCE = "PuYun-ls"
NETWORKS = {
    name: ["network=PuYun", f"model.mixer={mixer}"] for name, mixer in (("PuYun", "gated_large_kernel"), ("PuYun-ls", "ls"))
} | {network.__name__: [f"network={network.__name__}", f"network_settings={settings}"] for network, settings in PEERS}

# A second stage behind a network, in its own budget. It learns from what the first stage has made of day 5, which costs twenty
# steps a start, so that few forecasts are fresh; and it goes on from the first stage's weights, at a tenth of its rate.
CASCADES = {f"{name} cascade": name for name in ("PuYun", "PuYun-ls")}
SECOND_STAGE = ["warm_up=20", "replay_buffer=64", "fresh_share=0.06", "steps=300"]


def main() -> None:
    parser = simulated_parser(__doc__, "networks", [*NETWORKS, *CASCADES])
    parser.add_argument("--seconds", type=float, default=180.0, help="of one thread, for each training")
    run_study(parser, RESULT, make, lambda result: "\n\n".join(table(result)), lambda result: draw(result, FIGURE))


def make(given: argparse.Namespace) -> dict[str, Any] | None:
    """Train, forecast and score."""
    study = prepare(given.simulated)
    rows, failed = make_all(study, {name: settings_of(study, name, given.seconds) for name in given.networks}, given.seeds)
    return None if given.only_make else result_of(study, rows, failed, given.seconds)


def prepare(simulated: Path, out: Path = OUT) -> Study:
    """The study, its training years in a store of their own."""
    learn_from = part_of([simulated], out / "training.zarr", Selection(start=TRAIN[0], end=TRAIN[1]))
    return Study(
        out, ("simulated", learn_from), simulated, TRAIN, *TEST, REFERENCE, every="10d", leads=LEADS, train_analysis=learn_from,
        behind=CASCADES,
    )  # fmt: skip


def settings_of(study: Study, name: str, seconds: float) -> list[str]:
    """What its training differs in, by the trial, which is made unless it is there."""
    if name in study.behind:
        first = study.behind[name]
        rate = trial_of(study, first)["chosen"] / 10
        return ["experiment=peer_study", *NETWORKS[first], f"learning_rate={rate:g}", *SECOND_STAGE]
    trial = trial_of(study, name)
    steps = int(seconds / trial["seconds_per_step"])
    return ["experiment=peer_study", *NETWORKS[name], f"learning_rate={trial['chosen']}", f"steps={steps}"]


def trial_of(study: Study, name: str) -> dict[str, Any]:
    """Error of training by learning rate, the best rate, and processor seconds of a step; what was tried is kept."""
    stored = study.out / f"{name}-trial.json"
    tried: dict[str, dict[str, float]] = json.loads(stored.read_text()) if stored.exists() else {}
    for rate in RATES:
        if str(rate) in tried:
            continue
        folder = study.out / f"{name}-trial"
        settings = ["experiment=peer_study", *NETWORKS[name], f"learning_rate={rate}", f"steps={TRIAL_STEPS}", f"out={folder}"]
        trainer = Trainer(training_config(study, settings))
        errors, spent = [], []
        for _ in range(TRIAL_STEPS):
            begun = time.process_time()
            errors.append(trainer.train_step()["error"])
            spent.append(time.process_time() - begun)
        tried[str(rate)] = {
            "error": statistics.mean(errors[-TRIAL_STEPS // 4 :]), "seconds_per_step": statistics.mean(spent[WARM:]),
        }  # fmt: skip
        write_whole(stored, tried)
        shutil.rmtree(folder, ignore_errors=True)
    chosen = min(map(str, RATES), key=lambda rate: tried[rate]["error"])
    cost = statistics.mean(tried[str(rate)]["seconds_per_step"] for rate in RATES)
    errors_of = {str(rate): tried[str(rate)]["error"] for rate in RATES}
    return {"errors": errors_of, "chosen": float(chosen), "seconds_per_step": round(cost, 4)}


def result_of(study: Study, rows: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What is stored."""
    found = [row | ({"trial": trial_of(study, row["name"])} if row["name"] in NETWORKS else {}) for row in scored(study, rows)]
    return {
        "what": "networks of about the same size, trained for as long on the same simulated years, scored on later ones",
        "seconds_of_training": seconds, "train": list(study.train_span), "test": [study.start, study.end, study.every],
        "machine": describe_machine(), "reference": study.reference, "rows": found, "failed": list(failed),
    }  # fmt: skip


if __name__ == "__main__":
    main()
