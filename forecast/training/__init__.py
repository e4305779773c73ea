"""Training of one stage of a cascade: one step ahead first, then on the states that the stage makes itself."""

from forecast.training.config import SourceConfig, TrainingConfig
from forecast.training.trainer import Trainer

__all__ = ["SourceConfig", "Trainer", "TrainingConfig"]
