#pragma once
#include "core/row_statistics.h"

namespace fusedml {

/// Lifted structure, Song et al., CVPR 2016, eq. (4).
///   v = relu(logaddexp(lse-_i, lse-_p) + z_ip)^2 / 2;  no loss where neither row has a negative.
template <class Real>
struct SquaredHingeHead {
  FUSEDML_HOST_DEVICE PairLoss<Real> operator()(Real logit, Real anchor_lse,
                                                Real reference_lse) const {
    OnlineLse<Real> both{anchor_lse, Real(1)};
    both.merge({reference_lse, Real(1)});
    const Real lse = both.value(), inner = lse + logit;
    if (inner <= Real(0)) return {Real(0), Real(0), Real(0), Real(0)};  // -inf too; a NaN goes on
    return {inner * inner / Real(2), inner, inner * std::exp(anchor_lse - lse),
            inner * std::exp(reference_lse - lse)};
  }
};

}  // namespace fusedml
