// Hopper's primitives against plain loops, and each rule of their use broken once.  All numbers are
// small integers: a GPU, the emulator and plain loops agree to the bit.
#include <cmath>

#include "check.h"
#include "hopper_kernels.cuh"
#include "hopper_ring.cuh"
#include "kernels/tensor_map.h"

namespace fusedml {
namespace {

using testing::Buffer;
using testing::contains;
using testing::run;
using units::HopperMistake;
using units::RingMistake;

uint16_t to_16_bit(float x, bool is_fp16) {
  uint16_t bits;
  if (is_fp16) {
    const __half half = __float2half(x);
    std::memcpy(&bits, &half, sizeof(bits));
  } else {
    const __nv_bfloat16 bfloat = __float2bfloat16(x);
    std::memcpy(&bits, &bfloat, sizeof(bits));
  }
  return bits;
}

/// A row-major matrix of integers from -8 to 8, as numbers and as 16-bit elements.
struct Matrix {
  Matrix(int rows, int cols, std::mt19937& random, bool is_fp16 = false)
      : rows(rows), cols(cols), values(size_t(rows) * cols), elements(size_t(rows) * cols) {
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = float(int(random() % 17) - 8);
      elements[i] = to_16_bit(values[i], is_fp16);
    }
  }
  float at(int row, int col) const { return values[size_t(row) * cols + col]; }
  TensorMap map(int box_rows) {
    TensorMap made;
    CHECK(make_tensor_map(made, SixteenBitType::kBf16, elements.begin(), rows, cols, box_rows) ==
          cudaSuccess);
    return made;
  }

  int rows, cols;
  std::vector<float> values;
  Buffer<uint16_t> elements;
};

// --- copies ---

/// Where an element of a box lies, from the table of the design: chunks of 16 bytes, xor the row.
int place_of(int row, int col) { return row * 64 + (col / 8 ^ row % 8) * 8 + col % 8; }

void test_box(std::mt19937& random, int box_rows, int row, int col, bool announces_late) {
  Matrix matrix(100, 72, random);
  Buffer<uint16_t> out(size_t(box_rows) * kBoxCols);
  run(units::box_kernel, 1, 128, box_rows * kBoxRowBytes, matrix.map(box_rows), out, box_rows, row,
      col, int(announces_late));
  for (int r = 0; r < box_rows; ++r) {
    for (int c = 0; c < kBoxCols; ++c) {
      const bool exists = row + r < matrix.rows && col + c < matrix.cols;
      CHECK(out[place_of(r, c)] ==
            (exists ? matrix.elements[size_t(row + r) * matrix.cols + col + c] : 0));
    }
  }
}

void test_maps(std::mt19937& random) {
  Matrix matrix(16, 200, random);
  TensorMap map;
  const auto make = [&](const void* data, int64_t rows, int64_t cols, int box_rows) {
    return make_tensor_map(map, SixteenBitType::kFp16, data, rows, cols, box_rows);
  };
  CHECK(make(matrix.elements.begin(), 16, 200, 64) == cudaSuccess);
  CHECK(make(matrix.elements.begin(), 16, 100, 64) == cudaErrorInvalidValue);  // rows of 200 bytes
  CHECK(make(matrix.elements.begin() + 4, 15, 200, 64) == cudaErrorInvalidValue);
  CHECK(make(matrix.elements.begin(), 16, 200, 264) == cudaErrorInvalidValue);
  CHECK(make(matrix.elements.begin(), 16, 200, 12) == cudaErrorInvalidValue);
  CHECK(make(matrix.elements.begin(), 0, 200, 64) == cudaErrorInvalidValue);
}

// --- products ---

template <WgmmaType kType, Major kMajorOfA, Major kMajorOfB, int kCols>
void test_wgmma(std::mt19937& random, bool adds) {
  constexpr bool kIsFp16 = kType == WgmmaType::kFp16;
  constexpr bool kALines = kMajorOfA == Major::kLines, kBLines = kMajorOfB == Major::kLines;
  Matrix a(64, 64, random, kIsFp16);
  Matrix b(kBLines ? 64 : kCols, kBLines ? kCols : 64, random, kIsFp16);
  Buffer<float> out(64 * kCols, 3.0f);
  run(units::wgmma_kernel<kType, kMajorOfA, kMajorOfB, kCols>, 1, 128, (64 + kCols) * kBoxRowBytes,
      a.map(64), b.map(kBLines ? 64 : kCols), out, int(adds), HopperMistake::kNone);
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < kCols; ++j) {
      float sum = adds ? 3.0f : 0.0f;
      for (int k = 0; k < 64; ++k)
        sum += (kALines ? a.at(k, i) : a.at(i, k)) * (kBLines ? b.at(k, j) : b.at(j, k));
      CHECK(out[i * kCols + j] == sum);
    }
  }
}

