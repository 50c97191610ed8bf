"""Writes the project's address into every file that wants it, once it has one.

    python scripts/address.py https://host/owner/fusedml

pyproject.toml gets ``[project.urls]``, CITATION.cff its repository, mkdocs.yml the link in its
header, and the README absolute links, since package indices show it without the files beside it.
The paths are those of GitHub: blob/main, raw/main (a picture) and issues.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# !, and where a Markdown link leads: neither to a heading of the same page nor elsewhere
_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!#|https?://)([^)]*)\)")


def _with_urls(metadata: str, address: str) -> str:
    urls = (
        "[project.urls]\n"
        f'Documentation = "{address}/blob/main/docs/index.md"\n'
        f'Source = "{address}"\n'
        f'Changelog = "{address}/blob/main/CHANGELOG.md"\n'
        f'Issues = "{address}/issues"\n\n'
    )
    before, heading, after = metadata.partition("[project.optional-dependencies]")
    return before + urls + heading + after


def _with_absolute_links(text: str, address: str) -> str:
    def absolute(link: re.Match[str]) -> str:
        picture, name, path = link.groups()
        return f"{picture}{name}({address}/{'raw' if picture else 'blob'}/main/{path})"

    return _LINK.sub(absolute, text)


def write(root: Path, address: str) -> None:
    """Raises ValueError for an address that is none, or where there is one already."""
    if not re.fullmatch(r"https://[^\s/]+/\S*[^\s/]", address):
        raise ValueError(f"the address must be like https://host/owner/fusedml, got {address!r}")
    files = {name: root / name for name in ("pyproject.toml", "CITATION.cff", "mkdocs.yml")}
    texts = {name: path.read_text() for name, path in files.items()}
    if "[project.urls]" in texts["pyproject.toml"]:
        raise ValueError("pyproject.toml has [project.urls] already: change the address by hand")
    files["pyproject.toml"].write_text(_with_urls(texts["pyproject.toml"], address))
    files["CITATION.cff"].write_text(texts["CITATION.cff"] + f'repository-code: "{address}"\n')
    files["mkdocs.yml"].write_text(f"repo_url: {address}\n" + texts["mkdocs.yml"])
    readme = root / "README.md"
    readme.write_text(_with_absolute_links(readme.read_text(), address))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    write(ROOT, sys.argv[1])
