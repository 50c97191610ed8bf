#pragma once
// Which tiles a block visits, and in which order.
#include "core/plain_squares.h"

namespace fusedml {

/// A tile, counted in tiles from the corner of the matrix of pairs (2^31 of them are enough).
struct TilePosition {
  int row, col;

  /// False behind the last tile.
  FUSEDML_HOST_DEVICE bool is_valid() const { return row >= 0; }
};

/// Smallest and largest label of every kRowsPerRange rows of one side.
struct LabelRanges {
  static constexpr int kRowsPerRange = 32;

  const int64_t* ranges;  ///< [count, 2], or null
  int64_t count;
  int per_tile;

  FUSEDML_HOST_DEVICE bool meet(int tile, const LabelRanges& other, int other_tile) const {
    const int64_t begin = int64_t(tile) * per_tile;
    const int64_t other_begin = int64_t(other_tile) * other.per_tile;
    for (int64_t a = begin; a < begin + per_tile && a < count; ++a)
      for (int64_t b = other_begin; b < other_begin + other.per_tile && b < other.count; ++b)
        if (ranges[2 * a] <= other.ranges[2 * b + 1] && other.ranges[2 * b] <= ranges[2 * a + 1])
          return true;
    return false;
  }
};

/// Tiles in plain squares, which are left to other kernels.
struct PlainTiles {
  PlainSquares squares{};
  float scale = 0;  ///< plain_scale() of the problem
  int tile_rows = 0, tile_cols = 0;

  FUSEDML_HOST_DEVICE bool contain(int row, int col) const {
    return squares.holds(int64_t(row) * tile_rows, int64_t(col) * tile_cols, scale);
  }
};

/// The tiles of a rectangle, row by row.  In a self problem tile (J, I) is the transpose of (I, J):
/// with `upper_triangle` only the tiles with col >= row are visited.  With label ranges, only those
/// that can hold a positive pair; with plain squares, only the tiles outside them.
struct TileSequence {
  int row_begin, row_end, col_begin, col_end;
  bool upper_triangle = false;
  LabelRanges row_ranges{}, col_ranges{};
  PlainTiles plain{};

  FUSEDML_HOST_DEVICE bool visits(int row, int col) const {
    if (upper_triangle && col < row) return false;
    if (plain.contain(row, col)) return false;
    return row_ranges.ranges == nullptr || row_ranges.meet(row, col_ranges, col);
  }

  FUSEDML_HOST_DEVICE TilePosition first() const {
    TilePosition position{row_begin, col_begin - 1};
    advance(position);
    return position;
  }

  FUSEDML_HOST_DEVICE void advance(TilePosition& position) const {
    for (; position.row < row_end; ++position.row, position.col = col_begin - 1)
      while (++position.col < col_end)
        if (visits(position.row, position.col)) return;
    position.row = -1;
  }
};

}  // namespace fusedml
