// Warp-collective operations: the lanes of a mask meet, the last to arrive executes for all.
#include <algorithm>

#include "emulation/engine.h"
#include "emulation/sanitizer.h"

namespace fusedml::emulation {
namespace {

const char* name_of(Collective operation) {
  static const char* const names[] = {"__syncwarp",
                                      "__shfl_sync",
                                      "__shfl_up_sync",
                                      "__shfl_down_sync",
                                      "__shfl_xor_sync",
                                      "__ballot_sync",
                                      "__match_any_sync",
                                      "__reduce_add_sync",
                                      "__reduce_min_sync",
                                      "__reduce_max_sync",
                                      "ldmatrix",
                                      "ldmatrix.trans",
                                      "mma.bf16",
                                      "mma.f16",
                                      "mma.tf32",
                                      "mma.f64",
                                      "wgmma",
                                      "wgmma.fence",
                                      "wgmma.commit_group",
                                      "wgmma.wait_group",
                                      "setmaxnreg"};
  return names[int(operation)];
}

template <class Visit>
void for_each_lane(uint32_t mask, Visit visit) {
  for (; mask != 0; mask &= mask - 1) visit(__builtin_ctz(mask));
}

/// The lane whose value lane `lane` reads; itself when the segment has no such lane.
int shuffle_source(Collective operation, int lane, const LaneOperands& operands) {
  const int width = operands.width;
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fault("shuffle width %d is not a power of two up to 32", width);
  }
  const int first = lane & ~(width - 1), last = first + width - 1;
  const int parameter = int(operands.parameter);
  int source;
  switch (operation) {
    case Collective::kShuffleIndex:
      return first + (parameter & (width - 1));
    case Collective::kShuffleUp:
      source = lane - parameter;
      return source >= first ? source : lane;
    case Collective::kShuffleDown:
      source = lane + parameter;
      return source <= last ? source : lane;
    default:
      source = lane ^ parameter;
      return source >= 0 && source <= last ? source : lane;
  }
}

void execute_shuffle(Rendezvous& rendezvous) {
  const uint32_t lanes = rendezvous.arrived;
  for_each_lane(lanes, [&](int lane) {
    const LaneOperands& own = rendezvous.operands[lane];
    const int source = shuffle_source(rendezvous.operation, lane, own);
    const bool is_present = (lanes >> source & 1) != 0;
    for (int word = 0; word < own.words; ++word) {
      own.output[word] = is_present ? rendezvous.operands[source].input[word] : kPoison32;
    }
  });
}

/// One value for all lanes, from one value of each.
template <class Combine>
void execute_reduction(Rendezvous& rendezvous, uint32_t initial, Combine combine) {
  uint32_t result = initial;
  for_each_lane(rendezvous.arrived, [&](int lane) {
    result = combine(result, lane, *rendezvous.operands[lane].input);
  });
  for_each_lane(rendezvous.arrived, [&](int lane) { *rendezvous.operands[lane].output = result; });
}

void execute_match(Rendezvous& rendezvous) {
  for_each_lane(rendezvous.arrived, [&](int lane) {
    uint32_t equal = 0;
    for_each_lane(rendezvous.arrived, [&](int other) {
      const bool matches = *rendezvous.operands[other].input == *rendezvous.operands[lane].input;
      equal |= uint32_t(matches) << other;
    });
    *rendezvous.operands[lane].output = equal;
  });
}

void dispatch(Warp& warp, Rendezvous& rendezvous) {
  switch (rendezvous.operation) {
    case Collective::kSyncWarp:
      return;
    case Collective::kShuffleIndex:
    case Collective::kShuffleUp:
    case Collective::kShuffleDown:
    case Collective::kShuffleXor:
      return execute_shuffle(rendezvous);
    case Collective::kBallot:
      return execute_reduction(rendezvous, 0, [](uint32_t bits, int lane, uint32_t value) {
        return bits | uint32_t(value != 0) << lane;
      });
    case Collective::kMatchAny:
      return execute_match(rendezvous);
    case Collective::kReduceAdd:
      return execute_reduction(rendezvous, 0,
                               [](uint32_t sum, int, uint32_t value) { return sum + value; });
    case Collective::kReduceMin:
      return execute_reduction(rendezvous, ~0u, [](uint32_t least, int, uint32_t value) {
        return std::min(least, value);
      });
    case Collective::kReduceMax:
      return execute_reduction(
          rendezvous, 0, [](uint32_t most, int, uint32_t value) { return std::max(most, value); });
    case Collective::kLdmatrix:
    case Collective::kLdmatrixTransposed:
      return execute_ldmatrix(rendezvous);
    case Collective::kMmaBf16:
    case Collective::kMmaF16:
    case Collective::kMmaTf32:
    case Collective::kMmaF64:
      return execute_mma(rendezvous);
    case Collective::kWgmma:
    case Collective::kWgmmaFence:
    case Collective::kWgmmaCommit:
    case Collective::kWgmmaWait:
    case Collective::kSetRegisters:
      return execute_warpgroup(warp, rendezvous);
  }
}

void execute(Warp& warp, Rendezvous& rendezvous) {
  ++counters.collectives;
  if (rendezvous.arrived == ~0u) settle_accesses(warp);
  dispatch(warp, rendezvous);
  warp.ready |= rendezvous.arrived;
  rendezvous.arrived = rendezvous.mask = 0;
}

/// The rendezvous that the calling lane joins; a fault if it contradicts one that waits for it.
Rendezvous& join(Warp& warp, uint32_t own_bit, Collective operation, uint32_t mask, Site site) {
  // Two lanes contradict each other only if each is in the mask that the other one waits with.
  for (Rendezvous& waiting : warp.rendezvous) {
    if ((waiting.arrived & mask) == 0 || (waiting.mask & own_bit) == 0) continue;
    if (waiting.mask != mask || waiting.operation != operation || !same_site(waiting.site, site)) {
      fault("divergent warp: %s (mask %08x, %s:%d) while lanes %08x wait at %s (mask %08x, %s:%d)",
            name_of(operation), mask, site.file, site.line, waiting.arrived,
            name_of(waiting.operation), waiting.mask, waiting.site.file, waiting.site.line);
    }
    return waiting;
  }
  for (Rendezvous& free : warp.rendezvous) {
    if (free.arrived != 0) continue;
    free.mask = mask;
    free.operation = operation;
    free.site = site;
    return free;
  }
  fault("%s at %s:%d: more than %d collectives of one warp wait at the same time",
        name_of(operation), site.file, site.line, kMostRendezvous);
}

}  // namespace

