// Statistics and gradients of classes with several vectors, against double loops in float64.
#include "emulated_problem.h"

namespace fusedml::testing {
namespace {

struct GroupCase {
  NumberType type;
  Measure measure;
  int64_t n, num_classes;
  int size;  ///< vectors of a class
  int64_t d;
  double sharpness = 7;
  bool has_ties = false;  ///< the first two vectors of each class are the same
};

/// The problem, and what is computed of it: S and its slopes.
class Groups {
 public:
  Groups(const GroupCase& c, std::mt19937& generator)
      : test(c), p(Case{c.type, Measure::kDot, c.n, c.num_classes * c.size, c.d, 2}, generator) {
    // Vectors of a class whose similarities nearly agree are told apart by their rounding: in TF32
    // products of such numbers are exact.
    if (c.type == NumberType::kTf32) {
      round(p.anchors, p.dense.anchors);
      round(p.references, p.dense.references);
    }
    if (c.has_ties)
      for (int64_t vector = 1; vector < p.dense.m; vector += c.size)
        for (int64_t k = 0; k < c.d; ++k) {
          double& value = p.dense.references[vector * c.d + k];
          value = p.dense.references[(vector - 1) * c.d + k];
          p.references.set(vector * c.d + k, value);
        }
    // some rows have no class of their own
    for (int64_t i = 0; i < c.n; ++i)
      p.anchor_labels[i] = int64_t(generator() % unsigned(c.num_classes + 2)) - 1;
    p.problem.measure = c.measure;
    p.problem.reference_labels = nullptr;
    p.problem.group_size = c.size;
    p.problem.sharpness = c.sharpness;
  }

  bool is_own(int64_t i, int64_t label) { return p.anchor_labels[i] == label; }

  /// S of a row and a class; slopes [size].
  double reduced(int64_t i, int64_t label, Vector& slopes) const {
    Vector y(test.size, 0.0);
    for (int k = 0; k < test.size; ++k)
      for (int64_t e = 0; e < test.d; ++e)
        y[k] += p.dense.anchors[i * test.d + e] *
                p.dense.references[(label * test.size + k) * test.d + e];
    slopes.assign(test.size, 0.0);
    const auto largest = std::max_element(y.begin(), y.end());
    if (test.measure == Measure::kMaximum) {
      slopes[largest - y.begin()] = 1;
      return *largest;
    }
    double sum = 0, s = 0;
    for (double value : y) sum += std::exp(test.sharpness * (value - *largest));
    for (int k = 0; k < test.size; ++k) {
      slopes[k] = std::exp(test.sharpness * (y[k] - *largest)) / sum;
      s += slopes[k] * y[k];
    }
    for (int k = 0; k < test.size; ++k) slopes[k] *= 1 + test.sharpness * (y[k] - s);
    return s;
  }

  double logit(int64_t i, int64_t label, double s) {
    const int kind = is_own(i, label) ? 0 : 2;
    return p.dense.logit[kind] * s + p.dense.logit[kind + 1];
  }

  Vector statistics() {
    Vector result(2 * test.n, 0.0), slopes;
    for (int64_t i = 0; i < test.n; ++i) {
      Vector others;
      for (int64_t label = 0; label < test.num_classes; ++label) {
        const double z = logit(i, label, reduced(i, label, slopes));
        if (is_own(i, label)) {
          result[test.n + i] = z;
        } else {
          others.push_back(z);
        }
      }
      result[i] = log_sum_exp(others);
    }
    return result;
  }

  DenseGradient gradient(const Vector& statistics, const Vector& grad) {
    DenseGradient g{Vector(test.n * test.d, 0.0), Vector(p.dense.m * test.d, 0.0), Vector(4, 0.0)};
    Vector slopes;
    for (int64_t i = 0; i < test.n; ++i)
      for (int64_t label = 0; label < test.num_classes; ++label) {
        const double s = reduced(i, label, slopes), z = logit(i, label, s);
        const double d_z =
            is_own(i, label) ? grad[test.n + i] : grad[i] * std::exp(z - statistics[i]);
        const int kind = is_own(i, label) ? 0 : 2;
        g.logit[kind] += d_z * s;
        g.logit[kind + 1] += d_z;
        for (int k = 0; k < test.size; ++k)
          for (int64_t e = 0; e < test.d; ++e) {
            const double weight = d_z * p.dense.logit[kind] * slopes[k];
            const int64_t at = (label * test.size + k) * test.d + e;
            g.anchors[i * test.d + e] += weight * p.dense.references[at];
            g.references[at] += weight * p.dense.anchors[i * test.d + e];
          }
      }
    return g;
  }

  /// What the kernels make of it.
  Vector found(const SweepOptions& options = {}) {
    Stored statistics(real_type(test.type), 2 * test.n);
    Buffer<char> workspace(pair_statistics_workspace(p.problem, options), poison());
    CHECK(pair_statistics(p.problem, {}, {statistics.data(), nullptr, nullptr, nullptr}, workspace,
                          nullptr, options) == cudaSuccess);
    return statistics.values();
  }

  GroupCase test;
  EmulatedProblem p;

