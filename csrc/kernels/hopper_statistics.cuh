#pragma once
// Forward by two sets of kernels: plain squares of pairs on Hopper's instructions, the others on
// mma.sync, in slots of their own.
#include "hopper/operators.h"
#include "hopper/special_plan.h"
#include "kernels/engine.h"
#include "kernels/finish_statistics.cuh"
#include "kernels/typed_problem.cuh"

namespace fusedml {

/// What is known of the rows of both sides, in squares.
template <class Number>
struct SquareRanges {
  int side_bits;
  bool is_self;
  RowRange *of_rows, *of_cols;

  static SquareRanges take(const TypedProblem<Number>& typed, int side_bits, Workspace& workspace) {
    SquareRanges ranges{side_bits, typed.is_self, nullptr, nullptr};
    const int64_t lines =
        std::max(typed.pairs.anchors.embeddings.rows, typed.pairs.references.embeddings.rows);
    const int64_t count = num_squares(lines, side_bits);  // for the sides in either order
    ranges.of_rows = workspace.take<RowRange>(count);
    ranges.of_cols = typed.is_self ? ranges.of_rows : workspace.take<RowRange>(count);
    return ranges;
  }

  cudaError_t prepare(const PairProblem<Number>& pairs, cudaStream_t stream) const {
    using Hopper = HopperOperators<Number>;
    const cudaError_t error = Hopper::row_ranges(pairs.anchors, side_bits, of_rows, stream);
    if (error != cudaSuccess || is_self) return error;
    return Hopper::row_ranges(pairs.references, side_bits, of_cols, stream);
  }

  PlainSquares squares(const PairProblem<Number>& pairs) const {
    return {of_rows, of_cols, pairs.anchors.embeddings.rows, pairs.references.embeddings.rows,
            side_bits};
  }
};

/// The two sweeps and their slots: first those of the plain squares, then the others.
template <class Number>
struct HopperSweep {
  using Partial = RowStatistics<float>;
  static constexpr int64_t kSide = int64_t(1) << kPanelSquareBits;

  SweepPlan plan;
  int64_t rows, cols, slot_rows, special_slots;
  Partial* partials;

  static HopperSweep take(const Problem& problem, SweepOptions options, Workspace& workspace) {
    const int64_t rows = problem.n, cols = problem.num_references();
    const SweepSize size{rows, cols, kSide, kSide, sizeof(Partial)};
    if (options.grid_blocks == 0) options.grid_blocks = kHopperMultiprocessors;
    HopperSweep sweep{};
    sweep.rows = rows;
    sweep.cols = cols;
    const int64_t most_special =
        special_plan(rows, cols, 0, rows).num_slots * rows * int64_t(sizeof(Partial));
    sweep.plan = problem.is_self ? plan_self(size, options, workspace.left() - most_special)
                                 : plan_rectangle(size, options);
    sweep.slot_rows = std::min(rows, sweep.plan.row_tiles_per_launch * kSide);
    sweep.special_slots = special_plan(rows, cols, 0, sweep.slot_rows).num_slots;
    sweep.partials =
        workspace.take<Partial>((sweep.plan.num_slots + sweep.special_slots) * sweep.slot_rows);
    return sweep;
  }

  /// finish(RowSlots) whenever rows are complete: all of them, or a part.
  template <class Finish>
  cudaError_t launch(const PairProblem<Number>& pairs, const PlainSquares& squares,
                     cudaStream_t stream, const Finish& finish) const {
    for (int index = 0; index < plan.num_launches(); ++index) {
      const SweepPlan part = plan.launch(index);
      const HopperSweepArguments arguments{
          part, pairs.logit, squares, pairs.anchors.embeddings.dim, partials, slot_rows};
      cudaError_t error = HopperOperators<Number>::sweep(pairs, arguments, stream);
      if (error == cudaSuccess && part.finishes_rows()) {
        const int64_t begin = part.first_row_tile * kSide;
        error = launch_special(pairs, squares, begin, stream);
        if (error == cudaSuccess)
          error = finish(RowSlots<Partial>{partials, plan.num_slots + special_slots, slot_rows,
                                           begin, std::min(rows, begin + slot_rows)});
      }
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }

 private:
  cudaError_t launch_special(const PairProblem<Number>& pairs, const PlainSquares& squares,
                             int64_t first_row, cudaStream_t stream) const {
    SweepArguments<Number, StatisticsReduction<Number>> arguments{};
    arguments.problem = pairs;
    arguments.plan = special_plan(rows, cols, first_row, slot_rows);
    arguments.partials = partials + plan.num_slots * slot_rows;
    arguments.slot_rows = slot_rows;
    arguments.plain = squares;
    return HopperOperators<Number>::special_sweep(arguments, stream);
  }
};

template <class Number>
size_t hopper_statistics_workspace(const Problem& problem, const SweepOptions& options) {
  Workspace workspace(nullptr);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  SquareRanges<Number>::take(typed, kPanelSquareBits, workspace);
  HopperSweep<Number>::take(problem, options, workspace);
  return workspace.bytes();
}

template <class Number>
cudaError_t hopper_statistics(const Problem& problem, const RowHead& head,
                              const StatisticsOutputs& outputs, void* memory, cudaStream_t stream,
                              const SweepOptions& options) {
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto ranges = SquareRanges<Number>::take(typed, kPanelSquareBits, workspace);
  const auto sweep = HopperSweep<Number>::take(problem, options, workspace);
  if (const cudaError_t error = ranges.prepare(typed.pairs, stream)) return error;
  return sweep.launch(typed.pairs, ranges.squares(typed.pairs), stream, [&](const auto& slots) {
    return finish_statistics(slots, problem, head, outputs, stream);
  });
}

}  // namespace fusedml
