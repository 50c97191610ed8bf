#pragma once
// The pairs of each row whose measures lie in a window of the row's own: counted, or listed in the
// order of their columns.  Both are one kernel, so that both see the same bits.  A block walks the
// columns of its share in order, and each row is one warp's alone: where a pair goes is known from
// the masks of the four lanes that hold the row, without an atomic.
#include "core/pair_mask.cuh"
#include "core/similarity.cuh"
#include "kernels/line_tile.h"
#include "logits/any_measure.h"

namespace fusedml {

template <class Number>
struct WindowSweepArguments {
  using Real = typename Number::Real;
  static constexpr int kPerKind = 3;  ///< low, high and shift
  PairProblem<Number> problem;
  RowVectors<Real, 2 * kPerKind> windows;  ///< of positives, then of negatives
  int tiles_per_split, num_splits;
  int64_t* counts;      ///< [2, n, num_splits], or null: the pairs are listed
  const int64_t* ends;  ///< likewise, of each count's pairs in the list
  int64_t size;         ///< of the list: beyond it nothing is written
  int64_t *rows, *columns;
  Real* measures;  ///< null: not listed

  /// The place of (kind, row, split) among counts and ends.
  FUSEDML_DEVICE int64_t place(int kind, int64_t row, int split) const {
    return (kind * problem.anchors.embeddings.rows + row) * num_splits + split;
  }
};

template <class Number>
struct WindowSweepShared {
  using Real = typename Number::Real;
  using Shape = LineTile<Number>;
  AnyMeasureLogit<Real> logit;
  SideTile<Real, Shape::kRows, 2 * WindowSweepArguments<Number>::kPerKind> rows;
  SideTile<Real, Shape::kCols, 0> cols;
  int64_t next[2][Shape::kRows];  ///< pairs counted so far, or where the next one is written
};

template <class Number>
constexpr int kWindowSweepSharedBytes = round_up(int(sizeof(WindowSweepShared<Number>)), 128) +
                                        SimilarityStream<Number, LineTile<Number>>::kSharedBytes;

/// The pairs of a thread that lie in the windows of their rows.
template <class Number, class Shape, class Rows>
FUSEDML_DEVICE uint64_t pairs_in_windows(const TileValues<typename Number::Real, Shape>& measures,
                                         const Rows& rows, int kind, const ThreadMap<Shape>& map) {
  using Real = typename Number::Real;
  const auto* const window = rows.vector + WindowSweepArguments<Number>::kPerKind * kind;
  uint64_t inside = 0;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i) {
    const Real low = window[0][map.row(i)], high = window[1][map.row(i)];
    const Real shift = window[2][map.row(i)];
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const Real y = measures.at(i, j) + shift;
      if (y >= low && y <= high) inside |= PairBits<Shape>::bit(i, j);  // no NaN
    }
  }
  return inside;
}

/// One row's listed pairs of a tile, as the four lanes hold them; see ThreadMap for the columns.
class LineMasks {
 public:
  static constexpr int kLanes = 4;

  /// mask: bit j for this lane's j-th column.
  explicit FUSEDML_DEVICE LineMasks(uint32_t mask) : own_(mask), lane_(threadIdx.x % kLanes) {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane)
      of_lane_[lane] =
          __shfl_sync(kFullWarp, mask, int(threadIdx.x) % kWarpSize / kLanes * kLanes + lane);
  }

  FUSEDML_DEVICE int count() const {
    int count = 0;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) count += __popc(of_lane_[lane]);
    return count;
  }
  FUSEDML_DEVICE bool holds(int j) const { return own_ >> j & 1; }

  /// How many lie before this lane's j-th column.
  FUSEDML_DEVICE int before(int j) const {
    // two columns of each lane are neighbours, and behind them come those of the next lane
    const int first = j / 2 * 2;
    const uint32_t earlier = (uint32_t(1) << first) - 1, both = uint32_t(3) << first;
    int before = j > first ? int(own_ >> first & 1) : 0;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane)
      before += __popc(of_lane_[lane] & (lane < lane_ ? earlier | both : earlier));
    return before;
  }

 private:
  uint32_t own_, of_lane_[kLanes];
  int lane_;
};

/// Lists a line of a warp's tile from place `begin` on.
template <class Number, class Shape>
FUSEDML_DEVICE void list_line(const WindowSweepArguments<Number>& arguments,
                              const TileValues<typename Number::Real, Shape>& measures, int i,
                              const LineMasks& masks, const TilePlace& place,
                              const ThreadMap<Shape>& map, int64_t begin) {
#pragma unroll
  for (int j = 0; j < Shape::kThreadCols; ++j) {
    if (!masks.holds(j)) continue;
    const int64_t at = begin + masks.before(j);
    if (at >= arguments.size) continue;  // the caller's ends are not those of these pairs
    arguments.rows[at] = place.row_begin + map.row(i);
    arguments.columns[at] = place.col_begin + map.col(j);
    if (arguments.measures != nullptr)
      arguments.measures[at] = i == 0 ? measures.at(0, j) : measures.at(1, j);
  }
}

