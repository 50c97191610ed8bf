// Statistics and gradients on Hopper's instructions, with what mma.sync adds, against double loops;
// and which of the two engines computes a problem, and why.
#include <cstring>

#include "emulated_problem.h"
#include "hopper/gradient_plan.h"

namespace fusedml::testing {
namespace {

/// The second of the types with 16 bits, where both are compiled.
const NumberType kOtherSixteenBit =
    kNumberTypes[1] == NumberType::kFp16 ? NumberType::kFp16 : kSixteenBit;

/// A problem of 16-bit numbers and dot products.  m = 0: a self problem.
struct EngineCase {
  NumberType type;
  int64_t n, m, d;
  int samples;  ///< of a class; labels are sorted
  double scale = 10, shift = -3;
  int64_t long_rows = 0;  ///< whose norms are so large that no square with them is plain
};

/// Squares of 256, or 128 for route A, of which all pairs are plain: the tests would be about
/// nothing without any, and without others.
struct SquareCounts {
  int64_t plain = 0, all = 0;
};

class EngineTest {
 public:
  EngineTest(const EngineCase& c, std::mt19937& generator)
      : p_({c.type, Measure::kDot, c.n, c.m, c.d, 2}, generator),
        samples_(c.samples),
        long_rows_(c.long_rows),
        grads_(NumberType::kFp32, size_t(3 * c.n)) {
    label(p_.anchor_labels, p_.dense.anchor_labels);
    if (c.m > 0) label(p_.reference_labels, p_.dense.reference_labels);
    if (c.m == 0) p_.dense.reference_labels = p_.dense.anchor_labels;
    for (size_t e = 0; e < size_t(c.long_rows * c.d); ++e) {
      p_.anchors.set(e, 12 * p_.anchors.get(e));
      p_.dense.anchors[e] = p_.anchors.get(e);
    }
    if (c.m == 0) p_.dense.references = p_.dense.anchors;
    p_.problem.logit[2] = p_.dense.logit[2] = c.scale;
    p_.problem.logit[3] = p_.dense.logit[3] = c.shift;
    p_.problem.labels_sorted = true;
    std::normal_distribution<double> normal(0, 1);
    for (size_t i = 0; i < size_t(3 * c.n); ++i) grads_.set(i, normal(generator));
  }

  const Problem& problem() const { return p_.problem; }

  SquareCounts squares(int64_t side) const {
    SquareCounts counts;
    const int64_t rows = p_.dense.n / side, cols = p_.dense.m / side;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        const bool meets = i * side / samples_ <= ((j + 1) * side - 1) / samples_ &&
                           j * side / samples_ <= ((i + 1) * side - 1) / samples_;
        const bool is_long = i * side < long_rows_ || (p_.dense.is_self && j * side < long_rows_);
        counts.plain += !meets && !is_long;
      }
    }
    counts.all = ceil_div(p_.dense.n, side) * ceil_div(p_.dense.m, side);
    return counts;
  }

  Vector statistics(SweepOptions options, Engine engine) {
    options.engine = engine;
    const size_t n = size_t(p_.test.n);
    Stored statistics(NumberType::kFp32, 3 * n), losses(NumberType::kFp32, n),
        partials(NumberType::kFp32, 3 * n);
    Buffer<int64_t> counts(2 * n, -1);
    Buffer<char> workspace(pair_statistics_workspace(p_.problem, options), poison());
    const RowHead head{RowHeadKind::kSoftplusSum, nullptr, {2, 10}};
    CHECK(pair_statistics(p_.problem, head,
                          {statistics.data(), counts, losses.data(), partials.data()}, workspace,
                          nullptr, options) == cudaSuccess);
    Vector found = statistics.values();
    found.insert(found.end(), counts.begin(), counts.end());
    for (const double loss : losses.values()) found.push_back(loss);
    return found;
  }

  void check_statistics(const SweepOptions& options) {
    const SquareCounts counts = squares(256);
    CHECK(counts.plain > 0 && counts.plain < counts.all);
    const int64_t n = p_.test.n;
    const DenseStatistics dense = dense_statistics(p_.dense);
    Vector expected = dense.statistics;
    expected.insert(expected.end(), dense.counts.begin(), dense.counts.end());
    for (int64_t i = 0; i < n; ++i)
      expected.push_back(softplus(dense.statistics[size_t(i)]) / 2 +
                         softplus(dense.statistics[size_t(n + i)]) / 10);
    const Vector found = statistics(options, Engine::kHopper);
    const auto part = [n](const Vector& all, int64_t begin, int64_t end) {
      return Vector(all.begin() + begin * n, all.begin() + end * n);
    };
    const double allowed = tolerance(p_.test.type);
    expect_close("statistics", p_.test, part(found, 0, 3), part(expected, 0, 3), allowed);
    expect_close("counts", p_.test, part(found, 3, 5), part(expected, 3, 5), 0);
    expect_close("losses", p_.test, part(found, 5, 6), part(expected, 5, 6), allowed);
    if (kIsSanitized) return;                              // which has seen it the first time
    CHECK(statistics(options, Engine::kHopper) == found);  // the same bits
  }

