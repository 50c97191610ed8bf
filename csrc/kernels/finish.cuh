#pragma once
// Merges the partial results of each row in the order of their slots and applies the head.
#include "core/pair.h"
#include "core/row_statistics.h"
#include "heads/row_head.h"

namespace fusedml {

constexpr int kFinishThreads = 128;

inline dim3 finish_grid(int64_t rows) {
  return dim3(unsigned(ceil_div(rows, int64_t(kFinishThreads))));
}

/// Outputs of a forward; a null pointer is not written.
template <class Real>
struct RowOutputs {
  Real* statistics;  ///< [3, rows]: lse_positive, lse_negative, sum_positive
  int64_t* counts;   ///< [2, rows]: num_positive, num_negative
  Real* losses;      ///< [rows], L_i
  Real* partials;    ///< [3, rows], dL_i / d(statistics)
};

/// Merged slots of one row; neutral for a row that takes no part, whose slots nobody wrote.
template <class Partial>
FUSEDML_DEVICE Partial merge_slots(const Partial* slots, int64_t num_slots, int64_t num_rows,
                                   int64_t row, const int64_t* extent) {
  Partial merged;
  if (extent != nullptr && row >= *extent) return merged;
  for (int64_t slot = 0; slot < num_slots; ++slot) merged.merge(slots[slot * num_rows + row]);
  return merged;
}

template <class Real>
__global__ void __launch_bounds__(kFinishThreads, 1)
    finish_statistics_kernel(const RowStatistics<Real>* slots, int64_t num_slots, int64_t num_rows,
                             const int64_t* extent, RowHead head, RowOutputs<Real> out) {
  const int64_t row = int64_t(blockIdx.x) * kFinishThreads + threadIdx.x;
  if (row >= num_rows) return;
  const RowStatistics<Real> merged = merge_slots(slots, num_slots, num_rows, row, extent);
  RowSummary<Real> summary{merged.positive.value(), merged.negative.value(), merged.sum_positive,
                           merged.num_positive, merged.num_negative};
  // an embedding that is not finite concerns the whole row, whichever set its pair is in
  if (std::isnan(summary.lse_positive) || std::isnan(summary.lse_negative))
    summary.lse_positive = summary.lse_negative = summary.sum_positive = Real(NAN);
  if (out.statistics != nullptr) {
    out.statistics[row] = summary.lse_positive;
    out.statistics[num_rows + row] = summary.lse_negative;
    out.statistics[2 * num_rows + row] = summary.sum_positive;
  }
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
