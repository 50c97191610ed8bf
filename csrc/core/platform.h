#pragma once
// Which compiler reads the kernels: nvcc (a GPU), a C++ compiler with FUSEDML_EMULATION (the CPU
// executes them, csrc/emulation), or a C++ compiler that only needs the parameter structs
// (binding).
#if defined(FUSEDML_EMULATION)
#include "emulation/cuda_on_host.h"
#elif defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define FUSEDML_DEVICE __device__ __forceinline__
#define FUSEDML_HOST_DEVICE __host__ __device__ __forceinline__
/// FUSEDML_SHARED(float, sums, [4][32]);  a block's own array of known extent.
#define FUSEDML_SHARED(Type, name, ...) __shared__ __align__(16) Type name __VA_ARGS__
/// FUSEDML_DYNAMIC_SHARED(bytes);  the bytes that the launch asked for; most kernels take a Carver.
/// 128: a row of all banks.  More would pad the static arrays of every kernel.
#define FUSEDML_DYNAMIC_SHARED(name)                                       \
  extern __shared__ __align__(128) unsigned char fusedml_dynamic_shared[]; \
  unsigned char* const name = fusedml_dynamic_shared
/// The same, at a multiple of 1024: an atom of the 128-byte swizzle.
#define FUSEDML_DYNAMIC_SHARED_ATOMS(name)                                        \
  extern __shared__ __align__(1024) unsigned char fusedml_dynamic_shared_atoms[]; \
  unsigned char* const name = fusedml_dynamic_shared_atoms
#else
#define FUSEDML_DEVICE inline
#define FUSEDML_HOST_DEVICE inline
#endif

#if defined(FUSEDML_EMULATION)
// One array per block and per instantiation of the kernel; the tag's address tells them apart.
#define FUSEDML_SHARED(Type, name, ...)           \
  static char name##_tag;                         \
  typedef Type name##_type __VA_ARGS__;           \
  name##_type& name = *static_cast<name##_type*>( \
      ::fusedml::emulation::static_shared(&name##_tag, sizeof(name##_type), alignof(Type)))
#define FUSEDML_DYNAMIC_SHARED(name) \
  unsigned char* const name = static_cast<unsigned char*>(::fusedml::emulation::dynamic_shared())
// The caller's source line, which the emulator names in its reports; nothing on a GPU.
#define FUSEDML_ONLY_SITE ::fusedml::emulation::Site site = {__builtin_FILE(), __builtin_LINE()}
#define FUSEDML_SITE , FUSEDML_ONLY_SITE
#else
#define FUSEDML_ONLY_SITE
#define FUSEDML_SITE
#endif

namespace fusedml {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;
/// Of a class that has several: a thread holds a row's measures with all of them.
constexpr int kLeastGroupVectors = 2, kMostGroupVectors = 16;
constexpr float kNegativeInfinity = -INFINITY;
constexpr float kLog2E = 1.4426950408889634f;  ///< log2(e)
constexpr float kLn2 = 0.6931471805599453f;    ///< log(2)

template <class Integer>
FUSEDML_HOST_DEVICE constexpr Integer ceil_div(Integer numerator, Integer denominator) {
  return (numerator + denominator - 1) / denominator;
}

template <class Integer>
FUSEDML_HOST_DEVICE constexpr Integer round_up(Integer value, Integer multiple) {
  return ceil_div(value, multiple) * multiple;
}

/// log(1 + exp(x)) without overflow.
template <class Real>
FUSEDML_HOST_DEVICE Real softplus(Real x) {
  return (x > Real(0) ? x : Real(0)) + std::log1p(std::exp(-std::fabs(x)));
}

/// 1 / (1 + exp(-x)), the derivative of softplus.
template <class Real>
FUSEDML_HOST_DEVICE Real sigmoid(Real x) {
  return Real(1) / (Real(1) + std::exp(-x));
}

#if defined(__CUDACC__) || defined(FUSEDML_EMULATION)
/// Cuts typed arrays out of the dynamic shared memory; every thread cuts the same ones in the same
/// order, aligned to kMostAlignment bytes at most.  The emulator keeps red zones between the
/// arrays.
template <int kMostAlignment>
class AlignedCarver {
 public:
  template <class T>
  FUSEDML_DEVICE T* take(int count, int alignment = 16) {
    offset_ = round_up(offset_, alignment);
    const int begin = offset_;
    offset_ += count * static_cast<int>(sizeof(T));
#if defined(FUSEDML_EMULATION)
    return static_cast<T*>(
        emulation::carve(index_++, begin, offset_ - begin, alignment, kMostAlignment));
#else
    if constexpr (kMostAlignment > 128) {
      FUSEDML_DYNAMIC_SHARED_ATOMS(bytes);
      return reinterpret_cast<T*>(bytes + begin);
    } else {
      FUSEDML_DYNAMIC_SHARED(bytes);
      return reinterpret_cast<T*>(bytes + begin);
    }
#endif
  }

 private:
  int offset_ = 0;
#if defined(FUSEDML_EMULATION)
  int index_ = 0;
#endif
};
using Carver = AlignedCarver<128>;
#endif

}  // namespace fusedml
