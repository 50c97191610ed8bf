#pragma once
// Forward sweep: every tile of similarities -> measure -> one partial result per row.
// What is reduced (statistics, extrema, losses of positive pairs) is the Reduction.
#include "core/architecture.h"
#include "core/pair_mask.cuh"
#include "core/similarity.cuh"
#include "kernels/sweep_plan.h"

namespace fusedml {

using SweepShape = TileShape<128, 128, 64, 32>;    ///< 8 warps
using SweepShapeFp64 = TileShape<64, 64, 32, 16>;  ///< doubles take twice the registers

template <class Number>
using SweepShapeOf = std::conditional_t<Number::kTensorCores, SweepShape, SweepShapeFp64>;

/// Small tiles where most are skipped.
template <class Number, class Reduction>
using ReductionShape =
    std::conditional_t<Reduction::kPositivesOnly, SweepShapeFp64, SweepShapeOf<Number>>;

template <class Number, class Reduction>
struct SweepArguments {
  using Real = typename Number::Real;
  PairProblem<Number> problem;
  SweepPlan plan;
  RowVectors<Real, Reduction::kVectors> anchor_vectors, reference_vectors;
  typename Reduction::Parameters parameters;
  typename Reduction::Partial* partials;  ///< [plan.num_slots, anchors]
};

/// The lanes of a warp that hold pairs of the same row (neighbours), or of the same column.
template <bool kOfRows>
struct LineLanes {
  template <class T, class Combine>
  static FUSEDML_DEVICE T combine(T value, Combine combine_two) {
    constexpr int kFirst = kOfRows ? 1 : 4, kLast = kOfRows ? 2 : 16;
#pragma unroll
    for (int mask = kFirst; mask <= kLast; mask *= 2)
      value = combine_two(value, shuffle_xor(value, mask));
    return value;
  }
  template <class Real>
  static FUSEDML_DEVICE Real max(Real value) {
    return combine(value, [](Real a, Real b) { return a > b ? a : b; });
  }
  template <class Real>
  static FUSEDML_DEVICE Real sum(Real value) {
    return combine(value, [](Real a, Real b) { return a + b; });
  }
};

/// One pair of a tile, as a Reduction sees it.
template <class Real>
struct TilePair {
  Real value;
  bool is_counted;
  int row, col;  ///< in the tile
};

/// What a Reduction has at hand beside the pairs.
template <class Shared, class Parameters>
struct SweepContext {
  const Shared& shared;
  const Parameters& parameters;
};

/// Shared memory of a block, beside the slices of the main loop.
template <class Number, class Logit, class Reduction, class Shape>
struct SweepShared {
  using Real = typename Number::Real;
  using Partial = typename Reduction::Partial;
  // numbers that only the epilogue needs: in registers they would be spilled over the main loop
  Logit logit;
  int64_t active_rows, active_cols;
  SideTile<Real, Shape::kRows, Reduction::kVectors> rows;
  SideTile<Real, Shape::kCols, Reduction::kVectors> cols;
  Partial running[Shape::kRows];  ///< over this block's columns; row r is thread r's own
  Partial row_partials[Shape::kWarpsAcross][Shape::kRows];
  Partial col_partials[Shape::kWarpsDown][Shape::kCols];
};

template <class Number, class Logit, class Reduction, class Shape>
constexpr int kSweepSharedBytes =
    round_up(int(sizeof(SweepShared<Number, Logit, Reduction, Shape>)), 128) +
    SimilarityStream<Number, Shape>::kSharedBytes;

/// Two blocks share a multiprocessor where 128 registers suffice (without spills on sm_90: ptxas)
/// and their shared memory fits (not on sm_80, which spills in 128 registers too): while one is in
/// its epilogue, the other keeps the tensor cores busy.
template <class Number, class Logit, class Reduction, class Shape>
constexpr int kSweepBlocks =
    Reduction::kIsHot && Number::kProductDepth == 16 && !Logit::kUsesNorms &&
            shared_memory_fits(2, kSweepSharedBytes<Number, Logit, Reduction, Shape>)
        ? 2
        : 1;

/// Reduces the warp's part of every row (kOfRows) or column over `pairs`, which are either all
/// positive or all negative, into `partials`.  The negatives come first and also reset the partial.
template <bool kOfRows, bool kPositive, class Reduction, class Context, class Real, class Shape,
          class Partial, int kLines>
FUSEDML_DEVICE void reduce_lines(const Context& context, const TileValues<Real, Shape>& values,
                                 uint64_t pairs, const ThreadMap<Shape>& map,
                                 Partial (&partials)[kLines]) {
  using Bits = PairBits<Shape>;
  constexpr int kThreadLines = kOfRows ? Shape::kThreadRows : Shape::kThreadCols;
  constexpr int kItems = kOfRows ? Shape::kThreadCols : Shape::kThreadRows;
  const int lane = int(threadIdx.x) % kWarpSize;
  const bool is_leader = kOfRows ? lane % 4 == 0 : lane / 4 == 0;
#pragma unroll
  for (int line = 0; line < kThreadLines; ++line) {
    const auto pair_at = [&](int item) {
      const int i = kOfRows ? line : item, j = kOfRows ? item : line;
      return TilePair<Real>{values.at(i, j), bool(pairs & Bits::bit(i, j)), map.row(i), map.col(j)};
    };
    const int count = __popcll(pairs & (kOfRows ? Bits::row(line) : Bits::col(line)));
    const auto reduced =
        Reduction::template reduce<LineLanes<kOfRows>, kPositive, kItems>(context, pair_at, count);
    if (is_leader)
      Reduction::template store<kPositive>(reduced,
                                           partials[kOfRows ? map.row(line) : map.col(line)]);
  }
}

/// One tile's similarities -> measures -> partials of its rows, and of its columns, per warp.
template <class Number, class Logit, class Reduction, class Shape, class Shared>
FUSEDML_DEVICE void reduce_tile(TileValues<typename Number::Real, Shape>& values,
                                const SweepArguments<Number, Reduction>& arguments, Shared& shared,
                                int tile_row, int tile_col, bool feeds_columns) {
  const ThreadMap<Shape> map;
  const Logit logit = shared.logit;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j)
      values.at(i, j) = logit.measure(values.at(i, j), shared.rows.squared_norm[map.row(i)],
                                      shared.cols.squared_norm[map.col(j)]);

