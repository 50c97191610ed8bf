"""The tiles: each counted pair in exactly one of them, under the right kind, within the bound."""

from __future__ import annotations

import pytest
import torch

from fusedml.dense import pair_masks
from fusedml.engine.pairs import PairProblem
from fusedml.engine.tiled import plan
from fusedml.engine.tiled.plan import TILE_ELEMENTS, TILE_ROWS, TiledProblem, TileKind
from tests.problems import NUM_CLASSES, make_problem


@pytest.mark.parametrize("num_classes", NUM_CLASSES)
@pytest.mark.parametrize(
    ("n", "m", "exclude", "self_offset"),
    [
        *[(700, None, True, None), (700, None, False, None), (500, 900, False, None)],
        *[(500, 500, True, None), (500, 500, True, 30), (500, 900, True, 700)],
    ],
)
def test_tiles_cover_each_pair_once_with_its_kind(n, m, exclude, self_offset, num_classes):
    options = {"exclude_diagonal": exclude, "self_offset": self_offset}
    problem = make_problem(n, m, num_classes, **options)
    tiled = TiledProblem(problem)
    rows = torch.arange(n) if tiled.row_order is None else tiled.row_order
    cols = torch.arange(m or n) if tiled.col_order is None else tiled.col_order
    positive, negative = pair_masks(problem)
    positive, negative = positive[rows][:, cols], negative[rows][:, cols]
    visits = torch.zeros(n, m or n, dtype=torch.int64)
    for tile in tiled.tiles():
        assert tile.shape[0] * tile.shape[1] <= TILE_ELEMENTS
        visits[tile.rows, tile.cols] += 1
        if tile.is_mirrored:
            visits[tile.cols, tile.rows] += 1
        if tile.kind is TileKind.POSITIVE:
            assert not negative[tile.rows, tile.cols].any()
        elif tile.kind is TileKind.NEGATIVE:
            assert not positive[tile.rows, tile.cols].any()
        else:
            mask = tiled.positive_mask(tile)
            assert torch.equal(mask.bool(), positive[tile.rows, tile.cols])
    assert (visits == 1).all()


def test_most_tiles_of_small_classes_need_no_label_compare():
    problem = make_problem(4096, None, 1, d=2)
    problem = problem._replace(anchor_labels=torch.arange(4096) // 4)
    pairs = dict.fromkeys(TileKind, 0)
    for tile in TiledProblem(problem).tiles():
        pairs[tile.kind] += tile.shape[0] * tile.shape[1]
    assert pairs[TileKind.MIXED] == 4096 * TILE_ROWS  # the diagonal blocks only
    assert pairs[TileKind.POSITIVE] == 0


def test_sorted_input_is_not_copied():
    problem = make_problem(500, None, 3)
    problem = problem._replace(anchor_labels=problem.anchor_labels.sort().values)
    assert TiledProblem(problem).a.data_ptr() == problem.anchors.data_ptr()


@pytest.mark.parametrize("self_offset", [0, 800])
def test_columns_after_those_of_the_rows_are_sorted(self_offset: int, monkeypatch) -> None:
    """The rows' own pairs are on one diagonal, and most tiles need no label compare."""
    monkeypatch.setattr(plan, "TILE_ROWS", 128)
    labels = torch.arange(1000) % 50
    x = torch.randn(1000, 4)
    own = (torch.arange(300) + self_offset) % 1000
    given = PairProblem(x[own], x, labels[own], labels, self_offset=self_offset)
    problem = TiledProblem(given)
    assert problem.diagonals == (0,)
    tiles = list(problem.tiles())
    covered = torch.zeros(300, 1000, dtype=torch.int64)
    for tile in tiles:
        covered[tile.rows, tile.cols] += 1
        if tile.kind is not TileKind.MIXED:
            is_same = problem.row_labels[tile.rows, None] == problem.col_labels[tile.cols]
            assert bool((is_same == (tile.kind is TileKind.POSITIVE)).all())
    assert bool((covered == 1).all())
    mixed = sum(tile.shape[0] * tile.shape[1] for tile in tiles if tile.kind is TileKind.MIXED)
    assert mixed < 0.7 * covered.numel()
    assert torch.equal(problem.row_labels, problem.col_labels[:300])
    assert torch.equal(problem.a, problem.r[:300])
