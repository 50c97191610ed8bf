// The extreme pair of each row, measure and column, and of each threshold of a row the hardest
// negative below it, against double loops in float64.
#include "emulated_problem.h"

namespace fusedml::testing {
namespace {

/// Embeddings are quarters: measures are exact in every number type, and equal ones are many, of
/// which the lowest column is due, whatever tile, block or launch it was in.
struct Extremes {
  EmulatedProblem p;
  ExtremePairs wanted;
  Stored intervals;

  Extremes(const Case& c, bool largest_positive, bool largest_negative, bool has_intervals,
           std::mt19937& generator)
      : p(c, generator),
        wanted{{largest_positive, largest_negative}, nullptr},
        intervals(real_type(c.type), 4 * c.n) {
    quarters(p.anchors, p.dense.anchors, p.dense.active_rows * c.d, generator);
    if (p.dense.is_self) p.dense.references = p.dense.anchors;
    quarters(p.references, p.dense.references, p.dense.is_self ? 0 : p.dense.active_cols * c.d,
             generator);
    const double middle = c.measure == Measure::kDot ? 0 : 1.25;
    for (int64_t i = 0; i < 4 * c.n; ++i) {
      const bool is_high = i / c.n % 2 == 1;
      intervals.set(i, middle + (is_high ? 1 : -1) * double(generator() % 16) / 16);
    }
    if (has_intervals) wanted.intervals = intervals.data();
  }

  static void quarters(Stored& stored, Vector& values, int64_t count, std::mt19937& generator) {
    for (int64_t e = 0; e < count; ++e) stored.set(e, values[e] = (int(generator() % 5) - 2) / 4.0);
  }

  bool is_within(int64_t i, int64_t kind, double x) {
    const int64_t n = p.dense.n;
    return wanted.intervals == nullptr ||
           (x >= intervals.get(2 * kind * n + i) && x <= intervals.get((2 * kind + 1) * n + i));
  }

  struct Result {
    Vector measures, columns;
  };
  Result exact() {
    const int64_t n = p.dense.n;
    Result r{Vector(2 * n), Vector(2 * n, -1.0)};
    for (int64_t kind = 0; kind < 2; ++kind)
      for (int64_t i = 0; i < n; ++i) {
        const double sign = wanted.is_largest[kind] ? 1 : -1;
        double& found = r.measures[kind * n + i];
        found = -sign * kInfinity;
        for (int64_t j = 0; j < p.dense.m; ++j) {
          if (!p.dense.exists(i, j) || p.dense.is_positive(i, j) != (kind == 0)) continue;
          const double x = p.dense.x(i, j);
          if (!is_within(i, kind, x) || sign * x <= sign * found) continue;
          found = x;
          r.columns[kind * n + i] = double(j);
        }
      }
    return r;
  }
  Result found(const SweepOptions& options = {}) {
    const int64_t n = p.test.n;
    Stored measures(real_type(p.test.type), 2 * n);
    Buffer<int64_t> columns(2 * n, -7);
    Buffer<char> workspace(extreme_pairs_workspace(p.problem, options), poison());
    CHECK(extreme_pairs(p.problem, wanted, measures.data(), columns, workspace, nullptr, options) ==
          cudaSuccess);
    return {measures.values(), Vector(columns.begin(), columns.end())};
  }
};

void check_extremes(const Case& c, bool largest_positive, bool largest_negative, bool has_intervals,
                    std::mt19937& generator, const SweepOptions& options = {}) {
  Extremes extremes(c, largest_positive, largest_negative, has_intervals, generator);
  const Extremes::Result exact = extremes.exact(), found = extremes.found(options);
  expect_close("extreme measures", c, found.measures, exact.measures, tolerance(real_type(c.type)));
  expect_close("columns of extremes", c, found.columns, exact.columns, 0);
}

/// A row that meets a NaN has it, and the column where it is.
void check_nan(NumberType type, std::mt19937& generator) {
  Extremes extremes({type, Measure::kDot, 40, 70, 5, 3}, false, true, false, generator);
  const int64_t bad = 66;
  extremes.p.references.set(bad * 5, std::nan(""));
  const Extremes::Result found = extremes.found();
  for (int64_t i = 0; i < 40; ++i) {
    const int64_t kind = extremes.p.dense.is_positive(i, bad) ? 0 : 1;
    CHECK(std::isnan(found.measures[kind * 40 + i]) && found.columns[kind * 40 + i] == bad);
    CHECK(!std::isnan(found.measures[(1 - kind) * 40 + i]));
  }
}

/// Thresholds of each row: hardnesses of some of its pairs, which are not below themselves, others
/// below and above all pairs, and fewer than there is room for.
struct PairsBelow : Extremes {
  int64_t count;
  Stored thresholds;

