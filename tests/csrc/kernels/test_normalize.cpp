// Rows divided by their norms, and the gradient, against double loops in float64.
#include <numeric>

#include "emulated_problem.h"

namespace fusedml::testing {
namespace {

struct NormalizeCase {
  NumberType type;
  bool is_float;  ///< x is stored in float32
  int64_t rows, d;
  bool is_ordered;
  double size = 1;  ///< of the entries
};

NumberType given_type(const NormalizeCase& c) { return c.is_float ? NumberType::kFp32 : c.type; }

/// Rounding of a stored number, and some units of the sums'.
double normalize_tolerance(NumberType type) {
  if (type == NumberType::kBf16) return 4.1e-3;
  if (type == NumberType::kFp16) return 5.2e-4;
  return type == NumberType::kFp64 ? 1e-14 : 5e-7;
}

struct Rows {
  NormalizeCase test;
  Stored x;
  Vector exact;
  Buffer<int64_t> order, places;
  Normalization given{};

  Rows(const NormalizeCase& c, std::mt19937& generator)
      : test(c),
        x(given_type(c), c.rows * c.d),
        exact(c.rows * c.d),
        order(c.rows),
        places(c.rows) {
    std::normal_distribution<double> normal(0, c.size);
    for (int64_t e = 0; e < c.rows * c.d; ++e) set(e, normal(generator));
    std::iota(order.begin(), order.end(), 0);
    if (c.is_ordered) std::shuffle(order.begin(), order.end(), generator);
    for (int64_t k = 0; k < c.rows; ++k) places[order[k]] = k;
    given = {c.type, c.is_float, x.data(), nullptr, nullptr, c.rows, c.d};
    if (c.is_ordered) {
      given.order = order;
      given.places = places;
    }
  }
  void set(int64_t e, double value) {
    x.set(e, value);
    exact[e] = x.get(e);
  }
  double norm(int64_t row) const {
    double largest = 0, sum = 0;
    for (int64_t e = 0; e < test.d; ++e)
      largest = std::max(largest, std::fabs(exact[row * test.d + e]));
    if (largest == 0) return kInfinity;
    for (int64_t e = 0; e < test.d; ++e) {
      const double part = exact[row * test.d + e] / largest;
      sum += part * part;
    }
    const double norm = largest * std::sqrt(sum);
    return norm < 1e-12 ? kInfinity : norm;
  }
};

void check(Rows& p, std::mt19937& generator) {
  const NormalizeCase& c = p.test;
  const Case named{c.type, Measure::kDot, c.rows, 0, c.d, 1};
  const NumberType real = real_type(c.type);
  Stored unit(c.type, c.rows * c.d), norms(real, c.rows);
  CHECK(normalize_rows(p.given, unit.data(), norms.data(), nullptr) == cudaSuccess);
  Stored grad(c.type, c.rows * c.d), x_grad(given_type(c), c.rows * c.d);
  std::normal_distribution<double> normal;
  for (int64_t e = 0; e < c.rows * c.d; ++e) grad.set(e, normal(generator));
  CHECK(normalize_rows_gradient(p.given, norms.data(), grad.data(), x_grad.data(), nullptr) ==
        cudaSuccess);
  Vector expected_unit(c.rows * c.d), expected_grad(c.rows * c.d), scaled_grad(c.rows * c.d);
  for (int64_t k = 0; k < c.rows; ++k) {
    const int64_t row = p.order[k];
    const double norm = p.norm(row);
    CHECK(std::isinf(norm) ? std::isinf(norms.get(k))
                           : std::fabs(norms.get(k) - norm) <= 1e-6 * norm);
    double along = 0;
    for (int64_t e = 0; e < c.d; ++e) {
      expected_unit[k * c.d + e] = p.exact[row * c.d + e] / norm;
      along += grad.get(k * c.d + e) * expected_unit[k * c.d + e];
    }
    for (int64_t e = 0; e < c.d; ++e) {
      // times the norm: of the size of the incoming gradient
      const double times = std::isinf(norm) ? 1 : norm;
      scaled_grad[row * c.d + e] = x_grad.get(row * c.d + e) * times;
      expected_grad[row * c.d + e] =
          (grad.get(k * c.d + e) - expected_unit[k * c.d + e] * along) / norm * times;
    }
  }
  expect_close("unit rows", named, unit.values(), expected_unit, normalize_tolerance(c.type));
  expect_close("x_grad", named, scaled_grad, expected_grad, 3 * normalize_tolerance(given_type(c)));
}

void check(const NormalizeCase& c, std::mt19937& generator) {
  Rows p(c, generator);
  check(p, generator);
}

/// Rows without a direction, and rows whose squares exceed the reals.
void check_extreme_rows(NumberType type, bool is_float, std::mt19937& generator) {
  Rows p({type, is_float, 6, 20, true}, generator);
  const bool is_half = given_type(p.test) == NumberType::kFp16;
  for (int64_t e = 0; e < 20; ++e) {
    p.set(e, 0);
    if (!is_half) p.set(20 + e, 1e-14);
    p.set(40 + e, is_half ? 600 : 2e36 * double(1 + e % 3));
  }
  check(p, generator);
}

void check_not_finite(NumberType type, std::mt19937& generator) {
  for (const double bad : {std::nan(""), kInfinity, -kInfinity}) {
    Rows p({type, false, 5, 12, false}, generator);
    p.set(12 * 3 + 7, bad);
    Stored unit(type, 5 * 12), norms(real_type(type), 5);
    CHECK(normalize_rows(p.given, unit.data(), norms.data(), nullptr) == cudaSuccess);
    for (int64_t e = 0; e < 5 * 12; ++e) CHECK(std::isnan(unit.get(e)) == (e / 12 == 3));
  }
}

void test_type(NumberType type, std::mt19937& generator) {
  const bool has_two = Stored::size_of(type) == 2;
  for (const bool is_float : {false, true}) {
    if (is_float && !has_two) continue;
    check({type, is_float, 9, 72, true}, generator);
    check({type, is_float, 5, 13, false}, generator);
    check_extreme_rows(type, is_float, generator);
    if (emulation::config.seed != 0) continue;
    check({type, is_float, 1, 1, false}, generator);
    check({type, is_float, 3, 520, true}, generator);
    check({type, is_float, 6, 132, false, 1e-4}, generator);
    check({type, is_float, 0, 4, true}, generator);
  }
  check_not_finite(type, generator);
}

void test(std::mt19937& generator) {
  for (const NumberType type : kNumberTypes) test_type(type, generator);
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
