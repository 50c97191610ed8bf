#pragma once
// Which route the backward takes on Hopper's instructions, and in which panels; pure functions of
// the sizes.
#include "hopper/product_tile.h"
#include "kernels/gradient_plan.h"

namespace fusedml {

constexpr int64_t kHopperSquare = 256;  ///< panels are made of squares

/// Estimated time of the kernels of a panel of so many squares, in units in which a tile of 128 x
/// c, over k, takes c k at the tensor cores' peak [shares of it, and the launches: estimates].
inline double hopper_panel_time(int64_t row_squares, int64_t col_squares, int64_t dims,
                                bool feeds_cols) {
  constexpr double kShareOfWeights = 0.8, kOfLaunches = 3.4e5;  // three of 4 us
  constexpr int64_t kLeastDims = 128;  // from there on the exponentials hide under the products
  const auto waves = [](int64_t tiles) {
    return double(ceil_div(tiles, int64_t(kHopperMultiprocessors)));
  };
  const int64_t rows = row_squares * kHopperSquare, cols = col_squares * kHopperSquare;
  const double weights = waves(rows / 128 * col_squares) * kHopperSquare *
                         double(std::max(dims, kLeastDims)) / kShareOfWeights;
  const auto product = [&](int64_t lines) {
    const int64_t width = product_dims(lines, dims);
    return waves(lines / 128 * ceil_div(dims, width)) * double(width) / product_share(int(width));
  };
  const double depth = double(feeds_cols ? std::max(rows, cols) : cols);
  return weights + product(rows + (feeds_cols ? cols : 0)) * depth + kOfLaunches;
}

/// Route A where its unfinished sums, of all rows, fit: the same route for both gradients of a
/// problem.
inline GradientPlan plan_hopper_gradient(const GradientSize& size, const GradientOptions& options,
                                         const GradientSpace& space) {
  constexpr int64_t kElementBytes = 2, kLowBytes = 2, kRealBytes = 4;
  const bool is_by_rows = size.d <= kMaxRowsDim && options.route != GradientRoute::kPanel &&
                          std::max(size.n, size.m) * size.d * kLowBytes <= space.of_halves;
  if (is_by_rows) {
    GradientPlan plan{};
    plan.route = GradientRoute::kRows;
    plan.num_splits = 1;
    plan.num_sums = size.n * size.d;
    return plan;
  }
  const auto time = [&](int64_t rows, int64_t cols, bool feeds_cols) {
    return hopper_panel_time(rows, cols, size.d, feeds_cols);
  };
  PanelPlanner planner(
      size, {0, 0, kHopperSquare, kHopperSquare, kElementBytes, kRealBytes, kLowBytes, 0, 0},
      options, time);
  planner.try_rectangle(space.of_rectangle);
  if (size.is_self) planner.try_halves(space.of_halves);
  return planner.result();
}

}  // namespace fusedml
