"""Sums that are the same bits on every run, on a GPU as on a CPU."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fusedml.engine.tiled.histograms import _Grid

FUSEDML = Path(__file__).resolve().parents[2] / "fusedml"
# on a GPU they add in any order; bincount where it has weights
UNORDERED = {"index_add", "index_add_", "scatter_add", "scatter_add_", "put_", "bincount"}
# where the order does not matter, or is that of a CPU
ALLOWED = {
    "engine/reductions/entries.py": "sorts first on a GPU",
    "engine/tiled/histograms.py": "whole numbers",
    "engine/joint_classes.py": "each row of a block once",
    "engine/tiled/ranks.py": "each place once",
    "engine/tiled/triplets.py": "each place once",
    "engine/few_matrix.py": "on a CPU alone",
    "engine/whole.py": "on a CPU alone",
    "engine/whole_gathered.py": "on a CPU alone",
    "engine/whole_histograms.py": "on a CPU alone",
    "engine/whole_joint.py": "on a CPU alone",
    "engine/whole_kinds.py": "on a CPU alone",
    "engine/whole_lists.py": "on a CPU alone",
    "engine/whole_pairs.py": "on a CPU alone",
    "engine/whole_thresholds.py": "on a CPU alone",
    "engine/whole_values.py": "on a CPU alone",
    "engine/linear_sums.py": "on a CPU alone",
    "losses/p2s_grad.py": "each row once",
}


def unordered_sums(tree: ast.AST) -> Iterator[int]:
    """The lines of sums whose order a GPU leaves open."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            has_weights = len(node.args) > 1 or any(k.arg == "weights" for k in node.keywords)
            name = node.func.attr
            if name in UNORDERED and (name != "bincount" or has_weights):
                yield node.lineno


def test_floats_are_added_in_one_order() -> None:
    found = {
        str(path.relative_to(FUSEDML)): lines
        for path in FUSEDML.rglob("*.py")
        if (lines := list(unordered_sums(ast.parse(path.read_text()))))
    }
    assert {path: lines for path, lines in found.items() if path not in ALLOWED} == {}


@pytest.mark.parametrize("source", ["x.index_add_(0, i, y)", "torch.bincount(i, weights=y)"])
def test_an_unordered_sum_is_found(source: str) -> None:
    assert list(unordered_sums(ast.parse(source))) == [1]
    assert not list(unordered_sums(ast.parse("torch.bincount(i, minlength=3)")))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dim", [None, 0, 1])
def test_histograms_are_the_same_bits_in_any_order(dim: int | None, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 4, generator=generator, dtype=dtype)
    grid = _Grid(rows, torch.arange(30) // 3, "dot", -1.0, 0.02, 101, per_row=dim is not None)
    z = torch.rand(40, 500, generator=generator, dtype=dtype) * 100
    cells, shares = grid.cells(z)
    counted = (torch.rand(40, 500, generator=generator) < 0.8).to(dtype)
    sums = grid.sums(cells, shares, counted, dim)
    # along the dimension that is reduced
    along = 1 if dim is None else dim
    order = torch.randperm(z.shape[along], generator=generator)
    shuffled = (x.index_select(along, order) for x in (cells, shares, counted))
    assert torch.equal(grid.sums(*shuffled, dim), sums)
    edges = torch.arange(101, dtype=torch.float64)
    pulses = torch.relu(1 - (z.double()[..., None] - edges).abs()) * counted[..., None]
    exact = pulses.sum((0, 1))[None] if dim is None else pulses.sum(dim)
    torch.testing.assert_close(sums.double(), exact, rtol=1e-9, atol=1e-9)
