// Sums against thresholds and their gradients, against double loops in float64.
#include "emulated_problem.h"

namespace fusedml::testing {
namespace {

struct ThresholdCase {
  Case problem;
  ThresholdForm form;
  int64_t count;
  double margin = 0.25, at_least = -kInfinity, above = -kInfinity, below = kInfinity;
  bool has_others = false;  ///< further embeddings of the rows, of which the harder counts
};

/// The problem, its thresholds, and what is computed of them.
class ThresholdProblem {
 public:
  ThresholdProblem(const ThresholdCase& c, std::mt19937& generator)
      : test(c),
        p(c.problem, generator),
        n(c.problem.n),
        second(p.dense),
        others(c.problem.type, c.has_others ? p.dense.anchors.size() : 0),
        values(real_type(c.problem.type), size_t(n * c.count)) {
    make_exact(p.anchors, p.dense.anchors);
    if (p.dense.is_self) p.dense.references = p.dense.anchors;
    if (!p.dense.is_self) make_exact(p.references, p.dense.references);
    if (c.has_others) {
      // some rows' are the same: each of the equal measures weighs a half
      std::normal_distribution<double> normal;
      for (size_t e = 0; e < second.anchors.size(); ++e)
        second.anchors[e] = e / c.problem.d % 3 == 0 ? p.dense.anchors[e] : normal(generator) / 2;
      make_exact(others, second.anchors);
      second.references = p.dense.references;
      given.others = others.data();
    }
    ThresholdTerms& terms = given.terms;
    terms = {c.form, 0, p.dense.hardness(1), c.margin, c.at_least, c.above, c.below};
    if (c.form == ThresholdForm::kSigmoid) terms.unit /= 4;
    if (c.form == ThresholdForm::kPulse)
      terms.origin = terms.unit > 0 ? -1.5 : 0, terms.unit = 0.25;
    given.count = c.count;
    given.values = c.form == ThresholdForm::kPulse ? nullptr : values.data();
    for (int64_t i = 0; i < n; ++i) draw(i, generator);
  }

  double y_of(const DenseProblem& dense, int64_t i, int64_t j) const {
    return (dense.x(i, j) - given.terms.origin) / given.terms.unit;
  }
  double y(int64_t i, int64_t j) const {
    const double own = y_of(p.dense, i, j);
    return test.has_others ? std::max(own, y_of(second, i, j)) : own;
  }
  /// Of the weight that the anchor's own measure takes.
  double own_share(int64_t i, int64_t j) const {
    if (!test.has_others) return 1;
    const double own = y_of(p.dense, i, j), other = y_of(second, i, j);
    return own > other ? 1 : own == other ? 0.5 : 0;
  }
  bool is_grid() const { return test.form == ThresholdForm::kPulse; }
  int64_t num_sums() const { return is_grid() ? 2 : 3; }

  /// f, f' and the third summand at a threshold.
  void terms(double y, double t, double (&term)[3]) const {
    const ThresholdTerms& of = given.terms;
    const double u = y - t;
    const bool counts = u >= of.at_least && u > of.above && u < of.below;
    term[0] = term[1] = term[2] = 0;
    if (test.form == ThresholdForm::kHinge && counts) {
      term[0] = std::max(0.0, u + of.margin);
      term[1] = u + of.margin > 0;
      term[2] = 1;
    } else if (test.form == ThresholdForm::kSoftplus && counts) {
      term[0] = std::log1p(std::exp(u + of.margin));
      term[1] = 1 / (1 + std::exp(-u - of.margin));
      term[2] = 1;
    } else if (test.form == ThresholdForm::kSigmoid) {
      term[0] = 1 / (1 + std::exp(-u));
      term[1] = term[0] * (1 - term[0]);
      term[2] = u * term[1];
    } else if (is_grid()) {
      term[0] = std::max(0.0, 1 - std::fabs(u));
    }
  }

