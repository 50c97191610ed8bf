#pragma once
// Backward, route A: a block owns 64 anchors.  It visits their tiles again, turns similarities into
// pair weights in registers and multiplies those by the reference tile, which still lies in shared
// memory; the gradient stays in registers to the end.  Form of FlashAttention-2, Dao 2023.
#include "kernels/row_gradients.cuh"
#include "kernels/special_tiles.cuh"

namespace fusedml {

/// kIsSpecial: only the tiles outside plain squares.
template <class Number, class Logit, int kMaxDim, bool kIsSpecial = false>
__global__ void __launch_bounds__(GradientRowsShape<Number, kMaxDim>::Tile::kThreads, 2)
    gradient_rows_kernel(GradientRowsArguments<Number> arguments) {
  using Real = typename Number::Real;
  using Shape = GradientRowsShape<Number, kMaxDim>;
  using Tile = typename Shape::Tile;
  const auto& problem = arguments.problem;
  const Logit logit(problem.logit, problem.is_second_kind);
  const auto anchors = problem.anchors.active(), references = problem.references.active();
  const Real weight_scale = arguments.weight_scale ? *arguments.weight_scale : Real(1);

  const int num_splits = kIsSpecial ? 1 : arguments.num_splits;
  const int tile_row = int(blockIdx.x) / num_splits;
  const int split = int(blockIdx.x) % num_splits;
  const int64_t row_begin = int64_t(tile_row) * Tile::kRows;
  const int col_tiles = int(ceil_div(references.rows, int64_t(Tile::kCols)));
  const int tiles_per_split = ceil_div(col_tiles, num_splits);
  TileSequence sequence{tile_row, row_begin < anchors.rows ? tile_row + 1 : tile_row,
                        split * tiles_per_split, min((split + 1) * tiles_per_split, col_tiles)};
  if constexpr (kIsSpecial)
    take_special_tiles<Tile>(sequence, arguments.plain, plain_scale<Number>(problem.logit), 0, 1);
  Carver carver;
  const GradientRowsTiles<Number, kMaxDim> tiles(carver);
  TilePosition position = sequence.first();
  const Real lse = position.is_valid()
                       ? lse_of_tile<Number>(arguments.source, arguments.row_vectors,
                                             arguments.col_vectors, row_begin, 0)
                       : Real(0);
  tiles.start_anchors(arguments, anchors, row_begin, logit, lse, weight_scale);
  tiles.start_tile(arguments, references, position, 0, logit, lse, weight_scale);

  RowGradients<Number, Logit, kMaxDim> gradients;
  LogitGradient<Real> logit_gradient;
  for (int buffer = 0; position.is_valid(); buffer ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // every thread's part of this tile has landed, and the other buffer, which
                      // start_tile() fills, has been read
    const int64_t col_begin = int64_t(position.col) * Tile::kCols;
    sequence.advance(position);
    tiles.start_tile(arguments, references, position, buffer ^ 1, logit, lse, weight_scale);

    TileValues<Real, Tile> values;
    values.clear();
#pragma unroll 1  // the main loop within a slice is long enough
    for (int slice = 0; slice < Shape::kSlices; ++slice)
      multiply_slice<Number, Tile>(values, tiles.anchor_slice(slice),
                                   tiles.reference_slice(buffer, slice));
    const TilePlace place{row_begin, col_begin, anchors.rows, references.rows, problem.excluded};
    to_weights<Number>(values, problem, logit, arguments.source, place, tiles.sides.rows,
                       tiles.sides.cols[buffer], weight_scale, arguments.logit_partials != nullptr,
                       logit_gradient);
    gradients.add(values, tiles, buffer, references.rows - col_begin);
  }
  cp_async_wait<0>();  // nothing is in flight when a block without tiles ends

  if constexpr (kIsSpecial) {
    gradients.store_in_sums(arguments, row_begin);
  } else {
    gradients.store(arguments, row_begin, split, weight_scale);
  }
  if (arguments.logit_partials != nullptr)
    store_logit_gradient<Tile::kThreads>(logit_gradient,
                                         arguments.logit_partials + 4 * int64_t(blockIdx.x));
}

}  // namespace fusedml
