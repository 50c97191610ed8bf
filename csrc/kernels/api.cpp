#include "kernels/api.h"

#include "kernels/operators.h"

namespace fusedml {
namespace {

/// run(Operators<...>{}) for the number type of a Problem, or of a Normalization.
template <class Given, class Run>
auto for_number_type(const Given& given, Run run) {
  switch (given.number_type) {
    case NumberType::kBf16:
      return run(Operators<Bf16>{});
    case NumberType::kFp16:
      return run(Operators<Fp16>{});
    case NumberType::kTf32:
      return run(Operators<Tf32>{});
    case NumberType::kFp32:
      return run(Operators<Fp32>{});
    case NumberType::kFp64:
      break;
  }
  return run(Operators<Fp64>{});
}

/// Whether Hopper's kernels were asked for and cannot compute the problem.
bool is_refused(const EngineChoice& choice, Engine wanted) {
  return wanted == Engine::kHopper && choice.engine != Engine::kHopper;
}

}  // namespace

size_t pair_statistics_workspace(const Problem& problem, const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_statistics_workspace(problem, options);
  });
}

cudaError_t pair_statistics(const Problem& problem, const RowHead& head,
                            const StatisticsOutputs& outputs, void* workspace, cudaStream_t stream,
                            const SweepOptions& options) {
  if (is_refused(choose_engine(problem, options.engine), options.engine))
    return cudaErrorNotSupported;
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_statistics(problem, head, outputs, workspace, stream, options);
  });
}

size_t pair_extrema_workspace(const Problem& problem, const SweepOptions& options) {
  return for_number_type(
      problem, [&](auto operators) { return operators.pair_extrema_workspace(problem, options); });
}

cudaError_t pair_extrema(const Problem& problem, void* extrema, void* workspace,
                         cudaStream_t stream, const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_extrema(problem, extrema, workspace, stream, options);
  });
}

size_t two_sided_statistics_workspace(const Problem& problem, const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.two_sided_statistics_workspace(problem, options);
  });
}

cudaError_t two_sided_statistics(const Problem& problem, const StatisticsOutputs& outputs,
                                 void* workspace, cudaStream_t stream,
                                 const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.two_sided_statistics(problem, outputs, workspace, stream, options);
  });
}

size_t two_sided_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                                    const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.two_sided_gradient_workspace(problem, outputs, options);
  });
}

cudaError_t two_sided_gradient(const Problem& problem, const void* statistics,
                               const void* statistics_grad, const GradientOutputs& outputs,
                               void* workspace, cudaStream_t stream,
                               const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.two_sided_gradient(problem, statistics, statistics_grad, outputs, workspace,
                                        stream, options);
  });
}

size_t extreme_pairs_workspace(const Problem& problem, const SweepOptions& options) {
  return for_number_type(
      problem, [&](auto operators) { return operators.extreme_pairs_workspace(problem, options); });
}

cudaError_t extreme_pairs(const Problem& problem, const ExtremePairs& wanted, void* measures,
                          int64_t* columns, void* workspace, cudaStream_t stream,
                          const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.extreme_pairs(problem, wanted, measures, columns, workspace, stream, options);
  });
}

size_t pair_sums_workspace(const Problem& problem, const PairSums& sums,
                           const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_sums_workspace(problem, sums, options);
  });
}

cudaError_t pair_sums(const Problem& problem, const PairSums& sums, const PairSumsOutputs& outputs,
                      void* workspace, cudaStream_t stream, const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_sums(problem, sums, outputs, workspace, stream, options);
  });
}

size_t pair_sums_gradient_workspace(const Problem& problem, const PairSums& sums,
                                    const GradientOutputs& outputs,
                                    const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_sums_gradient_workspace(problem, sums, outputs, options);
  });
}

cudaError_t pair_sums_gradient(const Problem& problem, const PairSums& sums, const void* slopes,
                               const void* sums_grad, const GradientOutputs& outputs,
                               void* shifts_grad, void* workspace, cudaStream_t stream,
                               const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_sums_gradient(problem, sums, slopes, sums_grad, outputs, shifts_grad,
                                        workspace, stream, options);
  });
}

size_t pair_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                               const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_gradient_workspace(problem, outputs, options);
  });
}

cudaError_t pair_gradient(const Problem& problem, const void* statistics,
                          const void* statistics_grad, const GradientOutputs& outputs,
                          void* workspace, cudaStream_t stream, const GradientOptions& options) {
  if (is_refused(choose_engine(problem, outputs, options.engine), options.engine))
    return cudaErrorNotSupported;
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_gradient(problem, statistics, statistics_grad, outputs, workspace, stream,
                                   options);
  });
}

size_t row_divergences_workspace(const Problem& problem, const SecondProduct& second,
                                 const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.row_divergences_workspace(problem, second, options);
  });
}

cudaError_t row_divergences(const Problem& problem, const SecondProduct& second, void* losses,
                            void* log_sums, void* workspace, cudaStream_t stream,
                            const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.row_divergences(problem, second, losses, log_sums, workspace, stream, options);
  });
}

size_t row_divergences_gradient_workspace(const Problem& problem, const SecondProduct& second,
                                          const GradientOutputs& outputs,
                                          const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.row_divergences_gradient_workspace(problem, second, outputs, options);
  });
}

