#pragma once
#include "logits/angular_margin.h"
#include "logits/circle.h"

namespace fusedml {

/// Logits of the similarity by a curve that is chosen when the kernel runs:
///   x = s,  z = scale f(x) + shift g(x).
template <class Real>
struct CurvedLogit : AffineLogit<Real> {
  static constexpr bool kIsLight = false;
  CircleCurve<Real> circle;
  AngularMarginCurve<Real> angular_margin;
  bool is_circle;

  FUSEDML_DEVICE CurvedLogit(const LogitParameters& parameters, bool is_second_kind)
      : AffineLogit<Real>(parameters, is_second_kind), circle(*this), is_circle(is_second_kind) {}

  FUSEDML_DEVICE bool has_affine_negatives() const { return !is_circle; }
  FUSEDML_DEVICE LogitTerms<Real> terms(bool is_positive, Real x) const {
    return is_circle ? circle.terms(is_positive, x) : angular_margin.terms(is_positive, x);
  }
  /// z_ij; NaN for any x that is not finite.
  FUSEDML_DEVICE Real logit(bool is_positive, Real x) const {
    return x * Real(0) + times_numbers(is_positive, terms(is_positive, x));
  }
  /// What backwards take for dz_ij / dx_ij.
  FUSEDML_DEVICE Real logit_slope(bool is_positive, Real x) const {
    return times_numbers(is_positive, is_circle ? circle.slopes(is_positive, x)
                                                : angular_margin.slopes(is_positive, x));
  }

 private:
  FUSEDML_DEVICE Real times_numbers(bool is_positive, LogitTerms<Real> terms) const {
    const Real shift = is_positive ? this->shift_positive : this->shift_negative;
    return this->scale(is_positive) * terms.of_scale + shift * terms.of_shift;
  }
};

}  // namespace fusedml
