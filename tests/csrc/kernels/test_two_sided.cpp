// Statistics of the rows and of the columns of two operands, and their gradient, against double
// loops in float64.
#include "emulated_problem.h"
#include "kernels/sweep_plan.h"
#include "kernels/workspace.h"

namespace fusedml::testing {
namespace {

/// The same pairs seen from the references.
DenseProblem turned(const DenseProblem& p) {
  DenseProblem result = p;
  std::swap(result.n, result.m);
  std::swap(result.active_rows, result.active_cols);
  std::swap(result.anchors, result.references);
  std::swap(result.anchor_labels, result.reference_labels);
  return result;
}

/// of_rows [k, n] and of_columns [k, m] as [k, n + m].
Vector joined(const Vector& of_rows, const Vector& of_columns, int64_t n, int64_t m) {
  Vector result;
  for (size_t k = 0; k < of_rows.size() / size_t(n); ++k) {
    result.insert(result.end(), of_rows.begin() + k * n, of_rows.begin() + (k + 1) * n);
    result.insert(result.end(), of_columns.begin() + k * m, of_columns.begin() + (k + 1) * m);
  }
  return result;
}

void check_gradient(EmulatedProblem& p, const Vector& exact, std::mt19937& generator) {
  const Case& c = p.test;
  const int64_t lines = c.n + c.m;
  const NumberType real = real_type(c.type);
  Stored statistics(real, 3 * lines), grad(real, 3 * lines);
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < 3 * lines; ++i) {
    statistics.set(i, exact[i]);
    grad.set(i, std::isfinite(exact[i]) ? normal(generator) : 0.0);
  }
  const DenseGradient expected = dense_gradient(p.dense, [&](int64_t i, int64_t j) {
    const double z = p.dense.z(i, j);
    double d_z = 0;
    for (const int64_t line : {i, c.n + j}) {
      if (p.dense.is_positive(i, j)) {
        d_z += grad.get(line) * std::exp(z - exact[line]) + grad.get(2 * lines + line);
      } else {
        d_z += grad.get(lines + line) * std::exp(z - exact[lines + line]);
      }
    }
    return d_z;
  });
  for (const GradientRoute route : {GradientRoute::kRows, GradientRoute::kPanel}) {
    Stored anchors_grad(c.type, c.n * c.d), references_grad(c.type, c.m * c.d);
    Buffer<double> logit_grad(4, -1.0);
    const GradientOutputs outputs{anchors_grad.data(), references_grad.data(), logit_grad};
    const GradientOptions options =
        with_large_tiles(GradientOptions{route, 128 * 128 * int64_t(Stored::size_of(c.type))});
    Buffer<char> workspace(two_sided_gradient_workspace(p.problem, outputs, options), poison());
    CHECK(two_sided_gradient(p.problem, statistics.data(), grad.data(), outputs, workspace, nullptr,
                             options) == cudaSuccess);
    const double allowed = gradient_tolerance(c.type);
    expect_close("anchors_grad", c, anchors_grad.values(), expected.anchors, allowed, 1e-3);
    expect_close("references_grad", c, references_grad.values(), expected.references, allowed,
                 1e-3);
    expect_close("logit_grad", c, Vector(logit_grad.begin(), logit_grad.end()), expected.logit,
                 allowed, 1e-3);
  }
}

void check_two_sided(const Case& c, std::mt19937& generator, const SweepOptions& given = {}) {
  const SweepOptions options = with_large_tiles(given);
  EmulatedProblem p(c, generator);
  const int64_t lines = c.n + c.m;
  const DenseStatistics of_rows = dense_statistics(p.dense),
                        of_columns = dense_statistics(turned(p.dense));
  const Vector exact = joined(of_rows.statistics, of_columns.statistics, c.n, c.m);
  Stored statistics(real_type(c.type), 3 * lines);
  Buffer<int64_t> counts(2 * lines, -1);
  Buffer<char> workspace(two_sided_statistics_workspace(p.problem, options), poison());
  CHECK(two_sided_statistics(p.problem, {statistics.data(), counts, nullptr, nullptr}, workspace,
                             nullptr, options) == cudaSuccess);
  expect_close("statistics", c, statistics.values(), exact, tolerance(c.type));
  expect_close("counts", c, Vector(counts.begin(), counts.end()),
               joined(of_rows.counts, of_columns.counts, c.n, c.m), 0);
  check_gradient(p, exact, generator);
}

/// Each pair of tiles is visited once, and within a launch each slot of a line has one writer.
void check_plans() {
  for (const auto& [rows, cols, slot_bytes] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 0},
                                               {700, 700, 0},
                                               {3000, 4500, 0},
                                               {20000, 20000, 0},
                                               {65536, 65536, 0}}) {
    const SweepSize size{rows, cols, 128, 128, 28};
    const SweepPlan plan = plan_both_sides(size, {slot_bytes, 0}, kMaxWorkspaceBytes);
    CHECK(plan.has_two_operands);
    if (!plan.has_two_operands) continue;
    std::vector<int> visits(size.row_tiles() * size.col_tiles());
    for (int index = 0; index < plan.num_launches(); ++index) {
      const SweepPlan launched = plan.launch(index);
      std::vector<int> row_writers(plan.num_slots * size.row_tiles()),
          col_writers(plan.num_slots * size.col_tiles());
      for (int block = 0; block < launched.num_blocks(); ++block) {
        const auto [tiles, slots] = launched.share(block);
        CHECK(slots.has_columns && !tiles.upper_triangle && slots.adds == (index > 0));
        CHECK(slots.of_rows < plan.num_slots / 2 && slots.of_cols >= plan.num_slots / 2);
        for (int row = tiles.row_begin; row < tiles.row_end; ++row)
          ++row_writers[slots.of_rows * size.row_tiles() + row];
        for (int col = tiles.col_begin; col < tiles.col_end; ++col)
          ++col_writers[slots.of_cols * size.col_tiles() + col];
        for (int row = tiles.row_begin; row < tiles.row_end; ++row)
          for (int col = tiles.col_begin; col < tiles.col_end; ++col)
            ++visits[row * size.col_tiles() + col];
      }
      for (const int writers : row_writers) CHECK(writers <= 1);
      for (const int writers : col_writers) CHECK(writers <= 1);
      if (index > 0) continue;  // every slot has been written by the first launch
      for (size_t i = 0; i < row_writers.size() / 2; ++i) CHECK(row_writers[i] == 1);
      for (size_t i = col_writers.size() / 2; i < col_writers.size(); ++i)
        CHECK(col_writers[i] == 1);
    }
    for (const int count : visits) CHECK(count == 1);
  }
  // a row against very many columns: as two rectangles
  CHECK(!plan_both_sides({100, 1000000, 128, 128, 28}, {}, kMaxWorkspaceBytes).has_two_operands);
}

void test(std::mt19937& generator) {
  check_plans();
  const bool is_first_seed = emulation::config.seed == 0;
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : {Measure::kDot, Measure::kEuclidean}) {
      if (!is_tested(type, measure) || (!is_first_seed && measure != Measure::kDot)) continue;
      // in 20 dimensions no two rows are so near that their distance cancels in TF32; several
      // groups in several launches, on a GPU of four blocks
      check_two_sided({type, measure, 260, 300, 20, 90, true}, generator, {1, 4});
      if (!is_first_seed) continue;
      check_two_sided({type, measure, 1, 1, 3, 1}, generator);
      check_two_sided({type, measure, 37, 129, 33, 9, true, false, true}, generator);
      check_two_sided({type, measure, 70, 140, 20, 9}, generator, {0, 4, TileSize::kSmall});
      // each side in a sweep of its own
      check_two_sided({type, measure, 3, 700, 20, 9}, generator, {0, 1});
    }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
