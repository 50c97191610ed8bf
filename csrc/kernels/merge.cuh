#pragma once
// Small reductions between the kernels of a backward, all in a fixed order.
#include "core/number.cuh"
#include "core/pair.h"

namespace fusedml {

constexpr int kMergeThreads = 256;

/// gradient = sum of the column splits of route A.
template <class Number>
__global__ void __launch_bounds__(kMergeThreads)
    merge_gradients_kernel(const typename Number::Real* splits, int64_t num_splits, int64_t count,
                           typename Number::Element* gradient) {
  const int64_t index = int64_t(blockIdx.x) * kMergeThreads + threadIdx.x;
  if (index >= count) return;
  typename Number::Real sum = 0;
  for (int64_t split = 0; split < num_splits; ++split) sum += splits[split * count + index];
  gradient[index] = Number::to_element(sum);
}

/// Block-wide combination of one value per thread, in a fixed order; only thread 0 gets it, the
/// others their own part.
template <class T, class Combine>
FUSEDML_DEVICE T combine_block(T value, Combine combine_two) {
  FUSEDML_SHARED(T, of_thread, [kMergeThreads]);
  const int thread = int(threadIdx.x);
  of_thread[thread] = value;
  for (int half = kMergeThreads / 2; half > 0; half /= 2) {
    __syncthreads();  // the previous round has been written
    if (thread >= half) continue;
    value = combine_two(value, of_thread[thread + half]);
    of_thread[thread] = value;
  }
  return value;
}

/// logit_grad [4] = (is_first ? 0 : logit_grad) + sums of partials [count, 4]; one block per
/// number.
static __global__ void __launch_bounds__(kMergeThreads)
    merge_logit_gradient_kernel(const double* partials, int64_t count, bool is_first,
                                double* logit_grad) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kMergeThreads) sum += partials[4 * i + blockIdx.x];
  sum = combine_block(sum, [](double a, double b) { return a + b; });
  if (threadIdx.x == 0) logit_grad[blockIdx.x] = is_first ? sum : logit_grad[blockIdx.x] + sum;
}

/// Absolute row gradients of which the largest is wanted: two arrays, as one.
template <class Real>
struct RowGradientSizes {
  const Real* values;
  int64_t count;
  const Real* further;
  int64_t num_further;

  FUSEDML_HOST_DEVICE int64_t total() const { return count + num_further; }

  /// The largest, over the threads of a grid; only thread 0 of each block gets it, for its block.
  FUSEDML_DEVICE Real largest() const {
    Real largest = 0;
    const int64_t first = int64_t(blockIdx.x) * kMergeThreads + threadIdx.x;
    for (int64_t i = first; i < total(); i += int64_t(gridDim.x) * kMergeThreads) {
      const Real size = std::fabs(i < count ? values[i] : further[i - count]);
      largest = size > largest ? size : largest;
    }
    return combine_block(largest, [](Real a, Real b) { return a > b ? a : b; });
  }
};

/// Of many rows, by many blocks: largest [blocks].
template <class Real>
__global__ void __launch_bounds__(kMergeThreads)
    largest_gradient_kernel(RowGradientSizes<Real> sizes, Real* largest) {
  const Real of_block = sizes.largest();
  if (threadIdx.x == 0) largest[blockIdx.x] = of_block;
}

/// A power of two that brings the largest |row gradient| x |logit scale| x steepness to about 2^4:
/// far enough from fp16's limits (2^16 above, 2^-24 below) for slopes of near duplicates on one
/// side and small softmax weights on the other.  One block.
template <class Real>
__global__ void __launch_bounds__(kMergeThreads)
    weight_scale_kernel(RowGradientSizes<Real> sizes, LogitParameters logit, bool has_one_scale,
                        Real steepness, Real* weight_scale) {
  Real largest = sizes.largest();
  if (threadIdx.x != 0) return;
  Real scale = std::fabs(Real(logit.get(0)));
  // both are read: a number chosen by its place would lie in local memory
  const Real of_negatives = std::fabs(Real(logit.get(2)));
  if (!has_one_scale && of_negatives > scale) scale = of_negatives;
  largest *= steepness * scale;
  const bool is_usable = largest > Real(0) && largest < Real(INFINITY);
  *weight_scale = is_usable ? std::exp2(Real(4) - std::ceil(std::log2(largest))) : Real(1);
}

}  // namespace fusedml
