// The product of a panel of weights and embeddings on Hopper's instructions, against plain loops.
// Small integers: the sums are exact, so the results are equal to the bit.
#include "check.h"
#include "hopper/product_host.cuh"

namespace fusedml {
namespace {

using testing::Buffer;

/// A panel of a larger self problem, as one launch sees it.
struct Sizes {
  int64_t rows, cols, row_begin, col_begin;
  int dims;
};

template <class Number>
class ProductCase {
 public:
  using Element = typename Number::Element;

  ProductCase(const Sizes& sizes, std::mt19937& random)
      : sizes_(sizes),
        n_(std::max(sizes.row_begin + sizes.rows, sizes.col_begin + sizes.cols) + 70),
        pitch_(round_up(sizes.cols, int64_t(8)) + 8),
        weights_(size_t(sizes.rows * pitch_)),
        embeddings_(size_t(n_ * sizes.dims)),
        gradient_(size_t(n_ * sizes.dims)),
        low_(size_t(n_ * sizes.dims)),
        sums_(size_t(n_ * sizes.dims)) {
    for (auto& w : weights_) w = Number::to_element(float(int(random() % 9) - 4));
    for (auto& e : embeddings_) e = Number::to_element(float(int(random() % 9) - 4));
    for (size_t i = 0; i < sums_.size(); ++i) {
      sums_[i] = float(int(random() % 2001) - 1000);
      const uint32_t bits = testing::bits_of(sums_[i]);
      const uint16_t high = uint16_t(bits >> 16);
      std::memcpy(static_cast<void*>(&gradient_[i]), &high, sizeof(high));
      low_[i] = uint16_t(bits);
    }
  }

  HopperProductArguments<Number> arguments(bool feeds_cols, ProductTurn turn) {
    return {sizes_.rows,
            sizes_.cols,
            sizes_.row_begin,
            sizes_.col_begin,
            turn,
            turn,
            true,
            feeds_cols,
            nullptr,
            GradientSums<Number>::of(gradient_, low_, 0, sizes_.dims)};
  }
  HopperProductOperands<Number> operands() { return {weights_, pitch_, embeddings_, embeddings_}; }

  /// What is in the embeddings beyond the panel must not matter.
  void spoil_others() {
    for (int64_t row = 0; row < n_; ++row) {
      const bool is_row = row >= sizes_.row_begin && row < sizes_.row_begin + sizes_.rows;
      const bool is_col = row >= sizes_.col_begin && row < sizes_.col_begin + sizes_.cols;
      for (int k = 0; k < sizes_.dims && !is_row && !is_col; ++k)
        embeddings_[size_t(row * sizes_.dims + k)] = Number::to_element(NAN);
    }
  }

  /// Whether gradient and sums are right after one launch.
  bool is_right(bool feeds_cols, ProductTurn turn) {
    std::vector<float> expected(sums_);
    std::vector<bool> is_fed(size_t(n_), false);
    for (const bool of_cols : {false, true}) {
      if (of_cols && !feeds_cols) continue;
      for (int64_t line = 0; line < (of_cols ? sizes_.cols : sizes_.rows); ++line) {
        const int64_t row = line + (of_cols ? sizes_.col_begin : sizes_.row_begin);
        is_fed[size_t(row)] = true;
        for (int k = 0; k < sizes_.dims; ++k) {
          float& sum = expected[size_t(row * sizes_.dims + k)];
          sum = (turn.is_first ? 0.f : sum) + product(of_cols, line, k);
        }
      }
    }
    for (int64_t row = 0; row < n_; ++row) {
      const bool is_finished = turn.is_last && is_fed[size_t(row)];
      for (int k = 0; k < sizes_.dims; ++k) {
        const size_t i = size_t(row * sizes_.dims + k);
        if (!equals(i, expected[i], is_finished)) return false;
      }
    }
    return true;
  }

 private:
  float product(bool of_cols, int64_t line, int dim) {
    float sum = 0;
    for (int64_t other = 0; other < (of_cols ? sizes_.rows : sizes_.cols); ++other) {
      const int64_t weight = of_cols ? other * pitch_ + line : line * pitch_ + other;
      const int64_t row = other + (of_cols ? sizes_.row_begin : sizes_.col_begin);
      sum += Number::to_real(weights_[size_t(weight)]) *
             Number::to_real(embeddings_[size_t(row * sizes_.dims + dim)]);
    }
    return sum;
  }

