#pragma once
// Unfinished sums of a gradient, from one panel of weights to the next.
#include "core/number.cuh"
#include "core/pair.h"

namespace fusedml {

/// Two neighbouring dimensions of a row.
template <class T>
struct alignas(2 * sizeof(T)) DimensionPair {
  T x, y;
};

/// Which share of a gradient's sums a panel brings.
struct ProductTurn {
  bool is_first, is_last;
};

/// Where the sums lie: in the gradient itself, which has no other use before it is finished.  The
/// 16-bit types keep the upper half of each fp32 sum there and the lower half in a workspace, so
/// that a sum costs two bytes, and no bit of it is lost.
template <class Number>
struct GradientSums {
  using Real = typename Number::Real;
  using Element = typename Number::Element;
  using Pair = DimensionPair<Real>;
  static constexpr bool kIsSplit = sizeof(Element) < sizeof(Real);
  static constexpr int kLowBytes = kIsSplit ? 2 : 0;

  Element* gradient;  ///< [rows, dims]
  uint16_t* low;      ///< [.., dims], lower halves of the rows from `first_low_row` on, or unused
  int64_t first_low_row;
  int dims;
  bool in_pairs;  ///< whether two dimensions may be read and written at a time: kInPairs

  static GradientSums of(Element* gradient, uint16_t* low, int64_t first_low_row, int dims) {
    const bool is_aligned = reinterpret_cast<uintptr_t>(gradient) % (2 * sizeof(Element)) == 0;
    return {gradient, low, first_low_row, dims, dims % 2 == 0 && is_aligned};
  }

  /// The dimensions `dim`, which is even, and dim + 1 where that exists.
  template <bool kInPairs>
  FUSEDML_DEVICE Pair load(int64_t row, int dim) const {
    if constexpr (kIsSplit) {
      const auto high =
          load_two<kInPairs>(reinterpret_cast<const uint16_t*>(gradient), row * dims, dim);
      const auto lower = load_two<kInPairs>(low, (row - first_low_row) * dims, dim);
      return {__uint_as_float(uint32_t(high.x) << 16 | lower.x),
              __uint_as_float(uint32_t(high.y) << 16 | lower.y)};
    } else {
      return load_two<kInPairs>(gradient, row * dims, dim);
    }
  }
  template <bool kInPairs>
  FUSEDML_DEVICE void store(int64_t row, int dim, const Pair& sum) const {
    if constexpr (kIsSplit) {
      const uint32_t x = __float_as_uint(sum.x), y = __float_as_uint(sum.y);
      store_two<kInPairs, uint16_t>(reinterpret_cast<uint16_t*>(gradient), row * dims, dim,
                                    {uint16_t(x >> 16), uint16_t(y >> 16)});
      store_two<kInPairs, uint16_t>(low, (row - first_low_row) * dims, dim,
                                    {uint16_t(x), uint16_t(y)});
    } else {
      store_two<kInPairs>(gradient, row * dims, dim, sum);
    }
  }
  /// Writes the gradient itself.
  template <bool kInPairs>
  FUSEDML_DEVICE void finish(int64_t row, int dim, const Pair& value) const {
    store_two<kInPairs, Element>(gradient, row * dims, dim,
                                 {Number::to_element(value.x), Number::to_element(value.y)});
  }

 private:
  template <bool kInPairs, class T>
  FUSEDML_DEVICE DimensionPair<T> load_two(const T* from, int64_t line, int dim) const {
    if (kInPairs) return *reinterpret_cast<const DimensionPair<T>*>(from + line + dim);
    return {from[line + dim], dim + 1 < dims ? from[line + dim + 1] : T(0)};
  }
  template <bool kInPairs, class T>
  FUSEDML_DEVICE void store_two(T* to, int64_t line, int dim, const DimensionPair<T>& pair) const {
    if (kInPairs) {
      *reinterpret_cast<DimensionPair<T>*>(to + line + dim) = pair;
      return;
    }
    to[line + dim] = pair.x;
    if (dim + 1 < dims) to[line + dim + 1] = pair.y;
  }
};

}  // namespace fusedml
