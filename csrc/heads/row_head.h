#pragma once
// The row heads by name, chosen when the kernel runs: one finish kernel serves every loss.
#include "heads/cross_entropy.h"
#include "heads/hinge_sum.h"
#include "heads/softplus_sum.h"

namespace fusedml {

enum class RowHeadKind {
  kSoftplusSum,
  kHingeSum,
  kCrossEntropy,
  kMeanCrossEntropy,
};

/// A head and its parameters, known to the host or only to the device.
struct RowHead {
  RowHeadKind kind;
  const double* device_parameters;  ///< [number of parameters], or null: then `parameters` holds
  double parameters[2];

  FUSEDML_DEVICE double get(int index) const {
    return device_parameters ? device_parameters[index] : parameters[index];
  }

  template <class Real>
  FUSEDML_DEVICE RowLoss<Real> operator()(const RowSummary<Real>& row) const {
    switch (kind) {
      case RowHeadKind::kSoftplusSum:
        return SoftplusSumHead<Real>{Real(get(0)), Real(get(1))}(row);
      case RowHeadKind::kHingeSum:
        return HingeSumHead<Real>{}(row);
      case RowHeadKind::kCrossEntropy:
        return CrossEntropyHead<Real>{/*averages_positives=*/false}(row);
      case RowHeadKind::kMeanCrossEntropy:
        return CrossEntropyHead<Real>{/*averages_positives=*/true}(row);
    }
    return {};
  }
};

}  // namespace fusedml
