// Gradients of the row statistics, by both routes, against double loops in float64.
#include "emulated_problem.h"
#include "kernels/gradient_plan.h"
#include "kernels/workspace.h"

namespace fusedml::testing {
namespace {

struct Needs {
  bool anchors = true, references = true, logit = true;
};

/// `scale` of the incoming gradient: a mean over many rows makes it small; and of its last row.
void check_gradient(const Case& c, const GradientOptions& given, const Needs& needs, double scale,
                    std::mt19937& generator, double of_last_row = 1) {
  const GradientOptions options = with_large_tiles(given);
  EmulatedProblem p(c, generator);
  const NumberType real = real_type(c.type);
  const Vector exact = dense_statistics(p.dense).statistics;
  Stored statistics(real, 3 * c.n), grad(real, 3 * c.n);
  std::normal_distribution<double> normal(0, scale);
  Vector exact_grad(3 * c.n);
  for (int64_t i = 0; i < 3 * c.n; ++i) {
    statistics.set(i, exact[i]);
    grad.set(i, normal(generator) * (i % c.n == c.n - 1 ? of_last_row : 1));
    exact_grad[i] = grad.get(i);
  }
  const DenseGradient expected =
      dense_gradient(p.dense, statistics_weights(p.dense, exact, exact_grad));

  Stored anchors_grad(c.type, c.n * c.d), references_grad(c.type, c.m * c.d);
  Buffer<double> logit_grad(4, -1.0);
  const bool has_references = !p.dense.is_self && needs.references;
  const GradientOutputs outputs{needs.anchors ? anchors_grad.data() : nullptr,
                                has_references ? references_grad.data() : nullptr,
                                needs.logit ? static_cast<double*>(logit_grad) : nullptr};
  Buffer<char> workspace(pair_gradient_workspace(p.problem, outputs, options), poison());
  CHECK(pair_gradient(p.problem, statistics.data(), grad.data(), outputs, workspace, nullptr,
                      options) == cudaSuccess);
  const double allowed = gradient_tolerance(c.type);
  const double floor = scale * 1e-3;
  if (needs.anchors)
    expect_close("anchors_grad", c, anchors_grad.values(), expected.anchors, allowed, floor);
  if (has_references)
    expect_close("references_grad", c, references_grad.values(), expected.references, allowed,
                 floor);
  if (needs.logit)
    expect_close("logit_grad", c, Vector(logit_grad.begin(), logit_grad.end()), expected.logit,
                 allowed, floor);
}

/// Panels that are flatter than wide, so that few rows have sums: several in both directions.
void check_flat_panels(NumberType type, Measure measure, std::mt19937& generator) {
  const int64_t n = 133, m = 637, d = 9;
  const GradientOptions options{GradientRoute::kPanel, 4 * 128 * 128 * 2, 1};
  const GradientPlan plan =
      plan_gradient({n, m, d, false, true, true}, {0, 0, 128, 128, 2, 4, 2, 0, 0}, options,
                    {kMaxWorkspaceBytes, kMaxWorkspaceBytes});
  CHECK(plan.panel_rows == 128 && plan.panel_cols == 512 && plan.num_sums == 128 * d);
  check_gradient({type, measure, n, m, d, 4}, options, {}, 1, generator);
}

/// Self problems whose panels lie on and above the diagonal: three rows of them, of which the last
/// is smaller, and an odd number of dimensions.  With the logit's gradient, and without.
void check_halved_panels(NumberType type, Measure measure, std::mt19937& generator) {
  const bool is_fp64 = type == NumberType::kFp64;
  const int64_t tile = is_fp64 ? 64 : 128, n = 2 * tile + 5;
  const int64_t bytes = tile * tile * int64_t(Stored::size_of(type));
  const GradientOptions options{GradientRoute::kPanel, bytes};
  const GradientPlan plan = plan_gradient(
      {n, n, 9, true, true, true}, {0, 0, 128, 128, 2, 4, 2, 0, 0},
      {GradientRoute::kPanel, 128 * 128 * 2}, {kMaxWorkspaceBytes, kMaxWorkspaceBytes});
  CHECK(is_fp64 || (plan.is_halved && plan.panel_rows == 128 && plan.num_sums == n * 9));
  check_gradient({type, measure, n, 0, 9, 12}, options, {}, 1, generator);
  check_gradient({type, measure, n, 0, 72, 90, true, true, true}, options, {true, true, false}, 1,
                 generator);
  // so little memory that the rectangle is left
  GradientOptions rectangle = options;
  rectangle.max_workspace_bytes = 1;
  check_gradient({type, measure, n, 0, 10, 12}, rectangle, {}, 1, generator);
}

/// Sorted labels of many classes: most tiles hold counted negatives only, and have a path of their
/// own; some are of another tile's rows, in either order.
void check_plain_tiles(NumberType type, Measure measure, std::mt19937& generator) {
  const int64_t tile = type == NumberType::kFp64 ? 64 : 128;
  const Needs without_logit{true, true, false};
  for (const GradientRoute route : {GradientRoute::kRows, GradientRoute::kPanel}) {
    check_gradient({type, measure, 2 * tile + 3, 0, 40, 120, true}, {route}, without_logit, 1,
                   generator);
    check_gradient({type, measure, tile, 2 * tile, 20, 150, true}, {route}, without_logit, 1,
                   generator);
  }
}

/// Labels that are sets: of one word, whose sign counts, and of more than a tile holds.
void check_sets(NumberType type, Measure measure, std::mt19937& generator) {
  for (const int words : {1, 3})
    for (const GradientRoute route : {GradientRoute::kRows, GradientRoute::kPanel}) {
      Case c{type, measure, 67, 0, 20, 4};
      c.set_words = words;
      check_gradient(c, {route}, {}, 1, generator);
      c.n = 70;
      c.m = 133;
      c.mined = c.has_extent = words == 3;
      check_gradient(c, {route}, {}, 1, generator);
    }
}

/// Rows that are among the columns, from the last tile on and again from the first: the references'
/// gradient takes the sides exchanged.
void check_own_columns(NumberType type, Measure measure, std::mt19937& generator) {
  for (const GradientRoute route : {GradientRoute::kRows, GradientRoute::kPanel}) {
    Case c{type, measure, 67, 140, 20, 4};
    c.self_offset = 100;
    check_gradient(c, {route}, {}, 1, generator);
    c = {type, measure, 128, 256, 20, 150, true};
    c.self_offset = 200;
    check_gradient(c, {route}, {true, true, false}, 1, generator);
  }
}

/// Log-sum-exps of the lines of a tile too far from each other for a common exponential, of some of
/// its warps or of all.  Logits that steep amplify what the products of fp32 and tf32 are rounded
/// by.
void check_far_lines(NumberType type, std::mt19937& generator) {
  if (type == NumberType::kFp32 || type == NumberType::kTf32) return;
  const int64_t tile = type == NumberType::kFp64 ? 64 : 128;
  for (const double scale : {60, 300}) {
    Case self{type, Measure::kDot, 2 * tile, 0, 4, 200, true};
    Case two{type, Measure::kDot, tile, 2 * tile, 4, 200, true};
    self.scale_of_negatives = two.scale_of_negatives = scale;
    for (const GradientRoute route : {GradientRoute::kRows, GradientRoute::kPanel}) {
      check_gradient(self, {route}, {true, true, false}, 1, generator);
      check_gradient(two, {route}, {true, true, false}, 1, generator);
    }
  }
}

GradientOptions small_tiles(int64_t max_panel_bytes = 0) {
  GradientOptions options{GradientRoute::kPanel, max_panel_bytes};
  options.tile_size = TileSize::kSmall;
  return options;
}

/// Around the small tiles of 64 x 64 weights, and of 64 dimensions: one panel, several that add up,
/// and those on and above the diagonal; tiles without positives, and more than one of dimensions,
/// in which no two of the rows are so near that their distance cancels in TF32.
void check_small_tiles(NumberType type, Measure measure, std::mt19937& generator) {
  if (type == NumberType::kFp64) return;  // which has no others
  const GradientOptions small = small_tiles();
  check_gradient({type, measure, 63, 0, 33, 3}, small, {}, 1, generator);
  check_gradient({type, measure, 130, 65, 19, 9, true, true, true}, small, {}, 1e-5, generator);
  if (emulation::config.seed != 0) return;
  const GradientOptions small_panels = small_tiles(128 * 128 * int64_t(Stored::size_of(type)));
  check_gradient({type, measure, 1, 0, 3, 2}, small, {}, 1, generator);
  check_gradient({type, measure, 64, 200, 130, 150, true}, small_panels, {true, true, false}, 1,
                 generator);
  check_gradient({type, measure, 40, 300, 20, 3}, small_panels, {}, 1, generator);
  const NoBankConflicts no_bank_conflicts;
  check_gradient({type, measure, 261, 0, 24, 12}, small_panels, {}, 1, generator);
}

/// So many rows that several blocks look for the scale of fp16's weights, and the last one finds
/// it.
void check_weight_scale(std::mt19937& generator) {
  check_gradient({NumberType::kFp16, Measure::kDot, 2850, 1, 4, 3}, {GradientRoute::kPanel},
                 {true, false, false}, 1e-5, generator, 1e7);
}

void check_bank_conflicts(std::mt19937& generator) {
  const NoBankConflicts no_bank_conflicts;
  for (const NumberType type : {kSixteenBit, NumberType::kFp32, NumberType::kFp64})
    for (const GradientRoute route : {GradientRoute::kRows, GradientRoute::kPanel})
      check_gradient({type, Measure::kDot, 130, 0, 72, 9}, {route}, {}, 1, generator);
}

void test(std::mt19937& generator) {
  if (!kIsSanitized) check_bank_conflicts(generator);  // the emulator counts them, in any build
  const bool is_first_seed = emulation::config.seed == 0;
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kMeasures)
      for (const GradientRoute route : {GradientRoute::kRows, GradientRoute::kPanel}) {
        if (!is_tested(type, measure)) continue;
        // a panel of one tile, so that several panels add up
        const int64_t panel_bytes = type == NumberType::kFp64 ? 64 * 64 * 8 : 128 * 128 * 4;
        const GradientOptions options{route, panel_bytes};
        check_gradient({type, measure, 67, 0, 33, 3}, options, {}, 1, generator);
        check_gradient({type, measure, 130, 129, 7, 9, true, true, true}, options, {}, 1e-5,
                       generator);
        if (!is_first_seed) continue;
        check_gradient({type, measure, 1, 0, 3, 2}, options, {}, 1, generator);
        check_gradient({type, measure, 5, 70, 72, 4, false, true}, options, {}, 1, generator);
        check_gradient({type, measure, 129, 0, 16, 4, true, true, true}, options, {}, 1, generator);
        check_gradient({type, measure, 4, 0, 8, 1, false, false, false, true}, options, {}, 1,
                       generator);
        check_gradient({type, measure, 20, 30, 4, 3}, options, {true, false, false}, 1, generator);
        check_gradient({type, measure, 20, 30, 4, 3}, options, {false, true, true}, 1, generator);
        check_gradient({type, measure, 20, 30, 4, 3}, options, {false, false, true}, 1, generator);
        if (measure == Measure::kDot)
          check_gradient({type, measure, 40, 600, 20, 3}, options, {}, 1, generator);
      }
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kMeasures)
      if (is_tested(type, measure)) check_small_tiles(type, measure, generator);
  if (!is_first_seed) return;
  check_weight_scale(generator);
  check_flat_panels(kSixteenBit, Measure::kEuclidean, generator);
  if (!kIsSanitized)  // the values are what they are about
    for (const NumberType type : {kSixteenBit, NumberType::kFp64}) check_far_lines(type, generator);
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kMeasures) {
      if (is_in_turn(type, measure, 0)) check_plain_tiles(type, measure, generator);
      if (is_in_turn(type, measure, 1)) check_sets(type, measure, generator);
      if (is_in_turn(type, measure, 1)) check_halved_panels(type, measure, generator);
    }
  check_gradient({kSixteenBit, Measure::kDot, 140, 0, 200, 5}, {}, {}, 1, generator);
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kMeasures)
      if (is_in_turn(type, measure, 0)) check_own_columns(type, measure, generator);
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
