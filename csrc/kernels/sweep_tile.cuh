#pragma once
// Forward sweep, one tile: similarities -> measures -> partials of the warps -> partials of the
// block.
#include "core/pair_mask.cuh"
#include "kernels/sweep_block.cuh"

namespace fusedml {

/// A plain part of a tile, of one warp: all pairs are counted, and all are negative.
template <class Shape, class Number, class Reduction, class Shared>
FUSEDML_DEVICE bool is_plain_part(const SweepArguments<Number, Reduction>& arguments,
                                  const Shared& shared, const TilePlace& place,
                                  const ThreadMap<Shape>& map) {
  return all_pairs_exist<Shape>(place) && arguments.problem.anchors.thresholds == nullptr &&
         arguments.problem.anchors.set_words == 0 &&
         !shared.rows.may_meet(map.warp_row, Shape::kWarpRows, shared.cols, map.warp_col,
                               Shape::kWarpCols);
}

/// Reduces a plain part whose sums need no maxima; false where there is none.
template <class Number, class Reduction, class Shape, class Logit, class Shared>
FUSEDML_DEVICE bool reduce_plain_part(const TileValues<typename Number::Real, Shape>& values,
                                      const SweepArguments<Number, Reduction>& arguments,
                                      const Logit& logit, const TilePlace& place,
                                      const ThreadMap<Shape>& map, Shared& shared,
                                      bool feeds_columns) {
  const bool is_plain = is_plain_part<Shape>(arguments, shared, place, map) &&
                        Reduction::template is_summable<Shape>(logit, values);
  const int warp =
      map.warp_row / Shape::kWarpRows * Shape::kWarpsAcross + map.warp_col / Shape::kWarpCols;
  if (map.lane_row == 0 && map.lane_col == 0) shared.is_plain[warp] = is_plain;
  if (!is_plain) return false;
  auto& row_partials = shared.row_partials[map.warp_col / Shape::kWarpCols];
  auto& col_partials = shared.col_partials[map.warp_row / Shape::kWarpRows];
  if (feeds_columns) {
    Reduction::template sum_plain<true>(logit, values, map, row_partials, col_partials);
  } else {
    Reduction::template sum_plain<false>(logit, values, map, row_partials, col_partials);
  }
  return true;
}

/// One tile's similarities -> measures -> partials of its rows, and of its columns, per warp.
template <class Number, class Logit, class Reduction, class Shape, class Shared>
FUSEDML_DEVICE void reduce_tile(TileValues<typename Number::Real, Shape>& values,
                                const SweepArguments<Number, Reduction>& arguments, Shared& shared,
                                int tile_row, int tile_col, bool feeds_columns) {
  const ThreadMap<Shape> map(fresh_thread_index());  // the main loop needs the registers
  const Logit logit = shared.logit;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j)
      values.at(i, j) = logit.measure(values.at(i, j), shared.rows.squared_norm[map.row(i)],
                                      shared.cols.squared_norm[map.col(j)]);

  const TilePlace place{int64_t(tile_row) * Shape::kRows, int64_t(tile_col) * Shape::kCols,
                        shared.active_rows, shared.active_cols, arguments.problem.excluded};
  if constexpr (Shared::kHasPlain)
    if (reduce_plain_part(values, arguments, logit, place, map, shared, feeds_columns)) return;
  const uint64_t positive = alike_pairs<Shape, !Logit::kIsGrouped>(arguments.problem, place,
                                                                   shared.rows, shared.cols, map);
  uint64_t of_rows = existing_pairs(place, map), of_cols = feeds_columns ? of_rows : 0;
  if (arguments.problem.anchors.thresholds != nullptr) {
    of_rows &= mined_pairs<true>(logit, values, positive, shared.rows, map);
    if (feeds_columns) of_cols &= mined_pairs<false>(logit, values, positive, shared.cols, map);
  }
  if constexpr (Logit::kIsGrouped) {
    of_rows &= pairs_of_groups(logit, shared.rows, shared.cols, map);
    reduce_groups<Number>(logit, values);
  }
  Reduction::prepare(logit, values, positive);

