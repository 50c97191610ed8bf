#pragma once
// Which of a thread's pairs are positive, negative or ignored: one bit per pair.
#include "core/side_tile.cuh"
#include "core/tile.cuh"

namespace fusedml {

/// Where a tile lies, and what bounds its pairs.
struct TilePlace {
  int64_t row_begin, col_begin;      ///< first anchor and reference of the tile
  int64_t active_rows, active_cols;  ///< anchors and references that take part
  ExcludedDiagonals excluded;
};

/// One bit per pair of a thread: bit i * kThreadCols + j stands for its i-th row and j-th column.
template <class Shape>
struct PairBits {
  static_assert(Shape::kThreadRows * Shape::kThreadCols <= 64, "one bit per pair");

  static FUSEDML_DEVICE constexpr uint64_t bit(int i, int j) {
    return uint64_t(1) << (i * Shape::kThreadCols + j);
  }
  static FUSEDML_DEVICE constexpr uint64_t row(int i) {
    constexpr uint64_t kRow =
        Shape::kThreadCols == 64 ? ~uint64_t(0) : (uint64_t(1) << Shape::kThreadCols) - 1;
    return kRow << (i * Shape::kThreadCols);
  }
  static FUSEDML_DEVICE constexpr uint64_t col(int j) {
    uint64_t bits = 0;
    for (int i = 0; i < Shape::kThreadRows; ++i) bits |= bit(i, j);
    return bits;
  }
};

/// Whether no pair of the tile lies outside or on an excluded diagonal.
template <class Shape>
FUSEDML_DEVICE bool all_pairs_exist(const TilePlace& place) {
  const bool is_inside = place.row_begin + Shape::kRows <= place.active_rows &&
                         place.col_begin + Shape::kCols <= place.active_cols;
  return is_inside &&
         !place.excluded.cross(place.row_begin, Shape::kRows, place.col_begin, Shape::kCols);
}

/// All pairs that exist and are not on an excluded diagonal.
template <class Shape>
FUSEDML_DEVICE uint64_t existing_pairs(const TilePlace& place, const ThreadMap<Shape>& map) {
  using Bits = PairBits<Shape>;
  if (all_pairs_exist<Shape>(place)) return ~uint64_t(0);
  uint64_t existing = 0;
#pragma unroll 1  // few tiles come here: small code
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll 1
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const int64_t row = place.row_begin + map.row(i), col = place.col_begin + map.col(j);
      const bool exists =
          row < place.active_rows && col < place.active_cols && !place.excluded.hold(row, col);
      if (exists) existing |= Bits::bit(i, j);
    }
  return existing;
}

/// Pairs with equal labels.  Where the label ranges of the warp's rows and columns cannot meet, no
/// label is compared.
template <class Shape, class Rows, class Cols>
FUSEDML_DEVICE uint64_t equal_labels(const Rows& rows, const Cols& cols,
                                     const ThreadMap<Shape>& map) {
  if (!rows.may_meet(map.warp_row, Shape::kWarpRows, cols, map.warp_col, Shape::kWarpCols))
    return 0;
  uint64_t equal = 0;
#pragma unroll 1  // no accumulators are read: small code instead of 64 copies
  for (int i = 0; i < Shape::kThreadRows; ++i) {
    const int64_t label = rows.label[map.row(i)];
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j)
      if (cols.label[map.col(j)] == label) equal |= PairBits<Shape>::bit(i, j);
  }
  return equal;
}

/// Pairs of sets that have a member in common.  Their words are read from global memory, those of a
/// tile lie in the first-level cache: kept beside the labels they took registers of the main loop,
/// as did a loop over words around that over pairs.
template <class Shape, class Number>
FUSEDML_DEVICE uint64_t meeting_sets(const PairProblem<Number>& problem, const TilePlace& place,
                                     const ThreadMap<Shape>& map) {
  uint64_t met = 0;
#pragma unroll 1
  for (int pair = 0; pair < Shape::kThreadRows * Shape::kThreadCols; ++pair) {
    const int64_t row = place.row_begin + map.row(pair / Shape::kThreadCols);
    const int64_t col = place.col_begin + map.col(pair % Shape::kThreadCols);
    if (row >= place.active_rows || col >= place.active_cols) continue;
#pragma unroll 1
    for (int word = 0; word < problem.anchors.set_words; ++word)
      if (problem.anchors.word_of_set(word, row) & problem.references.word_of_set(word, col)) {
        met |= uint64_t(1) << pair;
        break;
      }
  }
  return met;
}

/// Pairs that labels make positive: equal labels, or sets that meet, where they may be sets.
template <class Shape, bool kMayBeSets = true, class Number, class Rows, class Cols>
FUSEDML_DEVICE uint64_t alike_pairs(const PairProblem<Number>& problem, const TilePlace& place,
                                    const Rows& rows, const Cols& cols,
                                    const ThreadMap<Shape>& map) {
  if constexpr (kMayBeSets)
    if (problem.anchors.set_words > 0) return meeting_sets<Shape>(problem, place, map);
  return equal_labels<Shape>(rows, cols, map);
}

/// The part of the pairs that the mining rule of each row (kOfRows) or column keeps.
template <bool kOfRows, class Logit, class Real, class Shape, class Side>
FUSEDML_DEVICE uint64_t mined_pairs(const Logit& logit, const TileValues<Real, Shape>& measures,
                                    uint64_t positive, const Side& side,
                                    const ThreadMap<Shape>& map) {
  using Bits = PairBits<Shape>;
  uint64_t kept = 0;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const int line = kOfRows ? map.row(i) : map.col(j);
      const Real hardness = logit.hardness(measures.at(i, j));
      // negated comparisons keep a NaN, which has to reach the statistics
      const bool keep = positive & Bits::bit(i, j) ? !(hardness >= side.threshold_positive[line])
                                                   : !(hardness <= side.threshold_negative[line]);
      if (keep) kept |= Bits::bit(i, j);
    }
  return kept;
}

}  // namespace fusedml
