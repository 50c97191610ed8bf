#pragma once
#include "core/pair.h"

namespace fusedml {

/// The logits of a pair by two products, of the embeddings and of a second matrix of the same rows.
template <class Real>
struct LogitPair {
  Real first, second;
};

/// x = scale (<a_i, a_j> + shift)  and  y = scale (<t_i, t_j> + second shift);  of pairs of equal
/// labels, where there are labels, both are scale equal.
template <class Real>
struct TwoProductLogits {
  static constexpr bool kIsLight = false;
  static constexpr bool kIsGrouped = false;
  Real scale, shift, second_shift, equal;

  FUSEDML_DEVICE TwoProductLogits(const LogitParameters& parameters, bool /*is_second_kind*/)
      : scale(Real(parameters.get(0))),
        shift(Real(parameters.get(1))),
        second_shift(Real(parameters.get(2))),
        equal(Real(parameters.get(3))) {}

  /// NaN for products that are not finite, of pairs of equal labels, too: they spoil their rows.
  FUSEDML_DEVICE LogitPair<Real> operator()(bool is_equal, Real first, Real second) const {
    return {first * Real(0) + scale * (is_equal ? equal : first + shift),
            second * Real(0) + scale * (is_equal ? equal : second + second_shift)};
  }
};

/// Whether kernels of a logit compute the products of a second matrix, too.
template <class Logit>
constexpr bool kHasSecondProduct = false;
template <class Real>
constexpr bool kHasSecondProduct<TwoProductLogits<Real>> = true;

}  // namespace fusedml
