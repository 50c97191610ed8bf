#pragma once
// Operands of the tensor cores as numbers, and how their sums are rounded.
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace fusedml::emulation {

inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float bf16_to_float(uint32_t half_word) { return from_bits(half_word << 16); }

inline float f16_to_float(uint32_t half_word) {
  const uint16_t bits = uint16_t(half_word);
#if defined(__F16C__)
  return _cvtsh_ss(bits);  // where a double is wanted the compiler would call a function instead
#else
  _Float16 value;
  std::memcpy(&value, &bits, sizeof(value));
  return float(value);
#endif
}

/// Rounds towards zero.
inline float truncate(double value) {
  const float nearest = float(value);
  return std::fabs(double(nearest)) > std::fabs(value) ? std::nextafterf(nearest, 0.0f) : nearest;
}

}  // namespace fusedml::emulation
