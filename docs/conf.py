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
html_theme_options = {
    "navigation_with_keys": False,
    "navbar_center": [],
    "show_toc_level": 1,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
}
html_sidebars = {"**": ["globaltoc.html"], "index": []}
html_show_sourcelink = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
exclude_patterns = ["_build", "*.py"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "auto"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
default_role = "code"
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)]+|\w+\.py)\)")


def modules_of(package: str) -> list[str]:
    """A package and all of its modules that are public."""
    found = pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
    names = [module.name for module in found if is_python(module.name)]
    return [package, *(name for name in names if not any(part.startswith("_") for part in name.split(".")))]


def is_python(name: str) -> bool:
    """Whether a module has a source; the compiled libraries beside them are no modules."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


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
    """Docstrings are plain text with Markdown's code, tables and indented blocks; in RST stars and bars are commands."""
    read, literal, table = list(lines), False, False
    lines.clear()
    for number, line in enumerate(read):
        text = line.lstrip()
        indent = line[: len(line) - len(text)]
        starts = number == 0 or not read[number - 1].strip()
        row = text.startswith("|") and text.endswith("|")
        block = what == "module" and bool(indent) and (literal or starts) and not text.startswith(">>>")
        if row and not table:
            lines.extend(["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""])
        if block and not literal:
            lines.extend(["::", ""])
        if row:
            lines.extend(cells(indent, text))
        else:
            lines.append(line if block or text.startswith(">>>") else escaped(line))
        table, literal = row, block or (literal and not text)


def cells(indent: str, row: str) -> list[str]:
    """A row of a Markdown table as one of a list-table; the line under the head is none."""
    found = [escaped(cell.strip()) for cell in row.strip().strip("|").split("|")]
    if all(set(cell) <= {"-", ":"} for cell in found):
        return []
    return [f"{indent}   {'* -' if number == 0 else '  -'} {cell}" for number, cell in enumerate(found)]


def escaped(line: str) -> str:
    """A line of prose in RST: stars and bars stand for themselves, code spans may be followed by anything."""
    parts = re.split(r"(`[^`]*`)", line)
    prose = [re.sub(r"([*|])", r"\\\1", part) for part in parts[::2]]
    code = [
        f"{part}\\ " if after[:1].isalnum() or after[:1] == "^" else part
        for part, after in zip(parts[1::2], prose[1:], strict=True)
    ]
    return "".join(one for pair in zip(prose, [*code, ""], strict=True) for one in pair)


def no_fields_of_tuples(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """The fields of a named tuple stand under its attributes already."""
    return True if type(obj).__name__ == "_tuplegetter" else None


write_reference()
copy_tutorials()


def setup(app: Any) -> None:
    """Connect what is above."""
    app.connect("source-read", without_links_out)
    app.connect("autodoc-process-docstring", markdown_to_rst, priority=400)
    app.connect("autodoc-skip-member", no_fields_of_tuples)
