#pragma once
#include "logits/euclidean.h"

namespace fusedml {

/// Logits affine in the similarity, the Euclidean distance or its square, by what the problem says:
/// for kernels of which there is one for all measures.
template <class Real>
struct AnyMeasureLogit : EuclideanLogit<Real> {
  using Distance = EuclideanLogit<Real>;
  bool is_dot;

  FUSEDML_DEVICE AnyMeasureLogit(const LogitParameters& parameters, bool is_second_kind)
      : Distance(parameters, is_second_kind), is_dot(parameters.is_dot) {}

  FUSEDML_DEVICE Real measure(Real similarity, Real anchor_norm, Real reference_norm) const {
    return is_dot ? similarity : Distance::measure(similarity, anchor_norm, reference_norm);
  }
  FUSEDML_DEVICE Real slope(Real x) const { return is_dot ? Real(1) : Distance::slope(x); }
  FUSEDML_DEVICE Real hardness(Real x) const { return is_dot ? x : Distance::hardness(x); }
};

}  // namespace fusedml
