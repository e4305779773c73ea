"""Mixtures of von Mises-Fisher distributions: clustering by direction, as a scikit-learn estimator.

Expectation maximisation of Banerjee, Dhillon, Ghosh and Sra (2005, JMLR 6, 1345), with the concentration of each M step
solved to rounding error. Features may be NumPy, CuPy or torch; fitted attributes are of the same library.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple, Self

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClusterMixin, DensityMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise ImportError("VonMisesFisherMixture needs scikit-learn. Install it: pip install 'skysolve[mixture]'.") from error

from gpu import backend
from gpu.von_mises_fisher import VonMisesFisher, concentration_of, log_normalizer

ALGORITHMS = ("soft", "hard")


class _Run(NamedTuple):
    """Parameters, and how far expectation maximisation has come."""

    weights: Any
    means: Any
    concentrations: Any
    lower_bound: float = -math.inf
    steps: int = 0
    converged: bool = False


def _joint(features: Any, weights: Any, means: Any, concentrations: Any) -> Any:
    """Log of weight times density: shapes (count, p), (k,), (k, p), (k,) to (count, k)."""
    xp = backend.namespace_of(means)
    log_c = log_normalizer(xp, means.shape[1], concentrations) - concentrations
    log_weights = xp.log(xp.where(weights > 0, weights, 1)) + xp.where(weights > 0, 0.0, -math.inf)
    return features @ (means * concentrations[:, None]).T + (log_c + log_weights)


def _log_sum_exp(xp: Any, joint: Any) -> Any:
    top = xp.amax(joint, 1)
    return top + xp.log(xp.exp(joint - top[:, None]).sum(1))


def _posterior(joint: Any) -> Any:
    xp = backend.namespace_of(joint)
    return xp.exp(joint - _log_sum_exp(xp, joint)[:, None])


def _one_hot(xp: Any, labels: Any, count: int, like: Any) -> Any:
    """Shares of 1 and 0, shape (n_samples, count)."""
    columns = xp.arange(count, device=like.device) if xp.__name__ == "torch" else xp.arange(count)
    return backend.to_dtype(labels[:, None] == columns, like)


def _has_direction(features: Any) -> Any:
    """Which rows of `_directions` are no zeros."""
    return (features * features).sum(1) > 0.5


class VonMisesFisherMixture(ClusterMixin, DensityMixin, BaseEstimator):
    """Mixture of von Mises-Fisher distributions.

    Parameters
    ----------
    n_components
        How many distributions.
    algorithm
        "soft" shares each feature among the components by its posterior, "hard" gives it to the likeliest.
    shared_concentration
        Whether all components have one concentration.
    n_init
        Starts; the one of the highest likelihood is kept.
    max_iter
        Most steps of expectation maximisation of a start.
    tol
        A start has converged when the mean log likelihood of a feature grows by less.
    max_concentration
        Bound on concentrations: a component on a single direction would grow without end.
    random_state
        Seed of the starts: None, an integer or a `numpy.random.RandomState`.

    Attributes
    ----------
    weights_ : array, shape (n_components,)
        Shares of the components, sum 1.
    means_ : array, shape (n_components, n_features)
        Mean directions, unit vectors.
    concentrations_ : array, shape (n_components,)
        Concentrations.
    labels_ : array of int, shape (n_samples,)
        Likeliest component of each feature.
    lower_bound_ : float
        Mean log likelihood of a feature (soft), or of a feature and its component (hard).
    n_iter_, converged_
        Steps of the best start, and whether it converged.
    n_features_in_ : int
        Dimension.

    Notes
    -----
    Only the direction of a feature counts: each is divided by its length. Features without a direction, all zero, count for
    nothing in fits and scores, and get the posterior that the concentrations and weights give them.

    Examples
    --------
    >>> from gpu import VonMisesFisherMixture
    >>> labels = VonMisesFisherMixture(n_components=3, random_state=0).fit_predict(features)  # doctest: +SKIP
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        algorithm: str = "soft",
        shared_concentration: bool = False,
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-6,
        max_concentration: float = 1e10,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.algorithm = algorithm
        self.shared_concentration = shared_concentration
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.max_concentration = max_concentration
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to features.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Features, n_features >= 2, at least `n_components` of them.
        y
            Not used.

        Raises
        ------
        ValueError
            If a parameter or the shape of X is out of range.
        """
        self._check_parameters()
        features = self._directions(X, reset=True)
        directed = features[_has_direction(features)]
        if directed.shape[0] < self.n_components:
            raise ValueError(
                f"n_samples={directed.shape[0]} should be at least n_components={self.n_components}, not counting zeros."
            )
        random = check_random_state(self.random_state)
        best = max((self._run(directed, random) for _ in range(self.n_init)), key=lambda run: run.lower_bound)
        self.weights_, self.means_, self.concentrations_ = best.weights, best.means, best.concentrations
        self.lower_bound_, self.n_iter_, self.converged_ = best.lower_bound, best.steps, best.converged
        if not self.converged_ and self.max_iter > 1:
            warnings.warn(
                f"no start converged in max_iter={self.max_iter} steps. Raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.labels_ = backend.namespace_of(features).argmax(self._joint(features), 1)
        return self

    def predict(self, X: Any) -> Any:
        """Likeliest component of each feature, shape (n_samples,)."""
        joint = self._joint(self._fitted_directions(X))
        return backend.namespace_of(joint).argmax(joint, 1)

    def predict_proba(self, X: Any) -> Any:
        """Posterior of each component, shape (n_samples, n_components)."""
        return _posterior(self._joint(self._fitted_directions(X)))

    def score_samples(self, X: Any) -> Any:
        """Log density of each feature's direction, shape (n_samples,)."""
        joint = self._joint(self._fitted_directions(X))
        return _log_sum_exp(backend.namespace_of(joint), joint)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log density of the features' directions."""
        log_likelihood, count = self._log_likelihood(X)
        return log_likelihood / count if count else math.nan

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Draw unit vectors and the components they come from: shapes (n_samples, n_features) and (n_samples,)."""
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1; got {n_samples}.")
        random = check_random_state(self.random_state)
        weights = np.asarray(self.weights_.tolist())
        components = np.sort(random.choice(len(weights), n_samples, p=weights / weights.sum()))
        chosen = VonMisesFisher(self.means_[components], self.concentrations_[components])
        library = backend.library_of(means=self.means_)
        return chosen.sample(rng=int(random.randint(2**31))), backend.integers(library, components, like=self.means_)

    def bic(self, X: Any) -> float:
        """Bayesian information criterion, 2 log likelihood subtracted: lower is better."""
        log_likelihood, count = self._log_likelihood(X)
        return self._n_parameters() * math.log(count) - 2 * log_likelihood if count else math.nan

    def icl(self, X: Any) -> float:
        """Integrated completed likelihood (Biernacki, Celeux & Govaert 2000): BIC plus twice the entropy of the posteriors."""
        features = self._fitted_directions(X)
        posterior = backend.as_float64(_posterior(self._joint(features[_has_direction(features)])))
        xp = backend.namespace_of(posterior)
        entropy = -float((posterior * xp.log(xp.where(posterior > 0, posterior, 1))).sum())
        return self.bic(X) + 2 * entropy

    def _log_likelihood(self, X: Any) -> tuple[float, int]:
        features = self._fitted_directions(X)
        joint = self._joint(features[_has_direction(features)])
        logs = _log_sum_exp(backend.namespace_of(joint), joint)
        return float(logs.sum()), int(logs.shape[0])

    def _n_parameters(self) -> int:
        directions = self.n_components * (self.n_features_in_ - 1)
        return directions + (1 if self.shared_concentration else self.n_components) + self.n_components - 1

    def _check_parameters(self) -> None:
        for name in ("n_components", "n_init", "max_iter"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1; got {value!r}.")
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}; got {self.algorithm!r}.")
        if not self.tol >= 0:
            raise ValueError(f"tol must be at least 0; got {self.tol!r}.")
        if not 0 < self.max_concentration < math.inf:
            raise ValueError(f"max_concentration must be positive and finite; got {self.max_concentration!r}.")

    def _directions(self, X: Any, *, reset: bool) -> Any:
        """Checked features, divided by their lengths; rows of zeros stay."""
        library = backend.library_of(X=X)
        if library == "numpy":
            X = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], ensure_min_features=2 if reset else 1)
        else:
            X = backend.as_floating(library, X)
            if X.ndim != 2 or X.shape[1] < 2:
                raise ValueError(f"X must have shape (n_samples, n_features >= 2); got {tuple(X.shape)}.")
            if reset:
                self.n_features_in_ = int(X.shape[1])
            if X.shape[1] != self.n_features_in_:
                raise ValueError(f"X has {X.shape[1]} features, but the mixture was fitted to {self.n_features_in_}.")
            if not bool(backend.namespace(library).isfinite(X).all()):
                raise ValueError("X must be finite; it holds nan or inf.")
        xp = backend.namespace(library)
        largest = xp.amax(abs(X), 1)[:, None]
        X = X / xp.where(largest > 0, largest, 1)  # so that squares neither overflow nor vanish
        length = xp.sqrt((X * X).sum(1))[:, None]
        return X / xp.where(length > 0, length, 1)

    def _fitted_directions(self, X: Any) -> Any:
        check_is_fitted(self)
        return self._directions(X, reset=False)

    def _joint(self, features: Any) -> Any:
        """Log of weight times density, shape (n_samples, n_components)."""
        return _joint(features, self.weights_, self.means_, self.concentrations_)

    def _run(self, features: Any, random: np.random.RandomState) -> _Run:
        """Expectation maximisation from one start."""
        xp = backend.namespace_of(features)
        nearest = xp.argmax(features @ self._start(features, random).T, 1)
        run = self._maximise(features, _one_hot(xp, nearest, self.n_components, features))
        for step in range(1, self.max_iter + 1):
            joint = _joint(features, run.weights, run.means, run.concentrations)
            if self.algorithm == "soft":
                evidence = _log_sum_exp(xp, joint)
                shares = xp.exp(joint - evidence[:, None])
            else:
                evidence = xp.amax(joint, 1)
                shares = _one_hot(xp, xp.argmax(joint, 1), self.n_components, features)
            bound, before = float(evidence.mean()), run.lower_bound
            if bound - before < self.tol:
                return run._replace(lower_bound=max(bound, before), steps=step, converged=True)
            run = self._maximise(features, shares)._replace(lower_bound=bound, steps=step)
        return run

    def _start(self, features: Any, random: np.random.RandomState) -> Any:
        """Centres by k-means++ (Arthur & Vassilvitskii 2007): drawn in proportion to the squared distance to the others."""
        xp, count = backend.namespace_of(features), features.shape[0]
        chosen = [int(random.randint(count))]
        gap = 1 - features @ features[chosen[0]]  # half the squared distance
        for _ in range(1, self.n_components):
            weights = np.maximum(np.asarray(gap.tolist(), dtype=np.float64), 0)
            total = weights.sum()
            chosen.append(int(random.choice(count, p=weights / total)) if total > 0 else int(random.randint(count)))
            gap = xp.minimum(gap, 1 - features @ features[chosen[-1]])
        return features[chosen]

    def _maximise(self, features: Any, shares: Any) -> _Run:
        """Parameters of the highest likelihood given the shares of each component in each feature."""
        xp = backend.namespace_of(features)
        counts, sums = shares.sum(0), shares.T @ features
        lengths = xp.sqrt((sums * sums).sum(1))
        occupied = (counts > 0) & (lengths > 0)
        means = xp.where(occupied[:, None], sums / xp.where(lengths > 0, lengths, 1)[:, None], features[: self.n_components])
        norms = xp.sqrt((means * means).sum(1))[:, None]
        means = means / xp.where(norms > 0, norms, 1)
        if self.shared_concentration:
            resultant = (lengths.sum() / counts.sum()) + 0 * counts
        else:
            resultant = xp.where(occupied, lengths / xp.where(counts > 0, counts, 1), 0)
        concentrations = concentration_of(self.n_features_in_, xp.clip(resultant, 0, 1))
        return _Run(counts / counts.sum(), means, xp.clip(concentrations, 0, self.max_concentration))
