#pragma once
// The positive-pair heads by name, chosen when the kernel runs.
#include "heads/softplus_gap.h"
#include "heads/squared_hinge.h"

namespace fusedml {

enum class PositivePairHead { kSoftplusGap, kSquaredHinge };

template <class Real>
FUSEDML_HOST_DEVICE PairLoss<Real> positive_pair_loss(PositivePairHead head, Real logit,
                                                      Real anchor_lse, Real reference_lse) {
  if (head == PositivePairHead::kSoftplusGap)
    return SoftplusGapHead<Real>{}(logit, anchor_lse, reference_lse);
  return SquaredHingeHead<Real>{}(logit, anchor_lse, reference_lse);
}

}  // namespace fusedml
