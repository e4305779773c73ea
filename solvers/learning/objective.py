"""What a training minimises, one class for each kind."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from solvers.learning.coarsening import Coarsening
from solvers.learning.config import TrainConfig
from solvers.learning.reduction import digits_per_iteration
from solvers.learning.right_hand_sides import RitzMixtures
from solvers.learning.scenes import random_problem, random_right_hand_side
from solvers.preconditioners.multigrid import with_halo
from solvers.published_network import PublishedNetwork, for_cpu, line_search_loss
from solvers.solution import solve

LEAST_SIDE = 10  # cells along the smallest random geometry
ITERATIONS = 4  # of conjugate gradients, that a loss looks at
EXACT = 1e-7  # relative residual of the solutions that errors are measured from


class Objective(Protocol):
    """A network, how to build it again, and its loss on fresh samples."""

    settings: dict[str, Any]

    @property
    def network(self) -> nn.Module:
        """What is trained."""

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one batch that has not been seen before."""


class PublishedObjective:
    """The residual that the best step along the proposed direction leaves, on the empty box."""

    def __init__(self, config: TrainConfig) -> None:
        self.network: nn.Module = for_cpu(PublishedNetwork(config.network))
        self.settings = {"size": config.network}
        self.mixtures, self.batch = RitzMixtures(config.cells), config.batch

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one batch of mixtures."""
        rhs = torch.from_numpy(self.mixtures.draw(rng, self.batch))[:, None]
        return line_search_loss(rhs, self.network(rhs))


class CoarseningObjective:
    """The error that a few iterations of conjugate gradients leave, on a geometry that has not been seen before."""

    def __init__(self, config: TrainConfig) -> None:
        self.network = Coarsening()
        self.settings: dict[str, Any] = {}
        self.batch, self.sides = config.batch, (LEAST_SIDE, config.cells)

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one geometry and a batch of right-hand sides."""
        problem = random_problem(rng, self.sides)
        rhs = np.stack([random_right_hand_side(rng, problem) for _ in range(self.batch)])
        solution = solve(problem, rhs, rtol=EXACT, M="multigrid")
        levels = self.network.levels(torch.from_numpy(with_halo(problem)))
        return -digits_per_iteration(levels, torch.from_numpy(rhs), torch.from_numpy(solution), ITERATIONS)


OBJECTIVES: dict[str, type[PublishedObjective] | type[CoarseningObjective]] = {
    "dcdm": PublishedObjective,
    "learned": CoarseningObjective,
}
