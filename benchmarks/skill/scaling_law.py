"""How error falls with parameters, steps of training and data: a law that is fitted, and what it says of a larger budget.

    L(N, S, D) = floor + sum over x in (N, S, D) of share_x (x / reference_x) ^ -exponent_x

the additive law that Hoffmann et al. (2022, arXiv 2203.15556) fit to a loss, here of an error, with one more term: they have
parameters and data that are seen once, and steps are the same as data; a small archive may be seen again and again. What an
exponent means: Bahri et al. (2024, doi:10.1073/pnas.2311878121) expect 1 in data, and in the width of a network (so 1/2 in its
parameters), where the limit of plenty is approached by averaging (variance-limited), and powers that depend on the data where a
finer surface is resolved (resolution-limited). They say nothing of steps.

Fitted are logarithms of errors, robustly: residuals above `ROBUST` count by their size, not by their square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

NAMES = ("parameters", "steps", "data")
NUMBERS = 1 + 2 * len(NAMES)  # of a law
STARTS, MORE_STARTS, RESAMPLED = 24, 3, 100
EXPONENTS = (0.02, 4.0)  # what a fit may find
ROBUST = 0.02
LARGEST = 600.0  # logarithm of a number that is out of all reach, and still one


@dataclass(frozen=True)
class Law:
    """A fitted law.

    Attributes
    ----------
    floor
        The error that nothing takes away.
    shares
        The error that each quantity is to blame for at its reference, in the order of `NAMES`.
    exponents
        How fast it falls.
    references
        Parameters, steps and data at which shares are told.
    """

    floor: float
    shares: tuple[float, ...]
    exponents: tuple[float, ...]
    references: tuple[float, ...]

    def __call__(self, budget: Float[np.ndarray, "row 3"]) -> Float[np.ndarray, " row"]:
        """The error at parameters, steps and data."""
        scaled = np.asarray(budget, dtype=float) / self.references
        return self.floor + (np.array(self.shares) * scaled ** -np.array(self.exponents)).sum(axis=-1)

    def best(self, product: float, data: float) -> tuple[float, float, float]:
        """The best parameters and steps whose product is given, and the error there.

        Training costs parameters times steps (times what a step and a weight cost); where the derivatives of both terms along
        a line of equal cost cancel, N = (p u / q v)^(1 / (p + q)) product^(q / (p + q)) in units of the references, with the
        exponents p, q and shares u, v of parameters and steps.
        """
        (share_n, share_s, _), (p, q, _), (one_n, one_s, _) = self.shares, self.exponents, self.references
        scaled = product / (one_n * one_s)
        n = (p * share_n / (q * share_s)) ** (1 / (p + q)) * scaled ** (q / (p + q))
        parameters, steps = n * one_n, scaled / n * one_s
        return parameters, steps, float(self(np.array([[parameters, steps, data]]))[0])

    def steps_for(self, parameters: float) -> float:
        """The steps for which these parameters are the best ones of their cost, see `best`."""
        (share_n, share_s, _), (p, q, _), (one_n, one_s, _) = self.shares, self.exponents, self.references
        to_blame = math.log(p * share_n / (q * share_s)) - p * math.log(parameters / one_n)
        return one_s * math.exp(min(-to_blame / q, LARGEST))

    @property
    def is_bounded(self) -> bool:
        """Whether an exponent is the least or the largest that a fit may find, so that it was not found."""
        return any(not 1.01 * EXPONENTS[0] < one < 0.99 * EXPONENTS[1] for one in self.exponents)

    @property
    def compound(self) -> tuple[float, float]:
        """Powers of a training's cost by which parameters and steps grow together at the least error."""
        p, q, _ = self.exponents
        return q / (p + q), p / (p + q)


