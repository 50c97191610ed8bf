#pragma once
// Starts the panel of pair weights of plain tiles, and what prepares it.
#include <algorithm>

#include "hopper/product_tile.h"
#include "hopper/sweep_host.cuh"
#include "hopper/weights.cuh"

namespace fusedml {

inline cudaError_t launch_weight_factors(const FactorArguments& arguments, cudaStream_t stream) {
  const int64_t blocks = ceil_div(arguments.rows, int64_t(kRangeThreads));
  if (blocks == 0) return cudaSuccess;
  return launch(weight_factors_kernel, dim3(unsigned(blocks)), dim3(kRangeThreads), 0, stream,
                arguments);
}

/// Whether a panel's lines are whole squares, or end where the problem does.
inline bool is_of_squares(int64_t begin, int64_t lines, int64_t all_lines, int64_t square) {
  return begin % square == 0 && (lines % square == 0 || begin + lines == all_lines);
}

/// cudaErrorInvalidValue unless the dimension is a multiple of 8, the embeddings are aligned to 16
/// bytes, the panel is made of squares, and its lines begin at multiples of 4 bytes.
template <class Number, class Tile>
cudaError_t launch_hopper_weights(const PairProblem<Number>& problem,
                                  const HopperWeightsArguments<Number>& arguments,
                                  cudaStream_t stream) {
  const PlainSquares& squares = arguments.squares;
  const bool is_valid =
      is_of_squares(arguments.row_begin, arguments.rows, squares.rows, squares.side()) &&
      is_of_squares(arguments.col_begin, arguments.cols, squares.cols, squares.side()) &&
      squares.side() % Tile::kSquare == 0 && arguments.pitch % 2 == 0 &&
      arguments.pitch >= arguments.cols;
  if (!is_valid) return cudaErrorInvalidValue;
  SimilarityMaps maps;
  if (const cudaError_t error = maps.make<Tile>(problem)) return error;
  const int64_t tiles = ceil_div(arguments.rows, int64_t(Tile::kRows)) *
                        ceil_div(arguments.cols, int64_t(Tile::kCols));
  const int64_t blocks = std::min<int64_t>(tiles, kHopperMultiprocessors);
  return launch(hopper_weights_kernel<Number, Tile>, dim3(unsigned(blocks)), dim3(Tile::kThreads),
                Tile::kBytes, stream, maps.anchors, maps.references, arguments);
}

}  // namespace fusedml
