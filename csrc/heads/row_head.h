#pragma once
// The row heads by name, chosen when the kernel runs: one finish kernel serves every loss.
#include "heads/cross_entropy.h"
#include "heads/generalized_lifted_structure.h"
#include "heads/proxy_anchor.h"

namespace fusedml {

enum class RowHeadKind {
  kMultiSimilarity,
  kGeneralizedLiftedStructure,
  kProxyAnchor,
  kNPairs,
  kSupCon,
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
      case RowHeadKind::kMultiSimilarity:
        return MultiSimilarityHead<Real>{Real(get(0)), Real(get(1))}(row);
      case RowHeadKind::kGeneralizedLiftedStructure:
        return GeneralizedLiftedStructureHead<Real>{}(row);
      case RowHeadKind::kProxyAnchor:
        return ProxyAnchorHead<Real>{Real(get(0)), Real(get(1))}(row);
      case RowHeadKind::kNPairs:
        return CrossEntropyHead<Real>{/*averages_positives=*/false}(row);
      case RowHeadKind::kSupCon:
        return CrossEntropyHead<Real>{/*averages_positives=*/true}(row);
    }
    return {};
  }
};

}  // namespace fusedml
