#pragma once
// Row extrema for mining as a reduction of the forward sweep.
#include "kernels/finish.cuh"
#include "kernels/pair_sweep.cuh"

namespace fusedml {

/// Hardest positive and negative of one row so far.
template <class Real>
struct RowExtrema {
  Real min_positive = Real(INFINITY), max_negative = Real(-INFINITY);

  FUSEDML_HOST_DEVICE void merge(const RowExtrema& other) {
    min_positive = other.min_positive < min_positive ? other.min_positive : min_positive;
    max_negative = other.max_negative > max_negative ? other.max_negative : max_negative;
  }
};

template <class Number>
struct ExtremaReduction {
  using Real = typename Number::Real;
  using Partial = RowExtrema<Real>;
  static constexpr int kVectors = 0;
  static constexpr bool kPositivesOnly = false;
  static constexpr bool kIsHot = false;  ///< worth a high occupancy
  static constexpr bool kReadsLogits = false;
  static constexpr bool kTakesGroups = false;
  static constexpr bool kHasPlain = false;
  static constexpr bool kHasOneKernel = false;
  struct Parameters {};

  /// Measures become hardnesses.
  template <class Logit, class Shape>
  static FUSEDML_DEVICE void prepare(const Logit& logit, TileValues<Real, Shape>& values,
                                     uint64_t /*positive*/) {
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j)
        values.at(i, j) = logit.hardness(values.at(i, j));
  }

  template <class Lanes, bool kPositive, int kItems, class Context, class PairAt>
  static FUSEDML_DEVICE Real reduce(const Context&, PairAt pair_at, int /*count*/) {
    constexpr Real kSign = kPositive ? -1 : 1;  // the smallest y is minus the largest -y
    Real largest = Real(-INFINITY);
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const auto pair = pair_at(item);
      const Real value = kSign * pair.value;
      if (pair.is_counted && value > largest) largest = value;
    }
    return kSign * Lanes::max(largest);
  }

  template <bool kPositive>
  static FUSEDML_DEVICE void store(Real extremum, Partial& partial) {
    if constexpr (kPositive) {
      partial.min_positive = extremum;
    } else {
      partial = Partial();
      partial.max_negative = extremum;
    }
  }
};

/// extrema [2, rows]: smallest hardness of the positives, largest of the negatives.
template <class Real>
__global__ void __launch_bounds__(kFinishThreads, 1)
    finish_extrema_kernel(RowSlots<RowExtrema<Real>> slots, int64_t num_rows, const int64_t* extent,
                          Real* extrema) {
  const int64_t row = slots.my_row();
  if (row >= slots.row_end) return;
  const RowExtrema<Real> merged = slots.merged(row, extent);
  extrema[row] = merged.min_positive;
  extrema[num_rows + row] = merged.max_negative;
}

}  // namespace fusedml
