#pragma once
// From a thread's share of a row's gradient to the unfinished sums in memory.
#include "kernels/gradient_sums.cuh"

namespace fusedml {

/// Adds to a row's sums, or finishes them: pair j is of the dimensions first_dim + 8 j and the
/// next. All loads before the first store: their latencies overlap.  weight_scale: one number, or
/// null: 1.
template <bool kInPairs = true, class Number, int kPairs>
FUSEDML_DEVICE void add_to_sums(const GradientSums<Number>& sums, ProductTurn turn,
                                const typename Number::Real* weight_scale, int64_t row,
                                int first_dim,
                                typename GradientSums<Number>::Pair (&line)[kPairs]) {
  using Real = typename Number::Real;
  using Pair = typename GradientSums<Number>::Pair;
  if (!turn.is_first) {
    Pair sum[kPairs];
#pragma unroll
    for (int j = 0; j < kPairs; ++j)
      sum[j] = first_dim + 8 * j < sums.dims ? sums.template load<kInPairs>(row, first_dim + 8 * j)
                                             : Pair{};
#pragma unroll
    for (int j = 0; j < kPairs; ++j) line[j] = {line[j].x + sum[j].x, line[j].y + sum[j].y};
  }
  if (turn.is_last) {
    // a power of two, whose inverse is exact
    const Real inverse_scale = weight_scale ? Real(1) / *weight_scale : Real(1);
#pragma unroll
    for (int j = 0; j < kPairs; ++j)
      if (first_dim + 8 * j < sums.dims)
        sums.template finish<kInPairs>(row, first_dim + 8 * j,
                                       {line[j].x * inverse_scale, line[j].y * inverse_scale});
  } else {
#pragma unroll
    for (int j = 0; j < kPairs; ++j)
      if (first_dim + 8 * j < sums.dims)
        sums.template store<kInPairs>(row, first_dim + 8 * j, line[j]);
  }
}

}  // namespace fusedml
