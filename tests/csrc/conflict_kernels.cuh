#pragma once
// Accesses to shared memory with known bank conflicts.
#include "core/number.cuh"
#include "core/weighted_sum.cuh"

namespace fusedml::units {

struct alignas(16) FourFloats {
  float x, y, z, w;
};

/// Writes and reads a [32][kPitch] tile of floats by columns: lane l touches row l.
template <int kPitch>
__global__ void column_kernel(float* out) {
  FUSEDML_SHARED(float, tile, [32][kPitch]);
  const int lane = threadIdx.x;
  for (int col = 0; col < 32; ++col) tile[lane][col] = float(col);
  __syncthreads();  // the tile is complete
  float sum = 0;
  for (int col = 0; col < 32; ++col) sum += tile[lane][col];
  out[lane] = sum;
}

/// Each lane copies its 16 bytes of a [32][4 * kPitch] tile as one vector.
template <int kPitch>
__global__ void vector_kernel(const FourFloats* in, FourFloats* out) {
  FUSEDML_SHARED(FourFloats, tile, [32 * kPitch]);
  const int lane = threadIdx.x;
  tile[lane * kPitch] = in[lane];
  __syncthreads();  // the tile is complete
  out[lane] = tile[lane * kPitch];
}

/// All fragments of embeddings of a slice of 32 rows and dimensions, as the second product of the
/// backward loads them: out [64] is each thread's sum over the slice's number of row and dimension.
__global__ void embedding_fragments_kernel(float* out) {
  constexpr int kSize = kSliceDepth<float>;
  Carver carver;
  float* slice = carver.take<float>(kSize * kSize, 128);
  const int thread = int(threadIdx.x);
  for (int i = thread; i < kSize * kSize; i += 64)
    slice[slice_index<float>(i / kSize, i % kSize)] = float(i);
  __syncthreads();  // the slice is complete
  float sum = 0;
  for (int row = 0; row < kSize; row += Fp32::kProductDepth)
    for (int dim = 0; dim < kSize; dim += 16) {
      uint32_t raw[4];
      load_embedding_fragments<Fp32>(raw, slice, row, dim);
      for (const uint32_t bits : raw) sum += __uint_as_float(bits);
    }
  out[thread] = sum;
}

/// The upper half warp loads twice, the lower half once: two accesses of the warp, not three.
__global__ void predicated_kernel(float* out) {
  FUSEDML_SHARED(float, value, [32]);
  const int lane = threadIdx.x;
  value[lane] = float(lane);
  __syncthreads();  // the values are there
  float sum = 0;
  if (lane >= 16) sum = value[lane];
  sum += value[31 - lane];
  out[lane] = sum;
}

/// Only every `stride`-th lane reads; all readers share a word.
__global__ void broadcast_kernel(float* out, int stride) {
  FUSEDML_SHARED(float, value, [1]);
  if (threadIdx.x == 0) value[0] = 3.0f;
  __syncthreads();  // the value is there
  if (threadIdx.x % stride == 0) out[threadIdx.x] = value[0];
}

/// Fills and reads an [16][32] tile of 16-bit elements, 64 bytes a row, with chunks of 16 bytes
/// exchanged by an xor (kSwizzled) or in place; every second lane may skip its first copy.
template <bool kSwizzled>
__global__ void swizzle_kernel(const uint16_t* in, uint32_t* out, bool skips) {
  Carver carver;
  uint16_t* tile = carver.take<uint16_t>(16 * 32, 128);
  const int lane = threadIdx.x;
  const auto chunk = [&](int row, int col) {
    return tile + 32 * row + 8 * (kSwizzled ? col ^ (row / 2 % 4) : col);
  };
  for (int i = lane; i < 64; i += 32) {
    if (skips && i < 32 && lane % 2 == 0) continue;
    cp_async<16>(shared_address(chunk(i / 4, i % 4)), in + 8 * i);
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();  // the tile has landed
  uint32_t fragment[4];
  ldmatrix_x4(fragment, shared_address(chunk(lane % 16, lane / 16)));
  for (int r = 0; r < 4; ++r) out[32 * r + lane] = fragment[r];
}

}  // namespace fusedml::units
