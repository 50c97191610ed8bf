#pragma once
// Host side of the forward operators: statistics and extrema.
#include "kernels/api.h"
#include "kernels/extrema.cuh"
#include "kernels/finish.cuh"
#include "kernels/launch.h"
#include "kernels/statistics.cuh"
#include "kernels/typed_problem.cuh"
#include "logits/euclidean.h"

namespace fusedml {

template <class Number, class Reduction>
SweepPlan plan_sweep(const Problem& problem, const SweepOptions& options) {
  using Shape = ReductionShape<Number, Reduction>;
  const int64_t row_tiles = ceil_div(problem.n, int64_t(Shape::kRows));
  const int64_t col_tiles = ceil_div(problem.num_references(), int64_t(Shape::kCols));
  if (problem.is_self)
    return plan_self(problem.n, row_tiles, sizeof(typename Reduction::Partial), options);
  return plan_rectangle(row_tiles, col_tiles);
}

/// Slots of a sweep in the workspace.
template <class Reduction>
typename Reduction::Partial* take_partials(const SweepPlan& plan, int64_t rows,
                                           Workspace& workspace) {
  return workspace.take<typename Reduction::Partial>(plan.num_slots * rows);
}

template <class Number, class Logit, class Reduction>
cudaError_t launch_pair_sweep(SweepArguments<Number, Reduction> arguments, cudaStream_t stream) {
  using Shape = ReductionShape<Number, Reduction>;
  const SweepPlan plan = arguments.plan;
  for (int index = 0; index < plan.num_launches(); ++index) {
    arguments.plan = plan.launch(index);
    const cudaError_t error =
        launch(pair_sweep_kernel<Number, Logit, Reduction, Shape>,
               dim3(unsigned(arguments.plan.num_blocks())), dim3(Shape::kThreads),
               kSweepSharedBytes<Number, Logit, Reduction, Shape>, stream, arguments);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

/// Starts the sweep for the problem's measure.
template <class Number, class Reduction>
cudaError_t launch_pair_sweep(const Problem& problem,
                              const SweepArguments<Number, Reduction>& arguments,
                              cudaStream_t stream) {
  using Real = typename Number::Real;
  if (problem.measure == Measure::kDot)
    return launch_pair_sweep<Number, AffineLogit<Real>>(arguments, stream);
  return launch_pair_sweep<Number, EuclideanLogit<Real>>(arguments, stream);
}

template <class Number>
size_t statistics_workspace(const Problem& problem, const SweepOptions& options) {
  using Reduction = StatisticsReduction<Number>;
  Workspace workspace(nullptr);
  TypedProblem<Number>::take(problem, workspace);
  take_partials<Reduction>(plan_sweep<Number, Reduction>(problem, options), problem.n, workspace);
  return workspace.bytes();
}

template <class Number>
cudaError_t statistics(const Problem& problem, const RowHead& head,
                       const StatisticsOutputs& outputs, void* memory, cudaStream_t stream,
                       const SweepOptions& options) {
  using Real = typename Number::Real;
  using Reduction = StatisticsReduction<Number>;
  if (problem.n == 0) return cudaSuccess;
  Workspace workspace(memory);
  auto typed = TypedProblem<Number>::take(problem, workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  SweepArguments<Number, Reduction> arguments{};
  arguments.problem = typed.pairs;
  arguments.plan = plan_sweep<Number, Reduction>(problem, options);
  arguments.partials = take_partials<Reduction>(arguments.plan, problem.n, workspace);
  if (const cudaError_t error = launch_pair_sweep(problem, arguments, stream)) return error;
  const RowOutputs<Real> rows{static_cast<Real*>(outputs.statistics), outputs.counts,
                              static_cast<Real*>(outputs.losses),
                              static_cast<Real*>(outputs.partials)};
  return launch(finish_statistics_kernel<Real>, finish_grid(problem.n), dim3(kFinishThreads), 0,
                stream, arguments.partials, arguments.plan.num_slots, problem.n, problem.extent,
                head, rows);
}

template <class Number>
size_t extrema_workspace(const Problem& problem, const SweepOptions& options) {
  using Reduction = ExtremaReduction<Number>;
  Workspace workspace(nullptr);
  TypedProblem<Number>::take(problem, workspace);
  take_partials<Reduction>(plan_sweep<Number, Reduction>(problem, options), problem.n, workspace);
  return workspace.bytes();
}

template <class Number>
cudaError_t extrema(const Problem& problem, void* result, void* memory, cudaStream_t stream,
                    const SweepOptions& options) {
  using Real = typename Number::Real;
  using Reduction = ExtremaReduction<Number>;
  if (problem.n == 0) return cudaSuccess;
  Workspace workspace(memory);
  auto typed = TypedProblem<Number>::take(problem, workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  SweepArguments<Number, Reduction> arguments{};
  arguments.problem = typed.pairs;
  arguments.plan = plan_sweep<Number, Reduction>(problem, options);
  arguments.partials = take_partials<Reduction>(arguments.plan, problem.n, workspace);
  if (const cudaError_t error = launch_pair_sweep(problem, arguments, stream)) return error;
  return launch(finish_extrema_kernel<Real>, finish_grid(problem.n), dim3(kFinishThreads), 0,
                stream, arguments.partials, arguments.plan.num_slots, problem.n, problem.extent,
                static_cast<Real*>(result));
}

}  // namespace fusedml
