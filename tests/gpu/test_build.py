"""The build hook: what it says when something is missing, and that it names what it built."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hook():
    """hatch_build.py as a module."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_missing_compiler_is_one_line(hook, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit) as stopped:
        hook.find_compiler()
    assert str(stopped.value).startswith("skysolve: a C++17 compiler is missing")
    assert "sudo apt-get install g++" in str(stopped.value)
    assert "\n" not in str(stopped.value)
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(hook.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="a C\\+\\+17 compiler is missing"):
        hook.find_compiler()


def test_a_failed_compilation_shows_what_the_compiler_said(hook, tmp_path):
    (tmp_path / "broken.cpp").write_text("int main( {")
    with pytest.raises(SystemExit, match="compiling the kernels failed: .*broken.cpp(.|\n)*error"):
        hook.run([*hook.find_compiler(), "-c", str(tmp_path / "broken.cpp"), "-o", str(tmp_path / "broken.o")])


def test_every_family_has_its_sources_and_its_library(hook):
    for family in hook.FAMILIES:
        assert (ROOT / "gpu" / "cpu" / f"{family.name}_kernels.cpp").is_file()
        assert (ROOT / "gpu" / f"lib{family.name}.so").is_file()


def test_the_makefile_builds_again_when_a_source_changes():
    needs = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("NEEDS"))
    for source in ("gpu/cpu/*", "gpu/cuda/*.cuh", "hatch_build.py"):
        assert source in needs