  /// Anchors' gradient, then the references'.
  Vector gradient(GradientOptions options, Engine engine, bool of_anchors, bool of_references) {
    options.engine = engine;
    const Case& c = p_.test;
    Stored statistics(NumberType::kFp32, size_t(3 * c.n)),
        anchors(c.type, of_anchors ? size_t(c.n * c.d) : 0),
        references(c.type, of_references ? size_t(c.m * c.d) : 0);
    for (size_t i = 0; i < exact_.size(); ++i) statistics.set(i, exact_[i]);
    const GradientOutputs outputs{of_anchors ? anchors.data() : nullptr,
                                  of_references ? references.data() : nullptr, nullptr};
    const size_t bytes = pair_gradient_workspace(p_.problem, outputs, options);
    if (options.max_workspace_bytes > 0)
      CHECK(bytes <= size_t(std::max(options.max_workspace_bytes, int64_t(8'000'000))));
    Buffer<char> workspace(bytes, poison());
    CHECK(pair_gradient(p_.problem, statistics.data(), grads_.data(), outputs, workspace, nullptr,
                        options) == cudaSuccess);
    Vector found = anchors.values();
    for (const double of_reference : references.values()) found.push_back(of_reference);
    return found;
  }

  void check_gradient(const GradientOptions& options, bool of_anchors = true,
                      bool of_references = true) {
    const Case& c = p_.test;
    of_references &= c.m > 0;
    const SquareCounts counts = squares(128);
    CHECK(counts.plain > 0 && counts.plain < counts.all);
    exact_ = dense_statistics(p_.dense).statistics;
    const DenseGradient expected =
        dense_gradient(p_.dense, statistics_weights(p_.dense, exact_, grads_.values()));
    Vector wanted;
    if (of_anchors) wanted = expected.anchors;
    if (of_references)
      wanted.insert(wanted.end(), expected.references.begin(), expected.references.end());
    const Vector found = gradient(options, Engine::kHopper, of_anchors, of_references);
    expect_close("gradient", c, found, wanted, gradient_tolerance(c.type), 1e-3);
    if (kIsSanitized) return;
    CHECK(gradient(options, Engine::kHopper, of_anchors, of_references) == found);
  }

  EmulatedProblem& emulated() { return p_; }

 private:
  void label(Buffer<int64_t>& labels, std::vector<int64_t>& dense) const {
    for (size_t row = 0; row < dense.size(); ++row)
      labels[row] = dense[row] = int64_t(row) / samples_ * (int64_t(1) << 33);
  }

  EmulatedProblem p_;
  int64_t samples_, long_rows_;
  Stored grads_;
  Vector exact_;
};

/// After the first schedule, on which copies land late, every other case: those of the schedule of
/// early ones are left to the one of random ones.
bool is_left_out() {
  static int turn = 0;
  return emulation::config.seed != 0 && ++turn % 2 == 0;
}

void check_statistics(const EngineCase& c, std::mt19937& generator,
                      const SweepOptions& options = {}) {
  if (is_left_out()) return;
  EngineTest(c, generator).check_statistics(options);
}

void check_gradient(const EngineCase& c, std::mt19937& generator,
                    const GradientOptions& options = {}, bool of_anchors = true,
                    bool of_references = true) {
  if (is_left_out()) return;
  EngineTest(c, generator).check_gradient(options, of_anchors, of_references);
}

GradientOptions panels_of(int64_t squares) {
  return {GradientRoute::kPanel, squares * 256 * 256 * 2};
}

