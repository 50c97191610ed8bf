#pragma once
// What is known of the rows of one side, many at a time: enough to say which squares are plain.
#include "core/number.cuh"
#include "core/pair.h"
#include "core/plain_squares.h"

namespace fusedml {

constexpr int kRangeThreads = 128;

/// ranges[b]: of the rows [b side, (b + 1) side), one block each.
template <class Number>
__global__ void __launch_bounds__(kRangeThreads)
    row_ranges_kernel(MatrixView<typename Number::Element> embeddings, const int64_t* labels,
                      int side, RowRange* ranges) {
  constexpr int kWarps = kRangeThreads / kWarpSize;
  FUSEDML_SHARED(RowRange, of_warps, [kWarps]);
  const int warp = int(threadIdx.x) / kWarpSize, lane = int(threadIdx.x) % kWarpSize;
  const int64_t begin = int64_t(blockIdx.x) * side;
  const int64_t end = min(begin + side, embeddings.rows);
  RowRange own{INT64_MAX, INT64_MIN, 0.f};
  for (int64_t row = begin + warp; row < end; row += kWarps) {
    float square = 0;
    for (int k = lane; k < embeddings.dim; k += kWarpSize) {
      const float x = Number::to_real(embeddings.data[row * embeddings.dim + k]);
      square += x * x;
    }
#pragma unroll
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) square += shuffle_xor(square, mask);
    const float norm = square < INFINITY ? sqrtf(square) : INFINITY;  // NaN, too
    const int64_t label = labels[row];
    own.smallest_label = min(own.smallest_label, label);
    own.largest_label = max(own.largest_label, label);
    own.largest_norm = fmaxf(own.largest_norm, norm);
  }
  if (lane == 0) of_warps[warp] = own;
  __syncthreads();  // all warps' ranges are there
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) {
    own.smallest_label = min(own.smallest_label, of_warps[w].smallest_label);
    own.largest_label = max(own.largest_label, of_warps[w].largest_label);
    own.largest_norm = fmaxf(own.largest_norm, of_warps[w].largest_norm);
  }
  ranges[blockIdx.x] = own;
}

}  // namespace fusedml
