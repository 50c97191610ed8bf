#pragma once
// The weights of a warp's pairs where all of them are counted negatives, as nearly everywhere.
#include "core/pair_mask.cuh"
#include "kernels/weight_source.h"

namespace fusedml {

/// What a row (or column) contributes to the weight of a negative pair,
///   dL/dlse- exp(z - lse-) dz/dx,
/// as factor 2^(scale x + shift), with all that does not depend on the pair taken together.
template <class Number>
struct NegativeLine {
  using Real = typename Number::Real;
  Real shift, factor;

  template <class Logit, class Side>
  FUSEDML_DEVICE NegativeLine(const Logit& logit, const Side& side, int line, bool is_owner,
                              Real weight_scale) {
    // the numbers of a side without losses may not overflow: inf times their zeros were NaN
    const Real lse = side.vector[kLseNegative][line];
    shift = is_owner ? Number::kExponentScale * logit.shift_negative - Number::kExponentScale * lse
                     : -Real(INFINITY);
    factor = side.vector[kGradLseNegative][line] * (logit.scale_negative * weight_scale);
    if (!is_owner) factor = 0;
  }

  FUSEDML_DEVICE Real at(Real scale, Real x) const {
    return factor * Number::exponential_of_scaled(scale * x + shift);
  }
};

/// Similarities become weights.  No branch, no mask: for dot products half a dozen instructions and
/// two exponentials a pair.
template <class Number, class Logit, class Shape, class Rows, class Cols>
FUSEDML_DEVICE void weigh_negatives(TileValues<typename Number::Real, Shape>& values,
                                    const Logit& logit, const WeightSource& source,
                                    const Rows& rows, const Cols& cols,
                                    typename Number::Real weight_scale) {
  using Real = typename Number::Real;
  using Line = NegativeLine<Number>;
  const ThreadMap<Shape> map;
  const Real scale = Number::kExponentScale * logit.scale_negative;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i) {
    const Line row(logit, rows, map.row(i), source.rows_own, weight_scale);
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const Line col(logit, cols, map.col(j), source.cols_own, weight_scale);
      const auto pair = logit.template measure_and_slope<Number>(
          values.at(i, j), rows.squared_norm[map.row(i)], cols.squared_norm[map.col(j)]);
      values.at(i, j) = (row.at(scale, pair.x) + col.at(scale, pair.x)) * pair.slope;
    }
  }
}

}  // namespace fusedml
