"""Connected pools of fluid, and which of them no Dirichlet value holds: there the pressure is known up to a constant only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


class Pools(NamedTuple):
    """Singular components of a problem.

    label: for each fluid cell the number of its singular pool, -1 in the others. number: how many pools there are.
    sizes: their cells.
    """

    label: Any
    number: int
    sizes: Any


def singular_pools(first: np.ndarray, second: np.ndarray, held: np.ndarray) -> Pools:
    """Find the components that touch no Dirichlet cell.

    Parameters
    ----------
    first, second
        The fluid cells (numbers of unknowns) on the two sides of each open face between fluid cells.
    held
        For each unknown, whether one of its faces is open to a Dirichlet value.
    """
    n = held.size
    if n == 0:
        return Pools(np.zeros(0, np.int64), 0, np.zeros(0, np.int64))
    graph = coo_array((np.ones(first.size, np.int8), (first, second)), shape=(n, n))
    count, label = connected_components(graph, directed=False)
    return _without_held(count, label, held)


def singular_pools_of_flags(fluid: np.ndarray, held: np.ndarray) -> Pools:
    """`singular_pools` where every face between two fluid cells is open and no axis is periodic: no list of faces is needed.

    Parameters
    ----------
    fluid
        bool, the grid.
    held
        For each fluid cell in C order, whether one of its faces is open to a Dirichlet value.
    """
    label, count = scipy.ndimage.label(fluid)
    return _without_held(count, label[fluid] - 1, held)


def _without_held(count: int, label: np.ndarray, held: np.ndarray) -> Pools:
    """The components that hold no cell of `held`, numbered anew."""
    is_held = np.zeros(count, bool)
    is_held[label[held]] = True
    number = np.where(is_held, -1, np.cumsum(~is_held) - 1)
    label = number[label]
    free = int((~is_held).sum())
    return Pools(label, free, np.bincount(label[label >= 0], minlength=free))


def remove_means(xp: Any, vector: Any, pools: Pools) -> Any:
    """`vector` less its mean over each singular pool, along its last axis."""
    if pools.number == 0:
        return vector
    inside = pools.label >= 0
    label = pools.label[inside]
    flat = vector.reshape(-1, vector.shape[-1]).copy()
    for row in flat:
        mean = xp.bincount(label, weights=row[inside], minlength=pools.number) / pools.sizes
        row[inside] -= mean[label]
    return flat.reshape(vector.shape)
