#pragma once
// The tiles that the kernels on Hopper's instructions leave to those of this folder: all outside
// plain squares.  They are few, about six of 128 x 128 in a row of tiles where labels are sorted.
#include "core/primitives.cuh"
#include "core/tile.cuh"

namespace fusedml {

/// Of a row of tiles, those outside plain squares.  The columns' ends move to the first and the
/// last of them, for which all threads look at once; then of `parts` blocks each takes its share of
/// what lies between.
template <class Shape>
FUSEDML_DEVICE void take_special_tiles(TileSequence& tiles, const PlainSquares& plain, float scale,
                                       int part, int parts) {
  constexpr int kWarps = Shape::kThreads / kWarpSize;
  FUSEDML_SHARED(int, first_of_warp, [kWarps]);
  FUSEDML_SHARED(int, end_of_warp, [kWarps]);
  tiles.plain = {plain, scale, Shape::kRows, Shape::kCols};
  int first = tiles.col_end, end = tiles.col_begin;
  for (int col = tiles.col_begin + int(threadIdx.x); col < tiles.col_end; col += Shape::kThreads) {
    if (!tiles.visits(tiles.row_begin, col)) continue;
    first = min(first, col);
    end = col + 1;
  }
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    first = min(first, shuffle_xor(first, mask));
    end = max(end, shuffle_xor(end, mask));
  }
  const int warp = int(threadIdx.x) / kWarpSize;
  if (threadIdx.x % kWarpSize == 0) {
    first_of_warp[warp] = first;
    end_of_warp[warp] = end;
  }
  __syncthreads();  // all warps' ends are there
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    first = min(first, first_of_warp[w]);
    end = max(end, end_of_warp[w]);
  }
  const int count = max(end - first, 0);
  tiles.col_begin = first + count * part / parts;
  tiles.col_end = first + count * (part + 1) / parts;
}

}  // namespace fusedml
