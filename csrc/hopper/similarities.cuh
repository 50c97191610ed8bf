#pragma once
// Tiles of similarities on Hopper's instructions: S = A R^T, a producing thread and two warpgroups
// of which each has half of a tile's rows.
#include "core/stage_ring.cuh"
#include "hopper/wgmma_type.cuh"

namespace fusedml {

/// Producer and consumers have one each, and go through the same tiles.  Uses named barrier 1.
template <class Number, class Tile>
class HopperSimilarities {
 public:
  static constexpr int kSums = Tile::kCols / 2;  ///< similarities of a thread
  static constexpr int kConsumingWarps = 8, kConsumers = 2 * kWarpgroupSize;
  using Values = float[kSums];

  /// barriers: of a StageRing.  The caller's next barrier of the block publishes the ring, after
  /// fence_mbarrier_init by thread 0.
  FUSEDML_DEVICE HopperSimilarities(uint64_t* barriers, int dim) : ring_(barriers), dim_(dim) {
    AlignedCarver<kAtomBytes> carver;
    stages_ = shared_address(carver.take<unsigned char>(Tile::kBytes, kAtomBytes));
    if (threadIdx.x == 0) ring_.initialise(kConsumingWarps);
  }

  /// By one thread.
  FUSEDML_DEVICE void fill(const TensorMap& anchors, const TensorMap& references, int row,
                           int col) {
    for (int depth = 0; depth < dim_; depth += Tile::kDepth) {
      ring_.start_filling(Tile::kStageBytes);
      const SharedAddress stage = stages_ + ring_.stage() * Tile::kStageBytes;
      copy_box(stage, anchors, ring_.full(), row, depth);
      copy_box(stage + Tile::kRowBytes, references, ring_.full(), col, depth);
      ring_.advance();
    }
  }

  /// By a warpgroup, number 0 or 1, before its first tile.  The second one begins when the first
  /// has two slices under way, and then works while that is in its epilogue: nothing may let the
  /// groups meet again.
  FUSEDML_DEVICE void begin(int consumer) {
    consumer_ = consumer;
    if (consumer == 1) bar_sync<1>(kConsumers);
    is_ahead_ = consumer == 0;
  }

  /// This group's half of the next tile.
  FUSEDML_DEVICE void multiply(Values& d) {
    const int slices = ceil_div(dim_, Tile::kDepth);
    // The first slice has a copy of its own: a loop that both clears and adds is serialised
    // (ptxas).
    multiply_slice(d, /*is_first=*/true);
    int previous = ring_.stage();
    ring_.advance();
    if (is_ahead_ && slices == 1) signal();
    for (int slice = 1; slice < slices; ++slice) {
      multiply_slice(d, /*is_first=*/false);
      if (is_ahead_) signal();  // once, when two slices are under way; later, it may never come
      wgmma_wait<1>();          // the slice before this one has been read
      release(previous);
      previous = ring_.stage();
      ring_.advance();
    }
    wgmma_wait<0>();
    release(previous);
    hold(d);  // below the arrival, or that sinks into what follows
  }

  /// After the last tile, of which there may be none.
  FUSEDML_DEVICE void end() {
    if (is_ahead_) signal();
  }

 private:
  FUSEDML_DEVICE void signal() {
    bar_arrive<1>(kConsumers);
    is_ahead_ = false;
  }

  FUSEDML_DEVICE void multiply_slice(Values& d, bool is_first) const {
    ring_.wait_until_full();
    const SharedAddress stage = stages_ + ring_.stage() * Tile::kStageBytes;
    const uint64_t anchors = wgmma_operand(stage + consumer_ * 64 * kBoxRowBytes);
    const uint64_t references = wgmma_operand(stage + Tile::kRowBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Tile::kDepth / 16; ++step)
      wgmma<kWgmmaType<Number>, Major::kDepth, Major::kDepth>(
          d, advanced<Major::kDepth>(anchors, step), advanced<Major::kDepth>(references, step),
          !is_first || step > 0);
    wgmma_commit();
  }

  FUSEDML_DEVICE void release(int stage) const {
    if (threadIdx.x % kWarpSize == 0) ring_.release(stage);
  }

  StageRing<Tile::kStages> ring_;
  SharedAddress stages_;
  int dim_, consumer_ = 0;
  bool is_ahead_ = false;
};

/// Where a consuming thread's similarities lie in its group's 64 rows: d[4 j + 2 h + b] is of row
/// thread_row() + 8 h and column thread_col() + 8 j + b.
FUSEDML_DEVICE int thread_row() {
  return 16 * (int(threadIdx.x) / kWarpSize % 4) + int(threadIdx.x) % kWarpSize / 4;
}
FUSEDML_DEVICE int thread_col() { return int(threadIdx.x) % 4 * 2; }

}  // namespace fusedml
