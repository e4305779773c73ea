"""The von Mises-Fisher distribution on the unit sphere, in any dimension that fits into memory.

Density exp(log C + kappa mu.x), log C = v log kappa - (p/2) log 2 pi - log I_v(kappa), v = p/2 - 1 (Mardia & Jupp,
Directional Statistics, 2000, section 9.3). Everything is computed from log I_v(kappa) - kappa and 1 - A, A = I_{v+1}/I_v, so
that nothing cancels at high concentrations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from gpu import backend
from gpu.log_bessel import call, log_ive

LOG_2PI = math.log(2 * math.pi)
UNIT_TOLERANCE = 1e-3  # far above what float16 features lose, far below what features that were never normalised miss
ROWS_AT_ONCE = 1 << 28  # bytes of one block of features that is read from a store without chunks


def log_normalizer(xp: Any, dimension: int, concentration: Any) -> Any:
    """Log of the density at the mean direction, log C + kappa, for concentrations of the library whose module is `xp`."""
    order = dimension / 2 - 1
    positive = xp.where(concentration > 0, concentration, 1)
    uniform = math.lgamma(dimension / 2) - math.log(2) - dimension / 2 * math.log(math.pi)
    log_c = order * xp.log(positive) - dimension / 2 * LOG_2PI - log_ive(order, positive)
    return xp.where(concentration > 0, log_c, uniform)


class VonMisesFisher:
    """Von Mises-Fisher distributions on the sphere in `dimension` dimensions.

    Parameters
    ----------
    mean_direction : array, shape (..., dimension)
        Unit vectors, dimension >= 2; NumPy, CuPy or torch.
    concentration : array_like, shape (...)
        kappa >= 0, finite; 0 is the uniform distribution. Broadcasts against the leading shape of `mean_direction`.

    Raises
    ------
    TypeError
        If the arguments are of two libraries or devices.
    ValueError
        If a mean direction is no unit vector, a concentration is negative or not finite, or the shapes do not broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu import VonMisesFisher
    >>> truth = VonMisesFisher(np.eye(512)[0], 200.0)
    >>> features = truth.sample(1000, rng=0)
    >>> fitted = VonMisesFisher.fit(features)
    """

    def __init__(self, mean_direction: Any, concentration: Any) -> None:
        library = backend.library_of(mean_direction=mean_direction, concentration=concentration)
        mean_direction = backend.as_floating(library, mean_direction, beside=concentration)
        concentration = backend.as_floating(library, concentration, beside=mean_direction)
        mean_direction, concentration = backend.to_wider(mean_direction, concentration)
        if mean_direction.ndim == 0 or mean_direction.shape[-1] < 2:
            raise ValueError(
                f"mean_direction must have shape (..., dimension) with dimension >= 2; got {tuple(mean_direction.shape)}."
            )
        _check_unit("mean_direction", mean_direction)
        if not bool(((concentration >= 0) & (concentration < math.inf)).all()):
            raise ValueError(f"concentration must be finite and at least 0; got {concentration}.")
        try:
            np.broadcast_shapes(tuple(mean_direction.shape[:-1]), tuple(concentration.shape))
        except ValueError:
            raise ValueError(
                f"concentration of shape {tuple(concentration.shape)} must broadcast against mean_direction's leading shape "
                f"{tuple(mean_direction.shape[:-1])}."
            ) from None
        self.mean_direction, self.concentration = mean_direction, concentration
        self.dimension = int(mean_direction.shape[-1])
        self._order = self.dimension / 2 - 1
        self._library, self._xp = library, backend.namespace(library)

    def __repr__(self) -> str:
        return f"VonMisesFisher(dimension={self.dimension}, concentration={self.concentration})"

    @property
    def mean_resultant_length(self) -> Any:
        """A(kappa), the length of the mean vector, in [0, 1); shape of the concentration."""
        return ratio_and_complement(self._order, self.concentration)[0]

    def log_normalizer(self) -> Any:
        """Log of the density at the mean direction: log C + kappa. Shape of the concentration."""
        return log_normalizer(self._xp, self.dimension, self.concentration)

    def log_prob(self, x: Any) -> Any:
        """Log density at unit vectors.

        Parameters
        ----------
        x : array, shape (..., dimension)
            Unit vectors of the library of the parameters; broadcasts against the batch of distributions.

        Returns
        -------
        array, shape (...)
            With respect to area on the sphere; differentiable by torch in x, mean direction and concentration.

        Raises
        ------
        TypeError, ValueError
            If `x` is of another library, has another last dimension, or is not of unit length.
        """
        x = self._features("x", x)
        difference = x - self.mean_direction
        return self.log_normalizer() - self.concentration * (difference * difference).sum(-1) / 2

    def entropy(self) -> Any:
        """Differential entropy, in nats; shape of the batch."""
        _, complement = ratio_and_complement(self._order, self.concentration)
        return self.concentration * complement - self.log_normalizer()

    def kl_divergence(self, other: VonMisesFisher) -> Any:
        """Kullback-Leibler divergence from this distribution to another, in nats; shape of both batches broadcast.

        Raises
        ------
        ValueError
            If the dimensions differ.
        """
        if other.dimension != self.dimension:
            raise ValueError(f"other must have dimension {self.dimension}; got {other.dimension}.")
        length, complement = ratio_and_complement(self._order, self.concentration)
        difference = self.mean_direction - other.mean_direction
        apart = complement + length * (difference * difference).sum(-1) / 2  # 1 - A mu.mu'
        logs = self.log_normalizer() - other.log_normalizer()
        return logs - self.concentration * complement + other.concentration * apart

    def standard_error(self, count: int) -> Any:
        """Standard error of the maximum likelihood concentration from `count` features: 1/sqrt(count A'(kappa)).

        Raises
        ------
        ValueError
            If `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1; got {count}.")
        return 1 / self._xp.sqrt(count * ratio_slope(self._order, self.concentration))

    def sample(self, size: int | tuple[int, ...] = (), *, rng: Any = None) -> Any:
        """Draw unit vectors.

        Rejection of Ulrich (1984, Appl. Stat. 33, 158) as corrected by Wood (1994, Commun. Stat. Simul. 23, 157) for the cosine
        to the mean, its closed inverse for dimension 3; then one Householder reflection carries the pole to the mean direction.

        Parameters
        ----------
        size
            How many for each distribution.
        rng
            None, a seed, or a generator of the library (`numpy.random.Generator`, `cupy.random.Generator`, `torch.Generator`).

        Returns
        -------
        array, shape (*size, *batch, dimension)
        """
        size = (size,) if isinstance(size, int) else tuple(size)
        batch = np.broadcast_shapes(tuple(self.mean_direction.shape[:-1]), tuple(self.concentration.shape))
        draws = backend.Draws(self._library, rng, like=self.mean_direction)
        xp, shape = self._xp, (*size, *batch)
        gap = self._sample_gap(draws, shape)[..., None]  # 1 - cosine
        tangent = draws.normal((*shape, self.dimension - 1))
        tangent = tangent / xp.sqrt((tangent * tangent).sum(-1))[..., None]
        x = backend.concatenate(xp, [1 - gap, xp.sqrt(gap * (2 - gap)) * tangent])
        return _reflect(xp, x, self.mean_direction)

    def _sample_gap(self, draws: backend.Draws, shape: tuple[int, ...]) -> Any:
        """1 - cosine to the mean direction."""
        xp = self._xp
        kappa = xp.broadcast_to(self.concentration, shape)
        if self.dimension == 3:
            u, positive = draws.uniform(shape), xp.where(kappa > 0, kappa, 1)
            return xp.where(kappa > 0, -xp.log(u + (1 - u) * xp.exp(-2 * positive)) / positive, 2 * u)
        d = self.dimension - 1
        b = d / (xp.sqrt(4 * kappa**2 + d**2) + 2 * kappa)
        centre = (1 - b) / (1 + b)
        log_centre = xp.log(4 * b / (1 + b) ** 2)  # log(1 - centre^2)
        gap, open_ = xp.zeros_like(kappa) + 1, xp.ones_like(kappa) > 0
        while bool(open_.any()):
            z = draws.symmetric_beta(d / 2, shape)
            new = 2 * b * z / (1 - (1 - b) * z)
            # kappa (t - centre) + d log((1 - centre t)/(1 - centre^2)) with t = 1 - new
            exponent = kappa * (1 - new - centre) + d * (xp.log(1 - centre + centre * new) - log_centre)
            accepted = open_ & (exponent >= xp.log(draws.uniform(shape)))
            gap, open_ = xp.where(accepted, new, gap), open_ & ~accepted
        return gap

    @classmethod
    def fit(cls, features: Any) -> Self:
        """Maximum likelihood from features.

        Parameters
        ----------
        features : array, shape (count, dimension)
            Unit vectors: NumPy, CuPy or torch, or a dask or Zarr array of any size, which is read block by block.

        Returns
        -------
        VonMisesFisher
            One distribution, float64; of the library of the features, NumPy for dask and Zarr.

        Raises
        ------
        ValueError
            As `from_mean_resultant`, or if the features have another shape or are no unit vectors.
        """
        if len(features.shape) != 2 or features.shape[0] < 1 or features.shape[1] < 2:
            raise ValueError(f"features must have shape (count >= 1, dimension >= 2); got {tuple(features.shape)}.")
        total: Any = 0.0
        for block in _blocks(features):
            _check_unit("features", block)
            total = total + backend.as_float64(block).sum(0)
        return cls.from_mean_resultant(total / features.shape[0])

    @classmethod
    def from_mean_resultant(cls, mean_resultant: Any) -> Self:
        """Maximum likelihood from the mean of the features, which is sufficient.

        The concentration solves A(kappa) = R, the length of the mean, by Newton's method on A or on 1/(1 - A), both computed
        directly; its relative error is at most 1e-13 for dimensions to a million and R in [1e-6, 1 - 1e-9].

        Parameters
        ----------
        mean_resultant : array, shape (..., dimension)
            Vectors of length below 1, dimension >= 2. A zero vector gives the uniform distribution about the first axis.

        Returns
        -------
        VonMisesFisher
            Of float64, with batch shape (...).

        Raises
        ------
        ValueError
            If a length is 1 or more: the concentration has no finite maximum, or these are not means of unit vectors.
        """
        library = backend.library_of(mean_resultant=mean_resultant)
        xp = backend.namespace(library)
        mean = backend.as_float64(backend.as_floating(library, mean_resultant))
        if mean.ndim == 0 or mean.shape[-1] < 2:
            raise ValueError(f"mean_resultant must have shape (..., dimension >= 2); got {tuple(mean.shape)}.")
        length = xp.sqrt((mean * mean).sum(-1))
        if not bool((length < 1).all()):
            raise ValueError(
                "mean_resultant must be shorter than 1: all features point the same way, so that the likelihood grows with the "
                f"concentration without end, or they are no unit vectors; got length {float(length.max())!r}."
            )
        first = xp.zeros_like(mean)
        first[..., 0] = 1
        direction = xp.where(length[..., None] > 0, mean / xp.where(length > 0, length, 1)[..., None], first)
        return cls(direction, concentration_of(mean.shape[-1], length))

    def _features(self, name: str, x: Any) -> Any:
        backend.library_of(**{name: x, "mean_direction": self.mean_direction})
        x = backend.as_floating(self._library, x, beside=self.mean_direction)
        x, _ = backend.to_wider(x, self.mean_direction)
        if x.ndim == 0 or x.shape[-1] != self.dimension:
            raise ValueError(f"{name} must have shape (..., {self.dimension}); got {tuple(x.shape)}.")
        _check_unit(name, x)
        return x


def concentration_of(dimension: Any, mean_resultant_length: Any) -> Any:
    """Concentration whose mean resultant length is the given one.

    Parameters
    ----------
    dimension : array_like
        p >= 2.
    mean_resultant_length : array_like
        R in [0, 1]; NumPy, CuPy or torch; broadcasts against `dimension`.

    Returns
    -------
    array or scalar
        Relative error at most 1e-13 for p to a million and R in [1e-6, 1 - 1e-9]; 0 for R = 0, inf for R = 1, nan outside.
    """
    return call("ratio_inverse", dimension / 2 - 1, mean_resultant_length)


def ratio_and_complement(order: float, concentration: Any) -> tuple[Any, Any]:
    """A = I_{v+1}(kappa)/I_v(kappa) and 1 - A, both to a few ulps; torch differentiates them once, in kappa."""
    if backend.library_of(concentration=concentration) == "torch":
        from gpu import torch_functions

        return torch_functions.mean_resultant_length(ratio_slope, order, concentration)
    a, complement = call("ratio_and_complement", order, concentration)
    return a, complement


def ratio_slope(order: float, concentration: Any) -> Any:
    """A'(kappa): the Fisher information of the concentration.

    From the Riccati equation where kappa is small, from the second derivative of log I where that would cancel.
    """
    library = backend.library_of(concentration=concentration)
    xp = backend.namespace(library)
    a, complement = call("ratio_and_complement", order, concentration)
    kappa = xp.where(concentration > 0, concentration, 1)
    riccati = complement * (1 + a) - (2 * order + 1) * a / kappa
    curved = call("log_ive_derivatives", order, kappa)[4] + order / kappa**2
    slope = xp.where(concentration < 2 * order + 2, riccati, curved)
    return xp.where(concentration > 0, slope, 1 / (2 * order + 2))


def _check_unit(name: str, x: Any) -> None:
    # The product of narrow integers or halves would overflow or round away the difference.
    wide = backend.as_float64(x)
    norms = (wide * wide).sum(-1)
    if not bool((abs(norms - 1) < UNIT_TOLERANCE).all()):
        worst = float(norms.reshape(-1)[int(abs(norms - 1).reshape(-1).argmax())]) ** 0.5
        raise ValueError(
            f"{name} must be unit vectors along the last axis; got one of length {worst:.6g}. Divide by the length."
        )


def _reflect(xp: Any, x: Any, mean: Any) -> Any:
    """Reflect so that the first axis goes to `mean` (Householder): x - u (u.x) 2/|u|^2 with u = e_1 - mean."""
    rest = (mean[..., 1:] * mean[..., 1:]).sum(-1)
    first = mean[..., 0]
    gap = xp.where(first > 0, rest / (1 + abs(first)), 1 - first)[..., None]  # 1 - first without cancellation
    u = backend.concatenate(xp, [gap, -mean[..., 1:]])
    square = xp.where(gap > 0, 2 * gap, 1)
    return x - u * ((x * u).sum(-1)[..., None] * (2 / square))


def _blocks(features: Any) -> Iterator[Any]:
    """Rows of an array: itself where it is in memory, a block at a time where it is not."""
    root = type(features).__module__.partition(".")[0]
    if root in ("numpy", "cupy", "torch"):
        yield features
        return
    chunks = getattr(features, "chunks", None)
    if chunks is None:
        rows: tuple[int, ...] = (max(1, ROWS_AT_ONCE // (8 * features.shape[1])),)
    else:
        rows = chunks[0] if isinstance(chunks[0], tuple) else (chunks[0],)
    size = features.shape[0]
    if len(rows) == 1:
        rows = (rows[0],) * -(-size // rows[0])
    stops = np.minimum(np.cumsum(rows), size)
    for start, stop in zip((0, *stops[:-1]), stops, strict=True):
        block = features[int(start) : int(stop)]
        yield np.asarray(block.compute() if hasattr(block, "compute") else block)
