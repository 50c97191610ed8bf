// The backward on Hopper's instructions, both routes: the gradient of what the plain pairs give to
// the log-sum-exps, against plain loops in double.
#include "hopper/product_host.cuh"
#include "hopper/rows_host.cuh"
#include "hopper_problem.h"

namespace fusedml {
namespace {

using testing::Buffer;
using testing::Side;
using testing::Square;

/// A self problem, and a panel of it.
struct WeightsCase {
  int64_t n;
  int d, samples;  ///< of a class; labels are sorted
  double scale, shift;
  int64_t row_begin, col_begin, rows, cols;
};

template <class Number, class Tile>
class WeightsTest {
 public:
  using Element = typename Number::Element;
  static constexpr int kBits = testing::side_bits(Tile::kSquare);

  WeightsTest(const WeightsCase& c, std::mt19937& random)
      : c_(c),
        side_(c.n, c.d, c.samples, random),
        ranges_(size_t(num_squares(c.n, kBits))),
        lse_(size_t(c.n)),
        lse_grad_(size_t(c.n)),
        factors_(size_t(c.n)),
        pitch_(round_up(c.cols, int64_t(8)) + 8),
        panel_(size_t(c.rows * pitch_)) {
    side_.read();
    for (int64_t row = 0; row + Tile::kSquare <= c.n; row += Tile::kSquare)
      squares_.push_back(testing::square_of(side_, row, row + Tile::kSquare, c.d));
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (auto& g : lse_grad_) g = uniform(random);
    // of any pairs beside the plain ones: not less than the largest logit
    const float most = float(std::fabs(c.scale)) * 2 + float(c.shift);
    for (auto& lse : lse_) lse = most + 3 + uniform(random);
    lse_[size_t(c.row_begin)] = kNegativeInfinity;
    problem_.anchors.embeddings = MatrixView<Element>::of(side_.embeddings, c.n, c.d);
    problem_.anchors.labels = side_.labels;
    problem_.references = problem_.anchors;
    problem_.logit.value[2] = c.scale;
    problem_.logit.value[3] = c.shift;
  }

  void run(bool cols_own_losses, const float* weight_scale) {
    cols_own_losses_ = cols_own_losses;
    weight_scale_ = weight_scale;
    const FactorArguments factors{c_.n, lse_, lse_grad_, weight_scale, problem_.logit, factors_};
    CHECK(launch_row_ranges(problem_.anchors, kBits, ranges_, nullptr) == cudaSuccess);
    CHECK(launch_weight_factors(factors, nullptr) == cudaSuccess);
    clear_panel();
    CHECK(launch_hopper_weights<Number, Tile>(problem_, arguments(), nullptr) == cudaSuccess);
    synchronise();
    check_panel();
  }

  /// Feeds the gradient of the panel's rows, and checks that.
  void check_product() {
    Buffer<Element> gradient(size_t(c_.n * c_.d), Number::to_element(NAN));
    Buffer<uint16_t> low(size_t(c_.n * c_.d), 0xffff);
    constexpr ProductTurn kOnly{true, true};
    const HopperProductArguments<Number> arguments{
        c_.rows,       c_.cols,
        c_.row_begin,  c_.col_begin,
        kOnly,         kOnly,
        true,          false,
        weight_scale_, GradientSums<Number>::of(gradient, low, 0, c_.d)};
    const HopperProductOperands<Number> operands{panel_, pitch_, side_.embeddings,
                                                 side_.embeddings};
    CHECK(launch_hopper_product<Number, HopperProductTile<64, 3>>(arguments, operands, nullptr) ==
          cudaSuccess);
    synchronise();
    const double weight_scale = weight_scale_ ? double(*weight_scale_) : 1;
    for (int64_t i = 0; i < c_.rows; ++i) {
      for (int k = 0; k < c_.d; ++k) {
        double sum = 0, most = 0;
        for (int64_t j = 0; j < c_.cols; ++j) {
          const double term = weight(i, j) * side_.numbers[size_t((c_.col_begin + j) * c_.d + k)];
          sum += term;
          most += std::fabs(term);
        }
        const double got = Number::to_real(gradient[size_t((c_.row_begin + i) * c_.d + k)]);
        CHECK(std::fabs(got - sum / weight_scale) <= 0.006 * most / weight_scale + 1e-6);
      }
    }
  }

