#pragma once
// Small kernels, one for each primitive.  The emulator runs them through test_primitives.cpp, the
// PTX interpreter through tests/ptx/test_primitives.py, both against plain loops.
#include "core/primitives.cuh"

namespace fusedml::units {

/// out[t] = the first source_bytes[t] bytes of in[t], then zeros; kBytes per thread.
template <int kBytes>
__global__ void cp_async_kernel(const unsigned char* in, const int* source_bytes,
                                unsigned char* out) {
  Carver carver;
  unsigned char* staged = carver.take<unsigned char>(kBytes * blockDim.x);
  const int thread = threadIdx.x, begin = thread * kBytes;
  cp_async<kBytes>(shared_address(staged + begin), in + begin, source_bytes[thread]);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();  // everyone's bytes have landed
  const int other = blockDim.x - 1 - thread;
  for (int i = 0; i < kBytes; ++i) out[other * kBytes + i] = staged[other * kBytes + i];
}

/// Three groups in flight over a ring of two slots: out[i][t] = in[i][t] for i < num_tiles.
__global__ void cp_async_ring_kernel(const float* in, float* out, int num_tiles) {
  FUSEDML_SHARED(float, ring, [2][128]);
  const int thread = threadIdx.x;
  const auto fetch = [&](int tile) {
    if (tile < num_tiles) {
      cp_async<4>(shared_address(&ring[tile % 2][thread]), in + tile * 128 + thread);
    }
    cp_async_commit();
  };
  fetch(0);
  for (int tile = 0; tile < num_tiles; ++tile) {
    fetch(tile + 1);
    cp_async_wait<1>();
    __syncthreads();  // the tile has landed for everyone
    out[tile * 128 + thread] = ring[tile % 2][127 - thread];
    __syncthreads();  // the slot may be refilled
  }
}

/// out[r * 32 + lane] = register r of the fragment of `in`, [8 * kMatrices][8] 16-bit elements.
template <int kMatrices, bool kTransposed>
__global__ void ldmatrix_kernel(const uint16_t* in, uint32_t* out) {
  FUSEDML_SHARED(uint16_t, tile, [8 * kMatrices][8]);
  const int lane = threadIdx.x;
  for (int i = lane; i < 64 * kMatrices; i += 32) tile[i / 8][i % 8] = in[i];
  __syncthreads();  // the tile is complete
  const SharedAddress row = shared_address(tile[lane % (8 * kMatrices)]);
  uint32_t fragment[kMatrices];
  if constexpr (kMatrices == 4) {
    kTransposed ? ldmatrix_trans_x4(fragment, row) : ldmatrix_x4(fragment, row);
  } else {
    kTransposed ? ldmatrix_trans_x2(fragment, row) : ldmatrix_x2(fragment, row);
  }
  for (int r = 0; r < kMatrices; ++r) out[r * 32 + lane] = fragment[r];
}

/// c[16][8] += a[16][16] b with 16-bit elements; b is [8][16], or [16][8] if kTransposed.
template <bool kBfloat16, bool kTransposed>
__global__ void mma_16_bit_kernel(const uint16_t* a, const uint16_t* b, float* c) {
  Carver carver;
  uint16_t* a_tile = carver.take<uint16_t>(16 * 16, 128);
  uint16_t* b_tile = carver.take<uint16_t>(16 * 8, 128);
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  cp_async<16>(shared_address(a_tile + 8 * lane), a + 8 * lane);
  if (lane < 16) cp_async<16>(shared_address(b_tile + 8 * lane), b + 8 * lane);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();  // both tiles have landed
  uint32_t a_fragment[4], b_fragment[2];
  ldmatrix_x4(a_fragment, shared_address(a_tile + 16 * (lane % 16) + 8 * (lane / 16)));
  if constexpr (kTransposed) {
    ldmatrix_trans_x2(b_fragment, shared_address(b_tile + 8 * (lane % 16)));
  } else {
    ldmatrix_x2(b_fragment, shared_address(b_tile + 16 * (lane % 8) + 8 * (lane / 8 % 2)));
  }
  float sum[4];
  for (int r = 0; r < 4; ++r) sum[r] = c[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2];
  kBfloat16 ? mma_bf16(sum, a_fragment, b_fragment) : mma_f16(sum, a_fragment, b_fragment);
  for (int r = 0; r < 4; ++r) c[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2] = sum[r];
}

/// c[16][8] += a[16][8] b[8][8]; `rounds` picks to_tf32 or the hardware's truncation.
__global__ void mma_tf32_kernel(const float* a, const float* b, float* c, int rounds) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  const auto operand = [&](float x) { return rounds ? to_tf32(x) : __float_as_uint(x); };
  uint32_t a_fragment[4], b_fragment[2];
  for (int r = 0; r < 4; ++r) a_fragment[r] = operand(a[(g + 8 * (r % 2)) * 8 + t + 4 * (r / 2)]);
  for (int r = 0; r < 2; ++r) b_fragment[r] = operand(b[(t + 4 * r) * 8 + g]);
  float sum[4];
  for (int r = 0; r < 4; ++r) sum[r] = c[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2];
  mma_tf32(sum, a_fragment, b_fragment);
  for (int r = 0; r < 4; ++r) c[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2] = sum[r];
}