/// A NaN or an infinity spoils its row, and as a reference every row, as on mma.sync.
void check_not_finite(std::mt19937& generator) {
  for (const double bad : {std::nan(""), kInfinity}) {
    EngineTest test({kSixteenBit, 256, 600, 64, 8}, generator);
    test.emulated().anchors.set(66 * 64 + 2, bad);
    for (const bool is_reference : {false, true}) {
      if (is_reference) test.emulated().references.set(299 * 64, bad);
      const Vector found = test.statistics({}, Engine::kHopper);
      const Vector on_mma = test.statistics({}, Engine::kMmaSync);
      for (size_t i = 0; i < 3 * 256; ++i) {
        CHECK(std::isnan(found[i]) == (is_reference || i % 256 == 66));
        CHECK(std::isnan(found[i]) == std::isnan(on_mma[i]));
      }
    }
  }
}

void check_forward(std::mt19937& generator) {
  check_statistics({kSixteenBit, 600, 0, 72, 8}, generator);
  // the symmetric schedule: three groups of one square, in one launch and in two
  check_statistics({kOtherSixteenBit, 700, 0, 64, 4, -20}, generator, {0, 4});
  check_statistics({kSixteenBit, 700, 0, 200, 4}, generator, {1, 4});
  // rows whose norms are large in one of three squares
  check_statistics({kOtherSixteenBit, 768, 0, 64, 16, 10, 0, 10}, generator);
  // two operands: the rows in several launches, columns in several slots
  check_statistics({kSixteenBit, 520, 300, 128, 32}, generator, {1, 0});
  check_statistics({kOtherSixteenBit, 300, 530, 320, 4, 35, 1}, generator);
}

void check_backward(std::mt19937& generator) {
  // route A
  check_gradient({kSixteenBit, 300, 0, 64, 8}, generator);
  check_gradient({kOtherSixteenBit, 261, 400, 72, 32}, generator);
  check_gradient({kSixteenBit, 384, 0, 128, 16, 10, 0, 7}, generator);
  // route B: one panel, several of a rectangle, those on and above the diagonal
  check_gradient({kOtherSixteenBit, 600, 0, 200, 8}, generator);
  check_gradient({kSixteenBit, 545, 0, 72, 4}, generator, panels_of(1));
  GradientOptions rectangle = panels_of(1);
  rectangle.max_workspace_bytes = 1;
  check_gradient({kOtherSixteenBit, 530, 0, 136, 8}, generator, rectangle);
  check_gradient({kSixteenBit, 300, 560, 320, 4}, generator, panels_of(2));
  check_gradient({kOtherSixteenBit, 260, 530, 64, 4}, generator, panels_of(1), false, true);
  check_gradient({kSixteenBit, 530, 270, 200, 4}, generator, panels_of(1), true, false);
}

/// A problem that Hopper's kernels compute.
Problem sound_problem() {
  alignas(16) static char data[16];
  Problem sound{};
  sound.number_type = kSixteenBit;
  sound.measure = Measure::kDot;
  sound.anchors = sound.references = data;
  sound.n = sound.m = 4096;
  sound.d = 64;
  sound.is_self = sound.exclude_diagonal = sound.labels_sorted = true;
  return sound;
}

/// Each reason why mma.sync computes, by a problem that is wrong in one thing alone.
void check_choice() {
  alignas(16) static char data[16];
  const Problem sound = sound_problem();
  const GradientOutputs outputs{data, nullptr, nullptr};
  CHECK(choose_engine(sound, Engine::kAuto).engine == Engine::kHopper);
  CHECK(choose_engine(sound, Engine::kAuto).reason == nullptr);
  CHECK(choose_engine(sound, outputs, Engine::kAuto).engine == Engine::kHopper);
  CHECK(choose_engine(sound, Engine::kMmaSync).engine == Engine::kMmaSync);

  const auto is_refused = [&](const auto& spoil, const char* reason, bool only_if_auto) {
    Problem problem = sound;
    spoil(problem);
    const EngineChoice automatic = choose_engine(problem, Engine::kAuto);
    CHECK(automatic.engine == Engine::kMmaSync && std::strstr(automatic.reason, reason));
    const EngineChoice chosen = choose_engine(problem, Engine::kHopper);
    CHECK((chosen.engine == Engine::kHopper) == only_if_auto);
    if (only_if_auto) return;
    SweepOptions options;
    options.engine = Engine::kHopper;
    CHECK(pair_statistics(problem, {}, {}, nullptr, nullptr, options) == cudaErrorNotSupported);
  };
  is_refused([](Problem& p) { p.number_type = NumberType::kFp32; }, "neither bfloat16", false);
  is_refused([](Problem& p) { p.measure = Measure::kEuclidean; }, "dot product", false);
  is_refused([](Problem& p) { p.thresholds = data; }, "mined", false);
  is_refused([](Problem& p) { p.set_words = 1; }, "several labels", false);
  is_refused([](Problem& p) { p.extent = reinterpret_cast<int64_t*>(data); }, "take part", false);
  is_refused([](Problem& p) { p.is_self = false; }, "(i, i)", false);
  is_refused([](Problem& p) { p.n = 0; }, "no pairs", false);
  is_refused([](Problem& p) { p.d = 68; }, "multiple of 8", false);
  is_refused([](Problem& p) { p.anchors = data + 8; }, "16 bytes", false);
  is_refused([](Problem& p) { p.labels_sorted = false; }, "sorted", true);
  is_refused([](Problem& p) { p.d = 56; }, "64 dimensions", true);
  is_refused([](Problem& p) { p.n = 4095; }, "4096", true);

  double logit[4];
  const GradientOutputs with_logit{data, nullptr, logit}, odd{data + 2, nullptr, nullptr};
  CHECK(std::strstr(choose_engine(sound, with_logit, Engine::kHopper).reason, "logit"));
  CHECK(std::strstr(choose_engine(sound, odd, Engine::kHopper).reason, "16 bytes"));
  GradientOptions options;
  options.engine = Engine::kHopper;
  CHECK(pair_gradient(sound, nullptr, nullptr, with_logit, nullptr, nullptr, options) ==
        cudaErrorNotSupported);
}