template <WgmmaType kType, int kCols>
void test_wgmma_registers(std::mt19937& random) {
  constexpr bool kIsFp16 = kType == WgmmaType::kFp16;
  Matrix a(64, 64, random, kIsFp16), b(64, kCols, random, kIsFp16);
  Buffer<float> out(64 * kCols);
  run(units::wgmma_registers_kernel<kType, kCols>, 1, 128, kCols * kBoxRowBytes,
      reinterpret_cast<const uint32_t*>(a.elements.begin()), b.map(64), out, HopperMistake::kNone);
  const auto number = [&](uint16_t bits) {
    if (kIsFp16) {
      __half_raw raw;
      raw.x = bits;
      return double(__half2float(__half(raw)));
    }
    return double(testing::float_of(uint32_t(bits) << 16));
  };
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < kCols; ++j) {
      double sum = 0;
      for (int k = 0; k < 64; ++k) {
        const uint16_t bits = a.elements[i * 64 + k];
        sum += (number(bits) + number(uint16_t(bits + 1))) * b.at(k, j);
      }
      CHECK(std::fabs(out[i * kCols + j] - sum) <= 1e-6 * 64 * 64 * 8);
    }
  }
}

void test_proxy(std::mt19937& random) {
  Matrix a(64, 16, random);
  Buffer<float> out(64 * 64);
  run(units::proxy_kernel, 1, 128, 64 * kBoxRowBytes,
      reinterpret_cast<const uint4*>(a.elements.begin()), out, HopperMistake::kNone);
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < 64; ++j) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += a.at(i, k) * a.at(j, k);
      CHECK(out[i * 64 + j] == sum);
    }
  }
}

// --- the ring ---

template <bool kMayErr>
using Ring = units::RingBlock<kMayErr>;

/// Whether the kernel gives the right sums.
template <bool kMayErr>
bool ring_is_right(std::mt19937& random, int slices, int tiles, RingMistake mistake) {
  const int depth = 64 * slices - 24, rows = 128 * tiles;
  Matrix a(rows, depth, random), b(depth, 64, random);
  Buffer<float> product(size_t(rows) * 64), column_sums(size_t(tiles) * 64);
  run(units::ring_kernel<kMayErr>, 1, 384, Ring<kMayErr>::kStages * Ring<kMayErr>::kStageBytes,
      a.map(128), b.map(64), units::RingArguments{slices, tiles, product, column_sums, mistake});
  for (int tile = 0; tile < tiles; ++tile) {
    for (int j = 0; j < 64; ++j) {
      float total = 0;
      for (int i = tile * 128; i < tile * 128 + 128; ++i) {
        float sum = 0;
        for (int k = 0; k < depth; ++k) sum += a.at(i, k) * b.at(k, j);
        if (!(product[i * 64 + j] == sum)) return false;
        total += sum;
      }
      if (!(column_sums[tile * 64 + j] == total)) return false;
    }
  }
  return true;
}

void test_ring(std::mt19937& random) {
  const int sizes[][2] = {{1, 3}, {2, 2}, {5, 2}};
  for (const auto& [slices, tiles] : sizes)
    CHECK(ring_is_right<false>(random, slices, tiles, RingMistake::kNone));
}

#if defined(FUSEDML_EMULATION) && !defined(__SANITIZE_THREAD__)
constexpr const char* kWrongValues = "wrong values";
constexpr const char* kRightValues = "right values";

struct RingExpectation {
  RingMistake mistake;
  /// Parts of the fault, of which one must occur, or one of the above.  Which one may depend on the
  /// order of events; but late units find every mistake.
  std::vector<const char*> texts;
  int slices = 5, tiles = 2;
};

bool meets(const RingExpectation& expected, const std::string& outcome) {
  const bool is_late = emulation::config.async_timing == emulation::AsyncTiming::kLate;
  for (const char* text : expected.texts) {
    const bool is_no_fault = text == kRightValues && expected.mistake != RingMistake::kNone;
    if (contains(outcome, text) && !(is_late && is_no_fault)) return true;
  }
  return false;
}

