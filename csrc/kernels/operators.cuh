#pragma once
// Definitions of Operators<Number>, instantiated by one .cu file per number type.
#include "kernels/forward.cuh"
#include "kernels/gradient.cuh"
#include "kernels/operators.h"

namespace fusedml {

template <class Number>
size_t Operators<Number>::pair_statistics_workspace(const Problem& problem) {
  return statistics_workspace<Number>(problem);
}

template <class Number>
cudaError_t Operators<Number>::pair_statistics(const Problem& problem, const RowHead& head,
                                               const StatisticsOutputs& outputs, void* workspace,
                                               cudaStream_t stream) {
  return statistics<Number>(problem, head, outputs, workspace, stream);
}

template <class Number>
size_t Operators<Number>::pair_extrema_workspace(const Problem& problem) {
  return extrema_workspace<Number>(problem);
}

template <class Number>
cudaError_t Operators<Number>::pair_extrema(const Problem& problem, void* result, void* workspace,
                                            cudaStream_t stream) {
  return extrema<Number>(problem, result, workspace, stream);
}

template <class Number>
size_t Operators<Number>::pair_gradient_workspace(const Problem& problem,
                                                  const GradientOutputs& outputs,
                                                  const GradientOptions& options) {
  return gradient_workspace<Number>(problem, outputs, options, /*is_pair_head=*/false);
}

template <class Number>
cudaError_t Operators<Number>::pair_gradient(const Problem& problem, const void* statistics,
                                             const void* statistics_grad,
                                             const GradientOutputs& outputs, void* workspace,
                                             cudaStream_t stream, const GradientOptions& options) {
  return statistics_gradient<Number>(problem, statistics, statistics_grad, outputs, workspace,
                                     stream, options);
}
template <class N> size_t Operators<N>::positive_pair_losses_workspace(const Problem&) { return 0; }
template <class N> cudaError_t Operators<N>::positive_pair_losses(const Problem&, const PositivePairs&, void*, void*, cudaStream_t) { return cudaSuccess; }
template <class N> size_t Operators<N>::positive_pair_gradient_workspace(const Problem&, const GradientOutputs&, const GradientOptions&) { return 0; }
template <class N> cudaError_t Operators<N>::positive_pair_gradient(const Problem&, const PositivePairs&, const void*, const GradientOutputs&, void*, void*, void*, cudaStream_t, const GradientOptions&) { return cudaSuccess; }

}  // namespace fusedml
