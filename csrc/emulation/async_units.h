#pragma once
// State of Hopper's asynchronous units: memory barriers, boxes in flight, products of warpgroups.
// Only the engine's own files include this.
#include "emulation/emulator.h"
#include "emulation/raw_memory.h"

namespace fusedml::emulation {

struct Thread;
struct Warp;
struct Block;
struct Rendezvous;

/// Bytes [begin, end) of shared memory.
struct SharedRange {
  uint32_t begin, end;
};

inline bool overlap(SharedRange a, SharedRange b) { return a.begin < b.end && b.begin < a.end; }

constexpr uint32_t kRowBytes = 128, kAtomBytes = 1024;  ///< of a box: 8 rows are an atom

/// The 128-byte swizzle: bits 4 to 6 of a shared address are xored with bits 7 to 9.
inline uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

struct MemoryBarrier {
  enum State { kInitialised, kFenced, kPublished } state;
  uint32_t address;
  const Thread* initialiser;
  int arrivals, pending;  ///< of a phase; those that the present phase lacks
  int64_t bytes;          ///< announced and not landed; negative: landed before they were announced
  int64_t phases;         ///< completed
  int64_t seen;           ///< the last phase that a waiter has seen the end of, or -1
  bool gets_bytes, got_bytes, is_of_bytes;  ///< the present phase, the last completed one, any
};

/// The last phase of a barrier that a thread has seen the end of; -1: passed a fresh barrier.
struct SeenPhase {
  uint32_t barrier;
  int64_t phase;
};

/// A box between its issue and its landing.  Pieces of 16 bytes land in an order of their own.
struct BoxCopy {
  TensorMapTwin map;
  uint32_t destination, barrier;
  int64_t row, col;
  uint32_t first_piece, stride, landed;
  Site site;

  uint32_t pieces() const { return map.box_rows * 8; }
  SharedRange range() const { return {destination, destination + map.box_rows * 128}; }
};

/// An ordinary store that wgmma is to read.
struct ProxyStore {
  SharedRange range;
  const Thread* thread;
  bool is_fenced;
};

/// The sums of a warp's products in flight: kept here, and poison in the lanes' registers.
struct Accumulators {
  float* sums[32];
  int num_sums, in_flight;
  float tile[16][256];
};

/// A wgmma of one warp between its issue and its wait.
struct WgmmaInFlight {
  Wgmma operation;  ///< of lane 0
  Accumulators* accumulators;
  SharedRange a, b;  ///< a is empty where A is in registers
  const uint32_t* registers[32];
  uint32_t register_values[32][4];
  unsigned group;
  bool is_done;
  Site site;
};

/// What the four warps of a warpgroup must issue alike.
struct WgmmaRecord {
  uint64_t a, b;
  int num_sums, flags;
  Site site;
};

struct WarpProducts {
  PoolVector<WgmmaInFlight> in_flight;
  PoolVector<WgmmaRecord> records;  ///< of the open group
  PoolVector<SharedRange> read;     ///< by what a wait completes
  char read_token = 0;              ///< for the race detector: it has been read
  unsigned groups = 0;              ///< committed
  bool is_fenced = false;
  int registers = 0;  ///< that setmaxnreg asked for, or 0
};

/// Committed groups of a warpgroup, in order, by the first of its warps to commit each.
struct WarpgroupLog {
  PoolVector<WgmmaRecord> records;
  PoolVector<size_t> ends;  ///< of each group in `records`
};

struct AsyncUnits {
  PoolVector<MemoryBarrier> barriers;
  PoolVector<BoxCopy> copies;
  PoolVector<ProxyStore> stores;
  char proxy_token = 0;  ///< for the race detector: fence_proxy_async
};

// --- memory_barrier.cpp ---
/// For the race detector: what arrivals of a phase release and its waiters acquire.
char* token_of(const Block& block, uint32_t barrier, int64_t phase);
/// The barrier, which must have been published; `what` names the instruction.
MemoryBarrier& published_barrier(Block& block, uint32_t address, const char* what, Site site);
/// Bytes of a box have landed.
void complete_bytes(Block& block, uint32_t barrier, int64_t bytes);
/// A barrier of the whole block: what was initialised and fenced before it may be used after it.
void publish_barriers(Block& block);
/// For the report of a deadlock.
std::string describe_barriers(const Block& block);

// --- box_copy.cpp ---
/// Lands one box of the resident blocks; false if none is in flight.
bool land_any_box();
/// Lands some pieces of some box.
void land_some_pieces(Block& block);

// --- wgmma_product.cpp ---
constexpr int kWgmmaLines = 64;  ///< rows of A
/// The bytes between an operand's first and last one; faults unless its descriptor is sound and all
/// of it has landed.  `by_lines`: its 128-byte rows run along M or N.
SharedRange checked_operand(const Block& block, uint64_t descriptor, int lines, bool by_lines,
                            Site site);
/// Reads the operands and multiplies.
void perform(const Warp& warp, WgmmaInFlight& product);

// --- warpgroup.cpp ---
void execute_warpgroup(Warp& warp, Rendezvous& rendezvous);
/// Lets one thread go on whose wait is to be as late as possible; false if there is none.
bool resume_late_wait();
/// Whether wgmma may still read bytes of the range; `site` is then where it was issued.
bool is_read_by_wgmma(const Block& block, SharedRange range, Site* site);
void perform_some_product(Warp& warp);
/// Faults unless all products of a warp that ends were waited for.
void check_products_at_exit(const Warp& warp);

// --- async_units.cpp ---
/// With random timing: lets the units do some of their work.
void let_units_work(Block& block);
/// Faults if a block's end finds work in flight, bytes that nobody waited for, or unequal warps.
void check_units_at_end(const Block& block);

}  // namespace fusedml::emulation
