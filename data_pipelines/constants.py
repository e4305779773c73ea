"""Constants of nature that several modules share."""

GRAVITY = 9.80665  # m s-2, WMO standard gravity, which ERA5 divides geopotential by
