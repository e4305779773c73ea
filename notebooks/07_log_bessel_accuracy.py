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
# # 7. Where do SciPy's Bessel functions stop, and how many digits are right beyond?
#
# The normaliser of a von Mises-Fisher distribution is a modified Bessel function of high order. SciPy's `ive` and `kve`
# overflow or underflow over most of the plane of order and argument; `gpu.log_iv` and `gpu.log_kv` give logarithms there.

# %%
# %matplotlib inline
import time

import matplotlib.pyplot as plt
import numpy as np
import scipy.special

from gpu import VonMisesFisher, iv_ratio, log_iv, log_kv

ULP = 2.0**-53

# %% [markdown]
# ## An identity that ties both functions
#
# The Wronskian, I_v(x) K_(v+1)(x) + I_(v+1)(x) K_v(x) = 1/x (DLMF 10.28.2), holds to the last digit only if both are right. In
# logarithms the sum is 1 if the four logs are; what is left is their rounding, which grows with the size of the logs.

# %%
edges_v, edges_x = np.logspace(-2, 6, 161), np.logspace(-6, 6, 241)
v, x = np.sqrt(edges_v[:-1] * edges_v[1:])[:, None], np.sqrt(edges_x[:-1] * edges_x[1:])[None]
start = time.perf_counter()
log_i, log_i1, log_k, log_k1 = log_iv(v, x), log_iv(v + 1, x), log_kv(v, x), log_kv(v + 1, x)
print(f"{4 * log_i.size:,} values in {time.perf_counter() - start:.3f} s")
wronskian = np.exp(log_i + log_k1 + np.log(x)) + np.exp(log_i1 + log_k + np.log(x))
largest = np.maximum(np.maximum(np.abs(log_i), np.abs(log_k1)), np.maximum(np.abs(np.log(x)), 1))
error = np.abs(wronskian - 1) / largest / ULP

figure, axes = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained", sharey=True)
mesh = axes[0].pcolormesh(edges_x, edges_v, error, cmap="viridis", vmin=0, vmax=4, rasterized=True)
figure.colorbar(mesh, ax=axes[0], label="error of the Wronskian / largest log, units of 2⁻⁵³")
with np.errstate(all="ignore"):
    scipy_i, scipy_k = np.log(scipy.special.ive(v, x)), np.log(scipy.special.kve(v, x))
lost = 1.0 * ~np.isfinite(scipy_i) + 2.0 * ~np.isfinite(scipy_k)
axes[1].pcolormesh(edges_x, edges_v, lost, cmap="Reds", vmin=0, vmax=4, rasterized=True)
titles = (f"log_iv, log_kv: largest {error.max():.1f}", "SciPy: red where ive or kve gives no logarithm")
for panel, title in zip(axes, titles, strict=True):
    panel.set(xscale="log", yscale="log", xlabel="argument x", title=title)
axes[0].set_ylabel("order v")
plt.show()
shares = [np.mean(~np.isfinite(values)) for values in (scipy_i, scipy_k)]
print(f"SciPy's ive has no logarithm at {shares[0]:.0%}, kve at {shares[1]:.0%} of the plane")

# %% [markdown]
# ## Neighbours differ smoothly
#
# Formulas change from region to region. A ratio of neighbouring orders would jump where they do not fit together; its slope
# does not.

# %%
argument = np.linspace(1, 60, 20001)
figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
for order in (0.5, 3.0, 12.5, 40.0):
    axes.plot(argument, np.gradient(iv_ratio(order, argument), argument), label=f"v = {order:g}")
axes.set(xlabel="argument x", ylabel="slope of I_v / I_(v-1)", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# ## What it is for
#
# Log densities in any dimension, where the normaliser itself has left the range of floating-point numbers long ago.

# %%
for dimension in (3, 100, 10_000, 1_000_000):
    mean = np.zeros(dimension)
    mean[0] = 1.0
    density = VonMisesFisher(mean, 2.0 * dimension).log_prob(mean)
    print(f"dimension {dimension:9,}: log density at the mean {float(density):.15g}")

# %% [markdown]
# ## What to try next
#
# - The error against 35-digit references, over the same plane: [accuracy and speed](../docs/log_bessel.md).
# - Arrays of torch or CuPy in, the same out; torch differentiates in argument and order.
# - [Regimes](04_regimes.py): mixtures of these distributions on real weather.
