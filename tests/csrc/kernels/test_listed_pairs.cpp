// Measures and gradients of listed pairs against double loops in float64.
#include <numeric>

#include "emulated_problem.h"

namespace fusedml::testing {
namespace {

/// Pairs that are listed in any order, some of them more than once.
struct PairList {
  Buffer<int64_t> rows, columns;

  PairList(const EmulatedProblem& p, int64_t count, std::mt19937& generator)
      : rows(count), columns(count) {
    for (int64_t k = 0; k < count; ++k) {
      // half of them in the last row: segments of all lengths, and rows without a pair
      rows[k] = int64_t(k % 2 ? p.dense.n - 1 : generator() % uint64_t(p.dense.n));
      columns[k] = int64_t(generator() % uint64_t(p.dense.m));
    }
  }
  int64_t count() const { return int64_t(rows.size()); }
  ListedPairs pairs() { return {rows, columns, count()}; }
};

/// Indices in ascending order, as the gradient wants them.
struct Order {
  Buffer<int64_t> keys, order;

  explicit Order(Buffer<int64_t>& indices) : keys(indices.size()), order(indices.size()) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return indices[a] < indices[b]; });
    for (size_t k = 0; k < keys.size(); ++k) keys[k] = indices[order[k]];
  }
  SortedPairs sorted() { return {keys, order}; }
};

/// x of a pair by differences, as the kernels measure it: d^2 of near rows loses no digits.
double exact_measure(const DenseProblem& p, int64_t i, int64_t j) {
  double sum = 0;
  for (int64_t e = 0; e < p.d; ++e) {
    const double a = p.anchors[i * p.d + e], r = p.references[j * p.d + e];
    sum += p.measure == Measure::kDot ? a * r : (a - r) * (a - r);
  }
  return p.measure == Measure::kEuclidean ? std::sqrt(sum) : sum;
}

void add_gradient(const DenseProblem& p, int64_t i, int64_t j, double d_x, Vector& of_anchors,
                  Vector& of_references) {
  const double x = exact_measure(p, i, j);
  for (int64_t e = 0; e < p.d; ++e) {
    const double a = p.anchors[i * p.d + e], r = p.references[j * p.d + e];
    if (p.measure == Measure::kDot) {
      of_anchors[i * p.d + e] += d_x * r;
      of_references[j * p.d + e] += d_x * a;
      continue;
    }
    const bool is_squared = p.measure == Measure::kSquaredEuclidean;
    const double weight = is_squared ? 2 * d_x : x == 0 ? 0 : d_x / x;
    of_anchors[i * p.d + e] += weight * (a - r);
    of_references[j * p.d + e] -= weight * (a - r);
  }
}

/// Sums are fp32, or fp64; a gradient is rounded to the type of the embeddings.
double listed_tolerance(NumberType type, bool is_gradient) {
  if (type == NumberType::kFp64) return 1e-13;
  if (!is_gradient || Stored::size_of(type) == 4) return 2e-6;
  return type == NumberType::kBf16 ? 4e-3 : 6e-4;
}

void check_values(EmulatedProblem& p, PairList& list) {
  Stored values(real_type(p.test.type), list.count());
  CHECK(pair_values(p.problem, list.pairs(), values.data(), nullptr) == cudaSuccess);
  Vector expected(list.count());
  for (int64_t k = 0; k < list.count(); ++k)
    expected[k] = exact_measure(p.dense, list.rows[k], list.columns[k]);
  expect_close("values", p.test, values.values(), expected, listed_tolerance(p.test.type, false));
}

