#pragma once
// A block of route A: its tile's shape, its arguments, its shared memory.
#include "kernels/gradient_sums.cuh"
#include "kernels/pair_weight.cuh"

namespace fusedml {

template <class Number, int kMaxDim>
struct GradientRowsShape {
  using Element = typename Number::Element;
  /// A warp owns 16 whole rows, so that its weights are the A operand of the second product.
  /// Half the columns for fp32, whose reference tiles are twice as large.
  using Tile = TileShape<64, sizeof(Element) == 2 ? 64 : 32, 16, sizeof(Element) == 2 ? 64 : 32>;
  static constexpr int kSlices = kMaxDim / kSliceDepth<Element>;
  static constexpr int kAnchorElements = Tile::kRows * kSliceDepth<Element>;
  static constexpr int kReferenceElements = Tile::kCols * kSliceDepth<Element>;
  static_assert(kMaxDim % kSliceDepth<Element> == 0);
};

template <class Number>
struct GradientRowsArguments {
  using Real = typename Number::Real;
  PairProblem<Number> problem;
  WeightSource source;
  RowVectors<Real, kNumWeightVectors> row_vectors, col_vectors;
  const Real* weight_scale;  ///< one number, or null: 1
  int num_splits;            ///< the columns are divided among so many blocks per row tile
  typename Number::Element* gradient;  ///< [rows, d], written when num_splits is 1
  Real* split_gradients;               ///< [num_splits, rows, d], written otherwise
  double* logit_partials;              ///< [blocks, 4], or null
  // of a kernel for the tiles outside plain squares alone; in place of the gradients above
  PlainSquares plain;
  GradientSums<Number> sums;
  ProductTurn turn;
};

/// Embeddings of the block's anchors and of two tiles of references, one of which is in use while
/// the other is on its way.
template <class Number, int kMaxDim>
struct GradientRowsTiles {
  using Shape = GradientRowsShape<Number, kMaxDim>;
  using Tile = typename Shape::Tile;
  using Element = typename Number::Element;
  using Real = typename Number::Real;
  struct Sides {
    WeightSide<Number, Tile::kRows, WeightSource> rows;
    WeightSide<Number, Tile::kCols, WeightSource> cols[2];
  };
  static constexpr int kSharedBytes = round_up(int(sizeof(Sides)), 128) +
                                      Shape::kSlices *
                                          (Shape::kAnchorElements + 2 * Shape::kReferenceElements) *
                                          int(sizeof(Element));

  Sides& sides;
  Element *anchors, *references;

  FUSEDML_DEVICE explicit GradientRowsTiles(Carver& carver)
      : sides(*carver.take<Sides>(1)),
        anchors(carver.take<Element>(Shape::kSlices * Shape::kAnchorElements, 128)),
        references(carver.take<Element>(2 * Shape::kSlices * Shape::kReferenceElements, 128)) {}

  FUSEDML_DEVICE const Element* anchor_slice(int slice) const {
    return anchors + slice * Shape::kAnchorElements;
  }
  FUSEDML_DEVICE Element* reference_slice(int buffer, int slice) const {
    return references + (buffer * Shape::kSlices + slice) * Shape::kReferenceElements;
  }

  /// Starts copying the anchors; they belong to the group of copies of the first tile.
  template <class Logit>
  FUSEDML_DEVICE void start_anchors(const GradientRowsArguments<Number>& arguments,
                                    const MatrixView<Element>& view, int64_t row_begin,
                                    const Logit& logit, Real lse, Real weight_scale) const {
    sides.rows.template load<Tile::kThreads>(arguments.problem.anchors, arguments.row_vectors,
                                             row_begin, view.rows, logit, arguments.source.rows_own,
                                             lse, weight_scale);
    for (int slice = 0; slice < Shape::kSlices; ++slice)
      copy_slice<Tile::kRows, Tile::kThreads>(anchors + slice * Shape::kAnchorElements, view,
                                              row_begin, slice * kSliceDepth<Element>);
  }

  /// Starts copying a tile of references into a buffer that nobody reads any more.
  template <class Logit>
  FUSEDML_DEVICE void start_tile(const GradientRowsArguments<Number>& arguments,
                                 const MatrixView<Element>& view, const TilePosition& position,
                                 int buffer, const Logit& logit, Real lse,
                                 Real weight_scale) const {
    if (position.is_valid()) {
      const int64_t col_begin = int64_t(position.col) * Tile::kCols;
      for (int slice = 0; slice < Shape::kSlices; ++slice)
        copy_slice<Tile::kCols, Tile::kThreads>(reference_slice(buffer, slice), view, col_begin,
                                                slice * kSliceDepth<Element>);
      sides.cols[buffer].template load<Tile::kThreads>(
          arguments.problem.references, arguments.col_vectors, col_begin, view.rows, logit,
          arguments.source.cols_own, lse, weight_scale);
    }
    cp_async_commit();
  }
};

}  // namespace fusedml
