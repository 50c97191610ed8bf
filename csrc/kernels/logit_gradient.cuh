#pragma once
// Gradient of the logit's four numbers: every thread adds up its pairs, every block its threads.
#include "core/primitives.cuh"
#include "logits/affine.h"

namespace fusedml {

/// Gradient of (scale+, shift+, scale-, shift-) over a thread's pairs.
template <class Real>
struct LogitGradient {
  Real value[4] = {};

  template <bool kPositive>
  FUSEDML_DEVICE void add(Real d_logit, LogitTerms<Real> terms) {
    value[kPositive ? 0 : 2] += d_logit * terms.of_scale;
    value[kPositive ? 1 : 3] += d_logit * terms.of_shift;
  }
};

/// Adds the threads' logit gradients in a fixed order and writes the block's sums.
template <int kThreads, class Real>
FUSEDML_DEVICE void store_logit_gradient(LogitGradient<Real> sums, double* partials) {
  FUSEDML_SHARED(double, of_warp, [kThreads / kWarpSize][4]);
  const int warp = int(threadIdx.x) / kWarpSize, lane = int(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    double sum = sums.value[k];
#pragma unroll
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane == 0) of_warp[warp][k] = sum;
  }
  __syncthreads();  // the warps' sums are complete
  if (threadIdx.x < 4) {
    double sum = 0;
    for (int w = 0; w < kThreads / kWarpSize; ++w) sum += of_warp[w][threadIdx.x];
    partials[threadIdx.x] = sum;
  }
}

}  // namespace fusedml
