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
# # 5. How fast is the pressure solve that my smoke simulation waits for?
#
# An incompressible flow stays so by a projection: its divergence is solved away, a Poisson problem in every time step. The
# solver takes flags (fluid, solid, air), velocities on faces, and gives pressure and velocities back.

# %%
# %matplotlib inline
import time

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import map_coordinates

from solvers import AIR, FLUID, SOLID, PoissonProblem, conjugate_directions, preconditioner, project, solve_with_info

# %% [markdown]
# ## One solve
#
# A ball in a tank with a free surface, 64 cells a side, by three preconditioners from the same outer loop. An outcome that is
# not converged is never reported as success.

# %%
n = 64
x, y, z = np.meshgrid(*[np.arange(n) + 0.5] * 3, indexing="ij")
cells = np.full((n, n, n), FLUID, np.uint8)
cells[(x - 32) ** 2 + (y - 32) ** 2 + (z - 24) ** 2 < 12**2] = SOLID
cells[:, :, 52:] = AIR
problem = PoissonProblem(cells, spacing=1 / n)
rhs = np.random.default_rng(0).standard_normal(cells.shape)

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for kind in ("jacobi", "incomplete-cholesky", "multigrid"):
    start = time.perf_counter()
    _, (outcome,) = solve_with_info(problem, rhs, M=kind)
    seconds = time.perf_counter() - start
    history = np.asarray(outcome.history)
    axes.semilogy(history / history[0], label=f"{kind}: {outcome.iterations} iterations, {seconds:.2f} s with set-up")
axes.set(xlabel="iteration", ylabel="residual, relative", title=f"{problem.n} unknowns, tolerance 1e-6")
axes.legend(fontsize=9)
plt.show()

# %% [markdown]
# ## The outer loop takes any preconditioner
#
# `conjugate_directions` has the contract of `scipy.sparse.linalg.cg`; `M` may be a network, a hierarchy, or a line of NumPy.

# %%
A, b = problem.operator(), problem.to_vector(rhs)
for name, M in (("nothing (CG)", None), ("multigrid", preconditioner(problem, kind="multigrid"))):
    solution, info = conjugate_directions(A, b, rtol=1e-6, maxiter=500, M=M)
    print(f"M = {name}: {info.iterations} iterations, residual {np.linalg.norm(b - A @ solution) / np.linalg.norm(b):.1e}")

# %% [markdown]
# ## A smoke plume
#
# Hot smoke rises past a disc, in a slice of one cell's thickness: advection backwards along the flow (semi-Lagrangian),
# buoyancy, projection. Velocities sit on faces, one more of them than cells along their axis.

# %%
columns, rows = 48, 64
flags = np.full((columns, rows), FLUID, np.uint8)
i, j = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5, indexing="ij")
disc = (i - 22) ** 2 + (j - 32) ** 2 < 7**2
flags[disc] = SOLID
flags[:, -1] = AIR
flow = PoissonProblem(flags, spacing=1.0)
smoke = np.zeros((columns, rows))
u, v = np.zeros((columns + 1, rows)), np.zeros((columns, rows + 1))


def sample(field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Field at points given in its own indices, constant beyond its edge."""
    return map_coordinates(field, [x, y], order=1, mode="nearest")


def velocity_at(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both components at points in units of cells from the corner."""
    return sample(u, x, y - 0.5), sample(v, x - 0.5, y)


def carried(field: np.ndarray, offset: tuple[float, float], step: float) -> np.ndarray:
    """Field after a step: each point has what was upstream."""
    x, y = (axis + shift for axis, shift in zip(np.indices(field.shape), offset, strict=True))
    along, up = velocity_at(x, y)
    return sample(field, x - step * along - offset[0], y - step * up - offset[1])


step, worst, pictures = 1.0, 0.0, {}
start = time.perf_counter()
for frame in range(1, 76):
    smoke[18:30, 2:6] = 1.0
    u, v = carried(u, (0.0, 0.5), step), carried(v, (0.5, 0.0), step)
    smoke = carried(smoke, (0.5, 0.5), step)
    smoke[disc] = 0.0
    v[:, 1:-1] += step * 0.08 * (smoke[:, 1:] + smoke[:, :-1]) / 2
    for faces, wall in ((u[1:], disc), (u[:-1], disc), (v[:, 1:], disc), (v[:, :-1], disc)):
        faces[wall] = 0.0
    u[[0, -1]], v[:, 0] = 0.0, 0.0
    (u, v), pressure = project(flow, [u, v], rtol=1e-5)
    worst = max(worst, float(np.abs(flow.divergence([u, v])).max()))
    if frame % 25 == 0:
        pictures[frame] = smoke.copy()
print(f"{(time.perf_counter() - start) / 75 * 1e3:.0f} ms a frame; largest divergence left in any cell {worst:.1e}")

# %%
figure, panels = plt.subplots(1, 3, figsize=(9, 4.8), layout="constrained")
for panel, (frame, field) in zip(panels, pictures.items(), strict=True):
    panel.imshow(np.where(disc, np.nan, field).T, origin="lower", cmap="inferno", vmin=0, vmax=1)
    panel.set(title=f"frame {frame}", xticks=[], yticks=[], facecolor="0.6")
plt.show()

# %% [markdown]
# ## What to try next
#
# - `boundary="periodic"` along one axis, or faces that are partly open (`fractions=`), as cut cells of a ball have them.
# - Larger grids: from 64 to 128 cells a side multigrid's iterations stay, the others' double.
# - Your own simulation: [the page on Poisson problems](../docs/poisson.md) says what `solve` and `project` expect.
