#pragma once
// The emulator's interface: settings, counters, and the services behind CUDA's words.
//
// Every CUDA thread is a fiber.  Warp-collective operations are a rendezvous of the lanes, and the
// last lane to arrive executes for all.  The order in which lanes, warps and blocks run comes from
// a seed.  One OS thread runs everything.  csrc/emulation/README.md describes the whole.
#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace fusedml::emulation {

/// What the engine throws when a kernel breaks a rule; the text names block, thread and place.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Source position of a call in a kernel.
struct Site {
  const char* file = nullptr;
  int line = 0;
};

/// The running CUDA thread.
struct ThreadContext {
  uint3 thread_index, block_index;
  dim3 block_dim, grid_dim;
  unsigned lane, warp;
};
extern ThreadContext* current;

enum class MmaRounding {
  kNearest,   ///< exact sum of products and accumulator, rounded once
  kTruncate,  ///< truncated after every 8 terms, as the hardware roughly does
};

/// When the asynchronous units of Hopper work: copies of boxes land, wgmma reads its operands.
enum class AsyncTiming {
  kRandom,  ///< at random moments; with seed 0 as kLate
  kEarly,   ///< at once
  kLate,    ///< when nobody else can run any more, and of the two wgmma first
};

struct Config {
  uint64_t seed = 0;             ///< 0: a fixed order; others: random lanes, warps and blocks
  double preempt_chance = 0.25;  ///< that a warp is left after a collective (seed != 0)
  int resident_blocks = 1;       ///< blocks in flight at once
  MmaRounding mma_rounding = MmaRounding::kNearest;
  AsyncTiming async_timing = AsyncTiming::kRandom;
  bool strict_tf32 = false;  ///< fault on tf32 operands with non-zero low bits (no to_tf32)
  size_t max_shared_bytes =
      227 * 1024;  ///< of a block: 163 KiB on sm_80, 99 on sm_86, 227 on sm_90
};
extern Config config;

/// Totals since they were last set to {}.  A conflict is one extra pass over the 32 banks.
struct Counters {
  uint64_t launches, blocks, threads, switches, collectives, barriers, mma, ldmatrix, cp_async;
  uint64_t wgmma, boxes;  ///< of a warp; copied
  uint64_t ldmatrix_conflicts, cp_async_conflicts;
  /// Plain accesses to shared memory; only builds with access hooks see them (access_hooks.cpp).
  uint64_t shared_loads, shared_stores, shared_load_conflicts, shared_store_conflicts;
};
extern Counters counters;

/// One line per place with bank conflicts since `counters` were last cleared through here, worst
/// first: "count  kind  file:line" (or module+offset for plain accesses).
std::string bank_conflict_report();
/// Sets the counters and the report back.
void reset_counters();

/// A launch as its observer sees it.
struct Launch {
  const void* kernel;  ///< the address of the __global__ function
  dim3 grid, block;
  size_t dynamic_shared_bytes;
  int num_arguments;
  const void* const* arguments;  ///< addresses of the parameters' values
  const size_t* argument_bytes;
};
/// If set: sees every launch first; returns whether it ran the grid, which then is not emulated.
/// The PTX interpreter gets its launches here, from the library's own host code.
extern "C" bool (*launch_observer)(const Launch&);

using ThreadFunction = void (*)(void*);
void run_grid(dim3 grid, dim3 block, size_t dynamic_shared_bytes, ThreadFunction function,
              void* argument);
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));
/// Lets another thread run; loops that wait for memory must pass here.
void yield();
/// Orders memory for the race detector.
void thread_fence();

enum class Collective {
  kSyncWarp,
  kShuffleIndex,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kMatchAny,
  kReduceAdd,
  kReduceMin,
  kReduceMax,
  kLdmatrix,  ///< from here on all 32 lanes take part
  kLdmatrixTransposed,
  kMmaBf16,
  kMmaF16,
  kMmaTf32,
  kMmaF64,
  kWgmma,
  kWgmmaFence,
  kWgmmaCommit,
  kWgmmaWait,
  kSetRegisters,
};

/// What one lane brings to a collective and where it takes its result.
struct LaneOperands {
  const uint32_t* input = nullptr;
  uint32_t* output = nullptr;
  int words = 0;           ///< 32-bit words of a shuffled value; matrices of an ldmatrix
  uint32_t parameter = 0;  ///< shuffles: lane or distance; ldmatrix: row address
  int width = 32;          ///< shuffles: lanes in a segment
};
void collective(Collective operation, uint32_t mask, const LaneOperands& operands, Site site);

enum class BarrierKind { kSync, kArrive, kAnd, kOr, kCount };
/// `threads` 0 stands for the whole block.  Returns the reduction of `predicate`.
int barrier(int id, int threads, BarrierKind kind, int predicate, Site site);

// Shared memory is an arena with red zones.  Fresh and not-yet-landed bytes hold poison.
void* dynamic_shared();
void* static_shared(const void* tag, size_t bytes, size_t alignment);
void* carve(int index, size_t offset, size_t bytes, size_t alignment, size_t most_alignment);
uint32_t shared_address(const void* pointer);

// Tensor-core and asynchronous-copy primitives; core/primitives.cuh says what they mean.
void cp_async(uint32_t destination, const void* source, int bytes, int source_bytes, Site site);
void cp_async_commit();
void cp_async_wait(int pending_groups);
void ldmatrix(uint32_t* fragment, int matrices, uint32_t row_address, bool transposed, Site site);
void mma(Collective operation, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
         Site site);
void mma_f64(double (&c)[2], double a, double b, Site site);

// Hopper's own instructions; core/hopper_primitives.cuh says what they mean.

/// What a TensorMap holds on the emulator; the PTX interpreter reads it, too.
struct TensorMapTwin {
  static constexpr uint64_t kMagic = 0x70616d726f736e65;
  uint64_t magic;
  const void* data;
  uint64_t cols, rows, row_bytes;
  uint32_t box_cols, box_rows;
  unsigned char unused[80];
};
static_assert(sizeof(TensorMapTwin) == 128);

/// One wgmma as a lane issues it.
struct Wgmma {
  float* sums;
  int num_sums;
  uint64_t a, b;              ///< descriptors
  const uint32_t* registers;  ///< of A, instead of its descriptor, or null
  bool adds, transposes_a, transposes_b, is_fp16;
};

void mbarrier_init(uint32_t barrier, int arrivals, Site site);
void fence_mbarrier_init();
void mbarrier_arrive(uint32_t barrier, int expected_bytes, Site site);
void mbarrier_wait(uint32_t barrier, int parity, Site site);
void copy_box(uint32_t destination, const void* map, uint32_t barrier, int row, int col, Site site);
void store_for_wgmma(uint32_t destination, const void* sixteen_bytes, Site site);
void fence_proxy_async();
void wgmma(const Wgmma& operation, Site site);
void wgmma_fence(Site site);
void wgmma_commit(Site site);
void wgmma_wait(int pending_groups, Site site);
void set_registers(int registers, bool takes, Site site);

}  // namespace fusedml::emulation