 private:
  static void round(Stored& stored, Vector& values) {
    for (size_t e = 0; e < values.size(); ++e) {
      values[e] = __bfloat162float(__float2bfloat16_rn(float(values[e])));
      stored.set(e, values[e]);
    }
  }
};

struct Needs {
  bool anchors = true, vectors = true, logit = true;
};

void check_gradient(Groups& groups, const Vector& exact, const GradientOptions& options,
                    const Needs& needs, std::mt19937& generator) {
  const GroupCase& c = groups.test;
  const NumberType real = real_type(c.type);
  Stored statistics(real, 2 * c.n), grad(real, 2 * c.n);
  std::normal_distribution<double> normal;
  Vector exact_grad(2 * c.n);
  for (int64_t i = 0; i < 2 * c.n; ++i) {
    statistics.set(i, exact[i]);
    grad.set(i, std::isfinite(exact[i]) ? normal(generator) : 0.0);
    exact_grad[i] = grad.get(i);
  }
  const DenseGradient expected = groups.gradient(exact, exact_grad);
  Stored anchors_grad(c.type, c.n * c.d), vectors_grad(c.type, groups.p.dense.m * c.d);
  Buffer<double> logit_grad(4, -1.0);
  const GradientOutputs outputs{needs.anchors ? anchors_grad.data() : nullptr,
                                needs.vectors ? vectors_grad.data() : nullptr,
                                needs.logit ? static_cast<double*>(logit_grad) : nullptr};
  Buffer<char> workspace(pair_gradient_workspace(groups.p.problem, outputs, options), poison());
  CHECK(pair_gradient(groups.p.problem, statistics.data(), grad.data(), outputs, workspace, nullptr,
                      options) == cudaSuccess);
  // of a soft maximum the slopes amplify the errors of the similarities, too
  const double allowed = gradient_tolerance(c.type) * (c.measure == Measure::kSoftMaximum ? 2 : 1);
  const Case& shown = groups.p.test;
  if (needs.anchors)
    expect_close("anchors_grad of groups", shown, anchors_grad.values(), expected.anchors, allowed,
                 1e-3);
  if (needs.vectors)
    expect_close("vectors_grad of groups", shown, vectors_grad.values(), expected.references,
                 allowed, 1e-3);
  if (needs.logit)
    expect_close("logit_grad of groups", shown, Vector(logit_grad.begin(), logit_grad.end()),
                 expected.logit, allowed, 1e-3);
}

void check_groups(const GroupCase& c, std::mt19937& generator, const Needs& needs = {}) {
  Groups groups(c, generator);
  const Vector exact = groups.statistics();
  // every class being a value of its own, the own ones' logits are not summed
  expect_close("statistics of groups", groups.p.test, groups.found(), exact, tolerance(c.type));
  // of one tile, so that several panels add up
  const int64_t panel_bytes = 128 * 128 * int64_t(Stored::size_of(c.type));
  check_gradient(groups, exact, {GradientRoute::kAuto, panel_bytes}, needs, generator);
}

/// Launches of few rows each, in slots that are used again.
void check_launches_of_rows(const GroupCase& c, std::mt19937& generator) {
  Groups groups(c, generator);
  const Vector exact = groups.statistics();
  expect_close("statistics of groups", groups.p.test, groups.found({1, 0}), exact,
               tolerance(c.type));
}

/// A sharpness and a logit that only the device knows: the same bits.
void check_device_numbers(const GroupCase& c, std::mt19937& generator) {
  Groups groups(c, generator);
  const Vector by_value = groups.found();
  Problem& problem = groups.p.problem;
  Buffer<double> logit(4), sharpness(1);
  std::copy(problem.logit, problem.logit + 4, logit.begin());
  sharpness[0] = problem.sharpness;
  problem.device_logit = logit;
  problem.device_sharpness = sharpness;
  problem.sharpness = problem.logit[2] = std::nan("");
  CHECK(!std::isnan(by_value[0]) && by_value == groups.found());
}

/// What is not finite in an anchor spoils its row; in a vector, every row.
void check_not_finite(const GroupCase& c, std::mt19937& generator) {
  for (const double bad : {std::nan(""), kInfinity, -kInfinity}) {
    Groups groups(c, generator);
    const int64_t bad_row = c.n / 2;
    groups.p.anchors.set(bad_row * c.d, bad);
    Vector found = groups.found();
    for (int64_t i = 0; i < 2 * c.n; ++i) CHECK(std::isnan(found[i]) == (i % c.n == bad_row));
    groups.p.references.set((c.size + 1) * c.d, bad);
    found = groups.found();
    for (double x : found) CHECK(std::isnan(x));
  }
}

void check_bank_conflicts(std::mt19937& generator) {
  const NoBankConflicts no_bank_conflicts;
  for (const NumberType type : {kSixteenBit, NumberType::kFp32, NumberType::kFp64})
    check_groups({type, Measure::kSoftMaximum, 130, 45, 3, 72}, generator);
}

constexpr Measure kGroups[] = {Measure::kMaximum, Measure::kSoftMaximum};

void test(std::mt19937& generator) {
  if (!kIsSanitized) check_bank_conflicts(generator);  // the emulator counts them, in any build
  const bool is_first_seed = emulation::config.seed == 0;
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kGroups) {
      // a tile holds 64 classes of 2 vectors, 40 of 3, 8 of 9 to 16
      check_groups({type, measure, 37, 65, 2, 33}, generator);
      check_groups({type, measure, 130, 11, 10, 20}, generator);
      if (!is_first_seed) continue;
      check_groups({type, measure, 1, 1, 3, 3}, generator);
      check_groups({type, measure, 5, 8, 16, 72, 30}, generator);
      check_groups({type, measure, 20, 41, 3, 7, 0.5, true}, generator);
      check_groups({type, measure, 20, 24, 5, 130}, generator, {true, false, false});
      check_groups({type, measure, 20, 9, 7, 4}, generator, {false, true, false});
      check_groups({type, measure, 20, 9, 4, 4}, generator, {false, false, true});
      check_launches_of_rows({type, measure, 260, 20, 10, 5}, generator);
      check_device_numbers({type, measure, 9, 20, 4, 5}, generator);
      if (kIsSanitized) continue;  // the values are what it is about
      check_not_finite({type, measure, 70, 30, 3, 5}, generator);
    }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
