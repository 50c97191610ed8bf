#pragma once
// Definitions of Operators<Number>, instantiated by one .cu file per number type.
#include "kernels/forward.cuh"
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
template <class N> size_t Operators<N>::pair_gradient_workspace(const Problem&, const GradientOutputs&) { return 0; }
template <class N> cudaError_t Operators<N>::pair_gradient(const Problem&, const void*, const void*, const GradientOutputs&, void*, cudaStream_t) { return cudaSuccess; }
template <class N> size_t Operators<N>::positive_pair_losses_workspace(const Problem&) { return 0; }
template <class N> cudaError_t Operators<N>::positive_pair_losses(const Problem&, const PositivePairs&, void*, void*, cudaStream_t) { return cudaSuccess; }
template <class N> size_t Operators<N>::positive_pair_gradient_workspace(const Problem&, const GradientOutputs&) { return 0; }
template <class N> cudaError_t Operators<N>::positive_pair_gradient(const Problem&, const PositivePairs&, const void*, const GradientOutputs&, void*, void*, void*, cudaStream_t) { return cudaSuccess; }

}  // namespace fusedml
