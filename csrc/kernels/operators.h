#pragma once
#include "kernels/api.h"

namespace fusedml {

struct Bf16;
struct Fp16;
struct Tf32;
struct Fp32;
struct Fp64;

/// The operators of api.h for one number type, each type in a file of its own (bf16.cu, ...): the
/// types compile in parallel.
template <class Number>
struct Operators {
  static size_t pair_statistics_workspace(const Problem& problem, const SweepOptions& options);
  static cudaError_t pair_statistics(const Problem& problem, const RowHead& head,
                                     const StatisticsOutputs& outputs, void* workspace,
                                     cudaStream_t stream, const SweepOptions& options);
  static size_t pair_extrema_workspace(const Problem& problem, const SweepOptions& options);
  static cudaError_t pair_extrema(const Problem& problem, void* extrema, void* workspace,
                                  cudaStream_t stream, const SweepOptions& options);
  static size_t two_sided_statistics_workspace(const Problem& problem, const SweepOptions& options);
  static cudaError_t two_sided_statistics(const Problem& problem, const StatisticsOutputs& outputs,
                                          void* workspace, cudaStream_t stream,
                                          const SweepOptions& options);
  static size_t two_sided_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                                             const GradientOptions& options);
  static cudaError_t two_sided_gradient(const Problem& problem, const void* statistics,
                                        const void* statistics_grad, const GradientOutputs& outputs,
                                        void* workspace, cudaStream_t stream,
                                        const GradientOptions& options);
  static size_t extreme_pairs_workspace(const Problem& problem, const SweepOptions& options);
  static cudaError_t extreme_pairs(const Problem& problem, const ExtremePairs& wanted,
                                   void* measures, int64_t* columns, void* workspace,
                                   cudaStream_t stream, const SweepOptions& options);
  static size_t pair_sums_workspace(const Problem& problem, const PairSums& sums,
                                    const SweepOptions& options);
  static cudaError_t pair_sums(const Problem& problem, const PairSums& sums,
                               const PairSumsOutputs& outputs, void* workspace, cudaStream_t stream,
                               const SweepOptions& options);
  static size_t pair_sums_gradient_workspace(const Problem& problem, const PairSums& sums,
                                             const GradientOutputs& outputs,
                                             const GradientOptions& options);
  static cudaError_t pair_sums_gradient(const Problem& problem, const PairSums& sums,
                                        const void* slopes, const void* sums_grad,
                                        const GradientOutputs& outputs, void* shifts_grad,
                                        void* workspace, cudaStream_t stream,
                                        const GradientOptions& options);
  static size_t row_divergences_workspace(const Problem& problem, const SecondProduct& second,
                                          const SweepOptions& options);
  static cudaError_t row_divergences(const Problem& problem, const SecondProduct& second,
                                     void* losses, void* log_sums, void* workspace,
                                     cudaStream_t stream, const SweepOptions& options);
  static size_t row_divergences_gradient_workspace(const Problem& problem,
                                                   const SecondProduct& second,
                                                   const GradientOutputs& outputs,
                                                   const GradientOptions& options);
  static cudaError_t row_divergences_gradient(const Problem& problem, const SecondProduct& second,
                                              const void* losses, const void* log_sums,
                                              const void* losses_grad,
                                              const GradientOutputs& outputs, void* workspace,
                                              cudaStream_t stream, const GradientOptions& options);
  static size_t pair_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                                        const GradientOptions& options);
  static cudaError_t pair_gradient(const Problem& problem, const void* statistics,
                                   const void* statistics_grad, const GradientOutputs& outputs,
                                   void* workspace, cudaStream_t stream,
                                   const GradientOptions& options);
  static size_t positive_pair_losses_workspace(const Problem& problem, const SweepOptions& options);
  static cudaError_t positive_pair_losses(const Problem& problem, const PositivePairs& pairs,
                                          const StatisticsOutputs& outputs, void* workspace,
                                          cudaStream_t stream, const SweepOptions& options);
  static size_t positive_pair_gradient_workspace(const Problem& problem,
                                                 const GradientOutputs& outputs,
                                                 const GradientOptions& options);
  static cudaError_t positive_pair_gradient(const Problem& problem, const PositivePairs& pairs,
                                            const void* statistics, const void* losses_grad,
                                            const GradientOutputs& outputs,
                                            void* reference_lse_grad, void* workspace,
                                            cudaStream_t stream, const GradientOptions& options);
  static size_t threshold_sums_workspace(const Problem& problem, const Thresholds& thresholds,
                                         const SweepOptions& options);
  static cudaError_t threshold_sums(const Problem& problem, const Thresholds& thresholds,
                                    void* sums, void* workspace, cudaStream_t stream,
                                    const SweepOptions& options);
  static size_t threshold_gradient_workspace(const Problem& problem, const Thresholds& thresholds,
                                             const GradientOutputs& outputs,
                                             const GradientOptions& options);
  static cudaError_t threshold_gradient(const Problem& problem, const Thresholds& thresholds,
                                        const void* sums_grad, const void* largest_weights,
                                        const GradientOutputs& outputs, void* workspace,
                                        cudaStream_t stream, const GradientOptions& options);
  static size_t threshold_pairs_workspace(const Problem& problem, int64_t count,
                                          const SweepOptions& options);
  static cudaError_t threshold_pairs(const Problem& problem, const void* thresholds, int64_t count,
                                     int64_t* columns, void* workspace, cudaStream_t stream,
                                     const SweepOptions& options);
  static cudaError_t pair_values(const Problem& problem, const ListedPairs& pairs, void* values,
                                 cudaStream_t stream);
  static size_t pair_values_gradient_workspace(const Problem& problem, const ListedPairs& pairs);
  static cudaError_t pair_values_gradient(const Problem& problem, const ListedPairs& pairs,
                                          const SortedPairs& by_row, const SortedPairs& by_column,
                                          const void* values_grad, const GradientOutputs& outputs,
                                          void* workspace, cudaStream_t stream);
  static size_t window_counts_workspace(const Problem& problem);
  static cudaError_t window_counts(const Problem& problem, const PairWindows& windows,
                                   int64_t* counts, void* workspace, cudaStream_t stream);
  static cudaError_t window_pairs(const Problem& problem, const PairWindows& windows,
                                  const WindowList& list, void* workspace, cudaStream_t stream);
  static cudaError_t normalize_rows(const Normalization& given, void* unit_rows, void* norms,
                                    cudaStream_t stream);
  static cudaError_t normalize_rows_gradient(const Normalization& given, const void* norms,
                                             const void* unit_grad, void* x_grad,
                                             cudaStream_t stream);
};

}  // namespace fusedml
