// A block's shared memory: arrays in an arena, with poison inside and red zones between them.
#include <algorithm>
#include <cstdio>

#include "emulation/engine.h"
#include "emulation/sanitizer.h"

namespace fusedml::emulation {
namespace {

/// Larger than what a wrong index of a tile usually misses by.
constexpr uint32_t kRedZoneBytes = 1024;
/// FUSEDML_DYNAMIC_SHARED's on a GPU.
constexpr size_t kDynamicAlignment = 128;

Block& block() { return *engine.running->warp->block; }

void* find(const void* tag) {
  for (const Allocation& allocation : block().allocations) {
    if (allocation.tag == tag) return block().arena + allocation.offset;
  }
  return nullptr;
}

void* allocate(const void* tag, size_t bytes, size_t alignment) {
  Block& own = block();
  alignment = std::max<size_t>(alignment, 16);
  const size_t offset = (own.arena_top + kRedZoneBytes + alignment - 1) / alignment * alignment;
  if (offset + bytes + kRedZoneBytes > kArenaBytes) {
    fault("the emulated shared memory and its red zones exceed %u bytes", kArenaBytes);
  }
  own.arena_top = uint32_t(offset + bytes);
  own.allocations.push_back({tag, uint32_t(offset), uint32_t(bytes)});
  char* begin = own.arena + offset;
  sanitizer::permit(begin, bytes);
  raw_poison(begin, bytes);
  return begin;
}

}  // namespace

void* dynamic_shared() {
  void* found = find(&block());
  return found != nullptr ? found : allocate(&block(), block().dynamic_bytes, kDynamicAlignment);
}

void* static_shared(const void* tag, size_t bytes, size_t alignment) {
  if (void* found = find(tag)) return found;
  Block& own = block();
  own.static_bytes += bytes;
  if (own.static_bytes + own.dynamic_bytes > config.max_shared_bytes) {
    fault("%zu bytes of shared memory, the limit is %zu", own.static_bytes + own.dynamic_bytes,
          config.max_shared_bytes);
  }
  return allocate(tag, bytes, alignment);
}

void* carve(int index, size_t offset, size_t bytes, size_t alignment, size_t most_alignment) {
  Block& own = block();
  if (size_t(index) < own.carved.size()) {
    const Allocation& existing = own.allocations[own.carved[index]];
    if (existing.bytes != bytes) {
      fault("Carver: array %d has %zu bytes here and %u bytes in another thread", index, bytes,
            existing.bytes);
    }
    return own.arena + existing.offset;
  }
  if (alignment > most_alignment) {
    fault("Carver: alignment %zu, dynamic shared memory is aligned to %zu bytes", alignment,
          most_alignment);
  }
  if (offset + bytes > own.dynamic_bytes) {
    fault("Carver: bytes [%zu, %zu) of %zu bytes of dynamic shared memory", offset, offset + bytes,
          own.dynamic_bytes);
  }
  own.carved.push_back(int(own.allocations.size()));
  return allocate(nullptr, bytes, alignment);
}

uint32_t shared_address(const void* pointer) {
  const ptrdiff_t offset = static_cast<const char*>(pointer) - block().arena;
  if (offset < 0 || offset >= ptrdiff_t(kArenaBytes)) {
    fault("%p has no shared address: it is not shared memory of this block", pointer);
  }
  return uint32_t(offset);
}

char* checked_shared(uint32_t address, size_t bytes, size_t alignment, const char* what) {
  if (address % alignment != 0) {
    fault("%s: shared address %u is not %zu-byte aligned", what, address, alignment);
  }
  std::string known;
  for (const Allocation& allocation : block().allocations) {
    const uint32_t end = allocation.offset + allocation.bytes;
    if (address >= allocation.offset && address + bytes <= end) return block().arena + address;
  }
  for (const Allocation& allocation : block().allocations) {
    char range[48];
    std::snprintf(range, sizeof(range), " [%u, %u)", allocation.offset,
                  allocation.offset + allocation.bytes);
    known += range;
  }
  fault("%s: shared addresses [%u, %zu) are outside every array:%s", what, address, address + bytes,
        known.c_str());
}

}  // namespace fusedml::emulation
