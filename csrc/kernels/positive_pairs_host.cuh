#pragma once
// Host side of positive_pair_losses and positive_pair_gradient.
#include "kernels/forward.cuh"
#include "kernels/gradient.cuh"
#include "kernels/positive_pairs.cuh"

namespace fusedml {

template <class Number>
using PairSumSweep = Sweep<Number, PositivePairReduction<Number>>;

/// sums [rows of `pairs`]; `nan_source` as finish_pair_sums_kernel takes it.
template <class Number>
cudaError_t launch_pair_sums(const PairSumSweep<Number>& sweep, const Problem& problem,
                             const PairProblem<Number>& pairs, const PositivePairTerms& terms,
                             const RowVectors<typename Number::Real, 2>& row_vectors,
                             const RowVectors<typename Number::Real, 2>& col_vectors,
                             const typename Number::Real* nan_source, typename Number::Real* sums,
                             cudaStream_t stream) {
  SweepArguments<Number, PositivePairReduction<Number>> arguments{};
  arguments.problem = pairs;
  arguments.anchor_vectors = row_vectors;
  arguments.reference_vectors = col_vectors;
  arguments.parameters = terms;
  return sweep.launch(problem.measure, arguments, stream, [&](const auto& slots) {
    return launch(finish_pair_sums_kernel<typename Number::Real>, slots.grid(),
                  dim3(kFinishThreads), 0, stream, slots, pairs.anchors.extent, nan_source, sums);
  });
}

/// (lse, losses_grad) of the anchors and of the references; `losses_grad` may be null.
template <class Number>
struct PairVectors {
  using Real = typename Number::Real;
  RowVectors<Real, 2> of_anchors, of_references;

  PairVectors(const Problem& problem, const PositivePairs& pairs, const Real* statistics,
              const Real* losses_grad)
      : of_anchors{{statistics + problem.n, losses_grad}},
        of_references{{static_cast<const Real*>(pairs.reference_lse), nullptr}} {
    if (problem.is_self) of_references = of_anchors;
  }
};

/// Memory of a forward: the slots of the statistics, and over them those of the sweep over the
/// positives, which begins when the statistics are finished.
template <class Number>
struct PairLossesProblem {
  TypedProblem<Number> typed;
  Sweep<Number, StatisticsReduction<Number>> statistics;
  PairSumSweep<Number> positives;

  static PairLossesProblem take(const Problem& problem, const SweepOptions& options,
                                Workspace& workspace) {
    PairLossesProblem result{
        TypedProblem<Number>::take(problem, workspace, /*wants_label_ranges=*/true), {}, {}};
    const size_t begin = workspace.used();
    result.statistics = decltype(statistics)::take(problem, options, workspace);
    workspace.return_to(begin);
    result.positives = PairSumSweep<Number>::take_rectangle(problem.n, problem.num_references(),
                                                            options, workspace);
    return result;
  }
};

template <class Number>
size_t pair_losses_workspace(const Problem& problem, const SweepOptions& options) {
  Workspace workspace(nullptr);
  PairLossesProblem<Number>::take(problem, options, workspace);
  return workspace.bytes();
}

template <class Number>
cudaError_t pair_losses(const Problem& problem, const PositivePairs& pairs,
                        const StatisticsOutputs& outputs, void* memory, cudaStream_t stream,
                        const SweepOptions& options) {
  using Real = typename Number::Real;
  if (problem.n == 0) return cudaSuccess;
  Workspace workspace(memory);
  const auto buffers = PairLossesProblem<Number>::take(problem, options, workspace);
  cudaError_t error = buffers.typed.prepare(stream);
  if (error != cudaSuccess) return error;
  const StatisticsOutputs statistics_only{outputs.statistics, outputs.counts, nullptr, nullptr};
  error = launch_statistics(problem, buffers.typed, buffers.statistics, RowHead{}, statistics_only,
                            stream);
  if (error != cudaSuccess) return error;
  const auto* values = static_cast<const Real*>(outputs.statistics);
  const PairVectors<Number> vectors(problem, pairs, values, nullptr);
  const PositivePairTerms terms{pairs.head, /*is_loss=*/true, true, false};
  return launch_pair_sums(buffers.positives, problem, buffers.typed.pairs, terms,
                          vectors.of_anchors, vectors.of_references, values + 2 * problem.n,
                          static_cast<Real*>(outputs.losses), stream);
}

/// The buffers of a gradient of positive pairs: the slots of the lse sums and, over them, what any
/// gradient takes.
template <class Number>
struct PairGradientProblem {
  GradientProblem<Number> gradient;
  PairSumSweep<Number> to_anchor_lse{}, to_reference_lse{};
  typename Number::Real* anchor_lse_grad;  ///< [n]

