// wgmma: products of a warpgroup that are in flight from their issue to the wait that covers them.
// Each warp's 16 rows are computed on their own; what the four warps issue is compared.
#include <algorithm>
#include <cstring>

#include "emulation/engine.h"
#include "emulation/sanitizer.h"

namespace fusedml::emulation {
namespace {

/// Calls visit(lane, register, row, col) for a warp's part of D.
template <class Visit>
void for_each_sum(int num_sums, Visit visit) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < num_sums; ++r) {
      visit(lane, r, lane / 4 + 8 * (r / 2 % 2), r / 4 * 8 + 2 * (lane % 4) + r % 2);
    }
  }
}

void check_untouched(const Accumulators& sums, Site site) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < sums.num_sums; ++r) {
      uint32_t bits;
      std::memcpy(&bits, &sums.sums[lane][r], sizeof(bits));
      if (bits == kPoison32) continue;
      fault("wgmma at %s:%d: lane %d has written sum %d while it was in flight", site.file,
            site.line, lane, r);
    }
  }
}

Accumulators* take_sums(Warp& warp, const Rendezvous& rendezvous, Site site) {
  const auto of_lane = [&](int lane) {
    return reinterpret_cast<const Wgmma*>(rendezvous.operands[lane].input);
  };
  for (WgmmaInFlight& other : warp.products.in_flight) {
    if (other.accumulators->sums[0] != of_lane(0)->sums) continue;
    if (other.accumulators->num_sums != of_lane(0)->num_sums) {
      fault("wgmma at %s:%d: sums in flight of another shape", site.file, site.line);
    }
    check_untouched(*other.accumulators, site);
    ++other.accumulators->in_flight;
    return other.accumulators;
  }
  auto* sums = static_cast<Accumulators*>(pool_allocate(sizeof(Accumulators)));
  sums->num_sums = of_lane(0)->num_sums;
  sums->in_flight = 1;
  for (int lane = 0; lane < 32; ++lane) sums->sums[lane] = of_lane(lane)->sums;
  for_each_sum(sums->num_sums, [&](int lane, int r, int row, int col) {
    sums->tile[row][col] = sums->sums[lane][r];
    std::memcpy(&sums->sums[lane][r], &kPoison32, sizeof(kPoison32));
  });
  return sums;
}

void give_back(Accumulators* sums, Site site) {
  check_untouched(*sums, site);
  for_each_sum(sums->num_sums, [&](int lane, int r, int row, int col) {
    sums->sums[lane][r] = sums->tile[row][col];
  });
  pool_release(sums, sizeof(Accumulators));
}

int flags_of(const Wgmma& operation) {
  return operation.adds | operation.transposes_a << 1 | operation.transposes_b << 2 |
         operation.is_fp16 << 3 | (operation.registers != nullptr) << 4;
}

bool is_same(const WgmmaRecord& x, const WgmmaRecord& y) {
  return x.a == y.a && x.b == y.b && x.num_sums == y.num_sums && x.flags == y.flags &&
         same_site(x.site, y.site);
}

void issue(Warp& warp, Rendezvous& rendezvous) {
  WarpProducts& own = warp.products;
  const Site site = rendezvous.site;
  const auto of_lane = [&](int lane) -> const Wgmma& {
    return *reinterpret_cast<const Wgmma*>(rendezvous.operands[lane].input);
  };
  const Wgmma& operation = of_lane(0);
  const WgmmaRecord record{operation.a, operation.b, operation.num_sums, flags_of(operation), site};
  for (int lane = 1; lane < 32; ++lane) {
    const Wgmma& other = of_lane(lane);
    if (is_same(record, {other.a, other.b, other.num_sums, flags_of(other), site})) continue;
    fault("wgmma at %s:%d: lanes 0 and %d have different operands", site.file, site.line, lane);
  }
  if (!own.is_fenced) {
    fault("wgmma at %s:%d: its group has no wgmma_fence", site.file, site.line);
  }
  ++counters.wgmma;
  const Block& block = *warp.block;
  WgmmaInFlight product{operation, nullptr, {}, {}, {}, {}, own.groups, false, site};
  if (operation.registers == nullptr) {
    product.a = checked_operand(block, operation.a, kWgmmaLines, operation.transposes_a, site);
  }
  product.b =
      checked_operand(block, operation.b, 2 * operation.num_sums, operation.transposes_b, site);
  product.accumulators = take_sums(warp, rendezvous, site);
  for (int lane = 0; lane < 32 && operation.registers != nullptr; ++lane) {
    product.registers[lane] = of_lane(lane).registers;
    raw_copy(product.register_values[lane], of_lane(lane).registers, 4 * sizeof(uint32_t));
  }
  own.records.push_back(record);
  own.in_flight.push_back(product);
  if (config.async_timing == AsyncTiming::kEarly) {
    perform(warp, own.in_flight[own.in_flight.size() - 1]);
  }
}

