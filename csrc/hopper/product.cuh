#pragma once
// Backward, route B, second half, with Hopper's own instructions: gradient += H E for a panel H of
// weights and the embeddings E of its columns, and for the columns H^T E with those of its rows.
#include "core/stage_ring.cuh"
#include "hopper/operators.h"
#include "hopper/product_tile.h"
#include "hopper/warpgroup_roles.cuh"
#include "hopper/wgmma_type.cuh"
#include "kernels/gradient_line.cuh"

namespace fusedml {

/// What the copy unit knows of the panel and the embeddings.  Those of the embeddings end where the
/// panel does: beyond it weights are zero, and 0 times an infinite embedding would be NaN.
struct HopperProductMaps {
  TensorMap weights;       ///< boxes of kRows x 64 of the panel
  TensorMap weights_deep;  ///< boxes of kDepth x 64 of the panel, which the tensor cores transpose
  TensorMap cols, rows;    ///< boxes of kDepth x 64 of the embeddings of the panel's columns, rows
};

/// The tiles of a launch, in order: those of the rows first, then those of the columns.
template <class Number, class Tile>
class HopperProductTiles {
 public:
  FUSEDML_HOST_DEVICE explicit HopperProductTiles(const HopperProductArguments<Number>& arguments)
      : arguments_(arguments),
        dim_tiles_(ceil_div(arguments.sums.dims, Tile::kDims)),
        of_rows_(arguments.feeds_rows ? tiles_of(arguments.rows) : 0),
        of_cols_(arguments.feeds_cols ? tiles_of(arguments.cols) : 0) {}

  FUSEDML_HOST_DEVICE int count() const { return of_rows_ + of_cols_; }
  FUSEDML_HOST_DEVICE bool is_of_cols(int tile) const { return tile >= of_rows_; }
  /// First row or column of the panel.
  FUSEDML_HOST_DEVICE int line(int tile) const { return own(tile) / dim_tiles_ * Tile::kRows; }
  FUSEDML_HOST_DEVICE int dim(int tile) const { return own(tile) % dim_tiles_ * Tile::kDims; }
  /// Slices of the panel's other lines.
  FUSEDML_HOST_DEVICE int slices(int tile) const {
    return int(
        ceil_div(is_of_cols(tile) ? arguments_.rows : arguments_.cols, int64_t(Tile::kDepth)));
  }

 private:
  FUSEDML_HOST_DEVICE int tiles_of(int64_t lines) const {
    return int(ceil_div(lines, int64_t(Tile::kRows))) * dim_tiles_;
  }
  FUSEDML_HOST_DEVICE int own(int tile) const { return is_of_cols(tile) ? tile - of_rows_ : tile; }

  const HopperProductArguments<Number>& arguments_;
  int dim_tiles_, of_rows_, of_cols_;
};

/// One block, which visits every gridDim.x-th tile.
template <class Number, class Tile>
class HopperProductBlock {
 public:
  static constexpr int kSums = Tile::kDims / 2;  ///< of a thread
  static constexpr int kConsumingWarps = 8;
  static constexpr int kPairs = kSums / 4;  ///< of dimensions, of one of a thread's two lines
  using Sums = float[kSums];
  using Pair = typename GradientSums<Number>::Pair;

  FUSEDML_DEVICE HopperProductBlock(const HopperProductArguments<Number>& arguments,
                                    uint64_t* barriers)
      : arguments_(arguments), tiles_(arguments), ring_(barriers) {
    AlignedCarver<kAtomBytes> carver;
    stages_ = shared_address(carver.take<unsigned char>(Tile::kBytes, kAtomBytes));
    if (threadIdx.x == 0) {
      ring_.initialise(kConsumingWarps);
      fence_mbarrier_init();
    }
    __syncthreads();  // the ring is initialised; from here on the roles never meet
  }

  /// By one thread.
  FUSEDML_DEVICE void produce(const TensorMap& weights, const TensorMap& weights_deep,
                              const TensorMap& cols, const TensorMap& rows) {
    for (int tile = int(blockIdx.x); tile < tiles_.count(); tile += int(gridDim.x)) {
      const bool is_of_cols = tiles_.is_of_cols(tile);
      const int line = tiles_.line(tile), dim = tiles_.dim(tile), slices = tiles_.slices(tile);
      for (int slice = 0; slice < slices; ++slice) {
        const int depth = slice * Tile::kDepth;
        ring_.start_filling(Tile::kStageBytes);
        const SharedAddress stage = stages_ + ring_.stage() * Tile::kStageBytes;
        if (is_of_cols) {
          copy_box(stage, weights_deep, ring_.full(), depth, line);
          copy_box(stage + Tile::kSliceBytes, weights_deep, ring_.full(), depth, line + kBoxCols);
          copy_embeddings(stage, rows, int(arguments_.row_begin) + depth, dim);
        } else {
          copy_box(stage, weights, ring_.full(), line, depth);
          copy_embeddings(stage, cols, int(arguments_.col_begin) + depth, dim);
        }
        ring_.advance();
      }
    }
  }