void test_ring_mistakes(std::mt19937& random) {
  constexpr const char *kReads = "is still read by the wgmma", *kLanded = "has not landed in its";
  const RingExpectation expectations[] = {
      {RingMistake::kNone, {kRightValues}},
      {RingMistake::kReleasesBeforeWait, {kReads, kRightValues}},
      {RingMistake::kNeverWaitsForStage, {kLanded, kReads}},
      {RingMistake::kWrongParity, {kLanded, kReads, "deadlock"}},
      {RingMistake::kReadsSumsInFlight, {kWrongValues}},
      {RingMistake::kWritesSumsInFlight, {"has written sum 5 while it was in flight"}},
      {RingMistake::kNoFence, {"its group has no wgmma_fence"}},
      {RingMistake::kNoLastWait, {"was not waited for"}},
      {RingMistake::kNeverCommits, {"was never committed"}, 1, 1},
      {RingMistake::kOperandOfThread, {"have different operands"}},
      {RingMistake::kWarpSkipsProduct, {"has issued other products than another warp"}},
      {RingMistake::kShortStride, {"stride of 512 bytes"}},
      {RingMistake::kWrongAdvance, {kWrongValues}},
      {RingMistake::kWrongMajor, {"which is not in the first row of an atom"}},
      {RingMistake::kExpectsLess, {kLanded, "bytes more have landed"}},
      {RingMistake::kExpectsMore, {"lacks 0 of 1 arrivals and 8192 bytes"}},
      {RingMistake::kBoxTooFew, {"lacks 0 of 1 arrivals and 8192 bytes"}},
      {RingMistake::kEveryLaneArrives, {"before anyone has seen the end of", kReads}},
      {RingMistake::kTooFewArrivals, {kLanded, kReads, "first wait sees the end of phase 2"}},
      {RingMistake::kNoInitialisingFence, {"was initialised without fence_mbarrier_init"}},
      {RingMistake::kInitialisedTwice, {"is initialised twice"}},
      {RingMistake::kParityStays, {"a thread that has seen the end of phase 0", "deadlock"}},
      {RingMistake::kBoxOffAtom, {"is not 1024-byte aligned"}},
      {RingMistake::kTooManyRegisters, {"66560 registers for the warps that asked"}},
      {RingMistake::kOneStageTooMany, {"the block ends before the box", "nobody has waited for"}},
      {RingMistake::kLateSignal, {"deadlock"}},
  };
  for (const RingExpectation& expected : expectations) {
    bool is_right = false;
    std::string outcome = testing::fault_of([&] {
      is_right = ring_is_right<true>(random, expected.slices, expected.tiles, expected.mistake);
    });
    if (outcome.empty()) outcome = is_right ? kRightValues : kWrongValues;
    const bool is_noticed = meets(expected, outcome);
    CHECK(is_noticed);
    if (!is_noticed) {
      std::printf("  mistake %d, timing %d: got \"%s\", want \"%s\"\n", int(expected.mistake),
                  int(emulation::config.async_timing), outcome.c_str(), expected.texts[0]);
    }
  }
}

void test_other_mistakes(std::mt19937& random) {
  Matrix a(64, 64, random), b(64, 64, random), narrow(64, 16, random);
  Buffer<float> out(64 * 64);
  const auto kernel = units::wgmma_kernel<WgmmaType::kBf16, Major::kDepth, Major::kLines, 128>;
  Matrix wide(64, 128, random);
  Buffer<float> wide_out(64 * 128);
  const auto run_wide = [&](HopperMistake mistake) {
    run(kernel, 1, 128, 192 * kBoxRowBytes, a.map(64), wide.map(64), wide_out, 0, mistake);
  };
  CHECK(contains(testing::fault_of([&] { run_wide(HopperMistake::kLinesTooFar); }),
                 "are outside every array"));
  run_wide(HopperMistake::kNone);
  const float right = wide_out[100];
  run_wide(HopperMistake::kLinesTooNear);
  CHECK(wide_out[100] != right);
  CHECK(contains(testing::fault_of([&] {
                   run(units::wgmma_registers_kernel<WgmmaType::kBf16, 64>, 1, 128,
                       64 * kBoxRowBytes, reinterpret_cast<const uint32_t*>(a.elements.begin()),
                       b.map(64), out, HopperMistake::kPacksBeforeWait);
                 }),
                 "has written its registers of A while it was in flight"));
  CHECK(contains(testing::fault_of([&] {
                   run(units::proxy_kernel, 1, 128, 64 * kBoxRowBytes,
                       reinterpret_cast<const uint4*>(narrow.elements.begin()), out,
                       HopperMistake::kNoProxyFence);
                 }),
                 "without fence_proxy_async by the same thread"));
}
#endif

void test_primitives(std::mt19937& random) {
  constexpr Major kDepth = Major::kDepth, kLines = Major::kLines;
  constexpr WgmmaType kBf16 = WgmmaType::kBf16, kFp16 = WgmmaType::kFp16;
  test_box(random, 64, 0, 0, false);
  test_box(random, 8, 16, 64, true);
  test_box(random, 128, 40, 8, true);
  test_maps(random);
  test_wgmma<kBf16, kDepth, kDepth, 64>(random, false);
  test_wgmma<kBf16, kDepth, kDepth, 256>(random, true);
  test_wgmma<kFp16, kDepth, kLines, 128>(random, false);
  test_wgmma<kBf16, kDepth, kLines, 192>(random, true);
  test_wgmma<kBf16, kLines, kLines, 64>(random, false);
  test_wgmma<kFp16, kLines, kDepth, 64>(random, true);
  test_wgmma_registers<kBf16, 64>(random);
  test_wgmma_registers<kFp16, 128>(random);
  test_proxy(random);
  test_ring(random);
}

void test_all(std::mt19937& random) {
#if defined(FUSEDML_EMULATION)
  using emulation::AsyncTiming;
  // each seed has one timing of its own; the first ones are the extremes
  const AsyncTiming timings[] = {AsyncTiming::kLate, AsyncTiming::kEarly, AsyncTiming::kRandom};
  emulation::config.async_timing = timings[emulation::config.seed % 3];
  test_primitives(random);
#if !defined( \
    __SANITIZE_THREAD__)  // some of them are races, of which sanitizer_cases.cpp has its own
  test_ring_mistakes(random);
  test_other_mistakes(random);
#endif
#else
  test_primitives(random);
#endif
}

}  // namespace
}  // namespace fusedml

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 4, fusedml::test_all);
}
