#pragma once
#include "core/pair.h"

namespace fusedml {

/// x_ij and dx_ij / ds_ij.
template <class Real>
struct MeasuredPair {
  Real x, slope;
};

/// What a logit is a sum of:  z = scale of_scale + shift of_shift.
template <class Real>
struct LogitTerms {
  Real of_scale, of_shift;
};

/// Logits affine in the similarity:  x = s,  z+ = scale+ x + shift+,  z- = scale- x + shift-.
template <class Real>
struct AffineLogit {
  static constexpr bool kUsesNorms = false;
  static constexpr bool kIsLight = true;     ///< few instructions and registers
  static constexpr bool kIsGrouped = false;  ///< several references make one measure
  Real scale_positive, shift_positive, scale_negative, shift_negative;

  FUSEDML_DEVICE AffineLogit(const LogitParameters& parameters, bool /*is_second_kind*/)
      : scale_positive(Real(parameters.get(0))),
        shift_positive(Real(parameters.get(1))),
        scale_negative(Real(parameters.get(2))),
        shift_negative(Real(parameters.get(3))) {}

  /// x_ij from s_ij = <a_i, r_j>.
  FUSEDML_DEVICE Real measure(Real similarity, Real, Real) const { return similarity; }
  /// dx_ij / ds_ij
  FUSEDML_DEVICE Real slope(Real) const { return Real(1); }
  /// Both, as fast as the number type allows.
  template <class Number>
  FUSEDML_DEVICE MeasuredPair<Real> measure_and_slope(Real similarity, Real, Real) const {
    return {similarity, Real(1)};
  }
  /// Large for hard negatives, small for hard positives: the scale of mining thresholds.
  FUSEDML_DEVICE Real hardness(Real measure) const { return measure; }

  /// z_ij; NaN for any x that is not finite, though scale x alone might be -inf and go unnoticed.
  FUSEDML_DEVICE Real logit(bool is_positive, Real x) const {
    const Real scale = is_positive ? scale_positive : scale_negative;
    const Real shift = is_positive ? shift_positive : shift_negative;
    return x * Real(0) + (scale * x + shift);
  }
  /// Whether z = scale x + shift for negatives, of which sweeps make use.
  FUSEDML_DEVICE bool has_affine_negatives() const { return true; }
  FUSEDML_DEVICE LogitTerms<Real> terms(bool, Real x) const { return {x, Real(1)}; }
  /// dz_ij / dx_ij
  FUSEDML_DEVICE Real logit_slope(bool is_positive, Real) const { return scale(is_positive); }
  FUSEDML_DEVICE Real scale(bool is_positive) const {
    return is_positive ? scale_positive : scale_negative;
  }
};

}  // namespace fusedml
