#pragma once
// The problem as the kernels see it: two sides of embeddings and labels, and what a pair is.
#include "core/tile_sequence.h"

namespace fusedml {

enum class PairKind { kIgnored, kPositive, kNegative };

/// A row-major matrix [rows, dim] in global memory.
template <class Element>
struct MatrixView {
  /// Width of an asynchronous copy where rows do not begin at multiples of 16 bytes.
  static constexpr int kNarrowCopy = sizeof(Element) == 8 ? 8 : 4;

  const Element* data;
  int64_t rows;
  int dim;
  int copy_bytes;  ///< every row begins at a multiple of this: 16, kNarrowCopy, or 2

  /// The widest copies that `data` and `dim` allow.
  static MatrixView of(const Element* data, int64_t rows, int64_t dim) {
    const uint64_t address = reinterpret_cast<uintptr_t>(data);
    const uint64_t bits = address | (uint64_t(dim) * sizeof(Element));
    const int narrow = bits % kNarrowCopy == 0 ? kNarrowCopy : int(sizeof(Element));
    return {data, rows, int(dim), bits % 16 == 0 ? 16 : narrow};
  }
};

/// Either the anchors or the references.
template <class Number>
struct PairSide {
  using Real = typename Number::Real;

  MatrixView<typename Number::Element> embeddings;
  const int64_t* labels;        ///< [rows], or [max(1, set_words), rows]
  const Real* squared_norms;    ///< [rows], only where the measure needs them, else null
  const int64_t* extent;        ///< one number: rows from it on take no part; null: all do
  const Real* thresholds;       ///< [2, rows], hardness below / above which a pair counts, or null
  const int64_t* label_ranges;  ///< [rows / LabelRanges::kRowsPerRange, 2], or null
  int set_words;                ///< words of a label that is a set; 0: it is a number

  FUSEDML_DEVICE Real squared_norm(int64_t row) const {
    return squared_norms != nullptr && row < embeddings.rows ? squared_norms[row] : Real(0);
  }

  /// The embeddings that take part: rows beyond the extent read as zero, whatever they hold.
  FUSEDML_DEVICE MatrixView<typename Number::Element> active() const {
    MatrixView<typename Number::Element> view = embeddings;
    if (extent != nullptr && *extent < view.rows) view.rows = *extent;
    return view;
  }

  /// Of the set of a row, 64 classes.
  FUSEDML_DEVICE int64_t word_of_set(int word, int64_t row) const {
    return labels[word * embeddings.rows + row];
  }

  /// Label ranges of tiles of kRows rows.
  template <int kRows>
  FUSEDML_HOST_DEVICE LabelRanges tile_label_ranges() const {
    static_assert(kRows % LabelRanges::kRowsPerRange == 0);
    return {label_ranges, ceil_div(embeddings.rows, int64_t(LabelRanges::kRowsPerRange)),
            kRows / LabelRanges::kRowsPerRange};
  }
};

/// Of problems whose references are several vectors of each class.
struct GroupParameters {
  int size;              ///< vectors of a class
  const double* device;  ///< one number, the sharpness, or null: then `sharpness` holds
  double sharpness;

  FUSEDML_DEVICE double get_sharpness() const { return device ? *device : sharpness; }
};

/// Pairs that are ignored: those whose column is the row plus one of two numbers.
struct ExcludedDiagonals {
  static constexpr int64_t kNone = INT64_MAX / 2;

  int64_t first = kNone, second = kNone;

  /// Column (row + offset) modulo `num_cols` of each row, 0 <= offset < num_cols.
  static ExcludedDiagonals of(int64_t offset, int64_t num_cols) {
    return {offset, offset == 0 ? kNone : offset - num_cols};
  }
  /// The same pairs of a problem with exchanged sides.
  ExcludedDiagonals swapped() const { return {-first, -second}; }

  FUSEDML_DEVICE bool hold(int64_t row, int64_t col) const {
    return col - row == first || col - row == second;
  }
  /// Whether they meet the rows [row_begin, row_begin + rows) and so many columns.
  FUSEDML_DEVICE bool cross(int64_t row_begin, int rows, int64_t col_begin, int cols) const {
    // one comparison each: with two, one sweep of 16-bit numbers had no register left on sm_90
    const int64_t begin = row_begin - col_begin + rows - 1;
    const uint64_t end = uint64_t(rows + cols - 1);
    return uint64_t(first + begin) < end || uint64_t(second + begin) < end;
  }
};

/// (scale+, shift+, scale-, shift-), known to the host or only to the device.
struct LogitParameters {
  const double* device;  ///< [4], or null: then `value` holds
  double value[4];
  GroupParameters groups;
  bool is_dot;  ///< the measure, of logits of any

  FUSEDML_DEVICE double get(int index) const { return device ? device[index] : value[index]; }
};

/// scale- times log2(e), of which every kernel asks here whether a square is plain, so that all
/// give the same answer.
template <class Number>
FUSEDML_DEVICE float plain_scale(const LogitParameters& logit) {
  return float(logit.get(2)) * Number::kExponentScale;
}

template <class Number>
struct PairProblem {
  PairSide<Number> anchors, references;
  LogitParameters logit;
  ExcludedDiagonals excluded;
  bool is_second_kind;  ///< of the two that a family of logits computes

  /// The same pairs with the sides exchanged: its rows are the references.
  PairProblem swapped() const {
    PairProblem result = *this;
    result.anchors = references;
    result.references = anchors;
    result.excluded = excluded.swapped();
    return result;
  }
};

}  // namespace fusedml
