#pragma once
#include "core/row_statistics.h"

namespace fusedml {

/// NT-Xent with any number of positives, Chen et al., ICML 2020, eq. (1): each positive pair meets
/// all negatives of its anchor but no other positive.
///   v = softplus(lse-_i - z_ip)
template <class Real>
struct SoftplusGapHead {
  FUSEDML_HOST_DEVICE PairLoss<Real> operator()(Real logit, Real anchor_lse, Real) const {
    const Real gap = anchor_lse - logit;  // -inf without negatives: the loss is 0
    const Real share = sigmoid(gap);
    return {softplus(gap), -share, share, Real(0)};
  }
};

}  // namespace fusedml
