#pragma once
// Definitions of HopperOperators<Number>, instantiated by one .cu file per number type.
#include "hopper/operators.h"
#include "hopper/product_host.cuh"
#include "hopper/rows_host.cuh"
#include "hopper/special_host.cuh"

namespace fusedml {

template <class Number>
cudaError_t HopperOperators<Number>::row_ranges(const PairSide<Number>& side, int side_bits,
                                                RowRange* ranges, cudaStream_t stream) {
  return launch_row_ranges(side, side_bits, ranges, stream);
}

template <class Number>
cudaError_t HopperOperators<Number>::sweep(const PairProblem<Number>& problem,
                                           const HopperSweepArguments& arguments,
                                           cudaStream_t stream) {
  return launch_hopper_sweep<Number, LargeSweepTile>(problem, arguments, stream);
}

template <class Number>
cudaError_t HopperOperators<Number>::weight_factors(const FactorArguments& arguments,
                                                    cudaStream_t stream) {
  return launch_weight_factors(arguments, stream);
}

template <class Number>
cudaError_t HopperOperators<Number>::weights(const PairProblem<Number>& problem,
                                             const HopperWeightsArguments<Number>& arguments,
                                             cudaStream_t stream) {
  return launch_hopper_weights<Number, LargeSweepTile>(problem, arguments, stream);
}

template <class Number>
cudaError_t HopperOperators<Number>::product(const HopperProductArguments<Number>& arguments,
                                             const HopperProductOperands<Number>& operands,
                                             cudaStream_t stream) {
  return hopper_product(arguments, operands, stream);
}

template <class Number>
cudaError_t HopperOperators<Number>::rows(const PairProblem<Number>& problem,
                                          const HopperRowsArguments<Number>& arguments,
                                          cudaStream_t stream) {
  return hopper_rows(problem, arguments, stream);
}

template <class Number>
cudaError_t HopperOperators<Number>::special_sweep(
    const SweepArguments<Number, StatisticsReduction<Number>>& arguments, cudaStream_t stream) {
  return launch_special_sweep(arguments, stream);
}

template <class Number>
cudaError_t HopperOperators<Number>::special_weights(
    const PairWeightsArguments<Number, WeightSource>& arguments, cudaStream_t stream) {
  return launch_special_weights(arguments, stream);
}

template <class Number>
cudaError_t HopperOperators<Number>::special_rows(const GradientRowsArguments<Number>& arguments,
                                                  cudaStream_t stream) {
  return launch_special_rows(arguments, stream);
}

}  // namespace fusedml
