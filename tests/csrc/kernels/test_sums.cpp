// Sums of terms and their gradients, against double loops in float64.
#include "emulated_problem.h"
#include "kernels/workspace.h"

namespace fusedml::testing {
namespace {

constexpr PairTerm<double> kHinge{0, 0, 1, 0, 0, kInfinity, false, false};
constexpr PairTerm<double> kClosedHinge{0, 0, 1, 0, 0, kInfinity, true, false};
constexpr PairTerm<double> kSquaredHinge{0, 1, 0, 0, 0, kInfinity, false, false};
constexpr PairTerm<double> kIdentity{0, 0, 1, 0, -kInfinity, kInfinity, false, false};
constexpr PairTerm<double> kSoftplus{0, 0, 0, 0, -kInfinity, kInfinity, false, true};
constexpr PairTerm<double> kCurve{-0.7, 2, -0.3, 0.4, -kInfinity, kInfinity, false, false};
constexpr PairTerm<double> kWithinEnds{1.5, 0, 0, 1, -0.5, 0.75, false, false};

struct KindOfTerm {
  bool is_positive;
  PairTerm<double> term;
};
using Terms = std::vector<KindOfTerm>;

// two of each kind in an order that is not theirs; one kind alone; ends of intervals
const Terms kSeveral{{false, kHinge}, {true, kSquaredHinge}, {true, kIdentity}, {false, kSoftplus}};
const Terms kOfNegatives{{false, kClosedHinge}};
const Terms kEnds{{true, kWithinEnds}, {false, kWithinEnds}, {false, kCurve}};

bool counts(const PairTerm<double>& term, double z) {
  if (term.is_softplus || z == term.floor) return term.is_softplus || term.is_closed;
  return z > term.floor && z < term.ceiling;
}

double value(const PairTerm<double>& term, double z) {
  if (term.is_softplus) return softplus(z);
  if (!counts(term, z)) return 0;
  return std::exp(term.exponent * z) * (term.square * z * z + term.linear * z + term.constant);
}

double slope(const PairTerm<double>& term, double z) {
  if (term.is_softplus) return sigmoid(z);
  if (!counts(term, z)) return 0;
  return term.exponent * value(term, z) +
         std::exp(term.exponent * z) * (2 * term.square * z + term.linear);
}

/// A problem and what is summed of it.  Embeddings and shifts are small multiples of 1/4 and 1/8,
/// so that logits are exact in every number type, and many of them 0: equality is tested, too.
struct Summed {
  EmulatedProblem p;
  Terms terms;
  Stored shifts;
  PairSums sums{};

  Summed(const Case& c, const Terms& terms, bool has_shifts, bool both_sides,
         std::mt19937& generator)
      : p(c, generator), terms(terms), shifts(real_type(c.type), 2 * (c.n + c.m)) {
    whole_numbers(p.anchors, p.dense.anchors, p.dense.active_rows * c.d, generator);
    if (p.dense.is_self) p.dense.references = p.dense.anchors;
    whole_numbers(p.references, p.dense.references, p.dense.is_self ? 0 : p.dense.active_cols * c.d,
                  generator);
    const double logit[4] = {-1, 0.5, 2, c.measure == Measure::kDot ? -0.25 : -1};
    for (int k = 0; k < 4; ++k) p.dense.logit[k] = p.problem.logit[k] = logit[k];
    for (size_t i = 0; i < shifts.count(); ++i) shifts.set(i, eighths(generator, 8));
    sums.num_terms = int(terms.size());
    for (int k = 0; k < sums.num_terms; ++k) {
      sums.is_positive[k] = terms[k].is_positive;
      sums.terms[k] = terms[k].term;
    }
    sums.both_sides = both_sides;
    if (has_shifts) sums.shifts = shifts.data();
  }

  static double eighths(std::mt19937& generator, int most) {
    return (int(generator() % unsigned(2 * most + 1)) - most) / 8.0;
  }
  static void whole_numbers(Stored& stored, Vector& values, int64_t count,
                            std::mt19937& generator) {
    for (int64_t e = 0; e < count; ++e) stored.set(e, values[e] = 2 * eighths(generator, 2));
  }

  int64_t lines() const { return sums.num_lines(p.problem); }
  int64_t count() const { return sums.num_terms * lines(); }

  /// z of a pair as a line sees it.
  double z(int64_t i, int64_t j, int64_t line) {
    const int64_t kind = p.dense.is_positive(i, j) ? 0 : 1;
    return p.dense.z(i, j) + (sums.shifts ? shifts.get(kind * lines() + line) : 0);
  }

  /// visit(k, line, z) for each pair, term of its kind and line that it feeds.
  template <class Visit>
  void for_each(int64_t i, int64_t j, const Visit& visit) {
    for (int k = 0; k < sums.num_terms; ++k) {
      if (terms[k].is_positive != p.dense.is_positive(i, j)) continue;
      visit(k, i, z(i, j, i));
      if (sums.has_columns(p.problem)) visit(k, p.dense.n + j, z(i, j, p.dense.n + j));
    }
  }

