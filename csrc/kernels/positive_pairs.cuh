#pragma once
// Sums over the positive pairs of each row, as a reduction of the forward sweep: the losses with one
// term per positive pair, and the gradients of their log-sum-exps.
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
  using Parameters = PositivePairTerms;

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
                                     const PairMask<Shape>&) {
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j)
        values.at(i, j) = logit.logit(/*is_positive=*/true, values.at(i, j));
  }

  template <class Context_>
  static FUSEDML_DEVICE Real term(const Context_& context, const Pair& pair) {
    const PositivePairTerms& terms = context.parameters;
    const auto& rows = context.shared.rows;
    const auto& cols = context.shared.cols;
    const Real row_lse = rows.vector[kLse][pair.row], col_lse = cols.vector[kLse][pair.col];
    if (terms.is_loss) return positive_pair_loss(terms.head, pair.logit, row_lse, col_lse).value;
    Real sum = 0;
    if (terms.rows_own)
      sum += rows.vector[kRowGrad][pair.row] *
             positive_pair_loss(terms.head, pair.logit, row_lse, col_lse).d_anchor_lse;
    if (terms.cols_own)
      sum += cols.vector[kRowGrad][pair.col] *
             positive_pair_loss(terms.head, pair.logit, col_lse, row_lse).d_reference_lse;
    return sum;
  }

  template <class Lanes, bool kOfRows, bool kHasPositives, int kItems, class Context_, class PairAt>
  static FUSEDML_DEVICE Partial reduce(const Context_& context, PairAt pair_at) {
    Partial line;
    if constexpr (kHasPositives) {
#pragma unroll
      for (int item = 0; item < kItems; ++item) {
        const Pair pair = pair_at(item);
        if (pair.is_counted && pair.is_positive) line.value += term(context, pair);
      }
      line.value = Lanes::sum(line.value);
    }
    return line;
  }
};

/// sums [rows]
template <class Real>
__global__ void __launch_bounds__(kFinishThreads)
    finish_pair_sums_kernel(const PairSum<Real>* slots, int64_t num_slots, int64_t num_rows,
                            const int64_t* extent, Real* sums) {
  const int64_t row = int64_t(blockIdx.x) * kFinishThreads + threadIdx.x;
  if (row >= num_rows) return;
  sums[row] = merge_slots(slots, num_slots, num_rows, row, extent).value;
}

}  // namespace fusedml
