"""Triangles of a refined icosahedron, and who is whose neighbour between them and a latitude-longitude grid.

The meshes of GraphCast (Lam et al., 2212.12794): every refinement halves edges; those of all refinements are one multi-mesh.
A face is centred on each pole, so that a third of a turn maps the mesh onto itself and no node has a pole for its north.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

OFF_MERIDIAN = np.deg2rad(1.0)  # turns the mesh so that no point of a regular grid lies on an edge, where triangles would tie
REACH = 0.6  # of the longest edge of the finest mesh: from grid points to nodes, GraphCast's


@dataclass(frozen=True)
class Mesh:
    """Nodes on the unit sphere, finest triangles, and the pairs (sender, receiver) of all refinements."""

    nodes: Float[np.ndarray, "node 3"]
    faces: Int[np.ndarray, "face 3"]
    pairs: Int[np.ndarray, "2 pair"]


def icosahedral_mesh(refinements: int) -> Mesh:
    """Halve the edges of an icosahedron `refinements` times."""
    nodes, faces = icosahedron()
    pairs = [directed(faces)]
    for _ in range(refinements):
        nodes, faces = refine(nodes, faces)
        pairs.append(directed(faces))
    return Mesh(nodes, faces, np.concatenate(pairs, axis=1))


def icosahedron() -> tuple[Float[np.ndarray, "12 3"], Int[np.ndarray, "20 3"]]:
    """Nodes and faces; the first face is centred on the north pole."""
    golden = (1 + np.sqrt(5)) / 2
    corners = [(0.0, one, two * golden) for one in (-1, 1) for two in (-1, 1)]
    nodes = np.array([np.roll(corner, turn) for turn in range(3) for corner in corners])
    distance = np.linalg.norm(nodes[:, None] - nodes, axis=-1)
    near = np.isclose(distance, 2.0)
    faces = [
        (a, b, c)
        for a in range(12) for b in range(a + 1, 12) for c in range(b + 1, 12)
        if near[a, b] and near[b, c] and near[a, c]
    ]  # fmt: skip
    nodes = nodes / np.linalg.norm(nodes, axis=1, keepdims=True)
    up = nodes[list(faces[0])].sum(axis=0)
    up /= np.linalg.norm(up)
    across = nodes[faces[0][0]] - up * (nodes[faces[0][0]] @ up)
    across /= np.linalg.norm(across)
    side = np.cross(up, across)
    cosine, sine = np.cos(OFF_MERIDIAN), np.sin(OFF_MERIDIAN)
    axes = np.stack([cosine * across - sine * side, sine * across + cosine * side, up])
    return nodes @ axes.T, np.array(faces)


def refine(
    nodes: Float[np.ndarray, "node 3"], faces: Int[np.ndarray, "face 3"]
) -> tuple[Float[np.ndarray, "more 3"], Int[np.ndarray, "finer 3"]]:
    """Four triangles for each one; the nodes that were there come first."""
    sides = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]], axis=-1)
    unique, number = np.unique(sides.reshape(-1, 2), axis=0, return_inverse=True)
    middle = nodes[unique].sum(axis=1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    ab, bc, ca = (number.reshape(-1, 3) + len(nodes)).T
    a, b, c = faces.T
    finer = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return np.concatenate([nodes, middle]), np.concatenate([np.stack(one, axis=1) for one in finer])


def directed(faces: Int[np.ndarray, "face 3"]) -> Int[np.ndarray, "2 pair"]:
    """Every edge in both directions."""
    sides = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]], axis=-1).reshape(-1, 2)
    edges = np.unique(sides, axis=0).T
    return np.concatenate([edges, edges[::-1]], axis=1)


def points_on_sphere(
    latitude: Float[np.ndarray, " lat"], longitude: Float[np.ndarray, " lon"]
) -> tuple[Float[np.ndarray, "point 3"], Float[np.ndarray, "point 3"], Float[np.ndarray, "point 3"]]:
    """Place of every grid point, row by row, and its directions east and north; angles in degrees."""
    lat, lon = (part.ravel() for part in np.meshgrid(np.deg2rad(latitude), np.deg2rad(longitude), indexing="ij"))
    return _frame(lat, lon)


def frames_of(nodes: Float[np.ndarray, "node 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nodes, and their directions east and north."""
    return _frame(np.arcsin(nodes[:, 2].clip(-1, 1)), np.arctan2(nodes[:, 1], nodes[:, 0]))


def _frame(lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    zero = np.zeros_like(lon)
    place = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    east = np.stack([-np.sin(lon), np.cos(lon), zero], axis=1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=1)
    return place, east, north


def within_reach(mesh: Mesh, points: Float[np.ndarray, "point 3"]) -> Int[np.ndarray, "2 pair"]:
    """Pairs (grid point, node) that lie nearer than `REACH` of the longest finest edge."""
    sides = mesh.nodes[mesh.faces] - mesh.nodes[np.roll(mesh.faces, 1, axis=1)]
    reach = REACH * np.linalg.norm(sides, axis=-1).max()
    return np.stack(np.nonzero(points @ mesh.nodes.T > 1 - reach**2 / 2))


def corners_around(mesh: Mesh, points: Float[np.ndarray, "point 3"]) -> Int[np.ndarray, "2 pair"]:
    """Pairs (node, grid point): the corners of the triangle in which each point lies."""
    shares = np.einsum("fij,pj->pfi", np.linalg.inv(mesh.nodes[mesh.faces].transpose(0, 2, 1)), points)
    face = shares.min(axis=2).argmax(axis=1)  # inside, all three shares are positive
    return np.stack([mesh.faces[face].ravel(), np.arange(len(points)).repeat(3)])


def offsets(
    pairs: Int[np.ndarray, "2 pair"],
    senders: Float[np.ndarray, "sender 3"],
    receivers: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Float[np.ndarray, "pair 4"]:
    """How far the sender lies up, east and north of the receiver, and its distance, in units of the longest distance."""
    away = senders[pairs[0]] - receivers[0][pairs[1]]
    parts = [(away * direction[pairs[1]]).sum(axis=1) for direction in receivers]
    length = np.linalg.norm(away, axis=1)
    return np.stack([*parts, length], axis=1) / length.max()
