#pragma once
// Backward, route B, second half: gradient += panel of weights x embeddings, sums in fp32.
#include "kernels/panel_product.cuh"

namespace fusedml {

/// Two blocks share a multiprocessor where 128 registers suffice without spills (sm_90: ptxas) and
/// their shared memory fits: not that of the large 16-bit tiles on sm_80, which would spill too.
template <class Number, bool kSubtractsAnchors, class Shape>
constexpr int kProductBlocks =
    Number::kTensorCores && !kSubtractsAnchors &&
            shared_memory_fits(2, WeightsProductShared<Number, Shape>::kBytes)
        ? 2
        : 1;

template <class Number, bool kSubtractsAnchors, bool kTransposed, class Shape>
FUSEDML_DEVICE void multiply_panel(const WeightsProductArguments<Number>& arguments, int64_t line,
                                   int dim_begin) {
  static_assert(Number::kProductDepth == 16 ||
                    fit_alike_on_hopper(2, WeightsProductShared<Number, Shape>::kBytes),
                "wide numbers have one PTX for 8.0 and 9.0");
  PanelProduct<Number, kTransposed, Shape> product(arguments, line, dim_begin);
  TileValues<typename Number::Real, Shape> values;
  typename Number::Real weight_sums[Shape::kThreadRows] = {};
  product.compute(values, weight_sums, kSubtractsAnchors);
  product.template store<kSubtractsAnchors>(values, weight_sums);
}

/// Blocks (dimensions, lines): first all rows of the panel, then, if the grid is longer, all its
/// columns.
template <class Number, bool kSubtractsAnchors, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, kProductBlocks<Number, kSubtractsAnchors, Shape>)
    weights_product_kernel(WeightsProductArguments<Number> arguments) {
  const int dim_begin = int(blockIdx.x) * Shape::kCols;
  const int64_t line = int64_t(blockIdx.y) * Shape::kRows, rows = arguments.panel.rows;
  if (line < rows) {
    multiply_panel<Number, kSubtractsAnchors, false, Shape>(arguments, line, dim_begin);
  } else {
    multiply_panel<Number, kSubtractsAnchors, true, Shape>(arguments, line - rows, dim_begin);
  }
}

}  // namespace fusedml
