#pragma once
// Backward, route B, first half: one tile of pair weights per block, written to a panel in global
// memory that is small enough to stay in the L2 cache until the product has read it.
#include <algorithm>

#include "kernels/divergence_weights.cuh"
#include "kernels/pair_weight.cuh"
#include "kernels/sweep_block.cuh"
#include "logits/any_measure.h"
#include "logits/grouped.h"

namespace fusedml {

/// Weights of the pairs [row_begin, + rows) x [col_begin, + cols), row-major.  `rows` and `cols`
/// are multiples of the large tile.  Pairs that do not exist weigh zero.
template <class Number>
struct WeightPanel {
  typename Number::PanelElement* weights;  ///< [rows, cols]
  int64_t row_begin, col_begin;
  int64_t rows, cols;
};

template <class Number, class Source>
struct PairWeightsArguments {
  using Real = typename Number::Real;
  PairProblem<Number> problem;
  Source source;
  RowVectors<Real, Source::kVectors> row_vectors, col_vectors;
  const Real* weight_scale;  ///< one number, or null: 1
  WeightPanel<Number> panel;
  double* logit_partials;  ///< [blocks of all panels, 4], or null
  PlainSquares plain;      ///< whose tiles other kernels fill, of a kernel for the others alone
};

/// Where a column of weights lies in the panel.  The A fragment of a tf32 product holds depths t
/// and t + 4; they stand for columns 2 t and 2 t + 1 (load_embedding_fragments).
template <class Number>
FUSEDML_HOST_DEVICE int panel_column(int col) {
  if constexpr (Number::kProductDepth != 8) return col;
  return col / 8 * 8 + col % 2 * 4 + col % 8 / 2;
}

/// The column that lies there.
template <class Number>
FUSEDML_DEVICE int column_in_panel(int position) {
  if constexpr (Number::kProductDepth != 8) return position;
  return position / 8 * 8 + position % 4 * 2 + position % 8 / 4;
}

template <class Number, class Shape>
FUSEDML_DEVICE void store_weights(const TileValues<typename Number::Real, Shape>& values,
                                  const WeightPanel<Number>& panel, int64_t row, int64_t col) {
  const ThreadMap<Shape> map;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i) {
    auto* line = panel.weights + (row + map.row(i)) * panel.cols + col;
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; j += 2) {
      if constexpr (Number::kProductDepth == 16) {
        // two neighbours in one store; map.col(j) is even
        *reinterpret_cast<uint32_t*>(line + map.col(j)) =
            Number::pack(values.at(i, j), values.at(i, j + 1));
      } else {
        line[panel_column<Number>(map.col(j))] = values.at(i, j);
        line[panel_column<Number>(map.col(j + 1))] = values.at(i, j + 1);
      }
    }
  }
}

/// Two blocks share a multiprocessor where 128 registers suffice (without spills: ptxas): while one
/// is in its epilogue, the other keeps the tensor cores busy.
template <class Number, class Logit>
constexpr int kPairWeightsBlocks = Number::kProductDepth == 16 && !Logit::kIsGrouped ? 2 : 1;

/// The tile of its blocks, unless a small one is wanted.
template <class Number, class Logit>
struct WeightsTile {
  using Shape = SweepShapeOf<Number>;
};
template <class Number, class Real, bool kOfRows>
struct WeightsTile<Number, GroupedLogit<Real, kOfRows>> {
  using Shape = GroupTile<kOfRows>;
};
template <class Number, class Real>
struct WeightsTile<Number, AnyMeasureLogit<Real>> {
  using Shape = SmallTile;  // of all problems: one kernel
};
template <class Number, class Real>
struct WeightsTile<Number, TwoProductLogits<Real>> {
  using Shape = SmallTile;  // the registers hold two
};

/// The sides of a panel are multiples of this: of the tiles of both kernels.
template <class Number, class Logit>
constexpr int64_t kPanelTile =
    std::max<int64_t>(WeightsTile<Number, Logit>::Shape::kRows, SweepShapeOf<Number>::kRows);

