"""The site as it is built: without a warning, a broken link or a missing picture."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from benchmarks.cases import MEASURED
from scripts.site.weights import has_pair_weights

ROOT = Path(__file__).resolve().parents[2]
# what a browser fetches by itself
_LOADED = re.compile(r"<(?:script|link|img)[^>]*?(?:src|href)=\"?([^\" >]+)")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocstrings") is None, reason="mkdocstrings is not installed"
)


class Page(HTMLParser):
    """What a page points to, and the anchors and text that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.text: list[str] = []
        self.formulas = 0
        self._code = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.targets += [str(found[name]) for name in ("href", "src") if found.get(name)]
        self.anchors |= {str(found["id"])} if found.get("id") else set()
        self.formulas += tag == "math"
        self._code += tag in ("code", "script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the built site: parallel test processes wait for the first, which builds it."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder, log = shared / "site", shared / "site.log"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not log.exists():
            log.write_text(_build(folder))
    assert log.read_text() == ""
    return folder


def _build(folder: Path) -> str:
    """What a failed build says, or nothing."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{built.returncode}: {built.stdout}{built.stderr}" if built.returncode else ""


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_link_leads_somewhere(pages) -> None:
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "data", "mailto"):
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            is_missing = not there.is_file() or (
                parts.fragment and there in pages and parts.fragment not in pages[there].anchors
            )
            if is_missing and parts.fragment != "__skip" and not parts.fragment.startswith("__"):
                broken.append(f"{path}: {target}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site) -> None:
    pages = [path.read_text() for path in site.rglob("*.html")]
    loaded = [tag for text in pages for tag in _LOADED.findall(text) if "//" in tag]
    assert loaded == []


def test_nothing_is_left_of_escaping(pages) -> None:
    """Code is left out: it shows what it says."""
    texts = {path: "".join(page.text) for path, page in pages.items()}
    left = {path: re.findall(r".*(?:\\[*_<>|^#]|``|&lt;).*", text) for path, text in texts.items()}
    assert {path: lines for path, lines in left.items() if lines} == {}


def test_sections_of_the_readme_are_put_in(pages, site) -> None:
    text = "".join(pages[site / "limits" / "index.html"].text)
    assert "Same bits again" in text and "README:" not in text
    from scripts.site.hooks import readme_section  # noqa: PLC0415  it needs mkdocs

    with pytest.raises(ValueError, match=r"limits\.md includes 'Nothing', but README\.md has no"):
        readme_section("Nothing", "limits.md")


@pytest.mark.parametrize("name", MEASURED)
def test_every_loss_has_its_page(site, pages, name) -> None:
    page = pages[site / "losses" / name / "index.html"]
    assert page.formulas > 0
    drawing = site / "losses" / f"{name}.svg"
    assert drawing.is_file() == (f"../{name}.svg" in page.targets) == has_pair_weights(name)
    text = "".join(page.text)
    assert ("There is no picture of them" in text) != has_pair_weights(name)
    for title in ("forward", "As a function", "Pair weights", "Time and memory"):
        assert title in text
    formula = (MEASURED[name].__doc__ or "").split("\n")[0].rstrip(".")
    assert formula not in text


def test_every_example_has_its_page(site) -> None:
    shown = {path.name for path in (site / "examples").iterdir()}
    assert {"plain_loop", "custom_loss", "two_towers", "train_digits"} <= shown
    assert not {"__init__", "image_data"} & shown
