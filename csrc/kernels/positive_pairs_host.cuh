#pragma once
// Host side of positive_pair_losses and positive_pair_gradient.
#include "kernels/forward.cuh"
#include "kernels/gradient.cuh"
#include "kernels/positive_pairs.cuh"

namespace fusedml {

/// The sweep's plan and slots for rows x cols, in either direction of a problem.
template <class Number>
struct PairSumSweep {
  using Reduction = PositivePairReduction<Number>;
  SweepPlan plan;
  PairSum<typename Number::Real>* partials;

  static PairSumSweep take(int64_t rows, int64_t cols, Workspace& workspace) {
    using Shape = SweepShapeOf<Number>;
    PairSumSweep sweep;
    sweep.plan = plan_rectangle(ceil_div(rows, int64_t(Shape::kRows)),
                                ceil_div(cols, int64_t(Shape::kCols)));
    sweep.partials = take_partials<Reduction>(sweep.plan, rows, workspace);
    return sweep;
  }

  /// sums [rows of `pairs`]
  cudaError_t launch(const Problem& problem, const PairProblem<Number>& pairs,
                     const PositivePairTerms& terms,
                     const RowVectors<typename Number::Real, 2>& row_vectors,
                     const RowVectors<typename Number::Real, 2>& col_vectors,
                     typename Number::Real* sums, cudaStream_t stream) const {
    const int64_t rows = pairs.anchors.embeddings.rows;
    if (rows == 0) return cudaSuccess;
    SweepArguments<Number, Reduction> arguments{};
    arguments.problem = pairs;
    arguments.plan = plan;
    arguments.anchor_vectors = row_vectors;
    arguments.reference_vectors = col_vectors;
    arguments.parameters = terms;
    arguments.partials = partials;
    if (const cudaError_t error = launch_pair_sweep(problem, arguments, stream)) return error;
    return fusedml::launch(finish_pair_sums_kernel<typename Number::Real>, finish_grid(rows),
                           dim3(kFinishThreads), 0, stream, partials, plan.num_slots, rows,
                           pairs.anchors.extent, sums);
  }
};

template <class Number>
size_t pair_losses_workspace(const Problem& problem) {
  Workspace workspace(nullptr);
  TypedProblem<Number>::take(problem, workspace, /*wants_label_ranges=*/true);
  PairSumSweep<Number>::take(problem.n, problem.num_references(), workspace);
  return workspace.bytes();
}

/// (lse, row_grad) of the anchors and of the references; `row_grad` may be null.
template <class Number>
void pair_vectors(const Problem& problem, const PositivePairs& pairs, const void* row_grad,
                  RowVectors<typename Number::Real, 2>& of_anchors,
                  RowVectors<typename Number::Real, 2>& of_references) {
  using Real = typename Number::Real;
  of_anchors = {{static_cast<const Real*>(pairs.anchor_lse), static_cast<const Real*>(row_grad)}};
  of_references = {{static_cast<const Real*>(pairs.reference_lse), nullptr}};
  if (problem.is_self) of_references = of_anchors;
}

template <class Number>
cudaError_t pair_losses(const Problem& problem, const PositivePairs& pairs, void* losses,
                        void* memory, cudaStream_t stream) {
  using Real = typename Number::Real;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace, true);
  const auto sweep = PairSumSweep<Number>::take(problem.n, problem.num_references(), workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  RowVectors<Real, 2> of_anchors, of_references;
  pair_vectors<Number>(problem, pairs, nullptr, of_anchors, of_references);
  const PositivePairTerms terms{pairs.head, /*is_loss=*/true, true, false};
  return sweep.launch(problem, typed.pairs, terms, of_anchors, of_references,
                      static_cast<Real*>(losses), stream);
}

/// The buffers of a gradient of positive pairs: those of any gradient, and of the lse sums.
template <class Number>
struct PairGradientProblem {
  GradientProblem<Number> gradient;
  PairSumSweep<Number> to_anchor_lse, to_reference_lse;

  static PairGradientProblem take(const Problem& problem, const GradientOutputs& outputs,
                                  const GradientOptions& options, Workspace& workspace) {
    PairGradientProblem result;
    const int64_t n = problem.n, m = problem.num_references();
    result.gradient = GradientProblem<Number>::take(problem, outputs, options, true, workspace);
    result.to_anchor_lse = PairSumSweep<Number>::take(n, m, workspace);
    result.to_reference_lse = PairSumSweep<Number>::take(m, n, workspace);
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

template <class Number>
cudaError_t pair_head_gradient(const Problem& problem, const PositivePairs& pairs,
                               const void* row_grad, const GradientOutputs& outputs,
                               void* anchor_lse_grad, void* reference_lse_grad, void* memory,
                               cudaStream_t stream, const GradientOptions& options) {
  using Real = typename Number::Real;
  Workspace workspace(memory);
  const auto buffers = PairGradientProblem<Number>::take(problem, outputs, options, workspace);
  const auto& typed = buffers.gradient.typed;
  cudaError_t error = typed.prepare(stream);
  if (error != cudaSuccess) return error;

  RowVectors<Real, 2> of_anchors, of_references;
  pair_vectors<Number>(problem, pairs, row_grad, of_anchors, of_references);
  if (anchor_lse_grad != nullptr) {
    const PositivePairTerms terms{pairs.head, false, true, problem.is_self};
    error = buffers.to_anchor_lse.launch(problem, typed.pairs, terms, of_anchors, of_references,
                                         static_cast<Real*>(anchor_lse_grad), stream);
    if (error != cudaSuccess) return error;
  }
  if (reference_lse_grad != nullptr) {
    const PositivePairTerms terms{pairs.head, false, false, true};
    error = buffers.to_reference_lse.launch(problem, typed.pairs.swapped(), terms, of_references,
                                            of_anchors, static_cast<Real*>(reference_lse_grad),
                                            stream);
    if (error != cudaSuccess) return error;
  }
  if (outputs.anchors == nullptr && outputs.references == nullptr && outputs.logit == nullptr)
    return cudaSuccess;

  const auto* row_gradients = static_cast<const Real*>(row_grad);
  error = launch_weight_scale(buffers.gradient, row_gradients, problem.n, stream);
  if (error != cudaSuccess) return error;
  RowVectors<Real, kNumWeightVectors> anchor_weights{}, reference_weights{};
  anchor_weights.vector[kPairLse] = of_anchors.vector[0];
  anchor_weights.vector[kPairRowGrad] = of_anchors.vector[1];
  reference_weights.vector[kPairLse] = of_references.vector[0];
  reference_weights.vector[kPairRowGrad] = of_references.vector[1];
  const WeightSource source{false, false, /*is_pair_head=*/true, pairs.head};
  return buffers.gradient.launch(problem, source, anchor_weights, reference_weights, outputs,
                                 stream);
}

}  // namespace fusedml
