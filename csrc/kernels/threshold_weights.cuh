#pragma once
// Backward, route B, first half, of sums against thresholds: w_ij = dL/ds_ij of a panel.
#include "core/thresholds.cuh"
#include "kernels/pair_weights.cuh"
#include "kernels/threshold_sweep.cuh"

namespace fusedml {

template <class Number>
struct ThresholdWeightsArguments {
  using Real = typename Number::Real;
  PairProblem<Number> problem;
  ThresholdLists<Real> lists;  ///< of the anchors if they own the sums, or of the references
  PairSide<Number> others;     ///< the owners' further embeddings, if they have some
  bool rows_own, cols_own;
  const Real* weight_scale;  ///< one number, or null: 1
  WeightPanel<Number> panel;
};

template <class Number, class Logit>
struct ThresholdWeightsShared {
  using Real = typename Number::Real;
  Logit logit;
  ThresholdLists<Real> lists;
  SideTile<Real, SmallTile::kRows, 0> rows;
  SideTile<Real, SmallTile::kCols, 0> cols;
};

template <class Number, class Logit, bool kHasOthers>
constexpr int kThresholdWeightsSharedBytes =
    round_up(int(sizeof(ThresholdWeightsShared<Number, Logit>)), 128) +
    (kHasOthers ? 2 : 1) * SimilarityStream<Number, SmallTile>::kSharedBytes;

/// What a pair's own measure takes of the weight, if the harder of two counts.
template <class Real>
FUSEDML_DEVICE Real share_of_harder(Real y, Real other) {
  return y > other ? Real(1) : y < other ? Real(0) : Real(0.5);
}

/// kHasOthers: the weights of the problem's own embeddings, of whose rows or columns, not both, are
/// the sums; those of the others are the same with both exchanged.
template <class Number, class Logit, bool kHasOthers>
__global__ void __launch_bounds__(SmallTile::kThreads, 1)
    threshold_weights_kernel(ThresholdWeightsArguments<Number> arguments) {
  using Real = typename Number::Real;
  using Shape = SmallTile;
  using Shared = ThresholdWeightsShared<Number, Logit>;
  const auto& problem = arguments.problem;
  const auto& panel = arguments.panel;
  const auto anchors = problem.anchors.active(), references = problem.references.active();
  const int64_t row = int64_t(blockIdx.y) * Shape::kRows, col = int64_t(blockIdx.x) * Shape::kCols;
  const TilePlace place{panel.row_begin + row, panel.col_begin + col, anchors.rows, references.rows,
                        problem.excluded};
  if (place.row_begin >= anchors.rows || place.col_begin >= references.rows) return;
  const int tile_row = int(place.row_begin / Shape::kRows);
  const int tile_col = int(place.col_begin / Shape::kCols);
  const TileSequence tiles{tile_row, tile_row + 1, tile_col, tile_col + 1};

  Carver carver;
  Shared& shared = *carver.take<Shared>(1);
  if (threadIdx.x == 0) {
    shared.logit = Logit(problem.logit, problem.is_second_kind);
    shared.lists = arguments.lists;
  }
  shared.rows.template load<Shape::kThreads>(problem.anchors, {}, place.row_begin, anchors.rows);
  shared.cols.template load<Shape::kThreads>(problem.references, {}, place.col_begin,
                                             references.rows);
  SimilarityStream<Number, Shape> stream(carver, anchors, references, tiles);
  TileValues<Real, Shape> values;
  const bool others_are_rows = arguments.rows_own;
  [[maybe_unused]] auto other = other_stream<kHasOthers, Number, Shape>(
      carver, others_are_rows ? arguments.others.embeddings : anchors,
      others_are_rows ? references : arguments.others.embeddings, tiles);
  stream.compute(values);  // its barriers also publish what lies in shared
  [[maybe_unused]] TileValues<Real, Shape> of_others;
  if constexpr (kHasOthers) other.compute(of_others);

  const ThreadMap<Shape> map(fresh_thread_index());
  const Real weight_scale = arguments.weight_scale ? *arguments.weight_scale : Real(1);
  const uint64_t positive = alike_pairs<Shape>(problem, place, shared.rows, shared.cols, map);
  const bool takes_positives = shared.lists.form == ThresholdForm::kPulse;
  const uint64_t counted =
      existing_pairs(place, map) & (takes_positives ? ~uint64_t(0) : ~positive);
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const uint64_t bit = PairBits<Shape>::bit(i, j);
      Real weight = 0;  // a pair that does not count weighs exactly nothing
      if (counted & bit) {
        const Real x = shared.logit.measure(values.at(i, j), shared.rows.squared_norm[map.row(i)],
                                            shared.cols.squared_norm[map.col(j)]);
        const Real y = shared.lists.hardness(x);
        Real share = 1;
        if constexpr (kHasOthers) {
          const Real row_norm = others_are_rows
                                    ? arguments.others.squared_norm(place.row_begin + map.row(i))
                                    : shared.rows.squared_norm[map.row(i)];
          const Real col_norm = others_are_rows
                                    ? shared.cols.squared_norm[map.col(j)]
                                    : arguments.others.squared_norm(place.col_begin + map.col(j));
          share = share_of_harder(y, shared.lists.hardness(shared.logit.measure(
                                         of_others.at(i, j), row_norm, col_norm)));
        }
        if (arguments.rows_own)
          weight += threshold_weight(&shared.lists, place.row_begin + map.row(i), y,
                                     bool(positive & bit));
        if (arguments.cols_own)
          weight += threshold_weight(&shared.lists, place.col_begin + map.col(j), y,
                                     bool(positive & bit));
        weight *= share * (weight_scale / shared.lists.unit * shared.logit.slope(x));
      }
      values.at(i, j) = weight;
    }
  __syncwarp();  // the lanes have parted
  store_weights<Number>(values, panel, row, col);
}

}  // namespace fusedml
