"""What a type checker finds in a user's code: wrong names and values of arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import torch
from fusedml import functional
from fusedml.losses import MultiSimilarityLoss, ProxyAnchorLoss

x, y = torch.randn(4, 2), torch.arange(4)
good: torch.Tensor = MultiSimilarityLoss(alpha=2, backend="torch")(x, y, ref_emb=x)
good = functional.multi_similarity_loss(x, y, alpha=3.0, ref_emb=x, reduction="none")
good = functional.proxy_anchor_loss(x, y, x, margin=0.2, backend="dense")
MultiSimilarityLoss(alhpa=2)
MultiSimilarityLoss(backend="cudda")
ProxyAnchorLoss(2, 3, weight_inti_func=None)
MultiSimilarityLoss()(x, y, refs=x)
functional.multi_similarity_loss(x, y, reduction="average")
functional.n_pairs_loss(x, y, ref_emb=x)
"""


def test_wrong_arguments_are_found(tmp_path) -> None:
    pytest.importorskip("mypy")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.split(":")[1:4:2] for line in result.stdout.splitlines() if " error: " in line]
    lines = [int(line) for line, _ in found]
    first = 1 + PROGRAM.splitlines().index("MultiSimilarityLoss(alhpa=2)")
    assert lines == list(range(first, first + 6)), result.stdout + result.stderr
