#pragma once
// Which route the backward takes and how much memory it uses; pure functions of the sizes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>

#include "core/platform.h"
#include "kernels/tile_size.h"

namespace fusedml {

/// Sizes of the kernels that a plan has to know.
struct GradientTiles {
  int64_t row_tile;       ///< rows of a block of route A; 0: the number type has no route A
  int64_t col_tile;       ///< columns it visits at a time
  int64_t panel_tile;     ///< rows and columns of a block of route B, in both its kernels
  int64_t dim_tile;       ///< dimensions of a block of its product
  int64_t element_bytes;  ///< of a weight in the panel
  int64_t real_bytes;     ///< of a sum
  int64_t low_bytes;      ///< of a sum, beyond what lies in the gradient
  int64_t small_tile;     ///< instead of panel_tile and dim_tile where those are few; 0: none
  int64_t weights_tile;   ///< of the first kernel of route B, whatever there is; 0: as the others

  /// Blocks of that kernel in a panel_tile, at most where the tiles are not small.
  int64_t weights_blocks() const {
    const int64_t across = weights_tile > 0 ? panel_tile / weights_tile : 1;
    return across * across;
  }
};

struct GradientPlan {
  GradientRoute route;
  int64_t num_splits;                  ///< route A: column splits
  int64_t num_split_sums;              ///< reals for the gradients of splits
  int64_t panel_rows, panel_cols;      ///< route B: largest panel; 0 otherwise
  bool is_halved;                      ///< of a self problem: only panels on and above the diagonal
  int64_t weights_tile, product_tile;  ///< route B: rows of a block of its kernels
  int64_t num_sums;                    ///< unfinished sums of gradients
  int64_t num_blocks;                  ///< blocks of one launch that leave a logit gradient

  /// Of the first kernel of route B, for a panel.
  int64_t weights_blocks(int64_t rows, int64_t cols) const {
    return rows / weights_tile * (cols / weights_tile);
  }
};

constexpr int64_t kMaxRowsDim = 128;
/// Stays in the L2 cache of an A100 (40 MB) or H100 (50 MB) between its two kernels.
constexpr int64_t kMaxPanelBytes = int64_t(32) << 20;
constexpr int64_t kMaxSplitBytes = int64_t(32) << 20;
/// Panel and sums together get no less than this, however little the rows' vectors leave.
constexpr int64_t kMinGradientBytes = 8'000'000;

/// One gradient, by its rows; `is_self`: the columns are the rows, and the weights symmetric.
struct GradientSize {
  int64_t n, m, d;
  bool is_self;
  bool has_gradient, has_logit;  ///< whose gradients are wanted
};

/// Bytes that a plan may ask for.
struct GradientSpace {
  int64_t of_rectangle;  ///< where it visits all panels
  int64_t of_halves;     ///< where it visits those on and above the diagonal
};

/// Estimated time of the two kernels of a panel, in units of a product of 128 x 128 x 128 by one
/// block of two that share a multiprocessor; an odd block runs alone, and not twice as fast. Beside
/// the products: 1 for the epilogue of a tile of weights, 2 for the sums of a tile of the gradient,
/// 4 for the launches [guesses].
inline double panel_time(int64_t row_tiles, int64_t col_tiles, int64_t dim_tiles, bool feeds_cols) {
  const auto turns = [](int64_t blocks) {
    const int64_t most = ceil_div(blocks, kFullGridBlocks / 2);
    return double(most) + (most % 2 == 1 ? 0.3 : 0);
  };
  const int64_t lines = row_tiles + (feeds_cols ? col_tiles : 0);
  const int64_t depth = feeds_cols ? std::max(row_tiles, col_tiles) : col_tiles;
  return turns(row_tiles * col_tiles) * double(dim_tiles + 1) +
         turns(lines * dim_tiles) * double(depth + 2) + 4;
}

/// Estimated time of a panel of so many tiles: (rows, columns, whether it feeds the columns, too).
using PanelTime = std::function<double(int64_t, int64_t, bool)>;

/// By the kernels of this folder.
inline PanelTime panel_time_of(int64_t dim_tiles) {
  return [dim_tiles](int64_t row_tiles, int64_t col_tiles, bool feeds_cols) {
    return panel_time(row_tiles, col_tiles, dim_tiles, feeds_cols);
  };
}

/// Of all panels of a rectangle, of which the last ones may be smaller.
inline double rectangle_time(int64_t row_tiles, int64_t col_tiles, int64_t rows, int64_t cols,
                             const PanelTime& panel_time) {
  const int64_t full_rows = row_tiles / rows, last_rows = row_tiles % rows;
  const int64_t full_cols = col_tiles / cols, last_cols = col_tiles % cols;
  const auto time = [&](int64_t count, int64_t r, int64_t c) {
    return count * r * c == 0 ? 0 : double(count) * panel_time(r, c, false);
  };
  return time(full_rows * full_cols, rows, cols) + time(full_rows, rows, last_cols) +
         time(full_cols, last_rows, cols) + time(1, last_rows, last_cols);
}

/// Of the square panels on and above the diagonal.
inline double halves_time(int64_t row_tiles, int64_t side, const PanelTime& panel_time) {
  const int64_t full = row_tiles / side, last = row_tiles % side;
  const auto time = [&](int64_t count, int64_t r, int64_t c, bool feeds_cols) {
    return count * r * c == 0 ? 0 : double(count) * panel_time(r, c, feeds_cols);
  };
  return time(full, side, side, false) + time(full * (full - 1) / 2, side, side, true) +
         time(full, side, last, true) + time(1, last, last, false);
}

/// Plans of route B, of which the fastest is kept.
class PanelPlanner {
 public:
  /// panel_time: by the kernels, in tiles.panel_tile; null: by those of this folder.
  PanelPlanner(const GradientSize& size, const GradientTiles& tiles, const GradientOptions& options,
               const PanelTime& panel_time = nullptr)
      : size_(size),
        tiles_(tiles),
        options_(options),
        row_tiles_(ceil_div(std::max<int64_t>(size.n, 1), tiles.panel_tile)),
        col_tiles_(ceil_div(std::max<int64_t>(size.m, 1), tiles.panel_tile)),
        dim_tiles_(size.has_gradient ? ceil_div(size.d, tiles.dim_tile) : 0),
        panel_time_(panel_time ? panel_time : panel_time_of(dim_tiles_)) {}

