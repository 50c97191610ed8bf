"""What stands beside the code says the same as the code."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

import fusedml

ROOT = Path(__file__).resolve().parents[2]


def test_the_citation_and_the_changelog_have_the_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == fusedml.__version__
    released = re.search(r"^date-released: \"(.*)\"$", citation, re.MULTILINE)[1]
    first = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert first in (f"[{fusedml.__version__}] - {released}", "[Unreleased]")


def test_an_address_is_everywhere_or_nowhere() -> None:
    """A package index shows the README without the files beside it."""
    has_urls = "[project.urls]" in (ROOT / "pyproject.toml").read_text()
    links = re.findall(r"\]\((?!#)([^)]*)\)", (ROOT / "README.md").read_text())
    are_absolute = all(link.startswith("https://") for link in links)
    is_cited = "repository-code:" in (ROOT / "CITATION.cff").read_text()
    assert has_urls == are_absolute == is_cited


def test_nobody_is_named() -> None:
    metadata = (ROOT / "pyproject.toml").read_text()
    assert not re.search(r"^(authors|maintainers)\b", metadata, re.MULTILINE)


def read_yaml(path: Path):
    yaml = pytest.importorskip("yaml", reason="yaml is not installed; mkdocs brings it")
    return yaml.safe_load(path.read_text())


def test_a_report_begins_with_what_is_installed() -> None:
    template = read_yaml(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")
    first = template["body"][0]
    assert "`python -m fusedml`" in first["attributes"]["label"]
    assert first["validations"] == {"required": True}
    assert importlib.import_module("fusedml.__main__").report().startswith("fusedml ")


def test_hooks_run_what_there_is() -> None:
    (local,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    for hook in local["hooks"]:
        program, *arguments = shlex.split(hook["entry"])
        name = Path(program).name
        pinned = (ROOT / "requirements-dev.txt").read_text()
        assert name == "python" or f"\n{name}==" in pinned
        scripts = [argument for argument in arguments if argument.endswith(".py")]
        assert all((ROOT / script).is_file() for script in scripts)
