#pragma once
// Host side of what is reduced over the rows and over the columns of two operands.
#include "kernels/forward.cuh"
#include "kernels/gradient.cuh"

namespace fusedml {

/// A sweep whose lines are the rows, or the rows and then the columns: one sweep for both, or where
/// that is faster one for each.
template <class Number, class Reduction>
struct LineSweep {
  using OneSweep = Sweep<Number, Reduction>;
  OneSweep of_rows{}, of_columns{};
  bool has_columns = false;  ///< whose lines are wanted

  static LineSweep take(const Problem& problem, bool has_columns, const SweepOptions& options,
                        Workspace& workspace) {
    LineSweep result;
    result.has_columns = has_columns;
    if (!has_columns) {
      result.of_rows = OneSweep::take(problem, options, workspace);
      return result;
    }
    const size_t begin = workspace.used();
    result.of_rows = OneSweep::take_both_sides(problem.n, problem.m, options, workspace);
    if (result.of_rows.has_columns()) return result;
    workspace.return_to(begin);
    result.of_columns = OneSweep::take_rectangle(problem.m, problem.n, options, workspace);
    return result;
  }

  /// arguments: with the vectors of anchors and references.  finish(RowSlots, first line, extent)
  /// is called whenever lines are complete.
  template <class Finish>
  cudaError_t launch(Measure measure, SweepArguments<Number, Reduction> arguments,
                     cudaStream_t stream, const Finish& finish) const {
    const int64_t n = arguments.problem.anchors.embeddings.rows;
    const int64_t* const of_references = arguments.problem.references.extent;
    const auto finish_rows = [&](const auto& slots) {
      return finish(slots, int64_t(0), arguments.problem.anchors.extent);
    };
    cudaError_t error = of_rows.launch(measure, arguments, stream, finish_rows);
    if (error != cudaSuccess || !has_columns) return error;
    if (of_rows.has_columns()) return finish(of_rows.column_slots(), n, of_references);
    arguments.problem = arguments.problem.swapped();
    std::swap(arguments.anchor_vectors, arguments.reference_vectors);
    return of_columns.launch(measure, arguments, stream,
                             [&](const auto& slots) { return finish(slots, n, of_references); });
  }
};

template <class Number>
size_t statistics_of_both_sides_workspace(const Problem& problem, const SweepOptions& options) {
  Workspace workspace(nullptr);
  TypedProblem<Number>::take(problem, workspace);
  LineSweep<Number, StatisticsReduction<Number>>::take(problem, true, options, workspace);
  return workspace.bytes();
}

template <class Number>
cudaError_t statistics_of_both_sides(const Problem& problem, const StatisticsOutputs& outputs,
                                     void* memory, cudaStream_t stream,
                                     const SweepOptions& options) {
  using Real = typename Number::Real;
  using Reduction = StatisticsReduction<Number>;
  const int64_t lines = problem.n + problem.m;
  if (lines == 0) return cudaSuccess;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto sweep = LineSweep<Number, Reduction>::take(problem, true, options, workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  SweepArguments<Number, Reduction> arguments{};
  arguments.problem = typed.pairs;
  auto* const statistics = static_cast<Real*>(outputs.statistics);
  return sweep.launch(
      problem.measure, arguments, stream,
      [&](const auto& slots, int64_t first_line, const int64_t* extent) {
        Real* const first = statistics + first_line;
        const RowOutputs<Real> rows{first,
                                    first + lines,
                                    first + 2 * lines,
                                    outputs.counts ? outputs.counts + first_line : nullptr,
                                    nullptr,
                                    nullptr};
        return launch(finish_statistics_kernel<Real>, slots.grid(), dim3(kFinishThreads), 0, stream,
                      slots, lines, extent, RowHead{}, rows);
      });
}

template <class Number>
cudaError_t gradient_of_both_sides(const Problem& problem, const void* statistics,
                                   const void* statistics_grad, const GradientOutputs& outputs,
                                   void* memory, cudaStream_t stream,
                                   const GradientOptions& options) {
  using Real = typename Number::Real;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto gradient = GradientProblem<Number>::take(problem, typed, outputs, options, workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  const int64_t lines = problem.n + problem.m;
  const auto* values = static_cast<const Real*>(statistics);
  const auto* grads = static_cast<const Real*>(statistics_grad);
  if (const cudaError_t error =
          launch_weight_scale(gradient, {grads, 3 * lines, nullptr, 0}, stream))
    return error;
  const auto vectors_of = [&](int64_t line) {
    RowVectors<Real, kNumWeightVectors> vectors{};
    vectors.vector[kLsePositive] = values + line;
    vectors.vector[kLseNegative] = values + lines + line;
    vectors.vector[kGradLsePositive] = grads + line;
    vectors.vector[kGradLseNegative] = grads + lines + line;
    vectors.vector[kGradSumPositive] = grads + 2 * lines + line;
    return vectors;
  };
  return gradient.launch(problem, WeightSource{}, vectors_of(0), vectors_of(problem.n), outputs,
                         stream, /*both_sides=*/true);
}

}  // namespace fusedml
