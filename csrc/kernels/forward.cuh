#pragma once
// Host side of the forward operators: statistics and extrema.
#include "kernels/api.h"
#include "kernels/extrema.cuh"
#include "kernels/finish.cuh"
#include "kernels/group_columns.cuh"
#include "kernels/hopper_statistics.cuh"
#include "kernels/launch.h"
#include "kernels/statistics.cuh"
#include "kernels/typed_problem.cuh"
#include "logits/any_measure.h"
#include "logits/curved.h"
#include "logits/euclidean.h"
#include "logits/grouped.h"

namespace fusedml {

/// A sweep's plan and the slots of its partial results.
template <class Number, class Reduction>
struct Sweep {
  using Partial = typename Reduction::Partial;
  using Shape = ReductionShape<Number, Reduction>;  ///< unless the tiles are small

  SweepPlan plan;
  int64_t rows, cols, tile_rows, slot_rows;
  Partial* partials;

  /// Over all pairs of a problem; in a self problem half of the products.
  static Sweep take(const Problem& problem, const SweepOptions& options, Workspace& workspace) {
    if (is_of_groups(problem.measure)) {
      using Tile = GroupTile<false>;
      const SweepSize size{problem.n, problem.m, Tile::kRows, Tile::kCols, sizeof(Partial)};
      return take(size, plan_rectangle(size, options), workspace);
    }
    const SweepSize size = size_of(problem.n, problem.num_references(), options);
    const SweepPlan plan = problem.is_self ? plan_self(size, options, workspace.left())
                                           : plan_rectangle(size, options);
    return take(size, plan, workspace);
  }

  /// Over rows x cols, in either direction of a problem.
  static Sweep take_rectangle(int64_t rows, int64_t cols, const SweepOptions& options,
                              Workspace& workspace) {
    const SweepSize size = size_of(rows, cols, options);
    return take(size, plan_rectangle(size, options), workspace);
  }

  /// Over all pairs of two operands, for the rows and, where has_columns(), for the columns.
  static Sweep take_both_sides(int64_t rows, int64_t cols, const SweepOptions& options,
                               Workspace& workspace) {
    const SweepSize size = size_of(rows, cols, options);
    return take(size, plan_both_sides(size, options, workspace.left()), workspace);
  }
  bool has_columns() const { return plan.has_two_operands; }

  /// Those of the columns, complete when those of the rows are.
  RowSlots<Partial> column_slots() const {
    const int64_t num_slots = plan.num_slots / 2;
    return {partials + num_slots * slot_rows, num_slots, slot_rows, 0, cols};
  }

