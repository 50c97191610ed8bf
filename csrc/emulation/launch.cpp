// Runs a grid: a few resident blocks at a time, in the seed's order.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "emulation/engine.h"
#include "emulation/sanitizer.h"

namespace fusedml::emulation {
namespace {

/// Low shared addresses stay unused, so that address 0 is a fault.
constexpr uint32_t kArenaBegin = 1024;

/// Blocks that run one after the other take turns on two sets of fibers: to the race detector equal
/// fibers are one thread, whose program order would hide races between such blocks.
#if defined(FUSEDML_EMULATION_TSAN)
constexpr size_t kSlotSets = 2;
#else
constexpr size_t kSlotSets = 1;
#endif

uint64_t product(dim3 extent) { return uint64_t(extent.x) * extent.y * extent.z; }

void check_launch(dim3 grid, dim3 block, size_t dynamic_bytes) {
  if (engine.running != nullptr) fault("a kernel launches a kernel, which is not emulated");
  const uint64_t threads = product(block);
  if (threads == 0 || threads > 1024 || block.z > 64) {
    fault("block size (%u,%u,%u): needs 1 to 1024 threads, z at most 64", block.x, block.y,
          block.z);
  }
  if (product(grid) == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    fault("grid size (%u,%u,%u): needs 1 or more, y and z at most 65535", grid.x, grid.y, grid.z);
  }
  if (dynamic_bytes > config.max_shared_bytes) {
    fault("%zu bytes of dynamic shared memory, the limit is %zu", dynamic_bytes,
          config.max_shared_bytes);
  }
}

std::vector<uint64_t> block_order(uint64_t count) {
  std::vector<uint64_t> order(count);
  std::iota(order.begin(), order.end(), uint64_t(0));
  if (config.seed != 0) {
    for (uint64_t i = count; i > 1; --i) std::swap(order[i - 1], order[random_bits() % i]);
  }
  return order;
}

char* arena_of_slot(size_t slot) {
  const auto map = [] {
    void* mapped =
        mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
      std::perror("emulation: mmap of shared memory");
      std::abort();
    }
    return static_cast<char*>(mapped);
  };
  if (slot >= engine.arenas.size()) engine.arenas.resize(slot + 1);
  if (engine.arenas[slot] == nullptr) {
    engine.arenas[slot] = map();
  } else {
#if defined(FUSEDML_EMULATION_TSAN)
    // Fresh pages: the last block's accesses must not race with this block's.
    munmap(engine.arenas[slot], kArenaBytes);
    engine.arenas[slot] = map();
#endif
  }
  return engine.arenas[slot];
}

std::unique_ptr<Block> start_block(size_t slot, uint64_t index, dim3 grid, dim3 block_dim,
                                   size_t dynamic_bytes) {
  auto block = std::make_unique<Block>();
  const unsigned num_threads = unsigned(product(block_dim));
  block->num_threads = int(num_threads);
  block->dynamic_bytes = dynamic_bytes;
  block->arena = arena_of_slot(slot);
  block->arena_top = kArenaBegin;
  sanitizer::forbid(block->arena, kArenaBytes);
  block->warps = std::vector<Warp>((num_threads + 31) / 32);
  block->warpgroups = std::vector<WarpgroupLog>((num_threads + 127) / 128);
  const uint3 block_index = {unsigned(index % grid.x), unsigned(index / grid.x % grid.y),
                             unsigned(index / (uint64_t(grid.x) * grid.y))};
  for (unsigned t = 0; t < num_threads; ++t) {
    Thread& thread = *engine.threads[slot * num_threads + t];
    Warp& warp = block->warps[t / 32];
    const uint3 thread_index = {t % block_dim.x, t / block_dim.x % block_dim.y,
                                t / (block_dim.x * block_dim.y)};
    thread.context = {thread_index, block_index, block_dim, grid, t % 32, t / 32};
    thread.warp = &warp;
    thread.waits_for = nullptr;
    thread.pending_copies.clear();
    thread.accesses.clear();
    thread.copy_group = 0;
    thread.awaited_barrier = 0;
    thread.waits_late = false;
    thread.seen_phases.clear();
    prepare_fiber(thread.fiber, thread_main);
    warp.block = block.get();
    warp.threads[t % 32] = &thread;
    warp.ready |= 1u << (t % 32);
  }
  for (Warp& warp : block->warps) {
    warp.alive = warp.ready;
    engine.warps.push_back(&warp);
  }
  engine.live_threads += int(num_threads);
  ++counters.blocks;
  counters.threads += num_threads;
  return block;
}

/// After a failure fibers are left in the middle of their work: none is used again.
void discard_threads() {
  for (auto& thread : engine.threads) discard_fiber(thread->fiber, engine.launcher.fiber);
  engine.threads.clear();
}

std::string describe_deadlock(const std::vector<std::unique_ptr<Block>>& blocks) {
  constexpr int kMostThreads = 3;
  std::string text = "deadlock: ";
  int shown = 0;
  char line[256];
  for (const auto& block : blocks) {
    for (const Warp& warp : block->warps) {
      for (const Thread* thread : warp.threads) {
        if (thread == nullptr || thread->fiber.finished || shown++ >= kMostThreads) continue;
        std::snprintf(line, sizeof(line), "block %u warp %u lane %u waits at %s (%s:%d); ",
                      thread->context.block_index.x, thread->context.warp, thread->context.lane,
                      thread->waits_for, thread->waits_at.file, thread->waits_at.line);
        text += line;
      }
    }
    text += describe_barriers(*block);
  }
  std::snprintf(line, sizeof(line), "%d threads are blocked, the rest have exited",
                engine.live_threads);
  return text + line;
}

}  // namespace

