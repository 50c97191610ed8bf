#pragma once
// Host side of window_counts and window_pairs.
#include "kernels/launch.h"
#include "kernels/typed_problem.cuh"
#include "kernels/window_sweep.cuh"

namespace fusedml {

template <class Number>
size_t windows_workspace(const Problem& problem) {
  Workspace workspace(nullptr);
  TypedProblem<Number>::take(problem, workspace);
  return workspace.bytes();
}

/// Counts the pairs in the windows, or lists them: by what `outputs` holds.
template <class Number>
cudaError_t sweep_windows(const Problem& problem, const PairWindows& windows,
                          WindowSweepArguments<Number> outputs, void* memory, cudaStream_t stream) {
  using Real = typename Number::Real;
  using Shape = LineTile<Number>;
  const int64_t num_splits = windows.num_splits(problem);
  if (problem.n == 0 || num_splits == 0) return cudaSuccess;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  WindowSweepArguments<Number> arguments = outputs;
  arguments.problem = typed.pairs;
  for (int k = 0; k < 2 * WindowSweepArguments<Number>::kPerKind; ++k)
    arguments.windows.vector[k] = static_cast<const Real*>(windows.values) + k * problem.n;
  arguments.tiles_per_split = int(windows.width / Shape::kCols);
  arguments.num_splits = int(num_splits);
  const int64_t row_tiles = ceil_div(problem.n, int64_t(Shape::kRows));
  return launch(window_sweep_kernel<Number>, dim3(unsigned(row_tiles * num_splits)),
                dim3(Shape::kThreads), kWindowSweepSharedBytes<Number>, stream, arguments);
}

template <class Number>
cudaError_t counted_windows(const Problem& problem, const PairWindows& windows, int64_t* counts,
                            void* memory, cudaStream_t stream) {
  WindowSweepArguments<Number> outputs{};
  outputs.counts = counts;
  return sweep_windows<Number>(problem, windows, outputs, memory, stream);
}

template <class Number>
cudaError_t listed_windows(const Problem& problem, const PairWindows& windows,
                           const WindowList& list, void* memory, cudaStream_t stream) {
  WindowSweepArguments<Number> outputs{};
  outputs.ends = list.ends;
  outputs.size = list.size;
  outputs.rows = list.rows;
  outputs.columns = list.columns;
  outputs.measures = static_cast<typename Number::Real*>(list.measures);
  if (list.size == 0) return cudaSuccess;
  return sweep_windows<Number>(problem, windows, outputs, memory, stream);
}

}  // namespace fusedml