  /// Sweeps, and calls finish(RowSlots) whenever rows are complete: all of them, or a part.
  template <class Finish>
  cudaError_t launch(Measure measure, SweepArguments<Number, Reduction> arguments,
                     cudaStream_t stream, const Finish& finish) const {
    if (rows == 0) return cudaSuccess;
    arguments.partials = partials;
    arguments.slot_rows = slot_rows;
    for (int index = 0; index < plan.num_launches(); ++index) {
      arguments.plan = plan.launch(index);
      cudaError_t error = launch_for(measure, arguments, stream);
      if (error == cudaSuccess && arguments.plan.finishes_rows())
        error = finish(finished_slots(arguments.plan));
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }

 private:
  static SweepSize size_of(int64_t rows, int64_t cols, const SweepOptions& options) {
    const SweepSize size{rows, cols, Shape::kRows, Shape::kCols, sizeof(Partial)};
    const int64_t tiles = size.row_tiles() * size.col_tiles();
    if (!kHasSmallTile<Shape> || !wants_small_tiles(options.tile_size, tiles, grid_blocks(options)))
      return size;
    return {rows, cols, SmallTile::kRows, SmallTile::kCols, sizeof(Partial)};
  }

  static Sweep take(const SweepSize& size, const SweepPlan& plan, Workspace& workspace) {
    const int64_t slot_rows = plan.has_two_operands
                                  ? std::max(size.rows, size.cols)
                                  : std::min(size.rows, plan.row_tiles_per_launch * size.tile_rows);
    return {plan,           size.rows, size.cols,
            size.tile_rows, slot_rows, workspace.take<Partial>(plan.num_slots * slot_rows)};
  }

  cudaError_t launch_for(Measure measure, const SweepArguments<Number, Reduction>& arguments,
                         cudaStream_t stream) const {
    using Real = typename Number::Real;
    if constexpr (Reduction::kHasOneKernel) {
      return launch_one<typename Reduction::Logit>(arguments, stream);
    } else {
      if constexpr (Reduction::kTakesGroups)
        if (is_of_groups(measure))
          return launch_tile<GroupedLogit<Real, false>, GroupTile<false>>(arguments, stream);
      if (is_distance(measure)) return launch_one<EuclideanLogit<Real>>(arguments, stream);
      if constexpr (Reduction::kReadsLogits)
        if (measure != Measure::kDot) return launch_one<CurvedLogit<Real>>(arguments, stream);
      return launch_one<AffineLogit<Real>>(arguments, stream);
    }
  }

  template <class Logit>
  cudaError_t launch_one(const SweepArguments<Number, Reduction>& arguments,
                         cudaStream_t stream) const {
    return with_tile<Shape>(tile_rows == SmallTile::kRows, [&](auto tile) {
      return launch_tile<Logit, decltype(tile)>(arguments, stream);
    });
  }

  template <class Logit, class Tile>
  cudaError_t launch_tile(const SweepArguments<Number, Reduction>& arguments,
                          cudaStream_t stream) const {
    return fusedml::launch(pair_sweep_kernel<Number, Logit, Reduction, Tile>,
                           dim3(unsigned(arguments.plan.num_blocks())), dim3(Tile::kThreads),
                           kSweepSharedBytes<Number, Logit, Reduction, Tile>, stream, arguments);
  }

  RowSlots<Partial> finished_slots(const SweepPlan& launched) const {
    const int64_t begin = int64_t(launched.first_row_tile) * tile_rows;
    const int64_t num_slots = has_columns() ? plan.num_slots / 2 : plan.num_slots;
    return {partials, num_slots, slot_rows, begin, std::min(rows, begin + slot_rows)};
  }
};

template <class Number, class Reduction>
size_t sweep_workspace(const Problem& given, const SweepOptions& options) {
  Workspace workspace(nullptr);
  const Problem problem = GroupColumns<Number>::take(given, workspace).problem;
  TypedProblem<Number>::take(problem, workspace);
  Sweep<Number, Reduction>::take(problem, options, workspace);
  return workspace.bytes();
}

template <class Number>
size_t statistics_workspace(const Problem& problem, const SweepOptions& options) {
  if constexpr (kHasHopper<Number>)
    if (choose_engine(problem, options.engine).engine == Engine::kHopper)
      return hopper_statistics_workspace<Number>(problem, options);
  return sweep_workspace<Number, StatisticsReduction<Number>>(problem, options);
}

/// Statistics of a prepared problem.
template <class Number>
cudaError_t launch_statistics(const Problem& problem, const TypedProblem<Number>& typed,
                              const Sweep<Number, StatisticsReduction<Number>>& sweep,
                              const RowHead& head, const StatisticsOutputs& outputs,
                              cudaStream_t stream) {
  SweepArguments<Number, StatisticsReduction<Number>> arguments{};
  arguments.problem = typed.pairs;
  return sweep.launch(problem.measure, arguments, stream, [&](const auto& slots) {
    return finish_statistics(slots, problem, head, outputs, stream);
  });
}

template <class Number>
cudaError_t statistics(const Problem& given, const RowHead& head, const StatisticsOutputs& outputs,
                       void* memory, cudaStream_t stream, const SweepOptions& options) {
  if (given.n == 0) return cudaSuccess;
  if constexpr (kHasHopper<Number>)
    if (choose_engine(given, options.engine).engine == Engine::kHopper)
      return hopper_statistics<Number>(given, head, outputs, memory, stream, options);
  Workspace workspace(memory);
  const auto columns = GroupColumns<Number>::take(given, workspace);
  const Problem& problem = columns.problem;
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto sweep = Sweep<Number, StatisticsReduction<Number>>::take(problem, options, workspace);
  if (const cudaError_t error = columns.gather(stream)) return error;
  if (const cudaError_t error = typed.prepare(stream)) return error;
  return launch_statistics(problem, typed, sweep, head, outputs, stream);
}

template <class Number>
size_t extrema_workspace(const Problem& problem, const SweepOptions& options) {
  return sweep_workspace<Number, ExtremaReduction<Number>>(problem, options);
}

template <class Number>
cudaError_t extrema(const Problem& problem, void* result, void* memory, cudaStream_t stream,
                    const SweepOptions& options) {
  using Real = typename Number::Real;
  if (problem.n == 0) return cudaSuccess;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto sweep = Sweep<Number, ExtremaReduction<Number>>::take(problem, options, workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  SweepArguments<Number, ExtremaReduction<Number>> arguments{};
  arguments.problem = typed.pairs;
  return sweep.launch(problem.measure, arguments, stream, [&](const auto& slots) {
    return launch(finish_extrema_kernel<Real>, slots.grid(), dim3(kFinishThreads), 0, stream, slots,
                  problem.n, problem.extent, static_cast<Real*>(result));
  });
}

}  // namespace fusedml