extern "C" {
bool (*launch_observer)(const Launch&) = nullptr;
}

void run_grid(dim3 grid, dim3 block, size_t dynamic_bytes, ThreadFunction function,
              void* argument) {
  check_launch(grid, block, dynamic_bytes);
  ++counters.launches;
  engine.random_state = config.seed * 0x9e3779b97f4a7c15ull + 0x1234567;
  if (engine.random_state == 0) engine.random_state = 1;  // xorshift's fixed point
  for (int i = 0; i < 8; ++i) random_bits();              // seeds that differ little must differ
  adopt_current_stack(engine.launcher.fiber);
  engine.function = function;
  engine.argument = argument;
  engine.failed = false;

  const uint64_t num_blocks = product(grid);
  const auto order = block_order(num_blocks);
  const size_t resident = size_t(std::max(1, config.resident_blocks));
  const size_t slots = size_t(std::min<uint64_t>(kSlotSets * resident, num_blocks));
  while (engine.threads.size() < product(block) * slots) {
    engine.threads.push_back(std::make_unique<Thread>());
  }
  sanitizer::release(&engine.begin_token);
  for (uint64_t begin = 0; begin < num_blocks; begin += resident) {
    const size_t count = size_t(std::min<uint64_t>(resident, num_blocks - begin));
    std::vector<std::unique_ptr<Block>> blocks;
    engine.warps.clear();
    engine.live_threads = 0;
    for (uint64_t i = begin; i < begin + count; ++i) {
      const size_t slot = size_t(i % (kSlotSets * resident));
      blocks.push_back(start_block(slot, order[i], grid, block, dynamic_bytes));
    }
    engine.running = &engine.launcher;
    switch_to(choose_thread(nullptr));
    engine.running = nullptr;
    current = nullptr;
    if (engine.failed || engine.live_threads != 0) {
      sanitizer::acquire(&engine.end_token);
      const std::string text = engine.failed ? engine.failure : describe_deadlock(blocks);
      discard_threads();
      throw Fault(text);
    }
    for (auto& finished : blocks) {
      for (Warp& warp : finished->warps) settle_accesses(warp);
    }
  }
  sanitizer::acquire(&engine.end_token);
}

}  // namespace fusedml::emulation
