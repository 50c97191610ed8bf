#pragma once
#include "core/row_statistics.h"

namespace fusedml {

/// L_i = softplus(lse+) / of_positive + softplus(lse-) / of_negative
///   Multi-Similarity, Wang et al., CVPR 2019, eq. (15): alpha and beta.
///   Proxy-Anchor, Kim et al., CVPR 2020, eq. (4), whose rows are the proxies: the number of
///   proxies with a positive, and of all.
template <class Real>
struct SoftplusSumHead {
  Real of_positive, of_negative;

  FUSEDML_HOST_DEVICE RowLoss<Real> operator()(const RowSummary<Real>& row) const {
    return {softplus(row.lse_positive) / of_positive + softplus(row.lse_negative) / of_negative,
            {sigmoid(row.lse_positive) / of_positive, sigmoid(row.lse_negative) / of_negative,
             Real(0)}};
  }
};

}  // namespace fusedml
