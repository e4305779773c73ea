"""Train or fine-tune one stage of a cascade: `python -m forecast.train experiment=NAME`."""

from __future__ import annotations

from configs.compose import entry
from forecast.training import Trainer, TrainingConfig


@entry(TrainingConfig, "forecast/train")
def main(config: TrainingConfig) -> str:
    """Train and say where the checkpoint is."""
    trainer = Trainer(config)
    checkpoint = trainer.run()
    count = f"{trainer.model.parameter_count():,} parameters for {trainer.step} steps"
    return f"Trained {count}; checkpoint {checkpoint}, log and curves in {trainer.out}."


if __name__ == "__main__":
    main()