  /// All panels.  Those whose launches fill the GPU best; for large d flat and wide ones, of whose
  /// rows the sums fit beside them.
  void try_rectangle(int64_t bytes) {
    bytes = std::max(bytes, kMinGradientBytes);
    const int64_t panel_tiles = most_tiles(panel_bytes(bytes / 8 * 5));
    const int64_t sum_bytes =
        options_.max_sum_bytes > 0 ? options_.max_sum_bytes : bytes - panel_tiles * tile_bytes();
    int64_t most_rows = std::min(row_tiles_, panel_tiles);
    // panels as wide as the rectangle need no sums
    if (size_.has_gradient && tiles_.low_bytes > 0)
      most_rows = std::min(
          most_rows, std::max({int64_t(1), panel_tiles / col_tiles_,
                               sum_bytes / (tiles_.panel_tile * size_.d * tiles_.low_bytes)}));
    for (int64_t rows = 1; rows <= most_rows; ++rows) {
      const int64_t cols = std::min(col_tiles_, panel_tiles / rows);
      keep(rectangle_time(row_tiles_, col_tiles_, rows, cols, panel_time_), rows, cols, false);
    }
  }

  /// The panels on and above the diagonal of a self problem: each weight is computed once and feeds
  /// the gradients of its row and of its column, 4 n^2 d operations for a step instead of 5 n^2 d.
  /// But then all rows have unfinished sums.
  void try_halves(int64_t bytes) {
    const int64_t left = bytes - size_.n * size_.d * tiles_.low_bytes;
    const int64_t panel_tiles = std::min(most_tiles(panel_bytes(left)), left / tile_bytes());
    for (int64_t side = 1; side * side <= panel_tiles && side < row_tiles_; ++side)
      keep(halves_time(row_tiles_, side, panel_time_), side, side, true);
  }

