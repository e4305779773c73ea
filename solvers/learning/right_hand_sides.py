"""Right-hand sides to train on: combinations of Ritz vectors of the empty box, made by one sine transform each.

The published data are Gaussian combinations of 10 000 Ritz vectors of Lanczos' method from a random start, the lowest 5 500 of
them nine times as strong. Ritz values lie about as cosines of equal angles do between the ends of the spectrum, and one that
has not converged belongs to a random mixture of the eigenvectors near it. Both are drawn here without Lanczos: the eigenvectors
of the box are sines, so they are sorted into bins of equal angle, and a bin is a Ritz vector.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft

LOW_SHARE, LOW_STRENGTH = 0.55, 9.0  # of the Ritz vectors; of their coefficients
MODES_PER_VECTOR = 26  # eigenvectors for each Ritz vector: 64^3 for 10 000


class RitzMixtures:
    """Draws right-hand sides for the box with Dirichlet faces.

    Parameters
    ----------
    cells
        Along each side of the cube, >= 2.
    """

    def __init__(self, cells: int) -> None:
        if cells < 2:
            raise ValueError(f"cells must be at least 2; got {cells}.")
        line = 2 - 2 * np.cos(math.pi * np.arange(1, cells + 1) / (cells + 1))
        values = line[:, None, None] + line[:, None] + line
        self.count = max(2, cells**3 // MODES_PER_VECTOR)
        share = 2 / math.pi * np.arcsin(np.sqrt((values - values.min()) / np.ptp(values)))
        self.bin = np.minimum((share * self.count).astype(np.int64), self.count - 1)
        self.strength = np.where(np.arange(self.count) < LOW_SHARE * self.count, LOW_STRENGTH, 1.0)

    def draw(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """float32 (batch, cells, cells, cells), each of 2-norm 1."""
        drawn = np.empty((batch, *self.bin.shape), np.float32)
        for sample in drawn:
            modes = rng.standard_normal(self.bin.shape)
            lengths = np.sqrt(np.bincount(self.bin.ravel(), modes.ravel() ** 2, self.count))
            weights = self.strength * rng.standard_normal(self.count) / np.maximum(lengths, 1e-12)
            values = scipy.fft.dstn(modes * weights[self.bin], type=1, norm="ortho")
            sample[...] = values / np.linalg.norm(values)
        return drawn
