#pragma once
// A ring of stages in shared memory between one thread that has boxes copied into it and the warps
// that multiply them.
#include "core/hopper_primitives.cuh"

namespace fusedml {

/// `full` of a stage ends a phase when its bytes have landed, `empty` when all consuming warps have
/// read them.  Each side has a ring of its own, which visits the stages one after the other.
template <int kStages>
class StageRing {
 public:
  static constexpr int kBarriers = 2 * kStages;

  /// barriers: [kBarriers] in shared memory.
  FUSEDML_DEVICE explicit StageRing(uint64_t* barriers)
      : full_(shared_address(barriers)), empty_(full_ + 8 * kStages) {}

  /// By one thread, before fence_mbarrier_init and a barrier of the block.
  FUSEDML_DEVICE void initialise(int consuming_warps) const {
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full_ + 8 * s, 1);
      mbarrier_init(empty_ + 8 * s, consuming_warps);
    }
  }

  FUSEDML_DEVICE int stage() const { return stage_; }
  FUSEDML_DEVICE void advance() {
    if (++stage_ == kStages) {
      stage_ = 0;
      parity_ ^= 1;
    }
  }

  // --- the producing thread ---

  /// Waits until the stage may be filled, and announces its bytes.
  FUSEDML_DEVICE void start_filling(int bytes) const {
    mbarrier_wait(empty_ + 8 * stage_, parity_ ^ 1);
    mbarrier_arrive_expecting(full(), bytes);
  }
  /// On which the stage's copies complete.
  FUSEDML_DEVICE SharedAddress full() const { return full_ + 8 * stage_; }

  // --- the consuming warps ---

  FUSEDML_DEVICE void wait_until_full() const { mbarrier_wait(full(), parity_); }
  /// By one lane of each warp, when wgmma_wait has covered what reads the stage.
  FUSEDML_DEVICE void release(int stage) const { mbarrier_arrive(empty_ + 8 * stage); }

 private:
  SharedAddress full_, empty_;
  int stage_ = 0, parity_ = 0;
};

}  // namespace fusedml
