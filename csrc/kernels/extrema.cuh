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
  struct Parameters {};

  struct Pair {
    Real hardness;
    bool is_counted, is_positive;
    int row, col;
  };

  template <class Number_, class Logit, class Shared>
  struct Context {
    const Logit& logit;
    const Shared& shared;
    const Parameters& parameters;
  };

  /// Measures become hardnesses.
  template <class Logit, class Shape>
  static FUSEDML_DEVICE void prepare(const Logit& logit, TileValues<Real, Shape>& values,
                                     const PairMask<Shape>&) {
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j)
        values.at(i, j) = logit.hardness(values.at(i, j));
  }

  template <class Lanes, bool kOfRows, bool kHasPositives, int kItems, class Context_, class PairAt>
  static FUSEDML_DEVICE Partial reduce(const Context_&, PairAt pair_at) {
    Partial line;
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const Pair pair = pair_at(item);
      if (!pair.is_counted) continue;
      Partial one;
      (pair.is_positive ? one.min_positive : one.max_negative) = pair.hardness;
      line.merge(one);
    }
    line.max_negative = Lanes::max(line.max_negative);
    if constexpr (kHasPositives) line.min_positive = -Lanes::max(-line.min_positive);
    return line;
  }
};

/// extrema [2, rows]: smallest hardness of the positives, largest of the negatives.
template <class Real>
__global__ void __launch_bounds__(kFinishThreads)
    finish_extrema_kernel(const RowExtrema<Real>* slots, int64_t num_slots, int64_t num_rows,
                          const int64_t* extent, Real* extrema) {
  const int64_t row = int64_t(blockIdx.x) * kFinishThreads + threadIdx.x;
  if (row >= num_rows) return;
  const RowExtrema<Real> merged = merge_slots(slots, num_slots, num_rows, row, extent);
  extrema[row] = merged.min_positive;
  extrema[num_rows + row] = merged.max_negative;
}

}  // namespace fusedml
