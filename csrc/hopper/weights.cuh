#pragma once
// Backward, route B, first half, on Hopper's instructions: a panel of pair weights in 16 bits, of
// which the tiles that are not plain are left to kernels/.
#include "hopper/operators.h"
#include "hopper/row_ranges.cuh"
#include "hopper/similarities.cuh"
#include "hopper/warpgroup_roles.cuh"
#include "logits/affine.h"

namespace fusedml {

static __global__ void __launch_bounds__(kRangeThreads)
    weight_factors_kernel(FactorArguments arguments) {
  const int64_t row = int64_t(blockIdx.x) * kRangeThreads + threadIdx.x;
  if (row >= arguments.rows) return;
  const AffineLogit<float> logit(arguments.logit, false);
  const float lse = arguments.lse ? arguments.lse[row] : kNegativeInfinity;
  const float scale = arguments.weight_scale ? *arguments.weight_scale : 1.f;
  arguments.factors[row] = lse == kNegativeInfinity
                               ? 0.f
                               : scale * arguments.lse_grad[row] * logit.scale(false) *
                                     std::exp(logit.shift_negative - lse);
}

/// A block visits every gridDim.x-th tile of the panel, row by row.
template <class Number, class Tile>
class HopperWeightsBlock {
 public:
  using Similarities = HopperSimilarities<Number, Tile>;
  using Values = typename Similarities::Values;

  FUSEDML_DEVICE HopperWeightsBlock(const HopperWeightsArguments<Number>& arguments,
                                    uint64_t* barriers)
      : arguments_(arguments),
        scale_(plain_scale<Number>(arguments.logit)),
        similarities_(barriers, arguments.dim) {
    if (threadIdx.x == 0) fence_mbarrier_init();
    __syncthreads();  // the ring is initialised; from here on the roles never meet
  }

  /// By one thread.
  FUSEDML_DEVICE void produce(const TensorMap& anchors, const TensorMap& references) {
    for_each_tile([&](int64_t row, int64_t col) {
      similarities_.fill(anchors, references, int(arguments_.row_begin + row),
                         int(arguments_.col_begin + col));
    });
  }

  /// By a warpgroup, number 0 or 1.
  FUSEDML_DEVICE void consume(int consumer) {
    similarities_.begin(consumer);
    for_each_tile([&](int64_t row, int64_t col) {
      Values values;
      similarities_.multiply(values);
      weigh(values, row + consumer * 64 + thread_row(), col + thread_col());
    });
    similarities_.end();
  }

 private:
  /// visit(row, column) of each plain tile, in the panel.
  template <class Visit>
  FUSEDML_DEVICE void for_each_tile(const Visit& visit) const {
    const int across = int(ceil_div(arguments_.cols, int64_t(Tile::kCols)));
    const int count = int(ceil_div(arguments_.rows, int64_t(Tile::kRows))) * across;
    for (int tile = int(blockIdx.x); tile < count; tile += int(gridDim.x)) {
      const int64_t row = int64_t(tile / across) * Tile::kRows;
      const int64_t col = int64_t(tile % across) * Tile::kCols;
      if (is_plain(row, col)) visit(row, col);
    }
  }

  FUSEDML_DEVICE bool is_plain(int64_t row, int64_t col) const {
    return arguments_.squares.holds(arguments_.row_begin + row, arguments_.col_begin + col, scale_);
  }

  /// Row and column of the panel are this thread's first ones.
  FUSEDML_DEVICE void weigh(const Values& d, int64_t row, int64_t col) const {
    const float* row_factors = arguments_.row_factors + arguments_.row_begin + row;
    const float of_row[2] = {row_factors[0], row_factors[8]};
#pragma unroll
    for (int j = 0; j < Tile::kCols / 8; ++j) {
      const float2 of_col = col_factors(col + 8 * j);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float left = Number::exponential_of_scaled(scale_ * d[4 * j + 2 * h]);
        const float right = Number::exponential_of_scaled(scale_ * d[4 * j + 2 * h + 1]);
        store(row + 8 * h, col + 8 * j,
              Number::pack(left * (of_row[h] + of_col.x), right * (of_row[h] + of_col.y)));
      }
    }
  }

  FUSEDML_DEVICE float2 col_factors(int64_t col) const {
    if (arguments_.col_factors == nullptr) return make_float2(0.f, 0.f);
    return *reinterpret_cast<const float2*>(arguments_.col_factors + arguments_.col_begin + col);
  }

  FUSEDML_DEVICE void store(int64_t row, int64_t col, uint32_t pair) const {
    *reinterpret_cast<uint32_t*>(arguments_.panel + row * arguments_.pitch + col) = pair;
  }

  const HopperWeightsArguments<Number>& arguments_;
  float scale_;  ///< times log2(e)
  Similarities similarities_;
};

template <class Number, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    hopper_weights_kernel(const __grid_constant__ TensorMap anchors,
                          const __grid_constant__ TensorMap references,
                          const __grid_constant__ HopperWeightsArguments<Number> arguments) {
  FUSEDML_SHARED(uint64_t, barriers, [StageRing<Tile::kStages>::kBarriers]);
  HopperWeightsBlock<Number, Tile> block(arguments, barriers);
  run_warpgroups(block, anchors, references);
}

}  // namespace fusedml
