"""`python -m solvers.solve` and `python -m solvers.train`: what they store, what they say, what they refuse."""

import json
import sys

import numpy as np
import pytest

import solvers
import solvers.solve
import solvers.train
from solvers import PoissonProblem, solve_with_info
from solvers.job import SolveConfig, UnsolvedError, solve_stored
from solvers.learning.curve import SMOOTHING, draw_curve
from solvers.stored_problem import load_problem, save_problem
from tests.solvers.geometries import random_problem, residual


@pytest.fixture
def run(monkeypatch, capsys):
    def run(main, *arguments):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
        said = capsys.readouterr()
        return said.out, said.err, code

    return run


def test_solve_stores_solution_and_history(run, tmp_path):
    problem = random_problem(3, boundary="tank")
    rhs = np.random.default_rng(0).standard_normal((2, *problem.shape))
    path = tmp_path / "splash.npz"
    save_problem(path, problem, rhs)
    out, err, code = run(solvers.solve.main, f"problem={path}", "rtol=1e-8")
    assert (err, code) == ("", 0)
    assert out.startswith(f"Solved {problem.n} unknowns in ")
    assert out.rstrip().endswith("splash.solution.npz.")
    with np.load(tmp_path / "splash.solution.npz") as found:
        assert found["converged"].all()
        for number, right in enumerate(rhs):
            assert residual(problem, found["solution"][number], right) < 1.01e-8
            history = found[f"history_{number}"]
            assert history.size == found["iterations"][number] + 1
            assert history[-1] < 1e-7 * history[0]


@pytest.mark.parametrize("faces", [False, True])
@pytest.mark.parametrize("shape", [(5, 6, 7), (8, 9)])
def test_a_stored_problem_is_the_same_problem(tmp_path, shape, faces):
    problem = random_problem(5, shape, "mixed", faces)
    save_problem(tmp_path / "a.npz", problem, np.ones(shape))
    again, rhs = load_problem(tmp_path / "a.npz")
    assert (again.spacing, again.sides) == (problem.spacing, problem.sides)
    np.testing.assert_array_equal(again.matrix().toarray(), problem.matrix().toarray())
    np.testing.assert_array_equal(rhs, np.ones(shape))


def test_what_was_not_solved_is_stored_and_told(tmp_path):
    problem = random_problem(3, boundary="dirichlet")
    save_problem(tmp_path / "a.npz", problem, np.random.default_rng(0).standard_normal(problem.shape))
    config = SolveConfig(str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), kind="jacobi", maxiter=2)
    with pytest.raises(UnsolvedError, match="1 of 1 not solved: maxiter"):
        solve_stored(config)
    with np.load(tmp_path / "b.npz") as found:
        assert not found["converged"].any()
        assert found["solution"].any()


GOOD = {
    "cells": np.zeros((3, 4), np.uint8),
    "rhs": np.ones((3, 4)),
    "spacing": np.ones(2),
    "boundary": np.array([["dirichlet", "dirichlet"]] * 2),
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rhs": None}, r"missing: \['rhs'\]"),
        ({"extra": np.ones(1)}, r"unknown: \['extra'\]"),
        ({"fraction_0": np.ones((4, 4))}, r"missing: \['fractions'\]"),
        ({"cells": np.array([{}], dtype=object)}, "is no .npz file of plain arrays"),
        ({"boundary": np.array([["open", "open"]] * 2)}, "boundary"),
    ],
)
def test_a_file_that_makes_no_problem_is_refused(tmp_path, changes, said):
    arrays = {name: value for name, value in (GOOD | changes).items() if value is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        load_problem(tmp_path / "a.npz")


def test_a_file_that_is_none_is_refused(run, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 no archive")
    out, err, code = run(solvers.solve.main, f"problem={tmp_path / 'a.npz'}")
    assert (out, code) == ("", 2)
    assert "is no .npz file of plain arrays" in err
    assert err.count("\n") == 1
    assert run(solvers.solve.main, f"problem={tmp_path / 'none.npz'}")[2] == 2


def test_the_module_solve_can_be_called_like_the_function_that_it_hides():
    problem = PoissonProblem(np.zeros((3, 4), np.uint8), boundary="dirichlet")
    np.testing.assert_array_equal(solvers.solve(problem, np.ones((3, 4))), solvers.solution.solve(problem, np.ones((3, 4))))


@pytest.mark.parametrize("kind", ["dcdm", "learned"])
def test_train_leaves_weights_a_log_and_a_picture(run, tmp_path, kind):
    out, err, code = run(solvers.train.main, f"kind={kind}", f"out={tmp_path}", "steps=2", "cells=12", "batch=1")
    assert (code, err) == (0, "")
    assert out == f"Trained {kind} for 2 steps; weights, log and curve in {tmp_path}.\n"
    assert {path.name for path in tmp_path.iterdir()} == {"weights.safetensors", "weights.json", "log.jsonl", "curve.png"}
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_solve_takes_the_kind_that_it_is_told(tmp_path):
    problem = random_problem(3, boundary="dirichlet")
    rhs = np.random.default_rng(0).standard_normal(problem.shape)
    save_problem(tmp_path / "a.npz", problem, rhs)
    solve_stored(SolveConfig(str(tmp_path / "a.npz"), kind="jacobi"))
    _, (info,) = solve_with_info(problem, rhs, M="jacobi")
    with np.load(tmp_path / "a.solution.npz") as found:
        assert found["iterations"] == [info.iterations]
        left = rhs - problem.apply(found["solution"])
        assert found["residual_norm"] == pytest.approx(np.linalg.norm(left[problem.fluid]), rel=1e-6)


def test_a_curve_has_a_point_for_each_step_and_a_mean_where_there_are_enough(tmp_path):
    for steps in (1, SMOOTHING, SMOOTHING + 1, 3 * SMOOTHING):
        log = "".join(json.dumps({"step": step + 1, "loss": 1 / (step + 1)}) + "\n" for step in range(steps))
        (tmp_path / "log.jsonl").write_text(log)
        draw_curve(tmp_path / "log.jsonl", tmp_path / "curve.png")
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
