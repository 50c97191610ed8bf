// Shared memory has 32 banks of 4 bytes.  A warp's access takes one pass per distinct word of its
// busiest bank; each pass beyond the first is a conflict.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>

#include "emulation/engine.h"

namespace fusedml::emulation {
namespace {

constexpr int kBanks = 32;

/// Accesses of one phase: passes beyond the first.
int conflicts_of_phase(const uint32_t* addresses, int count, int bytes) {
  uint32_t words[kBanks][kBanks];
  int used[kBanks] = {};
  int most = 1;
  for (int i = 0; i < count; ++i) {
    for (uint32_t word = addresses[i] / 4; word * 4 < addresses[i] + uint32_t(bytes); ++word) {
      const int bank = int(word % kBanks);
      uint32_t* end = words[bank] + used[bank];
      if (std::find(words[bank], end, word) != end) continue;  // one word serves many lanes
      *end = word;
      most = std::max(most, ++used[bank]);
    }
  }
  return most - 1;
}

/// A warp's access: 8-byte elements go by half warps, 16-byte elements by quarters.
int conflicts_of_access(const uint32_t (&address)[32], uint32_t lanes, int bytes) {
  const int lanes_in_phase = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;
  int conflicts = 0;
  for (int begin = 0; begin < 32; begin += lanes_in_phase) {
    uint32_t addresses[32];
    int count = 0;
    for (int lane = begin; lane < begin + lanes_in_phase; ++lane) {
      if (lanes >> lane & 1) addresses[count++] = address[lane];
    }
    conflicts += conflicts_of_phase(addresses, count, bytes);
  }
  return conflicts;
}

struct Place {
  const char* kind;
  Site site;
  const void* code;
  uint64_t conflicts;
};
PoolVector<Place> places;

void note_place(const char* kind, Site site, const void* code, int conflicts) {
  if (conflicts == 0) return;
  for (Place& place : places) {
    const bool same_place = place.code == code && (code != nullptr || same_site(place.site, site));
    if (!same_place || place.kind != kind) continue;
    place.conflicts += uint64_t(conflicts);
    return;
  }
  places.push_back({kind, site, code, uint64_t(conflicts)});
}

void count_access(const SharedAccess& access, const uint32_t (&address)[32], uint32_t lanes) {
  const int conflicts = conflicts_of_access(address, lanes, access.bytes);
  switch (access.kind) {
    case SharedAccess::kCopy:
      counters.cp_async_conflicts += uint64_t(conflicts);
      return note_place("cp.async", access.site, nullptr, conflicts);
    case SharedAccess::kLoad:
      ++counters.shared_loads;
      counters.shared_load_conflicts += uint64_t(conflicts);
      return note_place("load", {}, access.code, conflicts);
    case SharedAccess::kStore:
      ++counters.shared_stores;
      counters.shared_store_conflicts += uint64_t(conflicts);
      return note_place("store", {}, access.code, conflicts);
  }
}

bool same_instruction(const SharedAccess& a, const SharedAccess& b) {
  return a.kind == b.kind && a.code == b.code && a.bytes == b.bytes &&
         (a.code != nullptr || same_site(a.site, b.site));
}

/// file:line, or, for plain accesses, module+offset as addr2line takes it.
std::string describe(const Place& place) {
  if (place.code == nullptr) return place.site.file + (":" + std::to_string(place.site.line));
  Dl_info module;
  if (dladdr(place.code, &module) == 0) return "?";
  char offset[32];
  std::snprintf(offset, sizeof(offset), "+0x%tx",
                static_cast<const char*>(place.code) - static_cast<const char*>(module.dli_fbase));
  return module.dli_fname + std::string(offset);
}

}  // namespace

void record_access(const SharedAccess& access) {
  engine.running->accesses.push_back(access);
  engine.running->warp->has_accesses = true;
}

void settle_accesses(Warp& warp) {
  if (!warp.has_accesses) return;
  warp.has_accesses = false;
  // Lanes executed one after the other; put their accesses side by side again.  A lane may lack
  // some (a predicated copy), so the lane with most left to do leads.
  size_t next[32] = {};
  while (true) {
    int leader = -1;
    size_t most_left = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if (warp.threads[lane] == nullptr) continue;
      const size_t left = warp.threads[lane]->accesses.size() - next[lane];
      if (left <= most_left) continue;
      most_left = left;
      leader = lane;
    }
    if (leader < 0) break;
    const SharedAccess led = warp.threads[leader]->accesses[next[leader]];
    uint32_t address[32], lanes = 0;
    for (int lane = 0; lane < 32; ++lane) {
      Thread* thread = warp.threads[lane];
      if (thread == nullptr || next[lane] == thread->accesses.size()) continue;
      const SharedAccess& candidate = thread->accesses[next[lane]];
      if (!same_instruction(candidate, led)) continue;
      address[lane] = candidate.address;
      lanes |= 1u << lane;
      ++next[lane];
    }
    count_access(led, address, lanes);
  }
  for (Thread* thread : warp.threads) {
    if (thread != nullptr) thread->accesses.clear();
  }
}

void record_ldmatrix(const Rendezvous& rendezvous) {
  for (int matrix = 0; matrix < rendezvous.operands[0].words; ++matrix) {
    uint32_t rows[8];
    for (int r = 0; r < 8; ++r) rows[r] = rendezvous.operands[8 * matrix + r].parameter;
    const int conflicts = conflicts_of_phase(rows, 8, 16);
    counters.ldmatrix_conflicts += uint64_t(conflicts);
    note_place("ldmatrix", rendezvous.site, nullptr, conflicts);
  }
}

std::string bank_conflict_report() {
  std::sort(places.begin(), places.end(),
            [](const Place& a, const Place& b) { return a.conflicts > b.conflicts; });
  std::string report;
  char line[512];
  for (const Place& place : places) {
    std::snprintf(line, sizeof(line), "%8llu  %-8s  %s\n",
                  static_cast<unsigned long long>(place.conflicts), place.kind,
                  describe(place).c_str());
    report += line;
  }
  return report;
}

void reset_counters() {
  counters = {};
  places.clear();
}

}  // namespace fusedml::emulation
