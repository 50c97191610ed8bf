// Every primitive against a plain loop: emulated under several schedules, or on a GPU.
#include <cmath>

#include "check.h"
#include "golden.h"
#include "unit_kernels.cuh"

namespace fusedml {
namespace {

using testing::bits_of;
using testing::Buffer;
using testing::float_of;
using testing::golden;
using testing::run;

/// Tensor cores truncate sums of magnitude 16 at 2^-24 of it, up to 17 times.
constexpr double kMmaTolerance = 2e-5;

float to_float(uint16_t bits, bool is_bfloat16) {
  return is_bfloat16 ? __bfloat162float(__ushort_as_bfloat16(bits))
                     : __half2float(__ushort_as_half(bits));
}

uint16_t to_16_bit(float value, bool is_bfloat16) {
  return is_bfloat16 ? __bfloat16_as_ushort(__float2bfloat16(value))
                     : __half_as_ushort(__float2half(value));
}

template <int kBytes>
void test_cp_async(std::mt19937& random) {
  constexpr int kThreads = 96;
  Buffer<unsigned char> in(kThreads * kBytes), out(kThreads * kBytes);
  Buffer<int> source_bytes(kThreads);
  for (auto& byte : in) byte = static_cast<unsigned char>(random());
  for (auto& bytes : source_bytes) bytes = int(random() % (kBytes + 1));
  run(units::cp_async_kernel<kBytes>, 1, kThreads, kThreads * kBytes, in, source_bytes, out);
  for (int thread = 0; thread < kThreads; ++thread) {
    for (int i = 0; i < kBytes; ++i) {
      const int at = thread * kBytes + i;
      CHECK(out[at] == (i < source_bytes[thread] ? in[at] : 0));
    }
  }
}

void test_cp_async_ring(std::mt19937& random) {
  for (const int num_tiles : {1, 2, 5}) {
    Buffer<float> in(num_tiles * 128), out(num_tiles * 128);
    for (auto& x : in) x = float(random() % 1000);
    run(units::cp_async_ring_kernel, 1, 128, 0, in, out, num_tiles);
    for (int i = 0; i < num_tiles * 128; ++i) CHECK(out[i] == in[i / 128 * 128 + 127 - i % 128]);
  }
}

template <int kMatrices, bool kTransposed>
void test_ldmatrix(std::mt19937& random) {
  Buffer<uint16_t> in(64 * kMatrices);
  Buffer<uint32_t> out(32 * kMatrices);
  for (auto& x : in) x = uint16_t(random());
  run(units::ldmatrix_kernel<kMatrices, kTransposed>, 1, 32, 0, in, out);
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    const auto element = [&](int row, int col) {
      return uint32_t(kTransposed ? in[64 * matrix + 8 * col + row]
                                  : in[64 * matrix + 8 * row + col]);
    };
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, col = 2 * (lane % 4);
      CHECK(out[matrix * 32 + lane] == (element(row, col) | element(row, col + 1) << 16));
    }
  }
}

/// Recorded operands of an mma, if there are some, and the accumulators at their start.
template <class T>
void take_operands(const char* name, Buffer<T>& a, Buffer<T>& b, Buffer<float>& start,
                   Buffer<float>& c) {
  golden.input(name, a);
  golden.input(name, b);
  golden.input(name, start);
  std::copy(start.begin(), start.end(), c.begin());
}

template <bool kBfloat16, bool kTransposed>
void test_mma_16_bit(std::mt19937& random) {
  std::normal_distribution<float> normal;
  Buffer<uint16_t> a(256), b(128);
  Buffer<float> c(128), start(128);
  for (auto& x : a) x = to_16_bit(normal(random), kBfloat16);
  for (auto& x : b) x = to_16_bit(normal(random), kBfloat16);
  for (auto& x : start) x = normal(random);
  const char* name = kBfloat16 ? "mma_bf16" : "mma_f16";
  take_operands(name, a, b, start, c);
  run(units::mma_16_bit_kernel<kBfloat16, kTransposed>, 1, 32, 768, a, b, c);
  golden.output(name, c, kMmaTolerance, 1);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      double sum = start[i * 8 + j];
      for (int k = 0; k < 16; ++k) {
        sum += double(to_float(a[i * 16 + k], kBfloat16)) *
               to_float(kTransposed ? b[k * 8 + j] : b[j * 16 + k], kBfloat16);
      }
      CHECK(std::fabs(sum - c[i * 8 + j]) < kMmaTolerance);
    }
  }
}

