#pragma once
// Backward, route B, second half: gradient += panel of weights x embeddings, sums in fp32.
#include "core/weighted_sum.cuh"
#include "kernels/pair_weights.cuh"

namespace fusedml {

/// The tile of the gradient that a block computes: rows of the panel x dimensions.
template <class Number>
using ProductShape =
    std::conditional_t<Number::kTensorCores, TileShape<128, 64, 32, 32>, TileShape<64, 64, 32, 16>>;

template <class Number>
struct WeightsProductArguments {
  using Real = typename Number::Real;
  WeightPanel<Number> panel;
  PairSide<Number> anchors, references;  ///< rows and columns of the panel
  const Real* weight_scale;              ///< one number, or null: 1
  bool is_first, is_last;                ///< among the panels of these rows
  Real* sums;                            ///< [panel.rows, d], kept from one panel to the next
  typename Number::Element* gradient;    ///< [rows, d], written after the last panel
};

/// values += weights x embeddings over one slice of panel columns.  `weights` holds the tile's
/// rows; `embeddings` holds one row per panel column, split into slices of dimensions.
template <class Number, class Shape>
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
#pragma unroll
    for (int step = 0; step < kDepth / Number::kProductDepth; ++step) {
      decltype(Number::prepare(std::declval<uint32_t (&)[4]>())) a[Shape::kFragmentsDown];
#pragma unroll
      for (int down = 0; down < Shape::kFragmentsDown; ++down) {
        uint32_t raw[4];
        ldmatrix_x4(raw, weight_row.at(2 * step, 16 * down));
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
        const auto weight = weights[slice_index<Element>(map.row(i), col)];
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

template <class Number, class Shape>
struct WeightsProductShared {
  using Element = typename Number::Element;
  static constexpr int kStages = 2;
  static constexpr int kDepth = kSliceDepth<Element>;
  static constexpr int kDimSlices = Shape::kCols / kDepth;
  static constexpr int kWeightElements = Shape::kRows * kDepth;
  static constexpr int kEmbeddingElements = kDimSlices * kDepth * kDepth;
  static constexpr int kBytes =
      kStages * (kWeightElements + kEmbeddingElements) * int(sizeof(Element));
  static_assert(Shape::kCols % kDepth == 0 &&
                sizeof(Element) == sizeof(typename Number::PanelElement));
};

template <class Number, bool kSubtractsAnchors, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    weights_product_kernel(WeightsProductArguments<Number> arguments) {
  using Real = typename Number::Real;
  using Element = typename Number::Element;
  using Shared = WeightsProductShared<Number, Shape>;
  const auto& panel = arguments.panel;
  const auto anchors = arguments.anchors.active(), references = arguments.references.active();
  const int64_t row = int64_t(blockIdx.y) * Shape::kRows;
  const int dim_begin = int(blockIdx.x) * Shape::kCols;
  const MatrixView<Element> weights{panel.weights, panel.rows, int(panel.cols), kChunkBytes};

  Carver carver;
  Element* weight_slices = carver.take<Element>(Shared::kStages * Shared::kWeightElements, 128);
  Element* embedding_slices =
      carver.take<Element>(Shared::kStages * Shared::kEmbeddingElements, 128);
  // columns behind the last reference hold zeros and need not be read
  const int64_t cols = min(panel.cols, references.rows - panel.col_begin);
  const int num_steps = cols > 0 ? int(ceil_div(cols, int64_t(Shared::kDepth))) : 0;
  const auto start_step = [&](int step) {
    if (step < num_steps) {
      const int stage = step % Shared::kStages;
      const int col = step * Shared::kDepth;
      copy_slice<Shape::kRows, Shape::kThreads>(weight_slices + stage * Shared::kWeightElements,
                                                weights, row, col);
      for (int slice = 0; slice < Shared::kDimSlices; ++slice)
        copy_slice<Shared::kDepth, Shape::kThreads>(
            embedding_slices + stage * Shared::kEmbeddingElements +
                slice * Shared::kDepth * Shared::kDepth,
            references, panel.col_begin + col, dim_begin + slice * Shared::kDepth);
    }
    cp_async_commit();
  };

  TileValues<Real, Shape> values;
  values.clear();
  Real weight_sums[Shape::kThreadRows] = {};
  start_step(0);
  for (int step = 0; step < num_steps; ++step) {
    cp_async_wait<0>();
    __syncthreads();  // every thread's copies of this step have landed, and the other stage, which
                      // start_step() fills, has been read
    start_step(step + 1);
    const int stage = step % Shared::kStages;
    multiply_weights<Number, Shape>(
        values, weight_sums, weight_slices + stage * Shared::kWeightElements,
        embedding_slices + stage * Shared::kEmbeddingElements, kSubtractsAnchors);
  }
  cp_async_wait<0>();  // nothing is in flight when the block ends

  const ThreadMap<Shape> map;
  const int dims = anchors.dim;
  const Real weight_scale = arguments.weight_scale ? *arguments.weight_scale : Real(1);
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const int64_t panel_row = row + map.row(i);
      const int dim = dim_begin + map.col(j);
      const int64_t anchor_row = panel.row_begin + panel_row;
      if (anchor_row >= arguments.anchors.embeddings.rows || dim >= dims) continue;
      Real value = values.at(i, j);
      if constexpr (kSubtractsAnchors) {  // sum_j w_ij (r_j - a_i)
        if (anchor_row < anchors.rows)
          value -= weight_sums[i] * Number::to_real(anchors.data[anchor_row * dims + dim]);
      }
      const int64_t index = panel_row * dims + dim;
      if (!arguments.is_first) value += arguments.sums[index];
      if (arguments.is_last) {
        arguments.gradient[anchor_row * dims + dim] = Number::to_element(value / weight_scale);
      } else {
        arguments.sums[index] = value;
      }
    }
}

}  // namespace fusedml