  bool equals(size_t i, float expected, bool is_finished) {
    uint16_t high;
    std::memcpy(&high, &gradient_[i], sizeof(high));
    if (!is_finished) return testing::float_of(uint32_t(high) << 16 | low_[i]) == expected;
    const Element rounded = Number::to_element(expected);
    return std::memcmp(&rounded, &high, sizeof(high)) == 0;
  }

  Sizes sizes_;
  int64_t n_, pitch_;
  Buffer<Element> weights_, embeddings_, gradient_;
  Buffer<uint16_t> low_;
  std::vector<float> sums_;
};

template <class Number, class Tile>
void check_product(const Sizes& sizes, bool feeds_cols, ProductTurn turn, std::mt19937& random) {
  ProductCase<Number> c(sizes, random);
  c.spoil_others();
  CHECK(launch_hopper_product<Number, Tile>(c.arguments(feeds_cols, turn), c.operands(), nullptr) ==
        cudaSuccess);
#if !defined(FUSEDML_EMULATION)
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
#endif
  CHECK(c.is_right(feeds_cols, turn));
}

void test_arguments(std::mt19937& random) {
  constexpr ProductTurn kOnly{true, true};
  ProductCase<Bf16> odd_dims({16, 16, 0, 32, 12}, random);
  CHECK(hopper_product(odd_dims.arguments(false, kOnly), odd_dims.operands(), nullptr) ==
        cudaErrorInvalidValue);
  ProductCase<Bf16> odd_pitch({16, 12, 0, 32, 16}, random);
  HopperProductOperands<Bf16> odd = odd_pitch.operands();
  odd.pitch = 12;
  CHECK(hopper_product(odd_pitch.arguments(false, kOnly), odd, nullptr) == cudaErrorInvalidValue);
  ProductCase<Bf16> sound({16, 16, 0, 32, 16}, random);
  CHECK(hopper_product(sound.arguments(true, kOnly), sound.operands(), nullptr) == cudaSuccess);
  CHECK(sound.is_right(true, kOnly));
}

/// The widths of the design: whole waves of 132 blocks.
void test_widths() {
  CHECK(product_dims(8192, 128) == 128);
  CHECK(product_dims(8192, 256) == 128);
  CHECK(product_dims(8192, 512) == 256);
  CHECK(product_dims(8192, 768) == 192);
  CHECK(product_dims(8192, 1024) == 256);
}

void test_all(std::mt19937& random) {
  using SmallTile = HopperProductTile<64, 3>;
  constexpr ProductTurn kFirst{true, false}, kMiddle{false, false}, kLast{false, true};
  constexpr ProductTurn kOnly{true, true};
#if defined(FUSEDML_EMULATION)
  using emulation::AsyncTiming;
  const AsyncTiming timings[] = {AsyncTiming::kLate, AsyncTiming::kEarly, AsyncTiming::kRandom};
  emulation::config.async_timing = timings[emulation::config.seed % 3];
  emulation::config.resident_blocks = 2;
#endif
  // one slice and several, lines and dimensions on both sides of a tile's end
  check_product<Bf16, SmallTile>({40, 24, 0, 64, 8}, true, kOnly, random);
  check_product<Bf16, SmallTile>({129, 203, 8, 192, 72}, true, kMiddle, random);
  check_product<Fp16, SmallTile>({200, 264, 0, 200, 64}, false, kFirst, random);
  check_product<Fp16, SmallTile>({64, 320, 16, 80, 136}, true, kLast, random);
  check_product<Bf16, NarrowProductTile>({136, 72, 0, 144, 136}, true, kOnly, random);
  check_product<Fp16, MiddleProductTile>({72, 136, 0, 72, 200}, true, kMiddle, random);
  check_product<Bf16, WideProductTile>({72, 72, 0, 72, 264}, true, kLast, random);
  test_arguments(random);
  test_widths();
}

}  // namespace
}  // namespace fusedml

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 3, fusedml::test_all);
}
