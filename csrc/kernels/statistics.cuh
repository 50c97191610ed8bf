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