  /// F, D, C [terms, lines] and numbers [2, lines].
  struct Result {
    Vector values, slopes, counts, numbers;
  };
  Result exact() {
    Result r{Vector(count()), Vector(count()), Vector(count()), Vector(2 * lines())};
    for (int64_t i = 0; i < p.dense.n; ++i)
      for (int64_t j = 0; j < p.dense.m; ++j) {
        if (!p.dense.exists(i, j)) continue;
        const int64_t kind = p.dense.is_positive(i, j) ? 0 : 1;
        ++r.numbers[kind * lines() + i];
        if (sums.has_columns(p.problem)) ++r.numbers[kind * lines() + p.dense.n + j];
        for_each(i, j, [&](int k, int64_t line, double z) {
          r.values[k * lines() + line] += value(terms[k].term, z);
          r.slopes[k * lines() + line] += slope(terms[k].term, z);
          r.counts[k * lines() + line] += fusedml::testing::counts(terms[k].term, z);
        });
      }
    return r;
  }

  /// What the kernels make of it.
  Result found(const SweepOptions& options = {}) {
    const NumberType real = real_type(p.test.type);
    Stored values(real, count()), slopes(real, count());
    Buffer<int64_t> counts(count(), -1), numbers(2 * lines(), -1);
    Buffer<char> workspace(pair_sums_workspace(p.problem, sums, options), poison());
    CHECK(pair_sums(p.problem, sums,
                    {values.data(), sums.shifts ? slopes.data() : nullptr, counts, numbers},
                    workspace, nullptr, options) == cudaSuccess);
    return {values.values(), slopes.values(), Vector(counts.begin(), counts.end()),
            Vector(numbers.begin(), numbers.end())};
  }
};

struct Needs {
  bool anchors = true, references = true, logit = true;
};

/// scale: of the incoming gradient.
void check_gradient(Summed& s, const Vector& slopes, const GradientOptions& options,
                    const Needs& needs, double scale, std::mt19937& generator) {
  const Case& c = s.p.test;
  const NumberType real = real_type(c.type);
  Stored grad(real, s.count()), given_slopes(real, s.count()), shifts_grad(real, 2 * s.lines());
  std::normal_distribution<double> normal(0, scale);
  for (int64_t i = 0; i < s.count(); ++i) {
    grad.set(i, normal(generator));
    given_slopes.set(i, slopes[i]);
  }
  Vector expected_shifts(2 * s.lines());
  for (int64_t i = 0; i < s.count(); ++i) {
    const int64_t kind = s.terms[i / s.lines()].is_positive ? 0 : 1;
    expected_shifts[kind * s.lines() + i % s.lines()] += grad.get(i) * slopes[i];
  }
  const DenseGradient expected = dense_gradient(s.p.dense, [&](int64_t i, int64_t j) {
    double d_z = 0;
    s.for_each(i, j, [&](int k, int64_t line, double z) {
      d_z += grad.get(k * s.lines() + line) * slope(s.terms[k].term, z);
    });
    return d_z;
  });
  Stored anchors_grad(c.type, c.n * c.d), references_grad(c.type, c.m * c.d);
  Buffer<double> logit_grad(4, -1.0);
  const bool has_references = !s.p.dense.is_self && needs.references;
  const GradientOutputs outputs{needs.anchors ? anchors_grad.data() : nullptr,
                                has_references ? references_grad.data() : nullptr,
                                needs.logit ? static_cast<double*>(logit_grad) : nullptr};
  Buffer<char> workspace(pair_sums_gradient_workspace(s.p.problem, s.sums, outputs, options),
                         poison());
  const bool has_shifts = s.sums.shifts != nullptr;
  CHECK(pair_sums_gradient(s.p.problem, s.sums, has_shifts ? given_slopes.data() : nullptr,
                           grad.data(), outputs, has_shifts ? shifts_grad.data() : nullptr,
                           workspace, nullptr, options) == cudaSuccess);
  const double allowed = gradient_tolerance(c.type);
  if (needs.anchors)
    expect_close("anchors_grad of sums", c, anchors_grad.values(), expected.anchors, allowed);
  if (has_references)
    expect_close("references_grad of sums", c, references_grad.values(), expected.references,
                 allowed);
  if (needs.logit)
    expect_close("logit_grad of sums", c, Vector(logit_grad.begin(), logit_grad.end()),
                 expected.logit, allowed);
  if (has_shifts)
    expect_close("shifts_grad of sums", c, shifts_grad.values(), expected_shifts,
                 2 * tolerance(real));
}

void check_sums(const Case& c, const Terms& terms, bool has_shifts, bool both_sides,
                std::mt19937& generator, const SweepOptions& options = {}, const Needs& needs = {},
                double scale = 1) {
  Summed s(c, terms, has_shifts, both_sides, generator);
  const Summed::Result exact = s.exact(), found = s.found(options);
  const double allowed = tolerance(real_type(c.type));
  expect_close("sums", c, found.values, exact.values, allowed);
  if (has_shifts) expect_close("slopes", c, found.slopes, exact.slopes, allowed);
  expect_close("counts", c, found.counts, exact.counts, 0);
  expect_close("numbers", c, found.numbers, exact.numbers, 0);
  // of one tile of both kernels, so that several panels add up
  const int64_t panel_bytes = 128 * 128 * int64_t(Stored::size_of(c.type));
  check_gradient(s, exact.slopes,
                 with_large_tiles(GradientOptions{GradientRoute::kAuto, panel_bytes}), needs, scale,
                 generator);
}

/// What is not finite spoils its row, in a reference every row, of whichever kind its pair is: the
/// terms are of negatives alone.
void check_not_finite(NumberType type, std::mt19937& generator) {
  for (const double bad : {std::nan(""), kInfinity, -kInfinity}) {
    Summed s({type, Measure::kDot, 70, 40, 5, 3}, kOfNegatives, false, false, generator);
    s.p.anchors.set(66 * 5 + 2, bad);
    Vector found = s.found().values;
    for (int64_t i = 0; i < 70; ++i) CHECK(std::isnan(found[i]) == (i == 66));
    s.p.references.set(13 * 5, bad);
    found = s.found().values;
    for (double x : found) CHECK(std::isnan(x));
  }
}

/// A logit that only the device knows: the same bits.
void check_device_logit(NumberType type, std::mt19937& generator) {
  Summed s({type, Measure::kEuclidean, 70, 40, 5, 3}, kSeveral, true, true, generator);
  const Vector by_value = s.found().values;
  Buffer<double> logit(4);
  std::copy(s.p.problem.logit, s.p.problem.logit + 4, logit.begin());
  s.p.problem.device_logit = logit;
  s.p.problem.logit[0] = s.p.problem.logit[2] = std::nan("");
  CHECK(!std::isnan(by_value[0]) && by_value == s.found().values);
}

/// Weights of steep terms, as large as the gradients of their sums are small, stay within fp16:
/// their scale knows how steep the terms are.
void check_steep_terms(NumberType type, std::mt19937& generator) {
  const PairTerm<double> steep{9, 0, 0, 1, -1, 1.5, false, false};
  check_sums({type, Measure::kDot, 70, 0, 5, 3}, {{false, steep}}, false, false, generator, {}, {},
             1e-5);
}

void check_bank_conflicts(std::mt19937& generator) {
  const NoBankConflicts no_bank_conflicts;
  for (const NumberType type : {kSixteenBit, NumberType::kFp32, NumberType::kFp64})
    check_sums({type, Measure::kEuclidean, 130, 45, 72, 5}, kSeveral, true, true, generator);
}

void test(std::mt19937& generator) {
  if (!kIsSanitized) check_bank_conflicts(generator);  // the emulator counts them, in any build
  const bool is_first_seed = emulation::config.seed == 0;
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kMeasures) {
      if (!is_tested(type, measure)) continue;
      check_sums({type, measure, 67, 0, 5, 4}, kSeveral, true, false, generator);
      check_sums({type, measure, 37, 129, 3, 4, false, false, true}, kEnds, true, true, generator);
      if (!is_first_seed) continue;
      check_sums({type, measure, 1, 0, 3, 1}, kSeveral, true, false, generator);
      check_sums({type, measure, 130, 131, 4, 40, true}, kOfNegatives, false, true, generator);
      check_sums({type, measure, 5, 1, 70, 2}, kEnds, false, false, generator, {},
                 {true, false, false});
      check_sums({type, measure, 9, 6, 33, 2}, kSeveral, true, false, generator, {},
                 {false, true, true});
      check_sums({type, measure, 20, 6, 4, 2}, kSeveral, false, true, generator, {},
                 {false, false, true});
      // of a self problem both sides are the same; references of which there are none
      check_sums({type, measure, 70, 0, 4, 9}, kSeveral, false, true, generator);
      check_sums({type, measure, 7, 0, 4, 9, false, false, false, true}, kEnds, true, true,
                 generator);
      // a launch of few rows each, in slots that are used again; and the symmetric schedule, on a
      // GPU of four blocks, in one launch and in two
      check_sums({type, measure, 131, 70, 4, 9}, kSeveral, true, true, generator, {1, 0});
      check_device_logit(type, generator);
      if (measure == Measure::kDot) {
        for (const int64_t max_slot_bytes : {0, 1})
          check_sums({type, measure, 330, 0, 4, 9, true, false, true}, kSeveral, true, false,
                     generator, {max_slot_bytes, 4, TileSize::kLarge});
        if (kIsSanitized) continue;  // the values are what they are about
        check_not_finite(type, generator);
        check_steep_terms(type, generator);
      }
    }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