  /// The panels on and above the diagonal, of at most `side` lines, one after the other: each feeds
  /// its rows and, unless it is on the diagonal, its columns.  The whole gradient of all plain
  /// pairs.
  std::vector<Element> halved_gradient(int64_t side) {
    Buffer<Element> gradient(size_t(c_.n * c_.d), Number::to_element(NAN));
    Buffer<uint16_t> low(size_t(c_.n * c_.d), 0xffff);
    const int64_t count = ceil_div(c_.n, side);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = i; j < count; ++j) {
        c_.row_begin = i * side;
        c_.col_begin = j * side;
        c_.rows = std::min(side, c_.n - c_.row_begin);
        c_.cols = std::min(side, c_.n - c_.col_begin);
        clear_panel();
        CHECK(launch_hopper_weights<Number, Tile>(problem_, arguments(), nullptr) == cudaSuccess);
        // rows i are fed by the panels above the diagonal first, and by (i, count - 1) last
        const ProductTurn of_rows{i == 0 && j == 0, j == count - 1}, of_cols{i == 0, false};
        const HopperProductArguments<Number> product{
            c_.rows,      c_.cols,
            c_.row_begin, c_.col_begin,
            of_rows,      of_cols,
            true,         i != j,
            nullptr,      GradientSums<Number>::of(gradient, low, 0, c_.d)};
        const HopperProductOperands<Number> operands{panel_, pitch_, side_.embeddings,
                                                     side_.embeddings};
        CHECK(launch_hopper_product<Number, HopperProductTile<64, 3>>(product, operands, nullptr) ==
              cudaSuccess);
        synchronise();
      }
    }
    return {gradient.begin(), gradient.end()};
  }

  void check_halved(int64_t side) {
    const std::vector<Element> gradient = halved_gradient(side), again = halved_gradient(side);
    CHECK(std::memcmp(gradient.data(), again.data(), gradient.size() * sizeof(Element)) == 0);
    check_gradient(gradient.data());
  }

  /// Route A, whose blocks keep the gradient of their rows; added to 2 where it is not the first.
  void check_rows(bool is_first, bool cols_own_losses = true) {
    cols_own_losses_ = cols_own_losses;
    Buffer<Element> gradient(size_t(c_.n * c_.d), Number::to_element(NAN));
    Buffer<uint16_t> low(size_t(c_.n * c_.d), 0);
    if (!is_first) {
      const uint16_t two = uint16_t(testing::bits_of(2.f) >> 16);
      for (auto& element : gradient) std::memcpy(static_cast<void*>(&element), &two, sizeof(two));
    }
    HopperRowsArguments<Number> arguments{};
    arguments.logit = problem_.logit;
    arguments.squares = {ranges_, ranges_, c_.n, c_.n, kBits};
    arguments.row_factors = factors_;
    arguments.col_factors = cols_own_losses_ ? factors_.begin() : nullptr;
    arguments.turn = {is_first, true};
    arguments.weight_scale = weight_scale_;
    arguments.sums = GradientSums<Number>::of(gradient, low, 0, c_.d);
    CHECK(hopper_rows(problem_, arguments, nullptr) == cudaSuccess);
    synchronise();
    const double before = is_first ? 0 : weight_scale_ ? 2 / double(*weight_scale_) : 2;
    check_gradient(gradient.begin(), before);
  }

  void check_arguments() {
    HopperWeightsArguments<Number> wrong = arguments();
    wrong.row_begin += 8;
    CHECK(launch_hopper_weights<Number, Tile>(problem_, wrong, nullptr) == cudaErrorInvalidValue);
    wrong = arguments();
    wrong.cols -= 8;  // ends within a square
    CHECK(launch_hopper_weights<Number, Tile>(problem_, wrong, nullptr) == cudaErrorInvalidValue);
    wrong = arguments();
    wrong.pitch = wrong.cols - 8;
    CHECK(launch_hopper_weights<Number, Tile>(problem_, wrong, nullptr) == cudaErrorInvalidValue);
  }

 private:
  /// The whole gradient of all plain pairs, on top of `before`.
  void check_gradient(const Element* gradient, double before = 0) {
    bool is_right = true;
    for (int64_t i = 0; i < c_.n; ++i) {
      std::vector<double> sums(size_t(c_.d), before), most(size_t(c_.d), before);
      for (int64_t j = 0; j < c_.n; ++j) {
        if (!is_plain(i, j)) continue;
        const double logit = c_.scale * side_.product(i, side_, j, c_.d) + c_.shift;
        const double w = part_of(i, logit) + (cols_own_losses_ ? part_of(j, logit) : 0);
        for (int k = 0; k < c_.d; ++k) {
          const double term = w * side_.numbers[size_t(j * c_.d + k)];
          sums[size_t(k)] += term;
          most[size_t(k)] += std::fabs(term);
        }
      }
      for (int k = 0; k < c_.d; ++k) {
        const double got = Number::to_real(gradient[i * c_.d + k]);
        is_right &= std::fabs(got - sums[size_t(k)]) <= 0.006 * most[size_t(k)] + 1e-6;
      }
    }
    CHECK(is_right);
  }

  static void synchronise() {
#if !defined(FUSEDML_EMULATION)
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
#endif
  }

  /// What is not plain is left to others, and nobody else writes here.
  void clear_panel() { std::fill(panel_.begin(), panel_.end(), Number::to_element(0.f)); }

