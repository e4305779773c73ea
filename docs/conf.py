"""The documentation site: `make docs`. Tutorials are the notebooks, the reference is made from docstrings, module by module."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PACKAGES = ("data_pipelines", "forecast", "solvers", "gpu")

project = "skysolve"
author = "The skysolve developers"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
html_theme = "pydata_sphinx_theme"
html_title = "skysolve"
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2, "secondary_sidebar_items": ["page-toc"]}
html_show_sourcelink = False
exclude_patterns = ["_build"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "auto"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
default_role = "code"
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)]+)\)")


def modules_of(package: str) -> list[str]:
    """A package and all of its modules that are public."""
    path = [str(ROOT / package)]
    found = [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
    return [package, *(name for name in found if not any(part.startswith("_") for part in name.split(".")))]


def write_reference() -> None:
    """One page for each package, with every public module that says what it is."""
    folder = DOCS / "reference"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for package in PACKAGES:
        parts = [f"# {package}\n"]
        for name in modules_of(package):
            importlib.import_module(name)
            options = "   :no-members:\n" if name in PACKAGES else "   :members:\n"
            parts.append(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n{options}```\n")
        (folder / f"{package}.md").write_text("\n".join(parts))


def copy_tutorials() -> None:
    """The notebooks, where Sphinx looks for pages; links among them and to pages follow."""
    folder = DOCS / "tutorials"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        (folder / path.name).write_text(path.read_text().replace("](../docs/", "](../"))


def without_links_out(app: Any, page: str, source: list[str]) -> None:
    """Files outside of the site are named, not linked."""
    if not page.startswith("tutorials/"):
        source[0] = OUTSIDE.sub(r"\1", source[0])


def markdown_to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Tables of docstrings are Markdown's; RST reads their rows as they stand when they are literal."""
    rows = [number for number, line in enumerate(lines) if line.lstrip().startswith("|")]
    for number in reversed(rows):
        indent = " " * (len(lines[number]) - len(lines[number].lstrip()))
        if number - 1 not in rows:
            lines[number : number + 1] = [f"{indent}::", "", f"{indent}    {lines[number].lstrip()}"]
        else:
            lines[number] = f"{indent}    {lines[number].lstrip()}"


write_reference()
copy_tutorials()


def setup(app: Any) -> None:
    """Connect what is above."""
    app.connect("source-read", without_links_out)
    app.connect("autodoc-process-docstring", markdown_to_rst, priority=400)
