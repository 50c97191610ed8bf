#pragma once
#include "logits/affine.h"

namespace fusedml {

/// Logits affine in the Euclidean distance or its square:
///   x = d or d^2,  d^2 = max(0, |a_i|^2 + |r_j|^2 - 2 s_ij).
/// With w_ij = dL/ds_ij both give  dL/da_i = sum_j w_ij (r_j - a_i), because |a_i|^2 enters d^2
/// with -1/2 of the weight of s_ij.
template <class Real>
struct EuclideanLogit : AffineLogit<Real> {
  static constexpr bool kUsesNorms = true;
  static constexpr bool kIsLight = false;
  bool is_squared;

  FUSEDML_DEVICE EuclideanLogit(const LogitParameters& parameters, bool is_second_kind)
      : AffineLogit<Real>(parameters, is_second_kind), is_squared(is_second_kind) {}

  FUSEDML_DEVICE Real measure(Real similarity, Real anchor_norm, Real reference_norm) const {
    Real squared = anchor_norm + reference_norm - Real(2) * similarity;
    squared = squared < Real(0) ? Real(0) : squared;  // not fmax, which would drop a NaN
    return is_squared ? squared : std::sqrt(squared);
  }
  /// Zero at x = 0, where the distance has no derivative.
  FUSEDML_DEVICE Real slope(Real x) const {
    if (x == Real(0)) return Real(0);
    return is_squared ? Real(-2) : Real(-1) / x;
  }
  /// Both without a branch.  Distances whose square is below the normal floats count 0.
  template <class Number>
  FUSEDML_DEVICE MeasuredPair<Real> measure_and_slope(Real similarity, Real anchor_norm,
                                                      Real reference_norm) const {
    const Real squared = anchor_norm + reference_norm - Real(2) * similarity;
    const bool is_apart = !(squared < Real(1.17549435e-38f));  // or NaN
    const Real inverse = Number::inverse_sqrt(squared);
    const Real x = is_squared ? squared : squared * inverse;
    const Real slope = is_squared ? Real(-2) : -inverse;
    return {is_apart ? x : Real(0), is_apart ? slope : Real(0)};
  }
  FUSEDML_DEVICE Real hardness(Real x) const { return -x; }
};

}  // namespace fusedml
