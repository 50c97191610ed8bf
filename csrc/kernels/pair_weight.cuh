#pragma once
// The weight of a pair in the backward: w_ij = dL/ds_ij.
#include "core/group_values.cuh"
#include "core/similarity.cuh"
#include "kernels/logit_gradient.cuh"
#include "kernels/negative_weights.cuh"

namespace fusedml {

/// A side's vectors of one row or column.
template <class Side>
struct WeightRow {
  const Side& side;
  int index;
  FUSEDML_DEVICE auto operator[](int vector) const { return side.vector[vector][index]; }
};

/// dL/dz_ij of a negative, for the part of the loss that `own` (the row i, or the column j) owns:
///   dL/dlse- exp(z - lse-)
template <class Number, class Own>
FUSEDML_DEVICE typename Number::Real negative_gradient(const Own& own,
                                                       typename Number::Real logit) {
  return own[kGradLseNegative] * Number::exponential(logit - own[kLseNegative]);
}

/// The same of a positive:  dL/dlse+ exp(z - lse+) + dL/dsum+,  or, for a loss of positive pairs,
/// row_grad dv/dz(z, lse_own, lse_other).  Not inlined: positives are rare, and the unrolled
/// epilogues would hold a copy per pair.
template <class Number, class Own, class Other>
__device__ __attribute__((noinline)) typename Number::Real positive_gradient(
    WeightSource source, Own own, Other other, typename Number::Real logit) {
  if (source.is_pair_head)
    return own[kPairRowGrad] *
           positive_pair_loss(source.head, logit, own[kPairLse], other[kPairLse]).d_logit;
  return own[kGradLsePositive] * Number::exponential(logit - own[kLsePositive]) +
         own[kGradSumPositive];
}

/// dL/dz_ij of a loss of sums, for the part that `own` owns:  sum_k dL/dF_k f_k'(z + shift)
template <bool kPositive, class Number, class Own>
FUSEDML_DEVICE typename Number::Real term_gradient(const LineTerms<typename Number::Real>& terms,
                                                   const Own& own, typename Number::Real logit) {
  constexpr int kKind = kind_index(kPositive);
  const typename Number::Real z = logit + own[kShift + kKind];
  typename Number::Real gradient = 0;
#pragma unroll 1  // or the code were as many times as long
  for (int j = 0; j < terms.count[kKind]; ++j)
    gradient += own[kGradTerm + kMostTermsOfKind * kKind + j] *
                terms.get(kKind, j).evaluate(z, false, true, TermFunctions<Number>()).slope;
  return gradient;
}

/// dL/ds of one pair of measure x, times `weight_scale`: what its row, its column or both make of
/// it, for which it counts.
template <bool kPositive, class Number, class Logit, class Source, class Row, class Col>
FUSEDML_DEVICE typename Number::Real weigh_pair(
    typename Number::Real x, bool counts_for_row, bool counts_for_col, const Row& row,
    const Col& col, const Logit& logit, const Source& source, typename Number::Real weight_scale,
    bool wants_logit, LogitGradient<typename Number::Real>& logit_gradient) {
  using Real = typename Number::Real;
  const Real z = logit.logit(kPositive, x);
  const auto gradient = [&](const auto& own, const auto& other) {
    if constexpr (Source::kIsOfTerms) {
      return term_gradient<kPositive, Number>(source.terms, own, z);
    } else if constexpr (!kPositive) {
      return negative_gradient<Number>(own, z);
    } else if constexpr (Logit::kIsGrouped) {  // the one positive of a row is its sum alone
      return own[kGradSumPositive];
    } else {
      return positive_gradient<Number>(source, own, other, z);
    }
  };
  const Real of_row = counts_for_row ? gradient(row, col) : Real(0);
  const Real of_col = counts_for_col ? gradient(col, row) : Real(0);
  if (wants_logit) {
    // in a self problem the transposed pair, if it is visited, adds the column's term
    const Real d_logit = source.is_halved ? of_row + of_col : source.rows_own ? of_row : of_col;
    logit_gradient.template add<kPositive>(d_logit, logit.terms(kPositive, x));
  }
  return (of_row + of_col) * (logit.logit_slope(kPositive, x) * weight_scale) * logit.slope(x);
}

/// Measures of `of_rows` and `of_cols`, all positive or all negative, become weights.
template <bool kPositive, class Number, class Logit, class Source, class Shape, class Rows,
          class Cols>
FUSEDML_DEVICE void weigh(TileValues<typename Number::Real, Shape>& values, uint64_t of_rows,
                          uint64_t of_cols, const Logit& logit, const Source& source,
                          const Rows& rows, const Cols& cols, typename Number::Real weight_scale,
                          bool wants_logit, LogitGradient<typename Number::Real>& logit_gradient) {
  const ThreadMap<Shape> map;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const uint64_t bit = PairBits<Shape>::bit(i, j);
      if (!((of_rows | of_cols) & bit)) continue;
      const WeightRow<Rows> row{rows, map.row(i)};
      const WeightRow<Cols> col{cols, map.col(j)};
      values.at(i, j) =
          weigh_pair<kPositive, Number>(values.at(i, j), of_rows & bit, of_cols & bit, row, col,
                                        logit, source, weight_scale, wants_logit, logit_gradient);
    }
}

