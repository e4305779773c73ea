"""Train or fine-tune one stage of a cascade: `python -m forecast.train experiment=NAME`."""

from __future__ import annotations

from configs.compose import entry
from forecast.training import Trainer, TrainingConfig
from forecast.training.parallel import joined


@entry(TrainingConfig, "forecast/train")
def main(config: TrainingConfig) -> str:
    """Train and say where the checkpoint is; of several processes one says it."""
    with joined(config.bands, config.device) as place:
        trainer = Trainer(config, place)
        checkpoint = trainer.run()
    if not place.is_first:
        return ""
    count = f"{trainer.model.parameter_count():,} parameters for {trainer.step} steps"
    return f"Trained {count}; checkpoint {checkpoint}, log and curves in {trainer.out}."


if __name__ == "__main__":
    main()
