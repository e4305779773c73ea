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
# # 4. Which weather regimes did this winter have, and are they real?
#
# Divided by its length, an area-weighted anomaly is a direction, and the cosine of two directions is their anomaly
# correlation. A mixture of von Mises-Fisher distributions groups directions, so it groups states by anomaly correlation. The
# hard question is not to find groups, which every algorithm does, but whether another sample would show the same.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import forecast.verification  # noqa: F401  gives datasets the accessor `skill`
from data_pipelines.build import build_analysis_store
from data_pipelines.sample import sample_sources
from data_pipelines.store import open_analysis
from forecast.regimes import (
    Familiarity,
    choose_count,
    directions_of,
    fit_mixture,
    matched_share,
    persistence,
    transition_matrix,
)
from gpu import VonMisesFisher

folder = Path(tempfile.mkdtemp())
build_analysis_store(sample_sources(), folder / "analysis.zarr")
analysis = open_analysis(folder / "analysis.zarr").load()

# %% [markdown]
# ## A mixture that we know
#
# First a test of the tool: three regimes with known directions and concentrations, 1000 states.

# %%
rng = np.random.default_rng(0)
truth = np.sort(rng.integers(3, size=1000))
concentrations = np.array([60.0, 90.0, 120.0])
known = np.asarray(VonMisesFisher(np.eye(3, 8)[truth], concentrations[truth]).sample(rng=1))
choice = choose_count(known, range(2, 5))
mixture = fit_mixture(known, choice.chosen)
print(f"chosen {choice.chosen}, stable: {choice.stable}; agreement of halves {np.round(choice.stability, 3)}")
print(f"labels right: {matched_share(truth, mixture.predict(known), 3):.1%}")
print(f"concentrations {np.sort(mixture.concentrations_).round(1)}")

# %% [markdown]
# ## Seven weeks of real winter
#
# Pressure over the North Atlantic and Europe, December 1 to January 20, anomalies from the mean by hour of day, in eight
# leading patterns.

# %%
pressure = analysis["mean_sea_level_pressure"].sel(time=slice("2025-12-01", "2026-01-20T18"))
by_hour = pressure.groupby("time.hour")
sector = (by_hour - by_hour.mean()).assign_coords(longitude=(pressure["longitude"] + 180) % 360 - 180).sortby("longitude")
sector = sector.sel(latitude=slice(80, 25), longitude=slice(-80, 40))
fitted = directions_of(sector, modes=8)
unit = fitted.of(sector)
choice = choose_count(unit, range(2, 6))
print(f"{sector.sizes['time']} states; the patterns hold {fitted.explained:.0%} of the variance")
for count, bic, agreement in zip(choice.counts, choice.bic, choice.stability, strict=True):
    print(f"{count} regimes: BIC {bic:6.0f}, two halves agree on {agreement:.0%} of the states")
print("stable:", choice.stable)

# %% [markdown]
# BIC falls with every regime, and no number is found again in halves of the sample: seven weeks hold a handful of independent
# weather situations. What follows is a picture of this winter, not a climatology of regimes.

# %%
count = 4
mixture = fit_mixture(unit, count)
labels = mixture.predict(unit)
maps = fitted.to_map(mixture.means_)
figure, axes = plt.subplots(2, 2, figsize=(11, 5.6), layout="constrained", sharex=True, sharey=True)
for regime, panel in enumerate(axes.ravel()):
    drawn = panel.contourf(maps.longitude, maps.latitude, maps[regime], np.arange(-3, 3.1, 0.5), cmap="RdBu_r", extend="both")
    share = (labels == regime).mean()
    panel.set_title(f"regime {regime}: {share:.0%} of the time, stays {persistence(labels, count)[regime] / 4:.1f} days")
figure.colorbar(drawn, ax=axes, label="pressure anomaly of the regime, relative")
plt.show()
print("one step (6 h) later:")
print(transition_matrix(labels, count).round(2))

# %% [markdown]
# ## Skill by regime
#
# Labels of initial times split any score: persistence for a day, by the regime that it starts in.

# %%
times = sector["time"].values[:-4]
lead = np.array([24], "timedelta64[h]").astype("timedelta64[ns]")
start = analysis[["mean_sea_level_pressure"]].sel(time=times).expand_dims(prediction_timedelta=lead, axis=1)
by_regime = xr.DataArray(labels[:-4], {"time": times}, ("time",))
skill = start.skill.score(analysis, ["rmse"], by=by_regime)["mean_sea_level_pressure"].squeeze()
for regime in skill["group"].values:
    value, low, high = skill.sel(group=regime, bound=["value", "low", "high"]).values / 100
    print(f"regime {regime}: RMSE {value:.2f} hPa, 95 % interval {low:.2f} to {high:.2f}")

# %% [markdown]
# ## Have I seen this before?
#
# The same density flags states that are unlike what a model was trained on; features of a network are used as the known
# directions are here. States between the regimes were never trained on, although each of their parts was.

# %%
training, others = known[::2], known[1::2]
told = Familiarity.fit(training, others, count=3, rate=0.01)
between = np.ones((1, 3)) @ np.eye(3, 8) / np.sqrt(3)
strange = np.asarray(VonMisesFisher(between[0], 100.0).sample(500, rng=2))
print(
    f"flagged: {told.unfamiliar(others).mean():.1%} of held-out states, {told.unfamiliar(strange).mean():.1%} of strange ones"
)

# %% [markdown]
# ## What to try next
#
# - Decades of ERA5 instead of seven weeks (`python -m data_pipelines.build_store source=... out=...`): which count is stable?
# - A low-pass filter before `directions_of`: `sector.rolling(time=20, center=True).mean().dropna("time")`.
# - Regimes of the forecast: label its states with `mixture.predict(fitted.of(...))` and count how often the regime is right.
