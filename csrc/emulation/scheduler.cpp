// Which thread runs next, and what happens when it blocks or ends.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "emulation/engine.h"
#include "emulation/sanitizer.h"

namespace fusedml::emulation {

ThreadContext* current = nullptr;
Config config;
Counters counters;
Engine engine;

uint64_t random_bits() {  // xorshift64
  uint64_t& state = engine.random_state;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

bool wants_preemption() {
  constexpr uint64_t kRange = 1 << 24;
  return config.seed != 0 &&
         double(random_bits() % kRange) < config.preempt_chance * double(kRange);
}

namespace {

Thread* choose_lane(const Warp& warp) {
  if (config.seed == 0) return warp.threads[__builtin_ctz(warp.ready)];
  const unsigned start = random_bits() % 32;
  const uint32_t rotated =
      start == 0 ? warp.ready : (warp.ready >> start) | (warp.ready << (32 - start));
  return warp.threads[(__builtin_ctz(rotated) + start) % 32];
}

/// The next ready thread after the running one, so that a spinning lane starves nobody.
Thread* next_in_turn() {
  const auto& warps = engine.warps;
  const Thread* running = engine.running;
  const uint32_t later_lanes =
      running->context.lane == 31 ? 0 : running->warp->ready & (~1u << running->context.lane);
  if (later_lanes != 0) return running->warp->threads[__builtin_ctz(later_lanes)];
  size_t own = 0;
  while (warps[own] != running->warp) ++own;
  for (size_t distance = 1; distance <= warps.size(); ++distance) {
    const Warp* warp = warps[(own + distance) % warps.size()];
    if (warp->ready != 0) return warp->threads[__builtin_ctz(warp->ready)];
  }
  return engine.running;
}

/// Runs `work` and keeps the first failure for the launcher.
template <class Work>
void guarded(Work work) {
  try {
    work();
  } catch (const std::exception& error) {
    if (!engine.failed) engine.failure = error.what();
    engine.failed = true;
  }
}

void run_kernel(Thread& thread) {
  sanitizer::acquire(&engine.begin_token);
  engine.function(engine.argument);
  if (!thread.pending_copies.empty()) {
    fault("thread exits with %zu cp.async that were never waited for",
          thread.pending_copies.size());
  }
  check_products_at_exit(*thread.warp);
}

bool is_over(const Block& block) {
  for (const Warp& warp : block.warps) {
    if (warp.alive != 0) return false;
  }
  return true;
}

}  // namespace

Thread* choose_thread(Warp* preferred) {
  if (preferred != nullptr && preferred->ready != 0) return choose_lane(*preferred);
  const size_t count = engine.warps.size();
  const size_t start = config.seed != 0 && count != 0 ? random_bits() % count : 0;
  do {
    for (size_t i = 0; i < count; ++i) {
      const Warp* warp = engine.warps[(start + i) % count];
      if (warp->ready != 0) return choose_lane(*warp);
    }
  } while (resume_late_wait() || land_any_box());
  return &engine.launcher;  // the end or a deadlock: the launcher tells which
}

void switch_to(Thread* thread) {
  Thread* from = engine.running;
  if (from == thread) return;
  ++counters.switches;
  engine.running = thread;
  current = &thread->context;
  switch_fiber(from->fiber, thread->fiber);
}

void suspend(const char* waits_for, Site site) {
  Thread* thread = engine.running;
  thread->warp->ready &= ~(1u << thread->context.lane);
  thread->waits_for = waits_for;
  thread->waits_at = site;
  switch_to(choose_thread(thread->warp));
}

void yield() {
  if (engine.running == nullptr || engine.running == &engine.launcher) return;
  switch_to(config.seed != 0 ? choose_thread(nullptr) : next_in_turn());
}

void thread_fence() {
  sanitizer::acquire(&engine.fence_token);
  sanitizer::release(&engine.fence_token);
  if (config.seed != 0) yield();
}

void thread_main() {
  finish_first_switch();
  Thread& thread = *engine.running;
  Warp& warp = *thread.warp;
  guarded([&] { run_kernel(thread); });
  sanitizer::release(&engine.end_token);
  const uint32_t own_bit = 1u << thread.context.lane;
  thread.fiber.finished = true;
  warp.ready &= ~own_bit;
  warp.alive &= ~own_bit;
  --engine.live_threads;
  if (!engine.failed) guarded([&] { complete_rendezvous_after_exit(warp); });
  Thread* next = &engine.launcher;
  if (!engine.failed) {
    guarded([&] {
      if (is_over(*warp.block)) check_units_at_end(*warp.block);
      next = choose_thread(&warp);
    });
  }
  switch_to(engine.failed ? &engine.launcher : next);
  std::abort();  // a finished fiber is never resumed
}

void fault(const char* format, ...) {
  char message[768], where[160] = "";
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  if (engine.running != nullptr && engine.running != &engine.launcher) {
    const ThreadContext& thread = engine.running->context;
    std::snprintf(where, sizeof(where),
                  "block (%u,%u,%u) thread (%u,%u,%u) warp %u lane %u: ", thread.block_index.x,
                  thread.block_index.y, thread.block_index.z, thread.thread_index.x,
                  thread.thread_index.y, thread.thread_index.z, thread.warp, thread.lane);
  }
  throw Fault(std::string(where) + message);
}

}  // namespace fusedml::emulation
