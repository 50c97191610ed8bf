#pragma once
// Host side of the operators on listed pairs.
#include "kernels/launch.h"
#include "kernels/listed_pairs.cuh"
#include "kernels/workspace.h"

namespace fusedml {

template <class Number>
ListedProblem<Number> listed_problem(const Problem& problem, const ListedPairs& pairs) {
  using View = MatrixView<typename Number::Element>;
  const auto view = [&](const void* data, int64_t rows) {
    return View::of(static_cast<const typename Number::Element*>(data), rows, problem.d);
  };
  const View anchors = view(problem.anchors, problem.n);
  return {anchors,     problem.is_self ? anchors : view(problem.references, problem.m),
          pairs.rows,  pairs.columns,
          pairs.count, is_distance(problem.measure) ? problem.measure : Measure::kDot};
}

template <class Number>
cudaError_t launch_pair_values(const ListedProblem<Number>& problem,
                               const typename Number::Real* values_grad,
                               typename Number::Real* values, cudaStream_t stream) {
  if (problem.count == 0) return cudaSuccess;
  const dim3 grid(unsigned(ceil_div(problem.count, int64_t(kGroupsPerBlock))));
  return launch(pair_values_kernel<Number>, grid, dim3(kListedThreads), 0, stream, problem,
                values_grad, values);
}

template <class Number>
cudaError_t listed_values(const Problem& problem, const ListedPairs& pairs, void* values,
                          cudaStream_t stream) {
  return launch_pair_values(listed_problem<Number>(problem, pairs), nullptr,
                            static_cast<typename Number::Real*>(values), stream);
}

/// The gradient's buffers.
template <class Number>
struct ListedGradientBuffers {
  typename Number::Real* weights = nullptr;  ///< [count]; Euclidean distances only
  int64_t *row_begins, *column_begins;       ///< [n + 1], [m + 1]

  static ListedGradientBuffers take(const Problem& problem, int64_t count, Workspace& workspace) {
    ListedGradientBuffers buffers;
    if (problem.measure == Measure::kEuclidean)
      buffers.weights = workspace.take<typename Number::Real>(count);
    buffers.row_begins = workspace.take<int64_t>(problem.n + 1);
    buffers.column_begins = workspace.take<int64_t>(problem.num_references() + 1);
    return buffers;
  }
};

template <class Number>
size_t listed_gradient_workspace(const Problem& problem, const ListedPairs& pairs) {
  Workspace workspace(nullptr);
  ListedGradientBuffers<Number>::take(problem, pairs.count, workspace);
  return workspace.bytes();
}

inline cudaError_t launch_segment_begins(const SortedPairs& sorted, int64_t count, int64_t rows,
                                         int64_t* begins, cudaStream_t stream) {
  const dim3 grid(unsigned(ceil_div(rows + 1, int64_t(kListedThreads))));
  return launch(segment_begins_kernel, grid, dim3(kListedThreads), 0, stream, sorted.keys, count,
                rows, begins);
}

template <class Number>
cudaError_t launch_listed_gradient(const ListedGradientArguments<Number>& arguments,
                                   cudaStream_t stream) {
  if (arguments.own.rows == 0) return cudaSuccess;
  constexpr int kDepth = kSliceDepth<typename Number::Element>;
  const dim3 grid(unsigned(ceil_div(arguments.own.rows, int64_t(kListedWarps))),
                  unsigned(ceil_div(arguments.own.dim, kDepth)));
  return launch(listed_gradient_kernel<Number>, grid, dim3(kListedThreads), 0, stream, arguments);
}

/// Fills the buffers that the gradient kernels read.
template <class Number>
cudaError_t prepare_listed_gradient(const ListedProblem<Number>& problem, const SortedPairs* by_row,
                                    const SortedPairs* by_column,
                                    const typename Number::Real* values_grad,
                                    const ListedGradientBuffers<Number>& buffers,
                                    cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  if (buffers.weights != nullptr)
    error = launch_pair_values(problem, values_grad, buffers.weights, stream);
  if (error == cudaSuccess && by_row != nullptr)
    error = launch_segment_begins(*by_row, problem.count, problem.anchors.rows, buffers.row_begins,
                                  stream);
  if (error == cudaSuccess && by_column != nullptr)
    error = launch_segment_begins(*by_column, problem.count, problem.references.rows,
                                  buffers.column_begins, stream);
  return error;
}

template <class Number>
cudaError_t listed_gradient(const Problem& problem, const ListedPairs& pairs,
                            const SortedPairs& by_row, const SortedPairs& by_column,
                            const void* values_grad, const GradientOutputs& outputs, void* memory,
                            cudaStream_t stream) {
  using Real = typename Number::Real;
  using Element = typename Number::Element;
  const bool needs_rows = outputs.anchors != nullptr;
  const bool needs_columns = outputs.references != nullptr;
  if (!needs_rows && !needs_columns) return cudaSuccess;
  Workspace workspace(memory);
  const auto buffers = ListedGradientBuffers<Number>::take(problem, pairs.count, workspace);
  const auto listed = listed_problem<Number>(problem, pairs);
  const auto* weights = static_cast<const Real*>(values_grad);
  cudaError_t error = prepare_listed_gradient(
      listed, needs_rows ? &by_row : nullptr,
      needs_columns || problem.is_self ? &by_column : nullptr, weights, buffers, stream);

  ListedGradientArguments<Number> arguments{};
  arguments.weights = buffers.weights != nullptr ? buffers.weights : weights;
  arguments.factor = problem.measure == Measure::kSquaredEuclidean ? Real(2) : Real(1);
  arguments.is_distance = is_distance(problem.measure);
  const PairSegments of_rows{buffers.row_begins, by_row.order, pairs.columns};
  const PairSegments of_columns{buffers.column_begins, by_column.order, pairs.rows};
  if (error == cudaSuccess && needs_rows) {
    arguments.own = listed.anchors;
    arguments.other = listed.references;
    arguments.segments[0] = of_rows;
    arguments.segments[1] = of_columns;
    arguments.num_segments = problem.is_self ? 2 : 1;
    arguments.gradient = static_cast<Element*>(outputs.anchors);
    error = launch_listed_gradient(arguments, stream);
  }
  if (error == cudaSuccess && needs_columns) {
    arguments.own = listed.references;
    arguments.other = listed.anchors;
    arguments.segments[0] = of_columns;
    arguments.num_segments = 1;
    arguments.gradient = static_cast<Element*>(outputs.references);
    error = launch_listed_gradient(arguments, stream);
  }
  return error;
}

}  // namespace fusedml
