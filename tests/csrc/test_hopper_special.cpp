// The kernels of mma.sync on the tiles that those on Hopper's instructions leave: each pair outside
// plain squares once, none inside, against plain loops in double.
#include <cmath>

#include "hopper/special_host.cuh"
#include "hopper_problem.h"

namespace fusedml {
namespace {

using testing::Buffer;
using testing::Side;
using testing::Square;

/// m = 0: a self problem.  Labels are sorted, `samples` of a class.
struct SpecialCase {
  int64_t n, m;
  int d, samples, side_bits;
  double scale, shift;  ///< of the negatives' logits; those of the positives are -2 s + 1
};

void synchronise() {
#if !defined(FUSEDML_EMULATION)
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
#endif
}

/// A problem, and which of its squares are plain by the test's own reckoning.
template <class Number>
class SpecialProblem {
 public:
  using Element = typename Number::Element;

  template <class Spoil>
  SpecialProblem(const SpecialCase& given, std::mt19937& random, const Spoil& spoil)
      : c(given),
        anchors(c.n, c.d, c.samples, random),
        others(c.m > 0 ? c.m : 1, c.d, c.samples, random),
        m(c.m > 0 ? c.m : c.n),
        row_ranges(size_t(num_squares(c.n, c.side_bits))),
        col_ranges(size_t(num_squares(m, c.side_bits))) {
    spoil(anchors);
    anchors.read();
    others.read();
    measure(anchors, c.n, row_squares_, row_ranges);
    measure(references(), m, col_squares_, col_ranges);
    pairs.anchors.embeddings = MatrixView<Element>::of(anchors.embeddings, c.n, c.d);
    pairs.anchors.labels = anchors.labels;
    pairs.references = pairs.anchors;
    if (c.m > 0) {
      pairs.references.embeddings = MatrixView<Element>::of(others.embeddings, c.m, c.d);
      pairs.references.labels = others.labels;
    }
    const double logit[] = {-2, 1, c.scale, c.shift};
    for (int k = 0; k < 4; ++k) pairs.logit.value[k] = logit[k];
    pairs.logit.is_dot = true;
    if (c.m == 0) pairs.excluded = ExcludedDiagonals::of(0, c.n);
    plain = {row_ranges, col_ranges, c.n, m, c.side_bits};
  }

  Side<Number>& references() { return c.m > 0 ? others : anchors; }
  bool exists(int64_t i, int64_t j) const { return i < c.n && j < m && !(c.m == 0 && i == j); }
  bool is_plain(int64_t i, int64_t j) const {
    const size_t row = size_t(i >> c.side_bits), col = size_t(j >> c.side_bits);
    return row < row_squares_.size() && col < col_squares_.size() &&
           are_plain(row_squares_[row], col_squares_[col], c.scale);
  }
  bool is_positive(int64_t i, int64_t j) {
    return anchors.labels[size_t(i)] == references().labels[size_t(j)];
  }
  double logit(int64_t i, int64_t j) {
    const double s = anchors.product(i, references(), j, c.d);
    if (!std::isfinite(s)) return NAN;
    return is_positive(i, j) ? -2 * s + 1 : c.scale * s + c.shift;
  }
  double slope(int64_t i, int64_t j) { return is_positive(i, j) ? -2 : c.scale; }

  SpecialCase c;
  Side<Number> anchors, others;
  int64_t m;
  Buffer<RowRange> row_ranges, col_ranges;
  PairProblem<Number> pairs{};
  PlainSquares plain;

 private:
  /// Whole squares; ranges also of the last lines.
  void measure(Side<Number>& side, int64_t lines, std::vector<Square>& squares,
               Buffer<RowRange>& ranges) {
    const int64_t length = int64_t(1) << c.side_bits;
    for (int64_t begin = 0; begin < lines; begin += length) {
      const Square square = testing::square_of(side, begin, std::min(lines, begin + length), c.d);
      ranges[size_t(begin >> c.side_bits)] = {square.first_label, square.last_label,
                                              float(square.norm)};
      if (begin + length <= lines) squares.push_back(square);
    }
  }

