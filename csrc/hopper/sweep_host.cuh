#pragma once
// Starts the forward sweep over plain tiles, and what prepares it.
#include "hopper/row_ranges.cuh"
#include "hopper/sweep.cuh"
#include "kernels/launch.h"

namespace fusedml {

/// ranges: [num_squares(rows, side_bits)].
template <class Number>
cudaError_t launch_row_ranges(const PairSide<Number>& side, int side_bits, RowRange* ranges,
                              cudaStream_t stream) {
  const int64_t blocks = num_squares(side.embeddings.rows, side_bits);
  if (blocks == 0) return cudaSuccess;
  return launch(row_ranges_kernel<Number>, dim3(unsigned(blocks)), dim3(kRangeThreads), 0, stream,
                side.embeddings, side.labels, 1 << side_bits, ranges);
}

/// Maps of both sides of a problem for tiles of similarities.
struct SimilarityMaps {
  TensorMap anchors, references;

  template <class Tile, class Number>
  cudaError_t make(const PairProblem<Number>& problem) {
    const auto make_one = [](TensorMap& map, const PairSide<Number>& side, int box_rows) {
      return make_tensor_map(map, kTensorMapType<Number>, side.embeddings.data,
                             side.embeddings.rows, side.embeddings.dim, box_rows);
    };
    const cudaError_t error = make_one(anchors, problem.anchors, Tile::kRows);
    return error != cudaSuccess ? error : make_one(references, problem.references, Tile::kCols);
  }
};

/// One launch of the plan.  cudaErrorInvalidValue unless the dimension is a multiple of 8, the
/// embeddings are aligned to 16 bytes, and the squares are the tile's.
template <class Number, class Tile>
cudaError_t launch_hopper_sweep(const PairProblem<Number>& problem,
                                const HopperSweepArguments& arguments, cudaStream_t stream) {
  if (arguments.squares.side() != Tile::kSquare) return cudaErrorInvalidValue;
  SimilarityMaps maps;
  if (const cudaError_t error = maps.make<Tile>(problem)) return error;
  return launch(hopper_sweep_kernel<Number, Tile>, dim3(unsigned(arguments.plan.num_blocks())),
                dim3(Tile::kThreads), Tile::kBytes, stream, maps.anchors, maps.references,
                arguments);
}

}  // namespace fusedml
