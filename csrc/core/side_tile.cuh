#pragma once
// What the epilogue of a tile needs to know of its rows, or of its columns, beside the embeddings.
#include "core/pair.h"
#include "core/primitives.cuh"

namespace fusedml {

/// Further numbers per row that a kernel's epilogue wants, each [rows]; null reads as zero.
template <class Real, int kCount>
struct RowVectors {
  const Real* vector[kCount > 0 ? kCount : 1];
};

/// Labels, norms, thresholds and vectors of one tile's rows (or columns), in shared memory.
template <class Real, int kRows, int kVectors>
struct SideTile {
  static constexpr int kGroups = kRows / kWarpSize;
  static_assert(kRows % kWarpSize == 0, "label ranges are taken over whole warps");

  int64_t label[kRows];
  int64_t smallest_label[kGroups], largest_label[kGroups];  ///< of each 32 rows
  Real squared_norm[kRows];
  Real threshold_positive[kRows], threshold_negative[kRows];
  Real vector[kVectors > 0 ? kVectors : 1][kRows];

  /// Loads rows [begin, begin + kRows), with kThreads threads; the caller's next barrier publishes
  /// them.  Rows from `active` on get zeros and an empty label range.  kMayLackLabels: a side
  /// without labels is read, too, as zeros.
  template <int kThreads, bool kMayLackLabels = false, class Number>
  FUSEDML_DEVICE void load(const PairSide<Number>& side, const RowVectors<Real, kVectors>& vectors,
                           int64_t begin, int64_t active) {
    static_assert(kThreads % kWarpSize == 0);
    for (int r = int(threadIdx.x); r < kRows; r += kThreads) {
      const int64_t row = begin + r;
      const bool exists = row < active;
      const bool has_label = exists && (!kMayLackLabels || side.labels != nullptr);
      label[r] = has_label ? side.labels[row] : 0;
      squared_norm[r] = exists && side.squared_norms ? side.squared_norms[row] : Real(0);
      if (side.thresholds != nullptr) {
        threshold_positive[r] = exists ? side.thresholds[row] : Real(0);
        threshold_negative[r] = exists ? side.thresholds[side.embeddings.rows + row] : Real(0);
      }
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        vector[v][r] = exists && vectors.vector[v] ? vectors.vector[v][row] : Real(0);
      load_label_range(r, exists ? label[r] : INT64_MAX, exists ? label[r] : INT64_MIN);
    }
  }

  /// Whether a label of rows [begin, begin + count) can occur among other's [other_begin, ...).
  template <int kOtherRows, int kOtherVectors>
  FUSEDML_DEVICE bool may_meet(int begin, int count,
                               const SideTile<Real, kOtherRows, kOtherVectors>& other,
                               int other_begin, int other_count) const {
    for (int g = begin / kWarpSize; g * kWarpSize < begin + count; ++g)
      for (int h = other_begin / kWarpSize; h * kWarpSize < other_begin + other_count; ++h)
        if (smallest_label[g] <= other.largest_label[h] &&
            other.smallest_label[h] <= largest_label[g])
          return true;
    return false;
  }

 private:
  FUSEDML_DEVICE void load_label_range(int r, int64_t smallest, int64_t largest) {
#pragma unroll
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
      const int64_t other_smallest = shuffle_xor(smallest, mask);
      const int64_t other_largest = shuffle_xor(largest, mask);
      smallest = other_smallest < smallest ? other_smallest : smallest;
      largest = other_largest > largest ? other_largest : largest;
    }
    if (r % kWarpSize == 0) {
      smallest_label[r / kWarpSize] = smallest;
      largest_label[r / kWarpSize] = largest;
    }
  }
};

}  // namespace fusedml