  std::vector<Square> row_squares_, col_squares_;
};

bool is_near(double got, double want, double tolerance) {
  if (std::isnan(want) || std::isinf(want)) return std::isnan(want) ? std::isnan(got) : got == want;
  return std::fabs(got - want) <= tolerance * std::fmax(1, std::fabs(want));
}

/// Sums of exponentials in double.
struct Lse {
  std::vector<double> logits;
  double value() const {
    double most = -INFINITY, sum = 0;
    for (const double z : logits) most = z > most || std::isnan(z) ? z : most;
    if (logits.empty()) return most;
    for (const double z : logits) sum += std::exp(z - most);
    return most + std::log(sum);
  }
};

// --- the forward sweep ---

/// rows_of_launch: 0 for all of them; num_slots: 0 for those of the plan.
template <class Number, class Spoil>
void check_sweep(const SpecialCase& c, int64_t rows_of_launch, int num_slots, std::mt19937& random,
                 const Spoil& spoil) {
  SpecialProblem<Number> p(c, random, spoil);
  const int64_t slot_rows = rows_of_launch > 0 ? rows_of_launch : c.n;
  for (int64_t first = 0; first < c.n; first += slot_rows) {
    SweepArguments<Number, StatisticsReduction<Number>> arguments{};
    arguments.problem = p.pairs;
    arguments.plan = special_plan(c.n, p.m, first, slot_rows);
    if (num_slots > 0) arguments.plan.num_groups = arguments.plan.num_slots = num_slots;
    const int slots = arguments.plan.num_slots;
    Buffer<RowStatistics<float>> partials(size_t(slots * slot_rows),
                                          RowStatistics<float>{{}, {0, NAN}, 0, 0, 0});
    arguments.partials = partials;
    arguments.slot_rows = slot_rows;
    arguments.plain = p.plain;
    CHECK(launch_special_sweep<Number>(arguments, nullptr) == cudaSuccess);
    synchronise();
    bool is_right = true;
    for (int64_t row = first; row < std::min(c.n, first + slot_rows); ++row) {
      RowStatistics<float> merged;
      for (int slot = 0; slot < slots; ++slot)
        merged.merge(partials[size_t(slot * slot_rows + row - first)]);
      Lse positive, negative;
      double sum_positive = 0;
      for (int64_t col = 0; col < p.m; ++col) {
        if (!p.exists(row, col) || p.is_plain(row, col)) continue;
        const double z = p.logit(row, col);
        if (p.is_positive(row, col)) sum_positive += z;
        (p.is_positive(row, col) ? positive : negative).logits.push_back(z);
      }
      is_right &= merged.num_positive == int(positive.logits.size()) &&
                  merged.num_negative == int(negative.logits.size()) &&
                  is_near(merged.positive.value(), positive.value(), 2e-5) &&
                  is_near(merged.negative.value(), negative.value(), 2e-5) &&
                  is_near(merged.sum_positive, sum_positive, 2e-5);
    }
    CHECK(is_right);
  }
}

// --- gradients ---

/// Row statistics and their gradients, as a loss may have given them.
struct Vectors {
  Vectors(int64_t rows, double most, std::mt19937& random)
      : lse_positive(size_t(rows)),
        lse_negative(size_t(rows)),
        grad_positive(size_t(rows)),
        grad_negative(size_t(rows)),
        grad_sum(size_t(rows)) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (int64_t row = 0; row < rows; ++row) {
      const size_t i = size_t(row);
      lse_positive[i] = 6 + uniform(random);
      lse_negative[i] = float(most) + 2 + uniform(random);
      grad_positive[i] = uniform(random);
      grad_negative[i] = uniform(random);
      grad_sum[i] = uniform(random);
    }
  }
  RowVectors<float, kNumWeightVectors> get() {
    RowVectors<float, kNumWeightVectors> vectors{};
    vectors.vector[kLsePositive] = lse_positive;
    vectors.vector[kLseNegative] = lse_negative;
    vectors.vector[kGradLsePositive] = grad_positive;
    vectors.vector[kGradLseNegative] = grad_negative;
    vectors.vector[kGradSumPositive] = grad_sum;
    return vectors;
  }
  /// dL/dz of a pair in the part of the loss that `row` owns.
  double gradient(int64_t row, bool is_positive, double z) {
    const size_t i = size_t(row);
    if (is_positive) return grad_positive[i] * std::exp(z - lse_positive[i]) + grad_sum[i];
    return grad_negative[i] * std::exp(z - lse_negative[i]);
  }

