#pragma once
// Host side of threshold_pairs.
#include "kernels/launch.h"
#include "kernels/threshold_pairs.cuh"
#include "kernels/typed_problem.cuh"

namespace fusedml {

/// The sweep's plan and its intervals before they are merged.
template <class Number>
struct ThresholdPairsSweep {
  using Real = typename Number::Real;
  using Shape = LineTile<Number>;
  using Placed = PlacedValue<Real>;

  SweepPlan plan;
  int64_t slot_rows;
  Placed* slots;

  static ThresholdPairsSweep take(const Problem& problem, int64_t count,
                                  const SweepOptions& options, Workspace& workspace) {
    ThresholdPairsSweep sweep{};
    sweep.plan =
        plan_affordable_rectangle({problem.n, problem.num_references(), Shape::kRows, Shape::kCols,
                                   std::max<int64_t>(1, count) * int64_t(sizeof(Placed))},
                                  options);
    sweep.slot_rows = std::min(problem.n, sweep.plan.row_tiles_per_launch * int64_t(Shape::kRows));
    sweep.slots = workspace.take<Placed>(sweep.plan.num_slots * sweep.slot_rows * count);
    return sweep;
  }

  cudaError_t launch(ThresholdPairsArguments<Number> arguments, int64_t num_rows, int64_t* columns,
                     cudaStream_t stream) const {
    arguments.slots = slots;
    arguments.slot_rows = slot_rows;
    for (int index = 0; index < plan.num_launches(); ++index) {
      arguments.plan = plan.launch(index);
      const cudaError_t error = fusedml::launch(
          threshold_pairs_kernel<Number>, dim3(unsigned(arguments.plan.num_blocks())),
          dim3(Shape::kThreads), kThresholdPairsSharedBytes<Number>, stream, arguments);
      if (error != cudaSuccess) return error;
      const int64_t row_begin = int64_t(arguments.plan.first_row_tile) * Shape::kRows;
      const int64_t rows = std::min(slot_rows, num_rows - row_begin);
      const int64_t blocks = ceil_div(rows * kWarpSize, int64_t(kFinishPairsThreads));
      const cudaError_t finished = fusedml::launch(
          finish_threshold_pairs_kernel<Real>, dim3(unsigned(blocks)), dim3(kFinishPairsThreads), 0,
          stream, slots, plan.num_slots, slot_rows, row_begin, rows, arguments.lists, columns);
      if (finished != cudaSuccess) return finished;
    }
    return cudaSuccess;
  }
};

template <class Number>
size_t pairs_below_workspace(const Problem& problem, int64_t count, const SweepOptions& options) {
  Workspace workspace(nullptr);
  TypedProblem<Number>::take(problem, workspace);
  ThresholdPairsSweep<Number>::take(problem, count, options, workspace);
  return workspace.bytes();
}

template <class Number>
cudaError_t pairs_below(const Problem& problem, const void* thresholds, int64_t count,
                        int64_t* columns, void* memory, cudaStream_t stream,
                        const SweepOptions& options) {
  if (problem.n == 0 || count == 0) return cudaSuccess;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto sweep = ThresholdPairsSweep<Number>::take(problem, count, options, workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  ThresholdPairsArguments<Number> arguments{};
  arguments.problem = typed.pairs;
  arguments.lists.values = static_cast<const typename Number::Real*>(thresholds);
  arguments.lists.count = count;
  return sweep.launch(arguments, problem.n, columns, stream);
}

}  // namespace fusedml