/// Measures with the vectors of classes become weights; `of_rows` and `of_cols` are pairs that
/// stand for a class, those with its last vector.
template <class Number, class Logit, class Shape, class Rows, class Cols>
FUSEDML_DEVICE void weigh_groups(TileValues<typename Number::Real, Shape>& values, uint64_t of_rows,
                                 uint64_t of_cols, uint64_t positive, const Logit& logit,
                                 const WeightSource& source, const Rows& rows, const Cols& cols,
                                 typename Number::Real weight_scale, bool wants_logit,
                                 LogitGradient<typename Number::Real>& logit_gradient) {
  using Real = typename Number::Real;
  using Axis = GroupAxis<Shape, Logit::kOfRows>;
  const ThreadMap<Shape> map;
#pragma unroll
  for (int line = 0; line < Axis::kLines; ++line) {
    GroupLine<Number> group;
    group.template load<Shape, Logit::kOfRows>(values, line);
    group.reduce(logit);
    group.spread(logit, [&](int item, Real s) {
      const int i = Axis::row(line, item), j = Axis::col(line, item);
      const uint64_t bit = PairBits<Shape>::bit(i, j);
      if (!((of_rows | of_cols) & bit)) return Real(0);
      const WeightRow<Rows> row{rows, map.row(i)};
      const WeightRow<Cols> col{cols, map.col(j)};
      const auto weight = [&](auto is_positive) {
        return weigh_pair<decltype(is_positive)::value, Number>(
            s, of_rows & bit, of_cols & bit, row, col, logit, source, weight_scale, wants_logit,
            logit_gradient);
      };
      return positive & bit ? weight(std::true_type()) : weight(std::false_type());
    });
#pragma unroll
    for (int item = 0; item < Axis::kItems; ++item)
      values.at(Axis::row(line, item), Axis::col(line, item)) = group.y[item];
  }
}

/// Turns a tile of similarities into the weights w_ij, times `weight_scale`.
template <class Number, class Logit, class Source, class Shape, class Rows, class Cols>
FUSEDML_DEVICE void to_weights(TileValues<typename Number::Real, Shape>& values,
                               const PairProblem<Number>& problem, const Logit& logit,
                               const Source& source, const TilePlace& place, const Rows& rows,
                               const Cols& cols, typename Number::Real weight_scale,
                               bool wants_logit,
                               LogitGradient<typename Number::Real>& logit_gradient) {
  using Real = typename Number::Real;
  const ThreadMap<Shape> map;
  const uint64_t positive = alike_pairs<Shape, !Logit::kIsGrouped>(problem, place, rows, cols, map);
  const bool has_positives = __any_sync(kFullWarp, positive != 0);
  const bool is_mined =
      problem.anchors.thresholds != nullptr || problem.references.thresholds != nullptr;
  if constexpr (!Logit::kIsGrouped && !Source::kIsOfTerms)
    if (!has_positives && !is_mined && !wants_logit && all_pairs_exist<Shape>(place) &&
        have_common_exponential<Shape>(logit, rows, cols, map)) {
      weigh_negatives<Number>(values, logit, rows, cols);
      return;
    }

#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j)
      values.at(i, j) = logit.measure(values.at(i, j), rows.squared_norm[map.row(i)],
                                      cols.squared_norm[map.col(j)]);
  uint64_t counted = existing_pairs(place, map);
  if constexpr (Logit::kIsGrouped) counted &= pairs_of_groups(logit, rows, cols, map);
  uint64_t of_rows = source.rows_own ? counted : 0, of_cols = source.cols_own ? counted : 0;
  if (source.rows_own && problem.anchors.thresholds != nullptr)
    of_rows &= mined_pairs<true>(logit, values, positive, rows, map);
  if (source.cols_own && problem.references.thresholds != nullptr)
    of_cols &= mined_pairs<false>(logit, values, positive, cols, map);

  if constexpr (Logit::kIsGrouped) {
    weigh_groups<Number>(values, of_rows, of_cols, positive, logit, source, rows, cols,
                         weight_scale, wants_logit, logit_gradient);
  } else {
    // an ignored pair weighs exactly nothing, also where its x is not finite
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j)
        if (!((of_rows | of_cols) & PairBits<Shape>::bit(i, j))) values.at(i, j) = Real(0);

    weigh<false, Number>(values, of_rows & ~positive, of_cols & ~positive, logit, source, rows,
                         cols, weight_scale, wants_logit, logit_gradient);
    if (has_positives)
      weigh<true, Number>(values, of_rows & positive, of_cols & positive, logit, source, rows, cols,
                          weight_scale, wants_logit, logit_gradient);
  }
  __syncwarp();  // the lanes have parted, and the next instructions on matrices want all of them
}

}  // namespace fusedml
