#pragma once
// Forward sweep on Hopper's instructions: sums of exponentials of the rows and columns of plain
// tiles, in which all pairs are negatives and none has an exponential far from 1.
#include "core/row_statistics.h"
#include "hopper/similarities.cuh"
#include "hopper/sweep_tiles.cuh"
#include "hopper/warpgroup_roles.cuh"
#include "logits/affine.h"

namespace fusedml {

/// Adds up over two lanes that hold the same columns and lets each keep half of them, the lane with
/// the bit kMask the upper one.  Of three such steps 8 lanes keep an eighth each, for 7 / 8 of
/// kCount exchanges instead of three times kCount.
template <int kCount, int kMask, int kAll>
FUSEDML_DEVICE void halve(float (&value)[kAll], int lane) {
  const bool keeps_upper = lane & kMask;
#pragma unroll
  for (int c = 0; c < kCount / 2; ++c) {
    const float keep = keeps_upper ? value[c + kCount / 2] : value[c];
    const float send = keeps_upper ? value[c] : value[c + kCount / 2];
    value[c] = keep + shuffle_xor(send, kMask);
  }
}

template <class Number, class Tile>
class HopperSweepBlock {
 public:
  static constexpr int kThreadCols = Tile::kCols / 4;  ///< its columns
  static constexpr int kKeptCols = kThreadCols / 8;    ///< those whose sums it keeps
  using Similarities = HopperSimilarities<Number, Tile>;
  using Values = typename Similarities::Values;
  static constexpr int kConsumers = Similarities::kConsumers;
  using ColumnParts = float[2][4][Tile::kCols];  ///< of both groups' warps
  using Statistics = RowStatistics<float>;

  FUSEDML_DEVICE HopperSweepBlock(const HopperSweepArguments& arguments, uint64_t* barriers,
                                  ColumnParts& parts)
      : arguments_(arguments),
        share_(arguments.plan.share(int(blockIdx.x))),
        logit_(arguments.logit, false),
        scale_(plain_scale<Number>(arguments.logit)),
        tiles_(arguments, scale_),
        similarities_(barriers, arguments.dim),
        parts_(parts) {
    if (threadIdx.x == 0) fence_mbarrier_init();
    __syncthreads();  // the ring is initialised; from here on the roles never meet
  }

  /// By one thread.
  FUSEDML_DEVICE void produce(const TensorMap& anchors, const TensorMap& references) {
    tiles_.for_each([&](int row, int col) { similarities_.fill(anchors, references, row, col); },
                    [](int, int) {});
  }

  /// By a warpgroup, number 0 or 1.
  FUSEDML_DEVICE void consume(int consumer) {
    if (!share_.slots.adds) empty_slots(consumer);
    similarities_.begin(consumer);
    clear_columns();
    const auto reduce_tile = [&](int row, int) {
      Values values;
      similarities_.multiply(values);
      reduce(values, row + consumer * 64);
    };
    tiles_.for_each(reduce_tile, [&](int col, int tiles) {
      if (share_.slots.has_columns) hand_over(consumer, col, tiles * Tile::kRows);
      clear_columns();
    });
    similarities_.end();
    if (consumer == 0 && has_handed_over_) bar_sync<3>(kConsumers);
  }

 private:
  // --- sums ---

  FUSEDML_DEVICE static int warp_of_group() { return int(threadIdx.x) / kWarpSize % 4; }
  FUSEDML_DEVICE static int lane() { return int(threadIdx.x) % kWarpSize; }

  FUSEDML_DEVICE void clear_columns() {
#pragma unroll
    for (int c = 0; c < kKeptCols; ++c) column_sums_[c] = 0.f;
  }

  /// One exponential of each pair for its row and its column.  `row`: the group's first.
  FUSEDML_DEVICE void reduce(const Values& d, int row) {
    float row_sums[2] = {0.f, 0.f}, columns[kThreadCols];
#pragma unroll
    for (int j = 0; j < Tile::kCols / 8; ++j)
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const float upper = Number::exponential_of_scaled(scale_ * d[4 * j + b]);
        const float lower = Number::exponential_of_scaled(scale_ * d[4 * j + 2 + b]);
        row_sums[0] += upper;
        row_sums[1] += lower;
        columns[2 * j + b] = upper + lower;
      }
    if (share_.slots.has_columns) {
      halve<kThreadCols, 16>(columns, lane());
      halve<kThreadCols / 2, 8>(columns, lane());
      halve<kThreadCols / 4, 4>(columns, lane());
#pragma unroll
      for (int c = 0; c < kKeptCols; ++c) column_sums_[c] += columns[c];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      row_sums[h] += shuffle_xor(row_sums[h], 1);
      row_sums[h] += shuffle_xor(row_sums[h], 2);
      if (lane() % 4 == 0) add(row_slot(row + thread_row() + 8 * h), row_sums[h], Tile::kCols);
    }
  }

