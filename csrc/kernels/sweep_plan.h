#pragma once
// How the forward sweeps divide the tiles among blocks and launches, and where their partial
// results go.
#include <algorithm>
#include <cstdint>

#include "core/tile_sequence.h"
#include "kernels/tile_size.h"

namespace fusedml {

/// Where a block's partial results go.
struct SweepSlots {
  int of_rows, of_cols;
  bool has_columns;  ///< the tiles feed their columns too
  bool adds;         ///< to what an earlier launch has written
};

/// A row's partial results lie in `num_slots` slots.  Within a launch each slot of a row has one
/// writer, and a later launch adds to what an earlier one left; so nothing is locked, the order of
/// all sums is fixed, and the finisher merges the slots.
///
/// Rectangle: a launch takes some of the row tiles x all groups of column tiles, with a slot per
/// column group.  Its rows are finished before the next launch, which uses their slots again.
///
/// Symmetric, for self problems: an odd number of groups of row tiles lies on a circle.  The block
/// (i, shift) visits the tiles of group i x group i + shift, which feed their rows and, transposed,
/// their columns.  Shifts 0 to groups / 2 meet each pair of groups once.  A launch takes some of
/// the shifts, each with a slot for rows and a slot for columns.
///
/// Both sides of two operands: the same with as many groups of columns as of rows, and all shifts;
/// the columns' slots are merged by themselves.
struct SweepPlan {
  int row_tiles, col_tiles;
  int rows_per_group, cols_per_group;  ///< in tiles
  int num_groups;                      ///< of columns
  int num_slots;
  int shifts_per_launch;     ///< 0: the rectangle
  int row_tiles_per_launch;  ///< all of them unless it is a rectangle
  int first_shift;           ///< of this launch
  int first_row_tile;        ///< with slots in this launch
  bool has_two_operands;     ///< whose rows and columns are fed, unless it is the rectangle

  /// What one block does.
  struct Share {
    TileSequence tiles;
    SweepSlots slots;
  };

  FUSEDML_HOST_DEVICE Share share(int block) const {
    const bool is_symmetric = shifts_per_launch > 0;
    const int minor = block % num_groups, major = block / num_groups;
    const int shift = first_shift + major;
    const int row_group = is_symmetric ? minor : first_row_tile + major;
    const int col_group = is_symmetric ? (minor + shift) % num_groups : minor;
    TileSequence tiles{};
    tiles.row_begin = row_group * rows_per_group;
    tiles.row_end = smaller(tiles.row_begin + rows_per_group, row_tiles);
    tiles.col_begin = col_group * cols_per_group;
    tiles.col_end = smaller(tiles.col_begin + cols_per_group, col_tiles);
    tiles.upper_triangle = is_symmetric && shift == 0 && !has_two_operands;
    return {
        tiles,
        {is_symmetric ? major : minor, shifts_per_launch + major, is_symmetric, first_shift > 0}};
  }

  int num_shifts() const { return has_two_operands ? num_groups : num_groups / 2 + 1; }
  int num_launches() const {
    if (shifts_per_launch > 0) return ceil_div(num_shifts(), shifts_per_launch);
    return std::max(1, ceil_div(row_tiles, row_tiles_per_launch));
  }
  SweepPlan launch(int index) const {
    SweepPlan plan = *this;
    plan.first_shift = index * shifts_per_launch;
    if (shifts_per_launch == 0) plan.first_row_tile = index * row_tiles_per_launch;
    return plan;
  }
  /// Whether all pairs of this launch's rows have been visited after it.
  bool finishes_rows() const {
    return shifts_per_launch == 0 || first_shift + shifts_per_launch >= num_shifts();
  }
  int64_t num_blocks() const {
    if (shifts_per_launch == 0)
      return int64_t(num_groups) * std::min(row_tiles_per_launch, row_tiles - first_row_tile);
    return int64_t(num_groups) * std::min(shifts_per_launch, num_shifts() - first_shift);
  }

 private:
  static FUSEDML_HOST_DEVICE int smaller(int a, int b) { return a < b ? a : b; }
};

/// Bound of the slots: 8 MB.  A self problem of n = 65536 gets 4 slots of 28 bytes per row, 7.3 MB,
/// and 33 launches; with half of it there were twice as many launches of a quarter of the work
/// each, and with one slot per row, 1.8 MB, only the rectangle and its double products.  A launch
/// of a rectangle gets 285 thousand rows, enough for eight full grids.
constexpr int64_t kMaxSlotBytes = 8'000'000;

/// What a plan has to know of a sweep.
struct SweepSize {
  int64_t rows, cols;
  int64_t tile_rows, tile_cols;
  int64_t partial_bytes;  ///< of a slot of a row

