#pragma once
// Inline PTX of Hopper's own instructions, for sm_90a alone: memory barriers, copies by the tensor
// memory unit (TMA), matrix products of a warpgroup (wgmma).  As in core/primitives.cuh each has a
// version for the emulator, which checks the rules that csrc/hopper/README.md lists.
#include "core/primitives.cuh"
#include "core/tensor_map.h"

namespace fusedml {

constexpr int kWarpgroupSize = 128;

// --- memory barriers (PTX ISA 9.7.13.15): 8 bytes of shared memory ---
// A phase ends when `arrivals` threads have arrived and all announced bytes have landed.

/// By one thread, once, before fence_mbarrier_init and a barrier of the block.
FUSEDML_DEVICE void mbarrier_init(SharedAddress barrier, int arrivals FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::mbarrier_init(barrier, arrivals, site);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(arrivals)
               : "memory");
#endif
}

/// Shows this thread's initialised barriers to the copy unit.
FUSEDML_DEVICE void fence_mbarrier_init() {
#if defined(FUSEDML_EMULATION)
  emulation::fence_mbarrier_init();
#else
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
#endif
}

FUSEDML_DEVICE void mbarrier_arrive(SharedAddress barrier FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::mbarrier_arrive(barrier, 0, site);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
#endif
}

/// Arrives, and announces bytes of copies that complete on this barrier.
FUSEDML_DEVICE void mbarrier_arrive_expecting(SharedAddress barrier, int bytes FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::mbarrier_arrive(barrier, bytes, site);
#else
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes)
               : "memory");
#endif
}

/// Waits for the end of the phase of this parity (0 is the first phase's); a fresh barrier passes a
/// wait for parity 1.  What the others did before they arrived, and what has landed, is then seen.
FUSEDML_DEVICE void mbarrier_wait(SharedAddress barrier, int parity FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::mbarrier_wait(barrier, parity, site);
#else
  int done;
  do {
    asm volatile(
        "{\n.reg .pred done;\nmbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.b32 %0, 1, 0, done;\n}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!done);
#endif
}

// --- copies by the tensor memory unit (PTX ISA 9.7.9.27) ---

/// Starts the copy of the map's box whose first element is (`row`, `col`) to shared memory at a
/// multiple of kAtomBytes.  Elements outside the matrix become zero, and count: the whole box
/// completes on `barrier`.  By one thread.
FUSEDML_DEVICE void copy_box(SharedAddress destination, const TensorMap& map, SharedAddress barrier,
                             int row, int col FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::copy_box(destination, &map, barrier, row, col, site);
#else
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];\n" ::"r"(destination),
      "l"(&map), "r"(barrier), "r"(col), "r"(row)
      : "memory");
#endif
}

FUSEDML_DEVICE void prefetch(const TensorMap& map) {
#if defined(FUSEDML_EMULATION)
  static_cast<void>(map);
#else
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
#endif
}

/// An ordinary store of 16 bytes to shared memory that wgmma is to read: after fence_proxy_async
/// by this thread, and a barrier.
FUSEDML_DEVICE void store_for_wgmma(SharedAddress destination, const uint4& value FUSEDML_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::store_for_wgmma(destination, &value, site);
#else
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};\n" ::"r"(destination), "r"(value.x),
               "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
#endif
}

/// Orders this thread's ordinary stores before later accesses of wgmma and the copy unit.
FUSEDML_DEVICE void fence_proxy_async() {
#if defined(FUSEDML_EMULATION)
  emulation::fence_proxy_async();
#else
  asm volatile("fence.proxy.async;\n" ::: "memory");
#endif
}

// --- matrix products of a warpgroup (PTX ISA 9.7.15) ---
// D [64, N] += A [64, 16] B [16, N]; all 128 threads, the same operands.  Warp w of the group has
// rows 16 w to 16 w + 15.  With g = lane / 4, t = lane % 4:
//   d[4 j + 2 h + b] = D[16 w + g + 8 h][8 j + 2 t + b]
//   A in registers: a[r] = A[16 w + g + 8 (r % 2)][2 t + 8 (r / 2) + {0, 1}]
// From its issue to the wait that covers it neither the operands nor D may be touched.

/// Which index of an operand runs along the 128-byte rows of its boxes.
enum class Major {
  kDepth = 0,  ///< K
  kLines = 1,  ///< M of A, N of B
};

enum class WgmmaType { kBf16, kFp16 };

/// Operand in shared memory, in boxes with the 128-byte swizzle (PTX ISA 9.7.15.5.1.2.2).
/// kDepth: `address` at the first line, + 32 for the next 16 of depth; `next_lines` is not used.
/// kLines: + 2048 for the next 16; `next_lines` are the bytes to the next 64 lines, another box.
FUSEDML_HOST_DEVICE uint64_t wgmma_operand(SharedAddress address, int next_lines = 16) {
  constexpr uint64_t kSwizzle128 = 1;
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(next_lines >> 4) << 16 |
         uint64_t(kAtomBytes >> 4) << 32 | kSwizzle128 << 62;
}

/// The operand `steps` times 16 of depth further.
template <Major kMajor>
FUSEDML_HOST_DEVICE uint64_t advanced(uint64_t operand, int steps) {
  return operand + uint64_t(steps) * (kMajor == Major::kDepth ? 32 >> 4 : 2 * kAtomBytes >> 4);
}

