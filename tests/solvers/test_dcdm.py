"""The published network: its shape, what it is trained on, what it does in the published loop."""

import json
import os

import numpy as np
import pytest
import torch

from solvers import PoissonProblem, preconditioner, solve_with_info
from solvers.learning.config import TrainConfig
from solvers.learning.right_hand_sides import RitzMixtures
from solvers.learning.training import train
from solvers.preconditioners.dcdm import PublishedDirections
from solvers.published_network import PublishedNetwork, box_operator, line_search_loss
from solvers.weights import SHIPPED, WeightsError, load_weights, save_weights
from tests.solvers.geometries import random_problem, residual


@pytest.mark.parametrize(("size", "parameters", "radius"), [("from64", 97_457, 21), ("from128", 152_881, 33)])
def test_the_published_shapes(size, parameters, radius):
    """Counts of the authors' models; a cell sees as far as their convolutions reach, and not a cell further."""
    torch.manual_seed(0)
    network = PublishedNetwork(size)
    assert network.parameter_count() == parameters
    side = 2 * radius + 11
    grid = torch.zeros(1, 1, side, 2, 2, requires_grad=True)
    middle = side // 2
    network(grid)[0, 0, middle, 0, 0].backward()
    seen = grid.grad[0, 0].abs().sum((1, 2)).nonzero()[:, 0]
    assert radius <= max(middle - seen.min(), seen.max() - middle) <= radius + 1  # one more towards a pooled cell


def test_an_odd_grid_is_pooled_and_cropped():
    assert PublishedNetwork()(torch.zeros(2, 1, 7, 9, 8)).shape == (2, 1, 7, 9, 8)


