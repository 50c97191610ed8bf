#pragma once
// The weight of a pair in the backward: w_ij = dL/ds_ij.
#include "core/pair_mask.cuh"
#include "core/similarity.cuh"
#include "heads/positive_pair_head.h"
#include "kernels/logit_gradient.cuh"

namespace fusedml {

/// What the weights need of each row that owns a loss; the vectors of a SideTile.
enum WeightVector {
  kLsePositive,
  kLseNegative,
  kGradLsePositive,  ///< dL / d(lse_positive of the row)
  kGradLseNegative,
  kGradSumPositive,
  kNumWeightVectors,
  // a loss of positive pairs v(z, lse_own, lse_other) has the upstream gradient of its rows here
  kPairLse = kLseNegative,
  kPairRowGrad = kGradSumPositive,
};

/// Which losses the weights come from.
struct WeightSource {
  bool rows_own, cols_own;  ///< whose statistics the loss is made of; in a self problem both
  bool is_pair_head;        ///< positives weigh by `head`; negatives by their row's lse_negative
  PositivePairHead head;
};

/// A side's vectors of one row or column.
template <class Side>
struct WeightRow {
  const Side& side;
  int index;
  FUSEDML_DEVICE auto operator[](WeightVector vector) const { return side.vector[vector][index]; }
};

/// dL/dz_ij of a negative, for the part of the loss that `own` (the row i, or the column j) owns:
///   dL/dlse- exp(z - lse-)
template <class Number, class Own>
FUSEDML_DEVICE typename Number::Real negative_gradient(const Own& own,
                                                       typename Number::Real logit) {
  return own[kGradLseNegative] * Number::exponential(logit - own[kLseNegative]);
}

/// The same of a positive:  dL/dlse+ exp(z - lse+) + dL/dsum+,  or, for a loss of positive pairs,
/// row_grad dv/dz(z, lse_own, lse_other).  Not inlined: positives are rare, and the unrolled
/// epilogues would hold a copy per pair.
template <class Number, class Own, class Other>
__device__ __attribute__((noinline)) typename Number::Real positive_gradient(
    WeightSource source, Own own, Other other, typename Number::Real logit) {
  if (source.is_pair_head)
    return own[kPairRowGrad] *
           positive_pair_loss(source.head, logit, own[kPairLse], other[kPairLse]).d_logit;
  return own[kGradLsePositive] * Number::exponential(logit - own[kLsePositive]) +
         own[kGradSumPositive];
}

/// Measures of `of_rows` and `of_cols`, all positive or all negative, become weights.
template <bool kPositive, class Number, class Logit, class Shape, class Rows, class Cols>
FUSEDML_DEVICE void weigh(TileValues<typename Number::Real, Shape>& values, uint64_t of_rows,
                          uint64_t of_cols, const Logit& logit, const WeightSource& source,
                          const Rows& rows, const Cols& cols, typename Number::Real weight_scale,
                          bool wants_logit, LogitGradient<typename Number::Real>& logit_gradient) {
  using Real = typename Number::Real;
  const ThreadMap<Shape> map;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const uint64_t bit = PairBits<Shape>::bit(i, j);
      if (!((of_rows | of_cols) & bit)) continue;
      const WeightRow<Rows> row{rows, map.row(i)};
      const WeightRow<Cols> col{cols, map.col(j)};
      const Real x = values.at(i, j), z = logit.logit(kPositive, x);
      Real of_row = 0, of_col = 0;
      if (of_rows & bit) {
        if constexpr (kPositive) of_row = positive_gradient<Number>(source, row, col, z);
        if constexpr (!kPositive) of_row = negative_gradient<Number>(row, z);
      }
      if (of_cols & bit) {
        if constexpr (kPositive) of_col = positive_gradient<Number>(source, col, row, z);
        if constexpr (!kPositive) of_col = negative_gradient<Number>(col, z);
      }
      // in a self problem the transposed pair adds the column's term, as its row's
      if (wants_logit) logit_gradient.template add<kPositive>(source.rows_own ? of_row : of_col, x);
      values.at(i, j) =
          (of_row + of_col) * (logit.scale(kPositive) * weight_scale) * logit.slope(x);
    }
}

/// Turns a tile of similarities into the weights w_ij, times `weight_scale`.
template <class Number, class Logit, class Shape, class Rows, class Cols>
FUSEDML_DEVICE void to_weights(TileValues<typename Number::Real, Shape>& values,
                               const PairProblem<Number>& problem, const Logit& logit,
                               const WeightSource& source, const TilePlace& place, const Rows& rows,
                               const Cols& cols, typename Number::Real weight_scale,
                               bool wants_logit,
                               LogitGradient<typename Number::Real>& logit_gradient) {
  using Real = typename Number::Real;
  const ThreadMap<Shape> map;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j)
      values.at(i, j) = logit.measure(values.at(i, j), rows.squared_norm[map.row(i)],
                                      cols.squared_norm[map.col(j)]);

  const uint64_t positive = equal_labels<Shape>(rows, cols, map);
  const uint64_t counted = existing_pairs(place, map);
  uint64_t of_rows = source.rows_own ? counted : 0, of_cols = source.cols_own ? counted : 0;
  if (source.rows_own && problem.anchors.thresholds != nullptr)
    of_rows &= mined_pairs<true>(logit, values, positive, rows, map);
  if (source.cols_own && problem.references.thresholds != nullptr)
    of_cols &= mined_pairs<false>(logit, values, positive, cols, map);

  // an ignored pair weighs exactly nothing, also where its x is not finite
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j)
      if (!((of_rows | of_cols) & PairBits<Shape>::bit(i, j))) values.at(i, j) = Real(0);

  weigh<false, Number>(values, of_rows & ~positive, of_cols & ~positive, logit, source, rows, cols,
                       weight_scale, wants_logit, logit_gradient);
  if (__any_sync(kFullWarp, positive != 0))
    weigh<true, Number>(values, of_rows & positive, of_cols & positive, logit, source, rows, cols,
                        weight_scale, wants_logit, logit_gradient);
}

}  // namespace fusedml
