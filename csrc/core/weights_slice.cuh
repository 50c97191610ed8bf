#pragma once
// The second product of the backward where the pair weights come from a panel: one slice of it.
#include "core/weighted_sum.cuh"

namespace fusedml {

/// values += weights x embeddings over one slice of panel columns.  `weights` holds the tile's
/// rows; `embeddings` holds one row per panel column, split into slices of dimensions. kTransposed:
/// `weights` holds one row per panel column, too, split into slices of the tile's rows.
template <class Number, bool kTransposed, class Shape>
FUSEDML_DEVICE void multiply_weights(TileValues<typename Number::Real, Shape>& values,
                                     typename Number::Real (&weight_sums)[Shape::kThreadRows],
                                     const typename Number::PanelElement* weights,
                                     const typename Number::Element* embeddings,
                                     bool wants_weight_sums) {
  using Element = typename Number::Element;
  constexpr int kDepth = kSliceDepth<Element>;  // panel columns, and dimensions of a slice
  const ThreadMap<Shape> map;
  if constexpr (Number::kTensorCores) {
    const int lane = int(threadIdx.x) % kWarpSize;
    const SliceRow weight_row(shared_address(weights), map.warp_row + lane % 16, lane / 16);
    const auto ones = ones_fragment<Number>();
#pragma unroll(Number::kSliceUnroll)
    for (int step = 0; step < kDepth / Number::kProductDepth; ++step) {
      decltype(Number::prepare(std::declval<uint32_t (&)[4]>())) a[Shape::kFragmentsDown];
#pragma unroll
      for (int down = 0; down < Shape::kFragmentsDown; ++down) {
        uint32_t raw[4];
        if constexpr (kTransposed) {
          const int line = map.warp_row + 16 * down;
          load_embedding_fragments<Number, true>(raw, weights + line / kDepth * kDepth * kDepth,
                                                 step * Number::kProductDepth, line % kDepth);
        } else {
          ldmatrix_x4(raw, weight_row.at(2 * step, 16 * down));
        }
        a[down] = Number::prepare(raw);
        if (wants_weight_sums) {
          float sums[4] = {};
          Number::multiply(sums, a[down], ones);
          weight_sums[2 * down] += sums[0];
          weight_sums[2 * down + 1] += sums[2];
        }
      }
#pragma unroll
      for (int across = 0; across < Shape::kFragmentsAcross; across += 2) {
        const int dim = map.warp_col + 8 * across;
        uint32_t raw[4];
        load_embedding_fragments<Number>(raw, embeddings + dim / kDepth * kDepth * kDepth,
                                         step * Number::kProductDepth, dim % kDepth);
        const uint32_t raw_left[2] = {raw[0], raw[1]}, raw_right[2] = {raw[2], raw[3]};
        const auto left = Number::prepare(raw_left), right = Number::prepare(raw_right);
#pragma unroll
        for (int down = 0; down < Shape::kFragmentsDown; ++down) {
          Number::multiply(values.fragment[down][across], a[down], left);
          Number::multiply(values.fragment[down][across + 1], a[down], right);
        }
      }
    }
  } else {
    for (int col = 0; col < kDepth; ++col) {
#pragma unroll
      for (int i = 0; i < Shape::kThreadRows; ++i) {
        const int row = map.row(i);
        const auto weight =
            kTransposed
                ? weights[row / kDepth * kDepth * kDepth + slice_index<Element>(col, row % kDepth)]
                : weights[slice_index<Element>(row, col)];
        weight_sums[i] += weight;
#pragma unroll
        for (int j = 0; j < Shape::kThreadCols; ++j) {
          const int dim = map.col(j);
          values.at(i, j) +=
              weight *
              embeddings[dim / kDepth * kDepth * kDepth + slice_index<Element>(col, dim % kDepth)];
        }
      }
    }
  }
}

}  // namespace fusedml
