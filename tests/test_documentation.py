"""Code in README.md and docs/*.md runs, in order, as a reader would run it; what does not run says why.

The blocks of a page share a folder and a Python namespace: a page is a session. `outputs/forecast/analysis.zarr` is there,
as `make forecast` leaves it. A block that cannot run here has a comment on the line before it: `<!-- not run: REASON -->`, with
a reason of `REASONS`. Lines that install extras are not run; that their extras exist is checked.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import pytest
import yaml

from data_pipelines.build import build_analysis_store
from data_pipelines.sample import SAMPLE_ATTRIBUTES, sample_sources

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REASONS = ("needs a cluster", "needs a network connection", "needs several GPUs", "needs your own data", "takes long")
MOST_NOT_RUN = 16
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w{}-]*)\s*$")  # {name} is a directive of the site, no code
MARK = re.compile(r"^ *<!-- not run: (?P<reason>.*?) -->\s*$")
EXTRAS = re.compile(r"pip install '?\.\[(?P<names>[\w,-]+)\]")
INSTALLS = re.compile(r"^\s*pip install ")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str) -> list[Block]:
    """Fenced blocks, in order; raises if one is not closed."""
    found, lines, number = [], text.splitlines(), 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if not opening:
            number += 1
            continue
        closing = next((k for k in range(number + 1, len(lines)) if lines[k].strip() == "```"), None)
        if closing is None:
            raise AssertionError(f"{page}:{number + 1}: the block is not closed.")
        indent = len(opening["indent"])
        mark = MARK.match(lines[number - 1]) if number else None
        body = "\n".join(line[indent:] for line in lines[number + 1 : closing]) + "\n"
        if not opening["language"].startswith("{"):
            found.append(Block(page, number + 1, opening["language"], body, mark and mark["reason"]))
        number = closing + 1
    return found


ALL = {str(page.relative_to(ROOT)): blocks_of(page.read_text(), str(page.relative_to(ROOT))) for page in PAGES}


@pytest.fixture(scope="session")
def analysis(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample") / "analysis.zarr"
    build_analysis_store(sample_sources(), path)
    from data_pipelines.store import set_attributes

    set_attributes(path, SAMPLE_ATTRIBUTES)
    return path


def run_python(block: Block, namespace: dict) -> None:
    exec(compile("\n" * block.line + block.text, ROOT / block.page, "exec"), namespace)


def run_shell(block: Block, folder: Path) -> None:
    lines = [line for line in block.text.splitlines() if not INSTALLS.match(line)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    script = "set -euo pipefail\n" + "\n".join(lines)
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block.place} ended with {done.returncode}:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.parametrize("page", [page for page, blocks in ALL.items() if any(block.reason is None for block in blocks)])
def test_the_code_of_a_page_runs(page, analysis, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mpl.rcParams, "backend", "agg", raising=False)
    (tmp_path / "outputs" / "forecast").mkdir(parents=True)
    (tmp_path / "outputs" / "forecast" / "analysis.zarr").symlink_to(analysis)
    namespace = {"__name__": "__main__"}
    for block in ALL[page]:
        if block.reason is None and block.language == "python":
            run_python(block, namespace)
        elif block.reason is None and block.language == "sh":
            run_shell(block, tmp_path)
        elif block.language == "yaml":
            yaml.safe_load(block.text)


@pytest.mark.parametrize("page", ALL)
def test_every_block_says_its_language(page):
    assert [block.place for block in ALL[page] if block.language not in ("python", "sh", "yaml", "text")] == []


def test_what_is_not_run_has_one_of_a_few_reasons_and_is_little():
    marked = [block for blocks in ALL.values() for block in blocks if block.reason is not None]
    assert [f"{block.place}: {block.reason}" for block in marked if block.reason not in REASONS] == []
    assert len(marked) <= MOST_NOT_RUN
    marks = sum(bool(MARK.match(line)) for page in PAGES for line in page.read_text().splitlines())
    assert marks == len(marked), "a mark stands before no block"


def test_code_that_is_not_run_is_code():
    """It compiles as Python, or the shell reads it."""
    for blocks in ALL.values():
        for block in blocks:
            if block.language == "python":
                compile(block.text, block.place, "exec")
            elif block.language == "sh":
                done = subprocess.run(["bash", "-n", "-c", block.text.replace("<this repository>", "URL")], check=False)
                assert done.returncode == 0, block.place


def test_extras_that_pages_install_exist():
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for page in PAGES:
        for found in EXTRAS.finditer(page.read_text()):
            assert set(found["names"].split(",")) <= known, f"{page.name}: {found[0]}"


def test_readme_lists_every_extra():
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    listed = re.search(r"\(extras: (.*?)\)", (ROOT / "README.md").read_text(), re.DOTALL)
    assert set(re.findall(r"`([\w-]+)`", listed[1])) == known


LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)|!\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    targets = [first or second for first, second in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))]
    absent = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert absent == []


HOW_TO = ("score_a_forecast", "add_a_variable", "train_on_your_era5", "own_network", "cluster", "poisson", "fit_a_mixture")


@pytest.mark.parametrize("page", HOW_TO)
def test_readme_leads_to_each_how_to(page):
    assert f"](docs/{page}.md)" in (ROOT / "README.md").read_text()


def test_the_site_builds_without_a_warning(tmp_path):
    # notebooks are executed by test_notebooks.py
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-q", "-D", "nb_execution_mode=off"]
    built = subprocess.run([*command, str(ROOT / "docs"), str(tmp_path)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in ("index", *HOW_TO, "reference/forecast", "tutorials/01_data_and_audit"):
        assert (tmp_path / f"{page}.html").exists()


def test_the_collector_sees_blocks_marks_and_their_places():
    page = "a\n<!-- not run: takes long -->\n```sh\nx\n```\n\n  ```python\n  if 1:\n      y\n  ```\n"
    first, second = blocks_of(page, "p.md")
    assert (first.language, first.text, first.reason, first.place) == ("sh", "x\n", "takes long", "p.md:3")
    assert (second.text, second.reason) == ("if 1:\n    y\n", None)
    with pytest.raises(AssertionError, match=r"p.md:1: the block is not closed"):
        blocks_of("```python\n", "p.md")


def test_a_block_that_fails_is_named(tmp_path):
    with pytest.raises(AssertionError, match=r"p.md:7 ended with 3"):
        run_shell(Block("p.md", 7, "sh", "exit 3\n", None), tmp_path)
    with pytest.raises(ZeroDivisionError) as caught:
        run_python(Block("README.md", 7, "python", "1 / 0\n", None), {})
    assert caught.traceback[-1].lineno == 7
