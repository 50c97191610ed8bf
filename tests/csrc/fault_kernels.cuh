#pragma once
// Kernels that break one rule each; the engine or a sanitizer must say so.
#include "core/primitives.cuh"

namespace fusedml::units {

enum class Mistake {
  kDivergentCollective,
  kForeignMask,
  kShuffleWidth,
  kTooManyMasks,
  kMmaWithoutALane,
  kMissedBarrier,
  kDivergentBarrier,
  kBarrierCount,
  kBarrierCountMismatch,
  kMisalignedLdmatrix,
  kLdmatrixOutside,
  kCopyOutside,
  kMisalignedCopySource,
  kMisalignedCopyDestination,
  kCopySize,
  kCopyNeverAwaited,
  kGlobalAsShared,
  kMisalignedAtomic,
  kCarveTooMuch,
  kCarveDifferently,
  kCarveAlignment,
  kTooMuchStatic,
  kUnroundedTf32,
};

/// One warp (kBarrierCountMismatch: two), 512 bytes of dynamic shared memory; `global`: 64 floats.
__global__ void mistake_kernel(Mistake mistake, float* global) {
  Carver carver;
  float* first = carver.take<float>(64);
  const int lane = threadIdx.x;
  uint32_t fragment[4] = {};
  float sum[4] = {};
  switch (mistake) {
    case Mistake::kDivergentCollective:
      if (lane < 16) {
        __syncwarp();
      } else {
        global[lane] = __shfl_xor_sync(kFullWarp, 1.0f, 1);
      }
      break;
    case Mistake::kForeignMask:
      __syncwarp(1u << (lane ^ 1));
      break;
    case Mistake::kShuffleWidth:
      global[lane] = shuffle_xor(1.0f, 1, 24);
      break;
    case Mistake::kTooManyMasks:
      if (lane >= 16) __syncthreads();  // never: the others wait for these lanes
      __syncwarp(0x00010001u << (lane % 16));
      break;
    case Mistake::kMmaWithoutALane:
      if (lane == 31) return;
      __nanosleep(1);
      mma_bf16(sum, fragment, {fragment[0], fragment[1]});
      break;
    case Mistake::kMissedBarrier:
      if (lane < 31) __syncthreads();
      break;
    case Mistake::kDivergentBarrier:
      if (lane % 2 == 0) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      break;
    case Mistake::kBarrierCount:
      bar_sync<1>(24);
      break;
    case Mistake::kBarrierCountMismatch:
      bar_arrive<1>(lane % 2 == 0 ? 32 : 64);
      break;
    case Mistake::kMisalignedLdmatrix:
      ldmatrix_x4(fragment, shared_address(first) + 4);
      break;
    case Mistake::kLdmatrixOutside:
      ldmatrix_x4(fragment, shared_address(first) + 16 * lane);  // 512 of 256 bytes
      break;
    case Mistake::kCopyOutside:
      cp_async<4>(shared_address(first + 64), global);
      break;
    case Mistake::kMisalignedCopySource:
      cp_async<16>(shared_address(first), global + 1);
      break;
    case Mistake::kMisalignedCopyDestination:
      cp_async<16>(shared_address(first + 1), global);
      break;
    case Mistake::kCopySize:
      cp_async<16>(shared_address(first), global, 17);
      break;
    case Mistake::kCopyNeverAwaited:
      cp_async<16>(shared_address(first), global);
      cp_async_commit();
      break;
    case Mistake::kGlobalAsShared:
      global[lane] = float(shared_address(global));
      break;
    case Mistake::kMisalignedAtomic:
      atomicAdd(reinterpret_cast<float*>(reinterpret_cast<char*>(global) + 2), 1.0f);
      break;
    case Mistake::kCarveTooMuch:
      carver.take<float>(65);
      break;
    case Mistake::kCarveDifferently:
      carver.take<float>(lane == 0 ? 4 : 8);
      break;
    case Mistake::kCarveAlignment:
      carver.take<float>(4, 256);
      break;
    case Mistake::kTooMuchStatic: {
      FUSEDML_SHARED(float, large, [64 * 1024]);
      large[lane] = 0;
      break;
    }
    case Mistake::kUnroundedTf32:
      fragment[0] = __float_as_uint(0.1f);
      mma_tf32(sum, fragment, {0, 0});
      break;
  }
}

/// What a reader sees of shared memory that nobody has filled: out[0][lane] before the first
/// write, out[1][lane] between cp_async and its wait, out[2][lane] after a wait that leaves its
/// group in flight, out[3][lane] a shuffle from an absent lane (16 of them).  out[4][lane]: an
/// older group that has landed.
__global__ void poison_kernel(const float* in, float* out) {
  FUSEDML_SHARED(float, staged, [32]);
  FUSEDML_SHARED(float, older, [32]);
  const int lane = threadIdx.x;
  out[lane] = staged[lane];
  staged[lane] = 0;
  cp_async<4>(shared_address(&older[lane]), in + lane);
  cp_async_commit();
  cp_async<4>(shared_address(&staged[lane]), in + lane);
  cp_async_commit();
  out[32 + lane] = staged[lane];
  cp_async_wait<1>();
  out[64 + lane] = staged[lane];
  out[128 + lane] = older[lane];
  cp_async_wait<0>();
  if (lane < 16) out[96 + lane] = __shfl_sync(0xffffu, 1.0f, lane + 16);
}

enum class MemoryMistake {
  kNone,
  kPastCarvedArray,
  kPastStaticArray,
  kPastGlobalArray,
  kCopyPastGlobalArray,
};

/// One warp, 512 bytes of dynamic shared memory; `global`: 32 floats.
__global__ void memory_mistake_kernel(MemoryMistake mistake, float* global) {
  Carver carver;
  float* first = carver.take<float>(64);
  float* second = carver.take<float>(64);
  FUSEDML_SHARED(int, counts, [32]);
  const int lane = threadIdx.x;
  const int end = mistake == MemoryMistake::kNone ? 31 : 32;
  first[lane] = second[lane] = global[lane];
  counts[lane] = lane;
  __syncthreads();  // everything is written
  switch (mistake) {
    case MemoryMistake::kNone:
      global[lane] = first[2 * end + 1 - lane % 32 - 32] + second[lane] + float(counts[end]);
      break;
    case MemoryMistake::kPastCarvedArray:
      first[2 * end] = 1;  // would be second[0] on a GPU
      break;
    case MemoryMistake::kPastStaticArray:
      counts[end] = 1;
      break;
    case MemoryMistake::kPastGlobalArray:
      second[lane] = global[lane + 1];
      break;
    case MemoryMistake::kCopyPastGlobalArray:
      cp_async<4>(shared_address(first), global + end);
      cp_async_commit();
      cp_async_wait<0>();
      break;
  }
}

enum class Race {
  kNone,
  kNoBarrier,
  kNoBarrierAfterCopy,
  kNoBarrierBeforeRefill,
  kShuffleIsNoBarrier,
  kBetweenBlocks,
};

/// Two blocks of 64 threads; `in`: 128 floats, `out`: 256 floats.
__global__ void race_kernel(Race race, const float* in, float* out) {
  FUSEDML_SHARED(float, staged, [64]);
  const int thread = threadIdx.x, begin = 128 * blockIdx.x;
  if (race == Race::kNoBarrierAfterCopy) {
    cp_async<4>(shared_address(&staged[thread]), in + thread);
    cp_async_commit();
    cp_async_wait<0>();
  } else {
    staged[thread] = in[thread];
    if (race == Race::kShuffleIsNoBarrier) out[begin + thread] = shuffle_xor(1.0f, 1);
  }
  const bool waits = race != Race::kNoBarrier && race != Race::kNoBarrierAfterCopy &&
                     race != Race::kShuffleIsNoBarrier;
  if (waits) __syncthreads();
  out[begin + thread] = staged[63 - thread];
  if (race != Race::kNoBarrierBeforeRefill) __syncthreads();
  staged[thread] = in[64 + thread];
  __syncthreads();
  out[begin + 64 + thread] = staged[63 - thread];
  if (race == Race::kBetweenBlocks) out[thread] = 1;
}

}  // namespace fusedml::units
