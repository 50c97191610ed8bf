#pragma once
// Small kernels for Hopper's own instructions, as unit_kernels.cuh has for the others.
#include "core/hopper_primitives.cuh"

namespace fusedml::units {

/// What a kernel below does wrong; on a GPU always kNone.
enum class HopperMistake {
  kNone,
  kLinesTooFar,  ///< the next 64 lines of an operand
  kLinesTooNear,
  kPacksBeforeWait,
  kNoProxyFence,
};

/// Prepares one barrier of the block.
FUSEDML_DEVICE void start_barrier(SharedAddress barrier, int arrivals) {
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, arrivals);
    fence_mbarrier_init();
  }
  __syncthreads();  // the barrier is initialised
}

/// out: the box's bytes as they lie in shared memory, [box_rows * 64]; 128 threads.  With
/// `announces_late` the bytes are announced after their copy has been started.
__global__ void box_kernel(const __grid_constant__ TensorMap map, uint16_t* out, int box_rows,
                           int row, int col, int announces_late) {
  AlignedCarver<kAtomBytes> carver;
  uint16_t* box = carver.take<uint16_t>(box_rows * kBoxCols, kAtomBytes);
  FUSEDML_SHARED(uint64_t, landed, [1]);
  const SharedAddress barrier = shared_address(landed);
  start_barrier(barrier, 1);
  if (threadIdx.x == 0) {
    const int bytes = box_rows * kBoxRowBytes;
    prefetch(map);
    if (!announces_late) mbarrier_arrive_expecting(barrier, bytes);
    copy_box(shared_address(box), map, barrier, row, col);
    if (announces_late) mbarrier_arrive_expecting(barrier, bytes);
  }
  mbarrier_wait(barrier, 0);
  for (int i = threadIdx.x; i < box_rows * kBoxCols; i += blockDim.x) out[i] = box[i];
}

/// out [64, kCols] = A B, or out += A B if `adds`, over a depth of 64; one warpgroup.  a: [64, 64];
/// b: [kCols, 64]; with Major::kLines [64 of depth, lines].  Boxes: of 64 rows, or of kCols.
template <WgmmaType kType, Major kMajorOfA, Major kMajorOfB, int kCols>
__global__ void wgmma_kernel(const __grid_constant__ TensorMap a_map,
                             const __grid_constant__ TensorMap b_map, float* out, int adds,
                             HopperMistake mistake) {
  constexpr int kDepth = 64, kABytes = 64 * kBoxRowBytes, kBBytes = kCols * kBoxRowBytes;
  constexpr int kSliceBytes = kDepth * kBoxRowBytes;
  AlignedCarver<kAtomBytes> carver;
  const SharedAddress a = shared_address(carver.take<unsigned char>(kABytes, kAtomBytes));
  const SharedAddress b = shared_address(carver.take<unsigned char>(kBBytes, kAtomBytes));
  FUSEDML_SHARED(uint64_t, landed, [1]);
  const SharedAddress barrier = shared_address(landed);
  start_barrier(barrier, 1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expecting(barrier, kABytes + kBBytes);
    copy_box(a, a_map, barrier, 0, 0);
    if (kMajorOfB == Major::kDepth) {
      copy_box(b, b_map, barrier, 0, 0);
    } else {
      for (int slice = 0; slice < kCols / kBoxCols; ++slice)
        copy_box(b + slice * kSliceBytes, b_map, barrier, 0, slice * kBoxCols);
    }
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float d[kCols / 2];
  const auto element = [&](int r) -> float& {
    return out[(16 * warp + lane / 4 + 8 * (r / 2 % 2)) * kCols + r / 4 * 8 + 2 * (lane % 4) +
               r % 2];
  };
#pragma unroll
  for (int r = 0; r < kCols / 2; ++r) d[r] = element(r);
  const uint64_t a_operand = wgmma_operand(a, kSliceBytes);
  const int distance = mistake == HopperMistake::kLinesTooFar    ? 2 * kSliceBytes
                       : mistake == HopperMistake::kLinesTooNear ? kSliceBytes / 2
                                                                 : kSliceBytes;
  const uint64_t b_operand = wgmma_operand(b, distance);
  mbarrier_wait(barrier, 0);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kDepth / 16; ++step)
    wgmma<kType, kMajorOfA, kMajorOfB>(d, advanced<kMajorOfA>(a_operand, step),
                                       advanced<kMajorOfB>(b_operand, step), adds || step > 0);
  wgmma_commit();
  wgmma_wait<0>();
  hold(d);
#pragma unroll
  for (int r = 0; r < kCols / 2; ++r) element(r) = d[r];
}

