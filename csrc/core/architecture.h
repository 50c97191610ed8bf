#pragma once
// What the architecture that is being compiled for offers; only device code asks.
#include "core/platform.h"

namespace fusedml {

/// Shared memory of one multiprocessor, and what the system takes of it for every block, in bytes
/// (CUDA C++ Programming Guide, technical specifications per compute capability).  Unknown
/// architectures count as the smallest one.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 870)
constexpr int kMultiprocessorSharedBytes = 164 * 1024;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200
constexpr int kMultiprocessorSharedBytes = 228 * 1024;
#else
constexpr int kMultiprocessorSharedBytes = 100 * 1024;
#endif
constexpr int kReservedSharedBytes = 1024;

/// Whether the shared memory of `blocks` blocks fits a multiprocessor.
constexpr bool shared_memory_fits(int blocks, int bytes_per_block) {
  return blocks * (bytes_per_block + kReservedSharedBytes) <= kMultiprocessorSharedBytes;
}

/// Whether they fit, or not, on 8.0 and on 9.0 alike: code of which one PTX is made for both
/// (cmake/Native.cmake) asks nothing else of an architecture.
constexpr bool fit_alike_on_hopper(int blocks, int bytes_per_block) {
  const int bytes = blocks * (bytes_per_block + kReservedSharedBytes);
  return bytes <= 164 * 1024 || bytes > 228 * 1024;
}

}  // namespace fusedml
