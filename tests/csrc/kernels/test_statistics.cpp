// Row statistics, extrema and row losses of the emulated kernels against double loops in float64.
#include "emulated_problem.h"
#include "kernels/sweep_plan.h"
#include "kernels/workspace.h"

namespace fusedml::testing {
namespace {

/// scale: of the negatives' logits, or 0 for the usual one.
void check_statistics(const Case& c, std::mt19937& generator, const SweepOptions& given = {},
                      double scale = 0) {
  const SweepOptions options = with_large_tiles(given);
  EmulatedProblem p(c, generator);
  if (scale != 0) p.problem.logit[2] = p.dense.logit[2] = scale;
  const DenseStatistics expected = dense_statistics(p.dense);
  const NumberType real = real_type(c.type);
  Stored statistics(real, 3 * c.n), losses(real, c.n), partials(real, 3 * c.n);
  Buffer<int64_t> counts(2 * c.n, -1);
  Buffer<char> workspace(pair_statistics_workspace(p.problem, options), poison());
  const RowHead head{RowHeadKind::kSoftplusSum, nullptr, {2, 10}};
  CHECK(pair_statistics(p.problem, head,
                        {statistics.data(), counts, losses.data(), partials.data()}, workspace,
                        nullptr, options) == cudaSuccess);
  const double allowed = tolerance(c.type);
  expect_close("statistics", c, statistics.values(), expected.statistics, allowed);
  expect_close("counts", c, Vector(counts.begin(), counts.end()), expected.counts, 0);

  Vector expected_losses(c.n), expected_partials(3 * c.n);
  for (int64_t i = 0; i < c.n; ++i) {
    const double positive = expected.statistics[i], negative = expected.statistics[c.n + i];
    expected_losses[i] = softplus(positive) / 2 + softplus(negative) / 10;
    expected_partials[i] = sigmoid(positive) / 2;
    expected_partials[c.n + i] = sigmoid(negative) / 10;
  }
  expect_close("losses", c, losses.values(), expected_losses, allowed);
  expect_close("partials", c, partials.values(), expected_partials, allowed);
}

void check_extrema(const Case& c, std::mt19937& generator, const SweepOptions& given = {}) {
  const SweepOptions options = with_large_tiles(given);
  EmulatedProblem p(c, generator);
  Stored extrema(real_type(c.type), 2 * c.n);
  Buffer<char> workspace(pair_extrema_workspace(p.problem, options), poison());
  p.problem.thresholds = nullptr;  // the extrema are what a mining rule is made from
  CHECK(pair_extrema(p.problem, extrema.data(), workspace, nullptr, options) == cudaSuccess);
  expect_close("extrema", c, extrema.values(), dense_statistics(p.dense).extrema,
               tolerance(c.type));
}

/// Sorted labels: most warps see no positive pair.  The scales leave all exponentials near 1, some
/// of them, or none; then the maxima are needed.
void check_plain_parts(NumberType type, Measure measure, TileSize tile_size,
                       std::mt19937& generator) {
  for (const double scale : {10.0, -35.0, 400.0}) {
    check_statistics({type, measure, 130, 260, 5, 40, true}, generator, {0, 0, tile_size}, scale);
    // by the symmetric schedule: an upper triangle of tiles
    check_statistics({type, measure, 384, 0, 5, 90, true}, generator, {0, 1, tile_size}, scale);
  }
}

/// A learnt temperature, whose logit only the device knows, takes the same path: the same bits.
void check_device_logit(NumberType type, std::mt19937& generator) {
  EmulatedProblem p({type, Measure::kDot, 130, 260, 5, 40, true}, generator);
  Buffer<double> logit(4);
  std::copy(p.problem.logit, p.problem.logit + 4, logit.begin());
  Vector found[2];
  for (const bool is_on_device : {false, true}) {
    if (is_on_device) {
      p.problem.device_logit = logit;
      std::fill(p.problem.logit, p.problem.logit + 4, std::nan(""));
    }
    Stored statistics(real_type(type), 3 * 130);
    Buffer<char> workspace(pair_statistics_workspace(p.problem), poison());
    CHECK(pair_statistics(p.problem, {}, {statistics.data(), nullptr, nullptr, nullptr}, workspace,
                          nullptr) == cudaSuccess);
    found[is_on_device] = statistics.values();
  }
  CHECK(!std::isnan(found[0][0]) && found[0] == found[1]);
}

/// A NaN or an infinity in an anchor spoils its row; in a reference, every row.
void check_not_finite(Case c, TileSize tile_size, std::mt19937& generator) {
  const NumberType type = c.type;
  for (const double bad : {std::nan(""), kInfinity, -kInfinity}) {
    EmulatedProblem p(c, generator);
    const int64_t bad_row = 66;
    p.anchors.set(bad_row * c.d + 2, bad);
    Stored statistics(real_type(type), 3 * c.n);
    const SweepOptions options{0, 0, tile_size};
    Buffer<char> workspace(pair_statistics_workspace(p.problem, options), poison());
    const auto run = [&] {
      pair_statistics(p.problem, {}, {statistics.data(), nullptr, nullptr, nullptr}, workspace,
                      nullptr, options);
    };
    run();
    for (int64_t i = 0; i < c.n; ++i)
      for (int64_t k = 0; k < 3; ++k)
        CHECK(std::isnan(statistics.get(k * c.n + i)) == (i == bad_row));
    p.references.set(13 * c.d, bad);
    run();
    for (int64_t i = 0; i < c.n; ++i)
      for (int64_t k = 0; k < 3; ++k) CHECK(std::isnan(statistics.get(k * c.n + i)));
  }
}

/// The symmetric schedule of self problems: three groups of two tiles, in one launch and, with the
/// least number of slots, in two; on a GPU of four blocks, or n would have to be in the thousands.
void check_symmetric(std::mt19937& generator) {
  for (const int64_t max_slot_bytes : {0, 1}) {
    const SweepOptions options{max_slot_bytes, 4};
    const SweepPlan plan = plan_self({650, 650, 128, 128, 28}, options, kMaxWorkspaceBytes);
    CHECK(plan.rows_per_group == 2 && plan.num_groups == 3 &&
          plan.num_launches() == max_slot_bytes + 1);
    check_statistics({kSixteenBit, Measure::kDot, 650, 0, 5, 90}, generator, options);
    check_statistics({NumberType::kFp32, Measure::kEuclidean, 650, 0, 4, 9, true, true, true},
                     generator, options);
    check_statistics({NumberType::kFp64, Measure::kEuclidean, 330, 0, 4, 9, true, true}, generator,
                     options);
    check_extrema({NumberType::kFp64, Measure::kDot, 330, 0, 4, 9, false, false, true}, generator,
                  options);
  }
}

/// Rectangles whose slots suffice for one tile of rows: launches of rows that are finished before
/// the next begins, in slots that are used again.  With the extent, the last has no active row.
void check_launches_of_rows(NumberType type, Measure measure, std::mt19937& generator) {
  const SweepOptions options{1, 0};
  const SweepPlan plan = plan_rectangle({260, 270, 128, 128, 28}, options);
  CHECK(plan.num_launches() == 3 && plan.num_slots == 3);
  const Case c{type, measure, 260, 270, 5, 20, false, true, true};
  check_statistics(c, generator, options);
  check_extrema(c, generator, options);
  check_statistics({type, measure, 131, 0, 7, 9}, generator, options);
}

/// Around the small tiles of 64 x 64 pairs: by the rectangle, whose launches take one tile of rows
/// each, and by the symmetric schedule, three groups of two tiles.
void check_small_tiles(NumberType type, Measure measure, std::mt19937& generator) {
  if (type == NumberType::kFp64) return;  // which has no others
  const SweepOptions small{0, 0, TileSize::kSmall}, few_slots{1, 0, TileSize::kSmall};
  const Case cases[] = {{type, measure, 1, 0, 3, 2},
                        {type, measure, 63, 65, 20, 9, false, true, true},
                        {type, measure, 64, 0, 33, 4, true, true}};
  for (const Case& c : cases) {
    check_statistics(c, generator, small);
    check_extrema(c, generator, small);
  }
  if (emulation::config.seed != 0) return;
  check_statistics({type, measure, 131, 70, 7, 9, false, true, true}, generator, few_slots);
  check_extrema({type, measure, 131, 0, 7, 9}, generator, few_slots);
  check_statistics({type, measure, 330, 0, 4, 9, true, true, true}, generator,
                   {1, 4, TileSize::kSmall});
  if (is_in_turn(type, measure, 1)) check_plain_parts(type, measure, TileSize::kSmall, generator);
}

/// Labels that are sets: of one word, whose sign counts, and of more than a tile holds.
void check_sets(NumberType type, Measure measure, std::mt19937& generator) {
  for (const int words : {1, 3}) {
    Case c{type, measure, 130, 67, 5, 4};
    c.set_words = words;
    check_statistics(c, generator);
    check_extrema(c, generator);
    c.n = 131;
    c.m = 0;
    c.mined = c.has_extent = true;
    check_statistics(c, generator, {0, 1});
    check_extrema(c, generator, {0, 0, TileSize::kSmall});
  }
  // ordered by their words, and yet any may meet
  Case c{type, measure, 128, 128, 5, 8, true};
  c.set_words = 1;
  check_statistics(c, generator, {0, 0, TileSize::kSmall});
}

/// Rows that are among the columns: in one tile from its middle on and again from its first column,
/// and in several from the last on.
void check_own_columns(NumberType type, Measure measure, std::mt19937& generator) {
  Case c{type, measure, 40, 50, 5, 4};
  c.self_offset = 30;
  check_statistics(c, generator);
  c = {type, measure, 130, 300, 20, 90, true};
  c.self_offset = 200;
  check_statistics(c, generator);
  c.self_offset = 299;
  c.mined = true;
  check_statistics(c, generator, {0, 0, TileSize::kSmall});
  check_extrema(c, generator);
}

void check_bank_conflicts(std::mt19937& generator) {
  const NoBankConflicts no_bank_conflicts;
  for (const NumberType type : {kSixteenBit, NumberType::kFp32, NumberType::kFp64})
    for (const TileSize tile_size : {TileSize::kLarge, TileSize::kSmall})
      check_statistics({type, Measure::kDot, 130, 0, 72, 9}, generator, {0, 0, tile_size});
}

void test(std::mt19937& generator) {
  check_bank_conflicts(generator);
  const bool is_first_seed = emulation::config.seed == 0;
  if (is_first_seed) check_symmetric(generator);
  for (const NumberType type : kNumberTypes) {
    for (const Measure measure : kMeasures) {
      if (!is_tested(type, measure)) continue;
      // around the tile of 128 x 128 pairs and the slice of 64, 32 or 16 dimensions
      std::vector<Case> cases = {{type, measure, 1, 0, 3, 2},
                                 {type, measure, 37, 5, 33, 3},
                                 {type, measure, 129, 0, 16, 4, true, true},
                                 {type, measure, 130, 127, 20, 9, false, true, true}};
      for (const Case& c : cases) {
        check_statistics(c, generator);
        check_extrema(c, generator);
      }
      check_small_tiles(type, measure, generator);
      if (!is_first_seed) continue;
      check_statistics({type, measure, 5, 0, 8, 1, false, false, false, true}, generator);
      check_statistics({type, measure, 260, 0, 7, 30, true, false, true}, generator);
      check_statistics({type, measure, 3, 400, 130, 50}, generator);
      if (is_in_turn(type, measure, 0))
        check_plain_parts(type, measure, TileSize::kLarge, generator);
      if (is_in_turn(type, measure, 1)) check_sets(type, measure, generator);
    }
    for (const TileSize tile_size : {TileSize::kLarge, TileSize::kSmall}) {
      if (kIsSanitized) break;  // the values are what it is about
      check_not_finite({type, Measure::kDot, 70, 40, 5, 3}, tile_size, generator);
      if (is_first_seed)
        check_not_finite({type, Measure::kDot, 130, 260, 5, 40, true}, tile_size, generator);
    }
    if (is_first_seed) check_device_logit(type, generator);
    if (is_first_seed) check_launches_of_rows(type, Measure::kEuclidean, generator);
  }
  if (!is_first_seed) return;
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kMeasures)
      if (is_in_turn(type, measure, 0)) check_own_columns(type, measure, generator);
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