/// Before the first wgmma of each group: orders the accesses to its registers.
FUSEDML_DEVICE void wgmma_fence(FUSEDML_ONLY_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::wgmma_fence(site);
#else
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#endif
}

/// Closes the group of the products since the last commit.
FUSEDML_DEVICE void wgmma_commit(FUSEDML_ONLY_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::wgmma_commit(site);
#else
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#endif
}

/// Waits until at most kPending of the committed groups are still in flight.
template <int kPending>
FUSEDML_DEVICE void wgmma_wait(FUSEDML_ONLY_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::wgmma_wait(kPending, site);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
#endif
}

/// Keeps the compiler from moving a use of the sums above the wait before it.
template <int kCount>
FUSEDML_DEVICE void hold(float (&d)[kCount]) {
#if defined(FUSEDML_EMULATION)
  static_cast<void>(d);
#else
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

#if !defined(FUSEDML_EMULATION)
#include "core/wgmma_registers.h"
#endif

/// d += a b if `adds`, else d = a b; N is twice kSums: 64, 128, 192 or 256.
template <WgmmaType kType, Major kMajorOfA, Major kMajorOfB, int kSums>
FUSEDML_DEVICE void wgmma(float (&d)[kSums], uint64_t a, uint64_t b, bool adds FUSEDML_SITE) {
  static_assert(kSums == 32 || kSums == 64 || kSums == 96 || kSums == 128);
#if defined(FUSEDML_EMULATION)
  emulation::wgmma({d, kSums, a, b, nullptr, adds, kMajorOfA == Major::kLines,
                    kMajorOfB == Major::kLines, kType == WgmmaType::kFp16},
                   site);
#else
#define FUSEDML_WGMMA(type)                                                    \
  if constexpr (kSums == 32)                                                   \
    FUSEDML_WGMMA_SHARED(type, "64", 32, "%32", "%33", "%34", "%35", "%36");   \
  else if constexpr (kSums == 64)                                              \
    FUSEDML_WGMMA_SHARED(type, "128", 64, "%64", "%65", "%66", "%67", "%68");  \
  else if constexpr (kSums == 96)                                              \
    FUSEDML_WGMMA_SHARED(type, "192", 96, "%96", "%97", "%98", "%99", "%100"); \
  else                                                                         \
    FUSEDML_WGMMA_SHARED(type, "256", 128, "%128", "%129", "%130", "%131", "%132")
  if constexpr (kType == WgmmaType::kBf16) {
    FUSEDML_WGMMA("bf16");
  } else {
    FUSEDML_WGMMA("f16");
  }
#undef FUSEDML_WGMMA
#endif
}

/// The same with A from registers, which must stay as they are until the wait; N is 64 or 128.
template <WgmmaType kType, Major kMajorOfB, int kSums>
FUSEDML_DEVICE void wgmma(float (&d)[kSums], const uint32_t (&a)[4], uint64_t b,
                          bool adds FUSEDML_SITE) {
  static_assert(kSums == 32 || kSums == 64);
#if defined(FUSEDML_EMULATION)
  emulation::wgmma(
      {d, kSums, 0, b, a, adds, false, kMajorOfB == Major::kLines, kType == WgmmaType::kFp16},
      site);
#else
#define FUSEDML_WGMMA(type)                                                                   \
  if constexpr (kSums == 32)                                                                  \
    FUSEDML_WGMMA_REGISTERS(type, "64", 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38"); \
  else                                                                                        \
    FUSEDML_WGMMA_REGISTERS(type, "128", 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
  if constexpr (kType == WgmmaType::kBf16) {
    FUSEDML_WGMMA("bf16");
  } else {
    FUSEDML_WGMMA("f16");
  }
#undef FUSEDML_WGMMA
#endif
}

#if !defined(FUSEDML_EMULATION)
#undef FUSEDML_TEN
#undef FUSEDML_THIRTY_FROM_0
#undef FUSEDML_THIRTY_FROM_30
#undef FUSEDML_THIRTY_FROM_60
#undef FUSEDML_THIRTY_FROM_90
#undef FUSEDML_SIXTY
#undef FUSEDML_NINETY
#undef FUSEDML_LAST_8
#undef FUSEDML_NAMES_32
#undef FUSEDML_NAMES_64
#undef FUSEDML_NAMES_96
#undef FUSEDML_NAMES_128
#undef FUSEDML_SUMS_8
#undef FUSEDML_SUMS_32_FROM
#undef FUSEDML_SUMS_32
#undef FUSEDML_SUMS_64
#undef FUSEDML_SUMS_96
#undef FUSEDML_SUMS_128
#undef FUSEDML_WGMMA_SHARED
#undef FUSEDML_WGMMA_REGISTERS
#endif

// --- registers of a warpgroup: a multiple of 8 from 24 to 256 for each thread ---

/// First thing in a role, by all threads of the warpgroup.
template <int kRegisters>
FUSEDML_DEVICE void take_registers(FUSEDML_ONLY_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::set_registers(kRegisters, /*takes=*/true, site);
#else
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
#endif
}

template <int kRegisters>
FUSEDML_DEVICE void give_registers(FUSEDML_ONLY_SITE) {
#if defined(FUSEDML_EMULATION)
  emulation::set_registers(kRegisters, /*takes=*/false, site);
#else
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
#endif
}

}  // namespace fusedml
