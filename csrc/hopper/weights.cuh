#pragma once
// Backward, route B, first half, on Hopper's instructions: a panel of pair weights in 16 bits, for
// the plain tiles; the others are zero, and left to kernels/.
#include "hopper/row_ranges.cuh"
#include "hopper/similarities.cuh"
#include "hopper/warpgroup_roles.cuh"
#include "logits/affine.h"

namespace fusedml {

/// Of a plain pair, with dL/ds_ij from both rows:
///   h_ij = scale (g_i exp(z_ij - lse_i) + g_j exp(z_ij - lse_j)) = exp(scale s_ij) (u_i + u_j),
///   u_i = g_i scale exp(shift - lse_i)  (0 where lse_i = -inf),
/// one exponential for a pair.  exp(z_ij) is a part of either sum, so that no product exceeds
/// g scale, and in plain tiles exp(scale s) stays within 2^+-100.
struct FactorArguments {
  int64_t rows;
  const float* lse;           ///< [rows], lse_negative
  const float* lse_grad;      ///< [rows], g
  const float* weight_scale;  ///< one number, by which all weights are multiplied, or null: 1
  LogitParameters logit;
  float* factors;  ///< [rows], u
};

static __global__ void __launch_bounds__(kRangeThreads)
    weight_factors_kernel(FactorArguments arguments) {
  const int64_t row = int64_t(blockIdx.x) * kRangeThreads + threadIdx.x;
  if (row >= arguments.rows) return;
  const AffineLogit<float> logit(arguments.logit, false);
  const float lse = arguments.lse[row];
  const float scale = arguments.weight_scale ? *arguments.weight_scale : 1.f;
  arguments.factors[row] = lse == kNegativeInfinity
                               ? 0.f
                               : scale * arguments.lse_grad[row] * logit.scale(false) *
                                     std::exp(logit.shift_negative - lse);
}

template <class Number>
struct HopperWeightsArguments {
  LogitParameters logit;
  const RowRange *row_ranges, *col_ranges;  ///< of every kSquare rows of each side
  const float *row_factors, *col_factors;   ///< u; col_factors null: the columns own no loss
  int64_t row_begin, col_begin;             ///< of the panel, multiples of kSquare
  int64_t rows, cols;                       ///< of it: whole squares, or up to the problem's end
  int64_t all_rows, all_cols;               ///< of the problem
  int dim;
  typename Number::PanelElement* panel;  ///< [rows, cols]
};

/// A block visits every gridDim.x-th tile of the panel, row by row.
template <class Number, class Tile>
class HopperWeightsBlock {
 public:
  using Similarities = HopperSimilarities<Number, Tile>;
  using Values = typename Similarities::Values;

  FUSEDML_DEVICE HopperWeightsBlock(const HopperWeightsArguments<Number>& arguments,
                                    uint64_t* barriers)
      : arguments_(arguments),
        scale_(AffineLogit<float>(arguments.logit, false).scale(false) * Number::kExponentScale),
        similarities_(barriers, arguments.dim) {
    if (threadIdx.x == 0) fence_mbarrier_init();
    __syncthreads();  // the ring is initialised; from here on the roles never meet
  }

  /// By one thread.
  FUSEDML_DEVICE void produce(const TensorMap& anchors, const TensorMap& references) {
    for_each_tile([&](int64_t row, int64_t col) {
      if (is_plain(row, col))
        similarities_.fill(anchors, references, int(arguments_.row_begin + row),
                           int(arguments_.col_begin + col));
    });
  }

  /// By a warpgroup, number 0 or 1.
  FUSEDML_DEVICE void consume(int consumer) {
    similarities_.begin(consumer);
    for_each_tile([&](int64_t row, int64_t col) {
      const int64_t own_row = row + consumer * 64 + thread_row(), own_col = col + thread_col();
      if (is_plain(row, col)) {
        Values values;
        similarities_.multiply(values);
        weigh(values, own_row, own_col);
      } else {
        clear(own_row, own_col);
      }
    });
    similarities_.end();
  }

 private:
  template <class Visit>
  FUSEDML_DEVICE void for_each_tile(const Visit& visit) const {
    const int across = int(ceil_div(arguments_.cols, int64_t(Tile::kCols)));
    const int count = int(ceil_div(arguments_.rows, int64_t(Tile::kRows))) * across;
    for (int tile = int(blockIdx.x); tile < count; tile += int(gridDim.x))
      visit(int64_t(tile / across) * Tile::kRows, int64_t(tile % across) * Tile::kCols);
  }

  /// The square of the problem that holds the panel's tile: all of it exists, also in the panel,
  /// and is plain.
  FUSEDML_DEVICE bool is_plain(int64_t row, int64_t col) const {
    const int64_t row_square = (arguments_.row_begin + row) / Tile::kSquare;
    const int64_t col_square = (arguments_.col_begin + col) / Tile::kSquare;
    return (row_square + 1) * Tile::kSquare <= arguments_.all_rows &&
           (col_square + 1) * Tile::kSquare <= arguments_.all_cols &&
           all_plain(arguments_.row_ranges[row_square], arguments_.col_ranges[col_square], scale_);
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

  FUSEDML_DEVICE void clear(int64_t row, int64_t col) const {
    for (int j = 0; j < Tile::kCols / 8; ++j)
      for (int h = 0; h < 2; ++h)
        if (row + 8 * h < arguments_.rows && col + 8 * j < arguments_.cols)
          store(row + 8 * h, col + 8 * j, 0u);
  }

  FUSEDML_DEVICE void store(int64_t row, int64_t col, uint32_t pair) const {
    *reinterpret_cast<uint32_t*>(arguments_.panel + row * arguments_.cols + col) = pair;
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