  /// Whether a pair is of the kind that sum s is over.
  bool is_summed(int64_t i, int64_t j, int64_t s) const {
    return p.dense.exists(i, j) && p.dense.is_positive(i, j) == (is_grid() && s == 0);
  }

  Vector sums() const {
    Vector result(num_sums() * n * given.count, 0.0);
    double term[3];
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < p.dense.m; ++j)
        for (int64_t k = 0; k < given.count; ++k) {
          if (threshold(i, k) >= kAbsent) continue;
          terms(y(i, j), threshold(i, k), term);
          for (int64_t s = 0; s < num_sums(); ++s)
            if (is_summed(i, j, s))
              result[(s * n + i) * given.count + k] += term[is_grid() ? 0 : s];
        }
    return result;
  }

  int64_t grad_count() const {
    if (test.form == ThresholdForm::kSigmoid) return n * given.count;
    return is_grid() ? 2 * n * given.count : n;
  }

  /// dL/dy of a pair by the sums of row i.
  double weight(int64_t i, int64_t j, const Vector& grad) const {
    if (is_grid()) {
      const double cell = std::floor(y(i, j)), last = double(given.count - 2);
      const int64_t k = int64_t(std::min(std::max(cell, 0.0), last));
      const int64_t kind = p.dense.is_positive(i, j) ? 0 : 1;
      const int64_t at = (kind * n + i) * given.count + k;
      return grad[at + 1] - grad[at];
    }
    double sum = 0, term[3];
    for (int64_t k = 0; k < given.count; ++k) {
      if (threshold(i, k) >= kAbsent) continue;
      terms(y(i, j), threshold(i, k), term);
      sum += (test.form == ThresholdForm::kSigmoid ? grad[i * given.count + k] : grad[i]) * term[1];
    }
    return sum;
  }

  DenseGradient gradient(const Vector& grad) const {
    const int64_t d = p.dense.d;
    DenseGradient g{Vector(n * d, 0.0), Vector(p.dense.m * d, 0.0), {}};
    const bool is_dot = p.dense.measure == Measure::kDot;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < p.dense.m; ++j) {
        if (!is_summed(i, j, 0) && !is_summed(i, j, 1)) continue;
        double w = own_share(i, j) * weight(i, j, grad) / given.terms.unit;
        const double x = p.dense.x(i, j);
        if (!is_dot && x == 0) continue;
        if (p.dense.measure == Measure::kSquaredEuclidean) w *= -2;
        if (p.dense.measure == Measure::kEuclidean) w *= -1 / x;
        for (int64_t e = 0; e < d; ++e) {
          const double a = p.dense.anchors[i * d + e], r = p.dense.references[j * d + e];
          g.anchors[i * d + e] += w * (is_dot ? r : r - a);
          g.references[j * d + e] += w * (is_dot ? a : a - r);
        }
      }
    if (p.dense.is_self)
      for (size_t e = 0; e < g.anchors.size(); ++e) g.anchors[e] += g.references[e];
    return g;
  }

  /// What the kernels make of it.
  Vector found_sums(const SweepOptions& options) {
    Stored sums(real_type(test.problem.type), size_t(num_sums() * n * given.count));
    Buffer<char> workspace(threshold_sums_workspace(p.problem, given, options), poison());
    CHECK(threshold_sums(p.problem, given, sums.data(), workspace, nullptr, options) ==
          cudaSuccess);
    return sums.values();
  }

  ThresholdCase test;
  EmulatedProblem p;
  int64_t n;
  DenseProblem second;  ///< of the others in place of the anchors
  Stored others, values;
  Thresholds given{};

 private:
  double threshold(int64_t i, int64_t k) const {
    return is_grid() ? double(k) : const_cast<Stored&>(values).get(i * given.count + k);
  }

  /// Ratios of whole numbers, whose products are exact in every type: a pair on a bound stays
  /// there.
  static void make_exact(Stored& stored, Vector& values) {
    for (size_t e = 0; e < values.size(); ++e) {
      values[e] = std::round(values[e] * 16) / 16;
      stored.set(e, values[e]);
    }
  }

