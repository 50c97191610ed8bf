#pragma once
// Starts route A of the backward over plain tiles.
#include "hopper/rows.cuh"
#include "hopper/weights_host.cuh"

namespace fusedml {

template <class Number, class Tile>
cudaError_t launch_hopper_rows(const PairProblem<Number>& problem,
                               const HopperRowsArguments<Number>& arguments, cudaStream_t stream) {
  if (arguments.squares.side() != Tile::kRows) return cudaErrorInvalidValue;
  SimilarityMaps maps;
  if (const cudaError_t error = maps.make<Tile>(problem)) return error;
  const int64_t blocks = ceil_div(arguments.squares.rows, int64_t(Tile::kRows));
  return launch(hopper_rows_kernel<Number, Tile>, dim3(unsigned(blocks)), dim3(Tile::kThreads),
                Tile::kBytes, stream, maps.anchors, maps.references, arguments);
}

/// Adds the gradient of the rows by all plain pairs to their sums.  cudaErrorInvalidValue unless
/// the dimension is a multiple of 8 of at most kMostHopperRowsDims, the embeddings are aligned to
/// 16 bytes, and the squares are the tile's.
template <class Number>
cudaError_t hopper_rows(const PairProblem<Number>& problem,
                        const HopperRowsArguments<Number>& arguments, cudaStream_t stream) {
  const int dims = problem.anchors.embeddings.dim;
  if (dims > kMostHopperRowsDims) return cudaErrorInvalidValue;
  if (dims <= 64)
    return launch_hopper_rows<Number, HopperRowsTile<64, 6>>(problem, arguments, stream);
  return launch_hopper_rows<Number, HopperRowsTile<128, 5>>(problem, arguments, stream);
}

}  // namespace fusedml
