"""Draw `images/log_bessel_errors.png`: the error of log I and log K over the plane of order and argument, beside SciPy's.

    python docs/log_bessel_maps.py

References: tests/helpers/bessel_reference.py. Takes a minute or two.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import scipy.special
from matplotlib.colors import BoundaryNorm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gpu import log_iv, log_kv  # noqa: E402
from tests.helpers.bessel_reference import error, reference, split  # noqa: E402

FIGURE = Path(__file__).parent / "images" / "log_bessel_errors.png"
ORDERS, ARGUMENTS = 130, 130
ULP = 2.0**-53  # half the distance between neighbouring doubles at 1
LEVELS = [0, 1, 2, 4, 8, 32, 128, 1024]


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Orders 1e-2 .. 1e6 and arguments 1e-6 .. 1e6, log-uniform, shifted at random within their cells."""
    rng = np.random.default_rng(0)
    v = 10 ** ((np.arange(ORDERS)[:, None] + rng.random((ORDERS, ARGUMENTS))) / ORDERS * 8 - 2)
    x = 10 ** ((np.arange(ARGUMENTS)[None] + rng.random((ORDERS, ARGUMENTS))) / ARGUMENTS * 12 - 6)
    return v, x


def main() -> None:
    """Compute and draw."""
    v, x = grid()
    pairs = [reference(float(a), float(b)) for a, b in zip(v.ravel(), x.ravel(), strict=True)]
    with np.errstate(all="ignore"):
        scipy_logs = np.log(scipy.special.ive(v, x)) + x, np.log(scipy.special.kve(v, x)) - x
    colours = mpl.colormaps["viridis"].resampled(len(LEVELS) - 1)
    colours.set_bad("white")
    norm = BoundaryNorm(LEVELS, colours.N)
    figure, axes = plt.subplots(2, 2, figsize=(10, 8.2), sharex=True, sharey=True, layout="constrained")
    for k, (letter, ours) in enumerate((("I", log_iv), ("K", log_kv))):
        high, low = (np.array(part).reshape(v.shape) for part in zip(*(split(pair[k]) for pair in pairs), strict=True))
        for axis, (name, got) in zip(axes[k], (("skysolve", ours(v, x)), ("SciPy", scipy_logs[k])), strict=True):
            errors = np.where(np.isfinite(got), error(got, high, low) / ULP, np.nan)
            edges_v, edges_x = 10 ** np.linspace(-2, 6, ORDERS + 1), 10 ** np.linspace(-6, 6, ARGUMENTS + 1)
            mesh = axis.pcolormesh(edges_x, edges_v, np.ma.masked_invalid(errors), cmap=colours, norm=norm, rasterized=True)
            axis.contour(x, v, np.abs(high) * np.sign(high), levels=[0], colors="red", linewidths=0.8)
            lost = np.isnan(errors).mean()
            axis.set(xscale="log", yscale="log")
            worst = np.nanmax(errors)
            axis.set_title(
                f"log {letter}, {name}: largest {worst:.3g}" + (f", no answer at {lost:.0%}" if lost else ""), fontsize=11
            )
    for axis in axes[1]:
        axis.set_xlabel("argument x")
    for axis in axes[:, 0]:
        axis.set_ylabel("order v")
    bar = figure.colorbar(mesh, ax=axes, extend="max", ticks=LEVELS)
    bar.set_label(r"|error| / max(1, |log|), in units of $2^{-53}$ = 1.1e-16")
    figure.suptitle("White: no finite answer. Red: where the logarithm is zero.", fontsize=11)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
