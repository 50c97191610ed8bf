#pragma once
// Which squares of pairs are plain: all pairs exist and are ordinary negatives, with exponentials
// that can be added up.  The kernels on Hopper's instructions take those, the others take the rest.
#include <cmath>

#include "core/platform.h"

namespace fusedml {

/// Of some neighbouring rows, before any similarity is computed.
struct RowRange {
  int64_t smallest_label, largest_label;
  float largest_norm;  ///< inf if an embedding is not finite
};

/// Exponentials are relative to the logit of x = 0: of at most 2^100 any number can be added up,
/// and of at least 2^-100 they keep their bits.
constexpr float kMostPlainExponent = 100.f;

/// Whether no pair of rows in `a` and `b` is positive, and all exponents are small:
/// |scale x| <= |scale| |a_i| |r_j|, in units of log 2.  The same of (b, a), to the bit.
FUSEDML_HOST_DEVICE bool all_plain(const RowRange& a, const RowRange& b, float scale) {
  const bool may_be_positive =
      a.smallest_label <= b.largest_label && b.smallest_label <= a.largest_label;
  return !may_be_positive &&
         std::fabs(scale) * (a.largest_norm * b.largest_norm) <= kMostPlainExponent;
}

/// The squares of a problem of rows x cols pairs.  Those on the diagonal of a self problem are not
/// plain: their labels meet.
struct PlainSquares {
  const RowRange* row_ranges = nullptr;  ///< of every side() rows, or null: no square is plain
  const RowRange* col_ranges = nullptr;  ///< of the columns
  int64_t rows = 0, cols = 0;
  int side_bits = 0;

  FUSEDML_HOST_DEVICE int64_t side() const { return int64_t(1) << side_bits; }

  /// Of the square that holds a pair.  scale: plain_scale() of the problem.
  FUSEDML_HOST_DEVICE bool holds(int64_t row, int64_t col, float scale) const {
    if (row_ranges == nullptr) return false;
    const int64_t i = row >> side_bits, j = col >> side_bits;
    const bool exists = (i + 1) << side_bits <= rows && (j + 1) << side_bits <= cols;
    return exists && all_plain(row_ranges[i], col_ranges[j], scale);
  }
};

/// Number of squares along a side of so many lines, the last of which may be cut.
inline int64_t num_squares(int64_t lines, int side_bits) {
  return ceil_div(lines, int64_t(1) << side_bits);
}

}  // namespace fusedml
