#pragma once
// One block of the product of a panel of weights and embeddings.
#include "core/weights_slice.cuh"
#include "kernels/gradient_line.cuh"
#include "kernels/pair_weights.cuh"

namespace fusedml {

/// The tile of the gradient that a block computes: rows or columns of the panel x dimensions.  fp32
/// has no registers for the large one: twice the fragments, and sums outside the tensor cores.
template <class Number>
using ProductShape = std::conditional_t<
    Number::kTensorCores,
    std::conditional_t<Number::kProductDepth == 16, LargeTile, TileShape<128, 64, 32, 32>>,
    SmallTile>;

template <class Number>
struct WeightsProductArguments {
  using Real = typename Number::Real;
  WeightPanel<Number> panel;
  PairSide<Number> anchors, references;  ///< rows and columns of the panel
  const Real* weight_scale;              ///< one number, or null: 1
  ProductTurn of_rows;                   ///< gradient of the rows += panel x references
  ProductTurn of_cols;  ///< self problems: that of the columns += panel^T x anchors
  GradientSums<Number> sums;
};

template <class Number, class Shape>
struct WeightsProductShared {
  using Element = typename Number::Element;
  static constexpr int kStages = Number::kTensorCores ? 3 : 2;
  static constexpr int kDepth = kSliceDepth<Element>;
  static constexpr int kRowSlices = Shape::kRows / kDepth, kDimSlices = Shape::kCols / kDepth;
  static constexpr int kSliceElements = kDepth * kDepth;  ///< of kDepth rows
  static constexpr int kWeightElements = Shape::kRows * kDepth;
  static constexpr int kEmbeddingElements = Shape::kCols * kDepth;
  static constexpr int kBytes =
      kStages * (kWeightElements + kEmbeddingElements) * int(sizeof(Element));
  static_assert(Shape::kCols % kDepth == 0 && Shape::kRows % kDepth == 0 &&
                sizeof(Element) == sizeof(typename Number::PanelElement));
};

/// One block's product: the lines (rows of the panel, or its columns if kTransposed) from `line` on
/// x dimensions from `dim_begin` on.
template <class Number, bool kTransposed, class Shape>
class PanelProduct {
 public:
  using Real = typename Number::Real;
  using Element = typename Number::Element;
  using Shared = WeightsProductShared<Number, Shape>;
  using Pair = typename GradientSums<Number>::Pair;
  static constexpr int kPairs = Shape::kThreadCols / 2;

  FUSEDML_DEVICE PanelProduct(const WeightsProductArguments<Number>& arguments, int64_t line,
                              int dim_begin)
      : arguments_(arguments), line_(line), dim_begin_(dim_begin) {}

  /// Sums over the panel's other lines; `weight_sums` those of the weights alone.
  FUSEDML_DEVICE void compute(TileValues<Real, Shape>& values,
                              Real (&weight_sums)[Shape::kThreadRows], bool wants_weight_sums) {
    const auto& panel = arguments_.panel;
    const auto own = own_side().active(), other = other_side().active();
    const MatrixView<Element> weights{panel.weights, panel.rows, int(panel.cols), kChunkBytes};
    Carver carver;
    Element* weight_slices = carver.take<Element>(Shared::kStages * Shared::kWeightElements, 128);
    Element* embedding_slices =
        carver.take<Element>(Shared::kStages * Shared::kEmbeddingElements, 128);
    // what lies behind the last line of either side holds no weights and need not be read
    const int64_t other_begin = kTransposed ? panel.row_begin : panel.col_begin;
    const int64_t depth = min(kTransposed ? panel.rows : panel.cols, other.rows - other_begin);
    const bool is_active = own_begin() + line_ < own.rows && depth > 0;
    const int num_steps = is_active ? int(ceil_div(depth, int64_t(Shared::kDepth))) : 0;
    const auto start_step = [&](int step) {
      if (step < num_steps) {
        const int stage = step % Shared::kStages;
        start_weights(weight_slices + stage * Shared::kWeightElements, weights,
                      step * Shared::kDepth);
        for (int slice = 0; slice < Shared::kDimSlices; ++slice)
          copy_slice<Shared::kDepth, Shape::kThreads>(
              embedding_slices + stage * Shared::kEmbeddingElements +
                  slice * Shared::kSliceElements,
              other, other_begin + step * Shared::kDepth, dim_begin_ + slice * Shared::kDepth);
      }
      cp_async_commit();
    };
    values.clear();
    for (int step = 0; step < Shared::kStages - 1; ++step) start_step(step);
    for (int step = 0; step < num_steps; ++step) {
      cp_async_wait<Shared::kStages - 2>();
      __syncthreads();  // every thread's copies of this step have landed, and the stage before it,
                        // which start_step() fills, has been read
      start_step(step + Shared::kStages - 1);
      const int stage = step % Shared::kStages;
      multiply_weights<Number, kTransposed, Shape>(
          values, weight_sums, weight_slices + stage * Shared::kWeightElements,
          embedding_slices + stage * Shared::kEmbeddingElements, wants_weight_sums);
    }
    cp_async_wait<0>();  // nothing is in flight when the block ends
  }