  HopperWeightsArguments<Number> arguments() {
    HopperWeightsArguments<Number> made{};
    made.logit = problem_.logit;
    made.squares = {ranges_, ranges_, c_.n, c_.n, kBits};
    made.row_factors = factors_;
    made.col_factors = cols_own_losses_ ? factors_.begin() : nullptr;
    made.row_begin = c_.row_begin;
    made.col_begin = c_.col_begin;
    made.rows = c_.rows;
    made.cols = c_.cols;
    made.pitch = pitch_;
    made.dim = c_.d;
    made.panel = panel_;
    return made;
  }

  bool is_plain(int64_t row, int64_t col) {
    const size_t i = size_t(row / Tile::kSquare), j = size_t(col / Tile::kSquare);
    const size_t count = squares_.size();
    return i < count && j < count && are_plain(squares_[i], squares_[j], c_.scale);
  }

  /// g_i scale exp(z - lse_i)
  double part_of(int64_t row, double logit) {
    const double lse = lse_[size_t(row)];
    return std::isinf(lse) ? 0 : lse_grad_[size_t(row)] * c_.scale * std::exp(logit - lse);
  }

  void check_panel() {
    const double weight_scale = weight_scale_ ? double(*weight_scale_) : 1;
    num_plain_ = 0;
    weights_.assign(size_t(c_.rows * c_.cols), 0);
    bool is_right = true;
    for (int64_t i = 0; i < c_.rows; i += Tile::kSquare) {
      for (int64_t j = 0; j < c_.cols; j += Tile::kSquare) {
        const bool plain = is_plain(c_.row_begin + i, c_.col_begin + j);
        num_plain_ += plain;
        for (int64_t row = i; row < std::min(c_.rows, i + Tile::kSquare); ++row)
          for (int64_t col = j; col < std::min(c_.cols, j + Tile::kSquare); ++col)
            is_right &= check_weight(row, col, plain, weight_scale);
      }
    }
    CHECK(is_right);
    CHECK(num_plain_ > 0);
  }

  bool check_weight(int64_t row, int64_t col, bool is_plain, double weight_scale) {
    const double got = Number::to_real(panel_[size_t(row * pitch_ + col)]);
    if (!is_plain) return got == 0;
    const int64_t i = c_.row_begin + row, j = c_.col_begin + col;
    const double logit = c_.scale * side_.product(i, side_, j, c_.d) + c_.shift;
    const double of_row = part_of(i, logit), of_col = cols_own_losses_ ? part_of(j, logit) : 0;
    const double want = weight_scale * (of_row + of_col);
    weights_[size_t(row * c_.cols + col)] = want;
    // a rounding to the panel's type, and what a difference of the two parts loses
    const double most = weight_scale * (std::fabs(of_row) + std::fabs(of_col));
    return std::fabs(got - want) <= 0.0041 * std::fabs(want) + 4e-6 * most + 6e-8;
  }

  double weight(int64_t row, int64_t col) const { return weights_[size_t(row * c_.cols + col)]; }

  WeightsCase c_;
  Side<Number> side_;
  Buffer<RowRange> ranges_;
  Buffer<float> lse_, lse_grad_, factors_;
  int64_t pitch_;
  Buffer<Element> panel_;
  PairProblem<Number> problem_{};
  bool cols_own_losses_ = true;
  const float* weight_scale_ = nullptr;
  std::vector<Square> squares_;  ///< those of which all rows exist
  std::vector<double> weights_;
  int num_plain_ = 0;
};

void test_all(std::mt19937& random) {
  using SmallTile = HopperSweepTile<64, 3>;
#if defined(FUSEDML_EMULATION)
  using emulation::AsyncTiming;
  const AsyncTiming timings[] = {AsyncTiming::kLate, AsyncTiming::kEarly, AsyncTiming::kRandom};
  emulation::config.async_timing = timings[emulation::config.seed % 3];
  emulation::config.resident_blocks = 2;
#endif
  Buffer<float> scale(1, 64.f);
  // a panel above the diagonal, one up to the problem's end, one slice and more than there are
  // stages
  WeightsTest<Bf16, SmallTile> above({520, 72, 8, 4, 0.5, 0, 256, 256, 128}, random);
  above.run(true, nullptr);
  above.check_product();
  above.check_rows(true);
  above.check_arguments();
  // panels of 256 lines, of which the last ones have 5 more than a square
  WeightsTest<Bf16, SmallTile> halved({645, 40, 4, 4, 0.5, 0, 0, 256, 256}, random);
  halved.run(true, nullptr);
  halved.check_halved(256);
  halved.check_rows(/*is_first=*/false, /*cols_own_losses=*/false);
  WeightsTest<Fp16, SmallTile> last({456, 64, 16, -3, 0, 128, 0, 328, 456}, random);
  last.run(true, scale);
  last.check_product();
  last.check_rows(true);
  WeightsTest<Bf16, SmallTile> deep({384, 264, 4, 10, 0, 0, 128, 128, 256}, random);
  deep.run(false, nullptr);
  WeightsTest<Bf16, LargeSweepTile> large({512, 128, 32, 2, 0, 0, 256, 256, 256}, random);
  large.run(true, nullptr);
}

}  // namespace
}  // namespace fusedml

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 3, fusedml::test_all);
}