  /// The first group leaves its warps' sums of a column of tiles; the second comes later, adds its
  /// own and stores them.
  FUSEDML_DEVICE void hand_over(int consumer, int col, int rows) {
    if (consumer == 0 && has_handed_over_) bar_sync<3>(kConsumers);  // the second group has read
    if (consumer == 1) bar_sync<4>(kWarpgroupSize);                  // and so have its own warps
    has_handed_over_ = true;
    // halve() has left this lane the sums from `first` on; sum 2 j + b is of column 8 j + 2 t + b
    const int first = (lane() & 16 ? kThreadCols / 2 : 0) + (lane() & 8 ? kThreadCols / 4 : 0) +
                      (lane() & 4 ? kThreadCols / 8 : 0);
#pragma unroll
    for (int c = 0; c < kKeptCols; ++c) {
      const int number = first + c;
      parts_[consumer][warp_of_group()][8 * (number / 2) + thread_col() + number % 2] =
          column_sums_[c];
    }
    if (consumer == 0) {
      bar_arrive<2>(kConsumers);
      return;
    }
    bar_sync<2>(kConsumers);  // both groups' sums are there
    for (int c = int(threadIdx.x) % kWarpgroupSize; c < Tile::kCols; c += kWarpgroupSize) {
      float sum = 0.f;
#pragma unroll
      for (int part = 0; part < 8; ++part) sum += parts_[part / 4][part % 4][c];
      add(col_slot(col + c), sum, rows);
    }
    bar_arrive<3>(kConsumers);
  }

  // --- slots, each of which one thread of one block writes ---

  FUSEDML_DEVICE Statistics& row_slot(int row) const {
    const int64_t begin = int64_t(arguments_.plan.first_row_tile) * Tile::kSquare;
    return arguments_.partials[share_.slots.of_rows * arguments_.slot_rows + row - begin];
  }
  FUSEDML_DEVICE Statistics& col_slot(int col) const {
    return arguments_.partials[share_.slots.of_cols * arguments_.slot_rows + col];
  }

  FUSEDML_DEVICE void add(Statistics& slot, float sum, int count) const {
    slot.negative.max = logit_.shift_negative;
    slot.negative.sum += sum;
    slot.num_negative += count;
  }

  /// Each thread empties what it will add to.
  FUSEDML_DEVICE void empty_slots(int consumer) const {
    const TileSequence& tiles = share_.tiles;
    for (int row = tiles.row_begin * Tile::kSquare + consumer * 64;
         row < tiles.row_end * Tile::kSquare; row += Tile::kRows) {
      const int own = row + thread_row();
      for (int h = 0; h < 2 && lane() % 4 == 0; ++h)
        if (own + 8 * h < arguments_.squares.rows) row_slot(own + 8 * h) = Statistics();
    }
    if (consumer == 0 || !share_.slots.has_columns) return;
    for (int col = tiles.col_begin * Tile::kSquare; col < tiles.col_end * Tile::kSquare;
         col += Tile::kCols) {
      for (int c = int(threadIdx.x) % kWarpgroupSize; c < Tile::kCols; c += kWarpgroupSize)
        if (col + c < arguments_.squares.cols) col_slot(col + c) = Statistics();
    }
  }

  const HopperSweepArguments& arguments_;
  SweepPlan::Share share_;
  AffineLogit<float> logit_;
  float scale_;  ///< times log2(e)
  HopperSweepTiles<Tile> tiles_;
  Similarities similarities_;
  ColumnParts& parts_;
  float column_sums_[kKeptCols];  ///< over the rows of a column of tiles
  bool has_handed_over_ = false;
};

template <class Number, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    hopper_sweep_kernel(const __grid_constant__ TensorMap anchors,
                        const __grid_constant__ TensorMap references,
                        const __grid_constant__ HopperSweepArguments arguments) {
  using Block = HopperSweepBlock<Number, Tile>;
  FUSEDML_SHARED(uint64_t, barriers, [StageRing<Tile::kStages>::kBarriers]);
  FUSEDML_SHARED(float, parts, [2][4][Tile::kCols]);
  Block block(arguments, barriers, parts);
  run_warpgroups(block, anchors, references);
}

}  // namespace fusedml
