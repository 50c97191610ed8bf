#pragma once
// Sums of each row's negatives (or of both kinds) against each threshold of the row.  A warp has 16
// rows of a tile and all of its columns, so that a sum is one thread's to write: four lanes hold
// the pairs of a row, and one of them adds what they have found to the slot of row and threshold.
#include "core/pair_mask.cuh"
#include "core/similarity.cuh"
#include "core/thresholds.cuh"
#include "kernels/line_reduction.cuh"
#include "kernels/line_tile.h"
#include "kernels/sweep_plan.h"

namespace fusedml {

/// kHasOthers: each row has further embeddings, and the harder of two measures counts: a smaller
/// tile, of which a thread holds two.
template <class Number, bool kHasOthers = false>
using ThresholdTile = std::conditional_t<kHasOthers, TileShape<64, 64, 16, 64>, LineTile<Number>>;

template <class Number>
struct ThresholdSweepArguments {
  using Real = typename Number::Real;
  PairProblem<Number> problem;
  SweepPlan plan;
  ThresholdLists<Real> lists;
  PairSide<Number> others;  ///< the rows' further embeddings, if they have some
  int num_sums;             ///< 3 of negatives; 2: the pulses of positives and of negatives
  Real* slots;              ///< [plan.num_slots, num_sums, slot_rows, lists.count]
  int64_t first_row, slot_rows;
  /// Where hinges are searched: [2, slot_rows, lists.count], for all blocks, and the slots are
  /// [plan.num_slots, slot_rows]; otherwise null.
  int* counts;

  /// Slots of a row, of one sum.
  FUSEDML_DEVICE int64_t row_sums() const { return counts == nullptr ? lists.count : 1; }
  FUSEDML_DEVICE int64_t sum_stride() const { return slot_rows * row_sums(); }
  FUSEDML_DEVICE int kinds_of_sums() const { return counts == nullptr ? num_sums : 1; }
  /// Sum 0 of a row.
  FUSEDML_DEVICE Real* sums_of(int slot, int64_t row) const {
    return slots + slot * kinds_of_sums() * sum_stride() + (row - first_row) * row_sums();
  }
};

template <class Number, class Logit, bool kHasOthers>
struct ThresholdSweepShared {
  using Real = typename Number::Real;
  using Shape = ThresholdTile<Number, kHasOthers>;
  Logit logit;
  ThresholdLists<Real> lists;
  SideTile<Real, Shape::kRows, 0> rows;
  SideTile<Real, Shape::kCols, 0> cols;
};

template <class Number, class Logit, bool kHasOthers>
constexpr int kThresholdSweepSharedBytes =
    round_up(int(sizeof(ThresholdSweepShared<Number, Logit, kHasOthers>)), 128) +
    (kHasOthers ? 2 : 1) *
        SimilarityStream<Number, ThresholdTile<Number, kHasOthers>>::kSharedBytes;

/// The products of the rows' further embeddings, where there are some.
template <bool kHasOthers, class Number, class Shape>
FUSEDML_DEVICE auto other_stream(Carver& carver,
                                 const MatrixView<typename Number::Element>& anchors,
                                 const MatrixView<typename Number::Element>& references,
                                 const TileSequence& tiles) {
  if constexpr (kHasOthers) {
    return SimilarityStream<Number, Shape>(carver, anchors, references, tiles);
  } else {
    return NoStream();
  }
}

/// From a thread's products to hardnesses.  norm_of(i): of its i-th row.
template <class Shared, class Real, class Shape, class NormOf>
FUSEDML_DEVICE void to_hardness(const Shared& shared, TileValues<Real, Shape>& values,
                                const ThreadMap<Shape>& map, const NormOf& norm_of) {
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i) {
    const Real norm = norm_of(i);
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j)
      values.at(i, j) = shared.lists.hardness(
          shared.logit.measure(values.at(i, j), norm, shared.cols.squared_norm[map.col(j)]));
  }
}

/// Adds one line of a warp's tile, hardnesses y, to the sums of its row.  add(sums, y, t).
template <class Real, int kItems, class Add>
FUSEDML_DEVICE void add_line(const ThresholdLists<Real>& lists, const Real (&y)[kItems],
                             int64_t first, int64_t last, bool exists, int64_t row, bool is_leader,
                             Real* sums_of_row, int64_t sum_stride, int num_sums, const Add& add) {
  for (int64_t k = first; k < last; ++k) {
    const Real t = exists ? lists.at(row, k) : Real(kAbsent);
    if (!__any_sync(kFullWarp, t < Real(kAbsent))) break;
    ThresholdSums<Real> sums;
#pragma unroll
    for (int item = 0; item < kItems; ++item) add(sums, y[item], t);
#pragma unroll
    for (int s = 0; s < ThresholdSums<Real>::kCount; ++s) {
      if (s >= num_sums) break;
      const Real sum = LineLanes<true>::sum(sums.sum[s]);
      if (is_leader && t < Real(kAbsent)) sums_of_row[s * sum_stride + k] += sum;
    }
  }
}

