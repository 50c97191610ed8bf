#pragma once
// The weights of pairs in the backward of the divergences of two products.
#include "core/pair_mask.cuh"
#include "kernels/logit_gradient.cuh"
#include "kernels/weight_source.h"

namespace fusedml {

/// dL/dx_ij and dL/dy_ij, for the part of the loss that the row `own` owns:
///   dKL/dx = p - q,   dKL/dy = q (log q - log p - KL)
template <class Number, class Side>
FUSEDML_DEVICE LogitPair<typename Number::Real> divergence_gradient(
    const Side& side, int own, const LogitPair<typename Number::Real>& logit) {
  using Real = typename Number::Real;
  const Real lse = side.vector[kLseFirst][own], second_lse = side.vector[kLseSecond][own];
  const Real p = Number::exponential(logit.first - lse);
  const Real q = Number::exponential(logit.second - second_lse);
  const Real of_second =
      q * (logit.second - logit.first + (lse - second_lse - side.vector[kDivergence][own]));
  const Real grad = side.vector[kGradDivergence][own];
  return {grad * (p - q), grad * of_second};
}

/// Gradient of the logits' numbers (scale, shift, second shift, equal).
template <class Real>
FUSEDML_DEVICE void add_number_gradient(bool is_equal, const LogitPair<Real>& product,
                                        const LogitPair<Real>& d_logit,
                                        const TwoProductLogits<Real>& logit,
                                        LogitGradient<Real>& gradient) {
  const Real of_both = d_logit.first + d_logit.second;
  if (is_equal) {
    gradient.value[0] += of_both * logit.equal;
    gradient.value[3] += of_both * logit.scale;
    return;
  }
  gradient.value[0] += d_logit.first * (product.first + logit.shift) +
                       d_logit.second * (product.second + logit.second_shift);
  gradient.value[1] += d_logit.first * logit.scale;
  gradient.value[2] += d_logit.second * logit.scale;
}

/// Turns a tile of products, `values` of the problem's embeddings and `others` of its second
/// matrix, into the weights dL/d(values), times `weight_scale`.
template <class Number, class Shape, class Rows, class Cols>
FUSEDML_DEVICE void to_divergence_weights(
    TileValues<typename Number::Real, Shape>& values,
    const TileValues<typename Number::Real, Shape>& others, bool has_labels,
    const TwoProductLogits<typename Number::Real>& logit, const DivergenceSource<Number>& source,
    const TilePlace& place, const Rows& rows, const Cols& cols, typename Number::Real weight_scale,
    bool wants_logit, LogitGradient<typename Number::Real>& logit_gradient) {
  using Real = typename Number::Real;
  const ThreadMap<Shape> map(fresh_thread_index());
  const uint64_t pairs = existing_pairs(place, map);
  const uint64_t equal = has_labels ? equal_labels<Shape>(rows, cols, map) : 0;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const bool exists = pairs & PairBits<Shape>::bit(i, j);
      const bool is_equal = equal & PairBits<Shape>::bit(i, j);
      LogitPair<Real> product{values.at(i, j), others.at(i, j)};
      if (source.is_of_second) product = {product.second, product.first};
      const LogitPair<Real> z = logit(is_equal, product.first, product.second);
      LogitPair<Real> of_row{}, of_col{};
      if (exists && source.rows_own) of_row = divergence_gradient<Number>(rows, map.row(i), z);
      if (exists && source.cols_own) of_col = divergence_gradient<Number>(cols, map.col(j), z);
      const LogitPair<Real> of_both{of_row.first + of_col.first, of_row.second + of_col.second};
      // the transposed pair, if it is visited, adds the column's term
      if (exists && wants_logit)
        add_number_gradient(is_equal, product, source.is_halved ? of_both : of_row, logit,
                            logit_gradient);
      const Real weight = source.is_of_second ? of_both.second : of_both.first;
      // a pair that does not depend on the product weighs exactly nothing
      values.at(i, j) = exists && !is_equal ? weight * (logit.scale * weight_scale) : Real(0);
    }
  __syncwarp();  // the lanes have parted, and the next instructions on matrices want all of them
}

}  // namespace fusedml
