"""Cut the test files of this folder out of the public files that README.md names.

python tests/golden/data_pipelines/make_cutouts.py FOLDER_WITH_THE_ORIGINALS
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import eccodes
import h5py
import netCDF4
import numpy as np

HERE = Path(__file__).parent


def cut_grib(source: Path, target: Path, keep: Callable[[dict[str, object]], bool]) -> None:
    """Copy whole messages, byte by byte."""
    keys = ("shortName", "typeOfLevel", "level", "number", "dataDate", "dataTime")
    with source.open("rb") as original, target.open("wb") as copy:
        while (message := eccodes.codes_grib_new_from_file(original)) is not None:
            about = {key: eccodes.codes_get(message, key) for key in keys if eccodes.codes_is_defined(message, key)}
            if keep(about):
                copy.write(eccodes.codes_get_message(message))
            eccodes.codes_release(message)


def cut_netcdf(source: Path, target: Path, parts: dict[str, slice], leave_out: tuple[str, ...] = ()) -> None:
    """Copy variables as stored (packing, fill values, attributes and all), thinned along dimensions."""
    nan_fills: list[str] = []
    with netCDF4.Dataset(source) as original, netCDF4.Dataset(target, "w") as copy:
        original.set_auto_maskandscale(False)
        copy.set_auto_maskandscale(False)
        copy.setncatts({name: original.getncattr(name) for name in original.ncattrs()})
        for name, dimension in original.dimensions.items():
            copy.createDimension(name, len(range(len(dimension))[parts.get(name, slice(None))]))
        for name, variable in original.variables.items():
            if name in leave_out:
                continue
            attributes = {key: variable.getncattr(key) for key in variable.ncattrs()}
            fill = attributes.pop("_FillValue", None)
            if fill is not None and np.isnan(fill) and np.issubdtype(variable.dtype, np.integer):
                nan_fills.append(name)  # against the standard: the library would not write it
                fill = None
            options = {} if variable.dtype is str else {"zlib": variable.ndim > 0, "fill_value": fill}
            new = copy.createVariable(name, variable.dtype, variable.dimensions, **options)
            new.set_auto_maskandscale(False)
            new.setncatts(attributes)
            values = variable[tuple(parts.get(dim, slice(None)) for dim in variable.dimensions)]
            new[...] = np.asarray(values)
    with h5py.File(target, "a") as copy:
        for name in nan_fills:
            copy[name].attrs["_FillValue"] = np.array([np.nan])


def main(folder: Path) -> None:
    """Make every file."""
    cut_grib(
        folder / "era5-levels-members.grib",
        HERE / "era5_members.grib",
        lambda about: about["shortName"] == "z" and about["number"] in (0, 3) and about["dataDate"] == 20170101,
    )
    cut_grib(folder / "era5-2mt-2019-03-uk.grib", HERE / "era5_uk_hourly.grib", lambda about: about["dataDate"] == 20190301)
    wanted = {("2t", 2), ("prmsl", 0), ("tp", 0), ("gh", 500), ("t", 500), ("2r", 2)}
    cut_grib(
        folder / "gfs_1deg_20221107_f024_subset.grib2",
        HERE / "gfs_mixed_levels.grib2",
        lambda about: (about["shortName"], about["level"]) in wanted,
    )
    cut_grib(
        folder / "eraint_soil_reduced_gg_20000101.grb",
        HERE / "eraint_reduced_gaussian.grb",
        lambda about: about["shortName"] == "lsm",
    )
    coarse = {"latitude": slice(None, None, 10), "longitude": slice(None, None, 12)}
    cut_netcdf(folder / "era5_pressure_1deg_6h_20251111.nc", HERE / "cds_new_pressure.nc", coarse)
    cut_netcdf(folder / "era5_surface_1deg_6h_20251111.nc", HERE / "cds_new_surface.nc", coarse)
    cut_netcdf(folder / "eraint_uvz.nc", HERE / "eraint_packed_month.nc", {name: slice(None, None, 16) for name in coarse})
    cut_netcdf(
        folder / "era5_2deg_hourly_20190105_200-300hPa.nc",
        HERE / "era5_longitude_first.nc",
        {"latitude": slice(None, None, 9), "longitude": slice(None, None, 10), "time": slice(0, 3)},
        leave_out=("tau_cirrus",),
    )
    cut_netcdf(
        folder / "era5_tl31_19590102T00.nc",
        HERE / "era5_gaussian_moment.nc",
        {"level": slice(20, None, 8), "latitude": slice(None, None, 2), "longitude": slice(None, None, 4)},
    )
    cut_netcdf(folder / "eraint_daily_europe_2p5_2000_2010.nc", HERE / "eraint_level_in_name.nc", {"time": slice(0, 20)})
    cut_netcdf(
        folder / "ncep_monthly_2p5_1981_2022.nc",
        HERE / "ncep_monthly_height.nc",
        {"time": slice(0, 5), "lat": slice(None, None, 6), "lon": slice(None, None, 8)},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