// Of hinges against many thresholds a pair finds the run [low, high) that it meets in log k steps.
// What it adds to f is f(y - t_k) = (y - center) - (t_k - center) + margin for each: the first
// part, times the length of the run, is a sum of the row; the others follow from how many pairs
// meet each threshold.  Those are counted where the runs begin and end, +1 and -1, and added up
// when the sweep is over: integers, which atomics add to the same bits in any order.

constexpr int64_t kMostDirectThresholds = 32;

constexpr bool is_searched_form(ThresholdForm form, int64_t count) {
  return form == ThresholdForm::kHinge && count > kMostDirectThresholds;
}

/// Counts a run of a row.
FUSEDML_DEVICE void count_run(ThresholdRun run, int64_t count, int* counts_of_row) {
  if (run.length() == 0) return;
  atomicAdd(counts_of_row + run.low, 1);
  if (run.high < count) atomicAdd(counts_of_row + run.high, -1);
}

/// Counts what a pair meets; what it adds to the sum of its row.  further: from the counts of what
/// has a loss to those of what counts.  Not inlined, as threshold_weight.
template <class Real>
__device__ __attribute__((noinline)) Real add_run(const ThresholdLists<Real>* given, int64_t row,
                                                  Real y, Real center, int* counts_of_row,
                                                  int64_t further) {
  const ThresholdLists<Real>& lists = *given;
  const ThresholdRun run = met_run(lists, row, y);
  count_run(run, lists.count, counts_of_row);
  if (!lists.counts_all()) {
    const int64_t end = lists.search(row, [&](Real t) { return lists.counts_from(y, t); });
    count_run(ThresholdRun{run.low, end}, lists.count, counts_of_row + further);
  }
  return run.length() == 0 ? Real(0) : Real(run.length()) * (y - center);
}

/// Adds the pairs of a line of a warp's tile by searching.
template <class Number, int kItems>
FUSEDML_DEVICE void add_searched_line(const ThresholdSweepArguments<Number>& arguments,
                                      const ThresholdLists<typename Number::Real>& lists,
                                      const typename Number::Real (&y)[kItems], bool exists,
                                      int64_t row, bool is_leader,
                                      typename Number::Real* sum_of_row) {
  using Real = typename Number::Real;
  const int64_t further = arguments.slot_rows * lists.count;
  int* const counts_of_row = arguments.counts + (row - arguments.first_row) * lists.count;
  const Real center = exists ? lists.center(row) : Real(0);
  Real sum = 0;
  int num_pairs = 0;
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    if (!exists || y[item] <= -Real(kAbsent)) continue;  // no pair
    ++num_pairs;
    sum += add_run(&lists, row, y[item], center, counts_of_row, further);
  }
  __syncwarp();  // the lanes have parted
  sum = LineLanes<true>::sum(sum);
  num_pairs = LineLanes<true>::sum(num_pairs);
  if (!is_leader || !exists) return;
  *sum_of_row += sum;
  if (lists.counts_all()) atomicAdd(counts_of_row + further, num_pairs);
}

/// Edges of a grid that any pair of a warp's lines falls to.
template <class Real, int kItems>
FUSEDML_DEVICE void met_edges(const Real (&y)[kItems], int64_t count, int64_t& first,
                              int64_t& last) {
  Real least = Real(kAbsent), most = -Real(kAbsent);
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    if (y[item] <= -Real(kAbsent)) continue;  // no pair
    least = y[item] < least ? y[item] : least;
    most = y[item] > most ? y[item] : most;
  }
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const Real other_least = shuffle_xor(least, mask), other_most = shuffle_xor(most, mask);
    least = other_least < least ? other_least : least;
    most = other_most > most ? other_most : most;
  }
  const Real end = Real(count);
  first = least > Real(0) ? int64_t(std::floor(least < end ? least : end)) : 0;
  last = most >= Real(-1) ? int64_t(std::floor(most < end ? most : end)) + 2 : 0;
  last = last < count ? last : count;
}

