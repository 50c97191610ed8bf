#pragma once
#include <cstddef>
#include <cstdint>

namespace fusedml {

/// Cuts arrays out of a block of memory.  Over a null block it only counts, so one function both
/// says how much an operator needs and divides what it was given.
class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    constexpr size_t kAlignment = 256;
    const size_t begin = (bytes_ + kAlignment - 1) / kAlignment * kAlignment;
    bytes_ = begin + size_t(count) * sizeof(T);
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + begin);
  }
  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  size_t bytes_ = 0;
};

}  // namespace fusedml
