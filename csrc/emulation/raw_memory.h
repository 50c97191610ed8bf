#pragma once
// Memory services that no sanitizer sees.  malloc, memcpy and memset are intercepted even when
// uninstrumented code calls them, and then the engine's own work would count as the kernel's.
#include <cstddef>
#include <cstdint>
#include <utility>

namespace fusedml::emulation {

/// 0xfffb is NaN as fp16, bf16, fp32 and fp64 and, unlike 0xffff, no common integer sentinel.
constexpr uint16_t kPoison16 = 0xfffb;
constexpr uint32_t kPoison32 = 0xfffbfffb;

void raw_fill(void* destination, unsigned char value, size_t bytes);
void raw_copy(void* destination, const void* source, size_t bytes);
void raw_poison(void* destination, size_t bytes);

/// Blocks of 2^k bytes from slabs of the operating system, kept for ever in free lists.
void* pool_allocate(size_t bytes);
void pool_release(void* block, size_t bytes);

/// A growing array of trivially copyable elements for state that changes while fibers run.
template <class T>
class PoolVector {
 public:
  PoolVector() = default;
  PoolVector(const PoolVector&) = delete;
  PoolVector& operator=(const PoolVector&) = delete;
  PoolVector(PoolVector&& other) noexcept { *this = std::move(other); }
  PoolVector& operator=(PoolVector&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
    return *this;
  }
  ~PoolVector() {
    if (data_ != nullptr) pool_release(data_, capacity_ * sizeof(T));
  }

  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  T& operator[](size_t index) { return data_[index]; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  void clear() { size_ = 0; }

  void push_back(const T& element) {
    if (size_ == capacity_) grow();
    assign(data_[size_++], element);
  }
  void remove(size_t index) {
    for (size_t i = index + 1; i < size_; ++i) assign(data_[i - 1], data_[i]);
    --size_;
  }
  /// Removes the first `count` elements.
  void drop_front(size_t count) {
    for (size_t i = count; i < size_; ++i) assign(data_[i - count], data_[i]);
    size_ -= count;
  }

 private:
  /// A large element's assignment would be a call of memcpy.
  static void assign(T& to, const T& from) {
    if constexpr (sizeof(T) > 64) {
      raw_copy(&to, &from, sizeof(T));
    } else {
      to = from;
    }
  }
  void grow() {
    const size_t capacity = capacity_ == 0 ? 8 : 2 * capacity_;
    T* data = static_cast<T*>(pool_allocate(capacity * sizeof(T)));
    if (data_ != nullptr) {
      raw_copy(data, data_, size_ * sizeof(T));
      pool_release(data_, capacity_ * sizeof(T));
    }
    data_ = data;
    capacity_ = capacity;
  }

  T* data_ = nullptr;
  size_t size_ = 0, capacity_ = 0;
};

}  // namespace fusedml::emulation
