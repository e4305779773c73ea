"""Figures of what `dataset.skill` gives, with the defaults of a page that is published.

| figure | of |
|---|---|
| `curves` | `score`: a metric against lead time, with its interval |
| `scorecard` | `compare`: relative difference from a rival, with what is significant |
| `maps` | `maps`: a metric at every point, coastlines from the package's own files |
| `spectra` | `spectra`: energy by zonal wavenumber |
| `taylor` | `score` with the metrics of `TAYLOR`: amplitude, correlation and error in one point |
| `reliability`, `roc` | `reliability`, `roc`: probabilities of an event |
| `rank_histogram` | `rank_histogram` |

Results of several forecasts are given by name: `curves({"cascade": scores, "persistence": others}, "rmse")`. Every function
gives a matplotlib `Figure`, which notebooks show and `figure.savefig(path)` stores. Scores are shown in units that
forecasters read (`forecast.verification.display`).
"""

from forecast.verification.plots.distributions import rank_histogram, reliability, roc, spectra
from forecast.verification.plots.scores import TAYLOR, curves, maps, scorecard, taylor

__all__ = ["TAYLOR", "curves", "maps", "rank_histogram", "reliability", "roc", "scorecard", "spectra", "taylor"]
