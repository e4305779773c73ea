"""Training in several processes: who is who, and how a network is spread over them.

torchrun (or any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT) starts the processes. They form
copies of `bands` neighbouring ranks each: a copy trains on its own share of every batch, the ranks of one copy hold a
latitude band each of the same samples. Every loss is a mean over all ranks, so that gradients are averaged over all of them,
whatever they hold.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from forecast.rollout import choose_device

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Place:
    """Where this process stands among those that train together.

    Parameters
    ----------
    rank, ranks
        Its number, and how many there are.
    bands
        Ranks that share a sample, each with its latitude band.
    device
        What it computes on.
    group
        The ranks that share its samples; None where it has them to itself.
    """

    rank: int = 0
    ranks: int = 1
    bands: int = 1
    device: torch.device = CPU
    group: Any = None

    @property
    def copy(self) -> int:
        """Which share of the batch is this process's."""
        return self.rank // self.bands

    @property
    def copies(self) -> int:
        """Into how many shares the batch is cut."""
        return self.ranks // self.bands

    @property
    def is_first(self) -> bool:
        """Whether this process writes the log and the checkpoint."""
        return self.rank == 0

    def gather(self, values: Float[Tensor, " value"]) -> Float[Tensor, "rank value"]:
        """The values of every rank, on the CPU."""
        if self.ranks == 1:
            return values.detach().float().cpu()[None]
        own = values.detach().float().to(self.device)
        everyone = [torch.empty_like(own) for _ in range(self.ranks)]
        dist.all_gather(everyone, own)
        return torch.stack(everyone).cpu()

    def add(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on the CPU."""
        if self.ranks == 1:
            return values
        total = values.to(self.device)
        dist.all_reduce(total)
        return total.cpu()

    def any(self, said: bool) -> bool:
        """Whether one of the ranks says so."""
        return bool(self.gather(torch.tensor([float(said)])).any())

    def wait(self) -> None:
        """Go on when all ranks are here."""
        self.any(False)


@contextmanager
def joined(bands: int, device: str) -> Iterator[Place]:
    """Join the processes that a launcher started, and leave them at the end; one process is alone.

    Raises
    ------
    ValueError
        If `bands` does not divide the number of processes.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks % bands:
        raise ValueError(f"bands must divide the number of processes; got {bands} bands for {ranks}. Start a multiple of it.")
    if ranks == 1:
        yield Place(device=choose_device(device))
        return
    rank = int(os.environ["RANK"])
    own = choose_device(device)
    if own.type == "cuda":
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        # Every process takes part in making every group.
        groups = [dist.new_group(list(range(first, first + bands))) for first in range(0, ranks, bands)]
        yield Place(rank, ranks, bands, own, groups[rank // bands] if bands > 1 else None)
    finally:
        dist.destroy_process_group()


def spread(objective: nn.Module, model: nn.Module, place: Place, kind: str) -> nn.Module:
    """Make the gradients of `objective`, which holds `model`, the mean over all ranks.

    "ddp" keeps all weights on every rank. "fsdp" cuts weights, and with them their moments and their average, into one piece
    per rank, brought together block by block (PyTorch's FSDP2). The optimiser is built after this.
    """
    if place.ranks == 1:
        return objective
    if kind == "fsdp":
        from torch.distributed.fsdp import fully_shard  # takes a second

        for stage in cast("Iterable[nn.ModuleList]", getattr(model, "stages", ())):
            for block in stage:
                fully_shard(block)
        fully_shard(objective)
        return objective
    with warnings.catch_warnings():
        # The new name would still send the first rank's buffers to all when it begins; bands have buffers of their own.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(objective, broadcast_buffers=False)


def without_exchange(objective: nn.Module) -> AbstractContextManager[None]:
    """Leave gradients on their ranks in a pass that is not the last of a step. Pieces of weights are always exchanged."""
    return objective.no_sync() if isinstance(objective, DistributedDataParallel) else nullcontext()


def whole(value: Tensor) -> Tensor:
    """Bring the pieces of a tensor together; every rank takes part."""
    return value.full_tensor() if is_piece(value) else value


def is_piece(value: Tensor) -> TypeGuard[Any]:
    """Whether a tensor is this rank's piece of one (a DTensor, whose import takes a second)."""
    return hasattr(value, "full_tensor")
