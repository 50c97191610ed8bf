#pragma once
// What tests/csrc/check.h offers, for a GPU instead of the emulator: the same test programs of
// tests/csrc/kernels run on both.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

namespace fusedml::emulation {

/// The seed of the data; the GPU's schedule is its own.
struct Config {
  uint64_t seed = 0;
};
inline Config config;

/// Bank conflicts are counted by the emulator alone.
struct Counters {
  uint64_t ldmatrix = 1, ldmatrix_conflicts = 0, cp_async_conflicts = 0;
};
inline Counters counters;
inline void reset_counters() {}
inline std::string bank_conflict_report() { return ""; }

}  // namespace fusedml::emulation

namespace fusedml::testing {

inline int num_failed = 0;
inline int num_passed = 0;

inline void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  // after a fault in a kernel every later call fails too
  std::exit(error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver ? 77 : 1);
}

inline void check(bool condition, const char* text, const char* file, int line) {
  ++(condition ? num_passed : num_failed);
  if (condition || num_failed > 20) return;
  std::printf("%s:%d: failed with seed %llu: %s\n", file, line,
              static_cast<unsigned long long>(emulation::config.seed), text);
}

inline bool synchronized() {
  require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  return true;
}

// Before, as the expression may read what an earlier kernel wrote; after, as it may launch one.
#define CHECK(...)                                                                     \
  ::fusedml::testing::check(::fusedml::testing::synchronized() && bool(__VA_ARGS__) && \
                                ::fusedml::testing::synchronized(),                    \
                            #__VA_ARGS__, __FILE__, __LINE__)

/// An array that host and kernels share (in pinned memory); a workspace, the arrays of char, which
/// only kernels touch, is exactly as much device memory as asked for, so that the sanitizer sees
/// its ends.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count, T value = T()) : count_(count) {
    const size_t bytes = count * sizeof(T);
    if (bytes == 0) return;
    if constexpr (kIsWorkspace) {
      require(cudaMalloc(reinterpret_cast<void**>(&data_), bytes), "cudaMalloc");
      require(cudaMemset(data_, value, bytes), "cudaMemset");
    } else {
      require(cudaMallocHost(reinterpret_cast<void**>(&data_), bytes), "cudaMallocHost");
      for (size_t i = 0; i < count_; ++i) data_[i] = value;
    }
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_ == nullptr) return;
    synchronized();
    if constexpr (kIsWorkspace) {
      cudaFree(data_);
    } else {
      cudaFreeHost(data_);
    }
  }
  operator T*() { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + count_; }
  size_t size() const { return count_; }

 private:
  static constexpr bool kIsWorkspace = std::is_same_v<T, char>;
  size_t count_;
  T* data_ = nullptr;
};

/// Runs `test` under the seeds 0 to argv[1] - 1 of its data and reports; main returns the result.
inline int run_over_seeds(int argc, char** argv, int default_seeds,
                          const std::function<void(std::mt19937&)>& test) {
  const int seeds = argc > 1 ? std::atoi(argv[1]) : default_seeds;
  for (int seed = 0; seed < seeds; ++seed) {
    emulation::config.seed = uint64_t(seed);
    std::mt19937 generator(unsigned(seed) + 1);
    test(generator);
  }
  std::printf("%d checks passed, %d failed, seeds 0..%d\n", num_passed, num_failed, seeds - 1);
  return num_failed == 0 ? 0 : 1;
}

}  // namespace fusedml::testing
