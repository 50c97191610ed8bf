#pragma once
// A small kernel with all that the large ones have: a producer, a ring of stages, two consuming
// warpgroups of which one comes later, sums that are handed over.  With a mistake it breaks a rule
// of csrc/hopper/README.md.
#include "core/stage_ring.cuh"

namespace fusedml::units {

enum class RingMistake {
  kNone,
  kReleasesBeforeWait,
  kNeverWaitsForStage,
  kWrongParity,
  kReadsSumsInFlight,
  kWritesSumsInFlight,
  kNoFence,
  kNoLastWait,
  kNeverCommits,
  kOperandOfThread,
  kWarpSkipsProduct,
  kShortStride,
  kWrongAdvance,
  kWrongMajor,
  kExpectsLess,
  kExpectsMore,
  kBoxTooFew,
  kEveryLaneArrives,
  kTooFewArrivals,
  kNoInitialisingFence,
  kInitialisedTwice,
  kParityStays,
  kBoxOffAtom,
  kTooManyRegisters,
  kOneStageTooMany,
  kLateSignal,
  kReadsBeforeHandOver,
  kOverwritesHandOver,
};

struct RingArguments {
  int slices, tiles;
  float* product;      ///< [128 tiles, 64]
  float* column_sums;  ///< [tiles, 64], of the tile's 128 rows
  RingMistake mistake;
};

/// product = A B^T for a [128 tiles, depth] in boxes of 128 rows and b [depth, 64] in boxes of 64,
/// as integers that are exact.  One block of 384 threads.  A GPU's version makes no mistake.
template <bool kMayErr>
class RingBlock {
 public:
  static constexpr int kStages = 3, kRows = 128, kCols = 64, kSums = kCols / 2;
  static constexpr int kABytes = kRows * kBoxRowBytes, kBBytes = 64 * kBoxRowBytes;
  static constexpr int kStageBytes = kABytes + kBBytes;
  static constexpr int kConsumingWarps = 8, kConsumers = 2 * kWarpgroupSize;
  using Parts = float[2][4][kCols];

  FUSEDML_DEVICE RingBlock(const RingArguments& arguments, uint64_t* barriers)
      : arguments_(arguments), ring_(barriers) {
    AlignedCarver<kAtomBytes> carver;
    stages_ = shared_address(carver.take<unsigned char>(kStages * kStageBytes, kAtomBytes));
    if (threadIdx.x == 0) {
      ring_.initialise(errs(RingMistake::kTooFewArrivals) ? kConsumingWarps / 2 : kConsumingWarps);
      if (!errs(RingMistake::kNoInitialisingFence)) fence_mbarrier_init();
    }
    if (threadIdx.x == 1 && errs(RingMistake::kInitialisedTwice)) ring_.initialise(kConsumingWarps);
    __syncthreads();  // the ring is initialised
  }

  /// By one thread.
  FUSEDML_DEVICE void produce(const TensorMap& a_map, const TensorMap& b_map) {
    for (int tile = 0; tile < arguments_.tiles; ++tile) {
      for (int slice = 0; slice < arguments_.slices; ++slice)
        fill(a_map, b_map, tile * kRows, slice * kBoxCols);
    }
    if (errs(RingMistake::kOneStageTooMany)) fill(a_map, b_map, 0, 0);
  }

  /// By a warpgroup.
  FUSEDML_DEVICE void consume(int consumer, Parts& parts) {
    if (consumer == 1) bar_sync<1>(kConsumers);  // begins when the other one has work under way
    is_ahead_ = consumer == 0;
    for (int tile = 0; tile < arguments_.tiles; ++tile) {
      float d[kSums];
      multiply_tile(d, consumer);
      if (tile + 1 < arguments_.tiles || !errs(RingMistake::kNoLastWait)) wgmma_wait<0>();
      release(previous_);
      hold(d);
      if (errs(RingMistake::kReadsSumsInFlight)) d[1] = early_;
      store(d, tile * kRows + consumer * 64);
      hand_over(d, consumer, tile, parts);
    }
  }

 private:
  FUSEDML_DEVICE bool errs(RingMistake mistake) const {
    return kMayErr && arguments_.mistake == mistake;
  }

  FUSEDML_DEVICE void fill(const TensorMap& a_map, const TensorMap& b_map, int row, int col) {
    int bytes = kStageBytes;
    if (errs(RingMistake::kExpectsLess)) bytes -= kBBytes;
    if (errs(RingMistake::kExpectsMore)) bytes += kBBytes;
    ring_.start_filling(bytes);
    const SharedAddress stage = stages_ + ring_.stage() * kStageBytes;
    copy_box(stage + (errs(RingMistake::kBoxOffAtom) ? 128 : 0), a_map, ring_.full(), row, col);
    if (!errs(RingMistake::kBoxTooFew)) copy_box(stage + kABytes, b_map, ring_.full(), col, 0);
    ring_.advance();
  }

  FUSEDML_DEVICE void multiply_tile(float (&d)[kSums], int consumer) {
    for (int slice = 0; slice < arguments_.slices; ++slice) {
      multiply_slice(d, consumer, slice == 0);
      // Once: two slices are under way, or the only one.
      const bool is_late = errs(RingMistake::kLateSignal);
      if (is_ahead_ && !is_late && slice == (arguments_.slices > 1)) signal();
      const int reading = ring_.stage();
      if (errs(RingMistake::kParityStays) && ring_.stage() == kStages - 1)
        ring_ = fresh_;
      else
        ring_.advance();
      if (slice > 0) {
        if (errs(RingMistake::kReleasesBeforeWait)) release(previous_);
        wgmma_wait<1>();
        if (!errs(RingMistake::kReleasesBeforeWait)) release(previous_);
      }
      previous_ = reading;
      if (is_ahead_ && is_late && slice + 1 == arguments_.slices) {
        wgmma_wait<0>();
        signal();
      }
    }
    if (errs(RingMistake::kReadsSumsInFlight)) early_ = d[1];
    if (errs(RingMistake::kWritesSumsInFlight)) d[5] = 0.f;
  }