  int64_t row_tiles() const { return ceil_div(rows, tile_rows); }
  int64_t col_tiles() const { return ceil_div(cols, tile_cols); }
};

inline int64_t grid_blocks(const SweepOptions& options) {
  return options.grid_blocks > 0 ? options.grid_blocks : kFullGridBlocks;
}
inline int64_t max_slot_bytes(const SweepOptions& options) {
  return options.max_slot_bytes > 0 ? options.max_slot_bytes : kMaxSlotBytes;
}

/// Each block owns one row tile; the columns are split when there are few of them.
inline SweepPlan plan_rectangle(const SweepSize& size, const SweepOptions& options) {
  const int64_t row_tiles = size.row_tiles(), col_tiles = size.col_tiles();
  SweepPlan plan{};
  plan.row_tiles = int(row_tiles);
  plan.col_tiles = int(col_tiles);
  plan.rows_per_group = 1;
  const int64_t wanted =
      std::max<int64_t>(1, grid_blocks(options) / std::max<int64_t>(1, row_tiles));
  const int64_t splits = std::max<int64_t>(1, std::min(wanted, col_tiles));
  plan.cols_per_group = int(std::max<int64_t>(1, ceil_div(col_tiles, splits)));
  plan.num_slots = plan.num_groups = std::max(1, ceil_div(plan.col_tiles, plan.cols_per_group));
  const int64_t tile_bytes = plan.num_slots * size.tile_rows * size.partial_bytes;
  const int64_t affordable = std::max<int64_t>(1, max_slot_bytes(options) / tile_bytes);
  const int64_t launches = std::max<int64_t>(1, ceil_div(row_tiles, affordable));
  plan.row_tiles_per_launch = int(std::max<int64_t>(1, ceil_div(row_tiles, launches)));
  return plan;
}

/// The same of large partial results: columns are split as long as the slots of a row of tiles
/// allow it.
inline SweepPlan plan_affordable_rectangle(const SweepSize& size, SweepOptions options) {
  const int64_t tile_rows = std::min(size.rows, size.tile_rows);
  const int64_t affordable = std::max<int64_t>(
      1, max_slot_bytes(options) / std::max<int64_t>(1, tile_rows * size.partial_bytes));
  options.grid_blocks = std::min(grid_blocks(options), size.row_tiles() * affordable);
  return plan_rectangle(size, options);
}

/// Estimated time of a sweep, in tiles of a block: a block begins with half a tile's time and a
/// launch with a whole one, and feeding the columns adds a tenth to a tile [guesses].
inline double sweep_time(const SweepPlan& plan, int64_t grid_blocks) {
  const bool is_symmetric = plan.shifts_per_launch > 0;
  const double tiles = double(plan.rows_per_group) * plan.cols_per_group;
  const double of_block = tiles * (is_symmetric ? 1.1 : 1.0) + 0.5;
  const auto of_launch = [&](int index) {
    return double(ceil_div(plan.launch(index).num_blocks(), grid_blocks)) * of_block + 1;
  };
  const int last = plan.num_launches() - 1;
  return last * of_launch(0) + of_launch(last);
}

/// A self problem: of the symmetric plans that the slots allow, and the rectangle, the fastest. Two
/// slots per row are always allowed up to `least_slot_bytes`.
inline SweepPlan plan_self(const SweepSize& size, const SweepOptions& options,
                           int64_t least_slot_bytes) {
  const int64_t grid = grid_blocks(options), row_tiles = size.row_tiles();
  const int64_t slot_bytes = std::max<int64_t>(1, size.rows * size.partial_bytes);
  SweepPlan best = plan_rectangle(size, options);
  if (2 * slot_bytes > least_slot_bytes) return best;
  const int64_t most_shifts = std::max<int64_t>(1, max_slot_bytes(options) / slot_bytes / 2);
  constexpr int64_t kMostRowsPerGroup = 64;
  for (int64_t rows_per_group = 1; rows_per_group <= std::min(row_tiles / 3, kMostRowsPerGroup);
       ++rows_per_group) {
    SweepPlan plan{};
    plan.row_tiles = plan.col_tiles = plan.row_tiles_per_launch = int(row_tiles);
    plan.rows_per_group = plan.cols_per_group = int(rows_per_group);
    plan.num_groups = int(ceil_div(row_tiles, rows_per_group)) | 1;  // the last one may be empty
    for (int shifts = 1; shifts <= std::min<int64_t>(plan.num_shifts(), most_shifts); ++shifts) {
      plan.shifts_per_launch = shifts;
      plan.num_slots = 2 * shifts;
      if (sweep_time(plan, grid) < sweep_time(best, grid)) best = plan;
    }
  }
  return best;
}

/// Both sides of two operands: of the plans with all shifts that the slots allow, the fastest; a
/// rectangle, to be followed by that of the columns, where those two are faster.
inline SweepPlan plan_both_sides(const SweepSize& size, const SweepOptions& options,
                                 int64_t least_slot_bytes) {
  const int64_t grid = grid_blocks(options);
  const int64_t row_tiles = size.row_tiles(), col_tiles = size.col_tiles();
  const SweepPlan rectangle = plan_rectangle(size, options);
  const SweepSize turned{size.cols, size.rows, size.tile_cols, size.tile_rows, size.partial_bytes};
  double best_time =
      sweep_time(rectangle, grid) + sweep_time(plan_rectangle(turned, options), grid);
  SweepPlan best = rectangle;
  const int64_t slot_bytes = std::max(size.rows, size.cols) * size.partial_bytes;
  if (row_tiles == 0 || col_tiles == 0 || 2 * slot_bytes > least_slot_bytes) return best;
  const int64_t most_shifts = std::max<int64_t>(1, max_slot_bytes(options) / slot_bytes / 2);
  constexpr int64_t kMostTilesPerGroup = 64;
  const int64_t most_tiles = std::max(row_tiles, col_tiles);
  for (int64_t per_group = 1; per_group <= std::min(most_tiles, kMostTilesPerGroup); ++per_group) {
    const int64_t groups = ceil_div(most_tiles, per_group);
    SweepPlan plan{};
    plan.has_two_operands = true;
    plan.row_tiles = plan.row_tiles_per_launch = int(row_tiles);
    plan.col_tiles = int(col_tiles);
    plan.num_groups = int(groups);
    plan.rows_per_group = int(ceil_div(row_tiles, groups));
    plan.cols_per_group = int(ceil_div(col_tiles, groups));
    for (int shifts = 1; shifts <= std::min(groups, most_shifts); ++shifts) {
      plan.shifts_per_launch = shifts;
      plan.num_slots = 2 * shifts;
      const double time = sweep_time(plan, grid);
      if (time < best_time) best = plan, best_time = time;
    }
  }
  return best;
}

}  // namespace fusedml
