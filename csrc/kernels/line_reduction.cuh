#pragma once
// Reductions over the rows, and over the columns, of a tile that lies in the registers of a block.
#include "core/pair_mask.cuh"

namespace fusedml {

/// The lanes of a warp that hold pairs of the same row (neighbours), or of the same column.
template <bool kOfRows>
struct LineLanes {
  static constexpr bool kIsOfRows = kOfRows;

  template <class T, class Combine>
  static FUSEDML_DEVICE T combine(T value, Combine combine_two) {
    constexpr int kFirst = kOfRows ? 1 : 4, kLast = kOfRows ? 2 : 16;
#pragma unroll
    for (int mask = kFirst; mask <= kLast; mask *= 2)
      value = combine_two(value, shuffle_xor(value, mask));
    return value;
  }
  template <class Real>
  static FUSEDML_DEVICE Real max(Real value) {
    return combine(value, [](Real a, Real b) { return a > b ? a : b; });
  }
  template <class Real>
  static FUSEDML_DEVICE Real sum(Real value) {
    return combine(value, [](Real a, Real b) { return a + b; });
  }
};

/// One pair of a tile, as a Reduction sees it.
template <class Real>
struct TilePair {
  Real value;
  bool is_counted;
  int row, col;  ///< in the tile

  /// Its place among the lines, the rows (kOfRows) or the columns.
  template <bool kOfRows>
  FUSEDML_DEVICE int line() const {
    return kOfRows ? row : col;
  }
};

/// What a Reduction has at hand beside the pairs.
template <class Shared, class Parameters>
struct SweepContext {
  const Shared& shared;
  const Parameters& parameters;
  int64_t row_begin, col_begin;  ///< first anchor and reference of the tile

  /// The number of a pair in its line: of the reference, or of the anchor that a column meets.
  template <bool kOfRows, class Real>
  FUSEDML_DEVICE int64_t place_in_line(const TilePair<Real>& pair) const {
    return kOfRows ? col_begin + pair.col : row_begin + pair.row;
  }

  /// What is known of the lines, the rows (kOfRows) or the columns.
  template <bool kOfRows>
  FUSEDML_DEVICE const auto& lines() const {
    if constexpr (kOfRows) {
      return shared.rows;
    } else {
      return shared.cols;
    }
  }
};

/// Reduces the warp's part of every row (kOfRows) or column over `pairs`, which are either all
/// positive or all negative, into `partials`.  The negatives come first and also reset the partial.
template <bool kOfRows, bool kPositive, class Reduction, class Context, class Real, class Shape,
          class Partial, int kLines>
FUSEDML_DEVICE void reduce_lines(const Context& context, const TileValues<Real, Shape>& values,
                                 uint64_t pairs, const ThreadMap<Shape>& map,
                                 Partial (&partials)[kLines]) {
  using Bits = PairBits<Shape>;
  constexpr int kThreadLines = kOfRows ? Shape::kThreadRows : Shape::kThreadCols;
  constexpr int kItems = kOfRows ? Shape::kThreadCols : Shape::kThreadRows;
  const bool is_leader = kOfRows ? map.lane_col == 0 : map.lane_row == 0;
#pragma unroll
  for (int line = 0; line < kThreadLines; ++line) {
    const auto pair_at = [&](int item) {
      const int i = kOfRows ? line : item, j = kOfRows ? item : line;
      return TilePair<Real>{values.at(i, j), bool(pairs & Bits::bit(i, j)), map.row(i), map.col(j)};
    };
    const int count = __popcll(pairs & (kOfRows ? Bits::row(line) : Bits::col(line)));
    const auto reduced =
        Reduction::template reduce<LineLanes<kOfRows>, kPositive, kItems>(context, pair_at, count);
    if (is_leader)
      Reduction::template store<kPositive>(reduced,
                                           partials[kOfRows ? map.row(line) : map.col(line)]);
  }
}

}  // namespace fusedml
