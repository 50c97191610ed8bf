#include "emulation/raw_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace fusedml::emulation {

#if defined(__x86_64__)
void raw_fill(void* destination, unsigned char value, size_t bytes) {
  asm volatile("rep stosb" : "+D"(destination), "+c"(bytes) : "a"(value) : "memory");
}

void raw_copy(void* destination, const void* source, size_t bytes) {
  asm volatile("rep movsb" : "+D"(destination), "+S"(source), "+c"(bytes)::"memory");
}
#else
// `volatile` keeps the compiler from turning the loops into calls of memset and memcpy.
void raw_fill(void* destination, unsigned char value, size_t bytes) {
  auto* to = static_cast<volatile unsigned char*>(destination);
  for (size_t i = 0; i < bytes; ++i) to[i] = value;
}

void raw_copy(void* destination, const void* source, size_t bytes) {
  auto* to = static_cast<volatile unsigned char*>(destination);
  auto* from = static_cast<const unsigned char*>(source);
  for (size_t i = 0; i < bytes; ++i) to[i] = from[i];
}
#endif

void raw_poison(void* destination, size_t bytes) {
  auto* to = static_cast<volatile uint16_t*>(destination);
  for (size_t i = 0; i < bytes / 2; ++i) to[i] = kPoison16;
  if (bytes % 2 != 0) {
    static_cast<volatile unsigned char*>(destination)[bytes - 1] = kPoison16 & 0xff;
  }
}

namespace {

constexpr int kSmallestExponent = 6;
constexpr size_t kSlabBytes = size_t(4) << 20;
void* free_lists[64];

int exponent_of(size_t bytes) {
  int exponent = kSmallestExponent;
  while ((size_t(1) << exponent) < bytes) ++exponent;
  return exponent;
}

}  // namespace

void* pool_allocate(size_t bytes) {
  static char* slab = nullptr;
  static size_t slab_left = 0;
  const int exponent = exponent_of(bytes);
  void*& head = free_lists[exponent];
  if (head != nullptr) {
    void* block = head;
    head = *static_cast<void**>(block);
    return block;
  }
  const size_t block_bytes = size_t(1) << exponent;
  if (slab_left < block_bytes) {
    slab_left = std::max(block_bytes, kSlabBytes);
    void* mapped =
        mmap(nullptr, slab_left, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
      std::perror("emulation: mmap");
      std::abort();
    }
    slab = static_cast<char*>(mapped);
  }
  void* block = slab;
  slab += block_bytes;
  slab_left -= block_bytes;
  return block;
}

void pool_release(void* block, size_t bytes) {
  void*& head = free_lists[exponent_of(bytes)];
  *static_cast<void**>(block) = head;
  head = block;
}

}  // namespace fusedml::emulation
