#pragma once
// Which kernels compute: those of mma.sync, or those of Hopper's own instructions (csrc/hopper).
#include "kernels/api.h"

namespace fusedml {

#if defined(FUSEDML_HAS_HOPPER) || defined(FUSEDML_EMULATION)
constexpr bool kHopperIsBuilt = true;
#else
constexpr bool kHopperIsBuilt = false;
#endif

/// Whether the number type has kernels in csrc/hopper.
template <class Number>
constexpr bool kHasHopper = kHopperIsBuilt && Number::kProductDepth == 16;

/// What is the same for forward and backward: null, or why Hopper's kernels cannot compute.
const char* hopper_refusal(const Problem& problem);

}  // namespace fusedml
