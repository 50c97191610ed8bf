#pragma once
// Starts the kernels of kernels/ on the tiles outside plain squares, all of which those of this
// folder leave to them.
#include "hopper/special_plan.h"
#include "kernels/gradient_rows.cuh"
#include "kernels/launch.h"
#include "kernels/pair_weights.cuh"
#include "kernels/statistics.cuh"

namespace fusedml {

static_assert(LargeTile::kRows == kSpecialTile && LargeTile::kCols == kSpecialTile);

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
  return launch(pair_weights_kernel<Number, AffineLogit<float>, LargeTile, WeightSource, true>,
                grid, dim3(LargeTile::kThreads),
                kPairWeightsSharedBytes<Number, AffineLogit<float>, LargeTile, WeightSource>,
                stream, arguments);
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
