#pragma once
#include "logits/affine.h"

namespace fusedml {

/// Circle loss, Sun et al., CVPR 2020, eq. (6) and (8):
///   z+ = scale+ [1 + m - x]+ (x - (1 - m)),   z- = scale- [x + m]+ (x - m),
/// the zeros being -shift / scale.  The brackets are constants of the backward.
template <class Real>
struct CircleCurve {
  Real limit_positive, limit_negative;  ///< 1 + m and -m, where the brackets are 0

  FUSEDML_DEVICE explicit CircleCurve(const AffineLogit<Real>& numbers)
      : limit_positive(Real(2) + numbers.shift_positive / numbers.scale_positive),
        limit_negative(numbers.shift_negative / numbers.scale_negative) {}

  FUSEDML_DEVICE Real bracket(bool is_positive, Real x) const {
    const Real inside = is_positive ? limit_positive - x : x - limit_negative;
    return inside < Real(0) ? Real(0) : inside;  // not fmax, which would drop a NaN
  }
  FUSEDML_DEVICE LogitTerms<Real> terms(bool is_positive, Real x) const {
    const Real factor = bracket(is_positive, x);
    return {factor * x, factor};
  }
  FUSEDML_DEVICE LogitTerms<Real> slopes(bool is_positive, Real x) const {
    return {bracket(is_positive, x), Real(0)};
  }
};

}  // namespace fusedml
