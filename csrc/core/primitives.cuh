#pragma once
// The only inline PTX, with hopper_primitives.cuh.  Each primitive has a device version and a
// version for the emulator; the unit kernels in tests/csrc run both, on the emulator and in the PTX
// interpreter.
#include <cstring>

#include "core/platform.h"

namespace fusedml {

/// Address in the 32-bit shared-memory window, for the instructions that take one.
using SharedAddress = uint32_t;

FUSEDML_DEVICE SharedAddress shared_address(const void* pointer) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(pointer));
}

// --- asynchronous copies from global to shared memory (PTX ISA 9.7.9.25.3) ---

/// Starts a copy of kBytes (4, 8 or 16) bytes; both addresses are multiples of kBytes.  Bytes from
/// `source_bytes` on become zero, and with 0 the source is never read.  Only this thread's
/// cp_async_wait, and then a barrier for the others, makes the data readable.
template <int kBytes>
FUSEDML_DEVICE void cp_async(SharedAddress destination, const void* source,
                             int source_bytes = kBytes FUSEDML_SITE) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if defined(FUSEDML_EMULATION)
  emulation::cp_async(destination, source, kBytes, source_bytes, site);
#else
  // .cg: only 16-byte copies may bypass L1, which a tile that is read once does not need.
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(destination), "l"(source),
                 "r"(source_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(destination), "l"(source),
                 "n"(kBytes), "r"(source_bytes)
                 : "memory");
  }
#endif
}

/// Closes the group of this thread's copies since the last commit.
FUSEDML_DEVICE void cp_async_commit() {
#if defined(FUSEDML_EMULATION)
  emulation::cp_async_commit();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

/// Waits until at most kPending of this thread's committed groups are still in flight.
template <int kPending>
FUSEDML_DEVICE void cp_async_wait() {
#if defined(FUSEDML_EMULATION)
  emulation::cp_async_wait(kPending);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

// --- matrix fragments (PTX ISA 9.7.14.5): all 32 lanes, warp-uniform control flow ---

/// Loads 8 x 8 matrices of 16-bit elements; lane 8 q + r gives the 16-byte row r of matrix q.  Lane
/// l receives elements (l / 4, 2 (l % 4)) and the next one; `trans` transposes each matrix.
FUSEDML_DEVICE void ldmatrix_x4(uint32_t (&fragment)[4], SharedAddress row FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::ldmatrix(fragment, 4, row, /*transposed=*/false, site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(row)
               : "memory");
#endif
}

FUSEDML_DEVICE void ldmatrix_x2(uint32_t (&fragment)[2], SharedAddress row FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::ldmatrix(fragment, 2, row, /*transposed=*/false, site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(fragment[0]), "=r"(fragment[1])
               : "r"(row)
               : "memory");
#endif
}

FUSEDML_DEVICE void ldmatrix_trans_x4(uint32_t (&fragment)[4], SharedAddress row FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::ldmatrix(fragment, 4, row, /*transposed=*/true, site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(row)
               : "memory");
#endif
}

FUSEDML_DEVICE void ldmatrix_trans_x2(uint32_t (&fragment)[2], SharedAddress row FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::ldmatrix(fragment, 2, row, /*transposed=*/true, site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(fragment[0]), "=r"(fragment[1])
               : "r"(row)
               : "memory");
#endif
}

// --- matrix products c += a b of one warp, A row-major [16, k], B [k, 8], C [16, 8] fp32 ---
// With g = lane / 4 and t = lane % 4 (PTX ISA, figures of m16n8k16 and m16n8k8):
//   16-bit: a[r] = A[g + 8 (r % 2)][2 t + 8 (r / 2) + {0, 1}],  b[r] = B[2 t + 8 r + {0, 1}][g]
//   tf32:   a[r] = A[g + 8 (r % 2)][t + 4 (r / 2)],             b[r] = B[t + 4 r][g]
//   both:   c[r] = C[g + 8 (r / 2)][2 t + r % 2]

#if !defined(FUSEDML_EMULATION)
#define FUSEDML_MMA(shape, type)                                              \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type        \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#endif

FUSEDML_DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4],
                             const uint32_t (&b)[2] FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::mma(emulation::Collective::kMmaBf16, c, a, b, site);
#else
  FUSEDML_MMA("m16n8k16", "bf16");
#endif
}

FUSEDML_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4],
                            const uint32_t (&b)[2] FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::mma(emulation::Collective::kMmaF16, c, a, b, site);
#else
  FUSEDML_MMA("m16n8k16", "f16");
#endif
}

/// Operands are fp32 bit patterns of which the hardware ignores the low 13 bits: use to_tf32, or
/// truncated_tf32.
FUSEDML_DEVICE void mma_tf32(float (&c)[4], const uint32_t (&a)[4],
                             const uint32_t (&b)[2] FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::mma(emulation::Collective::kMmaTf32, c, a, b, site);
#else
  FUSEDML_MMA("m16n8k8", "tf32");
#endif
}
#undef FUSEDML_MMA

