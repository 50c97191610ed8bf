#pragma once
// How far the softmax of each row of one matrix of products is from another's, as a reduction of
// the forward sweep over tiles of both.
#include "core/row_statistics.h"
#include "kernels/finish.cuh"
#include "kernels/pair_sweep.cuh"

namespace fusedml {

/// What a row's divergence is made of, over the pairs seen so far: the log-sum-exps of the logits x
/// and y, and sum_j e^{y_j} (y_j - x_j), relative to what the sum of y is relative to.
template <class Real>
struct DivergenceSums {
  OnlineLse<Real> first, second;
  Real products = 0;

  FUSEDML_HOST_DEVICE void merge(const DivergenceSums& other) {
    const Real merged = second.max > other.second.max ? second.max : other.second.max;
    const Real shift = OnlineLse<Real>::shift_of(merged);
    products = products * std::exp(second.max - shift) +
               other.products * std::exp(other.second.max - shift);
    first.merge(other.first);
    second.merge(other.second);
  }
};

template <class Number>
struct DivergenceReduction {
  using Real = typename Number::Real;
  using Partial = DivergenceSums<Real>;
  static constexpr int kVectors = 0;
  static constexpr bool kPositivesOnly = false;
  static constexpr bool kIsHot = false;
  static constexpr bool kTakesGroups = false;
  static constexpr bool kHasPlain = false;
  static constexpr bool kHasOneKernel = true;  ///< with small tiles: the registers hold two
  using Logit = TwoProductLogits<Real>;
  struct Parameters {
    MatrixView<typename Number::Element> second;  ///< [rows, e]
  };

  /// A tile's products, of the embeddings and of the second matrix -> partials of the warps.
  template <class Shape, class Shared>
  static FUSEDML_DEVICE void reduce_products(const TileValues<Real, Shape>& first,
                                             const TileValues<Real, Shape>& second,
                                             const SweepArguments<Number, DivergenceReduction>& in,
                                             Shared& shared, int tile_row, int tile_col,
                                             bool feeds_columns) {
    const ThreadMap<Shape> map(fresh_thread_index());
    const TilePlace place{int64_t(tile_row) * Shape::kRows, int64_t(tile_col) * Shape::kCols,
                          shared.active_rows, shared.active_cols, in.problem.excluded};
    const uint64_t pairs = existing_pairs(place, map);
    const uint64_t equal = in.problem.anchors.labels != nullptr
                               ? equal_labels<Shape>(shared.rows, shared.cols, map)
                               : 0;
    const Logit logit = shared.logit;
    TileValues<LogitPair<Real>, Shape> logits;
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j)
        logits.at(i, j) =
            logit(equal & PairBits<Shape>::bit(i, j), first.at(i, j), second.at(i, j));
    const SweepContext<Shared, Parameters> context{shared, in.parameters, place.row_begin,
                                                   place.col_begin};
    reduce_lines<true, false, DivergenceReduction>(
        context, logits, pairs, map, shared.row_partials[map.warp_col / Shape::kWarpCols]);
    if (feeds_columns)
      reduce_lines<false, false, DivergenceReduction>(
          context, logits, pairs, map, shared.col_partials[map.warp_row / Shape::kWarpRows]);
  }

  /// First the line's maxima, then the exponentials.
  template <class Lanes, bool kPositive, int kItems, class Context, class PairAt>
  static FUSEDML_DEVICE Partial reduce(const Context&, PairAt pair_at, int /*count*/) {
    Partial line;
    const auto put_larger = [](Real& largest, Real value) {
      largest = value > largest ? value : largest;
    };
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const auto pair = pair_at(item);
      if (!pair.is_counted) continue;
      put_larger(line.first.max, pair.value.first);
      put_larger(line.second.max, pair.value.second);
    }
    line.first.max = Lanes::max(line.first.max);
    line.second.max = Lanes::max(line.second.max);
    const Real shift = OnlineLse<Real>::shift_of(line.first.max);
    const Real second_shift = OnlineLse<Real>::shift_of(line.second.max);
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const auto pair = pair_at(item);
      if (!pair.is_counted) continue;
      const Real exponential = Number::exponential(pair.value.second - second_shift);
      line.first.sum += Number::exponential(pair.value.first - shift);
      line.second.sum += exponential;
      // formed before the sum: both matrices may be nearly equal
      line.products += exponential * (pair.value.second - pair.value.first);
    }
    line.first.sum = Lanes::sum(line.first.sum);
    line.second.sum = Lanes::sum(line.second.sum);
    line.products = Lanes::sum(line.products);
    return line;
  }

  template <bool kPositive>
  static FUSEDML_DEVICE void store(const Partial& line, Partial& partial) {
    partial = line;
  }
};

/// losses [rows]:  KL = sum_j q_j (y_j - x_j) - (lse(y) - lse(x));  log_sums [2, rows].
template <class Real>
__global__ void __launch_bounds__(kFinishThreads, 1)
    finish_divergences_kernel(RowSlots<DivergenceSums<Real>> slots, int64_t num_rows, Real* losses,
                              Real* log_sums) {
  const int64_t row = slots.my_row();
  if (row >= slots.row_end) return;
  const DivergenceSums<Real> merged = slots.merged(row, nullptr);
  const auto &first = merged.first, &second = merged.second;
  // of the sums: the log-sum-exps are rounded at the size of the logits
  const Real difference = second.max - first.max + std::log(second.sum / first.sum);
  losses[row] = merged.products / second.sum - difference;
  log_sums[row] = first.value();
  log_sums[num_rows + row] = second.value();
}

}  // namespace fusedml
