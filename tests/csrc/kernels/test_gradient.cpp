// Gradients of the row statistics, by both routes, against double loops in float64.
#include "emulated_problem.h"
#include "kernels/gradient_plan.h"
#include "kernels/workspace.h"

namespace fusedml::testing {
namespace {

struct Needs {
  bool anchors = true, references = true, logit = true;
};

/// `scale` of the incoming gradient: a mean over many rows makes it small.
void check_gradient(const Case& c, const GradientOptions& options, const Needs& needs, double scale,
                    std::mt19937& generator) {
  EmulatedProblem p(c, generator);
  const NumberType real = real_type(c.type);
  const Vector exact = dense_statistics(p.dense).statistics;
  Stored statistics(real, 3 * c.n), grad(real, 3 * c.n);
  std::normal_distribution<double> normal(0, scale);
  Vector exact_grad(3 * c.n);
  for (int64_t i = 0; i < 3 * c.n; ++i) {
    statistics.set(i, exact[i]);
    grad.set(i, normal(generator));
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
  const bool is_fp64 = type == NumberType::kFp64;
  const int64_t tile = is_fp64 ? 64 : 128, element_bytes = is_fp64 ? 8 : 4, n = tile + 5;
  const int64_t m = 5 * tile - 3, d = 9;
  const GradientOptions options{GradientRoute::kPanel, 4 * tile * tile * element_bytes, 1};
  const GradientTiles tiles{0, 0, tile, element_bytes, element_bytes};
  const GradientPlan plan = plan_gradient(n, m, d, tiles, options, true, kMaxWorkspaceBytes);
  CHECK(plan.panel_rows == tile && plan.panel_cols == 4 * tile && plan.num_sums == tile * d);
  check_gradient({type, measure, n, m, d, 4}, options, {}, 1, generator);
}

void check_bank_conflicts(std::mt19937& generator) {
  const NoBankConflicts no_bank_conflicts;
  for (const NumberType type : {kSixteenBit, NumberType::kFp32, NumberType::kFp64})
    for (const GradientRoute route : {GradientRoute::kRows, GradientRoute::kPanel})
      check_gradient({type, Measure::kDot, 130, 0, 72, 9}, {route}, {}, 1, generator);
}

void test(std::mt19937& generator) {
  check_bank_conflicts(generator);
  const bool is_first_seed = emulation::config.seed == 0;
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kMeasures)
      for (const GradientRoute route : {GradientRoute::kRows, GradientRoute::kPanel}) {
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
  if (!is_first_seed) return;
  for (const NumberType type : kNumberTypes)
    check_flat_panels(type, Measure::kEuclidean, generator);
  check_gradient({kSixteenBit, Measure::kDot, 140, 0, 200, 5}, {}, {}, 1, generator);
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
