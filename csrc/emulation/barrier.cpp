// The 16 barriers of a block; barrier 0 for the whole block is __syncthreads.
#include "emulation/engine.h"
#include "emulation/sanitizer.h"

namespace fusedml::emulation {
namespace {

/// The lanes of a warp must come to a barrier at one place of the source.
void check_convergence(const Warp& warp, int id, Site site) {
  if (warp.barrier_lanes[id] == 0) return;
  const Site& first = warp.barrier_site[id];
  if (same_site(first, site)) return;
  fault("divergent warp at barrier %d: %s:%d and %s:%d", id, site.file, site.line, first.file,
        first.line);
}

int result_of(const Barrier& barrier, BarrierKind kind) {
  switch (kind) {
    case BarrierKind::kAnd:
      return barrier.all;
    case BarrierKind::kOr:
      return barrier.any;
    case BarrierKind::kCount:
      return barrier.count;
    default:
      return 0;
  }
}

/// Wakes everyone that waits.
void complete(Barrier& barrier, int id, BarrierKind kind) {
  ++counters.barriers;
  const int result = result_of(barrier, kind);
  ++barrier.phase;
  barrier.arrived = 0;
  for (Thread* waiting : barrier.waiting) {
    waiting->barrier_result = result;
    waiting->warp->ready |= 1u << waiting->context.lane;
    waiting->warp->barrier_lanes[id] = 0;
  }
  barrier.waiting.clear();
  engine.running->barrier_result = result;
}

}  // namespace

int barrier(int id, int threads, BarrierKind kind, int predicate, Site site) {
  Thread* thread = engine.running;
  Block& block = *thread->warp->block;
  const int expected = threads != 0 ? threads : block.num_threads;
  if (threads % 32 != 0 || expected > (block.num_threads + 31) / 32 * 32) {
    fault("barrier %d at %s:%d: %d threads, needs a multiple of 32 up to the block's %d", id,
          site.file, site.line, threads, block.num_threads);
  }
  Barrier& state = block.barriers[id];
  if (state.arrived == 0) {
    state.expected = expected;
    state.all = true;
    state.any = false;
    state.count = 0;
  } else if (state.expected != expected) {
    fault("barrier %d at %s:%d: %d threads, but %d for those already there", id, site.file,
          site.line, expected, state.expected);
  }
  check_convergence(*thread->warp, id, site);
  state.all = state.all && predicate != 0;
  state.any = state.any || predicate != 0;
  state.count += predicate != 0;

  char* token = &state.token[state.phase % 2];
  sanitizer::release(token);
  const bool waits = kind != BarrierKind::kArrive;
  if (++state.arrived == state.expected) {
    complete(state, id, kind);
    if (expected == block.num_threads) publish_barriers(block);
    if (threads == 0) {  // nobody has run ahead, as bar_arrive would allow
      for (Warp& warp : block.warps) settle_accesses(warp);
    }
    if (config.seed != 0) switch_to(choose_thread(nullptr));
  } else if (waits) {
    state.waiting.push_back(thread);
    thread->warp->barrier_site[id] = site;
    ++thread->warp->barrier_lanes[id];
    suspend(threads == 0 ? "__syncthreads" : "bar.sync", site);
  }
  if (waits) sanitizer::acquire(token);
  return thread->barrier_result;
}

}  // namespace fusedml::emulation