void check_gradient(EmulatedProblem& p, PairList& list, bool of_anchors, bool of_references,
                    std::mt19937& generator) {
  const Case& c = p.test;
  Stored grad(real_type(c.type), list.count());
  Stored anchors(c.type, c.n * c.d), references(c.type, c.m * c.d);
  Vector expected_anchors(c.n * c.d, 0.0), expected_references(p.dense.m * c.d, 0.0);
  std::normal_distribution<double> normal;
  for (int64_t k = 0; k < list.count(); ++k) {
    grad.set(k, normal(generator));
    add_gradient(p.dense, list.rows[k], list.columns[k], grad.get(k), expected_anchors,
                 expected_references);
  }
  if (p.dense.is_self)
    for (int64_t e = 0; e < c.n * c.d; ++e) expected_anchors[e] += expected_references[e];
  const GradientOutputs outputs{of_anchors ? anchors.data() : nullptr,
                                of_references ? references.data() : nullptr, nullptr};
  Order by_row(list.rows), by_column(list.columns);
  Buffer<char> workspace(pair_values_gradient_workspace(p.problem, list.pairs()), poison());
  CHECK(pair_values_gradient(p.problem, list.pairs(), by_row.sorted(), by_column.sorted(),
                             grad.data(), outputs, workspace, nullptr) == cudaSuccess);
  const double allowed = listed_tolerance(c.type, true);
  if (of_anchors) expect_close("anchors_grad", c, anchors.values(), expected_anchors, allowed);
  if (of_references)
    expect_close("references_grad", c, references.values(), expected_references, allowed);
}

void check(const Case& c, int64_t count, std::mt19937& generator) {
  EmulatedProblem p(c, generator);
  PairList list(p, count, generator);
  check_values(p, list);
  const bool has_references = !p.dense.is_self;
  check_gradient(p, list, true, has_references, generator);
  if (!has_references) return;
  check_gradient(p, list, true, false, generator);
  check_gradient(p, list, false, true, generator);
}

/// Nothing is read or written at an index out of range, and what it concerns becomes NaN.
void check_out_of_range(NumberType type, Measure measure, std::mt19937& generator) {
  const Case c{type, measure, 5, 3, 4, 2};
  EmulatedProblem p(c, generator);
  PairList list(p, 4, generator);
  const int64_t rows[] = {0, -1, 5, 4}, columns[] = {3, 1, 0, 2};
  std::copy(rows, rows + 4, list.rows.begin());
  std::copy(columns, columns + 4, list.columns.begin());
  Stored values(real_type(type), 4), grad(real_type(type), 4);
  CHECK(pair_values(p.problem, list.pairs(), values.data(), nullptr) == cudaSuccess);
  for (int k = 0; k < 4; ++k) {
    CHECK(std::isnan(values.get(k)) == (k != 3));
    grad.set(k, 1);
  }
  Stored anchors(type, c.n * c.d), references(type, c.m * c.d);
  Order by_row(list.rows), by_column(list.columns);
  Buffer<char> workspace(pair_values_gradient_workspace(p.problem, list.pairs()), poison());
  CHECK(pair_values_gradient(p.problem, list.pairs(), by_row.sorted(), by_column.sorted(),
                             grad.data(), {anchors.data(), references.data(), nullptr}, workspace,
                             nullptr) == cudaSuccess);
  for (int64_t e = 0; e < c.n * c.d; ++e) CHECK(std::isnan(anchors.get(e)) == (e / c.d == 0));
  for (int64_t e = 0; e < c.m * c.d; ++e) CHECK(std::isnan(references.get(e)) == (e / c.d != 2));
}

void test(std::mt19937& generator) {
  const bool is_first_seed = emulation::config.seed == 0;
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kMeasures) {
      // d around the 16 and the 128 bytes that a lane and a group of lanes read; segments around
      // the 32 pairs that a warp looks up at a time
      check({type, measure, 9, 0, 72, 2}, 100, generator);
      check({type, measure, 6, 7, 13, 2}, 40, generator);
      check_out_of_range(type, measure, generator);
      if (!is_first_seed) continue;
      check({type, measure, 1, 0, 1, 2}, 33, generator);
      check({type, measure, 3, 40, 128, 2}, 65, generator);
      check({type, measure, 4, 0, 8, 2}, 0, generator);
      check({type, measure, 2, 2, 520, 2}, 5, generator);
    }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
