"""Hooks of mkdocs: pages and pictures that are made of the source tree at each build."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import torch
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.cases import MEASURED  # noqa: E402  the packages of this tree
from benchmarks.results import RESULTS  # noqa: E402
from scripts.site.docstrings import drawn  # noqa: E402
from scripts.site.drawing import DRAWINGS, weights_drawing  # noqa: E402
from scripts.site.loss_page import loss_page  # noqa: E402
from scripts.site.reference_page import public_modules, reference_page  # noqa: E402
from scripts.site.weights import has_pair_weights  # noqa: E402

_EXAMPLES = ROOT / "examples"


def on_startup(**_: Any) -> None:
    """One thread: several would wait for each other at each of thousands of tiny products."""
    torch.set_num_threads(1)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the generated pages into the sections of the navigation that wait for them."""
    _section(config.nav, "Losses").extend({n: f"losses/{n}.md"} for n in sorted(MEASURED))
    _section(config.nav, "Examples").extend({n: f"examples/{n}.md"} for n in sorted(_examples()))
    _section(config.nav, "Reference").extend(
        {f"fusedml.{n}": f"reference/{n}.md"} for n in public_modules()
    )
    return config


def _section(nav: Any, title: str) -> list[Any]:
    found: list[Any] = next(entry[title] for entry in nav if title in entry)
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages of losses, examples and modules, drawings, and the pictures of the results."""
    made = {f"losses/{name}.md": loss_page(name) for name in MEASURED}
    made |= {
        f"losses/{name}.svg": weights_drawing(name) for name in filter(has_pair_weights, MEASURED)
    }
    made |= {f"drawings/{name}.svg": draw() for name, draw in DRAWINGS.items()}
    made |= {f"examples/{name}.md": _example_page(path) for name, path in _examples().items()}
    made |= {f"reference/{n}.md": reference_page(n, m) for n, m in public_modules().items()}
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    for picture in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Puts in the sections of the README that a page points to, and draws the table's formulas.

    Pictures of results stand beside the pages; in the source tree they are elsewhere.
    """
    markdown = _INCLUDED.sub(lambda found: readme_section(found[1], page.file.src_uri), markdown)
    if page.file.src_uri == "losses/index.md":
        markdown = _ROW.sub(_with_formula, markdown)
    return markdown.replace("](../benchmarks/results/", "](results/")


_INCLUDED = re.compile(r"^\[README: (.+)\]\([./]*README\.md#.*\)$", re.MULTILINE)


def readme_section(title: str, uri: str) -> str:
    """The text below a heading of the README, whose links lead from the page of that address.

    Raises ValueError if there is no such heading.
    """
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^## {re.escape(title)}\n+(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{uri} includes {title!r}, but README.md has no such section")
    root = "../" * uri.count("/")
    section = (
        found[1].replace("](docs/", f"]({root}").replace("](#development)", f"]({root}testing.md)")
    )
    return re.sub(r"\]\(examples/(\w+)\.py\)", rf"]({root}examples/\1.md)", section).rstrip()


# class, function, formula as code
_ROW = re.compile(r"^\| `(\w+)`, (`\w+`) \| `(.*?)` \|", re.MULTILINE)


def _with_formula(row: re.Match[str]) -> str:
    name, function, formula = row.groups()
    in_cell = drawn(MEASURED[name], formula.replace("\\|", "|")).replace("|", "&#124;")
    return f"| [`{name}`]({name}.md), {function} | {in_cell} |"


def _examples() -> dict[str, Path]:
    """The programs; what they import from beside them has no page."""
    programs = (path for path in _EXAMPLES.glob("*.py") if "__main__" in path.read_text())
    return {path.stem: path for path in programs}


def _example_page(path: Path) -> str:
    title, _, rest = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")
    return (
        f"# examples/{path.name}\n\n{title}\n{rest}\n\n"
        f'```{{ .python title="examples/{path.name}" }}\n{path.read_text()}```\n'
    )
