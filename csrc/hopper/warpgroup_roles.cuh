#pragma once
#include "core/hopper_primitives.cuh"

namespace fusedml {

/// The first warpgroup gives its registers away and one of its threads fills the ring from the
/// maps; the others take them and consume.  By all threads, as the last thing that a kernel does.
template <class Block, class... Maps>
FUSEDML_DEVICE void run_warpgroups(Block& block, const Maps&... maps) {
  const int group = shuffle(int(threadIdx.x) / kWarpgroupSize, 0);
  if (group == 0) {
    give_registers<24>();
    if (threadIdx.x == 0) block.produce(maps...);
    return;
  }
  take_registers<240>();
  block.consume(group - 1);
}

}  // namespace fusedml