  const bool has_positives = __any_sync(kFullWarp, positive != 0);
  const SweepContext<Shared, typename Reduction::Parameters> context{
      shared, arguments.parameters, place.row_begin, place.col_begin};
  auto& row_partials = shared.row_partials[map.warp_col / Shape::kWarpCols];
  reduce_lines<true, false, Reduction>(context, values, of_rows & ~positive, map, row_partials);
  if (has_positives)
    reduce_lines<true, true, Reduction>(context, values, of_rows & positive, map, row_partials);
  if constexpr (!Reduction::kPositivesOnly && Shared::kMayFeedColumns) {
    // not for sweeps of positives, which visit the whole rectangle
    auto& col_partials = shared.col_partials[map.warp_row / Shape::kWarpRows];
    if (feeds_columns)
      reduce_lines<false, false, Reduction>(context, values, of_cols & ~positive, map,
                                            col_partials);
    if (feeds_columns && has_positives)
      reduce_lines<false, true, Reduction>(context, values, of_cols & positive, map, col_partials);
  }
}

/// The column of the block's partials that this thread looks after, or -1.
template <class Shape>
FUSEDML_DEVICE int my_column() {
  const int col = int(threadIdx.x) - Shape::kRows;
  return col < Shape::kCols ? col : -1;
}

/// Slot of this thread's column of a tile, which this block alone writes, or null.
template <class Number, class Reduction, class Shape, class Shared>
FUSEDML_DEVICE auto column_slot(const SweepArguments<Number, Reduction>& arguments,
                                const Shared& shared, int tile_col) {
  using Partial = typename Reduction::Partial;
  const int my_col = my_column<Shape>();
  const int64_t col = int64_t(tile_col) * Shape::kCols + my_col;
  if (my_col < 0 || col >= shared.active_cols) return static_cast<Partial*>(nullptr);
  return arguments.partials + shared.slots.of_cols * arguments.slot_rows + col;
}

/// Merges what a warp has made of `num_pairs` pairs of a line.
template <class Reduction, class Shared, class Partial>
FUSEDML_DEVICE void merge_part(Partial& merged, const Shared& shared, int warp, int num_pairs,
                               const Partial& part) {
  if constexpr (Shared::kHasPlain)
    if (shared.is_plain[warp]) return Reduction::merge_plain(merged, shared.logit, part, num_pairs);
  merged.merge(part);
}

/// Merges the warps' partials of a tile: rows into `running`, columns into the block's slot.
template <class Number, class Reduction, class Shape, class Shared>
FUSEDML_DEVICE void merge_tile(const SweepArguments<Number, Reduction>& arguments, Shared& shared,
                               int tile_col, bool feeds_columns) {
  using Partial = typename Reduction::Partial;
  const int my_row = int(threadIdx.x);
  if (my_row < Shape::kRows)
    for (int across = 0; across < Shape::kWarpsAcross; ++across)
      merge_part<Reduction>(shared.running[my_row], shared,
                            my_row / Shape::kWarpRows * Shape::kWarpsAcross + across,
                            Shape::kWarpCols, shared.row_partials[across][my_row]);
  if (!Shared::kMayFeedColumns || !feeds_columns) return;
  Partial* slot = column_slot<Number, Reduction, Shape>(arguments, shared, tile_col);
  if (slot == nullptr) return;
  Partial merged = *slot;
  const int my_col = my_column<Shape>();
  for (int down = 0; down < Shape::kWarpsDown; ++down)
    merge_part<Reduction>(merged, shared, down * Shape::kWarpsAcross + my_col / Shape::kWarpCols,
                          Shape::kWarpRows, shared.col_partials[down][my_col]);
  *slot = merged;
}

}  // namespace fusedml
