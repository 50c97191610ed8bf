// mbarrier: a phase ends when all arrivals have been made and all announced bytes have landed.
#include <cstdio>

#include "emulation/engine.h"
#include "emulation/sanitizer.h"

namespace fusedml::emulation {
namespace {

MemoryBarrier* find(Block& block, uint32_t address) {
  for (MemoryBarrier& barrier : block.units.barriers) {
    if (barrier.address == address) return &barrier;
  }
  return nullptr;
}

/// A thread sees the phases of a barrier one after the other.
void note_seen(Thread& thread, MemoryBarrier& barrier, int64_t phase) {
  if (phase > barrier.seen) barrier.seen = phase;
  for (SeenPhase& seen : thread.seen_phases) {
    if (seen.barrier != barrier.address) continue;
    if (phase != seen.phase + 1) {
      fault(
          "mbarrier at %u: a thread that has seen the end of phase %lld now sees that of phase "
          "%lld",
          barrier.address, static_cast<long long>(seen.phase), static_cast<long long>(phase));
    }
    seen.phase = phase;
    return;
  }
  if (phase > 0) {
    fault("mbarrier at %u: a thread's first wait sees the end of phase %lld", barrier.address,
          static_cast<long long>(phase));
  }
  thread.seen_phases.push_back({barrier.address, phase});
}

void wake_waiters(Block& block, MemoryBarrier& barrier, int64_t phase) {
  for (Warp& warp : block.warps) {
    for (Thread* thread : warp.threads) {
      if (thread == nullptr || thread->awaited_barrier != barrier.address) continue;
      if (thread->awaited_parity != (phase & 1)) continue;
      thread->awaited_barrier = 0;
      note_seen(*thread, barrier, phase);
      warp.ready |= 1u << thread->context.lane;
    }
  }
}

/// Ends the phase if nothing is missing.
void settle(Block& block, MemoryBarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes > 0) return;
  if (barrier.bytes < 0) {
    fault("mbarrier at %u: %lld bytes more have landed than were announced", barrier.address,
          static_cast<long long>(-barrier.bytes));
  }
  const int64_t phase = barrier.phases;
  if (barrier.seen < phase - 1) {
    fault("mbarrier at %u: phase %lld ends before anyone has seen the end of the one before it",
          barrier.address, static_cast<long long>(phase));
  }
  ++barrier.phases;
  barrier.pending = barrier.arrivals;
  barrier.got_bytes = barrier.gets_bytes;
  barrier.gets_bytes = false;
  wake_waiters(block, barrier, phase);
}

}  // namespace

char* token_of(const Block& block, uint32_t barrier, int64_t phase) {
  return block.arena + barrier + (phase & 1) * 4;
}

MemoryBarrier& published_barrier(Block& block, uint32_t address, const char* what, Site site) {
  MemoryBarrier* barrier = find(block, address);
  if (barrier == nullptr) {
    fault("%s at %s:%d: there is no mbarrier at %u", what, site.file, site.line, address);
  }
  if (barrier->state != MemoryBarrier::kPublished) {
    fault("%s at %s:%d: the mbarrier at %u was initialised without %s", what, site.file, site.line,
          address,
          barrier->state == MemoryBarrier::kFenced
              ? "a barrier of the block after it"
              : "fence_mbarrier_init by the same thread and a barrier of the block after it");
  }
  return *barrier;
}

void complete_bytes(Block& block, uint32_t address, int64_t bytes) {
  MemoryBarrier& barrier = *find(block, address);
  barrier.bytes -= bytes;
  barrier.gets_bytes = barrier.is_of_bytes = true;
  settle(block, barrier);
}

void publish_barriers(Block& block) {
  for (MemoryBarrier& barrier : block.units.barriers) {
    if (barrier.state == MemoryBarrier::kFenced) barrier.state = MemoryBarrier::kPublished;
  }
}

std::string describe_barriers(const Block& block) {
  std::string text;
  char line[160];
  for (const MemoryBarrier& barrier : block.units.barriers) {
    if (barrier.pending == barrier.arrivals && barrier.bytes == 0) continue;
    std::snprintf(line, sizeof(line), "mbarrier at %u lacks %d of %d arrivals and %lld bytes; ",
                  barrier.address, barrier.pending, barrier.arrivals,
                  static_cast<long long>(barrier.bytes));
    text += line;
  }
  return text;
}

void mbarrier_init(uint32_t address, int arrivals, Site site) {
  checked_shared(address, 8, 8, "mbarrier.init");
  Block& block = *engine.running->warp->block;
  if (find(block, address) != nullptr) {
    fault("mbarrier.init at %s:%d: the mbarrier at %u is initialised twice", site.file, site.line,
          address);
  }
  constexpr int kMostArrivals = (1 << 20) - 1;
  if (arrivals < 1 || arrivals > kMostArrivals) {
    fault("mbarrier.init at %s:%d: %d arrivals", site.file, site.line, arrivals);
  }
  block.units.barriers.push_back({MemoryBarrier::kInitialised, address, engine.running, arrivals,
                                  arrivals, 0, 0, -1, false, false, false});
}

void fence_mbarrier_init() {
  for (MemoryBarrier& barrier : engine.running->warp->block->units.barriers) {
    const bool is_own = barrier.initialiser == engine.running;
    if (is_own && barrier.state == MemoryBarrier::kInitialised) {
      barrier.state = MemoryBarrier::kFenced;
    }
  }
}

void mbarrier_arrive(uint32_t address, int expected_bytes, Site site) {
  Block& block = *engine.running->warp->block;
  MemoryBarrier& barrier = published_barrier(block, address, "mbarrier.arrive", site);
  constexpr int kMostBytes = (1 << 20) - 1;
  if (expected_bytes < 0 || expected_bytes > kMostBytes) {
    fault("mbarrier.arrive.expect_tx at %s:%d: %d bytes", site.file, site.line, expected_bytes);
  }
  sanitizer::release(token_of(block, address, barrier.phases));
  barrier.bytes += expected_bytes;
  --barrier.pending;
  settle(block, barrier);
  let_units_work(block);
}

void mbarrier_wait(uint32_t address, int parity, Site site) {
  Thread& thread = *engine.running;
  Block& block = *thread.warp->block;
  MemoryBarrier& barrier = published_barrier(block, address, "mbarrier.try_wait", site);
  if (parity != 0 && parity != 1) {
    fault("mbarrier.try_wait at %s:%d: parity %d", site.file, site.line, parity);
  }
  if ((barrier.phases & 1) == parity) {
    thread.awaited_barrier = address;
    thread.awaited_parity = parity;
    suspend("mbarrier", site);  // whoever ends the phase notes that it is seen
  } else {
    note_seen(thread, barrier, barrier.phases - 1);
    let_units_work(block);
    if (wants_preemption()) switch_to(choose_thread(nullptr));
  }
  sanitizer::acquire(token_of(block, address, parity));
}

}  // namespace fusedml::emulation