/// c += a b in fp64 with A [8, 4], B [4, 8], C [8, 8]:
/// a = A[g][t], b = B[t][g], c[r] = C[g][2 t + r]
FUSEDML_DEVICE void mma_f64(double (&c)[2], double a, double b FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::mma_f64(c, a, b, site);
#else
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};\n"
               : "+d"(c[0]), "+d"(c[1])
               : "d"(a), "d"(b));
#endif
}

// --- scalar instructions ---

/// Nearest tf32 (10 bits of mantissa), ties away from zero, as fp32 bits with 13 low zeros.
FUSEDML_DEVICE uint32_t to_tf32(float x) {
#if defined(FUSEDML_EMULATION)
  const uint32_t bits = __float_as_uint(x);
  if (std::isnan(x)) return 0x7fffffffu;
  return std::isinf(x) ? bits : (bits + 0x1000u) & 0xffffe000u;
#else
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
  return bits;
#endif
}

/// The same in two operations, of which cvt.rna takes four on sm_90; only a NaN may become a
/// number.
FUSEDML_DEVICE float nearest_tf32(float x) {
  return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u);
}

/// An operand of mma_tf32 whose low bits are meant to be ignored.
FUSEDML_DEVICE uint32_t truncated_tf32(float x) {
#if defined(FUSEDML_EMULATION)
  return std::isnan(x) ? 0x7fffffffu : __float_as_uint(x) & 0xffffe000u;
#else
  return __float_as_uint(x);
#endif
}

/// 2^x, at most 2 ulp off; results below 2^-126 are zero.
FUSEDML_DEVICE float exp2_approx(float x) {
#if defined(FUSEDML_EMULATION)
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.0f : y;
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
#endif
}

/// log2(x); absolute error 2^-22 for x in [0.5, 2], relative 2^-22 elsewhere; subnormal x count 0.
FUSEDML_DEVICE float log2_approx(float x) {
#if defined(FUSEDML_EMULATION)
  return log2f(fabsf(x) < 1.17549435e-38f ? 0.0f : x);
#else
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
#endif
}

/// threadIdx.x, read anew: what is derived from it is not kept in registers from before a loop.
FUSEDML_DEVICE int fresh_thread_index() {
#if defined(FUSEDML_EMULATION)
  return int(threadIdx.x);
#else
  int index;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(index));
  return index;
#endif
}

/// 1 / sqrt(x), relative error 2^-22; subnormal x count 0, whose result is infinite.
FUSEDML_DEVICE float rsqrt_approx(float x) {
#if defined(FUSEDML_EMULATION)
  return 1.0f / sqrtf(fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : x);
#else
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
#endif
}

// --- exchange within a warp: all 32 lanes, in segments of `width` lanes ---

template <class T>
FUSEDML_DEVICE T shuffle(T value, int source_lane, int width = kWarpSize FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  return __shfl_sync(kFullWarp, value, source_lane, width, site);
#else
  return __shfl_sync(kFullWarp, value, source_lane, width);
#endif
}

template <class T>
FUSEDML_DEVICE T shuffle_up(T value, int distance, int width = kWarpSize FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  return __shfl_up_sync(kFullWarp, value, distance, width, site);
#else
  return __shfl_up_sync(kFullWarp, value, distance, width);
#endif
}

template <class T>
FUSEDML_DEVICE T shuffle_down(T value, int distance, int width = kWarpSize FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  return __shfl_down_sync(kFullWarp, value, distance, width, site);
#else
  return __shfl_down_sync(kFullWarp, value, distance, width);
#endif
}

template <class T>
FUSEDML_DEVICE T shuffle_xor(T value, int lane_mask, int width = kWarpSize FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  return __shfl_xor_sync(kFullWarp, value, lane_mask, width, site);
#else
  return __shfl_xor_sync(kFullWarp, value, lane_mask, width);
#endif
}

// --- named barriers 1..15 (0 is __syncthreads), for `threads` threads, a multiple of 32 ---

/// Arrives and waits; orders memory among the participants.
template <int kBarrier>
FUSEDML_DEVICE void bar_sync(int threads FUSEDML_SITE) {
  static_assert(kBarrier >= 0 && kBarrier < 16, "a block has 16 barriers");
#if defined(FUSEDML_EMULATION)
  emulation::barrier(kBarrier, threads, emulation::BarrierKind::kSync, 0, site);
#else
  asm volatile("bar.sync %0, %1;\n" ::"n"(kBarrier), "r"(threads) : "memory");
#endif
}

/// Arrives without waiting: a producer's half.
template <int kBarrier>
FUSEDML_DEVICE void bar_arrive(int threads FUSEDML_SITE) {
  static_assert(kBarrier >= 0 && kBarrier < 16, "a block has 16 barriers");
#if defined(FUSEDML_EMULATION)
  emulation::barrier(kBarrier, threads, emulation::BarrierKind::kArrive, 0, site);
#else
  asm volatile("bar.arrive %0, %1;\n" ::"n"(kBarrier), "r"(threads) : "memory");
#endif
}

}  // namespace fusedml