/// The four warps commit the same groups.
void commit(Warp& warp, Site site) {
  WarpProducts& own = warp.products;
  Block& block = *warp.block;
  const size_t index = size_t(&warp - block.warps.data());
  WarpgroupLog& log = block.warpgroups[index / 4];
  if (own.groups == log.ends.size()) {
    for (const WgmmaRecord& record : own.records) log.records.push_back(record);
    log.ends.push_back(log.records.size());
  } else {
    const size_t begin = own.groups == 0 ? 0 : log.ends[own.groups - 1];
    bool is_equal = log.ends[own.groups] - begin == own.records.size();
    for (size_t i = 0; is_equal && i < own.records.size(); ++i) {
      is_equal = is_same(own.records[i], log.records[begin + i]);
    }
    if (!is_equal) {
      fault(
          "wgmma.commit_group at %s:%d: warp %zu has issued other products than another warp of "
          "its group",
          site.file, site.line, index);
    }
  }
  own.records.clear();
  own.is_fenced = false;
  ++own.groups;
}

void check_registers_untouched(const WgmmaInFlight& product) {
  for (int lane = 0; lane < 32; ++lane) {
    const size_t bytes = sizeof(product.register_values[lane]);
    if (std::memcmp(product.registers[lane], product.register_values[lane], bytes) == 0) continue;
    fault("wgmma at %s:%d: lane %d has written its registers of A while it was in flight",
          product.site.file, product.site.line, lane);
  }
}

/// The tensor cores come after the boxes that have landed and the fenced stores, not after all that
/// the warp's lanes have done; the lanes come after them.
void note_reads(Block& block, WarpProducts& own, int warp) {
  engine.tensor_cores[warp].run([&] {
    for (const MemoryBarrier& barrier : block.units.barriers) {
      for (int phase = 0; phase < 2 && barrier.is_of_bytes; ++phase) {
        sanitizer::acquire(token_of(block, barrier.address, phase));
      }
    }
    sanitizer::acquire(&block.units.proxy_token);
    for (const SharedRange& range : own.read) {
      sanitizer::note_read(block.arena + range.begin, range.end - range.begin);
    }
    sanitizer::release(&own.read_token);
  });
}

void wait(Warp& warp, unsigned pending_groups) {
  WarpProducts& own = warp.products;
  own.read.clear();
  size_t done = 0;
  while (done < own.in_flight.size() && own.in_flight[done].group + pending_groups < own.groups) {
    WgmmaInFlight& product = own.in_flight[done++];
    if (!product.is_done) perform(warp, product);
    if (product.operation.registers != nullptr) {
      check_registers_untouched(product);
    } else {
      own.read.push_back(product.a);
    }
    own.read.push_back(product.b);
    if (--product.accumulators->in_flight == 0) give_back(product.accumulators, product.site);
  }
  own.in_flight.drop_front(done);
  note_reads(*warp.block, own, int(&warp - warp.block->warps.data()));
}

/// setmaxnreg: a warpgroup's share of the 65536 registers of a multiprocessor.
void set_registers_of(Warp& warp, int registers, bool takes) {
  constexpr int kRegisters = 65536, kLeast = 24, kMost = 256;
  const Block& block = *warp.block;
  const int initial = std::min(kRegisters / block.num_threads / 8 * 8, kMost);
  const int before = warp.products.registers != 0 ? warp.products.registers : initial;
  if (registers % 8 != 0 || registers < kLeast || registers > kMost) {
    fault("setmaxnreg: %d registers, needs a multiple of 8 from %d to %d", registers, kLeast,
          kMost);
  }
  if (takes ? registers < before : registers > before) {
    fault("setmaxnreg.%s: %d registers, but the warp has %d", takes ? "inc" : "dec", registers,
          before);
  }
  warp.products.registers = registers;
  int total = 0;
  for (const Warp& other : block.warps) total += 32 * other.products.registers;
  if (total > kRegisters) {
    fault("setmaxnreg: %d registers for the warps that asked, of %d", total, kRegisters);
  }
}

}  // namespace