/// Adds a tile's pairs of one kind.  sums: those of the first row of the tile.
template <class Number, class Shared, class Shape>
FUSEDML_DEVICE void add_pairs(const ThresholdSweepArguments<Number>& arguments,
                              const Shared& shared,
                              const TileValues<typename Number::Real, Shape>& values,
                              uint64_t pairs, const TilePlace& place, typename Number::Real* sums,
                              int num_sums) {
  using Real = typename Number::Real;
  const ThreadMap<Shape> map(fresh_thread_index());
  const ThresholdLists<Real>& lists = shared.lists;
  const int64_t sum_stride = arguments.sum_stride();
  static_assert(Shape::kThreadRows == 2);
#pragma unroll 1  // half of the code: each form is there for every column
  for (int i = 0; i < 2; ++i) {
    const int64_t row = place.row_begin + map.row(i);
    const bool exists = row < place.active_rows;
    const uint64_t pairs_of_line = pairs >> (i * Shape::kThreadCols);
    Real y[Shape::kThreadCols];
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const Real value = i == 0 ? values.at(0, j) : values.at(1, j);
      y[j] = pairs_of_line >> j & 1 ? value : -Real(kAbsent);
    }
    Real* const sums_of_row = sums + map.row(i) * arguments.row_sums();
    int64_t first = 0, last = lists.count;
    if (lists.form == ThresholdForm::kPulse) met_edges(y, lists.count, first, last);
    const auto add_with = [&](const auto& add) {
      add_line(lists, y, first, last, exists, row, map.lane_col == 0, sums_of_row, sum_stride,
               num_sums, add);
    };
    using Sums = ThresholdSums<Real>;
    if (arguments.counts != nullptr) {
      add_searched_line(arguments, lists, y, exists, row, map.lane_col == 0, sums_of_row);
    } else if (lists.form == ThresholdForm::kHinge) {
      add_with([&](Sums& sums, Real y, Real t) { sums.add_hinge(lists, y, t); });
    } else if (lists.form == ThresholdForm::kSoftplus) {
      add_with([&](Sums& sums, Real y, Real t) { sums.add_softplus(lists, y, t); });
    } else if (lists.form == ThresholdForm::kSigmoid) {
      add_with([&](Sums& sums, Real y, Real t) { sums.add_sigmoid(lists, y, t); });
    } else {
      add_with([&](Sums& sums, Real y, Real t) { sums.add_pulse(lists, y, t); });
    }
  }
}

template <class Number, class Logit, bool kHasOthers>
__global__ void __launch_bounds__(ThresholdTile<Number, kHasOthers>::kThreads, 1)
    threshold_sweep_kernel(ThresholdSweepArguments<Number> arguments) {
  using Real = typename Number::Real;
  using Shape = ThresholdTile<Number, kHasOthers>;
  using Shared = ThresholdSweepShared<Number, Logit, kHasOthers>;
  const auto& problem = arguments.problem;
  const auto anchors = problem.anchors.active(), references = problem.references.active();
  const SweepPlan::Share share = arguments.plan.share(int(blockIdx.x));
  TileSequence tiles = share.tiles;
  tiles.col_end = min(tiles.col_end, int(ceil_div(references.rows, int64_t(Shape::kCols))));
  const int tile_row = tiles.row_begin;
  const int64_t row_begin = int64_t(tile_row) * Shape::kRows;
  Carver carver;
  Shared& shared = *carver.take<Shared>(1);
  if (threadIdx.x == 0) {
    shared.logit = Logit(problem.logit, problem.is_second_kind);
    shared.lists = arguments.lists;
  }
  SimilarityStream<Number, Shape> stream(carver, anchors, references, tiles);
  [[maybe_unused]] auto other = other_stream<kHasOthers, Number, Shape>(
      carver, arguments.others.embeddings, references, tiles);
  shared.rows.template load<Shape::kThreads>(problem.anchors, {}, row_begin, anchors.rows);

  Real* const sums = arguments.sums_of(share.slots.of_rows, row_begin);
  const int64_t rows = min(int64_t(Shape::kRows), anchors.rows - row_begin);
  for (int s = 0; s < arguments.kinds_of_sums(); ++s)
    for (int64_t k = threadIdx.x; k < rows * arguments.row_sums(); k += Shape::kThreads)
      sums[s * arguments.sum_stride() + k] = Real(0);
  __syncthreads();  // the sums are empty

  for (int tile_col = tiles.col_begin; tile_col < tiles.col_end; ++tile_col) {
    const int64_t col_begin = int64_t(tile_col) * Shape::kCols;
    shared.cols.template load<Shape::kThreads>(problem.references, {}, col_begin, references.rows);
    TileValues<Real, Shape> values;
    stream.compute(values);  // its barriers also publish what lies in shared
    const ThreadMap<Shape> map(fresh_thread_index());
    to_hardness(shared, values, map, [&](int i) { return shared.rows.squared_norm[map.row(i)]; });
    if constexpr (kHasOthers) {
      TileValues<Real, Shape> of_others;
      other.compute(of_others);
      to_hardness(shared, of_others, map,
                  [&](int i) { return arguments.others.squared_norm(row_begin + map.row(i)); });
#pragma unroll
      for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
        for (int j = 0; j < Shape::kThreadCols; ++j)
          if (of_others.at(i, j) > values.at(i, j)) values.at(i, j) = of_others.at(i, j);
    }
    const TilePlace place{row_begin, col_begin, anchors.rows, references.rows, problem.excluded};
    const uint64_t positive = alike_pairs<Shape>(problem, place, shared.rows, shared.cols, map);
    const uint64_t existing = existing_pairs(place, map);
    if (arguments.lists.form != ThresholdForm::kPulse) {
      add_pairs(arguments, shared, values, existing & ~positive, place, sums, arguments.num_sums);
    } else {
      const bool has_positives = __any_sync(kFullWarp, positive != 0);
      for (int kind = has_positives ? 0 : 1; kind < 2; ++kind)
        add_pairs(arguments, shared, values, existing & (kind == 0 ? positive : ~positive), place,
                  sums + kind * arguments.sum_stride(), 1);
    }
    __syncthreads();  // shared.cols has been read
  }
}

