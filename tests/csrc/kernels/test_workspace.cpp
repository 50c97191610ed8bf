// The memory that the operators ask for, at the sizes of the design's goals: it is what the binding
// allocates, so it bounds the extra memory of a step.  And that the sweeps' plans are sound.
#include <map>
#include <set>

#include "emulated_problem.h"
#include "kernels/sweep_plan.h"

namespace fusedml::testing {
namespace {

constexpr size_t kMiB = size_t(1) << 20;

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

/// Every pair of tiles is visited once; in a launch each slot of a row has one writer; the first
/// launch writes all of them, and later ones add.
void check_plan(const SweepPlan& plan) {
  const bool is_symmetric = plan.shifts_per_launch > 0;
  std::map<std::pair<int, int>, int> visits;
  std::set<std::pair<int, int>> written;  // (slot, tile of rows)
  for (int index = 0; index < plan.num_launches(); ++index) {
    const SweepPlan launch = plan.launch(index);
    std::set<std::pair<int, int>> writers;
    const auto writes = [&](int slot, int tile) {
      CHECK(slot < plan.num_slots && writers.insert({slot, tile}).second);
      CHECK((index == 0) == written.insert({slot, tile}).second);
    };
    for (int block = 0; block < launch.num_blocks(); ++block) {
      const auto share = launch.share(block);
      CHECK(share.slots.has_columns == is_symmetric && share.slots.adds == (index > 0));
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

void check_plans() {
  for (const int64_t tiles : {1, 2, 3, 6, 17, 20, 64, 65, 100})
    for (const int64_t max_slot_bytes : {int64_t(1), tiles * 128 * 28 * 5, int64_t(0)})
      for (const int64_t grid_blocks : {1, 7, 40, 0})
        check_plan(plan_self(tiles * 128, tiles, 28, {max_slot_bytes, grid_blocks}));
  // half of the products at every large size, in full launches
  for (const int64_t tiles : {128, 512, 2048, 8192}) {
    const SweepPlan plan = plan_self(tiles * 128, tiles, 28, {});
    CHECK(plan.shifts_per_launch > 0);
    const double ideal = 1.1 * double(tiles) * double(tiles + 1) / 2 / kFullGridBlocks;
    CHECK(sweep_time(plan, kFullGridBlocks) < 1.35 * ideal);
  }
}

void test(std::mt19937&) {
  check_plans();
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : {Measure::kDot, Measure::kEuclidean}) {
      // two operands: one slot of partial results per row
      const Problem pair = problem_of(type, measure, 65536, 65536, 768);
      const size_t real_bytes = type == NumberType::kFp64 ? 8 : 4;
      CHECK(pair_statistics_workspace(pair) <= real_bytes * kMiB / 2 + kMiB / 2);
      // self problems buy half the products with a few slots per row
      CHECK(pair_statistics_workspace(problem_of(type, measure, 65536, 0, 768)) <=
            8 * kMiB + real_bytes * kMiB / 16);
      CHECK(pair_statistics_workspace(problem_of(type, measure, 1 << 20, 0, 512)) <= 64 * kMiB);
      for (const int64_t d : {128, 512, 768})
        for (const int64_t m : {0, 65536}) {
          const Problem problem = problem_of(type, measure, 65536, m, d);
          CHECK(pair_gradient_workspace(problem, outputs_of(problem)) <= 64 * kMiB);
        }
      const Problem large = problem_of(type, measure, 1 << 20, 0, 512);
      CHECK(pair_gradient_workspace(large, outputs_of(large)) <= 64 * kMiB);
    }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
