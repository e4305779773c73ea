"""The network of the deep conjugate direction method (Kaneda et al., ICML 2023, arXiv:2205.10763), as its authors' code has it.

One channel in (the residual over its norm, 0 outside the fluid), one out; it sees neither flags nor matrix. 3x3x3 convolutions
of 16 filters with bias; ReLU everywhere but in the first convolution and the last, pointwise layer; skips are added behind the
ReLU. One pooling, so it looks 21 ("from64") or 33 ("from128") cells far. Because of ReLU and biases it is neither linear nor
symmetric.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, interpolate, relu

from solvers.weights import WeightsError, load_weights

FILTERS = 16
# Pairs of convolutions with a skip: before pooling (behind one convolution, before another), at half resolution, at full.
PAIRS = {"from64": (1, 3, 2), "from128": (2, 5, 3)}  # 97 457 and 152 881 parameters


class PublishedNetwork(nn.Module):
    """Proposes a direction from a residual.

    Parameters
    ----------
    size
        "from64" or "from128", a key of `PAIRS`: what the authors trained on boxes of 64 and 128 cells a side.

    Raises
    ------
    ValueError
        If the size is another.
    """

    def __init__(self, size: str = "from64") -> None:
        super().__init__()
        if size not in PAIRS:
            raise ValueError(f"size must be one of {sorted(PAIRS)}; got {size!r}.")
        before, half, after = PAIRS[size]
        self.size = size
        self.first = nn.Conv3d(1, FILTERS, 3, padding=1)
        self.enter, self.before, self.leave = _convolution(), _pairs(before), _convolution()
        self.at_half, self.after = _pairs(half), _pairs(after)
        self.last = nn.Conv3d(FILTERS, 1, 1)

    def forward(self, residual: Float[Tensor, "batch 1 x y z"]) -> Float[Tensor, "batch 1 x y z"]:
        """A direction for each residual; sides may be odd."""
        fine = relu(self.enter(self.first(residual)))
        fine = relu(self.leave(_through(self.before, fine)))
        coarse = _through(self.at_half, avg_pool3d(fine, 2, ceil_mode=True, count_include_pad=False))
        x, y, z = fine.shape[2:]
        fine = fine + interpolate(coarse, scale_factor=2, mode="nearest")[:, :, :x, :y, :z]
        direction: Tensor = self.last(_through(self.after, fine))
        return direction

    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())


def line_search_loss(rhs: Float[Tensor, "batch 1 x y z"], direction: Float[Tensor, "batch 1 x y z"]) -> Float[Tensor, ""]:
    """|b - alpha A d|^2, alpha the best step along d, mean over the batch; A is the empty box, Dirichlet faces, spacing 1."""
    Ad = box_operator(direction)
    alpha = (direction * rhs).flatten(1).sum(1) / (direction * Ad).flatten(1).sum(1)
    left = rhs - alpha[:, None, None, None, None] * Ad
    return left.square().flatten(1).sum(1).mean()


def load_proposer(folder: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """The network with weights from a folder, as a function of a grid (x, y, z).

    Raises
    ------
    WeightsError
        If the folder holds no weights of this kind, or they do not fit the network that it names.
    """
    settings, values, _ = load_weights(folder, "dcdm")
    network = PublishedNetwork(settings["size"])
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if wanted != {name: value.shape for name, value in values.items()}:
        raise WeightsError(f"weights in {folder} do not fit a network of size {settings['size']}. Train them again.")
    network.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    for_cpu(network)

    @torch.inference_mode()
    def propose(residual: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(residual.astype(np.float32))[None, None])[0, 0].numpy().astype(np.float64)

    return propose


def for_cpu(network: nn.Module) -> nn.Module:
    """With the channels of a cell side by side, which CPUs convolve a third faster."""
    for parameter in network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network


def box_operator(values: Float[Tensor, "batch 1 x y z"]) -> Float[Tensor, "batch 1 x y z"]:
    """Six times a cell less its neighbours, which are 0 behind the box."""
    total = 6 * values
    for axis in (2, 3, 4):
        n = values.shape[axis]
        inner = values.narrow(axis, 0, n - 1), values.narrow(axis, 1, n - 1)
        nothing = torch.zeros_like(values.narrow(axis, 0, 1))
        total = total - torch.cat([nothing, inner[0]], axis) - torch.cat([inner[1], nothing], axis)
    return total


def _convolution() -> nn.Conv3d:
    return nn.Conv3d(FILTERS, FILTERS, 3, padding=1)


def _pairs(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleList([_convolution(), _convolution()]) for _ in range(count))


def _through(pairs: nn.ModuleList, values: Tensor) -> Tensor:
    for pair in pairs:
        first, second = cast("nn.ModuleList", pair)
        values = values + relu(second(relu(first(values))))
    return values