template <class Number, class Logit, class Shape, class Source>
constexpr size_t kPairWeightsSharedBytes =
    round_up(sizeof(WeightSide<Number, Shape::kRows, Source>), size_t(16)) +
    round_up(sizeof(WeightSide<Number, Shape::kCols, Source>), size_t(128)) + 128 +
    SimilarityStream<Number, Shape>::kSharedBytes +
    SecondStream<Number, Logit, Shape>::kSharedBytes;

/// kIsSpecial: only the tiles outside plain squares.
template <class Number, class Logit, class Shape, class Source, bool kIsSpecial = false>
__global__ void __launch_bounds__(Shape::kThreads, kPairWeightsBlocks<Number, Logit>)
    pair_weights_kernel(PairWeightsArguments<Number, Source> arguments) {
  using Real = typename Number::Real;
  using Rows = WeightSide<Number, Shape::kRows, Source>;
  using Cols = WeightSide<Number, Shape::kCols, Source>;
  const auto& problem = arguments.problem;
  const auto& panel = arguments.panel;
  const Logit logit(problem.logit, problem.is_second_kind);
  const auto anchors = problem.anchors.active(), references = problem.references.active();
  const Real weight_scale = arguments.weight_scale ? *arguments.weight_scale : Real(1);

  const int64_t row = int64_t(blockIdx.y) * Shape::kRows, col = int64_t(blockIdx.x) * Shape::kCols;
  const int64_t row_begin = panel.row_begin + row, col_begin = panel.col_begin + col;
  if constexpr (kIsSpecial)
    if (arguments.plain.holds(row_begin, col_begin, plain_scale<Number>(problem.logit))) return;
  const int tile_row = int(row_begin / Shape::kRows), tile_col = int(col_begin / Shape::kCols);
  const TileSequence tiles{tile_row, tile_row + 1, tile_col, tile_col + 1};

  LogitGradient<Real> logit_gradient;
  TileValues<Real, Shape> values;
  if (row_begin < anchors.rows && col_begin < references.rows) {
    Carver carver;
    Rows& rows = *carver.take<Rows>(1);
    Cols& cols = *carver.take<Cols>(1);
    const auto& source = arguments.source;
    const Real lse = lse_of_tile<Number>(source, arguments.row_vectors, arguments.col_vectors,
                                         row_begin, col_begin);
    rows.template load<Shape::kThreads>(problem.anchors, arguments.row_vectors, row_begin,
                                        anchors.rows, logit, source.rows_own, lse, weight_scale);
    cols.template load<Shape::kThreads>(problem.references, arguments.col_vectors, col_begin,
                                        references.rows, logit, source.cols_own, lse, weight_scale);
    SimilarityStream<Number, Shape> stream(carver, anchors, references, tiles);
    [[maybe_unused]] auto second =
        second_stream<Number, Logit, Shape>(carver, arguments.source, tiles);
    stream.compute(values);  // its barriers also publish rows and cols
    const TilePlace place{row_begin, col_begin, anchors.rows, references.rows, problem.excluded};
    const bool wants_logit = arguments.logit_partials != nullptr;
    if constexpr (kHasSecondProduct<Logit>) {
      TileValues<Real, Shape> others;
      second.compute(others);
      to_divergence_weights<Number>(values, others, problem.anchors.labels != nullptr, logit,
                                    arguments.source, place, rows, cols, weight_scale, wants_logit,
                                    logit_gradient);
    } else {
      to_weights<Number>(values, problem, logit, arguments.source, place, rows, cols, weight_scale,
                         wants_logit, logit_gradient);
    }
  } else {  // the product may read it beside a tile of pairs, for rows that take no part
    values.clear();
  }
  store_weights<Number>(values, panel, row, col);
  if (arguments.logit_partials != nullptr) {
    const int64_t block = int64_t(blockIdx.y) * gridDim.x + blockIdx.x;
    store_logit_gradient<Shape::kThreads>(logit_gradient, arguments.logit_partials + 4 * block);
  }
}

}  // namespace fusedml
