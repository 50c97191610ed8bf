#pragma once
// What the architecture that is being compiled for offers; only device code asks.
#include "core/platform.h"

namespace fusedml {

/// Shared memory of one multiprocessor, and what the system takes of it for every block, in bytes
/// (CUDA C++ Programming Guide, technical specifications per compute capability).  Unknown
/// architectures count as the smallest one.
constexpr int kAmpereSharedBytes = 164 * 1024;
constexpr int kHopperSharedBytes = 228 * 1024;
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 870)
constexpr int kMultiprocessorSharedBytes = kAmpereSharedBytes;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200
constexpr int kMultiprocessorSharedBytes = kHopperSharedBytes;
#else
constexpr int kMultiprocessorSharedBytes = 100 * 1024;
#endif
constexpr int kReservedSharedBytes = 1024;

/// What `blocks` blocks take of it.
constexpr int shared_memory_of(int blocks, int bytes_per_block) {
  return blocks * (bytes_per_block + kReservedSharedBytes);
}

/// Whether the shared memory of `blocks` blocks fits a multiprocessor.
constexpr bool shared_memory_fits(int blocks, int bytes_per_block) {
  return shared_memory_of(blocks, bytes_per_block) <= kMultiprocessorSharedBytes;
}

/// Whether they fit, or not, on 8.0 and on 9.0 alike: code of which one PTX is made for both
/// (cmake/Native.cmake) asks nothing else of an architecture.
constexpr bool fit_alike_on_hopper(int blocks, int bytes_per_block) {
  const int bytes = shared_memory_of(blocks, bytes_per_block);
  return bytes <= kAmpereSharedBytes || bytes > kHopperSharedBytes;
}

}  // namespace fusedml