void collective(Collective operation, uint32_t mask, const LaneOperands& operands, Site site) {
  const ThreadContext& thread = engine.running->context;
  Warp& warp = *engine.running->warp;
  const uint32_t own_bit = 1u << thread.lane;
  if ((mask & own_bit) == 0) {
    fault("%s at %s:%d: the calling lane is not in its mask %08x", name_of(operation), site.file,
          site.line, mask);
  }
  if (operation >= Collective::kLdmatrix && warp.alive != ~0u) {
    fault("%s at %s:%d needs all 32 lanes, alive are %08x", name_of(operation), site.file,
          site.line, warp.alive);
  }
  Rendezvous& rendezvous = join(warp, own_bit, operation, mask, site);
  rendezvous.arrived |= own_bit;
  rendezvous.operands[thread.lane] = operands;
  // Only __syncwarp orders memory.
  const bool orders_memory = operation == Collective::kSyncWarp;
  char* token = &warp.sync_token[warp.sync_phase % 2];
  if (orders_memory) sanitizer::release(token);
  if ((rendezvous.mask & warp.alive) == rendezvous.arrived) {
    if (orders_memory) ++warp.sync_phase;
    execute(warp, rendezvous);
    let_units_work(*warp.block);
    if (wants_preemption()) switch_to(choose_thread(nullptr));
  } else {
    suspend(name_of(operation), site);
  }
  if (orders_memory) sanitizer::acquire(token);
}

void complete_rendezvous_after_exit(Warp& warp) {
  for (Rendezvous& waiting : warp.rendezvous) {
    if (waiting.arrived == 0 || (waiting.mask & warp.alive) != waiting.arrived) continue;
    execute(warp, waiting);
  }
}

}  // namespace fusedml::emulation
