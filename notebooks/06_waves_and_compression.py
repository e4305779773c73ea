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
# # 6. How does a wave look to a network, and how small may its filters be?
#
# Simulations of waves by finite elements go into a store that streams to training as weather does. Networks that learn them
# need filters with a long reach; a large filter can be a short sum of one-way filters before training ever starts.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from data_pipelines.sources.finite_element_waves import WaveConfig
from data_pipelines.store import open_waves
from data_pipelines.wave_ensemble import build_wave_store
from forecast.layers.compressed_convolution import CompressedConv2d

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Four simulations
#
# Media, holes and first displacements are drawn at random; a sample depends on its seed and number alone.

# %%
config = WaveConfig(samples=4, cells=64, columns=64, rows=64, frames=41)
report = build_wave_store(config, folder / "waves.zarr")
waves = open_waves(folder / "waves.zarr")
print(waves)

# %%
frames = (0, 8, 16, 32)
figure, axes = plt.subplots(config.samples, 1 + len(frames), figsize=(9, 7.2), layout="constrained")
for sample, row in enumerate(axes):
    one = waves.isel(sample=sample)
    hole = one["mask"].values == 0
    speed = row[0].imshow(np.where(hole, np.nan, one["wave_speed"]), origin="lower", vmin=0.5, vmax=2.0)
    limit = float(np.abs(one["displacement"].isel(time=8)).max())
    for panel, frame in zip(row[1:], frames, strict=True):
        field = np.where(hole, np.nan, one["displacement"].isel(time=frame))
        panel.imshow(field, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
        if sample == 0:
            panel.set_title(f"{float(one['time'][frame]):.2f} s", fontsize=10)
    row[0].set_ylabel(f"sample {sample}")
for panel in axes.ravel():
    panel.set(xticks=[], yticks=[], facecolor="0.6")
axes[0, 0].set_title("speed [m/s]", fontsize=10)
figure.colorbar(speed, ax=axes[:, 0], location="left", shrink=0.4)
plt.show()

# %% [markdown]
# ## Fewer weights before training
#
# A kernel of 15 x 15 over 32 channels as a sum of R chains of one-way filters. Counts are exact; a kernel that is such a sum
# is found again, a random one is not, and the error says how far it is from being one.

# %%
dense = torch.nn.Conv2d(32, 32, 15, padding=7)
print(f"dense: {sum(weight.numel() for weight in dense.parameters()):,} weights")
terms = [1, 2, 4, 8]
for count in terms:
    small = CompressedConv2d(32, 32, 15, terms=count, padding=7)
    ratio = small.parameter_count() / sum(weight.numel() for weight in dense.parameters())
    operations = small.flop_count(64, 64) / 1e6
    print(f"{count} terms: {small.parameter_count():6,} weights ({ratio:.1%}), {operations:,.0f} million operations")

# %%
# A smooth dense filter, as trained ones are: a ring that a wave front would ask for.
radius = np.hypot(*np.meshgrid(np.arange(15) - 7, np.arange(15) - 7))
ring = np.exp(-(((radius - 5) / 1.5) ** 2))
kernel = torch.nn.Conv2d(1, 1, 15, padding=7)
kernel.weight.data[:] = torch.tensor(ring[None, None], dtype=torch.float32)
figure, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
axes[0].imshow(ring, cmap="viridis")
axes[0].set_title("dense, 225 weights", fontsize=10)
for panel, count in zip(axes[1:], terms, strict=True):
    found = CompressedConv2d.from_dense(kernel, terms=count)
    shown = found.dense_weight().detach().numpy()[0, 0]
    error = np.linalg.norm(shown - ring) / np.linalg.norm(ring)
    panel.imshow(shown, cmap="viridis", vmin=0, vmax=1)
    panel.set_title(f"{count} terms: error {error:.1%}", fontsize=10)
for panel in axes:
    panel.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## What to try next
#
# - `WaveConfig(degree=2, scheme="newmark")`: other elements and time steps ([page on waves](../docs/waves.md)).
# - `WindowStream("waves.zarr", ["displacement", "velocity"], static=["wave_speed", "mask"], history=1, steps_ahead=4)` gives
#   windows for training.
# - `CompressedConv3d` does the same in space and time.
