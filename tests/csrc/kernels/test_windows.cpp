// The pairs of each row in a window of its own, counted and listed, against double loops.
#include "emulated_problem.h"

namespace fusedml::testing {
namespace {

constexpr int64_t kUnit = PairWindows::kUnit;

/// Embeddings, bounds and shifts are quarters: sums are exact in every number type, and measures
/// lie on the bounds, which belong to the windows.
struct WindowProblem {
  EmulatedProblem p;
  Stored values;
  PairWindows windows;

  WindowProblem(const Case& c, int64_t width, std::mt19937& generator)
      : p(c, generator), values(real_type(c.type), 6 * c.n), windows{values.data(), width} {
    quarters(p.anchors, p.dense.anchors, p.dense.active_rows * c.d, generator);
    if (p.dense.is_self) p.dense.references = p.dense.anchors;
    quarters(p.references, p.dense.references, p.dense.is_self ? 0 : p.dense.active_cols * c.d,
             generator);
    const double middle = c.measure == Measure::kDot ? 0 : 1.25;
    for (int64_t k = 0; k < 6; ++k)
      for (int64_t i = 0; i < c.n; ++i) {
        const double number = double(generator() % 8) / 16;
        const double low = generator() % 4 == 0 ? -kInfinity : middle - number;
        const double high = generator() % 4 == 0 ? kInfinity : middle + number;
        values.set(k * c.n + i, k % 3 == 2 ? number - 0.25 : k % 3 == 1 ? high : low);
      }
    // no pair, nothing comparable
    values.set(0, kInfinity);
    values.set(4 * c.n, std::nan(""));
  }

  static void quarters(Stored& stored, Vector& values, int64_t count, std::mt19937& generator) {
    for (int64_t e = 0; e < count; ++e) stored.set(e, values[e] = (int(generator() % 5) - 2) / 4.0);
  }

  struct Result {
    Vector counts, rows, columns, measures;
  };

  bool is_within(int64_t i, int64_t kind, double x) {
    const int64_t n = p.dense.n, first = 3 * kind * n + i;
    const double y = x + values.get(first + 2 * n);
    return y >= values.get(first) && y <= values.get(first + n);
  }
  Result exact() {
    const int64_t n = p.dense.n, m = p.dense.m, splits = windows.num_splits(p.problem);
    Result r;
    r.counts.assign(2 * n * splits, 0);
    for (int64_t kind = 0; kind < 2; ++kind)
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < m; ++j) {
          if (!p.dense.exists(i, j) || p.dense.is_positive(i, j) != (kind == 0)) continue;
          const double x = p.dense.x(i, j);
          if (!is_within(i, kind, x)) continue;
          ++r.counts[(kind * n + i) * splits + j / windows.width];
          r.rows.push_back(double(i));
          r.columns.push_back(double(j));
          r.measures.push_back(x);
        }
    return r;
  }

  Result found(bool is_measured) {
    const int64_t n = p.test.n, splits = windows.num_splits(p.problem);
    Buffer<int64_t> counts(2 * n * splits, -7), ends(2 * n * splits);
    Buffer<char> workspace(window_counts_workspace(p.problem), poison());
    CHECK(window_counts(p.problem, windows, counts, workspace, nullptr) == cudaSuccess);
    int64_t size = 0;
    for (size_t k = 0; k < counts.size(); ++k) ends[k] = size += counts[k];
    return listed(Vector(counts.begin(), counts.end()), ends, size, is_measured);
  }

  /// The list as far as `size`, behind which nothing may be written.
  Result listed(const Vector& counts, Buffer<int64_t>& ends, int64_t size, bool is_measured) {
    Buffer<int64_t> rows(size, -7), columns(size, -7);
    Stored measures(real_type(p.test.type), is_measured ? size : 0);
    Buffer<char> workspace(window_pairs_workspace(p.problem), poison());
    const WindowList list{ends, size, rows, columns, is_measured ? measures.data() : nullptr};
    CHECK(window_pairs(p.problem, windows, list, workspace, nullptr) == cudaSuccess);
    return {counts, Vector(rows.begin(), rows.end()), Vector(columns.begin(), columns.end()),
            measures.values()};
  }
};

void check_windows(const Case& c, int64_t width, std::mt19937& generator, bool is_measured = true) {
  WindowProblem problem(c, width, generator);
  WindowProblem::Result exact = problem.exact();
  const WindowProblem::Result found = problem.found(is_measured);
  expect_close("counts in windows", c, found.counts, exact.counts, 0);
  expect_close("rows in windows", c, found.rows, exact.rows, 0);
  expect_close("columns in windows", c, found.columns, exact.columns, 0);
  if (!is_measured) exact.measures.clear();
  expect_close("measures in windows", c, found.measures, exact.measures,
               tolerance(real_type(c.type)));
}

/// Ends that are too large for the list, as of other pairs: what lies behind it is not touched.
void check_short_list(NumberType type, std::mt19937& generator) {
  WindowProblem problem({type, Measure::kDot, 40, 70, 5, 3}, kUnit, generator);
  const WindowProblem::Result exact = problem.exact();
  Buffer<int64_t> ends(exact.counts.size());
  int64_t size = 0;
  for (size_t k = 0; k < ends.size(); ++k) ends[k] = size += int64_t(exact.counts[k]);
  const auto found = problem.listed(exact.counts, ends, size / 2, true);
  CHECK(std::equal(found.columns.begin(), found.columns.end(), exact.columns.begin()));
}

void test(std::mt19937& generator) {
  const bool is_first_seed = emulation::config.seed == 0;
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : {Measure::kDot, Measure::kSquaredEuclidean}) {
      check_windows({type, measure, 131, 0, 3, 4}, kUnit, generator);
      check_windows({type, measure, 37, 129, 3, 4, false, false, true}, kUnit, generator, false);
      if (!is_first_seed) continue;
      check_windows({type, measure, 1, 0, 3, 1}, kUnit, generator);
      check_windows({type, measure, 70, 1, 40, 2}, 3 * kUnit, generator);
      check_windows({type, measure, 7, 0, 4, 9, false, false, false, true}, kUnit, generator);
      // several tiles of a split, and a split that is not full
      check_windows({type, measure, 20, 530, 4, 9, true}, 2 * kUnit, generator);
      check_windows({type, measure, 150, 260, 2, 9, true, false, true}, 3 * kUnit, generator);
    }
  for (const NumberType type : kNumberTypes) check_short_list(type, generator);
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
