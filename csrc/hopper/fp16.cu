// The kernels of sm_90a for fp16; the ordinary build does not have them yet, see README.md.
#include "hopper/product_host.cuh"
#include "hopper/rows_host.cuh"

namespace fusedml {

template cudaError_t hopper_product(const HopperProductArguments<Fp16>&,
                                    const HopperProductOperands<Fp16>&, cudaStream_t);
template cudaError_t launch_row_ranges<Fp16, LargeSweepTile>(const PairSide<Fp16>&, RowRange*,
                                                             cudaStream_t);
template cudaError_t launch_hopper_sweep<Fp16, LargeSweepTile>(const PairProblem<Fp16>&,
                                                               const HopperSweepArguments&,
                                                               cudaStream_t);

template cudaError_t launch_hopper_weights<Fp16, LargeSweepTile>(
    const PairProblem<Fp16>&, const HopperWeightsArguments<Fp16>&, cudaStream_t);
template cudaError_t hopper_rows(const PairProblem<Fp16>&, const HopperRowsArguments<Fp16>&,
                                 cudaStream_t);

}  // namespace fusedml
