#pragma once
// Backward, route A, on Hopper's instructions: a block owns 128 anchors of at most 128 dimensions,
// and their gradient by all plain pairs stays in registers.
#include "core/stage_ring.cuh"
#include "hopper/operators.h"
#include "hopper/similarities.cuh"
#include "hopper/warpgroup_roles.cuh"
#include "kernels/gradient_line.cuh"
#include "logits/affine.h"

namespace fusedml {

/// 128 references at a time, of which one copy in shared memory serves both products: as rows of
/// similarities and, read along its other index, as embeddings.
template <int kDim_, int kStages_>
struct HopperRowsTile {
  static constexpr int kDim = kDim_, kStages = kStages_, kRows = 128, kCols = 128;
  static constexpr int kThreads = 384;
  static constexpr int kSlices = kDim / kBoxCols;
  static constexpr int kSliceBytes = kRows * kBoxRowBytes;  ///< of both sides
  static constexpr int kStageBytes = kSlices * kSliceBytes;
  static constexpr int kBytes = (kStages + 1) * kStageBytes;  ///< with the anchors
};

template <class Number, class Tile>
class HopperRowsBlock {
 public:
  static constexpr int kConsumingWarps = 8;
  static constexpr int kBarriers = StageRing<Tile::kStages>::kBarriers + 1;
  using Similarities = float[Tile::kCols / 2];
  using Gradient = float[Tile::kDim / 2];
  using Weights = uint32_t[Tile::kCols / 16][4];  ///< of a tile, as operand A

  FUSEDML_DEVICE HopperRowsBlock(const HopperRowsArguments<Number>& arguments, uint64_t* barriers)
      : arguments_(arguments),
        scale_(plain_scale<Number>(arguments.logit)),
        ring_(barriers),
        anchors_full_(shared_address(barriers + kBarriers - 1)) {
    AlignedCarver<kAtomBytes> carver;
    anchors_ = shared_address(carver.take<unsigned char>(Tile::kStageBytes, kAtomBytes));
    stages_ =
        shared_address(carver.take<unsigned char>(Tile::kStages * Tile::kStageBytes, kAtomBytes));
    if (threadIdx.x == 0) {
      ring_.initialise(kConsumingWarps);
      mbarrier_init(anchors_full_, 1);
      fence_mbarrier_init();
    }
    __syncthreads();  // the barriers are initialised; from here on the roles never meet
  }

  /// By one thread.
  FUSEDML_DEVICE void produce(const TensorMap& anchors, const TensorMap& references) {
    int col = next_plain(0);
    if (col == kNone) return;
    mbarrier_arrive_expecting(anchors_full_, Tile::kStageBytes);
    copy(anchors_, anchors, anchors_full_, int(blockIdx.x) * Tile::kRows);
    for (; col != kNone; col = next_plain(col + 1)) {
      ring_.start_filling(Tile::kStageBytes);
      copy(stages_ + ring_.stage() * Tile::kStageBytes, references, ring_.full(),
           col * Tile::kCols);
      ring_.advance();
    }
  }

  /// By a warpgroup, number 0 or 1.
  FUSEDML_DEVICE void consume(int consumer) {
    consumer_ = consumer;
    Gradient gradient;
#pragma unroll
    for (int i = 0; i < Tile::kDim / 2; ++i) gradient[i] = 0.f;
    int col = next_plain(0);
    if (col != kNone) {
      mbarrier_wait(anchors_full_, 0);
      sum_over_tiles(gradient, col);
    }
    store(gradient);
  }

 private:
  static constexpr int kNone = -1;

  /// The first plain tile of this block's anchors from `col` on, in tiles.
  FUSEDML_DEVICE int next_plain(int col) const {
    const int64_t row = int64_t(blockIdx.x) * Tile::kRows;
    for (; int64_t(col) * Tile::kCols < arguments_.squares.cols; ++col)
      if (arguments_.squares.holds(row, int64_t(col) * Tile::kCols, scale_)) return col;
    return kNone;
  }

  FUSEDML_DEVICE static void copy(SharedAddress to, const TensorMap& map, SharedAddress barrier,
                                  int row) {
#pragma unroll
    for (int slice = 0; slice < Tile::kSlices; ++slice)
      copy_box(to + slice * Tile::kSliceBytes, map, barrier, row, slice * kBoxCols);
  }

