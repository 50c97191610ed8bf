#pragma once
// Starts the product of a panel of weights and embeddings on Hopper's own instructions.
#include <algorithm>

#include "hopper/product.cuh"
#include "kernels/launch.h"

namespace fusedml {

template <class Number, class Tile>
cudaError_t launch_hopper_product(const HopperProductArguments<Number>& arguments,
                                  const HopperProductOperands<Number>& operands,
                                  cudaStream_t stream) {
  const int64_t dims = arguments.sums.dims;
  HopperProductMaps maps;
  const auto make = [&](TensorMap& map, const void* data, int64_t rows, int64_t cols,
                        int box_rows) {
    return make_tensor_map(map, kTensorMapType<Number>, data, rows, cols, box_rows);
  };
  const cudaError_t errors[] = {
      make(maps.weights, operands.weights, arguments.rows, operands.pitch, Tile::kRows),
      make(maps.weights_deep, operands.weights, arguments.rows, operands.pitch, Tile::kDepth),
      make(maps.cols, operands.references, arguments.col_begin + arguments.cols, dims,
           Tile::kDepth),
      make(maps.rows, operands.anchors, arguments.row_begin + arguments.rows, dims, Tile::kDepth)};
  for (const cudaError_t error : errors) {
    if (error != cudaSuccess) return error;
  }
  const int tiles = HopperProductTiles<Number, Tile>(arguments).count();
  if (tiles == 0) return cudaSuccess;
  return launch(hopper_product_kernel<Number, Tile>, std::min(tiles, kHopperMultiprocessors),
                Tile::kThreads, Tile::kBytes, stream, maps.weights, maps.weights_deep, maps.cols,
                maps.rows, arguments);
}

/// Adds panel x references to the rows' gradient, and panel^T x anchors to the columns', as
/// `arguments` says.  cudaErrorInvalidValue unless dims and the pitch are multiples of 8 and all
/// operands are aligned to 16 bytes.
template <class Number>
cudaError_t hopper_product(const HopperProductArguments<Number>& arguments,
                           const HopperProductOperands<Number>& operands, cudaStream_t stream) {
  const int64_t lines =
      (arguments.feeds_rows ? arguments.rows : 0) + (arguments.feeds_cols ? arguments.cols : 0);
  switch (product_dims(lines, arguments.sums.dims)) {
    case NarrowProductTile::kDims:
      return launch_hopper_product<Number, NarrowProductTile>(arguments, operands, stream);
    case MiddleProductTile::kDims:
      return launch_hopper_product<Number, MiddleProductTile>(arguments, operands, stream);
    default:
      return launch_hopper_product<Number, WideProductTile>(arguments, operands, stream);
  }
}

}  // namespace fusedml