/// Counts or lists a warp's pairs of one kind.
template <class Number, class Shared, class Shape>
FUSEDML_DEVICE void take_pairs(const WindowSweepArguments<Number>& arguments, Shared& shared,
                               const TileValues<typename Number::Real, Shape>& measures, int kind,
                               uint64_t pairs, const TilePlace& place,
                               const ThreadMap<Shape>& map) {
  static_assert(Shape::kThreadRows == 2 && Shape::kThreadCols <= 32);
  if (!__any_sync(kFullWarp, pairs != 0)) return;
#pragma unroll 1  // half of the code
  for (int i = 0; i < 2; ++i) {
    const LineMasks masks(uint32_t((pairs & PairBits<Shape>::row(i)) >> (i * Shape::kThreadCols)));
    int64_t& next = shared.next[kind][map.row(i)];
    const int64_t begin = next;
    if (arguments.counts == nullptr) list_line(arguments, measures, i, masks, place, map, begin);
    __syncwarp();  // all four lanes have read it
    if (map.lane_col == 0) next = begin + masks.count();
    __syncwarp();
  }
}

template <class Number>
__global__ void __launch_bounds__(LineTile<Number>::kThreads, 1)
    window_sweep_kernel(WindowSweepArguments<Number> arguments) {
  using Real = typename Number::Real;
  using Shape = LineTile<Number>;
  using Shared = WindowSweepShared<Number>;
  const auto& problem = arguments.problem;
  const auto anchors = problem.anchors.active(), references = problem.references.active();
  const int split = int(blockIdx.x) % arguments.num_splits;
  const int tile_row = int(blockIdx.x) / arguments.num_splits;
  const int64_t row_begin = int64_t(tile_row) * Shape::kRows;
  TileSequence tiles{};
  tiles.row_begin = tile_row;
  tiles.row_end = tile_row + 1;
  tiles.col_begin = split * arguments.tiles_per_split;
  tiles.col_end = min(tiles.col_begin + arguments.tiles_per_split,
                      int(ceil_div(references.rows, int64_t(Shape::kCols))));
  Carver carver;
  Shared& shared = *carver.take<Shared>(1);
  if (threadIdx.x == 0) shared.logit = AnyMeasureLogit<Real>(problem.logit, problem.is_second_kind);
  SimilarityStream<Number, Shape> stream(carver, anchors, references, tiles);
  shared.rows.template load<Shape::kThreads>(problem.anchors, arguments.windows, row_begin,
                                             anchors.rows);
  const int64_t num_rows = problem.anchors.embeddings.rows;
  const auto for_each_line = [&](const auto& run) {
    for (int k = int(threadIdx.x); k < 2 * Shape::kRows; k += Shape::kThreads) {
      const int kind = k / Shape::kRows, row = k % Shape::kRows;
      if (row_begin + row < num_rows)
        run(shared.next[kind][row], arguments.place(kind, row_begin + row, split));
    }
  };
  for_each_line([&](int64_t& next, int64_t place) {
    next = arguments.counts != nullptr || place == 0 ? 0 : arguments.ends[place - 1];
  });

  for (int tile_col = tiles.col_begin; tile_col < tiles.col_end; ++tile_col) {
    const int64_t col_begin = int64_t(tile_col) * Shape::kCols;
    shared.cols.template load<Shape::kThreads>(problem.references, {}, col_begin, references.rows);
    TileValues<Real, Shape> values;
    stream.compute(values);  // its barriers also publish what lies in shared
    const ThreadMap<Shape> map(fresh_thread_index());
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j)
        values.at(i, j) =
            shared.logit.measure(values.at(i, j), shared.rows.squared_norm[map.row(i)],
                                 shared.cols.squared_norm[map.col(j)]);
    const TilePlace place{row_begin, col_begin, anchors.rows, references.rows, problem.excluded};
    const uint64_t positive = alike_pairs<Shape>(problem, place, shared.rows, shared.cols, map);
    const uint64_t existing = existing_pairs(place, map);
    const bool has_positives = __any_sync(kFullWarp, positive != 0);
#pragma unroll 1  // half of the code
    for (int kind = has_positives ? 0 : 1; kind < 2; ++kind) {
      const uint64_t pairs = existing & (kind == 0 ? positive : ~positive);
      take_pairs(arguments, shared, values, kind,
                 pairs & pairs_in_windows<Number>(values, shared.rows, kind, map), place, map);
    }
    __syncthreads();  // shared.cols has been read, and the pairs are counted
  }
  if (arguments.counts == nullptr) return;
  for_each_line([&](int64_t& next, int64_t place) { arguments.counts[place] = next; });
}

}  // namespace fusedml
