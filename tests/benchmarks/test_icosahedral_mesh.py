"""The mesh of the graph network: counts, areas, who is near whom, and messages along edges only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.skill.peers.icosahedral_graph import IcosahedralGraphConfig, Messages
from benchmarks.skill.peers.icosahedral_mesh import (
    REACH,
    corners_around,
    frames_of,
    icosahedral_mesh,
    icosahedron,
    offsets,
    points_on_sphere,
    within_reach,
)

LATITUDE, LONGITUDE = np.linspace(90, -90, 37), np.arange(0.0, 360, 5)


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_nodes_and_edges_are_those_of_a_refined_icosahedron(refinements: int) -> None:
    """10 4^r + 2 nodes, 20 4^r faces; 30 4^k edges of every refinement k in both directions, five or six at a node."""
    mesh = icosahedral_mesh(refinements)
    assert mesh.nodes.shape == (10 * 4**refinements + 2, 3)
    assert mesh.faces.shape == (20 * 4**refinements, 3)
    assert mesh.pairs.shape == (2, sum(60 * 4**level for level in range(refinements + 1)))
    np.testing.assert_allclose(np.linalg.norm(mesh.nodes, axis=1), 1)
    finest = mesh.pairs[:, -60 * 4**refinements :]
    neighbours = np.bincount(finest[1])
    assert (neighbours == 5).sum() == 12
    assert set(neighbours) <= {5, 6}
    assert {tuple(pair) for pair in mesh.pairs.T} == {tuple(pair) for pair in mesh.pairs[::-1].T}


def test_triangles_cover_the_sphere_once() -> None:
    """Solid angles (Van Oosterom and Strackee 1983) sum up to 4 pi."""
    mesh = icosahedral_mesh(3)
    a, b, c = mesh.nodes[mesh.faces].transpose(1, 0, 2)
    dots = 1 + (a * b).sum(1) + (b * c).sum(1) + (c * a).sum(1)
    angle = 2 * np.arctan2(np.abs((a * np.cross(b, c)).sum(1)), dots)
    assert angle.sum() == pytest.approx(4 * np.pi)
    assert angle.max() < 1.5 * angle.min()


def test_a_third_of_a_turn_maps_the_mesh_onto_itself() -> None:
    nodes = icosahedral_mesh(2).nodes
    cosine, sine = np.cos(2 * np.pi / 3), np.sin(2 * np.pi / 3)
    turned = nodes @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    assert np.linalg.norm(turned[:, None] - nodes, axis=-1).min(axis=1).max() < 1e-12
    assert np.abs(nodes[:, 2]).max() < 1 - 1e-3  # no node at a pole


def test_faces_are_those_of_an_icosahedron() -> None:
    nodes, faces = icosahedron()
    sides = nodes[faces] - nodes[np.roll(faces, 1, axis=1)]
    np.testing.assert_allclose(np.linalg.norm(sides, axis=-1), 1.0514622, rtol=1e-6)
    assert nodes[faces[0]].mean(axis=0)[2] == pytest.approx(0.7946545, rel=1e-6)  # inscribed sphere


def test_every_grid_point_speaks_and_hears() -> None:
    mesh = icosahedral_mesh(3)
    points = points_on_sphere(LATITUDE, LONGITUDE)[0]
    speakers, nodes = within_reach(mesh, points)
    assert set(speakers) == set(range(len(points)))
    assert set(nodes) == set(range(len(mesh.nodes)))
    sides = mesh.nodes[mesh.faces] - mesh.nodes[mesh.faces[:, [1, 2, 0]]]
    longest = np.linalg.norm(sides, axis=-1).max()
    assert np.linalg.norm(points[speakers] - mesh.nodes[nodes], axis=1).max() <= REACH * longest


def test_points_lie_in_the_triangle_of_their_corners() -> None:
    mesh = icosahedral_mesh(3)
    points = points_on_sphere(LATITUDE, LONGITUDE)[0]
    corners, hearers = corners_around(mesh, points)
    np.testing.assert_array_equal(hearers, np.arange(len(points)).repeat(3))
    triangles = mesh.nodes[corners.reshape(-1, 3)]
    shares = np.linalg.solve(triangles.transpose(0, 2, 1), points[..., None])[..., 0]
    assert shares.min() > 0


def test_offsets_are_up_east_and_north_of_the_receiver() -> None:
    """The sender lies 60 degrees north of the receiver at 0 N 90 E; east and up of another one at 0 N 0 E."""
    sender = points_on_sphere(np.array([60.0]), np.array([90.0]))[0]
    receivers = points_on_sphere(np.array([0.0]), np.array([90.0, 0.0]))
    found = offsets(np.array([[0, 0], [0, 1]]), sender, receivers)
    half, high = 0.5, np.sqrt(3) / 2
    wanted = np.array([[half - 1, 0, high, 1.0], [-1, half, high, np.sqrt(2)]])
    np.testing.assert_allclose(found, wanted / np.sqrt(2), atol=1e-12)


def test_frames_of_nodes_are_those_of_their_latitude_and_longitude() -> None:
    wanted = points_on_sphere(LATITUDE[1:-1], LONGITUDE)
    for one, other in zip(frames_of(wanted[0]), wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_messages_are_those_of_a_network_of_edge_sender_and_receiver() -> None:
    """The first layer on all three together, as GraphCast writes it; sums over who sends."""
    torch.manual_seed(0)
    pairs = torch.tensor([[0, 1, 2, 2], [1, 1, 0, 1]])
    layer = Messages(6, pairs, clocked=True)
    edges, senders, receivers, clock = (torch.randn(size, 2, 6) for size in (4, 3, 2, 1))
    weight = torch.cat([layer.of_edge.weight, layer.of_sender.weight, layer.of_receiver.weight], dim=1)
    with torch.no_grad():
        new_edges, new_receivers = layer(edges, senders, receivers, clock[0])
        gain, shift = layer.clock(clock[0]).chunk(2, dim=-1)
        heard = torch.zeros(2, 2, 6)
        for number, (come, go) in enumerate(pairs.T.tolist()):
            together = torch.cat([edges[number], senders[come], receivers[go]], dim=-1)
            message = layer.message(together @ weight.T + layer.of_edge.bias)
            torch.testing.assert_close(new_edges[number], edges[number] + message)
            heard[go] += message
        update = layer.update(torch.cat([receivers, heard], dim=-1))
    torch.testing.assert_close(new_receivers, receivers + update * (1 + gain) + shift)


@pytest.mark.parametrize("name", ["width", "rounds", "refinements"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        IcosahedralGraphConfig(**{name: 0})
