#pragma once
// Starts the forward sweep over plain tiles, and what prepares it.
#include "hopper/sweep.cuh"
#include "kernels/launch.h"

namespace fusedml {

template <class Tile>
constexpr int64_t num_row_ranges(int64_t rows) {
  return ceil_div(rows, int64_t(Tile::kSquare));
}

/// ranges: [num_row_ranges].
template <class Number, class Tile>
cudaError_t launch_row_ranges(const PairSide<Number>& side, RowRange* ranges, cudaStream_t stream) {
  const int64_t blocks = num_row_ranges<Tile>(side.embeddings.rows);
  if (blocks == 0) return cudaSuccess;
  return launch(row_ranges_kernel<Number, Tile::kSquare>, dim3(unsigned(blocks)),
                dim3(kRangeThreads), 0, stream, side.embeddings, side.labels, ranges);
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

/// One launch of the plan.  cudaErrorInvalidValue unless the dimension is a multiple of 8 and the
/// embeddings are aligned to 16 bytes.
template <class Number, class Tile>
cudaError_t launch_hopper_sweep(const PairProblem<Number>& problem,
                                const HopperSweepArguments& arguments, cudaStream_t stream) {
  SimilarityMaps maps;
  if (const cudaError_t error = maps.make<Tile>(problem)) return error;
  return launch(hopper_sweep_kernel<Number, Tile>, dim3(unsigned(arguments.plan.num_blocks())),
                dim3(Tile::kThreads), Tile::kBytes, stream, maps.anchors, maps.references,
                arguments);
}

}  // namespace fusedml
