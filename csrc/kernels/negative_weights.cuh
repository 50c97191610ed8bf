#pragma once
// The weights of a warp's pairs where all of them are counted negatives, as nearly everywhere, with
// one exponential a pair:
//   w_ij = (g_i exp(z_ij - lse_i) + g_j exp(z_ij - lse_j)) dz/ds = exp(z_ij - c) (u_i + u_j) dx/ds,
//   u_i = g_i dz/dx exp(c - lse_i),
// where g = dL/dlse-, and c is the log-sum-exp of one of the tile's lines.
#include "core/pair_mask.cuh"
#include "kernels/weight_source.h"

namespace fusedml {

/// How far a log-sum-exp may be from c.  exp(z) is a part of either line's sum, so no product
/// exceeds g dz/dx; and an exponential that vanishes, below exp(-87), is of a pair that has less
/// than exp(60 - 87), 2^-38, of its line.
constexpr float kMostLseDistance = 60.f;

/// What the lines of one side of a tile bring to it, in shared memory.
template <class Number, int kLines>
struct NegativeFactors {
  using Real = typename Number::Real;
  Real common_lse;                          ///< c
  Real factor[kLines];                      ///< u, times the scale of the weights; 0 without losses
  bool is_near_common[kLines / kWarpSize];  ///< of each 32 lines, all of them

  /// By kThreads threads, each for the lines that it has loaded; the caller's next barrier
  /// publishes them.
  template <int kThreads, class Logit, class Side>
  FUSEDML_DEVICE void load(const Side& side, const Logit& logit, bool is_owner, Real lse_of_tile,
                           Real weight_scale) {
    if (threadIdx.x == 0) common_lse = lse_of_tile;
    for (int line = int(threadIdx.x); line < kLines; line += kThreads) {
      const Real distance = lse_of_tile - side.vector[kLseNegative][line];
      const bool is_near = !is_owner || std::fabs(distance) <= Real(kMostLseDistance);  // no NaN
      // the numbers of a side without losses may not overflow: inf times their zeros were NaN
      factor[line] = is_owner
                         ? side.vector[kGradLseNegative][line] *
                               (logit.scale_negative * weight_scale) * Number::exponential(distance)
                         : Real(0);
      const bool all_near = __all_sync(kFullWarp, is_near);
      if (line % kWarpSize == 0) is_near_common[line / kWarpSize] = all_near;
    }
  }

  /// Whether those of the lines [begin, begin + count) are.
  FUSEDML_DEVICE bool are_near(int begin, int count) const {
    bool all = true;
    for (int g = begin / kWarpSize; g * kWarpSize < begin + count; ++g) all &= is_near_common[g];
    return all;
  }
};

/// A side of a tile whose pairs are weighed.
template <class Number, int kLines, class Source>
struct WeightSide : SideTile<typename Number::Real, kLines, Source::kVectors> {
  using Real = typename Number::Real;
  using Vectors = RowVectors<Real, Source::kVectors>;
  NegativeFactors<Number, kLines> negatives;

  /// Lines [begin, begin + kLines) of a side, as SideTile does.
  template <int kThreads, class Logit>
  FUSEDML_DEVICE void load(const PairSide<Number>& side, const Vectors& vectors, int64_t begin,
                           int64_t active, const Logit& logit, bool is_owner, Real lse_of_tile,
                           Real weight_scale) {
    using Lines = SideTile<Real, kLines, Source::kVectors>;
    Lines::template load<kThreads, kHasSecondProduct<Logit>>(side, vectors, begin, active);
    if constexpr (!Source::kHasOneKernel && !Logit::kIsGrouped)
      negatives.template load<kThreads>(*this, logit, is_owner, lse_of_tile, weight_scale);
  }
};

/// c of a tile whose first row and column these are: of a side that has losses.
template <class Number, class Source>
FUSEDML_DEVICE typename Number::Real lse_of_tile(
    const Source& source, const RowVectors<typename Number::Real, Source::kVectors>& row_vectors,
    const RowVectors<typename Number::Real, Source::kVectors>& col_vectors, int64_t row,
    int64_t col) {
  if constexpr (Source::kHasOneKernel) {
    return 0;
  } else {
    return source.rows_own ? row_vectors.vector[kLseNegative][row]
                           : col_vectors.vector[kLseNegative][col];
  }
}

/// Whether weigh_negatives() may weigh a warp's part, if all its pairs are counted negatives.
template <class Shape, class Logit, class Rows, class Cols>
FUSEDML_DEVICE bool have_common_exponential(const Logit& logit, const Rows& rows, const Cols& cols,
                                            const ThreadMap<Shape>& map) {
  return logit.has_affine_negatives() && rows.negatives.are_near(map.warp_row, Shape::kWarpRows) &&
         cols.negatives.are_near(map.warp_col, Shape::kWarpCols);
}

/// Similarities become weights.  No branch, no mask: for dot products half a dozen instructions a
/// pair.
template <class Number, class Logit, class Shape, class Rows, class Cols>
FUSEDML_DEVICE void weigh_negatives(TileValues<typename Number::Real, Shape>& values,
                                    const Logit& logit, const Rows& rows, const Cols& cols) {
  using Real = typename Number::Real;
  const ThreadMap<Shape> map;
  const Real scale = Number::kExponentScale * logit.scale_negative;
  const Real shift = Number::kExponentScale * (logit.shift_negative - cols.negatives.common_lse);
  // column by column: row by row ptxas keeps 15 pairs' comparisons of distances at once, and packs
  // them for want of predicates, 18 instead of 15 instructions a pair
#pragma unroll
  for (int j = 0; j < Shape::kThreadCols; ++j) {
    const Real of_col = cols.negatives.factor[map.col(j)];
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i) {
      const auto pair = logit.template measure_and_slope<Number>(
          values.at(i, j), rows.squared_norm[map.row(i)], cols.squared_norm[map.col(j)]);
      values.at(i, j) = Number::exponential_of_scaled(scale * pair.x + shift) *
                        (rows.negatives.factor[map.row(i)] + of_col) * pair.slope;
    }
  }
}

}  // namespace fusedml
