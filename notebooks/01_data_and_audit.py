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
# # 1. What is in my data, and would anybody tell me if it were wrong?
#
# A network learns whatever it is shown: one field of NaN spreads over the globe, a variable in hPa instead of Pa becomes an
# outlier of two orders of magnitude. Every source therefore passes one door, which gives it standard names, units and
# directions, and an audit, which looks at every value once, while the analysis store is written.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from data_pipelines.audit import AuditError
from data_pipelines.build import build_analysis_store
from data_pipelines.sample import sample_sources
from data_pipelines.store import open_analysis

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# The sample that is shipped is real ERA5: two stores as the Climate Data Store gives them out, with its short names (`msl`,
# `vo`), its `valid_time`, its `expver`.

# %%
raw = [xr.open_zarr(path, consolidated=False) for path in sample_sources()]
print(raw[0])

# %% [markdown]
# One call builds the analysis store (from a shell: `python -m data_pipelines.build_store source=sample out=analysis.zarr`).
# The audit tells what it saw, what the door changed, and what deserves a look.

# %%
report = build_analysis_store(sample_sources(), folder / "analysis.zarr")
for channel in report.channels:
    print(f"{channel.variable:26s} {channel.minimum:12.5g} to {channel.maximum:12.5g} {channel.units}, mean {channel.mean:.6g}")
print(f"{report.steps} steps of {report.step_hours:g} h, {report.grid}, expver {report.expver}")
for change in report.changes:
    print("changed:", change)
for finding in report.findings:
    print(f"finding {finding.name} (accepted: {finding.accepted}): {finding.message}")

# %% [markdown]
# The store is an ordinary Zarr store in WeatherBench 2's names and units.

# %%
analysis = open_analysis(folder / "analysis.zarr")
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), layout="constrained")
pressure = analysis["mean_sea_level_pressure"].isel(time=-1) / 100
pressure.plot(ax=left, cmap="RdYlBu_r", cbar_kwargs={"label": "mean sea level pressure [hPa]"})
deviation = analysis["mean_sea_level_pressure"].std("time") / 100
deviation.plot(ax=right, cmap="viridis", cbar_kwargs={"label": "standard deviation [hPa]"})
left.set_title(f"{pressure['time'].dt.strftime('%Y-%m-%d %H UTC').item()}")
right.set_title("how much it varies: the storm tracks")
plt.show()

# %% [markdown]
# ## Break it on purpose
#
# A day without data, and pressures that somebody converted to hPa while the attribute still says Pa. Nothing is written in
# either case: the message says what was found, and which word would accept it.


# %%
def refusal(broken: xr.Dataset, name: str) -> str:
    """What the audit says about a source."""
    path = folder / f"{name}.nc"
    broken.to_netcdf(path)
    try:
        build_analysis_store([path], folder / f"{name}.zarr")
    except AuditError as error:
        return str(error).replace(str(folder), "...")
    raise RuntimeError("the audit let it pass")


days = raw[0][["msl"]].drop_vars(["expver", "number"], errors="ignore").isel(valid_time=slice(0, 40)).load()
holes = days.copy(deep=True)
holes["msl"][12:16] = np.nan
print(refusal(holes, "a_day_is_missing"))

# %%
wrong_units = days.copy(deep=True)
wrong_units["msl"].values[:] /= 100
print(refusal(wrong_units, "hectopascal"))

# %% [markdown]
# ## What to try next
#
# - Your own ERA5: `python -m data_pipelines.build_store source=my_download/*.nc out=mine.zarr` takes CDS NetCDF (new and
#   legacy), GRIB and Zarr, local or at a URL, and puts them side by side.
# - `grid=1.5deg` regrids conservatively; `derive=[10m_wind_speed]` computes variables while the store is written.
# - Turn a field upside down (`days.assign_coords(latitude=-days.latitude)`) and see what the audit says.
# - Next: [make a forecast from this store](02_forecast.py).
