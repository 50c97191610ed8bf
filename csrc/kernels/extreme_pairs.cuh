#pragma once
// The extreme pair of each row, its measure and its column, as a reduction of the forward sweep.
#include <climits>

#include "kernels/finish.cuh"
#include "kernels/line_terms.cuh"
#include "kernels/pair_sweep.cuh"
#include "logits/any_measure.h"

namespace fusedml {

/// The largest value so far and the lowest column that has it; a NaN is larger than all.
template <class Real>
struct PlacedValue {
  static constexpr int kNoColumn = INT_MAX;
  Real value = Real(-INFINITY);
  int column = kNoColumn;

  FUSEDML_HOST_DEVICE void merge(const PlacedValue& other) {
    if (std::isnan(value)) return;
    const bool is_larger = !(other.value <= value);
    if (!is_larger && !(other.value == value && other.column < column)) return;
    *this = other;
  }
};

template <class Real>
FUSEDML_DEVICE PlacedValue<Real> shuffle_xor(const PlacedValue<Real>& placed, int mask) {
  return {shuffle_xor(placed.value, mask), shuffle_xor(placed.column, mask)};
}

/// Of both kinds of pair, by kind_index().
template <class Real>
struct ExtremePair {
  PlacedValue<Real> kind[2];

  FUSEDML_HOST_DEVICE void merge(const ExtremePair& other) {
    for (int k = 0; k < 2; ++k) kind[k].merge(other.kind[k]);
  }
};

template <class Number>
struct ExtremePairsReduction {
  using Real = typename Number::Real;
  using Partial = ExtremePair<Real>;
  /// Ends of the interval of a line's measures that count: low and high of each kind.
  static constexpr int kVectors = 4;
  static constexpr bool kPositivesOnly = false;
  static constexpr bool kIsHot = false;  ///< worth a high occupancy
  static constexpr bool kReadsLogits = false;
  static constexpr bool kTakesGroups = false;
  static constexpr bool kHasPlain = false;
  static constexpr bool kHasOneKernel = true;  ///< for all measures, with small tiles
  using Logit = AnyMeasureLogit<Real>;
  struct Parameters {
    bool is_largest[2];  ///< by kind_index(): else the smallest measure is wanted
    bool has_intervals;
  };

  /// Measures stay what they are.
  template <class Logit, class Shape>
  static FUSEDML_DEVICE void prepare(const Logit&, TileValues<Real, Shape>&, uint64_t) {}

  template <class Lanes, bool kPositive, int kItems, class Context, class PairAt>
  static FUSEDML_DEVICE PlacedValue<Real> reduce(const Context& context, PairAt pair_at,
                                                 int /*count*/) {
    constexpr int kKind = kind_index(kPositive);
    const Parameters& wanted = context.parameters;
    const auto& lines = context.template lines<Lanes::kIsOfRows>();
    PlacedValue<Real> extreme;
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const auto pair = pair_at(item);
      const int line = pair.template line<Lanes::kIsOfRows>();
      const bool is_out = wanted.has_intervals && (pair.value < lines.vector[2 * kKind][line] ||
                                                   pair.value > lines.vector[2 * kKind + 1][line]);
      const Real value = wanted.is_largest[kKind] ? pair.value : -pair.value;
      if (pair.is_counted && !is_out && value != Real(-INFINITY))
        extreme.merge({value, int(context.template place_in_line<Lanes::kIsOfRows>(pair))});
    }
    return Lanes::combine(extreme, [](PlacedValue<Real> one, const PlacedValue<Real>& other) {
      one.merge(other);
      return one;
    });
  }

  template <bool kPositive>
  static FUSEDML_DEVICE void store(const PlacedValue<Real>& extreme, Partial& partial) {
    if constexpr (!kPositive) partial = Partial();
    partial.kind[kind_index(kPositive)] = extreme;
  }
};

/// measures and columns [2, rows], of positives and of negatives; without a pair, an infinity and
/// column -1.
template <class Number>
__global__ void __launch_bounds__(kFinishThreads, 1)
    finish_extreme_pairs_kernel(RowSlots<ExtremePair<typename Number::Real>> slots,
                                int64_t num_rows, const int64_t* extent,
                                typename ExtremePairsReduction<Number>::Parameters wanted,
                                typename Number::Real* measures, int64_t* columns) {
  const int64_t row = slots.my_row();
  if (row >= slots.row_end) return;
  const auto merged = slots.merged(row, extent);
#pragma unroll
  for (int kind = 0; kind < 2; ++kind) {
    const auto& extreme = merged.kind[kind];
    measures[kind * num_rows + row] = wanted.is_largest[kind] ? extreme.value : -extreme.value;
    columns[kind * num_rows + row] =
        extreme.column == PlacedValue<typename Number::Real>::kNoColumn ? -1 : extreme.column;
  }
}

}  // namespace fusedml