void test_mma_tf32(std::mt19937& random, bool rounds) {
  std::normal_distribution<float> normal;
  Buffer<float> a(128), b(64), c(128), start(128);
  for (auto& x : a) x = normal(random);
  for (auto& x : b) x = normal(random);
  for (auto& x : start) x = normal(random);
  const char* name = rounds ? "mma_tf32_rounded" : "mma_tf32";
  take_operands(name, a, b, start, c);
  run(units::mma_tf32_kernel, 1, 32, 0, a, b, c, int(rounds));
  golden.output(name, c, kMmaTolerance, 1);
  const auto operand = [&](float x) {
    const uint32_t truncated = bits_of(x) & 0xffffe000u;
    if (!rounds) return double(float_of(truncated));
    // ldexp's neighbours of 11 bits: the nearer one, away from zero in a tie
    int exponent;
    const double fraction = std::frexp(double(x), &exponent);
    return std::ldexp(std::round(std::ldexp(fraction, 11)), exponent - 11);
  };
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      double sum = start[i * 8 + j];
      for (int k = 0; k < 8; ++k) sum += operand(a[i * 8 + k]) * operand(b[k * 8 + j]);
      CHECK(std::fabs(sum - c[i * 8 + j]) < kMmaTolerance);
    }
  }
}

void test_mma_f64(std::mt19937& random) {
  std::normal_distribution<double> normal;
  Buffer<double> a(32), b(32), c(64), start(64);
  for (auto& x : a) x = normal(random);
  for (auto& x : b) x = normal(random);
  for (int i = 0; i < 64; ++i) c[i] = start[i] = normal(random);
  run(units::mma_f64_kernel, 1, 32, 0, a, b, c);
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) {
      double sum = start[i * 8 + j];
      for (int k = 0; k < 4; ++k) sum += a[i * 4 + k] * b[k * 8 + j];
      CHECK(std::fabs(sum - c[i * 8 + j]) < 1e-14);
    }
  }
}

#if defined(FUSEDML_EMULATION)
/// kTruncate rounds each half of k = 16 towards zero: 1 + 8 * 2^-27 stays 1, kNearest goes up.
void test_mma_rounding() {
  for (const bool truncates : {false, true}) {
    Buffer<uint16_t> a(256, to_16_bit(std::ldexp(1.0f, -14), true));
    Buffer<uint16_t> b(128, to_16_bit(std::ldexp(1.0f, -13), true));
    Buffer<float> c(128, 1.0f);
    emulation::config.mma_rounding =
        truncates ? emulation::MmaRounding::kTruncate : emulation::MmaRounding::kNearest;
    run(units::mma_16_bit_kernel<true, false>, 1, 32, 768, a, b, c);
    emulation::config.mma_rounding = emulation::MmaRounding::kNearest;
    for (const float x : c) CHECK(x == (truncates ? 1.0f : std::nextafterf(1.0f, 2.0f)));
  }
}

#endif

void test_scalars(std::mt19937& random) {
  constexpr int kCount = 200;
  std::normal_distribution<float> normal(0.0f, 20.0f);
  Buffer<float> in(kCount);
  Buffer<uint32_t> out(4 * kCount);
  for (auto& x : in) x = normal(random);
  const float special[] = {0.0f, INFINITY, -INFINITY, NAN, 1.0f, -130.0f, 1e-40f, 128.0f};
  std::copy(std::begin(special), std::end(special), in.begin());
  golden.input("scalars", in);
  run(units::scalar_kernel, dim3((kCount + 63) / 64), 64, 0, in, out, kCount);
  Buffer<float> values(4 * kCount);
  for (int i = 0; i < 4 * kCount; ++i) values[i] = float_of(out[i]);
  golden.output("scalars", values, 2.4e-7, 0);
  const auto close = [](float got, double want, double tolerance) {
    if (std::isnan(want)) return std::isnan(got);
    return double(got) == want || std::fabs(got - want) <= tolerance;
  };
  for (int i = 0; i < kCount; ++i) {
    const float x = in[i];
    const float tf32 = float_of(out[i]);
    CHECK(close(tf32, x, std::ldexp(std::fabs(x), -11)) || std::fabs(x) < 1e-38f);
    CHECK(!std::isfinite(x) || (out[i] & 0x1fff) == 0);
    const double power = std::exp2(double(x)) < std::ldexp(1.0, -126) ? 0.0 : std::exp2(double(x));
    const double limit = power > 3.4028235677973366e38 ? INFINITY : power;
    CHECK(close(float_of(out[kCount + i]), limit, limit * 2.4e-7));
    const double logarithm = std::log2(std::fabs(x) < 1.17549435e-38f ? 0.0 : double(x));
    CHECK(close(float_of(out[2 * kCount + i]), logarithm,
                2.4e-7 * std::max(1.0, std::fabs(logarithm))));
    const double root = 1 / std::sqrt(std::fabs(x) < 1.17549435e-38f ? 0.0 : double(x));
    CHECK(close(float_of(out[3 * kCount + i]), root, 2.4e-7 * root));
  }
}

