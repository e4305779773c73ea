"""What a cell holds: the three flags that callers give."""

from __future__ import annotations

FLUID = 0  # an unknown pressure
SOLID = 1  # no flux through its faces (Neumann)
AIR = 2  # pressure zero at its centre (Dirichlet)
