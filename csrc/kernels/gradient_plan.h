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
  int64_t real_bytes;     ///< of a sum
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
/// Panel and sums together get no less than this, however little the rows' vectors leave.
constexpr int64_t kMinGradientBytes = 8'000'000;
constexpr int64_t kGradientGridBlocks = 264;

/// The panel of route B: a square, or, where d is so large that the sums of its rows would not fit
/// beside it, flatter and wider, so that fewer rows have sums.
inline void plan_panel(GradientPlan& plan, int64_t n, int64_t m, int64_t d,
                       const GradientTiles& tiles, const GradientOptions& options,
                       bool has_gradient, int64_t max_bytes) {
  const int64_t tile = tiles.panel_tile;
  const auto whole_tiles = [&](int64_t rows) { return std::max<int64_t>(1, rows / tile) * tile; };
  const int64_t all_rows = round_up(std::max<int64_t>(n, 1), tile);
  const int64_t all_cols = round_up(std::max<int64_t>(m, 1), tile);
  const int64_t bytes = std::max(max_bytes, kMinGradientBytes);
  const int64_t panel_bytes = options.max_panel_bytes > 0 ? options.max_panel_bytes
                                                          : std::min(kMaxPanelBytes, bytes / 8 * 5);
  const int64_t weights = panel_bytes / tiles.element_bytes;
  const int64_t side = whole_tiles(int64_t(std::sqrt(double(weights))));
  plan.panel_rows = std::min(side, all_rows);
  plan.panel_cols = std::min(side, all_cols);
  if (m <= plan.panel_cols || !has_gradient) return;
  const int64_t logit_bytes = 4 * sizeof(double) * ceil_div(weights, tile * tile);
  const int64_t sum_bytes =
      options.max_sum_bytes > 0 ? options.max_sum_bytes : bytes - panel_bytes - logit_bytes;
  const int64_t affordable = whole_tiles(sum_bytes / (d * tiles.real_bytes));
  if (affordable < plan.panel_rows) {
    plan.panel_rows = affordable;
    plan.panel_cols = std::min(whole_tiles(weights / affordable), all_cols);
  }
  if (m > plan.panel_cols) plan.num_sums = plan.panel_rows * d;
}

/// `max_bytes` for the memory that the plan asks for.  Route A where the whole gradient of a block
/// fits in registers, d <= 128: it writes nothing but the gradient, and its products cost the same.
/// Above, route B: a wider gradient would not fit, and a panel of weights costs 4 bytes per pair
/// whatever d is, which hides under the product.
inline GradientPlan plan_gradient(int64_t n, int64_t m, int64_t d, const GradientTiles& tiles,
                                  const GradientOptions& options, bool has_gradient,
                                  int64_t max_bytes) {
  GradientPlan plan{};
  const bool can_own_rows = tiles.row_tile > 0 && d <= kMaxRowsDim && has_gradient;
  plan.route = can_own_rows && options.route != GradientRoute::kPanel ? GradientRoute::kRows
                                                                      : GradientRoute::kPanel;
  if (plan.route == GradientRoute::kRows) {
    const int64_t row_tiles = ceil_div(n, tiles.row_tile), col_tiles = ceil_div(m, tiles.col_tile);
    const int64_t wanted = std::min(kGradientGridBlocks / std::max<int64_t>(1, row_tiles),
                                    col_tiles / 4);  // a split visits at least four tiles
    const int64_t affordable = kMaxSplitBytes / std::max<int64_t>(1, n * d * tiles.real_bytes);
    plan.num_splits = std::max<int64_t>(1, std::min(wanted, affordable));
    plan.num_sums = plan.num_splits > 1 ? plan.num_splits * n * d : 0;
    plan.num_blocks = row_tiles * plan.num_splits;
    return plan;
  }
  plan_panel(plan, n, m, d, tiles, options, has_gradient, max_bytes);
  plan.num_blocks = plan.panel_rows / tiles.panel_tile * (plan.panel_cols / tiles.panel_tile);
  return plan;
}

}  // namespace fusedml
