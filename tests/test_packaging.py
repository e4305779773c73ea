"""What is shipped: a wheel made from the source distribution holds all that the packages read. Its kernels are stand-ins."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data_pipelines", "forecast", "solvers", "gpu", "configs")
COMPILER = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo compiled > "$2"
"""


@pytest.fixture(scope="module")
def tracked():
    """Paths of what the repository holds."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("needs a git checkout: it tells what belongs to the packages")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(tracked, tmp_path_factory):
    """The wheel that a source distribution of this tree makes."""
    folder = tmp_path_factory.mktemp("packaging")
    compiler = folder / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    tree = folder / "tree"
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)

    def build(where, target):
        command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
        variables = {"CXX": str(compiler), "PATH": os.environ["PATH"]}
        done = subprocess.run(command, cwd=where, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return next(folder.glob("*.tar.gz" if target == "sdist" else "*.whl"))

    with tarfile.open(build(tree, "sdist")) as sources:
        assert not [name for name in sources.getnames() if name.endswith(".so")]  # nothing is compiled for it
        sources.extractall(folder, filter="data")
    return zipfile.ZipFile(build(next(folder.glob("skysolve-*/")), "wheel"))


def test_a_wheel_holds_all_of_the_packages_and_nothing_else(wheel, tracked):
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {name for name in tracked if name.split("/")[0] in PACKAGES and not name.endswith(".gitignore")}
    libraries = {f"gpu/lib{family}.so" for family in ("log_bessel", "poisson", "spherical_depthwise")}
    assert shipped == expected | libraries
    assert all(wheel.read(name) == b"compiled\n" for name in libraries)


def test_a_wheel_tells_which_machines_it_is_for_and_its_licence(wheel):
    metadata = next(name for name in wheel.namelist() if name.endswith("/WHEEL"))
    described = wheel.read(metadata).decode()
    assert "Root-Is-Purelib: false" in described
    assert "Tag: py3-none-linux_" in described or not sys.platform.startswith("linux")
    licence = next(name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
