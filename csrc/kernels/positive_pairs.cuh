#pragma once
// Sums over the positive pairs of each row, as a reduction of the forward sweep: the losses with
// one term per positive pair, and the gradients of their log-sum-exps.
#include "heads/positive_pair_head.h"
#include "kernels/finish.cuh"
#include "kernels/pair_sweep.cuh"

namespace fusedml {

template <class Real>
struct PairSum {
  Real value = 0;
  FUSEDML_HOST_DEVICE void merge(const PairSum& other) { value += other.value; }
};

/// What is summed over the positive pairs (i, j) of row i.
struct PositivePairTerms {
  PositivePairHead head;
  /// The loss v(z_ij, lse_i, lse_j); otherwise the gradient by the row's own log-sum-exp:
  bool is_loss;
  bool rows_own;  ///< adds row_grad_i dv/dlse_anchor(z_ij, lse_i, lse_j)
  bool cols_own;  ///< adds row_grad_j dv/dlse_reference(z_ij, lse_j, lse_i)
};

template <class Number>
struct PositivePairReduction {
  using Real = typename Number::Real;
  using Partial = PairSum<Real>;
  enum Vector { kLse, kRowGrad };
  static constexpr int kVectors = 2;
  static constexpr bool kPositivesOnly = true;
  static constexpr bool kIsHot = false;  ///< worth a high occupancy
  static constexpr bool kReadsLogits = true;
  static constexpr bool kTakesGroups = false;
  static constexpr bool kHasPlain = false;
  static constexpr bool kHasOneKernel = false;
  using Parameters = PositivePairTerms;

  /// Measures become logits.
  template <class Logit, class Shape>
  static FUSEDML_DEVICE void prepare(const Logit& logit, TileValues<Real, Shape>& values,
                                     uint64_t /*positive*/) {
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j)
        values.at(i, j) = logit.logit(/*is_positive=*/true, values.at(i, j));
  }

  /// Not inlined: positives are rare, and the unrolled epilogue would hold a copy per pair.
  static __device__ __attribute__((noinline)) Real term(PositivePairTerms terms, Real logit,
                                                        Real row_lse, Real col_lse, Real row_grad,
                                                        Real col_grad) {
    if (terms.is_loss) return positive_pair_loss(terms.head, logit, row_lse, col_lse).value;
    Real sum = 0;
    if (terms.rows_own)
      sum += row_grad * positive_pair_loss(terms.head, logit, row_lse, col_lse).d_anchor_lse;
    if (terms.cols_own)
      sum += col_grad * positive_pair_loss(terms.head, logit, col_lse, row_lse).d_reference_lse;
    return sum;
  }

  template <class Lanes, bool kPositive, int kItems, class Context, class PairAt>
  static FUSEDML_DEVICE Real reduce(const Context& context, PairAt pair_at, int /*count*/) {
    if constexpr (!kPositive) return Real(0);
    Real sum = 0;
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const auto pair = pair_at(item);
      if (!pair.is_counted) continue;
      const auto& rows = context.shared.rows;
      const auto& cols = context.shared.cols;
      sum += term(context.parameters, pair.value, rows.vector[kLse][pair.row],
                  cols.vector[kLse][pair.col], rows.vector[kRowGrad][pair.row],
                  cols.vector[kRowGrad][pair.col]);
    }
    return Lanes::sum(sum);
  }

  template <bool kPositive>
  static FUSEDML_DEVICE void store(Real sum, Partial& partial) {
    partial.value = sum;
  }
};

/// sums [rows], merged in the order of their slots, plus 0 * nan_source [rows] unless that is null.
template <class Real>
__global__ void __launch_bounds__(kFinishThreads, 1)
    finish_pair_sums_kernel(RowSlots<PairSum<Real>> slots, const int64_t* extent,
                            const Real* nan_source, Real* sums) {
  const int64_t row = slots.my_row();
  if (row >= slots.row_end) return;
  const Real sum = slots.merged(row, extent).value;
  sums[row] = nan_source ? sum + Real(0) * nan_source[row] : sum;
}

}  // namespace fusedml
