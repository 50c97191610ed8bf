#pragma once
// Backward, route A: a block owns 64 anchors.  It visits their tiles again, turns similarities into
// pair weights in registers and multiplies those by the reference tile, which still lies in shared
// memory; the gradient stays in registers to the end.  Form of FlashAttention-2, Dao 2023.
#include "core/weighted_sum.cuh"
#include "kernels/pair_weight.cuh"

namespace fusedml {

template <class Number, int kMaxDim>
struct GradientRowsShape {
  using Element = typename Number::Element;
  /// A warp owns 16 whole rows, so that its weights are the A operand of the second product.
  /// Half the columns for fp32, whose reference tiles are twice as large.
  using Tile = TileShape<64, sizeof(Element) == 2 ? 64 : 32, 16, sizeof(Element) == 2 ? 64 : 32>;
  static constexpr int kSlices = kMaxDim / kSliceDepth<Element>;
  static constexpr int kAnchorElements = Tile::kRows * kSliceDepth<Element>;
  static constexpr int kReferenceElements = Tile::kCols * kSliceDepth<Element>;
  static_assert(kMaxDim % kSliceDepth<Element> == 0);
};

template <class Number>
struct GradientRowsArguments {
  using Real = typename Number::Real;
  PairProblem<Number> problem;
  WeightSource source;
  RowVectors<Real, kNumWeightVectors> row_vectors, col_vectors;
  const Real* weight_scale;  ///< one number, or null: 1
  int num_splits;            ///< the columns are divided among so many blocks per row tile
  typename Number::Element* gradient;  ///< [rows, d], written when num_splits is 1
  Real* split_gradients;               ///< [num_splits, rows, d], written otherwise
  double* logit_partials;              ///< [blocks, 4], or null
};

template <class Number, int kMaxDim>
struct GradientRowsShared {
  using Shape = GradientRowsShape<Number, kMaxDim>;
  using Real = typename Number::Real;
  SideTile<Real, Shape::Tile::kRows, kNumWeightVectors> rows;
  SideTile<Real, Shape::Tile::kCols, kNumWeightVectors> cols[2];
};

/// Adds the threads' logit gradients in a fixed order and writes the block's sums.
template <int kThreads, class Real>
FUSEDML_DEVICE void store_logit_gradient(LogitGradient<Real> sums, double* partials) {
  FUSEDML_SHARED(double, of_warp, [kThreads / kWarpSize][4]);
  const int warp = int(threadIdx.x) / kWarpSize, lane = int(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    double sum = sums.value[k];
#pragma unroll
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane == 0) of_warp[warp][k] = sum;
  }
  __syncthreads();  // the warps' sums are complete
  if (threadIdx.x < 4) {
    double sum = 0;
    for (int w = 0; w < kThreads / kWarpSize; ++w) sum += of_warp[w][threadIdx.x];
    partials[threadIdx.x] = sum;
  }
}