template <class T>
void test_shuffles(std::mt19937& random) {
  for (int width = 2; width <= 32; width *= 2) {
    Buffer<T> in(32), out(128);
    for (auto& x : in) x = T(random() % 100) / T(2);
    run(units::shuffle_kernel<T>, 1, 32, 0, in, out, width);
    for (int lane = 0; lane < 32; ++lane) {
      const int first = lane / width * width, last = first + width - 1;
      CHECK(out[lane] == in[first + 7 * lane % width]);
      CHECK(out[32 + lane] == in[lane - 3 >= first ? lane - 3 : lane]);
      CHECK(out[64 + lane] == in[lane + 3 <= last ? lane + 3 : lane]);
      CHECK(out[96 + lane] == in[(lane ^ 5) <= last ? lane ^ 5 : lane]);
    }
  }
}

void test_votes(std::mt19937& random) {
  Buffer<int> in(32);
  Buffer<uint32_t> out(176);
  for (auto& x : in) x = int(random() % 40);
  uint32_t odd = 0, has_three = 0, sum = 0;
  for (int lane = 0; lane < 32; ++lane) {
    odd |= uint32_t(in[lane] & 1) << lane;
    has_three |= in[lane] == 3;
    sum += uint32_t(in[lane]);
  }
  run(units::vote_kernel, 1, 32, 0, in, out);
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t equal = 0;
    for (int other = 0; other < 32; ++other) {
      equal |= uint32_t(in[other] % 3 == in[lane] % 3) << other;
    }
    CHECK(out[lane] == odd);
    CHECK(out[32 + lane] == has_three);
    CHECK(out[64 + lane] == 1);
    CHECK(out[96 + lane] == equal);
    CHECK(out[128 + lane] == sum);
    if (lane < 16) CHECK(int(out[160 + lane]) == in[lane ^ 1]);
  }
}

void test_named_barriers(std::mt19937& random) {
  constexpr int kTiles = 9;
  Buffer<int> in(kTiles * 32), out(kTiles * 32);
  for (auto& x : in) x = int(random() % 1000);
  run(units::named_barrier_kernel, 1, 128, 0, in, out, kTiles);
  for (int i = 0; i < kTiles * 32; ++i) CHECK(out[i] == in[i] * (1 + 2 + 3));
}

void test_last_block(std::mt19937& random) {
  constexpr int kCount = 1000, kBlocks = 7;
  for ([[maybe_unused]] const int resident : {1, 3}) {
#if defined(FUSEDML_EMULATION)
    emulation::config.resident_blocks = resident;
#endif
    Buffer<float> x(kCount), parts(kBlocks), total(1);
    Buffer<unsigned> tickets(1);
    Buffer<int> largest(1);
    double sum = 0;
    for (auto& value : x) sum += value = float(random() % 17);
    run(units::last_block_kernel, kBlocks, 64, 0, x, kCount, parts, tickets, total, largest);
    CHECK(total[0] == sum);
    CHECK(largest[0] == kCount - 1);
  }
}

void test_all(std::mt19937& random) {
  test_cp_async<4>(random);
  test_cp_async<8>(random);
  test_cp_async<16>(random);
  test_cp_async_ring(random);
  test_ldmatrix<2, false>(random);
  test_ldmatrix<2, true>(random);
  test_ldmatrix<4, false>(random);
  test_ldmatrix<4, true>(random);
  test_mma_16_bit<false, false>(random);
  test_mma_16_bit<false, true>(random);
  test_mma_16_bit<true, false>(random);
  test_mma_16_bit<true, true>(random);
  test_mma_tf32(random, true);
  test_mma_tf32(random, false);
  test_mma_f64(random);
#if defined(FUSEDML_EMULATION)
  test_mma_rounding();
#endif
  test_scalars(random);
  test_shuffles<float>(random);
  test_shuffles<double>(random);
  test_shuffles<long long>(random);
  test_votes(random);
  test_named_barriers(random);
  test_last_block(random);
}

}  // namespace
}  // namespace fusedml

int main(int argc, char** argv) {
  fusedml::testing::golden.open(argc, argv);
  const int seeds = fusedml::testing::golden.is_open() ? 1 : 4;
  return fusedml::testing::run_over_seeds(argc, argv, seeds, fusedml::test_all);
}
