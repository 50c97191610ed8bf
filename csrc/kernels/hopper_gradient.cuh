#pragma once
// Backward by two sets of kernels: the weights of plain squares of pairs on Hopper's instructions,
// the others on mma.sync, in the same panels or on top of the same sums.
#include "kernels/gradient_problem.cuh"
#include "kernels/hopper_statistics.cuh"

namespace fusedml {

/// One gradient after the other, with the buffers of one.
template <class Number>
struct HopperGradient {
  using Hopper = HopperOperators<Number>;
  using Task = GradientTask<Number, WeightSource>;

  SquareRanges<Number> ranges;
  float *row_factors, *col_factors;
  GradientProblem<Number> gradient;

  static HopperGradient take(const Problem& problem, const GradientOutputs& outputs,
                             const GradientOptions& options, Workspace& workspace) {
    HopperGradient result{};
    const auto typed = TypedProblem<Number>::take(problem, workspace);
    result.ranges = SquareRanges<Number>::take(typed, kRowsSquareBits, workspace);
    const int64_t lines = std::max(problem.n, problem.num_references());
    result.row_factors = workspace.take<float>(lines);
    result.col_factors = problem.is_self ? result.row_factors : workspace.take<float>(lines);
    result.gradient = GradientProblem<Number>::take(problem, typed, outputs, options, workspace,
                                                    WeightKind::kOnHopper);
    return result;
  }

  cudaError_t launch(const Problem& problem, const Task& task, const GradientOutputs& outputs,
                     cudaStream_t stream) const {
    return gradient.launch(problem, task, outputs,
                           [&](const Task& of_side, const GradientPlan& plan) {
                             return launch_one(of_side, plan, stream);
                           });
  }

 private:
  bool is_self() const { return gradient.typed.is_self; }

  cudaError_t launch_one(const Task& task, const GradientPlan& plan, cudaStream_t stream) const {
    SquareRanges<Number> of_task = ranges;
    of_task.side_bits = plan.route == GradientRoute::kRows ? kRowsSquareBits : kPanelSquareBits;
    cudaError_t error = of_task.prepare(task.pairs, stream);
    if (error == cudaSuccess) error = launch_factors(task, stream);
    if (error != cudaSuccess) return error;
    const PlainSquares squares = of_task.squares(task.pairs);
    return plan.route == GradientRoute::kRows ? launch_rows(task, squares, stream)
                                              : launch_panels(task, plan, squares, stream);
  }

  cudaError_t launch_factors(const Task& task, cudaStream_t stream) const {
    const auto of_side = [&](const PairSide<Number>& side, bool owns, const auto& vectors,
                             float* factors) {
      const float* const lse = owns ? vectors.vector[kLseNegative] : nullptr;
      return Hopper::weight_factors({side.embeddings.rows, lse, vectors.vector[kGradLseNegative],
                                     task.weight_scale, task.pairs.logit, factors},
                                    stream);
    };
    const cudaError_t error =
        of_side(task.pairs.anchors, task.source.rows_own, task.row_vectors, row_factors);
    if (error != cudaSuccess || is_self()) return error;
    return of_side(task.pairs.references, task.source.cols_own, task.col_vectors, col_factors);
  }

  /// Route A: the plain squares begin the sums of all rows, the others finish them.
  cudaError_t launch_rows(const Task& task, const PlainSquares& squares,
                          cudaStream_t stream) const {
    const auto sums = GradientSums<Number>::of(task.gradient, gradient.buffers.low_sums, 0,
                                               task.pairs.anchors.embeddings.dim);
    const HopperRowsArguments<Number> plain{
        task.pairs.logit, squares,           row_factors, col_factors,
        {true, false},    task.weight_scale, sums};
    const cudaError_t error = Hopper::rows(task.pairs, plain, stream);
    if (error != cudaSuccess) return error;
    GradientRowsArguments<Number> special{};
    special.problem = task.pairs;
    special.source = task.source;
    special.row_vectors = task.row_vectors;
    special.col_vectors = task.col_vectors;
    special.weight_scale = task.weight_scale;
    special.plain = squares;
    special.sums = sums;
    special.turn = {false, true};
    return Hopper::special_rows(special, stream);
  }

