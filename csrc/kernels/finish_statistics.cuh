#pragma once
// From the slots of the sweeps to the outputs of a forward.
#include "kernels/finish.cuh"
#include "kernels/group_columns.cuh"
#include "kernels/launch.h"

namespace fusedml {

template <class Real>
cudaError_t finish_statistics(const RowSlots<RowStatistics<Real>>& slots, const Problem& problem,
                              const RowHead& head, const StatisticsOutputs& outputs,
                              cudaStream_t stream) {
  const auto of_rows = StatisticsRows<Real>::of(problem, static_cast<Real*>(outputs.statistics));
  const RowOutputs<Real> rows{of_rows.lse_positive,
                              of_rows.lse_negative,
                              of_rows.sum_positive,
                              outputs.counts,
                              static_cast<Real*>(outputs.losses),
                              static_cast<Real*>(outputs.partials)};
  return launch(finish_statistics_kernel<Real>, slots.grid(), dim3(kFinishThreads), 0, stream,
                slots, problem.n, problem.extent, head, rows);
}

}  // namespace fusedml