void execute_warpgroup(Warp& warp, Rendezvous& rendezvous) {
  switch (rendezvous.operation) {
    case Collective::kWgmma:
      return issue(warp, rendezvous);
    case Collective::kWgmmaFence:
      warp.products.is_fenced = true;
      return;
    case Collective::kWgmmaCommit:
      return commit(warp, rendezvous.site);
    case Collective::kWgmmaWait:
      return wait(warp, rendezvous.operands[0].parameter);
    default:
      return set_registers_of(warp, int(rendezvous.operands[0].parameter),
                              rendezvous.operands[0].words != 0);
  }
}

bool resume_late_wait() {
  for (Warp* warp : engine.warps) {
    for (Thread* thread : warp->threads) {
      if (thread == nullptr || !thread->waits_late) continue;
      thread->waits_late = false;
      warp->ready |= 1u << thread->context.lane;
      return true;
    }
  }
  return false;
}

bool is_read_by_wgmma(const Block& block, SharedRange range, Site* site) {
  for (const Warp& warp : block.warps) {
    for (const WgmmaInFlight& product : warp.products.in_flight) {
      if (!overlap(product.a, range) && !overlap(product.b, range)) continue;
      *site = product.site;
      return true;
    }
  }
  return false;
}

void perform_some_product(Warp& warp) {
  for (WgmmaInFlight& product : warp.products.in_flight) {
    if (!product.is_done) return perform(warp, product);
  }
}

void check_products_at_exit(const Warp& warp) {
  const WarpProducts& own = warp.products;
  if (own.in_flight.empty()) return;
  const WgmmaInFlight& product = *own.in_flight.begin();
  fault("thread exits while the wgmma of %s:%d was %s", product.site.file, product.site.line,
        product.group == own.groups ? "never committed" : "not waited for");
}

void wgmma(const Wgmma& operation, Site site) {
  collective(Collective::kWgmma, ~0u, {reinterpret_cast<const uint32_t*>(&operation)}, site);
}

void wgmma_fence(Site site) { collective(Collective::kWgmmaFence, ~0u, {}, site); }

void wgmma_commit(Site site) { collective(Collective::kWgmmaCommit, ~0u, {}, site); }

void wgmma_wait(int pending_groups, Site site) {
  if (config.async_timing == AsyncTiming::kLate && engine.running->context.lane == 0) {
    engine.running->waits_late = true;
    suspend("wgmma.wait_group", site);
  }
  collective(Collective::kWgmmaWait, ~0u, {nullptr, nullptr, 0, uint32_t(pending_groups)}, site);
  sanitizer::acquire(&engine.running->warp->products.read_token);
}

void set_registers(int registers, bool takes, Site site) {
  const LaneOperands operands{nullptr, nullptr, int(takes), uint32_t(registers)};
  collective(Collective::kSetRegisters, ~0u, operands, site);
}

void store_for_wgmma(uint32_t destination, const void* value, Site site) {
  constexpr uint32_t kBytes = 16;
  char* target = checked_shared(destination, kBytes, kBytes, "store_for_wgmma");
  Block& block = *engine.running->warp->block;
  const SharedRange range{destination, destination + kBytes};
  Site reader;
  if (is_read_by_wgmma(block, range, &reader)) {
    fault("store_for_wgmma at %s:%d: %u is still read by the wgmma of %s:%d", site.file, site.line,
          destination, reader.file, reader.line);
  }
  sanitizer::note_write(target, kBytes);
  raw_copy(target, value, kBytes);
  block.units.stores.push_back({range, engine.running, false});
}

void fence_proxy_async() {
  AsyncUnits& units = engine.running->warp->block->units;
  for (ProxyStore& store : units.stores) {
    if (store.thread == engine.running) store.is_fenced = true;
  }
  sanitizer::release(&units.proxy_token);
}

}  // namespace fusedml::emulation