/// c[8][8] += a[8][4] b[4][8]
__global__ void mma_f64_kernel(const double* a, const double* b, double* c) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  double sum[2] = {c[g * 8 + 2 * t], c[g * 8 + 2 * t + 1]};
  mma_f64(sum, a[g * 4 + t], b[t * 8 + g]);
  c[g * 8 + 2 * t] = sum[0];
  c[g * 8 + 2 * t + 1] = sum[1];
}

/// out[0][i] = to_tf32(in[i]), out[1][i] = 2^in[i], out[2][i] = log2(in[i]), as fp32 bits
__global__ void scalar_kernel(const float* in, uint32_t* out, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  out[i] = to_tf32(in[i]);
  out[count + i] = __float_as_uint(exp2_approx(in[i]));
  out[2 * count + i] = __float_as_uint(log2_approx(in[i]));
  out[3 * count + i] = __float_as_uint(rsqrt_approx(in[i]));
}

/// out[0..3][lane]: shuffle from lane 7 * lane, up 3, down 3, xor 5, in segments of `width` lanes.
template <class T>
__global__ void shuffle_kernel(const T* in, T* out, int width) {
  const int lane = threadIdx.x;
  const T value = in[lane];
  out[lane] = shuffle(value, 7 * lane, width);
  out[32 + lane] = shuffle_up(value, 3, width);
  out[64 + lane] = shuffle_down(value, 3, width);
  out[96 + lane] = shuffle_xor(value, 5, width);
}

/// out[0..5][lane]: ballot(odd), any(== 3), all(>= 0), match(value % 3), sum, and, for the lower
/// half warp alone, the neighbour's value.
__global__ void vote_kernel(const int* in, uint32_t* out) {
  const int lane = threadIdx.x, value = in[lane];
  out[lane] = __ballot_sync(kFullWarp, value & 1);
  out[32 + lane] = __any_sync(kFullWarp, value == 3);
  out[64 + lane] = __all_sync(kFullWarp, value >= 0);
  out[96 + lane] = __match_any_sync(kFullWarp, static_cast<unsigned>(value % 3));
  out[128 + lane] = __reduce_add_sync(kFullWarp, static_cast<unsigned>(value));
  if (lane < 16) out[160 + lane] = __shfl_xor_sync(0xffffu, value, 1);
}

/// Warp 0 fills a ring of two slots for warps 1..3; out[i] sums in[i] * warp over these.
__global__ void named_barrier_kernel(const int* in, int* out, int num_tiles) {
  FUSEDML_SHARED(int, ring, [2][32]);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int tile = 0; tile < num_tiles; ++tile) {
    const int slot = tile % 2;
    if (warp == 0) {
      if (tile >= 2) slot == 0 ? bar_sync<3>(128) : bar_sync<4>(128);  // the slot has been read
      ring[slot][lane] = in[tile * 32 + lane];
      slot == 0 ? bar_arrive<1>(128) : bar_arrive<2>(128);
    } else {
      slot == 0 ? bar_sync<1>(128) : bar_sync<2>(128);  // the slot is full
      const int value = ring[slot][lane];
      if (tile + 2 < num_tiles) slot == 0 ? bar_arrive<3>(128) : bar_arrive<4>(128);
      atomicAdd(&out[tile * 32 + lane], value * warp);
    }
  }
}

/// total = sum of x: each block adds its part, and the last block to finish adds the parts.
__global__ void last_block_kernel(const float* x, int count, float* parts, unsigned* tickets,
                                  float* total, int* largest_index) {
  FUSEDML_SHARED(float, warp_sums, [32]);
  FUSEDML_SHARED(int, is_last, [1]);
  float sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    sum += x[i];
    atomicMax(largest_index, i);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += shuffle_xor(sum, offset);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();  // warp_sums is complete
  if (threadIdx.x == 0) {
    float part = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) part += warp_sums[warp];
    parts[blockIdx.x] = part;
    __threadfence();  // the part before the ticket
    is_last[0] = atomicAdd(tickets, 1u) == gridDim.x - 1;
  }
  __syncthreads();  // is_last is known to everyone
  if (is_last[0] && threadIdx.x == 0) {
    __threadfence();  // the tickets before the parts
    float all = 0;
    for (unsigned block = 0; block < gridDim.x; ++block) all += parts[block];
    *total = all;
  }
}

}  // namespace fusedml::units
