"""What stands beside the code says the same as the code."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

import fusedml
from scripts import address

ROOT = Path(__file__).resolve().parents[2]


def test_the_citation_and_the_changelog_have_the_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == fusedml.__version__
    released = re.search(r"^date-released: \"(.*)\"$", citation, re.MULTILINE)[1]
    first = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert first in (f"[{fusedml.__version__}] - {released}", "[Unreleased]")


def links(root: Path) -> list[str]:
    """Of the README, but for those to its own headings; a link may be broken over two lines."""
    return re.findall(r"\]\((?!#)([^)]*)\)", (root / "README.md").read_text())


def knows_an_address(root: Path) -> set[bool]:
    """Whether each place does.  A package index shows the README without the files beside it."""
    return {
        "[project.urls]" in (root / "pyproject.toml").read_text(),
        all(link.startswith("https://") for link in links(root)),
        "repository-code:" in (root / "CITATION.cff").read_text(),
        "repo_url:" in (root / "mkdocs.yml").read_text(),
    }


def test_an_address_is_everywhere_or_nowhere() -> None:
    assert len(knows_an_address(ROOT)) == 1


def test_one_command_writes_the_address(tmp_path: Path) -> None:
    if knows_an_address(ROOT) == {True}:
        pytest.skip("there is an address")
    for name in ("README.md", "pyproject.toml", "CITATION.cff", "mkdocs.yml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    relative = [link for link in links(ROOT) if not link.startswith("https://")]
    where = "https://host.example/someone/fusedml"
    address.write(tmp_path, where)
    assert knows_an_address(tmp_path) == {True}
    ours = [link.removeprefix(where) for link in links(tmp_path) if link.startswith(where)]
    assert [re.sub("^/(blob|raw)/main/", "", link) for link in ours] == relative
    assert [link for link in ours if link.startswith("/raw/") != link.endswith(".png")] == []
    assert all((ROOT / link.partition("#")[0]).exists() for link in relative)
    assert read_yaml(tmp_path / "CITATION.cff")["repository-code"] == where
    assert f'Issues = "{where}/issues"' in (tmp_path / "pyproject.toml").read_text()
    with pytest.raises(ValueError, match=r"has \[project.urls\] already"):
        address.write(tmp_path, where)


@pytest.mark.parametrize("wrong", ["host/fusedml", "http://host/fusedml", "https://host/x/"])
def test_what_is_no_address(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be like https://host/owner/fusedml, got"):
        address.write(tmp_path, wrong)


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
