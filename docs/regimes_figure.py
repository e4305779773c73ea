"""Draw `images/regimes.png`: regimes of the sample's winter over the North Atlantic, and whether halves of it find them again.

    python docs/regimes_figure.py

Takes about a minute; prints the numbers of docs/regimes.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cartopy.crs as ccrs
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from cartopy.mpl.ticker import LatitudeFormatter, LongitudeFormatter

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from data_pipelines.build import build_analysis_store  # noqa: E402
from data_pipelines.sample import sample_sources  # noqa: E402
from data_pipelines.store import open_analysis  # noqa: E402
from forecast.regimes import choose_count, directions_of, fit_mixture, persistence  # noqa: E402
from forecast.verification.maps import map_projection  # noqa: E402

FIGURE = Path(__file__).parent / "images" / "regimes.png"
COUNTS = range(2, 7)
SHOWN = 3
COLUMNS = 4


def sector() -> xr.DataArray:
    """Pressure over the North Atlantic and Europe, anomalies from the mean by hour of day."""
    with tempfile.TemporaryDirectory() as folder:
        build_analysis_store(sample_sources(), f"{folder}/analysis.zarr")
        pressure = open_analysis(f"{folder}/analysis.zarr")["mean_sea_level_pressure"].load()
    by_hour = pressure.groupby("time.hour")
    centred = (by_hour - by_hour.mean()).assign_coords(longitude=(pressure["longitude"] + 180) % 360 - 180)
    return centred.sortby("longitude").sel(latitude=slice(80, 25), longitude=slice(-80, 40))


def main() -> None:
    """Fit and draw."""
    mpl.use("Agg")
    map_projection()  # coastlines of the package
    field = sector()
    fitted = directions_of(field, modes=8)
    unit = fitted.of(field)
    choice = choose_count(unit, COUNTS)
    print(f"{field.sizes['time']} states, 8 patterns hold {fitted.explained:.0%} of the variance; stable: {choice.stable}")  # noqa: T201
    for count, bic, agreement in zip(choice.counts, choice.bic, choice.stability, strict=True):
        print(f"| {count} | {bic:.0f} | {agreement:.0%} |")  # noqa: T201
    mixture = fit_mixture(unit, SHOWN)
    labels = mixture.predict(unit)
    stays = persistence(labels, SHOWN) / 4
    maps = fitted.to_map(mixture.means_)
    projection = ccrs.PlateCarree()
    figure = plt.figure(figsize=(15, 3.6), layout="constrained")
    for regime in range(SHOWN):
        panel = figure.add_subplot(1, COLUMNS, regime + 1, projection=projection)
        levels = np.arange(-3, 3.1, 0.5)
        drawn = panel.contourf(
            maps.longitude, maps.latitude, maps[regime], levels, cmap="RdBu_r", extend="both", transform=projection
        )
        panel.coastlines("110m", linewidth=0.6)
        panel.set_xticks([-60, -20, 20], crs=projection)
        panel.set_yticks([30, 50, 70], crs=projection)
        panel.xaxis.set_major_formatter(LongitudeFormatter())
        panel.yaxis.set_major_formatter(LatitudeFormatter())
        panel.set_title(f"{(labels == regime).mean():.0%} of the time, stays {stays[regime]:.1f} days")
    figure.colorbar(drawn, ax=figure.axes, label="pressure anomaly, relative", orientation="horizontal", shrink=0.5)
    right = figure.add_subplot(1, COLUMNS, COLUMNS)
    right.plot(choice.counts, np.asarray(choice.stability) * 100, "o-")
    right.axhline(90, color="0.5", linestyle="--")
    right.text(COUNTS[-1], 91, "called stable", ha="right", va="bottom", color="0.4")
    right.set(xlabel="number of regimes", ylabel="agreement of halves [%]", ylim=(0, 100), xticks=list(choice.counts))
    right.set_title("found again in halves of the sample?")
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    print(FIGURE)  # noqa: T201


if __name__ == "__main__":
    main()
