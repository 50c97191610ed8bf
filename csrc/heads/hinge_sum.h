#pragma once
#include "core/row_statistics.h"

namespace fusedml {

/// L_i = relu(lse+ + lse-), the log-sum-exp of an empty set counting 0.
///   Generalised lifted structure, Hermans et al., 2017, eq. (8).
template <class Real>
struct HingeSumHead {
  FUSEDML_HOST_DEVICE RowLoss<Real> operator()(const RowSummary<Real>& row) const {
    const bool has_positive = row.num_positive > 0, has_negative = row.num_negative > 0;
    const Real inner =
        (has_positive ? row.lse_positive : Real(0)) + (has_negative ? row.lse_negative : Real(0));
    if (inner <= Real(0)) return {Real(0), {Real(0), Real(0), Real(0)}};  // a NaN goes on
    return {inner, {Real(has_positive), Real(has_negative), Real(0)}};
  }
};

}  // namespace fusedml
