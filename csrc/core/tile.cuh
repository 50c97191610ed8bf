#pragma once
// Tiles: their shape, who holds which pair, and how slices of embeddings lie in shared memory.
#include "core/number.cuh"
#include "core/pair.h"

namespace fusedml {

/// A main-loop step covers this many bytes of every row: 64 bf16, 32 fp32 or 16 fp64 dimensions.
constexpr int kSliceBytes = 128;
constexpr int kChunkBytes = 16;  ///< what one lane of ldmatrix, or one cp.async, moves
constexpr int kChunksPerRow = kSliceBytes / kChunkBytes;

template <class Element>
constexpr int kSliceDepth = kSliceBytes / int(sizeof(Element));  ///< dimensions per slice

/// Shape of the tile of pairs that a block computes at a time.
template <int kRows_, int kCols_, int kWarpRows_, int kWarpCols_>
struct TileShape {
  static constexpr int kRows = kRows_;  ///< anchors per tile
  static constexpr int kCols = kCols_;  ///< references per tile
  static constexpr int kWarpRows = kWarpRows_, kWarpCols = kWarpCols_;  ///< one warp's part
  static constexpr int kWarpsDown = kRows / kWarpRows, kWarpsAcross = kCols / kWarpCols;
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarpSize;
  static constexpr int kFragmentsDown = kWarpRows / 16, kFragmentsAcross = kWarpCols / 8;
  static constexpr int kThreadRows = 2 * kFragmentsDown;    ///< rows that one thread holds pairs of
  static constexpr int kThreadCols = 2 * kFragmentsAcross;  ///< columns, likewise
  /// Registers are limited so that two blocks share a multiprocessor: while one is in its epilogue,
  /// the other keeps the tensor cores busy.
  static constexpr int kBlocksPerMultiprocessor = 2;
  static_assert(kRows % kWarpRows == 0 && kCols % kWarpCols == 0 && kWarpRows % 16 == 0 &&
                kWarpCols % 16 == 0);
};

/// One thread's part of a tile: the accumulators of its warp's fragments.
template <class Real, class Shape>
struct TileValues {
  Real fragment[Shape::kFragmentsDown][Shape::kFragmentsAcross][4];

  FUSEDML_DEVICE void clear() {
#pragma unroll
    for (int down = 0; down < Shape::kFragmentsDown; ++down)
#pragma unroll
      for (int across = 0; across < Shape::kFragmentsAcross; ++across)
#pragma unroll
        for (int r = 0; r < 4; ++r) fragment[down][across][r] = Real(0);
  }
  /// Value of the thread's i-th row and j-th column.
  FUSEDML_DEVICE Real& at(int i, int j) { return fragment[i / 2][j / 2][2 * (i % 2) + j % 2]; }
  FUSEDML_DEVICE Real at(int i, int j) const {
    return fragment[i / 2][j / 2][2 * (i % 2) + j % 2];
  }
};

/// Where this thread's values lie in the tile: the accumulator layout of mma.m16n8 (PTX ISA).
template <class Shape>
struct ThreadMap {
  int warp_row, warp_col;  ///< the warp's corner
  int lane_row, lane_col;

  FUSEDML_DEVICE ThreadMap() {
    const int warp = int(threadIdx.x) / kWarpSize, lane = int(threadIdx.x) % kWarpSize;
    warp_row = warp / Shape::kWarpsAcross * Shape::kWarpRows;
    warp_col = warp % Shape::kWarpsAcross * Shape::kWarpCols;
    lane_row = lane / 4;
    lane_col = lane % 4 * 2;
  }
  FUSEDML_DEVICE int row(int i) const { return warp_row + i / 2 * 16 + i % 2 * 8 + lane_row; }
  FUSEDML_DEVICE int col(int j) const { return warp_col + j / 2 * 8 + j % 2 + lane_col; }
};

/// Position of a chunk in a slice.  The xor sends the eight rows that one ldmatrix reads, and the
/// rows 0 2 4 6 of a transposed tf32 load, to different banks.
FUSEDML_HOST_DEVICE int swizzled_chunk(int row, int chunk) {
  return row * kChunksPerRow + (chunk ^ (row % kChunksPerRow));
}

template <class Element>
FUSEDML_DEVICE int slice_index(int row, int depth) {
  constexpr int kPerChunk = kChunkBytes / int(sizeof(Element));
  return swizzled_chunk(row, depth / kPerChunk) * kPerChunk + depth % kPerChunk;
}

/// Starts copying rows [row_begin, row_begin + kRows) x dimensions [depth_begin, + one slice) into
/// `slice`.  What lies outside the matrix becomes zero.  The caller commits the group.
template <int kRows, int kThreads, class Element>
FUSEDML_DEVICE void copy_slice(Element* slice, const MatrixView<Element>& from, int64_t row_begin,
                               int depth_begin) {
  constexpr int kPerChunk = kChunkBytes / int(sizeof(Element));
  constexpr int kNarrow = MatrixView<Element>::kNarrowCopy;
  const SharedAddress base = shared_address(slice);
  // calls visit(row, depth, position) for each of this thread's chunks
  const auto for_each_chunk = [&](auto visit) {
    for (int chunk = int(threadIdx.x); chunk < kRows * kChunksPerRow; chunk += kThreads) {
      const int row = chunk / kChunksPerRow, column = chunk % kChunksPerRow;
      visit(row_begin + row, depth_begin + column * kPerChunk, swizzled_chunk(row, column));
    }
  };
  if (from.copy_bytes == kChunkBytes) {
    for_each_chunk([&](int64_t row, int depth, int position) {
      const bool exists = row < from.rows && depth < from.dim;
      cp_async<kChunkBytes>(base + position * kChunkBytes,
                            exists ? from.data + row * from.dim + depth : from.data,
                            exists ? kChunkBytes : 0);
    });
  } else if (from.copy_bytes == kNarrow) {
    for_each_chunk([&](int64_t row, int depth, int position) {
      constexpr int kPerCopy = kNarrow / int(sizeof(Element));
#pragma unroll 1
      for (int part = 0; part < kChunkBytes / kNarrow; ++part) {
        const int first = depth + part * kPerCopy;
        const bool exists = row < from.rows && first < from.dim;
        cp_async<kNarrow>(base + position * kChunkBytes + part * kNarrow,
                          exists ? from.data + row * from.dim + first : from.data,
                          exists ? kNarrow : 0);
      }
    });
  } else {  // an odd number of 16-bit dimensions: cp.async has no such width
    for_each_chunk([&](int64_t row, int depth, int position) {
#pragma unroll 1
      for (int e = 0; e < kPerChunk; ++e)
        slice[position * kPerChunk + e] = row < from.rows && depth + e < from.dim
                                              ? from.data[row * from.dim + depth + e]
                                              : Element(0.f);
    });
  }
}

}  // namespace fusedml
