#pragma once
// Barriers, shuffles and votes under CUDA's names.
#include <cstring>
#include <type_traits>

#include "emulation/emulator.h"

#define FUSEDML_EMULATION_SITE \
  ::fusedml::emulation::Site site = {__builtin_FILE(), __builtin_LINE()}

namespace fusedml::emulation {

template <class T>
inline T shuffle_words(Collective operation, uint32_t mask, T value, uint32_t parameter, int width,
                       Site site) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  constexpr int kWords = (sizeof(T) + 3) / 4;
  uint32_t input[kWords] = {}, output[kWords];
  std::memcpy(input, &value, sizeof(T));
  collective(operation, mask, {input, output, kWords, parameter, width}, site);
  T result;
  std::memcpy(&result, output, sizeof(T));
  return result;
}

inline uint32_t vote(Collective operation, uint32_t mask, uint32_t value, Site site) {
  uint32_t result;
  collective(operation, mask, {&value, &result, 1}, site);
  return result;
}

}  // namespace fusedml::emulation

inline void __syncthreads(FUSEDML_EMULATION_SITE) {
  fusedml::emulation::barrier(0, 0, fusedml::emulation::BarrierKind::kSync, 0, site);
}
inline int __syncthreads_or(int predicate, FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::barrier(0, 0, fusedml::emulation::BarrierKind::kOr, predicate, site);
}
inline int __syncthreads_and(int predicate, FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::barrier(0, 0, fusedml::emulation::BarrierKind::kAnd, predicate, site);
}
inline int __syncthreads_count(int predicate, FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::barrier(0, 0, fusedml::emulation::BarrierKind::kCount, predicate,
                                     site);
}
inline void __syncwarp(uint32_t mask = ~0u, FUSEDML_EMULATION_SITE) {
  fusedml::emulation::collective(fusedml::emulation::Collective::kSyncWarp, mask, {}, site);
}
inline void __threadfence() { fusedml::emulation::thread_fence(); }
inline void __threadfence_block() { fusedml::emulation::thread_fence(); }
inline void __nanosleep(unsigned) { fusedml::emulation::yield(); }

template <class T>
inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32, FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::shuffle_words(fusedml::emulation::Collective::kShuffleIndex, mask,
                                           value, source, width, site);
}
template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned distance, int width = 32,
                        FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::shuffle_words(fusedml::emulation::Collective::kShuffleUp, mask, value,
                                           distance, width, site);
}
template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned distance, int width = 32,
                          FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::shuffle_words(fusedml::emulation::Collective::kShuffleDown, mask,
                                           value, distance, width, site);
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32,
                         FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::shuffle_words(fusedml::emulation::Collective::kShuffleXor, mask, value,
                                           lane_mask, width, site);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::vote(fusedml::emulation::Collective::kBallot, mask, predicate != 0,
                                  site);
}
inline int __any_sync(uint32_t mask, int predicate, FUSEDML_EMULATION_SITE) {
  return __ballot_sync(mask, predicate != 0, site) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, FUSEDML_EMULATION_SITE) {
  return __ballot_sync(mask, predicate == 0, site) == 0;
}
inline uint32_t __match_any_sync(uint32_t mask, uint32_t value, FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::vote(fusedml::emulation::Collective::kMatchAny, mask, value, site);
}
inline uint32_t __reduce_add_sync(uint32_t mask, uint32_t value, FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::vote(fusedml::emulation::Collective::kReduceAdd, mask, value, site);
}
inline uint32_t __reduce_min_sync(uint32_t mask, uint32_t value, FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::vote(fusedml::emulation::Collective::kReduceMin, mask, value, site);
}
inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t value, FUSEDML_EMULATION_SITE) {
  return fusedml::emulation::vote(fusedml::emulation::Collective::kReduceMax, mask, value, site);
}
