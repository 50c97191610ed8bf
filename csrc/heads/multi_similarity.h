#pragma once
#include "core/row_statistics.h"

namespace fusedml {

/// Multi-Similarity Loss, Wang et al., CVPR 2019, eq. (15).
///   L_i = log(1 + sum_P exp(z+)) / alpha + log(1 + sum_N exp(z-)) / beta
template <class Real>
struct MultiSimilarityHead {
  Real alpha, beta;

  FUSEDML_HOST_DEVICE RowLoss<Real> operator()(const RowSummary<Real>& row) const {
    return {softplus(row.lse_positive) / alpha + softplus(row.lse_negative) / beta,
            {sigmoid(row.lse_positive) / alpha, sigmoid(row.lse_negative) / beta, Real(0)}};
  }
};

}  // namespace fusedml
