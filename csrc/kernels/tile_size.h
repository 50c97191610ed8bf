#pragma once
// Large or small tiles of pairs; pure functions of the sizes.
#include <cstdint>

#include "kernels/api.h"

namespace fusedml {

/// Blocks that fill a large GPU: 132 multiprocessors with two blocks each.
constexpr int64_t kFullGridBlocks = 264;

/// Whether small tiles are faster than this number of large ones, each the work of a block, on a
/// GPU that `grid_blocks` fill: as long as those leave half of the multiprocessors idle.  The
/// tensor cores need twice the time that it takes to issue a large tile's instructions; four small
/// tiles issue 2.5 times as many (130 a slice against 211).
inline bool wants_small_tiles(TileSize size, int64_t large_tiles, int64_t grid_blocks) {
  if (size != TileSize::kAuto) return size == TileSize::kSmall;
  return 4 * large_tiles <= grid_blocks;
}

}  // namespace fusedml
