#pragma once
// Which route the backward takes and how much memory it uses; pure functions of the sizes.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/platform.h"
#include "kernels/api.h"

namespace fusedml {

/// Sizes of the kernels that a plan has to know.
struct GradientTiles {
  int64_t row_tile;       ///< rows of a block of route A; 0: the number type has no route A
  int64_t col_tile;       ///< columns it visits at a time
  int64_t panel_tile;     ///< rows and columns of a block of route B
  int64_t element_bytes;  ///< of a weight in the panel
};

struct GradientPlan {
  GradientRoute route;
  int64_t num_splits;              ///< route A: column splits
  int64_t panel_rows, panel_cols;  ///< route B: largest panel; 0 otherwise
  int64_t num_sums;                ///< reals for partial sums of gradients
  int64_t num_blocks;              ///< blocks of one launch that leave a logit gradient
};

constexpr int64_t kMaxRowsDim = 128;
/// Stays in the L2 cache of an A100 (40 MB) or H100 (50 MB) between its two kernels.
constexpr int64_t kMaxPanelBytes = int64_t(32) << 20;
constexpr int64_t kMaxSplitBytes = int64_t(32) << 20;
constexpr int64_t kGradientGridBlocks = 264;

/// Route A where the whole gradient of a block fits in registers, d <= 128: it writes nothing but
/// the gradient, and its products cost the same.  Above, route B: a wider gradient would not fit,
/// and a panel of weights costs 4 bytes per pair whatever d is, which hides under the product.
inline GradientPlan plan_gradient(int64_t n, int64_t m, int64_t d, const GradientTiles& tiles,
                                  const GradientOptions& options, bool has_gradient) {
  GradientPlan plan{};
  const bool can_own_rows = tiles.row_tile > 0 && d <= kMaxRowsDim && has_gradient;
  plan.route = can_own_rows && options.route != GradientRoute::kPanel ? GradientRoute::kRows
                                                                      : GradientRoute::kPanel;
  if (plan.route == GradientRoute::kRows) {
    const int64_t row_tiles = ceil_div(n, tiles.row_tile), col_tiles = ceil_div(m, tiles.col_tile);
    const int64_t real_bytes = 4;
    const int64_t wanted = std::min(kGradientGridBlocks / std::max<int64_t>(1, row_tiles),
                                    col_tiles / 4);  // a split visits at least four tiles
    const int64_t affordable = kMaxSplitBytes / std::max<int64_t>(1, n * d * real_bytes);
    plan.num_splits = std::max<int64_t>(1, std::min(wanted, affordable));
    plan.num_sums = plan.num_splits > 1 ? plan.num_splits * n * d : 0;
    plan.num_blocks = row_tiles * plan.num_splits;
    return plan;
  }
  const int64_t bytes = options.max_panel_bytes > 0 ? options.max_panel_bytes : kMaxPanelBytes;
  const int64_t side = int64_t(std::sqrt(double(bytes / tiles.element_bytes)));
  const int64_t largest = std::max<int64_t>(1, side / tiles.panel_tile) * tiles.panel_tile;
  plan.panel_rows = std::min(largest, round_up(std::max<int64_t>(n, 1), tiles.panel_tile));
  plan.panel_cols = std::min(largest, round_up(std::max<int64_t>(m, 1), tiles.panel_tile));
  plan.num_sums = m > plan.panel_cols && has_gradient ? plan.panel_rows * d : 0;
  plan.num_blocks = plan.panel_rows / tiles.panel_tile * (plan.panel_cols / tiles.panel_tile);
  return plan;
}

}  // namespace fusedml
