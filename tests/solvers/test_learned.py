"""The learned coarse levels: one cycle in C++ and torch, definite whatever the weights are, fewer iterations."""

import numpy as np
import pytest
import torch

from benchmarks.poisson_scenes import SCENES, right_hand_sides
from solvers import FLUID, SOLID, PoissonProblem, preconditioner, solve, solve_with_info
from solvers.learning import scenes
from solvers.learning.coarsening import Coarsening
from solvers.learning.config import TrainConfig
from solvers.learning.cycle import build_levels, cycle
from solvers.learning.objective import OBJECTIVES
from solvers.learning.reduction import digits_per_iteration
from solvers.learning.scenes import LEAST_FLUID, random_problem, random_right_hand_side
from solvers.preconditioners.learned import Learned
from solvers.preconditioners.multigrid import Multigrid, with_halo
from solvers.weights import SHIPPED, WeightsError, load_weights, save_weights
from tests.solvers import geometries


def drawn_problem(seed):
    return random_problem(np.random.default_rng(seed))


def scene(name, n):
    cells, boundary = SCENES[name](n)
    return PoissonProblem(cells, boundary=boundary)


PROBLEMS = {
    "sphere": lambda: scene("sphere", 24),
    "tank": lambda: scene("tank", 22),
    "channels": lambda: scene("channels", 20),
    "odd sides": lambda: drawn_problem(2),
    "plates": lambda: drawn_problem(4),
    "flat": lambda: PoissonProblem(np.zeros((3, 30, 17), np.uint8), boundary="dirichlet"),
}


@pytest.fixture
def wild(tmp_path):
    """Weights that no training would give, and their network."""
    torch.manual_seed(3)
    network = Coarsening()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    save_weights(tmp_path, "learned", {}, {name: value.numpy() for name, value in network.state_dict().items()}, {})
    return tmp_path, network


def in_torch(problem, levels, r):
    with torch.no_grad():
        return cycle(levels, torch.from_numpy(problem.to_grid(r)).float()[None])[0].numpy()


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_cycle_in_torch_is_that_of_the_kernels(name):
    """To float32's rounding, times what a bottom that is nearly singular makes of it."""
    problem = PROBLEMS[name]()
    r = np.random.default_rng(0).standard_normal(problem.n)
    want = problem.to_grid(Multigrid(problem, {"over_fine": 1.1, "over_coarse": 1.2}) @ r)
    got = in_torch(problem, build_levels(torch.from_numpy(with_halo(problem)), 1.1, 1.2), r)
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_learned_cycle_in_torch_is_that_of_the_kernels(name, wild):
    problem = PROBLEMS[name]()
    folder, network = wild
    r = np.random.default_rng(0).standard_normal(problem.n)
    want = problem.to_grid(Learned(problem, folder) @ r)
    with torch.no_grad():
        levels = network.levels(torch.from_numpy(with_halo(problem)))
    np.testing.assert_allclose(in_torch(problem, levels, r), want, atol=2e-4 * np.abs(want).max())
    classical = problem.to_grid(Multigrid(problem) @ r)
    assert np.abs(want - classical).max() > 0.01 * np.abs(classical).max()


@pytest.mark.parametrize("boundary", geometries.BOUNDARIES)
@pytest.mark.parametrize("shape", [(13, 16, 11), (16, 16, 16)])
def test_symmetric_and_positive_definite_whatever_the_weights_are(wild, boundary, shape):
    problem = geometries.random_problem(2, shape, boundary)
    M = Learned(problem, wild[0])
    for seed in range(3):
        u, v = np.random.default_rng(seed).standard_normal((2, problem.n))
        Mu, Mv = M @ u, M @ v
        assert abs(v @ Mu - u @ Mv) < 2e-5 * np.linalg.norm(u) * np.linalg.norm(Mv)
        assert u @ Mu > 0


def test_even_wild_weights_end_in_a_solution(wild):
    problem = scene("blobs", 24)
    rhs = right_hand_sides(24)["random"]
    p, (info,) = solve_with_info(problem, rhs, M=Learned(problem, wild[0]))
    assert info.converged
    assert geometries.residual(problem, p, rhs) < 1.01e-6


def test_shipped_weights_save_iterations_on_scenes_and_sizes_that_training_never_saw():
    """At 48 cells a side, where training saw at most 32: a seventh fewer over all scenes, never one more."""
    total = {"learned": 0, "multigrid": 0}
    for name in SCENES:
        problem, rhs = scene(name, 48), right_hand_sides(48)["smooth"]
        found = {}
        for kind in total:
            _, (info,) = solve_with_info(problem, rhs, M=kind)
            assert info.converged
            found[kind] = info.iterations
            total[kind] += info.iterations
        assert found["learned"] <= found["multigrid"], name
    assert total["learned"] <= 6 / 7 * total["multigrid"]


def test_faces_that_differ_and_two_dimensions_take_the_discretisation():
    for problem in (geometries.random_problem(1, faces=True), geometries.random_problem(1, (19, 23), boundary="dirichlet")):
        M = Learned(problem)
        over = {"over_fine": M.hierarchy.settings.over_fine, "over_coarse": M.hierarchy.settings.over_coarse}
        r = np.random.default_rng(0).standard_normal(problem.n)
        np.testing.assert_array_equal(M @ r, Multigrid(problem, over) @ r)


