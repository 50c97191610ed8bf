#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace fusedml {

/// What an operator may take beside its inputs and outputs, whatever the number of rows: 64 MB.
constexpr int64_t kMaxWorkspaceBytes = 64'000'000;

/// Cuts arrays out of a block of memory.  Over a null block it only counts, so one function both
/// says how much an operator needs and divides what it was given.
class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    const size_t begin = aligned(used_);
    used_ = begin + size_t(count) * sizeof(T);
    bytes_ = std::max(bytes_, used_);
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + begin);
  }
  /// The most that was in use at once.
  size_t bytes() const { return bytes_; }

  /// A place to return to: what is taken behind it lies over what was taken there before, for the
  /// steps of an operator that come one after the other.
  size_t used() const { return used_; }
  void return_to(size_t used) { used_ = used; }

  /// What has been taken so far does not count against the bytes that may be.
  void set_aside() { aside_ = aligned(used_); }

  /// What is left of `most` bytes for the next array.
  int64_t left(int64_t most = kMaxWorkspaceBytes) const {
    return most - int64_t(aligned(used_) - aside_);
  }

 private:
  static constexpr size_t kAlignment = 256;
  static size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  char* base_;
  size_t used_ = 0, bytes_ = 0, aside_ = 0;
};

}  // namespace fusedml