  /// Some of a row's hardnesses, so that bounds are met; of Euclidean distances, whose roots are
  /// not exact, numbers between them.
  void draw(int64_t i, std::mt19937& generator) {
    const bool is_exact = p.dense.measure != Measure::kEuclidean;
    std::vector<double> drawn;
    const int64_t wanted = p.dense.m == 0 ? 0 : int64_t(generator() % unsigned(given.count + 1));
    for (int attempt = 0; int64_t(drawn.size()) < wanted && attempt < 1000; ++attempt) {
      const double t = y(i, int64_t(generator() % unsigned(p.dense.m)));
      const double shifted = is_exact ? t : t + (generator() % 100) / 100.0;
      if (is_exact || is_apart(i, shifted)) drawn.push_back(shifted);
    }
    std::sort(drawn.begin(), drawn.end());
    drawn.resize(given.count, kAbsent);
    for (int64_t k = 0; k < given.count; ++k) values.set(i * given.count + k, drawn[k]);
  }

  bool is_apart(int64_t i, double t) const {
    for (int64_t j = 0; j < p.dense.m; ++j)
      for (const double bound : {-test.margin, test.at_least, test.above, test.below})
        if (std::fabs(y(i, j) - (t + bound)) < 1e-5) return false;
    return true;
  }
};

/// Of searched hinges the first sums are of the row, wherever in it they are.
Vector comparable(const ThresholdProblem& problem, Vector sums) {
  const int64_t count = problem.given.count;
  if (problem.test.form != ThresholdForm::kHinge) return sums;
  for (int64_t i = 0; i < problem.n; ++i)
    for (int64_t k = 1; k < count; ++k) {
      sums[i * count] += sums[i * count + k];
      sums[i * count + k] = 0;
    }
  return sums;
}

void check_sums(const ThresholdCase& c, std::mt19937& generator, const SweepOptions& options = {}) {
  ThresholdProblem problem(c, generator);
  // a grid's counts are few, and their sums near 1
  expect_close("threshold_sums", c.problem, comparable(problem, problem.found_sums(options)),
               comparable(problem, problem.sums()), tolerance(c.problem.type));
}

void check_gradient(const ThresholdCase& c, std::mt19937& generator, bool needs_anchors = true,
                    bool needs_references = true) {
  ThresholdProblem problem(c, generator);
  const NumberType type = c.problem.type, real = real_type(type);
  Stored grad(real, size_t(problem.grad_count())), largest(real, size_t(problem.n));
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < problem.grad_count(); ++i) grad.set(i, normal(generator));
  for (int64_t i = 0; i < problem.n; ++i) largest.set(i, 3 * double(std::max<int64_t>(1, c.count)));
  const DenseGradient expected = problem.gradient(grad.values());
  EmulatedProblem& p = problem.p;
  Stored anchors(type, size_t(problem.n * p.dense.d)), references(type, p.references.count());
  needs_references = needs_references && !p.dense.is_self;
  const GradientOutputs outputs{needs_anchors ? anchors.data() : nullptr,
                                needs_references ? references.data() : nullptr, nullptr};
  GradientOptions options{};
  options.max_panel_bytes = 128 * 128 * int64_t(Stored::size_of(type));
  Buffer<char> workspace(threshold_gradient_workspace(p.problem, problem.given, outputs, options),
                         poison());
  CHECK(threshold_gradient(p.problem, problem.given, grad.data(), largest.data(), outputs,
                           workspace, nullptr, options) == cudaSuccess);
  const double allowed = gradient_tolerance(type);
  if (needs_anchors)
    expect_close("anchors_grad of thresholds", c.problem, anchors.values(), expected.anchors,
                 allowed, 1e-3);
  if (needs_references)
    expect_close("references_grad of thresholds", c.problem, references.values(),
                 expected.references, allowed, 1e-3);
}