  Buffer<float> lse_positive, lse_negative, grad_positive, grad_negative, grad_sum;
};

template <class Number>
class GradientTest {
 public:
  using Element = typename Number::Element;

  GradientTest(const SpecialCase& c, bool cols_own, std::mt19937& random)
      : p_(c, random, [](Side<Number>&) {}),
        of_rows_(c.n, std::fabs(c.scale) * 2 + c.shift, random),
        of_cols_(p_.m, std::fabs(c.scale) * 2 + c.shift, random),
        weight_scale_(1, Number::kNeedsWeightScale ? 16.f : 1.f) {
    source_.rows_own = true;
    source_.cols_own = cols_own;
  }

  /// A panel of rows x cols, which may end behind the last pair.
  void check_panel(int64_t row_begin, int64_t col_begin, int64_t rows, int64_t cols) {
    Buffer<Element> panel(size_t(rows * cols), Number::to_element(-77));
    PairWeightsArguments<Number, WeightSource> arguments{};
    fill(arguments);
    arguments.panel = {panel, row_begin, col_begin, rows, cols};
    CHECK(launch_special_weights<Number>(arguments, nullptr) == cudaSuccess);
    synchronise();
    bool is_right = true;
    int64_t num_plain = 0;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        const double got = Number::to_real(panel[size_t(i * cols + j)]);
        const bool is_plain = p_.is_plain(row_begin + i, col_begin + j);
        num_plain += is_plain;
        const double want =
            is_plain ? -77 : weight_scale_[0] * weight(row_begin + i, col_begin + j);
        is_right &= std::fabs(got - want) <= 0.0042 * std::fabs(want) + 2e-5 * weight_scale_[0];
      }
    }
    CHECK(is_right);
    CHECK(num_plain > 0);
  }

  /// Route A: first what the rows' sums hold, 2, then the special pairs' gradient, in one launch
  /// or, with unfinished sums between, in two.
  void check_rows(bool is_first, bool in_two) {
    Buffer<Element> gradient(size_t(p_.c.n * p_.c.d));
    Buffer<uint16_t> low(size_t(p_.c.n * p_.c.d), 0);
    const uint16_t two = uint16_t(testing::bits_of(2.f) >> 16);
    for (auto& element : gradient) std::memcpy(static_cast<void*>(&element), &two, sizeof(two));
    GradientRowsArguments<Number> arguments{};
    fill(arguments);
    arguments.sums = GradientSums<Number>::of(gradient, low, 0, p_.c.d);
    for (int turn = in_two ? 0 : 1; turn < 2; ++turn) {
      arguments.turn = {is_first && turn == (in_two ? 0 : 1), turn == 1};
      CHECK(launch_special_rows<Number>(arguments, nullptr) == cudaSuccess);
      synchronise();
    }
    const double before = is_first ? 0 : 2 / double(weight_scale_[0]);
    check_gradient(gradient, before, in_two ? 2 : 1);
  }

 private:
  template <class Arguments>
  void fill(Arguments& arguments) {
    arguments.problem = p_.pairs;
    arguments.source = source_;
    arguments.row_vectors = of_rows_.get();
    arguments.col_vectors = p_.c.m == 0 ? of_rows_.get() : of_cols_.get();
    arguments.weight_scale = Number::kNeedsWeightScale ? weight_scale_.begin() : nullptr;
    arguments.plain = p_.plain;
  }

  /// Of a pair, or 0 where there is none.
  double weight(int64_t i, int64_t j) {
    if (!p_.exists(i, j)) return 0;
    const double z = p_.logit(i, j);
    const bool is_positive = p_.is_positive(i, j);
    Vectors& of_cols = p_.c.m == 0 ? of_rows_ : of_cols_;
    const double of_col = source_.cols_own ? of_cols.gradient(j, is_positive, z) : 0;
    return (of_rows_.gradient(i, is_positive, z) + of_col) * p_.slope(i, j);
  }

  void check_gradient(Buffer<Element>& gradient, double before, double times) {
    const size_t d = size_t(p_.c.d);
    bool is_right = true;
    for (int64_t i = 0; i < p_.c.n; ++i) {
      std::vector<double> sums(d, before), most(d, std::fabs(before));
      for (int64_t j = 0; j < p_.m; ++j) {
        if (p_.is_plain(i, j)) continue;
        const double w = times * weight(i, j);
        for (size_t k = 0; k < d; ++k) {
          const double term = w * p_.references().numbers[size_t(j) * d + k];
          sums[k] += term;
          most[k] += std::fabs(term);
        }
      }
      for (size_t k = 0; k < d; ++k) {
        const double got = Number::to_real(gradient[size_t(i) * d + k]);
        is_right &= std::fabs(got - sums[k]) <= 0.008 * most[k] + 1e-6;
      }
    }
    CHECK(is_right);
  }

  SpecialProblem<Number> p_;
  Vectors of_rows_, of_cols_;
  Buffer<float> weight_scale_;
  WeightSource source_{};
};

