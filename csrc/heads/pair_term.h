#pragma once
// What a loss of sums adds up of each pair; the twin of fusedml/terms.py.
#include "core/platform.h"

namespace fusedml {

/// What a term may take of its logit beside the polynomial.
enum class TermFunction { kExp, kSoftplus, kSigmoid };

/// A function of a pair's logit, four numbers and an interval:
///   f(z) = e^{exponent z} (square z^2 + linear z + constant)  where floor < z < ceiling, else 0,
/// or softplus(z).
template <class Real>
struct PairTerm {
  Real exponent, square, linear, constant;
  Real floor, ceiling;  ///< -inf and +inf: without end there, and an infinite z counts
  bool is_closed;       ///< z = floor counts, too
  bool is_softplus;

  /// A NaN counts: it has to reach the sums.
  FUSEDML_HOST_DEVICE bool counts(Real z) const {
    const bool is_below = is_closed ? z < floor : z <= floor && floor > Real(-INFINITY);
    const bool is_above = z >= ceiling && ceiling < Real(INFINITY);
    return is_softplus || !(is_below || is_above);
  }

  struct Evaluated {
    Real value, slope;
    bool counts;
  };
  /// of(TermFunction, z): what the caller has one copy of, not one for each pair.  What is not
  /// wanted may be left out; the slope is  (e^{T z} p)' = e^{T z} (T p + p').
  template <class Of>
  FUSEDML_HOST_DEVICE Evaluated evaluate(Real z, bool wants_value, bool wants_slope,
                                         const Of& of) const {
    if (is_softplus)
      return {wants_value ? of(TermFunction::kSoftplus, z) : Real(0),
              wants_slope ? of(TermFunction::kSigmoid, z) : Real(0), true};
    if (!counts(z)) return {Real(0), Real(0), false};
    const Real polynomial = (square * z + linear) * z + constant;
    const Real slope = exponent * polynomial + (Real(2) * square * z + linear);
    const Real factor = exponent == Real(0) ? Real(1) : of(TermFunction::kExp, exponent * z);
    return {polynomial * factor, slope * factor, true};
  }
};

}  // namespace fusedml