def test_digits_are_those_of_the_error():
    """A grid of up to 64 cells is solved exactly by a cycle: float32's digits in one iteration. One more adds digits."""
    problem = PoissonProblem(np.zeros((4, 4, 4), np.uint8), boundary="dirichlet")
    rhs = np.random.default_rng(0).standard_normal((2, 4, 4, 4))
    solution = torch.from_numpy(solve(problem, rhs, rtol=1e-12))
    levels = build_levels(torch.from_numpy(with_halo(problem)))
    assert digits_per_iteration(levels, torch.from_numpy(rhs), solution, 1) > 5
    problem = drawn_problem(0)
    rhs = random_right_hand_side(np.random.default_rng(0), problem)[None]
    solution, levels = torch.from_numpy(solve(problem, rhs, rtol=1e-10)), build_levels(torch.from_numpy(with_halo(problem)))
    digits = [float(digits_per_iteration(levels, torch.from_numpy(rhs), solution, k)) * k for k in (1, 2, 3)]
    assert digits[0] < digits[1] < digits[2]


def test_every_weight_has_a_gradient_and_it_is_that_of_finite_differences():
    torch.manual_seed(0)
    network, problem = Coarsening(), drawn_problem(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    rhs = random_right_hand_side(np.random.default_rng(0), problem)[None]
    solution, halo = torch.from_numpy(solve(problem, rhs, rtol=1e-9)), torch.from_numpy(with_halo(problem))

    def loss():
        return digits_per_iteration(network.levels(halo), torch.from_numpy(rhs), solution, 2)

    loss().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    for parameter in (network.over, network.face[2].bias, network.side[2].bias):
        step, values = 1e-2, []
        for sign in (1, -1, -1):
            with torch.no_grad():
                parameter[0] += sign * step
            values.append(float(loss().detach()))
        with torch.no_grad():
            parameter[0] += step
        assert (values[0] - values[2]) / (2 * step) == pytest.approx(float(parameter.grad[0]), rel=0.05, abs=2e-4)


def test_random_geometries_differ_and_are_held_by_dirichlet_values():
    problems = [drawn_problem(seed) for seed in range(12)]
    assert len({problem.cells.tobytes() for problem in problems}) == 12
    for seed, problem in enumerate(problems):
        assert problem.pools.number == 0
        assert (problem.cells == FLUID).sum() >= LEAST_FLUID
        rhs = random_right_hand_side(np.random.default_rng(seed), problem)
        assert np.linalg.norm(rhs) == pytest.approx(1)
        assert not rhs[~problem.fluid].any()


def test_weights_of_other_shapes_are_refused(tmp_path):
    problem = geometries.random_problem(1, boundary="dirichlet")
    _, weights, training = load_weights(SHIPPED / "learned", "learned")
    save_weights(tmp_path, "learned", {}, weights | {"over": np.zeros(3)}, training)
    with pytest.raises(WeightsError, match="must have the shapes"):
        Learned(problem, tmp_path)


def test_a_cupy_problem_is_refused():
    problem = geometries.random_problem(0)
    problem.library = "cupy"
    with pytest.raises(TypeError, match="got CuPy"):
        preconditioner(problem, "learned")


def test_digits_are_those_of_one_step_by_the_matrix():
    problem = PoissonProblem(np.zeros((12, 11, 10), np.uint8), boundary="dirichlet")
    rhs = random_right_hand_side(np.random.default_rng(0), problem)[None]
    solution, levels = torch.from_numpy(solve(problem, rhs, rtol=1e-10)), build_levels(torch.from_numpy(with_halo(problem)))
    A, b = problem.matrix(), problem.to_vector(rhs[0])
    z = problem.to_vector(cycle(levels, torch.from_numpy(rhs).float())[0].double().numpy())
    exact = problem.to_vector(solution[0].numpy())
    error = exact - (b @ z) / (z @ (A @ z)) * z
    wanted = 0.5 * np.log10((exact @ b) / (error @ (A @ error)))
    assert float(digits_per_iteration(levels, torch.from_numpy(rhs), solution, 1)) == pytest.approx(wanted, rel=1e-4)


def test_the_loss_of_coarse_levels_falls_with_the_digits_that_they_gain():
    """The discretisation's, which training begins with, gain about one digit in each iteration."""
    loss = OBJECTIVES["learned"](TrainConfig("learned", "out", cells=16, batch=1)).loss(np.random.default_rng(0))
    assert -2 < float(loss.detach()) < -0.5


def test_the_first_pool_that_nothing_holds_becomes_solid_too():
    """Seeds whose first drawing has one; the twelve above have none."""
    for seed in (48, 61, 70):
        assert scenes.random_problem(np.random.default_rng(seed), (10, 12)).pools.number == 0


def test_plates_have_holes():
    """One that crosses another may cover its hole, which is rare."""
    closed = 0
    for seed in range(30):
        cells = np.full((12, 13, 14), FLUID, np.uint8)
        scenes._plates(np.random.default_rng(seed), cells)
        closed += any((cells == SOLID).all(axes).any() for axes in ((0, 1), (0, 2), (1, 2)))
    assert closed <= 10
