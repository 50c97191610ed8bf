#pragma once
// Definitions of Operators<Number>, instantiated by one .cu file per number type.
#include "kernels/extreme_pairs_host.cuh"
#include "kernels/forward.cuh"
#include "kernels/gradient.cuh"
#include "kernels/listed_pairs_host.cuh"
#include "kernels/normalize.cuh"
#include "kernels/operators.h"
#include "kernels/positive_pairs_host.cuh"
#include "kernels/row_divergences_host.cuh"
#include "kernels/term_sums_host.cuh"
#include "kernels/threshold_pairs_host.cuh"
#include "kernels/thresholds_host.cuh"
#include "kernels/two_sided.cuh"
#include "kernels/windows_host.cuh"

namespace fusedml {

template <class Number>
size_t Operators<Number>::pair_statistics_workspace(const Problem& problem,
                                                    const SweepOptions& options) {
  return statistics_workspace<Number>(problem, options);
}

template <class Number>
cudaError_t Operators<Number>::pair_statistics(const Problem& problem, const RowHead& head,
                                               const StatisticsOutputs& outputs, void* workspace,
                                               cudaStream_t stream, const SweepOptions& options) {
  return statistics<Number>(problem, head, outputs, workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::pair_extrema_workspace(const Problem& problem,
                                                 const SweepOptions& options) {
  return extrema_workspace<Number>(problem, options);
}

template <class Number>
cudaError_t Operators<Number>::pair_extrema(const Problem& problem, void* result, void* workspace,
                                            cudaStream_t stream, const SweepOptions& options) {
  return extrema<Number>(problem, result, workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::two_sided_statistics_workspace(const Problem& problem,
                                                         const SweepOptions& options) {
  return statistics_of_both_sides_workspace<Number>(problem, options);
}

template <class Number>
cudaError_t Operators<Number>::two_sided_statistics(const Problem& problem,
                                                    const StatisticsOutputs& outputs,
                                                    void* workspace, cudaStream_t stream,
                                                    const SweepOptions& options) {
  return statistics_of_both_sides<Number>(problem, outputs, workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::two_sided_gradient_workspace(const Problem& problem,
                                                       const GradientOutputs& outputs,
                                                       const GradientOptions& options) {
  GradientOptions own = options;
  own.engine = Engine::kMmaSync;
  return gradient_workspace<Number>(problem, outputs, own);
}

template <class Number>
cudaError_t Operators<Number>::two_sided_gradient(const Problem& problem, const void* statistics,
                                                  const void* statistics_grad,
                                                  const GradientOutputs& outputs, void* workspace,
                                                  cudaStream_t stream,
                                                  const GradientOptions& options) {
  return gradient_of_both_sides<Number>(problem, statistics, statistics_grad, outputs, workspace,
                                        stream, options);
}

template <class Number>
size_t Operators<Number>::extreme_pairs_workspace(const Problem& problem,
                                                  const SweepOptions& options) {
  return placed_extrema_workspace<Number>(problem, options);
}

template <class Number>
cudaError_t Operators<Number>::extreme_pairs(const Problem& problem, const ExtremePairs& wanted,
                                             void* measures, int64_t* columns, void* workspace,
                                             cudaStream_t stream, const SweepOptions& options) {
  return placed_extrema<Number>(problem, wanted, measures, columns, workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::pair_sums_workspace(const Problem& problem, const PairSums& sums,
                                              const SweepOptions& options) {
  return term_sums_workspace<Number>(problem, sums, options);
}

template <class Number>
cudaError_t Operators<Number>::pair_sums(const Problem& problem, const PairSums& sums,
                                         const PairSumsOutputs& outputs, void* workspace,
                                         cudaStream_t stream, const SweepOptions& options) {
  return term_sums<Number>(problem, sums, outputs, workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::pair_sums_gradient_workspace(const Problem& problem,
                                                       const PairSums& /*sums*/,
                                                       const GradientOutputs& outputs,
                                                       const GradientOptions& options) {
  return term_sums_gradient_workspace<Number>(problem, outputs, options);
}

template <class Number>
cudaError_t Operators<Number>::pair_sums_gradient(const Problem& problem, const PairSums& sums,
                                                  const void* slopes, const void* sums_grad,
                                                  const GradientOutputs& outputs, void* shifts_grad,
                                                  void* workspace, cudaStream_t stream,
                                                  const GradientOptions& options) {
  return term_sums_gradient<Number>(problem, sums, slopes, sums_grad, outputs, shifts_grad,
                                    workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::row_divergences_workspace(const Problem& problem,
                                                    const SecondProduct& /*second*/,
                                                    const SweepOptions& options) {
  return divergences_workspace<Number>(problem, options);
}

template <class Number>
cudaError_t Operators<Number>::row_divergences(const Problem& problem, const SecondProduct& second,
                                               void* losses, void* log_sums, void* workspace,
                                               cudaStream_t stream, const SweepOptions& options) {
  return divergences<Number>(problem, second, losses, log_sums, workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::row_divergences_gradient_workspace(const Problem& problem,
                                                             const SecondProduct& second,
                                                             const GradientOutputs& outputs,
                                                             const GradientOptions& options) {
  return divergences_gradient_workspace<Number>(problem, second, outputs, options);
}

template <class Number>
cudaError_t Operators<Number>::row_divergences_gradient(
    const Problem& problem, const SecondProduct& second, const void* losses, const void* log_sums,
    const void* losses_grad, const GradientOutputs& outputs, void* workspace, cudaStream_t stream,
    const GradientOptions& options) {
  return divergences_gradient<Number>(problem, second, losses, log_sums, losses_grad, outputs,
                                      workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::pair_gradient_workspace(const Problem& problem,
                                                  const GradientOutputs& outputs,
                                                  const GradientOptions& options) {
  return gradient_workspace<Number>(problem, outputs, options);
}

template <class Number>
cudaError_t Operators<Number>::pair_gradient(const Problem& problem, const void* statistics,
                                             const void* statistics_grad,
                                             const GradientOutputs& outputs, void* workspace,
                                             cudaStream_t stream, const GradientOptions& options) {
  return statistics_gradient<Number>(problem, statistics, statistics_grad, outputs, workspace,
                                     stream, options);
}

template <class Number>
size_t Operators<Number>::positive_pair_losses_workspace(const Problem& problem,
                                                         const SweepOptions& options) {
  return pair_losses_workspace<Number>(problem, options);
}

template <class Number>
cudaError_t Operators<Number>::positive_pair_losses(const Problem& problem,
                                                    const PositivePairs& pairs,
                                                    const StatisticsOutputs& outputs,
                                                    void* workspace, cudaStream_t stream,
                                                    const SweepOptions& options) {
  return pair_losses<Number>(problem, pairs, outputs, workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::positive_pair_gradient_workspace(const Problem& problem,
                                                           const GradientOutputs& outputs,
                                                           const GradientOptions& options) {
  return pair_head_gradient_workspace<Number>(problem, outputs, options);
}

template <class Number>
cudaError_t Operators<Number>::positive_pair_gradient(
    const Problem& problem, const PositivePairs& pairs, const void* statistics,
    const void* losses_grad, const GradientOutputs& outputs, void* reference_lse_grad,
    void* workspace, cudaStream_t stream, const GradientOptions& options) {
  return pair_head_gradient<Number>(problem, pairs, statistics, losses_grad, outputs,
                                    reference_lse_grad, workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::threshold_sums_workspace(const Problem& problem,
                                                   const Thresholds& thresholds,
                                                   const SweepOptions& options) {
  return summed_thresholds_workspace<Number>(problem, thresholds, options);
}

template <class Number>
cudaError_t Operators<Number>::threshold_sums(const Problem& problem, const Thresholds& thresholds,
                                              void* sums, void* workspace, cudaStream_t stream,
                                              const SweepOptions& options) {
  return summed_thresholds<Number>(problem, thresholds, sums, workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::threshold_gradient_workspace(const Problem& problem,
                                                       const Thresholds& thresholds,
                                                       const GradientOutputs& outputs,
                                                       const GradientOptions& options) {
  return thresholds_gradient_workspace<Number>(problem, thresholds, outputs, options);
}

template <class Number>
cudaError_t Operators<Number>::threshold_gradient(
    const Problem& problem, const Thresholds& thresholds, const void* sums_grad,
    const void* largest_weights, const GradientOutputs& outputs, void* workspace,
    cudaStream_t stream, const GradientOptions& options) {
  return thresholds_gradient<Number>(problem, thresholds, sums_grad, largest_weights, outputs,
                                     workspace, stream, options);
}

template <class Number>
size_t Operators<Number>::threshold_pairs_workspace(const Problem& problem, int64_t count,
                                                    const SweepOptions& options) {
  return pairs_below_workspace<Number>(problem, count, options);
}

template <class Number>
cudaError_t Operators<Number>::threshold_pairs(const Problem& problem, const void* thresholds,
                                               int64_t count, int64_t* columns, void* workspace,
                                               cudaStream_t stream, const SweepOptions& options) {
  return pairs_below<Number>(problem, thresholds, count, columns, workspace, stream, options);
}

template <class Number>
cudaError_t Operators<Number>::pair_values(const Problem& problem, const ListedPairs& pairs,
                                           void* values, cudaStream_t stream) {
  return listed_values<Number>(problem, pairs, values, stream);
}

template <class Number>
size_t Operators<Number>::pair_values_gradient_workspace(const Problem& problem,
                                                         const ListedPairs& pairs) {
  return listed_gradient_workspace<Number>(problem, pairs);
}

template <class Number>
cudaError_t Operators<Number>::pair_values_gradient(
    const Problem& problem, const ListedPairs& pairs, const SortedPairs& by_row,
    const SortedPairs& by_column, const void* values_grad, const GradientOutputs& outputs,
    void* workspace, cudaStream_t stream) {
  return listed_gradient<Number>(problem, pairs, by_row, by_column, values_grad, outputs, workspace,
                                 stream);
}

template <class Number>
size_t Operators<Number>::window_counts_workspace(const Problem& problem) {
  return windows_workspace<Number>(problem);
}

template <class Number>
cudaError_t Operators<Number>::window_counts(const Problem& problem, const PairWindows& windows,
                                             int64_t* counts, void* workspace,
                                             cudaStream_t stream) {
  return counted_windows<Number>(problem, windows, counts, workspace, stream);
}

template <class Number>
cudaError_t Operators<Number>::window_pairs(const Problem& problem, const PairWindows& windows,
                                            const WindowList& list, void* workspace,
                                            cudaStream_t stream) {
  return listed_windows<Number>(problem, windows, list, workspace, stream);
}

template <class Number>
cudaError_t Operators<Number>::normalize_rows(const Normalization& given, void* unit_rows,
                                              void* norms, cudaStream_t stream) {
  return normalized_rows<Number>(given, unit_rows, norms, stream);
}

template <class Number>
cudaError_t Operators<Number>::normalize_rows_gradient(const Normalization& given,
                                                       const void* norms, const void* unit_grad,
                                                       void* x_grad, cudaStream_t stream) {
  return normalized_rows_gradient<Number>(given, norms, unit_grad, x_grad, stream);
}

}  // namespace fusedml