template <class Number, class Logit, int kMaxDim>
__global__ void __launch_bounds__(GradientRowsShape<Number, kMaxDim>::Tile::kThreads, 2)
    gradient_rows_kernel(GradientRowsArguments<Number> arguments) {
  using Real = typename Number::Real;
  using Element = typename Number::Element;
  using Shape = GradientRowsShape<Number, kMaxDim>;
  using Tile = typename Shape::Tile;
  using Shared = GradientRowsShared<Number, kMaxDim>;
  const auto& problem = arguments.problem;
  const Logit logit(problem.logit, problem.is_squared_distance);
  const auto anchors = problem.anchors.active(), references = problem.references.active();
  const Real weight_scale = arguments.weight_scale ? *arguments.weight_scale : Real(1);

  const int tile_row = int(blockIdx.x) / arguments.num_splits;
  const int split = int(blockIdx.x) % arguments.num_splits;
  const int64_t row_begin = int64_t(tile_row) * Tile::kRows;
  const int col_tiles = int(ceil_div(references.rows, int64_t(Tile::kCols)));
  const int tiles_per_split = ceil_div(col_tiles, arguments.num_splits);
  TileSequence tiles{tile_row, row_begin < anchors.rows ? tile_row + 1 : tile_row,
                     split * tiles_per_split, min((split + 1) * tiles_per_split, col_tiles)};

  Carver carver;
  Shared& shared = *carver.take<Shared>(1);
  Element* anchor_slices = carver.take<Element>(Shape::kSlices * Shape::kAnchorElements, 128);
  Element* reference_slices =
      carver.take<Element>(2 * Shape::kSlices * Shape::kReferenceElements, 128);
  const auto reference_slice = [&](int buffer, int slice) {
    return reference_slices + (buffer * Shape::kSlices + slice) * Shape::kReferenceElements;
  };
  const auto start_tile = [&](const TilePosition& position, int buffer) {
    if (position.is_valid()) {
      for (int slice = 0; slice < Shape::kSlices; ++slice)
        copy_slice<Tile::kCols, Tile::kThreads>(reference_slice(buffer, slice), references,
                                                int64_t(position.col) * Tile::kCols,
                                                slice * kSliceDepth<Element>);
      shared.cols[buffer].template load<Tile::kThreads>(problem.references, arguments.col_vectors,
                                                        int64_t(position.col) * Tile::kCols,
                                                        references.rows);
    }
    cp_async_commit();
  };

  TilePosition position = tiles.first();
  shared.rows.template load<Tile::kThreads>(problem.anchors, arguments.row_vectors, row_begin,
                                            anchors.rows);
  for (int slice = 0; slice < Shape::kSlices; ++slice)
    copy_slice<Tile::kRows, Tile::kThreads>(anchor_slices + slice * Shape::kAnchorElements, anchors,
                                            row_begin, slice * kSliceDepth<Element>);
  start_tile(position, 0);

  float gradient[kMaxDim / 8][4] = {};  // of the warp's 16 rows, as mma accumulators
  float weight_sums[4] = {};            // [0] and [2]: of rows lane_row and lane_row + 8
  LogitGradient<Real> logit_gradient;
  for (int buffer = 0; position.is_valid(); buffer ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // every thread's part of this tile has landed, and the other buffer, which
                      // start_tile() fills, has been read
    const int64_t col_begin = int64_t(position.col) * Tile::kCols;
    tiles.advance(position);
    start_tile(position, buffer ^ 1);

    TileValues<Real, Tile> values;
    values.clear();
#pragma unroll 1  // the main loop within a slice is long enough
    for (int slice = 0; slice < Shape::kSlices; ++slice)
      multiply_slice<Number, Tile>(values, anchor_slices + slice * Shape::kAnchorElements,
                                   reference_slice(buffer, slice));
    const TilePlace place{row_begin, col_begin, anchors.rows, references.rows,
                          problem.exclude_diagonal};
    to_weights<Number>(values, problem, logit, arguments.source, place, shared.rows,
                       shared.cols[buffer], weight_scale, arguments.logit_partials != nullptr,
                       logit_gradient);

    const auto ones = ones_fragment<Number>();
#pragma unroll
    for (int step = 0; step < Tile::kCols / Number::kProductDepth; ++step) {
      // Columns that do not exist weigh nothing.  The branch keeps ptxas from gathering the
      // additions of several steps, for which fp32 has no registers (255 and spills without it, 233
      // with it).
      if (Number::kIsSplit && step > 0 &&
          col_begin + step * Number::kProductDepth >= references.rows)
        break;
      const auto weights = weight_fragment<Number>(values.fragment[0], step);
      if constexpr (Logit::kUsesNorms) Number::multiply(weight_sums, weights, ones);
#pragma unroll
      for (int dim = 0; dim < kMaxDim; dim += 16) {
        uint32_t raw[4];
        load_embedding_fragments<Number>(raw, reference_slice(buffer, dim / kSliceDepth<Element>),
                                         step * Number::kProductDepth, dim % kSliceDepth<Element>);
        const uint32_t left[2] = {raw[0], raw[1]}, right[2] = {raw[2], raw[3]};
        Number::multiply(gradient[dim / 8], weights, Number::prepare(left));
        Number::multiply(gradient[dim / 8 + 1], weights, Number::prepare(right));
      }
    }
  }
  cp_async_wait<0>();  // nothing is in flight when a block without tiles ends

  const ThreadMap<Tile> map;
  const int64_t num_rows = problem.anchors.embeddings.rows;
  const int dims = anchors.dim;
#pragma unroll
  for (int fragment = 0; fragment < kMaxDim / 8; ++fragment)
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int64_t row = row_begin + map.row(r / 2);
      const int dim = fragment * 8 + map.lane_col + r % 2;
      if (row >= num_rows || dim >= dims) continue;
      Real value = gradient[fragment][r];
      if constexpr (Logit::kUsesNorms) {  // sum_j w_ij (r_j - a_i)
        const bool is_active = row < anchors.rows;
        const Real anchor = is_active ? Number::to_real(anchors.data[row * dims + dim]) : Real(0);
        value -= weight_sums[r / 2 * 2] * anchor;
      }
      value /= weight_scale;
      if (arguments.num_splits == 1) {
        arguments.gradient[row * dims + dim] = Number::to_element(value);
      } else {
        arguments.split_gradients[(split * num_rows + row) * dims + dim] = value;
      }
    }
  if (arguments.logit_partials != nullptr)
    store_logit_gradient<Tile::kThreads>(logit_gradient,
                                         arguments.logit_partials + 4 * int64_t(blockIdx.x));
}

}  // namespace fusedml
