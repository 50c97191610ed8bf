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
  struct Parameters {};

  struct Pair {
    Real logit;
    bool is_counted, is_positive;
    int row, col;
  };

  template <class Number_, class Logit, class Shared>
  struct Context {
    const Logit& logit;
    const Shared& shared;
    const Parameters& parameters;
  };

  /// Measures become logits.
  template <class Logit, class Shape>
  static FUSEDML_DEVICE void prepare(const Logit& logit, TileValues<Real, Shape>& values,
                                     const PairMask<Shape>& mask) {
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j)
        values.at(i, j) = logit.logit(mask.is_positive(i, j), values.at(i, j));
  }

  /// One exponential per pair: first the maxima of the line's two sets, then the sums.
  template <class Lanes, bool kOfRows, bool kHasPositives, int kItems, class Context_, class PairAt>
  static FUSEDML_DEVICE Partial reduce(const Context_&, PairAt pair_at) {
    Partial line;
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const Pair pair = pair_at(item);
      if (!pair.is_counted) continue;
      Real& max = pair.is_positive ? line.positive.max : line.negative.max;
      max = pair.logit > max ? pair.logit : max;
    }
    line.negative.max = Lanes::max(line.negative.max);
    if constexpr (kHasPositives) line.positive.max = Lanes::max(line.positive.max);
    const Real negative_shift = OnlineLse<Real>::shift_of(line.negative.max);
    const Real positive_shift = OnlineLse<Real>::shift_of(line.positive.max);
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const Pair pair = pair_at(item);
      if (!pair.is_counted) continue;
      const Real power =
          Number::exponential(pair.logit - (pair.is_positive ? positive_shift : negative_shift));
      if (pair.is_positive) {
        line.positive.sum += power;
        line.sum_positive += pair.logit;
        ++line.num_positive;
      } else {
        line.negative.sum += power;
        ++line.num_negative;
      }
    }
    line.negative.sum = Lanes::sum(line.negative.sum);
    line.num_negative = Lanes::sum(line.num_negative);
    if constexpr (kHasPositives) {
      line.positive.sum = Lanes::sum(line.positive.sum);
      line.sum_positive = Lanes::sum(line.sum_positive);
      line.num_positive = Lanes::sum(line.num_positive);
    }
    return line;
  }
};

}  // namespace fusedml
