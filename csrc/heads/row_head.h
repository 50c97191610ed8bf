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

  template <class Real>
  FUSEDML_DEVICE RowLoss<Real> operator()(const RowSummary<Real>& row) const {
    const double* values = device_parameters ? device_parameters : parameters;
    switch (kind) {
      case RowHeadKind::kMultiSimilarity:
        return MultiSimilarityHead<Real>{Real(values[0]), Real(values[1])}(row);
      case RowHeadKind::kGeneralizedLiftedStructure:
        return GeneralizedLiftedStructureHead<Real>{}(row);
      case RowHeadKind::kProxyAnchor:
        return ProxyAnchorHead<Real>{Real(values[0]), Real(values[1])}(row);
      case RowHeadKind::kNPairs:
        return CrossEntropyHead<Real>{/*averages_positives=*/false}(row);
      case RowHeadKind::kSupCon:
        return CrossEntropyHead<Real>{/*averages_positives=*/true}(row);
    }
    return {};
  }
};

}  // namespace fusedml