constexpr ThresholdForm kForms[] = {ThresholdForm::kHinge, ThresholdForm::kSoftplus,
                                    ThresholdForm::kSigmoid, ThresholdForm::kPulse};
constexpr ThresholdForm kHinge = ThresholdForm::kHinge;

/// A form on both sides of a tile, with lists of its own length, and windows of every kind.
void check_form(NumberType type, Measure measure, ThresholdForm form, std::mt19937& generator) {
  const int64_t few = form == ThresholdForm::kPulse ? 14 : 3;  // or a grid beyond all measures
  check_sums({{type, measure, 131, 0, 20, 30}, form, few}, generator);
  check_sums({{type, measure, 37, 140, 5, 9}, form, 7, 0.5, -0.5, -kInfinity, 0.5}, generator);
  check_gradient({{type, measure, 131, 0, 20, 30}, form, few}, generator);
  check_gradient({{type, measure, 37, 140, 5, 9}, form, 7, 0.5, -kInfinity, -0.25, 1}, generator);
}

/// Hinges against more thresholds than are compared one by one.
void check_searched(NumberType type, Measure measure, std::mt19937& generator) {
  check_sums({{type, measure, 40, 0, 12, 4}, kHinge, 33}, generator);
  check_sums({{type, measure, 20, 141, 12, 4}, kHinge, 70, 0.5, -0.5, -kInfinity, 0.25}, generator);
  check_sums({{type, measure, 20, 30, 12, 4}, kHinge, 40, 0.5, -kInfinity, 0}, generator);
  check_gradient({{type, measure, 40, 0, 12, 4}, kHinge, 33}, generator);
}

/// Rows of two embeddings, of which the harder counts.
void check_others(NumberType type, Measure measure, ThresholdForm form, int64_t count,
                  std::mt19937& generator) {
  const Case two_tiles{type, measure, 70, 131, 20, 9};
  ThresholdCase c{two_tiles, form, count};
  c.has_others = true;
  check_sums(c, generator);
  check_gradient(c, generator);
  c.problem = {type, measure, 5, 9, 3, 2};
  check_sums(c, generator);
  check_gradient(c, generator, false, true);
}

void test(std::mt19937& generator) {
  const bool is_first_seed = emulation::config.seed == 0;
  for (const NumberType type : kNumberTypes) {
    int turn = 0;
    for (const ThresholdForm form : kForms) {
      Measure measure = kMeasures[turn++ % std::size(kMeasures)];
      if (form == ThresholdForm::kPulse)
        measure = Measure::kSquaredEuclidean;  // its edges are exact
      check_form(type, measure, form, generator);
    }
    check_searched(type, Measure::kDot, generator);
    check_others(type, Measure::kDot, kHinge, 1, generator);
    check_others(type, Measure::kSquaredEuclidean, ThresholdForm::kSoftplus, 3, generator);
    if (!is_first_seed) continue;
    check_others(type, Measure::kDot, kHinge, 40, generator);
    check_searched(type, Measure::kEuclidean, generator);
    for (const ThresholdForm form : kForms) {
      const Case one{type, Measure::kDot, 1, 0, 3, 2},
          none{type, Measure::kDot, 5, 0, 3, 2, false, false, false, true};
      check_sums({one, form, 2}, generator);
      check_sums({none, form, 2}, generator);
      check_gradient({{type, Measure::kEuclidean, 9, 5, 3, 2}, form, 2}, generator, false, true);
      check_gradient({{type, Measure::kEuclidean, 9, 5, 3, 2}, form, 2}, generator, true, false);
    }
    // launches of one row of tiles each, and columns that are divided among blocks
    check_sums({{type, Measure::kDot, 260, 300, 4, 9}, kHinge, 3}, generator, {1, 0});
    check_sums({{type, Measure::kDot, 260, 300, 4, 9}, kHinge, 40}, generator, {1, 4});
  }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