  /// The similarities of a tile are multiplied while the weights of the one before it are, and the
  /// exponentials of a tile are taken during the latter.
  FUSEDML_DEVICE void sum_over_tiles(Gradient& gradient, int col) {
    Similarities values;
    Weights weights;
    ring_.wait_until_full();
    start_similarities(values);
    wgmma_wait<0>();
    hold(values);
    weigh(values, col);
    pack(weights, values);
    int previous = ring_.stage();
    ring_.advance();
    col = next_plain(col + 1);
    if (col != kNone) ring_.wait_until_full();
    while (col != kNone) {
      start_similarities(values);
      start_gradient(gradient, weights, previous);
      wgmma_wait<1>();  // the similarities are there
      hold(values);
      weigh(values, col);
      const int current = ring_.stage();
      ring_.advance();
      col = next_plain(col + 1);
      // A branch has to stand between the exponentials and the next wait: within one basic block
      // ptxas sinks them below it, and nothing overlaps.
      if (col != kNone) ring_.wait_until_full();
      wgmma_wait<0>();
      release(previous);
      hold(gradient);
      pack(weights, values);
      previous = current;
    }
    start_gradient(gradient, weights, previous);
    wgmma_wait<0>();
    release(previous);
    hold(gradient);
  }

  FUSEDML_DEVICE void start_similarities(Similarities& values) const {
    const uint64_t anchors = wgmma_operand(anchors_ + consumer_ * 64 * kBoxRowBytes);
    const uint64_t references = wgmma_operand(stages_ + ring_.stage() * Tile::kStageBytes);
    constexpr uint64_t kNextSlice = Tile::kSliceBytes >> 4;
    wgmma_fence();
#pragma unroll
    for (int slice = 0; slice < Tile::kSlices; ++slice)
#pragma unroll
      for (int step = 0; step < kBoxCols / 16; ++step)
        wgmma<kWgmmaType<Number>, Major::kDepth, Major::kDepth>(
            values, advanced<Major::kDepth>(anchors + slice * kNextSlice, step),
            advanced<Major::kDepth>(references + slice * kNextSlice, step), slice + step > 0);
    wgmma_commit();
  }

  FUSEDML_DEVICE void start_gradient(Gradient& gradient, const Weights& weights, int stage) const {
    const uint64_t references =
        wgmma_operand(stages_ + stage * Tile::kStageBytes, Tile::kSliceBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Tile::kCols / 16; ++step)
      wgmma<kWgmmaType<Number>, Major::kLines>(gradient, weights[step],
                                               advanced<Major::kLines>(references, step), true);
    wgmma_commit();
  }

  /// Similarities become weights.
  FUSEDML_DEVICE void weigh(Similarities& values, int col) const {
    const float* row_factors = arguments_.row_factors + own_row();
    const float of_row[2] = {row_factors[0], row_factors[8]};
    const int64_t first_col = int64_t(col) * Tile::kCols + thread_col();
#pragma unroll
    for (int j = 0; j < Tile::kCols / 8; ++j) {
      const float2 of_col =
          arguments_.col_factors == nullptr
              ? make_float2(0.f, 0.f)
              : *reinterpret_cast<const float2*>(arguments_.col_factors + first_col + 8 * j);
#pragma unroll
      for (int r = 0; r < 4; ++r)
        values[4 * j + r] = Number::exponential_of_scaled(scale_ * values[4 * j + r]) *
                            (of_row[r / 2] + (r % 2 ? of_col.y : of_col.x));
    }
  }

  FUSEDML_DEVICE static void pack(Weights& weights, const Similarities& values) {
#pragma unroll
    for (int step = 0; step < Tile::kCols / 16; ++step)
#pragma unroll
      for (int r = 0; r < 4; ++r)
        weights[step][r] = Number::pack(values[8 * step + 2 * r], values[8 * step + 2 * r + 1]);
  }

  FUSEDML_DEVICE void release(int stage) const {
    if (threadIdx.x % kWarpSize == 0) ring_.release(stage);
  }

  FUSEDML_DEVICE int64_t own_row() const {
    return int64_t(blockIdx.x) * Tile::kRows + consumer_ * 64 + thread_row();
  }

  FUSEDML_DEVICE void store(const Gradient& gradient) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = own_row() + 8 * h;
      if (row >= arguments_.squares.rows) continue;
      typename GradientSums<Number>::Pair pairs[Tile::kDim / 8];
#pragma unroll
      for (int j = 0; j < Tile::kDim / 8; ++j)
        pairs[j] = {gradient[4 * j + 2 * h], gradient[4 * j + 2 * h + 1]};
      add_to_sums(arguments_.sums, arguments_.turn, arguments_.weight_scale, row, thread_col(),
                  pairs);
    }
  }

  const HopperRowsArguments<Number>& arguments_;
  float scale_;  ///< times log2(e)
  StageRing<Tile::kStages> ring_;
  SharedAddress anchors_full_, anchors_, stages_;
  int consumer_ = 0;
};

template <class Number, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    hopper_rows_kernel(const __grid_constant__ TensorMap anchors,
                       const __grid_constant__ TensorMap references,
                       const __grid_constant__ HopperRowsArguments<Number> arguments) {
  using Block = HopperRowsBlock<Number, Tile>;
  FUSEDML_SHARED(uint64_t, barriers, [Block::kBarriers]);
  Block block(arguments, barriers);
  run_warpgroups(block, anchors, references);
}

}  // namespace fusedml
