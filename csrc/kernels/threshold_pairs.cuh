#pragma once
// Of each threshold of a row the hardest negative below it.  A negative falls into one interval
// between the row's sorted thresholds, found in log k steps, and the interval keeps the hardest of
// its own; what lies below a threshold is then the running maximum along the row.  As in
// threshold_sweep.cuh a row is one warp's alone, and its four lanes write one after the other: no
// atomics, and a pair of any size is kept whole.
#include "core/pair_mask.cuh"
#include "core/similarity.cuh"
#include "core/thresholds.cuh"
#include "kernels/extreme_pairs.cuh"
#include "kernels/line_tile.h"
#include "kernels/sweep_plan.h"

namespace fusedml {

template <class Number>
struct ThresholdPairsArguments {
  using Real = typename Number::Real;
  PairProblem<Number> problem;
  SweepPlan plan;
  ThresholdLists<Real> lists;  ///< of which only the thresholds and their count are read
  PlacedValue<Real>* slots;    ///< [plan.num_slots, slot_rows, lists.count]
  int64_t slot_rows;           ///< from row plan.first_row_tile * Shape::kRows on

  FUSEDML_DEVICE int64_t first_row() const {
    return int64_t(plan.first_row_tile) * LineTile<Number>::kRows;
  }
  /// The intervals below each threshold of a row.
  FUSEDML_DEVICE PlacedValue<Real>* intervals_of(int slot, int64_t row) const {
    return slots + (int64_t(slot) * slot_rows + (row - first_row())) * lists.count;
  }
};

template <class Number>
struct ThresholdPairsShared {
  using Real = typename Number::Real;
  using Shape = LineTile<Number>;
  AnyMeasureLogit<Real> logit;
  ThresholdLists<Real> lists;
  SideTile<Real, Shape::kRows, 0> rows;
  SideTile<Real, Shape::kCols, 0> cols;
};

template <class Number>
constexpr int kThresholdPairsSharedBytes =
    round_up(int(sizeof(ThresholdPairsShared<Number>)), 128) +
    SimilarityStream<Number, LineTile<Number>>::kSharedBytes;

/// Puts a pair into its interval, if it is counted and the hardest there so far.  For whole warps.
/// Not inlined, as threshold_weight.
template <class Real>
__device__ __attribute__((noinline)) void place_pair(const ThresholdLists<Real>* given, int64_t row,
                                                     PlacedValue<Real> pair, bool is_counted,
                                                     PlacedValue<Real>* intervals) {
  constexpr int kLanes = 4;  // that hold a row
  const ThresholdLists<Real>& lists = *given;
  int64_t k = lists.count;
  if (is_counted) k = lists.search(row, [&](Real t) { return t <= pair.value; });
  bool is_harder = false;
  if (k < lists.count) {  // all lanes read at once, for few pairs are the hardest so far
    PlacedValue<Real> hardest = intervals[k];
    hardest.merge(pair);
    is_harder = hardest.column == pair.column;
  }
  if (!__any_sync(kFullWarp, is_harder)) return;
  __syncwarp();  // all lanes have read
  for (int lane = 0; lane < kLanes; ++lane) {
    if (is_harder && int(threadIdx.x) % kLanes == lane) intervals[k].merge(pair);
    __syncwarp();  // the next lane's pair may be of the same interval
  }
}

template <class Number>
__global__ void __launch_bounds__(LineTile<Number>::kThreads, 1)
    threshold_pairs_kernel(ThresholdPairsArguments<Number> arguments) {
  using Real = typename Number::Real;
  using Shape = LineTile<Number>;
  using Shared = ThresholdPairsShared<Number>;
  const auto& problem = arguments.problem;
  const auto anchors = problem.anchors.active(), references = problem.references.active();
  const SweepPlan::Share share = arguments.plan.share(int(blockIdx.x));
  TileSequence tiles = share.tiles;
  tiles.col_end = min(tiles.col_end, int(ceil_div(references.rows, int64_t(Shape::kCols))));
  const int64_t row_begin = int64_t(tiles.row_begin) * Shape::kRows;
  Carver carver;
  Shared& shared = *carver.take<Shared>(1);
  if (threadIdx.x == 0) {
    shared.logit = AnyMeasureLogit<Real>(problem.logit, problem.is_second_kind);
    shared.lists = arguments.lists;
  }
  SimilarityStream<Number, Shape> stream(carver, anchors, references, tiles);
  shared.rows.template load<Shape::kThreads>(problem.anchors, {}, row_begin, anchors.rows);

  const int64_t count = arguments.lists.count;
  PlacedValue<Real>* const intervals = arguments.intervals_of(share.slots.of_rows, row_begin);
  const int64_t rows = min(int64_t(Shape::kRows), anchors.rows - row_begin);
  for (int64_t k = threadIdx.x; k < rows * count; k += Shape::kThreads)
    intervals[k] = PlacedValue<Real>();
  __syncthreads();  // the intervals are empty

  for (int tile_col = tiles.col_begin; tile_col < tiles.col_end; ++tile_col) {
    const int64_t col_begin = int64_t(tile_col) * Shape::kCols;
    shared.cols.template load<Shape::kThreads>(problem.references, {}, col_begin, references.rows);
    TileValues<Real, Shape> values;
    stream.compute(values);  // its barriers also publish what lies in shared
    const ThreadMap<Shape> map(fresh_thread_index());
    const TilePlace place{row_begin, col_begin, anchors.rows, references.rows, problem.excluded};
    const uint64_t negative = existing_pairs(place, map) &
                              ~alike_pairs<Shape>(problem, place, shared.rows, shared.cols, map);
    static_assert(Shape::kThreadRows == 2);
#pragma unroll 1  // half of the code
    for (int i = 0; i < 2; ++i) {
      const uint64_t of_line = negative >> (i * Shape::kThreadCols);
      const int line = map.row(i);
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j) {
        const Real product = i == 0 ? values.at(0, j) : values.at(1, j);
        const Real y = shared.logit.hardness(shared.logit.measure(
            product, shared.rows.squared_norm[line], shared.cols.squared_norm[map.col(j)]));
        place_pair(&shared.lists, row_begin + line, {y, int(col_begin) + map.col(j)},
                   (of_line >> j & 1) && y == y, intervals + line * count);  // no NaN
      }
    }
    __syncthreads();  // shared.cols has been read
  }
}

