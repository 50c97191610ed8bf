"""Every block of Python in the README and on the site runs, block after block of a page."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import fusedml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# what a page may use and this environment need not have
_OPTIONAL = {"accelerate", "lightning", "open_clip", "sentence_transformers", "transformers"}


def blocks_of(text: str) -> list[tuple[int, str]]:
    """The line in which each block begins, and the block."""
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in _BLOCK.finditer(text)]


def imported(code: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def run(path: Path) -> int:
    """Runs the blocks of a page in one namespace; how many."""
    # the README shows a loss in the middle of a training loop
    labels, model = torch.arange(64) // 4, torch.nn.Linear(16, 128)
    namespace = {
        "__name__": "page",
        "torch": torch,
        "fusedml": fusedml,
        "DistributedDataParallel": DistributedDataParallel,
        "embeddings": torch.randn(64, 128, requires_grad=True),
        "labels": labels,
        "loader": [(torch.randn(64, 16), labels)],
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    blocks = blocks_of(path.read_text())
    for line, block in blocks:
        # errors name the page and its line
        exec(compile("\n" * line + block, str(path), "exec"), namespace)
    return len(blocks)


@pytest.fixture(autouse=True)
def _group_of_one():
    """What a page says of many ranks is run on one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_run(path: Path) -> None:
    needed = set().union(*(imported(block) for _, block in blocks_of(path.read_text())))
    absent = [name for name in needed & _OPTIONAL if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} is not installed")
    run(path)


def test_every_guide_has_a_block() -> None:
    guides = sorted((ROOT / "docs" / "guides").glob("*.md"))
    assert len(guides) >= 6
    assert [path.name for path in guides if not blocks_of(path.read_text())] == []


def test_a_wrong_block_is_found_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run(page)
    assert caught.traceback[-1].lineno == 7  # from 0
