#pragma once
// A block of the forward sweep: its tile's shape, its arguments, its shared memory.
#include "core/architecture.h"
#include "core/group_values.cuh"
#include "core/similarity.cuh"
#include "kernels/line_reduction.cuh"
#include "kernels/sweep_plan.h"
#include "logits/two_products.h"

namespace fusedml {

// 8 warps each.  Doubles take twice the registers and have small tiles only; the others have them
// where large ones are too few for the GPU.
using LargeTile = TileShape<128, 128, 64, 32>;
using SmallTile = TileShape<64, 64, 32, 16>;

template <class Number>
using SweepShapeOf = std::conditional_t<Number::kTensorCores, LargeTile, SmallTile>;

/// Small tiles where most are skipped, and where there is one kernel for all sizes.
template <class Number, class Reduction>
using ReductionShape = std::conditional_t<Reduction::kPositivesOnly || Reduction::kHasOneKernel,
                                          SmallTile, SweepShapeOf<Number>>;

/// Whether a kernel with tiles of this shape has one with small tiles beside it.
template <class Shape>
constexpr bool kHasSmallTile =
    !std::is_same_v<Shape, SmallTile> && !std::is_same_v<Shape, GroupTile<false>> &&
    !std::is_same_v<Shape, GroupTile<true>>;

/// run(tile): a tile of this shape, or a small one.
template <class Shape, class Run>
auto with_tile(bool is_small, const Run& run) {
  if constexpr (kHasSmallTile<Shape>)
    if (is_small) return run(SmallTile());
  return run(Shape());
}

/// Of the second products of a tile, for logits that have two.
template <class Number, class Logit, class Shape>
using SecondStream =
    std::conditional_t<kHasSecondProduct<Logit>, SimilarityStream<Number, Shape>, NoStream>;

/// holder.second: the matrix that is multiplied with itself, where there is one.
template <class Number, class Logit, class Shape, class Holder>
FUSEDML_DEVICE auto second_stream(Carver& carver, const Holder& holder, const TileSequence& tiles) {
  if constexpr (kHasSecondProduct<Logit>) {
    return SimilarityStream<Number, Shape>(carver, holder.second, holder.second, tiles);
  } else {
    return NoStream();
  }
}

template <class Number, class Reduction>
struct SweepArguments {
  using Real = typename Number::Real;
  PairProblem<Number> problem;
  SweepPlan plan;
  RowVectors<Real, Reduction::kVectors> anchor_vectors, reference_vectors;
  typename Reduction::Parameters parameters;
  typename Reduction::Partial* partials;  ///< [plan.num_slots, slot_rows]
  int64_t slot_rows;                      ///< from row plan.first_row_tile * Shape::kRows on
  PlainSquares plain;                     ///< of a sweep of the other tiles alone
};

/// Shared memory of a block, beside the slices of the main loop.
template <class Number, class Logit, class Reduction, class Shape>
struct SweepShared {
  using Real = typename Number::Real;
  using Partial = typename Reduction::Partial;
  static constexpr bool kHasPlain = Reduction::kHasPlain && !Logit::kIsGrouped;
  /// Tiles of groups do not: only their rows have statistics.
  static constexpr bool kMayFeedColumns = !Logit::kIsGrouped;
  // numbers that only the epilogue needs: in registers they would be spilled over the main loop
  Logit logit;
  int64_t active_rows, active_cols;
  SweepSlots slots;
  SideTile<Real, Shape::kRows, Reduction::kVectors> rows;
  SideTile<Real, Shape::kCols, Reduction::kVectors> cols;
  Partial running[Shape::kRows];  ///< over this block's columns; row r is thread r's own
  Partial row_partials[Shape::kWarpsAcross][Shape::kRows];
  Partial col_partials[kMayFeedColumns ? Shape::kWarpsDown : 1][Shape::kCols];
  bool is_plain[Shape::kThreads / kWarpSize];  ///< the warp's partials are those of a plain part
};

template <class Number, class Logit, class Reduction, class Shape>
constexpr int kSweepSharedBytes =
    round_up(int(sizeof(SweepShared<Number, Logit, Reduction, Shape>)), 128) +
    SimilarityStream<Number, Shape>::kSharedBytes +
    SecondStream<Number, Logit, Shape>::kSharedBytes;

/// Two blocks share a multiprocessor where 128 registers suffice (without spills on sm_90: ptxas)
/// and their shared memory fits (not on sm_80, which spills in 128 registers too): while one is in
/// its epilogue, the other keeps the tensor cores busy.
template <class Number, class Logit, class Reduction, class Shape>
constexpr int kSweepBlocks =
    Reduction::kIsHot && Number::kProductDepth == 16 && Logit::kIsLight &&
            shared_memory_fits(2, kSweepSharedBytes<Number, Logit, Reduction, Shape>)
        ? 2
        : 1;

}  // namespace fusedml
