#pragma once
// The second product of the backward: pair weights, in registers or in a panel, times embeddings.
// The embeddings are the B operand with the pairs along its depth, so their fragments are read
// across the rows of a slice.
#include "core/similarity.cuh"

namespace fusedml {

/// Raw B fragments of embeddings: kProductDepth rows from `row` on, dimensions [dim, dim + 16) of
/// the slice.  (raw[0], raw[1]) belong to the first eight dimensions, (raw[2], raw[3]) to the
/// others.  kTransposed: the raw A fragment of the same numbers with the dimensions for its rows,
/// whose middle registers are exchanged, by the loads: moves would be a third of a product's
/// instructions.
///
/// In tf32 the depth is permuted: depths t and t + 4 of the mma stand for rows 2 t and 2 t + 1.  So
/// a thread's two neighbouring weights are its A fragment as they are, and the eight rows that one
/// load touches lie in different banks.
template <class Number, bool kTransposed = false>
FUSEDML_DEVICE void load_embedding_fragments(uint32_t (&raw)[4],
                                             const typename Number::Element* slice, int row,
                                             int dim) {
  using Element = typename Number::Element;
  const int lane = int(threadIdx.x) % kWarpSize;
  if constexpr (sizeof(Element) == 2) {
    const SliceRow lane_row =
        kTransposed ? SliceRow(shared_address(slice), lane / 16 * 8 + lane % 8, lane / 8 % 2)
                    : SliceRow(shared_address(slice), lane % 16, lane / 16);
    ldmatrix_trans_x4(raw, lane_row.at(dim / 8, row));
  } else {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int further_row = kTransposed ? r / 2 : r % 2,
                further_dim = kTransposed ? r % 2 : r / 2;
      const int index =
          slice_index<Element>(row + lane % 4 * 2 + further_row, dim + further_dim * 8 + lane / 4);
      raw[r] = __float_as_uint(slice[index]);
    }
  }
}

/// A fragment of weights that lie in the accumulators of one row of fragments: the columns
/// [step * kProductDepth, + kProductDepth) of the warp's part.
template <class Number, int kAcross>
FUSEDML_DEVICE auto weight_fragment(const float (&weights)[kAcross][4], int step) {
  uint32_t raw[4];
  if constexpr (Number::kProductDepth == 16) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float (&pair)[4] = weights[2 * step + r / 2];
      raw[r] = Number::pack(pair[r % 2 * 2], pair[r % 2 * 2 + 1]);
    }
  } else {
#pragma unroll
    for (int r = 0; r < 4; ++r) raw[r] = __float_as_uint(weights[step][r % 2 * 2 + r / 2]);
  }
  return Number::prepare(raw);
}

/// B fragment of ones: the product with it is the sum of a row's weights as they were rounded.
template <class Number>
FUSEDML_DEVICE auto ones_fragment() {
  uint32_t raw[2];
  if constexpr (Number::kProductDepth == 16) {
    raw[0] = raw[1] = Number::pack(1.f, 1.f);
  } else {
    raw[0] = raw[1] = __float_as_uint(1.f);
  }
  return Number::prepare(raw);
}

}  // namespace fusedml
