#pragma once
// Host side of extreme_pairs.
#include "kernels/extreme_pairs.cuh"
#include "kernels/forward.cuh"

namespace fusedml {

template <class Number>
size_t placed_extrema_workspace(const Problem& problem, const SweepOptions& options) {
  return sweep_workspace<Number, ExtremePairsReduction<Number>>(problem, options);
}

template <class Number>
cudaError_t placed_extrema(const Problem& problem, const ExtremePairs& wanted, void* measures,
                           int64_t* columns, void* memory, cudaStream_t stream,
                           const SweepOptions& options) {
  using Real = typename Number::Real;
  using Reduction = ExtremePairsReduction<Number>;
  if (problem.n == 0) return cudaSuccess;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto sweep = Sweep<Number, Reduction>::take(problem, options, workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  SweepArguments<Number, Reduction> arguments{};
  arguments.problem = typed.pairs;
  arguments.parameters = {{wanted.is_largest[0], wanted.is_largest[1]},
                          wanted.intervals != nullptr};
  if (wanted.intervals != nullptr)
    for (int k = 0; k < Reduction::kVectors; ++k)
      arguments.anchor_vectors.vector[k] =
          static_cast<const Real*>(wanted.intervals) + k * problem.n;
  if (problem.is_self) arguments.reference_vectors = arguments.anchor_vectors;
  return sweep.launch(problem.measure, arguments, stream, [&](const auto& slots) {
    return launch(finish_extreme_pairs_kernel<Number>, slots.grid(), dim3(kFinishThreads), 0,
                  stream, slots, problem.n, problem.extent, arguments.parameters,
                  static_cast<Real*>(measures), columns);
  });
}

}  // namespace fusedml
