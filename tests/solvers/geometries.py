"""Problems that the tests of solvers share."""

import numpy as np

from solvers import AIR, FLUID, SOLID, PoissonProblem

BOUNDARIES = {
    "dirichlet": "dirichlet",
    "neumann": "neumann",
    "periodic": "periodic",
    "mixed": [("dirichlet", "neumann"), "neumann", "periodic"],
    "tank": ["neumann", "neumann", ("neumann", "dirichlet")],
}


def random_problem(seed, shape=(9, 12, 10), boundary="mixed", faces=False):
    rng = np.random.default_rng(seed)
    cells = rng.choice(np.array([FLUID, SOLID, AIR], np.uint8), shape, p=[0.7, 0.2, 0.1])
    kinds = BOUNDARIES[boundary]
    kinds = kinds if isinstance(kinds, str) else kinds[: len(shape)]
    if not faces:
        return PoissonProblem(cells, 0.5, boundary=kinds)
    drawn = [rng.uniform(0.2, 1.0, tuple(n + (a == b) for b, n in enumerate(shape))) for a in range(len(shape))]
    for axis, array in enumerate(drawn):
        ends = np.moveaxis(array, axis, 0)
        ends[-1] = ends[0]
    return PoissonProblem(cells, 0.5, boundary=kinds, fractions=drawn, coefficients=[3 * array for array in drawn])


def residual(problem, p, rhs):
    """Relative norm of what is left of the compatible right-hand side."""
    b = problem.compatible(problem.to_vector(rhs))
    return np.linalg.norm(b - problem.matrix() @ problem.to_vector(p)) / (np.linalg.norm(b) or 1.0)
