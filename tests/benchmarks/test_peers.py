"""What holds for every peer: persistence at first, turning with the globe, every part learns, a checkpoint is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.skill.peers.icosahedral_graph import IcosahedralGraph
from benchmarks.skill.peers.spherical_operator import SphericalOperator
from benchmarks.skill.peers.u_net import GlobalAttention, UNet, Up
from benchmarks.skill.peers.window_attention import WindowAttention
from forecast.checkpoint import load_checkpoint, save_checkpoint
from forecast.tendency_network import TendencyNetwork
from tests.helpers.puyun import make_requirements, make_statistics

TIME = np.array(["2026-01-01T06", "2026-01-03T18"], dtype="datetime64[ns]")
CHANNELS = ("mean_sea_level_pressure", "u_component_of_wind_850", "temperature_850")


@dataclass(frozen=True)
class Peer:
    """A small network, by how many columns the globe may be turned under it, its trainable numbers, what starts at zero."""

    network: type[TendencyNetwork]
    settings: dict[str, Any]
    turn: int
    parameters: int
    closed: tuple[str, ...]
    grid: tuple[int, int] = (37, 72)


def _u_net(width: int = 16, clock: int = 32, inputs: int = 15) -> int:
    """Written out from the paper's form: two levels of one block down and two up, attention twice on the coarser."""

    def conv(come: int, go: int) -> int:
        return 9 * come * go + go

    def block(come: int, go: int) -> int:
        inner = 2 * come + conv(come, go) + 2 * go * (clock + 1) + 2 * go + conv(go, go)
        return inner + (come * go + go if come != go else 0)

    wide = 2 * width
    attention = 2 * wide + 3 * (wide * wide + wide) + wide * wide + wide
    return sum(
        [
            14 * clock + clock + clock * clock + clock,
            conv(inputs, width), block(width, width), block(wide, width), block(width, width), 2 * width, conv(width, 3),
            conv(width, wide), block(wide, wide), 2 * attention, 2 * block(wide, wide), conv(wide, width),
        ]
    )  # fmt: skip


def _window_attention(width: int = 32, blocks: int = 2, inputs: int = 15, patch: int = 2) -> int:
    """One head and an expansion of 2."""
    attention = width * 2 * width + 2 * width + width * width + 1 + 2 * 512 + 512 + 512 + width * width + width
    block = attention + 2 * (2 * width * width) + 3 * width + 2 * 2 * width + width * 2 * width + 2 * width
    edges = inputs * 9 * width + width + 2 * width + 14 * width + width + width * width + width
    return edges + blocks * block + (width + 1) * 3 * patch**2


def _spherical_operator(width: int = 8, blocks: int = 2, degree: int = 12, inputs: int = 15) -> int:
    """An expansion of 2."""
    dense = width * 2 * width + 2 * width + 2 * width * width + width
    block = (degree + 1) * 2 * width**2 + (width + 1) * 2 * width + (width + 1) * width + dense
    encoder = (inputs + 1) * 2 * width + (2 * width + 1) * width
    decoder = (width + inputs + 1) * 2 * width + (2 * width + 1) * 3
    return 15 * width + (width + 1) * width + encoder + blocks * block + decoder


def _icosahedral_graph(width: int = 8, rounds: int = 2, inputs: int = 15) -> int:
    def small(come: int) -> int:
        return (come + 1) * width + (width + 1) * width + 2 * width

    messages = small(3 * width) + small(2 * width)
    embeddings = small(inputs) + small(2) + 3 * small(4) + small(width)
    head = (width + 1) * width + (width + 1) * 3
    return 15 * width + (width + 1) * width + embeddings + (rounds + 2) * messages + rounds * (width + 1) * 2 * width + head


PEERS = [
    Peer(UNet, {"width": 16, "widths": [1, 2], "blocks": 1, "groups": 4}, 2, _u_net(), ("second", "project_out", "head")),
    Peer(WindowAttention, {"width": 32, "blocks": 2, "expansion": 2}, 12, _window_attention(), ("norm", "head")),
    Peer(SphericalOperator, {"width": 8, "blocks": 2, "degree": 12}, 5, _spherical_operator(), ("decoder",)),
    Peer(IcosahedralGraph, {"width": 8, "rounds": 2, "refinements": 2}, 24, _icosahedral_graph(), ("head",)),
]
every_peer = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.network.__name__)


def make(peer: Peer, *, awake: bool = True, **settings: Any) -> TendencyNetwork:
    """Build it; `awake` gives the layers that start at zero some weight, so that every part matters."""
    torch.manual_seed(0)
    requirements = make_requirements(*peer.grid, CHANNELS)
    model = peer.network.from_config(peer.settings | settings, requirements, make_statistics(requirements))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if awake and any(part in name for part in peer.closed):
                parameter.normal_(std=0.3)
    return model.eval()


def inputs_for(model: TendencyNetwork) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    need = model.requirements
    noise = torch.randn(2, need.history, len(need.channels), *need.grid_shape)
    return model.mean_field + model.deviation * noise, *model.inputs_at(TIME, np.zeros(2))


@every_peer
def test_untrained_network_forecasts_persistence(peer: Peer) -> None:
    model = make(peer, awake=False)
    frames, forcings, features = inputs_for(model)
    torch.testing.assert_close(model(frames, forcings, features), frames[:, -1], rtol=0, atol=0)


@every_peer
def test_forecast_has_the_shape_of_the_grid(peer: Peer) -> None:
    model = make(peer)
    out = model(*inputs_for(model))
    assert out.shape == (2, len(CHANNELS), *peer.grid)
    assert torch.isfinite(out).all()


