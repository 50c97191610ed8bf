#pragma once
// The engine's state.  Only the engine's own files include this.
#include <cstring>
#include <memory>
#include <vector>

#include "emulation/async_units.h"
#include "emulation/emulator.h"
#include "emulation/fiber.h"
#include "emulation/raw_memory.h"
#include "emulation/sanitizer.h"

namespace fusedml::emulation {

struct Warp;
struct Block;

inline bool same_site(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

/// A cp.async between its issue and its wait.
struct PendingCopy {
  char* destination;
  const char* source;
  int bytes, source_bytes;
  unsigned group;
};

/// An access to shared memory, kept until the warp's lanes can be compared (bank_conflicts.cpp).
struct SharedAccess {
  enum Kind { kLoad, kStore, kCopy } kind;
  Site site;         ///< of copies
  const void* code;  ///< instruction of plain accesses
  uint32_t address;
  int bytes;
};

struct Thread {
  ThreadContext context;
  Fiber fiber;
  Warp* warp = nullptr;
  const char* waits_for = nullptr;  ///< what a blocked thread waits for, and where
  Site waits_at;
  int barrier_result = 0;
  PoolVector<PendingCopy> pending_copies;
  unsigned copy_group = 0;  ///< group of the next cp.async
  PoolVector<SharedAccess> accesses;
  uint32_t awaited_barrier = 0;  ///< mbarrier that a blocked thread waits for, or 0
  int awaited_parity = 0;
  bool waits_late = false;  ///< blocked in a wait for wgmma until nobody else can run
  PoolVector<SeenPhase> seen_phases;
};

/// A warp-collective operation that waits for more lanes.
struct Rendezvous {
  uint32_t mask = 0, arrived = 0;
  Collective operation;
  Site site;
  LaneOperands operands[32];
};

constexpr int kMostRendezvous = 8;

struct Warp {
  Block* block = nullptr;
  Thread* threads[32] = {};
  uint32_t ready = 0, alive = 0;
  Rendezvous rendezvous[kMostRendezvous];  ///< disjoint masks may wait at the same time
  Site barrier_site[16];                   ///< where the warp's lanes wait at each barrier,
  int barrier_lanes[16] = {};              ///< and how many of them
  bool has_accesses = false;               ///< some lane has recorded accesses
  char sync_token[2] = {};                 ///< for the race detector: two phases of __syncwarp
  unsigned sync_phase = 0;
  WarpProducts products;
};

struct Barrier {
  int expected = 0, arrived = 0;
  bool all = true, any = false;
  int count = 0;
  PoolVector<Thread*> waiting;
  char token[2] = {};
  unsigned phase = 0;
};

struct Allocation {
  const void* tag;
  uint32_t offset, bytes;
};

struct Block {
  std::vector<Warp> warps;
  Barrier barriers[16];
  int num_threads = 0;
  char* arena = nullptr;
  uint32_t arena_top = 0;
  size_t static_bytes = 0, dynamic_bytes = 0;
  PoolVector<Allocation> allocations;
  AsyncUnits units;
  std::vector<WarpgroupLog> warpgroups;
  PoolVector<int> carved;  ///< index into `allocations` of each array that Carver cut
};

constexpr uint32_t kArenaBytes = 1 << 20;

struct Engine {
  Thread launcher;            ///< the OS thread's own stack
  Thread* running = nullptr;  ///< nullptr outside launches
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<char*> arenas;  ///< one per resident block
  std::vector<Warp*> warps;   ///< of the resident blocks
  int live_threads = 0;
  ThreadFunction function = nullptr;
  void* argument = nullptr;
  bool failed = false;
  std::string failure;
  uint64_t random_state = 1;
  char begin_token = 0, end_token = 0;  ///< for the race detector: of the whole launch
  char fence_token = 0;
  sanitizer::Agent tensor_cores[32];  ///< of a block's warps
};
extern Engine engine;

// --- scheduler.cpp ---
uint64_t random_bits();
/// True with the configured chance; never with seed 0.
bool wants_preemption();
/// The next thread to run: one of `preferred` if it has a ready lane; the launcher if none has.
Thread* choose_thread(Warp* preferred);
void switch_to(Thread* thread);
/// Blocks the running thread until someone sets its ready bit.
void suspend(const char* waits_for, Site site);
/// First function of every CUDA thread's fiber.
void thread_main();

// --- collectives.cpp ---
/// Executes what a lane's exit completes.
void complete_rendezvous_after_exit(Warp& warp);

// --- tensor_core.cpp: operations of a full warp ---
void execute_ldmatrix(Rendezvous& rendezvous);
void execute_mma(Rendezvous& rendezvous);

// --- shared_memory.cpp ---
/// Pointer to shared memory after checks of alignment and bounds; `what` names the instruction.
char* checked_shared(uint32_t address, size_t bytes, size_t alignment, const char* what);

// --- bank_conflicts.cpp ---
void record_access(const SharedAccess& access);
/// Counts the conflicts of the recorded accesses; all lanes of the warp are at the same place.
void settle_accesses(Warp& warp);
void record_ldmatrix(const Rendezvous& rendezvous);

}  // namespace fusedml::emulation