cudaError_t row_divergences_gradient(const Problem& problem, const SecondProduct& second,
                                     const void* losses, const void* log_sums,
                                     const void* losses_grad, const GradientOutputs& outputs,
                                     void* workspace, cudaStream_t stream,
                                     const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.row_divergences_gradient(problem, second, losses, log_sums, losses_grad,
                                              outputs, workspace, stream, options);
  });
}

size_t positive_pair_losses_workspace(const Problem& problem, const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.positive_pair_losses_workspace(problem, options);
  });
}

cudaError_t positive_pair_losses(const Problem& problem, const PositivePairs& pairs,
                                 const StatisticsOutputs& outputs, void* workspace,
                                 cudaStream_t stream, const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.positive_pair_losses(problem, pairs, outputs, workspace, stream, options);
  });
}

size_t positive_pair_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                                        const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.positive_pair_gradient_workspace(problem, outputs, options);
  });
}

cudaError_t positive_pair_gradient(const Problem& problem, const PositivePairs& pairs,
                                   const void* statistics, const void* losses_grad,
                                   const GradientOutputs& outputs, void* reference_lse_grad,
                                   void* workspace, cudaStream_t stream,
                                   const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.positive_pair_gradient(problem, pairs, statistics, losses_grad, outputs,
                                            reference_lse_grad, workspace, stream, options);
  });
}

size_t threshold_sums_workspace(const Problem& problem, const Thresholds& thresholds,
                                const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.threshold_sums_workspace(problem, thresholds, options);
  });
}

cudaError_t threshold_sums(const Problem& problem, const Thresholds& thresholds, void* sums,
                           void* workspace, cudaStream_t stream, const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.threshold_sums(problem, thresholds, sums, workspace, stream, options);
  });
}

size_t threshold_gradient_workspace(const Problem& problem, const Thresholds& thresholds,
                                    const GradientOutputs& outputs,
                                    const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.threshold_gradient_workspace(problem, thresholds, outputs, options);
  });
}

cudaError_t threshold_gradient(const Problem& problem, const Thresholds& thresholds,
                               const void* sums_grad, const void* largest_weights,
                               const GradientOutputs& outputs, void* workspace, cudaStream_t stream,
                               const GradientOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.threshold_gradient(problem, thresholds, sums_grad, largest_weights, outputs,
                                        workspace, stream, options);
  });
}

size_t threshold_pairs_workspace(const Problem& problem, int64_t count,
                                 const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.threshold_pairs_workspace(problem, count, options);
  });
}

cudaError_t threshold_pairs(const Problem& problem, const void* thresholds, int64_t count,
                            int64_t* columns, void* workspace, cudaStream_t stream,
                            const SweepOptions& options) {
  return for_number_type(problem, [&](auto operators) {
    return operators.threshold_pairs(problem, thresholds, count, columns, workspace, stream,
                                     options);
  });
}

cudaError_t pair_values(const Problem& problem, const ListedPairs& pairs, void* values,
                        cudaStream_t stream) {
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_values(problem, pairs, values, stream);
  });
}

size_t pair_values_gradient_workspace(const Problem& problem, const ListedPairs& pairs) {
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_values_gradient_workspace(problem, pairs);
  });
}

cudaError_t pair_values_gradient(const Problem& problem, const ListedPairs& pairs,
                                 const SortedPairs& by_row, const SortedPairs& by_column,
                                 const void* values_grad, const GradientOutputs& outputs,
                                 void* workspace, cudaStream_t stream) {
  return for_number_type(problem, [&](auto operators) {
    return operators.pair_values_gradient(problem, pairs, by_row, by_column, values_grad, outputs,
                                          workspace, stream);
  });
}

size_t window_counts_workspace(const Problem& problem) {
  return for_number_type(
      problem, [&](auto operators) { return operators.window_counts_workspace(problem); });
}

cudaError_t window_counts(const Problem& problem, const PairWindows& windows, int64_t* counts,
                          void* workspace, cudaStream_t stream) {
  return for_number_type(problem, [&](auto operators) {
    return operators.window_counts(problem, windows, counts, workspace, stream);
  });
}

size_t window_pairs_workspace(const Problem& problem) { return window_counts_workspace(problem); }

cudaError_t window_pairs(const Problem& problem, const PairWindows& windows, const WindowList& list,
                         void* workspace, cudaStream_t stream) {
  return for_number_type(problem, [&](auto operators) {
    return operators.window_pairs(problem, windows, list, workspace, stream);
  });
}

cudaError_t normalize_rows(const Normalization& given, void* unit_rows, void* norms,
                           cudaStream_t stream) {
  return for_number_type(given, [&](auto operators) {
    return operators.normalize_rows(given, unit_rows, norms, stream);
  });
}

cudaError_t normalize_rows_gradient(const Normalization& given, const void* norms,
                                    const void* unit_grad, void* x_grad, cudaStream_t stream) {
  return for_number_type(given, [&](auto operators) {
    return operators.normalize_rows_gradient(given, norms, unit_grad, x_grad, stream);
  });
}

}  // namespace fusedml
