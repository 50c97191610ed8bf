#pragma once
// Atomics under CUDA's names: relaxed host atomics, so that ThreadSanitizer knows them as such.
#include <cstring>
#include <type_traits>

#include "emulation/emulator.h"

namespace fusedml::emulation {

template <size_t kBytes>
struct Word;
template <>
struct Word<2> {
  using Type = uint16_t;
};
template <>
struct Word<4> {
  using Type = uint32_t;
};
template <>
struct Word<8> {
  using Type = uint64_t;
};

/// Replaces *address by update(*address) and returns the old value.
template <class T, class Update>
inline T read_modify_write(T* address, Update update) {
  using Bits = typename Word<sizeof(T)>::Type;
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) {
    fault("atomic on %p, which is not %zu-byte aligned", static_cast<void*>(address), sizeof(T));
  }
  yield();  // others may come first, and a loop that waits here lets them
  auto* word = reinterpret_cast<Bits*>(address);
  Bits old_bits = __atomic_load_n(word, __ATOMIC_RELAXED), new_bits;
  T old_value;
  do {
    std::memcpy(&old_value, &old_bits, sizeof(T));
    const T new_value = update(old_value);
    std::memcpy(&new_bits, &new_value, sizeof(T));
  } while (!__atomic_compare_exchange_n(word, &old_bits, new_bits, /*weak=*/false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
  return old_value;
}

/// Keeps the second argument out of template argument deduction.
template <class T>
struct Exactly {
  using Type = T;
};
template <class T>
using ExactlyT = typename Exactly<T>::Type;

}  // namespace fusedml::emulation

template <class T>
inline T atomicAdd(T* address, fusedml::emulation::ExactlyT<T> value) {
  return fusedml::emulation::read_modify_write(address, [=](T old) { return T(old + value); });
}
template <class T>
inline T atomicSub(T* address, fusedml::emulation::ExactlyT<T> value) {
  return fusedml::emulation::read_modify_write(address, [=](T old) { return T(old - value); });
}
template <class T>
inline T atomicMax(T* address, fusedml::emulation::ExactlyT<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has no atomicMax of this type");
  return fusedml::emulation::read_modify_write(address,
                                               [=](T old) { return old < value ? value : old; });
}
template <class T>
inline T atomicMin(T* address, fusedml::emulation::ExactlyT<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has no atomicMin of this type");
  return fusedml::emulation::read_modify_write(address,
                                               [=](T old) { return value < old ? value : old; });
}
template <class T>
inline T atomicOr(T* address, fusedml::emulation::ExactlyT<T> value) {
  return fusedml::emulation::read_modify_write(address, [=](T old) { return T(old | value); });
}
template <class T>
inline T atomicAnd(T* address, fusedml::emulation::ExactlyT<T> value) {
  return fusedml::emulation::read_modify_write(address, [=](T old) { return T(old & value); });
}
template <class T>
inline T atomicExch(T* address, fusedml::emulation::ExactlyT<T> value) {
  return fusedml::emulation::read_modify_write(address, [=](T) { return value; });
}
template <class T>
inline T atomicCAS(T* address, fusedml::emulation::ExactlyT<T> expected,
                   fusedml::emulation::ExactlyT<T> value) {
  return fusedml::emulation::read_modify_write(
      address, [=](T old) { return old == expected ? value : old; });
}
