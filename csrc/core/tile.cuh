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
  static constexpr int kRows = kRows_;                                  ///< anchors per tile
  static constexpr int kCols = kCols_;                                  ///< references per tile
  static constexpr int kWarpRows = kWarpRows_, kWarpCols = kWarpCols_;  ///< one warp's part
  static constexpr int kWarpsDown = kRows / kWarpRows, kWarpsAcross = kCols / kWarpCols;
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarpSize;
  static constexpr int kFragmentsDown = kWarpRows / 16, kFragmentsAcross = kWarpCols / 8;
  static constexpr int kThreadRows = 2 * kFragmentsDown;    ///< rows that one thread holds pairs of
  static constexpr int kThreadCols = 2 * kFragmentsAcross;  ///< columns, likewise
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
  FUSEDML_DEVICE Real at(int i, int j) const { return fragment[i / 2][j / 2][2 * (i % 2) + j % 2]; }
};

/// Where this thread's values lie in the tile: the accumulator layout of mma.m16n8 (PTX ISA).
template <class Shape>
struct ThreadMap {
  int warp_row, warp_col;  ///< the warp's corner
  int lane_row, lane_col;

  FUSEDML_DEVICE ThreadMap() : ThreadMap(int(threadIdx.x)) {}
  explicit FUSEDML_DEVICE ThreadMap(int thread) {
    const int warp = thread / kWarpSize, lane = thread % kWarpSize;
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
  return row * kChunksPerRow + (chunk ^ (row & (kChunksPerRow - 1)));
}

/// The chunks of one row of a slice that begins at a multiple of kSliceBytes: an xor away from each
/// other, so that a loop over chunks needs one register, not one per chunk.
struct SliceRow {
  SharedAddress first;

  FUSEDML_DEVICE SliceRow(SharedAddress slice, int row, int chunk)
      : first(slice + swizzled_chunk(row, chunk) * kChunkBytes) {}
  /// Address of chunk (chunk ^ further) of the row that lies `rows_below`, a multiple of 8, below.
  FUSEDML_DEVICE SharedAddress at(int further, int rows_below) const {
    return (first ^ (further * kChunkBytes)) + rows_below * kSliceBytes;
  }
};

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
  // a thread keeps its column of chunks and steps through the rows; kRowStep is a multiple of 8, so
  // the swizzle of its chunks is the same in every row
  constexpr int kRowStep = kThreads / kChunksPerRow;
  static_assert(kRowStep % kChunksPerRow == 0);
  const int column = int(threadIdx.x) % kChunksPerRow, depth = depth_begin + column * kPerChunk;
  const int row = int(threadIdx.x) / kChunksPerRow;
  const SharedAddress chunk = shared_address(slice) + swizzled_chunk(row, column) * kChunkBytes;
  const Element* const source = from.data + (row_begin + row) * from.dim + depth;
  const int64_t source_step = int64_t(kRowStep) * from.dim;
  const int64_t rows_left = from.rows - row_begin - row;
  // a count that the compiler knows: it unrolls the loop, and its addresses are one sum each
  constexpr int kSteps = ceil_div(kRows, kRowStep);
  const auto is_in_slice = [&](int step) {
    return kRows % kRowStep == 0 || row + step * kRowStep < kRows;
  };
  if (from.copy_bytes == kChunkBytes) {
    const int existing =
        depth < from.dim && rows_left > 0 ? int(min(rows_left, int64_t(kRows))) : 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      if (is_in_slice(step))  // no bytes: nothing is read, whatever the address
        cp_async<kChunkBytes>(chunk + step * kRowStep * kSliceBytes, source + step * source_step,
                              step * kRowStep < existing ? kChunkBytes : 0);
  } else if (from.copy_bytes == kNarrow) {
#pragma unroll 1
    for (int step = 0; step < kSteps && is_in_slice(step); ++step) {
      constexpr int kPerCopy = kNarrow / int(sizeof(Element));
#pragma unroll 1
      for (int part = 0; part < kChunkBytes / kNarrow; ++part) {
        const bool exists = step * kRowStep < rows_left && depth + part * kPerCopy < from.dim;
        cp_async<kNarrow>(chunk + step * kRowStep * kSliceBytes + part * kNarrow,
                          source + step * source_step + part * kPerCopy, exists ? kNarrow : 0);
      }
    }
  } else {  // an odd number of 16-bit dimensions: cp.async has no such width
#pragma unroll 1
    for (int step = 0; step < kSteps && is_in_slice(step); ++step)
#pragma unroll 1
      for (int e = 0; e < kPerChunk; ++e)
        slice[slice_index<Element>(row + step * kRowStep, column * kPerChunk + e)] =
            step * kRowStep < rows_left && depth + e < from.dim ? source[step * source_step + e]
                                                                : Element(0.f);
  }
}

}  // namespace fusedml
