#pragma once
// Route A: the gradient of a block's rows, which lies in registers to the end.
#include "core/weighted_sum.cuh"
#include "kernels/gradient_line.cuh"
#include "kernels/gradient_rows_block.cuh"

namespace fusedml {

/// Gradient of a warp's 16 rows, as mma accumulators.
template <class Number, class Logit, int kMaxDim>
struct RowGradients {
  using Real = typename Number::Real;
  using Tile = typename GradientRowsShape<Number, kMaxDim>::Tile;
  using Tiles = GradientRowsTiles<Number, kMaxDim>;
  float value[kMaxDim / 8][4] = {};
  float weight_sums[4] = {};  ///< [0] and [2]: of rows lane_row and lane_row + 8

  /// += weights x the references in `buffer`, of which `num_cols` exist.
  FUSEDML_DEVICE void add(const TileValues<Real, Tile>& weights, const Tiles& tiles, int buffer,
                          int64_t num_cols) {
    constexpr int kDepth = kSliceDepth<typename Number::Element>;
    const auto ones = ones_fragment<Number>();
#pragma unroll
    for (int step = 0; step < Tile::kCols / Number::kProductDepth; ++step) {
      // Columns that do not exist weigh nothing.  The branch keeps ptxas from gathering the
      // additions of several steps, for which fp32 has no registers (255 and spills without it).
      if (Number::kIsSplit && step > 0 && step * Number::kProductDepth >= num_cols) break;
      const auto fragment = weight_fragment<Number>(weights.fragment[0], step);
      if constexpr (Logit::kUsesNorms) Number::multiply(weight_sums, fragment, ones);
#pragma unroll
      for (int dim = 0; dim < kMaxDim; dim += 16) {
        uint32_t raw[4];
        load_embedding_fragments<Number>(raw, tiles.reference_slice(buffer, dim / kDepth),
                                         step * Number::kProductDepth, dim % kDepth);
        const uint32_t left[2] = {raw[0], raw[1]}, right[2] = {raw[2], raw[3]};
        Number::multiply(value[dim / 8], fragment, Number::prepare(left));
        Number::multiply(value[dim / 8 + 1], fragment, Number::prepare(right));
      }
    }
  }

  /// Adds them to what other kernels have left or will add, times the scale of the weights.
  FUSEDML_DEVICE void store_in_sums(const GradientRowsArguments<Number>& arguments,
                                    int64_t row_begin) const {
    static_assert(!Logit::kUsesNorms);
    const ThreadMap<Tile> map;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = row_begin + map.row(i);
      if (row >= arguments.problem.anchors.embeddings.rows) continue;
      typename GradientSums<Number>::Pair pairs[kMaxDim / 8];
#pragma unroll
      for (int fragment = 0; fragment < kMaxDim / 8; ++fragment)
        pairs[fragment] = {value[fragment][2 * i], value[fragment][2 * i + 1]};
      add_to_sums(arguments.sums, arguments.turn, arguments.weight_scale, row, map.lane_col, pairs);
    }
  }

  /// Writes them, or this split's share of them.
  FUSEDML_DEVICE void store(const GradientRowsArguments<Number>& arguments, int64_t row_begin,
                            int split, Real weight_scale) const {
    const ThreadMap<Tile> map;
    const auto anchors = arguments.problem.anchors.active();
    const int64_t num_rows = arguments.problem.anchors.embeddings.rows;
    const int dims = anchors.dim;
#pragma unroll
    for (int fragment = 0; fragment < kMaxDim / 8; ++fragment)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int64_t row = row_begin + map.row(r / 2);
        const int dim = fragment * 8 + map.lane_col + r % 2;
        if (row >= num_rows || dim >= dims) continue;
        Real sum = value[fragment][r];
        if constexpr (Logit::kUsesNorms) {  // sum_j w_ij (r_j - a_i)
          const bool is_active = row < anchors.rows;
          sum -= weight_sums[r / 2 * 2] *
                 (is_active ? Number::to_real(anchors.data[row * dims + dim]) : Real(0));
        }
        sum /= weight_scale;
        if (arguments.num_splits == 1) {
          arguments.gradient[row * dims + dim] = Number::to_element(sum);
        } else {
          arguments.split_gradients[(split * num_rows + row) * dims + dim] = sum;
        }
      }
  }
};

}  // namespace fusedml
