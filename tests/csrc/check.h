#pragma once
// The few words that the C++ tests need: checks, buffers, launches, test cases over seeds.  With
// the emulation the schedule's seed varies; compiled by nvcc the same tests run on a GPU.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/launch.h"

namespace fusedml::testing {

inline unsigned long long schedule_seed() {
#if defined(FUSEDML_EMULATION)
  return emulation::config.seed;
#else
  return 0;
#endif
}

inline int num_failed = 0;
inline int num_passed = 0;

inline void check(bool condition, const char* text, const char* file, int line) {
  ++(condition ? num_passed : num_failed);
  if (condition || num_failed > 20) return;
  std::printf("%s:%d: failed with seed %llu: %s\n", file, line, schedule_seed(), text);
}
#define CHECK(...) ::fusedml::testing::check(bool(__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)

/// An array of exactly `count` elements that host and kernels see; on the heap in emulated builds,
/// so that AddressSanitizer knows its ends.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count, T value = T()) : count_(count) {
    void* data = nullptr;
#if defined(FUSEDML_EMULATION)
    if (posix_memalign(&data, 16, count * sizeof(T)) != 0) std::abort();
#else
    if (cudaMallocManaged(&data, count * sizeof(T)) != cudaSuccess) std::abort();
#endif
    data_.reset(static_cast<T*>(data));
    for (size_t i = 0; i < count_; ++i) data_[i] = value;
  }
  operator T*() { return data_.get(); }
  T* begin() { return data_.get(); }
  T* end() { return data_.get() + count_; }
  size_t size() const { return count_; }

 private:
  struct Free {
    void operator()(T* data) const {
#if defined(FUSEDML_EMULATION)
      std::free(data);
#else
      cudaFree(data);
#endif
    }
  };
  size_t count_;
  std::unique_ptr<T[], Free> data_;
};

/// Launches and waits.
template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
         Arguments&&... arguments) {
  cudaError_t error =
      launch(kernel, grid, block, shared_bytes, nullptr, std::forward<Arguments>(arguments)...);
#if !defined(FUSEDML_EMULATION)
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error != cudaSuccess) std::printf("%s\n", cudaGetErrorString(error));
#endif
  CHECK(error == cudaSuccess);
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

#if defined(FUSEDML_EMULATION)
/// The text of the fault that `run` provokes; empty if there is none.
inline std::string fault_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const emulation::Fault& fault) {
    return fault.what();
  }
  return "";
}

#endif

inline bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

/// Runs `test` under seeds 0 (fixed order) to argv[1] - 1 and reports; main returns the result.  On
/// a GPU it runs once; without one the result is what ctest takes for "skipped".
inline int run_over_seeds(int argc, char** argv, int default_seeds,
                          const std::function<void(std::mt19937&)>& test) {
  int seeds = argc > 1 ? std::atoi(argv[1]) : default_seeds;
#if !defined(FUSEDML_EMULATION)
  constexpr int kSkipped = 77;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no GPU\n");
    return kSkipped;
  }
  seeds = 1;
#endif
  for (int seed = 0; seed < seeds; ++seed) {
#if defined(FUSEDML_EMULATION)
    emulation::config = {};
    emulation::config.seed = uint64_t(seed);
#endif
    std::mt19937 generator(unsigned(seed) + 1);
    test(generator);
  }
  std::printf("%d checks passed, %d failed, seeds 0..%d\n", num_passed, num_failed, seeds - 1);
  return num_failed == 0 ? 0 : 1;
}

}  // namespace fusedml::testing