def fit(budget: Float[np.ndarray, "row 3"], error: Float[np.ndarray, " row"], seed: int = 0, near: Law | None = None) -> Law:
    """Fit the law to trainings.

    Parameters
    ----------
    budget
        Parameters, steps and data of every training, in any units.
    error
        Its error, above 0.
    seed
        Of the starts of the fit; the best of `STARTS` is kept.
    near
        Start from this law, too, and from `MORE_STARTS` others alone; its references are kept.

    Raises
    ------
    ValueError
        If there are fewer budgets than numbers to find, a quantity is the same in all, or a number is not positive.
    """
    budget, error = np.asarray(budget, dtype=float), np.asarray(error, dtype=float)
    if (budget <= 0).any() or (error <= 0).any():
        raise ValueError("budget and error must be positive: the law is fitted to logarithms.")
    budgets = len(np.unique(budget, axis=0))
    if budgets < NUMBERS:
        raise ValueError(f"budget must hold at least {NUMBERS} different rows, one for each number to find; got {budgets}.")
    fixed = [name for name, column in zip(NAMES, budget.T, strict=True) if np.ptp(column) == 0]
    if fixed:
        raise ValueError(
            f"budget has the same {', '.join(fixed)} in all rows; nothing is known of how the error falls with it."
        )
    references = np.exp(np.log(budget).mean(axis=0)) if near is None else np.array(near.references)
    scaled, target = np.log(budget / references), np.log(error)

    def residuals(free: np.ndarray) -> np.ndarray:
        terms = np.exp(free[1:4] - free[4:] * scaled)
        return np.asarray(np.log(np.exp(free[0]) + terms.sum(axis=1)) - target)

    # Of floor and shares the logarithm is sought. By chance the floor may lie a little above the lowest error.
    low = np.array([target.min() - 12.0] * 4 + [EXPONENTS[0]] * 3)
    high = np.array([target.min() + ROBUST] + [target.max()] * 3 + [EXPONENTS[1]] * 3)
    random, count = np.random.default_rng(seed), STARTS if near is None else MORE_STARTS
    parts = np.log(error.min() * random.dirichlet(np.ones(4), count).clip(1e-3))
    starts = np.concatenate([parts, random.uniform(0.2, 1.2, (count, 3))], axis=1)
    if near is not None:
        starts = np.vstack([starts, [*np.log([near.floor, *near.shares]), *near.exponents]])
    tried = [
        least_squares(residuals, start.clip(low + 1e-6, high - 1e-6), bounds=(low, high), loss="soft_l1", f_scale=ROBUST)
        for start in starts
    ]
    free = min(tried, key=lambda one: float(one.cost)).x
    floor, *shares = np.exp(free[:4]).tolist()
    return Law(floor, tuple(shares), tuple(free[4:].tolist()), tuple(references.tolist()))


def resample(
    law: Law, budget: Float[np.ndarray, "row 3"], error: Float[np.ndarray, " row"], count: int = RESAMPLED, seed: int = 0
) -> list[Law]:
    """Laws fitted to what could have been measured: the fit, with the residuals of one budget in place of those of another.

    Trainings of one budget differ by chance and share what the law has wrong, so that their residuals go together.

    Parameters
    ----------
    law
        That `fit` gave of these trainings.
    budget, error
        As for `fit`.
    count
        Laws.
    seed
        Of the draws.

    Raises
    ------
    ValueError
        If there are no more budgets than numbers to find: nothing is left of their errors then.
    """
    rows, of_row = np.unique(budget, axis=0, return_inverse=True)
    if len(rows) <= NUMBERS:
        raise ValueError(f"budget must hold more than {NUMBERS} different rows, or a law goes through all; got {len(rows)}.")
    fitted = law(budget)
    left = np.log(error / fitted)
    left = (left - left.mean()) * np.sqrt(len(rows) / (len(rows) - NUMBERS))  # what the fit has taken up
    together = [np.flatnonzero(of_row == row) for row in range(len(rows))]
    random, laws = np.random.default_rng(seed), []
    for number in range(count):
        drawn = np.empty_like(left)
        for places, other in zip(together, random.integers(len(rows), size=len(rows)), strict=True):
            drawn[places] = random.permutation(np.resize(left[together[other]], len(places)))
        laws.append(fit(budget, fitted * np.exp(drawn), seed + number, near=law))
    return laws


def band(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of resampled values."""
    low, high = np.quantile(np.asarray(values), [0.025, 0.975])
    return float(low), float(high)
