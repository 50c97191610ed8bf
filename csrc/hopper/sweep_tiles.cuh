#pragma once
// Which tiles the forward sweep on Hopper's instructions visits: the plain ones of a block's share.
#include "core/tensor_map.h"
#include "hopper/operators.h"

namespace fusedml {

/// Tiles of kRows x kCols pairs over slices of kDepth dimensions.  A plan counts squares of kSquare
/// rows and columns, so that a tile is plain if and only if its transpose is.
template <int kCols_, int kStages_>
struct HopperSweepTile {
  static constexpr int kRows = 128, kCols = kCols_, kDepth = 64, kStages = kStages_;
  static constexpr int kThreads = 384;
  static constexpr int kSquare = kRows > kCols ? kRows : kCols;
  static constexpr int kRowBytes = kRows * kBoxRowBytes, kColBytes = kCols * kBoxRowBytes;
  static constexpr int kStageBytes = kRowBytes + kColBytes;
  static constexpr int kBytes = kStages * kStageBytes;
  static_assert(kSquare % kRows == 0 && kSquare % kCols == 0);
};

using LargeSweepTile = HopperSweepTile<256, 4>;

/// Producer and consumers walk through the same tiles.
template <class Tile>
class HopperSweepTiles {
 public:
  static constexpr int kSquare = Tile::kSquare;

  FUSEDML_DEVICE HopperSweepTiles(const HopperSweepArguments& arguments, float scale)
      : arguments_(arguments), tiles_(arguments.plan.share(int(blockIdx.x)).tiles), scale_(scale) {}

  /// visit(first row, first column) of each tile, column by column; after each column of tiles
  /// finish(first column, number of tiles).
  template <class Visit, class Finish>
  FUSEDML_DEVICE void for_each(const Visit& visit, const Finish& finish) const {
    for (int col = tiles_.col_begin * kSquare; col < tiles_.col_end * kSquare; col += Tile::kCols) {
      int visited = 0;
      for (int square = tiles_.row_begin; square < tiles_.row_end; ++square) {
        if (!is_plain(square, col / kSquare)) continue;
        for (int row = square * kSquare; row < (square + 1) * kSquare; row += Tile::kRows) {
          visit(row, col);
          ++visited;
        }
      }
      if (visited > 0) finish(col, visited);
    }
  }

  FUSEDML_DEVICE bool is_plain(int row_square, int col_square) const {
    return tiles_.visits(row_square, col_square) &&
           arguments_.squares.holds(int64_t(row_square) * kSquare, int64_t(col_square) * kSquare,
                                    scale_);
  }

 private:
  const HopperSweepArguments& arguments_;
  TileSequence tiles_;
  float scale_;
};

}  // namespace fusedml
