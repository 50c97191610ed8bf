#pragma once
// How the forward sweep over the tiles outside plain squares is divided; a pure function of sizes.
#include <algorithm>

#include "kernels/sweep_plan.h"

namespace fusedml {

constexpr int kSpecialTile = 128;  ///< rows and columns of its tiles
/// About as many special tiles as a row of tiles has where labels are sorted.
constexpr int kMostSpecialSlots = 6;

/// For the rows [first_row, + rows_of_launch), which a launch of the plain sweep completes: rows of
/// tiles, each divided among num_slots blocks, so many that few rows of tiles fill a GPU too.  Only
/// rows_of_launch decides how many.
inline SweepPlan special_plan(int64_t rows, int64_t cols, int64_t first_row,
                              int64_t rows_of_launch) {
  const int64_t row_tiles = std::max<int64_t>(1, ceil_div(rows_of_launch, int64_t(kSpecialTile)));
  SweepPlan plan{};
  plan.row_tiles = int(ceil_div(rows, int64_t(kSpecialTile)));
  plan.col_tiles = plan.cols_per_group = int(ceil_div(cols, int64_t(kSpecialTile)));
  plan.rows_per_group = 1;
  plan.row_tiles_per_launch = int(row_tiles);
  plan.first_row_tile = int(first_row / kSpecialTile);
  plan.num_slots = int(std::clamp<int64_t>(kFullGridBlocks / row_tiles, 1, kMostSpecialSlots));
  plan.num_groups = plan.num_slots;
  return plan;
}

}  // namespace fusedml
