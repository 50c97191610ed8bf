// The memory that the operators ask for, at the sizes of the design's goals: it is what the binding
// allocates, so it bounds the extra memory of a step.  And that the plans are sound.
#include <map>
#include <set>

#include "emulated_problem.h"
#include "kernels/gradient_plan.h"
#include "kernels/sweep_plan.h"
#include "kernels/workspace.h"

namespace fusedml::testing {
namespace {

constexpr double kMB = 1e6;

Problem problem_of(NumberType type, Measure measure, int64_t n, int64_t m, int64_t d) {
  Problem problem{};
  problem.number_type = type;
  problem.measure = measure;
  problem.n = n;
  problem.m = m;
  problem.d = d;
  problem.is_self = m == 0;
  return problem;
}

/// Non-null pointers: sizes depend on which gradients are asked for, not on where they go.
GradientOutputs outputs_of(const Problem& problem) {
  static char element;
  static double logit[4];
  return {&element, problem.is_self ? nullptr : &element, logit};
}

/// Every pair of tiles is visited once; in a launch each slot of a row has one writer.  In a
/// symmetric plan the first launch writes all slots, later ones add, and the last finishes the
/// rows. In a rectangle each launch writes and finishes rows of its own.
void check_plan(const SweepPlan& plan) {
  const bool is_symmetric = plan.shifts_per_launch > 0;
  std::map<std::pair<int, int>, int> visits;
  std::set<std::pair<int, int>> written;  // (slot, tile of rows)
  for (int index = 0; index < plan.num_launches(); ++index) {
    const SweepPlan launch = plan.launch(index);
    std::set<std::pair<int, int>> writers;
    const auto writes = [&](int slot, int tile) {
      CHECK(slot < plan.num_slots && writers.insert({slot, tile}).second);
      CHECK((index == 0 || !is_symmetric) == written.insert({slot, tile}).second);
      const int row = tile - launch.first_row_tile;
      CHECK(row >= 0 && row < plan.row_tiles_per_launch);
    };
    CHECK(launch.finishes_rows() == (!is_symmetric || index == plan.num_launches() - 1));
    for (int block = 0; block < launch.num_blocks(); ++block) {
      const auto share = launch.share(block);
      CHECK(share.slots.has_columns == is_symmetric);
      CHECK(share.slots.adds == (is_symmetric && index > 0));
      const TileSequence& tiles = share.tiles;
      for (int row = tiles.row_begin; row < tiles.row_end; ++row) writes(share.slots.of_rows, row);
      if (is_symmetric)
        for (int col = tiles.col_begin; col < tiles.col_end; ++col)
          writes(share.slots.of_cols, col);
      for (TilePosition p = tiles.first(); p.is_valid(); tiles.advance(p)) {
        const auto sorted = std::minmax(p.row, p.col);
        ++visits[is_symmetric ? std::pair<int, int>(sorted) : std::pair<int, int>(p.row, p.col)];
      }
    }
  }
  CHECK(int(written.size()) == plan.row_tiles * plan.num_slots);
  const int tiles = plan.row_tiles;
  CHECK(int(visits.size()) == (is_symmetric ? tiles * (tiles + 1) / 2 : tiles * plan.col_tiles));
  for (const auto& visit : visits) CHECK(visit.second == 1);
}

SweepSize tiles_of(int64_t row_tiles, int64_t col_tiles) {
  return {row_tiles * 128, col_tiles * 128, 128, 128, 28};
}

void check_sweep_plans() {
  for (const int64_t tiles : {1, 2, 3, 6, 17, 20, 64, 65, 100})
    for (const int64_t max_slot_bytes : {int64_t(1), tiles * 128 * 28 * 5, int64_t(0)})
      for (const int64_t grid_blocks : {1, 7, 40, 0}) {
        const SweepOptions options{max_slot_bytes, grid_blocks};
        check_plan(plan_self(tiles_of(tiles, tiles), options, kMaxWorkspaceBytes));
        check_plan(plan_rectangle(tiles_of(tiles, 7), options));
      }
  // half of the products at every large size, in full launches
  for (const int64_t tiles : {128, 512, 2048, 8192}) {
    const SweepPlan plan = plan_self(tiles_of(tiles, tiles), {}, kMaxWorkspaceBytes);
    CHECK(plan.shifts_per_launch > 0);
    const double ideal = 1.1 * double(tiles) * double(tiles + 1) / 2 / kFullGridBlocks;
    CHECK(sweep_time(plan, kFullGridBlocks) < 1.35 * ideal);
  }
  // where only a rectangle is left, its launches are full grids too
  const SweepPlan plan = plan_self(tiles_of(1 << 15, 1 << 15), {}, kMaxWorkspaceBytes);
  CHECK(plan.shifts_per_launch == 0 && plan.row_tiles_per_launch >= 8 * kFullGridBlocks);
}

constexpr GradientTiles kSixteenBitTiles{64, 64, 128, 128, 2, 4, 2, 0};

GradientPlan panel_plan(int64_t n, int64_t d, bool is_self, int64_t max_bytes) {
  return plan_gradient({n, n, d, is_self, true, false}, kSixteenBitTiles, {GradientRoute::kPanel},
                       {std::min(max_bytes, kMaxWorkspaceBytes), max_bytes});
}

/// Panels fit the L2 cache, fill the GPU with their launches, and of a self problem each weight is
/// computed once wherever the memory allows.
void check_panel_plans() {
  for (const int64_t n : {16384, 65536, 262144})
    for (const int64_t d : {256, 512, 768, 1024, 1900, 2048, 4096, 8192, 16384})
      for (const bool is_self : {false, true}) {
        const int64_t max_bytes = std::max(kMaxWorkspaceBytes, 3 * n * d);
        const GradientPlan plan = panel_plan(n, d, is_self, max_bytes);
        CHECK(plan.panel_rows % 128 == 0 && plan.panel_cols % 128 == 0);
        const int64_t panel_bytes = 2 * plan.panel_rows * plan.panel_cols;
        CHECK(panel_bytes <= kMaxPanelBytes);
        CHECK(plan.is_halved == is_self);
        const bool has_sums = plan.panel_cols < n;
        CHECK(plan.num_sums == (is_self ? n : has_sums ? plan.panel_rows : 0) * d);
        CHECK(panel_bytes + 2 * plan.num_sums <= max_bytes);
        const int64_t tiles = n / 128, dims = ceil_div(d, int64_t(128));
        const double time = is_self ? halves_time(tiles, plan.panel_rows / 128, panel_time_of(dims))
                                    : rectangle_time(tiles, tiles, plan.panel_rows / 128,
                                                     plan.panel_cols / 128, panel_time_of(dims));
        // of the products alone, each block one of two on one of 132 multiprocessors
        const double products = (is_self ? 1.5 : 2) * double(tiles * tiles * dims) / 132;
        CHECK(time > products && time < (d >= 512 ? 1.45 : 2) * products);
        // without the memory for all sums, the rectangle
        if (is_self) CHECK(!panel_plan(n, d, true, 2 * n * d).is_halved);
      }
}

/// Vectors that a gradient of positive pairs makes for the rows: squared norms, label ranges,
/// gradients of the log-sum-exps.
double vector_bytes(const Problem& problem) {
  const double real_bytes = problem.number_type == NumberType::kFp64 ? 8 : 4;
  const double rows = double(problem.n + (problem.is_self ? 0 : problem.m));
  const double norms = problem.measure == Measure::kDot ? 0 : rows * real_bytes;
  return norms + rows / 2 + double(problem.n) * real_bytes;
}

/// Of a gradient: 64 MB, or 1.5 times the bytes of the embeddings of a self problem.
double mb_of_gradient(const Problem& problem) {
  const double bytes = double(Stored::size_of(problem.number_type));
  return std::max(64.0, problem.is_self ? 1.5 * double(problem.n * problem.d) * bytes / kMB : 0.0);
}

/// 64 MB; only for so many rows that their vectors alone take most of it, 8 MB beside those.
double mb_at_any_size(const Problem& problem) {
  return std::max(64.0, vector_bytes(problem) / kMB + 8.1);
}

void check_bytes(const char* name, const Problem& problem, size_t bytes, double allowed_mb) {
  const double mb = double(bytes) / kMB;
  ++(mb <= allowed_mb ? num_passed : num_failed);
  if (mb > allowed_mb || std::getenv("FUSEDML_PRINT_WORKSPACES"))
    std::printf("%s %s %s n=%ld m=%ld d=%ld: %.2f MB, allowed %.2f\n", name,
                name_of(problem.number_type), name_of(problem.measure), long(problem.n),
                long(problem.m), long(problem.d), mb, allowed_mb);
}

void check_forward(const Problem& problem, double mb, double mb_of_positive_pairs) {
  check_bytes("statistics", problem, pair_statistics_workspace(problem), mb);
  check_bytes("extrema", problem, pair_extrema_workspace(problem), mb);
  check_bytes("positive_pairs", problem, positive_pair_losses_workspace(problem),
              mb_of_positive_pairs);
}

void check_backward(const Problem& problem) {
  const GradientOutputs outputs = outputs_of(problem);
  check_bytes("gradient", problem, pair_gradient_workspace(problem, outputs),
              mb_of_gradient(problem));
  check_bytes("positive_pair_gradient", problem, positive_pair_gradient_workspace(problem, outputs),
              std::max(mb_of_gradient(problem), mb_at_any_size(problem)));
  GradientOptions frugal;
  frugal.max_workspace_bytes = kMaxWorkspaceBytes;
  check_bytes("gradient in 64 MB", problem, pair_gradient_workspace(problem, outputs, frugal), 64);
  check_bytes("positive_pair_gradient in 64 MB", problem,
              positive_pair_gradient_workspace(problem, outputs, frugal), mb_at_any_size(problem));
}

void check_workspaces(NumberType type, Measure measure) {
  constexpr int64_t kLarge = 65536, kMillion = int64_t(1) << 20, kMost = 3 * kMillion;
  // self problems buy half of the products with a few slots per row; two operands have one
  check_forward(problem_of(type, measure, kLarge, 0, 768), 8, 8);
  const double real_bytes = type == NumberType::kFp64 ? 8 : 4;
  check_forward(problem_of(type, measure, kLarge, kLarge, 768), 0.6 * real_bytes,
                0.625 * real_bytes);
  for (const int64_t n : {kMillion, kMost})
    for (const int64_t m : {int64_t(0), n}) {
      const Problem problem = problem_of(type, measure, n, m, 512);
      check_forward(problem, 64, 64);
      check_backward(problem);
      const bool is_largest = type == NumberType::kFp64 && n == kMost && m == kMost;
      CHECK(mb_at_any_size(problem) == 64 || is_largest);
    }
  for (const int64_t d : {64, 128, 512, 768, 1900, 2048, 4096, 8192, 16384})
    for (const int64_t m : {int64_t(0), int64_t(1000), kLarge})
      check_backward(problem_of(type, measure, kLarge, m, d));
}

/// Both matrices' gradients take turns in the same memory.
void check_two_products(NumberType type) {
  for (const int64_t n : {int64_t(65536), int64_t(1) << 20})
    for (const int64_t d : {64, 768, 4096}) {
      const Problem problem = problem_of(type, Measure::kDot, n, 0, 512);
      const SecondProduct second{nullptr, d};
      Problem wider = problem;
      wider.d = std::max(d, problem.d);
      static char element;
      check_bytes("divergences", problem, row_divergences_workspace(problem, second),
                  n == 65536 ? 8 : 64);
      check_bytes(
          "divergences_gradient", wider,
          row_divergences_gradient_workspace(problem, second, {&element, &element, nullptr}),
          mb_of_gradient(wider));
    }
}

/// Small tiles where large ones would leave half of 132 multiprocessors idle: 66 of them or fewer.
void check_tile_sizes() {
  const auto sweep_bytes = [](int64_t n, TileSize tile_size) {
    const Problem problem = problem_of(kSixteenBit, Measure::kDot, n, 0, 512);
    return pair_statistics_workspace(problem, {0, 0, tile_size});
  };
  for (const int64_t n : {64, 512, 1024, 1025, 4096}) {  // 1025: 81 large tiles
    const TileSize expected = n <= 1024 ? TileSize::kSmall : TileSize::kLarge;
    const TileSize other = n <= 1024 ? TileSize::kLarge : TileSize::kSmall;
    CHECK(sweep_bytes(n, TileSize::kAuto) == sweep_bytes(n, expected));
    // below, both have one slot
    CHECK(n <= 128 || sweep_bytes(n, TileSize::kAuto) != sweep_bytes(n, other));
  }
  GradientTiles tiles = kSixteenBitTiles;
  tiles.small_tile = 64;
  const auto plan_of = [&](int64_t n, int64_t m, int64_t d, TileSize tile_size) {
    GradientOptions options{GradientRoute::kPanel};
    options.tile_size = tile_size;
    return plan_gradient({n, m, d, false, true, true}, tiles, options,
                         {kMaxWorkspaceBytes, kMaxWorkspaceBytes});
  };
  const auto has_tiles = [&](const GradientPlan& plan, int64_t weights, int64_t product) {
    return plan.weights_tile == weights && plan.product_tile == product &&
           plan.num_blocks == plan.panel_rows / weights * (plan.panel_cols / weights);
  };
  CHECK(has_tiles(plan_of(512, 512, 512, TileSize::kAuto), 64, 64));
  CHECK(has_tiles(plan_of(1100, 1100, 512, TileSize::kAuto), 128, 64));
  CHECK(has_tiles(plan_of(1024, 1024, 2048, TileSize::kAuto), 64, 128));
  CHECK(has_tiles(plan_of(2048, 2048, 1024, TileSize::kAuto), 128, 128));
  CHECK(has_tiles(plan_of(512, 512, 512, TileSize::kLarge), 128, 128));
  CHECK(has_tiles(plan_of(2048, 2048, 1024, TileSize::kSmall), 64, 64));
}

/// Beside the vectors in the order of tiles, of 80 of whose 128 columns each there are any at 10 a
/// class, and beside their gradient, an operator takes what it takes of pairs.
void check_groups(NumberType type) {
  Problem problem = problem_of(type, Measure::kSoftMaximum, 65536, 100000, 128);
  problem.group_size = 10;
  const double columns = 100000 / 80 * 128;
  const double vectors = columns * 128 * double(Stored::size_of(type));
  check_bytes("statistics", problem, pair_statistics_workspace(problem),
              64 + (vectors + 8 * columns) / kMB);
  check_bytes("gradient", problem, pair_gradient_workspace(problem, outputs_of(problem)),
              64 + (2 * vectors + 8 * columns) / kMB);
  GradientOutputs without_vectors = outputs_of(problem);
  without_vectors.references = nullptr;
  check_bytes("gradient", problem, pair_gradient_workspace(problem, without_vectors),
              64 + (vectors + 8 * columns) / kMB);
}

/// Few thresholds a row, or as many as the caller's strips of 4 million have at most.
void check_thresholds(NumberType type) {
  for (const int64_t rows : {128, 2048, 65536, 1 << 20})
    for (const ThresholdForm form : {ThresholdForm::kHinge, ThresholdForm::kSigmoid}) {
      const Problem problem = problem_of(type, Measure::kEuclidean, rows, 65536, 64);
      Thresholds thresholds{};
      thresholds.count = (1 << 22) / rows;
      thresholds.terms.form = form;
      // sums of one row of tiles, if they are more than all else, are doubles or floats
      const double sums = type == NumberType::kFp64 ? 101 : 51;
      check_bytes("threshold_sums", problem, threshold_sums_workspace(problem, thresholds),
                  rows == 128 ? sums : 64);
      GradientOutputs outputs = outputs_of(problem);
      outputs.logit = nullptr;
      const auto check_gradient = [&] {
        check_bytes("threshold_gradient", problem,
                    threshold_gradient_workspace(problem, thresholds, outputs), 64);
      };
      check_gradient();
      // further embeddings have norms of their own
      thresholds.others = outputs.anchors;
      check_bytes("threshold_sums", problem, threshold_sums_workspace(problem, thresholds),
                  rows == 128 ? sums : 64);
      check_gradient();
      // a value and a column of each threshold, likewise
      const double pairs = type == NumberType::kFp64 ? 68 : 64;
      check_bytes("threshold_pairs", problem, threshold_pairs_workspace(problem, thresholds.count),
                  rows == 128 ? pairs : 64);
    }
}

void test(std::mt19937&) {
  for (const NumberType type : kNumberTypes) check_thresholds(type);
  for (const NumberType type : kNumberTypes) check_groups(type);
  for (const NumberType type : kNumberTypes) check_two_products(type);
  check_tile_sizes();
  check_sweep_plans();
  check_panel_plans();
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : {Measure::kDot, Measure::kEuclidean})
      check_workspaces(type, measure);
  // more rows than a GPU holds
  const Problem problem = problem_of(kSixteenBit, Measure::kDot, 100 << 20, 0, 64);
  check_bytes("statistics", problem, pair_statistics_workspace(problem), 8.1);
  check_bytes("extrema", problem, pair_extrema_workspace(problem), 8.1);
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
