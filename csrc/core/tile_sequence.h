#pragma once
// Which tiles a block visits, and in which order.
#include "core/platform.h"

namespace fusedml {

/// A tile, counted in tiles from the corner of the matrix of pairs.
struct TilePosition {
  int64_t row, col;
  bool valid;  ///< false behind the last tile
};

/// The tiles of a rectangle, row by row.  In a self problem tile (J, I) is the transpose of (I, J):
/// with `upper_triangle` only the tiles with col >= row are visited.  With label ranges, only those
/// that can hold a positive pair.
struct TileSequence {
  int64_t row_begin, row_end, col_begin, col_end;
  bool upper_triangle = false;
  const int64_t* anchor_ranges = nullptr;     ///< [row tiles, 2], smallest and largest label
  const int64_t* reference_ranges = nullptr;  ///< [col tiles, 2]

  FUSEDML_HOST_DEVICE bool visits(int64_t row, int64_t col) const {
    if (upper_triangle && col < row) return false;
    if (anchor_ranges == nullptr) return true;
    return anchor_ranges[2 * row] <= reference_ranges[2 * col + 1] &&
           reference_ranges[2 * col] <= anchor_ranges[2 * row + 1];
  }

  FUSEDML_HOST_DEVICE TilePosition first() const {
    TilePosition position{row_begin, col_begin - 1, true};
    advance(position);
    return position;
  }

  FUSEDML_HOST_DEVICE void advance(TilePosition& position) const {
    for (; position.row < row_end; ++position.row, position.col = col_begin - 1)
      while (++position.col < col_end)
        if (visits(position.row, position.col)) return;
    position.valid = false;
  }
};

}  // namespace fusedml