  PairsBelow(const Case& c, int64_t count, std::mt19937& generator)
      : Extremes(c, false, false, false, generator),
        count(count),
        thresholds(real_type(c.type), size_t(c.n * count)) {
    for (int64_t i = 0; i < c.n; ++i) {
      Vector drawn(generator() % unsigned(count + 1));
      for (double& t : drawn) t = draw(i, generator);
      std::sort(drawn.begin(), drawn.end());
      drawn.resize(count, kAbsent);
      for (int64_t k = 0; k < count; ++k) thresholds.set(i * count + k, drawn[k]);
    }
  }

  double draw(int64_t i, std::mt19937& generator) {
    if (p.dense.m == 0 || generator() % 8 == 0) return generator() % 2 == 0 ? 100 : -100;
    double x = p.dense.x(i, int64_t(generator() % unsigned(p.dense.m)));
    // roots are not exact: the middle between two of them
    if (p.dense.measure == Measure::kEuclidean) x = std::sqrt(x * x + 1. / 32);
    return p.dense.hardness(x);
  }

  Vector exact_columns() {
    Vector result(p.dense.n * count, -1.0);
    for (int64_t i = 0; i < p.dense.n; ++i)
      for (int64_t k = 0; k < count; ++k) {
        const double t = thresholds.get(i * count + k);
        double hardest = -kInfinity;
        for (int64_t j = 0; j < p.dense.m && t < kAbsent; ++j) {
          const double y = p.dense.hardness(p.dense.x(i, j));
          if (!p.dense.exists(i, j) || p.dense.is_positive(i, j) || !(y < t && y > hardest))
            continue;
          hardest = y;
          result[i * count + k] = double(j);
        }
      }
    return result;
  }
  Vector found_columns(const SweepOptions& options = {}) {
    Buffer<int64_t> columns(p.dense.n * count, -7);
    Buffer<char> workspace(threshold_pairs_workspace(p.problem, count, options), poison());
    CHECK(threshold_pairs(p.problem, thresholds.data(), count, columns, workspace, nullptr,
                          options) == cudaSuccess);
    return Vector(columns.begin(), columns.end());
  }
};

void check_below(const Case& c, int64_t count, std::mt19937& generator,
                 const SweepOptions& options = {}) {
  PairsBelow pairs(c, count, generator);
  expect_close("columns below thresholds", c, pairs.found_columns(options), pairs.exact_columns(),
               0);
}

/// Of a NaN nothing is below.
void check_nan_below(NumberType type, std::mt19937& generator) {
  const Case c{type, Measure::kDot, 40, 70, 5, 3};
  PairsBelow pairs(c, 6, generator);
  const int64_t bad = 66;
  pairs.p.references.set(bad * 5, std::nan(""));
  for (int64_t e = 0; e < 5; ++e) pairs.p.dense.references[bad * 5 + e] = std::nan("");
  expect_close("columns below thresholds", c, pairs.found_columns(), pairs.exact_columns(), 0);
}

void test_below(NumberType type, Measure measure, bool is_first_seed, std::mt19937& generator) {
  check_below({type, measure, 131, 0, 3, 4}, 7, generator);
  check_below({type, measure, 37, 140, 3, 2}, 70, generator);
  if (!is_first_seed) return;
  check_below({type, measure, 1, 0, 3, 1}, 2, generator);
  check_below({type, measure, 9, 5, 3, 1}, 3, generator);  // one class: no negatives
  check_below({type, measure, 7, 0, 4, 9, false, false, false, true}, 3, generator);
  // launches of a row of tiles each, and columns that are divided among blocks
  check_below({type, measure, 131, 300, 4, 9}, 5, generator, {1, 0});
  check_below({type, measure, 20, 300, 4, 9, true}, 40, generator, {0, 4});
}

void test(std::mt19937& generator) {
  const bool is_first_seed = emulation::config.seed == 0;
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kMeasures) {
      if (!is_tested(type, measure)) continue;
      check_extremes({type, measure, 131, 0, 3, 4}, false, true, false, generator);
      check_extremes({type, measure, 37, 129, 3, 4, false, false, true}, true, false, true,
                     generator);
      if (!is_first_seed) continue;
      check_extremes({type, measure, 1, 0, 3, 1}, false, true, true, generator);
      check_extremes({type, measure, 70, 1, 40, 2}, true, true, false, generator);
      check_extremes({type, measure, 7, 0, 4, 9, false, false, false, true}, false, true, true,
                     generator);
      // the symmetric schedule, on a GPU of four blocks, in one launch and in two; columns of all
      // rows in launches of few rows each
      for (const int64_t max_slot_bytes : {0, 1})
        check_extremes({type, measure, 330, 0, 4, 9, true, false, true}, false, true, true,
                       generator, {max_slot_bytes, 4});
      check_extremes({type, measure, 131, 150, 2, 9}, true, true, false, generator, {1, 0});
    }
  for (const NumberType type : kNumberTypes) {
    check_nan(type, generator);
    test_below(type, Measure::kDot, is_first_seed, generator);
    test_below(type, Measure::kEuclidean, false, generator);
    check_nan_below(type, generator);
  }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