  /// Adds the tile to the sums, or finishes the gradient.
  template <bool kSubtractsAnchors>
  FUSEDML_DEVICE void store(const TileValues<Real, Shape>& values,
                            const Real (&weight_sums)[Shape::kThreadRows]) const {
    const ThreadMap<Shape> map;
    // two copies: a branch for every pair would part the loads from each other
    const auto store_lines = [&](auto in_pairs) {
#pragma unroll
      for (int i = 0; i < Shape::kThreadRows; ++i) {
        const int64_t row = own_begin() + line_ + gradient_line(map.row(i));
        if (row >= own_side().embeddings.rows) continue;
        Pair line[kPairs];
#pragma unroll
        for (int j = 0; j < kPairs; ++j) line[j] = {values.at(i, 2 * j), values.at(i, 2 * j + 1)};
        if (kSubtractsAnchors) subtract_anchor(line, weight_sums[i], row);
        add_to_sums<decltype(in_pairs)::value>(
            arguments_.sums, kTransposed ? arguments_.of_cols : arguments_.of_rows,
            arguments_.weight_scale, row, pair_dim(0), line);
      }
    };
    if (arguments_.sums.in_pairs) {
      store_lines(std::true_type());
    } else {
      store_lines(std::false_type());
    }
  }

 private:
  FUSEDML_DEVICE const PairSide<Number>& own_side() const {
    return kTransposed ? arguments_.references : arguments_.anchors;
  }
  FUSEDML_DEVICE const PairSide<Number>& other_side() const {
    return kTransposed ? arguments_.anchors : arguments_.references;
  }
  FUSEDML_DEVICE int64_t own_begin() const {
    return kTransposed ? arguments_.panel.col_begin : arguments_.panel.row_begin;
  }

  static FUSEDML_DEVICE int gradient_line(int line) {
    return kTransposed ? column_in_panel<Number>(line) : line;
  }
  /// First dimension of this thread's j-th pair.
  FUSEDML_DEVICE int pair_dim(int j) const { return dim_begin_ + ThreadMap<Shape>().col(2 * j); }

  /// sum_j w_ij (r_j - a_i)
  FUSEDML_DEVICE void subtract_anchor(Pair (&line)[kPairs], Real weight_sum, int64_t row) const {
    const auto own = own_side().active();
    if (row >= own.rows) return;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int dim = pair_dim(j);
      const Element* anchor = own.data + row * own.dim + dim;
      if (dim < own.dim) line[j].x -= weight_sum * Number::to_real(anchor[0]);
      if (dim + 1 < own.dim) line[j].y -= weight_sum * Number::to_real(anchor[1]);
    }
  }

  /// Starts copying the weights of this block's lines at a depth of the panel.
  FUSEDML_DEVICE void start_weights(Element* slices, const MatrixView<Element>& weights,
                                    int depth) const {
    if constexpr (kTransposed) {
      for (int slice = 0; slice < Shared::kRowSlices; ++slice)
        copy_slice<Shared::kDepth, Shape::kThreads>(slices + slice * Shared::kSliceElements,
                                                    weights, depth,
                                                    int(line_) + slice * Shared::kDepth);
    } else {
      copy_slice<Shape::kRows, Shape::kThreads>(slices, weights, line_, depth);
    }
  }

  const WeightsProductArguments<Number>& arguments_;
  int64_t line_;
  int dim_begin_;
};

}  // namespace fusedml
