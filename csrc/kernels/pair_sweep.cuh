#pragma once
// Forward sweep: every tile of similarities -> measure -> one partial result per row.
// What is reduced (statistics, extrema, losses of positive pairs) is the Reduction.
#include "kernels/special_tiles.cuh"
#include "kernels/sweep_tile.cuh"

namespace fusedml {

/// This block's share of the sweep, without the tiles that hold no active pair, cannot hold a
/// positive one, or, with kIsSpecial, lie in plain squares.
template <class Shape, bool kIsSpecial, class Number, class Reduction>
FUSEDML_DEVICE SweepPlan::Share active_share(const SweepArguments<Number, Reduction>& arguments,
                                             int64_t active_rows, int64_t active_cols) {
  auto share = arguments.plan.share(int(blockIdx.x));
  TileSequence& tiles = share.tiles;
  tiles.row_end = min(tiles.row_end, int(ceil_div(active_rows, int64_t(Shape::kRows))));
  tiles.col_end = min(tiles.col_end, int(ceil_div(active_cols, int64_t(Shape::kCols))));
  if constexpr (Reduction::kPositivesOnly) {
    const auto& problem = arguments.problem;
    tiles.row_ranges = problem.anchors.template tile_label_ranges<Shape::kRows>();
    tiles.col_ranges = problem.references.template tile_label_ranges<Shape::kCols>();
  }
  if constexpr (kIsSpecial) {
    // the plan's groups are slots: which columns are special, the host does not know
    tiles.col_begin = 0;
    tiles.col_end = arguments.plan.col_tiles;
    take_special_tiles<Shape>(tiles, arguments.plain, plain_scale<Number>(arguments.problem.logit),
                              share.slots.of_rows, arguments.plan.num_groups);
  }
  return share;
}

/// Writes the block's partials of a row of tiles to its slots, or merges them into what lies there.
template <class Shape, class Number, class Reduction, class Shared>
FUSEDML_DEVICE void store_rows(const SweepArguments<Number, Reduction>& arguments,
                               const Shared& shared, int tile_row) {
  const int my_row = int(threadIdx.x);
  if (my_row >= Shape::kRows || int64_t(tile_row) * Shape::kRows + my_row >= shared.active_rows)
    return;
  const int64_t row = int64_t(tile_row - arguments.plan.first_row_tile) * Shape::kRows + my_row;
  auto& slot = arguments.partials[shared.slots.of_rows * arguments.slot_rows + row];
  auto merged = shared.running[my_row];
  if (shared.slots.adds) merged.merge(slot);
  slot = merged;
}

/// kIsSpecial: only the tiles outside plain squares, by a plan of rows of tiles whose groups are
/// slots.
template <class Number, class Logit, class Reduction, class Shape, bool kIsSpecial = false>
__global__ void __launch_bounds__(Shape::kThreads,
                                  kIsSpecial ? 1 : kSweepBlocks<Number, Logit, Reduction, Shape>)
    pair_sweep_kernel(SweepArguments<Number, Reduction> arguments) {
  using Partial = typename Reduction::Partial;
  using Shared = SweepShared<Number, Logit, Reduction, Shape>;
  static_assert(Shape::kThreads >= Shape::kRows + Shape::kCols, "one thread per row and column");
  const auto& problem = arguments.problem;
  const auto anchors = problem.anchors.active(), references = problem.references.active();
  const auto share = active_share<Shape, kIsSpecial>(arguments, anchors.rows, references.rows);
  const TileSequence& tiles = share.tiles;
  Carver carver;
  Shared& shared = *carver.take<Shared>(1);
  if (threadIdx.x == 0) {
    shared.logit = Logit(problem.logit, problem.is_second_kind);
    shared.active_rows = anchors.rows;
    shared.active_cols = references.rows;
    shared.slots = share.slots;
  }
  __syncthreads();  // shared.logit, active_rows, active_cols and slots are there
  SimilarityStream<Number, Shape> stream(carver, anchors, references, tiles);
  [[maybe_unused]] auto second =
      second_stream<Number, Logit, Shape>(carver, arguments.parameters, tiles);

  // each thread empties what it will merge into
  if (shared.slots.has_columns && !shared.slots.adds)
    for (int tile_col = tiles.col_begin; tile_col < tiles.col_end; ++tile_col)
      if (Partial* slot = column_slot<Number, Reduction, Shape>(arguments, shared, tile_col))
        *slot = Partial();

  const int my_row = int(threadIdx.x);
  for (int tile_row = tiles.row_begin; tile_row < tiles.row_end; ++tile_row) {
    shared.rows.template load<Shape::kThreads, kHasSecondProduct<Logit>>(
        problem.anchors, arguments.anchor_vectors, int64_t(tile_row) * Shape::kRows,
        shared.active_rows);
    if (my_row < Shape::kRows) shared.running[my_row] = Partial();
    for (int tile_col = tiles.col_begin; tile_col < tiles.col_end; ++tile_col) {
      if (!tiles.visits(tile_row, tile_col)) continue;
      // a tile on the diagonal of a self problem holds both of a pair's directions
      const bool feeds_columns =
          shared.slots.has_columns && !(tiles.upper_triangle && tile_row == tile_col);
      shared.cols.template load<Shape::kThreads, kHasSecondProduct<Logit>>(
          problem.references, arguments.reference_vectors, int64_t(tile_col) * Shape::kCols,
          shared.active_cols);
      TileValues<typename Number::Real, Shape> values;
      stream.compute(values);  // its barriers also publish shared.rows and shared.cols
      if constexpr (kHasSecondProduct<Logit>) {
        TileValues<typename Number::Real, Shape> others;
        second.compute(others);
        Reduction::reduce_products(values, others, arguments, shared, tile_row, tile_col,
                                   feeds_columns);
      } else {
        reduce_tile<Number, Logit>(values, arguments, shared, tile_row, tile_col, feeds_columns);
      }
      __syncthreads();  // the warps' partials are complete, and shared.rows / cols have been read;
                        // the next compute() has a barrier before the partials are overwritten
      merge_tile<Number, Reduction, Shape>(arguments, shared, tile_col, feeds_columns);
    }
    store_rows<Shape>(arguments, shared, tile_row);
  }
}

}  // namespace fusedml
