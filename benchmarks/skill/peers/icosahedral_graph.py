"""A graph network on an icosahedral mesh in the manner of GraphCast (Lam et al., 2212.12794), small.

Grid points send messages to the nodes within reach, the nodes of the multi-mesh to each other in several rounds, and the
corners of a triangle back to the grid points in it. A message is made by a small network of edge, sender and receiver; edges
and nodes add what they get to what they are. Every small network has one hidden layer with SiLU and ends in layer
normalisation.

Departures: nodes know their latitude and not their longitude, so that a third of a turn of the globe turns the forecast; the
clock scales and shifts what nodes of the mesh get in each round, where GraphCast has it among the fields. The first layer of a
message's network is applied to edges, senders and receivers before they are gathered, which is the same number at less cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.skill.peers import icosahedral_mesh
from forecast.checkpoint import register_network
from forecast.layers.compression import closed
from forecast.layers.time_embedding import TimeEmbedding, feature_count
from forecast.requirements import Requirements
from forecast.tendency_network import TendencyNetwork


@dataclass
class IcosahedralGraphConfig:
    """Size of the network.

    Parameters
    ----------
    width
        Channels of nodes and edges.
    rounds
        Of messages between the nodes of the mesh.
    refinements
        How often the icosahedron's edges are halved: 3 gives 642 nodes.
    calibrated_steps
        See `forecast.tendency_network.TendencyNetwork.calibrated`.
    """

    width: int = 48
    rounds: int = 6
    refinements: int = 3
    calibrated_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "rounds", "refinements"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")


def small_network(come: int, width: int) -> nn.Sequential:
    """One hidden layer, normalised at the end."""
    return nn.Sequential(nn.Linear(come, width), nn.SiLU(), nn.Linear(width, width), nn.LayerNorm(width))


class Messages(nn.Module):
    """One round of messages along the edges of one graph."""

    pairs: Tensor

    def __init__(self, width: int, pairs: Int[Tensor, "2 pair"], *, clocked: bool = False) -> None:
        super().__init__()
        self.register_buffer("pairs", pairs, persistent=False)
        self.of_edge, self.of_sender = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.of_receiver = nn.Linear(width, width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.update = small_network(2 * width, width)
        self.clock = nn.Linear(width, 2 * width) if clocked else None

    def forward(
        self,
        edges: Float[
            Tensor,
            (
                pair  # batch width
            ),
        ],
        senders: Float[Tensor, "sender batch width"],
        receivers: Float[Tensor, "receiver batch width"],
        clock: Float[Tensor, "batch width"] | None = None,
    ) -> tuple[Float[Tensor, "pair batch width"], Float[Tensor, "receiver batch width"]]:
        """Edges and receivers after it."""
        come, go = self.pairs
        hidden = self.of_edge(edges) + self.of_sender(senders)[come] + self.of_receiver(receivers)[go]
        messages = self.message(hidden)
        heard = torch.zeros_like(receivers).index_add(0, go, messages)
        update = self.update(torch.cat([receivers, heard], dim=-1))
        if self.clock is not None:
            gain, shift = self.clock(clock).chunk(2, dim=-1)
            update = torch.addcmul(shift, update, 1 + gain)
        return edges + messages, receivers + update


@register_network
class IcosahedralGraph(TendencyNetwork):
    """From the grid to the mesh, rounds of messages, back to the grid."""

    config_class = IcosahedralGraphConfig
    to_mesh_offsets: Tensor
    on_mesh_offsets: Tensor
    to_grid_offsets: Tensor
    node_position: Tensor

    def __init__(
        self, config: IcosahedralGraphConfig, requirements: Requirements, statistics: xr.Dataset | None = None
    ) -> None:
        super().__init__(config, requirements, statistics)
        width = config.width
        to_mesh, on_mesh, to_grid = self._register_graphs(config.refinements)
        self.time_embedding = TimeEmbedding(feature_count(requirements.history + 1), width)
        self.embed_grid = small_network(self.input_count, width)
        self.embed_nodes = small_network(2, width)
        self.embed_to_mesh, self.embed_on_mesh, self.embed_to_grid = (small_network(4, width) for _ in range(3))
        self.to_mesh = Messages(width, to_mesh)
        self.keep_grid = small_network(width, width)
        self.on_mesh = nn.ModuleList(Messages(width, on_mesh, clocked=True) for _ in range(config.rounds))
        self.to_grid = Messages(width, to_grid)
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, len(requirements.channels)))
        closed(self.head[-1])

    def _register_graphs(self, refinements: int) -> tuple[Tensor, Tensor, Tensor]:
        mesh = icosahedral_mesh.icosahedral_mesh(refinements)
        nodes = icosahedral_mesh.frames_of(mesh.nodes)
        grid = icosahedral_mesh.points_on_sphere(np.array(self.requirements.latitude), np.array(self.requirements.longitude))
        graphs = {
            "to_mesh": (icosahedral_mesh.within_reach(mesh, grid[0]), grid[0], nodes),
            "on_mesh": (mesh.pairs, mesh.nodes, nodes),
            "to_grid": (icosahedral_mesh.corners_around(mesh, grid[0]), mesh.nodes, grid),
        }
        for name, graph in graphs.items():
            found = torch.tensor(icosahedral_mesh.offsets(*graph), dtype=torch.float32)
            self.register_buffer(f"{name}_offsets", found[:, None], persistent=False)
        position = np.stack([mesh.nodes[:, 2], np.hypot(mesh.nodes[:, 0], mesh.nodes[:, 1])], axis=1)
        self.register_buffer("node_position", torch.tensor(position, dtype=torch.float32)[:, None], persistent=False)
        to_mesh, on_mesh, to_grid = (torch.from_numpy(np.ascontiguousarray(graph[0])) for graph in graphs.values())
        return to_mesh, on_mesh, to_grid

    def normalised_tendency(
        self,
        frames: Float[Tensor, "batch history channel lat lon"],
        forcings: Float[Tensor, "batch forcing lat lon"],
        features: Float[Tensor, "batch feature"],
    ) -> Float[Tensor, "batch channel lat lon"]:
        """Change over one step in units of its standard deviation."""
        clock = self.time_embedding(features)
        grid = self.embed_grid(self.normalised_input(frames, forcings).flatten(2).permute(2, 0, 1))
        nodes = self.embed_nodes(self.node_position).expand(-1, grid.shape[1], -1)
        nodes = self.to_mesh(self.embed_to_mesh(self.to_mesh_offsets), grid, nodes)[1]
        grid = grid + self.keep_grid(grid)
        edges = self.embed_on_mesh(self.on_mesh_offsets)
        for messages in self.on_mesh:
            edges, nodes = messages(edges, nodes, nodes, clock)
        grid = self.to_grid(self.embed_to_grid(self.to_grid_offsets), nodes, grid)[1]
        return self.head(grid).permute(1, 2, 0).unflatten(-1, self.requirements.grid_shape)
