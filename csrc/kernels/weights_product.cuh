#pragma once
// Backward, route B, second half: gradient += panel of weights x embeddings, sums in fp32.
#include "core/weights_slice.cuh"
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

/// Writes a tile of the gradient, or adds it to the sums, from `row` of the panel and `dim_begin`
/// on.
template <class Number, bool kSubtractsAnchors, class Shape>
FUSEDML_DEVICE void store_product(const TileValues<typename Number::Real, Shape>& values,
                                  const typename Number::Real (&weight_sums)[Shape::kThreadRows],
                                  const WeightsProductArguments<Number>& arguments,
                                  const MatrixView<typename Number::Element>& anchors, int64_t row,
                                  int dim_begin) {
  using Real = typename Number::Real;
  const ThreadMap<Shape> map;
  const int dims = anchors.dim;
  const Real weight_scale = arguments.weight_scale ? *arguments.weight_scale : Real(1);
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const int64_t panel_row = row + map.row(i);
      const int dim = dim_begin + map.col(j);
      const int64_t anchor_row = arguments.panel.row_begin + panel_row;
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

  store_product<Number, kSubtractsAnchors>(values, weight_sums, arguments, anchors, row, dim_begin);
}

}  // namespace fusedml