  /// By a warpgroup, number 0 or 1.
  FUSEDML_DEVICE void consume(int consumer) {
    for (int tile = int(blockIdx.x); tile < tiles_.count(); tile += int(gridDim.x)) {
      // two copies: the operands' layout is part of the instruction
      if (tiles_.is_of_cols(tile)) {
        compute<true>(tile, consumer);
      } else {
        compute<false>(tile, consumer);
      }
    }
  }

 private:
  FUSEDML_DEVICE void copy_embeddings(SharedAddress stage, const TensorMap& map, int row,
                                      int dim) const {
#pragma unroll
    for (int slice = 0; slice < Tile::kDims / kBoxCols; ++slice)
      copy_box(stage + Tile::kWeightBytes + slice * Tile::kSliceBytes, map, ring_.full(), row,
               dim + slice * kBoxCols);
  }

  template <bool kTransposed>
  FUSEDML_DEVICE void compute(int tile, int consumer) {
    Sums d;
    const int slices = tiles_.slices(tile);
    // The first slice has a copy of its own: a loop that both clears and adds is serialised
    // (ptxas).
    multiply_slice<kTransposed>(d, consumer, /*is_first=*/true);
    int previous = ring_.stage();
    ring_.advance();
    for (int slice = 1; slice < slices; ++slice) {
      multiply_slice<kTransposed>(d, consumer, /*is_first=*/false);
      wgmma_wait<1>();  // the slice before this one has been read
      release(previous);
      previous = ring_.stage();
      ring_.advance();
    }
    wgmma_wait<0>();
    release(previous);
    hold(d);  // below the arrival, or that sinks into what follows
    store<kTransposed>(d, tiles_.line(tile) + consumer * 64, tiles_.dim(tile));
  }

  template <bool kTransposed>
  FUSEDML_DEVICE void multiply_slice(Sums& d, int consumer, bool is_first) const {
    constexpr Major kMajorOfWeights = kTransposed ? Major::kLines : Major::kDepth;
    ring_.wait_until_full();
    const SharedAddress stage = stages_ + ring_.stage() * Tile::kStageBytes;
    // both layouts: this group's 64 lines are 64 rows of 128 bytes further, or a box further
    const uint64_t weights = wgmma_operand(stage + consumer * Tile::kSliceBytes);
    const uint64_t embeddings = wgmma_operand(stage + Tile::kWeightBytes, Tile::kSliceBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Tile::kDepth / 16; ++step)
      wgmma<kWgmmaType<Number>, kMajorOfWeights, Major::kLines>(
          d, advanced<kMajorOfWeights>(weights, step), advanced<Major::kLines>(embeddings, step),
          !is_first || step > 0);
    wgmma_commit();
  }

  /// By one lane of each warp.
  FUSEDML_DEVICE void release(int stage) const {
    if (threadIdx.x % kWarpSize == 0) ring_.release(stage);
  }

  /// This thread's two lines: `line` is the group's first.
  template <bool kTransposed>
  FUSEDML_DEVICE void store(const Sums& d, int line, int dim) const {
    const int warp = int(threadIdx.x) / kWarpSize % 4, lane = int(threadIdx.x) % kWarpSize;
    const int64_t lines = kTransposed ? arguments_.cols : arguments_.rows;
    const int64_t begin = kTransposed ? arguments_.col_begin : arguments_.row_begin;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int own = line + 16 * warp + lane / 4 + 8 * h;
      if (own >= lines) continue;
      Pair pairs[kPairs];
#pragma unroll
      for (int j = 0; j < kPairs; ++j) pairs[j] = {d[4 * j + 2 * h], d[4 * j + 2 * h + 1]};
      add_to_sums(arguments_.sums, kTransposed ? arguments_.of_cols : arguments_.of_rows,
                  arguments_.weight_scale, begin + own, dim + lane % 4 * 2, pairs);
    }
  }

  const HopperProductArguments<Number>& arguments_;
  HopperProductTiles<Number, Tile> tiles_;
  StageRing<Tile::kStages> ring_;
  SharedAddress stages_;
};

template <class Number, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    hopper_product_kernel(const __grid_constant__ TensorMap weights,
                          const __grid_constant__ TensorMap weights_deep,
                          const __grid_constant__ TensorMap cols,
                          const __grid_constant__ TensorMap rows,
                          const __grid_constant__ HopperProductArguments<Number> arguments) {
  FUSEDML_SHARED(uint64_t, barriers, [StageRing<Tile::kStages>::kBarriers]);
  HopperProductBlock<Number, Tile> block(arguments, barriers);
  run_warpgroups(block, weights, weights_deep, cols, rows);
}

}  // namespace fusedml
