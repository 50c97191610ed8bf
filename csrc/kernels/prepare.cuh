#pragma once
// Small numbers per row or per block of rows that the sweeps read: squared norms, label ranges.
#include "core/number.cuh"
#include "core/pair.h"

namespace fusedml {

constexpr int kPrepareThreads = 128;
constexpr int kPrepareWarps = kPrepareThreads / kWarpSize;

/// squared_norms[i] = |a_i|^2, one warp per row.
template <class Number>
__global__ void __launch_bounds__(kPrepareThreads)
    squared_norms_kernel(MatrixView<typename Number::Element> embeddings,
                         typename Number::Real* squared_norms) {
  using Real = typename Number::Real;
  const int lane = int(threadIdx.x) % kWarpSize;
  const int64_t row = int64_t(blockIdx.x) * kPrepareWarps + threadIdx.x / kWarpSize;
  if (row >= embeddings.rows) return;  // the whole warp
  Real sum = 0;
  for (int64_t depth = lane; depth < embeddings.dim; depth += kWarpSize) {
    const Real x = Number::to_real(embeddings.data[row * embeddings.dim + depth]);
    sum += x * x;
  }
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  if (lane == 0) squared_norms[row] = sum;
}

/// Label ranges of one side, one warp per range.  Without active rows a range is empty.
static __global__ void __launch_bounds__(kPrepareThreads)
    label_ranges_kernel(const int64_t* labels, int64_t num_rows, const int64_t* extent,
                        int64_t* ranges) {
  constexpr int64_t kRows = LabelRanges::kRowsPerRange;
  static_assert(kRows == kWarpSize, "one label per lane");
  const int lane = int(threadIdx.x) % kWarpSize;
  const int64_t block = int64_t(blockIdx.x) * kPrepareWarps + threadIdx.x / kWarpSize;
  if (block * kRows >= num_rows) return;  // the whole warp
  const int64_t active = extent != nullptr && *extent < num_rows ? *extent : num_rows;
  const int64_t row = block * kRows + lane;
  int64_t smallest = row < active ? labels[row] : INT64_MAX;
  int64_t largest = row < active ? labels[row] : INT64_MIN;
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const int64_t other_smallest = shuffle_xor(smallest, mask);
    const int64_t other_largest = shuffle_xor(largest, mask);
    smallest = other_smallest < smallest ? other_smallest : smallest;
    largest = other_largest > largest ? other_largest : largest;
  }
  if (lane == 0) {
    ranges[2 * block] = smallest;
    ranges[2 * block + 1] = largest;
  }
}

}  // namespace fusedml
