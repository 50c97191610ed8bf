#pragma once
// The weight of a pair in the backward: w_ij = dL/ds_ij.
#include "core/pair_mask.cuh"
#include "core/similarity.cuh"
#include "heads/positive_pair_head.h"

namespace fusedml {

/// What the weights need of each row that owns a loss; the vectors of a SideTile.
enum WeightVector {
  kLsePositive,
  kLseNegative,
  kGradLsePositive,  ///< dL / d(lse_positive of the row)
  kGradLseNegative,
  kGradSumPositive,
  kNumWeightVectors,
  // a loss of positive pairs stores its two vectors in these places
  kPairLse = kLseNegative,
  kPairRowGrad = kGradSumPositive,
};

/// Which losses the weights come from.
struct WeightSource {
  bool rows_own, cols_own;  ///< whose statistics the loss is made of; in a self problem both
  bool is_pair_head;        ///< the loss is a sum over positive pairs
  PositivePairHead head;
};

/// A side's vectors of one row or column.
template <class Side>
struct WeightRow {
  const Side& side;
  int index;
  FUSEDML_DEVICE auto operator[](WeightVector vector) const { return side.vector[vector][index]; }
};

/// dL/dz_ij for the part of the loss that `own` (the row i, or the column j) owns:
///   positive:  dL/dlse+ exp(z - lse+) + dL/dsum+      negative:  dL/dlse- exp(z - lse-)
/// or, for a loss of positive pairs,  row_grad dv/dz(z, lse_own, lse_other).
template <class Number, class Own, class Other>
FUSEDML_DEVICE typename Number::Real logit_gradient(const WeightSource& source,
                                                    const Own& own, const Other& other,
                                                    bool is_positive,
                                                    typename Number::Real logit) {
  if (!is_positive) {
    if (source.is_pair_head) return 0;
    return own[kGradLseNegative] * Number::exponential(logit - own[kLseNegative]);
  }
  if (source.is_pair_head)
    return own[kPairRowGrad] *
           positive_pair_loss(source.head, logit, own[kPairLse], other[kPairLse]).d_logit;
  return own[kGradLsePositive] * Number::exponential(logit - own[kLsePositive]) +
         own[kGradSumPositive];
}

/// Gradient of (scale+, shift+, scale-, shift-) over a thread's pairs.
template <class Real>
struct LogitGradient {
  Real value[4] = {};

  FUSEDML_DEVICE void add(bool is_positive, Real d_logit, Real x) {
    // selects instead of an index that is only known at run time, which would live in memory
    value[0] += is_positive ? d_logit * x : Real(0);
    value[1] += is_positive ? d_logit : Real(0);
    value[2] += is_positive ? Real(0) : d_logit * x;
    value[3] += is_positive ? Real(0) : d_logit;
  }
};

/// Turns a tile of similarities into the weights w_ij, times `weight_scale`.
template <class Number, class Logit, class Shape, class Rows, class Cols>
FUSEDML_DEVICE void to_weights(TileValues<typename Number::Real, Shape>& values,
                               const PairProblem<Number>& problem, const Logit& logit,
                               const WeightSource& source, const TilePlace& place,
                               const Rows& rows, const Cols& cols,
                               typename Number::Real weight_scale, bool wants_logit,
                               LogitGradient<typename Number::Real>& logit_gradients) {
  using Real = typename Number::Real;
  const ThreadMap<Shape> map;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j)
      values.at(i, j) = logit.measure(values.at(i, j), rows.squared_norm[map.row(i)],
                                      cols.squared_norm[map.col(j)]);

  const uint64_t existing = existing_pairs(place, map);
  const uint64_t positive = equal_labels<Shape>(rows, cols, map);
  PairMask<Shape> of_rows{positive, source.rows_own ? existing : 0};
  PairMask<Shape> of_cols{positive, source.cols_own ? existing : 0};
  if (source.rows_own && problem.anchors.thresholds != nullptr)
    of_rows.counted &= mined_pairs<true>(logit, values, of_rows, rows, map);
  if (source.cols_own && problem.references.thresholds != nullptr)
    of_cols.counted &= mined_pairs<false>(logit, values, of_cols, cols, map);

#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const WeightRow<Rows> row{rows, map.row(i)};
      const WeightRow<Cols> col{cols, map.col(j)};
      const Real x = values.at(i, j);
      const bool is_positive = of_rows.is_positive(i, j);
      const Real z = logit.logit(is_positive, x);
      Real d_logit = 0;
      if (of_rows.is_counted(i, j)) {
        d_logit = logit_gradient<Number>(source, row, col, is_positive, z);
        if (wants_logit) logit_gradients.add(is_positive, d_logit, x);
      }
      if (of_cols.is_counted(i, j)) {
        const Real d_col = logit_gradient<Number>(source, col, row, is_positive, z);
        // where the rows own losses too, the transposed pair adds this term, as a row's
        if (wants_logit && !source.rows_own) logit_gradients.add(is_positive, d_col, x);
        d_logit += d_col;
      }
      // an ignored pair weighs exactly nothing, also where its x is not finite
      const bool is_ignored = !of_rows.is_counted(i, j) && !of_cols.is_counted(i, j);
      values.at(i, j) = is_ignored ? Real(0)
                                   : d_logit * logit.scale(is_positive) * logit.slope(x) *
                                         weight_scale;
    }
}

}  // namespace fusedml