@every_peer
def test_turning_globe_turns_the_forecast(peer: Peer) -> None:
    model = make(peer)
    frames, forcings, features = inputs_for(model)
    with torch.no_grad():
        wanted = model.normalised_tendency(frames, forcings, features).roll(peer.turn, -1)
        model.mean_field.copy_(model.mean_field.roll(peer.turn, -1))
        model.deviation_field.copy_(model.deviation_field.roll(peer.turn, -1))
        got = model.normalised_tendency(frames.roll(peer.turn, -1), forcings.roll(peer.turn, -1), features)
    assert wanted.std(dim=-1).amin() > 0.01  # at every row there is something to turn, the poles included
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@every_peer
def test_clock_matters(peer: Peer) -> None:
    model = make(peer)
    frames, forcings, features = inputs_for(model)
    later = model.inputs_at(TIME, np.full(2, 120.0))[1]
    with torch.no_grad():
        wanted, got = (model.normalised_tendency(frames, forcings, clock) for clock in (features, later))
    assert not torch.allclose(got, wanted)


@every_peer
def test_both_frames_matter(peer: Peer) -> None:
    model = make(peer)
    frames, forcings, features = inputs_for(model)
    with torch.no_grad():
        wanted = model.normalised_tendency(frames, forcings, features)
        for back in range(frames.shape[1]):
            other = frames.clone()
            other[:, back] = frames[:, back].roll(1, -2)
            assert not torch.allclose(model.normalised_tendency(other, forcings, features), wanted)


@every_peer
def test_gradients_reach_all_parameters(peer: Peer) -> None:
    model = make(peer).train()
    model.normalised_tendency(*inputs_for(model)).square().mean().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert without == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


@every_peer
def test_parameters_are_counted(peer: Peer) -> None:
    assert make(peer).parameter_count() == peer.parameters


@every_peer
def test_checkpoint_gives_the_same_forecast(peer: Peer, tmp_path: Path) -> None:
    model = make(peer, calibrated_steps=1)
    save_checkpoint(tmp_path, model, training_span=("2025-12-01T00", "2026-01-10T18"), data_hash="0" * 64)
    loaded = load_checkpoint(tmp_path)
    assert type(loaded) is peer.network
    assert loaded.config == model.config
    inputs = inputs_for(model)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*inputs), model(*inputs), rtol=0, atol=0)


def refused(network: Callable[..., Any], message: str, settings: dict[str, Any], grid: tuple[int, int] = (37, 72)) -> None:
    with pytest.raises(ValueError, match=message):
        network(settings, make_requirements(*grid, CHANNELS))


@pytest.mark.parametrize(
    ("settings", "grid", "message"),
    [
        ({"width": 20}, (37, 72), "width must be divisible by groups, and the coarsest level's by 16.*got width 20"),
        ({"groups": 2, "width": 2}, (37, 72), "coarsest level's by 16, a head's channels; got width 2"),
        ({}, (36, 72), "needs a grid with poles.*got 36 x 72. Use fewer levels"),
        ({}, (35, 72), "rows - 1 divisible by 4 and columns by 8; got 35 x 72"),
        ({}, (37, 60), "rows - 1 divisible by 4 and columns by 8; got 37 x 60"),
    ],
)
def test_u_net_refuses_what_it_cannot_halve(settings: dict[str, Any], grid: tuple[int, int], message: str) -> None:
    refused(UNet.from_config, message, settings, grid)


def test_u_net_interpolates_around_the_globe_and_from_pole_to_pole() -> None:
    up = Up(1, 1)
    with torch.no_grad():
        up.convolution.weight.zero_()[0, 0, 1, 1] = 1.0
        up.convolution.bias.zero_()
        x = torch.randn(1, 1, 5, 8)
        fine = up(x)
    assert fine.shape == (1, 1, 9, 16)
    torch.testing.assert_close(fine[..., ::2, ::2], x)
    torch.testing.assert_close(fine[..., 4, 15], (x[..., 2, 7] + x[..., 2, 0]) / 2)
    torch.testing.assert_close(fine[..., 7, 6], (x[..., 3, 3] + x[..., 4, 3]) / 2)


def test_u_net_attends_to_every_point_of_its_coarsest_level() -> None:
    """Softmax of query times key over the root of a head's channels, written out."""
    torch.manual_seed(0)
    layer = GlobalAttention(32, 4)
    with torch.no_grad():
        layer.project_out.weight.normal_()
        x = torch.randn(1, 32, 3, 4)
        points = layer.project_in(layer.norm(x))[0].flatten(1)
        heads = []
        for head in range(2):
            query, key, value = (points[32 * part + 16 * head : 32 * part + 16 * head + 16] for part in range(3))
            heads.append(value @ (query.T @ key / 4).softmax(dim=1).T)
        wanted = x + layer.project_out(torch.cat(heads).reshape(1, 32, 3, 4))
        torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)


def test_u_net_knows_which_inputs_turn_over_at_a_pole() -> None:
    """Wind along a meridian over the pole is smooth; as a scalar it would have an edge there."""
    model = make(PEERS[0])
    field = torch.randn(1, model.input_count, 37, 72)
    with torch.no_grad():
        plain, vectors = model.embedding(field), model.embedding(field, model.odd_input)
    assert torch.equal(plain[..., 1:-1, :], vectors[..., 1:-1, :])
    assert not torch.allclose(plain[..., 0, :], vectors[..., 0, :])
    torch.manual_seed(2)
    frames, forcings, features = inputs_for(model)
    wanted = model.normalised_tendency(frames, forcings, features)
    model.odd_input.fill_(1.0)
    assert not torch.allclose(model.normalised_tendency(frames, forcings, features), wanted)