/// The same with A from registers, twice in one group: out = A B + A' B with A' = A + 1 (as bits),
/// b [64 of depth, kCols].
template <WgmmaType kType, int kCols>
__global__ void wgmma_registers_kernel(const uint32_t* a, const __grid_constant__ TensorMap b_map,
                                       float* out, HopperMistake mistake) {
  constexpr int kDepth = 64, kSteps = kDepth / 16, kBBytes = kCols * kBoxRowBytes;
  constexpr int kSliceBytes = kDepth * kBoxRowBytes;
  AlignedCarver<kAtomBytes> carver;
  const SharedAddress b = shared_address(carver.take<unsigned char>(kBBytes, kAtomBytes));
  FUSEDML_SHARED(uint64_t, landed, [1]);
  const SharedAddress barrier = shared_address(landed);
  start_barrier(barrier, 1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expecting(barrier, kBBytes);
    for (int slice = 0; slice < kCols / kBoxCols; ++slice)
      copy_box(b + slice * kSliceBytes, b_map, barrier, 0, slice * kBoxCols);
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint32_t fragments[kSteps][4];
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
#pragma unroll
    for (int r = 0; r < 4; ++r)
      fragments[step][r] = a[(16 * warp + lane / 4 + 8 * (r % 2)) * (kDepth / 2) + 8 * step +
                             lane % 4 + 4 * (r / 2)];
  const uint64_t operand = wgmma_operand(b, kSliceBytes);
  float d[kCols / 2];
  mbarrier_wait(barrier, 0);
  for (int turn = 0; turn < 2; ++turn) {
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      wgmma<kType, Major::kLines>(d, fragments[step], advanced<Major::kLines>(operand, step),
                                  turn > 0 || step > 0);
    wgmma_commit();
    const bool packs_early = mistake == HopperMistake::kPacksBeforeWait;
    if (packs_early) fragments[1][2] += 0x00010001u;
    wgmma_wait<0>();
    hold(d);
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int r = 0; r < 4; ++r) fragments[step][r] += 0x00010001u;
  }
#pragma unroll
  for (int r = 0; r < kCols / 2; ++r)
    out[(16 * warp + lane / 4 + 8 * (r / 2 % 2)) * kCols + r / 4 * 8 + 2 * (lane % 4) + r % 2] =
        d[r];
}

/// out [64, 64] = A A^T of bf16 numbers, a [64, 16], that ordinary stores bring to shared memory.
__global__ void proxy_kernel(const uint4* a, float* out, HopperMistake mistake) {
  AlignedCarver<kAtomBytes> carver;
  const SharedAddress tile =
      shared_address(carver.take<unsigned char>(64 * kBoxRowBytes, kAtomBytes));
  const int row = threadIdx.x / 2, chunk = threadIdx.x % 2;
  store_for_wgmma(tile + swizzled_offset(row, 16 * chunk), a[2 * row + chunk]);
  if (mistake != HopperMistake::kNoProxyFence) fence_proxy_async();
  __syncthreads();  // the tile is complete
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float d[32];
  const uint64_t operand = wgmma_operand(tile);
  wgmma_fence();
  wgmma<WgmmaType::kBf16, Major::kDepth, Major::kDepth>(d, operand, operand, false);
  wgmma_commit();
  wgmma_wait<0>();
  hold(d);
#pragma unroll
  for (int r = 0; r < 32; ++r)
    out[(16 * warp + lane / 4 + 8 * (r / 2 % 2)) * 64 + r / 4 * 8 + 2 * (lane % 4) + r % 2] = d[r];
}

}  // namespace fusedml::units
