"""P2 enriched by the cubic bubble, with nodal functions: 1 at one of corners, middles of edges and centre, 0 at the others."""

from __future__ import annotations

import numpy as np
from skfem import ElementTriP2
from skfem.element import ElementH1
from skfem.refdom import RefTri

_P2 = ElementTriP2()


class ElementTriP2Enriched(ElementH1):
    """The element of order 2 of Cohen, Joly, Roberts and Tordjman (2001): its mass can be lumped at its nodes."""

    nodal_dofs = 1
    facet_dofs = 1
    interior_dofs = 1
    maxdeg = 3
    dofnames = ("u", "u", "u")
    doflocs = np.vstack([_P2.doflocs, [[1 / 3, 1 / 3]]])
    refdom = RefTri

    def lbasis(self, X: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Value and gradient of function i at points X of the reference triangle."""
        x, y = X
        bubble = 27.0 * x * y * (1.0 - x - y)
        gradient = 27.0 * np.array([y * (1.0 - 2.0 * x - y), x * (1.0 - x - 2.0 * y)])
        if i == 6:
            return bubble, gradient
        value, slope = _P2.lbasis(X, i)
        at_centre = -1 / 9 if i < 3 else 4 / 9  # what the P2 function must lose there
        return value - at_centre * bubble, slope - at_centre * gradient