/// A square and its transpose are both plain, or neither is: the plain sweep of a self problem
/// visits one of them for both, the other one asks for each.
void check_symmetry(std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(1, 2);
  bool is_symmetric = true;
  for (int i = 0; i < 20000; ++i) {
    const float a = uniform(random), b = uniform(random);
    const float scale = kMostPlainExponent / (a * b);
    const RowRange first{0, 1, a}, second{2, 3, b};
    is_symmetric &= all_plain(first, second, scale) == all_plain(second, first, scale);
  }
  CHECK(is_symmetric);
}

void check_plan() {
  CHECK(special_plan(4096, 4096, 0, 4096).num_slots == kMostSpecialSlots);
  CHECK(special_plan(16384, 16384, 0, 16384).num_slots == 2);
  const SweepPlan last = special_plan(100'000, 70'000, 65536, 65536);
  CHECK(last.num_slots == 1 && last.num_blocks() == ceil_div(100'000 - 65536, 128));
}

void test_all(std::mt19937& random) {
  const auto as_it_is = [](auto&) {};
  check_symmetry(random);
  check_plan();
  // squares of a tile and of four; the rows in one launch and in several, with fewer slots
  check_sweep<Bf16>({650, 0, 24, 8, 7, 5, 0.5}, 0, 0, random, as_it_is);
  check_sweep<Bf16>({1040, 0, 8, 40, 8, 10, -3}, 512, 1, random, as_it_is);
  check_sweep<Fp16>({300, 520, 72, 100, 7, 3, 0}, 256, 2, random, as_it_is);
  // rows that are too large or not finite make whole rows and columns of squares special
  for (const float value : {100.f, INFINITY, NAN}) {
    check_sweep<Bf16>({520, 0, 16, 4, 7, 4, 0}, 0, 0, random, [&](Side<Bf16>& anchors) {
      anchors.embeddings[130 * 16 + 3] = Bf16::to_element(value);
    });
  }
  // panels on and above the diagonal, and behind the last pair
  GradientTest<Bf16> self({700, 0, 40, 8, 8, 4, 0.5}, true, random);
  self.check_panel(0, 0, 512, 512);
  self.check_panel(256, 0, 512, 256);
  GradientTest<Fp16> two({300, 600, 16, 32, 8, 6, 0}, false, random);
  two.check_panel(0, 256, 512, 512);
  GradientTest<Bf16> narrow({400, 0, 40, 8, 7, 4, 0.5}, true, random);
  narrow.check_rows(true, false);
  narrow.check_rows(false, true);
  GradientTest<Fp16> wide({300, 300, 72, 30, 7, 5, 0}, false, random);
  wide.check_rows(false, false);
}

}  // namespace
}  // namespace fusedml

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 3, fusedml::test_all);
}