def test_the_box_operator_is_that_of_the_problem():
    problem = PoissonProblem(np.zeros((5, 6, 7), np.uint8), boundary="dirichlet")
    grid = np.random.default_rng(0).standard_normal(problem.shape)
    got = box_operator(torch.from_numpy(grid)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(got, problem.apply(grid), atol=1e-13)


def test_the_loss_of_the_exact_direction_is_zero_and_any_step_counts_as_the_best_one():
    problem = PoissonProblem(np.zeros((5, 6, 7), np.uint8), boundary="dirichlet")
    rhs = np.random.default_rng(0).standard_normal((2, *problem.shape))
    exact = np.stack([problem.to_grid(preconditioner(problem, "fast-transform") @ b) for b in problem.to_vector(rhs)])
    rhs, exact = torch.from_numpy(rhs)[:, None], torch.from_numpy(exact)[:, None]
    assert line_search_loss(rhs, -7 * exact) < 1e-24
    other = torch.from_numpy(np.random.default_rng(1).standard_normal(exact.shape))
    left = line_search_loss(rhs, other)
    step = (other * rhs).sum((1, 2, 3, 4), True) / (other * box_operator(other)).sum((1, 2, 3, 4), True)
    for factor in (0.9, 1.1):  # the A-norm of the error is smallest at the step, so the energy is
        energy = [(0.5 * s * other * box_operator(s * other) - s * other * rhs).sum() for s in (step, factor * step)]
        assert energy[0] < energy[1]
    assert left == pytest.approx(float((rhs - step * box_operator(other)).square().sum() / 2), rel=1e-12)


def test_mixtures_put_their_energy_where_the_published_ones_do():
    """Lowest 55 % of the vectors with nine times the coefficient: 81 * 0.55 / (81 * 0.55 + 0.45) of the energy is theirs."""
    cells = 12
    mixtures = RitzMixtures(cells)
    drawn = mixtures.draw(np.random.default_rng(0), 50)
    np.testing.assert_allclose(np.linalg.norm(drawn.reshape(50, -1), axis=1), 1, rtol=1e-6)
    sine = np.sin(np.pi * np.outer(np.arange(1, cells + 1), np.arange(1, cells + 1)) / (cells + 1)) * np.sqrt(2 / (cells + 1))
    modes = np.einsum("bijk,il,jm,kn->blmn", drawn, sine, sine, sine)
    low = mixtures.strength[mixtures.bin] > 1
    share = (modes**2)[:, low].sum() / (modes**2).sum()
    assert share == pytest.approx(81 * 0.55 / (81 * 0.55 + 0.45), abs=0.01)
    line = 2 - 2 * np.cos(np.pi * np.arange(1, cells + 1) / (cells + 1))
    values = line[:, None, None] + line[:, None] + line
    assert values[low].max() <= values[~low].min()


def test_a_short_training_lowers_the_loss_and_goes_on_from_what_it_saved(tmp_path):
    """Along the residual itself a tenth is gained within a few steps; one step of Adam changes a weight by its rate at most."""
    common = {"kind": "dcdm", "cells": 8, "batch": 8, "learning_rate": 2e-3, "save_every": 15}
    train(TrainConfig(out=str(tmp_path / "first"), steps=30, **common))
    log = [json.loads(line)["loss"] for line in (tmp_path / "first" / "log.jsonl").read_text().splitlines()]
    assert len(log) == 30
    assert np.mean(log[-15:]) < 0.95 * np.mean(log[:2])
    train(TrainConfig(out=str(tmp_path / "second"), start=str(tmp_path / "first"), steps=1, **common))
    first, second = (load_weights(tmp_path / name, "dcdm")[1] for name in ("first", "second"))
    steps = [np.abs(second[name] - first[name]).max() for name in first]
    assert 0 < max(steps) < 1.01 * common["learning_rate"]
    _, _, training = load_weights(tmp_path / "second", "dcdm")
    assert [stage["steps"] for stage in training["stages"]] == [30, 1]
    with pytest.raises(ValueError, match=r"has settings \{'size': 'from64'\}"):
        train(TrainConfig(out=str(tmp_path / "third"), start=str(tmp_path / "first"), steps=1, network="from128", **common))


def test_shipped_directions_beat_the_identity_on_an_obstacle_that_training_never_saw():
    x, y, z = np.indices((16, 18, 17)) / 17
    cells = np.where((x - 0.45) ** 2 + (y - 0.5) ** 2 + (z - 0.4) ** 2 < 0.04, 1, 0).astype(np.uint8)
    problem = PoissonProblem(cells, boundary="dirichlet")
    rhs = np.exp(-20 * ((x - 0.3) ** 2 + (y - 0.6) ** 2 + (z - 0.7) ** 2))
    found = {}
    for kind in ("dcdm", None):
        M = preconditioner(problem, kind) if kind else np.eye(problem.n)
        p, (info,) = solve_with_info(problem, rhs, M=M, rtol=1e-4)
        assert info.converged
        assert residual(problem, p, rhs) < 1.01e-4
        found[kind] = info.iterations
    assert found["dcdm"] < 0.5 * found[None]


def test_a_proposal_scales_with_the_residual_and_is_nothing_for_none():
    problem = random_problem(1, boundary="dirichlet")
    M, r = preconditioner(problem, "dcdm"), np.random.default_rng(0).standard_normal(problem.n)
    np.testing.assert_allclose(M @ (5.0 * r), 5 * (M @ r), rtol=1e-4, atol=1e-6)
    assert not (M @ np.zeros(problem.n)).any()


def test_shipped_weights_are_small_and_say_how_they_came_about():
    for folder in SHIPPED.iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            _, weights, training = load_weights(folder, folder.name)
            assert training["stages"]
            assert sum(value.nbytes for value in weights.values()) < 2e6


def test_weights_that_do_not_fit_are_refused(tmp_path):
    problem = random_problem(1, boundary="dirichlet")
    settings, weights, training = load_weights(SHIPPED / "dcdm", "dcdm")
    save_weights(tmp_path / "other", "dcdm", {"size": "from128"}, weights, training)
    with pytest.raises(WeightsError, match="do not fit a network of size from128"):
        PublishedDirections(problem, tmp_path / "other")
    with pytest.raises(WeightsError, match="of kind 'dcdm'; wanted 'learned'"):
        load_weights(tmp_path / "other", "learned")
    with pytest.raises(WeightsError, match=r"weight last\.bias is not finite"):
        save_weights(tmp_path / "bad", "dcdm", settings, weights | {"last.bias": np.full(1, np.nan)}, training)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "weights.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "weights.json").write_text("{"), "are damaged"),
        (lambda folder: (folder / "weights.json").write_text("[]"), "must be an object of the keys"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"\x80\x04K\x01." + bytes(20)), "are damaged"),
        (lambda folder: os.truncate(folder / "weights.safetensors", 1000), "are damaged"),
        (lambda folder: flip_last_byte(folder / "weights.safetensors"), "SHA-256 differs"),
        (lambda folder: os.truncate(folder / "weights.safetensors", 65_000_000), "has over 64000000 bytes"),
    ],
)
def test_damaged_weights_are_refused_by_name(tmp_path, harm, said):
    for file in (SHIPPED / "dcdm").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    load_weights(tmp_path, "dcdm")
    harm(tmp_path)
    with pytest.raises(WeightsError, match=said):
        load_weights(tmp_path, "dcdm")


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PublishedNetwork("from32"), ValueError, "size must be one of"),
        (lambda: RitzMixtures(1), ValueError, "cells must be at least 2"),
        (lambda: preconditioner(random_problem(0, (5, 6)), "dcdm"), ValueError, "in three dimensions"),
        (lambda: TrainConfig("magic", "out"), ValueError, "kind must be one of"),
        (lambda: TrainConfig("dcdm", "out", steps=0), ValueError, "steps must be at least 1"),
        (lambda: TrainConfig("dcdm", "out", learning_rate=1.0), ValueError, "learning_rate must lie in"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_cupy_problem_is_refused():
    problem = random_problem(0, boundary="dirichlet")
    problem.library = "cupy"
    with pytest.raises(TypeError, match="got CuPy"):
        preconditioner(problem, "dcdm")


def test_a_training_that_goes_on_draws_other_samples_and_ends_with_a_twentieth_of_the_rate(tmp_path):
    common = {"kind": "dcdm", "cells": 8, "batch": 2, "steps": 1, "learning_rate": 1e-4}
    train(TrainConfig(out=str(tmp_path / "first"), **common))
    train(TrainConfig(out=str(tmp_path / "second"), start=str(tmp_path / "first"), **common))
    losses = [json.loads((tmp_path / name / "log.jsonl").read_text())["loss"] for name in ("first", "second")]
    assert abs(losses[1] / losses[0] - 1) > 1e-2
    first, second = (load_weights(tmp_path / name, "dcdm")[1] for name in ("first", "second"))
    assert max(np.abs(second[name] - first[name]).max() for name in first) == pytest.approx(0.05e-4, rel=0.02)
