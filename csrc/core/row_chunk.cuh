#pragma once
// Pieces of single rows of embeddings, straight from global memory to registers.
#include "core/tile.cuh"

namespace fusedml {

/// kSize dimensions of an embedding, as reals; by itself a chunk of 16 bytes.
template <class Number, int kSize_ = kChunkBytes / int(sizeof(typename Number::Element))>
struct RowChunk {
  using Element = typename Number::Element;
  static constexpr int kSize = kSize_;
  static constexpr int kBytes = kSize * int(sizeof(Element));

  typename Number::Real x[kSize] = {};

  /// Of dimensions [depth, depth + kSize) of a row, depth < dim; what lies behind the last one is
  /// zero.  kWide: every chunk lies at a multiple of its size, and none ends behind the row.
  template <bool kWide>
  static FUSEDML_DEVICE RowChunk load(const Element* row, int depth, int dim) {
    Element stored[kSize];
    if constexpr (kWide) {
      memcpy(stored, __builtin_assume_aligned(row + depth, kBytes), kBytes);
    } else {
#pragma unroll
      for (int e = 0; e < kSize; ++e)
        stored[e] = depth + e < dim ? row[depth + e] : Number::to_element(0);
    }
    RowChunk chunk;
#pragma unroll
    for (int e = 0; e < kSize; ++e) chunk.x[e] = Number::to_real(stored[e]);
    return chunk;
  }

  template <bool kWide>
  FUSEDML_DEVICE void store(Element* row, int depth, int dim) const {
    Element stored[kSize];
#pragma unroll
    for (int e = 0; e < kSize; ++e) stored[e] = Number::to_element(x[e]);
    if constexpr (kWide) {
      void* const to = row + depth;  // nvcc 13.0 fails on the typed pointer
      memcpy(__builtin_assume_aligned(to, kBytes), stored, kBytes);
    } else {
#pragma unroll
      for (int e = 0; e < kSize; ++e)
        if (depth + e < dim) row[depth + e] = stored[e];
    }
  }
};

}  // namespace fusedml
