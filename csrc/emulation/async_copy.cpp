// cp.async: the bytes land at the thread's wait, no sooner; until then the destination is poison.
#include "emulation/engine.h"
#include "emulation/sanitizer.h"

namespace fusedml::emulation {
namespace {

void land(const PendingCopy& copy) {
  if (const void* bad = sanitizer::first_forbidden(copy.source, size_t(copy.source_bytes))) {
    fault("cp.async: %d bytes at %p touch invalid memory at %p", copy.source_bytes,
          static_cast<const void*>(copy.source), bad);
  }
  sanitizer::note_read(copy.source, size_t(copy.source_bytes));
  sanitizer::note_write(copy.destination, size_t(copy.bytes));
  raw_copy(copy.destination, copy.source, size_t(copy.source_bytes));
  raw_fill(copy.destination + copy.source_bytes, 0, size_t(copy.bytes - copy.source_bytes));
}

}  // namespace

void cp_async(uint32_t destination, const void* source, int bytes, int source_bytes, Site site) {
  if (source_bytes < 0 || source_bytes > bytes) {
    fault("cp.async at %s:%d: source size %d of %d bytes", site.file, site.line, source_bytes,
          bytes);
  }
  if (source_bytes != 0 && reinterpret_cast<uintptr_t>(source) % unsigned(bytes) != 0) {
    fault("cp.async at %s:%d: global address %p is not %d-byte aligned", site.file, site.line,
          source, bytes);
  }
  char* target = checked_shared(destination, size_t(bytes), size_t(bytes), "cp.async");
  ++counters.cp_async;
  Thread& thread = *engine.running;
  record_access({SharedAccess::kCopy, site, nullptr, destination, bytes});
  sanitizer::note_write(target, size_t(bytes));
  raw_poison(target, size_t(bytes));
  thread.pending_copies.push_back(
      {target, static_cast<const char*>(source), bytes, source_bytes, thread.copy_group});
}

void cp_async_commit() { ++engine.running->copy_group; }

void cp_async_wait(int pending_groups) {
  Thread& thread = *engine.running;
  PoolVector<PendingCopy>& copies = thread.pending_copies;
  size_t landed = 0;
  while (landed < copies.size() &&
         copies[landed].group + unsigned(pending_groups) < thread.copy_group) {
    land(copies[landed++]);
  }
  copies.drop_front(landed);
  if (wants_preemption()) switch_to(choose_thread(nullptr));
}

}  // namespace fusedml::emulation
