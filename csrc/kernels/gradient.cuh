#pragma once
// Host side of pair_gradient and positive_pair_gradient: one sweep per gradient.
#include "kernels/backward.cuh"

namespace fusedml {

template <class Number>
GradientPlan plan_gradient(int64_t n, int64_t m, int64_t d, const GradientOptions& options,
                           bool has_gradient, int64_t max_bytes) {
  using Rows = typename GradientRowsShape<Number, 64>::Tile;
  const GradientTiles tiles{Number::kTensorCores ? Rows::kRows : 0, Rows::kCols,
                            SweepShapeOf<Number>::kRows, sizeof(typename Number::PanelElement),
                            sizeof(typename Number::Real)};
  static_assert(SweepShapeOf<Number>::kRows == SweepShapeOf<Number>::kCols &&
                SweepShapeOf<Number>::kRows % ProductShape<Number>::kRows == 0);
  return plan_gradient(n, m, d, tiles, options, has_gradient, max_bytes);
}

/// Everything that a backward needs, divided from one block of memory.
template <class Number>
struct GradientProblem {
  using Real = typename Number::Real;
  using Element = typename Number::Element;

  TypedProblem<Number> typed;
  GradientPlan to_anchors{}, to_references{};
  GradientBuffers<Number> buffers;
  Real* weight_scale = nullptr;

  static GradientProblem take(const Problem& problem, const TypedProblem<Number>& typed,
                              const GradientOutputs& outputs, const GradientOptions& options,
                              Workspace& workspace) {
    GradientProblem result;
    result.typed = typed;
    if (Number::kNeedsWeightScale) result.weight_scale = workspace.take<Real>(1);
    const int64_t left = workspace.left();
    const int64_t n = problem.n, m = problem.num_references();
    if (outputs.anchors != nullptr || outputs.references == nullptr)
      result.to_anchors =
          plan_gradient<Number>(n, m, problem.d, options, outputs.anchors != nullptr, left);
    if (outputs.references != nullptr)
      result.to_references = plan_gradient<Number>(m, n, problem.d, options, true, left);
    result.buffers = GradientBuffers<Number>::take(result.to_anchors, result.to_references,
                                                   outputs.logit != nullptr, workspace);
    return result;
  }

  /// `anchor_vectors` and `reference_vectors` as the weights want them.
  cudaError_t launch(const Problem& problem, const WeightSource& source,
                     const RowVectors<Real, kNumWeightVectors>& anchor_vectors,
                     const RowVectors<Real, kNumWeightVectors>& reference_vectors,
                     const GradientOutputs& outputs, cudaStream_t stream) const {
    GradientTask<Number> task{};
    task.measure = problem.measure;
    task.weight_scale = weight_scale;
    task.logit_grad = outputs.logit;
    task.source = source;
    if (outputs.anchors != nullptr || outputs.references == nullptr) {
      task.pairs = typed.pairs;
      task.row_vectors = anchor_vectors;
      task.col_vectors = reference_vectors;
      task.source.rows_own = true;
      task.source.cols_own = typed.is_self;
      task.gradient = static_cast<Element*>(outputs.anchors);
      const cudaError_t error = launch_gradient(task, to_anchors, buffers, stream);
      if (error != cudaSuccess || outputs.references == nullptr) return error;
      task.logit_grad = nullptr;
    }
    task.pairs = typed.pairs.swapped();
    task.row_vectors = reference_vectors;
    task.col_vectors = anchor_vectors;
    task.source.rows_own = false;
    task.source.cols_own = true;
    task.gradient = static_cast<Element*>(outputs.references);
    return launch_gradient(task, to_references, buffers, stream);
  }
};

template <class Number>
size_t gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                          const GradientOptions& options) {
  Workspace workspace(nullptr);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  GradientProblem<Number>::take(problem, typed, outputs, options, workspace);
  return workspace.bytes();
}

/// Chooses the scale of the weights where the number type needs one: from `count` gradients of rows
/// and `num_further` others.
template <class Number>
cudaError_t launch_weight_scale(const GradientProblem<Number>& gradient,
                                const typename Number::Real* row_gradients, int64_t count,
                                const typename Number::Real* further, int64_t num_further,
                                cudaStream_t stream) {
  if constexpr (Number::kNeedsWeightScale) {
    return launch(weight_scale_kernel<typename Number::Real>, dim3(1), dim3(kMergeThreads), 0,
                  stream, row_gradients, count, further, num_further, gradient.typed.pairs.logit,
                  gradient.weight_scale);
  }
  return cudaSuccess;
}

template <class Number>
cudaError_t statistics_gradient(const Problem& problem, const void* statistics,
                                const void* statistics_grad, const GradientOutputs& outputs,
                                void* memory, cudaStream_t stream, const GradientOptions& options) {
  using Real = typename Number::Real;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto gradient = GradientProblem<Number>::take(problem, typed, outputs, options, workspace);
  if (const cudaError_t error = gradient.typed.prepare(stream)) return error;
  const int64_t n = problem.n;
  const auto* values = static_cast<const Real*>(statistics);
  const auto* grads = static_cast<const Real*>(statistics_grad);
  const Real* none = nullptr;
  if (const cudaError_t error = launch_weight_scale(gradient, grads, 3 * n, none, 0, stream))
    return error;
  RowVectors<Real, kNumWeightVectors> of_anchors{}, of_references{};
  of_anchors.vector[kLsePositive] = values;
  of_anchors.vector[kLseNegative] = values + n;
  of_anchors.vector[kGradLsePositive] = grads;
  of_anchors.vector[kGradLseNegative] = grads + n;
  of_anchors.vector[kGradSumPositive] = grads + 2 * n;
  if (problem.is_self) of_references = of_anchors;
  return gradient.launch(problem, WeightSource{}, of_anchors, of_references, outputs, stream);
}

}  // namespace fusedml
