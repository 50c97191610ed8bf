#pragma once
// Several vectors of a class: a thread reduces its measures with them to one, and spreads the
// gradient of that one over them.
#include "core/pair_mask.cuh"

namespace fusedml {

/// The tile of such problems, whose warps hold 128 columns, or rows, of 16 of the other side: then
/// a thread holds the pairs of a row with every eighth of the 128 vectors.
template <bool kOfRows>
using GroupTile =
    std::conditional_t<kOfRows, TileShape<128, 128, 128, 16>, TileShape<128, 128, 16, 128>>;

/// A thread's values as lines of consecutive items: a line is a row of the tile (or a column, where
/// the vectors are its rows) and every eighth vector.
template <class Shape, bool kOfRows>
struct GroupAxis {
  static constexpr int kItems = kMostGroupVectors;
  static constexpr int kLines = Shape::kThreadRows * Shape::kThreadCols / kItems;
  static_assert(kItems == (kOfRows ? Shape::kThreadRows : Shape::kThreadCols / 2));

  /// Index of the thread's row, and of its column.
  static FUSEDML_DEVICE constexpr int row(int line, int item) { return kOfRows ? item : line / 2; }
  static FUSEDML_DEVICE constexpr int col(int line, int item) {
    return kOfRows ? line : 2 * item + line % 2;
  }
};

/// The pairs that stand for a class: those with its last vector.  Vectors that only fill a tile
/// have no class, and those that fill up the classes of the last tile a negative label.
template <class Shape, class Logit, class Rows, class Cols>
FUSEDML_DEVICE uint64_t pairs_of_groups(const Logit& logit, const Rows& rows, const Cols& cols,
                                        const ThreadMap<Shape>& map) {
  using Axis = GroupAxis<Shape, Logit::kOfRows>;
  uint64_t pairs = 0;
#pragma unroll 1  // no accumulators are read: small code
  for (int item = logit.size - 1; item < Axis::kItems; item += logit.size)
#pragma unroll 1
    for (int line = 0; line < Axis::kLines; ++line) {
      const int i = Axis::row(line, item), j = Axis::col(line, item);
      const int64_t label = Logit::kOfRows ? rows.label[map.row(i)] : cols.label[map.col(j)];
      if (label >= 0) pairs |= PairBits<Shape>::bit(i, j);
    }
  return pairs;
}

/// One line: measures y, of which the last of each class is to become S, or all of them weights.
template <class Number>
struct GroupLine {
  using Real = typename Number::Real;
  static constexpr int kItems = kMostGroupVectors;
  Real y[kItems];
  Real share[kItems];  ///< exp(sharpness (y_k - max))
  // of the class of which one of the items 2 i and 2 i + 1 is the last: no class has but one
  Real reduced[kItems / 2];  ///< S
  Real total[kItems / 2];    ///< sum of the shares

  template <class Shape, bool kOfRows>
  FUSEDML_DEVICE void load(const TileValues<Real, Shape>& values, int line) {
    using Axis = GroupAxis<Shape, kOfRows>;
#pragma unroll
    for (int item = 0; item < kItems; ++item)
      y[item] = values.at(Axis::row(line, item), Axis::col(line, item));
  }

  template <class Logit>
  FUSEDML_DEVICE void reduce(const Logit& logit) {
    Real of_class[kItems / 2] = {}, largest = 0;  // of the classes by their first items
#pragma unroll
    for (int item = kItems - 1; item >= 0; --item) {
      // a NaN that is passed over here spoils its exponential, and with it the sums
      if (logit.is_last(item) || y[item] > largest) largest = y[item];
      if (logit.is_first(item)) of_class[item / 2] = largest;
    }
    // a maximum is the limit of large sharpness: the exponential of no difference is 1, of others 0
    const Real scale = logit.is_soft ? logit.sharpness * Number::kExponentScale : Real(1e30);
    Real sum = 0, weighted = 0;
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      if (logit.is_first(item)) {
        largest = of_class[item / 2];
        sum = weighted = 0;
      }
      share[item] = Number::exponential_of_scaled(scale * (y[item] - largest));
      if (!logit.is_soft && sum > Real(0)) share[item] = 0;  // the first of equal ones takes all
      sum += share[item];
      weighted += share[item] * y[item];
      if (!logit.is_last(item)) continue;
      reduced[item / 2] = weighted / sum;
      total[item / 2] = sum;
    }
  }

  /// y_k becomes dL/dS dS/dy_k, dL/dS being weigh(item, S) with the last item of the class:
  ///   dS/dy_k = p_k (1 + sharpness (y_k - S)),   or 1 for the first largest y_k.
  template <class Logit, class Weigh>
  FUSEDML_DEVICE void spread(const Logit& logit, const Weigh& weigh) {
    Real s = 0, gradient = 0;
    const Real sharpness = logit.is_soft ? logit.sharpness : Real(0);
#pragma unroll
    for (int item = kItems - 1; item >= 0; --item) {
      if (logit.is_last(item)) {
        s = reduced[item / 2];
        gradient = weigh(item, s);
        if (gradient != Real(0)) gradient /= total[item / 2];
      }
      // what does not count weighs exactly nothing, also where y is not finite
      y[item] = gradient == Real(0) || share[item] == Real(0)
                    ? Real(0)
                    : gradient * share[item] * (1 + sharpness * (y[item] - s));
    }
  }
};

/// Measures with the last vectors of the classes become S.
template <class Number, class Logit, class Shape>
FUSEDML_DEVICE void reduce_groups(const Logit& logit,
                                  TileValues<typename Number::Real, Shape>& values) {
  using Axis = GroupAxis<Shape, Logit::kOfRows>;
#pragma unroll
  for (int line = 0; line < Axis::kLines; ++line) {
    GroupLine<Number> group;
    group.template load<Shape, Logit::kOfRows>(values, line);
    group.reduce(logit);
#pragma unroll
    for (int item = 0; item < Axis::kItems; ++item)
      if (logit.is_last(item))
        values.at(Axis::row(line, item), Axis::col(line, item)) = group.reduced[item / 2];
  }
}

}  // namespace fusedml
