"""The house: light imports, one version, what the wheel holds, nothing of a machine or a person in it."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data_pipelines", "forecast", "solvers", "gpu", "configs")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = ("torch", "cupy", "cartopy", "dask", "matplotlib", "xarray", "zarr", "hydra")


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts():
    for path in tracked():
        try:
            yield path, path.read_text()
        except UnicodeDecodeError:
            continue


def loaded_by(statement):
    program = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_top_packages_load_nothing_heavy():
    assert not loaded_by("import data_pipelines, forecast, solvers, gpu, configs") & set(HEAVY)


def test_the_check_for_heavy_imports_can_fail():
    assert "zarr" in loaded_by("import data_pipelines.store")


def test_stores_and_scores_need_no_torch():
    assert "torch" not in loaded_by("import data_pipelines.store, forecast.forecast_store")


def test_version_is_said_once_and_everywhere_the_same():
    declared = PROJECT["project"]["version"]
    assert version("skysolve") == declared
    assert f"version: {declared}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {declared}" in (ROOT / "CHANGELOG.md").read_text()


def test_extras_are_choices_of_run_time_only():
    extras = {"gpu-cuda12", "gpu-cuda13", "cluster", "grib", "simulation", "waves", "geometry", "mixture", "cloud", "notebooks"}
    assert set(PROJECT["project"]["optional-dependencies"]) == extras
    assert set(PROJECT["dependency-groups"]) == {"test", "docs", "dev"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed_and_says_what_it_is(package):
    assert (ROOT / package / "py.typed").exists()
    assert package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    done = subprocess.run(
        [sys.executable, "-c", f"import {package}; print({package}.__doc__)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout) > 40


# Paths, hosts and keys of one machine or one person. Spelled in pieces, so that this file does not find itself.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:wo" + r"rk|ho" + r"me|ro" + r"ot|Us" + r"ers)/\w",
    "a registry host": r"pypi" + r"\.org|pythonhosted" + r"\.org|download\.pytorch" + r"\.org",
    "a private key": "BEGIN [A-Z ]*PRIVATE" + " KEY",
    "a token": r"\b(?:ghp_|hf_|AKIA)" + r"[A-Za-z0-9]{16,}",
    "work that is not done": r"\b(?:TO" + "DO|FIX" + r"ME)\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what):
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "example"),
    [
        ("a path of one machine", "open('/ho" + "me/anyone/data')"),
        ("a registry host", "https://pypi" + ".org/simple"),
        ("work that is not done", "# TO" + "DO later"),
        ("a token", "hf_" + "a" * 20),
        ("a private key", "-----BEGIN RSA PRIVATE" + " KEY"),
    ],
)
def test_the_search_finds_what_it_looks_for(what, example):
    assert re.search(FORBIDDEN[what], example)


def test_what_is_large_is_the_sample_or_weights():
    large = [path for path in tracked() if path.stat().st_size > 3e6]
    assert [path for path in large if not re.search(r"/(sample|shipped|natural_earth|golden)/", str(path))] == []


def test_sample_is_at_most_25_megabytes():
    sample = [path for path in tracked() if "/sample/" in str(path)]
    assert 0 < sum(path.stat().st_size for path in sample) < 25e6


def test_library_code_prints_nothing():
    for package in ("data_pipelines", "forecast", "solvers", "gpu"):
        for path in (ROOT / package).rglob("*.py"):
            assert not re.search(r"^\s*(print|sys\.path)\b", path.read_text(), re.MULTILINE), path


def test_makefile_has_two_commands_for_a_newcomer():
    help_text = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make (\w+)", help_text, re.MULTILINE) == ["forecast", "test"]
    readme = (ROOT / "README.md").read_text()
    first_screen = readme[:1500]
    assert all(command in first_screen for command in ("git clone", "make forecast", "make test"))


@pytest.fixture
def bare_machine(tmp_path):
    """A folder with the Makefile, and a PATH on which only what a test puts there is found."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "hatch_build.py"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()

    def make(command, **scripts):
        for name, script in scripts.items():
            (tools / name).write_text(f"#!/bin/bash\n{script}\n")
            (tools / name).chmod(0o755)
        program = shutil.which("make")
        return subprocess.run(
            [program, "-s", command], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True, check=False
        )

    return make


OLD = "exit 1"  # whatever it is asked, also whether it is 3.11 or newer
WITHOUT_VENV = '[[ "$*" == *version_info* ]]'


@pytest.mark.parametrize("command", ["forecast", "test"])
@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, "make: Python 3.11 or newer is missing. Install it (sudo apt-get install python3 python3-venv) or set PYTHON=."),
        ({"python3": OLD}, "make: Python 3.11 or newer is missing."),
        ({"python3": OLD, "python3.12": "exit 0"}, "make: a C++ compiler is missing. Install it: sudo apt-get install g++"),
        (
            {"python3": WITHOUT_VENV, "c++": "exit 0"},
            "make: Python's module venv is missing. Install it: sudo apt-get install python3-venv",
        ),
    ],
    ids=["no python", "old python", "no compiler", "no venv"],
)
def test_make_says_in_one_line_what_is_missing(bare_machine, command, there, said):
    done = bare_machine(command, **there)
    assert done.stderr.splitlines()[0].startswith(said)
    assert len(done.stderr.splitlines()) == 2  # the second is make's own: *** Error 1
    assert done.returncode != 0
