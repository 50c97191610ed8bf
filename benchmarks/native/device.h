#pragma once
// Memory and clock of a GPU; in emulated builds, which try the timer itself, of this machine.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/platform.h"

#if defined(FUSEDML_EMULATION)
#include <chrono>
#endif

namespace fusedml::timing {

inline void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
#if defined(FUSEDML_EMULATION)
  std::printf("%s: error %d\n", what, int(error));
  std::exit(1);
#else
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  // 77: skipped, as there is no GPU
  std::exit(error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver ? 77 : 1);
#endif
}

/// An array on the device.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    const size_t bytes = (count ? count : 1) * sizeof(T);
#if defined(FUSEDML_EMULATION)
    data_ = static_cast<T*>(std::aligned_alloc(256, round_up(bytes, size_t(256))));
    if (data_ == nullptr) std::abort();
#else
    require(cudaMalloc(reinterpret_cast<void**>(&data_), bytes), "cudaMalloc");
#endif
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
#if defined(FUSEDML_EMULATION)
    std::free(data_);
#else
    cudaFree(data_);
#endif
  }

  void fill_from(const T* host) {
#if defined(FUSEDML_EMULATION)
    std::memcpy(data_, host, count_ * sizeof(T));
#else
    require(cudaMemcpy(data_, host, count_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
#endif
  }
  void copy_to(T* host) const {
#if defined(FUSEDML_EMULATION)
    std::memcpy(host, data_, count_ * sizeof(T));
#else
    require(cudaMemcpy(host, data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
#endif
  }
  T* get() const { return data_; }
  size_t bytes() const { return count_ * sizeof(T); }

 private:
  size_t count_;
  T* data_ = nullptr;
};

/// Milliseconds of `run`, which enqueues work and returns its first error, on a cold L2 cache.
class Clock {
 public:
#if defined(FUSEDML_EMULATION)
  template <class Run>
  double operator()(const Run& run) {
    const auto begin = std::chrono::steady_clock::now();
    require(run(), "launch");
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
        .count();
  }
#else
  Clock() : flush_(size_t(256) << 20) {
    require(cudaEventCreate(&begin_), "cudaEventCreate");
    require(cudaEventCreate(&end_), "cudaEventCreate");
  }
  template <class Run>
  double operator()(const Run& run) {
    require(cudaMemsetAsync(flush_.get(), 0, flush_.bytes()), "cudaMemsetAsync");
    require(cudaEventRecord(begin_), "cudaEventRecord");
    require(run(), "launch");
    require(cudaEventRecord(end_), "cudaEventRecord");
    require(cudaEventSynchronize(end_), "kernels");
    float milliseconds = 0;
    require(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return milliseconds;
  }

 private:
  DeviceArray<char> flush_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
#endif
};

}  // namespace fusedml::timing
