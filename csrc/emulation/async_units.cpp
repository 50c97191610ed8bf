// When the asynchronous units work, and what a block must not leave behind.
#include "emulation/engine.h"

namespace fusedml::emulation {

void let_units_work(Block& block) {
  if (config.async_timing != AsyncTiming::kRandom || config.seed == 0) return;
  if (block.units.barriers.empty()) return;  // a kernel without such units
  if (random_bits() % 2 == 0) land_some_pieces(block);
  if (random_bits() % 2 == 0) perform_some_product(block.warps[random_bits() % block.warps.size()]);
}

void check_units_at_end(const Block& block) {
  if (!block.units.copies.empty()) {
    const Site site = block.units.copies.begin()->site;
    fault("the block ends before the box of %s:%d has landed", site.file, site.line);
  }
  for (const MemoryBarrier& barrier : block.units.barriers) {
    if (barrier.got_bytes && barrier.seen < barrier.phases - 1) {
      fault(
          "the block ends, and nobody has waited for the bytes of phase %lld of the mbarrier at "
          "%u",
          static_cast<long long>(barrier.phases - 1), barrier.address);
    }
  }
  for (size_t w = 0; w < block.warps.size(); ++w) {
    const WarpProducts& own = block.warps[w].products;
    const WarpProducts& first = block.warps[w / 4 * 4].products;
    if (own.groups != first.groups || own.registers != first.registers) {
      fault("warps %zu and %zu of a warpgroup: %u and %u groups of wgmma, %d and %d registers",
            w / 4 * 4, w, first.groups, own.groups, first.registers, own.registers);
    }
  }
}

}  // namespace fusedml::emulation
