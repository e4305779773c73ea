"""Scores anybody's forecast in WeatherBench 2's schema against an analysis and against fitted baselines; imports no model.

Importing it gives every xarray dataset the accessor `skill` (`forecast.verification.accessor`).
"""

from forecast.verification.accessor import Skill
from forecast.verification.events import Event, climatological_quantile
from forecast.verification.metrics import METRICS
from forecast.verification.skill import Conventions, Statistics

__all__ = ["METRICS", "Conventions", "Event", "Skill", "Statistics", "climatological_quantile"]
