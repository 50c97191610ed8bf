#pragma once
#include "logits/affine.h"

namespace fusedml {

/// Tuplet margin loss, Yu & Tao, ICCV 2019, eq. (5):
///   z+ = scale+ x + shift+ sqrt(1 - x^2),   z- = scale- x + shift-.
/// 1 - x^2 is at least epsilon, and the root's slope 0 below: it is infinite at x = 1, where it
/// meets a dx/da of length sqrt(1 - x^2).
template <class Real>
struct AngularMarginCurve {
  static constexpr Real kEpsilon =
      sizeof(Real) == 8 ? Real(2.220446049250313e-16) : Real(1.1920929e-7);

  static FUSEDML_DEVICE Real square(Real x) { return (Real(1) - x) * (Real(1) + x); }

  FUSEDML_DEVICE LogitTerms<Real> terms(bool is_positive, Real x) const {
    if (!is_positive) return {x, Real(1)};
    const Real inside = square(x);
    return {x, std::sqrt(inside < kEpsilon ? kEpsilon : inside)};
  }
  FUSEDML_DEVICE LogitTerms<Real> slopes(bool is_positive, Real x) const {
    const Real inside = square(x);
    if (!is_positive || inside < kEpsilon) return {Real(1), Real(0)};
    return {Real(1), -x / std::sqrt(inside)};
  }
};

}  // namespace fusedml