constexpr int kFinishSumsThreads = 256;

/// sums [num_sums, num_rows, count] of the rows [row_begin, row_begin + rows), the slots added in
/// their order.
template <class Real>
__global__ void __launch_bounds__(kFinishSumsThreads, 1)
    finish_threshold_sums_kernel(const Real* slots, int num_slots, int num_sums, int64_t slot_size,
                                 int64_t row_begin, int64_t rows, int64_t num_rows, int64_t count,
                                 Real* sums) {
  const int64_t index = int64_t(blockIdx.x) * kFinishSumsThreads + threadIdx.x;
  if (index >= rows * count) return;
  for (int s = 0; s < num_sums; ++s) {
    Real sum = 0;
    for (int slot = 0; slot < num_slots; ++slot)
      sum += slots[(int64_t(slot) * num_sums + s) * slot_size + index];
    sums[(s * num_rows + row_begin) * count + index] = sum;
  }
}

/// Empties the counts that all blocks of a sweep add to.
static __global__ void __launch_bounds__(kFinishSumsThreads, 1)
    clear_counts_kernel(int* counts, int64_t size) {
  const int64_t index = int64_t(blockIdx.x) * kFinishSumsThreads + threadIdx.x;
  if (index < size) counts[index] = 0;
}

/// The same of searched ones, a warp for each row: sums along the row of what was counted.
/// slots: [num_slots, slot_rows]; counts: [2, slot_rows, lists.count].
template <class Real>
__global__ void __launch_bounds__(kFinishSumsThreads, 1)
    finish_searched_sums_kernel(const Real* slots, const int* counts, int num_slots,
                                int64_t slot_rows, int64_t row_begin, int64_t rows,
                                ThresholdLists<Real> lists, Real* sums) {
  const int64_t line =
      int64_t(blockIdx.x) * (kFinishSumsThreads / kWarpSize) + threadIdx.x / kWarpSize;
  if (line >= rows) return;
  const int lane = int(threadIdx.x) % kWarpSize;
  const int64_t row = row_begin + line, count = lists.count;
  const Real center = lists.center(row);
  Real of_row = 0;
  for (int slot = 0; slot < num_slots; ++slot) of_row += slots[int64_t(slot) * slot_rows + line];
  int before[2] = {};  // of the thresholds before these 32
  for (int64_t begin = 0; begin < count; begin += kWarpSize) {
    const int64_t k = begin + lane;
    int number[2];
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      number[s] = k < count ? counts[(s * slot_rows + line) * count + k] : 0;
#pragma unroll
      for (int further = 1; further < kWarpSize; further *= 2) {
        const int lower = __shfl_up_sync(kFullWarp, number[s], further);
        if (lane >= further) number[s] += lower;
      }
      number[s] += before[s];
      before[s] = __shfl_sync(kFullWarp, number[s], kWarpSize - 1);
    }
    if (k >= count) continue;
    const Real t = lists.at(row, k);
    const bool is_real = t < Real(kAbsent);
    const Real num_met = is_real ? Real(number[0]) : Real(0);
    const int64_t at = row * count + k, stride = lists.rows * count;
    sums[at] = (k == 0 ? of_row : Real(0)) +
               (num_met == Real(0) ? Real(0) : num_met * (lists.margin - (t - center)));
    sums[stride + at] = num_met;
    sums[2 * stride + at] = is_real ? Real(number[1]) : Real(0);
  }
}

}  // namespace fusedml
