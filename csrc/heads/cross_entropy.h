#pragma once
#include "core/row_statistics.h"

namespace fusedml {

/// Cross-entropy of the positives against all pairs:  L_i = logaddexp(lse+, lse-) - weight sum+.
/// A row without positives has no loss.
///   N-pair, Sohn, NIPS 2016, eq. (9): weight 1, one positive per anchor.
///   SupCon, Khosla et al., NeurIPS 2020, eq. (2): weight 1 / |P(i)|.
template <class Real>
struct CrossEntropyHead {
  bool averages_positives;

  FUSEDML_HOST_DEVICE RowLoss<Real> operator()(const RowSummary<Real>& row) const {
    if (row.num_positive == 0) return {Real(0), {Real(0), Real(0), Real(0)}};
    const Real weight = averages_positives ? Real(1) / Real(row.num_positive) : Real(1);
    // lse+ is finite, so (-inf) - (-inf) cannot occur; a NaN stays one
    OnlineLse<Real> all{row.lse_positive, Real(1)};
    all.merge({row.lse_negative, Real(1)});
    const Real lse = all.value();
    return {lse - weight * row.sum_positive,
            {std::exp(row.lse_positive - lse), std::exp(row.lse_negative - lse), -weight}};
  }
};

}  // namespace fusedml
