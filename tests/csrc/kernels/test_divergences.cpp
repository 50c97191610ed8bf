// Divergences of the rows of two matrices of products and their gradients, against double loops in
// float64.
#include "emulated_problem.h"
#include "kernels/workspace.h"

namespace fusedml::testing {
namespace {

struct Needs {
  bool anchors = true, second = true, logit = true;
};

struct Kind {
  int64_t d;  ///< of the second matrix
  bool has_labels = true;
  double scale = 4;
  bool excludes_diagonal = false;
};

/// A problem, its second matrix, and what is known of them in float64.
struct TwoProducts {
  EmulatedProblem p;
  Kind kind;
  Stored second;
  Vector dense_second;
  SecondProduct given;

  TwoProducts(const Case& c, const Kind& kind, std::mt19937& generator)
      : p(c, generator), kind(kind), second(c.type, c.n * kind.d), dense_second(c.n * kind.d) {
    std::normal_distribution<double> normal(0, 1 / std::sqrt(double(kind.d)));
    for (int64_t e = 0; e < c.n * kind.d; ++e) set_second(e, normal(generator));
    const double logit[4] = {kind.scale, -0.25, 0.5, 1.25};
    std::copy(logit, logit + 4, p.problem.logit);
    p.problem.exclude_diagonal = p.dense.exclude_diagonal = kind.excludes_diagonal;
    if (!kind.has_labels) p.problem.anchor_labels = nullptr;
    given = {second.data(), kind.d};
  }

  void set_second(int64_t e, double value) {
    second.set(e, value);
    dense_second[e] = second.get(e);
  }
  void set_anchor(int64_t e, double value) {
    p.anchors.set(e, value);
    p.dense.anchors[e] = p.dense.references[e] = p.anchors.get(e);
  }

  int64_t n() const { return p.test.n; }
  bool is_equal(int64_t i, int64_t j) const { return kind.has_labels && p.dense.is_positive(i, j); }

  /// Of the anchors, or of the second matrix.
  double product(bool of_second, int64_t i, int64_t j) const {
    if (!of_second) return p.dense.x(i, j);
    double sum = 0;
    for (int64_t k = 0; k < kind.d; ++k)
      sum += dense_second[i * kind.d + k] * dense_second[j * kind.d + k];
    return sum;
  }
  double z(bool of_second, int64_t i, int64_t j) const {
    const double* logit = p.problem.logit;
    if (is_equal(i, j)) return logit[0] * logit[3];
    return logit[0] * (product(of_second, i, j) + logit[of_second ? 2 : 1]);
  }

  struct Result {
    Vector losses, log_sums;
  };
  Result exact() const {
    Result r{Vector(n()), Vector(2 * n())};
    for (int64_t i = 0; i < n(); ++i) {
      for (int side = 0; side < 2; ++side) {
        Vector logits;
        for (int64_t j = 0; j < n(); ++j)
          if (p.dense.exists(i, j)) logits.push_back(z(side, i, j));
        r.log_sums[side * n() + i] = log_sum_exp(logits);
      }
      for (int64_t j = 0; j < n(); ++j) {
        if (!p.dense.exists(i, j)) continue;
        const double log_p = z(false, i, j) - r.log_sums[i];
        const double log_q = z(true, i, j) - r.log_sums[n() + i];
        r.losses[i] += std::exp(log_q) * (log_q - log_p);
      }
    }
    return r;
  }

  /// What the kernels make of it.
  Result found(const SweepOptions& options = {}) {
    const NumberType real = real_type(p.test.type);
    Stored losses(real, n()), log_sums(real, 2 * n());
    Buffer<char> workspace(row_divergences_workspace(p.problem, given, options), poison());
    CHECK(row_divergences(p.problem, given, losses.data(), log_sums.data(), workspace, nullptr,
                          options) == cudaSuccess);
    return {losses.values(), log_sums.values()};
  }

