"""Draw docs/images/waves.png: six simulations of the default ensemble, five times each, beside their medium.

python docs/waves_contact_sheet.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from data_pipelines.sources.finite_element_waves import WaveConfig, simulate

CONFIG = WaveConfig(samples=6, columns=96, rows=96)
SHOWN = (0, 7, 15, 25, 40)  # frames


def main() -> None:
    """Simulate and draw."""
    figure, axes = plt.subplots(CONFIG.samples, 1 + len(SHOWN), figsize=(10.2, 10.2), layout="constrained")
    for sample, row in enumerate(axes):
        data = simulate(CONFIG, sample)[0].isel(sample=0)
        hole = data["mask"].values == 0
        speed = row[0].imshow(np.where(hole, np.nan, data["wave_speed"]), origin="lower", cmap="viridis", vmin=0.5, vmax=2.0)
        limit = float(np.abs(data["displacement"].isel(time=list(SHOWN))).quantile(0.998))
        for axis, frame in zip(row[1:], SHOWN, strict=True):
            field = np.where(hole, np.nan, data["displacement"].isel(time=frame))
            waves = axis.imshow(field, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
            if sample == 0:
                axis.set_title(f"{float(data['time'][frame]):.2f} s", fontsize=10)
        row[0].set_ylabel(f"sample {sample}", fontsize=10)
        figure.colorbar(waves, ax=row[1:], shrink=0.9, pad=0.01).ax.tick_params(labelsize=7)
    axes[0][0].set_title("speed [m/s]", fontsize=10)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[], facecolor="0.6")
    figure.colorbar(speed, ax=axes[:, 0], location="left", shrink=0.3, pad=0.02)
    figure.suptitle("Displacement [m] of finite-element waves; each row has its own colour scale, holes are grey", fontsize=11)
    target = Path(__file__).parent / "images" / "waves.png"
    figure.savefig(target, dpi=90)


if __name__ == "__main__":
    main()