  const TilePlace place{int64_t(tile_row) * Shape::kRows, int64_t(tile_col) * Shape::kCols,
                        shared.active_rows, shared.active_cols, arguments.problem.exclude_diagonal};
  const uint64_t positive = equal_labels<Shape>(shared.rows, shared.cols, map);
  uint64_t of_rows = existing_pairs(place, map), of_cols = feeds_columns ? of_rows : 0;
  if (arguments.problem.anchors.thresholds != nullptr) {
    of_rows &= mined_pairs<true>(logit, values, positive, shared.rows, map);
    if (feeds_columns) of_cols &= mined_pairs<false>(logit, values, positive, shared.cols, map);
  }
  Reduction::prepare(logit, values, positive);

  const bool has_positives = __any_sync(kFullWarp, positive != 0);
  const SweepContext<Shared, typename Reduction::Parameters> context{shared, arguments.parameters};
  auto& row_partials = shared.row_partials[map.warp_col / Shape::kWarpCols];
  reduce_lines<true, false, Reduction>(context, values, of_rows & ~positive, map, row_partials);
  if (has_positives)
    reduce_lines<true, true, Reduction>(context, values, of_rows & positive, map, row_partials);
  if constexpr (!Reduction::kPositivesOnly) {  // sweeps of positives visit the whole rectangle
    auto& col_partials = shared.col_partials[map.warp_row / Shape::kWarpRows];
    if (feeds_columns)
      reduce_lines<false, false, Reduction>(context, values, of_cols & ~positive, map,
                                            col_partials);
    if (feeds_columns && has_positives)
      reduce_lines<false, true, Reduction>(context, values, of_cols & positive, map, col_partials);
  }
}