  GradientPlan result() const {
    GradientPlan plan{};
    plan.route = GradientRoute::kPanel;
    plan.panel_rows = rows_ * tiles_.panel_tile;
    plan.panel_cols = cols_ * tiles_.panel_tile;
    plan.is_halved = is_halved_;
    if (size_.has_gradient && cols_ < col_tiles_)
      plan.num_sums = (is_halved_ ? size_.n : plan.panel_rows) * size_.d;
    plan.weights_tile = tiles_.weights_tile > 0 ? tiles_.weights_tile : tile_for(rows_ * cols_);
    plan.product_tile = tile_for((rows_ + (is_halved_ ? cols_ : 0)) * dim_tiles_);
    plan.num_blocks = plan.weights_blocks(plan.panel_rows, plan.panel_cols);
    return plan;
  }

 private:
  void keep(double time, int64_t rows, int64_t cols, bool is_halved) {
    if (time > best_time_) return;
    best_time_ = time;
    rows_ = rows;
    cols_ = cols;
    is_halved_ = is_halved;
  }
  /// Rows of the tiles that are best for this number of blocks of large ones.
  int64_t tile_for(int64_t large_tiles) const {
    const bool is_small = tiles_.small_tile > 0 &&
                          wants_small_tiles(options_.tile_size, large_tiles, kFullGridBlocks);
    return is_small ? tiles_.small_tile : tiles_.panel_tile;
  }
  int64_t panel_bytes(int64_t bytes) const {
    return options_.max_panel_bytes > 0 ? options_.max_panel_bytes
                                        : std::min(kMaxPanelBytes, bytes);
  }
  int64_t weight_bytes() const {
    return tiles_.panel_tile * tiles_.panel_tile * tiles_.element_bytes;
  }
  /// Of a tile of weights, with its share of the logit's gradient and of that array's alignment.
  int64_t tile_bytes() const {
    return weight_bytes() +
           (size_.has_logit ? (4 * tiles_.weights_blocks() + 4) * int64_t(sizeof(double)) : 0);
  }
  int64_t most_tiles(int64_t bytes) const { return std::max<int64_t>(1, bytes / weight_bytes()); }

  GradientSize size_;
  GradientTiles tiles_;
  GradientOptions options_;
  int64_t row_tiles_, col_tiles_, dim_tiles_;
  PanelTime panel_time_;
  double best_time_ = INFINITY;
  int64_t rows_ = 1, cols_ = 1;
  bool is_halved_ = false;
};

/// Route A where the whole gradient of a block fits in registers, d <= 128: it writes nothing but
/// the gradient, and its products cost the same.  Above, route B: a wider gradient would not fit,
/// and a panel of weights costs 4 bytes per pair whatever d is, which hides under the product.
inline GradientPlan plan_gradient(const GradientSize& size, const GradientTiles& tiles,
                                  const GradientOptions& options, const GradientSpace& space) {
  const bool can_own_rows = tiles.row_tile > 0 && size.d <= kMaxRowsDim && size.has_gradient;
  if (can_own_rows && options.route != GradientRoute::kPanel) {
    GradientPlan plan{};
    plan.route = GradientRoute::kRows;
    const int64_t row_tiles = ceil_div(size.n, tiles.row_tile);
    const int64_t col_tiles = ceil_div(size.m, tiles.col_tile);
    const int64_t wanted = std::min(kFullGridBlocks / std::max<int64_t>(1, row_tiles),
                                    col_tiles / 4);  // a split visits at least four tiles
    const int64_t count = size.n * size.d;
    const int64_t affordable = kMaxSplitBytes / std::max<int64_t>(1, count * tiles.real_bytes);
    plan.num_splits = std::max<int64_t>(1, std::min(wanted, affordable));
    plan.num_split_sums = plan.num_splits > 1 ? plan.num_splits * count : 0;
    plan.num_blocks = row_tiles * plan.num_splits;
    return plan;
  }
  PanelPlanner planner(size, tiles, options);
  planner.try_rectangle(space.of_rectangle);
  if (size.is_self && size.has_gradient) planner.try_halves(space.of_halves);
  return planner.result();
}

}  // namespace fusedml
