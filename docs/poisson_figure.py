"""Draw `images/poisson.png`: a splash scene, the pressure in its middle, and residuals by iteration of every kind.

    python docs/poisson_figure.py

Takes some ten seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.poisson_scenes import SCENES, right_hand_sides  # noqa: E402
from solvers import FLUID, PoissonProblem, solve_with_info  # noqa: E402

FIGURE = Path(__file__).parent / "images" / "poisson.png"
N = 64
KINDS = {"multigrid": "C0", "fast-transform": "C2", "incomplete-cholesky": "C1", "jacobi": "C3"}
SHOWN = ("splash", "thin_gap")  # scenes whose residuals are drawn


def main() -> None:
    """Solve and draw."""
    mpl.use("Agg")
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
    cells, boundary = SCENES["splash"](N)
    problem = PoissonProblem(cells, boundary=boundary)
    p, _ = solve_with_info(problem, right_hand_sides(N)["smooth"])
    middle = N // 2
    flags = ListedColormap(["#9ecae1", "#525252", "#f7f7f7"])
    axes[0].imshow(cells[:, middle].T, origin="lower", cmap=flags, vmin=0, vmax=2, interpolation="nearest")
    axes[0].set_title("splash: water, air (white)")
    shown = np.ma.masked_where(cells[:, middle] != FLUID, p[:, middle])
    image = axes[1].imshow(shown.T, origin="lower", cmap="viridis", interpolation="nearest")
    axes[1].set_title("solution in the middle")
    figure.colorbar(image, ax=axes[1], shrink=0.8)
    for axis in axes[:2]:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, scene in zip(axes[2:], SHOWN, strict=True):
        draw_residuals(axis, scene)
    axes[2].set_ylabel("|rhs - A p| / |rhs|")
    figure.legend(*axes[3].get_legend_handles_labels(), loc="outside lower right", ncols=4, frameon=False)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    print(f"drawn: {FIGURE.relative_to(ROOT)}")  # noqa: T201


def draw_residuals(axis: plt.Axes, scene: str) -> None:
    """Of each kind on one scene, to 1e-8."""
    cells, boundary = SCENES[scene](N)
    problem, rhs = PoissonProblem(cells, boundary=boundary), right_hand_sides(N)["smooth"]
    for kind, colour in KINDS.items():
        _, (info,) = solve_with_info(problem, rhs, M=kind, rtol=1e-8)
        axis.loglog(np.arange(1, len(info.history) + 1), np.array(info.history) / info.history[0], colour, label=kind)
    axis.set_title(f"{scene.replace('_', ' ')}, {N}³")
    axis.set_xlabel("iteration + 1")
    axis.grid(color="0.9")


if __name__ == "__main__":
    main()