/// Merges the warps' partials of a tile: rows into `running`, columns into the block's slot.
template <class Number, class Reduction, class Shape, class Shared>
FUSEDML_DEVICE void merge_tile(const SweepArguments<Number, Reduction>& arguments, Shared& shared,
                               int row_group, bool is_first_tile_row, int tile_col,
                               bool feeds_columns) {
  using Partial = typename Reduction::Partial;
  const int my_row = int(threadIdx.x), my_col = my_row - Shape::kRows;
  if (my_row < Shape::kRows)
    for (int warp = 0; warp < Shape::kWarpsAcross; ++warp)
      shared.running[my_row].merge(shared.row_partials[warp][my_row]);
  const int64_t col = int64_t(tile_col) * Shape::kCols + my_col;
  if (!feeds_columns || my_col < 0 || my_col >= Shape::kCols || col >= shared.active_cols) return;
  // this block alone owns slot `row_group` of these columns and visits them in a fixed order
  Partial& slot = arguments.partials[row_group * arguments.problem.anchors.embeddings.rows + col];
  Partial merged;
  if (!is_first_tile_row) merged = slot;
  for (int warp = 0; warp < Shape::kWarpsDown; ++warp)
    merged.merge(shared.col_partials[warp][my_col]);
  slot = merged;
}

template <class Number, class Logit, class Reduction, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, kSweepBlocks<Number, Logit, Reduction, Shape>)
    pair_sweep_kernel(SweepArguments<Number, Reduction> arguments) {
  using Partial = typename Reduction::Partial;
  using Shared = SweepShared<Number, Logit, Reduction, Shape>;
  static_assert(Shape::kThreads >= Shape::kRows + Shape::kCols, "one thread per row and column");
  const auto& problem = arguments.problem;
  const auto anchors = problem.anchors.active(), references = problem.references.active();
  auto share = arguments.plan.share(int(blockIdx.x));
  TileSequence& tiles = share.tiles;
  tiles.row_end = min(tiles.row_end, int(ceil_div(anchors.rows, int64_t(Shape::kRows))));
  tiles.col_end = min(tiles.col_end, int(ceil_div(references.rows, int64_t(Shape::kCols))));
  if constexpr (Reduction::kPositivesOnly) {
    tiles.row_ranges = problem.anchors.template tile_label_ranges<Shape::kRows>();
    tiles.col_ranges = problem.references.template tile_label_ranges<Shape::kCols>();
  }
  Carver carver;
  Shared& shared = *carver.take<Shared>(1);
  if (threadIdx.x == 0) {
    shared.logit = Logit(problem.logit, problem.is_squared_distance);
    shared.active_rows = anchors.rows;
    shared.active_cols = references.rows;
  }
  __syncthreads();  // shared.logit, active_rows and active_cols are there
  SimilarityStream<Number, Shape> stream(carver, anchors, references, tiles);

  const int my_row = int(threadIdx.x);
  for (int tile_row = tiles.row_begin; tile_row < tiles.row_end; ++tile_row) {
    shared.rows.template load<Shape::kThreads>(problem.anchors, arguments.anchor_vectors,
                                               int64_t(tile_row) * Shape::kRows,
                                               shared.active_rows);
    if (my_row < Shape::kRows) shared.running[my_row] = Partial();
    for (int tile_col = tiles.col_begin; tile_col < tiles.col_end; ++tile_col) {
      if (!tiles.visits(tile_row, tile_col)) continue;
      const bool feeds_columns = tiles.upper_triangle && tile_row != tile_col;
      shared.cols.template load<Shape::kThreads>(problem.references, arguments.reference_vectors,
                                                 int64_t(tile_col) * Shape::kCols,
                                                 shared.active_cols);
      TileValues<typename Number::Real, Shape> values;
      stream.compute(values);  // its barriers also publish shared.rows and shared.cols
      reduce_tile<Number, Logit>(values, arguments, shared, tile_row, tile_col, feeds_columns);
      __syncthreads();  // the warps' partials are complete, and shared.rows / cols have been read;
                        // the next compute() has a barrier before the partials are overwritten
      merge_tile<Number, Reduction, Shape>(arguments, shared, share.row_group,
                                           tile_row == tiles.row_begin, tile_col, feeds_columns);
    }
    const int64_t row = int64_t(tile_row) * Shape::kRows + my_row;
    if (my_row < Shape::kRows && row < shared.active_rows) {
      Partial& slot = arguments.partials[share.col_group * problem.anchors.embeddings.rows + row];
      const bool is_begun = tiles.upper_triangle && share.row_group == share.col_group &&
                            tile_row > tiles.row_begin;  // by the tiles above, as columns
      Partial merged = shared.running[my_row];
      if (is_begun) merged.merge(slot);
      slot = merged;
    }
  }
}

}  // namespace fusedml
