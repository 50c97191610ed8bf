#pragma once
// Row statistics as a reduction of the forward sweep: log-sum-exps, sum and counts of each row.
#include "core/row_statistics.h"
#include "kernels/pair_sweep.cuh"

namespace fusedml {

template <class Number>
struct StatisticsReduction {
  using Real = typename Number::Real;
  using Partial = RowStatistics<Real>;
  static constexpr int kVectors = 0;
  static constexpr bool kPositivesOnly = false;
  static constexpr bool kIsHot = true;  ///< worth a high occupancy
  static constexpr bool kReadsLogits = true;
  static constexpr bool kTakesGroups = true;
  static constexpr bool kHasPlain = true;
  static constexpr bool kHasOneKernel = false;
  struct Parameters {};

  /// Measures become logits.
  template <class Logit, class Shape>
  static FUSEDML_DEVICE void prepare(const Logit& logit, TileValues<Real, Shape>& values,
                                     uint64_t positive) {
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j) {
        const bool is_positive = positive & PairBits<Shape>::bit(i, j);
        values.at(i, j) = logit.logit(is_positive, values.at(i, j));
      }
  }

  // Plain parts of tiles need no maxima: their exponentials are all relative to the logit of x = 0,
  // the shift.  So one exponential serves row and column, and merging is adding.

  /// Whether no exponential is far from 1, in all lanes: sums cannot overflow, and what a merge
  /// with a larger maximum loses is below 2^-40 of what is there.  A NaN passes, and spoils the
  /// sums.
  template <class Shape, class Logit>
  static FUSEDML_DEVICE bool is_summable(const Logit& logit,
                                         const TileValues<Real, Shape>& values) {
    if (!logit.has_affine_negatives()) return false;
    constexpr Real kMost = 80 / Real(kLog2E);
    Real largest = 0;
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j)
        largest = std::fmax(largest, std::fabs(values.at(i, j)));
    return __all_sync(kFullWarp, largest * std::fabs(logit.scale(false)) <= kMost);
  }

  template <bool kFeedsColumns, class Logit, class Shape, int kRows, int kCols>
  static FUSEDML_DEVICE void sum_plain(const Logit& logit, const TileValues<Real, Shape>& values,
                                       const ThreadMap<Shape>& map, Partial (&row_partials)[kRows],
                                       Partial (&col_partials)[kCols]) {
    const Real scale = logit.scale(false) * Number::kExponentScale;
    Real col_sums[Shape::kThreadCols] = {};
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i) {
      Real row_sum = 0;
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j) {
        const Real exponential = Number::exponential_of_scaled(scale * values.at(i, j));
        row_sum += exponential;
        if (kFeedsColumns) col_sums[j] += exponential;
      }
      row_sum = LineLanes<true>::sum(row_sum);
      if (map.lane_col == 0) row_partials[map.row(i)].negative.sum = row_sum;
    }
    if constexpr (kFeedsColumns)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j) {
        const Real col_sum = LineLanes<false>::sum(col_sums[j]);
        if (map.lane_row == 0) col_partials[map.col(j)].negative.sum = col_sum;
      }
  }

  template <class Logit>
  static FUSEDML_DEVICE void merge_plain(Partial& merged, const Logit& logit, const Partial& part,
                                         int num_pairs) {
    merged.negative.merge({logit.shift_negative, part.negative.sum});
    merged.num_negative += num_pairs;
  }

  struct Reduced {
    OnlineLse<Real> lse;
    Real sum = 0;
    int count = 0;
  };

  /// First the line's maximum, then one exponential per pair.
  template <class Lanes, bool kPositive, int kItems, class Context, class PairAt>
  static FUSEDML_DEVICE Reduced reduce(const Context&, PairAt pair_at, int count) {
    Reduced line;
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const auto pair = pair_at(item);
      if (pair.is_counted) line.lse.max = pair.value > line.lse.max ? pair.value : line.lse.max;
    }
    line.lse.max = Lanes::max(line.lse.max);
    const Real shift = OnlineLse<Real>::shift_of(line.lse.max);
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const auto pair = pair_at(item);
      if (!pair.is_counted) continue;
      line.lse.sum += Number::exponential(pair.value - shift);
      if (kPositive) line.sum += pair.value;
    }
    line.lse.sum = Lanes::sum(line.lse.sum);
    line.count = Lanes::sum(count);
    if (kPositive) line.sum = Lanes::sum(line.sum);
    return line;
  }

  template <bool kPositive>
  static FUSEDML_DEVICE void store(const Reduced& line, Partial& partial) {
    if constexpr (kPositive) {
      partial.positive = line.lse;
      partial.sum_positive = line.sum;
      partial.num_positive = line.count;
    } else {
      partial = Partial();
      partial.negative = line.lse;
      partial.num_negative = line.count;
    }
  }
};

}  // namespace fusedml
