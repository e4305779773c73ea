"""Trains a preconditioner: `python -m solvers.train kind=dcdm out=FOLDER`."""

from __future__ import annotations

from configs.compose import entry
from solvers.learning.config import TrainConfig


@entry(TrainConfig, "solvers/train")
def main(config: TrainConfig) -> str:
    """Train, draw the curve, and say where the weights are."""
    from solvers.learning.curve import draw_curve
    from solvers.learning.training import LOG, train

    train(config)
    draw_curve(f"{config.out}/{LOG}", f"{config.out}/curve.png")
    return f"Trained {config.kind} for {config.steps} steps; weights, log and curve in {config.out}."


if __name__ == "__main__":
    main()