  static PairGradientProblem take(const Problem& problem, const GradientOutputs& outputs,
                                  const GradientOptions& options, Workspace& workspace) {
    PairGradientProblem result;
    const int64_t n = problem.n, m = problem.num_references();
    const SweepOptions sweep{options.max_slot_bytes, 0};
    auto typed = TypedProblem<Number>::take(problem, workspace, /*wants_label_ranges=*/true);
    result.anchor_lse_grad = workspace.take<typename Number::Real>(n);
    const size_t begin = workspace.used();
    result.to_anchor_lse = PairSumSweep<Number>::take_rectangle(n, m, sweep, workspace);
    workspace.return_to(begin);
    if (!problem.is_self)
      result.to_reference_lse = PairSumSweep<Number>::take_rectangle(m, n, sweep, workspace);
    workspace.return_to(begin);
    result.gradient = GradientProblem<Number>::take(problem, typed, outputs, options, workspace);
    return result;
  }
};

template <class Number>
size_t pair_head_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                                    const GradientOptions& options) {
  Workspace workspace(nullptr);
  PairGradientProblem<Number>::take(problem, outputs, options, workspace);
  return workspace.bytes();
}

/// First the gradients of the log-sum-exps, over the positives; then one sweep over all pairs, in
/// which positives weigh by the head and negatives by those gradients.
template <class Number>
cudaError_t pair_head_gradient(const Problem& problem, const PositivePairs& pairs,
                               const void* statistics, const void* losses_grad,
                               const GradientOutputs& outputs, void* reference_lse_grad,
                               void* memory, cudaStream_t stream, const GradientOptions& options) {
  using Real = typename Number::Real;
  Workspace workspace(memory);
  const auto buffers = PairGradientProblem<Number>::take(problem, outputs, options, workspace);
  const auto& typed = buffers.gradient.typed;
  const auto* grads = static_cast<const Real*>(losses_grad);
  const PairVectors<Number> vectors(problem, pairs, static_cast<const Real*>(statistics), grads);
  const Real* none = nullptr;
  cudaError_t error = typed.prepare(stream);
  if (error != cudaSuccess) return error;
  error =
      launch_pair_sums(buffers.to_anchor_lse, problem, typed.pairs,
                       {pairs.head, false, /*rows_own=*/true, problem.is_self}, vectors.of_anchors,
                       vectors.of_references, none, buffers.anchor_lse_grad, stream);
  if (error != cudaSuccess) return error;
  if (reference_lse_grad != nullptr) {
    error =
        launch_pair_sums(buffers.to_reference_lse, problem, typed.pairs.swapped(),
                         {pairs.head, false, /*rows_own=*/false, true}, vectors.of_references,
                         vectors.of_anchors, none, static_cast<Real*>(reference_lse_grad), stream);
    if (error != cudaSuccess) return error;
  }
  if (outputs.anchors == nullptr && outputs.references == nullptr && outputs.logit == nullptr)
    return cudaSuccess;

  error = launch_weight_scale(buffers.gradient,
                              {grads, problem.n, buffers.anchor_lse_grad, problem.n}, stream);
  if (error != cudaSuccess) return error;
  RowVectors<Real, kNumWeightVectors> of_anchors{}, of_references{};
  of_anchors.vector[kPairLse] = vectors.of_anchors.vector[0];
  of_anchors.vector[kPairRowGrad] = grads;
  of_anchors.vector[kGradLseNegative] = buffers.anchor_lse_grad;
  of_references.vector[kPairLse] = vectors.of_references.vector[0];
  if (problem.is_self) of_references = of_anchors;
  const WeightSource source{false, false, false, /*is_pair_head=*/true, pairs.head};
  return buffers.gradient.launch(problem, source, of_anchors, of_references, outputs, stream);
}

}  // namespace fusedml