  cudaError_t launch_panels(const Task& task, const GradientPlan& plan, const PlainSquares& squares,
                            cudaStream_t stream) const {
    const auto run = [&](const WeightPanel<Number>& panel, const PanelTurn& turn) {
      cudaError_t error = launch_plain_weights(task, squares, panel, stream);
      if (error == cudaSuccess) error = launch_special_weights(task, squares, panel, stream);
      return error == cudaSuccess ? launch_product(task, panel, turn, stream) : error;
    };
    return for_each_panel(task.pairs, plan, squares.side(), gradient.buffers.panel, run);
  }

  cudaError_t launch_plain_weights(const Task& task, const PlainSquares& squares,
                                   const WeightPanel<Number>& panel, cudaStream_t stream) const {
    HopperWeightsArguments<Number> arguments{};
    arguments.logit = task.pairs.logit;
    arguments.squares = squares;
    arguments.row_factors = row_factors;
    arguments.col_factors = col_factors;
    arguments.row_begin = panel.row_begin;
    arguments.col_begin = panel.col_begin;
    arguments.rows = std::min(panel.rows, squares.rows - panel.row_begin);
    arguments.cols = std::min(panel.cols, squares.cols - panel.col_begin);
    arguments.pitch = panel.cols;
    arguments.dim = task.pairs.anchors.embeddings.dim;
    arguments.panel = panel.weights;
    return Hopper::weights(task.pairs, arguments, stream);
  }

  cudaError_t launch_special_weights(const Task& task, const PlainSquares& squares,
                                     const WeightPanel<Number>& panel, cudaStream_t stream) const {
    PairWeightsArguments<Number, WeightSource> arguments{};
    arguments.problem = task.pairs;
    arguments.source = task.source;
    arguments.row_vectors = task.row_vectors;
    arguments.col_vectors = task.col_vectors;
    arguments.weight_scale = task.weight_scale;
    arguments.panel = panel;
    arguments.plain = squares;
    return Hopper::special_weights(arguments, stream);
  }

  cudaError_t launch_product(const Task& task, const WeightPanel<Number>& panel,
                             const PanelTurn& turn, cudaStream_t stream) const {
    const auto& anchors = task.pairs.anchors.embeddings;
    const auto& references = task.pairs.references.embeddings;
    HopperProductArguments<Number> arguments{};
    arguments.rows = std::min(panel.rows, anchors.rows - panel.row_begin);
    arguments.cols = std::min(panel.cols, references.rows - panel.col_begin);
    arguments.row_begin = panel.row_begin;
    arguments.col_begin = panel.col_begin;
    arguments.of_rows = turn.of_rows;
    arguments.of_cols = turn.of_cols;
    arguments.feeds_rows = true;
    arguments.feeds_cols = turn.feeds_cols;
    arguments.weight_scale = task.weight_scale;
    arguments.sums = GradientSums<Number>::of(task.gradient, gradient.buffers.low_sums,
                                              turn.first_low_row, anchors.dim);
    return Hopper::product(arguments, {panel.weights, panel.cols, anchors.data, references.data},
                           stream);
  }
};

template <class Number>
size_t hopper_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                                 const GradientOptions& options) {
  Workspace workspace(nullptr);
  HopperGradient<Number>::take(problem, outputs, options, workspace);
  return workspace.bytes();
}

/// As statistics_gradient().
template <class Number>
cudaError_t hopper_gradient(const Problem& problem, const void* statistics,
                            const void* statistics_grad, const GradientOutputs& outputs,
                            void* memory, cudaStream_t stream, const GradientOptions& options) {
  Workspace workspace(memory);
  const auto backward = HopperGradient<Number>::take(problem, outputs, options, workspace);
  const auto* const grads = static_cast<const float*>(statistics_grad);
  if (const cudaError_t error =
          launch_weight_scale(backward.gradient, {grads, 3 * problem.n, nullptr, 0}, stream))
    return error;
  typename HopperGradient<Number>::Task task{};
  task.row_vectors = statistics_vectors<float>(problem, statistics, statistics_grad);
  if (problem.is_self) task.col_vectors = task.row_vectors;
  return backward.launch(problem, task, outputs, stream);
}

}  // namespace fusedml
