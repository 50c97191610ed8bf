#pragma once
// The positive-pair heads by name, chosen when the kernel runs.
#include "heads/lifted_structure.h"
#include "heads/nt_xent.h"

namespace fusedml {

enum class PositivePairHead { kNtXent, kLiftedStructure };

template <class Real>
FUSEDML_HOST_DEVICE PairLoss<Real> positive_pair_loss(PositivePairHead head, Real logit,
                                                      Real anchor_lse, Real reference_lse) {
  if (head == PositivePairHead::kNtXent)
    return NtXentHead<Real>{}(logit, anchor_lse, reference_lse);
  return LiftedStructureHead<Real>{}(logit, anchor_lse, reference_lse);
}

}  // namespace fusedml
