#pragma once
// Starts the kernels of kernels/ on the tiles outside plain squares, all of which those of this
// folder leave to them.
#include <algorithm>

#include "kernels/gradient_rows.cuh"
#include "kernels/launch.h"
#include "kernels/pair_weights.cuh"
#include "kernels/statistics.cuh"
#include "kernels/sweep_plan.h"

namespace fusedml {

/// Of the forward, for the rows that a launch completes; in tiles of 128 x 128.  A row has num_slots
/// further slots, which its special tiles are divided among: one for many rows of tiles, for few of
/// them enough to fill a GPU.
inline SweepPlan special_plan(int64_t rows, int64_t cols, int64_t first_row,
                              int64_t rows_of_launch) {
  constexpr int64_t kMostSlots = 6;  ///< about as many special tiles as a row of tiles has
  SweepPlan plan{};
  plan.row_tiles = int(ceil_div(rows, int64_t(LargeTile::kRows)));
  plan.col_tiles = plan.cols_per_group = int(ceil_div(cols, int64_t(LargeTile::kCols)));
  plan.rows_per_group = 1;
  plan.row_tiles_per_launch = int(ceil_div(rows_of_launch, int64_t(LargeTile::kRows)));
  plan.first_row_tile = int(first_row / LargeTile::kRows);
  const int64_t wanted = kFullGridBlocks / std::max(1, plan.row_tiles_per_launch);
  plan.num_groups = plan.num_slots = int(std::max<int64_t>(1, std::min(wanted, kMostSlots)));
  return plan;
}

/// arguments.plan: a special_plan().  Every row of the launch gets its slots, also without tiles.
template <class Number>
cudaError_t launch_special_sweep(
    const SweepArguments<Number, StatisticsReduction<Number>>& arguments, cudaStream_t stream) {
  using Logit = AffineLogit<float>;
  using Reduction = StatisticsReduction<Number>;
  return launch(pair_sweep_kernel<Number, Logit, Reduction, LargeTile, true>,
                dim3(unsigned(arguments.plan.num_blocks())), dim3(LargeTile::kThreads),
                kSweepSharedBytes<Number, Logit, Reduction, LargeTile>, stream, arguments);
}

/// Fills what is special of a panel, whose sides are multiples of the large tile's; pairs that do
/// not exist weigh zero.
template <class Number>
cudaError_t launch_special_weights(const PairWeightsArguments<Number, WeightSource>& arguments,
                                   cudaStream_t stream) {
  const auto& panel = arguments.panel;
  const dim3 grid(unsigned(panel.cols / LargeTile::kCols), unsigned(panel.rows / LargeTile::kRows));
  return launch(
      pair_weights_kernel<Number, AffineLogit<float>, LargeTile, WeightSource, true>, grid,
      dim3(LargeTile::kThreads), kPairWeightsSharedBytes<Number, LargeTile, WeightSource>, stream,
      arguments);
}

/// Adds the gradient by special pairs of all rows to their sums; of at most 128 dimensions, a
/// multiple of 8.
template <class Number>
cudaError_t launch_special_rows(const GradientRowsArguments<Number>& arguments,
                                cudaStream_t stream) {
  const auto launch_one = [&](auto dims) {
    constexpr int kDims = decltype(dims)::value;
    using Tile = typename GradientRowsShape<Number, kDims>::Tile;
    const auto& embeddings = arguments.problem.anchors.embeddings;
    return launch(gradient_rows_kernel<Number, AffineLogit<float>, kDims, true>,
                  dim3(unsigned(ceil_div(embeddings.rows, int64_t(Tile::kRows)))),
                  dim3(Tile::kThreads), GradientRowsTiles<Number, kDims>::kSharedBytes, stream,
                  arguments);
  };
  if (arguments.problem.anchors.embeddings.dim <= 64)
    return launch_one(std::integral_constant<int, 64>());
  return launch_one(std::integral_constant<int, 128>());
}

}  // namespace fusedml