  struct Gradient {
    Vector anchors, second, logit;
  };
  Gradient exact_gradient(const Result& r, const Vector& grad) const {
    const int64_t d = p.test.d;
    Gradient g{Vector(n() * d), Vector(n() * kind.d), Vector(4)};
    const double* logit = p.problem.logit;
    const auto add = [&](Vector& to, const Vector& rows, int64_t width, int64_t i, int64_t j,
                         double weight) {
      for (int64_t k = 0; k < width; ++k) {
        to[i * width + k] += weight * rows[j * width + k];
        to[j * width + k] += weight * rows[i * width + k];
      }
    };
    for (int64_t i = 0; i < n(); ++i)
      for (int64_t j = 0; j < n(); ++j) {
        if (!p.dense.exists(i, j)) continue;
        const double log_p = z(false, i, j) - r.log_sums[i];
        const double log_q = z(true, i, j) - r.log_sums[n() + i];
        const double d_x = grad[i] * (std::exp(log_p) - std::exp(log_q));
        const double d_y = grad[i] * std::exp(log_q) * (log_q - log_p - r.losses[i]);
        g.logit[0] += (d_x * z(false, i, j) + d_y * z(true, i, j)) / logit[0];
        if (is_equal(i, j)) {
          g.logit[3] += (d_x + d_y) * logit[0];
          continue;
        }
        g.logit[1] += d_x * logit[0];
        g.logit[2] += d_y * logit[0];
        add(g.anchors, p.dense.anchors, d, i, j, d_x * logit[0]);
        add(g.second, dense_second, kind.d, i, j, d_y * logit[0]);
      }
    return g;
  }
};

/// From what the forward has found.  least: of the largest entry of a gradient, relative to the
/// scale of the incoming one.
void check_gradient(TwoProducts& two, const TwoProducts::Result& exact,
                    const TwoProducts::Result& found, const GradientOptions& options,
                    const Needs& needs, double scale, std::mt19937& generator,
                    double least = 1e-3) {
  const Case& c = two.p.test;
  const NumberType real = real_type(c.type);
  Stored losses(real, c.n), log_sums(real, 2 * c.n), grad(real, c.n);
  std::normal_distribution<double> normal(0, scale);
  for (int64_t i = 0; i < c.n; ++i) {
    losses.set(i, found.losses[i]);
    grad.set(i, normal(generator));
  }
  for (int64_t i = 0; i < 2 * c.n; ++i) log_sums.set(i, found.log_sums[i]);
  const TwoProducts::Gradient expected = two.exact_gradient(exact, grad.values());
  Stored anchors_grad(c.type, c.n * c.d), second_grad(c.type, c.n * two.kind.d);
  Buffer<double> logit_grad(4, -1.0);
  const GradientOutputs outputs{needs.anchors ? anchors_grad.data() : nullptr,
                                needs.second ? second_grad.data() : nullptr,
                                needs.logit ? static_cast<double*>(logit_grad) : nullptr};
  Buffer<char> workspace(
      row_divergences_gradient_workspace(two.p.problem, two.given, outputs, options), poison());
  CHECK(row_divergences_gradient(two.p.problem, two.given, losses.data(), log_sums.data(),
                                 grad.data(), outputs, workspace, nullptr, options) == cudaSuccess);
  const double allowed = 2 * gradient_tolerance(c.type), floor = least * scale;
  if (needs.anchors)
    expect_close("anchors_grad of divergences", c, anchors_grad.values(), expected.anchors, allowed,
                 floor);
  if (needs.second)
    expect_close("second_grad of divergences", c, second_grad.values(), expected.second, allowed,
                 floor);
  if (needs.logit)
    expect_close("logit_grad of divergences", c, Vector(logit_grad.begin(), logit_grad.end()),
                 expected.logit, allowed, floor);
}

void check_divergences(const Case& c, const Kind& kind, std::mt19937& generator,
                       const SweepOptions& options = {}, const Needs& needs = {},
                       double scale = 1) {
  TwoProducts two(c, kind, generator);
  const TwoProducts::Result exact = two.exact(), found = two.found(options);
  expect_close("divergences", c, found.losses, exact.losses, tolerance(c.type));
  expect_close("log_sums", c, found.log_sums, exact.log_sums, tolerance(c.type));
  // of one tile of both kernels, so that several panels add up
  const int64_t panel_bytes = 128 * 128 * int64_t(Stored::size_of(c.type));
  check_gradient(two, exact, found,
                 with_large_tiles(GradientOptions{GradientRoute::kAuto, panel_bytes}), needs, scale,
                 generator);
}

/// What is not finite in either matrix spoils all rows, also those that it is only in equal pairs
/// with.
void check_not_finite(NumberType type, std::mt19937& generator) {
  for (const double bad : {std::nan(""), kInfinity, -kInfinity})
    for (const bool in_second : {false, true}) {
      TwoProducts two({type, Measure::kDot, 70, 0, 5, 1}, {3}, generator);
      in_second ? two.set_second(66 * 3 + 1, bad) : two.set_anchor(66 * 5 + 2, bad);
      for (double loss : two.found().losses) CHECK(std::isnan(loss));
    }
}

/// Equal matrices have no divergence; logits so large that only maxima keep their exponentials
/// finite.
void check_extremes(NumberType type, std::mt19937& generator) {
  TwoProducts equal({type, Measure::kDot, 130, 0, 7, 40}, {7, false}, generator);
  equal.p.problem.logit[1] = equal.p.problem.logit[2];
  for (int64_t e = 0; e < 130 * 7; ++e) equal.set_second(e, equal.p.anchors.get(e));
  for (double loss : equal.found().losses) CHECK(std::fabs(loss) < 2e-6);
  TwoProducts large({type, Measure::kDot, 130, 0, 4, 40}, {9, true, 200}, generator);
  const Vector exact = large.exact().losses;
  expect_close("large divergences", large.p.test, large.found().losses, exact, 4 * tolerance(type));
}

/// Numbers that only the device knows: the same bits.
void check_device_logit(NumberType type, std::mt19937& generator) {
  TwoProducts two({type, Measure::kDot, 70, 0, 5, 9}, {3}, generator);
  const Vector by_value = two.found().losses;
  Buffer<double> logit(4);
  std::copy(two.p.problem.logit, two.p.problem.logit + 4, logit.begin());
  two.p.problem.device_logit = logit;
  two.p.problem.logit[0] = two.p.problem.logit[2] = std::nan("");
  CHECK(!std::isnan(by_value[0]) && by_value == two.found().losses);
}

/// However large the second shift is, small weights stay within fp16: it is no scale of theirs.
void check_large_shift(NumberType type, std::mt19937& generator) {
  TwoProducts two({type, Measure::kDot, 70, 0, 5, 90}, {3, false, 0.01}, generator);
  two.p.problem.logit[2] = 1e3;
  check_gradient(two, two.exact(), two.found(), {}, {true, false, false}, 1e3, generator, 1e-8);
}

void check_bank_conflicts(std::mt19937& generator) {
  const NoBankConflicts no_bank_conflicts;
  for (const NumberType type : {kSixteenBit, NumberType::kFp32, NumberType::kFp64})
    check_divergences({type, Measure::kDot, 130, 0, 72, 5}, {40}, generator);
}

void test(std::mt19937& generator) {
  check_bank_conflicts(generator);
  const bool is_first_seed = emulation::config.seed == 0;
  const Measure dot = Measure::kDot;
  for (const NumberType type : kNumberTypes) {
    check_divergences({type, dot, 67, 0, 5, 4}, {9}, generator);
    if (!is_first_seed) continue;
    check_divergences({type, dot, 1, 0, 3, 1}, {1, false}, generator, {}, {}, 1e-5);
    check_divergences({type, dot, 130, 0, 33, 9, true}, {3, true, 10}, generator, {},
                      {true, false, false}, 1e-5);
    check_divergences({type, dot, 65, 0, 4, 2}, {70, false, 4, true}, generator, {},
                      {false, true, false});
    check_divergences({type, dot, 20, 0, 4, 2}, {7}, generator, {}, {false, false, true});
    // the symmetric schedule, on a GPU of four blocks, in one launch and in two
    for (const int64_t max_slot_bytes : {0, 1})
      check_divergences({type, dot, 330, 0, 4, 40, true}, {3, max_slot_bytes == 0}, generator,
                        {max_slot_bytes, 4});
    check_device_logit(type, generator);
    if (kIsSanitized) continue;  // the values are what the others are about
    check_extremes(type, generator);
    check_not_finite(type, generator);
    if (type == NumberType::kFp16) check_large_shift(type, generator);
  }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
