"""A training on two nodes of a real Slurm, by the script of docs/training_at_scale.md: python -m tests.cluster.slurm_training.

Two processes, one per node, train with a latitude band each. Checked: losses and weights are those of torchrun on one machine,
bit for bit; and the job that Slurm signals before its wall time writes a state, queues again and ends with the same weights.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe_machine
from tests.cluster.jobs import RESULTS, ROOT, environment
from tests.cluster.slurm import missing, slurm
from tests.helpers.training import moving_wave, store
from tests.helpers.training_commands import TORCHRUN, losses, training

PAGE = ROOT / "docs" / "training_at_scale.md"
SIZE = "#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --mem=3G --time=00:30:00"


def script(command: str) -> str:
    """The page's script with a command and a size that two virtual nodes have."""
    (text,) = re.findall(r"```sh\n(#!/bin/bash.*?)```", PAGE.read_text(), re.DOTALL)
    text = re.sub(r"#SBATCH --nodes.*", SIZE, text, count=1)
    text = re.sub(r"exec python -m forecast.train [^']*", lambda _: f"exec {command}", text)
    return text.replace('$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)', "127.0.0.1")


def digest(out: Path) -> str:
    return hashlib.sha256((out / "checkpoint" / "model.safetensors").read_bytes()).hexdigest()


def submit(folder: Path, variables: dict[str, str], name: str, out: Path, wave: str, *, signal_after: float = 0) -> dict:
    """Run a training as a job to its end, signalled once on the way where asked for."""
    arguments = training(out, wave, "bands=2", "steps=40", "resume=true", "save_every=100000")
    command = " ".join([sys.executable, *(f'"{argument}"' for argument in arguments)])
    file, log = folder / f"{name}.sbatch", folder / f"{name}.log"
    file.write_text(script(command))
    begin = time.monotonic()
    job = subprocess.run(
        ["sbatch", "--parsable", f"--output={log}", str(file)], env=variables, check=True, capture_output=True, text=True
    ).stdout.strip()
    signalled = 0
    while subprocess.run(
        ["squeue", "-h", "-j", job], env=variables, capture_output=True, text=True, check=False
    ).stdout.strip():
        if signal_after and not signalled and (out / "log.jsonl").exists():
            time.sleep(signal_after)
            subprocess.run(["scancel", "--signal=USR1", job], env=variables, check=True)
            signalled = 1
        if time.monotonic() - begin > 400:
            raise SystemExit(f"job {job} did not end: {log.read_text()[-2000:]}")
        time.sleep(0.5)
    text = log.read_text()
    return {"seconds": round(time.monotonic() - begin, 1), "signals": signalled, "stops": text.count("stopped (SIGUSR1)") // 2}


def main() -> None:
    """Train by torchrun, by Slurm, and by Slurm with a signal; compare."""
    if lacking := missing():
        raise SystemExit(f"missing: {', '.join(lacking)}. As root: apt-get install slurm-wlm munge")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        wave = store(folder / "wave.zarr", moving_wave())
        launched = [*TORCHRUN, *training(folder / "torchrun", wave, "bands=2", "steps=40")]
        subprocess.run(launched, env=environment(), check=True, capture_output=True)
        result = {"machine": describe_machine(), "nodes": 2, "steps": 40}
        with slurm(folder / "slurm") as variables:
            result["whole"] = submit(folder, variables, "whole", folder / "whole", wave)
            result["signalled"] = submit(folder, variables, "signalled", folder / "signalled", wave, signal_after=0.5)
        for name in ("whole", "signalled"):
            result[name]["weights_equal_torchruns"] = digest(folder / name) == digest(folder / "torchrun")
            result[name]["losses_equal_torchruns"] = losses(folder / name) == losses(folder / "torchrun")
    (RESULTS / "slurm_training.json").write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    assert all(result[name]["weights_equal_torchruns"] for name in ("whole", "signalled"))


if __name__ == "__main__":
    main()