/// At most the larger of 64 MB and 1.5 times the bytes of the embeddings, or what the options say.
void check_workspace() {
  const auto problem_of = [](int64_t n, int64_t m, int64_t d) {
    Problem problem{};
    problem.number_type = kSixteenBit;
    problem.n = n;
    problem.m = m;
    problem.d = d;
    problem.is_self = problem.exclude_diagonal = m == 0;
    problem.labels_sorted = true;
    return problem;
  };
  alignas(16) static char output[16];
  const auto bytes_of = [](const Problem& problem, int64_t most) {
    GradientOptions options;
    options.max_workspace_bytes = most;
    const GradientOutputs outputs{output, problem.is_self ? nullptr : output, nullptr};
    CHECK(choose_engine(problem, outputs, Engine::kAuto).engine == Engine::kHopper);
    return int64_t(pair_gradient_workspace(problem, outputs, options));
  };
  for (const int64_t n : {4096, 16384, 65536, 1 << 20}) {
    for (const int64_t d : {64, 128, 192, 768, 1024}) {
      for (const int64_t m : {int64_t(0), n}) {
        const Problem problem = problem_of(n, m, d);
        const int64_t bytes = bytes_of(problem, 0);
        CHECK(bytes <= std::max<int64_t>(64'000'000, 3 * (n + m) * d));
        CHECK(int64_t(pair_statistics_workspace(problem)) <= 64'000'000);
        CHECK(bytes_of(problem, 20'000'000) <= 20'000'000);
      }
    }
  }
  // panels that stay in the L2 cache; of self problems those on and above the diagonal, with the
  // sums of all rows
  for (const int64_t d : {192, 256, 512, 768, 1024}) {
    for (const int64_t n : {16384, 65536}) {
      const int64_t bytes = std::max<int64_t>(64'000'000, 3 * n * d);
      const GradientPlan plan =
          plan_hopper_gradient({n, n, d, true, true, false}, {}, {64'000'000, bytes});
      CHECK(plan.is_halved && plan.num_sums == n * d);
      CHECK(plan.panel_rows >= 3584 && plan.panel_rows <= 4096 && plan.panel_rows % 256 == 0);
    }
  }
  CHECK(bytes_of(problem_of(65536, 0, 768), 0) > 100'000'000);
  CHECK(bytes_of(problem_of(65536, 0, 768), 64'000'000) <= 64'000'000);
}

void test(std::mt19937& generator) {
  const char* reason = choose_engine(sound_problem(), Engine::kHopper).reason;
  if (reason != nullptr) {
    std::printf("skipped: %s\n", reason);
    return;
  }
#if defined(FUSEDML_EMULATION)
  using emulation::AsyncTiming;
  const AsyncTiming timings[] = {AsyncTiming::kLate, AsyncTiming::kEarly, AsyncTiming::kRandom};
  emulation::config.async_timing = timings[emulation::config.seed % 3];
#endif
  if (emulation::config.seed == 0) {
    check_choice();
    check_workspace();
    if (!kIsSanitized) check_not_finite(generator);  // the values are what it is about
  }
  check_forward(generator);
  check_backward(generator);
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