constexpr int kFinishPairsThreads = 256;

/// columns [num_rows, lists.count] of the rows [row_begin, row_begin + rows), a warp for each; -1
/// where no negative is below, and where there is no threshold.
template <class Real>
__global__ void __launch_bounds__(kFinishPairsThreads, 1)
    finish_threshold_pairs_kernel(const PlacedValue<Real>* slots, int num_slots, int64_t slot_rows,
                                  int64_t row_begin, int64_t rows, ThresholdLists<Real> lists,
                                  int64_t* columns) {
  using Placed = PlacedValue<Real>;
  const int64_t line =
      int64_t(blockIdx.x) * (kFinishPairsThreads / kWarpSize) + threadIdx.x / kWarpSize;
  if (line >= rows) return;
  const int lane = int(threadIdx.x) % kWarpSize;
  const int64_t row = row_begin + line, count = lists.count;
  Placed below;  // the thresholds before these 32
  for (int64_t begin = 0; begin < count; begin += kWarpSize) {
    const int64_t k = begin + lane;
    Placed hardest;
    for (int slot = 0; slot < num_slots && k < count; ++slot)
      hardest.merge(slots[(int64_t(slot) * slot_rows + line) * count + k]);
#pragma unroll
    for (int further = 1; further < kWarpSize; further *= 2) {
      const Placed lower{__shfl_up_sync(kFullWarp, hardest.value, further),
                         __shfl_up_sync(kFullWarp, hardest.column, further)};
      if (lane >= further) hardest.merge(lower);
    }
    hardest.merge(below);
    below = {__shfl_sync(kFullWarp, hardest.value, kWarpSize - 1),
             __shfl_sync(kFullWarp, hardest.column, kWarpSize - 1)};
    if (k >= count) continue;
    const bool is_found = hardest.column != Placed::kNoColumn && lists.at(row, k) < Real(kAbsent);
    columns[row * count + k] = is_found ? hardest.column : -1;
  }
}

}  // namespace fusedml
