#pragma once
// How the forward sweeps divide the tiles among blocks, and where their partial results go.
#include <algorithm>
#include <cstdint>

#include "core/tile_sequence.h"

namespace fusedml {

/// Blocks own groups of row tiles x groups of column tiles.  A row's partial results lie in
/// `num_slots` slots, one per group that contributes to it; each slot has one writer, so nothing is
/// locked and the finisher can merge in a fixed order.
struct SweepPlan {
  int row_tiles, col_tiles;
  int rows_per_group, cols_per_group;  ///< in tiles
  int num_slots;
  int64_t num_blocks;
  bool upper_triangle;

  /// The tiles of one block, and its groups.
  struct Share {
    TileSequence tiles;
    int row_group, col_group;
  };

  FUSEDML_HOST_DEVICE Share share(int block) const {
    int row_group = 0, col_group = 0;
    if (upper_triangle) {
      while (block >= num_slots - row_group) block -= num_slots - row_group++;
      col_group = row_group + block;
    } else {
      row_group = block / num_slots;
      col_group = block % num_slots;
    }
    TileSequence tiles{};
    tiles.row_begin = row_group * rows_per_group;
    tiles.row_end = smaller(tiles.row_begin + rows_per_group, row_tiles);
    tiles.col_begin = col_group * cols_per_group;
    tiles.col_end = smaller(tiles.col_begin + cols_per_group, col_tiles);
    tiles.upper_triangle = upper_triangle;
    return {tiles, row_group, col_group};
  }

 private:
  static FUSEDML_HOST_DEVICE int smaller(int a, int b) { return a < b ? a : b; }
};

/// Blocks that fill a large GPU: 132 multiprocessors with two blocks each.
constexpr int64_t kFullGridBlocks = 264;
/// Bound of the partial results in memory.
constexpr int64_t kMaxPartialBytes = int64_t(32) << 20;
/// Fewer groups than this leave a large GPU idle: 16 * 17 / 2 = 136 blocks.
constexpr int64_t kMinTriangleGroups = 16;
constexpr int64_t kMaxTriangleGroups = 32;

/// Each block owns one row tile; the columns are split when there are few of them.
inline SweepPlan plan_rectangle(int64_t row_tiles, int64_t col_tiles) {
  SweepPlan plan{};
  plan.row_tiles = int(row_tiles);
  plan.col_tiles = int(col_tiles);
  plan.rows_per_group = 1;
  const int64_t wanted = std::max<int64_t>(1, kFullGridBlocks / std::max<int64_t>(1, row_tiles));
  const int64_t splits = std::max<int64_t>(1, std::min(wanted, col_tiles));
  plan.cols_per_group = int(std::max<int64_t>(1, ceil_div(col_tiles, splits)));
  plan.num_slots = std::max(1, ceil_div(plan.col_tiles, plan.cols_per_group));
  plan.num_blocks = row_tiles * plan.num_slots;
  return plan;
}

/// A self problem whose tiles feed both their rows and their columns: half the products.  A row
/// then needs a slot per group, so the number of groups is bounded by kMaxPartialBytes; with too
/// few groups (n above about 75 000) half the products would run on part of the GPU only, and with
/// few tiles (n below 2048) the launch dominates: the rectangle serves both.
inline SweepPlan plan_self(int64_t rows, int64_t row_tiles, int64_t bytes_per_row) {
  const int64_t affordable = kMaxPartialBytes / std::max<int64_t>(1, rows * bytes_per_row);
  const int64_t groups = std::min({row_tiles, affordable, kMaxTriangleGroups});
  if (groups < kMinTriangleGroups) return plan_rectangle(row_tiles, row_tiles);
  SweepPlan plan{};
  plan.upper_triangle = true;
  plan.row_tiles = plan.col_tiles = int(row_tiles);
  plan.rows_per_group = plan.cols_per_group = int(ceil_div(row_tiles, groups));
  plan.num_slots = ceil_div(plan.row_tiles, plan.rows_per_group);
  plan.num_blocks = int64_t(plan.num_slots) * (plan.num_slots + 1) / 2;
  return plan;
}

}  // namespace fusedml
