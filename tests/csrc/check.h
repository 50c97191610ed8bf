#pragma once
// The few words that the C++ tests need: checks, test cases over seeds, aligned buffers.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "emulation/emulator.h"

namespace fusedml::testing {

inline int num_failed = 0;
inline int num_passed = 0;

inline void check(bool condition, const char* text, const char* file, int line) {
  ++(condition ? num_passed : num_failed);
  if (condition || num_failed > 20) return;
  std::printf("%s:%d: failed with seed %llu: %s\n", file, line,
              static_cast<unsigned long long>(emulation::config.seed), text);
}
#define CHECK(...) ::fusedml::testing::check(bool(__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)

/// An array of exactly `count` elements on the heap, so that AddressSanitizer sees its ends.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count, T value = T()) : count_(count) {
    void* data = nullptr;
    if (posix_memalign(&data, 16, count * sizeof(T)) != 0) std::abort();
    data_.reset(static_cast<T*>(data));
    for (size_t i = 0; i < count_; ++i) data_[i] = value;
  }
  operator T*() { return data_.get(); }
  T* begin() { return data_.get(); }
  T* end() { return data_.get() + count_; }
  size_t size() const { return count_; }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  size_t count_;
  std::unique_ptr<T[], Free> data_;
};

/// The text of the fault that `run` provokes; empty if there is none.
inline std::string fault_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const emulation::Fault& fault) {
    return fault.what();
  }
  return "";
}

inline bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

/// Runs `test` under seeds 0 (fixed order) to argv[1] - 1 and reports; main returns the result.
inline int run_over_seeds(int argc, char** argv, int default_seeds,
                          const std::function<void(std::mt19937&)>& test) {
  const int seeds = argc > 1 ? std::atoi(argv[1]) : default_seeds;
  for (int seed = 0; seed < seeds; ++seed) {
    emulation::config = {};
    emulation::config.seed = uint64_t(seed);
    std::mt19937 generator(unsigned(seed) + 1);
    test(generator);
  }
  std::printf("%d checks passed, %d failed, seeds 0..%d\n", num_passed, num_failed, seeds - 1);
  return num_failed == 0 ? 0 : 1;
}

}  // namespace fusedml::testing