  FUSEDML_DEVICE void signal() {
    bar_arrive<1>(kConsumers);
    is_ahead_ = false;
  }

  FUSEDML_DEVICE void multiply_slice(float (&d)[kSums], int consumer, bool is_first) {
    if (errs(RingMistake::kWrongParity)) {
      mbarrier_wait(ring_.full(), 1);
    } else if (!errs(RingMistake::kNeverWaitsForStage)) {
      ring_.wait_until_full();
    }
    const SharedAddress stage = stages_ + ring_.stage() * kStageBytes;
    uint64_t a = wgmma_operand(stage + consumer * 64 * kBoxRowBytes);
    const uint64_t b = wgmma_operand(stage + kABytes, kBBytes);
    if (errs(RingMistake::kShortStride)) a -= uint64_t(512 >> 4) << 32;
    if (errs(RingMistake::kOperandOfThread)) a += threadIdx.x % 2;
    const int stride = errs(RingMistake::kWrongAdvance) ? 2 : 1;
    if (!errs(RingMistake::kNoFence)) wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const bool skips = errs(RingMistake::kWarpSkipsProduct) && step == 3 && threadIdx.x / 32 == 6;
      if (skips) continue;
      const uint64_t a_step = advanced<Major::kDepth>(a, step * stride % 4);
      const uint64_t b_step = advanced<Major::kLines>(b, step);
      const bool adds = !is_first || step > 0;
      if (errs(RingMistake::kWrongMajor)) {
        wgmma<WgmmaType::kBf16, Major::kLines, Major::kLines>(d, a_step, b_step, adds);
      } else {
        wgmma<WgmmaType::kBf16, Major::kDepth, Major::kLines>(d, a_step, b_step, adds);
      }
    }
    if (!errs(RingMistake::kNeverCommits)) wgmma_commit();
  }

  FUSEDML_DEVICE void release(int stage) {
    if (threadIdx.x % 32 == 0 || errs(RingMistake::kEveryLaneArrives)) ring_.release(stage);
  }

  FUSEDML_DEVICE void store(const float (&d)[kSums], int row_begin) const {
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    for (int r = 0; r < kSums; ++r)
      arguments_.product[(row_begin + 16 * warp + lane / 4 + 8 * (r / 2 % 2)) * kCols + r / 4 * 8 +
                         2 * (lane % 4) + r % 2] = d[r];
  }

  /// The first group leaves the sums of its columns, the second one adds its own and stores them.
  FUSEDML_DEVICE void hand_over(const float (&d)[kSums], int consumer, int tile, Parts& parts) {
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, thread = threadIdx.x % 128;
    if (consumer == 0 && tile > 0) {
      if (errs(RingMistake::kOverwritesHandOver))
        bar_arrive<3>(kConsumers);
      else
        bar_sync<3>(kConsumers);  // the second group has read what lies there
    }
    if (consumer == 1) bar_sync<4>(kWarpgroupSize);  // and so have its own warps
    for (int j = 0; j < kCols / 8; ++j) {
      for (int b = 0; b < 2; ++b) {
        float sum = d[4 * j + b] + d[4 * j + 2 + b];
        for (int distance = 4; distance < 32; distance *= 2) sum += shuffle_xor(sum, distance);
        if (lane < 4) parts[consumer][warp][8 * j + 2 * lane + b] = sum;
      }
    }
    if (consumer == 0) {
      // or it would run ahead by a whole tile, and its arrivals make up a barrier without the other
      if (errs(RingMistake::kOverwritesHandOver))
        bar_sync<2>(kConsumers);
      else
        bar_arrive<2>(kConsumers);
      return;
    }
    bar_sync<5>(kWarpgroupSize);  // the group's own parts are there
    if (errs(RingMistake::kReadsBeforeHandOver))
      bar_arrive<2>(kConsumers);
    else
      bar_sync<2>(kConsumers);  // the other group's parts are there
    if (thread < kCols) {
      float sum = 0.f;
      for (int part = 0; part < 8; ++part) sum += parts[part / 4][part % 4][thread];
      arguments_.column_sums[tile * kCols + thread] = sum;
    }
    if (tile + 1 < arguments_.tiles) bar_arrive<3>(kConsumers);
  }

  const RingArguments& arguments_;
  StageRing<kStages> ring_;
  const StageRing<kStages> fresh_ = ring_;
  SharedAddress stages_;
  int previous_ = 0;
  bool is_ahead_ = false;
  float early_ = 0.f;
};

template <bool kMayErr>
__global__ void __launch_bounds__(384, 1)
    ring_kernel(const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap b_map,
                const __grid_constant__ RingArguments arguments) {
  FUSEDML_SHARED(uint64_t, barriers, [StageRing<RingBlock<kMayErr>::kStages>::kBarriers]);
  FUSEDML_SHARED(float, parts, [2][4][RingBlock<kMayErr>::kCols]);
  RingBlock<kMayErr> block(arguments, barriers);
  const int group = shuffle(int(threadIdx.x / kWarpgroupSize), 0);
  if (group == 0) {
    if (kMayErr && arguments.mistake == RingMistake::kTooManyRegisters) {
      give_registers<40>();
    } else {
      give_registers<24>();
    }
    if (threadIdx.x == 0) block.produce(a_map, b_map);
    return;
  }
  take_registers<240>();
  block.consume(group - 1, parts);
}

}  // namespace fusedml::units
