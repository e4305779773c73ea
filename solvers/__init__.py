"""Solvers for the Poisson equations that simulation codes wait for.

Nothing is here yet. Conjugate-direction solvers with classical and learned preconditioners (`conjugate_directions`,
`PoissonProblem`, `preconditioner`, `solve`) are planned; until they stand, importing this package offers no name.
"""
