// The kernels of sm_90a for bf16; the ordinary build does not have them yet, see README.md.
#include "hopper/product_host.cuh"
#include "hopper/rows_host.cuh"

namespace fusedml {

template cudaError_t hopper_product(const HopperProductArguments<Bf16>&,
                                    const HopperProductOperands<Bf16>&, cudaStream_t);
template cudaError_t launch_row_ranges<Bf16, LargeSweepTile>(const PairSide<Bf16>&, RowRange*,
                                                             cudaStream_t);
template cudaError_t launch_hopper_sweep<Bf16, LargeSweepTile>(const PairProblem<Bf16>&,
                                                               const HopperSweepArguments&,
                                                               cudaStream_t);

template cudaError_t launch_hopper_weights<Bf16, LargeSweepTile>(
    const PairProblem<Bf16>&, const HopperWeightsArguments<Bf16>&, cudaStream_t);
template cudaError_t hopper_rows(const PairProblem<Bf16>&, const HopperRowsArguments<Bf16>&,
                                 cudaStream_t);

}  // namespace fusedml
