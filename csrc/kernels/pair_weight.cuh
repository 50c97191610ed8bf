#pragma once
// The weight of a pair in the backward: w_ij = dL/ds_ij.
#include "core/similarity.cuh"
#include "kernels/logit_gradient.cuh"
#include "kernels/negative_weights.cuh"

namespace fusedml {

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
      if (wants_logit) {
        // in a self problem the transposed pair, if it is visited, adds the column's term
        const Real d_logit = source.is_halved ? of_row + of_col : source.rows_own ? of_row : of_col;
        logit_gradient.template add<kPositive>(d_logit, logit.terms(kPositive, x));
      }
      values.at(i, j) =
          (of_row + of_col) * (logit.logit_slope(kPositive, x) * weight_scale) * logit.slope(x);
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
  const uint64_t positive = equal_labels<Shape>(rows, cols, map);
  const bool has_positives = __any_sync(kFullWarp, positive != 0);
  const bool is_mined =
      problem.anchors.thresholds != nullptr || problem.references.thresholds != nullptr;
  if (!has_positives && !is_mined && !wants_logit && logit.has_affine_negatives() &&
      all_pairs_exist<Shape>(place)) {
    weigh_negatives<Number>(values, logit, source, rows, cols, weight_scale);
    return;
  }

#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j)
      values.at(i, j) = logit.measure(values.at(i, j), rows.squared_norm[map.row(i)],
                                      cols.squared_norm[map.col(j)]);
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
  if (has_positives)
    weigh<true, Number>(values, of_rows & positive, of_cols & positive, logit, source, rows, cols,
                        weight_scale, wants_logit, logit_gradient);
  __syncwarp();  // the lanes have parted, and the next instructions on matrices want all of them
}

}  // namespace fusedml
