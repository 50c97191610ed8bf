#pragma once
// Sizes of the product of a panel of weights and embeddings, and which of them a problem takes.
#include <cstdint>

#include "core/platform.h"
#include "core/tensor_map.h"

namespace fusedml {

/// The tile of the gradient that a block computes at a time: kRows lines of the panel x kDims
/// dimensions, over slices of kDepth of the panel's other lines.
template <int kDims_, int kStages_>
struct HopperProductTile {
  static constexpr int kRows = 128, kDims = kDims_, kDepth = 64, kStages = kStages_;
  static constexpr int kThreads = 384;  ///< a producing warpgroup and two that multiply
  static constexpr int kSliceBytes = kDepth * kBoxRowBytes;  ///< kDepth rows of a box
  static constexpr int kWeightBytes = kRows * kBoxRowBytes;
  static constexpr int kStageBytes = kWeightBytes + kDims / kBoxCols * kSliceBytes;
  static constexpr int kBytes = kStages * kStageBytes;
  static_assert(kDims % kBoxCols == 0 && kBytes <= 227 * 1024 - 1024);
};

/// As many stages as fit.
using NarrowProductTile = HopperProductTile<128, 6>;
using MiddleProductTile = HopperProductTile<192, 5>;
using WideProductTile = HopperProductTile<256, 4>;

constexpr int kHopperMultiprocessors = 132;  ///< of an H100 with the most of them

/// Share of the tensor cores' peak that tiles of so many dimensions reach: an estimate.
constexpr double product_share(int dims) { return dims == 256 ? 0.84 : dims == 192 ? 0.80 : 0.72; }

/// The tile's width in dimensions for a panel of `lines` lines (of both products): the one whose
/// waves of blocks take the least time.
inline int product_dims(int64_t lines, int64_t dims) {
  int best = 0;
  double best_time = 0;
  for (const int width : {256, 192, 128}) {
    const int64_t tiles =
        ceil_div(lines, int64_t(NarrowProductTile::kRows)) * ceil_div(dims, int64_t(width));
    const double waves = double(ceil_div(tiles, int64_t(kHopperMultiprocessors)));
    const double time = waves * width / product_share(width);
    if (best == 0 || time < best_time) {
      best = width;
      best_time = time;
    }
  }
  return best;
}

}  // namespace fusedml
