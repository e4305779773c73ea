# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Is this forecast better than that one, or was it luck?
#
# `import forecast.verification` gives every xarray dataset in WeatherBench 2's schema the accessor `skill`: it scores
# anybody's forecast, says by which convention, and how sure one can be. Here two simple forecasts of the shipped ERA5 are
# scored, persistence and damped persistence; a network's store is scored by the same lines.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

from data_pipelines.build import build_analysis_store
from data_pipelines.sample import sample_sources
from data_pipelines.store import open_analysis
from data_pipelines.variables import channels_of
from forecast.verification import Conventions, Event, climatological_quantile, plots
from forecast.verification.baselines import DampedPersistence, Persistence, baseline_forecast
from forecast.verification.training import load_training

folder = Path(tempfile.mkdtemp())
build_analysis_store(sample_sources(), folder / "analysis.zarr")
truth = open_analysis(folder / "analysis.zarr").load()

# %% [markdown]
# The damping and the climatology are fitted on December 1 to January 20; the forecasts are of January 27 to February 5.

# %%
channels, step = channels_of(truth), np.timedelta64(6, "h")
training = load_training(truth, channels, ("2025-12-01", "2026-01-20T18"))
times = np.arange("2026-01-27", "2026-02-06", step, dtype="datetime64[ns]")
leads = np.arange(1, 21) * step
settings = (training.climatology, truth, times, leads, step)
model = baseline_forecast(DampedPersistence(training, range(1, 21)), *settings)
persistence = baseline_forecast(Persistence(), *settings)
climatology = training.climatology.dataset
print(model)

# %% [markdown]
# ## Scores, with intervals
#
# Intervals come from resampling initial times in blocks as long as neighbouring forecasts overlap; the result carries every
# convention as an attribute. Two weeks of winter are a short sample, and the shades say so.

# %%
options = Conventions(regions=["global", "northern-hemisphere", "tropics"])
metrics = ["rmse", "acc", "bias", *plots.TAYLOR]
scores = {
    name: dataset.skill.score(truth, metrics, climatology=climatology, options=options)
    for name, dataset in {"damped persistence": model, "persistence": persistence}.items()
}
for key, value in scores["persistence"].attrs.items():
    print(f"{key}: {value}")
plots.curves(scores, "rmse")

# %%
plots.curves(scores, "acc", region="northern-hemisphere")

# %% [markdown]
# ## Better, or luck?
#
# The same initial times for both, so the difference is tested in pairs.

# %%
comparison = model.skill.compare(persistence, truth, ["rmse"], options=options)
plots.scorecard(comparison, rival="persistence")

# %% [markdown]
# ## Where?

# %%
plots.maps(model.skill.maps(truth, ["rmse"]), "rmse", variables=["mean_sea_level_pressure"])

# %% [markdown]
# ## Why? Amplitude against position
#
# In a Taylor diagram damped persistence falls towards the centre: it wins by taking back what it cannot predict, while
# persistence keeps its amplitude and loses its correlation.

# %%
plots.taylor(scores)

# %% [markdown]
# ## Extremes, from an ensemble
#
# The deepest tenth of pressures at each place and hour of day, forecast by a poor man's ensemble: persistence from the last
# four analyses. Reliable it is not, and the diagram shows it.

# %%
members = xr.concat(
    [
        baseline_forecast(Persistence(), *settings[:2], times - lag * step, leads + lag * step, step).assign_coords(
            time=times, prediction_timedelta=leads
        )
        for lag in range(4)
    ],
    "number",
)
names = ["mean_sea_level_pressure"]
threshold = climatological_quantile(truth[names], 0.1, ("2025-12-01", "2026-01-20T18"))
deep = Event({names[0]: threshold[names[0]].drop_vars("quantile")}, above=False, name="lowest tenth of its place")
plots.reliability(members.skill.reliability(truth, deep))

# %%
plots.roc(members.skill.roc(truth, deep))

# %% [markdown]
# ## What to try next
#
# - Another centre's forecast: open its store with `xr.open_zarr(...)` and use it in place of `model`; names, directions and
#   axis orders are taken care of.
# - `by="season"`, or labels of [weather regimes](04_regimes.py), splits the sample.
# - `model.skill.spectra(truth)` with `plots.spectra`: at which scales does the variance go?
# - `Conventions(weights="cos", pooling="points")`: how much do the numbers hang on conventions?
