#pragma once
// Merges the partial results of each row in the order of their slots and applies the head.
#include "core/pair.h"
#include "core/row_statistics.h"
#include "heads/row_head.h"

namespace fusedml {

constexpr int kFinishThreads = 128;

/// Outputs of a forward; a null pointer is not written.
template <class Real>
struct RowOutputs {
  Real *lse_positive, *lse_negative, *sum_positive;  ///< [rows] each
  int64_t* counts;                                   ///< [2, rows]: num_positive, num_negative
  Real* losses;                                      ///< [rows], L_i
  Real* partials;                                    ///< [3, rows], dL_i / d(statistics)
};

/// Slots of the rows [row_begin, row_end), one thread each.
template <class Partial>
struct RowSlots {
  const Partial* slots;  ///< [num_slots, stride]
  int64_t num_slots, stride;
  int64_t row_begin, row_end;

  dim3 grid() const {
    return dim3(unsigned(ceil_div(row_end - row_begin, int64_t(kFinishThreads))));
  }

  /// Row of this thread; row_end or more: none.
  FUSEDML_DEVICE int64_t my_row() const {
    return row_begin + int64_t(blockIdx.x) * kFinishThreads + threadIdx.x;
  }

  /// Merged slots of a row; neutral for one that takes no part, whose slots nobody wrote.
  FUSEDML_DEVICE Partial merged(int64_t row, const int64_t* extent) const {
    Partial merged;
    if (extent != nullptr && row >= *extent) return merged;
    for (int64_t slot = 0; slot < num_slots; ++slot)
      merged.merge(slots[slot * stride + row - row_begin]);
    return merged;
  }
};

template <class Real>
__global__ void __launch_bounds__(kFinishThreads, 1)
    finish_statistics_kernel(RowSlots<RowStatistics<Real>> slots, int64_t num_rows,
                             const int64_t* extent, RowHead head, RowOutputs<Real> out) {
  const int64_t row = slots.my_row();
  if (row >= slots.row_end) return;
  const RowStatistics<Real> merged = slots.merged(row, extent);
  RowSummary<Real> summary{merged.positive.value(), merged.negative.value(), merged.sum_positive,
                           merged.num_positive, merged.num_negative};
  // an embedding that is not finite concerns the whole row, whichever set its pair is in
  if (std::isnan(summary.lse_positive) || std::isnan(summary.lse_negative))
    summary.lse_positive = summary.lse_negative = summary.sum_positive = Real(NAN);
  if (out.lse_positive != nullptr) out.lse_positive[row] = summary.lse_positive;
  if (out.lse_negative != nullptr) out.lse_negative[row] = summary.lse_negative;
  if (out.sum_positive != nullptr) out.sum_positive[row] = summary.sum_positive;
  if (out.counts != nullptr) {
    out.counts[row] = summary.num_positive;
    out.counts[num_rows + row] = summary.num_negative;
  }
  if (out.losses != nullptr) {
    const RowLoss<Real> loss = head(summary);
    out.losses[row] = loss.value;
    out.partials[row] = loss.partials.lse_positive;
    out.partials[num_rows + row] = loss.partials.lse_negative;
    out.partials[2 * num_rows + row] = loss.partials.sum_positive;
  }
}

}  // namespace fusedml
