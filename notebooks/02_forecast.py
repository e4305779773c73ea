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
# # 2. What will the weather be on these days, and which network says so?
#
# A cascade is a list of networks by lead time: the shipped one hands over from `short` to `medium` on day 5, and `first` makes
# the first 6 h, because the others go 12 h in a step. A roll-out is a
# generator: one state at a time, each made from the last, in memory that does not grow with lead time.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

import forecast.verification  # noqa: F401  gives datasets the accessor `skill`
from data_pipelines.build import build_analysis_store
from data_pipelines.sample import sample_sources
from data_pipelines.store import open_analysis
from data_pipelines.variables import Channel
from forecast.rollout import rollout
from forecast.stages import load_cascade
from forecast.verification.maps import draw_maps

folder = Path(tempfile.mkdtemp())
build_analysis_store(sample_sources(), folder / "analysis.zarr")
analysis = open_analysis(folder / "analysis.zarr")
cascade, described = load_cascade(["6h:first", "5d:short", "6d:medium"], lead_hours=144)
for until, stage in zip(("6 h", "day 5", "day 6"), described, strict=True):
    print("until", until, stage)

# %% [markdown]
# The initial time lies after the days that the networks learned from (their checkpoints name that span, and verification
# refuses to score it).

# %%
initial_time = np.datetime64("2026-01-28T00", "ns")
states = list(rollout(cascade, analysis, [initial_time], steps=24))
for state in states[3::4]:
    pressure = state.fields[0, 0] / 100
    row, column = divmod(int(pressure.argmin()), pressure.shape[1])
    where = f"{state.latitude[row]:g} N, {state.longitude[column]:g} E"
    print(f"day {state.lead_hours / 24:g}, stage {state.stage}: lowest pressure {pressure.min():.0f} hPa at {where}")

# %% [markdown]
# Each state becomes a dataset in WeatherBench 2's schema; put end to end they are a forecast that any tool of that
# community reads.

# %%
made = xr.concat([state.to_dataset() for state in states], "prediction_timedelta")
print(made)

# %%
leads = [np.timedelta64(days * 24, "h") for days in (1, 3, 6)]
name = "mean_sea_level_pressure"
shown = made[name].sel(time=initial_time, prediction_timedelta=leads)
truth = analysis[name].sel(time=[initial_time + lead for lead in leads])
draw_maps(
    Channel(name),
    made["latitude"].values,
    made["longitude"].values,
    shown.values,
    truth.values,
    leads,
    initial_time,
    "cascade",
)

# %% [markdown]
# The storms of day 1 are where they should be. By day 6 the forecast is smoother than any real day: a network that is
# trained on squared errors shows the mean of what may happen. How much of that is skill is the next notebook's question.

# %% [markdown]
# ## What to try next
#
# - Many initial times into a store, resumable:
#   `python -m forecast.run analysis=... start=... end=... every=6h lead=10d out=...`.
# - `python -m forecast.run ensemble.members=10 ...` starts members from perturbed analyses.
# - Your own networks: `load_cascade(["6h:first", "2d:my_checkpoint", "10d:medium"], lead_hours=240)`.
# - Next: [is it any good, or luck?](03_skill_scores.py)
